use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::WebSocketStream;

use stomp_session::CloseCode;

use super::*;
use crate::connection;

const LIMIT: usize = 1000;

type Client<S> = WebSocketStream<S>;

async fn pair(buffer: usize) -> (Client<DuplexStream>, WebSocketLink<DuplexStream>) {
    let (client, server) = duplex(buffer);
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (client, WebSocketLink::new(server, Bytes::new(), LIMIT))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// The next message: as a connection does it, which has room for all of it.
async fn receive<S: Stream>(link: &mut WebSocketLink<S>) -> Result<Option<Bytes>, ChannelError> {
    let receiving = poll_fn(|context| {
        loop {
            let was_large = connection::Link::unfinished(link).is_large();
            if was_large {
                link.go_on();
            }
            let received = link.poll_receive(context);
            let is_told = link.bytes_read() >= Some(MOST_UNTOLD.into());
            match &received {
                Poll::Ready(Ok(Some(bytes))) if bytes.is_empty() && is_told => {}
                Poll::Pending if !was_large && connection::Link::unfinished(link).is_large() => {}
                _ => return received,
            }
        }
    });
    timeout(Duration::from_secs(30), receiving).await.unwrap()
}

async fn flush<S: Stream>(link: &mut WebSocketLink<S>) {
    poll_fn(|context| link.poll_flush(context)).await.unwrap();
}

async fn close<S: Stream>(link: &mut WebSocketLink<S>, code: CloseCode) {
    let closing = poll_fn(|context| link.poll_close(context, code.code(), code.reason()));
    timeout(Duration::from_secs(30), closing).await.unwrap();
}

async fn next<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>) -> Message {
    let message = timeout(Duration::from_secs(30), client.next());
    message.await.unwrap().unwrap().unwrap()
}

async fn answer(
    client: &mut Client<DuplexStream>,
    link: &mut WebSocketLink<DuplexStream>,
    frame: &[u8],
) -> Message {
    link.send(Payload::whole(frame));
    let (message, ()) = tokio::join!(next(client), flush(link));
    message
}

#[tokio::test]
async fn a_client_is_answered_in_kind() {
    let (mut client, mut link) = pair(1 << 20).await;
    // Before it said anything, it is taken for a browser.
    let text = answer(&mut client, &mut link, b"hello\0").await;
    assert_eq!(text, Message::text("hello\0"));
    client.send(Message::binary(&b"one\0"[..])).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "one\0");
    let binary = answer(&mut client, &mut link, b"hello\0").await;
    assert_eq!(binary, Message::binary(&b"hello\0"[..]));
    // stomp.js sends its heart-beats as text, also where its frames are binary.
    client.send(Message::text("\n")).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "\n");
    let binary = answer(&mut client, &mut link, b"hello\0").await;
    assert_eq!(binary, Message::binary(&b"hello\0"[..]));
    client.send(Message::text("two\0")).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "two\0");
    let text = answer(&mut client, &mut link, "gr\u{fc}n\0".as_bytes()).await;
    assert_eq!(text, Message::text("gr\u{fc}n\0"));
    client.send(Message::binary(&b"\r\n"[..])).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "\r\n");
    let text = answer(&mut client, &mut link, b"hello\0").await;
    assert_eq!(text, Message::text("hello\0"));
    // What is no text cannot be sent as such: a browser would hang up.
    let binary = answer(&mut client, &mut link, b"\xff\0").await;
    assert_eq!(binary, Message::binary(&b"\xff\0"[..]));
}

/// The lengths at which the head of a frame changes its form.
#[tokio::test]
async fn frames_of_all_lengths_arrive() {
    let (mut client, mut link) = pair(1 << 20).await;
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
        let frame = vec![b'x'; length];
        let message = answer(&mut client, &mut link, &frame).await;
        assert_eq!(message.into_data(), frame);
        assert_eq!(link.pending(), 0);
        assert_eq!(link.out.capacity(), 0, "idle, it holds nothing");
    }
}

