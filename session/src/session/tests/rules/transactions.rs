//! Rule 20: transactions.

use crate::session::tests::*;

#[test]
fn rule_20_a_transaction_is_performed_whole_at_its_commit() {
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client-individual\ndestination:/topic/a");
    let id = peer.message(s, 7);
    peer.send("BEGIN\ntransaction:t\nreceipt:b");
    peer.send("SEND\ndestination:/topic/a\ntransaction:t\nreceipt:1\n\none");
    peer.send(&format!("ACK\nid:{id}\ntransaction:t\nreceipt:2"));
    peer.send("SEND\ndestination:/topic/b\ntransaction:t\n\ntwo");
    peer.assert_receipts(&["b", "2"]);
    peer.assert_silent();
    peer.send("COMMIT\ntransaction:t\nreceipt:c");
    let (operation, operations) = peer.performing();
    let [
        Operation::Publish(one),
        Operation::Settle(ack),
        Operation::Publish(two),
    ] = &operations[..]
    else {
        panic!("{operations:?}")
    };
    assert_eq!((&one.body[..], &two.body[..]), (&b"one"[..], &b"two"[..]));
    assert_eq!(*ack, in_commit(accept(s, 7, false)));
    peer.assert_silent();
    peer.done(operation);
    peer.assert_receipts(&["1", "c"]);
    // It is over, and its name is free.
    peer.send("BEGIN\ntransaction:t");
    peer.send("COMMIT\ntransaction:t\nreceipt:d");
    peer.assert_receipts(&["d"]);
    peer.send("COMMIT\ntransaction:t");
    peer.assert_error("Bad transaction");
}

#[test]
fn rule_20_an_id_is_unique_while_open() {
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:t");
    peer.send("BEGIN\ntransaction:u");
    peer.send("ABORT\ntransaction:u");
    peer.send("BEGIN\ntransaction:t");
    peer.assert_error("Duplicated transaction identifier");
}

#[test]
fn rule_20_what_was_acknowledged_in_an_aborted_transaction_can_be_again() {
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    let id = peer.message(s, 7);
    peer.send("BEGIN\ntransaction:t");
    peer.send(&format!("NACK\nid:{id}\ntransaction:t"));
    peer.assert_silent();
    peer.send("ABORT\ntransaction:t");
    peer.assert_silent();
    peer.send(&format!("ACK\nid:{id}"));
    assert_eq!(peer.settle(), accept(s, 7, true));
}

#[test]
fn rule_20_a_commit_of_what_was_settled_meanwhile_does_nothing_but_fail() {
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    let id = peer.message(s, 7);
    peer.send("BEGIN\ntransaction:t");
    peer.send("SEND\ndestination:/topic/a\ntransaction:t");
    peer.send(&format!("ACK\nid:{id}\ntransaction:t"));
    peer.send(&format!("ACK\nid:{id}"));
    peer.settle();
    peer.send("COMMIT\ntransaction:t");
    peer.assert_error("precondition_failed");
    assert!(peer.asked.is_empty());

    // The second of two is too late.
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    let id = peer.message(s, 7);
    for transaction in ["t", "u"] {
        peer.send(&format!("BEGIN\ntransaction:{transaction}"));
        peer.send(&format!("ACK\nid:{id}\ntransaction:{transaction}"));
    }
    peer.send("UNSUBSCRIBE\nid:s");
    peer.all_done();
    peer.send("COMMIT\ntransaction:t");
    let last = in_commit(accept(s, 7, true));
    assert_eq!(
        peer.settle(),
        Settle {
            is_last: true,
            ..last
        }
    );
    peer.send("COMMIT\ntransaction:u");
    let error = peer.assert_error("Subscription not found");
    assert!(error.contains(&id));
}

#[test]
fn rule_20_what_cannot_be_acknowledged_is_refused_at_once() {
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    let id = peer.message(s, 7);
    peer.send(&format!("ACK\nid:{id}"));
    peer.settle();
    peer.send("BEGIN\ntransaction:t");
    peer.send(&format!("ACK\nid:{id}\ntransaction:t"));
    peer.assert_error("precondition_failed");
}

