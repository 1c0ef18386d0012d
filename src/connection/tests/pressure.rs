//! Clients that are slow, clients that are busy, and brokers that are.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use sockjs_server::{Application, Channel, Opening, Refusal, SockJs};

use super::{
    wire::{FakeLink, Wire},
    *,
};
use crate::hub::{MailboxConfig, Overflow};

fn mailbox(max_messages: usize, overflow: Overflow) -> Options {
    Options {
        mailbox: MailboxConfig {
            max_messages,
            overflow,
            ..MailboxConfig::default()
        },
        ..Options::default()
    }
}

/// A client that stopped reading, and then more than its mailbox holds.
async fn stuck(house: &House) -> Client {
    let mut client = Client::connect(house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.wire.set_room(0);
    let body = "x".repeat(10_000);
    for _ in 0..50 {
        house.publish("amq.topic", "a", &body);
        settle().await;
    }
    client
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_that_reads_on_is_told_so() {
    let house = House::with(mailbox(20, Overflow::Disconnect));
    let mut client = stuck(&house).await;
    client.expect_nothing();
    client.wire.set_room(usize::MAX);
    let mut messages = 0;
    let error = loop {
        let frame = client.next().await.unwrap();
        if frame.command == Command::Error {
            break frame;
        }
        messages += 1;
    };
    // Those that were on their way.
    assert!((1..30).contains(&messages), "{messages}");
    assert_eq!(error.header("message"), Some("slow consumer"));
    client.expect_end().await;
    assert!(client.wire.closed_with().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_that_does_not_read_is_cut() {
    let house = House::with(mailbox(20, Overflow::Disconnect));
    let start = Instant::now();
    let mut client = stuck(&house).await;
    client.wire.calls();
    client.expect_end().await;
    let patience = start.elapsed().as_secs();
    assert!((30..=36).contains(&patience), "{patience} s");
    assert_eq!(client.wire.closed_with(), None);
    let calls = client.wire.calls();
    assert!(calls < 20, "{calls} calls while nothing could be written");
}

#[tokio::test(start_paused = true)]
async fn an_error_waits_only_so_long_for_who_does_not_read() {
    let house = House::with(mailbox(20, Overflow::Disconnect));
    let mut client = Client::connect(&house).await;
    client.wire.set_room(0);
    client.send("WRONG\n\n\0");
    let start = Instant::now();
    client.expect_end().await;
    assert!(start.elapsed() < Duration::from_secs(11));
}

/// In SockJS over HTTP no flush writes anything: responses take what there is. The client that fetches
/// everything at once is not one that does not read, however long it stays.
#[tokio::test(start_paused = true)]
async fn a_client_that_fetches_what_waits_is_not_cut() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.wire.be_fetched();
    client.send("SUBSCRIBE\nid:1\ndestination:/queue/a\nreceipt:s\n\n\0");
    settle().await;
    client.wire.fetch().await;
    client.expect_receipt("s").await;
    for second in 0..100 {
        let body = format!("second {second}");
        // More than may be under way unaccepted (`auto_prefetch`), in all.
        for _ in 0..5 {
            house.publish("", "a", &body);
        }
        settle().await;
        client.wire.fetch().await;
        for _ in 0..5 {
            client.expect_message(&body).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!client.task.is_finished());
    // And one that is gone without a word has an end.
    house.publish("", "a", "the last");
    let start = Instant::now();
    client.expect_end().await;
    let patience = start.elapsed().as_secs();
    assert!((30..=36).contains(&patience), "{patience} s");
}

/// It has fetched much, and is still reading that when the next message waits.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_on_in_what_it_fetched_is_not_cut() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.wire.be_fetched();
    house.publish("amq.topic", "a", "waits");
    settle().await;
    for _ in 0..100 {
        client.wire.reads_on();
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!client.task.is_finished());
    // One that reads on no more has an end.
    let start = Instant::now();
    client.expect_end().await;
    let patience = start.elapsed().as_secs();
    assert!(patience <= 66, "{patience} s");
}

/// The same where something waits at each turn, so that no flush finds everything written.
#[tokio::test(start_paused = true)]
async fn a_client_that_fetches_is_not_cut_while_always_more_waits() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.wire.be_fetched();
    house.publish("amq.topic", "a", "0");
    settle().await;
    for second in 0..100 {
        // The next is there before the connection hears that the last one was fetched.
        house.publish("amq.topic", "a", &(second + 1).to_string());
        client.wire.fetch().await;
        client.expect_message(&second.to_string()).await;
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!client.task.is_finished());
}

/// It reads, but slower than messages come: then the mailbox's policy decides.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not_cut() {
    let house = House::with(mailbox(5, Overflow::DropOldest));
    let mut client = stuck(&house).await;
    let body = "y".repeat(2_000);
    for _ in 0..300 {
        house.publish("amq.topic", "a", &body);
        client.wire.set_room(1_000);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!client.task.is_finished());
    client.wire.set_room(usize::MAX);
    let mut dropped = 0;
    let mut got = 0;
    house.publish("amq.topic", "a", "the last");
    loop {
        let message = client.expect(Command::Message).await;
        let note = message.header("x-dropped").unwrap_or("0");
        dropped += note.parse::<u32>().unwrap();
        got += 1;
        if message.body[..] == b"the last"[..] {
            break;
        }
    }
    assert_eq!(dropped + got, 351);
    assert!(dropped > 0);
}

/// What it has read of a queue is accepted meanwhile: beside a backlog that stays, the link is never
/// empty.
#[tokio::test(start_paused = true)]
async fn a_queue_goes_on_beside_a_backlog_that_stays() {
    const JOBS: usize = 150;
    let house = House::with(mailbox(5, Overflow::DropOldest));
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.subscribe("2", "/queue/q", "").await;
    client.wire.set_room(0);
    house.publish("amq.topic", "a", &"x".repeat(CONGESTED));
    settle().await;
    // More than may be under way unaccepted (`auto_prefetch`).
    for job in 0..JOBS {
        house.publish("", "q", &job.to_string());
    }
    let body = "y".repeat(4_000);
    let mut jobs = 0;
    for _ in 0..2 * JOBS {
        for _ in 0..5 {
            house.publish("amq.topic", "a", &body);
        }
        client.wire.set_room(16_000);
        let second = Instant::now() + Duration::from_secs(1);
        while let Ok(frame) = timeout(second - Instant::now(), client.next()).await {
            let frame = frame.expect("a frame, and not the end");
            jobs += usize::from(frame.header("subscription") == Some("2"));
        }
    }
    assert_eq!(jobs, JOBS);
}

/// Serves sessions of SockJS.
struct Gateway(Arc<Services>);

impl Application for Gateway {
    type Caller = SocketAddr;
    type Place = ();

    fn admit(&self, _: Opening<'_, SocketAddr>) -> Result<(), Refusal> {
        Ok(())
    }

    fn serve<C: Channel>(&self, channel: C, (): ()) {
        let guard = self.0.enter().unwrap();
        tokio::spawn(serve(Arc::clone(&self.0), channel, house::PEER, guard));
    }
}

/// A session of SockJS over HTTP, by its requests.
struct OverHttp {
    sockjs: SockJs,
    gateway: Arc<Gateway>,
}

impl OverHttp {
    fn new(house: &House) -> Self {
        Self {
            sockjs: SockJs::new(sockjs_server::Options::at("/stomp")),
            gateway: Arc::new(Gateway(Arc::clone(&house.services))),
        }
    }

    async fn ask(&self, endpoint: &str, body: String) -> hyper::Response<sockjs_server::Body> {
        let request = Request::post(format!("/stomp/000/session/{endpoint}"))
            .body(Full::<Bytes>::from(body))
            .unwrap();
        let caller = house::PEER.address.remote;
        self.sockjs.answer(&self.gateway, request, caller).await
    }

    async fn send(&self, frame: &str) {
        self.send_all(&[frame.to_owned()]).await;
    }

    /// In one request.
    async fn send_all(&self, frames: &[String]) {
        let body = serde_json::json!(frames).to_string();
        let answer = self.ask("xhr_send", body).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
}

/// Reads an answer until this comes.
async fn read_until(answer: &mut hyper::Response<sockjs_server::Body>, part: &str) {
    loop {
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        let bytes = frame.into_data().unwrap();
        if String::from_utf8_lossy(&bytes).contains(part) {
            break;
        }
    }
}

/// Messages that no request has taken when its client goes were not written.
#[tokio::test(start_paused = true)]
async fn what_a_lost_client_of_sockjs_has_not_taken_goes_to_another() {
    let house = House::new();
    let session = OverHttp::new(&house);
    let mut answer = session.ask("xhr_streaming", String::new()).await;
    session.send(CONNECT).await;
    read_until(&mut answer, "CONNECTED").await;
    session
        .send("SUBSCRIBE\nid:1\ndestination:/queue/q\nreceipt:s\n\n\0")
        .await;
    read_until(&mut answer, "RECEIPT").await;
    house.publish("", "q", "job");
    settle().await;
    drop(answer);
    settle().await;
    let mut other = Client::connect(&house).await;
    other.send("SUBSCRIBE\nid:1\ndestination:/queue/q\n\n\0");
    other.expect_message("job").await;
}

/// Its request was answered, and it went: what came with it is done, however little was read by then.
#[tokio::test(start_paused = true)]
async fn what_a_lost_client_of_sockjs_had_sent_is_done() {
    // More than may be under way (`max_pending`).
    const SENDS: usize = 200;
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let session = OverHttp::new(&house);
    let mut answer = session.ask("xhr_streaming", String::new()).await;
    session.send(CONNECT).await;
    read_until(&mut answer, "CONNECTED").await;
    house.slow.gate.close();
    let sends: Vec<_> = (0..SENDS)
        .map(|number| format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\n{number}\0"))
        .collect();
    session.send_all(&sends).await;
    settle().await;
    drop(answer);
    settle().await;
    // The first receipt shows that its client is gone.
    house.slow.gate.open();
    for number in 0..SENDS {
        reader.expect_message(&number.to_string()).await;
    }
}

/// What is under way takes all of its room, so that it is not read, until the broker has confirmed some.
#[tokio::test(start_paused = true)]
async fn what_a_lost_client_of_sockjs_had_sent_without_room_is_done() {
    let house = House::with(Options {
        limits: Limits {
            max_publishing_bytes: 41_000,
            max_user_publishing_bytes: 61_000,
            max_total_publishing_bytes: 200_000,
            ..Limits::default()
        },
        ..Options::default()
    });
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let session = OverHttp::new(&house);
    let mut answer = session.ask("xhr_streaming", String::new()).await;
    session.send(CONNECT).await;
    read_until(&mut answer, "CONNECTED").await;
    session
        .send("SUBSCRIBE\nid:1\ndestination:/topic/b\nreceipt:s\n\n\0")
        .await;
    read_until(&mut answer, "RECEIPT").await;
    house.slow.gate.close();
    let bodies: Vec<_> = (0..10).map(|number| format!("{number:010000}")).collect();
    for (number, body) in bodies.iter().enumerate() {
        let send = format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\n{body}\0");
        session.send(&send).await;
        settle().await;
    }
    drop(answer);
    // A message for it shows that it is gone.
    house.publish("amq.topic", "b", "x");
    settle().await;
    house.slow.gate.open();
    for body in &bodies {
        reader.expect_message(body).await;
    }
}

/// What comes behind a DISCONNECT is ignored, as ever.
#[tokio::test(start_paused = true)]
async fn what_came_before_the_link_broke_is_read_on() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::connect(&house).await;
    client.wire.set_room(0);
    // To be written, and so it is noticed before the rest is read that nothing can be.
    client.send("BEGIN\ntransaction:b\nreceipt:r\n\n\0");
    client.send("SEND\ndestination:/topic/a\n\nlast\0");
    client.send("DISCONNECT\n\n\0");
    client.send("SEND\ndestination:/topic/a\n\nnever\0");
    client.wire.break_off();
    client.expect_end().await;
    house.publish("amq.topic", "a", "fence");
    for body in ["last", "fence"] {
        reader.expect_message(body).await;
    }
}

/// Drives a connection as far as it gets for now.
async fn drive(connection: &mut Connection<FakeLink>) {
    let mut timer = pin!(sleep(Duration::from_secs(3600)));
    loop {
        connection.act();
        if connection.reader.ends_turn() {
            yield_now().await;
        }
        let event = poll_fn(|task| connection.poll(task, timer.as_mut()));
        match timeout(Duration::from_millis(1), event).await {
            Ok(event) => assert!(connection.handle(event), "it goes on"),
            Err(_) => return,
        }
    }
}

/// A message that was on its way then is accepted by nobody, and nothing of it is kept, however long
/// the client is busy.
#[tokio::test(start_paused = true)]
async fn subscriptions_that_end_leave_nothing_to_accept() {
    let house = House::new();
    let (services, wire) = (Arc::clone(&house.services), Wire::new());
    let guard = services.enter().unwrap();
    let mut connection = Connection::new(services, FakeLink(wire.clone()), house::PEER, guard);
    wire.send(CONNECT);
    wire.send("SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0");
    drive(&mut connection).await;
    // The receipt waits for the message.
    house.slow.hold_feeds();
    wire.send("SEND\ndestination:/topic/a\nreceipt:r\n\nx\0");
    drive(&mut connection).await;
    wire.set_room(0);
    for _ in 0..5 {
        wire.send("SUBSCRIBE\nid:1\ndestination:/queue/q\n\n\0");
        drive(&mut connection).await;
        house.publish("", "q", "job");
        drive(&mut connection).await;
        assert!(connection.operations.unaccepted() > 0);
        wire.send("UNSUBSCRIBE\nid:1\n\n\0");
        drive(&mut connection).await;
        assert!(!connection.operations.is_idle(), "a receipt is owed");
        assert_eq!(connection.operations.unaccepted(), 0);
    }
}

/// The bytes of a client that does not read are counted while they are many, and no longer.
#[tokio::test(start_paused = true)]
async fn what_a_slow_client_has_read_is_not_counted() {
    const LARGE: usize = 1_000_000;
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.wire.set_room(0);
    house.publish("amq.topic", "a", &"x".repeat(LARGE));
    settle().await;
    assert!(house.bytes_held() > LARGE, "{}", house.bytes_held());
    client.wire.set_room(LARGE - 10_000);
    settle().await;
    client.expect_nothing();
    assert!(house.bytes_held() < CONGESTED, "{}", house.bytes_held());
}

/// The client's frames are read even if there is always one more message for it.
#[tokio::test(start_paused = true)]
async fn a_client_with_endless_messages_is_still_read() {
    for destination in ["/topic/a", "/queue/a"] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.subscribe("1", destination, "").await;
        let publish = house::publisher(&house.services);
        let published = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&published);
        let queue = destination.starts_with("/queue");
        client.wire.on_flush(move || {
            if counter.fetch_add(1, Ordering::Relaxed) < 10_000 {
                publish(if queue { "" } else { "amq.topic" }, "a", "more");
            }
        });
        house.publish(if queue { "" } else { "amq.topic" }, "a", "the first");
        client.send("UNSUBSCRIBE\nid:1\nreceipt:enough\n\n\0");
        let mut got = 0;
        while client.next().await.unwrap().command == Command::Message {
            got += 1;
        }
        assert!(
            got < 1_000,
            "{destination}: {got} messages before the receipt"
        );
    }
}