#[tokio::test]
async fn messages_may_come_in_pieces_and_bytes_one_by_one() {
    let (mut client, mut link) = pair(1).await;
    let sending = tokio::spawn(async move {
        let pieces = ["SEND\nd", "estination:/to", "pic/a\n\nx\0"];
        for (index, piece) in pieces.into_iter().enumerate() {
            let data = if index == 0 {
                coding::Data::Text
            } else {
                coding::Data::Continue
            };
            let is_last = index + 1 == pieces.len();
            let opcode = coding::OpCode::Data(data);
            let frame = tokio_tungstenite::tungstenite::protocol::frame::Frame::message(
                piece, opcode, is_last,
            );
            client.send(Message::Frame(frame)).await.unwrap();
            // Controls may come between.
            client.send(Message::Ping(Bytes::new())).await.unwrap();
        }
        client.send(Message::text("\n")).await.unwrap();
        client
    });
    let receiving = tokio::spawn(async move {
        let got = receive(&mut link).await.unwrap().unwrap();
        assert_eq!(got, "SEND\ndestination:/topic/a\n\nx\0");
        assert_eq!(receive(&mut link).await.unwrap().unwrap(), "\n");
        assert_eq!(receive(&mut link).await.unwrap(), None);
    });
    let mut client = timeout(Duration::from_secs(30), sending)
        .await
        .unwrap()
        .unwrap();
    for _ in 0..3 {
        assert!(next(&mut client).await.is_pong());
    }
    client.close(None).await.unwrap();
    receiving.await.unwrap();
}

/// What came with the upgrade's request is not lost.
#[tokio::test]
async fn what_came_early_counts() {
    let (client, server) = duplex(1 << 20);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    client.send(Message::text("early")).await.unwrap();
    let mut server = server;
    let mut early = [0; 4];
    server.read_exact(&mut early).await.unwrap();
    let mut link = WebSocketLink::new(server, Bytes::copy_from_slice(&early), LIMIT);
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "early");
}

#[tokio::test]
async fn pings_are_answered_while_nothing_else_happens() {
    let (mut client, mut link) = pair(1 << 20).await;
    client.send(Message::Ping("are you".into())).await.unwrap();
    let receiving = tokio::spawn(async move { receive(&mut link).await });
    assert_eq!(next(&mut client).await, Message::Pong("are you".into()));
    assert!(!receiving.is_finished());
}

/// Nor do they come in the middle of a frame, however the client reads.
#[tokio::test]
async fn pings_are_answered_between_frames() {
    let (mut client, mut link) = pair(64).await;
    let frame = vec![b'x'; 10_000];
    link.send(Payload::whole(&frame));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(link.poll_flush(&mut context).is_pending());
    client.send(Message::Ping("now".into())).await.unwrap();
    assert!(link.poll_receive(&mut context).is_pending());
    let (first, ()) = tokio::join!(next(&mut client), flush(&mut link));
    assert_eq!(first.into_data(), frame);
    assert!(link.poll_receive(&mut context).is_pending());
    assert_eq!(next(&mut client).await, Message::Pong("now".into()));
}

/// A client that pings and does not read the answers is not answered without end.
#[tokio::test]
async fn answers_to_pings_do_not_pile_up() {
    let (client, server) = duplex(256);
    let (read, write) = tokio::io::split(client);
    let stream = tokio::io::join(tokio::io::empty(), write);
    let mut client = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    let mut link = WebSocketLink::new(server, Bytes::new(), LIMIT);
    let flood = tokio::spawn(async move {
        loop {
            let ping = Message::Ping(vec![0; 125].into());
            if client.send(ping).await.is_err() {
                return;
            }
        }
    });
    let wait = timeout(Duration::from_millis(200), receive(&mut link));
    assert!(wait.await.is_err());
    assert!(link.pending() < 2 * MOST_ANSWERS, "{}", link.pending());
    flood.abort();
    drop(read);
}

/// A stream that counts, with these bytes on their way to the link.
async fn flooded(bytes: &[u8]) -> (DuplexStream, WebSocketLink<Counting<DuplexStream>>) {
    let (mut client, server) = duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    let server = Counting(server, Arc::default());
    (client, WebSocketLink::new(server, Bytes::new(), LIMIT))
}

