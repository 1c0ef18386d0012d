//! Links to the broker: when they come and go, and where they lead to.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{event::millis, metrics::COUNTS};
use crate::codes::Code;

/// A link to the broker is there (again): for what it is, in which virtual host, and at which
/// address. Of one that was away with others it `is_news` when the last is back
/// ([`broker_links_back`]).
pub fn broker_link_up(link: &str, vhost: &str, broker: &str, is_news: bool) {
    COUNTS.broker_links_made.inc();
    if is_news {
        info!(target: "stentor::broker", link, vhost, broker, "broker link up");
    } else {
        debug!(target: "stentor::broker", link, vhost, broker, "broker link up");
    }
}

/// The last link of an outage is back, at that address: after how long, and of how many links.
pub fn broker_links_back(link: &str, vhost: &str, broker: &str, after: Duration, links: usize) {
    let away_ms = millis(after);
    info!(target: "stentor::broker", link, vhost, broker, away_ms, links, "broker links back");
}

/// A link to the broker at that address is lost, or could not be made; it `is_news` if that is the
/// begin of an outage.
pub fn broker_link_down(
    link: &str,
    vhost: &str,
    broker: &str,
    cause: &str,
    retry_in: Duration,
    is_news: bool,
) {
    COUNTS.broker_link_failures.inc();
    let retry_in_ms = millis(retry_in);
    if is_news {
        warn!(
            target: "stentor::broker", code = Code::BrokerDown.name(),
            link, vhost, broker, cause, retry_in_ms, "broker link down"
        );
    } else {
        debug!(
            target: "stentor::broker",
            link, vhost, broker, cause, retry_in_ms, "broker link down"
        );
    }
}

/// One of the broker's addresses let a link not in; others may.
pub fn broker_address_failed(link: &str, broker: &dyn Display, cause: &dyn Display) {
    let (broker, cause) = (broker.to_string(), cause.to_string());
    debug!(target: "stentor::broker", link, broker, cause, "broker address failed");
}

/// A node of the broker answers nothing that needs its cluster, while another one does.
pub fn broker_node_cut_off(broker: &dyn Display) {
    let broker = broker.to_string();
    warn!(
        target: "stentor::broker", broker,
        "a broker's node is cut off from its cluster: all links leave it"
    );
}

/// Such a node is one of its cluster again.
pub fn broker_node_is_back(broker: &dyn Display) {
    let broker = broker.to_string();
    info!(target: "stentor::broker", broker, "a broker's node is back in its cluster");
}

/// A feed's queue is on a node of the cluster that is down: the feed goes on with another queue.
pub fn feed_moved(feed: &dyn Display, queue: &str, cause: &str) {
    let feed = feed.to_string();
    warn!(target: "stentor::broker", feed, queue, cause, "feed has a new queue");
}

/// A queue that a feed left, on a node that was down or when it was given up, is deleted.
pub fn leftover_deleted(queue: &str) {
    info!(target: "stentor::broker", queue, "left queue deleted");
}

/// A queue that a feed left cannot be deleted yet.
pub fn leftover_stays(queue: &str, error: &dyn Display) {
    let error = error.to_string();
    debug!(target: "stentor::broker", queue, error, "left queue cannot be deleted yet");
}

/// Where links to the broker lead now, and how many.
static PLACES: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// The addresses of the broker that links lead to now, with how many do.
#[must_use]
pub fn broker_places() -> Vec<(String, usize)> {
    let places = PLACES.lock();
    places
        .iter()
        .map(|(place, links)| (place.clone(), *links))
        .collect()
}

/// Counts a link to the broker for as long as it is up.
#[derive(Debug)]
pub struct BrokerLinkCounted {
    host: String,
    place: String,
}

impl BrokerLinkCounted {
    /// From now on: at a machine of the configuration, and at one of its addresses. Neither holds
    /// an account.
    #[must_use]
    pub fn begin(host: String, place: String) -> Self {
        let mut places = PLACES.lock();
        let links = places.entry(place.clone()).or_default();
        *links = links.saturating_add(1);
        drop(places);
        let counted = Self { host, place };
        COUNTS.broker_links.get_or_create(&counted.label()).inc();
        counted
    }

    fn label(&self) -> [(&'static str, String); 1] {
        [("broker", self.host.clone())]
    }
}

impl Drop for BrokerLinkCounted {
    fn drop(&mut self) {
        COUNTS.broker_links.get_or_create(&self.label()).dec();
        let mut places = PLACES.lock();
        if let Some(links) = places.get_mut(&self.place) {
            *links = links.saturating_sub(1);
            if *links == 0 {
                places.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_while_links_lead_there() {
        let at = |place: &str| BrokerLinkCounted::begin("mq:5672".into(), place.into());
        let links = |place: &str| {
            let places = broker_places();
            let found = places.into_iter().find(|(other, _)| other == place);
            found.map(|(_, links)| links)
        };
        let (one, other) = (at("mq:5672 (10.0.0.1)"), at("mq:5672 (10.0.0.1)"));
        assert_eq!(links("mq:5672 (10.0.0.1)"), Some(2));
        drop(one);
        assert_eq!(links("mq:5672 (10.0.0.1)"), Some(1));
        drop(other);
        assert_eq!(links("mq:5672 (10.0.0.1)"), None);
    }
}
