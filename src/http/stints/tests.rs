//! One connection in memory, and a service whose long answers are made by hand.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{Response, header::HeaderValue};
use sockjs_server::{
    Application, Channel, HyperSocket, Opening, Options, Payload, Refusal, SessionQuery, SockJs,
};
use tokio::{
    io::{AsyncReadExt as _, DuplexStream, duplex},
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::http::of_sockjs;

const PATIENCE: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A body of frames from a channel. With `is_one`, the first is the last.
struct Said {
    frames: UnboundedReceiver<&'static str>,
    is_one: bool,
    is_over: bool,
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let said = std::task::ready!(self.frames.poll_recv(context));
        self.is_over = self.is_one || said.is_none();
        Poll::Ready(said.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// A client, the paths that were asked for, and what a long answer is to say.
struct Case {
    client: DuplexStream,
    place: Arc<HttpPlace>,
    asked: UnboundedReceiver<String>,
    says: UnboundedReceiver<UnboundedSender<&'static str>>,
    serving: JoinHandle<()>,
}

impl Case {
    /// `/long` is answered by frames, `/one` by one; all else at once, with its path.
    fn new() -> Self {
        let (client, stream) = duplex(64 * 1024);
        let place = Arc::new(HttpPlace::default());
        let (asks, asked) = unbounded_channel();
        let (gives, says) = unbounded_channel();
        let answer = move |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            asks.send(path.clone()).unwrap();
            let body = if let "/long" | "/one" = &*path {
                let (sender, frames) = unbounded_channel();
                gives.send(sender).unwrap();
                let is_one = path == "/one";
                let said = Said {
                    frames,
                    is_one,
                    is_over: false,
                };
                said.map_err(|never| match never {}).boxed()
            } else if path == "/empty" {
                Empty::new().map_err(|never| match never {}).boxed()
            } else {
                Full::from(path.clone())
                    .map_err(|never| match never {})
                    .boxed()
            };
            let mut answer: HttpAnswer = Response::new(body);
            answer
                .headers_mut()
                .insert("x-is", HeaderValue::from_static("here"));
            if let "/long" | "/one" = &*path {
                answer.extensions_mut().insert(TakesItsTime(None));
            }
            std::future::ready(answer)
        };
        let serving = serve(stream, PATIENCE, WRITE_TIMEOUT, Arc::clone(&place), answer);
        let serving = tokio::spawn(serving);
        Self {
            client,
            place,
            asked,
            says,
            serving,
        }
    }

    async fn say(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    async fn get(&mut self, path: &str) {
        self.say(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
    }

    /// All that comes until nothing more does.
    async fn heard(&mut self) -> String {
        let mut heard = Vec::new();
        let mut some = [0; 4096];
        while let Ok(Ok(count)) =
            timeout(Duration::from_millis(1), self.client.read(&mut some)).await
            && count > 0
        {
            heard.extend_from_slice(&some[..count]);
        }
        String::from_utf8(heard).unwrap()
    }

    async fn asked(&mut self) -> Vec<String> {
        sleep(Duration::from_millis(1)).await;
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }

    fn has_hyper(&self) -> bool {
        self.place.requests.has_hyper()
    }
}

#[tokio::test(start_paused = true)]
async fn hyper_is_there_only_for_a_request() {
    let mut case = Case::new();
    assert!(!case.has_hyper());
    for _ in 0..3 {
        case.say("GET /a HTTP/1.1\r\n").await;
        assert_eq!(case.heard().await, "");
        assert!(case.has_hyper());
        case.say("host: x\r\n\r\n").await;
        let heard = case.heard().await;
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with("\r\n\r\n/a"));
        assert!(!case.has_hyper());
    }
    // Several at once are answered in turn, and half of another waits.
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let several = ["/b", "/empty", "/c"].map(request).concat();
    case.say(&(several + "GET /d HTT")).await;
    let heard = case.heard().await;
    assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), 3, "{heard}");
    assert_eq!(case.asked().await, ["/a", "/a", "/a", "/b", "/empty", "/c"]);
    case.say("P/1.1\r\nhost: x\r\n\r\n").await;
    assert!(case.heard().await.ends_with("/d"));
    assert!(!case.has_hyper() && !case.serving.is_finished());
}

/// Otherwise it would be read as a request that nobody has made.
#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_no_request() {
    let mut case = Case::new();
    let body = "GET /evil HTTP/1.1\r\nhost: x\r\n\r\n";
    for path in ["/a", "/long", "/one"] {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        case.say(&head).await;
        case.heard().await;
        let _ = case.client.write_all(body.as_bytes()).await;
        assert_eq!(case.asked().await, [path]);
        case = Case::new();
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_goes_on_without_hyper() {
    let mut case = Case::new();
    for _ in 0..2 {
        case.get("/long").await;
        let says = case.says.recv().await.unwrap();
        assert_eq!(case.heard().await, "");
        assert!(!case.has_hyper());
        says.send("hello").unwrap();
        says.send("you, too, sir!").unwrap();
        let heard = case.heard().await;
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nx-is: here\r\ndate: "),
            "{head}"
        );
        assert!(
            head.ends_with("GMT\r\ntransfer-encoding: chunked"),
            "{head}"
        );
        assert_eq!(body, "5\r\nhello\r\ne\r\nyou, too, sir!\r\n");
        says.send("").unwrap();
        says.send("bye").unwrap();
        assert_eq!(case.heard().await, "3\r\nbye\r\n");
        // The next request waits for its turn.
        case.get("/next").await;
        assert_eq!(case.asked().await, ["/long"]);
        drop(says);
        let heard = case.heard().await;
        assert!(heard.starts_with("0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{heard}");
        assert_eq!(case.asked().await, ["/next"]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_frame_has_its_length() {
    let mut case = Case::new();
    for _ in 0..2 {
        case.get("/a").await;
        case.get("/one").await;
        let says = case.says.recv().await.unwrap();
        assert!(case.heard().await.ends_with("\r\n\r\n/a"));
        assert!(!case.has_hyper());
        // However long it takes.
        sleep(10 * PATIENCE).await;
        says.send("o\n").unwrap();
        let heard = case.heard().await;
        assert!(
            heard.ends_with("\r\ncontent-length: 2\r\n\r\no\n"),
            "{heard}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_may_want_no_more() {
    let old = "GET /long HTTP/1.0\r\n\r\n";
    let last = "GET /long HTTP/1.1\r\nhost: x\r\nconnection: Keep-Alive, Close\r\n\r\n";
    for (request, line, end) in [
        (old, "HTTP/1.0 200 OK\r\n", "connection: close\r\n\r\nhello"),
        (
            last,
            "HTTP/1.1 200 OK\r\n",
            "connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let mut case = Case::new();
        case.say(request).await;
        let says = case.says.recv().await.unwrap();
        says.send("hello").unwrap();
        drop(says);
        let mut heard = String::new();
        let reading = timeout(
            Duration::from_secs(1),
            case.client.read_to_string(&mut heard),
        );
        reading.await.expect("it is still open").unwrap();
        assert!(heard.starts_with(line) && heard.ends_with(end), "{heard}");
    }
}

/// The body is dropped, so that its session learns it.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_its_answer() {
    for path in ["/long", "/one"] {
        let mut case = Case::new();
        case.get(path).await;
        let says = case.says.recv().await.unwrap();
        case.heard().await;
        case.client.shutdown().await.unwrap();
        timeout(Duration::from_secs(1), says.closed())
            .await
            .unwrap();
        assert_eq!(case.heard().await, "");
        // So does one that does not read.
        let mut case = Case::new();
        case.get(path).await;
        let says = case.says.recv().await.unwrap();
        let begun = Instant::now();
        let much = "much".repeat(32 * 1024).leak();
        says.send(much).unwrap();
        timeout(2 * WRITE_TIMEOUT, says.closed()).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
    }
}

/// Says much to its client, and hears it. It can be asked whether bytes were written.
struct Talks(Mutex<Option<UnboundedReceiver<oneshot::Sender<bool>>>>);

const MUCH: usize = 128 * 1024;

impl Application for Talks {
    type Caller = SocketAddr;
    type Place = ();

    fn admit(&self, _: Opening<'_, SocketAddr>) -> Result<(), Refusal> {
        Ok(())
    }

    fn serve<C: Channel>(&self, mut channel: C, (): ()) {
        let mut asked = self.0.lock().take().expect("it has one client");
        tokio::spawn(async move {
            channel.send(Payload::text(&"x".repeat(MUCH)));
            let _ = channel.flush().await;
            loop {
                tokio::select! {
                    received = channel.receive() => {
                        let Ok(Some(_)) = received else {
                            return;
                        };
                    }
                    Some(tell) = asked.recv() => tell.send(channel.was_written()).unwrap(),
                }
            }
        });
    }
}

/// An answer without hyper is its client's presence until it is written, and a hole if it is not.
#[tokio::test(start_paused = true)]
async fn a_session_learns_what_became_of_its_answer() {
    let sockjs = Arc::new(SockJs::new(Options::at("/s")));
    let (mut client, stream) = duplex(64 * 1024);
    let service = Arc::clone(&sockjs);
    let (asks, asked) = unbounded_channel();
    let talks = Arc::new(Talks(Mutex::new(Some(asked))));
    let answer = move |request: Request<Incoming>| {
        let (sockjs, talks) = (Arc::clone(&service), Arc::clone(&talks));
        async move {
            let from = SocketAddr::from(([127, 0, 0, 1], 1));
            let begun = sockjs.begin_with::<HyperSocket, _, _>(&talks, request, from);
            of_sockjs(begun.await)
        }
    };
    let serving = serve(stream, PATIENCE, WRITE_TIMEOUT, Arc::default(), answer);
    tokio::spawn(serving);
    let poll = b"POST /s/0/a/xhr HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let mut some = [0; 4096];
    client.write_all(poll).await.unwrap();
    let count = client.read(&mut some).await.unwrap();
    assert!(some[..count].ends_with(b"\r\n\r\no\n"));
    let query = SessionQuery {
        id: "a",
        address: None,
        identity: None,
    };
    let session = sockjs.sessions().find(query).unwrap();
    client.write_all(poll).await.unwrap();
    client.read_exact(&mut some).await.unwrap();
    // Longer than a session waits for a client that is away.
    sleep(WRITE_TIMEOUT / 2).await;
    assert!(!session.is_over());
    // All was taken, and is on its way for as long as the client reads.
    let was_written = async || {
        sleep(Duration::from_millis(1)).await;
        let (tell, told) = oneshot::channel();
        asks.send(tell).unwrap();
        told.await.unwrap()
    };
    assert!(was_written().await && !was_written().await);
    client.read_exact(&mut some).await.unwrap();
    assert!(was_written().await && !was_written().await);
    drop(client);
    sleep(Duration::from_millis(1)).await;
    assert!(session.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_connection_rests_for_so_long() {
    let begun = Instant::now();
    let mut case = Case::new();
    let mut all = Vec::new();
    case.client.read_to_end(&mut all).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    let mut case = Case::new();
    let begun = Instant::now();
    case.get("/a").await;
    case.heard().await;
    case.client.read_to_end(&mut all).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    // Half a head has no more than that, however it comes.
    let mut case = Case::new();
    let begun = Instant::now();
    while case.client.write_all(b"x").await.is_ok() {
        sleep(PATIENCE / 8).await;
    }
    assert!(begun.elapsed() < 2 * PATIENCE, "{:?}", begun.elapsed());
}

/// The cost of a connection that waits: a change must be visible, and intended.
#[tokio::test]
async fn the_memory_of_a_connection_without_hyper() {
    let (_, stream) = duplex(1);
    let answer = |_: Request<Incoming>| {
        let answer: HttpAnswer =
            Response::new(Empty::new().map_err(|never| match never {}).boxed());
        std::future::ready(answer)
    };
    let size = size_of::<HttpPlace>();
    println!("place: {size}");
    assert!(size <= 208, "{size}");
    let serving = serve(stream, PATIENCE, PATIENCE, Arc::default(), answer);
    let size = size_of_val(&serving);
    println!("serving: {size}");
    assert!(size <= 640, "{size}");
}
