//! A worker: one process, one thread, thousands of clients, and their publishers. It takes
//! [`Order`]s from its standard input, and ends with that.

pub(crate) mod clock;

mod amqp;
mod chat;
mod churn;
mod connecting;
mod connection;
mod duty;
mod fleet;
mod flow;
mod hearing;
mod ledger;
mod link;
mod loading;
mod posting;
mod publisher;
mod socket;
mod standing;
mod timer;

pub(crate) use publisher::{Blocking, bare_read, declare_exchange};

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, TryRecvError},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use mio::{Events, Poll, Token, Waker};

use self::{
    chat::Chatting,
    clock::MILLISECOND,
    connecting::Connecting,
    duty::Duty,
    fleet::{Fleet, Happening},
    hearing::Hearing,
    loading::Loading,
    posting::Posting,
    socket::Tls,
    standing::Standing,
    timer::Timer,
};
use crate::orders::{Habits, Order, Report};

const ORDERS: Token = Token(0);
const TIMER: Token = Token(1);
const BROADCAST: usize = 2;
const FIRST_PUBLISHER: usize = 3;
const FIRST_POSTER: usize = FIRST_PUBLISHER + flow::MAX_PUBLISHERS;
const FIRST_CLIENT: usize = FIRST_POSTER + posting::SOCKETS;

/// Between two looks at what is due, unless a load wants it more often.
const TICK: u64 = 10 * MILLISECOND;

/// Carries out orders until they end.
///
/// # Errors
/// One cannot be carried out; the coordinator has been told.
pub(crate) fn run() -> Result<()> {
    let done = Worker::new().and_then(|mut worker| worker.run());
    if let Err(error) = &done {
        report(&Report::Failed(format!("{error:#}")))?;
    }
    done
}

struct Worker {
    poll: Poll,
    timer: Timer,
    orders: mpsc::Receiver<Order>,
    fleet: Fleet,
    /// Those of the last [`Order::Connect`].
    habits: Habits,
    server: Option<SocketAddr>,
    connecting: Option<Connecting>,
    loading: Option<Loading>,
    duty: Option<Box<dyn Duty>>,
    beaten: u64,
}

