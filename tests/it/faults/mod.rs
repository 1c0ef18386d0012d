//! Faults of all that is around the gateway, with real parts. Each test runs with a small crowd
//! here; `./scripts/soak.sh crowds` runs those that have one with thousands (`FAULTS_CROWD`).

mod alarms;
mod clock;
mod commits;
mod confirms;
mod crowds;
mod given_again;
mod hook;
mod just_bound;
mod logs;
mod policies;
mod slow_clients;
mod slow_link;
mod soak;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use stomp_grammar::{Command, Frame};
use testkit::{Gateway, Login, StompClient};

use crate::house::{House, PASSCODE};

/// How many clients there are: so many in every run, more if the environment says so.
fn crowd(usual: usize) -> usize {
    let more = env::var("FAULTS_CROWD").ok();
    more.map_or(usual, |more| {
        more.parse().expect("FAULTS_CROWD is a number")
    })
}

/// A client of this user, logged in.
async fn login(house: &House, user: &str) -> StompClient {
    let mut client = house.raw_tcp().await;
    let login = Login::new(user, PASSCODE, house.vhost.name());
    client.connect(&login).await;
    client
}

/// A user that is served, and how long that takes.
struct Witness {
    client: StompClient,
    destination: String,
    took: Vec<Duration>,
}

impl Witness {
    async fn new(house: &House, user: &str) -> Self {
        let mut client = login(house, user).await;
        let destination = format!("/exchange/feed/{user}");
        client.subscribe("1", &destination).await;
        Self {
            client,
            destination,
            took: Vec::new(),
        }
    }

    /// Sends a message to itself, and waits for it and for its receipt.
    async fn is_served(&mut self) {
        let text = self.took.len().to_string();
        let send = Frame::new(Command::Send)
            .with_header("destination", &self.destination)
            .with_header("receipt", &text)
            .with_body(text.clone());
        let begun = Instant::now();
        self.client.send(&send).await;
        for _ in 0..2 {
            let frame = self.client.expect_frame().await;
            let is_own = frame.header("receipt-id") == Some(&text) || frame.body == text;
            assert!(is_own, "{}", testkit::show(&frame));
        }
        self.took.push(begun.elapsed());
    }

    /// The slowest of a hundred since the last call.
    fn p99(&mut self) -> Duration {
        let mut took = std::mem::take(&mut self.took);
        took.sort_unstable();
        took[(took.len() * 99 / 100).min(took.len() - 1)]
    }
}

/// The memory of the gateway that is resident, in bytes.
fn memory(gateway: &Gateway) -> usize {
    let path = format!("/proc/{}/status", gateway.process().id());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim_matches([' ', '\t', 'k', 'B']);
    number.parse::<usize>().unwrap() * 1024
}

/// The files that it has open.
fn files(gateway: &Gateway) -> usize {
    let path = format!("/proc/{}/fd", gateway.process().id());
    fs::read_dir(path).unwrap().count()
}

/// A metric; labels belong to its name.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let (_, text) = gateway.admin("/metrics").await;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}
