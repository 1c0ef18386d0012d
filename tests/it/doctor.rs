//! `stentor doctor`: broken set-ups with real parts. Each is found, its cure is shown, and where
//! that is cheap, it is applied, and found to be one.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lapin::{
    ExchangeKind,
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Answer, Authority, Call, DEADLINE, FEED, Hook, Proxy, RabbitMq, Redis, RedisCluster,
    RedisSentinels, Vhost, eventually, free_ports, unique,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use crate::house::{House, PASSCODE, Ran, USER, vhost};

const SCHEMA: &str = include_str!("../../docs/doctor.schema.json");

/// A configuration, all in variables, and arguments.
#[derive(Clone)]
struct Setup {
    variables: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// Files that the process may open.
    files: Option<u32>,
}

/// A report, as JSON.
struct Report {
    code: Option<i32>,
    value: Value,
    text: String,
}

impl Setup {
    /// With a virtual host, and a hook that knows one user.
    fn new(vhost: &Vhost, hook: &Hook) -> Self {
        hook.rule(|asked| {
            let is_wrong = asked.call == Call::User && asked.get("password") != PASSCODE;
            is_wrong.then_some(Answer::Deny)
        });
        Self::bare()
            .account(vhost, "guest", "guest")
            .set("auth.user_path", hook.url(Call::User))
            .set("auth.vhost_path", hook.url(Call::Vhost))
            .set("auth.resource_path", hook.url(Call::Resource))
            .set("auth.topic_path", hook.url(Call::Topic))
    }

    fn bare() -> Self {
        let setup = Self {
            variables: BTreeMap::new(),
            arguments: Vec::new(),
            files: None,
        };
        setup
            .set("listen.http", "127.0.0.1:0")
            .set("listen.stomp", "127.0.0.1:0")
            .set("listen.admin", "127.0.0.1:0")
            // So that any machine has files enough.
            .set("listen.max_connections", 400)
            .set("listen.max_unauthenticated", 100)
    }

    fn account(self, vhost: &Vhost, user: &str, password: &str) -> Self {
        let node = vhost.node();
        self.set(
            "broker.url",
            format!("amqp://{user}:{password}@{}", node.amqp_address()),
        )
        .set("broker.vhosts", vhost.name())
        .set("broker.default_vhost", vhost.name())
        .variable(
            "STENTOR_MANAGEMENT",
            format!("http://guest:guest@{}", node.management_address()),
        )
    }

    fn set(self, key: &str, value: impl ToString) -> Self {
        let key = key.replace('.', "__").to_uppercase();
        self.variable(&format!("STENTOR__{key}"), value)
    }

    fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    async fn run(&self, more: &[&str]) -> Ran {
        let program = env!("CARGO_BIN_EXE_stentor");
        let mut command = match self.files {
            None => Command::new(program),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args([
                    "-c",
                    &format!("ulimit -n {files}; exec \"$0\" \"$@\""),
                    program,
                ]);
                shell
            }
        };
        command
            .arg("doctor")
            .args(&self.arguments)
            .args(more)
            .env_clear()
            .envs(&self.variables)
            .env("PATH", "/usr/bin:/bin");
        // The hook lives on this runtime.
        let output = tokio::task::spawn_blocking(move || command.output());
        let ran = Ran::from(output.await.unwrap().unwrap());
        for secret in [PASSCODE, "guest:guest"] {
            assert!(
                !ran.out.contains(secret) && !ran.err.contains(secret),
                "{ran:?}"
            );
        }
        ran
    }

    async fn report(&self) -> Report {
        let ran = self.run(&["--json"]).await;
        let value: Value =
            serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let schema = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("{error}\n{}", ran.out);
        }
        Report {
            code: ran.code,
            value,
            text: ran.out,
        }
    }

    /// Nothing is wrong.
    async fn is_sound(&self) -> Report {
        let report = self.report().await;
        assert_eq!(report.code, Some(0), "{}", report.text);
        report
    }

    /// Something is wrong: the answer to this question, which says this.
    async fn is_wrong(&self, question: &str, words: &str) -> Found {
        let report = self.report().await;
        assert_eq!(report.code, Some(1), "{}", report.text);
        report.found(question, "wrong", words)
    }
}

/// An answer.
struct Found {
    text: String,
    cure: Vec<String>,
}

impl Report {
    fn found(&self, question: &str, mark: &str, words: &str) -> Found {
        let findings = self.value["findings"].as_array().unwrap();
        let found = findings.iter().find(|found| {
            let text = found["text"].as_str().unwrap();
            found["question"] == question && found["mark"] == mark && text.contains(words)
        });
        let found =
            found.unwrap_or_else(|| panic!("no {mark} {question} with {words:?}: {}", self.text));
        let cure = found["cure"].as_array().unwrap().iter();
        Found {
            text: found["text"].as_str().unwrap().to_owned(),
            cure: cure.map(|line| line.as_str().unwrap().to_owned()).collect(),
        }
    }
}

impl Found {
    /// The patterns of `rabbitmqctl set_permissions`.
    fn permissions(&self) -> [&str; 3] {
        assert!(self.cure[0].starts_with("rabbitmqctl set_permissions"));
        let mut patterns = self.cure[0].split('\'').skip(1).step_by(2);
        [(); 3].map(|()| patterns.next().unwrap())
    }

