use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    broker::Properties,
    hub::{Conflate, Item, Mailbox, MailboxConfig},
};

const FAST: SubscriptionId = SubscriptionId(1);

fn message(key: &str, body: &[u8]) -> Arc<Message> {
    let body = Bytes::copy_from_slice(body);
    let message = Message::new("prices".into(), key.into(), Properties::default(), body);
    Arc::new(message)
}

fn mailbox(conflate: Option<Conflate>, limits: MailboxConfig) -> Arc<Mailbox> {
    let mailbox = Mailbox::new(limits);
    mailbox.follow(FAST);
    if let Some(conflate) = conflate {
        mailbox.conflate(FAST, conflate);
    }
    mailbox
}

/// A client that decodes what it gets. It keeps as many bases as it must: by key, the last message and
/// that one's number.
#[derive(Default)]
struct Reader {
    last: HashMap<Box<str>, (u64, Vec<u8>)>,
    deltas: usize,
}

impl Reader {
    /// The next message, as it was sent and as it was decoded.
    fn take(&mut self, mailbox: &Mailbox) -> Option<(Arc<Message>, Vec<u8>)> {
        let item = match mailbox.poll_take(&Context::from_waker(Waker::noop())) {
            Poll::Ready(item) => item,
            Poll::Pending => return None,
        };
        let (message, follows) = match item {
            Item::Follows(parcel, follows) => (parcel.message, follows),
            Item::Parcel(parcel) => {
                let body = parcel.message.body.to_vec();
                self.last.remove(&parcel.message.routing_key);
                return Some((parcel.message, body));
            }
            other => panic!("{other:?}"),
        };
        let body = match follows.delta(&message) {
            None => message.body.to_vec(),
            Some((delta, base)) => {
                self.deltas += 1;
                let (number, body) = &self.last[&message.routing_key];
                assert_eq!(*number, base, "another base than the client's");
                fossil_delta::apply(body, delta.body()).unwrap()
            }
        };
        let remembered = (follows.number, body.clone());
        self.last.insert(message.routing_key.clone(), remembered);
        if self.last.len() > KEYS {
            let (oldest, _) = self
                .last
                .iter()
                .min_by_key(|(_, (number, _))| *number)
                .unwrap();
            let oldest = oldest.clone();
            self.last.remove(&oldest);
        }
        Some((message, body))
    }
}

#[test]
fn the_first_message_is_whole_and_each_key_has_its_own_base() {
    let mailbox = mailbox(None, MailboxConfig::default());
    let mut reader = Reader::default();
    let body = |n: u8| [vec![b'x'; 500], vec![n; 10]].concat();
    for (n, key) in (0..).zip(["a", "b", "a", "b", "a"]) {
        mailbox.push_shared(FAST, &message(key, &body(n)));
    }
    for n in 0..5 {
        assert_eq!(reader.take(&mailbox).unwrap().1, body(n));
    }
    assert_eq!(reader.deltas, 3);
    assert!(mailbox.bytes() > 2 * 2 * 510, "{}", mailbox.bytes());
    // A subscription that begins anew has nothing.
    mailbox.end_wishes(FAST);
    assert_eq!(mailbox.bytes(), 0);
    assert!(mailbox.state.lock().lanes.is_none());
}

#[test]
fn what_is_remembered_has_a_bound() {
    let limits = MailboxConfig {
        max_bytes: 100_000,
        ..MailboxConfig::default()
    };
    let mailbox = mailbox(None, limits);
    let mut reader = Reader::default();
    for n in 0..2_000 {
        let body = format!("{n:>1000}");
        mailbox.push_shared(FAST, &message(&n.to_string(), body.as_bytes()));
        reader.take(&mailbox).unwrap();
        assert!(mailbox.bytes() <= 25_000, "{}", mailbox.bytes());
    }
    // When the node is short of memory, they go whole.
    mailbox.forget_bases();
    assert_eq!(mailbox.bytes(), 0);
    let before = reader.deltas;
    for _ in 0..2 {
        mailbox.push_shared(FAST, &message("1", &[b'.'; 64]));
        reader.take(&mailbox).unwrap();
    }
    assert_eq!(reader.deltas, before + 1);
    for n in 0..2_000 {
        mailbox.push_shared(FAST, &message(&(n % 7).to_string(), b"short"));
        reader.take(&mailbox).unwrap();
    }
    assert_eq!(mailbox.bytes(), 0, "nothing can be made of short ones");
}

