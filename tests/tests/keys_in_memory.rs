//! No key stays in the process's memory once the vault is sealed, nor a key that was destroyed: neither its bytes nor what they
//! are expanded to where they are used.
//!
//! The test opens the vault's files itself and so knows every key. It works out what AES (FIPS 197), XAES, HMAC-SHA-256 and
//! Ed25519 make of them, by code of its own, and looks for all of it in a core image of the living server. It must find them
//! before: else it would prove nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use aho_corasick::AhoCorasick;
use vault_client::{ask, v1};
use vault_core::codec::Reader;
use vault_core::control::{self, Control, KeyRecord};
use vault_core::custody::{Custodian, CustodyBlock};
use vault_core::envelope::{
    Adm, Dek, Fpk, Fpr, Idm, Idx, Kek, KeyKind, KeyMaterial, Log, Rcv, Ref, Root, Trk,
};
use vault_core::secret::Secret32;
use vault_core::store::Engine;
use vault_core::words::KeyState;
use vault_tests::ON_DISK;
use vault_tests::cards::VISA;
use vault_tests::desk::{Closed, OPTIONS, custodian, row};
use vault_tests::server::Rig;

use crate::canary::core_of;

/// How long the process is left alone before it is looked at: its threads go idle, and wipe their stacks.
const REST: Duration = Duration::from_millis(500);

/// What to look for: for each key its forms, by a name that a failing test shows.
#[derive(Default)]
struct Wanted(BTreeMap<String, Vec<u8>>);

impl Wanted {
    fn add(&mut self, key: &str, form: &str, bytes: &[u8]) {
        assert!(bytes.len() >= 16, "a shorter form is found by chance");
        self.0.insert(format!("{key} {form}"), bytes.to_vec());
    }

    /// What every key is, wherever it is used.
    fn bytes(&mut self, key: &str, secret: &Secret32) {
        self.add(key, "bytes", secret.expose_bytes());
    }

    /// What AES-256 makes of a key: words 8 to 15 of its expansion, and the last round's, as AES instructions keep them in
    /// memory and as a table has them; of XAES besides, the CMAC subkey K1.
    fn sealing(&mut self, key: &str, secret: &Secret32) {
        self.bytes(key, secret);
        self.schedule(key, secret);
        let cipher = aes::Aes256::new(secret.expose_bytes().into());
        let mut block = aes::Block::default();
        cipher.encrypt_block(&mut block);
        let l = u128::from_be_bytes(block.into());
        let k1 = (l << 1) ^ if l >> 127 == 1 { 0x87 } else { 0 };
        self.add(key, "K1", &k1.to_be_bytes());
    }

    fn schedule(&mut self, key: &str, secret: &Secret32) {
        let words = expanded(secret.expose_bytes());
        let bytes: Vec<u8> = words.iter().flatten().copied().collect();
        self.add(key, "rounds 2 and 3", &bytes[32..64]);
        self.add(key, "last round", &bytes[224..240]);
    }

