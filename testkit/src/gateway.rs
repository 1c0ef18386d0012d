//! The `stentor` program itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Call, DEADLINE, Hook, Lines, Process, Vhost, eventually, http, keeper, sockets::connections,
};

/// A token that each gateway here knows, good for all of its API.
pub const API_TOKEN: &str = "testkit-0123456789abcdef";

/// The addresses of a gateway; a part that is switched off has no address.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// WebSocket and pages: `host:port`.
    pub http: Option<String>,
    /// WebSocket over TLS: `host:port`.
    pub https: Option<String>,
    /// STOMP over TCP: `host:port`.
    pub stomp: Option<String>,
    /// STOMP over TLS: `host:port`.
    pub stomps: Option<String>,
    /// Health and metrics: `host:port`.
    pub admin: Option<String>,
}

/// The configuration of a gateway to start. By default all three listeners are on free ports of
/// 127.0.0.1, and the log is JSON.
#[derive(Clone, Debug)]
pub struct GatewayBuilder {
    program: PathBuf,
    arguments: Option<Vec<String>>,
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    file: String,
    listeners: Vec<&'static str>,
}

impl GatewayBuilder {
    /// Sets `section.key`, as an environment variable of the gateway.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.insert(key.to_owned(), value.to_string());
        self
    }

    /// Sets a variable of the gateway's environment that is not one of its own.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// Does not set `section.key`, not even as this fixture would.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.settings.remove(key);
        self
    }

    /// Serves this virtual host, and no other.
    #[must_use]
    pub fn vhost(self, vhost: &Vhost) -> Self {
        let address = vhost.node().amqp_address();
        self.vhost_via(vhost, &address)
    }

    /// Serves this virtual host by way of a proxy at `address` (`host:port`).
    #[must_use]
    pub fn vhost_via(self, vhost: &Vhost, address: &str) -> Self {
        self.set("broker.url", format!("amqp://guest:guest@{address}"))
            .set("broker.vhosts", vhost.name())
            .set("broker.default_vhost", vhost.name())
    }

    /// Asks this hook everything.
    #[must_use]
    pub fn hook(self, hook: &Hook) -> Self {
        self.set("auth.user_path", hook.url(Call::User))
            .set("auth.vhost_path", hook.url(Call::Vhost))
            .set("auth.resource_path", hook.url(Call::Resource))
            .set("auth.topic_path", hook.url(Call::Topic))
    }

    /// Serves TLS as well, on free ports of 127.0.0.1, by the certificate in this folder
    /// ([`Authority::serve_from`](crate::Authority::serve_from)).
    #[must_use]
    pub fn tls(mut self, folder: &Path) -> Self {
        self.listeners.extend(["https", "stomps"]);
        self.set("listen.https", "127.0.0.1:0")
            .set("listen.stomps", "127.0.0.1:0")
            .set("tls.certificate", folder.join("chain.pem").display())
            .set("tls.key", folder.join("key.pem").display())
    }

    /// The text of the configuration file; by default it is empty.
    #[must_use]
    pub fn file(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.file);
        self
    }

    /// Starts the program with these arguments instead of `serve --config FILE`, and awaits
    /// these listeners only.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str], listeners: &[&'static str]) -> Self {
        self.arguments = Some(arguments.iter().map(ToString::to_string).collect());
        self.listeners = listeners.to_vec();
        self
    }

    /// Starts the program, and waits for nothing: it may well end at once.
    ///
    /// # Panics
    /// The program cannot be started.
    #[must_use]
    pub fn spawn(self) -> Gateway {
        let folder = TempDir::with_prefix("testkit-stentor-").expect("a temporary folder");
        keeper::remove(folder.path());
        let file = folder.path().join("stentor.toml");
        fs::write(&file, &self.file).expect("a file in the temporary folder");
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STENTOR__") {
                command.env_remove(name);
            }
        }
        for (key, value) in &self.settings {
            let key = key.replace('.', "__").to_uppercase();
            command.env(format!("STENTOR__{key}"), value);
        }
        command.envs(&self.environment);
        match &self.arguments {
            Some(arguments) => command.args(arguments),
            None => command.args(["serve", "--config"]).arg(&file),
        };
        command.current_dir(folder.path());
        let process = Process::start("stentor", &mut command, Stdio::null())
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        Gateway {
            process,
            addresses: Addresses::default(),
            folder,
        }
    }

    /// Starts the gateway, and waits until it listens. The broker may be away.
    ///
    /// # Panics
    /// It ends, or does not listen.
    pub async fn start(self) -> Gateway {
        let listeners = self.listeners.clone();
        let mut gateway = self.spawn();
        let found = eventually(2 * DEADLINE, "the gateway listens, or ends", async || {
            if gateway.process.exit_status().is_some() {
                return Some(None);
            }
            let addresses: Option<Vec<String>> = listeners
                .iter()
                .map(|listener| gateway.listening(listener))
                .collect();
            addresses.map(Some)
        })
        .await;
        let Some(addresses) = found else {
            panic!("the gateway ended\n{}", gateway.process.output());
        };
        for (listener, address) in listeners.iter().zip(addresses) {
            let place = match *listener {
                "http" => &mut gateway.addresses.http,
                "https" => &mut gateway.addresses.https,
                "stomp" => &mut gateway.addresses.stomp,
                "stomps" => &mut gateway.addresses.stomps,
                "admin" => &mut gateway.addresses.admin,
                other => panic!("there is no listener {other:?}"),
            };
            *place = Some(address);
        }
        gateway
    }

    /// Starts the gateway, and waits until it is ready to serve.
    ///
    /// # Panics
    /// It ends, or does not become ready.
    pub async fn ready(self) -> Gateway {
        let gateway = self.start().await;
        gateway.until_ready().await;
        gateway
    }
}

