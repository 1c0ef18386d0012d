//! Publishing by HTTP, as a backend does by AMQP: it knows nothing of who listens.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};
use utoipa::ToSchema;
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    presence::check_name,
};
use crate::{
    auth::Permission,
    broker::{
        BrokerError, DIRECT_REPLIES, ENCODED_TYPE, KeyLimits, Properties, Publish, is_reserved,
    },
    deadline::after,
    hub::{EnterError, Hub},
    presence::rooms::{Room, Rooms},
};

/// Keys in one call.
const MAX_KEYS: usize = 10_000;

/// Keys whose sessions are asked for in one call of the store.
const AT_A_TIME: usize = 1_000;

/// Messages of one call that the broker has not answered for yet, at most.
const WINDOW: usize = 256;

/// The same in bytes of bodies, properties and headers: each key takes a copy of them until it is
/// written.
const WINDOW_BYTES: usize = 8 << 20;

/// The same for all calls together that are not small.
pub(super) const ALL_BYTES: usize = 32 << 20;

/// Calls with so many bytes in all their messages are small. They wait for no room, which those to a
/// virtual host that does not answer may take; their number is `[api] max_requests`.
const SMALL: usize = 64 << 10;

/// Of the time that a request may take, so much is left for the answer: it names every key, where one
/// that is cut off names none.
const SPARE: Duration = Duration::from_secs(1);

/// AMQP has no room for longer names, in bytes.
const MAX_SHORT: usize = 255;

/// The user of messages that are slow to route: the API counts as one user.
const SLOW: &str = "HTTP API";

/// Headers by which the broker would route to others than the keys.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];

/// A message, and where it goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "exchange": "feed", "key": "user_alice", "body": "Your order has shipped", "persistent": true
}))]
pub struct PublishRequest {
    /// The virtual host; without it, `broker.default_vhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub vhost: Option<String>,
    /// The exchange; empty is AMQP's default exchange, where the key is a queue's name. Not those
    /// of the gateway's own: `control.exchange`, and that of presence events.
    #[schema(max_length = 255)]
    pub exchange: String,
    /// The routing key, of `limits.max_key_words` words at most. Either this or `keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub key: Option<String>,
    /// Several: the same message is published with each, 10,000 at most, of 255 bytes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 10_000)]
    pub keys: Option<Vec<String>>,
    /// The body, as text. Either this or `body_base64`; without both it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, as bytes in base64 (RFC 4648, 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Byte)]
    pub body_base64: Option<String>,
    /// The property `content-type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub content_type: Option<String>,
    /// The property `content-encoding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub content_encoding: Option<String>,
    /// The message survives a restart of RabbitMQ while it waits in a durable queue.
    #[serde(default)]
    pub persistent: bool,
    /// A message that reaches no queue is a failure. A feed's queue counts as reached, even if
    /// nobody is subscribed on that node.
    #[serde(default)]
    pub mandatory: bool,
    /// Answers for each key what became of the message (`report`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub report: bool,
    /// The property `priority`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The property `correlation-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
    /// The property `reply-to`: a queue's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub reply_to: Option<String>,
    /// After how many milliseconds in a queue the message is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_ms: Option<u32>,
    /// The property `message-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub message_id: Option<String>,
    /// The property `timestamp`: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// The property `type`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub kind: Option<String>,
    /// The property `app-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub app_id: Option<String>,
    /// Headers. `CC` and `BCC` are refused (name all keys), and so is `x-stomp-user`, which names
    /// the client that sent a message: no client did.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// All messages were published: the broker has confirmed each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// How many.
    pub published: usize,
    /// What became of each, in the order of the keys; if `report` asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub report: Vec<KeyReport>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyReport {
    /// The key.
    pub key: String,
    /// In one word.
    pub became: Became,
    /// The sessions that are subscribed to the key, on all nodes, as it was just before the message
    /// was published. Missing if nobody knows: `presence.destinations` does not name the exchange,
    /// or the store did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
}

/// What became of a message, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// Sessions are subscribed to the key: the message is on its way to them.
    Subscribed,
    /// A queue took it: a durable subscription's, a backend's, or a feed's. Without `sessions`
    /// nobody knows whether somebody is subscribed; with `sessions` 0, nobody is.
    Queued,
    /// No queue took it, and nobody gets it.
    Nobody,
}

