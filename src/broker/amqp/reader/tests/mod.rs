//! A connection against a broker in memory, byte by byte.

mod seeds;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{advance, timeout},
};

use super::{
    super::{link::RENEWED, silence::silent},
    handshake::handshake,
    *,
};
use amqp_wire::Body;

const DEADLINE: Duration = Duration::from_secs(30);
const PREFETCH: u16 = 20;

/// Remembers what it took.
#[derive(Default)]
struct Notes {
    bodies: Vec<String>,
    acknowledged: usize,
    /// After the message with this body it is done.
    last: Option<&'static str>,
}

impl DeliveryTaker for Notes {
    fn take(&mut self, delivery: Delivery<'_>, _: ReadAt) {
        let Body::Whole(body) = delivery.body else {
            panic!("too large")
        };
        self.bodies.push(String::from_utf8(body.to_vec()).unwrap());
    }

    fn acknowledged(&mut self) {
        self.acknowledged = self.bodies.len();
    }

    fn is_done(&self) -> bool {
        self.bodies.last().map(String::as_str) == self.last && self.last.is_some()
    }
}

/// The other side.
struct Broker(DuplexStream);

/// A frame of the client: its channel, and a method's class and number.
type Said = (u16, u16, u16);

impl Broker {
    async fn write(&mut self, frames: &[Vec<u8>]) {
        self.0.write_all(&frames.concat()).await.unwrap();
    }

    /// The next frame: its kind, its channel, its payload.
    async fn read(&mut self) -> (u8, u16, Vec<u8>) {
        let reading = async {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).await.unwrap();
            let [kind, c1, c2, size @ ..] = head;
            let size = usize::try_from(u32::from_be_bytes(size)).unwrap();
            let mut payload = vec![0; size + 1];
            self.0.read_exact(&mut payload).await.unwrap();
            assert_eq!(payload.pop(), Some(0xCE));
            (kind, u16::from_be_bytes([c1, c2]), payload)
        };
        timeout(DEADLINE, reading)
            .await
            .expect("the client says something")
    }

    /// The next method, and its arguments.
    async fn said(&mut self) -> (Said, Vec<u8>) {
        let (kind, channel, payload) = self.read().await;
        assert_eq!(kind, 1, "on {channel}: {payload:?}");
        let [c1, c2, m1, m2, arguments @ ..] = &payload[..] else {
            panic!("{payload:?}")
        };
        let said = (
            channel,
            u16::from_be_bytes([*c1, *c2]),
            u16::from_be_bytes([*m1, *m2]),
        );
        (said, arguments.to_vec())
    }

    async fn expect(&mut self, said: Said) -> Vec<u8> {
        let (next, arguments) = self.said().await;
        assert_eq!(next, said, "{arguments:?}");
        arguments
    }

    /// Lets a consumer start.
    async fn start(&mut self, channel: u16) {
        self.expect((channel, 20, 10)).await;
        self.expect((channel, 60, 10)).await;
        self.expect((channel, 60, 20)).await;
        let answers = [
            method(channel, 20, 11, &[0; 4]),
            method(channel, 60, 11, b""),
            method(channel, 60, 21, b"\x03tag"),
        ];
        self.write(&answers).await;
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind], &channel.to_be_bytes()[..], &size, payload, &[0xCE]].concat()
}

