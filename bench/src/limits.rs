//! The system's limits, and what to do at each.

use std::{fs, io, str::FromStr};

use procfs::{Current as _, Meminfo};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit, setrlimit},
};

/// Raises the number of files to what the system allows. Children inherit it.
pub(crate) fn raise_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it is refused, a later check tells which number is too large.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How many files a process may have.
pub(crate) fn files() -> u32 {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
}

/// An error of a socket, with the limit that it comes from.
pub(crate) fn explained(error: io::Error) -> anyhow::Error {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    let what = match code {
        Some(Errno::MFILE) => "this process has as many files as it may: raise `ulimit -Hn`",
        Some(Errno::NFILE) => "the system has as many files as it may: raise fs.file-max",
        Some(Errno::ADDRNOTAVAIL) => {
            "no local port is free: widen net.ipv4.ip_local_port_range, or wait a minute for those \
             of a run before"
        }
        Some(Errno::NOSPC) => "too many sockets are watched: raise fs.epoll.max_user_watches",
        Some(Errno::NOBUFS | Errno::NOMEM) => "the system is short of memory for sockets",
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(what)
}

/// The limits of this system for very many connections. `None` where it has none, or does not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct System {
    pub(crate) files: u32,
    pub(crate) all_files: Option<u64>,
    pub(crate) watches: Option<u64>,
    pub(crate) ports: Option<u64>,
    pub(crate) backlog: Option<u64>,
    pub(crate) available_mib: u64,
}

impl System {
    /// Those of now.
    pub(crate) fn now() -> Self {
        let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
        let ports = ports.and_then(|text| {
            let mut ends = text.split_whitespace().map(u64::from_str);
            let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
            Some(last.saturating_sub(first) + 1)
        });
        Self {
            files: files(),
            all_files: number("/proc/sys/fs/file-max"),
            watches: number("/proc/sys/fs/epoll/max_user_watches"),
            ports,
            backlog: number("/proc/sys/net/core/somaxconn"),
            available_mib: available_mib(),
        }
    }
}

/// Memory that is left, in MiB.
pub(crate) fn available_mib() -> u64 {
    let memory = Meminfo::current().ok();
    memory.and_then(|its| its.mem_available).unwrap_or(u64::MAX) >> 20
}

/// Connections that the firewall follows, and how many it may; `None` without such a firewall.
pub(crate) fn conntrack() -> Option<(u64, u64)> {
    let of = |name| number(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    of("count").zip(of("max"))
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_socket_names_the_limit() {
        for (errno, limit) in [
            (Errno::MFILE, "ulimit -Hn"),
            (Errno::ADDRNOTAVAIL, "ip_local_port_range"),
        ] {
            let error = explained(io::Error::from_raw_os_error(errno.raw_os_error()));
            assert!(format!("{error:#}").contains(limit), "{error:#}");
        }
    }

    #[test]
    fn this_system_has_limits() {
        let System {
            files,
            ports,
            available_mib,
            ..
        } = System::now();
        assert!(files > 0 && available_mib > 0, "{files} {available_mib}");
        assert!(ports > Some(1000), "{ports:?}");
    }
}
