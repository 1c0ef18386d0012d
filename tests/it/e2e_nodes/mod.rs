//! Several gateways on one RabbitMQ and one Redis, as behind a load balancer: real processes,
//! under traffic, while one of them ends, is killed, or loses what it stands on.

mod cluster;
mod commands;
mod events;
mod killed;
mod outages;
mod rolling_restart;
mod rooms;
mod sending_once;
mod stories;
mod together;
mod traffic;
