//! A session that is logged in, as its node reaches it: to end it, and to ask the hook about it
//! again.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
};

use futures_util::{FutureExt, future::BoxFuture};
use stomp_session::{Problem, SubscriptionId};
use tokio::time::Instant;

use super::{
    context::{Context, Identity},
    permission::{Asked, Permissions},
    rights::{Proof, Right, Rights, Subscriptions},
};
use crate::{
    auth::Refusal,
    deadline::after,
    node::{LoggedIn, RecheckPlace, Settings},
    presence::Device,
    telemetry,
};

/// How often a question is asked that finds no turn at the hook. It waits for one as long as for an
/// answer; whoever has none then, stays: the sessions of other users have to be asked about, too. The
/// question about the user is asked as often if the hook is at fault: it decides about all others.
const TRIES: usize = 3;

impl LoggedIn for Context {
    fn id(&self) -> &str {
        &self.session
    }

    fn user(&self) -> Option<&str> {
        Some(&self.identity()?.user.name)
    }

    fn device(&self) -> Option<&Device> {
        self.here()?.device.as_deref()
    }

    fn device_id(&self) -> Option<&str> {
        self.identity()?.device_id()
    }

    fn address(&self) -> IpAddr {
        self.address.ip()
    }

    fn is_in_presence(&self) -> bool {
        self.here().is_some()
    }

    fn settings(&self) -> &Settings {
        self.settings()
    }

    fn end(&self, problem: Problem) {
        self.guard.mailbox().fail(problem);
    }

    fn recheck(self: Arc<Self>, place: RecheckPlace) -> BoxFuture<'static, ()> {
        let session = Arc::downgrade(&self);
        async move {
            let Some(Err(problem)) = recheck(&session, place).await else {
                return;
            };
            if let Some(context) = session.upgrade() {
                telemetry::recheck_refused(&context.info(), &problem);
                context.end(problem);
            }
        }
        .boxed()
    }

    fn refresh_groups(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async move {
            let services = &self.services;
            let (Some(presence), Some(identity)) = (&services.presence, self.identity()) else {
                return;
            };
            let Some(session) = self.here() else {
                return services.registry.begin_regroup();
            };
            let question = session.ask_groups();
            if let Ok(groups) = services.auth.groups(&identity.user).await {
                session.answer_groups(question, || presence.regroup(session, groups));
            }
        }
        .boxed()
    }
}

/// Repeats the questions of the login and of each subscription, as far as there is time. Answers the
/// problem for a client that has to go; `None` if it is gone.
async fn recheck(session: &Weak<Context>, mut place: RecheckPlace) -> Option<Result<(), Problem>> {
    let mut left = match recheck_login(session, &mut place).await? {
        Ok(subscriptions) => subscriptions,
        Err(problem) => return Some(Err(problem)),
    };
    let mut until = None;
    for _ in 0..TRIES {
        let mut asked = Asked::default();
        let mut asking = std::mem::take(&mut left).into_iter();
        while let Some((subscription, right)) = asking.next() {
            place.give_way().await;
            let context = session.upgrade()?;
            let rights = context.rights()?;
            // The list is of the beginning, and others end subscriptions meanwhile.
            if !rights.is_noted(subscription, &right) {
                continue;
            }
            // There is time for one at least: so all have their turn some day.
            let until = *until.get_or_insert_with(|| after(place.time()));
            if Instant::now() > until {
                rights.go_on_with(subscription);
                // With those that had no turn at the hook.
                let others = asking.len().saturating_add(left.len());
                place.leave(others.saturating_add(1));
                return Some(Ok(()));
            }
            let identity = context.identity()?;
            let permissions = Permissions::again_for_many(&context, identity, &asked);
            let answer = permissions.right(&right).await;
            match answer {
                Ok(()) => {}
                Err(Problem::PermissionUnavailable { .. }) => left.push((subscription, right)),
                // The refusal ends nobody: the next one that needs this right may have it again.
                Err(_) if !rights.is_noted(subscription, &right) => asked = Asked::default(),
                Err(_) if rights.put_off() => return Some(Ok(())),
                Err(Problem::PermissionDenied { detail }) => {
                    return Some(Err(Problem::PermissionWithdrawn { detail }));
                }
                Err(problem) => return Some(Err(problem)),
            }
        }
    }
    place.leave(left.len());
    Some(Ok(()))
}

