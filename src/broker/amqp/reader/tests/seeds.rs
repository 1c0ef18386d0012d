//! Connections, one after the other, against a broker that does what a seed says: it closes
//! channels and connections at any point, deletes queues, refuses consumers, cuts frames anywhere,
//! stalls, falls silent, and talks nonsense. Time is virtual, so a seed always goes the same way.
//!
//! Whatever happens: each message comes to its taker, in order, and again only if it was not
//! acknowledged and is marked; the broker is told of no message that the taker was not given, and of
//! all that it was given before a channel is closed in good order; a connection is given up for
//! nonsense alone; no taker is lost; and in the end nothing is left to be acknowledged.

use std::{collections::BTreeMap, fmt::Write as _};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;

use super::*;

const QUEUES: usize = 3;
/// Messages of each queue.
const MESSAGES: usize = 150;
/// Faults of a seed, at most.
const FAULTS: usize = 12;
/// Virtual time after which a seed is stuck: each silence takes ten minutes.
const STUCK: Duration = Duration::from_secs(4 * 3_600);

/// What a taker was given, as it knows it.
#[derive(Default)]
struct Seen {
    /// The next message that is new.
    next: usize,
    /// Messages below this one may be known to the broker.
    acknowledged: usize,
    /// The last one that was given.
    last: Option<usize>,
    /// Given since the consumer began, or since the last acknowledgement.
    unacknowledged: usize,
    repeated: usize,
}

/// The taker of one queue; what it knows outlives it.
#[derive(Clone)]
struct Taker(Arc<Mutex<Seen>>);

impl DeliveryTaker for Taker {
    fn take(&mut self, delivery: Delivery<'_>, _: ReadAt) {
        let Body::Whole(body) = delivery.body else {
            panic!("too large")
        };
        let number: usize = std::str::from_utf8(&body).unwrap().trim().parse().unwrap();
        let mut seen = self.0.lock();
        if number < seen.next {
            assert!(delivery.redelivered, "{number} comes again, unmarked");
            seen.repeated += 1;
        } else {
            assert_eq!(number, seen.next, "out of order");
            seen.next += 1;
        }
        seen.last = Some(number);
        seen.unacknowledged += 1;
    }

    fn acknowledged(&mut self) {
        let mut seen = self.0.lock();
        seen.unacknowledged = 0;
        seen.acknowledged = seen.last.expect("a message was given") + 1;
    }
}

/// A queue of the broker.
#[derive(Default)]
struct Queue {
    /// So many messages have come into it.
    published: usize,
    /// So many of them are acknowledged, and gone.
    gone: usize,
    /// So many were written to anybody.
    sent: usize,
}

/// A channel of the broker.
enum Channel {
    /// Opened, and nothing is consumed.
    Open,
    Consuming {
        queue: usize,
        /// The message of tag 1.
        first: usize,
        /// Messages written.
        written: usize,
    },
    /// The broker has closed it, and waits for the answer.
    Closing,
}

/// How a connection ended.
#[derive(Debug)]
enum Ending {
    /// The client closed its side.
    Client,
    /// The broker cut it.
    Cut,
}

/// The broker over all connections: its queues, its dice, and what has happened so far.
struct Script {
    dice: StdRng,
    queues: [Queue; QUEUES],
    seen: [Arc<Mutex<Seen>>; QUEUES],
    faults: usize,
    trace: String,
}

/// One connection of it.
struct Line<'a> {
    script: &'a mut Script,
    broker: Broker,
    channels: BTreeMap<u16, Channel>,
    /// Written to the client in pieces.
    out: Vec<u8>,
    /// Read from the client, and not a whole frame yet.
    input: Vec<u8>,
    /// It reads and writes nothing before this.
    silent_until: Option<Instant>,
    has_closed: bool,
    talks_nonsense: bool,
}

