//! `vaultctl format`: what a token format can do, before anybody depends on it.
//!
//! A format never changes once it is in force, so it is worked out here first: from a policy file, from the policy that a
//! vault has in force, or from flags alone. Refused, with the reason: what cannot work.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use vault_client::{AdminClient, v1};
use vault_core::iban::Country;
use vault_core::name::FormatName;
use vault_core::network::Networks;
use vault_core::pattern::LuhnPrefix;
use vault_core::plan::{self, Asked, Ff1, Kept, Method, Plan};
use vault_core::policy::{Format, Merchant, Policy};
use vault_core::time::{Clock as _, SystemClock, Timestamp};
use vault_core::token::{Keep, Reuse, Scheme, Scope};
use vault_core::words::Kind;

use crate::dial::{self, AdminOptions};
use crate::fail::Failure;
use crate::input;
use crate::keys::PAGE;
use crate::output::Out;
use crate::wire::{self, Words as _};

/// Digits of a card number where none are said.
const CARD_LENGTH: usize = 16;

/// Digits behind a country code, and characters of an account or other number, where none are said.
const OTHER_LENGTH: usize = 10;

/// The subcommands of `vaultctl format`.
#[derive(Debug, Subcommand)]
pub(crate) enum FormatCommand {
    /// Say how many tokens there are, how far they can be guessed, when they are used up, and what cannot work
    #[command(
        after_help = "A format is planned from flags, from --policy FILE, or with --live from the policy in force; \
        with --live and what the tokens keep (--first, --last), what is left is asked of the vault.\n\n\
        Exit code 1: it cannot work.\n\nExamples:\n  \
        vaultctl format plan --scheme random --keep 6+4 --length 16 --per-day 20000 --groups 40\n  \
        vaultctl format plan --scheme ff1 --keep 6+0 --ff1-slots 5\n  \
        vaultctl format plan --kind iban --scheme random --country DE\n  \
        vaultctl --json format plan --policy policy.toml --merchant shop\n  \
        vaultctl format plan --live --profile ops.toml --merchant shop --format tight --first 41111111 --last 1111"
    )]
    Plan(Box<PlanCommand>),
    /// Say what is left of the spaces that tokens come from
    #[command(
        after_help = "Without --first, --last, --country or --length: the fullest spaces that the server knows since it was \
        started, of each format the fullest one and all that are four fifths used or more. With them: that one space, \
        exactly, whenever its tokens were made. A space is named by a keyed id, the same in the server's log; no digits \
        that its tokens keep are told.\n\n\
        States: roomy; scarce from 80 hundredths on; nearly_full from 95; used_up.\n\nExamples:\n  \
        vaultctl format space --profile ops.toml\n  \
        vaultctl format space --profile ops.toml --merchant shop --format tight --first 41111111 --last 1111\n  \
        vaultctl --json format space --profile ops.toml --merchant shop --format debit --country DE"
    )]
    Space(Box<SpaceCommand>),
}

