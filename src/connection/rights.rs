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
    /// A renewal has put new credentials in place, and asks about subscriptions before its RECEIPT.
    is_renewing: bool,
    /// A recheck has left a refusal to that renewal.
    is_put_off: bool,
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

    /// The login was renewed by others. Their renewal goes on with the subscriptions, until
    /// [`Rights::renewed`].
    pub(super) fn renew(&self, login: Login) {
        self.noted.lock().is_renewing = true;
        *self.login.lock() = Arc::new(Proof(login));
    }

    /// Whether the credentials of the login are still these.
    pub(super) fn is_proof(&self, proof: &Arc<Proof>) -> bool {
        Arc::ptr_eq(&self.login.lock(), proof)
    }

    /// A recheck was refused a subscription: true if that is to be found out by a renewal, which ends
    /// that subscription alone. A new recheck is due behind it.
    pub(super) fn put_off(&self) -> bool {
        let mut noted = self.noted.lock();
        noted.is_put_off |= noted.is_renewing;
        noted.is_renewing
    }

    /// A renewal has its RECEIPT, and the subscriptions that it took are forgotten. Returns true if a
    /// recheck is due. None waits for the questions that are left: they may take minutes.
    pub(super) fn renewed(&self) -> bool {
        let mut noted = self.noted.lock();
        noted.is_renewing = false;
        std::mem::take(&mut noted.is_put_off)
    }

    /// The right of each subscription, for a recheck that begins.
    pub(super) fn recheck(&self) -> Subscriptions {
        let mut noted = self.noted.lock();
        noted.rechecks = noted.rechecks.wrapping_add(1);
        noted.subscriptions.clone()
    }

    /// How many subscriptions a recheck asks about.
    pub(super) fn count(&self) -> usize {
        self.noted.lock().subscriptions.len()
    }

    /// A recheck has no time for this subscription and those behind it: the next one begins with it.
    pub(super) fn go_on_with(&self, subscription: SubscriptionId) {
        let subscriptions = &mut self.noted.lock().subscriptions;
        let at = subscriptions.iter().position(|(id, _)| *id == subscription);
        if let Some(at) = at {
            subscriptions.rotate_left(at);
        }
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

    /// Whether the subscription is there, and needs this right.
    pub(super) fn is_noted(&self, subscription: SubscriptionId, right: &Arc<Right>) -> bool {
        let noted = self.noted.lock();
        let mut all = noted.subscriptions.iter();
        all.any(|(id, needed)| *id == subscription && Arc::ptr_eq(needed, right))
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
