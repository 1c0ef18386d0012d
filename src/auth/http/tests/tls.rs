//! A hook behind TLS.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread,
};

use rustls::{ServerConfig, ServerConnection, Stream};
use testkit::Authority;

use super::*;

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
    let authority = Authority::new();
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let config = at(&serve(authority.server()));

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
