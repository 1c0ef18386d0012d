//! The task of a connection: it writes what is to be said, reads what came, hands it over, and
//! acknowledges it.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use amqp_wire::{
    Decoder, Event, Malformed, Method,
    encode::{self, Short},
};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval, sleep, timeout},
};

use super::{
    Command, DeliveryTaker, GOODBYE,
    connect::Stream,
    consumers::{Consumers, OK},
    handshake::Connected,
};
use crate::{
    broker::{
        BrokerError, Cause,
        amqp::{convert::reply_error, link::RENEWED},
    },
    deadline::after,
    telemetry::ReadAt,
};

/// A connection that is logged in.
pub(super) struct Connection<T> {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    commands: mpsc::UnboundedReceiver<Command<T>>,
    consumers: Consumers<T>,
    out: Out,
    heart: Heart,
    acks: Acks,
    /// Those who wait for the broker to take a new token, the first one first.
    renewing: VecDeque<oneshot::Sender<()>>,
}

/// Why a connection ended.
pub(super) enum End {
    /// [`super::Reader::close`] was called.
    Wanted,
    /// It was lost, or given up.
    Lost(BrokerError),
}

/// The bytes that wait to be written.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    /// How much of it was written.
    written: usize,
}

/// Signs of life in both directions.
struct Heart {
    ticks: Interval,
    /// After such a silence, the other side is dead.
    patience: Duration,
    last_read: Instant,
    /// True if anything but a heart-beat was written since the last tick.
    has_spoken: bool,
}

/// When to acknowledge what does not have to be acknowledged at once.
struct Acks {
    at: Pin<Box<Sleep>>,
    is_waiting: bool,
}

/// The time that an acknowledgement waits for others. After a lost link its messages come again,
/// and are recognised. At low rates each acknowledgement costs a timer, a wake-up and a write; at
/// high ones it is due before: a part of the prefetch is enough.
const ACK_DELAY: Duration = Duration::from_millis(50);

/// With so much to be written, nothing is read: the broker does not take what is said.
const MAX_OUT: usize = 64 << 10;

/// After so many bytes at a time it is the turn of others: of the clients whose mailboxes were
/// just filled.
const TURN: usize = 16 << 10;

/// The code for bytes that are not AMQP, or too many.
const SYNTAX_ERROR: u16 = 502;

impl<T: DeliveryTaker> Connection<T> {
    pub(super) fn new(connected: Connected, commands: mpsc::UnboundedReceiver<Command<T>>) -> Self {
        let Connected {
            stream,
            decoder,
            channel_max,
            heartbeat,
            product: _,
        } = connected;
        Self {
            stream,
            decoder,
            commands,
            consumers: Consumers::new(channel_max),
            out: Out::default(),
            heart: Heart::new(heartbeat),
            acks: Acks {
                at: Box::pin(sleep(ACK_DELAY)),
                is_waiting: false,
            },
            renewing: VecDeque::new(),
        }
    }

