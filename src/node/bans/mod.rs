//! The bans of a node (pure: the caller passes the times).
//!
//! A node keeps the newest [`Change`] of each [`Subject`]. Those of bans that were lifted or are
//! over are remembered for a while: a node that was cut off may still hold the ban, and must not
//! bring it back. The clock of the day may stand wrong for a while, so nothing is given up on its
//! word of a moment.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::Bound,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use parking_lot::RwLock;

use crate::{
    control::{Applied, Ban, Change, Subject},
    units::moment,
};

/// Bans in force at a time.
pub const MAX_BANS: usize = 10_000;

/// For so long it is remembered that a ban is no more.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// For so long, on end, the clock of the day has to say that this time is over: a clock that was set
/// wrong is set right by then. No longer, for each start of the node begins anew, and what is never
/// forgotten fills the store.
const SURE: Duration = Duration::from_secs(6 * 60 * 60);

/// The bans that a node knows of.
#[derive(Debug, Default)]
pub struct Bans(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Subject, Entry>,
    /// The lengths of networks among the subjects, of IPv4 and IPv6: an address is looked up in a
    /// network of each length.
    lengths: [BTreeMap<u8, usize>; 2],
    /// Entries that are counted.
    counted: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    stamp: u64,
    ban: Option<Ban>,
    /// It is one of [`MAX_BANS`]. Bans that are over need not be.
    is_counted: bool,
    /// Since when the clock of the day has said that it may be forgotten.
    old_since: Option<Instant>,
    /// Set where the stamp was assumed here, for a command without one that may have come late. What
    /// the exchange brings after that was said after it, whatever its stamp; this is the greatest of
    /// those since, or 0.
    assumed: Option<u64>,
}

/// The marks of a client by which it may be banned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Suspect<'a> {
    /// The user's name.
    pub user: Option<&'a str>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The id of its device.
    pub device: Option<&'a str>,
}

/// Some bans, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BanPage {
    /// The subjects, with when they were banned, and the bans.
    pub bans: Vec<(Subject, SystemTime, Ban)>,
    /// The key behind which the next page begins; `None`: this is the last.
    pub next: Option<String>,
}

impl Bans {
    /// Takes a change of this node, or one that the exchange of commands brings, which keeps their
    /// order. Without a stamp, it was asked for so long ago (`late`), as far as is known.
    /// [`Applied::Full`]: there are [`MAX_BANS`].
    pub fn apply(&self, now: SystemTime, late: Duration, change: &Change) -> Applied {
        let asked = now.checked_sub(late).unwrap_or(now);
        let mut state = self.0.write();
        let Some((stamp, assumed)) = state.in_order(asked, change) else {
            return Applied::Known;
        };
        state.take(now, change, stamp, assumed)
    }

    /// Takes a change that another node, or Redis, knows of: in whatever order.
    pub fn hear(&self, now: SystemTime, change: &Change) -> Applied {
        let mut state = self.0.write();
        let stamp = change.stamp;
        let stamp = stamp.unwrap_or_else(|| state.stamp_after(now, &change.subject));
        let known = state.entries.get(&change.subject);
        if known.is_some_and(|known| known.stamp >= stamp) {
            return Applied::Known;
        }
        state.take(now, change, stamp, None)
    }

    /// The ban that keeps this client out, and its subject. Of several, the one of the address
    /// counts, then the device's.
    #[must_use]
    pub fn find(&self, now: SystemTime, suspect: &Suspect<'_>) -> Option<(Subject, Ban)> {
        let state = self.0.read();
        if state.entries.is_empty() {
            return None;
        }
        let address = suspect.address.map(|address| address.to_canonical());
        let networks = address.into_iter().flat_map(|address| {
            let [v4, v6] = &state.lengths;
            let lengths = if address.is_ipv4() { v4 } else { v6 };
            let network = move |length: &u8| IpNet::new(address, *length).ok();
            lengths.keys().filter_map(network)
        });
        let subjects = networks
            .map(|network| Subject::Address(network.trunc()))
            .chain(suspect.device.map(|id| Subject::Device(id.into())))
            .chain(suspect.user.map(|name| Subject::User(name.into())));
        let mut bans = subjects.filter_map(|subject| {
            let ban = state.entries.get(&subject)?.ban.as_ref()?;
            (!ban.is_over(now)).then(|| (subject, ban.clone()))
        });
        bans.next()
    }

