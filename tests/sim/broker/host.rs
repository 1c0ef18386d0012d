//! The calls of a virtual host, over the link.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use stentor::broker::{
    BrokerError, Confirm, Consume, Consumer, DeliverySink, ExchangeKind, FeedId, JournalAsk,
    JournalPart, JournalStart, Publish, QueueSpec, VirtualHost,
};
use tokio::time::sleep;

use super::{
    PATIENCE, Simulated,
    consumer::{Link, SimConsumer},
    unavailable,
};
use crate::{ledger::LOG, trace::WORLD};

/// Offsets of a part of the journal, at most.
const PART: u64 = 2_000;

pub(super) struct SimHost(pub(super) Arc<Simulated>);

impl SimHost {
    /// Sends a request, has it carried out, and brings the answer back; any of it may fail.
    async fn ask<T>(
        &self,
        kind: &str,
        subject: &str,
        request: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let broker = &self.0;
        let loss = broker.wait_up().await?;
        let mut draws = broker.draws(kind, subject);
        let mood = *broker.mood.lock();
        let longest = 10 + mood.slowness / 4;
        let fails = draws.percent(mood.failures);
        sleep(draws.millis(1, longest)).await;
        broker.check(loss)?;
        if fails && draws.percent(50) {
            return Err(unavailable());
        }
        let answer = request.await?;
        sleep(draws.millis(1, longest)).await;
        broker.check(loss)?;
        if fails {
            return Err(unavailable());
        }
        Ok(answer)
    }
}

impl VirtualHost for SimHost {
    fn health(&self) -> Result<(), BrokerError> {
        if self.0.is_up() {
            Ok(())
        } else {
            Err(unavailable())
        }
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        std::future::ready(self.health()).boxed()
    }

    fn exchange_kind<'a>(
        &'a self,
        exchange: &'a str,
    ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        self.ask("kind", exchange, async {
            self.0.host().exchange_kind(exchange).await
        })
        .boxed()
    }

    fn bind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let subject = format!("{}/{pattern}", feed.exchange);
            self.ask("bind", &subject, async {
                let host = self.0.host();
                if *feed.exchange == *LOG {
                    self.0.feeds.begin_journal().await?;
                }
                host.bind_feed(feed, pattern).await?;
                self.0.feeds.note(feed, pattern, true);
                if self.0.feeds.is_fragile() && self.0.draws("loss", &subject).percent(40) {
                    let lost = || format!("the bindings of {subject} and others are lost");
                    self.0.trace.tell(WORLD, lost);
                    self.0.feeds.lose_feed(&**host, feed);
                }
                Ok(())
            })
            .await
        }
        .boxed()
    }

    fn unbind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let subject = format!("{}/{pattern}", feed.exchange);
            self.ask("unbind", &subject, async {
                self.0.host().unbind_feed(feed, pattern).await?;
                self.0.feeds.note(feed, pattern, false);
                Ok(())
            })
            .await
        }
        .boxed()
    }

    fn end_feed(&self, feed: &FeedId) {
        self.0.feeds.end_feed(&**self.0.host(), feed);
    }

    fn consume(
        &self,
        request: Consume,
        sink: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        async move {
            let queue = request.queue.name.clone();
            self.ask("consume", &queue, async {
                let link = Link::start(&self.0, request, sink)?;
                Ok(Arc::new(SimConsumer(link)) as Arc<dyn Consumer>)
            })
            .await
        }
        .boxed()
    }

    fn declare_queue<'a>(&'a self, queue: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.ask("declare", &queue.name, async {
            self.0.host().declare_queue(queue).await
        })
        .boxed()
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.ask("delete", name, async {
            self.0.host().delete_queue(name).await
        })
        .boxed()
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        async move {
            let loss = self.0.wait_up().await?;
            Ok(self.0.enqueue(publish, loss))
        }
        .boxed()
    }

    /// Parts may end anywhere, and some take long.
    fn read_journal<'a>(
        &'a self,
        exchange: &'a str,
        ask: JournalAsk,
    ) -> BoxFuture<'a, Result<JournalPart, BrokerError>> {
        async move {
            // A time is this machine's, and no seed's.
            let start = match ask.start {
                JournalStart::Time(_) => "a time".to_owned(),
                start => format!("{start:?}"),
            };
            let subject = format!("{exchange} {start} {} {}", ask.until, ask.most);
            self.ask("read", &subject, async {
                let mut draws = self.0.draws("part", &subject);
                let most = if draws.percent(30) {
                    draws.between(1, 40)
                } else {
                    PART
                };
                if draws.percent(10) {
                    sleep(draws.millis(1, 500)).await;
                }
                let most = usize::try_from(most).unwrap();
                let Some(part) = self.0.feeds.journal().read(&ask, most) else {
                    // RabbitMQ waits until something is.
                    sleep(PATIENCE).await;
                    return Err(unavailable());
                };
                let read = || format!("of {subject} is read {} to {}", part.first, part.next);
                self.0.trace.tell(WORLD, read);
                Ok(part)
            })
            .await
        }
        .boxed()
    }

    fn reach_journal<'a>(&'a self, feed: &'a FeedId) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.ask("reach", &feed.exchange, async {
            // In an alarm it takes no marker.
            if self.0.has_alarm.get() {
                return Err(unavailable());
            }
            self.0.feeds.reach_journal().await
        })
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.host().close()
    }
}
