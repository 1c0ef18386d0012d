//! Private RabbitMQ nodes.

mod api;
mod node;
mod vhost;

pub use api::Api;
pub use node::{RabbitMq, is_strict};
pub use vhost::{FEED, Vhost};
