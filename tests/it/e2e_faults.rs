//! A broker that is not there: the gateway stays, says so, and recovers.

use serde_json::Value;
use testkit::{DEADLINE, Hook, Login, Proxy, StompClient, eventually};

use crate::house::{DESTINATION, House, PASSCODE, USER, stentor, until_written, vhost};

#[tokio::test]
async fn the_broker_is_down_at_start() {
    let (vhost, hook) = (vhost().await, Hook::start().await);
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    proxy.refuse();

    let gateway = stentor()
        .vhost_via(&vhost, &proxy.address())
        .hook(&hook)
        .set("broker.operation_timeout", "500ms")
        .set("broker.reconnect_max", "500ms")
        .start()
        .await;

    // Alive, but not ready, and it says why.
    assert_eq!(gateway.admin("/healthz").await.0, 200);
    let why = gateway.until_readyz(503).await;
    assert!(why.contains("broker"), "{why}");
    assert!(!why.contains("guest:guest"), "{why}");

    // A client may come in, and learns in time that there is no broker.
    let login = Login::new(USER, PASSCODE, vhost.name());
    let mut early = StompClient::tcp(gateway.stomp_address()).await;
    early.connect(&login).await;
    early
        .raw(format!("SUBSCRIBE\nid:1\ndestination:{DESTINATION}\n\n\0"))
        .await;
    early.expect_error("broker unavailable").await;
    early.expect_closed().await;

    proxy.forward();
    gateway.until_ready().await;
    let mut late = StompClient::tcp(gateway.stomp_address()).await;
    late.connect(&login).await;
    late.subscribe("1", DESTINATION).await;
    late.publish(DESTINATION, "hello").await;
}

#[tokio::test]
async fn the_broker_goes_down_later() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.operation_timeout", "2s")
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let [mut tcp, mut ws] = house.subscribed().await;
    until_written().await;

    proxy.refuse();
    house.gateway.until_readyz(503).await;

    // A client that asks for something now is told; one that only listens stays.
    let mut asking = house.ws().await;
    asking
        .raw(format!("SEND\ndestination:{DESTINATION}\n\nx\0"))
        .await;
    asking.expect_error("broker unavailable").await;
    assert_eq!(asking.expect_closed().await.code, Some(1013));

    proxy.forward();
    house.gateway.until_ready().await;
    house.push(["back"]).await;
    tcp.expect_message("back").await;
    ws.expect_message("back").await;
}

/// A broker that hangs is noticed by the AMQP heart-beat, as one that is gone.
#[tokio::test]
async fn the_broker_freezes() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.heartbeat", "1s")
            .set("broker.connection_timeout", "1s")
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let [mut tcp, mut ws] = house.subscribed().await;

    proxy.freeze();
    house.push(["meanwhile"]).await;
    house.gateway.until_readyz(503).await;
    proxy.forward();

    house.gateway.until_ready().await;
    tcp.expect_message("meanwhile").await;
    ws.expect_message("meanwhile").await;
}

/// Several links are tried again and again; the log has a line when the outage begins, and one when
/// it ends, and clients are told nothing in the system's words.
#[tokio::test]
async fn an_outage_is_two_lines_in_the_log() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.operation_timeout", "1s")
            .set("broker.reconnect_max", "300ms")
    })
    .await;
    let [mut tcp, _ws] = house.subscribed().await;
    let mut own = house.tcp().await;
    own.subscribe("1", "/queue/own").await;
    until_written().await;
    let gateway = &house.gateway;

    proxy.refuse();
    let failures = async || {
        let (_, metrics) = gateway.admin("/metrics").await;
        let mut lines = metrics.lines();
        let name = "stentor_broker_link_failures_total ";
        let count = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        (count.parse::<u64>().unwrap() >= 30).then_some(())
    };
    eventually(DEADLINE, "it is tried often", failures).await;
    for frame in [
        "SUBSCRIBE\nid:1\ndestination:/queue/a",
        "SUBSCRIBE\nid:1\ndestination:/exchange/feed/b",
        "SEND\ndestination:/exchange/feed/c",
    ] {
        let mut asking = house.ws().await;
        asking.raw(format!("{frame}\n\n\0")).await;
        let error = asking.expect_error("broker unavailable").await;
        let body = String::from_utf8_lossy(&error.body);
        assert_eq!(body.trim_end(), "the broker is not reachable", "{frame}");
    }

    proxy.forward();
    gateway.until_ready().await;
    house.push(["back"]).await;
    tcp.expect_message("back").await;
    let back = gateway.until_events("broker links back", 1).await;
    assert!(back[0]["away_ms"].as_u64() > Some(1_000), "{back:?}");
    assert!(back[0]["links"].as_u64() >= Some(4), "{back:?}");
    let down = gateway.until_events("broker link down", 1).await;
    assert_eq!(down[0]["level"], "WARN");
    for event in [&back[0], &down[0]] {
        assert_eq!(event["vhost"], vhost.name(), "{event}");
        // For what it is, which the names of others do not say.
        let known = ["bindings of feeds", "publishing", "consumers of queues"];
        let link = event["link"].as_str().unwrap();
        let is_known = known.contains(&link) || link.starts_with("messages of feeds ");
        assert!(is_known, "{link}");
    }
    let is_of_links = |event: &&Value| event["target"] == "stentor::broker";
    let events = gateway.events();
    let told: Vec<&Value> = events.iter().filter(is_of_links).collect();
    let ups = told
        .iter()
        .filter(|event| event["message"] == "broker link up");
    assert_eq!(told.len(), ups.count() + 2, "{told:#?}");
}
