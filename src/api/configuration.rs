//! The configuration: what is in force, how it differs from the file, and its reload.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
};

/// The holder of the configuration, which can read it again.
pub trait Reconfigure: Send + Sync + 'static {
    /// Reads the configuration again, and puts it in force: all of it, or nothing.
    ///
    /// # Errors
    /// It cannot be used, and nothing has changed; every fault, in lines.
    fn reload(&self) -> BoxFuture<'_, Result<Difference, String>>;

    /// How a configuration differs from the one in force: that text, or the file anew.
    ///
    /// # Errors
    /// It cannot be used; every fault, in lines.
    fn compare(&self, toml: Option<String>) -> BoxFuture<'_, Result<Difference, String>>;

    /// What is in force.
    fn in_force(&self) -> Configuration;
}

/// A key that differs. Values are in TOML, and without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyChange {
    /// Its section and name.
    #[schema(examples("[limits] max_subscriptions"))]
    pub key: String,
    /// The value in force before; missing if the key was not set and has no default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The value of the configuration that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Both are shown alike: they differ in a secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

/// The difference of two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Keys that the reload changes. Files that a configuration names are read again in any case.
    pub changed: Vec<KeyChange>,
    /// Keys that differ and need a restart: the old values stay until then.
    pub needs_restart: Vec<KeyChange>,
}

/// A configuration to compare.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareRequest {
    /// A configuration, as a file has it; without it, the gateway's own file counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toml: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The file; missing if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Every key.
    pub keys: Vec<KeyInForce>,
}

/// A key in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyInForce {
    /// Its section, without brackets.
    pub section: String,
    /// Its name.
    pub key: String,
    /// Its value, in TOML and without secrets; missing if it is not set and has no default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where it was set: a line of the file, or a variable; missing for a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether a reload can change it.
    pub reloads: bool,
}

/// The configuration in force, without secrets.
#[utoipa::path(
    get, path = "/api/v1/config", tag = "configuration",
    responses((status = 200, description = "Every key", body = Configuration)),
    security(("token" = ["read"])),
)]
pub(super) async fn configuration(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    Reply::ok(&held(api)?.in_force())
}

/// Read the configuration again, and put it in force: all of it, or, on any error, nothing.
/// Connections live on.
#[utoipa::path(
    post, path = "/api/v1/config/reload", tag = "configuration",
    responses(
        (status = 200, description = "It is in force", body = Difference),
        (status = 422, description = "It cannot be used: the old one stays", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn reload(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let reloaded = held(api)?.reload().await;
    Reply::ok(&reloaded.map_err(unusable)?)
}

/// How a configuration differs from the one in force; nothing changes.
#[utoipa::path(
    post, path = "/api/v1/config/compare", tag = "configuration", request_body = CompareRequest,
    responses(
        (status = 200, description = "It could be used", body = Difference),
        (status = 422, description = "It could not", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn compare(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let CompareRequest { toml } = request.json()?;
    let compared = held(api)?.compare(toml).await;
    Reply::ok(&compared.map_err(unusable)?)
}

fn held(api: &Api) -> Result<&dyn Reconfigure, Refusal> {
    api.configuration.as_deref().ok_or_else(|| {
        let error = "this gateway was started without a configuration that could be read again";
        Refusal::new(StatusCode::CONFLICT, error)
    })
}

fn unusable(faults: String) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, faults)
}
