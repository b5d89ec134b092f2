//! The single writer: everything that changes the store, and everything the log says, goes through here.
//!
//! One thread gathers what arrives while the last commit is being flushed and writes all of it as one batch with one
//! signed checkpoint: group commit. An answer leaves only after the flush. A part whose expectation fails is dropped and
//! its caller decides anew; its neighbours are committed.
//!
//! It mints the second proof: a [`Disclosed`] exists only for a record whose disclosure is on disk.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::audit::checkpoint::{self, Checkpoint, SignedCheckpoint};
use crate::audit::entry::{AuditEntry, ControlChange, Event, Who};
use crate::audit::note::{LogSigner, LogVerifier};
use crate::audit::receipt::Receipt;
use crate::audit::tree::{self, Edge, Hash};
use crate::control::Epoch;
use crate::error::Error;
use crate::name::MerchantName;
use crate::policy::{Denial, Permit, Statement, Way};
use crate::recent::RecentRows;
use crate::record::{MerchantId, RowKey, SealedRecord};
use crate::store::{Batch, CommitError, Expect, Key, MAX_VALUE, Part, Store, StoreError, Write};
use crate::time::{Clock, Timestamp};
use crate::uses::{Counter, Uses};
use crate::words::{Action, Refusal, Show};

/// How much may wait or be being written, in kilobytes (each filing begun counts as one): beyond it, work is refused at
/// once as overload.
pub const QUEUE: usize = 65_536;

/// How much of the queue one principal may take: one busy caller does not shut out the others.
pub const QUEUE_SHARE: usize = QUEUE / 2;

/// The most filings in one batch: bounds how long one flush can take.
const GROUP: usize = 4_096;

/// How many refusals a second of one principal stand in the log one by one; the rest of a batch is counted.
const SINGLE_REFUSALS: u32 = 10;

const MS_PER_SECOND: u64 = 1_000;

/// Proof that a disclosure is on disk. Only this module makes one; it is not Clone, and the keyring takes it by value.
pub struct Disclosed {
    sealed: SealedRecord,
    way: Option<Way>,
}

impl Disclosed {
    /// To whom the log says that it goes, if not to who asked: taken before the card is opened.
    pub(crate) fn take_way(&mut self) -> Option<Way> {
        self.way.take()
    }

    /// The card number, still sealed: for the keyring, once.
    pub(crate) fn into_sealed(self) -> SealedRecord {
        self.sealed
    }
}

/// One thing to write down.
pub(crate) enum Filing {
    /// A permitted change or reading, and which card row it changes to what version.
    Enact(Permit, Part, Changed),
    /// A permitted disclosure, and which card row it changes to what version: that of a single-use token.
    Disclose(Permit, SealedRecord, Part, Changed),
    /// A refusal, and what it counts against the caller all the same.
    Refuse(Denial, Part),
    /// The same of what was found, or not, with the keys of one epoch: stale under any other.
    RefuseFound(Denial, Part),
    /// What the vault or an operator did.
    State(Statement, Part),
    /// What the vault does to rows by itself, with the keys of one epoch: stale under any other.
    Upkeep(Statement, Part, Changed),
}

/// What was written down.
pub(crate) struct Filed {
    /// Where it stands in the log.
    pub(crate) receipt: Receipt,
    /// For a disclosure: the proof.
    pub(crate) disclosed: Option<Disclosed>,
}

/// A card row that a filing changes, and the version that it then has.
pub(crate) type Changed = Option<(MerchantId, RowKey, u32)>;

/// What a submission keeps alive until it is answered, whether or not its caller still waits.
pub(crate) type Hold = Option<Arc<dyn Send + Sync>>;

/// Why something was not written down. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotFiled {
    /// It was decided on premises that no longer hold: decide anew.
    Stale,
    /// Its deadline passed first.
    Late,
    /// The store failed.
    Store(StoreError),
}

impl From<NotFiled> for Error {
    fn from(why: NotFiled) -> Self {
        match why {
            NotFiled::Stale => Self::Overloaded,
            NotFiled::Late => Self::DeadlineExceeded,
            NotFiled::Store(e) => Self::Store(e),
        }
    }
}

