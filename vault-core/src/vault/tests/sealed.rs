//! Cards that come sealed, and cards that go out sealed.

use super::*;
use crate::audit::entry::Outlet;
use crate::hpke::PrivateKey;
use crate::name::RecipientName;
use crate::policy::{Asked, Policy};
use crate::sealed::{OVERLAP_DAYS, PERIOD_DAYS, SealedCard, info_out};
use crate::secret::Secret32;
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

/// A processor's key pair, drawn from one byte.
fn processor(byte: u8) -> PrivateKey {
    PrivateKey::derive(&Secret32::filled_by(|b| b.fill(byte)))
}

fn name(text: &str) -> RecipientName {
    RecipientName::parse(text).unwrap()
}

fn recipient(id: &str, byte: u8, rest: &str) -> String {
    let key = data_encoding::BASE64.encode(processor(byte).public_key().as_bytes());
    format!(
        "[[merchant.recipient]]\nid = \"{id}\"\nowner = \"Acquirer Inc., Payments\"\nkey = \"{key}\"\n\
         expires = \"2026-06-30\"\n{rest}\n"
    )
}

/// The gateway may pay on `web` in the clear, on `app` and `pos` sealed alone, and on `pos` to the bank alone.
fn policy() -> String {
    let recipients =
        [recipient("bank", 1, ""), recipient("fraud", 2, ""), recipient("old", 3, "replaced_by = \"bank\"")];
    let rules = r#"
    [[rule]]
    id = "clear-on-web"
    effect = "allow"
    merchant = "acme"
    channels = ["web"]
    principals = ["gateway"]
    actions = ["detokenize"]
    show = "full"
    [[rule]]
    id = "sealed-on-app"
    effect = "allow"
    merchant = "acme"
    channels = ["app"]
    principals = ["gateway"]
    actions = ["detokenize"]
    show = "full"
    [[rule]]
    id = "app-is-sealed"
    effect = "deny"
    merchant = "acme"
    channels = ["app"]
    actions = ["detokenize"]
    sealed_only = true
    [[rule]]
    id = "sealed-on-pos"
    effect = "allow"
    merchant = "acme"
    channels = ["pos"]
    principals = ["gateway"]
    actions = ["detokenize"]
    show = "full"
    sealed_only = true
    recipients = ["bank"]
    "#;
    let pays = POLICY.find("    [[rule]]\n    id = \"gateway-pays\"").unwrap();
    let rest = POLICY[pays..].find("    [[rule]]\n    id = \"import\"").unwrap();
    format!("{}{}{rules}{}", &POLICY[..pays], &POLICY[pays + rest..], recipients.concat())
}

impl Desk {
    fn given(
        &self,
        channel: &str,
        header: &Header,
        token: &Token,
        reveal: Reveal,
    ) -> Result<Revealed, Error> {
        let header = Header { channel: Some(self::channel(channel)), ..header.clone() };
        let gateway = principal("gateway");
        block_on(self.vault.detokenize(Caller::Local(&gateway), &header, token.copy(), reveal))
            .map(|answer| answer.revealed)
    }

    fn sent(&self, channel: &str, token: &Token, to: &str) -> Result<String, Error> {
        match self.given(channel, &header(), token, Reveal::SealedTo(name(to)))? {
            Revealed::Sealed { key_id, card } => {
                let (key, info) = (processor(1), info_out(&MerchantName::parse("acme").unwrap(), &name(to)));
                assert_eq!(key_id, key.public_key().id());
                let plain = key.open(&info, &card.enc, &card.ciphertext).unwrap();
                Ok(String::from_utf8(plain.to_vec()).unwrap().trim_end().to_owned())
            }
            Revealed::Plain(_) | Revealed::Masked(_) | Revealed::Other(_) => panic!("not sealed"),
        }
    }

    /// Asks for it as the server does that sends it on.
    fn forwarded(&self, channel: &str, header: &Header, token: &Token) -> Result<(), Error> {
        let outgoing = Outgoing { to: crate::name::DestinationName::parse("psp").unwrap(), request: [0; 32] };
        let header = Header { channel: Some(self::channel(channel)), ..header.clone() };
        let (gateway, tokens) = (principal("gateway"), vec![token.copy()]);
        let sent = self.vault.detokenize_for(Caller::Local(&gateway), &header, &outgoing, tokens);
        block_on(sent).map(|_| ())
    }

