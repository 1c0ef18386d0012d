//! The stories of clients over their connections, held against the promises.

use std::{collections::BTreeSet, fmt};

use stomp_grammar::Frame;
use testkit::Closed;

use super::traffic::{Kind, Listener, Sent};
use crate::e2e_nodes::cluster::Transport;

/// A numbered message, by who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    /// By AMQP.
    Backend(usize),
    /// By STOMP.
    Sender(usize),
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(number) => write!(f, "backend {number}"),
            Self::Sender(number) => write!(f, "sender {number}"),
        }
    }
}

impl Heard {
    fn parse(body: &str) -> Option<Self> {
        let (who, number) = body.split_once(' ')?;
        let number = number.parse().ok()?;
        match who {
            "backend" => Some(Self::Backend(number)),
            "sender" => Some(Self::Sender(number)),
            _ => None,
        }
    }
}

/// One client, from its first connection to its last.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) stays: Vec<Stay>,
}

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) node: usize,
    /// In order; those that the broker says it has sent before are apart.
    messages: Vec<Heard>,
    redelivered: Vec<Heard>,
    /// `None` if the client left, after the last message.
    pub(super) end: Option<End>,
}

/// How a connection ended that the client did not end.
#[derive(Debug)]
pub(super) struct End {
    /// The `message` of the ERROR before it.
    pub(super) error: Option<String>,
    pub(super) closed: Closed,
    /// The node that was being ended then.
    pub(super) watched: Option<usize>,
}

impl Stay {
    pub(super) const fn at(node: usize) -> Self {
        Self {
            node,
            messages: Vec::new(),
            redelivered: Vec::new(),
            end: None,
        }
    }

    pub(super) fn heard(&mut self, frame: &Frame) {
        let body = String::from_utf8_lossy(&frame.body);
        let heard = Heard::parse(&body).unwrap_or_else(|| panic!("nobody sent {frame:?}"));
        match frame.header("redelivered") {
            Some("true") => self.redelivered.push(heard),
            _ => self.messages.push(heard),
        }
    }

    fn numbers(&self, of: impl Fn(&Heard) -> Option<usize>) -> Vec<usize> {
        self.messages.iter().filter_map(of).collect()
    }

    fn by_backend(&self) -> Vec<usize> {
        self.numbers(|heard| match heard {
            Heard::Backend(number) => Some(*number),
            Heard::Sender(_) => None,
        })
    }

    fn by_sender(&self) -> Vec<usize> {
        self.numbers(|heard| match heard {
            Heard::Sender(number) => Some(*number),
            Heard::Backend(_) => None,
        })
    }
}

impl Story {
    /// How many messages were delivered twice.
    pub(super) fn redelivered(&self) -> usize {
        self.stays.iter().map(|stay| stay.redelivered.len()).sum()
    }

    /// The connections that the client did not end itself, and how they ended.
    pub(super) fn ends(&self) -> impl Iterator<Item = (&Stay, &End)> {
        let ended = |stay| Some((stay, Stay::end(stay)?));
        self.stays.iter().filter_map(ended)
    }

    /// Holds a client to what its kind of subscription was promised, however often it was sent
    /// away.
    pub(super) fn holds(&self, listener: &Listener, sent: &Sent) {
        match listener.kind {
            Kind::Plain => self.no_gap_within_a_stay(listener, sent),
            Kind::Durable => self.nothing_is_missing(listener, sent),
        }
    }

    /// A plain subscription: every message from the RECEIPT to the end of the connection, as often
    /// as it was sent, and in order.
    fn no_gap_within_a_stay(&self, listener: &Listener, sent: &Sent) {
        for (place, stay) in self.stays.iter().enumerate() {
            let who = format!(
                "{} in stay {place} of {}",
                listener.login(),
                self.stays.len()
            );
            assert_eq!(stay.redelivered, [], "{who}");
            let backend = stay.by_backend();
            let mut steps = backend.windows(2);
            let gap = steps.find(|two| two[0] + 1 != two[1] && !sent.again(two));
            assert_eq!(gap, None, "{who}: a gap");
            // The sender repeats what it has no receipt for.
            let sender = stay.by_sender();
            let mut steps = sender.windows(2);
            let gap = steps.find(|two| two[0] != two[1] && two[0] + 1 != two[1]);
            assert_eq!(gap, None, "{who}: a gap in what a STOMP client sent");
            if place == 0 {
                let first = (backend.first(), sender.first());
                assert_eq!(first, (Some(&0), Some(&0)), "{who}");
            }
        }
        let last = self.stays.last().expect("a stay");
        let (backend, sender) = (last.by_backend(), last.by_sender());
        assert_eq!(
            (backend.last(), sender.last()),
            (Some(&(sent.by_backend - 1)), Some(&(sent.by_sender - 1))),
            "the end of {}",
            listener.login()
        );
    }

    /// A durable one: every message at least once, over all connections; and in order, those
    /// apart that came again.
    fn nothing_is_missing(&self, listener: &Listener, sent: &Sent) {
        let who = listener.login();
        let heard: BTreeSet<Heard> = self
            .stays
            .iter()
            .flat_map(|stay| stay.messages.iter().chain(&stay.redelivered))
            .copied()
            .collect();
        let all = (0..sent.by_backend)
            .map(Heard::Backend)
            .chain((0..sent.by_sender).map(Heard::Sender));
        let missing: Vec<Heard> = all.filter(|message| !heard.contains(message)).collect();
        assert!(missing.is_empty(), "{who} misses {missing:?}");

        let order: Vec<usize> = self.stays.iter().flat_map(Stay::by_backend).collect();
        let mut steps = order.windows(2);
        let swapped = steps.find(|two| two[0] >= two[1] && !sent.again(two));
        assert_eq!(swapped, None, "{who}: out of order, or twice");
        let order: Vec<usize> = self.stays.iter().flat_map(Stay::by_sender).collect();
        let swapped = order.windows(2).find(|two| two[0] > two[1]);
        assert_eq!(swapped, None, "{who}: out of order");
    }
}

impl Sent {
    /// The backend sent this number twice.
    fn again(&self, two: &[usize]) -> bool {
        two[0] == two[1] && self.nacked.contains(&two[0])
    }
}

impl Stay {
    const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }
}

impl End {
    /// True for the words of a node that ends in good order.
    pub(super) fn is_a_farewell(&self, transport: Transport) -> bool {
        let code = match transport {
            Transport::Tcp => None,
            Transport::WebSocket => Some(1012),
        };
        self.error.as_deref() == Some("server shutting down")
            && self.closed.code == code
            && self.closed.error.is_none()
    }
}
