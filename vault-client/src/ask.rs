//! Requests in a line each. Every message is the contract's own, so whatever has no word here is a field away.
//!
//! Nothing is checked here: a field that breaks its rule is refused by the vault, by its path.

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::BesideToken;
use crate::v1::{
    AllChannels, CardExpiry, ChangeHeader, CompleteAuthorizationItem, DataKind, DeleteCardItem,
    DetokenizeItem, DetokenizeResult, DisableItem, EnableItem, FingerprintItem, HoldSecurityCodeItem,
    Initiator, InspectItem, NetworkToken, PaymentReference, PlainCard, PlainData, Purpose,
    ReadSecurityCodeItem, ReplaceItem, ReplaceReason, RequestHeader, RevealForm, RevokeItem, SealedCard,
    SecurityCode, TokenizeItem, TranslateItem, UpgradeItem, delete_card_item, detokenize_result,
    fingerprint_item, replace_item, revoke_item, tokenize_item,
};

/// A header with a new request id (UUID version 4). `merchant` and `channel` may be empty where the certificate is bound
/// to exactly one channel. Keep the header to send the same request again.
#[must_use]
pub fn header(merchant: &str, channel: &str, purpose: Purpose, initiator: Initiator) -> RequestHeader {
    RequestHeader {
        merchant: merchant.to_owned(),
        channel: channel.to_owned(),
        request_id: request_id(),
        purpose: purpose.into(),
        initiator: initiator.into(),
        context: None,
    }
}

/// The header of an operator's change, with a new request id. With an `expected_epoch` the change is made in that epoch
/// or not at all.
#[must_use]
pub fn change(expected_epoch: Option<u64>) -> ChangeHeader {
    ChangeHeader { request_id: request_id(), expected_epoch }
}

/// A new request id: a UUID version 4 in text, as streams need one for each message.
#[must_use]
pub fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// A card to tokenize in the channel's default format. `pan` is 12 to 19 ASCII digits, single spaces and hyphens between
/// groups allowed.
#[must_use]
pub fn card(mut pan: Zeroizing<Vec<u8>>, card_expiry: Option<CardExpiry>) -> TokenizeItem {
    let plain = PlainCard::new(std::mem::take(&mut *pan), card_expiry);
    TokenizeItem { card: Some(tokenize_item::Card::Plain(plain)), ..TokenizeItem::default() }
}

/// A card to tokenize in the channel's default format, sealed to the vault's key
/// ([`VaultClient::sealing_key`](crate::VaultClient::sealing_key)) by somebody else, and unread.
#[must_use]
pub fn sealed_card(card: SealedCard) -> TokenizeItem {
    TokenizeItem { card: Some(tokenize_item::Card::Sealed(card)), ..TokenizeItem::default() }
}

/// A token whose card is wanted sealed to a registered recipient, by its name in the policy.
#[must_use]
pub fn sealed_to(token: &str, recipient: &str) -> DetokenizeItem {
    DetokenizeItem { recipient: recipient.to_owned(), ..reveal(token, RevealForm::SealedToRecipient) }
}

/// Another value than a card, to tokenize in the channel's format for its kind. `routing_number` is of an account of the
/// United States, else empty.
#[must_use]
pub fn data(kind: DataKind, mut value: Zeroizing<Vec<u8>>, routing_number: &str) -> TokenizeItem {
    let data = PlainData::new(kind, std::mem::take(&mut *value), routing_number);
    TokenizeItem { card: Some(tokenize_item::Card::Data(data)), ..TokenizeItem::default() }
}

/// A network token to tokenize, with its own expiry and what stands beside it.
#[must_use]
pub fn network_token(
    mut number: Zeroizing<Vec<u8>>,
    expiry: CardExpiry,
    beside: BesideToken,
) -> TokenizeItem {
    let token = NetworkToken::new(std::mem::take(&mut *number), Some(expiry), beside);
    TokenizeItem { card: Some(tokenize_item::Card::NetworkToken(token)), ..TokenizeItem::default() }
}

/// A processor's reference to tokenize; the payment account reference may be empty.
#[must_use]
pub fn payment_reference(mut reference: Zeroizing<Vec<u8>>, payment_account_reference: &str) -> TokenizeItem {
    let reference = PaymentReference::new(std::mem::take(&mut *reference), payment_account_reference);
    TokenizeItem { card: Some(tokenize_item::Card::PaymentReference(reference)), ..TokenizeItem::default() }
}

