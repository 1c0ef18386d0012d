//! ERROR frames, to the byte, as RabbitMQ's STOMP plug-in 3.10.8 wrote them in the same
//! situation (captured with plain sockets; the plug-in adds an LF after the NUL). Where the
//! plug-in's condition arises at the broker or in the login, the gateway reports it by
//! [`Problem`], so that is what is told to the session here.

use super::*;

#[derive(Clone)]
enum Step {
    Frame(&'static str),
    /// A message on subscription 1; `$` in later frames is its id.
    Message,
    /// The answer to the last question.
    Fails(Problem),
    Undecodable(DecodeErrorKind),
}

use Step::{Fails, Frame as F, Message, Undecodable};

/// Does the steps; what was written at last.
fn run(version: Option<&str>, steps: &[Step]) -> Peer {
    let mut peer = match version {
        Some(version) => Peer::connected(version),
        None => Peer::new(config()),
    };
    let mut id = String::new();
    for step in steps {
        assert_eq!(peer.closed, None);
        match step.clone() {
            F(text) => peer.send(&text.replace('$', &id)),
            Message => id = peer.message(SubscriptionId(1), 1),
            Fails(problem) => match peer.asked.pop_back() {
                Some(Action::Authenticate(_)) => {
                    peer.session.handle_authenticated(peer.now, Err(problem));
                    peer.poll();
                }
                Some(Action::Subscribe(operation, _) | Action::Perform(operation, _)) => {
                    peer.failed(operation, problem);
                }
                other => panic!("{other:?}"),
            },
            Undecodable(kind) => peer.decode_error(kind, None),
        }
    }
    peer
}

/// The frame without the two headers that the plug-in does not have.
fn without_what_next(error: &str) -> String {
    let (before, rest) = error.split_once("error-code:").unwrap();
    let (code, rest) = rest.split_once("\nreconnect:").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    assert!(!code.contains('\n'), "{error}");
    format!("{before}{rest}")
}

#[track_caller]
fn assert_wire(version: Option<&str>, steps: &[Step], message: &str, body: &str) {
    let mut peer = run(version, steps);
    // What came before is done first.
    peer.all_done();
    let length = body.len();
    let expected = format!(
        "ERROR\nmessage:{message}\ncontent-type:text/plain\nversion:1.0,1.1,1.2\n\
         content-length:{length}\n\n{body}"
    );
    let written: Vec<_> = peer
        .written()
        .iter()
        .map(|error| without_what_next(error))
        .collect();
    assert_eq!(written, [expected]);
    assert!(peer.closed.is_some());
}

const LOGIN: Step = F("CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest");

#[test]
fn login() {
    assert_wire(
        None,
        &[F("CONNECT\naccept-version:1.3")],
        "Version mismatch",
        "Supported versions are 1.0,1.1,1.2\n",
    );
    let refused = Problem::AccessRefused {
        user: "guest".into(),
    };
    assert_wire(
        None,
        &[LOGIN, Fails(refused)],
        "Bad CONNECT",
        "Access refused for user 'guest'\n",
    );
    let denied = Problem::VhostDenied { vhost: "//".into() };
    assert_wire(
        None,
        &[LOGIN, Fails(denied)],
        "Bad CONNECT",
        "Virtual host '//' access denied",
    );
    assert_wire(
        None,
        &[LOGIN, Fails(Problem::MissingCredentials)],
        "Bad CONNECT",
        "Missing login or passcode header(s)",
    );
    let illegal = "You must log in using CONNECT first";
    for first in [
        F("SEND\ndestination:/queue/a\n\nx"),
        F("MESSAGE"),
        Undecodable(DecodeErrorKind::UnknownCommand("WRONG".into())),
    ] {
        assert_wire(None, &[first], "Illegal command", illegal);
    }
}

#[test]
fn commands() {
    for name in ["WRONG", "send"] {
        assert_wire(
            Some("1.2"),
            &[Undecodable(DecodeErrorKind::UnknownCommand(name.into()))],
            "Bad command",
            &format!("Could not interpret command \"{name}\"\n"),
        );
    }
    for name in ["CONNECTED", "MESSAGE", "RECEIPT", "ERROR"] {
        assert_wire(
            Some("1.2"),
            &[F(name)],
            "Bad command",
            &format!("Could not interpret command \"{name}\"\n"),
        );
    }
}

#[test]
fn destinations() {
    assert_wire(
        Some("1.2"),
        &[F("SEND\n\nx")],
        "Missing destination",
        "\"SEND\" must include a 'destination' header\n",
    );
    assert_wire(
        Some("1.2"),
        &[F("SUBSCRIBE\nid:1")],
        "Missing destination",
        "\"SUBSCRIBE\" must include a 'destination' header\n",
    );
    const SEND: Step = F("SEND\ndestination:(the gateway's to read)\n\nx");
    for (problem, message, body) in [
        (
            Problem::invalid_destination("queue", ""),
            "Invalid destination",
            "'' is not a valid queue destination\n",
        ),
        (
            Problem::invalid_destination("exchange", "//foo"),
            "Invalid destination",
            "'//foo' is not a valid exchange destination\n",
        ),
        (
            Problem::invalid_destination("amqqueue", ""),
            "Invalid destination",
            "'' is not a valid amqqueue destination\n",
        ),
        (
            Problem::blank_destination(),
            "Invalid destination",
            "Destination cannot be blank",
        ),
        (
            Problem::destination_not_for(Command::Send, "/temp-queue/x"),
            "Invalid destination",
            "'/temp-queue/x' is not a valid destination for 'SEND'\n",
        ),
        (
            Problem::UnknownDestination("/foo/bar".into()),
            "Unknown destination",
            "'/foo/bar' is not a valid destination.\nValid destination types are: /temp-queue, \
             /exchange, /topic, /queue, /amq/queue, /reply-queue/.\n",
        ),
        (
            Problem::NotFound("NOT_FOUND - no exchange 'nope' in vhost '/'".into()),
            "not_found",
            "NOT_FOUND - no exchange 'nope' in vhost '/'",
        ),
    ] {
        assert_wire(Some("1.2"), &[SEND, Fails(problem)], message, body);
    }
    let subscribe = F("SUBSCRIBE\nid:1\ndestination:/temp-queue/x");
    let problem = Problem::destination_not_for(Command::Subscribe, "/temp-queue/x");
    assert_wire(
        Some("1.2"),
        &[subscribe, Fails(problem)],
        "Invalid destination",
        "'/temp-queue/x' is not a valid destination for 'SUBSCRIBE'\n",
    );
}

#[test]
fn subscriptions() {
    const SUBSCRIBE: Step = F("SUBSCRIBE\nid:1\ndestination:/topic/a");
    const BY_DESTINATION: Step = F("SUBSCRIBE\ndestination:/topic/p4");
    let name = "Duplicated subscription identifier";
    let body = "A subscription identified by 'T_1' already exists.";
    assert_wire(Some("1.2"), &[SUBSCRIBE, SUBSCRIBE], name, body);
    let body = "A subscription identified by 'Q_/topic/p4' already exists.";
    assert_wire(Some("1.0"), &[BY_DESTINATION, BY_DESTINATION], name, body);

    let name = "No subscription found";
    let body = "UNSUBSCRIBE must refer to an existing subscription.\n\
                Subscription to \"id='9'\" not found.\n";
    assert_wire(Some("1.2"), &[F("UNSUBSCRIBE\nid:9")], name, body);
    let body = "UNSUBSCRIBE must refer to an existing subscription.\n\
                Subscription to \"id='a\\\"b'\" not found.\n";
    assert_wire(Some("1.2"), &[F("UNSUBSCRIBE\nid:a\"b")], name, body);
    let body = "UNSUBSCRIBE must refer to an existing subscription.\n\
                Subscription to \"destination='/topic/a'\" not found.\n";
    let by_destination = F("UNSUBSCRIBE\ndestination:/topic/a");
    assert_wire(Some("1.2"), &[SUBSCRIBE, by_destination], name, body);

    let body = "UNSUBSCRIBE must include a 'destination' or 'id' header";
    for version in ["1.0", "1.2"] {
        assert_wire(
            Some(version),
            &[F("UNSUBSCRIBE")],
            "Missing destination or id",
            body,
        );
    }
    let body = "Header 'id' is required for durable subscriptions";
    for frame in [
        F("SUBSCRIBE\ndurable:true\ndestination:/topic/a"),
        F("SUBSCRIBE\npersistent:true\ndestination:/topic/a"),
        F("UNSUBSCRIBE\ndurable:true\ndestination:/topic/a"),
    ] {
        for version in ["1.0", "1.2"] {
            assert_wire(
                Some(version),
                std::slice::from_ref(&frame),
                "Missing Header",
                body,
            );
        }
    }
    assert_wire(
        Some("1.2"),
        &[F("UNSUBSCRIBE\nid:/temp-queue/a")],
        "Invalid id",
        "UNSUBSCRIBE 'id' may not start with /temp-queue/\n",
    );
}

#[test]
fn acknowledgements() {
    let name = "Missing header";
    for (version, frame, body) in [
        ("1.2", F("ACK"), "\"ACK\" must include the \"id\" header\n"),
        (
            "1.2",
            F("NACK"),
            "\"NACK\" must include the \"id\" header\n",
        ),
        (
            "1.1",
            F("ACK"),
            "\"ACK\" must include the \"message-id\" header\n",
        ),
        (
            "1.0",
            F("ACK"),
            "\"ACK\" must include the \"message-id\" header\n",
        ),
    ] {
        assert_wire(Some(version), &[frame], name, body);
    }
    let body = "\"ACK\" must include a valid \"id\" header\n";
    assert_wire(Some("1.2"), &[F("ACK\nid:zzz")], "Invalid header", body);

    let name = "Subscription not found";
    let body = "Message with id \"T_1@@session-x@@5\" has no subscription";
    assert_wire(Some("1.2"), &[F("ACK\nid:T_1@@session-x@@5")], name, body);
    assert_wire(
        Some("1.1"),
        &[F("ACK\nmessage-id:T_1@@session-x@@5")],
        name,
        body,
    );
    // One that another session of this server gave out.
    const SUBSCRIBE: Step = F("SUBSCRIBE\nid:1\nack:client\ndestination:/topic/a");
    let body = "Message with id \"1@@session-y@@1\" has no subscription";
    assert_wire(
        Some("1.2"),
        &[SUBSCRIBE, Message, F("ACK\nid:1@@session-y@@1")],
        name,
        body,
    );
    let body = "Message with id \"1@@session-x@@1\" has no subscription";
    const AUTO: Step = F("SUBSCRIBE\nid:1\ndestination:/topic/a");
    let steps = [AUTO, Message, F("UNSUBSCRIBE\nid:1"), F("ACK\nid:$")];
    assert_wire(Some("1.2"), &steps, name, body);

    // The plug-in leaves the rest to the broker, which does not know the tag.
    let body = "PRECONDITION_FAILED - unknown delivery tag 1";
    for mode in [AUTO, F("SUBSCRIBE\nid:1\nack:auto\ndestination:/a")] {
        let steps = [mode, Message, F("ACK\nid:$")];
        assert_wire(Some("1.2"), &steps, "precondition_failed", body);
    }
    let steps = [SUBSCRIBE, Message, F("ACK\nid:$"), F("NACK\nid:$")];
    assert_wire(Some("1.2"), &steps, "precondition_failed", body);
}

#[test]
fn transactions() {
    for (frame, body) in [
        (
            F("BEGIN"),
            "\"BEGIN\" must include a 'transaction' header\n",
        ),
        (
            F("COMMIT"),
            "\"COMMIT\" must include a 'transaction' header\n",
        ),
        (
            F("ABORT"),
            "\"ABORT\" must include a 'transaction' header\n",
        ),
    ] {
        assert_wire(Some("1.2"), &[frame], "Missing transaction", body);
    }
    let body = "Invalid transaction identifier: \"t\"\n";
    for frame in [
        F("COMMIT\ntransaction:t"),
        F("ABORT\ntransaction:t"),
        F("SEND\ntransaction:t\ndestination:/topic/a\n\nx"),
    ] {
        assert_wire(Some("1.2"), &[frame], "Bad transaction", body);
    }
    let body = "Invalid transaction identifier: \"a\\\"b\\\\cé\"\n";
    assert_wire(
        Some("1.2"),
        &[F("COMMIT\ntransaction:a\"b\\cé")],
        "Bad transaction",
        body,
    );
}

#[test]
fn send_with_a_message_id() {
    assert_wire(
        Some("1.2"),
        &[F("SEND\nmessage-id:1\ndestination:/topic/a\n\nx")],
        "Invalid header",
        "'message-id' is not allowed on 'SEND'.\n",
    );
}

/// Where the plug-in says "Processing error", the gateway says what is wrong.
#[test]
fn what_the_plugin_does_not_explain() {
    assert_wire(
        Some("1.2"),
        &[F("SUBSCRIBE\nid:1\nack:foo\ndestination:/topic/a")],
        "Invalid header",
        "\"SUBSCRIBE\" has an invalid \"ack\" header: expected auto, client or \
         client-individual\n",
    );
    assert_wire(
        None,
        &[F("STOMP\naccept-version:1.2\nheart-beat:5000")],
        "Invalid header",
        "\"STOMP\" has an invalid \"heart-beat\" header: expected two whole numbers of \
         milliseconds with a comma between, such as 10000,10000\n",
    );
}
