//! Each client gets its messages once, wherever it is connected.

use std::collections::BTreeSet;

use testkit::{DEADLINE, FEED, StompClient, eventually};

use super::cluster::{Cluster, NODES};
use crate::house::{DESTINATION, House, KEY, expect_numbers, numbers, vhost};

#[tokio::test]
async fn each_client_gets_each_message_once() {
    let vhost = vhost().await;
    let one = House::start(vhost.clone(), |builder| builder).await;
    let other = House::start(vhost.clone(), |builder| builder).await;
    let mut clients: Vec<StompClient> = Vec::new();
    for house in [&one, &other] {
        clients.extend(house.subscribed().await);
        // The same user twice at one node, and by a pattern that matches as well.
        let mut by_pattern = house.ws().await;
        by_pattern.subscribe("all", "/exchange/feed/#").await;
        clients.push(by_pattern);
    }

    one.push(numbers(0..1000)).await;
    for client in &mut clients {
        expect_numbers(client, 0..1000).await;
    }

    // A message from a client of one node reaches those of both.
    let mut sender = other.tcp().await;
    for number in numbers(1000..1100) {
        sender.publish(DESTINATION, number).await;
    }
    for client in &mut clients {
        expect_numbers(client, 1000..1100).await;
    }
}

/// One queue, consumers at both nodes: each message goes to one of them.
#[tokio::test]
async fn a_queue_is_shared_among_nodes() {
    let vhost = vhost().await;
    let one = House::start(vhost.clone(), |builder| builder).await;
    let other = House::start(vhost.clone(), |builder| builder).await;
    let mut clients = [one.tcp().await, other.ws().await];
    for client in &mut clients {
        client
            .subscribe_with(
                "1",
                "/queue/work",
                &[("ack", "client"), ("prefetch-count", "5")],
            )
            .await;
    }
    vhost.publish("", "work", numbers(0..10)).await;
    let mut all = Vec::new();
    for client in &mut clients {
        // As many as the prefetch allows, for nothing is acknowledged.
        all.extend(client.expect_messages(5).await);
    }
    all.sort();
    assert_eq!(all, numbers(0..10));
}

/// One user, connected to every node: each connection gets each message once, and each node says
/// the same of who is here.
#[tokio::test]
async fn one_user_at_every_node() {
    let cluster = Cluster::open(|_, builder| builder).await;
    let mut clients = Vec::new();
    for node in 0..NODES {
        let mut client = cluster.tcp(node, "alice").await;
        client.subscribe("feed", DESTINATION).await;
        clients.push(client);
    }
    cluster.vhost.publish(FEED, KEY, numbers(0..100)).await;
    for client in &mut clients {
        expect_numbers(client, 0..100).await;
    }

    let said = eventually(DEADLINE, "all nodes say the same", async || {
        let mut said = Vec::new();
        for node in 0..NODES {
            said.push(cluster.presence(node, "users/alice").await);
        }
        let sessions = said[0].1["sessions"].as_array().map_or(0, Vec::len);
        (sessions == NODES && said.iter().all(|same| *same == said[0])).then_some(said)
    })
    .await;
    let sessions = said[0].1["sessions"].as_array().unwrap();
    let nodes: BTreeSet<&str> = sessions
        .iter()
        .filter_map(|session| session["node"].as_str())
        .collect();
    assert_eq!(nodes.len(), NODES, "{said:?}");

    // She is online for as long as one of her connections is.
    while let Some(client) = clients.pop() {
        cluster
            .until_online(&[0, 1, 2], &["alice".to_owned()])
            .await;
        client.disconnect().await;
    }
    cluster.until_online(&[0, 1, 2], &[]).await;
}
