//! The application's hook, simulated: slow, faulty, and of one user's company it wants nothing. A login
//! by a token counts for a while, and rights are taken away and given back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use stentor::auth::{Access, Admission, Authenticator, Login, Permission, Refusal, User};
use tokio::time::{Instant, sleep};

use crate::{
    entropy::{Draws, hash},
    told::Told,
    trace::Trace,
    world::{KEYS, Plan},
};

/// The user that is never let in.
pub(crate) const STRANGER: &str = "stranger";
/// The key that nobody may read or write.
pub(crate) const FORBIDDEN: &str = "forbidden";

/// Each user's passcode: a login by it does not end by itself.
pub(crate) const PASSWORD: &str = "secret";
/// The same, but the login ends by itself.
pub(crate) const TOKEN: &str = "token";
/// Nobody's.
pub(crate) const WRONG: &str = "wrong";

/// A login by a token counts for so long at least.
pub(crate) const SHORTEST: Duration = Duration::from_secs(2);

/// Something that a user may do, unless it was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    LogIn,
    /// To read this key of the exchange `feed`.
    Read(&'static str),
}

/// A right was taken away.
#[derive(Clone, Copy)]
struct Taken {
    since: Instant,
    /// When it was given back.
    until: Option<Instant>,
}

pub(crate) struct Hook {
    seed: u64,
    trace: Arc<Trace>,
    mood: Mutex<Mood>,
    /// How long a login by a token counts at most, in milliseconds.
    longest: u64,
    /// When users lost rights, the last time each.
    taken: Mutex<BTreeMap<String, BTreeMap<Right, Taken>>>,
    /// Whose right to enter the virtual host is asked about: the last question of a login.
    pub(crate) entering: Told<Entering>,
}

/// The last one who is about to be logged in, and how many were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entering {
    pub(crate) user: String,
    pub(crate) count: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mood {
    /// The longest time until an answer, in milliseconds.
    pub(crate) slowness: u64,
    /// Questions without an answer, in percent.
    pub(crate) faults: u64,
}

impl Hook {
    pub(crate) fn new(plan: &Plan, trace: &Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            seed: plan.seed,
            trace: Arc::clone(trace),
            mood: Mutex::default(),
            // Such logins are over before the world looks whether all is there.
            longest: (plan.think * 4).clamp(4_000, 70_000),
            taken: Mutex::default(),
            entering: Told::default(),
        })
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    async fn ask(&self, question: String, is_denied: bool) -> Result<(), Refusal> {
        let mood = *self.mood.lock();
        let parts = [self.seed, hash(&question), self.trace.now()];
        let mut draws = Draws::of(&parts);
        let fails = draws.percent(mood.faults);
        // Most answers are remembered.
        if mood.slowness > 0 || draws.percent(30) {
            sleep(draws.millis(1, 10 + mood.slowness)).await;
        } else {
            sleep(Duration::ZERO).await;
        }
        if fails {
            return Err(Refusal::Faulty("simulated".into()));
        }
        if is_denied {
            Err(Refusal::Denied(None))
        } else {
            Ok(())
        }
    }

    /// How long a login by these credentials counts.
    fn lifetime(&self, login: &Login) -> Option<Duration> {
        let is_token = login.password.as_deref() == Some(TOKEN);
        is_token.then(|| {
            let parts = [self.seed, hash(&login.user), self.trace.now(), 0x11fe];
            let shortest = u64::try_from(SHORTEST.as_millis()).unwrap();
            Draws::of(&parts).millis(shortest, self.longest)
        })
    }
}

/// Rights that come and go. What the hook knows when it is asked is its answer, however late that is.
impl Hook {
    pub(crate) fn take(&self, user: &str, right: Right) {
        let taken = Taken {
            since: Instant::now(),
            until: None,
        };
        let mut all = self.taken.lock();
        let of_user = all.entry(user.to_owned()).or_default();
        of_user.insert(right, taken);
    }

    pub(crate) fn give_back(&self, user: &str, right: Right) {
        let mut all = self.taken.lock();
        let of_user = all.get_mut(user);
        if let Some(taken) = of_user.and_then(|rights| rights.get_mut(&right)) {
            taken.until = Some(Instant::now());
        }
    }

    /// Whether the user has been without the right ever since, and from before that on: whoever asked
    /// meanwhile was refused.
    pub(crate) fn lacks(&self, user: &str, right: Right, since: Instant) -> bool {
        let taken = self.last_taken(user, right);
        taken.is_some_and(|taken| taken.until.is_none() && taken.since < since)
    }

    /// Whether the user was without the right at any time since then.
    pub(crate) fn lacked(&self, user: &str, right: Right, since: Instant) -> bool {
        let taken = self.last_taken(user, right);
        taken.is_some_and(|taken| taken.until.is_none_or(|until| until >= since))
    }

    /// Whether the user has the right now.
    fn may(&self, user: &str, right: Right) -> bool {
        let taken = self.last_taken(user, right);
        taken.is_none_or(|taken| taken.until.is_some())
    }

    fn last_taken(&self, user: &str, right: Right) -> Option<Taken> {
        let all = self.taken.lock();
        all.get(user)?.get(&right).copied()
    }
}

impl Authenticator for Hook {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        async move {
            let is_denied = *login.user == *STRANGER
                || login.password.as_deref() == Some(WRONG)
                || !self.may(&login.user, Right::LogIn);
            self.ask(format!("user {}", login.user), is_denied).await?;
            Ok(User::new(&*login.user, ""))
        }
        .boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        async move {
            let admission = Admission::from(self.user(login).await?);
            Ok(Admission {
                lifetime: self.lifetime(login),
                ..admission
            })
        }
        .boxed()
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        if matches!(access, Access::Vhost { .. }) {
            self.entering.set(Entering {
                user: user.name.to_string(),
                count: self.entering.get().count + 1,
            });
        }
        self.allow_anew(user, access)
    }

    /// Asked about those who are in already.
    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let question = format!("{} {access:?}", user.name);
        let is_taken = needed(access).is_some_and(|right| !self.may(&user.name, right));
        let is_denied = is_taken || question.contains(FORBIDDEN);
        self.ask(question, is_denied).boxed()
    }

    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        ready(Ok(vec![Arc::from("everybody")])).boxed()
    }
}

/// The right that it needs, if that is one that may be taken away.
fn needed(access: &Access) -> Option<Right> {
    match access {
        Access::Topic {
            exchange,
            permission: Permission::Read,
            routing_key,
            ..
        } if **exchange == *"feed" => {
            let key = KEYS.into_iter().find(|key| **key == **routing_key);
            key.map(Right::Read)
        }
        _ => None,
    }
}
