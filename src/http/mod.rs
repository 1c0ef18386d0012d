//! The HTTP side: the WebSocket upgrade and SockJS, which hyper does, and routes, which are warp's.
//!
//! warp's own upgrade spawns a task that nobody can wait for, and sets neither the size of the
//! read buffer nor a subprotocol; so the upgrade is taken here, and all else goes to warp.

mod gateway;
mod hosts;
mod lasting;
mod patience;
mod place;
mod refused;
mod stints;
mod upgrade;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use sockjs_server::{Application, Body, Opening, Refusal, SockJs, upgrade::switch};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use warp::{Filter, filters::BoxedFilter};

pub use gateway::{Client, Gateway, Rules};
pub use hosts::HostNames;
pub use refused::RefusalLog;
pub use upgrade::Origins;

use self::{
    place::{HttpPlace, WatchedBody},
    refused::{RefusedFor, is_client},
    stints::TakesItsTime,
};
use crate::{
    listen::{Entered, Entrance, SocketLayer, WebSocketLink, accept},
    node::{ClientAddress, Places},
    telemetry::RefusedAt,
};

/// The other end of a connection to a listener for operators, as an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

/// Routes of warp, of any kind.
pub type Routes = BoxedFilter<(warp::reply::Response,)>;

/// An answer to a request.
pub type HttpAnswer = Response<BoxBody<Bytes, warp::Error>>;

/// Connections at a time to a listener for operators. Load balancers and Prometheus need a few; and
/// files are kept for so many.
const PRIVATE_PLACES: usize = 200;

/// The server that clients reach by HTTP: the WebSocket, SockJS, and routes.
pub struct PublicServer {
    /// STOMP, as it is spoken here.
    pub gateway: Arc<Gateway>,
    /// Where the WebSocket is.
    pub path: Box<str>,
    /// SockJS, if it is served.
    pub sockjs: Option<SockJs>,
    /// The pages beside them.
    pub routes: Routes,
    /// The names of the node; if there is none, requests may be for any.
    pub host_names: HostNames,
}

