use std::{
    collections::HashMap,
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use proptest::prelude::*;
use stomp_session::Problem;
use tokio::time::{advance, sleep};

use super::*;
use crate::hub::mailbox::Offer;
use crate::{
    broker::{Delivery, Properties},
    hub::{Item, MailboxConfig, Overflow},
};

const FAST: SubscriptionId = SubscriptionId(1);
const PLAIN: SubscriptionId = SubscriptionId(2);
const WINDOW: Duration = Duration::from_millis(200);

fn message(key: &str, body: &str) -> Arc<Message> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let message = Message::new("prices".into(), key.into(), Properties::default(), body);
    Arc::new(message)
}

fn mailbox_with(limits: MailboxConfig, conflate: Conflate) -> Arc<Mailbox> {
    let mailbox = Mailbox::new(limits);
    mailbox.conflate(FAST, conflate);
    mailbox
}

fn mailbox(conflate: Conflate) -> Arc<Mailbox> {
    mailbox_with(MailboxConfig::default(), conflate)
}

fn few(max_messages: usize, overflow: Overflow) -> MailboxConfig {
    MailboxConfig {
        max_messages,
        overflow,
        ..MailboxConfig::default()
    }
}

/// The next item: `key=body`, `+n` of a message that stands for more than itself, and `!n` behind what
/// was dropped.
fn take_with(mailbox: &Mailbox, waker: &Waker) -> Option<String> {
    match mailbox.poll_take(&Context::from_waker(waker)) {
        Poll::Ready(Item::Parcel(parcel)) => {
            let body = String::from_utf8_lossy(&parcel.message.body).into_owned();
            let more = match parcel.conflated {
                0 => String::new(),
                more => format!("+{more}"),
            };
            let dropped = match parcel.dropped {
                0 => String::new(),
                dropped => format!("!{dropped}"),
            };
            Some(format!(
                "{}={body}{more}{dropped}",
                parcel.message.routing_key
            ))
        }
        Poll::Ready(other) => Some(format!("{other:?}")),
        Poll::Pending => None,
    }
}

fn all(mailbox: &Mailbox) -> Vec<String> {
    std::iter::from_fn(|| take_with(mailbox, Waker::noop())).collect()
}

