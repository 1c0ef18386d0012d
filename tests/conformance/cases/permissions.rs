//! A user who may do everything, save where a name or a routing key says "secret".

use crate::{
    case::{Case, case},
    scene::Scene,
    server::LIMITED,
};

fn asks(frame: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client_as(LIMITED).await;
        a.ask(frame).await;
        a.end().await;
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "SUBSCRIBE to a queue",
            asks("SUBSCRIBE\nid:1\ndestination:/queue/~secret"),
        )
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3", "V6"]),
        case("SUBSCRIBE to an existing queue", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\ndestination:/queue/~secret\n\nx").await;
            let mut b = t.client_as(LIMITED).await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~secret")
                .await;
            b.end().await;
        })
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3", "V6"]),
        case(
            "SEND to a queue",
            asks("SEND\ndestination:/queue/~secret\n\nx"),
        )
        .differs(&["E7"])
        .differs_since("4.0", &["V6"]),
        case(
            "SUBSCRIBE by x-queue-name",
            asks("SUBSCRIBE\nid:1\nx-queue-name:~secret\ndestination:/topic/~a"),
        )
        .differs(&["E3", "E7"])
        .differs_since("4.0", &["E3", "V6"]),
        case(
            "SUBSCRIBE to a topic",
            asks("SUBSCRIBE\nid:1\ndestination:/topic/~.secret"),
        )
        .differs(&["E3", "E7", "R3"])
        .differs_since("4.0", &["E3", "R3", "V6"]),
        case(
            "SUBSCRIBE to a pattern",
            asks("SUBSCRIBE\nid:1\ndestination:/topic/~.*"),
        ),
        case(
            "SEND to a topic",
            asks("SEND\ndestination:/topic/~.secret\n\nx"),
        )
        .differs(&["E7"])
        .differs_since("4.0", &["E7", "V6"]),
        case(
            "SEND to a key of a direct exchange",
            asks("SEND\ndestination:/exchange/amq.direct/~secret\n\nx"),
        )
        .differs(&["R1"]),
        case(
            "SUBSCRIBE to a key of a direct exchange",
            asks("SUBSCRIBE\nid:1\ndestination:/exchange/amq.direct/~secret"),
        )
        .differs(&["R1"]),
        case("SEND within a transaction", async |t| {
            let mut a = t.client_as(LIMITED).await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/topic/~.secret\n\nx")
                .await;
            a.say("COMMIT\ntransaction:t").await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["E7"])
        .differs_since("4.0", &["E7", "V6"]),
        case("what is allowed is done", async |t| {
            let mut a = t.client_as(LIMITED).await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
            a.end().await;
        }),
    ]
}
