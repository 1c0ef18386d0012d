//! Behaviour that the contract leaves open, and that threads or sinks that call back could break.

use std::{
    sync::{
        OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::broker::{
    Argument, BrokerError, Consume, Consumer, Delivery, DeliverySink, FeedId, Message, Properties,
    Publish, QueueSpec, Verdict,
};

/// Does something with each message of a feed.
struct EachFeed<F>(F);

impl<F: Fn(&FeedId, Message) + Send + Sync> FeedSink for EachFeed<F> {
    fn deliver(&self, feed: &FeedId, message: Message) {
        (self.0)(feed, message);
    }

    fn patterns(&self, _: &FeedId) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        panic!("{feed}: {reason}");
    }
}

#[derive(Default)]
struct Inbox(Mutex<Vec<Delivery>>);

impl DeliverySink for Inbox {
    fn deliver(&self, delivery: Delivery) {
        self.0.lock().push(delivery);
    }

    fn lost(&self, _: BrokerError) {}
}

impl Inbox {
    fn bodies(&self) -> Vec<Bytes> {
        let deliveries = self.0.lock();
        let bodies = deliveries.iter().map(|one| one.message.body.clone());
        bodies.collect()
    }
}

fn open(broker: &Embedded) -> Arc<dyn VirtualHost> {
    broker.open("/", Arc::new(EachFeed(|_: &FeedId, _| {})))
}

fn message(exchange: &str, key: &str, body: impl Into<Bytes>) -> Publish {
    Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        properties: Properties::default(),
        body: body.into(),
        mandatory: false,
        lane: 0,
        slow: None,
    }
}

/// Everything here is done at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn send(vhost: &dyn VirtualHost, publish: Publish) -> Result<(), BrokerError> {
    now(now(vhost.publish(publish)).unwrap())
}

fn queue(name: &str, arguments: &[(&str, Argument)]) -> QueueSpec {
    let arguments = arguments.iter().cloned();
    QueueSpec {
        name: name.into(),
        arguments: arguments
            .map(|(name, value)| (name.into(), value))
            .collect(),
        ..QueueSpec::default()
    }
}

fn text(text: &str) -> Argument {
    Argument::Text(text.into())
}

fn read(vhost: &dyn VirtualHost, name: &str) -> (Arc<Inbox>, Arc<dyn Consumer>) {
    let inbox = Arc::new(Inbox::default());
    let request = Consume {
        queue: queue(name, &[]),
        declare: false,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: u16::MAX,
        exclusive: false,
        owner: 0,
        arguments: Vec::new(),
    };
    let consumer = now(vhost.consume(request, Arc::<Inbox>::clone(&inbox))).unwrap();
    (inbox, consumer)
}

fn feed(exchange: &str) -> FeedId {
    FeedId {
        exchange: exchange.into(),
        shard: 0,
    }
}

#[test]
fn a_full_queue_says_so() {
    let broker = Embedded::new([]).with_queue_bytes(10_000);
    let vhost = open(&broker);
    now(vhost.declare_queue(&queue("q", &[]))).unwrap();
    let large = || message("", "q", vec![0; 4_000]);
    assert_eq!(send(&*vhost, large()), Ok(()));
    assert_eq!(send(&*vhost, large()), Ok(()));
    assert_eq!(send(&*vhost, large()), Err(BrokerError::Nacked));
    // Unsettled messages count; settled ones do not.
    let (inbox, consumer) = read(&*vhost, "q");
    assert_eq!(send(&*vhost, large()), Err(BrokerError::Nacked));
    let tag = inbox.0.lock()[0].tag;
    now(consumer.settle(tag, false, Verdict::Accept)).unwrap();
    assert_eq!(send(&*vhost, large()), Ok(()));
}

