//! `stentor tail`, on two gateways behind one RabbitMQ.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use serde_json::Value;
use stomp_grammar::Frame;
use testkit::{
    API_TOKEN, Answer, Call, DEADLINE, FEED, GatewayBuilder, Login, Process, Vhost, eventually,
};

use crate::house::{DESTINATION, House, KEY, PASSCODE, Ran, USER, vhost};

/// Two gateways that hear of each other.
async fn two(settings: impl Fn(GatewayBuilder) -> GatewayBuilder) -> (Vhost, [House; 2]) {
    let vhost = vhost().await;
    let houses = [
        House::start(vhost.clone(), &settings).await,
        House::start(vhost.clone(), &settings).await,
    ];
    for house in &houses {
        house.gateway.until_logged("listening for commands").await;
    }
    (vhost, houses)
}

fn command(house: &House, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
    command.arg("tail").args(arguments).env_clear();
    command.env("STENTOR_URL", house.gateway.admin_url());
    command.env("STENTOR_TOKEN", token);
    command
}

/// A tail that never goes on: it is refused.
fn refused(house: &House, token: &str, arguments: &[&str]) -> Ran {
    Ran::from(command(house, token, arguments).output().unwrap())
}

/// `stentor tail`, as it runs.
struct Tailing(Process);

impl Tailing {
    /// Once this many nodes show their frames.
    async fn begin(house: &House, nodes: usize, arguments: &[&str]) -> Self {
        let mut command = command(house, API_TOKEN, arguments);
        let tailing = Self(Process::start("tail", &mut command, Stdio::null()).unwrap());
        let is_json = arguments.contains(&"--json");
        let begins = if is_json {
            "\"begins\""
        } else {
            "shows its frames"
        };
        eventually(DEADLINE, "the nodes show their frames", async || {
            let lines = tailing.0.stdout().all();
            lines.iter().filter(|line| line.contains(begins)).count() >= nodes
        })
        .await;
        tailing
    }

    fn text(&self) -> String {
        self.0.stdout().text()
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.0.stdout().all();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect()
    }

    /// Lines of this type.
    fn of(&self, kind: &str) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line["type"] == kind);
        lines
    }

    async fn until(&self, text: &str) {
        eventually(DEADLINE, format!("the tail shows {text:?}"), async || {
            self.text().contains(text)
        })
        .await;
    }
}

fn audited(house: &House, outcome: &str) -> Vec<Value> {
    let mut events = house.gateway.events();
    events.retain(|event| event["action"] == "tail" && event["outcome"] == outcome);
    events
}

