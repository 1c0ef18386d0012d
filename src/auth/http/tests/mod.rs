//! Against real sockets, and byte by byte.

mod batch;
mod hook;
mod secrets;
mod tls;

use std::{net::TcpListener as Unserved, sync::Arc};

use super::*;
use crate::{
    auth::{Permission, ResourceKind},
    telemetry::capture::Capture,
};
use hook::{Hook, Reply};

/// All paths at this hook.
fn config(hook: &Hook) -> Config {
    at(&hook.url)
}

fn at(url: &str) -> Config {
    Config {
        user_path: Some(format!("{url}/user")),
        vhost_path: Some(format!("{url}/vhost")),
        resource_path: Some(format!("{url}/resource")),
        topic_path: Some(format!("{url}/topic")),
        groups_path: Some(format!("{url}/groups")),
        ..Config::default()
    }
}

fn login() -> Login {
    Login {
        user: "al ice".into(),
        password: Some("p&s+s w%rd=é".into()),
        vhost: "/".into(),
        more: Vec::new(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        is_known: false,
    }
}

fn user() -> User {
    User {
        name: "alice".into(),
        tags: "a b".into(),
        source: None,
    }
}

fn vhost() -> Access {
    Access::Vhost {
        vhost: "/".into(),
        ip: "::ffff:192.0.2.1".parse().unwrap(),
    }
}

fn resource(kind: ResourceKind, name: &str, permission: Permission) -> Access {
    Access::Resource {
        vhost: "/".into(),
        kind,
        name: name.into(),
        permission,
    }
}

fn topic(exchange: &str, routing_key: &str) -> Access {
    Access::Topic {
        vhost: "/".into(),
        exchange: exchange.into(),
        permission: Permission::Read,
        routing_key: routing_key.into(),
    }
}

/// The contract, as it goes over the wire: path and parameters of each call.
const CALLS: [(&str, &str); 6] = [
    (
        "/user",
        "username=al+ice&password=p%26s%2Bs+w%25rd%3D%C3%A9&vhost=%2F",
    ),
    ("/vhost", "username=alice&vhost=%2F&ip=192.0.2.1&tags=a+b"),
    (
        "/resource",
        "username=alice&vhost=%2F&resource=exchange&name=amq.default&permission=write&tags=a+b",
    ),
    (
        "/resource",
        "username=alice&vhost=%2F&resource=queue&name=q%2F1&permission=configure&tags=a+b",
    ),
    (
        "/topic",
        "username=alice&vhost=%2F&resource=topic&name=feed&permission=read&tags=a+b\
         &routing_key=user_%23&variable_map.username=alice&variable_map.vhost=%2F",
    ),
    (
        "/topic",
        "username=alice&vhost=%2F&resource=topic&name=amq.default&permission=read&tags=a+b\
         &routing_key=&variable_map.username=alice&variable_map.vhost=%2F",
    ),
];

async fn make_all_calls(authenticator: &HttpAuthenticator) {
    authenticator.user(&login()).await.unwrap();
    for access in [
        vhost(),
        resource(ResourceKind::Exchange, "", Permission::Write),
        resource(ResourceKind::Queue, "q/1", Permission::Configure),
        topic("feed", "user_#"),
        topic("", ""),
    ] {
        authenticator.allow(&user(), &access).await.unwrap();
    }
}

#[tokio::test]
async fn get_sends_what_the_contract_says() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    make_all_calls(&HttpAuthenticator::new(&config(&hook)).unwrap()).await;
    let requests = hook.requests();
    assert_eq!(requests.len(), CALLS.len());
    for (request, (path, parameters)) in requests.iter().zip(CALLS) {
        assert_eq!(request.line, format!("GET {path}?{parameters} HTTP/1.1"));
        assert_eq!(request.body, "");
    }
}

#[tokio::test]
async fn post_sends_what_the_contract_says() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    let config = Config {
        http_method: Method::Post,
        ..config(&hook)
    };
    make_all_calls(&HttpAuthenticator::new(&config).unwrap()).await;
    let requests = hook.requests();
    assert_eq!(requests.len(), CALLS.len());
    for (request, (path, parameters)) in requests.iter().zip(CALLS) {
        assert_eq!(request.line, format!("POST {path} HTTP/1.1"));
        assert_eq!(request.body, parameters);
        assert_eq!(
            request.header("content-type"),
            Some("application/x-www-form-urlencoded")
        );
    }
}

