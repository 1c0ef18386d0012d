//! Queues: how they are declared, their arguments, and what those do.

use lapin::{ExchangeKind, types::FieldTable};

use super::asks;
use crate::{
    case::{Case, case},
    scene::Scene,
};

/// A client sends this; a backend looks at the queue.
fn declares(frame: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let backend = t.amqp().await;
        let mut a = t.client().await;
        a.ask(frame).await;
        backend.describe("~q").await;
        a.end().await;
    }
}

/// A client subscribes to `/topic/~a` so; a backend looks at what is bound.
fn binds(headers: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let backend = t.amqp().await;
        let mut a = t.client().await;
        a.ask(format!("SUBSCRIBE\nid:1\n{headers}destination:/topic/~a"))
            .await;
        backend.bound("amq.topic", "~a").await;
        a.end().await;
    }
}

/// A client subscribes so, and sends to the queue that it declared, without headers and with the
/// same.
fn sends_to_its_own(headers: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client().await;
        // The plug-in lets them go through (row P5).
        a.hide(&["durable", "auto-delete", "exclusive", "x-expires"]);
        a.ask(format!("SUBSCRIBE\nid:1\n{headers}destination:/queue/~q"))
            .await;
        a.ask("SEND\ndestination:/queue/~q\n\nplain").await;
        a.hear(1).await;
        a.ask(format!("SEND\n{headers}destination:/queue/~q\n\nthe same"))
            .await;
        a.hear(1).await;
        a.end().await;
    }
}

