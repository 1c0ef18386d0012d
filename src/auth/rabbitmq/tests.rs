//! Answers of accounts, from RabbitMQ's own exports.

use std::{collections::BTreeSet, fs, net::IpAddr, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Duration, advance},
};

use super::*;
use crate::auth::{Permission, ResourceKind};

fn user(name: &str) -> Value {
    json!({
        "name": name, "password_hash": hash("rabbit"), "tags": [], "limits": {},
        "hashing_algorithm": "rabbit_password_hashing_sha256",
    })
}

/// By SHA-256, with a salt.
fn hash(password: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let salt = [1, 2, 3, 4];
    let salted = [&salt[..], password.as_bytes()].concat();
    let digest = ring::digest::digest(&ring::digest::SHA256, &salted);
    STANDARD.encode([&salt[..], digest.as_ref()].concat())
}

fn permission(user: &str, vhost: &str, [configure, write, read]: [&str; 3]) -> Value {
    json!({ "user": user, "vhost": vhost, "configure": configure, "write": write, "read": read })
}

fn topic(user: &str, exchange: &str, [write, read]: [&str; 2]) -> Value {
    json!({ "user": user, "vhost": "/", "exchange": exchange, "write": write, "read": read })
}

fn export() -> Value {
    json!({
        "rabbit_version": "3.10.8",
        "users": [user("alice"), user("bob"), user("a.c"), user("guest")],
        "vhosts": [{ "name": "/", "limits": [] }, { "name": "app", "limits": [] }],
        "permissions": [
            permission("alice", "/", ["^alice-", "^(alice-.*|feed|amq\\.default)$", ".*"]),
            permission("bob", "/", ["", "", "^feed$"]),
            permission("bob", "app", [".*", ".*", ".*"]),
            permission("bob", "gone", [".*", ".*", ".*"]),
            permission("a.c", "/", ["", "", ".*"]),
            permission("guest", "/", [".*", ".*", ".*"]),
            permission("nobody", "/", [".*", ".*", ".*"]),
        ],
        "topic_permissions": [
            topic("alice", "feed", ["^{username}\\.", "^(news|user_{username}@{vhost})$"]),
            topic("bob", "feed", ["", "^user_{client_id}$"]),
            topic("a.c", "feed", ["", "^user_{username}$"]),
            topic("alice", "amq.default", ["^work$", ""]),
        ],
        "queues": [{ "name": "q", "vhost": "/", "arguments": {} }],
        "bindings": [],
    })
}

fn definitions(export: &Value) -> Result<Accounts, DefinitionsError> {
    Definitions::from_export(export.to_string().as_bytes())?.accounts(&Accounts::default())
}

fn accounts() -> Accounts {
    definitions(&export()).unwrap()
}

fn resource(kind: ResourceKind, name: &str, permission: Permission) -> Access {
    Access::Resource {
        vhost: "/".into(),
        kind,
        name: name.into(),
        permission,
    }
}

fn key(exchange: &str, routing_key: &str, permission: Permission) -> Access {
    Access::Topic {
        vhost: "/".into(),
        exchange: exchange.into(),
        permission,
        routing_key: routing_key.into(),
    }
}

#[test]
fn permissions_answer_as_rabbitmq_s_do() {
    use Permission::{Configure, Read, Write};
    use ResourceKind::{Exchange, Queue};
    let accounts = accounts();
    for (user, access, is_allowed) in [
        ("alice", resource(Queue, "alice-1", Configure), true),
        ("alice", resource(Queue, "xalice-1", Configure), false),
        ("alice", resource(Exchange, "feed", Write), true),
        ("alice", resource(Exchange, "feeds", Write), false),
        ("alice", resource(Exchange, "", Write), true),
        ("alice", resource(Queue, "", Write), false),
        ("alice", resource(Queue, "anything", Read), true),
        ("bob", resource(Exchange, "feed", Read), true),
        ("bob", resource(Exchange, "feed", Write), false),
        ("bob", resource(Queue, "", Configure), true),
        ("nobody", resource(Queue, "q", Read), false),
        ("alice", key("feed", "alice.x", Write), true),
        ("alice", key("feed", "bob.x", Write), false),
        ("alice", key("feed", "news", Read), true),
        ("alice", key("feed", "user_alice@/", Read), true),
        ("alice", key("feed", "user_bob@/", Read), false),
        ("alice", key("other", "anything", Write), true),
        ("alice", key("", "work", Write), true),
        ("alice", key("", "other", Write), false),
        ("bob", key("feed", "x", Write), false),
        ("bob", key("feed", "", Write), true),
        // A client of STOMP has no such id.
        ("bob", key("feed", "user_{client_id}", Read), true),
        ("bob", key("feed", "user_bob", Read), false),
        // A name is no pattern.
        ("a.c", key("feed", "user_a.c", Read), true),
        ("a.c", key("feed", "user_abc", Read), false),
    ] {
        let answer = accounts.allow(user, &access);
        assert_eq!(answer.is_ok(), is_allowed, "{user} {access:?} {answer:?}");
    }
}