fn push(mailbox: &Mailbox, key: &str, bodies: std::ops::Range<u32>) {
    for body in bodies {
        mailbox.push_shared(FAST, &message(key, &body.to_string()));
    }
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn only_the_newest_of_each_key_waits_and_a_key_keeps_its_turn() {
    let mailbox = mailbox(Conflate::Latest);
    push(&mailbox, "a", 0..3);
    push(&mailbox, "b", 0..1);
    push(&mailbox, "a", 3..5);
    // The same key of another exchange is another key.
    let other = Message::new(
        "other".into(),
        "a".into(),
        Properties::default(),
        "x".into(),
    );
    mailbox.push_shared(FAST, &Arc::new(other));
    assert_eq!(mailbox.waiting().0, 3);
    assert_eq!(all(&mailbox), ["a=4+4", "b=0", "a=x"]);
    // Nothing is conflated that was taken.
    push(&mailbox, "a", 5..6);
    assert_eq!(all(&mailbox), ["a=5"]);
    assert_eq!(mailbox.waiting(), (0, 0));
}

#[test]
fn other_subscriptions_get_all_and_take_turns() {
    let mailbox = mailbox(Conflate::Latest);
    for body in ["1", "2", "3"] {
        mailbox.push_shared(PLAIN, &message("p", body));
    }
    push(&mailbox, "a", 0..2);
    push(&mailbox, "b", 0..2);
    let delivery = Delivery {
        tag: 1,
        redelivered: false,
        message: message("queue", "own"),
    };
    mailbox.put_dedicated(&mut mailbox.state.lock(), SubscriptionId(3), delivery, 0);
    let taken = ["queue=own", "a=1+1", "p=1", "b=1+1", "p=2", "p=3"];
    assert_eq!(all(&mailbox), taken);
}

#[test]
fn its_bytes_are_of_what_waits() {
    let mailbox = mailbox(Conflate::Latest);
    let (small, large) = (message("a", "x"), message("a", &"x".repeat(10_000)));
    mailbox.push_shared(FAST, &large);
    assert_eq!(mailbox.bytes(), large.weight());
    mailbox.push_shared(FAST, &small);
    assert_eq!(mailbox.bytes(), small.weight());
    assert_eq!(Arc::strong_count(&large), 1, "what was superseded is freed");
    assert_eq!(all(&mailbox).len(), 1);
    assert_eq!(mailbox.bytes(), 0);
}

#[test]
fn more_keys_than_the_mailbox_takes_are_too_much() {
    for overflow in [
        Overflow::Disconnect,
        Overflow::DropOldest,
        Overflow::Conflate,
    ] {
        let mailbox = mailbox_with(few(3, overflow), Conflate::Latest);
        for key in ["a", "b", "c"] {
            push(&mailbox, key, 0..100);
        }
        assert_eq!(mailbox.waiting().0, 3, "{overflow:?}");
        push(&mailbox, "d", 0..1);
        let taken = all(&mailbox);
        if overflow == Overflow::Disconnect {
            assert_eq!(
                taken,
                [format!("{:?}", Item::Problem(Problem::SlowConsumer))]
            );
        } else {
            // With `a=99` are lost those that it took the place of.
            assert_eq!(taken, ["b=99+99!100", "c=99+99", "d=0"]);
        }
    }
}

/// Else a client could have the room twice.
#[tokio::test]
async fn messages_of_the_past_find_the_room_that_lanes_leave() {
    for ends in [false, true] {
        let mailbox = mailbox_with(few(4, Overflow::Disconnect), Conflate::Latest);
        for key in ["a", "b", "c", "d"] {
            push(&mailbox, key, 0..1);
        }
        assert_eq!(mailbox.offer(PLAIN, &message("past", "")), Offer::Full);
        let mut room = std::pin::pin!(mailbox.room(SubscriptionId(1)));
        let is_told = poll_fn(|context| Poll::Ready(room.as_mut().poll(context).is_ready())).await;
        assert!(!is_told);
        if ends {
            mailbox.end_wishes(FAST);
        } else {
            assert_eq!(all(&mailbox).len(), 4);
        }
        room.await;
        assert_eq!(mailbox.offer(PLAIN, &message("past", "")), Offer::Taken);
    }
}

#[test]
fn nothing_is_left_of_a_subscription_that_ended() {
    let mailbox = mailbox(Conflate::Latest);
    push(&mailbox, "a", 0..2);
    mailbox.end_wishes(FAST);
    assert_eq!(mailbox.waiting(), (0, 0));
    assert!(mailbox.state.lock().lanes.is_none());
    // Its number is never used again; what is still on its way waits as any message.
    push(&mailbox, "a", 0..2);
    assert_eq!(all(&mailbox), ["a=0", "a=1"]);
}

#[tokio::test(start_paused = true)]
async fn a_window_begins_with_a_message_and_ends_with_the_newest_ones() {
    let mailbox = mailbox(Conflate::Every(WINDOW));
    push(&mailbox, "a", 0..2);
    assert_eq!(all(&mailbox), ["a=1+1"]);
    push(&mailbox, "a", 2..5);
    push(&mailbox, "b", 0..2);
    assert_eq!(all(&mailbox), [""; 0]);
    advance(WINDOW - Duration::from_millis(1)).await;
    assert_eq!(all(&mailbox), [""; 0]);
    push(&mailbox, "a", 5..6);
    advance(Duration::from_millis(1)).await;
    assert_eq!(all(&mailbox), ["a=5+3", "b=1+1"]);
    // The next window has begun by that; after it, a message comes at once.
    push(&mailbox, "b", 2..3);
    assert_eq!(all(&mailbox), [""; 0]);
    advance(WINDOW).await;
    assert_eq!(all(&mailbox), ["b=2"]);
    advance(WINDOW).await;
    push(&mailbox, "b", 3..4);
    assert_eq!(all(&mailbox), ["b=3"]);
}

/// However many messages come, the connection is woken once a window.
#[tokio::test(start_paused = true)]
async fn a_connection_is_woken_once_a_window() {
    let mailbox = mailbox(Conflate::Every(WINDOW));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert_eq!(take_with(&mailbox, &waker), None);
    let mut seen = 0;
    for step in 0..100 {
        push(&mailbox, "a", step..step + 1);
        push(&mailbox, "b", step..step + 1);
        sleep(Duration::from_millis(10)).await;
        // As a connection does: it looks when it is woken.
        let count = woken.0.load(Ordering::Relaxed);
        if std::mem::replace(&mut seen, count) != count {
            while take_with(&mailbox, &waker).is_some() {}
        }
    }
    // A second has five windows.
    let woken = woken.0.load(Ordering::Relaxed);
    assert!((4..=6).contains(&woken), "{woken}");
    sleep(2 * WINDOW).await;
    assert_eq!(mailbox.state.lock().lanes.as_ref().unwrap().clock, None);
}

/// The windows of two subscriptions end each in its time.
#[tokio::test(start_paused = true)]
async fn a_long_window_does_not_delay_the_end_of_a_short_one() {
    let mailbox = mailbox(Conflate::Every(60 * WINDOW));
    mailbox.conflate(PLAIN, Conflate::Every(WINDOW));
    for subscription in [FAST, PLAIN] {
        mailbox.push_shared(subscription, &message("k", "0"));
        assert_eq!(all(&mailbox), ["k=0"]);
        mailbox.push_shared(subscription, &message("k", "1"));
        // The clock waits for the end of the first window now.
        sleep(Duration::from_millis(1)).await;
    }
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert_eq!(take_with(&mailbox, &waker), None);
    sleep(2 * WINDOW).await;
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(take_with(&mailbox, &waker).as_deref(), Some("k=1"));
}

/// The mailbox is no store for windows: a client that reads is not closed for those.
#[tokio::test(start_paused = true)]
async fn windows_end_early_when_they_fill_half_the_mailbox() {
    let minute = Conflate::Every(Duration::from_secs(60));
    let mailbox = mailbox_with(few(10, Overflow::Disconnect), minute);
    push(&mailbox, "first", 0..1);
    assert_eq!(all(&mailbox).len(), 1);
    for key in 0..5 {
        push(&mailbox, &key.to_string(), 0..2);
    }
    assert_eq!(all(&mailbox), [""; 0]);
    push(&mailbox, "5", 0..1);
    assert_eq!(all(&mailbox).len(), 6);
    // By bytes, too.
    let limits = MailboxConfig {
        max_bytes: 10_000,
        ..MailboxConfig::default()
    };
    let mailbox = mailbox_with(limits, minute);
    push(&mailbox, "first", 0..1);
    assert_eq!(all(&mailbox).len(), 1);
    mailbox.push_shared(FAST, &message("a", &"x".repeat(6_000)));
    assert_eq!(all(&mailbox).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_a_batch_once_it_has_taken_the_last_one() {
    let mailbox = mailbox(Conflate::Every(WINDOW));
    push(&mailbox, "a", 0..1);
    assert_eq!(all(&mailbox), ["a=0"]);
    push(&mailbox, "a", 1..2);
    push(&mailbox, "b", 1..2);
    advance(WINDOW).await;
    assert_eq!(take_with(&mailbox, Waker::noop()).unwrap(), "a=1");
    for window in 2..20 {
        push(&mailbox, "a", window..window + 1);
        push(&mailbox, "b", window..window + 1);
        advance(WINDOW).await;
    }
    assert_eq!(all(&mailbox), ["b=19+18", "a=19+17"]);
}

#[derive(Clone, Debug)]
enum Op {
    Push(u8),
    Take(u8),
    Pass(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..5_u8).prop_map(Op::Push),
        2 => (1..4_u8).prop_map(Op::Take),
        2 => (1..300_u16).prop_map(Op::Pass),
    ]
}

/// What a client has had of a key.
#[derive(Default)]
struct Had {
    pushed: u32,
    accounted: u32,
    last: Option<u32>,
    /// When its messages were taken.
    taken: Vec<u128>,
}

struct Run {
    lanes: Lanes,
    start: Instant,
    now: Instant,
    keys: HashMap<u8, Had>,
}

impl Run {
    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Push(key) => {
                let had = self.keys.entry(key).or_default();
                had.pushed += 1;
                let message = message(&key.to_string(), &had.pushed.to_string());
                self.lanes.put(FAST, &message, self.now);
            }
            Op::Take(count) => {
                for _ in 0..count {
                    self.take()?;
                }
            }
            Op::Pass(milliseconds) => self.now += Duration::from_millis(milliseconds.into()),
        }
        let waiting = self.keys.values().filter(|had| had.pushed > had.accounted);
        prop_assert_eq!(self.lanes.waiting().0, waiting.count());
        Ok(())
    }

    fn take(&mut self) -> Result<bool, TestCaseError> {
        let is_ready = self.lanes.is_ready(self.now);
        let parcel = self.lanes.take(self.now);
        prop_assert_eq!(is_ready, parcel.is_some());
        let Some(parcel) = parcel else {
            return Ok(false);
        };
        let key = parcel.message.routing_key.parse().unwrap();
        let body: u32 = std::str::from_utf8(&parcel.message.body)
            .unwrap()
            .parse()
            .unwrap();
        let had = self.keys.get_mut(&key).unwrap();
        prop_assert_eq!(body, had.pushed, "not the newest");
        had.accounted += 1 + parcel.conflated;
        prop_assert_eq!(had.accounted, had.pushed, "the count tells of all");
        had.last = Some(body);
        had.taken.push((self.now - self.start).as_millis());
        Ok(true)
    }
}

