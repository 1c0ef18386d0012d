//! The operator's side, over HTTP: health, metrics, and the API that `stentor ctl` uses.
//!
//! Each operation is one `Route` of a table, and a function beside the types that it takes and
//! answers; [`openapi()`] is made from those. A request is looked up, then its token is, then its
//! turn comes, and only then its body is read.

mod answer;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod bans;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod caller;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod commands;
mod config;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod configuration;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod destinations;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod details;
mod figures;
mod health;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod journal;
mod metrics;
mod node;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod openapi;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod overview;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod presence;
mod publish;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod rooms;
mod rules;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod tail;
mod token;
#[allow(unused_qualifications, reason = "of utoipa's macros")]
mod webhooks;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use warp::{
    Filter,
    http::{HeaderMap, Method, StatusCode, header},
};

pub use answer::ErrorBody;
pub use bans::{Ban, BanOutcome, BanRequest, Bans, Reach};
pub use caller::Caller;
pub use commands::{NodeOutcome, Outcome, UnsubscribeRequest};
pub use config::{Config, Metrics};
pub use configuration::{
    CompareRequest, Configuration, Difference, KeyChange, KeyInForce, Reconfigure,
};
pub use destinations::{Destination, Destinations, NodeDestinations};
pub use details::{Details, Subscription};
pub use figures::{Bucket, Figures, Reason};
pub use health::{Alive, Health, Overload, Ready};
pub use journal::{History, JournalMessage};
pub use node::{Connections, Feed, Limits, Node, Process, Vhost};
pub use openapi::openapi;
pub use overview::{
    FeedOverview, Links, NodeOverview, NodeRefusals, Overview, Refusals, RefusedClient,
};
pub use presence::{
    Counts, Group, MAX_USERS, Member, NodeInfo, Nodes, Session, Sessions, Status, User, UserStatus,
    Users, UsersRequest,
};
pub use publish::{
    Became, FailureReason, KeyFailure, KeyReport, PublishFailure, PublishRequest, Published,
};
pub use rooms::{Room, RoomCount, RoomMember, Rooms, RoomsRequest};
pub use rules::Rules;
pub use token::{Scope, Token, TokenError, Tokens, generate};
pub use webhooks::{DeadEvent, WebhookReceiver, Webhooks};

use self::{
    answer::{Answer, Refusal, Request, is_json},
    node::Looked,
};
use crate::{
    background,
    control::{Look, NoAnswer, Views},
    http::{Remote, Routes},
    node::Services,
    offline,
    shutdown::{Phase, Phases},
    telemetry::{self, Few, Seldom},
};

/// How long a request may take beside what its calls of the broker may.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns beside `[api] max_requests` for administrators: backends whose messages wait for the broker
/// may have all others, in the very hour in which somebody has to look, and to act.
const ADMIN_TURNS: usize = 8;

/// The same for `/metrics`.
const METRICS_TURNS: usize = 2;

/// The parts that the operator's side reports on and commands.
pub struct Api {
    services: Arc<Services>,
    phases: Phases,
    node: Arc<str>,
    /// The addresses that it listens at, by their keys in `[listen]`.
    listeners: BTreeMap<String, String>,
    started: Instant,
    started_at: SystemTime,
    default_vhost: Arc<str>,
    rules: Arc<Rules>,
    /// `[api] max_requests`, which stays.
    max_requests: usize,
    configuration: Option<Arc<dyn Reconfigure>>,
    /// How long a body may take to come.
    body_timeout: Duration,
    /// How long a request may take from then on.
    timeout: Duration,
    /// How long the broker may take for an answer, and a message waits for its room.
    operation_timeout: Duration,
    /// A turn for each request that is being served.
    turns: Arc<Semaphore>,
    admin_turns: Arc<Semaphore>,
    metrics_turns: Arc<Semaphore>,
    /// Bytes of messages that may be on their way to the broker, of all calls together that are not
    /// small.
    publishing: Semaphore,
    searches: destinations::Searches,
    process: Looked<Process>,
    proportional: Looked<Option<u64>>,
    refused: Mutex<Seldom>,
    /// Lines of the audit about tries without a good token: anybody who reaches the listener can
    /// cause them, and would push real ones out of the log.
    strangers: Mutex<Few>,
}

/// A request's turn; `None` where it needs none.
type Turn = Option<OwnedSemaphorePermit>;

