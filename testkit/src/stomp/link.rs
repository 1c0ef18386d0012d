//! Bytes over TCP, over WebSocket and over SockJS.

use std::{fmt, io};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        http::{HeaderName, HeaderValue},
    },
};

use super::sockjs::{Dial, Polling};

/// How a WebSocket is asked for, and used.
#[derive(Clone, Debug)]
pub struct WsOptions {
    /// The subprotocols offered, best first. Default: those of STOMP 1.2, 1.1 and 1.0.
    pub protocols: Vec<&'static str>,
    /// Further headers of the request (`Origin`, `Cookie`, …).
    pub headers: Vec<(&'static str, String)>,
    /// True if to send binary messages. Default: text, where the bytes are UTF-8.
    pub binary: bool,
}

impl Default for WsOptions {
    fn default() -> Self {
        Self {
            protocols: vec!["v12.stomp", "v11.stomp", "v10.stomp"],
            headers: Vec::new(),
            binary: false,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The close code of a WebSocket, if the server gave one.
    pub code: Option<u16>,
    /// The reason beside the code.
    pub reason: String,
    /// The error, if it was no orderly end.
    pub error: Option<String>,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "closed")?;
        if let Some(code) = self.code {
            write!(f, " {code} {:?}", self.reason)?;
        }
        self.error
            .iter()
            .try_for_each(|error| write!(f, " ({error})"))
    }
}

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(super) enum Link {
    Tcp(Box<dyn Io>),
    Ws {
        socket: Box<WebSocketStream<Box<dyn Io>>>,
        binary: bool,
        closed: Closed,
        was_text: Option<bool>,
    },
    SockJs(Box<Polling>),
}

impl Link {
    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::Tcp(Box::new(stream))
    }

    pub(super) async fn tcp(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    pub(super) async fn sockjs(url: &str, dial: Dial) -> io::Result<Self> {
        Ok(Self::SockJs(Box::new(Polling::open(url, dial).await?)))
    }

    /// Answers the link, and the subprotocol that the server chose.
    pub(super) async fn ws(
        url: &str,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        options: WsOptions,
    ) -> Result<(Self, Option<String>), tungstenite::Error> {
        let mut request = url.into_client_request()?;
        let mut add = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).expect("a header value");
            request
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        };
        if !options.protocols.is_empty() {
            add("sec-websocket-protocol", &options.protocols.join(", "));
        }
        for (name, value) in &options.headers {
            add(name, value);
        }
        let stream: Box<dyn Io> = Box::new(stream);
        let (socket, response) = client_async(request, stream).await?;
        let protocol = response
            .headers()
            .get("sec-websocket-protocol")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let link = Self::Ws {
            socket: Box::new(socket),
            binary: options.binary,
            closed: Closed::default(),
            was_text: None,
        };
        Ok((link, protocol))
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Ws { socket, binary, .. } => {
                let message = match str::from_utf8(bytes) {
                    Ok(text) if !*binary => Message::text(text),
                    _ => Message::binary(Bytes::copy_from_slice(bytes)),
                };
                socket.send(message).await.map_err(io::Error::other)
            }
            Self::SockJs(session) => {
                let text = str::from_utf8(bytes).map_err(io::Error::other)?;
                session.send(text).await
            }
        }
    }

    /// The next bytes, at most one message of WebSocket or SockJS; or how it ended.
    pub(super) async fn read(&mut self) -> Result<Bytes, Closed> {
        match self {
            Self::Tcp(stream) => {
                let mut buffer = vec![0; 16 * 1024];
                match stream.read(&mut buffer).await {
                    Ok(0) => Err(Closed::default()),
                    Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
                    Err(error) => Err(Closed {
                        error: Some(error.to_string()),
                        ..Closed::default()
                    }),
                }
            }
            Self::Ws {
                socket,
                closed,
                was_text,
                ..
            } => loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        *was_text = Some(true);
                        return Ok(text.into());
                    }
                    Some(Ok(Message::Binary(bytes))) => {
                        *was_text = Some(false);
                        return Ok(bytes);
                    }
                    Some(Ok(Message::Close(frame))) => {
                        if let Some(frame) = frame {
                            closed.code = Some(frame.code.into());
                            closed.reason = frame.reason.as_str().to_owned();
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(tungstenite::Error::ConnectionClosed)) | None => {
                        return Err(closed.clone());
                    }
                    Some(Err(error)) => {
                        closed.error = Some(error.to_string());
                        return Err(closed.clone());
                    }
                }
            },
            Self::SockJs(session) => session.receive().await.map(Bytes::from),
        }
    }

    /// `Some(true)` if the last bytes came in a text message of a WebSocket; `None` before the
    /// first.
    pub(super) const fn was_text(&self) -> Option<bool> {
        match self {
            Self::Tcp(_) | Self::SockJs(_) => None,
            Self::Ws { was_text, .. } => *was_text,
        }
    }
}
