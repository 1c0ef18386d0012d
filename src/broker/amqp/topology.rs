//! Exchanges and queues: what is there, and of which type.

use std::collections::{HashMap, HashSet};

use lapin::{
    options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    convert::{short, table},
    link::{Live, answer},
};
use crate::broker::{BrokerError, ExchangeKind, QueueSpec};

/// What is known of a virtual host's exchanges.
pub(super) struct Topology {
    kinds: Mutex<HashMap<Box<str>, ExchangeKind>>,
    existing: Mutex<HashSet<Box<str>>>,
}

impl Topology {
    /// `configured` types are not asked for.
    pub(super) fn new(configured: impl IntoIterator<Item = (Box<str>, ExchangeKind)>) -> Self {
        Self { kinds: Mutex::new(configured.into_iter().collect()), existing: Mutex::default() }
    }

    /// Whether the exchange exists, as far as is remembered.
    pub(super) fn is_known(&self, exchange: &str) -> bool {
        exchange.is_empty() || self.existing.lock().contains(exchange)
    }

    /// It turned out that the exchange is gone.
    pub(super) fn forget(&self, exchange: &str) {
        self.existing.lock().remove(exchange);
    }

    /// Succeeds if the exchange exists.
    pub(super) async fn check(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<(), BrokerError> {
        if self.is_known(exchange) {
            return Ok(());
        }
        let channel = live.channel(deadline).await?;
        let name = short("the exchange's name", exchange)?;
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let declaring =
            channel.exchange_declare(name, lapin::ExchangeKind::Direct, options, <_>::default());
        answer(deadline, declaring).await?;
        self.existing.lock().insert(exchange.into());
        Ok(())
    }

    pub(super) async fn kind(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<ExchangeKind, BrokerError> {
        self.check(live, exchange, deadline).await?;
        let known = self.kinds.lock().get(exchange).copied().or_else(|| predeclared(exchange));
        if let Some(kind) = known {
            return Ok(kind);
        }
        // AMQP has no question for the type. But a declaration with another type is refused
        // with words that name the true one.
        let channel = live.channel(deadline).await?;
        let name = short("the exchange's name", exchange)?;
        let probe = lapin::ExchangeKind::Headers;
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declaring = channel.exchange_declare(name, probe, options, FieldTable::default());
        let kind = match answer(deadline, declaring).await {
            Err(BrokerError::PreconditionFailed(text)) => kind_in_refusal(&text),
            Err(BrokerError::AccessRefused(text)) => {
                tracing::warn!(
                    exchange,
                    %text,
                    "the type of an exchange could not be learnt, so each of its subscriptions \
                     gets a queue of its own; name it in the configuration under \
                     [broker.exchanges], or let the gateway's account configure it"
                );
                ExchangeKind::Other
            }
            Ok(()) => ExchangeKind::Other,
            Err(error) => return Err(error),
        };
        self.kinds.lock().insert(exchange.into(), kind);
        Ok(kind)
    }
}

/// Declares a queue.
pub(super) async fn declare_queue(
    live: &Live,
    queue: &QueueSpec,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.channel(deadline).await?;
    let (options, arguments) = declare_options(queue)?;
    let name = short("the queue's name", &queue.name)?;
    answer(deadline, channel.queue_declare(name, options, arguments)).await.map(drop)
}

/// Deletes a queue, if there is one of that name.
pub(super) async fn delete_queue(
    live: &Live,
    name: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.channel(deadline).await?;
    let name = short("the queue's name", name)?;
    answer(deadline, channel.queue_delete(name, QueueDeleteOptions::default())).await.map(drop)
}

pub(super) fn declare_options(
    queue: &QueueSpec,
) -> Result<(QueueDeclareOptions, FieldTable), BrokerError> {
    let options = QueueDeclareOptions {
        passive: false,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
    };
    Ok((options, table(&queue.arguments)?))
}

/// The types of the exchanges that every virtual host has.
fn predeclared(exchange: &str) -> Option<ExchangeKind> {
    match exchange {
        "" | "amq.direct" => Some(ExchangeKind::Direct),
        "amq.topic" => Some(ExchangeKind::Topic),
        "amq.fanout" => Some(ExchangeKind::Fanout),
        "amq.headers" | "amq.match" => Some(ExchangeKind::Other),
        _ => None,
    }
}

/// `PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'feed' in vhost '/': received
/// 'headers' but current is 'topic'`
fn kind_in_refusal(text: &str) -> ExchangeKind {
    match text.rsplit("current is '").next().and_then(|rest| rest.split('\'').next()) {
        Some("direct") => ExchangeKind::Direct,
        Some("topic") => ExchangeKind::Topic,
        Some("fanout") => ExchangeKind::Fanout,
        _ => ExchangeKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_type() {
        let refusal = |kind: &str| {
            kind_in_refusal(&format!(
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'it' in vhost '/': \
                 received 'headers' but current is '{kind}'"
            ))
        };
        assert_eq!(refusal("direct"), ExchangeKind::Direct);
        assert_eq!(refusal("topic"), ExchangeKind::Topic);
        assert_eq!(refusal("fanout"), ExchangeKind::Fanout);
        assert_eq!(refusal("x-consistent-hash"), ExchangeKind::Other);
        let other = "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'it' in vhost \
                     '/': received 'true' but current is 'false'";
        assert_eq!(kind_in_refusal(other), ExchangeKind::Other);
    }
}
