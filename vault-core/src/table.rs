//! The policy as people write it: a table of merchants, channels, principals and rules, in TOML.
//!
//! It is read by `init` and `policy apply` only; what is in force stands in Control. Refused: unknown keys, names that
//! nothing else knows, formats and masks that would keep too many digits.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::digits::{MAX_DIGIT_STRING, MIN_DIGIT_STRING};
use crate::envelope::KeyKind;
use crate::error::Error;
use crate::hpke::PublicKey;
use crate::name::{
    AuthorityName, ChannelName, DestinationName, FormatName, MerchantName, PrincipalName, RecipientName,
    RuleName,
};
use crate::network::Networks;
use crate::pattern::LuhnPrefix;
use crate::terms::{LEAST_SEALS, Term};
use crate::time::Timestamp;
use crate::token::{self, Keep, Reuse, Scheme, Scope, TokenFormat};
use crate::words::{Action, Kind, Purpose, Show};

/// The most merchants, and the most channels, formats, principals, authorities and rules in one policy: so that Control
/// stays a document that a person can read and a node can hold.
pub const MAX_ROWS: usize = 10_000;

/// The longest name of who answers for a recipient's key, in characters.
const MAX_OWNER: usize = 128;

/// The longest policy text, in bytes.
pub const MAX_POLICY: usize = 4 * 1024 * 1024;

/// The whole policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Certificate authorities whose certificates name principals and operators.
    #[serde(default, rename = "authority", skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<Authority>,
    /// Merchants, each with its formats and channels.
    #[serde(default, rename = "merchant", skip_serializing_if = "Vec::is_empty")]
    pub merchants: Vec<Merchant>,
    /// Who may ask.
    #[serde(default, rename = "principal", skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<Principal>,
    /// Who may administer.
    #[serde(default, rename = "operator", skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<Operator>,
    /// How long and how often keys protect new things, where that is less than the default.
    #[serde(default, rename = "cryptoperiod", skip_serializing_if = "Vec::is_empty")]
    pub cryptoperiods: Vec<Cryptoperiod>,
    /// What is allowed and what is not.
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// How long and how often the keys of one kind protect new things. It shortens the terms of [`crate::terms`] and never
/// lengthens them. In the policy, so that every node goes by the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cryptoperiod {
    /// Which kind, such as `dek`.
    pub kind: KeyKind,
    /// Days from when a key was made; absent: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// Seals of one key; absent: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
}

/// A certificate authority, known by the SHA-256 of its `SubjectPublicKeyInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Its name in this policy.
    pub id: AuthorityName,
    /// SHA-256 of its `SubjectPublicKeyInfo`, 64 hexadecimal digits, as `vaultctl certs inventory` prints it.
    pub sha256: String,
}

/// A merchant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merchant {
    /// Its name; it never changes.
    pub id: MerchantName,
    /// 0, or 5 if the merchant will ever have `ff1` tokens; it never changes.
    #[serde(default)]
    pub ff1_slots: u8,
    /// What a mask shows, per card number length: `{ 16 = "6+4" }`. A length not named shows what is always allowed:
    /// first 6 and last 4 of 15 to 19 digits, last 4 of 12 to 14.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mask: BTreeMap<String, String>,
    /// How tokens are made.
    #[serde(default, rename = "format", skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<Format>,
    /// Where cards are taken.
    #[serde(default, rename = "channel", skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// To whom cards may be sealed.
    #[serde(default, rename = "recipient", skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Recipient>,
}

/// Somebody who holds a private key and may be given cards sealed to it: a processor, an acquirer, a fraud service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// Its name in requests, rules and the log.
    pub id: RecipientName,
    /// Who answers for the private key, for people: 1 to 128 characters.
    pub owner: String,
    /// The public key (X25519): base64 of 32 bytes, as `vaultctl recipient keygen` prints it.
    pub key: String,
    /// The last day of its use, UTC: `2027-12-31`.
    pub expires: String,
    /// The recipient that took its place: from then on nothing is sealed to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<RecipientName>,
}

