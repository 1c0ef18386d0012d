//! The embedded service.

use std::net::SocketAddr;

use auth_hook::{
    Call, encode_batch, encode_in_batch, parse_batch_answers,
    service::{Account, LiveRules, PasswordHash, Rules, serve, serve_live},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::client::{exchange, get, post};

/// A running service; it ends when this is dropped, or [`Service::end`]ed.
struct Service {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Service {
    async fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(serve(listener, rules, async move {
            let _ = ended.await;
        }));
        Service { address, end, task }
    }

    async fn says(&self, call: &str, parameters: &str) -> String {
        let by_get = get(self.address, &format!("/auth/{call}?{parameters}")).await;
        let by_post = post(self.address, &format!("/auth/{call}"), parameters).await;
        assert_eq!(by_get, by_post, "GET and POST");
        assert_eq!(by_get.0, 200);
        by_get.1
    }

    async fn allows(&self, call: &str, parameters: &str) -> bool {
        match &*self.says(call, parameters).await {
            "allow" => true,
            deny if deny.starts_with("deny ") => false,
            other => panic!("{other}"),
        }
    }

    /// The two calls that a subscription makes.
    async fn lets_subscribe(&self, user: &str, exchange: &str, key: &str) -> [bool; 2] {
        let resource = format!(
            "username={user}&vhost=/&resource=exchange&name={exchange}&permission=read&tags="
        );
        let topic = format!(
            "username={user}&vhost=/&resource=topic&name={exchange}&permission=read&tags=\
             &routing_key={key}&variable_map.username={user}&variable_map.vhost=/"
        );
        [
            self.allows("resource", &resource).await,
            self.allows("topic", &topic).await,
        ]
    }
}

fn account(name: &str) -> Account {
    Account::new(name, PasswordHash::weak(&format!("{name}'s")).unwrap())
}

#[tokio::test]
async fn users_log_in_with_their_passwords_alone() {
    let rules = Rules::new([account("alice").tags(["customer", "Ops"]), account("bob")]).unwrap();
    let service = Service::start(rules).await;
    let user = |name: &str, password: &str| format!("username={name}&password={password}&vhost=/");

    assert_eq!(
        service.says("user", &user("alice", "alice's")).await,
        "allow customer ops"
    );
    assert_eq!(service.says("user", &user("bob", "bob's")).await, "allow");
    let wrong = service.says("user", &user("alice", "bob's")).await;
    assert_eq!(wrong, "deny wrong user name or password");
    assert_eq!(
        service.says("user", &user("carol", "carol's")).await,
        wrong,
        "nor who exists"
    );
    assert_eq!(service.says("user", &user("alice", "")).await, wrong);
    assert!(
        service
            .says("user", "username=alice&vhost=/")
            .await
            .starts_with("deny no password")
    );
}

#[tokio::test]
async fn with_nothing_listed_a_user_reads_its_own_feed_and_nothing_else() {
    let service = Service::start(Rules::new([account("alice"), account("bob")]).unwrap()).await;
    assert_eq!(
        service.lets_subscribe("alice", "feed", "user_alice").await,
        [true, true]
    );
    assert_eq!(
        service.lets_subscribe("alice", "feed", "user_bob").await,
        [true, false]
    );
    for key in [
        "user_*",
        "%23",
        "user_%23",
        "",
        "user_alice.x",
        "USER_ALICE",
    ] {
        assert_eq!(
            service.lets_subscribe("alice", "feed", key).await,
            [true, false],
            "{key}"
        );
    }
    assert_eq!(
        service.lets_subscribe("alice", "other", "user_alice").await,
        [false, false]
    );
    assert_eq!(
        service.lets_subscribe("carol", "feed", "user_carol").await,
        [false, false]
    );

    let own = "username=alice&vhost=/&name=feed&tags=&";
    for permission in ["write", "configure"] {
        let exchange = format!("{own}resource=exchange&permission={permission}");
        assert!(!service.allows("resource", &exchange).await, "{permission}");
    }
    let write = format!("{own}resource=topic&permission=write&routing_key=user_alice");
    assert!(!service.allows("topic", &write).await);
    let queue = "username=alice&vhost=/&resource=queue&name=user_alice&permission=read&tags=";
    assert!(!service.allows("resource", queue).await);
}

#[tokio::test]
async fn what_is_listed_is_allowed_for_its_permission_alone() {
    let backend = account("backend")
        .read(["/queue/jobs.*"])
        .and_then(|a| a.write(["/exchange/feed/user_*", "/queue/jobs.*"]))
        .and_then(|a| a.configure(["/queue/{username}.*"]))
        .unwrap();
    let service = Service::start(Rules::new([backend]).unwrap()).await;
    let resource = async |kind: &str, name: &str, permission: &str| {
        let question = format!(
            "username=backend&vhost=/&resource={kind}&name={name}&permission={permission}&tags="
        );
        service.allows("resource", &question).await
    };
    let publish = async |exchange: &str, key: &str| {
        let question = format!(
            "username=backend&vhost=/&resource=topic&name={exchange}&permission=write&tags=\
             &routing_key={key}"
        );
        resource("exchange", exchange, "write").await && service.allows("topic", &question).await
    };
    assert!(publish("feed", "user_bob").await);
    assert!(!publish("feed", "room_1").await);
    assert!(
        publish("amq.default", "jobs.mail").await,
        "as SEND to /queue/jobs.mail does"
    );
    assert!(!publish("amq.default", "other").await);
    assert!(resource("queue", "jobs.mail", "read").await);
    assert!(!resource("queue", "jobs.mail", "configure").await);
    assert!(resource("queue", "backend.replies", "configure").await);
    assert!(!resource("exchange", "amq.default", "read").await);
    let own_feed = service
        .lets_subscribe("backend", "feed", "user_backend")
        .await;
    assert_eq!(
        own_feed,
        [false, false],
        "a list takes the place of the default"
    );
}

#[tokio::test]
async fn a_virtual_host_bounds_everything() {
    let service = Service::start(Rules::new([account("alice").vhosts(["a*"])]).unwrap()).await;
    let vhost = |vhost: &str| format!("username=alice&vhost={vhost}&ip=192.0.2.1&tags=");
    assert!(service.allows("vhost", &vhost("acme")).await);
    assert!(!service.allows("vhost", &vhost("/")).await);
    let elsewhere = service.lets_subscribe("alice", "feed", "user_alice").await;
    assert_eq!(elsewhere, [false, false], "they ask in /");
}

#[tokio::test]
async fn what_is_missing_is_denied_and_what_is_unknown_ignored() {
    let service = Service::start(Rules::new([account("alice")]).unwrap()).await;
    for call in ["user", "vhost", "resource", "topic"] {
        let said = service.says(call, "session=7").await;
        assert!(said.starts_with("deny the parameter "), "{call}: {said}");
    }
    assert!(
        service
            .allows("vhost", "session=7&username=alice&vhost=/&port=1")
            .await
    );
    let bare = get(service.address, "/auth/vhost").await;
    assert_eq!(bare, (200, "deny the parameter username is missing".into()));
}

/// Each answer of a batch is the one of the single call.
#[tokio::test]
async fn a_batch_is_answered_as_its_questions_alone() {
    let rules = Rules::new([account("alice").tags(["ops"]), account("bob")]).unwrap();
    let service = Service::start(rules).await;
    let topic = |user: &str, key: &str| {
        format!(
            "username={user}&vhost=/&resource=topic&name=feed&permission=read&tags=\
             &routing_key={key}"
        )
    };
    let forms = [
        (
            Call::User,
            "username=alice&password=alice's&vhost=/".to_owned(),
        ),
        (
            Call::User,
            "username=bob&password=alice's&vhost=/".to_owned(),
        ),
        (
            Call::Vhost,
            "username=bob&vhost=/&ip=192.0.2.1&tags=".to_owned(),
        ),
        (Call::Topic, topic("bob", "user_bob")),
        (Call::Topic, topic("bob", "user_alice")),
        (Call::Resource, "username=bob".to_owned()),
    ];
    let questions = forms
        .clone()
        .map(|(call, form)| encode_in_batch(call, &form));
    let body = encode_batch(questions.iter().map(String::as_str));
    let (status, said) = post(service.address, "/auth/batch", &body).await;
    let answers = parse_batch_answers(status, said.as_bytes(), forms.len()).unwrap();
    let allowed = answers
        .iter()
        .map(|answer| answer.as_ref().unwrap().text.as_str());
    let allowed: Vec<_> = allowed
        .map(|text| text.split(' ').next().unwrap())
        .collect();
    assert_eq!(allowed, ["allow", "deny", "allow", "allow", "deny", "deny"]);
    for ((call, form), answer) in forms.iter().zip(answers) {
        assert_eq!(answer.unwrap().text, service.says(call.name(), form).await);
    }
    // An unknown call is denied alone; what is no batch has another status.
    let (_, said) = post(service.address, "/auth/batch", "{\"questions\":[7]}").await;
    let answers = parse_batch_answers(200, said.as_bytes(), 1).unwrap();
    assert!(answers[0].as_ref().unwrap().text.starts_with("deny "));
    assert_eq!(
        post(service.address, "/auth/batch", "username=a").await.0,
        400
    );
    assert_eq!(get(service.address, "/auth/batch").await.0, 405);
}

#[tokio::test]
async fn allow_all_allows_all() {
    let service = Service::start(Rules::allow_all()).await;
    for call in ["user", "vhost", "resource", "topic"] {
        assert!(service.allows(call, "").await);
    }
}

#[tokio::test]
async fn other_paths_methods_and_sizes_have_their_status() {
    let service = Service::start(Rules::allow_all()).await;
    assert_eq!(get(service.address, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(service.address, "/auth/other").await.0, 404);
    assert_eq!(get(service.address, "/auth/user/x").await.0, 404);
    let delete = "DELETE /auth/user HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(service.address, delete).await.0, 405);
    let long = "POST /auth/user HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-length: 70000\r\n\r\n";
    assert_eq!(exchange(service.address, long).await.0, 413);
}

#[tokio::test]
async fn rules_are_replaced_while_they_are_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rules = LiveRules::new(Rules::new([]).unwrap());
    tokio::spawn(serve_live(listener, rules.clone(), std::future::pending()));
    let alice = "/auth/user?username=alice&password=alice%27s&vhost=/";
    assert!(get(address, alice).await.1.starts_with("deny"));
    rules.replace(Rules::new([account("alice")]).unwrap());
    assert_eq!(get(address, alice).await.1, "allow");
}

#[tokio::test]
async fn it_ends_when_told_and_keeps_nobody_waiting() {
    let service = Service::start(Rules::allow_all()).await;
    let idle = tokio::net::TcpStream::connect(service.address)
        .await
        .unwrap();
    assert!(service.allows("user", "").await);
    service.end.send(()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(20), service.task)
        .await
        .unwrap()
        .unwrap();
    assert!(
        tokio::net::TcpStream::connect(service.address)
            .await
            .is_err()
    );
    drop(idle);
}

#[tokio::test]
async fn the_example_does_what_its_comments_say() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/auth-hook/users.toml"
    );
    let service = Service::start(Rules::load(std::path::Path::new(file)).unwrap()).await;
    for (user, answer) in [
        ("alice", "allow customer"),
        ("bob", "allow customer"),
        ("backend", "allow"),
    ] {
        let login = format!("username={user}&password=demo-{user}&vhost=/");
        assert_eq!(service.says("user", &login).await, answer, "{user}");
    }
    assert_eq!(
        service.lets_subscribe("alice", "feed", "user_alice").await,
        [true, true]
    );
    assert_eq!(
        service.lets_subscribe("alice", "chat", "room.1").await,
        [false, false]
    );
    assert_eq!(
        service.lets_subscribe("bob", "feed", "user_bob").await,
        [true, true]
    );
    assert_eq!(
        service.lets_subscribe("bob", "chat", "room.1").await,
        [true, true]
    );
    assert_eq!(
        service.lets_subscribe("bob", "amq.topic", "news.eu").await,
        [true, true]
    );
}
