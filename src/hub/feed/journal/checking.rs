//! Cursors of messages that are older than memory: whether each message is still there.
//!
//! A reading costs the broker milliseconds to begin, however short it is. So the cursors of all who
//! come back at a time are checked together, a stretch of the journal at a time.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

use super::{Gap, Journal, ResumeError, reading::LONG};
use crate::{
    broker::{BrokerError, Cursor, JournalAsk, JournalPart, JournalStart},
    hub::feed::Feed,
};

/// Stretches that are read at a time.
const READINGS: usize = 2;
/// The longest stretch, in offsets.
const STRETCH: u64 = 2_000;

type Answer = Result<(), ResumeError>;

/// Cursors that wait to be checked.
pub(super) struct Checks {
    line: Mutex<Line>,
    readings: Semaphore,
}

#[derive(Default)]
struct Line {
    waiting: BTreeMap<u64, Vec<Waiting>>,
    /// The next stretch begins here, or with what comes after: so all have their turn.
    next: u64,
}

struct Waiting {
    cursor: Cursor,
    answer: oneshot::Sender<Answer>,
}

/// What a reading says of a cursor.
enum Verdict {
    Answer(Answer),
    /// Nothing is there; it may be gone, or never have been.
    Missing,
    /// The reading did not get so far.
    Unknown,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            line: Mutex::default(),
            readings: Semaphore::new(READINGS),
        }
    }
}

impl Line {
    fn add(&mut self, waiting: Waiting) {
        let place = self.waiting.entry(waiting.cursor.offset).or_default();
        place.push(waiting);
    }

    /// Those of the next stretch, in order; `None`: nobody waits.
    fn stretch(&mut self) -> Option<Vec<Waiting>> {
        let mut from = self.waiting.range(self.next..);
        let (&start, _) = from.next().or_else(|| self.waiting.first_key_value())?;
        let end = start.saturating_add(STRETCH);
        let mut stretch = self.waiting.split_off(&start);
        let mut beyond = stretch.split_off(&end);
        self.waiting.append(&mut beyond);
        self.next = end;
        // Of some the session has ended.
        let cursors = stretch.into_values().flatten();
        Some(cursors.filter(|one| !one.answer.is_closed()).collect())
    }
}

impl Feed {
    /// Checks that the cursor's message is still there.
    ///
    /// # Errors
    /// It is not, or the broker cannot be asked.
    pub(super) async fn check_cursor(&self, journal: &Journal, cursor: &Cursor) -> Answer {
        let checks = &journal.checks;
        loop {
            let (answer, mut answered) = oneshot::channel();
            let cursor = *cursor;
            checks.line.lock().add(Waiting { cursor, answer });
            let answer = loop {
                let turn = tokio::select! {
                    biased;
                    answer = &mut answered => break answer,
                    turn = checks.readings.acquire() => turn,
                };
                let stretch = checks.line.lock().stretch();
                let Some(stretch) = stretch else {
                    // Somebody else has it in hand.
                    drop(turn);
                    break answered.await;
                };
                self.check_stretch(stretch).await;
            };
            // The session may have ended that had it in hand, or its turn: once more.
            if let Ok(answer) = answer {
                return answer;
            }
        }
    }

    /// Those that the reading does not come to in time are dropped, and have another turn.
    async fn check_stretch(&self, mut stretch: Vec<Waiting>) {
        let begun = Instant::now();
        while let (Some(first), Some(last)) = (stretch.first(), stretch.last()) {
            let (start, until) = (first.cursor.offset, last.cursor.offset);
            let length = until.saturating_sub(start).saturating_add(1);
            let ask = JournalAsk {
                start: JournalStart::Offset(start),
                until,
                most: usize::try_from(length).unwrap_or(usize::MAX),
            };
            let read = self.host.read_journal(&self.id.exchange, ask).await;
            stretch = self.answer(stretch, read).await;
            if begun.elapsed() >= LONG {
                return;
            }
        }
    }

