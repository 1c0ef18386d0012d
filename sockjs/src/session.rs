//! The two ends of a session over HTTP: the application's, which is a [`Channel`], and the requests'.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{MutexGuard, Notify},
    time::{self, Sleep, sleep_until},
};

use crate::{
    Budget, Channel, ChannelError, Claim, Payload, Sessions,
    protocol::{
        frame::Undecodable,
        seam::{MESSAGE_SLACK, Seam, Sizes},
        state::{Next, Received, SessionState, Timing},
    },
};

/// HTTP connections that a session has seats for: one receives, another sends, and a third may be
/// about to take over.
const MAX_SEATS: u32 = 3;
/// Requests that may send at a time without waiting in vain, whatever connections they come by: a
/// proxy that keeps its own may send each by another one, while the seats are at those that rest.
const MAX_SENDING: u32 = 3;

/// How long a closed session keeps its name at most, however long an open one waits for its client:
/// it has no place at the application any more.
const MOST_REMEMBERED: Duration = Duration::from_secs(5);

/// The part of a session over HTTP that both ends share.
#[derive(Debug)]
pub struct SharedSession {
    ends: Mutex<Ends>,
    timing: Timing,
    max_waiting: usize,
    max_message_size: AtomicUsize,
    max_payload_size: AtomicUsize,
    /// Held by the request that sends, so that messages keep their order, and only one is read
    /// into memory at a time.
    sending: tokio::sync::Mutex<Seam>,
    /// There is room again for the client's messages, or the session is over.
    changed: Notify,
    seats: AtomicU32,
    /// Requests that send now.
    sending_requests: AtomicU32,
    /// The identity of the caller that opened it.
    identity: Option<Box<str>>,
    /// For the client's messages, once the application has set it.
    budget: OnceLock<Arc<dyn Budget>>,
}

#[derive(Debug)]
struct Ends {
    state: SessionState,
    application: Option<Waker>,
    receiver: Option<Waker>,
}

