//! Custodians as they are in the field: passphrases, an HSM (`SoftHSM2` over PKCS#11) and a key service (moto in AWS KMS's
//! place), each with what can be wrong with it, as `[custodian]` tables of settings files.
//!
//! `vaultctl` is asked in processes of its own: a PKCS#11 module reads its configuration from the environment, and a hanging
//! one hangs its process alone. moto is not AWS: it checks no signature and lets a disabled key decrypt.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::server::program;

/// The PIN of every token of the suite.
const PIN: &str = "123456";

/// The security officer's.
const SO_PIN: &str = "12345678";

/// What `vaultctl` ends with.
pub const DONE: i32 = 0;
/// It says no.
pub const REFUSED: i32 = 1;
/// Something is away or broken.
pub const FAILED: i32 = 2;
/// It was asked wrongly: a file is not there.
pub const USAGE: i32 = 64;

/// `vaultctl` with every kind of custodian, built once in a folder beside the other, or where `VAULTCTL_DEVICES` says.
pub fn program_with_devices() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("VAULTCTL_DEVICES") {
            return path.into();
        }
        let program = program();
        let profile = program.parent().unwrap();
        let shared = profile.parent().unwrap();
        let target = shared.join("devices");
        let name = profile.file_name().unwrap().to_str().unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // What does not know the features is the same, and is not built twice.
        cargo.env("CARGO_BUILD_BUILD_DIR", shared);
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "vault-cli",
            "--features",
            "pkcs11,kms",
            "--target-dir",
        ]);
        cargo.arg(&target).args(["--profile", if name == "debug" { "dev" } else { name }]);
        let done = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        target.join(name).join("vaultctl")
    })
}

/// Where Debian's `softhsm2` puts its module.
fn softhsm() -> PathBuf {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let found = places.into_iter().map(PathBuf::from).find(|module| module.is_file());
    found.expect("SoftHSM2 is not installed: ./test installs the Debian package softhsm2")
}

/// A place for custodians of all kinds: a token directory, and a folder for settings and secrets.
pub struct Custodians {
    /// Everything lies here.
    pub folder: tempfile::TempDir,
    service: OnceLock<Service>,
}

struct Service {
    process: Child,
    at: SocketAddr,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Default for Custodians {
    fn default() -> Self {
        Self::new()
    }
}

impl Custodians {
    /// A fresh place without any token.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let config = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        fs::write(folder.path().join("softhsm2.conf"), config).unwrap();
        fs::create_dir_all(folder.path().join("home/.aws")).unwrap();
        let place = Self { folder, service: OnceLock::new() };
        place.secret(
            "home/.aws/credentials",
            "[default]\naws_access_key_id = test\naws_secret_access_key = test\n",
        );
        place
    }

