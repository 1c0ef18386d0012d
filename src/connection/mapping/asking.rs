//! A client's question who is in a room (pure): SEND to `/presence/rooms/<exchange>/<key>`.

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use super::{Context, fields::Fields};
use crate::broker::destination::Destination;

/// What a question's destination begins with. It is no exchange or queue.
pub(super) const DESTINATION: &str = "/presence/rooms/";

/// Members in an answer: at most, and without the header `limit`.
const LIMITS: (u16, u16) = (1_000, 100);

/// A question who is in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The room's exchange.
    pub exchange: Box<str>,
    /// The room's key.
    pub key: Box<str>,
    /// So many members at most; 0: only their number.
    pub limit: usize,
    /// `next` of the answer before.
    pub cursor: Option<Box<str>>,
    /// What the answer bears to be told from others.
    pub correlation_id: Option<Box<str>>,
    /// The `reply-to` header: the answer goes to this temporary queue of the session.
    pub reply_to: Box<str>,
}

/// The question of a SEND to such a destination; `rest` is what follows [`DESTINATION`]. Its body has
/// no meaning.
///
/// # Errors
/// [`Problem::InvalidDestination`], [`Problem::MissingHeader`], [`Problem::InvalidHeader`].
pub(super) fn ask(rest: &str, headers: &Headers, context: &Context<'_>) -> Result<Asking, Problem> {
    let fields = Fields::new(Command::Send, headers);
    // The rest of the transaction would be done, even if there is no answer.
    if headers.get("transaction").is_some() {
        let expected = "left out: a question who is in a room stands by itself";
        return Err(fields.invalid("transaction", expected));
    }
    let Destination::Exchange { name, key } = Destination::parse(&format!("/exchange/{rest}"))?
    else {
        return Err(Problem::InvalidDestination("it names no exchange\n".into()));
    };
    let key = key.unwrap_or_default();
    if let Err(error) = context.keys.slow(&name, &key, context.user) {
        let text = format!("the routing key {error}\n");
        return Err(Problem::InvalidDestination(text.into()));
    }
    let reply_to = fields.required("reply-to")?;
    if !matches!(Destination::parse(reply_to), Ok(Destination::TempQueue(_))) {
        return Err(fields.invalid("reply-to", "/temp-queue/NAME, where the answer goes"));
    }
    let (most, usual) = LIMITS;
    let limit = fields.number::<u16>("limit")?.unwrap_or(usual);
    if limit > most {
        return Err(fields.invalid("limit", "a whole number from 0 to 1000"));
    }
    Ok(Asking {
        exchange: name,
        key,
        limit: limit.into(),
        // It has a user's name in it, in base64: that may have more than 255 bytes.
        cursor: headers.get("cursor").map(Box::from),
        correlation_id: fields.short("correlation-id")?.map(Box::from),
        reply_to: reply_to.into(),
    })
}
