use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::time::advance;

use super::*;
use crate::{
    broker::{Delivery, Message, Properties},
    hub::{Item, Mailbox, MailboxConfig, Overflow},
};
use stomp_session::Problem;

const ONE: SubscriptionId = SubscriptionId(1);
const TWO: SubscriptionId = SubscriptionId(2);
const BODY: usize = 10_000;

/// A broker with one queue a subscription, which has numbers as messages.
struct Queue {
    subscription: SubscriptionId,
    mailbox: Arc<Mailbox>,
    ready: BTreeSet<u64>,
    /// Tags, and a number that shows if it was seen.
    unsettled: Vec<(u64, u64)>,
    seen: BTreeSet<u64>,
    last: u64,
    handed: u64,
    accepted: Vec<u64>,
    prefetch: usize,
}

impl Queue {
    fn new(subscription: SubscriptionId, mailbox: &Arc<Mailbox>, messages: u64) -> Self {
        Self {
            subscription,
            mailbox: Arc::clone(mailbox),
            ready: (1..=messages).collect(),
            unsettled: Vec::new(),
            seen: BTreeSet::new(),
            last: 0,
            handed: 0,
            accepted: Vec::new(),
            prefetch: 50,
        }
    }

    /// Sends what the prefetch allows.
    fn send(&mut self) {
        while self.unsettled.len() < self.prefetch {
            let Some(number) = self.ready.pop_first() else {
                return;
            };
            self.last += 1;
            self.unsettled.push((self.last, number));
            let delivery = Delivery {
                message: message(number),
                tag: self.last,
                redelivered: !self.seen.insert(number),
            };
            let mailbox = &self.mailbox;
            if mailbox.push_dedicated(self.subscription, delivery, self.handed) {
                self.handed = self.last;
            }
        }
    }

    fn requeue(&mut self, tag: u64) {
        let at = self.unsettled.iter().position(|(known, _)| *known == tag);
        let (_, number) = self.unsettled.remove(at.expect("it is unsettled"));
        self.ready.insert(number);
    }

    fn accept(&mut self, tag: u64, multiple: bool) {
        let steps = match self.mailbox.settling(self.subscription, tag, multiple) {
            Settling::Plain => vec![(tag, multiple)],
            Settling::Each(list) => list,
        };
        for (tag, multiple) in steps {
            // As the trait says: a settled or unknown tag has no effect.
            if !self.unsettled.iter().any(|(known, _)| *known == tag) {
                continue;
            }
            let is_meant = |known: u64| known == tag || (multiple && known < tag);
            let meant = self.unsettled.iter().filter(|(known, _)| is_meant(*known));
            self.accepted.extend(meant.map(|(_, number)| *number));
            self.unsettled.retain(|(known, _)| !is_meant(*known));
        }
    }
}

fn message(number: u64) -> Arc<Message> {
    let mut body = vec![b'.'; BODY];
    body.splice(..8, number.to_be_bytes());
    let properties = Properties::default();
    Arc::new(Message::new(
        "".into(),
        "q".into(),
        properties,
        Bytes::from(body),
    ))
}

fn number(parcel: &Parcel) -> u64 {
    u64::from_be_bytes(parcel.message.body[..8].try_into().unwrap())
}

fn mailbox(room: usize) -> Arc<Mailbox> {
    Mailbox::new(MailboxConfig {
        max_messages: 10,
        max_bytes: room * message(0).weight(),
        overflow: Overflow::Disconnect,
    })
}

fn take(mailbox: &Mailbox) -> Option<Item> {
    match mailbox.poll_take(&Context::from_waker(Waker::noop())) {
        Poll::Ready(item) => Some(item),
        Poll::Pending => None,
    }
}

/// Takes and accepts one message after the other; returns them by subscription.
fn work_off(queues: &mut [Queue], multiple: bool) -> Vec<(SubscriptionId, u64)> {
    let mailbox = Arc::clone(&queues[0].mailbox);
    let most = mailbox.limits.max_bytes;
    let mut taken = Vec::new();
    loop {
        queues.iter_mut().for_each(Queue::send);
        assert!(mailbox.bytes() <= most, "{} bytes wait", mailbox.bytes());
        let find = |queues: &[Queue], id| queues.iter().position(|queue| queue.subscription == id);
        match take(&mailbox) {
            Some(Item::Parcel(parcel)) => {
                let at = find(queues, parcel.subscription).unwrap();
                taken.push((parcel.subscription, number(&parcel)));
                queues[at].accept(parcel.tag, multiple);
            }
            Some(Item::Again(list)) => {
                for (subscription, tag) in list {
                    let at = find(queues, subscription).unwrap();
                    queues[at].requeue(tag);
                }
            }
            Some(other) => panic!("{other:?}"),
            None => return taken,
        }
    }
}

