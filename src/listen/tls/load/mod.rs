//! Files to what rustls wants, and what is wrong with them.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    Protocol,
    config::{ClientCertificates, MinVersion, TlsConfig},
};
use crate::{auth::certificate::distinguished_name, causes::unreadable};

/// The key at fault, and what is wrong with its file.
pub(super) type Fault = (&'static str, String);

/// What is in the files that are set.
pub(super) struct Files {
    certified: Option<Arc<CertifiedKey>>,
    clients: Option<Arc<RootCertStore>>,
}

/// What serves connections, until it is loaded anew.
pub(super) struct Loaded {
    https: Arc<ServerConfig>,
    stomps: Arc<ServerConfig>,
    /// The certificate's subject.
    pub(super) subject: String,
    /// Since when it holds.
    pub(super) not_before: SystemTime,
    /// Until when.
    pub(super) not_after: SystemTime,
}

/// The certificate that is served, as an operator asks about it.
#[derive(Debug)]
pub struct Served {
    /// Its subject.
    pub subject: String,
    /// Since when it holds.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// The names of machines that it is for.
    pub names: Vec<String>,
    /// The first is the gateway's own; the others are those between it and its authority.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Served {
    /// Reads all that the section needs to serve.
    pub(super) fn read(config: &TlsConfig) -> Result<Self, Fault> {
        let loaded = Loaded::read(config)?;
        let chain =
            certificates(&config.certificate).map_err(|problem| ("certificate", problem))?;
        Ok(Self {
            subject: loaded.subject,
            not_before: loaded.not_before,
            not_after: loaded.not_after,
            names: names(chain.first().map_or(&[][..], AsRef::as_ref)),
            chain,
        })
    }
}

/// The names that a certificate is for. A wildcard stands as it is.
fn names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            bytes => {
                let bytes: [u8; 16] = bytes.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).to_string())
            }
        },
        _ => None,
    });
    names.collect()
}

/// Until when a certificate holds.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(time(certificate.validity().not_after.timestamp()))
}

impl Loaded {
    pub(super) fn read(config: &TlsConfig) -> Result<Self, Fault> {
        let files = read_files(config)?;
        let missing = |key| (key, "is not set".to_owned());
        let certified = files.certified.ok_or_else(|| missing("certificate"))?;
        let verifier = match config.client_certificates {
            ClientCertificates::Off => None,
            _ => {
                let roots = files.clients.ok_or_else(|| missing("client_ca"))?;
                let is_required = config.client_certificates == ClientCertificates::Required;
                Some(verifier(roots, is_required).map_err(|error| ("client_ca", error))?)
            }
        };
        let server = |protocol| {
            server_config(&certified, verifier.clone(), config.min_version, protocol)
                .map(Arc::new)
                .map_err(|error| ("certificate", format!("cannot be served: {error}")))
        };
        let (https, stomps) = (server(Protocol::Http)?, server(Protocol::Stomp)?);
        let own = certified.cert.first().map_or(&[][..], AsRef::as_ref);
        let unreadable = |_| ("certificate", "is no X.509 certificate".to_owned());
        let (_, own) = X509Certificate::from_der(own).map_err(unreadable)?;
        let validity = own.validity();
        Ok(Self {
            https,
            stomps,
            subject: distinguished_name(own.subject())
                .unwrap_or_else(|_| own.subject().to_string()),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    pub(super) fn server(&self, protocol: Protocol) -> &Arc<ServerConfig> {
        match protocol {
            Protocol::Http => &self.https,
            Protocol::Stomp => &self.stomps,
        }
    }
}

/// Reads all files that are set.
pub(super) fn read_files(config: &TlsConfig) -> Result<Files, Fault> {
    let certificate = Some(&*config.certificate).filter(|path| TlsConfig::is_set(path));
    let key = Some(&*config.key).filter(|path| TlsConfig::is_set(path));
    let clients = Some(&*config.client_ca).filter(|path| TlsConfig::is_set(path));
    let in_key = |key: &'static str| move |problem| (key, problem);
    let chain = certificate
        .map(certificates)
        .transpose()
        .map_err(in_key("certificate"))?;
    let private = key.map(private_key).transpose().map_err(in_key("key"))?;
    let certified = match (chain, private, key) {
        (Some(chain), Some(private), Some(path)) => {
            let certified = certify(chain, private, path, &config.certificate);
            Some(certified.map_err(in_key("key"))?)
        }
        _ => None,
    };
    let clients = clients
        .map(roots)
        .transpose()
        .map_err(in_key("client_ca"))?;
    Ok(Files { certified, clients })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| unreadable(path, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = certificates.map_err(|error| not_pem(path, &error))?;
    if chain.is_empty() {
        return Err(format!(
            "{} has no certificate; it must be PEM (\"-----BEGIN CERTIFICATE-----\")",
            path.display()
        ));
    }
    for (index, certificate) in chain.iter().enumerate() {
        if X509Certificate::from_der(certificate).is_err() {
            let number = index.saturating_add(1);
            return Err(format!(
                "{}: number {number} in it is no X.509 certificate",
                path.display()
            ));
        }
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{} has no private key that could be used; it must be PEM (\"-----BEGIN PRIVATE \
             KEY-----\") and not encrypted (`openssl pkey` decrypts)",
            path.display()
        ),
        error => not_pem(path, &error),
    })
}

/// The parser's own words show lines of the file, which may hold a key.
fn not_pem(path: &Path, error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: an END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "it is not base64 between BEGIN and END",
        _ => "it cannot be read",
    };
    format!("{} is not PEM: {what}", path.display())
}

fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: &Path,
    certificate: &Path,
) -> Result<Arc<CertifiedKey>, String> {
    let certified =
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "{} is not the key of the first certificate in {}",
                path.display(),
                certificate.display()
            ),
            error => format!("{} cannot be used: {error}", path.display()),
        })?;
    Ok(Arc::new(certified))
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let number = index.saturating_add(1);
            format!(
                "{}: number {number} in it is no authority: {error}",
                path.display()
            )
        })?;
    }
    Ok(Arc::new(roots))
}

fn verifier(
    roots: Arc<RootCertStore>,
    is_required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let strict = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = if is_required {
        strict
    } else {
        strict.allow_unauthenticated()
    };
    builder.build().map_err(|error| error.to_string())
}

fn server_config(
    certified: &Arc<CertifiedKey>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    min_version: MinVersion,
    protocol: Protocol,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[&'static SupportedProtocolVersion] = match min_version {
        MinVersion::V1_2 => &[&TLS13, &TLS12],
        MinVersion::V1_3 => &[&TLS13],
    };
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(certified)));
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let mut config = match verifier {
        None => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
            // When all clients come back at once, those with a ticket cost no signature. It is
            // kept by the client, so it costs no memory here.
            config.ticketer = ring::Ticketer::new()?;
            config.send_tls13_tickets = 1;
            config
        }
        Some(verifier) => {
            let mut config = builder
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(resolver);
            // A session that is taken up again shows no certificate: it may have ended since,
            // or its authority may have been taken out.
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if protocol == Protocol::Http {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A time before 1970 is long ago, whenever it was.
fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
