//! The command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::house::Ran;

/// Runs the program with these variables alone, in an empty folder with this file.
fn stentor(arguments: &[&str], environment: &[(&str, &str)], file: Option<&str>) -> Ran {
    let folder = TempDir::new().unwrap();
    if let Some(text) = file {
        fs::write(path(folder.path()), text).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_stentor"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap();
    Ran::from(output)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("my.toml")
}

const SOUND: &str = r#"
[broker]
url = "amqp://u:s3cret@127.0.0.1:5672"
[auth]
hook = "http://127.0.0.1:8000/auth"
"#;

#[test]
fn help_teaches() {
    let help = stentor(&["--help"], &[], None);
    assert_eq!(help.code, Some(0));
    for word in [
        "serve",
        "demo",
        "Examples:",
        "stentor config --default > stentor.toml",
        "Exit codes:",
    ] {
        assert!(help.out.contains(word), "{word}\n{}", help.out);
    }
    let help = stentor(&["serve", "--help"], &[], None);
    assert!(help.out.contains("STENTOR__BROKER__URL="), "{}", help.out);
}

/// The example of the help is a whole configuration: nobody is refused for want of a key.
#[test]
fn the_help_s_own_example_is_sound() {
    let help = stentor(&["serve", "--help"], &[], None).out;
    let words = help.split_whitespace();
    let variables: Vec<(&str, &str)> = words
        .filter_map(|word| word.split_once('='))
        .filter(|(name, _)| name.starts_with("STENTOR__"))
        .collect();
    assert_eq!(variables.len(), 2, "{help}");
    let ran = stentor(&["config", "--check", "my.toml"], &variables, Some(""));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
}

#[test]
fn checks_without_a_path_are_warnings() {
    let text = SOUND.replace("hook = ", "user_path = ");
    let ran = stentor(&["config", "--check", "my.toml"], &[], Some(&text));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let keys = ["vhost_path", "resource_path", "topic_path"];
    assert_eq!(ran.err.lines().count(), keys.len(), "{}", ran.err);
    for (line, key) in ran.err.lines().zip(keys) {
        let begin = format!("my.toml: warning[hook-unset]: [auth] {key}: is not set");
        assert!(line.starts_with(&begin), "{line}");
        assert!(line.contains("denied to everybody"), "{line}");
    }
}

/// Options that all tasks have would hide those of the task, if they stood among them.
#[test]
fn a_task_s_own_options_stand_together() {
    let help = stentor(&["ctl", "kick", "--help"], &[], None).out;
    let (own, common) = help.split_once("\nGateway:\n").expect(&help);
    for option in [
        "--session",
        "--user",
        "--device-type",
        "--device-id",
        "--reason",
    ] {
        assert!(own.contains(option) && !common.contains(option), "{help}");
    }
    for option in ["--url", "--token", "--token-file", "--json"] {
        assert!(common.contains(option) && !own.contains(option), "{help}");
    }
}

#[test]
fn version() {
    let version = stentor(&["--version"], &[], None);
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.out,
        concat!("stentor ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn wrong_arguments_are_2() {
    for arguments in [
        &["srve"][..],
        &[],
        &["config"],
        &["config", "--default", "--check", "my.toml"],
        &["demo", "--port", "70000"],
    ] {
        let ran = stentor(arguments, &[], None);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert!(!ran.err.is_empty());
    }
    let url = "amqp://u:s3cret@host/virtual/host";
    let ran = stentor(&["demo", "--broker", url], &[], None);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err
            .starts_with("error[wrong-argument]: --broker: has a path"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("s3cret"), "{}", ran.err);
}

#[test]
fn the_default_configuration_is_printed() {
    let ran = stentor(&["config", "--default"], &[], None);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.out, stentor::config::DEFAULT);
    assert_eq!(ran.err, "");
}

#[test]
fn a_sound_configuration_is_checked_in_one_line() {
    let ran = stentor(&["config", "--check", "my.toml"], &[], Some(SOUND));
    let line = "my.toml: no errors; 2 keys of the file; all others are defaults\n";
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), line, "")
    );

    let environment = [("STENTOR__BROKER__URL", "amqp://u:s3cret@127.0.0.1:5672")];
    let ran = stentor(&["config", "--check", "my.toml"], &environment, Some(SOUND));
    let line = "my.toml: no errors; 1 key of the file, 1 of the environment \
                (STENTOR__BROKER__URL); all others are defaults\n";
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), line, "")
    );
}

