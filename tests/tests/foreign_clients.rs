//! Programs that share no line with us speak the contract: a Python client, made from the .proto files, stores ten
//! thousand cards and reads them back exactly; grpcurl finds its way by reflection alone.
//!
//! `tests/tools` puts both programs where they are found. Where it cannot, these tests fail and say what it said.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use prost::Message as _;
use serde_json::{Value, json};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use vault_client::{Zeroizing, ask};
use vault_core::policy::Policy;
use vault_core::store::Engine;
use vault_proto::v1;
use vault_tests::cards::number;
use vault_tests::server::{self, Rig};

use crate::raw::{Raw, framed, introduce};

/// What may stay readable, first and last digits, and at which lengths.
const KEEPS: [(u8, u8, &[usize]); 6] = [
    (0, 0, &[12, 13, 14, 15, 16, 17, 18, 19]),
    (0, 4, &[12, 13, 14, 15, 16, 17, 18, 19]),
    (6, 0, &[12, 13, 14, 15, 16, 17, 18, 19]),
    (6, 4, &[15, 16, 17, 18, 19]),
    (8, 0, &[15, 16, 17, 18, 19]),
    (8, 4, &[16]),
];

/// How many cards of each length the Python client brings.
const CARDS_OF_A_LENGTH: usize = 1_250;

pub(crate) fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The environment that `tests/tools` made.
pub(crate) fn tools() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let binary = std::env::current_exe().unwrap();
        // <target>/<profile>/deps/<binary>: the tools lie beside the profiles.
        let target = binary.ancestors().nth(3).unwrap();
        let made = Command::new(tests_folder().join("tools")).env("CARGO_TARGET_DIR", target).output();
        let made = made.unwrap_or_else(|e| panic!("tests/tools does not run: {e}"));
        let told = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "tests/tools could not put the foreign tools in place:\n{told}");
        PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
    })
}

pub(crate) fn done(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    out.into_owned()
}

/// The Python classes of the contract, made by grpcio-tools from the same files that ours are made from.
pub(crate) fn stubs(folder: &Path) {
    let proto = tests_folder().join("../proto");
    let files =
        ["vault/v1/types.proto", "vault/v1/vault.proto", "vault/v1/admin.proto", "google/rpc/status.proto"];
    let made = Command::new(tools().join("bin/python"))
        .args(["-m", "grpc_tools.protoc"])
        .arg(format!("-I{}", proto.display()))
        .arg(format!("-I{}", proto.join("third_party").display()))
        .arg(format!("--python_out={}", folder.display()))
        .arg(format!("--grpc_python_out={}", folder.display()))
        .args(files) // by the names under which they import each other
        .output()
        .unwrap();
    done(&made);
}

/// One merchant per keep, for two keeps of one merchant may together tell more than each: its formats keep it at every
/// length that allows it, its mask shows the same.
fn merchants() -> String {
    let mut policy = String::new();
    for (first, last, lengths) in KEEPS {
        let name = format!("keep-{first}{last}");
        let keep: Vec<String> = lengths.iter().map(|n| format!("{n} = \"{first}+{last}\"")).collect();
        let keep = keep.join(", ");
        let formats = ["random", "mixed", "opaque"].map(|scheme| {
            format!("[[merchant.format]]\nid = \"{scheme}\"\nscheme = \"{scheme}\"\nkeep = {{ {keep} }}\n")
        });
        let formats = formats.concat();
        write!(
            policy,
            r#"
[[merchant]]
id = "{name}"
mask = {{ {keep} }}
{formats}
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "random"
[[principal]]
id = "{name}"
authority = "clients"
name = "spiffe://rig/{name}"
merchant = "{name}"
[[rule]]
id = "{name}-stores"
effect = "allow"
merchant = "{name}"
principals = ["{name}"]
actions = ["tokenize"]
tells_reuse = true
import = true
[[rule]]
id = "{name}-reads"
effect = "allow"
merchant = "{name}"
principals = ["{name}"]
actions = ["detokenize"]
show = "full"
"#
        )
        .unwrap();
    }
    policy
}

