//! The connections of this node, which a drain waits for and can reach; and the sessions that are
//! logged in.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use stomp_session::Problem;
use tokio::{sync::watch, time::Instant};

use super::{
    ban_book::BanBook,
    inquiries::{Inquiries, SessionDetails},
    limits::{AddressKey, Arrivals, ClientAddress, Limits},
    logged_in::LoggedIn,
    memory::{Shed, WORTH_SHEDDING},
    places::{Place, Places, Stage},
    withdrawals::{Withdrawal, Withdrawals},
};
use crate::{
    deadline::later,
    hub::Mailbox,
    telemetry::{self, ClientLines, RefusedAt, Seldom},
};

/// All connections of this node.
#[derive(Debug)]
pub struct Registry {
    members: Mutex<Members>,
    begun: Instant,
    /// Whether a drain was begun. Written and read with `members` locked.
    draining: AtomicBool,
    count: watch::Sender<usize>,
    /// Of those that are logged in.
    max: AtomicUsize,
    places: Arc<Places>,
    arrivals: Arrivals,
    turned_away: Mutex<Seldom>,
    lines: ClientLines,
    pub(super) bans: BanBook,
    pub(super) inquiries: Inquiries,
    pub(super) withdrawals: Withdrawals,
    rechecks: AtomicU64,
    regroups: AtomicU64,
}

#[derive(Debug, Default)]
struct Members {
    by_number: HashMap<u64, Member>,
    /// How many of them were admitted.
    admitted: usize,
}

#[derive(Debug)]
struct Member {
    mailbox: Arc<Mailbox>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not logged in. `None`: it took no place.
    Unfinished(Option<Place>),
    /// It is one of `max`, and its session, of this id, is not ready yet.
    Admitted(Box<str>),
    /// Its session, and since when: in seconds of the registry's time, in four bytes, for there are many.
    /// Weak, for the session holds the guard.
    LoggedIn(Weak<dyn LoggedIn>, u32),
}

/// A connection's entry in the registry; removed when it is dropped.
#[derive(Debug)]
pub struct Guard {
    registry: Arc<Registry>,
    number: u64,
    mailbox: Arc<Mailbox>,
    /// If it is counted by its address.
    address: Option<AddressKey>,
}