    /// A file of the place.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that others cannot read.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// What a command needs to find tokens and credentials, and nothing else of this process's environment.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("SOFTHSM2_CONF", self.file("softhsm2.conf"))
            .env("HOME", self.file("home"))
            .env("AWS_EC2_METADATA_DISABLED", "true");
    }

    /// `vaultctl` with these arguments; file names among them are the place's.
    pub fn vaultctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program_with_devices());
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    /// Runs it: the exit code and all that it said.
    pub fn ran(&self, arguments: &[&str]) -> (i32, String) {
        told(&self.vaultctl(arguments).output().unwrap())
    }

    /// The same; it must be done.
    pub fn done(&self, arguments: &[&str]) -> String {
        let (code, told) = self.ran(arguments);
        assert_eq!(code, DONE, "{arguments:?}: {told}");
        told
    }

    /// Makes a token of this label, with the PIN that [`token`](Self::token) names.
    pub fn make_token(&self, label: &str) {
        let mut tool = Command::new("softhsm2-util");
        tool.args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN]);
        self.environment(&mut tool);
        let (code, told) =
            told(&tool.output().expect("softhsm2-util; ./test installs the Debian package softhsm2"));
        assert_eq!(code, 0, "{told}");
    }

    /// Takes every token out.
    pub fn take_tokens_out(&self) {
        fs::rename(self.file("tokens"), self.file("tokens-out")).unwrap();
        fs::create_dir(self.file("tokens")).unwrap();
    }

    /// Puts them back.
    pub fn put_tokens_back(&self) {
        fs::remove_dir_all(self.file("tokens")).unwrap();
        fs::rename(self.file("tokens-out"), self.file("tokens")).unwrap();
    }

    /// Keeps a copy of all tokens as they are.
    pub fn keep_tokens(&self) {
        self.copy("tokens", "tokens-kept");
    }

    /// Puts the tokens as they were kept. A device survives that its client is killed; `SoftHSM2` lives in its client, writes
    /// its token's file at each login, and may leave it torn.
    pub fn heal_tokens(&self) {
        fs::remove_dir_all(self.file("tokens")).unwrap();
        self.copy("tokens-kept", "tokens");
    }

    /// Copies a folder of the place.
    pub fn copy(&self, from: &str, to: &str) {
        let copied =
            Command::new("cp").args(["-r", from, to]).current_dir(self.folder.path()).status().unwrap();
        assert!(copied.success());
    }

    /// A settings file of a passphrase.
    pub fn passphrase(&self, name: &str, secret: &str) -> String {
        self.secret(&format!("{name}.secret"), secret);
        self.settings(name, &format!("passphrase_file = \"{name}.secret\"\n"))
    }

    /// A settings file of a key in a token.
    pub fn token(&self, name: &str, token: &str, key: &str) -> String {
        self.token_with(name, (&softhsm(), PIN), token, key)
    }

    /// The same with a module and a PIN of one's own.
    pub fn token_with(&self, name: &str, (module, pin): (&Path, &str), token: &str, key: &str) -> String {
        self.secret(&format!("{name}.pin"), pin);
        let table = format!(
            "pkcs11 = {{ module = \"{}\", token_label = \"{token}\", key_label = \"{key}\", pin_file = \"{name}.pin\" }}\n",
            module.display()
        );
        self.settings(name, &table)
    }

    /// A settings file of a service's key.
    pub fn service_key(&self, name: &str, key: &str, at: SocketAddr) -> String {
        let table =
            format!("kms = {{ key = \"{key}\", region = \"eu-central-1\", endpoint = \"http://{at}\" }}\n");
        self.settings(name, &table)
    }

    /// Writes a settings file with this `[custodian]` table alone; gives its name.
    pub fn settings(&self, name: &str, table: &str) -> String {
        let file = format!("{name}.toml");
        fs::write(self.file(&file), format!("[custodian]\n{table}")).unwrap();
        file
    }

    /// Where the service listens; it is started when it is first asked for.
    pub fn service(&self) -> SocketAddr {
        self.service.get_or_init(|| start_service(self)).at
    }

    /// Makes a key in the service.
    pub fn make_service_key(&self) -> String {
        const MAKE: &str = "import boto3, sys\nkms = boto3.client('kms', region_name='eu-central-1', endpoint_url=sys.argv[1], \
                            aws_access_key_id='test', aws_secret_access_key='test')\nprint(kms.create_key()['KeyMetadata']['Arn'])";
        let mut python = Command::new(tools().join("bin/python"));
        python.args(["-c", MAKE, &format!("http://{}", self.service())]);
        let made = python.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    /// Builds a PKCS#11 module that stands before `SoftHSM2` and does one thing wrong: see `custody/shim.c`.
    pub fn broken_module(&self, fault: &str) -> PathBuf {
        let module = self.file(&format!("{fault}.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/custody/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&module).arg(source);
        cc.arg(format!("-DMODULE=\"{}\"", softhsm().display())).arg(format!("-DFAULT_{fault}"));
        cc.arg(format!("-DLOGINS=\"{}\"", self.file(&format!("{fault}.logins")).display())).arg("-ldl");
        let (code, told) = told(&cc.output().expect("a C compiler, as the build needs one"));
        assert_eq!(code, 0, "{told}");
        module
    }
}

/// An exit code, and all that was said.
pub fn told(output: &Output) -> (i32, String) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// A listener that takes connections and never answers; it lives as long as it is kept.
pub fn silent_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    silent_listener().1
}

fn start_service(place: &Custodians) -> Service {
    let at = nobody();
    let log = fs::File::create(place.file("moto.log")).unwrap();
    let process = Command::new(tools().join("bin/moto_server"))
        .args(["-H", "127.0.0.1", "-p", &at.port().to_string()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("moto_server, which tests/tools puts in place");
    let service = Service { process, at };
    for _ in 0..600 {
        if TcpStream::connect(at).is_ok() {
            return service;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("moto did not come up: {}", fs::read_to_string(place.file("moto.log")).unwrap());
}

/// The environment that `tests/tools` makes.
fn tools() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let program = program();
        let target = program.parent().unwrap().parent().unwrap();
        let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools"))
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap_or_else(|e| panic!("tests/tools does not run: {e}"));
        let told = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "tests/tools could not put the foreign tools in place:\n{told}");
        String::from_utf8(made.stdout).unwrap().trim().into()
    })
}