#[tokio::test]
async fn a_path_with_a_query_of_its_own_keeps_it() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    for (path, method, line) in [
        (
            "/u?a=b%20c",
            Method::Get,
            "GET /u?a=b%20c&username=u&vhost=%2F HTTP/1.1",
        ),
        ("/u?", Method::Get, "GET /u?username=u&vhost=%2F HTTP/1.1"),
        ("", Method::Get, "GET /?username=u&vhost=%2F HTTP/1.1"),
        ("/u?a=b", Method::Post, "POST /u?a=b HTTP/1.1"),
    ] {
        let user_path = Some(format!("{}{path}", hook.url));
        let config = Config {
            user_path,
            http_method: method,
            ..Config::default()
        };
        let login = Login {
            user: "u".into(),
            password: None,
            vhost: "/".into(),
            more: Vec::new(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            is_known: false,
        };
        HttpAuthenticator::new(&config)
            .unwrap()
            .user(&login)
            .await
            .unwrap();
        assert_eq!(hook.requests().last().unwrap().line, line);
    }
}

#[tokio::test]
async fn answers_of_the_contract() {
    let hook = Hook::start(|request| {
        Reply::ok(if request.line.contains("/user") {
            " Allow  Ops dev\n"
        } else {
            "deny no pay"
        })
    })
    .await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    let allowed = authenticator.user(&login()).await;
    assert_eq!(allowed, Ok(User::new("al ice", "ops dev")));
    let denied = authenticator.allow(&user(), &vhost()).await;
    assert_eq!(denied, Err(Refusal::Denied(Some("no pay".into()))));
}

#[tokio::test]
async fn groups_are_asked_for_by_name_and_tags() {
    let hook = Hook::start(|_| Reply::ok("[\"project 7\", \"ops\"]")).await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    let groups = authenticator.groups(&user()).await;
    assert_eq!(groups, Ok(vec!["project 7".into(), "ops".into()]));
    let line = &hook.requests()[0].line;
    assert_eq!(line, "GET /groups?username=alice&tags=a+b HTTP/1.1");
}

#[tokio::test]
async fn without_a_groups_path_nobody_is_asked_and_in_no_group() {
    let hook = Hook::start(|_| Reply::ok("a")).await;
    let config = Config {
        groups_path: None,
        ..config(&hook)
    };
    let authenticator = HttpAuthenticator::new(&config).unwrap();
    assert_eq!(authenticator.groups(&user()).await, Ok(Vec::new()));
    assert!(hook.requests().is_empty());
}

#[tokio::test]
async fn what_is_no_list_of_groups_is_the_hooks_fault() {
    for (reply, said) in [
        (Reply::ok("deny"), "not with a list of groups"),
        (Reply::Status(500, "a"), "500"),
        (Reply::Endless, "longer than 65536 bytes"),
        (Reply::Raw(""), "closed"),
    ] {
        let hook = Hook::start(move |_| reply.clone()).await;
        let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
        let faulty = authenticator.groups(&user()).await;
        let Err(Refusal::Faulty(fault)) = faulty else {
            panic!("{faulty:?}")
        };
        assert!(
            fault.contains("groups call") && fault.contains(said),
            "{fault}"
        );
    }
}

/// What becomes of a login at a hook that answers so.
async fn refused(reply: Reply) -> String {
    let hook = Hook::start(move |_| reply.clone()).await;
    let config = Config {
        request_timeout: Duration::from_millis(300),
        ..config(&hook)
    };
    faulty(&config).await
}

