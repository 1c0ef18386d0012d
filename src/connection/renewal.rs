//! The renewal of a login: SEND to `/auth/renew` with new credentials.
//!
//! They must be the same user's, on the same virtual host. From then on the new rights count: first
//! they are put in place, then each subscription is asked about again. One whose right is gone
//! ends, and no other.

use std::{sync::Arc, time::Duration};

use stomp_session::{OperationId, Problem, Renew, Renewed, SubscriptionId};

use super::{
    context::{Context, Identity},
    login,
    permission::Permissions,
    rights::Right,
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

/// Renews the login. `rights` are what the client's subscriptions needed.
pub(super) async fn renew(
    context: Arc<Context>,
    operation: OperationId,
    ask: Box<Renew>,
    rights: Vec<(SubscriptionId, Right)>,
) -> Done {
    let renewed = try_to_renew(&context, *ask, rights).await;
    match &renewed {
        Ok(renewed) => telemetry::login_renewed(&context.info(), renewed.lost.len()),
        Err(problem) => telemetry::renewal_refused(&context.info(), &problem.to_string()),
    }
    Done::Renewed(operation, renewed)
}

async fn try_to_renew(
    context: &Arc<Context>,
    ask: Renew,
    rights: Vec<(SubscriptionId, Right)>,
) -> Result<Renewed, Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let login = credentials(context, identity, ask);
    let admission = log_in(context, identity, &login).await?;
    // Nothing was asked for long ago by this, so that the time begins here.
    let until = admission.lifetime.map(after);
    identity.user.take_over(&admission.user);
    if let Some(rights) = context.rights() {
        rights.renew(login);
    }
    let permissions = Permissions::again(context, identity);
    let mut lost = Vec::new();
    for (subscription, right) in rights {
        if let Err(problem) = permissions.right(&right).await {
            lost.push((subscription, withdrawn(problem)));
        }
    }
    if admission.user.source.is_some() {
        // A token may have other groups.
        Arc::clone(context).refresh_groups().await;
    }
    Ok(Renewed {
        until: until.map(tokio::time::Instant::into_std),
        lost,
    })
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