/// The configuration from a `rabbitmq.conf` only lacks the broker's URL.
#[test]
fn from_rabbitmq_to_a_sound_configuration() {
    let conf = "listeners.tcp.default = 5672\n\
                auth_backends.1 = http\n\
                auth_http.user_path = http://127.0.0.1:8080/user\n\
                stomp.listeners.tcp.1 = 127.0.0.1:61613\n\
                stomp.tcp_listen_options.backlog = 4096\n";
    let ran = stentor(&["config", "--from-rabbitmq", "my.toml"], &[], Some(conf));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let expected = "my.toml:5: stomp.tcp_listen_options.backlog: sockets are as Stentor makes them";
    assert!(ran.err.starts_with(expected), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);

    let environment = [("STENTOR__BROKER__URL", "amqp://u:s3cret@127.0.0.1:5672")];
    let checked = stentor(
        &["config", "--check", "my.toml"],
        &environment,
        Some(&ran.out),
    );
    assert_eq!(checked.code, Some(0), "{}{}", checked.err, ran.out);
}

/// With its files at hand, so is one with TLS; without them, each is named.
#[test]
fn from_rabbitmq_with_tls() {
    let folder = TempDir::new().unwrap();
    testkit::Authority::new().serve_from(folder.path(), "rabbitmq.example.com");
    let conf = |folder: &Path| {
        let folder = folder.display();
        format!(
            "stomp.listeners.ssl.1 = 61614\n\
             ssl_options.certfile = {folder}/chain.pem\n\
             ssl_options.keyfile = {folder}/key.pem\n\
             ssl_options.cacertfile = {folder}/ca.pem\n\
             ssl_options.verify = verify_peer\n\
             stomp.ssl_cert_login = true\n\
             auth_http.user_path = http://127.0.0.1:8080/user\n"
        )
    };
    let checked = |folder| {
        let arguments = ["config", "--from-rabbitmq", "my.toml"];
        let ran = stentor(&arguments, &[], Some(&conf(folder)));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
        let environment = [("STENTOR__BROKER__URL", "amqp://u:s3cret@127.0.0.1:5672")];
        stentor(
            &["config", "--check", "my.toml"],
            &environment,
            Some(&ran.out),
        )
    };
    let sound = checked(folder.path());
    assert_eq!(sound.code, Some(0), "{}", sound.err);
    let lost = checked(Path::new("/nowhere"));
    assert_eq!(lost.code, Some(2));
    for file in ["chain.pem", "key.pem", "ca.pem"] {
        assert!(
            lost.err.contains(&format!("/nowhere/{file}: ")),
            "{}",
            lost.err
        );
    }
}

#[test]
fn a_rabbitmq_conf_that_cannot_be_read_is_2() {
    let conf = "stomp.login_timout = 1\nstomp.default_topic_exchange = t\nnonsense\n";
    let ran = stentor(&["config", "--from-rabbitmq", "my.toml"], &[], Some(conf));
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.out.contains("default_topic_exchange = \"t\""),
        "{}",
        ran.out
    );
    let begin = [
        "my.toml:1: stomp.login_timout: is no key of RabbitMQ's plug-ins",
        "my.toml:3: is no setting",
    ];
    assert_eq!(ran.err.lines().count(), begin.len(), "{}", ran.err);
    for (line, begin) in ran.err.lines().zip(begin) {
        assert!(line.starts_with(begin), "{line}");
    }

    let erlang = "[{rabbitmq_stomp, [{tcp_listeners, [61613]}]}].\n";
    let ran = stentor(&["config", "--from-rabbitmq", "my.toml"], &[], Some(erlang));
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(
        ran.err.starts_with("my.toml: is a list of Erlang terms"),
        "{}",
        ran.err
    );
}

