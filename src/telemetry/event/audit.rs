//! Who did what by the operator's side: a target of its own, so that it can be kept apart.

use std::net::SocketAddr;

use tracing::info;

/// An action of an operator, or a try.
#[derive(Clone, Copy, Debug)]
pub struct Audited<'a> {
    /// The name of the token; `None`: it had no good one, or there was no token (SIGHUP).
    pub token: Option<&'a str>,
    /// The scope that the action takes.
    pub scope: &'a str,
    /// The address that it came from, as this process sees it; `None`: from this machine, by a
    /// signal.
    pub remote: Option<SocketAddr>,
    /// The action: `kick`, `ban`, `publish`, …
    pub action: &'static str,
    /// The session, user, address or exchange that it was about.
    pub on: &'a str,
    /// `done`, `denied` (the token does not allow it), or `failed`.
    pub outcome: &'static str,
    /// Why it was not done.
    pub cause: Option<&'a str>,
    /// Tries without a good token that were left out before this one, if there are any.
    pub unsaid: Option<u64>,
}

/// What an action was about takes so many bytes of its line at most…
const MAX_ON: usize = 1024;
/// …and the cause so many: both may have what a request wrote in them, of any length.
const MAX_CAUSE: usize = 256;

/// Somebody did something, or tried to.
pub fn audited(audited: &Audited<'_>) {
    let Audited {
        token,
        scope,
        remote,
        action,
        on,
        outcome,
        cause,
        unsaid,
    } = *audited;
    let remote = remote.map(|remote| remote.to_string());
    let (on, cause) = (cut(on, MAX_ON), cause.map(|cause| cut(cause, MAX_CAUSE)));
    info!(
        target: "stentor::audit",
        token, scope, remote, action, on, outcome, cause, unsaid, "operator's action"
    );
}

/// The beginning of a text.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most))
        .unwrap_or_default()
}
