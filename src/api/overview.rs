//! All nodes at a glance, as each of them says.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    figures::{Figures, Reason},
    node::{Feed, Process, time},
};
use crate::{
    control::{Look, MAX_VIEW, Seen},
    telemetry,
};

/// All nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// The nodes that answered within a second, the one that was asked first.
    pub nodes: Vec<NodeOverview>,
    /// Nodes that are known, and did not answer in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// Why other nodes could not be asked. Missing if they could, or if there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached: Option<String>,
}

/// A node at a glance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeOverview {
    /// Its name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// When it started.
    #[schema(format = DateTime)]
    pub started: String,
    /// When it answered, by its own clock.
    #[schema(format = DateTime)]
    pub at: String,
    /// `running`, or how far its end has come.
    pub phase: String,
    /// Why clients should not be sent to it. Missing if they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// A part that works less well: `memory: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// `ok`, or what is wrong at the broker.
    pub broker: String,
    /// The addresses of the broker, and how many links lead to each.
    pub links: Vec<Links>,
    /// `ok`, `off`, or what is wrong.
    pub presence: String,
    /// Connections that are open.
    pub connections: usize,
    /// Those of them that are logged in.
    pub sessions: usize,
    /// How many may be.
    pub max_connections: usize,
    /// Its metrics.
    pub figures: Figures,
    /// Its feeds; of very many, those that deliver most.
    pub feeds: Vec<FeedOverview>,
    /// Feeds that are left out.
    #[serde(default)]
    pub feeds_left_out: usize,
}

/// Links to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Links {
    /// Where they lead.
    pub address: String,
    /// How many there are.
    pub links: usize,
}

/// A feed, and its virtual host.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedOverview {
    /// The virtual host.
    pub vhost: String,
    /// The feed.
    #[serde(flatten)]
    pub feed: Feed,
}

/// Clients that were refused, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Refusals {
    /// By node: those that answered within a second, the one that was asked first.
    pub nodes: Vec<NodeRefusals>,
    /// Nodes that are known, and did not answer in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// Why other nodes could not be asked. Missing if they could, or if there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached: Option<String>,
}

/// Clients that one node refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeRefusals {
    /// Its name.
    pub node: String,
    /// How often, since it started, by reason: the most frequent first.
    pub reasons: Vec<Reason>,
    /// The last ones, the newest first: 200 at most, and as many as fit into a message of 14 KiB.
    pub recent: Vec<RefusedClient>,
}

/// A client that was refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RefusedClient {
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
    /// What it wanted: `login`, `permission`, `request` (before STOMP began); or `session`: that was
    /// ended with an ERROR.
    pub what: String,
    /// Why not.
    pub cause: String,
    /// Its user: claimed, for `login`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// All nodes at a glance: state, links, feeds and metrics of each, as it says itself.
#[utoipa::path(
    get, path = "/api/v1/overview", tag = "nodes",
    responses((status = 200, description = "The nodes", body = Overview)),
    security(("token" = ["read"])),
)]
pub(super) async fn overview(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let Seen {
        nodes,
        silent,
        unreached,
    } = api.services.control.look(Look::Overview).await;
    Reply::ok(&Overview {
        nodes: read(nodes)?,
        silent: names(silent),
        unreached: unreached.map(Into::into),
    })
}

/// The clients that nodes refused last, and how often they refused some, by reason. Kept in memory,
/// and counted, since each node started.
#[utoipa::path(
    get, path = "/api/v1/refusals", tag = "nodes",
    responses((status = 200, description = "The refusals", body = Refusals)),
    security(("token" = ["read"])),
)]
pub(super) async fn refusals(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let Seen {
        nodes,
        silent,
        unreached,
    } = api.services.control.look(Look::Refusals).await;
    Reply::ok(&Refusals {
        nodes: read(nodes)?,
        silent: names(silent),
        unreached: unreached.map(Into::into),
    })
}

fn names(nodes: Vec<Box<str>>) -> Vec<String> {
    nodes.into_iter().map(Into::into).collect()
}

