//! What the program says when it starts, by its codes: each fault is caused for real.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use stentor::codes::{Code, Kind};
use tempfile::TempDir;
use testkit::{Authority, DEADLINE, Gateway, eventually, free_ports};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::house::Ran;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stentor");

/// A configuration that is sound, but for the ports, which are free ones.
const SOUND: &str = r#"
[listen]
http = "127.0.0.1:0"
stomp = "off"
admin = "127.0.0.1:0"
[broker]
url = "embedded:"
"#;
/// What is left to make it whole.
const HOOK: &str = "[auth]\nhook = \"http://127.0.0.1:1/auth\"\n";

/// Faults that end the program, and those of them that were caused.
struct Ends {
    folder: TempDir,
    seen: BTreeSet<Code>,
}

impl Ends {
    /// `stentor serve` with a configuration ends.
    fn serve(&mut self, text: &str, code: Code, says: &str) {
        fs::write(self.folder.path().join("my.toml"), text).unwrap();
        self.run(&["serve", "--config", "my.toml"], &[], code, says);
    }

    fn run(&mut self, arguments: &[&str], environment: &[(&str, &str)], code: Code, says: &str) {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied());
        self.command(command, code, says);
    }

    fn command(&mut self, mut command: Command, code: Code, says: &str) {
        let ran = Ran::from(command.current_dir(self.folder.path()).output().unwrap());
        let exit = if code.kind() == Kind::Told { 2 } else { 1 };
        assert_eq!(ran.code, Some(exit), "{command:?}: {}", ran.err);
        let told: Vec<&str> = ran
            .err
            .lines()
            .filter(|line| line.contains("error["))
            .collect();
        assert_eq!(told.len(), 1, "{command:?}: {}", ran.err);
        let mark = format!("error[{}]: ", code.name());
        assert!(told[0].contains(&mark), "{command:?}: {}", ran.err);
        assert!(told[0].contains(says), "{command:?}: {}", ran.err);
        self.seen.insert(code);
    }
}

#[test]
fn each_fault_that_ends_the_program_has_its_code() {
    let mut ends = Ends {
        folder: TempDir::new().unwrap(),
        seen: BTreeSet::new(),
    };
    what_it_is_told(&mut ends);
    what_the_system_refuses(&mut ends);
    let all = Code::ALL.iter().copied();
    let missing: Vec<Code> = all
        .filter(|code| code.kind() != Kind::Logged && !ends.seen.contains(code))
        .filter(|code| *code != Code::PortForbidden || may_be_another())
        .collect();
    assert!(missing.is_empty(), "not caused: {missing:?}");
}

