//! The entries of `[listen] origins`: their syntax, and the origins that they stand for. Pure.
//!
//! An origin is what a browser, or the web view of an app, sends in `Origin`. Those of web pages
//! have a form of their own (RFC 6454, 6.1). Apps and extensions use schemes of their own
//! (`capacitor://localhost`), and a page without a host has `null` or `file://`.

use url::{Host, Url};

/// All origins.
pub const ANY: &str = "*";

/// The origin of pages in a sandbox, of files, and of whoever wants to be nobody.
pub const NULL: &str = "null";

/// The origin of a file, as some web views send it; browsers send [`NULL`].
const FILE: &str = "file://";

/// Before the rest of a host, in an entry: any host below it.
const BELOW: &str = "*.";

/// Succeeds if an entry can match anything.
///
/// # Errors
/// The fault, and the text to write instead.
pub fn check(entry: &str) -> Result<(), String> {
    if [ANY, NULL, FILE].contains(&entry) {
        return Ok(());
    }
    let (example, is_pattern) = match entry.split_once("://") {
        Some((scheme, rest)) if rest.starts_with(BELOW) => {
            // A name in the place of the star, so that the rest is looked at as any other.
            (format!("{scheme}://{}", rest.replacen('*', "a", 1)), true)
        }
        _ => (entry.to_owned(), false),
    };
    let Some(meant) = serialized(&example).filter(|_| !example.contains('*')) else {
        return Err(format!(
            "{entry:?} is not an origin; write scheme and host, such as \
             \"https://app.example.com\", \"https://*.example.com\" or \"capacitor://localhost\", \
             or \"*\" for all"
        ));
    };
    if meant != example {
        let meant = match is_pattern {
            true => meant.replacen("://a.", "://*.", 1),
            false => meant,
        };
        return Err(format!(
            "{entry:?} is not as browsers send it; write {meant:?}"
        ));
    }
    if is_pattern && !has_owner(&example) {
        return Err(format!(
            "{entry:?} is everybody's: below it are hosts of strangers; name a domain of your own, \
             such as \"https://*.example.com\""
        ));
    }
    Ok(())
}

/// True if an origin is one of those that an entry stands for. As in a content security policy,
/// `https://*.example.com` is every host below `example.com`, however deep, and not that one.
#[must_use]
pub fn matches(entry: &str, origin: &str) -> bool {
    if entry == ANY || entry == origin {
        return true;
    }
    let Some((scheme, host)) = split(entry).filter(|(_, host)| host.starts_with(BELOW)) else {
        return false;
    };
    let Some((of_scheme, of_host)) = split(origin) else {
        return false;
    };
    // With the dot, and something before it.
    let rest = host.trim_start_matches('*');
    let below = of_host.strip_suffix(rest);
    scheme == of_scheme && below.is_some_and(|below| !below.is_empty() && is_name(below))
}

/// True if a content security policy can name it: it has a scheme and a host, or is [`ANY`].
#[must_use]
pub fn is_source(entry: &str) -> bool {
    entry == ANY || split(entry).is_some_and(|(_, host)| !host.is_empty())
}

fn split(origin: &str) -> Option<(&str, &str)> {
    origin.split_once("://")
}

/// True if a text can stand before a domain: names and dots, so that no port or user is taken for
/// one.
fn is_name(below: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    below.bytes().all(plain)
}

/// As browsers send it; `None`: it is none.
fn serialized(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let origin = url.origin();
    if origin.is_tuple() {
        return Some(origin.ascii_serialization());
    }
    // Of a scheme of its own: there is no rule but that of the web view.
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let port = url.port().map(|port| format!(":{port}"));
    let port = port.unwrap_or_default();
    Some(format!("{}://{host}{port}", url.scheme()))
}

/// True if a pattern's hosts can be one owner's: below `example.com` or this machine, not below
/// `com`.
fn has_owner(example: &str) -> bool {
    let url = Url::parse(example).ok();
    let host = url.as_ref().and_then(Url::host);
    let name = match &host {
        Some(Host::Domain(name)) => *name,
        _ => return false,
    };
    // The first is the one in the place of the star.
    let rest = name.split_once('.').map_or("", |(_, rest)| rest);
    rest == "localhost" || rest.split('.').filter(|label| !label.is_empty()).count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_clients_send() {
        for entry in [
            "*",
            "null",
            "file://",
            "https://app.example.com",
            "http://localhost:8080",
            "http://[::1]:3000",
            "https://*.example.com",
            "https://*.example.com:8443",
            "http://*.localhost:3000",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "app://-",
            "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai",
        ] {
            assert_eq!(check(entry), Ok(()), "{entry}");
        }
    }

    #[test]
    fn entries_that_match_nothing_are_refused() {
        let wrong = |entry: &str| check(entry).unwrap_err();
        for (entry, instead) in [
            ("https://app.example.com/", "https://app.example.com"),
            ("https://App.example.com:443", "https://app.example.com"),
            ("https://*.Example.com/", "https://*.example.com"),
            ("Capacitor://localhost", "capacitor://localhost"),
            ("capacitor://localhost/", "capacitor://localhost"),
        ] {
            let text = wrong(entry);
            assert!(text.ends_with(&format!("write {instead:?}")), "{text}");
        }
        for entry in [
            "",
            "app.example.com",
            "*.example.com",
            "https://",
            "https://*",
            "https://a.*.example.com",
            "https://*.*.example.com",
            "*://app.example.com",
            "file:///",
            "NULL",
        ] {
            let text = wrong(entry);
            assert!(text.contains("is not an origin"), "{entry}: {text}");
        }
        for entry in ["https://*.com", "https://*.com.", "https://*.0.0.1"] {
            let text = wrong(entry);
            assert!(
                text.contains("everybody's") || text.contains("is not"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_pattern_is_every_host_below_a_domain() {
        let below = "https://*.example.com";
        for (origin, expected) in [
            ("https://app.example.com", true),
            ("https://a.b.example.com", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://evilexample.com", false),
            ("https://app.example.com.evil.example", false),
            ("https://evil.example:1.example.com", false),
            ("https://evil/.example.com", false),
            ("https://u@app.example.com", false),
            ("https://app.example.com:8443", false),
            ("http://app.example.com", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(matches(below, origin), expected, "{origin}");
        }
        assert!(matches(
            "https://*.example.com:8443",
            "https://a.example.com:8443"
        ));
        assert!(matches("*", "null") && matches("null", "null"));
        assert!(matches("capacitor://localhost", "capacitor://localhost"));
        assert!(!matches("file://", "null"));
    }

    #[test]
    fn a_policy_names_what_has_a_host() {
        for (entry, expected) in [
            ("*", true),
            ("https://*.example.com", true),
            ("capacitor://localhost", true),
            ("null", false),
            ("file://", false),
        ] {
            assert_eq!(is_source(entry), expected, "{entry}");
        }
    }
}
