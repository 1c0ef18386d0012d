//! Commands to sessions, on any node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    presence::{check_name, no_session_heard},
};
use crate::control::{Command, RecheckOff, Report, Target, Unsubscribe};

/// The outcome of a command.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The number of sessions, of subscriptions that ended, or of forgotten permissions, on all nodes
    /// together. A recheck runs in the background: the nodes' logs name the sessions that end.
    pub hits: u64,
    /// The nodes that answered within a second. If all nodes share presence, a command about a user
    /// ends earlier: when all nodes that presence knows have answered.
    pub nodes: Vec<NodeOutcome>,
    /// Nodes that are known, and that did not answer: it may not be done there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// The reason why other nodes could not be told. Missing if they could, or if there are no
    /// others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreached: Option<String>,
}

/// The outcome of a command on one node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeOutcome {
    /// The node's name.
    pub node: String,
    /// The number of sessions, of subscriptions that ended, or of forgotten permissions, there.
    pub hits: u64,
}

/// Why a session ends.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct KickQuery {
    /// The text for the client; at most 256 characters of it.
    #[serde(default)]
    #[param(max_length = 256)]
    reason: String,
}

/// Which sessions of a user end, and why.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct KickUserQuery {
    /// The text for the clients; at most 256 characters of it.
    #[serde(default)]
    #[param(max_length = 256)]
    reason: String,
    /// Only those of devices of this type.
    #[param(min_length = 1, max_length = 255)]
    device_type: Option<String>,
    /// Only those of the device of this id.
    #[param(min_length = 1, max_length = 255)]
    device_id: Option<String>,
}

/// The subscriptions of a user that end.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "destination": "/exchange/room/lobby", "reason": "removed by a moderator" }))]
pub struct UnsubscribeRequest {
    /// The destination, as a SUBSCRIBE names it. Subscriptions to a pattern that matches it go on;
    /// name the pattern to end them.
    #[schema(min_length = 1, max_length = 1024)]
    pub destination: String,
    /// Only in this virtual host; without it, in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub vhost: Option<String>,
    /// The text for the clients; at most 256 characters of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 256)]
    pub reason: String,
}

/// End a session. Its client gets ERROR `kicked` and the reason.
#[utoipa::path(
    delete, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session's id", min_length = 1, max_length = 255), KickQuery),
    responses(
        (status = 200, description = "It is told to end", body = Outcome),
        (status = 404, description = "No node that was heard has it", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn kick_session(api: &Api, request: Request) -> Answer {
    let KickQuery { reason } = request.query()?;
    check_reason(&reason)?;
    let target = Target::Session(request.name().into());
    let command = Command::Kick {
        target,
        reason: reason.into(),
    };
    of_session(run(api, command).await?)
}

/// End all sessions of a user, or those of a device.
#[utoipa::path(
    delete, path = "/api/v1/users/{name}/sessions", tag = "sessions",
    params(("name" = String, Path, description = "The user's name, percent-encoded", min_length = 1, max_length = 255), KickUserQuery),
    responses((status = 200, description = "They are told to end, if there are any", body = Outcome)),
    security(("token" = ["admin"])),
)]
pub(super) async fn kick_user(api: &Api, request: Request) -> Answer {
    let KickUserQuery {
        reason,
        device_type,
        device_id,
    } = request.query()?;
    check_reason(&reason)?;
    for (field, name) in [("device_type", &device_type), ("device_id", &device_id)] {
        if let Some(name) = name {
            check_name(field, name)?;
        }
    }
    let user: Box<str> = request.name().into();
    let target = if device_type.is_none() && device_id.is_none() {
        Target::User(user)
    } else {
        Target::Device {
            user,
            device_type: device_type.map(Into::into),
            device_id: device_id.map(Into::into),
        }
    };
    let command = Command::Kick {
        target,
        reason: reason.into(),
    };
    Reply::ok(&run(api, command).await?)
}

