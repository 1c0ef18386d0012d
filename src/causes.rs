//! Errors in one line.

use std::{error::Error, io, path::Path};

/// What rustls says of a server whose answer to its greeting is no TLS.
const RUSTLS_NO_TLS: &str = "received corrupt message of type InvalidContentType";

/// The same, with the mend.
pub const NO_TLS: &str = "it answers without TLS: write amqp:// (or http://, redis://), or give its port \
                          for TLS (RabbitMQ's is 5671)";

/// A library's words about a server, in ours where nobody could act on them.
pub fn in_our_words(text: &str) -> String {
    text.replace(RUSTLS_NO_TLS, NO_TLS)
}

/// An error and its causes, from the outermost to the first, [in our words](in_our_words). A cause that
/// the text before tells already is left out: some errors print their causes themselves.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    in_our_words(&text)
}

/// Why an HTTP request has no answer: without its URL, which may hold a secret, and without the names
/// of the client's own layers, which tell nobody anything.
pub fn of_request(error: reqwest::Error) -> String {
    plain(&with_causes(&error.without_url()))
}

fn plain(text: &str) -> String {
    let text = text.strip_prefix("error sending request: ").unwrap_or(text);
    if let Some(cause) = text.strip_prefix("client error (Connect): ") {
        let cause = cause.strip_prefix("tcp connect error: ").unwrap_or(cause);
        return format!("cannot connect: {cause}");
    }
    let cause = text.strip_prefix("client error (SendRequest): ");
    cause.unwrap_or(text).to_owned()
}

/// Why a file cannot be read, and what to do where the system's words do not say it.
pub fn unreadable(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; correct the path",
        io::ErrorKind::PermissionDenied => "; let the user that this program runs as read it",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    };
    format!("{}: {error}{remedy}", path.display())
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[test]
    fn a_request_s_error_is_the_fault_alone() {
        for (told, fault) in [
            (
                "error sending request: client error (Connect): tcp connect error: Connection \
                 refused (os error 111)",
                "cannot connect: Connection refused (os error 111)",
            ),
            (
                "error sending request: client error (Connect): invalid peer certificate: \
                 UnknownIssuer",
                "cannot connect: invalid peer certificate: UnknownIssuer",
            ),
            (
                "error sending request: client error (SendRequest): connection closed before \
                 message completed",
                "connection closed before message completed",
            ),
            (
                "error decoding response body",
                "error decoding response body",
            ),
        ] {
            assert_eq!(plain(told), fault);
        }
    }

    /// rustls' own words may change.
    #[test]
    fn a_server_without_tls_is_told_with_the_mend() {
        let rustls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(with_causes(&rustls), NO_TLS);
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls);
        assert_eq!(with_causes(&error), NO_TLS);
        let request = format!("error sending request: client error (Connect): {error}");
        assert_eq!(
            plain(&in_our_words(&request)),
            format!("cannot connect: {NO_TLS}")
        );
    }

    #[derive(Debug, Error)]
    #[error("no answer")]
    struct Silence;

    #[derive(Debug, Error)]
    enum Outer {
        #[error("the call failed")]
        Quiet(#[source] Silence),
        #[error("the call failed ({0}), and that is all")]
        Told(#[source] Silence),
    }

    #[test]
    fn each_cause_is_told_once() {
        for (error, text) in [
            (Outer::Quiet(Silence), "the call failed: no answer"),
            (
                Outer::Told(Silence),
                "the call failed (no answer), and that is all",
            ),
        ] {
            assert_eq!(with_causes(&error), text);
        }
        assert_eq!(with_causes(&Silence), "no answer");
    }
}
