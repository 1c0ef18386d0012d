//! Every node is replaced, one after the other, while messages flow.

use super::{
    cluster::{Cluster, NODES},
    events::Events,
    traffic::{Kind, Traffic},
};

#[tokio::test]
async fn every_node_is_replaced_under_traffic() {
    let mut cluster = Cluster::open(|_, builder| builder.set("presence.debounce", "10s")).await;
    let mut events = Events::of(&cluster.vhost, "user.#").await;
    let traffic = Traffic::start(&cluster).await;
    let mut online = Traffic::users();
    online.push("sender".to_owned());
    online.sort();
    let joined = events.next_sorted(online.len()).await;
    assert_eq!(
        joined,
        Vec::from_iter(online.iter().map(|user| format!("join {user} online")))
    );

    for node in 0..NODES {
        cluster.restart(node).await;
        traffic.everybody_is_back().await;
        traffic.flows().await;
    }
    let everywhere: Vec<usize> = (0..NODES).collect();
    cluster.until_online(&everywhere, &online).await;
    // To others, a user who comes back at another node has not left.
    let _newcomer = cluster.tcp(0, "newcomer").await;
    assert_eq!(events.next().await, "join newcomer online");

    let (sent, stories) = traffic.end().await;
    let mut told = [0; NODES];
    for (listener, story) in &stories {
        story.holds(listener, &sent);
        for (stay, end) in story.ends() {
            let who = listener.login();
            assert!(end.is_a_farewell(listener.transport), "{who}: {end:?}");
            assert_eq!(end.watched, Some(stay.node), "{who} was told by another");
            told[stay.node] += 1;
        }
    }
    assert!(
        told.iter().all(|&told| told > 0),
        "nobody was there: {told:?}"
    );
    let durable = stories
        .iter()
        .filter(|(listener, _)| listener.kind == Kind::Durable);
    let again: usize = durable.map(|(_, story)| story.redelivered()).sum();
    assert!(again > 0, "what was not acknowledged comes again");
}
