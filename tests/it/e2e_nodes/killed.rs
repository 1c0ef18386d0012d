//! A node is killed, and has no time to say so.

use std::time::Duration;

use testkit::{DEADLINE, eventually};

use super::{
    cluster::{Cluster, LEASE},
    traffic::Traffic,
};

const KILLED: usize = 0;
const OTHERS: [usize; 2] = [1, 2];

#[tokio::test]
async fn a_node_is_killed_under_traffic() {
    let cluster = Cluster::open(|_, builder| {
        builder
            .set("feed.expires", "3s")
            .set("broker.connection_timeout", "1s")
    })
    .await;
    let traffic = Traffic::start(&cluster).await;
    let mut online = Traffic::users();
    online.push("sender".to_owned());
    let mut with_stray = online.clone();
    with_stray.push("stray".to_owned());
    // One who does not come back.
    let mut stray = cluster.tcp(KILLED, "stray").await;
    cluster.until_online(&[0, 1, 2], &with_stray).await;
    let queues = format!("stentor.feed.{}.", cluster.node_name_of("stray").await);
    assert!(count(&cluster, &queues).await > 0);

    cluster.kill(KILLED).await;
    // The second more is the test's own: for asking, on a busy machine.
    eventually(
        LEASE + Duration::from_secs(1),
        "the stray is offline",
        async || {
            let mut said = Vec::new();
            for node in OTHERS {
                said.push(cluster.presence(node, "users/stray").await);
            }
            said.iter().all(|(_, body)| body["status"] == "offline")
        },
    )
    .await;
    stray.expect_closed().await;
    cluster.until_online(&OTHERS, &online).await;
    traffic.everybody_is_back().await;
    traffic.flows().await;
    // RabbitMQ removes what the node cannot.
    eventually(DEADLINE, "its queues are gone", async || {
        count(&cluster, &queues).await == 0
    })
    .await;
    traffic.flows().await;

    let (sent, stories) = traffic.end().await;
    let mut cut = 0;
    for (listener, story) in &stories {
        story.holds(listener, &sent);
        for (stay, end) in story.ends() {
            let who = listener.login();
            assert_eq!(stay.node, KILLED, "{who} was at another node: {end:?}");
            assert_eq!(end.error, None, "{who}");
            cut += 1;
        }
    }
    assert!(cut > 0, "nobody was there");
}

/// The queues whose names begin so.
async fn count(cluster: &Cluster, prefix: &str) -> usize {
    let queues = cluster.vhost.queues().await;
    let named = |name: &str| name.starts_with(prefix);
    let queues = queues
        .iter()
        .filter(|queue| queue["name"].as_str().is_some_and(named));
    queues.count()
}
