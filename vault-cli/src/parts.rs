//! A long run over a file, part by part: the frame of `vaultctl import` and `vaultctl export`.
//!
//! It may be killed at any time and run again: what was written down as done is not sent again, and what was under way is
//! sent under the same request ids. One run at a time writes a file, and none writes over another's.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ring::digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vault_client::{ClientError, Outcome, Reason, chunk_request_id};
use vault_core::time::Timestamp;
use vault_proto::status::INCIDENT;
use zeroize::Zeroizing;

use crate::dial::Target;
use crate::fail::{Exit, Failure, exit_of, quiet};
use crate::progress::Progress;

/// Lines of one part: the contract's batch.
const PART: usize = 1_000;

/// What to do when a run ends early.
pub(crate) const AGAIN: &str = "nothing is lost: run the same command again, and it goes on from here";

/// What every such command takes beside its new file.
#[derive(Debug, Default, Args)]
pub(crate) struct Parts {
    /// The new file of line and reason, one per line that was refused; else beside the other, with .refused behind it
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
    /// At most so many cards a second
    #[arg(long, value_name = "CARDS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

/// How much is done.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tally {
    /// Lines that were read.
    pub(crate) lines: u64,
    /// Those of them that came to something.
    pub(crate) taken: u64,
    /// Of an import: cards with the token that they had.
    pub(crate) tokens_kept: u64,
    /// Those that were refused.
    pub(crate) refused: u64,
}

/// What is done so far: written down after each part, so that a second run goes on from here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// SHA-256 of the file that is read and of what was asked with it, hexadecimal.
    of: String,
    /// Where it goes and as whose: one file's parts must not be dealt out among merchants, nor a part be sent a second time
    /// by a principal whose request ids are others.
    target: Target,
    /// All parts' request ids come from it.
    request_id: String,
    /// Parts that are done.
    parts: u32,
    /// When the part behind them was sent first, if it was, in milliseconds since 1970.
    #[serde(default)]
    begun: Option<u64>,
    /// Whether that part was sent again when its request ids may have been forgotten.
    #[serde(default)]
    resent: bool,
    /// Bytes of the two files that belong to the parts that are done.
    out_bytes: u64,
    refused_bytes: u64,
    tally: Tally,
}

impl State {
    fn new(of: &str, target: &Target) -> Self {
        Self {
            of: of.to_owned(),
            target: target.clone(),
            request_id: Uuid::new_v4().to_string(),
            parts: 0,
            begun: None,
            resent: false,
            out_bytes: 0,
            refused_bytes: 0,
            tally: Tally::default(),
        }
    }

    /// None: there is no such file.
    fn read(from: &Path, what: &str, of: &str, target: &Target) -> Result<Option<Self>, Failure> {
        let bytes = match fs::read(from) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(from, &e)),
        };
        let state: Self = serde_json::from_slice(&bytes)
            .map_err(|_| Failure::refused(format_args!("{}: is no state of an {what}", from.display())))?;
        if let Some(differs) = differs(&state.target, target) {
            return Err(Failure::refused(format_args!(
                "{}: is of an {what} with {differs}; finish that one as it was begun, or name another --out",
                from.display()
            )));
        }
        if state.of == of {
            return Ok(Some(state));
        }
        Err(Failure::refused(format_args!(
            "{}: is of an {what} of another file, or with other options; finish that one, or name another --out",
            from.display()
        )))
    }

    /// On disk for the first time; of two runs that begin at once, one has it.
    fn create(&self, at: &Path) -> Result<(), Failure> {
        let part = beside(at, &format!(".{}", self.request_id));
        let create = || -> io::Result<()> {
            self.write(&part)?;
            // A link does not replace.
            let made = fs::hard_link(&part, at);
            fs::remove_file(&part)?;
            match made {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.and_then(|()| sync_folder(at)),
            }
        };
        create().map_err(|e| failed(at, &e))
    }

    /// On disk, whole or as it was before.
    fn write_down(&self, to: &Path) -> Result<(), Failure> {
        let part = beside(to, ".part");
        let written = self.write(&part).and_then(|()| fs::rename(&part, to)).and_then(|()| sync_folder(to));
        written.map_err(|e| failed(to, &e))
    }

    fn write(&self, to: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(to)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()
    }
}

