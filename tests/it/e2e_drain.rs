//! SIGTERM: clients are told, nothing is cut short, and the exit code is 0.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use testkit::{DEADLINE, eventually};
use tokio::net::TcpStream;

use crate::house::{DESTINATION, House, expect_numbers, numbers, stentor};

#[tokio::test]
async fn clients_are_told_and_the_program_ends() {
    let house = House::open_with(|builder| {
        builder
            .set("shutdown.not_ready", "2s")
            .set("shutdown.drain", "1s")
            .set("shutdown.grace", "20s")
    })
    .await;
    let [mut tcp, mut ws] = house.subscribed().await;
    let start = Instant::now();

    house.gateway.process().signal("TERM");

    // At first it only says that it is not ready: the load balancer looks elsewhere.
    let why = house.gateway.until_readyz(503).await;
    assert!(why.contains("shutting down"), "{why}");
    assert_eq!(house.gateway.admin("/healthz").await.0, 200);
    let mut late = house.tcp().await;
    late.subscribe("1", DESTINATION).await;
    house.push(numbers(0..100)).await;
    for client in [&mut tcp, &mut ws, &mut late] {
        expect_numbers(client, 0..100).await;
    }

    // Then clients are told, and leave.
    for (client, code) in [(&mut tcp, None), (&mut ws, Some(1012)), (&mut late, None)] {
        client.expect_error("server shutting down").await;
        assert_eq!(client.expect_closed().await.code, code);
    }
    let status = house.gateway.process().wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "within the grace"
    );
    assert!(
        TcpStream::connect(house.gateway.stomp_address())
            .await
            .is_err()
    );
}

/// Clients that never log in, never read or never close do not hold the end up.
#[tokio::test]
async fn the_grace_time_bounds_it_all() {
    let house = House::open_with(|builder| {
        builder
            .set("shutdown.drain", "200ms")
            .set("shutdown.grace", "3s")
    })
    .await;
    let _silent = TcpStream::connect(house.gateway.stomp_address())
        .await
        .unwrap();
    let _stuck = house.raw_ws().await;
    let _reading_nothing = house.subscribed().await;
    let start = Instant::now();
    let status = house.gateway.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Nothing is left at the broker but what was durable by the clients' own wish.
#[tokio::test]
async fn nothing_is_left_at_the_broker() {
    let house = House::open_with(|builder| builder.set("shutdown.drain", "200ms")).await;
    let _clients = house.subscribed().await;
    assert!(!house.vhost.queues().await.is_empty());
    let status = house.gateway.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
    eventually(DEADLINE, "its queues are gone", async || {
        house.vhost.queues().await.is_empty()
    })
    .await;
    assert!(house.vhost.bindings().await.is_empty());
}

/// With all of them at once RabbitMQ would make everybody wait.
#[tokio::test]
async fn many_bindings_are_taken_away_before_their_queue() {
    const KEYS: usize = 1_100;
    let house = House::open_with(|builder| {
        builder
            .set("shutdown.drain", "200ms")
            .set("feed.shards", 1)
            .set("limits.max_subscriptions", KEYS)
            .set("limits.max_user_subscriptions", KEYS)
            .set("limits.max_subscribes_per_second", KEYS)
            .set("limits.max_user_subscribes_per_second", KEYS)
    })
    .await;
    let mut client = house.tcp().await;
    for number in 0..KEYS {
        let destination = format!("/exchange/feed/user_{number}");
        client.subscribe(&number.to_string(), &destination).await;
    }
    let status = house.gateway.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
    let event = house.gateway.until_events("bindings taken away", 1).await;
    // A thousand may go with the queue.
    assert_eq!(event[0]["bindings"], 100);
    assert!(house.vhost.bindings().await.is_empty());
}

/// Somebody who does not want to wait need not look for `kill -9`.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let gateway = stentor()
        .set("broker.url", "embedded:")
        .set("auth.user_path", "http://127.0.0.1:1/user")
        .set("shutdown.not_ready", "5m")
        .set("shutdown.grace", "10m")
        .ready()
        .await;
    gateway.process().signal("TERM");
    gateway.until_readyz(503).await;
    eventually(DEADLINE, "it ends", async || {
        gateway.process().signal("TERM");
        gateway.process().exit_status().is_some()
    })
    .await;
    let status = gateway.process().wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
    gateway.until_logged("by a second signal").await;
}

/// In a container, where the program is the first process, the system would drop the signal; elsewhere it
/// would end the program without a drain.
#[tokio::test]
async fn a_signal_during_the_start_counts() {
    let folder = tempfile::tempdir().unwrap();
    // A pipe as the secret holds the start up where it is read.
    let pipe = folder.path().join("secret");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let gateway = stentor()
        .set("broker.url", "embedded:")
        .set("auth.user_path", "http://127.0.0.1:1/user")
        .set("auth.jwt.any_audience", "true")
        .set("auth.jwt.secret_file", pipe.display())
        .spawn();
    // On a thread that nobody waits for: if the program is gone, it writes for ever.
    let write = || {
        let pipe = pipe.clone();
        thread::spawn(move || fs::write(pipe, "0123456789abcdef0123456789abcdef"))
    };
    // For the check of the configuration.
    write();
    // All addresses are open; then the secret is read again.
    gateway.until_events("listening", 3).await;
    gateway.process().signal("TERM");
    write();
    let status = gateway.process().wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", gateway.process().output());
}
