//! Requests that are refused before STOMP begins: counted, and said now and then.
//!
//! Their clients are pages of strangers, scanners, and one's own page on another port, whose author
//! sees no more than a failed connection. So the log says why; a line for each reason in a while.

use std::time::Instant;

use hyper::HeaderMap;
use parking_lot::Mutex;
use sockjs_server::Refusal;

use crate::telemetry::{self, Seldom};

/// So much of a client's text is said, in bytes.
const MAX_SAID: usize = 256;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedFor {
    /// The page that makes it may not, by its origin.
    Origin,
    /// It asks for an upgrade, or for SockJS, where there is none.
    Path,
    /// It is for a host of another name.
    HostName,
    /// What it carries of a login cannot be read, or may not stand there.
    Credentials,
    /// It is for the WebSocket, and asks for no upgrade, or for one that is not spoken here.
    Upgrade,
}

impl RefusedFor {
    /// As the metric calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Path => "path",
            Self::HostName => "host-name",
            Self::Credentials => "credentials",
            Self::Upgrade => "upgrade",
        }
    }
}

/// The last lines about refusals, by their reason: a frequent one does not hide a rare one.
#[derive(Debug, Default)]
pub struct RefusalLog {
    origin: Mutex<Seldom>,
    path: Mutex<Seldom>,
    host_name: Mutex<Seldom>,
    credentials: Mutex<Seldom>,
    upgrade: Mutex<Seldom>,
}

impl RefusalLog {
    /// Notes an outcome, and passes it on.
    pub(super) fn noted<T>(
        &self,
        why: RefusedFor,
        outcome: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        outcome.inspect_err(|refusal| self.note(why, &refusal.text))
    }

    pub(super) fn note(&self, why: RefusedFor, cause: &str) {
        let seldom = match why {
            RefusedFor::Origin => &self.origin,
            RefusedFor::Path => &self.path,
            RefusedFor::HostName => &self.host_name,
            RefusedFor::Credentials => &self.credentials,
            RefusedFor::Upgrade => &self.upgrade,
        };
        let unsaid = seldom.lock().let_through(Instant::now());
        telemetry::request_refused(why.name(), cut(cause), unsaid);
    }
}

/// True if a request that found nothing was a client's: it asks for an upgrade, or for the page
/// that a client of SockJS asks for first.
pub(super) fn is_client(path: &str, headers: &HeaderMap) -> bool {
    headers.contains_key(hyper::header::UPGRADE) || path.ends_with("/info")
}

fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_SAID);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_asks_for_an_upgrade_or_for_info() {
        let upgrade = HeaderMap::from_iter([(
            hyper::header::UPGRADE,
            hyper::header::HeaderValue::from_static("websocket"),
        )]);
        assert!(is_client("/elsewhere", &upgrade));
        assert!(is_client("/elsewhere/info", &HeaderMap::new()));
        assert!(!is_client("/favicon.ico", &HeaderMap::new()));
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(300)).len(), MAX_SAID);
    }
}
