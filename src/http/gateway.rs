//! STOMP, as clients that come in by HTTP are served with it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hyper::{HeaderMap, StatusCode, header::HeaderValue, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use sockjs_server::{Application, Caller, Channel, Opening, Refusal, SharedSession, WebSocket};
use stomp_session::{Problem, Reconnect};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    patience::Patient,
    place::HttpPlace,
    refused::{RefusalLog, RefusedFor},
    upgrade::{Origins, SUBPROTOCOLS},
};
use crate::{
    auth::{Carried, CarryError, Forwarding},
    connection::{self, Peer},
    listen::WebSocketLink,
    node::{ClientAddress, Guard, Place, Places, Services},
};

/// The services for clients, and the rules by which they come in.
pub struct Gateway {
    /// The services of the node.
    pub services: Arc<Services>,
    /// Which requests may, and what their logins get.
    pub rules: RwLock<Arc<Rules>>,
    /// The refusals that the log has.
    pub refusals: RefusalLog,
}

/// The rules for requests, which can change while they come.
#[derive(Debug)]
pub struct Rules {
    /// Which pages may connect.
    pub origins: Origins,
    /// Which parts of a request its login gets.
    pub forwarding: Forwarding,
}

impl Application for Gateway {
    type Caller = Client;
    type Place = (Peer, Guard);

    const PROTOCOLS: &'static [&'static str] = &SUBPROTOCOLS;

    fn check(&self, headers: &HeaderMap, client: &Client) -> Result<(), Refusal> {
        let rules = self.rules();
        let is_ambient = rules.forwarding.is_ambient() || client.certificate.is_some();
        let checked = rules.origins.check_loosely(headers, is_ambient);
        self.refusals.noted(RefusedFor::Origin, checked)
    }

    fn check_web_socket(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let checked = self.rules().origins.check(headers);
        self.refusals.noted(RefusedFor::Origin, checked)
    }

    fn admit(&self, opening: Opening<'_, Client>) -> Result<Self::Place, Refusal> {
        let client = opening.caller;
        let carried = self.rules().forwarding.read(opening.headers, opening.query);
        let carried = carried.map_err(not_carried);
        let carried = self.refusals.noted(RefusedFor::Credentials, carried)?;
        let carried = Carried::with_certificate(carried, client.certificate.clone());
        // Taken before the answer, so that a drain waits for this one too.
        let entered = self.services.enter_from(client.address);
        let guard = entered.map_err(|problem| self.no_room(&problem, client))?;
        let place = client.take_place(self.services.registry.places());
        let place = place.ok_or_else(|| self.no_room(&Problem::TooManyLogins, client))?;
        guard.hold(place);
        let peer = Peer {
            address: client.address,
            transport: opening.transport,
            carried,
        };
        Ok((peer, guard))
    }

    fn max_message_size(&self) -> usize {
        self.services
            .settings()
            .limits
            .max_frame_size_unauthenticated
    }

    /// CONNECT is short, and none of its characters has to take six bytes: without a login, nobody
    /// shall have more of the node's memory than by other ways in.
    fn max_payload_size(&self) -> usize {
        self.max_message_size()
    }

    fn frame_ancestors(&self) -> Option<HeaderValue> {
        self.rules().origins.frame_ancestors()
    }

    fn serve<C: Channel>(&self, channel: C, (peer, guard): Self::Place) {
        let services = Arc::clone(&self.services);
        // A task of its own, which keeps nothing of how the client came in.
        tokio::spawn(connection::serve(services, channel, peer, guard));
    }
}

impl Gateway {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Requests from now on go by these.
    pub fn replace_rules(&self, rules: Rules) {
        *self.rules.write() = Arc::new(rules);
    }

    fn no_room(&self, problem: &Problem, client: &Client) -> Refusal {
        let status = match problem {
            Problem::TooManyConnections => {
                self.services.registry.log_turned_away(client.what);
                StatusCode::SERVICE_UNAVAILABLE
            }
            Problem::TooManyLogins => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::TOO_MANY_REQUESTS,
        };
        let refusal = Refusal::new(status, problem.detail().trim_end());
        match problem.reconnect() {
            Reconnect::After(seconds) => refusal.with_retry_after(seconds),
            _ => refusal,
        }
    }
}

fn not_carried(error: CarryError) -> Refusal {
    let status = match error {
        CarryError::Unauthorized => StatusCode::UNAUTHORIZED,
        CarryError::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        CarryError::Twice(_) | CarryError::NotText(_) => StatusCode::BAD_REQUEST,
    };
    let refusal = Refusal::new(status, error.to_string());
    if status == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static("Basic realm=\"STOMP\", charset=\"UTF-8\"");
        return refusal.with_challenge(basic);
    }
    refusal
}

/// The client that makes a request, and where it came in.
pub struct Client {
    /// Its address; behind a trusted proxy, the one that this request's headers name.
    pub address: ClientAddress,
    /// The user that its certificate names, if certificates are logins.
    pub certificate: Option<Box<str>>,
    /// The listener's name in errors and log lines.
    pub what: &'static str,
    /// How long a client may keep others waiting.
    pub timeout: Duration,
    pub(super) place: Arc<HttpPlace>,
}

impl Client {
    /// A place for a session that this request opens: the connection's own, if it is not part of
    /// another session.
    fn take_place(&self, places: &Arc<Places>) -> Option<Place> {
        let own = self.place.listener.lock().take();
        own.or_else(|| Some(places.take(&self.address, self.what)?.0))
    }
}

impl Caller for Client {
    fn address(&self) -> Option<IpAddr> {
        (!self.address.is_shared).then(|| self.address.key().first())
    }

    fn identity(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    fn patience(&self) -> Duration {
        self.timeout
    }

    /// The client's connection is now one of this session's, if the session has a seat for it. Once
    /// the session is logged in, the connection gives its place back. Without a seat it keeps the
    /// place, and only few requests of a session may have one for long.
    fn joins(&self, session: &Arc<SharedSession>) -> bool {
        let has_seat = self.place.sits_at(session);
        if has_seat && session.has_budget() {
            let place = self.place.listener.lock().take();
            drop(place);
        }
        has_seat
    }
}

/// On the listener's bare stream: hyper's buffers are not kept.
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> WebSocket for WebSocketLink<S> {
    fn from_upgraded(upgraded: Upgraded, max_message_size: usize) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<Patient<S>>>().ok()?;
        let mut stream = parts.io.into_inner();
        stream.put_back(&parts.read_buf);
        let (stream, received) = stream.into_parts();
        Some(Self::new(stream, received, max_message_size))
    }

    fn send_text(&mut self, text: &str) {
        self.put_text(text);
    }

    fn has_news(&self) -> bool {
        Self::has_news(self)
    }
}
