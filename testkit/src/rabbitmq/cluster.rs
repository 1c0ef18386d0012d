//! A private cluster of three nodes.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    RabbitMq,
    crossing::Crossing,
    node::{Epmd, Member},
};
use crate::{DEADLINE, eventually, free_ports, unique};

/// What a cluster's tests ask for queues and links by.
const PLUGINS: &[&str] = &["rabbitmq_management"];

/// Three RabbitMQ nodes of one cluster, on 127.0.0.1. They reach each other by a way that can be
/// closed ([`Cluster::cut_off`]). Two of them join the
/// first when they start for the first time. On versions that know it, the smaller part of a
/// partition pauses (`pause_minority`).
#[derive(Debug)]
pub struct Cluster {
    nodes: [Arc<RabbitMq>; 3],
    crossing: Crossing,
}

impl Cluster {
    /// Starts it, and waits until each node knows the others.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn start() -> Self {
        let mut why = String::new();
        for _ in 0..3 {
            match Self::try_start().await {
                Ok(cluster) => return cluster,
                Err(error) => why = error,
            }
        }
        panic!("no cluster in three attempts; the last one:\n{why}")
    }

    async fn try_start() -> Result<Self, String> {
        let [port] = free_ports();
        let crossing = Crossing::start(port).map_err(|error| error.to_string())?;
        let epmd = Arc::new(Epmd::Crossing);
        let names: [String; 3] =
            std::array::from_fn(|_| format!("{}@localhost", unique("testkit")));
        let [first, ..] = &names;
        let first = first.clone();
        let nodes = names.map(|name| {
            let configuration = configuration(&[&first, &name]);
            let member = Member {
                name,
                epmd: Arc::clone(&epmd),
                epmd_port: port,
                cookie: Some("testkit"),
            };
            Arc::new(RabbitMq::prepare(member, PLUGINS, &configuration))
        });
        // All at once would wait for each other's locks, which takes a minute on 3.10.
        let [one, two, three] = &nodes;
        one.try_start().await?;
        let (two, three) = tokio::join!(two.try_start(), three.try_start());
        two.and(three)?;
        let cluster = Self { nodes, crossing };
        cluster.until_whole().await;
        Ok(cluster)
    }

    /// Its nodes.
    #[must_use]
    pub const fn nodes(&self) -> &[Arc<RabbitMq>; 3] {
        &self.nodes
    }

    /// Starts the nodes that are down, and waits until each knows the others.
    ///
    /// # Panics
    /// One does not start.
    pub async fn repair(&self) {
        for node in &self.nodes {
            if !node.is_running() {
                node.start().await;
            }
        }
        self.until_whole().await;
    }

    async fn until_whole(&self) {
        for node in &self.nodes {
            let what = format!("{} knows all three nodes", node.name());
            eventually(4 * DEADLINE, what, async || {
                let nodes = node.api().try_get("/nodes").await?;
                let nodes = nodes.as_array()?.iter();
                let running = nodes.filter(|node| node["running"] == true).count();
                (running == self.nodes.len()).then_some(())
            })
            .await;
        }
    }

    /// Cuts the node off from the others: their connections are closed, and refused from now on by
    /// another cookie. Its clients still reach it.
    ///
    /// # Panics
    /// `rabbitmqctl` fails.
    pub async fn isolate(&self, node: &RabbitMq) {
        self.set_cookie(node, "apart").await;
        let disconnect = "[erlang:disconnect_node(Node) || Node <- nodes()].";
        node.ctl(&["eval", disconnect]).await;
    }

    /// Ends what [`Self::isolate`] began.
    ///
    /// # Panics
    /// `rabbitmqctl` fails.
    pub async fn rejoin(&self, node: &RabbitMq) {
        self.set_cookie(node, "testkit").await;
    }

    /// Cuts the node off from the others as a network does that drops packets: no connection is
    /// closed, and nothing comes any more. The nodes notice within ten seconds. Its clients still
    /// reach it.
    pub fn cut_off(&self, node: &RabbitMq) {
        self.crossing.cut(node.name());
    }

    /// Ends what [`Self::cut_off`] began.
    pub fn reconnect(&self) {
        self.crossing.heal();
    }

    async fn set_cookie(&self, node: &RabbitMq, cookie: &str) {
        let others = self.nodes.iter().filter(|one| one.name() != node.name());
        let names: Vec<_> = others.map(|one| format!("'{}'", one.name())).collect();
        let set = format!(
            "[erlang:set_cookie(Node, '{cookie}') || Node <- [{}]].",
            names.join(", ")
        );
        node.ctl(&["eval", &set]).await;
    }

    /// A node that runs, and that is none of these.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn other_than(&self, these: &[&RabbitMq]) -> &Arc<RabbitMq> {
        let is_other = |node: &&Arc<RabbitMq>| {
            node.is_running() && these.iter().all(|one| one.name() != node.name())
        };
        self.nodes.iter().find(is_other).expect("another node")
    }

    /// The queues of a virtual host by name, with the node that each is on: a quorum queue's leader.
    /// As a node that runs says.
    pub async fn queues(&self, vhost: &str) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let queues = self.other_than(&[]).api().queues(vhost).await;
        let place = |queue: &Value| match queue["leader"].is_string() {
            true => text(&queue["leader"]),
            false => text(&queue["node"]),
        };
        queues
            .iter()
            .map(|queue| (text(&queue["name"]), place(queue)))
            .collect()
    }
}

/// Of a node that joins the others of these when it starts for the first time.
fn configuration(nodes: &[&str]) -> String {
    let mut lines = "collect_statistics_interval = 1000\n\
         net_ticktime = 8\n\
         cluster_partition_handling = pause_minority\n\
         cluster_formation.peer_discovery_backend = classic_config\n\
         cluster_formation.discovery_retry_limit = 60\n\
         cluster_formation.discovery_retry_interval = 500\n"
        .to_owned();
    let mut nodes = nodes.to_vec();
    nodes.dedup();
    for (name, number) in nodes.iter().zip(1..) {
        let line = format!("cluster_formation.classic_config.nodes.{number} = {name}\n");
        lines.push_str(&line);
    }
    lines
}
