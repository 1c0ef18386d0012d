//! The rules of `Connection::poll`, one by one: wake-ups and turns.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use super::{
    wire::{FakeLink, Wire},
    *,
};

/// A connection that the test drives, turn by turn.
struct Driven {
    connection: Connection<FakeLink>,
    timer: Pin<Box<Sleep>>,
    wire: Wire,
    woken: Arc<Woken>,
}

/// How often the task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Driven {
    fn new(house: &House) -> Self {
        let wire = Wire::new();
        let guard = house.services.enter().unwrap();
        let services = Arc::clone(&house.services);
        let link = FakeLink(wire.clone());
        Self {
            connection: Connection::new(services, link, house::PEER, guard),
            timer: Box::pin(sleep(Duration::ZERO)),
            wire,
            woken: Arc::default(),
        }
    }

    /// Logged in, and subscribed to this destination.
    async fn subscribed(house: &House, destination: &str) -> Self {
        let mut driven = Self::new(house);
        driven.wire.send(CONNECT);
        driven.rest().await;
        let subscribe = format!("SUBSCRIBE\nid:1\ndestination:{destination}\nreceipt:s\n\n\0");
        driven.wire.send(subscribe);
        driven.rest().await;
        driven
    }

    /// As the loop does it, but nothing is handled.
    fn poll(&mut self) -> Poll<Event> {
        self.connection.act();
        self.connection.reader.ends_turn();
        self.connection.set_timer(self.timer.as_mut());
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut task = TaskContext::from_waker(&waker);
        self.connection.poll(&mut task, self.timer.as_mut())
    }

    /// Goes on until nothing more comes.
    async fn rest(&mut self) {
        loop {
            let woken = self.woken();
            while let Poll::Ready(event) = self.poll() {
                assert!(self.connection.handle(event));
            }
            settle().await;
            if self.woken() == woken {
                return;
            }
        }
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }

    fn expect_progress(&mut self) {
        let event = self.poll();
        assert!(matches!(event, Poll::Ready(Event::Progress)));
    }

    fn expect_rest(&mut self) {
        assert!(self.poll().is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_was_not_found_empty_is_asked_again() {
    let house = House::new();
    let mut driven = Driven::subscribed(&house, "/topic/a").await;
    for _ in 0..65 {
        house.publish("amq.topic", "a", "x");
    }
    driven.expect_progress();
    let woken = driven.woken();
    house.publish("amq.topic", "a", "nobody is woken for it");
    assert_eq!(driven.woken(), woken);
    driven.expect_rest();
    house.publish("amq.topic", "a", "it was found empty");
    assert_eq!(driven.woken(), woken + 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_link_is_congested_the_link_wakes_and_nothing_is_read() {
    let house = House::new();
    let mut driven = Driven::subscribed(&house, "/topic/a").await;
    driven.wire.set_room(0);
    for _ in 0..2 {
        house.publish("amq.topic", "a", &"x".repeat(CONGESTED));
    }
    driven.rest().await;
    let woken = driven.woken();
    house.publish("amq.topic", "a", "the mailbox was not asked");
    assert_eq!(driven.woken(), woken);
    driven.wire.send("BEGIN\ntransaction:t\n\n\0");
    driven.expect_rest();
    assert_eq!(driven.wire.unread(), 1);
    let woken = driven.woken();
    driven.wire.set_room(usize::MAX);
    assert!(driven.woken() > woken);
    driven.rest().await;
    assert_eq!(driven.wire.unread(), 0);
    assert_eq!(driven.connection.writer.messages, 3);
}

#[tokio::test(start_paused = true)]
async fn the_timer_is_set_when_the_link_first_does_not_take_all() {
    let house = House::new();
    let mut driven = Driven::subscribed(&house, "/topic/a").await;
    // The time of the login is over.
    sleep(Duration::from_secs(10)).await;
    driven.rest().await;
    let patience = house.services.settings().limits.write_timeout;
    assert!(driven.timer.deadline() > Instant::now() + patience);
    driven.wire.set_room(0);
    house.publish("amq.topic", "a", "x");
    driven.expect_progress();
    driven.expect_rest();
    assert!(driven.timer.deadline() <= Instant::now() + patience);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_wait_to_be_decoded_are_not_forgotten() {
    let house = House::new();
    let mut driven = Driven::subscribed(&house, "/topic/a").await;
    let frames = "BEGIN\ntransaction:t\n\n\0ABORT\ntransaction:t\n\n\0".repeat(9);
    driven.wire.send(frames);
    let Poll::Ready(event) = driven.poll() else {
        panic!("the bytes are not read");
    };
    assert!(driven.connection.handle(event));
    // Then it is the turn of others. CONNECT and SUBSCRIBE were the first two frames.
    driven.expect_progress();
    assert_eq!(driven.connection.reader.frames, 16);
    driven.expect_rest();
    assert_eq!(driven.connection.reader.frames, 2 + 18);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_is_done_leaves_the_connection_idle() {
    let house = House::new();
    let mut driven = Driven::subscribed(&house, "/queue/q").await;
    assert!(driven.connection.operations.is_idle());
    house.publish("", "q", "x");
    driven.expect_progress();
    driven.expect_rest();
    assert_eq!(driven.connection.writer.messages, 1);
    assert!(driven.connection.operations.is_idle());
}

#[tokio::test(start_paused = true)]
async fn messages_do_not_end_a_turn() {
    let house = House::new();
    let mut driven = Driven::subscribed(&house, "/topic/a").await;
    for _ in 0..200 {
        house.publish("amq.topic", "a", "x");
    }
    driven.wire.send("UNSUBSCRIBE\nid:1\n\n\0");
    let event = driven.poll();
    assert!(matches!(event, Poll::Ready(Event::Received(_))));
    // Messages that were ready before were written before.
    assert_eq!(driven.connection.writer.messages, 64);
}

#[tokio::test(start_paused = true)]
async fn each_read_tells_the_session_the_time() {
    let house = House::new();
    let mut driven = Driven::new(&house);
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        driven.wire.send("\n");
        let Poll::Ready(event @ Event::Received(_)) = driven.poll() else {
            panic!("what can be read goes before the timer");
        };
        assert!(driven.connection.handle(event));
        driven.connection.act();
        if driven.connection.is_closing() {
            return;
        }
    }
    panic!("it may take for ever to log in");
}
