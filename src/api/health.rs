//! Is the process alive, and should clients be sent to it?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Reply, Request},
};
use crate::{telemetry, units::Checked};

/// The `[health]` section: the answers to load balancers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// The answer of `/readyz` while the node is short of memory.
    pub overload: Overload,
}

/// What `/readyz` answers while the node is short of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Overload {
    /// 200, and why it serves less well.
    #[default]
    #[serde(rename = "200")]
    Ready,
    /// 503: send new clients elsewhere.
    #[serde(rename = "503")]
    NotReady,
}

impl Health {
    /// Checks the values.
    ///
    /// # Errors
    /// Never: every value is valid.
    pub fn check(&self) -> Checked {
        Ok(())
    }
}

/// The process answers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Alive {
    /// `ok`.
    pub status: String,
}

/// The readiness of this node for clients.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// `ready` or `not ready`.
    pub status: String,
    /// The reason, if it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// A part that is ready but works less well: `memory: …` if the node is short of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Connections that are open.
    pub connections: usize,
    /// `ok`, `off`, or what is wrong. Presence does not decide, for push goes on without.
    pub presence: String,
    /// The addresses of the broker that links lead to now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broker: Vec<String>,
    /// The addresses that this node listens at, by their keys in `[listen]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listeners: BTreeMap<String, String>,
}

/// The process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses((status = 200, description = "It does", body = Alive)),
)]
pub(super) async fn alive(_: &Api, _: Request) -> Answer {
    Reply::ok(&Alive {
        status: "ok".to_owned(),
    })
}

/// Readiness: a load balancer may send clients to this node.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "Yes", body = Ready),
        (status = 503, description = "No; those that are here stay", body = Ready),
    ),
)]
pub(super) async fn ready(api: &Api, _: Request) -> Answer {
    let degraded = api.services.memory.degraded();
    let mut cause = api.readiness().err();
    if api.rules.current().1.overload == Overload::NotReady {
        cause = cause.or_else(|| degraded.clone());
    }
    let (status, word) = match cause {
        None => (StatusCode::OK, "ready"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    Reply::json(
        status,
        &Ready {
            status: word.to_owned(),
            cause,
            degraded,
            connections: api.services.registry.len(),
            presence: api.presence_health(),
            broker: broker_places(),
            listeners: api.listeners.clone(),
        },
    )
}

/// The addresses of the broker that links lead to now.
pub(super) fn broker_places() -> Vec<String> {
    let places = telemetry::broker_places().into_iter();
    places.map(|(place, _)| place).collect()
}