/// How often the link says that something came, until nothing more does, and how many bytes.
fn told<S: Stream>(link: &mut WebSocketLink<S>) -> (usize, usize) {
    let mut context = Context::from_waker(std::task::Waker::noop());
    let (mut times, mut bytes) = (0, 0);
    while let Poll::Ready(told) = link.poll_receive(&mut context) {
        assert_eq!(told.unwrap().unwrap(), "");
        let read = link.bytes_read().unwrap();
        assert!(read < 2 * READ_SIZE, "{read}");
        (times, bytes) = (times + 1, bytes + read);
    }
    (times, bytes + link.bytes_read().unwrap())
}

const EMPTY_PING: &[u8] = b"\x89\x80\0\0\0\0";

/// Pings are a client's cheapest frames: they count, and their answers go together.
#[tokio::test]
async fn many_pings_are_counted_and_answered_in_one_write() {
    let (mut client, mut link) = flooded(&EMPTY_PING.repeat(2_000)).await;
    let told = told(&mut link);
    let operations = link.stream.1.load(Ordering::Relaxed);
    assert_eq!((operations, told), (2, (1, 12_000)), "reads and writes");
    let mut answers = [0; 4_000];
    client.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers[..], b"\x8a\0".repeat(2_000));
}

/// Some pings are no reason to wake anybody.
#[tokio::test]
async fn few_pings_are_told_with_what_comes_next() {
    let (_client, mut link) = flooded(&EMPTY_PING.repeat(10)).await;
    assert_eq!(told(&mut link), (0, 60));
}

/// A message that never ends, in pieces without bytes.
#[tokio::test]
async fn empty_pieces_are_counted() {
    let pieces = b"\0\x80\0\0\0\0".repeat(20_000);
    let bytes = [b"\x01\x81\0\0\0\0x", &pieces[..]].concat();
    let (_client, mut link) = flooded(&bytes).await;
    link.go_on();
    let (times, read) = told(&mut link);
    assert_eq!(read, bytes.len());
    assert!(times >= read / (2 * READ_SIZE), "{times}");
}

#[tokio::test]
async fn answers_keep_their_order() {
    let (mut client, mut link) = pair(1 << 20).await;
    let payload = |number| Bytes::from(format!("{number:0125}"));
    for number in 0..300 {
        client.feed(Message::Ping(payload(number))).await.unwrap();
        if number % 100 == 50 {
            client.feed(Message::text("between")).await.unwrap();
        }
    }
    client.flush().await.unwrap();
    for _ in 0..3 {
        assert_eq!(receive(&mut link).await.unwrap().unwrap(), "between");
    }
    let serving = tokio::spawn(async move { receive(&mut link).await });
    for number in 0..300 {
        assert_eq!(next(&mut client).await, Message::Pong(payload(number)));
    }
    client.close(None).await.unwrap();
    let end = timeout(Duration::from_secs(30), serving).await;
    assert_eq!(end.unwrap().unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_client_is_asked_whether_it_lives() {
    let (mut client, mut link) = pair(1 << 20).await;
    // A pong that nobody asked for is no answer.
    client.send(Message::Pong("hello".into())).await.unwrap();
    client.send(Message::text("first")).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "first");
    assert!(!link.was_answered());

    link.send(Payload::whole(b"before\0"));
    link.ping();
    link.send(Payload::whole(b"after\0"));
    flush(&mut link).await;
    assert_eq!(next(&mut client).await, Message::text("before\0"));
    // tungstenite answers by itself, with what it says next.
    assert_eq!(next(&mut client).await, Message::Ping(Bytes::new()));
    assert_eq!(next(&mut client).await, Message::text("after\0"));
    assert!(!link.was_answered());
    client.send(Message::text("later")).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "");
    assert!(link.was_answered());
    assert!(!link.was_answered());
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), "later");
}

