//! The document that describes the API: made from the handlers and the types that they answer. A test
//! makes it, and holds the file to it; the program has the file. To make the document itself, it would
//! need a megabyte more of code.

// Only the test makes the document.
#![cfg_attr(not(test), allow(dead_code))]

use bytes::Bytes;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, Ref, RefOr, Response,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    Api,
    answer::{Answer, ErrorBody, Reply, Request},
    bans, caller, commands, configuration, destinations, details, health, journal, metrics, node,
    overview, presence, publish, rooms, tail, webhooks,
};

/// What the file is made from. `BLESS=1 cargo test -p stentor --lib openapi` writes it anew.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Stentor",
        description = "The operator's side of the Stentor push gateway. All but health takes \
                       `Authorization: Bearer TOKEN`; the configuration has the tokens ([api] \
                       tokens), and what each is good for: `read`, `publish`, `history`, `admin` (all). \
                       Unknown fields and parameters are refused."
    ),
    paths(
        health::alive,
        health::ready,
        metrics::metrics,
        document,
        caller::caller,
        overview::overview,
        overview::refusals,
        destinations::destinations,
        node::node,
        presence::nodes,
        presence::counts,
        presence::sessions,
        presence::session,
        details::details,
        commands::kick_session,
        commands::recheck_session,
        presence::user,
        commands::kick_user,
        commands::recheck_user,
        commands::unsubscribe,
        commands::forget,
        commands::refresh_groups,
        bans::bans,
        bans::ban,
        bans::unban,
        presence::users,
        presence::group,
        rooms::rooms,
        rooms::room,
        publish::publish,
        journal::history,
        webhooks::webhooks,
        tail::tail,
        configuration::configuration,
        configuration::reload,
        configuration::compare,
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "health", description = "Open to everybody who reaches the listener"),
        (name = "token"),
        (name = "nodes"),
        (name = "sessions", description = "On all nodes; listing needs presence"),
        (name = "bans", description = "On all nodes"),
        (name = "presence", description = "On all nodes; needs presence"),
        (name = "rooms", description = "On all nodes; of exchanges that `presence.destinations` names"),
        (name = "publish"),
        (name = "journal", description = "Messages that are kept ([journal])"),
        (name = "webhooks", description = "Of the node that is asked"),
        (name = "tail", description = "Of all nodes"),
        (name = "configuration", description = "Of the node that is asked"),
    ),
    modifiers(&Common),
)]
struct Document;

/// The document, as JSON.
#[must_use]
pub fn openapi() -> &'static str {
    include_str!("openapi.json")
}

/// This document.
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "health", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
pub(super) async fn document(_: &Api, request: Request) -> Answer {
    request.no_query()?;
    Ok(Reply {
        status: warp::http::StatusCode::OK,
        content_type: "application/json",
        body: Bytes::from_static(openapi().as_bytes()).into(),
    })
}

/// The parts that all operations share.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of [api] tokens"))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(bearer));
        for (path, item) in &mut document.paths.paths {
            let is_limited = path.starts_with("/api/v1/");
            let operations = [&mut item.get, &mut item.post, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                let takes_body = operation.request_body.is_some();
                let takes_names = operation
                    .parameters
                    .as_ref()
                    .is_some_and(|all| !all.is_empty());
                if takes_body || takes_names || is_limited {
                    add(operation, "400", "The fault of the request");
                }
                if operation.security.is_some() {
                    add(operation, "401", "No token, or an unknown one");
                    add(operation, "403", "The token lacks the scope");
                }
                if takes_body {
                    add(operation, "413", "The body is longer than `api.max_body`");
                    add(
                        operation,
                        "415",
                        "The body is not said to be application/json",
                    );
                }
                if is_limited {
                    add(operation, "408", "The body did not come in time");
                    add(
                        operation,
                        "409",
                        "The configuration has switched off a part that it needs",
                    );
                    add(operation, "429", "`api.max_requests` are being served");
                    add(operation, "503", "A part that it needs is away");
                    add(operation, "504", "It took too long");
                }
            }
        }
    }
}

/// An answer with an [`ErrorBody`], unless the operation has its own of that status.
fn add(operation: &mut Operation, status: &str, description: &str) {
    let schema = RefOr::Ref(Ref::from_schema_name("ErrorBody"));
    let response = Response::builder()
        .description(description)
        .content("application/json", Content::new(Some(schema)))
        .build();
    let responses = &mut operation.responses.responses;
    responses
        .entry(status.to_owned())
        .or_insert(RefOr::T(response));
}

#[cfg(test)]
mod tests {
    use serde::Serialize as _;
    use serde_json::{Serializer, ser::PrettyFormatter};

    use super::*;

    /// As a file: in lines, for whoever compares versions, and without indents, for the program's size.
    fn made() -> String {
        let mut text = Vec::new();
        let format = PrettyFormatter::with_indent(b"");
        Document::openapi()
            .serialize(&mut Serializer::with_formatter(&mut text, format))
            .unwrap();
        text.push(b'\n');
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn openapi_json_is_what_the_types_say() {
        let made = made();
        if std::env::var_os("BLESS").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/openapi.json");
            return std::fs::write(file, made).unwrap();
        }
        assert!(
            openapi() == made,
            "a type of the API has changed: BLESS=1 cargo test -p stentor --lib openapi"
        );
    }
}
