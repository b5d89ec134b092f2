//! A vault that people with shares open together: it starts sealed, serves nothing, says nothing of one share, opens without a
//! restart once there are enough, and is sealed again at a word.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pollster::block_on;
use vault_client::v1::{self, AuditEntry};
use vault_client::{AdminClient, ClientError, Endpoint, Pem, Reason, VaultClient};
use vault_core::custody::{Custodian, Share, Shares};
use vault_core::error::Error;
use vault_core::store::Engine;
use vault_tests::ON_DISK;
use vault_tests::cards::VISA;
use vault_tests::desk::{Desk, PASSPHRASE, custodian, principal};
use vault_tests::server::{Leaf, Rig, program};

use crate::raw::{Raw, answer, framed, put};

const PAGE: &str = "[metrics]\naddress = \"127.0.0.1:0\"\n";

/// `vaultctl custodian` as an operator runs it, with JSON as its answer.
fn ask(rig: &Rig, name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(["--json", "custodian"]).args(arguments).stdin(Stdio::null());
    if ["unseal", "seal", "status", "reset", "accept"].contains(&arguments[0]) {
        command.arg("--admin").arg(format!("https://localhost:{}", rig.admin().port()));
        for (flag, file) in [
            ("--ca", "servers.pem".to_owned()),
            ("--cert", format!("{name}.pem")),
            ("--key", format!("{name}.key")),
        ] {
            command.arg(flag).arg(rig.file(&file));
        }
    } else {
        command.arg("--folder").arg(rig.file("vault"));
    }
    command.current_dir(rig.folder.path()).output().unwrap()
}

fn told(output: &Output) -> serde_json::Value {
    let line = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&line)
        .unwrap_or_else(|_| panic!("{line}{}", String::from_utf8_lossy(&output.stderr)))
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A vault in the hands of so many people, not served yet; their shares are `into/share-1` and so on.
fn split(rig: &Rig, threshold: &str, shares: &str, into: &str, with: &[&str]) -> serde_json::Value {
    let arguments =
        ["split", "--threshold", threshold, "--shares", shares, "--into", into, "--operator", "olga"];
    told(&ask(rig, "olga", &[&arguments, with].concat()))
}

fn sealed_rig(engine: Engine) -> Rig {
    let rig = Rig::made(engine, "", PAGE);
    let done = split(&rig, "2", "3", "shares", &["--passphrase-file", "passphrase"]);
    assert_eq!((&done["threshold"], &done["shares"]), (&2.into(), &3.into()), "{done}");
    let settings = std::fs::read_to_string(rig.file("settings.toml")).unwrap();
    put(&rig, "settings.toml", &settings.replace("passphrase_file = \"passphrase\"", "shares = true"));
    // An operator's authority vouches for her, and no policy lists her.
    let (certificate, key, _) = rig.operators.issue("spiffe://rig/mallory", Leaf::Good);
    put(&rig, "mallory.pem", &certificate);
    put(&rig, "mallory.key", &key);
    rig
}

fn share(rig: &Rig, file: &str) -> v1::EnterShareRequest {
    v1::EnterShareRequest::new(std::fs::read(rig.file(file)).unwrap())
}

async fn admin(rig: &Rig, name: &str) -> AdminClient {
    let leaf = |kind: &str| Pem::file(rig.file(&format!("{name}.{kind}")));
    let address = format!("https://localhost:{}", rig.admin().port());
    let endpoint = Endpoint::new(&address, Pem::file(rig.file("servers.pem")), (leaf("pem"), leaf("key")));
    AdminClient::connect(endpoint).await.unwrap().within(Duration::from_secs(60))
}

fn reason<T>(answer: Result<T, ClientError>) -> Option<Reason> {
    match answer {
        Ok(_) => None,
        Err(ClientError::Refused(failure)) => Some(failure.reason().unwrap_or_else(|| panic!("{failure:?}"))),
        Err(e) => panic!("{e}"),
    }
}

