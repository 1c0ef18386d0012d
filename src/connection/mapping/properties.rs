//! SEND headers as AMQP properties and headers.

use std::collections::HashSet;

use stomp_session::Problem;

use super::{
    Context,
    fields::{Fields, QUEUE_ARGUMENTS},
};
use crate::broker::{
    DIRECT_REPLIES, Properties, USER_HEADER,
    destination::{Destination, MAX_NAME},
    no_direct_replies,
};

/// Headers of SEND that become something else than an AMQP header, or nothing.
const NOT_CARRIED: [&str; 21] = [
    "destination",
    "receipt",
    "transaction",
    "content-length",
    "message-id",
    "mandatory",
    "durable",
    "auto-delete",
    "exclusive",
    "content-type",
    "content-encoding",
    "persistent",
    "priority",
    "correlation-id",
    "reply-to",
    "expiration",
    "amqp-message-id",
    "timestamp",
    "type",
    "user-id",
    "app-id",
];

/// The properties, and the temporary queue that answers are to go to.
pub(super) fn read(
    fields: &Fields<'_>,
    context: &Context<'_>,
) -> Result<(Properties, Option<Box<str>>), Problem> {
    let text = |name| Ok::<_, Problem>(fields.short(name)?.map(Box::from));
    let reply_to = reply_to(fields)?;
    let properties = Properties {
        content_type: text("content-type")?,
        content_encoding: text("content-encoding")?,
        persistent: fields.switch("persistent")?.unwrap_or(false),
        priority: fields.number("priority")?,
        correlation_id: text("correlation-id")?,
        reply_to: reply_to.property,
        // RabbitMQ closes the channel of whoever sends one that is no such number.
        expiration: fields
            .number::<u32>("expiration")?
            .map(|milliseconds| milliseconds.to_string().into()),
        message_id: text("amqp-message-id")?,
        timestamp: fields.number("timestamp")?,
        kind: text("type")?,
        user_id: user_id(fields, context)?,
        app_id: text("app-id")?,
        headers: headers(fields, context)?,
    };
    Ok((properties, reply_to.temp_queue))
}

/// What `reply-to` means.
#[derive(Default)]
struct ReplyTo {
    property: Option<Box<str>>,
    temp_queue: Option<Box<str>>,
}

/// Only the temporary queue is this gateway's business; everything else goes as it is, and the
/// receiver's gateway prints it as a destination.
fn reply_to(fields: &Fields<'_>) -> Result<ReplyTo, Problem> {
    let Some(text) = fields.short("reply-to")? else {
        return Ok(ReplyTo::default());
    };
    if text == DIRECT_REPLIES {
        // RabbitMQ closes the channel over it.
        let text = no_direct_replies().to_string();
        return Err(Problem::PreconditionFailed(text.into()));
    }
    let (property, temp_queue) = match Destination::parse(text)? {
        Destination::TempQueue(name) => (None, Some(name)),
        _ => (Some(text.into()), None),
    };
    Ok(ReplyTo {
        property,
        temp_queue,
    })
}

fn user_id(fields: &Fields<'_>, context: &Context<'_>) -> Result<Option<Box<str>>, Problem> {
    match fields.short("user-id")? {
        Some(claimed) if claimed != context.user => Err(Problem::PreconditionFailed(
            format!(
                "PRECONDITION_FAILED - user_id property set to '{claimed}' but authenticated user \
                 was '{}'",
                context.user
            )
            .into(),
        )),
        _ => Ok(context.impersonate.then(|| context.user.into())),
    }
}

type Pairs = Vec<(Box<str>, Box<str>)>;

fn headers(fields: &Fields<'_>, context: &Context<'_>) -> Result<Pairs, Problem> {
    let mut headers = Vec::new();
    let mut seen = HashSet::new();
    for (name, value) in fields.headers.iter() {
        let is_carried = name != USER_HEADER
            && !NOT_CARRIED.contains(&name)
            && QUEUE_ARGUMENTS
                .iter()
                .all(|(argument, _)| *argument != name);
        if !is_carried || !seen.insert(name) {
            continue;
        }
        if name.len() > MAX_NAME {
            return Err(fields.invalid("(some name)", "header names of at most 255 bytes"));
        }
        // RabbitMQ routes by these, wants lists, and closes the channel where it finds texts.
        for routed in ["CC", "BCC"] {
            if name == routed {
                return Err(fields.invalid(routed, "no such header: name one destination"));
            }
        }
        headers.push((name.into(), value.into()));
    }
    headers.push((USER_HEADER.into(), context.user.into()));
    Ok(headers)
}
