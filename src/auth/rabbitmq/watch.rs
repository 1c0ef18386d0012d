//! Reads RabbitMQ's accounts again and again, and puts them in force.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};

use super::{Accounts, RabbitMqAuthenticator, SourceError};
use crate::{
    backoff::Backoff,
    telemetry::{self, Repeated},
};

/// The first pause between attempts, for as long as there are no accounts at all.
const SOON: Duration = Duration::from_secs(1);

/// The users who are not as they were.
type Changed = BTreeSet<Box<str>>;

impl RabbitMqAuthenticator {
    /// Reads the accounts at this interval, and whenever [`RabbitMqAuthenticator::read_again`]
    /// asks for it; for as long as the authenticator is there. What cannot be used changes
    /// nothing, and is logged. `changed` gets the users who are not as they were, once the new
    /// accounts are in force; the first accounts change nobody.
    pub async fn watch(authenticator: Weak<Self>, refresh: Duration, changed: impl Fn(Changed)) {
        let mut faults = Faults::default();
        let mut soon = Backoff::new((SOON, refresh.max(SOON)));
        loop {
            let Some(this) = authenticator.upgrade() else {
                return;
            };
            let read = this.read().await;
            let are_there = this.accounts.read().is_some();
            faults.note(&this.place, &read, are_there);
            if let Ok(Some(users)) = read
                && !users.is_empty()
            {
                changed(users);
            }
            let again = Arc::clone(&this.again);
            drop(this);
            let pause = if are_there { refresh } else { soon.pause() };
            tokio::select! {
                () = sleep(pause) => {}
                () = again.notified() => {}
            }
        }
    }

    /// Reads the accounts, and puts them in force if they are new. The users who have changed.
    pub(super) async fn read(self: &Arc<Self>) -> Result<Option<Changed>, SourceError> {
        let former = self.accounts.read().clone();
        let before = former.clone().unwrap_or_default();
        let mut source = Arc::clone(&self.source).lock_owned().await;
        let read = if source.is_file() {
            // The disk and the patterns take their time.
            let reading = spawn_blocking(move || source.read_file(&before));
            match reading.await {
                Ok(read) => read?,
                // The runtime ends.
                Err(_) => None,
            }
        } else {
            source.ask(&before).await?
        };
        let Some(accounts) = read else {
            return Ok(None);
        };
        let changed = former.map_or_else(Changed::new, |former| accounts.changed_since(&former));
        let accounts = Arc::new(accounts);
        *self.accounts.write() = Some(Arc::clone(&accounts));
        announce(&self.place, &accounts, changed.len());
        Ok(Some(changed))
    }
}

/// Accounts are in force.
pub(super) fn announce(place: &str, accounts: &Accounts, changed: usize) {
    telemetry::accounts_loaded(place, accounts.len(), accounts.vhosts(), changed);
    let weak = accounts.weak_passwords();
    if weak > 0 {
        telemetry::accounts_weak(place, weak);
    }
}

/// Says what goes wrong.
#[derive(Debug, Default)]
struct Faults(Repeated);

impl Faults {
    fn note(&mut self, place: &str, read: &Result<Option<Changed>, SourceError>, are_there: bool) {
        let fault = match read {
            Err(fault) => fault.to_string(),
            Ok(Some(_)) => {
                self.0.end();
                return;
            }
            // As it was, good or bad.
            Ok(None) => return,
        };
        telemetry::accounts_failed();
        if self.0.is_news(&fault, Instant::now()) {
            match are_there {
                true => telemetry::accounts_kept(place, &fault),
                false => telemetry::accounts_missing(place, &fault),
            }
        }
    }
}