impl Script {
    fn new(seed: u64) -> Self {
        Self {
            dice: StdRng::seed_from_u64(seed),
            queues: Default::default(),
            seen: Default::default(),
            faults: 0,
            trace: String::new(),
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{what}").unwrap();
    }

    /// True once in so many times, as long as there are faults left.
    fn fault(&mut self, once_in: u32) -> bool {
        let is_fault = self.faults < FAULTS && self.dice.random_range(0..once_in) == 0;
        self.faults += usize::from(is_fault);
        is_fault
    }

    fn is_done(&self) -> bool {
        self.queues.iter().all(|queue| queue.gone == MESSAGES)
    }
}

impl Line<'_> {
    /// Serves the client until the connection has ended, or all is done.
    async fn serve(&mut self) -> Ending {
        loop {
            if self.script.is_done() && !self.has_closed {
                return Ending::Cut;
            }
            let pause = Duration::from_millis(self.script.dice.random_range(0..60));
            let until = self.silent_until.unwrap_or_else(|| Instant::now() + pause);
            let is_silent = self.silent_until.is_some();
            tokio::select! {
                biased;
                read = self.broker.0.read_buf(&mut self.input), if !is_silent => {
                    if read.unwrap_or(0) == 0 {
                        return Ending::Client;
                    }
                    while let Some((kind, channel, payload)) = self.frame() {
                        if self.hear(kind, channel, &payload) {
                            return Ending::Client;
                        }
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    if self.silent_until.take().is_some() {
                        // The client has given up meanwhile.
                        return Ending::Cut;
                    }
                    if let Some(ending) = self.act().await {
                        return ending;
                    }
                }
            }
        }
    }

    /// The next whole frame.
    fn frame(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        let head = self.input.first_chunk::<7>()?;
        let [kind, c1, c2, size @ ..] = *head;
        let size = usize::try_from(u32::from_be_bytes(size)).unwrap();
        let whole = self.input.get(7..7 + size + 1)?.to_vec();
        self.input.drain(..7 + size + 1);
        let (end, payload) = whole.split_last().unwrap();
        assert_eq!(*end, 0xCE);
        Some((kind, u16::from_be_bytes([c1, c2]), payload.to_vec()))
    }

    /// Takes what the client says. True if it closed the connection.
    fn hear(&mut self, kind: u8, channel: u16, payload: &[u8]) -> bool {
        if kind == 8 {
            return false;
        }
        let [c1, c2, m1, m2, arguments @ ..] = payload else {
            panic!("{payload:?}")
        };
        let said = (
            u16::from_be_bytes([*c1, *c2]),
            u16::from_be_bytes([*m1, *m2]),
        );
        self.script.note(format_args!("{channel} says {said:?}"));
        let is_closing = matches!(self.channels.get(&channel), Some(Channel::Closing));
        match said {
            (10, 50) => {
                assert!(self.talks_nonsense, "the client gave the connection up");
                for channel in self.channels.keys() {
                    self.check_acknowledged(*channel);
                }
                self.out.extend(method(0, 10, 51, b""));
                return true;
            }
            (10, 51) => return true,
            // After its own end a broker reads nothing but the answer.
            _ if self.has_closed => {}
            (20, 10) => {
                assert!(!self.channels.contains_key(&channel), "{channel} is in use");
                self.channels.insert(channel, Channel::Open);
                self.out.extend(method(channel, 20, 11, &[0; 4]));
            }
            (20, 41) => {
                assert!(is_closing, "{channel} was not closed");
                self.channels.remove(&channel);
            }
            (20, 40) => {
                self.check_acknowledged(channel);
                self.out.extend(method(channel, 20, 41, b""));
                if !is_closing {
                    self.channels.remove(&channel);
                }
            }
            _ if is_closing => {}
            (60, 10) => self.out.extend(method(channel, 60, 11, b"")),
            (60, 20) => self.consume(channel, arguments),
            (60, 80) => self.acknowledge(channel, arguments),
            other => panic!("{other:?}"),
        }
        false
    }

    fn consume(&mut self, channel: u16, arguments: &[u8]) {
        let [_, _, length, rest @ ..] = arguments else {
            panic!("{arguments:?}")
        };
        let name = std::str::from_utf8(&rest[..usize::from(*length)]).unwrap();
        let queue: usize = name.parse().unwrap();
        if self.script.fault(12) {
            self.script.note(format_args!("{channel} is refused"));
            self.end_channel(channel, 404, "NOT_FOUND - no queue");
        } else if self.script.fault(20) {
            // It never answers.
            self.script.note(format_args!("{channel} waits"));
        } else {
            self.out.extend(method(channel, 60, 21, b"\x03tag"));
            let first = self.script.queues[queue].gone;
            // What the consumer before was given too late to acknowledge comes again.
            self.script.seen[queue].lock().unacknowledged = 0;
            let consuming = Channel::Consuming {
                queue,
                first,
                written: 0,
            };
            self.channels.insert(channel, consuming);
        }
    }

    fn acknowledge(&mut self, channel: u16, arguments: &[u8]) {
        let (tag, rest) = arguments.split_first_chunk().unwrap();
        assert_eq!(rest, [1], "all up to this one");
        let tag = usize::try_from(u64::from_be_bytes(*tag)).unwrap();
        let Some(Channel::Consuming {
            queue,
            first,
            written,
        }) = self.channels.get(&channel)
        else {
            panic!("nothing is consumed on {channel}")
        };
        assert!(tag <= *written, "{tag} was not delivered on {channel}");
        let gone = first + tag;
        let queue = *queue;
        assert!(gone > self.script.queues[queue].gone, "acknowledged twice");
        self.script.queues[queue].gone = gone;
        let seen = self.script.seen[queue].lock();
        assert!(gone <= seen.next, "{gone} was never given to the taker");
        assert!(
            gone <= seen.acknowledged,
            "the taker does not know of {gone}"
        );
    }

    /// The client ends the consumer of a channel, and has said before all that it took.
    fn check_acknowledged(&self, channel: u16) {
        if let Some(Channel::Consuming { queue, .. }) = self.channels.get(&channel) {
            let count = self.script.seen[*queue].lock().unacknowledged;
            assert_eq!(count, 0, "{channel} ends, and these are not acknowledged");
        }
    }

    fn end_channel(&mut self, channel: u16, code: u16, text: &str) {
        self.out.extend(close(channel, code, text));
        self.channels.insert(channel, Channel::Closing);
    }

    /// Does the next thing that the dice say.
    async fn act(&mut self) -> Option<Ending> {
        let script = &mut *self.script;
        let queue = script.dice.random_range(0..QUEUES);
        let come = script.dice.random_range(0..12);
        let one = &mut script.queues[queue];
        one.published = MESSAGES.min(one.published + come);
        if self.has_closed {
            // It waits for the answer, and then no longer.
            self.write().await;
            return (self.script.dice.random_range(0..8) == 0).then_some(Ending::Cut);
        }
        self.deliver();
        if self.script.dice.random_range(0..20) == 0 {
            self.out.extend(frame(8, 0, b""));
        }
        let channels: Vec<_> = self.channels.keys().copied().collect();
        let any = |dice: &mut StdRng| channels[dice.random_range(0..channels.len())];
        if !channels.is_empty() && self.script.fault(60) {
            let channel = any(&mut self.script.dice);
            if !matches!(self.channels[&channel], Channel::Closing) {
                self.script.note(format_args!("closes {channel}"));
                self.end_channel(channel, 406, "PRECONDITION_FAILED - whatever");
            }
        } else if !channels.is_empty() && self.script.fault(60) {
            let channel = any(&mut self.script.dice);
            if matches!(self.channels[&channel], Channel::Consuming { .. }) {
                self.script.note(format_args!("cancels {channel}"));
                self.out.extend(method(channel, 60, 30, b"\x03tag\x01"));
            }
        } else if self.script.fault(120) {
            self.script.note(format_args!("closes"));
            self.out
                .extend(close(0, 320, "CONNECTION_FORCED - restart"));
            self.has_closed = true;
        } else if self.script.fault(120) {
            self.script.note(format_args!("is silent"));
            self.silent_until = Some(Instant::now() + Duration::from_secs(600));
        } else if self.script.fault(120) {
            self.script.note(format_args!("talks nonsense"));
            self.talks_nonsense = true;
            self.out.extend(frame(1, 9, b"\0\x3c\0\x3cxx"));
        } else if self.script.fault(120) {
            self.write().await;
            self.script.note(format_args!("cuts"));
            return Some(Ending::Cut);
        }
        self.write().await;
        None
    }

    /// Messages for consumers that have room.
    fn deliver(&mut self) {
        for (channel, state) in &mut self.channels {
            let Channel::Consuming {
                queue,
                first,
                written,
            } = state
            else {
                continue;
            };
            let queue = &mut self.script.queues[*queue];
            while *first + *written < queue.published
                && *first + *written < queue.gone + usize::from(PREFETCH)
            {
                let number = *first + *written;
                *written += 1;
                let width = self.script.dice.random_range(1..200);
                let body = format!("{number:<width$}");
                let mut bytes = message(*channel, u64::try_from(*written).unwrap(), &body);
                if number < queue.sent {
                    // Behind the frame's head, the class, the method, the consumer and the tag.
                    bytes[7 + 4 + 4 + 8] = 1;
                }
                queue.sent = queue.sent.max(number + 1);
                self.out.extend(bytes);
            }
        }
    }

    /// Writes a part of what is to be said.
    async fn write(&mut self) {
        let part = self.script.dice.random_range(0..=self.out.len());
        let part: Vec<_> = self.out.drain(..part).collect();
        // The client may be gone.
        let _ = self.broker.0.write_all(&part).await;
    }
}

/// Consumes a queue, again and again, as the runner of a feed does.
async fn keep_consuming(reader: Reader<Taker>, queue: usize, mut taker: Taker, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    loop {
        let deadline = Instant::now() + DEADLINE;
        let name = queue.to_string();
        let ended = match reader.consume(&name, PREFETCH, taker, deadline).await {
            Ok(mut consumer) => {
                let patience = Duration::from_secs(dice.random_range(1..120));
                tokio::select! {
                    biased;
                    ended = consumer.ended() => ended.taker,
                    () = sleep(patience) => consumer.cancel().await,
                }
            }
            Err(ended) => ended.taker,
        };
        taker = ended.expect("no taker is lost");
        sleep(Duration::from_millis(dice.random_range(1..500))).await;
    }
}

/// Plays a seed; what happened.
async fn play(seed: u64) -> Script {
    let mut script = Script::new(seed);
    // A channel of its own for each: tokio wakes the receivers of one in an order of its own.
    let mut states = Vec::new();
    let mut consumers = tokio::task::JoinSet::new();
    for (queue, seen) in script.seen.iter().enumerate() {
        let (state, receiver) = watch::channel(ReaderState::New);
        states.push(state);
        let reader = Reader {
            state: receiver,
            unready_after: DEADLINE,
            next_id: AtomicU64::new(u64::try_from(queue << 32).unwrap()),
            is_closed: AtomicBool::new(false),
            task: AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
        };
        let taker = Taker(Arc::clone(seen));
        let seed = script.dice.random();
        consumers.spawn(keep_consuming(reader, queue, taker, seed));
    }
    while !script.is_done() {
        let (broker, connected, _) = logged_in(&[0, 3, 0, 0, 0x20, 0, 0, 60]).await;
        let (sender, commands) = mpsc::unbounded_channel();
        let running = tokio::spawn(Connection::new(connected, commands).run());
        for state in &states {
            state.send_replace(ReaderState::Up(sender.clone()));
        }
        drop(sender);
        let mut line = Line {
            script: &mut script,
            broker,
            channels: BTreeMap::new(),
            out: Vec::new(),
            input: Vec::new(),
            silent_until: None,
            has_closed: false,
            talks_nonsense: false,
        };
        let ending = line.serve().await;
        line.write().await;
        drop(line);
        script.note(format_args!("ended by {ending:?}"));
        let End::Lost(reason) = running.await.expect("its task did not fail") else {
            panic!("nobody closed it")
        };
        script.note(format_args!("{reason}"));
        for state in &states {
            state.send_replace(ReaderState::Down(reason.clone(), Outage::new()));
        }
        if let Some(ended) = consumers.try_join_next() {
            ended.expect("a consumer's own check holds");
        }
        sleep(Duration::from_millis(script.dice.random_range(0..5_000))).await;
    }
    while let Some(ended) = consumers.try_join_next() {
        ended.expect("a consumer's own check holds");
    }
    consumers.shutdown().await;
    for (queue, seen) in script.queues.iter().zip(&script.seen) {
        let seen = seen.lock();
        assert_eq!((queue.gone, seen.next), (MESSAGES, MESSAGES));
        script.trace.push_str(&format!("{} again\n", seen.repeated));
    }
    script
}

fn run(seed: u64) -> Script {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let playing = async { timeout(STUCK, play(seed)).await };
    runtime.block_on(playing).expect("it comes to an end")
}

/// `READER_SEEDS` asks for more of them, `READER_SEED` for one.
#[test]
fn whatever_the_broker_does_nothing_is_lost() {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().expect(name));
    if let Some(seed) = number("READER_SEED") {
        println!("{}", run(seed).trace);
        return;
    }
    let seeds = number("READER_SEEDS").unwrap_or(300);
    let mut faults = 0;
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(|| run(seed));
        faults += played
            .unwrap_or_else(|_| panic!("READER_SEED={seed}"))
            .faults;
    }
    println!("{seeds} seeds, {faults} faults");
    assert!(
        u64::try_from(faults).unwrap() >= 3 * seeds,
        "{faults} faults"
    );
}

#[test]
fn a_seed_goes_the_same_way_twice() {
    for seed in 0..5 {
        let [one, two] = [run(seed), run(seed)];
        assert_eq!(one.trace, two.trace);
    }
}
