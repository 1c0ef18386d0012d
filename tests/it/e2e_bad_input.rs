//! Every bad input gets a clear ERROR, then the connection ends, over TCP and over WebSocket.

use std::time::Instant;

use stomp_grammar::Command;
use testkit::{Answer, Call, DEADLINE, Hook, StompClient, WsOptions, eventually};

use crate::house::{House, PASSCODE, stentor, vhost};

/// The bytes to send, and the expected answer.
struct Case {
    /// After CONNECT, or instead of it.
    logged_in: bool,
    bytes: Vec<u8>,
    /// The `message` header of the ERROR.
    message: &'static str,
    /// A part of its body.
    says: &'static str,
    /// The close code over WebSocket.
    code: u16,
}

fn case(bytes: impl Into<Vec<u8>>, message: &'static str, says: &'static str, code: u16) -> Case {
    Case {
        logged_in: true,
        bytes: bytes.into(),
        message,
        says,
        code,
    }
}

/// As the first thing, before CONNECT.
fn first(bytes: impl Into<Vec<u8>>, message: &'static str, says: &'static str, code: u16) -> Case {
    Case {
        logged_in: false,
        ..case(bytes, message, says, code)
    }
}

async fn check(house: &House, cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        for websocket in [false, true] {
            let mut client = match (websocket, case.logged_in) {
                (false, false) => house.raw_tcp().await,
                (false, true) => house.tcp().await,
                (true, false) => house.raw_ws().await,
                (true, true) => house.ws().await,
            };
            client.raw(&case.bytes).await;
            expect_refusal(&mut client, &case, websocket).await;
        }
    }
}

async fn expect_refusal(client: &mut StompClient, case: &Case, websocket: bool) {
    let shown: String = String::from_utf8_lossy(&case.bytes)
        .chars()
        .take(80)
        .collect();
    let error = client.expect_error(case.message).await;
    let body = String::from_utf8_lossy(&error.body);
    assert!(body.contains(case.says), "{shown:?}: {body:?}");
    assert_eq!(error.header("content-type"), Some("text/plain"));
    assert!(error.header("version").is_some(), "{shown:?}");
    let closed = client.expect_closed().await;
    let code = websocket.then_some(case.code);
    assert_eq!(closed.code, code, "{shown:?}: {closed}");
}

/// A frame that asks for a receipt gets its id back in the ERROR.
#[tokio::test]
async fn an_error_names_the_receipt_that_was_asked_for() {
    let house = House::open().await;
    let mut client = house.tcp().await;
    client
        .raw("SEND\ndestination:/nowhere/x\nreceipt:r-7\n\nx\0")
        .await;
    let error = client.expect_error("Unknown destination").await;
    assert_eq!(error.header("receipt-id"), Some("r-7"));
    client.expect_closed().await;
}

#[tokio::test]
async fn frames_that_are_none() {
    let house = House::open().await;
    let log_in = "You must log in using CONNECT first";
    check(
        &house,
        [
            first(
                "SEND\ndestination:/queue/a\n\nx\0",
                "Illegal command",
                log_in,
                1002,
            ),
            first(
                "GET / HTTP/1.1\r\nHost: x\r\n\r\n\0",
                "Illegal command",
                log_in,
                1002,
            ),
            case(
                "CONNECT\naccept-version:1.2\nhost:/\n\n\0",
                "Illegal command",
                "CONNECT",
                1002,
            ),
            case(
                "WRONG\n\n\0",
                "Bad command",
                "Could not interpret command \"WRONG\"",
                1002,
            ),
            case(
                "send\n\n\0",
                "Bad command",
                "Could not interpret command \"send\"",
                1002,
            ),
            case(
                "MESSAGE\n\n\0",
                "Bad command",
                "Could not interpret command \"MESSAGE\"",
                1002,
            ),
            case(
                // It is not quoted: it may be a part of a passcode.
                "SEND\ndestination\n\nx\0",
                "Malformed frame",
                "header line 1 has no colon",
                1002,
            ),
            case(
                "SEND\ndestination:/queue/a\nfoo:a\0MESSAGE\n\nx\0",
                "Malformed frame",
                "\"foo\" holds a NUL",
                1002,
            ),
            case("SEND\nx:\\q\n\nx\0", "Malformed frame", "\\q", 1002),
            case(
                "SUBSCRIBE\nid:1\ndestination:/topic/a\n\nbody\0",
                "Malformed frame",
                "",
                1002,
            ),
            case(
                "SEND\ncontent-length:zz\n\nx\0",
                "Malformed frame",
                "content-length",
                1002,
            ),
            case(
                "SEND\ncontent-length:2\n\nhello\0",
                "Malformed frame",
                "NUL",
                1002,
            ),
            case(b"SEND\nx:\xff\xfe\n\nx\0", "Malformed frame", "UTF-8", 1002),
        ],
    )
    .await;
}

