//! The demo's pages, and a backend for them to push with.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use warp::{
    Filter, Reply,
    http::{HeaderValue, StatusCode, header},
};

use super::{EXCHANGE, Info, USERS};
use crate::{
    broker::{BrokerError, Properties, Publish},
    connection::Services,
    http::Routes,
};

/// The longest body of a push, in bytes.
const MAX_PUSH: u64 = 64 * 1024;

/// What the page may load and reach: itself.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// A file of the page, or of the example for SockJS: its path, its type, and what is in it.
const FILES: [(&str, &str, &str); 10] = [
    (
        "",
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    ),
    (
        "style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
    (
        "app.js",
        "text/javascript; charset=utf-8",
        include_str!("page/app.js"),
    ),
    (
        "stomp.js",
        "text/javascript; charset=utf-8",
        include_str!("page/stomp.js"),
    ),
    (
        "favicon.svg",
        "image/svg+xml",
        include_str!("page/favicon.svg"),
    ),
    (
        "classic.html",
        "text/html; charset=utf-8",
        include_str!("../../examples/browser/classic.html"),
    ),
    (
        "classic.css",
        "text/css; charset=utf-8",
        include_str!("../../examples/browser/classic.css"),
    ),
    (
        "classic.js",
        "text/javascript; charset=utf-8",
        include_str!("../../examples/browser/classic.js"),
    ),
    (
        "vendor/sockjs.min.js",
        "text/javascript; charset=utf-8",
        include_str!("../../examples/browser/vendor/sockjs.min.js"),
    ),
    (
        "vendor/stomp.min.js",
        "text/javascript; charset=utf-8",
        include_str!("../../examples/browser/vendor/stomp.min.js"),
    ),
];

#[derive(Deserialize)]
struct Push {
    key: Box<str>,
    body: String,
}

pub(super) fn all(services: &Arc<Services>, info: Info) -> Routes {
    let page = warp::get()
        .and(warp::path::tail())
        .and_then(|path: warp::path::Tail| async move {
            let file = FILES.iter().find(|(name, ..)| *name == path.as_str());
            file.map(serve).ok_or_else(warp::reject::not_found)
        });
    let info = warp::path!("demo" / "info").and(warp::get()).map(move || {
        let users = USERS.map(|(name, passcode)| json!({ "name": name, "passcode": passcode }));
        warp::reply::json(&json!({
            "websocket": "/ws",
            "users": users,
            "exchange": EXCHANGE,
            "broker": info.broker,
            "curl": info.curl,
            "pika": info.pika,
            "stomp": info.stomp,
        }))
        .into_response()
    });
    let services = Arc::clone(services);
    // A page of another site cannot send this type without asking first.
    let is_json = warp::header::exact_ignore_case("content-type", "application/json");
    let push = warp::path!("demo" / "push")
        .and(warp::post())
        .and(is_json)
        .and(warp::body::content_length_limit(MAX_PUSH))
        .and(warp::body::json())
        .then(move |push: Push| {
            let services = Arc::clone(&services);
            async move {
                match publish(&services, push).await {
                    Ok(()) => {
                        let reply = warp::reply::json(&json!({ "published": true }));
                        warp::reply::with_status(reply, StatusCode::ACCEPTED).into_response()
                    }
                    Err(error) => {
                        let status = StatusCode::SERVICE_UNAVAILABLE;
                        warp::reply::with_status(format!("{error}\n"), status).into_response()
                    }
                }
            }
        });
    info.or(push).unify().or(page).unify().boxed()
}

/// Does what a backend does: publishes to the exchange, and knows nothing of who listens.
async fn publish(services: &Services, push: Push) -> Result<(), BrokerError> {
    let vhost = services.hub.vhost(&services.settings().default_vhost);
    let vhost = vhost.ok_or_else(|| BrokerError::NotFound("no virtual host".into()))?;
    let publish = Publish {
        exchange: EXCHANGE.into(),
        routing_key: push.key,
        properties: Properties {
            content_type: Some("text/plain".into()),
            ..Properties::default()
        },
        body: push.body.into(),
        mandatory: false,
        lane: 0,
    };
    vhost.publish(publish).await?.await
}

fn serve((_, kind, content): &(&str, &'static str, &'static str)) -> warp::reply::Response {
    let mut response = (*content).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}
