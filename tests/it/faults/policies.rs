//! RabbitMQ's policies change under way, and the feeds' queues have to change with them.

use std::sync::Arc;

use serde_json::{Value, json};
use testkit::{DEADLINE, eventually};

use super::{crowd, crowds::Crowd};
use crate::house::House;

/// What drops nothing costs nothing: each message comes once, in order, and nobody is sent away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_drops_nothing_is_nobody_s_affair() {
    let opening =
        House::open_with(|builder| builder.set("limits.max_address_connects_per_second", 5_000));
    let house = Arc::new(opening.await);
    let (vhost, api) = (&house.vhost, house.vhost.node().api());
    let crowd = Crowd::start(&house, crowd(20)).await;
    crowd.flows().await;
    for definition in [
        json!({ "message-ttl": 600_000 }),
        json!({ "max-length": 1_000_000, "overflow": "reject-publish" }),
        // Queues are written anew by it.
        json!({ "queue-version": 2 }),
        json!({ "queue-mode": "lazy" }),
        json!({ "expires": 60_000 }),
        json!({ "dead-letter-exchange": "elsewhere" }),
    ] {
        api.set_policy(vhost.name(), r"^stentor\.feed\.", definition.clone())
            .await;
        let key = definition.as_object().unwrap().keys().next().unwrap();
        // The management plug-in has no policies where it may not collect figures.
        let list = ["--silent", "--formatter", "json", "list_queues", "-p"];
        let columns = ["name", "effective_policy_definition"];
        let list = [&list[..], &[vhost.name()], &columns[..]].concat();
        eventually(DEADLINE, format!("{definition} holds"), async || {
            let queues: Vec<Value> = match testkit::is_strict() {
                false => vhost.queues().await,
                true => {
                    let listed = vhost.node().ctl(&list).await;
                    serde_json::from_str(&listed).expect("a list of queues")
                }
            };
            let is_feed = |queue: &&Value| {
                let name = queue["name"].as_str().unwrap_or_default();
                name.starts_with("stentor.feed.")
            };
            // Versions write definitions in several ways.
            let holds = |queue: &Value| {
                let definition = queue["effective_policy_definition"].to_string();
                definition.contains(&format!("\"{key}\""))
            };
            let mut feeds = queues.iter().filter(is_feed).peekable();
            feeds.peek().is_some() && feeds.all(holds)
        })
        .await;
        crowd.flows().await;
    }
    let outcome = crowd.end().await;
    println!("{outcome:?}");
    assert!(outcome.confirmed > 0);
    assert_eq!((outcome.lost, outcome.doubled), (0, 0));
    assert_eq!((outcome.doubled_unmarked, outcome.marked_in_vain), (0, 0));
    assert!(outcome.sent_away.is_empty(), "{:?}", outcome.sent_away);
}
