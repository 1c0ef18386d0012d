//! What clients without a login can take from others: places, files, health, the log. Beside each
//! attack there is an honest client, at another address, and where it says so at the attacker's.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;
use stomp_grammar::Command;
use testkit::{
    Answer, Call, DEADLINE, Gateway, GatewayBuilder, Hook, Login, StompClient, WsOptions,
    eventually, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::house::{PASSCODE, stentor};

/// The attacker's address, and those of others.
const EVE: &str = "127.0.0.66";
const ALICE: &str = "127.0.0.10";
const PROXY: &str = "127.0.0.5";

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A gateway without a RabbitMQ, and its hook.
struct Node {
    gateway: Gateway,
    hook: Hook,
}

impl Node {
    async fn open(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        Self::open_by(stentor(), settings).await
    }

    async fn open_by(
        builder: GatewayBuilder,
        settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> Self {
        let hook = Hook::start().await;
        let builder = builder
            .hook(&hook)
            .set("broker.url", "embedded:")
            .set("broker.exchanges", "feed=direct")
            .set("auth.forward_connection", "client_ip=ip");
        let gateway = settings(builder).ready().await;
        Self { gateway, hook }
    }

    fn http(&self) -> &str {
        self.gateway.addresses().http.as_deref().unwrap()
    }

    fn admin(&self) -> &str {
        self.gateway.addresses().admin.as_deref().unwrap()
    }

    async fn metric(&self, name: &str) -> usize {
        let (_, text) = self.gateway.admin("/metrics").await;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// A client at this address logs in by WebSocket and by TCP, and is served.
    async fn serves(&self, from: &str) -> [StompClient; 2] {
        let stream = connect(from, self.http()).await;
        let url = self.gateway.ws_url();
        let ws = StompClient::ws_over(&url, stream, WsOptions::default()).await;
        let stream = connect(from, self.gateway.stomp_address()).await;
        let mut clients = [ws, StompClient::over(stream)];
        for client in &mut clients {
            client.connect(&Login::new("alice", PASSCODE, "/")).await;
            is_served(client).await;
        }
        clients
    }

    /// The events of this message, of which there is one at least: the log is written by a thread of
    /// its own.
    async fn lines(&self, message: &str) -> Vec<Value> {
        self.gateway.until_logged(message).await;
        let mut events = self.gateway.events();
        events.retain(|event| event["message"] == message);
        events
    }

    /// Nothing went wrong that nobody can see from outside.
    fn is_sound(&self) {
        let log = self.gateway.log().text();
        for word in ["panicked", "accept failed"] {
            assert!(!log.contains(word), "{log}");
        }
    }
}

async fn is_served(client: &mut StompClient) {
    client.subscribe("1", "/exchange/feed/user_alice").await;
    client.unsubscribe("1").await;
}

async fn connect(from: &str, to: &str) -> TcpStream {
    try_connect(from, to).await.unwrap()
}

async fn try_connect(from: &str, to: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0))?;
    let stream = socket.connect(to.parse().unwrap()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects, says something, and keeps the connection.
async fn hold(from: &str, to: &str, text: &str, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = connect(from, to).await;
        // It may have given way already.
        let _ = stream.write_all(text.as_bytes()).await;
        held.push(stream);
    }
    held
}

/// Says something, and answers what is said until the answer is whole, or the end.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    let asking = async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            answer.extend_from_slice(&bytes[..count]);
            let text = String::from_utf8_lossy(&answer).into_owned();
            let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                let mut lines = head.lines();
                let length = lines.find_map(|line| line.strip_prefix("content-length: "));
                length.map_or(0, |length| length.parse().unwrap()) == body.len()
            });
            if whole || count == 0 {
                return text;
            }
        }
    };
    within(DEADLINE, "an answer", asking).await
}

