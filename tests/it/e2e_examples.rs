//! The clients of `examples`, as they are: they come back where that helps, and only there.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Answer, Call, DEADLINE, Gateway, Hook, Process, Proxy, RabbitMq, Remote, eventually,
    free_ports, tests_dir, unique,
};
use tokio::time::timeout;

use crate::house::stentor;

const PASSCODE: &str = "correct-horse-battery-staple";

#[tokio::test]
async fn node() {
    lives(Example::program("node", |folder, user| {
        let mut command = Command::new("node");
        command.args(["subscribe.mjs", user, PASSCODE]);
        fs::copy(example("node/subscribe.mjs"), folder.join("subscribe.mjs")).unwrap();
        packages(folder);
        command
    }))
    .await;
}

#[tokio::test]
async fn python() {
    lives(Example::program("python", |_, user| {
        let python = tests_dir().with_file_name(".venv").join("bin/python3");
        let mut command = Command::new(python);
        command.arg(example("python/subscribe.py"));
        command.args([user, PASSCODE]);
        command
    }))
    .await;
}

#[tokio::test]
async fn java() {
    lives(Example::program("java", |_, user| {
        let mut command = Command::new("java");
        command.arg(example("java/Subscribe.java"));
        command.args([user, PASSCODE]);
        command
    }))
    .await;
}

#[tokio::test]
async fn browser() {
    lives(Example::page("index.html", |url| {
        format!("?url=ws://{url}/ws")
    }))
    .await;
}

#[tokio::test]
async fn browser_with_our_client() {
    lives(Example::page("client.html", |url| {
        format!("?url=ws://{url}/ws")
    }))
    .await;
}

#[tokio::test]
async fn browser_of_2014() {
    lives(Example::page("classic.html", |url| {
        format!("?url=http://{url}/stomp")
    }))
    .await;
}

fn example(path: &str) -> std::path::PathBuf {
    tests_dir().with_file_name("examples").join(path)
}

/// The packages that `npm install` would bring.
fn packages(folder: &Path) {
    let installed = tests_dir().join("js/node_modules");
    let ours = tests_dir().with_file_name("clients").join("js");
    let folder = folder.join("node_modules");
    fs::create_dir(&folder).unwrap();
    for (name, package) in [
        ("@stomp", installed.join("@stomp")),
        ("ws", installed.join("ws")),
        ("stentor-client", ours),
    ] {
        std::os::unix::fs::symlink(package, folder.join(name)).unwrap();
    }
}

/// One of the examples, and how it is started.
enum Example {
    Program {
        name: &'static str,
        command: fn(&Path, &str) -> Command,
    },
    Page {
        file: &'static str,
        query: fn(&str) -> String,
        pages: Pages,
    },
}

/// The folder `examples/browser`, by a web server as `npm start` has it.
pub(crate) struct Pages {
    server: Process,
    pub(crate) origin: String,
    _folder: TempDir,
}

/// An example that runs.
enum Client {
    Program { process: Process, _folder: TempDir },
    Page(Box<Remote>),
}

impl Example {
    fn program(name: &'static str, command: fn(&Path, &str) -> Command) -> Self {
        Self::Program { name, command }
    }

    fn page(file: &'static str, query: fn(&str) -> String) -> Self {
        let pages = Pages::start();
        Self::Page { file, query, pages }
    }

    /// True if it speaks STOMP over TCP.
    fn is_tcp(&self) -> bool {
        matches!(self, Self::Program { name: "python", .. })
    }

