//! Against a stream in memory, in virtual time.

use std::{
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use proptest::prelude::*;
use stomp_session::SubscriptionId;
use tokio::time::sleep;

use super::*;
use crate::{
    broker::{
        Broker, BrokerError, Confirm, Consume, Consumer, Cursor, DeliverySink, ExchangeKind,
        FeedConfig, FeedId, FeedSink, JournalAsk, JournalPart, JournalStart, Message, Properties,
        Publish, QueueSpec, VirtualHost,
    },
    hub::{Hub, Item, Mailbox, MailboxConfig, SharedSubscription, Vhosts},
};

/// The reading of a part takes so long.
const READING: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Stream {
    messages: Vec<Stored>,
    /// When they were stored, by the broker's clock.
    times: Vec<(u64, SystemTime)>,
    /// So far is that clock behind.
    lag: Duration,
    /// What came before is not there any more.
    first: u64,
    /// So many markers came after the last message.
    markers: u64,
    /// So many parts were read.
    parts: usize,
    /// Each takes so much longer.
    slow: Duration,
    /// So many offsets are in one, at most, as if each were large.
    most: Option<usize>,
    refusal: Option<BrokerError>,
}

impl Stream {
    /// The offset of what comes next.
    fn next(&self) -> u64 {
        self.messages.last().map_or(0, |last| last.offset + 1) + self.markers
    }

    /// The next message.
    fn push(&mut self, stored: Stored) {
        self.messages.push(stored);
        self.markers = 0;
    }
}

/// A virtual host with one exchange, whose messages a stream keeps.
#[derive(Default)]
struct Fake {
    stream: Mutex<Stream>,
    sink: Mutex<Option<Arc<dyn FeedSink>>>,
}

struct FakeBroker(Arc<Fake>);

impl Broker for FakeBroker {
    fn open(&self, _: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        *self.0.sink.lock() = Some(feeds);
        Arc::clone(&self.0) as Arc<dyn VirtualHost>
    }
}

fn id() -> JournalId {
    JournalId::new("/", "feed")
}

fn feed() -> FeedId {
    FeedId {
        exchange: "feed".into(),
        shard: 0,
    }
}

impl Fake {
    /// A message comes; its cursor.
    fn push(&self, key: &str, body: &str) -> Cursor {
        let (stored, cursor) = self.keep(key, body, Duration::ZERO);
        self.sink().store(&feed(), stored);
        cursor
    }

    /// A message came so long ago, which nobody here has read.
    fn keep(&self, key: &str, body: &str, ago: Duration) -> (Stored, Cursor) {
        let body = bytes::Bytes::copy_from_slice(body.as_bytes());
        let message = Message::new("feed".into(), key.into(), Properties::default(), body);
        let mut stream = self.stream.lock();
        let offset = stream.next();
        let cursor = Cursor::new(id(), offset, &message);
        let message = Arc::new(message);
        let stored = Stored {
            offset,
            message,
            is_left_out: false,
        };
        stream.push(stored.clone());
        let time = SystemTime::now() - ago - stream.lag;
        stream.times.push((offset, time));
        (stored, cursor)
    }

    /// A message comes that is too large.
    fn leave_out(&self, key: &str) {
        let message = Message::new("feed".into(), key.into(), Properties::default(), "".into());
        let left_out = {
            let mut stream = self.stream.lock();
            let offset = stream.next();
            let left_out = Stored {
                offset,
                message: Arc::new(message),
                is_left_out: true,
            };
            stream.push(left_out.clone());
            left_out
        };
        self.sink().remember(&feed(), left_out);
    }

    /// So many markers come.
    fn mark(&self, markers: u64) {
        let last = {
            let mut stream = self.stream.lock();
            stream.markers += markers;
            stream.next() - 1
        };
        self.sink().pass(&feed(), last);
    }

    fn sink(&self) -> Arc<dyn FeedSink> {
        Arc::clone(self.sink.lock().as_ref().unwrap())
    }

    fn expire(&self, first: u64) {
        let mut stream = self.stream.lock();
        stream.first = first;
        stream.messages.retain(|stored| stored.offset >= first);
    }
}

impl VirtualHost for Fake {
    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn health(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    fn exchange_kind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        std::future::ready(Ok(ExchangeKind::Topic)).boxed()
    }

    fn bind_feed<'a>(
        &'a self,
        _: &'a FeedId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn unbind_feed<'a>(
        &'a self,
        _: &'a FeedId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn read_journal<'a>(
        &'a self,
        _: &'a str,
        ask: JournalAsk,
    ) -> BoxFuture<'a, Result<JournalPart, BrokerError>> {
        async move {
            let slow = self.stream.lock().slow;
            sleep(READING + slow).await;
            let mut stream = self.stream.lock();
            stream.parts += 1;
            if let Some(refusal) = &stream.refusal {
                return Err(refusal.clone());
            }
            let from = match ask.start {
                JournalStart::Offset(offset) => offset,
                JournalStart::First => 0,
                JournalStart::Time(seconds) => {
                    let since = UNIX_EPOCH + Duration::from_secs(seconds);
                    let mut times = stream.times.iter();
                    times.find(|(_, time)| *time >= since).unwrap().0
                }
            };
            // As RabbitMQ, it begins with what is there, be it beyond what was asked for; markers
            // count, and are left out.
            let first = from.max(stream.first);
            assert!(first < stream.next(), "nothing is there");
            let until = ask.until.saturating_add(1).max(first + 1);
            let most = ask.most.min(stream.most.unwrap_or(usize::MAX));
            let next = until
                .min(first.saturating_add(most as u64))
                .min(stream.next());
            let start = stream.messages.partition_point(|one| one.offset < first);
            let messages = stream.messages[start..].iter();
            let messages = messages
                .take_while(|one| one.offset < next)
                .cloned()
                .collect();
            Ok(JournalPart {
                first,
                next,
                messages,
            })
        }
        .boxed()
    }

    fn reach_journal<'a>(&'a self, _: &'a FeedId) -> BoxFuture<'a, Result<(), BrokerError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn end_feed(&self, _: &FeedId) {}

    fn consume(
        &self,
        _: Consume,
        _: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        panic!("nothing is consumed")
    }

    fn declare_queue<'a>(&'a self, _: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        panic!("nothing is declared")
    }

    fn delete_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        panic!("nothing is deleted")
    }

    fn publish(&self, _: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        panic!("nothing is published")
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

struct Scene {
    fake: Arc<Fake>,
    hub: Arc<Hub>,
}

/// So many of the scenes' messages are in memory.
fn scene(in_memory: usize) -> Scene {
    scene_of(in_memory, JournalConfig::default().replays)
}

/// The same, with so many readings at a time.
fn scene_of(in_memory: usize, replays: u16) -> Scene {
    let fake = Arc::<Fake>::default();
    let message = Message::new(
        "feed".into(),
        "k".into(),
        Properties::default(),
        bytes::Bytes::from_static(b"0000"),
    );
    let one = Stored {
        offset: 0,
        message: Arc::new(message),
        is_left_out: false,
    };
    let config = JournalConfig {
        exchanges: ["feed".to_owned()].into(),
        memory: ring::weight(&one) * in_memory,
        replays,
        ..JournalConfig::default()
    };
    let feeds = FeedConfig {
        verify_interval: Duration::ZERO,
        ..FeedConfig::default()
    };
    let hub = Vhosts::new(
        Arc::new(FakeBroker(Arc::clone(&fake))),
        &crate::broker::Config::default(),
        &feeds,
        &config,
    )
    .vhost("/")
    .unwrap();
    Scene { fake, hub }
}

/// A client with room for so many messages.
fn client(room: usize) -> Arc<Mailbox> {
    Mailbox::new(MailboxConfig {
        max_messages: room,
        ..MailboxConfig::default()
    })
}

fn take(client: &Mailbox) -> Option<Item> {
    match client.poll_take(&Context::from_waker(Waker::noop())) {
        Poll::Ready(item) => Some(item),
        Poll::Pending => None,
    }
}

fn bodies(client: &Mailbox) -> Vec<String> {
    let items = std::iter::from_fn(|| take(client));
    let bodies = items.map(|item| match item {
        Item::Parcel(parcel) => String::from_utf8_lossy(&parcel.message.body).into_owned(),
        other => format!("{other:?}"),
    });
    bodies.collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{number:04}")).collect()
}

/// Reads for as long as something comes.
async fn read_on(client: &Mailbox) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let some = bodies(client);
        if some.is_empty() {
            return all;
        }
        all.extend(some);
        sleep(Duration::from_secs(1)).await;
    }
}