/// Not all messages were published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishFailure {
    /// In words.
    pub error: String,
    /// How many were published: with all keys that are not in `failed`.
    pub published: usize,
    /// The others.
    pub failed: Vec<KeyFailure>,
    /// What became of those that were published, if `report` asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub report: Vec<KeyReport>,
}

/// A key with which a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyFailure {
    /// The key.
    pub key: String,
    /// Why.
    pub reason: FailureReason,
    /// In words; the broker's own, where it had some.
    pub detail: String,
}

/// Why a message was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// There is no such exchange.
    NotFound,
    /// The gateway's account may not publish to it, or the broker does not take such a message.
    Refused,
    /// It is mandatory, and reached no queue.
    Unroutable,
    /// A queue refused it: it is full, say.
    Nacked,
    /// The broker cannot be reached, or did not answer in time: it may have taken the message or
    /// not. Or the node is short of memory, and published nothing. To try again helps.
    Unavailable,
}

/// Publish a message with one routing key, or with many. Answers when the broker has confirmed
/// all of them.
///
/// If some are refused, the others are published all the same. A call that is cut off may have
/// published some. Only the token's scope is checked: no user's permissions are.
#[utoipa::path(
    post, path = "/api/v1/publish", tag = "publish", request_body = PublishRequest,
    responses(
        (status = 200, description = "All were published", body = Published),
        (status = 404, description = "No such virtual host", body = super::ErrorBody),
        (status = 422, description = "Some were refused; to try again does not help", body = PublishFailure),
        (status = 503, description = "Some found no broker; to try again helps", body = PublishFailure),
    ),
    security(("token" = ["publish"])),
)]
pub(super) async fn publish(api: &Api, request: Request) -> Answer {
    let until = after(api.timeout.saturating_sub(SPARE));
    request.no_query()?;
    let asked: PublishRequest = request.json()?;
    let message = Outgoing::new(asked, api)?;
    request.acts_on(message.shown());
    let name = message.vhost.as_deref().unwrap_or(&api.default_vhost);
    let total = message.keys.len();
    let mut report = Vec::new();
    let failed = match api.services.vhosts.enter(name).await {
        // Clients' messages wait then, in the clients.
        Ok(_) if api.services.memory.is_short() => message.all_failed(
            FailureReason::Unavailable,
            "the node is short of memory ([memory] watermark): publish again later",
        ),
        Ok(vhost) => {
            let rooms = api.services.rooms.as_deref();
            let known = message.known(rooms, vhost.name()).await;
            let outcomes = message.publish(api, &vhost, known.as_deref(), until).await;
            message.judge(outcomes, known.as_deref(), &mut report)
        }
        Err(EnterError::Refused(why)) => {
            return Err(Refusal::new(StatusCode::NOT_FOUND, why).about("vhost"));
        }
        Err(EnterError::Unavailable(why)) => {
            let error = BrokerError::Unavailable(why.into());
            message.all_failed(FailureReason::Unavailable, &error.to_string())
        }
    };
    let published = total.saturating_sub(failed.len());
    if failed.is_empty() {
        return Reply::ok(&Published { published, report });
    }
    let may_come = failed
        .iter()
        .any(|failure| failure.reason == FailureReason::Unavailable);
    let status = if may_come {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let error = match &*failed {
        [only] if total == 1 => format!("not published: {}", only.detail),
        _ => format!("{} of {total} messages were not published", failed.len()),
    };
    Reply::json(
        status,
        &PublishFailure {
            error,
            published,
            failed,
            report,
        },
    )
}

/// The message that is published, with each of the keys.
struct Outgoing {
    vhost: Option<String>,
    exchange: Box<str>,
    keys: Vec<String>,
    body: Bytes,
    properties: Properties,
    mandatory: bool,
    /// What became of it is to be told.
    reports: bool,
    key_limits: KeyLimits,
}

impl Outgoing {
    fn new(request: PublishRequest, api: &Api) -> Result<Self, Refusal> {
        let PublishRequest {
            vhost,
            exchange,
            key,
            keys,
            body,
            body_base64,
            persistent,
            mandatory,
            report,
            priority,
            expiration_ms,
            timestamp,
            headers,
            ..
        } = request;
        if let Some(name) = &vhost {
            check_name("vhost", name)?;
        }
        short("exchange", &exchange)?;
        // No 403: no token could do it, and `stentor ctl` would blame the token.
        let reserved = |field: &str, name: &str| {
            Refusal::field(field, format!("{name:?} is the gateway's own"))
        };
        if api.services.reserves_exchange(&exchange, Permission::Write) {
            return Err(reserved("exchange", &exchange));
        }
        if request.kind.as_deref() == Some(ENCODED_TYPE) {
            let error = "is not taken; RabbitMQ takes it for an encoding of the body";
            return Err(Refusal::field("type", error));
        }
        let field = if keys.is_some() { "keys" } else { "key" };
        let keys = self::keys(key, keys)?;
        let is_reserved = |key: &&String| api.services.reserves_key(&exchange, key);
        if let Some(key) = keys.iter().find(is_reserved) {
            return Err(reserved(field, key));
        }
        let key_limits = api.services.settings().limits.keys();
        for key in &keys {
            if let Err(error) = key_limits.slow(&exchange, key, SLOW) {
                return Err(Refusal::field(field, format!("{key:?} {error}")));
            }
        }
        if request.reply_to.as_deref() == Some(DIRECT_REPLIES) {
            let error =
                "is RabbitMQ's shortcut for consumers of a channel, and nobody consumes here";
            return Err(Refusal::field("reply_to", error));
        }
        let max_message = api.services.settings().limits.max_frame_size;
        let body = self::body(body, body_base64, max_message)?;
        let text = |field: &str, text: Option<String>| {
            text.map(|text| short(field, &text).map(|()| text.into()))
                .transpose()
        };
        let properties = Properties {
            content_type: text("content_type", request.content_type)?,
            content_encoding: text("content_encoding", request.content_encoding)?,
            persistent,
            priority,
            correlation_id: text("correlation_id", request.correlation_id)?,
            reply_to: text("reply_to", request.reply_to)?,
            expiration: expiration_ms.map(|milliseconds| milliseconds.to_string().into()),
            message_id: text("message_id", request.message_id)?,
            timestamp,
            kind: text("type", request.kind)?,
            user_id: None,
            app_id: text("app_id", request.app_id)?,
            headers: self::headers(headers)?,
        };
        let length = properties.encoded_len();
        if length > Properties::MAX_LEN {
            let error = format!(
                "take {length} bytes with the properties; AMQP has room for {}",
                Properties::MAX_LEN
            );
            return Err(Refusal::field("headers", error));
        }
        Ok(Self {
            vhost,
            exchange: exchange.into(),
            keys,
            body,
            properties,
            mandatory,
            reports: report,
            key_limits,
        })
    }

    /// The bytes that each key takes a copy of.
    fn size(&self) -> usize {
        let properties = self.properties.encoded_len();
        self.body.len().saturating_add(properties)
    }

    /// Where it goes, for the audit: the exchange, and the first of the keys.
    fn shown(&self) -> String {
        const SHOWN: usize = 3;
        let keys: Vec<&str> = self.keys.iter().take(SHOWN).map(|key| &**key).collect();
        let more = match self.keys.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("exchange {:?}, {}{more}", self.exchange, keys.join(", "))
    }

    /// The sessions that are subscribed to each key; `None`: nobody asks, or nobody knows.
    async fn known(&self, rooms: Option<&dyn Rooms>, vhost: &Arc<str>) -> Option<Vec<u64>> {
        let rooms = rooms.filter(|rooms| self.reports && rooms.counts(&self.exchange))?;
        let asked = self.keys.iter().map(|key| Room {
            vhost: Arc::clone(vhost),
            exchange: self.exchange.clone(),
            key: key.as_str().into(),
        });
        let asked: Vec<Room> = asked.collect();
        let mut known = Vec::with_capacity(asked.len());
        for some in asked.chunks(AT_A_TIME) {
            // Without it, the message goes out all the same.
            let found = rooms.occupancy(some).await.ok()?;
            known.extend(found.into_iter().map(|room| room.sessions));
        }
        Some(known)
    }

    /// Whether the broker is asked if a queue takes the message with this key: if it is of use.
    fn asks(&self, sessions: Option<u64>) -> bool {
        self.mandatory || self.reports && sessions.unwrap_or_default() == 0
    }

    /// No message was published, all for the same reason.
    fn all_failed(&self, reason: FailureReason, detail: &str) -> Vec<KeyFailure> {
        let keys = self.keys.iter();
        keys.map(|key| KeyFailure {
            key: key.clone(),
            reason,
            detail: detail.to_owned(),
        })
        .collect()
    }

    /// The keys that failed, and what became of the others, if it is to be told.
    fn judge(
        &self,
        outcomes: Vec<Option<KeyFailure>>,
        known: Option<&[u64]>,
        report: &mut Vec<KeyReport>,
    ) -> Vec<KeyFailure> {
        let mut failed = Vec::new();
        for (index, (key, outcome)) in self.keys.iter().zip(outcomes).enumerate() {
            let sessions = sessions(known, index);
            let became = match &outcome {
                Some(failure) if failure.reason == FailureReason::Unroutable && !self.mandatory => {
                    Became::Nobody
                }
                Some(_) => {
                    failed.extend(outcome);
                    continue;
                }
                None if sessions.is_some_and(|sessions| sessions > 0) => Became::Subscribed,
                None => Became::Queued,
            };
            if self.reports {
                report.push(KeyReport {
                    key: key.clone(),
                    became,
                    sessions,
                });
            }
        }
        failed
    }

    /// Publishes up to that moment, and answers for each key the failure, if it failed.
    async fn publish(
        &self,
        api: &Api,
        vhost: &Hub,
        known: Option<&[u64]>,
        until: Instant,
    ) -> Vec<Option<KeyFailure>> {
        // One that is begun later could not have its answer in time.
        let last = until.checked_sub(api.operation_timeout).unwrap_or(until);
        let size = self.size();
        let bytes = if size.saturating_mul(self.keys.len()) <= SMALL {
            0
        } else {
            u32::try_from(size.min(ALL_BYTES)).unwrap_or(u32::MAX)
        };
        // When the broker is away each message would wait for it anew.
        let (message, is_away) = (self, &AtomicBool::new(false));
        // Nobody else's: a lane's messages wait for one another.
        let lane: u64 = rand::random();
        // Keys of their own: a future that borrows from an iterator's item is not `Send` enough.
        let keys = message.keys.clone().into_iter().enumerate();
        let publishing = keys.map(|(index, key)| async move {
            let mandatory = message.asks(sessions(known, index));
            let not_tried = |why: &str| {
                let error = BrokerError::Unavailable(why.into());
                Some(KeyFailure::new(&key, &error))
            };
            let too_late = || {
                if is_away.load(Ordering::Relaxed) {
                    Some("not tried, for others found it away, or no room")
                } else if Instant::now() >= last {
                    Some("not tried: the others took all the time that a call has")
                } else {
                    None
                }
            };
            if let Some(why) = too_late() {
                return not_tried(why);
            }
            // Never closed. The bytes are given back when the broker has answered.
            let waiting = timeout(api.operation_timeout, api.publishing.acquire_many(bytes));
            let Ok(_room) = waiting.await else {
                is_away.store(true, Ordering::Relaxed);
                return not_tried("not tried: other calls' messages leave it no room");
            };
            if let Some(why) = too_late() {
                return not_tried(why);
            }
            // Messages with different keys need no order, so that all channels serve them.
            let lane = lane.wrapping_add(index as u64);
            let confirming = async {
                let publish = message.with_key(&key, lane, mandatory);
                let confirmed = async { vhost.publish(publish).await?.await }.await;
                // An exchange that is read whole takes every message, so it takes no such question.
                let asks_only = mandatory && !message.mandatory;
                if asks_only && matches!(confirmed, Err(BrokerError::Unsupported(_))) {
                    let unasked = message.with_key(&key, lane, false);
                    return vhost.publish(unasked).await?.await;
                }
                confirmed
            };
            let confirmed = timeout_at(until, confirming).await.unwrap_or_else(|_| {
                let why = "no answer in the time that a call has: it may have taken the message";
                Err(BrokerError::Unavailable(why.into()))
            });
            let error = confirmed.err()?;
            if matches!(error, BrokerError::Unavailable(_)) {
                is_away.store(true, Ordering::Relaxed);
            }
            Some(KeyFailure::new(&key, &error))
        });
        stream::iter(publishing)
            .buffered(window(size))
            .collect()
            .await
    }

    /// One message of those that it is published as.
    fn with_key(&self, key: &str, lane: u64, mandatory: bool) -> Publish {
        let slow = self.key_limits.slow(&self.exchange, key, SLOW);
        Publish {
            exchange: self.exchange.clone(),
            routing_key: key.into(),
            properties: self.properties.clone(),
            body: self.body.clone(),
            mandatory,
            lane,
            slow: slow.ok().flatten(),
        }
    }
}

impl KeyFailure {
    fn new(key: &str, error: &BrokerError) -> Self {
        Self {
            key: key.to_owned(),
            reason: match error {
                BrokerError::NotFound(_) => FailureReason::NotFound,
                BrokerError::Unroutable => FailureReason::Unroutable,
                BrokerError::Nacked => FailureReason::Nacked,
                BrokerError::Unavailable(_) => FailureReason::Unavailable,
                _ => FailureReason::Refused,
            },
            detail: error.to_string(),
        }
    }
}

/// How many messages of so many bytes a call has under way.
fn window(size: usize) -> usize {
    WINDOW_BYTES
        .checked_div(size)
        .unwrap_or(WINDOW)
        .clamp(1, WINDOW)
}

fn sessions(known: Option<&[u64]>, index: usize) -> Option<u64> {
    known.and_then(|known| known.get(index)).copied()
}

fn keys(key: Option<String>, keys: Option<Vec<String>>) -> Result<Vec<String>, Refusal> {
    let (field, keys) = match (key, keys) {
        (Some(key), None) => ("key", vec![key]),
        (None, Some(keys)) => ("keys", keys),
        (Some(_), Some(_)) => {
            return Err(Refusal::field("keys", "stands beside \"key\"; one of them"));
        }
        (None, None) => {
            return Err(Refusal::field(
                "key",
                "is missing; or \"keys\", for several",
            ));
        }
    };
    if keys.is_empty() {
        return Err(Refusal::field(
            field,
            "is empty; nothing would be published",
        ));
    }
    if keys.len() > MAX_KEYS {
        let error = format!(
            "has {} keys; at most {MAX_KEYS} go into one call",
            keys.len()
        );
        return Err(Refusal::field(field, error));
    }
    for (index, key) in keys.iter().enumerate() {
        let field = if field == "key" {
            "key".to_owned()
        } else {
            format!("keys[{index}]")
        };
        short(&field, key)?;
    }
    Ok(keys)
}

fn body(text: Option<String>, base64: Option<String>, most: usize) -> Result<Bytes, Refusal> {
    let (field, body) = match (text, base64) {
        (text, None) => ("body", text.unwrap_or_default().into_bytes()),
        (None, Some(base64)) => {
            let body = STANDARD
                .decode(base64)
                .map_err(|error| Refusal::field("body_base64", format!("is no base64: {error}")))?;
            ("body_base64", body)
        }
        (Some(_), Some(_)) => {
            return Err(Refusal::field(
                "body_base64",
                "stands beside \"body\"; one of them",
            ));
        }
    };
    if body.len() > most {
        let error = format!(
            "has {} bytes; clients are sent at most {most} ([limits] max_frame_size)",
            body.len()
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error).about(field));
    }
    Ok(body.into())
}

