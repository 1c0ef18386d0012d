//! The servers that are measured, on private ports: RabbitMQ with or without Web STOMP, gateways,
//! and the hook that both ask; or NATS.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use testkit::{Authority, Gateway, Process, RabbitMq, eventually, free_ports, keeper};

use crate::{
    hook,
    orders::Publish,
    programs::{Build, this_program},
    progress,
    wire::dialect::Dialect,
    worker,
};

/// A server to measure.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// Stentor, with RabbitMQ behind it
    Stentor,
    /// RabbitMQ's own Web STOMP plug-in
    WebStomp,
    /// Stentor with its embedded broker, published to over STOMP
    Embedded,
    /// nats-server, with clients over WebSocket; nobody asks a hook
    Nats,
}

impl Server {
    /// True if it is Stentor, of which several builds can be compared.
    pub(crate) const fn is_gateway(self) -> bool {
        matches!(self, Self::Stentor | Self::Embedded)
    }

    /// In documents.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Stentor => "Stentor",
            Self::WebStomp => "Web STOMP",
            Self::Embedded => "Stentor, embedded broker",
            Self::Nats => "nats-server",
        }
    }

    /// The protocol between it and its clients.
    pub(crate) const fn dialect(self) -> Dialect {
        match self {
            Self::Nats => Dialect::Nats,
            _ => Dialect::Stomp,
        }
    }
}

/// How the servers are set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) server: Server,
    /// The gateway's program.
    pub(crate) stentor: PathBuf,
    /// How that build is called, where several are compared.
    pub(crate) build: Option<String>,
    /// Further lines of `rabbitmq.conf`, behind Stentor.
    pub(crate) broker: &'static str,
    /// Gateways on the one RabbitMQ; Web STOMP is RabbitMQ itself.
    pub(crate) nodes: usize,
    /// Stentor's `feed.durable`.
    pub(crate) durable: bool,
    /// Clients connect by TLS.
    pub(crate) tls: bool,
    /// RabbitMQ remembers what the hook permits, as Stentor always does.
    pub(crate) auth_cache: bool,
    /// The major version of RabbitMQ, where it is another one than the system's.
    pub(crate) version: Option<u32>,
    /// Threads of a gateway; `None`: one a core, as is its default.
    pub(crate) threads: Option<usize>,
    /// Further settings of the gateway, such as `feed.shards=1`.
    pub(crate) settings: Vec<(String, String)>,
}

impl Setup {
    /// One node of a build, as it is by default.
    pub(crate) fn new(server: Server, build: &Build) -> Self {
        Self {
            server,
            stentor: build.program.clone(),
            build: build.name.clone().filter(|_| server.is_gateway()),
            broker: "",
            nodes: 1,
            durable: true,
            tls: false,
            auth_cache: false,
            version: None,
            threads: None,
            settings: Vec::new(),
        }
    }

    /// The parts of it that set a case apart.
    pub(crate) fn note(&self) -> String {
        let mut note = String::new();
        if self.tls {
            note.push_str(" TLS");
        }
        if self.nodes > 1 {
            note.push_str(&format!(" {} nodes", self.nodes));
        }
        if !self.durable && self.server == Server::Stentor {
            note.push_str(" transient feeds");
        }
        for (key, value) in self.settings.iter().filter(|_| self.server.is_gateway()) {
            note.push_str(&format!(" {key}={value}"));
        }
        let has_rabbitmq = matches!(self.server, Server::Stentor | Server::WebStomp);
        if let Some(version) = self.version.filter(|_| has_rabbitmq) {
            note.push_str(&format!("{RABBITMQ_NOTE}{version}"));
        }
        note
    }
}

/// How a case ends where RabbitMQ is another one than the system's; its major version follows.
pub(crate) const RABBITMQ_NOTE: &str = " RabbitMQ ";

/// The role of a process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// A gateway.
    Gateway,
    /// RabbitMQ, Web STOMP included.
    Rabbitmq,
    Nats,
    /// The application's hook.
    Hook,
    /// The load.
    Client,
}

