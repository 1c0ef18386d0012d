//! The whole table, walked: a row for every variant, so that a change of words is a change of
//! this file.

use super::*;

/// Fails to compile when a variant is added, so that [`all`] is not forgotten.
fn row_in_test(problem: &Problem) -> usize {
    use Problem::*;
    match problem {
        Malformed(_) => 0,
        NotLoggedIn => 1,
        AlreadyLoggedIn => 2,
        ServerCommand(_) => 3,
        VersionMismatch => 4,
        MissingHeader { .. } => 5,
        InvalidHeader { .. } => 6,
        ForbiddenHeader { .. } => 7,
        MissingDestination(_) => 8,
        MissingIdOrDestination => 9,
        DurableWithoutId(_) => 10,
        ReservedId(_) => 11,
        DuplicateSubscription(_) => 12,
        UnknownSubscription(_) => 13,
        TooManySubscriptions { .. } => 14,
        InvalidMessageId { .. } => 15,
        NoSubscription(_) => 16,
        OtherSubscription { .. } => 17,
        UnknownDelivery(_) => 18,
        MissingTransaction(_) => 19,
        DuplicateTransaction(_) => 20,
        UnknownTransaction(_) => 21,
        TooManyTransactions { .. } => 22,
        TransactionTooLong { .. } => 23,
        TransactionTooBig { .. } => 24,
        MissingCredentials => 25,
        AccessRefused { .. } => 26,
        VhostDenied { .. } => 27,
        PermissionDenied { .. } => 28,
        LoginTimeout => 29,
        InvalidDestination(_) => 30,
        UnknownDestination(_) => 31,
        NotFound(_) => 32,
        PreconditionFailed(_) => 33,
        NotPublished(_) => 34,
        BrokerUnavailable(_) => 35,
        FeedInterrupted(_) => 36,
        SlowConsumer => 37,
        HeartbeatMissed => 38,
        ShuttingDown => 39,
        LoginUnavailable { .. } => 40,
        TooManyConnections => 41,
        ResourceLocked(_) => 42,
        BrokerRefused(_) => 43,
        SubscriptionCancelled(_) => 44,
        NotUtf8 => 45,
        Kicked(_) => 46,
        Replaced => 47,
        AlreadyLoggedInElsewhere(_) => 48,
        LoginChanged => 49,
        PingsUnanswered => 50,
    }
}

const ROWS: usize = 51;

