//! What a client hears, held against what it may expect.

use std::time::Duration;

use stomp_grammar::{Command, Frame};
use tokio::time::Instant;

use super::{
    Due, End, Held, Session, Settled, What,
    renew::Expiry,
    subscription::{Mode, Source},
};
use crate::{
    hook::{Right, STRANGER, TOKEN},
    ledger::{id_of, is_whole},
};

/// Within so long a session has an answer, or is told of its end.
const PROMPT: Duration = Duration::from_secs(20);
/// Bytes that a link takes before it says that it is full, and a little.
const LINK: usize = 80 * 1024;

impl Held {
    /// The order of deliveries: ids of acknowledgements end with a number.
    pub(super) fn order(&self) -> u64 {
        let digits = self
            .ack
            .rsplit(|letter: char| !letter.is_ascii_digit())
            .next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }
}

impl Session {
    pub(super) fn hear(&mut self, frame: &Frame) {
        self.tell(|| {
            let body = String::from_utf8_lossy(&frame.body);
            let body: String = body.chars().take(40).collect();
            let header = |name| frame.header(name).unwrap_or_default();
            format!(
                "< {:?} {}{}{} {}",
                frame.command,
                header("receipt-id"),
                header("message"),
                header("subscription"),
                body.trim_end()
            )
        });
        match self.end {
            Some(End::Error) => self.violate(format!("{:?} after ERROR", frame.command)),
            Some(End::Disconnected) => {
                self.violate(format!("{:?} after DISCONNECT's RECEIPT", frame.command));
            }
            _ => {}
        }
        match frame.command {
            Command::Connected => self.hear_connected(frame),
            Command::Receipt => self.hear_receipt(frame),
            Command::Message => self.hear_message(frame),
            Command::Error => self.hear_error(frame),
            command => self.violate(format!("a server's frame is no {command:?}")),
        }
    }

    fn hear_connected(&mut self, frame: &Frame) {
        let hook = &self.world.hook;
        if self.user == STRANGER || hook.lacks(&self.user, Right::LogIn, self.began) {
            self.violate(format!("{} is let in", self.user));
        }
        self.connected = Some(Instant::now());
        self.expiry = Expiry::of(frame, self.began);
        if self.expiry.is_some() != (self.passcode == TOKEN) {
            self.violate(format!(
                "a login by {} ends: {:?}",
                self.passcode, self.expiry
            ));
        }
        self.plan_renewal();
        self.world.opened(self.number, &self.user);
    }

    fn hear_receipt(&mut self, frame: &Frame) {
        let receipt = frame.header("receipt-id").unwrap_or_default();
        let Some(due) = self.due.pop_front() else {
            return self.violate(format!("nobody asked for receipt {receipt}"));
        };
        if due.receipt != receipt {
            return self.violate(format!("receipt {receipt} came before {}", due.receipt));
        }
        self.check_sent(due.frame);
        self.fulfil(due, frame);
    }

    /// All that was sent by then is at the broker.
    fn check_sent(&mut self, frame: u64) {
        let ledger = &self.world.ledger;
        let early: Vec<u64> = self
            .sent
            .iter()
            .filter(|(sent, id)| *sent <= frame && !ledger.is_confirmed(*id))
            .map(|(_, id)| *id)
            .collect();
        self.sent.retain(|(sent, _)| *sent > frame);
        if !early.is_empty() {
            self.violate(format!("a receipt came before the broker had {early:?}"));
        }
    }

    fn fulfil(&mut self, due: Due, frame: &Frame) {
        let ledger = &self.world.ledger;
        match due.what {
            What::Sent | What::Acknowledged => {}
            What::Committed(ids) => {
                let places: Vec<_> = ids.iter().map(|id| ledger.place(*id)).collect();
                let all = ids.iter().all(|id| ledger.is_confirmed(*id));
                if !all || !places.is_sorted() {
                    self.violate(format!("of a transaction {ids:?} came {places:?}"));
                }
            }
            What::Subscribed(name) => {
                let now = ledger.len();
                if let Some(subscription) = self.subscriptions.get_mut(&name) {
                    subscription.since = Some(now);
                    subscription.opened = Some(Instant::now());
                }
                if !self.may_read(name) {
                    self.violate(format!("subscription {name} opened without its right"));
                }
                self.hear_begin(name, frame);
            }
            What::Unsubscribed(name) => {
                self.subscriptions.remove(&name);
            }
            What::Settled { ids, loss, how } => {
                // The broker gave them to others.
                if loss != self.world.broker.losses() {
                    return;
                }
                for id in ids {
                    let queued = ledger.note(id, |queued| *queued);
                    let is_done = match how {
                        Settled::Acked => queued.is_accepted,
                        Settled::Nacked => queued.requeues > 0,
                        Settled::Dropped => queued.is_discarded,
                    };
                    if !is_done {
                        self.violate(format!("m{id} is not {how:?} at the broker: {queued:?}"));
                    }
                }
            }
            What::Renewed {
                sent,
                token,
                is_right,
            } => {
                if !is_right || self.world.hook.lacks(&self.user, Right::LogIn, sent) {
                    self.violate("a renewal counts that must be refused".to_owned());
                }
                self.hear_renewed(frame, sent, token);
            }
            What::Disconnected => {
                self.end = Some(End::Disconnected);
                self.wire.hang_up();
            }
        }
    }

