//! The keys that an issuer publishes: fetched at the start, again and again, and for a token that
//! may be of a key that is not known. While the issuer is away, those of before count.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use parking_lot::{Mutex, RwLock};
use reqwest::{Client, StatusCode, redirect};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use url::Url;

use super::{JwtConfig, SetupError, config, keys::KeySet};
use crate::{
    backoff::Backoff,
    causes::{of_request, with_causes},
    secret_url::without_secrets,
    telemetry::{self, Seldom},
};

/// More of an answer is not read, in bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// The first pause after a failed fetch.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Jwks {
    url: Url,
    client: Client,
    interval: Duration,
    cooldown: Duration,
    timeout: Duration,
    state: RwLock<State>,
    /// One fetch at a time; when the last one ended, or began if it was given up.
    fetching: tokio::sync::Mutex<Option<Instant>>,
    log: Mutex<Failing>,
    /// They are to be fetched at once.
    again: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct State {
    keys: Arc<KeySet>,
    /// Why the last fetch failed; `None`: it did not.
    failure: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Failing {
    seldom: Seldom,
    is_failing: bool,
    /// It was said that a token was not tried with all of them.
    is_crowded: bool,
}

/// The keys as they are known, for a token whose key was not among those of before.
#[derive(Debug)]
pub(super) enum Fetched {
    /// These are the issuer's.
    Now(Arc<KeySet>),
    /// Not known: the issuer is away, or was asked a moment ago.
    Unknown(Box<str>),
}

impl Jwks {
    pub(super) fn new(config: &JwtConfig) -> Result<Arc<Self>, SetupError> {
        let url = config::jwks_url(config).map_err(|why| SetupError::Config("jwks_url", why))?;
        let mut client = Client::builder()
            .user_agent(concat!("stentor/", env!("CARGO_PKG_VERSION")))
            // A server that redirects could choose the keys.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(config.jwks_timeout)
            .pool_max_idle_per_host(0);
        if url.scheme() != "https" {
            // Reads no root certificates: a container may have none.
            client = client.tls_certs_only([]);
        }
        // The client takes the process's provider. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client
            .build()
            .map_err(|error| SetupError::Client(with_causes(&error)))?;
        Ok(Arc::new(Self {
            url,
            client,
            interval: config.jwks_interval,
            cooldown: config.jwks_cooldown,
            timeout: config.jwks_timeout,
            state: RwLock::new(State {
                keys: Arc::default(),
                failure: Some("they were not fetched yet".into()),
            }),
            fetching: tokio::sync::Mutex::default(),
            log: Mutex::default(),
            again: Arc::default(),
        }))
    }

    /// Fetches them now, and again and again, for as long as somebody needs them.
    pub(super) async fn keep(keys: Weak<Self>) {
        let pauses = |jwks: &Self| {
            let longest = match jwks.known().is_empty() {
                // No clients are sent here until there are some, so no login has them fetched.
                true => jwks.cooldown,
                false => jwks.interval,
            };
            let longest = longest.min(Duration::from_secs(60)).max(FIRST_PAUSE);
            Backoff::new((FIRST_PAUSE, longest))
        };
        let Some(mut backoff) = keys.upgrade().map(|jwks| pauses(&jwks)) else {
            return;
        };
        loop {
            let (pause, again) = match keys.upgrade() {
                None => return,
                Some(jwks) => {
                    let mut last = jwks.fetching.lock().await;
                    let pause = match jwks.fetch_at(&mut last).await {
                        true => {
                            backoff = pauses(&jwks);
                            jwks.interval
                        }
                        false => backoff.pause(),
                    };
                    (pause, Arc::clone(&jwks.again))
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = again.notified() => {}
            }
        }
    }

    /// Has [`Jwks::keep`] fetch them at once.
    pub(super) fn fetch_again(&self) {
        self.again.notify_one();
    }

    /// Whether these are the keys of that configuration's issuer, fetched as it says.
    pub(super) fn is_for(&self, config: &JwtConfig) -> bool {
        let is_issuer = config::jwks_url(config).is_ok_and(|url| url == self.url);
        let times = (self.interval, self.cooldown, self.timeout);
        is_issuer
            && times
                == (
                    config.jwks_interval,
                    config.jwks_cooldown,
                    config.jwks_timeout,
                )
    }

    /// Fetches them, before anybody asks for one.
    ///
    /// # Errors
    /// Why it did not go well.
    pub(super) async fn fetch_first(&self) -> Result<(), Box<str>> {
        match self.fetch().await {
            true => Ok(()),
            false => Err(self.state.read().failure.clone().unwrap_or_default()),
        }
    }

    /// The keys, as they were fetched last.
    pub(super) fn known(&self) -> Arc<KeySet> {
        Arc::clone(&self.state.read().keys)
    }

    /// Whether there are any.
    ///
    /// # Errors
    /// Not yet, and why.
    pub(super) fn readiness(&self) -> Result<(), Box<str>> {
        let state = self.state.read();
        if !state.keys.is_empty() {
            return Ok(());
        }
        let why = state.failure.as_deref().unwrap_or("there are none");
        let why = format!("no keys for tokens yet: {why} ({})", self.shown());
        Err(why.into())
    }

    /// The keys, for a token of a key that may not be among those `seen`. However many such tokens
    /// come, there is one fetch at a time, and one in a while; each waits for the one that is under
    /// way, and for no other.
    pub(super) async fn look_again(&self, seen: &Arc<KeySet>) -> Fetched {
        let mut last = self.fetching.lock().await;
        let state = self.state.read().clone();
        // While this one waited, others have fetched them.
        if !Arc::ptr_eq(&state.keys, seen) {
            return Fetched::Now(state.keys);
        }
        if last.is_some_and(|last| last.elapsed() < self.cooldown) {
            let why = state.failure;
            return Fetched::Unknown(why.unwrap_or_else(|| {
                "its key is not known, and the issuer was asked just now".into()
            }));
        }
        self.fetch_at(&mut last).await;
        let state = self.state.read().clone();
        match state.failure {
            None => Fetched::Now(state.keys),
            Some(why) => Fetched::Unknown(why),
        }
    }

    /// A token was not tried with all keys that fit it, which the log says once, until there are
    /// fewer. That there are many is no fault: most issuers name them all, and their tokens name
    /// theirs.
    pub(super) fn say_crowded(&self, algorithm: Algorithm) {
        if !std::mem::replace(&mut self.log.lock().is_crowded, true) {
            let keys = self.known().count(algorithm);
            telemetry::jwks_crowded(&self.shown(), &algorithm, keys);
        }
    }

    /// As [`Jwks::fetch`], in its turn. The pause begins when it ends, so those that wait for a turn
    /// come in that pause, also if it took longer than one.
    async fn fetch_at(&self, last: &mut Option<Instant>) -> bool {
        *last = Some(Instant::now());
        let went_well = self.fetch().await;
        *last = Some(Instant::now());
        went_well
    }

    /// Fetches them; whether that went well. If not, those of before stay.
    async fn fetch(&self) -> bool {
        let fetched = timeout(self.timeout, self.get()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("the issuer did not answer in time".into()));
        let keys = fetched.and_then(|text| KeySet::published(&text));
        telemetry::jwks_fetched(keys.is_ok());
        let mut log = self.log.lock();
        match keys {
            Ok(keys) => {
                log.is_crowded &= keys.crowded().is_some();
                *self.state.write() = State {
                    keys: Arc::new(keys),
                    failure: None,
                };
                if std::mem::take(&mut log.is_failing) {
                    let unsaid = log.seldom.take_unsaid();
                    telemetry::jwks_answers_again(&self.shown(), unsaid);
                }
                true
            }
            Err(why) => {
                log.is_failing = true;
                if let Some(unsaid) = log.seldom.let_through(std::time::Instant::now()) {
                    telemetry::jwks_unavailable(&self.shown(), &why, unsaid);
                }
                self.state.write().failure = Some(why.into());
                false
            }
        }
    }

    async fn get(&self) -> Result<Vec<u8>, String> {
        let sent = self.client.get(self.url.clone()).send().await;
        let mut response = sent.map_err(of_request)?;
        if response.status() != StatusCode::OK {
            return Err(format!(
                "the issuer answered status {}",
                response.status().as_u16()
            ));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(of_request)? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(format!(
                    "the issuer's answer is longer than {MAX_ANSWER} bytes"
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The URL without anything that may be secret.
    fn shown(&self) -> String {
        without_secrets(&self.url)
    }
}
