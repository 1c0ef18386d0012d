//! A Redis Cluster: three masters, and a replica of each.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use tokio::sync::OnceCell;

use super::{BUS_PORT, Redis};
use crate::{DEADLINE, Process, eventually};

/// Three masters and three replicas. A replica takes over a second after its master was silent.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<Redis>,
}

const OPTIONS: [&str; 10] = [
    "--save",
    "",
    "--cluster-enabled",
    "yes",
    "--cluster-port",
    BUS_PORT,
    "--cluster-node-timeout",
    "1000",
    "--cluster-replica-validity-factor",
    "0",
];

impl RedisCluster {
    /// The one that all tests of this process share.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<RedisCluster>> = OnceCell::const_new();
        let all = SHARED.get_or_init(async || Arc::new(Self::own().await));
        Arc::clone(all.await)
    }

    /// One of the test's own.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own() -> Self {
        let mut servers = Vec::new();
        for _ in 0..6 {
            servers.push(Redis::with(&OPTIONS).await);
        }
        let cluster = Self { servers };
        let addresses = cluster.addresses();
        cluster.made_of(Vec::new(), addresses).await
    }

    /// One of the test's own, whose servers speak TLS among each other and with clients, by the
    /// `chain.pem` and `key.pem` of a folder, and demand certificates that the `ca.pem` there
    /// vouches for. See [`Self::tls_addresses`].
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own_with_tls(folder: &Path) -> Self {
        let tls = ["--tls-cluster", "yes", "--tls-replication", "yes"];
        let mut servers = Vec::new();
        for _ in 0..6 {
            servers.push(Redis::with_tls_and(folder, &[&OPTIONS[2..], &tls].concat()).await);
        }
        let cluster = Self { servers };
        let file = |name: &str| folder.join(name).display().to_string();
        let [chain, key, ca] = ["chain.pem", "key.pem", "ca.pem"].map(file);
        let tls = ["--tls", "--cert", &chain, "--key", &key, "--cacert", &ca];
        let addresses = cluster.tls_addresses();
        let tls = tls.map(str::to_owned).to_vec();
        cluster.made_of(tls, addresses).await
    }

    /// The servers become a cluster: by these options of redis-cli, at these addresses.
    async fn made_of(self, mut arguments: Vec<String>, addresses: Vec<String>) -> Self {
        let cluster = self;
        arguments.extend(["--cluster", "create"].map(str::to_owned));
        arguments.extend(addresses);
        let more = ["--cluster-replicas", "1", "--cluster-yes"];
        arguments.extend(more.map(str::to_owned));
        cli(&arguments).await;
        for server in &cluster.servers {
            eventually(DEADLINE, "a node knows all of the cluster", async || {
                let info = server.ask(&["CLUSTER", "INFO"]).await?;
                let replication = server.ask(&["INFO", "replication"]).await?;
                let follows = replication.contains("master_link_status:up")
                    || replication.contains("connected_slaves:1");
                let is_known = info.contains("cluster_state:ok")
                    && info.contains("cluster_known_nodes:6")
                    && info.contains("cluster_size:3");
                (is_known && follows).then_some(())
            })
            .await;
        }
        cluster
    }

    /// `redis://127.0.0.1:PORT/` of one node.
    #[must_use]
    pub fn url(&self) -> String {
        self.servers[0].url()
    }

    /// `127.0.0.1:PORT` of each node.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(Redis::address).collect()
    }

    /// The same, for TLS.
    #[must_use]
    pub fn tls_addresses(&self) -> Vec<String> {
        self.servers.iter().map(Redis::tls_address).collect()
    }

    /// All servers.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// The servers that are masters now.
    pub async fn masters(&self) -> Vec<&Redis> {
        let mut masters = Vec::new();
        for server in self.servers.iter().filter(|server| server.runs()) {
            let role = server.ask(&["ROLE"]).await;
            if role.is_some_and(|role| role.contains("master")) {
                masters.push(server);
            }
        }
        masters
    }

    /// Moves so many slots from one master to another, with their keys.
    ///
    /// # Panics
    /// They cannot be moved.
    pub async fn move_slots(&self, from: &Redis, to: &Redis, slots: usize) {
        let (from_id, to_id) = (id(from).await, id(to).await);
        let slots = slots.to_string();
        let arguments = [
            "--cluster",
            "reshard",
            &from.address(),
            "--cluster-from",
            &from_id,
            "--cluster-to",
            &to_id,
            "--cluster-slots",
            &slots,
            "--cluster-yes",
        ];
        // After a move it takes the nodes a moment to agree, and before that none is made.
        let check = ["--cluster", "check", &from.address()].map(str::to_owned);
        eventually(DEADLINE, "the nodes agree", async || {
            try_cli(&check).await.is_ok()
        })
        .await;
        cli(&arguments.map(str::to_owned)).await;
    }
}

/// How a node is called in the cluster.
async fn id(server: &Redis) -> String {
    let reply = server.command(&["CLUSTER", "MYID"]).await;
    reply.lines().last().unwrap_or_default().to_owned()
}

async fn cli(arguments: &[String]) {
    if let Err(output) = try_cli(arguments).await {
        panic!("{output}");
    }
}

/// The program's output, if it fails.
async fn try_cli(arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new("redis-cli");
    command.args(arguments);
    let process =
        Process::start("redis-cli", &mut command, Stdio::null()).expect("redis-cli is installed");
    let status = process.wait(2 * DEADLINE).await;
    if status.success() {
        Ok(())
    } else {
        Err(process.output())
    }
}
