//! The promise to a subscriber of a journal: from its place on each message once, in order, over all its
//! sessions. If that cannot be it is told of a gap, and of none where nothing is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use stomp_grammar::Frame;
use tokio::time::Instant;

use super::{
    Session, What,
    subscription::{Mode, Source, Subscription},
};
use crate::{broker::View, ledger::LOG, world::PATTERNS};

/// A subscription that had so many may have more unacknowledged than the gateway gives of the past: those
/// behind an unacknowledged one count, too.
const MANY: usize = 400;

/// How far a client has come, over all its sessions.
#[derive(Debug, Default)]
pub(super) struct Bookmarks {
    /// By pattern, the message whose cursor it remembers.
    own: BTreeMap<&'static str, u64>,
    /// By user and pattern, what the gateway keeps for it.
    stored: BTreeMap<(String, &'static str), Mark>,
}

/// What the gateway must remember of a client that acknowledges.
#[derive(Debug)]
struct Mark {
    /// From this place in the ledger on all must come, but for what was acknowledged, or may have been.
    from: usize,
    acknowledged: BTreeSet<usize>,
    /// In which stream it is, and an offset that is not behind it.
    generation: u64,
    offset: u64,
    /// A gap was told, which is told again until the client has acknowledged what comes behind it.
    is_behind_gap: bool,
}

/// A message that waits to be acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Unsettled {
    pub(super) subscription: u64,
    ack: String,
    place: usize,
}

/// How a subscription to the journal began, and what came of that.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pattern: &'static str,
    wish: Wish,
    on_gap: OnGap,
    /// How the journal was when the client asked.
    view: View,
    /// Its RECEIPT came.
    is_told: bool,
    /// From this place in the ledger on, all comes that the journal had. `None`: it is not known yet, or
    /// only what is new comes.
    floor: Option<usize>,
    /// The places of what came before the RECEIPT.
    early: BTreeSet<usize>,
    /// How many came, and the last one.
    heard: usize,
    newest: Option<u64>,
    /// The place of the message whose cursor the RECEIPT told.
    told: Option<usize>,
}

