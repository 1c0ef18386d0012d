//! Rules 17 to 19: receipts, errors, and the end.

use crate::session::tests::*;

#[test]
fn rule_17_receipts_come_in_the_order_of_their_frames() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    peer.send("SUBSCRIBE\nid:s\ndestination:/topic/a\nreceipt:2");
    peer.send("BEGIN\ntransaction:t\nreceipt:3");
    let (first, _) = peer.performing();
    let (second, _) = peer.subscribing();
    peer.assert_silent();
    peer.done(second);
    peer.assert_silent();
    // Twice, or unknown: ignored.
    peer.done(second);
    peer.done(OperationId(99));
    peer.done(first);
    peer.assert_receipts(&["1", "2", "3"]);
    peer.send("ABORT\ntransaction:t\nreceipt:4");
    peer.assert_receipts(&["4"]);
    peer.done(first);
    peer.assert_silent();
}

#[test]
fn rule_17_a_send_is_receipted_when_it_was_confirmed() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1\n\nbody");
    let (operation, operations) = peer.performing();
    let [Operation::Publish(publish)] = &operations[..] else {
        panic!()
    };
    assert_eq!(
        (&*publish.destination, &publish.body[..]),
        ("/topic/a", &b"body"[..])
    );
    peer.assert_silent();
    peer.done(operation);
    peer.assert_receipts(&["1"]);
}

#[test]
fn rule_17_a_receipt_on_connect_means_nothing() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2\nreceipt:r");
    peer.log_in();
    peer.assert_silent();
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:9\nreceipt:r");
    assert_eq!(
        header(&peer.assert_error("Version mismatch"), "receipt-id"),
        None
    );
}

#[test]
fn rule_17_frames_wait_while_too_much_is_pending() {
    let mut peer = Peer::connected("1.2");
    let mut operations = Vec::new();
    for _ in 0..4 {
        assert!(peer.session.wants_frame());
        peer.send("SEND\ndestination:/topic/a");
        operations.push(peer.performing().0);
    }
    assert!(!peer.session.wants_frame());
    // Done, but not the first: it is still held in the order of receipts.
    peer.done(operations[1]);
    assert!(!peer.session.wants_frame());
    peer.done(operations[0]);
    assert!(peer.session.wants_frame());
    assert_eq!(peer.session.pending(), 2);
}

#[test]
fn rule_18_an_error_carries_the_receipt_of_its_frame_and_nothing_follows() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    peer.send("SEND\ndestination:/topic/a\nreceipt:2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:3");
    let (first, _) = peer.performing();
    let (second, _) = peer.performing();
    let (third, _) = peer.performing();
    peer.done(first);
    peer.done(third);
    peer.assert_receipts(&["1"]);
    peer.send("SEND\nreceipt:a:b");
    // The third is done, but not in order.
    peer.assert_silent();
    peer.done(second);
    let written = peer.written();
    assert_eq!(written[0], "RECEIPT\nreceipt-id:2\n\n");
    assert_eq!(written[1], "RECEIPT\nreceipt-id:3\n\n");
    let error = "ERROR\nmessage:Missing destination\ncontent-type:text/plain\n\
                 version:1.0,1.1,1.2\nerror-code:missing-destination\nreconnect:no\n\
                 receipt-id:a\\cb\ncontent-length:43\n\n\
                 \"SEND\" must include a 'destination' header\n";
    assert_eq!(written[2..], [error]);
    assert_eq!(peer.closed, Some(CloseCode::Protocol));
    peer.send("SEND\nreceipt:r");
    peer.session.handle_problem(peer.now, Problem::ShuttingDown);
    peer.decode_error(DecodeErrorKind::UnknownCommand("X".into()), None);
    peer.wait(Duration::from_secs(1000));
    peer.timeout();
    assert!(peer.written().is_empty() && peer.asked.is_empty());
    assert_eq!(peer.session.poll_timeout(), None);
    assert!(!peer.session.wants_frame() && peer.session.is_closed());
}