/// Running servers. Dropped, they are ended.
pub(crate) struct Servers {
    rabbitmq: Option<RabbitMq>,
    gateways: Vec<Gateway>,
    nats: Option<Process>,
    hook: Process,
    websockets: Vec<SocketAddr>,
    publish: Publish,
    /// The first one's WebSocket without TLS.
    plain: SocketAddr,
    /// The folder of the servers' certificates and their authority.
    certificates: Option<TempDir>,
}

impl Servers {
    /// Starts all, and waits until they serve.
    ///
    /// # Errors
    /// A program is missing. A fixture that fails panics with its reason.
    pub(crate) async fn start(setup: &Setup) -> Result<Self> {
        let (hook, hook_address) = start_hook().await?;
        let certificates = setup.tls.then(certificates).transpose()?;
        let mut servers = Self {
            rabbitmq: None,
            gateways: Vec::new(),
            nats: None,
            hook,
            websockets: Vec::new(),
            publish: Publish::Stomp(hook_address),
            plain: hook_address,
            certificates,
        };
        match setup.server {
            Server::Stentor => {
                let configuration = format!("{QUIET}{}", setup.broker);
                let amqp = servers.start_rabbitmq(&[], &configuration).await?;
                servers.set_policy(setup).await;
                servers.start_gateways(setup, Some(amqp)).await?;
                servers.publish = Publish::Amqp(amqp);
            }
            Server::Embedded => {
                ensure!(
                    setup.nodes == 1,
                    "the embedded broker is one node's: use --nodes 1"
                );
                servers.start_gateways(setup, None).await?;
                servers.publish = Publish::Stomp(servers.plain);
            }
            Server::WebStomp => servers.start_web_stomp(setup).await?,
            Server::Nats => servers.start_nats(setup).await?,
        }
        Ok(servers)
    }

    async fn start_rabbitmq(
        &mut self,
        plugins: &[&str],
        configuration: &str,
    ) -> Result<SocketAddr> {
        let node = RabbitMq::own_bare(plugins, configuration).await;
        let amqp = node.amqp_address().parse()?;
        worker::declare_exchange(amqp).context("declaring the exchange")?;
        self.rabbitmq = Some(node);
        Ok(amqp)
    }

    /// Gives an exchange that the gateways read whole its alternate exchange, as an operator does.
    async fn set_policy(&self, setup: &Setup) {
        let whole = setup.settings.iter().find(|(key, _)| key == "feed.whole");
        if let (Some((_, exchange)), Some(node)) = (whole, &self.rabbitmq) {
            let (name, pattern) = (format!("stentor.{exchange}"), format!("^{exchange}$"));
            let definition = format!("{{\"alternate-exchange\":\"{exchange}.all\"}}");
            let set = ["set_policy", "--apply-to", "exchanges"];
            node.ctl(&[&set[..], &[&name, &pattern, &definition]].concat())
                .await;
        }
    }

    async fn start_web_stomp(&mut self, setup: &Setup) -> Result<()> {
        let hook = self.plain;
        let mut configuration = web_stomp(hook, setup.auth_cache);
        let [port] = free_ports();
        if let Some(folder) = &self.certificates {
            configuration += &web_stomp_tls(port, folder.path());
        }
        let amqp = self
            .start_rabbitmq(WEB_STOMP_PLUGINS, &configuration)
            .await?;
        let url = self
            .rabbitmq
            .as_ref()
            .map(RabbitMq::web_stomp_url)
            .unwrap_or_default();
        let address = url.trim_start_matches("ws://").trim_end_matches("/ws");
        self.plain = address.parse()?;
        self.websockets = match self.certificates {
            Some(_) => vec![SocketAddr::from(([127, 0, 0, 1], port))],
            None => vec![self.plain],
        };
        self.publish = Publish::Amqp(amqp);
        Ok(())
    }

