//! The link is cut while the messages of a COMMIT are handed over.

use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use testkit::{DEADLINE, Proxy, eventually};

use super::*;
use crate::house::vhost;

const MESSAGES: usize = 900;

/// A COMMIT ends at its first message that is lost: those behind it, for which the link would be
/// there again in time, are not published.
#[tokio::test]
async fn a_commit_that_is_cut_leaves_no_hole() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let channel = vhost.channel().await;
    let declare = |passive| {
        let options = QueueDeclareOptions {
            durable: true,
            passive,
            ..QueueDeclareOptions::default()
        };
        channel.queue_declare("all".into(), options, Default::default())
    };
    declare(false).await.unwrap();
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            // One after the other, so that there is time.
            .set("broker.max_pending_publishes", 1)
            .set("broker.reconnect_max", "300ms")
    })
    .await;
    let mut client = login(&house, "alice").await;
    client.send(&of_transaction(Command::Begin)).await;
    for number in 0..MESSAGES {
        let send = of_transaction(Command::Send)
            .with_header("destination", "/amq/queue/all")
            .with_body(number.to_string());
        client.send(&send).await;
    }
    client.send(&of_transaction(Command::Commit)).await;
    eventually(DEADLINE, "some are published", async || {
        declare(true).await.unwrap().message_count() >= 20
    })
    .await;
    proxy.cut();
    let told = client.expect_frame().await;
    assert_eq!(told.command, Command::Error, "{}", testkit::show(&told));
    client.expect_closed().await;
    house.gateway.until_ready().await;
    // What would be published all the same comes before this.
    let mut other = login(&house, "bob").await;
    let last = Frame::new(Command::Send)
        .with_header("destination", "/amq/queue/all")
        .with_body("last");
    other.request(last).await;
    let mut came = Vec::new();
    while let Some(message) = channel
        .basic_get("all".into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()
    {
        came.push(String::from_utf8(message.delivery.data).unwrap());
    }
    assert_eq!(came.pop().as_deref(), Some("last"));
    println!(
        "{} of {MESSAGES} are published: {}",
        came.len(),
        testkit::show(&told)
    );
    assert!(came.len() < MESSAGES, "it was cut in time");
    let first: Vec<_> = (0..came.len()).map(|number| number.to_string()).collect();
    assert_eq!(came, first, "no hole");
}

fn of_transaction(command: Command) -> Frame {
    Frame::new(command).with_header("transaction", "t")
}