fn what_it_is_told(ends: &mut Ends) {
    let none = ["serve", "--config", "none.toml"];
    ends.run(&none, &[], Code::ConfigUnreadable, "correct the path");
    let folder = ["serve", "--config", "."];
    ends.run(&folder, &[], Code::ConfigUnreadable, "name a file in it");
    fs::write(ends.folder.path().join("bytes.toml"), b"\xff\xfe").unwrap();
    let bytes = ["serve", "--config", "bytes.toml"];
    ends.run(&bytes, &[], Code::ConfigUnreadable, "not in UTF-8");
    if may_be_another() {
        let file = ends.folder.path().join("secret.toml");
        fs::write(&file, SOUND).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = as_another(ends.folder.path());
        command.args(["serve", "--config", "secret.toml"]);
        let says = "let the user that this program runs as read it";
        ends.command(command, Code::ConfigUnreadable, says);
    }

    let whole = format!("{SOUND}{HOOK}");
    let with = |text: &str| format!("{whole}{text}\n");
    ends.serve("url = no quotes\n", Code::ConfigSyntax, "my.toml:1: ");
    ends.serve(&with("[lisen]"), Code::UnknownSection, "[listen]?");
    ends.serve(&with("hok = \"\""), Code::UnknownKey, "did you mean hook?");
    ends.serve(
        &with("[limits]\nmax_headers = 0"),
        Code::WrongValue,
        "write 1 or more",
    );
    ends.serve(SOUND, Code::MissingKey, "[auth] user_path: is not set");
    ends.serve(
        &with("[stomp]\nimplicit_connect = true"),
        Code::Contradiction,
        "set that, or turn this off",
    );
    ends.serve(
        &with("[auth.jwt]\nany_audience = true\npublic_keys = [\"/no/such.pem\"]"),
        Code::FileUnusable,
        "/no/such.pem: No such file or directory (os error 2); correct the path",
    );
    ends.serve(
        &with("[tls]\ncertificate = \"/no/such.pem\""),
        Code::CertificateUnusable,
        "/no/such.pem: No such file",
    );
    ends.run(
        &["serve", "--config", "my.toml"],
        &[
            ("STENTOR_BROKER_URL", "embedded:"),
            ("STENTOR__TLS__CERTIFICATE", ""),
        ],
        Code::UnknownVariable,
        "write STENTOR__BROKER__URL",
    );

    let demo = ["demo", "--broker", "http://127.0.0.1"];
    ends.run(&demo, &[], Code::WrongArgument, "--broker: ");
    let demo = ["demo", "--port", "65535"];
    ends.run(&demo, &[], Code::WrongArgument, "leaves no room");
    fs::write(ends.folder.path().join("my.toml"), &whole).unwrap();
    let doctor = ["doctor", "--config", "my.toml", "--passcode-file", "none"];
    ends.run(&doctor, &[], Code::WrongArgument, "correct the path");
    let doctor = ["doctor", "--config", "my.toml", "--management", "host:1"];
    ends.run(
        &doctor,
        &[],
        Code::WrongArgument,
        "variable STENTOR_MANAGEMENT",
    );
}

fn what_the_system_refuses(ends: &mut Ends) {
    let whole = format!("{SOUND}{HOOK}");
    let at = |address: &str| whole.replacen("127.0.0.1:0", address, 1);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let names = format!("`ss -ltnp 'sport = :{}'` names it", address.port());
    ends.serve(&at(&address.to_string()), Code::PortTaken, &names);
    let port = address.port().to_string();
    let demo = ["demo", "--port", &port];
    ends.run(&demo, &[], Code::PortTaken, "Another program listens");
    // Of a network for documentation: no machine has it.
    ends.serve(&at("192.0.2.1:0"), Code::AddressUnknown, "`ip address`");
    // Such an address needs its interface; and on a machine without IPv6 there is none.
    ends.serve(&at("[fe80::1]:0"), Code::ListenFailed, "or an IPv4 address");
    if may_be_another() {
        fs::write(ends.folder.path().join("my.toml"), at("127.0.0.1:1")).unwrap();
        let mut command = as_another(ends.folder.path());
        command.args(["serve", "--config", "my.toml"]);
        let says = "CAP_NET_BIND_SERVICE";
        ends.command(command, Code::PortForbidden, says);
    }
    fs::write(
        ends.folder.path().join("my.toml"),
        whole.replace("http://127", "https://127"),
    )
    .unwrap();
    let authorities = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/no/such")];
    ends.run(
        &["serve", "--config", "my.toml"],
        &authorities,
        Code::SetupFailed,
        "ca-certificates",
    );
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -n 4 && exec \"$0\" serve --config my.toml"])
        .arg(PROGRAM);
    ends.command(command, Code::SystemRefused, "Too many open files");
}

/// Whether this process may become another user, and low ports are forbidden to that one.
fn may_be_another() -> bool {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse::<u16>().ok());
    rustix::process::geteuid().is_root() && first.is_some_and(|first| first > 1)
}

/// The program as a user who has no rights; it is copied to where that user may run it.
fn as_another(folder: &Path) -> Command {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.join("stentor");
    if !copy.exists() {
        fs::copy(PROGRAM, &copy).unwrap();
    }
    let mut command = Command::new(copy);
    command.env_clear().uid(65534).gid(65534);
    command
}

