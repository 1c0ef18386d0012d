//! Private Redis servers.

use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OnceCell,
};

use crate::{DEADLINE, Process, eventually, free_ports, keeper};

/// A private Redis server that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    folder: TempDir,
    server: Mutex<Option<Process>>,
}

impl Redis {
    /// The server that all tests of this process share. Tests use keys of their own
    /// ([`crate::unique`]).
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Redis>> = OnceCell::const_new();
        let server = SHARED.get_or_init(async || Arc::new(Self::own().await));
        Arc::clone(server.await)
    }

    /// A server of the test's own.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn own() -> Self {
        let folder = TempDir::with_prefix("testkit-redis-").expect("a temporary folder");
        keeper::remove(folder.path());
        let mut redis = Self {
            port: 0,
            folder,
            server: Mutex::default(),
        };
        for _ in 0..5 {
            [redis.port] = free_ports();
            if redis.try_start().await {
                return redis;
            }
        }
        panic!("redis-server found no free port in five attempts")
    }

    /// `redis://127.0.0.1:PORT/`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    /// `127.0.0.1:PORT`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the server. Its data is lost.
    pub fn kill(&self) {
        self.lock().take();
    }

    /// Starts the server again, after [`Self::kill`], at the same address.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(&self) {
        assert!(self.try_start().await, "redis-server does not start again");
    }

    /// Sends one command and answers the first line of its reply, for the eyes of tests:
    /// `command(&["GET", "key"])`.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn command(&self, words: &[&str]) -> String {
        self.ask(words).await.expect("redis-server answers")
    }

    async fn ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).await.ok()?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut reply = vec![0; 64 * 1024];
        let length = stream.read(&mut reply).await.ok()?;
        let reply = String::from_utf8_lossy(reply.get(..length)?).into_owned();
        Some(reply.trim_end().to_owned()).filter(|text| !text.is_empty())
    }

    /// True if the server came up; it does not if another program took its port.
    async fn try_start(&self) -> bool {
        let mut command = Command::new("redis-server");
        command
            .current_dir(self.folder.path())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        let server = match Process::start("redis-server", &mut command, Stdio::null()) {
            Ok(server) => server,
            Err(error) => panic!(
                "redis-server cannot be started ({error}): run ./scripts/test.sh, which installs it"
            ),
        };
        let up = eventually(DEADLINE, "redis-server answers or ends", async || {
            if server.exit_status().is_some() {
                return Some(false);
            }
            let pong = self.ask(&["PING"]).await?;
            // A stranger on the same port would answer too.
            (pong == "+PONG" && server.stdout().text().contains("Ready to accept")).then_some(true)
        })
        .await;
        if up {
            *self.lock() = Some(server);
        }
        up
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