#[test]
fn rule_18_a_failed_operation_carries_the_receipt_of_its_frame() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    peer.send("SUBSCRIBE\nid:s\ndestination:/exchange/nope\nreceipt:2");
    let (first, _) = peer.performing();
    let (operation, subscription) = peer.subscribing();
    peer.failed(
        operation,
        Problem::NotFound("NOT_FOUND - no exchange 'nope'".into()),
    );
    peer.assert_silent();
    peer.done(first);
    let receipt = peer.written.pop_front();
    assert_eq!(receipt.as_deref(), Some("RECEIPT\nreceipt-id:1\n\n"));
    let error = peer.assert_error("not_found");
    assert_eq!(header(&error, "receipt-id"), Some("2"));
    assert!(error.ends_with("\n\nNOT_FOUND - no exchange 'nope'"));
    assert_eq!(peer.deliver(subscription, 1).0, Delivered::Refused);
}

#[test]
fn rule_18_a_failure_of_what_is_done_is_ignored() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a");
    peer.send("SEND\ndestination:/topic/a");
    peer.performing();
    let (second, _) = peer.performing();
    peer.done(second);
    peer.failed(second, Problem::NotPublished("late".into()));
    peer.assert_silent();
}

#[test]
fn rule_19_disconnect_is_answered_after_all_before_it_and_the_client_closes() {
    let mut peer = Peer::connected("1.2");
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    let (operation, _) = peer.performing();
    peer.send("DISCONNECT\nreceipt:bye");
    peer.assert_silent();
    assert!(!peer.session.is_connected());
    assert_eq!(peer.deliver(subscription, 1).0, Delivered::Refused);
    peer.done(operation);
    peer.assert_receipts(&["1", "bye"]);
    assert_eq!(peer.closed, None);
    // What follows is read and ignored.
    assert!(peer.session.wants_frame());
    peer.send("SEND\ndestination:/topic/a\nreceipt:2");
    peer.send("DISCONNECT\nreceipt:bye");
    peer.decode_error(DecodeErrorKind::UnknownCommand("X".into()), None);
    peer.assert_silent();
    assert_eq!(
        peer.session.poll_timeout(),
        Some(peer.now + Duration::from_secs(1))
    );
    peer.wait(Duration::from_millis(999));
    peer.timeout();
    peer.assert_silent();
    peer.wait(Duration::from_millis(1));
    peer.timeout();
    assert_eq!(peer.closed, Some(CloseCode::Normal));
    assert!(peer.written.is_empty());
}

/// An ACK is done when the broker has heard of it; if nobody has asked, DISCONNECT does.
#[test]
fn rule_19_disconnect_is_answered_after_the_broker_has_heard_of_acknowledgements() {
    for (receipt, transaction) in [("", ""), ("receipt:a", ""), ("", "transaction:t")] {
        let mut peer = Peer::connected("1.2");
        let subscription = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
        let (_, message) = peer.deliver(subscription, 1);
        let id = header(&message, "ack").unwrap();
        peer.send("BEGIN\ntransaction:t");
        let headers = [receipt, transaction].concat();
        peer.send(&format!("ACK\nid:{id}\n{headers}"));
        peer.all_done();
        peer.written();
        peer.send("DISCONNECT\nreceipt:bye");
        if headers.is_empty() {
            assert!(peer.written.is_empty());
            let (operation, operations) = peer.performing();
            assert!(matches!(operations[..], [Operation::Hear]));
            let told = [("settled", "false".into())];
            peer.session.tell_in_receipt(operation, told.into());
            peer.done(operation);
            assert_eq!(
                peer.written(),
                ["RECEIPT\nreceipt-id:bye\nsettled:false\n\n"]
            );
        } else {
            peer.assert_receipts(&["bye"]);
        }
        assert_eq!(peer.closed, None);
    }
    // No caller waits for an answer.
    let mut peer = Peer::connected("1.2");
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    let (_, message) = peer.deliver(subscription, 1);
    let id = header(&message, "ack").unwrap();
    peer.send(&format!("ACK\nid:{id}"));
    peer.all_done();
    peer.send("DISCONNECT");
    assert_eq!(peer.closed, Some(CloseCode::Normal));
}

#[test]
fn rule_19_disconnect_without_receipt_closes_after_all_before_it() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    let (operation, _) = peer.performing();
    peer.send("DISCONNECT");
    peer.assert_silent();
    peer.done(operation);
    peer.assert_receipts(&["1"]);
    assert_eq!(peer.closed, Some(CloseCode::Normal));

    let mut peer = Peer::connected("1.2");
    peer.send("DISCONNECT");
    assert_eq!(peer.closed, Some(CloseCode::Normal));
}

