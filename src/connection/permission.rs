//! Which questions a client's wish asks of the hook, in the order of its contract.

use std::{collections::HashMap, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use stomp_session::Problem;

use super::{
    answers::Answers,
    context::{Context, Identity},
    mapping,
    rights::Right,
};
use crate::{
    auth::{Access, Permission, Refusal, ResourceKind},
    broker::{Argument, Consume, Publish, QueueSpec, own_queues},
    telemetry,
};

/// Asks on behalf of one user of one virtual host.
pub(super) struct Permissions<'a> {
    context: &'a Context,
    identity: &'a Identity,
    asks: Asks<'a>,
    /// The questions that were asked, if each is asked once for many wishes.
    asked: Option<&'a Asked>,
}

/// The questions about exchanges that were asked for many wishes, with their answers. One that had no
/// answer is not among them: it is asked anew for the next wish. Other questions are hardly ever
/// shared, and there may be thousands.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<Access, Asking>>);

/// It holds no session, which may end while the answer is remembered.
type Asking = Shared<BoxFuture<'static, Result<(), Refusal>>>;

/// How it is asked.
#[derive(Clone, Copy)]
enum Asks<'a> {
    /// As the action is being done, which was asked about ahead, or was not.
    Now(Option<&'a Answers>),
    /// Before the action's turn. Only these see the outcome.
    Ahead(&'a Answers),
    /// About what was permitted before.
    Again,
}

impl<'a> Permissions<'a> {
    pub(super) fn new(context: &'a Context, identity: &'a Identity) -> Self {
        Self::with(context, identity, None)
    }

    /// Asks what these do not answer.
    pub(super) fn with(
        context: &'a Context,
        identity: &'a Identity,
        answers: Option<&'a Answers>,
    ) -> Self {
        Self {
            context,
            identity,
            asks: Asks::Now(answers),
            asked: None,
        }
    }

    /// Asks for an action that waits for its turn, and keeps what is answered.
    pub(super) fn ahead(
        context: &'a Context,
        identity: &'a Identity,
        answers: &'a Answers,
    ) -> Self {
        Self {
            asks: Asks::Ahead(answers),
            ..Self::new(context, identity)
        }
    }

    /// Asks about what was permitted before: the hook is asked whatever is remembered, and takes
    /// nothing from anybody while it is at fault. A question that had no turn at the hook is a
    /// [`Problem::PermissionUnavailable`]: whoever asks comes back to it.
    pub(super) fn again(context: &'a Context, identity: &'a Identity) -> Self {
        Self {
            asks: Asks::Again,
            ..Self::new(context, identity)
        }
    }

    /// The same for many wishes, of which some need the same right: what was asked is not asked
    /// again.
    pub(super) fn again_for_many(
        context: &'a Context,
        identity: &'a Identity,
        asked: &'a Asked,
    ) -> Self {
        Self {
            asked: Some(asked),
            ..Self::again(context, identity)
        }
    }

    /// Asks for the right to be in the virtual host.
    pub(super) async fn enter(&self) -> Result<(), Problem> {
        self.ask(Access::Vhost {
            vhost: self.vhost(),
            ip: self.context.address.ip(),
        })
        .await
    }

    /// Asks for the right to listen to an exchange by a pattern.
    pub(super) async fn listen(&self, exchange: &str, pattern: &str) -> Result<(), Problem> {
        self.exchange(exchange, Permission::Read).await?;
        self.topic(exchange, pattern, Permission::Read).await
    }

    /// Asks for the right that a subscription needed.
    pub(super) async fn right(&self, right: &Right) -> Result<(), Problem> {
        match right {
            Right::Listen(exchange, pattern) => self.listen(exchange, pattern).await,
            Right::Consume(consume) => self.consume(consume).await,
        }
    }

    /// Asks for the right to have a queue and a consumer of its own.
    pub(super) async fn consume(&self, consume: &Consume) -> Result<(), Problem> {
        if let Some((exchange, pattern)) = &consume.binding {
            self.listen(exchange, pattern).await?;
        }
        let queue = &consume.queue;
        if consume.declare {
            self.declare(queue).await?;
        }
        if consume.declare && self.needs_no_right(queue) {
            return Ok(());
        }
        if consume.binding.is_some() {
            self.queue(&queue.name, Permission::Write).await?;
        }
        self.queue(&queue.name, Permission::Read).await
    }

    /// Returns true if the queue is one that the gateway makes for this user's subscription or
    /// replies, and the user brought its rights along: they are to destinations, and nobody can
    /// grant names that are made up. A name of that form that a client has chosen leads nowhere: an
    /// exclusive queue is of the connection that declared it, and durable ones are asked about by
    /// [`mapping::is_foreign`].
    fn needs_no_right(&self, queue: &QueueSpec) -> bool {
        let is_passing = !queue.durable && queue.exclusive;
        let is_own = is_passing && (mapping::is_made_up(queue) || own_queues::is_temp(&queue.name))
            || own_queues::is_durable_subscription(&queue.name);
        is_own && self.identity.user.has_own_rights()
    }

    /// Asks for the right to declare a queue.
    pub(super) async fn declare(&self, queue: &QueueSpec) -> Result<(), Problem> {
        if !self.needs_no_right(queue) {
            self.queue(&queue.name, Permission::Configure).await?;
        }
        let argument = |wanted: &str| {
            queue
                .arguments
                .iter()
                .find_map(|(name, value)| match value {
                    Argument::Text(text) if **name == *wanted => Some(text),
                    _ => None,
                })
        };
        if let Some(exchange) = argument("x-dead-letter-exchange") {
            if !self.needs_no_right(queue) {
                self.queue(&queue.name, Permission::Read).await?;
            }
            self.exchange(exchange, Permission::Write).await?;
            match argument("x-dead-letter-routing-key") {
                // The client that chooses the key publishes by it.
                Some(key) => self.topic(exchange, key, Permission::Write).await?,
                None => self.any_key(exchange)?,
            }
        }
        Ok(())
    }

    /// Whether the user may send by whatever keys messages have, if it brought its rights along. No
    /// hook has a question for that.
    fn any_key(&self, exchange: &str) -> Result<(), Problem> {
        let vhost = self.vhost();
        if self.identity.user.may_send_by_any_key(&vhost, exchange) {
            return Ok(());
        }
        if let Asks::Ahead(_) = self.asks {
            return Err(untold());
        }
        let access = Access::Topic {
            vhost,
            exchange: exchange.into(),
            permission: Permission::Write,
            routing_key: "#".into(),
        };
        let reason = "dead letters without x-dead-letter-routing-key keep their own keys";
        Err(self.refused(&access, Refusal::Denied(Some(reason.into()))))
    }

    /// The client named a queue that another subscription has for itself: nobody is asked.
    pub(super) fn refuse_foreign(&self, queue: &str) -> Problem {
        let access = Access::Resource {
            vhost: self.vhost(),
            kind: ResourceKind::Queue,
            name: queue.into(),
            permission: Permission::Read,
        };
        let reason = "it is of another subscription, or another user's";
        self.refused(&access, Refusal::Denied(Some(reason.into())))
    }

    /// Asks for the right to delete a queue.
    pub(super) async fn delete(&self, queue: &str) -> Result<(), Problem> {
        // It is the queue of a subscription that the client has.
        if own_queues::is_durable_subscription(queue) && self.identity.user.has_own_rights() {
            return Ok(());
        }
        self.queue(queue, Permission::Configure).await
    }

    /// Asks for the right to publish.
    pub(super) async fn publish(&self, publish: &Publish) -> Result<(), Problem> {
        self.exchange(&publish.exchange, Permission::Write).await?;
        self.topic(&publish.exchange, &publish.routing_key, Permission::Write)
            .await
    }

    async fn exchange(&self, name: &str, permission: Permission) -> Result<(), Problem> {
        self.resource(ResourceKind::Exchange, name, permission)
            .await
    }

    async fn queue(&self, name: &str, permission: Permission) -> Result<(), Problem> {
        self.resource(ResourceKind::Queue, name, permission).await
    }

    async fn resource(
        &self,
        kind: ResourceKind,
        name: &str,
        permission: Permission,
    ) -> Result<(), Problem> {
        let access = Access::Resource {
            vhost: self.vhost(),
            kind,
            name: name.into(),
            permission,
        };
        self.ask(access).await
    }

    async fn topic(
        &self,
        exchange: &str,
        routing_key: &str,
        permission: Permission,
    ) -> Result<(), Problem> {
        let (exchange, routing_key) = (exchange.into(), routing_key.into());
        self.ask(Access::Topic {
            vhost: self.vhost(),
            exchange,
            permission,
            routing_key,
        })
        .await
    }

    fn vhost(&self) -> Arc<str> {
        Arc::clone(self.identity.vhost.name())
    }

    async fn ask(&self, access: Access) -> Result<(), Problem> {
        let (auth, user) = (&self.context.services.auth, &self.identity.user);
        let answer = if self.context.services.reserves(&access) {
            Err(Refusal::Denied(Some("it is the gateway's own".into())))
        } else {
            match self.asks {
                Asks::Again => match self.ask_anew(&access).await {
                    Err(Refusal::Busy) => {
                        return Err(Problem::PermissionUnavailable {
                            detail: Box::default(),
                        });
                    }
                    // The hook's fault is in the log.
                    Err(Refusal::Faulty(_) | Refusal::NoKeys(_)) => Ok(()),
                    answer => answer,
                },
                Asks::Ahead(answers) => {
                    let answer = auth.allow(user, &access).await;
                    answers.note(access, answer.clone());
                    // It is asked for again when it is the action's turn, and told then.
                    return answer.map_err(|_| untold());
                }
                Asks::Now(answers) => {
                    let orders = self.context.services.registry.rechecks();
                    match answers.and_then(|answers| answers.take(&access, orders)) {
                        Some(answer) => answer,
                        None => {
                            self.context.set_asking(true);
                            let answer = auth.allow(user, &access).await;
                            self.context.set_asking(false);
                            answer
                        }
                    }
                }
            }
        };
        answer.map_err(|refusal| self.refused(&access, refusal))
    }

    async fn ask_anew(&self, access: &Access) -> Result<(), Refusal> {
        let (context, identity) = (self.context, self.identity);
        let (auth, user) = (&context.services.auth, &identity.user);
        let is_of_exchange = matches!(
            access,
            Access::Resource {
                kind: ResourceKind::Exchange,
                ..
            }
        );
        let Some(asked) = self.asked.filter(|_| is_of_exchange) else {
            return auth.allow_anew(user, access).await;
        };
        let asking = {
            let mut asked = asked.0.lock();
            let asking = asked.entry(access.clone()).or_insert_with_key(|access| {
                let (auth, user, access) = (Arc::clone(auth), user.clone(), access.clone());
                let asking = async move { auth.allow_anew(&user, &access).await };
                asking.boxed().shared()
            });
            asking.clone()
        };
        let answer = asking.await;
        if !matches!(answer, Ok(()) | Err(Refusal::Denied(_))) {
            asked.0.lock().remove(access);
        }
        answer
    }

    /// It is in the log, and the client is told.
    fn refused(&self, access: &Access, refusal: Refusal) -> Problem {
        let what = what(access);
        telemetry::permission_refused(&self.context.info(), &what, &refusal.to_string());
        let is_fault = matches!(
            refusal,
            Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy
        );
        let reason = refusal.disclosed(self.context.settings().disclose_reason);
        refused(access, &what, &self.identity.user.name, reason, is_fault)
    }
}

/// A refusal ahead of the action's turn, which only stops the questions.
fn untold() -> Problem {
    Problem::PermissionDenied {
        detail: Box::default(),
    }
}

/// The access in the words of RabbitMQ 3.10, which clients of its plug-in know.
fn what(access: &Access) -> String {
    match access {
        Access::Vhost { vhost, .. } => format!("vhost '{vhost}'"),
        Access::Resource {
            vhost, kind, name, ..
        } => {
            let (kind, name) = match (kind, &**name) {
                (ResourceKind::Queue, name) => ("queue", name),
                (ResourceKind::Exchange, "") => ("exchange", "amq.default"),
                (ResourceKind::Exchange, name) => ("exchange", name),
            };
            format!("{kind} '{name}' in vhost '{vhost}'")
        }
        Access::Topic {
            vhost,
            exchange,
            routing_key,
            ..
        } => {
            format!("topic '{routing_key}' in exchange '{exchange}' in vhost '{vhost}'")
        }
    }
}

/// The problem for the client. A hook that is at fault refuses in the same words, but trying again
/// helps.
fn refused(
    access: &Access,
    what: &str,
    user: &str,
    reason: Option<&str>,
    is_fault: bool,
) -> Problem {
    if let Access::Vhost { vhost, .. } = access {
        let vhost = (&**vhost).into();
        return if is_fault {
            Problem::EntryUnavailable { vhost }
        } else {
            Problem::VhostDenied { vhost }
        };
    }
    let because = reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let detail = format!("ACCESS_REFUSED - access to {what} refused for user '{user}'{because}");
    let detail = detail.into();
    if is_fault {
        Problem::PermissionUnavailable { detail }
    } else {
        Problem::PermissionDenied { detail }
    }
}