    /// A ban of this subject, or its lifting, that is newer than all that are known here.
    #[must_use]
    pub fn change(&self, now: SystemTime, subject: Subject, ban: Option<Ban>) -> Change {
        let stamp = self.0.read().stamp_after(now, &subject);
        Change {
            subject,
            stamp: Some(stamp),
            ban,
        }
    }

    /// The ban of this subject, if it is in force.
    #[must_use]
    pub fn of(&self, now: SystemTime, subject: &Subject) -> Option<Ban> {
        let state = self.0.read();
        let ban = state.entries.get(subject)?.ban.as_ref()?;
        (!ban.is_over(now)).then(|| ban.clone())
    }

    /// Bans in force: at most `limit`, behind the one of the key `after`.
    #[must_use]
    pub fn list(&self, now: SystemTime, after: Option<&Subject>, limit: usize) -> BanPage {
        let state = self.0.read();
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = BanPage::default();
        for (subject, entry) in state.entries.range::<Subject, _>((first, Bound::Unbounded)) {
            let Some(ban) = entry.ban.as_ref().filter(|ban| !ban.is_over(now)) else {
                continue;
            };
            if page.bans.len() >= limit {
                page.next = page.bans.last().map(|(last, ..)| last.key());
                break;
            }
            page.bans
                .push((subject.clone(), time(entry.stamp), ban.clone()));
        }
        page
    }

    /// All changes that others are to know. They do not hear again of what is about to be forgotten:
    /// two nodes that forget it one after the other would give it to each other for ever.
    #[must_use]
    pub fn changes(&self, now: SystemTime) -> Vec<Change> {
        let state = self.0.read();
        let entries = state.entries.iter();
        let told = entries.filter(|(_, entry)| !entry.is_old(now));
        told.map(|(subject, entry)| entry.change(subject)).collect()
    }

    /// The number of bans in force.
    #[must_use]
    pub fn len(&self, now: SystemTime) -> usize {
        self.0.read().in_force(now)
    }

    /// Forgets bans that have been no more for long, and returns them. `now` is the clock of the day,
    /// `moment` the one that only goes forward.
    pub fn sweep(&self, now: SystemTime, moment: Instant) -> Vec<Change> {
        self.0.write().sweep(now, moment)
    }
}

impl State {
    /// The stamp of a change that comes after all before, and [`Entry::assumed`]; `None`: it is
    /// known already.
    fn in_order(&self, asked: SystemTime, change: &Change) -> Option<(u64, Option<u64>)> {
        let known = self.entries.get(&change.subject);
        let assumed = known.and_then(|known| known.assumed);
        let Some(stamp) = change.stamp else {
            let next = self.stamp_after(asked, &change.subject);
            return Some((next, Some(assumed.unwrap_or(0))));
        };
        let known = known.map(|known| known.stamp);
        if known.is_none_or(|known| known < stamp) {
            return Some((stamp, None));
        }
        let is_later = assumed.is_some_and(|before| before < stamp);
        let next = known?.saturating_add(1);
        is_later.then_some((next, Some(stamp)))
    }

    fn take(
        &mut self,
        now: SystemTime,
        change: &Change,
        stamp: u64,
        assumed: Option<u64>,
    ) -> Applied {
        let Change { subject, ban, .. } = change;
        let known = self.entries.get(subject);
        let was_counted = known.is_some_and(|known| known.is_counted);
        if ban.is_some() && !was_counted && self.counted >= MAX_BANS {
            self.retire(now);
            if self.counted >= MAX_BANS {
                return Applied::Full;
            }
        }
        if self.entries.len() >= MAX_BANS.saturating_mul(2) {
            self.forget_oldest();
        }
        self.remove(subject);
        self.insert(
            subject.clone(),
            Entry {
                stamp,
                ban: ban.clone(),
                is_counted: ban.is_some(),
                old_since: None,
                assumed,
            },
        );
        Applied::Done(Change {
            stamp: Some(stamp),
            ..change.clone()
        })
    }

