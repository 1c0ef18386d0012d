//! The table as clients see it: every ERROR frame to the byte, and the page that explains them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::*;

/// A problem or more of each kind. A variant without a line here does not compile.
macro_rules! samples {
    ($($variant:pat => [$($sample:expr),+ $(,)?]),+ $(,)?) => {
        fn has_a_line(problem: &Problem) {
            match problem {
                $($variant => {})+
            }
        }

        fn samples() -> Vec<Problem> {
            vec![$($($sample),+),+]
        }
    };
}

use Command::{Ack, Begin, Connect, Message, Send, Subscribe};
use Problem::*;

samples! {
    Malformed(_) => [
        Malformed(DecodeErrorKind::UnknownCommand("WRONG".into())),
        Malformed(DecodeErrorKind::FrameTooBig { limit: 9, announced: None }),
        Malformed(DecodeErrorKind::EmptyHeaderName),
    ],
    NotLoggedIn => [NotLoggedIn],
    AlreadyLoggedIn => [AlreadyLoggedIn],
    ServerCommand(_) => [ServerCommand(Message)],
    VersionMismatch => [VersionMismatch],
    MissingHeader { .. } => [MissingHeader { command: Ack, header: "id" }],
    InvalidHeader { .. } => [InvalidHeader {
        command: Connect,
        header: "heart-beat",
        expected: "two numbers",
    }],
    ForbiddenHeader { .. } => [ForbiddenHeader { command: Send, header: "message-id" }],
    MissingDestination(_) => [MissingDestination(Send)],
    MissingIdOrDestination => [MissingIdOrDestination],
    DurableWithoutId(_) => [DurableWithoutId(Subscribe)],
    ReservedId(_) => [ReservedId(Subscribe)],
    DuplicateSubscription(_) => [DuplicateSubscription("T_1".into())],
    UnknownSubscription(_) => [UnknownSubscription("id='9'".into())],
    TooManySubscriptions { .. } => [TooManySubscriptions { limit: 100 }],
    InvalidMessageId { .. } => [InvalidMessageId { command: Ack, header: "id" }],
    NoSubscription(_) => [NoSubscription("T_1@@session-x@@5".into())],
    OtherSubscription { .. } => [OtherSubscription { command: Ack, subscription: "t".into() }],
    UnknownDelivery(_) => [UnknownDelivery(7)],
    MissingTransaction(_) => [MissingTransaction(Begin)],
    DuplicateTransaction(_) => [DuplicateTransaction("t".into())],
    UnknownTransaction(_) => [UnknownTransaction("t".into())],
    TooManyTransactions { .. } => [TooManyTransactions { limit: 16 }],
    TransactionTooLong { .. } => [TransactionTooLong { limit: 1024 }],
    TransactionTooBig { .. } => [TransactionTooBig { limit: 4096 }],
    MissingCredentials => [MissingCredentials],
    AccessRefused { .. } => [AccessRefused { user: "guest".into() }],
    LoginUnavailable { .. } => [LoginUnavailable { user: "guest".into() }],
    EntryUnavailable { .. } => [EntryUnavailable { vhost: "//".into() }],
    VhostDenied { .. } => [VhostDenied { vhost: "//".into() }],
    LoginTimeout => [LoginTimeout],
    PermissionDenied { .. } => [PermissionDenied { detail: "ACCESS_REFUSED - …".into() }],
    PermissionUnavailable { .. } => [
        PermissionUnavailable { detail: "ACCESS_REFUSED - …".into() },
    ],
    PermissionWithdrawn { .. } => [PermissionWithdrawn { detail: "ACCESS_REFUSED - …".into() }],
    Revoked { .. } => [Revoked { detail: "ACCESS_REFUSED - …".into() }],
    BrokerRefused(_) => [BrokerRefused("ACCESS_REFUSED - …".into())],
    InvalidDestination(_) => [Problem::invalid_destination("queue", "/a/b")],
    UnknownDestination(_) => [UnknownDestination("/foo/bar".into())],
    NotFound(_) => [NotFound("NOT_FOUND - …".into())],
    ResourceLocked(_) => [ResourceLocked("RESOURCE_LOCKED - queue".into())],
    PreconditionFailed(_) => [PreconditionFailed("PRECONDITION_FAILED - …".into())],
    NotPublished(_) => [NotPublished("why\n".into())],
    BrokerUnavailable(_) => [BrokerUnavailable("why\n".into())],
    SubscriptionCancelled(_) => [SubscriptionCancelled("the queue was deleted".into())],
    FeedInterrupted(_) => [FeedInterrupted("which\n".into())],
    NotUtf8 => [NotUtf8],
    SlowConsumer => [SlowConsumer],
    HeartbeatMissed => [HeartbeatMissed],
    PingsUnanswered => [PingsUnanswered],
    ShuttingDown => [ShuttingDown],
    TooManyConnections => [TooManyConnections],
    Overloaded => [Overloaded],
    Kicked(_) => [Kicked("not paid".into()), Kicked("".into())],
    Replaced => [Replaced],
    AlreadyLoggedInElsewhere(_) => [
        AlreadyLoggedInElsewhere("'alice' is logged in already".into()),
    ],
    LoginChanged => [LoginChanged],
}

