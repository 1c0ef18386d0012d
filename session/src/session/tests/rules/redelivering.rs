//! Confirmed delivery: `redeliver`, `redeliver-then`, and acknowledgements that come twice.

use proptest::prelude::*;

use super::super::*;
use crate::GiveUp;

const LIST: &str = "1500,1500,3000,1000,3000,5000";

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn subscribe(peer: &mut Peer, headers: &str) -> SubscriptionId {
    peer.subscribe(&format!(
        "SUBSCRIBE\nid:a\ndestination:/queue/q\nack:client-individual\n{headers}"
    ))
}

impl Peer {
    /// The frames that are written again now, with their tags.
    fn again(&mut self) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        let mut head = Vec::new();
        while let Some((_, tag)) = self.session.poll_again(self.now, |_, _| true, &mut head) {
            let mut frame = std::mem::take(&mut head);
            frame.extend_from_slice(b"destination:/queue/q\n\nhi\0");
            assert_is_readable(&frame, self.session.version());
            all.push((tag, String::from_utf8(frame).unwrap()));
        }
        all
    }

    /// Goes to the next time that the session asks for.
    fn next(&mut self) {
        self.now = self.session.poll_timeout().unwrap();
        self.timeout();
    }

    fn given_up(&mut self) -> Option<(u64, GiveUp)> {
        match self.asked.pop_front()? {
            Action::GiveUp(_, tag, then) => Some((tag, then)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_message_is_written_again_after_each_delay_of_its_list() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, &format!("redeliver:{LIST}"));
    let (delivered, first) = peer.deliver(subscription, 7);
    assert_eq!(delivered, Delivered::Kept);
    assert_eq!(header(&first, "redelivered"), Some("false"));
    assert_eq!(header(&first, "attempt"), None);
    let began = peer.now;
    let mut at = 0;
    let delays = [1500, 1500, 3000, 1000, 3000, 5000];
    for (attempt, delay) in (2..).zip(delays) {
        // A moment too early.
        peer.now = began + milliseconds(at + delay - 51);
        peer.timeout();
        assert_eq!(peer.again(), []);
        at += delay;
        peer.now = began + milliseconds(at);
        peer.timeout();
        let again = peer.again();
        let [(7, text)] = &*again else {
            panic!("{again:?}");
        };
        for name in ["message-id", "ack", "subscription"] {
            assert_eq!(header(text, name), header(&first, name));
        }
        assert_eq!(header(text, "redelivered"), Some("true"));
        assert_eq!(header(text, "attempt"), Some(&*attempt.to_string()));
        assert_eq!(peer.given_up(), None);
    }
    // After the last one there is as much time as before it.
    peer.now = began + milliseconds(at + 4949);
    peer.timeout();
    assert_eq!(peer.given_up(), None);
    peer.next();
    assert_eq!(peer.again(), []);
    assert_eq!(peer.given_up(), Some((7, GiveUp::Requeue)));
    assert_eq!(peer.session.subscriptions.unsettled(), 0);
    assert_eq!(peer.session.poll_timeout(), None);
}

#[test]
fn an_acknowledgement_of_any_of_them_settles_the_message_once() {
    for (version, name) in [("1.1", "message-id"), ("1.2", "id")] {
        for repeats in 0..=2 {
            let mut peer = Peer::connected(version);
            let subscription = subscribe(&mut peer, "redeliver:1000,1000");
            let id = peer.message(subscription, 7);
            for _ in 0..repeats {
                peer.next();
                assert_eq!(peer.again().len(), 1);
            }
            peer.send(&format!("ACK\nsubscription:a\n{name}:{id}"));
            assert_eq!(peer.settle(), accept(subscription, 7, false));
            assert_eq!(peer.session.poll_timeout(), None, "{version} {repeats}");
            // The client acknowledges what it got as often as it got it.
            for command in ["ACK", "NACK", "ACK"] {
                peer.send(&format!(
                    "{command}\nsubscription:a\n{name}:{id}\nreceipt:r"
                ));
                peer.assert_receipts(&["r"]);
                peer.assert_silent();
            }
        }
    }
}

#[test]
fn a_late_acknowledgement_does_no_harm() {
    for (then, given_up) in [
        ("requeue", GiveUp::Requeue),
        ("drop", GiveUp::Discard),
        ("later", GiveUp::Later),
    ] {
        let mut peer = Peer::connected("1.2");
        let headers = format!("redeliver:1000\nredeliver-then:{then}");
        let subscription = subscribe(&mut peer, &headers);
        let id = peer.message(subscription, 7);
        peer.next();
        assert_eq!(peer.again().len(), 1);
        peer.next();
        assert_eq!(peer.given_up(), Some((7, given_up)));
        peer.send(&format!("ACK\nid:{id}\nreceipt:r"));
        if given_up == GiveUp::Later {
            // It is the client's still.
            let settled = Settle {
                stake: Stake::Receipt,
                ..accept(subscription, 7, false)
            };
            assert_eq!(peer.settle(), settled);
            peer.assert_receipts(&["r"]);
        } else {
            peer.assert_unsettled("r");
        }
        peer.assert_silent();
        // The subscription goes on.
        let next = peer.message(subscription, 8);
        peer.send(&format!("ACK\nid:{next}"));
        assert_eq!(peer.settle(), accept(subscription, 8, false));
    }
}

#[test]
fn the_receipt_of_disconnect_says_that_an_acknowledgement_was_late() {
    for is_late in [false, true] {
        let mut peer = Peer::connected("1.2");
        let subscription = subscribe(&mut peer, "redeliver:1000");
        let ids = [1, 2].map(|tag| peer.message(subscription, tag));
        peer.send(&format!("ACK\nid:{}\nreceipt:r", ids[0]));
        peer.all_done();
        peer.assert_receipts(&["r"]);
        peer.next();
        assert_eq!(peer.again().len(), 1);
        peer.next();
        assert_eq!(peer.given_up(), Some((2, GiveUp::Requeue)));
        let id = &ids[usize::from(is_late)];
        peer.send(&format!("ACK\nid:{id}"));
        peer.send("DISCONNECT\nreceipt:d");
        match is_late {
            true => peer.assert_unsettled("d"),
            false => peer.assert_receipts(&["d"]),
        }
    }
}

/// Somebody else may be at work on the message by now.
#[test]
fn a_transaction_with_a_message_that_was_given_up_does_nothing() {
    for (then, given_up) in [("requeue", GiveUp::Requeue), ("drop", GiveUp::Discard)] {
        let mut peer = Peer::connected("1.2");
        let headers = format!("redeliver:1000\nredeliver-then:{then}");
        let subscription = subscribe(&mut peer, &headers);
        let id = peer.message(subscription, 7);
        peer.send("BEGIN\ntransaction:t");
        peer.send("SEND\ntransaction:t\ndestination:/t");
        peer.send(&format!("ACK\ntransaction:t\nid:{id}"));
        peer.next();
        assert_eq!(peer.again().len(), 1);
        peer.next();
        assert_eq!(peer.given_up(), Some((7, given_up)));
        peer.send("COMMIT\ntransaction:t");
        assert!(peer.asked.is_empty(), "{:?}", peer.asked);
        peer.assert_error("message taken back");
    }
}

/// A client that lets everything go takes no room for it.
#[test]
fn messages_that_were_given_up_are_forgotten_in_the_end() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, "redeliver:1000");
    let ids: Vec<String> = (1..=1001)
        .map(|tag| peer.message(subscription, tag))
        .collect();
    peer.next();
    assert_eq!(peer.again().len(), 1001);
    peer.next();
    while peer.given_up().is_some() {}
    peer.send(&format!("ACK\nid:{}\nreceipt:r", ids[1]));
    peer.assert_unsettled("r");
    peer.send(&format!("ACK\nid:{}\nreceipt:r", ids[0]));
    peer.assert_receipts(&["r"]);
}

