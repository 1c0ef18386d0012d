//! ACK and NACK: modes, versions, prefetch, redelivery, and what cannot be acknowledged.

use lapin::{ExchangeKind, types::FieldTable};

use super::{asks, with_message};
use crate::{
    case::{Case, case},
    client::Client,
    scene::Scene,
};

/// A client of this version, subscribed to a queue so, and three messages there.
async fn three(t: &mut Scene, version: &str, headers: &str) -> Client {
    let mut a = t.client_speaking(version).await;
    a.ask(format!("SUBSCRIBE\nid:1\n{headers}destination:/queue/~q"))
        .await;
    for body in ["one", "two", "three"] {
        a.ask(format!("SEND\ndestination:/queue/~q\n\n{body}"))
            .await;
    }
    a
}

/// Hears the messages left in the queue once the client is gone: so many.
async fn left(t: &mut Scene, mut gone: Client, count: usize) {
    gone.leave().await;
    let mut b = t.client().await;
    b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
    b.hear(count).await;
    b.ask("SEND\ndestination:/queue/~q\n\nlast").await;
    b.hear(1).await;
}

/// After three messages, the second one is acknowledged by a frame of which `{id}` is its id; so
/// many are left.
fn second(
    version: &'static str,
    mode: &'static str,
    frame: &'static str,
    count: usize,
) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = three(t, version, &format!("ack:{mode}\n")).await;
        a.hear(1).await;
        let id = a.message().await;
        a.hear(1).await;
        a.ask(frame.replace("{id}", &id)).await;
        left(t, a, count).await;
    }
}

