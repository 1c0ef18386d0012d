//! What a client does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use stentor::connection::LinkError;

use super::{
    Due, End, Held, Session, Settled, What,
    subscription::{Mode, Source, Subscription},
};
use crate::{
    entropy::Draws,
    hook::{FORBIDDEN, TOKEN},
    ledger::body_of,
    operator::somewhere,
    world::{KEYS, PATTERNS, QUEUES},
};

impl Session {
    pub(super) fn connect(&mut self) {
        let (user, number) = (self.user.clone(), self.number);
        if self.draws.percent(10) {
            self.passcode = TOKEN;
        }
        let passcode = self.passcode;
        self.tell(|| format!("connects as {user}"));
        self.send(&format!(
            "CONNECT\naccept-version:1.2\nhost:/\nlogin:{user}\npasscode:{passcode}\n\
             device-id:device-{number}\n\n\0"
        ));
        if self.draws.percent(3) {
            self.cut();
        }
    }

    /// It is a SockJS client over HTTP: what there is for it waits until its next request, which takes
    /// all of it.
    pub(super) fn poll(&mut self) {
        self.tell(|| "fetches".to_owned());
        self.wire.be_fetched();
        let mut draws = Draws::of(&[self.world.plan.seed, self.number.into(), self.next_id]);
        let wire = self.wire.clone();
        tokio::spawn(async move {
            while wire.fetch().await {
                // Often enough that no flood outruns it.
                sleep(draws.millis(1, 12)).await;
            }
        });
    }

    /// One operation.
    pub(super) fn act(&mut self) {
        if self.is_over() || self.bad.is_some() {
            return;
        }
        self.world.count();
        match self.draws.below(100) {
            0..=17 => self.subscribe(),
            18..=23 => self.unsubscribe(),
            24..=58 => self.publish(),
            59..=66 => self.transact(),
            67..=88 => self.settle(),
            89..=91 => self.stall(),
            92..=94 => self.cut(),
            95 | 96 => self.err(),
            97 => self.disconnect(),
            98 => self.renew(),
            _ => self.send("\n"),
        }
    }

    fn subscribe(&mut self) {
        if self.draws.percent(35) {
            return self.subscribe_to_journal();
        }
        let (destination, source, headers) = if self.draws.percent(70) {
            let (exchange, pattern) = match self.draws.below(10) {
                0..=5 => ("feed", *self.draws.pick(&KEYS)),
                6 | 7 => ("news", *self.draws.pick(&PATTERNS)),
                8 => ("all", "any"),
                _ => ("amq.topic", *self.draws.pick(&PATTERNS)),
            };
            let destination = match exchange {
                "amq.topic" => format!("/topic/{pattern}"),
                _ => format!("/exchange/{exchange}/{pattern}"),
            };
            let (headers, is_conflated) = self.wishes();
            let source = Source::Shared {
                exchange,
                pattern,
                is_conflated,
            };
            (destination, source, headers)
        } else {
            let (mode, ack) = *self.draws.pick(&[
                (Mode::Auto, "auto"),
                (Mode::Cumulative, "client"),
                (Mode::Individual, "client-individual"),
            ]);
            let queue = self.draws.pick(&QUEUES);
            let headers = format!("ack:{ack}\n");
            (format!("/queue/{queue}"), Source::Queue { mode }, headers)
        };
        self.open(&destination, source, &headers);
    }

    pub(super) fn open(&mut self, destination: &str, source: Source, headers: &str) {
        let name = self.next_subscription;
        self.next_subscription += 1;
        let subscription = Subscription::new(source);
        self.rights.extend(subscription.right());
        self.subscriptions.insert(name, subscription);
        let receipt = self.expect(What::Subscribed(name));
        self.send(&format!(
            "SUBSCRIBE\nid:{name}\ndestination:{destination}\n{headers}{receipt}\n\0"
        ));
    }

    /// Headers for keys that change fast, and whether messages may be left out by them.
    fn wishes(&mut self) -> (String, bool) {
        // Shorter than the world waits for its last messages.
        let window = self.draws.between(10, 1_500);
        match self.draws.below(10) {
            0 | 1 => ("delta:fossil\n".to_owned(), false),
            2 => ("conflate:latest\n".to_owned(), true),
            3 => (format!("conflate:{window}\n"), true),
            4 => ("delta:fossil\nconflate:latest\n".to_owned(), true),
            5 => (format!("conflate:{window}\ndelta:fossil\n"), true),
            _ => (String::new(), false),
        }
    }

