//! What is known around a card beside its number: who holds it, from where, under which agreement, and the references
//! that networks and processors gave it.
//!
//! Each field is checked where it comes in. Refused: a card number in any of them, more than the bounds say, control
//! characters. Nothing here is shown by Debug: it is personal data.

use std::collections::BTreeMap;

use crate::codec::{Reader, Torn, Writer};
use crate::error::Error;
use crate::name::{NetworkName, ProcessorName};
use crate::pan;
pub use crate::par::Par;
use crate::par::ParError;
use crate::time::Timestamp;
use crate::words::AgreementKind;

/// The longest card holder name, in bytes: EMV tag 9F0B has 45 characters, which UTF-8 may make longer.
pub const MAX_HOLDER: usize = 128;

/// The longest network transaction id, in bytes: Visa and American Express have 15 characters, Mastercard 13.
pub const MAX_TRANSACTION: usize = 64;

/// The longest reference of a processor, in bytes.
pub const MAX_REFERENCE: usize = 128;

/// The most networks, and the most processors, that one card has a reference of: bounds a row.
pub const MAX_REFERENCES: usize = 8;

/// The card holder's name.
#[derive(Clone, PartialEq, Eq)]
pub struct HolderName(String);

/// A country: ISO 3166-1 alpha-2, two capital letters, user-assigned codes such as XK included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Country([u8; 2]);

/// The id that a network gave a transaction: what a later payment of the merchant's refers to.
#[derive(Clone, PartialEq, Eq)]
pub struct TransactionId(String);

/// What a processor calls the card.
#[derive(Clone, PartialEq, Eq)]
pub struct ProcessorReference(String);

/// What the card holder agreed to, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// For which kind of later payments.
    pub kind: AgreementKind,
    /// When consent was given.
    pub consent_at: Timestamp,
}

macro_rules! texts {
    ($($name:ident),+) => {$(
        impl $name {
            /// The text as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )+};
}

texts!(HolderName, TransactionId, ProcessorReference);

impl HolderName {
    /// Takes 1 to 128 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let field = "attributes.card_holder";
        bounded(field, text, MAX_HOLDER, "must have at most 128 bytes and no control characters")?;
        no_card(field, text)?;
        Ok(Self(text.to_owned()))
    }
}

impl Country {
    /// Takes two capital letters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match *text.as_bytes() {
            [a @ b'A'..=b'Z', b @ b'A'..=b'Z'] => Ok(Self([a, b])),
            _ => Err(Error::malformed(
                "attributes.billing_country",
                "must be two capital letters of ISO 3166-1 alpha-2",
            )),
        }
    }

    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl From<ParError> for Error {
    fn from(e: ParError) -> Self {
        Self::malformed("attributes.par", e.rule())
    }
}

impl TransactionId {
    /// Takes 1 to 64 printable ASCII characters. A card number is refused; but Visa's ids have 15 digits, of which one
    /// in ten passes the Luhn check, and no Visa card has 15: under `visa`, 15 digits are an id.
    pub fn parse(network: &NetworkName, text: &str) -> Result<Self, Error> {
        let field = "attributes.network_transactions";
        let rule = "must have 1 to 64 printable ASCII characters";
        bounded(field, text, MAX_TRANSACTION, rule)?;
        if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return Err(Error::malformed(field, rule));
        }
        let visas_own =
            network.as_str() == "visa" && text.len() == 15 && text.bytes().all(|b| b.is_ascii_digit());
        if !visas_own {
            no_card(field, text)?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl ProcessorReference {
    /// Takes 1 to 128 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let field = "attributes.processor_references";
        bounded(field, text, MAX_REFERENCE, "must have 1 to 128 bytes and no control characters")?;
        no_card(field, text)?;
        Ok(Self(text.to_owned()))
    }
}

fn bounded(field: &'static str, text: &str, most: usize, rule: &'static str) -> Result<(), Error> {
    if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
        return Err(Error::malformed(field, rule));
    }
    Ok(())
}

fn no_card(field: &'static str, text: &str) -> Result<(), Error> {
    if pan::holds_card_number(text) {
        return Err(Error::malformed(field, "must not hold a card number"));
    }
    Ok(())
}

/// What is known around a card.
// INVARIANT: at most MAX_REFERENCES of each map; change() and read() see to it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// The card holder's name.
    pub card_holder: Option<HolderName>,
    /// The billing address's country.
    pub billing_country: Option<Country>,
    /// The payment account reference.
    pub par: Option<Par>,
    /// Under which agreement it is kept.
    pub agreement: Option<Agreement>,
    /// The id of a transaction, per network.
    pub network_transactions: BTreeMap<NetworkName, TransactionId>,
    /// What each processor calls the card.
    pub processor_references: BTreeMap<ProcessorName, ProcessorReference>,
}

