//! SUBSCRIBE and UNSUBSCRIBE: identifiers, several at once, durable ones.

use super::{asks, says};
use crate::case::{Case, case};

const DURABLE: &str = "SUBSCRIBE\nid:news\ndurable:true\nauto-delete:false\ndestination:/topic/~a";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("without an id in 1.2", asks(["SUBSCRIBE\ndestination:/topic/~a"])),
        case("without an id in 1.1", says("1.1", ["SUBSCRIBE\ndestination:/topic/~a\nreceipt:r"])),
        case("without an id in 1.2, with messages", async |t| {
            let mut a = t.client().await;
            for destination in ["/queue/~q", "/topic/~a"] {
                a.ask(format!("SUBSCRIBE\nack:client\ndestination:{destination}")).await;
                a.ask(format!("SEND\ndestination:{destination}\n\nx")).await;
                let id = a.message().await;
                a.ask(format!("ACK\nid:{id}")).await;
            }
            a.ask("UNSUBSCRIBE\ndestination:/queue/~q").await;
            a.ask("UNSUBSCRIBE\ndestination:/topic/~a").await;
            a.end().await;
        }),
        case("without an id, beside one with an id", async |t| {
            let mut a = t.client_speaking("1.1").await;
            a.ask("SUBSCRIBE\ndestination:/topic/~a").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear_in_any_order(2).await;
            a.ask("UNSUBSCRIBE\ndestination:/topic/~a").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.end().await;
        }),
        case("twice without an id in 1.2", asks([
            "SUBSCRIBE\ndestination:/topic/~a",
            "SUBSCRIBE\ndestination:/topic/~a",
        ]))
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"])
        .differs_since("4.3 strict", &["S36"]),
        case("without an id in 1.0", async |t| {
            let mut a = t.client_speaking("1.0").await;
            a.ask("SUBSCRIBE\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            a.ask("UNSUBSCRIBE\ndestination:/topic/~a").await;
            a.end().await;
        }),
        case("with an id in 1.0", async |t| {
            let mut a = t.client_speaking("1.0").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.end().await;
        }),
        case("twice by one id", asks([
            "SUBSCRIBE\nid:1\ndestination:/topic/~a",
            "SUBSCRIBE\nid:1\ndestination:/topic/~b",
        ]))
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case("twice without an id in 1.0", async |t| {
            let mut a = t.client_speaking("1.0").await;
            a.ask("SUBSCRIBE\ndestination:/topic/~a").await;
            a.ask("SUBSCRIBE\ndestination:/topic/~a").await;
            a.end().await;
        })
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case("one destination by two ids", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SUBSCRIBE\nid:2\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear_in_any_order(2).await;
            a.end().await;
        }),
        case("an id of any text", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:a b\\cc@@d für\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            a.ask("UNSUBSCRIBE\nid:a b\\cc@@d für").await;
            a.end().await;
        }),
        case("an id like those of replies", asks(["SUBSCRIBE\nid:/temp-queue/x\ndestination:/topic/~a"]))
        .differs(&["S3"]),
        case("an unknown ack mode", asks(["SUBSCRIBE\nid:1\nack:maybe\ndestination:/topic/~a"]))
        .differs(&["E9"]),
        case("a prefetch-count of letters", asks([
            "SUBSCRIBE\nid:1\nack:client\nprefetch-count:some\ndestination:/topic/~a",
        ]))
        .differs(&["E9"]),
        case("a switch of another word", asks(["SUBSCRIBE\nid:1\ndurable:maybe\ndestination:/topic/~a"]))
        .differs(&["E9"]),
        case("a selector is passed over", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nselector:a = 1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE ends it", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SUBSCRIBE\nid:2\ndestination:/topic/~a").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            // Without receipts: the plug-in loses them over WebSocket while a queue goes (row P1).
            a.say("SEND\ndestination:/topic/~a\n\nx").await;
            a.say("SEND\ndestination:/topic/~a\n\ny").await;
            a.hear(2).await;
            a.end().await;
        }),
        case("SUBSCRIBE by the id of one that has ended", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~b").await;
            a.say("SEND\ndestination:/topic/~a\n\nx").await;
            a.say("SEND\ndestination:/topic/~b\n\ny").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE of an unknown id", asks(["UNSUBSCRIBE\nid:9"])),
        case("UNSUBSCRIBE of an unknown destination", asks(["UNSUBSCRIBE\ndestination:/topic/~a"])),
        case("UNSUBSCRIBE of nothing", asks(["UNSUBSCRIBE"])),
        case("UNSUBSCRIBE twice", asks([
            "SUBSCRIBE\nid:1\ndestination:/topic/~a",
            "UNSUBSCRIBE\nid:1",
            "UNSUBSCRIBE\nid:1",
        ])),
        case("UNSUBSCRIBE by destination of one with an id", asks([
            "SUBSCRIBE\nid:1\ndestination:/topic/~a",
            "UNSUBSCRIBE\ndestination:/topic/~a",
        ])),
        case("a client that left gets nothing", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.leave().await;
            // Without a receipt: the plug-in loses it over WebSocket while a queue goes (row P1).
            b.say("SEND\ndestination:/topic/~a\n\nmissed").await;
            b.hear(1).await;
            let mut c = t.client().await;
            c.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            b.say("SEND\ndestination:/topic/~a\n\nheard").await;
            b.hear(1).await;
            c.hear(1).await;
        }),
        case("durable without an id", asks(["SUBSCRIBE\ndurable:true\ndestination:/topic/~a"])),
        case("durable without an id in 1.0", says("1.0", ["SUBSCRIBE\ndurable:true\ndestination:/topic/~a"])),
        case("durable keeps messages for who is away", async |t| {
            let mut a = t.client().await;
            a.ask(DURABLE).await;
            a.ask("SEND\ndestination:/topic/~a\n\none").await;
            a.hear(1).await;
            a.leave().await;
            let mut b = t.client().await;
            b.ask("SEND\ndestination:/topic/~a\n\ntwo").await;
            b.ask("SEND\ndestination:/topic/~a\n\nthree").await;
            let mut c = t.client().await;
            // A matter of moments: they may have been on their way to the client that left.
            c.hide(&["redelivered"]);
            c.ask(DURABLE).await;
            c.hear(2).await;
            c.end().await;
        }),
        case("durable by the old name persistent", async |t| {
            let mut a = t.client().await;
            let subscribe = "SUBSCRIBE\nid:1\npersistent:true\nauto-delete:false\ndestination:/topic/~a";
            a.ask(subscribe).await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.ask("SEND\ndestination:/topic/~a\n\nkept").await;
            a.ask(subscribe).await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE keeps a durable queue", async |t| {
            let mut a = t.client().await;
            a.ask(DURABLE).await;
            a.ask("UNSUBSCRIBE\nid:news").await;
            a.ask("SEND\ndestination:/topic/~a\n\nkept").await;
            a.ask(DURABLE).await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE with durable deletes the queue", async |t| {
            let mut a = t.client().await;
            a.ask(DURABLE).await;
            a.ask("UNSUBSCRIBE\nid:news\ndurable:true\nauto-delete:false").await;
            a.ask("SEND\ndestination:/topic/~a\n\nlost").await;
            a.ask(DURABLE).await;
            a.ask("SEND\ndestination:/topic/~a\n\nheard").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE with durable never deletes a queue destination", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndurable:true\nauto-delete:false\ndestination:/queue/~q").await;
            a.ask("UNSUBSCRIBE\nid:1\ndurable:true\nauto-delete:false").await;
            a.ask("SEND\ndestination:/queue/~q\n\nkept").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("durable to an exchange", async |t| {
            let mut a = t.client().await;
            let subscribe = "SUBSCRIBE\nid:1\ndurable:true\nauto-delete:false\ndestination:/exchange/amq.direct/~k";
            a.ask(subscribe).await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~k\n\nkept").await;
            a.ask(subscribe).await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE with durable from an exchange", async |t| {
            let mut a = t.client().await;
            let subscribe = "SUBSCRIBE\nid:1\ndurable:true\nauto-delete:false\ndestination:/exchange/amq.direct/~k";
            a.ask(subscribe).await;
            a.ask("UNSUBSCRIBE\nid:1\ndurable:true\nauto-delete:false").await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~k\n\nkept?").await;
            a.ask(subscribe).await;
            a.ask("SEND\ndestination:/exchange/amq.direct/~k\n\nlast").await;
            while a.body_of_message().await != "last" {}
        })
        .differs(&["S26"]),
        case("SUBSCRIBE with exclusive twice", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            a.ask("SUBSCRIBE\nid:2\nexclusive:true\ndestination:/queue/~q").await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            a.hear_in_any_order(2).await;
            a.end().await;
        }),
        case("SUBSCRIBE to another client's exclusive queue", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            b.end().await;
            let mut c = t.client().await;
            c.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~q").await;
            c.end().await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            a.hear(1).await;
        })
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case("SEND to another client's exclusive queue", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            let mut b = t.client().await;
            b.ask("SEND\ndestination:/queue/~q\n\nx").await;
            b.end().await;
            let mut c = t.client().await;
            c.ask("SEND\ndestination:/amq/queue/~q\n\ny").await;
            a.hear(1).await;
        })
        .differs(&["E7"])
        .differs_since("4.0", &[])
        .differs_since("4.3 strict", &["S36"]),
        case("an exclusive queue after UNSUBSCRIBE", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            backend.describe_what_stays("~q").await;
        })
        .differs(&["S25"])
        .differs_since("4.3 strict", &["S36"])
        .with_backend(),
        case("durable by two users of one id", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask(DURABLE).await;
            let mut b = t.client_as("limited").await;
            b.ask(DURABLE).await;
            backend.bound("amq.topic", "~a").await;
        })
        .differs(&["S8"])
        .with_backend(),
        case("x-queue-name names the queue", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndurable:true\nauto-delete:false\nx-queue-name:~mine\ndestination:/topic/~a").await;
            backend.describe("~mine").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            a.end().await;
        })
        .with_backend(),
        case("two clients share a queue by x-queue-name", async |t| {
            let subscribe = "SUBSCRIBE\nid:1\nack:client\nprefetch-count:1\nauto-delete:false\nx-queue-name:~ours\ndestination:/topic/~a";
            let mut a = t.client().await;
            a.ask(subscribe).await;
            let mut b = t.client().await;
            b.ask(subscribe).await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            b.hear(1).await;
        })
        .differs_since("4.3", &["V2"])
        .differs_since("4.3 strict", &[]),
        case("clients of one queue take turns", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/queue/~q").await;
            b.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/queue/~q").await;
            for number in 0..4 {
                a.ask(format!("SEND\ndestination:/queue/~q\n\n{number}")).await;
            }
            a.hear(2).await;
            b.hear(2).await;
        }),
        case("x-priority", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nx-priority:10\ndestination:/queue/~q").await;
            backend.consumer("~q").await;
            a.end().await;
        })
        .differs(&["S16"])
        .differs_since("4.0", &[])
        .with_backend(),
        case("an exclusive queue is its client's", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            b.ask("SUBSCRIBE\nid:1\nexclusive:true\ndestination:/queue/~q").await;
            b.end().await;
            a.end().await;
        })
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3"]),
        case("a queue that is deleted under its subscriber", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            backend.delete_queue("~q").await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["S22"])
        .with_backend(),
        case("the form of message-id", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:news\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            let id = a.header_of_message("message-id").await;
            let parts: Vec<&str> = id.split("@@").collect();
            t.saw(&format!("{}, the session, {}", parts[0], parts[2]));
        })
        .differs(&["S11"]),
        case("100 subscriptions of one client", async |t| {
            let mut a = t.client().await;
            for number in 0..100 {
                a.say(format!("SUBSCRIBE\nid:{number}\ndestination:/topic/~.{number}")).await;
            }
            a.ask("SEND\ndestination:/topic/~.99\n\nlast").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("UNSUBSCRIBE with messages on the way", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nack:client\nprefetch-count:1\ndestination:/queue/~q").await;
            a.ask("SEND\ndestination:/queue/~q\n\none").await;
            a.ask("SEND\ndestination:/queue/~q\n\ntwo").await;
            a.hear(1).await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.leave().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            b.hear_in_any_order(2).await;
        }),
    ]
}
