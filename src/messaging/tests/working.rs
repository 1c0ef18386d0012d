//! A sequence at work, in virtual time, with a store that can be away and a broker that is slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use stomp_session::Problem;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::messaging::{
    Admitted, Config, Confirming, Entry, Holder, KeyAdmitted, KeyKnown, Keys, MemorySequences,
    Sequence, SequenceError, SequenceName, SequenceStore,
};

/// Memory, some milliseconds away, or not there.
struct Far {
    inner: MemorySequences,
    is_away: AtomicBool,
    reserves: AtomicUsize,
    commits: AtomicUsize,
}

impl Far {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemorySequences::new(Config::default()),
            is_away: AtomicBool::new(false),
            reserves: AtomicUsize::new(0),
            commits: AtomicUsize::new(0),
        })
    }

    fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce() -> BoxFuture<'a, Result<T, SequenceError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, SequenceError>> {
        async move {
            sleep(Duration::from_millis(5)).await;
            if self.is_away.load(Ordering::Relaxed) {
                return Err(SequenceError::Unavailable("away".into()));
            }
            call().await
        }
        .boxed()
    }
}

impl SequenceStore for Far {
    fn open<'a>(
        &'a self,
        name: &'a SequenceName,
        known: u64,
        epoch: u64,
        told: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(move || self.inner.open(name, known, epoch, told))
    }

    fn look<'a>(&'a self, name: &'a SequenceName) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(move || self.inner.look(name))
    }

    fn reserve<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.reserves.fetch_add(1, Ordering::Relaxed);
        self.call(move || self.inner.reserve(name, epoch, to))
    }

    fn commit<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        from: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.call(move || self.inner.commit(name, epoch, from, to))
    }

    fn release<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        handed: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.call(move || self.inner.release(name, epoch, handed))
    }

    fn begin_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<KeyKnown, SequenceError>> {
        self.call(move || self.inner.begin_key(holder, key))
    }

    fn finish_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<(), SequenceError>> {
        self.call(move || self.inner.finish_key(holder, key))
    }

    fn bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<str>>, SequenceError>> {
        self.call(move || self.inner.bookmark(holder, name))
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
        self.call(move || self.inner.keep_bookmark(holder, name, known, bookmark))
    }
}

fn holder() -> Holder {
    Holder {
        vhost: "/".into(),
        user: "alice".into(),
    }
}

fn phone() -> SequenceName {
    SequenceName {
        holder: holder(),
        device: "phone".into(),
    }
}

async fn open(store: &Arc<Far>, told: u64) -> Result<(Sequence, u64), SequenceError> {
    Sequence::open(Arc::clone(store) as _, phone(), told, || ready(true)).await
}

/// A message under way, and the broker's side of it.
fn message() -> (Confirming, oneshot::Sender<Result<(), Problem>>) {
    let (sender, receiver) = oneshot::channel();
    let confirm = async move { receiver.await.unwrap_or(Err(Problem::Overloaded)) };
    (confirm.boxed(), sender)
}

/// Whether it is published with the mark.
async fn is_marked(sequence: &Sequence, number: u64) -> bool {
    match sequence.admit(number).await.unwrap() {
        Admitted::Publish { possible_duplicate } => possible_duplicate,
        _ => panic!("{number} is not published"),
    }
}

