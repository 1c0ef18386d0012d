//! What the processes of a run use: memory and processor time, by their roles.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{
    metrics::Metrics,
    procfs::{Usage, cpu_of},
    servers::{Role, Servers},
};

/// A worker that uses more of a core has nothing left to send faster with.
const SATURATED: f64 = 0.9;

/// Memory of the servers' processes.
pub(crate) struct Memory(Vec<(Role, Usage)>);

impl Memory {
    /// Now.
    ///
    /// # Errors
    /// A process is gone.
    pub(crate) fn of(servers: &Servers) -> Result<Self> {
        let processes = servers.processes().into_iter();
        let usage = processes.map(|(role, pid)| Ok((role, Usage::of(pid)?)));
        let usage: Result<_> = usage.collect();
        Ok(Self(usage.context("a server is gone")?))
    }

    /// What each connection has added since `before`, and how much it is altogether.
    pub(crate) fn growth(&self, before: &Self, connections: u32, metrics: &mut Metrics) {
        let pss = |usage: &Usage| usage.pss;
        let now = ServerSums::of(|role| self.sum(role, pss));
        let then = ServerSums::of(|role| before.sum(role, pss));
        if connections > 0 {
            let each = now.less(&then).times(1.0 / f64::from(connections));
            each.put("kib_per_connection", metrics);
        }
        metrics.insert("memory_mib_servers".into(), now.all() / 1024.0);
    }

    /// The most there ever was.
    pub(crate) fn peaks(&self, metrics: &mut Metrics) {
        let peaks = ServerSums::of(|role| self.sum(role, |usage| usage.peak));
        let [gateway, rabbitmq] = [peaks.gateway, peaks.rabbitmq];
        for (name, peak) in [
            ("peak_mib_gateway", gateway),
            ("peak_mib_rabbitmq", rabbitmq),
        ] {
            if let Some(peak) = peak {
                metrics.insert(name.into(), peak / 1024.0);
            }
        }
    }

    fn sum(&self, role: Role, of: impl Fn(&Usage) -> f64) -> Option<f64> {
        sum(self
            .0
            .iter()
            .filter(|&&(its, _)| its == role)
            .map(|(_, usage)| of(usage)))
    }
}

/// Processor time of all processes, from their starts.
pub(crate) struct Cpu<'a> {
    processes: &'a [(Role, u32)],
    at: Instant,
    of: Vec<f64>,
}

impl<'a> Cpu<'a> {
    /// Begins to count.
    ///
    /// # Errors
    /// A process is gone.
    pub(crate) fn of(processes: &'a [(Role, u32)]) -> Result<Self> {
        let of: Result<_> = processes.iter().map(|&(_, pid)| cpu_of(pid)).collect();
        Ok(Self {
            processes,
            at: Instant::now(),
            of: of.context("a process is gone")?,
        })
    }

    /// What was used since.
    ///
    /// # Errors
    /// A process is gone.
    pub(crate) fn until_now(&self) -> Result<Used> {
        let now = Self::of(self.processes)?;
        let each = self.processes.iter().zip(self.of.iter().zip(now.of));
        Ok(Used {
            seconds: now.at.duration_since(self.at).as_secs_f64(),
            of: each
                .map(|(&(role, _), (before, after))| (role, after - before))
                .collect(),
        })
    }
}

/// Processor time that was used in a while, in seconds.
pub(crate) struct Used {
    seconds: f64,
    of: Vec<(Role, f64)>,
}

impl Used {
    /// As shares of a core.
    pub(crate) fn percent(&self, name: &str, metrics: &mut Metrics) {
        self.servers()
            .times(100.0 / self.seconds)
            .put(name, metrics);
    }

    /// The client's share of a core.
    pub(crate) fn client_percent(&self, metrics: &mut Metrics) {
        let client = self.sum(Role::Client).unwrap_or_default();
        metrics.insert("cpu_percent_client".into(), 100.0 * client / self.seconds);
    }

    /// For each of so many things, in thousandths of a second; nothing if there were none.
    pub(crate) fn milliseconds_each(&self, count: f64, name: &str, metrics: &mut Metrics) {
        if count > 0.0 {
            self.servers().times(1e3 / count).put(name, metrics);
        }
    }

