//! Logins that failed: by address and user they are refused after some; by user alone never, but
//! slowed where the user has not been logged in from that address before.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use stomp_session::Problem;
use tokio::time::Instant;

use super::{
    ClientAddress, Limits,
    bucket::{Bucket, Rate, Table},
    seconds,
};
use crate::{
    deadline::third,
    telemetry::{self, Bound},
};

/// So many times the failures of one address make a user's logins from unknown addresses slow.
const USER_TIMES: u32 = 5;

/// The failed logins of a node. Names and addresses are not kept, only numbers that nobody outside
/// can find.
#[derive(Debug)]
pub struct FailedLogins {
    /// The moment from which all buckets count.
    since: Instant,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    /// By user and address.
    tries: Table<u64, Tries>,
    /// By user.
    users: Table<u64, Bucket>,
    known: Known,
}

#[derive(Debug)]
struct Bounds {
    /// Of one user from one address, and of one user from all addresses; `None`: no bound.
    rates: Option<(Rate, Rate)>,
    delay: Duration,
}

impl Bounds {
    fn new(limits: &Limits, since: Instant) -> Self {
        let (burst, period) = (limits.max_failed_logins, limits.failed_login_recovery);
        let user_period = period.checked_div(USER_TIMES).unwrap_or(period);
        let user_burst = burst.saturating_mul(USER_TIMES);
        let rate = Rate::one_in(period, burst, since);
        Self {
            rates: rate.zip(Rate::one_in(user_period, user_burst, since)),
            // Slowed logins shall be complete in time all the same.
            delay: limits.failed_login_delay.min(third(limits.login_timeout)),
        }
    }
}

#[derive(Debug, Default)]
struct Tries {
    failed: Bucket,
    /// Logins that are being tried, each of which may fail.
    under_way: u32,
}

/// Where users were logged in: the newest of them, up to a bound.
#[derive(Debug, Default)]
struct Known {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Known {
    /// Half of them.
    const HALF: usize = 100_000;

    fn note(&mut self, key: u64) {
        if self.young.len() >= Self::HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }

    fn contains(&self, key: u64) -> bool {
        self.young.contains(&key) || self.old.contains(&key)
    }
}

/// A login that is being tried. Dropped without a word, it did not fail: the hook had no answer.
#[derive(Debug)]
pub struct Attempt {
    logins: Arc<FailedLogins>,
    keys: Option<Keys>,
    delay: Duration,
    is_known: bool,
}

#[derive(Clone, Copy, Debug)]
struct Keys {
    user: u64,
    both: u64,
    /// Whether failures are counted by the address.
    is_counted: bool,
}

impl FailedLogins {
    /// None has failed yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        let since = Instant::now();
        Arc::new(Self {
            since,
            hasher: RandomState::new(),
            state: Mutex::new(State {
                bounds: Bounds::new(limits, since),
                tries: Table::new(),
                users: Table::new(),
                known: Known::default(),
            }),
        })
    }

    /// These limits count from now on, for the failures of before, too.
    pub fn set_limits(&self, limits: &Limits) {
        self.state.lock().bounds = Bounds::new(limits, self.since);
    }

    /// A login of this user, as the client names it, is to be tried. A client that names nobody is
    /// not counted: all of an office may carry a cookie that has ended.
    ///
    /// # Errors
    /// Too many of that user failed from that address; or so many are being tried that they would be
    /// too many, should all of them fail.
    pub fn begin(self: &Arc<Self>, client: ClientAddress, user: &str) -> Result<Attempt, Problem> {
        let mut attempt = Attempt {
            logins: Arc::clone(self),
            keys: None,
            delay: Duration::ZERO,
            is_known: false,
        };
        if user.is_empty() {
            return Ok(attempt);
        }
        let mut keys = self.keys(client, user);
        let state = &mut *self.state.lock();
        let Some((rate, user_rate)) = &state.bounds.rates else {
            return Ok(attempt);
        };
        let is_slow = |bucket: &Bucket| user_rate.look(bucket, 1).is_err();
        attempt.is_known = state.known.contains(keys.both);
        if state.users.get(&keys.user).is_some_and(is_slow) && !attempt.is_known {
            attempt.delay = state.bounds.delay;
        }
        if !client.is_shared
            && let Some(tries) = state.tries.entry(keys.both, |tries| {
                tries.under_way == 0 && rate.is_full(&tries.failed)
            })
        {
            let count = tries.under_way.saturating_add(1);
            let refuse = |problem| {
                telemetry::limit_exceeded(Bound::FailedLogins, &client.ip());
                problem
            };
            rate.look(&tries.failed, 1).map_err(|wait| {
                refuse(Problem::TooManyFailedLogins {
                    user: user.into(),
                    seconds: seconds(wait),
                })
            })?;
            // Those that are being tried may all be right, and have their answer soon.
            rate.look(&tries.failed, count)
                .map_err(|_| refuse(Problem::LoginBusy))?;
            tries.under_way = count;
            keys.is_counted = true;
        }
        attempt.keys = Some(keys);
        Ok(attempt)
    }

    fn keys(&self, client: ClientAddress, user: &str) -> Keys {
        Keys {
            user: self.hasher.hash_one(user),
            both: self.hasher.hash_one((client.key(), user)),
            is_counted: false,
        }
    }
}

impl Attempt {
    /// How long to wait before the hook is asked.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// True if the user was logged in from this address before.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// The hook refused the user.
    pub fn failed(self) {
        let logins = &self.logins;
        let state = &mut *logins.state.lock();
        let (Some(keys), Some((rate, user_rate))) = (self.keys, &state.bounds.rates) else {
            return;
        };
        if keys.is_counted
            && let Some(tries) = state.tries.get_mut(&keys.both)
        {
            let _ = rate.take(&tries.failed, 1);
        }
        if let Some(bucket) = state
            .users
            .entry(keys.user, |bucket| user_rate.is_full(bucket))
        {
            let _ = user_rate.take(bucket, 1);
        }
    }

