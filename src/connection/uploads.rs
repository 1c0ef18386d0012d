//! Large frames of a client: their room is claimed before they are read, and a client that is over
//! its share is not read meanwhile.

use std::{
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use stomp_grammar::{Command, Frame};
use stomp_session::{Session, gathered_bytes, held_bytes};
use tokio::time::Instant;

use super::{
    context::Context,
    link::{FREE, Unfinished},
};
use crate::{
    deadline::later,
    node::{Account, Claim, Ticket, WORTH_SHEDDING},
};

/// Frames from this size on are counted while they are under way. For smaller ones their number
/// is bound enough; but not in transactions, which may have thousands of them, and for as long as
/// the client likes. There all count as soon as they are more than [`FREE`].
const COUNTED: usize = 4 * 1024;

/// The claims of a connection that are not in bodies. Most connections never make one.
#[derive(Default)]
pub(super) struct Uploads(Option<Box<State>>);

struct State {
    account: Arc<Account>,
    /// The claim of the frame that is being read.
    reading: Option<Claim>,
    /// The claim of frames without a body, until all operations of the client are done.
    heads: Option<Claim>,
    /// The claim of ACK and NACK frames in transactions.
    acknowledgements: Option<Claim>,
    ticket: Ticket,
    /// Bytes in transactions.
    gathered: usize,
    /// What the account knows of them.
    told: usize,
    /// Since when a claim waits, or its frame is being read.
    since: Instant,
}

impl Uploads {
    /// True if the connection has no claim.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Ready if the link may be read: the unfinished frame has its room, and the client is within
    /// its share. `is_idle`: it has no operation under way.
    pub(super) fn poll_room(
        &mut self,
        unfinished: Unfinished,
        is_idle: bool,
        context: &Context,
        task: &TaskContext<'_>,
    ) -> Poll<()> {
        if !unfinished.is_large() && self.0.is_none() {
            return Poll::Ready(());
        }
        // Before the login, frames are small, and their number is that of the connections.
        let Some(state) = self.open(context) else {
            return Poll::Ready(());
        };
        if is_idle {
            state.heads = None;
        }
        let claimed = state.reading.as_ref().map_or(0, Claim::bytes);
        let missing = if unfinished.is_large() {
            if claimed >= unfinished.most {
                return Poll::Ready(());
            }
            unfinished.most.saturating_sub(claimed)
        } else {
            state.reading = None;
            0
        };
        let waited = state.ticket.waits();
        // The client alone can give back what its transactions hold, by a frame that is still to
        // be read.
        let own = claimed.saturating_add(state.gathered);
        let ticket = &mut state.ticket;
        let claim = state.account.poll_more(own, missing, ticket, task);
        if let Poll::Ready(claim) = claim {
            state.since = Instant::now();
            match &mut state.reading {
                Some(reading) => reading.join(claim),
                none if missing > 0 => *none = Some(claim),
                _ => {}
            }
            if missing == 0 && !state.account.is_in_use() {
                self.0 = None;
            }
            return Poll::Ready(());
        }
        if !waited {
            state.since = Instant::now();
        }
        Poll::Pending
    }

    /// True if a claim waits, so that the client is not read.
    pub(super) fn waits(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.ticket.waits())
    }

    /// When [`Uploads::is_overdue`] is to be asked.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        let state = self.0.as_ref()?;
        let is_timed = state.ticket.waits() || state.reading.is_some();
        is_timed.then(|| later(state.since, patience))
    }

    /// True if the client has waited for room for too long, or has kept room for too long that
    /// others wait for.
    pub(super) fn is_overdue(&mut self, now: Instant, patience: Duration) -> bool {
        let is_due = self.deadline(patience).is_some_and(|due| now >= due);
        let Some(state) = self.0.as_mut().filter(|_| is_due) else {
            return false;
        };
        // It is not asked again at once, if the session takes its time to end.
        state.since = now;
        state.ticket.waits() || state.account.is_in_the_way()
    }

    /// Counts a frame that has come, out of `whole` bytes that were read at once, while `gathered`
    /// are in open transactions. Its body holds on to no more than about its own bytes from now on,
    /// and to its claim.
    pub(super) fn count(
        &mut self,
        frame: &mut Frame,
        (whole, gathered): (usize, usize),
        context: &Context,
    ) {
        let body = &mut frame.body;
        if !body.is_empty() && body.len() < whole / 2 {
            *body = Bytes::copy_from_slice(body);
        }
        let mut size = held_bytes(frame);
        // Almost no client has so much in transactions.
        let is_gathered = gathered.saturating_add(size) > FREE
            && matches!(frame.command, Command::Send | Command::Ack | Command::Nack)
            && frame.headers.get("transaction").is_some();
        if is_gathered {
            size = gathered_bytes(frame);
        } else if size < COUNTED {
            return;
        }
        let Some(state) = self.open(context) else {
            return;
        };
        let claim = match &mut state.reading {
            Some(reading) => {
                let mut claim = reading.split(size);
                let missing = size.saturating_sub(claim.bytes());
                claim.join(state.account.claim(missing));
                claim
            }
            None => state.account.claim(size),
        };
        if frame.command.has_body() {
            frame.body = claim.around(std::mem::take(&mut frame.body));
            return;
        }
        let claims = match is_gathered {
            true => &mut state.acknowledgements,
            false => &mut state.heads,
        };
        match claims {
            Some(claims) => claims.join(claim),
            none => *none = Some(claim),
        }
    }

    /// The session has taken a frame, and so has other open transactions than before, perhaps. The
    /// account hears of their bytes in steps.
    pub(super) fn gather(&mut self, session: &Session) {
        let Some(state) = &mut self.0 else {
            return;
        };
        state.gathered = session.gathered();
        let told = state
            .gathered
            .saturating_sub(state.gathered % WORTH_SHEDDING);
        if told != state.told {
            state.told = told;
            state.account.gather(told);
        }
        if let Some(claim) = &mut state.acknowledgements {
            // Some were ignored, or their transaction has ended.
            let left = session.gathered_acknowledgements();
            drop(claim.split(claim.bytes().saturating_sub(left)));
            if left == 0 {
                state.acknowledgements = None;
            }
        }
    }

    fn open(&mut self, context: &Context) -> Option<&mut State> {
        if self.0.is_none() {
            self.0 = Some(Box::new(State {
                account: context.account()?,
                reading: None,
                heads: None,
                acknowledgements: None,
                ticket: Ticket::default(),
                gathered: 0,
                told: 0,
                since: Instant::now(),
            }));
        }
        self.0.as_deref_mut()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.told > 0 {
            self.account.gather(0);
        }
    }
}
