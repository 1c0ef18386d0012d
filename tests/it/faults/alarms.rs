//! RabbitMQ is short of memory or disk: publishers wait, then they are told; deliveries,
//! acknowledgements, logins and subscriptions go on.

use std::{sync::Arc, time::Duration};

use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, RabbitMq, eventually};

use super::login;
use crate::house::{DESTINATION, House, vhost_on};

const WAIT: Duration = Duration::from_secs(2);
const WORK: usize = 20;

#[tokio::test]
async fn while_memory_is_short_only_publishers_wait() {
    only_publishers_wait(
        &["set_vm_memory_high_watermark", "absolute", "1MB"],
        &["set_vm_memory_high_watermark", "0.7"],
    )
    .await;
}

#[tokio::test]
async fn while_disk_is_short_only_publishers_wait() {
    only_publishers_wait(
        &["set_disk_free_limit", "900000GB"],
        &["set_disk_free_limit", "1MB"],
    )
    .await;
}

async fn only_publishers_wait(raise: &[&str], clear: &[&str]) {
    let node = Arc::new(RabbitMq::own().await);
    let house = House::start(vhost_on(&node).await, |builder| {
        builder
            .set("broker.operation_timeout", "2s")
            // So that the watch of exchanges publishes meanwhile, too.
            .set("feed.verify_interval", "500ms")
    })
    .await;
    let [mut tcp, mut ws] = house.subscribed().await;
    let mut worker = house.tcp().await;
    let headers = [("ack", "client-individual"), ("prefetch-count", "1")];
    worker.subscribe_with("1", "/queue/work", &headers).await;
    let work = (0..WORK).map(|number| number.to_string());
    house.vhost.publish("", "work", work).await;
    let mut sender = house.ws().await;
    sender.publish(DESTINATION, "before").await;
    for client in [&mut tcp, &mut ws] {
        client.expect_message("before").await;
    }

    node.ctl(raise).await;
    // RabbitMQ stops who publishes.
    let begun = std::time::Instant::now();
    let send = format!("SEND\ndestination:{DESTINATION}\nreceipt:r\n\nduring\0");
    sender.raw(&send).await;
    let error = sender.expect_error("broker unavailable").await;
    assert!(begun.elapsed() >= WAIT, "it waited: {:?}", begun.elapsed());
    assert!(error.header("reconnect").is_some(), "{error:?}");
    // Many who try do not stand in the way of anybody else.
    let mut senders = Vec::new();
    for _ in 0..20 {
        let mut client = house.ws().await;
        client.raw(&send).await;
        senders.push(client);
    }
    for number in 0..WORK {
        let message = worker.expect_message(&number.to_string()).await;
        let ack = Frame::new(Command::Ack).with_header("id", message.header("ack").unwrap());
        worker.send(&ack).await;
    }
    for number in 0..3 {
        let mut newcomer = login(&house, &format!("newcomer{number}")).await;
        let destination = format!("/exchange/{FEED}/new{number}");
        newcomer.subscribe("1", &destination).await;
        newcomer.unsubscribe("1").await;
        newcomer.disconnect().await;
    }
    for client in &mut senders {
        client.expect_error("broker unavailable").await;
    }
    assert_eq!(
        house.gateway.admin("/readyz").await.0,
        200,
        "it still serves"
    );

    node.ctl(clear).await;
    eventually(DEADLINE, "messages are taken again", async || {
        let mut client = house.ws().await;
        client
            .raw(format!(
                "SEND\ndestination:{DESTINATION}\nreceipt:r\n\nafter\0"
            ))
            .await;
        let answer = client.next_frame().await;
        matches!(answer, Ok(frame) if frame.command == Command::Receipt)
    })
    .await;
    // None of those that were refused is lost silently or comes twice; what comes last is the
    // last, and nobody was sent away.
    for client in [&mut tcp, &mut ws] {
        let mut seen = 0;
        while client.expect_frame().await.body != "after" {
            seen += 1;
            assert!(seen <= 21, "more than were sent");
        }
    }
}