    /// The hook let the user in: from now on this address is one of its own.
    pub fn succeeded(self) {
        let Some(keys) = self.keys else {
            return;
        };
        let state = &mut *self.logins.state.lock();
        state.known.note(keys.both);
        if let Some(tries) = state.tries.get_mut(&keys.both) {
            tries.failed = Bucket::default();
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(Keys {
            both,
            is_counted: true,
            ..
        }) = self.keys
        else {
            return;
        };
        let state = &mut *self.logins.state.lock();
        if let Some(tries) = state.tries.get_mut(&both) {
            tries.under_way = tries.under_way.saturating_sub(1);
            let rates = state.bounds.rates.as_ref();
            if tries.under_way == 0 && rates.is_none_or(|(rate, _)| rate.is_full(&tries.failed)) {
                state.tries.remove(&both);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::time::advance;

    use super::*;

    fn logins(burst: u32) -> Arc<FailedLogins> {
        FailedLogins::new(&Limits {
            max_failed_logins: burst,
            ..Limits::default()
        })
    }

    fn from(address: &str) -> ClientAddress {
        ClientAddress::direct(SocketAddr::new(address.parse().unwrap(), 4711))
    }

    fn fail(logins: &Arc<FailedLogins>, address: &str, user: &str) {
        logins.begin(from(address), user).unwrap().failed();
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_refused_for_the_user_whose_logins_failed_there() {
        let logins = logins(3);
        for _ in 0..3 {
            fail(&logins, "192.0.2.1", "alice");
        }
        let refused = logins.begin(from("192.0.2.1"), "alice").unwrap_err();
        let Problem::TooManyFailedLogins { seconds, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(seconds, 30);
        // The user from elsewhere, and others from there, are not.
        assert!(logins.begin(from("192.0.2.2"), "alice").is_ok());
        assert!(logins.begin(from("192.0.2.1"), "bob").is_ok());
        advance(Duration::from_secs(30)).await;
        fail(&logins, "192.0.2.1", "alice");
        assert!(logins.begin(from("192.0.2.1"), "alice").is_err());
    }

    /// Otherwise a client could try thousands before the first answer.
    #[tokio::test(start_paused = true)]
    async fn logins_that_are_being_tried_count_as_if_they_failed() {
        let logins = logins(3);
        let begin = || logins.begin(from("192.0.2.1"), "alice");
        let tried: Vec<_> = (0..3).map(|_| begin().unwrap()).collect();
        assert_eq!(begin().unwrap_err(), Problem::LoginBusy);
        // The hook was away: none failed.
        drop(tried);
        assert_eq!(logins.state.lock().tries.len(), 0);
        begin().unwrap().failed();
        begin().unwrap().succeeded();
        assert_eq!(logins.state.lock().tries.len(), 0, "a success ends it");
    }

    /// A backend with many connections of one account, for example.
    #[tokio::test(start_paused = true)]
    async fn right_logins_at_once_are_no_failed_ones() {
        let logins = logins(3);
        let exceeded = || telemetry::times_exceeded(Bound::FailedLogins);
        let before = exceeded();
        let begin = || logins.begin(from("192.0.2.1"), "alice");
        for _ in 0..2 {
            let tried: Vec<_> = (0..3).map(|_| begin().unwrap()).collect();
            assert_eq!(begin().unwrap_err(), Problem::LoginBusy);
            tried.into_iter().for_each(Attempt::succeeded);
        }
        // Some failed, and others may.
        begin().unwrap().failed();
        let tried = [begin().unwrap(), begin().unwrap()];
        assert_eq!(begin().unwrap_err(), Problem::LoginBusy);
        tried.into_iter().for_each(Attempt::failed);
        let refused = begin().unwrap_err();
        assert!(
            matches!(refused, Problem::TooManyFailedLogins { .. }),
            "{refused}"
        );
        // Operators see each of them; other tests count meanwhile.
        assert!(exceeded() >= before + 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_is_never_refused_but_slowed_where_it_was_not_before() {
        let logins = logins(3);
        logins
            .begin(from("203.0.113.1"), "alice")
            .unwrap()
            .succeeded();
        for n in 0..100 {
            fail(&logins, &format!("192.0.2.{n}"), "alice");
        }
        let delay = |address: &str, user: &str| logins.begin(from(address), user).unwrap().delay();
        assert_eq!(delay("198.51.100.1", "alice"), Duration::from_secs(3));
        assert_eq!(delay("203.0.113.1", "alice"), Duration::ZERO);
        assert_eq!(delay("198.51.100.1", "bob"), Duration::ZERO);
        advance(Duration::from_secs(30)).await;
        assert_eq!(delay("198.51.100.1", "alice"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_of_many_is_slowed_and_not_refused() {
        let logins = logins(3);
        for _ in 0..100 {
            fail(&logins, "10.0.0.1", "alice");
        }
        let attempt = logins.begin(from("10.0.0.1"), "alice").unwrap();
        assert_eq!(attempt.delay(), Duration::from_secs(3));
        // A client that names no user is not counted.
        for _ in 0..100 {
            fail(&logins, "192.0.2.1", "");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn known_addresses_have_a_bound() {
        let mut known = Known::default();
        for key in 0..5 * Known::HALF as u64 {
            known.note(key);
        }
        assert!(known.young.len() + known.old.len() <= 2 * Known::HALF);
        assert!(known.contains(5 * Known::HALF as u64 - 1) && !known.contains(0));
    }
}
