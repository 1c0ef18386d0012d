//! What the operator's side goes by, and can be replaced.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{Config, Health};

/// The sections `[api]` and `[health]` that are in force.
#[derive(Debug)]
pub struct Rules(RwLock<Arc<(Config, Health)>>);

impl Rules {
    /// These, at first.
    #[must_use]
    pub fn new(config: Config, health: Health) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new((config, health)))))
    }

    /// Requests from now on go by these.
    pub fn replace(&self, config: Config, health: Health) {
        *self.0.write() = Arc::new((config, health));
    }

    pub(super) fn current(&self) -> Arc<(Config, Health)> {
        Arc::clone(&self.0.read())
    }
}
