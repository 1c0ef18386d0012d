//! Looks at memory of all parts while a run goes on, and says when it has to stop.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use procfs::{Current as _, CurrentSI as _, KernelStats, Meminfo};
use serde::{Deserialize, Serialize};

use crate::{limits, servers::Role, usage};

/// Memory that is left to the system. In MiB.
const LEFT: u64 = 700;

/// The firewall's table may be filled so far, in hundredths.
const FULL: u64 = 95;

/// The parts whose memory is looked at. The kernel's is the growth of its slabs: sockets, epoll.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    Gateways,
    Rabbitmq,
    Hook,
    Clients,
    Kernel,
    /// The growth of what the machine has not available any more.
    Everything,
}

impl Part {
    pub(super) const ALL: [Self; 6] = [
        Self::Gateways,
        Self::Rabbitmq,
        Self::Hook,
        Self::Clients,
        Self::Kernel,
        Self::Everything,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Gateways => "gateways",
            Self::Rabbitmq => "RabbitMQ",
            Self::Hook => "hook",
            Self::Clients => "clients",
            Self::Kernel => "kernel's slabs, both ends",
            Self::Everything => "everything",
        }
    }

    const fn of(role: Role) -> Option<Self> {
        match role {
            Role::Gateway => Some(Self::Gateways),
            Role::Rabbitmq => Some(Self::Rabbitmq),
            Role::Hook => Some(Self::Hook),
            Role::Client => Some(Self::Clients),
            Role::Nats => None,
        }
    }
}

/// Memory at one moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Sample {
    /// Since the run began. In seconds.
    pub(super) at: f64,
    pub(super) connections: u32,
    /// In MiB.
    pub(super) memory: BTreeMap<Part, f64>,
}

/// Samples of a run.
pub(super) struct Watch {
    began: Instant,
    /// Before anything was started. In KiB.
    slab: f64,
    available: f64,
    next: Instant,
    pub(super) samples: Vec<Sample>,
}

impl Watch {
    /// Begins, before anything is started.
    ///
    /// # Errors
    /// The system does not tell its memory.
    pub(super) fn begin() -> Result<Self> {
        let (slab, available) = system()?;
        let now = Instant::now();
        Ok(Self {
            began: now,
            slab,
            available,
            next: now,
            samples: Vec::new(),
        })
    }

    /// Seconds since it began.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Takes a sample if it is time. A look at many large processes takes its time, so they are the
    /// rarer the longer they take.
    ///
    /// # Errors
    /// A process is gone, or a limit of the system is nearly reached.
    pub(super) fn look(&mut self, processes: &[(Role, u32)], connections: u32) -> Result<()> {
        stop_at(limits::available_mib(), limits::conntrack())?;
        if Instant::now() >= self.next {
            self.sample(processes, connections)?;
        }
        Ok(())
    }

    /// Takes a sample now.
    ///
    /// # Errors
    /// A process is gone.
    pub(super) fn sample(
        &mut self,
        processes: &[(Role, u32)],
        connections: u32,
    ) -> Result<&Sample> {
        let begin = Instant::now();
        let mut memory = BTreeMap::new();
        for &(role, pid) in processes {
            if let Some(part) = Part::of(role) {
                let pss = usage::pss_of(pid).context("a process is gone")?;
                *memory.entry(part).or_default() += pss / 1024.0;
            }
        }
        let (slab, available) = system()?;
        memory.insert(Part::Kernel, (slab - self.slab) / 1024.0);
        memory.insert(Part::Everything, (self.available - available) / 1024.0);
        self.samples.push(Sample {
            at: self.seconds(),
            connections,
            memory,
        });
        self.next = Instant::now() + (20 * begin.elapsed()).max(Duration::from_secs(2));
        self.samples.last().context("there is a sample")
    }
}

/// Says why it cannot go on, before the system kills a process.
fn stop_at(available_mib: u64, conntrack: Option<(u64, u64)>) -> Result<()> {
    ensure!(
        available_mib >= LEFT,
        "{available_mib} MiB of memory are left; take fewer connections (-n)"
    );
    if let Some((count, most)) = conntrack {
        ensure!(
            count * 100 < most * FULL,
            "the firewall follows {count} connections and may follow {most}: raise \
             net.netfilter.nf_conntrack_max, or take lo out of it"
        );
    }
    Ok(())
}

/// The kernel's slabs, and what is available; in KiB.
fn system() -> Result<(f64, f64)> {
    let memory = Meminfo::current()?;
    let available = memory.mem_available.context("no MemAvailable")?;
    Ok((memory.slab as f64 / 1024.0, available as f64 / 1024.0))
}

/// Processor time of the whole machine since its start, in seconds.
///
/// # Errors
/// The system does not tell.
pub(super) fn machine_cpu() -> Result<f64> {
    let all = KernelStats::current()?.total;
    let parts = [
        Some(all.user),
        Some(all.nice),
        Some(all.system),
        all.irq,
        all.softirq,
    ];
    let ticks: u64 = parts.into_iter().flatten().sum();
    Ok(ticks as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_before_the_system_does() {
        assert!(stop_at(LEFT, None).is_ok());
        assert!(stop_at(LEFT - 1, None).is_err());
        assert!(stop_at(LEFT, Some((100_000, 262_144))).is_ok());
        let full = stop_at(LEFT, Some((260_000, 262_144))).unwrap_err();
        assert!(full.to_string().contains("nf_conntrack_max"), "{full}");
    }

    #[test]
    fn parts_are_summed_up() {
        let own = std::process::id();
        let mut watch = Watch::begin().unwrap();
        let processes = [(Role::Client, own), (Role::Client, own), (Role::Hook, own)];
        let memory = watch.sample(&processes, 5).unwrap().memory.clone();
        assert!(
            memory[&Part::Clients] > 1.5 * memory[&Part::Hook],
            "{memory:?}"
        );
        assert!(machine_cpu().unwrap() > 0.0);
    }
}