#[tokio::test]
async fn the_client_closes() {
    let (mut client, mut link) = pair(1 << 20).await;
    let frame = CloseFrame {
        code: coding::CloseCode::Normal,
        reason: "enough".into(),
    };
    client.close(Some(frame)).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap(), None);
    // Nothing is said after it.
    link.send(Payload::whole(b"too late"));
    assert_eq!(link.pending(), 0);
    flush(&mut link).await;
    let Message::Close(Some(frame)) = next(&mut client).await else {
        panic!("no close frame");
    };
    assert_eq!(frame.code, coding::CloseCode::Normal);
    let closing = tokio::spawn(async move { close(&mut link, CloseCode::Normal).await });
    assert!(client.next().await.is_none());
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn the_server_closes_with_code_and_reason() {
    for code in [
        CloseCode::Normal,
        CloseCode::Protocol,
        CloseCode::NotUtf8,
        CloseCode::Policy,
        CloseCode::TooBig,
        CloseCode::Internal,
        CloseCode::Restart,
        CloseCode::TryAgainLater,
    ] {
        // Also where not even the close frame goes out at once.
        let (mut client, mut link) = pair(3).await;
        link.send(Payload::whole(b"last words\0"));
        let serving = tokio::spawn(async move {
            flush(&mut link).await;
            close(&mut link, code).await;
        });
        assert_eq!(next(&mut client).await, Message::text("last words\0"));
        let Message::Close(Some(frame)) = next(&mut client).await else {
            panic!("no close frame");
        };
        assert_eq!(u16::from(frame.code), code.code());
        assert_eq!(frame.reason.as_str(), code.reason());
        // tungstenite answers, and waits for the end.
        assert!(client.next().await.is_none());
        drop(client);
        serving.await.unwrap();
    }
}