    /// Runs the command that it names.
    async fn apply(&self, vhost: &Vhost) {
        let command = &self.cure[0];
        let words = command.strip_prefix("rabbitmqctl ").unwrap();
        // Words in single quotes may have blanks.
        let mut arguments = Vec::new();
        for (index, piece) in words.split('\'').enumerate() {
            match index % 2 {
                0 => arguments.extend(piece.split_whitespace()),
                _ => arguments.push(piece),
            }
        }
        vhost.node().ctl(&arguments).await;
    }
}

/// The names of what a virtual host has.
async fn inventory(vhost: &Vhost) -> (usize, usize, Vec<String>) {
    let exchanges = vhost
        .node()
        .api()
        .get(&format!("/exchanges/{}", vhost.name()))
        .await;
    let names = exchanges.as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|one| one["name"].to_string()).collect();
    names.sort();
    (
        vhost.queues().await.len(),
        vhost.bindings().await.len(),
        names,
    )
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_sound_house_is_right_and_stays_as_it_is() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let folder = TempDir::new().unwrap();
    let before = inventory(&vhost).await;
    let setup = Setup::new(&vhost, &hook)
        .set("broker.exchanges", format!("{FEED}=topic"))
        .arguments(&["--user", USER, "--passcode-file"])
        .arguments(&[&file(&folder, "passcode", &format!("{PASSCODE}\n"))])
        .arguments(&["--may-read", FEED, "user_alice", "--may-write", FEED, "x"]);
    let report = setup.is_sound().await;
    assert_eq!(report.value["counts"]["doubtful"], 0, "{}", report.text);
    assert_eq!(report.value["counts"]["unasked"], 0, "{}", report.text);
    for (question, words) in [
        ("broker.login", "is RabbitMQ "),
        ("broker.permissions", "may have feeds"),
        ("broker.exchange", "feed (topic) may be read and written"),
        (
            "broker.exchange",
            "stentor.control (commands between nodes) is not there yet",
        ),
        ("management.policies", "no policy"),
        ("auth.hook", "user call: http://"),
        ("auth.login", "alice may log in"),
        (
            "auth.right",
            "alice may listen to key user_alice of exchange feed",
        ),
        ("auth.right", "alice may send to key x of exchange feed"),
        ("clock.difference", "agrees with that of the hook"),
    ] {
        report.found(question, "right", words);
    }
    // The trial's queues end with their connections.
    eventually(DEADLINE, "nothing is left", async || {
        inventory(&vhost).await == before
    })
    .await;

    let shown = setup.run(&[]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.out);
    assert!(shown.out.contains("\nRabbitMQ\n  ✓ "), "{}", shown.out);
    assert!(
        !shown.out.contains('\x1b'),
        "it is no terminal: {}",
        shown.out
    );
    let width = shown.out.lines().map(|line| line.chars().count()).max();
    assert!(width <= Some(80), "{width:?}\n{}", shown.out);
}

#[tokio::test]
async fn it_works_beside_a_gateway() {
    let house = House::open().await;
    let admin = house.gateway.admin_url();
    let taken = admin.trim_start_matches("http://");
    let setup = Setup::new(&house.vhost, &house.hook);
    let stomp = house.gateway.stomp_address();
    let beside = setup.clone().set("listen.admin", taken);
    let report = beside.set("listen.stomp", stomp).is_sound().await;
    for key in ["admin", "stomp"] {
        let own = format!("({key}) is taken by the gateway that runs here");
        report.found("system.port", "right", &own);
    }
    assert_eq!(house.gateway.admin("/readyz").await.0, 200);

    // Another program's port is no gateway's, and not that of the gateway beside it.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let setup = setup.set("listen.stomp", address);
    let beside = setup.clone().set("listen.admin", taken);
    beside
        .is_wrong("system.port", "Another program listens")
        .await;
    let found = setup
        .is_wrong("system.port", "Another program listens")
        .await;
    assert_eq!(
        found.cure[0],
        format!("ss -ltnp 'sport = :{}'", address.port())
    );
    drop(other);
    setup.is_sound().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_2() {
    let ran = Setup::bare().run(&[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{}", ran.err);
    assert!(ran.err.contains("[broker] url"), "{}", ran.err);
}

#[tokio::test]
async fn a_broker_that_is_down() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let [port] = free_ports();
    let setup = Setup::new(&vhost, &hook);
    let down = setup
        .clone()
        .set("broker.url", format!("amqp://guest:guest@127.0.0.1:{port}"));
    let found = down.is_wrong("broker.login", "cannot be reached").await;
    assert_eq!(found.cure[0], "systemctl start rabbitmq-server");
    setup.is_sound().await;
}

/// Each question is answered in its time; together they take longer.
#[tokio::test]
async fn a_broker_that_is_far_away() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    // About what a round trip takes then; some twenty are the most that is asked for one answer.
    proxy.fragment(64 * 1024, Duration::from_millis(350));
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let setup = Setup::new(&vhost, &hook).set("broker.url", url);
    let report = setup.is_sound().await;
    report.found("broker.permissions", "right", "may have feeds");
}

#[tokio::test]
async fn one_node_of_several_that_is_down() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let [port] = free_ports();
    let urls = format!("{} amqp://guest:guest@127.0.0.1:{port}", vhost.amqp_url());
    let mut setup = Setup::new(&vhost, &hook);
    setup.variables.remove("STENTOR__BROKER__URL");
    let file = format!(
        "[broker]\nurls = {:?}\n",
        urls.split(' ')
            .map(|url| url.split('@').map(String::from).collect::<Vec<_>>())
            .map(|parts| format!("{}@{}", parts[0], parts[1].split('/').next().unwrap()))
            .collect::<Vec<_>>()
    );
    let folder = TempDir::new().unwrap();
    let setup = setup.arguments(&["--config", &self::file(&folder, "my.toml", &file)]);
    let report = setup.report().await;
    assert_eq!(report.code, Some(1), "{}", report.text);
    report.found("broker.login", "wrong", &port.to_string());
    report.found("broker.login", "right", &vhost.node().amqp_address());
    // The others are asked all the same.
    report.found("broker.permissions", "right", "may have feeds");
}

