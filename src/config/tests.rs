use std::time::Duration;

use insta::assert_snapshot;

use super::*;
use crate::broker::ExchangeKind;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let file = File {
        name: "stentor.toml",
        text,
    };
    let read = Config::read(Some(file), variables(environment), Check::Draft);
    read.map(|loaded| loaded.config)
}

fn variables(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn problems(text: &str, environment: &[(&str, &str)]) -> String {
    load(text, environment).unwrap_err().to_string()
}

#[test]
fn the_default_file_says_the_defaults() {
    assert_eq!(load(DEFAULT, &[]), Ok(Config::default()));
    assert_eq!(load("", &[]), Ok(Config::default()));
}

/// Each key stands in its section, with its value or as a commented example.
#[test]
fn the_default_file_has_every_key() {
    for (section, keys) in sections() {
        assert!(!keys.is_empty());
        let text = section_text(section);
        for key in keys {
            let starts = [format!("{key} = "), format!("#{key} = ")];
            let found = text
                .lines()
                .filter(|line| starts.iter().any(|start| line.starts_with(start)));
            assert_eq!(found.count(), 1, "[{section}] {key}");
        }
    }
}

fn section_text(section: &str) -> &'static str {
    let header = format!("\n[{section}]\n");
    let (_, text) = DEFAULT.split_once(&header).expect(&header);
    text.split_once("\n[").map_or(text, |(text, _)| text)
}

#[test]
fn the_examples_of_the_default_file_are_sound() {
    let is_example =
        |line: &str| line.starts_with('#') && line.contains(" = ") && !line.starts_with("# ");
    let text: Vec<&str> = DEFAULT
        .lines()
        .map(|line| if is_example(line) { &line[1..] } else { line })
        .collect();
    let text = text.join("\n");
    let file = File {
        name: "stentor.toml",
        text: &text,
    };
    let config = Config::load(Some(file), []).unwrap().config;
    assert!(config.broker.url.is_some());
    assert!(config.auth.topic_path.is_some());
}

#[test]
fn all_problems_are_found_in_one_go() {
    let text = r#"
[listen]
http = "localhost:15674"
stomp = 61613
admin = "127.0.0.1:15680"
max_frame_size = "1MiB"
orgins = ["*"]
origins = ["app.example.com"]

[limits]
max_frame_size = "4MX"
login_timeout = 10
max_headers = -1
max_pending = 0
write_timeout = "0s"

[feed]
binding = "some"
durable = "yes"

[lisen]
http = "0.0.0.0:1"

[broker]
url = "amqp://u:s3cret@host/virtual/host"

[shutdown]
nonsense = true

[log]
level = "inof"
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    stentor.toml:3: error[wrong-value]: [listen] http: "localhost:15674" is not an address; write an IP address and a port, such as "0.0.0.0:15674" or "[::]:15674", or "off"
    stentor.toml:4: error[wrong-value]: [listen] stomp: the number 61613 is not a text; write it in quotes
    stentor.toml:6: error[unknown-key]: [listen] max_frame_size: there is no such key; it belongs to [limits]
    stentor.toml:7: error[unknown-key]: [listen] orgins: there is no such key; did you mean origins?
    stentor.toml:8: error[wrong-value]: [listen] origins: "app.example.com" is not an origin; write scheme and host, such as "https://app.example.com", "https://*.example.com" or "capacitor://localhost", or "*" for all
    stentor.toml:11: error[wrong-value]: [limits] max_frame_size: "4MX" is not a size; write bytes or e.g. "4MiB"
    stentor.toml:12: error[wrong-value]: [limits] login_timeout: the number 10 is not a duration; write e.g. "10s" or "500ms"
    stentor.toml:13: error[wrong-value]: [limits] max_headers: the number -1 is not a whole number, 0 or more
    stentor.toml:14: error[wrong-value]: [limits] max_pending: is 0, so nothing could be done; write 1 or more
    stentor.toml:15: error[wrong-value]: [limits] write_timeout: is zero, so nothing could be delivered; write a time such as "10s"
    stentor.toml:18: error[wrong-value]: [feed] binding: "some" is not known; write "key" or "all"
    stentor.toml:19: error[wrong-value]: [feed] durable: "yes" is not a switch; write true or false, without quotes
    stentor.toml:21: error[unknown-section]: [lisen]: there is no such section; did you mean [listen]?
    stentor.toml:25: error[wrong-value]: [broker] url: has a path that is no virtual host; write one name after the port, with "/" in it as %2F
    stentor.toml:28: error[unknown-key]: [shutdown] nonsense: there is no such key; the keys of [shutdown] are not_ready, drain, grace
    stentor.toml:31: error[wrong-value]: [log] level: "inof" is not a level; write "error", "warn", "info", "debug", "trace" or "off", or directives such as "info,stentor::hub=debug"
    "#);
}

