//! A proxy that keeps a gateway's acknowledgements from its broker.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinHandle,
};

use crate::meddler::{acknowledged, take_frame, take_greeting};

/// Stands between a gateway and a broker, and hands everything on, save acknowledgements while they
/// are to wait. Dropped, it takes no new connections.
#[derive(Debug)]
pub struct Withholder {
    address: SocketAddr,
    /// The last tag, on any channel, that passes.
    limit: watch::Sender<u64>,
    /// The tag of the newest acknowledgement.
    newest: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Withholder {
    /// Starts to forward to `server` (`host:port`).
    ///
    /// # Panics
    /// No port is free.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (limit, watched) = watch::channel(u64::MAX);
        let (server, newest) = (server.to_owned(), Arc::<AtomicU64>::default());
        let seen = Arc::clone(&newest);
        let serve = async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, watched, seen) = (server.clone(), watched.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    // Either side's end is the other's, too.
                    let _ = join(client, &server, watched, &seen).await;
                });
            }
        };
        Self {
            address,
            limit,
            newest,
            task: tokio::spawn(serve),
        }
    }

    /// Its address, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, acknowledgements wait; the tag of the newest that has come.
    pub fn hold(&self) -> u64 {
        let newest = self.newest.load(Ordering::SeqCst);
        self.hold_at(newest);
        newest
    }

    /// From now on, acknowledgements beyond this tag wait.
    pub fn hold_at(&self, tag: u64) {
        self.limit.send_replace(tag);
    }

    /// All acknowledgements pass.
    pub fn forward(&self) {
        self.hold_at(u64::MAX);
    }
}

impl Drop for Withholder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(
    client: TcpStream,
    server: &str,
    limit: watch::Receiver<u64>,
    newest: &AtomicU64,
) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    tokio::select! {
        withheld = withhold(from_client, to_server, limit, newest) => withheld,
        copied = tokio::io::copy(&mut from_server, &mut to_client) => copied.map(drop),
    }
}

async fn withhold(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut limit: watch::Receiver<u64>,
    newest: &AtomicU64,
) -> io::Result<()> {
    let (mut input, mut withheld) = (Vec::new(), Vec::new());
    let mut is_greeted = false;
    loop {
        let mut out = Vec::new();
        is_greeted |= take_greeting(&mut input, &mut out, is_greeted);
        while let Some(frame) = is_greeted.then(|| take_frame(&mut input)).flatten() {
            match acknowledged(&frame) {
                Some((_, tag, _)) => {
                    newest.store(tag, Ordering::SeqCst);
                    withheld.push((tag, frame));
                }
                None => out.extend(frame),
            }
        }
        let last = *limit.borrow_and_update();
        for (_, frame) in withheld.extract_if(.., |(tag, _)| *tag <= last) {
            out.extend(frame);
        }
        to.write_all(&out).await?;
        tokio::select! {
            read = from.read_buf(&mut input) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            Ok(()) = limit.changed() => {}
        }
    }
}
