//! The listener that browsers connect to, on real sockets.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::RwLock;
use sockjs_server::SessionQuery;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{self, Message},
};

use super::{stints::MAX_HEAD, *};
use crate::{
    auth::{self, Access, Authenticator, Forwarding, Login, Refusal, User},
    broker::{self, Broker, FeedConfig, JournalConfig, embedded::Embedded},
    control::{Ban, Control, Sessions, Subject},
    hub::{MailboxConfig, Vhosts},
    listen::{self, KeepAlive, Plain},
    node::{Limits, Registry, Services, Settings, Stomp},
};
use futures_util::future::BoxFuture;

struct Everybody;

impl Authenticator for Everybody {
    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        let user = User {
            name: (&*login.user).into(),
            tags: "".into(),
            source: None,
        };
        Box::pin(std::future::ready(Ok(user)))
    }

    fn allow<'a>(&'a self, _: &'a User, _: &'a Access) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(crate) fn services(max_connections: usize) -> Arc<Services> {
    services_with(max_connections, Limits::default())
}

fn services_with(max_connections: usize, limits: Limits) -> Arc<Services> {
    services_at(Arc::new(Embedded::new([])), max_connections, limits)
}

/// The same, at another broker.
pub(crate) fn services_at(
    at: Arc<dyn Broker>,
    max_connections: usize,
    limits: Limits,
) -> Arc<Services> {
    let broker = broker::Config::default();
    let (feed, journal) = (FeedConfig::default(), JournalConfig::default());
    let vhosts = Vhosts::new(at, &broker, &feed, &journal);
    let settings = Settings::new(
        limits,
        Stomp::default(),
        MailboxConfig::default(),
        &broker,
        &auth::Config::default(),
        "node-1",
    );
    let registry = Registry::with_places(max_connections, Places::new(100), &settings.limits);
    let auth = Arc::new(Everybody);
    let control = Control::alone("node-1", Arc::clone(&registry) as _, Arc::clone(&auth) as _);
    Services::new(vhosts, auth, None, None, registry, control, settings)
}

/// A server, until it is dropped.
struct Server {
    address: SocketAddr,
    services: Arc<Services>,
    public: Arc<PublicServer>,
    _stop: oneshot::Sender<()>,
}

const TIMEOUT: Duration = Duration::from_secs(30);

async fn server(max_connections: usize, handshake_timeout: Duration) -> Server {
    let services = services(max_connections);
    server_with(services, handshake_timeout, Forwarding::default()).await
}

async fn server_with(
    services: Arc<Services>,
    handshake_timeout: Duration,
    forwarding: Forwarding,
) -> Server {
    server_at(services, handshake_timeout, forwarding, false).await
}

/// With `proxy_protocol`, behind a load balancer.
async fn server_at(
    services: Arc<Services>,
    handshake_timeout: Duration,
    forwarding: Forwarding,
    proxy_protocol: bool,
) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let public = Arc::new(PublicServer {
        gateway: Arc::new(Gateway {
            services: Arc::clone(&services),
            rules: RwLock::new(Arc::new(Rules {
                forwarding,
                origins: Origins {
                    allowed: Vec::new(),
                    allow_missing: true,
                },
            })),
            refusals: RefusalLog::default(),
        }),
        path: "/ws".into(),
        sockjs: listen::sockjs::SockjsConfig::default()
            .options()
            .map(SockJs::new),
        routes: sign_post("/ws"),
        host_names: HostNames::default(),
    });
    let entrance = Entrance {
        what: "http",
        layer: Plain,
        proxy_protocol,
        proxies: Arc::default(),
        files: Arc::new(listen::Files::of(u64::MAX)),
        timeout: handshake_timeout,
        keep_alive: KeepAlive::default(),
        registry: Arc::clone(&services.registry),
    };
    tokio::spawn(Arc::clone(&public).serve(listener, entrance, async {
        let _ = stopped.await;
    }));
    Server {
        address,
        services,
        public,
        _stop: stop,
    }
}

