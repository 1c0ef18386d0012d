//! A login that ends by itself, and its renewal.

use crate::{Renewed, session::tests::*};

/// Logged in for so long.
fn for_seconds(config: Config, seconds: u64) -> Peer {
    let mut peer = Peer::new(config);
    peer.send("CONNECT\naccept-version:1.2");
    peer.asked.clear();
    let until = peer.now + Duration::from_secs(seconds);
    peer.session.handle_authenticated(peer.now, Ok(Some(until)));
    peer.poll();
    peer
}

fn short() -> Peer {
    let mut peer = for_seconds(config(), 60);
    peer.written.clear();
    peer
}

impl Peer {
    fn renewing(&mut self, text: &str) -> OperationId {
        self.send(&format!("SEND\ndestination:/auth/renew\n{text}"));
        match self.asked.pop_front() {
            Some(Action::Renew(operation, _)) => operation,
            other => panic!("{other:?}, {:?}", self.written),
        }
    }

    fn renewed(&mut self, operation: OperationId, seconds: u64, lost: Vec<SubscriptionId>) {
        let told = || Problem::PermissionWithdrawn {
            detail: "ACCESS_REFUSED - gone".into(),
        };
        let renewed = Renewed {
            until: Some(self.now + Duration::from_secs(seconds)),
            lost: lost.into_iter().map(|id| (id, told())).collect(),
        };
        self.session
            .handle_renewed(self.now, operation, Ok(renewed));
        self.poll();
    }

    fn refused(&mut self, operation: OperationId) {
        let problem = Problem::RenewalRefused("the token is another user's".into());
        self.session
            .handle_renewed(self.now, operation, Err(problem));
        self.poll();
    }
}

#[test]
fn connected_tells_the_time_that_is_left_and_only_then() {
    let mut peer = for_seconds(config(), 60);
    let connected = peer.written.pop_front().unwrap();
    assert_eq!(header(&connected, "expires-in"), Some("60"));
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2");
    peer.session.handle_authenticated(peer.now, Ok(None));
    peer.poll();
    let connected = peer.written.pop_front().unwrap();
    assert_eq!(header(&connected, "expires-in"), None);
}

/// Rounded down: a client that counts on it comes in time.
#[test]
fn the_time_is_told_in_whole_seconds() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2");
    let until = peer.now + Duration::from_millis(2999);
    peer.session.handle_authenticated(peer.now, Ok(Some(until)));
    peer.poll();
    let connected = peer.written.pop_front().unwrap();
    assert_eq!(header(&connected, "expires-in"), Some("2"));
}

#[test]
fn a_session_ends_with_its_login_and_not_before() {
    let mut peer = short();
    assert_eq!(
        peer.session.poll_timeout(),
        // Nothing else is due: there are no heart-beats.
        Some(peer.now + Duration::from_secs(60))
    );
    peer.wait(Duration::from_millis(59_999));
    peer.timeout();
    peer.assert_silent();
    peer.wait(Duration::from_millis(1));
    peer.timeout();
    let error = peer.assert_error("token expired");
    assert_eq!(header(&error, "error-code"), Some("token-expired"));
    assert_eq!(header(&error, "reconnect"), Some("renew"));
    assert_eq!(peer.closed, Some(CloseCode::Policy));
}

/// What was asked for in time is done, and only then comes the ERROR.
#[test]
fn earlier_frames_are_finished_first() {
    let mut peer = short();
    peer.send("SEND\ndestination:/topic/t\nreceipt:r");
    let (operation, _) = peer.performing();
    peer.wait(Duration::from_secs(60));
    peer.timeout();
    peer.assert_silent();
    peer.done(operation);
    let written = peer.written();
    assert!(
        written[0].starts_with("RECEIPT\nreceipt-id:r\n"),
        "{written:?}"
    );
    assert!(
        written[1].contains("error-code:token-expired"),
        "{written:?}"
    );
}

#[test]
fn a_login_without_an_end_has_none() {
    let mut peer = Peer::connected("1.2");
    assert_eq!(peer.session.poll_timeout(), None);
    peer.wait(Duration::from_secs(1_000_000));
    peer.timeout();
    peer.assert_silent();
}

#[test]
fn a_client_that_disconnects_in_time_gets_no_error() {
    let mut peer = short();
    peer.send("SEND\ndestination:/topic/t");
    peer.send("DISCONNECT\nreceipt:bye");
    peer.wait(Duration::from_secs(61));
    peer.timeout();
    let (operation, _) = peer.performing();
    peer.done(operation);
    let written = peer.written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(
        written[0].starts_with("RECEIPT\nreceipt-id:bye"),
        "{written:?}"
    );
}

