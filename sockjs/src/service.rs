//! One service under its prefix: which request gets which answer.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, body::Body as HttpBody, header};

use crate::{
    Application, Body, Caller, HyperSocket, Opening, Options, Refusal, SessionQuery, Sessions,
    Transport, WebSocket,
    answer::{self, CorsHeaders, SessionHeaders, not_found, refuse},
    framed::FramedSocket,
    protocol::{
        format::Format,
        path::{self, Endpoint, Route},
        seam::Sizes,
    },
    receive,
    send::{self, Pace},
    session::SharedSession,
    sessions::Found,
    upgrade::{self, Grant, UpgradeError, switch},
};

/// A client whose address has too many sessions may come back after so many seconds: those that it
/// left are forgotten by then.
const RETRY_AFTER: u16 = 5;

/// One service of SockJS: its options and its sessions.
///
/// A server calls [`answer`](SockJs::answer) for each request whose path [`is_at`](SockJs::is_at) it.
/// Connections have to be served with upgrades, or there are no WebSockets: see
/// `hyper::server::conn::http1::Connection::with_upgrades`.
#[derive(Debug)]
pub struct SockJs {
    options: Options,
    sessions: Arc<Sessions>,
}

impl SockJs {
    /// A service without sessions yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let sessions = Sessions::new(&options);
        Self { options, sessions }
    }

    /// The sessions over HTTP.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The part of a path below this service's prefix; `None`: the path is not this service's.
    fn path_within<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&*self.options.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// Whether this service answers requests for a path.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        self.path_within(path).is_some()
    }

    /// Answers a request, whatever connection of hyper it came by.
    pub async fn answer<A, B>(
        &self,
        application: &Arc<A>,
        request: Request<B>,
        caller: A::Caller,
    ) -> Response<Body>
    where
        A: Application,
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        self.answer_with::<HyperSocket, A, B>(application, request, caller)
            .await
    }

    /// As [`SockJs::answer`], with WebSockets of another kind.
    pub async fn answer_with<W, A, B>(
        &self,
        application: &Arc<A>,
        request: Request<B>,
        caller: A::Caller,
    ) -> Response<Body>
    where
        W: WebSocket,
        A: Application,
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        let begun = self.begin_with::<W, A, B>(application, request, caller);
        let (head, body) = begun.await.into_parts();
        Response::from_parts(head, body.settled().await)
    }

    /// As [`SockJs::answer_with`], but does not wait for the frame that a polling request asks for:
    /// the body of the answer does. For servers that keep little for requests that wait; the body
    /// [is lasting](Body::is_lasting) then.
    pub async fn begin_with<W, A, B>(
        &self,
        application: &Arc<A>,
        mut request: Request<B>,
        caller: A::Caller,
    ) -> Response<Body>
    where
        W: WebSocket,
        A: Application,
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        let uri = request.uri().clone();
        let route = self.path_within(uri.path()).and_then(path::route);
        let Some(route) = route.filter(|route| self.serves(*route)) else {
            return not_found();
        };
        let headers = request.headers();
        let expected = expected(route);
        let cors = expected.is_cors.then(|| CorsHeaders::of(headers));
        if let Some(cors) = cors
            .as_ref()
            .filter(|_| request.method() == Method::OPTIONS)
        {
            return answer::preflight(cors, expected.allow);
        }
        if request.method() != expected.method {
            return answer::wrong_method(expected.allow);
        }
        let (id, endpoint) = match route {
            Route::Greeting => return answer::greeting(),
            Route::Info => return answer::info(&self.options, cors.as_ref()),
            Route::Iframe => {
                let known = headers.get(header::IF_NONE_MATCH);
                let policy = application.frame_ancestors();
                return answer::iframe(&self.options.client_url, known, policy);
            }
            Route::RawWebSocket => {
                return self.web_socket::<W, A, B>(
                    application,
                    &mut request,
                    &caller,
                    Framing::Raw,
                );
            }
            Route::Session {
                endpoint: Endpoint::WebSocket,
                ..
            } => {
                let framing = Framing::SockJs;
                return self.web_socket::<W, A, B>(application, &mut request, &caller, framing);
            }
            Route::Session { id, endpoint } => (id, endpoint),
        };
        let cookie = self.options.cookie.then(|| answer::cookie(headers));
        let common = SessionHeaders { cors, cookie };
        if let Err(refusal) = application.check(headers, &caller) {
            return common.refuse(&refusal);
        }
        let query = SessionQuery {
            id,
            address: caller.address(),
            identity: caller.identity(),
        };
        let format = match endpoint {
            Endpoint::WebSocket => return not_found(),
            Endpoint::XhrSend | Endpoint::JsonpSend => {
                let Some(session) = self.sessions.find(query) else {
                    return common.refuse(&no_session());
                };
                let may_wait = caller.joins(&session);
                let is_form = endpoint == Endpoint::JsonpSend && send::is_form(headers);
                let pace = Pace {
                    patience: caller.patience(),
                    may_wait,
                };
                let (body, received) = (request.into_body(), self.options.received);
                let sent = send::send(&session, body, is_form, pace, received).await;
                return match sent {
                    Ok(()) if endpoint == Endpoint::XhrSend => common.taken(),
                    Ok(()) => common.ok(),
                    Err(error) => common.refuse(&error.refusal()),
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
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return common.refuse(&Refusal::new(status, error.to_string()));
            }
        };
        let opening = Opening {
            headers,
            query: uri.query(),
            caller: &caller,
            transport: format.transport().name(),
        };
        let session = match self.find_or_open(application, query, opening) {
            Ok(session) => session,
            Err(refusal) => return common.refuse(&refusal),
        };
        caller.joins(&session);
        let (limit, sent) = (self.options.response_limit, self.options.sent);
        common.receive(receive::receive(&session, format, limit, sent))
    }

    /// The session that a request asks for. If it is new, the application serves it.
    fn find_or_open<A: Application>(
        &self,
        application: &Arc<A>,
        query: SessionQuery<'_>,
        opening: Opening<'_, A::Caller>,
    ) -> Result<Arc<SharedSession>, Refusal> {
        let sizes = Sizes {
            message: application.max_message_size(),
            payload: application.max_payload_size(),
        };
        let admit = || application.admit(opening);
        match self.sessions.find_or_open(query, sizes, admit)? {
            Found::Known(session) => Ok(session),
            Found::New(session, channel, place) => {
                application.serve(channel, place);
                Ok(session)
            }
            Found::Foreign => Err(no_session()),
            Found::TooMany => {
                (self.options.refused)();
                let text = format!(
                    "Your address has {} sessions over HTTP, as many as one may have here. Close \
                     some, use a WebSocket, or come back later.",
                    self.options.max_sessions_per_address
                );
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text);
                Err(refusal.with_retry_after(RETRY_AFTER))
            }
        }
    }

    fn serves(&self, route: Route<'_>) -> bool {
        let is_on = |transport| self.options.serves(transport);
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

    /// Switches to a WebSocket. A session of that kind lives as long as its socket, and needs no
    /// name.
    fn web_socket<W, A, B>(
        &self,
        application: &Arc<A>,
        request: &mut Request<B>,
        caller: &A::Caller,
        framing: Framing,
    ) -> Response<Body>
    where
        W: WebSocket,
        A: Application,
    {
        let (protocols, transport) = match framing {
            Framing::Raw => (A::PROTOCOLS, "websocket"),
            Framing::SockJs => (&[][..], "sockjs-websocket"),
        };
        let headers = request.headers();
        let granted = examine(request, protocols).and_then(|grant| {
            application.check_web_socket(headers)?;
            let place = application.admit(Opening {
                headers,
                query: request.uri().query(),
                caller,
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
        let patience = caller.patience();
        match framing {
            Framing::Raw => switch::<W, B>(request, patience, grant, size, move |socket| {
                application.serve(socket, place);
            }),
            Framing::SockJs => {
                let heartbeat = self.options.heartbeat;
                let payload = application.max_payload_size();
                switch::<W, B>(request, patience, grant, payload, move |socket| {
                    application.serve(FramedSocket::new(socket, size, heartbeat), place);
                })
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Raw,
    SockJs,
}

fn no_session() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no such session.")
}

/// The way in which a route is asked for.
struct Expected {
    method: Method,
    /// The `allow` header for a request of another method.
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

/// As [`upgrade::examine`], with the protocol's own answers.
fn examine<B>(request: &Request<B>, protocols: &[&'static str]) -> Result<Grant, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    upgrade::examine(method, request.version(), headers, protocols).map_err(|error| {
        let upgrade = headers.get(header::UPGRADE);
        let is_named =
            upgrade.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let has_version = headers.contains_key(header::SEC_WEBSOCKET_VERSION);
        let text = match error {
            UpgradeError::NotAsked | UpgradeError::Version if !is_named => {
                "Can \"Upgrade\" only to \"WebSocket\".".to_owned()
            }
            UpgradeError::Version if has_version => error.to_string(),
            UpgradeError::NotAsked | UpgradeError::Version => {
                "\"Connection\" must be \"Upgrade\", and \"Sec-WebSocket-Version\" 13.".to_owned()
            }
            other => other.to_string(),
        };
        Refusal::new(StatusCode::BAD_REQUEST, text)
    })
}
