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
