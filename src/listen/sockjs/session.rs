//! The two ends of a session over HTTP: the service's, which is a [`Link`], and the requests'.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use stomp_session::CloseCode;
use tokio::{
    sync::{MutexGuard, Notify},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Channel, Sessions,
    frame::Undecodable,
    seam::{ESCAPED, MESSAGE_SLACK, Seam},
    state::{Next, Received, State, Timing},
};
use crate::{
    connection::{Link, LinkError, Outbound},
    node::{Account, Claim},
};

/// HTTP connections that a session may hold beside those that the listener has room for: one
/// receives, another sends, and a third may be about to take over.
const MAX_STREAMS: usize = 3;

/// A session that has ended takes nobody's place, so it is not remembered for longer, however long
/// one that is open waits for its client.
const MOST_REMEMBERED: Duration = Duration::from_secs(5);

/// What both ends share.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<Ends>,
    timing: Timing,
    max_waiting: usize,
    max_message_size: AtomicUsize,
    /// Held by the request that sends, so that messages keep their order, and only one is read
    /// into memory at a time.
    sending: tokio::sync::Mutex<Seam>,
    /// There is room again for what the client sends, or it is over.
    changed: Notify,
    streams: AtomicUsize,
    /// The user that the certificate names of whoever opened it.
    certificate: Option<Box<str>>,
    /// For what the client sends, once it has logged in.
    account: OnceLock<Arc<Account>>,
}

#[derive(Debug)]
struct Ends {
    state: State,
    service: Option<Waker>,
    receiver: Option<Waker>,
}

impl Shared {
    pub(super) fn new(
        timing: Timing,
        max_waiting: usize,
        max_message_size: usize,
        certificate: Option<Box<str>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Ends {
                state: State::new(Instant::now()),
                service: None,
                receiver: None,
            }),
            timing,
            max_waiting,
            max_message_size: AtomicUsize::new(max_message_size),
            sending: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            streams: AtomicUsize::new(0),
            certificate,
            account: OnceLock::new(),
        })
    }

    /// Whether a request of whom this certificate names may touch the session.
    pub(super) fn is_of(&self, certificate: Option<&str>) -> bool {
        self.certificate.as_deref() == certificate
    }

    /// Begins to receive.
    ///
    /// # Errors
    /// The one frame that the request is answered instead: somebody else receives.
    pub fn receive(self: &Arc<Self>) -> Result<Receiver, String> {
        let mut ends = self.state.lock();
        ends.state.attach(Instant::now(), self.timing)?;
        // The service's timer can rest.
        ends.wake_service();
        drop(ends);
        Ok(Receiver {
            shared: Some(Arc::clone(self)),
            timer: None,
        })
    }

    /// How large a request may be that sends, in bytes of JSON: a message of any characters fits.
    #[must_use]
    pub fn max_request_size(&self) -> usize {
        let most = self.max_message_size.load(Ordering::Relaxed);
        most.saturating_mul(ESCAPED).saturating_add(MESSAGE_SLACK)
    }

    /// For what the client sends. Before its login, which is short, there is none.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.get()
    }

    #[cfg(test)]
    pub(crate) fn has_receiver(&self) -> bool {
        self.state.lock().state.has_receiver()
    }

    /// Waits for the turn to send. `None`: the session is over.
    pub async fn turn(&self) -> Option<Turn<'_>> {
        tokio::select! {
            biased;
            () = self.over() => None,
            seam = self.sending.lock() => Some(Turn { shared: self, seam }),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state.lock().state.is_closed()
    }

    /// Waits for the end.
    pub async fn over(&self) {
        self.wait(State::is_closed).await;
    }

    async fn wait(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(&self.state.lock().state) {
                return;
            }
            changed.await;
        }
    }

    /// Lets the HTTP connection of a request count as this session's. `None`: it has enough.
    #[must_use]
    pub fn room(self: &Arc<Self>) -> Option<Room> {
        let more = |count| (count < MAX_STREAMS).then_some(count + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.streams.fetch_update(set, fetch, more).ok()?;
        Some(Room {
            shared: Arc::clone(self),
        })
    }

    fn end(&self, end: impl FnOnce(&mut State)) {
        let mut ends = self.state.lock();
        end(&mut ends.state);
        ends.wake_service();
        ends.wake_receiver();
        drop(ends);
        self.changed.notify_waiters();
    }
}

