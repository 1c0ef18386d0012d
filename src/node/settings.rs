//! How connections behave: what the parts' sections of the configuration come to.

use std::{sync::Arc, time::Duration};

use super::{
    limits::{Limits, Stomp, session_config},
    logins::Logins,
    policy::LoginPolicy,
};
use crate::{auth, broker, hub::MailboxConfig};

/// How connections behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `[limits]` section.
    pub limits: Limits,
    /// The `[stomp]` section.
    pub stomp: Stomp,
    /// The `[mailbox]` section.
    pub mailbox: MailboxConfig,
    /// The virtual host of clients that name none.
    pub default_vhost: Arc<str>,
    /// Whether messages name their user in AMQP's own property (`broker.impersonate`).
    pub impersonate: bool,
    /// Whether a client is told the hook's reason for a refusal (`auth.disclose_reason`).
    pub disclose_reason: bool,
    /// How often the hook is asked again about a session (`auth.recheck`), and about how many at a
    /// time; `None`: never.
    pub recheck: Option<Recheck>,
    /// The `[sessions]` section.
    pub login_policy: LoginPolicy,
    /// Ways to log in besides `login` and `passcode`.
    pub logins: Logins,
    /// How long what a client asks for may wait (`broker.operation_timeout`).
    pub operation_timeout: Duration,
    /// The exchange of presence events, to which nobody but the gateway publishes.
    pub events_exchange: Option<Arc<str>>,
    session: Arc<stomp_session::Config>,
}

/// How the hook is asked again about sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recheck {
    /// About each once in so long.
    pub interval: Duration,
    /// About so many at a time: logins need the hook, too.
    pub at_a_time: usize,
}

impl Settings {
    /// Settings from the sections of the configuration, on the node of that name.
    #[must_use]
    pub fn new(
        limits: Limits,
        stomp: Stomp,
        mailbox: MailboxConfig,
        broker: &broker::Config,
        auth: &auth::Config,
        node: &str,
    ) -> Self {
        let session = Arc::new(session_config(&limits, &stomp, auth, broker));
        Self {
            limits,
            stomp,
            mailbox,
            default_vhost: broker.default_vhost.as_str().into(),
            impersonate: broker.impersonate,
            disclose_reason: auth.disclose_reason,
            recheck: (!auth.recheck.is_zero()).then(|| Recheck {
                interval: auth.recheck,
                at_a_time: (auth.max_calls / 2).max(1),
            }),
            logins: Logins::new(auth, node),
            operation_timeout: broker.operation_timeout,
            events_exchange: None,
            login_policy: LoginPolicy::default(),
            session,
        }
    }

    /// What all sessions share.
    #[must_use]
    pub fn session(&self) -> Arc<stomp_session::Config> {
        Arc::clone(&self.session)
    }
}
