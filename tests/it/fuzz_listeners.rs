//! Any bytes on any port: nothing panics, no place is held for good, and everybody else is served.
//!
//! The seed is in the environment, or new, and is shown. `FUZZ_SECONDS` makes it last:
//! `./scripts/soak.sh listeners` runs it for ten minutes.

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use testkit::{Authority, DEADLINE, Gateway, Hook, Login, StompClient, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::house::{PASSCODE, stentor};

/// The beginnings of what clients say. Bytes of them are changed, doubled, left out and mixed.
const CORPUS: &[&[u8]] = &[
    b"CONNECT\naccept-version:1.2\nhost:/\nlogin:a\npasscode:b\n\n\0",
    b"STOMP\naccept-version:1.0,1.1,1.2\nheart-beat:100,100\n\n\0\n\n",
    b"CONNECT\ncontent-length:99999999999999999999\n\n\0",
    b"SEND\ndestination:/exchange/feed/a\ncontent-length:5\n\n\0\0\0\0\0\0",
    b"SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client\n\n\0",
    b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
      sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
      \x81\x85\0\0\0\0CONNE\x89\x80\0\0\0\0\x82\xfe\x01\0\0\0\0\0",
    b"GET /stomp/000/a/websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
      upgrade: websocket\r\nsec-websocket-version: 13\r\n\
      sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x84\0\0\0\0[\"a\"",
    b"POST /stomp/000/a/xhr HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST /stomp/000/a/xhr_send HTTP/1.1\r\nhost: a\r\ncontent-length: 16\r\n\r\n[\"CONNECT\\n\\n\\u0000\"]",
    b"POST /stomp/000/a/xhr_streaming HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    b"GET /stomp/000/b/htmlfile?c=callback HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /stomp/000/c/jsonp?c=%63allback HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /stomp/000/c/jsonp_send HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\n\
      host: a\r\ncontent-length: 8\r\n\r\nd=%5B%5D",
    b"GET /stomp/info HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4, ,[::1]:5\r\n\r\n",
    b"GET /stomp/iframe.html HTTP/1.1\r\nhost: a\r\nif-none-match: \"x\"\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET metrics HTTP/1.1\r\nhost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://127.0.0.1/readyz?%zz HTTP/1.1\r\nhost: [::1\r\n\r\n",
    b"GET /api/v1/users/%ff%00/ HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer x\r\n\r\n",
    b"POST /api/v1/publish HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
      authorization: Bearer testkit-0123456789abcdef\r\ncontent-length: 40\r\n\r\n\
      {\"exchange\":\"feed\",\"keys\":[\"a\"],\"body\":1}",
    b"POST /api/v1/presence HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
      authorization: Bearer testkit-0123456789abcdef\r\ncontent-length: 15\r\n\r\n{\"users\":[\"a\"]}",
    b"GET /metrics HTTP/1.0\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n",
    b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\x12\x67\x01\xbb",
    b"\x16\x03\x01\0\x2f\x01\0\0\x2b\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0\0\x04\x13\x01\x13\x02\x01\0\0\0",
];

/// Parts that many grammars have something to say about.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\r\n\r\n",
    b"\n\n",
    b"\xff\xff\xff\xff",
    b"%00",
    b"99999999999999999999",
    b"-1",
    b"content-length: 4294967296\r\n",
    b"transfer-encoding: chunked\r\n",
    b"\xc3\x28",
    b"\\c",
    b":",
    b"expect: 100-continue\r\n",
    b"\x88\x02\x03\xe8",
    b"[\"\\ud800\"]",
];

fn bytes(rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng, from: &[&[u8]]| from[rng.random_range(0..from.len())].to_vec();
    let mut bytes = pick(rng, CORPUS);
    while rng.random_bool(0.4) {
        bytes.extend(pick(rng, CORPUS));
    }
    for _ in 0..rng.random_range(0..8) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        let end = (at + rng.random_range(1..16)).min(bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            3 => {
                let word = pick(rng, WORDS);
                drop(bytes.splice(at..at, word));
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// One connection: bytes in parts, and perhaps the answers. It ends by itself, or is held.
async fn talk(address: String, mut rng: StdRng) {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return;
    };
    let bytes = bytes(&mut rng);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rng.random_range(1..=rest.len()));
        rest = more;
        if stream.write_all(part).await.is_err() {
            return;
        }
        if rng.random_bool(0.3) {
            tokio::task::yield_now().await;
        }
    }
    let patience = Duration::from_millis(rng.random_range(0..300));
    let mut answer = [0; 4096];
    while let Ok(Ok(1..)) = timeout(patience, stream.read(&mut answer)).await {}
}

fn seconds() -> Option<u64> {
    env::var("FUZZ_SECONDS").ok()?.parse().ok()
}

fn seed() -> u64 {
    let given = env::var("FUZZ_SEED").ok();
    given.map_or_else(
        || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            now.as_secs()
        },
        |seed| seed.parse().unwrap(),
    )
}

async fn fuzz(seed: u64, duration: Duration, proxied: bool) {
    println!("FUZZ_SEED={seed}, PROXY headers: {proxied}");
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    authority.serve_from(folder.path(), "first");
    let hook = Hook::start().await;
    let gateway: Gateway = stentor()
        .hook(&hook)
        .tls(folder.path())
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=direct")
        .set("listen.handshake_timeout", "1s")
        .set("auth.request_timeout", "500ms")
        .set("limits.login_timeout", "1s")
        .set("limits.failed_login_delay", "100ms")
        .set("listen.max_unauthenticated", "200")
        .set("listen.proxy_protocol", proxied)
        .set(
            "listen.trusted_proxies",
            if proxied { "127.0.0.2" } else { "127.0.0.1" },
        )
        .ready()
        .await;
    let addresses = gateway.addresses().clone();
    let ports: Vec<String> = [
        addresses.http,
        addresses.https,
        addresses.stomp,
        addresses.stomps,
        addresses.admin,
    ]
    .into_iter()
    .flatten()
    .collect();
    assert_eq!(ports.len(), 5);
    let mut honest = StompClient::tcp(gateway.stomp_address()).await;
    honest.connect(&Login::new("alice", PASSCODE, "/")).await;

    let mut rng = StdRng::seed_from_u64(seed);
    let (begun, mut count) = (Instant::now(), 0_u32);
    let mut talks = JoinSet::new();
    while begun.elapsed() < duration {
        while talks.len() < 64 {
            let port = ports[rng.random_range(0..ports.len())].clone();
            talks.spawn(talk(port, StdRng::seed_from_u64(rng.random())));
            count += 1;
        }
        talks.join_next().await;
        if count.is_multiple_of(1_000) {
            assert_eq!(gateway.admin("/readyz").await.0, 200);
        }
    }
    while talks.join_next().await.is_some() {}
    println!("{count} connections in {:?}", begun.elapsed());

    honest.subscribe("1", "/exchange/feed/user_alice").await;
    assert_eq!(gateway.admin("/readyz").await.0, 200);
    eventually(2 * DEADLINE, "no place is held", async || {
        let (_, metrics) = gateway.admin("/metrics").await;
        metrics.contains("\nstentor_unauthenticated 0\n")
    })
    .await;
    let log = gateway.log().text();
    assert!(!log.contains("panicked"), "{log}");
    assert!(gateway.process().exit_status().is_none());
}

#[tokio::test]
async fn any_bytes_on_any_port() {
    for (seed, proxied) in [(15, false), (16, true)] {
        fuzz(seed, Duration::from_secs(3), proxied).await;
    }
}

#[tokio::test]
#[ignore = "as long as somebody has patience: ./scripts/soak.sh listeners"]
async fn any_bytes_on_any_port_for_long() {
    let each = Duration::from_secs(seconds().unwrap_or(600) / 2);
    let seed = seed();
    for (seed, proxied) in [(seed, false), (seed + 1, true)] {
        fuzz(seed, each, proxied).await;
    }
}
