//! Whatever a payment is made with goes in, comes back to who may have it, and in between a token stands for it that is
//! none of it.

use vault_core::account::{RoutingNumber, UsAccount};
use vault_core::digits::DigitString;
use vault_core::email::Email;
use vault_core::error::Error;
use vault_core::free_bytes::FreeBytes;
use vault_core::iban::{Country, Iban};
use vault_core::mask::Mask;
use vault_core::name::FormatName;
use vault_core::network::Networks;
use vault_core::network_token::{Beside, NetworkToken};
use vault_core::pan::{CardExpiry, Pan, luhn_valid};
use vault_core::par::Par;
use vault_core::payment_reference::PaymentReference;
use vault_core::phone::Phone;
use vault_core::plan::Kept;
use vault_core::policy::Policy;
use vault_core::rows;
use vault_core::store::Engine;
use vault_core::token::Token;
use vault_core::value::Value;
use vault_core::vault::{Context, Header, NewCard, Replacement, Reveal, Revealed, Revocation};
use vault_core::words::{Kind, Refusal, ReplaceReason};
use vault_tests::ON_DISK;
use vault_tests::desk::{Desk, header, request};

const PAR: &str = "V0010013019326471230984710234";

/// Every kind in every scheme it has, on one channel; a channel for direct debit that takes nothing else.
const POLICY: &str = r#"
    [[merchant]]
    id = "acme"
    [[merchant.format]]
    id = "shop"
    scheme = "random"
    [[merchant.format]]
    id = "network"
    kind = "network_token"
    scheme = "random"
    [[merchant.format]]
    id = "reference"
    kind = "reference"
    scheme = "opaque"
    [[merchant.format]]
    id = "iban"
    kind = "iban"
    scheme = "random"
    [[merchant.format]]
    id = "iban-opaque"
    kind = "iban"
    scheme = "opaque"
    mode = "fresh"
    [[merchant.format]]
    id = "account"
    kind = "us_account"
    scheme = "mixed"
    [[merchant.format]]
    id = "gift"
    kind = "digits"
    scheme = "random"
    keep = { 16 = "0+4", 10 = "0+0" }
    [[merchant.format]]
    id = "loyalty"
    kind = "digits"
    scheme = "mixed"
    [[merchant.format]]
    id = "phone"
    kind = "phone"
    scheme = "mixed"
    [[merchant.format]]
    id = "mail"
    kind = "email"
    scheme = "mixed"
    [[merchant.format]]
    id = "mail-domain"
    kind = "email"
    scheme = "mixed"
    keep_domain = true
    [[merchant.format]]
    id = "bytes"
    kind = "bytes"
    scheme = "opaque"
    [[merchant.format]]
    id = "legacy"
    scheme = "random"
    luhn_prefix = "990001"
    keep = { 16 = "0+4" }
    [[merchant.channel]]
    id = "web"
    kind = "e-commerce"
    format = "shop"
    formats = ["network", "reference", "iban", "account", "gift", "phone", "mail", "bytes"]
    [[merchant.channel]]
    id = "debit"
    kind = "pay-by-link"
    format = "iban"

    [[principal]]
    id = "acme-shop"
    merchant = "acme"
    [[principal]]
    id = "acme-gateway"
    merchant = "acme"
    [[principal]]
    id = "acme-import"
    merchant = "acme"
    [[principal]]
    id = "acme-care"
    merchant = "acme"

    [[rule]]
    id = "stores"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-shop"]
    actions = ["tokenize"]
    [[rule]]
    id = "looks"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-shop"]
    actions = ["inspect", "revoke"]
    show = "masked"
    [[rule]]
    id = "pays"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-gateway"]
    actions = ["detokenize"]
    show = "full"
    [[rule]]
    id = "imports"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-import"]
    actions = ["tokenize"]
    import = true
    [[rule]]
    id = "cares"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-care"]
    actions = ["replace"]
"#;

