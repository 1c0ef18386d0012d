//! The read side: bytes from the link, room for what is large among them, and whole frames for the
//! session.

use std::task::{Context as TaskContext, Poll, ready};

use bytes::Bytes;
use stomp_grammar::{Command, Decoder, Limits as DecoderLimits, Version};
use stomp_session::{Problem, Session};
use tokio::time::{Duration, Instant};

use super::{
    context::Context,
    link::{FREE, Link, LinkError, Unfinished},
    pacing::Pacing,
    tapped,
    uploads::Uploads,
};

/// Frames that are decoded before it is the turn of others: one read can bring hundreds, and those
/// that need nothing but the session are done at once.
const FRAMES_A_TURN: u8 = 16;

/// The read side of a connection.
pub(super) struct Reader {
    decoder: Decoder,
    /// Received and not decoded yet.
    input: Bytes,
    /// Boxed, since few connections have any of it at a time.
    aside: Option<Box<Aside>>,
    /// How many bytes were received with `input`.
    whole: u32,
    /// Frames read.
    pub(super) frames: u32,
    /// SEND frames among them.
    pub(super) messages: u32,
    /// Frames decoded since others had their turn.
    turn: u8,
}

/// What a client owes for its frames: room, and time.
#[derive(Default)]
struct Aside {
    uploads: Uploads,
    pacing: Pacing,
}

impl Reader {
    /// `version` is the session's, until its client names another.
    pub(super) fn new(limits: DecoderLimits, version: Version) -> Self {
        let mut decoder = Decoder::new(limits);
        decoder.set_version(version);
        Self {
            decoder,
            input: Bytes::new(),
            aside: None,
            whole: 0,
            frames: 0,
            messages: 0,
            turn: 0,
        }
    }

    /// Sets the limits of frames from now on.
    pub(super) fn set_limits(&mut self, limits: DecoderLimits) {
        self.decoder.set_limits(limits);
    }

    /// These bytes came, and `count` with the transport's own.
    ///
    /// # Errors
    /// The client is too fast, and has to go.
    pub(super) fn receive(
        &mut self,
        bytes: Bytes,
        count: usize,
        context: &Context,
    ) -> Result<(), Problem> {
        self.input = match self.input.is_empty() {
            true => bytes,
            // The link was read though the session wants no frame.
            false => [&*self.input, &*bytes].concat().into(),
        };
        self.whole = u32::try_from(self.input.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Ok(());
        }
        self.aside().pacing.count_bytes(count, context)
    }

    /// Whether the client is not read for now, nor are its frames decoded, for it was too fast.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_until().is_some()
    }

    /// When [`Reader::resume`] ends the pause, if there is one.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.aside.as_ref()?.pacing.deadline()
    }

    /// Goes on after a pause, if it is time.
    ///
    /// # Errors
    /// As [`Reader::receive`].
    pub(super) fn resume(&mut self, now: Instant, context: &Context) -> Result<(), Problem> {
        let resumed = match &mut self.aside {
            Some(aside) => aside.pacing.resume(now, context),
            None => Ok(()),
        };
        self.tidy(context);
        resumed
    }

    fn aside(&mut self) -> &mut Aside {
        self.aside.get_or_insert_default()
    }

    /// An idle connection keeps nothing aside.
    fn tidy(&mut self, context: &Context) {
        if let Some(aside) = &mut self.aside {
            aside.pacing.rest(context);
            if aside.uploads.is_empty() && aside.pacing.is_empty() {
                self.aside = None;
            }
        }
    }

    /// Whether the link may be read though the session wants no frame.
    pub(super) fn may_read_ahead(&self) -> bool {
        !self.is_paused() && self.input.len() < FREE
    }

    /// True if all whole frames are decoded.
    pub(super) fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// Hands the session its next frame; `false` if there is none, or it must wait.
    pub(super) fn decode(&mut self, session: &mut Session, context: &Context) -> bool {
        if self.input.is_empty()
            || self.is_paused()
            || !session.wants_frame()
            || self.turn >= FRAMES_A_TURN
        {
            return false;
        }
        self.turn = self.turn.saturating_add(1);
        let now = Instant::now().into_std();
        match self.decoder.decode(&mut self.input) {
            Ok(Some(mut frame)) => {
                let sizes = (self.whole as usize, session.gathered());
                self.aside().uploads.count(&mut frame, sizes, context);
                if self.input.is_empty() {
                    // An empty rest holds on to all that was read with it.
                    self.input = Bytes::new();
                }
                self.frames = self.frames.wrapping_add(1);
                tapped::came(context, &frame);
                let command = frame.command;
                if command == Command::Send {
                    self.messages = self.messages.wrapping_add(1);
                }
                session.handle_frame(now, frame);
                self.aside().uploads.gather(session);
                let counted = self.aside().pacing.count_frame(command, context);
                if let Err(problem) = counted {
                    session.handle_problem(now, problem);
                }
                if self.input.is_empty() {
                    self.tidy(context);
                }
                self.decoder.set_version(session.version());
                true
            }
            Ok(None) => {
                // Nothing of a read buffer is held on to.
                self.input = Bytes::new();
                self.tidy(context);
                false
            }
            Err(error) => {
                session.handle_decode_error(now, error);
                self.input = Bytes::new();
                true
            }
        }
    }

    /// Returns true once after enough frames: it is the turn of others, and then the next frames
    /// may be decoded.
    pub(super) fn ends_turn(&mut self) -> bool {
        let is_over = self.turn >= FRAMES_A_TURN;
        if is_over {
            self.turn = 0;
        }
        is_over
    }

    /// Reads the link, as far as there is room for what is not whole yet. `is_idle`: nothing that
    /// the client asked for is under way.
    pub(super) fn poll<L: Link>(
        &mut self,
        link: &mut L,
        is_idle: bool,
        context: &Context,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        loop {
            let (received, most) = self.decoder.unfinished();
            let unfinished = link.unfinished().and(Unfinished { received, most });
            if unfinished.is_large() || self.aside.is_some() {
                let uploads = &mut self.aside().uploads;
                ready!(uploads.poll_room(unfinished, is_idle, context, task));
            }
            if unfinished.is_large() {
                link.go_on();
                return link.poll_receive(task);
            }
            let received = link.poll_receive(task);
            // It may have come as far as it may without asking.
            if received.is_ready() || !link.unfinished().is_large() {
                return received;
            }
        }
    }

    /// True if the client is not read: there is no room for its bytes, or it was too fast.
    pub(super) fn waits(&self) -> bool {
        let aside = self.aside.as_ref();
        aside.is_some_and(|aside| aside.uploads.waits() || aside.pacing.is_paused())
    }

    /// When [`Reader::is_overdue`] is to be asked, or [`Reader::resume`] called.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        let aside = self.aside.as_ref()?;
        let upload = aside.uploads.deadline(patience);
        upload.into_iter().chain(aside.pacing.deadline()).min()
    }

    /// True if the client has waited for room for too long, or kept it from others.
    pub(super) fn is_overdue(&mut self, now: Instant, patience: Duration) -> bool {
        let aside = self.aside.as_mut();
        aside.is_some_and(|aside| aside.uploads.is_overdue(now, patience))
    }
}
