//! The upgrade of a request to a WebSocket (RFC 6455, 4.2).

use std::time::Duration;

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
};
use thiserror::Error;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{Body, WebSocket};

/// The answer to a request that may become a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// The `sec-websocket-accept` header.
    accept: String,
    /// The `sec-websocket-protocol` header, if there is to be one.
    protocol: Option<&'static str>,
}

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// Its method is not GET.
    #[error("A WebSocket is opened by GET.")]
    Method,
    /// It is of HTTP/1.0, which has no upgrades, though it asks for one.
    #[error(
        "An upgrade takes HTTP/1.1, and this request came by HTTP/1.0. nginx in between needs \
         \"proxy_http_version 1.1\"."
    )]
    OldHttp,
    /// It asks for no upgrade, or not to a WebSocket.
    #[error("The headers \"Connection\" and \"Upgrade\" do not ask for a WebSocket.")]
    NotAsked,
    /// It asks for another version than 13.
    #[error("Only version 13 of WebSocket is spoken.")]
    Version,
    /// It has no key.
    #[error("The sec-websocket-key header is missing.")]
    NoKey,
    /// Its key is not what a client has to make up; or it has more than one.
    #[error("The sec-websocket-key header must be one, of 16 bytes in base64.")]
    BadKey,
}

/// Reads a request for a WebSocket; `protocols` are the subprotocols that are spoken, the best
/// first.
///
/// # Errors
/// [`UpgradeError`].
pub fn examine(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    protocols: &[&'static str],
) -> Result<Grant, UpgradeError> {
    if method != Method::GET {
        return Err(UpgradeError::Method);
    }
    let has = |name, token| tokens(headers, name).any(|value| value.eq_ignore_ascii_case(token));
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(UpgradeError::NotAsked);
    }
    if version < Version::HTTP_11 {
        return Err(UpgradeError::OldHttp);
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(UpgradeError::Version);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().ok_or(UpgradeError::NoKey)?;
    if keys.next().is_some() || !is_key(key.as_bytes()) {
        return Err(UpgradeError::BadKey);
    }
    let offered: Vec<_> = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let mut spoken = protocols.iter().copied();
    Ok(Grant {
        accept: derive_accept_key(key.as_bytes()),
        protocol: spoken.find(|known| offered.contains(known)),
    })
}

/// Whether this is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==")
        .is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit))
}

/// Answers that the connection is a WebSocket from now on. A task of its own waits until it is one,
/// but for `patience` at most, and hands it to `serve`.
pub fn switch<W: WebSocket, B>(
    request: &mut Request<B>,
    patience: Duration,
    grant: Grant,
    max_message_size: usize,
    serve: impl FnOnce(W) + Send + 'static,
) -> Response<Body> {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(Ok(upgraded)) = timeout(patience, upgraded).await
            && let Some(socket) = W::from_upgraded(upgraded, max_message_size)
        {
            serve(socket);
        }
    });
    let mut answer = Response::new(Body::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = grant.accept.parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = grant.protocol {
        let protocol = HeaderValue::from_static(protocol);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    answer
}

/// The values of a header that is a list, over all its lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: [&str; 3] = ["v12.chat", "v11.chat", "v10.chat"];

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
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn examined(headers: &HeaderMap) -> Result<Grant, UpgradeError> {
        examine(&Method::GET, Version::HTTP_11, headers, &PROTOCOLS)
    }

    fn protocol(offered: &str) -> Option<&'static str> {
        let headers = request(&[("sec-websocket-protocol", offered)]);
        examined(&headers).unwrap().protocol
    }

    /// The example of RFC 6455, 1.3.
    #[test]
    fn the_key_is_answered() {
        let grant = examined(&request(&[])).unwrap();
        assert_eq!(grant.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(grant.protocol, None);
    }

    #[test]
    fn the_best_subprotocol_that_was_offered_is_answered() {
        assert_eq!(protocol("v10.chat, v11.chat, v12.chat"), Some("v12.chat"));
        assert_eq!(protocol("v10.chat,v11.chat"), Some("v11.chat"));
        assert_eq!(protocol("mqtt"), None);
    }

    #[test]
    fn a_request_that_is_no_upgrade_is_refused() {
        for (missing, expected) in [
            ("connection", UpgradeError::NotAsked),
            ("upgrade", UpgradeError::NotAsked),
            ("sec-websocket-version", UpgradeError::Version),
            ("sec-websocket-key", UpgradeError::NoKey),
        ] {
            let mut headers = request(&[]);
            headers.remove(missing);
            let refused = examined(&headers);
            assert_eq!(refused, Err(expected), "{missing}");
        }
        let refused = examine(&Method::POST, Version::HTTP_11, &request(&[]), &PROTOCOLS);
        assert_eq!(refused, Err(UpgradeError::Method));
    }
    /// As nginx asks that was not told otherwise. The client would hear 101, and then nothing.
    #[test]
    fn http_1_0_has_no_upgrade() {
        let by = |version| examine(&Method::GET, version, &request(&[]), &PROTOCOLS);
        let refused = by(Version::HTTP_10).unwrap_err();
        assert_eq!(refused, UpgradeError::OldHttp);
        assert!(refused.to_string().contains("proxy_http_version 1.1"));
        // A browser that looks here is told that this is a WebSocket.
        let mut headers = request(&[]);
        headers.remove("upgrade");
        let refused = examine(&Method::GET, Version::HTTP_10, &headers, &PROTOCOLS);
        assert_eq!(refused, Err(UpgradeError::NotAsked));
    }

    #[test]
    fn the_key_is_one_of_16_bytes() {
        for key in [
            "",
            "x",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ===",
            "dGhlIHNhbXBsZSBub25jZSE=",
            "dGhlIHNhbXBsZSBub25j==",
            "dGhlIHNhbXBsZSBub25jZSEx==",
            "dGhlIHNhbXBsZSBub25-ZQ==",
        ] {
            let mut headers = request(&[]);
            headers.insert("sec-websocket-key", key.parse().unwrap());
            assert_eq!(examined(&headers), Err(UpgradeError::BadKey), "{key}");
        }
        let twice = request(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]);
        assert_eq!(examined(&twice), Err(UpgradeError::BadKey));
    }
}
