//! An epmd that stands between the nodes of a cluster, and can part them without a word.
//!
//! Erlang asks epmd for a node's port and connects there. This one answers with a port of its own,
//! and forwards. A node that is cut off hears nothing any more from the others, nor they from it:
//! bytes are held back, no connection is closed, and new ones are accepted and left silent. So it is
//! with a network that drops packets. Clients of the node still reach it.
//!
//! The connecting node is known by its process: the owner of the socket's other end, as Linux says.
//! Everything runs on threads of its own, for a cluster outlives the runtime of a test.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// What finds the nodes of one cluster. Its threads end with the process.
#[derive(Clone, Debug)]
pub(super) struct Crossing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By the part of the name before `@`.
    nodes: BTreeMap<String, Node>,
    /// The node that is cut off.
    cut: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Where it listens; `None`: it is not there.
    port: Option<u16>,
    /// What others are told.
    crossing: u16,
    process: Option<u32>,
    /// Type, protocol and versions, as it said.
    about: [u8; 6],
}

/// The requests of the protocol of epmd.
const REGISTER: u8 = 120;
const FIND: u8 = 122;
const LIST: u8 = 110;

impl Crossing {
    /// Listens at this port of 127.0.0.1.
    pub(super) fn start(port: u16) -> io::Result<Self> {
        let crossing = Self(Arc::default());
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let this = crossing.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let this = this.clone();
                // A request that makes no sense has no answer.
                thread::spawn(move || this.answer(stream, port));
            }
        });
        Ok(crossing)
    }

    /// Parts this node (`name@host`) from all others, until [`Crossing::heal`].
    pub(super) fn cut(&self, node: &str) {
        self.lock().cut = Some(short(node).to_owned());
    }

    /// Ends it: what was held back goes on.
    pub(super) fn heal(&self) {
        self.lock().cut = None;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: TcpStream, own_port: u16) -> io::Result<()> {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut request)?;
        let Some((kind, rest)) = request.split_first() else {
            return Ok(());
        };
        match *kind {
            REGISTER => {
                let Some((name, node)) = registration(rest) else {
                    return Ok(());
                };
                let process = owner(stream.peer_addr()?, stream.local_addr()?);
                let crossing = self.crossing_to(&name)?;
                let node = Node {
                    process,
                    crossing,
                    ..node
                };
                self.lock().nodes.insert(name.clone(), node);
                // The number tells two lives of a node apart.
                let creation: u32 = rand::random_range(4..u32::MAX);
                stream.write_all(&[&[118, 0][..], &creation.to_be_bytes()].concat())?;
                // The node is there for as long as this connection is.
                let _ = io::copy(&mut stream, &mut io::sink());
                if let Some(node) = self.lock().nodes.get_mut(&name)
                    && node.process == process
                {
                    node.port = None;
                }
                Ok(())
            }
            FIND => {
                let name = String::from_utf8_lossy(rest).into_owned();
                let node = self.lock().nodes.get(&name).cloned();
                let Some(node) = node.filter(|node| node.port.is_some()) else {
                    return stream.write_all(&[119, 1]);
                };
                let length = u16::try_from(name.len()).unwrap_or_default();
                let answer = [
                    &[119, 0][..],
                    &node.crossing.to_be_bytes(),
                    &node.about,
                    &length.to_be_bytes(),
                    name.as_bytes(),
                    &[0, 0],
                ];
                stream.write_all(&answer.concat())
            }
            LIST => {
                let mut answer = u32::from(own_port).to_be_bytes().to_vec();
                for (name, node) in &self.lock().nodes {
                    if node.port.is_some() {
                        let line = format!("name {name} at port {}\n", node.crossing);
                        answer.extend(line.as_bytes());
                    }
                }
                stream.write_all(&answer)
            }
            _ => Ok(()),
        }
    }

    /// The port that stands before this node; the same in each of its lives.
    fn crossing_to(&self, name: &str) -> io::Result<u16> {
        if let Some(node) = self.lock().nodes.get(name) {
            return Ok(node.crossing);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (this, name) = (self.clone(), name.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (this, name) = (this.clone(), name.clone());
                thread::spawn(move || this.forward(stream, &name));
            }
        });
        Ok(port)
    }

    /// Joins a connection to the node, unless that is cut off from the one that connects.
    fn forward(&self, client: TcpStream, to: &str) -> io::Result<()> {
        let process = owner(client.peer_addr()?, client.local_addr()?);
        let from = {
            let state = self.lock();
            let mut nodes = state.nodes.iter();
            let found = nodes.find(|(_, node)| process.is_some() && node.process == process);
            found.map(|(name, _)| name.clone())
        };
        // A command of an operator is no node of the cluster.
        let ends = from.map(|from| [from, to.to_owned()]);
        if self.wait(ends.as_ref()) {
            // A network that is whole again does not know of it.
            return Ok(());
        }
        let port = self.lock().nodes.get(to).and_then(|node| node.port);
        let server = TcpStream::connect(("127.0.0.1", port.unwrap_or_default()))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let back = (server.try_clone()?, client.try_clone()?);
        let (this, same_ends) = (self.clone(), ends.clone());
        thread::spawn(move || this.pump(back.0, back.1, same_ends.as_ref()));
        self.pump(client, server, ends.as_ref());
        Ok(())
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, ends: Option<&[String; 2]>) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or_default();
            self.wait(ends);
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // Each direction may end on its own, and either may be gone.
        let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
    }

    /// Waits while one of these is cut off from the other; whether it was.
    fn wait(&self, ends: Option<&[String; 2]>) -> bool {
        let Some(ends) = ends else {
            return false;
        };
        let is_cut = |state: &mut State| state.cut.as_ref().is_some_and(|cut| ends.contains(cut));
        let mut state = self.lock();
        let was_cut = is_cut(&mut state);
        let waited = self.0.changed.wait_while(state, is_cut);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        was_cut
    }
}