/// A running gateway. Dropped, it is killed.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    addresses: Addresses,
    folder: TempDir,
}

impl Gateway {
    /// Prepares to start `program`, for which tests of the package `stentor` have
    /// `env!("CARGO_BIN_EXE_stentor")`.
    #[must_use]
    pub fn builder(program: &str) -> GatewayBuilder {
        let builder = GatewayBuilder {
            program: program.into(),
            arguments: None,
            settings: BTreeMap::new(),
            environment: BTreeMap::new(),
            file: String::new(),
            listeners: vec!["http", "stomp", "admin"],
        };
        builder
            .set("listen.http", "127.0.0.1:0")
            .set("listen.stomp", "127.0.0.1:0")
            .set("listen.admin", "127.0.0.1:0")
            .set("log.format", "json")
            // So that /readyz tells of a lost link when it is lost.
            .set("broker.unready_after", "0s")
            .set("api.tokens", format!("testkit=admin {API_TOKEN}"))
    }

    /// Its addresses.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// `ws://host:port/ws`
    ///
    /// # Panics
    /// It does not listen for HTTP.
    #[must_use]
    pub fn ws_url(&self) -> String {
        let address = self.addresses.http.as_deref();
        format!("ws://{}/ws", address.expect("it listens for HTTP"))
    }

    /// `http://host:port`: its origin, to browsers.
    ///
    /// # Panics
    /// It does not listen for HTTP.
    #[must_use]
    pub fn origin(&self) -> String {
        let address = self.addresses.http.as_deref();
        format!("http://{}", address.expect("it listens for HTTP"))
    }

    /// `http://host:port/stomp`
    ///
    /// # Panics
    /// It does not listen for HTTP.
    #[must_use]
    pub fn sockjs_url(&self) -> String {
        format!("{}/stomp", self.origin())
    }

    /// `host:port` of STOMP over TCP.
    ///
    /// # Panics
    /// It does not listen for STOMP.
    #[must_use]
    pub fn stomp_address(&self) -> &str {
        let address = self.addresses.stomp.as_deref();
        address.expect("it listens for STOMP")
    }

    /// `wss://host:port/ws`
    ///
    /// # Panics
    /// It does not listen for HTTPS.
    #[must_use]
    pub fn wss_url(&self) -> String {
        format!("wss://{}/ws", self.https_address())
    }

    /// `host:port` of WebSocket over TLS.
    ///
    /// # Panics
    /// It does not listen for HTTPS.
    #[must_use]
    pub fn https_address(&self) -> &str {
        let address = self.addresses.https.as_deref();
        address.expect("it listens for HTTPS")
    }

    /// `host:port` of STOMP over TLS.
    ///
    /// # Panics
    /// It does not listen for it.
    #[must_use]
    pub fn stomps_address(&self) -> &str {
        let address = self.addresses.stomps.as_deref();
        address.expect("it listens for STOMP over TLS")
    }

