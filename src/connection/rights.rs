//! The facts that a session keeps to ask the hook again, if `auth.recheck` is on: the credentials
//! of its login, and the rights of its subscriptions.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use stomp_session::SubscriptionId;
use zeroize::Zeroize as _;

use crate::{auth::Login, broker::Consume};

/// The rights of a session, with the credentials that proved them.
pub(super) struct Rights {
    login: Mutex<Arc<Proof>>,
    noted: Mutex<Noted>,
}

/// The rights that the session's subscriptions needed.
#[derive(Default)]
struct Noted {
    subscriptions: Subscriptions,
    /// How often they were asked about again.
    rechecks: u64,
}

/// The credentials of a login, which are cleared when nobody needs them any more.
#[derive(Debug)]
pub(super) struct Proof(Login);

impl Proof {
    pub(super) fn login(&self) -> &Login {
        &self.0
    }
}

pub(super) type Subscriptions = Vec<(SubscriptionId, Arc<Right>)>;

/// A right that a subscription needed.
pub(super) enum Right {
    /// Listening to an exchange by a pattern.
    Listen(Box<str>, Box<str>),
    /// A queue and a consumer of its own.
    Consume(Box<Consume>),
}

impl Rights {
    pub(super) fn new(login: Login) -> Self {
        Self {
            login: Mutex::new(Arc::new(Proof(login))),
            noted: Mutex::default(),
        }
    }

    /// The credentials of the login.
    pub(super) fn proof(&self) -> Arc<Proof> {
        Arc::clone(&self.login.lock())
    }

    /// The login was renewed by others.
    pub(super) fn renew(&self, login: Login) {
        *self.login.lock() = Arc::new(Proof(login));
    }

    /// The right of each subscription, for a recheck that begins.
    pub(super) fn recheck(&self) -> Subscriptions {
        let mut noted = self.noted.lock();
        noted.rechecks = noted.rechecks.wrapping_add(1);
        noted.subscriptions.clone()
    }

    /// How many rechecks have begun.
    pub(super) fn rechecks(&self) -> u64 {
        self.noted.lock().rechecks
    }

    /// A subscription took this. Returns true if a recheck has begun since there were so many: it
    /// knew nothing of this one.
    pub(super) fn note(
        &self,
        subscription: SubscriptionId,
        right: Arc<Right>,
        rechecks: u64,
    ) -> bool {
        let mut noted = self.noted.lock();
        noted.subscriptions.reserve_exact(1);
        noted.subscriptions.push((subscription, right));
        noted.rechecks != rechecks
    }

    /// A subscription is over.
    pub(super) fn forget(&self, subscription: SubscriptionId) {
        let subscriptions = &mut self.noted.lock().subscriptions;
        subscriptions.retain(|(id, _)| *id != subscription);
        subscriptions.shrink_to_fit();
    }
}

/// Clears the credentials, so that the next owner of the memory cannot read them.
impl Drop for Proof {
    fn drop(&mut self) {
        self.0.password.zeroize();
        for (_, value) in &mut self.0.more {
            value.zeroize();
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights")
            .field("login", &self.proof().login())
            .finish_non_exhaustive()
    }
}
