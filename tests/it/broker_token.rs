//! The gateway's own account by a token, at RabbitMQ's OAuth 2 plug-in: tokens that end within
//! seconds, and links that do not.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use stomp_grammar::{Command, Frame};
use tempfile::TempDir;
use testkit::{
    DEADLINE, FEED, Gateway, Hook, Login, RabbitMq, Remote, StompClient, Vhost, eventually, unique,
};

use crate::house::{DESTINATION, PASSCODE, USER, stentor, vhost_on};

/// A RabbitMQ that takes the tokens of an issuer.
struct Issued {
    issuer: Remote,
    node: Arc<RabbitMq>,
    folder: TempDir,
}

impl Issued {
    async fn start() -> Self {
        let mut issuer = Remote::python("issuer.py");
        let folder = tempfile::tempdir().unwrap();
        let pem = folder.path().join("k.pem");
        for id in ["k", "other"] {
            issuer.order(&json!({ "do": "key", "id": id, "alg": "RS256" }));
            let made = issuer.expect("key").await;
            if id == "k" {
                fs::write(&pem, made["pem"].as_str().unwrap()).unwrap();
            }
        }
        let configuration = format!(
            "collect_statistics_interval = 1000\n\
             auth_backends.1 = internal\n\
             auth_backends.2 = rabbit_auth_backend_oauth2\n\
             auth_oauth2.resource_server_id = rabbitmq\n\
             auth_oauth2.default_key = k\n\
             auth_oauth2.signing_keys.k = {}\n",
            pem.display()
        );
        let plugins = ["rabbitmq_management", "rabbitmq_auth_backend_oauth2"];
        Self {
            issuer,
            node: Arc::new(RabbitMq::own_bare(&plugins, &configuration).await),
            folder,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// A token of that key that counts until `end`, put in its place in one go.
    async fn write(&mut self, key: &str, end: Duration) -> String {
        let claims = json!({
            "sub": "stentor", "aud": ["rabbitmq"], "exp": end.as_secs(),
            "scope": [
                "rabbitmq.configure:*/*", "rabbitmq.write:*/*", "rabbitmq.read:*/*",
                "rabbitmq.write:*/*/*", "rabbitmq.read:*/*/*",
            ],
        });
        self.issuer
            .order(&json!({ "do": "token", "id": key, "claims": claims }));
        let made = self.issuer.expect("token").await;
        let token = made["token"].as_str().unwrap().to_owned();
        put(&self.file(), &token);
        token
    }
}

fn put(file: &Path, token: &str) {
    let new = file.with_extension("new");
    fs::write(&new, token).unwrap();
    fs::rename(&new, file).unwrap();
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

async fn until(end: Duration) {
    eventually(2 * DEADLINE, "a token has ended", async || {
        (now() > end).then_some(())
    })
    .await;
}

/// A gateway with a client whose messages come by a feed, and one that has a queue of its own.
struct House {
    vhost: Vhost,
    gateway: Gateway,
    _hook: Hook,
    clients: [StompClient; 2],
    /// The gateway's connections to RabbitMQ, as they were at the beginning.
    links: BTreeSet<SocketAddr>,
}

impl House {
    async fn open(node: &Arc<RabbitMq>, key: &str, value: &str) -> Self {
        let vhost = vhost_on(node).await;
        let hook = Hook::start().await;
        let gateway = stentor()
            .vhost(&vhost)
            .hook(&hook)
            .set("broker.url", format!("amqp://{}", node.amqp_address()))
            .set(&format!("broker.{key}"), value)
            .set("broker.token_refresh", "1s")
            .ready()
            .await;
        let login = Login::new(USER, PASSCODE, vhost.name());
        let mut clients = Vec::new();
        for headers in [&[][..], &[("ack", "client"), ("prefetch-count", "50")]] {
            let mut client = StompClient::tcp(gateway.stomp_address()).await;
            client.connect(&login).await;
            client.subscribe_with("1", DESTINATION, headers).await;
            clients.push(client);
        }
        let mut house = Self {
            vhost,
            gateway,
            _hook: hook,
            clients: clients.try_into().ok().unwrap(),
            links: BTreeSet::new(),
        };
        house.traffic("begin").await;
        house.links = eventually(DEADLINE, "all links are there", async || {
            let links = house.links();
            (links.len() >= 4).then_some(links)
        })
        .await;
        house
    }

    /// A client sends, and both get the message.
    async fn traffic(&mut self, body: &str) {
        let send = Frame::new(Command::Send)
            .with_header("destination", DESTINATION)
            .with_body(body.to_owned());
        self.clients[0].send(&send).await;
        for client in &mut self.clients {
            client.expect_message(body).await;
        }
    }

    async fn metric(&self, name: &str) -> u64 {
        self.metric_of(&format!("{name} ")).await
    }

    /// The value of the line that begins so.
    async fn metric_of(&self, start: &str) -> u64 {
        let (_, metrics) = self.gateway.admin("/metrics").await;
        let start = format!("stentor_{start}");
        let line = metrics.lines().find(|line| line.starts_with(&start));
        let value = line.unwrap().split_whitespace().next_back();
        value.unwrap().parse().unwrap()
    }

    /// All its links have been told of so many tokens.
    async fn until_renewed(&self, tokens: u64) {
        let what = format!("all logins are renewed, {tokens} times");
        eventually(DEADLINE, what, async || {
            let links = self.metric_of("broker_links{").await;
            let renewed = self.metric("broker_logins_renewed_total").await;
            (links >= 4 && renewed >= tokens * links).then_some(())
        })
        .await;
    }

    fn lost(&self) -> Vec<serde_json::Value> {
        let mut events = self.gateway.events();
        events.retain(|event| event["message"] == "broker link down");
        events
    }

    fn links(&self) -> BTreeSet<SocketAddr> {
        let broker = self.vhost.node().amqp_address();
        self.gateway.connections_to(&broker)
    }

    /// Those of the beginning are still there, and nobody was told of a loss.
    async fn assert_same_links(&self) {
        // A reading may lack some, for the table of sockets changes.
        eventually(
            DEADLINE,
            "the links are those of the beginning",
            async || {
                let links = self.links();
                let are_there = links.len() >= 4 && self.links.is_subset(&links);
                are_there.then_some(())
            },
        )
        .await;
        assert_eq!(self.lost(), [] as [serde_json::Value; 0]);
    }

    /// How RabbitMQ keeps the gateway out; `None`: a new client gets what it subscribes to.
    async fn is_cut_off(&self) -> Option<&'static str> {
        let (status, _) = self.gateway.admin("/readyz").await;
        if status != 200 {
            return Some("it closes links");
        }
        let mut client = StompClient::tcp(self.gateway.stomp_address()).await;
        let login = Login::new(USER, PASSCODE, self.vhost.name());
        client.connect(&login).await;
        let key = unique("key");
        let subscribe = Frame::new(Command::Subscribe)
            .with_header("id", "1")
            .with_header("destination", &format!("/exchange/feed/{key}"))
            .with_header("receipt", "there");
        client.send(&subscribe).await;
        let answer = client.expect_frame().await;
        if answer.command == Command::Error {
            return Some("it refuses a binding");
        }
        self.vhost.publish(FEED, &key, ["to a new client"]).await;
        client.expect_message("to a new client").await;
        None
    }

    fn assert_no_secret(&self, tokens: &[String]) {
        let log = self.gateway.log().text();
        for token in tokens {
            assert!(!log.contains(token.rsplit('.').next().unwrap()), "{log}");
        }
    }
}

/// Three ends of tokens pass, from a file and from a command, and nobody is disconnected. A token
/// that RabbitMQ does not take in between does not matter. At last none comes in time.
#[tokio::test]
async fn links_outlive_their_tokens_and_a_missing_one_is_told() {
    let mut issued = Issued::start().await;
    let mut end = now() + Duration::from_secs(35);
    let mut tokens = vec![issued.write("k", end).await];
    let file = issued.file().display().to_string();
    let command = format!("cat,{file}");
    let (by_file, by_command) = tokio::join!(
        House::open(&issued.node, "token_file", &file),
        House::open(&issued.node, "token_command", &command),
    );
    let mut houses = [by_file, by_command];
    for round in 1..=3 {
        let ended = end;
        end += Duration::from_secs(12);
        tokens.push(issued.write("k", end).await);
        for house in &houses {
            house.until_renewed(round).await;
        }
        until(ended + Duration::from_secs(1)).await;
        for house in &mut houses {
            house.traffic(&format!("after {round} ends")).await;
            house.assert_same_links().await;
        }
    }

    // By a key that RabbitMQ does not know: it is tried, and not given to links that live.
    tokens.push(issued.write("other", end + Duration::from_secs(60)).await);
    let [by_file, _] = &mut houses;
    let not_renewed = "the gateway's token at the broker is not renewed";
    by_file.gateway.until_logged(not_renewed).await;
    let events = by_file.gateway.events();
    let is_it = |event: &&serde_json::Value| {
        event["message"]
            .as_str()
            .is_some_and(|text| text.starts_with(not_renewed))
    };
    let cause = events.iter().find(is_it).unwrap()["cause"]
        .as_str()
        .unwrap();
    assert!(
        cause.starts_with("RabbitMQ does not take the new token: "),
        "{cause}"
    );
    assert_eq!(by_file.metric("broker_token_stale").await, 1);
    by_file.traffic("beside a wrong token").await;
    by_file.assert_same_links().await;

    // One that has ended is not even tried.
    tokens.push(issued.write("k", now() - Duration::from_secs(10)).await);
    by_file
        .gateway
        .until_logged("and there is no newer one")
        .await;

    // The last good one ends: RabbitMQ 4.3 closes the links, 3.10 refuses what they ask for.
    until(end + Duration::from_secs(1)).await;
    for house in &houses {
        let what = "RabbitMQ closes or refuses";
        let how = eventually(DEADLINE, what, async || house.is_cut_off().await).await;
        println!("at the end of a token: {how}");
    }
    let end = now() + Duration::from_secs(600);
    tokens.push(issued.write("k", end).await);
    for house in &mut houses {
        let what = "all is well again";
        eventually(2 * DEADLINE, what, async || {
            house.is_cut_off().await.is_none().then_some(())
        })
        .await;
        eventually(DEADLINE, "and it says so", async || {
            let stale = house.metric("broker_token_stale").await;
            let expires = house.metric("broker_token_expires_seconds").await;
            stale == 0 && expires == end.as_secs()
        })
        .await;
        house.assert_no_secret(&tokens);
    }
}