    /// Runs until the end of the connection, and gives all takers back.
    pub(super) async fn run(mut self) -> End {
        let end = loop {
            match poll_fn(|context| self.poll_turn(context)).await {
                Ok(count) => {
                    if let Err(end) = self.handle_input() {
                        break end;
                    }
                    if count >= TURN {
                        tokio::task::yield_now().await;
                    }
                }
                Err(end) => break end,
            }
        };
        let reason = match &end {
            End::Wanted => BrokerError::Unavailable("the connection was closed".into()),
            End::Lost(reason) => reason.clone(),
        };
        self.consumers.end(&reason);
        // If this fails, the broker still sees the socket close.
        let _ = timeout(GOODBYE, self.say_goodbye()).await;
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            if let Command::Consume(request) = command {
                request.give_back(reason.clone());
            }
        }
        end
    }

    /// Does what was asked, writes, and reads; ready when something was read.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, End>> {
        while let Poll::Ready(command) = self.commands.poll_recv(context) {
            match command {
                Some(Command::Consume(request)) => {
                    self.consumers.start(request, &mut self.out.bytes);
                }
                Some(Command::Ask(answered)) => {
                    self.consumers.ask(answered, &mut self.out.bytes);
                }
                Some(Command::Renew(token, renewed)) => {
                    let secret = token.reveal().as_bytes();
                    encode::update_secret(&mut self.out.bytes, secret, Short::cut(RENEWED));
                    self.renewing.push_back(renewed);
                }
                Some(Command::Cancel(id)) => self.consumers.cancel(id, &mut self.out.bytes),
                // Without anybody who could ask for something, it is as good as closed.
                Some(Command::Close) | None => {
                    self.acknowledge();
                    encode::close(&mut self.out.bytes, OK, Short::cut("bye"));
                    return Poll::Ready(Err(End::Wanted));
                }
                Some(Command::Leave(reason)) => {
                    self.acknowledge();
                    encode::close(&mut self.out.bytes, OK, Short::cut("bye"));
                    return Poll::Ready(Err(End::Lost(reason)));
                }
            }
        }
        if self.acks.is_waiting && self.acks.at.as_mut().poll(context).is_ready() {
            self.acknowledge();
        }
        self.heart.has_spoken |= !self.out.bytes.is_empty();
        self.heart.poll_beat(context, &mut self.out.bytes);
        if !self.out.bytes.is_empty()
            && let Poll::Ready(Err(error)) = self.out.poll_write(&mut self.stream, context)
        {
            return Poll::Ready(Err(lost(&error)));
        }
        let mut space = ReadBuf::new(self.decoder.space());
        let reading = if self.out.left().len() > MAX_OUT {
            Poll::Pending
        } else {
            Pin::new(&mut self.stream).poll_read(context, &mut space)
        };
        match reading {
            // Only now is a silence one: if it was this side that slept, there is something to
            // be read.
            Poll::Pending if self.heart.is_missed() => {
                return Poll::Ready(Err(lost(&"the broker's heart-beat was missed")));
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(lost(&error))),
            Poll::Ready(Ok(())) => {}
        }
        let count = space.filled().len();
        if count == 0 {
            let text = "the broker closed the connection without a word";
            return Poll::Ready(Err(lost(&text)));
        }
        self.decoder.filled(count);
        self.heart.last_read = Instant::now();
        Poll::Ready(Ok(count))
    }

    /// Hands over all that is there, and sees to it that it is acknowledged.
    fn handle_input(&mut self) -> Result<(), End> {
        match self.handle_events() {
            Ok(None) => {
                let (has_unacked, is_due) = self.consumers.unacked();
                if is_due {
                    self.acknowledge();
                } else if has_unacked && !self.acks.is_waiting {
                    self.acks.at.as_mut().reset(after(ACK_DELAY));
                    self.acks.is_waiting = true;
                }
                Ok(())
            }
            Ok(Some(reason)) => {
                // The broker reads nothing after this. Unsent acknowledgements surely did not
                // arrive; sent ones may have arrived.
                encode::close_ok(&mut self.out.bytes);
                Err(End::Lost(reason))
            }
            Err(malformed) => {
                self.acknowledge();
                let text = malformed.to_string();
                encode::close(&mut self.out.bytes, SYNTAX_ERROR, Short::cut(&text));
                Err(lost(&text))
            }
        }
    }

    fn acknowledge(&mut self) {
        self.acks.is_waiting = false;
        self.consumers.acknowledge(&mut self.out.bytes);
    }

    /// Why the broker ends the connection, if it does.
    fn handle_events(&mut self) -> Result<Option<BrokerError>, Malformed> {
        let read_at = ReadAt::at(self.heart.last_read.into_std());
        while let Some(event) = self.decoder.poll()? {
            match event {
                Event::Heartbeat => {}
                Event::Delivery { channel, delivery } => {
                    self.consumers.deliver(channel, delivery, read_at)?;
                }
                Event::Method {
                    channel: 0,
                    method: Method::Close { code, text },
                } => return Ok(Some(reply_error(code, &String::from_utf8_lossy(text)))),
                Event::Method {
                    channel: 0,
                    method: Method::UpdateSecretOk,
                } if !self.renewing.is_empty() => {
                    if let Some(renewed) = self.renewing.pop_front() {
                        // Nobody may wait for it any more.
                        let _ = renewed.send(());
                    }
                }
                Event::Method { channel, method } => {
                    self.consumers
                        .handle(channel, method, &mut self.out.bytes)?;
                }
            }
        }
        Ok(None)
    }

    /// Writes what is left, and waits until the broker has closed its side.
    async fn say_goodbye(&mut self) -> io::Result<()> {
        self.stream.write_all(self.out.left()).await?;
        self.stream.shutdown().await?;
        let mut rest = [0; 1024];
        while self.stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

impl Out {
    fn left(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Writes and flushes all; then it is empty.
    fn poll_write(
        &mut self,
        stream: &mut Box<dyn Stream>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.left().is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(context, self.left()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written = self.written.saturating_add(count);
        }
        ready!(Pin::new(stream).poll_flush(context))?;
        self.bytes.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl Heart {
    fn new(heartbeat: Duration) -> Self {
        let half = heartbeat.checked_div(2).unwrap_or(heartbeat);
        let mut ticks = interval(half.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            patience: heartbeat.saturating_mul(2),
            last_read: Instant::now(),
            has_spoken: true,
        }
    }

    /// Sees to it that this side is heard of in time.
    fn poll_beat(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) {
        while self.ticks.poll_tick(context).is_ready() {
            if !std::mem::take(&mut self.has_spoken) && out.is_empty() {
                encode::heartbeat(out);
            }
        }
    }

    /// True if the other side has been silent for too long.
    fn is_missed(&self) -> bool {
        self.last_read.elapsed() > self.patience
    }
}

fn lost(error: &dyn ToString) -> End {
    End::Lost(BrokerError::Unavailable(Cause::abrupt(error.to_string())))
}