/// A node's name, and what it says of itself when it begins.
fn registration(request: &[u8]) -> Option<(String, Node)> {
    let (port, rest) = request.split_first_chunk::<2>()?;
    let (about, rest) = rest.split_first_chunk::<6>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let name = rest.get(..u16::from_be_bytes(*length).into())?;
    let node = Node {
        port: Some(u16::from_be_bytes(*port)),
        about: *about,
        ..Node::default()
    };
    Some((String::from_utf8_lossy(name).into_owned(), node))
}

/// The part before `@`.
fn short(node: &str) -> &str {
    node.split('@').next().unwrap_or(node)
}

/// How often the table of sockets is read for one that must be there: a reading skips lines while
/// the table changes.
const TABLE_READS: usize = 50;

/// The process on this machine that has a socket with these addresses. One alone may be another
/// connection's, too, that has just ended.
fn owner(own: SocketAddr, other: SocketAddr) -> Option<u32> {
    let ends = [shown(own)?, shown(other)?];
    let socket = (0..TABLE_READS).find_map(|_| socket(&ends))?;
    let link = format!("socket:[{socket}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.find(|id: &u32| has_file(&Path::new("/proc").join(id.to_string()), &link))
}

/// The number of the socket with these addresses, as the system's table has it.
fn socket([own, other]: &[String; 2]) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let is_it = columns.nth(1) == Some(own) && columns.next() == Some(other);
        is_it.then(|| columns.nth(6).map(str::to_owned))?
    })
}

/// An address, as the system's table has it.
fn shown(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    // The address is in the machine's order of bytes, the port is not.
    let ip = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

fn has_file(process: &Path, link: &str) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        let target = fs::read_link(file.path());
        target.is_ok_and(|target| target.as_os_str() == link)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (own, other) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(owner(own, other), Some(std::process::id()));
        assert_eq!(owner("127.0.0.1:1".parse().unwrap(), other), None);
    }
}
