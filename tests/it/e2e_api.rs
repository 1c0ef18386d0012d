//! The operator's API, as the built program serves it: each operation by its document, and by
//! `stentor ctl`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stomp_grammar::Command;
use testkit::{API_TOKEN, Call, DEADLINE, FEED, Gateway, Hook, Login, StompClient, eventually};

use crate::house::{DESTINATION, House, KEY, Ran, USER, stentor};

/// With the embedded broker, presence in memory, and a group.
async fn gateway(hook: &Hook) -> Gateway {
    hook.rule(|asked| {
        let groups = json!(["everybody"]).to_string();
        (asked.call == Call::Groups).then_some(testkit::Answer::Status(200, groups))
    });
    let builder = stentor()
        .hook(hook)
        .set("auth.groups_path", hook.url(Call::Groups))
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=topic")
        .set("presence.url", "memory:")
        .set("presence.destinations", "room")
        .set("shutdown.drain", "100ms");
    builder.ready().await
}

async fn login(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

async fn until_session(gateway: &Gateway, user: &str) -> String {
    let request = format!("GET /api/v1/users/{user}");
    eventually(DEADLINE, format!("{user} is here"), async || {
        let (status, body) = gateway.api(&request, None).await;
        assert_eq!(status, 200, "{body}");
        body["sessions"][0]["session"].as_str().map(str::to_owned)
    })
    .await
}

/// Every operation of the document is asked for, so that it succeeds; and every answer, also of
/// what goes wrong, is as the document says.
#[tokio::test]
async fn each_operation_answers_as_its_document_says() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let _alice = login(&gateway, "alice").await;
    let _bob = login(&gateway, "bob").await;
    let alice = until_session(&gateway, "alice").await;
    until_session(&gateway, "bob").await;
    let (status, document) = gateway.api("GET /api/openapi.json", None).await;
    assert_eq!(status, 200);
    let checker = Checker::new(&document);

    let publish = json!({ "exchange": "feed", "key": "k", "body": "hello" });
    let unroutable = json!({ "exchange": "feed", "key": "k", "mandatory": true });
    let users = json!({ "users": ["alice", "nobody"] });
    let rooms = json!({ "exchange": "room", "keys": ["lobby"] });
    let no_rooms = json!({ "exchange": "feed", "keys": ["lobby"] });
    let ban = json!({ "address": "192.0.2.0/24", "seconds": 60, "reason": "spam" });
    let unsubscribe =
        json!({ "destination": "/exchange/feed/k", "vhost": "/", "reason": "removed" });
    let unsubscribe_nothing = json!({ "destination": "/moon/k" });
    let compare = json!({ "toml": "[limits]\nmax_subscriptions = 3" });
    let wrong = json!({ "toml": "[limits]\nmax_subscriptions = x" });
    let lift = "/api/v1/bans?address=192.0.2.0%2F24";
    for (operation, path, body, status) in [
        ("get /healthz", "/healthz", None, 200),
        ("get /api/v1/config", "/api/v1/config", None, 200),
        (
            "post /api/v1/config/compare",
            "/api/v1/config/compare",
            Some(&compare),
            200,
        ),
        (
            "post /api/v1/config/compare",
            "/api/v1/config/compare",
            Some(&wrong),
            422,
        ),
        (
            "post /api/v1/config/reload",
            "/api/v1/config/reload",
            None,
            200,
        ),
        ("get /readyz", "/readyz", None, 200),
        ("get /api/openapi.json", "/api/openapi.json", None, 200),
        (
            "get /api/v1/journal/{exchange}",
            "/api/v1/journal/feed?key=user_alice",
            None,
            404,
        ),
        ("get /api/v1/webhooks", "/api/v1/webhooks", None, 200),
        ("get /api/v1/token", "/api/v1/token", None, 200),
        ("get /api/v1/overview", "/api/v1/overview", None, 200),
        ("get /api/v1/refusals", "/api/v1/refusals", None, 200),
        (
            "get /api/v1/destinations",
            "/api/v1/destinations?search=feed",
            None,
            200,
        ),
        (
            "get /api/v1/destinations",
            "/api/v1/destinations?search=",
            None,
            400,
        ),
        (
            "get /api/v1/sessions",
            "/api/v1/sessions?search=ali",
            None,
            200,
        ),
        (
            "get /api/v1/sessions/{id}/details",
            &format!("/api/v1/sessions/{alice}/details"),
            None,
            200,
        ),
        (
            "get /api/v1/sessions/{id}/details",
            "/api/v1/sessions/nope/details",
            None,
            404,
        ),
        ("get /api/v1/node", "/api/v1/node", None, 200),
        ("get /api/v1/nodes", "/api/v1/nodes", None, 200),
        ("get /api/v1/counts", "/api/v1/counts", None, 200),
        ("get /api/v1/sessions", "/api/v1/sessions", None, 200),
        (
            "get /api/v1/sessions",
            "/api/v1/sessions?user=alice",
            None,
            200,
        ),
        (
            "get /api/v1/sessions",
            "/api/v1/sessions?limit=0",
            None,
            400,
        ),
        (
            "get /api/v1/sessions",
            "/api/v1/sessions?cursor=!",
            None,
            400,
        ),
        (
            "get /api/v1/sessions/{id}",
            &format!("/api/v1/sessions/{alice}"),
            None,
            200,
        ),
        (
            "get /api/v1/sessions/{id}",
            "/api/v1/sessions/nope",
            None,
            404,
        ),
        (
            "post /api/v1/sessions/{id}/recheck",
            &format!("/api/v1/sessions/{alice}/recheck"),
            None,
            409,
        ),
        ("get /api/v1/users/{name}", "/api/v1/users/alice", None, 200),
        (
            "get /api/v1/users/{name}",
            "/api/v1/users/nobody",
            None,
            200,
        ),
        (
            "post /api/v1/users/{name}/recheck",
            "/api/v1/users/alice/recheck",
            None,
            409,
        ),
        (
            "post /api/v1/users/{name}/unsubscribe",
            "/api/v1/users/nobody/unsubscribe",
            Some(&unsubscribe),
            200,
        ),
        (
            "post /api/v1/users/{name}/unsubscribe",
            "/api/v1/users/alice/unsubscribe",
            Some(&unsubscribe_nothing),
            400,
        ),
        (
            "post /api/v1/users/{name}/forget",
            "/api/v1/users/alice/forget",
            None,
            200,
        ),
        (
            "post /api/v1/users/{name}/groups",
            "/api/v1/users/alice/groups",
            None,
            200,
        ),
        (
            "get /api/v1/groups/{name}",
            "/api/v1/groups/everybody",
            None,
            200,
        ),
        ("post /api/v1/rooms", "/api/v1/rooms", Some(&rooms), 200),
        ("post /api/v1/rooms", "/api/v1/rooms", Some(&no_rooms), 404),
        (
            "get /api/v1/rooms/{exchange}/{key}",
            "/api/v1/rooms/room/lobby",
            None,
            200,
        ),
        (
            "get /api/v1/rooms/{exchange}/{key}",
            "/api/v1/rooms/room/lobby?limit=x",
            None,
            400,
        ),
        ("post /api/v1/bans", "/api/v1/bans", Some(&ban), 200),
        ("post /api/v1/bans", "/api/v1/bans", Some(&users), 400),
        ("get /api/v1/bans", "/api/v1/bans", None, 200),
        ("get /api/v1/bans", "/api/v1/bans?limit=0", None, 400),
        ("get /api/v1/bans", "/api/v1/bans?cursor=!", None, 400),
        ("delete /api/v1/bans", lift, None, 200),
        ("delete /api/v1/bans", lift, None, 404),
        ("delete /api/v1/bans", "/api/v1/bans", None, 400),
        (
            "post /api/v1/presence",
            "/api/v1/presence",
            Some(&users),
            200,
        ),
        (
            "post /api/v1/presence",
            "/api/v1/presence",
            Some(&publish),
            400,
        ),
        (
            "post /api/v1/publish",
            "/api/v1/publish",
            Some(&publish),
            200,
        ),
        (
            "post /api/v1/publish",
            "/api/v1/publish",
            Some(&unroutable),
            422,
        ),
        ("post /api/v1/publish", "/api/v1/publish", None, 415),
        // Its lines are looked at in `e2e_tail`.
        ("get /api/v1/tail", "/api/v1/tail?bodies=1", None, 409),
        ("get /api/v1/tail", "/api/v1/tail?bodies=5000", None, 400),
        (
            "delete /api/v1/sessions/{id}",
            &format!("/api/v1/sessions/{alice}?reason=bye"),
            None,
            200,
        ),
        (
            "delete /api/v1/sessions/{id}",
            "/api/v1/sessions/nope",
            None,
            404,
        ),
        (
            "delete /api/v1/users/{name}/sessions",
            "/api/v1/users/bob/sessions",
            None,
            200,
        ),
    ] {
        let (method, _) = operation.split_once(' ').unwrap();
        let request = format!("{} {path}", method.to_uppercase());
        let (answered, answer) = gateway.api(&request, body).await;
        assert_eq!(answered, status, "{request}: {answer}");
        checker.check(operation, answered, &answer);
    }
    // All of them, save the one that does not answer in JSON.
    let mut left: Vec<&String> = checker.operations.keys().collect();
    left.retain(|operation| !checker.seen.borrow().contains(*operation));
    assert_eq!(left, ["get /metrics"]);
}

