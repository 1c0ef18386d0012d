//! Private RabbitMQ nodes.

mod api;
mod cluster;
mod crossing;
mod node;
mod vhost;

pub use api::Api;
pub use cluster::Cluster;
pub use node::{RabbitMq, is_strict};
pub use vhost::{FEED, Vhost};