/// This node's own answer is always as expected. Another's may be of a version that has other
/// fields: then it is left out.
fn read<T: for<'de> Deserialize<'de>>(nodes: Vec<(Box<str>, Value)>) -> Result<Vec<T>, Refusal> {
    let views = nodes.into_iter().map(|(_, view)| view);
    let read: Vec<T> = views
        .filter_map(|view| serde_json::from_value(view).ok())
        .collect();
    if read.is_empty() {
        let error = "this node has no view of itself";
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error));
    }
    Ok(read)
}

/// What other nodes, and this one, are told of this one.
pub(super) async fn view_node(api: &Api) -> Option<Value> {
    let process = api.process.get(Process::look).await;
    let figures = Figures::read(&super::metrics::text(api, &process).ok()?);
    let services = &api.services;
    let vhosts = services.vhosts.status();
    let feeds = vhosts.into_iter().flat_map(|vhost| {
        let name = vhost.name;
        vhost.feeds.into_iter().map(move |feed| FeedOverview {
            vhost: name.to_string(),
            feed: Feed::from(feed),
        })
    });
    let mut feeds: Vec<_> = feeds.collect();
    feeds.sort_by_key(|feed| std::cmp::Reverse(feed.feed.delivered));
    let links = telemetry::broker_places().into_iter();
    let mut overview = NodeOverview {
        node: api.node.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: time(api.started_at),
        at: time(SystemTime::now()),
        phase: api.phases.current().as_str().to_owned(),
        not_ready: api.readiness().err(),
        degraded: services.memory.degraded(),
        broker: match services.vhosts.health() {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        },
        links: links
            .map(|(address, links)| Links { address, links })
            .collect(),
        presence: api.presence_health(),
        connections: services.registry.len(),
        sessions: services.registry.logged_in(),
        max_connections: services.registry.max(),
        figures,
        feeds: Vec::new(),
        feeds_left_out: 0,
    };
    let room = MAX_VIEW.saturating_sub(size(&overview));
    (overview.feeds, overview.feeds_left_out) = fit(feeds, room);
    serde_json::to_value(&overview).ok()
}

/// The same of the clients that it refused.
pub(super) async fn view_refusals(api: &Api) -> Option<Value> {
    let process = api.process.get(Process::look).await;
    let reasons = super::figures::reasons(&super::metrics::text(api, &process).ok()?);
    let (reasons, _) = fit(reasons, MAX_VIEW / 2);
    let recent = telemetry::recent_refusals().into_iter();
    let recent = recent.map(|refusal| RefusedClient {
        at: time(refusal.at),
        what: refusal.what.to_owned(),
        cause: refusal.cause.into(),
        user: refusal.user.map(Into::into),
        remote: refusal.remote.map(|remote| remote.to_string()),
        session: refusal.session.map(Into::into),
    });
    let mut refusals = NodeRefusals {
        node: api.node.to_string(),
        reasons,
        recent: Vec::new(),
    };
    let room = MAX_VIEW.saturating_sub(size(&refusals));
    (refusals.recent, _) = fit(recent.collect(), room);
    serde_json::to_value(&refusals).ok()
}

fn size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(MAX_VIEW, |json| json.len())
}

/// The first entries, as many as fit into so many bytes; and how many do not.
pub(super) fn fit<T: Serialize>(mut entries: Vec<T>, room: usize) -> (Vec<T>, usize) {
    let mut taken = 0_usize;
    let fits = |entry: &&T| {
        taken = taken.saturating_add(size(entry)).saturating_add(1);
        taken <= room
    };
    let count = entries.iter().take_while(fits).count();
    let left_out = entries.len().saturating_sub(count);
    entries.truncate(count);
    (entries, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        // 5 bytes each: the quotes and a comma, too.
        let entries = || vec!["ab", "cd", "ef"];
        assert_eq!(fit(entries(), 14), (vec!["ab", "cd"], 1));
        assert_eq!(fit(entries(), 15), (entries(), 0));
        assert_eq!(fit(entries(), 0), (Vec::new(), 3));
    }
}