#[tokio::test]
async fn a_wrong_password() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "right").await;
    api.allow(vhost.name(), &account, [".*"; 3]).await;
    let setup = Setup::new(&vhost, &hook).account(&vhost, &account, "s3cret");
    let found = setup
        .is_wrong("broker.login", "does not let the account")
        .await;
    assert_eq!(
        found.cure[0],
        format!("rabbitmqctl change_password {account} 'PASSWORD'")
    );
    assert!(!found.text.contains("s3cret"));
    api.tag_user(&account, "s3cret", "").await;
    setup.is_sound().await;
}

#[tokio::test]
async fn permissions_that_are_missing() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    let setup = Setup::new(&vhost, &hook)
        .account(&vhost, &account, "p")
        .set("broker.exchanges", format!("{FEED}=topic"));
    let own = "^stentor\\..*";
    for (permissions, words) in [
        (["^$", ".*", ".*"], "may not configure its own queues"),
        ([own, ".*", "^$"], "may not read its own queues"),
        ([own, "^$", ".*"], "may not write its own queues"),
        ([own, own, ".*"], "may not write the default exchange"),
    ] {
        api.allow(vhost.name(), &account, permissions).await;
        let found = setup.is_wrong("broker.permissions", words).await;
        // The cure is enough, and all that is needed.
        api.allow(vhost.name(), &account, found.permissions()).await;
        let report = setup.is_sound().await;
        report.found("broker.exchange", "right", "feed may be read, not written");
    }
    let [configure, write, _] = permissions_of(&setup, &api, &vhost, &account).await;
    api.allow(vhost.name(), &account, [&configure, &write, own])
        .await;
    let found = setup
        .is_wrong("broker.exchange", "feed may neither be read")
        .await;
    assert!(
        found.cure[0].contains("permission to read feed"),
        "{:?}",
        found.cure
    );
}

/// RabbitMQ looks at them key by key, at topic exchanges.
#[tokio::test]
async fn topic_permissions_that_exclude_keys() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    api.allow(vhost.name(), &account, [".*"; 3]).await;
    let setup = Setup::new(&vhost, &hook)
        .account(&vhost, &account, "p")
        .set("broker.exchanges", format!("{FEED}=topic"));
    for (patterns, words) in [
        (["^user_", ".*"], "may write it with some"),
        ([".*", "^user_"], "may read it with some"),
        (["^user_"; 2], "may read and write it with some"),
    ] {
        api.allow_topics(vhost.name(), &account, FEED, patterns)
            .await;
        let report = setup.is_sound().await;
        let found = report.found("broker.exchange", "doubtful", words);
        found.apply(&vhost).await;
        let report = setup.is_sound().await;
        report.found("broker.exchange", "right", "may be read and written");
    }
}

#[tokio::test]
async fn clients_queues_that_may_be_made_but_not_used() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    let setup = Setup::new(&vhost, &hook).account(&vhost, &account, "p");
    let (all, less) = (".*", "^(stentor\\..*|amq\\..*|feed)$");
    for (permissions, mark, words) in [
        ([all, all, all], "right", "clients may have queues"),
        ([less, all, all], "right", "clients get no queues"),
        ([all, less, all], "doubtful", "but not write them"),
        ([all, all, less], "doubtful", "but not read them"),
    ] {
        api.allow(vhost.name(), &account, permissions).await;
        setup.is_sound().await.found("broker.queues", mark, words);
    }
}

/// The least permissions, as the doctor names them.
async fn permissions_of(
    setup: &Setup,
    api: &testkit::Api,
    vhost: &Vhost,
    account: &str,
) -> [String; 3] {
    api.allow(vhost.name(), account, ["^$"; 3]).await;
    let found = setup.is_wrong("broker.permissions", "may not").await;
    found.permissions().map(str::to_owned)
}

#[tokio::test]
async fn a_virtual_host_that_is_not_there() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let other = unique("missing");
    let setup = Setup::new(&vhost, &hook).set("broker.vhosts", format!("{},{other}", vhost.name()));
    let found = setup.is_wrong("broker.vhost", &other).await;
    assert_eq!(found.cure[0], format!("rabbitmqctl add_vhost {other}"));
    vhost.node().api().add_vhost(&other).await;
    setup.is_sound().await;
    vhost.node().api().delete_vhost(&other).await;
}