/// What of a target is another one now.
fn differs(begun: &Target, now: &Target) -> Option<String> {
    let Target { server, merchant, channel, principal } = begun;
    let parts = [
        ("server", server, &now.server),
        ("merchant", merchant, &now.merchant),
        ("channel", channel, &now.channel),
        ("principal", principal, &now.principal),
    ];
    let told = |name: &str| if name.is_empty() { "none".to_owned() } else { name.to_owned() };
    let differing = parts.into_iter().filter(|(_, begun, now)| begun != now);
    let words: Vec<String> = differing
        .map(|(part, begun, now)| format!("the {part} {}, and this is {}", told(begun), told(now)))
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// So that a file's name is on disk, too.
fn sync_folder(of: &Path) -> io::Result<()> {
    let folder = of.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What one part adds to the two files.
#[derive(Default)]
pub(crate) struct Done {
    out: Vec<u8>,
    refused: Vec<u8>,
    tally: Tally,
}

impl Done {
    /// A line that came to something: what is written of it, line break included.
    pub(crate) fn take(&mut self, written: &[u8]) {
        self.tally.taken += 1;
        self.out.extend_from_slice(written);
    }

    /// Counts a token that was kept.
    pub(crate) fn keep_token(&mut self) {
        self.tally.tokens_kept += 1;
    }

    /// A line that came to nothing, and why.
    pub(crate) fn refuse(&mut self, line: u64, why: &str) {
        self.tally.refused += 1;
        self.refused.extend(row([&line.to_string(), &quiet(why)]));
    }
}

/// A line of CSV.
pub(crate) fn row<const N: usize>(fields: [&str; N]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing into memory does not fail.
    let _infallible = writer.write_record(fields);
    writer.into_inner().unwrap_or_default()
}

/// The three files of a run: two that are made, and the state.
pub(crate) struct Run {
    out: File,
    out_path: PathBuf,
    refused: File,
    refused_path: PathBuf,
    state_path: PathBuf,
    state: State,
    rate: Option<u32>,
}

impl Run {
    /// Begins anew, or where an earlier run of the same was cut off. `what` is the command's name, `of` the [`identity`] of
    /// what it does, `target` where it goes.
    pub(crate) fn open(
        what: &str,
        out: &Path,
        parts: &Parts,
        of: &str,
        target: &Target,
    ) -> Result<Self, Failure> {
        let refused = parts.refused.clone().unwrap_or_else(|| beside(out, ".refused"));
        let state_path = beside(out, ".state");
        if State::read(&state_path, what, of, target)?.is_none() {
            if let Some(there) = [out, &refused].into_iter().find(|file| file.symlink_metadata().is_ok()) {
                return Err(Failure::refused(format_args!(
                    "{} is there already; name a new file",
                    there.display()
                )));
            }
            // Before the two files: a run that was killed in between must not find them in its way.
            State::new(of, target).create(&state_path)?;
        }
        let (mut out_file, mut refused_file) = (lock(out, what)?, lock(&refused, what)?);
        // Nobody else writes it from here on; until here another run may have.
        let state = State::read(&state_path, what, of, target)?;
        let state = state.ok_or_else(|| {
            Failure::refused(format_args!("{}: another {what} has just finished it", out.display()))
        })?;
        cut(out, &mut out_file, state.out_bytes, &state_path)?;
        cut(&refused, &mut refused_file, state.refused_bytes, &state_path)?;
        Ok(Self {
            out: out_file,
            out_path: out.to_owned(),
            refused: refused_file,
            refused_path: refused,
            state_path,
            state,
            rate: parts.rate,
        })
    }

    /// Sends what is left of `lines` lines, part by part: `take` gives the next so many lines, and `send` what became of
    /// them.
    pub(crate) async fn all<L>(
        &mut self,
        lines: u64,
        mut take: impl FnMut(usize) -> Result<Vec<L>, Failure>,
        mut send: impl AsyncFnMut(&mut Self, Vec<L>) -> Result<Done, Failure>,
    ) -> Result<(), Failure> {
        let mut progress = Progress::of("cards");
        // What an earlier run has done is read past.
        for _ in 0..self.state.parts {
            take(PART)?;
        }
        loop {
            progress.step(self.state.tally.lines, lines);
            let began = tokio::time::Instant::now();
            let part = take(PART)?;
            if part.is_empty() {
                return Ok(());
            }
            let count = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let done = send(self, part).await?;
            self.write(count, &done)?;
            if let Some(rate) = self.rate {
                let least = Duration::from_secs_f64(f64::from(count) / f64::from(rate));
                tokio::time::sleep_until(began + least).await;
            }
        }
    }

    /// The request id of the part under way, the same in every run. Ids that are made from it are no other part's.
    pub(crate) fn request_id(&self) -> Result<Uuid, Failure> {
        let base = Uuid::parse_str(&self.state.request_id)
            .map_err(|_| failed(&self.state_path, &"its request id is none"))?;
        Ok(chunk_request_id(base, self.state.parts.saturating_add(1)))
    }

    /// When the part under way was sent first, if an earlier run sent it.
    pub(crate) fn begun(&self) -> Option<Timestamp> {
        self.state.begun.map(Timestamp)
    }

    /// Whether a line of the part under way may be here by an earlier send of which the vault knows nothing any more.
    pub(crate) fn resent(&self) -> bool {
        self.state.resent
    }

    /// Writes down that the part under way is sent now for the first time.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Result<(), Failure> {
        self.state.begun = Some(now.0);
        self.state.write_down(&self.state_path)
    }

    /// Writes down that it is sent again though its ids may be forgotten, and from when on they are surely known again.
    pub(crate) fn begin_again(&mut self, begun: Timestamp) -> Result<(), Failure> {
        self.state.resent = true;
        self.begin(begun)
    }

    /// The two files' new lines first, then that they are there.
    fn write(&mut self, lines: u32, done: &Done) -> Result<(), Failure> {
        let write = |file: &mut File, path: &Path, bytes: &[u8]| {
            file.write_all(bytes).and_then(|()| file.sync_data()).map_err(|e| failed(path, &e))
        };
        write(&mut self.out, &self.out_path, &done.out)?;
        write(&mut self.refused, &self.refused_path, &done.refused)?;
        let State { parts, begun, resent, out_bytes, refused_bytes, tally, .. } = &mut self.state;
        *parts += 1;
        (*begun, *resent) = (None, false);
        *out_bytes += done.out.len() as u64;
        *refused_bytes += done.refused.len() as u64;
        tally.lines += u64::from(lines);
        tally.taken += done.tally.taken;
        tally.tokens_kept += done.tally.tokens_kept;
        tally.refused += done.tally.refused;
        self.state.write_down(&self.state_path)
    }

    /// All is done: the state goes, and this is what it came to.
    pub(crate) fn finish(self) -> Result<Finished, Failure> {
        fs::remove_file(&self.state_path).map_err(|e| failed(&self.state_path, &e))?;
        Ok(Finished { tally: self.state.tally, refused: self.refused_path })
    }
}

/// A run that is over.
pub(crate) struct Finished {
    /// What it came to.
    pub(crate) tally: Tally,
    refused: PathBuf,
}

impl Finished {
    /// For people: how many lines were refused, and where it says why.
    pub(crate) fn refusals(&self) -> String {
        match self.tally.refused {
            0 => "0 refused".to_owned(),
            refused => format!("{refused} refused, each with its reason in {}", self.refused.display()),
        }
    }

    /// The exit code.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        let Tally { lines, refused, .. } = self.tally;
        if refused == 0 {
            return Ok(());
        }
        Err(Failure::refused(format_args!("{refused} of {lines} lines were refused")))
    }
}

