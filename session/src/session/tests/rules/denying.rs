//! What is left of a session after something in it was denied.

use crate::session::tests::*;

fn softly() -> Peer {
    let config = Config {
        soft_deny: true,
        ..config()
    };
    Peer::connected_with(config, "1.2")
}

/// That an ERROR for this receipt is all that was written, and the session goes on.
#[track_caller]
fn assert_soft_error(peer: &mut Peer, receipt: Option<&str>) {
    let written = peer.written();
    let [error] = &written[..] else {
        panic!("{written:?}")
    };
    assert!(
        error.starts_with("ERROR\nmessage:access_refused\n"),
        "{error}"
    );
    assert_eq!(header(error, "receipt-id"), receipt);
    assert!(peer.session.is_connected() && peer.closed.is_none());
}

#[test]
fn what_is_denied_ends_the_session_unless_it_is_configured_otherwise() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/t\nreceipt:r");
    let (operation, _) = peer.performing();
    peer.denied(operation);
    let error = peer.assert_error("access_refused");
    assert_eq!(header(&error, "receipt-id"), Some("r"));
}

#[test]
fn a_denied_send_gets_its_error_and_no_receipt() {
    let mut peer = softly();
    peer.send("SEND\ndestination:/topic/t\nreceipt:r");
    let (operation, _) = peer.performing();
    peer.denied(operation);
    assert_soft_error(&mut peer, Some("r"));
    assert_eq!(peer.session.pending(), 0);
    peer.send("SEND\ndestination:/topic/t");
    let (operation, _) = peer.performing();
    peer.denied(operation);
    assert_soft_error(&mut peer, None);
    // Answered once.
    peer.done(operation);
    peer.assert_silent();
}

/// Each costs a line of the log and calls of the hook, so it does not go on for ever.
#[test]
fn one_denial_too_many_ends_the_session() {
    let mut peer = Peer::connected_with(
        Config {
            soft_deny: true,
            max_denials: 2,
            ..config()
        },
        "1.2",
    );
    for _ in 0..2 {
        peer.send("SEND\ndestination:/topic/t\nreceipt:r");
        let (operation, _) = peer.performing();
        peer.denied(operation);
        assert_soft_error(&mut peer, Some("r"));
        // What is allowed in between makes no difference.
        peer.send("SEND\ndestination:/topic/t");
        let (operation, _) = peer.performing();
        peer.done(operation);
    }
    peer.send("SEND\ndestination:/topic/t\nreceipt:r");
    let (operation, _) = peer.performing();
    peer.denied(operation);
    let error = peer.assert_error("access_refused");
    assert_eq!(header(&error, "receipt-id"), Some("r"));
}

/// A program that speaks for many: what is denied to one of them is not the others' fault.
#[test]
fn a_trusted_session_stays_however_much_is_denied() {
    let mut peer = Peer::connected_with(
        Config {
            soft_deny: false,
            max_denials: 0,
            ..config()
        },
        "1.2",
    );
    peer.session.stay_if_denied();
    for _ in 0..200 {
        peer.send("SEND\ndestination:/topic/t\nreceipt:r");
        let (operation, _) = peer.performing();
        peer.denied(operation);
        assert_soft_error(&mut peer, Some("r"));
    }
}

#[test]
fn receipts_of_other_frames_keep_their_order_around_a_denied_one() {
    let mut peer = softly();
    let operations = ["1", "2", "3"].map(|receipt| {
        peer.send(&format!("SEND\ndestination:/topic/t\nreceipt:{receipt}"));
        peer.performing().0
    });
    peer.done(operations[2]);
    peer.denied(operations[1]);
    assert_soft_error(&mut peer, Some("2"));
    peer.done(operations[0]);
    peer.assert_receipts(&["1", "3"]);
}

#[test]
fn the_name_of_a_denied_subscription_is_free_again() {
    let mut peer = softly();
    peer.send("SUBSCRIBE\nid:s\ndestination:/topic/a\nreceipt:r");
    let (operation, denied) = peer.subscribing();
    peer.denied(operation);
    assert_soft_error(&mut peer, Some("r"));
    assert_eq!(peer.session.subscriptions(), 0);
    assert_eq!(peer.deliver(denied, 1).0, Delivered::Refused);
    let allowed = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/topic/b");
    assert_ne!(denied, allowed);
}