fn after(cursor: Cursor) -> Resume {
    Resume {
        since: Since::After(cursor),
        on_gap: OnGap::Fail,
    }
}

impl Scene {
    /// Its journal is read, and has these messages; their cursors.
    async fn with(&self, range: std::ops::Range<usize>) -> Vec<Cursor> {
        sleep(Duration::from_millis(1)).await;
        range
            .map(|number| self.fake.push("k", &format!("{number:04}")))
            .collect()
    }

    async fn resume(
        &self,
        client: &Arc<Mailbox>,
        resume: &Resume,
    ) -> Result<(SharedSubscription, Resumed), ResumeError> {
        self.hub
            .subscribe_from(("feed", "k"), resume, client, SubscriptionId(1))
            .await
    }
}

fn exact(missed: u64) -> (Option<Gap>, Missed) {
    (None, Missed::All(missed))
}

fn told(resumed: Resumed) -> (Option<Gap>, Missed) {
    (resumed.gap, resumed.missed)
}

/// A message that takes more than half of the room waits until there is all of it.
#[tokio::test(start_paused = true)]
async fn a_large_message_waits_for_an_empty_mailbox() {
    for in_memory in [1, 100_000] {
        let scene = scene(in_memory);
        let cursors = scene.with(0..3).await;
        let large = "x".repeat(60_000);
        for _ in 0..3 {
            scene.fake.push("k", &large);
        }
        scene.with(3..5).await;
        let client = Mailbox::new(MailboxConfig {
            max_bytes: 100_000,
            ..MailboxConfig::default()
        });
        let (_guard, _) = scene.resume(&client, &after(cursors[0])).await.unwrap();
        let all = read_on(&client).await;
        let lengths: Vec<_> = all.iter().map(String::len).collect();
        assert_eq!(lengths, [4, 4, 60_000, 60_000, 60_000, 4, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn from_memory_it_costs_the_broker_nothing() {
    let scene = scene(1_000);
    let cursors = scene.with(0..600).await;
    let client = client(1_000);
    let (_guard, resumed) = scene.resume(&client, &after(cursors[99])).await.unwrap();
    assert_eq!(told(resumed), exact(500));
    scene.with(600..603).await;
    assert_eq!(bodies(&client), numbers(100..603));
    assert_eq!(scene.fake.stream.lock().parts, 0);
}

/// After a node's start: what was there before is read into memory, for all who come back.
#[tokio::test(start_paused = true)]
async fn a_thousand_cursors_after_a_start_cost_few_readings() {
    let scene = scene(10_000);
    let cursors = scene.with(0..3_000).await;
    scene.fake.sink().restart(&feed());
    scene.with(3_000..3_001).await;
    sleep(Duration::from_secs(8)).await;
    let clients: Vec<_> = (0..1_000).map(|_| client(10_000)).collect();
    let resuming = clients.iter().enumerate().map(|(index, client)| {
        let resume = after(cursors[2_000 + index]);
        let scene = &scene;
        async move { scene.resume(client, &resume).await.unwrap() }
    });
    let guards = futures_util::future::join_all(resuming).await;
    assert!(guards.iter().all(|(_, resumed)| resumed.gap.is_none()));
    assert_eq!(bodies(&clients[0]), numbers(2_001..3_001));
    assert_eq!(bodies(&clients[999]), numbers(3_000..3_001));
    // All that was before, in three parts: none for a cursor.
    let parts = scene.fake.stream.lock().parts;
    assert!((1..=3).contains(&parts), "{parts}");
}

/// No more is read than has room, and once.
#[tokio::test(start_paused = true)]
async fn memory_is_filled_to_its_bound() {
    let scene = scene(2_500);
    let cursors = scene.with(0..9_000).await;
    scene.fake.sink().restart(&feed());
    scene.with(9_000..9_001).await;
    sleep(Duration::from_secs(30)).await;
    let parts = scene.fake.stream.lock().parts;
    assert!((2..=4).contains(&parts), "{parts}");
    let client = client(20_000);
    let (_guard, resumed) = scene.resume(&client, &after(cursors[7_000])).await.unwrap();
    assert_eq!(told(resumed), exact(2_000));
    assert_eq!(scene.fake.stream.lock().parts, parts);
}

/// A message that is too large for this node is told to those for whom it is; others go on.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_left_out_is_told() {
    for in_memory in [3, 10_000] {
        let scene = scene(in_memory);
        let cursors = scene.with(0..10).await;
        scene.fake.leave_out("k");
        scene.with(10..15).await;
        scene.fake.leave_out("other");
        scene.with(15..20).await;
        let strict = client(1_000);
        let (_guard, _) = scene.resume(&strict, &after(cursors[4])).await.unwrap();
        let all = read_on(&strict).await;
        assert_eq!(all[..5], numbers(5..10));
        assert!(all[5].contains("too-large"), "{all:?}");
        let since = Since::After(cursors[4]);
        for (since, on_gap) in [(since, OnGap::Next), (Since::First, OnGap::Fail)] {
            let client = client(1_000);
            let resume = Resume { since, on_gap };
            let (_guard, resumed) = scene.resume(&client, &resume).await.unwrap();
            assert_eq!(resumed.gap, Some(Gap::TooLarge));
            assert!(read_on(&client).await.ends_with(&numbers(8..20)));
        }
        let ask = HistoryAsk {
            pattern: "k",
            since,
            limit: 100,
        };
        let page = scene.hub.history("feed", &ask).await.unwrap();
        assert_eq!((page.messages.len(), page.left_out), (15, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_memory_has_not_is_read_and_then_memory() {
    let scene = scene(50);
    let cursors = scene.with(0..5_000).await;
    let client = client(20_000);
    let (_guard, resumed) = scene.resume(&client, &after(cursors[9])).await.unwrap();
    assert_eq!(told(resumed), exact(4_990));
    scene.with(5_000..5_001).await;
    assert_eq!(bodies(&client), numbers(10..5_001));
    // The cursor's message, and three parts.
    assert_eq!(scene.fake.stream.lock().parts, 4);
}

#[tokio::test(start_paused = true)]
async fn many_who_come_back_share_one_reading() {
    let scene = scene(10);
    let cursors = scene.with(0..1_500).await;
    let clients: Vec<_> = (0..40).map(|_| client(4_000)).collect();
    let resuming = clients.iter().enumerate().map(|(index, client)| {
        let resume = Resume {
            since: Since::First,
            on_gap: OnGap::Fail,
        };
        let resume = if index == 0 {
            after(cursors[700])
        } else {
            resume
        };
        let scene = &scene;
        async move { scene.resume(client, &resume).await.unwrap() }
    });
    let guards = futures_util::future::join_all(resuming).await;
    assert_eq!(told(guards[0].1), exact(799));
    assert!(
        guards[1..]
            .iter()
            .all(|(_, resumed)| told(*resumed) == exact(1_500))
    );
    assert_eq!(bodies(&clients[0]), numbers(701..1_500));
    assert_eq!(bodies(&clients[39]), numbers(0..1_500));
    let parts = scene.fake.stream.lock().parts;
    // One question for each who wants the first, and a few readings.
    assert!(parts <= 40 + 8, "{parts}");
}

/// Each has a cursor of its own that is older than memory: they are checked together.
#[tokio::test(start_paused = true)]
async fn many_old_cursors_cost_few_readings() {
    let scene = scene(10);
    let cursors = scene.with(0..1_500).await;
    let clients: Vec<_> = (0..1_000).map(|_| client(4_000)).collect();
    let wishes: Vec<_> = cursors.iter().map(|cursor| after(*cursor)).collect();
    let resuming = clients.iter().zip(&wishes);
    let resuming = resuming.map(|(client, wish)| scene.resume(client, wish));
    let guards = futures_util::future::join_all(resuming).await;
    for (number, (resumed, client)) in guards.into_iter().zip(&clients).enumerate() {
        assert_eq!(told(resumed.unwrap().1), exact(1_499 - number as u64));
        assert_eq!(bodies(client), numbers(number + 1..1_500));
    }
    let parts = scene.fake.stream.lock().parts;
    assert!(parts <= 12, "{parts}");
}

/// The session whose turn it is may end; the others' cursors are checked all the same.
#[tokio::test(start_paused = true)]
async fn an_end_in_mid_check_costs_the_others_nothing() {
    let scene = Arc::new(scene(10));
    let cursors = scene.with(0..500).await;
    let ending: Vec<_> = cursors[..20]
        .iter()
        .map(|cursor| {
            let (scene, wish) = (Arc::clone(&scene), after(*cursor));
            tokio::spawn(async move {
                let client = client(4_000);
                scene.resume(&client, &wish).await.map(drop)
            })
        })
        .collect();
    let client = client(4_000);
    let wish = after(cursors[100]);
    let resuming = scene.resume(&client, &wish);
    let ends = async {
        sleep(READING / 2).await;
        ending.iter().for_each(tokio::task::JoinHandle::abort);
    };
    let (resumed, ()) = tokio::join!(resuming, ends);
    assert_eq!(told(resumed.unwrap().1), exact(399));
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_gets_all_and_is_not_closed() {
    for in_memory in [10, 10_000] {
        let scene = scene(in_memory);
        let cursors = scene.with(0..3_000).await;
        let client = client(100);
        let (_guard, resumed) = scene.resume(&client, &after(cursors[0])).await.unwrap();
        assert_eq!(resumed.missed, Missed::More);
        let mut got = Vec::new();
        for number in 3_000..3_400 {
            scene.with(number..number + 1).await;
            // As many as come, and some more.
            got.extend((0..9).filter_map(|_| take(&client)).map(|item| match item {
                Item::Parcel(parcel) => String::from_utf8_lossy(&parcel.message.body).into_owned(),
                other => format!("{other:?}"),
            }));
            sleep(READING).await;
        }
        for _ in 0..100 {
            sleep(READING).await;
            got.extend(bodies(&client));
        }
        assert_eq!(got, numbers(1..3_400));
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_keeps_nobody_waiting() {
    let scene = scene(10);
    let cursors = scene.with(0..3_000).await;
    let idle: Vec<_> = (0..3).map(|_| client(10)).collect();
    let mut guards = Vec::new();
    for client in &idle {
        guards.push(scene.resume(client, &after(cursors[0])).await.unwrap());
    }
    let other = client(10_000);
    let resume = after(cursors[0]);
    let resuming = scene.resume(&other, &resume);
    let (_guard, resumed) = tokio::time::timeout(Duration::from_secs(12), resuming)
        .await
        .unwrap()
        .unwrap();
    sleep(Duration::from_secs(12)).await;
    assert_eq!(resumed.gap, None);
    assert_eq!(bodies(&other), numbers(1..3_000));
}

#[tokio::test(start_paused = true)]
async fn who_wants_everything_keeps_no_others_waiting() {
    let scene = scene(10);
    let cursors = scene.with(0..200_000).await;
    let greedy: Vec<_> = (0..2).map(|_| client(1_000_000)).collect();
    let first = Resume {
        since: Since::First,
        on_gap: OnGap::Fail,
    };
    let all = greedy.iter().map(|client| scene.resume(client, &first));
    let modest = async {
        sleep(3 * READING).await;
        let client = client(10_000);
        let begun = Instant::now();
        let resume = after(cursors[199_000]);
        let (_guard, resumed) = scene.resume(&client, &resume).await.unwrap();
        (resumed, begun.elapsed())
    };
    let (all, (resumed, took)) = tokio::join!(futures_util::future::join_all(all), modest);
    assert_eq!(told(resumed), exact(999));
    // One turn of another, and its own.
    assert!(took < 15 * READING, "{took:?}");
    for outcome in all {
        assert_eq!(outcome.unwrap().1.gap, None);
    }
}

/// Of large messages a reading has fewer, so one that begins with another may not come to the client
/// that waits longest: that one is not kept waiting twice.
#[tokio::test(start_paused = true)]
async fn who_waits_longest_is_passed_over_once() {
    let scene = scene_of(10, 1);
    let cursors = scene.with(0..21_000).await;
    scene.fake.stream.lock().most = Some(100);
    let [greedy, other, modest] = [(); 3].map(|()| client(1_000_000));
    let first = Resume {
        since: Since::First,
        on_gap: OnGap::Fail,
    };
    let all = scene.resume(&greedy, &first);
    let longest = async {
        sleep(3 * READING).await;
        let begun = Instant::now();
        let resume = after(cursors[20_500]);
        let (_guard, resumed) = scene.resume(&modest, &resume).await.unwrap();
        (resumed, begun.elapsed())
    };
    let before = async {
        sleep(5 * READING).await;
        scene.resume(&other, &after(cursors[12_000])).await
    };
    let (all, (resumed, took), before) = tokio::join!(all, longest, before);
    assert_eq!(told(resumed), exact(499));
    // The first one's turn, the turn that passes it over, and its own.
    assert!(took < 30 * READING, "{took:?}");
    for outcome in [all, before] {
        assert_eq!(outcome.unwrap().1.gap, None);
    }
}

/// Or a reading would keep all others waiting for ten parts, each of which takes long.
#[tokio::test(start_paused = true)]
async fn where_the_broker_is_slow_a_reading_ends_after_a_part_for_others() {
    let scene = scene_of(10, 1);
    let cursors = scene.with(0..100).await;
    {
        let mut stream = scene.fake.stream.lock();
        (stream.slow, stream.most) = (Duration::from_secs(10), Some(1));
    }
    let [greedy, modest] = [(); 2].map(|()| client(1_000));
    let first = Resume {
        since: Since::First,
        on_gap: OnGap::Fail,
    };
    let all = scene.resume(&greedy, &first);
    let later = async {
        sleep(Duration::from_secs(5)).await;
        scene.resume(&modest, &after(cursors[80])).await
    };
    let guards = tokio::join!(all, later);
    assert!(guards.0.is_ok() && guards.1.is_ok());
    // Where each begins was found, then one part was read for the one, and one for the other.
    sleep(Duration::from_secs(20)).await;
    assert_eq!(bodies(&modest), numbers(81..82));
    // They have their turns one after the other.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(bodies(&modest), numbers(82..85));
    assert_eq!(bodies(&greedy), numbers(0..4));
}

/// Of cursors that are checked, too.
#[tokio::test(start_paused = true)]
async fn where_the_broker_is_slow_a_check_ends_after_a_part_for_others() {
    let scene = scene(10);
    let cursors = scene.with(0..4_200).await;
    {
        let mut stream = scene.fake.stream.lock();
        (stream.slow, stream.most) = (Duration::from_secs(10), Some(1));
    }
    // As many stretches as are checked at a time.
    let wishes: Vec<_> = cursors[..20]
        .iter()
        .chain(&cursors[2_000..2_020])
        .map(|cursor| after(*cursor))
        .collect();
    let many: Vec<_> = wishes.iter().map(|_| client(10)).collect();
    let resuming = many.iter().zip(&wishes);
    let resuming = resuming.map(|(client, wish)| scene.resume(client, wish));
    let modest = async {
        sleep(Duration::from_secs(5)).await;
        let begun = Instant::now();
        let client = client(10);
        let resumed = scene.resume(&client, &after(cursors[4_100])).await;
        (resumed.is_ok(), begun.elapsed())
    };
    let (all, (is_ok, took)) = tokio::join!(futures_util::future::join_all(resuming), modest);
    assert!(is_ok && all.iter().all(Result::is_ok));
    // One turn of another, and its own.
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_told() {
    let scene = scene(10);
    let cursors = scene.with(0..100).await;
    scene.fake.expire(50);
    let client = client(1_000);
    let error = scene.resume(&client, &after(cursors[7])).await.unwrap_err();
    assert_eq!(error, ResumeError::Gap(Gap::Expired, Some(50)));
    for (on_gap, first) in [(OnGap::Earliest, 50), (OnGap::Next, 100)] {
        let resume = Resume {
            on_gap,
            ..after(cursors[7])
        };
        let (_guard, resumed) = scene.resume(&client, &resume).await.unwrap();
        assert_eq!(resumed.gap, Some(Gap::Expired));
        assert_eq!(bodies(&client), numbers(first..100));
    }
    // Whoever had it up to the last one that expired missed nothing; but nobody can tell.
    let error = scene
        .resume(&client, &after(cursors[49]))
        .await
        .unwrap_err();
    assert_eq!(error, ResumeError::Gap(Gap::Expired, Some(50)));
    let (_guard, resumed) = scene.resume(&client, &after(cursors[50])).await.unwrap();
    assert_eq!(told(resumed), exact(49));
}

#[tokio::test(start_paused = true)]
async fn retention_that_overtakes_a_reading_is_told() {
    let scene = scene(10);
    let cursors = scene.with(0..9_000).await;
    let client = client(100);
    let (_guard, _) = scene.resume(&client, &after(cursors[0])).await.unwrap();
    assert_eq!(bodies(&client).len(), 50);
    scene.fake.expire(8_000);
    sleep(Duration::from_secs(20)).await;
    // What was read already comes first.
    let all = read_on(&client).await;
    assert!(all.last().unwrap().contains("ResumeGap"), "{all:?}");
}

/// Of a page, too: at once, or to whoever asks for the next one.
#[tokio::test(start_paused = true)]
async fn retention_that_overtakes_a_page_is_told() {
    // The cursor is checked, and then the first part is read, or two of them.
    for (moment, has_some) in [(READING * 3 / 2, false), (READING * 7 / 2, true)] {
        let scene = scene(10);
        let cursors = scene.with(0..9_000).await;
        let since = |cursor| HistoryAsk {
            pattern: "rare",
            since: Since::After(cursor),
            limit: 10,
        };
        let ask = since(cursors[0]);
        let expiring = async {
            sleep(moment).await;
            scene.fake.expire(8_000);
        };
        let (mut page, ()) = tokio::join!(scene.hub.history("feed", &ask), expiring);
        if has_some {
            let next = page.unwrap();
            assert!(next.has_more);
            let next = next.next.unwrap();
            assert!((1..8_000).contains(&next.offset), "{next:?}");
            page = scene.hub.history("feed", &since(next)).await;
        }
        let gap = ResumeError::Gap(Gap::Expired, Some(8_000));
        assert_eq!(page.unwrap_err(), gap, "{has_some}");
    }
}

/// An ask for whatever is there gets what is left.
#[tokio::test(start_paused = true)]
async fn a_first_page_begins_with_what_is_left() {
    let scene = scene(10);
    scene.with(0..9_000).await;
    let ask = HistoryAsk {
        pattern: "k",
        since: Since::First,
        limit: 10,
    };
    let expiring = async {
        sleep(READING * 3 / 2).await;
        scene.fake.expire(8_000);
    };
    let (page, ()) = tokio::join!(scene.hub.history("feed", &ask), expiring);
    let page = page.unwrap();
    let offsets = page.messages.iter().map(|stored| stored.offset);
    assert_eq!(
        offsets.collect::<Vec<_>>(),
        (8_000..8_010).collect::<Vec<_>>()
    );
}

/// So does a subscription to whatever is there, or of a client that was told of a gap.
#[tokio::test(start_paused = true)]
async fn a_subscription_to_what_is_there_begins_with_what_is_left() {
    let scene = scene(10);
    let cursors = scene.with(0..1_000).await;
    let behind_gap = Resume {
        on_gap: OnGap::Earliest,
        ..after(cursors[7])
    };
    let whatever = |since| Resume {
        since,
        on_gap: OnGap::Fail,
    };
    // The beginning is found, or the cursor is looked for before that, or the messages after; then the
    // first part is read.
    for (resume, parts, left, gap) in [
        (whatever(Since::First), 1, 100, None),
        (whatever(Since::Last(900)), 2, 200, None),
        (behind_gap, 2, 300, Some(Gap::Expired)),
    ] {
        let client = client(10_000);
        let expiring = async {
            sleep(READING * parts + READING / 2).await;
            scene.fake.expire(left);
        };
        let (resumed, ()) = tokio::join!(scene.resume(&client, &resume), expiring);
        let (_guard, resumed) = resumed.unwrap();
        assert_eq!(told(resumed), (gap, Missed::All(1_000 - left)), "{left}");
        let left = usize::try_from(left).unwrap();
        assert_eq!(read_on(&client).await, numbers(left..1_000));
    }
}

/// Behind a RECEIPT that said that nothing is missing, it is told.
#[tokio::test(start_paused = true)]
async fn what_expires_between_the_receipt_and_the_first_message_is_told() {
    let scene = scene(10);
    scene.with(0..1_000).await;
    let resume = Resume {
        since: Since::First,
        on_gap: OnGap::Fail,
    };
    // Longer than a RECEIPT waits.
    scene.fake.stream.lock().slow = Duration::from_secs(5);
    let client = client(10_000);
    let (_guard, resumed) = scene.resume(&client, &resume).await.unwrap();
    assert_eq!(told(resumed), (None, Missed::More));
    scene.fake.expire(100);
    sleep(Duration::from_secs(20)).await;
    let all = bodies(&client);
    assert!(all.last().unwrap().contains("ResumeGap"), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn another_stream_is_not_taken_for_the_old_one() {
    let scene = scene(10);
    let cursors = scene.with(0..100).await;
    *scene.fake.stream.lock() = Stream::default();
    scene.fake.sink().restart(&feed());
    scene.with(200..300).await;
    let client = client(1_000);
    for (cursor, gap) in [(cursors[50], Gap::Replaced), (cursors[95], Gap::Replaced)] {
        let error = scene.resume(&client, &after(cursor)).await.unwrap_err();
        assert!(
            matches!(error, ResumeError::Gap(told, _) if told == gap),
            "{error:?}"
        );
    }
    *scene.fake.stream.lock() = Stream::default();
    scene.fake.sink().restart(&feed());
    scene.with(0..3).await;
    let error = scene
        .resume(&client, &after(cursors[50]))
        .await
        .unwrap_err();
    assert_eq!(error, ResumeError::Gap(Gap::Ahead, None));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_told() {
    let scene = scene(10);
    let cursors = scene.with(0..3_000).await;
    let client = client(100);
    let (_guard, _) = scene.resume(&client, &after(cursors[0])).await.unwrap();
    let away = BrokerError::Unavailable("away".into());
    scene.fake.stream.lock().refusal = Some(away.clone());
    let error = scene.resume(&client, &after(cursors[0])).await.unwrap_err();
    assert_eq!(error, ResumeError::Broker(away));
    // What was read already comes first.
    let all = read_on(&client).await;
    assert!(all.last().unwrap().contains("BrokerUnavailable"), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_catching_up_leaves_nothing() {
    let scene = scene(10);
    let cursors = scene.with(0..3_000).await;
    let client = client(100);
    let (guard, _) = scene.resume(&client, &after(cursors[0])).await.unwrap();
    drop(guard);
    bodies(&client);
    sleep(Duration::from_secs(20)).await;
    scene.with(3_000..3_010).await;
    assert_eq!(bodies(&client), [""; 0]);
    let status = scene.hub.status();
    assert_eq!(status.feeds[0].journal.unwrap().resuming, 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_ones_are_found_in_memory_and_beyond() {
    for in_memory in [2, 10, 10_000] {
        let scene = scene(in_memory);
        scene.with(0..7_000).await;
        for number in 0..20 {
            scene.fake.push("other", &number.to_string());
        }
        for count in [1, 3, 1_000] {
            let client = client(10_000);
            let resume = Resume {
                since: Since::Last(count),
                on_gap: OnGap::Fail,
            };
            let (_guard, resumed) = scene.resume(&client, &resume).await.unwrap();
            assert_eq!(told(resumed), exact(count.into()), "{in_memory}");
            assert_eq!(bodies(&client), numbers(7_000 - usize::from(count)..7_000));
        }
    }
}

/// Who finds enough in memory waits for nobody who has to look further, and nobody waits for long.
#[tokio::test(start_paused = true)]
async fn searches_keep_nobody_waiting() {
    let scene = scene(10);
    scene.with(0..50_000).await;
    let last = |count| Resume {
        since: Since::Last(count),
        on_gap: OnGap::Fail,
    };
    let begun = Instant::now();
    let far = (0..200).map(|_| {
        let hub = Arc::clone(&scene.hub);
        async move {
            let (client, wish) = (client(100), last(5));
            let source = ("feed", "rare");
            let resuming = hub.subscribe_from(source, &wish, &client, SubscriptionId(1));
            resuming.await.unwrap();
        }
    });
    let near = async {
        sleep(READING).await;
        let client = client(100);
        let (_guard, resumed) = scene.resume(&client, &last(3)).await.unwrap();
        (resumed, begun.elapsed())
    };
    let (_, (resumed, took)) = tokio::join!(futures_util::future::join_all(far), near);
    assert_eq!(told(resumed), exact(3));
    assert!(took < Duration::from_secs(1), "{took:?}");
    let all = begun.elapsed();
    assert!(all < Duration::from_secs(9), "{all:?}");
}

fn since(ago: u64) -> Resume {
    Resume {
        since: Since::Ago(Duration::from_secs(ago)),
        on_gap: OnGap::Fail,
    }
}

/// The broker's clock is behind: what was published in the last minute has older times there.
#[tokio::test(start_paused = true)]
async fn a_broker_whose_clock_is_behind_hides_nothing() {
    let scene = scene(1);
    sleep(Duration::from_millis(1)).await;
    scene.fake.stream.lock().lag = Duration::from_secs(30);
    for (number, ago) in [100, 40].into_iter().enumerate() {
        let body = format!("{number:04}");
        scene.fake.keep("k", &body, Duration::from_secs(ago));
    }
    scene.fake.push("k", "0002");
    let client = client(100);
    let (_guard, resumed) = scene.resume(&client, &since(60)).await.unwrap();
    assert_eq!(told(resumed), exact(2));
    assert_eq!(read_on(&client).await, numbers(1..3));
}

/// This node finds by its own clock what it has read itself, whatever the broker's says.
#[tokio::test(start_paused = true)]
async fn what_was_read_here_is_found_by_this_node_s_clock() {
    let scene = scene(100);
    sleep(Duration::from_millis(1)).await;
    scene.fake.stream.lock().lag = Duration::from_secs(3_600);
    for number in 0..4 {
        scene.fake.push("k", &format!("{number:04}"));
        sleep(Duration::from_secs(60)).await;
    }
    let parts = scene.fake.stream.lock().parts;
    for (ago, left) in [(1, 4), (90, 3), (150, 2), (210, 1)] {
        let client = client(100);
        let (_guard, resumed) = scene.resume(&client, &since(ago)).await.unwrap();
        assert_eq!(told(resumed).0, None, "{ago}");
        assert_eq!(read_on(&client).await, numbers(left..4), "{ago}");
    }
    assert_eq!(scene.fake.stream.lock().parts, parts);
}

/// `since` asks for whatever is there, also where the journal keeps less.
#[tokio::test(start_paused = true)]
async fn a_time_from_which_on_not_all_is_kept_is_no_gap() {
    let scene = scene(1);
    for first in [0, 10, 20] {
        scene.with(first..first + 10).await;
        sleep(Duration::from_secs(60)).await;
    }
    scene.fake.expire(5);
    let client = client(100);
    let (_guard, resumed) = scene.resume(&client, &since(150)).await.unwrap();
    assert_eq!(told(resumed), exact(25));
    assert_eq!(read_on(&client).await, numbers(5..30));
}

/// Of a message that is left out no cursor is made, so the next page looks at it again.
#[tokio::test(start_paused = true)]
async fn what_is_left_out_counts_on_one_page() {
    let scene = scene(10);
    scene.with(0..1).await;
    scene.fake.leave_out("k");
    let mut since = Since::First;
    let mut counts = Vec::new();
    for number in 1..7 {
        let ask = HistoryAsk {
            pattern: "k",
            since,
            limit: 10,
        };
        let page = scene.hub.history("feed", &ask).await.unwrap();
        counts.push((page.messages.len(), page.left_out));
        since = Since::After(page.next.unwrap());
        if number == 3 {
            scene.with(number..number + 1).await;
        }
    }
    assert_eq!(counts, [(1, 0), (0, 0), (0, 0), (1, 1), (0, 0), (0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn history_comes_page_by_page() {
    for in_memory in [10, 10_000] {
        let scene = scene(in_memory);
        for number in 0..250 {
            scene.with(number..number + 1).await;
            scene.fake.push("other", "x");
        }
        let (mut since, mut got, mut pages) = (Since::First, Vec::new(), 0);
        loop {
            let ask = HistoryAsk {
                pattern: "k",
                since,
                limit: 100,
            };
            let page = scene.hub.history("feed", &ask).await.unwrap();
            assert!(page.messages.len() <= 100);
            let texts = page
                .messages
                .iter()
                .map(|stored| stored.message.body.clone());
            got.extend(texts.map(|body| String::from_utf8(body.to_vec()).unwrap()));
            pages += 1;
            since = Since::After(page.next.unwrap());
            if !page.has_more {
                break;
            }
        }
        assert_eq!((pages, got), (3, numbers(0..250)));
    }
}

/// Its caller would give up, and ask for the same page again and again.
#[tokio::test(start_paused = true)]
async fn a_page_that_takes_long_ends_where_it_has_come_to() {
    let ask = HistoryAsk {
        pattern: "k",
        since: Since::First,
        limit: 10_000,
    };
    // It is long until there are many parts, or until its beginning is found and there is one.
    for (slow, most, seconds) in [(0, Some(1), 11), (9, None, 19)] {
        let scene = scene(2);
        scene.with(0..3_000).await;
        {
            let mut stream = scene.fake.stream.lock();
            (stream.slow, stream.most) = (Duration::from_secs(slow), most);
        }
        let begun = Instant::now();
        let page = scene.hub.history("feed", &ask).await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(seconds), "{took:?}");
        assert!(page.has_more && page.messages.len() > 100);
        let last = page.messages.last().map(|stored| stored.offset);
        assert_eq!(page.next.map(|next| next.offset), last);
    }
}

/// Where RabbitMQ is slow every page would be thrown away, and its caller come no further.
#[tokio::test(start_paused = true)]
async fn what_a_page_has_gathered_is_given_though_the_broker_fails() {
    let ask = |since| HistoryAsk {
        pattern: "k",
        since,
        limit: 10_000,
    };
    let away = BrokerError::Unavailable("away".into());
    // The second part fails, or it comes, and whether it is behind a gap cannot be told.
    for is_behind_more in [false, true] {
        let scene = scene(10);
        scene.with(0..3_000).await;
        let failing = async {
            // The beginning is found, and then the first part is read.
            sleep(READING * 5 / 2).await;
            if is_behind_more {
                scene.fake.expire(1_500);
                sleep(READING).await;
            }
            scene.fake.stream.lock().refusal = Some(away.clone());
        };
        let first = ask(Since::First);
        let (page, ()) = tokio::join!(scene.hub.history("feed", &first), failing);
        let page = page.unwrap();
        assert!(page.has_more);
        let offsets = page.messages.iter().map(|stored| stored.offset);
        assert!(offsets.eq(0..1_000), "{is_behind_more}");
        let next = page.next.unwrap();
        assert_eq!(next.offset, 999);
        let next = ask(Since::After(next));
        let error = scene.hub.history("feed", &next).await.unwrap_err();
        assert_eq!(error, ResumeError::Broker(away.clone()));
    }
}

/// All pages of a journal, from its beginning.
async fn pages(scene: &Scene) -> Vec<String> {
    let (mut since, mut got) = (Since::First, Vec::new());
    loop {
        let ask = HistoryAsk {
            pattern: "k",
            since,
            limit: 10,
        };
        let page = scene.hub.history("feed", &ask).await.unwrap();
        for stored in &page.messages {
            got.push(String::from_utf8_lossy(&stored.message.body).into_owned());
        }
        let next = Since::After(page.next.unwrap());
        assert_ne!(next, since, "a page that leads nowhere");
        since = next;
        if !page.has_more {
            return got;
        }
    }
}

/// Each node writes a marker every few seconds: a quiet day has more than are looked at for a page.
#[tokio::test(start_paused = true)]
async fn history_passes_a_quiet_stretch() {
    for expired in [0, 1] {
        let scene = scene(2);
        scene.with(0..1).await;
        for number in 1..3 {
            scene.fake.mark(25_000);
            scene.with(number..number + 1).await;
        }
        scene.with(3..20).await;
        scene.fake.expire(expired as u64);
        assert_eq!(pages(&scene).await, numbers(expired..20));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stretch_that_takes_too_long_is_told() {
    let scene = scene(2);
    scene.with(0..1).await;
    scene.fake.mark(10_000_000);
    scene.with(1..20).await;
    scene.fake.expire(1);
    let ask = HistoryAsk {
        pattern: "k",
        since: Since::First,
        limit: 10,
    };
    let error = scene.hub.history("feed", &ask).await.unwrap_err();
    assert!(matches!(error, ResumeError::Broker(_)), "{error:?}");
}

/// What happens to a client that catches up.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Messages come, for it and for others.
    Come(u8, u8),
    /// It reads so many.
    Read(u8),
    /// Time passes, in milliseconds.
    Wait(u8),
    /// It goes, and comes back with its last cursor.
    ComeBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..40_u8, 0..10_u8).prop_map(|(own, others)| Step::Come(own, others)),
        3 => (0..60_u8).prop_map(Step::Read),
        3 => (0..50_u8).prop_map(Step::Wait),
        1 => Just(Step::ComeBack),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever comes, however slowly it reads, and whenever it goes and comes back: it gets every
    /// message once, in order.
    #[test]
    fn nothing_is_missed_and_nothing_comes_twice(
        steps in steps(),
        in_memory in 1..200_usize,
        room in 20..400_usize,
        before in 1..600_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let scene = scene(in_memory);
            let mut cursors = scene.with(0..before).await;
            let mut heard = 1;
            let mut mailbox = client(room);
            let mut guard = Some(scene.resume(&mailbox, &after(cursors[0])).await.unwrap());
            let read = |mailbox: &Mailbox, heard: &mut usize, most: usize| {
                for _ in 0..most {
                    let Some(item) = take(mailbox) else { break };
                    let Item::Parcel(parcel) = item else {
                        // A live subscription of a client that reads slowly: it is told.
                        return true;
                    };
                    assert_eq!(parcel.message.body, format!("{heard:04}"));
                    *heard += 1;
                }
                false
            };
            for step in steps.into_iter().chain([Step::ComeBack]) {
                let mut is_over = false;
                match step {
                    Step::Come(own, others) => {
                        for _ in 0..own {
                            let number = cursors.len();
                            cursors.push(scene.fake.push("k", &format!("{number:04}")));
                        }
                        for _ in 0..others {
                            scene.fake.push("other", "0000");
                        }
                    }
                    Step::Read(most) => is_over = read(&mailbox, &mut heard, most.into()),
                    Step::Wait(milliseconds) => {
                        sleep(Duration::from_millis(milliseconds.into())).await;
                    }
                    Step::ComeBack => is_over = true,
                }
                if is_over {
                    drop(guard.take());
                    mailbox = client(room);
                    let resume = after(cursors[heard - 1]);
                    guard = Some(scene.resume(&mailbox, &resume).await.unwrap());
                }
            }
            for _ in 0..2_000 {
                if heard == cursors.len() {
                    break;
                }
                assert!(!read(&mailbox, &mut heard, usize::MAX));
                sleep(READING).await;
            }
            assert_eq!(heard, cursors.len());
            scene.with(heard..heard + 1).await;
            assert_eq!(bodies(&mailbox), numbers(heard..heard + 1));
        });
    }
}
