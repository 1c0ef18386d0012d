//! A client of STOMP over TCP, for attackers and for the visitor: it says whatever it is told to.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::wire::{dialect::VHOST, stomp};

/// The longest for any answer: twice as long as the gateway waits for its broker.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client.
pub(super) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Messages that came while something else was awaited.
    messages: VecDeque<Message>,
}

/// A message, as far as it is of interest.
pub(super) struct Message {
    pub(super) subscription: String,
    /// Its id for ACK; empty without one.
    pub(super) ack: String,
}

/// A frame from the gateway.
enum Said {
    Connected,
    Receipt(String),
    Message(Message),
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// It is refused: the gateway's words.
    pub(super) async fn log_in(address: SocketAddr, user: &str) -> Result<Self, String> {
        let mut client = Self::greet(address, user, &[]).await?;
        match client.next().await? {
            Said::Connected => Ok(client),
            _ => Err("something comes before CONNECTED".into()),
        }
    }

    /// Connects, and sends these frames behind its CONNECT, before any answer.
    ///
    /// # Errors
    /// The system, or the gateway, refuses the connection.
    pub(super) async fn greet(
        address: SocketAddr,
        user: &str,
        frames: &[u8],
    ) -> Result<Self, String> {
        let connecting = timeout(PATIENCE, TcpStream::connect(address));
        let stream = connecting
            .await
            .map_err(|_| "no connection")?
            .map_err(|error| format!("connecting: {error}"))?;
        let _ = stream.set_nodelay(true);
        let mut client = Self {
            stream,
            unread: Vec::new(),
            messages: VecDeque::new(),
        };
        let mut bytes = Vec::new();
        stomp::connect(VHOST, user, 0, &mut bytes);
        bytes.extend_from_slice(frames);
        client.write(&bytes).await?;
        Ok(client)
    }

    /// Writes bytes, however long the gateway takes to read them.
    ///
    /// # Errors
    /// The connection is over; the gateway's words, if it sent any.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Err(error) = self.stream.write_all(bytes).await else {
            return Ok(());
        };
        Err(match self.refusal().await {
            said if said.starts_with("ERROR") => said,
            _ => format!("writing: {error}"),
        })
    }

    /// Sends a frame with a receipt, and waits for that.
    ///
    /// # Errors
    /// What the gateway says instead.
    pub(super) async fn request(
        &mut self,
        command: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(), String> {
        let headers = [headers, &[("receipt", "r")]].concat();
        self.write(&stomp::frame(command, &headers, body)).await?;
        self.receipt("r").await
    }

    /// Waits for a receipt; messages before it are kept.
    ///
    /// # Errors
    /// What the gateway says instead.
    pub(super) async fn receipt(&mut self, id: &str) -> Result<(), String> {
        loop {
            match self.next().await? {
                Said::Receipt(its) if its == id => return Ok(()),
                Said::Message(message) => self.messages.push_back(message),
                Said::Connected | Said::Receipt(_) => {}
            }
        }
    }

    /// The next message of a subscription; those of others are kept.
    ///
    /// # Errors
    /// No message comes; the gateway's words instead.
    pub(super) async fn message(&mut self, subscription: &str) -> Result<Message, String> {
        loop {
            let mut kept = self.messages.iter();
            if let Some(at) = kept.position(|message| message.subscription == subscription)
                && let Some(message) = self.messages.remove(at)
            {
                return Ok(message);
            }
            if let Said::Message(message) = self.next().await? {
                self.messages.push_back(message);
            }
        }
    }

    /// Reads on until the gateway refuses something, or closes; returns its words.
    pub(super) async fn refusal(&mut self) -> String {
        loop {
            if let Err(why) = self.next().await {
                return why;
            }
        }
    }

    /// `Err` of an ERROR, an end, or silence.
    async fn next(&mut self) -> Result<Said, String> {
        let waiting = timeout(PATIENCE, self.frame());
        waiting
            .await
            .unwrap_or_else(|_| Err(format!("no answer for {} s", PATIENCE.as_secs())))
    }

    async fn frame(&mut self) -> Result<Said, String> {
        loop {
            let mut rest = self.unread.as_slice();
            if let Some(frame) = stomp::next_frame(&mut rest)? {
                let text = |name| {
                    let value = stomp::header(frame.headers, name).unwrap_or_default();
                    String::from_utf8_lossy(value).into_owned()
                };
                let said = match frame.command {
                    b"CONNECTED" => Ok(Said::Connected),
                    b"RECEIPT" => Ok(Said::Receipt(text(b"receipt-id:"))),
                    b"MESSAGE" => Ok(Said::Message(Message {
                        subscription: text(b"subscription:"),
                        ack: text(b"ack:"),
                    })),
                    _ => Err(frame.error_text()),
                };
                let used = self.unread.len() - rest.len();
                self.unread.drain(..used);
                return said;
            }
            let read = self.stream.read_buf(&mut self.unread).await;
            match read {
                Ok(0) => return Err("closed without a word".into()),
                Ok(_) => {}
                Err(error) => return Err(format!("reading: {error}")),
            }
        }
    }
}