proptest! {
    /// Whatever comes and however it is read: the newest of each key, once, and the last one always.
    /// A client that reads at once gets a key once a window.
    #[test]
    fn each_key_s_last_message_comes(
        ops in prop::collection::vec(op(), 1..200),
        window in prop_oneof![Just(None), (10..500_u16).prop_map(Some)],
        reads_at_once in any::<bool>(),
    ) {
        let start = Instant::now();
        let mut run = Run {
            lanes: Lanes::new(Weak::new()),
            start,
            now: start,
            keys: HashMap::new(),
        };
        let window = window.map(|window| Duration::from_millis(window.into()));
        run.lanes.add(FAST, window.map_or(Conflate::Latest, Conflate::Every));
        for op in &ops {
            run.step(op)?;
            if reads_at_once {
                while run.take()? {}
            }
        }
        for _ in 0..2 {
            run.now += window.unwrap_or_default();
            while run.take()? {}
        }
        prop_assert_eq!(run.lanes.waiting(), (0, 0));
        for had in run.keys.values() {
            prop_assert_eq!(had.last, Some(had.pushed));
            if let Some(window) = window.filter(|_| reads_at_once) {
                let pairs = had.taken.iter().zip(had.taken.iter().skip(1));
                for (earlier, later) in pairs {
                    prop_assert!(later - earlier >= window.as_millis(), "{:?}", had.taken);
                }
            }
        }
    }
}
