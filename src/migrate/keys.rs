//! The fate of each key of RabbitMQ's schema, in tables. Rules that need more than one key are in
//! [`super::rules`].

/// How a value of `rabbitmq.conf` is written in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A text, as it is.
    Text,
    /// `true` or `false`.
    Switch,
    /// The contrary of `true` or `false`.
    Contrary,
    /// Milliseconds: a duration.
    Milliseconds,
    /// Bytes: a size.
    Bytes,
}

/// A key that one key stands for: RabbitMQ's, section and key here, and how the value is written.
pub(super) const EQUIVALENTS: &[(&str, &str, &str, Kind)] = &[
    (
        "stomp.default_topic_exchange",
        "stomp",
        "default_topic_exchange",
        Kind::Text,
    ),
    (
        "stomp.default_nack_requeue",
        "stomp",
        "nack_requeue",
        Kind::Switch,
    ),
    (
        "stomp.hide_server_info",
        "stomp",
        "server_header",
        Kind::Contrary,
    ),
    (
        "stomp.login_timeout",
        "limits",
        "login_timeout",
        Kind::Milliseconds,
    ),
    (
        "stomp.max_frame_size",
        "limits",
        "max_frame_size",
        Kind::Bytes,
    ),
    (
        "stomp.max_frame_size_unauthenticated",
        "limits",
        "max_frame_size_unauthenticated",
        Kind::Bytes,
    ),
    (
        "web_stomp.use_http_auth",
        "auth",
        "http_basic",
        Kind::Switch,
    ),
    ("web_stomp.ws_path", "listen", "websocket_path", Kind::Text),
    ("auth_http.http_method", "auth", "http_method", Kind::Text),
    (
        "auth_http.request_timeout",
        "auth",
        "request_timeout",
        Kind::Milliseconds,
    ),
    (
        "auth_http.connection_timeout",
        "auth",
        "connection_timeout",
        Kind::Milliseconds,
    ),
    (
        "auth_http.authorization_failure_disclosure",
        "auth",
        "disclose_reason",
        Kind::Switch,
    ),
    (
        "auth_cache.cache_ttl",
        "auth",
        "cache_ttl",
        Kind::Milliseconds,
    ),
];

/// A setting without an equivalent.
pub(super) struct Without {
    /// RabbitMQ's key; `*` at the end stands for one word or more, `$` for one word.
    pub(super) pattern: &'static str,
    /// The value that says what Stentor does anyway.
    pub(super) same: Option<&'static str>,
    /// The reason, and the remedy.
    pub(super) why: &'static str,
}

const fn without(pattern: &'static str, why: &'static str) -> Without {
    Without {
        pattern,
        same: None,
        why,
    }
}

const fn same(pattern: &'static str, same: &'static str, why: &'static str) -> Without {
    Without {
        pattern,
        same: Some(same),
        why,
    }
}

const SOCKETS: &str = "sockets are as Stentor makes them (without delay); buffers and the queue of \
                       new connections are the system's (sysctl net.ipv4.tcp_rmem, tcp_wmem, \
                       net.core.somaxconn)";
const ACCEPTORS: &str = "one task accepts on each listener, which is enough: leave it out";
const HTTP: &str = "requests are bounded by Stentor itself: 32 KiB of headers, and [listen] \
                    handshake_timeout";
const SILENCE: &str = "a client that is silent stays connected, and one that vanished is found by \
                       pings: see [stomp] ping_interval";
pub(super) const TLS_LIBRARY: &str = "chosen by the TLS library (rustls), which has safe settings only: leave \
                           it out";
const HOOK_TLS: &str = "the certificate of a hook at https:// is always checked, against the \
                        system's certificate authorities: add yours to them";
const HOOK_CLIENT: &str = "Stentor shows no certificate to the hook: let the hook trust Stentor's \
                           address, or put a token into the paths";

/// Otherwise [`super::tls`] takes it.
const NO_HTTPS: &str = "is used by no listener: write web_stomp.ssl.port (usually 15673) or \
                        web_stomp.ssl.listener into rabbitmq.conf, and translate again";

