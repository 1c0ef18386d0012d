//! Bans, as the built program holds to them: on two gateways behind one RabbitMQ, without Redis.

use std::{process::Command as Program, time::Duration};

use serde_json::{Value, json};
use stomp_grammar::Command;
use testkit::{
    API_TOKEN, DEADLINE, Gateway, Hook, Login, Proxy, StompClient, Vhost, eventually, within,
};

use crate::house::{House, PASSCODE, Ran, stentor, vhost};

const CONTROL: &str = "stentor.control";

async fn house(vhost: &Vhost) -> House {
    let house = House::start(vhost.clone(), |builder| builder.vhost(vhost)).await;
    house.gateway.until_logged("listening for commands").await;
    house
}

async fn connect(house: &House, user: &str, device: &str) -> StompClient {
    let mut client = house.raw_tcp().await;
    client.send(&login(house, user, device).frame()).await;
    let answer = client.expect_frame().await;
    assert_eq!(answer.command, Command::Connected, "{answer:?}");
    client
}

fn login(house: &House, user: &str, device: &str) -> Login {
    Login {
        headers: vec![("device-id", device.to_owned())],
        ..Login::new(user, PASSCODE, house.vhost.name())
    }
}

/// Still served: what it asks for is done.
async fn is_here(client: &mut StompClient) {
    client.publish("/topic/anything", "still here").await;
}

async fn is_refused(house: &House, user: &str, device: &str) -> String {
    let mut client = house.raw_tcp().await;
    client.send(&login(house, user, device).frame()).await;
    let error = client.expect_error("banned").await;
    assert_eq!(error.header("reconnect"), Some("no"));
    client.expect_closed().await;
    String::from_utf8_lossy(&error.body).into_owned()
}

async fn ban(house: &House, ban: Value) -> Value {
    let (status, outcome) = house.gateway.api("POST /api/v1/bans", Some(&ban)).await;
    assert_eq!(status, 200, "{outcome}");
    assert_eq!(outcome["unreached"], Value::Null, "{outcome}");
    outcome
}

#[tokio::test]
async fn a_ban_holds_on_all_nodes_also_on_those_that_come_later() {
    let vhost = vhost().await;
    let (one, other) = (house(&vhost).await, house(&vhost).await);
    let mut here = connect(&one, "alice", "a").await;
    let mut there = connect(&other, "alice", "b").await;
    let mut bob = connect(&other, "bob", "phone").await;

    let set = json!({ "user": "alice", "seconds": 3600, "reason": "spam" });
    let outcome = ban(&one, set).await;
    assert_eq!(outcome["reach"], "all_nodes");
    assert_eq!(outcome["hits"], 2, "{outcome}");
    for client in [&mut here, &mut there] {
        let error = client.expect_error("banned").await;
        assert_eq!(error.body, "You are banned from this server: spam\n");
        client.expect_closed().await;
    }
    is_here(&mut bob).await;
    for house in [&one, &other] {
        let body = is_refused(house, "alice", "c").await;
        assert_eq!(
            body, "You are banned from this server\n",
            "nobody proved it"
        );
    }

    let outcome = ban(&other, json!({ "device_id": "phone" })).await;
    assert_eq!(outcome["hits"], 1, "{outcome}");
    bob.expect_error("banned").await;

    // It asks the others, of whom there are two by then.
    let third = house(&vhost).await;
    third.gateway.until_logged("bans learnt").await;
    is_refused(&third, "alice", "x").await;
    is_refused(&third, "carol", "phone").await;
    let (_, bans) = third.gateway.api("GET /api/v1/bans", None).await;
    assert_eq!(bans["bans"][0]["user"], "alice", "{bans}");
    assert_eq!(bans["bans"][0]["reason"], "spam");
    assert_eq!(bans["bans"][1]["device_id"], "phone");
    assert_eq!(bans["bans"][2], Value::Null);

    let lift = "DELETE /api/v1/bans?user=alice";
    let (status, outcome) = third.gateway.api(lift, None).await;
    assert_eq!((status, &outcome["hits"]), (200, &json!(3)), "{outcome}");
    for house in [&one, &other, &third] {
        connect(house, "alice", "a").await;
    }
    let (status, _) = third.gateway.api(lift, None).await;
    assert_eq!(status, 404);
}

/// By AMQP; and a node that is cut off hears of it when its link is back.
#[tokio::test]
async fn a_node_that_was_cut_off_learns_the_bans_it_missed() {
    let vhost = vhost().await;
    let one = house(&vhost).await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let cut = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    cut.gateway.until_logged("listening for commands").await;
    let mut alice = connect(&cut, "alice", "a").await;
    proxy.refuse();
    cut.gateway.until_readyz(503).await;
    // It knows nobody of that name, and cannot ask.
    for (arguments, words) in [
        (&["kick", "--user", "dave"][..], "nothing was found"),
        (&["forget", "dave"], "other nodes could not be told"),
        (&["ban", "--user", "dave"], "only this node holds to it"),
        (&["unban", "--user", "dave"], "only this node holds to it"),
    ] {
        let ran = ctl(&cut.gateway, arguments);
        assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.out);
        assert!(ran.err.contains(words), "{arguments:?}: {}", ran.err);
    }
    let command = json!({ "command": "ban", "user": "alice", "reason": "spam" });
    vhost.publish(CONTROL, "", [command.to_string()]).await;
    let what = "the node that is there knows it";
    eventually(DEADLINE, what, async || {
        let (_, bans) = one.gateway.api("GET /api/v1/bans", None).await;
        bans["bans"][0]["user"] == "alice"
    })
    .await;
    proxy.forward();
    alice.expect_error("banned").await;
    is_refused(&cut, "alice", "a").await;
}

