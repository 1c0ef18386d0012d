//! Access by token and scope; and the table against the document.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::{
    future::{join_all, pending},
    stream,
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use warp::http::HeaderValue;

use super::*;
use crate::{
    broker::{
        Broker, BrokerError, Confirm, Consume, Consumer, DeliverySink, ExchangeKind, FeedId,
        FeedSink, Properties, Publish, QueueSpec, VirtualHost,
    },
    http::tests::{services, services_at},
    node::Limits,
    shutdown::Progress,
    telemetry::capture::Capture,
};

const READER: &str = "reader-0123456789";
const WRITER: &str = "writer-0123456789";
const ADMINISTRATOR: &str = "administrator-0123456789";

fn tokens() -> Tokens {
    [
        ("r", "read", READER),
        ("w", "publish", WRITER),
        ("a", "admin", ADMINISTRATOR),
    ]
    .into_iter()
    .fold(Tokens::default(), |tokens, (name, scope, text)| {
        tokens.with(name, format!("{scope} {text}").parse().unwrap())
    })
}

fn api_with(config: Config) -> (Arc<Api>, Progress) {
    api_of(services(10), config)
}

fn api_of(services: Arc<Services>, config: Config) -> (Arc<Api>, Progress) {
    let (progress, phases) = Progress::start();
    let patience = Duration::from_millis(200);
    let api = Api::new(
        services,
        phases,
        Rules::new(config, Health::default()),
        None,
        ("node-1", BTreeMap::new()),
        patience,
        Duration::from_secs(1),
    );
    (api, progress)
}

fn api() -> (Arc<Api>, Progress) {
    api_with(Config {
        tokens: tokens(),
        ..Config::default()
    })
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answered {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }
}

