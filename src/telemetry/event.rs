//! The events. Their targets are the parts that they happen in, so that `[log] level` can turn
//! single parts up or down.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant, SystemTime},
};

use humantime::format_rfc3339_seconds;
use parking_lot::Mutex;
use tracing::{debug, error, info, warn};

use super::{
    Bound,
    metrics::{self, COUNTS, TALLIES},
    seldom::{Few, Seldom},
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
    /// The bound of the node's lines about clients that are not logged in.
    pub strangers: &'a Strangers,
}

/// Bounds the log lines that clients cause without a login, however many they are. Each kind has a
/// bound of its own.
#[derive(Debug, Default)]
pub struct Strangers {
    closed: Mutex<Few>,
    refused: Mutex<Few>,
}

/// How a connection ended, and what it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending<'a> {
    /// Why: in the words of the ERROR frame, or e.g. `client disconnected`.
    pub reason: &'a str,
    /// The same in words that are of a fixed number: the header `message` of the ERROR frame.
    pub kind: &'static str,
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
    let mut unsaid = None;
    if connection.user.is_none() {
        let Some(count) = connection
            .strangers
            .closed
            .lock()
            .let_through(Instant::now())
        else {
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
/// how many went unsaid before.
pub fn login_refused(connection: &ConnectionInfo<'_>, cause: &str) {
    COUNTS.logins_refused.inc();
    let unsaid = connection
        .strangers
        .refused
        .lock()
        .let_through(Instant::now());
    if let Some(count) = unsaid {
        let unsaid = (count > 0).then_some(count);
        connection_event!(info, connection, unsaid, cause, "login refused");
    }
}

/// The hook does not let a user do this.
pub fn permission_refused(connection: &ConnectionInfo<'_>, access: &str, cause: &str) {
    COUNTS.permissions_refused.inc();
    connection_event!(info, connection, access, cause, "permission refused");
}

/// It could not be found out who else of its user is logged in: `[sessions] unknown` counts.
pub fn sessions_unknown(connection: &ConnectionInfo<'_>, cause: &dyn Display) {
    connection_event!(warn, connection, %cause, "other sessions of the user are not known");
}

/// A session that lasts was refused, when the hook was asked again; it ends.
pub fn recheck_refused(connection: &ConnectionInfo<'_>, cause: &dyn Display) {
    connection_event!(info, connection, %cause, "refused when asked again");
}

/// Commands of other nodes and of backends are heard (again).
pub fn control_up(exchange: &str) {
    info!(target: "stentor::control", exchange, "listening for commands");
}

/// Commands of other nodes and of backends are not heard, and some may have been lost.
pub fn control_down(exchange: &str, cause: &str, retry_in: Duration) {
    let retry_in_ms = millis(retry_in);
    warn!(target: "stentor::control", exchange, cause, retry_in_ms, "not listening for commands");
}

/// A command was run on this node; `from` gave it, and `hits` is how much it did.
pub fn control_command(command: &str, subject: &str, from: &str, hits: u64) {
    info!(target: "stentor::control", command, subject, from, hits, "command run");
}

/// Something came by the exchange of commands that is not to be done.
pub fn control_ignored(cause: &str) {
    warn!(target: "stentor::control", cause, "command ignored");
}

/// Commands came faster than they could be run, and so many were not.
pub fn control_dropped(dropped: u32) {
    error!(target: "stentor::control", dropped, "commands lost");
}

/// Other nodes could not be told a command.
pub fn control_untold(command: &str, cause: &str) {
    error!(target: "stentor::control", command, cause, "command not sent to other nodes");
}

/// A client was refused, or its session ended, by a ban of this kind; `at` says where.
pub fn ban_refused(kind: &'static str, at: &'static str) {
    let labels = [("banned", kind), ("at", at)];
    COUNTS.ban_refusals.get_or_create(&labels).inc();
}

/// A banned client was refused, nor was this said of `unsaid` more since the last time.
pub fn banned_client_refused(banned: &dyn Display, address: Option<IpAddr>, at: &str, unsaid: u64) {
    let (banned, address) = (
        banned.to_string(),
        address.map(|address| address.to_string()),
    );
    info!(target: "stentor::node", banned, address, at, unsaid, "banned client refused");
}

/// A token's holder set a ban, or lifted it: for the audit.
pub fn ban_changed(token: Option<&str>, subject: &dyn Display, is_lifted: bool, ban: &BanInfo<'_>) {
    let subject = subject.to_string();
    if is_lifted {
        info!(target: "stentor::api", token, subject, reach = ban.reach, "ban lifted");
        return;
    }
    let until = ban
        .until
        .map(|until| format_rfc3339_seconds(until).to_string());
    let BanInfo { reason, reach, .. } = *ban;
    info!(target: "stentor::api", token, subject, until, reason, reach, "ban set");
}

/// A ban, for the audit.
#[derive(Clone, Copy, Debug)]
pub struct BanInfo<'a> {
    /// When it ends; `None`: it does not.
    pub until: Option<SystemTime>,
    /// The reason that was given.
    pub reason: &'a str,
    /// Which nodes hold to it.
    pub reach: &'a str,
}

/// Bans that this node had missed came from another, or from Redis.
pub fn bans_heard(from: &str, count: usize) {
    info!(target: "stentor::control", from, count, "bans learnt");
}

/// A ban was not taken, for there are as many as a node holds.
pub fn bans_full(subject: &dyn Display) {
    let subject = subject.to_string();
    error!(target: "stentor::control", subject, "ban not taken: there are too many");
}

/// A link to the broker is there (again): for what it is, and in which virtual host. Of one that was
/// away with others it `is_news` when the last is back ([`broker_links_back`]).
pub fn broker_link_up(link: &str, vhost: &str, is_news: bool) {
    COUNTS.broker_links_made.inc();
    if is_news {
        info!(target: "stentor::broker", link, vhost, "broker link up");
    } else {
        debug!(target: "stentor::broker", link, vhost, "broker link up");
    }
}

/// The last link of an outage is back: after how long, and of how many links.
pub fn broker_links_back(link: &str, vhost: &str, after: Duration, links: usize) {
    let away_ms = millis(after);
    info!(target: "stentor::broker", link, vhost, away_ms, links, "broker links back");
}

/// A link to the broker at that address is lost, or could not be made; it `is_news` if that is the
/// begin of an outage.
pub fn broker_link_down(
    link: &str,
    vhost: &str,
    broker: &str,
    cause: &str,
    retry_in: Duration,
    is_news: bool,
) {
    COUNTS.broker_link_failures.inc();
    let retry_in_ms = millis(retry_in);
    if is_news {
        warn!(
            target: "stentor::broker",
            link, vhost, broker, cause, retry_in_ms, "broker link down"
        );
    } else {
        debug!(
            target: "stentor::broker",
            link, vhost, broker, cause, retry_in_ms, "broker link down"
        );
    }
}

/// A link was closed over one of these queues, which it had been asked for and not answered about.
pub fn queues_suspected(vhost: &str, queues: &[Box<str>]) {
    COUNTS.queues_suspected.inc_by(queues.len() as u64);
    let first: Vec<&str> = queues.iter().take(5).map(|queue| &**queue).collect();
    warn!(
        target: "stentor::broker", vhost, queues = first.join(", "), count = queues.len(),
        "RabbitMQ closed a link over a queue: the queues in question are tried on links of their own"
    );
}

/// The first client of a virtual host, or the program's start: its links are being made.
pub fn vhost_opened(vhost: &str) {
    info!(target: "stentor::hub", vhost, "virtual host opened");
}

/// The links of a virtual host are closed.
pub fn vhost_closed(vhost: &str, cause: &str) {
    info!(target: "stentor::hub", vhost, cause, "virtual host closed");
}

/// The broker has no transient queues but those that end with their connection.
pub fn transient_queues_refused(vhost: &str, cause: &str) {
    warn!(
        target: "stentor::broker", vhost, cause,
        "the broker refuses transient queues: those of `feed.durable = false` and of clients' \
        `durable:false` are durable instead, and expire when nobody uses them"
    );
}

/// The broker takes no messages that name their user: the gateway's account may not speak for
/// others.
pub fn impersonation_refused(cause: &str) {
    error!(
        target: "stentor::broker", cause,
        "the gateway's account may not publish for its users: give it the tag `impersonator` \
         (rabbitmqctl set_user_tags), or set [broker] impersonate = false"
    );
}

/// The broker closed a channel because of a message that it does not take: `again` messages that
/// followed it are sent again; the fate of `unknown` others is not known.
pub fn publish_channel_closed(cause: &str, again: usize, unknown: usize) {
    if again == 0 && unknown == 0 {
        debug!(target: "stentor::broker", cause, "publishing refused");
        return;
    }
    warn!(
        target: "stentor::broker",
        cause, again, unknown,
        "publishing refused, with messages of others under way: sent again, or of unknown fate"
    );
}

/// The broker does not say of which type an exchange is.
pub fn exchange_type_unknown(exchange: &str, text: &str) {
    warn!(
        target: "stentor::broker::amqp::topology",
        exchange,
        %text,
        "the type of an exchange is unknown, so each of its subscriptions \
         gets a queue of its own; name it in the configuration under \
         [broker.exchanges], or let the gateway's account configure it"
    );
}

/// So many messages were not confirmed for so long that their channel is given up.
pub fn publish_channel_replaced(messages: usize) {
    warn!(
        target: "stentor::broker::amqp::publisher::lane",
        messages,
        "the broker does not confirm messages; their channel is replaced"
    );
}

/// The broker takes no messages for now (an alarm: memory or disk).
pub fn broker_blocked(link: &str, vhost: &str, cause: &str) {
    warn!(
        target: "stentor::broker", link, vhost,
        cause, "broker blocked: clients that publish are not read"
    );
}

/// The broker takes messages again.
pub fn broker_unblocked(link: &str, vhost: &str) {
    info!(target: "stentor::broker", link, vhost, "broker unblocked");
}

/// The broker is in this process' memory.
pub fn broker_embedded() {
    warn!(target: "stentor::broker", "the broker is embedded: nothing outlives this process");
}

/// Messages of a feed may have been lost; its clients are told.
pub fn feed_interrupted(feed: &dyn Display, cause: &str) {
    COUNTS.feeds_interrupted.inc();
    let feed = feed.to_string();
    error!(target: "stentor::hub", feed, cause, "feed interrupted");
}

/// The broker does not let this node have a feed's queue; it is asked again and again.
pub fn feed_refused(feed: &dyn Display, cause: &str) {
    let feed = feed.to_string();
    warn!(target: "stentor::broker", feed, cause, "feed refused");
}

/// The account may not publish to an exchange, so nothing shows when it is deleted and made anew.
pub fn feed_unwatched(feed: &dyn Display, cause: &str) {
    let feed = feed.to_string();
    warn!(
        target: "stentor::broker",
        feed,
        cause,
        "an exchange cannot be watched: its bindings are renewed in turn, and a gap is not noticed"
    );
}

/// Redis is there (again); so many sessions are or will be registered.
pub fn presence_up(sessions: usize) {
    info!(target: "stentor::presence", sessions, "presence up");
}

/// Redis is away, or fails: other nodes do not see this node's users, and push goes on.
pub fn presence_down(cause: &str, retry_in: Duration) {
    COUNTS.presence_failures.inc();
    let retry_in_ms = millis(retry_in);
    warn!(target: "stentor::presence", cause, retry_in_ms, "presence down: push goes on");
}

/// Redis had forgotten this node, so its sessions counted as offline: the node registers them anew.
pub fn presence_lease_lost(sessions: usize) {
    warn!(target: "stentor::presence", sessions, "presence lease lost: registering anew");
}

/// Another node at the same broker keeps presence in its memory, as this one does.
pub fn presence_apart(node: &str) {
    warn!(
        target: "stentor::presence", node,
        "another node keeps presence in its memory, as this one does: neither knows who is at the \
         other, and `[sessions]` counts here alone; give both the same Redis ([presence] url)"
    );
}

/// Bytes came from a client: once for each time that its socket was read.
pub fn bytes_received(count: usize) {
    TALLIES.received.fetch_add(count as u64, Relaxed);
}

/// Bytes went to a client: once for each time that its socket was written to.
pub fn bytes_sent(count: usize) {
    TALLIES.sent.fetch_add(count as u64, Relaxed);
}

/// A message of a dedicated subscription was put into its client's mailbox.
pub fn delivered_by_queue() {
    TALLIES.dedicated_deliveries.fetch_add(1, Relaxed);
}

/// A mailbox was full, and something had to be done.
pub fn mailbox_overflow(done: &'static str) {
    COUNTS
        .mailbox_overflows
        .get_or_create(&[("done", done)])
        .inc();
}

/// The process takes more memory than the mark: less is let in from now on.
pub fn memory_short(resident_bytes: usize, mark_bytes: usize) {
    warn!(
        target: "stentor::node", resident_bytes, mark_bytes,
        "short of memory: logins are refused, publishers wait, slow clients are closed"
    );
}

/// There is enough memory again.
pub fn memory_enough(resident_bytes: usize) {
    info!(target: "stentor::node", resident_bytes, "enough memory again");
}

/// The clients with the most bytes waiting were closed, for want of memory.
pub fn memory_shed(sessions: usize, bytes: usize) {
    warn!(target: "stentor::node", sessions, bytes, "the slowest clients are closed");
}

/// The broker has confirmed a message.
pub fn published() {
    TALLIES.publishes.fetch_add(1, Relaxed);
}

/// A message was not published; `why` is one of a fixed number of texts. Its publisher is told
/// more.
pub fn not_published(why: &'static str) {
    COUNTS
        .publish_failures
        .get_or_create(&[("reason", why)])
        .inc();
}

/// A call of the hook failed, and what follows; nor had `unsaid` more since this was said the last
/// time.
pub fn hook_at_fault(
    call: &dyn Display,
    path: &str,
    result: &str,
    cause: &dyn Display,
    unsaid: u64,
) {
    error!(
        target: "stentor::auth", %call, path, unsaid,
        "the auth hook is at fault, {result}: {cause}"
    );
}

/// The hook answers again; so many faults went unsaid.
pub fn hook_answers_again(call: &dyn Display, path: &str, unsaid: u64) {
    info!(target: "stentor::auth", %call, path, unsaid, "the auth hook answers again");
}

/// These paths of the hook are not set, so the requests that they check are denied to everybody, or
/// allowed.
pub fn hook_unset(keys: &str, is_allowed: bool) {
    let done = if is_allowed { "ALLOWED" } else { "DENIED" };
    warn!(
        target: "stentor::auth::http",
        "auth: not set: {keys}; requests that they check are {done} TO EVERYBODY"
    );
}

/// The hook was called: the time that it took, and if it failed. The log has the fault.
pub fn hook_called(call: &'static str, took: Duration, is_fault: bool) {
    metrics::hook_called(call, took, is_fault);
}

/// A request to the operator's side, as it was answered.
#[derive(Clone, Copy, Debug)]
pub struct ApiRequest<'a> {
    /// The name of its token, if it has a good one.
    pub token: Option<&'a str>,
    /// Its method.
    pub method: &'a str,
    /// The template of its path.
    pub route: &'static str,
    /// Its path.
    pub path: &'a str,
    /// The answer's status.
    pub status: u16,
    /// How long it took.
    pub duration: Duration,
    /// It changes something: then it is logged at `info`, else at `debug`.
    pub changes: bool,
}

