//! Many questions to the reference hook in one call.

use auth_hook::service::{self, Account, PasswordHash, Rules};
use futures_util::future::join_all;
use stomp_grammar::{Command, Frame};
use testkit::{Call, Gateway, Hook, Login, StompClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::house::stentor;

/// The reference hook knows so many users, `user-0` and on, whose password is their name.
const USERS: usize = 40;

async fn reference_hook() -> String {
    let users = (0..USERS).map(|n| format!("user-{n}"));
    let accounts = users.map(|name| Account::new(&name, PasswordHash::weak(&name).unwrap()));
    let rules = Rules::new(accounts).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    tokio::spawn(service::serve(listener, rules, std::future::pending()));
    url
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let (_, text) = gateway.admin("/metrics").await;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Everybody comes at once: each gets what is its own, and the hook fewer calls than questions.
#[tokio::test]
async fn a_crowd_logs_in_and_subscribes_by_batches() {
    let hook = reference_hook().await;
    let gateway = stentor()
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=direct")
        .set("auth.batch_path", format!("{hook}/batch"))
        .set("auth.max_calls", "2")
        .ready()
        .await;
    let come = async |n: usize| {
        let name = format!("user-{n}");
        let mut client = StompClient::tcp(gateway.stomp_address()).await;
        // Every fourth has a wrong password.
        let password = if n % 4 == 3 { "wrong" } else { &name };
        client.send(&Login::new(&name, password, "/").frame()).await;
        let frame = client.expect_frame().await;
        if n % 4 == 3 {
            assert_eq!(
                frame.header("error-code"),
                Some("login-refused"),
                "{frame:?}"
            );
            return;
        }
        assert_eq!(frame.command, Command::Connected, "{frame:?}");
        let destination = |of: usize| format!("/exchange/feed/user_user-{of}");
        client.subscribe("own", &destination(n)).await;
        let others = Frame::new(Command::Subscribe)
            .with_header("id", "others")
            .with_header("destination", &destination(n + 1));
        client.send(&others).await;
        let error = client.expect_error("access_refused").await;
        assert_eq!(error.header("error-code"), Some("permission-denied"));
    };
    join_all((0..USERS).map(come)).await;
    let calls = metric(&gateway, "stentor_hook_call_seconds_count{call=\"batch\"}").await;
    let questions = metric(&gateway, "stentor_hook_batch_questions_total").await;
    let right = USERS as u64 / 4 * 3;
    // user; vhost; the exchange, its key, and the other's key.
    assert_eq!(questions, USERS as u64 + right * 4);
    assert!(
        calls * 2 < questions,
        "{calls} calls with {questions} questions"
    );
    assert_eq!(
        metric(&gateway, "stentor_hook_call_seconds_count{call=\"user\"}").await,
        0
    );
}

/// Nobody is let in, no other way is tried, and the log says what to do.
#[tokio::test]
async fn a_hook_without_batches_refuses_and_the_log_says_what_to_do() {
    let hook = Hook::start().await;
    let gateway = stentor()
        .set("broker.url", "embedded:")
        .set("auth.hook", hook.url(Call::User).replace("/user", ""))
        .set(
            "auth.batch_path",
            hook.url(Call::User).replace("/user", "/batch"),
        )
        .ready()
        .await;
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    client
        .send(&Login::new("alice", "secret-of-alice", "/").frame())
        .await;
    let error = client.expect_error("Bad CONNECT").await;
    assert_eq!(
        error.header("error-code"),
        Some("login-unavailable"),
        "{error:?}"
    );
    gateway
        .until_logged("take `batch_path` out of [auth]")
        .await;
    assert!(hook.calls().is_empty(), "{hook:?}");
    let log = gateway.log().all().join("\n");
    assert!(!log.contains("secret-of-alice"), "{log}");
}

/// A hook that gives this answer to the one question of each call.
async fn hook_that_says(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/batch", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"]}") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let body = format!("{{\"answers\":[{answer}]}}");
            let head = format!("content-length: {}\r\nconnection: close", body.len());
            let reply = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    url
}

/// The alert about the hook goes by this figure.
#[tokio::test]
async fn each_question_without_a_right_answer_is_counted() {
    for (answer, call) in [("null", "batch"), ("\"allowed\"", "user")] {
        let gateway = stentor()
            .set("broker.url", "embedded:")
            .set("auth.batch_path", hook_that_says(answer).await)
            .ready()
            .await;
        for faults in 1..3 {
            let mut client = StompClient::tcp(gateway.stomp_address()).await;
            let login = Login::new("alice", "secret-of-alice", "/").frame();
            client.send(&login).await;
            client.expect_error("Bad CONNECT").await;
            let name = format!("stentor_hook_faults_total{{call=\"{call}\"}}");
            assert_eq!(metric(&gateway, &name).await, faults, "{answer}");
        }
    }
}
