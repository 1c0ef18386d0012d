//! The HTTP side: the WebSocket upgrade, which hyper does, and routes, which are warp's.
//!
//! warp's own upgrade spawns a task that nobody can wait for, and sets neither the size of the
//! read buffer nor a subprotocol; so the upgrade is taken here, and all else goes to warp.

mod patience;
mod upgrade;

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use warp::{Filter, filters::BoxedFilter};

pub use upgrade::Origins;

use self::patience::Patient;
use crate::{
    auth::{Carried, Forwarding},
    connection::{self, Guard, Peer, Services},
    listen::{Entered, Entrance, Places, Transport, WebSocketLink, accept},
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
    /// What is served beside the WebSocket.
    pub routes: Routes,
}

impl WebSocketServer {
    /// Serves until `stop` is done. Connections that are open then go on.
    pub async fn serve<T: Transport>(
        self: Arc<Self>,
        listener: TcpListener,
        entrance: Entrance<T>,
        stop: impl Future<Output = ()>,
    ) {
        let what = entrance.what;
        let (entrance, places) = (Arc::new(entrance), Places::new());
        accept(listener, what, stop, |stream, remote| {
            let (server, places) = (Arc::clone(&self), places.clone());
            let entrance = Arc::clone(&entrance);
            async move {
                let Some(_place) = places.take(what) else {
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
                let answer = move |request| {
                    let client = Client {
                        remote,
                        certificate: certificate.clone(),
                        what,
                        timeout,
                    };
                    Arc::clone(&server).answer::<T::Stream>(request, client)
                };
                serve_http(stream, timeout, service_fn(answer)).await;
            }
        })
        .await;
    }

    async fn answer<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Client,
    ) -> Result<Answer, Infallible> {
        if request.uri().path().trim_end_matches('/') == &*self.path {
            return Ok(self.upgrade::<S>(request, client));
        }
        let mut service = warp::service(self.routes.clone());
        let answer = tower_service::Service::call(&mut service, request).await?;
        Ok(answer.map(BodyExt::boxed))
    }

    fn upgrade<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        client: Client,
    ) -> Answer {
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
        let carried = Carried::with_certificate(carried, client.certificate);
        // Taken before the answer, so that a drain waits for this one too.
        let Some(guard) = self.services.enter() else {
            self.services.registry.log_turned_away(client.what);
            let text = "There are as many connections as this server takes.".to_owned();
            return refuse(&upgrade::Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text,
            });
        };
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(Ok(upgraded)) = tokio::time::timeout(client.timeout, upgraded).await {
                let peer = Peer {
                    remote: client.remote,
                    transport: "websocket",
                    carried,
                };
                self.connect::<S>(upgraded, peer, guard);
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

    fn connect<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        upgraded: hyper::upgrade::Upgraded,
        peer: Peer,
        guard: Guard,
    ) {
        // The bare stream: hyper's buffers are not kept.
        let Ok(parts) = upgraded.downcast::<TokioIo<Patient<S>>>() else {
            return;
        };
        let services = Arc::clone(&self.services);
        let first_limit = services.settings().limits.max_frame_size_unauthenticated;
        let stream = parts.io.into_inner().into_inner();
        let link = WebSocketLink::new(stream, parts.read_buf, first_limit);
        // A task of its own, which keeps nothing of how the client came in.
        tokio::spawn(connection::serve(services, link, peer, guard));
    }
}

/// Who makes a request, and where it came in.
struct Client {
    remote: SocketAddr,
    certificate: Option<Box<str>>,
    what: &'static str,
    timeout: Duration,
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

/// Serves HTTP on one stream. `timeout` bounds how long a request's head may take, how long the
/// stream may rest between requests, and how long a client may leave its answers unread.
async fn serve_http<I, S, B>(stream: I, timeout: Duration, service: S)
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
        .serve_connection(TokioIo::new(Patient::new(stream, timeout)), service)
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
pub(crate) mod tests;
