//! A link in memory, and the client at its other end.

use std::{collections::VecDeque, task::Waker};

use parking_lot::Mutex;
use stomp_grammar::{Frame, Limits as DecoderLimits};
use tokio::{sync::Notify, task::JoinHandle};

use super::*;

/// More calls than any test needs: a connection that makes them runs in circles.
const MOST_CALLS: usize = 200_000;

/// A test's view of the link, and control over it.
#[derive(Clone)]
pub(super) struct Wire(Arc<(Mutex<State>, Notify)>);

/// A call for the moment when everything is written.
type OnFlush = Box<dyn FnMut() + Send>;

struct State {
    incoming: VecDeque<Result<Option<Bytes>, LinkError>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Sent, not flushed.
    taken: VecDeque<Vec<u8>>,
    pending: usize,
    /// The bytes taken of the first of `taken`.
    begun: usize,
    /// Bytes that the client is ready to take.
    room: usize,
    /// A flush writes nothing: the client comes for it, as in SockJS over HTTP.
    is_fetched: bool,
    out: VecDeque<Vec<u8>>,
    is_broken: bool,
    close: Option<CloseCode>,
    is_dropped: bool,
    /// The client does not answer a close.
    is_deaf: bool,
    max_frame_size: Option<usize>,
    calls: usize,
    on_flush: Option<OnFlush>,
    was_heard: bool,
    /// An answer, which has taken all that waited, is written on.
    was_written: bool,
    has_pings: bool,
    /// Sent, and not looked at by the client.
    pings: usize,
    was_answered: bool,
}

impl State {
    /// The client takes so many of the bytes that wait.
    fn write(&mut self, most: usize) {
        let count = most.min(self.pending);
        self.pending -= count;
        self.begun += count;
        while let Some(length) = self.taken.front().map(Vec::len)
            && length <= self.begun
        {
            self.begun -= length;
            let frame = self.taken.pop_front().unwrap();
            self.out.push_back(frame);
        }
    }
}

pub(super) struct FakeLink(pub(super) Wire);

impl Wire {
    pub(super) fn new() -> Self {
        let state = State {
            incoming: VecDeque::new(),
            reader: None,
            writer: None,
            taken: VecDeque::new(),
            pending: 0,
            begun: 0,
            room: usize::MAX,
            is_fetched: false,
            out: VecDeque::new(),
            is_broken: false,
            close: None,
            is_dropped: false,
            is_deaf: false,
            max_frame_size: None,
            calls: 0,
            on_flush: None,
            was_heard: false,
            was_written: false,
            has_pings: false,
            pings: 0,
            was_answered: false,
        };
        Self(Arc::new((Mutex::new(state), Notify::new())))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.0.lock();
        let result = change(&mut state);
        for waker in [state.reader.take(), state.writer.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
        drop(state);
        self.0.1.notify_waiters();
        result
    }

    pub(super) fn receive(&self, what: Result<Option<Bytes>, LinkError>) {
        self.change(|state| state.incoming.push_back(what));
    }

    pub(super) fn send(&self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.receive(Ok(Some(bytes)));
    }

    /// The client closes in good order.
    pub(super) fn hang_up(&self) {
        self.receive(Ok(None));
    }

    /// From now on writing fails.
    pub(super) fn break_off(&self) {
        self.change(|state| state.is_broken = true);
    }

    /// The client takes only so many more bytes.
    pub(super) fn set_room(&self, room: usize) {
        self.change(|state| state.room = room);
    }

    /// From now on the client gets nothing but what it fetches.
    pub(super) fn be_fetched(&self) {
        self.change(|state| state.is_fetched = true);
    }

    /// The client asks for what there is, waits until there is something, and takes all of it. One
    /// that reads nothing (see [`Self::set_room`]) does not ask. False if the link is no more.
    pub(super) async fn fetch(&self) -> bool {
        loop {
            {
                let state = self.0.0.lock();
                if state.is_dropped {
                    return false;
                }
                if state.pending > 0 && state.room == usize::MAX {
                    break;
                }
            }
            self.changed().await;
        }
        self.change(|state| state.write(usize::MAX));
        true
    }

    pub(super) fn be_deaf(&self) {
        self.change(|state| state.is_deaf = true);
    }

    pub(super) fn on_flush(&self, hook: impl FnMut() + Send + 'static) {
        self.change(|state| state.on_flush = Some(Box::new(hook)));
    }

    /// Chunks that were not read yet.
    pub(super) fn unread(&self) -> usize {
        self.0.0.lock().incoming.len()
    }

    pub(super) fn closed_with(&self) -> Option<CloseCode> {
        self.0.0.lock().close
    }

    pub(super) fn max_frame_size(&self) -> Option<usize> {
        self.0.0.lock().max_frame_size
    }

    /// A part of a message of the transport comes.
    pub(super) fn part_comes(&self) {
        self.0.0.lock().was_heard = true;
    }

    /// The client reads on in what it has fetched.
    pub(super) fn reads_on(&self) {
        self.0.0.lock().was_written = true;
    }

    /// The transport has pings.
    pub(super) fn with_pings(self) -> Self {
        self.0.0.lock().has_pings = true;
        self
    }

    /// How many pings came since the last time.
    pub(super) fn take_pings(&self) -> usize {
        std::mem::take(&mut self.0.0.lock().pings)
    }

    /// The client answers a ping.
    pub(super) fn pong(&self) {
        self.0.0.lock().was_answered = true;
        self.receive(Ok(Some(Bytes::new())));
    }

    /// How often the link was asked for anything since the last time.
    pub(super) fn calls(&self) -> usize {
        std::mem::take(&mut self.0.0.lock().calls)
    }

    fn next(&self) -> Option<Vec<u8>> {
        self.0.0.lock().out.pop_front()
    }

    async fn changed(&self) {
        self.0.1.notified().await;
    }

    fn call(&self) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.0.0.lock();
        state.calls += 1;
        assert!(state.calls < MOST_CALLS, "running in circles");
        state
    }
}

