//! Several virtual hosts, each on links of its own, opened and closed as they are used.

use std::time::{Duration, Instant};

use lapin::ExchangeKind;
use testkit::{DEADLINE, FEED, Hook, Login, RabbitMq, StompClient, Vhost, eventually, unique};

use crate::house::{DESTINATION, House, KEY, PASSCODE, USER, stentor, vhost};

/// A gateway that serves all virtual hosts; its default one is that of the house.
async fn open(idle: &str) -> House {
    let default = vhost().await;
    House::start(default, |builder| {
        builder
            .set("broker.vhosts", "*")
            .set("broker.vhost_idle", idle)
    })
    .await
}

async fn client(house: &House, vhost: &Vhost) -> StompClient {
    let mut client = house.raw_tcp().await;
    client
        .connect(&Login::new(USER, PASSCODE, vhost.name()))
        .await;
    client
}

/// The gateway's connections, as RabbitMQ counts them: tests have others, which come and go.
async fn links(vhost: &Vhost) -> usize {
    let connections = vhost.connections().await;
    let ours = connections
        .iter()
        .filter(|name| name.starts_with("stentor "));
    ours.count()
}

async fn refused(house: &House, vhost: &str) -> (String, Duration) {
    let mut client = house.raw_ws().await;
    let begun = Instant::now();
    client
        .send(&Login::new(USER, PASSCODE, vhost).frame())
        .await;
    let error = client.expect_error("Bad CONNECT").await;
    let took = begun.elapsed();
    assert_eq!(client.expect_closed().await.code, Some(1008));
    (String::from_utf8_lossy(&error.body).into_owned(), took)
}

#[tokio::test]
async fn a_virtual_host_has_links_while_it_is_used() {
    let house = open("1s").await;
    let other = vhost().await;
    assert_eq!(links(&other).await, 0);

    let mut first = client(&house, &other).await;
    first.subscribe("1", DESTINATION).await;
    eventually(DEADLINE, "links are there", async || {
        links(&other).await >= 2
    })
    .await;
    other.publish(FEED, KEY, ["one"]).await;
    first.expect_message("one").await;

    first.disconnect().await;
    eventually(DEADLINE, "links are closed", async || {
        links(&other).await == 0
    })
    .await;
    eventually(DEADLINE, "queues are gone", async || {
        other.queues().await.is_empty()
    })
    .await;
    assert!(links(&house.vhost).await > 0);
    house.gateway.until_ready().await;

    let mut again = client(&house, &other).await;
    again.subscribe("1", DESTINATION).await;
    other.publish(FEED, KEY, ["two"]).await;
    again.expect_message("two").await;
}

#[tokio::test]
async fn messages_stay_in_their_virtual_host() {
    let house = open("5m").await;
    let other = vhost().await;
    let (mut here, mut there) = (
        client(&house, &house.vhost).await,
        client(&house, &other).await,
    );
    for listener in [&mut here, &mut there] {
        listener.subscribe("1", DESTINATION).await;
    }
    for (vhost, body) in [(&house.vhost, "here"), (&other, "there")] {
        client(&house, vhost).await.publish(DESTINATION, body).await;
    }
    house.push(["fence"]).await;
    other.publish(FEED, KEY, ["fence"]).await;
    for (listener, first) in [(&mut here, "here"), (&mut there, "there")] {
        listener.expect_message(first).await;
        listener.expect_message("fence").await;
    }
}

/// The gateway has none of its own there.
#[tokio::test]
async fn an_exchange_named_like_one_of_the_gateway_s_is_another_application_s_elsewhere() {
    let (default, other) = (vhost().await, vhost().await);
    let house = House::start(default, |builder| {
        builder
            .set("broker.vhosts", "*")
            .set("presence.url", "memory:")
            .set("presence.events", true)
            .set("presence.exchange", "presence")
    })
    .await;
    other
        .declare_exchange("presence", ExchangeKind::Direct)
        .await;
    let mut client = client(&house, &other).await;
    client.subscribe("1", "/exchange/presence/theirs").await;
    other.publish("presence", "theirs", ["of theirs"]).await;
    client.expect_message("of theirs").await;
}

