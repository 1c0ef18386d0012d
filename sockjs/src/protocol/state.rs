//! The life of one session over HTTP. Pure: time is passed in.
//!
//! A client receives by one request after the other, or by one whose answer goes on for long; it
//! sends by others. So a session stays open for a moment while no connection is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::frame;

/// A session over HTTP, without its connections.
#[derive(Debug)]
pub(crate) struct SessionState {
    stage: Stage,
    /// Whether the client was sent the opening frame.
    is_opened: bool,
    receiving: Receiving,
    /// Requests that have received until now: the number of the last one.
    receivers: u32,
    /// Messages for the client, as JSON, with commas between them. Those that a client had not taken
    /// when it went stay for as long as the application does: it must not take them for written.
    out: String,
    /// Messages of the client, which the application has not received.
    inbox: VecDeque<Bytes>,
    /// Bytes in `inbox`, with the cost of keeping them.
    waiting: usize,
    was_heard: bool,
    /// Whether bytes of an answer were written, since the application has asked.
    was_written: bool,
    /// Bytes of requests, messages or not, that the application has not been told of.
    untold: usize,
    /// Whether it has asked for them once: then it wants to know.
    is_asked: bool,
    /// Whether a request of the client is not read, for there is no room for it.
    is_held: bool,
    /// Whether the client is gone, or counts as gone.
    is_gone: bool,
    /// Whether the application has dropped the session.
    is_abandoned: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Closed {
        frame: Box<str>,
        /// Whether the client was sent the frame.
        is_told: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Receiving {
    Nobody {
        since: Instant,
    },
    Somebody {
        next_heartbeat: Instant,
    },
    /// A request has taken its last frame, and its answer is still being written. Another one may
    /// receive; but the client need not ask for more before it has this.
    Leaving,
}

/// The times that govern a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    pub(crate) disconnect_delay: Duration,
}

/// The next thing for a request that receives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send this; more may follow.
    Frame(String),
    /// Send this, and end.
    Last(String),
    /// Ask again at this time, or when something has happened.
    Wait(Instant),
}

/// The next thing for the application.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Message(Bytes),
    Nothing,
    /// The client is gone.
    End,
}

/// About the memory that a message takes beyond its bytes.
const OVERHEAD: usize = 64;
/// The application hears of so many bytes, though they are no message.
const MOST_UNTOLD: usize = 4 * 1024;

