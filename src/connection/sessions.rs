//! The sessions of this node, as [`control`](crate::control) reaches them.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use stomp_session::Problem;

use super::{
    context::Context,
    registry::{Guard, Registry},
    rights::recheck_some,
};
use crate::control::{RecheckOff, Sessions, Target};

/// The id of a connection's session: unique, and not to be guessed. It begins with the
/// connection's number, so that a session is found without an index.
pub(super) fn new_id(guard: &Guard) -> Box<str> {
    let id = (u128::from(guard.number()) << 64) | u128::from(rand::random::<u64>());
    URL_SAFE_NO_PAD.encode(id.to_be_bytes()).into()
}

/// The number of the connection that has a session of that id, if any has.
fn number(id: &str) -> Option<u64> {
    let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(id).ok()?.try_into().ok()?;
    u64::try_from(u128::from_be_bytes(bytes) >> 64).ok()
}

impl Registry {
    fn find(&self, target: &Target) -> Vec<Arc<Context>> {
        let mut found = match target {
            Target::Session(id) => {
                let session = number(id).and_then(|number| self.session(number));
                session.into_iter().collect()
            }
            Target::User(_) | Target::Device { .. } => self.sessions(|_| true),
        };
        found.retain(|context| context.is(target));
        found
    }

    fn end(&self, target: &Target, problem: &Problem) -> usize {
        let found = self.find(target);
        for context in &found {
            context.guard.mailbox().fail(problem.clone());
        }
        found.len()
    }
}

impl Context {
    fn is(&self, target: &Target) -> bool {
        match target {
            Target::Session(id) => *self.session == **id,
            Target::User(user) => self.is_of(user),
            Target::Device {
                user,
                device_type,
                device_id,
            } => {
                let device = self.here().and_then(|session| session.device.as_deref());
                let is = |meant: &Option<Box<str>>, named: &Option<Box<str>>| {
                    meant.is_none() || meant == named
                };
                self.is_of(user)
                    && device.is_some_and(|device| {
                        is(device_type, &device.kind) && is(device_id, &device.id)
                    })
            }
        }
    }

    fn is_of(&self, user: &str) -> bool {
        self.identity()
            .is_some_and(|identity| *identity.user.name == *user)
    }
}

impl Sessions for Registry {
    fn kick(&self, target: &Target, reason: &str) -> usize {
        self.end(target, &Problem::Kicked(reason.into()))
    }

    fn replace(&self, session: &str) -> usize {
        self.end(&Target::Session(session.into()), &Problem::Replaced)
    }

    fn recheck(&self, target: &Target) -> Result<usize, RecheckOff> {
        let found = self.find(target);
        let Some(first) = found.first() else {
            return Ok(0);
        };
        let recheck = first.settings().recheck.ok_or(RecheckOff)?;
        let count = found.len();
        tokio::spawn(recheck_some(found, recheck.at_a_time));
        Ok(count)
    }

    fn refresh_groups(&self, user: &str) -> usize {
        let found = self.find(&Target::User(user.into()));
        let found: Vec<_> = found.into_iter().filter(|c| c.here().is_some()).collect();
        let count = found.len();
        if count > 0 {
            tokio::spawn(regroup(found));
        }
        count
    }
}

/// All are one user's; but logins may have brought other tags, by which the hook may say other
/// groups. Where it is at fault, all stays as it is; it has said so in the log.
async fn regroup(sessions: Vec<Arc<Context>>) {
    let sessions: Vec<_> = sessions.iter().map(Arc::downgrade).collect();
    // Held no longer than the hook is asked about it: one that ends gives its place back.
    for session in sessions {
        let Some(context) = session.upgrade() else {
            continue;
        };
        let services = &context.services;
        if let (Some(presence), Some(identity), Some(session)) =
            (&services.presence, context.identity(), context.here())
            && let Ok(groups) = services.auth.groups(&identity.user).await
        {
            presence.regroup(session, groups);
        }
    }
}
