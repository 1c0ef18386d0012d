//! After a lost link, a feed asks for its bindings again: an exchange that was made anew meanwhile has
//! lost them, and AMQP tells nobody. Each goes through the same phases as any other binding, so that
//! one whose last subscriber leaves meanwhile is taken away after it. A broker that was killed may have
//! forgotten [young](super::young) ones, too: their subscribers are told.

use std::{collections::HashSet, sync::Arc};

use futures_util::{TryStreamExt, stream};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Feed;
use crate::{background, broker::FORGOTTEN, telemetry};

/// Bindings asked for at a time.
const AT_ONCE: usize = 64;
/// With more patterns than these, they are asked for in turn only, as always
/// ([`crate::hub::verify`]).
const MAX: usize = 10_000;

impl Feed {
    /// Its link was lost, perhaps with the broker.
    pub(super) fn cut(&self) {
        self.table.lock().young.cut(Instant::now());
    }

    /// It is served again: all bindings are asked for. Those whose binding the broker may have
    /// forgotten are told first, for then it routed messages nowhere, and confirmed them.
    pub(super) fn resumed(self: &Arc<Self>, may_have_forgotten: bool) {
        {
            let mut table = self.table.lock();
            let doubted = table.young.resumed(may_have_forgotten, Instant::now());
            let doubted: HashSet<_> = doubted.into_iter().collect();
            let is_doubted = |pattern: &str| doubted.contains(&table.binding_of(&pattern.into()));
            if !doubted.is_empty() && self.interrupted_at(&table, FORGOTTEN, is_doubted) {
                telemetry::feed_interrupted(&self.id, FORGOTTEN);
            }
        }
        self.check_all();
    }

    /// Begins to ask for all that clients rely on, until the broker refuses one.
    fn check_all(self: &Arc<Self>) {
        let patterns: Vec<Arc<str>> = self.relied_on().iter().map(Arc::from).collect();
        if patterns.len() > MAX {
            return;
        }
        // The feed holds the task, which must not keep it from ending.
        let feed = Arc::downgrade(self);
        let checking = async move {
            let _ = stream::iter(patterns.into_iter().map(Ok))
                .try_for_each_concurrent(AT_ONCE, |pattern| {
                    let feed = feed.upgrade();
                    async move {
                        match feed {
                            Some(feed) => feed.check(pattern).await,
                            None => Ok(()),
                        }
                    }
                })
                .await;
        };
        let checking = AbortOnDropHandle::new(background::spawn(checking));
        *self.checking.lock() = Some(checking);
    }
}