#[test]
fn rule_19_what_fails_before_the_disconnect_is_still_told() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    let (operation, _) = peer.performing();
    peer.send("DISCONNECT\nreceipt:bye");
    peer.failed(operation, Problem::NotPublished("no queue\n".into()));
    let error = peer.assert_error("message not published");
    assert_eq!(header(&error, "receipt-id"), Some("1"));
}

#[test]
fn rule_19_no_error_follows_the_answer_to_disconnect() {
    let mut peer = Peer::connected("1.2");
    peer.send("DISCONNECT\nreceipt:bye");
    peer.assert_receipts(&["bye"]);
    peer.session.handle_problem(peer.now, Problem::ShuttingDown);
    peer.poll();
    assert!(peer.written.is_empty());
    assert_eq!(peer.closed, Some(CloseCode::Normal));
}

/// A peer with operations of these receipts on their way.
fn sending(receipts: &[&str]) -> (Peer, Vec<OperationId>) {
    let mut peer = Peer::connected("1.2");
    let operations = receipts
        .iter()
        .map(|receipt| {
            peer.send(&format!("SEND\ndestination:/topic/a\nreceipt:{receipt}"));
            peer.performing().0
        })
        .collect();
    (peer, operations)
}

/// That these receipts, and then this ERROR, are all that was written.
#[track_caller]
fn assert_ended(peer: &mut Peer, receipts: &[&str], message: &str) -> String {
    for receipt in receipts {
        let expected = format!("RECEIPT\nreceipt-id:{receipt}\n\n");
        assert_eq!(peer.written.pop_front(), Some(expected));
    }
    peer.assert_error(message)
}

#[test]
fn what_precedes_an_error_is_done_and_receipted_first() {
    let bad: [&dyn Fn(&mut Peer); 6] = [
        &|peer| peer.send("UNSUBSCRIBE\nid:nope\nreceipt:bad"),
        &|peer| peer.send("ACK\nid:zzz\nreceipt:bad"),
        &|peer| peer.send("SEND\nreceipt:bad"),
        &|peer| peer.send("COMMIT\ntransaction:t\nreceipt:bad"),
        &|peer| peer.decode_error(DecodeErrorKind::UnknownCommand("X".into()), Some("bad")),
        &|peer| {
            let limit = DecodeErrorKind::FrameTooBig {
                limit: 9,
                announced: None,
            };
            peer.decode_error(limit, Some("bad"));
        },
    ];
    for bad in bad {
        let (mut peer, operations) = sending(&["1", "2"]);
        bad(&mut peer);
        // Nothing more is read meanwhile, and nothing is delivered.
        assert!(!peer.session.wants_frame() && !peer.session.is_connected());
        peer.send("SEND\ndestination:/topic/a\nreceipt:3");
        peer.send("DISCONNECT\nreceipt:4");
        peer.assert_silent();
        assert_eq!(peer.abandoned, None);
        peer.done(operations[1]);
        peer.assert_silent();
        peer.done(operations[0]);
        assert_eq!(peer.written.len(), 3);
        let error = peer.written.pop_back().unwrap();
        peer.assert_receipts(&["1", "2"]);
        assert!(error.starts_with("ERROR\n"), "{error}");
        assert_eq!(header(&error, "receipt-id"), Some("bad"));
    }
}

#[test]
fn the_earliest_frame_that_fails_is_the_one_that_is_told() {
    let (mut peer, operations) = sending(&["1", "2", "3", "4"]);
    peer.send("SEND\nreceipt:5");
    peer.failed(operations[2], Problem::NotPublished("3".into()));
    // What came after it is not done any more.
    assert_eq!(peer.abandoned.take(), Some(operations[2]));
    peer.failed(operations[3], Problem::NotPublished("4".into()));
    peer.failed(operations[1], Problem::NotPublished("2".into()));
    peer.assert_silent();
    peer.done(operations[0]);
    let error = assert_ended(&mut peer, &["1"], "message not published");
    assert_eq!(header(&error, "receipt-id"), Some("2"));
}

