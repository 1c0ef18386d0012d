//! A TCP proxy that misbehaves on demand.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

use crate::free_ports;

/// Stands between a client and a server, and forwards until told otherwise. Its address stays
/// the same over all faults. Dropped, it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Orders {
    refuse: bool,
    freeze: bool,
    /// Connections of earlier generations are cut.
    generation: u64,
    pieces: Option<(usize, Duration)>,
    lag: Option<(Vec<u8>, Duration)>,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    accepted: AtomicUsize,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Proxy {
    /// Starts to forward to `server` (`host:port`).
    ///
    /// # Panics
    /// No port is free.
    pub async fn start(server: &str) -> Self {
        let listener = loop {
            let [port] = free_ports();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break listener;
            }
        };
        let address = listener.local_addr().expect("it is bound");
        let (orders, watched) = watch::channel(Orders::default());
        let counts = Arc::new(Counts::default());
        let serve = serve(
            listener,
            address,
            server.to_owned(),
            watched,
            Arc::clone(&counts),
        );
        Self {
            address,
            orders,
            counts,
            task: tokio::spawn(serve),
        }
    }

    /// Its address, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Back to faultless: accepts, reads on, whole pieces.
    pub fn forward(&self) {
        self.orders.send_modify(|orders| {
            orders.refuse = false;
            orders.freeze = false;
            orders.pieces = None;
            orders.lag = None;
        });
    }

    /// Cuts every connection; new ones are welcome.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.generation += 1);
    }

    /// Cuts every connection, and refuses new ones until [`Self::forward`].
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| {
            orders.refuse = true;
            orders.generation += 1;
        });
    }

    /// Reads no more from either side, so that both feel back-pressure, until [`Self::forward`].
    /// New connections are accepted, and as silent.
    pub fn freeze(&self) {
        self.orders.send_modify(|orders| orders.freeze = true);
    }

    /// Forwards at most `bytes` at once, and pauses after each piece.
    pub fn fragment(&self, bytes: usize, pause: Duration) {
        self.orders
            .send_modify(|orders| orders.pieces = Some((bytes.max(1), pause)));
    }

    /// Whenever a client has sent these bytes, the server's next ones come so much later, on that
    /// connection.
    pub fn lag_after(&self, bytes: &[u8], lag: Duration) {
        self.orders
            .send_modify(|orders| orders.lag = Some((bytes.to_vec(), lag)));
    }

    /// Connections now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Connections since the start.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Bytes forwarded to the server since the start.
    #[must_use]
    pub fn bytes_to_server(&self) -> u64 {
        self.counts.to_server.load(Ordering::Relaxed)
    }

    /// Bytes forwarded to clients since the start.
    #[must_use]
    pub fn bytes_to_client(&self) -> u64 {
        self.counts.to_client.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    server: String,
    mut orders: watch::Receiver<Orders>,
    counts: Arc<Counts>,
) {
    let mut listener = Some(listener);
    loop {
        if orders.borrow_and_update().refuse {
            listener = None;
        } else if listener.is_none() {
            // The port lies outside of the range that others are given.
            listener = Some(
                TcpListener::bind(address)
                    .await
                    .expect("the port is still ours"),
            );
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            accepted = accepted => {
                if let Ok((client, _)) = accepted {
                    let (server, orders, counts) =
                        (server.clone(), orders.clone(), Arc::clone(&counts));
                    tokio::spawn(async move {
                        counts.accepted.fetch_add(1, Ordering::Relaxed);
                        counts.open.fetch_add(1, Ordering::Relaxed);
                        join(client, &server, orders, &counts).await;
                        counts.open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        }
    }
}

/// One connection, until either side ends it or it is cut.
async fn join(
    client: TcpStream,
    server: &str,
    mut orders: watch::Receiver<Orders>,
    counts: &Counts,
) {
    let born = orders.borrow().generation;
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let lags = AtomicBool::new(false);
    let (up, down) = (Direction::Up(&lags), Direction::Down(&lags));
    let up = pump(
        from_client,
        to_server,
        orders.clone(),
        up,
        &counts.to_server,
    );
    let down = pump(
        from_server,
        to_client,
        orders.clone(),
        down,
        &counts.to_client,
    );
    let cut = orders.wait_for(|orders| orders.generation != born);
    tokio::select! {
        _ = cut => {}
        // Each direction may end on its own, as TCP allows.
        _ = async { tokio::join!(up, down) } => {}
    }
}

/// One direction of a connection, and whether what the server says next is to lag.
#[derive(Clone, Copy)]
enum Direction<'a> {
    Up(&'a AtomicBool),
    Down(&'a AtomicBool),
}

impl Direction<'_> {
    /// Lets these bytes pass, as late as they are to be.
    async fn pass(self, bytes: &[u8], lag: Option<(Vec<u8>, Duration)>) {
        let Some((trigger, lag)) = lag else {
            return;
        };
        match self {
            Self::Up(lags) => {
                if bytes.windows(trigger.len()).any(|part| part == trigger) {
                    lags.store(true, Ordering::Relaxed);
                }
            }
            Self::Down(lags) => {
                if lags.swap(false, Ordering::Relaxed) {
                    sleep(lag).await;
                }
            }
        }
    }
}

async fn pump(
    from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut orders: watch::Receiver<Orders>,
    direction: Direction<'_>,
    count: &AtomicU64,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let pieces = match orders.wait_for(|orders| !orders.freeze).await {
            Ok(now) => now.pieces,
            Err(_) => return,
        };
        tokio::select! {
            biased;
            changed = orders.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            readable = from.readable() => if readable.is_err() {
                return;
            }
        }
        let (most, pause) = pieces.unwrap_or((buffer.len(), Duration::ZERO));
        let most = most.min(buffer.len());
        let length = match from.try_read(&mut buffer[..most]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Ok(0) | Err(_) => {
                let _ = to.shutdown().await;
                return;
            }
            Ok(length) => length,
        };
        let lag = orders.borrow().lag.clone();
        direction.pass(&buffer[..length], lag).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}
