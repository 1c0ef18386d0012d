//! Queues and links.

use stentor::broker::{Argument, BrokerError, Consume, QueueSpec};
use testkit::{DEADLINE, eventually};

use super::{
    Fixture,
    support::{Node, existing, queue, reading},
};

pub(crate) async fn to_declare_again_is_a_check<F: Fixture>() {
    let fixture = F::start().await;
    let (node, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    let spec = QueueSpec {
        arguments: vec![("x-max-length".into(), Argument::Number(10))],
        ..queue("q")
    };
    node.vhost.declare_queue(&spec).await.unwrap();
    node.send("", "q", "1").await;
    node.vhost.declare_queue(&spec).await.unwrap();
    other.vhost.declare_queue(&spec).await.unwrap();
    let reader = other.consume(existing("q")).await;
    assert_eq!(reader.inbox.bodies(1).await, ["1"]);
}

pub(crate) async fn other_properties_are_refused<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let passing = QueueSpec {
        durable: false,
        ..queue("q")
    };
    let auto_delete = QueueSpec {
        auto_delete: true,
        ..queue("q")
    };
    let limited = QueueSpec {
        arguments: vec![("x-max-length".into(), Argument::Number(10))],
        ..queue("q")
    };
    for (what, other) in [
        ("durable", passing),
        ("auto_delete", auto_delete),
        ("x-max-length", limited),
    ] {
        match node.vhost.declare_queue(&other).await {
            // Where there are no transient queues, it is declared as a durable one.
            Ok(()) if what == "durable" && testkit::is_strict() => {}
            Err(BrokerError::PreconditionFailed(text)) => {
                let words =
                    format!("PRECONDITION_FAILED - inequivalent arg '{what}' for queue 'q'");
                assert!(text.starts_with(&words), "{text}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    // The queue, and others' use of it, do not suffer.
    node.send("", "q", "1").await;
    let reader = node.consume(reading("q", 1)).await;
    assert_eq!(reader.inbox.bodies(1).await, ["1"]);
}

pub(crate) async fn deleting_takes_the_messages<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.send("", "q", "old").await;
    node.vhost.delete_queue("q").await.unwrap();
    let gone = node.refused(existing("q")).await;
    assert!(matches!(gone, BrokerError::NotFound(_)), "{gone:?}");
    node.vhost.delete_queue("q").await.unwrap();
    node.vhost.delete_queue("never there").await.unwrap();
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.send("", "q", "new").await;
    let reader = node.consume(reading("q", 10)).await;
    assert_eq!(reader.inbox.bodies(1).await, ["new"]);
}

pub(crate) async fn an_exclusive_queue_is_its_owner_s<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let own = |owner| Consume {
        queue: QueueSpec {
            name: "own".into(),
            exclusive: true,
            auto_delete: true,
            ..QueueSpec::default()
        },
        owner,
        ..reading("own", 1)
    };
    let found = |owner| Consume {
        owner,
        ..existing("own")
    };
    let mut readers = Vec::new();
    for request in [own(1), own(1), found(1)] {
        readers.push(node.consume(request).await);
        for request in [own(2), found(2)] {
            let refused = node.refused(request).await;
            assert!(
                matches!(refused, BrokerError::ResourceLocked(_)),
                "{refused:?}"
            );
        }
    }
    for body in ["1", "2", "3"] {
        node.send("", "own", body).await;
    }
    for reader in &readers {
        assert_eq!(reader.inbox.bodies(1).await.len(), 1);
    }
    for reader in readers {
        reader.consumer.cancel().await.unwrap();
    }
    let heir = node.consume(own(2)).await;
    node.send("", "own", "4").await;
    assert_eq!(heir.inbox.bodies(1).await, ["4"]);
}

pub(crate) async fn an_exclusive_queue_is_the_link_s_own<F: Fixture>() {
    let fixture = F::start().await;
    let (node, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    // Declared by the consumer: a link may have several connections, and the queue is the one's
    // that consumes it.
    let own = Consume {
        queue: QueueSpec {
            name: "own".into(),
            exclusive: true,
            ..QueueSpec::default()
        },
        ..reading("own", 10)
    };
    let reader = node.consume(own.clone()).await;
    let refused = other.vhost.declare_queue(&own.queue).await;
    assert!(
        matches!(refused, Err(BrokerError::ResourceLocked(_))),
        "{refused:?}"
    );
    for request in [own.clone(), existing("own")] {
        let refused = other.refused(request).await;
        assert!(
            matches!(refused, BrokerError::ResourceLocked(_)),
            "{refused:?}"
        );
    }
    other.send("", "own", "1").await;
    assert_eq!(reader.inbox.bodies(1).await, ["1"]);
    // It ends with its link. RabbitMQ 4.3 says that a connection is closed a moment before the
    // connection's queues are gone; 3.10 says so afterwards.
    node.vhost.close().await;
    let heir = eventually(DEADLINE, "the queue has ended", async || {
        match other.try_consume(own.clone()).await {
            Err(BrokerError::ResourceLocked(_)) => None,
            heir => Some(heir.unwrap()),
        }
    })
    .await;
    other.send("", "own", "2").await;
    assert_eq!(heir.inbox.bodies(1).await, ["2"]);
}

pub(crate) async fn closing_gives_back_what_was_unsettled<F: Fixture>() {
    let fixture = F::start().await;
    let (node, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    let reader = node.consume(reading("q", 10)).await;
    node.fill("q", 2).await;
    reader.inbox.first(2).await;
    node.vhost.close().await;
    let heir = other.consume(reading("q", 10)).await;
    let deliveries = heir.inbox.first(2).await;
    assert!(deliveries.iter().all(|delivery| delivery.redelivered));
    assert_eq!(heir.inbox.bodies(2).await, ["0", "1"]);
}

pub(crate) async fn health_is_good_while_open<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    assert_eq!(node.vhost.opened().await, Ok(()));
    // The first answer of the broker shows that the link is up.
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    assert_eq!(node.vhost.health(), Ok(()));
    node.vhost.close().await;
    assert!(node.vhost.health().is_err());
    let refused = node.vhost.declare_queue(&queue("q")).await;
    assert!(
        matches!(refused, Err(BrokerError::Unavailable(_))),
        "{refused:?}"
    );
}
