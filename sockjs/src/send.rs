//! Messages from a client: a request's body, read within limits of size and time.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{HeaderMap, StatusCode, body::Body, header};
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::{
    Claim, Refusal,
    protocol::{frame::Undecodable, path::parameter, seam},
    session::SharedSession,
};

/// Why a request that sends is refused. Its client may be told the texts.
#[derive(Debug, Error)]
pub(crate) enum SendError {
    #[error("More than {0} bytes.")]
    TooLarge(usize),
    #[error("It took too long.")]
    TooSlow,
    /// The client went, or does not speak HTTP.
    #[error("The request broke off.")]
    BrokenOff,
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
}

impl SendError {
    pub(crate) fn refusal(&self) -> Refusal {
        let status = match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BrokenOff => StatusCode::BAD_REQUEST,
            Self::Undecodable(Undecodable::TooLong { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            // The protocol's own choice.
            Self::Undecodable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, self.to_string())
    }

    /// Whether a client that sends on would leave out messages. The protocol has a session go on
    /// after a payload that is none.
    fn leaves_a_hole(&self) -> bool {
        use Undecodable::{BrokenJson, NoMessages};
        !matches!(self, Self::Undecodable(BrokenJson | NoMessages))
    }
}

/// Whether a body is a form, and not the JSON itself.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// How long a request that sends may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// For each part of its body, and for room.
    pub(crate) patience: Duration,
    /// Whether it may wait for as long as the application does not receive, however many others do:
    /// its connection counts as the session's, which has few of them.
    pub(crate) may_wait: bool,
}

impl Pace {
    /// Waits for the session, and not for ever where it may not: a client can open any number of
    /// connections.
    async fn wait<T>(self, session: impl Future<Output = T>) -> Result<T, SendError> {
        if self.may_wait {
            return Ok(session.await);
        }
        let waited = timeout(self.patience, session).await;
        waited.map_err(|_| SendError::TooSlow)
    }
}

/// Hands the messages in a request's body to the session. `received` counts bytes. A session that is
/// over takes nothing: its client learns the reason where it receives.
///
/// # Errors
/// [`SendError`].
pub(crate) async fn send<B>(
    session: &Arc<SharedSession>,
    body: B,
    is_form: bool,
    pace: Pace,
    received: fn(usize),
) -> Result<(), SendError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let sending = session.begin_sending();
    let pace = Pace {
        may_wait: pace.may_wait || sending.is_one_of_few,
        ..pace
    };
    // A form in an iframe does not learn how its request went, and its client sends on.
    let unheard = is_form.then(|| session.untaken());
    let sent = hand_over(session, body, is_form, pace, received).await;
    let is_hole = sent.as_ref().is_err_and(SendError::leaves_a_hole);
    if let Some(unheard) = unheard
        && !is_hole
    {
        unheard.taken();
    }
    sent
}

async fn hand_over<B>(
    session: &Arc<SharedSession>,
    body: B,
    is_form: bool,
    pace: Pace,
    received: fn(usize),
) -> Result<(), SendError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(turn) = pace.wait(session.turn()).await? else {
        return Ok(());
    };
    let most = session.max_request_size();
    // In a form, the backslash of an escape is three bytes: `%5Cu0001`.
    let most = if is_form {
        most.saturating_add(most / 3)
    } else {
        most
    };
    let reading = Reading {
        most,
        pace,
        received,
        session,
    };
    let (body, claim) = tokio::select! {
        biased;
        body = reading.read(body) => body?,
        () = session.over() => return Ok(()),
    };
    if is_form {
        let form = str::from_utf8(&body).map_err(|_| Undecodable::BrokenJson)?;
        let value = parameter(form, &["d"]).ok_or(Undecodable::NoMessages)?;
        let decoded = form_decoded(value);
        drop(body);
        pace.wait(turn.send(&decoded, claim)).await??;
    } else {
        pace.wait(turn.send(&body, claim)).await??;
    }
    Ok(())
}

/// How a body is read.
struct Reading<'a> {
    /// Its most bytes.
    most: usize,
    pace: Pace,
    received: fn(usize),
    session: &'a SharedSession,
}

impl Reading<'_> {
    /// Reads a body. From a size on, room for it is claimed before the rest is read.
    async fn read<B>(&self, mut body: B) -> Result<(Vec<u8>, Option<Box<dyn Claim>>), SendError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let announced = body.size_hint().exact();
        let announced = announced.and_then(|size| usize::try_from(size).ok());
        let patience = self.pace.patience;
        // A claim, and since when there is one.
        let (mut read, mut claim) = (Vec::new(), None::<(Box<dyn Claim>, Instant)>);
        loop {
            let part = timeout(patience, body.frame());
            let part = match part.await.map_err(|_| SendError::TooSlow)? {
                None => return Ok((read, claim.map(|(claim, _)| claim))),
                Some(part) => part.map_err(|_| SendError::BrokenOff)?,
            };
            let part: Bytes = part.into_data().unwrap_or_default();
            let needed = read.len().saturating_add(part.len());
            if needed > self.most {
                return Err(SendError::TooLarge(self.most));
            }
            (self.received)(part.len());
            self.session.hear(part.len());
            self.pace.wait(self.session.until_told()).await?;
            if let Some((claim, since)) = &claim {
                let is_slow = Instant::now().duration_since(*since) >= patience;
                if is_slow && claim.is_in_the_way() {
                    return Err(SendError::TooSlow);
                }
            }
            let budget = self.session.budget();
            if let Some(budget) = budget.filter(|budget| needed > budget.free()) {
                let (claim, _) =
                    claim.get_or_insert_with(|| (Arc::clone(budget).claim(), Instant::now()));
                self.grow(claim.as_mut(), needed, announced).await?;
            }
            read.extend_from_slice(&part);
        }
    }

    /// Waits until the claim covers the bytes that are needed.
    async fn grow(
        &self,
        claim: &mut dyn Claim,
        needed: usize,
        announced: Option<usize>,
    ) -> Result<(), SendError> {
        if needed <= claim.bytes() {
            return Ok(());
        }
        // Many clients do not announce a length: then the claim grows with the bytes that come. So
        // it does for one that announces much: it may be slow to send it.
        let size = announced.unwrap_or(needed.saturating_mul(2));
        let size = size.min(seam::room(needed, self.session.max_message_size()));
        let size = size.clamp(needed, self.most.max(needed));
        let missing = size.saturating_sub(claim.bytes());
        let _held = self.session.hold();
        let growing = poll_fn(|context| claim.poll_grow(missing, context));
        let grown = timeout(self.pace.patience, growing).await;
        grown.map_err(|_| SendError::TooSlow)
    }
}

/// A value of a form, decoded. Its reader checks for bytes that are not UTF-8.
fn form_decoded(value: &str) -> Vec<u8> {
    let value = value.replace('+', " ");
    percent_decode_str(&value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_type() {
        let is_form = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            is_form(&headers)
        };
        assert!(is_form("application/x-www-form-urlencoded"));
        assert!(is_form("Application/x-www-form-urlencoded; charset=UTF-8"));
        assert!(!is_form("text/plain") && !is_form(""));
        assert!(!super::is_form(&HeaderMap::new()));
    }

    #[test]
    fn values_of_forms_keep_their_bytes() {
        assert_eq!(form_decoded("%5B%22x+y%2B%22%5D"), b"[\"x y+\"]");
        assert_eq!(form_decoded("%ff"), b"\xff");
    }
}