/// How tokens are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// Its name.
    pub id: FormatName,
    /// For which kind of value: `card`, `network_token`, `reference`, `iban`, `us_account`, `digits`, `phone`, `email` or
    /// `bytes`.
    #[serde(default = "card", skip_serializing_if = "is_card")]
    pub kind: Kind,
    /// `random`, `mixed`, `opaque` or `ff1`; docs/methods.md says which of them a kind has.
    pub scheme: Scheme,
    /// `reuse` (the same card gives the same token) or `fresh`.
    #[serde(default)]
    pub mode: Reuse,
    /// `merchant` or `channel`: where the same card gives the same token.
    #[serde(default)]
    pub scope: Scope,
    /// Which digits a token keeps, per card number length: `{ 15 = "6+4", 16 = "6+4" }`; other lengths are refused.
    /// Absent: every length, with first 6 and last 4 of 15 to 19 digits and last 4 of 12 to 14; of `ff1`, which must
    /// hide seven digits, first 6 and last 4 of 17 to 19 digits and last 4 of 12 to 16. Of `digits`: lengths of 6
    /// to 32, each with `0+0` or `0+4`; absent: every length, and nothing kept. Of other kinds: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, String>,
    /// Of `email` and `mixed` alone: whether tokens keep the domain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_domain: bool,
    /// Of cards or network tokens and `random` alone: tokens begin with these 4 to 8 digits, 99 in front, where nobody
    /// issues card numbers, and PASS the Luhn check. For systems that refuse anything else; everything else that looks for
    /// card numbers will take such a token for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub luhn_prefix: Option<String>,
}

fn card() -> Kind {
    Kind::Card
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands a reference")]
fn is_card(kind: &Kind) -> bool {
    *kind == Kind::Card
}

/// What kind of payment acceptance channel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelKind {
    /// A web shop.
    ECommerce,
    /// A mobile app.
    InApp,
    /// A till.
    PointOfSale,
    /// Social commerce.
    Social,
    /// A payment link sent by e-mail or message.
    PayByLink,
    /// Mail order and telephone order: a call centre.
    Moto,
    /// A marketplace.
    Marketplace,
}

/// A payment acceptance channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its name.
    pub id: ChannelName,
    /// What it is.
    pub kind: ChannelKind,
    /// The format of tokens made here, where the request names none.
    pub format: FormatName,
    /// Formats for other kinds of values than `format`'s, one for each. Values of a kind that has none here are not taken
    /// on this channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<FormatName>,
}

/// Who may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Its name in rules and in the log.
    pub id: PrincipalName,
    /// Which authority issues its certificate. Absent for a principal of the embedded library, which no certificate
    /// can ever be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityName>,
    /// Its certificate's one URI name, else its one DNS name, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The one merchant it acts for.
    pub merchant: MerchantName,
    /// The one channel it acts on, if it is bound to one; a request may then leave the channel out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelName>,
}

/// Who may administer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Its name in the log.
    pub id: PrincipalName,
    /// Which authority issues its certificate.
    pub authority: AuthorityName,
    /// Its certificate's one URI name, else its one DNS name, exactly.
    pub name: String,
}

/// Whether a rule says yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Yes, unless another rule says no.
    Allow,
    /// No, whatever other rules say.
    Deny,
}

/// One line of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of the file, and absent says no")]
pub struct Rule {
    /// Its name in `policy explain`.
    pub id: RuleName,
    /// Yes or no.
    pub effect: Effect,
    /// Whose.
    pub merchant: MerchantName,
    /// Where; empty means on every channel of the merchant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelName>,
    /// Who; empty means every principal of the merchant, and only a `deny` rule may say so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<PrincipalName>,
    /// What.
    pub actions: Vec<Action>,
    /// What for; empty means for every purpose, but for `export` in a rule that allows: that one is always named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<Purpose>,
    /// The most that an answer shows of a card number.
    #[serde(default = "nothing", skip_serializing_if = "is_nothing")]
    pub show: Show,
    /// Whether the answer to a tokenize says that the token is new or was there before: who is told can tell whether a
    /// card is known here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tells_reuse: bool,
    /// Whether this is an import, which has no guess budget.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub import: bool,
    /// Demands that card numbers go out sealed or not at all. An `allow` rule so marked gives none in the clear; a `deny`
    /// rule so marked denies those in the clear, whatever other rules say, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed_only: bool,
    /// To which recipients card numbers may be sealed; empty means to every one of the merchant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<RecipientName>,
    /// To which destinations of the server's settings it may send card numbers; empty means to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<DestinationName>,
    /// Whether vaultless (`ff1`) tokens may be made and opened: whatever has their shape opens to something, so it is a
    /// right of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vaultless: bool,
}