/// The first that fits counts.
pub(super) const WITHOUT: &[Without] = &[
    without("stomp.tcp_listen_options", SOCKETS),
    same("stomp.tcp_listen_options.nodelay", "true", SOCKETS),
    without("stomp.tcp_listen_options.*", SOCKETS),
    without("stomp.num_acceptors.$", ACCEPTORS),
    without("web_stomp.num_acceptors.$", ACCEPTORS),
    without("web_stomp.tcp.backlog", SOCKETS),
    without("web_stomp.ssl.backlog", SOCKETS),
    same(
        "web_stomp.ws_frame",
        "text",
        "Stentor answers in text what is UTF-8, and in binary what is not; a client that asks for \
         binary alone has to take both",
    ),
    without("web_stomp.cowboy_opts.timeout", SILENCE),
    without("web_stomp.cowboy_opts.idle_timeout", SILENCE),
    without("web_stomp.cowboy_opts.*", HTTP),
    same(
        "web_stomp.ws_opts.compress",
        "false",
        "WebSocket compression costs memory for each client, and is not offered; clients do \
         without it",
    ),
    without(
        "web_stomp.ws_opts.max_frame_size",
        "what counts is the size of a STOMP frame, over any transport: see [limits] \
         max_frame_size",
    ),
    without("web_stomp.ws_opts.idle_timeout", SILENCE),
    without(
        "web_stomp.use_file_handle_cache",
        "Stentor has no such cache: leave it out",
    ),
    without("auth_http.ssl_options", HOOK_TLS),
    same("auth_http.ssl_options.verify", "verify_peer", HOOK_TLS),
    without("auth_http.ssl_options.cacertfile", HOOK_TLS),
    without("auth_http.ssl_options.certfile", HOOK_CLIENT),
    without("auth_http.ssl_options.keyfile", HOOK_CLIENT),
    without("auth_http.ssl_options.cert", HOOK_CLIENT),
    without("auth_http.ssl_options.key.$", HOOK_CLIENT),
    without("auth_http.ssl_options.password", HOOK_CLIENT),
    same(
        "auth_http.ssl_options.hostname_verification",
        "wildcard",
        HOOK_TLS,
    ),
    without("auth_http.ssl_options.*", TLS_LIBRARY),
    without(
        "auth_cache.cache_module",
        "Stentor remembers in its own memory: see [auth] cache_size",
    ),
    same(
        "auth_cache.cache_refusals",
        "false",
        "refusals are never remembered: let the hook answer them quickly",
    ),
    without("web_stomp.ssl.certfile", NO_HTTPS),
    without("web_stomp.ssl.keyfile", NO_HTTPS),
    without("web_stomp.ssl.cacertfile", NO_HTTPS),
    without("web_stomp.ssl.password", NO_HTTPS),
    without("web_stomp.ssl.crl_check", NO_HTTPS),
    without("web_stomp.ssl.versions.$", NO_HTTPS),
    without("web_stomp.ssl.honor_cipher_order", TLS_LIBRARY),
    without("web_stomp.ssl.honor_ecc_order", TLS_LIBRARY),
    without("web_stomp.ssl.reuse_sessions", TLS_LIBRARY),
    without("web_stomp.ssl.secure_renegotiate", TLS_LIBRARY),
    without("web_stomp.ssl.client_renegotiation", TLS_LIBRARY),
    without("web_stomp.ssl.depth", TLS_LIBRARY),
    without("web_stomp.ssl.ciphers.$", TLS_LIBRARY),
];

/// The prefixes of the plug-ins that Stentor takes the place of: a key of theirs that is unknown
/// is mistyped, or newer than this table. Every other key is RabbitMQ's own affair.
pub(super) const PREFIXES: [&str; 5] = [
    "stomp.",
    "web_stomp.",
    "auth_http.",
    "auth_cache.",
    "auth_oauth2.",
];

/// True if a pattern matches the key.
pub(super) fn matches(pattern: &str, key: &str) -> bool {
    let (mut pattern, mut key) = (pattern.split('.'), key.split('.'));
    loop {
        match (pattern.next(), key.next()) {
            (None, None) | (Some("*"), Some(_)) => return true,
            (Some("$"), Some(_)) => {}
            (Some(wanted), Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_words() {
        for (pattern, key, fits) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b.c", "a.b", false),
            ("a.$", "a.b", true),
            ("a.$", "a.b.c", false),
            ("a.$", "a", false),
            ("a.*", "a.b.c", true),
            ("a.*", "a", false),
        ] {
            assert_eq!(matches(pattern, key), fits, "{pattern} {key}");
        }
    }
}
