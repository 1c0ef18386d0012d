//! The HTTP side: the WebSocket upgrade and SockJS, which hyper does, and routes, which are warp's.
//!
//! warp's own upgrade spawns a task that nobody can wait for, and sets neither the size of the
//! read buffer nor a subprotocol; so the upgrade is taken here, and all else goes to warp.

mod patience;
pub mod sockjs;
mod upgrade;

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::OwnedSemaphorePermit,
};
use warp::{Filter, filters::BoxedFilter};

pub use upgrade::{Origins, Refusal};

use self::{
    patience::Patient,
    sockjs::{Application, Opening, SockJs},
    upgrade::Grant,
};
use crate::{
    auth::{Carried, Forwarding},
    connection::{self, Peer},
    listen::{
        Entered, Entrance, Places, SocketLayer, WebSocketLink, accept,
        sockjs::{Channel, session as sockjs_session},
    },
    node::{Guard, Services},
};

/// Routes of warp, of any kind.
pub type Routes = BoxedFilter<(warp::reply::Response,)>;

/// An answer to a request.
pub type HttpAnswer = Response<BoxBody<Bytes, warp::Error>>;

/// The longest head of a request, in bytes: cookies can be long.
const MAX_HEAD: usize = 32 * 1024;

/// The server that clients reach by HTTP: the WebSocket, SockJS, and routes.
pub struct PublicServer {
    /// What is spoken.
    pub gateway: Arc<Gateway>,
    /// Where the WebSocket is.
    pub path: Box<str>,
    /// SockJS, if it is served.
    pub sockjs: Option<SockJs>,
    /// What is served beside them.
    pub routes: Routes,
}

impl PublicServer {
    /// Serves until `stop` is done. Connections that are open then go on.
    pub async fn serve<T: SocketLayer>(
        self: Arc<Self>,
        listener: TcpListener,
        entrance: Entrance<T>,
        stop: impl Future<Output = ()>,
    ) {
        let write_timeout = self.gateway.services.settings().limits.write_timeout;
        serve_requests(
            listener,
            entrance,
            write_timeout,
            stop,
            move |request, client| Arc::clone(&self).answer::<T::Stream>(request, client),
        )
        .await;
    }

    async fn answer<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Client,
    ) -> HttpAnswer {
        let path = request.uri().path();
        if path.trim_end_matches('/') == &*self.path {
            return self.upgrade::<S>(request, &client);
        }
        if let Some(sockjs) = self.sockjs.as_ref().filter(|sockjs| sockjs.is_at(path)) {
            // On the heap, so that a client with a WebSocket keeps no room for it.
            return Box::pin(sockjs.answer::<S, _>(&self.gateway, request, client)).await;
        }
        let mut service = warp::service(self.routes.clone());
        let Ok(answer) = tower_service::Service::call(&mut service, request).await;
        answer.map(BodyExt::boxed)
    }

    fn upgrade<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
    ) -> HttpAnswer {
        let headers = request.headers();
        let granted =
            upgrade::examine(request.method(), headers, &upgrade::SUBPROTOCOLS).and_then(|grant| {
                self.gateway.check_web_socket(headers)?;
                let place = self.gateway.admit(Opening {
                    headers,
                    query: request.uri().query(),
                    client,
                    transport: "websocket",
                })?;
                Ok((grant, place))
            });
        let (grant, place) = match granted {
            Ok(granted) => granted,
            Err(refusal) => return refuse(&refusal),
        };
        let gateway = Arc::clone(&self.gateway);
        switch::<S>(&mut request, client.timeout, grant, move |stream, read| {
            let link = WebSocketLink::new(stream, read, gateway.max_message_size());
            gateway.serve(link, place);
        })
    }
}

/// STOMP, as what comes in by HTTP is served with it.
pub struct Gateway {
    /// What connections are served by.
    pub services: Arc<Services>,
    /// Who may connect.
    pub origins: Origins,
    /// What a request carries for its login.
    pub forwarding: Forwarding,
}

impl Application for Gateway {
    type Place = (Peer, Guard);

    const PROTOCOLS: &'static [&'static str] = &upgrade::SUBPROTOCOLS;

    fn check(&self, headers: &HeaderMap, client: &Client) -> Result<(), Refusal> {
        let is_ambient = self.forwarding.is_ambient() || client.certificate.is_some();
        self.origins.check_loosely(headers, is_ambient)
    }

    fn check_web_socket(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.origins.check(headers)
    }

    fn admit(&self, opening: Opening<'_>) -> Result<Self::Place, Refusal> {
        let client = opening.client;
        let carried = self.forwarding.read(opening.headers, opening.query)?;
        let carried = Carried::with_certificate(carried, client.certificate.clone());
        // Taken before the answer, so that a drain waits for this one too.
        let Some(guard) = self.services.enter() else {
            self.services.registry.log_turned_away(client.what);
            return Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: "There are as many connections as this server takes.".to_owned(),
            });
        };
        let peer = Peer {
            remote: client.remote,
            transport: opening.transport,
            carried,
        };
        Ok((peer, guard))
    }

    fn max_message_size(&self) -> usize {
        let limits = &self.services.settings().limits;
        limits.max_frame_size_unauthenticated
    }

    fn frame_ancestors(&self) -> Option<HeaderValue> {
        self.origins.frame_ancestors()
    }

    fn serve<C: Channel>(&self, channel: C, (peer, guard): Self::Place) {
        let services = Arc::clone(&self.services);
        // A task of its own, which keeps nothing of how the client came in.
        tokio::spawn(connection::serve(services, channel, peer, guard));
    }
}

