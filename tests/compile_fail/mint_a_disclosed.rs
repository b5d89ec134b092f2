//@ error: E0451
//@ says: Disclosed
use vault_core::journal::Disclosed;
use vault_core::record::SealedRecord;

fn forge(sealed: SealedRecord) -> Disclosed {
    Disclosed { sealed, way: None }
}

fn main() {
    let _ = forge;
}