fn confirmed() -> Confirming {
    async { Ok(()) }.boxed()
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_of_messages_costs_few_round_trips() {
    let store = Far::new();
    let (sequence, last) = open(&store, 0).await.unwrap();
    assert_eq!(last, 0);
    (1..=500).for_each(|number| sequence.foresee(number));
    let begun = Instant::now();
    let mut receipts = Vec::new();
    for number in 1..=500 {
        assert!(!is_marked(&sequence, number).await);
        receipts.push(sequence.published(number, confirmed()));
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_millis(30),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(store.reserves.load(Ordering::Relaxed), 1);
    assert!(store.commits.load(Ordering::Relaxed) <= 3);
    assert!(matches!(sequence.admit(500).await, Ok(Admitted::Known)));
    assert!(matches!(
        sequence.admit(502).await,
        Err(Problem::SequenceGap {
            expected: 501,
            number: 502
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn the_next_login_waits_for_what_is_under_way() {
    let store = Far::new();
    let (first, _) = open(&store, 0).await.unwrap();
    assert!(!is_marked(&first, 1).await);
    let (confirm, broker) = message();
    let receipt = first.published(1, confirm);
    drop((first, receipt));
    let login = tokio::spawn({
        let store = Arc::clone(&store);
        async move { open(&store, 0).await }
    });
    sleep(Duration::from_millis(300)).await;
    assert!(!login.is_finished());
    broker.send(Ok(())).unwrap();
    let (second, last) = login.await.unwrap().unwrap();
    assert_eq!(last, 1);
    assert!(!is_marked(&second, 2).await);
}

/// A call of a login that was given up is done between the calls of the next one.
#[tokio::test(start_paused = true)]
async fn a_login_between_whose_calls_another_comes_begins_anew() {
    let (store, looks) = (Far::new(), AtomicUsize::new(0));
    let is_there = || {
        let is_first = looks.fetch_add(1, Ordering::Relaxed) == 0;
        let (store, name) = (&store, phone());
        async move {
            if is_first {
                store.inner.open(&name, 0, 7, 0).await.unwrap();
            }
            true
        }
    };
    let opening = Sequence::open(Arc::clone(&store) as _, phone(), 0, is_there);
    let (sequence, _) = opening.await.unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 2);
    assert!(!is_marked(&sequence, 1).await);
    // One that comes later changes nothing.
    for known in [0, 7] {
        let late = store.inner.open(&phone(), known, u64::MAX, 9).await;
        assert_eq!(late, Err(SequenceError::Changed));
    }
    sequence.published(1, confirmed()).await.unwrap();
    assert!(!is_marked(&sequence, 2).await);
}

/// Others come without end: the client is to try later, and nobody told it to stay away.
#[tokio::test(start_paused = true)]
async fn a_login_between_whose_calls_others_always_come_is_given_up() {
    let store = Far::new();
    let is_there = || {
        let (store, name) = (&store, phone());
        async move {
            let known = store.inner.look(&name).await.map_or(0, |entry| entry.epoch);
            store.inner.open(&name, known, 0, 0).await.is_ok()
        }
    };
    let opening = Sequence::open(Arc::clone(&store) as _, phone(), 0, is_there);
    let problem = Problem::from(opening.await.unwrap_err());
    assert!(matches!(problem, Problem::SequenceUnavailable(_)));
}

/// The store is slow, and the client has come again, to another node.
#[tokio::test(start_paused = true)]
async fn a_login_whose_client_has_gone_meanwhile_takes_nothing_over() {
    let store = Far::new();
    let (sequence, _) = open(&store, 0).await.unwrap();
    let gone = Sequence::open(Arc::clone(&store) as _, phone(), 0, || ready(false));
    assert_eq!(gone.await.unwrap_err(), SequenceError::Taken);
    assert!(!is_marked(&sequence, 1).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_answers_is_waited_for_a_second() {
    let store = Far::new();
    let (first, _) = open(&store, 0).await.unwrap();
    assert!(!is_marked(&first, 1).await);
    let (confirm, broker) = message();
    let receipt = first.published(1, confirm);
    let begun = Instant::now();
    let (second, last) = open(&store, 0).await.unwrap();
    assert!((1_000..1_100).contains(&begun.elapsed().as_millis()));
    assert_eq!(last, 0);
    assert!(is_marked(&second, 1).await);
    // The first one may not begin anything, but what it has done counts.
    let taken = first.admit(2).await;
    assert!(matches!(taken, Err(Problem::SequenceTaken)));
    second.published(1, confirmed()).await.unwrap();
    drop(broker);
    assert!(receipt.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_repeat_on_the_same_connection_waits_for_the_first() {
    let store = Far::new();
    let (sequence, _) = open(&store, 0).await.unwrap();
    assert!(!is_marked(&sequence, 1).await);
    let (confirm, broker) = message();
    let mut first = sequence.published(1, confirm);
    let Ok(Admitted::UnderWay(mut second)) = sequence.admit(1).await else {
        panic!("it is published twice");
    };
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    broker.send(Ok(())).unwrap();
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_store_nothing_is_published_and_nothing_is_receipted() {
    let store = Far::new();
    let (sequence, _) = open(&store, 0).await.unwrap();
    store.set_away(true);
    let refused = sequence.admit(1).await;
    assert!(matches!(refused, Err(Problem::SequenceUnavailable(_))));
    assert!(open(&store, 0).await.is_err());
    store.set_away(false);
    assert!(!is_marked(&sequence, 1).await);
    store.set_away(true);
    let receipt = sequence.published(1, confirmed()).await;
    assert!(matches!(receipt, Err(Problem::SequenceUnavailable(_))));
    // It is written down when the store is back, though the connection is gone.
    drop(sequence);
    sleep(Duration::from_secs(3)).await;
    store.set_away(false);
    sleep(Duration::from_secs(1)).await;
    let (sequence, last) = open(&store, 0).await.unwrap();
    assert_eq!(last, 1);
    assert!(!is_marked(&sequence, 2).await);
}

#[tokio::test(start_paused = true)]
async fn one_refused_message_spares_those_before_it() {
    let store = Far::new();
    let (sequence, _) = open(&store, 0).await.unwrap();
    let mut brokers = Vec::new();
    let mut receipts = Vec::new();
    for number in 1..=3 {
        assert!(!is_marked(&sequence, number).await);
        let (confirm, broker) = message();
        receipts.push(sequence.published(number, confirm));
        brokers.push(broker);
    }
    for (broker, outcome) in brokers
        .into_iter()
        .zip([Ok(()), Err(Problem::Overloaded), Ok(())])
    {
        broker.send(outcome).unwrap();
    }
    let outcomes = futures_util::future::join_all(receipts).await;
    let are_done: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(are_done, [true, false, false]);
    drop(sequence);
    sleep(Duration::from_secs(1)).await;
    let (sequence, last) = open(&store, 0).await.unwrap();
    assert_eq!(last, 1);
    for (number, marked) in [(2, true), (3, true), (4, false)] {
        assert_eq!(is_marked(&sequence, number).await, marked, "{number}");
    }
}

/// The node has not died, and knows what it has handed over.
#[tokio::test(start_paused = true)]
async fn what_the_store_has_lost_of_a_reservation_is_marked() {
    let store = Far::new();
    let (first, _) = open(&store, 0).await.unwrap();
    assert!(!is_marked(&first, 1).await);
    let before = store.inner.held();
    assert!(!is_marked(&first, 2).await);
    assert!(!is_marked(&first, 3).await);
    store.inner.roll_back(before);
    drop(first);
    sleep(Duration::from_secs(1)).await;
    let (second, last) = open(&store, 0).await.unwrap();
    assert_eq!(last, 0);
    for (number, marked) in [(1, true), (2, true), (3, true), (4, false)] {
        assert_eq!(is_marked(&second, number).await, marked, "{number}");
    }
}

/// Nobody else has it: the client may come back at once.
#[tokio::test(start_paused = true)]
async fn a_connection_whose_login_the_store_has_lost_comes_back() {
    let store = Far::new();
    drop(open(&store, 0).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    let before = store.inner.held();
    let (first, _) = open(&store, 0).await.unwrap();
    assert!(!is_marked(&first, 1).await);
    first.published(1, confirmed()).await.unwrap();
    assert!(!is_marked(&first, 2).await);
    store.inner.roll_back(before);
    let receipt = first.published(2, confirmed()).await;
    assert!(matches!(receipt, Err(Problem::SequenceLost)));
    drop(first);
    sleep(Duration::from_secs(1)).await;
    // It has not heard of its first receipt, and so cannot tell.
    let (second, last) = open(&store, 0).await.unwrap();
    assert_eq!(last, 0);
    for (number, marked) in [(1, true), (2, true), (3, false)] {
        assert_eq!(is_marked(&second, number).await, marked, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_published_once() {
    let store = Far::new();
    let keys = || Keys::new(Arc::clone(&store) as _, holder());
    let marked = |possible_duplicate| Ok(KeyAdmitted::Publish { possible_duplicate });
    assert_eq!(keys().admit("a").await, marked(false));
    keys().published("a".into(), confirmed()).await.unwrap();
    assert_eq!(keys().admit("a").await, Ok(KeyAdmitted::Known));
    // Another has it under way, and is done in time.
    assert_eq!(keys().admit("b").await, marked(false));
    let (confirm, broker) = message();
    drop(keys().published("b".into(), confirm));
    let repeat = tokio::spawn({
        let keys = keys();
        async move { keys.admit("b").await }
    });
    sleep(Duration::from_millis(200)).await;
    broker.send(Ok(())).unwrap();
    assert_eq!(repeat.await.unwrap(), Ok(KeyAdmitted::Known));
    // Another has died.
    assert_eq!(keys().admit("c").await, marked(false));
    let begun = Instant::now();
    assert_eq!(keys().admit("c").await, marked(true));
    assert!((1_000..1_300).contains(&begun.elapsed().as_millis()));
}
