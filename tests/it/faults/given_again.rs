//! RabbitMQ is killed before it has written what it delivered, and what was acknowledged.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use lapin::{
    BasicProperties, Confirmation,
    options::{BasicPublishOptions, QueueDeclareOptions},
};
use testkit::{DEADLINE, FEED, RabbitMq, Vhost, Withholder};
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::{
    crowds::{END, channel},
    login,
};
use crate::house::{House, until_written, vhost_on};

const PREFETCH: i64 = 100;
/// Messages of a round. Far more are acknowledged than the feed can have under way.
const MESSAGES: u64 = 3_000;
/// Of them, those that are acknowledged before the kill; those of a prefetch behind are delivered,
/// too.
const ACKNOWLEDGED: u64 = 2_500;
/// RabbitMQ writes what waits when a queue has nothing to do for 200 ms. On a busy machine that may
/// happen; then the fault is made again.
const ROUNDS: u64 = 4;

/// Publishes these numbers, and waits until RabbitMQ has written them all.
async fn publish(vhost: &Vhost, numbers: std::ops::Range<u64>) {
    let channel = channel(vhost).await.unwrap();
    let mut confirms = Vec::new();
    for number in numbers {
        let body = number.to_string();
        let publishing = channel.basic_publish(
            FEED.into(),
            "alice".into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            BasicProperties::default().with_delivery_mode(2),
        );
        confirms.push(publishing.await.unwrap());
    }
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
    }
}

/// Asks for the feed's queue again and again, until it is dropped.
async fn keep_busy(vhost: &Vhost) -> AbortOnDropHandle<()> {
    let queues = vhost.queues().await;
    let names = queues.iter().filter_map(|queue| queue["name"].as_str());
    let mut feeds = names.filter(|name| name.starts_with("stentor.feed."));
    let name = feeds.next().expect("the feed has a queue").to_owned();
    let channel = vhost.channel().await;
    let asking = async move {
        let mut pace = interval(Duration::from_millis(10));
        loop {
            pace.tick().await;
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let asking = channel.queue_declare(name.as_str().into(), passive, Default::default());
            if asking.await.is_err() {
                return;
            }
        }
    };
    AbortOnDropHandle::new(tokio::spawn(asking))
}

/// Those that come again bear `redelivered:true`, also those that were acknowledged long before, and
/// those that come for the first time do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_rabbitmq_gives_again_says_so() {
    let node = Arc::new(RabbitMq::own().await);
    let withholder = Withholder::start(&node.amqp_address()).await;
    let vhost = vhost_on(&node).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &withholder.address())
            .set("feed.prefetch", PREFETCH)
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let mut client = login(&house, "alice").await.with_deadline(8 * DEADLINE);
    client
        .subscribe("1", &format!("/exchange/{FEED}/alice"))
        .await;
    until_written().await;
    let mut known = BTreeSet::new();
    for round in 0..ROUNDS {
        let first = round * MESSAGES;
        let newest = withholder.hold();
        publish(&vhost, first..first + MESSAGES).await;
        // All are on the disk, and all but the first are in the queue.
        let busy = keep_busy(&vhost).await;
        withholder.hold_at(newest + ACKNOWLEDGED);
        let (mut again, mut is_killed) = (0, false);
        loop {
            let message = client.expect_frame().await;
            if message.body == END {
                break;
            }
            let number = std::str::from_utf8(&message.body).unwrap();
            let number: u64 = number.parse().unwrap();
            let is_marked = message.header("redelivered") == Some("true");
            assert_eq!(is_marked, known.contains(&number), "{number}");
            assert!(is_marked || known.last() < Some(&number), "in order");
            again += usize::from(is_marked);
            known.insert(number);
            if is_killed || number + 1 < first + ACKNOWLEDGED {
                continue;
            }
            is_killed = true;
            node.kill();
            withholder.forward();
            house.gateway.until_readyz(503).await;
            node.start().await;
            house.gateway.until_ready().await;
            vhost.publish(FEED, "alice", [END]).await;
        }
        drop(busy);
        assert_eq!(known.last(), Some(&(first + MESSAGES - 1)));
        assert_eq!(known.len() as u64, first + MESSAGES, "none is lost");
        println!("of {MESSAGES} came {again} again, and said so");
        if again > 0 {
            return;
        }
    }
    panic!("RabbitMQ gave nothing again");
}