/// A request to the operator's side was answered.
pub fn api_request(request: &ApiRequest<'_>) {
    let ApiRequest {
        token,
        method,
        route,
        path,
        status,
        duration,
        changes,
    } = *request;
    let label = [
        ("route", format!("{method} {route}")),
        ("status", status.to_string()),
    ];
    COUNTS.api_requests.get_or_create(&label).inc();
    let duration_ms = millis(duration);
    if changes {
        info!(target: "stentor::api", token, method, path, status, duration_ms, "API request");
    } else {
        debug!(target: "stentor::api", token, method, path, status, duration_ms, "API request");
    }
}

/// A request had no token, or an unknown one, nor had `unsaid` more since this was said the last
/// time.
pub fn api_refused(cause: &str, unsaid: u64) {
    warn!(target: "stentor::api", cause, unsaid, "API request refused");
}

/// There are no tokens, so that the API serves nobody.
pub fn api_closed() {
    info!(
        target: "stentor::api",
        "the HTTP API is closed, for there are no tokens: `stentor token` makes one for [api] tokens"
    );
}

/// The entries of a dead node in Redis were cleared up; so many sessions.
pub fn presence_cleared(lease: &str, sessions: usize) {
    info!(target: "stentor::presence", lease, sessions, "cleared up after a dead node");
}

