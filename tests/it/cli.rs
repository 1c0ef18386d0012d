//! The command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

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

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

const SOUND: &str = r#"
[broker]
url = "amqp://u:s3cret@127.0.0.1:5672"
[auth]
user_path = "http://127.0.0.1:8080/auth/user"
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
    let url = "amqp://u:s3cret@host/vhost";
    let ran = stentor(&["demo", "--broker", url], &[], None);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err.starts_with("--broker: names a virtual host"),
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
fn a_sound_configuration_is_checked_in_silence() {
    let ran = stentor(&["config", "--check", "my.toml"], &[], Some(SOUND));
    assert_eq!(
        (ran.code, ran.out, ran.err),
        (Some(0), String::new(), String::new())
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
            "my.toml:2: [limits] max_headers: is 0",
            "STENTOR__LOG__LEVEL: [log] level: \"loud\" is not a level",
            "my.toml: [auth] user_path: is not set",
            "my.toml: [broker] url: is not set",
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
    assert!(ran.err.starts_with("my.toml: No such file"), "{}", ran.err);
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
            "my.toml:9: [tls] certificate: my.toml has no certificate; it must be PEM \
             (\"-----BEGIN CERTIFICATE-----\")\n"
        );
    }
}