/// Every variant, its `message`, its code, and its body.
fn all() -> Vec<(Problem, &'static str, u16, &'static str)> {
    use Command::{Ack, Begin, Connect, Message, Send, Subscribe};
    use Problem::*;
    vec![
        (
            Malformed(DecodeErrorKind::UnknownCommand("WRONG".into())),
            "Bad command",
            1002,
            "Could not interpret command \"WRONG\"\n",
        ),
        (
            Malformed(DecodeErrorKind::FrameTooBig {
                limit: 9,
                announced: None,
            }),
            "Frame too large",
            1009,
            "the frame is longer than the limit of 9 bytes\n",
        ),
        (
            Malformed(DecodeErrorKind::EmptyHeaderName),
            "Malformed frame",
            1002,
            "a header has an empty name\n",
        ),
        (
            NotLoggedIn,
            "Illegal command",
            1002,
            "You must log in using CONNECT first",
        ),
        (
            AlreadyLoggedIn,
            "Illegal command",
            1002,
            "You are logged in already. CONNECT (or STOMP) comes once, as the first frame\n",
        ),
        (
            ServerCommand(Message),
            "Bad command",
            1002,
            "Could not interpret command \"MESSAGE\"\n",
        ),
        (
            VersionMismatch,
            "Version mismatch",
            1002,
            "Supported versions are 1.0,1.1,1.2\n",
        ),
        (
            MissingHeader {
                command: Ack,
                header: "id",
            },
            "Missing header",
            1002,
            "\"ACK\" must include the \"id\" header\n",
        ),
        (
            InvalidHeader {
                command: Connect,
                header: "heart-beat",
                expected: "two numbers",
            },
            "Invalid header",
            1002,
            "\"CONNECT\" has an invalid \"heart-beat\" header: expected two numbers\n",
        ),
        (
            ForbiddenHeader {
                command: Send,
                header: "message-id",
            },
            "Invalid header",
            1002,
            "'message-id' is not allowed on 'SEND'.\n",
        ),
        (
            MissingDestination(Send),
            "Missing destination",
            1002,
            "\"SEND\" must include a 'destination' header\n",
        ),
        (
            MissingIdOrDestination,
            "Missing destination or id",
            1002,
            "UNSUBSCRIBE must include a 'destination' or 'id' header",
        ),
        (
            DurableWithoutId(Subscribe),
            "Missing Header",
            1002,
            "Header 'id' is required for durable subscriptions",
        ),
        (
            ReservedId(Subscribe),
            "Invalid id",
            1002,
            "SUBSCRIBE 'id' may not start with /temp-queue/\n",
        ),
        (
            DuplicateSubscription("T_1".into()),
            "Duplicated subscription identifier",
            1002,
            "A subscription identified by 'T_1' already exists.",
        ),
        (
            UnknownSubscription("id='9'".into()),
            "No subscription found",
            1002,
            "UNSUBSCRIBE must refer to an existing subscription.\n\
             Subscription to \"id='9'\" not found.\n",
        ),
        (
            TooManySubscriptions { limit: 100 },
            "Too many subscriptions",
            1008,
            "At most 100 subscriptions may be open at once. UNSUBSCRIBE from some first\n",
        ),
        (
            InvalidMessageId {
                command: Ack,
                header: "id",
            },
            "Invalid header",
            1002,
            "\"ACK\" must include a valid \"id\" header\n",
        ),
        (
            NoSubscription("T_1@@session-x@@5".into()),
            "Subscription not found",
            1002,
            "Message with id \"T_1@@session-x@@5\" has no subscription",
        ),
        (
            OtherSubscription {
                command: Ack,
                subscription: "t".into(),
            },
            "Invalid header",
            1002,
            "\"ACK\" names the subscription \"t\", but its \"message-id\" is of another\n",
        ),
        (
            UnknownDelivery(7),
            "precondition_failed",
            1002,
            "PRECONDITION_FAILED - unknown delivery tag 7",
        ),
        (
            MissingTransaction(Begin),
            "Missing transaction",
            1002,
            "\"BEGIN\" must include a 'transaction' header\n",
        ),
        (
            DuplicateTransaction("t".into()),
            "Duplicated transaction identifier",
            1002,
            "The transaction \"t\" is open already. COMMIT or ABORT it first, or choose another \
             name\n",
        ),
        (
            UnknownTransaction("t".into()),
            "Bad transaction",
            1002,
            "Invalid transaction identifier: \"t\"\n",
        ),
        (
            TooManyTransactions { limit: 16 },
            "Too many transactions",
            1008,
            "At most 16 transactions may be open at once. COMMIT or ABORT some first\n",
        ),
        (
            TransactionTooLong { limit: 1024 },
            "Transaction too large",
            1008,
            "A transaction may hold at most 1024 frames. COMMIT more often\n",
        ),
        (
            TransactionTooBig { limit: 4096 },
            "Transaction too large",
            1008,
            "All open transactions together may hold at most 4096 bytes. COMMIT more often\n",
        ),
        (
            MissingCredentials,
            "Bad CONNECT",
            1008,
            "Missing login or passcode header(s)",
        ),
        (
            AccessRefused {
                user: "guest".into(),
            },
            "Bad CONNECT",
            1008,
            "Access refused for user 'guest'\n",
        ),
        (
            LoginUnavailable {
                user: "guest".into(),
            },
            "Bad CONNECT",
            1013,
            "Access refused for user 'guest'\n",
        ),
        (
            VhostDenied { vhost: "//".into() },
            "Bad CONNECT",
            1008,
            "Virtual host '//' access denied",
        ),
        (
            PermissionDenied {
                detail: "ACCESS_REFUSED - …".into(),
            },
            "access_refused",
            1008,
            "ACCESS_REFUSED - …",
        ),
        (
            BrokerRefused("ACCESS_REFUSED - …".into()),
            "access_refused",
            1008,
            "ACCESS_REFUSED - …",
        ),
        (
            LoginTimeout,
            "login timeout",
            1008,
            "The login was not complete within the time allowed. Send CONNECT as soon as the \
             connection is open\n",
        ),
        (
            Problem::invalid_destination("queue", "/a/b"),
            "Invalid destination",
            1008,
            "'/a/b' is not a valid queue destination\n",
        ),
        (
            UnknownDestination("/foo/bar".into()),
            "Unknown destination",
            1008,
            "'/foo/bar' is not a valid destination.\nValid destination types are: /temp-queue, \
             /exchange, /topic, /queue, /amq/queue, /reply-queue/.\n",
        ),
        (
            NotFound("NOT_FOUND - …".into()),
            "not_found",
            1008,
            "NOT_FOUND - …",
        ),
        (
            PreconditionFailed("PRECONDITION_FAILED - …".into()),
            "precondition_failed",
            1008,
            "PRECONDITION_FAILED - …",
        ),
        (
            NotPublished("why\n".into()),
            "message not published",
            1013,
            "why\n",
        ),
        (
            BrokerUnavailable("why\n".into()),
            "broker unavailable",
            1013,
            "why\n",
        ),
        (
            SubscriptionCancelled("the queue was deleted".into()),
            "Server cancelled subscription",
            1011,
            "The server has canceled a subscription.\nNo more messages will be delivered: the queue \
             was deleted\n",
        ),
        (
            FeedInterrupted("which\n".into()),
            "feed interrupted",
            1011,
            "which\n",
        ),
        (
            NotUtf8,
            "message not text",
            1011,
            "A message that was for you is not UTF-8, and this transport, SockJS, carries only \
             text. It is left out. Connect by WebSocket to receive it\n",
        ),
        (
            SlowConsumer,
            "slow consumer",
            1013,
            "Messages arrive faster than they are read. Reconnect, and read faster or subscribe \
             to less\n",
        ),
        (
            HeartbeatMissed,
            "heart-beat missed",
            1013,
            "Nothing was received for longer than the heart-beat that was agreed on. Reconnect\n",
        ),
        (
            PingsUnanswered,
            "pings unanswered",
            1013,
            "Nothing was received for long, and pings were not answered. Reconnect\n",
        ),
        (
            ShuttingDown,
            "server shutting down",
            1012,
            "This server goes away. Reconnect after a moment, to reach another\n",
        ),
        (
            ResourceLocked("RESOURCE_LOCKED - queue".into()),
            "resource_locked",
            1013,
            "RESOURCE_LOCKED - queue",
        ),
        (
            TooManyConnections,
            "too many connections",
            1013,
            "This server has as many connections as it takes. Reconnect after a while, or to \
             another\n",
        ),
        (Kicked("not paid".into()), "kicked", 1008, "not paid\n"),
        (
            Kicked("".into()),
            "kicked",
            1008,
            "This session was ended by an operator\n",
        ),
        (
            Replaced,
            "session replaced",
            1008,
            "You have logged in elsewhere, and only the newest session stays. Do not reconnect by \
             yourself: the other one would end\n",
        ),
        (
            AlreadyLoggedInElsewhere("'alice' is logged in already".into()),
            "already logged in",
            1013,
            "'alice' is logged in already. Log out there, or try again after a while\n",
        ),
        (
            LoginChanged,
            "login changed",
            1013,
            "What the server knows of you has changed. Reconnect, and log in again\n",
        ),
    ]
}

