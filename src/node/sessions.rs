//! The sessions of this node, as [`control`](crate::control) reaches them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use stomp_session::Problem;
use tokio::time::timeout;

use super::{
    bans::Suspect,
    inquiries::SessionDetails,
    logged_in::LoggedIn,
    recheck::recheck_some,
    registry::{Guard, Registry},
};
use crate::{
    background,
    control::{Applied, Change, NoAnswer, RecheckOff, Sessions, Subject, Target, Unsubscribe},
};

/// A command that has been under way for no longer is for all sessions: so far clocks may differ.
const LATE: Duration = Duration::from_secs(10);

/// How long a connection may take to say what it does: its task may have much to do.
const ANSWER: Duration = Duration::from_millis(800);

impl Guard {
    /// An id for the connection's session: unique, and not to be guessed. It begins with the
    /// connection's number, so the registry finds a session without an index.
    #[must_use]
    pub fn new_session_id(&self) -> Box<str> {
        let id = (u128::from(self.number()) << 64) | u128::from(rand::random::<u64>());
        URL_SAFE_NO_PAD.encode(id.to_be_bytes()).into()
    }
}

/// The number of the connection that has a session of that id, if any has.
fn number(id: &str) -> Option<u64> {
    let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(id).ok()?.try_into().ok()?;
    u64::try_from(u128::from_be_bytes(bytes) >> 64).ok()
}

impl Registry {
    fn find(&self, target: &Target) -> Vec<Arc<dyn LoggedIn>> {
        self.find_of(target, Duration::ZERO)
    }

    /// The same, of those that were logged in when it was asked for, so long ago.
    fn find_of(&self, target: &Target, late: Duration) -> Vec<Arc<dyn LoggedIn>> {
        let mut found = match target {
            Target::Session(id) => {
                let session = number(id).and_then(|number| self.session(number));
                session.into_iter().collect()
            }
            Target::User(_) | Target::Device { .. } => self.sessions_of(late.saturating_sub(LATE)),
        };
        found.retain(|session| is_meant(&**session, target));
        found
    }

    /// What a session of this node does, as its connection says; `None`: it is not here.
    ///
    /// # Errors
    /// It is here, and its connection has no answer in time.
    pub async fn details(&self, id: &str) -> Result<Option<SessionDetails>, NoAnswer> {
        let Some(number) = number(id).filter(|number| self.is_session(*number, id)) else {
            return Ok(None);
        };
        let inquiry = self.inquiries.ask(number);
        self.wake(number);
        match timeout(ANSWER, inquiry.answer()).await {
            Ok(details) => Ok(details),
            // It may have ended meanwhile.
            Err(_) if !self.is_session(number, id) => Ok(None),
            Err(_) => Err(NoAnswer),
        }
    }

    /// Whether the connection of that number has a session of that id. It is held no longer than it
    /// takes to look: a session that ends gives its place back.
    fn is_session(&self, number: u64, id: &str) -> bool {
        let session = self.session(number);
        session.is_some_and(|session| *session.id() == *id)
    }

    fn end(&self, target: &Target, problem: &Problem, late: Duration) -> usize {
        if let Target::Session(id) = target {
            let ends = number(id).is_some_and(|number| self.end_session(number, id, problem));
            return usize::from(ends);
        }
        let found = self.find_of(target, late);
        for session in &found {
            session.end(problem.clone());
        }
        found.len()
    }

    /// Ends the sessions of all who are banned. Bans come by thousands, so each session is held
    /// against all of them at once.
    fn end_banned(&self, now: SystemTime) {
        for session in &self.sessions(|_| true) {
            let suspect = Suspect {
                user: session.user(),
                address: Some(session.address()),
                device: session.device_id(),
            };
            if let Some((_, ban)) = self.bans.find(now, &suspect) {
                session.end(Problem::Banned(ban.reason));
            }
        }
    }

    /// Ends the sessions that a ban is about; how many. Of one that is lifted: 1, if it was in force.
    fn hold_to(&self, now: SystemTime, applied: &Applied, was_banned: bool) -> usize {
        let Applied::Done(done) = applied else {
            return 0;
        };
        match &done.ban {
            None => usize::from(was_banned),
            Some(ban) if ban.is_over(now) => 0,
            Some(ban) => {
                let mut found = self.sessions(|_| true);
                found.retain(|session| is_banned(&**session, &done.subject));
                for session in &found {
                    session.end(Problem::Banned(ban.reason.clone()));
                }
                found.len()
            }
        }
    }
}

fn is_meant(session: &dyn LoggedIn, target: &Target) -> bool {
    match target {
        Target::Session(id) => *session.id() == **id,
        Target::User(user) => session.user() == Some(&**user),
        Target::Device {
            user,
            device_type,
            device_id,
        } => {
            let is = |meant: &Option<Box<str>>, named: &Option<Box<str>>| {
                meant.is_none() || meant == named
            };
            session.user() == Some(&**user)
                && session.device().is_some_and(|device| {
                    is(device_type, &device.kind) && is(device_id, &device.id)
                })
        }
    }
}