    fn last_line(&self) -> String {
        let size = block_on(self.vault.checkpoint()).unwrap().checkpoint().size;
        let (_, _, entry) = block_on(self.vault.entries(size - 1, 1)).unwrap().pop().unwrap();
        entry.line()
    }
}

#[test]
fn a_card_goes_out_sealed_to_a_registered_recipient_and_the_log_names_it() {
    let desk = Desk::with(&policy());
    let card = NewCard { card_expiry: Some(CardExpiry::new(2027, 12).unwrap()), ..card(VISA) };
    let token = desk.tokenize("web", &header(), card).unwrap_or_else(|e| panic!("{e}")).token;
    for channel in ["web", "app"] {
        let plain = desk.sent(channel, &token, "bank");
        assert_eq!(plain.as_deref(), Ok(r#"{"v":1,"pan":"4111111111111111","exp":"2027-12"}"#));
        assert!(
            desk.last_line().ends_with(" to recipient bank for authorization by cardholder"),
            "{}",
            desk.last_line()
        );
    }
    // The same request again is the same disclosure again, to another recipient it is another request.
    let header = header();
    let ask = |to: &str| desk.given("web", &header, &token, Reveal::SealedTo(name(to))).map(|_| ());
    assert_eq!(ask("bank"), Ok(()));
    assert_eq!(ask("bank"), Ok(()));
    assert!(
        desk.last_line().contains("to recipient bank") && desk.last_line().contains("again"),
        "{}",
        desk.last_line()
    );
    assert_eq!(ask("fraud"), Err(Error::IdempotencyMismatch));
}

#[test]
fn unregistered_expired_and_replaced_recipients_get_nothing_and_it_is_told_before_any_look_up() {
    let desk = Desk::with(&policy());
    let token = desk.stored("web", VISA);
    let unknown = Token::parse("4111110000001112")
        .or(Token::parse("4111110000001113"))
        .unwrap_or_else(|e| panic!("{e}"));
    let refused = |to: &str, token: &Token| {
        let told = desk.sent("web", token, to);
        assert_eq!(told, Err(Error::Denied), "{to}");
        assert_eq!(last_refusal(&desk.vault), "outlet_not_allowed");
    };
    for token in [&token, &unknown] {
        refused("nobody", token);
        refused("old", token);
    }
    // The last moment of its day, and the first after it.
    let end = Timestamp::of_day("2026-07-01").unwrap();
    desk.clock.set(Timestamp(end.0 - 1));
    assert!(desk.sent("web", &token, "bank").is_ok());
    desk.clock.set(end);
    for token in [&token, &unknown] {
        refused("bank", token);
    }
}

#[test]
fn a_channel_that_demands_sealed_cards_gives_none_in_the_clear() {
    let desk = Desk::with(&policy());
    let token = desk.stored("web", VISA);
    let clear = |channel: &str| desk.given(channel, &header(), &token, Reveal::Plain).map(|_| ());
    let masked = |channel: &str| desk.given(channel, &header(), &token, Reveal::Masked).map(|_| ());
    assert_eq!((clear("web"), masked("web")), (Ok(()), Ok(())));
    assert_eq!((clear("app"), masked("app")), (Err(Error::Denied), Ok(())));
    assert!(desk.sent("app", &token, "bank").is_ok());

    let till = desk.tokenize("pos", &header(), card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    let header = header();
    assert_eq!(desk.given("pos", &header, &till, Reveal::Plain).map(|_| ()), Err(Error::Denied));
    assert!(desk.sent("pos", &till, "bank").is_ok());
    assert_eq!(desk.sent("pos", &till, "fraud"), Err(Error::Denied));
    // No rule names a destination.
    assert_eq!(desk.forwarded("web", &header, &token), Err(Error::Denied));
}

/// A rule for `purposes` on the app channel, in the place of the one for all.
fn narrowed_to(purposes: &str) -> String {
    let wide = "    principals = [\"gateway\"]\n    actions = [\"detokenize\"]\n    show = \"full\"\n    [[rule]]\n    id = \"app-is-sealed\"";
    assert!(policy().contains(wide));
    policy().replacen(
        wide,
        &wide.replacen(
            "show",
            &format!("purposes = [{purposes}]\n    destinations = [\"psp\"]\n    show"),
            1,
        ),
        1,
    )
}

#[test]
fn to_leave_with_the_cards_is_a_right_of_its_own_and_never_in_the_clear() {
    let export = || Header { purpose: Purpose::Export, ..header() };
    let sealed = || Reveal::SealedTo(name("bank"));
    // A rule that names no purpose is for all of them but this one, whatever the token.
    let desk = Desk::with(&policy());
    let token = desk.stored("web", VISA);
    let unknown = Token::parse("4111110000001112")
        .or(Token::parse("4111110000001113"))
        .unwrap_or_else(|e| panic!("{e}"));
    for channel in ["web", "app"] {
        assert!(desk.given(channel, &header(), &token, sealed()).is_ok());
        for token in [&token, &unknown] {
            let refused = |told: Result<(), Error>| {
                assert_eq!(told, Err(Error::Denied), "{channel}");
                assert_eq!(last_refusal(&desk.vault), "wrong_purpose");
            };
            for reveal in [sealed(), Reveal::Plain, Reveal::Masked] {
                refused(desk.given(channel, &export(), token, reveal).map(|_| ()));
            }
            refused(desk.forwarded(channel, &export(), token));
        }
    }
    // One that names it gives it, sealed to a recipient alone, and gives no other purpose.
    let desk = Desk::with(&narrowed_to("\"export\""));
    let token = desk.stored("web", VISA);
    assert!(desk.given("app", &export(), &token, sealed()).is_ok());
    assert!(desk.last_line().contains(" to recipient bank for export "), "{}", desk.last_line());
    assert!(desk.given("app", &export(), &token, Reveal::Masked).is_ok());
    assert_eq!(desk.given("app", &export(), &token, Reveal::Plain).map(|_| ()), Err(Error::Denied));
    assert_eq!(last_refusal(&desk.vault), "outlet_not_allowed");
    assert_eq!(desk.forwarded("app", &export(), &token), Err(Error::Denied));
    assert_eq!(last_refusal(&desk.vault), "outlet_not_allowed");
    assert_eq!(desk.given("app", &header(), &token, sealed()).map(|_| ()), Err(Error::NotFound));
    assert_eq!(last_refusal(&desk.vault), "wrong_purpose");
    // A token for one use is for a payment: it neither leaves nor is used up by that.
    let restrictions = crate::restrictions::Restrictions { single_use: true, ..Default::default() };
    let once = desk.tokenize("app", &header(), NewCard { restrictions, ..card(MASTERCARD) });
    let once = once.unwrap_or_else(|e| panic!("{e}")).token;
    assert_eq!(desk.given("app", &export(), &once, sealed()).map(|_| ()), Err(Error::NotFound));
    assert_eq!(last_refusal(&desk.vault), "wrong_purpose");
    // Nor is it in the clear where no rule demands sealed cards.
    let desk = Desk::with(&policy().replacen(
        "actions = [\"detokenize\"]",
        "actions = [\"detokenize\"]\n    purposes = [\"authorization\", \"export\"]",
        1,
    ));
    let token = desk.stored("web", VISA);
    assert!(desk.given("web", &header(), &token, Reveal::Plain).is_ok());
    assert!(desk.given("web", &export(), &token, sealed()).is_ok());
    assert_eq!(desk.given("web", &export(), &token, Reveal::Plain).map(|_| ()), Err(Error::Denied));
    // A deny without purposes is for this one, too.
    let denied = narrowed_to("\"export\"").replacen("    sealed_only = true\n", "", 1);
    let desk = Desk::with(&denied);
    let token = desk.stored("web", VISA);
    assert_eq!(desk.given("app", &export(), &token, sealed()).map(|_| ()), Err(Error::Denied));
    assert_eq!(last_refusal(&desk.vault), "denied_by_rule");
}

#[test]
fn a_policy_whose_recipients_or_rules_cannot_be_meant_is_refused() {
    let good = policy();
    assert!(Policy::from_toml(&good).is_ok());
    let zero = data_encoding::BASE64.encode(&[0; 32]);
    let other = data_encoding::BASE64.encode(processor(2).public_key().as_bytes());
    let bank = data_encoding::BASE64.encode(processor(1).public_key().as_bytes());
    for (from, to, says) in [
        ("owner = \"Acquirer Inc., Payments\"", "owner = \"\"", "owner must"),
        ("owner = \"Acquirer Inc., Payments\"", "owner = \"4111111111111111\"", "owner must"),
        (bank.as_str(), zero.as_str(), "key must"),
        (bank.as_str(), "AAAA", "key must"),
        (bank.as_str(), other.as_str(), "is there twice"),
        ("2026-06-30", "2026-06-31", "expires must"),
        ("replaced_by = \"bank\"", "replaced_by = \"old\"", "replaced_by must"),
        ("replaced_by = \"bank\"", "replaced_by = \"none\"", "replaced_by must"),
        ("id = \"fraud\"", "id = \"bank\"", "is there twice"),
        ("recipients = [\"bank\"]", "recipients = [\"none\"]", "has no recipient"),
        ("show = \"full\"\n    sealed_only", "show = \"masked\"\n    sealed_only", "go with show"),
        (
            "actions = [\"detokenize\"]\n    sealed_only",
            "actions = [\"detokenize\", \"inspect\"]\n    sealed_only",
            "a deny rule with",
        ),
        (
            "id = \"app-is-sealed\"",
            "id = \"app-is-sealed\"\n    destinations = [\"psp\"]",
            "names no recipients",
        ),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let told = Policy::from_toml(&bad).map(|_| ()).unwrap_err().to_string();
        assert!(told.contains(says), "{to}: {told}");
        assert!(!told.contains("4111111111111111"));
    }
    // As it is shown it is taken again, and a change of a recipient is a row of its own.
    let policy = Policy::from_toml(&good).unwrap();
    assert_eq!(Policy::from_toml(&policy.to_toml().unwrap()).unwrap(), policy);
    let desk = Desk::with(&good);
    let changed = Policy::from_toml(&good.replacen("2026-06-30", "2027-06-30", 1)).unwrap();
    let diff = desk.vault.policy_diff(&changed).unwrap_or_else(|e| panic!("{e}"));
    let rows: Vec<_> = diff.iter().map(|c| (c.path.as_str(), c.widens)).collect();
    assert_eq!(rows, [("recipient.acme/bank", true)]);
}

#[test]
fn what_the_policy_would_say_of_a_recipient_is_explained() {
    let desk = Desk::with(&policy());
    let (gateway, pos) = (principal("gateway"), channel("pos"));
    let asked = Asked {
        caller: Caller::Named(&gateway),
        merchant: None,
        channel: Some(&pos),
        action: crate::words::Action::Detokenize,
        purpose: Purpose::Capture,
        initiator: Initiator::Merchant,
        show: crate::words::Show::Full,
    };
    for (to, allowed) in [("bank", true), ("fraud", false), ("old", false), ("nobody", false)] {
        let told = desk.vault.explain_to(&asked, &Outlet::Recipient(name(to)));
        assert_eq!(told.allowed, allowed, "{to}: {told:?}");
    }
    assert!(!desk.vault.explain(&asked).allowed);
}

#[test]
fn a_single_use_token_is_spent_by_the_one_card_that_went_out_sealed() {
    let desk = Desk::with(&policy());
    let restrictions = crate::restrictions::Restrictions { single_use: true, ..Default::default() };
    let card = NewCard { restrictions, ..card(VISA) };
    let token = desk.tokenize("web", &header(), card).unwrap_or_else(|e| panic!("{e}")).token;
    let header = header();
    let once =
        |header: &Header| desk.given("web", header, &token, Reveal::SealedTo(name("bank"))).map(|_| ());
    // A recipient that is refused spends nothing.
    assert_eq!(desk.sent("web", &token, "old"), Err(Error::Denied));
    assert_eq!(once(&header), Ok(()));
    assert!(desk.last_line().contains(" once to recipient bank "), "{}", desk.last_line());
    assert_eq!(once(&header), Ok(()));
    assert!(desk.last_line().contains(" to recipient bank ") && desk.last_line().contains("again"));
    assert_eq!(desk.sent("web", &token, "bank"), Err(Error::NotFound));
    assert_eq!(last_refusal(&desk.vault), "already_used");
}

#[test]
fn a_sealed_card_brings_restrictions_like_any_other() {
    let desk = Desk::with(&policy());
    let web = key(&desk, "web");
    let restrictions = crate::restrictions::Restrictions { single_use: true, ..Default::default() };
    let once =
        desk.brought("web", SealedNewCard { restrictions, ..visa(&web) }).unwrap_or_else(|e| panic!("{e}"));
    assert!(desk.sent("web", &once.token, "bank").is_ok());
    assert_eq!(desk.sent("web", &once.token, "bank"), Err(Error::NotFound));
}
