//! Checks that need more than one section.

use humantime::format_duration;

use super::{Config, Warning, keys::Name, read::Reader};
use crate::{
    auth::{CertificateLogin, Unset, jwt, rabbitmq},
    broker::{Binding, ExchangeKind, Url, journal::lack_of},
    codes::Code,
    listen::{
        origin,
        tls::{ClientCertificates, TlsConfig},
    },
    messaging, presence,
    units::show_size,
    webhooks::Kind,
};

/// A key without a default: a test that it is set, what stands in its place (a key of "" means all of
/// its section), and a value to write.
type Required = (Name, fn(&Config) -> bool, &'static [Name], &'static str);

/// Keys that serving needs.
const REQUIRED: &[Required] = &[
    (
        ("broker", "url"),
        |config| !config.broker.all_urls().is_empty(),
        &[("broker", "urls")],
        "is not set, nor is urls; write RabbitMQ's address and the gateway's account there, \
         \"amqp://user:password@host:5672\" (in the file, or, better for a password, in the \
         variable STENTOR__BROKER__URL)",
    ),
    (
        ("auth", "user_path"),
        |config| {
            config.auth.knows_users() || config.auth.jwt.is_on() || config.auth_rabbitmq.is_on()
        },
        &[
            ("auth", "hook"),
            ("auth", "batch_path"),
            ("auth.jwt", ""),
            ("auth.rabbitmq", ""),
        ],
        "is not set, nor is hook, and nobody but your application knows who may log in; write the \
         address of its hook, hook = \"http://127.0.0.1:8000/auth\"; or the keys of your tokens in \
         [auth.jwt]; or let RabbitMQ's own users log in, [auth.rabbitmq] definitions = \
         \"/etc/stentor/definitions.json\" (`stentor demo` needs none)",
    ),
    (
        ("webhooks", "secret"),
        |config| config.webhooks.has_its_secret(),
        &[],
        "is not set, and urls name receivers, which could not tell Stentor's requests from those of \
         others; write a random one (`openssl rand -hex 32`), best in the variable STENTOR__WEBHOOKS__SECRET",
    ),
];

/// Settings that are no error, and hardly meant.
pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    let done = match config.auth.unset {
        Unset::Deny => "denied",
        Unset::Allow => "allowed",
    };
    if !config.auth.has_hook() {
        return Vec::new();
    }
    let mut unset = config.auth.unset_paths();
    // Tokens may be the only logins.
    unset.retain(|key| *key != "user_path" || !config.auth.jwt.is_on());
    let unset = unset.iter().map(|key| Warning {
        code: Code::HookUnset,
        message: format!(
            "[auth] {key}: is not set, so everything that it checks is {done} to everybody; set \
             it, or hook for all"
        ),
    });
    unset.collect()
}

/// Finds the required keys that are not set.
pub(super) fn required(config: &Config, reader: &mut Reader<'_>) {
    for (name, is_set, others, advice) in REQUIRED {
        // A wrong value was dropped, so that it seems not to be set: what is wrong has been said.
        if !is_set(config) && !reader.has_problem(others) {
            reader.wrong_as(Code::MissingKey, &[*name], advice);
        }
    }
}