#[test]
fn a_message_that_was_never_sent_cannot_be_acknowledged() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, "redeliver:1000");
    let id = peer.message(subscription, 7);
    let next = format!("{}2", id.strip_suffix('1').unwrap());
    peer.send(&format!("ACK\nid:{next}"));
    peer.assert_error("precondition_failed");
}

#[test]
fn while_nothing_can_be_written_no_attempt_is_counted() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, "redeliver:1000,1000");
    peer.message(subscription, 7);
    peer.next();
    // The transport takes nothing for an hour, and the session does not ask to be woken meanwhile.
    assert_eq!(peer.session.poll_timeout(), None);
    peer.wait(Duration::from_secs(3600));
    peer.timeout();
    assert_eq!(peer.given_up(), None);
    let again = peer.again();
    assert_eq!(header(&again[0].1, "attempt"), Some("2"));
    assert_eq!(
        peer.session.poll_timeout(),
        Some(peer.now + milliseconds(1000))
    );
}

/// After a lost link the broker gives it anew: until then the client is owed its heart-beats.
#[test]
fn a_message_that_is_not_held_any_more_is_forgotten() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, "redeliver:1000,1000");
    peer.message(subscription, 7);
    peer.next();
    assert!(peer.session.has_again());
    let mut head = Vec::new();
    let again = peer.session.poll_again(peer.now, |_, _| false, &mut head);
    assert_eq!((again, head.len()), (None, 0));
    assert!(!peer.session.has_again());
    assert_eq!(peer.session.poll_timeout(), None);
}

