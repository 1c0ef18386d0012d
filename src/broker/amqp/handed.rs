//! Which messages of a feed were handed over already (pure).
//!
//! A queue is consumed with acknowledgements, so when a connection is lost the broker delivers
//! again whatever it has no acknowledgement of: messages that were handed to subscribers, and
//! messages that never arrived here. The first must not be handed over twice, the others must
//! not be lost. AMQP does not tell them apart; what is known is:
//!
//! - redelivered messages come first, in their old order, and are marked;
//! - every message whose acknowledgement was not sent yet is among them, at the end of what was
//!   handed over; some before them may be too, whose acknowledgement did not arrive;
//! - how many messages wait in the queue before the first comes: if one that was handed over
//!   comes again, so do all that were handed over after it.
//!
//! So the redelivered ones are laid over the fingerprints of what was handed over last, and are
//! skipped as far as they fit. Where several ways fit (equal messages), the one that skips least
//! is taken: a message twice is the lesser evil. What cannot be told apart is one case: all
//! acknowledgements were sent, and a message that never arrived here equals exactly one that did,
//! with at least as many waiting in the queue as were handed over since.
//!
//! A broker that was killed knows less: that it delivered its last messages, and that they were
//! acknowledged, it had not written yet. It gives them once more without its mark. Those come first,
//! too, and in their old order; but they may also be new ones that equal them. So they are handed
//! over, with a word that they may be known. Far more can come so than were under way, for the broker
//! writes what it did in large pieces; that is why so many fingerprints are kept ([`LONGEST`]).

use std::collections::VecDeque;

/// So many fingerprints are kept: as many changes of a queue as RabbitMQ leaves unwritten at most
/// (`queue_index_max_journal_entries` of classic queues in 3.10; later ones write sooner). A queue
/// through which so much went takes 256 KiB for them.
const LONGEST: usize = 32_768;

/// What is known of a message that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was handed over.
    Before,
    /// It may have been: it looks like one that was, and comes where that one would.
    Perhaps,
    /// It was not.
    Never,
}

/// The fingerprints of what was handed over last, and the comparison after a reconnection.
pub(super) struct Handed {
    recent: VecDeque<u64>,
    /// How many at the end of `recent` have had no acknowledgement sent.
    unacked: usize,
    /// So many of the last ones can come again with the broker's mark.
    marked: usize,
    capacity: usize,
    /// After a reconnection: the positions in `recent` that the next redelivered message could
    /// be at; the most likely one last.
    candidates: Option<Vec<usize>>,
    /// The first of `recent` that the queue had room for at the reconnection; `None`: nobody knows.
    first_waiting: Option<usize>,
    /// After a reconnection, while messages of before may come without the broker's mark.
    unmarked: Option<Unmarked>,
}

/// Where in `recent` messages may stand that come again without a mark.
struct Unmarked {
    from: usize,
    /// What is behind was handed over since.
    end: usize,
    /// So many messages waited at the reconnection, of which these have not come yet.
    waiting: usize,
}

impl Handed {
    /// `marked`: twice what can be unacknowledged, for acknowledgements can be lost.
    pub(super) fn new(marked: usize) -> Self {
        Self::remembering(marked, LONGEST)
    }

    fn remembering(marked: usize, longest: usize) -> Self {
        Self {
            recent: VecDeque::new(),
            unacked: 0,
            marked,
            capacity: longest.max(marked),
            candidates: None,
            first_waiting: Some(0),
            unmarked: None,
        }
    }

    /// The connection is a new one: the next messages may be old ones. So many wait in the queue
    /// (at least: it may get more meanwhile). `None`: the broker cannot say; then only what surely
    /// comes again is skipped.
    pub(super) fn reconnected(&mut self, waiting: Option<usize>) {
        // The first redelivered message is the oldest one without acknowledgement, or an older
        // one; so it is at the start of the unacknowledged ones, or before.
        let length = self.recent.len();
        let latest = length.saturating_sub(self.unacked);
        let all = length.saturating_sub(self.marked)..length;
        self.candidates = Some(all.take_while(|at| *at <= latest).collect());
        self.first_waiting = waiting.map(|waiting| self.recent.len().saturating_sub(waiting));
        self.unmarked = Some(Unmarked {
            from: 0,
            end: self.recent.len(),
            waiting: waiting.unwrap_or(usize::MAX),
        });
    }