/// Libraries end what they hold, and know nothing of denials.
#[test]
fn a_client_may_end_what_it_was_denied() {
    for name in ["id:s", "destination:/topic/a"] {
        let mut peer = softly();
        peer.send(&format!("SUBSCRIBE\n{name}\ndestination:/topic/a"));
        let (operation, denied) = peer.subscribing();
        peer.denied(operation);
        assert_soft_error(&mut peer, None);
        peer.send(&format!("ACK\nid:{}@@session-x@@1\nreceipt:a", denied.0));
        peer.assert_unsettled("a");
        peer.send(&format!("UNSUBSCRIBE\n{name}\nreceipt:u"));
        let (ending, ended) = peer.unsubscribing();
        assert_eq!(ended, denied);
        peer.done(ending);
        peer.assert_receipts(&["u"]);
        assert!(peer.session.is_connected());
        // Once.
        peer.send(&format!("UNSUBSCRIBE\n{name}"));
        peer.assert_error("No subscription found");
    }
}

/// A client that tries one name after the other takes no room for it.
#[test]
fn denied_subscriptions_are_forgotten_in_the_end() {
    let mut peer = softly();
    peer.session.stay_if_denied();
    for number in 0..1000 {
        peer.send(&format!("SUBSCRIBE\nid:{number}\ndestination:/topic/a"));
        let (operation, _) = peer.subscribing();
        peer.denied(operation);
        assert_soft_error(&mut peer, None);
    }
    peer.send("UNSUBSCRIBE\nid:999\nreceipt:u");
    peer.all_done();
    peer.assert_receipts(&["u"]);
    peer.send("UNSUBSCRIBE\nid:0");
    peer.assert_error("No subscription found");
}

/// A client that does not wait may have ended the subscription, and taken its name for another.
#[test]
fn a_denied_subscription_takes_no_later_one_with_it() {
    let mut peer = softly();
    peer.send("SUBSCRIBE\nid:s\ndestination:/topic/a");
    let (denied, _) = peer.subscribing();
    peer.send("UNSUBSCRIBE\nid:s\nreceipt:u");
    let (ending, _) = peer.unsubscribing();
    peer.send("SUBSCRIBE\nid:s\ndestination:/topic/b");
    let (opening, open) = peer.subscribing();
    peer.denied(denied);
    assert_soft_error(&mut peer, None);
    peer.done(ending);
    peer.done(opening);
    peer.assert_receipts(&["u"]);
    assert_eq!(peer.deliver(open, 1).0, Delivered::Done);
}

#[test]
fn a_denied_commit_does_nothing_and_the_session_goes_on() {
    let mut peer = softly();
    peer.send("BEGIN\ntransaction:t");
    peer.send("SEND\ndestination:/topic/a\ntransaction:t");
    peer.send("SEND\ndestination:/topic/b\ntransaction:t");
    peer.send("COMMIT\ntransaction:t\nreceipt:c");
    let (operation, operations) = peer.performing();
    assert_eq!(operations.len(), 2);
    peer.denied(operation);
    assert_soft_error(&mut peer, Some("c"));
    // It is over all the same.
    peer.send("BEGIN\ntransaction:t");
    peer.assert_silent();
}

/// The session took the message for acknowledged, and the broker never heard of it.
#[test]
fn a_denied_commit_that_acknowledges_ends_the_session() {
    let mut peer = softly();
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/queue/q\nack:client");
    let message = peer.message(subscription, 7);
    peer.send("BEGIN\ntransaction:t");
    peer.send("SEND\ndestination:/topic/a\ntransaction:t");
    peer.send(&format!("ACK\nid:{message}\ntransaction:t"));
    peer.send("COMMIT\ntransaction:t\nreceipt:c");
    let (operation, _) = peer.performing();
    peer.denied(operation);
    let error = peer.assert_error("access_refused");
    assert_eq!(header(&error, "receipt-id"), Some("c"));
}

#[test]
fn only_what_the_hook_denies_is_soft() {
    for problem in [
        Problem::BrokerRefused("ACCESS_REFUSED - no".into()),
        Problem::NotFound("NOT_FOUND - no".into()),
    ] {
        let mut peer = softly();
        peer.send("SEND\ndestination:/topic/t");
        let (operation, _) = peer.performing();
        peer.failed(operation, problem.clone());
        peer.assert_error(problem.message());
    }
    let mut peer = softly();
    peer.send("SEND\nreceipt:r");
    peer.assert_error("Missing destination");
}

#[test]
fn a_denied_send_does_not_hold_up_a_disconnect() {
    let mut peer = softly();
    peer.send("SEND\ndestination:/topic/t");
    let (operation, _) = peer.performing();
    peer.send("DISCONNECT\nreceipt:d");
    peer.denied(operation);
    let written = peer.written();
    assert_eq!(written.len(), 2, "{written:?}");
    assert!(written[0].starts_with("ERROR\n") && written[1].starts_with("RECEIPT\n"));
}
