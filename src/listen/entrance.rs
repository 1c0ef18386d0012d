//! From a socket that was accepted to a client's stream: the PROXY header, then TLS.

use std::{future::Future, io, net::SocketAddr, os::fd::AsRawFd, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    addresses::Proxies,
    files::Files,
    proxy_protocol,
    tls::{Protocol, Tls, TlsStream},
};
use crate::{
    auth::{CertificateLogin, certificate::user_name},
    node::{ClientAddress, Place, Places, Registry},
    telemetry::{self, Handshake, RefusedAt},
};

/// How a socket becomes a stream. Plain ones and TLS are types of their own, so that clients
/// without TLS do not keep room for it.
pub trait SocketLayer: Send + Sync + 'static {
    /// The stream that STOMP or HTTP is spoken on.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens it.
    fn open(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The user that the client's certificate names, if certificates are logins.
    fn certificate(&self, stream: &Self::Stream, remote: SocketAddr) -> Option<Box<str>>;
}

/// Sockets as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl SocketLayer for Plain {
    type Stream = TcpStream;

    async fn open(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }

    fn certificate(&self, _: &TcpStream, _: SocketAddr) -> Option<Box<str>> {
        None
    }
}

/// TLS.
#[derive(Clone, Debug)]
pub struct Secure {
    /// The gateway's certificate.
    pub tls: Arc<Tls>,
    /// The protocol that is spoken within.
    pub protocol: Protocol,
    /// Whether certificates are logins.
    pub login: CertificateLogin,
}

impl SocketLayer for Secure {
    type Stream = TlsStream<TcpStream>;

    async fn open(&self, stream: TcpStream) -> io::Result<Self::Stream> {
        self.tls.accept(stream, self.protocol).await
    }

    fn certificate(&self, stream: &Self::Stream, remote: SocketAddr) -> Option<Box<str>> {
        let certificate = stream.peer_certificates()?.first()?;
        user_name(certificate, self.login).unwrap_or_else(|error| {
            telemetry::certificate_without_name(remote, &error);
            None
        })
    }
}

/// The way in of one listener.
#[derive(Clone, Debug)]
pub struct Entrance<T> {
    /// The listener's name in errors and log lines.
    pub what: &'static str,
    /// How sockets become streams.
    pub layer: T,
    /// Whether each connection begins with a PROXY header; with a list of trusted proxies, each of
    /// theirs.
    pub proxy_protocol: bool,
    /// The proxies that are trusted.
    pub proxies: Arc<Proxies>,
    /// The files that clients may use.
    pub files: Arc<Files>,
    /// How long all of it may take; and, for HTTP, a request's head.
    pub timeout: Duration,
    /// How a peer is found that is gone without a word.
    pub keep_alive: KeepAlive,
    /// It knows the addresses that are banned.
    pub registry: Arc<Registry>,
}

/// The means by which the system finds a peer that is gone: they cost this program nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// After how much silence the peer's system is asked, in whole seconds; zero: never.
    pub idle: Duration,
    /// For how long what was sent, such a question too, may stay unacknowledged before the
    /// connection breaks; zero: as long as the system likes, which is a quarter of an hour.
    pub user_timeout: Duration,
}

impl KeepAlive {
    /// Questions without an answer, where [`KeepAlive::user_timeout`] says nothing.
    const RETRIES: u32 = 10;

    /// Tells the system. If it fails, the socket is gone.
    fn apply(self, stream: &TcpStream) {
        let socket = SockRef::from(stream);
        if !self.idle.is_zero() {
            // Often enough that the end is not noticed much later than it is due.
            let second = Duration::from_secs(1);
            let interval = self.idle.checked_div(5).unwrap_or(second).max(second);
            let keep_alive = TcpKeepalive::new()
                .with_time(self.idle)
                .with_interval(interval)
                .with_retries(Self::RETRIES);
            let _ = socket.set_tcp_keepalive(&keep_alive);
        }
        #[cfg(target_os = "linux")]
        if !self.user_timeout.is_zero() {
            let _ = socket.set_tcp_user_timeout(Some(self.user_timeout));
        }
    }
}