/// One operation.
struct Route {
    method: Method,
    /// As in the document: `{name}` stands for one segment.
    path: &'static str,
    access: Access,
    /// Its name in the audit, if it is an action.
    action: Option<&'static str>,
    /// It reads a body.
    takes_body: bool,
    handler: for<'a> fn(&'a Api, Request) -> BoxFuture<'a, Answer>,
}

/// The right that an operation requires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// None: open to everybody who reaches the listener.
    Open,
    /// As `api.metrics` says.
    Metrics,
    /// Any token.
    Token,
    /// A token with this scope.
    Scope(Scope),
}

/// The scope that a token must have; `None`: any token serves.
type Wanted = Option<Scope>;

macro_rules! routes {
    ($($method:ident $path:literal $access:expr => $handler:path $(, $body:ident)? $(as $action:literal)?;)*) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            access: $access,
            action: routes!(@action $($action)?),
            takes_body: routes!(@body $($body)?),
            handler: |api, request| $handler(api, request).boxed(),
        }),*]
    };
    (@action $action:literal) => { Some($action) };
    (@action) => { None };
    (@body body) => { true };
    (@body) => { false };
}

const READ: Access = Access::Scope(Scope::Read);
const PUBLISH: Access = Access::Scope(Scope::Publish);
const HISTORY: Access = Access::Scope(Scope::History);
const ADMIN: Access = Access::Scope(Scope::Admin);

/// Paths that load balancers and Prometheus ask, by whatever name they know the node.
pub const PROBES: &[&str] = &["/healthz", "/readyz", "/metrics"];

static ROUTES: &[Route] = routes! {
    GET "/healthz" Access::Open => health::alive;
    GET "/readyz" Access::Open => health::ready;
    GET "/metrics" Access::Metrics => metrics::metrics;
    GET "/api/openapi.json" Access::Open => openapi::document;
    GET "/api/v1/token" Access::Token => caller::caller;
    GET "/api/v1/overview" READ => overview::overview;
    GET "/api/v1/refusals" READ => overview::refusals;
    GET "/api/v1/destinations" READ => destinations::destinations;
    GET "/api/v1/node" READ => node::node;
    GET "/api/v1/nodes" READ => presence::nodes;
    GET "/api/v1/counts" READ => presence::counts;
    GET "/api/v1/sessions" READ => presence::sessions;
    GET "/api/v1/sessions/{id}" READ => presence::session;
    GET "/api/v1/sessions/{id}/details" READ => details::details;
    DELETE "/api/v1/sessions/{id}" ADMIN => commands::kick_session as "kick";
    POST "/api/v1/sessions/{id}/recheck" ADMIN => commands::recheck_session as "recheck";
    GET "/api/v1/users/{name}" READ => presence::user;
    DELETE "/api/v1/users/{name}/sessions" ADMIN => commands::kick_user as "kick";
    POST "/api/v1/users/{name}/recheck" ADMIN => commands::recheck_user as "recheck";
    POST "/api/v1/users/{name}/unsubscribe" ADMIN => commands::unsubscribe, body as "unsubscribe";
    POST "/api/v1/users/{name}/forget" ADMIN => commands::forget as "forget";
    POST "/api/v1/users/{name}/groups" ADMIN => commands::refresh_groups as "refresh-groups";
    GET "/api/v1/bans" READ => bans::bans;
    POST "/api/v1/bans" ADMIN => bans::ban, body as "ban";
    DELETE "/api/v1/bans" ADMIN => bans::unban as "unban";
    POST "/api/v1/presence" READ => presence::users, body;
    GET "/api/v1/groups/{name}" READ => presence::group;
    POST "/api/v1/rooms" READ => rooms::rooms, body;
    GET "/api/v1/rooms/{exchange}/{key}" READ => rooms::room;
    POST "/api/v1/publish" PUBLISH => publish::publish, body as "publish";
    GET "/api/v1/journal/{exchange}" HISTORY => journal::history as "history";
    GET "/api/v1/webhooks" READ => webhooks::webhooks;
    GET "/api/v1/tail" ADMIN => tail::tail as "tail";
    GET "/api/v1/config" READ => configuration::configuration;
    POST "/api/v1/config/reload" ADMIN => configuration::reload as "reload";
    POST "/api/v1/config/compare" ADMIN => configuration::compare, body;
};

