//! Memory and processor time of a run's processes, by their roles.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, Result};
use procfs::process::Process;

use crate::{
    metrics::Metrics,
    servers::{Role, Servers},
};

/// A worker that uses more of a core has nothing left to send faster with.
const SATURATED: f64 = 0.9;

/// The roles that are a server's part.
const SERVERS: [Role; 3] = [Role::Gateway, Role::Rabbitmq, Role::Nats];

/// A figure of the processes of each role together; roles without a process are missing.
pub(crate) type ByRole = BTreeMap<Role, f64>;

fn by_role(figures: impl IntoIterator<Item = (Role, f64)>) -> ByRole {
    let mut sums = ByRole::new();
    for (role, figure) in figures {
        *sums.entry(role).or_default() += figure;
    }
    sums
}

/// The sum of all servers.
fn servers(figures: &ByRole) -> f64 {
    SERVERS.iter().filter_map(|role| figures.get(role)).sum()
}

/// As `NAME_gateway`, `NAME_rabbitmq`, and `NAME_servers` for all together; times `factor`.
fn put(name: &str, figures: &ByRole, factor: f64, metrics: &mut Metrics) {
    for (of, figure) in [
        ("gateway", figures.get(&Role::Gateway).copied()),
        ("rabbitmq", figures.get(&Role::Rabbitmq).copied()),
        ("servers", Some(servers(figures))),
    ] {
        metrics.extend(figure.map(|figure| (format!("{name}_{of}"), figure * factor)));
    }
}

/// Memory of the servers' processes, in KiB.
pub(crate) struct Memory {
    /// Shared pages count in parts.
    pss: ByRole,
    /// The most that was resident.
    peak: ByRole,
}

impl Memory {
    /// Now.
    ///
    /// # Errors
    /// A process is gone.
    pub(crate) fn of(servers: &Servers) -> Result<Self> {
        let mut memory = Self {
            pss: ByRole::new(),
            peak: ByRole::new(),
        };
        for (role, pid) in servers.processes() {
            let (pss, peak) = memory_of(pid).context("a server is gone")?;
            *memory.pss.entry(role).or_default() += pss;
            *memory.peak.entry(role).or_default() += peak;
        }
        Ok(memory)
    }

    /// The growth for each connection since `before`, and the whole.
    pub(crate) fn growth(&self, before: &Self, connections: u32, metrics: &mut Metrics) {
        let grown = self.pss.iter().filter_map(|(role, now)| {
            let before = before.pss.get(role)?;
            Some((*role, now - before))
        });
        if connections > 0 {
            let each = 1.0 / f64::from(connections);
            put("kib_per_connection", &by_role(grown), each, metrics);
        }
        metrics.insert("memory_mib_servers".into(), servers(&self.pss) / 1024.0);
    }

    /// The most there ever was.
    pub(crate) fn peaks(&self, metrics: &mut Metrics) {
        for (name, role) in [
            ("peak_mib_gateway", Role::Gateway),
            ("peak_mib_rabbitmq", Role::Rabbitmq),
        ] {
            let peak = self.peak.get(&role);
            metrics.extend(peak.map(|peak| (name.to_owned(), peak / 1024.0)));
        }
    }
}

/// Memory of a process now: with shared pages in parts, and the most that was resident. In KiB.
fn memory_of(pid: u32) -> Result<(f64, f64)> {
    let peak = Process::new(pid.cast_signed())?.status()?.vmhwm;
    Ok((pss_of(pid)?, peak.context("no peak of its memory")? as f64))
}

/// Memory of a process now, with shared pages in parts. In KiB.
///
/// # Errors
/// It is gone, or another user's.
pub(crate) fn pss_of(pid: u32) -> Result<f64> {
    let process = Process::new(pid.cast_signed())?;
    let maps = process.smaps_rollup()?.memory_map_rollup;
    let pss = maps
        .iter()
        .filter_map(|map| map.extension.map.get("Pss"))
        .sum::<u64>();
    Ok(pss as f64 / 1024.0)
}

/// Processor time of a process since its start, in seconds.
///
/// # Errors
/// It is gone.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    let stat = Process::new(pid.cast_signed())?.stat()?;
    let ticks = stat.utime + stat.stime;
    Ok(ticks as f64 / procfs::ticks_per_second() as f64)
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

    /// The processor time used since.
    ///
    /// # Errors
    /// A process is gone.
    pub(crate) fn until_now(&self) -> Result<Used> {
        let now = Self::of(self.processes)?;
        let roles = self.processes.iter().map(|&(role, _)| role);
        let used = now.of.iter().zip(&self.of).map(|(now, then)| now - then);
        Ok(Used {
            seconds: now.at.duration_since(self.at).as_secs_f64(),
            of: roles.zip(used).collect(),
        })
    }
}

/// Processor time that was used in a while, in seconds.
pub(crate) struct Used {
    pub(crate) seconds: f64,
    of: Vec<(Role, f64)>,
}

impl Used {
    /// As shares of a core.
    pub(crate) fn percent(&self, name: &str, metrics: &mut Metrics) {
        put(name, &self.by_role(), 100.0 / self.seconds, metrics);
    }

    /// The client's share of a core.
    pub(crate) fn client_percent(&self, metrics: &mut Metrics) {
        let percent = 100.0 * self.sum(Role::Client) / self.seconds;
        metrics.insert("cpu_percent_client".into(), percent);
    }

    /// For each of so many things, in thousandths of a second; left out if there were no things.
    pub(crate) fn milliseconds_each(&self, count: f64, name: &str, metrics: &mut Metrics) {
        if count > 0.0 {
            put(name, &self.by_role(), 1e3 / count, metrics);
        }
    }

    /// The hook's, for each of so many things, in thousandths of a second.
    pub(crate) fn hook_milliseconds(&self, count: f64) -> f64 {
        1e3 * self.sum(Role::Hook) / count
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
        let (client, servers) = (self.sum(Role::Client), servers(&self.by_role()));
        (as_fast_as_possible && client > servers).then(|| {
            format!("the client used {client:.1} s of processor time, the servers {servers:.1} s")
        })
    }

    /// In seconds, of all processes of each role together.
    pub(crate) fn by_role(&self) -> ByRole {
        by_role(self.of.iter().copied())
    }

    fn sum(&self, role: Role) -> f64 {
        self.by_role().get(&role).copied().unwrap_or_default()
    }
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
        let expected = [("cpu_percent_gateway", 30.0), ("cpu_percent_servers", 30.0)]
            .map(|(name, value)| (name.to_owned(), value));
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

    #[test]
    fn this_process_uses_both() {
        let (pss, peak) = memory_of(std::process::id()).unwrap();
        assert!(pss > 100.0 && peak > pss / 2.0, "{pss} {peak}");
        assert!(cpu_of(std::process::id()).is_ok());
        assert!(memory_of(u32::MAX).is_err() && cpu_of(u32::MAX).is_err());
    }
}
