//! Remembers permissions, and lets one call in flight serve all equal ones.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use moka::future::Cache;

use super::{Access, Authenticator, Login, Refusal, User};

/// At least this far apart are two sweeps.
const SWEEP: Duration = Duration::from_secs(1);

/// Stands before another authenticator. What [`Authenticator::allow`] permits is remembered for
/// a while, so that a page that is loaded again costs the hook nothing; while a question is
/// under way, equal ones wait for its answer. Refusals are not remembered (whoever is granted
/// something need not wait), and logins, with the groups that go with them, are always asked for.
pub struct CachedAuthenticator {
    inner: Arc<dyn Authenticator>,
    /// `None`: nothing is remembered or shared.
    permitted: Option<Cache<Key, ()>>,
    /// How often something was taken back: an answer to a question of before is not remembered.
    taken_back: AtomicU64,
}

/// A question in one piece, which takes less memory than its parts would: user, tags, and what
/// it wants. Each part ends with a byte that is in no UTF-8 text, so that no two questions have
/// one key.
type Key = Box<[u8]>;

/// The byte that is in no text.
const END: u8 = 0xff;

impl CachedAuthenticator {
    /// Remembers up to `size` permissions for `ttl` each. With a `ttl` of zero every question
    /// goes through to `inner`.
    pub fn new(inner: Arc<dyn Authenticator>, ttl: Duration, size: u64) -> Self {
        let permitted = (!ttl.is_zero()).then(|| {
            // More than 1,000 years would be a panic; `Config::check` allows a day.
            let ttl = ttl.min(Duration::from_secs(24 * 60 * 60));
            Cache::builder()
                .max_capacity(size)
                .time_to_live(ttl)
                .build()
        });
        CachedAuthenticator {
            inner,
            permitted,
            taken_back: AtomicU64::new(0),
        }
    }

    /// Frees what is no longer remembered, for as long as there is a cache. By itself it does so
    /// only when it is asked; and when all users have come, nobody asks.
    pub async fn sweep(cache: Weak<Self>) {
        loop {
            let Some(permitted) = cache.upgrade().and_then(|cache| cache.permitted.clone()) else {
                return;
            };
            permitted.run_pending_tasks().await;
            let ttl = permitted.policy().time_to_live();
            drop(permitted);
            tokio::time::sleep(ttl.unwrap_or(SWEEP).max(SWEEP)).await;
        }
    }
}

impl Authenticator for CachedAuthenticator {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        self.inner.user(login)
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let Some(permitted) = &self.permitted else {
            return self.inner.allow(user, access);
        };
        async move {
            let (key, before) = (key(user, access), self.taken_back.load(Ordering::Acquire));
            // If the one who asks goes away, one of those who wait asks in its place.
            permitted
                .try_get_with_by_ref(&key, self.inner.allow(user, access))
                .await
                .map_err(Arc::unwrap_or_clone)?;
            if self.taken_back.load(Ordering::Acquire) != before {
                permitted.invalidate(&key).await;
            }
            Ok(())
        }
        .boxed()
    }

    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let Some(permitted) = &self.permitted else {
            return self.inner.allow(user, access);
        };
        async move {
            let (key, before) = (key(user, access), self.taken_back.load(Ordering::Acquire));
            let answer = self.inner.allow(user, access).await;
            match &answer {
                Ok(()) if self.taken_back.load(Ordering::Acquire) == before => {
                    permitted.insert(key, ()).await;
                }
                // A hook that is at fault has taken nothing back.
                Ok(()) | Err(Refusal::Faulty(_)) => {}
                Err(Refusal::Denied(_)) => {
                    self.taken_back.fetch_add(1, Ordering::AcqRel);
                    permitted.invalidate(&key).await;
                }
            }
            answer
        }
        .boxed()
    }

    fn forget<'a>(&'a self, user: &'a str) -> BoxFuture<'a, usize> {
        async move {
            let Some(permitted) = &self.permitted else {
                return 0;
            };
            self.taken_back.fetch_add(1, Ordering::AcqRel);
            let is_its_own = |key: &Key| {
                let rest = key.strip_prefix(user.as_bytes());
                rest.is_some_and(|rest| rest.first() == Some(&END))
            };
            let keys: Vec<_> = permitted
                .iter()
                .map(|(key, ())| key)
                .filter(|key| is_its_own(key))
                .collect();
            for key in &keys {
                permitted.invalidate(&**key).await;
            }
            keys.len()
        }
        .boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        self.inner.groups(user)
    }
}

fn key(user: &User, access: &Access) -> Key {
    let mut key = Vec::with_capacity(128);
    let mut part = |text: &str| {
        key.extend_from_slice(text.as_bytes());
        key.push(END);
    };
    part(&user.name);
    part(&user.tags);
    match access {
        Access::Vhost { vhost, ip } => {
            part("v");
            part(vhost);
            part(&ip.to_canonical().to_string());
        }
        Access::Resource {
            vhost,
            kind,
            name,
            permission,
        } => {
            part("r");
            part(vhost);
            part(kind.name());
            part(name);
            part(permission.name());
        }
        Access::Topic {
            vhost,
            exchange,
            permission,
            routing_key,
        } => {
            part("t");
            part(vhost);
            part(exchange);
            part(permission.name());
            part(routing_key);
        }
    }
    key.into()
}
