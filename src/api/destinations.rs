//! What clients are subscribed to, on all nodes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::Semaphore, task::spawn_blocking};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    answer::{Answer, Reply, Request},
    overview::fit,
    presence::check_name,
};
use crate::control::{Look, MAX_VIEW, Seen};

/// So many are found on a node at most; fewer, if they are long.
const MAX_FOUND: usize = 200;

/// Searches at a time.
const SEARCHES: usize = 2;

/// The turns of searches. Each has a thread, and goes on when its caller hangs up: others wait for
/// those threads, too, and for the feeds that are searched.
pub(super) struct Searches(Arc<Semaphore>);

/// What to look for.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DestinationsQuery {
    /// A text in the exchange's name or the key; capitals and small letters are one.
    #[param(min_length = 1, max_length = 255)]
    search: Option<String>,
}

/// What clients are subscribed to.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Destinations {
    /// By node: those that answered within a second, the one that was asked first.
    pub nodes: Vec<NodeDestinations>,
    /// Nodes that are known, and did not answer in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// Why other nodes could not be asked. Missing if they could, or if there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached: Option<String>,
}

/// What clients of one node are subscribed to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeDestinations {
    /// The node.
    pub node: String,
    /// Those with most subscriptions, 200 at most, and as many as fit into 14 KiB.
    pub destinations: Vec<Destination>,
    /// How many there are.
    pub total: usize,
}

/// A destination with subscriptions that feeds serve.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Destination {
    /// The virtual host.
    pub vhost: String,
    /// The exchange.
    pub exchange: String,
    /// The routing key, or the pattern.
    pub key: String,
    /// Subscriptions to it on this node.
    pub subscriptions: usize,
}

/// What clients are subscribed to by feeds, on all nodes; the most popular ones. Subscriptions with
/// a queue of their own are not among them.
#[utoipa::path(
    get, path = "/api/v1/destinations", tag = "nodes", params(DestinationsQuery),
    responses((status = 200, description = "The destinations", body = Destinations)),
    security(("token" = ["read"])),
)]
pub(super) async fn destinations(api: &Api, request: Request) -> Answer {
    let DestinationsQuery { search } = request.query()?;
    if let Some(text) = &search {
        check_name("search", text)?;
    }
    let look = Look::Destinations(search.unwrap_or_default().into());
    let Seen {
        nodes,
        silent,
        unreached,
    } = api.services.control.look(look).await;
    let views = nodes.into_iter().map(|(_, view)| view);
    Reply::ok(&Destinations {
        nodes: views
            .filter_map(|view| serde_json::from_value(view).ok())
            .collect(),
        silent: silent.into_iter().map(Into::into).collect(),
        unreached: unreached.map(Into::into),
    })
}

/// What other nodes, and this one, are told of this one.
pub(super) async fn view(api: &Api, text: &str) -> Option<Value> {
    let (services, text) = (Arc::clone(&api.services), text.to_lowercase());
    let search = move || services.vhosts.destinations(&text, MAX_FOUND);
    let found = api.searches.run(search).await?;
    let destinations = found.most.into_iter().map(|found| Destination {
        vhost: found.vhost.into(),
        exchange: found.exchange.into(),
        key: found.key.into(),
        subscriptions: found.subscriptions,
    });
    let (destinations, _) = fit(destinations.collect(), MAX_VIEW - 1024);
    let view = NodeDestinations {
        node: api.node.to_string(),
        destinations,
        total: found.total,
    };
    serde_json::to_value(&view).ok()
}

impl Default for Searches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SEARCHES)))
    }
}

impl Searches {
    /// Searches when its turn comes. The turn lasts as long as the search.
    async fn run<T: Send + 'static>(
        &self,
        search: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // Never closed.
        let turn = Arc::clone(&self.0).acquire_owned().await.ok()?;
        let searching = spawn_blocking(move || {
            let _turn = turn;
            search()
        });
        searching.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering::Relaxed},
            mpsc,
        },
        time::Duration,
    };

    use futures_util::FutureExt as _;
    use parking_lot::Mutex;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn searches_whose_callers_hang_up_are_few() {
        let searches = Searches::default();
        let begun = Arc::<AtomicUsize>::default();
        let (go_on, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..100 {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            let search = searches.run(move || {
                begun.fetch_add(1, Relaxed);
                let _ = gate.lock().recv();
            });
            // It is begun, or waits; and its caller is gone.
            assert_eq!(search.now_or_never(), None);
        }
        assert_eq!(searches.0.available_permits(), 0);
        drop(go_on);
        let turns = searches.0.acquire_many(SEARCHES.try_into().unwrap());
        let _all = timeout(Duration::from_secs(10), turns)
            .await
            .expect("they end")
            .unwrap();
        assert_eq!(begun.load(Relaxed), SEARCHES);
    }
}