#[test]
fn every_problem_has_its_words_and_its_code() {
    let mut seen = [false; ROWS];
    for (problem, message, code, detail) in all() {
        assert_eq!(problem.message(), message, "{problem:?}");
        assert_eq!(problem.detail(), detail, "{problem:?}");
        assert_eq!(problem.close_code().code(), code, "{problem:?}");
        // Needs no escapes, in any version.
        assert!(
            message
                .bytes()
                .all(|b| b == b' ' || b == b'_' || b == b'-' || b.is_ascii_alphabetic())
        );
        seen[row_in_test(&problem)] = true;
    }
    assert_eq!(seen, [true; ROWS], "a variant without a row");
}

#[test]
fn for_logs_a_problem_is_one_line() {
    let problem = Problem::UnknownSubscription("id='9'".into());
    let line = "No subscription found: UNSUBSCRIBE must refer to an existing subscription. \
                Subscription to \"id='9'\" not found.";
    assert_eq!(problem.to_string(), line);
}

#[test]
fn close_codes_have_reasons_that_fit() {
    use CloseCode::*;
    let codes = [
        Normal,
        Protocol,
        NotUtf8,
        Policy,
        TooBig,
        Internal,
        Restart,
        TryAgainLater,
    ];
    let mut numbers: Vec<_> = codes.iter().map(|code| code.code()).collect();
    for code in codes {
        let reason = code.reason();
        assert!(!reason.is_empty() && reason.len() <= 123 && reason.is_ascii());
        assert_eq!(code.should_reconnect(), matches!(code.code(), 1011..=1013));
    }
    numbers.dedup();
    assert_eq!(numbers.len(), codes.len());
}

#[test]
fn quotes_are_bounded_and_printable() {
    let long = "é".repeat(10_000);
    let clipped = format!("{}…", "é".repeat(Problem::QUOTED));
    let problem = Problem::NoSubscription(long.as_str().into());
    assert_eq!(
        problem.detail(),
        format!("Message with id \"{clipped}\" has no subscription")
    );
    let problem = Problem::AccessRefused { user: long.into() };
    assert_eq!(
        problem.detail(),
        format!("Access refused for user '{clipped}'\n")
    );
    let problem = Problem::UnknownTransaction("a\n\r\t\"\\\u{1}é".into());
    let expected = "Invalid transaction identifier: \"a\\n\\r\\t\\\"\\\\\\x{1}é\"\n";
    assert_eq!(problem.detail(), expected);
}