async fn faulty(config: &Config) -> String {
    match HttpAuthenticator::new(config).unwrap().user(&login()).await {
        Err(Refusal::Faulty(fault)) => fault.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_not_in_the_contract_is_the_hooks_fault() {
    for (reply, said) in [
        (Reply::ok("allowed"), "`allowed`"),
        (Reply::ok(""), "empty body"),
        (Reply::ok("{\"result\":\"allow\"}"), "JSON"),
        (Reply::Status(204, ""), "204"),
        (Reply::Status(302, "allow"), "302"),
        (Reply::Status(401, "allow"), "401"),
        (Reply::Status(500, "allow"), "500"),
        (
            Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nallow"),
            "end of file",
        ),
        (Reply::Raw("deny\r\n\r\n"), "invalid HTTP"),
        (Reply::Raw(""), "closed"),
        (Reply::Hang, "did not answer within 300ms"),
        (
            Reply::Unended("HTTP/1.1 200 OK\r\n"),
            "did not answer within 300ms",
        ),
        (Reply::Endless, "longer than 65536 bytes"),
    ] {
        let fault = refused(reply.clone()).await;
        assert!(fault.contains(said), "{reply:?}: {fault}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Hook::start(|_| Reply::ok("allow")).await;
    let location = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\n\r\n", other.url);
    assert!(refused(Reply::Raw(location.leak())).await.contains("302"));
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn nobody_listening_is_the_hooks_fault() {
    let port = Unserved::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let fault = faulty(&at(&format!("http://127.0.0.1:{port}"))).await;
    assert!(fault.contains("refused"), "{fault}");
}

#[tokio::test]
async fn a_connection_that_is_not_taken_is_bounded_by_its_own_time() {
    // A listener that takes nobody, its queue filled up: packets to it are dropped.
    let full = socket_with_full_queue().await;
    let url = format!("http://{}", full.0.local_addr().unwrap());
    let config = Config {
        connection_timeout: Duration::from_millis(200),
        request_timeout: Duration::from_secs(60),
        ..at(&url)
    };
    let started = std::time::Instant::now();
    let fault = faulty(&config).await;
    assert!(started.elapsed() < Duration::from_secs(30), "{fault}");
}

async fn socket_with_full_queue() -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(
        Duration::from_millis(300),
        tokio::net::TcpStream::connect(address),
    )
    .await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_not_the_users_problem() {
    // Answers one question a connection, and breaks it at the second.
    let hook = Hook::start(|request| match request.nth_of_connection {
        0 => Reply::ok("allow"),
        _ => Reply::Raw(""),
    })
    .await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    for _ in 0..5 {
        authenticator.user(&login()).await.unwrap();
    }
}

#[tokio::test]
async fn calls_use_one_connection() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    for _ in 0..50 {
        authenticator.user(&login()).await.unwrap();
        authenticator
            .allow(&user(), &topic("feed", "user_alice"))
            .await
            .unwrap();
    }
    assert_eq!((hook.requests().len(), hook.connections()), (100, 1));
}

#[tokio::test]
async fn a_wrong_status_does_not_cost_the_connection() {
    let hook = Hook::start(|_| Reply::Status(503, "busy")).await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    for _ in 0..10 {
        authenticator.user(&login()).await.unwrap_err();
    }
    assert_eq!((hook.requests().len(), hook.connections()), (10, 1));
}

#[tokio::test]
async fn calls_at_a_time_are_bounded_and_so_is_the_wait() {
    let hook = Hook::start(|_| Reply::Hang).await;
    let config = Config {
        max_calls: 2,
        request_timeout: Duration::from_millis(300),
        ..config(&hook)
    };
    let authenticator = Arc::new(HttpAuthenticator::new(&config).unwrap());
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let authenticator = Arc::clone(&authenticator);
            tokio::spawn(async move { authenticator.user(&login()).await.unwrap_err() })
        })
        .collect();
    let mut busy = 0;
    for call in calls {
        busy += usize::from(call.await.unwrap() == Refusal::Busy);
    }
    // One may just get its turn when its time is over.
    assert!((2..=4).contains(&busy), "{busy}");
    assert!(hook.most_at_once() <= 2, "{}", hook.most_at_once());
}

#[tokio::test]
async fn unset_paths_ask_nobody_and_answer_what_is_configured() {
    let hook = Hook::start(|_| Reply::ok("deny")).await;
    for (unset, allowed) in [(Unset::Deny, false), (Unset::Allow, true)] {
        let user_path = Some(format!("{}/user", hook.url));
        let config = Config {
            user_path,
            unset,
            ..Config::default()
        };
        let authenticator = HttpAuthenticator::new(&config).unwrap();
        let queue = resource(ResourceKind::Queue, "q", Permission::Read);
        for access in [vhost(), queue, topic("feed", "user_alice")] {
            let answer = authenticator.allow(&user(), &access).await;
            assert_eq!(answer.is_ok(), allowed, "{answer:?}");
            assert!(
                matches!(answer, Ok(()) | Err(Refusal::Denied(Some(_)))),
                "{answer:?}"
            );
        }
    }
    assert!(hook.requests().is_empty());
}

#[tokio::test]
async fn endless_names_are_the_clients_fault_and_reach_nobody() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    for http_method in [Method::Get, Method::Post] {
        let config = Config {
            http_method,
            ..config(&hook)
        };
        let authenticator = HttpAuthenticator::new(&config).unwrap();
        let long = authenticator
            .allow(&user(), &topic("feed", &"é".repeat(50_000)))
            .await;
        assert!(matches!(long, Err(Refusal::Denied(_))), "{long:?}");
        let login = Login {
            user: "u".into(),
            password: Some("%".repeat(99_999).into()),
            vhost: "/".into(),
            more: Vec::new(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            is_known: false,
        };
        assert!(matches!(
            authenticator.user(&login).await,
            Err(Refusal::Denied(_))
        ));
    }
    assert!(hook.requests().is_empty());
}

/// A long passcode makes the hook's server refuse the URL, and that is its sender's doing.
#[tokio::test]
async fn a_url_that_is_too_long_for_the_hooks_server_is_the_clients_fault() {
    let log = Capture::start();
    for status in [414, 431, 400] {
        let hook = Hook::start(move |request: &hook::Request| match request.line.len() {
            ..4_000 => Reply::ok("allow"),
            _ => Reply::Status(status, ""),
        })
        .await;
        let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
        let long = Login {
            password: Some("%".repeat(8_000).into()),
            ..login()
        };
        for _ in 0..2 {
            let refused = authenticator.user(&long).await;
            assert!(
                matches!(&refused, Err(Refusal::Denied(Some(why))) if why.contains("http_method")),
                "{status}: {refused:?}"
            );
        }
        assert!(authenticator.user(&login()).await.is_ok());
    }
    let said = log
        .text()
        .matches("refused a question for its length")
        .count();
    assert_eq!(said, 3, "once a hook: {}", log.text());
    assert!(!log.text().contains("at fault"), "{}", log.text());

    // A short question, or one of POST, is refused for something else.
    for (http_method, length) in [(Method::Get, 100), (Method::Post, 8_000)] {
        let hook = Hook::start(|_| Reply::Status(414, "")).await;
        let config = Config {
            http_method,
            ..config(&hook)
        };
        let authenticator = HttpAuthenticator::new(&config).unwrap();
        let login = Login {
            password: Some("%".repeat(length).into()),
            ..login()
        };
        let refused = authenticator.user(&login).await;
        assert!(matches!(refused, Err(Refusal::Faulty(_))), "{refused:?}");
    }
}

/// It took one as long before. Otherwise its fault would end sessions, and show in no metric.
#[tokio::test]
async fn a_hook_that_refuses_what_it_took_is_at_fault() {
    let log = Capture::start();
    for status in [414, 431, 400] {
        let asked = AtomicUsize::new(0);
        let hook = Hook::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::ok("allow"),
            _ => Reply::Status(status, ""),
        })
        .await;
        let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
        let login_of = |length: usize| Login {
            password: Some("%".repeat(length).into()),
            ..login()
        };
        assert!(authenticator.user(&login_of(3_000)).await.is_ok());
        for length in [3_000, 2_000] {
            let refused = authenticator.user(&login_of(length)).await;
            assert!(
                matches!(refused, Err(Refusal::Faulty(_))),
                "{status}, {length}: {refused:?}"
            );
        }
        let refused = authenticator.user(&login_of(3_001)).await;
        assert!(matches!(refused, Err(Refusal::Denied(_))), "{refused:?}");
    }
    assert!(log.text().contains("at fault"), "{}", log.text());
}

