//! Listeners: what comes in before there is a session.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    time::{Instant, SystemTime},
};

use humantime::format_rfc3339_seconds;
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{RefusedAt, refused};
use crate::telemetry::{
    Bound,
    metrics::COUNTS,
    refusals::{self, Refusal},
    seldom::{Few, Seldom},
};

/// An address is open; `listener` says for whom (`http`, `stomp`, `admin`).
pub fn listening(address: SocketAddr, listener: &str) {
    info!(target: "stentor::listen", %address, listener, "listening");
}

/// A connection could not be accepted, nor `unsaid` more since this was said the last time.
pub fn accept_failed(what: &str, cause: &dyn Display, unsaid: u64) {
    let cause = cause.to_string();
    warn!(target: "stentor::listen", what, cause, unsaid, "accept failed");
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
    refused(RefusedAt::Request, "sockjs-sessions");
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
        target: "stentor::listen", code = crate::codes::Code::HostNamesUnset.name(), key,
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
        target: "stentor::listen", code = crate::codes::Code::AnyProxyTrusted.name(),
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
    refused(RefusedAt::Request, reason);
    refusals::refused(Refusal {
        at: SystemTime::now(),
        what: "request",
        cause: refusals::cut(cause),
        user: None,
        remote: None,
        session: None,
    });
    if let Some(unsaid) = unsaid {
        info!(target: "stentor::http", reason, cause, unsaid, "client refused before its login");
    }
}

/// Why a connection was closed before STOMP or HTTP was spoken on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It did not begin with a PROXY header, or with none that can be read.
    ProxyHeader,
    /// There was no TLS, or none with this client: its version, its certificate, or that it does
    /// not take ours.
    Tls,
    /// It took too long.
    TooSlow,
}

impl Handshake {
    /// As metrics and lines of the log call it.
    const fn reason(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy-header",
            Self::Tls => "tls",
            Self::TooSlow => "handshake-timeout",
        }
    }

    /// Whether to say it now: a frequent reason does not hide a rare one.
    fn let_through(self) -> Option<u64> {
        static PROXY_HEADER: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::QUIET));
        static TLS: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::QUIET));
        static TOO_SLOW: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::QUIET));
        let seldom = match self {
            Self::ProxyHeader => &PROXY_HEADER,
            Self::Tls => &TLS,
            Self::TooSlow => &TOO_SLOW,
        };
        seldom.lock().let_through(Instant::now())
    }
}

/// A connection did not become a client's stream. `lacks`: why it was closed; `None` if it went by
/// itself, or if that was told already. Port scanners cause that, so it is no warning; but so does a
/// load balancer that sends no PROXY header, so it is said now and then.
pub fn handshake_failed(
    what: &str,
    remote: SocketAddr,
    lacks: Option<Handshake>,
    cause: &dyn Display,
) {
    let cause = cause.to_string();
    if let Some(lacks) = lacks {
        let reason = lacks.reason();
        refused(RefusedAt::Connection, reason);
        if let Some(unsaid) = lacks.let_through() {
            info!(
                target: "stentor::listen", reason, what, %remote, cause, unsaid,
                "client refused before its login"
            );
        }
    }
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
    warn!(
        target: "stentor::listen", code = crate::codes::Code::CertificateEndsSoon.name(),
        subject, %not_after,
        "the certificate ends soon: renew it"
    );
}

/// The gateway's certificate is not valid now: clients will refuse it.
pub fn certificate_invalid(subject: &str, cause: &str) {
    warn!(
        target: "stentor::listen", code = crate::codes::Code::CertificateInvalid.name(),
        subject, cause,
        "clients will refuse the certificate"
    );
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
