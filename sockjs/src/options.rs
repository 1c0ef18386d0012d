//! How one service behaves.

use std::{fmt, time::Duration};

use serde::Deserialize;

/// The address, the transports and the bounds of one service.
#[derive(Clone, Debug)]
pub struct Options {
    /// The path of the service, with a slash at its beginning and none at its end.
    pub prefix: String,
    /// The transports that it serves.
    pub transports: Vec<Transport>,
    /// The time between two heart-beats, which keep proxies from closing a silent connection.
    pub heartbeat: Duration,
    /// How long a session lives while no request receives. A closed session keeps its name for the
    /// same time, but for 5 s at most, so that its client can learn why it was closed.
    pub disconnect_delay: Duration,
    /// Bytes after which a streaming answer ends, and the client asks for the next: browsers keep
    /// all of an answer in memory.
    pub response_limit: usize,
    /// Bytes of one session that its client has sent and the application has not received. Above
    /// this, the client's requests wait.
    pub max_waiting: usize,
    /// Sessions over HTTP from one address at a time; 0: no limit. WebSockets do not count, nor do
    /// sessions of [callers without an address](crate::Caller::address).
    pub max_sessions_per_address: usize,
    /// The URL from which the iframe's page loads `sockjs-client`. It must be the version that the
    /// application's pages use, and must need no escapes in an HTML attribute.
    pub client_url: String,
    /// Whether answers set the cookie `JSESSIONID`, by which some load balancers find the server.
    pub cookie: bool,
    /// Called with the number of bytes of each piece of a request's body. Bytes on a WebSocket do
    /// not count here.
    pub received: fn(usize),
    /// Called with the number of bytes of each frame in an answer, in the transport's wrapping.
    /// Bytes on a WebSocket do not count here.
    pub sent: fn(usize),
    /// Called for each session that is refused because its address has as many as it may.
    pub refused: fn(),
}

impl Options {
    /// The protocol's usual values, for a service at this path.
    #[must_use]
    pub fn at(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            transports: Transport::ALL.to_vec(),
            heartbeat: Duration::from_secs(25),
            disconnect_delay: Duration::from_secs(5),
            response_limit: 128 * 1024,
            max_waiting: 64 * 1024,
            max_sessions_per_address: 0,
            client_url: "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js"
                .to_owned(),
            cookie: false,
            received: |_| {},
            sent: |_| {},
            refused: || {},
        }
    }

    /// Whether the service has this transport.
    #[must_use]
    pub fn serves(&self, transport: Transport) -> bool {
        self.transports.contains(&transport)
    }
}

/// A way in which a client receives, by the name that `sockjs-client` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A WebSocket, with SockJS's frames or without.
    Websocket,
    /// A request that is answered bit by bit.
    XhrStreaming,
    /// A request for each frame.
    XhrPolling,
    /// Server-sent events.
    Eventsource,
    /// A page that grows, in a hidden iframe: for Internet Explorer.
    Htmlfile,
    /// A script for each frame.
    JsonpPolling,
    /// The page by which a client uses the other transports from within the server's origin.
    Iframe,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Websocket,
        Self::XhrStreaming,
        Self::XhrPolling,
        Self::Eventsource,
        Self::Htmlfile,
        Self::JsonpPolling,
        Self::Iframe,
    ];

    /// Its name in `sockjs-client`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::XhrStreaming => "xhr-streaming",
            Self::XhrPolling => "xhr-polling",
            Self::Eventsource => "eventsource",
            Self::Htmlfile => "htmlfile",
            Self::JsonpPolling => "jsonp-polling",
            Self::Iframe => "iframe",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
