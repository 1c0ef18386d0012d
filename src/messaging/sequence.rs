//! A connection's sequence at work: its line, the store, and the broker's confirms.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use parking_lot::Mutex;
use stomp_session::Problem;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    Entry, MAX_NUMBER, SequenceError, SequenceName, SequenceStore,
    line::{Line, Step},
};
use crate::{background, deadline::after};

/// How long a login waits for the connection before it to settle its numbers.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Pauses between questions meanwhile.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// How often a login looks and opens, at most, while others come in between.
const OPENS: usize = 8;
/// How long a sequence whose connection has ended tries to commit what the broker has confirmed.
const LAST_COMMITS: Duration = Duration::from_secs(10);
/// Pauses between these attempts.
const COMMIT_PAUSE: Duration = Duration::from_millis(500);

/// The broker's answer to a message.
pub type Confirming = BoxFuture<'static, Result<(), Problem>>;

/// The sequence of one connection. What it has under way goes on when it is dropped.
pub struct Sequence {
    shared: Arc<Shared>,
    /// Without a bound: the session's own bound on what is pending holds.
    handed: mpsc::UnboundedSender<(u64, Confirming)>,
}

/// What becomes of a numbered SEND.
pub enum Admitted {
    /// The broker has it; it is not published.
    Known,
    /// It is under way; it is not published, and done when this is.
    UnderWay(Confirming),
    /// It is to be published now, with the mark or without; then call [`Sequence::published`].
    Publish {
        /// The broker may have it.
        possible_duplicate: bool,
    },
}

struct Shared {
    store: Arc<dyn SequenceStore>,
    name: SequenceName,
    epoch: u64,
    line: Mutex<Line>,
    /// The line has changed.
    changed: watch::Sender<()>,
}

impl Sequence {
    /// Takes the sequence over for one connection. `told` is the last number of which the client
    /// says that it had the receipt. Answers the last number that the broker has, too. `is_there`: the
    /// client is there still; one that has gone may have come again, to another node.
    ///
    /// # Errors
    /// As [`SequenceStore::open`]; [`SequenceError::Taken`], too, where the client has gone.
    pub async fn open<T: Future<Output = bool>>(
        store: Arc<dyn SequenceStore>,
        name: SequenceName,
        told: u64,
        is_there: impl Fn() -> T,
    ) -> Result<(Self, u64), SequenceError> {
        let mut entry = take_over(&*store, &name, told, is_there).await?;
        let epoch = entry.epoch;
        let end = after(PATIENCE);
        while entry.is_unsettled() && Instant::now() < end {
            sleep(PAUSE).await;
            entry = store.look(&name).await?;
            entry.check(epoch)?;
        }
        Ok((Self::start(store, name, &entry), entry.last))
    }

    fn start(store: Arc<dyn SequenceStore>, name: SequenceName, entry: &Entry) -> Self {
        let shared = Arc::new(Shared {
            store,
            name,
            epoch: entry.epoch,
            line: Mutex::new(Line::new(entry)),
            changed: watch::Sender::new(()),
        });
        let (handed, confirms) = mpsc::unbounded_channel();
        background::spawn(Arc::clone(&shared).run(confirms));
        Self { shared, handed }
    }

    /// A frame with this number has come, and waits for its turn: one round trip to the store
    /// serves all that wait.
    pub fn foresee(&self, number: u64) {
        self.shared.line.lock().foresee(number);
    }

    /// The turn of a frame with this number.
    ///
    /// # Errors
    /// Its ERROR.
    pub async fn admit(&self, number: u64) -> Result<Admitted, Problem> {
        let shared = &self.shared;
        let mut changes = shared.changed.subscribe();
        loop {
            let step = {
                let mut line = shared.line.lock();
                let step = line.step(number);
                if matches!(step, Step::Publish { .. }) {
                    line.hand(number);
                }
                step
            };
            match step {
                Step::Known => return Ok(Admitted::Known),
                Step::UnderWay => return Ok(Admitted::UnderWay(self.committed(number))),
                Step::Failed(problem) => return Err(problem),
                Step::Gap { expected } => return Err(Problem::SequenceGap { expected, number }),
                Step::Publish { possible_duplicate } => {
                    return Ok(Admitted::Publish { possible_duplicate });
                }
                // The sender is in `shared`.
                Step::Later => drop(changes.changed().await),
                Step::Reserve { to } => {
                    shared.store.reserve(&shared.name, shared.epoch, to).await?;
                    shared.line.lock().reserved(to);
                }
            }
        }
    }

    /// The message with this number was handed to the broker. Done when that is committed.
    pub fn published(&self, number: u64, confirm: Confirming) -> Confirming {
        // The task ends after this.
        let _ = self.handed.send((number, confirm));
        self.committed(number)
    }