impl SharedSession {
    pub(super) fn new(
        timing: Timing,
        max_waiting: usize,
        sizes: Sizes,
        identity: Option<Box<str>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ends: Mutex::new(Ends {
                state: SessionState::new(now()),
                application: None,
                receiver: None,
            }),
            timing,
            max_waiting,
            max_message_size: AtomicUsize::new(sizes.message),
            max_payload_size: AtomicUsize::new(sizes.payload),
            sending: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            seats: AtomicU32::new(0),
            sending_requests: AtomicU32::new(0),
            identity,
            budget: OnceLock::new(),
        })
    }

    /// Whether a caller of this identity may use the session.
    pub(super) fn is_of(&self, identity: Option<&str>) -> bool {
        self.identity.as_deref() == identity
    }

    /// Begins to receive.
    ///
    /// # Errors
    /// The request is answered by this one frame instead, for another one receives.
    pub(crate) fn receive(self: &Arc<Self>) -> Result<Receiver, String> {
        let mut ends = self.ends.lock();
        let number = ends.state.attach(now(), self.timing)?;
        // The application's timer can rest.
        ends.wake_application();
        drop(ends);
        Ok(Receiver {
            shared: Arc::clone(self),
            number,
            is_leaving: false,
            timer: None,
        })
    }

    /// The longest message of the client.
    pub(crate) fn max_message_size(&self) -> usize {
        self.max_message_size.load(Ordering::Relaxed)
    }

    /// The longest request that sends, in bytes of JSON.
    pub(crate) fn max_request_size(&self) -> usize {
        let most = self.max_payload_size.load(Ordering::Relaxed);
        most.saturating_add(MESSAGE_SLACK)
    }

    /// The budget for the client's messages, once the application has set it.
    pub(crate) fn budget(&self) -> Option<&Arc<dyn Budget>> {
        self.budget.get()
    }

    #[cfg(test)]
    pub(crate) fn has_receiver(&self) -> bool {
        self.ends.lock().state.has_receiver()
    }

    /// A part of a request came, of so many bytes.
    pub(crate) fn hear(&self, bytes: usize) {
        let mut ends = self.ends.lock();
        ends.state.hear(bytes);
        if ends.state.has_news() {
            ends.wake_application();
        }
    }

    /// Waits until the application has asked for most of the bytes that came, if it asks at all.
    pub(crate) async fn until_told(&self) {
        let most = self.max_waiting;
        let is_told = move |state: &SessionState| !state.is_ahead(most) || state.is_closed();
        if is_told(&self.ends.lock().state) {
            return;
        }
        let _held = self.hold();
        self.wait(is_told).await;
    }

    /// A request is not read for as long as this lives.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.ends.lock().state.hold(true);
        Held(self)
    }

    /// Waits for the turn to send. `None`: the session is over.
    pub(crate) async fn turn(&self) -> Option<Turn<'_>> {
        tokio::select! {
            biased;
            () = self.over() => None,
            seam = self.sending.lock() => Some(Turn { shared: self, seam }),
        }
    }

    /// Whether the application knows its client, and has set a budget for it: see
    /// [`Channel::set_budget`].
    #[must_use]
    pub fn has_budget(&self) -> bool {
        self.budget.get().is_some()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ends.lock().state.is_closed()
    }

    /// Waits for the end.
    pub(crate) async fn over(&self) {
        self.wait(SessionState::is_closed).await;
    }

    async fn wait(&self, is_so: impl Fn(&SessionState) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(&self.ends.lock().state) {
                return;
            }
            changed.await;
        }
    }

    /// A seat for the HTTP connection of a request, which counts as this session's while it has the
    /// seat. `None`: all three are taken.
    #[must_use]
    pub fn seat(self: &Arc<Self>) -> Option<Seat> {
        let more = |count: u32| count.checked_add(1).filter(|count| *count <= MAX_SEATS);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.seats.fetch_update(set, fetch, more).ok()?;
        Some(Seat {
            session: Arc::clone(self),
        })
    }

    /// A request that sends begins.
    pub(crate) fn begin_sending(&self) -> Sending<'_> {
        let others = self.sending_requests.fetch_add(1, Ordering::Relaxed);
        Sending {
            shared: self,
            is_one_of_few: others < MAX_SENDING,
        }
    }

    /// Messages are on their way that are lost unless [`Untaken::taken`] is called.
    pub(crate) fn untaken(&self) -> Untaken<'_> {
        Untaken(Some(self))
    }

    fn end(&self, end: impl FnOnce(&mut SessionState)) {
        let mut ends = self.ends.lock();
        end(&mut ends.state);
        ends.wake_application();
        ends.wake_receiver();
        drop(ends);
        self.changed.notify_waiters();
    }
}

impl Ends {
    fn wake_application(&mut self) {
        if let Some(waker) = self.application.take() {
            waker.wake();
        }
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }
}

/// A request that waits for room.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a SharedSession);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.ends.lock().state.hold(false);
    }
}

/// The turn of a request to send.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    shared: &'a SharedSession,
    seam: MutexGuard<'a, Seam>,
}

impl Turn<'_> {
    /// Hands the messages in a payload to the application, once it has received most of those
    /// before. After the session's end they are dropped, as on a socket. `claim` is the payload's.
    /// Dropped while it waits, it ends the session.
    ///
    /// # Errors
    /// [`Undecodable`].
    pub(crate) async fn send(
        mut self,
        payload: &[u8],
        mut claim: Option<Box<dyn Claim>>,
    ) -> Result<(), Undecodable> {
        let limit = self.shared.max_message_size();
        let mut messages = self.seam.read(payload, limit)?;
        if let Some(claim) = &mut claim {
            for message in &mut messages {
                *message = claim.attach(std::mem::take(message));
            }
        }
        drop(claim);
        let most = self.shared.max_waiting;
        let has_room = |state: &SessionState| state.has_room(most) || state.is_closed();
        let untaken = self.shared.untaken();
        self.shared.wait(has_room).await;
        untaken.taken();
        let mut ends = self.shared.ends.lock();
        ends.state.take_in(messages);
        ends.wake_application();
        Ok(())
    }
}

/// A request that sends.
#[derive(Debug)]
pub(crate) struct Sending<'a> {
    shared: &'a SharedSession,
    /// Whether few others did so when it began.
    pub(crate) is_one_of_few: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.shared.sending_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Messages that wait, of a client that will not send them again. If their request is gone before
/// they are taken, they are lost, and the session ends: the next ones would be joined to what came
/// before these.
#[derive(Debug)]
pub(crate) struct Untaken<'a>(Option<&'a SharedSession>);

