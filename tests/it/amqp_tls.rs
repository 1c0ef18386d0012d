//! RabbitMQ behind TLS (`amqps:`), vouched for by an authority that the system is told of; and the
//! gateway's own certificate as its login there.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use stomp_grammar::{Command, Frame};
use tempfile::{NamedTempFile, TempDir};
use testkit::{Authority, RabbitMq, free_ports, unique};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::house::{DESTINATION, House, Ran, vhost, vhost_on};

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

/// A RabbitMQ that speaks TLS with those who show a certificate, and takes it for a login.
async fn of_certificates(authority: &Authority, folder: &Path, more: &str) -> (Arc<RabbitMq>, u16) {
    authority.serve_from(folder, "rabbitmq");
    let [port] = free_ports();
    let path = |name: &str| folder.join(name).display().to_string();
    let configuration = format!(
        "collect_statistics_interval = 1000\n\
         listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n\
         auth_mechanisms.1 = PLAIN\n\
         auth_mechanisms.2 = EXTERNAL\n\
         ssl_cert_login_from = common_name\n\
         {more}",
        path("ca.pem"),
        path("chain.pem"),
        path("key.pem"),
    );
    let plugins = ["rabbitmq_management", "rabbitmq_auth_mechanism_ssl"];
    let node = RabbitMq::own_bare(&plugins, &configuration).await;
    (Arc::new(node), port)
}

/// Feeds come by the gateway's own reader, all else by lapin: both show the certificate.
#[tokio::test]
async fn a_certificate_is_the_account_s_login() {
    let authority = Authority::new();
    let folders = [(); 2].map(|()| TempDir::new().unwrap());
    let [server, client] = folders.each_ref().map(TempDir::path);
    let (node, port) = of_certificates(&authority, server, "").await;
    let vhost = vhost_on(&node).await;
    let account = unique("gateway");
    let api = node.api();
    api.add_user(&account, "no gateway knows it").await;
    api.allow(vhost.name(), &account, [".*", ".*", ".*"]).await;
    authority.serve_from(client, &account);
    let path = |name: &str| client.join(name).display().to_string();
    let house = House::start(vhost, |builder| {
        builder
            .set("broker.url", format!("amqps://localhost:{port}"))
            .set("broker.certificate", path("chain.pem"))
            .set("broker.key", path("key.pem"))
            .env("SSL_CERT_FILE", path("ca.pem"))
    })
    .await;
    let mut user = house.tcp().await;
    user.subscribe("feed", DESTINATION).await;
    let queue = [("ack", "client"), ("prefetch-count", "5")];
    user.subscribe_with("own", DESTINATION, &queue).await;
    let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
    user.send(&send.with_body("by a client")).await;
    for _ in 0..2 {
        user.expect_message("by a client").await;
    }

    // A renewed certificate needs no restart; one of somebody unknown to RabbitMQ is no login.
    authority.serve_from(client, "nobody");
    house.vhost.close_connections().await;
    house
        .gateway
        .until_logged("Has RabbitMQ a user by the name in the certificate")
        .await;
    house.gateway.until_readyz(503).await;
    authority.serve_from(client, &account);
    house.gateway.until_ready().await;
    let mut other = house.tcp().await;
    other.subscribe("feed", DESTINATION).await;
    house.push(["again"]).await;
    other.expect_message("again").await;
}

/// With TLS 1.2 the handshake fails for those who show none; with 1.3, what comes behind it.
#[tokio::test]
async fn doctor_shows_the_certificate_too() {
    let authority = Authority::new();
    let folders = [(); 2].map(|()| TempDir::new().unwrap());
    let [server, client] = folders.each_ref().map(TempDir::path);
    let versions = "ssl_options.versions.1 = tlsv1.2\n";
    let (node, port) = of_certificates(&authority, server, versions).await;
    let vhost = vhost_on(&node).await;
    let (api, account) = (node.api(), unique("gateway"));
    api.add_user(&account, "no gateway knows it").await;
    api.allow(vhost.name(), &account, [".*", ".*", ".*"]).await;
    authority.serve_from(client, &account);
    let path = |name: &str| client.join(name).display().to_string();
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"));
    doctor
        .args(["doctor", "--json"])
        .env_clear()
        .env("SSL_CERT_FILE", path("ca.pem"))
        .env("STENTOR__AUTH__HOOK", "http://127.0.0.1:1/auth");
    for (key, value) in [
        ("URL", format!("amqps://localhost:{port}")),
        ("CERTIFICATE", path("chain.pem")),
        ("KEY", path("key.pem")),
        ("VHOSTS", vhost.name().to_owned()),
        ("DEFAULT_VHOST", vhost.name().to_owned()),
    ] {
        doctor.env(format!("STENTOR__BROKER__{key}"), value);
    }
    let output = tokio::task::spawn_blocking(move || doctor.output());
    let ran = Ran::from(output.await.unwrap().unwrap());
    for words in [
        format!("localhost:{port} is RabbitMQ "),
        format!("TLS of RabbitMQ at localhost:{port}: the certificate is trusted"),
    ] {
        assert!(ran.out.contains(&words), "{words}: {ran:?}");
    }
}
