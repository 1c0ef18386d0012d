//! The fixtures hold what they promise.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lapin::ExchangeKind;
use testkit::{
    Answer, Call, DEADLINE, FEED, Hook, Login, Process, Proxy, RabbitMq, Redis, StompClient,
    eventually, unique,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn a_node_serves_virtual_hosts_that_do_not_meet() {
    let node = RabbitMq::shared().await;
    let (one, other) = (node.vhost().await, node.vhost().await);
    for vhost in [&one, &other] {
        vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    }
    let mut tcp = StompClient::tcp(&node.stomp_address()).await;
    tcp.connect(&Login::new("guest", "guest", one.name())).await;
    let mut ws = StompClient::ws(&node.web_stomp_url()).await;
    ws.connect(&Login::new("guest", "guest", other.name()))
        .await;
    for client in [&mut tcp, &mut ws] {
        client.subscribe("1", "/exchange/feed/user_*").await;
    }

    one.publish(FEED, "user_*", ["for one"]).await;
    other.publish(FEED, "user_*", ["for the other"]).await;

    tcp.expect_message("for one").await;
    ws.expect_message("for the other").await;
    assert!(one.is_bound(FEED, "user_*").await);
    assert_eq!(one.queues().await.len(), 1);
    let channel = one.channel().await;
    eventually(DEADLINE, "the connection is listed", async || {
        !one.connections().await.is_empty()
    })
    .await;
    drop(channel);
    tcp.disconnect().await;
}

#[tokio::test]
async fn a_node_keeps_what_is_durable_over_restart_and_kill() {
    let node = std::sync::Arc::new(RabbitMq::own().await);
    let vhost = node.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    // First: RabbitMQ writes declarations to disk a moment later, and a kill might come before.
    node.restart().await;
    vhost.publish(FEED, "nobody", ["still there"]).await;
    node.kill();
    assert!(TcpStream::connect(node.amqp_address()).await.is_err());
    node.start().await;
    vhost.publish(FEED, "nobody", ["still there"]).await;
    assert!(node.ctl(&["list_vhosts"]).await.contains(vhost.name()));
}

/// Run by [`a_killed_test_process_leaves_nothing_behind`] in a process of its own.
#[tokio::test]
async fn helper_that_is_killed() {
    if std::env::var_os("TESTKIT_HELPER").is_none() {
        return;
    }
    let node = RabbitMq::shared().await;
    let redis = Redis::shared().await;
    assert_eq!(redis.command(&["PING"]).await, "+PONG");
    println!("\nfolder {}", node.folder().display());
    println!("pids {:?}", node.pids());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_test_process_leaves_nothing_behind() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "helper_that_is_killed", "--nocapture"])
        .env("TESTKIT_HELPER", "1");
    let helper = Process::start("helper", &mut command, Stdio::null()).unwrap();
    let line = |start: &'static str| {
        let stdout = helper.stdout().clone();
        eventually(3 * DEADLINE, "the helper's node runs", async move || {
            stdout.find(|line| line.strip_prefix(start).map(ToOwned::to_owned))
        })
    };
    let folder = line("folder ").await;
    let pids = line("pids ").await;
    let pids: Vec<&str> = pids.trim_matches(['[', ']']).split(", ").collect();
    assert_eq!(pids.len(), 2, "{pids:?}");
    assert!(pids.iter().all(|pid| runs(pid)));

    helper.signal("KILL");

    eventually(DEADLINE, "beam and epmd are gone", async || {
        !pids.iter().any(|pid| runs(pid))
    })
    .await;
    eventually(DEADLINE, "the folder is gone", async || {
        fs::metadata(&folder).is_err()
    })
    .await;
}

/// A zombie, which only its adoptive parent has not noticed yet, does not run.
fn runs(pid: &str) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", pid]).output();
    let state = String::from_utf8(output.unwrap().stdout).unwrap();
    !state.trim().is_empty() && !state.starts_with('Z')
}

#[tokio::test]
async fn redis_answers_and_comes_back_empty() {
    let redis = Redis::own().await;
    let key = unique("key");
    assert_eq!(redis.command(&["SET", &key, "1"]).await, "+OK");
    redis.kill();
    assert!(TcpStream::connect(redis.address()).await.is_err());
    redis.start().await;
    assert_eq!(redis.command(&["EXISTS", &key]).await, ":0");
}

