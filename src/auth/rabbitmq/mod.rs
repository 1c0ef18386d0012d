//! RabbitMQ's own users: their passwords and permissions, as RabbitMQ exports them, answer without
//! a hook.
//!
//! `definitions` reads RabbitMQ's export, `accounts` answers as `rabbit_auth_backend_internal`
//! does, `password` and [`pattern`] are its hashes and its regular expressions: all of them pure.
//! `source` fetches, and [`RabbitMqAuthenticator::watch`] fetches again and again.

mod accounts;
mod config;
mod definitions;
mod objects;
mod password;
pub mod pattern;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::{fmt, future, path::Path, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify};

pub use accounts::Accounts;
pub use config::{RabbitMqConfig, management_url};
pub use definitions::{Definitions, DefinitionsError};
pub use source::{Management, SourceError, Tag};

use self::{config::Place, source::Source};
use super::{Access, Admission, Authenticator, Login, Refusal, User};
use crate::secret_url::SecretUrl;

/// Answers for RabbitMQ's own users. Whoever is none of them is asked of another authenticator, if
/// there is one: a user is one's or the other's, by name.
pub struct RabbitMqAuthenticator {
    /// `None`: not read yet.
    accounts: RwLock<Option<Arc<Accounts>>>,
    loopback_users: Box<[Box<str>]>,
    /// Knows those users who are not RabbitMQ's.
    next: RwLock<Option<Arc<dyn Authenticator>>>,
    /// Read by one at a time.
    source: Arc<Mutex<Source>>,
    /// Its place, for the log.
    place: Box<str>,
    /// It is to be read at once.
    again: Arc<Notify>,
}

/// There can be no authenticator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A key of the configuration has an impossible value.
    #[error("{0} {1}")]
    Config(&'static str, String),
    /// The users cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl RabbitMqAuthenticator {
    /// Reads the accounts of a file. Those of the management plug-in are fetched by
    /// [`RabbitMqAuthenticator::watch`]; until then nobody of them logs in. `None`: the
    /// configuration wants no users of RabbitMQ.
    ///
    /// # Errors
    /// The configuration is wrong, or the file cannot be used.
    pub fn new(
        config: &RabbitMqConfig,
        next: Option<Arc<dyn Authenticator>>,
    ) -> Result<Option<Arc<Self>>, SetupError> {
        let place = config
            .place()
            .map_err(|(key, problem)| SetupError::Config(key, problem))?;
        let Some(place) = place else {
            return Ok(None);
        };
        let mut source = Source::new(place)?;
        let accounts = match source.is_file() {
            true => source.read_file(&Accounts::default())?,
            false => None,
        };
        let place: Box<str> = source.to_string().into();
        if let Some(accounts) = &accounts {
            watch::announce(&place, accounts, accounts.len());
        }
        let loopback_users = config.loopback_users.iter();
        Ok(Some(Arc::new(Self {
            accounts: RwLock::new(accounts.map(Arc::new)),
            loopback_users: loopback_users.map(|user| user.as_str().into()).collect(),
            next: RwLock::new(next),
            source: Arc::new(Mutex::new(source)),
            place,
            again: Arc::default(),
        })))
    }

    /// From now on `next` is asked about users who are not RabbitMQ's.
    pub fn set_next(&self, next: Option<Arc<dyn Authenticator>>) {
        *self.next.write() = next;
    }

    fn next(&self) -> Option<Arc<dyn Authenticator>> {
        self.next.read().clone()
    }

    /// Has the accounts read again at once, by [`RabbitMqAuthenticator::watch`].
    pub fn read_again(&self) {
        self.again.notify_one();
    }

    /// The accounts in force.
    fn accounts(&self) -> Result<Arc<Accounts>, Refusal> {
        let accounts = self.accounts.read().clone();
        accounts.ok_or_else(|| {
            Refusal::Faulty(format!("RabbitMQ's users were not read yet: {}", self.place).into())
        })
    }

    fn admit(&self, accounts: &Accounts, login: &Login) -> Result<User, Refusal> {
        let denied = |why: &str| Refusal::Denied(Some(why.into()));
        if !User::is_name(&login.user) {
            return Err(denied(
                "a user's name has 1 to 255 bytes, none a control character",
            ));
        }
        let tags = accounts
            .log_in(&login.user, login.password.as_deref())
            .map_err(denied)?;
        let is_local = login.address.to_canonical().is_loopback();
        if !is_local && self.loopback_users.contains(&login.user) {
            return Err(denied(
                "the user is one of [auth.rabbitmq] loopback_users, who log in from this machine \
                 only",
            ));
        }
        Ok(User::new(&*login.user, tags))
    }

    /// The accounts, if the user is RabbitMQ's; else the authenticator that may know the user.
    fn backend(&self, user: &str) -> Result<Backend, Refusal> {
        let accounts = self.accounts()?;
        Ok(match self.next() {
            Some(next) if !accounts.has(user) => Backend::Next(next),
            _ => Backend::Accounts(accounts),
        })
    }
}