#[test]
fn a_wrong_configuration_is_2_with_line_and_variable() {
    let text = "[limits]\nmax_headers = 0\n";
    let environment = [("STENTOR__LOG__LEVEL", "loud")];
    for arguments in [
        ["config", "--check", "my.toml"],
        ["serve", "--config", "my.toml"],
    ] {
        let ran = stentor(&arguments, &environment, Some(text));
        assert_eq!(ran.code, Some(2));
        let begin = [
            "my.toml:2: error[wrong-value]: [limits] max_headers: is 0",
            "STENTOR__LOG__LEVEL: error[wrong-value]: [log] level: \"loud\" is not a level",
            "my.toml: error[missing-key]: [auth] user_path: is not set",
            "my.toml: error[missing-key]: [broker] url: is not set",
        ];
        assert_eq!(ran.err.lines().count(), begin.len(), "{}", ran.err);
        for (line, begin) in ran.err.lines().zip(begin) {
            assert!(line.starts_with(begin), "{line}");
        }
    }
}

#[test]
fn a_missing_file_is_2() {
    let ran = stentor(&["serve", "--config", "my.toml"], &[], None);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err
            .starts_with("error[config-unreadable]: my.toml: No such file"),
        "{}",
        ran.err
    );
}

#[test]
fn serving_without_a_file_asks_for_what_it_needs() {
    let ran = stentor(&["serve"], &[], None);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("STENTOR__BROKER__URL"), "{}", ran.err);
    assert!(ran.err.contains("[auth] user_path"), "{}", ran.err);
}

#[test]
fn a_certificate_that_cannot_be_used_is_2_with_its_key_and_file() {
    let text =
        format!("{SOUND}[listen]\nstomps = \"127.0.0.1:0\"\n[tls]\ncertificate = \"my.toml\"\n");
    for arguments in [
        ["config", "--check", "my.toml"],
        ["serve", "--config", "my.toml"],
    ] {
        let ran = stentor(&arguments, &[], Some(&text));
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert_eq!(
            ran.err,
            "my.toml:9: error[certificate-unusable]: [tls] certificate: my.toml has no certificate; \
             it must be PEM \
             (\"-----BEGIN CERTIFICATE-----\")\n"
        );
    }
}

/// For packages: pages for `man`, and completions for shells, as the program knows itself.
#[test]
fn the_program_writes_its_own_pages_and_completions() {
    for (shell, words) in [
        ("bash", "_stentor()"),
        ("zsh", "#compdef stentor"),
        ("fish", "complete -c stentor"),
    ] {
        let ran = stentor(&["completions", shell], &[], None);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{shell}");
        assert!(ran.out.contains(words), "{shell}");
        assert!(ran.out.contains("publish"), "{shell}");
    }
    assert_eq!(stentor(&["completions", "dos"], &[], None).code, Some(2));
    let page = stentor(&["man"], &[], None);
    assert!(page.out.contains(".TH stentor 1"), "{}", page.out);
    let folder = TempDir::new().unwrap();
    let ran = stentor(&["man", folder.path().to_str().unwrap()], &[], None);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for name in ["stentor.1", "stentor-serve.1", "stentor-ctl-publish.1"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
}

/// Variables may be for another gateway, on which nobody thinks while typing.
#[test]
fn what_is_typed_counts_before_variables() {
    let contexts = "[contexts.production]\nurl = \"http://127.0.0.1:1\"\n";
    let set = [
        ("STENTOR_CONTEXTS", "my.toml"),
        ("STENTOR_URL", "http://127.0.0.1:2"),
        ("STENTOR_TOKEN", "local-0123456789"),
    ];
    for (arguments, code, words) in [
        (&["ctl", "node"][..], 3, "http://127.0.0.1:2"),
        (
            &["ctl", "--context", "production", "node"],
            3,
            "http://127.0.0.1:1",
        ),
        // Behind the task, too.
        (
            &["ctl", "node", "--context", "production"],
            3,
            "http://127.0.0.1:1",
        ),
        (&["ctl", "node", "--token-file", "nowhere"], 2, "nowhere"),
        (
            &["tail", "--context", "production"],
            3,
            "http://127.0.0.1:1",
        ),
    ] {
        let ran = stentor(arguments, &set, Some(contexts));
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{arguments:?}: {}", ran.err);
    }
}
