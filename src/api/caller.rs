//! What a token is good for, as its holder asks.

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api, Scope,
    answer::{Answer, Reply, Request},
};

/// A token of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Caller {
    /// Its name.
    pub name: String,
    /// What it allows: `read`, `publish`, `history`, `admin`. With `admin`, all of them.
    pub scopes: Vec<String>,
}

/// What the request's own token is good for. Takes any token.
#[utoipa::path(
    get, path = "/api/v1/token", tag = "token",
    responses((status = 200, description = "Its name and scopes", body = Caller)),
    security(("token" = [])),
)]
pub(super) async fn caller(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let name = request.caller.as_deref().unwrap_or_default();
    let rules = api.rules.current();
    let token = rules.0.tokens.named(name);
    let granted = Scope::value_variants()
        .iter()
        .filter(|scope| token.is_some_and(|token| token.allows(**scope)));
    Reply::ok(&Caller {
        name: name.to_owned(),
        scopes: granted.map(|scope| scope.as_str().to_owned()).collect(),
    })
}