fn method(channel: u16, class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    let head = [class.to_be_bytes(), number.to_be_bytes()].concat();
    frame(1, channel, &[&head[..], arguments].concat())
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn close(channel: u16, code: u16, text: &str) -> Vec<u8> {
    let (class, number) = if channel == 0 { (10, 50) } else { (20, 40) };
    let arguments = [&code.to_be_bytes()[..], &short(text), &[0; 4]];
    method(channel, class, number, &arguments.concat())
}

fn message(channel: u16, tag: u64, body: &str) -> Vec<u8> {
    let deliver = [&short("tag")[..], &tag.to_be_bytes(), b"\0\x04feed\x01k"];
    let size = u64::try_from(body.len()).unwrap().to_be_bytes();
    let header = [&[0, 60, 0, 0][..], &size, &[0, 0]];
    [
        method(channel, 60, 60, &deliver.concat()),
        frame(2, channel, &header.concat()),
        frame(3, channel, body.as_bytes()),
    ]
    .concat()
}

fn config() -> LinkConfig {
    let mut config = LinkConfig::of_a_test("amqp://stentor:s3cr%40et@rabbit/app");
    config.uri.query.heartbeat = Some(10);
    LinkConfig {
        connection_timeout: DEADLINE,
        reconnect: (DEADLINE, DEADLINE),
        unready_after: DEADLINE,
        ..config
    }
}

/// Logs in, with the broker's own proposal of limits.
async fn logged_in(tune: &[u8]) -> (Broker, Connected, Vec<u8>) {
    let (ours, theirs) = duplex(1 << 20);
    let mut broker = Broker(theirs);
    let config = config();
    let credentials = config.account.credentials().await.unwrap();
    let client = handshake(Box::new(ours), &config, &credentials, 1000);
    let server = async {
        let mut header = [0; 8];
        broker.0.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP\0\0\x09\x01");
        let start = b"\0\x09\0\0\0\0\0\0\0\x0eAMQPLAIN PLAIN\0\0\0\x05en_US";
        broker.write(&[method(0, 10, 10, start)]).await;
        let login = broker.expect((0, 10, 11)).await;
        let plain = b"\x05PLAIN\0\0\0\x10\0stentor\0s3cr@et\x05en_US";
        assert!(login.ends_with(plain), "{login:?}");
        broker.write(&[method(0, 10, 30, tune)]).await;
        let agreed = broker.expect((0, 10, 31)).await;
        assert_eq!(broker.expect((0, 10, 40)).await, b"\x03app\0\0");
        broker.write(&[method(0, 10, 41, b"\0")]).await;
        (broker, agreed)
    };
    let (connected, (broker, agreed)) = tokio::join!(client, server);
    let Ok(connected) = connected else {
        panic!("not logged in")
    };
    (broker, connected, agreed)
}

/// A running connection, and where to send what it is asked.
struct Running {
    broker: Broker,
    reader: Reader<Notes>,
    ended: tokio::task::JoinHandle<End>,
}

async fn running() -> Running {
    let (broker, connected, _) = logged_in(&[0, 3, 0, 0, 0x20, 0, 0, 60]).await;
    let (sender, commands) = mpsc::unbounded_channel();
    let (_, state) = watch::channel(ReaderState::Up(sender));
    let ended = tokio::spawn(Connection::new(connected, commands).run());
    let reader = Reader {
        state,
        unready_after: DEADLINE,
        next_id: AtomicU64::new(0),
        is_closed: AtomicBool::new(false),
        task: AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
    };
    Running {
        broker,
        reader,
        ended,
    }
}

impl Running {
    async fn consume(&mut self, channel: u16) -> Consumer<Notes> {
        let deadline = Instant::now() + DEADLINE;
        let consuming = self
            .reader
            .consume("q", PREFETCH, Notes::default(), deadline);
        let (consumer, ()) = tokio::join!(consuming, self.broker.start(channel));
        consumer.map_err(|ended| ended.reason).unwrap()
    }
}

fn notes(ended: Ended<Notes>) -> (Vec<String>, usize, BrokerError) {
    let Notes {
        bodies,
        acknowledged,
        ..
    } = ended.taker.unwrap();
    (bodies, acknowledged, ended.reason)
}

#[tokio::test]
async fn the_less_of_both_sides_limits_is_agreed_on() {
    let (_, connected, agreed) = logged_in(&[0, 3, 0, 0, 0x20, 0, 0, 60]).await;
    assert_eq!(agreed, [0, 3, 0, 0, 0x20, 0, 0, 10]);
    assert_eq!(connected.channel_max, 3);
    assert_eq!(connected.heartbeat, Duration::from_secs(10));
    let (_, _, agreed) = logged_in(&[0; 8]).await;
    assert_eq!(agreed, [7, 255, 0, 2, 0, 0, 0, 10]);
}

async fn refused(stream: DuplexStream) -> Result<Connected, BrokerError> {
    let config = config();
    let credentials = config.account.credentials().await.unwrap();
    handshake(Box::new(stream), &config, &credentials, 1000).await
}

#[tokio::test]
async fn a_refused_login_says_so_without_the_password() {
    let (ours, theirs) = duplex(1 << 20);
    let mut broker = Broker(theirs);
    let start = method(0, 10, 10, b"\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US");
    let refusal = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN";
    broker.write(&[start, close(0, 403, refusal)]).await;
    let Err(error) = refused(ours).await else {
        panic!("logged in")
    };
    assert_eq!(error, BrokerError::AccessRefused(refusal.into()));
    broker.0.read_exact(&mut [0; 8]).await.unwrap();
    broker.expect((0, 10, 11)).await;
    broker.expect((0, 10, 51)).await;
}

/// An acknowledgement that the broker no longer reads does not count: its messages surely come
/// again.
#[tokio::test]
async fn nothing_is_acknowledged_after_the_broker_s_own_end() {
    let mut running = running().await;
    let mut consumer = running.consume(1).await;
    let last_words = [message(1, 1, "last"), close(0, 320, "CONNECTION_FORCED")];
    running.broker.write(&last_words).await;
    let (bodies, acknowledged, _) = notes(consumer.ended().await);
    assert_eq!((bodies, acknowledged), (vec!["last".to_owned()], 0));
    running.broker.expect((0, 10, 51)).await;
}

/// A broker of another protocol, or TLS without a TLS listener.
#[tokio::test]
async fn what_is_no_amqp_broker_is_named() {
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"\x15\x03\x01\0\x02\x02\x0a",
    ] {
        let (ours, mut theirs) = duplex(1 << 20);
        theirs.write_all(words).await.unwrap();
        let Err(error) = refused(ours).await else {
            panic!("logged in")
        };
        let text = error.to_string();
        assert!(text.contains("is an AMQP 0-9-1 broker there"), "{text}");
    }
}

