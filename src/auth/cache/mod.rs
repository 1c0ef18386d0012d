//! Remembers permissions, and lets one call in flight serve all equal ones.

mod flights;
mod permitted;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{self, BoxFuture, FutureExt};

use self::{flights::Flights, permitted::Permitted};
use super::{Access, Admission, Authenticator, Login, Refusal, User};

/// At least this far apart are two sweeps.
const SWEEP: Duration = Duration::from_secs(1);

/// Stands before another authenticator. What [`Authenticator::allow`] permits is remembered for
/// a while, so that a page that is loaded again costs the hook nothing; while a question is
/// under way, equal ones wait for its answer. Refusals are not remembered (whoever is granted
/// something need not wait), and logins, with the groups that go with them, are always asked for.
pub struct CachedAuthenticator {
    inner: Arc<dyn Authenticator>,
    /// `None`: nothing is remembered or shared.
    cache: Option<Cache>,
}

struct Cache {
    permitted: Permitted,
    flights: Flights,
    /// How often something was taken back: an answer to a question of before is not remembered, nor
    /// shared with one of after.
    taken_back: AtomicU64,
}

impl CachedAuthenticator {
    /// Remembers up to `size` permissions for `ttl` each. With a `ttl` of zero every question
    /// goes through to `inner`.
    pub fn new(inner: Arc<dyn Authenticator>, ttl: Duration, size: u64) -> Self {
        let cache = (!ttl.is_zero()).then(|| Cache {
            permitted: Permitted::new(ttl, size),
            flights: Flights::default(),
            taken_back: AtomicU64::new(0),
        });
        CachedAuthenticator { inner, cache }
    }

    /// Frees what is no longer remembered, for as long as there is a cache: when all users have
    /// come, nobody asks.
    pub async fn sweep(authenticator: Weak<Self>) {
        loop {
            let pause = match authenticator.upgrade().as_deref() {
                Some(Self {
                    cache: Some(cache), ..
                }) => {
                    cache.permitted.sweep();
                    cache.permitted.ttl().checked_div(4).unwrap_or(SWEEP)
                }
                _ => return,
            };
            tokio::time::sleep(pause.max(SWEEP)).await;
        }
    }
}

impl Authenticator for CachedAuthenticator {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        self.inner.user(login)
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        self.inner.log_in(login)
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let Some(cache) = &self.cache else {
            return self.inner.allow(user, access);
        };
        let question = cache.permitted.question(user, access);
        if cache.permitted.knows(question) {
            return future::ready(Ok(())).boxed();
        }
        // If the one who asks goes away, one of those who wait asks in its place.
        let asking = async move {
            if cache.permitted.knows(question) {
                return Ok(());
            }
            let before = cache.taken_back();
            self.inner.allow(user, access).await?;
            cache.remember(question, user, before);
            Ok(())
        };
        cache
            .flights
            .share((question, cache.taken_back()), asking)
            .boxed()
    }

    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let Some(cache) = &self.cache else {
            return self.inner.allow(user, access);
        };
        async move {
            let question = cache.permitted.question(user, access);
            let before = cache.taken_back();
            let answer = self.inner.allow(user, access).await;
            match &answer {
                Ok(()) => cache.remember(question, user, before),
                // A hook that has no answer has taken nothing back.
                Err(Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy) => {}
                Err(Refusal::Denied(_)) => {
                    cache.take_back();
                    cache.permitted.forget(question);
                }
            }
            answer
        }
        .boxed()
    }

    fn forget<'a>(&'a self, user: &'a str) -> BoxFuture<'a, usize> {
        let forgotten = self.cache.as_ref().map_or(0, |cache| {
            cache.take_back();
            cache.permitted.forget_user(user)
        });
        future::ready(forgotten).boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        self.inner.groups(user)
    }

    fn readiness(&self) -> Result<(), Box<str>> {
        self.inner.readiness()
    }
}

impl Cache {
    fn taken_back(&self) -> u64 {
        self.taken_back.load(Ordering::Acquire)
    }

    /// Before something is forgotten: otherwise an answer on its way could be remembered after.
    fn take_back(&self) {
        self.taken_back.fetch_add(1, Ordering::AcqRel);
    }

    /// Remembers a permission, unless something was taken back since `before`.
    fn remember(&self, question: u128, user: &User, before: u64) {
        self.permitted
            .remember(question, user, || self.taken_back() == before);
    }
}
