//! What to try next: commands to paste, for a server that is left running.
//!
//! No card number is in them: it comes from a file beside them, so that no shell's history keeps it.

use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde::Serialize;
use vault_client::ask;

use crate::demo::cards::OWN;
use crate::demo::stage::{Doors, MERCHANT, OPERATOR, Stage, private, program};
use crate::fail::Failure;

/// What to try after a story that leaves nothing behind.
pub(super) const NEXT: &str = "\
The server is stopped, and its folder removed. What to try next:
  vaultctl demo --cards cards.csv   the same with your own test cards: number,expiry,name per line
  vaultctl demo --keep              the server stays, with commands to paste for vaultctl, grpcurl and Python
  vaultctl demo --engine sled       the same on the other engine
  vaultctl init --help              a vault of your own";

/// The contract, for programs in other languages.
const PROTO: [(&str, &str); 3] = [
    ("vault/v1/types.proto", include_str!("../../../proto/vault/v1/types.proto")),
    ("vault/v1/vault.proto", include_str!("../../../proto/vault/v1/vault.proto")),
    ("google/rpc/status.proto", include_str!("../../../proto/third_party/google/rpc/status.proto")),
];

/// What the story leaves behind, and how to use and to end it.
#[derive(Serialize)]
pub(super) struct Kept {
    process: u32,
    server: String,
    admin: String,
    folder: String,
    vaultctl: String,
    grpcurl: String,
    python: String,
    stop: String,
}

impl Kept {
    /// Writes the files that the commands need into the folder.
    pub(super) fn of(stage: &Stage, tokens: &[String]) -> Result<Self, Failure> {
        let doors = stage.doors()?;
        let process = stage.process().ok_or_else(|| Failure::failed("the server is not there"))?;
        private(&stage.file("cards.csv"), OWN.as_bytes())?;
        private(&stage.file("card.txt"), first_number().as_bytes())?;
        for (who, more) in [
            ("shop", ""),
            ("gateway", "merchant = \"acme\"\nchannel = \"web\"\n"),
            ("marketing", ""),
            (OPERATOR, ""),
        ] {
            private(&stage.file(&format!("{who}.toml")), profile(doors, who, more).as_bytes())?;
        }
        write_proto(stage)?;
        let folder = quoted(&stage.folder().display().to_string());
        let program = quoted(&program()?.display().to_string());
        let token = tokens.first().map_or("", String::as_str);
        Ok(Self {
            process,
            server: format!("https://{}", doors.data),
            admin: format!("https://{}", doors.admin),
            vaultctl: vaultctl(&folder, &program, token),
            grpcurl: grpcurl(&folder, doors),
            python: python(&folder, doors),
            stop: format!("kill {process}; rm -r {folder}"),
            folder: stage.folder().display().to_string(),
        })
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let Self { process, server, admin, folder, vaultctl, grpcurl, python, stop } = self;
        format!(
            "The server is left running: process {process}, {server}, for operators {admin}.\n\
             All that it needs is in {folder}. What to paste; the same card gives the same token in each:\n\n\
             # vaultctl\n{vaultctl}\n# grpcurl\n{grpcurl}\n# Python (pip takes its packages from the network)\n{python}\n\
             # to end it\n{stop}\n"
        )
    }
}

/// The first of the demo's own numbers, without spaces.
fn first_number() -> vault_client::Zeroizing<String> {
    let first = OWN.lines().nth(1).and_then(|line| line.split(',').next()).unwrap_or_default();
    vault_client::Zeroizing::new(first.chars().filter(char::is_ascii_digit).collect())
}

fn profile(doors: Doors, who: &str, more: &str) -> String {
    let (table, at) = if who == OPERATOR { ("admin", doors.admin) } else { ("vault", doors.data) };
    format!(
        "[{table}]\nserver = \"https://{at}\"\nca = \"certs/servers.pem\"\ncert = \"certs/{who}.pem\"\n\
         key = \"certs/{who}.key\"\n{more}"
    )
}

