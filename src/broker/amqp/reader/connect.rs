//! From a URL to a stream of bytes: TCP, and TLS where the URL says so.

use lapin::uri::AMQPScheme;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    broker::{
        BrokerError, Cause,
        account::certificate::Certificate,
        amqp::{hosts::Address, link::LinkConfig},
    },
    tls_client::secure,
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
            let certificate = certificate.map(Certificate::parts);
            let secured = secure(tcp, &address.host.name, certificate)
                .await
                .map_err(|error| unavailable(&format!("TLS: {error}")))?;
            Ok(Box::new(secured))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{
        broker::amqp::hosts::{Unreached, dial},
        causes::NO_TLS,
    };

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

    #[tokio::test]
    async fn a_broker_that_speaks_no_tls_is_told_with_the_mend() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            // As RabbitMQ answers what is no AMQP.
            socket.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        let config = LinkConfig::of_a_test(&format!("amqps://u:s3cret@127.0.0.1:{port}"));
        let connecting = dial(&config, |address| connect(&config, address, None));
        let Err(Unreached { error, .. }) = connecting.await else {
            panic!("connected")
        };
        let text = error.to_string();
        assert!(text.ends_with(NO_TLS), "{text}");
    }
}