    fn hear_message(&mut self, frame: &Frame) {
        let dropped = frame
            .header("x-dropped")
            .and_then(|text| text.parse::<u64>().ok());
        self.dropped += dropped.unwrap_or(0);
        let name = frame.header("subscription");
        let name: Option<u64> = name.and_then(|name| name.parse().ok());
        let Some((name, subscription)) =
            name.and_then(|name| Some((name, self.subscriptions.get_mut(&name)?)))
        else {
            return self.violate("a message came for no subscription".to_owned());
        };
        let body = match subscription.bases.read(frame) {
            Ok(body) => body,
            Err(problem) => return self.violate(problem),
        };
        let Some(id) = id_of(&body).filter(|id| is_whole(*id, &body)) else {
            return self.violate("a strange message".to_owned());
        };
        match self.subscriptions[&name].source {
            Source::Shared { .. } => {
                if !self.may_read(name) {
                    return self.violate(format!("m{id} came without the right to read it"));
                }
                self.measure(frame.body.len());
                let left_out = frame.header("x-conflated");
                let left_out = left_out.and_then(|text| text.parse().ok()).unwrap_or(0);
                self.hear_shared(name, id, left_out);
            }
            Source::Journal(_) => self.hear_journal(name, id, frame),
            Source::Queue { mode } => {
                let queued = self.world.ledger.note(id, |queued| {
                    queued.frames += 1;
                    queued.was_auto |= mode == Mode::Auto;
                    *queued
                });
                if queued.frames > queued.requeues + 1 {
                    self.violate(format!("m{id} is delivered twice: {queued:?}"));
                }
                // It may have waited here, or have been on its way, since before the link was lost.
                let loss = if self.was_stalled() || queued.frames <= queued.requeues {
                    u64::MAX
                } else {
                    self.world.broker.losses()
                };
                let ack = frame.header("ack");
                if let (Some(ack), false) = (ack, self.subscriptions[&name].is_ending) {
                    self.held.push(Held {
                        ack: ack.to_owned(),
                        subscription: name,
                        id,
                        loss,
                    });
                }
            }
        }
    }

    /// What waits for a client that does not read is bounded. Of a queue, more comes as soon as the
    /// client reads.
    fn measure(&mut self, bytes: usize) {
        let now = Instant::now();
        if now != self.burst.0 {
            return;
        }
        self.burst.1 += bytes;
        let most = self.world.plan.max_bytes + LINK;
        if self.burst.1 > most {
            let kept = self.burst.1;
            self.burst.1 = 0;
            self.violate(format!("{kept} bytes waited for a client, of {most}"));
        }
    }

    fn hear_error(&mut self, frame: &Frame) {
        let code = frame.header("error-code").unwrap_or_default();
        match code {
            "subscription-ended" => return self.hear_withdrawn(frame),
            "permission-withdrawn" if frame.header("subscription").is_some() => {
                return self.hear_withdrawn(frame);
            }
            "renewal-refused" | "renewal-unavailable" => return self.hear_refused(frame),
            _ => {}
        }
        let message = frame.header("message").unwrap_or_default();
        self.is_banned = message == "banned";
        let is_denied = message == "access_refused" && self.lacked_right(code);
        let is_own = !is_denied && self.bad.is_some_and(|(_, expected)| expected == message);
        if let (true, Some((bad, _))) = (is_own, self.bad) {
            let unanswered = self.due.iter().filter(|due| due.frame < bad);
            let unanswered: Vec<_> = unanswered.map(|due| &due.receipt).collect();
            // It waits for the broker, but not for ever.
            if !unanswered.is_empty() && !self.world.is_troubled() {
                self.violate(format!("ERROR came before the receipts {unanswered:?}"));
            }
            if !self.world.is_troubled() {
                for (sent, id) in &self.sent {
                    if *sent < bad {
                        self.world.must_be_taken(*id);
                    }
                }
            }
        }
        let is_gap = message == "resume gap" && self.hear_lack();
        if !is_own && !is_denied && !is_gap && !self.may_be(message) {
            let body = String::from_utf8_lossy(&frame.body).into_owned();
            self.violate(format!("ERROR {message:?} for nothing: {body}"));
        }
        if self.end.is_none() || self.end == Some(End::Disconnecting) {
            self.end = Some(End::Error);
        }
    }

