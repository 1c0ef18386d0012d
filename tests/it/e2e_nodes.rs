//! Two gateways on one RabbitMQ, as behind a load balancer.

use testkit::{FEED, StompClient};

use crate::house::{DESTINATION, House, expect_numbers, numbers, vhost};

#[tokio::test]
async fn each_client_gets_each_message_once() {
    let vhost = vhost().await;
    let one = House::start(vhost.clone(), |builder| builder).await;
    let other = House::start(vhost.clone(), |builder| builder).await;
    let mut clients: Vec<StompClient> = Vec::new();
    for house in [&one, &other] {
        clients.extend(house.subscribed().await);
        // The same user twice at one node, and by a pattern that matches as well.
        let mut by_pattern = house.ws().await;
        by_pattern.subscribe("all", "/exchange/feed/#").await;
        clients.push(by_pattern);
    }

    one.push(numbers(0..1000)).await;
    for client in &mut clients {
        expect_numbers(client, 0..1000).await;
    }

    // What a client of one node sends reaches those of both.
    let mut sender = other.tcp().await;
    for number in numbers(1000..1100) {
        sender.publish(DESTINATION, number).await;
    }
    for client in &mut clients {
        expect_numbers(client, 1000..1100).await;
    }
}

/// One queue, consumers at both nodes: each message goes to one of them.
#[tokio::test]
async fn a_queue_is_shared_among_nodes() {
    let vhost = vhost().await;
    let one = House::start(vhost.clone(), |builder| builder).await;
    let other = House::start(vhost.clone(), |builder| builder).await;
    let mut clients = [one.tcp().await, other.ws().await];
    for client in &mut clients {
        client
            .subscribe_with(
                "1",
                "/queue/work",
                &[("ack", "client"), ("prefetch-count", "5")],
            )
            .await;
    }
    vhost.publish("", "work", numbers(0..10)).await;
    let mut all = Vec::new();
    for client in &mut clients {
        // As many as the prefetch allows, for nothing is acknowledged.
        all.extend(client.expect_messages(5).await);
    }
    all.sort();
    assert_eq!(all, numbers(0..10));
}

/// A node that ends leaves the other's clients alone.
#[tokio::test]
async fn a_killed_node_takes_nobody_else_along() {
    let vhost = vhost().await;
    let one = House::start(vhost.clone(), |builder| builder).await;
    let other = House::start(vhost.clone(), |builder| builder).await;
    let mut here = one.tcp().await;
    here.subscribe("1", DESTINATION).await;
    let [mut tcp, mut ws] = other.subscribed().await;

    one.gateway.kill().await;
    here.expect_closed().await;

    vhost
        .publish(FEED, crate::house::KEY, numbers(0..100))
        .await;
    expect_numbers(&mut tcp, 0..100).await;
    expect_numbers(&mut ws, 0..100).await;
}
