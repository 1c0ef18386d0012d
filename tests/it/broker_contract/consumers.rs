//! Dedicated consumers.

use stentor::broker::{Argument, BrokerError, Consume, QueueSpec, Verdict};

use super::{
    Fixture,
    support::{Node, Reader, Seen, existing, queue, reading},
};

pub(crate) async fn a_consumer_gets_what_was_there_and_what_comes<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.send("", "q", "before").await;
    let reader = node.consume(reading("q", 10)).await;
    node.send("", "q", "after").await;
    assert_eq!(reader.inbox.bodies(2).await, ["before", "after"]);
    let deliveries = reader.inbox.first(2).await;
    assert!(deliveries[0].tag < deliveries[1].tag);
    assert!(deliveries.iter().all(|delivery| !delivery.redelivered));
}

pub(crate) async fn a_binding_fills_the_queue<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let bound = |exchange: &str| Consume {
        binding: Some((exchange.into(), "a.*".into())),
        ..reading("q", 10)
    };
    let refused = node.refused(bound("nope")).await;
    assert!(matches!(refused, BrokerError::NotFound(_)), "{refused:?}");
    let reader = node.consume(bound("amq.topic")).await;
    // Another pattern of the same queue matches it too.
    let second = Consume {
        binding: Some(("amq.topic".into(), "*.b".into())),
        ..reading("q", 10)
    };
    let other = node.consume(second).await;
    other.consumer.cancel().await.unwrap();
    for key in ["a.b", "b", "a.c", "c.b"] {
        node.send("amq.topic", key, key).await;
    }
    node.send("", "q", "fence").await;
    assert_eq!(reader.inbox.bodies(4).await, ["a.b", "a.c", "c.b", "fence"]);
}

pub(crate) async fn what_is_not_there_cannot_be_consumed<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    match node.refused(existing("nope")).await {
        BrokerError::NotFound(text) => {
            assert!(
                text.starts_with("NOT_FOUND - no queue 'nope' in vhost "),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_queue_without_a_name_gets_one<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let nameless = |pattern: &str| Consume {
        queue: QueueSpec {
            auto_delete: true,
            ..QueueSpec::default()
        },
        binding: Some(("amq.topic".into(), pattern.into())),
        ..reading("", 10)
    };
    let one = node.consume(nameless("a")).await;
    let other = node.consume(nameless("b")).await;
    node.send("amq.topic", "a", "1").await;
    node.send("amq.topic", "b", "2").await;
    assert_eq!(one.inbox.bodies(1).await, ["1"]);
    assert_eq!(other.inbox.bodies(1).await, ["2"]);
}

pub(crate) async fn no_more_than_the_prefetch_is_unsettled<F: Fixture>() {
    const PREFETCH: usize = 3;
    const COUNT: usize = 30;
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.fill("q", COUNT).await;
    let reader = node.consume(reading("q", PREFETCH as u16)).await;
    for settled in 0..COUNT {
        let due = (settled + PREFETCH).min(COUNT);
        let deliveries = reader.inbox.first(due).await;
        assert_eq!(deliveries.len(), due);
        reader
            .settle(deliveries[settled].tag, false, Verdict::Accept)
            .await;
    }
    let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    assert_eq!(reader.inbox.bodies(COUNT).await, expected);
}

/// A consumer with the messages 0, 1, 2, … unsettled.
async fn holding(node: &Node, count: usize) -> (Reader, Vec<u64>) {
    let reader = node.consume(reading("q", 10)).await;
    node.fill("q", count).await;
    let deliveries = reader.inbox.first(count).await;
    let tags = deliveries.iter().map(|delivery| delivery.tag).collect();
    (reader, tags)
}

/// The messages left for another consumer, with a mark on those that may have been seen before.
async fn left(node: &Node, count: usize) -> Vec<String> {
    node.send("", "q", "fence").await;
    let reader = node.consume(reading("q", 100)).await;
    let deliveries = reader.inbox.first(count + 1).await;
    let left = deliveries.iter().map(|delivery| {
        let mark = if delivery.redelivered { " again" } else { "" };
        String::from_utf8_lossy(&delivery.message.body).into_owned() + mark
    });
    left.collect()
}

pub(crate) async fn one_message_is_settled<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, tags) = holding(&node, 3).await;
    reader.settle(tags[1], false, Verdict::Accept).await;
    reader.consumer.cancel().await.unwrap();
    assert_eq!(left(&node, 2).await, ["0 again", "2 again", "fence"]);
}

