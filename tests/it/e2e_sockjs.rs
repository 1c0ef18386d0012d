//! SockJS as browsers speak it: sockjs-client in Node and in Chromium, each transport in turn, with
//! @stomp/stompjs and with stompjs 2.3.3 on it.

use std::sync::Arc;

use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{
    Answer, Call, DEADLINE, Gateway, GatewayBuilder, Hook, HookCall, Login, Remote, StompClient,
    eventually, within,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    foreign::{Server, a_day, subscribe, work},
    house::{DESTINATION, PASSCODE, USER, numbers, stentor},
};

/// The transports of each client in Node; a browser has more.
const IN_NODE: [&str; 4] = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"];

/// The transports of Chromium from a page of any origin.
const IN_CHROMIUM: [&str; 8] = [
    "websocket",
    "xhr-streaming",
    "eventsource",
    "iframe-eventsource",
    "iframe-htmlfile",
    "xhr-polling",
    "iframe-xhr-polling",
    "jsonp-polling",
];

/// Hard texts for one transport or the other: characters that SockJS escapes, those that end a
/// line, an escape of URLs (sockjs-client undoes them in an eventsource), and the end of a script.
const HARD: &str = "ünï\u{1F600} \u{1}\u{1f}\u{ad}\u{200c}\u{2028}\u{feff}\u{ffff} 100% %41 %0A \
                    a[\"b\"] \\\\u0041 \t\r\n</script><script>window.broken = true</script>";

/// A gateway with the embedded broker, where everybody may do everything.
struct Place {
    gateway: Gateway,
    hook: Hook,
}

impl Place {
    async fn open(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let hook = Hook::start().await;
        let builder = stentor()
            .hook(&hook)
            .file("[broker]\nexchanges = { feed = \"topic\" }")
            .set("broker.url", "embedded:")
            .set("stomp.heartbeat_send", "1s")
            .set("stomp.heartbeat_receive", "1s")
            .set("sockjs.client_url", "http://client.test/sockjs.js");
        let gateway = settings(builder).ready().await;
        Self { gateway, hook }
    }

    /// The order `connect`, by one transport, and what `more` adds to it.
    fn connect(&self, transport: &str, more: &Value) -> Value {
        let mut order = json!({
            "do": "connect", "url": self.gateway.sockjs_url(), "transports": [transport],
            "login": USER, "passcode": PASSCODE, "host": "/",
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            order[key] = value.clone();
        }
        order
    }

    /// One who publishes, over TCP.
    async fn backend(&self) -> StompClient {
        let mut client = StompClient::tcp(self.gateway.stomp_address()).await;
        client.connect(&Login::new("backend", PASSCODE, "/")).await;
        client
    }

    async fn until_connections(&self, count: usize) {
        let what = format!("there are {count} connections");
        eventually(2 * DEADLINE, what, async || {
            let (_, body) = self.gateway.admin("/readyz").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            body["connections"] == count
        })
        .await;
    }
}

async fn publish(backend: &mut StompClient, destination: &str, bodies: &[String]) {
    for body in bodies {
        let frame = Frame::new(Command::Send)
            .with_header("destination", destination)
            .with_header("note", "ä:\\\n")
            .with_body(body.clone());
        backend.send(&frame).await;
    }
    backend.publish("/exchange/feed/nobody", "last").await;
}

fn hard_bodies(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{number} {HARD}"))
        .collect()
}

/// All that a page does: it connects by this very transport, is pushed to, sends, and beats.
async fn conversation(place: &Place, client: &mut Remote, connect: &Value, transport: &str) {
    client.order(connect);
    let connected = client.expect("connected").await;
    assert_eq!(connected["transport"], transport, "{connected}");
    client.order(&subscribe(DESTINATION, json!({ "receipt": "subscribed" })));
    assert_eq!(client.expect("receipt").await["id"], "subscribed");

    let bodies = hard_bodies(100);
    publish(&mut place.backend().await, DESTINATION, &bodies).await;
    for body in &bodies {
        let message = client.expect("message").await;
        assert_eq!(message["body"], *body, "{transport}");
        // stompjs 2.3.3 knows no escapes.
        let note = message["headers"]["note"].as_str().unwrap_or_default();
        assert!(["ä:\\\n", "ä\\c\\\\\\n"].contains(&note), "{message}");
    }

    for body in &bodies {
        client.order(&json!({ "do": "send", "destination": DESTINATION, "body": body }));
    }
    assert_eq!(client.expect_bodies(100).await, bodies, "{transport}");
    client.order(&json!({
        "do": "send", "destination": "/exchange/feed/nobody", "body": "",
        "headers": { "receipt": "sent" },
    }));
    assert_eq!(client.expect("receipt").await["id"], "sent");
    client.expect("heartbeat").await;

    client.order(&json!({ "do": "disconnect" }));
    client.expect("closed").await;
}

#[tokio::test]
async fn every_transport_in_node() {
    let place = Place::open(|builder| builder).await;
    for script in ["stompjs.mjs", "stompjs-old.mjs"] {
        let mut client = Remote::node(script);
        for transport in IN_NODE {
            let connect = place.connect(transport, &json!({ "heartBeat": 1000 }));
            conversation(&place, &mut client, &connect, transport).await;
        }
    }
    place.until_connections(0).await;
}

/// A page of the gateway's own origin, where `htmlfile` needs no frame between.
#[tokio::test]
async fn every_transport_in_chromium_from_its_own_origin() {
    let place = Place::open(|builder| builder).await;
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "open", "at": place.gateway.sockjs_url() }));
    browser.expect("opened").await;
    for transport in IN_CHROMIUM.into_iter().chain(["htmlfile"]) {
        let connect = place.connect(transport, &json!({ "heartBeat": 1000 }));
        conversation(&place, &mut browser, &connect, transport).await;
    }
    place.until_connections(0).await;
    no_faults(&browser);
}

