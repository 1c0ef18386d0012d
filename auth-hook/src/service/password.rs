//! Passwords, hashed with argon2.

use std::fmt;

use argon2::{
    Argon2, Params,
    password_hash::{PasswordHasher, PasswordVerifier, phc},
};
use thiserror::Error;

/// An argon2 hash of a password, with its salt and costs. Shown by no `Debug`.
#[derive(Clone)]
pub struct PasswordHash {
    hash: phc::PasswordHash,
    /// How much work a verification is: memory times passes.
    cost: u64,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").finish_non_exhaustive()
    }
}

/// Why there is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// The text is no argon2 hash. It is not shown, because it may be a password.
    #[error("it is no argon2 hash; `auth-hook hash` makes one")]
    NotAHash,
    /// The system gave no random salt, or no memory.
    #[error("hashing failed")]
    Failed,
}

impl PasswordHash {
    /// Reads what [`PasswordHash::to_text`] wrote: `$argon2id$v=19$…`.
    ///
    /// # Errors
    /// [`PasswordError::NotAHash`].
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordError::NotAHash)?;
        if argon2::Algorithm::try_from(hash.algorithm.as_str()).is_err() || hash.hash.is_none() {
            return Err(PasswordError::NotAHash);
        }
        Self::with_cost(hash).ok_or(PasswordError::NotAHash)
    }

    /// Hashes a password with a new salt and argon2's recommended costs (19 MiB, two passes).
    /// Takes tens of milliseconds.
    ///
    /// # Errors
    /// [`PasswordError::Failed`].
    pub fn new(password: &str) -> Result<Self, PasswordError> {
        Self::with_params(password, Params::default())
    }

    /// Hashes a password at the least cost there is, in microseconds. Only for demos and tests,
    /// whose passwords everybody knows.
    ///
    /// # Errors
    /// [`PasswordError::Failed`].
    pub fn weak(password: &str) -> Result<Self, PasswordError> {
        let params = Params::new(Params::MIN_M_COST, Params::MIN_T_COST, 1, None);
        Self::with_params(password, params.map_err(|_| PasswordError::Failed)?)
    }

    fn with_params(password: &str, params: Params) -> Result<Self, PasswordError> {
        let hash = Argon2::from(params).hash_password(password.as_bytes());
        hash.ok()
            .and_then(Self::with_cost)
            .ok_or(PasswordError::Failed)
    }

    fn with_cost(hash: phc::PasswordHash) -> Option<Self> {
        let params = Params::try_from(&hash).ok()?;
        let cost = u64::from(params.m_cost()) * u64::from(params.t_cost());
        Some(PasswordHash { hash, cost })
    }

    /// The hash as a text, for a users file.
    pub fn to_text(&self) -> String {
        self.hash.to_string()
    }

    /// True if it is the hash of this password. Takes as long as its costs say, and blocks.
    pub fn verify(&self, password: &str) -> bool {
        Argon2::default()
            .verify_password(password.as_bytes(), &self.hash)
            .is_ok()
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = PasswordHash::weak("s3cret").unwrap();
        let read = PasswordHash::parse(&hash.to_text()).unwrap();
        assert!(read.verify("s3cret"));
        assert!(!read.verify("S3cret") && !read.verify(""));
        assert_ne!(
            hash.to_text(),
            PasswordHash::weak("s3cret").unwrap().to_text(),
            "salted"
        );
    }

    #[test]
    fn what_is_no_argon2_hash_is_refused_and_not_shown() {
        for text in [
            "",
            "hunter2",
            "$argon2id$",
            "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ",
            "$2b$1",
        ] {
            assert_eq!(
                PasswordHash::parse(text).unwrap_err(),
                PasswordError::NotAHash,
                "{text}"
            );
        }
    }

    #[test]
    fn debug_shows_no_hash() {
        let hash = PasswordHash::weak("s3cret").unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash { .. }");
    }
}
