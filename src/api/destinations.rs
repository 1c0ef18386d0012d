//! What clients are subscribed to, on all nodes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::spawn_blocking;
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
    let (services, text) = (std::sync::Arc::clone(&api.services), text.to_lowercase());
    let found = spawn_blocking(move || services.vhosts.destinations(&text, MAX_FOUND));
    let found = found.await.ok()?;
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
