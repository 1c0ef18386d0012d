//! This machine: files, the backlog, ports, memory.

use std::{fs, net::SocketAddr, time::Duration};

use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use super::{ask::ask, finding::Finding};
use crate::{
    auth::http_client,
    codes::Code,
    config::Config,
    listen::{self, BACKLOG, Files, ListenError, Wanted},
    node,
    units::show_size,
};

/// The system's own bound of the backlog.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// How long a gateway that runs here may take to say so.
const RUNNING: Duration = Duration::from_secs(2);

/// Asks the system.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![files(config, open_files())];
    let somaxconn = fs::read_to_string(SOMAXCONN).ok();
    let somaxconn = somaxconn.and_then(|text| text.trim().parse().ok());
    findings.extend(somaxconn.map(backlog));
    findings.extend(memory(config));
    findings.extend(ports(config).await);
    findings
}

/// The files that the gateway takes at its start: all that the hard limit allows.
fn open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

fn files(config: &Config, open: u64) -> Finding {
    let question = "system.files";
    let wanted = Wanted {
        connections: config.listen.max_connections,
        unauthenticated: config.listen.max_unauthenticated,
    };
    let lowered = wanted.lowered(Files::of(open).reckon(wanted));
    let shown = match open {
        u64::MAX => "any number of".to_owned(),
        open => open.to_string(),
    };
    if lowered.is_empty() {
        let text = format!(
            "{shown} files may be open, enough for {} connections",
            wanted.connections
        );
        return Finding::right(question, text);
    }
    let needed = wanted
        .connections
        .saturating_add(wanted.unauthenticated)
        .saturating_add(1_000);
    let text = format!(
        "{shown} files may be open, too few for [listen] max_connections = {} and \
         max_unauthenticated = {}",
        wanted.connections, wanted.unauthenticated
    );
    let doubtful = Finding::doubtful(question, text).cure(format!(
        "LimitNOFILE={needed}   (in the systemd unit; a shell: ulimit -Hn)"
    ));
    lowered.into_iter().fold(doubtful, |found, (key, has)| {
        found.cure(format!("[listen] {key} = {has}"))
    })
}

fn backlog(somaxconn: u32) -> Finding {
    let question = "system.backlog";
    if somaxconn >= BACKLOG {
        let text = format!("{BACKLOG} connections may wait to be accepted");
        return Finding::right(question, text);
    }
    let text = format!(
        "{somaxconn} connections may wait to be accepted, not {BACKLOG}: when all clients come \
         back at once, some wait for seconds"
    );
    Finding::doubtful(question, text).cure(format!("sysctl -w net.core.somaxconn={BACKLOG}"))
}

/// The least memory with which the gateway serves some thousands of clients.
const LITTLE: usize = 128 << 20;

fn memory(config: &Config) -> Option<Finding> {
    let question = "system.memory";
    let Some((mark, most)) = node::mark_now(&config.memory) else {
        let is_off = config.memory.watermark == 0;
        return is_off.then(|| {
            let text = "[memory] watermark is off: a gateway without room is ended by the system";
            Finding::doubtful(question, text).cure("[memory] watermark = 75")
        });
    };
    let text = format!(
        "{} of {} is the mark from which new logins are refused",
        show_mib(mark),
        show_mib(most)
    );
    Some(match mark >= LITTLE {
        true => Finding::right(question, text),
        false => Finding::doubtful(question, format!("{text}: that is little"))
            .cure("MemoryMax=1G   (in the systemd unit; a container: its memory limit)"),
    })
}

fn show_mib(bytes: usize) -> String {
    let mib = 1 << 20;
    show_size(bytes.checked_div(mib).unwrap_or(0).saturating_mul(mib))
}

async fn ports(config: &Config) -> Vec<Finding> {
    let listen = &config.listen;
    let addresses = [
        ("http", listen.http),
        ("https", listen.https),
        ("stomp", listen.stomp),
        ("stomps", listen.stomps),
        ("admin", Some(listen.admin)),
    ];
    let mut opened = Vec::new();
    for (key, address) in addresses {
        if let Some(address) = address {
            // It is closed again at once.
            let answer = listen::bind(address, key).await.map(drop);
            opened.push((key, address, answer));
        }
    }
    let is_taken = |answer: &Result<(), ListenError>| matches!(answer, Err(error) if error.code() == Code::PortTaken);
    let running = match opened.iter().any(|(_, _, answer)| is_taken(answer)) {
        true => running(listen.admin).await,
        false => None,
    };
    let opened = opened.into_iter();
    opened
        .map(|(key, address, answer)| port(key, address, answer, running.as_ref()))
        .collect()
}

/// A gateway that runs here.
#[derive(Debug)]
struct Running {
    /// Where it answered.
    admin: SocketAddr,
    /// All that it listens at; `None`: it does not say.
    listens_at: Option<Vec<SocketAddr>>,
}

impl Running {
    /// What its `/readyz` answers; `None`: it is no gateway's.
    fn read(admin: SocketAddr, answer: &Value) -> Option<Self> {
        let is_gateway = answer.get("status").is_some_and(Value::is_string)
            && answer.get("connections").is_some();
        let listeners = answer.get("listeners").and_then(Value::as_object);
        let listens_at = listeners.map(|listeners| {
            let texts = listeners.values().filter_map(Value::as_str);
            texts.filter_map(|text| text.parse().ok()).collect()
        });
        is_gateway.then_some(Self { admin, listens_at })
    }

