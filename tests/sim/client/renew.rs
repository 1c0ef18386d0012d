//! Logins that end by themselves, their renewal, and rights that are gone by then.

use std::time::Duration;

use stomp_grammar::Frame;
use tokio::time::Instant;

use super::{Due, Session, What};
use crate::hook::{PASSWORD, Right, SHORTEST, TOKEN, WRONG};

/// When a login ends by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// Not before.
    earliest: Instant,
    /// At the latest; `None`: perhaps not at all.
    latest: Option<Instant>,
}

impl Expiry {
    /// What the answer to a login or a renewal says of it, which was asked for then. The answer was
    /// written at some time since, and tells whole seconds, rounded down.
    pub(super) fn of(frame: &Frame, asked: Instant) -> Option<Self> {
        let seconds = frame.header("expires-in")?.parse().ok()?;
        let left = Duration::from_secs(seconds);
        Some(Self {
            earliest: asked + left,
            latest: Some(Instant::now() + left + Duration::from_secs(1)),
        })
    }
}

impl Session {
    /// It will renew its login while there is time, or forgets to.
    pub(super) fn plan_renewal(&mut self) {
        self.renews = None;
        let Some(expiry) = self.expiry else { return };
        if self.draws.percent(25) {
            return;
        }
        let now = Instant::now();
        let left = expiry.earliest.saturating_duration_since(now);
        // It does not try again and again at once.
        let left = u64::try_from(left.as_millis()).unwrap().max(1_000);
        let pause = self.draws.millis(left * 3 / 10, left * 19 / 20);
        self.renews = Some(now + pause);
    }

    /// The time has come for which it was planned.
    pub(super) fn renew_in_time(&mut self) {
        self.renews = None;
        if !self.is_over() && self.bad.is_none() {
            self.world.count();
            self.renew();
        }
    }

    /// Sends credentials: its own, wrong ones, or another user's.
    pub(super) fn renew(&mut self) {
        let other = self.draws.pick(&self.world.users).clone();
        let (login, token, is_right) = match self.draws.below(10) {
            0 => (String::new(), WRONG, false),
            1 => (format!("login:{other}\n"), TOKEN, other == self.user),
            2 | 3 => (String::new(), PASSWORD, true),
            _ => (String::new(), TOKEN, true),
        };
        let sent = Instant::now();
        let receipt = self.expect(What::Renewed {
            sent,
            token,
            is_right,
        });
        self.send(&format!(
            "SEND\ndestination:/auth/renew\n{login}token:{token}\n{receipt}\n\0"
        ));
    }

    /// The RECEIPT of a renewal.
    pub(super) fn hear_renewed(&mut self, frame: &Frame, sent: Instant, token: &str) {
        let now = Instant::now();
        // A session that has to go tells no time any more: the old end may have come, or the new one.
        let is_ending = token == TOKEN;
        let may_be_over = is_ending || self.may_expire() || sent + SHORTEST <= now;
        let going = may_be_over.then_some(Expiry {
            earliest: now,
            latest: is_ending.then_some(now),
        });
        self.expiry = Expiry::of(frame, sent).or(going);
        self.plan_renewal();
        // A hook that is at fault takes nothing away, and one that is slow has its say later.
        if self.world.is_troubled() {
            return;
        }
        let (hook, user) = (&self.world.hook, &self.user);
        for subscription in self.subscriptions.values_mut() {
            let right = subscription.right();
            let is_gone = right.is_some_and(|right| hook.lacks(user, right, sent));
            if is_gone && subscription.asked < sent && !subscription.is_ending {
                subscription.lost = Some(now);
            }
        }
    }

    /// A renewal was refused, and nothing has changed by it.
    pub(super) fn hear_refused(&mut self, frame: &Frame) {
        let receipt = frame.header("receipt-id").unwrap_or_default();
        let place = self.due.iter().position(|due| due.receipt == receipt);
        let due = place.and_then(|place| self.due.remove(place));
        let Some(Due {
            what: What::Renewed { sent, is_right, .. },
            ..
        }) = due
        else {
            return self.violate(format!("a refusal of {receipt:?}, which is no renewal"));
        };
        let has_reason = match frame.header("error-code") {
            Some("renewal-refused") => {
                !is_right || self.world.hook.lacked(&self.user, Right::LogIn, sent)
            }
            _ => self.world.is_troubled(),
        };
        if !has_reason {
            let body = String::from_utf8_lossy(&frame.body).into_owned();
            self.violate(format!("renewal {receipt} was refused for nothing: {body}"));
        }
        self.plan_renewal();
    }

    /// Whether the login may be over by now.
    pub(super) fn may_expire(&self) -> bool {
        let now = Instant::now();
        // It may count already, for a shorter time than before.
        let renewing = self.due.iter().filter_map(|due| match due.what {
            What::Renewed { sent, .. } => Some(sent + SHORTEST),
            _ => None,
        });
        let told = self.expiry.map(|expiry| expiry.earliest);
        told.into_iter().chain(renewing).any(|end| end <= now)
    }

    /// When the login is over at the latest. While a renewal has no answer, nobody can say.
    pub(super) fn expired(&self) -> Option<Instant> {
        let mut due = self.due.iter();
        if due.any(|due| matches!(due.what, What::Renewed { .. })) {
            return None;
        }
        self.expiry?.latest
    }

    /// Whether the user may have what comes on this subscription, as far as that is sure.
    pub(super) fn may_read(&self, name: u64) -> bool {
        let Some(subscription) = self.subscriptions.get(&name) else {
            return true;
        };
        let (hook, asked) = (&self.world.hook, subscription.asked);
        let right = subscription.right();
        let is_gone = right.is_some_and(|right| hook.lacks(&self.user, right, asked));
        !is_gone && subscription.lost.is_none()
    }

    /// Whether the user was without a right that explains an ERROR of that code.
    pub(super) fn lacked_right(&self, code: &str) -> bool {
        let lacked = |right| self.world.hook.lacked(&self.user, right, self.began);
        match code {
            "login-revoked" => lacked(Right::LogIn),
            _ => self.rights.iter().copied().any(lacked),
        }
    }
}