#[test]
fn a_virtual_host_is_open_to_those_with_permissions_there() {
    let accounts = accounts();
    for (user, vhost, is_allowed) in [
        ("bob", "/", true),
        ("bob", "app", true),
        ("alice", "app", false),
        ("bob", "gone", false),
        ("bob", "other", false),
        ("nobody", "/", false),
    ] {
        let access = Access::Vhost {
            vhost: vhost.into(),
            ip: [127, 0, 0, 1].into(),
        };
        assert_eq!(
            accounts.allow(user, &access).is_ok(),
            is_allowed,
            "{user} {vhost}"
        );
    }
}

#[test]
fn tags_come_as_a_list_or_as_a_text() {
    let mut export = export();
    export["users"][0]["tags"] = json!(["administrator", "monitoring"]);
    export["users"][1]["tags"] = json!("administrator, monitoring");
    export["users"][2]["tags"] = json!("");
    let accounts = definitions(&export).unwrap();
    for (user, tags) in [
        ("alice", "administrator monitoring"),
        ("bob", "administrator monitoring"),
        ("a.c", ""),
    ] {
        assert_eq!(accounts.log_in(user, Some("rabbit")).as_deref(), Ok(tags));
    }
}

#[test]
fn the_right_password_logs_in() {
    let mut export = export();
    export["users"][1]["password_hash"] = json!("");
    let accounts = definitions(&export).unwrap();
    for (user, password, is_in) in [
        ("alice", Some("rabbit"), true),
        ("alice", Some("Rabbit"), false),
        ("alice", Some(""), false),
        // By a certificate.
        ("alice", None, true),
        // Without a hash.
        ("bob", Some(""), false),
        ("bob", Some("rabbit"), false),
        ("bob", None, true),
        ("carol", Some("rabbit"), false),
        ("carol", None, false),
        ("", Some(""), false),
    ] {
        assert_eq!(
            accounts.log_in(user, password).is_ok(),
            is_in,
            "{user} {password:?}"
        );
    }
}

