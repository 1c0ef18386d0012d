//! Tokens (JWT) as logins, without a hook: the keys of their issuer prove them, and their claims say
//! who the user is, what it may do, and until when.
//!
//! | Module | Its part |
//! |---|---|
//! | this one | the [`Authenticator`]: from a login to the answer |
//! | `config` | the section `[auth.jwt]` |
//! | `keys`, `jwks` | the keys: out of text (pure), and fetched from the issuer |
//! | `verify` | a token's signature (pure) |
//! | `claims` | from claims to a user, rights and an end (pure) |
//! | `templates`, `scopes`, `grants` | what the rights are, and whether they are enough (pure) |

mod claims;
mod config;
mod grants;
mod jwks;
mod keys;
mod scopes;
mod templates;
mod verify;

#[cfg(test)]
mod tests;
/// Tokens for the tests of others.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::tests::{SECRET, claims, hs256};
}

use std::{
    fmt, fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{self, BoxFuture, FutureExt};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use thiserror::Error;

use super::{Access, Admission, Authenticator, Login, Refusal, Source, User};
use crate::{background, causes::unreadable, telemetry, units::Checked};
pub use claims::Surroundings;
use claims::{Claims, Rules};
pub use config::{JwtConfig, Rights, Secret};
pub use grants::{Grants, Keyless};
use jwks::{Fetched, Jwks};
use keys::KeySet;
use verify::Unproved;
pub(super) use verify::looks_like_token;

/// Lets in whoever has a token that counts.
#[derive(Debug)]
pub struct JwtAuthenticator<H> {
    rules: Rules,
    allowed: Vec<Algorithm>,
    /// Keys of files and of the configuration.
    fixed: KeySet,
    jwks: Option<Arc<Jwks>>,
    /// Who knows what a token does not say: rights, groups.
    hook: Option<H>,
}

/// Why tokens cannot be checked at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A key of the configuration has an impossible value, or names a file that cannot be used.
    #[error("{0} {1}")]
    Config(&'static str, String),
    /// TLS cannot be set up.
    #[error(
        "the HTTP client cannot be set up: {0}; https: needs the system's certificate authorities \
         (install ca-certificates, or set SSL_CERT_FILE)"
    )]
    Client(String),
}

/// Looks at the files that the configuration names.
///
/// # Errors
/// The key that names it, and what is wrong with it.
pub fn check_files(config: &JwtConfig) -> Checked {
    fixed_keys(config).map(drop)
}

fn fixed_keys(config: &JwtConfig) -> Result<KeySet, (&'static str, String)> {
    let wrong =
        |key, path: &Path, why: &dyn fmt::Display| (key, format!("{} {why}", path.display()));
    let read = |key, path: &Path| fs::read(path).map_err(|error| (key, unreadable(path, &error)));
    let mut keys = KeySet::default();
    for path in &config.public_keys {
        let text = read("public_keys", path)?;
        let read = KeySet::pem(&text);
        keys.extend(read.map_err(|why| wrong("public_keys", path, &why))?);
    }
    if !config.secret.0.is_empty() {
        let secret = KeySet::secret(config.secret.0.as_bytes());
        keys.extend(secret.map_err(|why| ("secret", why))?);
    }
    if !config.secret_file.as_os_str().is_empty() {
        let text = read("secret_file", &config.secret_file)?;
        // Editors end files with a line break, which is no part of the secret.
        let secret = text.trim_ascii();
        config::secret(secret)
            .and_then(|()| KeySet::secret(secret))
            .map(|secret| keys.extend(secret))
            .map_err(|why| wrong("secret_file", &config.secret_file, &why))?;
    }
    match keys.too_many() {
        Some(why) => Err(("public_keys", why)),
        None => Ok(keys),
    }
}

