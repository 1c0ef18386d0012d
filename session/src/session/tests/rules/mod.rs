//! The protocol's rules that servers get wrong, by the numbers they have in the project's notes
//! on STOMP 1.0 to 1.2. Rules 8 and 13 are in `heartbeats`; 1, 2, 5, 7, 9, 11 and 21 are the
//! grammar's and the transports'.

mod connecting;
mod denying;
mod ending;
mod redelivering;
mod renewing;
mod subscribing;
mod transactions;