#[test]
fn nothing_is_written_again_after_the_end() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, "redeliver:1000");
    let ids = [1, 2].map(|tag| peer.message(subscription, tag));
    peer.next();
    peer.send("UNSUBSCRIBE\nid:a");
    peer.all_done();
    assert_eq!(peer.again(), []);
    assert_eq!(peer.session.poll_timeout(), None);
    // Both can be acknowledged still, and twice: then the session has forgotten the subscription.
    for id in [&ids[0], &ids[0], &ids[1]] {
        peer.send(&format!("ACK\nid:{id}"));
        peer.all_done();
    }
    peer.send(&format!("ACK\nid:{}\nreceipt:r", ids[1]));
    peer.assert_receipts(&["r"]);
    // However many others have ended since.
    for _ in 0..100 {
        subscribe(&mut peer, "redeliver:1000");
        peer.send("UNSUBSCRIBE\nid:a");
        peer.all_done();
    }
    peer.send(&format!("ACK\nid:{}\nreceipt:r", ids[1]));
    peer.assert_receipts(&["r"]);

    let subscription = subscribe(&mut peer, "redeliver:1000");
    peer.message(subscription, 1);
    peer.send("DISCONNECT\nreceipt:d");
    assert_eq!(peer.again(), []);
}

/// Its messages went back to their queues when too many others had ended after it.
#[test]
fn what_is_forgotten_after_the_end_is_not_settled() {
    let mut peer = Peer::connected("1.2");
    let mut first = None;
    for tag in 1..=17 {
        let subscription = subscribe(&mut peer, "redeliver:1000");
        let id = peer.message(subscription, tag);
        first = first.or(Some(id));
        peer.send("UNSUBSCRIBE\nid:a");
        peer.all_done();
    }
    peer.send(&format!("ACK\nid:{}\nreceipt:r", first.unwrap()));
    peer.assert_unsettled("r");
}