impl Sessions for Registry {
    fn kick(&self, target: &Target, reason: &str, late: Duration) -> usize {
        self.end(target, &Problem::Kicked(reason.into()), late)
    }

    fn replace(&self, session: &str) -> usize {
        let session = Target::Session(session.into());
        self.end(&session, &Problem::Replaced, Duration::ZERO)
    }

    fn recheck(&self, target: &Target) -> Result<usize, RecheckOff> {
        self.begin_recheck();
        let found = self.find(target);
        let Some(first) = found.first() else {
            return Ok(0);
        };
        let recheck = first.settings().recheck.ok_or(RecheckOff)?;
        let count = found.len();
        background::spawn(recheck_some(found, recheck));
        Ok(count)
    }

    fn forget(&self) {
        self.begin_recheck();
    }

    fn refresh_groups(&self, user: &str) -> usize {
        self.begin_regroup();
        let mut found = self.find(&Target::User(user.into()));
        found.retain(|session| session.is_in_presence());
        let count = found.len();
        if count > 0 {
            background::spawn(refresh_groups(found));
        }
        count
    }

    fn unsubscribe(&self, wanted: &Arc<Unsubscribe>, late: Duration) -> BoxFuture<'static, usize> {
        // A session that is held here keeps its entry, so no order outlives its connection.
        let found = self.find_of(&Target::User(wanted.user.clone()), late);
        let told = found.iter().filter_map(|session| {
            let number = number(session.id())?;
            let answer = self.withdrawals.order(number, wanted);
            self.wake(number);
            Some(timeout(ANSWER, answer))
        });
        let told: Vec<_> = told.collect();
        async move {
            let answers = join_all(told).await.into_iter();
            answers.filter_map(|answer| answer.ok()?.ok()).sum()
        }
        .boxed()
    }

    fn ban(&self, change: &Change, late: Duration) -> (Applied, usize) {
        let now = SystemTime::now();
        let was_banned = self.bans.of(now, &change.subject).is_some();
        let applied = self.bans.apply(now, late, change);
        let hits = self.hold_to(now, &applied, was_banned);
        (applied, hits)
    }

    fn hear_of_bans(&self, changes: &[Change]) -> Vec<Applied> {
        let now = SystemTime::now();
        let heard = changes.iter().map(|change| self.bans.hear(now, change));
        let applied: Vec<_> = heard.collect();
        let is_news = |applied: &Applied| match applied {
            Applied::Done(done) => done.ban.as_ref().is_some_and(|ban| !ban.is_over(now)),
            Applied::Known | Applied::Full => false,
        };
        if applied.iter().any(is_news) {
            self.end_banned(now);
        }
        applied
    }

    fn bans(&self) -> Vec<Change> {
        self.bans.changes(SystemTime::now())
    }
}

fn is_banned(session: &dyn LoggedIn, subject: &Subject) -> bool {
    match subject {
        Subject::User(user) => session.user() == Some(&**user),
        Subject::Address(network) => network.contains(&session.address().to_canonical()),
        Subject::Device(id) => session.device_id() == Some(&**id),
    }
}