/// From where on a client wants messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    New,
    After(u64),
    First,
    Ago(Duration),
    Last(usize),
    /// From where it has acknowledged up to.
    Stored(Mode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnGap {
    Fail,
    Next,
    Earliest,
}

impl Past {
    fn is_stored(&self) -> bool {
        matches!(self.wish, Wish::Stored(_))
    }

    /// From this offset on it may be read for. In memory there may be more than the journal keeps.
    fn earliest(&self) -> u64 {
        match self.wish {
            Wish::Ago(_) | Wish::Last(_) => 0,
            _ => self.view.first,
        }
    }

    /// Whether it is over if anything is missing: then nothing is, in front of what comes.
    fn is_strict(&self) -> bool {
        matches!(self.wish, Wish::After(_)) && self.on_gap == OnGap::Fail
    }
}

/// What the client asks for.
impl Session {
    pub(super) fn subscribe_to_journal(&mut self) {
        let pattern = *self.draws.pick(&PATTERNS);
        let wish = self.wish(pattern);
        let ways = [OnGap::Fail, OnGap::Fail, OnGap::Next, OnGap::Earliest];
        let on_gap = *self.draws.pick(&ways);
        let headers = self.headers(wish, on_gap);
        let view = self.world.broker.feeds.journal().view();
        let floor = match wish {
            Wish::After(id) => self.behind(id),
            Wish::Stored(_) => self.owed(pattern, view),
            _ => None,
        };
        let past = Past {
            pattern,
            wish,
            on_gap,
            view,
            is_told: false,
            floor: floor.filter(|_| on_gap == OnGap::Fail),
            early: BTreeSet::new(),
            heard: 0,
            newest: None,
            told: None,
        };
        let destination = format!("/exchange/{LOG}/{pattern}");
        self.open(&destination, Source::Journal(past), &headers);
    }

    fn wish(&mut self, pattern: &'static str) -> Wish {
        let known = self.bookmarks.own.get(pattern).copied();
        match self.draws.below(20) {
            0..=9 => known.map_or(Wish::New, Wish::After),
            10 => Wish::First,
            11 | 12 => Wish::Ago(Duration::from_secs(self.draws.between(1, 90))),
            13 => Wish::Last(usize::try_from(self.draws.between(1, 20)).unwrap()),
            // Two at a time would share a bookmark.
            14..=18 if self.stored.insert(pattern) => {
                Wish::Stored(*self.draws.pick(&[Mode::Cumulative, Mode::Individual]))
            }
            _ => Wish::New,
        }
    }

    fn headers(&mut self, wish: Wish, on_gap: OnGap) -> String {
        let asked = match wish {
            Wish::New => String::new(),
            Wish::After(id) => {
                let kept = self.world.broker.feeds.journal().kept(id);
                format!("resume-after:{}\n", kept.unwrap().cursor)
            }
            Wish::First => "since:first\n".to_owned(),
            Wish::Ago(ago) => format!("since:{}s\n", ago.as_secs()),
            Wish::Last(count) => format!("last:{count}\n"),
            Wish::Stored(Mode::Cumulative) => "resume-after:stored\nack:client\n".to_owned(),
            Wish::Stored(_) => "resume-after:stored\nack:client-individual\n".to_owned(),
        };
        let on_gap = match on_gap {
            _ if wish == Wish::New => "",
            OnGap::Fail => "",
            OnGap::Next => "resume-gap:next\n",
            OnGap::Earliest => "resume-gap:earliest\n",
        };
        let may_be_delta = !matches!(wish, Wish::Stored(_));
        let delta = match may_be_delta && self.draws.percent(15) {
            true => "delta:fossil\n",
            false => "",
        };
        format!("{asked}{on_gap}{delta}")
    }

    /// Acknowledges messages of the journal. False if there are none to be.
    pub(super) fn acknowledge(&mut self) -> bool {
        if self.unsettled.is_empty() {
            return false;
        }
        let Unsettled {
            subscription,
            ack,
            place,
        } = self.draws.pick(&self.unsettled).clone();
        let its = self.subscriptions.get(&subscription);
        // Before the RECEIPT the frame would only wait.
        let past = its
            .filter(|it| it.since.is_some())
            .and_then(Subscription::past);
        let Some((pattern, wish)) = past.map(|past| (past.pattern, past.wish)) else {
            return false;
        };
        let is_meant = |other: &Unsettled| match wish {
            Wish::Stored(Mode::Cumulative) => {
                other.subscription == subscription && other.place <= place
            }
            _ => other.ack == ack,
        };
        let meant: Vec<usize> = self
            .unsettled
            .iter()
            .filter(|other| is_meant(other))
            .map(|other| other.place)
            .collect();
        self.unsettled.retain(|other| !is_meant(other));
        let subject = (self.user.clone(), pattern);
        if let Some(mark) = self.bookmarks.stored.get_mut(&subject) {
            mark.acknowledged.extend(meant);
        }
        // Either is an end of it: there is no queue that could have it back.
        let command = if self.draws.percent(10) {
            "NACK"
        } else {
            "ACK"
        };
        let receipt = self.expect(What::Acknowledged);
        self.send(&format!("{command}\nid:{ack}\n{receipt}\n\0"));
        true
    }
}

/// Where it stands.
impl Session {
    /// The place behind a message.
    fn behind(&self, id: u64) -> Option<usize> {
        Some(self.world.ledger.place(id)? + 1)
    }

    /// The messages for a pattern that the journal had, at these places.
    fn kept_between(&self, pattern: &str, places: std::ops::Range<usize>) -> Vec<u64> {
        let journal = self.world.broker.feeds.journal();
        let mut ids = self.world.ledger.between(LOG, pattern, places);
        ids.retain(|id| journal.kept(*id).is_some());
        ids
    }

    fn mark(&self, pattern: &'static str) -> Option<&Mark> {
        let subject = (self.user.clone(), pattern);
        self.bookmarks.stored.get(&subject)
    }

    /// The place of the first message that the client has not acknowledged. `None`: its bookmark is not
    /// known, or of another stream. (One that is a mere offset proves nothing, so nothing is sure then.)
    fn owed(&self, pattern: &'static str, view: View) -> Option<usize> {
        let mark = self.mark(pattern)?;
        if mark.generation != view.generation {
            return None;
        }
        let ledger = &self.world.ledger;
        let ids = self.kept_between(pattern, mark.from..ledger.len());
        let mut places = ids.iter().filter_map(|id| ledger.place(*id));
        let first = places.find(|place| !mark.acknowledged.contains(place));
        Some(first.unwrap_or_else(|| ledger.len()))
    }

    /// The gateway keeps from now on where the client is.
    fn set_mark(&mut self, past: &Past, from: Option<usize>, offset: u64, is_behind_gap: bool) {
        let now = self.world.broker.feeds.journal().view();
        let is_same = now.generation == past.view.generation;
        let mark = Mark {
            from: from.unwrap_or_else(|| self.world.ledger.len()),
            acknowledged: BTreeSet::new(),
            generation: past.view.generation,
            offset: if is_same { self.proof(offset) } else { 0 },
            is_behind_gap,
        };
        let subject = (self.user.clone(), past.pattern);
        self.bookmarks.stored.insert(subject, mark);
    }

    /// The offset of the message by which the gateway knows that place: the last one before it, which
    /// may expire while what comes then is there.
    fn proof(&self, offset: u64) -> u64 {
        let journal = self.world.broker.feeds.journal();
        journal.newest_before(offset).unwrap_or(offset)
    }

    /// Whether something may be missing behind the place where it wanted to begin.
    fn may_lack(&self, past: &Past) -> bool {
        let journal = self.world.broker.feeds.journal();
        let now = journal.view();
        let is_gone =
            |generation: u64, offset: u64| generation != now.generation || offset < now.first;
        match past.wish {
            Wish::New => false,
            Wish::After(id) => {
                let kept = journal.kept(id);
                kept.is_none_or(|kept| is_gone(kept.generation, kept.offset))
            }
            Wish::Stored(_) => {
                let mark = self.mark(past.pattern);
                mark.is_none_or(|mark| mark.is_behind_gap || is_gone(mark.generation, mark.offset))
            }
            // They ask for whatever is there: before the first message, or the RECEIPT, nothing is
            // missing. What comes then may expire before it is read.
            Wish::First | Wish::Ago(_) | Wish::Last(_) => {
                let newest = past.newest.and_then(|id| journal.kept(id));
                newest.map_or_else(
                    || past.is_told && is_gone(past.view.generation, past.earliest()),
                    |kept| is_gone(kept.generation, kept.offset + 1),
                )
            }
        }
    }

    /// The messages before that place that should have come behind the last one.
    fn lacking(&self, subscription: &Subscription, past: &Past, until: usize) -> Vec<u64> {
        let begins = [past.floor, subscription.since];
        let Some(begin) = begins.into_iter().flatten().min() else {
            return Vec::new();
        };
        let from = subscription.last.map_or(begin, |last| begin.max(last + 1));
        if from >= until {
            return Vec::new();
        }
        let (ledger, journal) = (&self.world.ledger, self.world.broker.feeds.journal());
        let mut ids = ledger.between(LOG, past.pattern, from..until);
        ids.retain(|id| {
            let place = ledger.place(*id);
            let is_behind = |begin: Option<usize>| begin.is_some() && place >= begin;
            // What is published after the RECEIPT has to be in the journal, too.
            is_behind(subscription.since) || is_behind(past.floor) && journal.kept(*id).is_some()
        });
        ids
    }

    /// All is quiet: what should have come by now, by subscription.
    pub(super) fn lacking_of_journal(&self) -> Vec<(u64, Vec<u64>)> {
        let open = self.subscriptions.iter();
        let open = open.filter(|(_, it)| !it.is_ending && it.since.is_some());
        let lacking = open.filter_map(|(name, it)| {
            let past = it.past()?;
            // Its client acknowledges nothing any more.
            if past.is_stored() && past.heard >= MANY {
                return None;
            }
            Some((*name, self.lacking(it, past, self.world.ledger.len())))
        });
        lacking.collect()
    }

    /// Whether it may have more unacknowledged than is good for it.
    pub(super) fn holds_many(&self) -> bool {
        let mut pasts = self.subscriptions.values().filter_map(Subscription::past);
        pasts.any(|past| past.is_stored() && past.heard >= MANY)
    }
}

/// What it hears.
impl Session {
    /// The RECEIPT of a subscription, which may be to a journal.
    pub(super) fn hear_begin(&mut self, name: u64, frame: &Frame) {
        let Some(mut past) = self
            .subscriptions
            .get(&name)
            .and_then(Subscription::past)
            .cloned()
        else {
            return;
        };
        let floor = match frame.header("resume") {
            None if past.wish == Wish::New => None,
            Some("first") if past.is_stored() => {
                if self.mark(past.pattern).is_some() {
                    self.violate(format!("the bookmark of subscription {name} was forgotten"));
                }
                self.set_mark(&past, None, past.view.read, false);
                None
            }
            Some("exact") if past.wish != Wish::New => self.hear_exact(name, &past),
            Some("gap") if past.wish != Wish::New => self.hear_gap(name, &past, frame),
            told => {
                let wish = past.wish;
                self.violate(format!(
                    "subscription {name} ({wish:?}) begins so: {told:?}"
                ));
                None
            }
        };
        self.check_early(name, &past, floor);
        past.floor = past.floor.or(floor);
        self.check_missed(name, &past, frame);
        self.hear_cursor(name, &mut past, frame);
        past.is_told = true;
        if let Some(subscription) = self.subscriptions.get_mut(&name) {
            subscription.source = Source::Journal(past);
        }
    }

    /// Nothing is missing, it says: the place from which on all comes.
    fn hear_exact(&mut self, name: u64, past: &Past) -> Option<usize> {
        let ledger = &self.world.ledger;
        let journal = self.world.broker.feeds.journal();
        let first = |ids: &[u64]| ledger.place(*ids.first()?);
        match past.wish {
            Wish::New => None,
            Wish::After(id) => {
                let kept = journal.kept(id);
                if kept.is_none_or(|kept| kept.generation != past.view.generation) {
                    self.violate(format!(
                        "subscription {name} goes on after m{id}, which is of another journal"
                    ));
                }
                self.behind(id)
            }
            Wish::First => first(&journal.there(None)),
            // The gateway counts from an earlier moment.
            Wish::Ago(ago) => first(&journal.there(Instant::now().checked_sub(ago))),
            // It is not looked for the last ones for long.
            Wish::Last(_) if self.world.is_troubled() => None,
            Wish::Last(count) => {
                let mut ids = journal.there(None);
                ids.retain(|id| ledger.is_for(*id, LOG, past.pattern));
                let others = ids.len().saturating_sub(count);
                first(&ids[others..])
            }
            Wish::Stored(_) => {
                let owed = self.owed(past.pattern, past.view);
                let subject = (self.user.clone(), past.pattern);
                if owed.is_none() {
                    // An earlier session may have begun it, and heard of nothing.
                    self.set_mark(past, None, 0, false);
                } else if let Some(mark) = self.bookmarks.stored.get_mut(&subject) {
                    mark.is_behind_gap = false;
                }
                owed
            }
        }
    }

    /// Something is missing, it says: the place from which on all comes, if it is not only what is new.
    fn hear_gap(&mut self, name: u64, past: &Past, frame: &Frame) -> Option<usize> {
        let journal = self.world.broker.feeds.journal();
        let is_asked = matches!(past.wish, Wish::After(_) | Wish::Stored(_));
        let reason = frame.header("reason").unwrap_or_default();
        if !is_asked || past.on_gap == OnGap::Fail || !self.may_lack(past) {
            self.violate(format!(
                "subscription {name} ({:?}) has a gap for nothing: {reason}",
                past.wish
            ));
        }
        if let Wish::After(id) = past.wish {
            let kept = journal.kept(id);
            let generation = kept.map(|kept| kept.generation);
            if generation == Some(journal.view().generation) && reason != "expired" {
                self.violate(format!(
                    "subscription {name} is told that its journal is {reason}"
                ));
            }
        }
        let floor = match past.on_gap {
            OnGap::Earliest => {
                let there = journal.there(None);
                there.first().and_then(|id| self.world.ledger.place(*id))
            }
            OnGap::Fail | OnGap::Next => None,
        };
        let offset = match past.on_gap {
            OnGap::Earliest => past.view.first,
            OnGap::Fail | OnGap::Next => past.view.read,
        };
        if past.is_stored() {
            self.set_mark(past, floor, offset, true);
        }
        floor
    }

    /// What came before the RECEIPT has no holes, from the place on that is known now.
    fn check_early(&mut self, name: u64, past: &Past, floor: Option<usize>) {
        let last = self.subscriptions.get(&name).and_then(|it| it.last);
        let (None, Some(floor), Some(last)) = (past.floor, floor, last) else {
            return;
        };
        if floor > last {
            return;
        }
        let mut missing = self.kept_between(past.pattern, floor..last + 1);
        let ledger = &self.world.ledger;
        let came = |id: u64| ledger.place(id).is_some_and(|it| past.early.contains(&it));
        missing.retain(|id| !came(*id));
        self.miss(name, &missing);
    }

    /// The number of messages that it had missed.
    fn check_missed(&self, name: u64, past: &Past, frame: &Frame) {
        let is_exact = frame.header("resume") == Some("exact");
        let missed = frame.header("missed");
        let missed: Option<usize> = missed.and_then(|text| text.parse().ok());
        let (Wish::After(_), Some(floor), Some(missed), true) =
            (past.wish, past.floor, missed, is_exact)
        else {
            return;
        };
        let all = self.kept_between(past.pattern, floor..self.world.ledger.len());
        let journal = self.world.broker.feeds.journal();
        // The gateway had read them when it was asked.
        let surely = all.iter().filter_map(|id| journal.kept(*id));
        let surely = surely
            .filter(|kept| kept.generation == past.view.generation && kept.offset < past.view.read);
        let (least, most) = (surely.count(), all.len());
        if missed < least || missed > most {
            self.violate(format!(
                "subscription {name} had missed {missed}, it says, and {least} to {most} there were"
            ));
        }
    }

    /// By which message it will come back.
    fn hear_cursor(&mut self, name: u64, past: &mut Past, frame: &Frame) {
        let mut known = past.newest;
        if let Some(cursor) = frame.header("cursor") {
            let ledger = &self.world.ledger;
            let id = self.world.broker.feeds.journal().by_cursor(cursor);
            let id = id.filter(|id| ledger.is_for(*id, LOG, past.pattern));
            let Some(id) = id else {
                return self.violate(format!("subscription {name} is told a strange {cursor}"));
            };
            past.told = ledger.place(id);
            let is_behind = match past.wish {
                Wish::After(start) => ledger.place(start) <= past.told,
                _ => true,
            };
            known = known.or(is_behind.then_some(id));
        }
        if let (Some(id), false) = (known, past.is_stored()) {
            self.bookmarks.own.insert(past.pattern, id);
        }
    }

    /// A message of the journal.
    pub(super) fn hear_journal(&mut self, name: u64, id: u64, frame: &Frame) {
        let Some(subscription) = self.subscriptions.get(&name) else {
            return;
        };
        let Some(past) = subscription.past() else {
            return;
        };
        let (ledger, journal) = (&self.world.ledger, self.world.broker.feeds.journal());
        let (Some(place), Some(kept)) = (ledger.place(id), journal.kept(id)) else {
            return self.violate(format!("m{id} came, which the journal never had"));
        };
        if !ledger.is_for(id, LOG, past.pattern) {
            return self.violate(format!("m{id} is not for {LOG}/{}", past.pattern));
        }
        if frame.header("cursor") != Some(&*kept.cursor) {
            self.violate(format!("m{id} has not the cursor {}", kept.cursor));
        }
        let start = match past.wish {
            Wish::After(start) => ledger.place(start),
            _ => None,
        };
        for (what, before) in [
            ("the last one", subscription.last),
            ("where it began", start),
            ("its RECEIPT's cursor", past.told),
        ] {
            if before.is_some_and(|before| place <= before) {
                return self.violate(format!(
                    "m{id} came late, or twice, on subscription {name}: behind {what}"
                ));
            }
        }
        let lacking = self.lacking(subscription, past, place);
        self.note_journal(name, (id, place), frame);
        self.miss(name, &lacking);
    }

    fn note_journal(&mut self, name: u64, (id, place): (u64, usize), frame: &Frame) {
        let Some(subscription) = self.subscriptions.get_mut(&name) else {
            return;
        };
        let is_open = subscription.since.is_some();
        subscription.last = Some(place);
        let is_ending = subscription.is_ending;
        let Source::Journal(past) = &mut subscription.source else {
            return;
        };
        past.newest = Some(id);
        past.heard += 1;
        if !is_open {
            past.early.insert(place);
        }
        if past.is_stored() {
            let Some(ack) = frame.header("ack") else {
                return self.violate(format!("m{id} cannot be acknowledged"));
            };
            if !is_ending {
                self.unsettled.push(Unsettled {
                    subscription: name,
                    ack: ack.to_owned(),
                    place,
                });
            }
        } else if is_open || past.is_strict() {
            self.bookmarks.own.insert(past.pattern, id);
        }
    }

    /// ERROR says that something is missing. Whether that may be; the client begins anew then.
    pub(super) fn hear_lack(&mut self) -> bool {
        let pasts = self.subscriptions.values().filter_map(Subscription::past);
        let lacking: Vec<(&'static str, Wish)> = pasts
            .filter(|past| self.may_lack(past))
            .map(|past| (past.pattern, past.wish))
            .collect();
        for (pattern, wish) in &lacking {
            if matches!(wish, Wish::After(_)) {
                self.bookmarks.own.remove(pattern);
            }
        }
        !lacking.is_empty()
    }
}