/// A token whose card number or other value is wanted in the clear.
#[must_use]
pub fn plain(token: &str) -> DetokenizeItem {
    reveal(token, RevealForm::Plain)
}

/// A token whose card is wanted masked, as the rules allow.
#[must_use]
pub fn masked(token: &str) -> DetokenizeItem {
    reveal(token, RevealForm::Masked)
}

fn reveal(token: &str, form: RevealForm) -> DetokenizeItem {
    DetokenizeItem { token: token.to_owned(), form: form.into(), ..DetokenizeItem::default() }
}

/// A token to look at.
#[must_use]
pub fn look(token: &str) -> InspectItem {
    InspectItem { token: token.to_owned(), ..InspectItem::default() }
}

/// A token to end on all channels, for good.
#[must_use]
pub fn end(token: &str) -> RevokeItem {
    ended(token, revoke_item::Extent::AllChannels(AllChannels {}))
}

/// A token to end on one channel of the merchant.
#[must_use]
pub fn end_on(token: &str, channel: &str) -> RevokeItem {
    ended(token, revoke_item::Extent::Channel(channel.to_owned()))
}

fn ended(token: &str, extent: revoke_item::Extent) -> RevokeItem {
    RevokeItem { token: token.to_owned(), extent: Some(extent), ..RevokeItem::default() }
}

/// A vaultless token to turn into the current one.
#[must_use]
pub fn upgrade(token: &str) -> UpgradeItem {
    UpgradeItem { token: token.to_owned(), ..UpgradeItem::default() }
}

/// A token to stop for now.
#[must_use]
pub fn disable(token: &str) -> DisableItem {
    DisableItem { token: token.to_owned(), ..DisableItem::default() }
}

/// A disabled token that is to work again.
#[must_use]
pub fn enable(token: &str) -> EnableItem {
    EnableItem { token: token.to_owned(), ..EnableItem::default() }
}

/// A token whose card is replaced by this one, and why.
#[must_use]
pub fn replace(
    token: &str,
    mut pan: Zeroizing<Vec<u8>>,
    card_expiry: Option<CardExpiry>,
    reason: ReplaceReason,
) -> ReplaceItem {
    let plain = PlainCard::new(std::mem::take(&mut *pan), card_expiry);
    ReplaceItem {
        token: token.to_owned(),
        card: Some(replace_item::Card::Plain(plain)),
        reason: reason.into(),
        ..ReplaceItem::default()
    }
}

/// A card whose fingerprint is wanted.
#[must_use]
pub fn fingerprint(mut pan: Zeroizing<Vec<u8>>) -> FingerprintItem {
    let plain = PlainCard::new(std::mem::take(&mut *pan), None);
    FingerprintItem { card: Some(fingerprint_item::Card::Plain(plain)), ..FingerprintItem::default() }
}

/// A card whose tokens are to end.
#[must_use]
pub fn delete_card(mut pan: Zeroizing<Vec<u8>>) -> DeleteCardItem {
    let plain = PlainCard::new(std::mem::take(&mut *pan), None);
    DeleteCardItem { card: Some(delete_card_item::Card::Plain(plain)), ..DeleteCardItem::default() }
}

/// A token that is to have another one on this channel of the same merchant.
#[must_use]
pub fn translate(token: &str, channel: &str) -> TranslateItem {
    TranslateItem { token: token.to_owned(), channel: channel.to_owned(), ..TranslateItem::default() }
}

/// A token whose card's security code is to be held: 3 ASCII digits, of American Express 4.
#[must_use]
pub fn hold_code(token: &str, mut digits: Zeroizing<Vec<u8>>) -> HoldSecurityCodeItem {
    let code = SecurityCode::new(std::mem::take(&mut *digits));
    HoldSecurityCodeItem { token: token.to_owned(), code: Some(code), ..HoldSecurityCodeItem::default() }
}

/// A security code that is wanted.
#[must_use]
pub fn read_code(token: &str, ticket: &str) -> ReadSecurityCodeItem {
    let (token, ticket) = (token.to_owned(), ticket.to_owned());
    ReadSecurityCodeItem { token, ticket, ..ReadSecurityCodeItem::default() }
}