#[test]
fn a_renewal_moves_the_end_and_its_receipt_tells_it() {
    let mut peer = short();
    peer.wait(Duration::from_secs(50));
    let operation = peer.renewing("token:t\nreceipt:r");
    peer.assert_silent();
    peer.renewed(operation, 100, Vec::new());
    let written = peer.written();
    assert_eq!(header(&written[0], "receipt-id"), Some("r"));
    assert_eq!(header(&written[0], "expires-in"), Some("100"));
    peer.wait(Duration::from_secs(99));
    peer.timeout();
    peer.assert_silent();
    peer.wait(Duration::from_secs(1));
    peer.timeout();
    peer.assert_error("token expired");
}

/// The receipt tells the time that is left when it is written, behind those of earlier frames.
#[test]
fn receipts_keep_their_order_around_a_renewal() {
    let mut peer = short();
    peer.send("SEND\ndestination:/topic/t\nreceipt:a");
    let (send, _) = peer.performing();
    let renewal = peer.renewing("token:t\nreceipt:b");
    peer.renewed(renewal, 100, Vec::new());
    peer.assert_silent();
    peer.wait(Duration::from_secs(30));
    peer.done(send);
    let written = peer.written();
    assert_eq!(header(&written[0], "receipt-id"), Some("a"));
    assert_eq!(header(&written[0], "expires-in"), None);
    assert_eq!(header(&written[1], "expires-in"), Some("70"));
}

#[test]
fn the_token_is_a_header_or_the_body_and_is_never_shown() {
    for text in ["token:s3cret", "login:bob\ntoken:s3cret", "\ns3cret\n"] {
        let mut peer = short();
        peer.send(&format!("SEND\ndestination:/auth/renew\n{text}"));
        let Some(Action::Renew(_, ask)) = peer.asked.pop_front() else {
            panic!("{:?}", peer.written)
        };
        assert_eq!(&*ask.token, "s3cret");
        assert_eq!(ask.login.as_deref(), text.contains("bob").then_some("bob"));
        assert!(!format!("{ask:?}").contains("s3cret"));
    }
    let mut peer = short();
    peer.send("SEND\ndestination:/auth/renew");
    peer.assert_error("Missing header");
}

/// It is no message: nothing can wait for it, and nobody can say that it reached no queue.
#[test]
fn a_renewal_is_no_part_of_anything_else() {
    let mut peer = short();
    peer.send("BEGIN\ntransaction:x");
    peer.send("SEND\ndestination:/auth/renew\ntoken:t\ntransaction:x");
    let error = peer.assert_error("Invalid header");
    assert!(error.contains("'transaction' is not allowed"), "{error}");
    let mut peer = short();
    peer.send("SEND\ndestination:/auth/renew\ntoken:t\nmandatory:true");
    peer.assert_error("Invalid header");
    let mut peer = short();
    peer.renewing("token:t\nmandatory:false");
}

#[test]
fn a_refused_renewal_leaves_the_session_as_it_was() {
    let mut peer = short();
    let operation = peer.renewing("token:t\nreceipt:r");
    peer.refused(operation);
    let written = peer.written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(header(&written[0], "receipt-id"), Some("r"));
    assert_eq!(header(&written[0], "error-code"), Some("renewal-refused"));
    assert!(peer.session.is_connected());
    // Its own time goes on, and another token may do.
    let operation = peer.renewing("token:u");
    peer.renewed(operation, 100, Vec::new());
    peer.wait(Duration::from_secs(61));
    peer.timeout();
    peer.assert_silent();
}

#[test]
fn a_refused_renewal_does_not_prolong_the_session() {
    let mut peer = short();
    let operation = peer.renewing("token:t");
    peer.refused(operation);
    peer.written.clear();
    peer.wait(Duration::from_secs(60));
    peer.timeout();
    peer.assert_error("token expired");
}

/// Whether denials are soft otherwise or not.
#[test]
fn one_refused_renewal_too_many_ends_the_session() {
    let config = Config {
        max_denials: 2,
        ..config()
    };
    let mut peer = for_seconds(config, 60);
    for _ in 0..2 {
        let operation = peer.renewing("token:t");
        peer.refused(operation);
        assert!(peer.session.is_connected());
    }
    peer.written.clear();
    let operation = peer.renewing("token:t\nreceipt:r");
    peer.refused(operation);
    let error = peer.assert_error("renewal refused");
    assert_eq!(header(&error, "receipt-id"), Some("r"));
}

