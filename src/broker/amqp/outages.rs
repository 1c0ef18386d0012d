//! The log's words on links that are away: one line when an outage begins and one when it ends,
//! however many links it takes and however often each is tried.
//!
//! All links of one broker share [`Outages`]. Attempts in between are at the level `debug`, and in
//! the metric.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    account::Account,
    hosts::Address,
    link::{LinkConfig, advised},
};
use crate::{broker::BrokerError, telemetry};

/// The outages of one broker.
#[derive(Debug, Default)]
pub(super) struct Outages {
    next_link: AtomicU64,
    open: Mutex<HashMap<Trouble, Outage>>,
}

/// A kind of trouble. Each needs another hand to end it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    /// The broker is not there, or does not answer, whatever the system says of it.
    Away,
    /// It does not let the gateway's account in.
    AccessRefused,
    /// Not to this virtual host.
    VhostRefused(Box<str>),
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The links that are away.
    links: HashSet<u64>,
    /// The most that there were at a time.
    most: usize,
}

/// One link, as the log knows it. When it is dropped, its outage is over for it.
pub(super) struct LinkLog {
    outages: Arc<Outages>,
    account: Arc<Account>,
    link: u64,
    purpose: Box<str>,
    vhost: Box<str>,
    is_trial: bool,
    /// The place that it leads to, while it is up.
    place: Mutex<Option<telemetry::BrokerLinkCounted>>,
}

/// The meaning of a link's return.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It was in none.
    None,
    /// Other links are away still.
    Partly,
    /// It was the last one of so many.
    Wholly { after: Duration, links: usize },
}

impl Outages {
    /// A link is away, or still is; whether that is news.
    fn begin(&self, link: u64, trouble: Trouble) -> bool {
        let mut open = self.open.lock();
        // It may be away for another reason now.
        open.retain(|other, outage| {
            *other == trouble || !outage.links.remove(&link) || !outage.links.is_empty()
        });
        let is_news = !open.contains_key(&trouble);
        let outage = open.entry(trouble).or_insert_with(|| Outage {
            since: Instant::now(),
            links: HashSet::new(),
            most: 0,
        });
        outage.links.insert(link);
        outage.most = outage.most.max(outage.links.len());
        is_news
    }

    /// A link is there, or wanted no more.
    fn end(&self, link: u64) -> Ended {
        let mut ended = Ended::None;
        self.open.lock().retain(|_, outage| {
            if !outage.links.remove(&link) {
                return true;
            }
            ended = Ended::Partly;
            if outage.links.is_empty() {
                ended = Ended::Wholly {
                    after: outage.since.elapsed(),
                    links: outage.most,
                };
            }
            !outage.links.is_empty()
        });
        ended
    }
}

impl LinkLog {
    pub(super) fn new(config: &LinkConfig) -> Self {
        let outages = Arc::clone(&config.outages);
        Self {
            link: outages.next_link.fetch_add(1, Ordering::Relaxed),
            outages,
            account: Arc::clone(&config.account),
            purpose: config.purpose.clone(),
            vhost: config.uri.vhost.as_str().into(),
            is_trial: config.is_trial,
            place: Mutex::default(),
        }
    }

    /// It is there.
    pub(super) fn up(&self, address: &Address) {
        let (purpose, vhost, broker) = (&self.purpose, &self.vhost, &address.to_string());
        let counted = telemetry::BrokerLinkCounted::begin(address.host.to_string(), broker.clone());
        *self.place.lock() = Some(counted);
        match self.outages.end(self.link) {
            Ended::None => telemetry::broker_link_up(purpose, vhost, broker, !self.is_trial),
            Ended::Partly => telemetry::broker_link_up(purpose, vhost, broker, false),
            Ended::Wholly { after, links } => {
                telemetry::broker_link_up(purpose, vhost, broker, false);
                telemetry::broker_links_back(purpose, vhost, broker, after, links);
            }
        }
    }

    /// It is lost, or could not be made; where.
    pub(super) fn down(&self, place: &str, error: &BrokerError, retry_in: Duration) {
        *self.place.lock() = None;
        let trouble = match error {
            BrokerError::AccessRefused(_) => Trouble::AccessRefused,
            BrokerError::VhostRefused(_) => Trouble::VhostRefused(self.vhost.clone()),
            _ => Trouble::Away,
        };
        let is_news = !self.is_trial && self.outages.begin(self.link, trouble);
        let cause = advised(error, &self.account);
        telemetry::broker_link_down(&self.purpose, &self.vhost, place, &cause, retry_in, is_news);
    }
}

impl Drop for LinkLog {
    fn drop(&mut self) {
        self.outages.end(self.link);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_begins_with_its_first_link_and_ends_with_its_last() {
        let outages = Outages::default();
        assert_eq!(outages.end(1), Ended::None);
        assert!(outages.begin(1, Trouble::Away));
        for link in [2, 1, 3, 2] {
            assert!(!outages.begin(link, Trouble::Away), "{link}");
        }
        advance(Duration::from_secs(36)).await;
        assert_eq!(outages.end(2), Ended::Partly);
        assert_eq!(outages.end(1), Ended::Partly);
        assert_eq!(outages.end(1), Ended::None);
        let after = Duration::from_secs(36);
        assert_eq!(outages.end(3), Ended::Wholly { after, links: 3 });
        assert!(outages.begin(1, Trouble::Away), "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_another_hand_is_another_outage() {
        let outages = Outages::default();
        let refused = |vhost: &str| Trouble::VhostRefused(vhost.into());
        assert!(outages.begin(1, Trouble::Away));
        assert!(outages.begin(2, refused("a")));
        assert!(outages.begin(3, refused("b")));
        assert!(!outages.begin(4, refused("a")));
        assert!(outages.begin(1, Trouble::AccessRefused));
        // No link of the first is left.
        assert!(outages.begin(5, Trouble::Away));
        assert_eq!(outages.end(2), Ended::Partly);
        let after = Duration::ZERO;
        assert_eq!(outages.end(3), Ended::Wholly { after, links: 1 });
    }
}
