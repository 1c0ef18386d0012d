//! Three gateways, their shared servers, and a load balancer before them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{
    Answer, Call, DEADLINE, Gateway, GatewayBuilder, Hook, Login, Redis, StompClient, Vhost,
    eventually,
};
use tokio::net::TcpStream;

use crate::house::{PASSCODE, stentor, vhost};

/// The group that the hook says every user is in.
pub(super) const EVERYBODY: &str = "everybody";
pub(super) const NODES: usize = 3;
/// How long a killed node's users count as online.
pub(super) const LEASE: Duration = Duration::from_secs(2);

type Settings = Box<dyn Fn(usize, GatewayBuilder) -> GatewayBuilder + Send + Sync>;

pub(super) struct Cluster {
    pub(super) vhost: Vhost,
    pub(super) redis: Redis,
    pub(super) balancer: Arc<Balancer>,
    pub(super) hook: Hook,
    gateways: Vec<Gateway>,
    settings: Settings,
}

impl Cluster {
    /// All of them ready, with other settings than the default for each, by its place.
    pub(super) async fn open(
        settings: impl Fn(usize, GatewayBuilder) -> GatewayBuilder + Send + Sync + 'static,
    ) -> Self {
        Self::open_in(vhost().await, settings).await
    }

    pub(super) async fn open_in(
        vhost: Vhost,
        settings: impl Fn(usize, GatewayBuilder) -> GatewayBuilder + Send + Sync + 'static,
    ) -> Self {
        let hook = Hook::start().await;
        hook.answer(
            Call::Groups,
            Answer::Status(200, json!([EVERYBODY]).to_string()),
        );
        let mut cluster = Self {
            balancer: Arc::new(Balancer::new(vhost.name())),
            vhost,
            redis: Redis::own().await,
            gateways: Vec::new(),
            settings: Box::new(settings),
            hook,
        };
        cluster.gateways = join_all((0..NODES).map(|node| cluster.start(node))).await;
        for (node, gateway) in cluster.gateways.iter().enumerate() {
            cluster.balancer.put_in(node, gateway);
        }
        cluster
    }

    async fn start(&self, node: usize) -> Gateway {
        let builder = stentor()
            .vhost(&self.vhost)
            .hook(&self.hook)
            .set("auth.groups_path", self.hook.url(Call::Groups))
            .set("presence.url", self.redis.url())
            .set("presence.lease", format!("{}s", LEASE.as_secs()))
            .set("broker.reconnect_max", "500ms")
            .set("mailbox.max_messages", "100000")
            // As long as a load balancer needs to notice; and no longer, for it is a test.
            .set("shutdown.not_ready", "1s")
            .set("shutdown.drain", "500ms")
            .set("shutdown.grace", "20s");
        (self.settings)(node, builder).ready().await
    }

    pub(super) fn gateway(&self, node: usize) -> &Gateway {
        &self.gateways[node]
    }

    pub(super) fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// One client over TCP at this node, logged in.
    pub(super) async fn tcp(&self, node: usize, user: &str) -> StompClient {
        let mut client = StompClient::tcp(self.gateways[node].stomp_address()).await;
        client.connect(&self.balancer.login(user)).await;
        client
    }

    /// SIGTERM; the load balancer sees it and looks elsewhere; the node ends in good order, and
    /// one like it takes its place.
    pub(super) async fn restart(&mut self, node: usize) {
        let gateway = &self.gateways[node];
        self.balancer.watch(Some(node));
        gateway.process().signal("TERM");
        gateway.until_readyz(503).await;
        self.balancer.take_out(node);
        let status = gateway.process().wait(DEADLINE).await;
        assert_eq!(status.code(), Some(0), "{}", gateway.process().output());
        self.gateways[node] = self.start(node).await;
        self.balancer.put_in(node, &self.gateways[node]);
    }

    /// SIGKILL, and nobody in its place.
    pub(super) async fn kill(&self, node: usize) {
        self.balancer.watch(Some(node));
        self.balancer.take_out(node);
        self.gateways[node].kill().await;
    }

    /// A killed node gets one like it in its place.
    pub(super) async fn revive(&mut self, node: usize) {
        self.gateways[node] = self.start(node).await;
        self.balancer.put_in(node, &self.gateways[node]);
    }