#[test]
fn a_lost_subscription_gets_an_error_of_its_own() {
    let mut peer = short();
    let kept = peer.subscribe("SUBSCRIBE\nid:kept\ndestination:/topic/a");
    let lost = peer.subscribe("SUBSCRIBE\nid:lost\ndestination:/topic/b");
    let operation = peer.renewing("token:t\nreceipt:r");
    peer.renewed(operation, 100, vec![lost]);
    let written = peer.written();
    assert_eq!(written.len(), 2, "{written:?}");
    assert_eq!(header(&written[0], "subscription"), Some("lost"));
    assert_eq!(
        header(&written[0], "error-code"),
        Some("permission-withdrawn")
    );
    assert_eq!(header(&written[0], "receipt-id"), None);
    assert_eq!(header(&written[1], "receipt-id"), Some("r"));
    assert_eq!(peer.session.subscriptions(), 1);
    let mut head = Vec::new();
    for (subscription, expected) in [(lost, Delivered::Refused), (kept, Delivered::Done)] {
        let delivery = Delivery {
            subscription,
            tag: 1,
            redelivered: false,
        };
        let delivered = peer.session.handle_delivery(peer.now, delivery, &mut head);
        assert_eq!(delivered, expected);
    }
}

/// Without a renewal, because somebody says so.
#[test]
fn a_subscription_that_somebody_ends_gets_an_error_and_the_session_goes_on() {
    let mut peer = short();
    let kept = peer.subscribe("SUBSCRIBE\nid:kept\ndestination:/topic/a");
    let lost = peer.subscribe("SUBSCRIBE\nid:lost\ndestination:/topic/b");
    let removed = || Problem::Unsubscribed("removed".into());
    peer.written.clear();
    let wanted = vec![(lost, removed()), (lost, removed())];
    peer.session.handle_lost(peer.now, wanted);
    peer.poll();
    let written = peer.written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(header(&written[0], "subscription"), Some("lost"));
    assert_eq!(
        header(&written[0], "error-code"),
        Some("subscription-ended")
    );
    assert!(written[0].contains("\n\nremoved\n"), "{written:?}");
    assert!(peer.session.is_connected());
    assert_eq!(peer.session.subscriptions(), 1);
    // It may come back by the same name.
    peer.subscribe("SUBSCRIBE\nid:lost\ndestination:/topic/b");
    // At its end a session says nothing of it.
    peer.send("DISCONNECT\nreceipt:d");
    peer.written.clear();
    peer.session.handle_lost(peer.now, vec![(kept, removed())]);
    peer.poll();
    assert!(peer.written.is_empty(), "{:?}", peer.written);
}

/// The client's frames may have been on their way, and libraries end what they hold.
#[test]
fn a_client_may_end_or_acknowledge_what_it_has_lost() {
    let mut peer = short();
    let lost = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/queue/a\nack:client-individual");
    let mut head = Vec::new();
    let delivery = Delivery {
        subscription: lost,
        tag: 1,
        redelivered: false,
    };
    peer.session.handle_delivery(peer.now, delivery, &mut head);
    let operation = peer.renewing("token:t");
    peer.renewed(operation, 100, vec![lost]);
    peer.written.clear();
    peer.send("ACK\nid:1@@session-x@@1\nreceipt:a");
    assert!(peer.asked.is_empty(), "{:?}", peer.asked);
    peer.assert_unsettled("a");
    peer.send("UNSUBSCRIBE\nid:s\nreceipt:b");
    peer.all_done();
    peer.assert_receipts(&["b"]);
    assert!(peer.session.is_connected());
    // The name is free, before and after.
    let again = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/queue/a");
    let operation = peer.renewing("token:t");
    peer.renewed(operation, 100, vec![again]);
    peer.subscribe("SUBSCRIBE\nid:s\ndestination:/queue/a");
    peer.written.clear();
    peer.send("UNSUBSCRIBE\nid:s");
    peer.all_done();
    peer.send("UNSUBSCRIBE\nid:s");
    peer.assert_error("No subscription found");
}

/// Another client may be at work on the message by now.
#[test]
fn a_transaction_with_a_message_of_a_lost_subscription_does_nothing() {
    for (headers, is_lost_first) in [
        ("", false),
        ("", true),
        ("\nredeliver:1000", false),
        ("\nredeliver:1000", true),
    ] {
        let mut peer = short();
        let lost = peer.subscribe(&format!(
            "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:client-individual{headers}"
        ));
        let id = peer.message(lost, 1);
        let acknowledge = |peer: &mut Peer| {
            peer.send(&format!("ACK\ntransaction:t\nid:{id}"));
        };
        peer.send("BEGIN\ntransaction:t");
        peer.send("SEND\ntransaction:t\ndestination:/t");
        if !is_lost_first {
            acknowledge(&mut peer);
        }
        let operation = peer.renewing("token:t");
        peer.renewed(operation, 100, vec![lost]);
        if is_lost_first {
            acknowledge(&mut peer);
        }
        peer.written.clear();
        peer.send("COMMIT\ntransaction:t\nreceipt:c");
        assert!(peer.asked.is_empty(), "{:?}", peer.asked);
        let error = peer.assert_error("message taken back");
        assert_eq!(header(&error, "receipt-id"), Some("c"));
    }
}