#[test]
fn the_wait_before_an_error_is_bounded() {
    let (mut peer, operations) = sending(&["1", "2"]);
    peer.send("SEND\nreceipt:bad");
    peer.done(operations[0]);
    peer.assert_receipts(&["1"]);
    let due = peer.now + Duration::from_secs(10);
    assert_eq!(peer.session.poll_timeout(), Some(due));
    peer.wait(Duration::from_millis(9_999));
    peer.timeout();
    peer.assert_silent();
    peer.wait(Duration::from_millis(1));
    peer.timeout();
    let error = peer.assert_error("Missing destination");
    assert_eq!(header(&error, "receipt-id"), Some("bad"));
}

#[test]
fn a_drain_waits_two_seconds_also_for_those_who_end_anyway() {
    let ends: [&dyn Fn(&mut Peer); 3] =
        [&|_| {}, &|peer| peer.send("SEND\nreceipt:bad"), &|peer| {
            peer.send("DISCONNECT\nreceipt:bye")
        }];
    for (end, message) in ends.into_iter().zip([
        "server shutting down",
        "Missing destination",
        "server shutting down",
    ]) {
        let (mut peer, operations) = sending(&["1", "2"]);
        end(&mut peer);
        peer.session.handle_problem(peer.now, Problem::ShuttingDown);
        peer.poll();
        peer.assert_silent();
        peer.done(operations[0]);
        peer.assert_receipts(&["1"]);
        peer.wait(Duration::from_millis(1_999));
        peer.timeout();
        peer.assert_silent();
        peer.wait(Duration::from_millis(1));
        peer.timeout();
        peer.assert_error(message);
    }
    // In time, a DISCONNECT is answered as ever.
    let (mut peer, operations) = sending(&["1"]);
    peer.send("DISCONNECT\nreceipt:bye");
    peer.session.handle_problem(peer.now, Problem::ShuttingDown);
    peer.poll();
    peer.done(operations[0]);
    peer.assert_receipts(&["1", "bye"]);
    assert_eq!(peer.closed, None);
}

#[test]
fn a_client_that_is_thrown_out_gets_receipts_only_for_what_the_broker_has() {
    let (mut peer, operations) = sending(&["1", "2", "3"]);
    peer.send("BEGIN\ntransaction:t\nreceipt:4");
    let from = Some(operations[2]);
    peer.session
        .handle_revoked(peer.now, Problem::Replaced, from);
    peer.poll();
    peer.assert_silent();
    peer.done(operations[2]);
    peer.done(operations[1]);
    peer.assert_silent();
    peer.done(operations[0]);
    assert_ended(&mut peer, &["1", "2"], "session replaced");

    // Also where it was about to end for another reason: it must not come back.
    let (mut peer, operations) = sending(&["1", "2"]);
    peer.failed(operations[1], Problem::BrokerUnavailable("why".into()));
    peer.session
        .handle_revoked(peer.now, Problem::Replaced, None);
    peer.done(operations[0]);
    assert_ended(&mut peer, &["1"], "session replaced");
}

#[test]
fn a_client_thrown_out_after_its_disconnect_is_told_of_undone_frames() {
    for is_cut in [false, true] {
        let (mut peer, operations) = sending(&["1", "2"]);
        peer.send("DISCONNECT\nreceipt:bye");
        let from = is_cut.then_some(operations[1]);
        peer.session
            .handle_revoked(peer.now, Problem::Replaced, from);
        peer.done(operations[1]);
        peer.done(operations[0]);
        if is_cut {
            assert_ended(&mut peer, &["1"], "session replaced");
        } else {
            peer.assert_receipts(&["1", "2", "bye"]);
        }
    }
}

/// What it sent before is done all the same, and if it listens still, it is told.
#[test]
fn a_client_that_is_not_heard_of_has_its_receipts_before_the_error() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2\nheart-beat:8000,0");
    peer.log_in();
    peer.send("SEND\ndestination:/topic/a\nreceipt:1");
    let (operation, _) = peer.performing();
    peer.wait(Duration::from_secs(16));
    peer.timeout();
    peer.assert_silent();
    peer.done(operation);
    assert_ended(&mut peer, &["1"], "heart-beat missed");
}
