//! A Redis server, its replica, and three Sentinels that watch them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, sync::OnceCell};

use super::{Redis, exchange};
use crate::{DEADLINE, Process, eventually, free_ports, keeper};

/// Two Redis servers of which one is the master, and three Sentinels. They give a master up after
/// a second of silence.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: [Redis; 2],
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    port: u16,
    tls_port: u16,
    process: Process,
    _folder: TempDir,
}

impl RedisSentinels {
    /// The name under which the Sentinels know the master.
    pub const MASTER: &str = "mymaster";
    /// The password of the Sentinels.
    pub const PASSWORD: &str = "of-sentinels";

    /// Those that all tests of this process share.
    ///
    /// # Panics
    /// They cannot be started.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<RedisSentinels>> = OnceCell::const_new();
        let all = SHARED.get_or_init(async || Arc::new(Self::own().await));
        Arc::clone(all.await)
    }

    /// Those of the test's own.
    ///
    /// # Panics
    /// They cannot be started.
    pub async fn own() -> Self {
        let master = Redis::own().await;
        let port = master.port().to_string();
        let replica = Redis::with(&["--save", "", "--replicaof", "127.0.0.1", &port]).await;
        Self::watch(master, replica, &port, None).await
    }

    /// Those of the test's own, which speak TLS among each other and with clients, by the
    /// `chain.pem` and `key.pem` of a folder, and demand certificates that the `ca.pem` there
    /// vouches for. See [`Self::tls_addresses`].
    ///
    /// # Panics
    /// They cannot be started.
    pub async fn own_with_tls(folder: &Path) -> Self {
        let tls = ["--tls-replication", "yes"];
        let master = Redis::with_tls_and(folder, &tls).await;
        let address = master.tls_address();
        let port = address.rsplit(':').next().expect("a port");
        let follow = [&tls[..], &["--replicaof", "127.0.0.1", port]].concat();
        let replica = Redis::with_tls_and(folder, &follow).await;
        Self::watch(master, replica, port, Some(folder)).await
    }

    async fn watch(master: Redis, replica: Redis, port: &str, tls: Option<&Path>) -> Self {
        eventually(DEADLINE, "the replica follows", async || {
            let info = replica.ask(&["INFO", "replication"]).await?;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(port, tls).await);
        }
        let all = Self {
            servers: [master, replica],
            sentinels,
        };
        for sentinel in &all.sentinels {
            eventually(DEADLINE, "a Sentinel knows all others", async || {
                let quorum = sentinel
                    .ask(&["SENTINEL", "CKQUORUM", Self::MASTER])
                    .await?;
                let replicas = sentinel
                    .ask(&["SENTINEL", "REPLICAS", Self::MASTER])
                    .await?;
                let is_known = quorum.starts_with("+OK 3 ") && replicas.starts_with("*1");
                is_known.then_some(())
            })
            .await;
        }
        all
    }

    /// `redis://mymaster/`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", Self::MASTER)
    }

    /// `127.0.0.1:PORT` of each Sentinel.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let ports = self.sentinels.iter().map(|sentinel| sentinel.port);
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The same, for TLS.
    #[must_use]
    pub fn tls_addresses(&self) -> Vec<String> {
        let ports = self.sentinels.iter().map(|sentinel| sentinel.tls_port);
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The server that calls itself a master now, and the other.
    ///
    /// # Panics
    /// None does.
    pub async fn roles(&self) -> [&Redis; 2] {
        let [one, two] = &self.servers;
        eventually(DEADLINE, "one is the master", async || {
            for (server, other) in [(one, two), (two, one)] {
                let role = server.ask(&["ROLE"]).await;
                if role.is_some_and(|role| role.contains("master")) {
                    return Some([server, other]);
                }
            }
            None
        })
        .await
    }

    /// Lets the Sentinels swap the servers' roles, though both are well.
    ///
    /// # Panics
    /// They do not.
    pub async fn swap(&self) {
        let [_, replica] = self.roles().await;
        let answer = self.sentinels[0]
            .ask(&["SENTINEL", "FAILOVER", Self::MASTER])
            .await;
        assert_eq!(answer.as_deref(), Some("+OK"));
        eventually(DEADLINE, "the replica is the master", async || {
            let role = replica.ask(&["ROLE"]).await?;
            role.contains("master").then_some(())
        })
        .await;
    }
}

impl Sentinel {
    async fn start(master: &str, tls: Option<&Path>) -> Self {
        for _ in 0..5 {
            let folder = TempDir::with_prefix("testkit-sentinel-").expect("a temporary folder");
            keeper::remove(folder.path());
            let [port, tls_port] = free_ports();
            let (name, password) = (RedisSentinels::MASTER, RedisSentinels::PASSWORD);
            let text = format!(
                "port {port}\nbind 127.0.0.1\nrequirepass {password}\n\
                 sentinel sentinel-pass {password}\n\
                 sentinel monitor {name} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {name} 1000\n\
                 sentinel failover-timeout {name} 5000\n"
            );
            let tls = tls.map(|folder| {
                let folder = folder.display();
                format!(
                    "tls-port {tls_port}\ntls-replication yes\ntls-auth-clients yes\n\
                     tls-cert-file {folder}/chain.pem\ntls-key-file {folder}/key.pem\n\
                     tls-ca-cert-file {folder}/ca.pem\n"
                )
            });
            let text = tls.unwrap_or_default() + &text;
            let file = folder.path().join("sentinel.conf");
            fs::write(&file, text).expect("a folder to write to");
            let mut command = Command::new("redis-server");
            command
                .current_dir(folder.path())
                .arg(&file)
                .arg("--sentinel");
            let process = Process::start("sentinel", &mut command, Stdio::null());
            let sentinel = Self {
                port,
                tls_port,
                process: process.expect("redis-server can be started"),
                _folder: folder,
            };
            let up = eventually(DEADLINE, "a Sentinel answers or ends", async || {
                if sentinel.process.exit_status().is_some() {
                    return Some(false);
                }
                let pong = sentinel.ask(&["PING"]).await?;
                (pong == "+PONG").then_some(true)
            })
            .await;
            if up {
                return sentinel;
            }
        }
        panic!("a Sentinel found no free port in five attempts")
    }

    async fn ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        exchange(&mut stream, &["AUTH", RedisSentinels::PASSWORD]).await?;
        exchange(&mut stream, words).await
    }
}
