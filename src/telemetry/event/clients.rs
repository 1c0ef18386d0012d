//! Clients: that they come, are refused, and go.

use std::{
    fmt::Display,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::millis;
use crate::telemetry::{
    metrics::{self, COUNTS},
    refusals::{self, Refusal},
    seldom::{Few, FewOfEach},
};

/// A client's connection, as log lines name it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    /// The session's id: the client sees it in CONNECTED, and support asks for it.
    pub session: &'a str,
    /// The user, as far as it is known: claimed until the login, then proved.
    pub user: Option<&'a str>,
    /// The virtual host, as far as it is known.
    pub vhost: Option<&'a str>,
    /// `tcp`, `websocket` or a SockJS transport.
    pub transport: &'a str,
    /// The client's address; behind a proxy, the one that the proxy names.
    pub remote: SocketAddr,
    /// The bound of the node's lines that clients cause.
    pub lines: &'a ClientLines,
}

/// Bounds the log lines that clients cause, however many they are: each kind of those of clients that
/// are not logged in; and of each user's, those that no end of a connection bounds.
#[derive(Debug, Default)]
pub struct ClientLines {
    closed: Mutex<Few>,
    refused: Mutex<Few>,
    denied: Mutex<FewOfEach>,
}

/// How a connection ended, and what it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending<'a> {
    /// Why: in the words of the ERROR frame, or e.g. `client disconnected`.
    pub reason: &'a str,
    /// Whether it was ended with an ERROR, and not by its client or this node's end.
    pub is_error: bool,
    /// The same as `reason` in words that are of a fixed number: the header `message` of the ERROR frame.
    pub kind: &'static str,
    /// The `error-code` of the ERROR, if something was refused by it.
    pub refused: Option<&'static str>,
    /// How long it was open.
    pub duration: Duration,
    /// Frames that the client sent, heart-beats not counted.
    pub frames_in: u64,
    /// Frames sent to the client, heart-beats not counted.
    pub frames_out: u64,
    /// The messages among them: those that the client published.
    pub messages_in: u64,
    /// The messages among them: those that were delivered.
    pub messages_out: u64,
}

/// How far a client had come when it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedAt {
    /// It had connected.
    Connection,
    /// Its HTTP request had come.
    Request,
    /// STOMP had begun.
    Login,
    /// It was logged in.
    Session,
}

impl RefusedAt {
    /// As metrics and lines of the log call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Login => "login",
            Self::Session => "session",
        }
    }
}

/// Something was refused to a client. The one place that counts it: once for each ERROR, answer or
/// closed socket. `reason` is the `error-code` of the ERROR, or one of a few words where the client
/// gets none.
pub fn refused(at: RefusedAt, reason: &'static str) {
    let labels = [("at", at.name()), ("reason", reason)];
    COUNTS.refused.get_or_create(&labels).inc();
}

/// A client is there, logged in or not; counted until [`connection_gone`].
pub fn connection_began(transport: &'static str) {
    metrics::connection_began(transport);
}

/// A client is gone.
pub fn connection_gone(transport: &'static str) {
    let label = [("transport", transport)];
    COUNTS.connections.get_or_create(&label).dec();
}

/// Logs with a connection's fields before those of the event.
macro_rules! connection_event {
    ($level:ident, $connection:expr, $($rest:tt)*) => {{
        let ConnectionInfo { session, user, vhost, transport, remote, .. } = *$connection;
        $level!(target: "stentor::connection", session, user, vhost, transport, %remote, $($rest)*)
    }};
}

/// Keeps it among the last refusals.
fn keep_refusal(connection: &ConnectionInfo<'_>, what: &'static str, cause: &str) {
    refusals::refused(Refusal {
        at: SystemTime::now(),
        what,
        cause: refusals::cut(cause),
        user: connection.user.map(refusals::cut),
        remote: Some(connection.remote),
        session: Some(connection.session.into()),
    });
}

/// A client has logged in.
pub fn connection_opened(connection: &ConnectionInfo<'_>) {
    COUNTS.logins.inc();
    connection_event!(info, connection, "connection opened");
}

/// A connection has ended, logged in or not. Of those that were not, a few are said, and how many
/// went unsaid before.
pub fn connection_closed(connection: &ConnectionInfo<'_>, ending: &Ending<'_>) {
    COUNTS
        .connections_ended
        .get_or_create(&[("reason", ending.kind)])
        .inc();
    if let Some(code) = ending.refused {
        let at = match connection.user {
            Some(_) => RefusedAt::Session,
            None => RefusedAt::Login,
        };
        refused(at, code);
    }
    if ending.is_error {
        keep_refusal(connection, "session", ending.reason);
    }
    let mut unsaid = None;
    if connection.user.is_none() {
        let Some(count) = connection.lines.closed.lock().let_through(Instant::now()) else {
            return;
        };
        unsaid = (count > 0).then_some(count);
    }
    connection_event!(
        info,
        connection,
        unsaid,
        reason = ending.reason,
        duration_ms = millis(ending.duration),
        frames_in = ending.frames_in,
        frames_out = ending.frames_out,
        messages_in = ending.messages_in,
        messages_out = ending.messages_out,
        "connection closed"
    );
}

/// A client was not let in: the hook refused it, or it asked for the impossible. A few are said, and
/// how many went unsaid before. [`connection_closed`] counts it.
pub fn login_refused(connection: &ConnectionInfo<'_>, cause: &str) {
    keep_refusal(connection, "login", cause);
    let unsaid = connection.lines.refused.lock().let_through(Instant::now());
    if let Some(count) = unsaid {
        let unsaid = (count > 0).then_some(count);
        connection_event!(info, connection, unsaid, cause, "login refused");
    }
}

/// Whether to say that this user was denied something, and then how many such lines went unsaid before
/// it. Its session may go on, so it can cause as many as it likes.
pub(in crate::telemetry) fn says_denial(connection: &ConnectionInfo<'_>) -> Option<u64> {
    let user = connection.user.unwrap_or_default();
    let mut denied = connection.lines.denied.lock();
    denied.let_through(user, Instant::now())
}

/// The hook does not let a user do this. It is counted when the client is told. Of each user a few are
/// said and kept, and how many went unsaid before.
pub fn permission_refused(connection: &ConnectionInfo<'_>, access: &str, cause: &str) {
    let Some(count) = says_denial(connection) else {
        return;
    };
    let unsaid = (count > 0).then_some(count);
    keep_refusal(connection, "permission", &format!("{access}: {cause}"));
    connection_event!(
        info,
        connection,
        unsaid,
        access,
        cause,
        "permission refused"
    );
}

/// It could not be found out who else of its user is logged in: `[sessions] unknown` counts.
pub fn sessions_unknown(connection: &ConnectionInfo<'_>, cause: &dyn Display) {
    let cause = cause.to_string();
    connection_event!(
        warn,
        connection,
        cause,
        "other sessions of the user are not known"
    );
}

/// A session that lasts was refused, when the hook was asked again; it ends.
pub fn recheck_refused(connection: &ConnectionInfo<'_>, cause: &dyn Display) {
    let cause = cause.to_string();
    connection_event!(info, connection, cause, "refused when asked again");
}
