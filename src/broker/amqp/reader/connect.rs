//! From a URL to a stream of bytes: TCP, and TLS where the URL says so.

use std::{io, sync::Arc};

use lapin::uri::AMQPScheme;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::broker::{
    BrokerError, Cause,
    account::certificate::Certificate,
    amqp::{hosts::Address, link::LinkConfig},
};

/// A stream of bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to that address, with TLS where the URL says so. Bounded by the caller's time.
pub(super) async fn connect(
    config: &LinkConfig,
    address: Address,
    certificate: Option<&Certificate>,
) -> Result<Box<dyn Stream>, BrokerError> {
    let unavailable =
        |error: &dyn ToString| BrokerError::Unavailable(Cause::foreign(error.to_string()));
    let tcp = match timeout(config.patience(), TcpStream::connect(address.socket)).await {
        Ok(connected) => connected.map_err(|error| unavailable(&error))?,
        Err(_) => return Err(BrokerError::Unavailable("it did not answer in time".into())),
    };
    // Acknowledgements are small, and what the broker sends next may wait for them.
    tcp.set_nodelay(true).map_err(|error| unavailable(&error))?;
    match config.uri.scheme {
        AMQPScheme::AMQP => Ok(Box::new(tcp)),
        AMQPScheme::AMQPS => {
            let secured = secure(tcp, &address.host.name, certificate)
                .await
                .map_err(|error| unavailable(&format!("TLS: {error}")))?;
            Ok(Box::new(secured))
        }
    }
}

async fn secure(
    tcp: TcpStream,
    host: &str,
    certificate: Option<&Certificate>,
) -> io::Result<impl Stream + use<>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    // From the system's files each time, so that a changed authority is known without a restart.
    let roots = tokio::task::spawn_blocking(roots).await??;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match certificate {
        Some(certificate) => {
            let (chain, key) = certificate.parts();
            config
                .with_client_auth_cert(chain, key)
                .map_err(io::Error::other)?
        }
        None => config.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// The authorities that the system trusts, as lapin does: `SSL_CERT_FILE` and `SSL_CERT_DIR` name
/// others.
fn roots() -> io::Result<RootCertStore> {
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
            "no certificate authorities of the system could be read: {cause}"
        )));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::broker::amqp::hosts::{Unreached, dial};

    #[tokio::test]
    async fn a_broker_that_nobody_vouches_for_is_refused() {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let _ = TlsAcceptor::from(Arc::new(config)).accept(socket).await;
        });
        let config = LinkConfig::of_a_test(&format!("amqps://u:s3cret@127.0.0.1:{port}"));
        let connecting = dial(&config, |address| connect(&config, address, None));
        let Err(Unreached { error, .. }) = connecting.await else {
            panic!("trusted")
        };
        let text = error.to_string();
        assert!(
            text.contains("TLS: ") && text.contains("certificate"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}