/// Arguments of classic queues that go together.
macro_rules! arguments {
    () => {
        "x-dead-letter-exchange:amq.fanout\nx-dead-letter-routing-key:k\nx-expires:600000\n\
         x-max-length:1000\nx-max-length-bytes:1000000\nx-overflow:drop-head\nx-max-priority:5\n\
         x-message-ttl:600000\nx-queue-type:classic\n"
    };
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("declared by SEND", declares("SEND\ndestination:/queue/~q\n\nx")).with_backend(),
        case("declared by SUBSCRIBE", declares("SUBSCRIBE\nid:1\ndestination:/queue/~q")).with_backend(),
        case("declared by SEND to a bare name", declares("SEND\ndestination:~q\n\nx")).with_backend(),
        case(
            "SUBSCRIBE with durable false",
            declares("SUBSCRIBE\nid:1\ndurable:false\ndestination:/queue/~q"),
        )
        .differs(&["S7"])
        .with_backend(),
        case(
            "SUBSCRIBE with durable false, auto-delete false and exclusive false",
            declares(
                "SUBSCRIBE\nid:1\ndurable:false\nauto-delete:false\nexclusive:false\ndestination:/queue/~q",
            ),
        )
        .differs_since("4.3 strict", &["S28"])
        .with_backend(),
        case(
            "SUBSCRIBE with auto-delete",
            declares("SUBSCRIBE\nid:1\nauto-delete:true\ndestination:/queue/~q"),
        )
        .with_backend(),
        case(
            "SUBSCRIBE with exclusive",
            declares("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q"),
        )
        .differs(&["S25"])
        .differs_since("4.3 strict", &["S36"])
        .with_backend(),
        case("SEND with persistent true", declares("SEND\npersistent:true\ndestination:/queue/~q\n\nx"))
            .with_backend(),
        case("SEND with persistent false", declares("SEND\npersistent:false\ndestination:/queue/~q\n\nx"))
        .differs(&["P3"])
            .with_backend(),
        case("SEND with durable false", declares("SEND\ndurable:false\ndestination:/queue/~q\n\nx"))
        .differs(&["S7"])
            .with_backend(),
        case("SEND with auto-delete", declares("SEND\nauto-delete:true\ndestination:/queue/~q\n\nx"))
            .with_backend(),
        case("SEND with exclusive", declares("SEND\nexclusive:true\ndestination:/queue/~q\n\nx"))
        .differs(&["P10"]).with_backend(),
        case(
            "all arguments by SEND",
            declares(concat!("SEND\n", arguments!(), "destination:/queue/~q\n\nx")),
        )
        .differs(&["S20"])
        .with_backend(),
        case(
            "all arguments by SUBSCRIBE to a queue",
            declares(concat!("SUBSCRIBE\nid:1\n", arguments!(), "destination:/queue/~q")),
        )
        .differs(&["S20"])
        .with_backend(),
        case("all arguments by SUBSCRIBE to a topic", binds(arguments!()))
        .differs(&["S1", "S20"]).with_backend(),
        case(
            "a quorum queue",
            declares("SEND\nx-queue-type:quorum\ndestination:/queue/~q\n\nx"),
        )
        .with_backend(),
        case(
            "a stream",
            declares(
                "SEND\nx-queue-type:stream\nx-max-age:1h\nx-max-length-bytes:1000000\n\
                 x-stream-max-segment-size-bytes:500000\ndestination:/queue/~q\n\nx",
            ),
        )
        .differs(&["S20"])
        .differs_since("4.0", &[])
        .with_backend(),
        case("an argument of letters", asks(["SEND\nx-max-length:many\ndestination:/queue/~q\n\nx"]))
        .differs(&["E9"]),
        case("an argument below zero", asks(["SUBSCRIBE\nid:1\nx-max-length:-1\ndestination:/queue/~q"]))
        .limited("B3")
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case("an unknown queue type", asks(["SUBSCRIBE\nid:1\nx-queue-type:round\ndestination:/queue/~q"]))
        .limited("B3")
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"])
        .differs_since("4.3", &["V7"]),
        case("another argument than the queue has, by SUBSCRIBE", asks([
            "SUBSCRIBE\nid:1\nx-max-length:10\ndestination:/queue/~q",
            "SUBSCRIBE\nid:2\nx-max-length:20\ndestination:/queue/~q",
        ])),
        case("a SUBSCRIBE after a SEND to the queue", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            a.ask("SUBSCRIBE\nid:1\nauto-delete:true\ndestination:/queue/~q").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("SEND to its own queue, auto-delete", sends_to_its_own("auto-delete:true\n")),
        case("SEND to its own queue, not durable", sends_to_its_own("durable:false\n")),
        case("SEND to its own queue, exclusive", sends_to_its_own("exclusive:true\n")),
        case(
            "SEND to its own queue, for replies as rx-stomp makes it",
            sends_to_its_own("durable:false\nauto-delete:true\nexclusive:true\n"),
        ),
        case("SEND to its own queue, with a TTL", sends_to_its_own("x-message-ttl:60000\n")),
        case("SEND to its own queue, that expires", sends_to_its_own("x-expires:60000\n"))
        .limited("B2"),
        case("SEND to its own queue, with a length", sends_to_its_own("x-max-length:10\n")),
        case("SEND to its own quorum queue", sends_to_its_own("x-queue-type:quorum\n"))
        .limited("B2"),
        case("SEND to its own queue that went with its subscription", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nauto-delete:true\ndestination:/queue/~q").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            backend.until_gone("~q").await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            a.end().await;
            backend.describe("~q").await;
        })
        .differs(&["S35"])
        .with_backend(),
        case("another argument than the queue has, by SEND", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nx-max-length:10\ndestination:/queue/~q").await;
            let mut b = t.client().await;
            b.ask("SEND\ndestination:/queue/~q\n\nx").await;
            b.end().await;
        })
        .limited("B3")
        .differs(&["E7"])
        .differs_since("4.0", &[]),
        case("another argument than the queue of a backend has", async |t| {
            let backend = t.amqp().await;
            backend.queue("~q", FieldTable::default()).await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nx-message-ttl:1000\ndestination:/queue/~q").await;
            a.end().await;
        })
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"])
        .with_backend(),
        case("a plain topic", binds(""))
        .differs(&["S1"]).with_backend(),
        case("a topic with acknowledgements", binds("ack:client\n"))
        .differs(&["S1"]).with_backend(),
        case("a topic with a prefetch", binds("prefetch-count:5\n"))
        .differs(&["S1"]).with_backend(),
        case("a durable topic", binds("durable:true\nauto-delete:false\n")).with_backend(),
        case("a durable topic with auto-delete", binds("durable:true\n")).with_backend(),
        case("an exclusive topic", binds("exclusive:true\n"))
        .differs(&["S1"]).with_backend(),
        case("the queue of a topic goes with its client", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nack:client\nx-queue-name:~q\ndestination:/topic/~a").await;
            a.leave().await;
            backend.until_gone("~q").await;
        })
        .with_backend(),
        case("max-length drops the oldest", async |t| {
            let mut a = t.client().await;
            for number in 0..4 {
                a.ask(format!("SEND\nx-max-length:2\ndestination:/queue/~q\n\n{number}")).await;
            }
            a.ask("SUBSCRIBE\nid:1\nx-max-length:2\ndestination:/queue/~q").await;
            a.hear(2).await;
            a.end().await;
        }),
        case("a message that expires goes to the dead letters", async |t| {
            let backend = t.amqp().await;
            backend.exchange("~dead", ExchangeKind::Fanout).await;
            backend.queue("~letters", FieldTable::default()).await;
            backend.bind("~letters", "~dead", "").await;
            let mut a = t.client().await;
            a.ask("SEND\nexpiration:1\nx-dead-letter-exchange:~dead\ndestination:/queue/~q\n\nx").await;
            backend.until_ready("~letters", 1).await;
        })
        .with_backend(),
        case("a queue's TTL", async |t| {
            let backend = t.amqp().await;
            backend.exchange("~dead", ExchangeKind::Fanout).await;
            backend.queue("~letters", FieldTable::default()).await;
            backend.bind("~letters", "~dead", "").await;
            let mut a = t.client().await;
            a.ask("SEND\nx-message-ttl:1\nx-dead-letter-exchange:~dead\nx-dead-letter-routing-key:k\ndestination:/queue/~q\n\nx")
                .await;
            backend.until_ready("~letters", 1).await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~letters").await;
            let headers = a.headers_of_message(&["destination"]).await;
            t.saw(&headers);
        })
        .with_backend(),
        case("priorities", async |t| {
            let mut a = t.client().await;
            for priority in [0, 3, 1, 5] {
                a.ask(format!(
                    "SEND\nx-max-priority:5\npriority:{priority}\ndestination:/queue/~q\n\n{priority}"
                ))
                .await;
            }
            a.ask("SUBSCRIBE\nid:1\nx-max-priority:5\ndestination:/queue/~q").await;
            a.hear(4).await;
            a.end().await;
        })
        .limited("B2"),
        case("messages of a quorum queue", async |t| {
            let mut a = t.client().await;
            a.show(&["x-acquired-count", "x-delivery-count"]);
            a.ask("SUBSCRIBE\nid:1\nack:client\nx-queue-type:quorum\ndestination:/queue/~q").await;
            a.ask("SEND\nx-queue-type:quorum\ndestination:/queue/~q\n\nx").await;
            let id = a.message().await;
            a.ask(format!("NACK\nid:{id}")).await;
            let id = a.message().await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.end().await;
        })
        .limited("B2"),
    ]
}
