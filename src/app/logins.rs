//! The ways to log in that a configuration asks for, and those that take their place.

use std::sync::Arc;

use super::Error;
use crate::{
    auth::{
        self, Authenticator,
        cache::CachedAuthenticator,
        chain::Chain,
        http::HttpAuthenticator,
        jwt::{JwtAuthenticator, JwtConfig, Keyless, Surroundings},
        rabbitmq::RabbitMqAuthenticator,
    },
    background,
    broker::ExchangeKind,
    config::Config,
};

type Tokens = JwtAuthenticator<Arc<dyn Authenticator>>;

/// All ways to log in, of which each login goes to the first that knows its kind: tokens, then
/// RabbitMQ's own users and the application's hook for all others.
#[derive(Clone)]
pub(super) struct Logins {
    /// Asked about users whom RabbitMQ does not know, too. One that is for rights alone lets nobody
    /// in.
    hook: Option<Arc<dyn Authenticator>>,
    tokens: Option<Arc<Tokens>>,
    /// RabbitMQ's users, which are read again and again.
    pub(super) accounts: Option<Arc<RabbitMqAuthenticator>>,
}

impl Logins {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let hook = hook(config)?;
        let accounts = RabbitMqAuthenticator::new(&config.auth_rabbitmq, hook.clone())
            .map_err(|error| Error::Configuration(format!("[auth.rabbitmq]: {error}")))?;
        let mut logins = Self {
            hook,
            tokens: None,
            accounts,
        };
        if config.auth.jwt.is_on() {
            let keyless = keyless(config);
            let surroundings = surroundings(config, keyless);
            let tokens = Tokens::new(&config.auth.jwt, surroundings, logins.by_name());
            logins.tokens = Some(Arc::new(tokens.map_err(in_tokens)?));
        }
        Ok(logins)
    }

    /// Those of a configuration that takes the place of `before`. The hook, its turns and what is
    /// remembered of its answers stay if its keys do; files with keys are read again.
    pub(super) async fn replaced(&self, before: &Config, config: &Config) -> Result<Self, Error> {
        let hook = match asks_alike(&before.auth, &config.auth) {
            true => self.hook.clone(),
            false => hook(config)?,
        };
        let mut logins = Self {
            hook,
            tokens: None,
            accounts: self.accounts.clone(),
        };
        if config.auth.jwt.is_on() {
            let keyless = keyless(config);
            let (surroundings, by_name) = (surroundings(config, keyless), logins.by_name());
            let former = self.tokens.as_deref();
            let tokens = Tokens::replacing(former, &config.auth.jwt, surroundings, by_name).await;
            logins.tokens = Some(Arc::new(tokens.map_err(in_tokens)?));
        }
        Ok(logins)
    }

    /// RabbitMQ's users and the issuer's keys are read again at once, and go with these.
    pub(super) fn put_in_force(&self) {
        if let Some(accounts) = &self.accounts {
            accounts.set_next(self.hook.clone());
            accounts.read_again();
        }
        if let Some(tokens) = &self.tokens {
            tokens.fetch_again();
        }
    }

    /// All in one. Also where there is only one: a session may be of another, which a reload has
    /// taken out.
    pub(super) fn chained(&self) -> Arc<dyn Authenticator> {
        let mut members: Vec<Arc<dyn Authenticator>> = Vec::new();
        members.extend(self.tokens.clone().map(|tokens| tokens as _));
        members.extend(self.by_name());
        Arc::new(Chain::new(members))
    }

    fn by_name(&self) -> Option<Arc<dyn Authenticator>> {
        let accounts = self.accounts.clone().map(|accounts| accounts as _);
        accounts.or_else(|| self.hook.clone())
    }
}

/// Whether both ask the same hook in the same way.
fn asks_alike(one: &auth::Config, other: &auth::Config) -> bool {
    let without_tokens = |config: &auth::Config| auth::Config {
        jwt: JwtConfig::default(),
        ..config.clone()
    };
    one.jwt.is_on() == other.jwt.is_on() && without_tokens(one) == without_tokens(other)
}

/// The application's hook, and the memory of its answers.
fn hook(config: &Config) -> Result<Option<Arc<dyn Authenticator>>, Error> {
    if !config.auth.has_hook() {
        return Ok(None);
    }
    let hook = HttpAuthenticator::new(&config.auth)
        .map_err(|error| Error::Configuration(format!("[auth]: {error}")))?;
    let (ttl, size) = (config.auth.cache_ttl, config.auth.cache_size);
    let cached = Arc::new(CachedAuthenticator::new(Arc::new(hook), ttl, size));
    background::spawn(CachedAuthenticator::sweep(Arc::downgrade(&cached)));
    Ok(Some(cached))
}

/// Exchanges whose routing keys tell nothing to a token's patterns.
fn keyless(config: &Config) -> Keyless {
    let exchanges = config.broker.exchanges.iter();
    let keyless = exchanges.filter(|(_, kind)| **kind != ExchangeKind::Topic);
    Keyless::new(keyless.map(|(name, _)| &**name))
}

