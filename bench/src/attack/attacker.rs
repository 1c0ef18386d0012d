//! The attackers. All of them are one user, over STOMP; the hook allows everything.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    client::Client,
    list::{Amount, Attack},
};
use crate::{
    limits,
    wire::{dialect::destination, stomp},
};

/// Files of this process that attackers leave to the visitor, which must not fail for want of one.
const FILES_LEFT: u32 = 500;

/// Connections that are made at a time.
const AT_ONCE: usize = 64;

/// The attacker's name.
const USER: &str = "mallory";

/// Before it is tried again where even the connection is refused.
const PAUSE: Duration = Duration::from_millis(20);

/// Different refusals that are told.
const MAX_SAID: usize = 8;

/// Frames of a flood that are written at once.
const BATCH: usize = 500;

/// The attackers' deeds, and the answers that they got.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Deeds {
    pub(super) seconds: f64,
    pub(super) connections: u64,
    /// Frames of the attack that were written.
    pub(super) frames: u64,
    /// ERROR frames, and connections that were closed.
    pub(super) refusals: u64,
    /// The texts of those answers, with their counts.
    pub(super) said: BTreeMap<String, u64>,
}

/// The gateway's ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    pub(super) stomp: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// An attack that is under way.
pub(super) struct Attackers {
    pub(super) targets: Targets,
    amount: Amount,
    body: Vec<u8>,
    deeds: RefCell<Deeds>,
    left: RefCell<u32>,
    /// For each connection that is being made: with thousands at once, none would be made in time.
    pub(super) turns: Semaphore,
}