/// Asks what was asked at the login; the subscriptions that are to be asked about next, of which
/// there are none if there was no answer. `None`: the session is gone.
async fn recheck_login(
    session: &Weak<Context>,
    place: &mut RecheckPlace,
) -> Option<Result<Subscriptions, Problem>> {
    for tried in 0..TRIES {
        if tried > 0 {
            // While the hook is down all sessions ask again, and others wait for their first turn.
            place.give_way().await;
        }
        let asked = try_recheck_login(&*session.upgrade()?).await;
        if let Some(answer) = asked.transpose() {
            return Some(answer);
        }
    }
    let context = session.upgrade()?;
    place.leave(context.rights().map_or(0, Rights::count));
    Some(Ok(Subscriptions::new()))
}

/// The same; `None`: there was no answer, or no turn at the hook.
async fn try_recheck_login(context: &Context) -> Result<Option<Subscriptions>, Problem> {
    let (Some(identity), Some(rights)) = (context.identity(), context.rights()) else {
        return Ok(Some(Subscriptions::new()));
    };
    loop {
        let proof = rights.proof();
        let answer = ask_login_again(context, identity, &proof).await;
        // A renewal may have put others in place meanwhile: the old ones decide nothing then.
        if answer.is_err() && !rights.is_proof(&proof) {
            continue;
        }
        return Ok(match answer? {
            Answered::Yes => Some(rights.recheck()),
            Answered::NotAtAll => None,
        });
    }
}

/// The hook's answer about a login, if it is no refusal.
enum Answered {
    Yes,
    NotAtAll,
}

async fn ask_login_again(
    context: &Context,
    identity: &Identity,
    proof: &Proof,
) -> Result<Answered, Problem> {
    match context.services.auth.user(proof.login()).await {
        Ok(user) if user == identity.user => {}
        Ok(_) => return Err(Problem::LoginChanged),
        // The hook's fault is in the log.
        Err(Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy) => {
            return Ok(Answered::NotAtAll);
        }
        Err(refusal @ Refusal::Denied(_)) => {
            telemetry::permission_refused(&context.info(), "the gateway", &refusal.to_string());
            return Err(not_any_more(identity));
        }
    }
    match Permissions::again(context, identity).enter().await {
        Ok(()) => Ok(Answered::Yes),
        Err(Problem::PermissionUnavailable { .. }) => Ok(Answered::NotAtAll),
        Err(_) => Err(not_any_more(identity)),
    }
}

/// A renewal has its RECEIPT. If it met a recheck, that begins anew.
pub(super) fn renewed(context: &Arc<Context>) {
    if context.rights().is_some_and(Rights::renewed) {
        tokio::spawn(Arc::clone(context).recheck(RecheckPlace::alone()));
    }
}

/// The groups are known that the login has asked for: the session joins presence. `regroups`: so many
/// orders to ask again were there before the question. One that has come since found no session in
/// presence, so its question is asked here.
pub(super) fn join(
    context: &Arc<Context>,
    groups: Vec<Arc<str>>,
    device: Option<Box<Device>>,
    regroups: u64,
) {
    context.join(groups, device);
    if context.services.registry.regroups() != regroups {
        tokio::spawn(Arc::clone(context).refresh_groups());
    }
}

/// Keeps the right of a subscription that was just opened, if the hook is asked again later.
/// `rechecks`: so many had begun when the hook was asked for it. One that has begun since knew
/// nothing of it, so it is asked about here.
///
/// # Errors
/// The right is gone, and the subscription must not stay.
pub(super) async fn keep_right(
    context: &Context,
    identity: &Identity,
    subscription: SubscriptionId,
    right: impl FnOnce() -> Right,
    rechecks: u64,
) -> Result<(), Problem> {
    let Some(rights) = context.rights() else {
        return Ok(());
    };
    let right = Arc::new(right());
    if !rights.note(subscription, Arc::clone(&right), rechecks) {
        return Ok(());
    }
    let permissions = Permissions::again(context, identity);
    for _ in 0..TRIES {
        let answer = permissions.right(&right).await;
        if matches!(answer, Err(Problem::PermissionUnavailable { .. })) {
            continue;
        }
        if answer.is_err() {
            rights.forget(subscription);
            context.guard.mailbox().end_subscription(subscription);
        }
        return answer;
    }
    Ok(())
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