fn nothing() -> Show {
    Show::Nothing
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands a reference")]
fn is_nothing(show: &Show) -> bool {
    *show == Show::Nothing
}

/// What is wrong with a policy. The words may quote the file; if that brings a card number, nothing is quoted.
fn wrong(what: impl std::fmt::Display) -> Error {
    let said = format!("policy: {what}");
    if crate::pan::holds_card_number(&said) {
        return Error::Config("policy: a card number stands where a name or a length belongs".to_owned());
    }
    Error::Config(said)
}

impl Policy {
    /// Reads and checks a policy. The error says which line or which row is wrong, and what would be right.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_POLICY {
            return Err(wrong("longer than 4 MiB"));
        }
        let policy: Self = toml::from_str(text).map_err(|e| wrong(describe(text, &e)))?;
        policy.check()?;
        Ok(policy)
    }

    /// The policy as TOML, as `policy show` prints it and `policy apply` takes it back.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|_| Error::internal())
    }

    /// Whether every name is known and given once, and every format and mask keeps no more than is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let rows = self.authorities.len() + self.merchants.len() + self.principals.len();
        let inner: usize =
            self.merchants.iter().map(|m| m.formats.len() + m.channels.len() + m.recipients.len()).sum();
        if rows + inner + self.operators.len() + self.rules.len() > MAX_ROWS {
            return Err(wrong(format!("more than {MAX_ROWS} rows")));
        }
        let authorities = once("authority", self.authorities.iter().map(|a| a.id.as_str()))?;
        once("authority sha256", self.authorities.iter().map(|a| a.sha256.as_str()))?;
        for authority in &self.authorities {
            let hex = &authority.sha256;
            if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong(format!(
                    "authority {}: sha256 must be 64 lower-case hex digits",
                    authority.id
                )));
            }
        }
        once("merchant", self.merchants.iter().map(|m| m.id.as_str()))?;
        for merchant in &self.merchants {
            merchant.check()?;
        }
        let listed = self.principals.iter().map(|p| p.id.as_str());
        once("principal or operator", listed.chain(self.operators.iter().map(|o| o.id.as_str())))?;
        let mut certificates = BTreeSet::new();
        for principal in &self.principals {
            self.check_principal(principal, &authorities)?;
        }
        for operator in &self.operators {
            if !authorities.contains(operator.authority.as_str()) {
                return Err(wrong(format!("operator {}: no authority {}", operator.id, operator.authority)));
            }
            check_certificate_name(&operator.id, &operator.name)?;
        }
        let named = self.principals.iter().filter_map(|p| Some((p.authority.as_ref()?, p.name.as_ref()?)));
        for certificate in named.chain(self.operators.iter().map(|o| (&o.authority, &o.name))) {
            if !certificates.insert(certificate) {
                return Err(wrong(format!(
                    "two rows for one certificate name of authority {}",
                    certificate.0
                )));
            }
        }
        once("cryptoperiod", self.cryptoperiods.iter().map(|c| c.kind.as_str()))?;
        self.cryptoperiods.iter().try_for_each(Cryptoperiod::check)?;
        once("rule", self.rules.iter().map(|r| r.id.as_str()))?;
        self.rules.iter().try_for_each(|rule| self.check_rule(rule))
    }

    fn check_principal(&self, principal: &Principal, authorities: &BTreeSet<&str>) -> Result<(), Error> {
        let id = &principal.id;
        match (&principal.authority, &principal.name) {
            (None, None) => {}
            (Some(authority), Some(name)) => {
                if !authorities.contains(authority.as_str()) {
                    return Err(wrong(format!("principal {id}: no authority {authority}")));
                }
                check_certificate_name(id, name)?;
            }
            _ => return Err(wrong(format!("principal {id}: authority and name go together"))),
        }
        let merchant = self
            .merchant(&principal.merchant)
            .ok_or_else(|| wrong(format!("principal {id}: no merchant {}", principal.merchant)))?;
        match &principal.channel {
            Some(channel) if !merchant.channels.iter().any(|c| c.id == *channel) => {
                Err(wrong(format!("principal {id}: merchant {} has no channel {channel}", merchant.id)))
            }
            _ => Ok(()),
        }
    }

    fn check_rule(&self, rule: &Rule) -> Result<(), Error> {
        let id = &rule.id;
        let merchant = self
            .merchant(&rule.merchant)
            .ok_or_else(|| wrong(format!("rule {id}: no merchant {}", rule.merchant)))?;
        if let Some(channel) = rule.channels.iter().find(|c| !merchant.channels.iter().any(|m| m.id == **c)) {
            return Err(wrong(format!("rule {id}: merchant {} has no channel {channel}", merchant.id)));
        }
        // Cards may be brought in from another merchant, by a rule that says so and nothing else.
        let translates = rule.actions.as_slice() == [Action::Translate];
        for name in &rule.principals {
            match self.principals.iter().find(|p| p.id == *name) {
                None => return Err(wrong(format!("rule {id}: no principal {name}"))),
                Some(p) if p.merchant != rule.merchant && !translates => {
                    return Err(wrong(format!("rule {id}: principal {name} is of merchant {}", p.merchant)));
                }
                Some(_) => {}
            }
        }
        if rule.effect == Effect::Allow && rule.principals.is_empty() {
            return Err(wrong(format!("rule {id}: an allow rule names its principals")));
        }
        if rule.actions.is_empty() {
            return Err(wrong(format!("rule {id}: actions is empty")));
        }
        if let Some(action) = rule.actions.iter().find(|a| a.is_administrative()) {
            return Err(wrong(format!("rule {id}: {action} is for operators, not for rules")));
        }
        let shows = |a: &Action| matches!(a, Action::Detokenize | Action::Inspect | Action::ListBySubject);
        let shows = rule.actions.iter().any(shows);
        if rule.effect == Effect::Allow && shows && rule.show == Show::Nothing {
            return Err(wrong(format!(
                "rule {id}: say what it shows: show = \"full\", \"masked\" or \"last_four\""
            )));
        }
        if rule.show == Show::Full && !rule.actions.contains(&Action::Detokenize) {
            return Err(wrong(format!("rule {id}: only detokenize can show a card number in full")));
        }
        check_outlets(rule, merchant)
    }

    /// Refuses a prefix for tokens that pass the Luhn check in which some network of the list has card numbers.
    pub fn check_prefixes(&self, networks: &Networks) -> Result<(), Error> {
        for (merchant, format, prefix) in self.prefixes() {
            if prefix.is_issued(networks) {
                return Err(wrong(format!(
                    "merchant {merchant}: format {}: luhn_prefix: a card network has numbers there",
                    format.id
                )));
            }
        }
        Ok(())
    }

    /// What is allowed and to be thought over: where, and what.
    #[must_use]
    pub fn doubts(&self) -> Vec<(String, String)> {
        let doubt = |(merchant, format, _): (&MerchantName, &Format, LuhnPrefix)| {
            let path = format!("merchant.{merchant}.format.{}", format.id);
            let what = "its tokens pass the Luhn check: scanners and people will take them for card numbers";
            (path, what.to_owned())
        };
        self.prefixes().map(doubt).collect()
    }

    fn prefixes(&self) -> impl Iterator<Item = (&MerchantName, &Format, LuhnPrefix)> {
        let formats = self.merchants.iter().flat_map(|m| m.formats.iter().map(move |f| (&m.id, f)));
        formats.filter_map(|(merchant, format)| {
            let prefix = LuhnPrefix::parse(format.luhn_prefix.as_deref()?).ok()?;
            Some((merchant, format, prefix))
        })
    }

    /// The merchant of that name.
    #[must_use]
    pub fn merchant(&self, id: &MerchantName) -> Option<&Merchant> {
        self.merchants.iter().find(|m| m.id == *id)
    }
}

