//! Logins of users who are logged in already.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use futures_util::future::BoxFuture;

use super::{house::Gate, *};
use crate::{
    messaging::{
        Config, Entry, Holder, KeyKnown, MemorySequences, SequenceError, SequenceName,
        SequenceStore,
    },
    node::{LoginPolicy, Repeated},
    presence::{Node, memory::MemoryPresence},
};

/// A store of sequences that takes its time, or is away.
struct Store {
    inner: MemorySequences,
    gate: Gate,
    is_away: AtomicBool,
}

impl Store {
    fn call<'a, T: Send + 'a>(
        &'a self,
        call: BoxFuture<'a, Result<T, SequenceError>>,
    ) -> BoxFuture<'a, Result<T, SequenceError>> {
        let passing = self.gate.pass();
        async move {
            passing.await;
            if self.is_away.load(Ordering::Relaxed) {
                return Err(SequenceError::Unavailable("away".into()));
            }
            call.await
        }
        .boxed()
    }
}

impl SequenceStore for Store {
    fn open<'a>(
        &'a self,
        name: &'a SequenceName,
        known: u64,
        epoch: u64,
        told: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(self.inner.open(name, known, epoch, told))
    }

    fn look<'a>(&'a self, name: &'a SequenceName) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(self.inner.look(name))
    }

    fn reserve<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(self.inner.reserve(name, epoch, to))
    }

    fn commit<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        from: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(self.inner.commit(name, epoch, from, to))
    }

    fn release<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        handed: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(self.inner.release(name, epoch, handed))
    }

    fn begin_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<KeyKnown, SequenceError>> {
        self.call(self.inner.begin_key(holder, key))
    }

    fn finish_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<(), SequenceError>> {
        self.call(self.inner.finish_key(holder, key))
    }

    fn bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<str>>, SequenceError>> {
        self.call(self.inner.bookmark(holder, name))
    }

    fn keep(&self) -> Duration {
        self.inner.keep()
    }

    fn keep_bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
        known: Option<&'a str>,
        bookmark: &'a str,
    ) -> BoxFuture<'a, Result<Box<str>, SequenceError>> {
        self.call(self.inner.keep_bookmark(holder, name, known, bookmark))
    }
}

/// A house where the new session of a user ends the old one.
fn replacing() -> (House, Arc<Store>) {
    let store = Arc::new(Store {
        inner: MemorySequences::new(Config::default()),
        gate: Gate::new(),
        is_away: AtomicBool::new(false),
    });
    let presence = MemoryPresence::new(Node {
        name: "node-1".into(),
        since: SystemTime::now(),
        debounce: Duration::from_secs(5),
        events: None,
        rooms: None,
    });
    let house = House::with(Options {
        sequences: Some(Arc::clone(&store) as _),
        presence: Some(Arc::new(presence)),
        sessions: LoginPolicy {
            repeated_login: Repeated::Replace,
            ..LoginPolicy::default()
        },
        ..Options::default()
    });
    (house, store)
}

/// A client whose CONNECT has these headers, too.
async fn log_in(house: &House, more: &str) -> Client {
    let client = Client::new(house);
    client.send(CONNECT.replace("login:alice", &format!("login:alice{more}")));
    settle().await;
    client
}

const NUMBERED: &str = "\ndevice-id:phone\nclient-seq:0";

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_ends_no_other_session() {
    let (house, store) = replacing();
    let mut first = log_in(&house, "").await;
    first.expect(Command::Connected).await;
    store.is_away.store(true, Ordering::Relaxed);
    for (headers, message) in [
        (NUMBERED, "sequences unavailable"),
        ("\nclient-seq:0", "Missing header"),
        ("\ndevice-id:phone\nclient-seq:x", "Invalid header"),
    ] {
        let mut second = log_in(&house, headers).await;
        let error = second.expect(Command::Error).await;
        assert_eq!(error.header("message"), Some(message), "{headers:?}");
        first.publish("/topic/a", "still here").await;
    }
    store.is_away.store(false, Ordering::Relaxed);
    let mut second = log_in(&house, NUMBERED).await;
    second.expect(Command::Connected).await;
    first.expect_error("session replaced").await;
}

/// Two come at the same time; one of them waits for its sequence, and is not logged in yet.
#[tokio::test(start_paused = true)]
async fn of_two_logins_at_the_same_time_one_stays() {
    let (house, store) = replacing();
    store.gate.close();
    let mut first = log_in(&house, NUMBERED).await;
    let mut second = log_in(&house, "").await;
    second.expect(Command::Connected).await;
    store.gate.open();
    first.expect_error("session replaced").await;
    second.publish("/topic/a", "still here").await;
}

/// The hook is slow. The client has sent and left, and its next connection was let in at once.
#[tokio::test(start_paused = true)]
async fn a_login_whose_client_has_gone_ends_no_session_and_is_served() {
    let (house, _) = replacing();
    let held = house.hook.hold("user ");
    let gone = log_in(&house, "").await;
    gone.send("SEND\ndestination:/topic/a\n\nsent and left\0");
    gone.wire.hang_up();
    let mut client = log_in(&house, "").await;
    client.expect(Command::Connected).await;
    client.subscribe("1", "/topic/a", "").await;
    held.open();
    client.expect_message("sent and left").await;
    client.publish("/topic/b", "still here").await;
}
