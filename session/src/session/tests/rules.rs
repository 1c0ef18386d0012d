//! The protocol's rules that servers get wrong, by the numbers they have in the project's notes
//! on STOMP 1.0 to 1.2. Rules 1, 2, 5, 7, 9, 11 and 21 are the grammar's and the transports'.

use super::*;
use crate::{AckMode, Problem};

#[test]
fn rule_03_receipts_and_subscriptions_are_escaped_for_the_version() {
    for (version, expected) in [
        ("1.0", "a:b\\c d"),
        ("1.1", "a\\cb\\\\c\\nd"),
        ("1.2", "a\\cb\\\\c\\nd"),
    ] {
        let mut peer = Peer::connected(version);
        let frame = Frame::new(Command::Subscribe)
            .with_header("id", "a:b\\c\nd")
            .with_header("destination", "/topic/t")
            .with_header("receipt", "a:b\\c\nd");
        peer.session.handle_frame(peer.now, frame);
        peer.poll();
        let (operation, subscription) = peer.subscribing();
        peer.done(operation);
        peer.assert_receipts(&[expected]);
        let (_, message) = peer.deliver(subscription, 1);
        assert_eq!(header(&message, "subscription"), Some(expected));
    }
}

#[test]
fn rule_04_connect_headers_are_handed_on_as_they_came_and_connected_is_not_escaped() {
    let mut config = config();
    config.server = Some("a:b\\c".into());
    let mut peer = Peer::new(config);
    peer.send("CONNECT\naccept-version:1.2\npasscode:a\\nb:c\\\\d");
    let Some(Action::Authenticate(connect)) = peer.asked.pop_front() else {
        panic!()
    };
    assert_eq!(connect.headers.get("passcode"), Some("a\\nb:c\\\\d"));
    peer.session.handle_authenticated(peer.now, Ok(()));
    peer.poll();
    let connected = "CONNECTED\nserver:a:b\\c\nsession:session-x\nheart-beat:0,0\nversion:1.2\n\n";
    assert_eq!(peer.written(), [connected]);
}

#[test]
fn rule_06_the_first_of_repeated_headers_wins() {
    let mut peer = Peer::connected("1.2");
    peer.send("SUBSCRIBE\nid:1\nid:2\ndestination:/a\ndestination:/b\nreceipt:r\nreceipt:s");
    let Some(Action::Subscribe(operation, ask)) = peer.asked.pop_front() else {
        panic!()
    };
    assert_eq!(&*ask.destination, "/a");
    peer.done(operation);
    peer.assert_receipts(&["r"]);
    let (_, message) = peer.deliver(ask.subscription, 1);
    assert_eq!(header(&message, "subscription"), Some("1"));
}

#[test]
fn rule_10_the_highest_common_version_is_spoken() {
    for (accepted, version) in [
        ("CONNECT", "1.0"),
        ("CONNECT\naccept-version:1.0", "1.0"),
        ("CONNECT\naccept-version:1.1", "1.1"),
        ("CONNECT\naccept-version:1.2", "1.2"),
        ("CONNECT\naccept-version:1.2,1.0,1.1", "1.2"),
        ("CONNECT\naccept-version:1.1,1.3", "1.1"),
    ] {
        let mut peer = Peer::new(config());
        peer.send(accepted);
        // Known before the login is through: bytes that follow are to be decoded for it.
        assert_eq!(peer.session.version().as_str(), version);
        peer.session.handle_authenticated(peer.now, Ok(()));
        peer.poll();
        assert_eq!(header(&peer.written()[0], "version"), Some(version));
    }
}

#[test]
fn rule_10_without_a_common_version_there_is_an_error_and_the_close() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.3,100.1");
    let error = peer.assert_error("Version mismatch");
    assert_eq!(header(&error, "version"), Some("1.0,1.1,1.2"));
    assert!(peer.asked.is_empty());
}

#[test]
fn rule_12_stomp_is_connect() {
    let mut peer = Peer::new(config());
    peer.send("STOMP\naccept-version:1.2");
    peer.log_in();
    assert!(peer.session.is_connected());
}

