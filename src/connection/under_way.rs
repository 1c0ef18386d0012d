//! Messages that were handed to the link, and are not on the socket yet: for the metrics of their
//! delay.

use crate::{
    broker::Message,
    telemetry::{self, Journey, TRACEPARENT, TraceSpan, Traced},
};

/// So many are measured at a time: all of one turn, but not all that wait for a client which does
/// not read.
const MOST: usize = 64;

/// The messages in their order. Empty, it holds no memory beyond itself.
#[derive(Default)]
pub(super) struct UnderWay(Vec<Handed>);

struct Handed {
    /// The bytes that have to be written until it is: its own, and those before it.
    bytes: usize,
    journey: Journey,
    /// Only if its trace is recorded.
    span: Option<TraceSpan>,
}

impl UnderWay {
    /// The link has taken a message, and now so many bytes are pending.
    pub(super) fn add(&mut self, message: &Message, session: &str, pending: usize) {
        if self.0.len() < MOST {
            self.0.push(Handed {
                bytes: pending,
                journey: Journey {
                    read_at: message.read_at,
                    sent_at: message.aged_from(),
                },
                span: span(message, session),
            });
        }
    }

    /// So many more bytes are on the socket.
    pub(super) fn written(&mut self, bytes: usize) {
        let written = self.take_written(bytes);
        written.all_written();
    }

    /// Everything is on the socket.
    pub(super) fn all_written(self) {
        telemetry::delivered(self.0.iter().map(|handed| handed.journey));
        for span in self.0.into_iter().filter_map(|handed| handed.span) {
            span.end(None);
        }
    }

    /// The messages that are complete by that.
    fn take_written(&mut self, bytes: usize) -> Self {
        for handed in &mut self.0 {
            handed.bytes = handed.bytes.saturating_sub(bytes);
        }
        let waiting = self.0.partition_point(|handed| handed.bytes == 0);
        let waiting = self.0.split_off(waiting);
        Self(std::mem::replace(&mut self.0, waiting))
    }
}

fn span(message: &Message, session: &str) -> Option<TraceSpan> {
    if !telemetry::are_traced() {
        return None;
    }
    let mut span = TraceSpan::begin(Traced::Deliver, message.header(TRACEPARENT))?;
    span.began_at(message.read_at);
    span.note("messaging.destination.name", &message.exchange);
    span.note(
        "messaging.rabbitmq.destination.routing_key",
        &message.routing_key,
    );
    span.note("session.id", session);
    Some(span)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::broker::Properties;

    fn message() -> Message {
        Message::new("".into(), "q".into(), Properties::default(), Bytes::new())
    }

    #[test]
    fn a_message_is_written_with_its_last_byte() {
        let mut under_way = UnderWay::default();
        // Other bytes may wait before it, and between.
        for pending in [150, 250, 400] {
            under_way.add(&message(), "s", pending);
        }
        for (bytes, written) in [(149, 0), (1, 1), (100, 1), (0, 0), (149, 0), (1, 1)] {
            assert_eq!(under_way.take_written(bytes).0.len(), written, "{bytes}");
        }
        assert!(under_way.0.is_empty());
    }

    #[test]
    fn a_client_that_does_not_read_costs_little() {
        let mut under_way = UnderWay::default();
        for pending in 1..10_000 {
            under_way.add(&message(), "s", pending);
        }
        assert_eq!(under_way.0.len(), MOST);
    }
}