    /// Whether a taken address is its own; `None`: nobody knows.
    fn has(&self, address: SocketAddr) -> Option<bool> {
        if address == self.admin {
            return Some(true);
        }
        let known = self.listens_at.as_ref()?;
        Some(known.iter().any(|own| listen::collide(*own, address)))
    }
}

/// The gateway that answers there.
async fn running(admin: SocketAddr) -> Option<Running> {
    let mut address = admin;
    if address.ip().is_unspecified() {
        let local = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(local);
    }
    let asking = async {
        let client = http_client(false, RUNNING).timeout(RUNNING).build().ok()?;
        let response = client.get(format!("http://{address}/readyz")).send().await;
        serde_json::from_slice::<Value>(&response.ok()?.bytes().await.ok()?).ok()
    };
    let (answer, _) = ask(asking).await;
    Running::read(admin, &answer.flatten()?)
}

fn port(
    key: &str,
    address: SocketAddr,
    answer: Result<(), ListenError>,
    running: Option<&Running>,
) -> Finding {
    let question = "system.port";
    let who = format!("ss -ltnp 'sport = :{}'", address.port());
    let is_taken = matches!(&answer, Err(error) if error.code() == Code::PortTaken);
    let is_own = running.map_or(Some(false), |running| running.has(address));
    match (answer, is_own) {
        (Ok(()), _) => Finding::right(question, format!("{address} ({key}) is free")),
        (Err(_), Some(true)) if is_taken => Finding::right(
            question,
            format!("{address} ({key}) is taken by the gateway that runs here"),
        ),
        (Err(_), None) if is_taken => Finding::doubtful(
            question,
            format!(
                "{address} ({key}) is taken, by the gateway that runs here or by another program: \
                 that gateway is of an older version, and does not say"
            ),
        )
        .cure(who),
        (Err(error), _) => {
            let found = Finding::wrong(question, error.to_string());
            match error.code() {
                Code::PortTaken => found.cure(who),
                Code::PortForbidden => {
                    found.cure("AmbientCapabilities=CAP_NET_BIND_SERVICE   (in the systemd unit)")
                }
                _ => found,
            }
            .cure(format!("[listen] {key} = \"ADDRESS:PORT\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Mark;

    #[test]
    fn too_few_files_are_told_with_the_limit_that_is_enough() {
        let config = Config::default();
        let few = files(&config, 1024);
        assert_eq!(few.mark, Mark::Doubtful);
        assert!(few.cure[0].starts_with("LimitNOFILE=111000"), "{few:?}");
        let keys = [
            "[listen] max_connections = 521",
            "[listen] max_unauthenticated = 131",
        ];
        assert_eq!(few.cure[1..], keys);
        assert_eq!(files(&config, 111_000).mark, Mark::Right);
        assert_eq!(files(&config, u64::MAX).mark, Mark::Right);
        let mut small = config;
        small.listen.max_connections = 300;
        let few = files(&small, 1024);
        assert_eq!(few.mark, Mark::Doubtful);
        assert_eq!(few.cure[1..], ["[listen] max_unauthenticated = 131"]);
        small.listen.max_unauthenticated = 131;
        assert_eq!(files(&small, 1024).mark, Mark::Right);
    }

    #[test]
    fn a_short_backlog_is_doubtful() {
        assert_eq!(backlog(4096).mark, Mark::Right);
        let short = backlog(128);
        assert_eq!(short.cure, ["sysctl -w net.core.somaxconn=4096"]);
    }

    #[test]
    fn a_port_of_the_gateway_itself_is_in_order() {
        let [admin, http, stomp] = ["127.0.0.1:15680", "0.0.0.0:15674", "0.0.0.0:61613"]
            .map(|text| text.parse::<SocketAddr>().unwrap());
        let taken = |address, running: Option<&Running>| {
            let error = std::io::ErrorKind::AddrInUse.into();
            port(
                "key",
                address,
                Err(ListenError::new(address, "key", error)),
                running,
            )
        };
        let ready = json!({ "status": "ready", "connections": 0 });
        let older = Running::read(admin, &ready).unwrap();
        let mut ready = ready;
        ready["listeners"] = json!({ "http": http, "admin": admin });
        let running = Running::read(admin, &ready).unwrap();
        for (address, running, mark) in [
            (admin, Some(&running), Mark::Right),
            (http, Some(&running), Mark::Right),
            // Another program's, beside a gateway.
            (stomp, Some(&running), Mark::Wrong),
            (admin, Some(&older), Mark::Right),
            (http, Some(&older), Mark::Doubtful),
            (http, None, Mark::Wrong),
        ] {
            let found = taken(address, running);
            assert_eq!(found.mark, mark, "{address} {running:?}");
            let who = format!("ss -ltnp 'sport = :{}'", address.port());
            assert_eq!(found.cure.first() == Some(&who), mark != Mark::Right);
        }
        assert!(Running::read(admin, &json!({ "status": "ok" })).is_none());
        assert_eq!(port("http", http, Ok(()), None).mark, Mark::Right);
    }
}