    async fn start_gateways(&mut self, setup: &Setup, amqp: Option<SocketAddr>) -> Result<()> {
        let hook = self.plain;
        for number in 0..setup.nodes {
            if setup.nodes > 1 {
                progress::show(&format!("starting gateway {number} of {}", setup.nodes));
            }
            let mut builder = gateway(setup, amqp, hook)?;
            if let Some(folder) = &self.certificates {
                builder = builder.tls(folder.path());
            }
            let gateway = builder.ready().await;
            let addresses = gateway.addresses();
            let plain = addresses.http.as_deref().unwrap_or_default().parse()?;
            self.websockets.push(match &addresses.https {
                Some(secure) => secure.parse()?,
                None => plain,
            });
            if number == 0 {
                self.plain = plain;
            }
            self.gateways.push(gateway);
        }
        Ok(())
    }

    async fn start_nats(&mut self, setup: &Setup) -> Result<()> {
        ensure!(
            setup.nodes == 1 && !setup.tls,
            "nats-server is measured as one node, without TLS"
        );
        let mut configuration = tempfile::NamedTempFile::new()?;
        configuration.write_all(NATS_CONFIGURATION.as_bytes())?;
        let mut command = Command::new(NATS);
        command.arg("--config").arg(configuration.path());
        let process = Process::start("nats-server", &mut command, Stdio::null())
            .with_context(|| format!("{NATS} (Debian's package nats-server)"))?;
        let deadline = std::time::Duration::from_secs(30);
        let found = eventually(deadline, "nats-server listens", async || {
            let find = |what: &'static str| {
                process
                    .stderr()
                    .find(|line| line.split_once(what)?.1.trim().parse::<SocketAddr>().ok())
            };
            find("websocket clients on ws://").zip(find("client connections on "))
        });
        let (websocket, clients) = found.await;
        self.plain = websocket;
        self.websockets = vec![websocket];
        self.publish = Publish::Nats(clients);
        self.nats = Some(process);
        Ok(())
    }

    /// The addresses for clients.
    pub(crate) fn websockets(&self) -> &[SocketAddr] {
        &self.websockets
    }

    /// The address for publishers; `stomp`: over STOMP, even if there is another way.
    pub(crate) const fn publish(&self, stomp: bool) -> Publish {
        if stomp {
            Publish::Stomp(self.plain)
        } else {
            self.publish
        }
    }

    /// The authority of the servers' certificates, if clients connect by TLS.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        let folder = self.certificates.as_ref()?;
        Some(folder.path().join("ca.pem"))
    }

    /// The first gateway.
    pub(crate) fn gateway(&self) -> Option<&Gateway> {
        self.gateways.first()
    }

    /// Kills a gateway, as `kill -9` does. Those after it move up.
    pub(crate) fn kill(&mut self, gateway: usize) {
        if gateway < self.gateways.len() {
            self.gateways.remove(gateway);
            self.websockets.remove(gateway);
        }
    }

    /// The RabbitMQ, if there is one.
    pub(crate) const fn rabbitmq(&self) -> Option<&RabbitMq> {
        self.rabbitmq.as_ref()
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Vec<(Role, u32)> {
        let gateways = self.gateways.iter().map(|gateway| gateway.process().id());
        let rabbitmq = self.rabbitmq.iter().flat_map(RabbitMq::pids);
        gateways
            .map(|pid| (Role::Gateway, pid))
            .chain(rabbitmq.map(|pid| (Role::Rabbitmq, pid)))
            .chain(self.nats.iter().map(|nats| (Role::Nats, nats.id())))
            .chain([(Role::Hook, self.hook.id())])
            .collect()
    }

    /// `2.9.10`, from its log.
    pub(crate) fn nats_version(&self) -> Option<String> {
        let log = self.nats.as_ref()?.stderr();
        log.find(|line| Some(line.split_once("Version:")?.1.trim().to_owned()))
    }

    /// `RabbitMQ 3.10.8 on Erlang 25`, from its log.
    pub(crate) fn rabbitmq_version(&self) -> Option<String> {
        let log = self.rabbitmq.as_ref()?.log();
        let line = log
            .lines()
            .find(|line| line.contains("Starting RabbitMQ"))?;
        let (_, version) = line.split_once("Starting ")?;
        let (version, _) = version.split_once(" [").unwrap_or((version, ""));
        Some(version.trim().to_owned())
    }
}