/// All others who listen to its key have got the message.
#[test]
fn a_client_that_acknowledges_nothing_stops_nobody() {
    let broker = Embedded::new([]).with_queue_bytes(10_000);
    let vhost = open(&broker);
    let passing = [
        ("x-overflow", text("drop-head")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    for queue in [queue("q", &passing), queue("dead", &[])] {
        now(vhost.declare_queue(&queue)).unwrap();
    }
    let large = |number: u8| message("", "q", vec![number; 4_000]);
    let numbers = |inbox: &Inbox| -> Vec<u8> {
        let bodies = inbox.bodies();
        bodies.iter().map(|body| body[0]).collect()
    };
    for number in 1..=3 {
        assert_eq!(send(&*vhost, large(number)), Ok(()));
    }
    let (inbox, consumer) = read(&*vhost, "q");
    assert_eq!(numbers(&inbox), [2, 3]);
    // All that it has is unsettled.
    assert_eq!(send(&*vhost, large(4)), Ok(()));
    assert_eq!(numbers(&inbox), [2, 3]);
    let tag = inbox.0.lock()[0].tag;
    now(consumer.settle(tag, false, Verdict::Accept)).unwrap();
    assert_eq!(send(&*vhost, large(5)), Ok(()));
    assert_eq!(numbers(&inbox), [2, 3, 5]);
    assert_eq!(numbers(&read(&*vhost, "dead").0), [1, 4]);
}

/// No client will get expired messages, so they take no room from others.
#[test]
fn messages_whose_time_is_up_take_no_room() {
    let vhost = open(&Embedded::new([]));
    let brief = [
        ("x-message-ttl", Argument::Number(0)),
        ("x-max-length", Argument::Number(1)),
        ("x-overflow", text("reject-publish")),
    ];
    now(vhost.declare_queue(&queue("q", &brief))).unwrap();
    for body in ["1", "2"] {
        assert_eq!(send(&*vhost, message("", "q", body)), Ok(()));
    }
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let vhost = open(&Embedded::new([]));
    for (name, value) in [
        ("x-expires", Argument::Number(1)),
        ("x-queue-type", text("quorum")),
        ("x-overflow", text("reject-publish-dlx")),
        ("x-whatever", text("")),
    ] {
        match now(vhost.declare_queue(&queue("q", &[(name, value)]))) {
            Err(BrokerError::Unsupported(text)) => assert!(text.contains(name), "{text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let impossible = queue("q", &[("x-max-length", Argument::Number(-1))]);
    let refused = now(vhost.declare_queue(&impossible));
    assert!(matches!(refused, Err(BrokerError::PreconditionFailed(_))));
    let reserved = now(vhost.declare_queue(&queue("amq.mine", &[])));
    assert!(matches!(reserved, Err(BrokerError::AccessRefused(_))));
}

#[test]
fn further_exchanges_can_be_had() {
    let broker = Embedded::new([("feed".into(), ExchangeKind::Direct)]);
    let vhost = open(&broker);
    assert_eq!(now(vhost.exchange_kind("feed")), Ok(ExchangeKind::Direct));
    // Virtual hosts are apart.
    now(vhost.declare_queue(&queue("q", &[]))).unwrap();
    let other = broker.open("other", Arc::new(EachFeed(|_: &FeedId, _| {})));
    let publish = Publish {
        mandatory: true,
        ..message("", "q", "")
    };
    assert_eq!(send(&*other, publish), Err(BrokerError::Unroutable));
}

#[test]
fn a_long_queue_drops_its_head() {
    let vhost = open(&Embedded::new([]));
    let short = queue(
        "q",
        &[
            ("x-max-length", Argument::Number(2)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("dead")),
        ],
    );
    for queue in [short, queue("dead", &[])] {
        now(vhost.declare_queue(&queue)).unwrap();
    }
    for body in ["1", "2", "3"] {
        send(&*vhost, message("", "q", body)).unwrap();
    }
    assert_eq!(read(&*vhost, "q").0.bodies(), ["2", "3"]);
    assert_eq!(read(&*vhost, "dead").0.bodies(), ["1"]);
}

#[test]
fn old_messages_expire() {
    let vhost = open(&Embedded::new([]));
    let passing = [
        ("x-message-ttl", Argument::Number(0)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    for queue in [
        queue("q", &passing),
        queue("lasting", &[]),
        queue("dead", &[]),
    ] {
        now(vhost.declare_queue(&queue)).unwrap();
    }
    send(&*vhost, message("", "q", "nobody there")).unwrap();
    let (inbox, _consumer) = read(&*vhost, "q");
    send(&*vhost, message("", "q", "somebody there")).unwrap();
    assert_eq!(inbox.bodies(), ["somebody there"]);
    assert_eq!(read(&*vhost, "dead").0.bodies(), ["nobody there"]);

    let mut publish = message("", "lasting", "brief");
    publish.properties.expiration = Some("0".into());
    send(&*vhost, publish).unwrap();
    send(&*vhost, message("", "lasting", "lasting")).unwrap();
    assert_eq!(read(&*vhost, "lasting").0.bodies(), ["lasting"]);
}

#[test]
fn dead_letters_do_not_go_round_for_ever() {
    let vhost = open(&Embedded::new([]));
    for (name, next) in [("a", "b"), ("b", "a")] {
        let arguments = [
            ("x-max-length", Argument::Number(0)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(next)),
        ];
        now(vhost.declare_queue(&queue(name, &arguments))).unwrap();
    }
    send(&*vhost, message("", "a", "x")).unwrap();
    assert!(read(&*vhost, "a").0.bodies().is_empty());
}

#[test]
fn important_consumers_come_first() {
    let vhost = open(&Embedded::new([]));
    now(vhost.declare_queue(&queue("q", &[]))).unwrap();
    let (plain, _plain) = read(&*vhost, "q");
    let important = Arc::new(Inbox::default());
    let request = Consume {
        queue: queue("q", &[]),
        declare: false,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: 2,
        exclusive: false,
        owner: 0,
        arguments: vec![("x-priority".into(), Argument::Number(5))],
    };
    let _important = now(vhost.consume(request, Arc::<Inbox>::clone(&important))).unwrap();
    for body in ["1", "2", "3"] {
        send(&*vhost, message("", "q", body)).unwrap();
    }
    assert_eq!(important.bodies(), ["1", "2"]);
    assert_eq!(plain.bodies(), ["3"]);
}

#[test]
fn fanned_out_dead_letters_are_bounded() {
    let vhost = open(&Embedded::new([]));
    for number in 0..10 {
        let arguments = [
            ("x-max-length", Argument::Number(0)),
            ("x-dead-letter-exchange", text("amq.fanout")),
        ];
        let request = Consume {
            queue: queue(&format!("q{number}"), &arguments),
            declare: true,
            binding: Some(("amq.fanout".into(), "".into())),
            binding_arguments: Vec::new(),
            prefetch: 1,
            exclusive: false,
            owner: 0,
            arguments: Vec::new(),
        };
        drop(now(vhost.consume(request, Arc::new(Inbox::default()))).unwrap());
    }
    // Followed to their ends, these would be ten to the sixteenth.
    send(&*vhost, message("amq.fanout", "", "x")).unwrap();
}

#[test]
fn consumers_take_turns() {
    let vhost = open(&Embedded::new([]));
    now(vhost.declare_queue(&queue("q", &[]))).unwrap();
    let [(one, _one), (other, _other)] = [read(&*vhost, "q"), read(&*vhost, "q")];
    for body in ["1", "2", "3", "4"] {
        send(&*vhost, message("", "q", body)).unwrap();
    }
    assert_eq!(one.bodies(), ["1", "3"]);
    assert_eq!(other.bodies(), ["2", "4"]);
}

/// Ends another consumer when it gets its first message.
struct Ending(Mutex<Option<Arc<dyn Consumer>>>);

impl DeliverySink for Ending {
    fn deliver(&self, _: Delivery) {
        let other = self.0.lock().take();
        drop(other);
    }

    fn lost(&self, _: BrokerError) {}
}

#[test]
fn nothing_reaches_a_consumer_after_its_end() {
    let vhost = open(&Embedded::new([]));
    now(vhost.declare_queue(&queue("q", &[]))).unwrap();
    let (_, holder) = read(&*vhost, "q");
    for body in ["1", "2"] {
        send(&*vhost, message("", "q", body)).unwrap();
    }
    let ending = Arc::new(Ending(Mutex::default()));
    let request = Consume {
        queue: queue("q", &[]),
        declare: false,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: 1,
        exclusive: false,
        owner: 0,
        arguments: vec![("x-priority".into(), Argument::Number(1))],
    };
    let _first = now(vhost.consume(request, Arc::<Ending>::clone(&ending))).unwrap();
    let (ended, consumer) = read(&*vhost, "q");
    *ending.0.lock() = Some(consumer);
    // Both messages are given out in one step, and the first one's receiver ends the second's.
    now(holder.cancel()).unwrap();
    assert!(ending.0.lock().is_none());
    assert!(ended.bodies().is_empty());
}

/// A sink publishes to its own feed: its message comes after the one that it was called with.
#[test]
fn a_feed_s_sink_may_publish() {
    let again = |body: Vec<u8>| message("amq.topic", "a", body);
    let link = Arc::new(OnceLock::<Weak<dyn VirtualHost>>::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inside = AtomicBool::new(false);
    let sink = {
        let (link, seen) = (Arc::clone(&link), Arc::clone(&seen));
        EachFeed(move |_: &FeedId, message: Message| {
            assert!(!inside.swap(true, Ordering::SeqCst), "called within a call");
            seen.lock().push(message.body.clone());
            if message.body.len() < 4 {
                let vhost = link.get().and_then(Weak::upgrade).unwrap();
                let longer = [&message.body[..], b"x"].concat();
                send(&*vhost, again(longer)).unwrap();
                now(vhost.bind_feed(&feed("amq.topic"), "b")).unwrap();
            }
            inside.store(false, Ordering::SeqCst);
        })
    };
    let vhost = Embedded::new([]).open("/", Arc::new(sink));
    link.set(Arc::downgrade(&vhost)).unwrap_or_default();
    now(vhost.bind_feed(&feed("amq.topic"), "a")).unwrap();
    send(&*vhost, message("amq.topic", "a", "x")).unwrap();
    assert_eq!(*seen.lock(), ["x", "xx", "xxx", "xxxx"]);
}

/// A sink that settles as it is called, as one of `ack:auto` may.
struct AtOnce {
    consumer: OnceLock<Weak<dyn Consumer>>,
    seen: AtomicUsize,
}

impl DeliverySink for AtOnce {
    fn deliver(&self, delivery: Delivery) {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) {
            now(consumer.settle(delivery.tag, false, Verdict::Accept)).unwrap();
        }
    }

    fn lost(&self, _: BrokerError) {}
}

#[test]
fn a_consumer_s_sink_may_settle() {
    let vhost = open(&Embedded::new([]));
    now(vhost.declare_queue(&queue("q", &[]))).unwrap();
    let sink = Arc::new(AtOnce {
        consumer: OnceLock::new(),
        seen: AtomicUsize::new(0),
    });
    let request = Consume {
        queue: queue("q", &[]),
        declare: false,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: 1,
        exclusive: false,
        owner: 0,
        arguments: Vec::new(),
    };
    let consumer = now(vhost.consume(request, Arc::<AtOnce>::clone(&sink))).unwrap();
    sink.consumer
        .set(Arc::downgrade(&consumer))
        .unwrap_or_default();
    for _ in 0..1_000 {
        send(&*vhost, message("", "q", "x")).unwrap();
    }
    assert_eq!(sink.seen.load(Ordering::SeqCst), 1_000);
}

/// Threads publish to one feed while others bind: each publisher's messages come in order, one
/// call at a time, without a loss.
#[test]
fn threads_share_a_feed() {
    const THREADS: usize = 4;
    const EACH: usize = 5_000;
    let seen = Arc::new(Mutex::new(vec![Vec::new(); THREADS]));
    let inside = AtomicBool::new(false);
    let sink = {
        let seen = Arc::clone(&seen);
        EachFeed(move |_: &FeedId, message: Message| {
            assert!(!inside.swap(true, Ordering::SeqCst), "two calls at once");
            let (by, number) = (message.body[0], &message.body[1..]);
            let number = u32::from_be_bytes(number.try_into().unwrap());
            seen.lock()[usize::from(by)].push(number as usize);
            inside.store(false, Ordering::SeqCst);
        })
    };
    let vhost = Embedded::new([]).open("/", Arc::new(sink));
    now(vhost.bind_feed(&feed("amq.topic"), "a")).unwrap();
    thread::scope(|scope| {
        for by in 0..THREADS {
            let vhost = &vhost;
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut body = vec![by as u8];
                    body.extend((number as u32).to_be_bytes());
                    send(&**vhost, message("amq.topic", "a", body)).unwrap();
                    if number % 50 == 0 {
                        let pattern = format!("{by}.*");
                        now(vhost.bind_feed(&feed("amq.topic"), &pattern)).unwrap();
                        now(vhost.unbind_feed(&feed("amq.topic"), &pattern)).unwrap();
                    }
                }
            });
        }
    });
    // The publisher that is handing over takes what others leave: when all are done, all is.
    let expected: Vec<usize> = (0..EACH).collect();
    assert!(seen.lock().iter().all(|numbers| *numbers == expected));
}

/// Consumers come and go on an auto-delete queue while messages are published: no message is
/// with two consumers, and nothing is left behind.
#[test]
fn threads_share_queues() {
    let vhost = open(&Embedded::new([]));
    let request = |prefetch| Consume {
        queue: QueueSpec {
            auto_delete: true,
            ..queue("q", &[])
        },
        declare: true,
        binding: Some(("amq.topic".into(), "a.#".into())),
        binding_arguments: Vec::new(),
        prefetch,
        exclusive: false,
        owner: 0,
        arguments: Vec::new(),
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    send(&*vhost, message("amq.topic", "a.b", "x")).unwrap();
                }
            });
            scope.spawn(|| {
                for round in 0..500 {
                    let inbox = Arc::new(Inbox::default());
                    let sink = Arc::<Inbox>::clone(&inbox);
                    let consumer = now(vhost.consume(request(10), sink)).unwrap();
                    let first = inbox.0.lock().first().map(|delivery| delivery.tag);
                    if let Some(tag) = first {
                        now(consumer.settle(tag, true, Verdict::Accept)).unwrap();
                    }
                    if round % 2 == 0 {
                        now(consumer.cancel()).unwrap();
                    }
                }
            });
        }
    });
    let gone = Publish {
        mandatory: true,
        ..message("amq.topic", "a.b", "")
    };
    assert_eq!(send(&*vhost, gone), Err(BrokerError::Unroutable));
    let gone = now(vhost.consume(
        Consume {
            declare: false,
            ..request(1)
        },
        Arc::new(Inbox::default()),
    ));
    assert!(matches!(gone.err(), Some(BrokerError::NotFound(_))));
}