pub(crate) async fn all_up_to_one_are_settled<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, tags) = holding(&node, 5).await;
    reader.settle(tags[1], false, Verdict::Accept).await;
    reader.settle(tags[3], true, Verdict::Accept).await;
    reader.consumer.cancel().await.unwrap();
    assert_eq!(left(&node, 1).await, ["4 again", "fence"]);
}

pub(crate) async fn unknown_tags_are_ignored<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, tags) = holding(&node, 3).await;
    reader.settle(tags[1], false, Verdict::Accept).await;
    for (tag, multiple) in [
        (tags[1], false),
        (tags[1], true),
        (tags[2] + 1_000, false),
        (tags[2] + 1_000, true),
        (u64::MAX, true),
    ] {
        reader.settle(tag, multiple, Verdict::Accept).await;
    }
    reader.consumer.cancel().await.unwrap();
    reader.settle(tags[0], false, Verdict::Accept).await;
    assert_eq!(left(&node, 2).await, ["0 again", "2 again", "fence"]);
}

pub(crate) async fn a_requeued_message_keeps_its_place<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.fill("q", 4).await;
    // Two of four are out; each that is settled lets one more come.
    let reader = node.consume(reading("q", 2)).await;
    let tags: Vec<u64> = reader.inbox.first(2).await.iter().map(|d| d.tag).collect();
    reader.settle(tags[0], false, Verdict::Requeue).await;
    let deliveries = reader.inbox.first(3).await;
    let again = &deliveries[2];
    assert_eq!(again.message.body, "0");
    assert!(again.redelivered && again.tag > tags[1]);
    // Both back at once: in their old order, before those that never were out.
    reader.settle(again.tag, true, Verdict::Requeue).await;
    let bodies = reader.inbox.bodies(5).await;
    assert_eq!(bodies, ["0", "1", "0", "0", "1"]);
    reader.consumer.cancel().await.unwrap();
    let expected = ["0 again", "1 again", "2", "3", "fence"];
    assert_eq!(left(&node, 4).await, expected);
}

pub(crate) async fn discarded_messages_are_gone<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, tags) = holding(&node, 3).await;
    reader.settle(tags[1], true, Verdict::Discard).await;
    reader.consumer.cancel().await.unwrap();
    assert_eq!(left(&node, 1).await, ["2 again", "fence"]);
}

pub(crate) async fn discarded_messages_go_to_the_dead_letter_exchange<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let dying = QueueSpec {
        arguments: vec![
            ("x-dead-letter-exchange".into(), Argument::Text("".into())),
            (
                "x-dead-letter-routing-key".into(),
                Argument::Text("dead".into()),
            ),
        ],
        ..queue("q")
    };
    let request = Consume {
        queue: dying,
        ..reading("q", 10)
    };
    let graveyard = node.consume(reading("dead", 10)).await;
    let reader = node.consume(request).await;
    node.fill("q", 4).await;
    let deliveries = reader.inbox.first(4).await;
    let tag = |place: usize| deliveries[place].tag;
    reader.settle(tag(0), false, Verdict::Accept).await;
    reader.settle(tag(1), false, Verdict::Discard).await;
    reader.settle(tag(3), true, Verdict::Discard).await;
    assert_eq!(graveyard.inbox.bodies(3).await, ["1", "2", "3"]);
    let dead = &graveyard.inbox.first(2).await[0].message;
    assert_eq!((&*dead.exchange, &*dead.routing_key), ("", "dead"));
    let reason = ("x-first-death-reason".into(), "rejected".into());
    assert!(dead.properties.headers.contains(&reason), "{dead:?}");
}