    /// Whether something happened of which this tells.
    fn may_be(&self, message: &str) -> bool {
        let world = &self.world;
        match message {
            "kicked" => world.was_kicked(&self.user, self.began),
            "banned" => world.was_banned(&self.user, self.began),
            // It was ended from outside, and UNSUBSCRIBE was on its way.
            "No subscription found" => self.due.iter().any(|due| {
                matches!(due.what, What::Unsubscribed(name) if !self.subscriptions.contains_key(&name))
            }),
            "slow consumer" => {
                self.was_stalled() || world.was_rushed() || self.holds_many()
            }
            // Whatever else fails, that needs a reason of its own.
            "resume gap" => false,
            "broker unavailable" if world.broker.feeds.were_held() => true,
            "feed interrupted" => world.interruptions() > self.interruptions,
            "Bad CONNECT" => {
                let is_refused = world.hook.lacked(&self.user, Right::LogIn, self.began);
                self.user == STRANGER || is_refused || world.is_troubled()
            }
            "token expired" => self.may_expire(),
            _ => world.is_troubled(),
        }
    }

    /// Looks, now and then, for a session that should be over.
    pub(super) fn check_discipline(&self) {
        if self.is_over() || self.was_stalled() {
            return;
        }
        let now = Instant::now();
        if world_says(self.world.banned_since(&self.user), now) {
            self.violate(format!("{} is banned, and here", self.user));
        }
        let kick = self.world.last_kick(&self.user);
        let was_here = |at: Instant| self.connected.is_some_and(|connected| connected < at);
        if world_says(kick.filter(|at| was_here(*at)), now) {
            self.violate(format!("{} was kicked, and is here", self.user));
        }
        let revoked = self.world.last_revocation(&self.user, Right::LogIn);
        if world_says(revoked.filter(|at| was_here(*at)), now) {
            self.violate(format!("{} must not log in, and is here", self.user));
        }
        if world_says(self.expired(), now) {
            self.violate("the login is over, and the session is here".to_owned());
        }
        for (name, subscription) in &self.subscriptions {
            let was_open = |at: &Instant| subscription.opened.is_some_and(|opened| opened < *at);
            let withdrawn = self.withdrawn(subscription).filter(was_open);
            if world_says(withdrawn, now) && !subscription.is_ending {
                self.violate(format!("subscription {name} was ended, and is here"));
            }
            let right = subscription.right();
            let revoked = right.and_then(|right| self.world.last_revocation(&self.user, right));
            let revoked = revoked.filter(was_open).or(subscription.lost);
            if world_says(revoked, now) && !subscription.is_ending {
                self.violate(format!("subscription {name} has no right, and is here"));
            }
        }
    }

    /// Nothing happens any more, and all has been answered.
    pub(super) fn check_calm(&mut self) {
        if self.is_over() {
            return self.violate(format!("the session hangs: {:?}", self.end));
        }
        if self.connected.is_none() {
            return self.violate("the login has no answer".to_owned());
        }
        if let Some((_, message)) = self.bad {
            self.violate(format!("no ERROR {message:?} came"));
        }
        if let Some(due) = self.due.front() {
            self.violate(format!("no answer came for {due:?}"));
        }
        self.check_discipline();
        self.check_subscriptions();
    }

    /// The connection is over.
    pub(super) fn check_end(&self) {
        let is_told = self.end.is_some() || self.was_stalled();
        if !is_told {
            self.violate("the connection was closed without a word".to_owned());
        }
    }
}

fn world_says(since: Option<Instant>, now: Instant) -> bool {
    since.is_some_and(|since| now > since + PROMPT)
}
