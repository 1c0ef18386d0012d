//! The accept loop.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let first = bind(any, "stomp").await.unwrap();
    let address = first.local_addr().unwrap();
    let error = bind(address, "http").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.contains(&format!("cannot listen on {address} (http): ")),
        "{text}"
    );
    assert!(text.contains("Another program listens there"), "{text}");
}

#[tokio::test]
async fn a_wave_is_let_in_before_it_is_accepted() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = bind(any, "stomp").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut wave = Vec::new();
    for _ in 0..300 {
        let connecting = timeout(TIMEOUT, TcpStream::connect(address));
        wave.push(connecting.await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn streams_are_accepted_until_it_is_enough_and_go_on_then() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    let accepting = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        accept(listener, "test", stopped, |mut stream, remote| {
            let counter = Arc::clone(&counter);
            async move {
                assert!(remote.ip().is_loopback() && stream.nodelay().unwrap());
                counter.fetch_add(1, Ordering::SeqCst);
                let byte = stream.read_u8().await.unwrap();
                stream.write_u8(byte).await.unwrap();
            }
        })
        .await;
    });
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let all = async {
        while served.load(Ordering::SeqCst) < 10 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, all).await.unwrap();
    stop.send(()).unwrap();
    timeout(TIMEOUT, accepting).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    for client in &mut clients {
        client.write_u8(7).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_turned_away_is_told_why() {
    let (mut client, server) = tokio::io::duplex(1024);
    let turned_away = tokio::spawn(turn_away(server, &Problem::TooManyConnections));
    client.write_all(b"CONNECT\n\n\0").await.unwrap();
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    assert!(
        told.starts_with("ERROR\nmessage:too many connections\n"),
        "{told}"
    );
    drop(client);
    timeout(TIMEOUT, turned_away).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_listen_is_cut() {
    let (_client, server) = tokio::io::duplex(16);
    timeout(
        FAREWELL * 2,
        turn_away(server, &Problem::TooManyConnections),
    )
    .await
    .unwrap();
}