#[test]
fn what_cannot_be_used_is_named_by_its_place() {
    let with = |path: &str, value: Value| {
        let mut export = export();
        *export.pointer_mut(path).unwrap() = value;
        definitions(&export).unwrap_err().to_string()
    };
    for (path, value, says) in [
        (
            "/users/1/hashing_algorithm",
            json!("my_hash"),
            "user \"bob\": hashing_algorithm \"my_hash\"",
        ),
        (
            "/users/1/password_hash",
            json!("%%%"),
            "user \"bob\": password_hash is not base64",
        ),
        (
            "/users/1/password_hash",
            json!({ "s3cret": 1 }),
            "users[1].password_hash: is no text",
        ),
        ("/users/1/tags", json!(7), "users[1].tags: "),
        ("/users", Value::Null, "has no users"),
        (
            "/permissions/0/read",
            json!("*"),
            "permission of user \"alice\" in virtual host \"/\": read pattern \"*\"",
        ),
        ("/permissions/0/read", Value::Null, "permissions[0].read: "),
        (
            "/topic_permissions/0/write",
            json!("^{username}("),
            "topic permission for exchange \"feed\" of user \"alice\" in virtual host \"/\": write pattern \"^{username}(\"",
        ),
    ] {
        let error = with(path, value);
        assert!(error.contains(says), "{path}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let broken = Definitions::from_export(b"{\n \"users\": [\n").unwrap_err();
    assert!(broken.to_string().contains("line 3"), "{broken}");
    // The management plug-in's export of one virtual host.
    let one = json!({ "rabbit_version": "3.10.8", "queues": [], "exchanges": [], "bindings": [] });
    let one = definitions(&one).unwrap_err().to_string();
    assert!(one.contains("export of one virtual host"), "{one}");
    let mut plain = export();
    plain["users"][0]["password"] = json!("s3cret");
    let plain = definitions(&plain).unwrap_err().to_string();
    assert!(
        plain.contains("hash_password") && !plain.contains("s3cret"),
        "{plain}"
    );
}

#[test]
fn nothing_shows_a_hash() {
    let accounts = accounts();
    let definitions = Definitions::from_export(export().to_string().as_bytes()).unwrap();
    let shown = format!("{accounts:?} {definitions:?}");
    assert!(shown.contains("alice"), "{shown}");
    assert!(!shown.contains(&hash("rabbit")[8..16]), "{shown}");
}

#[test]
fn users_who_have_changed_are_named() {
    let former = accounts();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut export = export();
        change(&mut export);
        let accounts = definitions(&export).unwrap();
        let changed = accounts.changed_since(&former);
        changed.into_iter().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(changed(&|_| {}), [""; 0]);
    assert_eq!(changed(&|export| export["queues"] = json!([])), [""; 0]);
    let password = |export: &mut Value| export["users"][1]["password_hash"] = json!(hash("x"));
    assert_eq!(changed(&password), ["bob"]);
    let right = |export: &mut Value| export["permissions"][0]["read"] = json!("^feed$");
    assert_eq!(changed(&right), ["alice"]);
    let key = |export: &mut Value| export["topic_permissions"][2]["read"] = json!("");
    assert_eq!(changed(&key), ["a.c"]);
    let vhost = |export: &mut Value| export["vhosts"] = json!([{ "name": "/" }]);
    assert_eq!(changed(&vhost), ["bob"], "a virtual host is gone");
    let gone = |export: &mut Value| drop(export["users"].as_array_mut().unwrap().remove(0));
    assert_eq!(changed(&gone), ["alice"]);
}

#[test]
fn equal_patterns_are_one() {
    let accounts = accounts();
    let bob = &accounts.users["bob"].rights;
    assert!(Arc::ptr_eq(&bob["/"].configure, &bob["/"].write));
    assert!(Arc::ptr_eq(
        &bob["app"].read,
        &accounts.users["guest"].rights["/"].read
    ));
    let again = Definitions::from_export(export().to_string().as_bytes()).unwrap();
    let again = again.accounts(&accounts).unwrap();
    let read =
        |accounts: &Accounts| Arc::clone(&accounts.users["a.c"].rights["/"].topics["feed"].read);
    assert!(Arc::ptr_eq(&read(&accounts), &read(&again)));
}

/// Answers as the hook of a test would.
struct Hook;

impl Authenticator for Hook {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        let named = match &*login.user {
            "" => login.password.clone().unwrap_or_default(),
            user => user.into(),
        };
        let user = User::new(&*named, "hook");
        future::ready(Ok(user)).boxed()
    }

    fn allow<'a>(&'a self, _: &'a User, _: &'a Access) -> BoxFuture<'a, Result<(), Refusal>> {
        future::ready(Ok(())).boxed()
    }

    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        future::ready(Ok(vec!["team".into()])).boxed()
    }
}

fn write(folder: &TempDir, text: &str) -> RabbitMqConfig {
    let file = folder.path().join("definitions.json");
    // As its page says: written beside, and moved.
    let beside = folder.path().join("new.json");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, &file).unwrap();
    RabbitMqConfig {
        definitions: file,
        ..RabbitMqConfig::default()
    }
}

fn login(user: &str, password: &str, address: [u8; 4]) -> Login {
    Login {
        user: user.into(),
        password: Some(password.into()),
        vhost: "/".into(),
        more: Vec::new(),
        address: IpAddr::from(address),
        is_known: false,
    }
}