/// Presence events reach the broker (again).
pub fn presence_events_up(exchange: &str) {
    info!(target: "stentor::presence", exchange, "presence events are published");
}

/// Presence events do not reach the broker: the newest of each user waits.
pub fn presence_events_down(exchange: &str, cause: &dyn Display, retry_in: Duration) {
    let (cause, retry_in_ms) = (cause.to_string(), millis(retry_in));
    warn!(
        target: "stentor::presence", exchange, cause, retry_in_ms,
        "presence events are not published: the newest of each user waits"
    );
}

/// Presence events of more users than this would wait for the broker: some are not told.
pub fn presence_events_lost(waiting: usize) {
    warn!(
        target: "stentor::presence", waiting,
        "presence events lost: listeners have to ask for the users online again"
    );
}

/// The program starts.
pub fn starting() {
    info!(target: "stentor", version = env!("CARGO_PKG_VERSION"), "starting");
}

/// An address is open; `listener` says for whom (`http`, `stomp`, `admin`).
pub fn listening(address: SocketAddr, listener: &str) {
    info!(target: "stentor::listen", %address, listener, "listening");
}

/// A connection could not be accepted, nor `unsaid` more since this was said the last time.
pub fn accept_failed(what: &str, cause: &dyn Display, unsaid: u64) {
    let cause = cause.to_string();
    warn!(target: "stentor::listen", what, cause, unsaid, "accept failed");
}

