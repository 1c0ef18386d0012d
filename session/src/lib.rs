//! One STOMP client's protocol state, without sockets, clocks or channels.
//!
//! The caller drives a [`Session`]: it reports events by `handle_*`, each with the time, takes the
//! session's wishes by [`Session::poll_action`], and asks [`Session::poll_timeout`] when to come
//! back. So tests check every rule of the protocol with virtual time. [`Session`] has the order of
//! the calls.
//!
//! ```
//! use std::{sync::Arc, time::{Duration, Instant}};
//! use stomp_grammar::{Command, Frame};
//! use stomp_session::{Action, Config, Delivered, Delivery, Session};
//!
//! let config = Config {
//!     server: Some("Stentor/0.2.0".into()),
//!     login_timeout: Duration::from_secs(10),
//!     heartbeat_send: Duration::from_secs(10),
//!     heartbeat_receive: Duration::from_secs(10),
//!     heartbeat_tolerance: 2,
//!     heartbeat_patience: Duration::from_secs(10),
//!     ping_interval: Duration::from_secs(25),
//!     finish_timeout: Duration::from_secs(10),
//!     drain_timeout: Duration::from_secs(2),
//!     disconnect_linger: Duration::from_secs(1),
//!     max_subscriptions: 100,
//!     max_transactions: 16,
//!     max_transaction_frames: 1024,
//!     max_transaction_bytes: 1 << 20,
//!     max_pending: 64,
//!     nack_requeue: true,
//!     soft_deny: false,
//!     max_denials: 100,
//!     require_subscription_id: false,
//!     implicit_connect: false,
//! };
//! let now = Instant::now();
//! let mut session = Session::new(Arc::new(config), "session-1".into(), now);
//!
//! session.handle_frame(now, Frame::new(Command::Connect).with_header("accept-version", "1.2"));
//! assert!(matches!(session.poll_action(), Some(Action::Authenticate(_))));
//! session.handle_authenticated(now, Ok(None));
//! let Some(Action::Write(connected)) = session.poll_action() else { panic!() };
//! assert!(connected.starts_with(b"CONNECTED\n"));
//!
//! let subscribe = Frame::new(Command::Subscribe)
//!     .with_header("id", "0")
//!     .with_header("destination", "/exchange/feed/user_1")
//!     .with_header("receipt", "r");
//! session.handle_frame(now, subscribe);
//! let Some(Action::Subscribe(operation, ask)) = session.poll_action() else { panic!() };
//! assert!(session.poll_action().is_none());
//! session.handle_done(now, operation, Ok(()));
//! let Some(Action::Write(receipt)) = session.poll_action() else { panic!() };
//! assert_eq!(receipt, b"RECEIPT\nreceipt-id:r\n\n\0"[..]);
//!
//! let mut frame = Vec::new();
//! let delivery = Delivery { subscription: ask.subscription, tag: 1, redelivered: false };
//! assert_eq!(session.handle_delivery(now, delivery, &mut frame), Delivered::Done);
//! assert!(frame.starts_with(b"MESSAGE\nsubscription:0\nmessage-id:1@@session-1@@1\n"));
//! frame.extend_from_slice(b"destination:/exchange/feed/user_1\n\nhello\0");
//! ```
//!
//! | Module | Its part |
//! |---|---|
//! | `session` | phases, and the effect of each frame |
//! | `config` | how sessions behave |
//! | `action` | the wishes of a session |
//! | `delivery` | a message on its way to the client |
//! | `problem`, `close` | everything that ends a session, its words and codes |
//! | `receipts` | operations begun and not done, in the order of frames |
//! | `subscriptions` | open subscriptions, and messages that await acknowledgement |
//! | `redelivery` | messages that are written again until their client acknowledges them |
//! | `transactions` | frames gathered between BEGIN and COMMIT |
//! | `heartbeat` | the agreement of two peers on heart-beats |
//! | `liveness` | heart-beats and pings: when each is due, and when a client is given up |
//! | `frames` | the frames that a server sends |
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod action;
mod close;
mod config;
mod delivery;
mod frames;
mod heartbeat;
mod liveness;
mod problem;
mod receipts;
mod redelivery;
mod session;
mod subscriptions;
mod transactions;

pub use action::{
    AckMode, Action, Connect, GiveUp, Operation, OperationId, Outcome, Publish, Renew, Renewed,
    Settle, Stake, Subscribe, SubscriptionId, Unsubscribe, Verdict,
};
pub use close::CloseCode;
pub use config::Config;
pub use delivery::{Delivered, Delivery};
pub use problem::{Problem, Reconnect};
pub use receipts::unsettled;
pub use session::Session;
pub use subscriptions::OpenSubscription;
pub use transactions::{gathered_bytes, held_bytes};
