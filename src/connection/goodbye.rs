//! The end of a connection: completes what the client asked for, tells it the last words, closes its
//! transport, and logs why.

use std::{
    future::poll_fn,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use stomp_session::{CloseCode, Problem};
use tokio::{
    task::yield_now,
    time::{Instant, error::Elapsed, sleep_until, timeout},
};

use super::{
    Connection,
    end::{End, Ended},
    event::Event,
    link::{Link, LinkError},
};
use crate::telemetry::{self, Ending};

/// How long the last words to a client may take, and before them what it asked for and left.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);

impl<L: Link> Connection<L> {
    /// The last words, and the end.
    pub(super) async fn finish(mut self) {
        self.context.guard.ends();
        // However it ends in the end: by a kick meanwhile, say.
        let may_be_told = self.ended.as_ref().is_none_or(|ended| ended.may_be_told());
        if !self.is_closing() {
            // It may have sent and gone: its requests are carried out all the same.
            self.context.set_gone();
            let _ = timeout(LAST_WORDS, self.finish_operations()).await;
        }
        self.context.leave();
        self.context.guard.mailbox().close();
        if may_be_told {
            let _ = self.say_goodbye(self.last_words()).await;
        }
        self.log_end();
    }

    /// Carries out what was read, and is not decoded yet, too: at its client's pace, for to go is no way
    /// round that; nor round a kick or a ban, which end what the broker has not heard of. Where the link
    /// broke, what came before that is read, too: a client over HTTP was told that it has come.
    async fn finish_operations(&mut self) {
        let mut may_have_more = self.is_broken();
        loop {
            if let Some(problem) = self.context.guard.mailbox().take_revocation() {
                self.handle(Event::Problem(problem));
            }
            self.act();
            if self.is_closing() {
                return;
            }
            if self.reader.ends_turn() {
                yield_now().await;
                continue;
            }
            let reads = may_have_more && self.wants_bytes();
            if reads {
                // Others have their turn; and one that has had too much of it would be told that
                // nothing is there.
                yield_now().await;
            }
            match poll_fn(|task| self.poll_last(reads, task)).await {
                Some(Event::LinkEnded(_)) => may_have_more = false,
                Some(event) => {
                    self.handle(event);
                }
                None => match self.reader.paused_until() {
                    Some(until) if may_have_more || !self.reader.is_empty() => {
                        sleep_until(until).await;
                        self.resume(Instant::now());
                    }
                    _ => return,
                },
            }
        }
    }

    /// Whether it ended for its link broke. A client that is cut otherwise may be there, and send more
    /// and more.
    fn is_broken(&self) -> bool {
        matches!(
            self.ended.as_deref(),
            Some(Ended {
                end: End::Link(Some(LinkError::Io(_))),
                ..
            })
        )
    }

    /// Whether all that was read is decoded, and more can be.
    fn wants_bytes(&self) -> bool {
        self.reader.is_empty() && !self.reader.is_paused() && self.session.wants_frame()
    }

    /// What comes next; `None` once nothing is under way. `reads`: the link is read, too. If that was
    /// all, it has ended. While there is no room for more, it has not: what is under way has the room,
    /// or what others of its user have.
    fn poll_last(&mut self, reads: bool, task: &mut TaskContext<'_>) -> Poll<Option<Event>> {
        // Also when it is the hook's answer that has come.
        if let Some(problem) = self.context.guard.mailbox().take_revocation() {
            return Poll::Ready(Some(Event::Problem(problem)));
        }
        if reads {
            let is_idle = self.operations.is_idle();
            let reading = self
                .reader
                .poll(&mut self.link, is_idle, &self.context, task);
            match reading {
                Poll::Ready(received) => return Poll::Ready(Some(received.into())),
                Poll::Pending if self.reader.waits() => {}
                Poll::Pending => return Poll::Ready(Some(Event::LinkEnded(Ok(())))),
            }
        }
        match ready!(self.operations.poll_last(&self.context, task)) {
            None if reads => Poll::Pending,
            done => Poll::Ready(done.map(Event::Done)),
        }
    }

    /// How long each of the last words may take. A client for which there is no room is told so as
    /// far as its socket takes it at once: waiting would hold the file that a newcomer needs.
    fn last_words(&self) -> Duration {
        let end = self.ended.as_ref().map(|ended| &ended.end);
        match end {
            Some(End::Problem(problem))
                if matches!(
                    **problem,
                    Problem::TooManyConnections | Problem::TooManyLogins
                ) =>
            {
                Duration::ZERO
            }
            _ => LAST_WORDS,
        }
    }

    /// Writes what is to be written, gives back what was not acknowledged, and closes the link.
    async fn say_goodbye(&mut self, patience: Duration) -> Result<(), Elapsed> {
        let flushing = poll_fn(|task| self.link.poll_flush(task));
        let is_flushed = timeout(patience, flushing).await?.is_ok();
        if is_flushed {
            let mailbox = self.context.guard.mailbox();
            timeout(patience, self.operations.accept_last(mailbox)).await?;
        }
        // Other consumers get its unacknowledged messages now, not only when it has closed, too.
        self.operations.close_subscriptions();
        if is_flushed {
            let ended = self.ended.as_ref();
            let code = ended.map_or(CloseCode::Normal, |ended| ended.close_code());
            let closing = poll_fn(|task| self.link.poll_close(task, code));
            // A client that does not answer has had its time.
            timeout(patience, closing).await?;
        }
        Ok(())
    }

    fn log_end(self) {
        let running = self.context.services.started().elapsed();
        let end = self.ended.map(|ended| ended.end);
        let reason = end.as_ref().map(End::to_string);
        let kind = end.as_ref().map_or("", End::kind);
        self.context.tell_disconnected(kind);
        let ending = Ending {
            reason: reason.as_deref().unwrap_or_default(),
            is_error: end.as_ref().is_some_and(End::is_error),
            kind,
            refused: end.as_ref().and_then(End::refused),
            duration: running.saturating_sub(Duration::from_nanos(self.opened)),
            frames_in: self.reader.frames.into(),
            frames_out: self.writer.frames.into(),
            messages_in: self.reader.messages.into(),
            messages_out: self.writer.messages.into(),
        };
        telemetry::connection_closed(&self.context.info(), &ending);
    }
}