fn told<T>(result: Result<T, impl std::fmt::Display>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn desk(engine: Engine) -> Desk {
    Desk::with(engine, told(Policy::from_toml(POLICY)))
}

fn iban(text: &str) -> Value {
    Value::Iban(told(Iban::parse(text.as_bytes())))
}

fn digits(text: &str) -> Value {
    Value::Digits(told(DigitString::parse(text.as_bytes())))
}

fn network_token(number: &str) -> NewCard {
    let beside = told(Beside::parse("40010030273", "4242", Some(told(Par::parse(PAR)))));
    let token = NetworkToken::new(told(Pan::parse(number.as_bytes())), beside);
    NewCard {
        card_expiry: Some(told(CardExpiry::parse("12/30"))),
        ..NewCard::new(Value::NetworkToken(token))
    }
}

fn in_format(name: &str, card: NewCard) -> NewCard {
    NewCard { format: Some(FormatName::parse(name).unwrap()), ..card }
}

/// One of each kind, with its identity as text, what may be shown of it, and how its token begins and ends.
fn methods() -> Vec<(NewCard, &'static str, &'static str, &'static str, &'static str)> {
    let bank = told(RoutingNumber::parse(b"021000021"));
    let account = Value::UsAccount(told(UsAccount::parse(bank, b"000123456789")));
    let reference = told(PaymentReference::parse(b"8535296650153317", Some(told(Par::parse(PAR)))));
    let phone = Value::Phone(told(Phone::parse(b"+49 1512 3456789")));
    let email = |text: &str| Value::Email(told(Email::parse(text.as_bytes())));
    let bytes = Value::Bytes(told(FreeBytes::parse(b"mandate DE98ZZZ09999999999")));
    vec![
        (network_token("4895370012003478"), "4895370012003478", "489537******3478", "489537", "3478"),
        (NewCard::new(Value::Reference(reference)), "8535296650153317", "***", "tok_", ""),
        (
            NewCard::new(iban("DE89370400440532013000")),
            "DE89370400440532013000",
            "DE****************3000",
            "DE",
            "",
        ),
        (
            in_format("iban-opaque", NewCard::new(iban("GB29NWBK60161331926819"))),
            "GB29NWBK60161331926819",
            "GB****************6819",
            "tok_",
            "",
        ),
        (NewCard::new(account), "021000021000123456789", "021000021-********6789", "021000021-", ""),
        (NewCard::new(digits("6006491234567890")), "6006491234567890", "************7890", "", "7890"),
        (in_format("loyalty", NewCard::new(digits("3081234567"))), "3081234567", "******4567", "", ""),
        (NewCard::new(phone), "+4915123456789", "+49*********89", "+49", ""),
        (NewCard::new(email("ada@Example.com")), "ada@example.com", "***@example.com", "t", "@token.invalid"),
        (
            in_format("mail-domain", NewCard::new(email("bob@example.org"))),
            "bob@example.org",
            "***@example.org",
            "t",
            "@example.org",
        ),
        (NewCard::new(bytes), "mandate DE98ZZZ09999999999", "***", "tok_", ""),
    ]
}

#[test]
fn every_payment_method_goes_in_and_comes_back_and_nothing_on_disk_or_in_a_token_tells_it() {
    for engine in ON_DISK {
        let desk = desk(engine);
        let mut tokens = Vec::new();
        for (card, identity, shown, begins, ends) in methods() {
            let kind = card.value.kind();
            let answer = told(desk.web().tokenize(&header(), card));
            let token = answer.token.as_str().to_owned();
            assert_eq!(answer.mask.to_string(), shown);
            assert!(
                token.starts_with(begins) && token.ends_with(ends) && !token.contains(identity),
                "{token}"
            );
            assert!(Iban::parse(token.as_bytes()).is_err() && Phone::parse(token.as_bytes()).is_err());
            assert!(Pan::parse(token.as_bytes()).is_err(), "{kind}: {token}");
            assert_eq!(desk.web().paid(&answer.token).as_deref(), Ok(identity), "{kind}");
            tokens.push((answer.token, identity, shown));
        }
        // All kinds are among them, but for cards.
        let kinds: std::collections::BTreeSet<_> = methods().iter().map(|m| m.0.value.kind()).collect();
        assert_eq!(kinds.len() + 1, Kind::ALL.len());
        for kind in [rows::CARD, rows::FINGERPRINT, rows::IDEMPOTENCY, rows::GUESS, rows::VOLUME, rows::SPACE]
        {
            for (key, value) in desk.rows(kind) {
                for (_, identity, _) in &tokens {
                    let holds = |bytes: &[u8]| bytes.windows(6).any(|w| identity.as_bytes().starts_with(w));
                    assert!(!holds(&key) && !holds(&value), "{identity}");
                }
            }
        }
        let desk = desk.reopened();
        for (token, identity, shown) in &tokens {
            assert_eq!(desk.web().paid(token).as_deref(), Ok(*identity));
            assert_eq!(told(desk.web().inspected(token)).mask.to_string(), *shown);
            let masked = told(desk.web().detokenized(&header(), token, Reveal::Masked));
            assert!(matches!(masked.revealed, Revealed::Masked(mask) if mask.to_string() == *shown));
        }
        desk.assert_whole(tokens.len());
        for (token, ..) in &tokens {
            desk.web().revoked(token);
            assert_eq!(desk.web().paid(token), Err(Error::NotFound));
        }
        let report = desk.verified();
        assert!(report.is_whole(), "{report:?}");
    }
}

#[test]
fn the_same_value_gives_the_same_token_where_its_format_says_so() {
    for engine in ON_DISK {
        let desk = desk(engine);
        let first: Vec<Token> = methods().into_iter().map(|m| desk.web().added(m.0)).collect();
        let again: Vec<Token> = methods().into_iter().map(|m| desk.web().added(m.0)).collect();
        for (place, ((card, ..), (first, again))) in
            methods().iter().zip(first.iter().zip(&again)).enumerate()
        {
            let fresh = card.format.as_ref().is_some_and(|f| f.as_str() == "iban-opaque");
            assert_eq!(first.same_as(again), !fresh, "{place}");
        }
        // Spelled otherwise it is the same; of another customer, or on another channel's own terms, it is not.
        let spelled = desk.web().added(NewCard::new(iban("de89 3704 0044 0532 0130 00")));
        assert!(spelled.same_as(&first[2]));
        let of = |name: &str| Header { context: Context::new(name, "", "").unwrap(), ..header() };
        let anna = told(desk.web().tokenize(&of("anna"), NewCard::new(iban("DE89370400440532013000")))).token;
        assert!(!anna.same_as(&first[2]));
        assert_eq!(desk.web().paid(&anna).as_deref(), Ok("DE89370400440532013000"));
    }
}

#[test]
fn a_network_token_is_no_card_and_tells_whose_card_it_stands_for() {
    for engine in ON_DISK {
        let desk = desk(engine);
        let number = "4895370012003478";
        let token = desk.web().added(network_token(number));
        let card = desk.web().stored(number);
        assert!(!token.same_as(&card), "the same digits as a card are another value");
        let seen = told(desk.web().inspected(&token));
        assert_eq!(
            (seen.network.as_str(), seen.card_expiry),
            ("visa", Some(told(CardExpiry::parse("12/30"))))
        );
        let Mask::NetworkToken(_, beside) = seen.mask else { panic!("a network token") };
        assert_eq!((beside.funding_last_four(), beside.par.unwrap().bin_controller()), ("4242", "V001"));
        let paid = told(desk.web().detokenized(&header(), &token, Reveal::Plain));
        let Revealed::Other(Value::NetworkToken(back)) = paid.revealed else { panic!("a network token") };
        assert!(back.number().expose_digits() == number.as_bytes() && *back.beside() == beside);
        assert_eq!(paid.card_expiry, Some(told(CardExpiry::parse("12/30"))));
        let without = NewCard { card_expiry: None, ..network_token(number) };
        let told = desk.web().tokenize(&header(), without).err();
        assert!(
            matches!(told, Some(Error::Malformed { field: "item.network_token.expiry", .. })),
            "{told:?}"
        );
        let dated = NewCard { card_expiry: paid.card_expiry, ..NewCard::new(digits("1234567890")) };
        assert!(matches!(desk.web().tokenize(&header(), dated), Err(Error::Malformed { .. })));
    }
}

#[test]
fn no_card_number_comes_in_as_another_kind_of_value() {
    let desk = desk(ON_DISK[0]);
    let smuggled = |text: &str| {
        [
            digits(text),
            Value::Email(told(Email::parse(format!("{text}@example.com").as_bytes()))),
            Value::Bytes(told(FreeBytes::parse(format!("note {text}").as_bytes()))),
            Value::Reference(told(PaymentReference::parse(format!("ref-{text}").as_bytes(), None))),
        ]
    };
    let mut refused = 0;
    for value in smuggled("4111111111111111").into_iter().chain(smuggled("5555555555554444")) {
        match desk.web().tokenize(&header(), NewCard::new(value)).err() {
            Some(Error::Malformed { field, rule }) => {
                assert!(field.starts_with("item.") && rule.contains("must not hold a card number"));
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 8);
    // Digits that nobody issues are no card, whatever Luhn says.
    assert!(
        smuggled("1000000000000008")
            .into_iter()
            .all(|v| desk.web().tokenize(&header(), NewCard::new(v)).is_ok())
    );
}

#[test]
fn a_channel_takes_the_kinds_that_its_policy_names_and_a_format_its_own() {
    let desk = desk(ON_DISK[0]);
    let debit = desk.at("acme", "debit");
    assert!(debit.tokenize(&header(), NewCard::new(iban("DE89370400440532013000"))).is_ok());
    let refused = |told: Result<_, Error>| match told.map(|_: vault_core::vault::Tokenized| ()) {
        Err(Error::Malformed { field: "item.format", .. }) => true,
        other => panic!("{other:?}"),
    };
    assert!(refused(debit.tokenize(&header(), vault_tests::cards::card("4111111111111111"))));
    assert!(refused(debit.tokenize(&header(), NewCard::new(digits("6006491234567890")))));
    // Naming a format does not open a channel for its kind, nor a format for another.
    assert!(refused(debit.tokenize(&header(), in_format("gift", NewCard::new(digits("6006491234567890"))))));
    assert!(refused(
        desk.web().tokenize(&header(), in_format("gift", NewCard::new(iban("DE89370400440532013000"))))
    ));
    // A length that the format does not name.
    let told = desk.web().tokenize(&header(), NewCard::new(digits("12345678"))).err();
    assert!(matches!(told, Some(Error::Malformed { field: "item.data.value", .. })), "{told:?}");
}

#[test]
fn guesses_of_other_values_are_budgeted_like_those_of_cards() {
    let desk = desk(ON_DISK[0]);
    // Numbers of one country and one end: what an attacker who saw a mask would try.
    let number = |n: u32| {
        let bban = format!("37040044{n:06}3000");
        let check = (2..=98).find(|c| {
            let text = format!("DE{c:02}{bban}");
            vault_core::iban::remainder(text.as_bytes()) == 1
        });
        iban(&format!("DE{:02}{bban}", check.unwrap()))
    };
    for n in 0..5 {
        assert!(desk.web().tokenize(&header(), NewCard::new(number(n))).is_ok(), "{n}");
    }
    let sixth = desk.web().tokenize(&header(), NewCard::new(number(6))).err();
    assert!(matches!(sixth, Some(Error::Budget { .. })), "{sixth:?}");
    assert_eq!(desk.last_refusal(), Some(Refusal::GuessBudgetSpent));
    assert!(
        desk.web().tokenize(&header(), NewCard::new(number(3))).is_ok(),
        "one that was tried is no new guess"
    );
    assert!(desk.web().tokenize(&header(), NewCard::new(iban("GB29NWBK60161331926819"))).is_ok());
    desk.wait_days(1);
    assert!(desk.web().tokenize(&header(), NewCard::new(number(6))).is_ok());
}

#[test]
fn a_batch_of_all_kinds_is_one_commit_and_a_retry_of_it_gives_the_same_tokens() {
    for engine in ON_DISK {
        let desk = desk(engine);
        let id = "0f0e0d0c-0b0a-4908-8706-050403020100";
        let batch = || methods().into_iter().map(|m| m.0).collect::<Vec<_>>();
        let ask = |cards| -> Vec<String> {
            let answers = told(desk.web().tokenize_batch(&request(id), cards));
            answers.into_iter().map(|a| told(a).token.as_str().to_owned()).collect()
        };
        let commits = desk.store.commits();
        let first = ask(batch());
        assert_eq!(desk.store.commits() - commits, 1);
        assert_eq!(ask(batch()), first);
        let mut other = batch();
        other.swap(2, 5);
        let told = desk.web().tokenize_batch(&request(id), other).err();
        assert_eq!(told, Some(Error::IdempotencyMismatch));
    }
}

#[test]
fn tokens_that_pass_the_luhn_check_lie_where_nobody_issues_and_never_come_back_in_as_cards() {
    for engine in ON_DISK {
        let desk = desk(engine);
        let card = || in_format("legacy", vault_tests::cards::card("4111111111111111"));
        let token = desk.web().added(card());
        assert!(token.as_str().starts_with("990001") && token.as_str().ends_with("1111"));
        assert!(luhn_valid(token.as_bytes()) && desk.web().added(card()).same_as(&token));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok("4111111111111111"));
        let back = NewCard::new(told(Pan::parse(token.as_bytes())));
        let told = desk.web().tokenize(&header(), back).err();
        assert!(matches!(told, Some(Error::Malformed { field: "item.plain.pan", .. })), "{told:?}");
        let pan = Pan::parse(token.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let instead = Replacement { card: pan.into(), reason: ReplaceReason::Lost };
        let told = desk.web().care(&header(), async |vault, caller, header| {
            vault.replace(caller, header, token.copy(), instead).await
        });
        assert!(matches!(told.err(), Some(Error::Malformed { field: "item.plain.pan", .. })));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok("4111111111111111"));
        assert!(desk.web().revoke(&header(), &token, Revocation::Everywhere).is_ok());
        assert_eq!(desk.web().paid(&token), Err(Error::NotFound));
    }
}

#[test]
fn what_is_used_of_a_space_is_told_exactly() {
    for engine in ON_DISK {
        let desk = desk(engine);
        let merchant = vault_tests::desk::merchant_name("acme");
        let used = |format: &str, length, country: Option<&str>, first, last| {
            let format = FormatName::parse(format).unwrap();
            let country = country.and_then(Country::parse);
            let asked = desk.vault.space_use(&merchant, &format, length, country, Kept { first, last });
            pollster::block_on(asked).map(|space| (space.tokens, space.used))
        };
        assert_eq!(used("gift", 16, None, "", "7890"), Ok((9 * 10_u128.pow(11), 0)));
        let gifts = (0..40).map(|n| NewCard::new(digits(&format!("600649{n:06}7890")))).collect();
        let tokens = desk.web().imported(gifts);
        assert_eq!(used("gift", 16, None, "", "7890"), Ok((9 * 10_u128.pow(11), 40)));
        assert_eq!(used("gift", 16, None, "", "0000").map(|u| u.1), Ok(0));
        // A revoked one stays used.
        desk.web().revoked(&tokens[0]);
        assert_eq!(used("gift", 16, None, "", "7890").map(|u| u.1), Ok(40));
        desk.web().stored("4111111111111111");
        assert_eq!(used("shop", 16, None, "411111", "1111"), Ok((900_000, 1)));
        desk.web().added(NewCard::new(iban("DE89370400440532013000")));
        assert_eq!(used("iban", 0, Some("DE"), "", ""), Ok((96 * 10_u128.pow(18), 1)));
        assert_eq!(used("iban", 0, Some("NO"), "", "").map(|u| u.1), Ok(0));
        assert_eq!(used("reference", 0, None, "", ""), Ok((u128::MAX, 0)));
        for (format, length, country, first, last) in [
            ("iban", 0, None, "", ""),
            ("gift", 12, None, "", ""),
            ("none", 16, None, "", ""),
            ("shop", 16, None, "4111x", ""),
        ] {
            assert!(
                matches!(used(format, length, country, first, last), Err(Error::Malformed { .. })),
                "{format}"
            );
        }
    }
}

#[test]
fn a_prefix_that_a_network_claims_is_refused_by_the_vault() {
    let claimed = "version = 1\n[[network]]\nid = \"x\"\nname = \"X\"\nranges = [{ prefixes = [\"9900\"], lengths = [\"16\"] }]";
    let policy = told(Policy::from_toml(POLICY));
    assert!(policy.check_prefixes(&Networks::builtin()).is_ok());
    let refused = policy.check_prefixes(&told(Networks::parse(claimed)));
    assert!(matches!(refused, Err(Error::Config(why)) if why.contains("legacy")));
    assert_eq!(policy.doubts().len(), 1);
}

#[test]
fn a_policy_whose_formats_do_not_fit_their_kind_is_refused() {
    let policy = |format: &str, channel: &str| {
        Policy::from_toml(&format!(
            "[[merchant]]\nid = \"acme\"\n[[merchant.format]]\nid = \"shop\"\nscheme = \"random\"\n\
             [[merchant.format]]\nid = \"f\"\n{format}\n\
             [[merchant.channel]]\nid = \"web\"\nkind = \"e-commerce\"\nformat = \"shop\"\n{channel}"
        ))
        .map(|_| ())
    };
    for good in [
        "kind = \"iban\"\nscheme = \"random\"",
        "kind = \"digits\"\nscheme = \"random\"\nkeep = { 8 = \"0+4\", 32 = \"0+0\" }",
        "kind = \"network_token\"\nscheme = \"mixed\"\nkeep = { 16 = \"8+4\" }",
        "kind = \"email\"\nscheme = \"mixed\"\nkeep_domain = true",
        "scheme = \"random\"\nluhn_prefix = \"99123456\"",
        "kind = \"network_token\"\nscheme = \"random\"\nluhn_prefix = \"9912\"\nkeep = { 16 = \"0+0\" }",
    ] {
        assert_eq!(policy(good, ""), Ok(()), "{good}");
    }
    for bad in [
        "kind = \"iban\"\nscheme = \"mixed\"",
        "kind = \"phone\"\nscheme = \"random\"",
        "kind = \"us_account\"\nscheme = \"random\"",
        "kind = \"bytes\"\nscheme = \"mixed\"",
        "kind = \"reference\"\nscheme = \"random\"",
        "kind = \"iban\"\nscheme = \"random\"\nkeep = { 22 = \"0+4\" }",
        "kind = \"digits\"\nscheme = \"random\"\nkeep = { 5 = \"0+0\" }",
        "kind = \"digits\"\nscheme = \"random\"\nkeep = { 33 = \"0+0\" }",
        "kind = \"digits\"\nscheme = \"random\"\nkeep = { 7 = \"0+4\" }",
        "kind = \"digits\"\nscheme = \"random\"\nkeep = { 16 = \"6+4\" }",
        "kind = \"email\"\nscheme = \"opaque\"\nkeep_domain = true",
        "scheme = \"random\"\nkeep_domain = true",
        "scheme = \"random\"\nluhn_prefix = \"411111\"",
        "scheme = \"random\"\nluhn_prefix = \"99\"",
        "scheme = \"mixed\"\nluhn_prefix = \"990001\"",
        "scheme = \"random\"\nluhn_prefix = \"990001\"\nkeep = { 16 = \"6+4\" }",
        "kind = \"iban\"\nscheme = \"random\"\nluhn_prefix = \"990001\"",
        "kind = \"track2\"\nscheme = \"opaque\"",
    ] {
        assert!(matches!(policy(bad, ""), Err(Error::Config(_))), "{bad}");
    }
    let iban = "kind = \"iban\"\nscheme = \"random\"";
    assert_eq!(policy(iban, "formats = [\"f\"]"), Ok(()));
    for bad in ["formats = [\"none\"]", "formats = [\"f\", \"f\"]", "formats = [\"shop\"]"] {
        assert!(matches!(policy(iban, bad), Err(Error::Config(_))), "{bad}");
    }
}
