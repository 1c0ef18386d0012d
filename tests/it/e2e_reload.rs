//! The configuration is read again while clients are connected: by `stentor ctl`, by SIGHUP, by
//! the HTTP API.

use std::{fs, os::unix::net::UnixDatagram, process::Command as Program, time::Duration};

use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{API_TOKEN, Answer, Call, DEADLINE, Gateway, Hook, Login, StompClient, eventually};
use tokio::{net::TcpListener, time::timeout};

use crate::house::{Ran, stentor};

const DESTINATION: &str = "/exchange/feed/user_alice";
const OTHER_TOKEN: &str = "another-0123456789abcdef";

/// The keys that each test has, and more.
fn file(hook: &Hook, more: &str) -> String {
    let paths = [
        ("user_path", Call::User),
        ("vhost_path", Call::Vhost),
        ("resource_path", Call::Resource),
        ("topic_path", Call::Topic),
    ];
    let paths = paths.map(|(key, call)| format!("{key} = \"{}\"\n", hook.url(call)));
    let auth = paths.concat();
    let token = match more.contains("[api]") {
        true => String::new(),
        false => format!("[api]\ntokens = {{ ops = \"admin {API_TOKEN}\" }}\n"),
    };
    format!("[auth]\n{auth}cache_ttl = \"0s\"\n{token}{more}")
}

async fn gateway(hook: &Hook, more: &str) -> Gateway {
    let builder = stentor()
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=topic")
        .unset("api.tokens")
        .unset("log.level")
        .file(&file(hook, more));
    builder.ready().await
}

fn write(gateway: &Gateway, text: &str) {
    fs::write(gateway.folder().join("stentor.toml"), text).unwrap();
}

fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> Ran {
    let mut command = Program::new(env!("CARGO_BIN_EXE_stentor"));
    command.args(arguments).env_clear();
    command.env("STENTOR_URL", gateway.admin_url());
    command.env("STENTOR_TOKEN", token);
    Ran::from(command.output().unwrap())
}

fn reload(gateway: &Gateway) -> Ran {
    run(gateway, API_TOKEN, &["ctl", "reload"])
}

async fn login(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

async fn publish(client: &mut StompClient, body: &str) {
    let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
    client.send(&send.with_body(body.to_owned())).await;
}

async fn hears_itself(client: &mut StompClient, body: &str) {
    publish(client, body).await;
    client.expect_message(body).await;
}

#[tokio::test]
async fn lowered_limits_count_for_those_who_come_and_end_nobody() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let mut here = [
        login(&gateway, "alice").await,
        login(&gateway, "alice").await,
    ];
    for alice in &mut here {
        alice.subscribe("s", DESTINATION).await;
    }
    let limits = "[limits]\nmax_user_connections = 1\nmax_frame_size = \"1KiB\"\n\
                  max_frame_size_unauthenticated = \"1KiB\"\nmax_header_size = \"1KiB\"\n[listen]\nadmin = \"127.0.0.1:1\"\n";
    write(&gateway, &file(&hook, limits));
    let done = reload(&gateway);
    // The address of the test is a variable's, which overrides the file.
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    for words in [
        "[limits] max_user_connections",
        "10000",
        "[limits] max_frame_size",
        "\"1KiB\"",
    ] {
        assert!(done.out.contains(words), "{words}\n{}", done.out);
    }
    let mut third = StompClient::tcp(gateway.stomp_address()).await;
    third
        .send(&Login::new("alice", "passcode", "/").frame())
        .await;
    third.expect_error("too many connections").await;
    // Those who were here go by their own rules.
    let long = "x".repeat(4000);
    publish(&mut here[0], &long).await;
    for alice in &mut here {
        alice.expect_message(&long).await;
    }
    let mut bob = login(&gateway, "bob").await;
    publish(&mut bob, &long).await;
    bob.expect_error("Frame too large").await;
    let changed = gateway.until_events("configuration changed", 4).await;
    assert_eq!(changed[0]["level"], "INFO");
    // Raised again, there is room.
    write(&gateway, &file(&hook, ""));
    assert_eq!(reload(&gateway).code, Some(0));
    login(&gateway, "alice").await;
    let again = reload(&gateway);
    assert_eq!(again.out, "No key differs.\n");
}

