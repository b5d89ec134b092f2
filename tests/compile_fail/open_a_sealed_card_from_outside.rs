//@ error: E0624
//@ says: open_sealed
//@ says: private
use vault_core::keyring::Keyring;
use vault_core::name::ChannelName;
use vault_core::record::MerchantId;
use vault_core::sealed::SealedCard;
use vault_core::time::Timestamp;

fn open(keyring: &Keyring, channel: &ChannelName, card: &SealedCard) {
    let _ = keyring.open_sealed(MerchantId(1), channel, card, Timestamp(0));
}

fn main() {
    let _ = open;
}
