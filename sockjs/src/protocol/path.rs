//! Which request asks for which resource, by its path and query.

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// The longest name of a session or a callback, in bytes. Clients choose some ten characters.
const MAX_NAME: usize = 128;

/// A resource under a service's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The prefix itself.
    Greeting,
    /// The page that loads the client.
    Iframe,
    /// What this server offers.
    Info,
    /// A WebSocket without frames.
    RawWebSocket,
    /// An endpoint of one session.
    Session {
        /// The session, by the name that its client gave it. The segment before it names a server
        /// to load balancers, and is not looked at.
        id: &'a str,
        /// The endpoint.
        endpoint: Endpoint,
    },
}

/// An endpoint of a session, by the last segment of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `websocket`
    WebSocket,
    /// `xhr`
    Xhr,
    /// `xhr_streaming`
    XhrStreaming,
    /// `xhr_send`
    XhrSend,
    /// `eventsource`
    EventSource,
    /// `htmlfile`
    HtmlFile,
    /// `jsonp`
    Jsonp,
    /// `jsonp_send`
    JsonpSend,
}

/// A callback that cannot be used. The texts are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallbackError {
    /// The parameter is missing.
    #[error("\"callback\" parameter required")]
    Missing,
    /// It is not a name: it could be a script of somebody else.
    #[error("invalid \"callback\" parameter")]
    Invalid,
}

/// The resource at `path`, the part behind the prefix; `None`: there is none.
#[must_use]
pub fn route(path: &str) -> Option<Route<'_>> {
    let Some(path) = path.strip_prefix('/') else {
        return path.is_empty().then_some(Route::Greeting);
    };
    let mut segments = path.split('/');
    match (segments.next()?, segments.next(), segments.next()) {
        ("", None, None) => Some(Route::Greeting),
        ("info", None, None) => Some(Route::Info),
        ("websocket", None, None) => Some(Route::RawWebSocket),
        (page, None, None) => is_iframe(page).then_some(Route::Iframe),
        (server, Some(id), Some(endpoint)) if segments.next().is_none() => {
            let endpoint = endpoint_named(endpoint)?;
            (is_name(server) && is_name(id)).then_some(Route::Session { id, endpoint })
        }
        _ => None,
    }
}

/// The callback of an `htmlfile` or `jsonp` request, from its query.
///
/// # Errors
/// [`CallbackError`].
pub fn callback(query: Option<&str>) -> Result<Box<str>, CallbackError> {
    let value = parameter(query.unwrap_or_default(), &["c", "callback"]);
    let value = value.ok_or(CallbackError::Missing)?;
    let name = percent_decode_str(value).decode_utf8();
    let name = name.map_err(|_| CallbackError::Invalid)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() {
        Err(CallbackError::Missing)
    } else if name.len() > MAX_NAME || !name.bytes().all(is_plain) {
        Err(CallbackError::Invalid)
    } else {
        Ok(name.into())
    }
}

/// The first of these parameters of a query or form, still encoded.
#[must_use]
pub fn parameter<'a>(form: &'a str, names: &[&str]) -> Option<&'a str> {
    let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(name, value)| names.contains(&name).then_some(value))
}

fn is_iframe(page: &str) -> bool {
    let version = page
        .strip_prefix("iframe")
        .and_then(|rest| rest.strip_suffix(".html"));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    version.is_some_and(|version| version.bytes().all(is_plain))
}

fn is_name(segment: &str) -> bool {
    !segment.is_empty() && segment.len() <= MAX_NAME && !segment.contains('.')
}

fn endpoint_named(name: &str) -> Option<Endpoint> {
    Some(match name {
        "websocket" => Endpoint::WebSocket,
        "xhr" => Endpoint::Xhr,
        "xhr_streaming" => Endpoint::XhrStreaming,
        "xhr_send" => Endpoint::XhrSend,
        "eventsource" => Endpoint::EventSource,
        "htmlfile" => Endpoint::HtmlFile,
        "jsonp" => Endpoint::Jsonp,
        "jsonp_send" => Endpoint::JsonpSend,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_these_pages() {
        for (path, expected) in [
            ("", Route::Greeting),
            ("/", Route::Greeting),
            ("/info", Route::Info),
            ("/websocket", Route::RawWebSocket),
        ] {
            assert_eq!(route(path), Some(expected), "{path:?}");
        }
        for page in [
            "/iframe.html",
            "/iframe-a.html",
            "/iframe-.html",
            "/iframe-0.1.2abc-dirty.2144.html",
        ] {
            assert_eq!(route(page), Some(Route::Iframe), "{page}");
        }
        for page in [
            "/a",
            "/a.html",
            "//",
            "///",
            "/a/a",
            "/a/a/",
            "/a/",
            "/iframe.htm",
            "/iframe",
            "/IFRAME.HTML",
            "/iframe.HTML",
            "/iframe.xml",
            "/iframe-/.html",
            "/info/",
            "x",
        ] {
            assert_eq!(route(page), None, "{page:?}");
        }
    }

    #[test]
    fn a_session_is_known_by_its_second_segment() {
        for server in ["000", "999", "a", "_", "abcdefgh_i-j%20"] {
            let path = format!("/{server}/abc%20d/xhr_send");
            let expected = Route::Session {
                id: "abc%20d",
                endpoint: Endpoint::XhrSend,
            };
            assert_eq!(route(&path), Some(expected));
        }
        for path in [
            "///xhr",
            "//a/xhr",
            "/a//xhr",
            "/a./a/xhr",
            "/a/a./xhr",
            "/./././xhr",
            "//xhr",
            "////xhr",
            "/a/a/a/xhr",
            "/a/a/xhr/",
            "/a/a/xhrs",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
        let long = format!("/a/{}/xhr", "x".repeat(MAX_NAME + 1));
        assert_eq!(route(&long), None);
    }

    #[test]
    fn a_callback_is_a_name() {
        for (query, expected) in [
            (Some("c=%63allback"), Ok("callback".into())),
            (Some("t=1&callback=_jp.a1-b"), Ok("_jp.a1-b".into())),
            (None, Err(CallbackError::Missing)),
            (Some(""), Err(CallbackError::Missing)),
            (Some("c="), Err(CallbackError::Missing)),
            (Some("x=c"), Err(CallbackError::Missing)),
            (Some("c=%20"), Err(CallbackError::Invalid)),
            (Some("c=*"), Err(CallbackError::Invalid)),
            (Some("c=abc("), Err(CallbackError::Invalid)),
            (Some("c=abc%28"), Err(CallbackError::Invalid)),
            (Some("c=%ff"), Err(CallbackError::Invalid)),
        ] {
            assert_eq!(callback(query), expected, "{query:?}");
        }
        let long = format!("c={}", "x".repeat(MAX_NAME + 1));
        assert_eq!(callback(Some(&long)), Err(CallbackError::Invalid));
    }
}
