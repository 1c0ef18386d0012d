//! Clients on a link that has pings.

use std::collections::HashSet;

use super::{wire::Wire, *};

const CONNECT: &str =
    "CONNECT\naccept-version:1.2\nhost:/\nlogin:alice\npasscode:secret\nheart-beat:0,0\n\n\0";

async fn connected(house: &House) -> Client {
    let mut client = Client::on(house, Wire::new().with_pings());
    client.send(CONNECT);
    client.expect(Command::Connected).await;
    client
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_one_that_stops_is_closed() {
    let house = House::new();
    let mut client = connected(&house).await;
    for _ in 0..100 {
        let before = Instant::now();
        let waited = client.next_ping().await - before;
        assert!(waited <= Duration::from_secs(25), "{waited:?}");
        assert!(waited >= Duration::from_secs(24), "{waited:?}");
        client.wire.pong();
        settle().await;
    }
    let calls = client.wire.calls();
    assert!(calls < 1000, "{calls} calls for a hundred pings");

    let vanished = Instant::now();
    for _ in 0..2 {
        client.next_ping().await;
    }
    client.expect_error("pings unanswered").await;
    assert_eq!(client.wire.closed_with(), Some(CloseCode::TryAgainLater));
    let waited = Instant::now() - vanished;
    assert!(waited < Duration::from_secs(76), "{waited:?}");
    assert!(waited > Duration::from_secs(73), "{waited:?}");
}

/// It may be a program that does not know pings. TCP finds it, if it is gone.
#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_at_all_stays() {
    let house = House::new();
    let mut client = connected(&house).await;
    for _ in 0..100 {
        client.next_ping().await;
    }
    client.subscribe("a", "/exchange/feed/user_alice", "").await;
}

/// So that a thread wakes for all of them at once.
#[tokio::test(start_paused = true)]
async fn pings_of_many_connections_are_written_together() {
    let house = House::new();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(connected(&house).await);
        sleep(Duration::from_millis(2)).await;
    }
    let mut times = HashSet::new();
    let started = Instant::now();
    while times.len() < 50 && started.elapsed() < Duration::from_secs(30) {
        sleep(Duration::from_millis(1)).await;
        for client in &clients {
            if client.wire.take_pings() > 0 {
                times.insert(started.elapsed());
            }
        }
    }
    assert!(!times.is_empty() && times.len() <= 3, "{times:?}");
}