impl Untaken<'_> {
    /// They are with the session, or there are none.
    pub(crate) fn taken(mut self) {
        self.0 = None;
    }
}

impl Drop for Untaken<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.end(SessionState::miss);
        }
    }
}

/// An HTTP connection's seat at a session.
#[derive(Debug)]
pub struct Seat {
    session: Arc<SharedSession>,
}

impl Seat {
    /// Whether it is one of this session's.
    #[must_use]
    pub fn is_at(&self, session: &Arc<SharedSession>) -> bool {
        Arc::ptr_eq(&self.session, session)
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.session.seats.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that receives. Dropped before [`Receiver::leave`], it was interrupted: the session
/// ends, for the last frames may not have arrived. Dropped later, its answer is written.
#[derive(Debug)]
pub(crate) struct Receiver {
    shared: Arc<SharedSession>,
    number: u32,
    /// Whether it has its last frame.
    is_leaving: bool,
    /// For heart-beats.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A frame for a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SentFrame {
    /// More may follow.
    More(String),
    /// The session is over.
    Last(String),
}

impl Receiver {
    /// The next frame.
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<SentFrame> {
        let Self { shared, timer, .. } = self;
        loop {
            let mut ends = shared.ends.lock();
            let due = match ends.state.next(now(), shared.timing) {
                Next::Frame(frame) => {
                    ends.wake_application();
                    return Poll::Ready(SentFrame::More(frame));
                }
                Next::Last(frame) => {
                    ends.wake_application();
                    return Poll::Ready(SentFrame::Last(frame));
                }
                Next::Wait(due) => due,
            };
            ends.receiver = Some(context.waker().clone());
            drop(ends);
            if poll_timer(timer, due, context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// The request has all of its answer, which is still to be written; another one may receive.
    pub(crate) fn leave(&mut self) {
        self.is_leaving = true;
        self.timer = None;
        self.shared.ends.lock().state.leave();
    }

    pub(crate) fn delivery(&self) -> Delivery {
        Delivery {
            session: Arc::clone(&self.shared),
            number: self.number,
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.is_leaving {
            let mut ends = self.shared.ends.lock();
            ends.state.left(self.number, now());
            // The time that the client may be away begins.
            ends.wake_application();
        } else {
            self.shared.end(|state| state.interrupt(now()));
        }
    }
}

/// The way of an answer with frames to its client: see [`Body::delivery`](crate::Body::delivery).
#[derive(Clone, Debug)]
pub struct Delivery {
    session: Arc<SharedSession>,
    number: u32,
}

impl Delivery {
    /// Bytes of the answer were written: the client takes what there is, however slowly. Its
    /// session's [`Channel::was_written`] tells it.
    pub fn note_written(&self) {
        self.session.ends.lock().state.note_written();
    }

    /// The answer could not be written, though its last frame was taken. The session ends at once,
    /// unless its client has begun to receive again.
    pub fn failed(&self) {
        self.session.end(|state| state.fail(self.number, now()));
    }
}

/// The application's end of a session. Dropped, it closes the session.
#[derive(Debug)]
pub(crate) struct HttpSession {
    shared: Arc<SharedSession>,
    /// Runs while nobody receives.
    timer: Option<Pin<Box<Sleep>>>,
    sessions: Arc<Sessions>,
    id: Box<str>,
}

impl HttpSession {
    pub(super) fn new(sessions: Arc<Sessions>, id: Box<str>, shared: Arc<SharedSession>) -> Self {
        Self {
            shared,
            timer: None,
            sessions,
            id,
        }
    }

    /// Has the task woken when something happens, and ends the session if the client is away for
    /// too long.
    fn watch(&mut self, context: &mut Context<'_>) {
        let timing = self.shared.timing;
        let mut ends = self.shared.ends.lock();
        if !ends
            .application
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            ends.application = Some(context.waker().clone());
        }
        let deadline = ends.state.deadline(timing);
        drop(ends);
        let Some(deadline) = deadline else {
            self.timer = None;
            return;
        };
        if poll_timer(&mut self.timer, deadline, context).is_ready() {
            let now = now();
            self.timer = None;
            self.shared.end(|state| state.handle_timeout(now, timing));
        }
    }
}

impl Channel for HttpSession {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ChannelError>> {
        self.watch(context);
        let received = self.shared.ends.lock().state.receive();
        match received {
            Received::Message(message) => {
                self.shared.changed.notify_waiters();
                Poll::Ready(Ok(Some(message)))
            }
            Received::End => Poll::Ready(Ok(None)),
            Received::Nothing => Poll::Pending,
        }
    }

    fn send(&mut self, message: Payload<'_>) {
        let text = message.to_text();
        self.shared.ends.lock().state.send(&text);
    }

    fn pending(&self) -> usize {
        self.shared.ends.lock().state.pending()
    }

    fn was_written(&mut self) -> bool {
        self.shared.ends.lock().state.was_written()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.watch(context);
        let mut ends = self.shared.ends.lock();
        if ends.state.is_gone() {
            // The last messages may be lost.
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset).into()));
        }
        if ends.state.pending() == 0 {
            return Poll::Ready(Ok(()));
        }
        ends.wake_receiver();
        Poll::Pending
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()> {
        let is_closed = self.shared.ends.lock().state.is_closed();
        if !is_closed {
            self.shared.end(|state| state.close(code, reason));
        }
        self.watch(context);
        match self.shared.ends.lock().state.is_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn set_max_message_size(&mut self, size: usize) {
        let Sizes { message, payload } = Sizes::for_messages(size);
        let shared = &self.shared;
        shared.max_message_size.store(message, Ordering::Relaxed);
        shared.max_payload_size.store(payload, Ordering::Relaxed);
    }

    fn is_text_only(&self) -> bool {
        true
    }

    fn was_heard(&mut self) -> bool {
        self.shared.ends.lock().state.was_heard()
    }

    fn bytes_read(&mut self) -> Option<usize> {
        let count = self.shared.ends.lock().state.bytes_read();
        self.shared.changed.notify_waiters();
        Some(count)
    }

    fn set_budget(&mut self, budget: &dyn Fn() -> Option<Arc<dyn Budget>>) {
        if let Some(budget) = budget() {
            // The first one counts.
            let _ = self.shared.budget.set(budget);
        }
    }
}

impl Drop for HttpSession {
    fn drop(&mut self) {
        self.shared.end(SessionState::abandon);
        let delay = self.shared.timing.disconnect_delay.min(MOST_REMEMBERED);
        self.sessions.forget(&self.id, &self.shared, delay);
    }
}

/// Now, by the runtime's clock, which tests can stop.
fn now() -> Instant {
    time::Instant::now().into_std()
}

/// Ready at the time.
fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    due: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    let due = time::Instant::from_std(due);
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
    if timer.deadline() != due {
        timer.as_mut().reset(due);
    }
    timer.as_mut().poll(context)
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        net::{IpAddr, Ipv4Addr},
    };

    use http_body_util::BodyExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        Options,
        protocol::format::Format,
        send::{Pace, SendError},
        sessions::{Found, SessionQuery},
    };

    const LONG: Duration = Duration::from_secs(60);

    fn open(max_waiting: usize) -> (Arc<SharedSession>, HttpSession) {
        open_with(max_waiting, 10 * LONG)
    }

    fn open_with(
        max_waiting: usize,
        disconnect_delay: Duration,
    ) -> (Arc<SharedSession>, HttpSession) {
        let sessions = Sessions::new(&Options {
            max_waiting,
            disconnect_delay,
            ..Options::at("/echo")
        });
        let query = SessionQuery {
            id: "a",
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            identity: None,
        };
        match sessions.find_or_open(query, Sizes::for_messages(1024), || Ok::<_, ()>(())) {
            Ok(Found::New(shared, session, ())) => (shared, session),
            other => panic!("{other:?}"),
        }
    }

    async fn send(shared: &SharedSession, text: &str) -> Result<(), Undecodable> {
        let payload = format!("[\"{text}\"]");
        let turn = shared.turn().await.expect("it is open");
        turn.send(payload.as_bytes(), None).await
    }

    fn seated(patience: Duration) -> Pace {
        Pace {
            patience,
            may_wait: true,
        }
    }

    /// As many requests as may send at a time.
    fn enough(shared: &SharedSession) -> Vec<Sending<'_>> {
        let begin = |_| shared.begin_sending();
        (0..MAX_SENDING).map(begin).collect()
    }