impl Cryptoperiod {
    fn check(&self) -> Result<(), Error> {
        let Self { kind, days, uses } = self;
        let kind_of = kind.as_str();
        let longest = Term::longest(*kind);
        let bound = |what: &str, asked: Option<u64>, least: u64, most: Option<u64>| match (asked, most) {
            (None, _) => Ok(()),
            (Some(_), None) => {
                Err(wrong(format!("cryptoperiod {kind_of}: a key of this kind has no limit of {what}")))
            }
            (Some(asked), Some(most)) if (least..=most).contains(&asked) => Ok(()),
            (Some(_), Some(most)) => Err(wrong(format!(
                "cryptoperiod {kind_of}: {what} must be {least} to {most}: a policy shortens the default and never lengthens it"
            ))),
        };
        bound("days", days.map(u64::from), 1, longest.days.map(u64::from))?;
        bound("uses", *uses, LEAST_SEALS, longest.uses)
    }
}

impl Merchant {
    fn check(&self) -> Result<(), Error> {
        let id = &self.id;
        if !matches!(self.ff1_slots, 0 | 5) {
            return Err(wrong(format!("merchant {id}: ff1_slots must be 0 or 5, and never changes")));
        }
        once(&format!("merchant {id}: format"), self.formats.iter().map(|f| f.id.as_str()))?;
        once(&format!("merchant {id}: channel"), self.channels.iter().map(|c| c.id.as_str()))?;
        self.channels.iter().try_for_each(|channel| self.check_channel(channel))?;
        once(&format!("merchant {id}: recipient"), self.recipients.iter().map(|r| r.id.as_str()))?;
        once(&format!("merchant {id}: recipient key"), self.recipients.iter().map(|r| r.key.as_str()))?;
        for recipient in &self.recipients {
            recipient.check(self)?;
        }
        self.check_vaultless()?;
        let mut kept = [(); 2].map(|()| self.masks()).into_iter().collect::<Result<Vec<_>, _>>()?;
        for format in &self.formats {
            let built =
                format.build().map_err(|e| wrong(format!("merchant {id}: format {}: {e}", format.id)))?;
            // A network token's digits are none of its card's.
            let number = match format.kind {
                Kind::Card => kept.first_mut(),
                Kind::NetworkToken => kept.last_mut(),
                Kind::Reference
                | Kind::Iban
                | Kind::UsAccount
                | Kind::Digits
                | Kind::Phone
                | Kind::Email
                | Kind::Bytes => None,
            };
            for (length, keeps) in number.into_iter().flatten() {
                keeps.extend(built.keep(*length));
            }
        }
        for (length, keeps) in kept.into_iter().flatten() {
            token::union_allowed(length, &keeps).map_err(|e| {
                wrong(format!("merchant {id}: formats and masks of {length} digits together: {e}"))
            })?;
        }
        Ok(())
    }