#[tokio::test]
async fn headers_that_are_missing_or_wrong() {
    let house = House::open().await;
    let versions = "Supported versions are 1.0,1.1,1.2";
    check(
        &house,
        [
            first(
                "CONNECT\naccept-version:9.9\nhost:/\n\n\0",
                "Version mismatch",
                versions,
                1002,
            ),
            first(
                "CONNECT\naccept-version:1.2\nhost:/\n\n\0",
                "Bad CONNECT",
                "Missing login or passcode header(s)",
                1008,
            ),
            first(
                "CONNECT\naccept-version:1.2\nhost:/\nlogin:a\npasscode:b\nheart-beat:x\n\n\0",
                "Invalid header",
                "heart-beat",
                1002,
            ),
            case(
                "SEND\n\nx\0",
                "Missing destination",
                "\"SEND\" must include a 'destination' header",
                1002,
            ),
            case(
                "SUBSCRIBE\nid:1\n\n\0",
                "Missing destination",
                "\"SUBSCRIBE\" must include a 'destination' header",
                1002,
            ),
            case("ACK\n\n\0", "Missing header", "\"id\"", 1002),
            case(
                "SUBSCRIBE\nid:1\nack:foo\ndestination:/topic/a\n\n\0",
                "Invalid header",
                "ack",
                1002,
            ),
            case(
                "SEND\ndestination:/topic/a\nmessage-id:1\n\nx\0",
                "Invalid header",
                "'message-id' is not allowed on 'SEND'.",
                1002,
            ),
            case(
                "UNSUBSCRIBE\nid:9\n\n\0",
                "No subscription found",
                "not found",
                1002,
            ),
            case(
                "ACK\n\n\0",
                "Missing header",
                "\"ACK\" must include the \"id\" header",
                1002,
            ),
            case(
                "COMMIT\ntransaction:t\n\n\0",
                "Bad transaction",
                "Invalid transaction identifier: \"t\"",
                1002,
            ),
            case(
                "BEGIN\n\n\0",
                "Missing transaction",
                "\"BEGIN\" must include a 'transaction' header",
                1002,
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_too_large() {
    let house = House::open_with(|builder| {
        builder
            .set("limits.max_frame_size", "64KiB")
            .set("limits.max_frame_size_unauthenticated", "4KiB")
            .set("limits.max_header_size", "1KiB")
            .set("limits.max_headers", "20")
    })
    .await;
    let header = format!("SEND\nx:{}\n\n\0", "x".repeat(2000));
    let headers = format!("SEND\n{}\n\0", "x:1\n".repeat(21));
    // Refused before it comes: the announcement is enough.
    let announced = "SEND\ndestination:/topic/a\ncontent-length:1000000\n\n";
    let body = format!("SEND\ndestination:/topic/a\n\n{}", "x".repeat(70_000));
    let login = format!(
        "CONNECT\n{}\n\0",
        format!("x:{}\n", "0".repeat(400)).repeat(12)
    );
    let command = "S".repeat(2000);
    check(
        &house,
        [
            case(header, "Frame too large", "\"x\"", 1009),
            case(headers, "Frame too large", "20", 1009),
            case(announced, "Frame too large", "65536", 1009),
            case(body, "Frame too large", "65536", 1009),
            case(command, "Frame too large", "1024", 1009),
            first(login, "Frame too large", "", 1009),
        ],
    )
    .await;
}

#[tokio::test]
async fn destinations_that_are_none() {
    let house = House::open().await;
    let mut cases = Vec::new();
    for (destination, message, says) in [
        ("", "Invalid destination", "Destination cannot be blank"),
        (
            "/queue",
            "Invalid destination",
            "'' is not a valid queue destination",
        ),
        (
            "/queue/",
            "Invalid destination",
            "'/' is not a valid queue destination",
        ),
        (
            "/queue/a/b",
            "Invalid destination",
            "'/a/b' is not a valid queue destination",
        ),
        (
            "/topic/a/b",
            "Invalid destination",
            "'/a/b' is not a valid topic destination",
        ),
        (
            "/exchange/a/b/c",
            "Invalid destination",
            "'/a/b/c' is not a valid exchange destination",
        ),
        (
            "/temp-queue/x",
            "Invalid destination",
            "'/temp-queue/x' is not a valid destination for",
        ),
        (
            "/foo/bar",
            "Unknown destination",
            "'/foo/bar' is not a valid destination",
        ),
    ] {
        for command in ["SEND\n", "SUBSCRIBE\nid:1\n"] {
            let bytes = format!("{command}destination:{destination}\n\n\0");
            cases.push(case(bytes, message, says, 1008));
        }
    }
    // The plug-in's words, in the vhost's name only different from its own.
    let exchange = "NOT_FOUND - no exchange 'nope' in vhost '";
    let queue = "NOT_FOUND - no queue 'nope' in vhost '";
    for (bytes, says) in [
        (
            "SUBSCRIBE\nid:1\ndestination:/exchange/nope/key\n\n\0",
            exchange,
        ),
        ("SEND\ndestination:/exchange/nope/key\n\nx\0", exchange),
        ("SUBSCRIBE\nid:1\ndestination:/amq/queue/nope\n\n\0", queue),
    ] {
        cases.push(case(bytes, "not_found", says, 1008));
    }
    check(&house, cases).await;
}

#[tokio::test]
async fn what_the_hook_denies() {
    let house = House::open().await;
    let connect = |user: &str| {
        let host = house.vhost.name();
        format!("CONNECT\naccept-version:1.2\nhost:{host}\nlogin:{user}\npasscode:{PASSCODE}\n\n\0")
    };
    house.hook.rule(|asked| {
        let denied = match asked.call {
            Call::User => asked.get("username") == "eve",
            Call::Vhost => asked.get("username") == "stranger",
            Call::Resource => asked.get("name") == "secret",
            Call::Topic => asked.get("routing_key") == "user_bob",
            Call::Groups => false,
        };
        denied.then_some(Answer::DenyBecause("the reason is the log's"))
    });
    let vhost = "access denied";
    check(
        &house,
        [
            first(
                connect("eve"),
                "Bad CONNECT",
                "Access refused for user 'eve'",
                1008,
            ),
            first(connect("stranger"), "Bad CONNECT", vhost, 1008),
            first(
                "CONNECT\naccept-version:1.2\nhost:nowhere\nlogin:a\npasscode:b\n\n\0",
                "Bad CONNECT",
                "Virtual host 'nowhere' access denied",
                1008,
            ),
            case(
                "SUBSCRIBE\nid:1\ndestination:/exchange/secret/k\n\n\0",
                "access_refused",
                "secret",
                1008,
            ),
            case(
                "SEND\ndestination:/exchange/secret/k\n\nx\0",
                "access_refused",
                "secret",
                1008,
            ),
            case(
                "SUBSCRIBE\nid:1\ndestination:/exchange/feed/user_bob\n\n\0",
                "access_refused",
                "user_bob",
                1008,
            ),
            case(
                "SEND\ndestination:/exchange/feed/user_bob\n\nx\0",
                "access_refused",
                "user_bob",
                1008,
            ),
        ],
    )
    .await;
    house.gateway.until_logged("the reason is the log's").await;
}

/// Nobody comes in while the hook does not answer as it should, and the log blames the hook.
#[tokio::test]
async fn a_hook_that_fails() {
    let house = House::open_with(|builder| builder.set("auth.request_timeout", "500ms")).await;
    let connect = || {
        let host = house.vhost.name();
        format!("CONNECT\naccept-version:1.2\nhost:{host}\nlogin:alice\npasscode:{PASSCODE}\n\n\0")
    };
    let refused = || {
        first(
            connect(),
            "Bad CONNECT",
            "Access refused for user 'alice'",
            1013,
        )
    };
    for answer in [
        Answer::Status(500, "allow".to_owned()),
        Answer::Status(200, "allowed".to_owned()),
        Answer::Status(200, String::new()),
        Answer::Status(200, "<html>Bad Gateway</html>".to_owned()),
        Answer::Close,
        Answer::Never,
    ] {
        house.hook.answer(Call::User, answer);
        check(&house, [refused()]).await;
    }
    house.hook.stop();
    check(&house, [refused()]).await;
    house.gateway.until_events("login refused", 14).await;
}

#[tokio::test]
async fn a_websocket_that_offers_no_stomp() {
    let house = House::open().await;
    let url = house.gateway.ws_url();
    let offer = |protocols: &[&'static str]| WsOptions {
        protocols: protocols.to_vec(),
        ..WsOptions::default()
    };
    let client = StompClient::ws_with(&url, offer(&[])).await;
    assert_eq!(client.protocol(), None);
    let client = StompClient::ws_with(&url, offer(&["v10.stomp", "v11.stomp"])).await;
    // The best of those offered, in whatever order, as the plug-in answers.
    assert_eq!(client.protocol(), Some("v11.stomp"));
}

/// A client without room is told so, and others notice nothing; the log does not fill.
#[tokio::test]
async fn more_clients_than_are_allowed() {
    let house = House::open_with(|builder| builder.set("listen.max_connections", "1")).await;
    let mut first = house.tcp().await;
    let start = Instant::now();
    for _ in 0..5 {
        let mut late = house.raw_tcp().await;
        late.send(&house.login().frame()).await;
        late.expect_error("too many connections").await;
        late.expect_closed().await;
    }
    let says = "connection limit reached";
    house.gateway.until_logged(says).await;
    let lines = house.gateway.log().all();
    let said = lines.iter().filter(|line| line.contains(says)).count();
    assert!(said <= 1 + start.elapsed().as_secs() as usize / 5, "{said}");

    first.subscribe("1", "/exchange/feed/user_alice").await;
    house.push(["hello"]).await;
    first.expect_message("hello").await;
    first.disconnect().await;
    eventually(DEADLINE, "there is room again", async || {
        let mut next = house.raw_tcp().await;
        next.send(&house.login().frame()).await;
        next.expect_frame().await.command == Command::Connected
    })
    .await;
}

/// A wrong configuration ends the program with code 2, and says what is wrong, and where.
#[tokio::test]
async fn configurations_that_are_wrong() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let good = || stentor().vhost(&vhost).hook(&hook);
    let cases = [
        (good().unset("broker.url"), "broker"),
        (good().unset("auth.user_path"), "user_path"),
        (good().set("auth.user_path", "nowhere"), "user_path"),
        (good().set("limits.max_hats", "1"), "MAX_HATS"),
        (good().set("limits.max_headers", "many"), "MAX_HEADERS"),
        (good().set("broker.url", "http://127.0.0.1"), "BROKER__URL"),
        (good().file("[brokr]\nurl = 1\n"), "[brokr]"),
        (good().file("[limits]\nmax_hats = 1\n"), "max_hats"),
        (good().file("[limits\n"), "stentor.toml"),
        (
            good().arguments(&["serve", "--config", "no-such-file"], &[]),
            "no-such-file",
        ),
        (good().arguments(&["dance"], &[]), "dance"),
    ];
    for (builder, says) in cases {
        let gateway = builder.spawn();
        let status = gateway.process().wait(DEADLINE).await;
        let said = gateway.log().text();
        assert_eq!(status.code(), Some(2), "{says}: {said}");
        assert!(said.contains(says), "{says}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