    fn stamp_after(&self, now: SystemTime, subject: &Subject) -> u64 {
        let known = self.entries.get(subject).map_or(0, |known| known.stamp);
        millis(now).max(known.saturating_add(1))
    }

    fn in_force(&self, now: SystemTime) -> usize {
        let entries = self.entries.values();
        entries.filter(|entry| entry.is_in_force(now)).count()
    }

    fn sweep(&mut self, now: SystemTime, moment: Instant) -> Vec<Change> {
        let mut old = Vec::new();
        for (subject, entry) in &mut self.entries {
            if !entry.is_old(now) {
                entry.old_since = None;
            } else if moment.saturating_duration_since(*entry.old_since.get_or_insert(moment))
                >= SURE
            {
                old.push(entry.change(subject));
            }
        }
        for change in &old {
            self.remove(&change.subject);
        }
        old
    }

    /// Bans that are over take no room.
    fn retire(&mut self, now: SystemTime) {
        for entry in self.entries.values_mut() {
            if entry.is_counted && !entry.is_in_force(now) {
                entry.is_counted = false;
                self.counted = self.counted.saturating_sub(1);
            }
        }
    }

    /// Of those that are no more, no more are remembered than there may be bans. Some go at a
    /// time, since they have to be looked for: first those that were lifted.
    fn forget_oldest(&mut self) {
        const AT_A_TIME: usize = MAX_BANS / 10;
        let entries = self.entries.iter();
        let no_more = entries.filter(|(_, entry)| !entry.is_counted);
        let mut oldest: Vec<_> = no_more
            .map(|(subject, entry)| (entry.ban.is_some(), entry.stamp, subject.clone()))
            .collect();
        oldest.sort_unstable();
        for (_, _, subject) in oldest.iter().take(AT_A_TIME) {
            self.remove(subject);
        }
    }

    fn insert(&mut self, subject: Subject, entry: Entry) {
        if entry.is_counted {
            self.counted = self.counted.saturating_add(1);
        }
        if let Subject::Address(network) = &subject {
            let length = network.prefix_len();
            let count = self.lengths_of(network).entry(length).or_default();
            *count = count.saturating_add(1);
        }
        self.entries.insert(subject, entry);
    }

    fn remove(&mut self, subject: &Subject) {
        let Some(entry) = self.entries.remove(subject) else {
            return;
        };
        if entry.is_counted {
            self.counted = self.counted.saturating_sub(1);
        }
        if let Subject::Address(network) = subject {
            let length = network.prefix_len();
            let lengths = self.lengths_of(network);
            if let Some(count) = lengths.get_mut(&length) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    lengths.remove(&length);
                }
            }
        }
    }

    fn lengths_of(&mut self, network: &IpNet) -> &mut BTreeMap<u8, usize> {
        let [v4, v6] = &mut self.lengths;
        match network {
            IpNet::V4(_) => v4,
            IpNet::V6(_) => v6,
        }
    }
}

impl Entry {
    fn change(&self, subject: &Subject) -> Change {
        Change {
            subject: subject.clone(),
            stamp: Some(self.stamp),
            ban: self.ban.clone(),
        }
    }

    fn is_in_force(&self, now: SystemTime) -> bool {
        self.ban.as_ref().is_some_and(|ban| !ban.is_over(now))
    }

    fn is_old(&self, now: SystemTime) -> bool {
        let ended = match &self.ban {
            None => Some(time(self.stamp)),
            Some(ban) => ban.until,
        };
        let forgotten = ended.and_then(|ended| ended.checked_add(REMEMBERED));
        forgotten.is_some_and(|at| at <= now)
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The moment of a stamp.
fn time(stamp: u64) -> SystemTime {
    moment(Duration::from_millis(stamp)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
