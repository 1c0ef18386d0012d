//! Sends what the queue of one receiver says.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use reqwest::{Client, Response, StatusCode, header};
use tokio::{
    select,
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use url::Url;

use super::{
    Config, ReceiverStatus, ReceiverUrl, Secret,
    queue::{Bounds, DeliveryQueue, Outcome, Told},
    signature,
};
use crate::{
    auth::http_client,
    causes::{of_request, with_causes},
    secret_url::without_secrets,
    telemetry::{self, Seldom},
};

/// The pause after a failed attempt, at first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Of an answer's body, so much is read, for the connection to be used again.
const MAX_ANSWER: usize = 16 << 10;
/// The sender looks again after this at the latest, whatever the queue says.
const FAR: Duration = Duration::from_secs(3_600);

/// A URL, and what waits for it.
pub(super) struct Receiver {
    url: Url,
    shown: String,
    secret: Secret,
    client: Client,
    queue: Mutex<DeliveryQueue>,
    wake: Notify,
    away: Mutex<Away>,
    /// Whether nothing waits, as of the last event that ended.
    empty: watch::Sender<bool>,
}

/// What the log has said of a receiver. One that comes and goes would fill it.
struct Away {
    seldom: Seldom,
    is_said: bool,
}

impl Default for Away {
    fn default() -> Self {
        Self {
            seldom: Seldom::once_in(Seldom::MINUTE),
            is_said: false,
        }
    }
}

impl Away {
    /// It is away, or still is: whether to say so, and how often that went unsaid.
    fn let_through(&mut self) -> Option<u64> {
        let unsaid = self.seldom.let_through(Instant::now().into_std())?;
        self.is_said = true;
        Some(unsaid)
    }

    /// It is back; whether to say so: if it was said that it is away.
    fn end(&mut self) -> bool {
        std::mem::take(&mut self.is_said)
    }
}

impl Receiver {
    pub(super) fn new(url: &ReceiverUrl, config: &Config) -> Result<Arc<Self>, String> {
        let url = url.reveal();
        let client = http_client(url.scheme() == "https", config.timeout)
            .timeout(config.timeout)
            .pool_max_idle_per_host(config.max_requests)
            .build()
            .map_err(|error| format!("[webhooks] urls: {}", with_causes(&error)))?;
        let bounds = Bounds {
            max_bytes: config.max_bytes,
            max_of_subject: config.max_user_events,
            max_requests: config.max_requests,
            attempts: config.attempts,
            pauses: (FIRST_PAUSE.min(config.max_pause), config.max_pause),
            max_dead: config.max_dead,
        };
        Ok(Arc::new(Self {
            url: url.clone(),
            shown: without_secrets(url),
            secret: config.secret.clone(),
            client,
            queue: Mutex::new(DeliveryQueue::new(bounds)),
            wake: Notify::new(),
            away: Mutex::default(),
            empty: watch::Sender::new(true),
        }))
    }

    pub(super) fn push(&self, told: Told) {
        let mut queue = self.queue.lock();
        match queue.push(told) {
            Ok(()) => {
                self.empty.send_replace(false);
                telemetry::webhook_waits();
            }
            Err(_) => telemetry::webhook_dropped(&self.shown, queue.len()),
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Sends, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut requests = JoinSet::new();
        loop {
            let now = Instant::now();
            // Each look at the queue is short, for whoever logs in pushes to it.
            while let Some(told) = self.take(now) {
                let receiver = Arc::clone(&self);
                requests.spawn(async move { receiver.attempt(&told).await });
            }
            let next = self.queue.lock().wake_at();
            let next = next.or_else(|| now.checked_add(FAR)).unwrap_or(now);
            select! {
                () = self.wake.notified() => {}
                Some(_) = requests.join_next() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn take(&self, now: Instant) -> Option<Told> {
        self.queue.lock().take(now)
    }

    async fn attempt(&self, told: &Told) {
        let outcome = self.post(told).await;
        let is_delivered = outcome == Outcome::Delivered;
        let cause = match &outcome {
            Outcome::Delivered => String::new(),
            Outcome::Refused(cause) | Outcome::Failed(cause) => cause.to_string(),
        };
        let mut queue = self.queue.lock();
        let changed = queue.done(Instant::now(), &told.subject, outcome);
        self.empty.send_replace(queue.len() == 0);
        drop(queue);
        if is_delivered {
            telemetry::webhook_delivered();
        } else {
            telemetry::webhook_failed();
        }
        if changed.is_back && self.away.lock().end() {
            telemetry::webhooks_up(&self.shown);
        }
        if let Some(pause) = changed.is_away
            && let Some(unsaid) = self.away.lock().let_through()
        {
            telemetry::webhooks_down(&self.shown, &cause, pause, unsaid);
        }
        if let Some(dead) = changed.dead {
            telemetry::webhook_dead(&self.shown, dead.name, &dead.id, dead.attempts, &cause);
        }
    }

    async fn post(&self, told: &Told) -> Outcome {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs();
        let signed = signature::sign(self.secret.reveal(), seconds, &told.body);
        let request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(signature::HEADER, signed)
            .body(told.body.clone());
        match request.send().await {
            Ok(answer) => judge(answer).await,
            // Its URL may have a secret in its query.
            Err(error) => Outcome::Failed(of_request(error).into()),
        }
    }

    pub(super) fn status(&self) -> ReceiverStatus {
        let queue = self.queue.lock();
        ReceiverStatus {
            url: self.shown.clone(),
            failing: queue.failing().map(Box::from),
            waiting: queue.len(),
            bytes: queue.bytes(),
            dropped: queue.dropped(),
            given_up: queue.given_up(),
            dead: queue.dead().cloned().collect(),
        }
    }

    /// The node ends soon: what waits is tried now.
    pub(super) fn hurry(&self) {
        self.queue.lock().hurry(Instant::now());
        self.wake.notify_one();
    }

    /// Done when nothing waits.
    pub(super) async fn wait_empty(&self) {
        // It is never dropped before this ends.
        let _ = self.empty.subscribe().wait_for(|is_empty| *is_empty).await;
    }

    /// The log says what is left.
    pub(super) fn close(&self) {
        let left = self.queue.lock().len();
        if left > 0 {
            telemetry::webhooks_unsent(&self.shown, left);
        }
    }
}

async fn judge(mut answer: Response) -> Outcome {
    let status = answer.status();
    let mut read = 0_usize;
    while let Ok(Some(part)) = answer.chunk().await {
        read = read.saturating_add(part.len());
        if read > MAX_ANSWER {
            break;
        }
    }
    of_status(status)
}

/// The outcome that a status means: 4xx is about this event, save where it says that the receiver is
/// not ready, or not there, for any.
fn of_status(status: StatusCode) -> Outcome {
    let cause = || format!("the receiver answered {status}").into();
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        401 | 403 | 404 | 405 | 407 | 408 | 410 | 421 | 425 | 429 => Outcome::Failed(cause()),
        400..=499 => Outcome::Refused(cause()),
        _ => Outcome::Failed(cause()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_comes_and_goes_is_told_of_once_a_minute() {
        let mut away = Away::default();
        assert!(!away.end(), "nobody heard that it is away");
        assert_eq!(away.let_through(), Some(0));
        assert!(away.end());
        for _ in 0..3 {
            assert_eq!(away.let_through(), None);
            assert!(!away.end());
        }
        // It is still away: the last line in the log would say that it is back.
        assert_eq!(away.let_through(), None);
        tokio::time::advance(Seldom::MINUTE).await;
        assert_eq!(away.let_through(), Some(4));
        assert!(away.end());
    }

    #[test]
    fn only_2xx_is_delivered_and_redirects_are_not_followed() {
        for (status, outcome) in [
            (200, "delivered"),
            (204, "delivered"),
            (302, "failed"),
            (400, "refused"),
            (404, "failed"),
            (422, "refused"),
            (429, "failed"),
            (500, "failed"),
            (503, "failed"),
        ] {
            let found = match of_status(StatusCode::from_u16(status).unwrap()) {
                Outcome::Delivered => "delivered",
                Outcome::Refused(_) => "refused",
                Outcome::Failed(_) => "failed",
            };
            assert_eq!(found, outcome, "{status}");
        }
    }
}
