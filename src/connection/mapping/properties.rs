//! SEND headers as AMQP properties and headers.

use std::collections::HashSet;

use stomp_session::Problem;

use super::{
    Context,
    fields::{Fields, Number, QUEUE_ARGUMENTS},
    numbering,
};
use crate::broker::{
    DIRECT_REPLIES, ENCODED_TYPE, Properties, USER_HEADER,
    destination::{Destination, MAX_NAME},
    for_each_property, is_reserved, no_direct_replies, passes_for,
};
use crate::messaging::DUPLICATE_HEADER;

/// Headers that are left out where SENDs may be numbered: the gateway sets them.
const ONCE: [&str; 3] = [DUPLICATE_HEADER, numbering::NUMBER, numbering::KEY];

/// Headers of SEND that become something else than a property or an AMQP header, or nothing.
const NOT_CARRIED: [&str; 9] = [
    "destination",
    "receipt",
    "transaction",
    "content-length",
    "message-id",
    "mandatory",
    "durable",
    "auto-delete",
    "exclusive",
];

macro_rules! by_header {
    ($($(#[$doc:meta])+ $field:ident: $type:ty, $header:literal, $get:ident, $set:ident;)+) => {
        /// The properties, and the temporary queue that answers are to go to.
        pub(super) fn read(
            fields: &Fields<'_>,
            context: &Context<'_>,
        ) -> Result<(Properties, Option<Box<str>>), Problem> {
            let ReplyTo { property, temp_queue } = reply_to(fields)?;
            let mut source = Source { fields, context, reply_to: property };
            let properties = Properties {
                $($field: source.read($header)?,)+
                headers: headers(fields, context)?,
            };
            Ok((properties, temp_queue))
        }
    };
}

for_each_property!(by_header);

/// The source of properties.
struct Source<'a> {
    fields: &'a Fields<'a>,
    context: &'a Context<'a>,
    reply_to: Option<Box<str>>,
}

/// Reads a property by its type.
trait Read<T> {
    fn read(&mut self, header: &'static str) -> Result<T, Problem>;
}

impl Read<Option<Box<str>>> for Source<'_> {
    fn read(&mut self, header: &'static str) -> Result<Option<Box<str>>, Problem> {
        match header {
            "reply-to" => Ok(self.reply_to.take()),
            "user-id" => user_id(self.fields, self.context),
            // RabbitMQ closes the channel of whoever sends one that is no such number.
            "expiration" => {
                let milliseconds = self.fields.number::<u32>(header)?;
                Ok(milliseconds.map(|number| number.to_string().into()))
            }
            "type" => match self.fields.short(header)? {
                Some(ENCODED_TYPE) => {
                    let expected = "another type: RabbitMQ takes this one for an encoding";
                    Err(self.fields.invalid(header, expected))
                }
                kind => Ok(kind.map(Box::from)),
            },
            _ => Ok(self.fields.short(header)?.map(Box::from)),
        }
    }
}

impl Read<bool> for Source<'_> {
    fn read(&mut self, header: &'static str) -> Result<bool, Problem> {
        Ok(self.fields.switch(header)?.unwrap_or(false))
    }
}

impl<N: Number> Read<Option<N>> for Source<'_> {
    fn read(&mut self, header: &'static str) -> Result<Option<N>, Problem> {
        self.fields.number(header)
    }
}

/// The meaning of `reply-to`.
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
        Destination::TempQueue(_) => (None, Some(text.into())),
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
        let is_once = context.sequences && passes_for(name, &ONCE);
        let is_carried = !is_once
            && !is_reserved(name)
            && !NOT_CARRIED.contains(&name)
            && !Properties::HEADERS.contains(&name)
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
        // Streams keep it in a byte's length.
        if name == "x-stream-filter-value" && value.len() > MAX_NAME {
            return Err(fields.invalid("x-stream-filter-value", "at most 255 bytes"));
        }
        headers.push((name.into(), value.into()));
    }
    headers.push((USER_HEADER.into(), context.user.into()));
    Ok(headers)
}
