//! The renewal of a login: SEND to `/auth/renew` with new credentials.
//!
//! They must be the same user's, on the same virtual host. From then on the new rights and the new
//! end of the login count; then each subscription is asked about again. One whose right is gone ends,
//! and no other. The client waits for the answers that come in time; the others are asked for after
//! its RECEIPT, so that no number of subscriptions keeps a right that is gone. A hook that is at fault
//! does, also one that takes too long over a question: it takes nothing away, and is not asked again
//! before the next renewal or recheck.

use std::{
    collections::HashSet,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream};
use stomp_session::{OperationId, Problem, Renew, Renewed, SubscriptionId};
use tokio::time::timeout_at;

use super::{
    context::{Context, Identity},
    login,
    permission::{Asked, Permissions},
    rights::Subscriptions,
    work::Done,
};
use crate::{
    auth::{Access, Admission, DeviceId, Login, Refusal},
    deadline::after,
    node::{Attempt, LoggedIn as _},
    telemetry,
};

/// In the same words whichever it is: the client must not learn that it has guessed a password.
const NOT_TAKEN: &str = "the token does not count, or is another user's";

/// Subscriptions that are asked about side by side: fewer than a user has turns at the hook, for its
/// other sessions ask, too.
const AT_ONCE: usize = 2;

/// Subscriptions that are asked about in one go after the RECEIPT. Those that are refused end when
/// all have their answers.
const IN_ONE_GO: usize = 16;

/// Renews the login. `rights` are what the client's subscriptions needed.
pub(super) async fn renew(
    context: Arc<Context>,
    operation: OperationId,
    ask: Box<Renew>,
    rights: Subscriptions,
) -> Done {
    match try_to_renew(&context, *ask).await {
        Ok(accepted) => {
            let until = accepted.until;
            let asking = ask_again(context, operation, accepted, rights);
            Done::Accepted(operation, until, asking.boxed())
        }
        Err(problem) => {
            telemetry::renewal_refused(&context.info(), &problem.to_string());
            Done::Renewed(operation, Err(problem), Subscriptions::new())
        }
    }
}

/// Credentials that count.
struct Accepted {
    /// When the login ends by itself now, if it does.
    until: Option<Instant>,
    is_token: bool,
}

async fn try_to_renew(context: &Context, ask: Renew) -> Result<Accepted, Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let login = credentials(context, identity, ask);
    let admission = log_in(context, identity, &login).await?;
    // Nothing was asked for long ago by this, so that the time begins here.
    let until = admission.lifetime.map(after);
    // First, so that a recheck which meets the new rights leaves their refusals to this.
    if let Some(rights) = context.rights() {
        rights.renew(login);
    }
    identity.user.take_over(&admission.user);
    Ok(Accepted {
        until: until.map(tokio::time::Instant::into_std),
        is_token: admission.user.source.is_some(),
    })
}

/// Asks about each subscription again, as far as there is time, and about the groups.
async fn ask_again(
    context: Arc<Context>,
    operation: OperationId,
    accepted: Accepted,
    mut rights: Subscriptions,
) -> Done {
    let deadline = after(context.settings().operation_timeout);
    let lost = lost(&context, &mut rights, deadline).await;
    if accepted.is_token {
        // A token may have other groups.
        Arc::clone(&context).refresh_groups().await;
    }
    telemetry::login_renewed(&context.info(), lost.len());
    let until = accepted.until;
    Done::Renewed(operation, Ok(Renewed { until, lost }), rights)
}

/// Asks about some of the subscriptions for which a renewal had no answer in time, and leaves the
/// others.
pub(super) async fn ask_later(context: Arc<Context>, mut rights: Subscriptions) -> Done {
    let mut later = rights.split_off(rights.len().min(IN_ONE_GO));
    // Each question has an end of its own.
    let lost = lost(&context, &mut rights, after(Duration::MAX)).await;
    later.append(&mut rights);
    Done::AskedLater(lost, later)
}