    /// Whether this message was handed over already. If not, it is now, and is remembered.
    pub(super) fn look(&mut self, fingerprint: u64, redelivered: bool) -> Seen {
        let may_be_known = self.may_come_again(fingerprint);
        if redelivered && self.is_repetition(fingerprint) {
            return Seen::Before;
        }
        self.candidates = None;
        if self.recent.len() >= self.capacity {
            self.recent.pop_front();
            if let Some(unmarked) = &mut self.unmarked {
                unmarked.from = unmarked.from.saturating_sub(1);
                unmarked.end = unmarked.end.saturating_sub(1);
            }
        }
        self.recent.push_back(fingerprint);
        self.unacked = self.unacked.saturating_add(1).min(self.recent.len());
        if may_be_known {
            Seen::Perhaps
        } else {
            Seen::Never
        }
    }

    /// Whether a message of before, behind those that came again, looks like this one. Behind the
    /// first that does not, all are new.
    fn may_come_again(&mut self, fingerprint: u64) -> bool {
        let Some(mut unmarked) = self.unmarked.take().filter(|it| it.waiting > 0) else {
            return false;
        };
        let rest = self.recent.iter().take(unmarked.end).skip(unmarked.from);
        let mut rest = rest.enumerate();
        let Some((between, _)) = rest.find(|(_, print)| **print == fingerprint) else {
            return false;
        };
        unmarked.from = unmarked.from.saturating_add(between).saturating_add(1);
        unmarked.waiting = unmarked.waiting.saturating_sub(1);
        self.unmarked = Some(unmarked);
        true
    }

    /// Everything handed over so far has had its acknowledgement sent.
    pub(super) fn acknowledged(&mut self) {
        self.unacked = 0;
    }