/// Answers against the schemas of the document.
struct Checker {
    /// The schemas of the answers, by method and path, and by status.
    operations: BTreeMap<String, BTreeMap<String, jsonschema::Validator>>,
    seen: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Checker {
    fn new(document: &Value) -> Self {
        let mut operations = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let mut answers = BTreeMap::new();
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    let mut schema = answer["content"]["application/json"]["schema"].clone();
                    if let Some(schema) = schema.as_object_mut() {
                        // References are into the document.
                        let components = document["components"].clone();
                        schema.insert("components".to_owned(), components);
                    } else {
                        schema = json!(true);
                    }
                    let validator = jsonschema::draft202012::new(&schema)
                        .unwrap_or_else(|error| panic!("{path} {status}: {error}"));
                    answers.insert(status.clone(), validator);
                }
                operations.insert(format!("{method} {path}"), answers);
            }
        }
        Self {
            operations,
            seen: std::cell::RefCell::default(),
        }
    }

    fn check(&self, operation: &str, status: u16, answer: &Value) {
        let answers = self
            .operations
            .get(operation)
            .unwrap_or_else(|| panic!("{operation} is not in the document"));
        let validator = answers
            .get(&status.to_string())
            .unwrap_or_else(|| panic!("{operation} has no {status}"));
        if let Err(error) = validator.validate(answer) {
            panic!("{operation} {status}: {error}\n{answer:#}");
        }
        self.seen.borrow_mut().insert(operation.to_owned());
    }
}