/// The first refusal that is none of its one line, so that all that follow would be refused alike, or that is only a matter
/// of time: it ends the run, which goes on from here when it is run again.
pub(crate) fn ending<T>(outcomes: &[Outcome<T>]) -> Option<&ClientError> {
    let errors = || outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err());
    errors()
        .enumerate()
        .find(|(at, error)| ends(error) || shares_incident(error, errors().skip(at + 1)))
        .map(|(_, e)| e)
}

/// INTERNAL of one line is a row that cannot be read, and must not keep all others back.
fn ends(error: &ClientError) -> bool {
    match error.reason() {
        Some(
            Reason::PermissionDenied | Reason::CertificateRefused | Reason::Locked | Reason::BudgetSpent,
        ) => true,
        Some(Reason::Internal) => false,
        _ => exit_of(error) == Exit::Failed,
    }
}

/// A row that cannot be read has an incident of its own; one incident of several lines is of their whole request.
fn shares_incident<'a>(error: &ClientError, mut others: impl Iterator<Item = &'a ClientError>) -> bool {
    let own = incident(error);
    own.is_some() && others.any(|other| incident(other) == own)
}

fn incident(error: &ClientError) -> Option<&str> {
    match error {
        ClientError::Refused(failure) => failure.metadata(INCIDENT),
        _ => None,
    }
}

