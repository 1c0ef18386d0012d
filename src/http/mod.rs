//! The HTTP side: the WebSocket upgrade and SockJS, which hyper does, and routes, which are warp's.
//!
//! warp's own upgrade spawns a task that nobody can wait for, and sets neither the size of the
//! read buffer nor a subprotocol; so the upgrade is taken here, and all else goes to warp.

mod gateway;
mod patience;
mod refused;
mod upgrade;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use sockjs_server::{Application, Body, Opening, SockJs, upgrade::switch};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use warp::{Filter, filters::BoxedFilter};

pub use gateway::{Client, Gateway};
pub use refused::RefusalLog;
pub use upgrade::Origins;

use self::{
    gateway::HttpPlace,
    patience::Patient,
    refused::{RefusedFor, is_client},
};
use crate::{
    listen::{Entered, Entrance, Places, SocketLayer, WebSocketLink, accept},
    telemetry,
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
            let gateway = &self.gateway;
            // On the heap, so that a client with a WebSocket keeps no room for it.
            return boxed(
                Box::pin(sockjs.answer_with::<WebSocketLink<S>, _, _>(gateway, request, client))
                    .await,
            );
        }
        let sought = is_client(path, request.headers()).then(|| path.to_owned());
        let mut service = warp::service(self.routes.clone());
        let Ok(answer) = tower_service::Service::call(&mut service, request).await;
        if let Some(path) = sought.filter(|_| answer.status() == StatusCode::NOT_FOUND) {
            let refusals = &self.gateway.refusals;
            refusals.note(RefusedFor::Path, &format!("nothing is served at {path:?}"));
        }
        answer.map(BodyExt::boxed)
    }

    fn upgrade<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
    ) -> HttpAnswer {
        let headers = request.headers();
        let examined = upgrade::examine(request.method(), headers, &upgrade::SUBPROTOCOLS);
        let examined = self.gateway.refusals.noted(RefusedFor::Upgrade, examined);
        let granted = examined.and_then(|grant| {
            self.gateway.check_web_socket(headers)?;
            let place = self.gateway.admit(Opening {
                headers,
                query: request.uri().query(),
                caller: client,
                transport: "websocket",
            })?;
            Ok((grant, place))
        });
        let (grant, place) = match granted {
            Ok(granted) => granted,
            Err(refusal) => return upgrade::refuse(&refusal),
        };
        let gateway = Arc::clone(&self.gateway);
        let (patience, size) = (client.timeout, gateway.max_message_size());
        let serve = move |link: WebSocketLink<S>| gateway.serve(link, place);
        boxed(switch(&mut request, patience, grant, size, serve))
    }
}

fn boxed(answer: Response<Body>) -> HttpAnswer {
    answer.map(|body| body.map_err(|never| match never {}).boxed())
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
            let Some(entered) = entrance.enter(stream, remote).await else {
                return;
            };
            let Entered {
                stream,
                address: peer,
                certificate,
            } = entered;
            let timeout = entrance.timeout;
            let proxies = Arc::clone(&entrance.proxies);
            let place = Arc::new(HttpPlace::at_listener(place));
            let service = service_fn(move |request: Request<Incoming>| {
                let client = Client {
                    address: proxies.client(peer, request.headers()),
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
        telemetry::http_ended(&error);
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

#[cfg(test)]
pub(crate) mod tests;
