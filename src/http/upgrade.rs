//! The upgrade to STOMP over WebSocket: which requests may, and the answer to those that may not.

use hyper::{
    HeaderMap, Request, StatusCode,
    header::{self, HeaderValue},
};
use sockjs_server::{
    Refusal,
    upgrade::{self, Grant, UpgradeError},
};
use url::Url;

use super::{HttpAnswer, plain};
use crate::listen::origin;

/// Subprotocols that are spoken, the best first. They do not bind the STOMP version: that is
/// negotiated by CONNECT, and clients rely on it.
pub(super) const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

/// Which origins may connect.
#[derive(Clone, Debug)]
pub struct Origins {
    /// Origins and patterns ([`origin`]); where there is none, the host that the request is for.
    pub allowed: Vec<String>,
    /// Whether a request without an origin may: one that is not a browser's.
    pub allow_missing: bool,
}

/// Reads a request to the WebSocket's path; `protocols` are spoken there, the best first.
///
/// # Errors
/// It is no upgrade.
pub(super) fn examine<B>(
    request: &Request<B>,
    protocols: &[&'static str],
) -> Result<Grant, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    upgrade::examine(method, request.version(), headers, protocols).map_err(|error| {
        let status = match error {
            UpgradeError::Method => StatusCode::METHOD_NOT_ALLOWED,
            UpgradeError::NotAsked => {
                return Refusal::new(
                    StatusCode::UPGRADE_REQUIRED,
                    "This is a WebSocket: connect with a client of it, such as stomp.js.",
                );
            }
            UpgradeError::Version => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, error.to_string())
    })
}

/// The answer to a request to the WebSocket's path that is refused.
pub(super) fn refuse(refusal: &Refusal) -> HttpAnswer {
    let mut answer = plain(refusal.status, refusal.text.clone());
    let headers = answer.headers_mut();
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
    }
    if refusal.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let version = HeaderValue::from_static("13");
        headers.insert(header::SEC_WEBSOCKET_VERSION, version);
    }
    if let Some(challenge) = &refusal.challenge {
        headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
    }
    if let Some(seconds) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

impl Origins {
    /// A page of another site must not use the cookies and the network of whoever looks at it.
    ///
    /// # Errors
    /// The origin may not connect.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match sole_origin(headers)? {
            Some(origin) => self.check_origin(origin.to_str().unwrap_or_default(), headers),
            None if self.allow_missing => Ok(()),
            None => Err(forbidden("An Origin header is required.".to_owned())),
        }
    }

    /// As [`Origins::check`], for SockJS: browsers make requests for it without `Origin`, as for
    /// scripts and forms of any page. Their `Referer` counts then. A page can have both left out;
    /// browsers since 2023 say by `Sec-Fetch-Site` that it is another site's all the same, if the
    /// request is for HTTPS or this very machine. Where nothing is said, it may be any page's, and
    /// it `is_ambient` if a browser would log it in. The own host may connect, too, for its page is
    /// what clients of old browsers use; see [`Origins::frame_ancestors`] for who may use that.
    ///
    /// # Errors
    /// The origin may not connect.
    pub(super) fn check_loosely(
        &self,
        headers: &HeaderMap,
        is_ambient: bool,
    ) -> Result<(), Refusal> {
        let of_url = |url: &str| Url::parse(url).map(|url| url.origin().ascii_serialization());
        let origin = match (sole_origin(headers)?, headers.get(header::REFERER)) {
            (Some(origin), _) => Some(origin.to_str().unwrap_or_default().to_owned()),
            (None, Some(referer)) => {
                Some(of_url(referer.to_str().unwrap_or_default()).unwrap_or_default())
            }
            (None, None) => None,
        };
        if let Some(origin) = origin {
            return match is_own(&origin, headers) {
                true => Ok(()),
                false => self.check_origin(&origin, headers),
            };
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let is_allowed = match site {
            Some(b"same-origin") => true,
            // An address that somebody has typed, or no browser that would say so.
            Some(b"none") | None => self.allow_missing && !is_ambient,
            Some(_) => self.allows_all(),
        };
        match is_allowed {
            true => Ok(()),
            false => Err(forbidden(
                "An Origin or a Referer header is required.".to_owned(),
            )),
        }
    }

    /// The content security policy of a page that acts for whoever shows it in a frame.
    pub(super) fn frame_ancestors(&self) -> Option<HeaderValue> {
        let mut policy = "frame-ancestors 'self'".to_owned();
        for entry in self.allowed.iter().filter(|entry| origin::is_source(entry)) {
            policy.push(' ');
            policy.push_str(entry);
        }
        policy.parse().ok()
    }

    fn allows_all(&self) -> bool {
        self.allowed.iter().any(|entry| entry == origin::ANY)
    }

    fn check_origin(&self, origin: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let is_allowed = if self.allowed.is_empty() {
            is_own(origin, headers)
        } else {
            let mut entries = self.allowed.iter();
            entries.any(|entry| origin::matches(entry, origin))
        };
        if is_allowed {
            return Ok(());
        }
        Err(forbidden(format!(
            "Pages of {origin:?} may not connect here; the server's configuration lists who may \
             ([listen] origins)."
        )))
    }
}

