//! SockJS 0.3 for servers on hyper: WebSocket's services for pages and networks that have none.
//!
//! A transport: messages in, messages out. The application decides whom to admit, and is handed a
//! [`Channel`] for each session, whichever way its client came:
//!
//! ```text
//!   request  -> SockJs::answer -> Application::check, ::admit    may it open a session?
//!                    |
//!                    +--> Application::serve(channel, place)     once for each session
//!                    |         channel.receive(), .send(), .flush(), .close()
//!                    v
//!   response <- Response<Body>
//! ```
//!
//! | Module | Its part |
//! |---|---|
//! | [`protocol`] | frames, escapes, paths, the life of a session: pure, time is passed in |
//! | `application` | [`Application`], [`Caller`], [`Refusal`]: what a server brings |
//! | `channel` | [`Channel`]: the application's end of a session |
//! | `budget` | [`Budget`]: the server's accounts of memory, if it has any |
//! | `options` | [`Options`], [`Transport`] |
//! | `service` | [`SockJs`]: which request gets which answer |
//! | `answer`, `body` | the answers, their headers and bodies |
//! | `receive`, `send` | frames to a client, messages from a client, over HTTP |
//! | `session`, `sessions` | the two ends of a session over HTTP; all of them by name |
//! | `websocket`, `framed` | WebSockets, without SockJS's frames and with them |
//! | [`upgrade`] | from a request to a WebSocket |
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::string_slice
    )
)]

mod answer;
mod application;
mod body;
mod budget;
mod channel;
mod framed;
mod options;
pub mod protocol;
mod receive;
mod send;
mod service;
mod session;
mod sessions;
pub mod upgrade;
mod websocket;

pub use answer::not_found;
pub use application::{Application, Caller, Opening, Refusal};
pub use body::Body;
pub use budget::{Budget, Claim};
pub use channel::{Channel, ChannelError, Payload, Unfinished};
pub use options::{Options, Transport};
pub use service::SockJs;
pub use session::{Delivery, Seat, SharedSession};
pub use sessions::{SessionQuery, Sessions};
pub use websocket::{HyperSocket, WebSocket};

/// The example in the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests;
