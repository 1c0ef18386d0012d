//! RabbitMQ behind TLS (`amqps:`), vouched for by an authority that the system is told of.

use std::{fs, net::SocketAddr, sync::Arc};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::NamedTempFile;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::house::{DESTINATION, House, vhost};

/// Takes TLS off, before RabbitMQ. Its address, and the authority's certificate as PEM.
async fn tls_before(server: String) -> (SocketAddr, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let base64 = BASE64_STANDARD.encode(root.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // A client that does not trust the certificate ends here.
                let Ok(mut client) = acceptor.accept(socket).await else {
                    return;
                };
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, pem)
}

#[tokio::test]
async fn rabbitmq_is_reached_over_tls() {
    let vhost = vhost().await;
    let (address, root) = tls_before(vhost.node().amqp_address()).await;
    let authorities = NamedTempFile::new().unwrap();
    fs::write(authorities.path(), root).unwrap();
    let url = format!("amqps://guest:guest@localhost:{}", address.port());
    let house = House::start(vhost, |builder| {
        builder
            .set("broker.url", url)
            .env("SSL_CERT_FILE", authorities.path().display())
    })
    .await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    // More than one record of TLS holds, more than one read, and more than one frame of AMQP.
    let large = "x".repeat(300_000);
    house.push(["small", large.as_str(), "end"]).await;
    for body in ["small", large.as_str(), "end"] {
        client.expect_message(body).await;
    }
}