/// `format space`.
#[derive(Debug, Args)]
pub(crate) struct SpaceCommand {
    /// Whose formats; of one space it may be left out where the policy has one merchant
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// Which format
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Of one space: how long the values are, as for `format plan`
    #[arg(long, value_name = "NUMBER", requires = "format")]
    length: Option<usize>,
    /// Of one space: whose IBANs
    #[arg(long, value_name = "COUNTRY", value_parser = country, requires = "format")]
    country: Option<Country>,
    /// Of one space: what its tokens keep in front, such as a BIN
    #[arg(long, value_name = "DIGITS", requires = "format")]
    first: Option<String>,
    /// Of one space: what they keep at the end
    #[arg(long, value_name = "DIGITS", requires = "format")]
    last: Option<String>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `format plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    /// Which kind of values
    #[arg(long, value_parser = v1::DataKind::parser(), default_value = "card", conflicts_with_all = ["policy", "live"])]
    kind: v1::DataKind,
    /// How tokens are made
    #[arg(long, value_parser = ["random", "mixed", "opaque", "ff1"], default_value = "random")]
    scheme: String,
    /// What tokens keep, as first+last; else as a policy would have it
    #[arg(long, value_name = "KEEP", conflicts_with_all = ["policy", "live"])]
    keep: Option<String>,
    /// A new token each time, instead of the same for the same value
    #[arg(long, conflicts_with_all = ["policy", "live"])]
    fresh: bool,
    /// Of e-mail: keep the domain
    #[arg(long, conflicts_with_all = ["policy", "live"])]
    keep_domain: bool,
    /// Tokens that pass the Luhn check, behind these digits
    #[arg(long, value_name = "DIGITS", conflicts_with_all = ["policy", "live"])]
    luhn_prefix: Option<String>,
    /// What masks show of a card number, as first+last; else as a policy would have it
    #[arg(long, value_name = "KEEP", conflicts_with_all = ["policy", "live"])]
    mask: Option<String>,
    /// The merchant's slots for vaultless tokens
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=5), default_value = "0", conflicts_with_all = ["policy", "live"])]
    ff1_slots: u8,
    /// Plan the formats of this policy file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    policy: Option<PathBuf>,
    /// Plan the formats that a vault has in force
    #[arg(long)]
    live: bool,
    /// Whose formats; may be left out where the policy has one merchant
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// Which format; else all of them
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// How long the values are: digits of a card or other number, characters of an account, digits behind a country code
    #[arg(long, value_name = "NUMBER")]
    length: Option<usize>,
    /// Whose IBANs
    #[arg(long, value_name = "COUNTRY", value_parser = country)]
    country: Option<Country>,
    /// New tokens a day
    #[arg(long, value_name = "NUMBER")]
    per_day: Option<u64>,
    /// Over how many BINs, banks or countries these are spread
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    groups: u64,
    /// Tokens that are used already
    #[arg(long, value_name = "NUMBER")]
    used: Option<u64>,
    /// What the tokens of one space keep in front: a BIN, a routing number, a country code
    #[arg(long, value_name = "DIGITS", default_value = "", requires = "live")]
    first: String,
    /// What they keep at the end
    #[arg(long, value_name = "DIGITS", default_value = "", requires = "live")]
    last: String,
    #[command(flatten)]
    admin: AdminOptions,
}

fn country(text: &str) -> Result<Country, &'static str> {
    Country::parse(text).ok_or("is no country of the IBAN registry, such as DE")
}

/// Does what the command line says.
pub(crate) fn run(command: FormatCommand, out: Out) -> Result<(), Failure> {
    match command {
        FormatCommand::Plan(asked) => plan_formats(&asked, out),
        FormatCommand::Space(asked) => dial::run(tell_spaces(&asked, out)),
    }
}

fn plan_formats(asked: &PlanCommand, out: Out) -> Result<(), Failure> {
    let plans = if asked.live { dial::run(live(asked))? } else { offline(asked)? };
    out.tell(&Plans { plans: &plans }, |p| p.plans.iter().map(Planned::words).collect::<Vec<_>>().join("\n"))
}

/// A token space as it is told.
#[derive(Debug, Serialize)]
struct SpaceLine {
    merchant: String,
    format: String,
    token_length: u32,
    space: String,
    tokens: String,
    used: u64,
    left: String,
    state: String,
}

impl SpaceLine {
    fn of(space: v1::TokenSpace) -> Self {
        Self {
            merchant: space.merchant,
            format: space.format,
            token_length: space.token_length,
            space: data_encoding::HEXLOWER.encode(&space.space),
            tokens: space.tokens,
            used: space.used,
            left: space.left,
            state: wire::word::<v1::TokenSpaceState>(space.state),
        }
    }

    fn cells(&self) -> [String; 7] {
        let count =
            |text: &str| text.parse().map_or_else(|_| text.to_owned(), |n| plan::Count(n).to_string());
        [
            format!("{}/{}", self.merchant, self.format),
            self.token_length.to_string(),
            self.space.clone(),
            count(&self.tokens),
            count(&self.used.to_string()),
            count(&self.left),
            self.state.clone(),
        ]
    }
}

async fn tell_spaces(asked: &SpaceCommand, out: Out) -> Result<(), Failure> {
    let vault = asked.admin.clone().connect().await?;
    let one =
        asked.length.is_some() || asked.country.is_some() || asked.first.is_some() || asked.last.is_some();
    let spaces = if one { vec![one_space(asked, &vault).await?] } else { fullest(asked, &vault).await? };
    let headers = ["FORMAT", "LENGTH", "SPACE", "TOKENS", "USED", "LEFT", "STATE"];
    let none = "no token was made since the server was started; name a space by --merchant, --format, --first and --last";
    out.tell_table(&spaces, headers, SpaceLine::cells, none)
}

async fn one_space(asked: &SpaceCommand, vault: &AdminClient) -> Result<SpaceLine, Failure> {
    let policy = Policy::from_toml(&vault.get_policy(v1::GetPolicyRequest {}).await?.toml)?;
    let merchant = merchant_of(&policy, asked.merchant.as_deref())?;
    let formats = formats_of(merchant, asked.format.as_deref())?;
    let [format] = formats.as_slice() else { return Err(Failure::usage("name one format with --format")) };
    let country = asked.country.map(|country| country.to_string());
    let request = v1::GetTokenSpaceRequest {
        merchant: merchant.id.to_string(),
        format: format.id.to_string(),
        length: u32::try_from(length_of(format, asked.length)).unwrap_or(u32::MAX),
        first: country.or(asked.first.clone()).unwrap_or_default(),
        last: asked.last.clone().unwrap_or_default(),
    };
    let found = vault.get_token_space(request).await?;
    Ok(SpaceLine::of(v1::TokenSpace {
        merchant: merchant.id.to_string(),
        format: format.id.to_string(),
        token_length: found.token_length,
        space: found.space,
        tokens: found.tokens,
        used: found.used,
        left: found.left,
        state: found.state,
    }))
}

async fn fullest(asked: &SpaceCommand, vault: &AdminClient) -> Result<Vec<SpaceLine>, Failure> {
    let mut request = v1::ListTokenSpacesRequest {
        merchant: asked.merchant.clone().unwrap_or_default(),
        format: asked.format.clone().unwrap_or_default(),
        page_size: PAGE,
        page_token: String::new(),
    };
    let mut spaces = Vec::new();
    loop {
        let page = vault.list_token_spaces(request.clone()).await?;
        spaces.extend(page.spaces.into_iter().map(SpaceLine::of));
        if page.next_page_token.is_empty() {
            return Ok(spaces);
        }
        request.page_token = page.next_page_token;
    }
}

/// The merchant of that name; where none is said, the only one.
fn merchant_of<'p>(policy: &'p Policy, name: Option<&str>) -> Result<&'p Merchant, Failure> {
    let mut found = policy.merchants.iter().filter(|m| name.is_none_or(|name| m.id.as_str() == name));
    match (found.next(), found.next()) {
        (Some(merchant), None) => Ok(merchant),
        (None, _) => Err(Failure::usage("the policy has no such merchant")),
        (Some(_), Some(_)) => {
            Err(Failure::usage("the policy has several merchants; name one with --merchant"))
        }
    }
}

/// The format of that name; where none is said, all of them.
fn formats_of<'m>(merchant: &'m Merchant, name: Option<&str>) -> Result<Vec<&'m Format>, Failure> {
    let formats: Vec<_> =
        merchant.formats.iter().filter(|f| name.is_none_or(|name| f.id.as_str() == name)).collect();
    if formats.is_empty() {
        return Err(Failure::usage(format_args!("merchant {} has no such format", merchant.id)));
    }
    Ok(formats)
}

/// The length asked for; else a card's usual one, or the first that the format names.
fn length_of(format: &Format, asked: Option<usize>) -> usize {
    let usual = if is_number(format.kind) { CARD_LENGTH } else { OTHER_LENGTH };
    let takes = |n: usize| format.keep.is_empty() || format.keep.contains_key(&n.to_string());
    let first = || format.keep.keys().filter_map(|n| n.parse().ok()).min();
    asked.unwrap_or(if takes(usual) { usual } else { first().unwrap_or(usual) })
}

#[derive(Serialize)]
struct Plans<'a> {
    plans: &'a [Planned],
}

/// A plan, by its format's name; or why there is none.
#[derive(Serialize)]
struct Planned {
    format: String,
    #[serde(flatten)]
    plan: Option<Plan>,
    /// The day on which the first space is used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

fn offline(asked: &PlanCommand) -> Result<Vec<Planned>, Failure> {
    if let Some(file) = &asked.policy {
        let policy = Policy::from_toml(&input::small_text(file)?)?;
        return of_policy(asked, &policy, &|_| None);
    }
    let merchant = asked.merchant_of_flags()?;
    let [format] = merchant.formats.as_slice() else {
        return Err(Failure::usage("the flags name no format"));
    };
    let planned = one(asked, &merchant, format, asked.used)?;
    match &planned.refused {
        Some(why) => Err(Failure::refused(format_args!("it cannot work: {why}"))),
        None => Ok(vec![planned]),
    }
}

async fn live(asked: &PlanCommand) -> Result<Vec<Planned>, Failure> {
    let vault = asked.admin.clone().connect().await?;
    let policy = vault.get_policy(v1::GetPolicyRequest {}).await?;
    let policy = Policy::from_toml(&policy.toml)?;
    let mut used = Vec::new();
    let merchant = merchant_of(&policy, asked.merchant.as_deref())?;
    for format in formats_of(merchant, asked.format.as_deref())? {
        let front = asked.country.filter(|_| format.kind == Kind::Iban).map(|c| c.to_string());
        let request = v1::GetTokenSpaceRequest {
            merchant: merchant.id.to_string(),
            format: format.id.to_string(),
            length: u32::try_from(length_of(format, asked.length)).unwrap_or(u32::MAX),
            first: front.unwrap_or_else(|| asked.first.clone()),
            last: asked.last.clone(),
        };
        // Of a format that keeps something else than was said there is no such space.
        let named = asked.format.is_some() || !asked.first.is_empty() || format.kind == Kind::Iban;
        let space = if named { vault.get_token_space(request).await.ok() } else { None };
        used.push((format.id.clone(), space.map(|s| s.used)));
    }
    let used_of = |id: &FormatName| used.iter().find(|(name, _)| name == id).and_then(|(_, used)| *used);
    of_policy(asked, &policy, &used_of)
}

fn of_policy(
    asked: &PlanCommand,
    policy: &Policy,
    used: &dyn Fn(&FormatName) -> Option<u64>,
) -> Result<Vec<Planned>, Failure> {
    let merchant = merchant_of(policy, asked.merchant.as_deref())?;
    let formats = formats_of(merchant, asked.format.as_deref())?;
    formats.into_iter().map(|format| one(asked, merchant, format, asked.used.or(used(&format.id)))).collect()
}

/// The plan of one format, or why there is none.
fn one(
    asked: &PlanCommand,
    merchant: &Merchant,
    format: &Format,
    used: Option<u64>,
) -> Result<Planned, Failure> {
    let length = length_of(format, asked.length);
    let number = matches!(format.kind, Kind::Card | Kind::NetworkToken);
    let mask = if number { merchant.mask_keep(length)? } else { Keep::NOTHING };
    let flags = asked.policy.is_none() && !asked.live;
    let method = if flags { Method::parse(&asked.scheme) } else { None };
    let question = Asked {
        format,
        method: method.unwrap_or_else(|| format.scheme.into()),
        length,
        country: asked.country,
        kept: Kept { first: &asked.first, last: &asked.last },
        mask,
        ff1_slots: merchant.ff1_slots,
        used,
        per_day: asked.per_day,
        groups: asked.groups,
    };
    let issued = format.luhn_prefix.as_deref().and_then(|p| LuhnPrefix::parse(p).ok());
    let issued = issued.is_some_and(|prefix| prefix.is_issued(&Networks::builtin()));
    let planned = match plan::plan(&question) {
        Ok(_) if issued => Err("a card network has numbers behind that luhn_prefix".to_owned()),
        Ok(plan) => Ok(plan),
        Err(why) => Err(why.to_string()),
    };
    let full_on = planned.as_ref().ok().and_then(|plan| day(SystemClock.now(), plan.full_in_days?));
    let format = format.id.to_string();
    Ok(match planned {
        Ok(plan) => Planned { format, plan: Some(plan), full_on, refused: None },
        Err(why) => Planned { format, plan: None, full_on: None, refused: Some(why) },
    })
}

/// The date so many days from now; none beyond the year 9999.
fn day(now: Timestamp, days: u128) -> Option<String> {
    let days = u32::try_from(days).ok().filter(|days| *days < 2_900_000)?;
    let seconds = i64::try_from(now.plus_days(days).0 / 1_000).ok()?;
    let text = wire::moment(Some(&prost_types::Timestamp { seconds, nanos: 0 }))?;
    text.split('T').next().map(str::to_owned)
}

impl PlanCommand {
    /// A merchant with the one format that the flags describe.
    fn merchant_of_flags(&self) -> Result<Merchant, Failure> {
        let kind = u8::try_from(i32::from(self.kind)).ok().and_then(Kind::from_id).unwrap_or(Kind::Card);
        let scheme = match self.scheme.as_str() {
            "mixed" => Scheme::Mixed,
            "opaque" => Scheme::Opaque,
            _ => Scheme::Random,
        };
        let length = self.length.unwrap_or(if is_number(kind) { CARD_LENGTH } else { OTHER_LENGTH });
        let at = |text: &String| (length.to_string(), text.clone());
        let name = |text| FormatName::parse(text).map_err(Failure::usage);
        let format = Format {
            id: name("planned")?,
            kind,
            scheme,
            mode: if self.fresh { Reuse::Fresh } else { Reuse::Reuse },
            scope: Scope::Merchant,
            keep: self.keep.iter().map(at).collect(),
            keep_domain: self.keep_domain,
            luhn_prefix: self.luhn_prefix.clone(),
        };
        let id = vault_core::name::MerchantName::parse("planned").map_err(Failure::usage)?;
        let mask = self.mask.iter().map(at).collect();
        let (formats, channels, recipients) = (vec![format], Vec::new(), Vec::new());
        Ok(Merchant { id, ff1_slots: self.ff1_slots, mask, formats, channels, recipients })
    }
}

fn is_number(kind: Kind) -> bool {
    matches!(kind, Kind::Card | Kind::NetworkToken)
}

impl Planned {
    fn words(&self) -> String {
        let mut text = String::new();
        let Some(plan) = &self.plan else {
            let why = self.refused.as_deref().unwrap_or_default();
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "{}: cannot work: {why}", self.format);
            return text;
        };
        let length = if plan.length == 0 { String::new() } else { format!(", length {}", plan.length) };
        let _ = writeln!(text, "{} ({}, {}{length})", self.format, plan.kind, plan.method.as_str());
        let of = match (plan.kind, plan.spaces) {
            (Kind::Card | Kind::NetworkToken, 1) => " in each space of one look".to_owned(),
            (_, 1) => String::new(),
            (_, spaces) => {
                format!(" for each BIN and last four: {} such spaces a BIN", plan::Count(spaces.into()))
            }
        };
        let _ = writeln!(text, "  tokens    {}{of}", plan.tokens);
        if let Some(left) = plan.left {
            let _ = writeln!(text, "  left      {left}");
        }
        let ff1 = match plan.ff1 {
            Ff1::Allowed { domain } => format!("allowed: {domain} inputs"),
            Ff1::Refused { why } => format!("refused: {why}"),
        };
        let _ = writeln!(text, "  ff1       {ff1}");
        let _ = writeln!(text, "  guesses   {}", guesses(plan));
        let full = match (&self.full_on, plan.full_in_days) {
            (Some(day), Some(days)) => format!("on {day}, in {} days, if evenly spread", plan::Count(days)),
            (None, Some(days)) => format!("in {} days", plan::Count(days)),
            (_, None) => "not known, or never; say --per-day".to_owned(),
        };
        let _ = writeln!(text, "  used up   {full}");
        let erasure =
            if plan.erasable_by_subject { "possible by data subject" } else { "not by data subject" };
        let _ = writeln!(text, "  erasure   {erasure}");
        for warning in &plan.warnings {
            let _ = writeln!(text, "  warning   {warning}");
        }
        text
    }
}

fn guesses(plan: &Plan) -> String {
    match (plan.guesses, plan.guess_days) {
        (None, _) => "as many as there are candidates on a list".to_owned(),
        (Some(count), None) => {
            format!("{count} values fit token and mask; a fresh token tells nothing of them")
        }
        (Some(count), Some(days)) => {
            format!(
                "{count} values fit token and mask; one principal needs {} days for all",
                plan::Count(days)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        plan: PlanCommand,
    }

    fn planned(line: &str) -> Result<String, String> {
        let asked = Line::try_parse_from(std::iter::once("plan").chain(line.split_whitespace()));
        let asked = asked.map_err(|e| e.to_string())?.plan;
        let plans = offline(&asked).map_err(|e| e.to_string())?;
        Ok(plans.iter().map(Planned::words).collect())
    }

    #[test]
    fn a_plan_tells_tokens_guesses_exhaustion_and_erasure() {
        let told = planned("--scheme random --keep 6+4 --ff1-slots 5 --used 100 --per-day 1000000").unwrap();
        for line in [
            "planned (card, random, length 16)",
            "tokens    400,000 for each BIN and last four: 10,000 such spaces a BIN",
            "left      399,900",
            "refused: fewer than 7 digits",
            "100,000 values fit token and mask; one principal needs 20,000 days",
            "in 3,999 days",
            "possible by data subject",
        ] {
            assert!(told.contains(line), "{line} in\n{told}");
        }
        let told = planned("--scheme ff1 --keep 6+0 --ff1-slots 5").unwrap();
        assert!(told.contains("about 10^9") || told.contains("1,000,000,000"), "{told}");
        assert!(told.contains("not by data subject") && told.contains("five slots for life"), "{told}");
        let told = planned("--kind email --scheme mixed --fresh").unwrap();
        assert!(told.contains("candidates on a list") && !told.contains("warning"), "{told}");
        let told = planned("--kind phone --scheme mixed").unwrap();
        assert!(told.contains("length 10") && told.contains("list of candidates"), "{told}");
        let told = planned("--luhn-prefix 990001 --keep 0+4").unwrap();
        assert!(told.contains("100,000") && told.contains("pass the Luhn check"), "{told}");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        for (line, why) in [
            ("--scheme ff1 --keep 6+4 --ff1-slots 5", "7 digits"),
            ("--scheme ff1 --keep 6+0", "no slots"),
            ("--scheme ff1 --kind iban --country DE", "check digit"),
            ("--kind iban", "country must be named"),
            ("--kind phone --scheme random", "no tokens of this scheme"),
            ("--keep 8+4 --length 15", "more digits than"),
            ("--kind digits --length 5", "length"),
            ("--luhn-prefix 411111 --keep 0+4", "must begin with 99"),
            ("--keep 8+4 --used 9001", "more tokens are used"),
            ("--country ZZ", "no country"),
        ] {
            let told = planned(line).unwrap_err();
            assert!(told.contains(why), "{line}: {told}");
        }
    }

    #[test]
    fn a_policy_files_formats_are_planned_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        let policy = "[[merchant]]\nid = \"shop\"\n[[merchant.format]]\nid = \"cards\"\nscheme = \"random\"\n\
            [[merchant.format]]\nid = \"gift\"\nkind = \"digits\"\nscheme = \"random\"\nkeep = { 19 = \"0+4\" }\n\
            [[merchant.format]]\nid = \"debit\"\nkind = \"iban\"\nscheme = \"random\"\n";
        std::fs::write(&file, policy).unwrap();
        let told = planned(&format!("--policy {}", file.display())).unwrap();
        assert!(told.contains("cards (card, random, length 16)"), "{told}");
        assert!(told.contains("gift (digits, random, length 19)"), "{told}");
        assert!(told.contains("debit: cannot work: of IBANs the country"), "{told}");
        let one = planned(&format!("--policy {} --format debit --country NO", file.display())).unwrap();
        assert!(one.contains("debit (iban, random)") && !one.contains("cards"), "{one}");
        for (more, why) in [("--merchant other", "no such merchant"), ("--format none", "no such format")] {
            let told = planned(&format!("--policy {} {more}", file.display())).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_date_is_told_as_far_as_there_are_dates() {
        let now = Timestamp(1_790_000_000_000);
        assert_eq!(day(now, 0).as_deref(), Some("2026-09-21"));
        assert_eq!(day(now, 365).as_deref(), Some("2027-09-21"));
        assert_eq!(day(now, 10_000_000), None);
    }
}
