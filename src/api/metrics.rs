//! Metrics, for Prometheus.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    node::Process,
};
use crate::telemetry::{self, Levels};

/// Metrics for Prometheus (OpenMetrics 1.0). They contain no names of users.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses(
        (status = 200, description = "The metrics", body = String, content_type = telemetry::METRICS_TYPE),
        (status = 401, description = "With `api.metrics = \"token\"`: no token, or an unknown one", body = super::ErrorBody),
        (status = 403, description = "With `api.metrics = \"token\"`: the token lacks the scope", body = super::ErrorBody),
    ),
    security((), ("token" = ["read"])),
)]
pub(super) async fn metrics(api: &Api, _: Request) -> Answer {
    let process = api.process.get(Process::look).await;
    match text(api, &process) {
        Ok(text) => Ok(Reply {
            status: StatusCode::OK,
            content_type: telemetry::METRICS_TYPE,
            body: text.into(),
        }),
        Err(error) => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    }
}

/// The text.
pub(super) fn text(api: &Api, process: &Process) -> Result<String, fmt::Error> {
    let vhosts = api.services.vhosts.status();
    let feeds = || vhosts.iter().flat_map(|vhost| &vhost.feeds);
    telemetry::metrics(&Levels {
        cpu_seconds: process.cpu_seconds.map(Duration::from_secs_f64),
        start_time_seconds: api.started_at,
        ready: api.readiness().is_ok(),
        broker_up: api.services.vhosts.health().is_ok(),
        presence_up: api
            .services
            .presence
            .as_ref()
            .map(|presence| presence.health().is_ok()),
        bans: api.services.registry.bans().len(SystemTime::now()),
        vhosts: vhosts.len(),
        feeds: feeds().count(),
        feed_patterns: feeds().map(|feed| feed.patterns).sum(),
        feed_patterns_lingering: feeds().map(|feed| feed.lingering).sum(),
        unauthenticated: api.services.registry.places().taken(),
        memory_short: api.services.memory.is_short(),
        publishing: api.services.memory.room().used(),
        resident_memory_bytes: process.resident_bytes,
        open_fds: process.open_files,
        max_fds: process.max_files,
    })
}