/// One field of [`Attributes`], to be emptied by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// `card_holder`.
    CardHolder,
    /// `billing_country`.
    BillingCountry,
    /// `par`.
    Par,
    /// `agreement`.
    Agreement,
    /// `network_transactions`, all of them.
    NetworkTransactions,
    /// `processor_references`, all of them.
    ProcessorReferences,
    /// The card's own expiry, which stands beside the attributes: `card_expiry`.
    CardExpiry,
}

impl Attribute {
    /// Every field.
    pub const ALL: &'static [Self] = &[
        Self::CardHolder,
        Self::BillingCountry,
        Self::Par,
        Self::Agreement,
        Self::NetworkTransactions,
        Self::ProcessorReferences,
        Self::CardExpiry,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CardHolder => "card_holder",
            Self::BillingCountry => "billing_country",
            Self::Par => "par",
            Self::Agreement => "agreement",
            Self::NetworkTransactions => "network_transactions",
            Self::ProcessorReferences => "processor_references",
            Self::CardExpiry => "card_expiry",
        }
    }

    /// The field of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.as_str() == text)
    }
}

impl Attributes {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Empties the fields of `clear`, then takes over what `set` has; of the maps, entry by entry.
    pub fn change(&mut self, set: Self, clear: &[Attribute]) -> Result<(), Error> {
        let mut changed = self.clone();
        for field in clear {
            changed.empty(*field);
        }
        let Self { card_holder, billing_country, par, agreement, network_transactions, processor_references } =
            set;
        changed.card_holder = card_holder.or(changed.card_holder);
        changed.billing_country = billing_country.or(changed.billing_country);
        changed.par = par.or(changed.par);
        changed.agreement = agreement.or(changed.agreement);
        changed.network_transactions.extend(network_transactions);
        changed.processor_references.extend(processor_references);
        changed.check()?;
        *self = changed;
        Ok(())
    }

    /// Whether the bounds are kept.
    pub fn check(&self) -> Result<(), Error> {
        for (field, count) in [
            ("attributes.network_transactions", self.network_transactions.len()),
            ("attributes.processor_references", self.processor_references.len()),
        ] {
            if count > MAX_REFERENCES {
                return Err(Error::malformed(field, "must have at most 8 entries"));
            }
        }
        Ok(())
    }

    fn empty(&mut self, field: Attribute) {
        match field {
            Attribute::CardHolder => self.card_holder = None,
            Attribute::BillingCountry => self.billing_country = None,
            Attribute::Par => self.par = None,
            Attribute::Agreement => self.agreement = None,
            Attribute::NetworkTransactions => self.network_transactions.clear(),
            Attribute::ProcessorReferences => self.processor_references.clear(),
            // It is none of these: the row has it.
            Attribute::CardExpiry => {}
        }
    }

    /// 0 where nothing is known; else 1, `e(name) e(country) e(PAR)`, agreement u8 (0 none) and consent u64, then each
    /// map: count u8, and `e(key) e(value)` by ascending key.
    pub fn write(&self, w: &mut Writer) {
        if self.is_empty() {
            w.u8(0);
            return;
        }
        w.u8(1).e(self.card_holder.as_ref().map_or("", HolderName::as_str).as_bytes());
        w.e(self.billing_country.as_ref().map_or("", Country::as_str).as_bytes());
        w.e(self.par.as_ref().map_or("", Par::as_str).as_bytes());
        w.u8(self.agreement.map_or(0, |a| a.kind.id())).u64(self.agreement.map_or(0, |a| a.consent_at.0));
        w.u8(u8::try_from(self.network_transactions.len()).unwrap_or(u8::MAX));
        for (network, id) in &self.network_transactions {
            w.e(network.as_str().as_bytes()).e(id.0.as_bytes());
        }
        w.u8(u8::try_from(self.processor_references.len()).unwrap_or(u8::MAX));
        for (processor, reference) in &self.processor_references {
            w.e(processor.as_str().as_bytes()).e(reference.0.as_bytes());
        }
    }

