//! A key of a PKCS#11 token as custodian: an HSM, a smart card, or `SoftHSM2`. The key that wraps never leaves the token.
//!
//! Wraps are AES-256-GCM by `C_Encrypt`, not AES key wrap: only GCM takes associated data, which binds a wrap to vault, kind
//! and custodian, and every device has it. A module is C in this process and may hang: it is called on a thread of its own,
//! and waited for no longer than [`ANSWER`]. Each question opens the module anew and closes it behind itself, so that a
//! token that was away and came back is seen; a session that is lost underway is opened once more.
//!
//! Refused: a key that is extractable or not AES-256, two of the same label, and a second try with a PIN that the token
//! refused once, or a first one that could lock it: devices count.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11 as Module};
use cryptoki::error::{Error as Failed, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use secrecy::{ExposeSecret, SecretSlice};

use super::device::{DeviceError, MAX_LABEL, TokenBlock};
use super::{Custodian, CustodyBlock, PKCS11, aad};
use crate::envelope::{KeyKind, check_value};
use crate::error::Error;
use crate::random;
use crate::secret::{Secret32, same_bytes};

/// How long a device may take for one question, in seconds: a network HSM that fails over takes some ten.
const ANSWER: Duration = Duration::from_secs(30);

/// How often a question is asked: once more where the session was lost underway.
const TRIES: usize = 2;

/// The longest PIN, in bytes: `SoftHSM2` takes 255, and others less.
const MAX_PIN: usize = 255;

/// Bytes of GCM's nonce (SP 800-38D, 5.2.1.1: the length that needs no further hashing).
const IV: usize = 12;

/// Bits of GCM's tag: the whole of it.
const TAG_BITS: u64 = 128;

/// What is encrypted to see whether a device works at all: nothing secret.
const KNOWN: [u8; 32] = *b"custody of a root: known answer.";

/// How many refused PINs are remembered: a process has a custodian or two.
const REMEMBERED: usize = 16;

/// Bytes of a thread's stack that are wiped behind a question: an eighth of what a thread has.
const STACK: usize = 256 * 1_024;

/// How many questions may wait for a device at once: a start, a rotation and background work, and one to spare.
const MAX_WAITING: usize = 4;

/// How many do.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// A place among those that wait, until it is dropped.
struct Waiting;

impl Waiting {
    fn take() -> Option<Self> {
        let more = |waiting| (waiting < MAX_WAITING).then_some(waiting + 1);
        WAITING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Self)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What this process knows of devices, and the right to ask one: one question at a time, since many modules are not made
/// for more.
static DEVICES: Mutex<Devices> = Mutex::new(Devices { loaded: Vec::new(), refused: Vec::new() });

struct Devices {
    /// What is loaded stays so: a library with threads of its own does not survive being taken out.
    loaded: Vec<(PathBuf, Module)>,
    /// PINs that a token refused. Whoever asks again and again, as background work does, must not lock it.
    refused: Vec<(Arc<TokenName>, Arc<SecretSlice<u8>>)>,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName {
    /// The device's library, such as `/usr/lib/softhsm/libsofthsm2.so`.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
}

/// A non-extractable AES-256 key of a PKCS#11 token, and the PIN that it is used with.
pub struct Pkcs11 {
    at: Arc<TokenName>,
    pin: Arc<SecretSlice<u8>>,
}

impl Pkcs11 {
    /// A key by its name. Nothing is asked yet. The PIN has 1 to 255 bytes, one line end behind it not counted; labels have
    /// 1 to 32 (token) and 1 to 255 (key).
    pub fn new(at: TokenName, pin: &SecretSlice<u8>) -> Result<Self, Error> {
        let bytes = pin.expose_secret();
        let trimmed = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
        if !(1..=MAX_PIN).contains(&trimmed.len()) {
            return Err(Error::malformed("pin", "must have 1 to 255 bytes"));
        }
        let labelled = |label: &str, most: usize| {
            (1..=most).contains(&label.len()) && !label.chars().any(char::is_control)
        };
        if !labelled(&at.token, 32) || !labelled(&at.key, MAX_LABEL) {
            return Err(Error::malformed("label", "must have 1 to 32 bytes (token) or 1 to 255 (key)"));
        }
        let pin = SecretSlice::from(trimmed.to_vec());
        Ok(Self { at: at.into(), pin: pin.into() })
    }

    /// Makes the key in its token: AES-256, not extractable, for encryption and decryption alone.
    ///
    /// Errors: [`DeviceError::KeyExists`] if the token has one of this label.
    pub fn make_key(&self) -> Result<(), Error> {
        self.ask(true, |at, session| {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(32.into()),
                Attribute::Label(at.key.clone().into_bytes()),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
            ];
            match key_of(at, session) {
                Ok(_) | Err(Trouble::Is(DeviceError::Ambiguous)) => return Err(DeviceError::KeyExists.into()),
                Err(Trouble::Is(DeviceError::NoKey)) => {}
                Err(other) => return Err(other),
            }
            let key = session.generate_key(&Mechanism::AesKeyGen, &template)?;
            // A device may have made of the template what it wanted.
            fit(session, key)
        })
    }

    /// Asks the device on a thread of its own, and waits for no longer than the bound. A session that was lost is opened
    /// once more.
    fn ask<T: Send + 'static>(
        &self,
        writes: bool,
        question: impl Fn(&TokenName, &Session) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Error> {
        // Behind one that hangs, more would only wait with it.
        let place = Waiting::take().ok_or(Error::Device(DeviceError::Silent))?;
        let (at, pin) = (self.at.clone(), self.pin.clone());
        let (tell, told) = mpsc::channel();
        let asking = move || {
            let _place = place;
            let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
            // Who asked has given up: a PIN is not tried for nobody.
            if tell.send(None).is_err() {
                return;
            }
            let answer = devices.asked(&at, &pin, writes, &question);
            // Nobody waits any more: there is nobody to tell.
            let _gone = tell.send(Some(answer));
        };
        let asking = move || {
            asking();
            // The module is C, and leaves what it worked with.
            zeroize::zeroize_stack::<STACK>();
        };
        std::thread::Builder::new()
            .name("custodian".to_owned())
            .spawn(asking)
            .map_err(|_| Error::internal())?;
        let silent = |_| Error::Device(DeviceError::Silent);
        let answer = match told.recv_timeout(ANSWER).map_err(silent)? {
            None => told.recv_timeout(ANSWER).map_err(silent)?,
            answer => answer,
        };
        answer.ok_or_else(Error::internal)?.map_err(Error::from)
    }
}

impl Custodian for Pkcs11 {
    fn name(&self) -> &'static str {
        "pkcs11"
    }

    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error> {
        let bound = aad(kind, vault, PKCS11);
        let copy = Secret32::filled_by(|bytes| bytes.copy_from_slice(key.expose_bytes()));
        let (iv, sealed) = self.ask(false, move |at, session| {
            let key = key_of(at, session)?;
            fit(session, key)?;
            let (iv, sealed) = seal(session, key, copy.expose_bytes(), &bound)?;
            // A device that puts its nonce elsewhere, or forgets what it was bound to, must not get the root.
            let mut back = open(session, key, &iv, &sealed, &bound)?;
            let same = Secret32::take(&mut back).is_some_and(|back| back.same_as(&copy));
            if same { Ok((iv, sealed)) } else { Err(DeviceError::Failing(0).into()) }
        })?;
        let labels = [self.at.token.clone(), self.at.key.clone()];
        Ok(TokenBlock { labels, iv, sealed, check: check_value(key) }.block())
    }

    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error> {
        if block.kind != PKCS11 {
            return Err(Error::Custody);
        }
        let TokenBlock { iv, sealed, check, .. } =
            TokenBlock::read(&block.body).map_err(|_| Error::Custody)?;
        let bound = aad(kind, vault, PKCS11);
        let opened = self.ask(false, move |at, session| {
            let key = key_of(at, session)?;
            match open(session, key, &iv, &sealed, &bound) {
                Ok(mut opened) => Ok(Secret32::take(&mut opened)),
                Err(Trouble::Lost(code)) => Err(Trouble::Lost(code)),
                // What was bound to something else reads as if the device were broken (CKR_GENERAL_ERROR of SoftHSM2). Only
                // an answer that is known tells the two apart.
                Err(Trouble::Is(why)) => works(session, key).map(|()| None).map_err(|broken| match broken {
                    Trouble::Lost(code) => Trouble::Lost(code),
                    Trouble::Is(_) => Trouble::Is(why),
                }),
            }
        })?;
        let key = opened.ok_or(Error::Custody)?;
        if same_bytes(&check_value(&key), &check) { Ok(key) } else { Err(Error::Custody) }
    }
}

/// Why a question was not answered.
enum Trouble {
    /// The session or the token went away underway: worth another try.
    Lost(u64),
    /// Anything else.
    Is(DeviceError),
}

impl From<DeviceError> for Trouble {
    fn from(e: DeviceError) -> Self {
        Self::Is(e)
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        Self::Device(match trouble {
            Trouble::Lost(_) => DeviceError::Absent,
            Trouble::Is(e) => e,
        })
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        let Failed::Pkcs11(code, function) = failed else {
            let module = matches!(failed, Failed::LibraryLoading(_) | Failed::MissingSymbol(_));
            return Self::Is(if module { DeviceError::Module } else { DeviceError::Failing(0) });
        };
        match code {
            RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => DeviceError::Pin.into(),
            RvError::PinLocked | RvError::PinExpired | RvError::UserPinNotInitialized => {
                DeviceError::Locked.into()
            }
            RvError::TokenNotPresent
                if matches!(function, Function::OpenSession | Function::GetTokenInfo) =>
            {
                DeviceError::Absent.into()
            }
            RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn
            | RvError::CryptokiNotInitialized
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid => Self::Lost(code_of(code)),
            RvError::KeyFunctionNotPermitted | RvError::KeyTypeInconsistent | RvError::KeySizeRange => {
                DeviceError::Unfit.into()
            }
            code => DeviceError::Failing(code_of(code)).into(),
        }
    }
}

/// The number of a code that this process has no name for a remedy of; zero for the interface's own that have none here.
fn code_of(code: RvError) -> u64 {
    match code {
        RvError::GeneralError => 0x5,
        RvError::FunctionFailed => 0x6,
        RvError::DeviceError => 0x30,
        RvError::DeviceMemory => 0x31,
        RvError::DeviceRemoved => 0x32,
        RvError::MechanismInvalid => 0x70,
        RvError::MechanismParamInvalid => 0x71,
        RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => code,
        _ => 0,
    }
}

impl Devices {
    /// Asks, and asks once more where the session was lost underway.
    fn asked<T>(
        &mut self,
        at: &Arc<TokenName>,
        pin: &Arc<SecretSlice<u8>>,
        writes: bool,
        question: &impl Fn(&TokenName, &Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let same = |(token, refused): &(Arc<TokenName>, Arc<SecretSlice<u8>>)| {
            let its = (&token.module, &token.token) == (&at.module, &at.token);
            its && same_bytes(refused.expose_secret(), pin.expose_secret())
        };
        if self.refused.iter().any(same) {
            return Err(DeviceError::Pin.into());
        }
        let mut once = || visit(self.module(&at.module)?, at, pin, writes, |session| question(at, session));
        let mut answer = once();
        for _ in 1..TRIES {
            if matches!(answer, Err(Trouble::Lost(_))) {
                answer = once();
            }
        }
        if matches!(answer, Err(Trouble::Is(DeviceError::Pin))) {
            self.refused.truncate(REMEMBERED - 1);
            self.refused.insert(0, (at.clone(), pin.clone()));
        }
        answer
    }

    fn module(&mut self, path: &Path) -> Result<Module, Trouble> {
        if let Some((_, module)) = self.loaded.iter().find(|(of, _)| of == path) {
            return Ok(module.clone());
        }
        let module = Module::new(path).map_err(|_| DeviceError::Module)?;
        self.loaded.push((path.to_owned(), module.clone()));
        Ok(module)
    }
}

/// Opens token and session, logs in, asks, and closes all of it.
fn visit<T>(
    module: Module,
    at: &TokenName,
    pin: &SecretSlice<u8>,
    writes: bool,
    question: impl Fn(&Session) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let own = match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) => true,
        // Whoever embeds the vault uses the same module: it is theirs to close.
        Err(Failed::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => false,
        Err(e) => return Err(e.into()),
    };
    let answer = in_session(&module, at, pin, writes, question);
    if own {
        // It is closed as well as it can be; what was asked is answered by now.
        let _closed = module.finalize();
    }
    answer
}

fn in_session<T>(
    module: &Module,
    at: &TokenName,
    pin: &SecretSlice<u8>,
    writes: bool,
    question: impl Fn(&Session) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let slot = slot_of(module, at)?;
    let info = module.get_token_info(slot)?;
    if info.user_pin_locked() {
        return Err(DeviceError::Locked.into());
    }
    if info.user_pin_final_try() {
        return Err(DeviceError::LastTry.into());
    }
    let session = if writes { module.open_rw_session(slot) } else { module.open_ro_session(slot) }?;
    let pin = RawAuthPin::new(Box::new(pin.expose_secret().to_vec()));
    match session.login_with_raw(UserType::User, &pin) {
        Ok(()) | Err(Failed::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(e) => return Err(e.into()),
    }
    question(&session)
}

fn slot_of(module: &Module, at: &TokenName) -> Result<Slot, Trouble> {
    let mut found = None;
    for slot in module.get_slots_with_token()? {
        // A slot whose token is just being pulled out is none.
        let named = module.get_token_info(slot).is_ok_and(|info| info.label() == at.token);
        if named && found.replace(slot).is_some() {
            return Err(DeviceError::Ambiguous.into());
        }
    }
    found.ok_or(Trouble::Is(DeviceError::Absent))
}

fn key_of(at: &TokenName, session: &Session) -> Result<ObjectHandle, Trouble> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Label(at.key.clone().into_bytes()),
        Attribute::Token(true),
    ];
    match session.find_objects(&template)?.as_slice() {
        [] => Err(DeviceError::NoKey.into()),
        [key] => Ok(*key),
        _ => Err(DeviceError::Ambiguous.into()),
    }
}

