//! The sockets of a process, as Linux has them.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

/// In the table of sockets: both ends are there.
const ESTABLISHED: &str = "01";

/// The connections of a process to an address of IPv4, each by its own address: no two have the
/// same. A reading may lack some, for the table skips lines while it changes.
pub(crate) fn connections(process: u32, to: SocketAddr) -> BTreeSet<SocketAddr> {
    let files = fs::read_dir(format!("/proc/{process}/fd"));
    let files = files.into_iter().flatten().flatten();
    let sockets: BTreeSet<_> = files
        .filter_map(|file| {
            fs::read_link(file.path())
                .ok()?
                .into_os_string()
                .into_string()
                .ok()
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let connections = table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (own, other, state) = (columns.next()?, columns.next()?, columns.next()?);
        let socket = format!("socket:[{}]", columns.nth(5)?);
        let is_it = state == ESTABLISHED && read(other)? == to && sockets.contains(&socket);
        is_it.then(|| read(own))?
    });
    connections.collect()
}

/// An address of the table.
fn read(shown: &str) -> Option<SocketAddr> {
    let (ip, port) = shown.split_once(':')?;
    // The address is in the machine's order of bytes, the port is not.
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddrV4::new(ip, port).into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_s_connections_are_found_while_they_are_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let found = || connections(std::process::id(), to);
        assert_eq!(found(), BTreeSet::new());
        let client = TcpStream::connect(to).unwrap();
        let own = client.local_addr().unwrap();
        assert!((0..50).any(|_| found() == BTreeSet::from([own])));
        drop(client);
        assert_eq!(found(), BTreeSet::new());
    }
}