#[test]
fn a_section_may_stand_below_another() {
    let text = "[auth]\nunset = \"allow\"\n\n[auth.rabbitmq]\ndefinitions = \"d.json\"\n";
    let variables = [
        ("STENTOR__AUTH__RABBITMQ__REFRESH", "5s"),
        ("STENTOR__AUTH__RABBITMQ__LOOPBACK_USERS", "guest,admin"),
    ];
    let accounts = load(text, &variables).unwrap().auth_rabbitmq;
    assert_eq!(accounts.file().unwrap().to_str(), Some("d.json"));
    assert_eq!(accounts.refresh, Duration::from_secs(5));
    assert_eq!(accounts.loopback_users, ["guest", "admin"]);
    let text = "[auth]\ndefinitions = \"d.json\"\n\n[auth.rabbitmq]\nrefresh = \"1ms\"\n\
                definition = \"d.json\"\nmanagement = \"host:15672\"\n";
    let variables = [("STENTOR__AUTH_RABBITMQ__REFRESH", "5s")];
    assert_snapshot!(problems(text, &variables), @r#"
    stentor.toml:2: error[unknown-key]: [auth] definitions: there is no such key; it belongs to [auth.rabbitmq]
    stentor.toml:5: error[wrong-value]: [auth.rabbitmq] refresh: is 1ms, so RabbitMQ would be kept busy with nothing else; write "1s" or more
    stentor.toml:6: error[unknown-key]: [auth.rabbitmq] definition: there is no such key; did you mean definitions?
    stentor.toml:7: error[wrong-value]: [auth.rabbitmq] management: has the scheme `host`, not http or https: give the management plug-in's address with an account, such as "http://user:password@127.0.0.1:15672", by the variable STENTOR__AUTH__RABBITMQ__MANAGEMENT
    STENTOR__AUTH_RABBITMQ__REFRESH: error[unknown-variable]: there is no such variable; did you mean STENTOR__AUTH__RABBITMQ__REFRESH?
    "#);
    let problem = problems("[auth]\nrabbitmq = \"d.json\"\n", &[]);
    assert!(
        problem.contains("[auth.rabbitmq] is a section"),
        "{problem}"
    );
}

#[test]
fn rabbitmq_s_users_need_no_hook() {
    let whole = |text: &str| {
        let file = File {
            name: "stentor.toml",
            text,
        };
        let url = "[broker]\nurl = \"embedded:\"\n";
        let text = format!("{url}{text}");
        let read = Config::load(
            Some(File {
                text: &text,
                ..file
            }),
            [],
        );
        read.map(|loaded| loaded.sources.warnings)
            .map_err(|errors| errors.to_string())
    };
    let management = "[auth.rabbitmq]\nmanagement = \"http://a:b@127.0.0.1:1\"\n";
    assert_eq!(whole(management), Ok(Vec::new()));
    let both = format!("[auth]\nhook = \"http://127.0.0.1:1/auth\"\n{management}");
    assert_eq!(whole(&both), Ok(Vec::new()));
    let unused = format!("[auth]\ntopic_path = \"http://127.0.0.1:1/t\"\n{management}");
    let problem = whole(&unused).unwrap_err();
    assert!(
        problem.contains("[auth] topic_path: is set, but neither"),
        "{problem}"
    );
    let problem = whole("[auth.rabbitmq]\ndefinitions = \"/no/such/file\"\n").unwrap_err();
    assert!(
        problem.contains("[auth.rabbitmq] definitions: /no/such/file: No such file"),
        "{problem}"
    );
    let neither = whole("").unwrap_err();
    assert!(
        neither.contains("[auth.rabbitmq] definitions = "),
        "{neither}"
    );
}

#[test]
fn values_that_do_not_go_together() {
    let text = r#"
[limits]
max_frame_size = "16MiB"

[mailbox]
max_bytes = "8MiB"

[feed]
max_length_bytes = "2MiB"
expires = "20s"

[shutdown]
drain = "1m"

[auth]
hook = "http://127.0.0.1:8000/auth"
request_timeout = "10s"
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    stentor.toml:6: error[contradiction]: [mailbox] max_bytes: is 8 MiB, less than [limits] max_frame_size (16 MiB), so the largest messages could never be delivered; raise it, or lower the other
    stentor.toml:9: error[contradiction]: [feed] max_length_bytes: is 2 MiB, less than [limits] max_frame_size (16 MiB), so RabbitMQ would drop the largest messages; raise it, or lower the other
    stentor.toml:10: error[contradiction]: [feed] expires: is 20s, but a lost link may take 20s to come back ([broker] reconnect_max and connection_timeout), so its feeds would be gone; raise it
    stentor.toml:13: error[wrong-value]: [shutdown] grace: is 30s, but not_ready and drain together take 1m, and the clients that are told last have 2s more to finish; write "1m 2s" or more, or lower the others
    stentor.toml:17: error[contradiction]: [limits] login_timeout: is 10s, not longer than one call of the hook may take ([auth] request_timeout, 10s), so logins would end before they are answered; raise it, or lower the other
    "#);
    // There is no hook.
    let unhooked = "[limits]\nlogin_timeout = \"3s\"\n";
    assert!(load(unhooked, &[]).is_ok());
    let hook = "[auth]\nuser_path = \"http://127.0.0.1:1/user\"\n";
    let found = problems(&format!("{unhooked}{hook}"), &[]);
    assert!(found.contains("[limits] login_timeout: is 3s"), "{found}");
}

#[test]
fn tls_needs_its_files_and_each_is_used() {
    let cases = [
        "[listen]\nhttps = \"0.0.0.0:15673\"\nstomps = \"0.0.0.0:61614\"\n",
        "[tls]\ncertificate = \"/nowhere/chain.pem\"\n",
        "[tls]\nkey = \"/nowhere/key.pem\"\nclient_certificates = \"optional\"\n",
        "[auth]\ncertificate_login = \"common_name\"\n",
        "[listen]\nhttp = \"off\"\nstomp = \"off\"\n",
        // Consequences of a wrong file are not reported as well.
        "[listen]\nstomps = \"0.0.0.0:61614\"\n[tls]\ncertificate = \"/nowhere/chain.pem\"\n\
         key = \"/nowhere/key.pem\"\nclient_ca = \"/nowhere/ca.pem\"\n\
         client_certificates = \"required\"\n[auth]\ncertificate_login = \"common_name\"\n",
    ];
    let whole = |text: &&str| {
        let file = File {
            name: "stentor.toml",
            text,
        };
        let required = variables(&[
            ("STENTOR__BROKER__URL", "embedded:"),
            ("STENTOR__AUTH__USER_PATH", "http://h/u"),
        ]);
        Config::load(Some(file), required).unwrap_err().to_string()
    };
    let problems: Vec<String> = cases.iter().map(whole).collect();
    assert_snapshot!(problems.join("\n\n"), @r#"
    stentor.toml:2: error[contradiction]: [listen] https: has an address, but there is no certificate to serve; set [tls] certificate and key, or write "off"
    stentor.toml:3: error[contradiction]: [listen] stomps: has an address, but there is no certificate to serve; set [tls] certificate and key, or write "off"

    stentor.toml:2: error[certificate-unusable]: [tls] certificate: /nowhere/chain.pem: No such file or directory (os error 2); correct the path

    stentor.toml:2: error[certificate-unusable]: [tls] key: /nowhere/key.pem: No such file or directory (os error 2); correct the path
    stentor.toml:3: error[contradiction]: [tls] client_certificates: asks for certificates, but nobody vouches for them; set client_ca, or write "off"

    stentor.toml:2: error[contradiction]: [auth] certificate_login: has no certificates to look at; set [tls] client_certificates, and [listen] https or stomps, or write "off"

    stentor.toml:2: error[wrong-value]: [listen] http: and https, stomp and stomps are all "off", so nobody could connect; give one of them an address

    stentor.toml:4: error[certificate-unusable]: [tls] certificate: /nowhere/chain.pem: No such file or directory (os error 2); correct the path
    stentor.toml:5: error[certificate-unusable]: [tls] key: /nowhere/key.pem: No such file or directory (os error 2); correct the path
    stentor.toml:6: error[certificate-unusable]: [tls] client_ca: /nowhere/ca.pem: No such file or directory (os error 2); correct the path
    "#);
}

/// An operator knows TOML, and need not know Rust.
#[test]
fn a_value_of_the_wrong_kind_is_told_in_words_of_toml() {
    let text = r#"
[memory]
watermark = "80"
limit = true

[auth.jwt]
audiences = "stentor"

[broker]
exchanges = { a = "headers" }
vhosts = [1]
urls = 5

[limits]
max_headers = "8"
max_pending = 1.5
max_unacked = "many"

[listen]
origins = {}

[auth]
forward_cookies = "sid"
default_passcode = 12

[webhooks]
events = [1]

[feed]
binding = ["key"]

[stomp]
server_header = 5
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    stentor.toml:3: error[wrong-value]: [memory] watermark: "80" is not a whole number: 20 to 95 (percent), or 0 for none; write it without quotes
    stentor.toml:4: error[wrong-value]: [memory] limit: true is not a size: bytes, or e.g. "4MiB"
    stentor.toml:7: error[wrong-value]: [auth.jwt] audiences: "stentor" is not a list; write ["stentor"]
    stentor.toml:10: error[wrong-value]: [broker] exchanges: "headers" is not a type to write here; write "direct", "topic" or "fanout"; headers exchanges and those of plug-ins are "other"
    stentor.toml:11: error[wrong-value]: [broker] vhosts: the number 1 is not a text; write it in quotes
    stentor.toml:12: error[wrong-value]: [broker] urls: the number 5 is not a list; write it in brackets, ["…", "…"]
    stentor.toml:15: error[wrong-value]: [limits] max_headers: "8" is not a whole number, 0 or more; write it without quotes
    stentor.toml:16: error[wrong-value]: [limits] max_pending: the number 1.5 is not a whole number, 0 or more
    stentor.toml:17: error[wrong-value]: [limits] max_unacked: "many" is not a whole number from 0 to 65535
    stentor.toml:20: error[wrong-value]: [listen] origins: a table is not a list; write it in brackets, ["…", "…"]
    stentor.toml:23: error[wrong-value]: [auth] forward_cookies: "sid" is not a table; write { NAME = VALUE }
    stentor.toml:24: error[wrong-value]: [auth] default_passcode: has a value that is not a text; write it in quotes
    stentor.toml:27: error[wrong-value]: [webhooks] events: has a value that is not a text; write it in quotes
    stentor.toml:30: error[wrong-value]: [feed] binding: has a value that is not a text; write it in quotes
    stentor.toml:33: error[wrong-value]: [stomp] server_header: the number 5 is not true, false, or a text such as "RabbitMQ/4.0"
    "#);
    for (mark, says) in [
        ("0.8", "the number 0.8 is not"),
        ("300", "the number 300 is not"),
    ] {
        let found = problems(&format!("[memory]\nwatermark = {mark}\n"), &[]);
        assert!(found.contains(says), "{found}");
        assert!(found.contains("20 to 95 (percent), or 0"), "{found}");
    }
    let typed = problems("[broker]\nexchanges = { a = \"x-delayed-message\" }", &[]);
    assert!(typed.contains("plug-ins are \"other\""), "{typed}");
    let marks = [("STENTOR__MEMORY__WATERMARK", "80")];
    assert_eq!(load("", &marks).unwrap().memory.watermark, 80);
}

#[test]
fn a_wrong_value_is_not_blamed_on_others() {
    let text = "[limits]\nmax_frame_size = \"1KX\"\n[mailbox]\nmax_bytes = \"64KiB\"\n";
    assert_snapshot!(problems(text, &[]), @r#"stentor.toml:2: error[wrong-value]: [limits] max_frame_size: "1KX" is not a size; write bytes or e.g. "4MiB""#);
}

#[test]
fn a_broken_file() {
    assert_snapshot!(problems("[listen]\nhttp = 0.0.0.0:1\n[broker\nurl = \"x\n", &[]), @r#"
    stentor.toml:2: error[config-syntax]: not TOML (texts stand in quotes): invalid float, expected nothing
    stentor.toml:3: error[config-syntax]: not TOML (texts stand in quotes): unclosed table, expected `]`
    "#);
    assert_snapshot!(problems("listen = 5\nport = 1\nmax_headers = 1\n", &[]), @r#"
    stentor.toml:1: error[unknown-section]: [listen] is a section; write [listen] on a line of its own, and its keys below
    stentor.toml:2: error[unknown-key]: port: there is no such key outside of the sections
    stentor.toml:3: error[unknown-key]: max_headers: there is no such key outside of the sections; it belongs to [limits]
    "#);
    assert_snapshot!(problems("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", &[]), @"stentor.toml:3: error[config-syntax]: not TOML (texts stand in quotes): duplicate key");
}

#[test]
fn a_syntax_error_does_not_show_the_line() {
    let text = "[broker]\nurl = \"amqp://u:s3cret@host\n";
    assert!(!problems(text, &[]).contains("s3cret"));
}

/// Problems go to the log, the audit log and the API's answers.
#[test]
fn a_wrong_value_does_not_show_a_secret() {
    for text in [
        "[broker]\nurls = \"amqp://u:s3cret@rabbit\"",
        "[broker]\nurls = \"u:s3cret@rabbit\"",
        "[broker]\ntoken_command = \"vault read s3cret\"",
        "[broker]\nvhosts = [\"amqp://u:s3cret@rabbit\"]",
        "[broker]\nexchanges = { a = \"amqp://u:s3cret@rabbit\" }",
        "[broker]\nheartbeat = \"amqp://u:s3cret@rabbit\"",
        "[api]\ntokens = \"ops admin s3cret-s3cret-s3cret\"",
        "[api]\ntokens = { \"admin s3cret-s3cret-s3cret\" = \"\" }",
        "[auth]\nhttp_method = \"https://hook/?key=s3cret\"",
        "[auth.jwt]\nsecret = [\"s3cret\"]",
        "[listen]\nhttp = \"http://u:s3cret@host\"",
        "[listen]\norigins = [\"https://u:s3cret@\\\"host\"]",
        "[limits]\nmax_frame_size = \"http://u:s3cret@host\"",
        "[webhooks]\nevents = [\"https://u:s3cret@app\"]",
    ] {
        let problems = problems(text, &[]);
        assert!(!problems.contains("s3cret"), "{text}: {problems}");
    }
    for number in ["123456", "123456.5", "99999999999123456"] {
        for key in ["default_passcode", "hook"] {
            let text = format!("[auth]\n{key} = {number}");
            let problems = problems(&text, &[]);
            let is_secret = key == "default_passcode";
            assert_eq!(problems.contains("123456"), !is_secret, "{problems}");
            assert!(problems.contains("write it in quotes"), "{problems}");
        }
        let problems = problems(&format!("[api]\ntokens = {{ ops = {number} }}"), &[]);
        assert!(!problems.contains("123456"), "{problems}");
    }
    for (variable, value) in [
        ("STENTOR__API__TOKENS", "admin s3cret-s3cret-s3cret"),
        ("STENTOR__API__TOKENS", "admin s3cret-s3cret-s3cret="),
        ("STENTOR__API__TOKENS", "ops=admin x, s3cret-s3cret-s3cret"),
        ("STENTOR__LIMITS__MAX_HEADERS", "amqp://u:s3cret@rabbit "),
        ("STENTOR__LISTEN__HTTP", "amqp://u:s3cret@rabbit"),
        ("STENTOR__BROKER__EXCHANGES", "amqp://u:s3cret@rabbit"),
        ("STENTOR__BROKER__EXCHANGES", "a=topic,b=u:s3cret@rabbit"),
    ] {
        let problems = problems("", &[(variable, value)]);
        assert!(!problems.contains("s3cret"), "{value}: {problems}");
    }
    // A token's name is none.
    let named = problems("", &[("STENTOR__API__TOKENS", "ops=nothing s3cret")]);
    assert!(named.contains("\"ops\" has a scope"), "{named}");
    assert!(!named.contains("s3cret"), "{named}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[limits]\nmax_headers = 7\nmax_frame_size = \"1MiB\"\n";
    let config = load(
        text,
        &[
            ("STENTOR__LIMITS__MAX_HEADERS", "9"),
            ("STENTOR__LIMITS__MAX_FRAME_SIZE", "2MiB"),
            ("STENTOR__LIMITS__LOGIN_TIMEOUT", "20s"),
            ("STENTOR__LISTEN__STOMP", "off"),
            ("STENTOR__LISTEN__ALLOW_MISSING_ORIGIN", "false"),
            (
                "STENTOR__LISTEN__ORIGINS",
                "https://a.example, https://b.example",
            ),
            ("STENTOR__MAILBOX__OVERFLOW", "drop-oldest"),
            (
                "STENTOR__BROKER__EXCHANGES",
                "orders=topic, news.all=fanout",
            ),
            ("STENTOR__BROKER__URL", "amqp://u:p@host"),
            ("STENTOR__AUTH__USER_PATH", "http://127.0.0.1:1/user"),
            // Kubernetes', for a service of our name, and others'.
            ("STENTOR_PORT", "tcp://10.0.0.1:15674"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(config.limits.max_headers, 9);
    assert_eq!(config.limits.max_frame_size, 2 << 20);
    assert_eq!(config.limits.login_timeout, Duration::from_secs(20));
    assert_eq!(config.listen.stomp, None);
    assert!(!config.listen.allow_missing_origin);
    assert_eq!(
        config.listen.origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.mailbox.overflow, hub::Overflow::DropOldest);
    assert_eq!(config.broker.exchanges["orders"], ExchangeKind::Topic);
    assert_eq!(config.broker.exchanges["news.all"], ExchangeKind::Fanout);
    assert_eq!(config.broker.url.unwrap().to_string(), "amqp://u:***@host");
    assert!(config.auth.user_path.is_some());
}

#[test]
fn problems_in_the_environment_name_the_variable() {
    let environment = [
        ("STENTOR__LIMITS__MAX_FRAM_SIZE", "1"),
        ("STENTOR__LIMITS__MAX_HEADERS", "many"),
        ("STENTOR__LIMITS__MAX_UNACKED", "70000"),
        ("STENTOR__LIMITS__WRITE_TIMEOUT", "5"),
        ("STENTOR__FEED__DURABLE", "yes"),
        ("STENTOR__FEED__BINDING", "some"),
        ("STENTOR__MAILBOX__MAX_BYTES", "1MiB"),
        ("STENTOR__BROKER__URL", "u:s3cret@host"),
        ("STENTOR__BROKER__EXCHANGES", "orders"),
        ("STENTOR__WHATEVER", "1"),
        ("STENTOR_AUTH_CACHE_TTL", "1s"),
        ("STENTOR_BROKER__URL", "amqp://u:s3cret@host"),
        ("STENTOR_PORT", "tcp://10.0.0.1:15674"),
        ("STENTOR_CONFIG", "stentor.toml"),
    ];
    assert_snapshot!(problems("[listen]\nmax_connections = 0\n", &environment), @r#"
    stentor.toml:2: error[wrong-value]: [listen] max_connections: is 0, so nobody could connect; write 1 or more
    STENTOR_AUTH_CACHE_TTL: error[unknown-variable]: is not read; write STENTOR__AUTH__CACHE_TTL, with two underscores before the section and before the key
    STENTOR_BROKER__URL: error[unknown-variable]: is not read; write STENTOR__BROKER__URL, with two underscores before the section and before the key
    STENTOR__BROKER__EXCHANGES: error[wrong-value]: [broker] exchanges: "orders" has no "="; write NAME=VALUE,NAME=VALUE
    STENTOR__BROKER__URL: error[wrong-value]: [broker] url: is not a broker's URL; write "amqp://user:password@host:5672" (characters such as "/" and "@" in a password as %2F and %40), "amqps://…" or "embedded:"
    STENTOR__FEED__BINDING: error[wrong-value]: [feed] binding: "some" is not known; write "key" or "all"
    STENTOR__FEED__DURABLE: error[wrong-value]: [feed] durable: "yes" is not a switch; write true or false
    STENTOR__LIMITS__MAX_FRAM_SIZE: error[unknown-variable]: there is no such variable; did you mean STENTOR__LIMITS__MAX_FRAME_SIZE?
    STENTOR__LIMITS__MAX_HEADERS: error[wrong-value]: [limits] max_headers: "many" is not a whole number, 0 or more
    STENTOR__LIMITS__MAX_UNACKED: error[wrong-value]: [limits] max_unacked: the number 70000 is not a whole number from 0 to 65535
    STENTOR__LIMITS__WRITE_TIMEOUT: error[wrong-value]: [limits] write_timeout: "5" is not a duration; write e.g. "10s" or "500ms"
    STENTOR__MAILBOX__MAX_BYTES: error[contradiction]: [mailbox] max_bytes: is 1 MiB, less than [limits] max_frame_size (4 MiB), so the largest messages could never be delivered; raise it, or lower the other
    STENTOR__WHATEVER: error[unknown-variable]: there is no such variable; variables are named STENTOR__SECTION__KEY
    "#);
}

#[test]
fn serving_needs_a_broker_and_a_hook() {
    let errors = Config::load(None, []).unwrap_err();
    assert_snapshot!(errors, @r#"
    configuration: error[missing-key]: [auth] user_path: is not set, nor is hook, and nobody but your application knows who may log in; write the address of its hook, hook = "http://127.0.0.1:8000/auth"; or the keys of your tokens in [auth.jwt]; or let RabbitMQ's own users log in, [auth.rabbitmq] definitions = "/etc/stentor/definitions.json" (`stentor demo` needs none)
    configuration: error[missing-key]: [broker] url: is not set, nor is urls; write RabbitMQ's address and the gateway's account there, "amqp://user:password@host:5672" (in the file, or, better for a password, in the variable STENTOR__BROKER__URL)
    "#);
    let set = variables(&[
        ("STENTOR__BROKER__URL", "embedded:"),
        ("STENTOR__AUTH__USER_PATH", "http://127.0.0.1:8080/user"),
    ]);
    assert!(Config::load(None, set).is_ok());
}

#[test]
fn webhooks_need_a_secret() {
    let found = |secret: &str| {
        let text =
            format!("[webhooks]\nevents = [\"connect\"]\nurls = [\"http://app/\"]\n{secret}");
        let set = variables(&[
            ("STENTOR__BROKER__URL", "embedded:"),
            ("STENTOR__AUTH__USER_PATH", "http://127.0.0.1:8080/user"),
        ]);
        let file = File {
            name: "stentor.toml",
            text: &text,
        };
        let read = Config::load(Some(file), set);
        read.map_err(|errors| errors.to_string()).err()
    };
    assert_eq!(found("secret = \"0123456789abcdef\""), None);
    for unset in ["", "secret = \"\""] {
        let missing = found(unset).unwrap();
        let says = "error[missing-key]: [webhooks] secret: is not set";
        assert!(missing.contains(says), "{missing}");
        assert_eq!(missing.lines().count(), 1, "{missing}");
    }
    // Where the receivers are.
    assert!(found("").unwrap().starts_with("stentor.toml:3: "));
    let short = found("secret = \"short\"").unwrap();
    assert!(
        short.contains("error[wrong-value]: [webhooks] secret: has fewer"),
        "{short}"
    );
    assert_eq!(short.lines().count(), 1, "{short}");
}

/// A wrong value counts as not set; it is not called missing as well.
#[test]
fn what_is_wrong_is_not_said_to_be_missing() {
    for (text, wrong) in [
        ("[auth]\nhook = \"auth\"", "[auth] hook"),
        ("[auth]\nbatch_path = \"auth\"", "[auth] batch_path"),
        ("[auth]\nuser_path = 5", "[auth] user_path"),
        ("[auth.jwt]\njwks_url = \"keys\"", "[auth.jwt] jwks_url"),
        (
            "[auth.rabbitmq]\nmanagement = \"rabbit\"",
            "[auth.rabbitmq] management",
        ),
    ] {
        let set = variables(&[("STENTOR__BROKER__URL", "embedded:")]);
        let file = File {
            name: "stentor.toml",
            text,
        };
        let errors = Config::load(Some(file), set).unwrap_err().to_string();
        assert!(errors.contains(wrong), "{errors}");
        assert!(!errors.contains("missing-key"), "{errors}");
    }
}

#[test]
fn no_secret_is_shown() {
    let config = load(
        "[broker]\nurl = \"amqp://u:s3cret@host\"\n[presence]\nurl = \"redis://:s3cret@host\"\n",
        &[],
    )
    .unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("***"));
}

#[test]
fn ways_to_log_in_that_do_not_go_together() {
    let text = r#"
[listen]
origins = ["*"]

[auth]
forward_cookies = { sid = "vhost" }

[stomp]
implicit_connect = true
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    stentor.toml:6: error[wrong-value]: [auth] forward_cookies: uses the parameter "vhost", which the user call has already: choose another name
    stentor.toml:9: error[contradiction]: [stomp] implicit_connect: is on, but [auth] default_user is not set, so nobody would be logged in by it; set that, or turn this off
    "#);
    for ambient in [
        "http_basic = true",
        "forward_headers = { Cookie = \"cookie\" }",
        "forward_headers = { authorization = \"token\" }",
    ] {
        let text = format!("[listen]\norigins = [\"*\"]\n[auth]\n{ambient}\n");
        assert!(load(&text, &[]).is_err(), "{ambient}");
    }
    // Browsers have certificates, too; a client of STOMP over TLS is no browser.
    let blames_origins = |listener: &str| {
        let text = format!(
            "[listen]\norigins = [\"*\"]\n{listener} = \"127.0.0.1:0\"\n\
             [auth]\ncertificate_login = \"common_name\"\n"
        );
        problems(&text, &[]).contains("origins")
    };
    assert!(blames_origins("https") && !blames_origins("stomps"));
    let text = "[listen]\norigins = [\"*\"]\n[auth]\nforward_cookies = { sid = \"sid\" }\n";
    assert_snapshot!(problems(text, &[]), @"stentor.toml:2: error[contradiction]: [listen] origins: lets pages of every site connect, and browsers send cookies, HTTP Basic authentication and certificates by themselves, so whoever looks at one is logged in there ([auth] forward_cookies, forward_headers, http_basic, certificate_login); name your own origins");
}

#[test]
fn what_is_forwarded_can_be_set_by_variables() {
    let config = load(
        "",
        &[
            ("STENTOR__AUTH__FORWARD_COOKIES", "sid=session_cookie"),
            (
                "STENTOR__AUTH__FORWARD_CONNECTION",
                "client_ip=ip, node=node",
            ),
            ("STENTOR__AUTH__DEFAULT_USER", "guest"),
            ("STENTOR__AUTH__DEFAULT_PASSCODE", "s3cret"),
        ],
    );
    let auth = config.unwrap().auth;
    assert_eq!(auth.forward_cookies["sid"], "session_cookie");
    assert_eq!(auth.forward_connection[&auth::Fact::ClientIp], "ip");
    assert!(!format!("{auth:?}").contains("s3cret"));
}

#[test]
fn messages_for_those_who_are_away_need_bindings_that_tell() {
    let on = "[offline]\nsources = [\"feed\"]\nmax_bytes = \"8MiB\"\n";
    assert!(load(on, &[]).is_ok());
    for (more, says) in [
        (
            "[feed]\nbinding = \"all\"",
            "cannot tell which keys nobody is subscribed to",
        ),
        ("[journal]\nexchanges = [\"feed\"]", "which has a journal"),
        (
            "[broker]\nurl = \"embedded:\"",
            "has no alternate exchanges",
        ),
        (
            "[broker]\nexchanges = { feed = \"fanout\" }",
            "which has no keys",
        ),
        ("[control]\nexchange = \"off\"", "cannot ask the others"),
        (
            "[presence]\nurl = \"memory:\"\nexchange = \"offline\"",
            "of presence events",
        ),
        (
            "[broker]\nexchanges = { offline = \"direct\" }",
            "[offline] exchange: is of another type",
        ),
        (
            "[limits]\nmax_frame_size = \"16MiB\"\n[mailbox]\nmax_bytes = \"16MiB\"",
            "[offline] max_bytes: is 8 MiB, less than [limits] max_frame_size (16 MiB)",
        ),
        ("[feed]\nexpires = \"1m\"", "lower it, or raise the other"),
        (
            "[broker]\nreconnect_max = \"1m\"",
            "what waits for its clients",
        ),
    ] {
        let found = problems(&format!("{on}{more}"), &[]);
        assert!(found.contains(says), "{more}: {found}");
        assert!(load(more, &[]).is_ok(), "{more}");
    }
    let key = problems("[offline]\nkey = \"user\"", &[]);
    assert!(key.contains("{username}"), "{key}");
}

/// Hardly anything has these names, and nothing would say so.
#[test]
fn exchanges_are_not_written_as_clients_write_them() {
    for (section, set, exchange) in [
        ("presence", "destinations = [\"/exchange/room\"]", "room"),
        ("journal", "exchanges = [\"/exchange/news/k\"]", "news"),
        ("offline", "sources = [\"/exchange/room/#\"]", "room"),
        ("offline", "exchange = \"/exchange/away\"", "away"),
        ("control", "exchange = \"/exchange/c\"", "c"),
        (
            "broker",
            "exchanges = { \"/exchange/a%2Fb\" = \"topic\" }",
            "a/b",
        ),
        (
            "feed",
            "binding = \"all\"\nwhole = [\"/exchange/feed\"]",
            "feed",
        ),
    ] {
        let found = problems(&format!("[{section}]\n{set}\n"), &[]);
        let says = format!("is a client's destination; write the exchange alone: {exchange:?}");
        assert!(found.contains(&says), "{set}: {found}");
        assert!(found.contains("error[wrong-value]"), "{found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    let found = problems("[presence]\ndestinations = [\"/queue/jobs\"]\n", &[]);
    assert!(found.contains("write the name of an exchange"), "{found}");
    // That exchange would not do.
    let found = problems("[presence]\nexchange = \"/topic/here\"\n", &[]);
    assert!(found.contains("write the name of an exchange"), "{found}");
    assert!(!found.contains("amq.topic"), "{found}");
    // RabbitMQ has exchanges of such names.
    for name in ["/events", "/events/a", "/", "//exchange/a"] {
        let typed = format!("[broker]\nexchanges = {{ {name:?} = \"topic\" }}\n");
        assert!(load(&typed, &[]).is_ok(), "{name}");
    }
}

/// A new session needs a connection before it can replace an old one.
#[test]
fn connections_of_a_user_are_more_than_the_sessions() {
    for (policy, least) in [
        ("repeated_login = \"replace\"", 2),
        ("repeated_login = \"replace\"\nsame = \"device_id\"", 2),
        (
            "repeated_login = \"replace\"\nsame = \"device_id\"\nmax_per_user = 3",
            4,
        ),
    ] {
        let with = |most: usize| {
            format!(
                "[presence]\nurl = \"memory:\"\n[sessions]\n{policy}\n\
                 [limits]\nmax_user_connections = {most}\n"
            )
        };
        for sound in [0, least] {
            assert!(load(&with(sound), &[]).is_ok(), "{policy}: {sound}");
        }
        let found = problems(&with(least - 1), &[]);
        let says = format!("[limits] max_user_connections: is {}", least - 1);
        assert!(found.contains(&says), "{found}");
        assert!(found.contains(&format!("write {least} or more")), "{found}");
    }
    assert!(load("[limits]\nmax_user_connections = 1\n", &[]).is_ok());
    // Where nobody is replaced, the further login is refused by either.
    for (policy, most) in [("repeated_login = \"reject\"", 1), ("max_per_user = 3", 3)] {
        let sound = format!(
            "[presence]\nurl = \"memory:\"\n[sessions]\n{policy}\n\
             [limits]\nmax_user_connections = {most}\n"
        );
        assert!(load(&sound, &[]).is_ok(), "{policy}");
    }
    // The default is a bound, too.
    let found = problems(
        "[presence]\nurl = \"memory:\"\n[sessions]\nrepeated_login = \"replace\"\n\
         same = \"device_id\"\nmax_per_user = 10000\n",
        &[],
    );
    assert!(found.starts_with("stentor.toml:6: "), "{found}");
}

/// A pattern such as `/topic/a.*` has to mean something.
#[test]
fn an_exchange_of_topics_is_a_topic_exchange() {
    let topics = "[stomp]\ndefault_topic_exchange = \"app\"\n";
    let typed = |kind: &str| format!("{topics}[broker]\nexchanges = {{ app = {kind:?} }}\n");
    for kind in ["direct", "fanout"] {
        let found = problems(&typed(kind), &[]);
        let says = "[stomp] default_topic_exchange: is of another type";
        assert!(found.contains(says), "{kind}: {found}");
    }
    for kind in ["topic", "other"] {
        assert!(load(&typed(kind), &[]).is_ok(), "{kind}");
    }
    let events = "[presence]\nurl = \"memory:\"\n[broker]\nexchanges = { presence = \"direct\" }\n";
    let found = problems(events, &[]);
    assert!(
        found.contains("[presence] exchange: is of another type"),
        "{found}"
    );
}

/// To the exchanges of the gateway clients cannot send.
#[test]
fn the_exchange_of_topics_is_one_of_clients() {
    for (text, blamed) in [
        (
            "[presence]\nurl = \"memory:\"\nexchange = \"amq.topic\"\n",
            "[presence] exchange",
        ),
        (
            "[presence]\nurl = \"memory:\"\n[stomp]\ndefault_topic_exchange = \"presence\"\n",
            "[presence] exchange",
        ),
        (
            "[offline]\nsources = [\"feed\"]\nexchange = \"amq.topic\"\n",
            "[offline] exchange",
        ),
        (
            "[stomp]\ndefault_topic_exchange = \"stentor.control\"\n",
            "[control] exchange",
        ),
    ] {
        let found = problems(text, &[]);
        let says =
            format!("error[contradiction]: {blamed}: is [stomp] default_topic_exchange, too");
        assert!(found.contains(&says), "{found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    // Nothing of the gateway's goes there.
    for sound in [
        "[presence]\nurl = \"memory:\"\nevents = false\nexchange = \"amq.topic\"\n",
        "[presence]\nurl = \"memory:\"\nexchange = \"amq.topic\"\n[stomp]\n\
         default_topic_exchange = \"topics\"\n",
        "[offline]\nexchange = \"amq.topic\"\n",
    ] {
        assert!(load(sound, &[]).is_ok(), "{sound}");
    }
}

/// A journal that lacks messages would have all subscribers of its exchange refused.
#[test]
fn a_journal_needs_an_exchange_whose_messages_it_can_have() {
    let journal = "[journal]\nexchanges = [\"feed\"]\n";
    let typed = |kind: &str| format!("{journal}[broker]\nexchanges = {{ feed = {kind:?} }}\n");
    let (direct, other) = (typed("direct"), typed("other"));
    assert_snapshot!(problems(&direct, &[]), @r#"stentor.toml:2: error[contradiction]: [journal] exchanges: has "feed", which by [broker] exchanges is direct: a journal ([journal] exchanges) has its messages only if feed.whole names it, too; write [feed] binding = "all", whole = ["feed"] and bridge = false (docs/catching-up.md), or take it out here"#);
    assert_snapshot!(problems(&other, &[]), @r#"stentor.toml:2: error[contradiction]: [journal] exchanges: has "feed", which by [broker] exchanges is neither direct, fanout nor topic, so it can have no journal ([journal] exchanges); take it out here"#);
    let whole = "[feed]\nbinding = \"all\"\nwhole = [\"feed\"]\nbridge = false\n";
    for sound in [
        journal.to_owned(),
        typed("topic"),
        typed("fanout"),
        format!("{direct}{whole}"),
    ] {
        assert!(load(&sound, &[]).is_ok(), "{sound}");
    }
    // Without that, it is known that whole does not hold.
    let keys = problems(&format!("{direct}[feed]\nwhole = [\"feed\"]\n"), &[]);
    assert!(keys.contains("[feed] whole: names exchanges"), "{keys}");
    assert!(!keys.contains("[journal]"), "{keys}");
}

#[test]
fn webhooks_of_rooms_need_rooms() {
    let urls = "urls = [\"http://app/\"]\nsecret = \"0123456789abcdef\"";
    for kind in ["occupied", "vacated"] {
        let events = format!("[webhooks]\nevents = [\"connect\", \"{kind}\"]\n");
        let found = problems(&format!("{events}{urls}"), &[]);
        assert!(found.contains("[webhooks] events: has"), "{found}");
        assert!(found.contains("destinations = [\"room\"]"), "{found}");
        let rooms = "[presence]\nurl = \"memory:\"\ndestinations = [\"room\"]";
        assert!(load(&format!("{events}{urls}\n{rooms}"), &[]).is_ok());
        // Nobody is told anything.
        assert!(load(&events, &[]).is_ok());
    }
    assert!(load(&format!("[webhooks]\n{urls}"), &[]).is_ok());
}