    /// Vaultless formats need slots, give the same card the same token always, and are not for channels where people type.
    fn check_vaultless(&self) -> Result<(), Error> {
        let id = &self.id;
        for format in self.formats.iter().filter(|f| f.scheme == Scheme::Ff1) {
            if self.ff1_slots == 0 {
                return Err(wrong(format!(
                    "merchant {id}: format {}: scheme ff1 needs ff1_slots = 5, which a merchant gets when it is made or never",
                    format.id
                )));
            }
            if format.kind != Kind::Card || format.luhn_prefix.is_some() {
                return Err(wrong(format!(
                    "merchant {id}: format {}: scheme ff1 is for card numbers alone, and no token of it passes Luhn",
                    format.id
                )));
            }
            if format.mode == Reuse::Fresh {
                return Err(wrong(format!(
                    "merchant {id}: format {}: scheme ff1 gives a card the same token always; leave mode out",
                    format.id
                )));
            }
            let own = |channel: &&Channel| {
                let takes = channel.format == format.id || channel.formats.contains(&format.id);
                takes && channel.kind.is_typed()
            };
            if let Some(channel) = self.channels.iter().find(own) {
                return Err(wrong(format!(
                    "merchant {id}: channel {}: people type tokens here, and a mistyped ff1 token may open to another card; \
                     give it a format of another scheme",
                    channel.id
                )));
            }
        }
        Ok(())
    }

    fn check_channel(&self, channel: &Channel) -> Result<(), Error> {
        let place = format!("merchant {}: channel {}", self.id, channel.id);
        let mut kinds = BTreeSet::new();
        for name in std::iter::once(&channel.format).chain(&channel.formats) {
            let format = self.formats.iter().find(|f| f.id == *name);
            let format = format.ok_or_else(|| wrong(format!("{place}: no format {name}")))?;
            if !kinds.insert(format.kind) {
                return Err(wrong(format!("{place}: two formats for {}", format.kind)));
            }
        }
        Ok(())
    }

