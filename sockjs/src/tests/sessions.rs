//! The life of a session: who receives, how it ends, and what bounds it.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Body as _;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::*;

const INTERRUPTED: &str = "c[1002,\"Connection interrupted\"]\n";
const STILL_OPEN: &str = "c[2010,\"Another connection still open\"]\n";
const GO_AWAY: &str = "c[3000,\"Go away!\"]\n";

async fn web_socket(server: &Server, path: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("ws://{}{path}", server.address);
    client_async(request.into_client_request().unwrap(), stream)
        .await
        .unwrap()
        .0
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Option<Message> {
    timeout(TIMEOUT, socket.next()).await.unwrap()?.ok()
}

async fn hear_text(socket: &mut WebSocketStream<TcpStream>) -> String {
    hear(socket).await.unwrap().into_text().unwrap().to_string()
}

#[tokio::test]
async fn only_one_receives() {
    let server = server(Does::Echo).await;
    let mut first = Stream::open(&server, "POST", "/echo/0/one/xhr_streaming").await;
    first.part().await.unwrap();
    assert_eq!(first.part().await.unwrap(), "o\n");
    assert_eq!(server.poll("one").await, STILL_OPEN);
    let mut second = Stream::open(&server, "POST", "/echo/0/one/xhr_streaming").await;
    second.part().await.unwrap();
    assert_eq!(second.part().await.unwrap(), STILL_OPEN);
    assert_eq!(second.part().await, None);
    // The first has not noticed.
    server.send("one", "[\"x\"]").await;
    assert_eq!(first.part().await.unwrap(), "a[\"x\"]\n");
}

#[tokio::test]
async fn breaking_off_ends_the_session() {
    let server = server(Does::Echo).await;
    for endpoint in ["xhr", "xhr_streaming"] {
        server.open(endpoint).await;
        let mut stream = Stream::connect(&server).await;
        let path = format!("/echo/0/{endpoint}/{endpoint}");
        stream.begin("POST", &path, &[], b"").await;
        server.until_received(endpoint).await;
        assert_eq!(server.poll(endpoint).await, STILL_OPEN);
        drop(stream);
        let ended = async { while server.poll(endpoint).await != INTERRUPTED {} };
        timeout(TIMEOUT, ended).await.unwrap();
        assert_eq!(server.poll(endpoint).await, INTERRUPTED);
        // What it still sends has nobody to hear it.
        server.send(endpoint, "[\"x\"]").await;
    }
}

#[tokio::test]
async fn a_close_is_said_until_it_is_forgotten() {
    let short = Duration::from_secs(2);
    let server = server_with(Does::Close, |options| options.disconnect_delay = short).await;
    server.open("closed").await;
    for _ in 0..3 {
        assert_eq!(server.poll("closed").await, GO_AWAY);
    }
    let mut stream = Stream::open(&server, "POST", "/echo/0/closed/xhr_streaming").await;
    stream.part().await.unwrap();
    assert_eq!(stream.part().await.unwrap(), GO_AWAY);
    assert_eq!(stream.part().await, None);
    until(|| server.sockjs.sessions().is_empty()).await;
    server.open("closed").await;
}

#[tokio::test]
async fn a_session_that_stays_away_is_forgotten() {
    let short = Duration::from_secs(1);
    let server = server_with(Does::Echo, |options| options.disconnect_delay = short).await;
    server.open("away").await;
    assert_eq!(server.sockjs.sessions().len(), 1);
    until(|| server.sockjs.sessions().is_empty()).await;
    let reply = server.post("/echo/0/away/xhr_send", "[\"x\"]").await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let short = Duration::from_millis(20);
    let server = server_with(Does::Echo, |options| options.heartbeat = short).await;
    server.open("beat").await;
    assert_eq!(server.poll("beat").await, "h\n");
    let mut stream = Stream::open(&server, "GET", "/echo/0/e/eventsource").await;
    stream.part().await.unwrap();
    assert_eq!(stream.part().await.unwrap(), "data: o\r\n\r\n");
    for _ in 0..3 {
        assert_eq!(stream.part().await.unwrap(), "data: h\r\n\r\n");
    }
    let mut socket = web_socket(&server, "/echo/0/0/websocket").await;
    assert_eq!(hear_text(&mut socket).await, "o");
    for _ in 0..3 {
        assert_eq!(hear_text(&mut socket).await, "h");
    }
}

#[tokio::test]
async fn one_address_has_only_so_many_sessions() {
    let server = server_with(Does::Close, |options| {
        options.max_sessions_per_address = 2;
        options.disconnect_delay = Duration::from_secs(2);
    })
    .await;
    server.open("a").await;
    server.open("b").await;
    let refused = server.post("/echo/0/c/xhr", "").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    until(|| server.sockjs.sessions().len() < 2).await;
    server.open("c").await;
}

#[tokio::test]
async fn a_forbidden_opening_is_told_so() {
    let server = server(Does::Refuse).await;
    let refused = server.post("/echo/0/a/xhr", "").await;
    assert_eq!((refused.status, &*refused.body), (503, "no room"));
    assert!(server.sockjs.sessions().is_empty());
    let evil = [("origin", "https://evil.example")];
    for path in ["xhr", "xhr_send", "xhr_streaming"] {
        let path = format!("/echo/0/a/{path}");
        let refused = ask(&server, "POST", &path, &evil, b"").await;
        assert_eq!((refused.status, &*refused.body), (403, "not you"));
    }
}

#[tokio::test]
async fn a_thousand_sessions_are_served() {
    let server = Arc::new(server(Does::Echo).await);
    let mut clients = JoinSet::new();
    for number in 0..1_000 {
        let server = Arc::clone(&server);
        clients.spawn(async move {
            let id = format!("s{number}");
            server.open(&id).await;
            server.send(&id, &format!("[\"{number}\"]")).await;
            assert_eq!(server.poll(&id).await, format!("a[\"{number}\"]\n"));
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(server.sockjs.sessions().len(), 1_000);
}

#[tokio::test]
async fn a_web_socket_carries_frames() {
    let server = server(Does::Echo).await;
    let mut socket = web_socket(&server, "/echo/0/same/websocket").await;
    // Two sessions of one name are two.
    let mut other = web_socket(&server, "/echo/0/same/websocket").await;
    for socket in [&mut socket, &mut other] {
        assert_eq!(hear_text(socket).await, "o");
    }
    for ignored in ["", "[]"] {
        socket.send(Message::text(ignored)).await.unwrap();
    }
    socket
        .send(Message::text("[\"a\",\"\\u00e4\"]"))
        .await
        .unwrap();
    assert_eq!(hear_text(&mut socket).await, "a[\"a\"]");
    assert_eq!(hear_text(&mut socket).await, "a[\"ä\"]");
    socket.send(Message::text("\"b\"")).await.unwrap();
    assert_eq!(hear_text(&mut socket).await, "a[\"b\"]");
    // Cut off without a word, and without a close frame.
    socket.send(Message::text("[\"a")).await.unwrap();
    assert_eq!(hear(&mut socket).await, None);
    other.send(Message::text("[\"c\"]")).await.unwrap();
    assert_eq!(hear_text(&mut other).await, "a[\"c\"]");
    // It is no session over HTTP.
    assert!(server.sockjs.sessions().is_empty());
}

#[tokio::test]
async fn a_web_socket_is_closed_by_a_frame_and_a_code() {
    let server = server(Does::Close).await;
    let mut socket = web_socket(&server, "/echo/0/0/websocket").await;
    assert_eq!(hear_text(&mut socket).await, "o");
    assert_eq!(hear_text(&mut socket).await, GO_AWAY.trim_end());
    let Some(Message::Close(Some(frame))) = hear(&mut socket).await else {
        panic!("no close frame");
    };
    assert_eq!((u16::from(frame.code), &*frame.reason), (3000, "Go away!"));
    let mut raw = web_socket(&server, "/echo/websocket").await;
    let Some(Message::Close(Some(frame))) = hear(&mut raw).await else {
        panic!("no close frame");
    };
    assert_eq!((u16::from(frame.code), &*frame.reason), (3000, "Go away!"));
}

#[tokio::test]
async fn a_raw_web_socket_has_no_frames() {
    let server = server(Does::Echo).await;
    let mut raw = web_socket(&server, "/echo/websocket").await;
    for message in [
        Message::text("Hello world!\u{ffff}"),
        Message::binary(vec![0, 255]),
        Message::text("[\"a"),
    ] {
        raw.send(message.clone()).await.unwrap();
        assert_eq!(hear(&mut raw).await, Some(message));
    }
}

#[tokio::test]
async fn a_web_socket_is_held_to_the_longest_message() {
    let server = server(Does::Echo).await;
    let (most, over) = ("x".repeat(16 * 1024), "x".repeat(16 * 1024 + 1));
    let mut raw = web_socket(&server, "/echo/websocket").await;
    for message in [&most, &over] {
        raw.send(Message::text(message)).await.unwrap();
    }
    assert_eq!(hear_text(&mut raw).await, most);
    assert!(matches!(
        hear(&mut raw).await,
        Some(Message::Close(Some(_)))
    ));
    assert_eq!(hear(&mut raw).await, None);
}

#[tokio::test]
async fn a_web_socket_can_be_asked_if_its_client_lives() {
    let server = server(Does::Ask).await;
    let mut raw = web_socket(&server, "/echo/websocket").await;
    assert_eq!(hear(&mut raw).await, Some(Message::Ping(Vec::new().into())));
    assert_eq!(hear_text(&mut raw).await, "alive");
    let mut framed = web_socket(&server, "/echo/0/0/websocket").await;
    assert_eq!(hear_text(&mut framed).await, "o");
    assert_eq!(
        hear(&mut framed).await,
        Some(Message::Ping(Vec::new().into()))
    );
    assert_eq!(hear_text(&mut framed).await, "a[\"alive\"]");
}

/// The same frame either way: at once with a body that waits, or whole, and its length is known.
#[tokio::test]
async fn a_server_may_wait_for_frames_itself() {
    let sockjs = SockJs::new(Options::at("/echo"));
    let application = Arc::new(Service {
        does: Does::Echo,
        max_message_size: 1024,
        budget: None,
    });
    let caller = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let request = |path| Request::post(path).body(Empty::<Bytes>::new()).unwrap();

    let poll = request("/echo/000/a/xhr");
    let begun = sockjs.begin_with::<HyperSocket, _, _>(&application, poll, caller);
    let mut body = begun.await.into_body();
    assert!(body.is_lasting() && body.size_hint().exact().is_none());
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "o\n");
    assert!(body.is_end_stream());

    let poll = request("/echo/000/b/xhr");
    let whole = sockjs.answer(&application, poll, caller).await.into_body();
    assert!(!whole.is_lasting());
    assert_eq!(whole.size_hint().exact(), Some(2));
    let streaming = request("/echo/000/c/xhr_streaming");
    let stream = sockjs.answer(&application, streaming, caller).await;
    assert!(stream.body().is_lasting());
    // A page has its body at once.
    let info = Request::get("/echo/info")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let info = sockjs.begin_with::<HyperSocket, _, _>(&application, info, caller);
    assert!(!info.await.body().is_lasting());
}