#[tokio::test]
async fn an_exchange_of_another_type() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook);
    let direct = setup.clone().set("broker.exchanges", "feed=direct");
    let found = direct
        .is_wrong("broker.exchange", "is a topic exchange")
        .await;
    assert_eq!(
        found.cure,
        ["[broker] exchanges = { \"feed\" = \"topic\" }"]
    );
    setup.set("broker.exchanges", "feed=topic").is_sound().await;

    // To an account that may not configure it, RabbitMQ tells no type; its plug-in does.
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    api.allow(vhost.name(), &account, ["^stentor\\.", ".*", ".*"])
        .await;
    let mut least = direct.account(&vhost, &account, "p");
    let words = "feed is a topic exchange, and has to be a direct one";
    let found = least.is_wrong("management.types", words).await;
    assert_eq!(
        found.cure,
        ["[broker] exchanges = { \"feed\" = \"topic\" }"]
    );
    least.variables.remove("STENTOR_MANAGEMENT");
    let report = least.is_sound().await;
    report.found("management.types", "unasked", "feed");
}

#[tokio::test]
async fn an_account_that_may_not_speak_for_its_users() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    api.allow(vhost.name(), &account, [".*"; 3]).await;
    let setup = Setup::new(&vhost, &hook)
        .account(&vhost, &account, "p")
        .set("broker.impersonate", true);
    let found = setup
        .is_wrong("broker.impersonate", "refuses messages")
        .await;
    assert!(found.cure[0].contains("impersonator"), "{:?}", found.cure);
    api.tag_user(&account, "p", "impersonator").await;
    setup.is_sound().await;
}

#[tokio::test]
async fn a_hook_that_is_down_or_answers_something_else() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook);
    for (answer, words) in [
        (
            Answer::Status(200, "<html>Welcome</html>".to_owned()),
            "it answered with",
        ),
        (Answer::Status(500, "oops".to_owned()), "status 500"),
    ] {
        hook.answer(Call::User, answer);
        let found = setup.is_wrong("auth.hook", words).await;
        assert!(
            found.cure[0].contains("the word allow or deny"),
            "{:?}",
            found.cure
        );
        hook.allow_all();
    }
    // Everybody is let in, with any passcode.
    let report = setup.is_sound().await;
    report.found("auth.hook", "doubtful", "lets a user in that there is not");

    let slow = Duration::from_millis(1_200);
    hook.answer(Call::Topic, Answer::After(slow, Box::new(Answer::Deny)));
    let report = setup.is_sound().await;
    report.found("auth.hook", "doubtful", "answers slowly");

    hook.stop();
    let found = setup.is_wrong("auth.hook", "user call").await;
    assert_eq!(found.cure[0], "start the application that answers there");
}

#[tokio::test]
async fn a_hook_that_denies_the_user() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let folder = TempDir::new().unwrap();
    let passcode = |text: &str| file(&folder, "passcode", text);
    let setup = Setup::new(&vhost, &hook).arguments(&[
        "--user",
        USER,
        "--may-read",
        FEED,
        "user_bob",
        "--passcode-file",
        &passcode("wrong"),
    ]);
    let found = setup
        .is_wrong("auth.login", "alice may not log in: denied")
        .await;
    assert!(
        found.cure[0].contains("--passcode-file"),
        "{:?}",
        found.cure
    );
    passcode(PASSCODE);
    hook.rule(|asked| {
        let is_bob = asked.call == Call::Topic && asked.get("routing_key") == "user_bob";
        is_bob.then_some(Answer::DenyBecause("not yours"))
    });
    let words = "alice may not listen to key user_bob of exchange feed: not yours";
    setup.is_wrong("auth.right", words).await;
}

/// A token as its issuer signs it.
fn token(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({ "alg": "HS256" })), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes()));
    format!("{text}.{signature}")
}

#[tokio::test]
async fn a_token_for_others() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let secret = "a secret of more than thirty-two bytes";
    let folder = TempDir::new().unwrap();
    let claims = json!({ "sub": USER, "aud": "shop", "exp": 4_000_000_000_u64 });
    let token = token(secret, &claims);
    let setup = Setup::new(&vhost, &hook)
        .set("auth.jwt.secret", secret)
        .set("auth.jwt.subscribe", "/exchange/feed/user_{sub}")
        .set("auth.jwt.audiences", "push")
        .arguments(&["--passcode-file", &file(&folder, "token", &token)])
        .arguments(&["--may-read", FEED, "user_alice"]);
    let found = setup
        .is_wrong("auth.login", "the token is for others")
        .await;
    assert_eq!(
        found.cure[0],
        "the token says aud = \"shop\", the configuration [auth.jwt] audiences = [\"push\"]"
    );
    let report = setup
        .set("auth.jwt.audiences", "push,shop")
        .is_sound()
        .await;
    report.found("auth.login", "right", "alice may log in");
    report.found("auth.right", "right", "alice may listen to key user_alice");
    let signature = token.rsplit('.').next().unwrap();
    assert!(!report.text.contains(signature) && !report.text.contains(secret));
}