impl Api {
    /// The operator's side of this node. `configuration` can be read again, if there is one;
    /// `body_timeout` is how long a body may take to come, and
    /// `operation_timeout` how long the broker may take for an answer.
    #[must_use]
    pub fn new(
        services: Arc<Services>,
        phases: Phases,
        rules: Arc<Rules>,
        configuration: Option<Arc<dyn Reconfigure>>,
        (node, listeners): (&str, BTreeMap<String, String>),
        body_timeout: Duration,
        operation_timeout: Duration,
    ) -> Arc<Self> {
        let settings = services.settings();
        let max_requests = rules.current().0.max_requests;
        let api = Arc::new(Self {
            default_vhost: Arc::clone(&settings.default_vhost),
            phases,
            node: node.into(),
            listeners,
            started: Instant::now(),
            started_at: SystemTime::now(),
            turns: Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS))),
            admin_turns: Arc::new(Semaphore::new(ADMIN_TURNS)),
            metrics_turns: Arc::new(Semaphore::new(METRICS_TURNS)),
            publishing: Semaphore::new(publish::ALL_BYTES),
            max_requests,
            rules,
            configuration,
            body_timeout,
            // A message waits for its turn, and then for its answer.
            timeout: operation_timeout.saturating_mul(2).saturating_add(PATIENCE),
            searches: destinations::Searches::default(),
            process: Looked::default(),
            proportional: Looked::default(),
            operation_timeout,
            refused: Mutex::default(),
            strangers: Mutex::default(),
            services,
        });
        let views: Weak<dyn Views> = Arc::downgrade(&api) as _;
        api.services.control.show(views);
        api
    }

    /// All of it, for a listener of its own.
    #[must_use]
    pub fn routes(self: Arc<Self>) -> Routes {
        let query = warp::query::raw().or(warp::any().map(String::new)).unify();
        warp::method()
            .and(warp::path::full())
            .and(query)
            .and(warp::header::headers_cloned())
            .and(warp::ext::optional::<Remote>())
            .and(warp::body::stream())
            .then(
                move |method, path: warp::path::FullPath, query, headers, remote, body| {
                    let api = Arc::clone(&self);
                    async move {
                        api.answer((method, path.as_str()), query, headers, remote, body)
                            .await
                    }
                },
            )
            .boxed()
    }

    async fn answer<B: Buf>(
        self: &Arc<Self>,
        (method, path): (Method, &str),
        query: String,
        headers: HeaderMap,
        remote: Option<Remote>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> warp::reply::Response {
        let (route, names) = match find(&method, path) {
            Ok(found) => found,
            Err(refusal) => return refusal.into_response(),
        };
        let begun = Instant::now();
        let mut request = Request {
            names,
            query,
            body: Bytes::new(),
            caller: None,
            remote: remote.map(|Remote(remote)| remote),
            on: Arc::default(),
        };
        let admitted = self.admit(route, &mut request, &headers, body).await;
        let is_refused = admitted.is_err();
        let serving = Arc::clone(self).serve(route, (path.to_owned(), begun), request, admitted);
        if route.action.is_none() || is_refused {
            return serving.await;
        }
        // It goes on if its caller hangs up: half of it may be done by then, and the audit tells of it.
        let served = background::spawn(serving).await;
        served.unwrap_or_else(|_| fault().into_response())
    }

    /// Serves a request, or refuses it, and tells of it.
    async fn serve(
        self: Arc<Self>,
        route: &Route,
        (path, begun): (String, Instant),
        request: Request,
        admitted: Result<Turn, Refusal>,
    ) -> warp::reply::Response {
        let (caller, remote) = (request.caller.clone(), request.remote);
        let on = Arc::clone(&request.on);
        let named = route.action.map(|_| request.named()).unwrap_or_default();
        let (answer, turn) = match admitted {
            // A fault of this program is told of, too.
            Ok(turn) => {
                let handling = self.handle(route, request, turn.is_some());
                let answer = AssertUnwindSafe(handling).catch_unwind().await;
                (answer.unwrap_or_else(|_| Err(fault())), turn)
            }
            Err(refusal) => (Err(refusal), None),
        };
        let status = match &answer {
            Ok(reply) => reply.status,
            Err(refusal) => refusal.status,
        };
        telemetry::api_request(&telemetry::ApiRequest {
            token: caller.as_deref(),
            method: route.method.as_str(),
            route: route.path,
            path: &path,
            status: status.as_u16(),
            duration: begun.elapsed(),
        });
        if let (Some(action), Access::Scope(scope)) = (route.action, route.access)
            && let Some(unsaid) = self.audits(status)
        {
            let (outcome, cause) = match &answer {
                Ok(reply) if reply.status.is_success() => ("done", None),
                Ok(_) => ("failed", None),
                Err(refusal) if is_denied(refusal.status) => ("denied", Some(refusal.audited())),
                Err(refusal) => ("failed", Some(refusal.audited())),
            };
            telemetry::audited(&telemetry::Audited {
                token: caller.as_deref(),
                scope: scope.as_str(),
                remote,
                action,
                on: on.get().map_or(&named, |on| on),
                outcome,
                cause,
                unsaid: Some(unsaid).filter(|unsaid| *unsaid > 0),
            });
        }
        match answer {
            Ok(reply) => reply.holding(turn).into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }

    /// Whether the audit tells of an action, and how many tries went untold before it. Those without a
    /// good token are told of in part.
    fn audits(&self, status: StatusCode) -> Option<u64> {
        let mut strangers = self.strangers.lock();
        if status != StatusCode::UNAUTHORIZED {
            return Some(strangers.take_unsaid());
        }
        strangers.let_through(Instant::now())
    }

    /// Whether a request may be served; reads its body. A caller who hangs up meanwhile has asked for
    /// nothing.
    async fn admit<B: Buf>(
        &self,
        route: &Route,
        request: &mut Request,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Turn, Refusal> {
        let Some(wanted) = self.wanted(route.access) else {
            return Ok(None);
        };
        let (name, is_administrator) = self.authorize(headers, wanted)?;
        request.caller = Some(name);
        let Some(turn) = self.turn(route.access, is_administrator) else {
            let error = format!(
                "{} requests are being served, as many as [api] max_requests allows",
                self.max_requests
            );
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, error);
            return Err(refusal.with_header(header::RETRY_AFTER, "1"));
        };
        if route.takes_body {
            request.body = self.read(headers, body).await?;
        }
        Ok(Some(turn))
    }

    /// A turn, if there is one.
    fn turn(&self, access: Access, is_administrator: bool) -> Turn {
        let own = match access {
            Access::Metrics => Some(&self.metrics_turns),
            // A backend may have a token for everything.
            PUBLISH | HISTORY => None,
            _ => is_administrator.then_some(&self.admin_turns),
        };
        let mut turns = [Some(&self.turns), own].into_iter().flatten();
        turns.find_map(|turns| Arc::clone(turns).try_acquire_owned().ok())
    }

    async fn handle(&self, route: &Route, request: Request, has_turn: bool) -> Answer {
        let handling = (route.handler)(self, request);
        if !has_turn {
            return handling.await;
        }
        timeout(self.timeout, handling).await.unwrap_or_else(|_| {
            let error = format!(
                "it took longer than {} s; some of it may be done",
                self.timeout.as_secs()
            );
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, error))
        })
    }

    /// What a request needs of its token; `None` if it needs no token.
    fn wanted(&self, access: Access) -> Option<Wanted> {
        match access {
            Access::Open => None,
            Access::Metrics => {
                let is_closed = self.rules.current().0.metrics == Metrics::Token;
                is_closed.then_some(Some(Scope::Read))
            }
            Access::Token => Some(None),
            Access::Scope(scope) => Some(Some(scope)),
        }
    }

    /// The name of the token that a request carries (RFC 6750, 2.1), if its scope suffices; and whether
    /// it is an administrator's.
    fn authorize(&self, headers: &HeaderMap, wanted: Wanted) -> Result<(Box<str>, bool), Refusal> {
        let refuse = |error: &str, challenge: &str| {
            if let Some(unsaid) = self.refused.lock().let_through(Instant::now()) {
                telemetry::api_refused(error, unsaid);
            }
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, error);
            Err(refusal.with_header(header::WWW_AUTHENTICATE, challenge))
        };
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let given = match (all.next(), all.next()) {
            (Some(given), None) => given.to_str().ok().and_then(bearer),
            _ => None,
        };
        let rules = self.rules.current();
        let tokens = &rules.0.tokens;
        if tokens.is_empty() {
            let error = "there are no tokens; set [api] tokens (`stentor token` makes one)";
            return refuse(error, "Bearer realm=\"stentor\"");
        }
        let Some(given) = given else {
            let error = "this takes a token: Authorization: Bearer TOKEN";
            return refuse(error, "Bearer realm=\"stentor\"");
        };
        let Some((name, token)) = tokens.find(given) else {
            let challenge = "Bearer realm=\"stentor\", error=\"invalid_token\"";
            return refuse("the token is not known here", challenge);
        };
        let Some(scope) = wanted.filter(|scope| !token.allows(*scope)) else {
            return Ok((name.into(), token.allows(Scope::Admin)));
        };
        let error = format!("the token {name:?} lacks the scope {scope}");
        let challenge =
            format!("Bearer realm=\"stentor\", error=\"insufficient_scope\", scope=\"{scope}\"");
        let refusal = Refusal::new(StatusCode::FORBIDDEN, error);
        Err(refusal.with_header(header::WWW_AUTHENTICATE, &challenge))
    }

    async fn read<B: Buf>(
        &self,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Bytes, Refusal> {
        if !is_json(headers) {
            let error = "the body has to be JSON: Content-Type: application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        let max_body = self.rules.current().0.max_body;
        let reading = async {
            let mut body = pin!(body);
            let mut read = BytesMut::new();
            while let Some(part) = body.next().await {
                let mut part =
                    part.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
                if read.len().saturating_add(part.remaining()) > max_body {
                    let error =
                        format!("the body is longer than {max_body} bytes ([api] max_body)");
                    return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error));
                }
                while part.has_remaining() {
                    let chunk = part.chunk();
                    read.extend_from_slice(chunk);
                    part.advance(chunk.len());
                }
            }
            Ok(read.freeze())
        };
        timeout(self.body_timeout, reading)
            .await
            .unwrap_or_else(|_| {
                let error = "the body did not come in time";
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, error))
            })
    }

    /// `Ok` if clients should be sent here; otherwise the reason.
    fn readiness(&self) -> Result<(), String> {
        if self.phases.current() != Phase::Running {
            return Err("shutting down".to_owned());
        }
        let readiness = self.services.vhosts.readiness();
        readiness.map_err(|error| error.to_string())?;
        self.services.auth.readiness().map_err(String::from)
    }

    fn presence_health(&self) -> String {
        match self
            .services
            .presence
            .as_ref()
            .map(|presence| presence.health())
        {
            None => "off".to_owned(),
            Some(Ok(())) => "ok".to_owned(),
            Some(Err(error)) => error.to_string(),
        }
    }
}