impl Registry {
    /// A registry that takes `max` sessions at a time, as many connections without a login, and of
    /// each address as many as by default.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Self::with_places(max, Places::new(max), &Limits::default())
    }

    /// A registry that takes `max` sessions at a time, for connections that hold one of `places`
    /// until they are logged in; of each address as many connections as `limits` allow.
    #[must_use]
    pub fn with_places(max: usize, places: Arc<Places>, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            members: Mutex::default(),
            begun: Instant::now(),
            draining: AtomicBool::new(false),
            count: watch::Sender::new(0),
            max: AtomicUsize::new(max),
            places,
            arrivals: Arrivals::new(limits),
            turned_away: Mutex::default(),
            lines: ClientLines::default(),
            bans: BanBook::default(),
            inquiries: Inquiries::default(),
            withdrawals: Withdrawals::default(),
            rechecks: AtomicU64::new(0),
            regroups: AtomicU64::new(0),
        })
    }

    /// Enters a connection, before its transport is answered: so a drain sees it. `None`: as many
    /// are logged in as are allowed.
    #[must_use]
    pub fn enter(self: &Arc<Self>, mailbox: Arc<Mailbox>) -> Option<Guard> {
        let mut members = self.members.lock();
        if members.admitted >= self.max() {
            return None;
        }
        let number = loop {
            // A session's id begins with it, and must not begin with `-`, or shells' commands would
            // take it for an option.
            let number = rand::random::<u64>() >> 2;
            if let Entry::Vacant(vacant) = members.by_number.entry(number) {
                vacant.insert(Member {
                    mailbox: Arc::clone(&mailbox),
                    state: State::Unfinished(None),
                });
                break number;
            }
        };
        // An upgrade on a stream that was accepted before: it would not be told otherwise.
        if self.draining.load(Ordering::Relaxed) {
            mailbox.fail(Problem::ShuttingDown);
        }
        self.count.send_replace(members.by_number.len());
        drop(members);
        Some(Guard {
            registry: Arc::clone(self),
            number,
            mailbox,
            address: None,
        })
    }

    /// The same, if the address that it comes from has not too many.
    ///
    /// # Errors
    /// The client's answer.
    pub fn enter_from(
        self: &Arc<Self>,
        client: ClientAddress,
        mailbox: Arc<Mailbox>,
    ) -> Result<Guard, Problem> {
        let entered = self.try_to_enter(client, mailbox);
        entered.inspect_err(|problem| {
            telemetry::refused(RefusedAt::Connection, problem.error_code());
        })
    }

    fn try_to_enter(
        self: &Arc<Self>,
        client: ClientAddress,
        mailbox: Arc<Mailbox>,
    ) -> Result<Guard, Problem> {
        let address = self.arrivals.enter(client)?;
        let Some(mut guard) = self.enter(mailbox) else {
            self.arrivals.leave(address);
            return Err(Problem::TooManyConnections);
        };
        guard.address = Some(address);
        Ok(guard)
    }

    /// Logs, now and then, that [`Registry::enter`] had no place for a client of this listener.
    pub fn log_turned_away(&self, listener: &str) {
        let unsaid = self
            .turned_away
            .lock()
            .let_through(Instant::now().into_std());
        if let Some(unsaid) = unsaid {
            telemetry::connection_limit_reached(listener, self.max(), unsaid);
        }
    }

    /// How many may be logged in.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// From now on so many may be logged in. Those that are here stay.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// From now on as many connections of one address may be there, and come in a second, as
    /// `limits` say. Those that are here stay.
    pub fn set_limits(&self, limits: &Limits) {
        self.arrivals.set_limits(limits);
    }

    /// The bound of log lines that clients cause.
    #[must_use]
    pub fn lines(&self) -> &ClientLines {
        &self.lines
    }

    /// The places of connections that are not logged in.
    #[must_use]
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// How many are logged in, or about to be.
    #[must_use]
    pub fn logged_in(&self) -> usize {
        self.members.lock().admitted
    }

    /// How often sessions were to be asked about again since the node began, or what the hook had
    /// permitted was to be forgotten.
    #[must_use]
    pub fn rechecks(&self) -> u64 {
        self.rechecks.load(Ordering::Acquire)
    }

    /// Sessions are to be asked about again. Said before they are looked for: a login that is under
    /// way is none yet, and sees this when it is one.
    pub(super) fn begin_recheck(&self) {
        self.rechecks.fetch_add(1, Ordering::AcqRel);
    }

    /// How often groups were to be asked for again since the node began.
    #[must_use]
    pub fn regroups(&self) -> u64 {
        // It reads by writing: so of a session that joins presence and then looks here, and an order
        // that is counted here and then looks there, one sees the other.
        self.regroups.fetch_add(0, Ordering::AcqRel)
    }

    /// Groups are to be asked for again. Said before sessions are looked for, as of rechecks: a session
    /// that has not joined presence sees this when it has.
    pub fn begin_regroup(&self) {
        self.regroups.fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes the connection of that number.
    pub(super) fn wake(&self, number: u64) {
        if let Some(member) = self.members.lock().by_number.get(&number) {
            member.mailbox.wake();
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells every connection that the server shuts down, spread evenly over `duration`, so that
    /// they do not all reconnect elsewhere in one instant. Connections that enter from now on are
    /// told at once.
    pub async fn drain(&self, duration: Duration) {
        const TICK: Duration = Duration::from_millis(50);
        let mailboxes: Vec<_> = {
            let members = self.members.lock();
            self.draining.store(true, Ordering::Relaxed);
            let all = members.by_number.values();
            all.map(|member| Arc::clone(&member.mailbox)).collect()
        };
        // Some at a time, if they are many; few are as far apart as the duration has room for.
        let ticks = duration.as_millis().checked_div(TICK.as_millis());
        let ticks = usize::try_from(ticks.unwrap_or(1)).unwrap_or(usize::MAX);
        let some = mailboxes.len().div_ceil(ticks.max(1)).max(1);
        let times = u32::try_from(mailboxes.len().div_ceil(some)).unwrap_or(u32::MAX);
        let apart = duration.checked_div(times).unwrap_or_default();
        let start = Instant::now();
        for (time, some) in (0..times).zip(mailboxes.chunks(some)) {
            tokio::time::sleep_until(later(start, apart.saturating_mul(time))).await;
            for mailbox in some {
                mailbox.fail(Problem::ShuttingDown);
            }
        }
    }

    /// Ends the session of that id on the connection of that number. Presence knows a session before
    /// it is logged in, so one that is about to be ends, too. `false`: it is not here.
    pub(super) fn end_session(&self, number: u64, id: &str, problem: &Problem) -> bool {
        let (mailbox, session) = {
            let members = self.members.lock();
            let Some(member) = members.by_number.get(&number) else {
                return false;
            };
            let is_about_to_be =
                matches!(&member.state, State::Admitted(admitted) if **admitted == *id);
            let mailbox = is_about_to_be.then(|| Arc::clone(&member.mailbox));
            (mailbox, member.session())
        };
        if let Some(mailbox) = mailbox {
            mailbox.fail(problem.clone());
            return true;
        }
        let session = session.filter(|session| *session.id() == *id);
        session.is_some_and(|session| {
            session.end(problem.clone());
            true
        })
    }

    /// The session that is logged in on the connection of that number.
    pub(super) fn session(&self, number: u64) -> Option<Arc<dyn LoggedIn>> {
        self.members.lock().by_number.get(&number)?.session()
    }

    /// The sessions that are logged in, on connections whose numbers are meant.
    pub(super) fn sessions(&self, is_meant: impl Fn(u64) -> bool) -> Vec<Arc<dyn LoggedIn>> {
        // Dropping the last pointer to a session locks this again: so the caller drops them.
        let members = self.members.lock();
        let all = members.by_number.iter();
        let meant = all.filter(|(number, _)| is_meant(**number));
        meant.filter_map(|(_, member)| member.session()).collect()
    }

    /// The sessions that are logged in, and were so long ago.
    pub(super) fn sessions_of(&self, ago: Duration) -> Vec<Arc<dyn LoggedIn>> {
        let Some(then) = self.second(ago) else {
            return Vec::new();
        };
        let members = self.members.lock();
        let all = members.by_number.values();
        let old = all.filter(|member| matches!(member.state, State::LoggedIn(_, at) if at <= then));
        old.filter_map(Member::session).collect()
    }

    /// The second of the registry's time so long ago; `None`: before it began.
    fn second(&self, ago: Duration) -> Option<u32> {
        let second = self.begun.elapsed().checked_sub(ago)?.as_secs();
        Some(u32::try_from(second).unwrap_or(u32::MAX))
    }

    /// Waits until the last connection is gone.
    pub async fn wait_empty(&self) {
        // The sender is this very registry's, so there is no error.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Member {
    fn session(&self) -> Option<Arc<dyn LoggedIn>> {
        match &self.state {
            State::LoggedIn(session, _) => session.upgrade(),
            State::Unfinished(_) | State::Admitted(_) => None,
        }
    }
}

impl Members {
    /// Sets a connection's state, and answers the one before.
    fn set(&mut self, number: u64, state: State) -> Option<State> {
        let member = self.by_number.get_mut(&number)?;
        let before = std::mem::replace(&mut member.state, state);
        if matches!(before, State::Unfinished(_)) && !matches!(member.state, State::Unfinished(_)) {
            self.admitted = self.admitted.saturating_add(1);
        }
        Some(before)
    }
}

impl Guard {
    /// A number that no other connection of this process has; of all numbers there are, so that
    /// one who knows one knows no other.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The connection holds this place until its login. It ends when the place has to give way.
    pub fn hold(&self, place: Place) {
        place.set_stage(Stage::Begun);
        place.belongs_to(&self.mailbox);
        let state = State::Unfinished(Some(place));
        self.set(state);
    }

    /// The connection has asked to log in, and waits for the answer.
    pub fn asks_to_log_in(&self) {
        self.set_stage(Stage::Asked);
    }

    /// The connection is at its end, and has nothing to lose.
    pub fn ends(&self) {
        self.set_stage(Stage::Idle);
    }

    fn set_stage(&self, stage: Stage) {
        let members = self.registry.members.lock();
        let member = members.by_number.get(&self.number);
        if let Some(State::Unfinished(Some(place))) = member.map(|member| &member.state) {
            place.set_stage(stage);
        }
    }

    /// The connection may log in, with a session of this id, and gives its place back. `false`: as
    /// many are logged in as are allowed.
    #[must_use]
    pub fn let_in(&self, session: &str) -> bool {
        let mut members = self.registry.members.lock();
        if members.admitted >= self.registry.max() {
            return false;
        }
        let before = members.set(self.number, State::Admitted(session.into()));
        drop(members);
        drop(before);
        true
    }

    /// The connection's session is logged in: from now on it can be found.
    pub fn logged_in(&self, session: &Arc<impl LoggedIn + 'static>) {
        let session: Weak<dyn LoggedIn> = Arc::downgrade(session) as _;
        let since = self.registry.second(Duration::ZERO).unwrap_or_default();
        self.set(State::LoggedIn(session, since));
    }

    fn set(&self, state: State) {
        let before = self.registry.members.lock().set(self.number, state);
        // A place takes a lock of its own when it is given back.
        drop(before);
    }

    /// Whether somebody asks what the connection does.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.registry.inquiries.is_asked(self.number)
    }

    /// Tells all who ask what the connection does.
    pub fn answer(&self, details: &SessionDetails) {
        self.registry.inquiries.answer(self.number, details);
    }

    /// Whether somebody wants subscriptions of the connection to end.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.registry.withdrawals.is_told(self.number)
    }

    /// The orders to end subscriptions, which the connection takes now.
    #[must_use]
    pub fn withdrawals(&self) -> Vec<Withdrawal> {
        self.registry.withdrawals.take(self.number)
    }

    /// The connection's mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

#[cfg(test)]
impl Registry {
    /// The bytes that are kept for clients.
    pub(crate) fn bytes_waiting(&self) -> usize {
        let members = self.members.lock();
        let all = members.by_number.values();
        all.map(|member| member.mailbox.bytes()).sum()
    }
}

impl Shed for Registry {
    fn shed(&self, bytes: usize, gathered: &HashMap<u64, usize>) -> (usize, usize) {
        // Clients come and go meanwhile: what they are to be freed of is much.
        let all: Vec<_> = {
            let members = self.members.lock();
            let all = members.by_number.iter();
            all.map(|(number, member)| (*number, Arc::clone(&member.mailbox)))
                .collect()
        };
        let all = all.into_iter().map(|(number, mailbox)| {
            // Clients share them, so it is not known how much that frees.
            mailbox.forget_bases();
            let waiting = mailbox.bytes();
            let gathered = gathered.get(&number).copied().unwrap_or_default();
            let problem = match gathered > waiting {
                true => Problem::Overloaded,
                false => Problem::SlowConsumer,
            };
            (waiting.saturating_add(gathered), mailbox, problem)
        });
        let mut greatest: Vec<_> = all.filter(|(bytes, ..)| *bytes >= WORTH_SHEDDING).collect();
        greatest.sort_unstable_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        let (mut count, mut freed) = (0_usize, 0_usize);
        for (size, mailbox, problem) in greatest {
            if freed >= bytes {
                break;
            }
            mailbox.shed(problem);
            count = count.saturating_add(1);
            freed = freed.saturating_add(size);
        }
        (count, freed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut members = self.registry.members.lock();
        let removed = members.by_number.remove(&self.number);
        if let Some(member) = &removed
            && !matches!(member.state, State::Unfinished(_))
        {
            members.admitted = members.admitted.saturating_sub(1);
        }
        self.registry.count.send_replace(members.by_number.len());
        drop(members);
        drop(removed);
        drop(self.withdrawals());
        if let Some(address) = self.address {
            self.registry.arrivals.leave(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        task::{Context, Wake, Waker},
        thread,
        time::Instant as StdInstant,
    };

    use super::*;
    use crate::hub::MailboxConfig;

    /// A connection that is told only when it is no longer awaited: until then, its mailbox is locked.
    struct Locks {
        begun: mpsc::Sender<()>,
        end: Mutex<mpsc::Receiver<()>>,
    }

    impl Wake for Locks {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Locks {
        fn drop(&mut self) {
            let _ = self.begun.send(());
            let _ = self.end.lock().recv();
        }
    }

    /// A shortage of memory is looked into mailbox by mailbox; clients come and go meanwhile.
    #[test]
    fn nobody_waits_for_mailboxes_that_are_to_shrink() {
        let registry = Registry::new(10);
        let mailbox = Mailbox::new(MailboxConfig::default());
        let guard = registry.enter(Arc::clone(&mailbox)).unwrap();
        let ((begun, is_locked), (let_go, end)) = (mpsc::channel(), mpsc::channel());
        let end = Mutex::new(end);
        let waker = Waker::from(Arc::new(Locks { begun, end }));
        assert!(mailbox.poll_take(&Context::from_waker(&waker)).is_pending());
        drop(waker);
        thread::scope(|scope| {
            scope.spawn(|| mailbox.poll_take(&Context::from_waker(Waker::noop())));
            is_locked.recv().unwrap();
            let before = Arc::strong_count(&mailbox);
            scope.spawn(|| registry.shed(1, &HashMap::new()));
            let due = StdInstant::now() + Duration::from_secs(10);
            let mut is_free = false;
            while !is_free && StdInstant::now() < due {
                thread::yield_now();
                // The list is made, and the first mailbox awaited.
                is_free = Arc::strong_count(&mailbox) > before
                    && registry
                        .members
                        .try_lock_for(Duration::from_secs(1))
                        .is_some();
            }
            let_go.send(()).unwrap();
            assert!(is_free, "clients could neither come nor go");
        });
        drop(guard);
    }
}