/// Messages for a subscription that ended meanwhile are dropped, and those behind them are not
/// forgotten.
#[tokio::test(start_paused = true)]
async fn what_comes_after_messages_for_nobody_is_delivered() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.subscribe("2", "/topic/b", "").await;
    client.wire.set_room(0);
    // Answers that congest the link, so that what follows waits to be decoded.
    let long = "r".repeat(8_000);
    let begins: String = (0..9)
        .map(|number| format!("BEGIN\ntransaction:{number}\nreceipt:{long}\n\n\0"))
        .collect();
    client.send(format!("{begins}UNSUBSCRIBE\nid:1\n\n\0"));
    settle().await;
    for _ in 0..600 {
        house.publish("amq.topic", "a", "for nobody");
    }
    house.publish("amq.topic", "b", "for somebody");
    client.wire.set_room(usize::MAX);
    for _ in 0..9 {
        client.expect_receipt(&long).await;
    }
    let start = Instant::now();
    client.expect_message("for somebody").await;
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// The count of those that were dropped came with a message for nobody: the next one has it.
#[tokio::test(start_paused = true)]
async fn what_was_dropped_is_told_behind_messages_for_nobody() {
    let house = House::with(mailbox(20, Overflow::DropOldest));
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.subscribe("2", "/topic/b", "").await;
    client.wire.set_room(0);
    let long = "r".repeat(8_000);
    let begins: String = (0..9)
        .map(|number| format!("BEGIN\ntransaction:{number}\nreceipt:{long}\n\n\0"))
        .collect();
    client.send(format!("{begins}UNSUBSCRIBE\nid:1\n\n\0"));
    settle().await;
    for key in ["b", "a"] {
        for _ in 0..30 {
            house.publish("amq.topic", key, "for nobody");
        }
    }
    house.publish("amq.topic", "b", "for somebody");
    client.wire.set_room(usize::MAX);
    for _ in 0..9 {
        client.expect_receipt(&long).await;
    }
    let message = client.expect_message("for somebody").await;
    assert_eq!(message.header("x-dropped"), Some("41"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_read() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    congest(&house, &mut client).await;
    client.send("BEGIN\ntransaction:t\nreceipt:r\n\n\0");
    settle().await;
    assert_eq!(client.wire.unread(), 1);
    client.wire.set_room(usize::MAX);
    client.expect(Command::Message).await;
    client.expect_receipt("r").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_with_too_much_under_way_is_not_read() {
    let house = House::with(Options {
        limits: Limits {
            max_pending: 4,
            ..Limits::default()
        },
        ..Options::default()
    });
    let mut client = Client::connect(&house).await;
    house.slow.gate.close();
    for number in 0..10 {
        client.send(format!(
            "SEND\ndestination:/topic/a\nreceipt:{number}\n\n\0"
        ));
    }
    settle().await;
    assert_eq!(client.wire.unread(), 6);
    client.wire.calls();
    sleep(Duration::from_secs(3600)).await;
    let calls = client.wire.calls();
    assert!(calls < 20, "{calls} calls while the broker was silent");
    house.slow.gate.open();
    for number in 0..10 {
        client.expect_receipt(&number.to_string()).await;
    }
}

/// Many messages are one write.
#[tokio::test(start_paused = true)]
async fn messages_are_flushed_together() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.wire.calls();
    for number in 0..1000 {
        house.publish("amq.topic", "a", &number.to_string());
    }
    for number in 0..1000 {
        client.expect_message(&number.to_string()).await;
    }
    let calls = client.wire.calls();
    assert!(calls < 60, "{calls} calls for a thousand messages");
}

/// Frames that need nothing but the session, as many as one read can bring.
fn many_transactions() -> String {
    "BEGIN\ntransaction:a\n\n\0ABORT\ntransaction:a\n\n\0".repeat(1_000)
}

#[tokio::test]
async fn others_have_their_turn_between_the_frames_of_one() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let turns = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        }
    });
    let before = turns.load(Ordering::Relaxed);
    client.send(many_transactions() + "BEGIN\ntransaction:b\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
    let during = turns.load(Ordering::Relaxed) - before;
    assert!(during >= 2_000 / 16, "{during} turns");
    other.abort();
}