    /// What HMAC-SHA-256 makes of a key: the states behind its two pads (RFC 2104), words as this machine keeps them.
    fn naming(&mut self, key: &str, secret: &Secret32) {
        self.bytes(key, secret);
        for (form, pad) in [("inner pad", 0x36_u8), ("outer pad", 0x5C)] {
            let mut block = [pad; 64];
            block.iter_mut().zip(secret.expose_bytes()).for_each(|(b, k)| *b ^= k);
            let state = compressed(&block);
            self.add(key, form, &state.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        }
    }

    /// What Ed25519 makes of a seed: the scalar and the prefix (RFC 8032, 5.1.5).
    fn signing(&mut self, key: &str, secret: &Secret32) {
        self.bytes(key, secret);
        let hashed = ring::digest::digest(&ring::digest::SHA512, secret.expose_bytes());
        self.add(key, "prefix", &hashed.as_ref()[32..64]);
        let mut scalar = [0; 32];
        scalar.copy_from_slice(&hashed.as_ref()[..32]);
        scalar[0] &= 0xF8;
        scalar[31] = scalar[31] & 0x7F | 0x40;
        self.add(key, "scalar", &scalar);
    }

    /// What of this is in the process's memory now.
    fn found(&self, process: u32, folder: &Path) -> BTreeSet<String> {
        let core = core_of(process, folder);
        let image = fs::read(&core).unwrap();
        fs::remove_file(&core).unwrap();
        let names: Vec<&String> = self.0.keys().collect();
        let machine = AhoCorasick::new(self.0.values()).unwrap();
        machine.find_overlapping_iter(&image).map(|m| names[m.pattern().as_usize()].clone()).collect()
    }

    /// The forms of these keys alone.
    fn of(&self, key: &str) -> Self {
        let mine = self.0.iter().filter(|(name, _)| name.starts_with(&format!("{key} ")));
        Self(mine.map(|(name, bytes)| (name.clone(), bytes.clone())).collect())
    }
}

/// The key expansion of AES-256 (FIPS 197, 5.2): 60 words.
fn expanded(key: &[u8; 32]) -> Vec<[u8; 4]> {
    let mut words: Vec<[u8; 4]> = key.as_chunks::<4>().0.to_vec();
    let mut constant = 1_u8;
    for i in 8..60 {
        let mut word = words[i - 1];
        if i % 8 == 0 {
            word.rotate_left(1);
            word = word.map(substituted);
            word[0] ^= constant;
            constant = doubled(constant);
        } else if i % 8 == 4 {
            word = word.map(substituted);
        }
        let before = words[i - 8];
        words.push(std::array::from_fn(|b| word[b] ^ before[b]));
    }
    words
}

fn doubled(a: u8) -> u8 {
    (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1B }
}

/// The S-box (FIPS 197, 5.1.1), by its definition: the inverse in GF(2^8), then the affine map.
fn substituted(byte: u8) -> u8 {
    let times =
        |a: u8, b: u8| (0..8).rev().fold(0, |sum, bit| doubled(sum) ^ if b >> bit & 1 == 1 { a } else { 0 });
    let inverse = (0..=255).find(|b| times(byte, *b) == 1).unwrap_or(0);
    (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
}

/// SHA-256's state behind one block (FIPS 180-4, 6.2.2). Its constants are roots of primes, worked out here.
fn compressed(block: &[u8; 64]) -> [u32; 8] {
    let primes: Vec<u128> = (2_u128..).filter(|n| (2..*n).all(|d| n % d != 0)).take(64).collect();
    let root = |n: u128, power: u32| {
        // floor(n^(1/power) * 2^32), of which the lower half is wanted.
        let target = n << (32 * power);
        let (mut low, mut high) = (0_u128, 1_u128 << 40);
        while high - low > 1 {
            let middle = u128::midpoint(low, high);
            if middle.checked_pow(power).is_some_and(|p| p <= target) { low = middle } else { high = middle }
        }
        u32::try_from(low & 0xFFFF_FFFF).unwrap()
    };
    let start: [u32; 8] = std::array::from_fn(|i| root(primes[i], 2));
    let mut w: Vec<u32> = block.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b)).collect();
    for t in 16..64 {
        let (a, b) = (w[t - 15], w[t - 2]);
        let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
        let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
        w.push(w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1));
    }
    let mut v = start;
    for t in 0..64 {
        let [a, b, c, d, e, f, g, h] = v;
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let first = h
            .wrapping_add(s1)
            .wrapping_add((e & f) ^ (!e & g))
            .wrapping_add(root(primes[t], 3))
            .wrapping_add(w[t]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
        v = [first.wrapping_add(second), a, b, c, d.wrapping_add(first), e, f, g];
    }
    std::array::from_fn(|i| v[i].wrapping_add(start[i]))
}

#[test]
fn what_the_test_looks_for_is_what_the_standards_say() {
    // FIPS 197, A.3.
    let key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    let key: [u8; 32] = data_encoding::HEXLOWER.decode(key.as_bytes()).unwrap().try_into().unwrap();
    let words = expanded(&key);
    assert_eq!((words[8], words[59]), ([0x9B, 0xA3, 0x54, 0x11], [0x70, 0x6C, 0x63, 0x1E]));
    // FIPS 180-4's "abc", padded to one block.
    let mut block = [0; 64];
    block[..4].copy_from_slice(b"abc\x80");
    block[63] = 24;
    let digest: Vec<u8> = compressed(&block).iter().flat_map(|w| w.to_be_bytes()).collect();
    assert_eq!(digest, ring::digest::digest(&ring::digest::SHA256, b"abc").as_ref());
}

