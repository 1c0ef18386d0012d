//! TLS towards servers, by the authorities that the system trusts.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Shakes hands with the server of that name, which must show a certificate that the system's
/// authorities vouch for. `certificate` is our own, with its chain and its key.
///
/// # Errors
/// It shows none, or the handshake fails.
pub(crate) async fn secure(
    tcp: TcpStream,
    host: &str,
    certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    // From the system's files each time, so that a changed authority is known without a restart.
    let roots = tokio::task::spawn_blocking(roots).await??;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match certificate {
        Some((chain, key)) => config
            .with_client_auth_cert(chain, key)
            .map_err(io::Error::other)?,
        None => config.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// The authorities that the system trusts, as lapin does: `SSL_CERT_FILE` and `SSL_CERT_DIR` name
/// others.
pub(crate) fn roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let cause = found
            .errors
            .first()
            .map(ToString::to_string)
            .unwrap_or_else(|| "there are none".to_owned());
        return Err(io::Error::other(format!(
            "no certificate authorities of the system could be read: {cause} (install \
             ca-certificates, or set SSL_CERT_FILE)"
        )));
    }
    Ok(roots)
}