fn ctl(gateway: &Gateway, arguments: &[&str]) -> Ran {
    let mut command = Program::new(env!("CARGO_BIN_EXE_stentor"));
    command.arg("ctl").args(arguments).env_clear();
    command.env("STENTOR_URL", gateway.admin_url());
    command.env("STENTOR_TOKEN", API_TOKEN);
    Ran::from(command.output().unwrap())
}

#[tokio::test]
async fn a_shell_bans_lists_and_lifts() {
    let hook = Hook::start().await;
    let gateway = stentor().hook(&hook).set("broker.url", "embedded:");
    let gateway = gateway.ready().await;
    let run = |arguments: &[&str]| {
        let ran = ctl(&gateway, arguments);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        ran.out
    };
    let mut alice = StompClient::tcp(gateway.stomp_address()).await;
    alice.connect(&Login::new("alice", "passcode", "/")).await;
    let banned = ["ban", "--user", "alice", "--for", "1h", "--reason", "spam"];
    let out = run(&banned);
    // The broker is in this node, so there is no other.
    assert!(out.contains("user alice, on all nodes\n"), "{out}");
    alice.expect_error("banned").await;
    run(&["ban", "--address", "192.0.2.0/24"]);
    run(&["ban", "--device-id", "phone"]);
    let out = run(&["bans"]);
    for words in [
        "user alice",
        "spam",
        "address 192.0.2.0/24",
        "device phone",
        "no end",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let out = run(&["bans", "--limit", "2"]);
    assert!(
        out.contains("There are more") && !out.contains("phone"),
        "{out}"
    );
    let all: Value = serde_json::from_str(&run(&["--json", "bans"])).unwrap();
    assert_eq!(all["bans"].as_array().unwrap().len(), 3, "{all}");
    let out = run(&["unban", "--user", "alice"]);
    assert!(out.contains("Lifted, on all nodes"), "{out}");
    let mut alice = StompClient::tcp(gateway.stomp_address()).await;
    alice.connect(&Login::new("alice", "passcode", "/")).await;

    for (arguments, code, words) in [
        (&["unban", "--user", "alice"][..], 1, "is not banned"),
        (&["ban", "--address", "0.0.0.0/0"], 1, "too large a part"),
        (&["ban", "--user", "a", "--for", "0s"], 1, "seconds: "),
        (&["ban"], 2, ""),
        (&["ban", "--user", "a", "--address", "192.0.2.1"], 2, ""),
        (&["ban", "--user", "a", "--for", "soon"], 2, ""),
    ] {
        let ran = ctl(&gateway, arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{arguments:?}: {}", ran.err);
    }
    // For the audit.
    let set = gateway.until_events("ban set", 3).await;
    assert_eq!(set[0]["subject"], "user \"alice\"");
    assert_eq!(set[0]["reason"], "spam");
    assert!(set[0]["token"].is_string() && set[0]["until"].is_string());
    gateway.until_events("ban lifted", 1).await;
}

/// Nothing is read of them, and nothing answered: no TLS, no HTTP.
#[tokio::test]
async fn a_banned_address_does_not_come_in() {
    let hook = Hook::start().await;
    let gateway = stentor().hook(&hook).set("broker.url", "embedded:");
    let gateway = gateway.ready().await;
    let mut alice = StompClient::ws(&gateway.ws_url()).await;
    alice.connect(&Login::new("alice", "passcode", "/")).await;
    let out = ctl(&gateway, &["ban", "--address", "127.0.0.0/8"]);
    assert_eq!(out.code, Some(0), "{}", out.err);
    alice.expect_error("banned").await;
    let http = gateway.addresses().http.clone().unwrap();
    for address in [gateway.stomp_address(), &http] {
        let mut client = StompClient::tcp(address).await;
        client.expect_closed().await;
    }
    // However many come, the log says so now and then, and the metric counts them.
    for _ in 0..20 {
        let mut client = StompClient::tcp(gateway.stomp_address()).await;
        client.expect_closed().await;
    }
    let (_, metrics) = gateway.admin("/metrics").await;
    let count = metrics.lines().find_map(|line| {
        let name = "stentor_refused_total{at=\"connection\",reason=\"banned\"} ";
        line.strip_prefix(name)?.parse::<u64>().ok()
    });
    assert!(count.is_some_and(|count| count >= 22), "{metrics}");
    assert!(metrics.contains("\nstentor_bans 1\n"), "{metrics}");
    let lines = gateway.log().all();
    let said = |line: &&String| line.contains("banned client refused");
    assert!(lines.iter().filter(said).count() <= 5, "{lines:#?}");
    // The operator is not kept out.
    let out = ctl(&gateway, &["unban", "--address", "127.0.0.0/8"]);
    assert_eq!(out.code, Some(0), "{}", out.err);
    let mut alice = StompClient::ws(&gateway.ws_url()).await;
    let login = Login::new("alice", "passcode", "/");
    let connected = alice.connect(&login);
    within(Duration::from_secs(10), "she is back", connected).await;
}
