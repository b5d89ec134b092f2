//@ error: E0277
//@ says: Disclosed
//@ says: From<SealedRecord>
use vault_core::journal::Disclosed;
use vault_core::record::SealedRecord;

fn needs<T: From<SealedRecord>>() {}

fn main() {
    needs::<Disclosed>();
}