/// Pushed by HTTP, seen by STOMP, through RabbitMQ.
#[tokio::test]
async fn what_is_published_by_http_reaches_subscribers() {
    let house = House::open().await;
    let [mut tcp, mut ws] = house.subscribed().await;
    let vhost = house.vhost.name();
    let message = json!({
        "vhost": vhost, "exchange": FEED, "keys": [KEY, "user_nobody"], "body": "hello",
        "content_type": "text/plain", "headers": { "colour": "red" }, "persistent": true,
    });
    let (status, answer) = house
        .gateway
        .api("POST /api/v1/publish", Some(&message))
        .await;
    assert_eq!((status, answer), (200, json!({ "published": 2 })));
    for client in [&mut tcp, &mut ws] {
        let frame = client.expect_message("hello").await;
        assert_eq!(frame.headers.get("destination"), Some(DESTINATION));
        assert_eq!(frame.headers.get("content-type"), Some("text/plain"));
        assert_eq!(frame.headers.get("colour"), Some("red"));
        assert_eq!(frame.headers.get("persistent"), Some("true"));
        // No client sent it.
        assert_eq!(frame.headers.get("x-stomp-user"), None);
    }
    let bytes = json!({ "vhost": vhost, "exchange": FEED, "key": KEY, "body_base64": "AP8=" });
    assert_eq!(
        house
            .gateway
            .api("POST /api/v1/publish", Some(&bytes))
            .await
            .0,
        200
    );
    let frame = tcp
        .expect("bytes", |frame| frame.command == Command::Message)
        .await;
    assert_eq!(&frame.body[..], &[0, 255]);

    let (status, answer) = house
        .gateway
        .api(
            "POST /api/v1/publish",
            Some(&json!({
                "vhost": vhost, "exchange": FEED, "keys": [KEY, "user_nobody"], "mandatory": true
            })),
        )
        .await;
    assert_eq!((status, &answer["published"]), (422, &json!(1)), "{answer}");
    assert_eq!(answer["failed"][0]["key"], "user_nobody");
    let commands = json!({ "exchange": "stentor.control", "key": "" });
    let (status, answer) = house
        .gateway
        .api("POST /api/v1/publish", Some(&commands))
        .await;
    assert_eq!(
        (status, &answer["field"]),
        (400, &json!("exchange")),
        "{answer}"
    );

    let (_, node) = house.gateway.api("GET /api/v1/node", None).await;
    assert_eq!(
        node["connections"]["by_transport"],
        json!({ "tcp": 1, "websocket": 1 })
    );
    let feeds = node["vhosts"][0]["feeds"].as_array().unwrap();
    // The node also hears its own question for bans, on the feed of commands.
    let delivered: u64 = feeds
        .iter()
        .filter(|feed| feed["exchange"] == FEED)
        .map(|feed| feed["delivered"].as_u64().unwrap())
        .sum();
    assert_eq!(delivered, 6, "{node:#}");
}

