//! Attacks by connections on which nobody logs in, from an address of their own.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    attacker::{Attackers, Targets},
    list::Attack,
};

/// The attackers' address; others are at 127.0.0.1.
const FROM: [u8; 4] = [127, 0, 0, 66];

/// How long a connection, or an answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Attackers {
    /// One connection: it is made, something is said, and it stays until the gateway closes it.
    pub(super) async fn crowd(&self, attack: Attack) -> Result<(), String> {
        let Targets { stomp, http, admin } = self.targets;
        let struck = match attack {
            Attack::HalfRequests => self.hold(http, b"GET /ws HTTP/1.1\r\nhost:").await,
            Attack::HalfHealth => self.hold(admin, b"GET /readyz HTTP/1.1\r\nhost:").await,
            Attack::Sockets => self.hold(stomp, b"\n").await,
            Attack::SockjsSessions => {
                let path = || format!("POST /stomp/000/{}/xhr", rand::random::<u64>());
                self.ask_again(http, path).await
            }
            _ => self.ask_again(http, || "GET /x".to_owned()).await,
        };
        struck.map_err(|error| error.to_string())
    }

    async fn hold(&self, to: SocketAddr, text: &[u8]) -> io::Result<()> {
        let mut stream = self.connect(to).await?;
        stream.write_all(text).await?;
        self.wrote(1);
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).await? > 0 {}
        Ok(())
    }

    /// One request after the other, as long as the gateway goes on.
    async fn ask_again(&self, to: SocketAddr, line: impl Fn() -> String) -> io::Result<()> {
        let mut stream = self.connect(to).await?;
        let mut bytes = [0; 4096];
        loop {
            let request = format!(
                "{} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n",
                line()
            );
            stream.write_all(request.as_bytes()).await?;
            self.wrote(1);
            // Answers here are short: one part is all of it.
            if timeout(PATIENCE, stream.read(&mut bytes)).await?? == 0 {
                return Ok(());
            }
        }
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((FROM, 0)))?;
        timeout(PATIENCE, socket.connect(to)).await?
    }
}