/// Everything that it needs is away, and it serves: the log has a code for each.
#[tokio::test]
async fn what_is_away_at_the_start_is_a_warning_with_a_code() {
    let [dead] = free_ports::<1>();
    let folder = TempDir::new().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    let ended = params.self_signed(&key).unwrap().pem();
    fs::write(folder.path().join("chain.pem"), ended).unwrap();
    fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let gateway = Gateway::builder("/bin/sh")
        .arguments(
            &["-c", "ulimit -n 800 && exec \"$0\" serve", PROGRAM],
            &["http", "stomp", "admin"],
        )
        .env("NOTIFY_SOCKET", "/no/such/socket")
        .set("broker.url", format!("amqp://stentor@127.0.0.1:{dead}"))
        .set("broker.token_command", "false")
        .set("auth.user_path", format!("http://127.0.0.1:{dead}/user"))
        .set("auth.http_basic", "true")
        .set("auth.jwt.any_audience", "true")
        .set("auth.jwt.jwks_url", format!("http://127.0.0.1:{dead}/jwks"))
        .set(
            "auth.rabbitmq.management",
            format!("http://stentor:password@127.0.0.1:{dead}"),
        )
        .set("presence.url", format!("redis://127.0.0.1:{dead}"))
        .set("listen.proxy_protocol", "true")
        .tls(folder.path())
        .start()
        .await;
    until_codes(
        &gateway,
        &[
            Code::BrokerDown,
            Code::BrokerTokenOld,
            Code::HookUnset,
            Code::KeysUnavailable,
            Code::AccountsMissing,
            Code::PresenceDown,
            Code::AnyProxyTrusted,
            Code::HostNamesUnset,
            Code::FewFiles,
            Code::CertificateInvalid,
            Code::NotNotified,
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_hardly_meant_is_a_warning_with_a_code() {
    let [dead] = free_ports::<1>();
    let folder = TempDir::new().unwrap();
    let definitions = folder.path().join("definitions.json");
    // The hash is of no password; its algorithm is what counts.
    let text = r#"{"users": [{"name": "alice", "password_hash": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "hashing_algorithm": "rabbit_password_hashing_md5", "tags": []}],
        "vhosts": [{"name": "/"}], "permissions": [], "topic_permissions": []}"#;
    fs::write(&definitions, text).unwrap();
    fs::set_permissions(&definitions, fs::Permissions::from_mode(0o644)).unwrap();
    let authority = Authority::new();
    authority.serve_from(folder.path(), "soon");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let week = std::time::Duration::from_secs(7 * 24 * 60 * 60);
    params.not_after = (std::time::SystemTime::now() + week).into();
    let key = KeyPair::generate().unwrap();
    let soon = params.self_signed(&key).unwrap().pem();
    fs::write(folder.path().join("chain.pem"), soon).unwrap();
    fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let gateway = Gateway::builder(PROGRAM)
        .set("broker.url", "embedded:")
        .set("auth.hook", format!("http://127.0.0.1:{dead}/auth"))
        .set("auth.rabbitmq.definitions", definitions.display())
        .tls(folder.path())
        .start()
        .await;
    let mut client = TcpStream::connect(gateway.stomp_address()).await.unwrap();
    let connect = "CONNECT\naccept-version:1.2\nhost:/\nlogin:bob\npasscode:b\n\n\0";
    client.write_all(connect.as_bytes()).await.unwrap();
    until_codes(
        &gateway,
        &[
            Code::BrokerEmbedded,
            Code::HookFault,
            Code::AccountsWeak,
            Code::AccountsReadable,
            Code::CertificateEndsSoon,
        ],
    )
    .await;
}

/// Waits until the log has these codes. All that it has are in the table, and no warning lacks one.
async fn until_codes(gateway: &Gateway, wanted: &[Code]) {
    let known = |name: &str| Code::ALL.iter().any(|code| code.name() == name);
    eventually(DEADLINE, format!("{wanted:?} are logged"), async || {
        let events = gateway.events();
        for event in &events {
            let is_warning = ["WARN", "ERROR"]
                .iter()
                .any(|level| event["level"] == *level);
            assert!(!is_warning || event["code"].is_string(), "no code: {event}");
        }
        let codes = events.iter().filter_map(|event| event["code"].as_str());
        let codes: BTreeSet<&str> = codes.collect();
        assert!(codes.iter().all(|name| known(name)), "{codes:?}");
        wanted.iter().all(|code| codes.contains(code.name()))
    })
    .await;
}
