//! Rules 14 to 16: subscriptions and acknowledgements.

use crate::{AckMode, session::tests::*, subscriptions::MAX_ENDED};

#[test]
fn rule_14_subscribe_needs_an_id_from_1_1_on_where_it_is_required() {
    for version in ["1.1", "1.2"] {
        let config = Config {
            require_subscription_id: true,
            ..config()
        };
        let mut peer = Peer::connected_with(config, version);
        peer.send("SUBSCRIBE\ndestination:/topic/t");
        let error = peer.assert_error("Missing header");
        assert!(
            error.ends_with("\n\n\"SUBSCRIBE\" must include the \"id\" header\n"),
            "{error}"
        );
    }
}

#[test]
fn rule_14_a_subscription_without_id_goes_by_its_destination() {
    for (version, required) in [
        ("1.0", true),
        ("1.0", false),
        ("1.1", false),
        ("1.2", false),
    ] {
        let config = Config {
            require_subscription_id: required,
            ..config()
        };
        let mut peer = Peer::connected_with(config, version);
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
}

#[test]
fn rule_14_there_is_one_subscription_without_id_a_destination() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("SUBSCRIBE\ndestination:/topic/t");
    peer.subscribe("SUBSCRIBE\ndestination:/topic/u");
    peer.send("SUBSCRIBE\ndestination:/topic/t");
    let error = peer.assert_error("Duplicated subscription identifier");
    assert!(error.contains("'Q_/topic/t'"), "{error}");
}

#[test]
fn rule_14_a_destination_does_not_name_a_subscription_that_has_an_id() {
    let mut peer = Peer::connected("1.0");
    peer.subscribe("SUBSCRIBE\nid:/topic/t\ndestination:/topic/t");
    // Both may live: one is named by its id, one by its destination.
    peer.subscribe("SUBSCRIBE\ndestination:/topic/t");
    peer.send("UNSUBSCRIBE\ndestination:/topic/t");
    peer.all_done();
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
fn rule_15_in_1_1_the_message_id_decides_and_not_the_subscription() {
    for command in ["ACK", "NACK"] {
        let mut peer = Peer::connected("1.1");
        let subscription = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/t");
        peer.subscribe("SUBSCRIBE\nid:t\nack:client\ndestination:/topic/t");
        let id = peer.message(subscription, 1);
        peer.send(&format!("{command}\nmessage-id:{id}\nsubscription:t"));
        assert_eq!(peer.settle().subscription, subscription);
    }
}

/// The plug-in of newer releases, too: a client that ends a subscription acknowledges what it got.
#[test]
fn messages_can_be_acknowledged_after_unsubscribe() {
    let mut peer = Peer::connected("1.2");
    let a = peer.subscribe("SUBSCRIBE\nid:a\nack:client-individual\ndestination:/queue/q");
    let ids: Vec<_> = (10..14).map(|tag| peer.message(a, tag)).collect();
    peer.send(&format!("ACK\nid:{}", ids[1]));
    assert_eq!(peer.settle(), accept(a, 11, false));
    peer.send("UNSUBSCRIBE\nid:a");
    let Some(Action::Unsubscribe(operation, ask)) = peer.asked.pop_front() else {
        panic!()
    };
    assert_eq!((&ask.kept[..], ask.forgotten), (&[10, 12, 13][..], None));
    peer.done(operation);
    assert_eq!(peer.session.subscriptions(), 0);
    // Nothing more comes by it, and its name is free.
    assert_eq!(peer.deliver(a, 14), (Delivered::Refused, String::new()));
    let other = peer.subscribe("SUBSCRIBE\nid:a\nack:client\ndestination:/queue/q");
    assert_ne!(a, other);
    peer.send(&format!("ACK\nid:{}", ids[3]));
    assert_eq!(peer.settle(), accept(a, 13, false));
    peer.send(&format!("NACK\nid:{}\nrequeue:false", ids[0]));
    assert_eq!(peer.settle().verdict, Verdict::Discard);
    peer.send(&format!("ACK\nid:{}", ids[2]));
    let last = accept(a, 12, false);
    assert_eq!(
        peer.settle(),
        Settle {
            is_last: true,
            ..last
        }
    );
    peer.send(&format!("ACK\nid:{}", ids[2]));
    peer.assert_error("Subscription not found");
}

#[test]
fn after_unsubscribe_client_is_cumulative_still_and_nothing_is_acknowledged_twice() {
    let mut peer = Peer::connected("1.1");
    let a = peer.subscribe("SUBSCRIBE\nid:a\nack:client\ndestination:/queue/q");
    let ids: Vec<_> = (10..13).map(|tag| peer.message(a, tag)).collect();
    peer.send("UNSUBSCRIBE\nid:a");
    peer.all_done();
    peer.send(&format!("ACK\nmessage-id:{}", ids[1]));
    assert_eq!(peer.settle(), from(10, accept(a, 11, true)));
    peer.send(&format!("ACK\nmessage-id:{}", ids[0]));
    peer.assert_error("precondition_failed");
}

/// Each keeps something at the broker.
#[test]
fn the_oldest_of_many_ended_subscriptions_is_forgotten() {
    let mut peer = Peer::connected("1.2");
    let mut first = None;
    for number in 0..=MAX_ENDED {
        let subscription = peer.subscribe("SUBSCRIBE\nid:a\nack:client\ndestination:/queue/q");
        let id = peer.message(subscription, 1);
        first.get_or_insert((subscription, id));
        peer.send("UNSUBSCRIBE\nid:a");
        let Some(Action::Unsubscribe(operation, ask)) = peer.asked.pop_front() else {
            panic!()
        };
        let oldest = first.as_ref().map(|(oldest, _)| *oldest);
        assert_eq!(ask.forgotten, oldest.filter(|_| number == MAX_ENDED));
        peer.done(operation);
    }
    // Those with nothing to acknowledge do not count.
    peer.subscribe("SUBSCRIBE\nid:a\nack:client\ndestination:/queue/q");
    peer.send("UNSUBSCRIBE\nid:a");
    let Some(Action::Unsubscribe(operation, ask)) = peer.asked.pop_front() else {
        panic!()
    };
    assert!(ask.forgotten.is_none() && ask.kept.is_empty());
    peer.done(operation);
    peer.send(&format!("ACK\nid:{}", first.unwrap().1));
    peer.assert_error("Subscription not found");
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
                first: 1,
                multiple: true,
                verdict,
                is_last: false,
                stake: Stake::Nothing,
            }
        );
    }
}

