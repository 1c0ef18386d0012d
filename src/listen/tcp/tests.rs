use std::{future::poll_fn, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

async fn receive<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    link: &mut TcpLink<S>,
) -> Option<Bytes> {
    poll_fn(|context| link.poll_receive(context)).await.unwrap()
}

async fn flush<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(link: &mut TcpLink<S>) {
    poll_fn(|context| link.poll_flush(context)).await.unwrap();
}

#[tokio::test]
async fn bytes_come_as_they_are() {
    let (mut client, server) = duplex(1 << 20);
    let mut link = TcpLink::new(server);
    client.write_all(b"CONNECT\n").await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap(), "CONNECT\n");
    // No more at a time than one buffer.
    client.write_all(&vec![b'x'; READ_SIZE + 1]).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap().len(), READ_SIZE);
    assert_eq!(receive(&mut link).await.unwrap().len(), 1);
    drop(client);
    assert_eq!(receive(&mut link).await, None);
}

#[tokio::test]
async fn frames_are_written_in_order_whatever_the_client_takes() {
    let (mut client, server) = duplex(7);
    let mut link = TcpLink::new(server);
    let mut expected = Vec::new();
    for number in 0..100 {
        let frame = format!("frame {number}\0").into_bytes();
        expected.extend_from_slice(&frame);
        link.send(Outbound::whole(&frame));
    }
    assert_eq!(link.pending(), expected.len());
    let mut got = vec![0; expected.len()];
    let (read, ()) = tokio::join!(client.read_exact(&mut got), flush(&mut link));
    read.unwrap();
    assert_eq!(got, expected);
    assert_eq!(link.pending(), 0);
}

fn flush_once(link: &mut TcpLink<DuplexStream>) -> bool {
    let mut context = Context::from_waker(std::task::Waker::noop());
    link.poll_flush(&mut context).is_ready()
}

/// A client that always has something to read, and reads it: what it has read goes.
#[tokio::test]
async fn a_slow_client_costs_no_more_than_what_waits_for_it() {
    let (mut client, server) = duplex(500);
    let mut link = TcpLink::new(server);
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    for number in 0..10_000_u32 {
        let frame = format!("{number:0>500}").into_bytes();
        sent.extend_from_slice(&frame);
        link.send(Outbound::whole(&frame));
        assert!(number == 0 || !flush_once(&mut link), "it keeps up");
        if number > 20 {
            let mut buffer = [0; 500];
            client.read_exact(&mut buffer).await.unwrap();
            got.extend_from_slice(&buffer);
        }
        // Else tokio has the stream pretend that there is nothing to do.
        tokio::task::yield_now().await;
        let capacity = link.out.capacity();
        assert!(capacity < 64 * 1024, "{capacity} for {}", link.pending());
    }
    let rest = sent.len() - got.len();
    let mut buffer = vec![0; rest];
    let (read, ()) = tokio::join!(client.read_exact(&mut buffer), flush(&mut link));
    read.unwrap();
    got.extend_from_slice(&buffer);
    assert!(got == sent);
    assert_eq!(link.out.capacity(), 0, "idle, it holds nothing");
}

#[tokio::test]
async fn a_client_that_is_gone_is_an_error() {
    let (client, server) = duplex(1000);
    let mut link = TcpLink::new(server);
    drop(client);
    link.send(Outbound::whole(b"hello\0"));
    let outcome = poll_fn(|context| link.poll_flush(context)).await;
    assert!(matches!(outcome, Err(LinkError::Io(_))));
}

#[tokio::test]
async fn closing_waits_for_the_client_and_drops_what_it_says() {
    let (mut client, server) = duplex(1 << 20);
    let mut link = TcpLink::new(server);
    client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let closing = tokio::spawn(async move {
        poll_fn(|context| link.poll_close(context, CloseCode::Normal)).await;
    });
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    client.write_all(b"more").await.unwrap();
    assert!(!closing.is_finished());
    drop(client);
    timeout(Duration::from_secs(30), closing)
        .await
        .unwrap()
        .unwrap();
}

/// A socket that is closed with something unread is reset, and a reset takes back what the other
/// side has not read yet.
#[tokio::test]
async fn the_last_words_are_not_lost_to_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let words = vec![b'!'; 50_000];
    for _ in 0..20 {
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // Never read by anybody.
        client.write_all(&vec![b'x'; 50_000]).await.unwrap();
        let mut link = TcpLink::new(server);
        link.send(Outbound::whole(&words));
        let serving = tokio::spawn(async move {
            flush(&mut link).await;
            poll_fn(|context| link.poll_close(context, CloseCode::Normal)).await;
        });
        // The client is still busy sending.
        client.write_all(&vec![b'x'; 50_000]).await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert!(heard == words, "{} of {} bytes", heard.len(), words.len());
        drop(client);
        timeout(Duration::from_secs(30), serving)
            .await
            .unwrap()
            .unwrap();
    }
}
