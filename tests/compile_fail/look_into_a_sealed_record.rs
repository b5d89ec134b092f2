//@ error: E0616
//@ says: SealedRecord
//@ says: private
use vault_core::record::SealedRecord;

fn look(sealed: &SealedRecord) -> usize {
    sealed.inner.pan.len()
}

fn main() {
    let _ = look;
}
