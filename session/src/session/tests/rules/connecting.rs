//! Rules 3, 4, 6, 10 and 12: versions, escapes, and the login.

use crate::session::tests::*;

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
    peer.session.handle_authenticated(peer.now, Ok(None));
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
        peer.session.handle_authenticated(peer.now, Ok(None));
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

fn implicitly() -> Peer {
    Peer::new(Config {
        implicit_connect: true,
        ..config()
    })
}

#[test]
fn a_first_frame_that_is_no_connect_can_log_in_by_itself() {
    let mut peer = implicitly();
    peer.send("SUBSCRIBE\nid:a\\b\ndestination:/queue/q\nreceipt:r");
    let Some(Action::Authenticate(connect)) = peer.asked.pop_front() else {
        panic!()
    };
    assert_eq!(connect.headers.iter().count(), 0);
    // The frame waits, and so do others.
    assert!(!peer.session.wants_frame());
    peer.assert_silent();
    peer.session.handle_authenticated(peer.now, Ok(None));
    peer.poll();
    let (operation, subscription) = peer.subscribing();
    assert!(peer.session.is_connected());
    assert_eq!(peer.session.version(), Version::V1_0);
    peer.done(operation);
    peer.assert_receipts(&["r"]);
    let (_, message) = peer.deliver(subscription, 1);
    assert_eq!(header(&message, "subscription"), Some("a\\b"));
    // Without a heart-beat agreed on, nothing is due.
    assert_eq!(peer.session.poll_timeout(), None);
    peer.send("CONNECT\naccept-version:1.2");
    peer.assert_error("Illegal command");
}

#[test]
fn a_connect_is_a_connect_where_none_is_needed() {
    let mut peer = implicitly();
    peer.send("CONNECT\naccept-version:1.2");
    peer.log_in();
    assert_eq!(peer.session.version(), Version::V1_2);
}

#[test]
fn a_first_frame_whose_login_is_refused_gets_its_receipt_s_error() {
    let mut peer = implicitly();
    peer.send("SEND\ndestination:/queue/q\nreceipt:r");
    peer.asked.clear();
    let user = "guest".into();
    let refusal = Err(Problem::AccessRefused { user });
    peer.session.handle_authenticated(peer.now, refusal);
    peer.poll();
    let error = peer.assert_error("Bad CONNECT");
    assert_eq!(header(&error, "receipt-id"), Some("r"));
    assert!(peer.asked.is_empty());
}

#[test]
fn a_first_frame_is_forgotten_with_its_session() {
    let mut peer = implicitly();
    peer.send("SEND\ndestination:/queue/q");
    peer.asked.clear();
    peer.wait(Duration::from_secs(10));
    peer.timeout();
    peer.assert_error("login timeout");
    assert!(peer.session.waiting.is_none());
}

#[test]
fn an_unknown_first_command_is_told_in_its_own_words() {
    let mut peer = implicitly();
    peer.decode_error(DecodeErrorKind::UnknownCommand("FOO".into()), None);
    peer.assert_error("Bad command");
}

#[test]
fn a_first_disconnect_is_answered() {
    let mut peer = implicitly();
    peer.send("DISCONNECT\nreceipt:d");
    peer.asked.clear();
    peer.session.handle_authenticated(peer.now, Ok(None));
    peer.poll();
    peer.assert_receipts(&["d"]);
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
        peer.session.handle_authenticated(peer.now, Ok(None));
        peer.poll();
        assert!(peer.written.is_empty());
    }
}

/// There are hundreds of thousands of sessions, nearly all of them idle.
#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 224, "{}", size_of::<Session>());
    assert!(size_of::<Action>() <= 40, "{}", size_of::<Action>());
    let mut peer = Peer::connected("1.2");
    peer.subscribe("SUBSCRIBE\nid:s\ndestination:/topic/a\nreceipt:r");
    assert_eq!(peer.session.actions.capacity(), 0);
    assert_eq!(peer.session.pending.capacity(), 0);
}

#[test]
fn a_client_that_numbers_its_messages_hears_the_last_number() {
    for (last, told) in [(Some(17), Some("17")), (None, None)] {
        let mut peer = Peer::new(config());
        peer.send("CONNECT\naccept-version:1.2");
        peer.asked.pop_front();
        peer.session
            .handle_authenticated_with(peer.now, Ok(None), last);
        peer.poll();
        let connected = peer.written.pop_front().unwrap();
        assert_eq!(header(&connected, "last-client-seq"), told, "{connected}");
    }
}