/// What has found room keeps it for long: keys in turn, one too many, do not all lose their bases.
#[test]
fn more_keys_than_are_remembered_get_deltas_as_far_as_there_is_room() {
    for (keys, least) in [
        (10, 9 * 10),
        (KEYS, 9 * KEYS),
        (KEYS + 10, 9 * KEYS),
        (2 * KEYS, 8 * KEYS / 2),
    ] {
        let mailbox = mailbox(None, MailboxConfig::default());
        let mut reader = Reader::default();
        for n in 0..10 * keys {
            mailbox.push_shared(FAST, &message(&(n % keys).to_string(), &[b'.'; 64]));
            reader.take(&mailbox).unwrap();
        }
        println!("{keys} keys: {} deltas of {}", reader.deltas, 10 * keys);
        assert!(reader.deltas >= least, "{keys}: {}", reader.deltas);
    }
    // Nor do the first ones keep it for ever.
    let mailbox = mailbox(None, MailboxConfig::default());
    let mut reader = Reader::default();
    for n in 0..4_000 {
        let key = if n < 1_000 { n } else { 2_000 + n % 10 };
        mailbox.push_shared(FAST, &message(&key.to_string(), &[b'.'; 64]));
        reader.take(&mailbox).unwrap();
    }
    assert!(reader.deltas > 2_000, "{}", reader.deltas);
}

#[test]
fn one_bound_is_for_all_subscriptions_and_what_ends_is_freed() {
    let limits = MailboxConfig {
        max_bytes: 100_000,
        ..MailboxConfig::default()
    };
    let mailbox = Mailbox::new(limits);
    for id in 0..50 {
        mailbox.follow(SubscriptionId(id));
    }
    for n in 0..2_000_u32 {
        let id = SubscriptionId(n % 50);
        mailbox.push_shared(id, &message(&n.to_string(), &[b'.'; 900]));
        let taken = mailbox.poll_take(&Context::from_waker(Waker::noop()));
        assert!(taken.is_ready());
        assert!(mailbox.bytes() <= 25_000, "{}", mailbox.bytes());
    }
    for id in 0..50 {
        assert!(mailbox.state.lock().lanes.is_some());
        mailbox.end_wishes(SubscriptionId(id));
    }
    assert_eq!(mailbox.bytes(), 0);
    assert!(mailbox.state.lock().lanes.is_none());
}

/// Receivers at the same base share one delta, and its bytes.
#[test]
fn it_is_encoded_once_for_all_receivers() {
    let mailboxes: Vec<_> = (0..100)
        .map(|_| mailbox(None, MailboxConfig::default()))
        .collect();
    let mut deltas = Vec::new();
    for n in 0..3_u8 {
        let message = message("a", &[vec![b'x'; 500], vec![n; 10]].concat());
        for mailbox in &mailboxes {
            mailbox.push_shared(FAST, &message);
            let taken = mailbox.poll_take(&Context::from_waker(Waker::noop()));
            let Poll::Ready(Item::Follows(parcel, follows)) = taken else {
                panic!("{taken:?}");
            };
            deltas.extend(follows.delta(&parcel.message));
        }
    }
    assert_eq!(deltas.len(), 200);
    let first = |n: usize| &deltas[n / 100 * 100].0;
    assert!(
        deltas
            .iter()
            .enumerate()
            .all(|(n, (delta, _))| Arc::ptr_eq(delta, first(n)))
    );
}

