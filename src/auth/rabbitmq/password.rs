//! Passwords as RabbitMQ keeps them: four bytes of salt, and the hash of salt and password (pure).

use md5::{Digest as _, Md5};
use ring::digest::{SHA256, SHA512, digest};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// The salt's length, in bytes.
const SALT: usize = 4;

/// How a password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hashing {
    Sha256,
    Sha512,
    /// The way of RabbitMQ before 3.6.
    Md5,
}

impl Hashing {
    /// The one that RabbitMQ calls so.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "rabbit_password_hashing_sha256" => Self::Sha256,
            "rabbit_password_hashing_sha512" => Self::Sha512,
            "rabbit_password_hashing_md5" => Self::Md5,
            _ => return None,
        })
    }

    fn is_hash_of(self, salted: &[u8], hash: &[u8]) -> bool {
        match self {
            Self::Sha256 => is_same(digest(&SHA256, salted).as_ref(), hash),
            Self::Sha512 => is_same(digest(&SHA512, salted).as_ref(), hash),
            Self::Md5 => is_same(&Md5::digest(salted), hash),
        }
    }
}

/// In a time that tells nothing of where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// A password's salt and hash. It is never shown, and its memory is cleared.
#[derive(PartialEq, Eq)]
pub(super) struct PasswordHash {
    hashing: Hashing,
    salted: Box<[u8]>,
}

impl PasswordHash {
    pub(super) fn new(hashing: Hashing, salted: Vec<u8>) -> Self {
        Self {
            hashing,
            salted: salted.into(),
        }
    }

    /// True if it is this password's. Never for the empty password, nor where there is no hash:
    /// RabbitMQ lets in neither.
    pub(super) fn is_of(&self, password: &str) -> bool {
        let Some((salt, hash)) = self.salted.split_at_checked(SALT) else {
            return false;
        };
        if password.is_empty() {
            return false;
        }
        let mut salted = [salt, password.as_bytes()].concat();
        let is_it = self.hashing.is_hash_of(&salted, hash);
        salted.zeroize();
        is_it
    }

    /// True if it is hashed by an algorithm that is broken.
    pub(super) fn is_weak(&self) -> bool {
        self.hashing == Hashing::Md5 && self.salted.len() > SALT
    }
}

impl Drop for PasswordHash {
    fn drop(&mut self) {
        self.salted.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn hash(hashing: Hashing, base64: &str) -> PasswordHash {
        PasswordHash::new(hashing, STANDARD.decode(base64).unwrap())
    }

    /// From RabbitMQ's page about passwords.
    #[test]
    fn the_hash_of_rabbitmq_s_own_example_is_that_of_its_password() {
        let hash = hash(
            Hashing::Sha256,
            "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
        );
        assert!(hash.is_of("test12") && !hash.is_of("test13"));
    }

    #[test]
    fn a_hash_is_that_of_its_password_alone() {
        for (hashing, base64) in [
            (
                Hashing::Sha256,
                "kI3GCkJV4qbfhZNNbDObaz9J7ugF6NTNaEeWcPRUHQPOWbBc",
            ),
            (
                Hashing::Sha512,
                "kI3GChivKsUrz5X5kTujhu2+R7/WGhTEm0onVn+ARWdIwDCgjl7mVr6Spq0Vsk+hR0jqC4cFYWdAe3slNrKm\
                 7Ochx5w=",
            ),
            (Hashing::Md5, "kI3GCjRrBqGDc6rnqYq5/7eqrHs="),
        ] {
            let hash = hash(hashing, base64);
            assert!(hash.is_of("s3cret ä"), "{hashing:?}");
            for wrong in ["", "s3cret", "s3cret ä ", "S3cret ä"] {
                assert!(!hash.is_of(wrong), "{hashing:?} {wrong:?}");
            }
        }
    }

    #[test]
    fn without_a_hash_no_password_is_right() {
        for base64 in ["", "AAAA", "AAAAAA==", "AAAAAAA="] {
            let hash = hash(Hashing::Sha256, base64);
            assert!(!hash.is_of("") && !hash.is_of("a"), "{base64}");
        }
    }

    /// Salt and password are hashed together, so the hash of a salt alone is the empty password's.
    #[test]
    fn the_empty_password_is_never_right() {
        let salt = [1, 2, 3, 4];
        let salted = [&salt[..], digest(&SHA256, &salt).as_ref()].concat();
        assert!(!PasswordHash::new(Hashing::Sha256, salted).is_of(""));
    }
}