/// An authorization that is over.
#[must_use]
pub fn complete(token: &str, ticket: &str) -> CompleteAuthorizationItem {
    let (token, ticket) = (token.to_owned(), ticket.to_owned());
    CompleteAuthorizationItem { token, ticket, ..CompleteAuthorizationItem::default() }
}

/// Takes the card number out of an answer: digits in ASCII. `None`: the answer is masked, sealed to somebody else, or of
/// another kind of value.
#[must_use]
pub fn pan(disclosed: DetokenizeResult) -> Option<Zeroizing<Vec<u8>>> {
    use detokenize_result::Reveal;
    match disclosed.reveal? {
        Reveal::Plain(mut card) => Some(card.take_pan()),
        Reveal::SealedToRecipient(_)
        | Reveal::Masked(_)
        | Reveal::Data(_)
        | Reveal::NetworkToken(_)
        | Reveal::PaymentReference(_)
        | Reveal::MaskedData(_) => None,
    }
}

/// Takes another value than a card number out of an answer: of a network token its number, of a processor's reference
/// that, of all else the value. `None`: the answer is masked, sealed to somebody else, or a card.
#[must_use]
pub fn value(disclosed: DetokenizeResult) -> Option<Zeroizing<Vec<u8>>> {
    use detokenize_result::Reveal;
    match disclosed.reveal? {
        Reveal::Data(mut data) => Some(data.take_value()),
        Reveal::NetworkToken(mut token) => Some(token.take_number()),
        Reveal::PaymentReference(mut reference) => Some(reference.take_reference()),
        Reveal::Plain(_) | Reveal::SealedToRecipient(_) | Reveal::Masked(_) | Reveal::MaskedData(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::MaskedCard;

    #[test]
    fn no_two_headers_have_the_same_request_id() {
        let new = || header("acme", "web", Purpose::Capture, Initiator::Merchant).request_id;
        let ids = [new(), new(), change(None).request_id, request_id()];
        for (at, id) in ids.iter().enumerate() {
            assert_eq!((id.len(), Uuid::parse_str(id).unwrap().get_version_num()), (36, 4));
            assert!(!ids[..at].contains(id));
        }
    }

    #[test]
    fn a_card_number_goes_in_and_comes_out_whole_and_only_where_it_is_in_the_clear() {
        let Some(tokenize_item::Card::Plain(card)) =
            card(Zeroizing::new(b"4111111111111111".to_vec()), None).card
        else {
            panic!("a card in the clear");
        };
        let disclosed = |reveal| DetokenizeResult { reveal: Some(reveal), receipt: None };
        let shown = pan(disclosed(detokenize_result::Reveal::Plain(card)));
        assert_eq!(shown.unwrap().as_slice(), b"4111111111111111");
        assert!(pan(disclosed(detokenize_result::Reveal::Masked(MaskedCard::default()))).is_none());
        assert!(pan(DetokenizeResult::default()).is_none());
    }

    #[test]
    fn another_value_goes_in_and_comes_out_whole_and_never_as_a_card() {
        let secret = || Zeroizing::new(b"4895370012003478".to_vec());
        let expiry = CardExpiry { month: 12, year: 2030 };
        let sent = [
            data(DataKind::Digits, secret(), "").card,
            network_token(secret(), expiry, BesideToken::default()).card,
            payment_reference(secret(), "").card,
        ];
        for item in sent {
            let reveal = match item {
                Some(tokenize_item::Card::Data(data)) => detokenize_result::Reveal::Data(data),
                Some(tokenize_item::Card::NetworkToken(token)) => {
                    detokenize_result::Reveal::NetworkToken(token)
                }
                Some(tokenize_item::Card::PaymentReference(reference)) => {
                    detokenize_result::Reveal::PaymentReference(reference)
                }
                _ => panic!("a value"),
            };
            let answer = DetokenizeResult { reveal: Some(reveal), receipt: None };
            assert!(pan(answer.clone()).is_none());
            assert_eq!(value(answer).unwrap().as_slice(), secret().as_slice());
        }
        let card = PlainCard::new(secret().to_vec(), None);
        let card = DetokenizeResult { reveal: Some(detokenize_result::Reveal::Plain(card)), receipt: None };
        assert!(value(card).is_none() && value(DetokenizeResult::default()).is_none());
    }
}
