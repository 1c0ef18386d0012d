//! Hears of deleted exchanges at once, where the plug-in `rabbitmq_event_exchange` publishes them
//! into this virtual host and the account may read them. Nothing depends on it: where it is not,
//! [`super::sentinel`] and the hub's checks find out later.
//!
//! Bindings that are taken away are published there, too. Nobody reads those: each node would be
//! told of every binding of all the others.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    ExchangeKind,
    message::Delivery,
    options::{
        BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;

use super::{FeedManager, Feeds, Shared};
use crate::{
    broker::{
        BrokerError,
        amqp::{
            convert::{broker_error, short},
            link::{Live, answer},
        },
    },
    deadline::after,
    telemetry,
};

/// Where the broker publishes what befalls it.
const EVENTS: &str = "amq.rabbitmq.event";
const DELETED: &str = "exchange.deleted";
/// The pause after the broker ended it.
const PAUSE: Duration = Duration::from_secs(1);

/// Until the feeds are closed.
pub(super) async fn follow(shared: Arc<Shared>, feeds: Feeds) {
    let mut refused = None;
    loop {
        let live = shared.link.wait().await;
        // That there are none is asked for once a connection: it is a line in the broker's log.
        if refused != Some(live.epoch) {
            match listen(&shared, &feeds, &live).await {
                Err(BrokerError::NotFound(_) | BrokerError::AccessRefused(_)) => {
                    telemetry::broker_events_unreadable(live.epoch);
                    refused = Some(live.epoch);
                }
                Err(error) => telemetry::broker_events_ended(&error),
                Ok(()) => {}
            }
        }
        sleep(PAUSE).await;
        if refused == Some(live.epoch) {
            shared.link.ended(&live).await;
        }
    }
}

async fn listen(shared: &Shared, feeds: &Feeds, live: &Live) -> Result<(), BrokerError> {
    let deadline = after(shared.operation_timeout);
    let channel = live.channel(deadline).await?;
    let none = FieldTable::default;
    let (source, kind) = (short("exchange", EVENTS)?, ExchangeKind::Topic);
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    // Before there is a queue, which would stay.
    let looking = channel.exchange_declare(source.clone(), kind, options, none());
    answer(deadline, looking).await?;
    let queue = short("the queue's name", &shared.queue_names.next())?;
    // Its messages are of no use to another connection.
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = none();
    let classic = AMQPValue::LongString("classic".into());
    arguments.insert("x-queue-type".into(), classic);
    let declaring = channel.queue_declare(queue.clone(), options, arguments);
    answer(deadline, declaring).await?;
    let (key, options) = (short("key", DELETED)?, QueueBindOptions::default());
    let binding = channel.queue_bind(queue.clone(), source, key, options, none());
    if let Err(error) = answer(deadline, binding).await {
        // That closed the channel.
        let channel = live.passing(deadline).await?;
        let deleting = channel.queue_delete(queue, QueueDeleteOptions::default());
        answer(deadline, deleting).await?;
        return Err(error);
    }
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume(queue, "".into(), options, none());
    let mut events = answer(deadline, consuming).await?;
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| broker_error(&error))?;
        let (vhost, exchange) = (header(&event, "vhost"), header(&event, "name"));
        if vhost == Some(shared.vhost.as_bytes())
            && let Some(Ok(exchange)) = exchange.map(std::str::from_utf8)
        {
            FeedManager::exchange_lost(shared, feeds, exchange, "its exchange was deleted");
        }
    }
    Ok(())
}

fn header<'a>(event: &'a Delivery, name: &str) -> Option<&'a [u8]> {
    let headers = event.properties.headers().as_ref()?;
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
