//! Messages from a client: a request's body, read within limits of size and time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, StatusCode,
    body::{Body, Incoming},
    header,
};
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    connection::FREE,
    http::Refusal,
    listen::sockjs::{frame::Undecodable, path::parameter, session::Shared},
    node::{Account, Claim},
    telemetry,
};

/// Why a request that sends is not taken. The texts can be told to the client.
#[derive(Debug, Error)]
pub(super) enum SendError {
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
    pub(super) fn refusal(&self) -> Refusal {
        let status = match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BrokenOff => StatusCode::BAD_REQUEST,
            Self::Undecodable(Undecodable::TooLong { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            // The protocol's own choice.
            Self::Undecodable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal {
            status,
            text: self.to_string(),
        }
    }
}

/// Whether a body is a form, and not the JSON itself.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Hands the messages in a request's body to the session. `patience` bounds how long each part of
/// the body may take. To a session that is over there is nothing to hand: why, its client is told
/// where it receives.
///
/// # Errors
/// [`SendError`].
pub(super) async fn send(
    session: &Arc<Shared>,
    body: Incoming,
    is_form: bool,
    patience: Duration,
) -> Result<(), SendError> {
    let Some(turn) = session.turn().await else {
        return Ok(());
    };
    let most = session.max_request_size();
    // In a form, the backslash of an escape is three bytes: `%5Cu0001`.
    let most = if is_form {
        most.saturating_add(most / 3)
    } else {
        most
    };
    let (body, claim) = tokio::select! {
        biased;
        body = read(body, most, patience, session.account()) => body?,
        () = session.over() => return Ok(()),
    };
    if is_form {
        let form = std::str::from_utf8(&body).map_err(|_| Undecodable::BrokenJson)?;
        let value = parameter(form, &["d"]).ok_or(Undecodable::NoMessages)?;
        let decoded = form_decoded(value);
        drop(body);
        turn.send(&decoded, claim).await?;
    } else {
        turn.send(&body, claim).await?;
    }
    Ok(())
}

/// Reads a body. From a size on, room for it is claimed before the rest is read.
async fn read(
    mut body: Incoming,
    most: usize,
    patience: Duration,
    account: Option<&Arc<Account>>,
) -> Result<(Vec<u8>, Option<Claim>), SendError> {
    let announced = body.size_hint().exact();
    let announced = announced.and_then(|size| usize::try_from(size).ok());
    let (mut read, mut claim) = (Vec::new(), None::<Claim>);
    loop {
        let part = timeout(patience, body.frame());
        let part = match part.await.map_err(|_| SendError::TooSlow)? {
            None => return Ok((read, claim)),
            Some(part) => part.map_err(|_| SendError::BrokenOff)?,
        };
        let part: Bytes = part.into_data().unwrap_or_default();
        if read.len().saturating_add(part.len()) > most {
            return Err(SendError::TooLarge(most));
        }
        telemetry::bytes_received(part.len());
        let needed = read.len().saturating_add(part.len());
        let claimed = claim.as_ref().map_or(0, Claim::bytes);
        if let Some(account) = account
            && needed > FREE
            && needed > claimed
        {
            // Many clients do not announce a length: then it grows with what comes.
            let size = announced.unwrap_or(needed.saturating_mul(2));
            let missing = size.clamp(needed, most.max(needed)).saturating_sub(claimed);
            let more = timeout(patience, account.claimed(missing)).await;
            let more = more.map_err(|_| SendError::TooSlow)?;
            match &mut claim {
                Some(claim) => claim.join(more),
                none => *none = Some(more),
            }
        }
        read.extend_from_slice(&part);
    }
}

/// A value of a form as the browser had it. What is not UTF-8 then is found by whoever reads it.
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
