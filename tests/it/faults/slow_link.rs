//! The link to RabbitMQ becomes very slow: 10 KB a second in each direction of each connection.

use std::time::{Duration, Instant};

use testkit::Proxy;

use super::login;
use crate::house::{House, expect_numbers, numbers, until_written, vhost};

const PIECE: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(100);
/// Of 1,000 bytes each: for six seconds of the link.
const MESSAGES: usize = 60;

/// It is no dead one: heart-beats find that it lives, however large the frame that is on its way.
/// Messages come late, once and in order, and clients stay.
#[tokio::test]
async fn a_link_of_10_kilobytes_a_second_is_slow_and_not_dead() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.heartbeat", "1s")
            .set("broker.operation_timeout", "20s")
            .set("control.exchange", "off")
    })
    .await;
    let mut clients = house.subscribed().await;
    let mut bob = login(&house, "bob").await;
    bob.subscribe("1", "/exchange/feed/bob").await;
    bob.publish("/exchange/feed/bob", "0").await;

    proxy.fragment(PIECE, PAUSE);
    let begun = Instant::now();
    let padding = " ".repeat(1_000);
    let bodies = (0..MESSAGES).map(|number| format!("{number}{padding}"));
    house.push(bodies).await;
    // One frame that takes five seconds, longer than the patience of the heart-beats.
    house.push(["x".repeat(50_000)]).await;
    // Others log in, subscribe and publish meanwhile.
    let mut carol = login(&house, "carol").await;
    carol.subscribe("1", "/exchange/feed/carol").await;
    bob.publish("/exchange/feed/bob", "y".repeat(20_000)).await;
    for client in &mut clients {
        for number in 0..MESSAGES {
            let message = client.expect_frame().await;
            let body = String::from_utf8_lossy(&message.body);
            assert_eq!(body.trim_end(), number.to_string());
        }
        assert_eq!(client.expect_frame().await.body.len(), 50_000);
    }
    println!("{} KB took {:?}", MESSAGES + 50, begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(8), "it was slow");
    let mut given_up = house.gateway.log().all();
    given_up.retain(|line| line.contains("broker link down"));
    assert!(given_up.is_empty(), "{given_up:#?}");

    proxy.forward();
    house.push(["0", "1", "2"]).await;
    for client in &mut clients {
        expect_numbers(client, 0..3).await;
    }
}

/// AMQP's `basic.consume`.
const CONSUME: [u8; 4] = [0, 60, 0, 20];
/// Longer than RabbitMQ has to say something of a feed's queue.
const LAG: Duration = Duration::from_secs(7);

/// The answer of a feed's queue may stand behind messages of others, while RabbitMQ answers at once on
/// other connections: that costs no queue, and nothing of what waits in it.
#[tokio::test]
async fn an_answer_that_is_late_with_its_connection_costs_no_queue() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.reconnect_max", "500ms")
            .set("control.exchange", "off")
    })
    .await;
    let mut clients = house.subscribed().await;
    until_written().await;
    proxy.lag_after(&CONSUME, LAG);
    proxy.cut();
    house.push(numbers(0..3)).await;
    for client in &mut clients {
        expect_numbers(client, 0..3).await;
    }
    let mut moved = house.gateway.log().all();
    moved.retain(|line| line.contains("feed") && line.contains("interrupted"));
    assert!(moved.is_empty(), "{moved:#?}");
}
