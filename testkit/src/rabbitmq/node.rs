//! A private node: its folder, its ports, its processes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{Api, Vhost};
use crate::{Process, eventually, free_ports, keeper, unique};

/// A node needs some five seconds of a free core; tests share theirs with compilers.
const START: Duration = Duration::from_secs(240);
const STOP: Duration = Duration::from_secs(60);

/// Debian's folder of the scripts that run as their caller (those in `sbin` switch users);
/// `TESTKIT_RABBITMQ_BIN` names another folder.
const BIN: &str = "/usr/lib/rabbitmq/bin";

/// Web STOMP stays in for comparisons: it adds next to nothing to the time a node takes to start.
const PLUGINS: &[&str] = &[
    "rabbitmq_management",
    "rabbitmq_stomp",
    "rabbitmq_web_stomp",
];

/// Statistics that are fresh enough for tests.
const MANAGEMENT: &str = "collect_statistics_interval = 1000\n";

/// A private RabbitMQ node with its management, STOMP and Web STOMP plug-ins; user and password
/// are `guest`. Its data are removed at the end.
#[derive(Debug)]
pub struct RabbitMq {
    name: String,
    folder: TempDir,
    ports: Ports,
    /// Finds nodes by name; each node or cluster has its own, in the foreground, so that it ends with
    /// it.
    epmd: Arc<Epmd>,
    /// The Erlang machine, while it runs.
    beam: Mutex<Option<Process>>,
}

/// What a node is to others.
pub(super) struct Member {
    /// `name@localhost`
    pub(super) name: String,
    pub(super) epmd: Arc<Epmd>,
    pub(super) epmd_port: u16,
    /// What the nodes of a cluster know each other by; `None`: nobody else needs to know it.
    pub(super) cookie: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    management: u16,
    stomp: u16,
    web_stomp: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitMq {
    /// The node that all tests of this process share, each in a virtual host of its own
    /// ([`Self::vhost`]). The first test starts it.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<RabbitMq>> = OnceCell::const_new();
        let node = SHARED.get_or_init(async || Arc::new(Self::own().await));
        Arc::clone(node.await)
    }

