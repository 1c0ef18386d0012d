//! The servers that are measured, on private ports: RabbitMQ with or without Web STOMP, gateways,
//! and the hook that both ask.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use testkit::{Gateway, Process, RabbitMq, eventually};

use crate::{hook, orders::Publish, worker};

/// Who is measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// Stentor, with RabbitMQ behind it
    Stentor,
    /// RabbitMQ's own Web STOMP plug-in
    WebStomp,
    /// Stentor with its embedded broker, published to over STOMP
    Embedded,
}

impl Server {
    /// As on the command line, and in the names of files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stentor => "stentor",
            Self::WebStomp => "web-stomp",
            Self::Embedded => "embedded",
        }
    }
}

/// How the servers are set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) server: Server,
    /// The gateway's program.
    pub(crate) stentor: PathBuf,
    /// Gateways on the one RabbitMQ; Web STOMP is RabbitMQ itself.
    pub(crate) nodes: usize,
    /// Stentor's `feed.durable`.
    pub(crate) durable: bool,
    /// RabbitMQ remembers what the hook permits, as Stentor always does.
    pub(crate) auth_cache: bool,
    /// Further settings of the gateway, such as `feed.shards=1`.
    pub(crate) settings: Vec<(String, String)>,
}

impl Setup {
    /// What of it sets a case apart.
    pub(crate) fn note(&self) -> String {
        let mut note = String::new();
        if self.nodes > 1 {
            note.push_str(&format!(" {} nodes", self.nodes));
        }
        if !self.durable {
            note.push_str(" transient feeds");
        }
        for (key, value) in &self.settings {
            note.push_str(&format!(" {key}={value}"));
        }
        note
    }
}

/// What a process is there for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// A gateway.
    Gateway,
    /// RabbitMQ, Web STOMP included.
    Rabbitmq,
    /// The application's hook.
    Hook,
    /// The load.
    Client,
}

/// Running servers. Dropped, they are ended.
pub(crate) struct Servers {
    rabbitmq: Option<RabbitMq>,
    gateways: Vec<Gateway>,
    hook: Process,
    websockets: Vec<SocketAddr>,
    publish: Publish,
}

impl Servers {
    /// Starts all, and waits until they serve.
    ///
    /// # Errors
    /// A program is missing. What else can fail is a fixture, which panics and says why.
    pub(crate) async fn start(setup: &Setup) -> Result<Self> {
        let (hook, hook_address) = start_hook().await?;
        let rabbitmq = match setup.server {
            Server::Embedded => None,
            Server::Stentor => Some(RabbitMq::own_bare(&[], QUIET).await),
            Server::WebStomp => {
                let configuration = web_stomp(hook_address, setup.auth_cache);
                Some(RabbitMq::own_bare(WEB_STOMP_PLUGINS, &configuration).await)
            }
        };
        let amqp = rabbitmq.as_ref().map(|node| node.amqp_address().parse());
        let amqp: Option<SocketAddr> = amqp.transpose()?;
        if let Some(amqp) = amqp {
            worker::declare_exchange(amqp).context("declaring the exchange")?;
        }
        let mut gateways = Vec::new();
        let mut websockets = Vec::new();
        if let (Server::WebStomp, Some(node)) = (setup.server, &rabbitmq) {
            let url = node.web_stomp_url();
            let address = url.trim_start_matches("ws://").trim_end_matches("/ws");
            websockets.push(address.parse()?);
        } else {
            for _ in 0..setup.nodes {
                let gateway = gateway(setup, amqp, hook_address)?.ready().await;
                let address = gateway.addresses().http.as_deref().unwrap_or_default();
                websockets.push(address.parse()?);
                gateways.push(gateway);
            }
        }
        let publish = match (amqp, websockets.as_slice()) {
            (Some(amqp), _) => Publish::Amqp(amqp),
            (None, &[only]) => Publish::Stomp(only),
            (None, _) => bail!("the embedded broker is one node's: use --nodes 1"),
        };
        Ok(Self {
            rabbitmq,
            gateways,
            hook,
            websockets,
            publish,
        })
    }

    /// Where clients connect.
    pub(crate) fn websockets(&self) -> &[SocketAddr] {
        &self.websockets
    }

    /// Where publishers connect.
    pub(crate) const fn publish(&self) -> Publish {
        self.publish
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Vec<(Role, u32)> {
        let gateways = self.gateways.iter().map(|gateway| gateway.process().id());
        let rabbitmq = self.rabbitmq.iter().flat_map(RabbitMq::pids);
        gateways
            .map(|pid| (Role::Gateway, pid))
            .chain(rabbitmq.map(|pid| (Role::Rabbitmq, pid)))
            .chain([(Role::Hook, self.hook.id())])
            .collect()
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
    let url = |path| format!("http://{hook}/auth/{path}");
    format!(
        "{QUIET}\
         auth_backends.1 = internal\n\
         auth_backends.2 = {backend}\n\
         auth_cache.cached_backend = http\n\
         auth_cache.cache_ttl = 15000\n\
         auth_http.http_method = get\n\
         auth_http.user_path = {}\n\
         auth_http.vhost_path = {}\n\
         auth_http.resource_path = {}\n\
         auth_http.topic_path = {}\n",
        url("user"),
        url("vhost"),
        url("resource"),
        url("topic")
    )
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
        .set("auth.user_path", format!("http://{hook}/auth/user"))
        .set("auth.vhost_path", format!("http://{hook}/auth/vhost"))
        .set("auth.resource_path", format!("http://{hook}/auth/resource"))
        .set("auth.topic_path", format!("http://{hook}/auth/topic"))
        .set("log.level", "info,stentor::connection=warn");
    for (key, value) in &setup.settings {
        builder = builder.set(key, value);
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
    });
    let address = address.await;
    Ok((process, address))
}

/// The path of this program.
///
/// # Errors
/// The system does not tell.
pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("the path of this program")
}

/// A program that was built along with this one.
///
/// # Errors
/// The system does not tell where this one is.
pub(crate) fn sibling(name: &str) -> Result<PathBuf> {
    let this = this_program()?;
    Ok(this.parent().unwrap_or(Path::new("")).join(name))
}
