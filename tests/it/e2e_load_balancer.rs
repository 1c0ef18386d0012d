//! Two nodes behind nginx and behind HAProxy, by the very files of `examples/load-balancer`.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use stomp_grammar::{Command as Stomp, Frame};
use tempfile::TempDir;
use testkit::{
    Call, DEADLINE, FEED, GatewayBuilder, Login, Process, Remote, StompClient, Vhost, WsOptions,
    eventually, free_ports, keeper, tests_dir, within,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::interval,
};

use crate::{
    foreign::subscribe,
    house::{DESTINATION, House, KEY, PASSCODE, USER, numbers, vhost},
};

/// Polling clients at a time.
const CLIENTS: usize = 100;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Nginx,
    HaProxy,
}

/// A load balancer and its nodes.
struct Balanced {
    vhost: Vhost,
    nodes: [House; 2],
    _process: Process,
    /// `127.0.0.1:PORT` of the balancer.
    address: String,
    _folder: TempDir,
}

impl Balanced {
    async fn start(kind: Kind) -> Self {
        let vhost = vhost().await;
        let settings = |builder: GatewayBuilder| {
            builder
                .set("listen.proxy_protocol", matches!(kind, Kind::HaProxy))
                .set("listen.trusted_proxies", "127.0.0.1")
                .set("listen.origins", "*")
                .set("auth.forward_connection", "client_ip=ip")
                .set("shutdown.not_ready", "4s")
                .set("shutdown.drain", "1s")
        };
        let nodes = [
            House::start(vhost.clone(), settings).await,
            House::start(vhost.clone(), settings).await,
        ];
        for _ in 0..5 {
            if let Some((process, address, folder)) = Self::try_start(kind, &nodes).await {
                return Self {
                    vhost,
                    nodes,
                    _process: process,
                    address,
                    _folder: folder,
                };
            }
        }
        panic!("{kind:?} found no free port in five attempts")
    }

    async fn try_start(kind: Kind, nodes: &[House; 2]) -> Option<(Process, String, TempDir)> {
        let folder = TempDir::with_prefix("stentor-balancer-").unwrap();
        keeper::remove(folder.path());
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let (name, listen) = match kind {
            Kind::Nginx => (
                "nginx.conf",
                ["listen 8090;", &format!("listen {address};")],
            ),
            Kind::HaProxy => ("haproxy.cfg", ["bind :8090", &format!("bind {address}")]),
        };
        let example = tests_dir().with_file_name("examples/load-balancer");
        let text = fs::read_to_string(example.join(name))
            .unwrap()
            .replace("/tmp/stentor-nginx.pid", "nginx.pid");
        let mut text = replaced(&text, listen[0], listen[1]);
        for (node, [http, admin]) in nodes.iter().zip([["15674", "15680"], ["25674", "25680"]]) {
            let addresses = node.gateway.addresses();
            let http = format!("127.0.0.1:{http}");
            text = replaced(&text, &http, addresses.http.as_ref().unwrap());
            if matches!(kind, Kind::HaProxy) {
                let (_, port) = addresses.admin.as_ref().unwrap().split_once(':').unwrap();
                text = replaced(&text, &format!("port {admin}"), &format!("port {port}"));
            }
        }
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();

        let mut command = match kind {
            Kind::Nginx => {
                let mut command = Command::new("nginx");
                command.arg("-p").arg(folder.path()).arg("-c").arg(&file);
                command.args(["-g", "daemon off;", "-e", "stderr"]);
                command
            }
            Kind::HaProxy => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(&file);
                command
            }
        };
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let process = Process::start(name, &mut command, Stdio::null())
            .unwrap_or_else(|error| panic!("{kind:?}: {error}; ./scripts/test.sh installs it"));
        let up = eventually(DEADLINE, format!("{kind:?} has its nodes"), async || {
            if process.exit_status().is_some() {
                let output = process.output();
                assert!(output.contains("ddress already in use"), "{output}");
                return Some(false);
            }
            TcpStream::connect(&address).await.ok().map(|_| true)
        })
        .await;
        up.then_some((process, address, folder))
    }

    fn sockjs_url(&self) -> String {
        format!("http://{}/stomp", self.address)
    }

    /// How many clients each node has.
    async fn connections(&self) -> [usize; 2] {
        let mut counts = [0; 2];
        for (count, node) in counts.iter_mut().zip(&self.nodes) {
            let (_, body) = node.gateway.admin("/readyz").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            *count = body["connections"].as_u64().unwrap_or_default() as usize;
        }
        counts
    }
}

/// Exactly one way to write an address is in the example, and it is replaced.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in the example\n{text}");
    text.replace(from, to)
}

/// A report of a polling client: its name, and an event.
#[derive(Debug)]
enum Told {
    Subscribed,
    Message(usize, String),
}

/// Connects, subscribes and listens; when that ends, for whatever reason, it does so again, as
/// pages do.
async fn listen(number: usize, url: String, login: Login, told: UnboundedSender<Told>) {
    let mut pause = interval(Duration::from_millis(100));
    loop {
        pause.tick().await;
        let Ok(client) = StompClient::try_sockjs(&url).await else {
            continue;
        };
        let mut client = client.with_deadline(4 * DEADLINE);
        client.send(&login.frame()).await;
        while let Ok(frame) = client.next_frame().await {
            let event = match frame.command {
                Stomp::Connected => {
                    let subscribe = Frame::new(Stomp::Subscribe)
                        .with_header("id", "feed")
                        .with_header("destination", DESTINATION)
                        .with_header("receipt", "subscribed");
                    client.send(&subscribe).await;
                    continue;
                }
                Stomp::Receipt => Told::Subscribed,
                Stomp::Message => {
                    Told::Message(number, String::from_utf8_lossy(&frame.body).into_owned())
                }
                _ => break,
            };
            if told.send(event).is_err() {
                return;
            }
        }
    }
}