/// Waits until the other side has closed.
async fn is_closed(stream: &mut TcpStream) {
    let reading = async {
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    within(DEADLINE, "the connection is closed", reading).await;
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
}

/// 2,500 half requests of one address used to shut a port for all.
#[tokio::test]
async fn half_requests_shut_no_port() {
    let node = Node::open(|builder| builder.set("listen.max_unauthenticated", "20")).await;
    let [mut ws, mut tcp] = node.serves(ALICE).await;
    let half = "GET /ws HTTP/1.1\r\nhost:";
    let mut held = hold(EVE, node.http(), half, 60).await;
    held.extend(hold(EVE, node.gateway.stomp_address(), "CONNECT\nlogin:", 60).await);
    // Hers alone gave way: the oldest.
    is_closed(&mut held[0]).await;
    node.serves("127.0.0.11").await;
    // Also beside her.
    node.serves(EVE).await;
    is_served(&mut ws).await;
    is_served(&mut tcp).await;
    let taken = node.metric("stentor_unauthenticated").await;
    assert!((1..=20).contains(&taken), "{taken}");
    assert!(node.metric("stentor_connections_gave_way_total").await >= 100);
    let says = "too many connections are not logged in: the oldest of the address with most are \
                closed";
    let lines = node.lines(says).await;
    assert!((1..10).contains(&lines.len()), "{lines:#?}");
    node.is_sound();
}

/// 2,300 connections that were kept alive by a request now and then kept the port shut.
#[tokio::test]
async fn connections_that_are_only_kept_give_way_first() {
    let node = Node::open(|builder| builder.set("listen.max_unauthenticated", "20")).await;
    // A page that is not there is the end.
    let mut stream = connect(EVE, node.http()).await;
    let answer = ask(&mut stream, &get("/x")).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    is_closed(&mut stream).await;
    // Alice's request is half way when the idle ones are taken away.
    let mut half = connect(ALICE, node.http()).await;
    let (head, end) = ("GET /stomp/info HTTP/1.1\r\nhost: 127.0.0.1\r\n", "\r\n");
    half.write_all(head.as_bytes()).await.unwrap();
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut stream = connect(ALICE, node.http()).await;
        let answer = ask(&mut stream, &get("/stomp/info")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        kept.push(stream);
    }
    is_closed(&mut kept[0]).await;
    let answer = ask(&mut half, end).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    node.serves(ALICE).await;
    node.is_sound();
}

/// Half requests to the operator's port made `/readyz` fail, and an orchestrator kill the node.
#[tokio::test]
async fn health_has_places_of_its_own() {
    let node = Node::open(|builder| builder.set("listen.max_unauthenticated", "5")).await;
    let half = "GET /readyz HTTP/1.1\r\n";
    let mut held = hold(EVE, node.admin(), half, 600).await;
    held.extend(hold("127.0.0.1", node.admin(), half, 600).await);
    held.extend(hold(EVE, node.http(), half, 20).await);
    for from in [EVE, "127.0.0.1", ALICE] {
        let mut probe = connect(from, node.admin()).await;
        for path in ["/readyz", "/healthz", "/metrics"] {
            let answer = ask(&mut probe, &get(path)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
    node.serves(ALICE).await;
    node.is_sound();
}

/// Sockets on which nobody logs in held places of those who do: six of them opened 19,500 sessions.
#[tokio::test]
async fn sessions_without_a_login_take_no_place_of_others() {
    let node = Node::open(|builder| {
        builder
            .set("listen.max_unauthenticated", "30")
            .set("listen.max_connections", "6")
    })
    .await;
    let [mut ws, mut tcp] = node.serves(ALICE).await;
    let upgrade = format!("GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\n{UPGRADE}\r\n");
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(EVE, node.http()).await;
        let answer = ask(&mut stream, &upgrade).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        sockets.push(stream);
    }
    let mut stream = connect(EVE, node.http()).await;
    for number in 0..200 {
        let request = format!(
            "POST /stomp/000/{number}/xhr HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n"
        );
        let answer = ask(&mut stream, &request).await;
        assert!(answer.ends_with("o\n"), "{number}: {answer}");
    }
    sockets.extend(hold(EVE, node.gateway.stomp_address(), "", 50).await);
    // Four are left of six, for those who log in, wherever they are.
    let others = node.serves("127.0.0.11").await;
    let beside_her = node.serves(EVE).await;
    is_served(&mut ws).await;
    is_served(&mut tcp).await;
    assert!(node.metric("stentor_unauthenticated").await <= 30);
    // Now there are six.
    let mut late = StompClient::over(connect(ALICE, node.gateway.stomp_address()).await);
    late.expect_error("too many connections").await;
    drop((others, beside_her));
    node.is_sound();
}

/// A client that gives way is told so, and when to come back.
#[tokio::test]
async fn a_session_that_gives_way_is_told() {
    let node = Node::open(|builder| builder.set("listen.max_unauthenticated", "3")).await;
    let url = node.gateway.ws_url();
    let stream = connect(EVE, node.http()).await;
    let mut ws = StompClient::ws_over(&url, stream, WsOptions::default()).await;
    let mut tcp = StompClient::over(connect(EVE, node.gateway.stomp_address()).await);
    let what = "both are sessions";
    eventually(DEADLINE, what, async || {
        node.metric("stentor_connections{transport=\"tcp\"}").await == 1
            && node
                .metric("stentor_connections{transport=\"websocket\"}")
                .await
                == 1
    })
    .await;
    let _held = hold(EVE, node.http(), "GET", 3).await;
    for client in [&mut ws, &mut tcp] {
        let error = client.expect_error("too many connections").await;
        assert_eq!(error.header("error-code"), Some("too-many-logins"));
        assert_eq!(error.header("reconnect"), Some("1s"));
        client.expect_closed().await;
    }
    eventually(DEADLINE, "they are gone", async || {
        node.metric("stentor_connections{transport=\"tcp\"}").await == 0
    })
    .await;
}

/// A login that the hook is slow about is not taken away by what its own address opens.
#[tokio::test]
async fn a_login_under_way_is_kept() {
    let node = Node::open(|builder| builder.set("listen.max_unauthenticated", "5")).await;
    let slow = Answer::After(Duration::from_secs(1), Box::new(Answer::Allow));
    node.hook.answer(Call::User, slow);
    let mut client = StompClient::over(connect(EVE, node.gateway.stomp_address()).await);
    client
        .send(&Login::new("alice", PASSCODE, "/").frame())
        .await;
    eventually(DEADLINE, "the hook is asked", async || {
        !node.hook.calls_of(Call::User).is_empty()
    })
    .await;
    let _held = hold(EVE, node.http(), "GET", 50).await;
    let connected = client.expect_frame().await;
    assert_eq!(connected.command, Command::Connected, "{connected:?}");
}

/// 20,000 sockets used up the files, so that no port accepted anybody.
#[tokio::test]
async fn clients_do_not_use_up_the_files() {
    let program = env!("CARGO_BIN_EXE_stentor");
    let script = "ulimit -n 400 && exec \"$0\" serve";
    let builder = Gateway::builder("/bin/sh")
        .arguments(&["-c", script, program], &["http", "stomp", "admin"]);
    let node = Node::open_by(builder, |builder| builder).await;
    let [mut ws, mut tcp] = node.serves(ALICE).await;
    let mut held = hold(EVE, node.http(), "GET", 500).await;
    held.extend(hold(EVE, node.gateway.stomp_address(), "CONNECT", 500).await);
    node.serves("127.0.0.11").await;
    is_served(&mut ws).await;
    is_served(&mut tcp).await;
    eventually(DEADLINE, "files are given back", async || {
        node.metric("process_open_fds").await < 200
    })
    .await;
    node.is_sound();
}

/// `X-Forwarded-For` of a proxy that is named, and of others; and what the hook hears of it.
#[tokio::test]
async fn proxies_that_are_trusted_name_their_clients() {
    let node = Node::open(|builder| builder.set("listen.trusted_proxies", PROXY)).await;
    let url = node.gateway.ws_url();
    let log_in = async |from: &str, lines: &[(&'static str, &str)]| {
        let stream = connect(from, node.http()).await;
        let options = WsOptions {
            headers: lines
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            ..WsOptions::default()
        };
        let mut client = StompClient::ws_over(&url, stream, options).await;
        client.connect(&Login::new("alice", PASSCODE, "/")).await;
        let calls = node.hook.calls_of(Call::User);
        calls.last().unwrap().get("ip").to_owned()
    };
    let forwarded = ("x-forwarded-for", "1.1.1.1, 203.0.113.9");
    assert_eq!(log_in(PROXY, &[forwarded]).await, "203.0.113.9");
    let two = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", PROXY),
    ];
    assert_eq!(log_in(PROXY, &two).await, "203.0.113.9");
    let rfc = ("forwarded", "for=\"[2001:db8::7]:4711\";proto=https");
    assert_eq!(log_in(PROXY, &[rfc]).await, "2001:db8::7");
    assert_eq!(
        log_in(PROXY, &[("x-forwarded-for", "unknown")]).await,
        PROXY
    );
    assert_eq!(log_in(PROXY, &[]).await, PROXY);
    assert_eq!(log_in(ALICE, &[forwarded]).await, ALICE);
    let opened = node.lines("connection opened").await;
    assert_eq!(opened[0]["remote"], "203.0.113.9:0");
    // SockJS as well.
    let request = "POST /stomp/000/a/xhr HTTP/1.1\r\nhost: 127.0.0.1\r\n\
        x-forwarded-for: 203.0.113.77\r\ncontent-length: 0\r\n\r\n";
    let mut stream = connect(PROXY, node.http()).await;
    assert!(ask(&mut stream, request).await.ends_with("o\n"));
    let send = "POST /stomp/000/a/xhr_send HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 76\r\n\r\n\
        [\"CONNECT\\naccept-version:1.2\\nhost:/\\nlogin:bob\\npasscode:secret\\n\\n\\u0000\"]";
    let length = send.split_once("\r\n\r\n").unwrap().1.len();
    let send = send.replace("content-length: 76", &format!("content-length: {length}"));
    let taken = ask(&mut stream, &send).await;
    assert!(taken.starts_with("HTTP/1.1 204 "), "{taken}");
    eventually(DEADLINE, "the hook is told", async || {
        let calls = node.hook.calls_of(Call::User);
        calls
            .last()
            .is_some_and(|call| call.get("ip") == "203.0.113.77")
    })
    .await;
}

/// With a list of proxies, a PROXY header is theirs alone.
#[tokio::test]
async fn a_proxy_header_of_others_closes() {
    let node = Node::open(|builder| {
        builder
            .set("listen.trusted_proxies", PROXY)
            .set("listen.proxy_protocol", "true")
    })
    .await;
    let header = "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n";
    let address = node.gateway.stomp_address();
    let mut proxy = connect(PROXY, address).await;
    proxy.write_all(header.as_bytes()).await.unwrap();
    let mut client = StompClient::over(proxy);
    client.connect(&Login::new("alice", PASSCODE, "/")).await;
    assert_eq!(node.hook.calls_of(Call::User)[0].get("ip"), "203.0.113.9");
    // Others come as themselves.
    node.serves(ALICE).await;
    for _ in 0..20 {
        let mut stranger = connect(EVE, address).await;
        stranger.write_all(header.as_bytes()).await.unwrap();
        is_closed(&mut stranger).await;
    }
    let says =
        "a PROXY header came from an address that is not in [listen] trusted_proxies: closed";
    let lines = node.lines(says).await;
    assert!((1..5).contains(&lines.len()), "{lines:#?}");
    // And a proxy without its header does not get in.
    let mut proxy = connect(PROXY, address).await;
    proxy
        .write_all(b"CONNECT\n\n\0CONNECT\n\n\0")
        .await
        .unwrap();
    is_closed(&mut proxy).await;
}

/// A proxy that nobody has named is no attacker: one line names the key.
#[tokio::test]
async fn a_proxy_that_is_not_named_is_one_line() {
    let node = Node::open(|builder| {
        builder
            .set("listen.proxy_protocol", "true")
            .set("sockjs.max_sessions_per_address", "3")
    })
    .await;
    let says = "[listen] proxy_protocol is on without trusted_proxies: everybody who can connect can \
                give any address; name the networks of your proxies there";
    assert_eq!(node.lines(says).await.len(), 1);
    // By the PROXY header they are at a public address.
    let open = async |number: usize, extra: &str| {
        let mut stream = connect(ALICE, node.http()).await;
        let request = format!(
            "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\nPOST /stomp/000/{number}/xhr HTTP/1.1\r\n\
             host: 127.0.0.1\r\n{extra}content-length: 0\r\n\r\n"
        );
        ask(&mut stream, &request).await
    };
    for number in 0..10 {
        let answer = open(number, "x-forwarded-for: 198.51.100.7\r\n").await;
        assert!(answer.ends_with("o\n"), "{number}: {answer}");
    }
    let lines = node.lines(
        "a proxy names its clients' addresses and is not believed, so they all count as one: write \
         the proxy's network into [listen] trusted_proxies",
    )
    .await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    // Without that header the address counts.
    let mut refused = String::new();
    for number in 10..14 {
        refused = open(number, "").await;
    }
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
}

/// One address has a bound of its own, in which an office has room; a shared address has none.
#[tokio::test]
async fn sockjs_sessions_are_bounded_by_address() {
    let node = Node::open(|builder| {
        builder
            .set("listen.trusted_proxies", PROXY)
            .set("sockjs.max_sessions_per_address", "5")
    })
    .await;
    let open = async |from: &str, number: usize, client: Option<&str>| {
        let mut stream = connect(from, node.http()).await;
        let forwarded = client.map_or_else(String::new, |client| {
            format!("x-forwarded-for: {client}\r\n")
        });
        let request = format!(
            "POST /stomp/000/{number}/xhr HTTP/1.1\r\nhost: 127.0.0.1\r\n{forwarded}\
             content-length: 0\r\n\r\n"
        );
        ask(&mut stream, &request).await
    };
    for number in 0..5 {
        let client = format!("2001:db8:6:6::{number}");
        assert!(open(PROXY, number, Some(&client)).await.ends_with("o\n"));
    }
    let refused = open(PROXY, 5, Some("2001:db8:6:6:ffff::5")).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 5\r\n"), "{refused}");
    assert!(refused.contains("Your address has 5 sessions"), "{refused}");
    assert_eq!(
        node.metric("stentor_refused_total{at=\"request\",reason=\"sockjs-sessions\"}")
            .await,
        1
    );
    // Others are served; and so are all those of a proxy that says nothing, and of a loopback.
    let other = open(PROXY, 6, Some("2001:db8:6:7::1")).await;
    assert!(other.ends_with("o\n"), "{other}");
    for number in 10..30 {
        assert!(open(PROXY, number, None).await.ends_with("o\n"));
        assert!(open(ALICE, 100 + number, None).await.ends_with("o\n"));
    }
}

/// A site that leads its own name here gets nothing; addresses and `localhost` are no site's.
#[tokio::test]
async fn names_of_others_are_refused() {
    let node = Node::open(|builder| builder).await;
    let named = Node::open(|builder| {
        builder
            .set("listen.host_names", "push.example.com")
            .set("auth.default_user", "guest")
            .set("auth.default_passcode", "guest")
    })
    .await;
    let status = async |address: &str, path: &str, host: &str| {
        let mut stream = connect(ALICE, address).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let answer = ask(&mut stream, &request).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for host in [
        "evil.example",
        "evil.example:15680",
        "localhost.evil.example",
    ] {
        for path in ["/api/v1/node", "/api/openapi.json", "/nothing"] {
            assert_eq!(
                status(node.admin(), path, host).await,
                "421",
                "{host} {path}"
            );
        }
        for path in ["/readyz", "/healthz", "/metrics"] {
            assert_eq!(
                status(node.admin(), path, host).await,
                "200",
                "{host} {path}"
            );
        }
        // Clients' listeners know no names by default.
        assert_eq!(status(node.http(), "/stomp/info", host).await, "200");
        assert_eq!(status(named.http(), "/stomp/info", host).await, "421");
        assert_eq!(status(named.http(), "/ws", host).await, "421");
        assert_eq!(status(named.http(), "/", host).await, "421");
    }
    for host in [
        "localhost:1",
        "127.0.0.1",
        "192.0.2.1:15680",
        "[::1]",
        "[2001:db8::1]:80",
    ] {
        assert_eq!(
            status(node.admin(), "/api/openapi.json", host).await,
            "200",
            "{host}"
        );
        assert_eq!(
            status(named.http(), "/stomp/info", host).await,
            "200",
            "{host}"
        );
    }
    let own = "push.EXAMPLE.com:15674";
    assert_eq!(status(named.http(), "/stomp/info", own).await, "200");
    assert_eq!(status(named.admin(), "/api/openapi.json", own).await, "200");
    let mut stream = connect(ALICE, node.admin()).await;
    let request = "GET /api/v1/node HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    let refused = ask(&mut stream, request).await;
    assert!(refused.contains("[listen] host_names"), "{refused}");
    // Where browsers log in by themselves, the key that is missing is named at the start.
    let warned = |node: &Node| {
        node.gateway
            .log()
            .text()
            .contains("set [listen] host_names")
    };
    assert!(!warned(&node) && !warned(&named));
    let open = Node::open(|builder| builder.set("auth.http_basic", "true")).await;
    assert!(warned(&open));
}

/// Lines at `info` that clients can cause without a login: 41,000 in 10 s were seen.
#[tokio::test]
async fn clients_without_a_login_do_not_fill_the_log() {
    const CLIENTS: usize = 300;
    let node = Node::open(|builder| builder).await;
    node.hook.answer(Call::User, Answer::Deny);
    for number in 0..CLIENTS {
        let stream = connect(EVE, node.gateway.stomp_address()).await;
        let mut client = StompClient::over(stream);
        // Wrong logins of one user would be slowed down.
        let user = format!("eve-{number}");
        client.send(&Login::new(&user, PASSCODE, "/").frame()).await;
        client.expect_error("Bad CONNECT").await;
    }
    eventually(DEADLINE, "all are gone", async || {
        node.metric("stentor_connections{transport=\"tcp\"}").await == 0
    })
    .await;
    let refused = "stentor_refused_total{at=\"login\",reason=\"login-refused\"}";
    assert_eq!(node.metric(refused).await, CLIENTS);
    for message in ["login refused", "connection closed"] {
        let lines = node.lines(message).await.len();
        // A slow machine takes more than ten seconds.
        assert!((50..CLIENTS / 2).contains(&lines), "{message}: {lines}");
    }
    // A login is told all the same.
    node.hook.allow_all();
    node.serves(ALICE).await;
    node.gateway.until_events("connection opened", 2).await;
}
