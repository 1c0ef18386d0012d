//! Several ways to log in side by side: tokens, say, and a hook.

use std::sync::Arc;

use futures_util::future::{self, BoxFuture, FutureExt};

use super::{Access, Admission, Authenticator, Login, Refusal, User};

/// Asks the first of its members that knows a login's kind, and no other: what that one refuses is
/// refused. About a user it asks the one that let the user in. What no member knows is refused.
#[derive(Default)]
pub struct Chain(Vec<Arc<dyn Authenticator>>);

impl Chain {
    /// These, in that order.
    #[must_use]
    pub fn new(members: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(members)
    }

    fn of(&self, user: &User) -> Option<&dyn Authenticator> {
        let mut members = self.0.iter();
        let member = members.find(|member| member.owns(user))?;
        Some(&**member)
    }
}

fn nobody<T: Send + 'static>() -> BoxFuture<'static, Result<T, Refusal>> {
    let why = "no way to log in that is configured knows this one";
    future::ready(Err(Refusal::Denied(Some(why.into())))).boxed()
}

impl Authenticator for Chain {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        self.log_in(login)
            .map(|admission| admission.map(|admission| admission.user))
            .boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        let mut members = self.0.iter();
        match members.find(|member| member.knows(login)) {
            Some(member) => member.log_in(login),
            None => nobody(),
        }
    }

    fn knows(&self, login: &Login) -> bool {
        self.0.iter().any(|member| member.knows(login))
    }

    fn owns(&self, user: &User) -> bool {
        self.of(user).is_some()
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match self.of(user) {
            Some(member) => member.allow(user, access),
            None => nobody(),
        }
    }

    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match self.of(user) {
            Some(member) => member.allow_anew(user, access),
            None => nobody(),
        }
    }

    fn forget<'a>(&'a self, user: &'a str) -> BoxFuture<'a, usize> {
        async move {
            let mut forgotten: usize = 0;
            for member in &self.0 {
                forgotten = forgotten.saturating_add(member.forget(user).await);
            }
            forgotten
        }
        .boxed()
    }

    fn readiness(&self) -> Result<(), Box<str>> {
        self.0.iter().try_for_each(|member| member.readiness())
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        match self.of(user) {
            Some(member) => member.groups(user),
            None => nobody(),
        }
    }
}
