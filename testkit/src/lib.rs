//! Fixtures for the tests of this workspace: real servers, real sockets, and faults on demand.
//!
//! - [`RabbitMq`] and [`Redis`]: private servers on free ports, one of each for a test binary,
//!   or one's own to kill. Neither touches a server that the machine runs already.
//!   [`RedisSentinels`] is a Redis with a replica and three Sentinels, [`RedisCluster`] a cluster.
//! - [`Gateway`]: the `stentor` program, started with a configuration, its log kept.
//! - [`Hook`]: the application's side of the authentication, scripted and recorded.
//! - [`StompClient`]: STOMP over TCP, WebSocket and SockJS, frame by frame or byte by byte.
//! - [`Remote`]: a foreign client (Node, Python, a browser) driven over its stdin.
//! - [`Authority`]: certificates, and clients that show them.
//! - [`Meddler`]: a proxy that meddles with a broker's confirms.
//! - [`Proxy`]: a TCP proxy that cuts, refuses, freezes and fragments.
//! - [`eventually`]: waits for a condition; there is no other waiting.
//!
//! Everything here panics when something is not as a test says, with the test's line and with the
//! facts seen instead. [The keeper](keeper) ends all processes that a test process started, even
//! if that is killed.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fixture that fails is a failed test"
)]

mod certificates;
mod gateway;
mod hook;
mod http;
pub mod keeper;
mod meddler;
mod ports;
mod process;
mod proxy;
mod rabbitmq;
mod redis;
mod remote;
mod sockets;
mod stomp;
mod wait;
mod withholder;

pub use certificates::{Authority, TlsClient};
pub use gateway::{API_TOKEN, Addresses, Gateway, GatewayBuilder};
pub use hook::{Answer, Call, Hook, HookCall};
pub use meddler::Meddler;
pub use ports::{free_ports, unique};
pub use process::{Lines, Process};
pub use proxy::Proxy;
pub use rabbitmq::{Api, Cluster, FEED, RabbitMq, Vhost, is_strict};
pub use redis::{Redis, RedisCluster, RedisSentinels};
pub use remote::{Remote, tests_dir};
pub use stomp::{Closed, Login, StompClient, WsOptions, show};
pub use wait::{Condition, DEADLINE, eventually, within};
pub use withholder::Withholder;
