//! The keys that tokens are checked by (pure): out of PEM files, a secret, or a JWKS.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse},
};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use serde_json::Value;
use x509_parser::{
    oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519},
    prelude::{FromDer, X509Certificate},
    x509::SubjectPublicKeyInfo,
};

/// An issuer has a few keys.
const MAX_KEYS: usize = 100;

/// Keys that fit a token, and that are tried on it: a signature costs time.
pub(super) const MAX_TRIED: usize = 8;

/// One key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// What its issuer calls it; `None`: it has no name, and any will do.
    id: Option<Box<str>>,
    /// The one algorithm that it is for, if its issuer says so.
    algorithm: Option<Algorithm>,
    pub(super) key: DecodingKey,
}

/// The keys of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    /// The keys of a JWKS that are for signatures. Shared secrets have no business there, and other
    /// keys that are not known are no fault: an issuer may have them for others.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn published(text: &[u8]) -> Result<Self, String> {
        let published: Published =
            serde_json::from_slice(text).map_err(|_| "it is no JSON with a list `keys`")?;
        if published.keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let keys = published.keys.into_iter();
        let keys: Vec<_> = keys.filter_map(Key::published).collect();
        match keys.is_empty() {
            true => Err("it has no key for signatures that can be used".into()),
            false => Ok(Self(keys)),
        }
    }

    /// The public keys, and those of the certificates, in a PEM file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn pem(text: &[u8]) -> Result<Self, String> {
        let mut keys = Vec::new();
        for info in SubjectPublicKeyInfoDer::pem_slice_iter(text) {
            let info = info.map_err(|error| format!("is no PEM: {error}"))?;
            keys.push(Key::public(&info)?);
        }
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|error| format!("is no PEM: {error}"))?;
            let (_, certificate) = X509Certificate::from_der(&certificate)
                .map_err(|_| "has a certificate that cannot be read")?;
            keys.push(Key::public(certificate.public_key().raw)?);
        }
        match keys.is_empty() {
            true => Err("has neither a PUBLIC KEY nor a CERTIFICATE".into()),
            false => Ok(Self(keys)),
        }
    }

    /// A shared secret.
    ///
    /// # Errors
    /// It is empty.
    pub(super) fn secret(secret: &[u8]) -> Result<Self, String> {
        let key = DecodingKey::from_secret(secret).map_err(|_| "is empty")?;
        Ok(Self(vec![Key {
            id: None,
            algorithm: None,
            key,
        }]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The keys that may have signed a token of that algorithm and key id; no more than are tried.
    pub(super) fn fitting(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> impl Iterator<Item = &Key> {
        self.all_fitting(algorithm, id).take(MAX_TRIED)
    }

    /// Whether there are more of them than are tried.
    pub(super) fn has_untried(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.all_fitting(algorithm, id).nth(MAX_TRIED).is_some()
    }

    /// The token's own key comes first, however many without a name stand before it.
    fn all_fitting(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        let is_own = move |key: &&Key| id.is_some() && key.id.as_deref() == id;
        let may_be_own = move |key: &&Key| id.is_none() || key.id.is_none();
        let own = self.0.iter().filter(is_own);
        let others = self.0.iter().filter(may_be_own);
        own.chain(others).filter(move |key| key.is_for(algorithm))
    }

    /// How many keys are for an algorithm.
    pub(super) fn count(&self, algorithm: Algorithm) -> usize {
        self.0.iter().filter(|key| key.is_for(algorithm)).count()
    }

    /// An algorithm with more keys than a token is tried with that names none, and how many; if
    /// there is one.
    pub(super) fn crowded(&self) -> Option<(Algorithm, usize)> {
        use AlgorithmFamily::{Ec, Ed, Hmac, Rsa};
        let families = [Rsa, Ec, Ed, Hmac];
        let families = families.iter();
        let mut algorithms = families.flat_map(|family| family.algorithms().iter().copied());
        algorithms.find_map(|algorithm| {
            let count = self.count(algorithm);
            (count > MAX_TRIED).then_some((algorithm, count))
        })
    }

    /// Why some of these, none of which has a name, would never be tried, if that is so.
    pub(super) fn too_many(&self) -> Option<String> {
        self.crowded().map(|(algorithm, count)| {
            format!(
                "have {count} keys for {algorithm:?}, of which a token is tried with \
                 {MAX_TRIED}: leave out those that sign no more, or let the issuer publish \
                 them with names (jwks_url)"
            )
        })
    }
}

impl Key {
    fn published(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let is_for_signatures = match &jwk.common.public_key_use {
            None => true,
            Some(purpose) => *purpose == PublicKeyUse::Signature,
        };
        if !is_for_signatures || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return None;
        }
        let key = match &jwk.algorithm {
            AlgorithmParameters::RSA(_)
            | AlgorithmParameters::EllipticCurve(_)
            | AlgorithmParameters::OctetKeyPair(_) => DecodingKey::from_jwk(&jwk).ok()?,
            _ => return None,
        };
        let algorithm = match jwk.common.key_algorithm {
            None => None,
            // One that is for something else, or not known, is for nothing here.
            Some(named) => Some(signing(named)?),
        };
        if algorithm.is_some_and(|algorithm| algorithm.family() != key.family()) {
            return None;
        }
        Some(Self {
            id: jwk.common.key_id.map(Box::from),
            algorithm,
            key,
        })
    }

    /// Whether its issuer has a name for it.
    pub(super) fn is_named(&self) -> bool {
        self.id.is_some()
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.key.family() == algorithm.family() && self.algorithm.is_none_or(|own| own == algorithm)
    }

    fn public(der: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der)
            .map_err(|_| "has a public key that cannot be read".to_owned())?;
        let bytes = &*info.subject_public_key.data;
        let kind = &info.algorithm.algorithm;
        let (key, algorithm) = if *kind == OID_PKCS1_RSAENCRYPTION {
            (DecodingKey::from_rsa_der(bytes), None)
        } else if *kind == OID_SIG_ED25519 {
            (DecodingKey::from_ed_der(bytes), Some(Algorithm::EdDSA))
        } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let algorithm = match bytes.len() {
                65 => Algorithm::ES256,
                97 => Algorithm::ES384,
                _ => return Err("has a key of a curve that is neither P-256 nor P-384".into()),
            };
            (DecodingKey::from_ec_der(bytes), Some(algorithm))
        } else {
            return Err("has a key that is neither RSA, nor EC, nor Ed25519".into());
        };
        Ok(Self {
            id: None,
            algorithm,
            key,
        })
    }
}

fn signing(named: KeyAlgorithm) -> Option<Algorithm> {
    let algorithm: Algorithm = named.to_string().parse().ok()?;
    (algorithm.family() != AlgorithmFamily::Hmac).then_some(algorithm)
}