fn surroundings(config: &Config, keyless: Keyless) -> Surroundings<'_> {
    Surroundings {
        default_vhost: &config.broker.default_vhost,
        topics: &config.stomp.default_topic_exchange,
        keyless,
    }
}

/// Rights that tokens bring along are not remembered by the user's name: they are in front of the
/// memory of the hook's answers.
fn in_tokens(error: auth::jwt::SetupError) -> Error {
    Error::Configuration(format!("[auth.jwt] {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{
        Access, Login, Permission, Refusal, ResourceKind, User,
        jwt::testing::{SECRET, claims, hs256},
    };

    /// Otherwise it would have the rights of whoever is called so at the hook.
    #[tokio::test]
    async fn a_session_of_a_way_that_was_taken_out_is_nobody_else_s() {
        let hook = "hook = \"http://127.0.0.1:1/auth\"\n";
        let with = |auth: &str| Config {
            auth: auth::Config::of_text(auth),
            ..Config::default()
        };
        let jwt = format!("[jwt]\naudiences = [\"stentor\"]\nsecret = \"{SECRET}\"\n");
        let (before, after) = (with(&format!("{hook}{jwt}")), with(hook));
        let logins = Logins::new(&before).unwrap();
        let login = Login {
            user: "".into(),
            password: Some(hs256(&claims()).into()),
            vhost: "/".into(),
            more: Vec::new(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            is_known: false,
        };
        let alice = logins.chained().user(&login).await.unwrap();
        let without = logins.replaced(&before, &after).await.unwrap().chained();
        let access = Access::Vhost {
            vhost: "/".into(),
            ip: login.address,
        };
        let answers = [
            without.allow(&alice, &access).await,
            without.allow_anew(&alice, &access).await,
            without.groups(&alice).await.map(drop),
        ];
        for answer in answers {
            // The hook, which is away, would be at fault.
            assert!(matches!(answer, Err(Refusal::Denied(_))), "{answer:?}");
        }
    }

    /// A hook without `user_path` knows the users of tokens, also where RabbitMQ's own log in.
    #[tokio::test]
    async fn a_hook_for_rights_alone_is_asked_beside_rabbitmq_s_users() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("definitions.json");
        let definitions = serde_json::json!({
            "rabbit_version": "3.10.8",
            "users": [{
                "name": "bob", "password_hash": "", "tags": [], "limits": {},
                "hashing_algorithm": "rabbit_password_hashing_sha256",
            }],
            "vhosts": [{ "name": "/", "limits": [] }],
            "permissions": [],
            "topic_permissions": [],
        });
        std::fs::write(&file, definitions.to_string()).unwrap();
        let auth = format!(
            "resource_path = \"http://127.0.0.1:1/resource\"\n\
             groups_path = \"http://127.0.0.1:1/groups\"\n\
             [jwt]\naudiences = [\"stentor\"]\nsecret = \"{SECRET}\"\nrights = \"hook\"\n"
        );
        let mut config = Config {
            auth: auth::Config::of_text(&auth),
            ..Config::default()
        };
        config.auth_rabbitmq.definitions = file;
        let before = Logins::new(&config).unwrap();
        let after = before.replaced(&config, &config).await.unwrap();
        after.put_in_force();
        let login = |user: &str, password: String| Login {
            user: user.into(),
            password: Some(password.into()),
            vhost: "/".into(),
            more: Vec::new(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            is_known: false,
        };
        let access = Access::Resource {
            vhost: "/".into(),
            kind: ResourceKind::Exchange,
            name: "feed".into(),
            permission: Permission::Read,
        };
        for logins in [before, after] {
            let logins = logins.chained();
            let alice = logins.user(&login("", hs256(&claims()))).await.unwrap();
            // It is away, and so at fault: it was asked.
            let answer = logins.allow(&alice, &access).await;
            assert!(matches!(answer, Err(Refusal::Faulty(_))), "{answer:?}");
            let without_token = User {
                source: None,
                ..alice.clone()
            };
            let answer = logins.allow(&without_token, &access).await;
            assert!(matches!(answer, Err(Refusal::Denied(_))), "{answer:?}");
            let groups = logins.groups(&alice).await;
            assert!(matches!(groups, Err(Refusal::Faulty(_))), "{groups:?}");
            // RabbitMQ's users are RabbitMQ's, and one whom it does not know any more is nobody's.
            for name in ["bob", "carol"] {
                let answer = logins.allow(&User::new(name, ""), &access).await;
                assert!(matches!(answer, Err(Refusal::Denied(_))), "{answer:?}");
            }
            let carol = login("carol", "secret-of-carol".to_owned());
            let refused = logins.user(&carol).await;
            assert!(matches!(refused, Err(Refusal::Denied(_))), "{refused:?}");
        }
    }
}
