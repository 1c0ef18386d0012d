//! The certificate that the gateway shows to RabbitMQ.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use tokio::task::spawn_blocking;

use super::{
    Fault,
    source::{Bytes, read_file},
};

/// A certificate with those between it and its authority, and its key. Never shown.
pub(in crate::broker) struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    chain_pem: Bytes,
    key_pem: Bytes,
}

impl Certificate {
    /// Reads both files. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// The key at fault, and the fault, without a part of the files.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, Fault> {
        let in_key = |key: &'static str| move |fault| (key, fault);
        let chain_pem = read_file(certificate).map_err(in_key("certificate"))?;
        let key_pem = read_file(key).map_err(in_key("key"))?;
        let not_pem = |path: &Path, error: &pem::Error| match error {
            pem::Error::NoItemsFound => format!(
                "{} has no private key that could be used; it must be PEM (\"-----BEGIN PRIVATE \
                 KEY-----\") and not encrypted (`openssl pkey` decrypts)",
                path.display()
            ),
            // The parser's own words show lines of the file.
            _ => format!("{} is not PEM", path.display()),
        };
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain_pem).collect();
        let chain = read.map_err(|error| ("certificate", not_pem(certificate, &error)))?;
        if chain.is_empty() {
            let message = format!(
                "{} has no certificate; it must be PEM (\"-----BEGIN CERTIFICATE-----\")",
                certificate.display()
            );
            return Err(("certificate", message));
        }
        let read = PrivateKeyDer::from_pem_slice(&key_pem);
        let private = read.map_err(|error| ("key", not_pem(key, &error)))?;
        let provider = ring::default_provider();
        CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider).map_err(|error| {
            let fault = match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "{} is not the key of the first certificate in {}",
                    key.display(),
                    certificate.display()
                ),
                error => format!("{} cannot be used: {error}", key.display()),
            };
            ("key", fault)
        })?;
        Ok(Self {
            chain,
            key: private,
            chain_pem,
            key_pem,
        })
    }

    /// Reads both files, without blocking the caller.
    ///
    /// # Errors
    /// The fault.
    pub(in crate::broker) async fn load(
        certificate: &Path,
        key: &Path,
    ) -> Result<Arc<Self>, String> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        match spawn_blocking(move || Self::read(&certificate, &key)).await {
            Ok(Ok(read)) => Ok(Arc::new(read)),
            Ok(Err((key, fault))) => Err(format!("[broker] {key}: {fault}")),
            Err(_) => Err("the program ends".to_owned()),
        }
    }

    /// For rustls.
    pub(in crate::broker) fn parts(
        &self,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }

    /// As they are in the files, for lapin: the certificates and the key.
    pub(in crate::broker) fn pem(&self) -> (&[u8], &[u8]) {
        (&self.chain_pem, &self.key_pem)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    #[test]
    fn faults_are_told_without_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let [chain, key] = ["chain.pem", "key.pem"].map(|name| folder.path().join(name));
        let made = || generate_simple_self_signed(["stentor".to_owned()]).unwrap();
        let CertifiedKey { cert, signing_key } = made();
        let write = |chain_text: &str, key_text: &str| {
            fs::write(&chain, chain_text).unwrap();
            fs::write(&key, key_text).unwrap();
        };
        let (good, private) = (cert.pem(), signing_key.serialize_pem());
        write(&good, &private);
        let read = Certificate::read(&chain, &key).unwrap();
        let shown = format!("{read:?}");
        assert!(!shown.contains("BEGIN"), "{shown}");
        let other = made().signing_key.serialize_pem();
        let broken = private.replace("-----END", "---END");
        for (chain_text, key_text, at, says) in [
            ("", &*private, "certificate", "has no certificate"),
            (&good, "", "key", "has no private key"),
            (&good, &good, "key", "has no private key"),
            (&good, &broken, "key", "is not PEM"),
            (&good, &other, "key", "is not the key of"),
        ] {
            write(chain_text, key_text);
            let (key, fault) = Certificate::read(&chain, &key).unwrap_err();
            assert_eq!(key, at, "{fault}");
            assert!(fault.contains(says), "{fault}");
            let body = private.lines().nth(1).unwrap();
            assert!(!fault.contains(body), "{fault}");
        }
        fs::remove_file(&chain).unwrap();
        let (at, fault) = Certificate::read(&chain, &key).unwrap_err();
        assert_eq!(at, "certificate");
        assert!(fault.contains("No such file"), "{fault}");
    }
}