/// What the client still says is read and dropped.
#[tokio::test]
async fn closing_waits_for_the_client() {
    let (mut client, mut link) = pair(1 << 20).await;
    for _ in 0..100 {
        client.send(Message::text("still talking")).await.unwrap();
    }
    let serving = tokio::spawn(async move { close(&mut link, CloseCode::Policy).await });
    let Message::Close(Some(_)) = next(&mut client).await else {
        panic!("no close frame");
    };
    client.flush().await.unwrap();
    drop(client);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_is_an_error() {
    let (client, mut link) = pair(1 << 20).await;
    drop(client);
    let error = receive(&mut link).await.unwrap_err();
    assert!(matches!(error, ChannelError::Io(_)), "{error}");
    close(&mut link, CloseCode::Normal).await;
}

/// Though it can be told nothing more.
#[tokio::test]
async fn what_came_before_the_link_broke_is_handed_over() {
    let (mut client, mut link) = pair(10_000).await;
    for text in ["first", "second"] {
        client.send(Message::text(text)).await.unwrap();
    }
    drop(client);
    link.send(Payload::whole(b"an answer"));
    let flushed = poll_fn(|context| link.poll_flush(context)).await;
    assert!(flushed.is_err());
    for text in ["first", "second"] {
        assert_eq!(receive(&mut link).await.unwrap().unwrap(), text);
    }
    assert!(!matches!(receive(&mut link).await, Ok(Some(_))));
}

/// Also what stands behind a ping that nobody can answer, and what comes before its room is asked for.
#[tokio::test]
async fn all_that_came_before_the_link_broke_is_handed_over() {
    let (mut client, mut link) = pair(1 << 20).await;
    let long = "x".repeat(LIMIT + MESSAGE_SLACK - 84);
    let texts = ["first", long.as_str(), "last"];
    for text in texts {
        client.send(Message::Ping(Bytes::new())).await.unwrap();
        client.send(Message::text(text)).await.unwrap();
    }
    drop(client);
    link.send(Payload::whole(&[b'x'; MOST_ANSWERS]));
    let flushed = poll_fn(|context| link.poll_flush(context)).await;
    assert!(flushed.is_err());
    for text in texts {
        assert_eq!(receive(&mut link).await.unwrap().unwrap(), text);
    }
    assert!(!matches!(receive(&mut link).await, Ok(Some(_))));
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_told_so() {
    // A frame that is not masked; one with a reserved bit; a text that is none.
    for bytes in [
        &b"\x81\x01x"[..],
        &b"\xc1\x81\0\0\0\0x"[..],
        &b"\x81\x81\0\0\0\0\xff"[..],
    ] {
        let (mut client, server) = duplex(1 << 20);
        let mut link = WebSocketLink::new(server, Bytes::new(), LIMIT);
        client.write_all(bytes).await.unwrap();
        let error = receive(&mut link).await.unwrap_err();
        match bytes.ends_with(b"\xff") {
            true => assert!(matches!(error, ChannelError::NotUtf8), "{error}"),
            false => assert!(matches!(error, ChannelError::Violation(_)), "{error}"),
        }
        // Nothing more is read.
        assert!(receive(&mut link).await.unwrap().is_none());
        let serving = tokio::spawn(async move { close(&mut link, CloseCode::Protocol).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let Message::Close(Some(frame)) = next(&mut client).await else {
            panic!("no close frame");
        };
        assert_eq!(frame.code, coding::CloseCode::Protocol);
        drop(client);
        serving.await.unwrap();
    }
}

/// Also where much of the message comes at a time, and the stream has no room for all of it.
#[tokio::test]
async fn a_close_in_the_middle_of_a_message_reads_it_to_its_end() {
    // The first is one that the link takes in while it closes; the other was begun before.
    for (length, is_begun) in [(16_000_u64, false), (100_000, true)] {
        let (mut client, server) = duplex(6_000);
        let mut link = WebSocketLink::new(server, Bytes::new(), 100_000);
        let mut sent = b"\x82\xff".to_vec();
        sent.extend(length.to_be_bytes());
        sent.extend([0; 4]);
        sent.extend(vec![b'x'; usize::try_from(length).unwrap()]);
        sent.extend(b"\x88\x82\0\0\0\0\x03\xe8");
        let talking = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            let mut told = Vec::new();
            client.read_to_end(&mut told).await.unwrap();
            told
        });
        if is_begun {
            let told = poll_fn(|context| link.poll_receive(context));
            let told = timeout(Duration::from_secs(30), told).await.unwrap();
            assert_eq!(told.unwrap().unwrap(), "", "a part of a message");
        }
        close(&mut link, CloseCode::Restart).await;
        let told = talking.await.unwrap();
        assert_eq!(told[0], 0x88, "a close frame");
        assert_eq!(told[2..4], 1012_u16.to_be_bytes());
    }
}

/// On real sockets, with most of the message never read.
#[tokio::test]
async fn a_message_that_is_too_large_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for in_pieces in [false, true] {
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let serving = tokio::spawn(async move {
            let mut link = WebSocketLink::new(server, Bytes::new(), LIMIT);
            let error = receive(&mut link).await.unwrap_err();
            assert!(matches!(error, ChannelError::TooLong { limit: LIMIT }));
            assert!(receive(&mut link).await.unwrap().is_none());
            link.send(Payload::whole(b"ERROR\0"));
            flush(&mut link).await;
            close(&mut link, CloseCode::TooBig).await;
        });
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let (mut sink, mut stream) = client.split();
        let sending = tokio::spawn(async move {
            let _ = if in_pieces {
                let mut outcome = Ok(());
                for index in 0..100 {
                    let data = if index == 0 {
                        coding::Data::Text
                    } else {
                        coding::Data::Continue
                    };
                    let frame = tokio_tungstenite::tungstenite::protocol::frame::Frame::message(
                        vec![b'x'; 1000],
                        coding::OpCode::Data(data),
                        false,
                    );
                    outcome = outcome.and(sink.send(Message::Frame(frame)).await);
                }
                outcome
            } else {
                sink.send(Message::text("x".repeat(1 << 20))).await
            };
        });
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message, Message::text("ERROR\0"));
        let Message::Close(Some(frame)) = stream.next().await.unwrap().unwrap() else {
            panic!("no close frame");
        };
        assert_eq!(u16::from(frame.code), 1009);
        sending.await.unwrap();
        drop(stream);
        timeout(Duration::from_secs(30), serving)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_message_may_be_larger_after_the_login() {
    let (mut client, mut link) = pair(1 << 20).await;
    let large = "x".repeat(LIMIT + MESSAGE_SLACK);
    client.send(Message::text(&large)).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), large);
    link.set_max_message_size(10 * LIMIT);
    let large = "x".repeat(10 * LIMIT + MESSAGE_SLACK);
    client.send(Message::text(&large)).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().unwrap(), large);
    client.send(Message::text(large + "x")).await.unwrap();
    let error = receive(&mut link).await.unwrap_err();
    assert!(matches!(error, ChannelError::TooLong { limit } if limit == 10 * LIMIT));
}