#[test]
fn rule_20_transactions_are_bounded() {
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:a");
    peer.send("BEGIN\ntransaction:b");
    peer.send("BEGIN\ntransaction:c");
    peer.assert_error("Too many transactions");
    assert_eq!(peer.closed, Some(CloseCode::Policy));

    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:a");
    for _ in 0..3 {
        peer.send("SEND\ndestination:/t\ntransaction:a");
    }
    peer.assert_silent();
    peer.send("SEND\ndestination:/t\ntransaction:a");
    peer.assert_error("Transaction too large");

    // Bytes are counted over all that are open: "destination", "/t", "transaction", "a" are 25,
    // each header 8 more, and each frame 256.
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:a");
    peer.send("BEGIN\ntransaction:b");
    peer.send(&format!(
        "SEND\ndestination:/t\ntransaction:a\n\n{}",
        "x".repeat(303)
    ));
    peer.send(&format!(
        "SEND\ndestination:/t\ntransaction:b\n\n{}",
        "x".repeat(303)
    ));
    assert_eq!(peer.session.transactions.load(), (2, 2, 1_200));
    peer.send("ABORT\ntransaction:a");
    assert_eq!(peer.session.transactions.load(), (1, 1, 600));
    peer.send("BEGIN\ntransaction:a");
    peer.send(&format!(
        "SEND\ndestination:/t\ntransaction:a\n\n{}",
        "x".repeat(303)
    ));
    peer.assert_silent();

    let mut peer = Peer::connected("1.2");
    for (length, fits) in [(903, true), (904, false)] {
        peer.send(&format!("BEGIN\ntransaction:{length}"));
        let body = "x".repeat(length - 2);
        peer.send(&format!(
            "SEND\ndestination:/t\ntransaction:{length}\n\n{body}"
        ));
        assert_eq!(peer.closed.is_none(), fits);
        peer.send(&format!("ABORT\ntransaction:{length}"));
    }
    peer.assert_error("Transaction too large");
}

#[test]
fn rule_20_a_disconnect_aborts() {
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:a");
    peer.send("SEND\ndestination:/t\ntransaction:a");
    peer.send("DISCONNECT");
    assert!(peer.asked.is_empty());
    assert_eq!(peer.session.transactions.load(), (0, 0, 0));
}

/// A RECEIPT says that the broker has it, and of a transaction it has nothing before the COMMIT.
#[test]
fn rule_20_receipts_within_wait_for_the_commit_and_hold_back_no_others() {
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:t\nreceipt:begin");
    peer.send("SEND\ntransaction:t\nreceipt:within\ndestination:/t");
    peer.send("SEND\nreceipt:beside\ndestination:/t");
    let (beside, _) = peer.performing();
    peer.done(beside);
    peer.assert_receipts(&["begin", "beside"]);
    peer.send("COMMIT\ntransaction:t");
    peer.send("SEND\nreceipt:after\ndestination:/t");
    let (commit, _) = peer.performing();
    let (after, _) = peer.performing();
    peer.done(after);
    peer.assert_silent();
    peer.done(commit);
    peer.assert_receipts(&["within", "after"]);
}

#[test]
fn rule_20_no_receipt_is_written_for_what_was_not_sent() {
    let within = |peer: &mut Peer| {
        peer.send("BEGIN\ntransaction:t");
        peer.send("SEND\ntransaction:t\nreceipt:within\ndestination:/t");
    };
    let mut peer = Peer::connected("1.2");
    within(&mut peer);
    peer.send("ABORT\ntransaction:t\nreceipt:abort");
    peer.assert_receipts(&["abort"]);
    within(&mut peer);
    peer.send("COMMIT\ntransaction:t\nreceipt:commit");
    let (commit, _) = peer.performing();
    peer.failed(commit, Problem::NotPublished("why".into()));
    let error = peer.assert_error("message not published");
    assert_eq!(header(&error, "receipt-id"), Some("commit"));

    let mut peer = Peer::connected("1.2");
    within(&mut peer);
    peer.send("DISCONNECT\nreceipt:bye");
    peer.assert_receipts(&["bye"]);

    // Nor where the session goes on.
    let mut peer = Peer::connected_with(
        Config {
            soft_deny: true,
            ..config()
        },
        "1.2",
    );
    within(&mut peer);
    peer.send("COMMIT\ntransaction:t\nreceipt:commit");
    let (commit, _) = peer.performing();
    peer.denied(commit);
    peer.send("BEGIN\ntransaction:u\nreceipt:next");
    let written = peer.written();
    assert_eq!(written.len(), 2, "{written:?}");
    assert!(written[0].starts_with("ERROR\n"));
    assert_eq!(written[1], "RECEIPT\nreceipt-id:next\n\n");
}