/// A page of another origin that is listed; with the client of 2014.
#[tokio::test]
async fn every_transport_in_chromium_from_a_listed_origin() {
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "open" }));
    let opened = browser.expect("opened").await;
    let origin = opened["origin"].as_str().expect("an origin");
    let place = Place::open(|builder| builder.set("listen.origins", origin)).await;
    for transport in IN_CHROMIUM {
        let more = json!({ "heartBeat": 1000, "old": true });
        let connect = place.connect(transport, &more);
        conversation(&place, &mut browser, &connect, transport).await;
    }
    place.until_connections(0).await;
    no_faults(&browser);
}

/// A message is text, never a script. (A script that polls comes all the same after sockjs-client
/// has closed, and finds its callback gone.)
fn no_faults(browser: &Remote) {
    let mut faults = browser.process().stdout().all();
    faults.retain(|line| line.contains("\"pageerror\"") && !line.contains("_jp."));
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A page of a site that is not listed gets nowhere: not by a script or a form, which need no leave
/// to be sent, not by a frame of the gateway's own origin, and not by hiding its origin. The test
/// makes up the answer of `/info`, or the client would not even try.
#[tokio::test]
async fn no_transport_goes_round_the_list_of_origins() {
    let place = Place::open(|builder| {
        builder
            .set("auth.default_user", USER)
            .set("auth.default_passcode", PASSCODE)
    })
    .await;
    let mut browser = Remote::node("browser.mjs");
    for referrer in ["strict-origin-when-cross-origin", "no-referrer"] {
        let info = place.gateway.sockjs_url();
        browser.order(&json!({ "do": "open", "info": info, "referrer": referrer }));
        browser.expect("opened").await;
        for transport in IN_CHROMIUM {
            // A frame that may not be shown says nothing.
            let connect = place.connect(transport, &json!({ "timeout": 3000 }));
            browser.order(&connect);
            let closed = browser.expect("closed").await;
            // As where no session was ever open.
            assert_eq!(closed["code"], 2000, "{transport}, {referrer}: {closed}");
        }
    }
    let said = browser.process().stdout().text();
    assert!(!said.contains("\"connected\""), "{said}");
    assert_eq!(place.hook.calls_of(Call::User).len(), 0);
    let (_, metrics) = place.gateway.admin("/metrics").await;
    assert!(!metrics.contains("stentor_connections{"), "{metrics}");
}

/// Without a WebSocket in the network or the browser, the client goes on to the next transport.
#[tokio::test]
async fn without_a_websocket_a_client_falls_back() {
    let place = Place::open(|builder| builder).await;
    let mut browser = Remote::node("browser.mjs");
    for old in [false, true] {
        let at = place.gateway.sockjs_url();
        browser.order(&json!({ "do": "open", "at": at, "blocked": true }));
        browser.expect("opened").await;
        let any = json!({ "transports": null, "heartBeat": 1000, "old": old });
        let connect = place.connect("", &any);
        conversation(&place, &mut browser, &connect, "xhr-streaming").await;
    }
}

/// A server without WebSocket says so; one without streaming answers 404, and the client goes on.
/// It does not get past two in a row: the time-out of the first ends its attempt at the third.
#[tokio::test]
async fn what_the_server_has_not_is_passed_over() {
    for (has, tried, found) in [
        ("xhr-streaming,xhr-polling", Value::Null, "xhr-streaming"),
        (
            "xhr-polling",
            json!(["xhr-streaming", "xhr-polling"]),
            "xhr-polling",
        ),
    ] {
        let place = Place::open(|builder| builder.set("sockjs.transports", has)).await;
        for script in ["stompjs.mjs", "stompjs-old.mjs"] {
            let mut client = Remote::node(script);
            let any = json!({ "transports": tried, "heartBeat": 1000 });
            conversation(&place, &mut client, &place.connect("", &any), found).await;
        }
    }
}

/// The client of the article switches STOMP's heart-beats off. SockJS's own keep it alive.
#[tokio::test]
async fn heart_beats_of_sockjs_where_stomp_has_none() {
    let place = Place::open(|builder| builder.set("sockjs.heartbeat", "1s")).await;
    for transport in IN_NODE {
        let mut client = Remote::node("stompjs-old.mjs");
        client.order(&place.connect(transport, &json!({})));
        let connected = client.expect("connected").await;
        assert_eq!(connected["headers"]["heart-beat"], "0,0", "{connected}");
        for _ in 0..3 {
            client.expect("sockjs-heartbeat").await;
        }
        client.order(&subscribe(DESTINATION, json!({ "receipt": "subscribed" })));
        client.expect("receipt").await;
    }
}

/// A client that reads everything stays, however short the patience with those that do not.
#[tokio::test]
async fn a_session_outlives_the_time_limit_of_writing() {
    let place = Place::open(|builder| {
        builder
            .set("sockjs.heartbeat", "1s")
            .set("limits.write_timeout", "1s")
    })
    .await;
    for transport in IN_NODE {
        let mut client = Remote::node("stompjs-old.mjs");
        client.order(&place.connect(transport, &json!({})));
        client.expect("connected").await;
        client.order(&subscribe(DESTINATION, json!({ "receipt": "subscribed" })));
        client.expect("receipt").await;
        for _ in 0..4 {
            client.expect("sockjs-heartbeat").await;
        }
        publish(
            &mut place.backend().await,
            DESTINATION,
            &["still here".into()],
        )
        .await;
        assert_eq!(client.expect("message").await["body"], "still here");
    }
}

/// Nobody says good-bye when a page is left: a socket closes, and a poll does not come again.
#[tokio::test]
async fn a_page_that_is_left_is_gone() {
    let place = Place::open(|builder| builder).await;
    let mut browser = Remote::node("browser.mjs");
    for transport in IN_CHROMIUM {
        browser.order(&json!({ "do": "open", "at": place.gateway.sockjs_url() }));
        browser.expect("opened").await;
        browser.order(&place.connect(transport, &json!({})));
        browser.expect("connected").await;
        place.until_connections(1).await;
        browser.order(&json!({ "do": "goto", "url": format!("{}/stomp", place.gateway.origin()) }));
        browser.expect("loaded").await;
        place.until_connections(0).await;
    }
}

/// The hook gets these parts of the page's request, by each transport: the query of the page's
/// address, which sockjs-client repeats behind each path, and the browser's cookie.
#[tokio::test]
async fn the_hook_gets_query_and_cookie() {
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "open", "cookie": "sid=from-the-cookie" }));
    let origin = browser.expect("opened").await["origin"].clone();
    let place = Place::open(|builder| {
        builder
            .set("listen.origins", origin.as_str().expect("an origin"))
            .set("auth.http_method", "post")
            .set("auth.forward_cookies", "sid=session_cookie")
            .set("auth.forward_query", "token=token")
    })
    .await;
    let url = format!("{}?token=from-the-query", place.gateway.sockjs_url());
    for transport in IN_CHROMIUM {
        browser.order(&place.connect(transport, &json!({ "url": url })));
        browser.expect("connected").await;
        let calls = place.hook.calls_of(Call::User);
        let asked: &HookCall = calls.last().expect("the hook was asked");
        assert_eq!(asked.get("token"), "from-the-query", "{transport}");
        // An eventsource of another origin is asked for without cookies.
        let cookie = match transport {
            "eventsource" => "",
            _ => "from-the-cookie",
        };
        assert_eq!(asked.get("session_cookie"), cookie, "{transport}");
        browser.order(&json!({ "do": "disconnect" }));
        browser.expect("closed").await;
    }
}

