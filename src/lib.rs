//! Stentor: a STOMP push gateway for RabbitMQ.
//!
//! The map of the house, for a newcomer (imports run downward only):
//!
//! - `main` (arguments), [`demo`] and [`app`] — the places that name concrete parts
//! - [`doctor`] — `stentor doctor`: asks everything that the gateway will need
//! - [`migrate`] — from RabbitMQ's configuration to this one
//! - [`config`] — the sections of all parts, gathered and checked
//! - [`ctl`] — `stentor ctl`: a client of the API
//! - [`api`] — the operator's side: health, metrics, and the HTTP API
//! - [`page`] — the operator's page: a client of the HTTP API
//! - [`listen`] and [`http`] — sockets and routes; they make links
//! - [`connection`] — one task a client: link, session, broker
//! - [`offline`] — messages for those who are away
//! - [`node`] — shared by all connections of a node: services, settings, registry, places, memory
//! - [`control`] — commands of an operator or a backend to sessions of any node
//! - [`tap`] — what operators see of the frames of clients
//! - [`hub`], [`messaging`], [`presence`], [`broker`], [`auth`] — the services of a connection
//! - [`webhooks`] — events for the application, by signed HTTP requests
//! - [`telemetry`], [`shutdown`] — logs, and phases of an orderly end
//! - [`units`] and [`secret_url`] — how durations, sizes and URLs are written in configuration
//! - [`address`] — what limits by address count as one
//! - `tls_client` — TLS towards servers
//! - `backoff`, `background`, `deadline`, `later`, `recent`, [`causes`], [`codes`] — pauses between
//!   attempts, tasks of the program's own, moments to come, a queue of a constant delay, facts that
//!   hold for ten seconds, an error in one line, the names of what is said at the start
//!
//! Below them stand two pure crates, `stomp-session` (one client's protocol state) and
//! `stomp-grammar` (frames and bytes), and `sockjs-server`, a transport that knows no STOMP.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

pub mod address;
pub mod api;
pub mod app;
pub mod auth;
mod background;
mod backoff;
pub mod broker;
pub mod causes;
pub mod codes;
pub mod config;
pub mod connection;
pub mod control;
pub mod ctl;
mod deadline;
pub mod demo;
pub mod doctor;
pub mod http;
pub mod hub;
mod later;
pub mod listen;
pub mod messaging;
pub mod migrate;
pub mod node;
pub mod offline;
pub mod page;
pub mod presence;
mod recent;
pub mod secret_url;
pub mod shutdown;
pub mod tap;
pub mod telemetry;
mod tls_client;
pub mod units;
pub mod webhooks;