#[tokio::test]
async fn what_comes_together_is_acknowledged_together_on_each_channel() {
    let mut running = running().await;
    let one = running.consume(1).await;
    let two = running.consume(2).await;
    let messages = [
        message(1, 1, "a"),
        message(2, 1, "A"),
        message(1, 2, "b"),
        message(1, 3, "c"),
    ];
    running.broker.write(&messages).await;
    let multiple = |tag: u64| [&tag.to_be_bytes()[..], &[1]].concat();
    assert_eq!(running.broker.expect((1, 60, 80)).await, multiple(3));
    assert_eq!(running.broker.expect((2, 60, 80)).await, multiple(1));
    for (consumer, bodies) in [(one, &["a", "b", "c"][..]), (two, &["A"])] {
        let taker = consumer.cancel().await.unwrap();
        assert_eq!(taker.bodies, bodies);
        assert_eq!(taker.acknowledged, bodies.len());
    }
}

/// A new token, of which the connection is told while messages come.
#[tokio::test]
async fn the_login_goes_on_with_another_token() {
    let mut running = running().await;
    let consumer = running.consume(1).await;
    let commands = running.reader.commands().await;
    let mut answers = Vec::new();
    for secret in ["one", "two"] {
        let (renewed, answer) = oneshot::channel();
        let token = Numbered::of_a_test(secret);
        assert!(commands.send(Command::Renew(token, renewed)).is_ok());
        answers.push(answer);
        let said = running.broker.expect((0, 10, 70)).await;
        let length = [0, 0, 0, 3];
        let told = [&length[..], secret.as_bytes(), &short(RENEWED)].concat();
        assert_eq!(said, told);
    }
    let renewed = method(0, 10, 71, b"");
    let between = message(1, 1, "between");
    running
        .broker
        .write(&[renewed.clone(), between, renewed.clone()])
        .await;
    for answer in answers {
        assert_eq!(answer.await, Ok(()));
    }
    assert_eq!(consumer.cancel().await.unwrap().bodies, ["between"]);
    // Nobody asked for a third one.
    running.broker.write(&[renewed]).await;
    let End::Lost(reason) = running.ended.await.unwrap() else {
        panic!("wanted")
    };
    assert!(reason.to_string().contains("channel 0"), "{reason}");
}

