//! Whoever reads the log stands still, and the disk for it is full.

use std::{fs, process::Command};

use tempfile::TempDir;
use testkit::{DEADLINE, Gateway, Hook, Login, StompClient, eventually, free_ports, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::house::PASSCODE;

/// More than a pipe holds.
const SESSIONS: usize = 400;

fn shell(script: &str, listeners: &[&'static str]) -> testkit::GatewayBuilder {
    let program = env!("CARGO_BIN_EXE_stentor");
    Gateway::builder("/bin/sh")
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=direct")
        .arguments(&["-c", script, program], listeners)
}

async fn comes_and_goes(address: &str) {
    let mut client = StompClient::tcp(address).await;
    client.connect(&Login::new("alice", PASSCODE, "/")).await;
}

/// A pipe whose reader hangs, a terminal after Ctrl-S: clients do not notice, and when it goes on,
/// all lines come.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let hook = Hook::start().await;
    let script = "\"$0\" serve 2>&1 >/dev/null | sh -c 'echo \"reader $$\" >&2; exec cat >&2'";
    let gateway = shell(script, &["http", "stomp", "admin"])
        .hook(&hook)
        .ready()
        .await;
    let reader = eventually(DEADLINE, "the reader's number", async || {
        let number = |line: &String| Some(line.strip_prefix("reader ")?.to_owned());
        gateway.log().find(number)
    })
    .await;
    let signal = |signal: &str| {
        let status = Command::new("kill").args(["-s", signal, &reader]).status();
        assert!(status.unwrap().success());
    };
    signal("STOP");
    for _ in 0..SESSIONS {
        comes_and_goes(gateway.stomp_address()).await;
    }
    assert_eq!(gateway.admin("/healthz").await.0, 200);
    signal("CONT");
    gateway.until_events("connection closed", SESSIONS).await;
    gateway.until_events("connection opened", SESSIONS).await;
}

async fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// As of one metric without labels.
async fn lines_lost(admin: &str) -> u64 {
    let text = metrics(admin).await;
    let name = "stentor_log_lines_lost_total ";
    let mut lines = text.lines();
    let lost = lines.find_map(|line| line.strip_prefix(name)).unwrap();
    lost.parse().unwrap()
}

/// Every write of a line fails. The metric says how many were lost.
#[tokio::test]
async fn a_full_disk_under_the_log_stops_nobody() {
    let hook = Hook::start().await;
    let [stomp, admin] = free_ports();
    let [stomp, admin] = [stomp, admin].map(|port| format!("127.0.0.1:{port}"));
    let gateway = shell("exec \"$0\" serve 2>/dev/full", &[])
        .hook(&hook)
        .set("listen.stomp", &stomp)
        .set("listen.admin", &admin)
        .spawn();
    eventually(DEADLINE, "it listens", async || {
        TcpStream::connect(&stomp).await.is_ok() && TcpStream::connect(&admin).await.is_ok()
    })
    .await;
    for _ in 0..10 {
        within(DEADLINE, "a client is served", comes_and_goes(&stomp)).await;
    }
    eventually(DEADLINE, "lost lines are counted", async || {
        lines_lost(&admin).await >= 20
    })
    .await;
    let status = gateway.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
}

/// The log's file may grow no further, until somebody makes room: from then on lines are written
/// again, and the first of them tells how many were lost.
#[tokio::test]
async fn a_log_goes_on_when_there_is_room_again() {
    let hook = Hook::start().await;
    let [stomp, admin] = free_ports();
    let [stomp, admin] = [stomp, admin].map(|port| format!("127.0.0.1:{port}"));
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("log");
    // 32 KiB; beyond, a write fails, instead of ending the process.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec \"$0\" serve 2>>{}",
        file.display()
    );
    let gateway = shell(&script, &[])
        .hook(&hook)
        .set("listen.stomp", &stomp)
        .set("listen.admin", &admin)
        .spawn();
    eventually(DEADLINE, "it listens", async || {
        TcpStream::connect(&stomp).await.is_ok() && TcpStream::connect(&admin).await.is_ok()
    })
    .await;
    eventually(DEADLINE, "lines are lost", async || {
        comes_and_goes(&stomp).await;
        lines_lost(&admin).await > 0
    })
    .await;
    let full = fs::metadata(&file).unwrap().len();
    assert!(full > 0 && full.is_multiple_of(32 << 10), "{full} bytes");
    fs::File::create(&file).unwrap();
    eventually(DEADLINE, "the loss is told", async || {
        comes_and_goes(&stomp).await;
        let text = fs::read_to_string(&file).unwrap();
        text.contains("lines of the log were lost") && text.contains("connection closed")
    })
    .await;
    let status = gateway.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
}
