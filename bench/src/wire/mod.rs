//! What goes over the wire, as little of it as a load client needs (pure: no I/O, no clock).
//!
//! These are not Stentor's own codecs on purpose: a tool that measures and checks a server should
//! not share its mistakes, and a client with thousands of sockets must cost far less than what it
//! measures.

pub(crate) mod amqp;
pub(crate) mod body;
pub(crate) mod dialect;
pub(crate) mod nats;
pub(crate) mod sockjs;
pub(crate) mod stomp;
pub(crate) mod websocket;