/// A connection was not taken, for there are too many; [`connection_limit_reached`] says so now and
/// then.
pub fn connection_turned_away() {
    COUNTS.connections_turned_away.inc();
}

/// A connection that was not logged in was closed for another one; [`places_full`] says so now and
/// then.
pub fn connection_gave_way() {
    COUNTS.connections_gave_way.inc();
}

/// All places for connections without a login are taken, so that the oldest of the address with most
/// give way; `unsaid` more since this was said the last time.
pub fn places_full(what: &str, max_unauthenticated: usize, unsaid: u64) {
    warn!(
        target: "stentor::listen", what, max_unauthenticated, unsaid,
        "too many connections are not logged in: the oldest of the address with most are closed"
    );
}

/// A client was refused, for there is no file left for it; `unsaid` more since this was said the
/// last time.
pub fn files_used_up(what: &str, open_files: u64, unsaid: u64) {
    warn!(
        target: "stentor::listen", what, open_files, unsaid,
        "clients use all files that are theirs, so more are turned away: raise the hard limit \
         (`ulimit -Hn`, systemd's LimitNOFILE)"
    );
}

/// A session of SockJS was not opened, for its address has as many as it may.
pub fn sockjs_session_refused() {
    static SAID: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));
    COUNTS.sockjs_sessions_refused.inc();
    if let Some(unsaid) = SAID.lock().let_through(Instant::now()) {
        warn!(
            target: "stentor::listen", unsaid,
            "an address has as many sessions as [sockjs] max_sessions_per_address allows: refused"
        );
    }
}

