//! The client.

use std::{collections::VecDeque, future::Future, panic::Location, sync::Arc, time::Duration};

use bytes::Bytes;
use stomp_grammar::{Command, Decoder, Frame, Limits, Version, encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    link::{Closed, Io, Link, WsOptions},
    sockjs::{Dial, address_and_prefix},
};
use crate::{DEADLINE, unique};

/// The client's limits: far more than any server here sends.
const LIMITS: Limits = Limits {
    max_frame_size: 64 << 20,
    max_headers: 1000,
    max_header_size: 1 << 20,
};

/// So many of the last frames are shown when something goes wrong.
const SHOWN: usize = 20;

/// A login: the user, and its headers.
#[derive(Clone, Debug)]
pub struct Login {
    /// `login`
    pub user: String,
    /// `passcode`
    pub passcode: String,
    /// `host`
    pub vhost: String,
    /// `accept-version`
    pub versions: &'static str,
    /// Any further headers, `heart-beat` for example.
    pub headers: Vec<(&'static str, String)>,
}

impl Login {
    /// STOMP 1.2, without heart-beats.
    #[must_use]
    pub fn new(user: &str, passcode: &str, vhost: &str) -> Self {
        Self {
            user: user.to_owned(),
            passcode: passcode.to_owned(),
            vhost: vhost.to_owned(),
            versions: "1.2",
            headers: Vec::new(),
        }
    }

    /// The CONNECT frame.
    #[must_use]
    pub fn frame(&self) -> Frame {
        let frame = Frame::new(Command::Connect)
            .with_header("accept-version", self.versions)
            .with_header("host", &self.vhost)
            .with_header("login", &self.user)
            .with_header("passcode", &self.passcode);
        self.headers
            .iter()
            .fold(frame, |frame, (name, value)| frame.with_header(name, value))
    }
}

/// A STOMP client that reads only when a test expects something: one that expects nothing is a
/// slow consumer. It sends no heart-beats by itself.
///
/// Methods expect the very next frame, unless they say otherwise. They panic with the test's
/// line and the frames seen so far.
pub struct StompClient {
    link: Link,
    decoder: Decoder,
    input: Bytes,
    version: Version,
    deadline: Duration,
    protocol: Option<String>,
    seen: VecDeque<String>,
    closed: Option<Closed>,
}

impl StompClient {
    /// Over TCP, to `host:port`.
    ///
    /// # Panics
    /// The connection is refused.
    pub async fn tcp(address: &str) -> Self {
        let link = Link::tcp(address).await;
        Self::new(
            link.unwrap_or_else(|error| panic!("{address}: {error}")),
            None,
        )
    }

    /// Over any stream: one with TLS, or one that began with a PROXY line.
    #[must_use]
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::new(Link::over(stream), None)
    }

    /// Over WebSocket, to `ws://host:port/path`.
    ///
    /// # Panics
    /// The upgrade is refused.
    pub async fn ws(url: &str) -> Self {
        Self::ws_with(url, WsOptions::default()).await
    }

    /// Over WebSocket, with options.
    ///
    /// # Panics
    /// The upgrade is refused.
    pub async fn ws_with(url: &str, options: WsOptions) -> Self {
        let parsed = url::Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let (host, port) = (parsed.host_str(), parsed.port_or_known_default());
        let address = (host.unwrap_or_default(), port.unwrap_or_default());
        let stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{url}: {error}"));
        stream.set_nodelay(true).expect("a TCP socket");
        Self::ws_over(url, stream, options).await
    }