#[tokio::test]
async fn a_redis_that_is_down_or_refuses() {
    let (vhost, hook, redis) = (vhost().await, Hook::start().await, Redis::own().await);
    let setup = Setup::new(&vhost, &hook);
    let with = |url: String| setup.clone().set("presence.url", url);
    let report = with(redis.url()).is_sound().await;
    report.found("presence.redis", "right", "a single server");
    report.found("presence.rights", "right", "has all rights");
    report.found("clock.difference", "right", "that of Redis");

    let account = [
        "ACL",
        "SETUSER",
        "stentor",
        "on",
        ">right",
        "~stentor:*",
        "+@all",
    ];
    assert_eq!(redis.command(&account).await, "+OK");
    let by = |password: &str| with(format!("redis://stentor:{password}@{}", redis.address()));
    let found = by("s3cret").is_wrong("presence.redis", "").await;
    assert!(
        found.cure[0].starts_with("ACL SETUSER stentor"),
        "{:?}",
        found.cure
    );
    assert!(!found.text.contains("s3cret"), "{}", found.text);

    let less = ["ACL", "SETUSER", "stentor", "-hscan", "-eval"];
    assert_eq!(redis.command(&less).await, "+OK");
    let found = by("right").is_wrong("presence.rights", "hscan, eval").await;
    let words = found.cure[0].split("   ").next().unwrap();
    let words: Vec<_> = words.split(' ').collect();
    assert_eq!(words, ["ACL", "SETUSER", "stentor", "+hscan", "+eval"]);
    assert_eq!(redis.command(&words).await, "+OK");
    by("right").is_sound().await;
    // Nothing of the trial is left.
    assert_eq!(redis.command(&["DBSIZE"]).await, ":0");

    redis.kill();
    let found = with(redis.url()).is_wrong("presence.redis", "").await;
    assert_eq!(found.cure[0], "start Redis, and open the way to it");
}

/// Leases of nodes have an expiry: they would be the first to go.
#[tokio::test]
async fn a_redis_that_evicts_keys() {
    let (vhost, hook, redis) = (vhost().await, Hook::start().await, Redis::own().await);
    let question = "presence.memory";
    let with = |url: String| Setup::new(&vhost, &hook).set("presence.url", url);
    let setup = with(redis.url());
    for (bound, policy, mark) in [
        ("0", "volatile-lru", "right"),
        ("100mb", "noeviction", "right"),
        ("100mb", "allkeys-lru", "doubtful"),
        ("100mb", "volatile-ttl", "doubtful"),
    ] {
        for (name, value) in [("maxmemory", bound), ("maxmemory-policy", policy)] {
            let setting = ["CONFIG", "SET", name, value];
            assert_eq!(redis.command(&setting).await, "+OK");
        }
        let report = setup.is_sound().await;
        report.found(question, mark, "Redis evicts ");
    }
    let found = setup.is_sound().await.found(question, "doubtful", "");
    let words = found.cure[0].split("   ").next().unwrap();
    let words: Vec<_> = words.split(' ').collect();
    assert_eq!(redis.command(&words).await, "+OK");
    let report = setup.is_sound().await;
    report.found(question, "right", "evicts no keys");

    // Presence does not need the right to ask.
    let account = [
        "ACL",
        "SETUSER",
        "stentor",
        "on",
        ">right",
        "~stentor:*",
        "+@all",
        "-info",
    ];
    assert_eq!(redis.command(&account).await, "+OK");
    let by_account = with(format!("redis://stentor:right@{}", redis.address()));
    let report = by_account.is_sound().await;
    report.found("presence.rights", "right", "has all rights");
    report.found(question, "unasked", "is not known");
}

/// A collector that takes requests with this credential, and the heads of those that came.
async fn collector() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let status = match &request {
                text if !text.starts_with("post /v1/traces ") => "404 Not Found",
                text if !text.contains("\r\nauthorization: bearer geheim\r\n") => {
                    "401 Unauthorized"
                }
                _ => "200 OK",
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            // Nobody may listen.
            let _ = sender.send(request);
        }
    });
    (format!("http://{address}"), requests)
}

#[tokio::test]
async fn a_collector_that_is_down_or_refuses() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook);
    let question = "traces.collector";
    let report = setup.is_sound().await;
    assert!(!report.text.contains(question), "there are no traces");

    let (url, mut requests) = collector().await;
    let setup = setup.set("telemetry.otlp.endpoint", &url);
    let found = setup.is_wrong(question, "It wants credentials").await;
    let variable = found.cure[0].replace("TOKEN", "geheim").replace('\'', "");
    let (name, value) = variable.split_once('=').unwrap();
    let setup = setup.variable(name, value);
    let report = setup.is_sound().await;
    report.found(question, "right", &format!("{url}/v1/traces takes traces"));
    assert!(!report.text.contains("geheim"), "{}", report.text);
    let request = [(); 2].map(|()| requests.try_recv().unwrap())[1].clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/x-protobuf"),
        "{head}"
    );
    assert_eq!(body, "", "no span is sent");

    let other = setup
        .clone()
        .set("telemetry.otlp.endpoint", format!("{url}/traces"));
    let found = other.is_wrong(question, "status 404").await;
    assert!(found.cure[0].starts_with("[telemetry.otlp] endpoint"));

    let [port] = free_ports();
    let away = setup.set(
        "telemetry.otlp.endpoint",
        format!("http://127.0.0.1:{port}"),
    );
    let found = away.is_wrong(question, "Connection refused").await;
    assert!(found.text.contains("Clients are served"), "{}", found.text);
    assert!(found.cure[0].starts_with("start the collector"));
}