async fn logs_in(auth: &RabbitMqAuthenticator, user: &str, password: &str, from: [u8; 4]) -> bool {
    auth.user(&login(user, password, from)).await.is_ok()
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [192, 0, 2, 1];

#[tokio::test]
async fn guest_logs_in_from_this_machine_only() {
    let folder = TempDir::new().unwrap();
    let mut config = write(&folder, &export().to_string());
    let auth = RabbitMqAuthenticator::new(&config, None).unwrap().unwrap();
    for (user, from, is_in) in [
        ("guest", HERE, true),
        ("guest", [127, 9, 9, 9], true),
        ("guest", ELSEWHERE, false),
        ("alice", ELSEWHERE, true),
    ] {
        assert_eq!(
            logs_in(&auth, user, "rabbit", from).await,
            is_in,
            "{user} {from:?}"
        );
    }
    let mapped = Login {
        address: "::ffff:192.0.2.1".parse().unwrap(),
        ..login("guest", "rabbit", HERE)
    };
    assert!(auth.user(&mapped).await.is_err());
    config.loopback_users = vec!["alice".into()];
    let auth = RabbitMqAuthenticator::new(&config, None).unwrap().unwrap();
    assert!(logs_in(&auth, "guest", "rabbit", ELSEWHERE).await);
    assert!(!logs_in(&auth, "alice", "rabbit", ELSEWHERE).await);
}

#[tokio::test]
async fn the_hook_is_asked_about_those_whom_rabbitmq_does_not_know() {
    let folder = TempDir::new().unwrap();
    let config = write(&folder, &export().to_string());
    let auth = RabbitMqAuthenticator::new(&config, Some(Arc::new(Hook))).unwrap();
    let auth = auth.unwrap();
    assert!(logs_in(&auth, "carol", "anything", ELSEWHERE).await);
    // Not even with a wrong password: the hook might let in another with the same name.
    assert!(!logs_in(&auth, "alice", "anything", ELSEWHERE).await);
    assert!(logs_in(&auth, "alice", "rabbit", ELSEWHERE).await);
    // The hook names the user.
    assert!(logs_in(&auth, "", "carol", ELSEWHERE).await);
    assert!(!logs_in(&auth, "", "alice", ELSEWHERE).await);
    let user = |name: &str| User::new(name, "");
    let secret = resource(ResourceKind::Queue, "secret", Permission::Configure);
    assert_eq!(auth.allow(&user("carol"), &secret).await, Ok(()));
    assert!(auth.allow(&user("alice"), &secret).await.is_err());
    assert!(auth.allow_anew(&user("alice"), &secret).await.is_err());
    assert_eq!(auth.groups(&user("alice")).await.unwrap().len(), 1);
    let alone = RabbitMqAuthenticator::new(&config, None).unwrap().unwrap();
    assert!(!logs_in(&alone, "carol", "anything", ELSEWHERE).await);
    assert!(alone.groups(&user("alice")).await.unwrap().is_empty());
}

/// Reads as `watch` does.
async fn read(auth: &Arc<RabbitMqAuthenticator>) -> Result<Option<BTreeSet<Box<str>>>, String> {
    auth.read().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_file_is_read_again_if_it_has_changed_and_a_broken_one_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let config = write(&folder, &export().to_string());
    let auth = RabbitMqAuthenticator::new(&config, None).unwrap().unwrap();
    assert_eq!(read(&auth).await, Ok(None));
    let mut changed = export();
    changed["users"][1]["password_hash"] = json!(hash("new"));
    write(&folder, &changed.to_string());
    assert_eq!(read(&auth).await, Ok(Some(BTreeSet::from(["bob".into()]))));
    assert!(logs_in(&auth, "bob", "new", HERE).await);
    write(&folder, "{");
    let error = read(&auth).await.unwrap_err();
    assert!(
        error.contains("definitions.json: ") && error.contains("line 1"),
        "{error}"
    );
    assert_eq!(read(&auth).await, Ok(None), "it is as broken as before");
    assert!(
        logs_in(&auth, "bob", "new", HERE).await,
        "those of before stay"
    );
    fs::remove_file(&config.definitions).unwrap();
    assert!(read(&auth).await.unwrap_err().contains("No such file"));
    assert!(logs_in(&auth, "bob", "new", HERE).await);
    write(&folder, &changed.to_string());
    assert_eq!(read(&auth).await, Ok(Some(BTreeSet::new())));
    assert!(
        RabbitMqAuthenticator::new(&RabbitMqConfig::default(), None)
            .unwrap()
            .is_none()
    );
    let none = RabbitMqConfig {
        definitions: folder.path().join("none"),
        ..config
    };
    let error = RabbitMqAuthenticator::new(&none, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("none: No such file"), "{error}");
}

/// A management plug-in that answers each request by `answer`, of its path below `/api/` and of how
/// often it was asked for that before; `lag` later, for which the clock has to stand still, if it is
/// not zero. Answers its URL.
pub(crate) async fn management(
    lag: Duration,
    answer: impl Fn(&str, usize) -> Value + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked = Vec::<String>::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let (_, path) = request.split_once(" /api/").unwrap();
            let path = path.split([' ', '?']).next().unwrap().to_owned();
            let before = asked.iter().filter(|asked| **asked == path).count();
            if !lag.is_zero() {
                advance(lag).await;
            }
            let body = answer(&path, before).to_string();
            asked.push(path);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            socket.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    format!("http://admin:secret@{address}")
}

/// Without topic permissions a user has all keys.
#[tokio::test]
async fn a_user_who_changes_between_two_lists_has_no_key_too_many() {
    for change in ["stays", "is deleted", "gets rights"] {
        // Behind the permissions that are asked for first.
        let url = management(Duration::ZERO, move |path, before| match path {
            "users" => json!([user("mallory")]),
            "vhosts" => json!([{ "name": "/" }]),
            "permissions" => match (change, before) {
                ("is deleted", 1) | ("gets rights", 0) => json!([]),
                _ => json!([permission("mallory", "/", ["", "", ".*"])]),
            },
            _ => match change {
                "stays" => json!([topic("mallory", "feed", ["", "^own$"])]),
                _ => json!([]),
            },
        })
        .await;
        let config = RabbitMqConfig {
            management: url,
            ..RabbitMqConfig::default()
        };
        let auth = RabbitMqAuthenticator::new(&config, None).unwrap().unwrap();
        read(&auth).await.unwrap();
        let mallory = User::new("mallory", "");
        let may = async |routing_key: &str| {
            let access = key("feed", routing_key, Permission::Read);
            auth.allow(&mallory, &access).await.is_ok()
        };
        assert!(!may("other").await, "{change}");
        assert_eq!(may("own").await, change == "stays", "{change}");
    }
}

/// The operator takes a right, and then the topic permissions that it had made narrow.
#[tokio::test]
async fn rights_of_before_come_with_no_topic_permissions_of_after() {
    for changes in [1, 100] {
        let url = management(Duration::ZERO, move |path, before| match path {
            "users" => json!([user("mallory")]),
            "vhosts" => json!([{ "name": "/" }]),
            "permissions" => {
                // Each time it is asked for, so often.
                let pattern = match before {
                    0 => ".*".to_owned(),
                    before => format!("^{}$", before.min(changes)),
                };
                json!([permission("mallory", "/", ["", "", &pattern])])
            }
            _ => json!([]),
        })
        .await;
        let config = RabbitMqConfig {
            management: url,
            ..RabbitMqConfig::default()
        };
        let auth = RabbitMqAuthenticator::new(&config, None).unwrap().unwrap();
        let outcome = read(&auth).await;
        let mallory = User::new("mallory", "");
        let may = async |queue: &str| {
            let access = resource(ResourceKind::Queue, queue, Permission::Read);
            auth.allow(&mallory, &access).await.is_ok()
        };
        assert!(!may("secret").await, "{changes} changes: {outcome:?}");
        if changes == 1 {
            assert!(may("1").await, "{outcome:?}");
        } else {
            let error = outcome.unwrap_err();
            assert!(error.contains("user \"mallory\""), "{error}");
        }
    }
}
