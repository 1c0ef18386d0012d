use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;

fn migrate(text: &str) -> Migration {
    from_rabbitmq(text).unwrap()
}

/// As `stentor config --check` reads it, were the broker's URL given.
fn load_text(toml: &str) -> Config {
    let file = File {
        name: "stentor.toml",
        text: toml,
    };
    Config::load_draft(file).unwrap_or_else(|errors| panic!("{errors}\n{toml}"))
}

/// The lines that say something, comments left out.
fn said(migration: &Migration) -> Vec<&str> {
    let lines = migration.toml.lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The example of the page, and what the check prints of it.
#[test]
fn the_page_says_what_the_check_says() {
    let page = include_str!("../../docs/migration.md");
    let (_, conf) = page.split_once("```ini\n").unwrap();
    let (conf, _) = conf.split_once("```").unwrap();
    let toml = migrate(conf).toml;
    let file = File {
        name: "stentor.toml",
        text: &toml,
    };
    let variables = [
        ("STENTOR__BROKER__EXCHANGES", "feed=direct"),
        ("STENTOR__BROKER__URL", "amqp://u:p@127.0.0.1:5672"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = Config::load_unopened(Some(file), variables).unwrap();
    let line = format!("\nstentor.toml: no errors; {}\n", loaded.sources);
    assert!(page.contains(&line), "{line}");
}

/// What is said where no other backend is named.
const OWN_USERS: [&str; 2] = [
    "[auth.rabbitmq]",
    "definitions = \"/etc/stentor/definitions.json\"",
];

const TYPICAL: &str = r"
## A node with Web STOMP and an HTTP hook.
listeners.tcp.default = 5672
default_user = admin
default_pass = s3cret
vm_memory_high_watermark.relative = 0.6

auth_backends.1 = cache
auth_cache.cached_backend = http
auth_cache.cache_ttl = 15000
auth_http.http_method = post
auth_http.user_path     = http://hook:8000/auth/user
auth_http.vhost_path    = http://hook:8000/auth/vhost
auth_http.resource_path = http://hook:8000/auth/resource
auth_http.request_timeout = 15000

stomp.listeners.tcp.1 = 127.0.0.1:61613
stomp.listeners.tcp.2 = ::1:61613
stomp.default_vhost = app
stomp.hide_server_info = true   # nobody's business
stomp.default_nack_requeue = false
stomp.tcp_listen_options.backlog = 4096
web_stomp.tcp.port = 8080
web_stomp.ws_frame = text
web_stomp.cowboy_opts.idle_timeout = 60000
";

#[test]
fn a_typical_file() {
    let migration = migrate(TYPICAL);
    assert_snapshot!(migration.toml);
    load_text(&migration.toml);
}

/// All keys of the four plug-ins' schemas in 3.10 (`priv/schema/*.schema`), and of RabbitMQ's own
/// those that are about users and TLS, with a value each.
const KEYS_3_10: &str = "
stomp.listeners.tcp = none
stomp.listeners.tcp.default = 61613
stomp.tcp_listen_options = none
stomp.tcp_listen_options.backlog = 1
stomp.tcp_listen_options.nodelay = true
stomp.tcp_listen_options.buffer = 1
stomp.tcp_listen_options.delay_send = true
stomp.tcp_listen_options.dontroute = true
stomp.tcp_listen_options.exit_on_close = true
stomp.tcp_listen_options.fd = 1
stomp.tcp_listen_options.high_msgq_watermark = 1
stomp.tcp_listen_options.high_watermark = 1
stomp.tcp_listen_options.keepalive = true
stomp.tcp_listen_options.low_msgq_watermark = 1
stomp.tcp_listen_options.low_watermark = 1
stomp.tcp_listen_options.port = 1
stomp.tcp_listen_options.priority = 1
stomp.tcp_listen_options.recbuf = 1
stomp.tcp_listen_options.send_timeout = 1
stomp.tcp_listen_options.send_timeout_close = true
stomp.tcp_listen_options.sndbuf = 1
stomp.tcp_listen_options.tos = 1
stomp.tcp_listen_options.linger.on = true
stomp.tcp_listen_options.linger.timeout = 1
stomp.listeners.ssl = none
stomp.listeners.ssl.default = 61614
stomp.num_acceptors.ssl = 1
stomp.num_acceptors.tcp = 1
stomp.ssl_cert_login = true
stomp.default_vhost = v
stomp.default_user = u
stomp.default_pass = p
stomp.default_topic_exchange = t
stomp.implicit_connect = true
stomp.login_timeout = 20000
stomp.proxy_protocol = true
stomp.hide_server_info = true
stomp.default_nack_requeue = true
web_stomp.port = 1
web_stomp.ws_frame = binary
web_stomp.num_acceptors.tcp = 1
web_stomp.num_acceptors.ssl = 1
web_stomp.max_connections = 5
web_stomp.tcp.port = 2
web_stomp.tcp.backlog = 1
web_stomp.tcp.ip = 127.0.0.1
web_stomp.tcp.listener = 127.0.0.1:3
web_stomp.ws_path = /stomp
web_stomp.use_http_auth = true
web_stomp.ssl.listener = none
web_stomp.ssl.port = 15673
web_stomp.ssl.backlog = 1
web_stomp.ssl.ip = 127.0.0.1
web_stomp.ssl.certfile = /c
web_stomp.ssl.keyfile = /k
web_stomp.ssl.cacertfile = /a
web_stomp.ssl.password = p
web_stomp.ssl.honor_cipher_order = true
web_stomp.ssl.honor_ecc_order = true
web_stomp.ssl.reuse_sessions = true
web_stomp.ssl.secure_renegotiate = true
web_stomp.ssl.client_renegotiation = false
web_stomp.ssl.crl_check = true
web_stomp.ssl.depth = 2
web_stomp.ssl.versions.1 = tlsv1.2
web_stomp.ssl.ciphers.1 = c
web_stomp.cowboy_opts.max_empty_lines = 1
web_stomp.cowboy_opts.max_header_name_length = 1
web_stomp.cowboy_opts.max_header_value_length = 1
web_stomp.cowboy_opts.max_headers = 1
web_stomp.cowboy_opts.max_keepalive = 1
web_stomp.cowboy_opts.max_request_line_length = 1
web_stomp.cowboy_opts.timeout = 1
web_stomp.cowboy_opts.idle_timeout = 1
web_stomp.ws_opts.compress = true
web_stomp.ws_opts.max_frame_size = 1
web_stomp.ws_opts.idle_timeout = 1
web_stomp.proxy_protocol = true
auth_http.http_method = get
auth_http.user_path = http://h/u
auth_http.vhost_path = http://h/v
auth_http.resource_path = http://h/r
auth_http.topic_path = http://h/t
auth_http.request_timeout = 1
auth_http.connection_timeout = 1
auth_cache.cached_backend = http
auth_cache.cached_backend.authn = http
auth_cache.cached_backend.authz = internal
auth_cache.cache_ttl = 1
auth_cache.cache_module = m
auth_cache.cache_refusals = false
auth_backends.1 = http
auth_backends.2.authn = ldap
auth_backends.2.authz = internal
ssl_options.cacertfile = /a
ssl_options.certfile = /c
ssl_options.keyfile = /k
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_options.password = p
ssl_options.crl_check = true
ssl_options.depth = 2
ssl_options.versions.1 = tlsv1.2
ssl_options.honor_cipher_order = true
ssl_cert_login_from = common_name
";

/// Keys that only 3.13 and 4 have.
const KEYS_4: &str = "
stomp.max_connections = 7
stomp.max_frame_size = 1048576
stomp.max_frame_size_unauthenticated = 32768
web_stomp.allow_origins = none
web_stomp.allow_origins.1 = https://app.example.com
web_stomp.use_file_handle_cache = true
auth_http.authorization_failure_disclosure = true
auth_http.ssl_options = none
auth_http.ssl_options.verify = verify_none
auth_http.ssl_options.fail_if_no_peer_cert = true
auth_http.ssl_options.cacertfile = /a
auth_http.ssl_options.certfile = /c
auth_http.ssl_options.cert = c
auth_http.ssl_options.client_renegotiation = false
auth_http.ssl_options.crl_check = peer
auth_http.ssl_options.depth = 1
auth_http.ssl_options.dh = d
auth_http.ssl_options.dhfile = /d
auth_http.ssl_options.honor_cipher_order = true
auth_http.ssl_options.honor_ecc_order = true
auth_http.ssl_options.key.RSAPrivateKey = k
auth_http.ssl_options.key.DSAPrivateKey = k
auth_http.ssl_options.key.PrivateKeyInfo = k
auth_http.ssl_options.keyfile = /k
auth_http.ssl_options.log_alert = true
auth_http.ssl_options.password = p
auth_http.ssl_options.psk_identity = p
auth_http.ssl_options.reuse_sessions = true
auth_http.ssl_options.secure_renegotiate = true
auth_http.ssl_options.versions.1 = tlsv1.3
auth_http.ssl_options.ciphers.1 = c
auth_http.ssl_options.sni = none
auth_http.ssl_options.hostname_verification = wildcard
";

fn known() -> impl Iterator<Item = &'static str> {
    KEYS_3_10
        .lines()
        .chain(KEYS_4.lines())
        .filter(|line| !line.is_empty())
}

#[test]
fn every_key_of_the_schemas_is_known() {
    for line in known() {
        // RabbitMQ's own are of use to a listener with TLS.
        let more = match line.starts_with("ssl_") {
            true => "\nstomp.listeners.ssl.1 = 61614\nstomp.ssl_cert_login = true",
            false => "",
        };
        let migration = migrate(&format!("{line}{more}"));
        assert_eq!(migration.wrong, Vec::<String>::new(), "{line}");
        load_text(&migration.toml);
        // And each is spoken of.
        assert!(
            migration.toml.contains("line 1: "),
            "{line}\n{}",
            migration.toml
        );
        assert!(
            !migration.toml.contains("stays in rabbitmq.conf:\n"),
            "{line}\n{}",
            migration.toml
        );
    }
    let all: Vec<&str> = known().collect();
    load_text(&migrate(&all.join("\n")).toml);
}

#[test]
fn what_has_an_equivalent_is_written_and_read() {
    for (line, written) in [
        (
            "stomp.listeners.tcp.default = 61000",
            "stomp = \"0.0.0.0:61000\"",
        ),
        (
            "stomp.listeners.tcp.1 = 10.0.0.1:61613",
            "stomp = \"10.0.0.1:61613\"",
        ),
        (
            "stomp.listeners.tcp.1 = [::1]:61613",
            "stomp = \"[::1]:61613\"",
        ),
        ("stomp.listeners.tcp.1 = :::61613", "stomp = \"[::]:61613\""),
        ("stomp.listeners.tcp = none", "stomp = \"off\""),
        ("web_stomp.use_http_auth = true", "http_basic = true"),
        ("web_stomp.tcp.listener = none", "http = \"off\""),
        (
            "stomp.proxy_protocol = true\nweb_stomp.proxy_protocol = true",
            "proxy_protocol = true",
        ),
        ("web_stomp.port = 8080", "http = \"0.0.0.0:8080\""),
        ("web_stomp.tcp.port = 8080", "http = \"0.0.0.0:8080\""),
        ("web_stomp.tcp.ip = 127.0.0.1", "http = \"127.0.0.1:15674\""),
        (
            "web_stomp.tcp.listener = 127.0.0.1:1",
            "http = \"127.0.0.1:1\"",
        ),
        (
            "web_stomp.ws_path = /stomp/ws",
            "websocket_path = \"/stomp/ws\"",
        ),
        (
            "stomp.max_connections = 30\nweb_stomp.max_connections = 20",
            "max_connections = 50",
        ),
        (
            "stomp.listeners.tcp = none\nweb_stomp.max_connections = 50",
            "max_connections = 50",
        ),
        (
            "web_stomp.allow_origins.1 = https://a.example",
            "origins = [\"https://a.example\"]",
        ),
        (
            "stomp.default_topic_exchange = t",
            "default_topic_exchange = \"t\"",
        ),
        ("stomp.default_nack_requeue = false", "nack_requeue = false"),
        ("stomp.hide_server_info = true", "server_header = false"),
        ("stomp.login_timeout = 1500", "login_timeout = \"1s 500ms\""),
        (
            "stomp.max_frame_size = 1048576",
            "max_frame_size = \"1MiB\"",
        ),
        (
            "stomp.max_frame_size = 1000000",
            "max_frame_size = \"1000000\"",
        ),
        (
            "stomp.max_frame_size_unauthenticated = 32768",
            "max_frame_size_unauthenticated = \"32KiB\"",
        ),
        ("auth_http.http_method = post", "http_method = \"post\""),
        (
            "auth_http.user_path = http://h/u",
            "user_path = \"http://h/u\"",
        ),
        (
            "auth_http.vhost_path = http://h/v",
            "vhost_path = \"http://h/v\"",
        ),
        (
            "auth_http.resource_path = http://h/r",
            "resource_path = \"http://h/r\"",
        ),
        (
            "auth_http.topic_path = http://h/t",
            "topic_path = \"http://h/t\"",
        ),
        (
            "auth_http.request_timeout = 4000",
            "request_timeout = \"4s\"",
        ),
        (
            "auth_http.connection_timeout = 1000",
            "connection_timeout = \"1s\"",
        ),
        (
            "auth_http.authorization_failure_disclosure = true",
            "disclose_reason = true",
        ),
        ("auth_cache.cache_ttl = 60000", "cache_ttl = \"1m\""),
    ] {
        let migration = migrate(line);
        assert!(
            said(&migration).contains(&written),
            "{line}\n{}",
            migration.toml
        );
        assert_eq!(
            (&*migration.wrong, &*migration.without),
            (&[][..], &[][..]),
            "{line}"
        );
        assert_ne!(load_text(&migration.toml), Config::default(), "{line}");
    }
}

#[test]
fn the_default_virtual_host_is_one_that_is_served() {
    let migration = migrate("stomp.default_vhost = app");
    let config = load_text(&migration.toml);
    assert_eq!(config.broker.default_vhost, "app");
    assert_eq!(config.broker.vhosts, ["*"]);
}

#[test]
fn defaults_are_named_and_not_written() {
    let migration = migrate("stomp.login_timeout = 10000\nauth_cache.cache_ttl = 15000\n");
    assert_eq!(
        said(&migration),
        ["[broker]", "vhosts = [\"*\"]", OWN_USERS[0], OWN_USERS[1]]
    );
    let line = "line 1: stomp.login_timeout: the default: [limits] login_timeout = \"10s\"\n";
    assert!(migration.toml.contains(line), "{}", migration.toml);
}

/// A hook that is asked without its paths being set is asked at the plug-in's defaults.
#[test]
fn the_plug_in_s_default_paths() {
    let migration = migrate("auth_backends.1 = rabbit_auth_backend_http\n");
    let config = load_text(&migration.toml);
    assert_eq!(
        config.auth.topic_path.as_deref(),
        Some("http://localhost:8000/auth/topic")
    );
    // Then RabbitMQ asks the hook about Stentor's account, too.
    assert!(migration.toml.contains("the hook is asked about this"));
}

/// `internal` is the default.
#[test]
fn rabbitmq_s_own_users_log_in() {
    for text in [
        "stomp.default_vhost = /\n",
        "auth_backends.1 = internal\n",
        "auth_backends.1 = cache\nauth_cache.cached_backend = internal\n",
    ] {
        let migration = migrate(text);
        let config = load_text(&migration.toml);
        let file = config.auth_rabbitmq.file().unwrap();
        assert_eq!(
            file.to_str(),
            Some("/etc/stentor/definitions.json"),
            "{text}"
        );
        assert_eq!(config.auth_rabbitmq.loopback_users, ["guest"]);
        assert!(!config.auth.has_hook(), "{text}");
        assert_eq!(migration.without, [""; 0], "{text}");
        let help = "#   rabbitmqctl export_definitions definitions.json\n";
        assert!(migration.toml.contains(help), "{}", migration.toml);
        assert!(!migration.toml.contains("the hook is asked about this"));
        assert!(!migration.toml.contains("everybody else by the hook"));
    }
    let both = migrate("auth_backends.1 = http\nauth_backends.2 = internal\n");
    let config = load_text(&both.toml);
    assert!(config.auth.has_hook() && config.auth_rabbitmq.is_on());
    assert!(
        both.toml.contains("everybody else by the hook"),
        "{}",
        both.toml
    );
    for text in [
        "auth_backends.1 = http",
        "auth_backends.1 = ldap",
        "auth_http.user_path = http://h/u",
    ] {
        assert!(
            !load_text(&migrate(text).toml).auth_rabbitmq.is_on(),
            "{text}"
        );
    }
    let ldap = migrate("auth_backends.1 = ldap\nauth_backends.2 = internal\n");
    assert!(load_text(&ldap.toml).auth_rabbitmq.is_on());
    assert!(
        ldap.without[0].starts_with("1: auth_backends.1: Stentor knows"),
        "{:?}",
        ldap.without
    );
    let apart = migrate("auth_backends.1.authn = http\nauth_backends.1.authz = internal\n");
    assert!(!load_text(&apart.toml).auth_rabbitmq.is_on());
    assert!(apart.without[0].starts_with("2: auth_backends.1.authz: Stentor has one backend"));
}

#[test]
fn loopback_users_are_those_of_rabbitmq() {
    for (text, users) in [
        ("loopback_users = none\n", &[][..]),
        ("loopback_users.guest = false\n", &[]),
        (
            "loopback_users.guest = true\nloopback_users.admin = true\n",
            &["admin", "guest"],
        ),
        ("loopback_users.admin = true\n", &["admin"]),
    ] {
        let migration = migrate(text);
        let mut found = load_text(&migration.toml).auth_rabbitmq.loopback_users;
        found.sort();
        assert_eq!(found, users, "{text}");
        let hook = migrate(&format!("auth_backends.1 = http\n{text}"));
        assert!(
            hook.toml
                .contains("stays in rabbitmq.conf:\n#   line 2: loopback_users"),
            "{}",
            hook.toml
        );
    }
    let wrong = migrate("loopback_users.guest = maybe\n");
    assert!(
        wrong.wrong[0].contains("is neither true nor false"),
        "{:?}",
        wrong.wrong
    );
}

/// Its passcode is a secret, so all of it is the operator's to set.
#[test]
fn a_default_user_is_an_example() {
    let text = "stomp.default_user = device\nstomp.default_pass = s3cret\n\
                stomp.implicit_connect = true\n";
    let migration = migrate(text);
    load_text(&migration.toml);
    for line in [
        "\n#default_user = \"device\"\n",
        "\n#default_passcode = \"PASSCODE\"\n",
        "\n#implicit_connect = true\n",
    ] {
        assert!(migration.toml.contains(line), "{}", migration.toml);
    }
    assert_eq!(migration.without.len(), 3, "{:#?}", migration.without);
    assert!(migration.without[1].contains("STENTOR__AUTH__DEFAULT_PASSCODE"));
    let filled = migrate("stomp.default_pass = $(PASS)");
    assert!(filled.without[0].contains("STENTOR__AUTH__DEFAULT_PASSCODE"));
    assert_eq!(filled.wrong, Vec::<String>::new());
    let off = migrate("stomp.implicit_connect = false");
    assert_eq!(off.without, Vec::<String>::new());
}

const TLS: &str = "\
stomp.listeners.ssl.default = 61614
ssl_options.certfile = /etc/ssl/server.pem
ssl_options.keyfile = /etc/ssl/key.pem
ssl_options.cacertfile = /etc/ssl/ca.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_options.versions.1 = tlsv1.3
ssl_options.depth = 2
stomp.ssl_cert_login = true
ssl_cert_login_from = common_name
";

const HTTPS: &str = "\
web_stomp.ssl.port = 15673
web_stomp.ssl.certfile = /etc/ssl/server.pem
web_stomp.ssl.keyfile = /etc/ssl/other.pem
web_stomp.ssl.cacertfile = /etc/ssl/ca.pem
web_stomp.ssl.password = s3cret
web_stomp.ssl.crl_check = false
";

/// The numbers of the lines that have no equivalent.
fn without(migration: &Migration) -> Vec<&str> {
    let lines = migration.without.iter();
    lines.filter_map(|line| line.split(':').next()).collect()
}

#[test]
fn tls_and_certificates_as_logins() {
    let migration = migrate(TLS);
    assert_eq!(
        said(&migration),
        [
            "[listen]",
            "stomps = \"0.0.0.0:61614\"",
            "[tls]",
            "certificate = \"/etc/ssl/server.pem\"",
            "key = \"/etc/ssl/key.pem\"",
            "client_certificates = \"required\"",
            "client_ca = \"/etc/ssl/ca.pem\"",
            "min_version = \"1.3\"",
            "[broker]",
            "vhosts = [\"*\"]",
            "[auth]",
            "certificate_login = \"common_name\"",
            OWN_USERS[0],
            OWN_USERS[1],
        ]
    );
    assert_eq!(without(&migration), ["8"], "{:#?}", migration.without);
    assert_eq!(migration.wrong, Vec::<String>::new());
    load_text(&migration.toml);
}

/// One section for both, of which the first named counts.
#[test]
fn tls_for_both_plug_ins() {
    let migration = migrate(&format!("{TLS}{HTTPS}"));
    assert_snapshot!(migration.toml);
    let config = load_text(&migration.toml);
    assert_eq!(config.tls.key.to_str(), Some("/etc/ssl/key.pem"));
    // Certificates are asked for on https, too; another key; authorities; a password.
    assert_eq!(
        without(&migration),
        ["5", "7", "8", "13", "14", "15"],
        "{:#?}",
        migration.without
    );
    assert!(migration.without[0].contains("browsers without a certificate are refused"));
    // With one certificate there is nothing to choose.
    let other_key = TLS.replace("key.pem", "other.pem");
    let one = migrate(&format!("{other_key}{HTTPS}"));
    assert!(!without(&one).contains(&"13"), "{:#?}", one.without);
}

#[test]
fn web_sockets_with_tls_alone() {
    let migration = migrate(&format!("{HTTPS}web_stomp.ssl.versions.1 = tlsv1.1\n"));
    assert_eq!(
        said(&migration),
        [
            "[listen]",
            "https = \"0.0.0.0:15673\"",
            "[tls]",
            "certificate = \"/etc/ssl/server.pem\"",
            "key = \"/etc/ssl/other.pem\"",
            "[broker]",
            "vhosts = [\"*\"]",
            OWN_USERS[0],
            OWN_USERS[1],
        ]
    );
    assert_eq!(without(&migration), ["4", "5", "7"]);
    load_text(&migration.toml);
}

/// `ssl_options` are RabbitMQ's own where the plug-in does not listen with TLS, and a listener that
/// is off needs nothing.
#[test]
fn tls_without_a_listener() {
    let own = migrate("listeners.ssl.default = 5671\nssl_options.certfile = /c\n");
    assert!(!own.toml.contains("[tls]"), "{}", own.toml);
    assert!(own.toml.contains("#   line 2: ssl_options.certfile\n"));
    let off = migrate(&TLS.replace(".default = 61614", " = none"));
    assert_eq!(
        said(&off),
        ["[broker]", "vhosts = [\"*\"]", OWN_USERS[0], OWN_USERS[1]]
    );
    assert_eq!(off.without, Vec::<String>::new());
    let portless = migrate("web_stomp.ssl.certfile = /c\n");
    assert!(portless.without[0].contains("is used by no listener"));
}

#[test]
fn certificates_that_are_not_asked_for_are_no_login() {
    let text = TLS.replace("verify_peer", "verify_none");
    let migration = migrate(&text);
    let said = said(&migration);
    assert!(
        !said.iter().any(|line| line.starts_with("client_")),
        "{said:?}"
    );
    assert_eq!(without(&migration), ["4", "8", "9", "10"]);
    load_text(&migration.toml);
    // Nor is a name that Stentor does not look for.
    let text = TLS.replace("common_name", "subject_alternative_name");
    let migration = migrate(&text);
    assert!(!migration.toml.contains("\ncertificate_login"));
    assert_eq!(without(&migration), ["8", "9", "10"]);
}

/// One key for all ports cannot say that some clients come without.
#[test]
fn the_proxy_protocol_of_one_plug_in_alone() {
    let on = "web_stomp.proxy_protocol = true\n";
    let migration = migrate(on);
    assert_eq!(without(&migration), ["1"]);
    assert!(migration.without[0].contains("write \"off\" for stomp if"));
    assert!(!said(&migration).contains(&"proxy_protocol = true"));
    let alone = migrate(&format!("{on}stomp.listeners.tcp = none\n"));
    assert!(said(&alone).contains(&"proxy_protocol = true"));
    let other = migrate(&format!("{on}stomp.listeners.tcp = none\n{TLS}"));
    assert_eq!(without(&other)[0], "1");
    let off = migrate(&format!("{on}stomp.proxy_protocol = false\n"));
    assert_eq!(without(&off), ["1"]);
    let broken = migrate(&format!("{on}stomp.proxy_protocol = on\n"));
    assert_eq!((without(&broken), broken.wrong.len()), (vec!["1"], 1));
}

#[test]
fn where_rabbitmq_is() {
    for (text, url) in [
        ("", "amqp://stentor:PASSWORD@127.0.0.1:5672"),
        (
            "listeners.tcp.1 = 10.0.0.1:5673",
            "amqp://stentor:PASSWORD@10.0.0.1:5673",
        ),
        (
            "listeners.tcp = none\nlisteners.ssl.1 = 5673",
            "amqps://stentor:PASSWORD@localhost:5673",
        ),
    ] {
        let migration = migrate(text);
        let line = format!("\n#url = \"{url}\"\n");
        assert!(migration.toml.contains(&line), "{}", migration.toml);
    }
}

/// Values that contradict each other are adjusted.
#[test]
fn a_slow_hook_and_large_frames_have_room() {
    let text = "auth_http.request_timeout = 15000\nstomp.login_timeout = 10000\n\
                stomp.max_frame_size = 536870912\n";
    let migration = migrate(text);
    let config = load_text(&migration.toml);
    assert!(config.limits.login_timeout > config.auth.request_timeout);
    assert_eq!(migration.without, Vec::<String>::new());
    assert_eq!(config.limits.max_frame_size, 512 << 20);
    assert_eq!(config.broker.max_message_size, 512 << 20);
}

/// RabbitMQ 4 lets operators lower it, and many do; Stentor's own limits follow.
#[test]
fn messages_are_no_longer_than_rabbitmq_takes() {
    let load = |text| {
        let migration = migrate(text);
        let config = load_text(&migration.toml);
        let (broker, limits) = (config.broker.max_message_size, config.limits.max_frame_size);
        (broker, limits, config.api.max_body)
    };
    let mib = |count: usize| count << 20;
    assert_eq!(load("max_message_size = 1048576"), (mib(1), mib(1), mib(1)));
    assert_eq!(
        load("max_message_size = 1048576\nstomp.max_frame_size = 2097152"),
        (mib(1), mib(1), mib(1))
    );
    assert_eq!(
        load("max_message_size = 134217728"),
        (mib(128), mib(4), mib(8))
    );
    assert_eq!(
        load("max_message_size = 134217728\nstomp.max_frame_size = 67108864"),
        (mib(128), mib(64), mib(8))
    );
    let migration = migrate("max_message_size = big");
    assert_eq!(
        migration.wrong,
        ["1: max_message_size: is no whole number, or one that is too large"]
    );
}

#[test]
fn values_that_only_rabbitmq_takes_are_not_written() {
    for (line, why) in [
        (
            "stomp.login_timeout = 0",
            "1: stomp.login_timeout: Stentor does not take this value: ",
        ),
        (
            "web_stomp.ws_path = /",
            "1: web_stomp.ws_path: Stentor does not take this value: ",
        ),
        (
            "stomp.listeners.ssl.1 = 61614",
            "1: stomp.listeners.ssl.1: Stentor does not take this value: [listen] stomps: has an address, but there \
             is no certificate",
        ),
        (
            "web_stomp.max_connections = infinity",
            "1: web_stomp.max_connections: connections are",
        ),
        (
            "stomp.max_connections = 100",
            "1: stomp.max_connections: bounds the clients of one plug-in",
        ),
    ] {
        let migration = migrate(line);
        assert_eq!(
            said(&migration),
            ["[broker]", "vhosts = [\"*\"]", OWN_USERS[0], OWN_USERS[1]],
            "{line}"
        );
        assert_eq!(migration.without.len(), 1, "{line}");
        assert!(
            migration.without[0].starts_with(why),
            "{}",
            migration.without[0]
        );
    }
}

#[test]
fn the_limit_of_one_plug_in_is_not_that_of_all() {
    let text = "stomp.max_connections = 100\nweb_stomp.max_connections = infinity\n";
    let migration = migrate(text);
    let default = Config::default().listen.max_connections;
    assert_eq!(
        load_text(&migration.toml).listen.max_connections,
        default,
        "{}",
        migration.toml
    );
    assert_eq!(migration.without.len(), 2, "{:?}", migration.without);
}

#[test]
fn what_is_wrong_is_named_by_line() {
    let text = "stomp.login_timeout = soon\nstomp.login_timout = 1\nstomp.listeners.tcp = all\n\
                stomp.listeners.tcp.1 = localhost:1\nweb_stomp.tcp.port = 70000\nnonsense\n\
                stomp.hide_server_info = yes\nauth_http.user_path = http://$(HOOK)/u\n";
    let wrong = migrate(text).wrong;
    let lines: Vec<&str> = wrong
        .iter()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(
        lines,
        ["1", "2", "3", "4", "5", "6", "7", "8"],
        "{wrong:#?}"
    );
}

#[test]
fn the_last_of_equal_keys_counts() {
    let migration = migrate("stomp.login_timeout = 1000\nstomp.login_timeout = 2000\n");
    assert!(said(&migration).contains(&"login_timeout = \"2s\""));
    let line = "line 1: stomp.login_timeout: is set again in line 2, which counts";
    assert!(migration.toml.contains(line), "{}", migration.toml);
}

#[test]
fn no_secret_is_shown() {
    let text = "default_pass = s3cret\nstomp.default_pass = s3cret\nweb_stomp.ssl.password = s3cret\n\
                auth_http.ssl_options.password = s3cret\nauth_http.user_path = http://u:s3cret@h/u\n\
                auth_http.vhost_path = http://h/v?token=s3cret\nstomp.defalt_pass = s3cret\n\
                pass s3cret\nauth_http.ssl_options.key.RSAPrivateKey = s3cret\n";
    let migration = migrate(text);
    let shown = format!("{migration:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("STENTOR__AUTH__USER_PATH"), "{shown}");
}

#[test]
fn erlang_terms_are_refused() {
    let error = from_rabbitmq("%% old\n[{rabbitmq_stomp, [{tcp_listeners, [61613]}]}].\n");
    assert_eq!(error, Err(ErlangTerms));
}

/// RabbitMQ's OAuth 2 plug-in, with all that its schemas of 3.10 and 4.3 know at its top.
const TOKENS: &str = "\
auth_backends.1 = rabbit_auth_backend_oauth2
auth_oauth2.resource_server_id = rabbitmq
auth_oauth2.scope_prefix = push.
auth_oauth2.resource_server_type = rabbitmq-type
auth_oauth2.additional_scopes_key = extra_scope
auth_oauth2.scope_aliases.1.alias = admin
auth_oauth2.scope_aliases.1.scope = rabbitmq.tag:administrator
auth_oauth2.verify_aud = true
auth_oauth2.require_exp = false
auth_oauth2.preferred_username_claims.2 = email
auth_oauth2.preferred_username_claims.1 = user_name
auth_oauth2.default_key = id1
auth_oauth2.signing_keys.id1 = /etc/rabbitmq/one.pem
auth_oauth2.signing_keys.id2 = /etc/rabbitmq/two.pem
auth_oauth2.issuer = https://login.example.com
auth_oauth2.token_endpoint = https://login.example.com/token
auth_oauth2.jwks_uri = https://login.example.com/jwks.json
auth_oauth2.jwks_url = https://old.example.com/jwks.json
auth_oauth2.end_session_endpoint = https://login.example.com/end
auth_oauth2.authorization_endpoint = https://login.example.com/authorize
auth_oauth2.discovery_endpoint_path = .well-known/other
auth_oauth2.discovery_endpoint_params.param1 = value1
auth_oauth2.https.peer_verification = verify_peer
auth_oauth2.https.verify = verify_none
auth_oauth2.https.cacertfile = /etc/ssl/ca.pem
auth_oauth2.https.depth = 5
auth_oauth2.https.hostname_verification = wildcard
auth_oauth2.https.crl_check = true
auth_oauth2.https.fail_if_no_peer_cert = false
auth_oauth2.algorithms.1 = HS256
auth_oauth2.algorithms.2 = RS256
auth_oauth2.algorithms.3 = ES256
auth_oauth2.default_oauth_provider = keycloak
auth_oauth2.oauth_providers.keycloak.issuer = https://keycloak.example.com
auth_oauth2.oauth_providers.keycloak.signing_keys.id1 = /etc/rabbitmq/k.pem
auth_oauth2.resource_servers.1.id = prod
";

#[test]
fn tokens_of_the_oauth_2_plug_in() {
    let migration = migrate(TOKENS);
    assert_eq!(
        said(&migration),
        [
            "[broker]",
            "vhosts = [\"*\"]",
            "[auth.jwt]",
            "jwks_url = \"https://login.example.com/jwks.json\"",
            "public_keys = [\"/etc/rabbitmq/one.pem\", \"/etc/rabbitmq/two.pem\"]",
            "audiences = [\"rabbitmq\"]",
            "resource_server_id = \"push\"",
            "scope_claim = \"extra_scope\"",
            "user_claim = \"user_name\"",
            "require_expiry = false",
            "algorithms = [\"RS256\", \"ES256\"]",
        ]
    );
    let config = load_text(&migration.toml);
    assert!(config.auth.jwt.is_on() && !config.auth.has_hook());
    let expected = [
        "4", "6", "7", "10", "24", "25", "26", "28", "29", "30", "33", "34", "35", "36",
    ];
    assert_eq!(without(&migration), expected);
    assert_eq!(migration.wrong, Vec::<String>::new());
    for line in 1..=TOKENS.lines().count() {
        let spoken_of = format!("line {line}: ");
        assert!(
            migration.toml.contains(&spoken_of),
            "{line}\n{}",
            migration.toml
        );
    }
    for comment in ["RabbitMQ falls back on `sub`", "Stentor only this one"] {
        assert!(migration.toml.contains(comment), "{}", migration.toml);
    }
}

#[test]
fn tokens_for_the_login_and_the_hook_for_rights() {
    let text = "auth_backends.1.authn = oauth2\nauth_backends.1.authz = http\n\
                auth_oauth2.resource_server_id = rabbitmq\nauth_oauth2.verify_aud = false\n\
                auth_oauth2.jwks_url = https://login.example.com/jwks.json\n\
                auth_http.user_path = http://h/u\n";
    let migration = migrate(text);
    let config = load_text(&migration.toml);
    assert_eq!(config.auth.jwt.rights, crate::auth::jwt::Rights::Hook);
    assert!(config.auth.jwt.any_audience && config.auth.jwt.audiences.is_empty());
    assert_eq!(migration.without, Vec::<String>::new());
    assert!(said(&migration).contains(&"user_path = \"http://h/u\""));
}

/// No keys, or nobody that a token has to be for: nothing is half written.
#[test]
fn tokens_without_keys_or_an_audience_are_not_written() {
    let jwks = "auth_oauth2.jwks_uri = https://login.example.com/jwks.json\n";
    let own = "auth_oauth2.resource_server_id = rabbitmq\n";
    let backend = "auth_backends.1 = oauth2\n";
    for (text, lines) in [
        (format!("{backend}{jwks}"), vec!["1", "2"]),
        (format!("{backend}{own}"), vec!["1", "2"]),
        (
            format!("{backend}{own}auth_oauth2.issuer = https://login.example.com\n"),
            vec!["1", "2", "3"],
        ),
        (
            format!("{backend}{own}auth_oauth2.jwks_uri = https://u:s3cret@h/jwks\n"),
            vec!["1", "2", "3", "3"],
        ),
    ] {
        let migration = migrate(&text);
        let expected = ["[broker]", "vhosts = [\"*\"]", "[auth]"];
        assert_eq!(said(&migration), expected, "{text}");
        assert_eq!(without(&migration), lines, "{text}");
        assert!(!format!("{migration:?}").contains("s3cret"));
    }
    let plain = migrate(&format!("{backend}{own}{}", jwks.replace("https", "http")));
    assert_eq!(plain.wrong.len(), 1, "{plain:?}");
    // Nor what RabbitMQ itself does not use.
    let unused = migrate(&format!("{own}{jwks}"));
    assert!(!unused.toml.contains("[auth.jwt]"), "{}", unused.toml);
    assert_eq!(unused.without, Vec::<String>::new());
    let mistyped = migrate(&format!("{backend}{own}{jwks}auth_oauth2.jwks = 1\n"));
    assert_eq!(mistyped.wrong.len(), 1, "{mistyped:?}");
}

proptest! {
    /// From any settings of tokens, the reader takes the output.
    #[test]
    fn what_is_written_about_tokens_is_read(
        lines in proptest::collection::vec((0..40_usize, ".{0,20}"), 0..4),
    ) {
        let keys: Vec<&str> = TOKENS.lines().filter_map(|line| line.split(" = ").next()).collect();
        let lines = lines
            .iter()
            .map(|(index, value)| format!("{} = {value}", keys[index % keys.len()]));
        load_text(&migrate(&format!("{TOKENS}{}", lines.collect::<Vec<_>>().join("\n"))).toml);
    }

    /// From any input, the reader takes the output.
    #[test]
    fn what_is_written_is_read(lines in proptest::collection::vec((0..200_usize, ".{0,20}"), 0..8)) {
        let keys: Vec<&str> = known().filter_map(|line| line.split(" = ").next()).collect();
        let lines = lines
            .iter()
            .map(|(index, value)| format!("{} = {value}", keys[index % keys.len()]));
        load_text(&migrate(&lines.collect::<Vec<_>>().join("\n")).toml);
    }

    #[test]
    fn any_text_is_taken(text in "(?s).{0,200}") {
        if let Ok(migration) = from_rabbitmq(&text) {
            load_text(&migration.toml);
        }
    }
}
