//! TLS on the gateway's own ports, and its certificate, which can be replaced while it serves.

mod config;
mod load;
mod stream;

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::TcpStream;

pub use config::{ClientCertificates, MinVersion, TlsConfig};
pub use stream::TlsStream;

use crate::telemetry;
use load::{Fault, Loaded};
pub use load::{Served, not_after};

/// A certificate that ends sooner is warned of.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What is spoken within TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, as the client is told by ALPN.
    Http,
    /// STOMP.
    Stomp,
}

/// Certificate and key of this gateway, and whom it trusts. A new connection gets what was loaded
/// last; those that are open are not touched.
pub struct Tls(RwLock<Arc<Loaded>>);

/// Files that were read, and can be served.
pub struct Prepared(Loaded);

/// A file of the `[tls]` section cannot be used.
#[derive(Debug, Error)]
#[error("[tls] {0}: {1}")]
pub struct TlsError(&'static str, String);

impl From<Fault> for TlsError {
    fn from((key, problem): Fault) -> Self {
        Self(key, problem)
    }
}

impl Tls {
    /// Reads the files of a configuration, and says in the log what they are.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn load(config: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let loaded = Loaded::read(config)?;
        announce(&loaded);
        Ok(Arc::new(Self(RwLock::new(Arc::new(loaded)))))
    }

    /// Reads the files that are to be served next. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn prepare(config: &TlsConfig) -> Result<Prepared, TlsError> {
        Ok(Prepared(Loaded::read(config)?))
    }

    /// New connections get these from now on.
    pub fn replace(&self, Prepared(loaded): Prepared) {
        let loaded = Arc::new(loaded);
        *self.0.write() = Arc::clone(&loaded);
        // Told when it is so: the next handshake is by the new files.
        announce(&loaded);
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        TlsStream::accept(stream, self.server(protocol)).await
    }

    fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        Arc::clone(self.0.read().server(protocol))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// What is to be warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// It does not hold yet.
    NotYet,
    /// It ends within two weeks.
    EndsSoon,
    /// It holds no more.
    Expired,
}

/// Whether a certificate is to be warned of.
#[must_use]
pub fn concern(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Option<Concern> {
    if now < not_before {
        Some(Concern::NotYet)
    } else if now > not_after {
        Some(Concern::Expired)
    } else if not_after
        .duration_since(now)
        .is_ok_and(|left| left < ENDS_SOON)
    {
        Some(Concern::EndsSoon)
    } else {
        None
    }
}

fn announce(loaded: &Loaded) {
    let Loaded {
        subject,
        not_before,
        not_after,
        ..
    } = loaded;
    telemetry::certificate_loaded(subject, *not_after);
    match concern(*not_before, *not_after, SystemTime::now()) {
        None => {}
        Some(Concern::EndsSoon) => telemetry::certificate_ends_soon(subject, *not_after),
        Some(Concern::Expired) => telemetry::certificate_invalid(subject, "it has expired"),
        Some(Concern::NotYet) => telemetry::certificate_invalid(subject, "it is not valid yet"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_certificate_is_warned_of_in_time() {
        let day = |day: u64| UNIX_EPOCH + Duration::from_secs(day * 24 * 60 * 60);
        let at = |now| concern(day(100), day(200), day(now));
        assert_eq!(at(99), Some(Concern::NotYet));
        assert_eq!([at(100), at(186)], [None; 2]);
        assert_eq!([at(187), at(200)], [Some(Concern::EndsSoon); 2]);
        assert_eq!(at(201), Some(Concern::Expired));
    }
}
