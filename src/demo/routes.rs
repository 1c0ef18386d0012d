//! The demo's pages, and a backend for them to push with.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use warp::{
    Filter, Reply,
    http::{HeaderValue, StatusCode, header},
};

use super::{EXCHANGE, GROUP, Info, USERS};
use crate::{
    broker::{BrokerError, LANE_OF_DEMO, Properties, Publish},
    http::Routes,
    node::Services,
    presence::{Presence, PresenceError},
};

/// The longest body of a push, in bytes.
const MAX_PUSH: u64 = 64 * 1024;

/// The page may load and reach only itself.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page, or of the example for SockJS: its path, its type, and its content.
#[rustfmt::skip] // a line each
const FILES: [(&str, &str, &str); 21] = [
    ("", HTML, include_str!("page/index.html")),
    ("style.css", CSS, include_str!("page/style.css")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("people.js", SCRIPT, include_str!("page/people.js")),
    ("element.js", SCRIPT, include_str!("page/element.js")),
    ("frames.js", SCRIPT, include_str!("page/frames.js")),
    ("stentor-client/advice.js", SCRIPT, include_str!("../../clients/js/advice.js")),
    ("stentor-client/client.js", SCRIPT, include_str!("../../clients/js/client.js")),
    ("stentor-client/connection.js", SCRIPT, include_str!("../../clients/js/connection.js")),
    ("stentor-client/delta.js", SCRIPT, include_str!("../../clients/js/delta.js")),
    ("stentor-client/pace.js", SCRIPT, include_str!("../../clients/js/pace.js")),
    ("stentor-client/subscriptions.js", SCRIPT, include_str!("../../clients/js/subscriptions.js")),
    ("stentor-client/progress.js", SCRIPT, include_str!("../../clients/js/progress.js")),
    ("stentor-client/tokens.js", SCRIPT, include_str!("../../clients/js/tokens.js")),
    ("vendor/stomp.umd.min.js", SCRIPT, include_str!("page/vendor/stomp.umd.min.js")),
    ("favicon.svg", SVG, include_str!("page/favicon.svg")),
    ("classic.html", HTML, include_str!("../../examples/browser/classic.html")),
    ("classic.css", CSS, include_str!("../../examples/browser/classic.css")),
    ("classic.js", SCRIPT, include_str!("../../examples/browser/classic.js")),
    ("vendor/sockjs.min.js", SCRIPT, include_str!("../../examples/browser/vendor/sockjs.min.js")),
    ("vendor/stomp.min.js", SCRIPT, include_str!("../../examples/browser/vendor/stomp.min.js")),
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
    let events = services.settings().events_exchange.clone();
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
            "presence": { "exchange": events.as_deref(), "group": GROUP },
        }))
        .into_response()
    });
    let present = {
        let services = Arc::clone(services);
        warp::path!("demo" / "presence")
            .and(warp::get())
            .then(move || {
                let services = Arc::clone(&services);
                async move { present(&services).await }
            })
    };
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
    info.or(present)
        .unify()
        .or(push)
        .unify()
        .or(page)
        .unify()
        .boxed()
}

/// The online members of the demo's group and their devices: as others may see them, without
/// addresses.
async fn present(services: &Services) -> warp::reply::Response {
    let users = match &services.presence {
        Some(presence) => online(&**presence).await,
        None => Ok(Vec::new()),
    };
    match users {
        Ok(users) => warp::reply::json(&json!({ "users": users })).into_response(),
        Err(error) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            warp::reply::with_status(format!("{error}\n"), status).into_response()
        }
    }
}

async fn online(presence: &dyn Presence) -> Result<Vec<Value>, PresenceError> {
    let members = presence.group(GROUP).await?;
    let names: Vec<&str> = members.iter().map(|member| &*member.user).collect();
    let users = presence.users(&names).await?;
    let shown = members.iter().zip(users).map(|(member, user)| {
        let sessions = user.sessions.iter();
        let devices = sessions.map(|session| {
            let kind = session
                .device
                .as_ref()
                .and_then(|device| device.kind.as_deref());
            json!({ "type": kind, "transport": session.transport })
        });
        let since = user
            .sessions
            .first()
            .map(|session| humantime::format_rfc3339_millis(session.since).to_string());
        json!({
            "user": &*member.user,
            "status": member.status,
            "since": since,
            "devices": devices.collect::<Vec<_>>(),
        })
    });
    Ok(shown.collect())
}

/// Publishes to the exchange, as a backend does, without knowing its listeners.
async fn publish(services: &Services, push: Push) -> Result<(), BrokerError> {
    let vhost = services
        .vhosts
        .vhost(&services.settings().default_vhost)
        .ok_or_else(|| BrokerError::NotFound("no virtual host".into()))?;
    let publish = Publish {
        exchange: EXCHANGE.into(),
        routing_key: push.key,
        properties: Properties {
            content_type: Some("text/plain".into()),
            ..Properties::default()
        },
        body: push.body.into(),
        mandatory: false,
        lane: LANE_OF_DEMO,
        slow: None,
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