/// The hook's calls.
const CALLS: [&str; 4] = ["user", "vhost", "resource", "topic"];

const NATS: &str = "nats-server";

/// Free ports, and nothing compressed, as with the others.
const NATS_CONFIGURATION: &str = r#"
listen: "127.0.0.1:-1"
websocket { listen: "127.0.0.1:-1", no_tls: true, compression: false }
"#;

const WEB_STOMP_PLUGINS: &[&str] = &[
    "rabbitmq_web_stomp",
    "rabbitmq_auth_backend_http",
    "rabbitmq_auth_backend_cache",
];

/// A line in the log for each connection is left out, here as in the gateway.
const QUIET: &str = "log.connection.level = warning\n";

/// RabbitMQ's own account stays internal, for the publisher; all others are the hook's.
fn web_stomp(hook: SocketAddr, cache: bool) -> String {
    let backend = if cache { "cache" } else { "http" };
    let urls = CALLS.map(|call| format!("auth_http.{call}_path = http://{hook}/auth/{call}\n"));
    format!(
        "{QUIET}\
         auth_backends.1 = internal\n\
         auth_backends.2 = {backend}\n\
         auth_cache.cached_backend = http\n\
         auth_cache.cache_ttl = 15000\n\
         auth_http.http_method = get\n\
         {}",
        urls.concat()
    )
}

/// Its Web STOMP over TLS, with the same certificate as the gateway's.
fn web_stomp_tls(port: u16, folder: &Path) -> String {
    let file = |name| folder.join(name).display().to_string();
    format!(
        "web_stomp.ssl.port = {port}\n\
         web_stomp.ssl.backlog = 1024\n\
         web_stomp.ssl.certfile = {}\n\
         web_stomp.ssl.keyfile = {}\n\
         web_stomp.ssl.cacertfile = {}\n",
        file("chain.pem"),
        file("key.pem"),
        file("ca.pem")
    )
}

/// A folder with a certificate for servers here, and who signed it.
fn certificates() -> Result<TempDir> {
    let folder = TempDir::with_prefix("stentor-bench-")?;
    keeper::remove(folder.path());
    Authority::new().serve_from(folder.path(), "stentor-bench");
    Ok(folder)
}

fn gateway(
    setup: &Setup,
    amqp: Option<SocketAddr>,
    hook: SocketAddr,
) -> Result<testkit::GatewayBuilder> {
    let program = &setup.stentor;
    ensure!(
        program.is_file(),
        "there is no {}: build it (cargo build --release --workspace --bins), or name it by \
         --stentor",
        program.display()
    );
    let program = program.to_str().context("the gateway's path is no UTF-8")?;
    let url = amqp.map_or("embedded:".into(), |amqp| {
        format!("amqp://guest:guest@{amqp}")
    });
    let mut builder = Gateway::builder(program)
        .set("broker.url", url)
        .set("broker.exchanges", "feed=direct")
        .set("feed.durable", setup.durable)
        .set("log.level", "info,stentor::connection=warn");
    for call in CALLS {
        let url = format!("http://{hook}/auth/{call}");
        builder = builder.set(&format!("auth.{call}_path"), url);
    }
    for (key, value) in &setup.settings {
        builder = builder.set(key, value);
    }
    if let Some(threads) = setup.threads {
        builder = builder.env("TOKIO_WORKER_THREADS", threads);
    }
    Ok(builder)
}

/// This program again, as a hook that allows everything: a process of its own, so that its
/// processor time is seen apart.
async fn start_hook() -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(this_program()?);
    command.arg("hook");
    let process = Process::start("hook", &mut command, Stdio::piped()).context("the hook")?;
    let deadline = std::time::Duration::from_secs(30);
    let address = eventually(deadline, "the hook listens", async || {
        process
            .stdout()
            .find(|line| line.strip_prefix(hook::LISTENING)?.parse().ok())
    })
    .await;
    Ok((process, address))
}