/// Few messages wait for others, but not for long; a quarter of what may be under way does not.
#[tokio::test(start_paused = true)]
async fn acknowledgements_wait_for_each_other() {
    let mut running = running().await;
    let consumer = running.consume(1).await;
    let tag = |arguments: Vec<u8>| u64::from_be_bytes(*arguments.first_chunk().unwrap());
    let since = Instant::now();
    for number in 1..=PREFETCH / 4 {
        running
            .broker
            .write(&[message(1, number.into(), "x")])
            .await;
        tokio::task::yield_now().await;
    }
    assert_eq!(tag(running.broker.expect((1, 60, 80)).await), 5);
    assert_eq!(since.elapsed(), Duration::ZERO);
    running.broker.write(&[message(1, 6, "x")]).await;
    tokio::task::yield_now().await;
    running.broker.write(&[message(1, 7, "x")]).await;
    assert_eq!(tag(running.broker.expect((1, 60, 80)).await), 7);
    assert!(since.elapsed() >= Duration::from_millis(50));
    // The messages taken are acknowledged before the end.
    running.broker.write(&[message(1, 8, "x")]).await;
    tokio::task::yield_now().await;
    assert_eq!(consumer.cancel().await.unwrap().acknowledged, 8);
    assert_eq!(tag(running.broker.expect((1, 60, 80)).await), 8);
    running.broker.expect((1, 20, 40)).await;
}

/// An acknowledgement would bring more, whole, which nobody takes.
#[tokio::test]
async fn who_is_done_asks_for_nothing_more() {
    let mut running = running().await;
    let taker = Notes {
        last: Some("d"),
        ..Notes::default()
    };
    let deadline = Instant::now() + DEADLINE;
    let consuming = running.reader.consume("q", PREFETCH, taker, deadline);
    let (consumer, ()) = tokio::join!(consuming, running.broker.start(1));
    let consumer = consumer.map_err(|ended| ended.reason).unwrap();
    let other = running.consume(2).await;
    let bodies = ["a", "b", "c", "d"];
    let numbered = (1..).zip(bodies);
    let messages: Vec<_> = numbered.map(|(tag, body)| message(1, tag, body)).collect();
    running.broker.write(&messages).await;
    // What comes to another one is acknowledged; by then these would have been, too.
    running.broker.write(&[message(2, 1, "A")]).await;
    running.broker.expect((2, 60, 80)).await;
    let taker = consumer.cancel().await.unwrap();
    assert_eq!(taker.bodies, bodies);
    assert_eq!(taker.acknowledged, 0);
    running.broker.expect((1, 20, 40)).await;
    drop(other);
}

#[tokio::test]
async fn what_befalls_a_channel_is_nobody_else_s() {
    let mut running = running().await;
    let mut one = running.consume(1).await;
    let two = running.consume(2).await;
    let refusal = "NOT_FOUND - no queue 'q' in vhost 'app'";
    running.broker.write(&[close(1, 404, refusal)]).await;
    let (_, _, reason) = notes(one.ended().await);
    assert_eq!(reason, BrokerError::NotFound(refusal.into()));
    running.broker.expect((1, 20, 41)).await;
    running.broker.write(&[message(2, 1, "well")]).await;
    running.broker.expect((2, 60, 80)).await;
    assert_eq!(two.cancel().await.unwrap().bodies, ["well"]);
    // The number is free again.
    running.broker.expect((2, 20, 40)).await;
    running.consume(1).await;
}

