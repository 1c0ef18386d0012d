//! RabbitMQ or Redis goes away: nobody is disconnected, and nothing is lost.

use std::collections::BTreeSet;

use testkit::{DEADLINE, Proxy, eventually};

use super::{
    cluster::{Cluster, NODES},
    traffic::Traffic,
};
use crate::house::{until_written, vhost};

const ALL: [usize; NODES] = [0, 1, 2];

fn online() -> Vec<String> {
    let mut online = Traffic::users();
    online.push("sender".to_owned());
    online
}

/// Everybody had one connection from beginning to end, and got what it was promised.
async fn nobody_noticed(traffic: Traffic) {
    let (sent, stories) = traffic.end().await;
    let mut nodes = BTreeSet::new();
    for (listener, story) in &stories {
        story.holds(listener, &sent);
        let ends: Vec<_> = story.ends().collect();
        assert!(ends.is_empty(), "{}: {ends:?}", listener.login());
        nodes.extend(story.stays.iter().map(|stay| stay.node));
    }
    assert!(
        nodes.iter().copied().eq(ALL),
        "nobody was at some node: {nodes:?}"
    );
}

#[tokio::test]
async fn redis_goes_away_and_comes_back_empty() {
    let cluster = Cluster::open(|_, builder| builder).await;
    let traffic = Traffic::start(&cluster).await;
    cluster.until_online(&ALL, &online()).await;

    // All that it held is lost, and it is there all the time.
    cluster.redis.command(&["FLUSHALL"]).await;
    cluster.until_online(&ALL, &online()).await;
    traffic.flows().await;

    cluster.redis.kill();
    for gateway in cluster.gateways() {
        eventually(DEADLINE, "the node has noticed", async || {
            let (status, body) = gateway.admin("/readyz").await;
            // It is no reason to send clients elsewhere: there it is the same.
            assert_eq!(status, 200, "{body}");
            body.contains("unreachable: ")
        })
        .await;
    }
    let mut newcomer = cluster.tcp(1, "newcomer").await;
    newcomer.subscribe("1", "/exchange/feed/user_0").await;
    newcomer.expect_messages(3).await;
    traffic.flows().await;

    cluster.redis.start().await;
    let mut online = online();
    online.push("newcomer".to_owned());
    cluster.until_online(&ALL, &online).await;
    traffic.flows().await;
    nobody_noticed(traffic).await;
}

#[tokio::test]
async fn the_link_of_one_node_is_cut() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let (behind, address) = (vhost.clone(), proxy.address());
    let cluster = Cluster::open_in(vhost, move |node, builder| match node {
        0 => builder.vhost_via(&behind, &address),
        _ => builder,
    })
    .await;
    let traffic = Traffic::start(&cluster).await;
    until_written().await;

    // In mid-stream, again and again.
    for _ in 0..3 {
        let before = proxy.bytes_to_client();
        eventually(DEADLINE, "messages flow", async || {
            proxy.bytes_to_client() > before + 20_000
        })
        .await;
        proxy.cut();
    }
    cluster.gateway(0).until_ready().await;
    // And for a while: messages wait at RabbitMQ meanwhile.
    proxy.refuse();
    cluster.gateway(0).until_readyz(503).await;
    traffic.flows().await;
    for node in [1, 2] {
        assert_eq!(cluster.gateway(node).admin("/readyz").await.0, 200);
    }
    proxy.forward();
    cluster.gateway(0).until_ready().await;
    traffic.flows().await;
    nobody_noticed(traffic).await;
}
