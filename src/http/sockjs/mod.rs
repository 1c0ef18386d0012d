//! SockJS over HTTP: requests to sessions, and frames to answers. What it owes is in
//! [`crate::listen::sockjs`]; here is the part that knows hyper.

mod answer;
mod receive;
mod send;

use std::sync::Arc;

use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use tokio::io::{AsyncRead, AsyncWrite};

pub use answer::not_found;

use self::answer::{Answering, Cors};
use super::{
    Client, HttpAnswer, Refusal, refuse, switch,
    upgrade::{self, Grant},
};
use crate::listen::{
    WebSocketLink,
    sockjs::{
        Channel, Config, FramedLink, Sessions, Transport,
        format::Format,
        path::{self, Endpoint, Route},
        sessions::{Asking, Found},
    },
};

/// What is spoken over SockJS. The transport asks it who may, and hands it each session.
pub trait Application: Send + Sync + 'static {
    /// What it keeps for a session until that is served: a place, and who it is for.
    type Place: Send + 'static;

    /// The subprotocols that are spoken on a WebSocket without frames, the best first.
    const PROTOCOLS: &'static [&'static str];

    /// Whether this request may be made at all. Asked for each that concerns a session.
    ///
    /// # Errors
    /// What it is answered.
    fn check(&self, headers: &HeaderMap, client: &Client) -> Result<(), Refusal>;

    /// As [`Application::check`], for one that opens a WebSocket.
    ///
    /// # Errors
    /// What it is answered.
    fn check_web_socket(&self, headers: &HeaderMap) -> Result<(), Refusal>;

    /// Takes a place for a new session, before the client is told that it is open.
    ///
    /// # Errors
    /// What the request is answered.
    fn admit(&self, opening: Opening<'_>) -> Result<Self::Place, Refusal>;

    /// The longest message that a client may send at first, in bytes.
    fn max_message_size(&self) -> usize;

    /// Who may show the iframe's page, as a content security policy.
    fn frame_ancestors(&self) -> Option<HeaderValue>;

    /// Serves a session, in a task of its own.
    fn serve<C: Channel>(&self, channel: C, place: Self::Place);
}

/// The request that opens a session.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The query of its URL.
    pub query: Option<&'a str>,
    /// Who makes it.
    pub client: &'a Client,
    /// The transport, as log lines name it.
    pub transport: &'static str,
}

/// One service under its prefix.
pub struct SockJs {
    config: Config,
    prefix: Box<str>,
    sessions: Arc<Sessions>,
}

impl SockJs {
    /// A service as it is configured; `None` where it is off.
    #[must_use]
    pub fn new(config: Config) -> Option<Self> {
        let prefix = config.prefix.as_deref()?.into();
        let sessions = Sessions::new(&config);
        Some(Self {
            config,
            prefix,
            sessions,
        })
    }

