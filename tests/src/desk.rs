//! A vault with a store on a real disk, two merchants, and the programs that ask it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pollster::block_on;
use secrecy::SecretSlice;
use vault_core::audit::entry::Event;
use vault_core::custody::{Custodian, Passphrase};
use vault_core::error::Error;
use vault_core::name::{ChannelName, FormatName, MerchantName, PrincipalName};
use vault_core::policy::{Caller, Policy};
use vault_core::store::{self, Batch, Engine, Key, Options, Store, Value, Write};
use vault_core::time::{Clock, ManualClock, Timestamp};
use vault_core::token::Token;
use vault_core::vault::{
    Detokenized, Header, Inspected, NewCard, Place, RequestId, Reveal, Revealed, Revocation, RevokedToken,
    StoreReport, Tokenized, Vault,
};
use vault_core::words::{Initiator, Purpose, Refusal};

use crate::cards::card;

/// 2026-01-01, when every desk begins.
pub const START: Timestamp = Timestamp(1_767_225_600_000);

/// The passphrase of every vault of the suite.
pub const PASSPHRASE: &str = "correct horse battery";

/// Room for tests: little cache, and no more of the disk kept free than tests need.
pub const OPTIONS: Options = Options { cache: 8 << 20, reserve: 4 << 20 };

/// The custodian of every vault of the suite.
pub fn custodian() -> Passphrase {
    passphrase(PASSPHRASE)
}

/// A custodian of another passphrase.
pub fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(SecretSlice::from(text.as_bytes().to_vec())).unwrap_or_else(|e| panic!("{e}"))
}

/// Two merchants, each with a shop, a gateway, an importer, customer care, and channels `web`, `app` and `pos`.
pub fn policy() -> Policy {
    Policy::from_toml(&policy_text()).unwrap_or_else(|e| panic!("{e}"))
}

/// The same as its text, to be added to.
pub fn policy_text() -> String {
    [&*merchant("acme"), &*merchant("zenith"), ABROAD].concat()
}

/// Zenith's web shop takes cards from acme's tokens.
const ABROAD: &str = r#"
    [[rule]]
    id = "zenith-takes-over"
    effect = "allow"
    merchant = "zenith"
    channels = ["web"]
    principals = ["acme-bridge"]
    actions = ["translate"]
    "#;

fn merchant(name: &str) -> String {
    r#"
    [[merchant]]
    id = "NAME"
    [[merchant.format]]
    id = "shop"
    scheme = "random"
    [[merchant.format]]
    id = "till"
    scheme = "opaque"
    scope = "channel"
    [[merchant.format]]
    id = "mixed"
    scheme = "mixed"
    mode = "fresh"
    [[merchant.format]]
    id = "tight"
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
    id = "NAME-shop"
    merchant = "NAME"
    [[principal]]
    id = "NAME-gateway"
    merchant = "NAME"
    [[principal]]
    id = "NAME-import"
    merchant = "NAME"
    [[principal]]
    id = "NAME-care"
    merchant = "NAME"
    [[principal]]
    id = "NAME-bridge"
    merchant = "NAME"
    [[rule]]
    id = "NAME-bridges"
    effect = "allow"
    merchant = "NAME"
    channels = ["web", "pos"]
    principals = ["NAME-bridge"]
    actions = ["detokenize", "tokenize"]
    show = "full"
    purposes = ["authorization"]

    [[rule]]
    id = "NAME-stores"
    effect = "allow"
    merchant = "NAME"
    principals = ["NAME-shop"]
    actions = ["tokenize"]
    tells_reuse = true
    [[rule]]
    id = "NAME-looks"
    effect = "allow"
    merchant = "NAME"
    principals = ["NAME-shop"]
    actions = ["inspect", "revoke"]
    show = "masked"
    [[rule]]
    id = "NAME-pays"
    effect = "allow"
    merchant = "NAME"
    principals = ["NAME-gateway"]
    actions = ["detokenize"]
    purposes = ["authorization", "refund"]
    show = "full"
    [[rule]]
    id = "NAME-imports"
    effect = "allow"
    merchant = "NAME"
    principals = ["NAME-import"]
    actions = ["tokenize"]
    import = true
    [[rule]]
    id = "NAME-cares"
    effect = "allow"
    merchant = "NAME"
    principals = ["NAME-care"]
    actions = ["disable", "enable", "update_attributes", "replace", "fingerprint", "delete_card", "erase_subject", "hold_code", "read_code",
        "complete_authorization"]
    [[rule]]
    id = "NAME-lists"
    effect = "allow"
    merchant = "NAME"
    principals = ["NAME-care"]
    actions = ["list_by_subject"]
    show = "masked"
    "#
    .replace("NAME", name)
}

