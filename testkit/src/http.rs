//! HTTP requests of the fixtures themselves.

use std::sync::Once;

use crate::DEADLINE;

/// A client without a pool: connections would belong to the runtime of the test that opened them.
pub(crate) fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Somebody else's provider serves as well; no request here uses TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .no_proxy()
        // The system's certificates would be read each time.
        .tls_certs_only([])
        .timeout(DEADLINE)
        .build()
        .expect("an HTTP client")
}