    /// What a mask shows, for each card number length from 12 to 19.
    fn masks(&self) -> Result<BTreeMap<usize, Vec<Keep>>, Error> {
        if let Some(odd) = self.mask.keys().find(|k| length_of(k).is_none()) {
            return Err(wrong(format!(
                "merchant {}: mask: {odd} is no card number length (12 to 19)",
                self.id
            )));
        }
        (12..=19).map(|length| self.mask_keep(length).map(|keep| (length, vec![keep]))).collect()
    }

    /// What a mask of a card number of `length` digits shows.
    pub fn mask_keep(&self, length: usize) -> Result<Keep, Error> {
        match self.mask.get(&length.to_string()) {
            None => Ok(Keep::default_for(length)),
            Some(text) => {
                keep_of(length, text).map_err(|e| wrong(format!("merchant {}: mask: {e}", self.id)))
            }
        }
    }
}

impl Recipient {
    fn check(&self, merchant: &Merchant) -> Result<(), Error> {
        let (at, id) = (&merchant.id, &self.id);
        let wrong = |what: String| Err(wrong(format!("merchant {at}: recipient {id}: {what}")));
        let plain = !self.owner.is_empty() && self.owner.chars().count() <= MAX_OWNER;
        if !plain || self.owner.chars().any(char::is_control) || crate::pan::holds_card_number(&self.owner) {
            return wrong(format!("owner must be 1 to {MAX_OWNER} characters on one line"));
        }
        if self.public_key().is_none() {
            return wrong(
                "key must be the base64 of an X25519 public key, as vaultctl recipient keygen prints it"
                    .into(),
            );
        }
        if self.ends().is_none() {
            return wrong("expires must be a day, such as 2027-12-31".into());
        }
        match &self.replaced_by {
            Some(next) if next == id || !merchant.recipients.iter().any(|r| r.id == *next) => {
                wrong("replaced_by must name another recipient of the merchant".into())
            }
            _ => Ok(()),
        }
    }

    /// Its public key, if it is one that can be sealed to.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        PublicKey::parse(&BASE64.decode(self.key.as_bytes()).ok()?).ok()
    }

    /// From when on nothing is sealed to it: midnight after the day that it names.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        Timestamp::of_day(&self.expires).map(|day| day.plus_days(1))
    }
}

/// What a rule says of where card numbers go: it must be able to mean something.
fn check_outlets(rule: &Rule, merchant: &Merchant) -> Result<(), Error> {
    let id = &rule.id;
    if let Some(name) =
        rule.recipients.iter().find(|name| !merchant.recipients.iter().any(|r| r.id == **name))
    {
        return Err(wrong(format!("rule {id}: merchant {} has no recipient {name}", merchant.id)));
    }
    let names = !rule.recipients.is_empty() || !rule.destinations.is_empty();
    match rule.effect {
        Effect::Deny if names => {
            Err(wrong(format!("rule {id}: a deny rule names no recipients and no destinations")))
        }
        Effect::Deny if rule.sealed_only && rule.actions != [Action::Detokenize] => {
            Err(wrong(format!("rule {id}: a deny rule with sealed_only has actions = [\"detokenize\"]")))
        }
        Effect::Allow if (names || rule.sealed_only) && rule.show != Show::Full => {
            Err(wrong(format!("rule {id}: sealed_only, recipients and destinations go with show = \"full\"")))
        }
        Effect::Allow | Effect::Deny => Ok(()),
    }
}

impl ChannelKind {
    /// Whether people type tokens here, and mistype them: a vaultless token that is mistyped may be another card's.
    #[must_use]
    pub fn is_typed(self) -> bool {
        match self {
            Self::Moto | Self::Social => true,
            Self::ECommerce | Self::InApp | Self::PointOfSale | Self::PayByLink | Self::Marketplace => false,
        }
    }
}

impl Format {
    /// The format, ready to make tokens.
    pub fn build(&self) -> Result<TokenFormat, String> {
        let built = match self.kind {
            Kind::Card => self.build_number()?,
            Kind::NetworkToken => self.build_number()?.for_network_tokens(),
            Kind::Digits => self.build_other(&self.digits()?)?,
            Kind::Reference | Kind::Iban | Kind::UsAccount | Kind::Phone | Kind::Email | Kind::Bytes => {
                if !self.keep.is_empty() {
                    return Err(token::FormatError::NotOfThisKind.to_string());
                }
                self.build_other(&[])?
            }
        };
        match &self.luhn_prefix {
            None => Ok(built),
            Some(prefix) => {
                let prefix = LuhnPrefix::parse(prefix).map_err(|e| format!("luhn_prefix: {e}"))?;
                built.inside(prefix).map_err(|e| e.to_string())
            }
        }
    }