/// A fresh request: authorization, begun by the cardholder.
pub fn header() -> Header {
    Header::new(Purpose::Authorization, Initiator::Cardholder).unwrap()
}

/// The same request asked again: same id, same fields.
pub fn request(id: &str) -> Header {
    Header { request_id: RequestId::parse(id).unwrap(), ..header() }
}

/// A card that asks for a token format by name.
pub fn in_format(format: &str, digits: &str) -> NewCard {
    NewCard { format: Some(FormatName::parse(format).unwrap()), ..card(digits) }
}

/// A principal's name.
pub fn principal(name: &str) -> PrincipalName {
    PrincipalName::parse(name).unwrap()
}

/// A channel's name.
pub fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// A merchant's name.
pub fn merchant_name(name: &str) -> MerchantName {
    MerchantName::parse(name).unwrap()
}

/// A token as somebody may send it.
pub fn token(text: &str) -> Token {
    Token::parse(text).unwrap_or_else(|e| panic!("a token of the suite {e}"))
}

/// Where a vault lies, while it is closed.
pub struct Closed {
    /// Its folder.
    pub folder: PathBuf,
    /// Its clock, which does not stop for being closed.
    pub clock: Arc<ManualClock>,
    options: Options,
    _kept: Option<Arc<tempfile::TempDir>>,
}

/// A vault that is open, with the store under it.
pub struct Desk {
    /// The vault.
    pub vault: Vault,
    /// Its clock.
    pub clock: Arc<ManualClock>,
    /// Its store: whoever can write here can do to rows what a thief or a broken disk does.
    pub store: Arc<dyn Store>,
    closed: Closed,
}

