use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::advance;

use super::*;
use crate::{
    broker::{Delivery, DeliverySink as _, Message, Properties},
    hub::{DedicatedSink, Item, Mailbox, MailboxConfig, Overflow},
};
use stomp_session::Problem;

const ONE: SubscriptionId = SubscriptionId(1);
const TWO: SubscriptionId = SubscriptionId(2);
const BODY: usize = 10_000;

/// A broker with one queue a subscription, which has numbers as messages.
struct Queue {
    subscription: SubscriptionId,
    mailbox: Arc<Mailbox>,
    sink: DedicatedSink,
    ready: BTreeSet<u64>,
    /// Tags, and a number that shows if it was seen.
    unsettled: Vec<(u64, u64)>,
    seen: BTreeSet<u64>,
    last: u64,
    accepted: Vec<u64>,
    prefetch: usize,
}

impl Queue {
    fn new(subscription: SubscriptionId, mailbox: &Arc<Mailbox>, messages: u64) -> Self {
        Self {
            subscription,
            mailbox: Arc::clone(mailbox),
            sink: DedicatedSink::new(Arc::clone(mailbox), subscription),
            ready: (1..=messages).collect(),
            unsettled: Vec::new(),
            seen: BTreeSet::new(),
            last: 0,
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
            self.sink.deliver(Delivery {
                message: message(number),
                tag: self.last,
                redelivered: !self.seen.insert(number),
            });
        }
    }

    /// The link is lost, and is back.
    fn take_back(&mut self) {
        let unsettled = self.unsettled.drain(..);
        self.ready.extend(unsettled.map(|(_, number)| number));
        self.sink.taken_back();
    }