fn lock(file: &Path, what: &str) -> Result<File, Failure> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file);
    let opened = opened.map_err(|e| failed(file, &e))?;
    opened.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => Failure::refused(format_args!(
            "{}: another {what} writes it; wait for that one, or name another --out",
            file.display()
        )),
        TryLockError::Error(e) => failed(file, &e),
    })?;
    Ok(opened)
}

/// What a part wrote that was not done is written again.
fn cut(path: &Path, file: &mut File, bytes: u64, state: &Path) -> Result<(), Failure> {
    let length = file.metadata().map_err(|e| failed(path, &e))?.len();
    if length < bytes {
        return Err(Failure::refused(format_args!(
            "{}: is shorter than what was written to it; put it back, or begin anew without {}",
            path.display(),
            state.display()
        )));
    }
    let cut = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes)));
    cut.map(|_| ()).map_err(|e| failed(path, &e))
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    file.with_file_name(name)
}

fn failed(file: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format_args!("{}: {e}", file.display()))
}

/// What makes two runs the same: the file's bytes, and what decides what becomes of them.
pub(crate) fn identity(file: &Path, settings: &str) -> Result<String, Failure> {
    let mut hash = hashed(file)?;
    hash.update(settings.as_bytes());
    Ok(data_encoding::HEXLOWER.encode(hash.finish().as_ref()))
}

/// A file's SHA-256, hexadecimal.
pub(crate) fn sha256(file: &Path) -> Result<String, Failure> {
    Ok(data_encoding::HEXLOWER.encode(hashed(file)?.finish().as_ref()))
}