#[tokio::test]
async fn a_deleted_queue_ends_its_consumer() {
    let mut running = running().await;
    let mut consumer = running.consume(1).await;
    running
        .broker
        .write(&[method(1, 60, 30, b"\x03tag\x01")])
        .await;
    let (_, _, reason) = notes(consumer.ended().await);
    assert!(matches!(reason, BrokerError::Cancelled(_)), "{reason}");
    running.broker.expect((1, 20, 40)).await;
    // The number is not used before the broker has answered; messages until then are for nobody.
    let other = running.consume(2).await;
    let late = [message(1, 9, "late"), method(1, 20, 41, b"")];
    running.broker.write(&late).await;
    running.broker.write(&[message(2, 1, "other")]).await;
    running.broker.expect((2, 60, 80)).await;
    assert_eq!(other.cancel().await.unwrap().bodies, ["other"]);
    running.broker.expect((2, 20, 40)).await;
    running.consume(1).await;
}

/// After it was cancelled nothing reaches its taker, even if messages are on their way.
#[tokio::test]
async fn a_cancelled_consumer_s_messages_stay_with_the_broker() {
    let mut running = running().await;
    let consumer = running.consume(1).await;
    let taker = consumer.cancel().await.unwrap();
    assert!(taker.bodies.is_empty());
    running.broker.expect((1, 20, 40)).await;
    let other = running.consume(2).await;
    running
        .broker
        .write(&[message(1, 1, "late"), message(2, 1, "x")])
        .await;
    running.broker.expect((2, 60, 80)).await;
    drop(other);
}

#[tokio::test]
async fn there_are_as_many_consumers_as_channels() {
    let mut running = running().await;
    let mut consumers = Vec::new();
    for channel in 1..=3 {
        consumers.push(running.consume(channel).await);
    }
    let deadline = Instant::now() + DEADLINE;
    let refused = running
        .reader
        .consume("q", PREFETCH, Notes::default(), deadline)
        .await;
    let Err(ended) = refused else {
        panic!("a fourth")
    };
    assert!(ended.taker.is_some());
    assert!(
        ended.reason.to_string().contains("all channels"),
        "{}",
        ended.reason
    );
}

/// A consumer that starts late, for its answer stands behind much else, or not at all. What else the
/// client asks is answered after that.
async fn late(starts: bool) -> (Running, Result<Consumer<Notes>, Ended<Notes>>) {
    let Running {
        mut broker,
        reader,
        ended,
    } = running().await;
    let deadline = Instant::now() + Duration::from_secs(5);
    let consuming = reader.consume_unless_silent("q", PREFETCH, Notes::default(), deadline);
    let server = async {
        for said in [(1, 20, 10), (1, 60, 10), (1, 60, 20), (2, 20, 10)] {
            broker.expect(said).await;
        }
        assert!(Instant::now() >= deadline);
        let mut answers = Vec::new();
        if starts {
            answers.extend([method(1, 20, 11, &[0; 4]), method(1, 60, 11, b"")]);
            answers.extend([method(1, 60, 21, b"\x03tag"), message(1, 1, "first")]);
        }
        answers.push(method(2, 20, 11, &[0; 4]));
        broker.write(&answers).await;
        broker.expect((2, 20, 40)).await;
        broker.write(&[method(2, 20, 41, b"")]).await;
    };
    let (consumed, ()) = tokio::join!(consuming, server);
    let running = Running {
        broker,
        reader,
        ended,
    };
    (running, consumed)
}