#[tokio::test]
async fn metrics_tell_what_happened_and_of_no_user() {
    // The node's own subscription to commands would count, too.
    let house = House::open_with(|builder| builder.set("control.exchange", "off")).await;
    let [mut tcp, ws] = house.subscribed().await;
    house.push(["one", "two"]).await;
    tcp.expect_message("one").await;
    tcp.expect_message("two").await;
    ws.disconnect().await;
    let wanted = [
        "stentor_ready 1",
        "stentor_broker_up 1",
        "stentor_logins_total 2",
        "stentor_connections{transport=\"tcp\"} 1",
        "stentor_connections{transport=\"websocket\"} 0",
        "stentor_connections_ended_total{reason=\"client disconnected\"} 1",
        "stentor_shared_subscriptions 1",
        "stentor_feed_patterns 1",
        "stentor_feed_messages_total 2",
        "stentor_feed_deliveries_total 4",
        "stentor_hook_call_seconds_count{call=\"user\"} 2",
    ];
    let text = eventually(DEADLINE, "the client has left", async || {
        let (status, text) = house.gateway.admin("/metrics").await;
        assert_eq!(status, 200);
        let has = |line: &&str| text.lines().any(|found| found == *line);
        wanted.iter().all(has).then_some(text)
    })
    .await;
    assert!(!text.contains(USER) && !text.contains(KEY), "{text}");
}

/// Runs `stentor ctl` against a gateway.
fn ctl(gateway: &Gateway, token: &str, arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"));
    command.arg("ctl").args(arguments).env_clear();
    command.env("STENTOR_URL", gateway.admin_url());
    if !token.is_empty() {
        command.env("STENTOR_TOKEN", token);
    }
    Ran::from(command.output().unwrap())
}

