//! Messages on their way to the broker: in order in each lane, and answered late.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use stentor::broker::{BrokerError, Confirm, Publish};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{CONFIRM, Simulated, unavailable};
use crate::{ledger::id_of, trace::WORLD};

#[derive(Default)]
pub(super) struct Lane {
    waiting: VecDeque<OnItsWay>,
    last: Option<Instant>,
    is_served: bool,
}

struct OnItsWay {
    publish: Publish,
    due: Instant,
    answer_after: Duration,
    is_refused: bool,
    /// If the link breaks: whether the broker has it all the same.
    arrives: bool,
    loss: u64,
    answer: oneshot::Sender<Result<(), BrokerError>>,
}

impl Simulated {
    /// Gives a message its place in its lane.
    pub(super) fn enqueue(self: &Arc<Self>, publish: Publish, loss: u64) -> Confirm {
        let subject = format!("{}/{:?}", publish.exchange, id_of(&publish.body));
        let mut draws = self.draws("publish", &subject);
        let mood = *self.mood.lock();
        let longest = 20 + mood.slowness;
        let (answer, answered) = oneshot::channel();
        let lane_name = publish.lane;
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(lane_name).or_default();
        let earliest = lane
            .last
            .map_or_else(Instant::now, |last| last.max(Instant::now()));
        let due = earliest + draws.millis(1, longest);
        lane.last = Some(due);
        lane.waiting.push_back(OnItsWay {
            due,
            answer_after: draws.millis(1, longest),
            is_refused: draws.percent(mood.nacks) && id_of(&publish.body).is_some(),
            arrives: draws.percent(50),
            publish,
            loss,
            answer,
        });
        if !lane.is_served {
            lane.is_served = true;
            tokio::spawn(Arc::clone(self).serve_lane(lane_name));
        }
        drop(lanes);
        Box::pin(async move {
            match timeout(CONFIRM, answered).await {
                Ok(Ok(answer)) => answer,
                _ => Err(unavailable()),
            }
        })
    }

    async fn serve_lane(self: Arc<Self>, name: u64) {
        loop {
            let next = {
                let mut lanes = self.lanes.lock();
                let lane = lanes
                    .get_mut(&name)
                    .and_then(|lane| lane.waiting.pop_front());
                if lane.is_none() {
                    lanes.remove(&name);
                }
                lane
            };
            let Some(next) = next else { return };
            self.carry(next).await;
        }
    }

    async fn carry(self: &Arc<Self>, message: OnItsWay) {
        sleep_until(message.due).await;
        self.has_alarm.wait_for(|has_alarm| !has_alarm).await;
        let id = id_of(&message.publish.body);
        let (exchange, key) = (
            message.publish.exchange.clone(),
            message.publish.routing_key.clone(),
        );
        let is_cut = self.check(message.loss).is_err();
        let outcome = if is_cut && !message.arrives {
            Err(unavailable())
        } else if message.is_refused {
            Err(BrokerError::Nacked)
        } else {
            if let Some(id) = id {
                self.ledger.take(id, &exchange, &key);
                self.trace
                    .tell(WORLD, || format!("broker takes m{id} for {exchange}/{key}"));
            }
            // The embedded broker does its work before it returns.
            match self.host().publish(message.publish).await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            }
        };
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            sleep(message.answer_after).await;
            if is_cut || broker.check(message.loss).is_err() {
                let _ = message.answer.send(Err(unavailable()));
                return;
            }
            if let (Ok(()), Some(id)) = (&outcome, id) {
                broker.ledger.confirm(id);
            }
            let _ = message.answer.send(outcome);
        });
    }
}