impl<H: std::ops::Deref<Target = dyn Authenticator> + Send + Sync + 'static> JwtAuthenticator<H> {
    /// Makes ready; the issuer's keys are fetched from now on, on a task of the runtime. `hook`
    /// answers what tokens do not.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(
        config: &JwtConfig,
        surroundings: Surroundings<'_>,
        hook: Option<H>,
    ) -> Result<Self, SetupError> {
        let jwks = match &*config.jwks_url {
            "" => None,
            _ => Some(Jwks::new(config)?),
        };
        let new = Self::with_keys(config, surroundings, hook, jwks)?;
        if let Some(jwks) = &new.jwks {
            background::spawn(Jwks::keep(Arc::downgrade(jwks)));
        }
        Ok(new)
    }

    /// As [`JwtAuthenticator::new`], to take the place of one that serves: files are read again, and
    /// its issuer's keys count on if the issuer is the same. Keys of a new issuer are fetched first.
    ///
    /// # Errors
    /// As [`JwtAuthenticator::new`]; or the keys of a new issuer could not be fetched.
    pub async fn replacing(
        before: Option<&Self>,
        config: &JwtConfig,
        surroundings: Surroundings<'_>,
        hook: Option<H>,
    ) -> Result<Self, SetupError> {
        let before = before.and_then(|before| before.jwks.as_ref());
        let kept = before.filter(|jwks| jwks.is_for(config));
        let jwks = match (kept, &*config.jwks_url) {
            (_, "") => None,
            (Some(jwks), _) => Some(Arc::clone(jwks)),
            (None, _) => {
                let jwks = Jwks::new(config)?;
                let fetched = jwks.fetch_first().await;
                fetched.map_err(|why| {
                    let why = format!("its keys could not be fetched: {why}");
                    SetupError::Config("jwks_url", why)
                })?;
                Some(jwks)
            }
        };
        let new = Self::with_keys(config, surroundings, hook, jwks)?;
        if let Some(jwks) = new.jwks.as_ref().filter(|_| kept.is_none()) {
            background::spawn(Jwks::keep(Arc::downgrade(jwks)));
        }
        Ok(new)
    }

    fn with_keys(
        config: &JwtConfig,
        surroundings: Surroundings<'_>,
        hook: Option<H>,
        jwks: Option<Arc<Jwks>>,
    ) -> Result<Self, SetupError> {
        let wrong = |(key, message)| SetupError::Config(key, message);
        config.check().map_err(wrong)?;
        Ok(Self {
            rules: Rules::new(config, surroundings),
            allowed: config.allowed(),
            fixed: fixed_keys(config).map_err(wrong)?,
            jwks,
            hook,
        })
    }

    /// Has the issuer's keys fetched again at once.
    pub fn fetch_again(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.fetch_again();
        }
    }

    async fn admit(&self, login: &Login) -> Result<Admission, Refusal> {
        let token = login.password.as_deref().unwrap_or_default();
        let claims = self.verify(token).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or(Duration::ZERO);
        self.rules.judge(&claims, login, now).map_err(|unfit| {
            telemetry::token_refused(unfit.name());
            Refusal::Denied(Some(unfit.to_string().into()))
        })
    }

    async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let refused = |why: &str| {
            telemetry::token_refused("not proved");
            Refusal::Denied(Some(format!("the token does not count: {why}").into()))
        };
        let head = verify::head(token, &self.allowed).map_err(refused)?;
        // Keys of files have no names, so they fit tokens that the issuer's have signed.
        let by_files = match verify::verify(token, &head, &self.fixed) {
            Ok(claims) => return Ok(claims),
            Err(unproved) => unproved,
        };
        // No issuer publishes secrets.
        let is_secret = head.algorithm.family() == AlgorithmFamily::Hmac;
        let jwks = self.jwks.as_ref().filter(|_| !is_secret);
        let jwks = jwks.ok_or_else(|| refused(by_files.why()))?;
        let final_by = |unproved: Unproved| {
            if unproved == Unproved::Untried {
                jwks.say_crowded(head.algorithm);
            }
            match unproved {
                Unproved::NoKey => refused(by_files.why()),
                other => refused(other.why()),
            }
        };
        let known = jwks.known();
        let unproved = match verify::verify(token, &head, &known) {
            Ok(claims) => return Ok(claims),
            Err(unproved) => unproved,
        };
        if !unproved.may_need_others() {
            return Err(final_by(unproved));
        }
        match jwks.look_again(&known).await {
            Fetched::Now(keys) => verify::verify(token, &head, &keys).map_err(final_by),
            Fetched::Unknown(why) if unproved == Unproved::NoKey => {
                telemetry::token_refused("no keys");
                Err(Refusal::NoKeys(why))
            }
            // A forged one looks the same, and is not to come again and again.
            Fetched::Unknown(_) => Err(final_by(unproved)),
        }
    }

    async fn decide(&self, user: &User, access: &Access, anew: bool) -> Result<(), Refusal> {
        let Some(Source::Token(grants)) = user.source.as_deref() else {
            return Err(Refusal::Denied(None));
        };
        let granted = grants.now();
        let denied = || Refusal::Denied(Some("the token does not grant it".into()));
        if granted.decide {
            return granted.allows(access).then_some(()).ok_or_else(denied);
        }
        if let Access::Vhost { vhost, .. } = access
            && !granted.lets_in(vhost)
        {
            return Err(denied());
        }
        match &self.hook {
            Some(hook) if anew => hook.allow_anew(user, access).await,
            Some(hook) => hook.allow(user, access).await,
            None => Err(denied()),
        }
    }
}

impl<H: std::ops::Deref<Target = dyn Authenticator> + Send + Sync + 'static> Authenticator
    for JwtAuthenticator<H>
{
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        async move { Ok(self.admit(login).await?.user) }.boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        self.admit(login).boxed()
    }

    fn knows(&self, login: &Login) -> bool {
        login.password.as_deref().is_some_and(looks_like_token)
    }

    fn owns(&self, user: &User) -> bool {
        matches!(user.source.as_deref(), Some(Source::Token(_)))
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        self.decide(user, access, false).boxed()
    }

    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        self.decide(user, access, true).boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        if let Some(Source::Token(grants)) = user.source.as_deref()
            && let Some(groups) = &grants.now().groups
        {
            return future::ready(Ok(groups.clone())).boxed();
        }
        match &self.hook {
            Some(hook) => hook.groups(user),
            None => future::ready(Ok(Vec::new())).boxed(),
        }
    }

    /// Later it always is: keys of before stay, and a reload fetches those of a new issuer first.
    fn readiness(&self) -> Result<(), Box<str>> {
        match &self.jwks {
            Some(jwks) if self.fixed.is_empty() => jwks.readiness(),
            _ => Ok(()),
        }
    }
}