impl Worker {
    fn new() -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), ORDERS)?);
        let timer = Timer::new(poll.registry(), TIMER, TICK)?;
        let posting = Posting::new(poll.registry().try_clone()?, FIRST_POSTER);
        let fleet = Fleet::new(poll.registry().try_clone()?, posting, FIRST_CLIENT);
        Ok(Self {
            poll,
            timer,
            orders: read_orders(waker),
            fleet,
            habits: Habits::default(),
            server: None,
            connecting: None,
            loading: None,
            duty: None,
            beaten: clock::now(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    ORDERS => {}
                    TIMER => self.timer.read(),
                    Token(BROADCAST..FIRST_POSTER) => {
                        if let Some(loading) = &mut self.loading {
                            loading.publisher_event(event)?;
                        }
                    }
                    Token(token @ FIRST_POSTER..FIRST_CLIENT) => {
                        self.fleet.post_ready(token - FIRST_POSTER)?;
                    }
                    _ => {
                        let (loading, duty) = (&mut self.loading, &mut self.duty);
                        self.fleet.handle(event, |slot, kind, body| {
                            if let Some(loading) = loading {
                                loading.arrived(slot, kind, body);
                            } else if let Some(duty) = duty {
                                duty.arrived(slot, body);
                            }
                        });
                    }
                }
            }
            self.happened()?;
            if !self.turn()? {
                return Ok(());
            }
        }
    }

    fn happened(&mut self) -> Result<()> {
        for (slot, kind, happening) in self.fleet.happenings() {
            if let Some(duty) = &mut self.duty {
                match happening {
                    Happening::Ready(took) => duty.ready(slot, took),
                    Happening::Ended(why) => duty.ended(slot, &why),
                    Happening::Subscribed => {}
                }
                continue;
            }
            match (&mut self.connecting, &mut self.loading, happening) {
                (Some(connecting), _, Happening::Ready(took)) => connecting.ready(slot, took),
                (Some(connecting), None, Happening::Ended(why)) if connecting.tries_again() => {
                    connecting.ended(slot, why)?;
                }
                (None, Some(loading), Happening::Ready(took)) => loading.ready(slot, took),
                (_, Some(loading), Happening::Subscribed) => loading.subscribed(slot),
                (_, Some(loading), Happening::Ended(why)) => {
                    let reads = self.fleet.reads(slot, self.habits);
                    loading.ended(slot, kind, reads, &why);
                }
                (_, None, Happening::Ended(why)) => {
                    return Err(anyhow!("client {}: {why}", self.fleet.user(slot)));
                }
                (_, _, Happening::Ready(_) | Happening::Subscribed) => {}
            }
        }
        Ok(())
    }

    /// Does the work that is due. Returns false at the end of the orders.
    fn turn(&mut self) -> Result<bool> {
        let now = clock::now();
        if now - self.beaten >= TICK {
            let elapsed = now - self.beaten;
            self.fleet.beat(elapsed, self.habits.heart_beat_ms);
            self.beaten = now;
        }
        if let Some(connecting) = &mut self.connecting
            && connecting.turn(now, &mut self.fleet)?
        {
            self.connecting = None;
        }
        if let Some(loading) = &mut self.loading {
            match self.orders.try_recv() {
                Ok(Order::Enough) => loading.enough(now),
                Ok(order) => bail!("an order came too early: {order:?}"),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        if let Some(loading) = &mut self.loading
            && loading.turn(now, &mut self.fleet)?
        {
            self.loading = None;
            self.timer.set(TICK)?;
        }
        if let Some(duty) = &mut self.duty {
            match self.orders.try_recv() {
                Ok(Order::Enough) => duty.enough(),
                Ok(order) => bail!("an order came too early: {order:?}"),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
            if duty.turn(now, &mut self.fleet)? {
                self.duty = None;
            }
            return Ok(true);
        }
        if self.connecting.is_none() && self.loading.is_none() {
            return self.next_order();
        }
        Ok(true)
    }

    fn next_order(&mut self) -> Result<bool> {
        match self.orders.try_recv() {
            Ok(Order::Connect(connect)) => {
                self.habits = connect.habits;
                self.server = Some(connect.server);
                let tls = connect.authority.as_deref().map(Tls::trusting);
                self.fleet.speak(tls.transpose()?);
                let mut connecting = Connecting::new(connect)?;
                connecting.turn(clock::now(), &mut self.fleet)?;
                self.connecting = Some(connecting);
            }
            Ok(Order::Load(load, publish)) => {
                let server = self.server.context("there are no clients to load")?;
                let registry = self.poll.registry();
                let (fleet, habits) = (&mut self.fleet, self.habits);
                let loading = Loading::new(load, publish, registry, fleet, habits, server)?;
                self.timer.set(loading.tick())?;
                self.loading = Some(loading);
            }
            Ok(Order::Hear(run)) => {
                self.duty = Some(Box::new(Hearing::new(run, &self.fleet)?));
                report(&Report::Hearing)?;
            }
            Ok(Order::Stand(stand)) => {
                self.duty = Some(Box::new(Standing::new(
                    stand,
                    self.habits,
                    self.fleet.missing(),
                )?));
            }
            Ok(Order::Chat(chat)) => {
                self.duty = Some(Box::new(Chatting::new(chat, &self.fleet)?));
            }
            // The load had ended by itself.
            Ok(Order::Enough) | Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }
}

/// Reads orders on a thread of its own, for standard input cannot always be polled.
fn read_orders(waker: Arc<Waker>) -> mpsc::Receiver<Order> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(order) => {
                    // Only an end of the worker stops it from taking orders, or being woken.
                    let _ = sender.send(order);
                    let _ = waker.wake();
                }
                Err(error) => {
                    eprintln!("stentor-bench worker: no order: {line}: {error}");
                    break;
                }
            }
        }
        drop(sender);
        let _ = waker.wake();
    });
    orders
}

/// Tells the coordinator.
fn report(report: &Report) -> Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush().context("the coordinator is gone")
}