#[tokio::test]
async fn redis_by_sentinels_and_as_a_cluster() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook);
    let redis = RedisSentinels::shared().await;
    let by_sentinels = setup
        .clone()
        .set("presence.url", redis.url())
        .set("redis.sentinels", redis.addresses().join(","))
        .set("redis.sentinel_password", RedisSentinels::PASSWORD);
    let report = by_sentinels.is_sound().await;
    report.found("presence.redis", "right", "the master that Sentinels name");
    report.found("presence.rights", "right", "has all rights");
    let redis = RedisCluster::own().await;
    let cluster = setup.clone().set("redis.cluster", true);
    let report = cluster.clone().set("presence.url", redis.url());
    let report = report.is_sound().await;
    report.found("presence.redis", "right", "a cluster, all of its 64 parts");
    report.found("presence.rights", "right", "at each of 3 masters");

    // Each server has accounts of its own.
    let account = ["ACL", "SETUSER", "stentor", "on", ">right", "~stentor:*"];
    for server in redis.servers() {
        let all = [&account[..], &["+@all"]].concat();
        assert_eq!(server.command(&all).await, "+OK");
    }
    let url = redis.url().replace("redis://", "redis://stentor:right@");
    let cluster = cluster.set("presence.url", url);
    cluster.is_sound().await;
    for master in redis.masters().await {
        let less = ["ACL", "SETUSER", "stentor", "-hscan", "-info"];
        assert_eq!(master.command(&less).await, "+OK");
        let lacks = format!("needs at {}: hscan, info", master.address());
        let found = cluster.is_wrong("presence.rights", &lacks).await;
        assert!(
            found.cure[0].starts_with("ACL SETUSER stentor +hscan +info "),
            "{:?}",
            found.cure
        );
        let again = ["ACL", "SETUSER", "stentor", "+hscan", "+info"];
        assert_eq!(master.command(&again).await, "+OK");
    }
    cluster.is_sound().await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_another_key_s() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let folder = TempDir::new().unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| folder.path().join(name));
    let setup = Setup::new(&vhost, &hook)
        .set("listen.https", "127.0.0.1:0")
        .set("tls.certificate", chain.display())
        .set("tls.key", key.display());

    let mut params = CertificateParams::new(vec!["push.example.com".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 1);
    let own = KeyPair::generate().unwrap();
    fs::write(&chain, params.self_signed(&own).unwrap().pem()).unwrap();
    fs::write(&key, own.serialize_pem()).unwrap();
    let found = setup
        .is_wrong("tls.certificate", "has expired (2020-01-01")
        .await;
    assert!(
        found.cure[0].contains("systemctl reload stentor"),
        "{:?}",
        found.cure
    );

    // As `openssl req -x509 -subj` makes it.
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "push.example.com");
    fs::write(&chain, params.self_signed(&own).unwrap().pem()).unwrap();
    let found = setup
        .is_wrong("tls.certificate", "no subject alternative names")
        .await;
    assert!(found.text.contains("CN=push.example.com"), "{}", found.text);

    fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let found = setup.is_wrong("tls.certificate", "is not the key of").await;
    assert!(found.cure[0].contains("of one pair"), "{:?}", found.cure);

    let authority = Authority::new();
    authority.serve_from(folder.path(), "push.example.com");
    let report = setup.is_sound().await;
    report.found("tls.certificate", "right", "fits its key");
    report.found("tls.certificate", "doubtful", "no authority of this system");
    let known = setup.variable("SSL_CERT_FILE", folder.path().join("ca.pem").display());
    let report = known.is_sound().await;
    report.found(
        "tls.certificate",
        "right",
        "an authority of this system vouches",
    );
    let named = known.set("listen.host_names", "push.example.org");
    named
        .is_wrong("tls.certificate", "is not for the name push.example.org")
        .await;
}

#[tokio::test]
async fn too_few_files() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let mut setup = Setup::new(&vhost, &hook);
    setup.files = Some(700);
    let report = setup.is_sound().await;
    let found = report.found("system.files", "doubtful", "700 files may be open");
    assert!(
        found.cure[0].starts_with("LimitNOFILE=1500"),
        "{:?}",
        found.cure
    );
    let cure = |line: usize, key: &str| {
        let (name, value) = found.cure[line].split_once(" = ").unwrap();
        assert_eq!(name, format!("[listen] {key}"));
        value.to_owned()
    };
    let setup = setup
        .set("listen.max_connections", cure(1, "max_connections"))
        .set("listen.max_unauthenticated", cure(2, "max_unauthenticated"));
    setup
        .is_sound()
        .await
        .found("system.files", "right", "enough");
}

/// Answers every call with `allow`, by a clock that is ten minutes slow.
async fn slow_clock() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let then = std::time::SystemTime::now() - Duration::from_secs(600);
    let date = httpdate::fmt_http_date(then);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 4\r\n\
                 connection: close\r\n\r\ndeny"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/auth")
}

#[tokio::test]
async fn a_clock_that_is_off() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let mut setup = Setup::new(&vhost, &hook);
    setup.variables.retain(|name, _| !name.contains("AUTH__"));
    let setup = setup.set("auth.hook", slow_clock().await);
    let words = "ahead of that of the hook";
    let found = setup.is_wrong("clock.difference", words).await;
    assert!(found.text.contains("10m"), "{}", found.text);
    assert!(
        found.cure[0].starts_with("timedatectl set-ntp true"),
        "{:?}",
        found.cure
    );
}