impl Ends {
    fn wake_service(&mut self) {
        if let Some(waker) = self.service.take() {
            waker.wake();
        }
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }
}

/// The turn of a request to send.
#[derive(Debug)]
pub struct Turn<'a> {
    shared: &'a Shared,
    seam: MutexGuard<'a, Seam>,
}

impl Turn<'_> {
    /// Hands the messages in a payload to the service, once it has read most of those before. After
    /// the session's end they are dropped, as on a socket. `claim` is the payload's.
    ///
    /// # Errors
    /// [`Undecodable`].
    pub async fn send(
        mut self,
        payload: &[u8],
        mut claim: Option<Claim>,
    ) -> Result<(), Undecodable> {
        let limit = self.shared.max_message_size.load(Ordering::Relaxed);
        let mut messages = self.seam.read(payload, limit)?;
        if let Some(claim) = &mut claim {
            for message in &mut messages {
                let own = claim.split(message.len());
                *message = own.around(std::mem::take(message));
            }
        }
        drop(claim);
        let most = self.shared.max_waiting;
        let has_room = |state: &State| state.has_room(most) || state.is_closed();
        self.shared.wait(has_room).await;
        let mut ends = self.shared.state.lock();
        ends.state.take_in(messages);
        ends.wake_service();
        Ok(())
    }
}

/// An HTTP connection's place at a session.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
}

impl Room {
    /// Whether the session has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.is_over()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that receives. Dropped before [`Receiver::finish`], it was interrupted: the session
/// ends, for nobody knows what arrived.
#[derive(Debug)]
pub struct Receiver {
    shared: Option<Arc<Shared>>,
    /// For heart-beats.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What is sent to a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// More may follow.
    More(String),
    /// The session is over.
    Last(String),
}

impl Receiver {
    /// The next frame.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Frame> {
        let Some(shared) = &self.shared else {
            return Poll::Pending;
        };
        loop {
            let mut ends = shared.state.lock();
            let due = match ends.state.next(Instant::now(), shared.timing) {
                Next::Frame(frame) => {
                    ends.wake_service();
                    return Poll::Ready(Frame::More(frame));
                }
                Next::Last(frame) => {
                    ends.wake_service();
                    return Poll::Ready(Frame::Last(frame));
                }
                Next::Wait(due) => due,
            };
            ends.receiver = Some(context.waker().clone());
            drop(ends);
            if poll_timer(&mut self.timer, due, context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Frame {
        poll_fn(|context| self.poll_frame(context)).await
    }

    /// The request has its answer; another one may receive.
    pub fn finish(mut self) {
        if let Some(shared) = self.shared.take() {
            let mut ends = shared.state.lock();
            ends.state.detach(Instant::now());
            ends.wake_service();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.end(|state| state.interrupt(Instant::now()));
        }
    }
}

/// The service's end of a session.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    /// Runs while nobody receives.
    timer: Option<Pin<Box<Sleep>>>,
    sessions: Arc<Sessions>,
    id: Box<str>,
}

impl Session {
    pub(super) fn new(sessions: Arc<Sessions>, id: Box<str>, shared: Arc<Shared>) -> Self {
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
        let mut ends = self.shared.state.lock();
        if !ends
            .service
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            ends.service = Some(context.waker().clone());
        }
        let deadline = ends.state.deadline(timing);
        drop(ends);
        let Some(deadline) = deadline else {
            self.timer = None;
            return;
        };
        if poll_timer(&mut self.timer, deadline, context).is_ready() {
            let now = Instant::now();
            self.timer = None;
            self.shared.end(|state| state.handle_timeout(now, timing));
        }
    }
}

impl Link for Session {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        self.watch(context);
        let received = self.shared.state.lock().state.receive();
        match received {
            Received::Message(message) => {
                self.shared.changed.notify_waiters();
                Poll::Ready(Ok(Some(message)))
            }
            Received::End => Poll::Ready(Ok(None)),
            Received::Nothing => Poll::Pending,
        }
    }