    /// A body of which a part comes every four seconds.
    struct Slow {
        parts: Vec<&'static str>,
        timer: Pin<Box<Sleep>>,
        announced: Option<u64>,
    }

    const SLOW: Duration = Duration::from_secs(4);

    impl Slow {
        fn new(mut parts: Vec<&'static str>) -> Self {
            parts.reverse();
            let timer = Box::pin(time::sleep(SLOW));
            Self {
                parts,
                timer,
                announced: None,
            }
        }

        fn announcing(mut self, bytes: u64) -> Self {
            self.announced = Some(bytes);
            self
        }
    }

    impl hyper::body::Body for Slow {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<hyper::body::Frame<Bytes>>>> {
            std::task::ready!(self.timer.as_mut().poll(context));
            self.timer = Box::pin(time::sleep(SLOW));
            let part = self.parts.pop().map(str::as_bytes);
            Poll::Ready(part.map(|part| Ok(hyper::body::Frame::data(Bytes::from_static(part)))))
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            let announced = self.announced.map(hyper::body::SizeHint::with_exact);
            announced.unwrap_or_default()
        }
    }

    /// Whether the client was heard in each of so many times of five seconds, while it sends.
    async fn heard_while_sending(
        (shared, session): (&Arc<SharedSession>, &mut HttpSession),
        body: Slow,
        times: usize,
    ) -> Vec<bool> {
        let sending = crate::send::send(shared, body, false, seated(LONG), |_| ());
        let mut sending = std::pin::pin!(sending);
        let mut heard = Vec::new();
        for _ in 0..times {
            let more = timeout(Duration::from_secs(5), sending.as_mut()).await;
            assert!(more.is_err(), "{more:?}");
            heard.push(session.was_heard());
        }
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_in_the_middle_of_a_long_request_is_heard() {
        let (shared, mut session) = open(10);
        let body = Slow::new([vec!["[\""], vec!["x"; 20]].concat());
        let heard = heard_while_sending((&shared, &mut session), body, 6).await;
        assert_eq!(heard, [true; 6]);
        assert!(!session.was_heard());
    }

    /// They cost time, too: blanks, and messages without bytes.
    #[tokio::test(start_paused = true)]
    async fn all_bytes_of_a_request_are_told() {
        let part: &'static str = " ".repeat(4 * 1024).leak();
        let body = || Slow::new([vec!["["], vec![part; 6], vec!["]"]].concat());
        let (shared, mut session) = open(8 * 1024);
        session.set_max_message_size(100_000);
        assert_eq!(session.bytes_read(), Some(0));
        {
            let sending = crate::send::send(&shared, body(), false, seated(LONG), |_| ());
            let mut sending = std::pin::pin!(sending);
            let mut told = 0;
            loop {
                tokio::select! {
                    sent = sending.as_mut() => {
                        sent.unwrap();
                        break;
                    }
                    empty = heard(&mut session) => {
                        assert_eq!(empty, "");
                        told += session.bytes_read().unwrap();
                    }
                }
            }
            told += session.bytes_read().unwrap();
            assert_eq!(told, 6 * part.len() + 2);
        }
        // An application that is to hear them, and does not, has them wait.
        let sending = crate::send::send(&shared, body(), false, seated(LONG), |_| ());
        let mut sending = std::pin::pin!(sending);
        assert!(timeout(2 * LONG, sending.as_mut()).await.is_err());
        assert!(session.was_heard() && session.was_heard());
        assert_eq!(session.bytes_read(), Some(1 + 2 * part.len()));
        assert!(timeout(2 * LONG, sending.as_mut()).await.is_err());
        session.bytes_read();
        timeout(2 * LONG, sending).await.unwrap().unwrap();
    }

    /// A budget, and what was claimed of it.
    #[derive(Debug, Default)]
    struct Purse {
        is_empty: bool,
        is_wanted: bool,
        claimed: AtomicUsize,
    }

    impl Budget for Purse {
        fn free(&self) -> usize {
            1
        }

        fn claim(self: Arc<Self>) -> Box<dyn Claim> {
            Box::new(Part(self))
        }
    }

    struct Part(Arc<Purse>);

    impl Claim for Part {
        fn bytes(&self) -> usize {
            self.0.claimed.load(Ordering::Relaxed)
        }

        fn poll_grow(&mut self, bytes: usize, _: &mut Context<'_>) -> Poll<()> {
            if self.0.is_empty {
                return Poll::Pending;
            }
            self.0.claimed.fetch_add(bytes, Ordering::Relaxed);
            Poll::Ready(())
        }

        fn is_in_the_way(&self) -> bool {
            self.0.is_wanted
        }

        fn attach(&mut self, message: Bytes) -> Bytes {
            message
        }
    }

    /// It sends, and is not read.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_room_is_not_silent() {
        let (shared, mut session) = open(10);
        session.set_budget(&|| {
            Some(Arc::new(Purse {
                is_empty: true,
                ..Purse::default()
            }))
        });
        let body = Slow::new(vec!["[\"large"]);
        let heard = heard_while_sending((&shared, &mut session), body, 6).await;
        assert_eq!(heard, [true; 6]);
        // The request is gone.
        assert!(!session.was_heard());
    }

