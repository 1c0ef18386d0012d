//! Consumers of queues that outlive a lost link.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use stentor::broker::{
    BrokerError, Confirm, Consume, Consumer, Delivery, DeliverySink, Settled, Verdict, VirtualHost,
};

use tokio::time::sleep;

use super::Simulated;
use crate::{ledger::id_of, trace::WORLD};

/// Until the broker hears of a consumer's end.
const A_MOMENT: Duration = Duration::from_millis(1);

/// One consumer, as the gateway holds it.
pub(super) struct SimConsumer(pub(super) Arc<Link>);

/// Its consumers at the embedded broker, one after another.
pub(super) struct Link {
    broker: Arc<Simulated>,
    number: u64,
    request: Consume,
    sink: Arc<dyn DeliverySink>,
    state: Mutex<State>,
    me: Weak<Self>,
}

#[derive(Default)]
struct State {
    inner: Option<Arc<dyn Consumer>>,
    /// Which of them it is.
    round: u64,
    /// What is unsettled: by the gateway's tag, that of the broker, and the message.
    tags: BTreeMap<u64, (u64, Option<u64>)>,
    next: u64,
    is_over: bool,
}

struct RoundSink {
    link: Weak<Link>,
    round: u64,
}

impl DeliverySink for RoundSink {
    fn deliver(&self, delivery: Delivery) {
        if let Some(link) = self.link.upgrade() {
            link.deliver(self.round, delivery);
        }
    }

    fn lost(&self, reason: BrokerError) {
        if let Some(link) = self.link.upgrade() {
            link.sink.lost(reason);
        }
    }
}

impl Link {
    pub(super) fn start(
        broker: &Arc<Simulated>,
        request: Consume,
        sink: Arc<dyn DeliverySink>,
    ) -> Result<Arc<Self>, BrokerError> {
        let number = broker.calls.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new_cyclic(|me| Self {
            broker: Arc::clone(broker),
            number,
            request,
            sink,
            state: Mutex::default(),
            me: Weak::clone(me),
        });
        link.consume(&**broker.host())?;
        broker.consumers.lock().insert(number, Arc::clone(&link));
        Ok(link)
    }

    fn consume(&self, host: &dyn VirtualHost) -> Result<(), BrokerError> {
        let round = {
            let mut state = self.state.lock();
            state.round += 1;
            state.round
        };
        let sink = RoundSink {
            link: Weak::clone(&self.me),
            round,
        };
        // It may deliver before it returns.
        let started = host.consume(self.request.clone(), Arc::new(sink));
        let inner = started.now_or_never().unwrap()?;
        self.state.lock().inner = Some(inner);
        Ok(())
    }

    fn deliver(&self, round: u64, delivery: Delivery) {
        let id = id_of(&delivery.message.body);
        let tag = {
            let mut state = self.state.lock();
            if state.round != round || state.is_over {
                return;
            }
            state.next += 1;
            let tag = state.next;
            state.tags.insert(tag, (delivery.tag, id));
            tag
        };
        self.sink.deliver(Delivery { tag, ..delivery });
    }

    /// What is unsettled goes back to the queue.
    fn give_back(&self, state: &mut State, kept: &[u64]) {
        state.tags.retain(|tag, (_, id)| {
            let stays = kept.contains(tag);
            if let (false, Some(id)) = (stays, id) {
                self.broker.ledger.settle(*id, Verdict::Requeue);
            }
            stays
        });
    }

    /// The link is lost. The result is to be dropped when all others are lost, too: then the broker
    /// has nobody to give the messages to.
    pub(super) fn lose(&self) -> Option<Arc<dyn Consumer>> {
        let mut state = self.state.lock();
        self.give_back(&mut state, &[]);
        state.round += 1;
        state.inner.take()
    }

    pub(super) fn come_back(&self, host: &Arc<dyn VirtualHost>) {
        if self.state.lock().is_over {
            return;
        }
        self.sink.taken_back();
        if let Err(error) = self.consume(&**host) {
            self.sink.lost(error);
        }
    }

    /// Ends the consumer. The broker hears of it a moment later, and of several in their order:
    /// sessions that end at the same time do so in any order.
    fn end(&self) {
        let inner = {
            let mut state = self.state.lock();
            state.is_over = true;
            self.give_back(&mut state, &[]);
            state.inner.take()
        };
        self.broker.consumers.lock().remove(&self.number);
        let Some(inner) = inner else { return };
        let mut ending = self.broker.ending.lock();
        ending.insert(self.number, inner);
        if ending.len() == 1 {
            let broker = Arc::clone(&self.broker);
            tokio::spawn(async move {
                sleep(A_MOMENT).await;
                let ended = std::mem::take(&mut *broker.ending.lock());
                ended.into_values().for_each(drop);
            });
        }
    }
}

impl Consumer for SimConsumer {
    fn settle(
        &self,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    ) -> BoxFuture<'_, Result<Settled, BrokerError>> {
        let link = &self.0;
        let (inner, to) = {
            let mut state = link.state.lock();
            let (Some(inner), Some((to, _))) = (state.inner.clone(), state.tags.get(&tag).copied())
            else {
                return ready(Ok(Settled::Stale)).boxed();
            };
            let first = if multiple { 0 } else { tag };
            let meant: Vec<u64> = state.tags.range(first..=tag).map(|(tag, _)| *tag).collect();
            for tag in meant {
                if let Some((_, Some(id))) = state.tags.remove(&tag) {
                    link.broker.ledger.settle(id, verdict);
                    let trace = &link.broker.trace;
                    trace.tell(WORLD, || format!("m{id} is settled: {verdict:?}"));
                }
            }
            (inner, to)
        };
        async move { inner.settle(to, multiple, verdict).await }.boxed()
    }

    fn holds(&self, tag: u64) -> bool {
        let state = self.0.state.lock();
        state.inner.is_some() && state.tags.contains_key(&tag)
    }

    fn heard(&self, _: u64) -> Confirm {
        ready(Ok(())).boxed()
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.0.end();
        async {
            sleep(2 * A_MOMENT).await;
            Ok(())
        }
        .boxed()
    }

    fn retire<'a>(&'a self, kept: &'a [u64]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let (inner, kept) = {
            let mut state = self.0.state.lock();
            self.0.give_back(&mut state, kept);
            let kept: Vec<u64> = state.tags.values().map(|(tag, _)| *tag).collect();
            // Nothing comes any more, also after a lost link.
            state.round += 1;
            state.is_over = true;
            (state.inner.clone(), kept)
        };
        async move {
            match inner {
                Some(inner) => inner.retire(&kept).await,
                None => Ok(()),
            }
        }
        .boxed()
    }
}

impl Drop for SimConsumer {
    fn drop(&mut self) {
        self.0.end();
    }
}