    /// Starts it for a user, at the server on `address`.
    async fn start(&self, address: &str, user: &str) -> Client {
        match self {
            Self::Program { name, command } => {
                let folder = TempDir::with_prefix("stentor-example-").unwrap();
                let mut command = command(folder.path(), user);
                command
                    .current_dir(folder.path())
                    .env("STENTOR_WS", format!("ws://{address}/ws"))
                    .env("STENTOR_TCP", address);
                let process = Process::start(name, &mut command, Stdio::null()).unwrap();
                Client::Program {
                    process,
                    _folder: folder,
                }
            }
            Self::Page { file, query, pages } => {
                pages.are_served().await;
                let origin = &pages.origin;
                let mut browser = Remote::node("browser.mjs");
                let query = query(address);
                let url = format!("{origin}/{file}{query}&user={user}&passcode={PASSCODE}");
                browser.order(&json!({ "do": "goto", "url": url }));
                assert_eq!(browser.expect("loaded").await["status"], 200);
                if *file == "classic.html" {
                    let own = format!("/exchange/feed/user_{user}");
                    for (name, text) in [
                        ("login", user),
                        ("passcode", PASSCODE),
                        ("destination", &own),
                    ] {
                        let selector = format!("#listener [name={name}]");
                        browser.order(&json!({ "do": "fill", "selector": selector, "text": text }));
                    }
                    browser.order(&json!({ "do": "click", "selector": "[data-testid=connect]" }));
                }
                Client::Page(Box::new(browser))
            }
        }
    }
}

impl Pages {
    pub(crate) fn start() -> Self {
        let folder = TempDir::with_prefix("stentor-pages-").unwrap();
        for entry in fs::read_dir(example("browser")).unwrap() {
            let entry = entry.unwrap();
            let link = folder.path().join(entry.file_name());
            if entry.file_name() != "node_modules" {
                std::os::unix::fs::symlink(entry.path(), link).unwrap();
            }
        }
        packages(folder.path());
        let [port] = free_ports();
        let mut command = Command::new("python3");
        let port = port.to_string();
        command
            .args(["-m", "http.server", &port, "--bind", "127.0.0.1"])
            .current_dir(folder.path());
        Self {
            server: Process::start("http.server", &mut command, Stdio::null()).unwrap(),
            origin: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        }
    }