    fn build_number(&self) -> Result<TokenFormat, String> {
        if self.keep_domain {
            return Err(token::FormatError::NotOfThisKind.to_string());
        }
        let default = |length| match self.luhn_prefix {
            None => Ok(Keep::default_for(length)),
            // The prefix stands where a card has its first digits.
            Some(_) => Keep::new(0, 4),
        };
        let keeps = if self.keep.is_empty() {
            let keeps = (12..=19).map(|length| match self.scheme {
                Scheme::Ff1 => Ok((length, token::default_vaultless_keep(length))),
                Scheme::Random | Scheme::Mixed | Scheme::Opaque => default(length).map(|keep| (length, keep)),
            });
            keeps.collect::<Result<_, _>>().map_err(|e| e.to_string())?
        } else {
            let mut keeps = Vec::with_capacity(self.keep.len());
            for (length, text) in &self.keep {
                let digits = length_of(length)
                    .ok_or_else(|| format!("keep: {length} is no card number length (12 to 19)"))?;
                let keep = keep_of(digits, text)?;
                if self.scheme == Scheme::Ff1 && token::vaultless_keep_allowed(digits, keep).is_err() {
                    return Err(format!(
                        "{length} = \"{text}\": an ff1 token hides seven digits at the least; \"{}\" is what it may keep",
                        token::default_vaultless_keep(digits)
                    ));
                }
                keeps.push((digits, keep));
            }
            keeps
        };
        TokenFormat::new(self.scheme, self.mode, self.scope, &keeps).map_err(|e| e.to_string())
    }

    fn build_other(&self, digits: &[(usize, u8)]) -> Result<TokenFormat, String> {
        TokenFormat::of_kind(self.kind, self.scheme, self.mode, self.scope, digits, self.keep_domain)
            .map_err(|e| e.to_string())
    }

    /// Which lengths of digits are taken, and how many of the last are kept.
    fn digits(&self) -> Result<Vec<(usize, u8)>, String> {
        let lengths = MIN_DIGIT_STRING..=MAX_DIGIT_STRING;
        if self.keep.is_empty() {
            return Ok(lengths.map(|length| (length, 0)).collect());
        }
        let keep = |(length, text): (&String, &String)| {
            let digits = length.parse().ok().filter(|n| lengths.contains(n));
            let digits = digits.ok_or_else(|| token::FormatError::Length.to_string())?;
            match text.as_str() {
                "0+0" => Ok((digits, 0)),
                "0+4" => Ok((digits, 4)),
                _ => Err(token::FormatError::Keep.to_string()),
            }
        };
        self.keep.iter().map(keep).collect()
    }
}

fn length_of(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n| (12..=19).contains(n))
}

/// Reads `6+4` and checks that it is allowed at this length.
fn keep_of(length: usize, text: &str) -> Result<Keep, String> {
    let keep = Keep::parse(text).map_err(|e| format!("{length} = \"{text}\": {e}"))?;
    token::keep_allowed(length, keep).map_err(|e| format!("{length} = \"{text}\": {e}"))?;
    Ok(keep)
}

fn check_certificate_name(id: &PrincipalName, name: &str) -> Result<(), Error> {
    let plain = !name.is_empty() && name.len() <= 200 && name.bytes().all(|b| b.is_ascii_graphic());
    if !plain || name.contains('*') || crate::pan::holds_card_number(name) {
        return Err(wrong(format!(
            "{id}: name must be 1 to 200 printable ASCII characters without spaces or wildcards"
        )));
    }
    Ok(())
}

fn once<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<BTreeSet<&'a str>, Error> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(wrong(format!("{what} {name} is there twice")));
        }
    }
    Ok(seen)
}

/// toml's message with its line, without the line's content: a policy file may hold what does not belong in a log.
fn describe(text: &str, e: &toml::de::Error) -> String {
    let line =
        e.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.matches('\n').count() + 1);
    // A message may quote a value; one that quotes a card number is not passed on.
    let message = e.message();
    let message = if crate::pan::holds_card_number(message) { "is not what this key takes" } else { message };
    format!("line {line}: {message}")
}
