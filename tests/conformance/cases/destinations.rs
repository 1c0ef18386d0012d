//! Destinations: all kinds of them, for SEND and for SUBSCRIBE, and texts that are none.

use lapin::{BasicProperties, ExchangeKind, types::FieldTable};

use super::asks;
use crate::{
    case::{Case, case},
    scene::Scene,
};

/// One client sends to it, another subscribes to it.
fn both(destination: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client().await;
        a.ask(format!("SEND\ndestination:{destination}\n\nx")).await;
        a.end().await;
        let mut b = t.client().await;
        b.ask(format!("SUBSCRIBE\nid:1\ndestination:{destination}"))
            .await;
        b.end().await;
    }
}

/// One client subscribes to the first destination, and gets what another sends to the second.
fn delivers(subscribed: &'static str, sent: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client().await;
        a.ask(format!("SUBSCRIBE\nid:1\ndestination:{subscribed}"))
            .await;
        let mut b = t.client().await;
        b.ask(format!("SEND\ndestination:{sent}\n\nhello")).await;
        a.hear(1).await;
        a.end().await;
    }
}

/// As [`delivers`], to a topic pattern: of three keys only those that match arrive, before a last one.
fn matches(
    pattern: &'static str,
    keys: [&'static str; 4],
    last: &'static str,
) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client().await;
        a.ask(format!("SUBSCRIBE\nid:1\ndestination:/topic/{pattern}"))
            .await;
        for key in keys {
            a.ask(format!("SEND\ndestination:/topic/{key}\n\n{key}"))
                .await;
        }
        a.ask(format!("SEND\ndestination:/topic/{last}\n\nlast"))
            .await;
        loop {
            // The last one is known by the record's end: nothing more comes behind it.
            if a.body_of_message().await == "last" {
                break;
            }
        }
        a.end().await;
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        ("nothing", ""),
        ("a slash", "/"),
        ("queue without a name", "/queue"),
        ("queue with an empty name", "/queue/"),
        ("queue with two names", "/queue/a/b"),
        ("topic without a key", "/topic"),
        ("topic with an empty key", "/topic/"),
        ("topic with two keys", "/topic/a/b"),
        ("exchange without a name", "/exchange"),
        ("exchange with an empty name", "/exchange/"),
        ("exchange with an empty name and a key", "/exchange//key"),
        ("exchange with two keys", "/exchange/amq.topic/b/c"),
        ("amq queue without a name", "/amq/queue"),
        ("amq queue with an empty name", "/amq/queue/"),
        ("amq queue with two names", "/amq/queue/a/b"),
        ("amq and something else", "/amq/exchange/a"),
        ("temp-queue", "/temp-queue/x"),
        ("temp-queue without a name", "/temp-queue"),
        ("reply-queue without a name", "/reply-queue/"),
        ("an unknown kind", "/foo/bar"),
        ("a kind in capitals", "/Queue/a"),
        ("a bare name with a slash", "queue/a"),
        ("two slashes", "//queue/a"),
    ]
    .into_iter()
    .map(|(name, destination)| case(&format!("invalid, {name}"), both(destination)))
    .collect();
    cases.extend([
        case("SEND without destination", asks(["SEND\n\nx"])),
        case("SUBSCRIBE without destination", asks(["SUBSCRIBE\nid:1"])),
        case(
            "queue, subscribed before",
            delivers("/queue/~q", "/queue/~q"),
        ),
        case("queue, subscribed afterwards", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\ndestination:/queue/~q\n\none").await;
            a.ask("SEND\ndestination:/queue/~q\n\ntwo").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.hear(2).await;
            a.end().await;
        }),
        case("a bare name is a queue", delivers("/queue/~q", "~q")),
        case(
            "a bare name is subscribed to as a queue",
            delivers("~q", "/queue/~q"),
        ),
        case(
            "queue with a slash in its name",
            delivers("/queue/~a%2Fb", "/queue/~a%2Fb"),
        ),
        case(
            "queue with a blank in its name",
            delivers("/queue/~a b", "/queue/~a b"),
        ),
        case("queue beyond ASCII", delivers("/queue/~für", "/queue/~für")),
        case(
            "an encoded blank",
            delivers("/queue/~a%20b", "/queue/~a%20b"),
        )
        .differs(&["S9"]),
        case("a percent sign", delivers("/queue/~50%", "/queue/~50%")),
        case(
            "a destination with an escaped colon",
            delivers("/queue/~a\\cb", "/queue/~a\\cb"),
        ),
        case("a name of 300 bytes", async |t| {
            let mut a = t.client().await;
            a.ask(format!("SEND\ndestination:/topic/{}\n\nx", "k".repeat(300)))
                .await;
            a.end().await;
        })
        .differs(&["E12"]),
        case("topic", delivers("/topic/~a.b", "/topic/~a.b")),
        case(
            "topic with an encoded slash",
            delivers("/topic/~a%2Fb", "/topic/~a%2Fb"),
        ),
        case(
            "topic patterns with a star",
            matches("~.*.c", ["~.b.c", "~.b", "~.b.x.c", "~.c"], "~.z.c"),
        ),
        case(
            "topic patterns with a hash",
            matches("~.#", ["~.b.c", "~", "b.~", "~.x"], "~.z"),
        ),
        case(
            "topic patterns with both",
            matches("*.~.#.d", ["a.~.d", "a.~.b.c.d", "~.d", "a.b.~.d"], "z.~.d"),
        ),
        case("two overlapping patterns of one client", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~.*").await;
            a.ask("SUBSCRIBE\nid:2\ndestination:/topic/~.#").await;
            a.ask("SEND\ndestination:/topic/~.b\n\nx").await;
            a.hear_in_any_order(2).await;
            a.end().await;
        }),
        case("topic, to two clients", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            b.ask("SUBSCRIBE\nid:2\ndestination:/topic/~a").await;
            b.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            b.hear(1).await;
        }),
        case(
            "topic, to nobody",
            asks(["SEND\ndestination:/topic/~a\n\nx"]),
        ),
        case(
            "a direct exchange",
            delivers("/exchange/amq.direct/~k", "/exchange/amq.direct/~k"),
        ),
        case("a direct exchange, another key", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/exchange/amq.direct/~a")
                .await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~b\n\nelsewhere")
                .await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~a\n\nhere")
                .await;
            a.hear(1).await;
            a.end().await;
        }),
        case("stars mean nothing to a direct exchange", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/exchange/amq.direct/~.*")
                .await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~.b\n\nelsewhere")
                .await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~.*\n\nhere")
                .await;
            a.hear(1).await;
            a.end().await;
        }),
        case(
            "the topic exchange is printed as a topic",
            delivers("/exchange/amq.topic/~.*", "/exchange/amq.topic/~.b"),
        ),
        case("a fanout exchange of one's own", async |t| {
            let backend = t.amqp().await;
            backend.exchange("~x", ExchangeKind::Fanout).await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/exchange/~x").await;
            a.ask("SEND\ndestination:/exchange/~x\n\nwithout a key")
                .await;
            a.ask("SEND\ndestination:/exchange/~x/\n\nwith an empty key")
                .await;
            a.ask("SEND\ndestination:/exchange/~x/any\n\nwith a key")
                .await;
            backend.publish("~x", "other", "from a backend").await;
            a.hear(4).await;
            a.end().await;
        })
        .with_backend(),
        case("a topic exchange of one's own", async |t| {
            let backend = t.amqp().await;
            backend.exchange("~x", ExchangeKind::Topic).await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/exchange/~x/a.*").await;
            backend.publish("~x", "b.b", "elsewhere").await;
            backend.publish("~x", "a.b", "here").await;
            a.hear(1).await;
            a.end().await;
        })
        .with_backend(),
        case("a headers exchange", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/exchange/amq.headers/~k")
                .await;
            // A binding without arguments takes all, also of other cases.
            backend.bound("amq.headers", "~k").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.end().await;
        })
        .differs(&["S1"])
        .with_backend(),
        case("a headers exchange with x-match", async |t| {
            let backend = t.amqp().await;
            backend.exchange("~x", ExchangeKind::Headers).await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nx-match:any\ncolour:red\nsize:5\ndestination:/exchange/~x/k")
                .await;
            let mut b = t.client().await;
            for headers in ["colour:blue\nsize:5", "colour:blue", "colour:red"] {
                b.ask(format!(
                    "SEND\n{headers}\ndestination:/exchange/~x/any\n\n{headers}"
                ))
                .await;
            }
            b.ask("SEND\ncolour:red\ndestination:/exchange/~x\n\nlast")
                .await;
            while a.body_of_message().await != "last" {}
        })
        .differs(&["S33"])
        .with_backend(),
        case(
            "SEND to a missing exchange",
            asks(["SEND\ndestination:/exchange/~x/k\n\nx"]),
        )
        .differs(&["E7"]),
        case(
            "SUBSCRIBE to a missing exchange",
            asks(["SUBSCRIBE\nid:1\ndestination:/exchange/~x/k"]),
        )
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case(
            "the default exchange by a name",
            asks(["SEND\ndestination:/exchange/amq.default/k\n\nx"]),
        )
        .differs(&["E7"]),
        case("amq queue", async |t| {
            let backend = t.amqp().await;
            backend.queue("~q", FieldTable::default()).await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~q").await;
            a.ask("SEND\ndestination:/amq/queue/~q\n\none").await;
            backend.publish("", "~q", "two").await;
            a.hear(2).await;
            a.end().await;
        })
        .with_backend(),
        case("amq queue of a server's name", async |t| {
            let backend = t.amqp().await;
            backend.queue("~q", FieldTable::default()).await;
            backend.bind("~q", "amq.topic", "~.k").await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~q").await;
            a.ask("SEND\ndestination:/topic/~.k\n\nby the binding")
                .await;
            a.hear(1).await;
            a.end().await;
        })
        .with_backend(),
        case(
            "SUBSCRIBE to a missing amq queue",
            asks(["SUBSCRIBE\nid:1\ndestination:/amq/queue/~q"]),
        )
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case(
            "SEND to a missing amq queue",
            asks(["SEND\ndestination:/amq/queue/~q\n\nx"]),
        ),
        case(
            "SEND to a missing reply queue",
            asks(["SEND\ndestination:/reply-queue/~q\n\nx"]),
        ),
        case(
            "SUBSCRIBE to a missing reply queue",
            asks(["SUBSCRIBE\nid:1\ndestination:/reply-queue/~q"]),
        )
        .differs(&["S10", "E7"])
        .differs_since("4.0", &["S10"]),
        case("SUBSCRIBE to a reply queue that is there", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/reply-queue/~q").await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["S10"]),
        case("reply queue with a slash in its name", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~a%2Fb").await;
            a.ask("SEND\ndestination:/reply-queue/~a/b\n\nx").await;
            a.hear(1).await;
            a.end().await;
        }),
        case(
            "what a backend publishes is printed as a destination",
            async |t| {
                let backend = t.amqp().await;
                backend.queue("~q", FieldTable::default()).await;
                for (exchange, key) in [("amq.direct", "~k/1"), ("amq.topic", "~k.2")] {
                    backend.bind("~q", exchange, key).await;
                }
                backend.publish("", "~q", "default").await;
                backend.publish("amq.direct", "~k/1", "direct").await;
                backend.publish("amq.topic", "~k.2", "topic").await;
                backend
                    .publish_with(
                        "amq.direct",
                        "~k/1",
                        "with properties",
                        BasicProperties::default(),
                    )
                    .await;
                let mut a = t.client().await;
                a.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~q").await;
                a.hear(4).await;
                a.end().await;
            },
        )
        .with_backend(),
    ]);
    cases
}