#[tokio::test]
async fn a_shell_does_what_the_api_does() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut alice = login(&gateway, "alice").await;
    alice.subscribe("s", "/exchange/feed/user_alice").await;
    let session = until_session(&gateway, "alice").await;
    let run = |arguments: &[&str]| {
        let ran = ctl(&gateway, API_TOKEN, arguments);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        ran.out
    };
    for (arguments, shown) in [
        (
            &["node"][..],
            &["node", "connections", "1 (1 tcp)", "feed", "topic"][..],
        ),
        (&["nodes"], &["sessions", "1"]),
        (&["counts"], &["users"]),
        (
            &["sessions"],
            &[&session, "alice", "online", "tcp", "127.0.0.1"],
        ),
        (&["sessions", "--user", "alice"], &[&session]),
        (&["sessions", "--search", "ALI"], &[&session]),
        (&["session", &session], &["alice", "last seen"]),
        (
            &["session", &session, "--details"],
            &["frames in", "feed / user_alice", "auto"],
        ),
        (&["overview"], &["ready", "topic"]),
        (&["destinations", "--search", "ALICE"], &["user_alice"]),
        (&["refusals"], &["metric", "reason"]),
        (&["whoami"], &["read, publish, history, admin"]),
        (&["user", "alice"], &["online", &session]),
        (
            &["users", "alice", "bob"],
            &["alice", "online", "bob", "offline"],
        ),
        (&["group", "everybody"], &["alice", "online"]),
        (&["forget", "alice"], &["hits"]),
        (&["refresh-groups", "alice"], &["hits"]),
        (
            &[
                "publish",
                "feed",
                "user_alice",
                "--body",
                "hi",
                "--header",
                "a=b",
            ],
            &["1 message published"],
        ),
        (&["openapi"], &["\"openapi\": \"3.1"]),
    ] {
        let out = run(arguments);
        for word in shown {
            assert!(out.contains(word), "{arguments:?}: {word}\n{out}");
        }
    }
    let message = alice.expect_message("hi").await;
    assert_eq!(message.headers.get("a"), Some("b"));
    let sessions: Value = serde_json::from_str(&run(&["--json", "sessions"])).unwrap();
    assert_eq!(sessions["sessions"][0]["session"], session.as_str());

    // Published, and nobody was there.
    let both = [
        "publish",
        "feed",
        "user_alice",
        "user_nobody",
        "--body",
        "hi",
    ];
    let out = run(&both);
    let unheard = "1 message reached no queue: nothing is bound for the key \"user_nobody\"\n";
    assert_eq!(out, format!("1 message published\n{unheard}"));
    alice.expect_message("hi").await;
    assert_eq!(run(&["publish", "feed", "user_nobody"]), unheard);
    let ran = ctl(
        &gateway,
        API_TOKEN,
        &["publish", "feed", "user_nobody", "--mandatory"],
    );
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
    // What is the gateway's own is no fault of the token, which is code 4.
    let ran = ctl(&gateway, API_TOKEN, &["publish", "stentor.feed.x", "k"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
    assert!(ran.err.contains("the gateway's own"), "{}", ran.err);

    let ran = ctl(&gateway, API_TOKEN, &["kick", "--user", "bob"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("hits"), "{}", ran.out);
    assert!(ran.err.contains("no session was ended"), "{}", ran.err);

    let from = ["unsubscribe", "alice", "/exchange/feed/user_alice"];
    let removed = run(&[&from[..], &["--reason", "removed"]].concat());
    assert!(removed.contains('1'), "{removed}");
    let error = alice.expect_error("unsubscribed").await;
    assert_eq!(error.header("error-code"), Some("subscription-ended"));
    let ran = ctl(&gateway, API_TOKEN, &from);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("no subscription was ended"), "{}", ran.err);

    let kicked = run(&["kick", "--user", "alice", "--reason", "not paid"]);
    assert!(kicked.contains('1'), "{kicked}");
    let error = alice.expect_error("kicked").await;
    let told = String::from_utf8_lossy(&error.body).into_owned();
    assert!(told.contains("not paid"), "{told}");
}

#[tokio::test]
async fn a_shell_is_told_what_is_wrong() {
    let hook = Hook::start().await;
    let hashed = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"))
        .args(["token", "looks", "--scope", "read"])
        .output()
        .unwrap();
    let (token, advice) = (
        String::from_utf8(hashed.stdout).unwrap(),
        String::from_utf8(hashed.stderr).unwrap(),
    );
    // The lines that the program printed are a configuration.
    let gateway = stentor()
        .hook(&hook)
        .unset("api.tokens")
        .file(&advice)
        .set("broker.url", "embedded:")
        .ready()
        .await;
    let token = token.trim();
    assert_eq!(ctl(&gateway, token, &["node"]).code, Some(0));
    for (token, arguments, code, words) in [
        ("", &["node"][..], 4, "STENTOR_TOKEN"),
        (
            "wrong-0123456789",
            &["node"],
            4,
            "the token is not known here",
        ),
        (
            token,
            &["kick", "--user", "a"],
            4,
            "the token \"looks\" lacks the scope admin",
        ),
        (token, &["publish", "e", "k"], 4, "lacks the scope publish"),
        (token, &["sessions"], 1, "[presence] url"),
        (
            token,
            &["--url", "http://127.0.0.1:1", "node"],
            3,
            "no gateway answers at http://127.0.0.1:1",
        ),
    ] {
        let ran = ctl(&gateway, token, arguments);
        let told = (ran.code, ran.out.as_str());
        assert_eq!(told, (Some(code), ""), "{arguments:?}");
        assert!(ran.err.contains(words), "{arguments:?}: {}", ran.err);
    }
    // Another server than Stentor's API answers there.
    let http = format!("http://{}", gateway.addresses().http.as_deref().unwrap());
    let ran = ctl(&gateway, token, &["--url", &http, "node"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.err.contains("is not Stentor's API"), "{}", ran.err);
    for arguments in [
        &["kick"][..],
        &["recheck"],
        &["kick", "--session", "s", "--user", "u"],
        &["publish", "e"],
        &[],
    ] {
        assert_eq!(
            ctl(&gateway, token, arguments).code,
            Some(2),
            "{arguments:?}"
        );
    }
    let log = gateway.log().text();
    assert!(
        !log.contains(token) && !log.contains("wrong-0123456789"),
        "{log}"
    );
}

/// One line for each action or try: who, from where, what, on what, and how it ended.
#[tokio::test]
async fn the_audit_tells_who_did_what() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let _alice = login(&gateway, "alice").await;
    let alice = until_session(&gateway, "alice").await;
    let publish = json!({ "exchange": "feed", "keys": ["a", "b", "c", "d"], "body": "s3cret" });
    let ban = json!({ "address": "192.0.2.0/24", "seconds": 60 });
    for (request, body, status) in [
        (format!("DELETE /api/v1/sessions/{alice}"), None, 200),
        (
            "DELETE /api/v1/users/bob/sessions?reason=x".to_owned(),
            None,
            200,
        ),
        ("POST /api/v1/bans".to_owned(), Some(&ban), 200),
        (
            "DELETE /api/v1/bans?address=192.0.2.0%2F24".to_owned(),
            None,
            200,
        ),
        ("DELETE /api/v1/bans?user=carol".to_owned(), None, 404),
        ("POST /api/v1/publish".to_owned(), Some(&publish), 200),
        ("POST /api/v1/config/reload".to_owned(), None, 200),
        ("GET /api/v1/node".to_owned(), None, 200),
    ] {
        let (answered, body) = gateway.api(&request, body).await;
        assert_eq!(answered, status, "{request} {body}");
    }
    let refused = ctl(
        &gateway,
        "nobody-0123456789abcdef",
        &["kick", "--user", "alice"],
    );
    assert_eq!(refused.code, Some(4), "{refused:?}");
    gateway.process().signal("HUP");
    let lines = gateway.until_events("operator's action", 9).await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!(line["target"], "stentor::audit");
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            if line["scope"] != "SIGHUP" {
                assert!(text("remote").starts_with("127.0.0.1:"), "{line}");
            }
            ["token", "scope", "action", "on", "outcome"]
                .map(text)
                .join(" | ")
        })
        .collect();
    let expected = [
        &format!("testkit | admin | kick | {alice} | done"),
        "testkit | admin | kick | bob | done",
        "testkit | admin | ban | address 192.0.2.0/24 | done",
        "testkit | admin | unban | address 192.0.2.0/24 | done",
        "testkit | admin | unban | user \"carol\" | failed",
        "testkit | publish | publish | exchange \"feed\", a, b, c and 1 more | done",
        "testkit | admin | reload |  | done",
        "- | admin | kick | alice | denied",
        "- | SIGHUP | reload |  | done",
    ];
    assert_eq!(told, expected);
    for secret in [API_TOKEN, "nobody-0123456789abcdef", "s3cret"] {
        assert!(!gateway.log().text().contains(secret), "{secret}");
    }
}

