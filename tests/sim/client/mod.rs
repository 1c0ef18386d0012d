//! A client: what it does, and what it may expect.

mod act;
mod hear;
mod journal;
mod renew;
mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use self::{
    journal::{Bookmarks, Unsettled},
    renew::Expiry,
    subscription::Subscription,
};
use crate::{
    entropy::Draws,
    hook::{PASSWORD, Right},
    operator::IDS,
    wire::{Client, Wire},
    world::{Phase, World},
};

/// Between two looks whether its session should be over.
const LOOK: Duration = Duration::from_secs(5);

/// Lives until the simulation's end: it comes back whenever its session is over.
pub(crate) async fn live(world: Arc<World>, number: u32) {
    let mut draws = Draws::of(&[world.plan.seed, u64::from(number)]);
    let mut next_id = u64::from(number) * IDS;
    // Each is somewhere else, so that hardly anything happens in the same moment.
    let distance = draws.between(1, 40);
    let mut longest = world.plan.think / 4;
    let mut bookmarks = Bookmarks::default();
    while world.is_busy() {
        sleep(draws.millis(1, longest)).await;
        let user = if draws.percent(2) {
            crate::hook::STRANGER.to_owned()
        } else {
            draws.pick(&world.users).clone()
        };
        let mut session = Session::new(Arc::clone(&world), number, user, draws, next_id, distance);
        session.bookmarks = bookmarks;
        session.run().await;
        world.count_session(session.is_banned);
        (draws, next_id) = (session.draws, session.next_id);
        bookmarks = session.bookmarks;
        // The answer is the same each time: most of a short life could go to such logins.
        longest = match session.is_banned {
            true => 2 * world.plan.think,
            false => world.plan.think / 4,
        };
    }
}

struct Session {
    world: Arc<World>,
    number: u32,
    user: String,
    draws: Draws,
    next_id: u64,
    distance: u64,
    wire: Wire,
    began: Instant,
    connected: Option<Instant>,
    /// What it logs in by.
    passcode: &'static str,
    /// When its login ends by itself, if it does.
    expiry: Option<Expiry>,
    /// When it renews its login, if it does not forget to.
    renews: Option<Instant>,
    /// Rights that its subscriptions needed.
    rights: BTreeSet<Right>,
    /// Interruptions of all feeds when it began.
    interruptions: u64,
    /// The network's: chunks arrive in order.
    last_chunk: Instant,
    is_cut: Arc<AtomicBool>,
    /// What was cut, closed, or stalled.
    end: Option<End>,
    stalled_until: Option<Instant>,
    /// Bytes that came at once after a stall.
    burst: (Instant, usize),
    /// Frames sent.
    frames: u64,
    /// Answers that are due, in order.
    due: VecDeque<Due>,
    /// Messages that were sent, by the frame.
    sent: Vec<(u64, u64)>,
    subscriptions: BTreeMap<u64, Subscription>,
    next_subscription: u64,
    /// Messages that wait to be acknowledged.
    held: Vec<Held>,
    /// The same of a journal.
    unsettled: Vec<Unsettled>,
    /// How far it has come in the journal.
    bookmarks: Bookmarks,
    /// Patterns whose bookmark the gateway has kept in this session.
    stored: BTreeSet<&'static str>,
    transaction: Option<Vec<u64>>,
    /// A frame that ends the session.
    bad: Option<(u64, &'static str)>,
    /// It was ended by a ban, or refused for one.
    is_banned: bool,
    /// Messages that the gateway said it dropped, and those that are missing.
    dropped: u64,
    missing: u64,
}

/// How the client, or the gateway, has ended the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The network is cut, or the client has gone.
    Gone,
    /// The client said DISCONNECT.
    Disconnecting,
    /// That was answered.
    Disconnected,
    /// The gateway said ERROR.
    Error,
}