    fn is_repetition(&mut self, fingerprint: u64) -> bool {
        let Some(candidates) = &mut self.candidates else {
            return false;
        };
        // The way that skips least is through: what comes now was never here.
        if candidates.last().is_none_or(|at| *at >= self.recent.len()) {
            return false;
        }
        candidates.retain(|at| self.recent.get(*at) == Some(&fingerprint));
        if self.unacked == 0 && candidates.len() > 1 {
            // To skip nothing is one of the ways, and the one that skips least.
            candidates.clear();
        }
        if self.unacked == 0 {
            // Of what would have to come after it, too, there is not so much.
            let first = self.first_waiting.unwrap_or(usize::MAX);
            candidates.retain(|at| *at >= first);
        }
        for at in candidates.iter_mut() {
            *at = at.saturating_add(1);
        }
        !candidates.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands over 0..handed, of which `acked` were acknowledged here and `arrived` at the broker,
    /// and lets the broker deliver again from there up to `sent`.
    fn resume(
        messages: &[u64],
        arrived: usize,
        acked: usize,
        handed: usize,
        sent: usize,
    ) -> Vec<u64> {
        let mut state = Handed::new(messages.len().max(1) * 2);
        let mut got = Vec::new();
        for (index, message) in messages.iter().enumerate().take(handed) {
            assert_eq!(state.look(*message, false), Seen::Never);
            got.push(*message);
            if index + 1 == acked {
                state.acknowledged();
            }
        }
        state.reconnected(Some(messages.len() - arrived));
        for (index, message) in messages.iter().enumerate().skip(arrived) {
            if state.look(*message, index < sent) != Seen::Before {
                got.push(*message);
            }
        }
        got
    }

    /// A quorum queue does not tell how many messages wait: nothing is guessed then.
    #[test]
    fn without_a_count_only_what_surely_comes_again_is_skipped() {
        let resumed = |acked: usize| {
            let mut state = Handed::new(10);
            for number in 0..4 {
                assert_eq!(state.look(number, false), Seen::Never);
                if usize::try_from(number + 1) == Ok(acked) {
                    state.acknowledged();
                }
            }
            state.reconnected(None);
            let all = [2, 3, 4].into_iter();
            all.filter(|number| state.look(*number, true) != Seen::Before)
                .collect::<Vec<_>>()
        };
        assert_eq!(resumed(2), [4], "their acknowledgements were not sent");
        assert_eq!(resumed(4), [2, 3, 4], "they were sent: these may be others");
    }

    #[test]
    fn equal_messages_whose_acknowledgements_arrived_come_once() {
        assert_eq!(resume(&[7; 10], 3, 3, 6, 8), [7; 10]);
    }

    #[test]
    fn equal_messages_are_rather_repeated_than_lost() {
        // The acknowledgements of 1 and 2 were sent, and did not arrive.
        assert_eq!(resume(&[7; 10], 0, 2, 6, 8).len(), 12);
    }

    /// The same text again and again, with others between.
    #[test]
    fn an_equal_message_is_no_repetition_if_those_after_it_do_not_wait() {
        assert_eq!(resume(&[7, 1, 2, 7], 3, 3, 3, 4), [7, 1, 2, 7]);
        assert_eq!(resume(&[7, 1, 2, 7, 8], 3, 3, 3, 4), [7, 1, 2, 7, 8]);
    }

    /// What a broker that was killed gives again as new.
    fn after_a_kill(waiting: Option<usize>, again: &[(u64, bool)]) -> Vec<Seen> {
        let mut state = Handed::new(20);
        for number in 0..8 {
            state.look(number, false);
            if number == 5 {
                state.acknowledged();
            }
        }
        state.reconnected(waiting);
        let look = |(number, redelivered): &(u64, bool)| state.look(*number, *redelivered);
        again.iter().map(look).collect()
    }

    #[test]
    fn what_comes_again_without_a_mark_may_be_known() {
        use Seen::{Before, Never, Perhaps};
        // One that was acknowledged, one that was not, one that was never here, and a new one.
        let again = [(5, false), (6, false), (8, false), (7, false)];
        let seen = [Perhaps, Perhaps, Never, Never];
        assert_eq!(after_a_kill(Some(4), &again), seen);
        assert_eq!(after_a_kill(None, &again), seen);
        // The first of them bear its mark; of the last ones, some were not on the disk.
        let again = [(5, true), (7, false), (8, false)];
        assert_eq!(after_a_kill(Some(3), &again), [Before, Perhaps, Never]);
    }

    #[test]
    fn what_comes_when_nothing_waited_is_new() {
        let again = [(5, false), (6, false)];
        assert_eq!(after_a_kill(Some(0), &again), [Seen::Never; 2]);
        let seen = [Seen::Perhaps, Seen::Never];
        assert_eq!(after_a_kill(Some(1), &again), seen);
    }

    /// It may be cut off again, and forget the oldest meanwhile.
    #[test]
    fn it_is_known_at_the_next_cut_and_with_little_memory() {
        let mut state = Handed::remembering(4, 4);
        for number in 0..4 {
            state.look(number, false);
        }
        state.reconnected(Some(9));
        let seen: Vec<Seen> = (1..6).map(|number| state.look(number, false)).collect();
        assert_eq!(seen[..3], [Seen::Perhaps; 3]);
        assert_eq!(seen[3..], [Seen::Never; 2]);
        state.reconnected(Some(9));
        let mut again = (2..6).map(|number| state.look(number, true));
        assert!(again.all(|seen| seen == Seen::Before));
    }

    /// RabbitMQ had not written that it delivered them, nor that they were acknowledged.
    #[test]
    fn far_more_may_come_again_than_were_under_way() {
        let mut state = Handed::new(20);
        let count = LONGEST as u64;
        for number in 0..count + 5 {
            state.look(number, false);
            state.acknowledged();
        }
        state.reconnected(Some(LONGEST + 1));
        let mut again = (5..count + 5).map(|number| state.look(number, false));
        assert!(again.all(|seen| seen == Seen::Perhaps));
        assert_eq!(state.look(count + 5, false), Seen::Never);
    }

    /// The broker had written that it delivered the first of them, but not that they were
    /// acknowledged: they are too old to be under way, so they may be others that look the same.
    #[test]
    fn what_is_too_old_to_be_under_way_is_not_skipped() {
        let mut state = Handed::new(4);
        for number in 0..20 {
            state.look(number, false);
            state.acknowledged();
        }
        state.reconnected(Some(20));
        let mut again = (0..20).map(|number| state.look(number, number < 10));
        assert!(again.all(|seen| seen == Seen::Perhaps));
        assert_eq!(state.look(20, false), Seen::Never);
    }

    #[test]
    fn what_was_redelivered_but_never_seen_is_handed_over() {
        assert_eq!(resume(&[1, 2, 3, 4], 2, 2, 2, 4), [1, 2, 3, 4]);
    }

    proptest! {
        /// Distinct messages: each comes once, in order, wherever the connection was cut.
        #[test]
        fn distinct_messages_come_once(cuts in prop::array::uniform4(0..40_usize)) {
            let [arrived, acked, handed, sent] = { let mut cuts = cuts; cuts.sort_unstable(); cuts };
            let messages: Vec<u64> = (0..40).collect();
            prop_assert_eq!(resume(&messages, arrived, acked, handed, sent), messages);
        }

        /// Whatever repeats among them: nothing is lost, and if the acknowledgements that were
        /// sent arrived, nothing comes twice.
        #[test]
        fn repeating_messages_are_not_lost(
            messages in prop::collection::vec(0..3_u64, 40),
            cuts in prop::array::uniform4(0..40_usize),
        ) {
            let [arrived, acked, handed, sent] = { let mut cuts = cuts; cuts.sort_unstable(); cuts };
            if acked < handed {
                let got = resume(&messages, arrived, acked, handed, sent);
                prop_assert!(got.len() >= messages.len());
            }
            if acked < handed || sent <= handed {
                let got = resume(&messages, acked, acked, handed, sent);
                prop_assert_eq!(got, messages);
            }
        }
    }
}