/// A client that came in.
pub struct Entered<S> {
    /// Its stream.
    pub stream: S,
    /// Its address; behind a proxy with a PROXY header, the one in there.
    pub address: ClientAddress,
    /// The user that its certificate names, if certificates are logins.
    pub certificate: Option<Box<str>>,
}

impl<T: SocketLayer> Entrance<T> {
    /// A place for a socket that was accepted, and the token that says when it has to give way.
    /// `None`: there is none, or no file.
    pub(crate) fn place(
        &self,
        places: &Arc<Places>,
        stream: &TcpStream,
        remote: SocketAddr,
    ) -> Option<(Place, CancellationToken)> {
        let address = self.proxies.peer(remote);
        let file = stream.as_raw_fd();
        if !self.files.has_room(file) {
            self.files.log_used_up(self.what);
            // The file of another one is free in a moment, and until then there are some to spare.
            if !places.make_room(&address) || !self.files.has_spare(file) {
                telemetry::refused(RefusedAt::Connection, "open-files");
                return None;
            }
        }
        places.take(&address, self.what)
    }

    /// Lets a client in. Its place counts for its own address, as soon as a PROXY header names it.
    /// `None`: it did not come as it has to, or not in time.
    pub async fn enter(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        place: &Place,
    ) -> Option<Entered<T::Stream>> {
        self.keep_alive.apply(&stream);
        let mut address = self.proxies.peer(remote);
        let opening = self.open(stream, &mut address, place);
        let stream = match timeout(self.timeout, opening).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(Fault { lacks, error })) => {
                telemetry::handshake_failed(self.what, address.remote, lacks, &error);
                return None;
            }
            Err(_) => {
                let (lacks, cause) = (Some(Handshake::TooSlow), &"it took too long");
                telemetry::handshake_failed(self.what, address.remote, lacks, cause);
                return None;
            }
        };
        let certificate = self.layer.certificate(&stream, address.remote);
        Some(Entered {
            stream,
            address,
            certificate,
        })
    }

    async fn open(
        &self,
        mut stream: TcpStream,
        address: &mut ClientAddress,
        place: &Place,
    ) -> Result<T::Stream, Fault> {
        if self.proxy_protocol {
            let no_header = |error| Fault::new(Handshake::ProxyHeader, error);
            if self.proxies.speaks_for_others(address.remote) {
                let header = proxy_protocol::read(&mut stream).await;
                if let Some(client) = header.map_err(no_header)? {
                    *address = self.proxies.peer(client);
                    place.set_address(address);
                }
            } else if proxy_protocol::is_next(&stream).await.map_err(no_header)? {
                telemetry::refused(RefusedAt::Connection, "proxy-header");
                self.proxies.log_stranger(self.what, address.remote);
                return Err(Fault::told());
            }
        }
        if self
            .registry
            .refuse_banned_address(address.ip(), RefusedAt::Connection)
        {
            return Err(Fault::told());
        }
        let opened = self.layer.open(stream).await;
        opened.map_err(|error| Fault::new(Handshake::Tls, error))
    }
}

/// Why a socket did not become a stream.
struct Fault {
    /// What it lacked. `None`: nothing is to be told of that.
    lacks: Option<Handshake>,
    error: io::Error,
}

impl Fault {
    /// A client that goes by itself was refused nothing: a balancer's check, say, that only connects.
    fn new(lacks: Handshake, error: io::Error) -> Self {
        let has_left = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        );
        Self {
            lacks: (!has_left).then_some(lacks),
            error,
        }
    }

    /// It was refused, and that was counted and said where it was found out.
    fn told() -> Self {
        Self {
            lacks: None,
            error: io::ErrorKind::PermissionDenied.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_system_is_told_to_look_for_peers_that_are_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let keep_alive = KeepAlive {
            idle: Duration::from_secs(25),
            user_timeout: Duration::from_secs(75),
        };
        keep_alive.apply(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), keep_alive.idle);
        let interval = Duration::from_secs(5);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(keep_alive.user_timeout)
        );

        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (stream, _)) = (client.unwrap(), accepted.unwrap());
        KeepAlive::default().apply(&stream);
        assert!(!SockRef::from(&stream).keepalive().unwrap());
    }
}
