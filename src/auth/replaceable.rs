//! Ways to log in that can be replaced while they are asked.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::RwLock;

use super::{Access, Admission, Authenticator, Login, Refusal, User};

/// Asks whichever authenticator is in force. A question that is under way when it is replaced is
/// answered by the one that was asked.
pub struct Replaceable(RwLock<Arc<dyn Authenticator>>);

impl Replaceable {
    /// This one, at first.
    #[must_use]
    pub fn new(first: Arc<dyn Authenticator>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(first)))
    }

    /// From now on `next` is asked.
    pub fn replace(&self, next: Arc<dyn Authenticator>) {
        // The one before may be the last of its kind, and have much to drop.
        let before = std::mem::replace(&mut *self.0.write(), next);
        drop(before);
    }

    fn current(&self) -> Arc<dyn Authenticator> {
        Arc::clone(&self.0.read())
    }
}

impl Authenticator for Replaceable {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        let current = self.current();
        async move { current.user(login).await }.boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        let current = self.current();
        async move { current.log_in(login).await }.boxed()
    }

    fn knows(&self, login: &Login) -> bool {
        self.current().knows(login)
    }

    fn owns(&self, user: &User) -> bool {
        self.current().owns(user)
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let current = self.current();
        async move { current.allow(user, access).await }.boxed()
    }

    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let current = self.current();
        async move { current.allow_anew(user, access).await }.boxed()
    }

    fn forget<'a>(&'a self, user: &'a str) -> BoxFuture<'a, usize> {
        let current = self.current();
        async move { current.forget(user).await }.boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        let current = self.current();
        async move { current.groups(user).await }.boxed()
    }

    fn readiness(&self) -> Result<(), Box<str>> {
        self.current().readiness()
    }
}
