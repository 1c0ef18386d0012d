//! Cut links, a broker that restarts, gateways that are killed: nothing is missed, nothing comes twice.

use super::*;
use crate::house::KEY;

#[tokio::test]
async fn a_cut_link_costs_nothing() {
    let house = House::open_with(kept).await;
    let mut client = house.ws().await;
    client.subscribe("feed", DESTINATION).await;
    for round in 0..4 {
        let start = round * 50;
        house.push(numbers(start..start + 25)).await;
        house.vhost.close_connections().await;
        house.push(numbers(start + 25..start + 50)).await;
        expect_numbers(&mut client, start..start + 50).await;
    }
}

#[tokio::test]
async fn a_restart_of_the_broker_costs_nothing() {
    let node = std::sync::Arc::new(RabbitMq::own().await);
    let vhost = crate::house::vhost_on(&node).await;
    let house = House::start(vhost, kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let mut client = house.ws().await;
    client.subscribe("feed", DESTINATION).await;
    house.push(numbers(3..6)).await;
    expect_numbers(&mut client, 3..6).await;
    node.restart().await;
    is_written_again(&node).await;
    house.push(numbers(6..9)).await;
    expect_numbers(&mut client, 6..9).await;
    let mut other = house.tcp().await;
    let (receipt, missed) = subscribe(&mut other, &[("resume-after", &last)]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "6")]);
    assert_eq!(bodies(&missed), numbers(3..9));
}

/// While RabbitMQ is short of memory, no marker can tell where what comes is new. The exchange comes
/// when that is known, so that its journal is not read before.
#[tokio::test]
async fn nothing_of_before_is_new_in_an_alarm() {
    let rabbit = std::sync::Arc::new(RabbitMq::own().await);
    let vhost = crate::house::vhost_on(&rabbit).await;
    let hook = testkit::Hook::start().await;
    let start = async || {
        let builder = stentor().vhost(&vhost).hook(&hook);
        kept(builder)
            .set("broker.operation_timeout", "4s")
            .ready()
            .await
    };
    let limit = async |limit: &[&str]| {
        let command = ["set_vm_memory_high_watermark"];
        rabbit.ctl(&[&command, limit].concat()).await;
    };
    let login = testkit::Login::new("alice", "secret", vhost.name());
    let before: Gateway = start().await;
    let bound = async || vhost.is_bound(FEED, "#").await;
    eventually(DEADLINE, "the journal is bound", bound).await;
    // Large ones, so that they take a while to be read.
    vhost
        .publish(FEED, KEY, vec![vec![b'x'; 400_000]; 20])
        .await;
    before.kill().await;
    let deleting = vhost.channel().await;
    let options = lapin::options::ExchangeDeleteOptions::default();
    deleting
        .exchange_delete(FEED.into(), options)
        .await
        .unwrap();

    let gateway: Gateway = start().await;
    limit(&["absolute", "1MB"]).await;
    let mut sender = StompClient::tcp(gateway.stomp_address()).await;
    sender.connect(&login).await;
    sender
        .raw("SEND\ndestination:/queue/q\nreceipt:r\n\nduring\0")
        .await;
    sender.expect_error("broker unavailable").await;
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    client.connect(&login).await;
    vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    client.subscribe("feed", DESTINATION).await;
    limit(&["0.7"]).await;
    vhost.publish(FEED, KEY, ["new"]).await;
    client.expect_message("new").await;
}

/// Messages come during the alarm, and after it, so that it is never quiet: dead letters, which RabbitMQ
/// does not hold back.
#[tokio::test]
async fn a_journal_that_is_never_quiet_is_ready_after_an_alarm() {
    use lapin::types::AMQPValue;

    let rabbit = std::sync::Arc::new(RabbitMq::own().await);
    let vhost = rabbit.vhost().await;
    let hook = testkit::Hook::start().await;
    let builder = stentor().vhost(&vhost).hook(&hook);
    let gateway: Gateway = kept(builder)
        .set("broker.operation_timeout", "20s")
        .ready()
        .await;
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let login = testkit::Login::new("alice", "secret", vhost.name());
    client.connect(&login).await;

    let channel = vhost.channel().await;
    let mut arguments = lapin::types::FieldTable::default();
    for (name, value) in [
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", "stentor.journal.feed"),
    ] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let options = lapin::options::QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let declaring = channel.queue_declare("drops".into(), options, arguments);
    declaring.await.unwrap();
    for number in 1..=450 {
        let expiration = (number * 200).to_string();
        let properties =
            lapin::BasicProperties::default().with_expiration(expiration.as_str().into());
        let options = lapin::options::BasicPublishOptions::default();
        let publishing =
            channel.basic_publish("".into(), "drops".into(), options, b"drop", properties);
        publishing.await.unwrap().await.unwrap();
    }

    let limit = async |limit: &[&str]| {
        let command = ["set_vm_memory_high_watermark"];
        rabbit.ctl(&[&command, limit].concat()).await;
    };
    limit(&["absolute", "1MB"]).await;
    // Where this is refused, the gateway has heard of the alarm.
    let mut sender = StompClient::tcp(gateway.stomp_address()).await;
    sender.connect(&login).await;
    sender
        .raw("SEND\ndestination:/queue/q\nreceipt:r\n\nduring\0")
        .await;
    sender.expect_error("broker unavailable").await;
    vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    let subscribe = format!("SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:s\n\n\0");
    client.raw(subscribe).await;
    limit(&["0.7"]).await;
    client.expect_receipt("s").await;
    vhost.publish(FEED, KEY, ["new"]).await;
    client.expect_message("new").await;
}

/// Some milliseconds after its start RabbitMQ makes a stream's writer. What is published before that
/// it confirms and loses, which no gateway can see.
async fn is_written_again(node: &RabbitMq) {
    let again = async || node.log().matches(": started writer ").count() >= 2;
    eventually(DEADLINE, "the stream has a writer again", again).await;
}

/// Clients go from node to node, which are killed, while messages come: each gets all of them.
#[tokio::test]
async fn nodes_that_are_killed_cost_nothing() {
    const ALL: usize = 3_000;
    let vhost = vhost().await;
    let hook = testkit::Hook::start().await;
    let start = async || {
        let builder = stentor().vhost(&vhost).hook(&hook);
        kept(builder).ready().await
    };
    let login = testkit::Login::new("alice", "secret", vhost.name());
    let mut node: Gateway = start().await;
    let bound = async || vhost.is_bound(FEED, "#").await;
    eventually(DEADLINE, "the journal is bound", bound).await;
    let publishing = async {
        for start in (0..ALL).step_by(20) {
            vhost.publish(FEED, KEY, numbers(start..start + 20)).await;
        }
    };
    let hearing = async {
        let (mut heard, mut last) = (0, None::<String>);
        while heard < ALL {
            let next = start().await;
            let mut client = StompClient::tcp(node.stomp_address()).await;
            client.connect(&login).await;
            let wish = match &last {
                Some(last) => ("resume-after", &**last),
                None => ("since", "first"),
            };
            let headers = [("id", "feed"), ("destination", DESTINATION), wish];
            client.send(&asking(&headers)).await;
            let enough = ALL.min(heard + ALL / 4);
            while heard < enough {
                let message = client.expect_message(&heard.to_string()).await;
                (heard, last) = (heard + 1, Some(cursor(&message)));
            }
            node.kill().await;
            node = next;
        }
    };
    let both = async { tokio::join!(publishing, hearing) };
    tokio::time::timeout(10 * DEADLINE, both).await.unwrap();
}
