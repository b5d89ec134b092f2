//! Messages of a client: what the server's door makes of them. The first byte says which message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use vault_core::error::Error;
use vault_core::pan::holds_card_number;
use vault_core::time::Timestamp;
use vault_proto::v1;
use vault_server::wire;

/// The door's word on a message, if the bytes are one.
fn said<M: Message + Default, T>(bytes: &[u8], door: impl Fn(M) -> Result<T, Error>) -> Option<Error> {
    door(M::decode(bytes).ok()?).err()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let refused = match which % 18 {
        0 => said(bytes, wire::new_card),
        1 => said(bytes, |item: v1::DetokenizeItem| wire::detokenize(&item)),
        2 => said(bytes, |item: v1::InspectItem| wire::inspect(&item)),
        3 => said(bytes, |item: v1::RevokeItem| wire::revoke(&item)),
        4 => said(bytes, |header: v1::RequestHeader| wire::header(Some(header), Some(Timestamp(1)))),
        5 => said(bytes, |asked: v1::GetSealingKeyRequest| wire::sealing_place(&asked)),
        6 => said(bytes, |expiry: v1::CardExpiry| wire::expiry(expiry, "card_expiry")),
        7 => said(bytes, wire::disable),
        8 => said(bytes, wire::enable),
        9 => said(bytes, wire::upgrade),
        10 => said(bytes, wire::update),
        11 => said(bytes, wire::replace),
        12 => said(bytes, wire::translate),
        13 => said(bytes, wire::hold_code),
        14 => said(bytes, wire::read_code),
        15 => said(bytes, wire::complete),
        16 => said(bytes, wire::fingerprint),
        _ => said(bytes, wire::delete_card),
    };
    // A rule is told, and nothing of what broke it.
    if let Some(error) = refused {
        assert!(matches!(error, Error::Malformed { .. } | Error::Unimplemented { .. }), "{error}");
        assert!(!holds_card_number(&error.to_string()));
    }
});
