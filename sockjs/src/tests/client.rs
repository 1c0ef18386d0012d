//! A client that says each byte itself, and hears each.

use std::collections::HashMap;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{Server, TIMEOUT};

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A connection, on which an answer may come in parts.
pub(super) struct Stream {
    stream: BufReader<TcpStream>,
    pub(super) status: u16,
    pub(super) headers: HashMap<String, String>,
}

/// Asks on a connection of its own.
pub(super) async fn ask(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut stream = Stream::connect(server).await;
    stream.ask(method, path, headers, body).await
}

impl Stream {
    pub(super) async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        Self {
            stream: BufReader::new(stream),
            status: 0,
            headers: HashMap::new(),
        }
    }

    /// Begins to receive, and hears the head of the answer.
    pub(super) async fn open(server: &Server, method: &str, path: &str) -> Self {
        let mut stream = Self::connect(server).await;
        stream.begin(method, path, &[], b"").await;
        stream.hear_head().await;
        stream
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        self.write(&request).await;
    }

    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.begin(method, path, headers, body).await;
        self.hear().await
    }

    /// A whole answer.
    pub(super) async fn hear(&mut self) -> Reply {
        self.hear_head().await;
        let mut body = String::new();
        if self.headers.contains_key("transfer-encoding") {
            while let Some(part) = self.part().await {
                body.push_str(&part);
            }
        } else if let Some(length) = self.headers.get("content-length") {
            let mut bytes = vec![0; length.parse().unwrap()];
            let reading = self.stream.read_exact(&mut bytes);
            timeout(TIMEOUT, reading).await.unwrap().unwrap();
            body = String::from_utf8(bytes).unwrap();
        }
        Reply {
            status: self.status,
            headers: self.headers.clone(),
            body,
        }
    }

    pub(super) async fn hear_head(&mut self) {
        let line = self.line().await;
        self.status = line.split(' ').nth(1).unwrap().parse().unwrap();
        self.headers.clear();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else {
                assert_eq!(line, "");
                return;
            };
            self.headers.insert(name.to_owned(), value.to_owned());
        }
    }

    /// The next part of an answer, as it was sent; `None`: it has ended.
    pub(super) async fn part(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut bytes = vec![0; length + 2];
        let reading = self.stream.read_exact(&mut bytes);
        timeout(TIMEOUT, reading).await.unwrap().unwrap();
        bytes.truncate(length);
        (length > 0).then(|| String::from_utf8(bytes).unwrap())
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let reading = self.stream.read_line(&mut line);
        timeout(TIMEOUT, reading).await.unwrap().unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }
}
