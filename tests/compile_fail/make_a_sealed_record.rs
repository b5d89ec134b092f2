//@ error: E0451
//@ says: SealedRecord
use vault_core::pan::MaskedPan;
use vault_core::record::{MerchantId, SealedRecord};
use vault_core::words::Ref;

fn forge(mask: MaskedPan, from: SealedRecord) -> SealedRecord {
    SealedRecord { merchant: MerchantId(1), record: Ref([0; 16]), mask, ..from }
}

fn main() {
    let _ = forge;
}