#[derive(Debug)]
struct Due {
    receipt: String,
    frame: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Sent,
    Committed(Vec<u64>),
    Subscribed(u64),
    Unsubscribed(u64),
    Settled {
        ids: Vec<u64>,
        loss: u64,
        how: Settled,
    },
    /// Of a journal's messages.
    Acknowledged,
    Renewed {
        sent: Instant,
        token: &'static str,
        /// The credentials are the user's own.
        is_right: bool,
    },
    Disconnected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Acked,
    Nacked,
    Dropped,
}

#[derive(Clone, Debug)]
struct Held {
    ack: String,
    subscription: u64,
    id: u64,
    /// Losses of the broker's link when it came.
    loss: u64,
}

impl Session {
    fn new(
        world: Arc<World>,
        number: u32,
        user: String,
        draws: Draws,
        next_id: u64,
        distance: u64,
    ) -> Self {
        let now = Instant::now();
        Self {
            interruptions: world.interruptions(),
            world,
            number,
            user,
            draws,
            next_id,
            distance,
            wire: Wire::new(),
            began: now,
            connected: None,
            passcode: PASSWORD,
            expiry: None,
            renews: None,
            rights: BTreeSet::new(),
            last_chunk: now,
            is_cut: Arc::default(),
            end: None,
            stalled_until: None,
            burst: (now, 0),
            frames: 0,
            due: VecDeque::new(),
            sent: Vec::new(),
            subscriptions: BTreeMap::new(),
            next_subscription: 0,
            held: Vec::new(),
            unsettled: Vec::new(),
            bookmarks: Bookmarks::default(),
            stored: BTreeSet::new(),
            transaction: None,
            bad: None,
            is_banned: false,
            dropped: 0,
            missing: 0,
        }
    }

    async fn run(&mut self) {
        let mut client = Client::on(&self.world.house, self.wire.clone());
        let (world, mut phase) = (Arc::clone(&self.world), self.world.phase());
        if self.draws.percent(30) {
            self.poll();
        }
        self.connect();
        let mut next = pin!(sleep_until(self.think()));
        let mut look = pin!(sleep(LOOK));
        loop {
            let may_act = self.world.is_busy() && self.connected.is_some();
            let renews = self.renews.filter(|_| may_act);
            tokio::select! {
                biased;
                frame = client.next() => match frame {
                    Some(frame) => self.hear(&frame),
                    None => break,
                },
                () = &mut next, if may_act => {
                    self.act();
                    self.check_discipline();
                    next.as_mut().reset(self.think());
                }
                () = sleep_until(renews.unwrap_or(self.began)), if renews.is_some() => {
                    self.renew_in_time();
                }
                () = &mut look, if self.connected.is_some() => {
                    self.check_discipline();
                    look.as_mut().reset(Instant::now() + LOOK);
                }
                now = world.after(phase) => {
                    phase = now;
                    match phase {
                        Phase::Busy | Phase::Quiet => {}
                        Phase::Check => self.check_calm(),
                        Phase::Leave => self.leave(),
                    }
                }
            }
            // It is to notice a connection that runs in circles, not one that lives for long.
            if self.wire.calls() > 100_000 {
                self.violate("the connection runs in circles".to_owned());
            }
        }
        self.is_cut.store(true, Ordering::Relaxed);
        self.check_end();
        self.world.closed(self.number);
        if let Err(error) = client.task.await {
            self.violate(format!("the connection's task: {error}"));
        }
    }

    fn think(&mut self) -> Instant {
        let longest = self.world.plan.think;
        // Now and then many frames at once.
        let pause = if self.draws.percent(20) {
            Duration::from_millis(self.draws.below(3))
        } else {
            self.draws.millis(1, longest)
        };
        Instant::now() + pause
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        self.world.trace.tell(self.number, line);
    }

    fn violate(&self, line: String) {
        self.world.trace.violate(self.number, line);
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// True if it has stalled, so that the gateway may be rid of it without a word.
    fn was_stalled(&self) -> bool {
        const TRACES: Duration = Duration::from_secs(60);
        let until = self.stalled_until;
        until.is_some_and(|until| Instant::now() < until + TRACES)
    }
}
