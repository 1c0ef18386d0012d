//! The memory that one client can make the gateway keep, with an honest client beside it.

use std::{fs, sync::Arc, time::Duration};

use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, Gateway, Login, StompClient, eventually};
use tokio::{sync::watch, task::JoinSet};

use crate::house::{House, PASSCODE, stentor, vhost};

const MIB: usize = 1 << 20;

/// The memory of the process: `VmRSS`, or `VmHWM`, which is its peak.
fn memory(gateway: &Gateway, what: &str) -> usize {
    let path = format!("/proc/{}/status", gateway.process().id());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let number = line.unwrap().trim_matches([':', ' ', '\t', 'k', 'B']);
    number.parse::<usize>().unwrap() * 1024
}

/// A metric; labels belong to its name.
async fn metric(gateway: &Gateway, name: &str) -> usize {
    let (_, text) = gateway.admin("/metrics").await;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Another user, who reads and writes small things, and is served.
struct Honest(StompClient);

impl Honest {
    async fn new(house: &House) -> Self {
        let mut client = house.raw_ws().await;
        client.connect(&login(house, "bob")).await;
        client.subscribe("1", "/exchange/feed/user_bob").await;
        Self(client)
    }

    async fn is_served(&mut self, text: &str) {
        let send = Frame::new(Command::Send)
            .with_header("destination", "/exchange/feed/user_bob")
            .with_header("receipt", text)
            .with_body(text.to_owned());
        self.0.send(&send).await;
        // The message and the receipt, in whichever order.
        for _ in 0..2 {
            let frame = self.0.expect_frame().await;
            let is_own = frame.header("receipt-id") == Some(text) || frame.body == text;
            assert!(is_own, "{}", testkit::show(&frame));
        }
    }
}

fn login(house: &House, user: &str) -> Login {
    Login::new(user, PASSCODE, house.vhost.name())
}

/// Messages for subscriptions with queues of their own are bounded in bytes, too. What has no room
/// waits at the broker; and once the client reads, all come, in order.
#[tokio::test]
async fn messages_that_a_client_does_not_read_wait_at_the_broker() {
    const SUBSCRIPTIONS: usize = 40;
    const MESSAGES: usize = 3;
    const SIZE: usize = 2 * MIB;
    let house = House::open().await;
    let mut honest = Honest::new(&house).await;
    let mut alice = house.tcp().await;
    for id in 0..SUBSCRIPTIONS {
        let headers = [("ack", "client")];
        let destination = "/exchange/feed/attack";
        alice
            .subscribe_with(&id.to_string(), destination, &headers)
            .await;
    }
    let before = memory(&house.gateway, "VmRSS");
    let bodies = (0..MESSAGES).map(|number| number.to_string().repeat(SIZE));
    house.vhost.publish("feed", "attack", bodies).await;
    // She does not read. All that has no room is put aside.
    let what = "messages are put aside";
    eventually(2 * DEADLINE, what, async || {
        let aside = metric(
            &house.gateway,
            "stentor_mailbox_overflows_total{done=\"put aside\"}",
        );
        // Some wait in the mailbox, and some have gone to the sockets' buffers.
        aside.await >= SUBSCRIPTIONS * MESSAGES - 20
    })
    .await;
    honest.is_served("meanwhile").await;
    let most = memory(&house.gateway, "VmHWM").saturating_sub(before) / MIB;
    assert!(most <= 64, "{most} MiB more");

    // Now she does, and acknowledges each with all before it.
    let mut next = [0; SUBSCRIPTIONS];
    for _ in 0..SUBSCRIPTIONS * MESSAGES {
        let message = alice
            .expect("a message", |frame| frame.command == Command::Message)
            .await;
        let id: usize = message.header("subscription").unwrap().parse().unwrap();
        assert_eq!(message.body.len(), SIZE);
        assert_eq!(
            message.body[..1],
            *next[id].to_string().as_bytes(),
            "of {id}"
        );
        next[id] += 1;
        let ack = Frame::new(Command::Ack).with_header("id", message.header("ack").unwrap());
        alice.send(&ack).await;
    }
    assert_eq!(next, [MESSAGES; SUBSCRIPTIONS]);
    honest.is_served("after").await;
    // And no message is left, or comes twice.
    alice.disconnect().await;
    let most = memory(&house.gateway, "VmHWM").saturating_sub(before) / MIB;
    assert!(most <= 96, "{most} MiB more");
}

/// Frames that many connections of one user have sent in part, or that wait for the broker, are
/// bounded in bytes, not only in number.
#[tokio::test]
async fn a_user_sends_no_more_than_there_is_room_for() {
    const CONNECTIONS: usize = 60;
    const SIZE: usize = 4_000_000;
    let opening = House::open_with(|builder| {
        // Others build and test on this machine, too.
        builder.set("limits.write_timeout", "70s")
    });
    let house = Arc::new(opening.await);
    let mut honest = Honest::new(&house).await;
    let (go, gone) = watch::channel(false);
    let mut clients = JoinSet::new();
    let before = memory(&house.gateway, "VmRSS");
    for number in 0..CONNECTIONS {
        let (house, mut gone) = (Arc::clone(&house), gone.clone());
        clients.spawn(async move {
            let mut client = match number % 2 {
                0 => house.tcp().await,
                _ => house.ws().await,
            };
            client = client.with_deadline(8 * DEADLINE);
            let head = format!(
                "SEND\ndestination:/exchange/feed/attack\nreceipt:r\ncontent-length:{SIZE}\n\n"
            );
            // Over WebSocket in one message, which is no less whole.
            let mut frame = head.into_bytes();
            frame.resize(frame.len() + SIZE, b'x');
            frame.push(0);
            if number % 2 == 0 {
                let rest = frame.split_off(frame.len() - 100_000);
                client.raw(frame).await;
                gone.wait_for(|gone| *gone).await.unwrap();
                client.raw(rest).await;
            } else {
                client.raw(frame).await;
            }
            client.expect_receipt("r").await;
        });
    }
    let what = "all room of the user is claimed";
    eventually(2 * DEADLINE, what, async || {
        metric(&house.gateway, "stentor_publishing_bytes").await > 35 * MIB
    })
    .await;
    // A client over its share waits; nobody else.
    honest.is_served("meanwhile").await;
    let mut carol = house.raw_tcp().await;
    carol.connect(&login(&house, "carol")).await;
    carol
        .publish("/exchange/feed/user_carol", vec![b'c'; SIZE])
        .await;
    go.send_replace(true);
    // And all of it is published, in the end. At any time it is what one user may have, and carol's.
    while let Some(client) = clients.join_next().await {
        client.unwrap();
        let claimed = metric(&house.gateway, "stentor_publishing_bytes").await;
        assert!(claimed <= 40 * MIB + 2 * SIZE, "{claimed} bytes");
    }
    let most = memory(&house.gateway, "VmHWM").saturating_sub(before) / MIB;
    // Bodies, and their copies on the way to RabbitMQ: some 150, and as many again where RabbitMQ is
    // slow to take them because others have the processor. Without the bound it is 480 and more.
    assert!(most <= 360, "{most} MiB more");
    let what = "nothing is under way";
    eventually(DEADLINE, what, async || {
        metric(&house.gateway, "stentor_publishing_bytes").await == 0
    })
    .await;
}

/// Slow clients, each with so many messages of its own waiting: one client's bound, times many.
async fn slow_clients(
    house: &House,
    count: usize,
    (messages, size): (usize, usize),
) -> Vec<StompClient> {
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = house.tcp().await;
        let destination = format!("/exchange/feed/slow{number}");
        client.subscribe("1", &destination).await;
        clients.push(client);
    }
    for number in 0..count {
        let bodies = std::iter::repeat_n(vec![b'x'; size], messages);
        let key = format!("slow{number}");
        house.vhost.publish("feed", &key, bodies).await;
    }
    clients
}

