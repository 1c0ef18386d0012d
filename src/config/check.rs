//! What no section can know alone.

use humantime::format_duration;

use super::{
    Config,
    read::{Name, Reader},
};
use crate::units::show_size;

/// A key without a default: whether it is set, and what to write.
pub(super) type Required = (Name, fn(&Config) -> bool, &'static str);

/// What serving needs.
pub(super) const REQUIRED: &[Required] = &[
    (
        ("broker", "url"),
        |config| config.broker.url.is_some(),
        "is not set; write RabbitMQ's address and the gateway's account there, \
         \"amqp://user:password@host:5672\" (in the file, or, better for a password, in the \
         variable STENTOR__BROKER__URL)",
    ),
    (
        ("auth", "user_path"),
        |config| config.auth.user_path.is_some(),
        "is not set, and nobody but your application knows who may log in; write the address of \
         its hook, such as \"http://127.0.0.1:8000/auth/user\" (`stentor demo` needs none)",
    ),
];

/// Finds the required keys that are not set.
pub(super) fn required(config: &Config, required: &[Required], reader: &mut Reader<'_>) {
    for (name, is_set, advice) in required {
        if !is_set(config) {
            reader.wrong(&[*name], advice);
        }
    }
}

/// Finds values that do not go together.
pub(super) fn across_sections(config: &Config, reader: &mut Reader<'_>) {
    let Config {
        limits,
        mailbox,
        feed,
        broker,
        auth,
        listen,
        stomp,
        ..
    } = config;
    if mailbox.max_bytes < limits.max_frame_size {
        reader.wrong(
            &[("mailbox", "max_bytes"), ("limits", "max_frame_size")],
            &format!(
                "is {}, less than [limits] max_frame_size ({}), so the largest messages could \
                 never be delivered; raise it, or lower the other",
                show_size(mailbox.max_bytes),
                show_size(limits.max_frame_size)
            ),
        );
    }
    if feed.max_length_bytes < limits.max_frame_size {
        reader.wrong(
            &[("feed", "max_length_bytes"), ("limits", "max_frame_size")],
            &format!(
                "is {}, less than [limits] max_frame_size ({}), so RabbitMQ would drop the \
                 largest messages; raise it, or lower the other",
                show_size(feed.max_length_bytes),
                show_size(limits.max_frame_size)
            ),
        );
    }
    let back = broker
        .reconnect_max
        .saturating_add(broker.connection_timeout);
    if feed.expires <= back {
        reader.wrong(
            &[
                ("feed", "expires"),
                ("broker", "reconnect_max"),
                ("broker", "connection_timeout"),
            ],
            &format!(
                "is {}, but a lost link may take {} to come back ([broker] reconnect_max and \
                 connection_timeout), so its feeds would be gone; raise it",
                format_duration(feed.expires),
                format_duration(back)
            ),
        );
    }
    if stomp.implicit_connect && auth.default_user.is_none() {
        reader.wrong(
            &[("stomp", "implicit_connect"), ("auth", "default_user")],
            "is on, but [auth] default_user is not set, so nobody would be logged in by it; set \
             that, or turn this off",
        );
    }
    // A browser adds these to what any page asks for.
    let mut headers = auth.forward_headers.keys();
    let is_ambient = auth.http_basic
        || !auth.forward_cookies.is_empty()
        || headers.any(|header| header.eq_ignore_ascii_case("cookie"));
    if is_ambient && listen.origins.iter().any(|origin| origin == "*") {
        reader.wrong(
            &[
                ("listen", "origins"),
                ("auth", "forward_cookies"),
                ("auth", "forward_headers"),
                ("auth", "http_basic"),
            ],
            "lets pages of every site connect, and cookies or HTTP Basic authentication log in \
             whoever looks at one ([auth] forward_cookies, http_basic); name your own origins",
        );
    }
    if limits.login_timeout <= auth.request_timeout {
        reader.wrong(
            &[("limits", "login_timeout"), ("auth", "request_timeout")],
            &format!(
                "is {}, not longer than one call of the hook may take ([auth] request_timeout, \
                 {}), so logins would end before they are answered; raise it, or lower the other",
                format_duration(limits.login_timeout),
                format_duration(auth.request_timeout)
            ),
        );
    }
}
