//! The broker and feeds; its links have a file of their own.

use std::fmt::Display;

use tracing::{debug, error, info, warn};

use crate::{codes::Code, telemetry::metrics::COUNTS};

/// A link was closed over one of these queues, which it had been asked for and not answered about.
pub fn queues_suspected(vhost: &str, queues: &[Box<str>]) {
    COUNTS.queues_suspected.inc_by(queues.len() as u64);
    let first: Vec<&str> = queues.iter().take(5).map(|queue| &**queue).collect();
    warn!(
        target: "stentor::broker", vhost, queues = first.join(", "), count = queues.len(),
        "RabbitMQ closed a link over a queue: the queues in question are tried on links of their own"
    );
}

/// The first client of a virtual host, or the program's start: its links are being made.
pub fn vhost_opened(vhost: &str) {
    info!(target: "stentor::hub", vhost, "virtual host opened");
}

/// The links of a virtual host are closed.
pub fn vhost_closed(vhost: &str, cause: &str) {
    info!(target: "stentor::hub", vhost, cause, "virtual host closed");
}

/// The broker has no transient queues but those that end with their connection.
pub fn transient_queues_refused(vhost: &str, cause: &str) {
    warn!(
        target: "stentor::broker", code = Code::TransientRefused.name(), vhost, cause,
        "the broker refuses transient queues: those of `feed.durable = false` and of clients' \
        `durable:false` are durable instead, and expire when nobody uses them"
    );
}

/// The broker takes no messages that name their user: the gateway's account may not speak for
/// others.
pub fn impersonation_refused(cause: &str) {
    error!(
        target: "stentor::broker", code = Code::ImpersonationRefused.name(), cause,
        "the gateway's account may not publish for its users: give it the tag `impersonator` \
         (rabbitmqctl set_user_tags), or set [broker] impersonate = false"
    );
}

/// The broker closed a channel because of a message that it does not take: `again` messages that
/// followed it are sent again; the fate of `unknown` others is not known.
pub fn publish_channel_closed(cause: &str, again: usize, unknown: usize) {
    if again == 0 && unknown == 0 {
        debug!(target: "stentor::broker", cause, "publishing refused");
        return;
    }
    warn!(
        target: "stentor::broker",
        cause, again, unknown,
        "publishing refused, with messages of others under way: sent again, or of unknown fate"
    );
}

/// The broker does not say of which type an exchange is.
pub fn exchange_type_unknown(exchange: &str, text: &str) {
    warn!(
        target: "stentor::broker::amqp::topology", code = Code::ExchangeTypeUnknown.name(),
        exchange,
        text,
        "the type of an exchange is unknown, so each of its subscriptions \
         gets a queue of its own; name it in the configuration under \
         [broker.exchanges], or let the gateway's account configure it"
    );
}

/// So many messages were not confirmed for so long that their channel is given up.
pub fn publish_channel_replaced(messages: usize) {
    warn!(
        target: "stentor::broker::amqp::publisher::lane",
        messages,
        "the broker does not confirm messages; their channel is replaced"
    );
}

/// The broker takes no messages for now (an alarm: memory or disk).
pub fn broker_blocked(link: &str, vhost: &str, cause: &str) {
    warn!(
        target: "stentor::broker", code = Code::BrokerBlocked.name(), link, vhost,
        cause, "broker blocked: clients that publish are not read"
    );
}

/// The broker takes messages again.
pub fn broker_unblocked(link: &str, vhost: &str) {
    info!(target: "stentor::broker", link, vhost, "broker unblocked");
}

/// The broker is in this process' memory.
pub fn broker_embedded() {
    warn!(
        target: "stentor::broker", code = Code::BrokerEmbedded.name(),
        "the broker is embedded: nothing outlives this process"
    );
}

/// Messages of a feed may have been lost; its clients are told.
pub fn feed_interrupted(feed: &dyn Display, cause: &str) {
    COUNTS.feeds_interrupted.inc();
    let feed = feed.to_string();
    error!(target: "stentor::hub", feed, cause, "feed interrupted");
}

/// The broker does not let this node have a feed's queue; it is asked again and again.
pub fn feed_refused(feed: &dyn Display, cause: &str) {
    let feed = feed.to_string();
    warn!(target: "stentor::broker", code = Code::FeedRefused.name(), feed, cause, "feed refused");
}

/// The account may not publish to an exchange, so nothing shows when it is deleted and made anew.
pub fn feed_unwatched(feed: &dyn Display, cause: &str) {
    let feed = feed.to_string();
    warn!(
        target: "stentor::broker",
        feed,
        cause,
        "an exchange cannot be watched: its bindings are renewed in turn, and a gap is not noticed"
    );
}
