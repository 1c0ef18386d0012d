//! What the log says, and what it does not.

use super::*;

#[tokio::test]
async fn a_fault_is_logged_with_call_and_path_and_without_secrets() {
    let log = Capture::start();
    let secrets = ["hunter2", "t0ken", "b4sic", "c00kie"];
    for reply in [
        Reply::ok("hunter2"),
        Reply::Status(500, "hunter2"),
        Reply::Raw(""),
        Reply::Raw("hunter2\r\n\r\n"),
        Reply::Hang,
    ] {
        let hook = Hook::start(move |_| reply.clone()).await;
        let host = hook.url.replace("http://", "http://me:b4sic@");
        for http_method in [Method::Get, Method::Post] {
            let config = Config {
                user_path: Some(format!("{host}/user?t=t0ken")),
                request_timeout: Duration::from_millis(200),
                http_method,
                ..Config::default()
            };
            let authenticator = HttpAuthenticator::new(&config).unwrap();
            let login = Login {
                user: "alice".into(),
                password: Some("hunter2".into()),
                vhost: "/".into(),
                more: vec![("sid".into(), "c00kie".into())],
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                is_known: false,
            };
            let refusal = authenticator.user(&login).await.unwrap_err();
            let shown = format!("{refusal} {refusal:?} {config:?} {login:?}");
            assert!(
                !secrets.iter().any(|secret| shown.contains(secret)),
                "{shown}"
            );
            let line = log
                .text()
                .lines()
                .rfind(|l| l.contains("at fault"))
                .unwrap()
                .to_owned();
            assert!(
                line.contains("ERROR stentor::auth: ") && line.contains("call=\"user\""),
                "{line}"
            );
            assert!(
                line.contains(&format!("path=\"{}/user\"", hook.url)),
                "{line}"
            );
        }
    }
    let text = log.text();
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "the log shows {secret}");
    }
}

#[tokio::test]
async fn faults_in_a_row_are_one_line() {
    let log = Capture::start();
    let hook = Hook::start(|_| Reply::Status(500, "")).await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    for _ in 0..20 {
        authenticator.user(&login()).await.unwrap_err();
    }
    let lines = log
        .text()
        .lines()
        .filter(|line| line.contains("at fault"))
        .count();
    assert_eq!(lines, 1);
}

#[test]
fn unset_paths_are_said_once_and_loudly() {
    let log = Capture::start();
    HttpAuthenticator::new(&at("http://127.0.0.1:1")).unwrap();
    assert!(!log.text().contains("EVERYBODY"));
    let config = Config {
        topic_path: None,
        vhost_path: None,
        ..at("http://127.0.0.1:1")
    };
    HttpAuthenticator::new(&config).unwrap();
    let text = log.text();
    let mut lines = text.lines().filter(|line| line.contains("EVERYBODY"));
    let line = lines.next().unwrap();
    assert!(
        line.contains("WARN") && line.contains("vhost_path, topic_path"),
        "{line}"
    );
    assert!(line.contains("DENIED") && lines.next().is_none(), "{text}");
}
