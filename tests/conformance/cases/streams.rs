//! Streams: where a subscription begins.

use crate::{
    case::{Case, case},
    scene::Scene,
};

/// Five messages are in a stream; a client subscribes from this offset, and hears so many, the last
/// of which is sent afterwards.
fn from(offset: &'static str, count: usize) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client().await;
        for number in 0..5 {
            a.ask(format!(
                "SEND\nx-queue-type:stream\ndestination:/queue/~q\n\n{number}"
            ))
            .await;
        }
        a.ask(format!(
            "SUBSCRIBE\nid:1\nack:client\nprefetch-count:10\nx-queue-type:stream\n{offset}destination:/queue/~q"
        ))
        .await;
        a.ask("SEND\nx-queue-type:stream\ndestination:/queue/~q\n\nlast")
            .await;
        a.hear(count).await;
        a.end().await;
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let cases = vec![
        case("from the first message", from("x-stream-offset:first\n", 6)).differs_since("4.0", &["S18"]),
        case("from the next message", from("x-stream-offset:next\n", 1)).differs_since("4.0", &["S18"]),
        case("without an offset it is the next", from("", 1)).differs_since("4.0", &["S18"]),
        case(
            "from a message's number",
            from("x-stream-offset:offset=3\n", 3),
        ).differs_since("4.0", &["S18"]),
        case("from a time", from("x-stream-offset:timestamp=1\n", 6)).differs_since("4.0", &["S18"]),
        case("without a prefetch", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nack:client\nx-queue-type:stream\ndestination:/queue/~q")
                .await;
            a.end().await;
        })
        .differs(&["S6", "E7"])
        .differs_since("4.0", &["S6"]),
        case("with ack auto", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nprefetch-count:10\nx-queue-type:stream\ndestination:/queue/~q")
                .await;
            a.end().await;
        })
        .differs(&["S23", "E7"]),
        case("two clients read the same", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            let subscribe = "SUBSCRIBE\nid:1\nack:client\nprefetch-count:10\nx-queue-type:stream\nx-stream-offset:first\ndestination:/queue/~q";
            a.ask("SEND\nx-queue-type:stream\ndestination:/queue/~q\n\none")
                .await;
            a.ask(subscribe).await;
            b.ask(subscribe).await;
            let id = a.message().await;
            b.hear(1).await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.end().await;
        }).differs_since("4.0", &["S18"]),
    ];
    let limited = cases.into_iter().map(|case| case.limited("B2"));
    let mut cases: Vec<Case> = limited.collect();
    cases.push(
        case("an offset that is none", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\nack:client\nprefetch-count:10\nx-queue-type:stream\nx-stream-offset:yesterday\ndestination:/queue/~q").await;
            a.end().await;
        })
        .differs(&["E9", "E7"]),
    );
    cases
}