#[test]
fn without_a_user_path_there_is_no_authenticator() {
    let refused = HttpAuthenticator::new(&Config::default()).unwrap_err();
    assert!(
        matches!(refused, SetupError::Config("user_path", _)),
        "{refused}"
    );
}

#[tokio::test]
async fn the_reference_hook_answers_in_the_contract() {
    use auth_hook::service::{Account, PasswordHash, Rules, serve};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    let alice = Account::new("al ice", PasswordHash::weak("p&s+s w%rd=é").unwrap())
        .tags(["dev"])
        .groups(["project 7", "ops"]);
    tokio::spawn(serve(
        listener,
        Rules::new([alice]).unwrap(),
        std::future::pending(),
    ));
    for http_method in [Method::Get, Method::Post] {
        let authenticator = HttpAuthenticator::new(&Config {
            http_method,
            ..at(&url)
        })
        .unwrap();
        let user = authenticator.user(&login()).await.unwrap();
        assert_eq!(&*user.tags, "dev");
        let groups = authenticator.groups(&user).await;
        assert_eq!(groups, Ok(vec!["project 7".into(), "ops".into()]));
        let feed = resource(ResourceKind::Exchange, "feed", Permission::Read);
        for access in [vhost(), feed, topic("feed", "user_al ice")] {
            assert_eq!(
                authenticator.allow(&user, &access).await,
                Ok(()),
                "{access:?}"
            );
        }
        let other = authenticator.allow(&user, &topic("feed", "user_bob")).await;
        assert!(matches!(other, Err(Refusal::Denied(Some(_)))), "{other:?}");
    }
}