/// Every key of the vault that lies in a rig's folder, by its kind and number.
fn every_key(rig: &Rig) -> (Wanted, Control) {
    let closed = Closed::at(&rig.file("vault"), OPTIONS);
    let store = closed.store();
    let at = |key: Vec<u8>| row(&*store, &key).unwrap();
    let header = control::Header::decode(&at(control::header_key())).unwrap();
    let epoch = control::Epoch::decode(&at(control::epoch_key())).unwrap();
    let (root, ctl) = header.unlock(&custodian()).unwrap();
    let control =
        Control::open(&at(control::control_key()), &epoch, &header.vault, header.ctl.0, &ctl).unwrap();
    let mut wanted = Wanted::default();
    wanted.sealing("root", root.secret());
    wanted.sealing("ctl", ctl.secret());
    wanted.sealing("esk", &esk(&rig.file("vault/esk"), &header.vault));
    let mut keks = BTreeMap::new();
    let alive = |k: &&KeyRecord| k.state != KeyState::Destroyed;
    for key in control.keys.iter().filter(alive) {
        let name = format!("{}{}", key.kind.as_str(), key.id.0);
        match key.kind {
            KeyKind::Root | KeyKind::Esk | KeyKind::Ctl => {}
            KeyKind::Log => wanted.signing(&name, key.unwrap::<Log, Root>(&root).unwrap().secret()),
            KeyKind::Adm => wanted.sealing(&name, key.unwrap::<Adm, Root>(&root).unwrap().secret()),
            KeyKind::Kek => {
                let kek = key.unwrap::<Kek, Root>(&root).unwrap();
                wanted.sealing(&name, kek.secret());
                keks.insert(key.id, kek);
            }
            _ => {}
        }
    }
    for key in control.keys.iter().filter(alive) {
        let Some(kek) = key.under.and_then(|id| keks.get(&id)) else { continue };
        let name = format!("{}{}", key.kind.as_str(), key.id.0);
        match key.kind {
            KeyKind::Dek => wanted.sealing(&name, key.unwrap::<Dek, Kek>(kek).unwrap().secret()),
            KeyKind::Idx => wanted.naming(&name, key.unwrap::<Idx, Kek>(kek).unwrap().secret()),
            KeyKind::Fpr => wanted.naming(&name, key.unwrap::<Fpr, Kek>(kek).unwrap().secret()),
            KeyKind::Trk => wanted.naming(&name, key.unwrap::<Trk, Kek>(kek).unwrap().secret()),
            KeyKind::Ref => wanted.naming(&name, key.unwrap::<Ref, Kek>(kek).unwrap().secret()),
            KeyKind::Idm => wanted.naming(&name, key.unwrap::<Idm, Kek>(kek).unwrap().secret()),
            KeyKind::Rcv => wanted.bytes(&name, key.unwrap::<Rcv, Kek>(kek).unwrap().secret()),
            KeyKind::Fpk => {
                let fpk = key.unwrap::<Fpk, Kek>(kek).unwrap();
                wanted.bytes(&name, fpk.secret());
                wanted.schedule(&name, fpk.secret());
            }
            KeyKind::Root | KeyKind::Esk | KeyKind::Ctl | KeyKind::Log | KeyKind::Adm | KeyKind::Kek => {}
        }
    }
    (wanted, control)
}

/// The erasure epoch key, out of its file (docs/format.md).
fn esk(file: &Path, vault: &[u8; 16]) -> Secret32 {
    let bytes = fs::read(file).unwrap();
    let mut r = Reader::new(&bytes[22..]);
    assert_eq!(r.u8().unwrap(), 1);
    r.fixed(8).unwrap();
    custodian().unwrap(&CustodyBlock::read(&mut r).unwrap(), KeyKind::Esk, vault).unwrap()
}

fn header() -> v1::RequestHeader {
    ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder)
}

