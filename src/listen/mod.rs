//! Sockets to links: one accept loop for all listeners, the PROXY protocol and TLS, and the
//! transports.

mod addresses;
mod config;
mod entrance;
mod files;
pub mod origin;
mod outgoing;
#[doc(hidden)]
pub mod proxy_protocol;
pub mod sockjs;
mod tcp;
pub mod tls;
mod websocket;

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use stomp_session::Problem;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};

pub use addresses::Proxies;
pub use config::Config;
pub(crate) use config::collide;
pub use entrance::{Entered, Entrance, KeepAlive, Plain, Secure, SocketLayer};
pub use files::{Files, Wanted};
pub use tcp::TcpLink;
pub use tls::{Tls, TlsError};
pub use websocket::WebSocketLink;

use crate::{
    auth::Carried,
    codes::Code,
    connection::{self, Link, Outbound, Peer},
    node::Services,
    telemetry::{self, Seldom},
};

/// How long it may take to tell a client that there is no room for it.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many are told at a time; more are closed without a word.
const MAX_FAREWELLS: usize = 100;

/// Connections that the system makes before they are accepted here; beyond, clients of a wave wait
/// a second or more for their next try. The system may allow less (`net.core.somaxconn`).
pub const BACKLOG: u32 = 4096;

/// An address that cannot be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({what}): {error}{}", self.advice())]
pub struct ListenError {
    address: SocketAddr,
    /// The listener.
    what: String,
    error: io::Error,
}

impl ListenError {
    pub(crate) fn new(address: SocketAddr, what: &str, error: io::Error) -> Self {
        Self {
            address,
            what: what.to_owned(),
            error,
        }
    }

    /// The system's kind of error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }

    /// The name of the fault.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.kind() {
            io::ErrorKind::AddrInUse => Code::PortTaken,
            io::ErrorKind::AddrNotAvailable => Code::AddressUnknown,
            io::ErrorKind::PermissionDenied => Code::PortForbidden,
            _ => Code::ListenFailed,
        }
    }

    /// What to do about it.
    fn advice(&self) -> String {
        let port = self.address.port();
        match self.code() {
            Code::PortTaken => format!(
                ". Another program listens there: end it (`ss -ltnp 'sport = :{port}'` names it), \
                 or choose another port"
            ),
            Code::AddressUnknown => {
                ". It is no address of this machine: write one that `ip address` shows, or 0.0.0.0 \
                 for all"
                    .to_owned()
            }
            Code::PortForbidden => {
                ". Ports below 1024 take a privilege (CAP_NET_BIND_SERVICE): choose another port"
                    .to_owned()
            }
            _ if self.error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                ". Raise the limit of open files (`ulimit -Hn`, systemd's LimitNOFILE)".to_owned()
            }
            _ if self.address.is_ipv6() => {
                ". Is there IPv6 on this machine, and is the address not one of a single \
                 interface (fe80:…)? Write another one, or an IPv4 address"
                    .to_owned()
            }
            _ => ". Write another address".to_owned(),
        }
    }
}

/// Opens an address.
///
/// # Errors
/// It cannot be opened; the text names it.
pub async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, ListenError> {
    let opened = listen(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (opened, listener) = opened.map_err(|error| ListenError::new(address, what, error))?;
    telemetry::listening(opened, what);
    Ok(listener)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // As `TcpListener::bind` does, which would allow 128 only.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `stop` is done, and hands each stream to `serve`.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    what: &'static str,
    stop: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let mut stop = std::pin::pin!(stop);
    let mut failures = Seldom::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                // Frames are small, and wait for no others. If it fails, the socket is gone.
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, remote));
                // A connection that gave way for this one closes before the next is accepted:
                // a wave would hold the files of a hundred of them otherwise.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if let Some(unsaid) = failures.let_through(Instant::now()) {
                    telemetry::accept_failed(what, &error, unsaid);
                }
                // Out of files, most likely: that takes a moment to get better.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves STOMP over streams of bytes until `stop` is done.
pub async fn serve_stomp<T: SocketLayer>(
    listener: TcpListener,
    entrance: Entrance<T>,
    services: Arc<Services>,
    stop: impl Future<Output = ()>,
) {
    let what = entrance.what;
    let entrance = Arc::new(entrance);
    let farewells = Arc::new(Semaphore::new(MAX_FAREWELLS));
    accept(listener, what, stop, |stream, remote| {
        let entrance = Arc::clone(&entrance);
        let (services, farewells) = (Arc::clone(&services), Arc::clone(&farewells));
        let taken = entrance.place(services.registry.places(), &stream, remote);
        async move {
            let Some((place, gives_way)) = taken else {
                return;
            };
            let admitting = gives_way.run_until_cancelled(entrance.enter(stream, remote, &place));
            let Some(Some(entered)) = admitting.await else {
                return;
            };
            let guard = match services.enter_from(entered.address) {
                Ok(guard) => guard,
                Err(problem) => {
                    if problem == Problem::TooManyConnections {
                        services.registry.log_turned_away(what);
                    }
                    if let Ok(_turn) = farewells.try_acquire() {
                        turn_away(entered.stream, &problem).await;
                    }
                    return;
                }
            };
            guard.hold(place);
            let link = TcpLink::new(entered.stream);
            let peer = Peer {
                address: entered.address,
                transport: "tcp",
                carried: Carried::with_certificate(None, entered.certificate),
            };
            // A task of its own, which keeps nothing of how the client came in.
            tokio::spawn(connection::serve(services, link, peer, guard));
        }
    })
    .await;
}

/// Tells a client why there is no room for it, and hangs up.
async fn turn_away<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    problem: &Problem,
) {
    let mut link = TcpLink::new(stream);
    link.send(Outbound::whole(&problem.frame()));
    let told = async {
        if poll_fn(|context| link.poll_flush(context)).await.is_ok() {
            // Waits for the client to close: what it has sent, and is not read, would make the
            // system take back what was written.
            poll_fn(|context| link.poll_close(context, problem.close_code())).await;
        }
    };
    // A client that neither reads nor closes is cut.
    let _ = timeout(FAREWELL, told).await;
}

#[cfg(test)]
mod tests;