impl Link for FakeLink {
    fn poll_receive(
        &mut self,
        context: &mut TaskContext<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        let mut state = self.0.call();
        // A link that cannot go on repeats its error.
        if let Some(Err(LinkError::TooBig { limit })) = state.incoming.front() {
            return Poll::Ready(Err(LinkError::TooBig { limit: *limit }));
        }
        match state.incoming.pop_front() {
            Some(what) => {
                state.was_heard = true;
                Poll::Ready(what)
            }
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn was_heard(&mut self) -> bool {
        std::mem::take(&mut self.0.0.0.lock().was_heard)
    }

    fn has_pings(&self) -> bool {
        self.0.0.0.lock().has_pings
    }

    fn ping(&mut self) {
        let mut state = self.0.0.0.lock();
        assert!(state.has_pings, "the transport has no pings");
        state.pings += 1;
        drop(state);
        self.0.0.1.notify_waiters();
    }

    fn was_answered(&mut self) -> bool {
        std::mem::take(&mut self.0.0.0.lock().was_answered)
    }

    fn send(&mut self, frame: Outbound<'_>) {
        let frame = [frame.head, frame.tail].concat();
        let mut state = self.0.0.0.lock();
        state.pending += frame.len();
        state.taken.push_back(frame);
    }

    fn pending(&self) -> usize {
        self.0.0.0.lock().pending
    }

    fn was_written(&mut self) -> bool {
        std::mem::take(&mut self.0.0.0.lock().was_written)
    }

    fn poll_flush(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), LinkError>> {
        let mut state = self.0.call();
        if state.is_broken {
            let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            return Poll::Ready(Err(error.into()));
        }
        let room = if state.is_fetched { 0 } else { state.room };
        if state.room != usize::MAX {
            state.room -= room.min(state.pending);
        }
        state.write(room);
        let is_done = state.pending == 0;
        if !is_done {
            state.writer = Some(context.waker().clone());
        }
        let hook = if is_done { state.on_flush.take() } else { None };
        drop(state);
        self.0.0.1.notify_waiters();
        if let Some(mut hook) = hook {
            hook();
            self.0.0.0.lock().on_flush = Some(hook);
        }
        if is_done {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn poll_close(&mut self, context: &mut TaskContext<'_>, code: CloseCode) -> Poll<()> {
        let mut state = self.0.call();
        state.close = Some(code);
        let is_deaf = state.is_deaf;
        if is_deaf {
            state.reader = Some(context.waker().clone());
        }
        drop(state);
        self.0.0.1.notify_waiters();
        if is_deaf {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn set_max_frame_size(&mut self, size: usize) {
        self.0.0.0.lock().max_frame_size = Some(size);
    }
}

impl Drop for FakeLink {
    fn drop(&mut self) {
        self.0.change(|state| state.is_dropped = true);
    }
}

/// A client, and the connection that serves it.
pub(super) struct Client {
    pub(super) wire: Wire,
    pub(super) task: JoinHandle<()>,
    decoder: Decoder,
    /// Heart-beats heard.
    pub(super) beats: usize,
}

impl Client {
    pub(super) fn new(house: &House) -> Self {
        Self::on(house, Wire::new())
    }

    /// A client by this link.
    pub(super) fn on(house: &House, wire: Wire) -> Self {
        Self::of(house, wire, house::PEER)
    }

    /// A client at this place.
    pub(super) fn at(house: &House, peer: Peer) -> Self {
        Self::of(house, Wire::new(), peer)
    }

    fn of(house: &House, wire: Wire, peer: Peer) -> Self {
        let guard = house.services.enter().unwrap();
        let services = Arc::clone(&house.services);
        let link = FakeLink(wire.clone());
        Self {
            task: tokio::spawn(serve(services, link, peer, guard)),
            wire,
            decoder: Decoder::new(DecoderLimits {
                max_frame_size: usize::MAX,
                max_headers: usize::MAX,
                max_header_size: usize::MAX,
            }),
            beats: 0,
        }
    }

    /// Logged in.
    pub(super) async fn connect(house: &House) -> Self {
        let mut client = Self::new(house);
        client.send(CONNECT);
        client.expect(Command::Connected).await;
        client
    }

    pub(super) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes);
    }

    fn try_next(&mut self) -> Option<Frame> {
        loop {
            let bytes = self.wire.next()?;
            if bytes == b"\n" {
                self.beats += 1;
                continue;
            }
            let frame = self.decoder.decode(&mut bytes.into()).unwrap();
            return Some(frame.expect("whole frames are sent"));
        }
    }

    /// The next frame; `None` if the connection is over, or nothing came for a (virtual) hour.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let wire = self.wire.clone();
        let deadline = Instant::now() + Duration::from_secs(3600);
        loop {
            if let Some(frame) = self.try_next() {
                return Some(frame);
            }
            if wire.0.0.lock().is_dropped {
                return None;
            }
            timeout(deadline - Instant::now(), wire.changed())
                .await
                .ok()?;
        }
    }

    pub(super) async fn expect(&mut self, command: Command) -> Frame {
        let frame = self.next().await.expect("a frame, and not the end");
        assert_eq!(frame.command, command, "{frame:?}");
        frame
    }

    pub(super) async fn expect_receipt(&mut self, id: &str) {
        let frame = self.expect(Command::Receipt).await;
        assert_eq!(frame.header("receipt-id"), Some(id));
    }

    pub(super) async fn expect_message(&mut self, body: &str) -> Frame {
        let frame = self.expect(Command::Message).await;
        assert_eq!(String::from_utf8_lossy(&frame.body), body);
        frame
    }

    /// ERROR, and the end.
    pub(super) async fn expect_error(&mut self, message: &str) -> Frame {
        let frame = self.expect(Command::Error).await;
        assert_eq!(frame.header("message"), Some(message), "{frame:?}");
        self.expect_end().await;
        frame
    }

    /// ERROR `access_refused`; the connection may go on.
    pub(super) async fn expect_denial(&mut self) -> Frame {
        let frame = self.expect(Command::Error).await;
        assert_eq!(frame.header("message"), Some("access_refused"), "{frame:?}");
        frame
    }

    /// No more frames.
    pub(super) async fn expect_end(&mut self) {
        let next = self.next().await;
        assert!(next.is_none(), "{next:?}");
        timeout(Duration::from_secs(3600), &mut self.task)
            .await
            .expect("the connection does not end")
            .unwrap();
    }

    /// When the next heart-beat comes; nothing else does.
    pub(super) async fn next_beat(&mut self) -> Instant {
        let before = self.beats;
        loop {
            self.expect_nothing();
            if self.beats > before {
                return Instant::now();
            }
            let wire = self.wire.clone();
            wire.changed().await;
        }
    }

    /// When the next ping comes; no frame does.
    pub(super) async fn next_ping(&mut self) -> Instant {
        loop {
            self.expect_nothing();
            if self.wire.take_pings() > 0 {
                return Instant::now();
            }
            let wire = self.wire.clone();
            wire.changed().await;
        }
    }

    /// Nothing waits to be read by the client.
    pub(super) fn expect_nothing(&mut self) {
        let next = self.try_next();
        assert!(next.is_none(), "{next:?}");
    }

    /// Subscribes, and waits for the receipt.
    pub(super) async fn subscribe(&mut self, id: &str, destination: &str, headers: &str) {
        self.send(format!(
            "SUBSCRIBE\nid:{id}\ndestination:{destination}\nreceipt:sub-{id}\n{headers}\n\0"
        ));
        self.expect_receipt(&format!("sub-{id}")).await;
    }

    /// Publishes, and waits for the receipt.
    pub(super) async fn publish(&mut self, destination: &str, body: &str) {
        self.send(format!(
            "SEND\ndestination:{destination}\nreceipt:sent\n\n{body}\0"
        ));
        self.expect_receipt("sent").await;
    }
}

pub(super) const CONNECT: &str =
    "CONNECT\naccept-version:1.2\nhost:/\nlogin:alice\npasscode:secret\n\n\0";
