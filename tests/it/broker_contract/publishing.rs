//! Publishing.

use bytes::Bytes;
use stentor::broker::{
    Argument, BrokerError, Consume, DIRECT_REPLIES, Properties, Publish, QueueSpec, Verdict,
};

use super::{
    Fixture,
    support::{Node, message, queue, reading},
};

pub(crate) async fn lanes_keep_their_order<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let mut confirms = Vec::new();
    for number in 0..300 {
        for lane in 0..3 {
            let mut publish = message("", "q", &format!("{lane} {number}"));
            publish.lane = lane;
            confirms.push(node.vhost.publish(publish).await.unwrap());
        }
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    let reader = node.consume(reading("q", 1_000)).await;
    let bodies = reader.inbox.bodies(900).await;
    assert_eq!(bodies.len(), 900);
    for lane in 0..3 {
        let own = bodies.iter().filter_map(|body| {
            let (from, number) = body.split_once(' ')?;
            (from == lane.to_string()).then(|| number.to_owned())
        });
        assert!(
            own.eq((0..300).map(|number| number.to_string())),
            "lane {lane}"
        );
    }
}

pub(crate) async fn what_goes_different_ways_stays_in_order<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let request = Consume {
        binding: Some(("amq.topic".into(), "k".into())),
        ..reading("q", 1_000)
    };
    let reader = node.consume(request).await;
    let body = |number: usize| format!("{number} {}", "x".repeat(number));
    let mut confirms = Vec::new();
    for number in 0..300 {
        let (exchange, key) = match number % 3 {
            0 => ("amq.topic", "k"),
            _ => ("", "q"),
        };
        let publish = Publish {
            mandatory: number % 7 == 0,
            slow: (number % 11 == 0).then(|| "alice".into()),
            ..message(exchange, key, &body(number))
        };
        confirms.push(node.vhost.publish(publish).await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    let bodies = reader.inbox.bodies(300).await;
    for (number, arrived) in bodies.iter().enumerate() {
        assert_eq!(*arrived, body(number));
    }
    assert_eq!(bodies.len(), 300);
}

pub(crate) async fn replies_by_rabbitmq_s_shortcut_are_refused<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let with = |reply_to: &str| {
        let mut publish = message("", "q", "x");
        publish.properties.reply_to = Some(reply_to.into());
        publish
    };
    for _ in 0..3 {
        let (refused, honest) = tokio::join!(
            node.try_send(with(DIRECT_REPLIES)),
            node.try_send(message("", "q", "honest")),
        );
        assert!(
            matches!(refused, Err(BrokerError::PreconditionFailed(_))),
            "{refused:?}"
        );
        assert_eq!(honest, Ok(()));
    }
    assert_eq!(node.try_send(with("q")).await, Ok(()));
}

pub(crate) async fn an_unknown_exchange_is_an_error_of_that_message_alone<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let mut confirms = Vec::new();
    for number in 0..20 {
        let exchange = if number == 10 { "nope" } else { "" };
        let mut publish = message(exchange, "q", &number.to_string());
        // Another client's lane.
        publish.lane = if number == 10 { 1 } else { 2 };
        // A broker that knows its exchanges may say so before the message has its place.
        confirms.push(node.vhost.publish(publish).await);
    }
    for (number, confirm) in confirms.into_iter().enumerate() {
        let outcome = match confirm {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => assert_ne!(number, 10),
            Err(BrokerError::NotFound(text)) => {
                assert_eq!(number, 10);
                assert!(
                    text.starts_with("NOT_FOUND - no exchange 'nope' in vhost "),
                    "{text}"
                );
            }
            Err(other) => panic!("{number}: {other:?}"),
        }
    }
    node.send("", "q", "after").await;
    let reader = node.consume(reading("q", 100)).await;
    let bodies = reader.inbox.bodies(20).await;
    assert_eq!(bodies.last().map(String::as_str), Some("after"));
}