/// As [`second`], for a frame that is refused, or requeues: hears one more frame, and records if
/// the connection is open.
fn second_then(
    version: &'static str,
    mode: &'static str,
    frame: &'static str,
) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = three(t, version, &format!("ack:{mode}\n")).await;
        a.hear(1).await;
        let id = a.message().await;
        a.hear(1).await;
        a.ask(frame.replace("{id}", &id)).await;
        if frame.starts_with("NACK") {
            a.hear(1).await;
        }
        a.end().await;
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("auto, nothing is left", async |t| {
            let mut a = three(t, "1.2", "").await;
            a.hear(3).await;
            left(t, a, 0).await;
        }),
        case("client, nothing is acknowledged", async |t| {
            let mut a = three(t, "1.2", "ack:client\n").await;
            a.hear(3).await;
            left(t, a, 3).await;
        }),
        case(
            "client is cumulative",
            second("1.2", "client", "ACK\nid:{id}", 1),
        ),
        case(
            "client-individual is not",
            second("1.2", "client-individual", "ACK\nid:{id}", 2),
        ),
        case(
            "client in 1.0",
            second("1.0", "client", "ACK\nmessage-id:{id}", 1),
        ),
        case(
            "client in 1.1",
            second("1.1", "client", "ACK\nsubscription:1\nmessage-id:{id}", 1),
        ),
        case(
            "client-individual in 1.1",
            second(
                "1.1",
                "client-individual",
                "ACK\nsubscription:1\nmessage-id:{id}",
                2,
            ),
        ),
        case(
            "1.1 without subscription",
            second("1.1", "client", "ACK\nmessage-id:{id}", 1),
        ),
        case(
            "1.1 with another subscription",
            second("1.1", "client", "ACK\nsubscription:2\nmessage-id:{id}", 1),
        ),
        case(
            "NACK in 1.1 with another subscription",
            second(
                "1.1",
                "client-individual",
                "NACK\nrequeue:false\nsubscription:2\nmessage-id:{id}",
                2,
            ),
        ),
        case(
            "1.2 with headers of other versions",
            second(
                "1.2",
                "client-individual",
                "ACK\nsubscription:9\nmessage-id:x\nid:{id}",
                2,
            ),
        ),
        case(
            "1.2 with the header of 1.1 only",
            second_then("1.2", "client", "ACK\nmessage-id:{id}"),
        ),
        case(
            "1.1 with the header of 1.2 only",
            second_then("1.1", "client", "ACK\nid:{id}"),
        ),
        case("MESSAGE has no ack header in auto", async |t| {
            let mut a = three(t, "1.2", "").await;
            let has = a.header_of_message("ack").await != "(none)";
            t.saw(if has { "ack" } else { "no ack" });
        }),
        case("MESSAGE has no ack header in 1.1", async |t| {
            let mut a = three(t, "1.1", "ack:client\n").await;
            let has = a.header_of_message("ack").await != "(none)";
            t.saw(if has { "ack" } else { "no ack" });
        }),
        case(
            "NACK requeues",
            second_then("1.2", "client-individual", "NACK\nid:{id}"),
        ),
        case(
            "NACK with requeue true",
            second_then("1.2", "client-individual", "NACK\nrequeue:true\nid:{id}"),
        ),
        case(
            "NACK with requeue false",
            second(
                "1.2",
                "client-individual",
                "NACK\nrequeue:false\nid:{id}",
                2,
            ),
        ),
        case(
            "NACK with requeue of another word",
            second_then("1.2", "client-individual", "NACK\nrequeue:maybe\nid:{id}"),
        ),
        case(
            "NACK is cumulative in client",
            second("1.2", "client", "NACK\nrequeue:false\nid:{id}", 1),
        ),
        case(
            "NACK in 1.1",
            second(
                "1.1",
                "client",
                "NACK\nrequeue:false\nsubscription:1\nmessage-id:{id}",
                1,
            ),
        ),
        case(
            "NACK in 1.0",
            second("1.0", "client", "NACK\nrequeue:false\nmessage-id:{id}", 1),
        ),
        case("a message that was requeued comes again", async |t| {
            let (mut a, id) = with_message(t, "client-individual").await;
            a.ask(format!("NACK\nid:{id}")).await;
            let id = a.message().await;
            a.ask(format!("ACK\nid:{id}")).await;
            left(t, a, 0).await;
        }),
        case("NACK without requeue goes to the dead letters", async |t| {
            let backend = t.amqp().await;
            backend.exchange("~dead", ExchangeKind::Fanout).await;
            backend.queue("~letters", FieldTable::default()).await;
            backend.bind("~letters", "~dead", "").await;
            let mut a = t.client().await;
            a.ask(
                "SUBSCRIBE\nid:1\nack:client\nx-dead-letter-exchange:~dead\ndestination:/queue/~q",
            )
            .await;
            a.ask("SEND\nx-dead-letter-exchange:~dead\ndestination:/queue/~q\n\nx")
                .await;
            let id = a.message().await;
            a.ask(format!("NACK\nrequeue:false\nid:{id}")).await;
            backend.until_ready("~letters", 1).await;
        })
        .with_backend(),
        case("NACK of a topic's message", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/topic/~a")
                .await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            let id = a.message().await;
            a.ask(format!("NACK\nid:{id}")).await;
            let id = a.message().await;
            a.ask(format!("NACK\nrequeue:false\nid:{id}")).await;
            a.ask("SEND\ndestination:/topic/~a\n\nlast").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("prefetch-count 1: one after the other", async |t| {
            let mut a = three(t, "1.2", "ack:client\nprefetch-count:1\n").await;
            for _ in 0..3 {
                let id = a.message().await;
                // Nothing more has come by now.
                a.ask("BEGIN\ntransaction:t").await;
                a.ask("ABORT\ntransaction:t").await;
                a.ask(format!("ACK\nid:{id}")).await;
            }
            left(t, a, 0).await;
        }),
        case("prefetch-count 2", async |t| {
            let mut a = three(t, "1.2", "ack:client-individual\nprefetch-count:2\n").await;
            a.hear(1).await;
            let id = a.message().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/queue/~q")
                .await;
            b.hear(1).await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.end().await;
        }),
        case("a socket that is cut gives its messages back", async |t| {
            let mut a = three(t, "1.2", "ack:client\n").await;
            a.hear(3).await;
            drop(a);
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/queue/~q")
                .await;
            b.hear(3).await;
        }),
        case("cumulative over two subscriptions", async |t| {
            let backend = t.amqp().await;
            let mut a = t.client().await;
            for number in [1, 2] {
                a.ask(format!(
                    "SUBSCRIBE\nid:{number}\nack:client\ndestination:/queue/~q{number}"
                ))
                .await;
                a.ask(format!(
                    "SEND\ndestination:/queue/~q{number}\n\nto {number}"
                ))
                .await;
            }
            a.hear(1).await;
            let id = a.message().await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.leave().await;
            backend.count_what_comes("~q1").await;
        })
        .differs(&["A1"])
        .with_backend(),
        case("ACK without an id", asks(["ACK"])),
        case("NACK without an id", asks(["NACK"])),
        case("ACK without a message-id in 1.1", async |t| {
            let mut a = t.client_speaking("1.1").await;
            a.ask("ACK\nsubscription:1").await;
            a.end().await;
        }),
        case("ACK of an id that is none", asks(["ACK\nid:zzz"])),
        case(
            "ACK of another session",
            asks(["ACK\nid:T_1@@session-x@@5"]),
        ),
        case(
            "NACK of another session",
            asks(["NACK\nid:T_1@@session-x@@5"]),
        ),
        case("ACK twice", async |t| {
            let mut a = three(t, "1.2", "ack:client-individual\n").await;
            let id = a.message().await;
            a.hear(2).await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.say(format!("ACK\nid:{id}")).await;
            a.closes().await;
        })
        .differs(&["E7"]),
        case("ACK twice, with a receipt", async |t| {
            let mut a = three(t, "1.2", "ack:client-individual\n").await;
            let id = a.message().await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.hear(2).await;
            // Not with a receipt: the plug-in's comes before its end, or does not.
            a.say(format!("ACK\nid:{id}")).await;
            a.closes().await;
        })
        .differs(&["A2", "E7"]),
        case("ACK of a message of ack auto", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            let id = a.header_of_message("message-id").await;
            a.say(format!("ACK\nid:{id}")).await;
            a.closes().await;
        })
        .differs(&["E7"]),
        case("ACK after UNSUBSCRIBE", async |t| {
            let mut a = three(t, "1.2", "ack:client-individual\n").await;
            let id = a.message().await;
            a.hear(2).await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.end().await;
            a.leave().await;
            let mut b = t.client().await;
            b.ask("SEND\ndestination:/queue/~q\n\nlast").await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            while b.body_of_message().await != "last" {}
        })
        .differs(&["A4"]),
        case(
            "what a client has at UNSUBSCRIBE stays with it",
            async |t| {
                let mut a = three(t, "1.2", "ack:client-individual\n").await;
                a.hear(3).await;
                a.ask("UNSUBSCRIBE\nid:1").await;
                let mut b = t.client().await;
                b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
                b.ask("SEND\ndestination:/queue/~q\n\nfour").await;
                b.hear(1).await;
                a.leave().await;
                b.hear(3).await;
            },
        ),
        case("ACK by another client", async |t| {
            let mut a = three(t, "1.2", "ack:client-individual\n").await;
            let id = a.message().await;
            let mut b = t.client().await;
            b.ask(format!("ACK\nid:{id}")).await;
            b.end().await;
        }),
    ]
}
