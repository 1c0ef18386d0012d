//! After a lost link, a feed asks for its bindings again: an exchange that was made anew meanwhile has
//! lost them, and AMQP tells nobody. Each goes through the same phases as any other binding, so that
//! one whose last subscriber leaves meanwhile is taken away after it.

use std::sync::Arc;

use futures_util::{TryStreamExt, stream};
use tokio_util::task::AbortOnDropHandle;

use super::Feed;
use crate::background;

/// Bindings asked for at a time.
const AT_ONCE: usize = 64;
/// With more patterns than these, they are asked for in turn only, as always
/// ([`crate::hub::verify`]).
const MAX: usize = 10_000;

impl Feed {
    /// Begins to ask for all that clients rely on, until the broker refuses one.
    pub(super) fn check_all(self: &Arc<Self>) {
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