#[test]
fn in_a_transaction_it_counts_from_the_commit() {
    let mut peer = Peer::connected("1.2");
    let subscription = subscribe(&mut peer, "redeliver:1000\nredeliver-then:drop");
    let ids = [1, 2].map(|tag| peer.message(subscription, tag));
    peer.send("BEGIN\ntransaction:t");
    for id in &ids {
        peer.send(&format!("ACK\ntransaction:t\nid:{id}"));
    }
    peer.send(&format!("ACK\nid:{}", ids[0]));
    assert_eq!(peer.settle(), accept(subscription, 1, false));
    peer.next();
    assert_eq!(peer.again().len(), 1);
    // The first is settled already.
    peer.send("COMMIT\ntransaction:t\nreceipt:r");
    assert_eq!(peer.settle(), in_commit(accept(subscription, 2, false)));
    peer.assert_receipts(&["r"]);
    // And where nothing is left to do, there is nothing to ask.
    peer.send("BEGIN\ntransaction:t");
    peer.send(&format!("ACK\ntransaction:t\nid:{}", ids[0]));
    peer.send("COMMIT\ntransaction:t\nreceipt:r");
    peer.assert_receipts(&["r"]);
    peer.assert_silent();
}

#[test]
fn faults() {
    let long = vec!["1000"; 33].join(",");
    let thousand = format!("redeliver:{}", vec!["1000"; 1000].join(","));
    for (headers, at_fault) in [
        ("ack:client-individual\nredeliver:", "redeliver"),
        ("ack:client-individual\nredeliver:99", "redeliver"),
        ("ack:client-individual\nredeliver:3600001", "redeliver"),
        ("ack:client-individual\nredeliver:-1000", "redeliver"),
        ("ack:client-individual\nredeliver:+1000", "redeliver"),
        ("ack:client-individual\nredeliver:1e3", "redeliver"),
        ("ack:client-individual\nredeliver:1000,,1000", "redeliver"),
        ("ack:client-individual\nredeliver:1000,", "redeliver"),
        (
            "ack:client-individual\nredeliver:18446744073709551617",
            "redeliver",
        ),
        (
            &format!("ack:client-individual\nredeliver:{long}"),
            "redeliver",
        ),
        (&format!("ack:client-individual\n{thousand}"), "redeliver"),
        ("ack:client\nredeliver:1000", "ack"),
        ("ack:auto\nredeliver:1000", "ack"),
        ("redeliver:1000", "ack"),
        (
            "ack:client-individual\nredeliver:1000\nredeliver-then:no",
            "redeliver-then",
        ),
        (
            "ack:client-individual\nredeliver-then:drop",
            "redeliver-then",
        ),
    ] {
        let mut peer = Peer::connected("1.2");
        peer.send(&format!("SUBSCRIBE\nid:a\ndestination:/queue/q\n{headers}"));
        let error = peer.assert_error("Invalid header");
        assert!(
            error.contains(&format!("\"{at_fault}\"")),
            "{headers}: {error}"
        );
        assert!(peer.asked.is_empty());
    }
    for fine in [
        "100",
        "3600000",
        " 1000 , 2000 ",
        &vec!["100"; 32].join(","),
    ] {
        subscribe(&mut Peer::connected("1.2"), &format!("redeliver:{fine}"));
    }
}

#[derive(Clone, Debug)]
enum Input {
    Deliver(usize),
    Ack(prop::sample::Index),
    Wait(u64),
    Unsubscribe(usize),
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        3 => (0..2_usize).prop_map(Input::Deliver),
        2 => any::<prop::sample::Index>().prop_map(Input::Ack),
        6 => (0..3000_u64).prop_map(Input::Wait),
        1 => (0..2_usize).prop_map(Input::Unsubscribe),
    ];
    prop::collection::vec(input, 1..60)
}

/// One message, as the model sees it.
struct Known {
    subscription: usize,
    id: String,
    tag: u64,
    attempts: u64,
    due: Instant,
    open: bool,
}

