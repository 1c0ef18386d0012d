//! What a session keeps to ask the hook again, where `auth.recheck` is on: the credentials of its
//! login, and what its subscriptions may read.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use stomp_session::SubscriptionId;
use zeroize::Zeroize as _;

use crate::{auth::Login, broker::Consume};

/// What a session may do, and proved.
pub(super) struct Rights {
    login: Login,
    subscriptions: Mutex<Subscriptions>,
}

pub(super) type Subscriptions = Vec<(SubscriptionId, Arc<Right>)>;

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

    /// The credentials of the login.
    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// What each subscription took.
    pub(super) fn subscriptions(&self) -> Subscriptions {
        self.subscriptions.lock().clone()
    }

    /// A subscription took this.
    pub(super) fn note(&self, subscription: SubscriptionId, right: Right) {
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.reserve_exact(1);
        subscriptions.push((subscription, Arc::new(right)));
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