#[test]
fn a_python_client_stores_ten_thousand_cards_in_every_keep_and_reads_them_back() {
    let mut rig = Rig::made(Engine::Redb, &merchants(), "");
    for (first, last, _) in KEEPS {
        introduce(&rig, &format!("keep-{first}{last}"));
    }
    rig.start();
    let classes = tempfile::tempdir().unwrap();
    stubs(classes.path());
    let ran = Command::new(tools().join("bin/python"))
        .arg(tests_folder().join("python/client.py"))
        .arg(classes.path())
        .arg(rig.folder.path())
        .arg(rig.data().to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let told: Value = serde_json::from_str(done(&ran).trim()).unwrap();
    let mut kinds: Vec<String> = Vec::new();
    for (first, last, lengths) in KEEPS {
        for scheme in ["random", "mixed", "opaque"] {
            kinds.extend(lengths.iter().map(|length| format!("{length} {first}+{last} {scheme}")));
        }
    }
    kinds.sort();
    let tokens: usize = KEEPS.iter().map(|(_, _, lengths)| lengths.len() * CARDS_OF_A_LENGTH).sum();
    let expected = json!({
        "cards": 10_000,
        "tokens": tokens,
        "kinds": kinds,
        "stored_by": ["batch", "single", "stream"],
        "read_by": ["batch", "single", "stream"],
        "receipts": 2 * tokens, // one for each card that came in, one for each that went out
    });
    assert_eq!(told, expected);
    assert!(rig.stop());
}

/// What a policy says where one format keeps this much at one length, and the mask shows as little as can be.
fn policy_that_keeps(length: usize, first: usize, last: usize) -> String {
    let masks: Vec<String> = (12..=19).map(|n| format!("{n} = \"0+0\"")).collect();
    format!(
        "[[merchant]]\nid = \"m\"\nmask = {{ {} }}\n\
         [[merchant.format]]\nid = \"f\"\nscheme = \"random\"\nkeep = {{ {length} = \"{first}+{last}\" }}\n",
        masks.join(", ")
    )
}

fn allowed(length: usize, first: usize, last: usize) -> bool {
    let keep = |(f, l, _): &&(u8, u8, &[usize])| (usize::from(*f), usize::from(*l)) == (first, last);
    KEEPS.iter().find(keep).is_some_and(|(_, _, lengths)| lengths.contains(&length))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_keep_that_is_not_allowed_is_refused_at_configuration() {
    for length in 11..=20 {
        for (first, last) in (0..=10).flat_map(|first| (0..=10).map(move |last| (first, last))) {
            let read = Policy::from_toml(&policy_that_keeps(length, first, last));
            assert_eq!(read.is_ok(), allowed(length, first, last), "{length} {first}+{last}");
        }
    }
    // The same table as an operator meets it, with every pair of ends that any length allows.
    let rig = Rig::new(Engine::Redb);
    let operator = rig.operator().await;
    for length in 11..=20 {
        for (first, last) in [0, 6, 8].into_iter().flat_map(|first| [0, 4].map(|last| (first, last))) {
            let more = policy_that_keeps(length, first, last);
            let toml = server::policy(&rig.clients, &rig.operators, &more);
            let checked = operator.check_policy(v1::CheckPolicyRequest { toml }).await.unwrap();
            let errors =
                checked.findings.iter().filter(|f| f.severity() == v1::FindingSeverity::Error).count();
            assert_eq!(
                errors == 0,
                allowed(length, first, last),
                "{length} {first}+{last}: {:?}",
                checked.findings
            );
        }
    }
    let epoch = operator.get_policy(v1::GetPolicyRequest {}).await.unwrap().epoch;
    let toml = server::policy(&rig.clients, &rig.operators, &policy_that_keeps(14, 6, 4));
    let applied =
        operator.apply_policy(v1::ApplyPolicyRequest { header: Some(ask::change(Some(epoch))), toml }).await;
    assert_eq!(applied.unwrap_err().reason(), Some(vault_client::Reason::PolicyRefused));
    assert_eq!(
        operator.get_policy(v1::GetPolicyRequest {}).await.unwrap().epoch,
        epoch,
        "nothing was changed"
    );
}

/// Runs grpcurl at the data plane as a principal, or as nobody, with `message` as what it sends.
fn grpcurl(rig: &Rig, principal: Option<&str>, words: &[&str], message: Option<&Value>) -> Output {
    let mut command = Command::new(tools().join("bin/grpcurl"));
    command.arg("-cacert").arg(rig.file("servers.pem"));
    if let Some(principal) = principal {
        command.arg("-cert").arg(rig.file(&format!("{principal}.pem")));
        command.arg("-key").arg(rig.file(&format!("{principal}.key")));
    }
    if message.is_some() {
        command.args(["-d", "@"]); // on its standard input: no card number stands in an argument
    }
    command.arg(format!("localhost:{}", rig.data().port())).args(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    if let Some(message) = message {
        input.write_all(message.to_string().as_bytes()).unwrap();
    }
    drop(input);
    child.wait_with_output().unwrap()
}

fn header() -> Value {
    json!({
        "merchant": "acme", "channel": "web", "request_id": ask::request_id(),
        "purpose": "PURPOSE_AUTHORIZATION", "initiator": "INITIATOR_CARDHOLDER",
    })
}

#[test]
fn grpcurl_lists_and_calls_by_reflection_alone() {
    let rig = Rig::new(Engine::Redb);
    let shop = |words: &[&str], message: Option<&Value>| grpcurl(&rig, Some("shop"), words, message);
    let listed = done(&shop(&["list"], None));
    for service in ["vault.v1.Vault", "grpc.health.v1.Health"] {
        assert!(listed.lines().any(|line| line == service), "{listed}");
    }
    assert!(!listed.contains("vault.v1.Admin"), "the operators' service has a listener of its own: {listed}");
    let methods = done(&shop(&["list", "vault.v1.Vault"], None));
    let promised = include_str!("../../proto/vault/v1/vault.proto").matches("\n  rpc ").count();
    assert_eq!(methods.lines().filter(|line| !line.is_empty()).count(), promised, "{methods}");
    let described = done(&shop(&["describe", "vault.v1.TokenizeItem"], None));
    assert!(described.contains("vault.v1.PlainCard plain = 3"), "{described}");

    // `MTIz...` is how JSON writes a field of bytes: base64 of the digits in ASCII.
    let pan = data_encoding::BASE64.encode(b"4111111111111111");
    let card = json!({"header": header(), "item": {"plain": {"pan": pan}}});
    let stored: Value =
        serde_json::from_str(&done(&shop(&["vault.v1.Vault/Tokenize"], Some(&card)))).unwrap();
    assert_eq!(stored["result"]["card"]["maskedPan"], "411111******1111", "{stored}");
    let token = stored["result"]["token"].as_str().unwrap();
    let wanted = json!({"header": header(), "item": {"token": token, "form": "REVEAL_FORM_PLAIN"}});
    let paid = done(&grpcurl(&rig, Some("gateway"), &["vault.v1.Vault/Detokenize"], Some(&wanted)));
    let paid: Value = serde_json::from_str(&paid).unwrap();
    assert_eq!(paid["result"]["plain"]["pan"], pan);

    let refused = shop(&["vault.v1.Vault/Detokenize"], Some(&wanted));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("PermissionDenied"), "{told}");
    assert!(told.contains("\"reason\":\"PERMISSION_DENIED\""), "its details can be read: {told}");
    assert!(
        !grpcurl(&rig, None, &["list"], None).status.success(),
        "a client without a certificate was served"
    );
}

/// Many gRPC libraries send each message in a frame of its own, and as fast as the connection takes them.
#[tokio::test(flavor = "multi_thread")]
async fn who_streams_faster_than_the_vault_works_waits_by_flow_control() {
    const STREAMS: u32 = 3;
    const MESSAGES: u32 = 1_500; // three times what a stream's window holds
    let rig = Rig::new(Engine::Redb);
    let client = Raw::connect(&rig, "importer").await;
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        let mut send = client.send.clone().ready().await.unwrap();
        let (response, mut body) =
            send.send_request(Raw::head("/vault.v1.Vault/StreamTokenize"), false).unwrap();
        for n in 0..MESSAGES {
            let pan = number("512345", 16, stream * MESSAGES + n).into_bytes();
            let header = ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Merchant);
            let item = v1::TokenizeItem { reference: n.to_string(), ..ask::card(Zeroizing::new(pan), None) };
            let message = v1::StreamTokenizeRequest { header: Some(header), item: Some(item) };
            body.send_data(framed(&message.encode_to_vec()).into(), n + 1 == MESSAGES).unwrap();
        }
        streams.push(tokio::spawn(Raw::answer(response)));
    }
    for stream in streams {
        let (mut bytes, status) = stream.await.unwrap().unwrap();
        assert_eq!(status.code(), tonic::Code::Ok, "{status:?}");
        let mut answered = 0;
        while !bytes.is_empty() {
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            let answer = v1::StreamTokenizeResponse::decode(&bytes[5..5 + length]).unwrap();
            assert!(matches!(answer.outcome, Some(v1::stream_tokenize_response::Outcome::Result(_))));
            bytes.drain(..5 + length);
            answered += 1;
        }
        assert_eq!(answered, MESSAGES);
    }
}

/// grpcurl of this version asks in `v1alpha`; later ones, and most other tools, in `v1`.
#[tokio::test(flavor = "multi_thread")]
async fn reflection_answers_in_v1_and_in_v1alpha() {
    let rig = Rig::new(Engine::Redb);
    let client = Raw::connect(&rig, "shop").await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    // The two versions have the same messages, byte for byte.
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let answer: ServerReflectionResponse = client.call(&path, &request).await.unwrap();
        let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
            panic!("{version}")
        };
        let names: Vec<&str> = listed.service.iter().map(|s| s.name.as_str()).collect();
        assert!(
            names.contains(&"vault.v1.Vault") && !names.contains(&"vault.v1.Admin"),
            "{version}: {names:?}"
        );
    }
    let symbol = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("vault.v1.Vault".to_owned())),
    };
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let answer: ServerReflectionResponse = client.call(path, &symbol).await.unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("no file")
    };
    let file = prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    assert_eq!(file.package(), "vault.v1");
}
