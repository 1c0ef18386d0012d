//! A client, its connections at any number of nodes, the store and the broker, with faults in any
//! order: no number is published twice without the mark, and none is lost after its receipt.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stomp_session::Problem;

use crate::messaging::{
    SequenceError,
    line::{Line, Step},
    record::Entry,
};

/// Numbers that the client wants to send.
const ALL: u64 = 12;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The client connects anew; its old connection may not have noticed.
    Connect,
    /// The client connects anew, and its login is given up: its call of the store has stalled.
    GiveUp,
    /// Such a call is done after all.
    ComeLate(u8),
    /// The login has waited long enough.
    Ready,
    /// The client sends its next numbers.
    Send(u8),
    /// A connection takes its next frame.
    Take(u8, Answer),
    /// A message reaches the broker, or is lost on its way.
    Arrive(u8, bool),
    /// The broker's confirm reaches the connection.
    Confirm(u8),
    /// A connection commits.
    Commit(u8, Answer),
    /// A connection is cut; its work goes on.
    Cut(u8),
    /// A connection's node is killed.
    Kill(u8),
    /// A connection that is over, with nothing under way, says so.
    Release(u8),
    /// The store forgets the entry.
    Forget,
}

/// What becomes of a call of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Comes,
    /// It is done, and the answer is lost.
    IsLost,
    /// The call is lost.
    NotDone,
}

struct Connection {
    epoch: u64,
    /// `None` while its login waits.
    line: Option<Line>,
    frames: Vec<u64>,
    is_cut: bool,
    is_broken: bool,
}

struct Message {
    epoch: u64,
    number: u64,
    marked: bool,
    has_arrived: bool,
}

#[derive(Default)]
struct World {
    store: Option<Entry>,
    epochs: u64,
    /// What logins that were given up knew of the entry, their epochs, and the numbers that they told.
    stalled: Vec<(u64, u64, u64)>,
    /// One of them has taken the sequence from the connection that the client has.
    has_stolen: bool,
    connections: Vec<Connection>,
    under_way: Vec<Message>,
    /// How often each number was published without and with the mark.
    published: BTreeMap<u64, (usize, usize)>,
    /// The last number of which the client has a receipt.
    receipted: u64,
    /// The last number that the client has sent on its newest connection.
    sent: u64,
}

/// A call of the store, which may fail in two ways.
fn call<T>(
    store: &mut Option<Entry>,
    answer: Answer,
    step: impl FnOnce(&mut Entry) -> Result<T, SequenceError>,
) -> Result<T, SequenceError> {
    let away = || Err(SequenceError::Unavailable("away".into()));
    if answer == Answer::NotDone {
        return away();
    }
    let done = step(store.as_mut().ok_or(SequenceError::Lost)?);
    if answer == Answer::IsLost {
        away()
    } else {
        done
    }
}

impl World {
    fn at(&self, index: u8) -> Option<usize> {
        (!self.connections.is_empty()).then(|| usize::from(index) % self.connections.len())
    }

    fn connect(&mut self) {
        self.epochs += 1;
        let epoch = self.epochs;
        self.store = Entry::open(self.store, self.epoch(), epoch, self.receipted).ok();
        self.connections.push(Connection {
            epoch,
            line: None,
            frames: Vec::new(),
            is_cut: false,
            is_broken: false,
        });
    }

    /// As the store has it.
    fn epoch(&self) -> u64 {
        self.store.map_or(0, |entry| entry.epoch)
    }

    fn give_up(&mut self) {
        if let Some(newest) = self.connections.last_mut() {
            newest.is_cut = true;
        }
        self.epochs += 1;
        let call = (self.epoch(), self.epochs, self.receipted);
        self.stalled.push(call);
    }

    fn come_late(&mut self, index: u8) {
        if self.stalled.is_empty() {
            return;
        }
        let at = usize::from(index) % self.stalled.len();
        let (known, epoch, told) = self.stalled.remove(at);
        if let Ok(entry) = Entry::open(self.store, known, epoch, told) {
            let here = self.connections.last().filter(|newest| !newest.is_cut);
            self.has_stolen |= here.is_some_and(|newest| newest.epoch == self.epoch());
            self.store = Some(entry);
        }
    }

