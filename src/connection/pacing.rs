//! How fast a client may send: a faster one is not read until it is slow enough, or goes.

use std::time::Duration;

use stomp_grammar::Command;
use stomp_session::Problem;
use tokio::time::Instant;

use super::context::Context;
use crate::{
    deadline::later,
    node::{Bucket, Pace, TooFast},
    telemetry,
};

/// The buckets of one connection. They are there only while one is not full: an idle connection
/// has none.
#[derive(Default)]
pub(super) struct Pacing(Option<Box<Buckets>>);

#[derive(Default)]
struct Buckets {
    messages: Bucket,
    bytes: Bucket,
    subscribes: Bucket,
    paused: Option<Paused>,
}

/// The client is not read.
struct Paused {
    until: Instant,
    /// What it sent and has not paid for.
    owed: Vec<(Pace, u32)>,
}

impl Pacing {
    /// Counts bytes that came.
    ///
    /// # Errors
    /// The client is too fast, and has to go.
    pub(super) fn count_bytes(&mut self, bytes: usize, context: &Context) -> Result<(), Problem> {
        self.count(&[(Pace::Bytes, Pace::steps(bytes))], context)
    }

    /// Counts a frame that came.
    ///
    /// # Errors
    /// As [`Pacing::count_bytes`].
    pub(super) fn count_frame(
        &mut self,
        command: Command,
        context: &Context,
    ) -> Result<(), Problem> {
        match command {
            Command::Send => self.count(&[(Pace::Messages, 1)], context),
            Command::Subscribe => {
                self.count(&[(Pace::Subscribes, 1), (Pace::UserSubscribes, 1)], context)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, owed: &[(Pace, u32)], context: &Context) -> Result<(), Problem> {
        // Before the login there is next to nothing to send.
        if context.identity().is_none() {
            return Ok(());
        }
        let buckets = self.0.get_or_insert_default();
        buckets.pay(owed, context)
    }

    /// True if all buckets are full.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// True if the client is not read for now.
    pub(super) fn is_paused(&self) -> bool {
        self.deadline().is_some()
    }

    /// When [`Pacing::resume`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let paused = self.0.as_ref()?.paused.as_ref()?;
        Some(paused.until)
    }

    /// Goes on, if it is time.
    ///
    /// # Errors
    /// As [`Pacing::count_bytes`].
    pub(super) fn resume(&mut self, now: Instant, context: &Context) -> Result<(), Problem> {
        let Some(buckets) = &mut self.0 else {
            return Ok(());
        };
        match buckets.paused.take_if(|paused| paused.until <= now) {
            Some(paused) => buckets.pay(&paused.owed, context),
            None => {
                self.rest(context);
                Ok(())
            }
        }
    }

    /// Gives back the room of buckets that are full: those of bytes are, a moment after a
    /// heart-beat.
    pub(super) fn rest(&mut self, context: &Context) {
        let buckets = self.0.as_ref();
        if buckets.is_some_and(|buckets| buckets.paused.is_none() && buckets.are_full(context)) {
            self.0 = None;
        }
    }
}

impl Buckets {
    /// Pays for these in order, until there is nothing left to pay with.
    fn pay(&mut self, mut owed: &[(Pace, u32)], context: &Context) -> Result<(), Problem> {
        let paces = &context.settings().paces;
        while let Some(((pace, count), rest)) = owed.split_first() {
            if let (Some(rate), Some(bucket)) = (paces.rate(*pace), self.bucket(*pace, context))
                && let Err(wait) = rate.take(bucket, *count)
            {
                let info = context.info();
                telemetry::limit_exceeded(pace.bound(), &info.user.unwrap_or_default());
                if paces.too_fast == TooFast::Disconnect {
                    return Err(too_fast(*pace, wait));
                }
                self.paused = Some(Paused {
                    until: later(Instant::now(), wait),
                    owed: owed.to_vec(),
                });
                return Ok(());
            }
            owed = rest;
        }
        Ok(())
    }

    fn bucket<'a>(&'a self, pace: Pace, context: &'a Context) -> Option<&'a Bucket> {
        Some(match pace {
            Pace::Messages => &self.messages,
            Pace::Bytes => &self.bytes,
            Pace::Subscribes => &self.subscribes,
            Pace::UserSubscribes => context.identity()?.place.subscribes(),
        })
    }

    fn are_full(&self, context: &Context) -> bool {
        [Pace::Messages, Pace::Bytes, Pace::Subscribes]
            .into_iter()
            .all(|pace| {
                let rate = context.settings().paces.rate(pace);
                let full = rate.zip(self.bucket(pace, context));
                full.is_none_or(|(rate, bucket)| rate.is_full(bucket))
            })
    }
}

fn too_fast(pace: Pace, wait: Duration) -> Problem {
    let seconds = wait.as_millis().div_ceil(1000);
    Problem::TooFast {
        what: pace.what(),
        seconds: u16::try_from(seconds).unwrap_or(u16::MAX).max(1),
    }
}
