//! SockJS 0.3: a WebSocket's services for pages and networks that have none.
//!
//! This is a transport: messages in, messages out. It knows nothing of STOMP, except that its
//! sessions are [`Link`]s. The rules are those of the public test document `sockjs-protocol`.
//!
//! Pure, and tested without I/O: [`frame`] (what is sent, and the JSON of what comes), [`mod@format`]
//! (how each transport wraps it), [`path`] (which request is what), and `state` (a session's life,
//! with time passed in). Around them, [`session`] has the two ends of a session, and
//! [`sessions`] all of them by name. HTTP itself is in [`crate::http::sockjs`].

mod config;
pub mod format;
pub mod frame;
mod framed;
pub mod path;
mod seam;
pub mod session;
pub mod sessions;
mod state;

use std::task::{Context, Poll};

pub use config::{Config, Transport};
pub use framed::FramedLink;
pub use session::{Receiver, Session};
pub use sessions::Sessions;

use crate::connection::Link;

/// A link on which a service of SockJS is spoken, and which it can close with a code of its own:
/// those from 3000 on are for applications (RFC 6455, 7.4.2).
pub trait Channel: Link {
    /// As [`Link::poll_close`], with any code, and a reason of at most 123 bytes.
    fn poll_close_with(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()>;
}