async fn ask(api: &Arc<Api>, request: &str, token: &str, body: &str) -> Answered {
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    if !token.is_empty() {
        let value = format!("Bearer {token}");
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    send(api, method, path, query, headers, body).await
}

async fn send(
    api: &Arc<Api>,
    method: &str,
    path: &str,
    query: &str,
    headers: HeaderMap,
    body: &str,
) -> Answered {
    // In pieces, as they come from a network.
    let pieces: Vec<Result<Bytes, warp::Error>> = body
        .as_bytes()
        .chunks(7)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let method = method.parse().unwrap();
    let answer = api
        .answer(
            (method, path),
            query.to_owned(),
            headers,
            None,
            stream::iter(pieces),
        )
        .await;
    let status = answer.status().as_u16();
    let headers = answer.headers().clone();
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap()
        .to_bytes();
    Answered {
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_say() {
    let (api, _progress) = api();
    let publish = r#"{"exchange":"amq.topic","key":"k"}"#;
    for (request, body, opened_by) in [
        ("GET /api/v1/node", "", [READER, ADMINISTRATOR]),
        ("POST /api/v1/publish", publish, [WRITER, ADMINISTRATOR]),
        (
            "DELETE /api/v1/users/alice/sessions",
            "",
            [ADMINISTRATOR; 2],
        ),
    ] {
        for token in [READER, WRITER, ADMINISTRATOR] {
            let answered = ask(&api, request, token, body).await;
            if opened_by.contains(&token) {
                assert_eq!(answered.status, 200, "{request} {token}: {}", answered.body);
            } else {
                assert_eq!(answered.status, 403, "{request} {token}");
                assert!(
                    answered.error().contains("lacks the scope"),
                    "{}",
                    answered.error()
                );
                let challenge = answered.header(header::WWW_AUTHENTICATE);
                assert!(challenge.contains("insufficient_scope"), "{challenge}");
            }
        }
        for token in ["", "reader-012345678", "reader-01234567890"] {
            let answered = ask(&api, request, token, body).await;
            assert_eq!(answered.status, 401, "{request} {token:?}");
            let challenge = answered.header(header::WWW_AUTHENTICATE);
            assert!(
                challenge.starts_with("Bearer realm=\"stentor\""),
                "{challenge}"
            );
        }
    }
    let mut headers = HeaderMap::new();
    let value = || HeaderValue::from_str(&format!("Bearer {READER}")).unwrap();
    headers.append(header::AUTHORIZATION, value());
    headers.append(header::AUTHORIZATION, value());
    let twice = send(&api, "GET", "/api/v1/node", "", headers, "").await;
    assert_eq!(twice.status, 401);
    let mut headers = HeaderMap::new();
    headers.append(
        header::AUTHORIZATION,
        format!("Basic {READER}").parse().unwrap(),
    );
    let basic = send(&api, "GET", "/api/v1/node", "", headers, "").await;
    assert_eq!(basic.status, 401);
}

#[tokio::test]
async fn without_tokens_only_health_and_metrics_are_open() {
    let (api, _progress) = api_with(Config::default());
    for route in ROUTES {
        let request = format!("{} {}", route.method, route.path.replace(['{', '}'], "x"));
        let answered = ask(&api, &request, READER, "{}").await;
        let is_open = matches!(route.access, Access::Open | Access::Metrics);
        assert_eq!(
            answered.status,
            if is_open { 200 } else { 401 },
            "{request}"
        );
        assert!(
            is_open || answered.error().contains("[api] tokens"),
            "{}",
            answered.error()
        );
    }
    let (api, _progress) = api_with(Config {
        metrics: Metrics::Token,
        tokens: tokens(),
        ..Config::default()
    });
    for (token, status) in [("", 401), (WRITER, 403), (READER, 200)] {
        assert_eq!(ask(&api, "GET /metrics", token, "").await.status, status);
    }
}

/// Strangers who reach the listener cannot fill the log. The holder of a token answers for its tries.
#[tokio::test]
async fn tries_without_a_token_do_not_fill_the_audit() {
    let log = Capture::start();
    let lines = || log.text().matches("operator's action").count();
    let (api, _progress) = api();
    let kick = "DELETE /api/v1/users/alice/sessions";
    for _ in 0..1_000 {
        assert_eq!(ask(&api, kick, "", "").await.status, 401);
    }
    let of_strangers = lines();
    assert!((1..=200).contains(&of_strangers), "{of_strangers} lines");
    for _ in 0..100 {
        assert_eq!(ask(&api, kick, READER, "").await.status, 403);
    }
    assert_eq!(lines() - of_strangers, 100);
    // The next line, whosever it is, counts those that have none.
    let text = log.text();
    let lines = text
        .lines()
        .filter(|line| line.contains("operator's action"));
    let unsaid: Vec<usize> = lines
        .map(|line| {
            let count = line.split(" unsaid=").nth(1);
            let count = count.and_then(|rest| rest.split(' ').next());
            count.map_or(0, |count| count.parse().unwrap())
        })
        .collect();
    assert!(unsaid[of_strangers] > 0, "{unsaid:?}");
    assert_eq!(unsaid.iter().sum::<usize>(), 1_000 - of_strangers);
}

/// Of a denied request no handler knows the body, so the URL alone tells.
#[tokio::test]
async fn the_audit_names_what_it_is_about() {
    let (api, _progress) = api();
    let kick = "DELETE /api/v1/users/alice/sessions?device_id=d%201&reason=geheim";
    for (request, token, on) in [
        (kick, ADMINISTRATOR, r#" on="alice, device id \"d 1\"" "#),
        (kick, READER, r#" on="alice, device id \"d 1\"" "#),
        (kick, "", r#" on="alice, device id \"d 1\"" "#),
        (
            "DELETE /api/v1/users/alice/sessions",
            READER,
            r#" on="alice" "#,
        ),
        (
            "DELETE /api/v1/bans?user=eve",
            READER,
            r#" on="user \"eve\"" "#,
        ),
        (
            "GET /api/v1/tail?user=eve",
            READER,
            r#" on="user \"eve\"" "#,
        ),
        ("POST /api/v1/bans", READER, r#" on="" "#),
    ] {
        let log = Capture::start();
        ask(&api, request, token, "{}").await;
        let text = log.text();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("stentor::audit"))
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].contains(on), "{request}: {text}");
        assert!(!lines[0].contains("geheim"), "{text}");
    }
}

/// A backend that encodes its JSON twice has the whole message in serde's words.
#[tokio::test]
async fn nothing_of_a_body_is_in_the_audit() {
    let (api, _progress) = api();
    let twice = json!(r#"{"exchange":"e","key":"k","body":"geheim"}"#);
    let long = "x".repeat(100_000);
    for (request, token, body) in [
        ("POST /api/v1/publish", WRITER, twice.to_string()),
        (
            "POST /api/v1/publish",
            WRITER,
            json!({ "exchange": "e", "keys": "geheim" }).to_string(),
        ),
        (
            "POST /api/v1/publish",
            WRITER,
            json!({ "exchange": "e", "key": "k", "geheim": 1 }).to_string(),
        ),
        (
            "POST /api/v1/publish",
            WRITER,
            json!({ "exchange": "e", "key": "k", "headers": { "geheim": 1 } }).to_string(),
        ),
        (
            "POST /api/v1/publish",
            WRITER,
            json!({ "exchange": "e", "key": "k", "vhost": long }).to_string(),
        ),
        (
            "POST /api/v1/bans",
            ADMINISTRATOR,
            json!({ "address": long, "reason": "geheim" }).to_string(),
        ),
        (
            "POST /api/v1/users/alice/unsubscribe",
            ADMINISTRATOR,
            json!({ "destination": long, "reason": "geheim" }).to_string(),
        ),
        (
            "POST /api/v1/bans",
            ADMINISTRATOR,
            json!("geheim").to_string(),
        ),
    ] {
        let log = Capture::start();
        let answered = ask(&api, request, token, &body).await;
        assert_eq!(answered.status, 400, "{request}: {}", answered.body);
        let text = log.text();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("stentor::audit"))
            .collect();
        assert_eq!(lines.len(), 1, "{request}: {} bytes", text.len());
        assert!(!lines[0].contains("geheim"), "{text}");
        assert!(lines[0].len() < 1024, "{request}: {} bytes", lines[0].len());
    }
}

#[tokio::test]
async fn a_fault_of_an_action_is_in_the_audit() {
    static BROKEN: Route = Route {
        method: Method::POST,
        path: "/broken/{name}",
        access: ADMIN,
        action: Some("ban"),
        takes_body: false,
        // There is no such name.
        handler: |_, request| async move { answer::Reply::ok(&request.names[1]) }.boxed(),
    };
    let (api, _progress) = api();
    let log = Capture::start();
    let request = Request {
        names: vec!["alice".to_owned()],
        query: String::new(),
        body: Bytes::new(),
        caller: Some("a".into()),
        remote: None,
        on: Arc::default(),
    };
    let at = ("/broken/alice".to_owned(), Instant::now());
    let served = api.serve(&BROKEN, at, request, Ok(None)).await;
    assert_eq!(served.status().as_u16(), 500);
    let text = log.text();
    assert!(
        text.contains(r#"action="ban" on="alice" outcome="failed""#),
        "{text}"
    );
}

/// The document is made of attributes, the table of lines: neither has what the other lacks.
#[test]
fn the_document_has_what_is_served() {
    let document: Value = serde_json::from_str(openapi()).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].to_string();
            let takes_body = operation["requestBody"].is_object();
            described.insert((method.to_uppercase(), path.clone(), security, takes_body));
        }
    }
    let served: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| {
            let security = match route.access {
                Access::Open => Value::Null,
                Access::Metrics => json!([{}, { "token": ["read"] }]),
                Access::Token => json!([{ "token": [] }]),
                Access::Scope(scope) => json!([{ "token": [scope.as_str()] }]),
            };
            let (method, path) = (route.method.to_string(), route.path.to_owned());
            (method, path, security.to_string(), route.takes_body)
        })
        .collect();
    assert_eq!(described, served);
    assert_eq!(served.len(), ROUTES.len());
}

/// A misspelt parameter is refused, not ignored.
#[tokio::test]
async fn unknown_parameters_are_refused_everywhere() {
    let (api, _progress) = api();
    for route in ROUTES
        .iter()
        .filter(|route| route.path.starts_with("/api/"))
    {
        let path = route.path.replace(['{', '}'], "x");
        let request = format!("{} {path}?colour=red", route.method);
        let answered = ask(&api, &request, ADMINISTRATOR, "{}").await;
        assert_eq!(answered.status, 400, "{request}: {}", answered.body);
        assert!(answered.error().contains("\"colour\""), "{}", answered.body);
    }
}

#[tokio::test]
async fn what_is_nowhere_and_what_is_otherwise() {
    let (api, _progress) = api();
    for path in [
        "/",
        "/metricz",
        "/api/v1/node/",
        "/api/v1/users",
        "/api/v1/users/",
        "/api/v2/node",
    ] {
        let answered = ask(&api, &format!("GET {path}"), ADMINISTRATOR, "").await;
        assert_eq!(answered.status, 404, "{path}");
        assert!(
            answered.error().contains("/api/openapi.json"),
            "{}",
            answered.body
        );
    }
    let answered = ask(&api, "PUT /api/v1/sessions/x", "", "").await;
    assert_eq!(answered.status, 405);
    assert_eq!(answered.header(header::ALLOW), "GET, DELETE");
    // A name may have anything in it, percent-encoded, and is text.
    let (_, names) = find(&Method::GET, "/api/v1/users/a%2Fb%C3%A9%20%25").unwrap();
    assert_eq!(names, ["a/bé %"]);
    let long = "x".repeat(256);
    for name in ["%FF", long.as_str()] {
        let answered = ask(&api, &format!("GET /api/v1/users/{name}"), READER, "").await;
        assert_eq!(
            (answered.status, &answered.body["field"]),
            (400, &json!("name"))
        );
    }
}

#[tokio::test]
async fn a_body_is_json_of_a_bounded_size_and_comes_in_time() {
    let (api, _progress) = api_with(Config {
        tokens: tokens(),
        max_body: 100,
        ..Config::default()
    });
    let publish = |body: String| ask_owned(&api, body);
    let long = format!(
        r#"{{"exchange":"amq.topic","key":"k","body":"{}"}}"#,
        "x".repeat(100)
    );
    assert_eq!(publish(long).await.status, 413);
    for (body, field, words) in [
        ("", Value::Null, "the body"),
        ("[", Value::Null, "the body"),
        (r#"{"exchange":"e","key":"k"}{}"#, Value::Null, "trailing"),
        (
            r#"{"exchange":"e","kye":"k"}"#,
            json!("kye"),
            "unknown field",
        ),
        (
            r#"{"exchange":7,"key":"k"}"#,
            json!("exchange"),
            "expected a string",
        ),
        (
            r#"{"exchange":"e","keys":["k",7]}"#,
            json!("keys[1]"),
            "expected a string",
        ),
        (r#"{"exchange":"e"}"#, json!("key"), "is missing"),
        (r#"{"exchange":"e","keys":[]}"#, json!("keys"), "is empty"),
        (
            r#"{"exchange":"e","key":"k","keys":["k"]}"#,
            json!("keys"),
            "one of them",
        ),
        (
            r#"{"exchange":"e","key":"k","body_base64":"?"}"#,
            json!("body_base64"),
            "no base64",
        ),
        (
            r#"{"exchange":"e","key":"k","headers":{"CC":"a"}}"#,
            json!("headers.CC"),
            "all keys",
        ),
        (
            r#"{"exchange":"e","key":"k","headers":{"x-stomp-user":"bob"}}"#,
            json!("headers.x-stomp-user"),
            "says it of a message",
        ),
        (
            r#"{"exchange":"e","key":"k","priority":300}"#,
            json!("priority"),
            "u8",
        ),
    ] {
        let answered = publish(body.to_owned()).await;
        assert_eq!(answered.status, 400, "{body}: {}", answered.body);
        assert_eq!(answered.body["field"], field, "{body}: {}", answered.body);
        assert!(
            answered.error().contains(words),
            "{body}: {}",
            answered.body
        );
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        header::AUTHORIZATION,
        format!("bearer {WRITER}").parse().unwrap(),
    );
    let untyped = send(&api, "POST", "/api/v1/publish", "", headers.clone(), "{}").await;
    assert_eq!(untyped.status, 415);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    let never = stream::pending::<Result<Bytes, warp::Error>>();
    let publish = "/api/v1/publish";
    let late = api
        .answer((Method::POST, publish), String::new(), headers, None, never)
        .await;
    assert_eq!(late.status(), 408);
}

async fn ask_owned(api: &Arc<Api>, body: String) -> Answered {
    ask(api, "POST /api/v1/publish", WRITER, &body).await
}

#[tokio::test]
async fn only_so_many_requests_are_served_at_a_time() {
    let (api, _progress) = api_with(Config {
        tokens: tokens(),
        max_requests: 1,
        ..Config::default()
    });
    let turn = api.turns.acquire().await.unwrap();
    let refused = ask(&api, "GET /api/v1/node", READER, "").await;
    assert_eq!(
        (refused.status, refused.header(header::RETRY_AFTER)),
        (429, "1")
    );
    // Health is answered all the same.
    assert_eq!(ask(&api, "GET /healthz", "", "").await.status, 200);
    drop(turn);
    assert_eq!(ask(&api, "GET /api/v1/node", READER, "").await.status, 200);
}

/// Callers that read slowly, or not at all, would gather answers of many MiB here.
#[tokio::test]
async fn a_large_answer_holds_its_turn_until_it_is_read() {
    let (api, _progress) = api();
    let mut headers = HeaderMap::new();
    let token = format!("Bearer {WRITER}").parse().unwrap();
    headers.insert(header::AUTHORIZATION, token);
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    for (keys, taken) in [(1, 0), (9_000, 1)] {
        let keys: Vec<String> = (0..keys).map(|key| format!("k{key}")).collect();
        let body = json!({ "exchange": "amq.topic", "keys": keys, "report": true });
        let body: Result<Bytes, warp::Error> = Ok(Bytes::from(body.to_string()));
        let publish = (Method::POST, "/api/v1/publish");
        let body = stream::iter([body]);
        let answer = api
            .answer(publish, String::new(), headers.clone(), None, body)
            .await;
        assert_eq!(answer.status(), 200);
        let held = || api.max_requests - api.turns.available_permits();
        assert_eq!(held(), taken);
        drop(answer);
        assert_eq!(held(), 0);
    }
}

/// In an alarm of RabbitMQ backends' messages wait for it.
#[tokio::test(start_paused = true)]
async fn backends_whose_messages_wait_lock_no_administrator_out() {
    let broker = Arc::new(SilentBroker(Arc::default()));
    let config = Config {
        tokens: tokens(),
        metrics: Metrics::Token,
        max_requests: 2,
        ..Config::default()
    };
    let (api, _progress) = api_of(services_at(broker, 10, Limits::default()), config);
    let publish = r#"{"exchange":"amq.topic","key":"k"}"#;
    let waiting = join_all((0..2).map(|_| ask_owned(&api, publish.to_owned())));
    let looking = async {
        while api.turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        for (request, token, body, status) in [
            (
                "DELETE /api/v1/users/alice/sessions",
                ADMINISTRATOR,
                "",
                200,
            ),
            ("GET /api/v1/overview", ADMINISTRATOR, "", 200),
            ("GET /metrics", READER, "", 200),
            ("GET /api/v1/overview", READER, "", 429),
            ("POST /api/v1/publish", ADMINISTRATOR, publish, 429),
        ] {
            let answered = ask(&api, request, token, body).await;
            assert_eq!(answered.status, status, "{request}: {}", answered.body);
        }
        assert_eq!(api.admin_turns.available_permits(), ADMIN_TURNS);
        assert_eq!(api.metrics_turns.available_permits(), METRICS_TURNS);
    };
    tokio::join!(waiting, looking);
}

#[tokio::test]
async fn messages_are_published_or_it_is_said_which_were_not() {
    let (api, _progress) = api();
    let publish = |body: Value| ask_owned(&api, body.to_string());
    let one = publish(json!({ "exchange": "amq.topic", "key": "k", "body": "hello" })).await;
    assert_eq!((one.status, &one.body), (200, &json!({ "published": 1 })));
    let keys: Vec<String> = (0..2_000).map(|key| format!("k{key}")).collect();
    let many = publish(json!({ "exchange": "amq.topic", "keys": keys })).await;
    assert_eq!(
        (many.status, &many.body),
        (200, &json!({ "published": 2_000 }))
    );
    let too_many: Vec<String> = (0..10_001).map(|key| format!("k{key}")).collect();
    let answered = publish(json!({ "exchange": "amq.topic", "keys": too_many })).await;
    assert_eq!(
        (answered.status, &answered.body["field"]),
        (400, &json!("keys"))
    );

    let nowhere =
        publish(json!({ "exchange": "amq.topic", "keys": ["a", "b"], "mandatory": true })).await;
    assert_eq!(nowhere.status, 422);
    let failed = &nowhere.body["failed"];
    assert_eq!(
        (&nowhere.body["published"], failed.as_array().unwrap().len()),
        (&json!(0), 2)
    );
    assert_eq!(
        (&failed[0]["key"], &failed[0]["reason"]),
        (&json!("a"), &json!("unroutable"))
    );
    // The token is not at fault: with 403, `stentor ctl` would say so.
    for (exchange, key, field) in [
        ("stentor.feed.x", "k", "exchange"),
        ("", "stentor.feed.x", "key"),
    ] {
        let own = publish(json!({ "exchange": exchange, "key": key })).await;
        let told = (own.status, &own.body["field"]);
        assert_eq!(told, (400, &json!(field)), "{}", own.body);
    }
    let missing = publish(json!({ "exchange": "nope", "key": "k" })).await;
    assert_eq!(missing.status, 422, "{}", missing.body);
    assert_eq!(missing.body["failed"][0]["reason"], "not_found");
    let elsewhere = publish(json!({ "vhost": "nope", "exchange": "amq.topic", "key": "k" })).await;
    assert_eq!(
        (elsewhere.status, &elsewhere.body["field"]),
        (404, &json!("vhost"))
    );

    api.services.vhosts.close().await;
    let away = publish(json!({ "exchange": "amq.topic", "keys": ["a", "b"] })).await;
    assert_eq!(away.status, 503, "{}", away.body);
    assert_eq!(away.body["failed"][1]["reason"], "unavailable");
}

/// The exchange whose messages that broker confirms: as in a virtual host whose link is up.
const CONFIRMED: &str = "amq.fanout";

/// The exchange whose messages it confirms after 4 s.
const LATE: &str = "amq.headers";

/// A broker that takes messages and never confirms one, save those to [`CONFIRMED`] and [`LATE`]: the bytes of messages that are under way,
/// and the most that ever were.
#[derive(Default)]
struct Silent {
    under_way: AtomicUsize,
    most: AtomicUsize,
}

struct SilentBroker(Arc<Silent>);

impl Broker for SilentBroker {
    fn open(&self, _: &str, _: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        Arc::new(SilentHost(Arc::clone(&self.0)))
    }
}

struct SilentHost(Arc<Silent>);

/// A message's bytes, until nobody waits for its confirm any more.
struct UnderWay(Arc<Silent>, usize);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(self.1, Relaxed);
    }
}

type Done = Result<(), BrokerError>;

impl VirtualHost for SilentHost {
    fn health(&self) -> Done {
        Ok(())
    }

    fn opened(&self) -> BoxFuture<'_, Done> {
        std::future::ready(Ok(())).boxed()
    }

    fn exchange_kind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        pending().boxed()
    }

    fn bind_feed<'a>(&'a self, _: &'a FeedId, _: &'a str) -> BoxFuture<'a, Done> {
        pending().boxed()
    }

    fn unbind_feed<'a>(&'a self, _: &'a FeedId, _: &'a str) -> BoxFuture<'a, Done> {
        pending().boxed()
    }

    fn end_feed(&self, _: &FeedId) {}

    fn consume(
        &self,
        _: Consume,
        _: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        pending().boxed()
    }

    fn declare_queue<'a>(&'a self, _: &'a QueueSpec) -> BoxFuture<'a, Done> {
        pending().boxed()
    }

    fn delete_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Done> {
        pending().boxed()
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        if *publish.exchange == *CONFIRMED {
            let confirmed: Confirm = std::future::ready(Ok(())).boxed();
            return std::future::ready(Ok(confirmed)).boxed();
        }
        if *publish.exchange == *LATE {
            let sleep = tokio::time::sleep(Duration::from_secs(4));
            let confirmed: Confirm = sleep.map(Ok).boxed();
            return std::future::ready(Ok(confirmed)).boxed();
        }
        let bytes = publish.body.len() + publish.properties.encoded_len();
        let silent = Arc::clone(&self.0);
        let under_way = silent.under_way.fetch_add(bytes, Relaxed) + bytes;
        silent.most.fetch_max(under_way, Relaxed);
        let held = UnderWay(silent, bytes);
        let never: Confirm = async move {
            let _held = held;
            pending().await
        }
        .boxed();
        std::future::ready(Ok(never)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// An API whose broker answers nothing.
fn silent_api() -> (Arc<Api>, Progress, Arc<Silent>) {
    let silent = Arc::<Silent>::default();
    let broker = Arc::new(SilentBroker(Arc::clone(&silent)));
    let config = Config {
        tokens: tokens(),
        ..Config::default()
    };
    let (api, progress) = api_of(services_at(broker, 10, Limits::default()), config);
    (api, progress, silent)
}

/// Each key takes a copy of the body: 256 keys with 4 MiB would be a gigabyte.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_broker_is_bounded_in_bytes() {
    let (api, _progress, silent) = silent_api();
    let keys: Vec<String> = (0..100).map(|key| format!("k{key}")).collect();
    let body = "x".repeat((1 << 20) - Properties::default().encoded_len());
    let publish = json!({ "exchange": "amq.topic", "keys": keys, "body": body }).to_string();
    for (calls, most) in [(1, 8 << 20), (6, 32 << 20)] {
        let asking = (0..calls).map(|_| ask_owned(&api, publish.clone()));
        let mut tried = 0_usize;
        for answered in join_all(asking).await {
            assert_eq!(answered.status, 503, "{}", answered.body);
            assert_eq!(answered.body["published"], 0);
            let failed = &answered.body["failed"][0]["detail"];
            let failed = failed.as_str().unwrap();
            if failed.contains("no answer in the time") {
                tried += 1;
            } else {
                // It is known that nothing was done.
                assert!(failed.contains("no room"), "{failed}");
            }
        }
        assert_eq!(tried, calls.min(4));
        assert_eq!(silent.most.load(Relaxed), most, "{calls} calls");
        assert_eq!(silent.under_way.load(Relaxed), 0);
    }
}

/// So are headers, of which each key takes a copy, too.
#[tokio::test(start_paused = true)]
async fn headers_that_wait_for_the_broker_are_bounded_in_bytes() {
    let (api, _progress, silent) = silent_api();
    let keys: Vec<String> = (0..1_000).map(|key| format!("k{key}")).collect();
    let with_header = |length: usize| {
        let headers = json!({ "h": "x".repeat(length) });
        json!({ "exchange": "amq.topic", "keys": keys, "headers": headers }).to_string()
    };
    let one = Properties {
        headers: vec![("h".into(), "".into())],
        ..Properties::default()
    };
    let answered = ask_owned(&api, with_header((64 << 10) - one.encoded_len())).await;
    assert_eq!(answered.status, 503, "{}", answered.body);
    assert_eq!(silent.most.load(Relaxed), 8 << 20);
    assert_eq!(silent.under_way.load(Relaxed), 0);
    assert_eq!(api.publishing.available_permits(), publish::ALL_BYTES);
    // AMQP has no room for more: no key is tried.
    let refused = ask_owned(&api, with_header(121 << 10)).await;
    let told = (refused.status, &refused.body["field"]);
    assert_eq!(told, (400, &json!("headers")), "{}", refused.body);
}

/// Its caller repeats those that failed, and no others.
#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_says_which_were_published() {
    let (api, _progress, _silent) = silent_api();
    let keys: Vec<String> = (0..2_000).map(|key| format!("k{key}")).collect();
    let publish = json!({ "exchange": LATE, "keys": keys });
    let answered = ask_owned(&api, publish.to_string()).await;
    assert_eq!(answered.status, 503, "{}", answered.body);
    // Two times 256 are confirmed, and as many are under way when the time is over.
    let failed = answered.body["failed"].as_array().unwrap();
    let told = (&answered.body["published"], failed.len());
    assert_eq!(told, (&json!(512), 2_000 - 512));
    assert_eq!(failed[0]["key"], "k512");
    let details = failed.iter().map(|key| key["detail"].as_str().unwrap());
    let under_way = details.filter(|detail| detail.contains("may have taken"));
    assert_eq!(under_way.count(), 256);
}

