//! The verbs over a memory store: what they promise, told as sentences.

use std::path::PathBuf;
use std::sync::Arc;

use pollster::block_on;
use secrecy::SecretSlice;

use super::*;
use crate::audit::entry::Minting;
use crate::control::LockTarget;
use crate::custody::Passphrase;
use crate::name::{ChannelName, MerchantName, PrincipalName};
use crate::pan::{CardExpiry, Pan, luhn_valid};
use crate::policy::Caller;
use crate::store::memory::Memory;
use crate::time::{ManualClock, Timestamp};
use crate::token::Token;
use crate::words::{Initiator, LockReason, Purpose};

mod sealed;

pub(super) const POLICY: &str = r#"
    [[merchant]]
    id = "acme"
    [[merchant.format]]
    id = "shop"
    scheme = "random"
    [[merchant.format]]
    id = "till"
    scheme = "opaque"
    scope = "channel"
    [[merchant.format]]
    id = "fresh"
    scheme = "random"
    mode = "fresh"
    keep = { 16 = "8+4" }
    [[merchant.channel]]
    id = "web"
    kind = "e-commerce"
    format = "shop"
    [[merchant.channel]]
    id = "app"
    kind = "in-app"
    format = "shop"
    [[merchant.channel]]
    id = "pos"
    kind = "point-of-sale"
    format = "till"

    [[principal]]
    id = "shop"
    merchant = "acme"
    [[principal]]
    id = "gateway"
    merchant = "acme"
    [[principal]]
    id = "importer"
    merchant = "acme"
    channel = "web"

    [[rule]]
    id = "shop-stores"
    effect = "allow"
    merchant = "acme"
    principals = ["shop"]
    actions = ["tokenize"]
    tells_reuse = true
    [[rule]]
    id = "shop-looks"
    effect = "allow"
    merchant = "acme"
    principals = ["shop"]
    actions = ["inspect", "revoke"]
    show = "masked"
    [[rule]]
    id = "gateway-pays"
    effect = "allow"
    merchant = "acme"
    channels = ["web", "app"]
    principals = ["gateway"]
    actions = ["detokenize"]
    purposes = ["authorization", "refund"]
    show = "full"
    [[rule]]
    id = "import"
    effect = "allow"
    merchant = "acme"
    principals = ["importer"]
    actions = ["tokenize"]
    import = true
"#;

/// 2026-01-01.
const START: Timestamp = Timestamp(1_767_225_600_000);

struct Desk {
    vault: Vault,
    clock: Arc<ManualClock>,
    store: Arc<dyn Store>,
    folder: tempfile::TempDir,
}

fn custodian() -> Passphrase {
    Passphrase::new(SecretSlice::from(b"correct horse battery".to_vec())).map_err(|e| e.to_string()).unwrap()
}

impl Desk {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let place = Self::place(&store, folder.path().join("esk"), &clock);
        let policy = Policy::from_toml(policy).unwrap();
        let vault = block_on(Vault::create(place, &custodian(), policy)).unwrap_or_else(|e| panic!("{e}"));
        Self { vault, clock, store, folder }
    }

    fn place(store: &Arc<dyn Store>, esk: PathBuf, clock: &Arc<ManualClock>) -> Place {
        Place { clock: Arc::new(clock.clone()), ..Place::new(store.clone(), esk) }
    }

    fn reopened(self) -> Self {
        block_on(self.vault.close()).unwrap();
        let place = Self::place(&self.store, self.folder.path().join("esk"), &self.clock);
        drop(self.vault);
        let vault = block_on(Vault::open(place, &custodian())).unwrap_or_else(|e| panic!("{e}"));
        Self { vault, ..self }
    }

    fn tokenize(&self, channel: &str, header: &Header, card: NewCard) -> Result<Tokenized, Error> {
        let header = Header { channel: Some(self::channel(channel)), ..header.clone() };
        block_on(self.vault.tokenize(Caller::Local(&principal("shop")), &header, card))
    }

    fn stored(&self, channel: &str, pan: &str) -> Token {
        self.tokenize(channel, &header(), card(pan)).unwrap_or_else(|e| panic!("{e}")).token
    }

    fn paid(&self, channel: &str, token: &Token) -> Result<String, Error> {
        let header = Header { channel: Some(self::channel(channel)), ..header() };
        let answer = block_on(self.vault.detokenize(
            Caller::Local(&principal("gateway")),
            &header,
            token.copy(),
            Reveal::Plain,
        ))?;
        match answer.revealed {
            Revealed::Plain(pan) => Ok(String::from_utf8(pan.expose_digits().to_vec()).unwrap()),
            Revealed::Other(_) => panic!("another value than a card"),
            Revealed::Masked(mask) => Ok(mask.to_string()),
            Revealed::Sealed { .. } => panic!("sealed to nobody who asked"),
        }
    }

    fn revoked(&self, token: &Token, where_to: Revocation, header: &Header) -> Result<RevokedToken, Error> {
        let header = Header { channel: Some(channel("web")), ..header.clone() };
        block_on(self.vault.revoke(Caller::Local(&principal("shop")), &header, token.copy(), where_to))
    }
}

