//! Where the consumer of a stream goes on after a lost link (pure).
//!
//! A stream keeps its messages, and no place of its consumers: what a link took along does not come
//! again by itself, and whoever asks as the first time is given all of it again, or none of what came
//! meanwhile. So the gateway asks for the first message that was not settled, and leaves out those
//! behind it that were. If all are settled, it asks for what follows the last one.

use std::collections::BTreeSet;

use crate::broker::{Argument, BrokerError, Consume, OFFSET_HEADER};

/// Said where nothing tells where to go on.
const NOWHERE: &str = "the link was lost before a message of the stream told where to go on";

/// How far a consumer of a stream has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The last offset that was handed over.
    last: Option<u64>,
    /// Those up to it that were not settled when the link was lost, and have not come again yet.
    again: BTreeSet<u64>,
}

/// What a message is to the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    New,
    /// It was handed over before, and not settled.
    Again,
    /// It was settled before.
    Settled,
}

impl Progress {
    /// The message at this offset came.
    pub(super) fn pass(&mut self, offset: u64) -> Standing {
        if !self.again.is_empty() {
            // What stands before it is not there any more.
            self.again = self.again.split_off(&offset);
        }
        if self.again.remove(&offset) {
            return Standing::Again;
        }
        if self.last.is_some_and(|last| offset <= last) {
            return Standing::Settled;
        }
        self.last = Some(offset);
        Standing::New
    }

    /// The link was lost, and these were not settled.
    pub(super) fn lose(&mut self, unsettled: impl IntoIterator<Item = u64>) {
        self.again.extend(unsettled);
    }

    /// The arguments to consume by again.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`]: it was to begin at the end of the stream, and nothing tells where
    /// that was.
    pub(super) fn arguments(
        &self,
        request: &Consume,
    ) -> Result<Vec<(Box<str>, Argument)>, BrokerError> {
        let is_offset = |(name, _): &&(Box<str>, Argument)| **name == *OFFSET_HEADER;
        let mut arguments = request.arguments.clone();
        let follows = self.last.map(|last| last.saturating_add(1));
        let Some(next) = self.again.first().copied().or(follows) else {
            let begin = arguments.iter().find(is_offset).map(|(_, begin)| begin);
            let is_end = match begin {
                None => true,
                Some(Argument::Text(begin)) => &**begin != "first",
                Some(_) => false,
            };
            if is_end && is_stream(request) {
                return Err(BrokerError::Unavailable(NOWHERE.into()));
            }
            return Ok(arguments);
        };
        arguments.retain(|argument| !is_offset(&argument));
        let next = i64::try_from(next).unwrap_or(i64::MAX);
        arguments.push((OFFSET_HEADER.into(), Argument::Number(next)));
        Ok(arguments)
    }
}

/// Whether the client says that it consumes a stream. Messages alone do not tell: in another queue,
/// what came out of a stream elsewhere may have its offset there still.
pub(super) fn is_stream(request: &Consume) -> bool {
    let is_one = |(name, value): &(Box<str>, Argument)| {
        &**name == "x-queue-type" && *value == Argument::Text("stream".into())
    };
    let speaks_of_one = |(name, _): &(Box<str>, Argument)| name.starts_with("x-stream-");
    request.queue.arguments.iter().any(is_one) || request.arguments.iter().any(speaks_of_one)
}

/// RabbitMQ's words for another queue that was asked for by an offset: `PRECONDITION_FAILED - invalid
/// arg 'x-stream-offset' for queue 'q' in vhost '/' of queue type rabbit_classic_queue`.
pub(super) fn is_none(text: &str) -> bool {
    text.contains("invalid arg 'x-stream-offset' for queue")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::QueueSpec;

    fn request(arguments: &[(&str, Argument)]) -> Consume {
        let arguments = arguments.iter();
        let arguments = arguments.map(|(name, value)| (Box::from(*name), value.clone()));
        Consume {
            queue: QueueSpec {
                name: "s".into(),
                durable: true,
                arguments: vec![("x-queue-type".into(), Argument::Text("stream".into()))],
                ..QueueSpec::default()
            },
            declare: true,
            binding: None,
            binding_arguments: Vec::new(),
            prefetch: 10,
            exclusive: false,
            owner: 0,
            arguments: arguments.collect(),
        }
    }

    fn begin(text: &str) -> (&'static str, Argument) {
        (OFFSET_HEADER, Argument::Text(text.into()))
    }

    fn passed(offsets: impl IntoIterator<Item = u64>) -> Progress {
        let mut progress = Progress::default();
        for offset in offsets {
            assert_eq!(progress.pass(offset), Standing::New);
        }
        progress
    }

    fn asked(progress: &Progress, request: &Consume) -> Vec<(Box<str>, Argument)> {
        progress.arguments(request).unwrap()
    }

    #[test]
    fn it_goes_on_behind_the_last_message() {
        let priority = ("x-priority", Argument::Number(1));
        for arguments in [
            vec![priority.clone()],
            vec![begin("first"), priority.clone()],
            vec![begin("next"), priority.clone()],
            vec![(OFFSET_HEADER, Argument::Timestamp(9)), priority.clone()],
        ] {
            let expected = request(&[priority.clone(), (OFFSET_HEADER, Argument::Number(8))]);
            let (progress, request) = (passed([5, 6, 7]), request(&arguments));
            assert_eq!(asked(&progress, &request), expected.arguments);
        }
    }

    #[test]
    fn what_was_not_settled_comes_again_and_nothing_else() {
        let mut progress = passed(5..10);
        progress.lose([6, 8]);
        let request = request(&[]);
        let at = |offset| vec![(OFFSET_HEADER.into(), Argument::Number(offset))];
        assert_eq!(asked(&progress, &request), at(6));
        let standings = [6, 7].map(|offset| progress.pass(offset));
        assert_eq!(standings, [Standing::Again, Standing::Settled]);
        // The next link was lost, too, before all of it had come.
        progress.lose([6]);
        assert_eq!(asked(&progress, &request), at(6));
        let standings = [6, 7, 8, 9, 10].map(|offset| progress.pass(offset));
        assert_eq!(
            standings,
            [
                Standing::Again,
                Standing::Settled,
                Standing::Again,
                Standing::Settled,
                Standing::New
            ]
        );
        assert_eq!(asked(&progress, &request), at(11));
    }

    #[test]
    fn before_its_first_message_only_a_beginning_of_its_own_counts() {
        let progress = Progress::default();
        for begin in [
            begin("first"),
            (OFFSET_HEADER, Argument::Number(3)),
            (OFFSET_HEADER, Argument::Timestamp(9)),
        ] {
            let request = request(&[begin]);
            assert_eq!(asked(&progress, &request), request.arguments);
        }
        for arguments in [vec![], vec![begin("next")], vec![begin("last")]] {
            let nowhere = progress.arguments(&request(&arguments));
            assert!(matches!(nowhere, Err(BrokerError::Unavailable(_))));
        }
        // Of another queue RabbitMQ knows the progress.
        let mut classic = request(&[]);
        classic.queue.arguments.clear();
        assert_eq!(asked(&progress, &classic), []);
    }
}