    fn unsubscribe(&mut self) {
        let open = self.subscriptions.iter();
        let open = open.filter(|(_, it)| !it.is_ending && it.since.is_some());
        let names: Vec<u64> = open.map(|(name, _)| *name).collect();
        if names.is_empty() {
            return self.subscribe();
        }
        let name = *self.draws.pick(&names);
        if let Some(subscription) = self.subscriptions.get_mut(&name) {
            subscription.is_ending = true;
        }
        // What it has not acknowledged stays so until it goes.
        self.held.retain(|held| held.subscription != name);
        self.unsettled.retain(|held| held.subscription != name);
        let receipt = self.expect(What::Unsubscribed(name));
        self.send(&format!("UNSUBSCRIBE\nid:{name}\n{receipt}\n\0"));
    }

    fn message(&mut self, headers: &str) -> (u64, String) {
        let id = self.next_id;
        self.next_id += 1;
        let (exchange, key) = somewhere(&mut self.draws);
        let destination = match exchange {
            "" => format!("/queue/{key}"),
            "amq.topic" => format!("/topic/{key}"),
            _ => format!("/exchange/{exchange}/{key}"),
        };
        let padding = if self.draws.percent(5) { 3_000 } else { 20 };
        let body = body_of(id, padding);
        (
            id,
            format!("SEND\ndestination:{destination}\n{headers}\n{body}\0"),
        )
    }

    fn publish(&mut self) {
        let receipt = if self.draws.percent(60) {
            self.expect(What::Sent)
        } else {
            self.frames += 1;
            String::new()
        };
        let (id, frame) = self.message(&receipt);
        self.sent.push((self.frames, id));
        self.send(&frame);
    }

    fn transact(&mut self) {
        let Some(ids) = self.transaction.take() else {
            self.transaction = Some(Vec::new());
            return self.send("BEGIN\ntransaction:t\n\n\0");
        };
        let mut ids = ids;
        if ids.len() < 3 || self.draws.percent(30) {
            let (id, frame) = self.message("transaction:t\n");
            ids.push(id);
            self.world.uncommitted(id);
            self.transaction = Some(ids);
            return self.send(&frame);
        }
        if self.draws.percent(25) {
            return self.send("ABORT\ntransaction:t\n\n\0");
        }
        for id in &ids {
            self.world.committed(*id);
        }
        let receipt = self.expect(What::Committed(ids));
        self.send(&format!("COMMIT\ntransaction:t\n{receipt}\n\0"));
    }

    fn settle(&mut self) {
        if self.draws.percent(40) && self.acknowledge() {
            return;
        }
        if self.held.is_empty() {
            return self.publish();
        }
        let held = self.draws.pick(&self.held).clone();
        let mode = match self
            .subscriptions
            .get(&held.subscription)
            .map(|it| &it.source)
        {
            Some(Source::Queue { mode }) => *mode,
            _ => return,
        };
        let is_meant = |other: &Held| match mode {
            Mode::Cumulative => {
                other.subscription == held.subscription && other.order() <= held.order()
            }
            Mode::Individual | Mode::Auto => other.ack == held.ack,
        };
        let meant: Vec<Held> = self
            .held
            .iter()
            .filter(|it| is_meant(it))
            .cloned()
            .collect();
        self.held.retain(|other| !is_meant(other));
        let (command, more, how) = match self.draws.below(10) {
            0 | 1 => ("NACK", "", Settled::Nacked),
            2 => ("NACK", "requeue:false\n", Settled::Dropped),
            _ => ("ACK", "", Settled::Acked),
        };
        for held in &meant {
            self.world.ledger.note(held.id, |queued| match how {
                Settled::Acked => queued.was_acked = true,
                Settled::Nacked => {}
                Settled::Dropped => queued.was_dropped = true,
            });
        }
        let is_known = meant.iter().all(|other| other.loss == held.loss);
        let receipt = self.expect(What::Settled {
            loss: if is_known { held.loss } else { u64::MAX },
            ids: meant.iter().map(|held| held.id).collect(),
            how,
        });
        let id = &held.ack;
        self.send(&format!("{command}\nid:{id}\n{more}{receipt}\n\0"));
    }