/// Large messages that one virtual host does not take keep small ones to another from nothing.
#[tokio::test(start_paused = true)]
async fn a_small_message_waits_for_no_room() {
    let broker = Arc::new(SilentBroker(Arc::default()));
    let config = Config {
        tokens: tokens(),
        ..Config::default()
    };
    let (api, _progress) = api_of(services_at(broker, 10, Limits::default()), config);
    let keys: Vec<String> = (0..100).map(|key| format!("k{key}")).collect();
    let body = "x".repeat((1 << 20) - Properties::default().encoded_len());
    let large = json!({ "exchange": "amq.topic", "keys": keys, "body": body }).to_string();
    let small = json!({ "exchange": CONFIRMED, "key": "k", "body": "x".repeat(200) }).to_string();
    let waiting = join_all((0..6).map(|_| ask_owned(&api, large.clone())));
    let passing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(api.publishing.available_permits(), 0);
        let begun = tokio::time::Instant::now();
        let answered = ask_owned(&api, small).await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        assert!(begun.elapsed() < Duration::from_millis(100));
    };
    tokio::join!(waiting, passing);
}

/// What clients publish waits in the clients then; what comes by HTTP would wait here.
#[tokio::test]
async fn a_node_that_is_short_of_memory_takes_no_messages() {
    let (api, _progress) = api();
    api.services.memory.run_short();
    let publish = json!({ "exchange": "amq.topic", "keys": ["a", "b"] }).to_string();
    let refused = ask_owned(&api, publish).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.body["published"], 0);
    let failed = &refused.body["failed"][1];
    assert_eq!(
        (&failed["key"], &failed["reason"]),
        (&json!("b"), &json!("unavailable"))
    );
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.contains("short of memory"), "{detail}");
}

