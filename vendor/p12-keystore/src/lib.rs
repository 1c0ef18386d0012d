//! What `tcp-stream` names of the published crate: a keystore that cannot be read.

use std::{convert::Infallible, error, fmt};

/// Why no keystore is read.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PKCS#12 is not read; give certificate and key as PEM")
    }
}

impl error::Error for Error {}

/// There is none.
pub struct KeyStore(Infallible);

impl KeyStore {
    /// # Errors
    /// Always.
    pub fn from_pkcs12(_: &[u8], _: &str) -> Result<Self, Error> {
        Err(Error)
    }

    pub fn private_key_chain(&self) -> Option<(&str, &PrivateKeyChain)> {
        match self.0 {}
    }
}

/// There is none.
pub struct PrivateKeyChain(Infallible);

impl PrivateKeyChain {
    pub fn key(&self) -> &[u8] {
        match self.0 {}
    }

    pub fn chain(&self) -> &[Certificate] {
        match self.0 {}
    }
}

/// There is none.
pub struct Certificate(Infallible);

impl Certificate {
    pub fn as_der(&self) -> &[u8] {
        match self.0 {}
    }
}
