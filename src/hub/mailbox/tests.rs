use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::Wake,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::broker::{DeliverySink as _, Properties};

const FIRST: SubscriptionId = SubscriptionId(1);
const SECOND: SubscriptionId = SubscriptionId(2);

fn limits(max_messages: usize, max_bytes: usize, overflow: Overflow) -> MailboxConfig {
    MailboxConfig {
        max_messages,
        max_bytes,
        overflow,
    }
}

fn message(key: &str, body: &str) -> Arc<Message> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let message = Message::new("feed".into(), key.into(), Properties::default(), body);
    Arc::new(message)
}

fn dedicated(tag: u64) -> Delivery {
    Delivery {
        tag,
        redelivered: false,
        message: message("queue", ""),
    }
}

fn push_dedicated(mailbox: &Mailbox, subscription: SubscriptionId, delivery: Delivery) {
    mailbox.put_dedicated(&mut mailbox.state.lock(), subscription, delivery, 0);
}

fn take(mailbox: &Mailbox) -> Option<Item> {
    match mailbox.poll_take(&Context::from_waker(Waker::noop())) {
        Poll::Ready(item) => Some(item),
        Poll::Pending => None,
    }
}

fn take_parcel(mailbox: &Mailbox) -> Option<Parcel> {
    match take(mailbox) {
        Some(Item::Parcel(parcel)) => Some(parcel),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

/// Of subscriptions that wish it, a key keeps its turn; of others, the policy drops the older message of a
/// key, and the newest comes where it came. The two take turns.
#[test]
fn the_policy_and_a_subscription_s_wish_keep_their_orders() {
    let mailbox = Mailbox::new(limits(5, usize::MAX, Overflow::Conflate));
    mailbox.conflate(SECOND, Conflate::Latest);
    for (key, body) in [("k2", "old"), ("k1", "old"), ("k1", "new")] {
        mailbox.push_shared(FIRST, &message(key, body));
    }
    for (key, body) in [("a", "old"), ("b", "1"), ("a", "new")] {
        mailbox.push_shared(SECOND, &message(key, body));
    }
    assert_eq!(mailbox.waiting().0, 5);
    mailbox.push_shared(SECOND, &message("c", "1"));
    let all: Vec<_> = all(&mailbox).into_iter().collect();
    let expected = [
        ("a=new", 1),
        ("k2=old", 0),
        ("b=1", 0),
        ("k1=new", 0),
        ("c=1", 0),
    ];
    assert_eq!(
        all,
        expected.map(|(text, dropped)| (text.to_owned(), dropped))
    );
}

/// What was full of another subscription's messages is no reason to drop any of this one's.
#[test]
fn a_lane_that_was_full_leaves_others_all_messages() {
    let mailbox = Mailbox::new(limits(3, usize::MAX, Overflow::Conflate));
    mailbox.conflate(SECOND, Conflate::Latest);
    for key in ["a", "b", "c", "d"] {
        mailbox.push_shared(SECOND, &message(key, "1"));
    }
    assert_eq!(all(&mailbox).len(), 3);
    for body in ["1", "2", "3"] {
        mailbox.push_shared(FIRST, &message("k", body));
    }
    let bodies: Vec<_> = all(&mailbox).into_iter().map(|(text, _)| text).collect();
    assert_eq!(bodies, ["k=1", "k=2", "k=3"]);
}

/// The messages taken: `key=body`, with the number of those dropped before it.
fn all(mailbox: &Mailbox) -> Vec<(String, u32)> {
    let parcels = std::iter::from_fn(|| take_parcel(mailbox));
    let shown = parcels.map(|parcel| {
        let body = String::from_utf8_lossy(&parcel.message.body).into_owned();
        (
            format!("{}={body}", parcel.message.routing_key),
            parcel.dropped,
        )
    });
    shown.collect()
}

fn shown(parcels: &[(&str, u32)]) -> Vec<(String, u32)> {
    let owned = parcels
        .iter()
        .map(|(text, count)| (text.to_string(), *count));
    owned.collect()
}

fn holds_no_memory(mailbox: &Mailbox) -> bool {
    let state = mailbox.state.lock();
    state.shared.capacity() == 0
        && state.dedicated.is_none()
        && state.bytes == 0
        && state.in_lanes() == (0, 0)
}

#[test]
fn messages_come_in_order_and_leave_no_memory() {
    let mailbox = Mailbox::new(limits(100, 1 << 20, Overflow::Disconnect));
    for number in 0..50 {
        mailbox.push_shared(FIRST, &message("k", &number.to_string()));
    }
    let bodies: Vec<_> = all(&mailbox).into_iter().map(|(text, _)| text).collect();
    let expected: Vec<_> = (0..50).map(|number| format!("k={number}")).collect();
    assert_eq!(bodies, expected);
    assert!(holds_no_memory(&mailbox));
}

#[test]
fn more_messages_than_allowed_end_the_session() {
    let mailbox = Mailbox::new(limits(3, 1 << 20, Overflow::Disconnect));
    let one = message("k", "x");
    for _ in 0..3 {
        mailbox.push_shared(FIRST, &one);
    }
    assert_eq!(Arc::strong_count(&one), 4);
    mailbox.push_shared(FIRST, &one);
    assert_eq!(Arc::strong_count(&one), 1, "what waited is freed");
    assert!(holds_no_memory(&mailbox));
    // Nothing comes after it.
    mailbox.push_shared(FIRST, &one);
    push_dedicated(&mailbox, FIRST, dedicated(1));
    mailbox.fail(Problem::ShuttingDown);
    assert!(matches!(
        take(&mailbox),
        Some(Item::Problem(Problem::SlowConsumer))
    ));
    assert!(take(&mailbox).is_none());
}

/// A message of a journal.
fn at(offset: u64) -> Arc<Message> {
    let message = Message::clone(&message("k", "0123456789"));
    let journal = JournalId::new("/", "feed");
    crate::broker::journal::stored(message, journal, offset).message
}

/// A client acknowledges a journal's messages, and has them written again: what it leaves
/// unacknowledged counts like what waits.
#[test]
fn messages_that_are_held_take_room() {
    let size = at(0).weight();
    let mailbox = Mailbox::new(limits(100, 4 * size, Overflow::Disconnect));
    let acks = Acks::new(100, &mailbox);
    mailbox.track(FIRST, &acks);
    for offset in 0..2 {
        assert_eq!(mailbox.offer(FIRST, &at(offset)), Offer::Taken);
    }
    let held: Vec<Parcel> = std::iter::from_fn(|| take_parcel(&mailbox)).collect();
    for parcel in &held {
        mailbox.hold(parcel);
    }
    // The past has half of the room, and what comes has all of it.
    assert_eq!(mailbox.offer(FIRST, &at(2)), Offer::Full);
    mailbox.release(FIRST, held[0].tag);
    assert_eq!(mailbox.offer(FIRST, &at(2)), Offer::Taken);
    for offset in 3..6 {
        mailbox.push_shared(FIRST, &at(offset));
    }
    assert!(matches!(
        take(&mailbox),
        Some(Item::Problem(Problem::SlowConsumer))
    ));
}

/// Of a journal whose client acknowledges nothing is left out; so the other subscriptions of the
/// client, of which the policy may drop messages, make room.
#[test]
fn what_may_be_dropped_gives_way_to_what_is_acknowledged() {
    for overflow in [Overflow::DropOldest, Overflow::Conflate] {
        let mailbox = Mailbox::new(limits(3, 1 << 20, overflow));
        let acks = Acks::new(100, &mailbox);
        mailbox.track(FIRST, &acks);
        for key in ["1", "2", "3"] {
            mailbox.push_shared(SECOND, &message(key, "x"));
        }
        mailbox.push_shared(FIRST, &at(0));
        let left = [("2=x", 1), ("3=x", 0), ("k=0123456789", 0)];
        assert_eq!(all(&mailbox), shown(&left), "{overflow:?}");
        // Only if nothing may be dropped.
        for offset in 1..5 {
            mailbox.push_shared(FIRST, &at(offset));
        }
        assert!(matches!(
            take(&mailbox),
            Some(Item::Problem(Problem::SlowConsumer))
        ));
    }
    // Older messages of a key go first.
    let mailbox = Mailbox::new(limits(3, 1 << 20, Overflow::Conflate));
    mailbox.track(FIRST, &Acks::new(100, &mailbox));
    for (key, body) in [("a", "1"), ("b", "1"), ("b", "2")] {
        mailbox.push_shared(SECOND, &message(key, body));
    }
    mailbox.push_shared(FIRST, &at(0));
    let left = [("a=1", 1), ("b=2", 0), ("k=0123456789", 0)];
    assert_eq!(all(&mailbox), shown(&left));
    // So do those in lanes.
    let mailbox = Mailbox::new(limits(3, 1 << 20, Overflow::DropOldest));
    mailbox.track(FIRST, &Acks::new(100, &mailbox));
    mailbox.conflate(SECOND, Conflate::Latest);
    for key in ["1", "2", "3"] {
        mailbox.push_shared(SECOND, &message(key, "x"));
    }
    mailbox.push_shared(FIRST, &at(0));
    let left = [("2=x", 1), ("k=0123456789", 0), ("3=x", 0)];
    assert_eq!(all(&mailbox), shown(&left));
}

/// A flood keeps the mailbox full for ever, but what the policy may drop of it is in nobody's way.
#[test]
fn what_may_be_dropped_gives_way_to_the_past() {
    for overflow in [Overflow::DropOldest, Overflow::Conflate] {
        let mailbox = Mailbox::new(limits(8, 1 << 20, overflow));
        let mut keys = 0..;
        let mut flood = || {
            let key: i32 = keys.next().unwrap();
            mailbox.push_shared(SECOND, &message(&key.to_string(), "x"));
        };
        (0..8).for_each(|_| flood());
        assert!(mailbox.room(FIRST).now_or_never().is_some(), "{overflow:?}");
        let (mut given, mut taken) = (0, 0);
        for _ in 0..32 {
            let parcel = take_parcel(&mailbox).unwrap();
            taken += u64::from(parcel.subscription == FIRST);
            flood();
            if mailbox.offer(FIRST, &at(given)) == Offer::Taken {
                given += 1;
            }
            assert!(given - taken <= 4 && mailbox.waiting().0 <= 8);
        }
        assert!(taken > 8, "{overflow:?}: {taken} of {given}");
        // It has half of the room, and goes on when a quarter waits.
        while mailbox.offer(FIRST, &at(given)) == Offer::Taken {
            given += 1;
        }
        let mut room = Box::pin(mailbox.room(FIRST));
        assert!((&mut room).now_or_never().is_none());
        for _ in 0..8 {
            assert!(take_parcel(&mailbox).is_some());
            flood();
        }
        assert!((&mut room).now_or_never().is_some(), "{overflow:?}");
    }
    // Nothing may be dropped.
    let mailbox = Mailbox::new(limits(8, 1 << 20, Overflow::Disconnect));
    for key in ["1", "2", "3", "4"] {
        mailbox.push_shared(SECOND, &message(key, "x"));
    }
    assert_eq!(mailbox.offer(FIRST, &at(0)), Offer::Full);
    assert_eq!(mailbox.waiting().0, 4);
}

/// What a client holds takes room, too, and others' messages may have filled the rest.
#[test]
fn what_may_be_dropped_gives_way_to_what_is_held() {
    let size = at(0).weight();
    let mailbox = Mailbox::new(limits(100, 3 * size, Overflow::DropOldest));
    let acks = Acks::new(100, &mailbox);
    mailbox.track(FIRST, &acks);
    mailbox.push_shared(FIRST, &at(0));
    mailbox.hold(&take_parcel(&mailbox).unwrap());
    for _ in 0..2 {
        mailbox.push_shared(SECOND, &at(1));
    }
    mailbox.push_shared(FIRST, &at(1));
    let subscriptions: Vec<_> = std::iter::from_fn(|| take_parcel(&mailbox))
        .map(|parcel| (parcel.subscription, parcel.dropped))
        .collect();
    assert_eq!(subscriptions, [(SECOND, 1), (FIRST, 0)]);
}

#[test]
fn more_bytes_than_allowed_end_the_session() {
    let one = message("k", "0123456789");
    let mailbox = Mailbox::new(limits(100, 3 * one.weight(), Overflow::Disconnect));
    for _ in 0..3 {
        mailbox.push_shared(FIRST, &one);
    }
    // Taking makes room.
    assert!(take_parcel(&mailbox).is_some());
    mailbox.push_shared(FIRST, &one);
    assert!(take_parcel(&mailbox).is_some());
    mailbox.push_shared(FIRST, &one);
    mailbox.push_shared(FIRST, &one);
    assert!(matches!(
        take(&mailbox),
        Some(Item::Problem(Problem::SlowConsumer))
    ));
}

#[test]
fn one_message_larger_than_all_passes_alone() {
    let small = message("k", "small");
    let large = message("k", &"x".repeat(10_000));
    for overflow in [
        Overflow::Disconnect,
        Overflow::DropOldest,
        Overflow::Conflate,
    ] {
        let mailbox = Mailbox::new(limits(100, 1000, overflow));
        mailbox.push_shared(FIRST, &large);
        assert!(take_parcel(&mailbox).is_some(), "{overflow:?}");
        assert!(holds_no_memory(&mailbox), "{overflow:?}");
        // But not beside another.
        mailbox.push_shared(FIRST, &small);
        mailbox.push_shared(SECOND, &large);
        match take(&mailbox) {
            Some(Item::Problem(Problem::SlowConsumer)) => {
                assert_eq!(overflow, Overflow::Disconnect);
            }
            Some(Item::Parcel(parcel)) => {
                assert_eq!((parcel.subscription, parcel.dropped), (SECOND, 1));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_oldest_are_dropped_and_counted() {
    let mailbox = Mailbox::new(limits(3, 1 << 20, Overflow::DropOldest));
    for body in ["1", "2", "3", "4", "5"] {
        mailbox.push_shared(FIRST, &message("k", body));
    }
    assert_eq!(all(&mailbox), shown(&[("k=3", 2), ("k=4", 0), ("k=5", 0)]));
    // By bytes, too.
    let size = message("k", "0").weight();
    let mailbox = Mailbox::new(limits(100, 2 * size, Overflow::DropOldest));
    for body in ["1", "2", "3"] {
        mailbox.push_shared(FIRST, &message("k", body));
    }
    assert_eq!(all(&mailbox), shown(&[("k=2", 1), ("k=3", 0)]));
    assert!(holds_no_memory(&mailbox));
}

#[test]
fn of_each_destination_the_newest_stays() {
    let mailbox = Mailbox::new(limits(4, 1 << 20, Overflow::Conflate));
    for (key, body) in [("b", "1"), ("a", "1"), ("a", "2"), ("a", "3")] {
        mailbox.push_shared(FIRST, &message(key, body));
    }
    // The newest of `b` is older than what is superseded of `a`, and stays all the same.
    mailbox.push_shared(FIRST, &message("c", "1"));
    mailbox.push_shared(FIRST, &message("b", "2"));
    let left = [("a=3", 3), ("c=1", 0), ("b=2", 0)];
    assert_eq!(all(&mailbox), shown(&left));
    assert!(holds_no_memory(&mailbox));
}

#[test]
fn conflation_keeps_subscriptions_and_exchanges_apart() {
    let mailbox = Mailbox::new(limits(3, 1 << 20, Overflow::Conflate));
    let other = Message::new(
        "other".into(),
        "a".into(),
        Properties::default(),
        Bytes::from_static(b"2"),
    );
    mailbox.push_shared(FIRST, &message("a", "1"));
    mailbox.push_shared(SECOND, &message("a", "1"));
    mailbox.push_shared(FIRST, &Arc::new(other));
    mailbox.push_shared(SECOND, &message("a", "3"));
    let first = take_parcel(&mailbox).unwrap();
    assert_eq!((first.subscription, first.dropped), (FIRST, 1));
    assert_eq!(&*take_parcel(&mailbox).unwrap().message.exchange, "other");
    let last = take_parcel(&mailbox).unwrap();
    assert_eq!(
        (last.subscription, &last.message.body[..]),
        (SECOND, &b"3"[..])
    );
}

/// Without anything to conflate, the oldest go.
#[test]
fn more_destinations_than_room_lose_the_oldest() {
    let mailbox = Mailbox::new(limits(2, 1 << 20, Overflow::Conflate));
    for key in ["a", "b", "c", "d"] {
        mailbox.push_shared(FIRST, &message(key, ""));
    }
    assert_eq!(all(&mailbox), shown(&[("c=", 2), ("d=", 0)]));
}

/// Nothing is conflated before it must be: a client that reads gets everything.
#[test]
fn a_client_that_keeps_up_gets_everything() {
    let mailbox = Mailbox::new(limits(3, 1 << 20, Overflow::Conflate));
    mailbox.push_shared(FIRST, &message("a", "1"));
    mailbox.push_shared(FIRST, &message("a", "2"));
    assert_eq!(all(&mailbox), shown(&[("a=1", 0), ("a=2", 0)]));
}

#[test]
fn dedicated_messages_are_never_dropped() {
    for overflow in [Overflow::DropOldest, Overflow::Conflate] {
        let mailbox = Mailbox::new(limits(1, 1 << 20, overflow));
        for tag in 1..=100 {
            push_dedicated(&mailbox, FIRST, dedicated(tag));
            mailbox.push_shared(SECOND, &message("k", ""));
        }
        let parcels: Vec<_> = std::iter::from_fn(|| take_parcel(&mailbox)).collect();
        let tags: Vec<_> = parcels
            .iter()
            .map(|parcel| parcel.tag)
            .filter(|tag| *tag != 0)
            .collect();
        assert_eq!(tags, (1..=100).collect::<Vec<_>>());
        let dropped: Vec<_> = parcels.iter().filter(|parcel| parcel.tag == 0).collect();
        assert_eq!((dropped.len(), dropped[0].dropped), (1, 99));
    }
}

/// A queue full of work does not keep a client from its feeds until they overflow.
#[test]
fn a_client_s_queue_and_its_feeds_take_turns() {
    let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
    for tag in 1..=3 {
        push_dedicated(&mailbox, FIRST, dedicated(tag));
    }
    for _ in 0..2 {
        mailbox.push_shared(SECOND, &message("k", ""));
    }
    let tags: Vec<_> = std::iter::from_fn(|| take_parcel(&mailbox))
        .map(|parcel| parcel.tag)
        .collect();
    assert_eq!(tags, [1, 0, 2, 0, 3]);
}

#[test]
fn the_first_problem_counts_and_frees_everything() {
    let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
    let one = message("k", "");
    mailbox.push_shared(FIRST, &one);
    push_dedicated(&mailbox, FIRST, dedicated(1));
    mailbox.fail(Problem::ShuttingDown);
    mailbox.fail(Problem::SlowConsumer);
    assert_eq!(Arc::strong_count(&one), 1);
    assert!(matches!(
        take(&mailbox),
        Some(Item::Problem(Problem::ShuttingDown))
    ));
    assert!(take(&mailbox).is_none());
}

#[test]
fn a_closed_mailbox_takes_nothing_and_holds_nothing() {
    let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
    let one = message("k", "");
    mailbox.push_shared(FIRST, &one);
    push_dedicated(&mailbox, FIRST, dedicated(1));
    assert!(take(&mailbox).is_some());
    mailbox.close();
    assert_eq!(Arc::strong_count(&one), 1);
    mailbox.push_shared(FIRST, &one);
    push_dedicated(&mailbox, FIRST, dedicated(2));
    mailbox.fail(Problem::SlowConsumer);
    assert_eq!(Arc::strong_count(&one), 1);
    assert!(holds_no_memory(&mailbox));
    assert!(take(&mailbox).is_none());
}

#[test]
fn the_end_of_a_consumer_is_told() {
    let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
    let sink = DedicatedSink::new(Arc::clone(&mailbox), FIRST);
    sink.deliver(dedicated(7));
    assert_eq!(take_parcel(&mailbox).unwrap().tag, 7);
    sink.lost(BrokerError::Cancelled("the queue was deleted".into()));
    let Some(Item::Problem(Problem::SubscriptionCancelled(text))) = take(&mailbox) else {
        panic!("no problem");
    };
    assert_eq!(&*text, "the queue was deleted");
}

/// Unparks a thread, and remembers that it did.
struct Unpark(thread::Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

fn waker() -> (Arc<Unpark>, Waker) {
    let unpark = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
    (Arc::clone(&unpark), Waker::from(unpark))
}

#[test]
fn a_revocation_waits_for_nobody_who_does_not_read() {
    let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
    let (woken, waker) = waker();
    assert!(!mailbox.stuck(1 << 20, &Context::from_waker(&waker)));
    mailbox.fail(Problem::SlowConsumer);
    assert!(woken.1.swap(false, Ordering::Relaxed));
    assert_eq!(mailbox.take_revocation(), None);
    assert_eq!(mailbox.take_urgent(), None);
    // The problem before has not been told.
    mailbox.fail(Problem::Replaced);
    assert!(woken.1.swap(false, Ordering::Relaxed));
    // It may come before the mailbox knows that its client does not read.
    assert!(!mailbox.stuck(1 << 20, &Context::from_waker(&waker)));
    assert!(woken.1.load(Ordering::Relaxed));
    assert_eq!(mailbox.take_revocation(), Some(Problem::Replaced));
    assert_eq!(mailbox.take_revocation(), None);
    mailbox.fail(Problem::Replaced);
    assert!(take(&mailbox).is_none());
}

/// Whatever else its client was to be told before.
#[test]
fn a_node_that_ends_waits_for_nobody_who_does_not_read() {
    for before in [None, Some(Problem::SlowConsumer), Some(Problem::Replaced)] {
        let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
        let told = before.clone().unwrap_or(Problem::ShuttingDown);
        if let Some(before) = before {
            mailbox.fail(before);
        }
        let (woken, waker) = waker();
        assert!(!mailbox.stuck(1 << 20, &Context::from_waker(&waker)));
        woken.1.store(false, Ordering::Relaxed);
        mailbox.fail(Problem::ShuttingDown);
        assert!(woken.1.swap(false, Ordering::Relaxed), "{told}");
        // It may come before the mailbox knows that its client does not read.
        assert!(!mailbox.stuck(1 << 20, &Context::from_waker(&waker)));
        assert!(woken.1.load(Ordering::Relaxed), "{told}");
        assert_eq!(mailbox.take_urgent(), Some(told));
        assert_eq!(mailbox.take_urgent(), None);
    }
}

#[test]
fn a_waiting_task_is_woken_by_everything() {
    type Push = fn(&Mailbox);
    let pushes: [Push; 3] = [
        |mailbox| mailbox.push_shared(FIRST, &message("k", "")),
        |mailbox| push_dedicated(mailbox, FIRST, dedicated(1)),
        |mailbox| mailbox.fail(Problem::ShuttingDown),
    ];
    for push in pushes {
        let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
        let (woken, waker) = waker();
        assert!(mailbox.poll_take(&Context::from_waker(&waker)).is_pending());
        assert!(!woken.1.load(Ordering::SeqCst));
        push(&mailbox);
        assert!(woken.1.load(Ordering::SeqCst));
        assert!(take(&mailbox).is_some());
    }
    // The last one who asked is woken.
    let mailbox = Mailbox::new(limits(10, 1 << 20, Overflow::Disconnect));
    let ((first, first_waker), (last, last_waker)) = (waker(), waker());
    assert!(
        mailbox
            .poll_take(&Context::from_waker(&first_waker))
            .is_pending()
    );
    assert!(
        mailbox
            .poll_take(&Context::from_waker(&last_waker))
            .is_pending()
    );
    mailbox.push_shared(FIRST, &message("k", ""));
    assert!(last.1.load(Ordering::SeqCst) && !first.1.load(Ordering::SeqCst));
}

/// Threads push while one takes, and sleeps when there is nothing: it sees everything, each
/// pusher's messages in order.
#[test]
fn no_wake_up_is_lost() {
    const PUSHERS: u32 = 3;
    const EACH: u32 = 5_000;
    let mailbox = Mailbox::new(limits(usize::MAX, usize::MAX, Overflow::Disconnect));
    thread::scope(|scope| {
        for pusher in 0..PUSHERS {
            let mailbox = &mailbox;
            scope.spawn(move || {
                for number in 0..EACH {
                    let delivery = Delivery {
                        tag: u64::from(number) + 1,
                        ..dedicated(0)
                    };
                    if pusher == 0 {
                        push_dedicated(mailbox, SubscriptionId(pusher), delivery);
                    } else {
                        let one = message("k", &number.to_string());
                        mailbox.push_shared(SubscriptionId(pusher), &one);
                    }
                    if number % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let (_, waker) = waker();
        let context = Context::from_waker(&waker);
        let mut next = [0; PUSHERS as usize];
        let mut left = PUSHERS * EACH;
        while left > 0 {
            let parcel = match mailbox.poll_take(&context) {
                Poll::Ready(Item::Parcel(parcel)) => parcel,
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending => {
                    // Woken by a push only.
                    thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
                    assert!(Instant::now() < deadline, "{left} never came");
                    continue;
                }
            };
            let pusher = parcel.subscription.0 as usize;
            let number = if pusher == 0 {
                u32::try_from(parcel.tag).unwrap() - 1
            } else {
                String::from_utf8_lossy(&parcel.message.body)
                    .parse()
                    .unwrap()
            };
            assert_eq!(number, next[pusher]);
            next[pusher] += 1;
            left -= 1;
        }
    });
    assert!(holds_no_memory(&mailbox));
}