#[test]
fn rule_12_a_second_connect_is_an_error() {
    for command in ["CONNECT", "STOMP"] {
        let mut peer = Peer::connected("1.2");
        peer.send(&format!("{command}\naccept-version:1.2"));
        peer.assert_error("Illegal command");
    }
}

#[test]
fn rule_12_every_other_frame_before_connect_is_an_error() {
    for command in Command::ALL {
        if matches!(command, Command::Connect | Command::Stomp) {
            continue;
        }
        let mut peer = Peer::new(config());
        peer.send(&format!("{command}\nreceipt:a:b\ndestination:/topic/t"));
        // Without a version nothing is escaped.
        let error = peer.assert_error("Illegal command");
        assert_eq!(header(&error, "receipt-id"), Some("a:b"));
        assert!(peer.asked.is_empty());
    }
}

#[test]
fn rule_12_no_frame_is_wanted_while_the_login_is_pending() {
    let mut peer = Peer::new(config());
    assert!(peer.session.wants_frame());
    peer.send("CONNECT\naccept-version:1.2");
    assert!(!peer.session.wants_frame() && !peer.session.is_connected());
    peer.log_in();
    assert!(peer.session.wants_frame() && peer.session.is_connected());
    // Answered once.
    peer.session
        .handle_authenticated(peer.now, Err(Problem::MissingCredentials));
    peer.poll();
    peer.assert_silent();
}

#[test]
fn rule_12_a_frame_that_overtakes_the_login_is_an_error() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2");
    peer.asked.clear();
    peer.send("SEND\ndestination:/topic/t");
    peer.assert_error("Illegal command");
    assert!(peer.asked.is_empty());
}

#[test]
fn rule_14_subscribe_needs_an_id_from_1_1_on() {
    for version in ["1.1", "1.2"] {
        let mut peer = Peer::connected(version);
        peer.send("SUBSCRIBE\ndestination:/topic/t");
        let error = peer.assert_error("Missing header");
        assert!(
            error.ends_with("\n\n\"SUBSCRIBE\" must include the \"id\" header\n"),
            "{error}"
        );
    }
}

#[test]
fn rule_14_in_1_0_a_subscription_without_id_goes_by_its_destination() {
    let mut peer = Peer::connected("1.0");
    let subscription = peer.subscribe("SUBSCRIBE\ndestination:/topic/t");
    let (delivered, message) = peer.deliver(subscription, 1);
    assert_eq!(delivered, Delivered::Done);
    let expected = "MESSAGE\nmessage-id:1@@session-x@@1\nredelivered:false\n\
                    destination:/topic/t\n\nhi\0";
    assert_eq!(message, expected);
    peer.send("UNSUBSCRIBE\ndestination:/topic/t\nreceipt:u");
    let (operation, ended) = peer.unsubscribing();
    assert_eq!(ended, subscription);
    peer.done(operation);
    peer.assert_receipts(&["u"]);
}

#[test]
fn rule_14_a_destination_does_not_name_a_subscription_that_has_an_id() {
    let mut peer = Peer::connected("1.0");
    peer.subscribe("SUBSCRIBE\nid:/topic/t\ndestination:/topic/t");
    // Both may live: one is named by its id, one by its destination.
    peer.subscribe("SUBSCRIBE\ndestination:/topic/t");
    peer.send("UNSUBSCRIBE\ndestination:/topic/t");
    peer.unsubscribing();
    peer.send("UNSUBSCRIBE\ndestination:/topic/t");
    peer.assert_error("No subscription found");
}

#[test]
fn rule_14_a_live_id_cannot_be_taken_again_but_a_freed_one_can() {
    let mut peer = Peer::connected("1.2");
    let first = peer.subscribe("SUBSCRIBE\nid:1\ndestination:/topic/a");
    peer.send("UNSUBSCRIBE\nid:1");
    let (unsubscribing, ended) = peer.unsubscribing();
    assert_eq!(ended, first);
    // Free as soon as UNSUBSCRIBE was handled, and what is late for the old one is refused.
    let second = peer.subscribe("SUBSCRIBE\nid:1\ndestination:/topic/b");
    assert_ne!(first, second);
    assert_eq!(peer.deliver(first, 1), (Delivered::Refused, String::new()));
    assert_eq!(peer.deliver(second, 1).0, Delivered::Done);
    peer.done(unsubscribing);
    peer.send("SUBSCRIBE\nid:1\ndestination:/topic/c");
    peer.assert_error("Duplicated subscription identifier");
}