    /// Reads what [`write`](Self::write) wrote, by the rules of the door.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        match r.u8()? {
            0 => return Ok(Self::default()),
            1 => {}
            _ => return Err(Torn),
        }
        let card_holder = optional(r, HolderName::parse)?;
        let billing_country = optional(r, Country::parse)?;
        let par = optional(r, |text| Ok(Par::parse(text)?))?;
        let agreement = match (r.u8()?, Timestamp(r.u64()?)) {
            (0, Timestamp(0)) => None,
            (kind, consent_at) => {
                Some(Agreement { kind: AgreementKind::from_id(kind).ok_or(Torn)?, consent_at })
            }
        };
        let mut network_transactions = BTreeMap::new();
        for _ in 0..count(r)? {
            let network = NetworkName::parse(r.text()?).map_err(|_| Torn)?;
            let id = TransactionId::parse(&network, r.text()?).map_err(|_| Torn)?;
            ascending(&network_transactions, &network)?;
            network_transactions.insert(network, id);
        }
        let mut processor_references = BTreeMap::new();
        for _ in 0..count(r)? {
            let processor = ProcessorName::parse(r.text()?).map_err(|_| Torn)?;
            let reference = ProcessorReference::parse(r.text()?).map_err(|_| Torn)?;
            ascending(&processor_references, &processor)?;
            processor_references.insert(processor, reference);
        }
        let read =
            Self { card_holder, billing_country, par, agreement, network_transactions, processor_references };
        // Nothing has a form of its own.
        if read.is_empty() { Err(Torn) } else { Ok(read) }
    }
}

fn optional<T>(r: &mut Reader<'_>, parse: impl Fn(&str) -> Result<T, Error>) -> Result<Option<T>, Torn> {
    let text = r.text()?;
    if text.is_empty() { Ok(None) } else { parse(text).map(Some).map_err(|_| Torn) }
}

/// A key comes behind all before it: what is read has one form alone.
fn ascending<K: Ord, V>(map: &BTreeMap<K, V>, key: &K) -> Result<(), Torn> {
    if map.last_key_value().is_some_and(|(last, _)| last >= key) { Err(Torn) } else { Ok(()) }
}

