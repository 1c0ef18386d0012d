//! Webhooks, as the built program sends them to a stub of an application.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    convert::Infallible,
    fs,
    io::Write as _,
    process::{Command as Process, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{
    API_TOKEN, Authority, DEADLINE, Gateway, GatewayBuilder, Hook, Login, StompClient, eventually,
    tests_dir,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::house::stentor;

const SECRET: &str = "not-in-any-log-0123456789abcdef";

/// A request of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    path: String,
    signature: String,
    body: Bytes,
}

impl Got {
    pub(crate) fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Rule = Arc<dyn Fn(&Value, usize) -> u16 + Send + Sync>;

/// An application: answers as its rule says, by the event and by how often it came.
pub(crate) struct Application {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Got>>>,
    serving: AbortHandle,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Application {
    pub(crate) async fn start(rule: impl Fn(&Value, usize) -> u16 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let rule: Rule = Arc::new(rule);
        let serving = tokio::spawn(serve(listener, Arc::clone(&got), rule)).abort_handle();
        Self { url, got, serving }
    }

    /// One behind TLS, which shows the certificate of today, and takes everything.
    async fn secure(shown: Arc<Mutex<Arc<ServerConfig>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/hook", listener.local_addr().unwrap());
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let taking = Arc::clone(&got);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&shown.lock().unwrap()));
                let (got, rule): (_, Rule) = (Arc::clone(&taking), Arc::new(|_, _| 200));
                tokio::spawn(async move {
                    // A gateway that does not trust it ends the handshake.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve_one(stream, got, rule);
                    }
                });
            }
        });
        let serving = serving.abort_handle();
        Self { url, got, serving }
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Types of the events of a user, in order, each once.
    fn told_of(&self, user: &str) -> Vec<String> {
        let mut seen = HashSet::new();
        let events = self.got().into_iter().map(|got| got.event());
        events
            .filter(|event| event["user"] == user && seen.insert(event["id"].to_string()))
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn until_told(&self, user: &str, types: &[&str]) {
        eventually(DEADLINE, format!("{user}: {types:?}"), async || {
            (self.told_of(user) == types).then_some(())
        })
        .await;
    }
}

async fn serve(listener: TcpListener, got: Arc<Mutex<Vec<Got>>>, rule: Rule) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        serve_one(stream, Arc::clone(&got), Arc::clone(&rule));
    }
}

fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    got: Arc<Mutex<Vec<Got>>>,
    rule: Rule,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (got, rule) = (Arc::clone(&got), Arc::clone(&rule));
        async move {
            let header = |name: &str| {
                let value = request.headers().get(name);
                value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
            };
            let path = request.uri().path().to_owned();
            let signature = header("stentor-signature");
            assert_eq!(header("content-type"), "application/json");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let got_now = Got {
                path,
                signature,
                body,
            };
            let event = got_now.event();
            let status = {
                let mut got = got.lock().unwrap();
                let before = got.iter().filter(|got| got.event()["id"] == event["id"]);
                let status = rule(&event, before.count());
                got.push(got_now);
                status
            };
            let mut answer = Response::new(Full::new(Bytes::from_static(b"thanks")));
            *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
            if status == 302 {
                let elsewhere = hyper::header::HeaderValue::from_static("/elsewhere");
                answer
                    .headers_mut()
                    .insert(hyper::header::LOCATION, elsewhere);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
}

fn builder(hook: &Hook, application: &Application) -> GatewayBuilder {
    stentor()
        .hook(hook)
        .set("broker.url", "embedded:")
        .set("presence.url", "memory:")
        .set("presence.events", false)
        .set("presence.debounce", "100ms")
        .set("shutdown.drain", "100ms")
        .set("webhooks.urls", &application.url)
        .set("webhooks.max_pause", "100ms")
        .set("webhooks.secret", SECRET)
}

async fn login(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

/// The code in Python that docs/webhooks.md shows.
fn snippet() -> String {
    let page = fs::read_to_string(tests_dir().with_file_name("docs/webhooks.md")).unwrap();
    let begun = page.split("```python\n").nth(1).unwrap();
    begun.split("```").next().unwrap().to_owned()
}

/// What that code says of each request.
pub(crate) fn are_genuine(secret: &str, requests: &[Got]) -> Vec<bool> {
    let driver = "
import json, sys
for line in sys.stdin:
    secret, header, body = json.loads(line)
    print(json.dumps(is_genuine(secret, header, body.encode())))
";
    let mut python = Process::new("python3")
        .args(["-c", &format!("{}\n{driver}", snippet())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    for got in requests {
        let body = str::from_utf8(&got.body).unwrap();
        writeln!(stdin, "{}", json!([secret, got.signature, body])).unwrap();
    }
    drop(stdin);
    let said = python.wait_with_output().unwrap().stdout;
    let lines = String::from_utf8(said).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn events_come_signed_and_in_order_although_the_receiver_fails() {
    // Every event fails the first time: the receiver is broken, or it refuses just this one.
    let application = Application::start(|event, before| match (before, &event["type"]) {
        (0, kind) if kind == "status" => 422,
        (0, _) => 500,
        _ => 200,
    })
    .await;
    let hook = Hook::start().await;
    let gateway = builder(&hook, &application).ready().await;

    let mut alice = login(&gateway, "alice").await;
    let bob = login(&gateway, "bob").await;
    application.until_told("alice", &["connect", "join"]).await;
    let busy = Frame::new(Command::Send)
        .with_header("destination", "/presence")
        .with_header("status", "busy");
    alice.send(&busy).await;
    application
        .until_told("alice", &["connect", "join", "status"])
        .await;
    alice.disconnect().await;
    let all = ["connect", "join", "status", "disconnect", "leave"];
    application.until_told("alice", &all).await;
    application.until_told("bob", &["connect", "join"]).await;
    drop(bob);
    let all = ["connect", "join", "disconnect", "leave"];
    application.until_told("bob", &all).await;

    let events: Vec<Value> = application.got().iter().map(Got::event).collect();
    let of = |user: &str, kind: &str| {
        let mut events = events.iter();
        let event = events.find(|event| event["user"] == user && event["type"] == kind);
        event.unwrap().clone()
    };
    assert_eq!(of("alice", "disconnect")["reason"], "client disconnected");
    assert_eq!(
        of("bob", "disconnect")["reason"],
        "client closed the connection"
    );
    assert_eq!(of("alice", "status")["status"], "busy");
    assert_eq!(of("alice", "connect")["transport"], "tcp");
    assert_eq!(
        of("alice", "connect")["session"],
        of("alice", "disconnect")["session"]
    );
    // The last may be under way again.
    eventually(DEADLINE, "each came again, once", async || {
        let mut times = BTreeMap::<String, usize>::new();
        for got in application.got() {
            *times.entry(got.event()["id"].to_string()).or_default() += 1;
        }
        (times.len() == 9 && times.values().all(|times| *times == 2)).then_some(())
    })
    .await;

    let got = application.got();
    assert!(are_genuine(SECRET, &got).iter().all(|is| *is), "{got:?}");
    assert!(are_genuine("another", &got).iter().all(|is| !is));
    let mut forged = got[0].clone();
    forged.body = [&forged.body[..], b" "].concat().into();
    let mut old = got[0].clone();
    old.signature = old.signature.replacen("t=", "t=1", 1);
    assert_eq!(are_genuine(SECRET, &[forged, old]), [false, false]);

    let logged: String = gateway.events().iter().map(Value::to_string).collect();
    assert!(!logged.contains(SECRET), "{logged}");
    let (_, config) = gateway.api("GET /api/v1/config", None).await;
    assert!(!config.to_string().contains(SECRET), "{config}");
}

/// A private authority is named by `SSL_CERT_FILE`, as for the hook.
#[tokio::test]
async fn a_receiver_behind_tls_has_to_show_a_certificate_that_somebody_vouches_for() {
    let (known, stranger) = (Authority::new(), Authority::new());
    let shown = Arc::new(Mutex::new(stranger.server()));
    let application = Application::secure(Arc::clone(&shown)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, known.pem()).unwrap();
    let hook = Hook::start().await;
    let gateway = builder(&hook, &application)
        .set("webhooks.attempts", 3)
        .set("webhooks.events", "connect")
        .env("SSL_CERT_FILE", file.display())
        .ready()
        .await;
    let _bob = login(&gateway, "bob").await;
    let receiver = eventually(DEADLINE, "bob's event is given up", async || {
        let (_, answer) = gateway.api("GET /api/v1/webhooks", None).await;
        let receiver = answer["receivers"][0].clone();
        (receiver["given_up"] == 1).then_some(receiver)
    })
    .await;
    let dead = &receiver["dead"][0];
    assert_eq!(
        (&dead["body"]["user"], &dead["attempts"]),
        (&json!("bob"), &json!(3))
    );
    for cause in [&dead["cause"], &receiver["failing"]] {
        assert!(cause.as_str().unwrap().contains("certificate"), "{cause}");
    }
    let said = gateway
        .until_events("the receiver takes no events: they wait", 1)
        .await;
    let cause = said[0]["cause"].as_str().unwrap();
    assert!(cause.contains("certificate"), "{cause}");
    let (_, metrics) = gateway.admin("/metrics").await;
    for line in [
        "stentor_webhook_events_total{outcome=\"dead\"} 1",
        "stentor_webhook_failures_total 3",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(application.got().is_empty());

    // The right one, without a restart of the gateway.
    *shown.lock().unwrap() = known.server();
    let _alice = login(&gateway, "alice").await;
    application.until_told("alice", &["connect"]).await;
    let got = application.got();
    assert!(are_genuine(SECRET, &got).iter().all(|is| *is), "{got:?}");
    let back = "the receiver takes events again";
    gateway.until_events(back, 1).await;
}

#[tokio::test]
async fn an_event_that_is_never_taken_is_given_up_and_can_be_looked_at() {
    let application = Application::start(|event, _| match &event["user"] {
        bob if bob == "bob" && event["type"] == "connect" => 400,
        _ => 204,
    })
    .await;
    let hook = Hook::start().await;
    let gateway = builder(&hook, &application)
        .set("webhooks.attempts", 3)
        .set("webhooks.events", "connect,disconnect")
        .ready()
        .await;
    let bob = login(&gateway, "bob").await;
    bob.disconnect().await;
    let _alice = login(&gateway, "alice").await;
    application
        .until_told("bob", &["connect", "disconnect"])
        .await;
    application.until_told("alice", &["connect"]).await;
    let times = application.got();
    let times = times.iter().filter(|got| got.event()["user"] == "bob");
    assert_eq!(times.count(), 3 + 1);

    let receiver = eventually(DEADLINE, "nothing waits", async || {
        let (status, answer) = gateway.api("GET /api/v1/webhooks", None).await;
        assert_eq!(status, 200);
        let receiver = answer["receivers"][0].clone();
        (receiver["waiting"] == 0).then_some(receiver)
    })
    .await;
    assert_eq!(receiver["url"], application.url);
    assert_eq!(
        (&receiver["given_up"], &receiver["dropped"]),
        (&json!(1), &json!(0))
    );
    let dead = &receiver["dead"][0];
    assert_eq!(
        (&dead["type"], &dead["attempts"]),
        (&json!("connect"), &json!(3))
    );
    assert_eq!(dead["body"]["user"], "bob");
    assert!(dead["cause"].as_str().unwrap().contains("400"), "{dead}");
    let ran = Process::new(env!("CARGO_BIN_EXE_stentor"))
        .args(["ctl", "webhooks", "--url", &gateway.admin_url()])
        .env("STENTOR_TOKEN", API_TOKEN)
        .output()
        .unwrap();
    let shown = String::from_utf8(ran.stdout).unwrap();
    assert!(shown.contains("bob") && shown.contains("400"), "{shown}");
    let (_, metrics) = gateway.admin("/metrics").await;
    for line in [
        "stentor_webhook_events_total{outcome=\"dead\"} 1",
        "stentor_webhook_events_total{outcome=\"delivered\"} 2",
        // There before anything is lost: else no rate would see the first.
        "stentor_webhook_events_total{outcome=\"dropped\"} 0",
        "stentor_webhook_events_total{outcome=\"unsent\"} 0",
        "stentor_webhook_failures_total 3",
        "stentor_webhook_waiting 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn an_orderly_end_tells_the_end_of_every_session() {
    let application = Application::start(|event, before| {
        // It is slow to recover.
        if event["type"] == "disconnect" && before == 0 {
            503
        } else {
            200
        }
    })
    .await;
    let hook = Hook::start().await;
    let gateway = builder(&hook, &application).ready().await;
    let users: Vec<String> = (0..20).map(|number| format!("user{number}")).collect();
    let mut clients = Vec::new();
    for user in &users {
        clients.push(login(&gateway, user).await);
    }
    assert!(gateway.terminate(DEADLINE).await.success());
    for user in &users {
        let told = application.told_of(user);
        assert!(
            told.starts_with(&["connect".to_owned()]),
            "{user}: {told:?}"
        );
        assert!(told.contains(&"disconnect".to_owned()), "{user}: {told:?}");
    }
    // Each was taken in the end.
    let got = application.got();
    let ends: BTreeSet<String> = got
        .iter()
        .map(Got::event)
        .filter(|event| event["type"] == "disconnect")
        .map(|event| event["id"].to_string())
        .collect();
    assert_eq!(ends.len(), users.len());
    let all: Vec<String> = got
        .iter()
        .map(|got| got.event()["id"].to_string())
        .collect();
    for id in ends {
        let times = all.iter().filter(|one| **one == id);
        assert!(times.count() >= 2, "{id}");
    }
    assert!(
        gateway
            .events()
            .iter()
            .all(|event| event["level"] != "ERROR")
    );
}

#[tokio::test]
async fn a_receiver_that_stays_away_delays_the_end_no_longer_than_it_may() {
    // It sends the caller elsewhere, where nobody may be asked.
    let application = Application::start(|_, _| 302).await;
    let hook = Hook::start().await;
    let gateway = builder(&hook, &application)
        .set("shutdown.not_ready", "0s")
        .set("shutdown.grace", "3s")
        .ready()
        .await;
    let _alice = login(&gateway, "alice").await;
    gateway.until_logged("the receiver takes no events").await;
    assert!(gateway.terminate(Duration::from_secs(20)).await.success());
    gateway
        .until_logged("events were not sent before the end")
        .await;
    assert!(application.got().iter().all(|got| got.path == "/hook"));
}

/// Of rooms the first member and the last one count; who else comes and goes is no event.
#[tokio::test]
async fn rooms_are_occupied_and_vacated() {
    let application = Application::start(|_, _| 200).await;
    let hook = Hook::start().await;
    let gateway = builder(&hook, &application)
        .set("broker.exchanges", "feed=topic")
        .set("presence.destinations", "feed")
        .set("webhooks.events", "occupied, vacated")
        .ready()
        .await;
    let mut alice = login(&gateway, "alice").await;
    alice.subscribe("1", "/exchange/feed/lobby").await;
    let mut bob = login(&gateway, "bob").await;
    bob.subscribe("1", "/exchange/feed/lobby").await;
    alice.disconnect().await;
    bob.disconnect().await;
    let told = async || {
        let events = application.got().into_iter().map(|got| got.event());
        let facts = |event: Value| {
            let [kind, exchange, key] = ["type", "exchange", "key"].map(|name| event[name].clone());
            json!([kind, exchange, key])
        };
        let expected = ["occupied", "vacated"].map(|kind| json!([kind, "feed", "lobby"]));
        events.map(facts).eq(expected)
    };
    eventually(DEADLINE, "the room is occupied, and vacated", told).await;
}