fn hashed(path: &Path) -> Result<digest::Context, Failure> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut file = File::open(path).map_err(|e| failed(path, &e))?;
    let mut page = Zeroizing::new(vec![0; 1 << 16]);
    loop {
        match file.read(&mut page).map_err(|e| failed(path, &e))? {
            0 => return Ok(hash),
            read => hash.update(page.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(out: &Path, of: &str) -> Result<Run, Failure> {
        Run::open("import", out, &Parts::default(), of, &target())
    }

    fn target() -> Target {
        let [server, merchant, channel, principal] =
            ["https://v:1", "acme", "web", "spiffe://v/importer"].map(str::to_owned);
        Target { server, merchant, channel, principal }
    }

    fn done(text: &str) -> Done {
        let mut done = Done::default();
        done.take(text.as_bytes());
        done.refuse(7, "why, indeed");
        done
    }

    #[test]
    fn what_was_written_and_not_written_down_is_written_again_under_the_same_id() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.csv");
        let mut run = open(&out, "a").unwrap_or_else(|e| panic!("{e}"));
        let first = run.request_id().unwrap();
        run.write(2, &done("one\n")).unwrap();
        let second = run.request_id().unwrap();
        assert_ne!(first, second);
        assert_eq!(run.begun(), None);
        run.begin(Timestamp(5)).unwrap();
        // Killed in the middle of the second part.
        run.out.write_all(b"two, half").unwrap();
        drop(run);
        let mut run = open(&out, "a").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((run.request_id().unwrap(), run.begun()), (second, Some(Timestamp(5))));
        assert_eq!(fs::read_to_string(&out).unwrap(), "one\n");
        run.write(1, &done("two\n")).unwrap();
        assert_eq!(run.begun(), None);
        let finished = run.finish().unwrap();
        let Tally { lines, taken, tokens_kept, refused } = finished.tally;
        assert_eq!((lines, taken, tokens_kept, refused), (3, 2, 0, 2));
        assert!(finished.end().is_err());
        assert_eq!(fs::read_to_string(&out).unwrap(), "one\ntwo\n");
        let told = fs::read_to_string(beside(&out, ".refused")).unwrap();
        assert_eq!(told, "7,\"why, indeed\"\n".repeat(2));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn one_run_writes_a_file_and_only_what_it_began() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.csv");
        let mut run = open(&out, "a").unwrap_or_else(|e| panic!("{e}"));
        let told = |of: &str| open(&out, of).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(told("a").contains("another import writes it"), "{}", told("a"));
        assert!(told("b").contains("with other options"), "{}", told("b"));
        run.write(1, &done("one\n")).unwrap();
        drop(run);
        fs::write(&out, "").unwrap();
        assert!(told("a").contains("is shorter"), "{}", told("a"));
        fs::remove_file(beside(&out, ".state")).unwrap();
        assert!(told("a").contains("is there already"), "{}", told("a"));
    }

    #[test]
    fn a_run_goes_on_where_and_as_whose_it_was_begun_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.csv");
        let mut run = open(&out, "a").unwrap_or_else(|e| panic!("{e}"));
        run.write(1, &done("one\n")).unwrap();
        drop(run);
        for (other, words) in [
            (
                Target { server: "https://w:1".into(), ..target() },
                "the server https://v:1, and this is https://w:1;",
            ),
            (Target { merchant: "zenith".into(), ..target() }, "the merchant acme, and this is zenith;"),
            (Target { channel: String::new(), ..target() }, "the channel web, and this is none;"),
            (
                Target { principal: "spiffe://v/x".into(), ..target() },
                "the principal spiffe://v/importer, and",
            ),
        ] {
            let told = Run::open("import", &out, &Parts::default(), "a", &other).err().unwrap().to_string();
            assert!(told.contains(words) && told.contains("another --out"), "{told}");
        }
        assert!(open(&out, "a").is_ok());
    }

    #[test]
    fn a_part_that_was_sent_knowingly_is_known_as_such_until_it_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.csv");
        let mut run = open(&out, "a").unwrap_or_else(|e| panic!("{e}"));
        run.begin(Timestamp(5)).unwrap();
        assert!(!run.resent());
        run.begin_again(Timestamp(7)).unwrap();
        drop(run);
        let mut run = open(&out, "a").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((run.resent(), run.begun()), (true, Some(Timestamp(7))));
        run.write(1, &done("one\n")).unwrap();
        assert_eq!((run.resent(), run.begun()), (false, None));
    }

    #[test]
    fn what_would_be_refused_of_every_line_ends_the_run_and_a_row_that_cannot_be_read_does_not() {
        let error = |reason| ClientError::from(vault_client::Failure::new(reason, ""));
        for reason in Reason::ALL {
            let of_its_line = matches!(
                reason,
                Reason::Malformed
                    | Reason::IdempotencyMismatch
                    | Reason::PolicyRefused
                    | Reason::NotFound
                    | Reason::SpaceExhausted
                    | Reason::KeySpent
                    | Reason::SecurityCodeGone
                    | Reason::EpochMismatch
                    | Reason::Custody
                    | Reason::Internal
            );
            assert_eq!(ends(&error(*reason)), !of_its_line, "{}", reason.as_str());
        }
        let incidents = |numbers: &[&str]| {
            let outcome = |number: &&str| {
                let failure = vault_client::Failure::new(Reason::Internal, "").with(INCIDENT, *number);
                Outcome::<()> { reference: String::new(), result: Err(failure.into()) }
            };
            let mut outcomes: Vec<_> = numbers.iter().map(outcome).collect();
            outcomes.insert(0, Outcome { reference: String::new(), result: Ok(()) });
            ending(&outcomes).is_some()
        };
        // Each row its own; then the one that a whole request came to.
        assert!(!incidents(&["01"]) && !incidents(&["01", "02", "03"]));
        assert!(incidents(&["01", "02", "02"]));
    }

    #[test]
    fn of_two_runs_that_begin_at_once_one_state_counts() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("out.csv.state");
        let (one, two) = (State::new("a", &target()), State::new("a", &target()));
        one.create(&at).unwrap();
        two.create(&at).unwrap();
        let read = State::read(&at, "import", "a", &target()).unwrap().unwrap();
        assert_eq!(read.request_id, one.request_id);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
