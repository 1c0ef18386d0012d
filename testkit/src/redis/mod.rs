//! Private Redis servers: alone, watched by Sentinels, and as clusters.

mod cluster;
mod sentinels;

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OnceCell,
    time::timeout,
};

pub use cluster::RedisCluster;
pub use sentinels::RedisSentinels;

use crate::{DEADLINE, Process, eventually, free_ports, keeper};

/// A private Redis server that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    /// Besides the port; `{port}` and so on stand for free ports of its own.
    arguments: Vec<String>,
    more_ports: [u16; 2],
    folder: TempDir,
    server: Mutex<Option<Process>>,
    password: Mutex<Option<String>>,
}

/// In an argument: a port for TLS, and one for a cluster's bus.
const TLS_PORT: &str = "{tls-port}";
const BUS_PORT: &str = "{bus-port}";

impl Redis {
    /// The server that all tests of this process share. Tests use keys of their own
    /// ([`crate::unique`]).
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Redis>> = OnceCell::const_new();
        let server = SHARED.get_or_init(async || Arc::new(Self::own().await));
        Arc::clone(server.await)
    }

    /// A server of the test's own.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"]).await
    }

    /// One that speaks TLS, too, by the `chain.pem` and `key.pem` of a folder, and demands
    /// certificates that the `ca.pem` there vouches for. See [`Redis::tls_address`].
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn with_tls(folder: &Path) -> Self {
        Self::with_tls_and(folder, &[]).await
    }

    async fn with_tls_and(folder: &Path, more: &[&str]) -> Self {
        let file = |name: &str| folder.join(name).display().to_string();
        let [chain, key, ca] = ["chain.pem", "key.pem", "ca.pem"].map(file);
        let tls = [
            "--save",
            "",
            "--tls-port",
            TLS_PORT,
            "--tls-cert-file",
            &chain,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "yes",
        ];
        Self::with(&[&tls, more].concat()).await
    }

    async fn with(arguments: &[&str]) -> Self {
        let folder = TempDir::with_prefix("testkit-redis-").expect("a temporary folder");
        keeper::remove(folder.path());
        let mut redis = Self {
            port: 0,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            more_ports: [0; 2],
            folder,
            server: Mutex::default(),
            password: Mutex::default(),
        };
        for _ in 0..5 {
            [redis.port, redis.more_ports[0], redis.more_ports[1]] = free_ports();
            if redis.try_start().await {
                return redis;
            }
        }
        panic!("redis-server found no free port in five attempts")
    }

    /// `redis://127.0.0.1:PORT/`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    /// `127.0.0.1:PORT`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT`, for TLS.
    #[must_use]
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.more_ports[0])
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True until it is killed.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.lock().is_some()
    }

    /// Sends a signal, such as `STOP`.
    ///
    /// # Panics
    /// It was killed.
    pub fn signal(&self, signal: &str) {
        self.lock().as_ref().expect("it runs").signal(signal);
    }

    /// Cuts its replicas off, and lets them not come back: what is written from now on is lost with
    /// this server. Connections of clients stay.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn forsake_replicas(&self) {
        let password = "nobody-knows";
        self.command(&["CONFIG", "SET", "requirepass", password])
            .await;
        *self.password.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.to_owned());
        self.command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
        eventually(DEADLINE, "no replica is left", async || {
            let info = self.command(&["INFO", "replication"]).await;
            info.contains("connected_slaves:0")
        })
        .await;
    }

    /// Kills the server. Its data is lost.
    pub fn kill(&self) {
        self.lock().take();
    }

    /// Starts the server again, after [`Self::kill`], at the same address.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(&self) {
        assert!(self.try_start().await, "redis-server does not start again");
    }

    /// Sends one command and answers the first line of its reply, for the eyes of tests:
    /// `command(&["GET", "key"])`.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn command(&self, words: &[&str]) -> String {
        self.ask(words).await.expect("redis-server answers")
    }

    /// `None`: it does not answer.
    pub(crate) async fn ask(&self, words: &[&str]) -> Option<String> {
        let password = self
            .password
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let asking = async {
            let mut stream = TcpStream::connect(self.address()).await.ok()?;
            if let Some(password) = password {
                exchange(&mut stream, &["AUTH", &password]).await?;
            }
            exchange(&mut stream, words).await
        };
        timeout(Duration::from_secs(5), asking).await.ok()?
    }

    /// True if the server came up; it does not if another program took its port.
    async fn try_start(&self) -> bool {
        let mut command = Command::new("redis-server");
        let [tls, bus] = self.more_ports.map(|port| port.to_string());
        let arguments = self
            .arguments
            .iter()
            .map(|text| text.replace(TLS_PORT, &tls).replace(BUS_PORT, &bus));
        command
            .current_dir(self.folder.path())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--daemonize", "no"])
            // Else a first replica waits for others, five seconds long.
            .args(["--repl-diskless-sync-delay", "0"])
            .args(arguments);
        let server = match Process::start("redis-server", &mut command, Stdio::null()) {
            Ok(server) => server,
            Err(error) => panic!(
                "redis-server cannot be started ({error}): run ./scripts/test.sh, which installs it"
            ),
        };
        let up = eventually(DEADLINE, "redis-server answers or ends", async || {
            if server.exit_status().is_some() {
                return Some(false);
            }
            let pong = self.ask(&["PING"]).await?;
            // A stranger on the same port would answer too.
            (pong == "+PONG" && server.stdout().text().contains("Ready to accept")).then_some(true)
        })
        .await;
        if up {
            *self.lock() = Some(server);
        }
        up
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn exchange(stream: &mut TcpStream, words: &[&str]) -> Option<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = vec![0; 64 * 1024];
    let length = stream.read(&mut reply).await.ok()?;
    let reply = String::from_utf8_lossy(reply.get(..length)?).into_owned();
    Some(reply.trim_end().to_owned()).filter(|text| !text.is_empty())
}