/// A new version of Control, to be put in force.
pub(crate) struct ControlStep {
    /// The epoch that it was made from: under any other it is stale.
    pub(crate) from: Epoch,
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// What it changes in the store.
    pub(crate) part: Part,
    /// What the log says, each with who did it.
    pub(crate) changes: Vec<(Who, ControlChange)>,
    /// Who signs the log from the next batch on, if that changes.
    pub(crate) hand_over: Option<NextSigner>,
    /// Puts it in force in this process: called with the head that it was committed with, between its flush and the next
    /// batch.
    pub(crate) in_force: Box<dyn FnOnce(&SignedCheckpoint) + Send>,
}

/// The key that the log is handed over to, and the row that keeps the checkpoint that both keys sign.
pub(crate) struct NextSigner {
    /// The key.
    pub(crate) signer: LogSigner,
    /// Counts its signatures.
    pub(crate) signatures: Arc<Counter>,
    /// The row.
    pub(crate) row: Key,
}

type Answers = Vec<Result<Filed, NotFiled>>;

enum Job {
    File(Files),
    Control {
        step: ControlStep,
        answer: oneshot::Sender<Result<Receipt, NotFiled>>,
    },
    /// Counters run low: the next blocks of uses are put on disk.
    Reserve,
    /// Nothing more is to be written.
    Fail,
    Stop,
}

/// What one caller wants written down.
struct Files {
    filings: Vec<Filing>,
    /// Whether all of it is, or nothing.
    together: bool,
    deadline: Option<Timestamp>,
    answer: oneshot::Sender<Answers>,
    hold: Hold,
}

struct Submission {
    job: Job,
    room: Room,
}

/// A submission's places in the queue: of all, and of its principal's share.
type Room = Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>;

/// The way to the journal's thread. Dropping it lets the thread finish what it has and end.
pub struct Journal {
    submissions: Sender<Submission>,
    room: Arc<Semaphore>,
    shares: Mutex<HashMap<Who, Arc<Semaphore>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    health: Arc<Health>,
}

/// What the journal's thread tells without being asked.
#[derive(Default)]
struct Health {
    /// Whether commits are refused until the vault is opened anew.
    failed: AtomicBool,
    /// The time of the newest checkpoint, in milliseconds.
    newest: AtomicU64,
}

/// What a journal begins with.
pub(crate) struct Opening {
    /// Where it writes.
    pub(crate) store: Arc<dyn Store>,
    /// Which log.
    pub(crate) log: u32,
    /// Signs its checkpoints.
    pub(crate) signer: LogSigner,
    /// Where the log ends, and its newest checkpoint; none for a log that does not exist yet.
    pub(crate) end: Option<(Edge, SignedCheckpoint)>,
    /// What is in force.
    pub(crate) epoch: Epoch,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    /// Is told of every card row that a commit changed.
    pub(crate) recent: Arc<RecentRows>,
    /// Where keys' uses are counted.
    pub(crate) uses: Uses,
    /// Counts the signatures of its checkpoints.
    pub(crate) signatures: Arc<Counter>,
}