#[tokio::test]
async fn the_hook_obeys_and_records() {
    let hook = Hook::start().await;
    hook.answer(Call::User, Answer::AllowTags("monitoring"));
    hook.rule(|asked| (asked.get("username") == "eve").then_some(Answer::Deny));
    hook.answer(Call::Topic, Answer::Close);

    let get = async |url: String| {
        let answer = reqwest::get(url).await?;
        answer.text().await
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = hook.url(Call::User);
    let user = format!("{url}?username=a%20b&password=p%26");
    assert_eq!(get(user).await.unwrap(), "allow monitoring");
    let eve = format!("{url}?username=eve");
    assert_eq!(get(eve).await.unwrap(), "deny");
    assert_eq!(get(hook.url(Call::Vhost)).await.unwrap(), "allow");
    assert!(get(hook.url(Call::Topic)).await.is_err());

    let users = hook.calls_of(Call::User);
    assert_eq!(users.len(), 2);
    assert_eq!(users[0].get("username"), "a b");
    assert_eq!(users[0].get("password"), "p&");
    hook.allow_all();
    assert_eq!(get(hook.url(Call::Topic)).await.unwrap(), "allow");
    hook.stop();
    eventually(DEADLINE, "the hook is down", async || {
        get(hook.url(Call::Vhost)).await.is_err()
    })
    .await;
}

/// A server that sends back what it gets.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

#[tokio::test]
async fn the_proxy_forwards_cuts_and_refuses() {
    let proxy = Proxy::start(&echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut buffer = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    assert_eq!((proxy.bytes_to_server(), proxy.bytes_to_client()), (5, 5));

    proxy.cut();
    assert!(matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)));
    eventually(DEADLINE, "it is cut", async || proxy.open() == 0).await;

    proxy.refuse();
    eventually(DEADLINE, "it refuses", async || {
        TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    proxy.forward();
    eventually(DEADLINE, "it is back", async || {
        TcpStream::connect(proxy.address()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn the_proxy_freezes_and_fragments() {
    let proxy = Proxy::start(&echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.freeze();
    // More than both sockets' buffers take, so that the writer must feel the freeze.
    let much = vec![7; 32 << 20];
    let (mut from, mut to) = stream.split();
    let write = to.write_all(&much);
    tokio::pin!(write);
    tokio::time::timeout(Duration::from_millis(300), &mut write)
        .await
        .expect_err("the writer is held");
    let held = proxy.bytes_to_server();

    proxy.forward();
    let mut read = vec![0; much.len()];
    let (written, back) = tokio::join!(write, from.read_exact(&mut read));
    written.unwrap();
    back.unwrap();
    assert!(held < much.len() as u64 / 2, "{held}");
    assert!(read == much);

    proxy.fragment(1, Duration::from_millis(10));
    let start = Instant::now();
    stream.write_all(b"1234567890").await.unwrap();
    let mut read = [0; 10];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"1234567890");
    assert!(start.elapsed() >= Duration::from_millis(90));
}

#[tokio::test]
#[should_panic(expected = "tests/fixtures.rs")]
async fn eventually_names_the_line_that_waited() {
    eventually(Duration::from_millis(20), "never", async || false).await;
}

#[tokio::test]
async fn a_client_says_what_it_saw_instead() {
    let node = RabbitMq::shared().await;
    let vhost = node.vhost().await;
    let failing = tokio::spawn(async move {
        let mut client = StompClient::tcp(&node.stomp_address()).await;
        let login = Login::new("guest", "guest", vhost.name());
        client.connect(&login).await;
        client.raw("WRONG\n\n\0").await;
        client.expect_message("hello").await;
    });
    let panic = failing.await.unwrap_err().into_panic();
    let text = panic.downcast::<String>().unwrap();
    for part in [
        "testkit/tests/fixtures.rs:",
        "expected MESSAGE \"hello\", but there came ERROR",
        "-> CONNECT",
        "passcode:\"…\"",
        "<- CONNECTED",
        "message:\"Bad command\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