/// Have the hook asked anew about a session, which ends if it is refused.
#[utoipa::path(
    post, path = "/api/v1/sessions/{id}/recheck", tag = "sessions",
    params(("id" = String, Path, description = "The session's id", min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "The hook is being asked", body = Outcome),
        (status = 404, description = "No node that was heard has it", body = super::ErrorBody),
        (status = 409, description = "`auth.recheck` is off", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn recheck_session(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let target = Target::Session(request.name().into());
    of_session(recheck(api, target).await?)
}

/// Have the hook asked anew about all sessions of a user; those that it refuses end.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/recheck", tag = "sessions",
    params(("name" = String, Path, description = "The user's name, percent-encoded", min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "The hook is being asked; there may be no session", body = Outcome),
        (status = 409, description = "`auth.recheck` is off", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn recheck_user(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let target = Target::User(request.name().into());
    Reply::ok(&recheck(api, target).await?)
}

/// Where this node cannot ask again, others cannot, for they are configured alike; and only a node
/// with such a session would say so.
async fn recheck(api: &Api, target: Target) -> Result<Outcome, Refusal> {
    if api.services.settings().recheck.is_none() {
        return Err(Refusal::new(StatusCode::CONFLICT, RecheckOff.to_string()));
    }
    run(api, Command::Recheck(target)).await
}

/// Forget what the hook permitted to a user, instead of remembering it for `auth.cache_ttl`.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/forget", tag = "sessions",
    params(("name" = String, Path, description = "The user's name, percent-encoded", min_length = 1, max_length = 255)),
    responses((status = 200, description = "It is forgotten", body = Outcome)),
    security(("token" = ["admin"])),
)]
pub(super) async fn forget(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let user = request.name().into();
    Reply::ok(&run(api, Command::Forget { user }).await?)
}

/// Have the hook asked anew which groups a user is in.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/groups", tag = "sessions",
    params(("name" = String, Path, description = "The user's name, percent-encoded", min_length = 1, max_length = 255)),
    responses((status = 200, description = "The hook is being asked", body = Outcome)),
    security(("token" = ["admin"])),
)]
pub(super) async fn refresh_groups(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let user = request.name().into();
    Reply::ok(&run(api, Command::RefreshGroups { user }).await?)
}

/// End subscriptions of a user to a destination, on all nodes. The sessions and their other
/// subscriptions go on: for each that ends, the client gets ERROR `unsubscribed` with the header
/// `subscription`, and the reason. Clients may subscribe again, unless the hook or the token
/// refuses.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/unsubscribe", tag = "sessions",
    params(("name" = String, Path, description = "The user's name, percent-encoded", min_length = 1, max_length = 255)),
    request_body = UnsubscribeRequest,
    responses(
        (status = 200, description = "They have ended; `hits` is 0 if there were none", body = Outcome),
        (status = 400, description = "It is no destination that clients subscribe to", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn unsubscribe(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let UnsubscribeRequest {
        destination,
        vhost,
        reason,
    } = request.json()?;
    check_reason(&reason)?;
    if let Some(vhost) = &vhost {
        check_name("vhost", vhost)?;
    }
    let destination = Unsubscribe::destination(&destination)
        .map_err(|error| Refusal::field("destination", error))?;
    let wanted = Unsubscribe {
        user: request.name().into(),
        vhost: vhost.map(Into::into),
        destination,
        reason: reason.into(),
    };
    request.acts_on(wanted.to_string());
    Reply::ok(&run(api, Command::Unsubscribe(Arc::new(wanted))).await?)
}

async fn run(api: &Api, command: Command) -> Result<Outcome, Refusal> {
    let report = api
        .services
        .control
        .run(command)
        .await
        .map_err(|off| Refusal::new(StatusCode::CONFLICT, off.to_string()))?;
    let hits = report.hits();
    let Report {
        nodes,
        silent,
        unreached,
    } = report;
    Ok(Outcome {
        hits,
        nodes: self::nodes(nodes),
        silent: silent.into_iter().map(Into::into).collect(),
        unreached: unreached.map(Into::into),
    })
}

pub(super) fn nodes(nodes: Vec<(Box<str>, u64)>) -> Vec<NodeOutcome> {
    let nodes = nodes.into_iter();
    nodes
        .map(|(node, hits)| NodeOutcome {
            node: node.into(),
            hits,
        })
        .collect()
}

/// A session is there, or it is not, or a node did not say.
fn of_session(outcome: Outcome) -> Answer {
    if outcome.hits == 0 {
        return Err(no_session_heard(
            outcome.unreached.as_deref(),
            &outcome.silent,
        ));
    }
    Reply::ok(&outcome)
}

fn check_reason(reason: &str) -> Result<(), Refusal> {
    const MAX_REASON: usize = 256;
    if reason.chars().count() > MAX_REASON {
        return Err(Refusal::field(
            "reason",
            format!("has more than {MAX_REASON} characters"),
        ));
    }
    Ok(())
}