impl Closed {
    /// A vault in `folder`, which another process or an earlier release made.
    pub fn at(folder: &Path, options: Options) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        Self { folder: folder.to_owned(), clock, options, _kept: None }
    }

    /// The file of the erasure epoch key.
    pub fn esk(&self) -> PathBuf {
        self.folder.join("esk")
    }

    /// Opens the store alone, for who means to change its rows behind the vault's back.
    pub fn store(&self) -> Arc<dyn Store> {
        store::open(&self.folder, &self.options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Opens the vault.
    pub fn open(self) -> Result<Desk, Error> {
        self.open_with(PASSPHRASE).map_err(|(_, e)| e)
    }

    /// Opens the vault with this passphrase; gives the place back if that fails.
    pub fn open_with(self, secret: &str) -> Result<Desk, (Self, Error)> {
        self.open_by(&passphrase(secret))
    }

    /// The same with whatever custodian.
    pub fn open_by(self, custodian: &dyn Custodian) -> Result<Desk, (Self, Error)> {
        let store = match store::open(&self.folder, &self.options) {
            Ok(store) => store,
            Err(e) => return Err((self, Error::Store(e))),
        };
        match block_on(Vault::open(place(&store, &self.folder, &self.clock), custodian)) {
            Ok(vault) => Ok(Desk { vault, clock: self.clock.clone(), store, closed: self }),
            Err(e) => Err((self, e)),
        }
    }
}

fn place(store: &Arc<dyn Store>, folder: &Path, clock: &Arc<ManualClock>) -> Place {
    Place { clock: Arc::new(clock.clone()), ..Place::new(store.clone(), folder.join("esk")) }
}

impl Desk {
    /// A fresh vault of two merchants in a fresh folder.
    pub fn new(engine: Engine) -> Self {
        Self::with(engine, policy())
    }

    /// A fresh vault of this policy in a fresh folder.
    pub fn with(engine: Engine, policy: Policy) -> Self {
        let kept = tempfile::tempdir().unwrap();
        let desk = Self::in_folder(kept.path(), engine, OPTIONS, policy).unwrap_or_else(|e| panic!("{e}"));
        Self { closed: Closed { _kept: Some(Arc::new(kept)), ..desk.closed }, ..desk }
    }

    /// A fresh vault in this folder.
    pub fn in_folder(folder: &Path, engine: Engine, options: Options, policy: Policy) -> Result<Self, Error> {
        let closed = Closed::at(folder, options);
        let store = store::create(folder, engine, &options)?;
        let vault = block_on(Vault::create(place(&store, folder, &closed.clock), &custodian(), policy))?;
        Ok(Self { vault, clock: closed.clock.clone(), store, closed })
    }

    /// A vault that was opened otherwise, over this store.
    pub fn of(vault: Vault, store: Arc<dyn Store>, clock: Arc<ManualClock>, folder: &Path) -> Self {
        let closed =
            Closed { folder: folder.to_owned(), clock: clock.clone(), options: OPTIONS, _kept: None };
        Self { vault, clock, store, closed }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.closed.folder
    }

    /// Closes the vault in good order.
    pub fn close(self) -> Closed {
        let Self { vault, store, closed, .. } = self;
        block_on(vault.close()).unwrap_or_else(|e| panic!("{e}"));
        drop(vault);
        assert_eq!(Arc::strong_count(&store), 1, "somebody still holds the store of a closed vault");
        drop(store);
        closed
    }

    /// Lets go of the vault as it is, when it has failed and cannot be closed.
    pub fn abandon(self) -> Closed {
        self.closed
    }

    /// Closes the vault and opens it again: nothing that it only remembered is left.
    #[must_use]
    pub fn reopened(self) -> Self {
        self.close().open().unwrap_or_else(|e| panic!("{e}"))
    }

    /// One merchant's channel, as its programs see it.
    pub fn at<'a>(&'a self, merchant: &'a str, channel: &'a str) -> At<'a> {
        At { desk: self, merchant, channel }
    }

    /// The channel that most tests use.
    pub fn web(&self) -> At<'_> {
        self.at("acme", "web")
    }

    /// Lets time pass.
    pub fn wait_ms(&self, ms: u64) {
        self.clock.set(self.clock.now().plus_ms(ms));
    }

    /// Lets days pass.
    pub fn wait_days(&self, days: u32) {
        self.clock.set(self.clock.now().plus_days(days));
    }

    /// The newest entry of the log.
    pub fn last_event(&self) -> Event {
        let size = block_on(self.vault.checkpoint()).unwrap().checkpoint().size;
        let (_, _, entry) = block_on(self.vault.entries(size - 1, 1)).unwrap().pop().unwrap();
        entry.event
    }

    /// Why the newest entry of the log is a refusal; none if it is not one.
    pub fn last_refusal(&self) -> Option<Refusal> {
        match self.last_event() {
            Event::Refused { why, .. } => Some(why),
            _ => None,
        }
    }

    /// Every row of a kind.
    pub fn rows(&self, kind: u8) -> Vec<(Key, Value)> {
        rows(&*self.store, kind)
    }

    /// One row.
    pub fn row(&self, key: &[u8]) -> Option<Value> {
        row(&*self.store, key)
    }

    /// Writes a row behind the vault's back.
    pub fn put(&self, key: &[u8], value: &[u8]) {
        write(&*self.store, vec![Write::Put(key.to_vec(), value.to_vec())]);
    }

    /// Deletes a row behind the vault's back.
    pub fn delete(&self, key: &[u8]) {
        write(&*self.store, vec![Write::Delete(key.to_vec())]);
    }

    /// Log and rows compared.
    pub fn verified(&self) -> StoreReport {
        block_on(self.vault.verify_store(&mut |_, _| {})).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Fails unless log and rows are whole, with so many cards.
    pub fn assert_whole(&self, cards: usize) {
        let report = self.verified();
        assert!(report.is_whole() && report.good == cards as u64, "{report:?}");
    }
}

/// Every row of a kind.
pub fn rows(store: &dyn Store, kind: u8) -> Vec<(Key, Value)> {
    let page = block_on(store.scan(&[kind], None, store::MAX_SCAN)).unwrap();
    assert!(page.len() < store::MAX_SCAN, "more rows than a test looks at");
    page
}

/// One row.
pub fn row(store: &dyn Store, key: &[u8]) -> Option<Value> {
    block_on(store.get(&[key.to_vec()])).unwrap().pop().unwrap()
}

/// Writes rows behind the vault's back, in one commit.
pub fn write(store: &dyn Store, writes: Vec<Write>) {
    store.commit(&Batch { head: writes, ..Batch::default() }).unwrap_or_else(|e| panic!("{e:?}"));
}

/// One merchant's channel, as its programs see it: its shop stores, looks and revokes, its gateway pays.
#[derive(Clone, Copy)]
pub struct At<'a> {
    desk: &'a Desk,
    merchant: &'a str,
    channel: &'a str,
}