fn with_more(user: &str) -> Login {
    Login {
        user: user.into(),
        more: vec![
            ("sid".into(), "a&b=é".into()),
            ("ip".into(), "192.0.2.1".into()),
        ],
        ..login()
    }
}

#[tokio::test]
async fn what_is_forwarded_follows_the_contract_s_own_parameters() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    authenticator.user(&with_more("alice")).await.unwrap();
    let requests = hook.requests();
    let line = "GET /user?username=alice&password=p%26s%2Bs+w%25rd%3D%C3%A9&vhost=%2F\
                &sid=a%26b%3D%C3%A9&ip=192.0.2.1 HTTP/1.1";
    assert_eq!(requests[0].line, line);
}

/// Who the user is, by an answer with this header.
async fn named(user: &str, header: Option<&str>, config: Config) -> Result<String, Refusal> {
    let header = header
        .map(|name| format!("X-Username: {name}\r\n"))
        .unwrap_or_default();
    let raw: &'static str =
        format!("HTTP/1.1 200 OK\r\n{header}content-length: 5\r\n\r\nallow").leak();
    let hook = Hook::start(move |_| Reply::Raw(raw)).await;
    let config = Config {
        username_header: config.username_header,
        ..self::config(&hook)
    };
    let authenticator = HttpAuthenticator::new(&config).unwrap();
    let user = authenticator.user(&with_more(user)).await?;
    Ok(user.name.to_string())
}

#[tokio::test]
async fn the_hook_names_the_user_only_where_it_is_configured_to() {
    let names = || Config {
        username_header: Some("x-username".to_owned()),
        ..Config::default()
    };
    let ok = |name: &str| Ok(name.to_owned());
    assert_eq!(named("", Some("bob"), names()).await, ok("bob"));
    // Its word counts more than the client's.
    assert_eq!(named("alice", Some("bob"), names()).await, ok("bob"));
    assert_eq!(named("alice", Some("jür"), names()).await, ok("jür"));
    assert_eq!(named("alice", None, names()).await, ok("alice"));
    let off = Config::default();
    assert_eq!(named("alice", Some("bob"), off).await, ok("alice"));
    let twice = "bob\r\nX-Username: root";
    for nobody in [None, Some(""), Some(twice), Some(&"x".repeat(256)[..])] {
        let refusal = named("", nobody, names()).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Faulty(_)), "{refusal:?}");
    }
    let refusal = named("alice", Some(twice), names()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Faulty(_)), "{refusal:?}");
}

/// HTTP Basic authentication can carry any character, and other clients are shown the name.
#[tokio::test]
async fn the_hook_is_not_asked_about_names_that_cannot_be() {
    let hook = Hook::start(|_| Reply::ok("allow")).await;
    let authenticator = HttpAuthenticator::new(&config(&hook)).unwrap();
    for name in ["", "a\0b", "a\nb", "\u{85}", &"x".repeat(256)] {
        let refusal = authenticator.user(&with_more(name)).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Denied(_)), "{refusal:?}");
    }
    assert!(hook.requests().is_empty());
    authenticator
        .user(&with_more(&"x".repeat(255)))
        .await
        .unwrap();
}
