//! What a server brings: an application, its callers, and refusals.

use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{HeaderMap, StatusCode, header::HeaderValue};

use crate::{Channel, SharedSession, protocol::seam::payload_size};

/// The program behind a service. The transport asks it whom to admit, and hands it each session.
pub trait Application: Send + Sync + 'static {
    /// The maker of a request, as the server knows it.
    type Caller: Caller;

    /// What it keeps for a session from [`Application::admit`] until [`Application::serve`].
    type Place: Send + 'static;

    /// The subprotocols that it speaks on a WebSocket without frames, the best first.
    const PROTOCOLS: &'static [&'static str] = &[];

    /// Whether this request may be made at all. Asked for each that concerns a session over HTTP:
    /// here an application checks the origin. Browsers send requests of other sites without asking,
    /// some of them without the header `Origin`.
    ///
    /// # Errors
    /// The answer to the request.
    fn check(&self, headers: &HeaderMap, caller: &Self::Caller) -> Result<(), Refusal> {
        let _ = (headers, caller);
        Ok(())
    }

    /// As [`Application::check`], for a request that opens a WebSocket.
    ///
    /// # Errors
    /// The answer to the request.
    fn check_web_socket(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let _ = headers;
        Ok(())
    }

    /// Takes a place for a new session, before the client is told that it is open.
    ///
    /// # Errors
    /// The answer to the request.
    fn admit(&self, opening: Opening<'_, Self::Caller>) -> Result<Self::Place, Refusal>;

    /// The longest message that a client may send at first, in bytes: 64 KiB by default. See
    /// [`Channel::set_max_message_size`].
    fn max_message_size(&self) -> usize {
        64 * 1024
    }

    /// The longest payload that a client may send at first, in bytes: messages in SockJS's JSON, in
    /// one request, or in one message of a WebSocket. By default so long that the longest message
    /// fits whatever its characters, which is six times as much. Applications that first hear
    /// something short, and trust no client before it, can do with less. From
    /// [`Channel::set_max_message_size`] on it is six times as much again.
    fn max_payload_size(&self) -> usize {
        payload_size(self.max_message_size())
    }

    /// The sites that may show the iframe's page, as a content security policy; `None`: all.
    fn frame_ancestors(&self) -> Option<HeaderValue> {
        None
    }

    /// Serves a session, in a task of its own. A channel that is dropped closes its session.
    fn serve<C: Channel>(&self, channel: C, place: Self::Place);
}

/// The maker of a request.
pub trait Caller: Send + Sync {
    /// Its address, by which sessions are counted. `None`: it stands for any number of clients, such
    /// as a proxy's, and its sessions are not counted.
    fn address(&self) -> Option<IpAddr>;

    /// Its name, if the connection itself tells it (a certificate). A session serves only requests
    /// of the name that opened it.
    fn identity(&self) -> Option<&str> {
        None
    }

    /// How long it may keep the server waiting for an upgrade, or for the next part of a body: 10 s
    /// by default.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// The request belongs to this session. A server that bounds connections can count this one as
    /// the session's: see [`SharedSession::seat`]. Whether it may send for as long as the session
    /// makes it wait: otherwise it waits for [`Caller::patience`], if three other requests of the
    /// session send already.
    fn joins(&self, session: &Arc<SharedSession>) -> bool {
        let _ = session;
        true
    }
}

impl Caller for SocketAddr {
    fn address(&self) -> Option<IpAddr> {
        Some(self.ip())
    }
}

/// The request that opens a session.
#[derive(Debug)]
pub struct Opening<'a, C> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The query of its URL.
    pub query: Option<&'a str>,
    /// Its maker.
    pub caller: &'a C,
    /// The transport, by the name that `sockjs-client` gives it; `sockjs-websocket` is a WebSocket
    /// with frames, `websocket` one without.
    pub transport: &'static str,
}

/// Why a request is refused: a status, and words for the client's author.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its text.
    pub text: String,
    /// The header `www-authenticate`, for status 401.
    pub challenge: Option<HeaderValue>,
    /// The header `retry-after`, in seconds.
    pub retry_after: Option<u16>,
}

impl Refusal {
    /// A refusal without a challenge.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            challenge: None,
            retry_after: None,
        }
    }

    /// The same, with the time after which the client may come back.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u16) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same, with a challenge to log in by.
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }
}