type Pairs = Vec<(Box<str>, Box<str>)>;

fn headers(headers: BTreeMap<String, String>) -> Result<Pairs, Refusal> {
    for name in headers.keys() {
        let field = format!("headers.{name}");
        if name.is_empty() {
            return Err(Refusal::field("headers", "has a header without a name"));
        }
        if name.len() > MAX_SHORT {
            return Err(Refusal::field(
                "headers",
                "has a name of more than 255 bytes",
            ));
        }
        if ROUTING_HEADERS.contains(&name.as_str()) {
            return Err(Refusal::field(
                &field,
                "is not taken; name all keys in \"keys\"",
            ));
        }
        if is_reserved(name) {
            let error = "is not taken; Stentor or RabbitMQ says it of a message";
            return Err(Refusal::field(&field, error));
        }
    }
    let headers = headers.into_iter();
    Ok(headers
        .map(|(name, value)| (name.into(), value.into()))
        .collect())
}

fn short(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_SHORT {
        let error = format!("has {} bytes; AMQP has room for {MAX_SHORT}", text.len());
        return Err(Refusal::field(field, error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_so_many_bytes_under_way_whatever_its_message() {
        for (size, messages) in [
            (0, 256),
            (1, 256),
            (32 << 10, 256),
            (64 << 10, 128),
            (4 << 20, 2),
            ((4 << 20) + 1, 1),
            (100 << 20, 1),
        ] {
            assert_eq!(window(size), messages, "{size}");
        }
    }
}
