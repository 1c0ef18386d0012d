//! RabbitMQ behind TLS (`amqps:`), vouched for by an authority that the system is told of.

use std::{fs, net::SocketAddr};

use tempfile::NamedTempFile;
use testkit::Authority;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::house::{DESTINATION, House, vhost};

/// Takes TLS off, before RabbitMQ. Its address, and the authority's certificate as PEM.
async fn tls_before(server: String) -> (SocketAddr, String) {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(authority.server());
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
    (address, authority.pem())
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
