//! The login's renewal: SEND to `/auth/renew`, and what becomes of it; and subscriptions that are
//! taken from their client.

use std::time::Instant;

use super::{Phase, Session};
use crate::{OperationId, Problem, Renewed, SubscriptionId, frames, receipts::IfDenied};

/// A SEND to it renews the login. It is no exchange or queue.
pub(super) const RENEW: &str = "/auth/renew";

impl Session {
    /// The answer to [`crate::Action::Renew`]. Each subscription that is lost gets an ERROR of its own,
    /// and then the renewal its RECEIPT.
    ///
    /// A refusal is an ERROR, too, and the session goes on until its own time is over: a client
    /// whose new token is wrong may have another. But as any denial it counts towards
    /// [`crate::Config::max_denials`], since each costs work; one too many ends the session.
    pub fn handle_renewed(
        &mut self,
        now: Instant,
        operation: OperationId,
        outcome: Result<Renewed, Problem>,
    ) {
        if self.pending.if_denied(operation) != Some(IfDenied::Renewal) {
            return;
        }
        match outcome {
            Ok(renewed) => {
                if self.phase == Phase::Connected {
                    self.take_effect(now, renewed);
                }
                self.finish(now, operation);
            }
            Err(problem) if self.may_refuse_once_more(&problem) => {
                self.denials = self.denials.saturating_add(1);
                let receipt = self.pending.fail(operation).flatten();
                let error = frames::error(&problem, receipt.as_deref(), self.version);
                self.write(now, error);
                self.finish(now, operation);
            }
            Err(problem) => self.handle_done(now, operation, Err(problem)),
        }
    }

    /// The credentials of a renewal count, and the login ends by itself then, if it does. Told before
    /// the renewal's answer, for the old login may end while its subscriptions are asked about.
    pub fn handle_renewal_accepted(&mut self, operation: OperationId, until: Option<Instant>) {
        let is_renewal = self.pending.if_denied(operation) == Some(IfDenied::Renewal);
        if is_renewal && self.phase == Phase::Connected {
            self.deadline = until;
        }
    }

    /// Subscriptions were taken from the client, for these reasons: each gets an ERROR of its own,
    /// and the session goes on.
    pub fn handle_lost(&mut self, now: Instant, lost: Vec<(SubscriptionId, Problem)>) {
        if self.phase != Phase::Connected {
            return;
        }
        for (subscription, problem) in lost {
            let Some(name) = self.subscriptions.lose(subscription) else {
                continue;
            };
            let error = frames::subscription_error(&problem, name, self.version);
            self.take_back(subscription);
            self.write(now, error);
        }
    }

    fn take_effect(&mut self, now: Instant, renewed: Renewed) {
        self.deadline = renewed.until;
        self.handle_lost(now, renewed.lost);
    }

    fn may_refuse_once_more(&self, problem: &Problem) -> bool {
        let is_refusal = matches!(
            problem,
            Problem::RenewalRefused(_) | Problem::RenewalUnavailable
        );
        is_refusal && (self.stays_if_denied || self.denials < self.config.max_denials)
    }
}
