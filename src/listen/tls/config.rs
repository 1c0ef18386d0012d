//! The `[tls]` section.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::load::{Served, read_files};
use crate::units::Checked;

/// The gateway's certificate, and whose certificates clients may show. Paths are relative to the
/// folder that the gateway runs in; an empty one is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate of `https` and `stomps`, and those between it and the authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM, not encrypted.
    pub key: PathBuf,
    /// The authorities that vouch for clients' certificates, in PEM.
    pub client_ca: PathBuf,
    /// Whether clients are asked for a certificate. Default no.
    pub client_certificates: ClientCertificates,
    /// The oldest version of TLS that is spoken. Default 1.2.
    pub min_version: MinVersion,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// No.
    #[default]
    Off,
    /// Yes, and who has none may connect too. One that nobody vouches for ends the connection.
    Optional,
    /// Yes, and who has none may not connect.
    Required,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum MinVersion {
    /// TLS 1.2: what programs of the last ten years can.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsConfig {
    /// Every value that can be read makes sense by itself. What goes together is looked at with
    /// all sections at hand.
    ///
    /// # Errors
    /// None.
    pub fn check(&self) -> Checked {
        Ok(())
    }

    /// Whether the files that are named can be used.
    ///
    /// # Errors
    /// The key at fault, and what is wrong with its file.
    pub fn check_files(&self) -> Checked {
        read_files(self).map(drop)
    }

    /// The certificate that would be served.
    ///
    /// # Errors
    /// The key at fault, and what is wrong with its file.
    pub fn served(&self) -> Result<Served, (&'static str, String)> {
        Served::read(self)
    }

    /// Whether a path was given.
    #[must_use]
    pub fn is_set(path: &Path) -> bool {
        !path.as_os_str().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TlsConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn nothing_is_set_by_default() {
        let config = read("").unwrap();
        assert_eq!(config, TlsConfig::default());
        assert_eq!(config.check_files(), Ok(()));
        assert!(!TlsConfig::is_set(&config.certificate));
    }

    #[test]
    fn words_are_read_and_others_refused() {
        let config = read("client_certificates = \"required\"\nmin_version = \"1.3\"").unwrap();
        assert_eq!(config.client_certificates, ClientCertificates::Required);
        assert_eq!(config.min_version, MinVersion::V1_3);
        for text in [
            "client_certificates = true",
            "client_certificates = \"on\"",
            "min_version = \"1.1\"",
            "min_version = 1.3",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