#[tokio::test]
async fn health_follows_the_node() {
    let (api, progress) = api();
    assert_eq!(
        ask(&api, "GET /healthz", "", "").await.body,
        json!({ "status": "ok" })
    );
    let guard = api.services.enter();
    let ready = ask(&api, "GET /readyz", "", "").await;
    let expected = json!({ "status": "ready", "connections": 1, "presence": "off" });
    assert_eq!((ready.status, ready.body), (200, expected));
    drop(guard);
    api.services.vhosts.close().await;
    assert_eq!(ask(&api, "GET /readyz", "", "").await.status, 503);
    progress.enter(Phase::NotReady);
    let draining = ask(&api, "GET /readyz", "", "").await;
    assert_eq!(
        (draining.status, &draining.body["cause"]),
        (503, &json!("shutting down"))
    );
    assert_eq!(ask(&api, "GET /healthz", "", "").await.status, 200);
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/api/v1/node", 405)] {
        let head = ask(&api, &format!("HEAD {path}"), READER, "").await;
        assert_eq!(head.status, status, "{path}");
    }
    let node = ask(&api, "GET /api/v1/node", READER, "").await;
    assert_eq!(node.body["phase"], "not ready");
}

#[tokio::test]
async fn what_takes_presence_says_that_it_is_off() {
    let (api, _progress) = api();
    for path in [
        "nodes",
        "counts",
        "sessions",
        "sessions/x",
        "users/x",
        "groups/x",
    ] {
        let answered = ask(&api, &format!("GET /api/v1/{path}"), READER, "").await;
        assert_eq!(answered.status, 409, "{path}: {}", answered.body);
        assert!(
            answered.error().contains("[presence] url"),
            "{}",
            answered.body
        );
    }
}

