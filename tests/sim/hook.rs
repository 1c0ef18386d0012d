//! The application's hook, simulated: slow, faulty, and of one user's company it wants nothing.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use stentor::auth::{Access, Authenticator, Login, Refusal, User};
use tokio::time::sleep;

use crate::{
    entropy::{Draws, hash},
    told::Told,
    trace::Trace,
};

/// The user that is never let in.
pub(crate) const STRANGER: &str = "stranger";
/// The key that nobody may read or write.
pub(crate) const FORBIDDEN: &str = "forbidden";

pub(crate) struct Hook {
    seed: u64,
    trace: Arc<Trace>,
    mood: Mutex<Mood>,
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
    pub(crate) fn new(seed: u64, trace: &Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            seed,
            trace: Arc::clone(trace),
            mood: Mutex::default(),
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
}

impl Authenticator for Hook {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        async move {
            let is_denied = *login.user == *STRANGER;
            self.ask(format!("user {}", login.user), is_denied).await?;
            Ok(User::new(&*login.user, ""))
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
        let question = format!("{} {access:?}", user.name);
        let is_denied = question.contains(FORBIDDEN);
        self.ask(question, is_denied).boxed()
    }

    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        ready(Ok(vec![Arc::from("everybody")])).boxed()
    }
}