    fn was_heard(&mut self) -> bool {
        self.shared.state.lock().state.was_heard()
    }

    /// What is no UTF-8 cannot be said in JSON: see [`Link::takes_text_only`].
    fn send(&mut self, message: Outbound<'_>) {
        let text = message.to_text();
        self.shared.state.lock().state.send(&text);
    }

    fn takes_text_only(&self) -> bool {
        true
    }

    fn pending(&self) -> usize {
        self.shared.state.lock().state.pending()
    }

    /// Done when a request has taken all of it.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.watch(context);
        let mut ends = self.shared.state.lock();
        if ends.state.is_gone() {
            // What was sent last may be lost.
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset).into()));
        }
        if ends.state.pending() == 0 {
            return Poll::Ready(Ok(()));
        }
        ends.wake_receiver();
        Poll::Pending
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: CloseCode) -> Poll<()> {
        self.poll_close_with(context, code.code(), code.reason())
    }

    fn count_for(&mut self, account: &dyn Fn() -> Option<Arc<Account>>) {
        if let Some(account) = account() {
            // One logs in once.
            let _ = self.shared.account.set(account);
        }
    }

    fn set_max_frame_size(&mut self, size: usize) {
        self.shared.max_message_size.store(size, Ordering::Relaxed);
    }
}

impl Channel for Session {
    fn poll_close_with(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()> {
        let is_closed = self.shared.state.lock().state.is_closed();
        if !is_closed {
            self.shared.end(|state| state.close(code, reason));
        }
        self.watch(context);
        match self.shared.state.lock().state.is_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.end(State::abandon);
        let delay = self.shared.timing.disconnect_delay.min(MOST_REMEMBERED);
        self.sessions.forget(&self.id, &self.shared, delay);
    }
}

/// Ready at the time.
fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    due: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
    if timer.deadline() != due {
        timer.as_mut().reset(due);
    }
    timer.as_mut().poll(context)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::time::timeout;

    use super::{
        super::{
            Config,
            sessions::{Asking, Found},
        },
        *,
    };

    const LONG: Duration = Duration::from_secs(60);

    fn open(max_waiting: usize) -> (Arc<Shared>, Session) {
        let sessions = Sessions::new(&Config {
            max_waiting,
            disconnect_delay: 10 * LONG,
            ..Config::default()
        });
        let asking = Asking {
            id: "a",
            from: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: None,
        };
        match sessions.find_or_open(asking, 1024, || Ok::<_, ()>(())) {
            Ok(Found::New(shared, session, ())) => (shared, session),
            other => panic!("{other:?}"),
        }
    }

    async fn send(shared: &Shared, text: &str) -> Result<(), Undecodable> {
        let payload = format!("[\"{text}\"]");
        let turn = shared.turn().await.expect("it is open");
        turn.send(payload.as_bytes(), None).await
    }

    async fn heard(session: &mut Session) -> Bytes {
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

    /// However long the session would have waited for its client.
    #[tokio::test(start_paused = true)]
    async fn an_end_is_not_remembered_for_long() {
        let (_, session) = open(10);
        let sessions = Arc::clone(&session.sessions);
        drop(session);
        tokio::time::sleep(MOST_REMEMBERED - Duration::from_millis(10)).await;
        assert_eq!(sessions.len(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(sessions.is_empty());
    }
}