/// All sessions are one user's; but logins may have brought other tags, by which the hook may say
/// other groups: so it is asked about each of them.
async fn refresh_groups(sessions: Vec<Arc<dyn LoggedIn>>) {
    let sessions = sessions.into_iter();
    let sessions: Vec<_> = sessions.map(|session| Arc::downgrade(&session)).collect();
    // Held no longer than the hook is asked about it: a session that ends gives its place back.
    for session in sessions {
        if let Some(session) = session.upgrade() {
            session.refresh_groups().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{
        control::Ban,
        hub::{Item, Mailbox, MailboxConfig},
        node::{RecheckPlace, Settings},
        presence::Device,
    };

    /// A session that counts how often it is looked at, and ended.
    struct Counting {
        id: Box<str>,
        user: String,
        looked: Arc<AtomicUsize>,
        ended: AtomicUsize,
    }

    impl LoggedIn for Counting {
        fn id(&self) -> &str {
            &self.id
        }

        fn user(&self) -> Option<&str> {
            self.looked.fetch_add(1, Relaxed);
            Some(&self.user)
        }

        fn device(&self) -> Option<&Device> {
            None
        }

        fn device_id(&self) -> Option<&str> {
            None
        }

        fn address(&self) -> IpAddr {
            Ipv4Addr::LOCALHOST.into()
        }

        fn is_in_presence(&self) -> bool {
            false
        }

        fn settings(&self) -> &Settings {
            unreachable!("nobody asks")
        }

        fn end(&self, _: Problem) {
            self.ended.fetch_add(1, Relaxed);
        }

        fn recheck(self: Arc<Self>, _: RecheckPlace) -> BoxFuture<'static, ()> {
            unreachable!("nobody asks")
        }

        fn refresh_groups(self: Arc<Self>) -> BoxFuture<'static, ()> {
            unreachable!("nobody asks")
        }
    }

    /// A node that was away hears of thousands, while others wait.
    #[test]
    fn sessions_are_held_against_many_bans_at_once() {
        const MANY: usize = 1_000;
        let registry = Registry::new(MANY);
        let looked = Arc::<AtomicUsize>::default();
        let sessions: Vec<_> = (0..MANY)
            .map(|number| {
                let guard = registry
                    .enter(Mailbox::new(MailboxConfig::default()))
                    .unwrap();
                assert!(guard.let_in("s"));
                let session = Arc::new(Counting {
                    id: "s".into(),
                    user: number.to_string(),
                    looked: Arc::clone(&looked),
                    ended: AtomicUsize::new(0),
                });
                guard.logged_in(&session);
                (guard, session)
            })
            .collect();
        let now = SystemTime::now();
        // Half of them are of users who are here; one is over.
        let over = Ban {
            until: Some(now - Duration::from_secs(1)),
            reason: Box::default(),
        };
        let lasting = Ban {
            until: None,
            ..over.clone()
        };
        let changes: Vec<_> = (0..MANY)
            .map(|number| {
                let ban = if number == 0 { &over } else { &lasting };
                Change {
                    subject: Subject::user(&(number * 2).to_string()).unwrap(),
                    stamp: Some(1),
                    ban: Some(ban.clone()),
                }
            })
            .collect();
        let applied = registry.hear_of_bans(&changes);
        let is_done = |applied: &Applied| matches!(applied, Applied::Done(_));
        assert_eq!(applied.len(), MANY);
        assert!(applied.iter().all(is_done));
        assert_eq!(looked.load(Relaxed), MANY);
        for (number, (_, session)) in sessions.iter().enumerate() {
            let is_banned = number > 0 && number.is_multiple_of(2);
            let ended = session.ended.load(Relaxed);
            assert_eq!(ended, usize::from(is_banned), "{number}");
        }
        // Nothing new: nobody is looked at.
        registry.hear_of_bans(&changes);
        assert_eq!(looked.load(Relaxed), MANY);
    }

    /// Of two logins of a user at the same time, one finds the other before that is done.
    #[test]
    fn a_session_that_is_about_to_be_is_replaced() {
        let registry = Registry::new(10);
        let mailbox = Mailbox::new(MailboxConfig::default());
        let guard = registry.enter(Arc::clone(&mailbox)).unwrap();
        let (id, of_nobody) = (guard.new_session_id(), guard.new_session_id());
        assert_eq!(registry.replace(&id), 0, "it has not logged in");
        assert!(guard.let_in(&id));
        assert_eq!(registry.replace(&of_nobody), 0);
        let take = || mailbox.poll_take(&Context::from_waker(Waker::noop()));
        assert!(take().is_pending());
        assert_eq!(registry.replace(&id), 1);
        let taken = take();
        let Poll::Ready(Item::Problem(problem)) = taken else {
            panic!("{taken:?}");
        };
        assert_eq!(problem, Problem::Replaced);
    }

    /// It may do much at once, and is not gone for that.
    #[tokio::test(start_paused = true)]
    async fn a_session_whose_connection_gives_no_answer_is_here() {
        let registry = Registry::new(10);
        let mailbox = Mailbox::new(MailboxConfig::default());
        let guard = registry.enter(mailbox).unwrap();
        let (id, of_nobody) = (guard.new_session_id(), guard.new_session_id());
        assert!(guard.let_in(&id));
        let session = Arc::new(Counting {
            id: id.clone(),
            user: "alice".to_owned(),
            looked: Arc::default(),
            ended: AtomicUsize::new(0),
        });
        guard.logged_in(&session);
        for nobody in ["s", &*of_nobody] {
            assert_eq!(registry.details(nobody).await, Ok(None), "{nobody}");
        }
        assert_eq!(registry.details(&id).await, Err(NoAnswer));
        // Unless it ends while it is asked.
        let ends = async move { drop((session, guard)) };
        let (details, ()) = tokio::join!(registry.details(&id), ends);
        assert_eq!(details, Ok(None));
    }

    /// `stentor ctl session ID`, for example.
    #[test]
    fn an_id_does_not_look_like_an_option() {
        let registry = Registry::new(1_000);
        let enter = || registry.enter(Mailbox::new(MailboxConfig::default()));
        for guard in std::iter::repeat_with(enter)
            .map_while(|guard| guard)
            .take(500)
        {
            let id = guard.new_session_id();
            assert!(!id.starts_with('-'), "{id}");
            assert_eq!(number(&id), Some(guard.number()));
        }
    }
}
