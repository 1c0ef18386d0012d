//! RabbitMQ is killed just after it bound a client's own queue. It may have forgotten the binding, and
//! then what is published meanwhile goes nowhere.

use std::sync::Arc;

use testkit::{RabbitMq, StompClient};
use tokio::time::{Duration, Instant};

use crate::house::{DESTINATION, House, vhost_on};

const DURABLE: [(&str, &str); 2] = [("durable", "true"), ("auto-delete", "false")];

/// A client with a durable queue that is this old when RabbitMQ is killed, and started again.
async fn after_a_kill(age: Duration) -> (House, StompClient) {
    let node = Arc::new(RabbitMq::own().await);
    let starting = House::start(vhost_on(&node).await, |builder| {
        builder.set("broker.reconnect_max", "500ms")
    });
    let house = starting.await;
    let mut client = house.tcp().await;
    client.subscribe_with("own", DESTINATION, &DURABLE).await;
    let subscribed = Instant::now();
    for count in 0_u64.. {
        let body = count.to_string();
        house.push([&body]).await;
        client.expect_message(&body).await;
        if subscribed.elapsed() >= age {
            break;
        }
    }
    node.kill();
    house.gateway.until_readyz(503).await;
    node.start().await;
    (house, client)
}

#[tokio::test]
async fn a_client_whose_queue_was_bound_just_before_is_told() {
    let (_house, mut client) = after_a_kill(Duration::from_millis(100)).await;
    client.expect_error("Server cancelled subscription").await;
}

#[tokio::test]
async fn a_client_whose_queue_was_bound_before_stays() {
    let (house, mut client) = after_a_kill(Duration::from_secs(5)).await;
    house.gateway.until_ready().await;
    house.push(["after"]).await;
    // Messages of before may come again.
    while client.expect_frame().await.body != "after" {}
}
