//! One client with thousands of subscriptions to one key: its messages cost the feed, which serves others,
//! no more each than those of a client with a few.

use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::broker::{Properties, journal::CURSOR_HEADER};

const FEW: u32 = 200;
const MANY: u32 = 4_000;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Deltas,
    Newest,
    Windows,
    /// The same, where each message drops another.
    Dropping,
    Acknowledged,
}

fn message(key: u32, offset: u32) -> Arc<Message> {
    let mut properties = Properties::default();
    let cursor = format!("5b8d59a4-{offset}-6ba4d1ed");
    properties
        .headers
        .push((CURSOR_HEADER.into(), cursor.into()));
    let body = Bytes::from(vec![b'.'; 100]);
    let message = Message::new("feed".into(), key.to_string().into(), properties, body);
    Arc::new(message)
}

fn mailbox(kind: Kind, count: u32) -> Arc<Mailbox> {
    let is_dropping = matches!(kind, Kind::Dropping);
    let mailbox = Mailbox::new(MailboxConfig {
        max_messages: if is_dropping { count } else { u32::MAX } as usize,
        max_bytes: usize::MAX,
        overflow: Overflow::DropOldest,
    });
    for id in (0..count).map(SubscriptionId) {
        match kind {
            Kind::Plain => {}
            Kind::Deltas => mailbox.follow(id),
            Kind::Newest | Kind::Dropping => mailbox.conflate(id, Conflate::Latest),
            Kind::Windows => {
                let window = Duration::from_secs(60);
                mailbox.conflate(id, Conflate::Every(window));
            }
            Kind::Acknowledged => mailbox.track(id, &Acks::new(u16::MAX, &mailbox)),
        }
    }
    mailbox
}

/// Of this thread: others may be busy.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// The time for each message, put in and taken out.
fn cost(kind: Kind, count: u32) -> Duration {
    let mailbox = mailbox(kind, count);
    let taken = || mailbox.poll_take(&Context::from_waker(Waker::noop()));
    let begun = cpu_time();
    for round in 0..3 {
        let message = message(round, round);
        for id in (0..count).map(SubscriptionId) {
            mailbox.push_shared(id, &message);
        }
        while !matches!(kind, Kind::Dropping) && taken().is_ready() {}
    }
    (cpu_time() - begun) / (3 * count)
}

/// Its time must not grow with their number; by a search through all it would twentyfold.
#[tokio::test]
async fn a_message_costs_the_same_among_thousands_of_subscriptions() {
    for kind in [
        Kind::Plain,
        Kind::Deltas,
        Kind::Newest,
        Kind::Windows,
        Kind::Dropping,
        Kind::Acknowledged,
    ] {
        let [few, many] = [FEW, MANY].map(|count| {
            let tries = (0..5).map(|_| cost(kind, count));
            tries.min().unwrap()
        });
        println!("{kind:?}: {few:?} each among {FEW}, {many:?} among {MANY}");
        assert!(many < few * 5, "{kind:?}: {few:?} and {many:?}");
    }
}