/// Sessions over HTTP count in the metrics as WebSockets do.
#[tokio::test]
async fn metrics_count_sessions_and_their_bytes() {
    let place = Place::open(|builder| builder).await;
    let mut client = StompClient::sockjs(&place.gateway.sockjs_url()).await;
    client.connect(&Login::new(USER, PASSCODE, "/")).await;
    client.subscribe("1", DESTINATION).await;
    let body = "x".repeat(10_000);
    let send = Frame::new(Command::Send)
        .with_header("destination", DESTINATION)
        .with_body(body.clone());
    client.send(&send).await;
    client.expect_message(&body).await;
    let (_, metrics) = place.gateway.admin("/metrics").await;
    let value = |name: &str| {
        let mut lines = metrics.lines();
        let value = lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {name} in {metrics}"));
        value.parse::<f64>().unwrap()
    };
    assert_eq!(value("stentor_connections{transport=\"xhr-polling\"}"), 1.0);
    for way in ["received", "sent"] {
        let count = value(&format!("stentor_{way}_bytes_total"));
        assert!((10_000.0..20_000.0).contains(&count), "{way}: {count}");
    }
}

/// The client's author sees this of a refused login: the ERROR, and the code of a WebSocket.
#[tokio::test]
async fn a_refused_login() {
    let place = Place::open(|builder| builder).await;
    place.hook.answer(Call::User, Answer::Deny);
    for script in ["stompjs.mjs", "stompjs-old.mjs"] {
        for transport in IN_NODE {
            let mut client = Remote::node(script);
            client.order(&place.connect(transport, &json!({})));
            let error = client.expect("error").await;
            assert_eq!(error["headers"]["message"], "Bad CONNECT", "{error}");
            let closed = client.expect("closed").await;
            assert_eq!(closed["code"], 1008, "{transport}: {closed}");
        }
    }
    let mut browser = Remote::node("browser.mjs");
    let at = place.gateway.sockjs_url();
    browser.order(&json!({ "do": "open", "at": at }));
    browser.expect("opened").await;
    for transport in IN_CHROMIUM.into_iter().chain(["htmlfile"]) {
        browser.order(&place.connect(transport, &json!({})));
        let error = browser.expect("error").await;
        assert_eq!(error["headers"]["message"], "Bad CONNECT", "{transport}");
        let closed = browser.expect("closed").await;
        assert_eq!(closed["code"], 1008, "{transport}: {closed}");
    }
}

