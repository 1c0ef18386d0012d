//! Rules 8 and 13: heart-beats.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn connected(heartbeat: &str) -> Peer {
    let mut peer = Peer::new(config());
    peer.send(&format!(
        "CONNECT\naccept-version:1.2\nheart-beat:{heartbeat}"
    ));
    peer.log_in();
    peer
}

#[test]
fn rule_13_each_direction_is_the_slower_of_can_and_wish() {
    // The server can send every 5 s and wishes to hear every 8 s.
    for (client, answer) in [
        ("0,0", "0,0"),
        ("10000,10000", "10000,10000"),
        ("100,100", "5000,8000"),
        ("60000,0", "0,60000"),
        ("0,60000", "60000,0"),
        ("6000,6000", "6000,8000"),
    ] {
        let mut peer = Peer::new(config());
        peer.send(&format!("CONNECT\naccept-version:1.2\nheart-beat:{client}"));
        peer.session.handle_authenticated(peer.now, Ok(None));
        peer.poll();
        assert_eq!(
            header(&peer.written()[0], "heart-beat"),
            Some(answer),
            "{client}"
        );
    }
}

#[test]
fn rule_13_a_malformed_header_is_told() {
    for text in ["", "1", "a,b", "1,2,3", "-1,5", "1.0,2"] {
        let mut peer = Peer::new(config());
        peer.send(&format!("CONNECT\naccept-version:1.2\nheart-beat:{text}"));
        let error = peer.assert_error("Invalid header");
        assert!(
            error.contains("\"CONNECT\" has an invalid \"heart-beat\" header"),
            "{error}"
        );
        assert!(peer.asked.is_empty());
    }
}

#[test]
fn rule_13_without_heartbeats_nothing_is_due() {
    let mut peer = connected("0,0");
    assert_eq!(peer.session.poll_timeout(), None);
    peer.wait(MS * 100_000_000);
    peer.timeout();
    peer.assert_silent();
}

#[test]
fn rule_13_the_server_beats_only_when_it_wrote_nothing_else() {
    let mut peer = connected("0,5000");
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/topic/a");
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 5000));
    peer.wait(MS * 4374);
    peer.timeout();
    peer.assert_silent();
    peer.deliver(subscription, 1);
    peer.wait(MS * 4374);
    peer.timeout();
    peer.assert_silent();
    // What is refused is not written.
    peer.deliver(SubscriptionId(99), 1);
    peer.wait(MS * 626);
    peer.timeout();
    assert_eq!(peer.written(), ["\n"]);
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 5000));
    // A receipt counts as well; what the client sends does not.
    peer.wait(MS * 3000);
    peer.send("BEGIN\ntransaction:t\nreceipt:r");
    peer.assert_receipts(&["r"]);
    peer.session.handle_activity(peer.now);
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 5000));
}

#[test]
fn rule_13_a_heartbeat_may_come_an_eighth_early_and_counts_from_when_it_came() {
    let mut peer = connected("0,8000");
    peer.wait(MS * 6999);
    peer.timeout();
    peer.assert_silent();
    peer.wait(MS);
    peer.timeout();
    assert_eq!(peer.written(), ["\n"]);
    peer.timeout();
    peer.assert_silent();
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 8000));
}

#[test]
fn rule_08_a_client_is_gone_after_tolerance_times_its_interval() {
    let mut peer = connected("10000,0");
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 20_000));
    peer.wait(MS * 19_999);
    peer.timeout();
    peer.assert_silent();
    peer.wait(MS);
    peer.timeout();
    peer.assert_error("heart-beat missed");
    assert_eq!(peer.closed, Some(CloseCode::TryAgainLater));
}

#[test]
fn rule_08_any_byte_counts_as_life() {
    let mut peer = connected("10000,0");
    peer.wait(MS * 19_000);
    peer.session.handle_activity(peer.now);
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 20_000));
    peer.wait(MS * 19_000);
    peer.send("BEGIN\ntransaction:t");
    peer.wait(MS * 19_999);
    peer.timeout();
    peer.assert_silent();
    peer.wait(MS);
    peer.timeout();
    peer.assert_error("heart-beat missed");
}

#[test]
fn rule_08_a_client_that_is_not_read_cannot_be_heard() {
    let mut peer = connected("10000,0");
    let mut operations = Vec::new();
    for _ in 0..config().max_pending {
        assert!(peer.session.wants_frame());
        peer.send("SEND\ndestination:/topic/a");
        operations.push(peer.performing().0);
    }
    assert!(!peer.session.wants_frame());
    assert_eq!(peer.session.poll_timeout(), None);
    peer.wait(MS * 100_000);
    peer.timeout();
    peer.assert_silent();
    peer.done(operations[0]);
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 20_000));
    peer.timeout();
    peer.assert_silent();
}

#[test]
fn rule_08_silence_counts_from_the_login_not_from_the_opening() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2\nheart-beat:10000,10000");
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 10_000));
    peer.wait(MS * 9000);
    peer.log_in();
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + MS * 10_000));
}

#[test]
fn rule_08_after_disconnect_a_client_owes_no_heartbeat() {
    let mut peer = connected("10000,10000");
    peer.send("SEND\ndestination:/topic/a");
    let (operation, _) = peer.performing();
    peer.send("DISCONNECT");
    // The server owes one as long as it has an answer to give.
    peer.wait(MS * 10_000);
    peer.timeout();
    assert_eq!(peer.written(), ["\n"]);
    peer.wait(MS * 10_000);
    peer.timeout();
    assert_eq!(peer.written(), ["\n"]);
    assert_eq!(peer.closed, None);
    peer.done(operation);
    assert_eq!(peer.closed, Some(CloseCode::Normal));
}
