//! A broker that is not there: the gateway stays, says so, and recovers.

use testkit::{Hook, Login, Proxy, StompClient};

use crate::house::{DESTINATION, House, PASSCODE, USER, stentor, vhost};

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