    /// `http://host:port` of the admin listener.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn admin_url(&self) -> String {
        let address = self.addresses.admin.as_deref();
        format!("http://{}", address.expect("it has an admin listener"))
    }

    /// Asks the API, with [`API_TOKEN`]: `GET /api/v1/node`, say. Status and JSON.
    ///
    /// # Panics
    /// It does not answer, or not in JSON.
    pub async fn api(&self, request: &str, body: Option<&Value>) -> (u16, Value) {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let method = method.parse().expect("a method");
        let url = format!("{}{path}", self.admin_url());
        let mut asked = http::client().request(method, url).bearer_auth(API_TOKEN);
        if let Some(body) = body {
            let json = reqwest::header::HeaderValue::from_static("application/json");
            asked = asked
                .header(reqwest::header::CONTENT_TYPE, json)
                .body(body.to_string());
        }
        let answer = match asked.send().await {
            Ok(answer) => answer,
            Err(error) => panic!("{request}: {error}\n{}", self.process.output()),
        };
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        let json = serde_json::from_str(&text);
        (
            status,
            json.unwrap_or_else(|error| panic!("{request}: {error}: {text}")),
        )
    }

    /// Asks the admin listener: status and body.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        self.try_admin(path)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.process.output()))
    }

    async fn try_admin(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let answer = http::client()
            .get(format!("{}{path}", self.admin_url()))
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// It does not.
    pub async fn until_ready(&self) {
        self.until_readyz(200).await;
    }

    /// Waits until `/readyz` says this status, and answers its body.
    ///
    /// # Panics
    /// It does not.
    pub async fn until_readyz(&self, status: u16) -> String {
        let what = format!("/readyz says {status}");
        eventually(2 * DEADLINE, what, async || {
            match self.try_admin("/readyz").await {
                Ok((now, body)) if now == status => Some(body),
                _ => None,
            }
        })
        .await
    }

    /// Its log so far.
    #[must_use]
    pub const fn log(&self) -> &Lines {
        self.process.stderr()
    }

    /// Its log so far, as JSON; other lines are left out.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let lines = self.log().all();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits until its log holds this text. A log is read by a thread of its own, so what a client
    /// was told may be there before the line about it.
    ///
    /// # Panics
    /// It does not within [`DEADLINE`].
    #[track_caller]
    pub fn until_logged(&self, text: &str) -> impl Future<Output = ()> {
        eventually(DEADLINE, format!("'{text}' is logged"), async move || {
            self.log().text().contains(text)
        })
    }

    /// Waits until its log holds `count` events with this message, and answers them.
    ///
    /// # Panics
    /// It does not within [`DEADLINE`], or there are more.
    #[track_caller]
    pub fn until_events(&self, message: &str, count: usize) -> impl Future<Output = Vec<Value>> {
        let what = format!("'{message}' is logged {count} times");
        eventually(DEADLINE, what, async move || {
            let mut events = self.events();
            events.retain(|event| event["message"] == message);
            assert!(events.len() <= count, "'{message}': {events:#?}");
            (events.len() == count).then_some(events)
        })
    }

    /// Its connections to a server at this address (`127.0.0.1:5672`), each by its own address, as
    /// the system knows them: RabbitMQ's statistics lag, and `rabbitmqctl` takes seconds on a busy
    /// machine. A reading may lack some.
    ///
    /// # Panics
    /// That is no address.
    #[must_use]
    pub fn connections_to(&self, server: &str) -> BTreeSet<SocketAddr> {
        connections(self.process.id(), server.parse().expect("an address"))
    }

    /// Its process: signals, output, end.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// The folder with its configuration file, which is also its working folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Panics
    /// It does not end within `grace`.
    pub async fn terminate(&self, grace: Duration) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait(grace).await
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&self) {
        self.process.signal("KILL");
        self.process.wait(DEADLINE).await;
    }

    /// The address of this listener, as the log says.
    fn listening(&self, listener: &str) -> Option<String> {
        self.log().find(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["message"] == "listening" && event["listener"] == listener)
                .then(|| event["address"].as_str().map(ToOwned::to_owned))
                .flatten()
        })
    }
}