impl SessionState {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Open,
            is_opened: false,
            receiving: Receiving::Nobody { since: now },
            receivers: 0,
            out: String::new(),
            inbox: VecDeque::new(),
            waiting: 0,
            was_heard: false,
            was_written: false,
            untold: 0,
            is_asked: false,
            is_held: false,
            is_gone: false,
            is_abandoned: false,
        }
    }

    /// A request that receives begins, and gets its number.
    ///
    /// # Errors
    /// The request is answered by this one frame instead.
    pub(crate) fn attach(&mut self, now: Instant, timing: Timing) -> Result<u32, String> {
        if let Receiving::Somebody { .. } = self.receiving {
            return Err(match &self.stage {
                Stage::Closed { frame, .. } => frame.to_string(),
                _ => frame::close(2010, "Another connection still open"),
            });
        }
        self.receiving = Receiving::Somebody {
            next_heartbeat: later(now, timing.heartbeat),
        };
        self.receivers = self.receivers.wrapping_add(1);
        Ok(self.receivers)
    }

    #[cfg(test)]
    pub(crate) fn has_receiver(&self) -> bool {
        matches!(self.receiving, Receiving::Somebody { .. })
    }

    /// The request that received has ended as it should.
    pub(crate) fn detach(&mut self, now: Instant) {
        self.receiving = Receiving::Nobody { since: now };
    }

    /// The request that receives has taken its last frame; its answer is not written yet.
    pub(crate) fn leave(&mut self) {
        self.receiving = Receiving::Leaving;
    }

    /// The answer of the request that was leaving is written.
    pub(crate) fn left(&mut self, number: u32, now: Instant) {
        if self.receivers == number && self.receiving == Receiving::Leaving {
            self.detach(now);
        }
    }

    /// The answer of a request could not be written. A client that has begun to receive again has
    /// got it.
    pub(crate) fn fail(&mut self, number: u32, now: Instant) {
        if self.receivers == number {
            self.interrupt(now);
        }
    }

    /// The request that received broke off: frames on their way may be lost.
    pub(crate) fn interrupt(&mut self, now: Instant) {
        self.detach(now);
        self.end_without_client();
    }

    /// The next thing for the request that receives.
    pub(crate) fn next(&mut self, now: Instant, timing: Timing) -> Next {
        if !self.is_opened {
            self.is_opened = true;
            return Next::Frame(frame::OPEN.to_owned());
        }
        if !self.out.is_empty() && !self.is_gone {
            return Next::Frame(frame::messages(&std::mem::take(&mut self.out)));
        }
        if let Stage::Closed { frame, is_told } = &mut self.stage {
            *is_told = true;
            return Next::Last(frame.to_string());
        }
        match &mut self.receiving {
            Receiving::Somebody { next_heartbeat } if now >= *next_heartbeat => {
                *next_heartbeat = later(now, timing.heartbeat);
                Next::Frame(frame::HEARTBEAT.to_owned())
            }
            Receiving::Somebody { next_heartbeat } => Next::Wait(*next_heartbeat),
            Receiving::Nobody { .. } | Receiving::Leaving => {
                Next::Wait(later(now, timing.heartbeat))
            }
        }
    }

    /// A message for the client. One for a client that is gone is pending for good.
    pub(crate) fn send(&mut self, message: &str) {
        if self.is_closed() && !self.is_gone {
            return;
        }
        if !self.out.is_empty() {
            self.out.push(',');
        }
        frame::quote(&mut self.out, message);
    }

    /// Bytes that no request has taken yet, or ever will.
    pub(crate) fn pending(&self) -> usize {
        self.out.len()
    }

    /// Bytes of an answer were written, of those that its request has taken.
    pub(crate) fn note_written(&mut self) {
        self.was_written = true;
    }

    pub(crate) fn was_written(&mut self) -> bool {
        std::mem::take(&mut self.was_written)
    }

    /// The application closes. The client still gets the messages before, and then this.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        if !self.is_closed() {
            self.stage = Stage::Closed {
                frame: frame::close(code, reason).into(),
                is_told: false,
            };
            self.forget_inbox();
        }
    }

    /// The application has dropped the session; the client learns it.
    pub(crate) fn abandon(&mut self) {
        self.close(1002, "Connection interrupted");
        self.is_abandoned = true;
        self.forget_out();
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed { .. })
    }

    /// Whether the client went, or stayed away for too long.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether the client knows that it is over, or will never know.
    pub(crate) fn is_over(&self) -> bool {
        self.is_gone || matches!(self.stage, Stage::Closed { is_told: true, .. })
    }

    /// Whether the client may send more now.
    pub(crate) fn has_room(&self, most: usize) -> bool {
        self.waiting < most
    }

    /// Takes messages of the client. After the end they are dropped, as on a socket.
    pub(crate) fn take_in(&mut self, messages: Vec<Bytes>) {
        if self.is_closed() {
            return;
        }
        self.hear(0);
        for message in messages {
            self.waiting = self.waiting.saturating_add(cost(&message));
            self.inbox.push_back(message);
        }
    }

    /// The next message of the client. Messages that it sent before it went still come.
    pub(crate) fn receive(&mut self) -> Received {
        match self.inbox.pop_front() {
            Some(message) => {
                self.waiting = self.waiting.saturating_sub(cost(&message));
                if self.inbox.is_empty() {
                    self.forget_inbox();
                }
                Received::Message(message)
            }
            None if self.is_gone || self.is_closed() => Received::End,
            None if self.has_news() => Received::Message(Bytes::new()),
            None => Received::Nothing,
        }
    }

    /// A part of a request came, of so many bytes: the client lives, though no message is whole.
    pub(crate) fn hear(&mut self, bytes: usize) {
        self.was_heard = true;
        self.untold = self.untold.saturating_add(bytes);
    }

    /// The bytes of requests since the last call.
    pub(crate) fn bytes_read(&mut self) -> usize {
        self.is_asked = true;
        std::mem::take(&mut self.untold)
    }

    /// Whether the application is to hear of bytes that are no message.
    pub(crate) fn has_news(&self) -> bool {
        self.is_asked && self.untold >= MOST_UNTOLD
    }

    /// Whether more came than the application has asked for, by more than `most`.
    pub(crate) fn is_ahead(&self, most: usize) -> bool {
        self.has_news() && self.untold > most
    }

    /// A request waits for room, or no longer: meanwhile its client cannot be heard.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    pub(crate) fn was_heard(&mut self) -> bool {
        std::mem::take(&mut self.was_heard) || self.is_held
    }

    /// When the client counts as gone, if no request receives until then.
    pub(crate) fn deadline(&self, timing: Timing) -> Option<Instant> {
        match self.receiving {
            Receiving::Nobody { since } if !self.is_gone => {
                Some(later(since, timing.disconnect_delay))
            }
            _ => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, timing: Timing) {
        if self
            .deadline(timing)
            .is_some_and(|deadline| now >= deadline)
        {
            self.end_without_client();
        }
    }

    /// Messages of the client are lost, and it may send more: that would not fit to those before.
    pub(crate) fn miss(&mut self) {
        if !self.is_closed() {
            self.end_without_client();
        }
    }

    fn end_without_client(&mut self) {
        self.is_gone = true;
        if !self.is_closed() {
            self.stage = Stage::Closed {
                frame: frame::close(1002, "Connection interrupted").into(),
                is_told: false,
            };
        }
        self.forget_out();
    }

    /// When neither side is left, nobody takes or counts what is there.
    fn forget_out(&mut self) {
        if self.is_gone && self.is_abandoned {
            self.out = String::new();
        }
    }

    fn forget_inbox(&mut self) {
        self.inbox = VecDeque::new();
        self.waiting = 0;
    }
}