    fn committed(&self, number: u64) -> Confirming {
        let shared = Arc::clone(&self.shared);
        let mut changes = shared.changed.subscribe();
        async move {
            loop {
                {
                    let line = shared.line.lock();
                    if line.last() >= number {
                        return Ok(());
                    }
                    if let Some(problem) = line.failure_of(number) {
                        return Err(problem.clone());
                    }
                }
                drop(changes.changed().await);
            }
        }
        .boxed()
    }
}

/// Opens the entry only as it was found, and looks for the client in between: if it has come again to
/// another node, either the entry is another by then, or the client is seen to have gone here.
async fn take_over<T: Future<Output = bool>>(
    store: &dyn SequenceStore,
    name: &SequenceName,
    told: u64,
    is_there: impl Fn() -> T,
) -> Result<Entry, SequenceError> {
    for _ in 0..OPENS {
        let known = match store.look(name).await {
            Ok(entry) => entry.epoch,
            Err(SequenceError::Lost) => 0,
            Err(error) => return Err(error),
        };
        if !is_there().await {
            return Err(SequenceError::Taken);
        }
        let opened = store.open(name, known, now(), told).await;
        if opened != Err(SequenceError::Changed) {
            return opened;
        }
    }
    Err(SequenceError::Changed)
}

/// The epoch of a connection that logs in now: the time in microseconds, so that one that the store
/// forgets is not given again. It passes [`MAX_NUMBER`] in the year 2255.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    u64::try_from(micros).map_or(MAX_NUMBER, |micros| micros.min(MAX_NUMBER))
}

impl Shared {
    /// Takes the broker's confirms, and commits; until the connection has ended, and nothing is
    /// under way.
    async fn run(self: Arc<Self>, mut handed: mpsc::UnboundedReceiver<(u64, Confirming)>) {
        let mut confirming = FuturesUnordered::new();
        let mut committing: Option<BoxFuture<'static, ()>> = None;
        let mut is_open = true;
        loop {
            if committing.is_none() {
                let due = self.line.lock().begin_commit();
                committing = due.map(|due| Arc::clone(&self).commit_or_fail(due).boxed());
            }
            if !is_open && confirming.is_empty() && committing.is_none() {
                break;
            }
            tokio::select! {
                next = handed.recv(), if is_open => match next {
                    Some((number, confirm)) => {
                        confirming.push(confirm.map(move |outcome| (number, outcome)));
                    }
                    None => is_open = false,
                },
                Some((number, outcome)) = confirming.next(), if !confirming.is_empty() => {
                    match outcome {
                        // Those who wait hear of its commit.
                        Ok(()) => self.line.lock().confirmed(number),
                        Err(problem) => self.change(|line| line.fail(number, problem)),
                    }
                }
                _ = OptionFuture::from(committing.as_mut()), if committing.is_some() => {
                    committing = None;
                }
            }
        }
        self.release().await;
    }

    fn change(&self, change: impl FnOnce(&mut Line)) {
        change(&mut self.line.lock());
        self.changed.send_replace(());
    }

    async fn commit_or_fail(self: Arc<Self>, due: (u64, u64)) {
        if let Err(error) = self.commit(due).await {
            self.change(|line| line.stop(error.into()));
        }
    }

    async fn commit(&self, (from, to): (u64, u64)) -> Result<(), SequenceError> {
        let committed = self.store.commit(&self.name, self.epoch, from, to).await;
        let last = committed.as_ref().ok().map(|entry| entry.last);
        self.change(|line| line.end_commit(last));
        committed.map(drop)
    }

    /// The connection has ended. What the broker has confirmed is committed, if the store comes
    /// back soon: then nobody has to wonder about it.
    async fn release(&self) {
        let end = after(LAST_COMMITS);
        let mut commits = true;
        loop {
            let (due, handed) = {
                let mut line = self.line.lock();
                line.resume();
                let due = commits.then(|| line.begin_commit()).flatten();
                (due, line.handed())
            };
            let outcome = match due {
                Some(due) => self.commit(due).await,
                None => {
                    let releasing = self.store.release(&self.name, self.epoch, handed);
                    releasing.await.map(drop)
                }
            };
            match outcome {
                Ok(()) if due.is_none() => return,
                Ok(()) => {}
                Err(SequenceError::Unavailable(_)) if Instant::now() < end => {
                    sleep(COMMIT_PAUSE).await;
                }
                // The store has lost too much for a commit. What was handed over it can still hear.
                Err(SequenceError::Lost) if due.is_some() => commits = false,
                Err(_) => return,
            }
        }
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequence")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}