    /// Another subscription has the queue from now on.
    fn pass_on(self, subscription: SubscriptionId) -> Self {
        let unsettled = self.unsettled.iter().map(|(_, number)| *number);
        Self {
            ready: self.ready.iter().copied().chain(unsettled).collect(),
            seen: self.seen.clone(),
            accepted: self.accepted.clone(),
            prefetch: self.prefetch,
            ..Self::new(subscription, &self.mailbox, 0)
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

fn keeps_nothing(mailbox: &Mailbox) -> bool {
    mailbox.state.lock().dedicated.is_none() && mailbox.bytes() == 0
}

/// No time passes: nobody waits for messages of tags that the broker does not know.
#[tokio::test(start_paused = true)]
async fn after_a_lost_link_no_tag_of_before_is_asked_for() {
    for is_asked in [false, true] {
        let mailbox = mailbox(1);
        let mut queue = Queue::new(ONE, &mailbox, 4);
        queue.send();
        if is_asked {
            assert!(matches!(take(&mailbox), Some(Item::Parcel(_))));
            assert!(matches!(take(&mailbox), Some(Item::Again(_))));
        }
        queue.take_back();
        queue.send();
        let last_of_before = 4;
        let taken = match take(&mailbox) {
            Some(Item::Parcel(parcel)) => parcel,
            other => panic!("{other:?}"),
        };
        assert_eq!((taken.tag, number(&taken)), (last_of_before + 1, 1));
        queue.accept(taken.tag, true);
        let rest = work_off(&mut [queue], true);
        assert_eq!(rest, [(ONE, 2), (ONE, 3), (ONE, 4)], "{is_asked}");
        assert!(keeps_nothing(&mailbox));
    }
}

/// What waits comes again, and what its client has is acknowledged in vain: neither counts.
#[tokio::test(start_paused = true)]
async fn what_waits_at_a_lost_link_comes_once() {
    let mailbox = mailbox(9);
    let mut queue = Queue::new(ONE, &mailbox, 4);
    queue.send();
    let Some(Item::Parcel(first)) = take(&mailbox) else {
        panic!("nothing waits");
    };
    queue.take_back();
    assert!(keeps_nothing(&mailbox));
    queue.accept(first.tag, true);
    let mut queues = [queue];
    let taken = work_off(&mut queues, true);
    assert_eq!(taken, [(ONE, 1), (ONE, 2), (ONE, 3), (ONE, 4)]);
    assert_eq!(queues[0].accepted, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_ends_leaves_its_room_to_others() {
    for ends_by_itself in [false, true] {
        let mailbox = mailbox(2);
        let [one, mut two] = [ONE, TWO].map(|id| Queue::new(id, &mailbox, 9));
        let mut one = Some(one);
        one.as_mut().unwrap().send();
        two.send();
        // Room is kept for the first one's messages.
        let asked = loop {
            match take(&mailbox) {
                Some(Item::Parcel(parcel)) => assert_eq!(parcel.subscription, ONE),
                Some(Item::Again(list)) => break list,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(asked[0].0, ONE);
        match ends_by_itself {
            true => one = None,
            false => one.as_ref().unwrap().sink.end(),
        }
        let mut queues = [two];
        let taken = work_off(&mut queues, true);
        assert_eq!(
            taken,
            (1..=9).map(|number| (TWO, number)).collect::<Vec<_>>()
        );
        assert_eq!(queues[0].accepted, (1..=9).collect::<Vec<_>>());
        assert_eq!(mailbox.bytes(), 0);
        drop((one, queues));
        assert!(keeps_nothing(&mailbox));
    }
}

/// Its client may acknowledge what it has, and an acknowledgement that is under way when somebody
/// ends the subscription meets all that was put aside.
#[tokio::test(start_paused = true)]
async fn after_the_end_nothing_is_accepted_unseen() {
    let mailbox = mailbox(2);
    let mut queue = Queue::new(ONE, &mailbox, 8);
    queue.send();
    let mut seen = Vec::new();
    // So that some pass others that are aside.
    while seen.len() < 3 {
        match take(&mailbox) {
            Some(Item::Parcel(parcel)) => seen.push((parcel.tag, number(&parcel))),
            Some(Item::Again(list)) => {
                list.into_iter().for_each(|(_, tag)| queue.requeue(tag));
                queue.send();
            }
            other => panic!("{other:?}"),
        }
    }
    queue.sink.end();
    assert_eq!(mailbox.bytes(), 0);
    // Its consumer gives back what it still delivers, with the rest.
    queue.ready.insert(9);
    queue.send();
    assert!(take(&mailbox).is_none());
    assert_eq!(mailbox.bytes(), 0);
    queue.accept(seen[2].0, true);
    assert_eq!(queue.accepted, [1, 2, 3]);
    drop(queue);
    assert!(keeps_nothing(&mailbox));
}

/// Whatever happens to the subscriptions of a client: it sees every message, no other is accepted,
/// nobody waits for what does not come, and nothing is kept.
#[tokio::test(start_paused = true)]
async fn all_come_through_lost_links_and_ends() {
    for seed in 0..300 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mailbox = mailbox(dice.random_range(1..6));
        let most = mailbox.limits.max_bytes;
        let mut queues: Vec<_> = (1..=3)
            .map(|id| Queue {
                prefetch: dice.random_range(1..30),
                ..Queue::new(SubscriptionId(id), &mailbox, 40)
            })
            .collect();
        let mut next = 4;
        // What the client has not acknowledged: subscriptions, tags and numbers.
        let mut at_client = Vec::new();
        let mut seen: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 3];
        for _ in 0..300 {
            queues.iter_mut().for_each(Queue::send);
            assert!(mailbox.bytes() <= most, "{seed}: {}", mailbox.bytes());
            let at = dice.random_range(0..3);
            match dice.random_range(0..20) {
                0 => queues[at].take_back(),
                1 => {
                    let queue = queues.remove(at);
                    queue.sink.end();
                    queues.insert(at, queue.pass_on(SubscriptionId(next)));
                    next += 1;
                }
                2..7 if !at_client.is_empty() => {
                    let (id, tag, _) = at_client[dice.random_range(0..at_client.len())];
                    let found = queues.iter_mut().find(|queue| queue.subscription == id);
                    if let Some(queue) = found {
                        queue.accept(tag, dice.random());
                    }
                }
                _ => match take(&mailbox) {
                    Some(Item::Parcel(parcel)) => {
                        let id = parcel.subscription;
                        let at = queues.iter().position(|queue| queue.subscription == id);
                        seen[at.expect("it is open")].insert(number(&parcel));
                        at_client.push((id, parcel.tag, number(&parcel)));
                    }
                    Some(Item::Again(list)) => {
                        for (id, tag) in list {
                            let found = queues.iter_mut().find(|queue| queue.subscription == id);
                            found.expect("it is open").requeue(tag);
                        }
                    }
                    Some(other) => panic!("{other:?}"),
                    None => {}
                },
            }
        }
        // What was asked for comes, the client acknowledges what it has, and the rest is worked off.
        queues.iter_mut().for_each(Queue::send);
        for queue in &mut queues {
            let at_broker = |tag| queue.unsettled.iter().any(|(known, _)| *known == tag);
            let of_queue = at_client
                .iter()
                .filter(|(id, ..)| *id == queue.subscription);
            let tags: Vec<u64> = of_queue.map(|(_, tag, _)| *tag).collect();
            let tags: Vec<u64> = tags.into_iter().filter(|tag| at_broker(*tag)).collect();
            for tag in tags {
                queue.accept(tag, false);
            }
        }
        for (id, number) in work_off(&mut queues, false) {
            let at = queues.iter().position(|queue| queue.subscription == id);
            seen[at.unwrap()].insert(number);
        }
        for (queue, seen) in queues.iter().zip(&seen) {
            let accepted: BTreeSet<u64> = queue.accepted.iter().copied().collect();
            assert_eq!(accepted, (1..=40).collect(), "{seed}");
            assert_eq!(accepted.len(), queue.accepted.len(), "{seed}");
            assert_eq!(accepted, *seen, "{seed}: accepted unseen");
        }
        assert_eq!(mailbox.bytes(), 0);
        drop(queues);
        assert!(keeps_nothing(&mailbox), "{seed}");
    }
}

/// The link is lost between a message's way out of the mailbox and its writing.
#[tokio::test(start_paused = true)]
async fn what_is_taken_back_on_its_way_to_the_client_is_not_held() {
    for comes_first in [false, true] {
        let mailbox = mailbox(10);
        let mut queue = Queue::new(ONE, &mailbox, 1);
        queue.send();
        let Some(Item::Parcel(old)) = take(&mailbox) else {
            panic!("no message");
        };
        queue.take_back();
        if comes_first {
            queue.send();
        }
        queue.sink.hold(&old);
        assert!(mailbox.held(ONE, old.tag).is_none());
        queue.send();
        let Some(Item::Parcel(anew)) = take(&mailbox) else {
            panic!("no message");
        };
        queue.sink.hold(&anew);
        assert!(mailbox.held(ONE, anew.tag).is_some());
    }
}

/// RabbitMQ takes a stream's requeued message for accepted.
#[tokio::test(start_paused = true)]
async fn a_stream_s_slow_client_is_closed() {
    let mailbox = mailbox(1);
    let sink = DedicatedSink::new(Arc::clone(&mailbox), ONE);
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
        sink.deliver(delivery);
    }
    let item = take(&mailbox);
    assert!(matches!(item, Some(Item::Problem(Problem::SlowConsumer))));
}
