//! The HTTP client of all that is asked about logins.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};

/// A client that follows no redirects and uses no proxies of the environment: credentials go where
/// the configuration says, and nowhere else.
pub(crate) fn client(is_secure: bool, connect_timeout: Duration) -> ClientBuilder {
    // The client takes the process's provider. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .user_agent(concat!("stentor/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(connect_timeout);
    match is_secure {
        true => client,
        // Reads no root certificates: a container that asks a plain server needs none.
        false => client.tls_certs_only([]),
    }
}