/// Uses the keys: cards come in and go out, codes are held, a customer has a subject.
async fn worked(rig: &Rig) {
    let (shop, gateway) = (rig.client("shop").await, rig.client("gateway").await);
    for _ in 0..200 {
        let visa = ask::card(vault_client::Zeroizing::new(VISA.as_bytes().to_vec()), None);
        let token = shop.tokenize(header(), visa).await.unwrap().token;
        gateway.detokenize(header(), ask::plain(&token)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_vault_has_no_key_in_memory_in_any_form() {
    for engine in ON_DISK {
        let mut rig = Rig::made(engine, "", "");
        let (wanted, _) = every_key(&rig);
        rig.start();
        worked(&rig).await;
        let operator = rig.operator().await.within(Duration::from_secs(60));
        operator.verify_log(v1::VerifyLogRequest::default()).await.unwrap();
        tokio::time::sleep(REST).await;
        let before = wanted.found(rig.process_id(), rig.folder.path());
        let missing: Vec<_> = wanted.0.keys().filter(|name| !before.contains(*name)).collect();
        println!(
            "{engine}: {} forms of keys, {} found while open; missing: {missing:?}",
            wanted.0.len(),
            before.len()
        );
        // A merchant's KEK unwraps and is gone; of the log's seed what it was expanded to is there.
        for name in missing {
            let unwrapped = name.starts_with("kek") || name.starts_with("log") && name.ends_with(" bytes");
            assert!(unwrapped, "{engine}: the scanner does not find {name}");
        }
        for _ in 0..2 {
            let sealed = operator.seal(v1::SealRequest {}).await.unwrap();
            assert!(sealed.state.unwrap().sealed);
            tokio::time::sleep(REST).await;
            let after = wanted.found(rig.process_id(), rig.folder.path());
            assert!(after.is_empty(), "{engine}: sealed, and still in memory: {after:?}");
            operator.unseal(v1::UnsealRequest {}).await.unwrap();
            worked(&rig).await;
        }
        rig.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_is_in_memory_in_no_form() {
    let mut rig = Rig::made(Engine::Redb, "", "");
    let (wanted, control) = every_key(&rig);
    let dek = control
        .keys
        .iter()
        .find(|k| k.kind == KeyKind::Dek && k.merchant.as_ref().is_some_and(|m| m.as_str() == "acme"));
    let dek = dek.unwrap().id.0;
    rig.start();
    worked(&rig).await;
    let operator = rig.operator().await.within(Duration::from_secs(60));
    let of_dek = wanted.of(&format!("dek{dek}"));
    assert_eq!(
        of_dek.found(rig.process_id(), rig.folder.path()).len(),
        of_dek.0.len(),
        "the scanner finds it"
    );
    let rotate = v1::RotateKeyRequest {
        header: Some(ask::change(None)),
        kind: v1::KeyKind::Dek.into(),
        merchant: "acme".to_owned(),
        ..Default::default()
    };
    operator.rotate_key(rotate).await.unwrap();
    let began = Instant::now();
    let destroy = || v1::DestroyKeyRequest { header: Some(ask::change(None)), key: dek.to_string() };
    while operator.destroy_key(destroy()).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "rows stay under the old key");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Also the keys above it, which a rotation destroys at once.
    for (kind, merchant) in [(v1::KeyKind::Kek, "acme"), (v1::KeyKind::Ctl, ""), (v1::KeyKind::Root, "")] {
        let rotate = v1::RotateKeyRequest {
            header: Some(ask::change(None)),
            kind: kind.into(),
            merchant: merchant.to_owned(),
            ..Default::default()
        };
        operator.rotate_key(rotate).await.unwrap();
    }
    worked(&rig).await;
    tokio::time::sleep(REST).await;
    let kek = control
        .keys
        .iter()
        .find(|k| k.kind == KeyKind::Kek && k.merchant.as_ref().is_some_and(|m| m.as_str() == "acme"));
    for gone in
        [format!("dek{dek}"), format!("kek{}", kek.unwrap().id.0), "ctl".to_owned(), "root".to_owned()]
    {
        let left = wanted.of(&gone).found(rig.process_id(), rig.folder.path());
        assert!(left.is_empty(), "destroyed, and still in memory: {left:?}");
    }
    rig.kill();
}
