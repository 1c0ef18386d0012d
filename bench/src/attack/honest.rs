//! Honest clients: subscribers and publishers of a worker, whose messages are booked and timed.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    latency::Latencies,
    orders::{Connect, Habits, Load, Loaded, Order, Pace, Publish, Report},
    servers::Servers,
    verify::Verification,
    workers::Worker,
};

/// The body of their messages. In bytes.
const SIZE: usize = 256;

/// In milliseconds.
const HEART_BEAT: u32 = 10_000;

/// The longest load; it is ended before.
const LONGEST_MS: u64 = 600_000;

/// The longest for a worker to answer: all that is under way may have to be waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many there are, and how much they send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    pub(super) subscribers: u32,
    pub(super) publishers: usize,
    /// Messages a second, of all together.
    pub(super) rate: f64,
}

/// The effects that they noticed in a while.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Noticed {
    /// The time from a message's due moment until it was read; a minute, if it never was. `None`
    /// without messages.
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) longest_ms: Option<f64>,
    pub(super) verification: Verification,
    /// Clients that were cut off, and other faults.
    pub(super) troubles: Vec<String>,
}

/// The crowd. Dropped, it is gone.
pub(super) struct Honest {
    worker: Worker,
    crowd: Crowd,
    /// True if messages are published now.
    publishes: bool,
    /// The reason why their worker is gone, if it is.
    fault: Option<String>,
}

impl Honest {
    /// Subscribers connect, and stay.
    ///
    /// # Errors
    /// One is refused.
    pub(super) async fn come(servers: &Servers, crowd: Crowd) -> Result<Self> {
        let mut worker = Worker::start()?;
        let connect = Connect {
            server: *servers.websockets().first().context("no server")?,
            authority: None,
            first: 0,
            count: crowd.subscribers,
            at_once: 20,
            again: false,
            habits: Habits {
                own_key: true,
                heart_beat_ms: HEART_BEAT,
                ..Habits::default()
            },
        };
        let connected = worker.connect(connect, |_| {}).await;
        connected.context("connecting")?;
        Ok(Self {
            worker,
            crowd,
            publishes: true,
            fault: None,
        })
    }

    /// Publishers connect, if there are any, and messages begin to flow.
    pub(super) async fn begin(&mut self, publish: Option<Publish>) {
        self.publishes = publish.is_some();
        if let Some(publish) = publish.filter(|_| self.fault.is_none()) {
            let begun = self.try_begin(publish).await;
            self.fault = begun.err().map(|error| format!("{error:#}"));
        }
    }

    async fn try_begin(&mut self, publish: Publish) -> Result<()> {
        let load = Load {
            unicast: Some(Pace::Open(self.crowd.rate)),
            publishers: self.crowd.publishers,
            broadcast: None,
            churn: None,
            size: SIZE,
            warm_up_ms: 0,
            measure_ms: LONGEST_MS,
            rounds: None,
        };
        self.worker.order(&Order::Load(load, publish)).await?;
        match timeout(PATIENCE, self.worker.report()).await?? {
            Report::Measuring => Ok(()),
            other => bail!("a worker publishes, and says {other:?}"),
        }
    }

    /// Stops the messages; returns the effects, once all messages have arrived.
    pub(super) async fn end(&mut self) -> Noticed {
        let ended = match &self.fault {
            Some(fault) => Err(anyhow::anyhow!("{fault}")),
            None if self.publishes => self.try_end().await,
            None => self.complaint().await.map(|()| Noticed::default()),
        };
        ended.unwrap_or_else(|error| {
            let fault = format!("{error:#}");
            self.fault = Some(fault.clone());
            Noticed {
                troubles: vec![fault],
                ..Noticed::default()
            }
        })
    }

    async fn try_end(&mut self) -> Result<Noticed> {
        self.worker.order(&Order::Enough).await?;
        loop {
            match timeout(PATIENCE, self.worker.report()).await?? {
                Report::Measured => {}
                Report::Loaded(loaded) => return Noticed::of(*loaded),
                other => bail!("a worker publishes, and says {other:?}"),
            }
        }
    }

    /// If nothing is published, any report of a worker means that somebody was cut off.
    async fn complaint(&mut self) -> Result<()> {
        match timeout(Duration::from_millis(1), self.worker.report()).await {
            Ok(report) => bail!("a worker says {:?}", report?),
            Err(_) => Ok(()),
        }
    }
}

impl Noticed {
    fn of(loaded: Loaded) -> Result<Self> {
        let mut latencies = Latencies::new()?;
        if let Some(flowed) = &loaded.unicast {
            latencies.add(&flowed.latency);
        }
        // Or those that were fast would be all that counts.
        let lost = loaded.verification.lost;
        latencies.record_lost(lost);
        let any = loaded.verification.correct + lost > 0;
        let milliseconds = |of: f64| any.then_some(of / 1e3);
        Ok(Self {
            p50_ms: milliseconds(latencies.microseconds(50.0)),
            p99_ms: milliseconds(latencies.microseconds(99.0)),
            longest_ms: milliseconds(latencies.longest()),
            verification: loaded.verification,
            troubles: loaded.troubles,
        })
    }
}