/// Its name may be another subscription's by then.
#[test]
fn a_message_of_a_lost_subscription_is_not_settled_by_a_second_copy() {
    let mut peer = short();
    let text = "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:client-individual\nredeliver:1000";
    let lost = peer.subscribe(text);
    let id = peer.message(lost, 1);
    let operation = peer.renewing("token:t");
    peer.renewed(operation, 100, vec![lost]);
    peer.subscribe(text);
    peer.written.clear();
    peer.send(&format!("ACK\nid:{id}\nreceipt:a"));
    assert!(peer.asked.is_empty(), "{:?}", peer.asked);
    peer.assert_unsettled("a");
}

/// Nor if its client has ended it meanwhile: the broker has its messages again all the same.
#[test]
fn a_message_of_a_lost_subscription_is_not_settled_behind_its_end() {
    for in_transaction in [false, true] {
        let mut peer = short();
        let text = "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:client-individual\nredeliver:1000";
        let lost = peer.subscribe(text);
        let id = peer.message(lost, 1);
        let operation = peer.renewing("token:t");
        peer.renewed(operation, 100, vec![lost]);
        peer.send("UNSUBSCRIBE\nid:s");
        peer.all_done();
        peer.asked.clear();
        peer.written.clear();
        if in_transaction {
            peer.send("BEGIN\ntransaction:t");
            peer.send("SEND\ntransaction:t\ndestination:/t");
            peer.send(&format!("ACK\ntransaction:t\nid:{id}"));
            peer.send("COMMIT\ntransaction:t");
            peer.assert_error("message taken back");
        } else {
            peer.send(&format!("ACK\nid:{id}\nreceipt:a"));
            peer.assert_unsettled("a");
        }
        assert!(peer.asked.is_empty(), "{:?}", peer.asked);
    }
}

/// Also if a hundred younger ones were lost before it.
#[test]
fn the_loss_of_an_old_subscription_is_told() {
    let mut peer = short();
    let old = peer.subscribe("SUBSCRIBE\nid:old\ndestination:/topic/a");
    for number in 0..101 {
        let id = peer.subscribe(&format!("SUBSCRIBE\nid:{number}\ndestination:/topic/a"));
        let operation = peer.renewing("token:t");
        peer.renewed(operation, 100, vec![id]);
    }
    peer.written.clear();
    let operation = peer.renewing("token:t");
    peer.renewed(operation, 100, vec![old]);
    let written = peer.written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(header(&written[0], "subscription"), Some("old"));
}

/// A client that loses one subscription after the other takes no room for it.
#[test]
fn lost_subscriptions_are_forgotten_in_the_end() {
    let mut peer = short();
    for number in 0..1000 {
        let id = peer.subscribe(&format!("SUBSCRIBE\nid:{number}\ndestination:/topic/a"));
        let operation = peer.renewing("token:t");
        peer.renewed(operation, 100, vec![id]);
        peer.written.clear();
    }
    // The last ones are still known.
    peer.send("UNSUBSCRIBE\nid:999\nreceipt:r");
    peer.all_done();
    assert!(peer.session.is_connected());
    peer.written.clear();
    peer.send("UNSUBSCRIBE\nid:0");
    peer.assert_error("No subscription found");
}

/// An answer that comes too late changes nothing.
#[test]
fn a_renewal_of_a_session_that_ends_is_too_late() {
    let mut peer = short();
    let operation = peer.renewing("token:t\nreceipt:r");
    peer.wait(Duration::from_secs(60));
    peer.timeout();
    peer.assert_silent();
    peer.renewed(operation, 100, Vec::new());
    let written = peer.written();
    assert_eq!(header(&written[0], "receipt-id"), Some("r"));
    assert_eq!(header(&written[0], "expires-in"), None);
    assert!(
        written[1].contains("error-code:token-expired"),
        "{written:?}"
    );
}

/// The hook is slow to say which subscriptions stay.
#[test]
fn accepted_credentials_count_before_the_answer() {
    let mut peer = short();
    let operation = peer.renewing("token:t\nreceipt:r");
    peer.wait(Duration::from_secs(50));
    let until = peer.now + Duration::from_secs(60);
    peer.session.handle_renewal_accepted(operation, Some(until));
    peer.wait(Duration::from_secs(59));
    peer.timeout();
    peer.assert_silent();
    peer.wait(Duration::from_secs(1));
    peer.timeout();
    // Earlier frames are finished first.
    peer.assert_silent();
    peer.renewed(operation, 0, Vec::new());
    let written = peer.written();
    let error = written.last().unwrap();
    assert!(error.contains("message:token expired\n"), "{written:?}");
}
