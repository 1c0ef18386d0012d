//! The program.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::client::get;

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_auth-hook"));
    program
        .env("NO_COLOR", "1")
        .env_remove("RUST_LOG")
        .kill_on_drop(true);
    program
}

async fn hash(password: &str) -> String {
    let mut child = program()
        .arg("hash")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(password.as_bytes())
        .await
        .unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The next line of the log that has this text.
async fn line(log: &mut Lines<BufReader<ChildStderr>>, text: &str) -> String {
    let found = timeout(Duration::from_secs(30), async {
        loop {
            let line = log.next_line().await.unwrap().expect("the log goes on");
            if line.contains(text) {
                return line;
            }
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("no line with {text}"))
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .args([name, &pid])
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn it_serves_a_users_file_and_reads_it_again_at_sighup() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users.toml");
    let hash = hash("s3cret\n").await;
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    std::fs::write(&users, format!("[users.alice]\nhash = \"{hash}\"\n")).unwrap();

    let mut child = program()
        .args(["serve", "--listen", "127.0.0.1:0", "--users"])
        .arg(&users)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let listening = line(&mut log, "listening").await;
    let address: SocketAddr = listening
        .split_once("address=")
        .unwrap()
        .1
        .trim()
        .parse()
        .unwrap();

    let alice = "/auth/user?username=alice&password=s3cret&vhost=/";
    let bob = "/auth/user?username=bob&password=s3cret&vhost=/";
    assert_eq!(get(address, alice).await.1, "allow");
    assert!(get(address, bob).await.1.starts_with("deny"));

    std::fs::write(&users, "[users.bob]\nhash = \"s3cret\"\n").unwrap();
    signal(&child, "-HUP");
    let mistake = line(&mut log, "stay").await;
    assert!(
        mistake.contains("bob") && !mistake.contains("s3cret"),
        "{mistake}"
    );
    assert_eq!(
        get(address, alice).await.1,
        "allow",
        "a mistake keeps the old users"
    );

    std::fs::write(&users, format!("[users.bob]\nhash = \"{hash}\"\n")).unwrap();
    signal(&child, "-HUP");
    line(&mut log, "users read again").await;
    assert_eq!(get(address, bob).await.1, "allow");
    assert!(get(address, alice).await.1.starts_with("deny"));

    signal(&child, "-INT");
    let status = timeout(Duration::from_secs(20), child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn allow_all_is_said_loudly_and_needs_no_users() {
    let mut child = program()
        .args(["serve", "--listen", "127.0.0.1:0", "--allow-all"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let loud = line(&mut log, "EVERYTHING IS ALLOWED").await;
    assert!(loud.contains("WARN"), "{loud}");
}

/// A reader of the log that is no terminal (a file, a collector) gets no colours.
#[tokio::test]
async fn a_log_that_no_terminal_shows_has_no_colours() {
    let output = program()
        .env_remove("NO_COLOR")
        .args(["serve", "--users", "no/such/file"])
        .output()
        .await
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("ERROR") && !log.contains('\u{1b}'), "{log:?}");
}

#[tokio::test]
async fn it_refuses_to_start_without_rules_or_with_a_bad_file() {
    for arguments in [
        &["serve"][..],
        &["serve", "--users", "no/such/file"],
        &["hash", "s3cret"],
    ] {
        let output = program()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
