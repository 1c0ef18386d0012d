//! Many clients stop reading: their memory is bounded, and others do not notice.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{BasicProperties, options::BasicPublishOptions};
use socket2::{Domain, Socket, Type};
use stomp_grammar::Command;
use testkit::{DEADLINE, FEED, Login, StompClient, Vhost, eventually};
use tokio::{net::TcpSocket, task::JoinSet};

use super::{Witness, crowd, crowds, memory, metric};
use crate::house::{House, PASSCODE};

const MIB: usize = 1 << 20;
/// Of waiting messages, for each connection.
const MAILBOX: usize = MIB / 4;
const BODY: usize = 16_000;
/// More than the mailbox, the connection's buffer and those of its socket hold.
const MESSAGES: usize = MIB / BODY;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_reading_are_closed() {
    stop_reading("disconnect").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_reading_lose_the_oldest() {
    stop_reading("drop-oldest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_reading_keep_the_newest() {
    stop_reading("conflate").await;
}

/// A client with small buffers on both sides, so that it is the gateway that has to keep what it
/// does not read: the system sizes a socket's buffer by the length of its packets, and by how much
/// was read already.
async fn subscribed(address: SocketAddr, vhost: String, user: String) -> StompClient {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.set_tcp_mss(1_000).unwrap();
    socket.set_nonblocking(true).unwrap();
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
    let mut client = StompClient::over(connecting.await.unwrap());
    client.connect(&Login::new(&user, PASSCODE, &vhost)).await;
    // Each has messages of its own: none shares their memory with another.
    let destination = format!("/exchange/{FEED}/{user}");
    client.subscribe("1", &destination).await;
    client
}

/// A crowd of them, whose users' names begin with `name`.
async fn join(house: &House, name: &str, count: usize) -> Vec<StompClient> {
    let address: SocketAddr = house.gateway.stomp_address().parse().unwrap();
    let (mut joining, mut joined) = (JoinSet::new(), Vec::new());
    for number in 0..count {
        let vhost = house.vhost.name().to_owned();
        joining.spawn(subscribed(address, vhost, format!("{name}{number}")));
        if joining.len() == 50 {
            joined.extend(joining.join_next().await.map(Result::unwrap));
        }
    }
    joined.extend(joining.join_all().await);
    joined
}

async fn read(mut client: StompClient, heard: Arc<AtomicU64>) {
    while let Ok(frame) = client.next_frame().await {
        assert_eq!(frame.command, Command::Message);
        heard.fetch_add(1, Ordering::Relaxed);
    }
}

/// A message to each of them, and again.
async fn flood(vhost: Vhost, name: &'static str, count: usize) {
    let channel = crowds::channel(&vhost).await.unwrap();
    let body = vec![b'x'; BODY];
    for _ in 0..MESSAGES {
        let mut confirms = Vec::new();
        for number in 0..count {
            let publishing = channel.basic_publish(
                FEED.into(),
                format!("{name}{number}").into(),
                BasicPublishOptions::default(),
                &body,
                BasicProperties::default(),
            );
            confirms.push(publishing.await.unwrap());
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }
    }
}

/// Floods them, with somebody beside them; the most memory, and how long that one waited.
async fn flooded(
    house: &House,
    name: &'static str,
    count: usize,
    witness: &mut Witness,
) -> (usize, Duration) {
    let flooding = tokio::spawn(flood(house.vhost.clone(), name, count));
    let mut most = 0;
    while !flooding.is_finished() {
        witness.is_served().await;
        most = most.max(memory(&house.gateway));
    }
    flooding.await.unwrap();
    for _ in 0..20 {
        witness.is_served().await;
    }
    (most.max(memory(&house.gateway)), witness.p99())
}

async fn stop_reading(policy: &str) {
    let count = crowd(30);
    let house = House::open_with(|builder| {
        builder
            .set("mailbox.overflow", policy)
            .set("mailbox.max_bytes", MAILBOX)
            .set("limits.max_frame_size", MAILBOX)
            .set("memory.watermark", 0)
            // Longer than the flood takes: it is the mailbox that is to fill up.
            .set("limits.write_timeout", "10m")
            .set("listen.tcp_user_timeout", "12m")
            .set("limits.max_address_connects_per_second", 5_000)
    })
    .await;
    let mut witness = Witness::new(&house, "witness").await;

    // The same messages to as many that read.
    let heard = Arc::<AtomicU64>::default();
    let readers = join(&house, "reader", count).await;
    let readers = readers.into_iter();
    let readers: JoinSet<()> = readers
        .map(|client| read(client, Arc::clone(&heard)))
        .collect();
    let (before, calm) = flooded(&house, "reader", count, &mut witness).await;
    let all = (count * MESSAGES) as u64;
    eventually(4 * DEADLINE, "all is heard", async || {
        heard.load(Ordering::Relaxed) == all
    })
    .await;
    drop(readers);

    let silent = join(&house, "silent", count).await;
    let (most, p99) = flooded(&house, "silent", count, &mut witness).await;
    let overflows = format!("stentor_mailbox_overflows_total{{done=\"{policy}\"}}");
    eventually(DEADLINE, "all have overflowed", async || {
        metric(&house.gateway, &overflows).await >= count as u64
    })
    .await;
    let more = most.saturating_sub(before);
    // What waits, a connection's buffer, and as much again for what the allocator keeps.
    let bound = 2 * count * MAILBOX + 8 * MIB;
    assert!(bound < count * MESSAGES * BODY, "it would be no bound");
    println!(
        "{policy}: {count} clients that do not read took {} MiB more (bound {}) of {} MiB that were \
         published to them; somebody else sends to itself in {p99:?} (p99), {calm:?} beside others that read",
        more / MIB,
        bound / MIB,
        count * MESSAGES * BODY / MIB,
    );
    assert!(more <= bound, "{} MiB", more / MIB);
    // Others build and test on this machine, too.
    let patience = 2 * calm + Duration::from_millis(500);
    assert!(p99 < patience, "{p99:?}, {calm:?} beside others that read");
    drop(silent);
}