impl Attackers {
    pub(super) fn new(targets: Targets, amount: Amount) -> Self {
        let most = limits::files().saturating_sub(FILES_LEFT).max(1);
        Self {
            targets,
            amount: Amount {
                connections: amount.connections.min(most),
                ..amount
            },
            body: vec![b'.'; amount.size],
            deeds: RefCell::default(),
            left: RefCell::new(amount.times),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Attacks, until all is done, the time is over, or `stop` is. All connections end then.
    pub(super) async fn attack(self, attack: Attack, stop: impl Future<Output = ()>) -> Deeds {
        let began = Instant::now();
        let longest = Duration::from_secs_f64(self.amount.seconds);
        tokio::select! {
            _ = timeout(longest, self.strike(attack)) => {}
            () = stop => {}
        }
        let mut deeds = self.deeds.into_inner();
        deeds.seconds = began.elapsed().as_secs_f64();
        deeds
    }

    async fn strike(&self, attack: Attack) {
        match attack {
            Attack::SubscribeMissing
            | Attack::SubscribeRefused
            | Attack::SendRefused
            | Attack::SendMissing
            | Attack::ReplyTo
            | Attack::InternalExchange
            | Attack::Denied => self.each(async |_| self.refused(attack).await).await,
            Attack::ThreeWildcards => self.wildcards("pub.#.a.#.a.#.z1").await,
            Attack::TwoWildcards => self.wildcards("pub.#.a.#.z1").await,
            Attack::Mandatory | Attack::Transactions => {
                self.each(async |_| self.flood(attack).await).await;
            }
            // That one is no client's.
            Attack::FullQueues => {}
            Attack::Bindings => self.each(async |number| self.bind(number).await).await,
            Attack::OwnQueues => self.own_queues().await,
            Attack::Bodies | Attack::Alarm => {
                let send = &self.send(&destination("nobody"), &[]);
                self.each(async |_| self.bodies(send).await).await;
            }
            Attack::HalfRequests
            | Attack::HalfHealth
            | Attack::Missing
            | Attack::SockjsSessions
            | Attack::Sockets => self.each(async |_| self.crowd(attack).await).await,
            Attack::HalfBodies => {
                let send = &self.send(&destination("nobody"), &[]);
                self.each(async |_| self.half_body(send).await).await;
            }
        }
    }

    /// So many side by side, each again and again.
    async fn each(&self, act: impl AsyncFn(u32) -> Result<(), String>) {
        let act = &act;
        let all = (0..self.amount.connections).map(async |number| {
            while self.take_turn() {
                if let Err(why) = act(number).await {
                    self.was_told(why);
                    sleep(PAUSE).await;
                }
            }
        });
        join_all(all).await;
    }

    /// Takes one of the turns, if they are counted.
    fn take_turn(&self) -> bool {
        let mut left = self.left.borrow_mut();
        let has_turn = self.amount.times == 0 || *left > 0;
        *left = left.saturating_sub(1);
        has_turn
    }

    /// A connection whose only frame is to be refused, however that is told.
    async fn refused(&self, attack: Attack) -> Result<(), String> {
        let number = *self.left.borrow();
        let queue = format!("/queue/refused-{number}");
        let own = destination("nobody");
        let frame = match attack {
            Attack::SubscribeMissing => subscribe("/amq/queue/nope", &[]),
            Attack::SubscribeRefused => subscribe(&queue, &[("x-max-priority", "300")]),
            Attack::SendRefused => self.send(&queue, &[("x-max-priority", "300")]),
            Attack::SendMissing => self.send("/exchange/missing/key", &[]),
            Attack::ReplyTo => self.send(&own, &[("reply-to", "amq.rabbitmq.reply-to")]),
            Attack::InternalExchange => self.send("/exchange/amq.rabbitmq.trace/key", &[]),
            _ => match number % 4 {
                0 => subscribe(&own, &[("ack", "client")]),
                1 => subscribe(&own, &[("prefetch-count", "5")]),
                2 => subscribe(&queue, &[("durable", "false")]),
                _ => self.send(&queue, &[("durable", "false")]),
            },
        };
        let mut client = self.greet(&frame).await?;
        self.wrote(1);
        // It may well be obeyed.
        if let Err(why) = client.receipt("r").await {
            self.was_told(why);
        }
        Ok(())
    }

    /// Keys on which RabbitMQ has to try very many ways to match a pattern.
    async fn wildcards(&self, pattern: &str) {
        let pattern = format!("/exchange/amq.topic/{pattern}");
        let subscribed = async {
            let mut client = self.greet(&subscribe(&pattern, &[])).await?;
            client.receipt("r").await.map(|()| client)
        };
        let subscriber = match subscribed.await {
            Ok(subscriber) => Some(subscriber),
            Err(why) => {
                self.was_told(why);
                None
            }
        };
        let key = format!("/exchange/amq.topic/pub{}", ".a".repeat(124));
        let send = &self.send(&key, &[]);
        // Each has its share: connections publish by different channels.
        let share = self.amount.times / self.amount.connections.max(1);
        let sending = (0..self.amount.connections).map(async |_| {
            let sent = async {
                let mut client = self.log_in().await?;
                for _ in 0..share {
                    client.write(send).await?;
                    self.wrote(1);
                }
                Err::<(), String>(client.refusal().await)
            };
            if let Err(why) = sent.await {
                self.was_told(why);
            }
        });
        join_all(sending).await;
        // Until the time is over: the pattern stays.
        let _stays = subscriber;
        std::future::pending::<()>().await;
    }

    /// Frames as fast as they go: there is always a batch to be read.
    async fn flood(&self, attack: Attack) -> Result<(), String> {
        let mut batch = Vec::new();
        for number in 1..=BATCH {
            let receipt: &[_] = match number {
                BATCH => &[("receipt", "r")],
                _ => &[],
            };
            match attack {
                Attack::Mandatory => {
                    let own = destination("nobody");
                    let mandatory = [("destination", &*own), ("mandatory", "true")];
                    let headers = [&mandatory[..], receipt].concat();
                    batch.extend(stomp::frame("SEND", &headers, &self.body));
                }
                _ => {
                    let headers = [("transaction", "t")];
                    batch.extend(stomp::frame("BEGIN", &headers, b""));
                    let headers = [&headers[..], receipt].concat();
                    batch.extend(stomp::frame("ABORT", &headers, b""));
                }
            }
        }
        let mut client = self.greet(&batch).await?;
        loop {
            client.write(&batch).await?;
            self.wrote(BATCH as u64);
            client.receipt("r").await?;
        }
    }

    async fn bind(&self, number: u32) -> Result<(), String> {
        let mut client = self.log_in().await?;
        loop {
            let key = destination(&format!("random_{number}_{}", rand::random::<u32>()));
            let headers = [("id", "0"), ("destination", &*key)];
            client.request("SUBSCRIBE", &headers, b"").await?;
            client.request("UNSUBSCRIBE", &headers[..1], b"").await?;
            self.wrote(2);
        }
    }

    async fn own_queues(&self) {
        let own = destination("heavy");
        let struck = async {
            let mut reader = self.log_in().await?;
            for number in 0..self.amount.times {
                let id = number.to_string();
                let headers = [("id", &*id), ("destination", &*own), ("ack", "client")];
                reader.request("SUBSCRIBE", &headers, b"").await?;
                self.wrote(1);
            }
            let mut sender = self.log_in().await?;
            for _ in 0..2 {
                let headers = [("destination", &*own)];
                sender.request("SEND", &headers, &self.body).await?;
                self.wrote(1);
            }
            // Neither reads from now on, until the time is over.
            std::future::pending::<Result<(), String>>().await
        };
        if let Err(why) = struck.await {
            self.was_told(why);
        }
    }

    async fn bodies(&self, send: &[u8]) -> Result<(), String> {
        let mut client = self.log_in().await?;
        loop {
            client.write(send).await?;
            self.wrote(1);
        }
    }

    async fn half_body(&self, send: &[u8]) -> Result<(), String> {
        let mut client = self.log_in().await?;
        let most = send.len().saturating_sub(self.amount.size / 100);
        client.write(send.get(..most).unwrap_or_default()).await?;
        self.wrote(1);
        Err(client.refusal().await)
    }

    /// A message, with a receipt.
    fn send(&self, destination: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let headers = [&[("destination", destination), ("receipt", "r")], headers].concat();
        stomp::frame("SEND", &headers, &self.body)
    }

    async fn log_in(&self) -> Result<Client, String> {
        let client = Client::log_in(self.targets.stomp, USER).await?;
        self.deeds.borrow_mut().connections += 1;
        Ok(client)
    }

    async fn greet(&self, frames: &[u8]) -> Result<Client, String> {
        let client = Client::greet(self.targets.stomp, USER, frames).await?;
        self.deeds.borrow_mut().connections += 1;
        Ok(client)
    }

    pub(super) fn wrote(&self, frames: u64) {
        self.deeds.borrow_mut().frames += frames;
    }

    fn was_told(&self, why: String) {
        let mut deeds = self.deeds.borrow_mut();
        deeds.refusals += 1;
        // The numbers in it are of no interest.
        let why: String = why
            .chars()
            .map(|letter| if letter.is_ascii_digit() { '0' } else { letter })
            .take(200)
            .collect();
        if deeds.said.len() < MAX_SAID || deeds.said.contains_key(&why) {
            *deeds.said.entry(why).or_default() += 1;
        }
    }
}

/// SUBSCRIBE, with a receipt.
fn subscribe(destination: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let common = [("id", "0"), ("destination", destination), ("receipt", "r")];
    stomp::frame("SUBSCRIBE", &[&common, headers].concat(), b"")
}