/// Pages of any site could log their visitors in, by the key of `[auth]`.
pub fn host_names_unset(key: &str) {
    warn!(
        target: "stentor::listen", key,
        "browsers log in by [auth] {key} whatever page asks, and a site could lead its own name to \
         this address: set [listen] host_names, and requests for other names are refused"
    );
}

/// Connections were not accepted, for there are as many as are allowed; `unsaid` more since this
/// was said the last time.
pub fn connection_limit_reached(what: &str, max_connections: usize, unsaid: u64) {
    warn!(
        target: "stentor::listen", what, max_connections,
        unsaid, "connection limit reached: clients are turned away"
    );
}

/// PROXY headers are taken from everybody, for no proxy is named.
pub fn any_proxy_trusted() {
    warn!(
        target: "stentor::listen",
        "[listen] proxy_protocol is on without trusted_proxies: everybody who can connect can give \
         any address; name the networks of your proxies there"
    );
}

/// A request came with the headers of a proxy that is not trusted. Said once.
pub fn proxy_not_trusted(peer: IpAddr) {
    warn!(
        target: "stentor::listen", %peer,
        "a proxy names its clients' addresses and is not believed, so they all count as one: write \
         the proxy's network into [listen] trusted_proxies"
    );
}

/// A connection began with a PROXY header, and is from no trusted proxy; nor had `unsaid` more since
/// this was said the last time.
pub fn proxy_header_refused(what: &str, remote: SocketAddr, unsaid: u64) {
    warn!(
        target: "stentor::listen", what, %remote, unsaid,
        "a PROXY header came from an address that is not in [listen] trusted_proxies: closed"
    );
}

