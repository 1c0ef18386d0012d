//! A hook behind TLS.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, Stream,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::*;

/// An authority's certificate, and a server's configuration that it vouches for.
fn authority_and_server() -> (reqwest::Certificate, Arc<ServerConfig>) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (
        reqwest::Certificate::from_der(root.der()).unwrap(),
        Arc::new(config),
    )
}

/// Allows one user a connection. Its URL.
fn serve(config: Arc<ServerConfig>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut tls, &mut socket);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nallow");
            let _ = stream.flush();
        }
    });
    url
}

#[tokio::test]
async fn a_hook_is_asked_over_tls_if_somebody_vouches_for_it() {
    let (root, server) = authority_and_server();
    let config = at(&serve(server));

    let trusting =
        HttpAuthenticator::build(&config, |client| client.tls_certs_merge([root])).unwrap();
    assert!(trusting.user(&login()).await.is_ok());

    // Without the authority (but with those of the system) it is a stranger.
    match HttpAuthenticator::new(&config) {
        Ok(wary) => match wary.user(&login()).await {
            Err(Refusal::Faulty(fault)) => assert!(fault.contains("certificate"), "{fault}"),
            other => panic!("{other:?}"),
        },
        // A system without any root certificates.
        Err(error) => assert!(matches!(error, SetupError::Client(_)), "{error}"),
    }
}