/// No delta outlives the last client that may be given it.
#[test]
fn a_delta_goes_with_its_base() {
    let [quick, slow] = [(); 2].map(|()| mailbox(None, MailboxConfig::default()));
    let take = |mailbox: &Mailbox| match mailbox.poll_take(&Context::from_waker(Waker::noop())) {
        Poll::Ready(Item::Follows(parcel, follows)) => {
            let is_delta = follows.delta(&parcel.message).is_some();
            follows.end(&parcel.message);
            is_delta
        }
        other => panic!("{other:?}"),
    };
    let all: Vec<_> = (0..3_u8)
        .map(|n| message("a", &[vec![b'x'; 500], vec![n; 10]].concat()))
        .map(|message| {
            for mailbox in [&quick, &slow] {
                mailbox.push_shared(FAST, &message);
            }
            Arc::downgrade(&message)
        })
        .collect();
    let kept = || {
        all.iter()
            .map(|message| message.upgrade().map(|message| message.deltas()))
    };
    for _ in 0..3 {
        take(&quick);
    }
    // They wait for the slow client, too.
    assert_eq!(kept().collect::<Vec<_>>(), [Some(0), Some(1), Some(1)]);
    let deltas = [take(&slow), take(&slow), take(&slow)];
    assert_eq!(deltas, [false, true, true]);
    assert_eq!(kept().collect::<Vec<_>>(), [None, None, Some(0)]);
}

#[derive(Clone, Debug)]
enum Op {
    Push(u8, Vec<(prop::sample::Index, u8)>),
    Whole(u8, Vec<u8>),
    /// One of the clients reads so many.
    Take(usize, u8),
}

const CLIENTS: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    prop_oneof![
        8 => (0..4_u8, edits).prop_map(|(key, edits)| Op::Push(key, edits)),
        1 => (0..4_u8, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(key, body)| Op::Whole(key, body)),
        12 => (0..CLIENTS, 1..5_u8).prop_map(|(client, count)| Op::Take(client, count)),
    ]
}

proptest! {
    /// In any order of messages and reads, conflated or not, with clients that are at different bases:
    /// each decodes what was sent.
    #[test]
    fn the_client_has_what_was_sent(
        ops in prop::collection::vec(op(), 1..120),
        clients in prop::array::uniform3(any::<(bool, bool)>()),
    ) {
        let mut clients = clients.map(|(is_conflated, is_small)| {
            let limits = MailboxConfig {
                // Few bases are remembered.
                max_bytes: if is_small { 8_000 } else { 8 << 20 },
                overflow: crate::hub::Overflow::DropOldest,
                ..MailboxConfig::default()
            };
            let conflate = is_conflated.then_some(Conflate::Latest);
            (mailbox(conflate, limits), Reader::default())
        });
        let mut bodies = vec![vec![b'.'; 400]; 4];
        for op in ops {
            let key = match op {
                Op::Push(key, edits) => {
                    let body = &mut bodies[usize::from(key)];
                    for (at, byte) in edits {
                        if !body.is_empty() {
                            let at = at.index(body.len());
                            body[at] = byte;
                        }
                    }
                    key
                }
                Op::Whole(key, body) => {
                    bodies[usize::from(key)] = body;
                    key
                }
                Op::Take(client, count) => {
                    let (mailbox, reader) = &mut clients[client];
                    for _ in 0..count {
                        if let Some((sent, body)) = reader.take(mailbox) {
                            prop_assert_eq!(&sent.body[..], &body[..]);
                        }
                    }
                    continue;
                }
            };
            let message = message(&key.to_string(), &bodies[usize::from(key)]);
            for (mailbox, _) in &clients {
                mailbox.push_shared(FAST, &message);
            }
        }
        for (mailbox, reader) in &mut clients {
            while let Some((sent, body)) = reader.take(mailbox) {
                prop_assert_eq!(&sent.body[..], &body[..]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn windows_make_no_gap() {
    let window = Duration::from_millis(100);
    let mailbox = mailbox(Some(Conflate::Every(window)), MailboxConfig::default());
    let mut reader = Reader::default();
    let mut body = vec![b'.'; 1_000];
    for n in 0..1_000_usize {
        body[n * 7 % 1_000] = u8::try_from(n % 251).unwrap();
        mailbox.push_shared(FAST, &message("a", &body));
        tokio::time::advance(Duration::from_millis(7)).await;
        if let Some((sent, decoded)) = reader.take(&mailbox) {
            assert_eq!(sent.body, decoded);
        }
    }
    assert!(reader.deltas > 50, "{}", reader.deltas);
}
