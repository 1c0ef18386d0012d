//! How many gateways and clients there are, and whether the system allows them (pure).

use std::ops::Range;

use crate::limits::System;

/// Files that a gateway or a worker needs beside its clients': links to RabbitMQ, calls of the hook,
/// pollers.
const OWN_FILES: u32 = 500;

/// Source addresses have so many ports in use, twice where two workers share one.
const PORTS: u64 = 10_000;

/// What a connection takes of this machine in all, both ends and the kernel, in KiB; and a gateway
/// and its client process by themselves, in MiB. A run of 998,400 on 52 gateways took a fifth less.
const KIB_EACH: u64 = 12;
const MIB_PER_GATEWAY: u64 = 45;
const MIB_BESIDE: u64 = 500;

/// The parts of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    pub(super) connections: u32,
    /// As many client processes: each has the clients of one gateway.
    pub(super) gateways: u32,
}

impl Plan {
    /// As few gateways as the limit of files asks for: when one is lost, the others must have room
    /// for its users. There are two at least, so that one can be.
    ///
    /// # Errors
    /// The limit is too small for anything, or the wished number of gateways too small for it.
    pub(super) fn new(connections: u32, wished: Option<u32>, files: u32) -> Result<Self, String> {
        let room = files.saturating_sub(OWN_FILES);
        if room < 100 {
            return Err(format!(
                "a process may have {files} files, too few: raise `ulimit -Hn`"
            ));
        }
        let least = connections.div_ceil(room).saturating_add(1).max(2);
        let gateways = wished.unwrap_or(least);
        if gateways < least {
            return Err(format!(
                "a process may have {files} files (`ulimit -Hn`): {connections} connections need \
                 {least} gateways, so that the others have room when one is lost"
            ));
        }
        if connections < gateways {
            return Err("there are more gateways than connections".into());
        }
        let plan = Self {
            connections,
            gateways,
        };
        Ok(plan)
    }

    /// The users of a gateway.
    pub(super) const fn users(&self, gateway: u32) -> Range<u32> {
        let (each, more) = (
            self.connections / self.gateways,
            self.connections % self.gateways,
        );
        let extra = if gateway < more { gateway } else { more };
        let first = gateway * each + extra;
        let count = each + (gateway < more) as u32;
        first..first + count
    }

    /// Memory that all of it takes, about. In MiB.
    pub(super) fn memory_mib(&self) -> u64 {
        u64::from(self.connections) * KIB_EACH / 1024
            + u64::from(self.gateways) * MIB_PER_GATEWAY
            + MIB_BESIDE
    }

    /// What of the system is too little for it; with the way to change it.
    pub(super) fn obstacles(&self, system: &System) -> Vec<String> {
        let (connections, all) = (self.connections, 2 * u64::from(self.connections));
        let mut found = Vec::new();
        let mut check = |has: Option<u64>, needed: u64, name: &str| {
            if let Some(has) = has.filter(|&has| has < needed) {
                found.push(format!(
                    "{name} is {has}, and {connections} connections with both ends here need \
                     {needed}: sysctl -w {name}={needed}"
                ));
            }
        };
        check(system.all_files, all + 10_000, "fs.file-max");
        check(system.watches, all + 10_000, "fs.epoll.max_user_watches");
        check(system.backlog, 1024, "net.core.somaxconn");
        if let Some(ports) = system.ports.filter(|&ports| ports < PORTS) {
            found.push(format!(
                "net.ipv4.ip_local_port_range has {ports} ports, and an address needs {PORTS}: \
                 sysctl -w net.ipv4.ip_local_port_range='32768 60999'"
            ));
        }
        let (memory, available) = (self.memory_mib(), system.available_mib);
        if available < memory {
            found.push(format!(
                "{connections} connections take some {memory} MiB of memory, both ends and the \
                 kernel's part together, and {available} MiB are left: take fewer (-n)"
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roomy() -> System {
        System {
            files: 20_000,
            all_files: Some(10_000_000),
            watches: Some(10_000_000),
            ports: Some(28_232),
            backlog: Some(4096),
            available_mib: 100_000,
        }
    }

    #[test]
    fn when_one_gateway_is_lost_the_others_have_room() {
        for connections in [2, 5_000, 40_000, 1_000_000] {
            let plan = Plan::new(connections, None, 20_000).unwrap();
            let most = connections.div_ceil(plan.gateways - 1);
            assert!(most + OWN_FILES <= 20_000, "{plan:?}");
        }
        let plan = Plan::new(1_000_000, None, 20_000).unwrap();
        assert_eq!(plan.gateways, 53);
        assert!(Plan::new(1_000_000, Some(52), 20_000).is_err());
        assert!(Plan::new(1_000, None, 256).is_err());
    }

    #[test]
    fn each_user_has_one_gateway() {
        let plan = Plan::new(100_003, Some(7), 20_000).unwrap();
        let mut next = 0;
        for gateway in 0..7 {
            let users = plan.users(gateway);
            assert_eq!(users.start, next);
            assert!((14_286..=14_287).contains(&users.len()), "{users:?}");
            next = users.end;
        }
        assert_eq!(next, 100_003);
    }

    #[test]
    fn what_is_too_little_is_named_with_the_way_to_change_it() {
        let plan = Plan::new(1_000_000, None, 20_000).unwrap();
        assert_eq!(plan.obstacles(&roomy()), Vec::<String>::new());
        for (system, named) in [
            (
                System {
                    all_files: Some(1_000_000),
                    ..roomy()
                },
                "sysctl -w fs.file-max=2010000",
            ),
            (
                System {
                    ports: Some(5_000),
                    ..roomy()
                },
                "ip_local_port_range",
            ),
            (
                System {
                    available_mib: 8_000,
                    ..roomy()
                },
                "8000 MiB are left",
            ),
        ] {
            let found = plan.obstacles(&system);
            let [only] = found.as_slice() else {
                panic!("{found:?}");
            };
            assert!(only.contains(named), "{only}");
        }
    }
}