pub(crate) async fn only_mandatory_messages_must_reach_a_queue<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let mandatory = |key| Publish {
        mandatory: true,
        ..message("", key, "x")
    };
    let unroutable = node.try_send(mandatory("nobody")).await;
    assert_eq!(unroutable, Err(BrokerError::Unroutable));
    assert_eq!(node.try_send(message("", "nobody", "x")).await, Ok(()));
    assert_eq!(
        node.try_send(message("amq.topic", "nobody", "x")).await,
        Ok(())
    );
    assert_eq!(node.try_send(mandatory("q")).await, Ok(()));
}

pub(crate) async fn the_default_exchange_leads_to_queues<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("a/b")).await.unwrap();
    node.vhost.declare_queue(&queue("c")).await.unwrap();
    node.send("", "a/b", "1").await;
    node.send("", "c", "2").await;
    let reader = node.consume(reading("a/b", 10)).await;
    let deliveries = reader.inbox.first(1).await;
    let message = &deliveries[0].message;
    assert_eq!((&*message.exchange, &*message.routing_key), ("", "a/b"));
    assert_eq!(message.body, "1");
    let other = node.consume(reading("c", 10)).await;
    assert_eq!(other.inbox.bodies(1).await, ["2"]);
    assert_eq!(reader.inbox.bodies(1).await, ["1"]);
}

pub(crate) async fn properties_travel_whole<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let reader = node.consume(reading("q", 10)).await;
    let some = |text: &str| Some(Box::from(text));
    let all = Properties {
        content_type: some("text/plain"),
        content_encoding: some("utf-8"),
        persistent: true,
        priority: Some(3),
        correlation_id: some("cc"),
        reply_to: some("rt"),
        expiration: some("600000"),
        message_id: some("am"),
        timestamp: Some(123),
        kind: some("ty"),
        // Not `user-id`: the broker compares it with the account.
        user_id: None,
        app_id: some("ap"),
        headers: vec![("foo".into(), "b:c\n".into()), ("leer".into(), "".into())],
    };
    for properties in [all.clone(), Properties::default()] {
        let publish = Publish {
            properties,
            ..message("", "q", "x")
        };
        node.try_send(publish).await.unwrap();
    }
    let deliveries = reader.inbox.first(2).await;
    assert_eq!(deliveries[0].message.properties, all);
    assert_eq!(deliveries[1].message.properties, Properties::default());
}

pub(crate) async fn a_full_queue_that_rejects_is_told<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let small = QueueSpec {
        arguments: vec![
            ("x-max-length".into(), Argument::Number(1)),
            ("x-overflow".into(), Argument::Text("reject-publish".into())),
        ],
        ..queue("q")
    };
    node.vhost.declare_queue(&small).await.unwrap();
    node.send("", "q", "1").await;
    let refused = node.try_send(message("", "q", "2")).await;
    assert_eq!(refused, Err(BrokerError::Nacked));
    let request = Consume {
        queue: small,
        ..reading("q", 1)
    };
    let reader = node.consume(request).await;
    let deliveries = reader.inbox.first(1).await;
    reader
        .settle(deliveries[0].tag, false, Verdict::Accept)
        .await;
    node.send("", "q", "3").await;
    assert_eq!(reader.inbox.bodies(2).await, ["1", "3"]);
}

pub(crate) async fn bodies_may_be_empty_or_large<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let reader = node.consume(reading("q", 10)).await;
    let large: Bytes = (0..3_000_000_u32)
        .map(|n| n as u8)
        .collect::<Vec<_>>()
        .into();
    for body in [Bytes::new(), large.clone(), Bytes::from_static(b"\0")] {
        let publish = Publish {
            body,
            ..message("", "q", "")
        };
        node.try_send(publish).await.unwrap();
    }
    let deliveries = reader.inbox.first(3).await;
    assert_eq!(deliveries[0].message.body, "");
    assert!(deliveries[1].message.body == large);
    assert_eq!(deliveries[2].message.body, "\0");
}
