//! What a logged-in client's frames cost, without sockets: SEND and its confirm, messages on
//! their way out.
//!
//! `cargo bench -p stomp-session`
#![allow(clippy::expect_used, reason = "a benchmark that fails is to say so")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use stomp_grammar::{Command, Frame};
use stomp_session::{Action, Config, Delivery, Session, SubscriptionId};

/// Frames in each iteration.
const FRAMES: usize = 100;

const DESTINATION: &str = "/exchange/feed/user_184467";

fn main() {
    divan::main();
}

/// SEND is taken, published, and confirmed.
#[divan::bench(args = [false, true])]
fn send_and_confirm(bencher: Bencher<'_, '_>, receipt: bool) {
    let now = Instant::now();
    let mut session = logged_in(now).0;
    let frame = || {
        let frame = Frame::new(Command::Send)
            .with_header("destination", DESTINATION)
            .with_header("content-type", "application/json")
            .with_body(Bytes::from_static(&[b'x'; 256]));
        if receipt {
            frame.with_header("receipt", "r")
        } else {
            frame
        }
    };
    bencher
        .counter(ItemsCount::new(FRAMES))
        .with_inputs(|| (0..FRAMES).map(|_| frame()).collect::<Vec<_>>())
        .bench_local_values(|frames| {
            for frame in frames {
                session.handle_frame(now, frame);
                while let Some(action) = session.poll_action() {
                    if let Action::Perform(operation, operations) = action {
                        black_box(operations);
                        session.handle_done(now, operation, Ok(()));
                    }
                }
            }
        });
}

/// The heads of MESSAGE frames are written.
#[divan::bench]
fn deliver(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let (mut session, subscription) = logged_in(now);
    let mut out = Vec::with_capacity(64 * 1024);
    bencher.counter(ItemsCount::new(FRAMES)).bench_local(|| {
        out.clear();
        for _ in 0..FRAMES {
            let delivery = Delivery {
                subscription,
                tag: 0,
                redelivered: false,
            };
            black_box(session.handle_delivery(now, delivery, &mut out));
        }
        black_box(out.len())
    });
}

/// A session with one subscription.
fn logged_in(now: Instant) -> (Session, SubscriptionId) {
    let config = Config {
        server: None,
        login_timeout: Duration::from_secs(10),
        heartbeat_send: Duration::from_secs(10),
        heartbeat_receive: Duration::from_secs(10),
        heartbeat_tolerance: 2,
        heartbeat_patience: Duration::from_secs(10),
        ping_interval: Duration::from_secs(25),
        finish_timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(2),
        disconnect_linger: Duration::from_secs(1),
        max_subscriptions: 100,
        max_transactions: 16,
        max_transaction_frames: 1024,
        max_transaction_bytes: 1 << 20,
        max_pending: 64,
        nack_requeue: true,
        soft_deny: false,
        max_denials: 100,
        require_subscription_id: false,
        implicit_connect: false,
    };
    let mut session = Session::new(Arc::new(config), "session-8qGc".into(), now);
    let connect = Frame::new(Command::Connect).with_header("accept-version", "1.2");
    session.handle_frame(now, connect);
    session.handle_authenticated(now, Ok(None));
    let subscribe = Frame::new(Command::Subscribe)
        .with_header("id", "sub-0")
        .with_header("destination", DESTINATION);
    session.handle_frame(now, subscribe);
    let mut subscription = None;
    while let Some(action) = session.poll_action() {
        if let Action::Subscribe(operation, ask) = action {
            subscription = Some(ask.subscription);
            session.handle_done(now, operation, Ok(()));
        }
    }
    (session, subscription.expect("a subscription"))
}