enum Backend {
    Accounts(Arc<Accounts>),
    Next(Arc<dyn Authenticator>),
}

impl Authenticator for RabbitMqAuthenticator {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        self.log_in(login)
            .map(|admission| admission.map(|admission| admission.user))
            .boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        match self.backend(&login.user) {
            Ok(Backend::Next(next)) => async move {
                let admission = next.log_in(login).await?;
                // The hook may name the user; a user of RabbitMQ is RabbitMQ's to let in.
                match self.backend(&admission.user.name)? {
                    Backend::Next(_) => Ok(admission),
                    Backend::Accounts(_) => Err(Refusal::Denied(Some(
                        "the hook names a user of RabbitMQ ([auth.rabbitmq])".into(),
                    ))),
                }
            }
            .boxed(),
            Ok(Backend::Accounts(accounts)) => {
                let user = self.admit(&accounts, login);
                future::ready(user.map(Admission::from)).boxed()
            }
            Err(refusal) => future::ready(Err(refusal)).boxed(),
        }
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match self.backend(&user.name) {
            Ok(Backend::Next(next)) => async move { next.allow(user, access).await }.boxed(),
            Ok(Backend::Accounts(accounts)) => {
                future::ready(answer(&accounts, user, access)).boxed()
            }
            Err(refusal) => future::ready(Err(refusal)).boxed(),
        }
    }

    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match self.backend(&user.name) {
            Ok(Backend::Next(next)) => async move { next.allow_anew(user, access).await }.boxed(),
            Ok(Backend::Accounts(accounts)) => {
                future::ready(answer(&accounts, user, access)).boxed()
            }
            Err(refusal) => future::ready(Err(refusal)).boxed(),
        }
    }

    fn forget<'a>(&'a self, user: &'a str) -> BoxFuture<'a, usize> {
        match self.next() {
            Some(next) => async move { next.forget(user).await }.boxed(),
            None => future::ready(0).boxed(),
        }
    }

    /// RabbitMQ knows no groups; the hook may.
    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        match self.next() {
            Some(next) => async move { next.groups(user).await }.boxed(),
            None => future::ready(Ok(Vec::new())).boxed(),
        }
    }

    fn readiness(&self) -> Result<(), Box<str>> {
        if self.accounts.read().is_none() {
            return Err(format!("RabbitMQ's users were not read yet: {}", self.place).into());
        }
        self.next().map_or(Ok(()), |next| next.readiness())
    }
}

fn answer(accounts: &Accounts, user: &User, access: &Access) -> Result<(), Refusal> {
    let answer = accounts.allow(&user.name, access);
    answer.map_err(|why| Refusal::Denied(Some(why.into())))
}

/// Reads a file of definitions as it is to be used.
///
/// # Errors
/// It cannot be used; the text names the place in it.
pub fn check_file(path: &Path) -> Result<(), SourceError> {
    source::check_file(path)
}

/// Reads the users of the management plug-in at that URL as they are to be used; how many there are.
///
/// # Errors
/// It has no answer that can be used.
pub async fn ask_for_users(url: SecretUrl) -> Result<usize, SourceError> {
    let mut source = Source::new(Place::Management(url))?;
    let accounts = source.ask(&Accounts::default()).await?;
    // Without former ones, they are new.
    Ok(accounts.map_or(0, |accounts| accounts.len()))
}

impl fmt::Debug for RabbitMqAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqAuthenticator")
            .field("place", &self.place)
            .field("loopback_users", &self.loopback_users)
            .finish_non_exhaustive()
    }
}
