//! A configuration takes the place of another while the gateway serves: first all of it is read,
//! checked and built; only then is anything replaced, and that cannot fail.

use std::{path::PathBuf, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::RwLock;
use tokio::task::spawn_blocking;

use super::{FewFiles, fit_to_files, logins::Logins, notify, settings};
use crate::{
    api::{self, Configuration, Difference, KeyChange, KeyInForce, Reconfigure},
    auth::{Forwarding, Replaceable},
    background,
    config::{Change, Config, File, Loaded, Plan, Source, environment},
    http::{self, Origins},
    listen::{self, Tls},
    node::Services,
    telemetry,
};

/// The parts whose configuration can be replaced, and the configuration.
pub(super) struct Reloader {
    /// `None`: all is in the environment.
    pub(super) file: Option<PathBuf>,
    pub(super) loaded: RwLock<Arc<Loaded>>,
    /// Locked by the one reload at a time.
    pub(super) logins: tokio::sync::Mutex<Logins>,
    pub(super) auth: Arc<Replaceable>,
    pub(super) services: Arc<Services>,
    pub(super) gateway: Arc<http::Gateway>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) api: Arc<api::Rules>,
    pub(super) node: Box<str>,
}

/// The rules for requests of clients.
pub(super) fn rules(config: &Config) -> http::Rules {
    http::Rules {
        origins: Origins {
            allowed: config.listen.origins.clone(),
            allow_missing: config.listen.allow_missing_origin,
        },
        forwarding: Forwarding::new(&config.auth),
    }
}

impl Reloader {
    /// What is in force.
    pub(super) fn config(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read())
    }

    /// Reads the configuration again, and puts it in force. The log says how that went. Dropped while
    /// it waits, it has changed nothing.
    pub(super) async fn reload(&self) -> Result<Plan, String> {
        let mut logins = self.logins.lock().await;
        notify::reloading();
        let reloaded = self.replace(&mut logins).await;
        notify::ready();
        match &reloaded {
            Ok(plan) => tell(plan),
            Err(faults) => telemetry::not_reloaded(faults),
        }
        reloaded
    }

    async fn replace(&self, logins: &mut Logins) -> Result<Plan, String> {
        let before = self.config();
        let (plan, few_files) = self.plan(None).await?;
        let config = &plan.next.config;
        if let Some(few_files) = few_files {
            few_files.tell();
        }
        let tls = match &self.tls {
            None => None,
            Some(tls) => Some((tls, prepare(config).await?)),
        };
        let next = logins.replaced(&before.config, config).await;
        let next = next.map_err(|error| error.to_string())?;
        // From here on nothing fails, and nothing waits.
        telemetry::set_level(&config.log).map_err(|error| error.to_string())?;
        if let Some((tls, prepared)) = tls {
            tls.replace(prepared);
        }
        next.put_in_force();
        self.auth.replace(next.chained());
        *logins = next;
        let has_accounts = logins.accounts.is_some();
        let has_events = self.services.has_events();
        let settings = settings(config, &self.node, has_events, has_accounts);
        let listen::Config {
            max_connections,
            max_unauthenticated,
            ..
        } = config.listen;
        self.services.replace_settings(settings, max_connections);
        self.services
            .registry
            .places()
            .set_most(max_unauthenticated);
        self.gateway.replace_rules(rules(config));
        self.services.control.taps().replace(config.tail.clone());
        self.api.replace(config.api.clone(), config.health.clone());
        *self.loaded.write() = Arc::new(plan.next.clone());
        Ok(plan)
    }

    /// From what is in force to that text, or to the file as it is now; and whether there are too few
    /// files for it.
    async fn plan(&self, text: Option<String>) -> Result<(Plan, Option<FewFiles>), String> {
        let (before, file) = (self.config(), self.file.clone());
        // Certificates and definitions are read, too.
        let planning = spawn_blocking(move || {
            let source = match (text, file) {
                (Some(text), _) => Some(Source {
                    name: "the configuration".to_owned(),
                    text,
                }),
                (None, Some(path)) => Some(Source::read_again(&path)?),
                (None, None) => None,
            };
            let file: Option<File<'_>> = source.as_ref().map(Source::file);
            let mut new = Config::load(file, environment()).map_err(|faults| faults.to_string())?;
            let few_files = fit_to_files(&mut new.config.listen);
            let contradicted = |faults| {
                format!(
                    "the keys that a reload changes do not go with those that need a restart: \
                     {faults}"
                )
            };
            let plan = before.replaced_by(&new).map(|plan| (plan, few_files));
            plan.map_err(contradicted)
        });
        match planning.await {
            Ok(plan) => plan,
            Err(_) => Err("the gateway is shutting down".to_owned()),
        }
    }
}

async fn prepare(config: &Config) -> Result<listen::tls::Prepared, String> {
    let tls = config.tls.clone();
    match spawn_blocking(move || Tls::prepare(&tls)).await {
        Ok(prepared) => prepared.map_err(|error| error.to_string()),
        Err(_) => Err("the gateway is shutting down".to_owned()),
    }
}

fn tell(plan: &Plan) {
    let key = |change: &Change| format!("[{}] {}", change.section, change.key);
    for change in &plan.changed {
        telemetry::key_changed(&key(change), change.old.as_deref(), change.new.as_deref());
    }
    for change in &plan.waiting {
        telemetry::key_waits(&key(change), change.old.as_deref(), change.new.as_deref());
    }
    telemetry::reloaded(plan.changed.len(), plan.waiting.len());
}

fn difference(plan: &Plan) -> Difference {
    let shown = |changes: &[Change]| {
        let changes = changes.iter();
        let shown = changes.map(|change| KeyChange {
            key: format!("[{}] {}", change.section, change.key),
            old: change.old.clone(),
            new: change.new.clone(),
            secret: change.is_secret,
        });
        shown.collect()
    };
    Difference {
        changed: shown(&plan.changed),
        needs_restart: shown(&plan.waiting),
    }
}

/// For the HTTP API.
pub(super) struct Remote(pub(super) Arc<Reloader>);

impl Reconfigure for Remote {
    fn reload(&self) -> BoxFuture<'_, Result<Difference, String>> {
        let reloader = Arc::clone(&self.0);
        // A task of its own: a client that goes away must not leave half a reload behind.
        let reloading = background::spawn(async move { reloader.reload().await });
        async move {
            match reloading.await {
                Ok(plan) => plan.map(|plan| difference(&plan)),
                Err(_) => Err("the gateway is shutting down".to_owned()),
            }
        }
        .boxed()
    }

    fn compare(&self, toml: Option<String>) -> BoxFuture<'_, Result<Difference, String>> {
        async move {
            let (plan, _) = self.0.plan(toml).await?;
            Ok(difference(&plan))
        }
        .boxed()
    }

    fn in_force(&self) -> Configuration {
        let all = self.0.config().in_force().into_iter();
        Configuration {
            file: self.0.file.as_ref().map(|file| file.display().to_string()),
            keys: all
                .map(|key| KeyInForce {
                    section: key.section.to_owned(),
                    key: key.key.to_owned(),
                    value: key.value,
                    source: key.source,
                    reloads: key.reloads,
                })
                .collect(),
        }
    }
}