    /// And no longer than others can wait.
    #[tokio::test(start_paused = true)]
    async fn a_slow_request_keeps_no_room_from_others() {
        const PATIENCE: Duration = Duration::from_secs(30);
        for is_wanted in [false, true] {
            let (shared, mut session) = open(10);
            let purse = Arc::new(Purse {
                is_wanted,
                ..Purse::default()
            });
            session.set_budget(&|| Some(Arc::clone(&purse) as Arc<dyn Budget>));
            let body = Slow::new([vec!["[\""], vec!["x"; 18], vec!["\"]"]].concat());
            let begun = time::Instant::now();
            let sent = crate::send::send(&shared, body, false, seated(PATIENCE), |_| ()).await;
            let took = begun.elapsed().as_secs();
            if is_wanted {
                assert!(matches!(sent, Err(SendError::TooSlow)));
                assert!((30..=40).contains(&took), "{took} s");
            } else {
                sent.unwrap();
                assert_eq!(heard(&mut session).await, "x".repeat(18));
            }
        }
    }

    /// Not for all that it could come to, nor for all that it says that it comes to.
    #[tokio::test(start_paused = true)]
    async fn a_request_claims_no_more_than_a_message() {
        let (shared, mut session) = open(10);
        session.set_max_message_size(100_000);
        let purse = Arc::new(Purse::default());
        session.set_budget(&|| Some(Arc::clone(&purse) as Arc<dyn Budget>));
        let body = Slow::new(vec!["[\"x"]).announcing(600_000);
        let sending = crate::send::send(&shared, body, false, seated(LONG), |_| ());
        let begun = timeout(SLOW + Duration::from_secs(1), sending).await;
        assert!(begun.is_err(), "{begun:?}");
        let claimed = purse.claimed.load(Ordering::Relaxed);
        assert_eq!(claimed, 100_000 + MESSAGE_SLACK);
    }

