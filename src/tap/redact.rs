//! Which headers of a frame are shown (pure).
//!
//! A header is hidden unless something speaks for it: what STOMP, RabbitMQ and this gateway define is
//! shown; an application's own headers only where the configuration says so; and what may be a
//! credential never, by its name or by its look.

use super::config::{Config, Show};

/// A name with one of these in it is a secret's: rather one too many than one too few.
const SECRET: &[&str] = &[
    "pass",
    "secret",
    "token",
    "cookie",
    "auth",
    "credential",
    "apikey",
    "api-key",
    "api_key",
    "private",
    "signature",
    "jwt",
    "bearer",
    "session-key",
    "otp",
];

/// Headers whose values tell how the frame is handled, and nothing of what it says.
const KNOWN: &[&str] = &[
    "accept-version",
    "ack",
    "amqp-message-id",
    "app-id",
    "attempt",
    "auto-delete",
    "client-seq",
    "content-encoding",
    "content-length",
    "content-type",
    "correlation-id",
    "cursor",
    "destination",
    "device-id",
    "device-type",
    "durable",
    "error-code",
    "exclusive",
    "expiration",
    "expires-in",
    "first-available",
    "heart-beat",
    "host",
    "id",
    "last",
    "last-client-seq",
    "login",
    "message",
    "message-id",
    "missed",
    "persistent",
    "prefetch-count",
    "priority",
    "reason",
    "receipt",
    "receipt-id",
    "reconnect",
    "redelivered",
    "reply-to",
    "requeue",
    "resume",
    "resume-after",
    "resume-gap",
    "selector",
    "server",
    "session",
    "since",
    "status",
    "subscription",
    "timestamp",
    "traceparent",
    "tracestate",
    "transaction",
    "type",
    "user-id",
    "version",
    "x-dropped",
    "x-queue-name",
    "x-stomp-user",
];

/// Whether the value of a header may be shown.
#[must_use]
pub(super) fn is_shown(name: &str, value: &str, config: &Config) -> bool {
    let bare = name.trim().to_ascii_lowercase();
    let is_secret = SECRET.iter().any(|word| bare.contains(word))
        || config
            .secret_headers
            .iter()
            .any(|secret| secret.trim().eq_ignore_ascii_case(&bare))
        || looks_secret(value);
    if is_secret {
        return false;
    }
    match config.show {
        Show::Off => false,
        Show::Headers => KNOWN.contains(&&*bare),
        Show::Bodies => true,
    }
}

/// Whether a value looks like a credential: a token (JWT) anywhere in it, what an `Authorization`
/// header has, or a URL with a password.
#[must_use]
pub fn looks_secret(value: &str) -> bool {
    // A JSON object in base64 begins so: `{"`.
    if value.contains("eyJ") {
        return true;
    }
    let trimmed = value.trim_start();
    let has_scheme = ["bearer ", "basic ", "digest "].iter().any(|scheme| {
        let start = trimmed.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    has_scheme || has_password(value)
}

/// Whether there is a URL with `user:password@`.
fn has_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        let user = authority.rsplit_once('@');
        user.is_some_and(|(user, _)| user.contains(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(show: Show, secret_headers: &[&str]) -> Config {
        Config {
            show,
            secret_headers: secret_headers.iter().map(ToString::to_string).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let all = config(Show::Bodies, &[" X-Patient "]);
        for name in [
            "passcode",
            "Passcode",
            " passcode ",
            "password",
            "token",
            "x-access-token",
            "Authorization",
            "Cookie",
            "x-api-key",
            "client_secret",
            "x-patient",
            "X-PATIENT",
        ] {
            assert!(!is_shown(name, "v", &all), "{name}");
        }
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
        for value in [
            jwt,
            &format!("user {jwt}"),
            "Bearer abc",
            "bearer abc",
            "Basic YTpi",
            "amqp://a:b@host/",
            "see https://a:b@host",
        ] {
            assert!(!is_shown("login", value, &all), "{value}");
            assert!(!is_shown("x-mine", value, &all), "{value}");
        }
        for value in ["alice", "basically", "http://host/a:b@c", "http://a@host"] {
            assert!(is_shown("login", value, &all), "{value}");
        }
    }

    #[test]
    fn an_application_s_own_headers_are_its_content() {
        let (headers, bodies) = (config(Show::Headers, &[]), config(Show::Bodies, &[]));
        for name in ["x-diagnosis", "colour", ""] {
            assert!(!is_shown(name, "v", &headers), "{name}");
            assert!(is_shown(name, "v", &bodies), "{name}");
        }
        for name in ["destination", "receipt", "content-type", "Message-ID"] {
            assert!(is_shown(name, "v", &headers), "{name}");
        }
        let off = config(Show::Off, &[]);
        assert!(!is_shown("destination", "v", &off));
    }

    /// Or they would be hidden for their names.
    #[test]
    fn no_known_header_has_the_name_of_a_secret() {
        let all = config(Show::Headers, &[]);
        for name in KNOWN {
            assert!(is_shown(name, "v", &all), "{name}");
        }
    }
}