pub(crate) async fn cancelling_requeues<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, _) = holding(&node, 3).await;
    reader.consumer.cancel().await.unwrap();
    reader.consumer.cancel().await.unwrap();
    let expected = ["0 again", "1 again", "2 again", "fence"];
    assert_eq!(left(&node, 3).await, expected);
    // It got nothing of what came after its end.
    assert_eq!(reader.inbox.bodies(3).await.len(), 3);
}

pub(crate) async fn dropping_requeues<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, _) = holding(&node, 2).await;
    let heir = node.consume(reading("q", 10)).await;
    drop(reader);
    assert_eq!(heir.inbox.bodies(2).await, ["0", "1"]);
    assert!(heir.inbox.first(2).await.iter().all(|d| d.redelivered));
}

pub(crate) async fn a_retired_consumer_has_what_its_client_has<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, tags) = holding(&node, 5).await;
    reader.consumer.retire(&tags[..3]).await.unwrap();
    let heir = node.consume(reading("q", 10)).await;
    assert_eq!(heir.inbox.bodies(2).await, ["3", "4"]);
    node.send("", "q", "new").await;
    assert_eq!(heir.inbox.bodies(3).await, ["3", "4", "new"]);
    reader.settle(tags[1], true, Verdict::Accept).await;
    // It is given back already.
    reader.settle(tags[4], false, Verdict::Accept).await;
    reader.settle(tags[2], false, Verdict::Requeue).await;
    assert_eq!(heir.inbox.bodies(4).await, ["3", "4", "new", "2"]);
    heir.consumer.cancel().await.unwrap();
    let expected = ["2 again", "3 again", "4 again", "new again", "fence"];
    assert_eq!(left(&node, 4).await, expected);
    assert_eq!(reader.inbox.bodies(5).await.len(), 5);
}

pub(crate) async fn dropping_a_retired_consumer_requeues<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (reader, tags) = holding(&node, 2).await;
    reader.consumer.retire(&tags).await.unwrap();
    let heir = node.consume(reading("q", 10)).await;
    drop(reader);
    assert_eq!(heir.inbox.bodies(2).await, ["0", "1"]);
}

pub(crate) async fn a_queue_ends_with_its_last_consumer_that_retires<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let passing = Consume {
        queue: QueueSpec {
            name: "q".into(),
            auto_delete: true,
            ..QueueSpec::default()
        },
        ..reading("q", 10)
    };
    let reader = node.consume(passing).await;
    node.send("", "q", "1").await;
    let tag = reader.inbox.first(1).await[0].tag;
    reader.consumer.retire(&[tag]).await.unwrap();
    let gone = node.refused(existing("q")).await;
    assert!(matches!(gone, BrokerError::NotFound(_)), "{gone:?}");
    reader.settle(tag, false, Verdict::Accept).await;
    // That was no loss.
    let count = |seen: &[Seen]| Some(seen.len());
    assert_eq!(reader.inbox.0.until("count", count).await, 1);
}

