//! The protocol without I/O: bytes and times go in, frames and decisions come out.
//!
//! | Module | Its part |
//! |---|---|
//! | [`frame`] | the frames that a server sends, and the JSON that a client sends |
//! | [`mod@format`] | how each transport over HTTP wraps a frame |
//! | [`path`] | which request asks for which resource |
//! | `seam` | characters that a client has cut in two; how long its payloads may be |
//! | `state` | the life of one session over HTTP; time is passed in |
//!
//! The rules are those of the public test document `sockjs-protocol`, version 0.3.

pub mod format;
pub mod frame;
pub mod path;
pub(crate) mod seam;
pub(crate) mod state;