/// In the plug-in's words, and at once.
#[tokio::test]
async fn a_virtual_host_that_is_not_there_is_refused() {
    let house = open("5m").await;
    let name = unique("nowhere");
    for _ in 0..2 {
        let (body, took) = refused(&house, &name).await;
        assert_eq!(body, format!("Virtual host '{name}' access denied"));
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // RabbitMQ was asked once; then it was remembered.
    house.gateway.until_events("virtual host closed", 1).await;
    assert_eq!(house.gateway.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_virtual_host_that_the_account_may_not_use_is_refused() {
    let (default, closed) = (vhost().await, vhost().await);
    let account = unique("gateway");
    let api = default.node().api();
    api.add_user(&account, "secret").await;
    api.allow(default.name(), &account, [".*", ".*", ".*"])
        .await;
    let url = format!("amqp://{account}:secret@{}", default.node().amqp_address());
    let house = House::start(default, |builder| {
        builder.set("broker.url", url).set("broker.vhosts", "*")
    })
    .await;
    let (body, _) = refused(&house, closed.name()).await;
    assert_eq!(
        body,
        format!("Virtual host '{}' access denied", closed.name())
    );
    // The account is nobody's business.
    assert!(!body.contains(&account));
}

/// A URL as a service that rents a RabbitMQ prints it, and nothing else of virtual hosts; and
/// clients whose `host` is what they connect to.
#[tokio::test]
async fn a_url_names_the_virtual_host_and_machines_mean_it() {
    let vhost = vhost().await;
    let name = vhost.name().to_owned();
    let house = House::start(vhost.clone(), |builder| {
        builder
            .unset("broker.vhosts")
            .unset("broker.default_vhost")
            .set("broker.url", vhost.amqp_url())
            .set("broker.host_names", format!("push.example.com={name}"))
    })
    .await;
    for host in [
        "",
        "host:push.example.com\n",
        "host:Push.Example.com:15674\n",
    ] {
        let mut client = house.raw_tcp().await;
        let login = format!("login:{USER}\npasscode:{PASSCODE}");
        client
            .raw(format!("CONNECT\naccept-version:1.2\n{host}{login}\n\n\0"))
            .await;
        let connected = client.expect_frame().await;
        assert_eq!(
            connected.command,
            stomp_grammar::Command::Connected,
            "{host}"
        );
        client.subscribe("1", DESTINATION).await;
        house.push(["here"]).await;
        client.expect_message("here").await;
    }
    for host in ["other.example.com", "localhost", "127.0.0.1:61613"] {
        let (body, _) = refused(&house, host).await;
        let expected = format!("Virtual host '{host}' access denied\n");
        assert!(body.starts_with(&expected), "{body}");
        assert!(body.contains(&format!("\"host:{name}\"")), "{body}");
    }
    // Others are refused in the plug-in's words alone.
    let (body, _) = refused(&house, "nowhere").await;
    assert_eq!(body, "Virtual host 'nowhere' access denied");
}

#[tokio::test]
async fn a_client_refused_by_the_hook_makes_no_links() {
    let house = open("5m").await;
    let other = vhost().await;
    house
        .hook
        .answer(testkit::Call::Vhost, testkit::Answer::Deny);
    refused(&house, other.name()).await;
    house
        .hook
        .answer(testkit::Call::User, testkit::Answer::Deny);
    refused(&house, other.name()).await;
    let opened = house.gateway.until_events("virtual host opened", 1).await;
    assert_eq!(opened[0]["vhost"], house.vhost.name());
    assert_eq!(links(&other).await, 0);
}

#[tokio::test]
async fn clients_of_a_deleted_virtual_host_are_told() {
    let house = open("5m").await;
    let other = vhost().await;
    let mut listening = client(&house, &other).await;
    listening.subscribe("1", DESTINATION).await;
    let mut silent = client(&house, &other).await;
    let mut elsewhere = client(&house, &house.vhost).await;
    elsewhere.subscribe("1", DESTINATION).await;

    other.node().api().delete_vhost(other.name()).await;
    for client in [&mut listening, &mut silent] {
        client.expect_error("feed interrupted").await;
        client.expect_closed().await;
    }
    let (body, _) = refused(&house, other.name()).await;
    assert_eq!(
        body,
        format!("Virtual host '{}' access denied", other.name())
    );
    house.gateway.until_ready().await;
    house.push(["here"]).await;
    elsewhere.expect_message("here").await;
}

#[tokio::test]
async fn a_default_virtual_host_that_is_made_later_is_found() {
    let rabbit = RabbitMq::shared().await;
    let (hook, name) = (Hook::start().await, unique("late"));
    let gateway = stentor()
        .hook(&hook)
        .set(
            "broker.url",
            format!("amqp://guest:guest@{}", rabbit.amqp_address()),
        )
        .set("broker.vhosts", &name)
        .set("broker.default_vhost", &name)
        .set("broker.reconnect_max", "500ms")
        .start()
        .await;
    eventually(DEADLINE, "it says why", async || {
        gateway.admin("/readyz").await.1.contains("not found")
    })
    .await;
    rabbit.api().add_vhost(&name).await;
    gateway.until_ready().await;
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    client.connect(&Login::new(USER, PASSCODE, &name)).await;
    client.subscribe("1", "/topic/t").await;
}

/// A broker whose frames are small: headers that do not fit cost their sender alone.
#[tokio::test]
async fn headers_fit_the_broker_s_frames() {
    let rabbit = std::sync::Arc::new(RabbitMq::own().await);
    rabbit
        .ctl(&["eval", "application:set_env(rabbit, frame_max, 16384)."])
        .await;
    let own = rabbit.vhost().await;
    own.declare_exchange(FEED, ExchangeKind::Topic).await;
    let house = House::start(own, |builder| {
        builder.set("limits.max_header_size", "32KiB")
    })
    .await;
    let [mut listening, _ws] = house.subscribed().await;
    let send = |length: usize| {
        stomp_grammar::Frame::new(stomp_grammar::Command::Send)
            .with_header("destination", DESTINATION)
            .with_header("long", &"x".repeat(length))
    };
    let mut small = house.tcp().await;
    small.request(send(15_000)).await;
    let mut large = house.tcp().await;
    large.send(&send(17_000)).await;
    large.expect_error("precondition_failed").await;
    let bodies = listening.expect_messages(1).await;
    assert_eq!(bodies, [""]);
    small.request(send(10)).await;
    assert!(!house.gateway.log().text().contains("broker link down"));
}