impl Views for Api {
    fn view(&self, look: Look) -> BoxFuture<'_, Result<Option<Value>, NoAnswer>> {
        async move {
            Ok(match look {
                Look::Overview => overview::view_node(self).await,
                Look::Refusals => overview::view_refusals(self).await,
                Look::Session(id) => details::view(self, &id).await?,
                Look::Destinations(text) => destinations::view(self, &text).await,
                Look::Subscribed(keys) => offline::view(&self.services, &keys),
            })
        }
        .boxed()
    }
}

/// This program is at fault.
fn fault() -> Refusal {
    let error = "it failed, which is in the log; some of it may be done";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error)
}

/// Whether a token is missing, or lacks the scope.
fn is_denied(status: StatusCode) -> bool {
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status)
}

/// The token of an `Authorization` header.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The operation of a request, and the names in its path.
fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Refusal> {
    let mut allowed = Vec::new();
    for route in ROUTES {
        let Some(names) = names(route.path, path) else {
            continue;
        };
        // Monitors ask so. hyper leaves the body out.
        let is_head =
            *method == Method::HEAD && route.method == Method::GET && route.access == Access::Open;
        if route.method == *method || is_head {
            return Ok((route, names?));
        }
        allowed.push(route.method.as_str());
    }
    if allowed.is_empty() {
        let error = "there is nothing here; /api/openapi.json says what is where, beside /healthz, \
                     /readyz and /metrics";
        return Err(Refusal::new(StatusCode::NOT_FOUND, error));
    }
    let allowed = allowed.join(", ");
    let refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this takes {allowed}"),
    );
    Err(refusal.with_header(header::ALLOW, &allowed))
}

/// The values for a template's names in a path; `None` if the path does not match.
fn names(template: &'static str, path: &str) -> Option<Result<Vec<String>, Refusal>> {
    let mut names = Vec::new();
    let mut segments = path.split('/');
    for wanted in template.split('/') {
        let segment = segments.next()?;
        match wanted.strip_prefix('{') {
            Some(name) if !segment.is_empty() => names.push((name.trim_end_matches('}'), segment)),
            None if wanted == segment => {}
            _ => return None,
        }
    }
    if segments.next().is_some() {
        return None;
    }
    let decode = |(name, segment): (&str, &str)| {
        let decoded = percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| Refusal::field(name, "is no UTF-8 text"))?;
        presence::check_name(name, &decoded)?;
        Ok(decoded.into_owned())
    };
    Some(names.into_iter().map(decode).collect())
}

#[cfg(test)]
mod tests;