/// Stores a card as the web shop, and pays with its token as the gateway.
async fn works(rig: &Rig) -> Result<(), ClientError> {
    let header = || ask_header("web");
    let shop = rig.client("shop").await.within(Duration::from_secs(20));
    let visa = vault_client::ask::card(vault_client::Zeroizing::new(VISA.as_bytes().to_vec()), None);
    let token = shop.tokenize(header(), visa).await?.token;
    let gateway = rig.client("gateway").await;
    let paid = gateway.detokenize(header(), vault_client::ask::plain(&token)).await?;
    assert_eq!(vault_client::ask::pan(paid).unwrap().as_slice(), VISA.as_bytes());
    Ok(())
}

fn ask_header(channel: &str) -> v1::RequestHeader {
    vault_client::ask::header("acme", channel, v1::Purpose::Authorization, v1::Initiator::Cardholder)
}

async fn entries(operator: &AdminClient) -> Vec<AuditEntry> {
    let request = v1::ListAuditEntriesRequest { page_size: 1_000, ..Default::default() };
    operator.list_audit_entries(request).await.unwrap().entries
}

/// What a server that is sealed says to everyone.
async fn serves_nothing(rig: &Rig, operator: &AdminClient, entered: u32) {
    let listing = v1::ListKeysRequest::default();
    assert_eq!(reason(operator.list_keys(listing).await), Some(Reason::Sealed));
    let Err(ClientError::Refused(failure)) = VaultClient::connect(rig.endpoint("shop")).await else {
        panic!("it serves")
    };
    assert_eq!((failure.code(), failure.reason()), (tonic::Code::Unavailable, Some(Reason::Sealed)));
    assert_eq!(failure.retry_after(), None);
    // NOT_SERVING, as load balancers that speak gRPC ask for it.
    let peer = Raw::connect(rig, "shop").await;
    let (health, _) = peer.ask(Raw::head("/grpc.health.v1.Health/Check"), framed(&[])).await.unwrap();
    assert_eq!(health[5..], [8, 2]);
    let status = operator.get_status(v1::GetStatusRequest {}).await.unwrap();
    assert_eq!(status.state(), v1::ServingState::Sealed);
    assert!(status.problems.iter().any(|p| p.reason == "SEALED"), "{:?}", status.problems);
    let state = operator.get_seal(v1::GetSealRequest {}).await.unwrap().state.unwrap();
    assert_eq!((state.sealed, state.entered), (true, entered));
    let (health, ready, lives) =
        (answer(rig, "/healthz").await, answer(rig, "/readyz").await, answer(rig, "/livez").await);
    assert!(health.starts_with("HTTP/1.1 503") && ready.starts_with("HTTP/1.1 503"), "{health}");
    assert!(lives.starts_with("HTTP/1.1 200") && health.contains("\"sealed\":true"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_sealed_opens_for_enough_people_and_is_sealed_again_at_a_word() {
    for engine in ON_DISK {
        let mut rig = sealed_rig(engine);
        rig.start();
        let olga = admin(&rig, "olga").await;
        serves_nothing(&rig, &olga, 0).await;

        // The same entry for right and wrong; what was wrong is not said, and all is forgotten.
        let other = Shares::split(&[9; 16], 2, 3).map_err(|e| e.to_string()).unwrap().1;
        let mut wrong = other[1].expose_text().to_string();
        wrong.push('\n');
        let entered = |state: Option<v1::SealState>| state.unwrap().entered;
        let first = olga.enter_share(share(&rig, "shares/share-1")).await.unwrap();
        assert_eq!(entered(first.state), 1);
        let again = olga.enter_share(share(&rig, "shares/share-1")).await.unwrap();
        assert_eq!(entered(again.state), 1, "the same share twice is one");
        let mut failures = Vec::new();
        for second in [wrong.into_bytes(), broken(&rig, "shares/share-2")] {
            let refused = olga.enter_share(v1::EnterShareRequest::new(second)).await;
            let Err(ClientError::Refused(failure)) = refused else { panic!("it opened") };
            assert_eq!(failure.reason(), Some(Reason::Custody));
            failures.push(failure);
            serves_nothing(&rig, &olga, 0).await;
            olga.enter_share(share(&rig, "shares/share-1")).await.unwrap();
        }
        // Nor is it said where the shares are right, and one who brought them is no operator.
        let mallory = admin(&rig, "mallory").await;
        let refused = mallory.enter_share(share(&rig, "shares/share-2")).await;
        let Err(ClientError::Refused(failure)) = refused else { panic!("it opened") };
        failures.push(failure);
        assert!(failures.windows(2).all(|two| two[0] == two[1]), "{failures:?}");
        serves_nothing(&rig, &olga, 0).await;

        // By hand, each at an own prompt: here from files.
        let one = told(&ask(&rig, "olga", &["unseal", "--share-file", "shares/share-3"]));
        assert_eq!((&one["sealed"], &one["entered"]), (&true.into(), &1.into()), "{one}");
        let reset = told(&ask(&rig, "olga", &["reset"]));
        assert_eq!(reset["entered"], 0);
        for file in ["shares/share-3", "shares/share-2"] {
            let done = ask(&rig, "olga", &["unseal", "--share-file", file]);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        assert_eq!(told(&ask(&rig, "olga", &["status"]))["sealed"], false);
        works(&rig).await.unwrap();
        let open = olga.get_status(v1::GetStatusRequest {}).await.unwrap();
        assert_eq!(open.state(), v1::ServingState::Serving);
        assert!(answer(&rig, "/readyz").await.starts_with("HTTP/1.1 200"));
        let late = olga.enter_share(share(&rig, "shares/share-1")).await.unwrap().state.unwrap();
        assert!(!late.sealed, "an open vault takes no share, and says that it is open");
        assert_eq!(reason(mallory.get_seal(v1::GetSealRequest {}).await), Some(Reason::PermissionDenied));
        assert_eq!(reason(mallory.seal(v1::SealRequest {}).await), Some(Reason::PermissionDenied));

        // Who entered which share, who opened it, and who accepts custody is in the log.
        let accepted = told(&ask(&rig, "olga", &["accept", "--share-file", "shares/share-1"]));
        assert_eq!(accepted["share"], 1);
        let log = entries(&olga).await;
        let of = |kind: &str| {
            log.iter()
                .filter(|e| e.kind == kind)
                .map(|e| (e.principal.as_str(), e.details.get("share").cloned().unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("share_entered"), [("olga", "3".to_owned()), ("olga", "2".to_owned())]);
        assert_eq!(of("unsealed"), [("olga", String::new())]);
        assert_eq!(of("custody_accepted"), [("olga", "1".to_owned())]);

        // Sealed at a word, under load: every answer is a right one or says that it is sealed.
        let load = tokio::spawn({
            let shop = rig.client("shop").await;
            async move {
                let mut stored = 0;
                loop {
                    let visa =
                        vault_client::ask::card(vault_client::Zeroizing::new(VISA.as_bytes().to_vec()), None);
                    match reason(shop.tokenize(ask_header("web"), visa).await) {
                        None => stored += 1,
                        Some(Reason::Sealed) => return stored,
                        Some(Reason::StoreAway | Reason::Overloaded) => {}
                        Some(other) => panic!("{other:?}"),
                    }
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let sealed = told(&ask(&rig, "olga", &["seal"]));
        assert_eq!(sealed["sealed"], true);
        assert!(load.await.unwrap() > 0);
        serves_nothing(&rig, &olga, 0).await;
        for file in ["shares/share-1", "shares/share-2"] {
            olga.enter_share(share(&rig, file)).await.unwrap();
        }
        works(&rig).await.unwrap();
        let kinds: Vec<String> = entries(&olga).await.into_iter().map(|e| e.kind).collect();
        let at = kinds.iter().position(|k| k == "sealed").unwrap();
        assert_eq!(kinds[at..at + 2], ["sealed", "vault_closed"]);

        // Started again it is sealed again.
        assert!(rig.stop());
        rig.start();
        let olga = admin(&rig, "olga").await;
        serves_nothing(&rig, &olga, 0).await;
        assert!(rig.stop(), "a sealed server ends well");
        // The log that was written across all this is whole.
        let verified = Command::new(program())
            .args(["custodian", "check", "--share-file", "shares/share-1", "--share-file", "shares/share-3"])
            .arg("--folder")
            .arg(rig.file("vault"))
            .current_dir(rig.folder.path())
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
}

/// A share with other bytes and the right checksum: what somebody who makes shares up would send.
fn broken(rig: &Rig, file: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(rig.file(file)).unwrap();
    let digits = data_encoding::Specification {
        symbols: "0123456789abcdefghjkmnpqrstvwxyz".to_owned(),
        ..data_encoding::Specification::new()
    };
    let base32 = digits.encoding().unwrap();
    let mut bytes =
        base32.decode(text.trim().trim_start_matches("pvs1").replace('-', "").as_bytes()).unwrap();
    bytes[20] ^= 1;
    let sum = ring::digest::digest(&ring::digest::SHA256, &[b"pvs1", &bytes[..41]].concat());
    bytes[41..].copy_from_slice(&sum.as_ref()[..4]);
    let made_up = format!("pvs1{}", base32.encode(&bytes)).into_bytes();
    assert!(Share::parse(&made_up).is_ok());
    made_up
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_keeps_trying_waits() {
    let mut rig = sealed_rig(Engine::Redb);
    rig.start();
    let olga = admin(&rig, "olga").await;
    let wrong = broken(&rig, "shares/share-2");
    for _ in 0..10 {
        olga.enter_share(share(&rig, "shares/share-1")).await.unwrap();
        let refused = olga.enter_share(v1::EnterShareRequest::new(wrong.clone())).await;
        assert_eq!(reason(refused), Some(Reason::Custody));
    }
    let refused = olga.enter_share(share(&rig, "shares/share-1")).await;
    let Err(ClientError::Refused(failure)) = refused else { panic!("it was taken") };
    assert_eq!(failure.reason(), Some(Reason::BudgetSpent));
    assert!(failure.retry_after().unwrap() > Duration::from_secs(60));
    // Who keeps trying is in the server's log, and who takes the others' shares away.
    assert_eq!(told(&ask(&rig, "olga", &["reset"]))["sealed"], true);
    let log = rig.log();
    let named =
        |what: &str| log.iter().filter(|l| l.contains(what) && l.contains("spiffe://rig/olga")).count();
    assert_eq!(
        (named("do not open the vault"), named("are forgotten at an operator's word")),
        (10, 1),
        "{log:?}"
    );
    assert_eq!(reason(olga.unseal(v1::UnsealRequest {}).await), Some(Reason::BudgetSpent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_with_a_passphrase_is_sealed_and_asks_its_custodian_again() {
    for engine in [Engine::Redb, Engine::Sled] {
        let rig = Rig::with(engine, "", PAGE);
        let olga = admin(&rig, "olga").await;
        works(&rig).await.unwrap();
        assert_eq!(told(&ask(&rig, "olga", &["seal"]))["sealed"], true);
        serves_nothing(&rig, &olga, 0).await;
        assert_eq!(
            reason(olga.enter_share(v1::EnterShareRequest::new(b"pvs1-x".to_vec())).await),
            Some(Reason::Malformed)
        );
        put(&rig, "passphrase", "another passphrase");
        assert!(complaint(&ask(&rig, "olga", &["unseal"])).contains("does not open"));
        put(&rig, "passphrase", PASSPHRASE);
        assert_eq!(told(&ask(&rig, "olga", &["unseal"]))["sealed"], false);
        works(&rig).await.unwrap();
    }
}

#[test]
fn shares_are_checked_by_their_holders_and_replaced_by_new_ones_or_a_passphrase() {
    let rig = sealed_rig(Engine::Redb);
    let shares = ["--share-file", "shares/share-1", "--share-file", "shares/share-3"];
    let check = |with: &[&str]| ask(&rig, "olga", &[&["check"], with].concat()).status.success();
    assert!(check(&shares) && !check(&["--passphrase-file", "passphrase"]));
    assert!(!check(&shares[..2]), "one of two is not enough");
    assert!(complaint(&ask(&rig, "olga", &["check", "--share-file", "passphrase"])).contains("pvs1-"));
    for file in ["shares/share-1", "shares/share-2", "shares/share-3"] {
        assert!(told(&ask(&rig, "olga", &["verify-share", "--share-file", file]))["good"] == true);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(rig.file(file)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
    let wrong = rig.file("wrong");
    std::fs::write(&wrong, broken(&rig, "shares/share-2")).unwrap();
    assert!(
        complaint(&ask(&rig, "olga", &["verify-share", "--share-file", "wrong"])).contains("can be read")
    );
    put(&rig, "wrong", &String::from_utf8(broken(&rig, "shares/share-2")).unwrap());
    assert!(
        complaint(&ask(&rig, "olga", &["verify-share", "--share-file", "wrong"])).contains("none of those")
    );

    // A share is lost, or a person leaves: a new split, and the old shares are worth nothing.
    split(&rig, "3", "4", "next", &[&["--new-root"], &shares[..]].concat());
    assert!(!check(&shares));
    let next =
        ["--share-file", "next/share-4", "--share-file", "next/share-2", "--share-file", "next/share-3"];
    assert!(check(&next) && !check(&next[..4]));
    let mixed =
        ["--share-file", "next/share-4", "--share-file", "next/share-2", "--share-file", "shares/share-3"];
    assert!(
        complaint(&ask(&rig, "olga", &[&["check"], &mixed[..]].concat())).contains("does not open")
            || !check(&mixed)
    );
    assert!(
        complaint(&ask(&rig, "olga", &["verify-share", "--share-file", "shares/share-1"]))
            .contains("none of those")
    );

    // Bounds, a folder that is there, nobody of the policy: nothing is changed.
    for (threshold, count, into, operator, says) in [
        ("1", "3", "more", "olga", "threshold"),
        ("5", "3", "more", "olga", "threshold"),
        ("2", "17", "more", "olga", "shares"),
        ("2", "3", "next", "olga", "new folder"),
        ("2", "3", "more", "nobody", "operator"),
    ] {
        let arguments =
            ["split", "--threshold", threshold, "--shares", count, "--into", into, "--operator", operator];
        let refused = complaint(&ask(&rig, "olga", &[&arguments[..], &next[..]].concat()));
        assert!(refused.contains(says), "{refused}");
        assert!(check(&next) && !rig.file("more").exists());
    }

    // Whatever else opens the folder takes shares as well.
    let whole = [&["store", "verify"], &next[..]].concat();
    let verified = Command::new(program())
        .args(whole)
        .arg("--folder")
        .arg(rig.file("vault"))
        .current_dir(rig.folder.path())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    // And back to a passphrase.
    put(&rig, "back", "the way back home");
    let back = ["change", "--new-passphrase-file", "back", "--operator", "olga"];
    told(&ask(&rig, "olga", &[&back[..], &next[..]].concat()));
    assert!(check(&["--passphrase-file", "back"]) && !check(&next));

    // Or beside it, for the day when it is lost.
    let done = split(&rig, "2", "2", "beside", &["--beside", "--passphrase-file", "back"]);
    assert_eq!(done["beside"], true);
    let beside = ["--share-file", "beside/share-1", "--share-file", "beside/share-2"];
    assert!(check(&beside) && check(&["--passphrase-file", "back"]));
    let list = Command::new(program())
        .args(["custodian", "list", "--folder"])
        .arg(rig.file("vault"))
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("passphrase") && list.contains("any 2 of 2 shares of split"), "{list}");

    // A new root is every custodian's: refused before a share is written, and both open as before.
    let arguments = ["split", "--threshold", "2", "--shares", "3", "--into", "more", "--operator", "olga"];
    let alone = [&arguments[..], &["--new-root", "--passphrase-file", "back"]].concat();
    let refused = complaint(&ask(&rig, "olga", &alone));
    assert!(refused.contains("needs every custodian") && !rig.file("more").exists(), "{refused}");
    assert!(check(&beside) && check(&["--passphrase-file", "back"]));
}

#[test]
fn a_split_that_is_killed_leaves_exactly_one_that_opens() {
    for engine in ON_DISK {
        let rig = Rig::made(engine, "", "");
        let passes = |with: &[&str]| ask(&rig, "olga", &[&["check"], with].concat()).status.success();
        let (mut before, mut after) = (0, 0);
        let folder = rig.file("vault");
        let whole = tempfile::tempdir().unwrap();
        copy(&folder, whole.path());
        // How long the change takes once the shares lie there, on this machine as busy as it is: the first round runs to its end.
        let mut takes = None;
        for round in 0..12_u32 {
            std::fs::remove_dir_all(&folder).unwrap();
            std::fs::create_dir(&folder).unwrap();
            copy(whole.path(), &folder);
            let into = format!("shares-{round}");
            let mut child = Command::new(program())
                .args([
                    "custodian",
                    "split",
                    "--threshold",
                    "2",
                    "--shares",
                    "2",
                    "--passphrase-file",
                    "passphrase",
                    "--operator",
                    "olga",
                    "--into",
                    &into,
                ])
                .arg("--folder")
                .arg(&folder)
                .current_dir(rig.folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Once the shares lie there the change is being made: die within it, later each time.
            let last = rig.file(&into).join("share-2");
            while !last.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            let began = Instant::now();
            match takes {
                None => {
                    child.wait().unwrap();
                    takes = Some(began.elapsed());
                }
                Some(takes) => std::thread::sleep(takes * (round - 1) / 10),
            }
            let _dead_or_done = child.kill();
            child.wait().unwrap();
            let (one, two) = (format!("{into}/share-1"), format!("{into}/share-2"));
            let shares = ["--share-file", one.as_str(), "--share-file", two.as_str()];
            match (passes(&["--passphrase-file", "passphrase"]), passes(&shares)) {
                (true, false) => before += 1,
                (false, true) => after += 1,
                both => panic!("{engine} round {round}: passphrase and shares: {both:?}"),
            }
        }
        println!("{engine}: killed before the commit {before} times, after it {after} times");
        assert!(after > 0, "what is not killed is done");
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_root_rotates_under_shares_and_the_same_shares_open_it() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let visa = desk.web().stored(VISA);
        let standing = block_on(desk.vault.standing_of()).unwrap();
        let (dealer, shares) = Shares::split(&standing.vault, 2, 3).map_err(|e| e.to_string()).unwrap();
        let olga = principal("olga");
        block_on(desk.vault.change_custodian(&olga, (&custodian(), &dealer), None)).map(drop).unwrap();
        let two = Shares::of(&shares[1..]).map_err(|e| e.to_string()).unwrap();
        let by: [&dyn Custodian; 1] = [&two];
        block_on(desk.vault.rotate_root(&olga, &by, None)).map(drop).unwrap();
        let of = desk.vault.standing_of();
        assert_eq!(block_on(of).unwrap().split.as_ref(), dealer.public(), "verifiers and numbers stay");
        let desk = desk.close().open_by(&two).unwrap_or_else(|(_, e)| panic!("{e}"));
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        let (_, why) = desk.close().open_with(PASSPHRASE).err().unwrap();
        assert_eq!(why, Error::Custody);
    }
}