#[tokio::test]
async fn an_exchange_read_whole_without_its_alternate_one_and_with_others_bindings() {
    let (vhost, hook) = (RabbitMq::shared().await.vhost().await, Hook::start().await);
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    let setup = Setup::new(&vhost, &hook)
        .set("broker.exchanges", "feed=direct")
        .set("feed.binding", "all")
        .set("feed.whole", FEED)
        .set("feed.bridge", false);
    // Before the first start, there is nothing to lead to.
    let report = setup.is_sound().await;
    report.found("broker.whole", "unasked", "feed.all is not there yet");
    // Which are not made by an account that may not.
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    let by_account = setup.clone().account(&vhost, &account, "p");
    api.allow(vhost.name(), &account, ["^stentor\\.", ".*", ".*"])
        .await;
    let words = "the account may not make it";
    let found = by_account.is_wrong("broker.whole", words).await;
    assert!(found.cure[0].contains("feed.all and feed.keys"));
    vhost
        .declare_exchange("feed.all", ExchangeKind::Fanout)
        .await;
    vhost
        .declare_exchange("feed.keys", ExchangeKind::Direct)
        .await;
    let channel = vhost.channel().await;
    let binding = channel.exchange_bind(
        "feed.keys".into(),
        "feed.all".into(),
        "".into(),
        lapin::options::ExchangeBindOptions::default(),
        FieldTable::default(),
    );
    binding.await.unwrap();
    let found = setup
        .is_wrong("broker.whole", "does not lead to feed.all")
        .await;
    found.apply(&vhost).await;
    let report = setup.is_sound().await;
    report.found("broker.whole", "right", "leads to its alternate exchange");
    report.found("management.bindings", "right", "nobody else");
    // By the least permissions, too.
    let [configure, write, read] = permissions_of(&by_account, &api, &vhost, &account).await;
    api.allow(vhost.name(), &account, [&configure, &write, &read])
        .await;
    let report = by_account.is_sound().await;
    report.found("broker.whole", "right", "leads to its alternate exchange");
    // Such an account is not told the type.
    let mut unsaid = by_account.clone();
    unsaid.variables.remove("STENTOR__BROKER__EXCHANGES");
    let found = unsaid
        .is_wrong("broker.exchange", "it is not read whole")
        .await;
    assert!(found.cure[0].starts_with("[broker] exchanges = { \"feed\" = "));

    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let none = FieldTable::default;
    let declaring = channel.queue_declare("audit".into(), options, none());
    declaring.await.unwrap();
    let options = QueueBindOptions::default();
    let binding = channel.queue_bind(
        "audit".into(),
        FEED.into(),
        "user_alice".into(),
        options,
        none(),
    );
    binding.await.unwrap();
    let words = "user_alice → audit";
    let found = setup.is_wrong("management.bindings", words).await;
    assert_eq!(found.cure[0], "[feed] bridge = true");
    setup.set("feed.bridge", true).is_sound().await;
}

/// It is not right and wrong in one report.
#[tokio::test]
async fn an_exchange_to_be_read_whole_that_is_missing() {
    let (vhost, hook) = (RabbitMq::shared().await.vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook)
        .set("feed.binding", "all")
        .set("feed.whole", FEED);
    let report = setup.report().await;
    report.found("broker.exchange", "wrong", "exchange feed is not there");
    assert!(!report.text.contains("broker.whole"), "{}", report.text);
    // The gateway makes it.
    let made = setup.set("broker.exchanges", "feed=direct");
    let report = made.is_sound().await;
    report.found("broker.exchange", "right", "exchange feed is not there yet");
}

#[tokio::test]
async fn a_journal_that_is_there_missing_or_declared_otherwise() {
    let (vhost, hook) = (RabbitMq::shared().await.vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook).set("journal.exchanges", FEED);
    let words = "exchange feed is not there";
    setup.is_wrong("broker.exchange", words).await;
    vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    let report = setup.is_sound().await;
    report.found("broker.journal", "right", "is not there yet");
    report.found(
        "management.journals",
        "doubtful",
        "nothing leads from exchange feed",
    );
    // It made nothing.
    setup
        .is_sound()
        .await
        .found("broker.journal", "right", "is not there yet");
    let builder = crate::house::stentor().vhost(&vhost).hook(&hook);
    let gateway = builder.set("journal.exchanges", FEED).ready().await;
    let bound = async || vhost.is_bound(FEED, "#").await;
    eventually(DEADLINE, "the journal is bound", bound).await;
    let report = setup.is_sound().await;
    report.found("broker.journal", "right", "is as [journal] says");
    drop(gateway);

    // Each of its permissions is needed.
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    let by_account = setup.clone().account(&vhost, &account, "p");
    let (all, less) = (".*", "^(stentor\\.(feed\\..*|control)|amq\\.default|feed)$");
    for (permissions, words) in [
        ([less, all, all], "may not declare it"),
        ([all, less, all], "may not write it"),
        ([all, all, less], "may not read it"),
    ] {
        api.allow(vhost.name(), &account, permissions).await;
        let found = by_account.is_wrong("broker.journal", words).await;
        assert!(found.cure[0].contains("configure, write and read stentor.journal.feed"));
    }
    // The stream is bound to its exchange.
    let stream = "^(stentor\\.(feed\\.|journal\\.|control$)|amq\\.default$)";
    api.allow(vhost.name(), &account, [all, all, stream]).await;
    let words = "may not read it, so nobody can subscribe";
    by_account.is_wrong("broker.exchange", words).await;
    // A type that the account is not told is nobody's.
    api.allow(vhost.name(), &account, ["^stentor\\.", all, all])
        .await;
    let words = "its subscribers are refused";
    by_account.is_wrong("broker.exchange", words).await;
    api.allow(vhost.name(), &account, [all; 3]).await;
    let report = by_account.is_sound().await;
    report.found("broker.journal", "right", "is as [journal] says");

    let report = setup.set("journal.max_age", "1h").is_sound().await;
    report.found("broker.journal", "doubtful", "x-max-age");
}