#[test]
fn rule_15_each_version_has_its_header_and_ignores_the_others() {
    for (version, ack) in [
        ("1.0", "message-id:$\nid:zzz\nsubscription:zzz"),
        ("1.1", "message-id:$\nsubscription:s\nid:zzz"),
        ("1.1", "message-id:$"),
        ("1.2", "id:$\nmessage-id:zzz\nsubscription:zzz"),
    ] {
        let mut peer = Peer::connected(version);
        let ask = "SUBSCRIBE\nid:s\nack:client-individual\ndestination:/topic/t";
        let subscription = peer.subscribe(ask);
        let id = peer.message(subscription, 77);
        peer.send(&format!("ACK\n{}", ack.replace('$', &id)));
        assert_eq!(peer.settle(), accept(subscription, 77, false), "{version}");
    }
}

#[test]
fn rule_15_the_ack_header_is_1_2s_and_only_of_client_modes() {
    for (version, mode, expected) in [
        ("1.0", "client", false),
        ("1.1", "client-individual", false),
        ("1.2", "client", true),
        ("1.2", "client-individual", true),
        ("1.2", "auto", false),
    ] {
        let mut peer = Peer::connected(version);
        let ask = format!("SUBSCRIBE\nid:s\nack:{mode}\ndestination:/topic/t");
        let subscription = peer.subscribe(&ask);
        let (delivered, message) = peer.deliver(subscription, 1);
        let id = header(&message, "message-id").unwrap();
        assert_eq!(
            header(&message, "ack"),
            expected.then_some(id),
            "{version} {mode}"
        );
        assert_eq!(delivered == Delivered::AwaitingAck, mode != "auto");
        assert_eq!(id, "1@@session-x@@1");
    }
}

#[test]
fn rule_15_in_1_1_a_wrong_subscription_is_an_error() {
    let mut peer = Peer::connected("1.1");
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/t");
    peer.subscribe("SUBSCRIBE\nid:t\nack:client\ndestination:/topic/t");
    let id = peer.message(subscription, 1);
    peer.send(&format!("ACK\nmessage-id:{id}\nsubscription:t"));
    peer.assert_error("Invalid header");
    assert!(peer.asked.is_empty());
}

#[test]
fn rule_15_nack_says_what_becomes_of_the_message() {
    for (default, header, verdict) in [
        (true, "", Verdict::Requeue),
        (false, "", Verdict::Discard),
        (true, "\nrequeue:false", Verdict::Discard),
        (false, "\nrequeue:true", Verdict::Requeue),
        (true, "\nrequeue:False", Verdict::Discard),
        (false, "\nrequeue:maybe", Verdict::Discard),
    ] {
        let mut config = config();
        config.nack_requeue = default;
        let mut peer = Peer::connected_with(config, "1.2");
        let subscription = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/t");
        let id = peer.message(subscription, 1);
        peer.send(&format!("NACK\nid:{id}{header}"));
        assert_eq!(
            peer.settle(),
            Settle {
                subscription,
                tag: 1,
                multiple: true,
                verdict
            }
        );
    }
}

