//! Direct exchanges that are read whole, by an alternate exchange.
//!
//! ```text
//!              bound by nobody                +--> a feed queue for each node
//!   feed (direct) ------------> feed.all -----+
//!                               (fanout)      +--> feed.keys (direct) --key--> clients' own queues
//! ```
//!
//! RabbitMQ hands a message to the alternate exchange only if nothing is bound at the exchange by
//! its key. So the gateway binds no queue there: those of its clients are bound beside it. Where
//! others do bind keys (nodes that have not been switched, services), each key is bound from the
//! exchange to `feed.all`, too: a bridge, which leads where the alternate exchange leads, and so
//! may stay when nobody needs it any more.
//!
//! Nothing in AMQP tells an exchange's alternate one, and a policy may set it. So it is tried, by
//! a message with a key that nobody else can know.

use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeBindOptions,
        QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::Instant;

use super::{
    convert::short,
    link::{Live, answer},
    topology,
};
use crate::{broker::BrokerError, telemetry};

/// How long the queue of a trial stays if it cannot be deleted.
const TRIAL_MILLISECONDS: i64 = 10_000;

/// The two exchanges beside one that is read whole.
pub(super) struct Beside<'a> {
    vhost: &'a str,
    exchange: &'a str,
    /// It gets every message, by no key.
    pub(super) all: ShortString,
    /// It gets every message, and routes by keys.
    pub(super) keys: ShortString,
}

/// The name of the alternate exchange.
pub(super) fn all_of(exchange: &str) -> String {
    format!("{exchange}.all")
}

/// The name of the exchange that routes by keys.
pub(super) fn keys_of(exchange: &str) -> String {
    format!("{exchange}.keys")
}

/// A routing key that nobody can know. Feeds drop messages whose keys begin so.
pub(super) fn secret_key() -> String {
    format!("{SECRET_KEYS}{:032x}", rand::random::<u128>())
}

/// Whether it is the form of a [`secret_key`].
pub(super) fn is_secret(key: &[u8]) -> bool {
    key.starts_with(SECRET_KEYS.as_bytes())
}

/// As the names of feeds' queues.
const SECRET_KEYS: &str = "stentor.feed.sentinel.";

impl<'a> Beside<'a> {
    pub(super) fn new(vhost: &'a str, exchange: &'a str) -> Result<Self, BrokerError> {
        Ok(Self {
            vhost,
            exchange,
            all: short("the exchange's name", &all_of(exchange))?,
            keys: short("the exchange's name", &keys_of(exchange))?,
        })
    }

    /// Sees to it that both are there, and that the one leads to the other.
    pub(super) async fn declare(&self, live: &Live, deadline: Instant) -> Result<(), BrokerError> {
        use lapin::ExchangeKind::{Direct, Fanout};
        topology::declare_or_find(live, self.all.as_str(), Fanout, deadline).await?;
        topology::declare_or_find(live, self.keys.as_str(), Direct, deadline).await?;
        let channel = live.passing(deadline).await?;
        bind(&channel, &self.keys, &self.all, "", deadline).await
    }

    /// Has messages with that key come although somebody binds it at the exchange itself.
    pub(super) async fn bridge(
        &self,
        channel: &Channel,
        key: &str,
        deadline: Instant,
    ) -> Result<(), BrokerError> {
        answer(deadline, self.bridging(channel, key)?).await
    }

    /// As [`Beside::bridge`], by whoever waits for it.
    pub(super) fn bridging(
        &self,
        channel: &Channel,
        key: &str,
    ) -> Result<impl Future<Output = lapin::Result<()>> + use<>, BrokerError> {
        let exchange = short("the exchange's name", self.exchange)?;
        binding(channel, &self.all, &exchange, key)
    }