fn write_proto(stage: &Stage) -> Result<(), Failure> {
    for (name, text) in PROTO {
        let file = stage.file("proto").join(name);
        let folder = file.parent().unwrap_or(Path::new(""));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Failure::failed(format_args!("{}: {e}", folder.display())))?;
        private(&file, text.as_bytes())?;
    }
    Ok(())
}

fn vaultctl(folder: &str, program: &str, token: &str) -> String {
    format!(
        "cd {folder}\n\
         {program} token tokenize --profile shop.toml --file cards.csv\n\
         {program} token inspect --profile marketing.toml {token}\n\
         {program} token detokenize --profile gateway.toml --reveal --purpose authorization {token}\n\
         {program} keys rotate --profile {OPERATOR}.toml dek --merchant {MERCHANT}\n\
         {program} audit show --profile {OPERATOR}.toml --limit 5\n"
    )
}

fn grpcurl(folder: &str, doors: Doors) -> String {
    let id = ask::request_id();
    format!(
        "cd {folder}\n\
         call() {{ grpcurl -cacert certs/servers.pem -cert certs/shop.pem -key certs/shop.key \"$@\"; }}\n\
         call {0} list vault.v1.Vault\n\
         call -d @ {0} vault.v1.Vault/Tokenize <<END\n\
         {{\"header\": {{\"request_id\": \"{id}\", \"purpose\": \"PURPOSE_AUTHORIZATION\",\n  \
         \"initiator\": \"INITIATOR_CARDHOLDER\"}}, \"item\": {{\"plain\": {{\"pan\": \"$(base64 < card.txt)\"}}}}}}\n\
         END\n",
        doors.data
    )
}

fn python(folder: &str, doors: Doors) -> String {
    let mut text = format!(
        "cd {folder}\n\
         python3 -m venv py && py/bin/pip install --quiet grpcio grpcio-tools googleapis-common-protos\n\
         py/bin/python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. vault/v1/types.proto vault/v1/vault.proto\n\
         py/bin/python - <<'END'\n"
    );
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        r#"import uuid, grpc
from vault.v1 import types_pb2 as t, vault_pb2 as v, vault_pb2_grpc
read = lambda name: open(name, "rb").read()
tls = grpc.ssl_channel_credentials(read("certs/servers.pem"), read("certs/shop.key"), read("certs/shop.pem"))
vault = vault_pb2_grpc.VaultStub(grpc.secure_channel("{}", tls))
header = t.RequestHeader(request_id=str(uuid.uuid4()), purpose=t.PURPOSE_AUTHORIZATION, initiator=t.INITIATOR_CARDHOLDER)
item = v.TokenizeItem(plain=t.PlainCard(pan=read("card.txt")))
print(vault.Tokenize(v.TokenizeRequest(header=header, item=item), timeout=5).result.token)
END
"#,
        doors.data
    );
    text
}

/// A path as one word of a shell.
fn quoted(path: &str) -> String {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
    if plain { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for (path, word) in [
            ("/tmp/vaultctl-demo-x7", "/tmp/vaultctl-demo-x7"),
            ("/tmp/a b", "'/tmp/a b'"),
            ("/tmp/it's", r"'/tmp/it'\''s'"),
        ] {
            assert_eq!(quoted(path), word);
        }
    }

    #[test]
    fn no_command_holds_a_card_number() {
        let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let doors = Doors { data: at(40_123), admin: at(40_124) };
        let number = first_number();
        assert!(vault_core::pan::Pan::parse(number.as_bytes()).is_ok());
        for text in [vaultctl("/f", "/v", "4111111111111112"), grpcurl("/f", doors), python("/f", doors)] {
            assert!(!text.contains(number.as_str()) && text.starts_with("cd /f\n"), "{text}");
            assert!(text.lines().all(|line| !vault_core::pan::holds_card_number(line)), "{text}");
        }
    }
}