    /// Answers those of whom the reading says something; the others.
    async fn answer(
        &self,
        stretch: Vec<Waiting>,
        read: Result<JournalPart, BrokerError>,
    ) -> Vec<Waiting> {
        let part = match read {
            Ok(part) if part.next > part.first => part,
            Ok(_) => {
                let nothing = BrokerError::Unavailable("nothing came of the journal".into());
                return refuse(stretch, &nothing);
            }
            Err(error) => return refuse(stretch, &error),
        };
        let (mut left, mut first_available) = (Vec::new(), None);
        for one in stretch {
            let answer = match verdict(&part, &one.cursor) {
                Verdict::Answer(answer) => answer,
                Verdict::Unknown => {
                    left.push(one);
                    continue;
                }
                Verdict::Missing => {
                    let first = match first_available {
                        Some(first) => Ok(first),
                        None => self.first_available().await,
                    };
                    match first {
                        Ok(first) => {
                            first_available = Some(first);
                            let gap = match first > one.cursor.offset {
                                true => Gap::Expired,
                                // There is a hole where the message was.
                                false => Gap::Replaced,
                            };
                            Err(ResumeError::Gap(gap, Some(first)))
                        }
                        Err(error) => Err(error.into()),
                    }
                }
            };
            let _ = one.answer.send(answer);
        }
        left
    }
}

/// What a part of the journal, which was asked for from the cursor or from before it on, says of it.
fn verdict(part: &JournalPart, cursor: &Cursor) -> Verdict {
    if cursor.offset < part.first {
        return Verdict::Missing;
    }
    if cursor.offset >= part.next {
        return Verdict::Unknown;
    }
    let messages = &part.messages;
    let index = messages.partition_point(|stored| stored.offset < cursor.offset);
    let is_it = messages
        .get(index)
        .is_some_and(|stored| stored.offset == cursor.offset && cursor.is_of(stored));
    Verdict::Answer(match is_it {
        true => Ok(()),
        false => Err(ResumeError::Gap(Gap::Replaced, None)),
    })
}

fn refuse(stretch: Vec<Waiting>, error: &BrokerError) -> Vec<Waiting> {
    for one in stretch {
        let _ = one.answer.send(Err(error.clone().into()));
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{JournalId, Message, Properties};

    fn waiting(offset: u64) -> (Waiting, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let message = Message::new("e".into(), "k".into(), Properties::default(), "x".into());
        let cursor = Cursor::new(JournalId::new("/", "e"), offset, &message);
        (Waiting { cursor, answer }, answered)
    }

    fn offsets(line: &mut Line) -> Option<Vec<u64>> {
        let stretch = line.stretch()?;
        Some(stretch.iter().map(|one| one.cursor.offset).collect())
    }

    /// Near ones go together, each stretch has its turn, and the first ones come again after the last.
    #[test]
    fn near_cursors_are_checked_together_and_all_have_their_turn() {
        let mut line = Line::default();
        let mut receivers = Vec::new();
        for offset in [9_000, 10, 2_009, 10, 2_010] {
            let (one, receiver) = waiting(offset);
            line.add(one);
            receivers.push(receiver);
        }
        assert_eq!(offsets(&mut line), Some(vec![10, 10, 2_009]));
        let (again, _receiver) = waiting(10);
        line.add(again);
        assert_eq!(offsets(&mut line), Some(vec![2_010]));
        assert_eq!(offsets(&mut line), Some(vec![9_000]));
        assert_eq!(offsets(&mut line), Some(vec![10]));
        assert_eq!(offsets(&mut line), None);
    }

    #[test]
    fn sessions_that_have_ended_are_left_out() {
        let mut line = Line::default();
        let (one, receiver) = waiting(5);
        line.add(one);
        drop(receiver);
        assert_eq!(offsets(&mut line), Some(vec![]));
        assert_eq!(offsets(&mut line), None);
    }
}