    async fn heard(session: &mut HttpSession) -> Bytes {
        let heard = poll_fn(|context| session.poll_receive(context)).await;
        heard.unwrap().expect("a message")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_much_waits() {
        let (shared, mut session) = open(10);
        send(&shared, "first").await.unwrap();
        let mut second = std::pin::pin!(send(&shared, "second"));
        assert!(timeout(LONG, second.as_mut()).await.is_err());
        // The next is not even read.
        assert!(timeout(LONG, shared.turn()).await.is_err());
        assert_eq!(heard(&mut session).await, "first");
        timeout(LONG, second).await.unwrap().unwrap();
        assert_eq!(heard(&mut session).await, "second");
        // Who waits when it ends, does not wait on.
        send(&shared, "third").await.unwrap();
        let mut last = std::pin::pin!(send(&shared, "last"));
        assert!(timeout(LONG, last.as_mut()).await.is_err());
        drop(session);
        timeout(LONG, last).await.unwrap().unwrap();
        assert!(shared.turn().await.is_none());
    }

    /// A client may open any number of connections for one session.
    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_seat_waits_for_so_long() {
        const PATIENCE: Duration = Duration::from_secs(30);
        let (shared, mut session) = open(10);
        let others = enough(&shared);
        let sent = async |has_seat: bool| {
            let pace = Pace {
                may_wait: has_seat,
                ..seated(PATIENCE)
            };
            let body = Slow::new(vec!["[\"x\"]"]);
            let sending = crate::send::send(&shared, body, false, pace, |_| ());
            timeout(2 * LONG, sending).await
        };
        let turn = shared.turn().await.expect("it is open");
        assert!(sent(true).await.is_err());
        assert!(matches!(sent(false).await, Ok(Err(SendError::TooSlow))));
        drop(turn);
        // So it is where room is missing; then its messages are lost.
        send(&shared, "first").await.unwrap();
        assert!(matches!(sent(false).await, Ok(Err(SendError::TooSlow))));
        assert_eq!(heard(&mut session).await, "first");
        assert!(has_ended(&mut session).await);
        drop(others);
    }

    /// The seats may be at connections that a proxy keeps.
    #[tokio::test(start_paused = true)]
    async fn one_of_few_requests_waits_without_a_seat() {
        let (shared, mut session) = open(10);
        let pace = Pace {
            may_wait: false,
            ..seated(LONG / 2)
        };
        let send = || crate::send::send(&shared, Slow::new(vec!["[\"x\"]"]), false, pace, |_| ());
        let turn = shared.turn().await.expect("it is open");
        let mut few = std::pin::pin!(async { tokio::join!(send(), send(), send()) });
        assert!(timeout(2 * LONG, few.as_mut()).await.is_err());
        // Further ones do not, and leave no trace.
        for _ in 0..2 {
            let further = timeout(LONG, send()).await;
            assert!(matches!(further, Ok(Err(SendError::TooSlow))));
        }
        drop(turn);
        let receiving = async {
            for _ in 0..3 {
                assert_eq!(heard(&mut session).await, "x");
            }
        };
        let (few, ()) = timeout(2 * LONG, async { tokio::join!(few, receiving) })
            .await
            .unwrap();
        assert!(matches!(few, (Ok(()), Ok(()), Ok(()))), "{few:?}");
    }

    /// It does not learn how its request went, and sends on.
    #[tokio::test(start_paused = true)]
    async fn a_form_that_is_not_taken_ends_the_session() {
        let send = async |shared: &Arc<SharedSession>, text: &'static str, patience: Duration| {
            let sending = crate::send::send(
                shared,
                Slow::new(vec![text]),
                true,
                Pace {
                    patience,
                    may_wait: false,
                },
                |_| (),
            );
            timeout(LONG, sending).await
        };
        // In vain for its turn.
        let (shared, _session) = open(10);
        let (turn, others) = (shared.turn().await, enough(&shared));
        let sent = send(&shared, "d=[\"x\"]", LONG / 2).await;
        assert!(matches!(sent, Ok(Err(SendError::TooSlow))));
        drop((turn, others));
        assert!(shared.is_over());
        // Its request broke off meanwhile.
        let (shared, _session) = open(10);
        let turn = shared.turn().await.expect("it is open");
        assert!(send(&shared, "d=[\"x\"]", 2 * LONG).await.is_err());
        drop(turn);
        assert!(shared.is_over());
        // It was too slow, or its message too long.
        let (shared, _session) = open(10);
        let sent = send(&shared, "d=[\"x\"]", SLOW / 2).await;
        assert!(matches!(sent, Ok(Err(SendError::TooSlow))));
        assert!(shared.is_over());
        let (shared, _session) = open(10);
        let long = format!("d=[\"{}\"]", "x".repeat(20_000)).leak();
        let sent = send(&shared, long, LONG).await;
        let is_too_long = |error: &SendError| {
            matches!(error, SendError::Undecodable(Undecodable::TooLong { .. }))
        };
        let sent = sent.unwrap();
        assert!(sent.as_ref().is_err_and(is_too_long), "{sent:?}");
        assert!(shared.is_over());
        // The protocol's tests go on after these.
        let (shared, mut session) = open(10);
        for text in ["d=[\"x", "d=", "p=p"] {
            let sent = send(&shared, text, LONG).await;
            assert!(matches!(sent, Ok(Err(SendError::Undecodable(_)))), "{text}");
        }
        assert!(matches!(send(&shared, "d=[\"x\"]", LONG).await, Ok(Ok(()))));
        assert_eq!(heard(&mut session).await, "x");
        assert!(!shared.is_over());
    }