impl Journal {
    /// Starts the journal's thread.
    pub(crate) fn open(opening: Opening) -> Result<Self, Error> {
        let (submissions, inbox) = channel();
        let Opening { store, log, signer, end, epoch, clock, recent, uses, signatures } = opening;
        let health = Arc::new(Health::default());
        let (edge, head) = match end {
            Some((edge, head)) => (edge, Some(head)),
            None => (Edge::empty(log), None),
        };
        let newest = head.as_ref().map_or(Timestamp(0), |h| h.checkpoint().time);
        health.newest.store(newest.0, Ordering::Release);
        let wakes = submissions.clone();
        // A journal that has ended reserves nothing more, and nobody waits for it.
        uses.on_low(move || drop(wakes.send(Submission { job: Job::Reserve, room: None })));
        let mut writer = Writer {
            uses,
            signatures,
            store,
            log,
            signer,
            edge,
            head,
            epoch,
            clock,
            newest,
            failed: None,
            refusals: HashMap::new(),
            recent,
            health: health.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&inbox))
            .map_err(|_| Error::internal())?;
        Ok(Self {
            submissions,
            room: Arc::new(Semaphore::new(QUEUE)),
            shares: Mutex::default(),
            thread: Mutex::new(Some(thread)),
            health,
        })
    }

    /// Writes these down in one batch if it can, and answers each once it is on disk. `hold` lives until then, also if
    /// the caller does not wait.
    pub(crate) async fn file(
        &self,
        filings: Vec<Filing>,
        deadline: Option<Timestamp>,
        hold: Hold,
    ) -> Result<Answers, Error> {
        self.submit_files(filings, false, deadline, hold).await
    }

    /// The same for what belongs together: where one of it cannot be written down, none of it is.
    pub(crate) async fn file_together(
        &self,
        filings: Vec<Filing>,
        deadline: Option<Timestamp>,
        hold: Hold,
    ) -> Result<Answers, Error> {
        self.submit_files(filings, true, deadline, hold).await
    }

    async fn submit_files(
        &self,
        filings: Vec<Filing>,
        together: bool,
        deadline: Option<Timestamp>,
        hold: Hold,
    ) -> Result<Answers, Error> {
        if filings.is_empty() {
            return Ok(Vec::new());
        }
        let room = self.room_for(&filings)?;
        let (answer, answered) = oneshot::channel();
        self.submit(Job::File(Files { filings, together, deadline, answer, hold }), Some(room))?;
        answered.await.map_err(|_| Error::Store(StoreError::Away))
    }

    /// Takes places for filings, by their weight; overload if there are none.
    fn room_for(&self, filings: &[Filing]) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Error> {
        let weight = filings.iter().map(Filing::kilobytes).fold(0_u32, u32::saturating_add);
        let who = filings.first().map_or(Who::Vault, Filing::who);
        let share = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            // A stranger leaves nothing behind: who has nothing in the queue is forgotten.
            shares.retain(|_, share| share.available_permits() < QUEUE_SHARE || Arc::strong_count(share) > 1);
            shares.entry(who).or_insert_with(|| Arc::new(Semaphore::new(QUEUE_SHARE))).clone()
        };
        let mine = share.try_acquire_many_owned(weight).map_err(|_| Error::Overloaded)?;
        let room = self.room.clone().try_acquire_many_owned(weight).map_err(|_| Error::Overloaded)?;
        Ok((room, mine))
    }

    /// Writes down a refusal and gives what to tell the caller.
    pub(crate) async fn refuse(&self, denial: Denial, deadline: Option<Timestamp>) -> Error {
        self.refuse_counted(denial, Part::default(), deadline).await
    }

    /// The same, with what was counted of the refused request.
    pub(crate) async fn refuse_counted(
        &self,
        denial: Denial,
        counted: Part,
        deadline: Option<Timestamp>,
    ) -> Error {
        let told = denial.error();
        self.told(told, Filing::Refuse(denial, counted), deadline).await
    }

    /// Writes down a refusal of what was found, or not, with the keys of one epoch. Overloaded if another is in force by now:
    /// whoever decides anew then may find something else.
    pub(crate) async fn refuse_found(
        &self,
        denial: Denial,
        counted: Part,
        deadline: Option<Timestamp>,
    ) -> Error {
        let told = denial.error();
        self.told(told, Filing::RefuseFound(denial, counted), deadline).await
    }

    async fn told(&self, told: Error, filing: Filing, deadline: Option<Timestamp>) -> Error {
        match self.file(vec![filing], deadline, None).await {
            Err(e) => e,
            Ok(answers) => match answers.into_iter().next() {
                Some(Ok(_)) => told,
                Some(Err(why)) => why.into(),
                None => Error::internal(),
            },
        }
    }

    /// Puts a new version of Control in force.
    pub(crate) async fn control(&self, step: ControlStep) -> Result<Receipt, NotFiled> {
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Control { step, answer }, None).map_err(|_| NotFiled::Store(StoreError::Away))?;
        answered.await.map_err(|_| NotFiled::Store(StoreError::Away))?
    }

    /// Whether the journal is lost: a flush failed, or its thread ended. Nothing can be written until the vault is opened
    /// anew.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let ended = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        self.health.failed.load(Ordering::Acquire) || ended.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The time of the newest checkpoint: no verb decides by an earlier one, whatever the clock says.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        Timestamp(self.health.newest.load(Ordering::Acquire))
    }

    /// How much waits or is being written, in kilobytes; at most [`QUEUE`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        QUEUE.saturating_sub(self.room.available_permits())
    }

    /// Lets nothing more be written until the vault is opened anew.
    pub(crate) fn fail(&self) {
        self.health.failed.store(true, Ordering::Release);
        let _ended_already = self.submit(Job::Fail, None);
    }

    /// Writes what is waiting, then ends the thread. Later filings are refused.
    pub fn close(&self) {
        let _ended_already = self.submit(Job::Stop, None);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last owner of a vault may be what the journal itself was about to put in force: no thread waits for itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _panicked = thread.join();
        }
    }

    fn submit(&self, job: Job, room: Room) -> Result<(), Error> {
        self.submissions.send(Submission { job, room }).map_err(|_| Error::Store(StoreError::Away))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Filing {
    fn part(&self) -> &Part {
        match self {
            Self::Enact(_, part, _)
            | Self::Disclose(_, _, part, _)
            | Self::Refuse(_, part)
            | Self::RefuseFound(_, part)
            | Self::State(_, part)
            | Self::Upkeep(_, part, _) => part,
        }
    }

    /// How much it weighs in the queue: one, and its part's kilobytes.
    fn kilobytes(&self) -> u32 {
        let part = self.part();
        let expected = part.expects.iter().map(|e| match e {
            Expect::Absent(key) => key.len(),
            Expect::Is(key, value) => key.len() + value.len(),
        });
        let written = part.writes.iter().map(|w| match w {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) | Write::Add(key, _) => key.len(),
        });
        let bytes: usize = expected.chain(written).sum();
        u32::try_from(bytes / 1_024).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn who(&self) -> Who {
        match self {
            Self::Enact(permit, ..) | Self::Disclose(permit, ..) => permit.who().clone(),
            Self::Refuse(denial, _) | Self::RefuseFound(denial, _) => denial.who().clone(),
            Self::State(statement, _) | Self::Upkeep(statement, ..) => statement.who.clone(),
        }
    }

    /// Whether it stands whatever changes meanwhile: what was refused before anything was looked for, or done, is said under
    /// the epoch of its entry.
    fn stands(&self) -> bool {
        match self {
            Self::Enact(..) | Self::Disclose(..) | Self::RefuseFound(..) | Self::Upkeep(..) => false,
            Self::Refuse(..) | Self::State(..) => true,
        }
    }
}

/// One filing on its way to disk.
struct Pending {
    statement: Statement,
    part: Part,
    sealed: Option<(SealedRecord, Option<Way>)>,
    changed: Changed,
    stands: bool,
    /// Which submission of the group, and which filing of it.
    place: (usize, usize),
}

impl Pending {
    fn of(filing: Filing, place: (usize, usize)) -> Self {
        let stands = filing.stands();
        match filing {
            Filing::Enact(permit, part, changed) => {
                Self { statement: permit.into_statement().0, part, sealed: None, changed, stands, place }
            }
            Filing::Disclose(permit, sealed, part, changed) => {
                // A permit is for one record and one measure: anything else would be a proof of something else.
                let agrees = permit.record() == sealed.record && permit.show() == Show::Full;
                let (statement, way) = permit.into_statement();
                let says = match (&statement.event, &way) {
                    (
                        Event::Disclosed { .. } | Event::Spent { .. } | Event::DisclosedEarlier { .. },
                        None,
                    ) => true,
                    (
                        Event::DisclosedTo { to, .. }
                        | Event::SpentTo { to, .. }
                        | Event::DisclosedEarlierTo { to, .. },
                        Some(way),
                    ) => to == way.outlet(),
                    _ => false,
                };
                let sealed = (agrees && says).then_some((sealed, way));
                Self { statement, part, sealed, changed, stands, place }
            }
            Filing::Refuse(denial, part) | Filing::RefuseFound(denial, part) => {
                Self { statement: denial.into_statement(), part, sealed: None, changed: None, stands, place }
            }
            Filing::State(statement, part) => {
                Self { statement, part, sealed: None, changed: None, stands, place }
            }
            Filing::Upkeep(statement, part, changed) => {
                Self { statement, part, sealed: None, changed, stands, place }
            }
        }
    }
}

struct Group {
    answers: Vec<Option<Result<Filed, NotFiled>>>,
    together: bool,
    answer: oneshot::Sender<Answers>,
    room: Room,
    hold: Hold,
}

struct Writer {
    uses: Uses,
    signatures: Arc<Counter>,
    store: Arc<dyn Store>,
    log: u32,
    signer: LogSigner,
    // INVARIANT: edge and head are those of the last batch on disk; only committed() moves them.
    edge: Edge,
    head: Option<SignedCheckpoint>,
    epoch: Epoch,
    clock: Arc<dyn Clock>,
    newest: Timestamp,
    failed: Option<StoreError>,
    /// Refusals of each principal in one second of the clock.
    refusals: Refusals,
    recent: Arc<RecentRows>,
    health: Arc<Health>,
}

/// Refusals of each principal: in which second, and how many.
type Refusals = HashMap<Who, (u64, u32)>;

/// A batch made ready, and what is true once it is on disk.
struct Draft {
    batch: Batch,
    edge: Edge,
    head: SignedCheckpoint,
    /// For each pending filing, the index of its entry.
    indices: Vec<(u64, Hash)>,
    /// How many writes each part had before its entry was added.
    lined: Vec<usize>,
    /// How many refusals each principal has had in this second by then.
    refusals: Refusals,
}

impl Draft {
    /// Gives the parts back to their filings, without the entries of this draft.
    fn give_back(&mut self, pending: &mut [Pending]) {
        let parts = std::mem::take(&mut self.batch.parts);
        for ((p, mut part), writes) in pending.iter_mut().zip(parts).zip(&self.lined) {
            part.writes.truncate(*writes);
            p.part = part;
        }
    }
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Submission>) {
        let mut put_back: Option<Submission> = None;
        loop {
            let Some(first) = put_back.take().or_else(|| inbox.recv().ok()) else { return };
            match first.job {
                Job::Stop => return,
                Job::Fail => self.fail(),
                Job::Control { step, answer } => {
                    let _gone = answer.send(self.change_control(step));
                }
                Job::Reserve => self.uses.low().iter().for_each(|counter| self.reserve(counter)),
                Job::File(files) => {
                    let mut gathered = Gathered::default();
                    gathered.add(files, first.room, self.clock.now());
                    while gathered.pending.len() < GROUP {
                        match inbox.try_recv() {
                            Ok(Submission { job: Job::File(files), room }) => {
                                gathered.add(files, room, self.clock.now());
                            }
                            Ok(other) => {
                                put_back = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.write(gathered);
                }
            }
        }
    }

    fn write(&mut self, gathered: Gathered) {
        let Gathered { mut pending, mut groups } = gathered;
        let together: Vec<bool> = groups.iter().map(|group| group.together).collect();
        let mut answer = |place: (usize, usize), result| {
            if let Some(slot) = groups.get_mut(place.0).and_then(|g| g.answers.get_mut(place.1)) {
                *slot = Some(result);
            }
        };
        // Each round either commits, or leaves at least one part out: it ends.
        while !pending.is_empty() {
            if let Some(e) = &self.failed {
                pending.drain(..).for_each(|p| answer(p.place, Err(NotFiled::Store(e.clone()))));
                break;
            }
            let epoch = self.epoch.version;
            for p in pending.iter_mut().filter(|p| p.stands) {
                p.statement.epoch = epoch;
            }
            let of_before = |p: &Pending| p.statement.epoch != epoch;
            let broken: HashSet<usize> = pending.iter().filter(|p| of_before(p)).map(|p| p.place.0).collect();
            let whole = |p: &Pending| together.get(p.place.0).copied().unwrap_or(false);
            let (stale, fresh): (Vec<_>, Vec<_>) =
                pending.into_iter().partition(|p| of_before(p) || (whole(p) && broken.contains(&p.place.0)));
            for p in stale {
                answer(p.place, Err(NotFiled::Stale));
            }
            pending = fresh;
            if pending.is_empty() {
                break;
            }
            let mut draft = self.draft(&mut pending);
            match self.store.commit(&draft.batch) {
                Ok(()) => {
                    let Draft { edge, head, indices, refusals, .. } = draft;
                    self.refusals = refusals;
                    self.committed(edge, head.clone());
                    for (p, (index, leaf)) in pending.drain(..).zip(indices) {
                        let receipt = Receipt { log: self.log, index, leaf, checkpoint: head.clone() };
                        if let Some((merchant, row, version)) = p.changed {
                            self.recent.changed(merchant, row, version);
                        }
                        let disclosed = p.sealed.map(|(sealed, way)| Disclosed { sealed, way });
                        answer(p.place, Ok(Filed { receipt, disclosed }));
                    }
                }
                Err(CommitError::Parts(failed)) => {
                    draft.give_back(&mut pending);
                    let of = |at: &usize| pending.get(*at).map(|p| p.place.0);
                    let whole = |group: &usize| together.get(*group).copied().unwrap_or(false);
                    let broken: HashSet<usize> = failed.iter().filter_map(of).filter(whole).collect();
                    let mut at = 0;
                    pending.retain(|p| {
                        let keep = !failed.contains(&at) && !broken.contains(&p.place.0);
                        at += 1;
                        if !keep {
                            answer(p.place, Err(NotFiled::Stale));
                        }
                        keep
                    });
                    if failed.is_empty() {
                        // Against the contract; without this it would be tried for ever.
                        self.fail();
                    }
                }
                Err(CommitError::Guard) => self.fail(),
                // Nothing was changed, and the engine goes on.
                Err(CommitError::Store(e @ (StoreError::Full | StoreError::TooLarge))) => {
                    pending.drain(..).for_each(|p| answer(p.place, Err(NotFiled::Store(e.clone()))));
                }
                Err(CommitError::Store(e)) => {
                    self.fail();
                    pending.drain(..).for_each(|p| answer(p.place, Err(NotFiled::Store(e.clone()))));
                }
            }
        }
        for group in groups {
            let Group { answers, together: _, answer, room, hold } = group;
            let answers = answers.into_iter().map(|a| a.unwrap_or(Err(NotFiled::Stale))).collect();
            // Before the answer: who has it may ask again at once.
            drop((room, hold));
            let _gone = answer.send(answers);
        }
    }

    fn draft(&self, pending: &mut [Pending]) -> Draft {
        let now = self.clock.now().max(self.newest);
        let mut lines = Lines::new(self.log, self.edge.size());
        let mut parts = Vec::with_capacity(pending.len());
        let mut indices = Vec::with_capacity(pending.len());
        let (counted, refusals) = self.counted(pending);
        let mut shared: HashMap<Counted, (u64, Hash)> = HashMap::new();
        let mut lined = Vec::with_capacity(pending.len());
        for (p, counted) in pending.iter_mut().zip(counted) {
            let mut part = std::mem::take(&mut p.part);
            let before = part.writes.len();
            let line = match counted {
                None => lines.add(&entry(&p.statement, p.statement.event.clone(), now), &mut part),
                Some((counted, count)) => *shared.entry(counted.clone()).or_insert_with(|| {
                    let Counted { action, why, .. } = counted;
                    let since = Timestamp(now.0 / MS_PER_SECOND * MS_PER_SECOND);
                    let event = Event::RefusalsCounted { action, why, count, since };
                    lines.add(&entry(&p.statement, event, now), &mut part)
                }),
            };
            indices.push(line);
            lined.push(before);
            parts.push(part);
        }
        Draft { lined, refusals, ..self.finish(&lines, parts, indices, now, self.epoch) }
    }

    fn finish(
        &self,
        lines: &Lines,
        parts: Vec<Part>,
        indices: Vec<(u64, Hash)>,
        now: Timestamp,
        epoch: Epoch,
    ) -> Draft {
        self.signed(lines, parts, indices, (now, epoch), None)
    }

    /// The same, signed also by the key that takes the log over, if it is handed over.
    fn signed(
        &self,
        lines: &Lines,
        parts: Vec<Part>,
        indices: Vec<(u64, Hash)>,
        (now, epoch): (Timestamp, Epoch),
        next: Option<&NextSigner>,
    ) -> Draft {
        let (edge, tiles) = self.edge.with(&lines.leaves);
        let head = Checkpoint {
            size: edge.size(),
            root: edge.root(),
            epoch: epoch.version,
            control: Hash(epoch.hash),
            time: now,
        };
        self.signatures.note();
        let head = match next {
            Some(next) => {
                next.signatures.note();
                head.sign_over(&self.signer, &next.signer)
            }
            None => head.sign(&self.signer),
        };
        let head_row = checkpoint::head_key(self.log);
        let guard = vec![
            match &self.head {
                Some(head) => Expect::Is(head_row, head.note().as_bytes().to_vec()),
                None => Expect::Absent(head_row),
            },
            self.epoch.expected(),
        ];
        let mut writes = tiles;
        writes.push(head.write(self.log));
        writes.extend(next.map(|next| Write::Put(next.row.clone(), head.note().as_bytes().to_vec())));
        let batch = Batch { guard, parts, head: writes };
        Draft { batch, edge, head, indices, lined: Vec::new(), refusals: self.refusals.clone() }
    }

    /// Nothing more is written until the vault is opened anew.
    fn fail(&mut self) {
        self.failed = Some(StoreError::Away);
        self.health.failed.store(true, Ordering::Release);
    }

    fn committed(&mut self, edge: Edge, head: SignedCheckpoint) {
        self.newest = head.checkpoint().time;
        self.health.newest.store(self.newest.0, Ordering::Release);
        self.edge = edge;
        self.head = Some(head);
    }

    /// Which refusals are only counted, with how many there are of their like in this batch.
    fn counted(&self, pending: &[Pending]) -> (Vec<Option<(Counted, u32)>>, Refusals) {
        // By the clock as it is: the log's time may stand still after a jump.
        let second = self.clock.now().0 / MS_PER_SECOND;
        let mut seen = self.refusals.clone();
        seen.retain(|_, (at, _)| *at == second);
        let mut counts: HashMap<Counted, u32> = HashMap::new();
        let kinds: Vec<Option<Counted>> = pending
            .iter()
            .map(|p| {
                let counted = Counted::of(&p.statement)?;
                let (_, so_far) = seen.entry(p.statement.who.clone()).or_insert((second, 0));
                *so_far = so_far.saturating_add(1);
                if *so_far <= SINGLE_REFUSALS {
                    return None;
                }
                *counts.entry(counted.clone()).or_insert(0) += 1;
                Some(counted)
            })
            .collect();
        let with_count = |k: Counted| (k.clone(), counts.get(&k).copied().unwrap_or(1));
        (kinds.into_iter().map(|kind| kind.map(with_count)).collect(), seen)
    }

    fn change_control(&mut self, step: ControlStep) -> Result<Receipt, NotFiled> {
        if let Some(e) = &self.failed {
            return Err(NotFiled::Store(e.clone()));
        }
        let now = self.clock.now().max(self.newest);
        let ControlStep { from, epoch, mut part, changes, hand_over, in_force } = step;
        if self.epoch != from {
            return Err(NotFiled::Stale);
        }
        let mut lines = Lines::new(self.log, self.edge.size());
        let mut last = None;
        for (who, change) in changes {
            let event = Event::ControlChanged { version: epoch.version, hash: Hash(epoch.hash), change };
            let line = AuditEntry {
                at: now,
                epoch: epoch.version,
                principal: who,
                merchant: None,
                channel: None,
                event,
            };
            last = Some(lines.add(&line, &mut part));
        }
        let Some((index, leaf)) = last else { return Err(NotFiled::Stale) };
        let next = hand_over.as_ref();
        let draft = self.signed(&lines, vec![part], vec![(index, leaf)], (now, epoch), next);
        match self.store.commit(&draft.batch) {
            Ok(()) => {
                self.committed(draft.edge, draft.head.clone());
                self.epoch = epoch;
                // The old key's last signature is on disk beside the new one's first: it signs no more.
                if let Some(next) = hand_over {
                    self.signer = next.signer;
                    self.signatures = next.signatures;
                }
                in_force(&draft.head);
                Ok(Receipt { log: self.log, index, leaf, checkpoint: draft.head })
            }
            Err(CommitError::Parts(_)) => Err(NotFiled::Stale),
            Err(CommitError::Guard) => {
                self.fail();
                Err(NotFiled::Store(StoreError::Away))
            }
            Err(CommitError::Store(e @ (StoreError::Full | StoreError::TooLarge))) => Err(NotFiled::Store(e)),
            Err(CommitError::Store(e)) => {
                self.fail();
                Err(NotFiled::Store(e))
            }
        }
    }
}

impl Writer {
    /// Puts a key's next block of uses on disk. What fails is asked for again by the next use.
    fn reserve(&mut self, counter: &Counter) {
        let reservation = counter.reservation().filter(|_| self.failed.is_none());
        let Some((mut part, upto)) = reservation else { return counter.refused() };
        let now = self.clock.now().max(self.newest);
        let mut lines = Lines::new(self.log, self.edge.size());
        let line = AuditEntry {
            at: now,
            epoch: self.epoch.version,
            principal: Who::Vault,
            merchant: None,
            channel: None,
            event: Event::UsesReserved { key: counter.key().0, upto },
        };
        let at = lines.add(&line, &mut part);
        let draft = self.finish(&lines, vec![part], vec![at], now, self.epoch);
        match self.store.commit(&draft.batch) {
            Ok(()) => {
                self.committed(draft.edge, draft.head);
                counter.granted(upto);
            }
            Err(CommitError::Parts(_) | CommitError::Store(StoreError::Full | StoreError::TooLarge)) => {
                counter.refused();
            }
            Err(CommitError::Guard | CommitError::Store(_)) => {
                self.fail();
                counter.refused();
            }
        }
    }
}

/// What makes refusals alike enough to be counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Counted {
    who: Who,
    merchant: Option<MerchantName>,
    action: Action,
    why: Refusal,
}

impl Counted {
    fn of(statement: &Statement) -> Option<Self> {
        match &statement.event {
            Event::Refused { action, why, .. } => Some(Self {
                who: statement.who.clone(),
                merchant: statement.merchant.clone(),
                action: *action,
                why: *why,
            }),
            _ => None,
        }
    }
}

fn entry(statement: &Statement, event: Event, at: Timestamp) -> AuditEntry {
    AuditEntry {
        at,
        epoch: statement.epoch,
        principal: statement.who.clone(),
        merchant: statement.merchant.clone(),
        channel: statement.channel.clone(),
        event,
    }
}

/// The entries of one batch as they are laid down.
struct Lines {
    log: u32,
    next: u64,
    leaves: Vec<Hash>,
}

impl Lines {
    fn new(log: u32, next: u64) -> Self {
        Self { log, next, leaves: Vec::new() }
    }

    fn add(&mut self, entry: &AuditEntry, part: &mut Part) -> (u64, Hash) {
        let bytes = entry.encode();
        let (index, leaf) = (self.next, tree::leaf_hash(&bytes));
        self.next += 1;
        self.leaves.push(leaf);
        part.writes.push(Write::Put(tree::entry_key(self.log, index), bytes));
        (index, leaf)
    }
}

#[derive(Default)]
struct Gathered {
    pending: Vec<Pending>,
    groups: Vec<Group>,
}

impl Gathered {
    fn add(&mut self, files: Files, room: Room, now: Timestamp) {
        let Files { filings, together, deadline, answer, hold } = files;
        let late = deadline.is_some_and(|d| d <= now);
        let over = |w: &Write| matches!(w, Write::Put(_, v) if v.len() > MAX_VALUE);
        let too_large = |filing: &Filing| filing.part().writes.iter().any(over);
        let whole_too_large = together && filings.iter().any(too_large);
        let group = self.groups.len();
        let mut answers = Vec::with_capacity(filings.len());
        for (index, filing) in filings.into_iter().enumerate() {
            // What was refused is written down however late it is.
            answers.push(if late && !filing.stands() {
                Some(Err(NotFiled::Late))
            } else if whole_too_large || too_large(&filing) {
                Some(Err(NotFiled::Store(StoreError::TooLarge)))
            } else {
                self.pending.push(Pending::of(filing, (group, index)));
                None
            });
        }
        self.groups.push(Group { answers, together, answer, room, hold });
    }
}

/// Reads where a log ends and proves that it goes with `epoch`: a Control put back to older bytes is noticed here.
pub(crate) async fn end_of(
    store: &dyn Store,
    log: u32,
    verifier: &LogVerifier,
    epoch: &Epoch,
) -> Result<(Edge, SignedCheckpoint), Error> {
    let damaged = || Error::Store(StoreError::Corrupt);
    let opened =
        crate::audit::open(store, log, verifier).await.map_err(|_| damaged())?.ok_or_else(damaged)?;
    let said = opened.head.checkpoint();
    if said.epoch != epoch.version || said.control != Hash(epoch.hash) {
        return Err(damaged());
    }
    Ok((opened.edge, opened.head))
}

/// The batch that a vault begins with: its rows, the first two entries and the first checkpoint. It expects that there
/// is none yet.
pub(crate) fn found(
    log: u32,
    signer: &LogSigner,
    epoch: &Epoch,
    absent: Key,
    writes: Vec<Write>,
    now: Timestamp,
) -> Batch {
    let mut lines = Lines::new(log, 0);
    let mut part = Part { expects: Vec::new(), writes };
    let change = ControlChange::Created;
    let changed = Event::ControlChanged { version: epoch.version, hash: Hash(epoch.hash), change };
    for event in [Event::LogStarted { log }, changed] {
        let entry = AuditEntry {
            at: now,
            epoch: epoch.version,
            principal: Who::Vault,
            merchant: None,
            channel: None,
            event,
        };
        lines.add(&entry, &mut part);
    }
    let (edge, mut writes) = Edge::empty(log).with(&lines.leaves);
    let first = Checkpoint {
        size: edge.size(),
        root: edge.root(),
        epoch: epoch.version,
        control: Hash(epoch.hash),
        time: now,
    }
    .sign(signer);
    writes.push(first.write(log));
    let guard = vec![Expect::Absent(absent), Expect::Absent(checkpoint::head_key(log))];
    Batch { guard, parts: vec![part], head: writes }
}