/// For health checks: no token, and an exit code. One that restarts asks whether the node is alive.
#[tokio::test]
async fn a_shell_asks_whether_the_node_is_alive_and_ready() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let ready = ctl(&gateway, "", &["ready"]);
    assert_eq!((ready.code, &*ready.err), (Some(0), ""), "{ready:?}");
    assert!(ready.out.contains("ready"), "{}", ready.out);
    // As in a container, where the gateway's own variable says the port.
    let admin = gateway.addresses().admin.clone().unwrap();
    let port = admin.rsplit_once(':').unwrap().1;
    let found = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"))
        .args(["ctl", "alive"])
        .env_clear()
        .env("STENTOR__LISTEN__ADMIN", format!("0.0.0.0:{port}"))
        .output()
        .unwrap();
    assert!(found.status.success(), "{found:?}");
    let builder = stentor().hook(&hook);
    let away = builder.set("broker.url", "amqp://guest:guest@127.0.0.1:1");
    let away = away.start().await;
    away.until_readyz(503).await;
    let not_ready = ctl(&away, "", &["ready"]);
    assert_eq!(not_ready.code, Some(1), "{not_ready:?}");
    assert!(not_ready.out.contains("broker"), "{}", not_ready.out);
    assert_eq!(not_ready.err, "the node is not ready\n");
    // A RabbitMQ that is away restarts no node.
    let alive = ctl(&away, "", &["alive"]);
    assert_eq!((alive.code, &*alive.err), (Some(0), ""), "{alive:?}");
    assert!(alive.out.contains("ok"), "{}", alive.out);
    away.kill().await;
    for task in ["alive", "ready"] {
        assert_eq!(ctl(&away, "", &[task]).code, Some(3), "{task}");
    }
}

