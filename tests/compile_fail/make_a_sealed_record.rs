//@ error: E0451
//@ says: SealedRecord
use vault_core::mask::Mask;
use vault_core::record::{MerchantId, SealedRecord};
use vault_core::words::Ref;

fn forge(mask: Mask, from: SealedRecord) -> SealedRecord {
    SealedRecord { merchant: MerchantId(1), record: Ref([0; 16]), mask, ..from }
}

fn main() {
    let _ = forge;
}
