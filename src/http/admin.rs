//! The operator's side: is the process alive, and should clients be sent to it.

use std::sync::Arc;

use serde_json::json;
use warp::{Filter, http::StatusCode};

use super::Routes;
use crate::{connection::Services, shutdown::Phases};

/// `/healthz`: 200 for as long as the process answers. `/readyz`: 200 if clients can be served,
/// else 503; both say why in JSON.
#[must_use]
pub fn routes(services: Arc<Services>, phases: Phases) -> Routes {
    let alive = warp::path!("healthz").map(|| reply(StatusCode::OK, &json!({ "status": "ok" })));
    let ready = warp::path!("readyz").map(move || match readiness(&services, &phases) {
        Ok(()) => {
            let connections = services.registry.len();
            reply(
                StatusCode::OK,
                &json!({ "status": "ready", "connections": connections }),
            )
        }
        Err(cause) => {
            let body = json!({ "status": "not ready", "cause": cause });
            reply(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    });
    let nothing = warp::any().map(|| {
        reply(
            StatusCode::NOT_FOUND,
            &json!({ "error": "there are /healthz and /readyz" }),
        )
    });
    warp::get()
        .and(alive.or(ready).unify())
        .or(nothing)
        .unify()
        .boxed()
}

fn readiness(services: &Services, phases: &Phases) -> Result<(), String> {
    if !phases.is_running() {
        return Err("shutting down".to_owned());
    }
    services.hub.health().map_err(|error| error.to_string())
}

fn reply(status: StatusCode, body: &serde_json::Value) -> warp::reply::Response {
    let reply = warp::reply::with_status(warp::reply::json(body), status);
    warp::Reply::into_response(reply)
}