    /// A form in an iframe does not even learn that its request broke off.
    #[tokio::test(start_paused = true)]
    async fn messages_that_are_lost_while_they_wait_end_the_session() {
        let (shared, mut session) = open(10);
        send(&shared, "first").await.unwrap();
        let second = timeout(LONG, send(&shared, "second"));
        assert!(second.await.is_err());
        assert!(shared.is_over());
        assert_eq!(heard(&mut session).await, "first");
        assert!(has_ended(&mut session).await);
    }

    /// The body of the answer to a polling request, and its frame.
    async fn poll_frame(shared: &Arc<SharedSession>) -> (crate::Body, Bytes) {
        let answer = crate::receive::receive(shared, Format::XhrPolling, 0, |_| ());
        let mut body = answer.body;
        let frame = body.frame().await.unwrap().unwrap();
        (body, frame.into_data().unwrap())
    }

    /// Whether the application's end is over, without waiting.
    async fn has_ended(session: &mut HttpSession) -> bool {
        let polled = poll_fn(|context| Poll::Ready(session.poll_receive(context))).await;
        matches!(polled, Poll::Ready(Ok(None)))
    }

    /// A slow link is no absence.
    #[tokio::test(start_paused = true)]
    async fn a_client_is_there_until_its_answer_is_written() {
        const AWAY: Duration = Duration::from_secs(6);
        let (shared, mut session) = open_with(10, Duration::from_secs(5));
        let (opened, frame) = poll_frame(&shared).await;
        assert_eq!(frame, "o\n");
        drop(opened);
        session.send(Payload::text("x"));
        let (body, frame) = poll_frame(&shared).await;
        assert_eq!(frame, "a[\"x\"]\n");
        session.send(Payload::text("y"));
        for _ in 0..2 {
            assert!(!has_ended(&mut session).await);
            time::advance(AWAY).await;
        }
        drop(body);
        assert!(!has_ended(&mut session).await);
        let (body, frame) = poll_frame(&shared).await;
        assert_eq!(frame, "a[\"y\"]\n");
        drop(body);
        assert!(!has_ended(&mut session).await);
        time::advance(AWAY).await;
        assert!(has_ended(&mut session).await);
    }