    /// The sessions that there are over HTTP.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// What of a path is under this service's prefix; `None`: it is another's.
    fn path_within<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&*self.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// Whether a path is this service's to answer.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        self.path_within(path).is_some()
    }

    /// Answers a request, on a connection that is an `S`.
    pub async fn answer<S, A>(
        &self,
        application: &Arc<A>,
        request: Request<Incoming>,
        client: Client,
    ) -> HttpAnswer
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        A: Application,
    {
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let route = self.path_within(uri.path()).and_then(path::route);
        let Some(route) = route.filter(|route| self.serves(*route)) else {
            return not_found();
        };
        let expected = expected(route);
        let cors = expected.is_cors.then(|| Cors::of(&parts.headers));
        if let Some(cors) = cors.as_ref().filter(|_| parts.method == Method::OPTIONS) {
            return answer::preflight(cors, expected.allow);
        }
        if parts.method != expected.method {
            return answer::wrong_method(expected.allow);
        }
        let (id, endpoint) = match route {
            Route::Greeting => return answer::greeting(),
            Route::Info => return answer::info(&self.config, cors.as_ref()),
            Route::Iframe => {
                let known = parts.headers.get(header::IF_NONE_MATCH);
                let policy = application.frame_ancestors();
                return answer::iframe(&self.config.client_url, known, policy);
            }
            Route::RawWebSocket => {
                let request = Request::from_parts(parts, body);
                return self.web_socket::<S, A>(application, request, &client, Framing::Raw);
            }
            Route::Session {
                endpoint: Endpoint::WebSocket,
                ..
            } => {
                let request = Request::from_parts(parts, body);
                return self.web_socket::<S, A>(application, request, &client, Framing::SockJs);
            }
            Route::Session { id, endpoint } => (id, endpoint),
        };
        let cookie = self.config.cookie.then(|| answer::cookie(&parts.headers));
        let answering = Answering { cors, cookie };
        if let Err(refusal) = application.check(&parts.headers, &client) {
            return answering.refuse(&refusal);
        }
        let asking = Asking {
            id,
            from: client.remote.ip(),
            certificate: client.certificate.as_deref(),
        };
        let format = match endpoint {
            Endpoint::WebSocket => return not_found(),
            Endpoint::XhrSend | Endpoint::JsonpSend => {
                let Some(session) = self.sessions.find(asking) else {
                    return answering.refuse(&no_session());
                };
                client.stays_at(&session);
                let is_form = endpoint == Endpoint::JsonpSend && send::is_form(&parts.headers);
                let sent = send::send(&session, body, is_form, client.timeout).await;
                return match sent {
                    Ok(()) if endpoint == Endpoint::XhrSend => answering.taken(),
                    Ok(()) => answering.ok(),
                    Err(error) => answering.refuse(&error.refusal()),
                };
            }
            Endpoint::Xhr => Ok(Format::XhrPolling),
            Endpoint::XhrStreaming => Ok(Format::XhrStreaming),
            Endpoint::EventSource => Ok(Format::EventSource),
            Endpoint::HtmlFile => path::callback(uri.query()).map(Format::HtmlFile),
            Endpoint::Jsonp => path::callback(uri.query()).map(Format::Jsonp),
        };
        let format = match format {
            Ok(format) => format,
            Err(error) => {
                return answering.refuse(&Refusal {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    text: error.to_string(),
                });
            }
        };
        let opening = Opening {
            headers: &parts.headers,
            query: uri.query(),
            client: &client,
            transport: format.name(),
        };
        let size = application.max_message_size();
        let admit = || application.admit(opening);
        let session = match self.sessions.find_or_open(asking, size, admit) {
            Ok(Found::Known(session)) => session,
            Ok(Found::New(session, channel, place)) => {
                application.serve(channel, place);
                session
            }
            Ok(Found::Foreign) => return answering.refuse(&no_session()),
            Ok(Found::TooMany) => {
                return answering.refuse(&Refusal {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    text: "Your address has as many sessions as one may.".to_owned(),
                });
            }
            Err(refusal) => return answering.refuse(&refusal),
        };
        client.stays_at(&session);
        let limit = self.config.response_limit;
        answering.receive(receive::receive(&session, format, limit).await)
    }

    fn serves(&self, route: Route<'_>) -> bool {
        let is_on = |transport| self.config.serves(transport);
        match route {
            Route::Greeting | Route::Info => true,
            Route::Iframe => is_on(Transport::Iframe),
            Route::RawWebSocket => is_on(Transport::Websocket),
            Route::Session { endpoint, .. } => match endpoint {
                Endpoint::WebSocket => is_on(Transport::Websocket),
                Endpoint::Xhr => is_on(Transport::XhrPolling),
                Endpoint::XhrStreaming => is_on(Transport::XhrStreaming),
                Endpoint::EventSource => is_on(Transport::Eventsource),
                Endpoint::HtmlFile => is_on(Transport::Htmlfile),
                Endpoint::Jsonp | Endpoint::JsonpSend => is_on(Transport::JsonpPolling),
                Endpoint::XhrSend => [
                    Transport::XhrPolling,
                    Transport::XhrStreaming,
                    Transport::Eventsource,
                    Transport::Htmlfile,
                ]
                .into_iter()
                .any(is_on),
            },
        }
    }

    /// Switches to a WebSocket. Sessions of that kind live as long as it does, and need no name.
    fn web_socket<S, A>(
        &self,
        application: &Arc<A>,
        mut request: Request<Incoming>,
        client: &Client,
        framing: Framing,
    ) -> HttpAnswer
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        A: Application,
    {
        let (protocols, transport) = match framing {
            Framing::Raw => (A::PROTOCOLS, "websocket"),
            Framing::SockJs => (&[][..], "sockjs-websocket"),
        };
        let headers = request.headers();
        let granted = examine(request.method(), headers, protocols).and_then(|grant| {
            application.check_web_socket(headers)?;
            let place = application.admit(Opening {
                headers,
                query: request.uri().query(),
                client,
                transport,
            })?;
            Ok((grant, place))
        });
        let (grant, place) = match granted {
            Ok(granted) => granted,
            Err(refusal) => return refuse(&refusal),
        };
        let application = Arc::clone(application);
        let size = application.max_message_size();
        let heartbeat = self.config.heartbeat;
        switch::<S>(
            &mut request,
            client.timeout,
            grant,
            move |stream, read| match framing {
                Framing::Raw => {
                    application.serve(WebSocketLink::new(stream, read, size), place);
                }
                Framing::SockJs => {
                    application.serve(FramedLink::new(stream, read, size, heartbeat), place);
                }
            },
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Raw,
    SockJs,
}

fn no_session() -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        text: "There is no such session.".to_owned(),
    }
}

/// How something is asked for.
struct Expected {
    method: Method,
    /// The `allow` header where it is asked for otherwise.
    allow: &'static str,
    /// Whether scripts of other origins may ask: then browsers ask first if they may.
    is_cors: bool,
}

fn expected(route: Route<'_>) -> Expected {
    let (method, allow, is_cors) = match route {
        Route::Greeting | Route::Iframe | Route::RawWebSocket => (Method::GET, "GET", false),
        Route::Info => (Method::GET, "OPTIONS, GET", true),
        Route::Session { endpoint, .. } => match endpoint {
            Endpoint::WebSocket | Endpoint::HtmlFile | Endpoint::Jsonp => {
                (Method::GET, "GET", false)
            }
            Endpoint::EventSource => (Method::GET, "OPTIONS, GET", true),
            Endpoint::Xhr | Endpoint::XhrStreaming | Endpoint::XhrSend => {
                (Method::POST, "OPTIONS, POST", true)
            }
            Endpoint::JsonpSend => (Method::POST, "POST", false),
        },
    };
    Expected {
        method,
        allow,
        is_cors,
    }
}

/// As [`upgrade::examine`], with SockJS's answers.
fn examine(
    method: &Method,
    headers: &HeaderMap,
    protocols: &[&'static str],
) -> Result<Grant, Refusal> {
    upgrade::examine(method, headers, protocols).map_err(|refusal| {
        if refusal.status != StatusCode::UPGRADE_REQUIRED {
            return refusal;
        }
        let upgrade = headers.get(header::UPGRADE);
        let is_named =
            upgrade.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let text = match is_named {
            false => "Can \"Upgrade\" only to \"WebSocket\".",
            true if headers.contains_key(header::SEC_WEBSOCKET_VERSION) => &refusal.text,
            true => "\"Connection\" must be \"Upgrade\", and \"Sec-WebSocket-Version\" 13.",
        };
        Refusal {
            status: StatusCode::BAD_REQUEST,
            text: text.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests;
