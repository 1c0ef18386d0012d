//! A foreign client (tokio-rustls) at the other end, on sockets that take little at a time.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use rustls::version::{TLS12, TLS13};
use testkit::Authority;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);

type Client = tokio_rustls::client::TlsStream<TcpStream>;

/// Both ends of a connection, after the handshake.
async fn ends(
    version: &'static rustls::SupportedProtocolVersion,
) -> (TlsStream<TcpStream>, Client) {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        TlsStream::accept(stream, authority.server()).await.unwrap()
    };
    let client = authority.client().version(version);
    let (stream, client) = tokio::join!(accepting, client.connect(&address));
    (stream, client.unwrap())
}

/// The buffers that a connection keeps for itself, in bytes.
fn kept<S>(stream: &TlsStream<S>) -> usize {
    let inner = &stream.0;
    inner.incoming.capacity() + inner.text.capacity() + inner.outgoing.capacity()
}

/// More than a record, and no two places alike.
fn text(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 251 + at) as u8).collect()
}

#[tokio::test]
async fn an_idle_connection_keeps_no_buffer() {
    for version in [&TLS12, &TLS13] {
        let (mut stream, mut client) = ends(version).await;
        let exchange = async {
            for size in [1, 300, 40_000] {
                let sent = text(size);
                let mut got = vec![0; size];
                let (written, read) =
                    tokio::join!(client.write_all(&sent), stream.read_exact(&mut got));
                assert!(written.is_ok() && read.unwrap() == size && got == sent);
                let (written, read) = tokio::join!(
                    async {
                        stream.write_all(&sent).await?;
                        stream.flush().await
                    },
                    client.read_exact(&mut got)
                );
                assert!(written.is_ok() && read.unwrap() == size && got == sent);
            }
            assert_eq!(kept(&stream), 0);
        };
        timeout(TIMEOUT, exchange).await.unwrap();
    }
}

/// A few bytes at a time: the rest of a record waits, and is given out before the socket is read.
#[tokio::test]
async fn text_that_is_taken_slowly_is_kept() {
    let (mut stream, mut client) = ends(&TLS13).await;
    let sent = text(50_000);
    let reading = async {
        let mut got = Vec::new();
        let mut some = [0; 777];
        while got.len() < sent.len() {
            let count = stream.read(&mut some).await.unwrap();
            assert!(count > 0);
            got.extend_from_slice(&some[..count]);
        }
        got
    };
    let (written, got) = tokio::join!(client.write_all(&sent), timeout(TIMEOUT, reading));
    written.unwrap();
    assert!(got.unwrap() == sent);
    assert_eq!(kept(&stream), 0);
}

/// A client that does not read is waited for, with a record at most in hand.
#[tokio::test]
async fn a_slow_client_is_waited_for() {
    let (mut stream, mut client) = ends(&TLS13).await;
    let sent = text(200_000);
    let mut total = 0;
    while let Some(count) = stream.write(&sent).now_or_never() {
        total += count.unwrap();
    }
    assert!(total > 0 && kept(&stream) <= RECORD + OVERHEAD);
    let (flushed, ()) = tokio::join!(stream.flush(), async {
        let mut left = total;
        let mut some = vec![0; 64 * 1024];
        while left > 0 {
            left -= client.read(&mut some).await.unwrap();
        }
    });
    flushed.unwrap();
    assert_eq!(kept(&stream), 0);
}

/// Both know that all was said; who is cut off knows that, too.
#[tokio::test]
async fn an_end_is_told_from_a_cut() {
    for version in [&TLS12, &TLS13] {
        let (mut stream, mut client) = ends(version).await;
        let mut rest = Vec::new();
        client.shutdown().await.unwrap();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
        // The other direction is still open.
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(client.read_to_end(&mut rest).await.unwrap(), 10);

        let (mut stream, client) = ends(version).await;
        let (mut socket, _) = client.into_inner();
        socket.shutdown().await.unwrap();
        let error = stream.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn new_keys_are_taken_and_given() {
    let (mut stream, mut client) = ends(&TLS13).await;
    for _ in 0..3 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(b"there").await.unwrap();
        stream.flush().await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"there");
    }
    assert_eq!(kept(&stream), 0);
}

/// Not TLS; and TLS that breaks off, which a time-out would have to end.
#[tokio::test]
async fn a_handshake_that_fails_is_told() {
    let config = Authority::new().server();
    for (said, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], ErrorKind::InvalidData),
        (b"\x16\x03\x01", ErrorKind::UnexpectedEof),
    ] {
        let (stream, mut client) = tokio::io::duplex(1024);
        let (failed, answer) =
            tokio::join!(TlsStream::accept(stream, Arc::clone(&config)), async {
                client.write_all(said).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            });
        assert_eq!(failed.err().unwrap().kind(), expected);
        // An alert, where there is something to tell.
        assert_eq!(
            answer.first(),
            (expected == ErrorKind::InvalidData).then_some(&0x15)
        );
    }
}

/// A record that is longer than one may be.
#[tokio::test]
async fn a_client_that_breaks_the_rules_is_told() {
    let (mut stream, client) = ends(&TLS13).await;
    let (mut socket, _) = client.into_inner();
    let mut bytes = vec![0x17, 3, 3, 0xff, 0xff];
    bytes.resize(4 * READ, 7);
    let (_, read) = tokio::join!(socket.write_all(&bytes), async {
        let mut some = [0; 100];
        let read = stream.read(&mut some).await;
        assert!(kept(&stream) <= 2 * READ);
        read
    });
    assert_eq!(read.unwrap_err().kind(), ErrorKind::InvalidData);
}

/// What rustls holds beside the stream is visible, and intended.
#[tokio::test]
async fn the_memory_of_tls() {
    let size = size_of::<Inner<TcpStream>>();
    println!("TLS: {size}");
    assert!(size <= 1280, "{size}");
    assert_eq!(size_of::<TlsStream<TcpStream>>(), size_of::<usize>());
}
