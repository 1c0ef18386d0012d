//! What one session does, as its connection says.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    overview::fit,
    presence::no_session_heard,
};
use crate::{
    control::{Look, MAX_VIEW, NoAnswer, Seen},
    node::{SessionDetails, Source},
};

/// What a session does now, and has done since its connection was opened.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Details {
    /// The session's id.
    pub session: String,
    /// The node that holds it.
    pub node: String,
    /// The version of STOMP that it speaks.
    pub version: String,
    /// How long its connection has been open.
    pub open_seconds: u64,
    /// Frames that its client sent, heart-beats not counted.
    pub frames_in: u64,
    /// Frames sent to its client, heart-beats not counted.
    pub frames_out: u64,
    /// The messages among them: those that its client published.
    pub messages_in: u64,
    /// The messages among them: those that were delivered.
    pub messages_out: u64,
    /// Messages that wait in its mailbox.
    pub waiting_messages: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Bytes that wait for its socket: its client does not read.
    pub unwritten_bytes: usize,
    /// Frames that are being done, or wait for it.
    pub pending_frames: usize,
    /// Its subscriptions, the oldest first, as many as fit into an answer of 14 KiB.
    pub subscriptions: Vec<Subscription>,
    /// Subscriptions that are left out.
    #[serde(default)]
    pub subscriptions_left_out: usize,
}

/// A subscription of a session.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Subscription {
    /// Its id, as its client calls it.
    pub id: String,
    /// The exchange that it listens to, by a feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// The routing key, or the pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Or the queue of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// `auto`, `client` or `client-individual`.
    pub ack: String,
    /// Messages that were sent to it.
    pub messages: u64,
    /// Those of them that its client has to acknowledge.
    pub unacknowledged: usize,
}

/// What a session does: its subscriptions, frames, and what waits for it; of any node.
#[utoipa::path(
    get, path = "/api/v1/sessions/{id}/details", tag = "sessions",
    params(("id" = String, Path, description = "The session's id", min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "What it does", body = Details),
        (status = 404, description = "No node that was heard has it", body = super::ErrorBody),
    ),
    security(("token" = ["read"])),
)]
pub(super) async fn details(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let look = Look::Session(request.name().into());
    let Seen {
        nodes,
        silent,
        unreached,
    } = api.services.control.look(look).await;
    let mut views = nodes.into_iter().map(|(_, view)| view);
    let details: Option<Details> = views.find_map(|view| serde_json::from_value(view).ok());
    match details {
        Some(details) => Reply::ok(&details),
        None if silent.iter().any(|node| **node == *api.node) => Err(Refusal::unavailable(
            format!("this node has the session, but {NoAnswer}"),
        )),
        None => Err(no_session_heard(unreached.as_deref(), &silent)),
    }
}

/// What other nodes, and this one, are told of a session of this one; `None`: it is not here.
///
/// # Errors
/// It is here, and its connection has no answer.
pub(super) async fn view(api: &Api, id: &str) -> Result<Option<Value>, NoAnswer> {
    let Some(SessionDetails {
        version,
        open_for,
        frames_in,
        frames_out,
        messages_in,
        messages_out,
        waiting_messages,
        waiting_bytes,
        unwritten_bytes,
        pending,
        subscriptions,
    }) = api.services.registry.details(id).await?
    else {
        return Ok(None);
    };
    let subscriptions = subscriptions.into_iter().map(|subscription| {
        let (exchange, key, queue) = match subscription.source {
            Source::Feed(exchange, key) => (Some(exchange.into()), Some(key.into()), None),
            Source::Queue(queue) => (None, None, Some(queue.into())),
        };
        Subscription {
            id: subscription.name.into(),
            exchange,
            key,
            queue,
            ack: subscription.ack.to_owned(),
            messages: subscription.messages,
            unacknowledged: subscription.unacknowledged,
        }
    });
    // The other fields are numbers, and short.
    let (subscriptions, left_out) = fit(subscriptions.collect(), MAX_VIEW - 2 * 1024);
    let details = Details {
        session: id.to_owned(),
        node: api.node.to_string(),
        version: version.to_owned(),
        open_seconds: open_for.as_secs(),
        frames_in,
        frames_out,
        messages_in,
        messages_out,
        waiting_messages,
        waiting_bytes,
        unwritten_bytes,
        pending_frames: pending,
        subscriptions,
        subscriptions_left_out: left_out,
    };
    Ok(serde_json::to_value(&details).ok())
}