impl At<'_> {
    fn header(&self, header: &Header) -> Header {
        Header { channel: Some(channel(self.channel)), ..header.clone() }
    }

    fn who(&self, role: &str) -> PrincipalName {
        principal(&format!("{}-{role}", self.merchant))
    }

    /// The shop swaps a card for a token.
    pub fn tokenize(&self, header: &Header, card: NewCard) -> Result<Tokenized, Error> {
        let header = self.header(header);
        block_on(self.desk.vault.tokenize(Caller::Local(&self.who("shop")), &header, card))
    }

    /// The shop swaps a batch of cards.
    pub fn tokenize_batch(
        &self,
        header: &Header,
        cards: Vec<NewCard>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        let header = self.header(header);
        block_on(self.desk.vault.tokenize_batch(Caller::Local(&self.who("shop")), &header, cards))
    }

    /// The importer swaps a batch of cards, without a guess budget.
    pub fn import(&self, cards: Vec<NewCard>) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        let header = self.header(&header());
        block_on(self.desk.vault.tokenize_batch(Caller::Local(&self.who("import")), &header, cards))
    }

    /// The importer swaps a batch of cards that must all be taken.
    pub fn imported(&self, cards: Vec<NewCard>) -> Vec<Token> {
        let answers = self.import(cards).unwrap_or_else(|e| panic!("{e}"));
        answers.into_iter().map(|a| a.unwrap_or_else(|e| panic!("{e}")).token).collect()
    }

    /// The token of a card that must be taken.
    pub fn stored(&self, digits: &str) -> Token {
        self.added(card(digits))
    }

    /// The token of a card that must be taken.
    pub fn added(&self, card: NewCard) -> Token {
        self.tokenize(&header(), card).unwrap_or_else(|e| panic!("{e}")).token
    }

    /// The gateway asks for a card number.
    pub fn paid(&self, token: &Token) -> Result<String, Error> {
        self.detokenized(&header(), token, Reveal::Plain).map(|answer| shown(&answer.revealed))
    }

    /// The gateway asks for a card.
    pub fn detokenized(&self, header: &Header, token: &Token, reveal: Reveal) -> Result<Detokenized, Error> {
        let (header, gateway) = (self.header(header), self.who("gateway"));
        block_on(self.desk.vault.detokenize(Caller::Local(&gateway), &header, token.copy(), reveal))
    }

    /// The gateway asks for many card numbers at once.
    pub fn paid_all(&self, tokens: &[Token]) -> Vec<Result<String, Error>> {
        let (header, gateway) = (self.header(&header()), self.who("gateway"));
        let mut paid = Vec::with_capacity(tokens.len());
        for page in tokens.chunks(vault_core::vault::MAX_BATCH) {
            let header = Header { request_id: RequestId::random().unwrap(), ..header.clone() };
            let tokens = page.iter().map(|t| (t.copy(), Reveal::Plain)).collect();
            let caller = Caller::Local(&gateway);
            let answers = block_on(self.desk.vault.detokenize_batch(caller, &header, tokens));
            let answers = answers.unwrap_or_else(|e| panic!("{e}"));
            paid.extend(answers.into_iter().map(|answer| answer.map(|card| shown(&card.revealed))));
        }
        paid
    }

    /// The shop looks at a card without its number.
    pub fn inspected(&self, token: &Token) -> Result<Inspected, Error> {
        let header = self.header(&header());
        let shop = self.who("shop");
        block_on(self.desk.vault.inspect(Caller::Local(&shop), &header, token.copy()))
    }

    /// The shop revokes a token.
    pub fn revoke(
        &self,
        header: &Header,
        token: &Token,
        where_to: Revocation,
    ) -> Result<RevokedToken, Error> {
        let header = self.header(header);
        block_on(self.desk.vault.revoke(Caller::Local(&self.who("shop")), &header, token.copy(), where_to))
    }

    /// Customer care asks something of the vault, on this channel.
    pub fn care<T>(
        &self,
        header: &Header,
        ask: impl AsyncFnOnce(&Vault, Caller<'_>, &Header) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (header, care) = (self.header(header), self.who("care"));
        block_on(ask(&self.desk.vault, Caller::Local(&care), &header))
    }

    /// The shop revokes a token everywhere, which must work.
    pub fn revoked(&self, token: &Token) {
        let told = self.revoke(&header(), token, Revocation::Everywhere);
        assert!(told.unwrap_or_else(|e| panic!("{e}")).everywhere);
    }
}

/// What an answer shows of a card number.
pub fn shown(revealed: &Revealed) -> String {
    match revealed {
        Revealed::Plain(pan) => String::from_utf8(pan.expose_digits().to_vec()).unwrap(),
        Revealed::Other(value) => String::from_utf8_lossy(&value.expose_identity()).into_owned(),
        Revealed::Masked(mask) => mask.to_string(),
        Revealed::Sealed { .. } => panic!("sealed to nobody who asked"),
    }
}