/// Finds the files that cannot be used.
pub(super) fn files(config: &Config, reader: &mut Reader<'_>) {
    if let Some(file) = config.auth_rabbitmq.file()
        && let Err(error) = rabbitmq::check_file(file)
    {
        let name = ("auth.rabbitmq", "definitions");
        reader.wrong_as(Code::FileUnusable, &[name], &error.to_string());
    }
    if let Err((key, message)) = config.broker.check_files() {
        reader.wrong_as(Code::FileUnusable, &[("broker", key)], &message);
    }
    if let Err((key, message)) = jwt::check_files(&config.auth.jwt) {
        reader.wrong_as(Code::FileUnusable, &[("auth.jwt", key)], &message);
    }
    let mut tls = config.tls.clone();
    while let Err((key, message)) = tls.check_files() {
        reader.wrong_as(Code::CertificateUnusable, &[("tls", key)], &message);
        // Without it, the next problem shows.
        match key {
            "certificate" => tls.certificate.clear(),
            "key" => tls.key.clear(),
            "client_ca" => tls.client_ca.clear(),
            _ => return,
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
        presence,
        sockjs,
        api,
        ..
    } = config;
    tls(config, reader);
    journal(config, reader);
    offline(config, reader);
    topics(config, reader);
    webhooks(config, reader);
    if let Err((key, message)) = config.redis.check_with(&presence.url) {
        reader.wrong(&[("redis", key), ("presence", "url")], &message);
    }
    let events = broker.exchanges.get(&presence.exchange);
    if presence.has_events() && events.is_some_and(|kind| *kind != ExchangeKind::Topic) {
        reader.wrong(
            &[("presence", "exchange"), ("broker", "exchanges")],
            "is of another type in [broker] exchanges, but presence events go to a topic exchange; \
             write \"topic\" there, or choose another name",
        );
    }
    whole_exchanges(config, reader);
    if sockjs.prefix.as_ref() == Some(&listen.websocket_path) {
        reader.wrong(
            &[("sockjs", "prefix"), ("listen", "websocket_path")],
            "is the path of the WebSocket, too ([listen] websocket_path); choose another, or write \
             \"off\"",
        );
    }
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
    for (section, key, size) in [
        ("limits", "max_frame_size", limits.max_frame_size),
        ("api", "max_body", api.max_body),
    ] {
        if size > broker.max_message_size {
            reader.wrong(
                &[(section, key), ("broker", "max_message_size")],
                &format!(
                    "is {}, more than [broker] max_message_size ({}), so RabbitMQ would refuse the \
                     longest messages; lower it, or raise the other here and in RabbitMQ",
                    show_size(size),
                    show_size(broker.max_message_size)
                ),
            );
        }
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
    sessions(config, reader);
    if auth.jwt.is_on() && auth.jwt.rights == jwt::Rights::Hook && !auth.has_hook() {
        reader.wrong(
            &[("auth.jwt", "rights"), ("auth", "hook")],
            "is \"hook\", but there is none to ask; set [auth] hook",
        );
    }
    let set = auth.set_paths();
    if let Some(key) = set.first()
        && !auth.knows_users()
        && !auth.jwt.is_on()
        && config.auth_rabbitmq.is_on()
    {
        reader.wrong(
            &[("auth", *key), ("auth", "user_path"), ("auth", "hook")],
            "is set, but neither user_path nor hook, so nobody would be asked there: [auth.rabbitmq] \
             answers everything about RabbitMQ's users; set one of them, too, or leave this out",
        );
    }
    if stomp.implicit_connect && auth.default_user.is_none() {
        reader.wrong(
            &[("stomp", "implicit_connect"), ("auth", "default_user")],
            "is on, but [auth] default_user is not set, so nobody would be logged in by it; set \
             that, or turn this off",
        );
    }
    let is_ambient = auth.is_ambient()
        || (auth.certificate_login != CertificateLogin::Off && listen.https.is_some());
    // A page of any site can show a part of itself as `null`, in a sandbox.
    let is_anybody = |entry: &String| [origin::ANY, origin::NULL].contains(&&**entry);
    if is_ambient && listen.origins.iter().any(is_anybody) {
        reader.wrong(
            &[
                ("listen", "origins"),
                ("auth", "forward_cookies"),
                ("auth", "forward_headers"),
                ("auth", "http_basic"),
                ("auth", "certificate_login"),
            ],
            "lets pages of every site connect, and browsers send cookies, HTTP Basic \
             authentication and certificates by themselves, so whoever looks at one is logged in \
             there ([auth] forward_cookies, forward_headers, http_basic, certificate_login); name \
             your own origins",
        );
    }
    let user_timeout = listen.tcp_user_timeout;
    if !user_timeout.is_zero() && user_timeout < limits.write_timeout {
        reader.wrong(
            &[("listen", "tcp_user_timeout"), ("limits", "write_timeout")],
            &format!(
                "is {}, less than [limits] write_timeout ({}), so a client that reads nothing would \
                 be cut without a word before that; raise it, or lower the other",
                format_duration(user_timeout),
                format_duration(limits.write_timeout)
            ),
        );
    }
    if auth.has_hook() && limits.login_timeout <= auth.request_timeout {
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

/// Needs of journals.
fn journal(config: &Config, reader: &mut Reader<'_>) {
    let is_embedded = config.broker.all_urls().contains(&Url::Embedded);
    if is_embedded && !config.journal.exchanges.is_empty() {
        reader.wrong(
            &[("journal", "exchanges"), ("broker", "url")],
            "names exchanges, but the embedded broker keeps nothing; connect to RabbitMQ, or write \
             exchanges = []",
        );
    }
    let is_bridged = config.feed.bridge
        && config
            .feed
            .whole
            .iter()
            .any(|name| config.journal.has(name));
    if is_bridged {
        reader.wrong(
            &[("journal", "exchanges"), ("feed", "bridge")],
            "names an exchange of [feed] whole, but bridge is true, so others may bind keys there, \
             and a key that anybody binds is missing in the journal; write bridge = false, and see \
             to it that nobody binds any",
        );
    }
    for exchange in &config.journal.exchanges {
        let Some(kind) = config.broker.exchanges.get(exchange.as_str()) else {
            continue;
        };
        let Some(why) = lack_of(*kind, config.feed.reads_whole(exchange)) else {
            continue;
        };
        let cure = match kind {
            ExchangeKind::Direct => format!(
                "write [feed] binding = \"all\", whole = [{exchange:?}] and bridge = false \
                 (docs/catching-up.md), or take it out here"
            ),
            _ => "take it out here".to_owned(),
        };
        reader.wrong(
            &[
                ("journal", "exchanges"),
                ("broker", "exchanges"),
                ("feed", "whole"),
                ("feed", "binding"),
            ],
            &format!("has {exchange:?}, which by [broker] exchanges {why}; {cure}"),
        );
    }
}

/// Needs of the exchange of `/topic/…`: it is one of clients, and of topics.
fn topics(config: &Config, reader: &mut Reader<'_>) {
    let Config {
        stomp,
        presence,
        offline,
        control,
        broker,
        ..
    } = config;
    let topics = stomp.default_topic_exchange.as_str();
    let of_the_gateway = [
        (
            "presence",
            presence.has_events().then_some(&*presence.exchange),
        ),
        (
            "offline",
            offline.is_on().then_some(offline.exchange.as_str()),
        ),
        ("control", control.exchange()),
    ];
    for (section, exchange) in of_the_gateway {
        if exchange == Some(topics) {
            reader.wrong(
                &[(section, "exchange"), ("stomp", "default_topic_exchange")],
                "is [stomp] default_topic_exchange, too, so clients could not send to /topic/…, for \
                 only the gateway may send there; name another in one of the two places",
            );
        }
    }
    // One of a plug-in may have topics: x-delayed-message.
    if let Some(ExchangeKind::Direct | ExchangeKind::Fanout) = broker.exchanges.get(topics) {
        reader.wrong(
            &[("stomp", "default_topic_exchange"), ("broker", "exchanges")],
            "is of another type in [broker] exchanges, so a pattern such as /topic/a.* would match \
             nothing or everything; write \"topic\" there, or choose another name",
        );
    }
}

/// Needs of webhooks about rooms: there are some.
fn webhooks(config: &Config, reader: &mut Reader<'_>) {
    let Config {
        webhooks, presence, ..
    } = config;
    let is_of_rooms = |kind: &Kind| matches!(kind, Kind::Occupied | Kind::Vacated);
    if !webhooks.urls.is_empty()
        && presence.destinations.is_empty()
        && webhooks.events.iter().any(is_of_rooms)
    {
        reader.wrong(
            &[("webhooks", "events"), ("presence", "destinations")],
            "has \"occupied\" or \"vacated\", but [presence] destinations names no exchange, so \
             there are no rooms to tell of; name those whose keys are rooms, destinations = \
             [\"room\"], or take these events out",
        );
    }
}

/// Needs of messages for those who are away: a binding has to tell that somebody is there.
fn offline(config: &Config, reader: &mut Reader<'_>) {
    let Config {
        offline,
        broker,
        feed,
        journal,
        control,
        presence,
        limits,
        ..
    } = config;
    if !offline.is_on() {
        return;
    }
    let sources = ("offline", "sources");
    if broker.all_urls().contains(&Url::Embedded) {
        reader.wrong(
            &[sources, ("broker", "url")],
            "names exchanges, but the embedded broker has no alternate exchanges; connect to \
             RabbitMQ, or write sources = []",
        );
    }
    if feed.binding == Binding::All {
        reader.wrong(
            &[sources, ("feed", "binding")],
            "names exchanges, but [feed] binding is \"all\", so everything is bound, and RabbitMQ \
             cannot tell which keys nobody is subscribed to; write binding = \"key\", or sources = []",
        );
    }
    if control.exchange().is_none() {
        reader.wrong(
            &[sources, ("control", "exchange")],
            "names exchanges, but [control] exchange is \"off\", so a node cannot ask the others \
             whether somebody is subscribed; name one, \"stentor.control\"",
        );
    }
    for source in &offline.sources {
        if journal.has(source) {
            reader.wrong(
                &[sources, ("journal", "exchanges")],
                &format!(
                    "has {source:?}, which has a journal: everything is bound to that, so RabbitMQ \
                     cannot tell which keys nobody is subscribed to; take it out of one of them"
                ),
            );
        }
        let kind = broker.exchanges.get(source.as_str());
        if kind.is_some_and(|kind| *kind == ExchangeKind::Fanout) {
            reader.wrong(
                &[sources, ("broker", "exchanges")],
                &format!("has {source:?}, a fanout exchange, which has no keys; take it out"),
            );
        }
    }
    let is_theirs = (presence.has_events() && *presence.exchange == *offline.exchange)
        || control.exchange() == Some(&offline.exchange);
    if is_theirs {
        reader.wrong(
            &[
                ("offline", "exchange"),
                ("presence", "exchange"),
                ("control", "exchange"),
            ],
            "is the exchange of presence events or of commands, too; name another",
        );
    }
    let kind = broker.exchanges.get(offline.exchange.as_str());
    if kind.is_some_and(|kind| *kind != ExchangeKind::Topic) {
        reader.wrong(
            &[("offline", "exchange"), ("broker", "exchanges")],
            "is of another type in [broker] exchanges, but workers bind their queues to a topic \
             exchange; write \"topic\" there, or choose another name",
        );
    }
    if offline.max_bytes < limits.max_frame_size {
        reader.wrong(
            &[("offline", "max_bytes"), ("limits", "max_frame_size")],
            &format!(
                "is {}, less than [limits] max_frame_size ({}), so RabbitMQ would drop the \
                 largest messages, and all that wait for the worker; raise it, or lower the other",
                show_size(offline.max_bytes),
                show_size(limits.max_frame_size)
            ),
        );
    }
    let back = broker
        .reconnect_max
        .saturating_add(broker.connection_timeout);
    if offline.after <= back {
        reader.wrong(
            &[("offline", "after"), ("broker", "reconnect_max")],
            &format!(
                "is {}, but a lost link may take {} to come back ([broker] reconnect_max and \
                 connection_timeout), and what waits for its clients would be handed on; raise it",
                format_duration(offline.after),
                format_duration(back)
            ),
        );
    }
    if offline.after >= feed.expires {
        reader.wrong(
            &[("offline", "after"), ("feed", "expires")],
            &format!(
                "is {}, but a dead node's queue is gone after {} ([feed] expires), with what waits \
                 in it; lower it, or raise the other",
                format_duration(offline.after),
                format_duration(feed.expires)
            ),
        );
    }
}

/// Needs of commands to sessions, and of limits for them.
fn sessions(config: &Config, reader: &mut Reader<'_>) {
    let Config {
        broker,
        control,
        presence,
        sessions,
        limits,
        ..
    } = config;
    if sessions.is_limited() && presence.url == presence::Url::Off {
        reader.wrong(
            &[
                ("sessions", "repeated_login"),
                ("sessions", "max_per_user"),
                ("presence", "url"),
            ],
            "limits the sessions of a user, but [presence] url is \"off\", so nobody knows them; \
             write \"memory:\" there (a single node), or the address of a Redis",
        );
    }
    // A login takes a place among the user's connections before it is decided about.
    let (most, left) = (limits.max_user_connections, sessions.replaces_among());
    if (1..=left).contains(&most) {
        reader.wrong(
            &[
                ("limits", "max_user_connections"),
                ("sessions", "max_per_user"),
                ("sessions", "repeated_login"),
            ],
            &format!(
                "is {most}, and by [sessions] a user may have {left} of these connections; a login that \
                 replaces one takes another first, so it would be refused: write {} or more",
                left.saturating_add(1)
            ),
        );
    }
    let has_redis = matches!(presence.url, presence::Url::Redis(_));
    if config.sequences.store == messaging::Store::Redis && !has_redis {
        reader.wrong(
            &[("sequences", "store"), ("presence", "url")],
            "is \"redis\", but [presence] url names none; write its address there, or \"memory\" here \
             (a single node)",
        );
    }
    if let Some(exchange) = control.exchange()
        && broker.exchanges.contains_key(exchange)
    {
        reader.wrong(
            &[("control", "exchange"), ("broker", "exchanges")],
            "is one of [broker] exchanges, too, but no client may use it; take it out there, or \
             name another here",
        );
    }
    if control.exchange() == Some(&*presence.exchange) && presence.has_events() {
        reader.wrong(
            &[("control", "exchange"), ("presence", "exchange")],
            "is [presence] exchange, too, to which clients listen; name another",
        );
    }
}

/// Needs of TLS, and keys that nothing would use. Files that are set and wrong have been blamed.
fn tls(config: &Config, reader: &mut Reader<'_>) {
    let Config {
        listen, tls, auth, ..
    } = config;
    let has_certificate = TlsConfig::is_set(&tls.certificate);
    let has_key = TlsConfig::is_set(&tls.key);
    let has_client_ca = TlsConfig::is_set(&tls.client_ca);
    let asks_clients = tls.client_certificates != ClientCertificates::Off;
    let (certificate, key) = (("tls", "certificate"), ("tls", "key"));
    let client_ca = ("tls", "client_ca");
    for (name, address) in [("https", listen.https), ("stomps", listen.stomps)] {
        if address.is_some() && !has_certificate && !has_key {
            reader.wrong(
                &[("listen", name), certificate, key],
                "has an address, but there is no certificate to serve; set [tls] certificate and \
                 key, or write \"off\"",
            );
        }
    }
    if has_certificate && !has_key {
        reader.wrong(&[certificate, key], "is set, but not its key; set key, too");
    }
    if has_key && !has_certificate {
        reader.wrong(
            &[key, certificate],
            "is set, but not its certificate; set certificate, too",
        );
    }
    if asks_clients && !has_client_ca {
        reader.wrong(
            &[("tls", "client_certificates"), client_ca],
            "asks for certificates, but nobody vouches for them; set client_ca, or write \"off\"",
        );
    }
    if has_client_ca && !asks_clients {
        reader.wrong(
            &[client_ca, ("tls", "client_certificates")],
            "is set, but client_certificates is \"off\", so no client would be asked for a \
             certificate; write \"optional\" or \"required\" there, or leave this out",
        );
    }
    if auth.certificate_login != CertificateLogin::Off
        && (!asks_clients || (listen.https, listen.stomps) == (None, None))
    {
        reader.wrong(
            &[
                ("auth", "certificate_login"),
                ("tls", "client_certificates"),
                client_ca,
                ("listen", "https"),
                ("listen", "stomps"),
            ],
            "has no certificates to look at; set [tls] client_certificates, and [listen] https or \
             stomps, or write \"off\"",
        );
    }
}

/// Exchanges that are read whole are direct ones, and RabbitMQ's.
fn whole_exchanges(config: &Config, reader: &mut Reader<'_>) {
    let Config { feed, broker, .. } = config;
    if !feed.whole.is_empty() && broker.url == Some(Url::Embedded) {
        reader.wrong(
            &[("feed", "whole"), ("broker", "url")],
            "names exchanges, but the embedded broker has no bindings that cost anything; write \
             whole = []",
        );
    }
    for exchange in &feed.whole {
        let kind = broker.exchanges.get(exchange.as_str());
        if kind.is_some_and(|kind| *kind != ExchangeKind::Direct) {
            reader.wrong(
                &[("feed", "whole"), ("broker", "exchanges")],
                &format!(
                    "has {exchange:?}, which is of another type in [broker] exchanges; write \
                     \"direct\" there, or remove it here: binding = \"all\" reads topic and fanout \
                     exchanges by itself"
                ),
            );
        }
    }
}