    /// It reads nothing for a while.
    fn stall(&mut self) {
        let duration = self.draws.millis(100, 45_000);
        self.tell(|| format!("reads nothing for {duration:?}"));
        let until = Instant::now() + duration;
        self.stalled_until = Some(until);
        self.burst = (until, 0);
        self.wire
            .set_room(self.draws.below(2_000).try_into().unwrap());
        let wire = self.wire.clone();
        tokio::spawn(async move {
            sleep(duration).await;
            wire.set_room(usize::MAX);
        });
    }

    /// The network is cut, or the client goes without a word.
    pub(super) fn cut(&mut self) {
        self.end.get_or_insert(End::Gone);
        // What is on its way may still arrive.
        let (wire, is_cut) = (self.wire.clone(), Arc::clone(&self.is_cut));
        let after = self.draws.millis(0, 2 * self.distance);
        let kind = self.draws.below(3);
        self.tell(|| format!("is cut off ({kind}) after {after:?}"));
        tokio::spawn(async move {
            sleep(after).await;
            is_cut.store(true, Ordering::Relaxed);
            let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            match kind {
                0 => wire.hang_up(),
                1 => wire.receive(Err(LinkError::Io(reset()))),
                _ => {
                    wire.break_off();
                    wire.receive(Err(LinkError::Io(reset())));
                }
            }
        });
    }

    /// A frame that is an error.
    fn err(&mut self) {
        let (frame, message) = match self.draws.below(5) {
            0 => ("BOGUS\n\n\0".to_owned(), "Bad command"),
            1 => (
                "UNSUBSCRIBE\nid:nothing\n\n\0".to_owned(),
                "No subscription found",
            ),
            2 => (
                "COMMIT\ntransaction:nothing\n\n\0".to_owned(),
                "Bad transaction",
            ),
            3 => ("SEND\nno colon\n\n\0".to_owned(), "Malformed frame"),
            _ => {
                let destination = format!("/exchange/feed/{FORBIDDEN}");
                let frame = format!("SEND\ndestination:{destination}\n\n\0");
                (frame, "access_refused")
            }
        };
        self.frames += 1;
        self.bad = Some((self.frames, message));
        self.send(&frame);
    }

    pub(super) fn disconnect(&mut self) {
        let receipt = self.expect(What::Disconnected);
        self.end = Some(End::Disconnecting);
        self.send(&format!("DISCONNECT\n{receipt}\n\0"));
    }

    /// The simulation is over.
    pub(super) fn leave(&mut self) {
        if self.is_over() {
            return;
        }
        if self.connected.is_some() && self.draws.percent(50) {
            self.disconnect();
        } else {
            self.cut();
        }
    }

    /// The header by which an answer is asked for.
    pub(super) fn expect(&mut self, what: What) -> String {
        self.frames += 1;
        let frame = self.frames;
        let receipt = format!("r{frame}");
        let header = format!("receipt:{receipt}\n");
        self.due.push_back(Due {
            receipt,
            frame,
            what,
        });
        header
    }

    /// Bytes on their way to the gateway: in order, late, and in pieces.
    pub(super) fn send(&mut self, text: &str) {
        self.tell(|| {
            let shown = text.replace('\n', "|").replace('\0', "");
            let cut: String = shown.chars().take(120).collect();
            format!("> {cut}")
        });
        let bytes = text.as_bytes();
        let pieces = if self.draws.percent(10) {
            self.draws.between(2, 4)
        } else {
            1
        };
        let size = bytes
            .len()
            .div_ceil(usize::try_from(pieces).unwrap())
            .max(1);
        for piece in bytes.chunks(size) {
            let travel = self.draws.millis(0, self.distance);
            let earliest = self.last_chunk + Duration::from_millis(1);
            let due = earliest.max(Instant::now() + travel);
            self.last_chunk = due;
            let (wire, is_cut) = (self.wire.clone(), Arc::clone(&self.is_cut));
            let piece = piece.to_vec();
            tokio::spawn(async move {
                sleep_until(due).await;
                if !is_cut.load(Ordering::Relaxed) {
                    wire.send(piece);
                }
            });
        }
    }
}
