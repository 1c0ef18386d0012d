//! Clients, or subscriptions, that come and go at a steady rate.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    ops::Range,
};

use anyhow::Result;

use super::{
    clock::{self, MILLISECOND, SECOND},
    connection::Kind,
    fleet::Fleet,
};
use crate::{
    latency::Latencies,
    orders::{Churn, Churned, Coming, Habits},
};

/// The most comers under way: beyond, the servers cannot keep up, and comers are left out.
const MAX_COMING: usize = 1500;

/// Numbers of users that come and go begin here, apart from those of the ones that stay.
const PASSING: u32 = 1_000_000_000;

/// Coming and going.
pub(super) struct Churning {
    plan: Churn,
    server: SocketAddr,
    habits: Habits,
    due: u64,
    next: u32,
    /// SUBSCRIBEs without a receipt, by slot: the subscription's number, and since when.
    coming: HashMap<usize, (u32, u64)>,
    /// When who is to go; and the number of a subscription.
    staying: VecDeque<(u64, usize, u32)>,
    /// When what is measured happens.
    window: Range<u64>,
    came: u64,
    set_up: Latencies,
    /// Comers that were left out.
    pub(super) left_out: u64,
}

impl Churning {
    /// # Errors
    /// Never: the histogram's bounds are right.
    pub(super) fn new(
        plan: Churn,
        server: SocketAddr,
        heart_beat_ms: u32,
        window: Range<u64>,
    ) -> Result<Self> {
        let habits = Habits {
            own_key: true,
            heart_beat_ms,
            ..Habits::default()
        };
        Ok(Self {
            plan,
            server,
            habits,
            due: clock::now(),
            next: 0,
            coming: HashMap::new(),
            staying: VecDeque::new(),
            window,
            came: 0,
            set_up: Latencies::new()?,
            left_out: 0,
        })
    }

    /// Lets comers come and go at their times.
    ///
    /// # Errors
    /// The system has no more sockets.
    pub(super) fn turn(&mut self, now: u64, fleet: &mut Fleet) -> Result<()> {
        while self.due <= now {
            self.due += (SECOND as f64 / self.plan.per_second) as u64;
            self.come(fleet)?;
        }
        self.go(now, fleet);
        Ok(())
    }

    fn come(&mut self, fleet: &mut Fleet) -> Result<()> {
        let coming = fleet.passing().saturating_sub(self.staying.len()) + self.coming.len();
        if coming >= MAX_COMING {
            self.left_out += 1;
            return Ok(());
        }
        let number = self.next;
        self.next += 1;
        let user = PASSING + fleet.user(0) * 10_000 + number;
        match self.plan.what {
            Coming::Connections => {
                fleet.open(Kind::Passing, user, self.server, self.habits)?;
            }
            Coming::Subscriptions => {
                let slot = number as usize % fleet.steady();
                if self.coming.contains_key(&slot) {
                    self.left_out += 1;
                    return Ok(());
                }
                // 0 and 1 are those that stay.
                let id = number + 2;
                self.coming.insert(slot, (id, clock::now()));
                fleet.subscribe(slot, id, &format!("passing_{user}"));
            }
        }
        Ok(())
    }

    /// A passing connection is ready.
    pub(super) fn ready(&mut self, slot: usize, took: u64) {
        self.came_in(slot, 0, took);
    }

    /// A passing subscription has its receipt.
    pub(super) fn subscribed(&mut self, slot: usize) {
        if let Some((id, since)) = self.coming.remove(&slot) {
            self.came_in(slot, id, clock::now().saturating_sub(since));
        }
    }

    /// A connection that came is gone by itself.
    pub(super) fn ended(&mut self, slot: usize) {
        if self.plan.what == Coming::Connections {
            self.staying.retain(|&(_, staying, _)| staying != slot);
        }
    }

    fn came_in(&mut self, slot: usize, id: u32, took: u64) {
        let now = clock::now();
        if self.window.contains(&now) {
            self.came += 1;
            self.set_up.record(took);
        }
        let leaves = now + self.plan.stay_ms * MILLISECOND;
        self.staying.push_back((leaves, slot, id));
    }

    fn go(&mut self, now: u64, fleet: &mut Fleet) {
        while let Some(&(leaves, slot, id)) = self.staying.front() {
            if leaves > now {
                break;
            }
            self.staying.pop_front();
            match self.plan.what {
                Coming::Connections => fleet.leave(slot),
                Coming::Subscriptions => fleet.unsubscribe(slot, id),
            }
        }
    }

    /// The outcome.
    pub(super) fn result(&self) -> Churned {
        Churned {
            came: self.came,
            set_up: self.set_up.counts(),
        }
    }
}
