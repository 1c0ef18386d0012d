//! The operator's side: is the process alive, should clients be sent to it, and who is online.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use warp::{Filter, http::StatusCode};

use super::Routes;
use crate::{
    connection::Services,
    presence::{Presence, PresenceError, SessionInfo},
    shutdown::Phases,
};

/// `/healthz`: 200 for as long as the process answers. `/readyz`: 200 if clients can be served,
/// else 503; both say why in JSON. Presence does not decide that, for push goes on without.
///
/// `/presence/users/{user}` and `/presence/groups/{group}`: who is online, in JSON; names are
/// percent-encoded. 404 if presence is off, 503 if its store is away. They are nowhere else:
/// they tell everybody's addresses.
#[must_use]
pub fn routes(services: Arc<Services>, phases: Phases) -> Routes {
    let alive = warp::path!("healthz").map(|| reply(StatusCode::OK, &json!({ "status": "ok" })));
    let ready_services = Arc::clone(&services);
    let ready = warp::path!("readyz").map(move || ready(&ready_services, &phases));
    let present = warp::path!("presence" / Of / String).then(move |of, name: String| {
        let services = Arc::clone(&services);
        async move { present(&services, of, &name).await }
    });
    let nothing = warp::any().map(|| {
        let there = "there are /healthz, /readyz, /presence/users/… and /presence/groups/…";
        reply(StatusCode::NOT_FOUND, &json!({ "error": there }))
    });
    warp::get()
        .and(alive.or(ready).unify().or(present).unify())
        .or(nothing)
        .unify()
        .boxed()
}

fn ready(services: &Services, phases: &Phases) -> warp::reply::Response {
    let presence = match services.presence.as_ref().map(|presence| presence.health()) {
        None => "off".to_owned(),
        Some(Ok(())) => "ok".to_owned(),
        Some(Err(error)) => error.to_string(),
    };
    let (status, body) = match readiness(services, phases) {
        Ok(()) => {
            let connections = services.registry.len();
            let body =
                json!({ "status": "ready", "connections": connections, "presence": presence });
            (StatusCode::OK, body)
        }
        Err(cause) => {
            let body = json!({ "status": "not ready", "cause": cause, "presence": presence });
            (StatusCode::SERVICE_UNAVAILABLE, body)
        }
    };
    reply(status, &body)
}

fn readiness(services: &Services, phases: &Phases) -> Result<(), String> {
    if !phases.is_running() {
        return Err("shutting down".to_owned());
    }
    services.hub.health().map_err(|error| error.to_string())
}

/// What presence is asked about.
#[derive(Clone, Copy)]
enum Of {
    User,
    Group,
}

impl std::str::FromStr for Of {
    type Err = ();

    fn from_str(segment: &str) -> Result<Self, ()> {
        match segment {
            "users" => Ok(Self::User),
            "groups" => Ok(Self::Group),
            _ => Err(()),
        }
    }
}

async fn present(services: &Services, of: Of, name: &str) -> warp::reply::Response {
    let Some(presence) = &services.presence else {
        return refuse(StatusCode::NOT_FOUND, "presence is off");
    };
    let Ok(name) = percent_decode_str(name).decode_utf8() else {
        return refuse(StatusCode::BAD_REQUEST, "the name is no UTF-8 text");
    };
    match look_up(&**presence, of, &name).await {
        Ok(body) => reply(StatusCode::OK, &body),
        Err(error) => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("presence: {error}"),
        ),
    }
}

async fn look_up(presence: &dyn Presence, of: Of, name: &str) -> Result<Value, PresenceError> {
    Ok(match of {
        Of::User => {
            let user = presence.user(name).await?;
            let sessions: Vec<_> = user.sessions.iter().map(session).collect();
            json!({ "user": name, "status": user.status, "sessions": sessions })
        }
        Of::Group => {
            let members = presence.group(name).await?;
            let members = members
                .iter()
                .map(|member| json!({ "user": &*member.user, "status": member.status }));
            json!({ "group": name, "online": members.collect::<Vec<_>>() })
        }
    })
}

fn session(session: &SessionInfo) -> Value {
    let device = session.device.as_deref();
    json!({
        "session": session.id,
        "node": session.node,
        "transport": session.transport,
        "remote": session.remote,
        "since": humantime::format_rfc3339_millis(session.since).to_string(),
        "last_seen": humantime::format_rfc3339_millis(session.last_seen).to_string(),
        "status": session.status,
        "device_type": device.and_then(|device| device.kind.as_deref()),
        "device_id": device.and_then(|device| device.id.as_deref()),
    })
}

fn refuse(status: StatusCode, error: &str) -> warp::reply::Response {
    reply(status, &json!({ "error": error }))
}

fn reply(status: StatusCode, body: &Value) -> warp::reply::Response {
    let reply = warp::reply::with_status(warp::reply::json(body), status);
    warp::Reply::into_response(reply)
}