    /// The hook's, for each of so many things, in thousandths of a second.
    pub(crate) fn hook_milliseconds(&self, count: f64) -> f64 {
        1e3 * self.sum(Role::Hook).unwrap_or_default() / count
    }

    /// Why what was measured says more of the client than of the servers, if it does. Where the
    /// client sets the pace, it may well have more to do than they.
    pub(crate) fn client_limit(&self, as_fast_as_possible: bool) -> Option<String> {
        let own = self.of.iter().filter(|&&(role, _)| role == Role::Client);
        let busiest = own.map(|&(_, cpu)| cpu / self.seconds).fold(0.0, f64::max);
        if busiest > SATURATED {
            let percent = 100.0 * busiest;
            return Some(format!("a worker used {percent:.0} % of its core"));
        }
        let client = self.sum(Role::Client).unwrap_or_default();
        let servers = self.servers().all();
        (as_fast_as_possible && client > servers).then(|| {
            format!("the client used {client:.1} s of processor time, the servers {servers:.1} s")
        })
    }

    fn servers(&self) -> ServerSums {
        ServerSums::of(|role| self.sum(role))
    }

    fn sum(&self, role: Role) -> Option<f64> {
        sum(self
            .of
            .iter()
            .filter(|&&(its, _)| its == role)
            .map(|&(_, cpu)| cpu))
    }
}

/// Something of the gateways, of RabbitMQ and of NATS; `None` of what is not there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ServerSums {
    gateway: Option<f64>,
    rabbitmq: Option<f64>,
    nats: Option<f64>,
}

impl ServerSums {
    fn of(sum: impl Fn(Role) -> Option<f64>) -> Self {
        Self {
            gateway: sum(Role::Gateway),
            rabbitmq: sum(Role::Rabbitmq),
            nats: sum(Role::Nats),
        }
    }

    fn all(&self) -> f64 {
        let all = [self.gateway, self.rabbitmq, self.nats];
        all.into_iter().flatten().sum()
    }

    fn times(self, factor: f64) -> Self {
        Self::of(|role| self.sum(role).map(|value| value * factor))
    }

    fn less(self, other: &Self) -> Self {
        Self::of(|role| {
            self.sum(role)
                .zip(other.sum(role))
                .map(|(one, two)| one - two)
        })
    }

    const fn sum(&self, role: Role) -> Option<f64> {
        match role {
            Role::Gateway => self.gateway,
            Role::Rabbitmq => self.rabbitmq,
            Role::Nats => self.nats,
            Role::Hook | Role::Client => None,
        }
    }

    /// As `NAME_gateway`, `NAME_rabbitmq`, and `NAME_servers` for all together.
    fn put(&self, name: &str, metrics: &mut Metrics) {
        let all = Some(self.all());
        for (of, value) in [
            ("gateway", self.gateway),
            ("rabbitmq", self.rabbitmq),
            ("servers", all),
        ] {
            if let Some(value) = value {
                metrics.insert(format!("{name}_{of}"), value);
            }
        }
    }
}

/// `None` of nothing.
fn sum(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(of: &[(Role, f64)]) -> Used {
        Used {
            seconds: 10.0,
            of: of.to_vec(),
        }
    }

    #[test]
    fn processes_of_a_role_are_summed_up() {
        let used = used(&[
            (Role::Gateway, 2.0),
            (Role::Gateway, 1.0),
            (Role::Hook, 9.0),
        ]);
        let mut metrics = Metrics::new();
        used.percent("cpu_percent", &mut metrics);
        let expected = [("cpu_percent_gateway", 30.0), ("cpu_percent_servers", 30.0)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(metrics, expected.into());
    }

    #[test]
    fn a_client_that_does_more_than_the_servers_is_the_limit() {
        let lazy = used(&[(Role::Gateway, 6.0), (Role::Client, 5.0)]);
        assert_eq!(lazy.client_limit(true), None);
        let busy = used(&[(Role::Gateway, 5.0), (Role::Client, 6.0)]);
        assert!(busy.client_limit(true).is_some());
        assert_eq!(busy.client_limit(false), None);
        let saturated = used(&[(Role::Gateway, 15.0), (Role::Client, 9.5)]);
        assert!(saturated.client_limit(false).is_some());
        let two = used(&[
            (Role::Gateway, 15.0),
            (Role::Client, 7.0),
            (Role::Client, 7.0),
        ]);
        assert_eq!(two.client_limit(true), None);
    }
}
