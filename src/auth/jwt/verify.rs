//! Whether a token's signature is right (pure), by the crate `jsonwebtoken` on ring.
//!
//! Only `alg` and `kid` of a token's header count, and both only choose among the keys that are
//! there: a key that the token brings along (`jwk`, `x5c`), or says where to find (`jku`, `x5u`), is
//! never looked at.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result as JwtResult},
    signature::{Error as SignatureError, Verifier},
};
use ring::{
    hmac,
    signature::{
        self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};

use super::{
    claims::Claims,
    keys::{KeySet, MAX_TRIED},
};

/// The longest token, in bytes: more than any issuer makes, and less than a client may send.
pub(super) const MAX_TOKEN: usize = 16 * 1024;

/// The parts of a token's header that count.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) algorithm: Algorithm,
    /// The name of its key.
    pub(super) key: Option<String>,
}

/// Whether a text has the form of a token: three parts, of which the first begins as JSON does. No
/// password does by chance.
pub(in crate::auth) fn looks_like_token(text: &str) -> bool {
    let is_part = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let mut parts = text.split('.');
    let (Some(head), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    // `{` in base64.
    head.starts_with("ey")
        && !claims.is_empty()
        && [head, claims, signature].into_iter().all(is_part)
}

/// Reads a token's header. Nothing of it is proved.
///
/// # Errors
/// Why the token cannot count, whatever its signature is.
pub(super) fn head(token: &str, allowed: &[Algorithm]) -> Result<Head, &'static str> {
    if token.len() > MAX_TOKEN {
        return Err("it is too long");
    }
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| "its header cannot be read, or names an algorithm that is not known")?;
    if header.crit.is_some() {
        return Err("its header has extensions that are not known (crit)");
    }
    if !allowed.contains(&header.alg) {
        return Err("its algorithm is not allowed");
    }
    Ok(Head {
        algorithm: header.alg,
        key: header.kid,
    })
}

const UNTRIED: &str = "more keys fit than the 8 that were tried, for it or they have no name (kid)";
const _: () = assert!(MAX_TRIED == 8, "as it is said");

/// Why a token is not proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unproved {
    /// No key fits.
    NoKey,
    /// The keys that fit have not signed it.
    Unsigned {
        /// The token names one of them.
        by_name: bool,
    },
    /// More keys fit than it was tried with, for it or they have no name.
    Untried,
    /// It is signed, and cannot be read.
    Unreadable,
}

impl Unproved {
    /// In words.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::NoKey => "no key is known that fits",
            Self::Unsigned { .. } => "its signature is wrong",
            Self::Untried => UNTRIED,
            Self::Unreadable => "its claims cannot be read, or one is there twice",
        }
    }

    /// Whether a key that is not known yet may have signed it. Where keys or tokens have no names, a
    /// new key looks like that of before.
    pub(super) fn may_need_others(self) -> bool {
        matches!(
            self,
            Self::NoKey | Self::Unsigned { by_name: false } | Self::Untried
        )
    }
}

/// The claims of a token, if one of the keys has signed it.
///
/// # Errors
/// Why it does not count, by these keys.
pub(super) fn verify(token: &str, head: &Head, keys: &KeySet) -> Result<Claims, Unproved> {
    // Another provider would be this program's own, too.
    let _ = PROVIDER.install_default();
    let mut validation = Validation::new(head.algorithm);
    // Claims are looked at by our own rules, and clock.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let mut unproved = Unproved::NoKey;
    let named = head.key.as_deref();
    for key in keys.fitting(head.algorithm, named) {
        match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
            Ok(data) => return Ok(data.claims),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidKeyFormat => {
                    let by_name = unproved == Unproved::Unsigned { by_name: true }
                        || head.key.is_some() && key.is_named();
                    unproved = Unproved::Unsigned { by_name };
                }
                _ => return Err(Unproved::Unreadable),
            },
        }
    }
    match unproved {
        Unproved::Unsigned { by_name: false } if keys.has_untried(head.algorithm, named) => {
            Err(Unproved::Untried)
        }
        unproved => Err(unproved),
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// The gateway makes no tokens.
fn no_signer(_: &Algorithm, _: &EncodingKey) -> JwtResult<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let verified = match self.algorithm.family() {
            AlgorithmFamily::Hmac => self.verify_secret(message, signature),
            AlgorithmFamily::Rsa => self.verify_rsa(message, signature),
            AlgorithmFamily::Ec | AlgorithmFamily::Ed => self.verify_curve(message, signature),
        };
        verified.ok_or_else(SignatureError::new)
    }
}

impl RingVerifier {
    fn verify_secret(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let algorithm = match self.algorithm {
            Algorithm::HS256 => hmac::HMAC_SHA256,
            Algorithm::HS384 => hmac::HMAC_SHA384,
            Algorithm::HS512 => hmac::HMAC_SHA512,
            _ => return None,
        };
        let key = hmac::Key::new(algorithm, self.key.try_get_as_bytes().ok()?);
        hmac::verify(&key, message, signature).ok()
    }

    /// Keys of fewer than 2,048 bits are refused.
    fn verify_rsa(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let parameters: &RsaParameters = match self.algorithm {
            Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        };
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(der) => {
                let key = UnparsedPublicKey::new(parameters, der);
                key.verify(message, signature).ok()
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                // Some issuers write a zero before the modulus, which is no part of it.
                let start = n.iter().position(|byte| *byte != 0)?;
                let key = RsaPublicKeyComponents {
                    n: n.get(start..)?,
                    e: &e[..],
                };
                key.verify(parameters, message, signature).ok()
            }
        }
    }

    fn verify_curve(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let algorithm: &dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDSA => &signature::ED25519,
            _ => return None,
        };
        let key = UnparsedPublicKey::new(algorithm, self.key.try_get_as_bytes().ok()?);
        key.verify(message, signature).ok()
    }
}
