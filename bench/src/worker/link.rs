//! How a client and a server exchange frames: over a WebSocket, or by SockJS over HTTP.

use rand::RngExt as _;

use crate::{
    orders::Transport,
    wire::{
        sockjs::{self, Responses},
        websocket,
    },
};

/// The path of SockJS.
const SOCKJS: &str = "/stomp";

/// A client's link. That of SockJS is larger, so it is in a box.
pub(super) enum Link {
    WebSocket,
    Sockjs(Box<Sockjs>),
}

/// A session of SockJS: messages come in the responses to requests on the client's own socket; its
/// own frames go in requests over sockets that clients share, as behind a proxy.
pub(super) struct Sockjs {
    /// The session's path.
    session: String,
    /// The last segment of the URL that messages come from.
    receive: &'static str,
    pub(super) responses: Responses,
    posts: Vec<u8>,
}

impl Link {
    pub(super) fn new(transport: Transport) -> Self {
        let receive = match transport {
            Transport::WebSocket => return Self::WebSocket,
            Transport::SockjsXhrStreaming => "xhr_streaming",
            Transport::SockjsXhr => "xhr",
        };
        let number: u64 = rand::rng().random();
        Self::Sockjs(Box::new(Sockjs {
            session: format!("{SOCKJS}/000/{number:016x}"),
            receive,
            responses: Responses::default(),
            posts: Vec::new(),
        }))
    }

    /// The request of a client on its socket; `path` is that of the WebSocket.
    pub(super) fn request(&self, host: &str, path: &str) -> Vec<u8> {
        match self {
            Self::WebSocket => websocket::upgrade_request(host, path),
            Self::Sockjs(link) => sockjs::receive(host, &link.session, link.receive),
        }
    }

    /// Requests that wait to be made; `None` without one.
    pub(super) fn posts(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Sockjs(link) if !link.posts.is_empty() => Some(std::mem::take(&mut link.posts)),
            _ => None,
        }
    }
}

impl Sockjs {
    /// Has a frame sent.
    ///
    /// # Errors
    /// It is no UTF-8.
    pub(super) fn post(&mut self, host: &str, frame: &[u8]) -> Result<(), String> {
        sockjs::send(host, &self.session, frame, &mut self.posts)
    }
}