#[test]
fn rule_16_client_is_cumulative_within_its_own_subscription() {
    let mut peer = Peer::connected("1.2");
    let a = peer.subscribe("SUBSCRIBE\nid:a\nack:client\ndestination:/topic/a");
    let b = peer.subscribe("SUBSCRIBE\nid:b\nack:client\ndestination:/topic/b");
    let a1 = peer.message(a, 10);
    let b1 = peer.message(b, 20);
    let a2 = peer.message(a, 11);
    let a3 = peer.message(a, 12);
    peer.send(&format!("ACK\nid:{a2}"));
    assert_eq!(peer.settle(), accept(a, 11, true));
    // The other subscription's earlier message, and the later one, are still to be settled.
    peer.send(&format!("ACK\nid:{b1}"));
    assert_eq!(peer.settle(), accept(b, 20, true));
    peer.send(&format!("ACK\nid:{a3}"));
    assert_eq!(peer.settle(), accept(a, 12, true));
    // The earlier one is not.
    peer.send(&format!("ACK\nid:{a1}"));
    peer.assert_error("precondition_failed");
}

#[test]
fn rule_16_client_individual_is_not_cumulative() {
    let mut peer = Peer::connected("1.2");
    let a = peer.subscribe("SUBSCRIBE\nid:a\nack:client-individual\ndestination:/topic/a");
    let ids: Vec<_> = (10..14).map(|tag| peer.message(a, tag)).collect();
    for at in [2, 0, 3, 1] {
        peer.send(&format!("ACK\nid:{}", ids[at]));
        assert_eq!(peer.settle(), accept(a, 10 + at as u64, false));
    }
}

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
    peer.send("SEND\nreceipt:a:b");
    let written = peer.written();
    // The first is receipted; the third is done, but not in order.
    assert_eq!(written[0], "RECEIPT\nreceipt-id:1\n\n");
    let error = "ERROR\nmessage:Missing destination\ncontent-type:text/plain\n\
                 version:1.0,1.1,1.2\nreceipt-id:a\\cb\ncontent-length:43\n\n\
                 \"SEND\" must include a 'destination' header\n";
    assert_eq!(written[1..], [error]);
    assert_eq!(peer.closed, Some(CloseCode::Protocol));
    peer.done(second);
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
    peer.performing();
    let (operation, subscription) = peer.subscribing();
    peer.failed(
        operation,
        Problem::NotFound("NOT_FOUND - no exchange 'nope'".into()),
    );
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

