//! The cases, by group. A name says what is shown; its blanks are underscores for the test runner.

mod acknowledging;
mod connecting;
mod destinations;
mod frames;
mod permissions;
mod queues;
mod receipts;
mod replies;
mod sending;
mod streams;
mod subscriptions;
mod transactions;
mod websocket;

use crate::{case::Case, client::Client, scene::Scene};

/// All cases, in the order of the table.
pub(crate) fn all() -> Vec<Case> {
    let groups = [
        ("connecting", connecting::cases()),
        ("frames", frames::cases()),
        ("websocket", websocket::cases()),
        ("destinations", destinations::cases()),
        ("sending", sending::cases()),
        ("receipts", receipts::cases()),
        ("subscriptions", subscriptions::cases()),
        ("queues", queues::cases()),
        ("streams", streams::cases()),
        ("acknowledging", acknowledging::cases()),
        ("transactions", transactions::cases()),
        ("replies", replies::cases()),
        ("permissions", permissions::cases()),
    ];
    let named = groups.into_iter().flat_map(|(group, cases)| {
        cases.into_iter().map(move |mut case| {
            case.name = format!("{group}::{}", case.name);
            case
        })
    });
    named.collect()
}

/// One client asks for these frames, each with a receipt; then records if it is still connected.
fn asks<const N: usize>(frames: [&'static str; N]) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client().await;
        for frame in frames {
            a.ask(frame).await;
        }
        a.end().await;
    }
}

/// A client that has subscribed to a queue with this mode of acknowledgement and got a message, and the
/// message's id.
async fn with_message(t: &mut Scene, mode: &str) -> (Client, String) {
    let mut a = t.client().await;
    a.ask(format!(
        "SUBSCRIBE\nid:1\nack:{mode}\ndestination:/queue/~q"
    ))
    .await;
    a.ask("SEND\ndestination:/queue/~q\n\nx").await;
    let id = a.message().await;
    (a, id)
}

/// One client says these frames, which no receipt answers, and hears one frame after the last.
fn says<const N: usize>(
    version: &'static str,
    frames: [&'static str; N],
) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client_speaking(version).await;
        for frame in frames {
            a.say(frame).await;
        }
        a.hear(1).await;
        a.end().await;
    }
}
