//! Certificates that are made up, and clients that show and demand them.

use std::{fs, io, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, DnValue, IsCa,
    Issuer, KeyPair,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Somebody who signs certificates, of servers at 127.0.0.1 and of clients.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: Certificate,
}

impl Authority {
    /// One that nobody knows yet.
    ///
    /// # Panics
    /// Never, unless there are no random numbers.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = [(DnType::CommonName, DnValue::from("Authority of the tests"))];
        params.distinguished_name = distinguished(&name);
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        Self {
            issuer: Issuer::new(params, key),
            own,
        }
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.own.pem()
    }

    /// Signs a certificate for a server at 127.0.0.1 with this common name, and writes it, with
    /// its key, to a folder: `chain.pem` and `key.pem`, and `ca.pem` for the authority's own.
    ///
    /// # Panics
    /// The folder cannot be written to.
    pub fn serve_from(&self, folder: &Path, common_name: &str) {
        let (certificate, key) = self.server_certificate(common_name);
        for (file, text) in [
            ("chain.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
            ("ca.pem", self.pem()),
        ] {
            fs::write(folder.join(file), text).expect("a folder to write to");
        }
    }

    /// The configuration of a server at 127.0.0.1 that shows a certificate of this authority.
    ///
    /// # Panics
    /// Never: the certificate fits its key.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let (certificate, key) = self.server_certificate("server");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into());
        Arc::new(config.expect("a certificate and its key"))
    }

    /// A client that demands a server's certificate of this authority, and shows no certificate.
    #[must_use]
    pub fn client(&self) -> TlsClient {
        TlsClient {
            trusted: self.own.der().clone(),
            shown: None,
            version: None,
        }
    }

    fn server_certificate(&self, common_name: &str) -> (Certificate, KeyPair) {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = distinguished(&[(DnType::CommonName, common_name.into())]);
        self.sign(&params)
    }

    /// A certificate for a client with this subject, and its key, in DER.
    fn client_certificate(&self, subject: &[(DnType, DnValue)]) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(subject);
        let (certificate, key) = self.sign(&params);
        Shown {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    fn sign(&self, params: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer);
        (certificate.expect("a certificate"), key)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn distinguished(subject: &[(DnType, DnValue)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in subject {
        name.push(kind.clone(), value.clone());
    }
    name
}

/// A client's own certificate.
struct Shown {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// The certificates that a client trusts and shows.
pub struct TlsClient {
    trusted: CertificateDer<'static>,
    shown: Option<Shown>,
    version: Option<&'static SupportedProtocolVersion>,
}

impl TlsClient {
    /// Shows a certificate with this subject, signed by `authority`.
    #[must_use]
    pub fn showing(mut self, authority: &Authority, subject: &[(DnType, DnValue)]) -> Self {
        self.shown = Some(authority.client_certificate(subject));
        self
    }

    /// Speaks this version of TLS only.
    #[must_use]
    pub const fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Connects to `127.0.0.1:port`.
    ///
    /// # Errors
    /// One of the two does not like the other. With TLS 1.3 a server may say so only after this.
    ///
    /// # Panics
    /// Nobody listens.
    pub async fn connect(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true)?;
        self.over(stream).await
    }

    /// As [`Self::connect`], on a stream on which something was said before.
    ///
    /// # Errors
    /// As there.
    pub async fn over(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(self.config()))
            .connect(name, stream)
            .await
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).expect("an authority");
        let provided = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let versioned = match self.version {
            Some(version) => provided.with_protocol_versions(&[version]),
            None => provided.with_safe_default_protocol_versions(),
        };
        let builder = versioned.expect("a version").with_root_certificates(roots);
        match &self.shown {
            None => builder.with_no_client_auth(),
            Some(Shown { certificate, key }) => builder
                .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
                .expect("a key for the certificate"),
        }
    }
}