/// Issue 12, B9.
#[tokio::test]
async fn above_the_mark_the_slowest_go_and_it_recovers() {
    let house = House::open_with(|builder| {
        builder
            .set("memory.limit", "240MiB")
            .set("memory.watermark", "80")
    })
    .await;
    let mut honest = Honest::new(&house).await;
    let slow = slow_clients(&house, 40, (1, 7_000_000)).await;
    house.gateway.until_logged("short of memory").await;
    house.gateway.until_logged("enough memory again").await;
    honest.is_served("after").await;
    let ended =
        "stentor_connections_ended_total{reason=\"client did not read, and memory was short\"}";
    assert!(metric(&house.gateway, ended).await > 0, "nobody was closed");
    drop(slow);
    eventually(DEADLINE, "it is short no more", async || {
        metric(&house.gateway, "stentor_memory_short").await == 0
    })
    .await;
    house.tcp().await.disconnect().await;
}

/// Issue 12, B9: no login is let in, and the balancer is told only if it is to be.
#[tokio::test]
async fn above_the_mark_nobody_new_is_let_in() {
    let vhost = vhost().await;
    for (overload, status) in [("200", 200), ("503", 503)] {
        let hook = testkit::Hook::start().await;
        let gateway = stentor()
            .vhost(&vhost)
            .hook(&hook)
            // A fifth of it is less than it takes at rest.
            .set("memory.limit", "64MiB")
            .set("memory.watermark", "20")
            .set("health.overload", overload)
            .start()
            .await;
        gateway.until_logged("short of memory").await;
        let body = eventually(DEADLINE, "it says why", async || {
            let (now, body) = gateway.admin("/readyz").await;
            (now == status && body.contains("degraded")).then_some(body)
        })
        .await;
        assert!(body.contains("memory: "), "{body}");
        assert_eq!(gateway.admin("/healthz").await.0, 200);
        let mut client = StompClient::ws(&gateway.ws_url()).await;
        let login = Login::new("alice", PASSCODE, vhost.name());
        client.send(&login.frame()).await;
        client.expect_error("server overloaded").await;
        assert_eq!(client.expect_closed().await.code, Some(1013));
        assert!(hook.calls().is_empty(), "the hook is asked for nothing");
    }
}

/// Pages of 2 MiB, of which little is used, count as memory.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_huge_pages_are_taken() {
    let house = House::open_with(|builder| builder).await;
    assert_eq!(memory(&house.gateway, "THP_enabled"), 0);
    assert!(memory(&house.gateway, "RssAnon") < 24 * MIB);
}

/// 8 s after the end, the memory is the system's again.
#[tokio::test]
async fn memory_goes_back_to_the_system() {
    // The sockets' buffers take some megabytes of what is for each.
    let house = House::open_with(|builder| builder.set("mailbox.max_bytes", "32MiB")).await;
    house.tcp().await.disconnect().await;
    let before = memory(&house.gateway, "VmRSS");
    let slow = slow_clients(&house, 20, (200, 100_000)).await;
    let what = "much memory is needed";
    eventually(DEADLINE, what, async || {
        memory(&house.gateway, "VmRSS") > before + 150 * MIB
    })
    .await;
    drop(slow);
    let end = Duration::from_secs(8);
    eventually(end, "memory is given back", async || {
        memory(&house.gateway, "VmRSS") < before + 60 * MIB
    })
    .await;
}