/// The subscriptions whose right is gone, in their order. Those that have no answer by the deadline
/// stay in `rights`, as those do for which there was no turn at the hook: by sessions of its own name
/// a client could keep them all taken. A hook that is at fault takes nothing away.
async fn lost(
    context: &Context,
    rights: &mut Subscriptions,
    deadline: tokio::time::Instant,
) -> Vec<(SubscriptionId, Problem)> {
    let Some(identity) = context.identity() else {
        rights.clear();
        return Vec::new();
    };
    let asked = Asked::default();
    let permissions = &Permissions::again_for_many(context, identity, &asked);
    let asking = rights
        .clone()
        .into_iter()
        .map(move |(subscription, right)| async move {
            let answer = permissions.right(&right).await;
            (subscription, answer)
        });
    let mut answers = pin!(stream::iter(asking).buffer_unordered(AT_ONCE));
    let mut answered = HashSet::new();
    let mut lost = Vec::new();
    while let Ok(Some((subscription, answer))) = timeout_at(deadline, answers.next()).await {
        let is_answered = !matches!(answer, Err(Problem::PermissionUnavailable { .. }));
        if is_answered {
            answered.insert(subscription);
        }
        if is_answered && let Err(problem) = answer {
            lost.push((subscription, withdrawn(problem)));
        }
    }
    rights.retain(|(subscription, _)| !answered.contains(subscription));
    lost.sort_unstable_by_key(|(subscription, _)| *subscription);
    lost
}

fn credentials(context: &Context, identity: &Identity, ask: Renew) -> Login {
    let logins = &context.settings().logins;
    let own = &identity.user.name;
    let user = logins.name_to_renew(ask.login.as_deref(), own, &ask.token);
    Login {
        user: user.into(),
        password: Some(ask.token),
        vhost: Arc::clone(identity.vhost.name()),
        more: login::facts(context).collect(),
        address: context.address.ip(),
        is_known: true,
    }
}

/// Asks who the credentials are of, as at the login; nobody but the same user is let through.
async fn log_in(
    context: &Context,
    identity: &Identity,
    login: &Login,
) -> Result<Admission, Problem> {
    let services = &context.services;
    let user = &identity.user;
    // A session is no way to try passcodes faster, neither its own user's nor another's: a try
    // counts for both names.
    let begin = |name: &str| {
        let attempt = services.failed_logins.begin(context.address, name);
        attempt.map_err(|_| Problem::RenewalUnavailable)
    };
    let own = begin(&user.name)?;
    let named = Some(&*login.user).filter(|named| **named != *user.name);
    let other = named.map(begin).transpose()?;
    let delay = other.as_ref().map_or(Duration::ZERO, Attempt::delay);
    let delay = own.delay().max(delay);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let answer = services.auth.log_in(login).await;
    match &answer {
        // Of the other name nothing was proved.
        Ok(admission) if admission.user.name == user.name => own.succeeded(),
        Ok(_) | Err(Refusal::Denied(_)) => {
            own.failed();
            other.into_iter().for_each(Attempt::failed);
        }
        Err(Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy) => {}
    }
    let admission = answer.map_err(|refusal| {
        telemetry::permission_refused(&context.info(), "a renewal", &refusal.to_string());
        refused(&refusal, NOT_TAKEN)
    })?;
    if admission.user.name != user.name {
        let why = "the credentials are another user's";
        telemetry::permission_refused(&context.info(), "a renewal", why);
        return Err(because(NOT_TAKEN));
    }
    if admission.user != *user {
        return Err(because(
            "it is another way to log in, or the user has other tags now. Reconnect with it",
        ));
    }
    if let DeviceId::Bound(Some(id)) = &admission.device
        && identity.device_id() != Some(&**id)
    {
        return Err(because("the token is another device's"));
    }
    if let Some(problem) = context.refuse_banned(Some(&user.name), true, identity.device_id()) {
        return Err(problem);
    }
    let access = Access::Vhost {
        vhost: Arc::clone(&login.vhost),
        ip: context.address.ip(),
    };
    let entering = services.auth.allow_anew(&admission.user, &access).await;
    entering.map_err(|refusal| refused(&refusal, "the token is not for this virtual host"))?;
    Ok(admission)
}

fn refused(refusal: &Refusal, why: &str) -> Problem {
    match refusal {
        Refusal::Denied(_) => because(why),
        Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy => Problem::RenewalUnavailable,
    }
}

fn because(why: &str) -> Problem {
    Problem::RenewalRefused(why.into())
}

/// What the client of a subscription is told.
fn withdrawn(problem: Problem) -> Problem {
    match problem {
        Problem::PermissionDenied { detail } => Problem::PermissionWithdrawn { detail },
        other => other,
    }
}
