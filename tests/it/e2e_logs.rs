//! The log for operators: one line when a client has logged in, one when it has gone, and no
//! secrets. (`House` checks that no log of any test here holds a passcode.)

use testkit::{Answer, Call, DEADLINE, Gateway, Hook, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::house::{DESTINATION, House, PASSCODE, USER, vhost};

#[tokio::test]
async fn one_line_at_the_begin_and_one_at_the_end() {
    let house = House::open().await;
    let of = |message: &'static str| {
        let mut events = house.gateway.events();
        events.retain(|event| event["message"] == message);
        events
    };
    for (count, transport) in [(1, "tcp"), (2, "websocket")] {
        let mut client = match transport {
            "tcp" => house.raw_tcp().await,
            _ => house.raw_ws().await,
        };
        let connected = client.connect(&house.login()).await;
        client.subscribe("1", DESTINATION).await;
        client.publish("/exchange/feed/nobody", "hello").await;
        house.push(["one", "two"]).await;
        client.expect_messages(2).await;
        client.disconnect().await;

        let session = connected.header("session").expect("a session id");
        eventually(DEADLINE, "the end is logged", async || {
            of("connection closed").len() == count
        })
        .await;
        let (opened, closed) = (of("connection opened"), of("connection closed"));
        assert_eq!(opened.len(), count);
        for event in [opened.last().unwrap(), closed.last().unwrap()] {
            assert_eq!(event["session"], session, "{event}");
            assert_eq!(event["user"], USER);
            assert_eq!(event["vhost"], house.vhost.name());
            assert_eq!(event["transport"], transport);
        }
        let closed = closed.last().unwrap();
        assert_eq!(closed["messages_in"], 1, "{closed}");
        assert_eq!(closed["messages_out"], 2, "{closed}");
        assert_eq!(closed["reason"], "client disconnected");
    }
    // Two lines a client, without others between.
    assert!(house.gateway.terminate(DEADLINE).await.success());
    let of_clients = house
        .gateway
        .events()
        .into_iter()
        .filter(|event| event["target"] == "stentor::connection");
    assert_eq!(of_clients.count(), 4);
}

/// If the system allows fewer open files than there may be clients, the log has one line, and as
/// many clients are let in as there is room for.
#[tokio::test]
async fn too_few_files_are_one_line() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let program = env!("CARGO_BIN_EXE_stentor");
    let script = "ulimit -n 800 && exec \"$0\" serve";
    let gateway = Gateway::builder("/bin/sh")
        .vhost(&vhost)
        .hook(&hook)
        .arguments(&["-c", script, program], &["http", "stomp", "admin"])
        .ready()
        .await;
    let events = gateway.events();
    let warnings: Vec<_> = events
        .iter()
        .filter(|event| event["level"] == "WARN")
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!(warnings[0]["open_files"], 800);
    assert_eq!(warnings[0]["wanted_connections"], 100_000);
    assert_eq!(warnings[0]["max_connections"], 398);
    assert_eq!(warnings[0]["wanted_unauthenticated"], 10_000);
    assert_eq!(warnings[0]["max_unauthenticated"], 100);
    let message = warnings[0]["message"].as_str().unwrap();
    assert!(message.contains("ulimit -Hn"), "{message}");
    let (_, config) = gateway.api("GET /api/v1/config", None).await;
    let mut keys = config["keys"].as_array().unwrap().iter();
    let shown = keys.find(|one| one["key"] == "max_connections").unwrap();
    assert_eq!(shown["value"], "398");
}

/// However it goes wrong, and even where everything is logged.
#[tokio::test]
async fn no_passcode_at_any_level() {
    let house = House::open_with(|builder| builder.set("log.level", "trace")).await;
    house.ws().await.disconnect().await;
    house.tcp().await.disconnect().await;

    // In a frame that cannot be read.
    let mut client = house.raw_tcp().await;
    client
        .raw(format!(
            "CONNECT\nlogin:a\npasscode:{PASSCODE}\nbroken\n\n\0"
        ))
        .await;
    client.expect_error("Malformed frame").await;
    // A passcode that is sent as a user's name or a destination, by mistake, is no longer a secret;
    // but a hook that fails or refuses must not bring it into the log by the question's address.
    for answer in [
        Answer::Deny,
        Answer::Close,
        Answer::Status(500, String::new()),
    ] {
        house.hook.answer(Call::User, answer);
        let mut client = house.raw_ws().await;
        client.send(&house.login().frame()).await;
        client.expect_error("Bad CONNECT").await;
    }
    house.hook.stop();
    let mut client = house.raw_tcp().await;
    client.send(&house.login().frame()).await;
    client.expect_error("Bad CONNECT").await;

    let asked = house.hook.calls_of(Call::User);
    assert!(asked.iter().any(|call| call.get("password") == PASSCODE));
    // The broker's own password, as text and as a list of bytes.
    assert!(house.gateway.terminate(DEADLINE).await.success());
    let mut lines = house.gateway.log().all();
    lines.retain(|line| line.contains("guest:guest") || line.contains("103, 117, 101, 115, 116"));
    assert!(lines.is_empty(), "the broker's password: {lines:#?}");
}

/// A page on another port, a wrong path, a request that is no upgrade: the author of the page sees
/// no reason, so the log has it, a line for each reason in a while; and the metric counts them all.
#[tokio::test]
async fn clients_that_are_refused_before_their_login_are_told_of() {
    let house = House::open().await;
    let address = house.gateway.origin().replace("http://", "");
    let ask = async |path: &str, headers: &str| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close{headers}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let upgrade = ", Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let foreign = format!("{upgrade}\r\nOrigin: http://localhost:8080");
    for _ in 0..3 {
        assert_eq!(ask("/ws", &foreign).await, "403");
        assert_eq!(ask("/websocket", upgrade).await, "404");
        assert_eq!(ask("/ws", "").await, "426");
        // Browsers ask for it, whatever the page is.
        assert_eq!(ask("/favicon.ico", "").await, "404");
    }
    let (_, metrics) = house.gateway.admin("/metrics").await;
    for (reason, count) in [("origin", 3), ("path", 3), ("upgrade", 3)] {
        let line = format!("stentor_refused_total{{at=\"request\",reason=\"{reason}\"}} {count}");
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    let said = house
        .gateway
        .until_events("client refused before its login", 3)
        .await;
    let of = |reason: &str| {
        let mut said = said.iter().filter(|event| event["reason"] == reason);
        let event = said.next().unwrap_or_else(|| panic!("nothing of {reason}"));
        assert_eq!(said.next(), None, "once in a while");
        event["cause"].as_str().unwrap().to_owned()
    };
    assert!(of("origin").contains("http://localhost:8080"));
    assert!(of("path").contains("/websocket"));
    assert!(of("upgrade").contains("WebSocket"));
}