#[test]
fn rule_20_a_transaction_is_performed_whole_at_its_commit() {
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client-individual\ndestination:/topic/a");
    let id = peer.message(s, 7);
    peer.send("BEGIN\ntransaction:t\nreceipt:b");
    peer.send("SEND\ndestination:/topic/a\ntransaction:t\nreceipt:1\n\none");
    peer.send(&format!("ACK\nid:{id}\ntransaction:t\nreceipt:2"));
    peer.send("SEND\ndestination:/topic/b\ntransaction:t\n\ntwo");
    peer.assert_receipts(&["b", "1", "2"]);
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
    assert_eq!(*ack, accept(s, 7, false));
    peer.assert_silent();
    peer.done(operation);
    peer.assert_receipts(&["c"]);
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

    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    let id = peer.message(s, 7);
    peer.send("BEGIN\ntransaction:t");
    peer.send(&format!("ACK\nid:{id}\ntransaction:t"));
    peer.send("UNSUBSCRIBE\nid:s");
    peer.unsubscribing();
    peer.send("COMMIT\ntransaction:t");
    let error = peer.assert_error("Subscription not found");
    assert!(error.contains(&id));
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

    // Bytes are counted over all that are open: "destination", "/t", "transaction", "a" are 25.
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:a");
    peer.send("BEGIN\ntransaction:b");
    peer.send(&format!(
        "SEND\ndestination:/t\ntransaction:a\n\n{}",
        "x".repeat(75)
    ));
    peer.send(&format!(
        "SEND\ndestination:/t\ntransaction:b\n\n{}",
        "x".repeat(75)
    ));
    assert_eq!(peer.session.transactions.load(), (2, 2, 200));
    peer.send("ABORT\ntransaction:a");
    assert_eq!(peer.session.transactions.load(), (1, 1, 100));
    peer.send("BEGIN\ntransaction:a");
    peer.send(&format!(
        "SEND\ndestination:/t\ntransaction:a\n\n{}",
        "x".repeat(75)
    ));
    peer.assert_silent();
    peer.send("SEND\ndestination:/t\ntransaction:b");
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

#[test]
fn subscriptions_are_bounded() {
    let mut peer = Peer::connected("1.2");
    for id in 0..4 {
        peer.subscribe(&format!("SUBSCRIBE\nid:{id}\ndestination:/topic/a"));
    }
    peer.send("UNSUBSCRIBE\nid:2");
    peer.unsubscribing();
    peer.subscribe("SUBSCRIBE\nid:2\ndestination:/topic/a");
    peer.send("SUBSCRIBE\nid:4\ndestination:/topic/a");
    peer.assert_error("Too many subscriptions");
}

#[test]
fn subscribe_hands_on_what_it_asks() {
    let mut peer = Peer::connected("1.2");
    peer.send("SUBSCRIBE\nid:s\ndestination:/topic/a\nack:client-individual\nprefetch-count:3");
    let Some(Action::Subscribe(_, ask)) = peer.asked.pop_front() else {
        panic!()
    };
    assert_eq!(ask.ack, AckMode::ClientIndividual);
    assert_eq!(ask.headers.get("prefetch-count"), Some("3"));
    // Messages may come before the broker's answer does.
    assert_eq!(peer.deliver(ask.subscription, 1).0, Delivered::AwaitingAck);
}

#[test]
fn a_redelivered_message_says_so() {
    let mut peer = Peer::connected("1.2");
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/topic/a");
    let mut out = Vec::new();
    let delivery = Delivery {
        subscription,
        tag: 1,
        redelivered: true,
        tail: b"\n\0",
    };
    peer.session.handle_delivery(peer.now, delivery, &mut out);
    let expected = "MESSAGE\nsubscription:s\nmessage-id:1@@session-x@@1\nredelivered:true\n\n\0";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn replies_come_by_a_subscription_that_was_not_asked_for() {
    let mut peer = Peer::connected("1.2");
    let replies = peer.session.open_replies("/temp-queue/foo").unwrap();
    assert_eq!(peer.session.open_replies("/temp-queue/foo"), Ok(replies));
    let (delivered, message) = peer.deliver(replies, 1);
    assert_eq!(delivered, Delivered::Done);
    assert_eq!(header(&message, "subscription"), Some("/temp-queue/foo"));
    for id in 0..3 {
        peer.session
            .open_replies(&format!("/temp-queue/{id}"))
            .unwrap();
    }
    let refused = peer.session.open_replies("/temp-queue/4");
    assert_eq!(refused, Err(Problem::TooManySubscriptions { limit: 4 }));
    for command in ["SUBSCRIBE", "UNSUBSCRIBE"] {
        let mut peer = Peer::connected("1.2");
        peer.session.open_replies("/temp-queue/foo").unwrap();
        peer.send(&format!(
            "{command}\nid:/temp-queue/foo\ndestination:/topic/a"
        ));
        peer.assert_error("Invalid id");
    }
}

#[test]
fn the_login_has_to_be_complete_in_time() {
    for send in [None, Some("CONNECT\naccept-version:1.2")] {
        let mut peer = Peer::new(config());
        if let Some(text) = send {
            peer.wait(Duration::from_secs(9));
            peer.send(text);
            peer.asked.clear();
            peer.wait(Duration::from_secs(1));
        } else {
            peer.wait(Duration::from_secs(10));
        }
        assert_eq!(peer.session.poll_timeout(), Some(peer.now));
        peer.timeout();
        peer.assert_error("login timeout");
        // The answer comes too late.
        peer.session.handle_authenticated(peer.now, Ok(()));
        peer.poll();
        assert!(peer.written.is_empty());
    }
}

/// There are hundreds of thousands of sessions, nearly all of them idle.
#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 200, "{}", size_of::<Session>());
    assert!(size_of::<Action>() <= 40, "{}", size_of::<Action>());
    let mut peer = Peer::connected("1.2");
    peer.subscribe("SUBSCRIBE\nid:s\ndestination:/topic/a\nreceipt:r");
    assert_eq!(peer.session.actions.capacity(), 0);
    assert_eq!(peer.session.pending.capacity(), 0);
}
