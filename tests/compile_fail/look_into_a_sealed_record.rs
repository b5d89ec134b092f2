//@ error: E0616
//@ says: SealedRecord
//@ says: private
use vault_core::record::SealedRecord;

fn look(sealed: &SealedRecord) {
    let _ = &sealed.seal;
}

fn main() {
    let _ = look;
}