/// A configuration whose reload takes until it is let go on.
#[derive(Default)]
struct Slow {
    begun: Notify,
    go_on: Notify,
    done: Notify,
}

impl Reconfigure for Slow {
    fn reload(&self) -> BoxFuture<'_, Result<Difference, String>> {
        async {
            self.begun.notify_one();
            self.go_on.notified().await;
            self.done.notify_one();
            Err("it was for a test".to_owned())
        }
        .boxed()
    }

    fn compare(&self, _: Option<String>) -> BoxFuture<'_, Result<Difference, String>> {
        self.reload()
    }

    fn in_force(&self) -> Configuration {
        panic!("nobody asks for it");
    }
}

/// Of an action, half may be done when its caller hangs up: the rest follows.
#[tokio::test]
async fn an_action_goes_on_without_its_caller() {
    let (_progress, phases) = Progress::start();
    let slow = Arc::new(Slow::default());
    let config = Config {
        tokens: tokens(),
        ..Config::default()
    };
    let patience = Duration::from_secs(60);
    let api = Api::new(
        services(10),
        phases,
        Rules::new(config, Health::default()),
        Some(Arc::clone(&slow) as _),
        ("node-1", BTreeMap::new()),
        patience,
        patience,
    );
    let within = |done| timeout(Duration::from_secs(10), done);
    tokio::select! {
        _ = ask(&api, "POST /api/v1/config/reload", ADMINISTRATOR, "") => panic!("too soon"),
        () = slow.begun.notified() => {}
    }
    // The caller is gone. Its turn is taken, until the action ends.
    let taken = || api.max_requests - api.turns.available_permits();
    assert_eq!(taken(), 1);
    slow.go_on.notify_one();
    within(slow.done.notified())
        .await
        .expect("it ended with its caller");
    // A question changes nothing, and ends.
    tokio::select! {
        _ = ask(&api, "POST /api/v1/config/compare", ADMINISTRATOR, "{}") => panic!("too soon"),
        () = slow.begun.notified() => {}
    }
    slow.go_on.notify_one();
    let answered = ask(&api, "POST /api/v1/config/compare", ADMINISTRATOR, "{}").await;
    assert_eq!(answered.status, 422, "{}", answered.body);
    assert_eq!(taken(), 0);
}
