//! The HTTP side: the WebSocket upgrade, which hyper does, and routes, which are warp's.
//!
//! warp's own upgrade spawns a task that nobody can wait for, and sets neither the size of the
//! read buffer nor a subprotocol; so the upgrade is taken here, and all else goes to warp.

mod admin;
mod upgrade;

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use warp::{Filter, filters::BoxedFilter};

pub use admin::routes as admin_routes;
pub use upgrade::Origins;

use crate::{
    auth::Forwarding,
    connection::{self, Guard, Peer, Services},
    listen::{WebSocketLink, accept},
    telemetry::{self, Seldom},
};

/// Routes of warp, of any kind.
pub type Routes = BoxedFilter<(warp::reply::Response,)>;

type Answer = Response<BoxBody<Bytes, warp::Error>>;

/// The longest head of a request, in bytes: cookies can be long.
const MAX_HEAD: usize = 32 * 1024;

/// The listener that browsers connect to.
pub struct WebSocketServer {
    /// What connections are served by.
    pub services: Arc<Services>,
    /// Where the WebSocket is.
    pub path: Box<str>,
    /// Who may connect.
    pub origins: Origins,
    /// What a request carries for its login.
    pub forwarding: Forwarding,
    /// How long a client may take for a request's head.
    pub handshake_timeout: Duration,
    /// What is served beside the WebSocket.
    pub routes: Routes,
}

impl WebSocketServer {
    /// Serves until `stop` is done. Connections that are open then go on.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let places = Places::new();
        accept(listener, "http", stop, |stream, remote| {
            let (server, places) = (Arc::clone(&server), places.clone());
            async move {
                let Some(_place) = places.take("http") else {
                    return;
                };
                let timeout = server.handshake_timeout;
                let answer = move |request| Arc::clone(&server).answer(request, remote);
                serve_http(stream, timeout, service_fn(answer)).await;
            }
        })
        .await;
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        remote: SocketAddr,
    ) -> Result<Answer, Infallible> {
        if request.uri().path().trim_end_matches('/') == &*self.path {
            return Ok(self.upgrade(request, remote));
        }
        let mut service = warp::service(self.routes.clone());
        let answer = tower_service::Service::call(&mut service, request).await?;
        Ok(answer.map(BodyExt::boxed))
    }

    fn upgrade(self: Arc<Self>, mut request: Request<Incoming>, remote: SocketAddr) -> Answer {
        let examined = upgrade::examine(request.method(), request.headers(), &self.origins);
        let grant = match examined {
            Ok(grant) => grant,
            Err(refusal) => return refuse(&refusal),
        };
        let carried = self
            .forwarding
            .read(request.headers(), request.uri().query())
            .map_err(upgrade::Refusal::from);
        let carried = match carried {
            Ok(carried) => carried,
            Err(refusal) => return refuse(&refusal),
        };
        // Taken before the answer, so that a drain waits for this one too.
        let Some(guard) = self.services.enter() else {
            self.services.registry.log_turned_away("http");
            let text = "There are as many connections as this server takes.".to_owned();
            return refuse(&upgrade::Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text,
            });
        };
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(Ok(upgraded)) = tokio::time::timeout(self.handshake_timeout, upgraded).await {
                let peer = Peer {
                    remote,
                    transport: "websocket",
                    carried,
                };
                self.connect(upgraded, peer, guard).await;
            }
        });
        let mut answer = text_answer(StatusCode::SWITCHING_PROTOCOLS, String::new());
        let headers = answer.headers_mut();
        headers.insert(
            header::CONNECTION,
            header::HeaderValue::from_static("upgrade"),
        );
        headers.insert(
            header::UPGRADE,
            header::HeaderValue::from_static("websocket"),
        );
        if let Ok(accept) = grant.accept.parse() {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = grant.protocol {
            let protocol = header::HeaderValue::from_static(protocol);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        answer
    }

    async fn connect(&self, upgraded: hyper::upgrade::Upgraded, peer: Peer, guard: Guard) {
        // The bare stream: hyper's buffers are not kept.
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            return;
        };
        let services = Arc::clone(&self.services);
        let first_limit = services.settings().limits.max_frame_size_unauthenticated;
        let link = WebSocketLink::new(parts.io.into_inner(), parts.read_buf, first_limit);
        connection::serve(services, link, peer, guard).await;
    }
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
                serve_http(stream, timeout, service).await;
            }
        }
    })
    .await;
}

/// Connections that are not upgraded (yet), bounded on each listener: they are answered within
/// milliseconds, or come from somebody who wants to hold them.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    turned_away: Arc<Mutex<Seldom>>,
}

impl Places {
    const MOST: usize = 2_000;

    fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(Self::MOST)),
            turned_away: Arc::default(),
        }
    }

    fn take(&self, what: &str) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.free).try_acquire_owned().ok();
        if place.is_none()
            && let Some(unsaid) = self.turned_away.lock().admit(Instant::now())
        {
            telemetry::connection_limit_reached(what, Self::MOST, unsaid);
        }
        place
    }
}

async fn serve_http<S, B>(stream: TcpStream, timeout: Duration, service: S)
where
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
        .serve_connection(TokioIo::new(stream), service)
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

fn refuse(refusal: &upgrade::Refusal) -> Answer {
    let mut answer = text_answer(refusal.status, format!("{}\n", refusal.text));
    let headers = answer.headers_mut();
    match refusal.status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let get = header::HeaderValue::from_static("GET");
            headers.insert(header::ALLOW, get);
        }
        StatusCode::UNAUTHORIZED => {
            let basic =
                header::HeaderValue::from_static("Basic realm=\"STOMP\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, basic);
        }
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(
                header::UPGRADE,
                header::HeaderValue::from_static("websocket"),
            );
            let version = header::HeaderValue::from_static("13");
            headers.insert(header::SEC_WEBSOCKET_VERSION, version);
        }
        _ => {}
    }
    answer
}

fn text_answer(status: StatusCode, text: String) -> Answer {
    let body = Full::new(Bytes::from(text))
        .map_err(|never: Infallible| match never {})
        .boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests;