#[tokio::test(start_paused = true)]
async fn a_consumer_on_a_slow_connection_starts_late() {
    let (mut running, consumed) = late(true).await;
    let consumer = consumed.map_err(|ended| ended.reason).unwrap();
    running.broker.expect((1, 60, 80)).await;
    assert_eq!(consumer.cancel().await.unwrap().bodies, ["first"]);
    running.broker.expect((1, 20, 40)).await;
    // The number is free again.
    running.consume(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_an_answer_beside_others_is_silent() {
    let (mut running, consumed) = late(false).await;
    let Err(ended) = consumed else {
        panic!("it consumes")
    };
    assert!(ended.taker.is_some());
    assert_eq!(ended.reason, BrokerError::Unavailable(silent()));
    running.broker.expect((1, 20, 40)).await;
}

#[tokio::test]
async fn a_fault_of_the_broker_ends_the_connection_and_is_told() {
    let mut running = running().await;
    let mut consumer = running.consume(1).await;
    let faulty = [message(1, 1, "before"), frame(3, 1, b"a body of nothing")];
    running.broker.write(&faulty).await;
    let (bodies, acknowledged, reason) = notes(consumer.ended().await);
    assert_eq!((bodies, acknowledged), (vec!["before".to_owned()], 1));
    assert!(
        reason
            .to_string()
            .contains("a body on channel 1, out of place"),
        "{reason}"
    );
    running.broker.expect((1, 60, 80)).await;
    let told = running.broker.expect((0, 10, 50)).await;
    assert!(told.starts_with(&502_u16.to_be_bytes()), "{told:?}");
    drop(running.broker);
    assert!(matches!(running.ended.await.unwrap(), End::Lost(_)));
}

#[tokio::test]
async fn the_broker_s_own_end_is_answered_and_its_reason_kept() {
    let mut running = running().await;
    let mut consumer = running.consume(1).await;
    let text = "CONNECTION_FORCED - broker forced connection closure";
    running.broker.write(&[close(0, 320, text)]).await;
    let (_, _, reason) = notes(consumer.ended().await);
    assert_eq!(reason, BrokerError::Unavailable(Cause::foreign(text)));
    running.broker.expect((0, 10, 51)).await;
}

/// Also those that were asked for when it was too late.
#[tokio::test]
async fn a_lost_connection_gives_all_takers_back() {
    let mut running = running().await;
    let mut consumer = running.consume(1).await;
    let deadline = Instant::now() + DEADLINE;
    let asked = running
        .reader
        .consume("q", PREFETCH, Notes::default(), deadline);
    drop(running.broker);
    let (asked, ended) = tokio::join!(asked, consumer.ended());
    assert!(asked.is_err_and(|ended| ended.taker.is_some()));
    assert!(matches!(ended.reason, BrokerError::Unavailable(_)));
    assert!(ended.taker.is_some());
    running.ended.await.unwrap();
    let late = running
        .reader
        .consume("q", PREFETCH, Notes::default(), deadline)
        .await;
    assert!(late.is_err_and(|ended| ended.taker.is_some()));
}

#[tokio::test(start_paused = true)]
async fn both_sides_show_that_they_live() {
    let mut running = running().await;
    // Idle, it is heard of twice in each interval.
    for _ in 0..3 {
        let before = Instant::now();
        assert_eq!(running.broker.read().await, (8, 0, Vec::new()));
        assert!(before.elapsed() <= Duration::from_secs(5));
        running.broker.write(&[frame(8, 0, b"")]).await;
    }
    // The broker falls silent.
    let since = Instant::now();
    let End::Lost(reason) = running.ended.await.unwrap() else {
        panic!("nobody asked for it")
    };
    assert!(
        reason.to_string().contains("heart-beat was missed"),
        "{reason}"
    );
    let silence = since.elapsed();
    let patience = Duration::from_secs(20)..Duration::from_secs(31);
    assert!(patience.contains(&silence), "{silence:?}");
}

/// A process that was stopped for long has not missed what waits in its socket.
#[tokio::test(start_paused = true)]
async fn a_reader_that_slept_gets_everything() {
    let mut running = running().await;
    running.broker.write(&[frame(8, 0, b"")]).await;
    advance(Duration::from_secs(60)).await;
    assert_eq!(running.broker.read().await, (8, 0, Vec::new()));
    assert!(!running.ended.is_finished());
}

#[tokio::test]
async fn a_close_in_good_order_says_goodbye() {
    let mut running = running().await;
    let mut consumer = running.consume(1).await;
    let server = async {
        running.broker.expect((0, 10, 50)).await;
        running.broker.write(&[method(0, 10, 51, b"")]).await;
        drop(running.broker);
    };
    tokio::join!(running.reader.close(), server);
    assert!(consumer.ended().await.taker.is_some());
    assert!(matches!(running.ended.await.unwrap(), End::Wanted));
    assert!(running.reader.health().is_err());
}
