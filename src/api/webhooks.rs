//! Webhooks of the node that is asked.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Api,
    answer::{Answer, Reply, Request},
};
use crate::webhooks::{Dead, ReceiverStatus};

/// The receivers of a node's webhooks.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhooks {
    /// The node.
    pub node: String,
    /// None, if `[webhooks] urls` has none.
    pub receivers: Vec<WebhookReceiver>,
}

/// A URL that gets events.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookReceiver {
    /// The URL, without its query.
    pub url: String,
    /// Why it takes no events now. Missing if it does, or if nothing was sent to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// Events that wait for it, or are on their way.
    pub waiting: usize,
    /// The bytes that they take.
    pub bytes: usize,
    /// Events that were dropped since the node started, for there was no room.
    pub dropped: u64,
    /// Events that were given up since then.
    pub given_up: u64,
    /// The last of those, `[webhooks] max_dead` at most, in order.
    pub dead: Vec<DeadEvent>,
}

/// An event that was given up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadEvent {
    /// Its id.
    pub id: String,
    /// `type` of its body.
    #[serde(rename = "type")]
    pub name: String,
    /// How often it was sent.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub cause: String,
    /// What the receiver did not take.
    #[schema(value_type = Object)]
    pub body: Value,
}

/// The receivers of webhooks, as this node sees them: what waits, and what was given up. Each node
/// has its own.
#[utoipa::path(
    get, path = "/api/v1/webhooks", tag = "webhooks",
    responses((status = 200, description = "The receivers", body = Webhooks)),
    security(("token" = ["read"])),
)]
pub(super) async fn webhooks(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let webhooks = api.services.webhooks.as_ref();
    let status = webhooks.map(|webhooks| webhooks.status());
    let receivers = status.into_iter().flatten();
    Reply::ok(&Webhooks {
        node: api.node.to_string(),
        receivers: receivers.map(WebhookReceiver::from).collect(),
    })
}

impl From<ReceiverStatus> for WebhookReceiver {
    fn from(status: ReceiverStatus) -> Self {
        Self {
            url: status.url,
            failing: status.failing.map(Into::into),
            waiting: status.waiting,
            bytes: status.bytes,
            dropped: status.dropped,
            given_up: status.given_up,
            dead: status.dead.iter().map(DeadEvent::from).collect(),
        }
    }
}

impl From<&Dead> for DeadEvent {
    fn from(dead: &Dead) -> Self {
        Self {
            id: dead.id.to_string(),
            name: dead.name.to_owned(),
            attempts: dead.attempts,
            cause: dead.cause.to_string(),
            // It is this program's own JSON.
            body: serde_json::from_slice(&dead.body).unwrap_or_default(),
        }
    }
}