#[tokio::test]
async fn a_shell_knows_gateways_by_name_and_looks_again_and_again() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let folder = gateway.folder();
    let (contexts, token) = (folder.join("contexts.toml"), folder.join("token"));
    std::fs::write(&token, API_TOKEN).unwrap();
    let text = format!(
        "[contexts.here]\nurl = \"{}\"\ntoken_file = {:?}\n[contexts.gone]\n\
         url = \"http://127.0.0.1:1\"\n",
        gateway.admin_url(),
        token
    );
    std::fs::write(&contexts, text).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"));
        command.arg("ctl").args(arguments).env_clear();
        command.env("STENTOR_CONTEXTS", &contexts);
        command
    };
    let run = |arguments: &[&str]| Ran::from(command(arguments).output().unwrap());
    assert_eq!(run(&["--context", "here", "counts"]).code, Some(0));
    let unknown = run(&["--context", "nowhere", "counts"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("gone, here"), "{}", unknown.err);
    assert_eq!(run(&["context", "use", "here"]).code, Some(0));
    assert!(run(&["context", "list"]).out.contains("* here"));
    assert_eq!(run(&["counts"]).code, Some(0));
    assert_eq!(run(&["--context", "gone", "counts"]).code, Some(3));
    // Not where it would act again and again.
    let wrong = run(&["--watch", "kick", "--user", "alice"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");

    let mut watching = command(&["--watch=200ms", "counts"]);
    let mut watching = watching
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(watching.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(out).map(Result::unwrap);
    for _ in 0..3 {
        assert!(lines.any(|line| line.contains("sessions")));
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
}