#[tokio::test]
async fn frames_of_all_nodes_are_shown_without_their_secrets() {
    let (_vhost, [one, other]) = two(|builder| builder).await;
    let tail = Tailing::begin(&one, 2, &["--json", "--user", USER]).await;
    let mut here = one.tcp().await;
    here.subscribe("1", DESTINATION).await;
    let mut there = other.ws().await;
    there.subscribe("1", DESTINATION).await;
    let mut bob = other.raw_tcp().await;
    bob.connect(&Login::new("bob", PASSCODE, other.vhost.name()))
        .await;
    let send = Frame::new(stomp_grammar::Command::Send)
        .with_header("destination", "/topic/a")
        .with_header("x-mine", "my-own-words")
        .with_header("receipt", "r")
        .with_body("private");
    there.send(&send).await;
    there.expect_receipt("r").await;
    one.push(["pushed"]).await;
    here.expect_message("pushed").await;
    there.expect_message("pushed").await;

    eventually(DEADLINE, "both MESSAGEs are shown", async || {
        let frames = tail.of("frame");
        let messages = frames.iter().filter(|frame| frame["command"] == "MESSAGE");
        messages.count() == 2
    })
    .await;
    let frames = tail.of("frame");
    let of = |node: usize| -> Vec<String> {
        let nodes: Vec<&Value> = frames.iter().map(|frame| &frame["node"]).collect();
        let first = nodes[0];
        let of_node = frames
            .iter()
            .filter(|frame| (&frame["node"] == first) == (node == 0));
        of_node
            .map(|frame| {
                let way = frame["direction"].as_str().unwrap();
                format!("{way} {}", frame["command"].as_str().unwrap())
            })
            .collect()
    };
    let begin = ["in CONNECT", "out CONNECTED", "in SUBSCRIBE", "out RECEIPT"];
    let send = ["in SEND", "out RECEIPT", "out MESSAGE"];
    let mut both = [of(0), of(1)];
    both.sort_by_key(Vec::len);
    assert_eq!(both[0], [&begin[..], &send[2..]].concat());
    assert_eq!(both[1], [&begin[..], &send[..]].concat());
    let sent = frames
        .iter()
        .find(|frame| frame["command"] == "SEND")
        .unwrap();
    assert_eq!(sent["destination"], "/topic/a");
    assert_eq!(sent["size"], 7);
    assert_eq!(sent["transport"], "websocket");
    let text = tail.text();
    for secret in [PASSCODE, "private", "pushed", "my-own-words", "bob"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(
        text.contains("\"x-mine\"") && text.contains("\"passcode\""),
        "{text}"
    );

    // It is in the audit log of both nodes, from the beginning to the end.
    let began = audited(&one, "done");
    assert_eq!(began.len(), 1, "{began:?}");
    assert_eq!(
        (&began[0]["token"], &began[0]["on"]),
        (&"testkit".into(), &"user \"alice\"".into())
    );
    other
        .gateway
        .until_events("frames are shown at another node", 1)
        .await;
    drop(tail);
    eventually(DEADLINE, "the end is audited", async || {
        audited(&one, "ended").len() == 1
    })
    .await;
    other
        .gateway
        .until_events("frames are shown no more", 1)
        .await;
}

#[tokio::test]
async fn a_tail_takes_a_token_of_the_scope_admin_and_a_node_that_allows_it() {
    let house = House::open_with(|builder| {
        let reader = "reader-0123456789";
        builder
            .set(
                "api.tokens",
                format!("testkit=admin {API_TOKEN},r=read publish {reader}"),
            )
            .set("tail.max_tails", 1)
    })
    .await;
    let wrong = refused(&house, "wrong-0123456789", &[]);
    assert_eq!(wrong.code, Some(4), "{wrong:?}");
    let reader = refused(&house, "reader-0123456789", &[]);
    assert_eq!(reader.code, Some(4), "{reader:?}");
    assert!(
        reader.err.contains("lacks the scope admin"),
        "{}",
        reader.err
    );
    assert_eq!(audited(&house, "denied").len(), 2);
    let bodies = refused(&house, API_TOKEN, &["--bodies"]);
    assert_eq!(bodies.code, Some(1), "{bodies:?}");
    assert!(bodies.err.contains("[tail] show"), "{}", bodies.err);
    let many = refused(&house, API_TOKEN, &["--bodies=5000"]);
    assert_eq!(many.code, Some(1), "{many:?}");
    let tail = Tailing::begin(&house, 1, &[]).await;
    let second = refused(&house, API_TOKEN, &[]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.err.contains("[tail] max_tails"), "{}", second.err);
    drop(tail);
    // The place is free again.
    eventually(DEADLINE, "the first has ended", async || {
        audited(&house, "ended").len() == 1
    })
    .await;
    Tailing::begin(&house, 1, &[]).await;

    let off = House::start(house.vhost.clone(), |builder| {
        builder.set("tail.show", "off")
    })
    .await;
    let refusal = refused(&off, API_TOKEN, &[]);
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    assert!(
        refusal.err.contains("[tail] show is \"off\""),
        "{}",
        refusal.err
    );
    // Nor does it show anything to another node; which says so.
    off.gateway.until_logged("listening for commands").await;
    house.gateway.until_logged("listening for commands").await;
    eventually(DEADLINE, "the last has ended", async || {
        audited(&house, "ended").len() == 2
    })
    .await;
    let tail = Tailing::begin(&house, 1, &["--json"]).await;
    tail.until("\"refuses\"").await;
    let told = tail.of("node");
    let told = told.iter().find(|line| line["state"] == "refuses").unwrap();
    assert!(
        told["cause"].as_str().unwrap().contains("[tail] show"),
        "{told}"
    );
    off.tcp().await;
    let mut here = house.tcp().await;
    here.subscribe("1", DESTINATION).await;
    tail.until("SUBSCRIBE").await;
    let nodes: std::collections::BTreeSet<String> = tail
        .of("frame")
        .iter()
        .map(|frame| frame["node"].to_string())
        .collect();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
}

#[tokio::test]
async fn refusals_are_shown_with_their_reason() {
    let (_vhost, [one, other]) = two(|builder| builder).await;
    other.hook.rule(|asked| {
        let is_denied = asked.call == Call::Topic || asked.get("username") == "mallory";
        is_denied.then_some(Answer::Deny)
    });
    let tail = Tailing::begin(&one, 2, &["--refused"]).await;
    let mut alice = one.tcp().await;
    alice.subscribe("1", DESTINATION).await;
    let mut bob = other.tcp().await;
    let subscribe = Frame::new(stomp_grammar::Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", DESTINATION);
    bob.send(&subscribe).await;
    bob.expect_error("access_refused").await;
    tail.until("← ERROR").await;
    let mut mallory = other.raw_tcp().await;
    let login = Login::new("mallory", PASSCODE, other.vhost.name());
    mallory.send(&login.frame()).await;
    tail.until("✗ CONNECT").await;
    let text = tail.text();
    assert!(
        text.contains(&format!(
            "{USER} ✗ SUBSCRIBE {DESTINATION}\n    access_refused"
        )),
        "{text}"
    );
    assert!(text.contains("mallory ✗ CONNECT"), "{text}");
    for other in ["→", "RECEIPT", "CONNECTED", PASSCODE] {
        assert!(!text.contains(other), "{other}: {text}");
    }
}

/// Whoever may look no more sees nothing more.
#[tokio::test]
async fn a_tail_ends_with_its_token() {
    let token = "operator-0123456789";
    let tokens = |more: &str| format!("[api.tokens]\ntestkit = \"admin {API_TOKEN}\"\n{more}");
    let with = tokens(&format!("ops = \"admin {token}\"\n"));
    let house = House::open_with(|builder| builder.unset("api.tokens").file(&with)).await;
    let mut command = command(&house, token, &[]);
    let tail = Process::start("tail", &mut command, Stdio::null()).unwrap();
    eventually(DEADLINE, "the node shows its frames", async || {
        tail.stdout().text().contains("shows its frames")
    })
    .await;
    let file = house.gateway.folder().join("stentor.toml");
    std::fs::write(file, tokens("ops = \"admin another-0123456789\"\n")).unwrap();
    house.gateway.process().signal("HUP");
    assert_eq!(tail.wait(DEADLINE).await.code(), Some(1));
    assert!(tail.stderr().text().contains("the gateway closed it"));
}

/// Terminals obey escape sequences, whoever wrote them.
#[tokio::test]
async fn a_client_cannot_write_to_the_operator_s_terminal() {
    let house = House::open_with(|builder| builder.set("tail.show", "bodies")).await;
    let mut tails = [
        Tailing::begin(&house, 1, &["--bodies"]).await,
        Tailing::begin(&house, 1, &["--bodies", "--json"]).await,
    ];
    let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    let mut client = house.tcp().await;
    let send = Frame::new(stomp_grammar::Command::Send)
        .with_header("destination", &format!("/topic/{evil}"))
        .with_header(evil, evil)
        .with_header("receipt", "the-end")
        .with_body(format!("{evil} the body\r\nnext").into_bytes());
    client.send(&send).await;
    client.expect_receipt("the-end").await;
    for tail in &mut tails {
        tail.until("the body").await;
        let text = tail.text();
        assert!(text.contains("owned"), "{text:?}");
        let is_bad = |character: char| {
            character != '\n' && (character.is_control() || character == '\u{202e}')
        };
        assert!(!text.contains(is_bad), "{text:?}");
    }
}

/// Each frame is shown, or counted; and the clients notice nothing.
#[tokio::test]
async fn many_frames_are_shown_in_part_and_counted_in_full() {
    const COUNT: usize = 20_000;
    let (_vhost, [one, other]) = two(|builder| {
        builder
            .set("mailbox.max_messages", COUNT)
            .set("mailbox.max_bytes", "100MiB")
    })
    .await;
    let mut clients = [one.tcp().await, other.tcp().await];
    for client in &mut clients {
        client.subscribe("1", DESTINATION).await;
    }
    let tail = Tailing::begin(&one, 2, &["--json", "--destination", "/exchange/feed/*"]).await;
    let begun = tokio::time::Instant::now();
    let publishing = one
        .vhost
        .publish(FEED, KEY, (0..COUNT).map(|number| number.to_string()));
    let [here, there] = &mut clients;
    let reading = async {
        let (here, there) = tokio::join!(here.expect_messages(COUNT), there.expect_messages(COUNT));
        assert_eq!((&*here[COUNT - 1], &*there[COUNT - 1]), ("19999", "19999"));
    };
    tokio::join!(publishing, reading);
    let took = begun.elapsed();
    let count = |tail: &Tailing| {
        let left_out = tail.of("left_out");
        let counts = left_out.iter().map(|line| line["frames"].as_u64().unwrap());
        (tail.of("frame").len() as u64, counts.sum::<u64>())
    };
    let all = 2 * COUNT as u64;
    let (shown, left_out) = eventually(DEADLINE, "all are shown or counted", async || {
        let (shown, left_out) = count(&tail);
        (shown + left_out >= all).then_some((shown, left_out))
    })
    .await;
    assert_eq!(shown + left_out, all);
    // 200 a second and node, and the first of a second at its end.
    let most = 2 * 200 * (took.as_secs() + 2);
    assert!((1..=most).contains(&shown), "{shown} in {took:?}");
}

/// It harms nobody, and has an end.
#[tokio::test]
async fn a_tail_that_is_not_read_ends() {
    let (_vhost, [one, other]) = two(|builder| {
        builder
            .set("listen.handshake_timeout", "1s")
            .set("tail.show", "bodies")
            .set("tail.max_frames_per_second", 100_000)
            .set("tail.max_tails", 1)
    })
    .await;
    let mut clients = [one.tcp().await, other.tcp().await];
    for client in &mut clients {
        client.subscribe("1", DESTINATION).await;
    }
    let address = one.gateway.addresses().admin.clone().unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "GET /api/v1/tail?bodies=4096 HTTP/1.1\r\nhost: {address}\r\n\
         authorization: Bearer {API_TOKEN}\r\n\r\n"
    )
    .unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    other
        .gateway
        .until_events("frames are shown at another node", 1)
        .await;
    let body = "x".repeat(4096);
    let ended = || !audited(&one, "ended").is_empty();
    let mut rounds = 0;
    while !ended() {
        one.push((0..500).map(|_| &body)).await;
        for client in &mut clients {
            client.expect_messages(500).await;
        }
        rounds += 1;
        assert!(rounds < 200, "it goes on");
    }
    other
        .gateway
        .until_events("frames are shown no more", 1)
        .await;
    // There is a place for the next.
    Tailing::begin(&one, 2, &[]).await;
}

#[tokio::test]
async fn a_node_that_dies_ends_its_tails_and_its_part_in_others() {
    let (vhost, [one, other]) = two(|builder| builder).await;
    let third = House::start(vhost, |builder| builder).await;
    third.gateway.until_logged("listening for commands").await;
    let here = Tailing::begin(&one, 3, &["--json"]).await;
    let there = Tailing::begin(&other, 3, &["--json"]).await;
    other.gateway.kill().await;
    // The tail of the dead node: its client says so, and the others show no more.
    let status = there.0.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(1));
    assert!(there.0.stderr().text().contains("the tail has ended"));
    for house in [&one, &third] {
        house
            .gateway
            .until_events("frames are shown no more", 1)
            .await;
    }
    // The dead node's part in the other tail.
    eventually(3 * DEADLINE, "the dead node is silent", async || {
        here.text().contains("\"silent\"")
    })
    .await;
    // Those that are left go on.
    let mut client = third.tcp().await;
    client.subscribe("1", DESTINATION).await;
    here.until("SUBSCRIBE").await;
    // One that comes later takes part, too.
    let late = House::start(one.vhost.clone(), |builder| builder).await;
    late.gateway
        .until_events("frames are shown at another node", 1)
        .await;
    let mut client = late.tcp().await;
    client.publish("/topic/late", "x").await;
    here.until("/topic/late").await;
}

/// RabbitMQ is away for a while; frames of this node are shown all the while.
#[tokio::test]
async fn a_tail_outlives_its_link_to_rabbitmq() {
    let vhost = vhost().await;
    let proxy = testkit::Proxy::start(&vhost.node().amqp_address()).await;
    let one = House::start(vhost.clone(), |builder| {
        builder.vhost_via(&vhost, &proxy.address().to_string())
    })
    .await;
    let other = House::start(vhost.clone(), |builder| builder).await;
    for house in [&one, &other] {
        house.gateway.until_logged("listening for commands").await;
    }
    let tail = Tailing::begin(&one, 2, &["--json"]).await;
    proxy.cut();
    tail.until("\"apart\"").await;
    let mut client = one.raw_tcp().await;
    client.send(&one.login().frame()).await;
    tail.until("CONNECT").await;
    eventually(3 * DEADLINE, "the other takes part again", async || {
        let lines = tail.of("node");
        let begins = lines.iter().filter(|line| line["state"] == "begins");
        begins.count() >= 3
    })
    .await;
    other.tcp().await.subscribe("there", DESTINATION).await;
    tail.until("\"there\"").await;
}