    /// A node of the test's own, to stop and to kill.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own() -> Self {
        Self::own_with("").await
    }

    /// A node of the test's own, with further lines of `rabbitmq.conf`.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own_with(configuration: &str) -> Self {
        Self::own_bare(PLUGINS, &format!("{MANAGEMENT}{configuration}")).await
    }

    /// As [`Self::own_with`], with these plug-ins only. Without `rabbitmq_management` there is no
    /// [`Self::api`], and so no [`Self::vhost`].
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own_bare(plugins: &[&str], configuration: &str) -> Self {
        let mut why = String::new();
        for _ in 0..3 {
            let [epmd_port] = free_ports();
            let alone = Member {
                name: format!("{}@localhost", unique("testkit")),
                epmd: Arc::new(Epmd::Program(start_epmd(epmd_port))),
                epmd_port,
                cookie: None,
            };
            let node = Self::prepare(alone, plugins, configuration);
            match node.try_start().await {
                Ok(()) => return node,
                Err(error) => why = error,
            }
        }
        panic!("RabbitMQ did not start in three attempts; the last one:\n{why}")
    }

    /// A node of the test's own whose only transient queues are those that end with their
    /// connection; and true if it is one: RabbitMQ 3 cannot be told to refuse the others.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own_without_transient_queues() -> (Self, bool) {
        let can = major() >= 4;
        let switch = "deprecated_features.permit.transient_nonexcl_queues = false\n";
        let node = Self::own_with(if can { switch } else { "" }).await;
        (node, can)
    }

    /// A node of the test's own that permits all deprecated features, and true if it can tell which
    /// were used: RabbitMQ 3.10 cannot.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own_with_deprecated_features() -> (Self, bool) {
        (Self::own().await, major() >= 4 && !is_strict())
    }

    /// A fresh virtual host.
    ///
    /// # Panics
    /// The node does not answer.
    pub async fn vhost(self: &Arc<Self>) -> Vhost {
        let name = unique("t");
        self.api().add_vhost(&name).await;
        Vhost::new(Arc::clone(self), name)
    }

    /// The virtual host that every node has. Tests that share a node leave it alone.
    #[must_use]
    pub fn default_vhost(self: &Arc<Self>) -> Vhost {
        Vhost::new(Arc::clone(self), "/".to_owned())
    }

    /// A fresh virtual host whose queues are classic ones by default, whatever the node's default.
    ///
    /// # Panics
    /// The node does not answer.
    pub async fn vhost_of_classic_queues(self: &Arc<Self>) -> Vhost {
        match is_strict() {
            true => self.vhost_of("classic").await,
            false => self.vhost().await,
        }
    }

    /// A fresh virtual host where queues are of this type unless their declaration says so.
    ///
    /// # Panics
    /// The node does not answer.
    pub async fn vhost_of(self: &Arc<Self>, kind: &str) -> Vhost {
        let name = unique("t");
        let arguments = ["add_vhost", &name, "--default-queue-type", kind];
        self.ctl(&arguments).await;
        self.api().allow(&name, "guest", [".*", ".*", ".*"]).await;
        Vhost::new(Arc::clone(self), name)
    }

    /// The management plug-in's HTTP API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(self.ports.management)
    }

    /// The AMQP address of a virtual host, for user `guest`.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        amqp_url(&self.amqp_address(), vhost)
    }

    /// `127.0.0.1:PORT` of AMQP.
    #[must_use]
    pub fn amqp_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.amqp)
    }

    /// `127.0.0.1:PORT` of RabbitMQ's own STOMP plug-in.
    #[must_use]
    pub fn stomp_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.stomp)
    }

    /// `127.0.0.1:PORT` of its management plug-in.
    #[must_use]
    pub fn management_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.management)
    }

    /// `ws://127.0.0.1:PORT/ws` of RabbitMQ's own Web STOMP plug-in.
    #[must_use]
    pub fn web_stomp_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.ports.web_stomp)
    }

    /// Its processes, while they run: the Erlang machine, and what finds it by name.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let beam = self.lock().as_ref().map(Process::id);
        beam.into_iter().chain(self.epmd.id()).collect()
    }

    /// The folder of its data, log and configuration.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops the node as an operator would: clients are told, durable things are kept.
    ///
    /// # Panics
    /// It does not stop.
    pub async fn stop(&self) {
        let beam = self.lock().take();
        if let Some(beam) = beam {
            beam.signal("TERM");
            beam.wait(STOP).await;
        }
    }

    /// Kills the node as a power cut would.
    pub fn kill(&self) {
        self.lock().take();
    }

    /// Starts the node again, at the same addresses and with the same data.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(&self) {
        if let Err(error) = self.try_start().await {
            panic!("RabbitMQ did not start again:\n{error}");
        }
    }

    /// [`Self::stop`], then [`Self::start`].
    ///
    /// # Panics
    /// It does not stop, or does not start.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// Runs `rabbitmqctl`: `stop_app`, `start_app`, `set_vm_memory_high_watermark`, … It takes
    /// a second or more; [`Self::api`] is faster for its own operations.
    ///
    /// # Panics
    /// It fails.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = self.command("rabbitmqctl");
        command.args(arguments);
        let process = Process::start("rabbitmqctl", &mut command, Stdio::null())
            .unwrap_or_else(|error| panic!("rabbitmqctl: {error}"));
        let status = process.wait(START).await;
        assert!(status.success(), "{arguments:?}\n{}", process.output());
        process.stdout().text()
    }

    /// Its name, `name@localhost`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was started, and neither stopped nor killed since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    /// This node's view of a virtual host of its cluster.
    #[must_use]
    pub fn its_vhost(self: &Arc<Self>, name: &str) -> Vhost {
        Vhost::new(Arc::clone(self), name.to_owned())
    }

    /// The node's own log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log/node.log")).unwrap_or_default()
    }

    pub(super) fn prepare(member: Member, plugins: &[&str], configuration: &str) -> Self {
        let bin = bin();
        assert!(
            bin.join("rabbitmq-server").exists(),
            "RabbitMQ is not installed (no rabbitmq-server in {}): run ./scripts/test.sh, which \
             installs it, or set TESTKIT_RABBITMQ_BIN",
            bin.display()
        );
        let folder = TempDir::with_prefix("testkit-rabbitmq-").expect("a temporary folder");
        keeper::remove(folder.path());
        let [amqp, management, stomp, web_stomp, distribution] = free_ports();
        let ports = Ports {
            amqp,
            management,
            stomp,
            web_stomp,
            distribution,
            epmd: member.epmd_port,
        };
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("a file in the temporary folder");
        };
        let configuration = ports.configuration(plugins) + configuration + &appended();
        write("rabbitmq.conf", &configuration);
        write("enabled_plugins", &format!("[{}].", plugins.join(",")));
        write("rabbitmq-env.conf", "");
        if let Some(cookie) = member.cookie {
            write(".erlang.cookie", cookie);
            let file = folder.path().join(".erlang.cookie");
            // Erlang takes no other.
            fs::set_permissions(file, fs::Permissions::from_mode(0o400)).expect("its own file");
        }
        Self {
            name: member.name,
            folder,
            ports,
            epmd: member.epmd,
            beam: Mutex::default(),
        }
    }

    /// Fails with what the node said.
    pub(super) async fn try_start(&self) -> Result<(), String> {
        assert!(self.lock().is_none(), "the node runs already");
        let said_before = self.log().len();
        let beam = Process::start(
            "rabbitmq-server",
            &mut self.command("rabbitmq-server"),
            Stdio::null(),
        )
        .map_err(|error| error.to_string())?;
        let up = eventually(START, "RabbitMQ is up, or ends", async || {
            if beam.exit_status().is_some() {
                return Some(false);
            }
            let log = self.log();
            let new = log.get(said_before..).unwrap_or_default();
            new.contains("Server startup complete").then_some(true)
        })
        .await;
        if !up {
            return Err(format!(
                "{}\n{}\n{}",
                beam.output(),
                self.epmd.output(),
                self.log()
            ));
        }
        *self.lock() = Some(beam);
        Ok(())
    }

    /// One of RabbitMQ's scripts, with an environment that knows nothing of the system's node.
    fn command(&self, script: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(bin().join(script));
        command
            .env_clear()
            .current_dir(folder)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("HOME", folder)
            // The script becomes the Erlang machine instead of waiting for it; nothing else
            // reads this variable.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            // Each node would bind its schedulers to the same cores, beginning with the first.
            .env("RABBITMQ_SCHEDULER_BIND_TYPE", "u")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                folder.join("enabled_plugins"),
            )
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.beam.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ports {
    /// A plug-in that is not enabled may not be configured.
    fn configuration(self, plugins: &[&str]) -> String {
        let Self {
            amqp,
            management,
            stomp,
            web_stomp,
            ..
        } = self;
        let mut lines = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
             log.console = false\n\
             log.file = node.log\n\
             disk_free_limit.absolute = 200MB\n\
             vm_memory_high_watermark.relative = 0.7\n"
        );
        for (plugin, its_lines) in [
            (
                "rabbitmq_management",
                format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n"),
            ),
            (
                "rabbitmq_stomp",
                format!("stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n"),
            ),
            (
                "rabbitmq_web_stomp",
                format!("web_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {web_stomp}\n"),
            ),
        ] {
            if plugins.contains(&plugin) {
                lines.push_str(&its_lines);
            }
        }
        lines
    }
}

