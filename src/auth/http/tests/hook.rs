//! A hook that records what it is asked and answers by script.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<String>,
    pub(crate) body: String,
    /// Which request of its connection it is, from 0.
    pub(crate) nth_of_connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(": "));
        pairs
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status and a body.
    Status(u16, &'static str),
    /// The same, with a body that is made.
    Text(u16, String),
    /// These bytes; then the connection is closed.
    Raw(&'static str),
    /// These bytes; then nothing.
    Unended(&'static str),
    /// Nothing, ever.
    Hang,
    /// A body without an end.
    Endless,
}

impl Reply {
    pub(crate) fn ok(body: &'static str) -> Self {
        Reply::Status(200, body)
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

pub(crate) struct Hook {
    pub(crate) url: String,
    seen: Arc<Seen>,
}

impl Hook {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let (record, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                record.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket, Arc::clone(&record), Arc::clone(&answer)));
            }
        });
        Hook { url, seen }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many questions were open at a time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.seen.most_at_once.load(Ordering::SeqCst)
    }
}

async fn serve(
    socket: TcpStream,
    seen: Arc<Seen>,
    answer: Arc<impl Fn(&Request) -> Reply + Send + Sync>,
) {
    let mut socket = BufReader::new(socket);
    for nth in 0.. {
        let Some(request) = read(&mut socket, nth).await else {
            return;
        };
        let reply = answer(&request);
        seen.requests.lock().push(request);
        let now = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_at_once.fetch_max(now, Ordering::SeqCst);
        let goes_on = write(&mut socket, reply).await;
        seen.at_once.fetch_sub(1, Ordering::SeqCst);
        if !goes_on {
            return;
        }
    }
}

async fn read(socket: &mut BufReader<TcpStream>, nth_of_connection: usize) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let line = head.remove(0);
    let mut request = Request {
        line,
        headers: head,
        body: String::new(),
        nth_of_connection,
    };
    let length = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}

/// Answers; whether the connection goes on.
async fn write(socket: &mut BufReader<TcpStream>, reply: Reply) -> bool {
    match reply {
        Reply::Text(status, body) => {
            let text = format!("HTTP/1.1 {status} X\r\n{}\r\n{body}", length(&body));
            socket.write_all(text.as_bytes()).await.is_ok()
        }
        Reply::Status(status, body) => {
            let length = if status == 204 {
                String::new()
            } else {
                length(body)
            };
            let text = format!("HTTP/1.1 {status} X\r\n{length}\r\n{body}");
            socket.write_all(text.as_bytes()).await.is_ok()
        }
        Reply::Raw(bytes) => {
            let _ = socket.write_all(bytes.as_bytes()).await;
            false
        }
        Reply::Unended(bytes) => {
            let _ = socket.write_all(bytes.as_bytes()).await;
            closed(socket).await
        }
        Reply::Hang => closed(socket).await,
        Reply::Endless => {
            let head = b"HTTP/1.1 200 OK\r\n\r\nallow ";
            let mut open = socket.write_all(head).await.is_ok();
            while open {
                open = socket.write_all(&[b'x'; 8192]).await.is_ok();
            }
            false
        }
    }
}

fn length(body: &str) -> String {
    format!("content-length: {}\r\n", body.len())
}

/// Waits until the other side has gone.
async fn closed(socket: &mut BufReader<TcpStream>) -> bool {
    let _ = socket.read_u8().await;
    false
}
