//! How connections behave: what the parts' sections of the configuration come to.
//!
//! A connection has the settings that are in force when it begins, and keeps them to its end: so
//! reading one costs nothing, and no rule changes under a session. [`super::Services::replace_settings`]
//! changes them for those that come.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    limits::{Limits, Paces, Stomp, session_config},
    logins::Logins,
    policy::LoginPolicy,
};
use crate::{auth, broker, hub::MailboxConfig, webhooks::Webhooks};

/// How connections behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `[limits]` section.
    pub limits: Limits,
    /// How fast a connection may send, by those limits.
    pub paces: Arc<Paces>,
    /// The `[stomp]` section.
    pub stomp: Stomp,
    /// The `[mailbox]` section.
    pub mailbox: MailboxConfig,
    /// The virtual host of clients that name none.
    pub default_vhost: Arc<str>,
    /// The virtual hosts that are meant by names of machines, which are in small letters.
    host_names: HashMap<Box<str>, Box<str>>,
    /// Whether messages name their user in AMQP's own property (`broker.impersonate`).
    pub impersonate: bool,
    /// Whether a client is told the hook's reason for a refusal (`auth.disclose_reason`).
    pub disclose_reason: bool,
    /// Users whose clients stay connected, whatever is denied to them (`auth.soft_deny_users`).
    soft_deny_users: Box<[Box<str>]>,
    /// Whether the hook is asked again about a session, how often (`auth.recheck`), and about how
    /// many at a time; `None`: never.
    pub recheck: Option<Recheck>,
    /// The `[sessions]` section.
    pub login_policy: LoginPolicy,
    /// Ways to log in besides `login` and `passcode`.
    pub logins: Logins,
    /// How long what a client asks for may wait (`broker.operation_timeout`).
    pub operation_timeout: Duration,
    /// The exchange of presence events, to which nobody but the gateway publishes.
    pub events_exchange: Option<Arc<str>>,
    /// The exchange of messages for those who are away; `None`: there is none.
    pub offline_exchange: Option<Arc<str>>,
    /// The application's own ears, by HTTP, from the start to the end.
    pub webhooks: Option<Arc<Webhooks>>,
    session: Arc<stomp_session::Config>,
}

/// How the hook is asked again about sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recheck {
    /// About each once in so long; `None`: only when it is known that something has changed.
    pub interval: Option<Duration>,
    /// About so many at a time: logins need the hook, too.
    pub at_a_time: usize,
    /// About so many sessions of one user: more would wait for the turns that the user has at the
    /// hook, each in the place of another user's.
    pub of_a_user: usize,
}

impl Recheck {
    fn new(auth: &auth::Config, interval: Option<Duration>) -> Self {
        // The other half is for logins, and for what the user's sessions do.
        let half = |turns: usize| (turns / 2).max(1);
        Self {
            interval,
            at_a_time: half(auth.max_calls),
            of_a_user: half(auth.max_user_calls),
        }
    }
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
            paces: Arc::new(Paces::new(&limits, Instant::now())),
            limits,
            stomp,
            mailbox,
            default_vhost: broker.default_vhost.as_str().into(),
            host_names: broker
                .host_names
                .iter()
                .map(|(name, vhost)| (name.to_ascii_lowercase().into(), vhost.as_str().into()))
                .collect(),
            impersonate: broker.impersonate,
            disclose_reason: auth.disclose_reason,
            soft_deny_users: auth
                .soft_deny_users
                .iter()
                .map(|user| user.as_str().into())
                .collect(),
            recheck: (!auth.recheck.is_zero()).then(|| Recheck::new(auth, Some(auth.recheck))),
            logins: Logins::new(auth, node),
            operation_timeout: broker.operation_timeout,
            events_exchange: None,
            offline_exchange: None,
            webhooks: None,
            login_policy: LoginPolicy::default(),
            session,
        }
    }

    /// Buckets that others may have begun count from this moment.
    #[must_use]
    pub(super) fn since(mut self, start: Instant) -> Self {
        self.paces = Arc::new(Paces::new(&self.limits, start));
        self
    }

    /// Sessions keep what it takes to ask again about them, though perhaps not at an interval: some
    /// changes are heard of.
    #[must_use]
    pub fn with_recheck_of_changes(mut self, auth: &auth::Config) -> Self {
        self.recheck.get_or_insert(Recheck::new(auth, None));
        self
    }

    /// The virtual host that a client means by its header `host`. Names of machines count in any
    /// case, with the port that some libraries add or without it.
    #[must_use]
    pub fn vhost_for<'a>(&'a self, host: Option<&'a str>) -> &'a str {
        let Some(host) = host else {
            return &self.default_vhost;
        };
        if self.host_names.is_empty() {
            return host;
        }
        let name = host.to_ascii_lowercase();
        let bare = name.rsplit_once(':').map(|(bare, _)| bare);
        let mut names = [Some(&*name), bare].into_iter().flatten();
        names
            .find_map(|name| self.host_names.get(name))
            .map_or(host, |vhost| &**vhost)
    }

    /// Returns true if this user's clients stay connected, whatever is denied to them.
    #[must_use]
    pub fn stays_if_denied(&self, user: &str) -> bool {
        self.soft_deny_users.iter().any(|name| **name == *user)
    }

    /// What all sessions share.
    #[must_use]
    pub fn session(&self) -> Arc<stomp_session::Config> {
        Arc::clone(&self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_s_name_means_its_virtual_host() {
        let names = [("Push.example.com", "app"), ("127.0.0.1", "local")];
        let broker = broker::Config {
            vhosts: ["/", "app", "local"].map(str::to_owned).into(),
            host_names: names
                .map(|(name, vhost)| (name.to_owned(), vhost.to_owned()))
                .into(),
            ..broker::Config::default()
        };
        let settings = Settings::new(
            Limits::default(),
            Stomp::default(),
            MailboxConfig::default(),
            &broker,
            &auth::Config::default(),
            "node-1",
        );
        for (host, vhost) in [
            (None, "/"),
            (Some("/"), "/"),
            (Some("app"), "app"),
            (Some("push.example.com"), "app"),
            (Some("PUSH.example.com:15674"), "app"),
            (Some("127.0.0.1:61613"), "local"),
            (Some("other.example.com"), "other.example.com"),
            (Some(""), ""),
        ] {
            assert_eq!(settings.vhost_for(host), vhost, "{host:?}");
        }
    }
}