/// A time that no timer can have is as good as one in the far future.
fn later(now: Instant, time: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let due = now.checked_add(time).or_else(|| now.checked_add(FAR));
    due.unwrap_or(now)
}

fn cost(message: &Bytes) -> usize {
    message.len().saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        heartbeat: Duration::from_secs(25),
        disconnect_delay: Duration::from_secs(5),
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A session, and its clock.
    struct Case {
        state: SessionState,
        now: Instant,
    }

    impl Case {
        /// Open, and received from.
        fn open() -> Self {
            let now = Instant::now();
            let mut case = Self {
                state: SessionState::new(now),
                now,
            };
            case.attach();
            assert_eq!(case.next(), Next::Frame("o".to_owned()));
            case
        }

        fn attach(&mut self) {
            self.state.attach(self.now, TIMING).unwrap();
        }

        fn next(&mut self) -> Next {
            self.state.next(self.now, TIMING)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.state.handle_timeout(self.now, TIMING);
        }
    }

    fn texts(texts: &[&'static str]) -> Vec<Bytes> {
        texts
            .iter()
            .map(|text| Bytes::from_static(text.as_bytes()))
            .collect()
    }

    fn some(frame: &str) -> Next {
        Next::Frame(frame.to_owned())
    }

    fn last(frame: &str) -> Next {
        Next::Last(frame.to_owned())
    }

    const INTERRUPTED: &str = r#"c[1002,"Connection interrupted"]"#;

    #[test]
    fn messages_that_wait_go_in_one_frame() {
        let mut case = Case::open();
        case.state.send("a");
        case.state.send("b\n");
        assert_eq!(case.state.pending(), 9);
        assert_eq!(case.next(), some(r#"a["a","b\n"]"#));
        assert_eq!(case.state.pending(), 0);
        assert!(matches!(case.next(), Next::Wait(_)));
    }

    #[test]
    fn a_heartbeat_is_sent_every_25_seconds() {
        let mut case = Case::open();
        assert_eq!(case.next(), Next::Wait(case.now + seconds(25)));
        case.pass(seconds(24));
        assert!(matches!(case.next(), Next::Wait(_)));
        case.pass(seconds(1));
        assert_eq!(case.next(), some("h"));
        assert_eq!(case.next(), Next::Wait(case.now + seconds(25)));
        case.pass(seconds(25));
        assert_eq!(case.next(), some("h"));
        assert_eq!(case.state.receive(), Received::Nothing);
    }

    #[test]
    fn only_one_request_may_receive() {
        let mut case = Case::open();
        let refused = case.state.attach(case.now, TIMING).unwrap_err();
        assert_eq!(refused, r#"c[2010,"Another connection still open"]"#);
        case.state.detach(case.now);
        case.attach();
        case.state.send("still open");
        assert_eq!(case.next(), some(r#"a["still open"]"#));
    }

    #[test]
    fn a_session_ends_5_seconds_after_its_last_receiver() {
        let mut case = Case::open();
        case.state.send("lost");
        case.state.detach(case.now);
        assert_eq!(case.state.deadline(TIMING), Some(case.now + seconds(5)));
        case.pass(seconds(4));
        assert_eq!(case.state.receive(), Received::Nothing);
        case.pass(seconds(1));
        assert_eq!(case.state.receive(), Received::End);
        assert!(case.state.is_over() && case.state.deadline(TIMING).is_none());
        // Who comes late, is told.
        case.attach();
        assert_eq!(case.next(), last(INTERRUPTED));
    }

    #[test]
    fn a_receiver_in_time_keeps_it_open() {
        let mut case = Case::open();
        for _ in 0..10 {
            case.state.detach(case.now);
            case.pass(seconds(4));
            case.attach();
            case.pass(seconds(60));
            assert_eq!(case.state.deadline(TIMING), None);
        }
        assert_eq!(case.state.receive(), Received::Nothing);
    }

    /// However long a slow client takes.
    #[test]
    fn a_client_that_is_still_reading_is_there() {
        let mut case = Case::open();
        case.state.send("last of this answer");
        case.state.leave();
        case.state.send("first of the next");
        case.pass(seconds(60));
        assert_eq!(case.state.deadline(TIMING), None);
        assert_eq!(case.state.receive(), Received::Nothing);
        case.state.left(1, case.now);
        assert_eq!(case.state.deadline(TIMING), Some(case.now + seconds(5)));
        case.attach();
        case.next();
        // A fast one asks again before the server knows that all is written.
        case.state.leave();
        case.attach();
        case.state.left(2, case.now);
        case.state.fail(2, case.now);
        assert!(case.state.has_receiver() && !case.state.is_gone());
        case.state.leave();
        case.state.fail(3, case.now);
        assert_eq!(case.state.receive(), Received::End);
    }

    #[test]
    fn an_interrupted_receiver_ends_it() {
        let mut case = Case::open();
        case.state.send("on its way");
        case.state.take_in(texts(&["said before"]));
        case.state.interrupt(case.now);
        let said = Bytes::from_static(b"said before");
        assert_eq!(case.state.receive(), Received::Message(said));
        assert_eq!(case.state.receive(), Received::End);
        for _ in 0..2 {
            case.attach();
            assert_eq!(case.next(), last(INTERRUPTED));
            case.state.detach(case.now);
        }
    }

    /// An application that counts what is written would count them, if they went.
    #[test]
    fn messages_that_a_client_did_not_take_stay_pending() {
        let ends: [fn(&mut Case); 4] = [
            |case| case.state.interrupt(case.now),
            |case| case.state.fail(1, case.now),
            |case| case.state.miss(),
            |case| {
                case.state.detach(case.now);
                case.pass(seconds(5));
            },
        ];
        for end in ends {
            let mut case = Case::open();
            case.state.send("lost");
            end(&mut case);
            assert!(case.state.is_gone());
            assert_eq!(case.state.pending(), 6);
            case.state.send("lost, too");
            assert_eq!(case.state.pending(), 18);
            assert_eq!(case.next(), last(INTERRUPTED));
            assert_eq!(case.state.pending(), 18);
            case.state.abandon();
            assert_eq!(case.state.pending(), 0, "nobody is left to mind");
        }
    }

    #[test]
    fn messages_that_a_client_did_not_take_go_with_the_last_side() {
        let ends: [fn(&mut Case); 3] = [
            |case| case.state.interrupt(case.now),
            |case| case.state.fail(1, case.now),
            |case| {
                case.state.detach(case.now);
                case.pass(seconds(5));
            },
        ];
        for end in ends {
            let mut case = Case::open();
            case.state.send("lost");
            case.state.abandon();
            assert_eq!(case.state.pending(), 6, "the client may take it still");
            end(&mut case);
            assert!(case.state.is_gone());
            assert_eq!(case.state.pending(), 0);
        }
    }

    #[test]
    fn last_messages_come_before_the_close() {
        let mut case = Case::open();
        case.state.send("last words");
        case.state.close(3000, "Go away!");
        case.state.send("too late");
        case.state.close(1000, "another reason");
        assert!(!case.state.is_over());
        assert_eq!(case.next(), some(r#"a["last words"]"#));
        // A polling client asks again for the rest.
        case.state.detach(case.now);
        case.attach();
        assert_eq!(case.next(), last(r#"c[3000,"Go away!"]"#));
        assert!(case.state.is_over());
        case.state.detach(case.now);
        case.attach();
        assert_eq!(case.next(), last(r#"c[3000,"Go away!"]"#));
        // Even while the one that was told is not through.
        let refused = case.state.attach(case.now, TIMING).unwrap_err();
        assert_eq!(refused, r#"c[3000,"Go away!"]"#);
    }

    #[test]
    fn a_close_before_the_first_answer_comes_after_the_opening() {
        let now = Instant::now();
        let mut state = SessionState::new(now);
        state.close(3000, "Go away!");
        assert!(state.is_closed());
        state.attach(now, TIMING).unwrap();
        assert_eq!(state.next(now, TIMING), some("o"));
        assert_eq!(state.next(now, TIMING), last(r#"c[3000,"Go away!"]"#));
    }

    #[test]
    fn what_a_client_sends_is_bounded() {
        let mut case = Case::open();
        assert!(case.state.has_room(1) && !case.state.was_heard());
        case.state.take_in(texts(&["a", "b"]));
        assert!(case.state.was_heard() && !case.state.was_heard());
        assert!(case.state.has_room(1_000) && !case.state.has_room(2 + 2 * OVERHEAD));
        for text in ["a", "b"] {
            let message = Bytes::from_static(text.as_bytes());
            assert_eq!(case.state.receive(), Received::Message(message));
        }
        assert_eq!(case.state.receive(), Received::Nothing);
        assert!(case.state.has_room(1));
        // An empty array is a sign of life.
        case.state.take_in(Vec::new());
        assert!(case.state.was_heard());
        // After the end nothing is kept.
        case.state.take_in(texts(&["a"]));
        case.state.close(1000, "");
        case.state.take_in(texts(&["b"]));
        assert_eq!(case.state.receive(), Received::End);
        assert!(case.state.has_room(1));
    }

    /// An application that never asks gets messages only.
    #[test]
    fn bytes_without_messages_are_told_to_an_application_that_asks() {
        let mut case = Case::open();
        case.state.hear(10 * MOST_UNTOLD);
        assert_eq!(case.state.receive(), Received::Nothing);
        assert!(!case.state.is_ahead(0));
        assert_eq!(case.state.bytes_read(), 10 * MOST_UNTOLD);
        case.state.hear(MOST_UNTOLD - 1);
        assert_eq!(case.state.receive(), Received::Nothing);
        assert!(!case.state.is_ahead(0), "it has not been told");
        case.state.hear(1);
        assert_eq!(case.state.receive(), Received::Message(Bytes::new()));
        assert!(case.state.is_ahead(0) && !case.state.is_ahead(MOST_UNTOLD));
        assert_eq!(case.state.bytes_read(), MOST_UNTOLD);
        assert_eq!(case.state.receive(), Received::Nothing);
        case.state.hear(MOST_UNTOLD);
        case.state.close(1000, "");
        assert_eq!(case.state.receive(), Received::End);
    }

    #[test]
    fn a_session_that_the_service_leaves_is_told() {
        let mut case = Case::open();
        case.state.abandon();
        assert_eq!(case.next(), last(INTERRUPTED));
    }
}