    pub(crate) async fn are_served(&self) {
        eventually(DEADLINE, "the pages are served", async || {
            assert!(
                self.server.exit_status().is_none(),
                "{}",
                self.server.output()
            );
            let address = self.origin.trim_start_matches("http://");
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
    }
}

impl Client {
    /// True once it shows this text.
    async fn shows(&mut self, text: &str) -> bool {
        match self {
            Self::Program { process, .. } => {
                let ended = process.exit_status();
                assert!(ended.is_none(), "{ended:?}\n{}", process.output());
                process.output().contains(text)
            }
            Self::Page(browser) => {
                let script = "document.body.innerText";
                browser.order(&json!({ "do": "evaluate", "script": script }));
                let value = browser.expect("evaluated").await;
                value["value"].as_str().unwrap_or_default().contains(text)
            }
        }
    }

    async fn until_shown(&mut self, text: &str) {
        eventually(DEADLINE, format!("{text:?} is shown"), async || {
            self.shows(text).await
        })
        .await;
    }

    /// It has given up, and says why.
    async fn until_over(&mut self, message: &str) {
        match self {
            Self::Program { process, .. } => {
                let ended = timeout(2 * DEADLINE, process.wait(4 * DEADLINE)).await;
                let output = process.output();
                let status = ended.unwrap_or_else(|_| panic!("{message:?}: it goes on\n{output}"));
                assert_eq!(status.code(), Some(1), "{output}");
                assert!(output.contains(message), "{output}");
            }
            Self::Page(_) => {
                self.until_shown(message).await;
                let eventually_over =
                    async || self.shows("ended: ").await || self.shows("refused").await;
                eventually(DEADLINE, "the page has given up", eventually_over).await;
            }
        }
    }

    /// A page can come back after it has given up; a program cannot.
    async fn is_still_over(&mut self) {
        if let Self::Page(_) = self {
            assert!(self.shows("ended: ").await || self.shows("refused").await);
        }
    }
}

/// A gateway of which everything can be away.
struct Surroundings {
    ports: [u16; 2],
    hook: Hook,
    broker: Proxy,
    gateway: Option<Gateway>,
    /// The address that the client connects to.
    front: Proxy,
    user: String,
}

impl Surroundings {
    async fn new(is_tcp: bool) -> Self {
        let node = RabbitMq::shared().await;
        let ports = free_ports();
        let front = ports[usize::from(is_tcp)];
        let mut surroundings = Self {
            ports,
            hook: Hook::start().await,
            broker: Proxy::start(&node.amqp_address()).await,
            gateway: None,
            front: Proxy::start(&format!("127.0.0.1:{front}")).await,
            user: unique("alice"),
        };
        surroundings.open().await;
        surroundings
    }

    async fn open(&mut self) {
        let [http, stomp] = self.ports;
        let gateway = stentor()
            .hook(&self.hook)
            // The examples use the default virtual host.
            .set(
                "broker.url",
                format!("amqp://guest:guest@{}", self.broker.address()),
            )
            .set("broker.exchanges", "feed=direct")
            .set("broker.operation_timeout", "1s")
            .set("broker.reconnect_max", "500ms")
            .set("auth.cache_ttl", "0s")
            .set("feed.linger", "50ms")
            .set("listen.http", format!("127.0.0.1:{http}"))
            .set("listen.stomp", format!("127.0.0.1:{stomp}"))
            .set("listen.origins", "*")
            .set("presence.url", "memory:")
            .set("presence.events", "false")
            .set("sessions.repeated_login", "replace")
            .set("shutdown.drain", "100ms");
        self.gateway = Some(gateway.ready().await);
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// The client has a subscription again: a backend's messages reach it from now on.
    async fn reaches(&self, client: &mut Client, label: &str) {
        let mut number = 0;
        let path = "POST /api/v1/publish";
        let key = format!("user_{}", self.user);
        eventually(
            2 * DEADLINE,
            format!("a message {label:?} arrives"),
            async || {
                number += 1;
                let body =
                    json!({ "exchange": "feed", "key": key, "body": format!("{label} {number}.") });
                // If RabbitMQ did not confirm in time, another one follows.
                self.gateway().api(path, Some(&body)).await;
                client.shows(&format!("{label} ")).await
            },
        )
        .await;
    }

    async fn kick(&self) {
        let path = format!(
            "DELETE /api/v1/users/{}/sessions?reason=not%20paid",
            self.user
        );
        let (status, answer): (u16, Value) = self.gateway().api(&path, None).await;
        assert_eq!(status, 200, "{answer}");
    }
}

/// The life of a client, step by step.
async fn lives(example: Example) {
    let mut around = Surroundings::new(example.is_tcp()).await;
    let address = around.front.address();
    let user = around.user.clone();
    let mut client = example.start(&address, &user).await;
    around.reaches(&mut client, "begun").await;

    // The connection is lost without a word.
    around.front.cut();
    around.reaches(&mut client, "after a cut").await;

    // The hook is away: a login fails, in the words of a refusal.
    around.hook.answer(Call::User, Answer::Close);
    around.front.cut();
    around.gateway().until_logged("Access refused").await;
    around.hook.allow_all();
    around.reaches(&mut client, "with a hook").await;

    // RabbitMQ is away: a login succeeds, and SUBSCRIBE fails.
    around.broker.refuse();
    around.gateway().until_readyz(503).await;
    around.front.cut();
    around.gateway().until_logged("broker unavailable").await;
    around.broker.forward();
    around.gateway().until_ready().await;
    around.reaches(&mut client, "with a broker").await;

    // The gateway is restarted.
    let ended = around.gateway().terminate(DEADLINE).await;
    assert_eq!(ended.code(), Some(0));
    around.open().await;
    around.reaches(&mut client, "after a drain").await;

    // The user logs in elsewhere: there would be no end of it, if the first one came back.
    let mut second = example.start(&address, &user).await;
    around.reaches(&mut second, "elsewhere").await;
    client.until_over("session replaced").await;
    around.reaches(&mut second, "alone").await;
    client.is_still_over().await;

    around.kick().await;
    second.until_over("kicked").await;

    around.hook.answer(Call::Topic, Answer::Deny);
    let mut third = example.start(&address, &user).await;
    third.until_over("access_refused").await;
    for over in [&mut client, &mut second] {
        over.is_still_over().await;
    }
    let calls = around.hook.calls_of(Call::User);
    let logins = calls.iter().filter(|call| call.get("username") == user);
    // Each of the above brought one, and where something was away, at most a few more.
    let count = logins.count();
    assert!((8..20).contains(&count), "{count} logins");
}