/// At the end of a node its clients are told, and get a code that says to connect again.
#[tokio::test]
async fn a_drain_tells_every_client() {
    let place = Place::open(|builder| builder.set("shutdown.drain", "500ms")).await;
    let mut clients = Vec::new();
    for transport in IN_NODE {
        let mut client = Remote::node("stompjs.mjs");
        client.order(&place.connect(transport, &json!({})));
        client.expect("connected").await;
        clients.push(client);
    }
    place.gateway.process().signal("TERM");
    for client in &mut clients {
        let error = client.expect("error").await;
        assert_eq!(error["headers"]["message"], "server shutting down");
        assert_eq!(client.expect("closed").await["code"], 1012);
    }
    let status = place.gateway.process().wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
}

/// stompjs 2.3.3 cuts what is long into pieces of 16 KiB, and cuts through an emoji, too: each half
/// is a SockJS message of its own, in which sockjs-client writes it as an escape.
#[tokio::test]
async fn a_large_message_in_pieces() {
    let place = Place::open(|builder| builder).await;
    for (script, transport) in [
        ("stompjs-old.mjs", "xhr-streaming"),
        ("stompjs-old.mjs", "xhr-polling"),
        ("stompjs.mjs", "xhr-streaming"),
        ("stompjs.mjs", "xhr-polling"),
    ] {
        let mut client = Remote::node(script);
        client.order(&place.connect(transport, &json!({})));
        client.expect("connected").await;
        client.order(&subscribe(DESTINATION, json!({ "receipt": "subscribed" })));
        client.expect("receipt").await;
        // Two lengths, so that in one of them a cut goes through an emoji.
        for length in [60_000, 60_001] {
            let large = format!("{:1$}{2}", "", length % 2, "\u{1F600}".repeat(length / 2));
            client.order(&json!({ "do": "send", "destination": DESTINATION, "body": large }));
            let bodies = client.expect_bodies(1).await;
            assert!(bodies == [large], "{script}, {transport}, {length}");
        }
    }
}