/// Those who poll, and what they tell.
struct Listeners {
    told: UnboundedReceiver<Told>,
    _tasks: JoinSet<()>,
}

impl Listeners {
    async fn start(balanced: &Balanced) -> Self {
        let (sender, told) = unbounded_channel();
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let login = balanced.nodes[0].login();
            tasks.spawn(listen(number, balanced.sockjs_url(), login, sender.clone()));
        }
        let mut listeners = Self {
            told,
            _tasks: tasks,
        };
        listeners.until_subscribed(CLIENTS).await;
        listeners
    }

    async fn next(&mut self) -> Told {
        let told = within(2 * DEADLINE, "somebody tells something", self.told.recv());
        told.await.expect("the tasks live")
    }

    async fn until_subscribed(&mut self, count: usize) {
        for _ in 0..count {
            let told = self.next().await;
            assert!(matches!(told, Told::Subscribed), "{told:?}");
        }
    }

    /// Everybody gets exactly these messages, in order.
    async fn expect(&mut self, bodies: &[String]) {
        let mut seen = vec![0; CLIENTS];
        for _ in 0..CLIENTS * bodies.len() {
            match self.next().await {
                Told::Message(client, body) => {
                    assert_eq!(Some(&body), bodies.get(seen[client]), "client {client}");
                    seen[client] += 1;
                }
                told @ Told::Subscribed => panic!("{told:?}: somebody had to come again"),
            }
        }
    }
}

#[tokio::test]
async fn polling_behind_nginx() {
    polling(Kind::Nginx).await;
}

#[tokio::test]
async fn polling_behind_haproxy() {
    polling(Kind::HaProxy).await;
}

/// Each session stays with its node, both nodes have some, and when a node goes its clients go to
/// the other; those who were there already notice nothing.
async fn polling(kind: Kind) {
    let balanced = Balanced::start(kind).await;
    let mut listeners = Listeners::start(&balanced).await;
    let [one, other] = balanced.connections().await;
    assert_eq!(one + other, CLIENTS);
    assert!(
        one >= CLIENTS / 10 && other >= CLIENTS / 10,
        "{one}, {other}"
    );
    balanced.vhost.publish(FEED, KEY, numbers(0..20)).await;
    listeners.expect(&numbers(0..20)).await;

    let [leaving, staying] = &balanced.nodes;
    leaving.gateway.process().signal("TERM");
    listeners.until_subscribed(one).await;
    let status = leaving.gateway.process().wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
    let all = format!("\"connections\":{CLIENTS}");
    eventually(DEADLINE, "all are at the other node", async || {
        staying.gateway.admin("/readyz").await.1.contains(&all)
    })
    .await;
    balanced.vhost.publish(FEED, KEY, numbers(20..40)).await;
    listeners.expect(&numbers(20..40)).await;
}

#[tokio::test]
async fn streams_behind_nginx() {
    streams(Kind::Nginx).await;
}

#[tokio::test]
async fn streams_behind_haproxy() {
    streams(Kind::HaProxy).await;
}

/// Messages go through as they come, without waiting for a full buffer.
async fn streams(kind: Kind) {
    let balanced = Balanced::start(kind).await;
    for transport in ["websocket", "xhr-streaming", "eventsource"] {
        let mut client = Remote::node("stompjs.mjs");
        client.order(&json!({
            "do": "connect", "url": balanced.sockjs_url(), "transports": [transport],
            "login": USER, "passcode": PASSCODE, "host": balanced.vhost.name(),
        }));
        assert_eq!(client.expect("connected").await["transport"], transport);
        client.order(&subscribe(DESTINATION, json!({ "receipt": "subscribed" })));
        client.expect("receipt").await;
        for body in numbers(0..3) {
            balanced.vhost.publish(FEED, KEY, [&body]).await;
            assert_eq!(client.expect_bodies(1).await, [body], "{transport}");
        }
        client.order(&json!({ "do": "disconnect" }));
        client.expect("closed").await;
    }
}

/// A plain WebSocket; and the client's address, which HAProxy tells by a PROXY header and nginx by
/// one of HTTP.
#[tokio::test]
async fn a_websocket_behind_both() {
    for kind in [Kind::Nginx, Kind::HaProxy] {
        let balanced = Balanced::start(kind).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let stream = socket.connect(balanced.address.parse().unwrap()).await;
        let url = format!("ws://{}/ws", balanced.address);
        let mut client = StompClient::ws_over(&url, stream.unwrap(), WsOptions::default()).await;
        client.connect(&balanced.nodes[0].login()).await;
        client.subscribe("feed", DESTINATION).await;
        balanced.vhost.publish(FEED, KEY, ["pushed"]).await;
        client.expect_message("pushed").await;

        let mut asked = balanced.nodes[0].hook.calls_of(Call::User);
        asked.extend(balanced.nodes[1].hook.calls_of(Call::User));
        let ips: Vec<&str> = asked.iter().map(|call| call.get("ip")).collect();
        assert_eq!(ips, ["127.0.0.9"], "{kind:?}");
    }
}