fn count(r: &mut Reader<'_>) -> Result<usize, Torn> {
    let count = usize::from(r.u8()?);
    if count > MAX_REFERENCES { Err(Torn) } else { Ok(count) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn network(name: &str) -> NetworkName {
        NetworkName::parse(name).unwrap()
    }

    fn told<T>(result: Result<T, Error>) -> T {
        result.map_err(|e| e.to_string()).unwrap()
    }

    /// Every field filled.
    pub(crate) fn full() -> Attributes {
        let visa = network("visa");
        let id = told(TransactionId::parse(&visa, "582147359216301"));
        let processor = ProcessorName::parse("acquirer-one").unwrap();
        Attributes {
            card_holder: Some(told(HolderName::parse("ZOË PÉREZ"))),
            billing_country: Some(told(Country::parse("PT"))),
            par: Some(told(Par::parse("V0010013019000000000000000001").map_err(Error::from))),
            agreement: Some(Agreement { kind: AgreementKind::Recurring, consent_at: Timestamp(7) }),
            network_transactions: BTreeMap::from([(visa, id)]),
            processor_references: BTreeMap::from([(processor, told(ProcessorReference::parse("ch_9")))]),
        }
    }

    fn bytes(attributes: &Attributes) -> Vec<u8> {
        let mut w = Writer::default();
        attributes.write(&mut w);
        w.done()
    }

    #[test]
    fn attributes_read_back_and_every_cut_is_torn() {
        for attributes in [Attributes::default(), full(), Attributes { par: None, ..full() }] {
            let bytes = bytes(&attributes);
            assert!(Attributes::read(&mut Reader::new(&bytes)).is_ok_and(|back| back == attributes));
            for cut in 0..bytes.len() {
                assert!(Attributes::read(&mut Reader::new(&bytes[..cut])).is_err());
            }
        }
    }

    #[test]
    fn what_is_read_has_one_form_alone() {
        let read = |networks: &[&str], holder: &str| {
            let mut w = Writer::default();
            w.u8(1).e(holder.as_bytes()).e(b"").e(b"").u8(0).u64(0);
            w.u8(u8::try_from(networks.len()).unwrap());
            for network in networks {
                w.e(network.as_bytes()).e(b"id");
            }
            let bytes = w.u8(0).done();
            Attributes::read(&mut Reader::new(&bytes)).is_ok()
        };
        assert!(read(&["amex", "visa"], "") && read(&[], "Ada"));
        for networks in [&["visa", "amex"][..], &["visa", "visa"]] {
            assert!(!read(networks, ""), "not by ascending key: {networks:?}");
        }
        assert!(!read(&[], ""), "nothing, in the form of something");
    }

    #[test]
    fn a_card_number_comes_in_by_no_attribute() {
        let card = "4111 1111 1111 1111";
        let (visa, amex) = (network("visa"), network("amex"));
        let par = "A4111111111111111A0000000000B";
        for (field, refused) in [
            ("attributes.card_holder", HolderName::parse(card).err()),
            ("attributes.par", Par::parse(par).err().map(Error::from)),
            ("attributes.network_transactions", TransactionId::parse(&visa, card).err()),
            ("attributes.network_transactions", TransactionId::parse(&visa, "4111111111111111").err()),
            ("attributes.network_transactions", TransactionId::parse(&amex, "378282246310005").err()),
            ("attributes.processor_references", ProcessorReference::parse(card).err()),
        ] {
            let Some(Error::Malformed { field: named, .. }) = refused else { panic!("{field}") };
            assert_eq!(named, field);
        }
        // Fifteen digits that pass the Luhn check: of Visa, one id in ten does.
        assert!(TransactionId::parse(&visa, "016153570198200").is_ok());
        assert!(TransactionId::parse(&visa, "378282246310005").is_ok());
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let visa = network("visa");
        let long = "x".repeat(129);
        for bad in ["", "a\nb", &long] {
            assert!(HolderName::parse(bad).is_err() && ProcessorReference::parse(bad).is_err(), "{bad}");
            assert!(TransactionId::parse(&visa, bad).is_err(), "{bad}");
        }
        for bad in ["", "pt", "PRT", "P1"] {
            assert!(Country::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "V001001301900000000000000001", "v0010013019000000000000000001"] {
            assert!(Par::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_sets_what_it_has_and_empties_what_it_names() {
        let mut attributes = full();
        let set = Attributes { billing_country: Country::parse("ES").ok(), ..Attributes::default() };
        told(attributes.change(set, &[Attribute::CardHolder, Attribute::NetworkTransactions]));
        assert!(attributes.card_holder.is_none() && attributes.network_transactions.is_empty());
        assert!(attributes.billing_country == Country::parse("ES").ok() && attributes.par.is_some());

        let many = |from: usize| Attributes {
            processor_references: (from..from + 8)
                .map(|i| {
                    let name = ProcessorName::parse(&format!("p{i}")).unwrap();
                    (name, told(ProcessorReference::parse("r")))
                })
                .collect(),
            ..Attributes::default()
        };
        let mut attributes = many(0);
        assert!(attributes.change(many(1), &[]).is_err() && attributes == many(0), "nothing is half changed");
        told(attributes.change(many(1), &[Attribute::ProcessorReferences]));
        assert!(attributes == many(1));
        for field in Attribute::ALL {
            assert_eq!(Attribute::parse(field.as_str()), Some(*field));
        }
    }
}