impl PublicServer {
    /// Serves until `stop` is done. Connections that are open then go on.
    pub async fn serve<T: SocketLayer>(
        self: Arc<Self>,
        listener: TcpListener,
        entrance: Entrance<T>,
        stop: impl Future<Output = ()>,
    ) {
        let services = Arc::clone(&self.gateway.services);
        let places = Arc::clone(services.registry.places());
        let write_timeout = move || services.settings().limits.write_timeout;
        serve_requests(
            listener,
            entrance,
            places,
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
        // Named by a header of the request; or banned since the connection was opened.
        let registry = &self.gateway.services.registry;
        if registry.refuse_banned_address(client.address.ip(), RefusedAt::Request) {
            return upgrade::refuse(&Refusal::new(StatusCode::FORBIDDEN, "banned"));
        }
        if let Err(text) = hosts::check_host_lines(&request) {
            return plain(StatusCode::BAD_REQUEST, text.to_owned());
        }
        if !self.host_names.is_empty()
            && let Err(text) = self.host_names.check(request.headers(), request.uri())
        {
            self.gateway.refusals.note(RefusedFor::HostName, &text);
            return plain(StatusCode::MISDIRECTED_REQUEST, text);
        }
        let path = request.uri().path();
        if path.trim_end_matches('/') == &*self.path {
            return self.upgrade::<S>(request, &client);
        }
        if let Some(sockjs) = self.sockjs.as_ref().filter(|sockjs| sockjs.is_at(path)) {
            let gateway = &self.gateway;
            let place = Arc::clone(&client.place);
            let request = request.map(|body| WatchedBody::new(body, place));
            // On the heap, so that a client with a WebSocket keeps no room for it.
            let begun = sockjs.begin_with::<WebSocketLink<S>, _, _>(gateway, request, client);
            return of_sockjs(Box::pin(begun).await);
        }
        let sought = is_client(path, request.headers()).then(|| path.to_owned());
        let answer = route(&self.routes, request).await;
        if let Some(path) = sought.filter(|_| answer.status() == StatusCode::NOT_FOUND) {
            let refusals = &self.gateway.refusals;
            refusals.note(RefusedFor::Path, &format!("nothing is served at {path:?}"));
        }
        answer
    }

    fn upgrade<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
    ) -> HttpAnswer {
        let headers = request.headers();
        let examined = upgrade::examine(&request, &upgrade::SUBPROTOCOLS);
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

/// An answer of SockJS, which may take its time.
fn of_sockjs(mut answer: Response<Body>) -> HttpAnswer {
    if answer.body().is_lasting() {
        let delivery = answer.body().delivery();
        answer.extensions_mut().insert(TakesItsTime(delivery));
    }
    boxed(answer)
}

fn boxed(answer: Response<Body>) -> HttpAnswer {
    answer.map(|body| body.map_err(|never| match never {}).boxed())
}

/// An answer of one line.
fn plain(status: StatusCode, text: String) -> HttpAnswer {
    let text = Full::from(text + "\n");
    let mut answer = Response::new(text.map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

/// Asks routes. warp takes it for granted that a request has a path, and panics where it has none:
/// `CONNECT host:1` and `GET word` name a host, as hyper reads them, and `OPTIONS *` nothing.
async fn route(routes: &Routes, request: Request<Incoming>) -> HttpAnswer {
    if !request.uri().path().starts_with('/') {
        let text = "The request names no path.".to_owned();
        return plain(StatusCode::BAD_REQUEST, text);
    }
    let mut service = warp::service(routes.clone());
    let Ok(answer) = tower_service::Service::call(&mut service, request).await;
    answer.map(BodyExt::boxed)
}

/// Has a connection end with this answer.
fn close(answer: &mut HttpAnswer) {
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(header::CONNECTION, close);
}

/// Serves requests until `stop` is done. Connections that are open then go on, each as long as it
/// has one of `places` or belongs to a session. A client may leave its answers unread for
/// `write_timeout`, as it is when the client comes.
pub async fn serve_requests<T, F>(
    listener: TcpListener,
    entrance: Entrance<T>,
    places: Arc<Places>,
    write_timeout: impl Fn() -> Duration,
    stop: impl Future<Output = ()>,
    answer: impl Fn(Request<Incoming>, Client) -> F + Clone + Send + Sync + 'static,
) where
    T: SocketLayer,
    F: Future<Output = HttpAnswer> + Send,
{
    let what = entrance.what;
    let entrance = Arc::new(entrance);
    accept(listener, what, stop, |stream, remote| {
        let entrance = Arc::clone(&entrance);
        let answer = answer.clone();
        let taken = entrance.place(&places, &stream, remote);
        let write_timeout = write_timeout();
        async move {
            let Some((place, gives_way)) = taken else {
                return;
            };
            let admitting = gives_way.run_until_cancelled(entrance.enter(stream, remote, &place));
            let Some(Some(entered)) = admitting.await else {
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
            let at = Arc::clone(&place);
            let answer = move |request: Request<Incoming>| {
                let address = proxies.client(peer, request.headers());
                at.is_asked(&address);
                let client = Client {
                    address,
                    certificate: certificate.clone(),
                    what,
                    timeout,
                    place: Arc::clone(&at),
                };
                let (answer, place) = (answer(request, client), Arc::clone(&at));
                async move {
                    let mut answer = answer.await;
                    // A client that found nothing here has no further business, and one that waited
                    // in vain keeps no place for its next try.
                    let ends = [StatusCode::NOT_FOUND, StatusCode::REQUEST_TIMEOUT];
                    if place.is_left_over() || ends.contains(&answer.status()) {
                        close(&mut answer);
                    }
                    answer
                }
            };
            // A task of its own, which keeps nothing of how the client came in.
            tokio::spawn(async move {
                let serving = stints::serve(stream, timeout, write_timeout, place, answer);
                gives_way.run_until_cancelled(serving).await
            });
        }
    })
    .await;
}

/// The routes of a listener for operators.
pub struct PrivateServer {
    /// The listener's name in errors and log lines.
    pub what: &'static str,
    /// The routes.
    pub routes: Routes,
    /// The names of the node. Requests may be for no other host.
    pub host_names: HostNames,
    /// Paths of which requests may be for any host: they tell nothing that a page could use.
    pub open_paths: &'static [&'static str],
    /// How long a request's head may take, and how long a connection may rest between requests.
    pub timeout: Duration,
}

impl PrivateServer {
    /// Serves until `stop` is done. The listener has places of its own, so nothing that happens at
    /// the others can make health checks fail.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let (server, places) = (Arc::new(self), Places::new(PRIVATE_PLACES));
        let what = server.what;
        accept(listener, what, stop, |stream, remote| {
            let server = Arc::clone(&server);
            let address = ClientAddress::direct(remote);
            let taken = places.take(&address, what);
            async move {
                let Some((place, gives_way)) = taken else {
                    return;
                };
                let timeout = server.timeout;
                let place = Arc::new(HttpPlace::at_listener(place));
                let at = Arc::clone(&place);
                let answer = move |mut request: Request<Incoming>| {
                    at.is_asked(&address);
                    request.extensions_mut().insert(Remote(remote));
                    let server = Arc::clone(&server);
                    async move { server.answer(request).await }
                };
                let serving = stints::serve(stream, timeout, timeout, place, answer);
                let _ = gives_way.run_until_cancelled(serving).await;
            }
        })
        .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> HttpAnswer {
        if !self.open_paths.contains(&request.uri().path())
            && let Err((status, text)) = self.check_host(&request)
        {
            let error = serde_json::json!({ "error": text }).to_string();
            let mut answer = plain(status, error);
            let json = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(header::CONTENT_TYPE, json);
            return answer;
        }
        route(&self.routes, request).await
    }

    fn check_host<B>(&self, request: &Request<B>) -> Result<(), (StatusCode, String)> {
        hosts::check_host_lines(request)
            .map_err(|text| (StatusCode::BAD_REQUEST, text.to_owned()))?;
        let checked = self.host_names.check(request.headers(), request.uri());
        checked.map_err(|text| (StatusCode::MISDIRECTED_REQUEST, text))
    }
}

/// The answer where there is nothing: it names the path of the WebSocket.
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