/// Whether a key is one that a root may be entrusted to.
fn fit(session: &Session, key: ObjectHandle) -> Result<(), Trouble> {
    let asked = [
        AttributeType::KeyType,
        AttributeType::ValueLen,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
    ];
    let found = session.get_attributes(key, &asked)?;
    let wanted = |attribute: &Attribute| match attribute {
        Attribute::KeyType(kind) => *kind == KeyType::AES,
        Attribute::ValueLen(bytes) => **bytes == 32,
        Attribute::Extractable(yes) => !yes,
        Attribute::Sensitive(yes) | Attribute::Encrypt(yes) | Attribute::Decrypt(yes) => *yes,
        _ => false,
    };
    let fit = found.len() == asked.len() && found.iter().all(wanted);
    if fit { Ok(()) } else { Err(DeviceError::Unfit.into()) }
}

/// Encrypts. The nonce is drawn here; a device that makes its own (in FIPS mode many must) writes it over that one, and
/// so what stands there afterwards is kept.
fn seal(
    session: &Session,
    key: ObjectHandle,
    text: &[u8; 32],
    bound: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Trouble> {
    let drawn: [u8; IV] = random::bytes().map_err(|_| DeviceError::Failing(0))?;
    let mut iv = drawn.to_vec();
    let sealed =
        session.encrypt(&Mechanism::AesGcm(GcmParams::new(&mut iv, bound, TAG_BITS.into())?), key, text)?;
    Ok((iv, sealed))
}

fn open(
    session: &Session,
    key: ObjectHandle,
    iv: &[u8],
    sealed: &[u8],
    bound: &[u8],
) -> Result<Vec<u8>, Trouble> {
    let mut iv = iv.to_vec();
    Ok(session.decrypt(&Mechanism::AesGcm(GcmParams::new(&mut iv, bound, TAG_BITS.into())?), key, sealed)?)
}

/// Asks for what is known: whether the device encrypts and decrypts at all.
fn works(session: &Session, key: ObjectHandle) -> Result<(), Trouble> {
    let (iv, sealed) = seal(session, key, &KNOWN, b"pv1/known")?;
    let back = open(session, key, &iv, &sealed, b"pv1/known")?;
    if back == KNOWN { Ok(()) } else { Err(DeviceError::Failing(0).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(token: &str, key: &str) -> TokenName {
        TokenName { module: "/nowhere.so".into(), token: token.into(), key: key.into() }
    }

    fn secret(text: &str) -> SecretSlice<u8> {
        SecretSlice::from(text.as_bytes().to_vec())
    }

    #[test]
    fn a_custodian_has_a_pin_and_labels_within_bounds() {
        for (pin, token, key, good) in [
            ("1234\n", "t", "k", true),
            ("\n", "t", "k", false),
            ("", "t", "k", false),
            (&"1".repeat(256), "t", "k", false),
            ("1234", "", "k", false),
            ("1234", &"t".repeat(33), "k", false),
            ("1234", "t", "", false),
            ("1234", "t", "k\n", false),
        ] {
            assert_eq!(Pkcs11::new(at(token, key), &secret(pin)).is_ok(), good, "{token} {key}");
        }
    }

    #[test]
    fn without_its_module_it_says_so_and_another_kinds_block_it_does_not_ask_about() {
        let custodian = Pkcs11::new(at("t", "k"), &secret("1234")).unwrap();
        let key = Secret32::random().unwrap();
        let told = custodian.wrap(&key, KeyKind::Root, &[1; 16]).err();
        assert_eq!(told, Some(Error::Device(DeviceError::Module)));
        let foreign = CustodyBlock { kind: 1, body: vec![] };
        assert_eq!(custodian.unwrap(&foreign, KeyKind::Root, &[1; 16]).err(), Some(Error::Custody));
        let torn = CustodyBlock { kind: PKCS11, body: vec![1] };
        assert_eq!(custodian.unwrap(&torn, KeyKind::Root, &[1; 16]).err(), Some(Error::Custody));
        assert_eq!(WAITING.load(Ordering::SeqCst), 0);
    }
}
