//! Messages for those who are away: what nobody is subscribed to goes to an exchange from which a
//! worker pushes it to phones.
//!
//! RabbitMQ routes a message that matches no binding to the alternate exchange of its exchange, and
//! from there into a durable queue, which all nodes read (`source`). Three kinds of messages are
//! in it, and `arrival` tells them apart: those that nobody was bound to, which are handed on as
//! they are; and those that came to a node in vain, for its last subscriber had left, or for it was
//! dead. About the latter all nodes are asked whether somebody is subscribed now.

mod arrival;
mod source;

use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    background,
    broker::{OfflineConfig, offline_of},
    control::{Look, MAX_ABOUT, Seen},
    node::Services,
};

/// Keys that all nodes are asked about.
#[derive(Debug, Serialize, Deserialize)]
struct Asked<'a> {
    exchange: &'a str,
    #[serde(borrow)]
    keys: Vec<std::borrow::Cow<'a, str>>,
}

/// Hands messages on for as long as the handles live: one task for each source. `is_replicated`:
/// feeds' queues are.
#[must_use]
pub fn start(
    config: &OfflineConfig,
    is_replicated: bool,
    services: &Arc<Services>,
    node: &str,
) -> Vec<AbortOnDropHandle<()>> {
    let config = Arc::new(config.clone());
    let sources = config.sources.iter();
    let started = sources.map(|exchange| {
        let source = source::Source {
            exchange: exchange.as_str().into(),
            queue: offline_of(exchange).into(),
            config: Arc::clone(&config),
            services: Arc::downgrade(services),
            node: node.into(),
            is_replicated,
        };
        AbortOnDropHandle::new(background::spawn(Arc::new(source).run()))
    });
    started.collect()
}

/// Which of the keys somebody on this node is subscribed to.
pub(crate) fn view(services: &Services, asked: &str) -> Option<Value> {
    let asked: Asked<'_> = serde_json::from_str(asked).ok()?;
    let settings = services.settings();
    let hub = services.vhosts.vhost(&settings.default_vhost)?;
    let keys: Vec<&str> = asked.keys.iter().map(|key| &**key).collect();
    let heard = hub.hears(asked.exchange, &keys).into_iter();
    let heard = heard.zip(keys).filter_map(|(is, key)| is.then_some(key));
    serde_json::to_value(heard.collect::<Vec<_>>()).ok()
}

/// Which of the keys somebody is subscribed to, on any node that answers. One that is silent twice has
/// nobody: a message is rather pushed as well than lost. The error tells why other nodes could not be
/// asked.
async fn subscribed(
    services: &Weak<Services>,
    exchange: &str,
    keys: &[&str],
) -> Result<Vec<bool>, Box<str>> {
    let Some(services) = services.upgrade() else {
        return Err("shutting down".into());
    };
    let mut found = Vec::with_capacity(keys.len());
    for part in parts(keys) {
        let asked = Asked {
            exchange,
            keys: part.iter().map(|key| (*key).into()).collect(),
        };
        let text = serde_json::to_string(&asked).unwrap_or_default();
        let look = Look::Subscribed(text.into());
        let Seen {
            nodes, unreached, ..
        } = services.control.look(look).await;
        if let Some(why) = unreached {
            return Err(why);
        }
        let heard: Vec<String> = nodes
            .into_iter()
            .filter_map(|(_, view)| serde_json::from_value::<Vec<String>>(view).ok())
            .flatten()
            .collect();
        let is_heard = |key: &&str| heard.iter().any(|other| other == key);
        found.extend(part.iter().map(is_heard));
    }
    Ok(found)
}

/// As many keys at a time as one question has room for, whatever JSON makes of them.
fn parts<'k, 'a>(keys: &'k [&'a str]) -> impl Iterator<Item = &'k [&'a str]> {
    /// A control character becomes six.
    const WORST: usize = 6;
    let mut rest = keys;
    std::iter::from_fn(move || {
        let mut room = MAX_ABOUT.saturating_sub(2 * 1024) / WORST;
        let fits = |key: &&&str| {
            let size = key.len().saturating_add(1);
            let is_in = size <= room;
            room = room.saturating_sub(size);
            is_in
        };
        // At least one, or it would not end.
        let count = rest.iter().take_while(fits).count().max(1);
        let (part, others) = rest.split_at_checked(count)?;
        rest = others;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_about_in_parts_that_fit() {
        let keys: Vec<String> = (0..100).map(|n| format!("{n:0>255}")).collect();
        let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
        let parts: Vec<&[&str]> = parts(&keys).collect();
        assert_eq!(parts.concat(), keys);
        assert!(parts.iter().all(|part| part.len() < 8), "{}", parts.len());
        assert_eq!(super::parts(&[]).count(), 0);
    }
}
