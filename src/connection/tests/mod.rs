//! Whole connections on a link in memory and the embedded broker, in virtual time.

mod bans;
mod bounds;
mod conflating;
mod control;
mod deltas;
mod denying;
mod echo;
mod ending;
mod house;
mod liveness;
mod once;
mod permissions;
mod policy;
mod pressure;
mod protocol;
mod queues;
mod redelivering;
mod renewing;
mod rooms;
mod tokens;
mod uploads;
mod waking;
mod wire;

use std::time::Duration;

use futures_util::FutureExt;
use stomp_grammar::{Command, Decoder};
use tokio::time::{Instant, sleep, timeout};

use self::{
    house::{CONTROL, House, Options},
    wire::{CONNECT, Client},
};
use super::{goodbye::LAST_WORDS, uploads::Uploads, write::CONGESTED, *};
use crate::{
    broker::QueueSpec,
    node::{Limits, Registry, Settings, Stomp},
};

/// Time enough for every task to get as far as it can.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// The client subscribes to a topic, and reads nothing of it: its link is congested.
async fn congest(house: &House, client: &mut Client) {
    client.subscribe("1", "/topic/a", "").await;
    client.wire.set_room(0);
    house.publish("amq.topic", "a", &"x".repeat(CONGESTED));
    settle().await;
}

/// The client takes a byte a second, and is served for no longer than the last words may take.
async fn ends_while_it_reads_slowly(client: Client) {
    let begun = Instant::now();
    while !client.task.is_finished() {
        assert!(begun.elapsed() <= LAST_WORDS + Duration::from_secs(1));
        client.wire.set_room(1);
        sleep(Duration::from_secs(1)).await;
    }
    client.task.await.unwrap();
}

/// The size of the task that serves a client, by its link.
fn task_size<L: Link, F>(_: impl FnOnce(Arc<Services>, L, Peer, Guard) -> F) -> usize {
    size_of::<F>()
}

/// The least cost of an idle connection: a change must be visible, and intended.
#[tokio::test]
async fn the_memory_of_a_connection() {
    let house = House::new();
    let size = |name: &str, size: usize, most: usize| {
        println!("{name}: {size}");
        assert!(size <= most, "{name} takes {size} bytes, more than {most}");
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = async || tokio::net::TcpStream::connect(address).await.unwrap();
    let guard = || house.services.enter().unwrap();
    let services = || Arc::clone(&house.services);
    let tcp = crate::listen::TcpLink::new(stream().await);
    let websocket = crate::listen::WebSocketLink::new(stream().await, Bytes::new(), 1);
    size("TCP link", size_of_val(&tcp), 80);
    size("WebSocket link", size_of_val(&websocket), 352);
    let tcp = serve(services(), tcp, house::PEER, guard());
    let websocket = serve(services(), websocket, house::PEER, guard());
    size("TCP connection", size_of_val(&tcp), 704);
    // With what tokio adds it is 1,024 bytes; for more, the allocator takes 1,280.
    size("WebSocket connection", size_of_val(&websocket), 928);
    // Beside it are the state of TLS and its keys: see docs/internals/tls.md.
    type Secure = crate::listen::tls::TlsStream<tokio::net::TcpStream>;
    let tls = task_size(serve::<crate::listen::TcpLink<Secure>>);
    size("TLS connection", tls, 704);
    let tls = task_size(serve::<crate::listen::WebSocketLink<Secure>>);
    size("WebSocket connection with TLS", tls, 928);
    // With what `Arc` adds it is 168 bytes; for more, the allocator takes the next size.
    size("mailbox", size_of::<crate::hub::Mailbox>(), 152);
    // A user's entry beside it takes some 80 bytes, once for all connections of the user.
    size("context", size_of::<Context>(), 216);
    size("session", size_of::<Session>(), 224);
    size("decoder", size_of::<Decoder>(), 48);
}