    /// It is not written, and never will be.
    #[tokio::test(start_paused = true)]
    async fn what_no_request_took_stays_pending() {
        let (shared, mut session) = open(10);
        let receiver = shared.receive().unwrap();
        session.send(Payload::text("x"));
        assert_eq!(session.pending(), 3);
        drop(receiver);
        assert_eq!(session.pending(), 3);
        let flushed = poll_fn(|context| session.poll_flush(context)).await;
        assert!(flushed.is_err(), "{flushed:?}");
        assert_eq!(session.pending(), 3);
    }

    /// Its frame was taken, and is lost.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_written_ends_the_session() {
        let (shared, mut session) = open(10);
        let (opened, _) = poll_frame(&shared).await;
        session.send(Payload::text("x"));
        let (body, _) = poll_frame(&shared).await;
        // The client has asked again, so it has the first answer.
        opened.delivery().unwrap().failed();
        assert!(!has_ended(&mut session).await);
        body.delivery().unwrap().failed();
        assert!(has_ended(&mut session).await);
        drop(body);
        let (_, frame) = poll_frame(&shared).await;
        assert_eq!(frame, "c[1002,\"Connection interrupted\"]\n");
    }

    /// However long the session would have waited for its client.
    #[tokio::test(start_paused = true)]
    async fn an_end_is_not_remembered_for_long() {
        let (_, session) = open(10);
        let sessions = Arc::clone(&session.sessions);
        drop(session);
        time::sleep(MOST_REMEMBERED - Duration::from_millis(10)).await;
        assert_eq!(sessions.len(), 1);
        time::sleep(Duration::from_millis(20)).await;
        assert!(sessions.is_empty());
    }

    /// The cost of an idle session, beside the application's: a change must be visible, and intended.
    #[test]
    fn the_memory_of_a_session() {
        let size = |name: &str, size: usize, most: usize| {
            println!("{name}: {size}");
            assert!(size <= most, "{name} takes {size} bytes, more than {most}");
        };
        size("session", size_of::<SharedSession>(), 384);
        size("the application's end", size_of::<HttpSession>(), 64);
        size("an answer's body", size_of::<crate::Body>(), 160);
        size("a timer", size_of::<Sleep>(), 128);
    }
}
