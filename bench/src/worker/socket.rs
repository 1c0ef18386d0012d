//! A client's socket, plain or with TLS.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use mio::net::TcpStream;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// How sockets speak TLS; all of a worker share it.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts this authority, a PEM file. Nothing is resumed: each handshake is a whole one.
    ///
    /// # Errors
    /// The file is not there, or holds no certificate.
    pub(super) fn trusting(authority: &Path) -> Result<Self> {
        let shown = authority.display();
        let certificate =
            CertificateDer::from_pem_file(authority).with_context(|| format!("reading {shown}"))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// A socket. With TLS it is far larger, so that is in a box.
pub(super) enum Socket {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// A socket to a server, which speaks TLS where it is told how.
    ///
    /// # Errors
    /// Never: the configuration fits.
    pub(super) fn new(stream: TcpStream, server: SocketAddr, tls: Option<&Tls>) -> Result<Self> {
        let Some(Tls(config)) = tls else {
            return Ok(Self::Plain(stream));
        };
        let name = ServerName::from(server.ip());
        let session = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Self::Secure(Box::new(StreamOwned::new(session, stream))))
    }

    /// The socket that the poll watches.
    pub(super) const fn stream(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(secure) => &mut secure.sock,
        }
    }

    /// True if a read of less than the buffer holds has taken all that is there.
    pub(super) const fn short_read_is_all(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Secure(secure) => secure.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(secure) => secure.write(bytes),
        }
    }

    /// Sends what TLS has kept back because the socket was full.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(secure) => secure.flush(),
        }
    }
}