    /// Waits until each of these nodes says that exactly these users are online.
    pub(super) async fn until_online(&self, nodes: &[usize], users: &[String]) {
        let mut users = users.to_vec();
        users.sort();
        for &node in nodes {
            let what = format!("node {node} says that {users:?} are online");
            eventually(DEADLINE, what, async || {
                let (status, body) = self.presence(node, &format!("groups/{EVERYBODY}")).await;
                let members = body["online"].as_array();
                let names: Option<Vec<&str>> =
                    members.and_then(|all| all.iter().map(|one| one["user"].as_str()).collect());
                status == 200 && names.is_some_and(|names| names == users)
            })
            .await;
        }
    }

    /// A node's API's answer about presence.
    pub(super) async fn presence(&self, node: usize, of: &str) -> (u16, Value) {
        self.gateways[node]
            .api(&format!("GET /api/v1/{of}"), None)
            .await
    }

    /// The name that a node has among others.
    pub(super) async fn node_name_of_gateway(&self, node: usize) -> String {
        let (_, body) = self.presence(node, "node").await;
        body["name"].as_str().expect("a name").to_owned()
    }

    /// The name that the node which holds a user's first session has among others.
    pub(super) async fn node_name_of(&self, user: &str) -> String {
        eventually(DEADLINE, format!("{user} is online"), async || {
            let (_, body) = self.presence(NODES - 1, &format!("users/{user}")).await;
            body["sessions"][0]["node"].as_str().map(ToOwned::to_owned)
        })
        .await
    }
}

/// Knows which nodes are in service, and sends each client to the next one.
pub(super) struct Balancer {
    vhost: String,
    nodes: Mutex<[Option<Addresses>; NODES]>,
    next: AtomicUsize,
    /// The only node of which clients may be told anything now.
    watched: Mutex<Option<usize>>,
}

#[derive(Clone)]
struct Addresses {
    ws_url: String,
    stomp: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    WebSocket,
}

impl Balancer {
    fn new(vhost: &str) -> Self {
        Self {
            vhost: vhost.to_owned(),
            nodes: Mutex::default(),
            next: AtomicUsize::default(),
            watched: Mutex::default(),
        }
    }

    fn put_in(&self, node: usize, gateway: &Gateway) {
        lock(&self.nodes)[node] = Some(Addresses {
            ws_url: gateway.ws_url(),
            stomp: gateway.stomp_address().to_owned(),
        });
    }

    fn take_out(&self, node: usize) {
        lock(&self.nodes)[node] = None;
    }

    fn watch(&self, node: Option<usize>) {
        *lock(&self.watched) = node;
    }

    /// The node that is being ended, or was the last to be.
    pub(super) fn watched(&self) -> Option<usize> {
        *lock(&self.watched)
    }

    pub(super) fn login(&self, user: &str) -> Login {
        Login::new(user, PASSCODE, &self.vhost)
    }

    /// A connection to the next node in service; not logged in. `None`: it is gone.
    pub(super) async fn try_connect(&self) -> Option<StompClient> {
        let stomp = {
            let nodes = lock(&self.nodes);
            let from = self.next.fetch_add(1, Ordering::Relaxed);
            let mut turns = (from..from + NODES).map(|turn| turn % NODES);
            turns.find_map(|node| Some(nodes[node].as_ref()?.stomp.clone()))?
        };
        let stream = TcpStream::connect(stomp).await.ok()?;
        Some(StompClient::over(stream))
    }

    /// A connection to the next node in service, and which one that is; not logged in.
    pub(super) async fn connect(&self, transport: Transport) -> (usize, StompClient) {
        let (node, addresses) = {
            let nodes = lock(&self.nodes);
            let from = self.next.fetch_add(1, Ordering::Relaxed);
            let turns = (from..from + NODES).map(|turn| turn % NODES);
            let mut in_service = turns.filter_map(|node| Some((node, nodes[node].clone()?)));
            in_service.next().expect("a node is in service")
        };
        let client = match transport {
            Transport::Tcp => StompClient::tcp(&addresses.stomp).await,
            Transport::WebSocket => StompClient::ws(&addresses.ws_url).await,
        };
        (node, client)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