pub(crate) async fn consumers_share_a_queue<F: Fixture>() {
    let fixture = F::start().await;
    let (node, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.fill("q", 4).await;
    let one = node.consume(reading("q", 1)).await;
    let two = other.consume(reading("q", 1)).await;
    // One each; the next goes to whoever settles.
    assert_eq!(one.inbox.bodies(1).await, ["0"]);
    assert_eq!(two.inbox.bodies(1).await, ["1"]);
    let tag = two.inbox.first(1).await[0].tag;
    two.settle(tag, false, Verdict::Accept).await;
    assert_eq!(two.inbox.bodies(2).await, ["1", "2"]);
    let tag = one.inbox.first(1).await[0].tag;
    one.settle(tag, false, Verdict::Accept).await;
    assert_eq!(one.inbox.bodies(2).await, ["0", "3"]);
}

pub(crate) async fn an_exclusive_consumer_is_alone<F: Fixture>() {
    let fixture = F::start().await;
    let (node, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    let exclusive = Consume {
        exclusive: true,
        ..reading("q", 10)
    };
    let reader = node.consume(exclusive.clone()).await;
    for (node, request) in [
        (&node, reading("q", 10)),
        (&other, exclusive.clone()),
        (&other, existing("q")),
    ] {
        let refused = node.refused(request).await;
        assert!(
            matches!(refused, BrokerError::ResourceLocked(_)),
            "{refused:?}"
        );
    }
    node.send("", "q", "1").await;
    assert_eq!(reader.inbox.bodies(1).await, ["1"]);
    reader.consumer.cancel().await.unwrap();
    let heir = other.consume(exclusive).await;
    assert_eq!(heir.inbox.bodies(1).await, ["1"]);
}

pub(crate) async fn an_auto_delete_queue_ends_with_its_last_consumer<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let passing = Consume {
        queue: QueueSpec {
            name: "q".into(),
            auto_delete: true,
            ..QueueSpec::default()
        },
        binding: Some(("amq.topic".into(), "a".into())),
        ..reading("q", 10)
    };
    let one = node.consume(passing.clone()).await;
    let two = node.consume(passing).await;
    one.consumer.cancel().await.unwrap();
    node.send("amq.topic", "a", "1").await;
    assert_eq!(two.inbox.bodies(1).await, ["1"]);
    two.consumer.cancel().await.unwrap();
    let gone = node.refused(existing("q")).await;
    assert!(matches!(gone, BrokerError::NotFound(_)), "{gone:?}");
}

pub(crate) async fn deleting_the_queue_ends_its_consumers<F: Fixture>() {
    let fixture = F::start().await;
    let (node, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    let (reader, tags) = holding(&node, 1).await;
    let second = other.consume(reading("q", 10)).await;
    node.vhost.delete_queue("q").await.unwrap();
    for reader in [&reader, &second] {
        let reason = reader.inbox.lost().await;
        assert!(matches!(reason, BrokerError::Cancelled(_)), "{reason:?}");
    }
    // Nothing after it: not of a new queue of that name, and not a second loss.
    let heir = node.consume(reading("q", 10)).await;
    node.send("", "q", "new").await;
    assert_eq!(heir.inbox.bodies(1).await, ["new"]);
    reader.settle(tags[0], false, Verdict::Requeue).await;
    let _ = reader.consumer.cancel().await;
    node.vhost.delete_queue("q").await.unwrap();
    heir.inbox.lost().await;
    reader
        .inbox
        .0
        .until("end", |seen| (seen.len() == 2).then_some(()))
        .await;
    second
        .inbox
        .0
        .until("end", |seen| (seen.len() == 1).then_some(()))
        .await;
}

pub(crate) async fn a_cancelled_consumer_is_not_lost<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let mut cancelled = Vec::new();
    for number in 0..50 {
        let passing = Consume {
            queue: QueueSpec {
                name: format!("q{number}").into(),
                auto_delete: true,
                ..QueueSpec::default()
            },
            binding: Some(("amq.topic".into(), "a".into())),
            ..reading("", 10)
        };
        let reader = node.consume(passing).await;
        reader.consumer.cancel().await.unwrap();
        cancelled.push(reader);
    }
    let fence = node.consume(reading("fence", 10)).await;
    node.send("", "fence", "fence").await;
    fence.inbox.first(1).await;
    for reader in &cancelled {
        let count = |seen: &[Seen]| Some(seen.len());
        assert_eq!(reader.inbox.0.until("count", count).await, 0);
    }
}