fn principal(name: &str) -> PrincipalName {
    PrincipalName::parse(name).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn header() -> Header {
    Header::new(Purpose::Authorization, Initiator::Cardholder).unwrap()
}

fn card(pan: &str) -> NewCard {
    NewCard::new(Pan::parse(pan.as_bytes()).map_err(|e| e.to_string()).unwrap())
}

fn last_refusal(vault: &Vault) -> String {
    let size = block_on(vault.checkpoint()).unwrap().checkpoint().size;
    let (_, _, entry) = block_on(vault.entries(size - 1, 1)).unwrap().pop().unwrap();
    entry.line().rsplit_once(": ").map_or_else(String::new, |(_, why)| why.to_owned())
}

const VISA: &str = "4111111111111111";
const MASTERCARD: &str = "5555555555554444";

#[test]
fn a_card_goes_in_a_token_comes_out_and_only_the_gateway_gets_the_card_back() {
    let desk = Desk::new();
    let answer = desk.tokenize("web", &header(), card(VISA)).unwrap_or_else(|e| panic!("{e}"));
    let token = answer.token.as_str().to_owned();
    assert!(token.starts_with("411111") && token.ends_with("1111") && token.len() == 16 && token != VISA);
    assert!(!luhn_valid(token.as_bytes()));
    assert_eq!((answer.mask.to_string().as_str(), answer.network.as_str()), ("411111******1111", "visa"));
    assert_eq!(answer.minting, Some(Minting::Minted));
    assert_eq!(desk.paid("web", &answer.token).as_deref(), Ok(VISA));
    assert_eq!(desk.paid("app", &answer.token).as_deref(), Ok(VISA));

    let header = Header { channel: Some(channel("web")), ..header() };
    let shop = principal("shop");
    let asked = desk.vault.detokenize(Caller::Local(&shop), &header, answer.token, Reveal::Plain);
    assert_eq!(block_on(asked).err(), Some(Error::Denied));
    assert_eq!(last_refusal(&desk.vault), "action_not_allowed");
}

#[test]
fn everything_is_there_after_a_restart() {
    let desk = Desk::new();
    let (web, pos) = (desk.stored("web", VISA), desk.stored("pos", MASTERCARD));
    let desk = desk.reopened();
    assert_eq!(desk.paid("web", &web).as_deref(), Ok(VISA));
    assert_eq!(desk.stored("web", VISA).as_str(), web.as_str());
    assert_eq!(desk.stored("pos", MASTERCARD).as_str(), pos.as_str());
    let report = block_on(desk.vault.verify_store(&mut |_, _| {})).unwrap();
    assert!(report.is_whole() && report.good == 2, "{report:?}");
}

#[test]
fn the_same_card_is_recognised_in_its_scope_and_nowhere_else() {
    let desk = Desk::new();
    let web = desk.tokenize("web", &header(), card(VISA)).unwrap_or_else(|e| panic!("{e}"));
    let app = desk.tokenize("app", &header(), card(VISA)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((web.token.as_str(), app.minting), (app.token.as_str(), Some(Minting::Reused)));
    let till = desk.stored("pos", VISA);
    assert!(till.as_str().starts_with("tok_"));

    let customer = |name: &str| Header { context: Context::new(name, "", "").unwrap(), ..header() };
    let anna = desk.tokenize("web", &customer("anna"), card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    let again = desk.tokenize("web", &customer("anna"), card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    let bert = desk.tokenize("web", &customer("bert"), card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    assert!(anna.same_as(&again) && !anna.same_as(&bert) && !anna.same_as(&web.token));
    for token in [&anna, &bert] {
        assert_eq!(desk.paid("web", token).as_deref(), Ok(VISA));
    }
}

#[test]
fn what_depends_on_the_token_is_one_answer_with_its_true_reason_in_the_log_alone() {
    let desk = Desk::new();
    let token = |text: &str| Token::parse(text).map_err(|e| e.to_string()).unwrap();
    let expiring = NewCard { valid_until: Some(START.plus_days(1)), ..card(VISA) };
    let expired = desk.tokenize("web", &header(), expiring).unwrap_or_else(|e| panic!("{e}")).token;
    let app_only = NewCard { channels: vec![channel("app")], ..card(VISA) };
    let foreign = desk.tokenize("app", &header(), app_only).unwrap_or_else(|e| panic!("{e}")).token;
    let revoked = desk.stored("web", MASTERCARD);
    assert!(desk.revoked(&revoked, Revocation::Everywhere, &header()).is_ok_and(|r| r.everywhere));
    let good = desk.stored("web", VISA);
    desk.clock.set(START.plus_days(2));

    let cases = [
        (token("4111111111111112"), Purpose::Authorization, "unknown"),
        (expired, Purpose::Authorization, "expired"),
        (foreign, Purpose::Authorization, "foreign"),
        (revoked, Purpose::Authorization, "revoked"),
        (good.copy(), Purpose::Settlement, "wrong_purpose"),
    ];
    for (token, purpose, why) in cases {
        let commits = desk.store.commits();
        let header = Header { channel: Some(channel("web")), purpose, ..header() };
        let answer = block_on(desk.vault.detokenize(
            Caller::Local(&principal("gateway")),
            &header,
            token,
            Reveal::Plain,
        ));
        assert_eq!(answer.err(), Some(Error::NotFound), "{why}");
        assert_eq!(last_refusal(&desk.vault), why);
        assert_eq!(desk.store.commits() - commits, 1, "{why}");
    }
    assert_eq!(desk.paid("web", &good).as_deref(), Ok(VISA));
}

#[test]
fn a_retried_request_gives_the_same_answer_and_another_body_is_refused() {
    let desk = Desk::new();
    let fresh =
        |pan: &str| NewCard { format: Some(crate::name::FormatName::parse("fresh").unwrap()), ..card(pan) };
    let request = header();
    let first = desk.tokenize("web", &request, fresh(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    let again = desk.tokenize("web", &request, fresh(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    assert!(first.same_as(&again));
    assert_eq!(desk.tokenize("web", &request, fresh(MASTERCARD)).err(), Some(Error::IdempotencyMismatch));
    assert_eq!(desk.tokenize("app", &request, fresh(VISA)).err(), Some(Error::IdempotencyMismatch));
    assert_eq!(
        desk.revoked(&first, Revocation::Everywhere, &request).err(),
        Some(Error::IdempotencyMismatch)
    );
    let desk = desk.reopened();
    let kept = desk.tokenize("web", &request, fresh(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    assert!(first.same_as(&kept));
    desk.clock.set(START.plus_days(2));
    let later = desk.tokenize("web", &request, fresh(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    assert!(!first.same_as(&later));

    let request = header();
    assert!(desk.revoked(&first, Revocation::Everywhere, &request).is_ok());
    assert!(desk.revoked(&first, Revocation::Everywhere, &request).is_ok_and(|r| r.everywhere));
    assert_eq!(desk.revoked(&first, Revocation::Everywhere, &header()).err(), Some(Error::NotFound));
}

#[test]
fn a_revoked_token_is_dead_and_its_card_gets_a_new_one() {
    let desk = Desk::new();
    let old = desk.stored("web", VISA);
    assert!(desk.revoked(&old, Revocation::On(channel("app")), &header()).is_ok_and(|r| !r.everywhere));
    assert_eq!(desk.paid("app", &old), Err(Error::NotFound));
    assert_eq!(desk.paid("web", &old).as_deref(), Ok(VISA));
    assert!(desk.revoked(&old, Revocation::Everywhere, &header()).is_ok());
    assert_eq!(desk.paid("web", &old), Err(Error::NotFound));
    let new = desk.stored("web", VISA);
    assert!(!new.same_as(&old));
    assert_eq!(desk.paid("app", &new).as_deref(), Ok(VISA));
}

#[test]
fn a_batch_is_one_commit_with_an_answer_for_each_item() {
    let desk = Desk::new();
    let header = Header { channel: Some(channel("web")), ..header() };
    let wrong_length =
        NewCard { format: Some(crate::name::FormatName::parse("fresh").unwrap()), ..card("378282246310005") };
    let cards = vec![card(VISA), card(MASTERCARD), wrong_length, card(VISA)];
    let commits = desk.store.commits();
    let answers =
        block_on(desk.vault.tokenize_batch(Caller::Local(&principal("shop")), &header, cards)).unwrap();
    assert_eq!(desk.store.commits() - commits, 1);
    let tokens: Vec<Option<Token>> = answers.into_iter().map(|a| a.ok().map(|t| t.token)).collect();
    assert!(tokens[2].is_none());
    assert!(tokens[0].as_ref().unwrap().same_as(tokens[3].as_ref().unwrap()));
    let tokens: Vec<Token> = tokens.into_iter().flatten().collect();
    let commits = desk.store.commits();
    let paid = Header { request_id: RequestId::random().unwrap(), ..header };
    let gateway = principal("gateway");
    let opened = desk.vault.detokenize_batch(
        Caller::Local(&gateway),
        &paid,
        tokens.into_iter().map(|t| (t, Reveal::Plain)).collect(),
    );
    assert!(block_on(opened).unwrap().iter().all(Result::is_ok));
    assert_eq!(desk.store.commits() - commits, 1);
}

#[test]
fn a_hundred_at_once_with_one_card_get_one_token() {
    let desk = Desk::new();
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..100).map(|_| scope.spawn(|| desk.stored("web", VISA).as_str().to_owned())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(tokens.iter().all(|t| *t == tokens[0]));
}

#[test]
fn the_guess_budget_ends_a_search_and_leaves_the_import_alone() {
    let desk = Desk::new();
    // Cards of one BIN of six, last four and length: only the hidden digits differ.
    let cell: Vec<String> = (0..1_000_000_u32)
        .map(|n| format!("411111{n:06}1111"))
        .filter(|pan| luhn_valid(pan.as_bytes()))
        .take(12)
        .collect();
    for pan in &cell[..5] {
        desk.stored("web", pan);
    }
    let spent = desk.tokenize("web", &header(), card(&cell[5])).err();
    assert!(matches!(spent, Some(Error::Budget { retry_after_ms }) if retry_after_ms > 0), "{spent:?}");
    assert_eq!(last_refusal(&desk.vault), "guess_budget_spent");
    desk.stored("web", &cell[0]);
    let all = |pans: &[String]| pans.iter().map(|p| card(p)).collect::<Vec<_>>();
    let importer = principal("importer");
    let imported =
        block_on(desk.vault.tokenize_batch(Caller::Local(&importer), &header(), all(&cell))).unwrap();
    assert!(imported.iter().all(Result::is_ok));
    desk.clock.set(START.plus_days(1));
    let shop = principal("shop");
    let web = || Header { channel: Some(channel("web")), ..header() };
    let (six, five) = (web(), web());
    let batch = desk.vault.tokenize_batch(Caller::Local(&shop), &six, all(&cell[..6]));
    assert!(matches!(block_on(batch).err(), Some(Error::Budget { .. })));
    assert!(block_on(desk.vault.tokenize_batch(Caller::Local(&shop), &five, all(&cell[..5]))).is_ok());
}

#[test]
fn a_lock_is_exact_and_survives_a_restart() {
    let desk = Desk::new();
    let token = desk.stored("web", VISA);
    let target =
        LockTarget::Channel { merchant: MerchantName::parse("acme").unwrap(), channel: channel("web") };
    let operator = principal("olga");
    let (lock, _) =
        block_on(desk.vault.set_lock(&operator, target, LockReason::Fraud, Some("case 7"), None)).unwrap();
    assert_eq!(desk.paid("web", &token), Err(Error::Locked { lockdown: lock }));
    assert_eq!(desk.paid("app", &token).as_deref(), Ok(VISA));
    let desk = desk.reopened();
    assert_eq!(desk.paid("web", &token), Err(Error::Locked { lockdown: lock }));
    block_on(desk.vault.lift_lock(&operator, lock, None)).unwrap();
    assert_eq!(desk.paid("web", &token).as_deref(), Ok(VISA));
}

#[test]
fn a_rotated_dek_seals_new_rows_and_opens_old_ones() {
    let desk = Desk::new();
    let old = desk.stored("web", VISA);
    let acme = MerchantName::parse("acme").unwrap();
    block_on(desk.vault.rotate_dek(&principal("olga"), &acme, None)).unwrap();
    let new = desk.stored("web", MASTERCARD);
    let desk = desk.reopened();
    assert_eq!(desk.paid("web", &old).as_deref(), Ok(VISA));
    assert_eq!(desk.paid("web", &new).as_deref(), Ok(MASTERCARD));
    let deks = desk.vault.keys().into_iter().filter(|k| k.kind == KeyKind::Dek).count();
    assert_eq!(deks, 2);
}

#[test]
fn a_later_card_expiry_updates_the_record() {
    let desk = Desk::new();
    let expiring = |year| NewCard { card_expiry: Some(CardExpiry::new(year, 6).unwrap()), ..card(VISA) };
    let token = desk.tokenize("web", &header(), expiring(2027)).unwrap_or_else(|e| panic!("{e}")).token;
    for (given, kept) in [(2030, 2030), (2028, 2030)] {
        assert!(
            desk.tokenize("web", &header(), expiring(given))
                .unwrap_or_else(|e| panic!("{e}"))
                .token
                .same_as(&token)
        );
        let header = Header { channel: Some(channel("web")), ..header() };
        let shop = principal("shop");
        let seen = desk.vault.inspect(Caller::Local(&shop), &header, token.copy());
        let seen = block_on(seen).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(seen.card_expiry.map(super::super::pan::CardExpiry::year), Some(kept));
        assert_eq!(seen.mask.to_string(), "411111******1111");
    }
}

#[test]
fn a_row_put_back_to_its_older_bytes_is_refused_by_the_living_node_and_named_after_a_restart() {
    use crate::store::{Batch, Part, Write};
    let desk = Desk::new();
    let token = desk.stored("web", VISA);
    let rows = block_on(desk.store.scan(&[crate::rows::CARD], None, 10)).unwrap();
    let (key, older) = rows[0].clone();
    assert!(desk.revoked(&token, Revocation::On(channel("app")), &header()).is_ok());
    let put = |value: Option<Vec<u8>>| {
        let write = value.map_or(Write::Delete(key.clone()), |v| Write::Put(key.clone(), v));
        desk.store
            .commit(&Batch { parts: vec![Part { expects: vec![], writes: vec![write] }], ..Batch::default() })
            .unwrap();
    };
    put(Some(older.clone()));
    assert!(matches!(desk.paid("app", &token), Err(Error::Internal { .. })));
    assert_eq!(last_refusal(&desk.vault), "unreadable");
    put(None);
    assert!(matches!(desk.paid("app", &token), Err(Error::Internal { .. })));
    put(Some(older));
    let desk = desk.reopened();
    let report = block_on(desk.vault.verify_store(&mut |_, _| {})).unwrap();
    assert!(!report.is_whole() && report.rolled_back == 1, "{report:?}");
}

#[test]
fn a_used_up_space_says_so_and_never_repeats_a_token() {
    let desk = Desk::new();
    let importer = principal("importer");
    let fresh = || NewCard { format: Some(crate::name::FormatName::parse("fresh").unwrap()), ..card(VISA) };
    let mut seen = std::collections::HashSet::new();
    for _ in 0..9 {
        let cards = (0..1_000).map(|_| fresh()).collect();
        for answer in block_on(desk.vault.tokenize_batch(Caller::Local(&importer), &header(), cards)).unwrap()
        {
            let token = answer.unwrap_or_else(|e| panic!("{e} after {}", seen.len())).token;
            assert!(!luhn_valid(token.as_bytes()) && token.as_str().starts_with("41111111"));
            assert!(seen.insert(token.as_str().to_owned()));
        }
    }
    assert_eq!(seen.len(), 9_000);
    let one = block_on(desk.vault.tokenize(Caller::Local(&importer), &header(), fresh())).err();
    assert_eq!(one, Some(Error::SpaceExhausted));
}

#[test]
fn a_purpose_that_no_rule_names_gets_no_token() {
    let policy = POLICY.replace(
        "actions = [\"tokenize\"]\n    tells_reuse = true",
        "actions = [\"tokenize\"]\n    purposes = [\"authorization\"]",
    );
    let desk = Desk::with(&policy);
    let known = desk.stored("web", VISA);
    let commits = desk.store.commits();
    let export = Header { purpose: Purpose::Export, ..header() };
    for pan in [VISA, MASTERCARD] {
        assert_eq!(desk.tokenize("web", &export, card(pan)).err(), Some(Error::Denied));
        assert_eq!(last_refusal(&desk.vault), "wrong_purpose");
    }
    assert_eq!(desk.store.commits() - commits, 2);
    assert_eq!(desk.paid("web", &known).as_deref(), Ok(VISA));
}

#[test]
fn founding_a_vault_never_touches_another_ones_key() {
    let desk = Desk::new();
    let esk = desk.folder.path().join("esk");
    let before = std::fs::read(&esk).unwrap();
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let place = Desk::place(&store, esk.clone(), &desk.clock);
    let founded = block_on(Vault::create(place, &custodian(), Policy::from_toml(POLICY).unwrap()));
    assert_eq!(founded.err(), Some(Error::Store(StoreError::Exists)));
    assert_eq!(std::fs::read(&esk).unwrap(), before);
}

#[test]
fn a_founding_that_was_killed_before_its_key_took_its_place_is_finished() {
    let desk = Desk::new();
    let (esk, waiting) = (desk.folder.path().join("esk"), desk.folder.path().join("esk.new"));
    std::fs::rename(&esk, &waiting).unwrap();
    let desk = desk.reopened();
    assert!(esk.exists() && !waiting.exists());
    desk.stored("web", VISA);
}

#[test]
fn a_used_request_id_is_no_way_around_the_guess_budget() {
    let desk = Desk::new();
    let cell: Vec<String> = (0..1_000_000_u32)
        .map(|n| format!("411111{n:06}1111"))
        .filter(|pan| luhn_valid(pan.as_bytes()))
        .take(9)
        .collect();
    let request = header();
    assert!(desk.tokenize("web", &request, card(&cell[0])).is_ok());
    let answers: Vec<Option<Error>> =
        cell.iter().map(|pan| desk.tokenize("web", &request, card(pan)).err()).collect();
    assert_eq!(answers[0], None);
    assert!(answers[1..5].iter().all(|a| *a == Some(Error::IdempotencyMismatch)), "{answers:?}");
    assert!(answers[5..].iter().all(|a| matches!(a, Some(Error::Budget { .. }))), "{answers:?}");
}

#[test]
fn an_expired_token_can_be_revoked_and_a_retried_revocation_is_done() {
    let desk = Desk::new();
    let expiring = NewCard { valid_until: Some(START.plus_days(1)), ..card(VISA) };
    let token = desk.tokenize("web", &header(), expiring).unwrap_or_else(|e| panic!("{e}")).token;
    desk.clock.set(START.plus_days(2));
    assert!(desk.revoked(&token, Revocation::Everywhere, &header()).is_ok_and(|r| r.everywhere));

    let token = desk.stored("web", MASTERCARD);
    let own = Revocation::On(channel("web"));
    let request = header();
    for _ in 0..2 {
        assert!(desk.revoked(&token, own.clone(), &request).is_ok_and(|r| !r.everywhere));
    }
    assert_eq!(desk.revoked(&token, own, &header()).err(), Some(Error::NotFound));
    assert_eq!(desk.paid("app", &token).as_deref(), Ok(MASTERCARD));
}

#[test]
fn a_format_never_changes_and_a_narrowed_mask_narrows_old_rows() {
    let desk = Desk::new();
    let olga = principal("olga");
    let token = desk.stored("web", VISA);
    let changed = Policy::from_toml(&POLICY.replace(
        "scheme = \"random\"\n    [[merchant.format]]\n    id = \"till\"",
        "scheme = \"mixed\"\n    [[merchant.format]]\n    id = \"till\"",
    ))
    .unwrap();
    assert!(matches!(block_on(desk.vault.apply_policy(&olga, changed, None)), Err(Error::Config(_))));
    let narrowed = POLICY.replacen("id = \"acme\"", "id = \"acme\"\n    mask = { 16 = \"0+4\" }", 1);
    block_on(desk.vault.apply_policy(&olga, Policy::from_toml(&narrowed).unwrap(), None)).unwrap();
    let (shop, header) = (principal("shop"), Header { channel: Some(channel("web")), ..header() });
    let seen =
        block_on(desk.vault.inspect(Caller::Local(&shop), &header, token)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(seen.mask.to_string(), "************1111");
}

#[test]
fn two_operators_never_overwrite_each_other_unseen() {
    let desk = Desk::new();
    let (olga, policy) = (principal("olga"), Policy::from_toml(POLICY).unwrap());
    let (_, seen) = desk.vault.policy();
    block_on(desk.vault.apply_policy(&olga, policy.clone(), Some(seen))).unwrap();
    let late = block_on(desk.vault.apply_policy(&principal("otto"), policy, Some(seen)));
    assert_eq!(late.err(), Some(Error::EpochMismatch { epoch: seen + 1 }));
}

/// Lets a caller go away after it has asked: what it asked for goes on without it.
fn abandoned(asked: impl Future) {
    let mut asked = Box::pin(asked);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // The journal's thread may be quick: then it was answered, and the answer is not heard.
    let _unheard = asked.as_mut().poll(&mut context).is_ready();
}

#[test]
fn a_change_whose_caller_went_away_is_not_overwritten_by_the_next() {
    let desk = Desk::new();
    let (olga, acme) = (principal("olga"), MerchantName::parse("acme").unwrap());
    for round in 1..=20 {
        let token = desk.stored("web", VISA);
        let target = LockTarget::Channel { merchant: acme.clone(), channel: channel("pos") };
        abandoned(desk.vault.set_lock(&olga, target, LockReason::Fraud, None, None));
        abandoned(desk.vault.rotate_dek(&olga, &acme, None));
        let fresh = NewCard { format: Some(crate::name::FormatName::parse("fresh").unwrap()), ..card(VISA) };
        let new = desk.tokenize("web", &header(), fresh).unwrap_or_else(|e| panic!("{e}")).token;
        block_on(desk.vault.rotate_dek(&olga, &acme, None)).unwrap();
        assert_eq!(desk.paid("web", &token).as_deref(), Ok(VISA));
        assert_eq!(desk.paid("web", &new).as_deref(), Ok(VISA));
        assert_eq!(desk.vault.locks().len(), round);
    }
    let ids: std::collections::HashSet<_> = desk.vault.keys().iter().map(|k| k.id).collect();
    assert_eq!(ids.len(), desk.vault.keys().len());
    let desk = desk.reopened();
    assert_eq!(desk.vault.locks().len(), 20);
}

#[test]
fn a_revocation_whose_caller_went_away_holds_and_its_retry_is_done() {
    let desk = Desk::new();
    for _ in 0..20 {
        let token = desk.stored("web", VISA);
        let request = Header { channel: Some(channel("web")), ..header() };
        let shop = principal("shop");
        abandoned(desk.vault.revoke(Caller::Local(&shop), &request, token.copy(), Revocation::Everywhere));
        let answer = loop {
            match desk.revoked(&token, Revocation::Everywhere, &request) {
                Err(Error::StillRunning) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert!(answer.is_ok_and(|r| r.everywhere));
        assert_eq!(desk.paid("web", &token), Err(Error::NotFound));
    }
    let report = block_on(desk.vault.verify_store(&mut |_, _| {})).unwrap();
    assert!(report.is_whole(), "{report:?}");
}
