//! The broker restarts, or the link to it breaks: clients stay connected, and what was published
//! meanwhile arrives, once and in order.

use std::sync::Arc;

use testkit::{DEADLINE, FEED, Proxy, RabbitMq, StompClient, Vhost, eventually};

use crate::house::{House, KEY, expect_numbers, numbers, until_written, vhost, vhost_on};

/// A gateway that reaches its broker through a proxy, and comes back quickly.
async fn behind_a_proxy(vhost: &Vhost) -> (House, Proxy) {
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(vhost, &proxy.address())
            .set("broker.reconnect_max", "500ms")
            .set("mailbox.max_messages", "100000")
    })
    .await;
    (house, proxy)
}

async fn expect_all(clients: &mut [StompClient], range: std::ops::Range<usize>) {
    for client in clients {
        expect_numbers(client, range.clone()).await;
    }
}

#[tokio::test]
async fn rabbitmq_restarts_in_good_order() {
    let node = Arc::new(RabbitMq::own().await);
    restart(&node, async || node.stop().await).await;
}

#[tokio::test]
async fn rabbitmq_is_killed() {
    let node = Arc::new(RabbitMq::own().await);
    restart(&node, async || node.kill()).await;
}

async fn restart(node: &Arc<RabbitMq>, stop: impl AsyncFnOnce()) {
    let vhost = vhost_on(node).await;
    let (house, proxy) = behind_a_proxy(&vhost).await;
    let mut clients = house.subscribed().await;
    house.push(numbers(0..100)).await;
    expect_all(&mut clients, 0..100).await;
    until_written().await;

    stop().await;
    house.gateway.until_readyz(503).await;
    // The gateway finds the broker only after messages were published to it.
    proxy.refuse();
    node.start().await;
    house.push(numbers(100..200)).await;
    assert_eq!(proxy.open(), 0);
    proxy.forward();

    expect_all(&mut clients, 100..200).await;
    house.gateway.until_ready().await;
    house.push(numbers(200..300)).await;
    expect_all(&mut clients, 200..300).await;
    let lines = house.gateway.events();
    assert!(
        !lines
            .iter()
            .any(|line| line["message"] == "connection closed"),
        "clients stay connected"
    );
}

/// The link is cut again and again in mid-stream: the broker sends again what it has no
/// acknowledgement for, and nobody gets anything twice.
#[tokio::test]
async fn the_link_is_cut_in_mid_stream() {
    const COUNT: usize = 10_000;
    let vhost = vhost().await;
    let (house, proxy) = behind_a_proxy(&vhost).await;
    let mut clients = house.subscribed().await;

    let publish = house.push(numbers(0..COUNT));
    let receive = async {
        let [tcp, ws] = &mut clients;
        tokio::join!(expect_numbers(tcp, 0..COUNT), expect_numbers(ws, 0..COUNT));
    };
    // Each cut waits for messages to flow again after the one before.
    let cut = async {
        for _ in 0..5 {
            let before = proxy.bytes_to_client();
            eventually(DEADLINE, "messages flow", async || {
                proxy.bytes_to_client() > before + 50_000
            })
            .await;
            proxy.cut();
        }
    };
    tokio::join!(publish, receive, cut);

    house.gateway.until_ready().await;
    house.push(["after"]).await;
    for client in &mut clients {
        client.expect_message("after").await;
    }
}

/// Messages that clients send while the link breaks are confirmed, or the clients are told; a lost
/// message never gets a receipt.
#[tokio::test]
async fn a_receipt_outlives_the_link() {
    let vhost = vhost().await;
    let (house, proxy) = behind_a_proxy(&vhost).await;
    let [mut reader, mut sender] = house.subscribed().await;
    sender.unsubscribe("feed").await;

    for number in 0..200 {
        if number % 50 == 25 {
            proxy.cut();
        }
        sender
            .raw(format!(
                "SEND\ndestination:/exchange/{FEED}/{KEY}\nreceipt:{number}\n\n{number}\0"
            ))
            .await;
    }
    let mut confirmed = Vec::new();
    while confirmed.len() < 200 {
        let frame = sender.expect_frame().await;
        match frame.header("receipt-id") {
            Some(id) if frame.command == stomp_grammar::Command::Receipt => {
                confirmed.push(id.to_owned());
            }
            // It was told: nothing after this one was taken, as far as the client knows.
            _ => break,
        }
    }
    assert_eq!(
        confirmed,
        numbers(0..confirmed.len()),
        "receipts keep order"
    );

    house.gateway.until_ready().await;
    house.push(["end"]).await;
    let mut arrived = Vec::new();
    loop {
        let body = reader.expect_messages(1).await.remove(0);
        if body == "end" {
            break;
        }
        arrived.push(body);
    }
    for id in &confirmed {
        assert!(arrived.contains(id), "{id} was confirmed, but is lost");
    }
}