#[tokio::test]
async fn a_page_s_origin_is_let_in_without_a_restart() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let ask = async || {
        let mut request = format!("GET /ws HTTP/1.1\r\nHost: {}\r\n", "push.example.com");
        request +=
            "Origin: https://app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        request +=
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let address = gateway.origin().replace("http://", "");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut head = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut head).unwrap();
        String::from_utf8(head.to_vec()).unwrap()
    };
    assert_eq!(ask().await, "HTTP/1.1 403");
    let origins = "[listen]\norigins = [\"https://app.example.com\"]\n";
    write(&gateway, &file(&hook, origins));
    gateway.process().signal("HUP");
    gateway.until_events("configuration reloaded", 1).await;
    assert_eq!(ask().await, "HTTP/1.1 101");
}

#[tokio::test]
async fn a_token_that_is_taken_out_counts_no_more_and_is_never_shown() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let other = format!("[api]\ntokens = {{ ops = \"admin {OTHER_TOKEN}\" }}\n");
    write(&gateway, &file(&hook, &other));
    let compared = run(&gateway, API_TOKEN, &["config", "--diff"]);
    assert_eq!(compared.code, Some(0), "{compared:?}");
    assert!(compared.out.contains("another secret"), "{}", compared.out);
    // Only told so far.
    let done = reload(&gateway);
    assert_eq!(done.code, Some(0), "{done:?}");
    let (status, body) = gateway.api("GET /api/v1/node", None).await;
    assert_eq!(status, 401, "{body}");
    let refused = run(&gateway, API_TOKEN, &["ctl", "node"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    let node = run(&gateway, OTHER_TOKEN, &["ctl", "node"]);
    assert_eq!(node.code, Some(0), "{node:?}");
    let config = run(&gateway, OTHER_TOKEN, &["ctl", "config"]);
    assert!(config.out.contains("[api] tokens"), "{}", config.out);
    for text in [&compared.out, &done.out, &config.out, &gateway.log().text()] {
        assert!(
            !text.contains(API_TOKEN) && !text.contains(OTHER_TOKEN),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_log_s_level_turns() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let debug = || {
        let mut events = gateway.events();
        events.retain(|event| event["level"] == "DEBUG" && event["path"] == "/api/v1/node");
        events.len()
    };
    assert_eq!(gateway.api("GET /api/v1/node", None).await.0, 200);
    write(&gateway, &file(&hook, "[log]\nlevel = \"debug\"\n"));
    assert_eq!(reload(&gateway).code, Some(0));
    assert_eq!(debug(), 0);
    assert_eq!(gateway.api("GET /api/v1/node", None).await.0, 200);
    eventually(DEADLINE, "a line at debug", async || debug() > 0).await;
}

#[tokio::test]
async fn the_hook_moves_under_traffic() {
    let (old, new) = (Hook::start().await, Hook::start().await);
    let gateway = gateway(&old, "").await;
    let mut alice = login(&gateway, "alice").await;
    alice.subscribe("s", DESTINATION).await;
    hears_itself(&mut alice, "before").await;
    write(&gateway, &file(&new, ""));
    // Frames come all the while, and each asks a hook, for nothing is remembered.
    let reloading = tokio::task::spawn_blocking({
        let (url, token) = (gateway.admin_url(), API_TOKEN);
        move || {
            let mut command = Program::new(env!("CARGO_BIN_EXE_stentor"));
            command.args(["ctl", "reload"]).env_clear();
            command.env("STENTOR_URL", url).env("STENTOR_TOKEN", token);
            Ran::from(command.output().unwrap())
        }
    });
    let mut count = 0;
    while !reloading.is_finished() {
        hears_itself(&mut alice, &format!("under way {count}")).await;
        count += 1;
    }
    let done = reloading.await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("[auth] user_path"), "{}", done.out);
    let before = old.calls().len();
    hears_itself(&mut alice, "after").await;
    login(&gateway, "bob").await;
    assert_eq!(old.calls().len(), before, "the old hook is asked no more");
    assert!(!new.calls_of(Call::User).is_empty());
    // What the old one would allow counts no more.
    new.answer(Call::Topic, Answer::Deny);
    publish(&mut alice, "refused").await;
    alice.expect_error("access_refused").await;
}

#[tokio::test]
async fn on_any_error_the_old_one_stays_and_the_error_is_told() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let mut alice = login(&gateway, "alice").await;
    alice.subscribe("s", DESTINATION).await;
    let sound = file(&hook, "[limits]\nmax_user_connections = 1\n");
    for (text, faults) in [
        (
            sound.clone() + "max_subscriptions = \"many\"\n",
            &["stentor.toml:11", "max_subscriptions"][..],
        ),
        (
            sound.clone() + "no_such_key = 1\n[nothing]\n",
            &["no_such_key", "[nothing]"][..],
        ),
        ("not toml".to_owned(), &["not TOML"][..]),
        (
            sound.clone() + "[auth.jwt]\npublic_keys = [\"/nowhere.pem\"]\naudiences = [\"a\"]\n",
            &["[auth.jwt] public_keys", "/nowhere.pem"][..],
        ),
        (
            // The new half of it contradicts what stays until a restart.
            sound.clone()
                + "max_frame_size = \"17MiB\"\nmax_transaction_bytes = \"20MiB\"\n[mailbox]\nmax_bytes = \"20MiB\"\n[broker]\n\
                   max_message_size = \"32MiB\"\n",
            &["need a restart", "[limits] max_frame_size"][..],
        ),
        (
            // Whoever is to say who may log in has to be there.
            sound.clone()
                + "[auth.jwt]\njwks_url = \"http://127.0.0.1:1/jwks\"\naudiences = [\"a\"]\n",
            &["[auth.jwt] jwks_url", "could not be fetched"][..],
        ),
    ] {
        write(&gateway, &text);
        let done = reload(&gateway);
        assert_eq!((done.code, &*done.out), (Some(1), ""), "{text}\n{done:?}");
        for fault in faults {
            assert!(done.err.contains(fault), "{fault}\n{}", done.err);
        }
        let (status, body) = gateway.api("POST /api/v1/config/reload", None).await;
        assert_eq!(status, 422, "{body}");
        assert!(
            body["error"].as_str().unwrap().contains(faults[0]),
            "{body}"
        );
    }
    fs::remove_file(gateway.folder().join("stentor.toml")).unwrap();
    gateway.process().signal("HUP");
    let kept = gateway
        .until_events("configuration not reloaded: the old one stays", 13)
        .await;
    assert_eq!(kept[12]["level"], "ERROR");
    let cause = kept[12]["cause"].as_str().unwrap();
    assert!(cause.contains("stentor.toml: No such file"), "{cause}");
    hears_itself(&mut alice, "still here").await;
    login(&gateway, "alice").await;
}

#[tokio::test]
async fn another_file_is_compared_and_changes_nothing() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let other = gateway.folder().join("other.toml");
    let text = file(
        &hook,
        "[limits]\nmax_subscriptions = 7\n[presence]\nlease = \"20s\"\n",
    );
    fs::write(&other, text).unwrap();
    let diff = format!("--diff={}", other.display());
    let compared = run(&gateway, API_TOKEN, &["config", &diff]);
    assert_eq!(
        (compared.code, &*compared.err),
        (Some(0), ""),
        "{compared:?}"
    );
    for words in [
        "Changed by a reload",
        "[limits] max_subscriptions",
        "1000",
        "Needs a restart",
        "[presence] lease",
        "\"15s\"",
    ] {
        assert!(compared.out.contains(words), "{words}\n{}", compared.out);
    }
    assert_eq!(
        run(&gateway, API_TOKEN, &["config", "--diff"]).out,
        "No key differs.\n"
    );
    let (_, config) = gateway.api("GET /api/v1/config", None).await;
    let find = |section: &str, key: &str| -> Value {
        let mut keys = config["keys"].as_array().unwrap().iter();
        keys.find(|one| one["section"] == section && one["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(
        find("limits", "max_subscriptions"),
        json!({ "section": "limits", "key": "max_subscriptions", "value": "1000", "reloads": true })
    );
    assert_eq!(find("broker", "url")["source"], "STENTOR__BROKER__URL");
    let source = find("auth", "user_path")["source"].clone();
    assert!(
        source.as_str().unwrap().ends_with("stentor.toml:2"),
        "{source}"
    );
}

/// What systemd hears, with `Type=notify` and a watchdog.
#[tokio::test]
async fn the_service_manager_is_told() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut text = [0; 256];
        let length = socket.recv(&mut text).expect("a word in time");
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let until = |word: &str| {
        let mut heard = Vec::new();
        loop {
            let text = hear();
            if text.lines().any(|line| line == word) {
                return (text, heard);
            }
            heard.push(text);
        }
    };
    let hook = Hook::start().await;
    let builder = stentor()
        .hook(&hook)
        .set("broker.url", "embedded:")
        .set("shutdown.grace", "2m")
        .env("NOTIFY_SOCKET", path.display())
        .env("WATCHDOG_USEC", "200000");
    let gateway = builder.start().await;
    let (_, before) = until("READY=1");
    assert!(before.is_empty(), "{before:?}");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    gateway.process().signal("HUP");
    let (reloading, _) = until("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    until("READY=1");
    assert!(gateway.terminate(Duration::from_secs(20)).await.success());
    let (stopping, _) = until("STOPPING=1");
    // The grace, 10 s to close, and 5 s to go: the unit allows 60 s.
    let mut lines = stopping.lines();
    assert!(
        lines.any(|line| line == "EXTEND_TIMEOUT_USEC=135000000"),
        "{stopping}"
    );
}

/// Its reload has replaced nothing yet.
#[tokio::test]
async fn a_reload_that_waits_for_an_issuer_does_not_hold_up_the_end() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "").await;
    let issuer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tokens = format!(
        "[auth.jwt]\naudiences = [\"a\"]\njwks_url = \"http://{}/jwks\"\njwks_timeout = \"1m\"\n",
        issuer.local_addr().unwrap()
    );
    write(&gateway, &file(&hook, &tokens));
    gateway.process().signal("HUP");
    // It is asked, and never answers.
    let asked = timeout(DEADLINE, issuer.accept()).await;
    let _asked = asked.expect("the issuer is asked").unwrap();
    // Half of the grace, after which it would be cut.
    assert!(gateway.terminate(DEADLINE / 2).await.success());
    let log = gateway.log().text();
    assert!(!log.contains("not all was closed in time"), "{log}");
}

/// Standard input is at its end: read again, it would have every key be its default.
#[tokio::test]
async fn what_came_from_standard_input_stays() {
    let hook = Hook::start().await;
    for (file, name) in [("-", "standard input"), ("/dev/stdin", "/dev/stdin")] {
        let gateway = stentor()
            .hook(&hook)
            .set("broker.url", "embedded:")
            .arguments(&["serve", "--config", file], &["http", "stomp", "admin"]);
        let gateway = gateway.start().await;
        gateway.process().signal("HUP");
        let message = "configuration not reloaded: the old one stays";
        let kept = gateway.until_events(message, 1).await;
        let cause = kept[0]["cause"].as_str().unwrap();
        assert!(cause.contains(name), "{cause}");
    }
}