/// Counts reads that brought something, and writes.
struct Counting<S>(S, Arc<AtomicUsize>);

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.0).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tokio::test]
async fn many_frames_are_one_write() {
    let (client, server) = duplex(1 << 20);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let writes = Arc::new(AtomicUsize::new(0));
    let server = Counting(server, Arc::clone(&writes));
    let mut link = WebSocketLink::new(server, Bytes::new(), LIMIT);
    for number in 0..1000 {
        link.send(Payload::whole(format!("frame {number}\0").as_bytes()));
    }
    flush(&mut link).await;
    assert_eq!(writes.load(Ordering::Relaxed), 1);
    for number in 0..1000 {
        let message = next(&mut client).await;
        assert_eq!(message, Message::text(format!("frame {number}\0")));
    }
}

#[tokio::test]
async fn what_came_at_once_is_read_at_once() {
    let (client, server) = duplex(1 << 20);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let reads = Arc::new(AtomicUsize::new(0));
    let server = Counting(server, Arc::clone(&reads));
    let mut link = WebSocketLink::new(server, Bytes::new(), LIMIT);
    let body = |number| format!("{number} {}", "x".repeat(700));
    for number in 0..20 {
        client.feed(Message::text(body(number))).await.unwrap();
    }
    client.flush().await.unwrap();
    for number in 0..20 {
        let message = receive(&mut link).await.unwrap().unwrap();
        assert_eq!(message, body(number));
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    assert!(link.unread.is_none(), "idle, it holds nothing");
}

/// What is pending shrinks as the client reads, so that a slow one is told from one that sleeps.
#[tokio::test]
async fn progress_shows() {
    let (client, mut link) = pair(100).await;
    link.send(Payload::whole(&[b'x'; 1000]));
    let before = link.pending();
    let mut flushing = pin!(poll_fn(|context| link.poll_flush(context)));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(flushing.as_mut().poll(&mut context).is_pending());
    assert_eq!(link.pending(), before - 100);
    drop(client);
}

/// The machine keeps what it has of a message in memory: no more than a little, until there is room
/// for all of it; and pings between its parts hide nothing.
#[tokio::test]
async fn only_so_much_of_a_message_is_taken_in_before_there_is_room() {
    const SIZE: usize = 200_000;
    let (mut client, mut link) = pair(2 * SIZE).await;
    link.set_max_message_size(SIZE);
    let mut context = Context::from_waker(std::task::Waker::noop());
    for _ in 0..2 {
        client.send(Message::Ping(Bytes::new())).await.unwrap();
        client
            .send(Message::binary(vec![b'x'; SIZE]))
            .await
            .unwrap();
        for _ in 0..10 {
            // It is told once, and then nothing more.
            while let Poll::Ready(told) = link.poll_receive(&mut context) {
                assert_eq!(told.unwrap().unwrap(), "");
                assert!(link.bytes_read().unwrap() > 0);
            }
            let taken = link.unfinished().received;
            assert!((FREE..FREE + READ_SIZE).contains(&taken), "{taken}");
        }
        assert_eq!(receive(&mut link).await.unwrap().unwrap().len(), SIZE);
        assert_eq!(link.unfinished().received, 0);
    }
}
