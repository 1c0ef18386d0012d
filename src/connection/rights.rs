//! Asking the hook again about sessions that last.
//!
//! Where `auth.recheck` is on, a session keeps what it takes: the credentials of its login, and
//! what its subscriptions may read. A refusal ends the session, with an ERROR that says what is
//! refused; a hook that is at fault takes nothing from anybody.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use stomp_session::{Problem, SubscriptionId};
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroize as _;

use super::{
    context::{Context, Identity, Recheck, Services},
    permission::Permissions,
};
use crate::{
    auth::{Login, Refusal},
    broker::Consume,
    telemetry,
};

/// What a session may do, and proved.
pub(super) struct Rights {
    login: Login,
    subscriptions: Mutex<Subscriptions>,
}

type Subscriptions = Vec<(SubscriptionId, Arc<Right>)>;

/// What a subscription took.
pub(super) enum Right {
    /// To listen to an exchange by a pattern.
    Listen(Box<str>, Box<str>),
    /// To have a queue and a consumer of its own.
    Consume(Box<Consume>),
}

impl Rights {
    pub(super) fn new(login: Login) -> Self {
        Self {
            login,
            subscriptions: Mutex::default(),
        }
    }

    /// A subscription is over.
    pub(super) fn forget(&self, subscription: SubscriptionId) {
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.retain(|(id, _)| *id != subscription);
        subscriptions.shrink_to_fit();
    }
}

/// What was kept for so long is not left to whoever gets the memory next.
impl Drop for Rights {
    fn drop(&mut self) {
        self.login.password.zeroize();
        for (_, value) in &mut self.login.more {
            value.zeroize();
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights")
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// What the hook has permitted to a subscription; kept if it is asked again.
    pub(super) fn note_right(&self, subscription: SubscriptionId, right: impl FnOnce() -> Right) {
        if let Some(rights) = self.rights() {
            let mut subscriptions = rights.subscriptions.lock();
            subscriptions.reserve_exact(1);
            subscriptions.push((subscription, Arc::new(right())));
        }
    }
}

/// Asks the hook about every session that is logged in, each once in the interval, evenly; for as
/// long as the services are there.
pub async fn recheck_in_turn(services: Weak<Services>, recheck: Recheck) {
    let (turns, tick) = turns(recheck.interval);
    let mut ticks = interval(tick);
    // A hook that is slow is asked less often.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in (0..turns).cycle() {
        ticks.tick().await;
        let Some(services) = services.upgrade() else {
            return;
        };
        // A connection's number is random, and stays: so its turn comes once in the interval.
        let sessions = services.registry.sessions(|number| number % turns == turn);
        drop(services);
        recheck_some(sessions, recheck.at_a_time).await;
    }
}

/// How many turns there are in an interval, and what is between two.
fn turns(interval: Duration) -> (u64, Duration) {
    const MOST: u64 = 100;
    const SHORTEST: Duration = Duration::from_millis(100);
    let turns = interval.as_millis() / SHORTEST.as_millis();
    let turns = u64::try_from(turns).unwrap_or(MOST).clamp(1, MOST);
    (turns, interval.div_f64(turns as f64))
}

/// Asks the hook about these sessions, some at a time.
///
/// Who waits for an answer holds no session for longer than that: one that ends meanwhile gives its
/// place back, however slow the hook is.
pub(super) async fn recheck_some(sessions: Vec<Arc<Context>>, at_a_time: usize) {
    let sessions = sessions.into_iter().map(|session| Arc::downgrade(&session));
    let sessions: Vec<_> = sessions.collect();
    let asking = stream::iter(sessions).for_each_concurrent(at_a_time, async |session| {
        let Some(Err(problem)) = recheck(&session).await else {
            return;
        };
        if let Some(context) = session.upgrade() {
            telemetry::recheck_refused(&context.info(), &problem);
            context.guard.mailbox().fail(problem);
        }
    });
    asking.await;
}

/// Asks what was asked at the login, and about each subscription; what the client is told if it
/// has to go. `None`: it is gone.
async fn recheck(session: &Weak<Context>) -> Option<Result<(), Problem>> {
    let login = recheck_login(&*session.upgrade()?).await;
    let subscriptions = match login {
        Ok(subscriptions) => subscriptions,
        Err(problem) => return Some(Err(problem)),
    };
    for (_, right) in subscriptions {
        let context = session.upgrade()?;
        let permissions = Permissions::again(&context, context.identity()?);
        let answer = match &*right {
            Right::Listen(exchange, pattern) => permissions.listen(exchange, pattern).await,
            Right::Consume(consume) => permissions.consume(consume).await,
        };
        match answer {
            Ok(()) => {}
            Err(Problem::PermissionDenied { detail }) => {
                return Some(Err(Problem::PermissionWithdrawn { detail }));
            }
            Err(problem) => return Some(Err(problem)),
        }
    }
    Some(Ok(()))
}

/// Asks what was asked at the login; the subscriptions that are to be asked about next.
async fn recheck_login(context: &Context) -> Result<Subscriptions, Problem> {
    let (Some(identity), Some(rights)) = (context.identity(), context.rights()) else {
        return Ok(Vec::new());
    };
    match context.services.auth.user(&rights.login).await {
        Ok(user) if user == identity.user => {}
        Ok(_) => return Err(Problem::LoginChanged),
        // The hook's fault is in the log.
        Err(Refusal::Faulty(_)) => return Ok(Vec::new()),
        Err(refusal @ Refusal::Denied(_)) => {
            telemetry::permission_refused(&context.info(), "the gateway", &refusal.to_string());
            return Err(not_any_more(identity));
        }
    }
    let permissions = Permissions::again(context, identity);
    permissions
        .enter()
        .await
        .map_err(|_| not_any_more(identity))?;
    Ok(rights.subscriptions.lock().clone())
}

fn not_any_more(identity: &Identity) -> Problem {
    let detail = format!(
        "ACCESS_REFUSED - access to vhost '{}' refused for user '{}'",
        identity.vhost.name(),
        identity.user.name
    );
    Problem::Revoked {
        detail: detail.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_even_and_not_too_many() {
        for (interval, turns_expected, tick) in [
            (1_000, 10, 100),
            (1_050, 10, 105),
            (30_000, 100, 300),
            (3_600_000, 100, 36_000),
        ] {
            let (turns, every) = turns(Duration::from_millis(interval));
            assert_eq!(turns, turns_expected);
            assert_eq!(every, Duration::from_millis(tick));
        }
        assert_eq!(turns(Duration::MAX).0, 100);
    }
}
