//! Another user, who comes again and again, and does one of everything: each operation has to
//! succeed during any attack.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::{runtime, sync::Notify, time::sleep};

use super::client::Client;
use crate::wire::{dialect::destination, stomp};

const USER: &str = "visitor";

/// Between two visits.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the port for health may take.
const HEALTH: Duration = Duration::from_secs(5);

/// Failures that are told.
const MAX_TOLD: usize = 5;

/// How the visits went.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Visits {
    /// Visits in which all was right.
    pub(super) right: u64,
    pub(super) failed: u64,
    /// The first failures.
    pub(super) failures: Vec<String>,
    /// The longest visit, in milliseconds.
    pub(super) longest_ms: f64,
}

/// Its destinations, and the extent of a visit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// STOMP over TCP.
    pub(super) stomp: SocketAddr,
    /// The port for health.
    pub(super) admin: SocketAddr,
    /// Nobody can publish; it only comes and subscribes.
    pub(super) only_listens: bool,
}

/// A visitor, on a thread of its own, until it is dropped.
pub(super) struct Visitor {
    visits: Arc<Mutex<Visits>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Visitor {
    /// Begins to come.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(route: Route) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the visitor's runtime")?;
        let visits = Arc::new(Mutex::new(Visits::default()));
        let stop = Arc::new(Notify::new());
        let (its_visits, its_stop) = (Arc::clone(&visits), Arc::clone(&stop));
        let come = async move {
            loop {
                let began = Instant::now();
                let done = visit(route).await;
                lock(&its_visits).count(done, began.elapsed());
                sleep(PAUSE).await;
            }
        };
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = its_stop.notified() => {}
                    () = come => {}
                }
            });
        });
        Ok(Self {
            visits,
            stop,
            thread: Some(thread),
        })
    }

    /// The visits since the last call.
    pub(super) fn take(&self) -> Visits {
        std::mem::take(&mut *lock(&self.visits))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
    }
}

impl Visits {
    fn count(&mut self, done: Result<(), String>, took: Duration) {
        match done {
            Ok(()) => self.right += 1,
            Err(why) => {
                self.failed += 1;
                if self.failures.len() < MAX_TOLD {
                    self.failures.push(why);
                }
            }
        }
        self.longest_ms = self.longest_ms.max(1e3 * took.as_secs_f64());
    }
}

fn lock(visits: &Mutex<Visits>) -> MutexGuard<'_, Visits> {
    visits.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of everything.
async fn visit(route: Route) -> Result<(), String> {
    if !route.only_listens {
        ready(route.admin)?;
    }
    let feed = destination("visitor");
    let (feed, queue) = (("destination", &*feed), ("destination", "/queue/visitor"));
    let acknowledged = ("ack", "client-individual");
    let mut visit = Visit::begin(route.stomp).await?;
    visit.ask("SUBSCRIBE", &[feed, ("id", "feed")]).await?;
    if !route.only_listens {
        visit
            .ask("SUBSCRIBE", &[feed, ("id", "own"), acknowledged])
            .await?;
        visit
            .ask("SUBSCRIBE", &[queue, ("id", "queue"), acknowledged])
            .await?;
        visit.ask("SEND", &[feed]).await?;
        visit.is_told("feed").await?;
        visit.is_told("own").await?;
        visit.ask("SEND", &[queue]).await?;
        visit.is_told("queue").await?;
        let transaction = ("transaction", "t");
        visit.ask("BEGIN", &[transaction]).await?;
        visit.say("SEND", &[feed, transaction]).await?;
        visit.ask("COMMIT", &[transaction]).await?;
        visit.is_told("feed").await?;
        visit.ask("UNSUBSCRIBE", &[("id", "own")]).await?;
    }
    visit.ask("DISCONNECT", &[]).await
}

/// One that is under way.
struct Visit(Client);

impl Visit {
    async fn begin(address: SocketAddr) -> Result<Self, String> {
        let client = Client::log_in(address, USER).await;
        client.map(Self).map_err(|why| format!("it logs in: {why}"))
    }

    /// With a receipt.
    async fn ask(&mut self, command: &str, headers: &[(&str, &str)]) -> Result<(), String> {
        let asked = self.0.request(command, headers, b"").await;
        asked.map_err(|why| about(command, headers, &why))
    }

    /// Without.
    async fn say(&mut self, command: &str, headers: &[(&str, &str)]) -> Result<(), String> {
        let said = self.0.write(&stomp::frame(command, headers, b"")).await;
        said.map_err(|why| about(command, headers, &why))
    }

    /// A message comes, and is acknowledged if that is wanted.
    async fn is_told(&mut self, subscription: &str) -> Result<(), String> {
        let message = self
            .0
            .message(subscription)
            .await
            .map_err(|why| format!("MESSAGE of '{subscription}': {why}"))?;
        match message.ack.as_str() {
            "" => Ok(()),
            id => self.ask("ACK", &[("id", id)]).await,
        }
    }
}

fn about(command: &str, headers: &[(&str, &str)], why: &str) -> String {
    let destination = headers.iter().find(|(name, _)| *name == "destination");
    match destination {
        Some((_, destination)) => format!("{command} {destination}: {why}"),
        None => format!("{command}: {why}"),
    }
}

/// `Ok` if `/readyz` answers 200: no client may cause another status.
fn ready(admin: SocketAddr) -> Result<(), String> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, HEALTH)?;
        stream.set_read_timeout(Some(HEALTH))?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match asked() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(answer) => {
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            Err(format!("/readyz: {}", body.trim()))
        }
        Err(error) => Err(format!("/readyz: {error}")),
    }
}
