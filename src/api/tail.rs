//! Frames of clients, as they pass.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use futures_util::Stream;
use serde::Deserialize;
use utoipa::IntoParams;
use warp::http::StatusCode;

use super::{
    Api, Rules, Scope, Token,
    answer::{Answer, Body, Refusal, Reply, Request},
    presence::check_name,
};
use crate::{
    control::{MAX_PATTERN, TailLines},
    tap::{Filter, MAX_BODY, Refused, TailLine},
    telemetry::{self, Audited},
};

/// Which frames are meant. All conditions have to hold.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TailQuery {
    /// Only those of this user. Before a login, the name that CONNECT gives counts.
    #[param(min_length = 1, max_length = 255)]
    user: Option<String>,
    /// Only those of this session.
    #[param(min_length = 1, max_length = 255)]
    session: Option<String>,
    /// Only those with this destination; `*` stands for any characters.
    #[param(min_length = 1, max_length = 1024)]
    destination: Option<String>,
    /// Only refusals: ERROR frames, and the frames that were refused.
    #[serde(default)]
    refused: bool,
    /// So many bytes of each body. More than 0 only where `[tail] show` is `bodies`.
    #[serde(default)]
    #[param(maximum = 4096)]
    bodies: u32,
}

/// Show frames of clients as they pass, on all nodes.
///
/// The answer has no end: one JSON object a line, until the caller closes the connection. What may
/// be secret is left out; what is too much, or not read, is counted.
#[utoipa::path(
    get, path = "/api/v1/tail", tag = "tail",
    params(TailQuery),
    responses(
        (status = 200, description = "Lines", body = TailLine, content_type = "application/x-ndjson"),
        (status = 409, description = "`[tail] show` does not allow it", body = super::ErrorBody),
        (status = 429, description = "There are `[tail] max_tails`", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn tail(api: &Api, request: Request) -> Answer {
    let TailQuery {
        user,
        session,
        destination,
        refused,
        bodies,
    } = request.query()?;
    for (field, name) in [("user", &user), ("session", &session)] {
        if let Some(name) = name {
            check_name(field, name)?;
        }
    }
    if let Some(pattern) = &destination
        && !(1..=MAX_PATTERN).contains(&pattern.len())
    {
        let error = format!("has not 1 to {MAX_PATTERN} bytes");
        return Err(Refusal::field("destination", error));
    }
    if bodies > MAX_BODY {
        return Err(Refusal::field("bodies", format!("is more than {MAX_BODY}")));
    }
    let filter = Filter {
        user: user.map(Into::into),
        session: session.map(Into::into),
        destination: destination.map(Into::into),
        refused,
    };
    let on = match bodies {
        0 => filter.to_string(),
        bodies => format!("{filter}, {bodies} bytes of bodies"),
    };
    request.acts_on(on.as_str());
    let name = request.caller.unwrap_or_default();
    let token = api.rules.current().0.tokens.named(&name).cloned();
    let tail = api.services.control.tail(filter, bodies);
    let tail = tail.map_err(|refused| refusal(&refused))?;
    let lines = Lines {
        tail,
        rules: Arc::clone(&api.rules),
        token: (name, token),
        remote: request.remote,
        on,
        begun: Instant::now(),
        bytes: 0,
    };
    Ok(Reply {
        status: StatusCode::OK,
        content_type: "application/x-ndjson",
        body: Body::Pieces(Box::pin(lines)),
    })
}

fn refusal(refused: &Refused) -> Refusal {
    let status = match refused {
        Refused::Off | Refused::NoBodies => StatusCode::CONFLICT,
        Refused::Full(_) => StatusCode::TOO_MANY_REQUESTS,
    };
    Refusal::new(status, refused.to_string())
}

/// The lines of a tail, on their way to the caller. When they are dropped, the tail is over, and the
/// audit log says so.
struct Lines {
    tail: TailLines,
    rules: Arc<Rules>,
    /// By its name, as it was at the beginning.
    token: (Box<str>, Option<Token>),
    remote: Option<SocketAddr>,
    on: String,
    begun: Instant,
    bytes: u64,
}

impl Stream for Lines {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = self.tail.lines.poll_recv(context);
        // A reload may have taken the token away. Something comes every few seconds.
        let (name, token) = &self.token;
        let rules = self.rules.current();
        if next.is_ready() && rules.0.tokens.named(name) != token.as_ref() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Some(bytes)) = &next {
            self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        }
        next
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs();
        let cause = format!("after {seconds} s and {} bytes", self.bytes);
        telemetry::audited(&Audited {
            token: Some(&self.token.0),
            scope: Scope::Admin.as_str(),
            remote: self.remote,
            action: "tail",
            on: &self.on,
            outcome: "ended",
            cause: Some(&cause),
            unsaid: None,
        });
    }
}