type Client = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn open(server: &Server, path: &str) -> Result<Client, tungstenite::Error> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let url = format!("ws://{}{path}", server.address);
    let (client, answer) = client_async(url, stream).await?;
    assert_eq!(answer.status(), 101);
    Ok(client)
}

/// Asks on a connection that is kept, and answers with the head and the body.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        loop {
            answer.push(stream.read_u8().await.unwrap());
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if body.len() == length {
                    return text.into_owned();
                }
            }
        }
    };
    timeout(TIMEOUT, reading).await.unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

async fn wait_for_connections(server: &Server, count: usize) {
    let waiting = async {
        while server.services.registry.len() != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, waiting).await.unwrap();
}

#[tokio::test]
async fn stomp_is_spoken_behind_the_upgrade() {
    let server = server(10, TIMEOUT).await;
    for path in ["/ws", "/ws/", "/ws?token=x"] {
        let mut client = open(&server, path).await.unwrap();
        log_in(&mut client).await;
        client
            .send(Message::text("DISCONNECT\n\n\0"))
            .await
            .unwrap();
        let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
            panic!("no close frame");
        };
        assert_eq!(u16::from(frame.code), 1000);
    }
    wait_for_connections(&server, 0).await;
}

/// A client need not wait for the answer to its upgrade.
#[tokio::test]
async fn what_comes_with_the_upgrade_is_not_lost() {
    let server = server(10, TIMEOUT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut request = b"GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    let connect = b"CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\0";
    request.extend_from_slice(&[0x81, 0x80 | u8::try_from(connect.len()).unwrap()]);
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(connect);
    stream.write_all(&request).await.unwrap();
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).contains("CONNECTED\n") {
            got.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(TIMEOUT, reading).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let server = server(10, TIMEOUT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        let answer = ask(&mut stream, &get("/stomp/info")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // The WebSocket's path, but not so.
        let answer = ask(&mut stream, &get("/ws")).await;
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert!(answer.contains("upgrade: websocket"), "{answer}");
    }
    let registry = &server.services.registry;
    assert_eq!((registry.len(), registry.places().taken()), (0, 1));
}

#[tokio::test]
async fn a_client_that_finds_nothing_is_closed() {
    let server = server(10, TIMEOUT).await;
    for path in ["/", "/favicon.ico", "/wsx", "/ws/info", "/stomp/nothing"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let answer = ask(&mut stream, &get(path)).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        let mut rest = Vec::new();
        let reading = timeout(TIMEOUT, stream.read_to_end(&mut rest));
        reading.await.expect("it is still open").unwrap();
    }
}

/// warp panics at these.
#[tokio::test]
async fn a_request_without_a_path_is_refused() {
    let server = server(10, TIMEOUT).await;
    for line in ["CONNECT a:1", "GET metrics", "OPTIONS *"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: test\r\n\r\n");
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

/// RFC 9112, 3.2.
#[tokio::test]
async fn a_request_names_one_host() {
    let server = server(10, TIMEOUT).await;
    for (version, hosts, status) in [
        ("1.1", "", "400"),
        ("1.1", "host: test\r\nhost: test\r\n", "400"),
        ("1.0", "host: test\r\nhost: evil.example\r\n", "400"),
        ("1.1", "host: test\r\n", "200"),
        ("1.0", "", "200"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET /stomp/info HTTP/{version}\r\n{hosts}\r\n");
        let answer = ask(&mut stream, &request).await;
        let status = format!("HTTP/{version} {status} ");
        assert!(answer.starts_with(&status), "{answer}");
    }
}

/// A proxy that speaks HTTP/1.0 would have the client hear 101, and nothing after it.
#[tokio::test]
async fn an_upgrade_by_http_1_0_is_refused() {
    let server = server(10, TIMEOUT).await;
    for path in ["/ws", "/stomp/websocket", "/stomp/000/a/websocket"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.0\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
        assert!(answer.contains("proxy_http_version 1.1"), "{answer}");
    }
}

async fn log_in(client: &mut Client) {
    let connect = "CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\0";
    client.send(Message::text(connect)).await.unwrap();
    let connected = client.next().await.unwrap().unwrap();
    assert!(connected.into_text().unwrap().starts_with("CONNECTED\n"));
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    let server = server(2, TIMEOUT).await;
    let mut first = open(&server, "/ws").await.unwrap();
    let mut second = open(&server, "/ws").await.unwrap();
    // Until they have logged in, they take no more than a place each.
    let mut third = open(&server, "/ws").await.unwrap();
    log_in(&mut first).await;
    log_in(&mut second).await;
    let refused = open(&server, "/ws").await.unwrap_err();
    let tungstenite::Error::Http(answer) = refused else {
        panic!("{refused}");
    };
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "30");
    let connect = "CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\0";
    third.send(Message::text(connect)).await.unwrap();
    let error = third.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(error.contains("too many connections"), "{error}");
    drop(third);
    wait_for_connections(&server, 2).await;
    // Other pages do not count.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let answer = ask(&mut stream, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    // A client that goes makes room.
    drop(first);
    wait_for_connections(&server, 1).await;
    log_in(&mut open(&server, "/ws").await.unwrap()).await;
}

/// 429, for it is not the server that is full; and when to come back.
#[tokio::test]
async fn connects_that_come_too_fast_are_told_when_to_come_back() {
    let limits = Limits {
        max_address_connects_per_second: 1,
        max_connects_per_second: 1,
        ..Limits::default()
    };
    let server = server_with(services_with(100, limits), TIMEOUT, Forwarding::default()).await;
    let mut refused = None;
    for _ in 0..20 {
        match open(&server, "/ws").await {
            Ok(_) => {}
            Err(tungstenite::Error::Http(answer)) => {
                refused = Some(answer);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let answer = refused.expect("ten may come at once");
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    let body = String::from_utf8_lossy(answer.body().as_ref().unwrap()).into_owned();
    assert!(body.contains("Reconnect after 1 s"), "{body}");
}

#[tokio::test]
async fn a_client_that_takes_too_long_for_a_request_is_cut() {
    let server = server(10, Duration::from_millis(200)).await;
    for beginning in ["", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let reading = timeout(TIMEOUT, stream.read_to_end(&mut rest));
        let _ = reading.await.expect("it is still open");
    }
    // So is a client that keeps a connection and does nothing with it.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    ask(&mut stream, &get("/stomp/info")).await;
    let mut rest = Vec::new();
    let reading = timeout(TIMEOUT, stream.read_to_end(&mut rest));
    let _ = reading.await.expect("it is still open");
}

/// Otherwise the load balancer held them all, and its oldest gave way, whosever it was.
#[tokio::test]
async fn half_requests_behind_a_load_balancer_count_for_their_clients() {
    let server = server_at(services(10), TIMEOUT, Forwarding::default(), true).await;
    let places = server.services.registry.places();
    let client = ClientAddress::direct(SocketAddr::from(([192, 0, 2, 7], 4711)));
    let mut held = Vec::new();
    for (count, rest) in [(1, ""), (2, "GET / HTTP/1.1\r\nhost:")] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let header = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n";
        let said = format!("{header}{rest}");
        stream.write_all(said.as_bytes()).await.unwrap();
        held.push(stream);
        let counted = async {
            while places.held_by(&client) != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(TIMEOUT, counted).await.expect("not its own");
    }
}

/// Requests without end, and nobody who reads the answers.
#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut() {
    let limits = Limits {
        write_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let services = services_with(10, limits);
    let server = server_with(services, 2 * TIMEOUT, Forwarding::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let requests = get("/stomp/info").repeat(100);
    let asking = async {
        loop {
            if let Err(error) = stream.write_all(requests.as_bytes()).await {
                return error.kind();
            }
        }
    };
    let kind = timeout(TIMEOUT, asking).await.expect("it is still open");
    let cut = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(cut.contains(&kind), "{kind:?}");
}

#[tokio::test]
async fn a_head_is_only_so_long() {
    let server = server(10, TIMEOUT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: test\r\ncookie: {}",
        "x".repeat(MAX_HEAD)
    );
    let answer = ask(&mut stream, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// On a stream that was accepted before the drain began.
#[tokio::test]
async fn an_upgrade_in_a_drain_is_told_to_go() {
    let server = server(10, TIMEOUT).await;
    server.services.registry.drain(Duration::ZERO).await;
    let mut client = open(&server, "/ws").await.unwrap();
    let error = client.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(error.contains("server shutting down"), "{error}");
    let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(frame.code), 1012);
    drop(client);
    timeout(TIMEOUT, server.services.registry.wait_empty())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_request_carries_can_be_required_and_bounded() {
    let config: auth::Config =
        toml::from_str("http_basic = true\nforward_cookies = { sid = \"sid\" }").unwrap();
    let server = server_with(services(10), TIMEOUT, Forwarding::new(&config)).await;
    let upgrade = |extra: &str| {
        format!(
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
        )
    };
    let basic = "authorization: Basic YWxpY2U6c2VjcmV0\r\n";
    let long = format!("{basic}cookie: sid={}\r\n", "x".repeat(9_000));
    for (extra, status) in [
        ("", "401"),
        ("authorization: Bearer abc\r\n", "401"),
        (&long, "431"),
        (basic, "101"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let answer = ask(&mut stream, &upgrade(extra)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let challenges = answer.contains("www-authenticate: Basic realm=\"STOMP\"");
        assert_eq!(challenges, status == "401", "{answer}");
    }
}

fn post(path: &str, extra: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /stomp/000/{path} HTTP/1.1\r\nhost: test\r\n{extra}content-length: {length}\r\n\r\n{body}"
    )
}

/// A client of SockJS that polls, logged in as `a`.
async fn polling(server: &Server, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let opened = poll(&mut stream, id).await;
    assert_eq!(opened, "o\n");
    // Cut anywhere.
    say(
        &mut stream,
        id,
        r#"["CONNECT\naccept-version:1.2\nlo","gin:a\npasscode:b\n\n\u0000"]"#,
    )
    .await;
    let connected = poll(&mut stream, id).await;
    let is_connected = connected.starts_with(r#"a["CONNECTED\n"#);
    assert!(
        is_connected && connected.contains(r"\nversion:1.2\n"),
        "{connected}"
    );
    stream
}

async fn poll(stream: &mut TcpStream, id: &str) -> String {
    let answer = ask(stream, &post(&format!("{id}/xhr"), "", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

async fn say(stream: &mut TcpStream, id: &str, body: &str) {
    let answer = ask(stream, &post(&format!("{id}/xhr_send"), "", body)).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn stomp_is_spoken_over_sockjs() {
    let server = server(10, TIMEOUT).await;
    let mut stream = polling(&server, "s").await;
    assert_eq!(server.services.registry.len(), 1);
    let subscribe = r#"["SUBSCRIBE\nid:1\ndestination:/topic/x\nreceipt:r\n\n\u0000"]"#;
    say(&mut stream, "s", subscribe).await;
    let receipt = poll(&mut stream, "s").await;
    assert_eq!(receipt, "a[\"RECEIPT\\nreceipt-id:r\\n\\n\\u0000\"]\n");
    let send = r#"["\n","SEND\ndestination:/topic/x\n\n\u2028ä\u0000"]"#;
    say(&mut stream, "s", send).await;
    let message = poll(&mut stream, "s").await;
    assert!(
        message.starts_with(r#"a["MESSAGE\n"#) && message.ends_with("\\n\\n\\u2028ä\\u0000\"]\n"),
        "{message}"
    );
    say(&mut stream, "s", r#"["DISCONNECT\n\n\u0000"]"#).await;
    // The session is over, and its HTTP connections go with it; a client that asks anew is told the same.
    let mut anew = TcpStream::connect(server.address).await.unwrap();
    for stream in [&mut stream, &mut anew] {
        let closed = poll(stream, "s").await;
        assert_eq!(closed, "c[1000,\"disconnected\"]\n");
    }
    wait_for_connections(&server, 0).await;
}

#[tokio::test]
async fn a_drain_reaches_polling_clients() {
    let server = server(10, TIMEOUT).await;
    let mut old = polling(&server, "old").await;
    server.services.registry.drain(Duration::ZERO).await;
    let mut new = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(poll(&mut new, "new").await, "o\n");
    for (stream, id) in [(&mut old, "old"), (&mut new, "new")] {
        let error = poll(stream, id).await;
        assert!(error.contains("server shutting down"), "{error}");
        let closed = poll(stream, id).await;
        assert_eq!(closed, "c[1012,\"server shutting down\"]\n");
    }
    timeout(TIMEOUT, server.services.registry.wait_empty())
        .await
        .unwrap();
}

/// Its bytes cannot be said in JSON, and to change them would be worse than to say so.
#[tokio::test]
async fn a_message_that_is_no_text_ends_a_sockjs_session() {
    let server = server(10, TIMEOUT).await;
    let mut stream = polling(&server, "s").await;
    let subscribe = r#"["SUBSCRIBE\nid:1\ndestination:/topic/x\nreceipt:r\n\n\u0000"]"#;
    say(&mut stream, "s", subscribe).await;
    poll(&mut stream, "s").await;
    let mut other = open(&server, "/ws").await.unwrap();
    let frames = b"CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\0\
                   SEND\ndestination:/topic/x\n\n\xff\0";
    other.send(Message::binary(frames.to_vec())).await.unwrap();
    let error = poll(&mut stream, "s").await;
    assert!(error.contains("message:message not text"), "{error}");
    let closed = poll(&mut stream, "s").await;
    assert_eq!(closed, "c[1011,\"server error\"]\n");
}

/// Its queue is rid of it: otherwise it would end each session of its client.
#[tokio::test]
async fn a_message_that_is_no_text_does_not_come_again() {
    let server = server(10, TIMEOUT).await;
    let mut other = open(&server, "/ws").await.unwrap();
    let login = b"CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\0";
    other.send(Message::binary(login.to_vec())).await.unwrap();
    let subscribe = r#"["SUBSCRIBE\nid:1\ndestination:/queue/x\nack:client\nreceipt:r\n\n\u0000"]"#;
    let mut stream = polling(&server, "s").await;
    say(&mut stream, "s", subscribe).await;
    poll(&mut stream, "s").await;
    let bad = b"SEND\ndestination:/queue/x\n\n\xff\0";
    other.send(Message::binary(bad.to_vec())).await.unwrap();
    let error = poll(&mut stream, "s").await;
    assert!(error.contains("message:message not text"), "{error}");
    let closed = poll(&mut stream, "s").await;
    assert_eq!(closed, "c[1011,\"server error\"]\n");
    let mut stream = polling(&server, "t").await;
    say(&mut stream, "t", subscribe).await;
    let receipt = poll(&mut stream, "t").await;
    assert!(receipt.contains("RECEIPT"), "{receipt}");
    let good = b"SEND\ndestination:/queue/x\n\ngood\0";
    other.send(Message::binary(good.to_vec())).await.unwrap();
    let message = poll(&mut stream, "t").await;
    assert!(message.ends_with("\\n\\ngood\\u0000\"]\n"), "{message}");
}

/// A connection that is at a session leaves its place at the listener to others. When the session is
/// over, it is at nothing, and has to go: otherwise a client could leave behind any number of them.
#[tokio::test]
async fn no_connection_outlives_its_session() {
    let server = server(10, TIMEOUT).await;
    let info = async |stream: &mut TcpStream| ask(stream, &get("/stomp/info")).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(poll(&mut stream, "a").await, "o\n");
    server.services.registry.drain(Duration::ZERO).await;
    let mut other = TcpStream::connect(server.address).await.unwrap();
    poll(&mut other, "a").await;
    let sessions = server.public.sockjs.as_ref().unwrap().sessions();
    let query = SessionQuery {
        id: "a",
        address: Some(server.address.ip()),
        identity: None,
    };
    let ended = async {
        while sessions
            .find(query)
            .is_some_and(|session| !session.is_over())
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, ended).await.unwrap();
    let last = info(&mut stream).await;
    assert!(last.starts_with("HTTP/1.1 200 "), "{last}");
    assert!(last.contains("\r\nconnection: close\r\n"), "{last}");
    // One that was at no session stays.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let info = info(&mut stream).await;
        assert!(info.starts_with("HTTP/1.1 200 "), "{info}");
        assert!(!info.contains("\r\nconnection:"), "{info}");
    }
}

/// Only the connections that count as the session's do so. The others have places of those who are
/// to log in, at a stage that gives way to nobody who holds as many.
#[tokio::test]
async fn no_connection_waits_for_a_session_for_ever() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let server = server(10, PATIENCE).await;
    let places = server.services.registry.places();
    let mut receiver = polling(&server, "s").await;
    let poll = post("s/xhr", "", "");
    receiver.write_all(poll.as_bytes()).await.unwrap();
    let mut sender = TcpStream::connect(server.address).await.unwrap();
    say(&mut sender, "s", "[]").await;
    // It sends for long, byte by byte, and has the turn meanwhile.
    let head =
        "POST /stomp/000/s/xhr_send HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n[";
    sender.write_all(head.as_bytes()).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        others.push(stream);
    }
    let (mut ticks, mut most) = (tokio::time::interval(PATIENCE / 20), 0);
    let waiting = async {
        // One of them has the third seat. Another one is the third request that sends, and waits
        // without a seat.
        while most < 4 || places.taken() > 1 {
            most = most.max(places.taken());
            let _ = sender.write_all(b" ").await;
            ticks.tick().await;
        }
    };
    timeout(TIMEOUT / 2, waiting).await.expect("they wait on");
}

/// A proxy that keeps its connections sends each request by any of them, and those that it sent by
/// before have the seats.
#[tokio::test]
async fn the_only_request_that_waits_needs_no_seat() {
    const PATIENCE: Duration = Duration::from_secs(2);
    const TICKS: u32 = 20;
    let server = server(10, PATIENCE).await;
    let mut receiver = polling(&server, "s").await;
    let poll = post("s/xhr", "", "");
    receiver.write_all(poll.as_bytes()).await.unwrap();
    let mut sender = TcpStream::connect(server.address).await.unwrap();
    let mut resting = TcpStream::connect(server.address).await.unwrap();
    for stream in [&mut resting, &mut sender] {
        say(stream, "s", "[]").await;
    }
    // It takes twice as long as others have patience, and has the turn meanwhile.
    let length = 2 + 2 * TICKS;
    let head = format!(
        "POST /stomp/000/s/xhr_send HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n["
    );
    sender.write_all(head.as_bytes()).await.unwrap();
    let mut ticks = tokio::time::interval(PATIENCE / TICKS);
    let sending = async {
        for _ in 0..2 * TICKS {
            ticks.tick().await;
            sender.write_all(b" ").await.unwrap();
        }
        ask(&mut sender, "]").await
    };
    let mut fourth = TcpStream::connect(server.address).await.unwrap();
    let request = post("s/xhr_send", "", "[]");
    let (sent, waited) = tokio::join!(sending, ask(&mut fourth, &request));
    assert!(sent.starts_with("HTTP/1.1 204 "), "{sent}");
    assert!(waited.starts_with("HTTP/1.1 204 "), "{waited}");
}

#[tokio::test]
async fn sockjs_has_the_bounds_of_a_web_socket() {
    let server = server(1, TIMEOUT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let evil = "origin: https://evil.example\r\n";
    for path in ["a/xhr", "a/xhr_streaming", "a/xhr_send"] {
        let refused = ask(&mut stream, &post(path, evil, "")).await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    }
    assert_eq!(server.services.registry.len(), 0);
    let mut logged_in = polling(&server, "a").await;
    let refused = ask(&mut logged_in, &post("b/xhr", "", "")).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 30\r\n"), "{refused}");
    say(&mut logged_in, "a", r#"["DISCONNECT\n\n\u0000"]"#).await;
    assert!(poll(&mut logged_in, "a").await.starts_with("c[1000,"));
    wait_for_connections(&server, 0).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(poll(&mut stream, "c").await, "o\n");
    // What a frame may have before the login, a request may have, and no more.
    let long = format!("[\"{}\"]", "x".repeat(200 * 1024));
    let refused = ask(&mut stream, &post("c/xhr_send", "", &long)).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
}

/// JSON can be six times as long as what it says. Only those who are logged in may have it so.
#[tokio::test]
async fn before_the_login_a_payload_is_no_longer_than_a_frame() {
    let server = server(10, TIMEOUT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(poll(&mut stream, "a").await, "o\n");
    let long = format!("[{}]", " ".repeat(200 * 1024));
    let refused = ask(&mut stream, &post("a/xhr_send", "", &long)).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    let mut logged_in = polling(&server, "b").await;
    say(&mut logged_in, "b", &long).await;

    let mut socket = open(&server, "/stomp/0/0/websocket").await.unwrap();
    let opened = socket.next().await.unwrap().unwrap();
    assert_eq!(&*opened.into_text().unwrap(), "o");
    // It may end before all is written.
    let _ = socket.send(Message::text(&*long)).await;
    let ended = async {
        while let Some(Ok(message)) = socket.next().await {
            let text = message.into_text().unwrap().to_string();
            let is_known = !text.contains("ERROR") || text.contains("Frame too large");
            assert!(is_known, "{text}");
        }
    };
    timeout(TIMEOUT, ended).await.expect("it was taken");

    let mut socket = open(&server, "/stomp/0/0/websocket").await.unwrap();
    socket.next().await.unwrap().unwrap();
    let connect = r#"["CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\u0000"]"#;
    socket.send(Message::text(connect)).await.unwrap();
    socket.next().await.unwrap().unwrap();
    socket.send(Message::text(&*long)).await.unwrap();
    let disconnect = r#"["DISCONNECT\nreceipt:r\n\n\u0000"]"#;
    socket.send(Message::text(disconnect)).await.unwrap();
    let receipt = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(receipt.contains("receipt-id:r"), "{receipt}");
}

#[tokio::test]
async fn what_browsers_add_by_themselves_needs_a_page_that_may() {
    let config: auth::Config =
        toml::from_str("http_basic = true\nforward_cookies = { sid = \"sid\" }").unwrap();
    let server = server_with(services(10), TIMEOUT, Forwarding::new(&config)).await;
    let basic = "authorization: Basic YWxpY2U6c2VjcmV0\r\n";
    for (id, extra, status) in [
        ("a", basic.to_owned(), 403),
        (
            "b",
            format!("{basic}referer: http://evil.example/\r\n"),
            403,
        ),
        ("c", format!("{basic}referer: http://test/page\r\n"), 200),
        ("d", format!("{basic}origin: http://test\r\n"), 200),
        ("e", "origin: http://test\r\n".to_owned(), 401),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let answer = ask(&mut stream, &post(&format!("{id}/xhr"), &extra, "")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

/// By a connection that was open before, too.
#[tokio::test]
async fn a_request_from_a_banned_address_is_refused() {
    let server = server(10, TIMEOUT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let info = get("/stomp/info");
    let answer = ask(&mut stream, &info).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let ban = Ban {
        until: None,
        reason: "spam".into(),
    };
    let subject = Subject::address("127.0.0.1").unwrap();
    let registry = &server.services.registry;
    let now = std::time::SystemTime::now();
    let change = registry.bans().change(now, subject, Some(ban));
    Sessions::ban(&**registry, &change, Duration::ZERO);
    let answer = ask(&mut stream, &info).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.ends_with("banned\n"), "{answer}");
    // A new one is closed before a word.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut buffer = [0; 1];
    let end = timeout(TIMEOUT, stream.read(&mut buffer)).await;
    assert_eq!(end.unwrap().unwrap(), 0);
}