/// What finds nodes by name.
#[derive(Debug)]
pub(super) enum Epmd {
    /// Erlang's own.
    Program(Process),
    /// One that can part them, which the cluster has.
    Crossing,
}

impl Epmd {
    fn id(&self) -> Option<u32> {
        match self {
            Self::Program(process) => Some(process.id()),
            Self::Crossing => None,
        }
    }

    fn output(&self) -> String {
        match self {
            Self::Program(process) => process.output(),
            Self::Crossing => String::new(),
        }
    }
}

/// Starts Erlang's own.
fn start_epmd(port: u16) -> Process {
    // A RabbitMQ from `scripts/rabbitmq.sh` has its own.
    let epmd = Some(bin().join("epmd")).filter(|epmd| epmd.exists());
    let mut command = Command::new(epmd.unwrap_or_else(|| "epmd".into()));
    command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
    Process::start("epmd", &mut command, Stdio::null())
        .unwrap_or_else(|error| panic!("epmd, a part of Erlang, cannot be started: {error}"))
}

/// The AMQP address of a virtual host at `address`, which may be that of a proxy.
pub(super) fn amqp_url(address: &str, vhost: &str) -> String {
    let vhost: String = url::form_urlencoded::byte_serialize(vhost.as_bytes()).collect();
    format!("amqp://guest:guest@{address}/{vhost}")
}

/// Which RabbitMQ it is: 3, 4, …
fn major() -> u32 {
    let home = TempDir::with_prefix("testkit-rabbitmqctl-").expect("a temporary folder");
    let output = Command::new(bin().join("rabbitmqctl"))
        .arg("version")
        .env("HOME", home.path())
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .output()
        .unwrap_or_else(|error| panic!("rabbitmqctl: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().last().unwrap_or_default().trim();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    major.unwrap_or_else(|| panic!("rabbitmqctl version: {output:?}"))
}

/// Whether nodes deny every deprecated feature and make quorum queues by default
/// (`./scripts/test.sh --strict`). The management plug-in then has no figures.
#[must_use]
pub fn is_strict() -> bool {
    appended().contains("management_metrics_collection = false")
}

/// Lines for every node's configuration: those of the file that `TESTKIT_RABBITMQ_CONF` names.
fn appended() -> String {
    let Some(file) = std::env::var_os("TESTKIT_RABBITMQ_CONF") else {
        return String::new();
    };
    let lines = fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("TESTKIT_RABBITMQ_CONF, {}: {error}", file.display()));
    format!("\n{lines}\n")
}

fn bin() -> PathBuf {
    std::env::var_os("TESTKIT_RABBITMQ_BIN").map_or_else(|| Path::new(BIN).to_owned(), Into::into)
}
