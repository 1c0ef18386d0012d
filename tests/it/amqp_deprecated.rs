//! Nothing that the gateway does at RabbitMQ uses a feature that RabbitMQ has deprecated.

use std::sync::Arc;

use stomp_grammar::{Command, Frame};
use testkit::RabbitMq;

use crate::house::{DESTINATION, House, vhost_on};

/// RabbitMQ permits them all here, and says which were used.
#[tokio::test]
async fn no_deprecated_feature_is_used() {
    let (node, knows_them) = RabbitMq::own_with_deprecated_features().await;
    if !knows_them {
        return;
    }
    let node = Arc::new(node);
    let house = House::start(vhost_on(&node).await, |builder| {
        builder
            .set("presence.url", "memory:")
            .set("presence.events", true)
    })
    .await;
    let mut client = house.ws().await;
    let mut other = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    for (id, destination, headers) in [
        ("pattern", "/topic/a.*", &[][..]),
        ("own", DESTINATION, &[("ack", "client-individual")]),
        ("few", DESTINATION, &[("prefetch-count", "5")]),
        ("queue", "/queue/jobs", &[("ack", "client")]),
        ("brief", "/queue/brief", &[("auto-delete", "true")]),
        ("alone", "/queue/alone", &[("exclusive", "true")]),
        (
            "lasting",
            "/exchange/feed/lasting",
            &[("durable", "true"), ("auto-delete", "false")],
        ),
    ] {
        other.subscribe_with(id, destination, headers).await;
    }
    house.push(["to all"]).await;
    client.expect_message("to all").await;
    let job = Frame::new(Command::Send)
        .with_header("destination", "/queue/jobs")
        .with_header("reply-to", "/temp-queue/answers")
        .with_body("a job");
    client.request(job).await;
    let is_message = |frame: &Frame| frame.command == Command::Message;
    while other.expect("a job", is_message).await.body != "a job" {}

    let list = [
        "--silent",
        "--formatter",
        "json",
        "list_deprecated_features",
        "--used",
    ];
    let used = house.vhost.node().ctl(&list).await;
    assert_eq!(used.trim(), "[]");
}