    /// Over WebSocket on any stream. Only the path and the host of `url` matter.
    ///
    /// # Panics
    /// The upgrade is refused.
    pub async fn ws_over(
        url: &str,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        options: WsOptions,
    ) -> Self {
        match Link::ws(url, stream, options).await {
            Ok((link, protocol)) => Self::new(link, protocol),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    /// Over SockJS, to `http://host:port/stomp`, by polling. The server ends a session that is
    /// not read for some seconds.
    ///
    /// # Panics
    /// No session is opened.
    pub async fn sockjs(url: &str) -> Self {
        let client = Self::try_sockjs(url).await;
        client.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// As [`Self::sockjs`], for a server that may be on its way out.
    ///
    /// # Errors
    /// No session is opened.
    pub async fn try_sockjs(url: &str) -> std::io::Result<Self> {
        let (address, _) = address_and_prefix(url)?;
        let address = address.to_owned();
        let dial = move || {
            let address = address.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        };
        Self::sockjs_by(url, dial).await
    }

    /// Over SockJS on any streams, which `dial` opens: ones with TLS, or that begin with a PROXY
    /// line. Only the path and the host of `url` matter.
    ///
    /// # Errors
    /// No session is opened.
    pub async fn sockjs_by<S, F>(
        url: &str,
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> std::io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = std::io::Result<S>> + Send + 'static,
    {
        let dial: Dial = Arc::new(move || {
            let stream = dial();
            Box::pin(async { Ok(Box::new(stream.await?) as Box<dyn Io>) })
        });
        Ok(Self::new(Link::sockjs(url, dial).await?, None))
    }

    fn new(link: Link, protocol: Option<String>) -> Self {
        Self {
            link,
            decoder: Decoder::new(LIMITS),
            input: Bytes::new(),
            version: Version::V1_2,
            deadline: DEADLINE,
            protocol,
            seen: VecDeque::new(),
            closed: None,
        }
    }

    /// Waits so long for each thing expected, instead of [`DEADLINE`].
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The subprotocol that the server chose at the upgrade.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Whether the last WebSocket message was a text; `None` elsewhere.
    #[must_use]
    pub const fn was_text(&self) -> Option<bool> {
        self.link.was_text()
    }

    /// Sends bytes as they are; over WebSocket and SockJS, in one message. They may not arrive: a
    /// server may have closed already, and its frames from before are still to be read.
    pub async fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.link.write(bytes.as_ref()).await {
            self.note(format!("! not written: {error}"));
        }
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        encode::frame(&mut bytes, self.version, frame);
        self.note(format!("-> {}", show(frame)));
        self.raw(bytes).await;
    }

    /// Logs in, and answers CONNECTED.
    #[track_caller]
    pub fn connect(&mut self, login: &Login) -> impl Future<Output = Frame> {
        let (at, login) = (Location::caller(), login.frame());
        async move {
            self.send(&login).await;
            let connected = self.next(at, "CONNECTED").await;
            if connected.command != Command::Connected {
                self.fail(at, "CONNECTED", &connected);
            }
            connected
        }
    }

    /// Subscribes, and waits for the receipt.
    #[track_caller]
    pub fn subscribe(&mut self, id: &str, destination: &str) -> impl Future<Output = ()> {
        self.subscribe_with(id, destination, &[])
    }

    /// Subscribes with further headers, and waits for the receipt.
    #[track_caller]
    pub fn subscribe_with(
        &mut self,
        id: &str,
        destination: &str,
        headers: &[(&str, &str)],
    ) -> impl Future<Output = ()> {
        let frame = Frame::new(Command::Subscribe)
            .with_header("id", id)
            .with_header("destination", destination);
        let frame = headers
            .iter()
            .fold(frame, |frame, (name, value)| frame.with_header(name, value));
        self.request(frame)
    }

    /// Ends a subscription, and waits for the receipt.
    #[track_caller]
    pub fn unsubscribe(&mut self, id: &str) -> impl Future<Output = ()> {
        self.request(Frame::new(Command::Unsubscribe).with_header("id", id))
    }

    /// Sends a message, and waits for the receipt.
    #[track_caller]
    pub fn publish(
        &mut self,
        destination: &str,
        body: impl Into<Bytes>,
    ) -> impl Future<Output = ()> {
        let frame = Frame::new(Command::Send)
            .with_header("destination", destination)
            .with_body(body);
        self.request(frame)
    }

    /// Disconnects: DISCONNECT, its receipt, the end.
    #[track_caller]
    pub fn disconnect(mut self) -> impl Future<Output = Closed> {
        let at = Location::caller();
        async move {
            self.receipted(at, Frame::new(Command::Disconnect)).await;
            self.end(at).await
        }
    }

    /// Sends a frame with a `receipt` of its own, and waits for that receipt; MESSAGE frames
    /// that come before it are lost, see [`Self::send`] and [`Self::expect_receipt`] for more
    /// than that.
    #[track_caller]
    pub fn request(&mut self, frame: Frame) -> impl Future<Output = ()> {
        self.receipted(Location::caller(), frame)
    }

    async fn receipted(&mut self, at: &'static Location<'static>, frame: Frame) {
        let receipt = unique("r");
        let what = format!("the receipt {receipt} for {}", frame.command);
        self.send(&frame.with_header("receipt", &receipt)).await;
        loop {
            let frame = self.next(at, &what).await;
            match frame.command {
                Command::Message => {}
                Command::Receipt if frame.header("receipt-id") == Some(&receipt) => return,
                _ => self.fail(at, &what, &frame),
            }
        }
    }

    /// Expects a frame of which `matches` is true.
    #[track_caller]
    pub fn expect(
        &mut self,
        what: &str,
        matches: impl FnOnce(&Frame) -> bool,
    ) -> impl Future<Output = Frame> {
        let at = Location::caller();
        async move {
            let frame = self.next(at, what).await;
            if !matches(&frame) {
                self.fail(at, what, &frame);
            }
            frame
        }
    }

    /// Expects any frame.
    #[track_caller]
    pub fn expect_frame(&mut self) -> impl Future<Output = Frame> {
        self.expect("any frame", |_| true)
    }

    /// Expects a MESSAGE with this body.
    #[track_caller]
    pub fn expect_message(&mut self, body: &str) -> impl Future<Output = Frame> {
        let at = Location::caller();
        async move {
            let what = format!("MESSAGE {body:?}");
            let frame = self.next(at, &what).await;
            if frame.command != Command::Message || frame.body != body {
                self.fail(at, &what, &frame);
            }
            frame
        }
    }

    /// Expects so many MESSAGE frames, and answers their bodies in order.
    #[track_caller]
    pub fn expect_messages(&mut self, count: usize) -> impl Future<Output = Vec<String>> {
        let at = Location::caller();
        async move {
            let mut bodies = Vec::with_capacity(count);
            while bodies.len() < count {
                let what = format!("MESSAGE {} of {count}", bodies.len() + 1);
                let frame = self.next(at, &what).await;
                if frame.command != Command::Message {
                    self.fail(at, &what, &frame);
                }
                bodies.push(String::from_utf8_lossy(&frame.body).into_owned());
            }
            bodies
        }
    }

    /// Expects the RECEIPT of this id.
    #[track_caller]
    pub fn expect_receipt(&mut self, id: &str) -> impl Future<Output = Frame> {
        let at = Location::caller();
        async move {
            let what = format!("RECEIPT {id}");
            let frame = self.next(at, &what).await;
            if frame.command != Command::Receipt || frame.header("receipt-id") != Some(id) {
                self.fail(at, &what, &frame);
            }
            frame
        }
    }

    /// Expects an ERROR with this `message` header; MESSAGE frames before it are passed over.
    #[track_caller]
    pub fn expect_error(&mut self, message: &str) -> impl Future<Output = Frame> {
        let at = Location::caller();
        async move {
            let what = format!("ERROR {message:?}");
            loop {
                let frame = self.next(at, &what).await;
                match frame.command {
                    Command::Message => {}
                    Command::Error if frame.header("message") == Some(message) => return frame,
                    _ => self.fail(at, &what, &frame),
                }
            }
        }
    }

    /// Expects a heart-beat: line ends alone, not those behind a frame. Returns false if the
    /// connection ended before it.
    #[track_caller]
    pub fn expect_beat(&mut self) -> impl Future<Output = bool> {
        let at = Location::caller();
        async move {
            match timeout(self.deadline, self.read_beat()).await {
                Ok(Ok(())) => true,
                Ok(Err(None)) => false,
                Ok(Err(Some(frame))) => self.fail(at, "a heart-beat", &frame),
                Err(_) => self.panic(at, &format!("a heart-beat, within {:?}", self.deadline)),
            }
        }
    }

    /// A heart-beat; else a frame, or the end.
    async fn read_beat(&mut self) -> Result<(), Option<Frame>> {
        let is_blank = |bytes: &Bytes| bytes.iter().all(|byte| b"\r\n".contains(byte));
        if is_blank(&self.input) {
            self.input.clear();
            match self.link.read().await {
                Ok(bytes) => self.input = bytes,
                Err(closed) => self.closed = Some(closed),
            }
        }
        if self.closed.is_none() && is_blank(&self.input) {
            return Ok(());
        }
        Err(self.read().await.ok())
    }

    /// Expects the end of the connection, and no frame before it.
    #[track_caller]
    pub fn expect_closed(&mut self) -> impl Future<Output = Closed> {
        self.end(Location::caller())
    }

    /// The next frame, or the end of the connection: for tests that cannot know which comes.
    /// After a CONNECTED, the client speaks the version that it names.
    ///
    /// # Errors
    /// The connection has ended.
    ///
    /// # Panics
    /// Nothing comes within the deadline.
    #[track_caller]
    pub fn next_frame(&mut self) -> impl Future<Output = Result<Frame, Closed>> {
        let at = Location::caller();
        async move {
            match timeout(self.deadline, self.read()).await {
                Ok(result) => result,
                Err(_) => self.panic(at, &format!("anything, within {:?}", self.deadline)),
            }
        }
    }

    async fn end(&mut self, at: &'static Location<'static>) -> Closed {
        match timeout(self.deadline, self.read()).await {
            Ok(Err(closed)) => closed,
            Ok(Ok(frame)) => self.fail(at, "the end of the connection", &frame),
            Err(_) => self.panic(at, "the end of the connection, but it stays open"),
        }
    }

    async fn next(&mut self, at: &'static Location<'static>, what: &str) -> Frame {
        match timeout(self.deadline, self.read()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(closed)) => self.panic(at, &format!("{what}, but it is {closed}")),
            Err(_) => self.panic(at, &format!("{what}, within {:?}", self.deadline)),
        }
    }

    async fn read(&mut self) -> Result<Frame, Closed> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(frame)) => {
                    self.note(format!("<- {}", show(&frame)));
                    if frame.command == Command::Connected {
                        let version = Version::negotiate(frame.header("version"));
                        self.version = version.unwrap_or(Version::V1_0);
                        self.decoder.set_version(self.version);
                    }
                    return Ok(frame);
                }
                Ok(None) => {}
                Err(error) => panic!("the server's stream is not STOMP: {error}"),
            }
            if let Some(closed) = &self.closed {
                return Err(closed.clone());
            }
            match self.link.read().await {
                Ok(bytes) => self.input = bytes,
                Err(closed) => {
                    self.note(format!("<- {closed}"));
                    self.closed = Some(closed);
                }
            }
        }
    }

    fn note(&mut self, line: String) {
        if self.seen.len() == SHOWN {
            self.seen.pop_front();
        }
        self.seen.push_back(line);
    }

    fn fail(&self, at: &Location<'_>, what: &str, frame: &Frame) -> ! {
        self.panic(at, &format!("{what}, but there came {}", show(frame)))
    }

    fn panic(&self, at: &Location<'_>, what: &str) -> ! {
        let seen = Vec::from_iter(self.seen.iter().map(String::as_str)).join("\n");
        panic!("{at}: expected {what}\n--- the last {SHOWN} frames at most\n{seen}\n---")
    }
}

/// A frame for the reader of a failed test; a passcode is not shown.
#[must_use]
pub fn show(frame: &Frame) -> String {
    let mut text = frame.command.to_string();
    for (name, value) in frame.headers.iter() {
        let value = if name == "passcode" { "…" } else { value };
        text.push_str(&format!(" {name}:{value:?}"));
    }
    if !frame.body.is_empty() {
        let body = String::from_utf8_lossy(&frame.body);
        let start: String = body.chars().take(200).collect();
        text.push_str(&format!(" | {start:?}"));
        if start.len() < body.len() {
            text.push_str(&format!("… ({} bytes)", frame.body.len()));
        }
    }
    text
}
