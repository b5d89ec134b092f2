//@ error: E0451
//@ says: SealedRecord
use vault_core::pan::MaskedPan;
use vault_core::record::{InnerSeal, MerchantId, SealedRecord};
use vault_core::words::Ref;

fn forge(mask: MaskedPan, inner: InnerSeal) -> SealedRecord {
    SealedRecord { merchant: MerchantId(1), record: Ref([0; 16]), mask, inner }
}

fn main() {
    let _ = forge;
}