/// On RabbitMQ, with all that is in [`foreign`](crate::foreign).
#[tokio::test]
async fn a_day_on_rabbitmq() {
    let server = Server::gateway().await;
    for (script, version, transport) in [
        ("stompjs.mjs", "1.2", "websocket"),
        ("stompjs.mjs", "1.2", "xhr-streaming"),
        ("stompjs-old.mjs", "1.1", "xhr-polling"),
    ] {
        let url = server.sockjs_url();
        let connect = server.connect_ws(&json!({ "url": url, "transports": [transport] }));
        a_day(&server, Remote::node(script), &connect, version).await;
        work(&server, || Remote::node(script), &connect).await;
    }
}

/// Each gets every message, in order, some to all and some to itself, on connections that come and
/// go.
#[tokio::test]
async fn a_thousand_polling_clients() {
    const CLIENTS: usize = 1000;
    const MESSAGES: usize = 20;
    // A thousand clients in one test come late to their next poll on a busy machine.
    let place = Place::open(|builder| {
        builder
            .set("sockjs.max_sessions_per_address", 2 * CLIENTS)
            .set("sockjs.disconnect_delay", "60s")
    })
    .await;
    let url = place.gateway.sockjs_url();
    let subscribed = Arc::new(Barrier::new(CLIENTS + 1));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (url, subscribed) = (url.clone(), Arc::clone(&subscribed));
        clients.spawn(async move {
            let mut client = StompClient::sockjs(&url).await.with_deadline(4 * DEADLINE);
            let user = format!("user_{number}");
            client.connect(&Login::new(&user, PASSCODE, "/")).await;
            client.subscribe("all", "/exchange/feed/everybody").await;
            let own = format!("/exchange/feed/{user}");
            client.subscribe("own", &own).await;
            // A session that is not polled ends: this one waits while it polls.
            tokio::spawn(async move { subscribed.wait().await });
            let mut bodies = client.expect_messages(MESSAGES + 1).await;
            let own = bodies.iter().position(|body| *body == user);
            bodies.remove(own.expect("its own message"));
            assert_eq!(bodies, numbers(0..MESSAGES));
        });
    }
    let start = 4 * DEADLINE;
    within(start, "all are subscribed", subscribed.wait()).await;

    let mut backend = place.backend().await;
    publish(
        &mut backend,
        "/exchange/feed/everybody",
        &numbers(0..MESSAGES),
    )
    .await;
    for number in 0..CLIENTS {
        let user = format!("user_{number}");
        let destination = format!("/exchange/feed/{user}");
        publish(&mut backend, &destination, &[user]).await;
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client got all messages in order");
    }
}
