//! The WebSocket upgrade: what is asked of a request, and answered (RFC 6455, 4.2).

use hyper::{HeaderMap, Method, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use url::Url;

use crate::auth::CarryError;

/// Subprotocols that are spoken, the best first. They do not bind the STOMP version: that is
/// negotiated by CONNECT, and clients rely on it.
const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

/// Which origins may connect.
#[derive(Clone, Debug)]
pub struct Origins {
    /// Exact origins, or `*`; where there is none, the host that the request is for.
    pub allowed: Vec<String>,
    /// Whether a request without an origin may: one that is not a browser's.
    pub allow_missing: bool,
}

/// What to answer to an upgrade that is granted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The `sec-websocket-accept` header.
    pub(super) accept: String,
    /// The `sec-websocket-protocol` header, if there is to be one.
    pub(super) protocol: Option<&'static str>,
}

/// Why an upgrade is not granted: a status, and words for whoever wrote the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// Its text.
    pub(super) text: String,
}

impl From<CarryError> for Refusal {
    fn from(error: CarryError) -> Self {
        let status = match error {
            CarryError::Unauthorized => StatusCode::UNAUTHORIZED,
            CarryError::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            CarryError::Twice(_) | CarryError::NotText(_) => StatusCode::BAD_REQUEST,
        };
        Self {
            status,
            text: error.to_string(),
        }
    }
}

/// Looks at a request to the WebSocket's path.
///
/// # Errors
/// It is no upgrade, or its origin may not connect.
pub(super) fn examine(
    method: &Method,
    headers: &HeaderMap,
    origins: &Origins,
) -> Result<Grant, Refusal> {
    let refuse = |status, text: &str| {
        Err(Refusal {
            status,
            text: text.to_owned(),
        })
    };
    if method != Method::GET {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "A WebSocket is opened by GET.",
        );
    }
    let has = |name, token| tokens(headers, name).any(|value| value.eq_ignore_ascii_case(token));
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return refuse(
            StatusCode::UPGRADE_REQUIRED,
            "This is a WebSocket for STOMP: connect with a STOMP client, such as stomp.js.",
        );
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return refuse(
            StatusCode::UPGRADE_REQUIRED,
            "Only version 13 of WebSocket is spoken.",
        );
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "The sec-websocket-key header is missing.",
        );
    };
    origins.check(headers)?;
    let offered: Vec<_> = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let protocol = SUBPROTOCOLS
        .into_iter()
        .find(|known| offered.contains(known));
    Ok(Grant {
        accept: derive_accept_key(key.as_bytes()),
        protocol,
    })
}

impl Origins {
    /// A page of another site must not use the cookies and the network of whoever looks at it.
    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let refuse = |text: String| {
            Err(Refusal {
                status: StatusCode::FORBIDDEN,
                text,
            })
        };
        let Some(origin) = headers.get(header::ORIGIN) else {
            if self.allow_missing {
                return Ok(());
            }
            return refuse("An Origin header is required.".to_owned());
        };
        let origin = origin.to_str().unwrap_or_default();
        let is_allowed = if self.allowed.is_empty() {
            let host = headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok());
            is_same_host(origin, host.unwrap_or_default())
        } else {
            self.allowed
                .iter()
                .any(|allowed| allowed == "*" || allowed == origin)
        };
        if is_allowed {
            return Ok(());
        }
        refuse(format!(
            "Pages of {origin:?} may not connect here; the server's configuration lists who may \
             ([listen] origins)."
        ))
    }
}

/// Whether an origin is of the host that a request is for. The scheme is not compared: behind a
/// proxy that ends TLS it is another one.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Ok(origin) = Url::parse(origin) else {
        return false;
    };
    let Ok(host) = Url::parse(&format!("{}://{host}", origin.scheme())) else {
        return false;
    };
    origin.host().is_some()
        && origin.host() == host.host()
        && origin.port_or_known_default() == host.port_or_known_default()
}

/// The values of a header that is a list, over all its lines.
fn tokens(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(extra: &[(&str, &str)]) -> HeaderMap {
        let usual = [
            ("host", "push.example.com"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in usual.iter().chain(extra) {
            let name: header::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn same_host() -> Origins {
        Origins {
            allowed: Vec::new(),
            allow_missing: true,
        }
    }

    fn protocol(offered: &str) -> Option<&'static str> {
        let headers = request(&[("sec-websocket-protocol", offered)]);
        examine(&Method::GET, &headers, &same_host())
            .unwrap()
            .protocol
    }

    fn status(headers: &HeaderMap, origins: &Origins) -> Option<u16> {
        examine(&Method::GET, headers, origins)
            .err()
            .map(|refusal| refusal.status.as_u16())
    }

    /// The example of RFC 6455, 1.3.
    #[test]
    fn the_key_is_answered() {
        let grant = examine(&Method::GET, &request(&[]), &same_host()).unwrap();
        assert_eq!(grant.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(grant.protocol, None);
    }

    #[test]
    fn the_best_subprotocol_that_was_offered_is_answered() {
        assert_eq!(
            protocol("v10.stomp, v11.stomp, v12.stomp"),
            Some("v12.stomp")
        );
        assert_eq!(protocol("v10.stomp,v11.stomp"), Some("v11.stomp"));
        assert_eq!(protocol("mqtt"), None);
    }

    #[test]
    fn without_origins_only_pages_of_the_same_host_may_connect() {
        for (origin, expected) in [
            ("https://push.example.com", None),
            ("http://push.example.com", None),
            ("http://PUSH.example.com", None),
            ("https://push.example.com:8443", Some(403)),
            ("https://evil.example", Some(403)),
            ("https://push.example.com.evil.example", Some(403)),
            ("null", Some(403)),
            ("", Some(403)),
        ] {
            let headers = request(&[("origin", origin)]);
            assert_eq!(status(&headers, &same_host()), expected, "{origin}");
        }
    }

    #[test]
    fn listed_origins_replace_the_same_host() {
        let listed = Origins {
            allowed: vec!["https://app.example.com".to_owned()],
            allow_missing: true,
        };
        let from = |origin| request(&[("origin", origin)]);
        assert_eq!(status(&from("https://app.example.com"), &listed), None);
        assert_eq!(status(&from("http://app.example.com"), &listed), Some(403));
        assert_eq!(
            status(&from("https://push.example.com"), &listed),
            Some(403)
        );
        let all = Origins {
            allowed: vec!["*".to_owned()],
            allow_missing: true,
        };
        assert_eq!(status(&from("null"), &all), None);
    }

    #[test]
    fn a_missing_origin_has_its_own_switch() {
        assert_eq!(status(&request(&[]), &same_host()), None);
        let strict = Origins {
            allow_missing: false,
            ..same_host()
        };
        assert_eq!(status(&request(&[]), &strict), Some(403));
    }

    #[test]
    fn what_is_no_upgrade_is_told_so() {
        for missing in ["connection", "upgrade", "sec-websocket-version"] {
            let mut headers = request(&[]);
            headers.remove(missing);
            assert_eq!(status(&headers, &same_host()), Some(426), "{missing}");
        }
        let mut headers = request(&[]);
        headers.remove("sec-websocket-key");
        assert_eq!(status(&headers, &same_host()), Some(400));
        let refusal = examine(&Method::POST, &request(&[]), &same_host()).unwrap_err();
        assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);
    }
}
