//! Messages of before without a subscription (pure): a SEND to `/history`.

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use super::{Context, fields::Fields};
use crate::{
    broker::destination::Destination,
    hub::{HistoryAsk, Since},
};

/// A client asks for a page here. It is no exchange or queue.
pub(super) const DESTINATION: &str = "/history";

/// Messages of one page: as many as the HTTP API gives.
const MAX_PAGE: usize = 1_000;
/// The same, if it is not said.
const PAGE: usize = 100;

/// A question for a page of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookBack {
    /// The exchange.
    pub exchange: Box<str>,
    /// The pattern of the keys.
    pub pattern: Box<str>,
    /// From where on.
    pub since: Since,
    /// Messages, at most.
    pub limit: usize,
    /// The `reply-to` header: what the subscription is called by which they come.
    pub reply_to: Box<str>,
}

impl LookBack {
    /// As the hub is asked.
    #[must_use]
    pub fn ask(&self) -> HistoryAsk<'_> {
        HistoryAsk {
            pattern: &self.pattern,
            since: self.since,
            limit: self.limit,
        }
    }
}

/// The question of a SEND to [`DESTINATION`]. Its body has no meaning.
///
/// # Errors
/// [`Problem::MissingHeader`], [`Problem::InvalidHeader`], [`Problem::InvalidDestination`].
pub(super) fn read(headers: &Headers, context: &Context<'_>) -> Result<LookBack, Problem> {
    let fields = Fields::new(Command::Send, headers);
    if headers.get("transaction").is_some() {
        let expected = "left out: a question for messages of before stands by itself";
        return Err(fields.invalid("transaction", expected));
    }
    let (exchange, key) = (fields.required("exchange")?, fields.required("key")?);
    if exchange.is_empty() || exchange.len() > 255 {
        return Err(fields.invalid("exchange", "a name of 1 to 255 bytes"));
    }
    let reply_to = fields.required("reply-to")?;
    if !matches!(Destination::parse(reply_to), Ok(Destination::TempQueue(_))) {
        let expected = "/temp-queue/<any name>: the messages come with it as their subscription";
        return Err(fields.invalid("reply-to", expected));
    }
    let since = match headers.get("after") {
        None => Since::First,
        Some(text) => {
            let expected =
                "the header \"cursor\" of a MESSAGE, or \"next\" of a RECEIPT, as it came";
            let cursor = text.trim().parse();
            Since::After(cursor.map_err(|_| fields.invalid("after", expected))?)
        }
    };
    let limit = match fields.number::<u16>("limit")?.map(usize::from) {
        None => PAGE,
        Some(limit @ 1..=MAX_PAGE) => limit,
        Some(_) => return Err(fields.invalid("limit", "a number of messages, from 1 to 1000")),
    };
    Ok(LookBack {
        exchange: exchange.into(),
        pattern: context.keys.pattern(key)?,
        since,
        limit,
        reply_to: reply_to.into(),
    })
}