/// Who makes a request, and where it came in.
pub struct Client {
    /// Its address.
    pub remote: SocketAddr,
    /// The user that its certificate names, if certificates are logins.
    pub certificate: Option<Box<str>>,
    /// What errors and log lines call the listener.
    pub what: &'static str,
    /// How long a client may keep others waiting.
    pub timeout: Duration,
    place: Arc<Place>,
}

impl Client {
    /// The client's connection is now one of this session's, and leaves its place at the listener
    /// to others, if the session has room for it.
    fn stays_at(&self, session: &Arc<sockjs_session::Shared>) {
        if let Some(room) = session.room() {
            *self.place.session.lock() = Some(room);
            *self.place.listener.lock() = None;
        }
    }
}

/// What an HTTP connection counts as.
struct Place {
    listener: Mutex<Option<OwnedSemaphorePermit>>,
    session: Mutex<Option<sockjs_session::Room>>,
}

impl Place {
    /// Whether its session is over: it counts as nobody's then, so its next answer is its last.
    /// Otherwise a client could leave behind any number of them.
    fn is_left_over(&self) -> bool {
        let session = self.session.lock();
        self.listener.lock().is_none() && session.as_ref().is_some_and(|room| room.is_over())
    }
}

/// Serves requests until `stop` is done. Connections that are open then go on. A client may leave
/// its answers unread for `write_timeout`.
pub async fn serve_requests<T, F>(
    listener: TcpListener,
    entrance: Entrance<T>,
    write_timeout: Duration,
    stop: impl Future<Output = ()>,
    answer: impl Fn(Request<Incoming>, Client) -> F + Clone + Send + 'static,
) where
    T: SocketLayer,
    F: Future<Output = HttpAnswer> + Send,
{
    let what = entrance.what;
    let (entrance, places) = (Arc::new(entrance), Places::new());
    accept(listener, what, stop, |stream, remote| {
        let (entrance, places) = (Arc::clone(&entrance), places.clone());
        let answer = answer.clone();
        async move {
            let Some(place) = places.take(what) else {
                return;
            };
            let Some(entered) = entrance.admit(stream, remote).await else {
                return;
            };
            let Entered {
                stream,
                remote,
                certificate,
            } = entered;
            let timeout = entrance.timeout;
            let place = Arc::new(Place {
                listener: Mutex::new(Some(place)),
                session: Mutex::new(None),
            });
            let service = service_fn(move |request| {
                let client = Client {
                    remote,
                    certificate: certificate.clone(),
                    what,
                    timeout,
                    place: Arc::clone(&place),
                };
                let (answer, place) = (answer(request, client), Arc::clone(&place));
                async move {
                    let mut answer = answer.await;
                    if place.is_left_over() {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(header::CONNECTION, close);
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            serve_http(stream, timeout, write_timeout, service).await;
        }
    })
    .await;
}

/// Answers that the connection is a WebSocket from now on, and hands its stream, and what was read
/// of it, to `serve`.
fn switch<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    request: &mut Request<Incoming>,
    timeout: Duration,
    grant: Grant,
    serve: impl FnOnce(S, Bytes) + Send + 'static,
) -> HttpAnswer {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(Ok(upgraded)) = tokio::time::timeout(timeout, upgraded).await else {
            return;
        };
        // The bare stream: hyper's buffers are not kept.
        if let Ok(parts) = upgraded.downcast::<TokioIo<Patient<S>>>() {
            serve(parts.io.into_inner().into_inner(), parts.read_buf);
        }
    });
    let mut answer = text_answer(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = grant.accept.parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = grant.protocol {
        let protocol = HeaderValue::from_static(protocol);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    answer
}

/// Serves routes without a WebSocket until `stop` is done.
pub async fn serve_routes(
    listener: TcpListener,
    what: &'static str,
    routes: Routes,
    timeout: Duration,
    stop: impl Future<Output = ()>,
) {
    let places = Places::new();
    accept(listener, what, stop, |stream, _| {
        let (places, routes) = (places.clone(), routes.clone());
        async move {
            if let Some(_place) = places.take(what) {
                let service = TowerToHyperService::new(warp::service(routes));
                serve_http(stream, timeout, timeout, service).await;
            }
        }
    })
    .await;
}

/// Serves HTTP on one stream. `timeout` bounds how long a request's head may take, and how long the
/// stream may rest between requests; `write_timeout`, how long a client may leave its answers
/// unread.
async fn serve_http<I, S, B>(stream: I, timeout: Duration, write_timeout: Duration, service: S)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = B> + Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Patient::new(stream, write_timeout)), service)
        .with_upgrades();
    if let Err(error) = serving.await {
        // A client that went away, or does not speak HTTP.
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

/// What is served where nothing is: says what is there instead.
#[must_use]
pub fn sign_post(path: &str) -> Routes {
    let text = format!("Stentor serves STOMP over WebSocket at {path}.\n");
    warp::any()
        .map(move || warp::reply::with_status(text.clone(), StatusCode::NOT_FOUND))
        .map(warp::Reply::into_response)
        .boxed()
}

fn refuse(refusal: &Refusal) -> HttpAnswer {
    let mut answer = text_answer(refusal.status, format!("{}\n", refusal.text));
    let headers = answer.headers_mut();
    match refusal.status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let get = HeaderValue::from_static("GET");
            headers.insert(header::ALLOW, get);
        }
        StatusCode::UNAUTHORIZED => {
            let basic = HeaderValue::from_static("Basic realm=\"STOMP\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, basic);
        }
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            let version = HeaderValue::from_static("13");
            headers.insert(header::SEC_WEBSOCKET_VERSION, version);
        }
        _ => {}
    }
    answer
}

fn text_answer(status: StatusCode, text: String) -> HttpAnswer {
    let body = Full::new(Bytes::from(text))
        .map_err(|never: Infallible| match never {})
        .boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
pub(crate) mod tests;