fn forbidden(text: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, text)
}

/// The origin that a request names. Of two, a server in between may have looked at the other one.
fn sole_origin(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut lines = headers.get_all(header::ORIGIN).iter();
    match (lines.next(), lines.next()) {
        (origin, None) => Ok(origin),
        (_, Some(_)) => Err(forbidden(
            "The Origin header is there more than once.".to_owned(),
        )),
    }
}

/// Whether an origin is of the host that the request with these headers is for.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    is_same_host(origin, host.unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use hyper::Method;

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

    fn asking(method: Method, headers: &HeaderMap) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.headers_mut() = headers.clone();
        request
    }

    fn same_host() -> Origins {
        Origins {
            allowed: Vec::new(),
            allow_missing: true,
        }
    }

    fn status(headers: &HeaderMap, origins: &Origins) -> Option<u16> {
        examine(&asking(Method::GET, headers), &SUBPROTOCOLS)
            .and_then(|_| origins.check(headers))
            .err()
            .map(|refusal| refusal.status.as_u16())
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
    fn apps_and_hosts_below_a_domain_may_be_listed() {
        let listed = Origins {
            allowed: ["https://*.example.com", "capacitor://localhost", "null"]
                .map(str::to_owned)
                .into(),
            allow_missing: true,
        };
        for (origin, expected) in [
            ("https://app.example.com", None),
            ("https://a.b.example.com", None),
            ("https://example.com", Some(403)),
            ("capacitor://localhost", None),
            ("ionic://localhost", Some(403)),
            ("null", None),
            ("file://", Some(403)),
        ] {
            let headers = request(&[("origin", origin)]);
            assert_eq!(status(&headers, &listed), expected, "{origin}");
        }
        // A policy has no word for pages without a host.
        let policy = listed.frame_ancestors().unwrap();
        let expected = "frame-ancestors 'self' https://*.example.com capacitor://localhost";
        assert_eq!(policy, expected);
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
    fn two_origins_are_none() {
        let own = ("origin", "https://push.example.com");
        let headers = request(&[own, own]);
        assert_eq!(status(&headers, &same_host()), Some(403));
        let refusal = same_host().check_loosely(&headers, false).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn without_origin_the_referer_counts() {
        let listed = Origins {
            allowed: vec!["https://app.example.com".to_owned()],
            allow_missing: true,
        };
        let check = |extra: &[(&str, &str)], is_ambient| {
            let refusal = listed.check_loosely(&request(extra), is_ambient).err();
            refusal.map(|refusal| refusal.status.as_u16())
        };
        for is_ambient in [true, false] {
            for (name, value, expected) in [
                ("origin", "https://app.example.com", None),
                ("origin", "https://push.example.com", None),
                ("origin", "https://evil.example", Some(403)),
                ("origin", "null", Some(403)),
                ("referer", "https://app.example.com/page?x", None),
                (
                    "referer",
                    "https://push.example.com/stomp/iframe.html",
                    None,
                ),
                ("referer", "https://evil.example/", Some(403)),
                ("referer", "about:blank", Some(403)),
                ("referer", "nonsense", Some(403)),
            ] {
                assert_eq!(check(&[(name, value)], is_ambient), expected, "{value}");
            }
            let both = [
                ("origin", "https://evil.example"),
                ("referer", "https://app.example.com/"),
            ];
            assert_eq!(check(&both, is_ambient), Some(403));
        }
        // Not a browser's; or one's that was made to keep silent about it.
        assert_eq!(check(&[], false), None);
        assert_eq!(check(&[], true), Some(403));
        // A page that keeps its name to itself, in a browser that tells whose it is.
        for (site, plain, ambient) in [
            ("cross-site", Some(403), Some(403)),
            ("same-site", Some(403), Some(403)),
            ("nonsense", Some(403), Some(403)),
            ("same-origin", None, None),
            ("none", None, Some(403)),
        ] {
            let site = [("sec-fetch-site", site)];
            assert_eq!(check(&site, false), plain, "{site:?}");
            assert_eq!(check(&site, true), ambient, "{site:?}");
            let all = Origins {
                allowed: vec!["*".to_owned()],
                allow_missing: true,
            };
            assert_eq!(all.check_loosely(&request(&site), false), Ok(()));
        }
        let foreign = [
            ("origin", "https://app.example.com"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert_eq!(check(&foreign, true), None);
        let policy = listed.frame_ancestors().unwrap();
        assert_eq!(policy, "frame-ancestors 'self' https://app.example.com");
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
        let post = asking(Method::POST, &request(&[]));
        let refusal = examine(&post, &SUBPROTOCOLS).unwrap_err();
        assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);
    }
}
