//! The answers, with their headers: which may be kept and which must not, which origins may read
//! them, and the cookie.

use std::{
    hash::Hasher,
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{Body, Options, Refusal, Transport, receive::FrameAnswer};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
/// The protocol's tests compare it literally.
const NOT_KEPT: HeaderValue =
    HeaderValue::from_static("no-store, no-cache, no-transform, must-revalidate, max-age=0");
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=31536000");
const ASKED_FOR_EACH_TIME: HeaderValue = HeaderValue::from_static("public, no-cache");
const YEAR: HeaderValue = HeaderValue::from_static("31536000");

/// The headers that tell a browser which scripts may read an answer (CORS).
pub(crate) struct CorsHeaders {
    origin: Option<HeaderValue>,
    headers: Option<HeaderValue>,
}

impl CorsHeaders {
    pub(crate) fn of(request: &HeaderMap) -> Self {
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

/// The headers that all answers about a session have in common.
pub(crate) struct SessionHeaders {
    pub(crate) cors: Option<CorsHeaders>,
    pub(crate) cookie: Option<HeaderValue>,
}

impl SessionHeaders {
    fn finish(&self, mut answer: Response<Body>) -> Response<Body> {
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
    pub(crate) fn taken(&self) -> Response<Body> {
        let mut answer = plain(StatusCode::NO_CONTENT, "");
        answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        self.finish(answer)
    }

    /// Messages were taken; for browsers that want to hear something.
    pub(crate) fn ok(&self) -> Response<Body> {
        self.finish(text(StatusCode::OK, "ok"))
    }

    pub(crate) fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        let mut answer = plain_refusal(refusal, refusal.text.clone());
        answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        self.finish(answer)
    }

    /// Frames.
    pub(crate) fn receive(&self, answered: FrameAnswer) -> Response<Body> {
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

/// Of a request that is refused before there is a session.
pub(crate) fn refuse(refusal: &Refusal) -> Response<Body> {
    plain_refusal(refusal, format!("{}\n", refusal.text))
}

fn plain_refusal(refusal: &Refusal, text: String) -> Response<Body> {
    let mut answer = plain(refusal.status, text);
    if let Some(challenge) = &refusal.challenge {
        let headers = answer.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
    }
    if let Some(seconds) = refusal.retry_after {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// `JSESSIONID`, as the client has it, or with any value.
pub(crate) fn cookie(request: &HeaderMap) -> HeaderValue {
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

/// The answer where there is nothing.
#[must_use]
pub fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "There is nothing here.\n")
}

/// The protocol wants no body, nor a type of it.
pub(crate) fn wrong_method(allow: &'static str) -> Response<Body> {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "");
    let allow = HeaderValue::from_static(allow);
    answer.headers_mut().insert(header::ALLOW, allow);
    answer
}

pub(crate) fn greeting() -> Response<Body> {
    text(StatusCode::OK, "Welcome to SockJS!\n")
}

/// Tells that scripts of the origin may ask. Whether one may *open* a session is decided when it
/// does.
pub(crate) fn preflight(cors: &CorsHeaders, methods: &'static str) -> Response<Body> {
    let mut answer = plain(StatusCode::NO_CONTENT, "");
    let headers = answer.headers_mut();
    cors.add_to(headers);
    let methods = HeaderValue::from_static(methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, YEAR);
    keep(headers);
    answer
}

/// The answer to a client's first question, by which it chooses a transport and learns how far away
/// the server is.
pub(crate) fn info(options: &Options, cors: Option<&CorsHeaders>) -> Response<Body> {
    let info = serde_json::json!({
        "websocket": options.serves(Transport::Websocket),
        "origins": ["*:*"],
        "cookie_needed": options.cookie,
        "entropy": rand::random::<u32>(),
    });
    let mut answer = text(StatusCode::OK, info.to_string());
    let headers = answer.headers_mut();
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, NOT_KEPT);
    if let Some(cors) = cors {
        cors.add_to(headers);
    }
    answer
}

/// The page of the iframe. Browsers keep it for long, unless a policy names the sites that may show
/// it: they keep the policy with the page, so a site that is listed later would stay locked out, and
/// one that is no longer listed would get in. Then they ask each time if the page has changed.
pub(crate) fn iframe(
    client_url: &str,
    known: Option<&HeaderValue>,
    policy: Option<HeaderValue>,
) -> Response<Body> {
    let page = IFRAME.replace("CLIENT_URL", client_url);
    let policy_bytes = policy.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    let mut hasher = SipHasher13::new();
    hasher.write(page.as_bytes());
    hasher.write(policy_bytes);
    let tag = format!("\"{:032x}\"", hasher.finish128().as_u128());
    let mut answer = if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        plain(StatusCode::NOT_MODIFIED, "")
    } else {
        let mut answer = plain(StatusCode::OK, page);
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
    let in_a_year = SystemTime::now().checked_add(Duration::from_secs(365 * 24 * 60 * 60));
    if let Some(expires) = in_a_year.and_then(|time| httpdate::fmt_http_date(time).parse().ok()) {
        headers.insert(header::EXPIRES, expires);
    }
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = plain(status, body);
    answer.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    answer
}

/// An answer without a type.
fn plain(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
}