    fn ready(&mut self) {
        let (Some(newest), Some(entry)) = (self.connections.last_mut(), self.store) else {
            return;
        };
        if newest.line.is_none() && entry.epoch == newest.epoch && !newest.is_cut {
            newest.line = Some(Line::new(&entry));
            // CONNECTED says so.
            self.receipted = self.receipted.max(entry.last);
            self.sent = self.receipted;
        }
    }

    fn send(&mut self, count: u8) {
        let Some(newest) = self.connections.last_mut() else {
            return;
        };
        let Some(line) = &mut newest.line else { return };
        for _ in 0..count {
            if self.sent < ALL && !newest.is_cut {
                self.sent += 1;
                newest.frames.push(self.sent);
                line.foresee(self.sent);
            }
        }
    }

    fn take(&mut self, at: usize, answer: Answer) {
        let Self {
            connections, store, ..
        } = self;
        let connection = &mut connections[at];
        let Some(line) = &mut connection.line else {
            return;
        };
        if connection.frames.is_empty() || connection.is_broken {
            return;
        }
        let number = connection.frames[0];
        let epoch = connection.epoch;
        loop {
            match line.step(number) {
                Step::Later | Step::UnderWay | Step::Known => {}
                Step::Gap { .. } | Step::Failed(_) => connection.is_broken = true,
                Step::Reserve { to } => {
                    match call(store, answer, |entry| entry.reserve(epoch, to)) {
                        Ok(()) => {
                            line.reserved(to);
                            continue;
                        }
                        Err(_) => connection.is_broken = true,
                    }
                }
                Step::Publish { possible_duplicate } => {
                    line.hand(number);
                    self.under_way.push(Message {
                        epoch,
                        number,
                        marked: possible_duplicate,
                        has_arrived: false,
                    });
                }
            }
            connection.frames.remove(0);
            return;
        }
    }

    fn arrive(&mut self, index: u8, is_taken: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let at = usize::from(index) % self.under_way.len();
        let message = &mut self.under_way[at];
        if message.has_arrived {
            return;
        }
        if is_taken {
            message.has_arrived = true;
            let counts = self.published.entry(message.number).or_default();
            match message.marked {
                false => counts.0 += 1,
                true => counts.1 += 1,
            }
            return;
        }
        let Message { epoch, number, .. } = self.under_way.remove(at);
        if let Some(line) = self.line(epoch) {
            line.fail(number, Problem::Overloaded);
        }
    }

    fn line(&mut self, epoch: u64) -> Option<&mut Line> {
        let mut connections = self.connections.iter_mut();
        connections.find(|one| one.epoch == epoch)?.line.as_mut()
    }

    fn confirm(&mut self, index: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let at = usize::from(index) % self.under_way.len();
        if self.under_way[at].has_arrived {
            let Message { epoch, number, .. } = self.under_way.remove(at);
            if let Some(line) = self.line(epoch) {
                line.confirmed(number);
            }
        }
    }

    fn commit(&mut self, at: usize, answer: Answer) {
        let is_newest = at + 1 == self.connections.len();
        let Self {
            connections,
            store,
            receipted,
            ..
        } = self;
        let connection = &mut connections[at];
        let Some(line) = &mut connection.line else {
            return;
        };
        let Some((from, to)) = line.begin_commit() else {
            return;
        };
        let epoch = connection.epoch;
        let outcome = call(store, answer, |entry| {
            entry.commit(epoch, from, to).map(|()| entry.last)
        });
        match outcome {
            Ok(last) => line.end_commit(Some(last)),
            Err(_) => {
                line.end_commit(None);
                if connection.is_cut {
                    return;
                }
                line.stop(Problem::Overloaded);
                connection.is_broken = true;
            }
        }
        if is_newest && !connection.is_cut {
            *receipted = line.last().max(*receipted);
        }
    }

