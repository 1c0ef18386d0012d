//! The HTTP API.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::millis;
use crate::telemetry::metrics::COUNTS;

/// A request to the operator's side, as it was answered.
#[derive(Clone, Copy, Debug)]
pub struct ApiRequest<'a> {
    /// The name of its token, if it has a good one.
    pub token: Option<&'a str>,
    /// Its method.
    pub method: &'a str,
    /// The template of its path.
    pub route: &'static str,
    /// Its path.
    pub path: &'a str,
    /// The answer's status.
    pub status: u16,
    /// How long it took.
    pub duration: Duration,
}

/// A request to the operator's side was answered. What an operator has done is told by
/// [`audited`](super::audited), too.
pub fn api_request(request: &ApiRequest<'_>) {
    let ApiRequest {
        token,
        method,
        route,
        path,
        status,
        duration,
    } = *request;
    let label = [
        ("route", format!("{method} {route}")),
        ("status", status.to_string()),
    ];
    COUNTS.api_requests.get_or_create(&label).inc();
    let duration_ms = millis(duration);
    debug!(target: "stentor::api", token, method, path, status, duration_ms, "API request");
}

/// A request had no token, or an unknown one, nor had `unsaid` more since this was said the last
/// time.
pub fn api_refused(cause: &str, unsaid: u64) {
    warn!(target: "stentor::api", cause, unsaid, "API request refused");
}

/// There are no tokens, so that the API serves nobody.
pub fn api_closed() {
    info!(
        target: "stentor::api",
        "the HTTP API is closed, for there are no tokens: `stentor token` makes one for [api] tokens"
    );
}
