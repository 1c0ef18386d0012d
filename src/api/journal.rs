//! Messages that journals have kept.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, ErrorBody, Refusal, Reply, Request},
    presence::{MAX_NAME, check_name},
};
use crate::{
    broker::{BrokerError, Message, Stored, journal::CURSOR_HEADER},
    hub::{EnterError, HistoryAsk, ResumeError, Since},
};

/// Messages of one page.
const MAX_PAGE: usize = 1_000;
/// The same, if it is not said.
const PAGE: usize = 100;

/// Which messages.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// The virtual host; without it, `broker.default_vhost`.
    #[param(min_length = 1, max_length = 255)]
    vhost: Option<String>,
    /// Those with this routing key; of a topic exchange also a pattern with `*` and `#`.
    #[param(max_length = 255)]
    key: String,
    /// Those after the one with this cursor: `next` of the page before, or the header `cursor` of a
    /// MESSAGE. Without it, from the first one that is there.
    after: Option<String>,
    /// So many at most, and about 4 MiB; there may be fewer although more follow. 100 if it is not
    /// given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// A page of a journal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The messages, in order.
    pub messages: Vec<JournalMessage>,
    /// `after` of the next page: it is good for messages that are still to come, too. Without it,
    /// the journal is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Whether the journal has more that this page did not look at.
    pub has_more: bool,
    /// Messages that are missing here, for they are larger than `feed.max_length_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<usize>,
}

/// A message of a journal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JournalMessage {
    /// Where it stands; as the header `cursor` of its MESSAGE.
    pub cursor: String,
    /// The routing key.
    pub key: String,
    /// The body, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Byte)]
    pub body_base64: Option<String>,
    /// The property `content-type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The property `message-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The property `timestamp`: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// Headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Messages that an exchange's journal has kept, without a subscription: a page at a time, for a
/// client that shows what was, or for a backend that catches up.
#[utoipa::path(
    get, path = "/api/v1/journal/{exchange}", tag = "journal",
    params(
        ("exchange" = String, Path, description = "The exchange, percent-encoded", min_length = 1, max_length = 255),
        HistoryQuery,
    ),
    responses(
        (status = 200, description = "A page", body = History),
        (status = 404, description = "The exchange has no journal, or there is no such virtual host", body = ErrorBody),
        (status = 410, description = "Messages after that cursor are not there any more", body = ErrorBody),
    ),
    security(("token" = ["history"])),
)]
pub(super) async fn history(api: &Api, request: Request) -> Answer {
    let query: HistoryQuery = request.query()?;
    let exchange = request.name();
    request.acts_on(format!("{exchange} {}", query.key));
    for (field, text) in [("exchange", exchange), ("key", &query.key)] {
        if text.len() > MAX_NAME {
            return Err(Refusal::field(field, "is longer than 255 bytes"));
        }
    }
    if let Some(name) = &query.vhost {
        check_name("vhost", name)?;
    }
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Refusal::field("limit", "is not from 1 to 1000"));
    }
    let since = match &query.after {
        Some(text) => {
            let cursor = text.parse();
            Since::After(cursor.map_err(|_| Refusal::field("after", "is no cursor"))?)
        }
        None => Since::First,
    };
    let settings = api.services.settings();
    let pattern = settings.limits.keys().pattern(&query.key);
    let pattern = pattern.map_err(|error| Refusal::field("key", error.to_string()))?;
    let vhost = query.vhost.as_deref().unwrap_or(&api.default_vhost);
    let hub = api.services.vhosts.enter(vhost).await.map_err(no_vhost)?;
    let ask = HistoryAsk {
        pattern: &pattern,
        since,
        limit,
    };
    let page = hub.history(exchange, &ask).await.map_err(refusal)?;
    Reply::ok(&History {
        messages: page.messages.iter().map(JournalMessage::from).collect(),
        next: page.next.map(|cursor| cursor.to_string()),
        has_more: page.has_more,
        left_out: Some(page.left_out).filter(|count| *count > 0),
    })
}

fn no_vhost(error: EnterError) -> Refusal {
    match error {
        EnterError::Refused(text) => Refusal::new(StatusCode::NOT_FOUND, &*text).about("vhost"),
        EnterError::Unavailable(text) => Refusal::unavailable(&*text),
    }
}

fn refusal(error: ResumeError) -> Refusal {
    match error {
        ResumeError::NoJournal => {
            let text = "the exchange has no journal ([journal] exchanges)";
            Refusal::new(StatusCode::NOT_FOUND, text).about("exchange")
        }
        ResumeError::Foreign => Refusal::field("after", "is a cursor of another exchange"),
        ResumeError::Gap(gap, _) => {
            let text = format!(
                "messages after that cursor are not there any more ({gap}); leave it out to begin \
                 with the first one that is"
            );
            Refusal::new(StatusCode::GONE, text).about("after")
        }
        ResumeError::Broker(BrokerError::NotFound(text)) => {
            Refusal::new(StatusCode::NOT_FOUND, &*text).about("exchange")
        }
        ResumeError::Broker(error) => Refusal::unavailable(error.told()),
    }
}

impl From<&Stored> for JournalMessage {
    fn from(stored: &Stored) -> Self {
        let Message {
            routing_key,
            properties,
            body,
            ..
        } = &*stored.message;
        let text = |value: &Option<Box<str>>| value.as_deref().map(str::to_owned);
        let (body, body_base64) = match str::from_utf8(body) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(body))),
        };
        let mut headers: BTreeMap<_, _> = properties
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Self {
            cursor: headers.remove(CURSOR_HEADER).unwrap_or_default(),
            key: routing_key.to_string(),
            body,
            body_base64,
            content_type: text(&properties.content_type),
            message_id: text(&properties.message_id),
            timestamp: properties.timestamp,
            headers,
        }
    }
}