proptest! {
    /// Whatever comes in between, a message is written at its times, as often as its list says, and
    /// then given up, unless it was acknowledged or its subscription ended.
    #[test]
    fn each_message_keeps_its_times(inputs in inputs()) {
        const LISTS: [&[u64]; 2] = [&[300, 1000, 200], &[700]];
        let mut peer = Peer::connected("1.2");
        let subscriptions = LISTS.map(|list| {
            let list: Vec<String> = list.iter().map(u64::to_string).collect();
            let list = list.join(",");
            peer.subscribe(&format!(
                "SUBSCRIBE\nid:{list}\ndestination:/queue/q\nack:client-individual\nredeliver:{list}"
            ))
        });
        let mut is_open = [true; 2];
        let mut known: Vec<Known> = Vec::new();
        for input in inputs {
            match input {
                Input::Deliver(which) => {
                    let tag = known.len() as u64 + 1;
                    let (delivered, text) = peer.deliver(subscriptions[which], tag);
                    if !is_open[which] {
                        prop_assert_eq!(delivered, Delivered::Refused);
                        continue;
                    }
                    prop_assert_eq!(delivered, Delivered::Kept);
                    known.push(Known {
                        subscription: which,
                        id: header(&text, "message-id").unwrap().to_owned(),
                        tag,
                        attempts: 1,
                        due: peer.now + milliseconds(LISTS[which][0]),
                        open: true,
                    });
                }
                Input::Ack(which) => {
                    if known.is_empty() {
                        continue;
                    }
                    let message = which.get(&known);
                    let was_open = message.open && is_open[message.subscription];
                    let at = known.iter().position(|other| other.tag == message.tag).unwrap();
                    peer.send(&format!("ACK\nid:{}", message.id));
                    if was_open {
                        prop_assert_eq!(peer.settle().tag, known[at].tag);
                    } else {
                        // Settled before, given up, or of a subscription that has ended.
                        peer.all_done();
                    }
                    known[at].open = false;
                    prop_assert_eq!(peer.closed, None);
                }
                Input::Unsubscribe(which) => {
                    if std::mem::take(&mut is_open[which]) {
                        let list: Vec<String> = LISTS[which].iter().map(u64::to_string).collect();
                        peer.send(&format!("UNSUBSCRIBE\nid:{}", list.join(",")));
                        peer.all_done();
                    }
                }
                Input::Wait(time) => {
                    let until = peer.now + milliseconds(time);
                    while let Some(next) = peer.session.poll_timeout().filter(|next| *next <= until) {
                        peer.now = next;
                        peer.timeout();
                        let early = milliseconds(50);
                        for (tag, text) in peer.again() {
                            let message = known.iter_mut().find(|known| known.tag == tag).unwrap();
                            prop_assert!(message.open && is_open[message.subscription]);
                            prop_assert!(message.due - early <= next && next <= message.due);
                            message.attempts += 1;
                            let attempt = message.attempts.to_string();
                            prop_assert_eq!(header(&text, "attempt"), Some(&*attempt));
                            let list = LISTS[message.subscription];
                            let delay = list.get(message.attempts as usize - 1);
                            let delay = delay.or(list.last()).unwrap();
                            message.due = next + milliseconds(*delay);
                        }
                        while let Some((tag, then)) = peer.given_up() {
                            let message = known.iter_mut().find(|known| known.tag == tag).unwrap();
                            prop_assert!(message.open && is_open[message.subscription]);
                            prop_assert!(message.due - early <= next && next <= message.due);
                            let times = LISTS[message.subscription].len() as u64;
                            prop_assert_eq!(message.attempts, times + 1);
                            prop_assert_eq!(then, GiveUp::Requeue);
                            message.open = false;
                        }
                    }
                    peer.now = until;
                    let is_late = |known: &&Known| {
                        known.open && is_open[known.subscription] && known.due < until
                    };
                    prop_assert_eq!(known.iter().find(is_late).map(|known| known.tag), None);
                }
            }
        }
    }
}