/// A receipt must not be given for an acknowledgement that is lost with the broker's link.
#[test]
fn an_acknowledgement_says_what_depends_on_it() {
    let mut peer = Peer::connected("1.2");
    let s = peer.subscribe("SUBSCRIBE\nid:s\nack:client\ndestination:/topic/a");
    for (tag, header, stake) in [(1, "", Stake::Nothing), (2, "\nreceipt:r", Stake::Receipt)] {
        let id = peer.message(s, tag);
        peer.send(&format!("ACK\nid:{id}{header}"));
        assert_eq!(peer.settle().stake, stake);
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
    assert_eq!(peer.settle(), from(10, accept(a, 11, true)));
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
fn subscriptions_are_bounded() {
    let mut peer = Peer::connected("1.2");
    for id in 0..4 {
        peer.subscribe(&format!("SUBSCRIBE\nid:{id}\ndestination:/topic/a"));
    }
    peer.send("UNSUBSCRIBE\nid:2");
    peer.all_done();
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
    };
    peer.session.handle_delivery(peer.now, delivery, &mut out);
    let expected = "MESSAGE\nsubscription:s\nmessage-id:1@@session-x@@1\nredelivered:true\n";
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
    // Nothing comes by one that is opened too late.
    let mut peer = Peer::connected("1.2");
    peer.send("DISCONNECT\nreceipt:r");
    let late = peer.session.open_replies("/temp-queue/foo").unwrap();
    assert_eq!(peer.deliver(late, 1), (Delivered::Refused, String::new()));
    for command in ["SUBSCRIBE", "UNSUBSCRIBE"] {
        let mut peer = Peer::connected("1.2");
        peer.session.open_replies("/temp-queue/foo").unwrap();
        peer.send(&format!(
            "{command}\nid:/temp-queue/foo\ndestination:/topic/a"
        ));
        peer.assert_error("Invalid id");
    }
}