#[tokio::test]
async fn a_queue_in_the_place_of_a_journal_keeps_its_message() {
    let (vhost, hook) = (RabbitMq::shared().await.vhost().await, Hook::start().await);
    vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    let (channel, name) = (vhost.channel().await, "stentor.journal.feed");
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(name.into(), options, FieldTable::default());
    declaring.await.unwrap();
    vhost.publish("", name, ["one"]).await;
    let setup = Setup::new(&vhost, &hook).set("journal.exchanges", FEED);
    let words = "another type than a stream";
    let found = setup.is_wrong("broker.journal", words).await;
    assert!(found.cure[0].contains(name), "{:?}", found.cure);
    let options = BasicGetOptions { no_ack: true };
    let got = channel.basic_get(name.into(), options).await.unwrap();
    let message = got.unwrap();
    assert_eq!(message.data, b"one");
    assert!(!message.redelivered);
    assert_eq!(vhost.bindings().await, [Value::Null; 0]);
}

/// RabbitMQ does not change the bound of a queue that is there.
#[tokio::test]
async fn a_queue_for_those_who_are_away_of_another_bound() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let (question, name) = ("broker.offline", "stentor.feed.offline.feed");
    let setup = Setup::new(&vhost, &hook).set("offline.sources", FEED);
    // It makes none.
    for _ in 0..2 {
        let report = setup.report().await;
        report.found(question, "right", "is not there yet");
    }
    let mut arguments = FieldTable::default();
    for (argument, value) in [("x-queue-type", "classic"), ("x-overflow", "drop-head")] {
        arguments.insert(argument.into(), AMQPValue::LongString(value.into()));
    }
    let bound = AMQPValue::LongLongInt(32 << 20);
    arguments.insert("x-max-length-bytes".into(), bound);
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let channel = vhost.channel().await;
    let declaring = channel.queue_declare(name.into(), options, arguments);
    declaring.await.unwrap();
    let found = setup.is_wrong(question, "x-max-length-bytes").await;
    let former = setup.clone().set("offline.max_bytes", "32MiB");
    former
        .report()
        .await
        .found(question, "right", "is as [offline] says");
    let delete = Found {
        cure: found.cure[1..].to_vec(),
        ..found
    };
    delete.apply(&vhost).await;
    let report = setup.report().await;
    report.found(question, "right", "is not there yet");
}

#[tokio::test]
async fn a_management_plug_in_that_is_something_else() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let node = vhost.node().management_address();
    let url = |place: &str| format!("http://guest:guest@{place}");
    let setup = Setup::new(&vhost, &hook);
    let own = setup.clone().set("auth.rabbitmq.management", url(&node));
    own.is_sound()
        .await
        .found("auth.accounts", "right", "users are read: ");

    let other = url(&welcome().await);
    let wrong = setup.clone().set("auth.rabbitmq.management", &other);
    wrong.is_wrong("auth.accounts", "cannot be read").await;
    let wrong = setup.variable("STENTOR_MANAGEMENT", other);
    wrong.is_wrong("management.reachable", "").await;
}

/// Answers every request with a page for people.
async fn welcome() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let page = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n\
                        <html>Welcome!";
            let _ = stream.write_all(page.as_bytes()).await;
        }
    });
    address.to_string()
}

#[tokio::test]
async fn a_policy_that_drops_messages() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let setup = Setup::new(&vhost, &hook);
    let api = vhost.node().api();
    let definition = json!({ "message-ttl": 60_000 });
    api.set_policy(vhost.name(), ".*", definition).await;
    let found = setup
        .is_wrong("management.policies", "message-ttl drops")
        .await;
    found.apply(&vhost).await;
    setup.is_sound().await;
    let definition = json!({ "max-length": 1_000 });
    api.set_policy(vhost.name(), ".*", definition).await;
    let report = setup.is_sound().await;
    report.found("management.policies", "doubtful", "max-length interrupts");
}

#[tokio::test]
async fn a_default_queue_type_and_no_management_plug_in() {
    let node = RabbitMq::shared().await;
    let (vhost, hook) = (node.vhost_of("stream").await, Hook::start().await);
    let mut setup = Setup::new(&vhost, &hook);
    let report = setup.is_sound().await;
    report.found("management.queue-type", "doubtful", "streams by default");
    // Nobody listens at the usual port of 127.0.0.2.
    setup.variables.remove("STENTOR_MANAGEMENT");
    let report = setup.is_sound().await;
    let found = report.found("management.reachable", "unasked", "are not known");
    let command = format!("rabbitmqctl list_policies -p {}", vhost.name());
    assert!(
        found.cure.iter().any(|line| line.starts_with(&command)),
        "{:?}",
        found.cure
    );
}

/// Every question has a row in the page.
#[test]
fn the_page_explains_every_question() {
    let page = fs::read_to_string(Path::new("docs/doctor.md")).unwrap();
    for question in stentor::doctor::QUESTIONS {
        assert!(page.contains(&format!("| `{question}` |")), "{question}");
    }
}
