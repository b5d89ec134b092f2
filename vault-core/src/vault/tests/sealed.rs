//! Cards that come sealed, and cards that go out sealed.

use super::*;
use crate::sealed::{OVERLAP_DAYS, PERIOD_DAYS, SealedCard};
use crate::vault::{Brought, SealedNewCard, SealingKey};

fn key(desk: &Desk, channel: &str) -> SealingKey {
    let shop = principal("shop");
    let channel = self::channel(channel);
    block_on(desk.vault.sealing_key(Caller::Local(&shop), None, Some(&channel)))
        .unwrap_or_else(|e| panic!("{e}"))
}

fn sealed(key: &SealingKey, plain: &str) -> SealedNewCard {
    let sealed = key.public_key.seal(&key.info, plain.as_bytes()).unwrap();
    SealedNewCard::new(SealedCard { key: key.id, enc: sealed.enc.to_vec(), ciphertext: sealed.ciphertext })
}

fn visa(key: &SealingKey) -> SealedNewCard {
    sealed(key, &format!(r#"{{"v":1,"pan":"{VISA}","exp":"2027-12"}}"#))
}

impl Desk {
    fn bring(
        &self,
        channel: &str,
        header: &Header,
        cards: Vec<SealedNewCard>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        let header = Header { channel: Some(self::channel(channel)), ..header.clone() };
        let cards = cards.into_iter().map(Brought::Sealed).collect();
        block_on(self.vault.tokenize_brought(Caller::Local(&principal("shop")), &header, cards))
    }

    fn brought(&self, channel: &str, card: SealedNewCard) -> Result<Tokenized, Error> {
        self.bring(channel, &header(), vec![card])?.pop().unwrap()
    }
}

fn is_unreadable(answer: &Result<Tokenized, Error>) -> bool {
    matches!(answer, Err(Error::Malformed { field: "item.sealed", .. }))
}

#[test]
fn a_sealed_card_gets_the_token_that_the_card_in_the_clear_has() {
    let desk = Desk::new();
    let plain = desk.stored("web", VISA);
    let answer = desk.brought("web", visa(&key(&desk, "web"))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(answer.token.as_str(), plain.as_str());
    assert_eq!(answer.card_expiry, Some(CardExpiry::new(2027, 12).unwrap()));
    assert_eq!(desk.paid("web", &answer.token).as_deref(), Ok(VISA));
}

#[test]
fn a_sealed_card_opens_on_its_own_channel_and_in_its_own_time_and_session_alone() {
    let desk = Desk::new();
    let web = key(&desk, "web");
    assert!(is_unreadable(&desk.brought("app", visa(&web))));
    assert_eq!(last_refusal(&desk.vault), "malformed");
    // The right info with another key's number in the card.
    let mut other = visa(&web);
    other.card.key = crate::envelope::KeyId(web.id.0 + 1);
    assert!(is_unreadable(&desk.brought("web", other)));
    let mut cut = visa(&web);
    cut.card.ciphertext.pop();
    assert!(is_unreadable(&desk.brought("web", cut)));
    let mut long = visa(&web);
    long.card.ciphertext.resize(crate::sealed::MAX_SEALED + 1, 0);
    assert!(is_unreadable(&desk.brought("web", long)));

    let seconds = START.0 / 1_000;
    let until = |s: u64| sealed(&web, &format!(r#"{{"v":1,"pan":"{VISA}","not_after":{s}}}"#));
    assert!(desk.brought("web", until(seconds + 1)).is_ok());
    assert!(is_unreadable(&desk.brought("web", until(seconds - 1))));

    let bound = || sealed(&web, &format!(r#"{{"v":1,"pan":"{VISA}","session":"s-1"}}"#));
    assert!(is_unreadable(&desk.brought("web", bound())));
    let header = Header { context: Context::new("", "s-1", "").unwrap(), ..header() };
    assert!(desk.bring("web", &header, vec![bound()]).unwrap().pop().unwrap().is_ok());
}

#[test]
fn what_is_in_a_sealed_card_is_no_more_told_than_that_it_is_not_taken() {
    let desk = Desk::new();
    let web = key(&desk, "web");
    let told: Vec<String> =
        [r#"{"v":1,"pan":"4111111111111112"}"#, r#"{"v":1,"pan":"4111"}"#, r#"{"v":1}"#, ""]
            .into_iter()
            .map(|plain| desk.brought("web", sealed(&web, plain)).map(|_| ()).unwrap_err().to_string())
            .collect();
    let other = desk.brought("app", visa(&web)).map(|_| ()).unwrap_err().to_string();
    assert!(told.iter().all(|t| *t == other && !t.contains("4111")), "{told:?}");
}

#[test]
fn an_older_key_opens_until_its_overlap_ends_and_the_new_one_is_published_at_once() {
    let desk = Desk::new();
    let old = key(&desk, "web");
    let (new, _) =
        block_on(desk.vault.rotate_rcv(&principal("olga"), &MerchantName::parse("acme").unwrap(), None))
            .unwrap_or_else(|e| panic!("{e}"));
    let published = key(&desk, "web");
    assert!(published.id == new && published.public_key != old.public_key);
    assert_eq!(old.valid_until, START.plus_days(OVERLAP_DAYS));
    let desk = desk.reopened();
    for (at, opens) in [(0, true), (OVERLAP_DAYS - 1, true), (OVERLAP_DAYS, false)] {
        desk.clock.set(START.plus_days(at).plus_hours(1));
        assert_eq!(desk.brought("web", visa(&old)).is_ok(), opens, "day {at}");
        assert!(desk.brought("web", visa(&published)).is_ok());
    }
}

#[test]
fn the_vault_replaces_a_key_whose_period_is_over_by_itself() {
    let desk = Desk::new();
    let first = key(&desk, "web");
    desk.clock.set(START.plus_days(PERIOD_DAYS - 1));
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(0));
    assert_eq!(key(&desk, "web").id, first.id);
    desk.clock.set(START.plus_days(PERIOD_DAYS));
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(1));
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(0));
    assert_ne!(key(&desk, "web").id, first.id);
    assert!(desk.brought("web", visa(&first)).is_ok());
    let size = block_on(desk.vault.checkpoint()).unwrap().checkpoint().size;
    let entries = block_on(desk.vault.entries(0, usize::try_from(size).unwrap())).unwrap();
    assert!(
        entries
            .iter()
            .any(|(_, _, e)| e.line().contains(" vault -/- changed control") && e.line().contains("added"))
    );
}

#[test]
fn a_batch_answers_each_card_in_its_place_and_a_retry_gives_the_same_tokens() {
    let desk = Desk::new();
    let web = key(&desk, "web");
    let header = header();
    let batch = || {
        let mastercard = sealed(&web, &format!(r#"{{"v":1,"pan":"{MASTERCARD}"}}"#));
        vec![visa(&web), sealed(&web, "nonsense"), mastercard]
    };
    let first = desk.bring("web", &header, batch()).unwrap();
    let again = desk.bring("web", &header, batch()).unwrap();
    let tokens = |answers: Vec<Result<Tokenized, Error>>| -> Vec<Option<String>> {
        answers.into_iter().map(|a| a.ok().map(|t| t.token.as_str().to_owned())).collect()
    };
    let (first, again) = (tokens(first), tokens(again));
    assert_eq!(first, again);
    assert_eq!(first.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    // The same id with another card is another request.
    let other = sealed(&web, r#"{"v":1,"pan":"378282246310005"}"#);
    let mixed = desk.bring("web", &header, vec![other, sealed(&web, "nonsense"), visa(&web)]);
    assert_eq!(mixed.map(|_| ()), Err(Error::IdempotencyMismatch));
}

#[test]
fn sealed_cards_count_as_guesses_like_all_others() {
    let desk = Desk::new();
    let web = key(&desk, "web");
    let mut answers = Vec::new();
    for middle in 0..60_u32 {
        let digits = format!("411111{middle:06}1111");
        if luhn_valid(digits.as_bytes()) {
            let card = sealed(&web, &format!(r#"{{"v":1,"pan":"{digits}"}}"#));
            answers.push(desk.brought("web", card).map(|_| ()));
        }
    }
    let spent = answers.iter().position(|a| matches!(a, Err(Error::Budget { .. })));
    assert_eq!(spent, Some(5), "{answers:?}");
}

#[test]
fn the_key_is_for_who_may_tokenize_there() {
    let desk = Desk::new();
    let web = channel("web");
    let ask = |name: &str, merchant: Option<&MerchantName>, channel: Option<&ChannelName>| {
        block_on(desk.vault.sealing_key(Caller::Local(&principal(name)), merchant, channel)).map(|_| ())
    };
    let nobody = MerchantName::parse("nobody").unwrap();
    assert_eq!(ask("shop", None, Some(&web)), Ok(()));
    assert_eq!(ask("shop", Some(&nobody), Some(&web)), Err(Error::Denied));
    assert_eq!(ask("shop", None, Some(&channel("nowhere"))), Err(Error::Denied));
    assert_eq!(ask("gateway", None, Some(&web)), Err(Error::Denied));
    assert_eq!(last_refusal(&desk.vault), "action_not_allowed");
    assert_eq!(ask("stranger", None, Some(&web)), Err(Error::Denied));
}