    /// Succeeds if what is published to the exchange comes to queues that are bound to
    /// [`Beside::keys`].
    ///
    /// # Errors
    /// [`BrokerError::NotFound`]: it does not, or there is no such exchange.
    pub(super) async fn try_keys(&self, live: &Live, deadline: Instant) -> Result<(), BrokerError> {
        let channel = live.passing(deadline).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("classic".into()),
        );
        arguments.insert(
            "x-expires".into(),
            AMQPValue::LongLongInt(TRIAL_MILLISECONDS),
        );
        // RabbitMQ's own name for it (`amq.gen-…`) would need a permission of its own.
        let queue = short("the queue's name", &secret_key())?;
        let declaring = channel.queue_declare(queue.clone(), options, arguments);
        answer(deadline, declaring).await?;
        let key = short("the key", &secret_key())?;
        let (keys, options) = (self.keys.clone(), QueueBindOptions::default());
        let binding = channel.queue_bind(
            queue.clone(),
            keys,
            key.clone(),
            options,
            FieldTable::default(),
        );
        answer(deadline, binding).await?;
        let has_route = self.publish(&channel, key, &[], deadline).await?;
        // It is in its queues before the broker confirms it.
        let getting = channel.basic_get(queue.clone(), BasicGetOptions { no_ack: true });
        let came = answer(deadline, getting).await?.is_some();
        let deleting = channel.queue_delete(queue, QueueDeleteOptions::default());
        answer(deadline, deleting).await?;
        if has_route && came {
            Ok(())
        } else {
            Err(self.leads_elsewhere())
        }
    }

    /// Publishes a trial to the exchange. Whether it has reached any queue.
    pub(super) async fn publish(
        &self,
        channel: &Channel,
        key: ShortString,
        body: &[u8],
        deadline: Instant,
    ) -> Result<bool, BrokerError> {
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        answer(deadline, selecting).await?;
        let exchange = short("the exchange's name", self.exchange)?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_app_id("stentor".into());
        let confirmation = answer(deadline, async {
            let publishing = channel.basic_publish(exchange, key, options, body, properties);
            publishing.await?.await
        });
        match confirmation.await? {
            Confirmation::Ack(returned) => Ok(returned.is_none()),
            _ => Err(BrokerError::Unavailable(
                "the broker refused a message that tries the alternate exchange".into(),
            )),
        }
    }

    /// The exchange has no alternate one, or another.
    pub(super) fn leads_elsewhere(&self) -> BrokerError {
        let Self {
            vhost,
            exchange,
            all,
            ..
        } = self;
        telemetry::whole_exchange_leads_elsewhere(vhost, exchange, &self.policy());
        let text = format!(
            "{ELSEWHERE}{exchange}' in vhost '{vhost}' does not lead to its alternate \
             exchange '{all}', by which this server reads it"
        );
        BrokerError::NotFound(text.into())
    }

    /// The command that makes it right.
    pub(super) fn policy(&self) -> String {
        let Self {
            vhost,
            exchange,
            all,
            ..
        } = self;
        let pattern = exchange.chars().fold(String::new(), |mut pattern, char| {
            if !(char.is_alphanumeric() || matches!(char, '_' | '-')) {
                pattern.push('\\');
            }
            pattern.push(char);
            pattern
        });
        format!(
            "rabbitmqctl set_policy -p '{vhost}' --apply-to exchanges 'stentor.{exchange}' \
             '^{pattern}$' '{{\"alternate-exchange\":\"{all}\"}}'"
        )
    }
}

/// What clients are told where the exchange leads elsewhere, if nothing was bound before: they may
/// come back, for the exchange is there, and an operator makes it right. An exchange that does not
/// exist stays what it is.
pub(super) fn told(error: BrokerError) -> BrokerError {
    match error {
        BrokerError::NotFound(text) if text.starts_with(ELSEWHERE) => {
            let text = text.strip_prefix("NOT_FOUND - ").unwrap_or(&text);
            BrokerError::Unavailable(text.into())
        }
        other => other,
    }
}

/// RabbitMQ's own words begin with "NOT_FOUND - no exchange".
const ELSEWHERE: &str = "NOT_FOUND - exchange '";

/// What a mandatory message to such an exchange gets: its alternate exchange takes every message, so
/// RabbitMQ would return none.
pub(super) fn no_mandatory(exchange: &str) -> BrokerError {
    let text = format!(
        "nobody can tell whether a message to exchange '{exchange}' reaches a subscriber, for this \
         server reads it whole; leave out the header 'mandatory'"
    );
    BrokerError::Unsupported(text.into())
}

async fn bind(
    channel: &Channel,
    destination: &ShortString,
    source: &ShortString,
    key: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    answer(deadline, binding(channel, destination, source, key)?).await
}

fn binding(
    channel: &Channel,
    destination: &ShortString,
    source: &ShortString,
    key: &str,
) -> Result<impl Future<Output = lapin::Result<()>> + use<>, BrokerError> {
    let key = short("the key", key)?;
    let (channel, destination, source) = (channel.clone(), destination.clone(), source.clone());
    let (options, none) = (ExchangeBindOptions::default(), FieldTable::default());
    Ok(async move {
        channel
            .exchange_bind(destination, source, key, options, none)
            .await
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::FEED_QUEUES;

    #[test]
    fn the_policy_is_about_this_exchange_alone() {
        let beside = Beside::new("/", "my.feed").unwrap();
        assert_eq!(
            beside.policy(),
            "rabbitmqctl set_policy -p '/' --apply-to exchanges 'stentor.my.feed' '^my\\.feed$' \
             '{\"alternate-exchange\":\"my.feed.all\"}'"
        );
    }

    #[test]
    fn clients_come_back_until_the_policy_is_set() {
        let elsewhere = Beside::new("/", "feed").unwrap().leads_elsewhere();
        let BrokerError::Unavailable(cause) = told(elsewhere) else {
            panic!("it is permanent");
        };
        assert_eq!(
            cause.own(),
            "exchange 'feed' in vhost '/' does not lead to its alternate exchange 'feed.all', by \
             which this server reads it"
        );
        let gone = BrokerError::NotFound("NOT_FOUND - no exchange 'feed' in vhost '/'".into());
        assert_eq!(told(gone.clone()), gone);
    }

    #[test]
    fn secret_keys_are_known_by_their_form() {
        assert!(is_secret(secret_key().as_bytes()));
        assert!(!is_secret(b"user_alice"));
        assert!(SECRET_KEYS.starts_with(FEED_QUEUES));
    }
}