fn house(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `BLESS=1 cargo test -p stomp-session problems` writes down what they are now; read the diff:
/// clients match on these words.
#[test]
fn problems_are_told_as_they_are_written_down() {
    let mut frames = String::new();
    for problem in samples() {
        has_a_line(&problem);
        let bytes = problem.frame();
        let text = std::str::from_utf8(&bytes).unwrap();
        let text = text.strip_suffix('\0').unwrap().trim_end();
        let code = problem.close_code().code();
        frames.push_str(&format!("== close {code}\n{text}\n\n"));
    }
    let file = house("src/problems.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, &frames).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    let pairs = frames.split("== ").zip(known.split("== "));
    for (is, was) in pairs {
        assert_eq!(is, was, "not as in session/src/problems.txt");
    }
    assert_eq!(frames.len(), known.len(), "session/src/problems.txt");
}

/// The headers need no escapes in any version, and say the same as the close code.
#[test]
fn what_to_do_next_is_consistent_and_short() {
    for problem in samples() {
        let is = |text: &str, more: &[u8]| {
            let known = |b: u8| b.is_ascii_alphabetic() || more.contains(&b);
            !text.is_empty() && text.len() <= 34 && text.bytes().all(known)
        };
        assert!(is(problem.message(), b" _-"), "{problem:?}");
        assert!(is(problem.error_code(), b"-"), "{problem:?}");
        assert_eq!(problem.error_code(), problem.error_code().to_lowercase());
        let comes_back = matches!(problem.reconnect(), Reconnect::After(1..));
        assert_eq!(
            problem.close_code().should_reconnect(),
            comes_back,
            "{problem:?}"
        );
        let header = problem.reconnect().to_string();
        let seconds = header.strip_suffix('s').map(str::parse::<u16>);
        assert!(
            matches!(header.as_str(), "no" | "renew") || matches!(seconds, Some(Ok(_))),
            "{header}"
        );
    }
}

/// `docs/errors.md` has a row for each, and none besides.
#[test]
fn the_page_of_errors_is_current() {
    let row = |problem: Problem| {
        format!(
            "| `{}` | `{}` | {} | `{}` |",
            problem.error_code(),
            problem.message(),
            problem.close_code().code(),
            problem.reconnect()
        )
    };
    let expected: BTreeSet<String> = samples().into_iter().map(row).collect();
    let page = fs::read_to_string(house("../docs/errors.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let mut found = BTreeSet::new();
    for line in rows {
        // The values of `reconnect` have a table, too.
        let ends: Vec<_> = line.match_indices(" |").map(|(at, _)| at).collect();
        let Some(end) = ends.get(3).filter(|_| !line.contains("`error-code`")) else {
            continue;
        };
        let (row, advice) = line.split_at(end + 2);
        assert!(advice.len() > 20, "no advice: {line}");
        assert!(found.insert(row.to_owned()), "twice: {row}");
    }
    assert_eq!(found, expected);
}

#[test]
fn for_logs_a_problem_is_one_line() {
    let problem = UnknownSubscription("id='9'".into());
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
    let problem = NoSubscription(long.as_str().into());
    assert_eq!(
        problem.detail(),
        format!("Message with id \"{clipped}\" has no subscription")
    );
    let problem = AccessRefused { user: long.into() };
    assert_eq!(
        problem.detail(),
        format!("Access refused for user '{clipped}'\n")
    );
    let problem = UnknownTransaction("a\n\r\t\"\\\u{1}é".into());
    let expected = "Invalid transaction identifier: \"a\\n\\r\\t\\\"\\\\\\x{1}é\"\n";
    assert_eq!(problem.detail(), expected);
}
