//! The answers, with their headers: what may be kept and what must not be, which origins may read
//! them, and the cookie.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};
use ring::digest::{SHA256, digest};

use super::{super::text_answer, receive::Answered};
use crate::{
    http::{HttpAnswer, Refusal},
    listen::sockjs::{Config, Transport},
};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
/// The protocol's tests compare it literally.
const NOT_KEPT: HeaderValue =
    HeaderValue::from_static("no-store, no-cache, no-transform, must-revalidate, max-age=0");
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=31536000");
const ASKED_FOR_EACH_TIME: HeaderValue = HeaderValue::from_static("public, no-cache");
const YEAR: HeaderValue = HeaderValue::from_static("31536000");

/// What a browser is told of who may read an answer (CORS).
pub(super) struct Cors {
    origin: Option<HeaderValue>,
    headers: Option<HeaderValue>,
}

impl Cors {
    pub(super) fn of(request: &HeaderMap) -> Self {
        let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        Self {
            origin: request.get(header::ORIGIN).cloned(),
            headers: asked.filter(|headers| !headers.is_empty()).cloned(),
        }
    }

    fn add_to(&self, headers: &mut HeaderMap) {
        let any = HeaderValue::from_static("*");
        let origin = self.origin.clone();
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if origin.is_some() {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.unwrap_or(any));
        if let Some(asked) = &self.headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
    }
}

/// What all answers about a session have in common.
pub(super) struct Answering {
    pub(super) cors: Option<Cors>,
    pub(super) cookie: Option<HeaderValue>,
}

impl Answering {
    fn finish(&self, mut answer: HttpAnswer) -> HttpAnswer {
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, NOT_KEPT);
        let plain = HeaderValue::from_static("nosniff");
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, plain);
        if let Some(cors) = &self.cors {
            cors.add_to(headers);
        }
        if let Some(cookie) = &self.cookie {
            headers.insert(header::SET_COOKIE, cookie.clone());
        }
        answer
    }

    /// Messages were taken. The type is there for Firefox, which looks for XML otherwise.
    pub(super) fn taken(&self) -> HttpAnswer {
        let mut answer = text_answer(StatusCode::NO_CONTENT, String::new());
        answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        self.finish(answer)
    }

    /// Messages were taken; for browsers that want to hear something.
    pub(super) fn ok(&self) -> HttpAnswer {
        self.finish(text(StatusCode::OK, "ok"))
    }

    pub(super) fn refuse(&self, refusal: &Refusal) -> HttpAnswer {
        let mut answer = super::refuse(refusal);
        let body = Full::new(Bytes::from(refusal.text.clone()));
        *answer.body_mut() = body.map_err(|never: Infallible| match never {}).boxed();
        answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        self.finish(answer)
    }

    /// Frames.
    pub(super) fn receive(&self, answered: Answered) -> HttpAnswer {
        let mut answer = Response::new(answered.body);
        let headers = answer.headers_mut();
        let kind = HeaderValue::from_static(answered.content_type);
        headers.insert(header::CONTENT_TYPE, kind);
        if answered.is_streaming {
            // nginx would gather it first.
            let no = HeaderValue::from_static("no");
            headers.insert("x-accel-buffering", no);
        }
        self.finish(answer)
    }
}

/// `JSESSIONID`, as the client has it, or with any value.
pub(super) fn cookie(request: &HeaderMap) -> HeaderValue {
    let lines = request.get_all(header::COOKIE).into_iter();
    let mut cookies = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix("JSESSIONID="));
    let value = cookies.next().unwrap_or("dummy");
    let cookie = format!("JSESSIONID={value}; path=/");
    let dummy = HeaderValue::from_static("JSESSIONID=dummy; path=/");
    cookie.parse().unwrap_or(dummy)
}

/// Of a path at which there is nothing.
#[must_use]
pub fn not_found() -> HttpAnswer {
    text(StatusCode::NOT_FOUND, "There is nothing here.\n")
}

/// The protocol wants no body, nor a type of it.
pub(super) fn wrong_method(allow: &'static str) -> HttpAnswer {
    let mut answer = text_answer(StatusCode::METHOD_NOT_ALLOWED, String::new());
    let allow = HeaderValue::from_static(allow);
    answer.headers_mut().insert(header::ALLOW, allow);
    answer
}

pub(super) fn greeting() -> HttpAnswer {
    text(StatusCode::OK, "Welcome to SockJS!\n")
}

/// May a script of that origin ask? Whether it may *open* a session is said when it does.
pub(super) fn preflight(cors: &Cors, methods: &'static str) -> HttpAnswer {
    let mut answer = text_answer(StatusCode::NO_CONTENT, String::new());
    let headers = answer.headers_mut();
    cors.add_to(headers);
    let methods = HeaderValue::from_static(methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, YEAR);
    keep(headers);
    answer
}

/// What a client asks first, to choose a transport, and to see how far away the server is.
pub(super) fn info(config: &Config, cors: Option<&Cors>) -> HttpAnswer {
    let info = serde_json::json!({
        "websocket": config.serves(Transport::Websocket),
        "origins": ["*:*"],
        "cookie_needed": config.cookie,
        "entropy": rand::random::<u32>(),
    });
    let mut answer = text(StatusCode::OK, &info.to_string());
    let headers = answer.headers_mut();
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, NOT_KEPT);
    if let Some(cors) = cors {
        cors.add_to(headers);
    }
    answer
}

/// The page of the iframe. It is the same for all, and for long, unless a policy says who may show
/// it: browsers keep the policy with the page, and one that is listed later would stay locked out,
/// and one that is not listed any more would get in. So they ask each time if it has changed.
pub(super) fn iframe(
    client_url: &str,
    known: Option<&HeaderValue>,
    policy: Option<HeaderValue>,
) -> HttpAnswer {
    let page = IFRAME.replace("CLIENT_URL", client_url);
    let policy_bytes = policy.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    let digest = digest(&SHA256, &[page.as_bytes(), policy_bytes].concat());
    let tag = digest.as_ref().iter().take(16);
    let tag: String = tag.map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let mut answer = if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        text_answer(StatusCode::NOT_MODIFIED, String::new())
    } else {
        let mut answer = text_answer(StatusCode::OK, page);
        let html = HeaderValue::from_static("text/html; charset=UTF-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, html);
        answer
    };
    let headers = answer.headers_mut();
    match &policy {
        None => keep(headers),
        Some(_) => drop(headers.insert(header::CACHE_CONTROL, ASKED_FOR_EACH_TIME)),
    }
    if let Ok(tag) = tag.parse() {
        headers.insert(header::ETAG, tag);
    }
    if let Some(policy) = policy {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

const IFRAME: &str = r#"<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="CLIENT_URL"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>"#;

fn keep(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, KEPT);
    let in_a_year = SystemTime::now() + Duration::from_secs(365 * 24 * 60 * 60);
    if let Ok(expires) = httpdate::fmt_http_date(in_a_year).parse() {
        headers.insert(header::EXPIRES, expires);
    }
}

fn text(status: StatusCode, body: &str) -> HttpAnswer {
    let mut answer = text_answer(status, body.to_owned());
    answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    answer
}