/// The attack: hundreds of subscriptions, and a client that does not read.
#[tokio::test(start_paused = true)]
async fn what_does_not_fit_waits_at_the_broker() {
    let mailbox = mailbox(3);
    let mut queues: Vec<_> = (1..=300)
        .map(|id| Queue::new(SubscriptionId(id), &mailbox, 2))
        .collect();
    queues.iter_mut().for_each(Queue::send);
    assert_eq!(mailbox.bytes(), 3 * message(0).weight());
    let taken = work_off(&mut queues, true);
    assert_eq!(taken.len(), 600);
    for queue in &queues {
        assert_eq!(queue.accepted, [1, 2]);
        assert!(queue.unsettled.is_empty() && queue.ready.is_empty());
    }
    assert!(mailbox.state.lock().dedicated.is_none(), "nothing is kept");
}

/// Settling each message, or all up to it: in order, and nothing is accepted unseen.
#[tokio::test(start_paused = true)]
async fn a_backlog_comes_whole_and_in_order() {
    for multiple in [false, true] {
        for room in [1, 2, 7, 49] {
            let mailbox = mailbox(room);
            let mut queues = [ONE, TWO].map(|id| Queue::new(id, &mailbox, 500));
            let taken = work_off(&mut queues, multiple);
            for queue in &queues {
                let own: Vec<_> = taken
                    .iter()
                    .filter(|(id, _)| *id == queue.subscription)
                    .map(|(_, number)| *number)
                    .collect();
                let all: Vec<_> = (1..=500).collect();
                assert_eq!(own, all, "multiple: {multiple}, room for {room}");
                assert_eq!(queue.accepted, all, "multiple: {multiple}, room for {room}");
            }
        }
    }
}

/// A client that acknowledges the last of what it has, "and all before", as STOMP has it.
#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_unseen() {
    let mailbox = mailbox(2);
    let mut queue = Queue::new(ONE, &mailbox, 6);
    queue.send();
    let mut last = 0;
    let mut seen = 0;
    for _ in 0..100 {
        match take(&mailbox) {
            Some(Item::Parcel(parcel)) => (last, seen) = (parcel.tag, number(&parcel)),
            Some(Item::Again(list)) => {
                list.into_iter().for_each(|(_, tag)| queue.requeue(tag));
                queue.send();
            }
            Some(other) => panic!("{other:?}"),
            None => break,
        }
        if seen == 3 {
            break;
        }
    }
    assert_eq!(seen, 3, "some are still aside");
    queue.accept(last, true);
    assert_eq!(queue.accepted, [1, 2, 3]);
    // Nor at the end, when the client is gone.
    mailbox.close();
    queue.accept(last, true);
    assert_eq!(queue.accepted, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn one_alone_is_never_too_much() {
    let mailbox = Mailbox::new(MailboxConfig {
        max_messages: 10,
        max_bytes: 1,
        overflow: Overflow::Disconnect,
    });
    let mut queue = Queue::new(ONE, &mailbox, 1);
    queue.send();
    assert!(matches!(take(&mailbox), Some(Item::Parcel(_))));
}

/// Another consumer of the same queue may get a message that was asked for. The next one still
/// comes.
#[tokio::test(start_paused = true)]
async fn what_does_not_come_again_keeps_nobody_waiting() {
    let mailbox = mailbox(1);
    let mut queue = Queue::new(ONE, &mailbox, 3);
    queue.send();
    assert!(matches!(take(&mailbox), Some(Item::Parcel(_))));
    let Some(Item::Again(list)) = take(&mailbox) else {
        panic!("nothing was asked for");
    };
    assert_eq!(list, [(ONE, 2)]);
    // The second has gone to another. The third is aside, and its turn comes.
    assert!(take(&mailbox).is_none());
    advance(ROOM_KEPT).await;
    assert!(matches!(take(&mailbox), Some(Item::Again(list)) if list == [(ONE, 3)]));
    queue.requeue(3);
    queue.send();
    assert!(matches!(take(&mailbox), Some(Item::Parcel(parcel)) if number(&parcel) == 3));
    // In the end nothing is known of them.
    advance(AWAITED).await;
    assert!(take(&mailbox).is_none());
    assert!(mailbox.state.lock().dedicated.is_none());
}

/// RabbitMQ takes a stream's requeued message for accepted.
#[tokio::test(start_paused = true)]
async fn a_stream_s_slow_client_is_closed() {
    let mailbox = mailbox(1);
    for tag in 1..=2 {
        let properties = Properties {
            headers: vec![("x-stream-offset".into(), tag.to_string().into())],
            ..Properties::default()
        };
        let body = Bytes::from(vec![b'.'; BODY]);
        let delivery = Delivery {
            message: Arc::new(Message::new("".into(), "s".into(), properties, body)),
            tag,
            redelivered: false,
        };
        mailbox.push_dedicated(ONE, delivery, tag - 1);
    }
    let item = take(&mailbox);
    assert!(matches!(item, Some(Item::Problem(Problem::SlowConsumer))));
}