/// A client met a bound, nor had `unsaid` more since this was said the last time.
pub(super) fn limit_line(bound: Bound, by: &dyn Display, unsaid: u64) {
    let (by, key) = (by.to_string(), bound.key());
    warn!(
        target: "stentor::node", bound = bound.name(), by, key, unsaid,
        "limit exceeded: clients are refused, or read more slowly"
    );
}

/// An address that may stand for many clients is over a bound for one; it is not refused.
pub fn shared_address_over_bound(bound: Bound, address: &dyn Display) {
    let (address, key) = (address.to_string(), bound.key());
    warn!(
        target: "stentor::node", bound = bound.name(), address, key,
        "an address of a private network, or of a proxy, is over a bound for one client, so bounds \
         by address do not hold there: if it is a proxy, let it give its clients' addresses, and \
         name it in [listen] trusted_proxies"
    );
}

/// A request was refused before STOMP began, for a `reason` of a fixed number; `unsaid` more since
/// this was said the last time, `None`: not to be said now.
pub fn request_refused(reason: &'static str, cause: &str, unsaid: Option<u64>) {
    COUNTS
        .requests_refused
        .get_or_create(&[("reason", reason)])
        .inc();
    if let Some(unsaid) = unsaid {
        info!(target: "stentor::http", reason, cause, unsaid, "client refused before its login");
    }
}

/// A connection lacked its PROXY header, TLS, or client certificate. Port scanners cause that, so
/// it is no warning.
pub fn handshake_failed(what: &str, remote: SocketAddr, cause: &dyn Display) {
    let cause = cause.to_string();
    debug!(target: "stentor::listen", what, %remote, cause, "handshake failed");
}

/// The gateway's certificate was read, and serves new connections.
pub fn certificate_loaded(subject: &str, not_after: SystemTime) {
    let not_after = format_rfc3339_seconds(not_after);
    info!(target: "stentor::listen", subject, %not_after, "certificate loaded");
}

/// The gateway's certificate ends within days.
pub fn certificate_ends_soon(subject: &str, not_after: SystemTime) {
    let not_after = format_rfc3339_seconds(not_after);
    warn!(target: "stentor::listen", subject, %not_after, "the certificate ends soon: renew it");
}

/// The gateway's certificate is not valid now: clients will refuse it.
pub fn certificate_invalid(subject: &str, cause: &str) {
    warn!(target: "stentor::listen", subject, cause, "clients will refuse the certificate");
}

/// The gateway's certificate was to be read anew, and could not be.
pub fn certificate_kept(cause: &dyn Display) {
    let cause = cause.to_string();
    error!(target: "stentor::listen", cause, "certificate not loaded: the old one stays");
}

/// SIGHUP came, and there is no certificate to read again.
pub fn nothing_to_reload() {
    info!(target: "stentor::listen", "SIGHUP: there is no certificate to read again");
}

/// A client's certificate is sound, but cannot be a login. A few are said, and how many went unsaid
/// before.
pub fn certificate_without_name(remote: SocketAddr, cause: &dyn Display) {
    static SAID: Mutex<Few> = Mutex::new(Few::new());
    let Some(unsaid) = SAID.lock().let_through(Instant::now()) else {
        return;
    };
    let cause = cause.to_string();
    info!(
        target: "stentor::listen", %remote, unsaid,
        cause, "a client's certificate has no user's name"
    );
}

/// The system allows fewer open files than `wanted` clients may need, so fewer are taken.
pub fn few_files(
    open_files: u64,
    wanted: usize,
    max_connections: usize,
    max_unauthenticated: usize,
) {
    warn!(
        target: "stentor::listen", open_files, wanted, max_connections, max_unauthenticated,
        "fewer clients than [listen] max_connections, for the system allows too few open files: \
         raise the hard limit (`ulimit -Hn`, systemd's LimitNOFILE), or lower max_connections"
    );
}

/// The readiness check fails from now on.
pub fn not_ready(cause: &str) {
    info!(target: "stentor::shutdown", cause, "not ready");
}

/// So many clients are told to reconnect elsewhere, over this time.
pub fn draining(connections: usize, over: Duration) {
    info!(target: "stentor::shutdown", connections, over_ms = millis(over), "draining");
}

/// The program ends; so many clients were cut.
pub fn stopped(cut: usize) {
    if cut == 0 {
        info!(target: "stentor::shutdown", "stopped");
    } else {
        warn!(
            target: "stentor::shutdown", cut,
            "stopped: the grace time was over, and clients were cut"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
