//! The scene of a case: clients and backends, and a record of their frames.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use testkit::{DEADLINE, StompClient, WsOptions, unique};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    amqp::Amqp,
    client::Client,
    server::{Column, GUEST, Servers},
};

/// One run of a case, in one column.
pub(crate) struct Scene {
    column: Column,
    servers: Arc<Servers>,
    record: Record,
    clients: u8,
}

impl Scene {
    pub(crate) fn new(column: Column, servers: Arc<Servers>) -> Self {
        let names = Names {
            tag: unique("c").replace('-', ""),
            vhost: servers.vhost.name().to_owned(),
            known: Vec::new(),
        };
        let record = Record(Rc::new(RefCell::new(Inner {
            lines: Vec::new(),
            names,
        })));
        Self {
            column,
            servers,
            record,
            clients: 0,
        }
    }

    /// The record, which is there still when the case has failed.
    pub(crate) fn lines(&self) -> Record {
        self.record.clone()
    }

    /// A client that is connected, and has not said anything.
    pub(crate) async fn stranger(&mut self) -> Client {
        self.stranger_with(WsOptions::default()).await
    }

    /// With these options, if the case runs by WebSocket.
    pub(crate) async fn stranger_with(&mut self, options: WsOptions) -> Client {
        let address = self.servers.address(self.column);
        let stomp = if self.column.is_ws() {
            StompClient::ws_with(&address, options).await
        } else {
            StompClient::tcp(&address).await
        };
        let name = match self.clients {
            0 => String::new(),
            count => char::from(b'a' + count).to_string(),
        };
        self.clients += 1;
        let stomp = stomp.with_deadline(DEADLINE);
        Client::new(name, stomp, self.record.clone(), self.column.is_stentor())
    }

    /// A client that may do everything, logged in by STOMP 1.2.
    pub(crate) async fn client(&mut self) -> Client {
        self.client_as(GUEST).await
    }

    /// A client that may do everything, logged in by another version.
    pub(crate) async fn client_speaking(&mut self, version: &str) -> Client {
        let mut client = self.stranger().await;
        client.log_in(GUEST, version).await;
        client
    }

    /// A client of this user, logged in by STOMP 1.2.
    pub(crate) async fn client_as(&mut self, user: &str) -> Client {
        let mut client = self.stranger().await;
        client.log_in(user, "1.2").await;
        client
    }

    /// A backend.
    pub(crate) async fn amqp(&self) -> Amqp {
        Amqp::connect(&self.servers.vhost, self.record.clone()).await
    }

    /// A socket to the server's STOMP port, for what a client does not tell.
    pub(crate) async fn socket(&self) -> TcpStream {
        let address = self.servers.address(self.column);
        TcpStream::connect(address)
            .await
            .expect("the server listens")
    }

    /// Asks for an upgrade to WebSocket on this path, with these lines of headers, and answers the
    /// status, and the extensions that were agreed on.
    pub(crate) async fn upgrade(&self, path: &str, headers: &str) -> String {
        let url = self.servers.address(self.column);
        let authority = url.trim_start_matches("ws://").split('/').next();
        let address = authority.expect("a WebSocket's address");
        let mut socket = TcpStream::connect(address)
            .await
            .expect("the server listens");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        socket
            .write_all(request.as_bytes())
            .await
            .expect("it is sent");
        let mut heard = Vec::new();
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            let reading = timeout(DEADLINE, socket.read_buf(&mut heard)).await;
            let length = reading.expect("it answers").expect("it is connected");
            assert!(length > 0, "no answer: {heard:?}");
        }
        let head = String::from_utf8_lossy(&heard).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap_or_default();
        let extensions = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-extensions:"))
            .and_then(|value| value.split(';').next());
        format!(
            "{status}, extensions: {}",
            extensions.unwrap_or("none").trim()
        )
    }

    /// Records something else that was seen.
    pub(crate) fn saw(&self, what: &str) {
        self.record.push("", '<', what);
    }

    /// The text as it goes over the wire: `~` is a word that no other run of any case uses, and
    /// `{vhost}` the virtual host.
    pub(crate) fn real(&self, text: &str) -> String {
        self.record.real(text)
    }
}

/// The lines of a run, and the names in it that differ from run to run.
#[derive(Clone)]
pub(crate) struct Record(Rc<RefCell<Inner>>);

struct Inner {
    lines: Vec<String>,
    names: Names,
}

struct Names {
    tag: String,
    vhost: String,
    /// Texts of this run, and what stands for them in the record; the longest first.
    known: Vec<(String, String)>,
}

impl Record {
    /// Records that `who` said (`>`) or heard (`<`) something, or how it ended (`=`).
    pub(crate) fn push(&self, who: &str, mark: char, what: &str) {
        let what = self.plain(what);
        self.0
            .borrow_mut()
            .lines
            .push(format!("{who}{mark} {what}"));
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().lines)
    }

    /// From now on, `name` stands for this text of the server's.
    pub(crate) fn call(&self, text: &str, name: &str) {
        let known = &mut self.0.borrow_mut().names.known;
        if !text.is_empty() && known.iter().all(|(before, _)| before != text) {
            known.push((text.to_owned(), name.to_owned()));
            known.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
    }

    /// See [`Scene::real`].
    pub(crate) fn real(&self, text: &str) -> String {
        let names = &self.0.borrow().names;
        text.replace('~', &names.tag)
            .replace("{vhost}", &names.vhost)
    }

    /// The opposite of [`Scene::real`].
    pub(crate) fn plain(&self, text: &str) -> String {
        let names = &self.0.borrow().names;
        let mut text = text.to_owned();
        for (known, name) in &names.known {
            text = text.replace(known, name);
        }
        // Names that a server makes up for queues.
        for made_up in [
            "amq.gen-",
            "stomp-temp-",
            "stomp-subscription-",
            "stentor.feed.",
        ] {
            let mut from = 0;
            while let Some(at) = text[from..].find(made_up).map(|at| at + from) {
                let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
                let length = text.as_bytes()[at..]
                    .iter()
                    .take_while(|byte| is_name(byte))
                    .count();
                text.replace_range(at..at + length, "{queue}");
                from = at;
            }
        }
        text.replace(&names.vhost, "{vhost}")
            .replace(&names.tag, "~")
    }
}