    fn release(&mut self, at: usize) {
        let Connection {
            epoch,
            line,
            is_cut,
            is_broken,
            frames,
        } = &mut self.connections[at];
        let epoch = *epoch;
        let is_over = *is_cut || *is_broken;
        let is_under_way = self.under_way.iter().any(|message| message.epoch == epoch);
        let Some(line) = line else { return };
        if is_over && !is_under_way && (frames.is_empty() || *is_broken) {
            let handed = line.handed();
            let _ = call(&mut self.store, Answer::Comes, |entry| {
                entry.release(epoch, handed);
                Ok(())
            });
            self.connections.remove(at);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Connect => self.connect(),
            Event::GiveUp => self.give_up(),
            Event::ComeLate(index) => self.come_late(index),
            Event::Ready => self.ready(),
            Event::Send(count) => self.send(count),
            Event::Take(index, answer) => {
                if let Some(at) = self.at(index) {
                    self.take(at, answer);
                }
            }
            Event::Arrive(index, is_taken) => self.arrive(index, is_taken),
            Event::Confirm(index) => self.confirm(index),
            Event::Commit(index, answer) => {
                if let Some(at) = self.at(index) {
                    self.commit(at, answer);
                }
            }
            Event::Cut(index) => {
                if let Some(at) = self.at(index) {
                    self.connections[at].is_cut = true;
                }
            }
            Event::Kill(index) => {
                if let Some(at) = self.at(index) {
                    self.connections.remove(at);
                }
            }
            Event::Release(index) => {
                if let Some(at) = self.at(index) {
                    self.release(at);
                }
            }
            // Without a receipt, the client has nothing to say that the store has forgotten.
            Event::Forget if self.receipted > 0 => self.store = None,
            Event::Forget => {}
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert!(!self.has_stolen, "a late login has the sequence");
        for number in 1..=ALL {
            let (plain, marked) = self.published.get(&number).copied().unwrap_or_default();
            prop_assert!(plain <= 1, "{number} was published {plain} times unmarked");
            let has_it = plain + marked > 0;
            prop_assert!(number > self.receipted || has_it, "{number} is lost");
        }
        Ok(())
    }

    /// Nothing fails any more.
    fn recover(&mut self) {
        self.connect();
        self.ready();
        self.send(u8::MAX);
        let newest = u8::try_from(self.connections.len() - 1).unwrap();
        for _ in 0..ALL {
            self.happen(Event::Take(newest, Answer::Comes));
        }
        for index in (0..self.under_way.len()).rev() {
            self.arrive(u8::try_from(index).unwrap(), true);
        }
        while !self.under_way.is_empty() {
            self.confirm(0);
        }
        self.commit(usize::from(newest), Answer::Comes);
    }
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        8 => Just(Answer::Comes),
        1 => Just(Answer::IsLost),
        1 => Just(Answer::NotDone),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let any = any::<u8>;
    prop_oneof![
        3 => Just(Event::Connect),
        1 => Just(Event::GiveUp),
        2 => any().prop_map(Event::ComeLate),
        5 => Just(Event::Ready),
        6 => (1_u8..5).prop_map(Event::Send),
        12 => (any(), answers()).prop_map(|(at, answer)| Event::Take(at, answer)),
        10 => (any(), prop::bool::weighted(0.9)).prop_map(|(at, taken)| Event::Arrive(at, taken)),
        10 => any().prop_map(Event::Confirm),
        8 => (any(), answers()).prop_map(|(at, answer)| Event::Commit(at, answer)),
        2 => any().prop_map(Event::Cut),
        1 => any().prop_map(Event::Kill),
        2 => any().prop_map(Event::Release),
        1 => Just(Event::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_lost_and_nothing_comes_twice_unmarked(
        events in prop::collection::vec(events(), 1..200),
    ) {
        let mut world = World::default();
        for event in events {
            world.happen(event);
            world.check()?;
        }
        world.recover();
        world.check()?;
        prop_assert_eq!(world.receipted, ALL, "the client comes to its end");
    }
}
