//! `scripts/install.sh`, against a server of releases on this machine.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::house::Ran;

/// Releases of a program that only knows its version, packed as the workflow does it.
struct Releases {
    folder: TempDir,
    server: Child,
    address: String,
}

impl Drop for Releases {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn root() -> PathBuf {
    testkit::tests_dir().parent().unwrap().to_owned()
}

fn ran(command: &mut Command) -> Ran {
    Ran::from(command.output().unwrap())
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Releases {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let files = folder
            .path()
            .join(format!("v{}", env!("CARGO_PKG_VERSION")));
        let program = folder.path().join("program");
        write_program(&program, "#!/bin/sh\necho stentor of a release\n");
        let mut server = Command::new("python3")
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mut words = line.split_whitespace();
        let port = words
            .find(|word| *word == "port")
            .and(words.next())
            .unwrap();
        let address = format!("http://127.0.0.1:{port}");
        let release = |arguments: &[&str]| {
            let mut command = Command::new(root().join("scripts/release.sh"));
            let ran = ran(command.args(arguments).env("RELEASE_FILES", &files));
            assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
        };
        for machine in ["x86_64", "aarch64"] {
            release(&["pack", machine, program.to_str().unwrap()]);
        }
        release(&["finish", &address]);
        Self {
            folder,
            server,
            address,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        let version = format!("v{}", env!("CARGO_PKG_VERSION"));
        self.folder.path().join(version).join(name)
    }

    /// As somebody pipes it into a shell.
    fn install(&self, script: &str, to: &Path) -> Ran {
        let fetch = "curl -fsSL \"$0\" | sh -s -- --to \"$1\"";
        let version = env!("CARGO_PKG_VERSION");
        let url = format!("{}/v{version}/{script}", self.address);
        ran(Command::new("sh").args(["-c", fetch, &url]).arg(to))
    }
}

#[test]
fn a_release_is_installed_if_its_checksum_is_right() {
    let releases = Releases::start();
    let to = releases.folder.path().join("some folder/bin");
    let program = to.join("stentor");
    let installed = releases.install("install.sh", &to);
    assert_eq!(installed.code, Some(0), "{}", installed.err);
    let says = format!(
        "Installed stentor of a release as {}/stentor.",
        to.display()
    );
    assert!(installed.out.contains(&says), "{}", installed.out);
    assert!(installed.out.contains("export PATH="), "{}", installed.out);
    assert_eq!(
        ran(&mut Command::new(&program)).out,
        "stentor of a release\n"
    );

    // A program that is there is replaced; by nothing that is not what the checksums say.
    write_program(&program, "#!/bin/sh\necho old\n");
    let sums = fs::read_to_string(releases.file("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 3, "{sums}");
    for machine in ["x86_64", "aarch64"] {
        let version = env!("CARGO_PKG_VERSION");
        let archive = releases.file(&format!("stentor-{version}-{machine}-linux.tar.gz"));
        let mut bytes = fs::read(&archive).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&archive, bytes).unwrap();
    }
    let refused = releases.install("install.sh", &to);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    let says = "is not what SHA256SUMS says: nothing was installed";
    assert!(refused.err.contains(says), "{}", refused.err);
    assert_eq!(ran(&mut Command::new(&program)).out, "old\n");
    let left: Vec<_> = fs::read_dir(&to).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    fs::remove_file(releases.file("SHA256SUMS")).unwrap();
    let missing = releases.install("install.sh", &to);
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("could not fetch"), "{}", missing.err);
}

/// A download that breaks off must not run half of the script.
#[test]
fn half_a_script_does_nothing() {
    let releases = Releases::start();
    let whole = fs::read_to_string(releases.file("install.sh")).unwrap();
    let to = releases.folder.path().join("bin");
    for part in 1..20 {
        let end = whole.floor_char_boundary(whole.len() * part / 20);
        fs::write(releases.file("half.sh"), &whole[..end]).unwrap();
        releases.install("half.sh", &to);
        assert!(!to.exists(), "cut at {end}");
    }
    let cut = whole.strip_suffix("main \"$@\"\n").unwrap();
    fs::write(releases.file("half.sh"), cut).unwrap();
    assert_eq!(releases.install("half.sh", &to).code, Some(0));
    assert!(!to.exists());
}

#[test]
fn what_is_missing_is_said() {
    let script = root().join("scripts/install.sh");
    let run = |arguments: &[&str]| ran(Command::new("sh").arg(&script).args(arguments));
    for (arguments, says) in [
        (&[][..], "--from ADDRESS"),
        (&["--from", "http://127.0.0.1:1"], "--version VERSION"),
        (
            &["--from", "http://127.0.0.1:1", "--version", "v9.9.9"],
            "could not fetch http://127.0.0.1:1/v9.9.9/SHA256SUMS",
        ),
        (&["--form", "x"], "there is no option --form"),
        (&["--to"], "--to takes a value"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(1), "{arguments:?}");
        assert!(ran.err.contains(says), "{arguments:?}: {}", ran.err);
    }
    let help = run(&["--help"]);
    assert_eq!((help.code, &*help.err), (Some(0), ""));
    assert!(help.out.contains("curl -fsSL"), "{}", help.out);
}

/// Files that name the version and are not made from Cargo.toml.
#[test]
fn all_files_name_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let (minor, _) = version.rsplit_once('.').unwrap();
    for (file, text) in [
        (
            "packaging/helm/stentor/Chart.yaml",
            format!("\nversion: {version}\n"),
        ),
        (
            "packaging/helm/stentor/Chart.yaml",
            format!("\nappVersion: \"{version}\"\n"),
        ),
        (
            "packaging/kubernetes/stentor.yaml",
            format!("\"stentor:{version}\""),
        ),
        (
            "clients/js/package.json",
            format!("\"version\": \"{version}\""),
        ),
        ("docs/install.md", format!("stentor_{version}-1_amd64.deb")),
        ("README.md", format!("\nVersion {minor}:")),
        ("docs/comparison.md", format!("| version {minor} |")),
        ("docs/upgrading.md", format!(" to {minor}\n")),
    ] {
        let found = fs::read_to_string(root().join(file)).unwrap();
        assert!(found.contains(&text), "{file} has no {text:?}");
    }
}

/// render.py writes them there, and needs packages of Python that the tests do not.
#[test]
fn kubernetes_gets_the_alerts_that_promtool_tests() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let alerts = read("packaging/prometheus/alerts.yml");
    let rendered = read("packaging/kubernetes/monitoring.yaml");
    let indented: String = alerts.lines().map(|line| format!("  {line}\n")).collect();
    let says = "run packaging/kubernetes/render.py: monitoring.yaml has other alerts";
    assert!(rendered.contains(&indented), "{says}");
    let chart = read("packaging/helm/stentor/files/alerts.yml");
    assert_eq!(chart, alerts, "the chart links to the alerts");
}
