//! SockJS by polling (`xhr-polling`), over two HTTP connections that are kept: one receives, the
//! other sends. A client is a few kilobytes, so that a test can have a thousand.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::link::{Closed, Io};

/// Opens a stream to the server.
pub(super) type Dial = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync>;

/// A session. It is asked for messages only when it is read, so one that is not read for longer
/// than the server's `disconnect_delay` is ended by the server.
pub(super) struct Polling {
    receiver: Http,
    sender: Http,
    /// `/prefix/server/session`
    path: String,
    /// Messages that came in one answer, and were not read yet.
    waiting: VecDeque<String>,
}

impl Polling {
    /// Opens a session at `http://host:port/prefix`, with a server segment and a session of its
    /// own, as a browser does.
    pub(super) async fn open(url: &str, dial: Dial) -> io::Result<Self> {
        let (address, prefix) = address_and_prefix(url)?;
        let server = rand::random_range(0..1000);
        let session: u64 = rand::random();
        let mut polling = Self {
            receiver: Http::new(address, Arc::clone(&dial)),
            sender: Http::new(address, dial),
            path: format!("/{prefix}/{server:03}/{session:016x}"),
            waiting: VecDeque::new(),
        };
        match polling.poll().await?.as_str() {
            "o" => Ok(polling),
            other => Err(io::Error::other(format!("{other} instead of o"))),
        }
    }

    /// Sends one SockJS message.
    pub(super) async fn send(&mut self, message: &str) -> io::Result<()> {
        let body = json!([message]).to_string();
        let path = format!("{}/xhr_send", self.path);
        match self.sender.post(&path, body).await? {
            (StatusCode::NO_CONTENT, _) => Ok(()),
            (status, text) => Err(io::Error::other(format!("xhr_send: {status} {text}"))),
        }
    }

    /// The next SockJS message; heart-beats are passed over.
    pub(super) async fn receive(&mut self) -> Result<String, Closed> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Ok(message);
            }
            let frame = self.poll().await.map_err(broken)?;
            let (kind, payload) = frame.split_at(frame.len().min(1));
            match (kind, serde_json::from_str(payload)) {
                ("h", _) => {}
                ("a", Ok(Value::Array(messages))) => {
                    let texts = messages.iter().filter_map(Value::as_str);
                    self.waiting.extend(texts.map(ToOwned::to_owned));
                }
                ("c", Ok(close)) => {
                    return Err(Closed {
                        code: close[0].as_u64().and_then(|code| code.try_into().ok()),
                        reason: close[1].as_str().unwrap_or_default().to_owned(),
                        error: None,
                    });
                }
                // Opened again: the server does not know the session. As sockjs-client says.
                ("o", _) => return Err(broken("the server lost the session")),
                _ => return Err(broken(format!("a frame that is none: {frame:?}"))),
            }
        }
    }

    /// One frame, without the line feed behind it.
    async fn poll(&mut self) -> io::Result<String> {
        let path = format!("{}/xhr", self.path);
        match self.receiver.post(&path, String::new()).await? {
            (StatusCode::OK, text) => Ok(text.trim_end_matches('\n').to_owned()),
            (status, text) => Err(io::Error::other(format!("xhr: {status} {text}"))),
        }
    }
}

/// The parts of `http://host:port/prefix`.
pub(super) fn address_and_prefix(url: &str) -> io::Result<(&str, &str)> {
    let parts = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'));
    parts.ok_or_else(|| io::Error::other(format!("{url} is not http://host:port/prefix")))
}

fn broken(error: impl ToString) -> Closed {
    Closed {
        error: Some(error.to_string()),
        ..Closed::default()
    }
}

/// A connection for one request after the other, made anew where the server closed it.
struct Http {
    address: String,
    dial: Dial,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    fn new(address: &str, dial: Dial) -> Self {
        Self {
            address: address.to_owned(),
            dial,
            connection: None,
        }
    }

    async fn post(&mut self, path: &str, body: String) -> io::Result<(StatusCode, String)> {
        let request = Request::post(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "text/plain;charset=UTF-8")
            .body(Full::from(body))
            .map_err(io::Error::other)?;
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = connection.send_request(request).await;
        let (head, body) = answer.map_err(io::Error::other)?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        self.connection = Some(connection);
        Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = (self.dial)().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}