/// Nothing of it is left out when the link breaks meanwhile.
#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_link_broke_is_done() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let client = Client::connect(&house).await;
    client.wire.set_room(0);
    // To be written, and so it is noticed before the last frame is read that nothing can be.
    client.send(
        "BEGIN\ntransaction:b\nreceipt:r\n\n\0".to_owned()
            + &many_transactions()
            + "SEND\ndestination:/topic/a\n\nlast\0",
    );
    client.wire.break_off();
    reader.expect_message("last").await;
}

/// Nor when the answers before it did not fit.
#[tokio::test(start_paused = true)]
async fn what_was_sent_before_a_congested_link_broke_is_done() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let client = Client::connect(&house).await;
    client.wire.set_room(0);
    let long = "r".repeat(8_000);
    let begins: String = (0..9)
        .map(|number| format!("BEGIN\ntransaction:{number}\nreceipt:{long}\n\n\0"))
        .collect();
    client.send(begins + "SEND\ndestination:/topic/a\n\nlast\0");
    settle().await;
    reader.expect_nothing();
    client.wire.break_off();
    reader.expect_message("last").await;
}

/// Nor when its client was paused for it was too fast: it is done as soon as that is over.
#[tokio::test(start_paused = true)]
async fn what_a_client_that_is_too_fast_has_sent_is_done() {
    let house = House::with(Options {
        limits: Limits {
            max_messages_per_second: 1,
            ..Limits::default()
        },
        ..Options::default()
    });
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let client = Client::connect(&house).await;
    client.wire.set_room(0);
    let begun = Instant::now();
    // Ten may come at once.
    let sends: String = (0..13)
        .map(|number| format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\n{number}\0"))
        .collect();
    client.send(sends);
    settle().await;
    client.wire.break_off();
    for number in 0..13 {
        reader.expect_message(&number.to_string()).await;
    }
    let took = begun.elapsed().as_secs();
    assert!((1..=3).contains(&took), "{took} s");
}

/// Nor is it done behind a kick, though it is long gone.
#[tokio::test(start_paused = true)]
async fn a_kick_ends_what_a_client_that_was_too_fast_has_left() {
    let house = House::with(Options {
        limits: Limits {
            max_messages_per_second: 1,
            ..Limits::default()
        },
        ..Options::default()
    });
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::new(&house);
    client.send(CONNECT);
    let connected = client.expect(Command::Connected).await;
    let session = connected.header("session").unwrap();
    client.wire.set_room(0);
    // Ten may come at once.
    let sends: String = (0..13)
        .map(|number| format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\n{number}\0"))
        .collect();
    client.send(sends);
    settle().await;
    client.wire.break_off();
    settle().await;
    let kick = format!(r#"{{"command":"kick","session":"{session}"}}"#);
    house.publish(CONTROL, "", &kick);
    client.expect_end().await;
    house.publish("amq.topic", "a", "fence");
    let mut heard = 0;
    while reader.expect(Command::Message).await.body != "fence" {
        heard += 1;
    }
    assert!((10..13).contains(&heard), "{heard}");
}

/// Nor what waits for the hook, which may take its time.
#[tokio::test(start_paused = true)]
async fn a_kick_ends_what_waits_for_the_hook_when_its_client_has_gone() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::new(&house);
    client.send(CONNECT);
    let connected = client.expect(Command::Connected).await;
    let session = connected.header("session").unwrap();
    house.hook.gate.close();
    client.send("SEND\ndestination:/topic/a\n\n1\0SEND\ndestination:/topic/a\n\n2\0");
    client.wire.hang_up();
    settle().await;
    let kick = format!(r#"{{"command":"kick","session":"{session}"}}"#);
    house.publish(CONTROL, "", &kick);
    settle().await;
    house.hook.gate.open();
    client.expect_error("kicked").await;
    house.publish("amq.topic", "a", "fence");
    reader.expect_message("fence").await;
}
