//! Where the consumer of a stream goes on after a lost link (pure).
//!
//! A stream keeps its messages, and no place of its consumers: what a link took along does not come
//! again by itself, and whoever asks as the first time is given all of it again, or none of what came
//! meanwhile. So the gateway asks for the first message that was not settled, and leaves out those
//! behind it that were. If all are settled, it asks for what follows the last one.

use std::collections::BTreeSet;

use crate::broker::{Argument, BrokerError, Consume, OFFSET_HEADER, QueueSpec};

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

/// Whether a consumer's queue is a stream.
///
/// To give a stream's message back is an acknowledgement for RabbitMQ 4; RabbitMQ 3.10 closes the
/// connection, which all consumers share. In another queue, an acknowledgement in its place would lose
/// the message. So this has to be certain: a client may say what it likes of a queue, and any publisher
/// can set the header with the offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// The broker has to be asked: [`question`].
    #[default]
    Unproved,
    Stream,
    Other,
}

impl Kind {
    /// What is known once the broker has accepted the request.
    pub(super) fn accepted(request: &Consume) -> Self {
        let QueueSpec {
            durable,
            exclusive,
            auto_delete,
            arguments,
            ..
        } = &request.queue;
        // It refuses this for other queues.
        let has_offset = |(name, _): &(Box<str>, Argument)| **name == *OFFSET_HEADER;
        if request.arguments.iter().any(has_offset) {
            return Self::Stream;
        }
        match request.declare {
            true if arguments.iter().any(says_stream) => Self::Stream,
            // No stream is so.
            true if !durable || *exclusive || *auto_delete => Self::Other,
            // A virtual host may have another default than classic queues.
            _ => Self::Unproved,
        }
    }
}

/// Asks by its answer whether a queue is a stream: RabbitMQ refuses it for others ([`is_none`]), before
/// it looks at anything else.
pub(super) fn question(queue: &str) -> Consume {
    Consume {
        queue: QueueSpec {
            name: queue.into(),
            ..QueueSpec::default()
        },
        declare: false,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: 1,
        exclusive: false,
        owner: 0,
        arguments: vec![(OFFSET_HEADER.into(), Argument::Text("next".into()))],
    }
}

fn says_stream((name, value): &(Box<str>, Argument)) -> bool {
    &**name == "x-queue-type" && *value == Argument::Text("stream".into())
}

/// Whether the client says that it consumes a stream. Messages alone do not tell: in another queue,
/// what came out of a stream elsewhere may have its offset there still.
pub(super) fn is_stream(request: &Consume) -> bool {
    let speaks_of_one = |(name, _): &(Box<str>, Argument)| name.starts_with("x-stream-");
    request.queue.arguments.iter().any(says_stream) || request.arguments.iter().any(speaks_of_one)
}

/// RabbitMQ's words for another queue that was asked for by an offset: `PRECONDITION_FAILED - invalid
/// arg 'x-stream-offset' for queue 'q' in vhost '/' of queue type rabbit_classic_queue`.
pub(super) fn is_none(text: &str) -> bool {
    text.contains("invalid arg 'x-stream-offset' for queue")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    #[test]
    fn only_what_the_broker_has_accepted_proves_a_stream() {
        let declared = request(&[]);
        assert_eq!(Kind::accepted(&declared), Kind::Stream);
        // A client may say of a queue that is there whatever it likes.
        let said = Consume {
            declare: false,
            ..request(&[("x-stream-filter", Argument::Text("a".into()))])
        };
        assert_eq!(Kind::accepted(&said), Kind::Unproved);
        let offset = Consume {
            declare: false,
            ..request(&[begin("first")])
        };
        assert_eq!(Kind::accepted(&offset), Kind::Stream);
        assert_eq!(Kind::accepted(&question("s")), Kind::Stream);

        let plain = |durable: bool, exclusive: bool, auto_delete: bool| Consume {
            queue: QueueSpec {
                durable,
                exclusive,
                auto_delete,
                arguments: Vec::new(),
                ..request(&[]).queue
            },
            ..request(&[])
        };
        assert_eq!(Kind::accepted(&plain(true, false, false)), Kind::Unproved);
        for passing in [
            plain(false, false, false),
            plain(true, true, false),
            plain(true, false, true),
        ] {
            assert_eq!(Kind::accepted(&passing), Kind::Other);
        }
    }
}
