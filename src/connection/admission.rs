//! The login policy: one more session of a user is let in or refused, or others end for it.

use std::sync::Arc;

use stomp_session::Problem;

use super::context::{Context, Identity};
use crate::{
    node::{Decision, Unknown},
    presence::{Device, PresenceEntry, PresenceError, SessionInfo},
    telemetry,
};

/// Tells presence of the login, if it has to know of others, and asks the policy. Answers the ids of the
/// sessions that are to end for it. In a task of its own: a client that hangs up meanwhile must not
/// leave a session that nobody ends.
pub(super) async fn apply_policy(
    context: &Arc<Context>,
    identity: &Identity,
    device: Option<Box<Device>>,
) -> Result<Vec<Box<str>>, Problem> {
    if !context.settings().login_policy.is_limited() {
        return Ok(Vec::new());
    }
    let session = Arc::new(context.presence_entry(&identity.user.name, Vec::new(), device));
    let claiming = tokio::spawn(claim(Arc::clone(context), session));
    // It does not panic, and is not aborted; if it were, nobody would know who is logged in.
    claiming.await.unwrap_or_else(|_| {
        let user = (&*identity.user.name).into();
        Err(Problem::LoginUnavailable { user })
    })
}

/// A session that was admitted joins presence, and those that give way to it end.
pub(super) fn enter(context: &Context, ending: &[Box<str>]) {
    if let (Some(presence), Some(session)) = (&context.services.presence, context.here()) {
        presence.join(Arc::clone(session));
    }
    for id in ending {
        context.services.control.replace(id);
    }
}

async fn claim(
    context: Arc<Context>,
    session: Arc<PresenceEntry>,
) -> Result<Vec<Box<str>>, Problem> {
    let Some(presence) = &context.services.presence else {
        return Ok(Vec::new());
    };
    let claimed = presence.claim(Arc::clone(&session)).await;
    // From now on it leaves with the context.
    context.set_here(&session);
    decide(&context, &session, claimed).inspect_err(|_| context.leave())
}

fn decide(
    context: &Context,
    session: &PresenceEntry,
    claimed: Result<Vec<SessionInfo>, PresenceError>,
) -> Result<Vec<Box<str>>, Problem> {
    let policy = &context.settings().login_policy;
    let user = &session.user;
    let decision = match claimed {
        Ok(others) => policy.decide(user, session.device.as_deref(), &others),
        Err(error) => {
            telemetry::sessions_unknown(&context.info(), &error);
            return match policy.unknown {
                Unknown::Allow => Ok(Vec::new()),
                Unknown::Reject => {
                    let user = (&**user).into();
                    Err(Problem::LoginUnavailable { user })
                }
            };
        }
    };
    match decision {
        Decision::Admit(ending) => Ok(ending),
        Decision::Reject(why) => {
            telemetry::login_refused(&context.info(), &why);
            Err(Problem::AlreadyLoggedInElsewhere(why.into()))
        }
    }
}
