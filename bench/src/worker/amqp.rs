//! A publisher's side of AMQP 0-9-1. A general client spends several times as much on a message.

use std::{
    io::{self, Read, Write as _},
    net::TcpStream,
};

use amqp_wire::{
    Body, Decoder, Event, Limits, Method, PROTOCOL_HEADER,
    encode::{self, Fields, Short},
};
use anyhow::{Context as _, Result, bail, ensure};

use super::clock;
use crate::wire::dialect::{EXCHANGE, VHOST};

/// The only channel.
const CHANNEL: u16 = 1;

/// A connection that has logged in.
pub(super) struct Amqp {
    decoder: Decoder,
    frame_max: u32,
}

impl Amqp {
    /// Logs in as the account that RabbitMQ makes at its first start, and declares the exchange.
    pub(super) fn log_in(stream: &mut TcpStream) -> Result<Self> {
        let limits = |channel_max, frame_max| Limits {
            frame_max,
            channel_max,
            max_body: 0,
        };
        let mut amqp = Self {
            decoder: Decoder::new(limits(0, 64 * 1024)),
            frame_max: 0,
        };
        let short = Short::cut;
        // The broker tells alarms to clients that understand them; others are just not read.
        let able = Fields::default().switch(short("connection.blocked"), true);
        let about_us = Fields::default().table(short("capabilities"), &able);
        amqp.ask(stream, &PROTOCOL_HEADER, |method| {
            matches!(method, Method::Start { .. }).then_some(())
        })?;
        let mut out = Vec::new();
        encode::start_ok(&mut out, &about_us, Short::cut("PLAIN"), b"\0guest\0guest");
        let (channel_max, frame_max) = amqp.ask(stream, &out, |method| match method {
            Method::Tune {
                channel_max,
                frame_max,
                ..
            } => Some((channel_max, frame_max)),
            _ => None,
        })?;
        amqp.frame_max = frame_max;
        amqp.decoder.limit(limits(CHANNEL, frame_max));
        out.clear();
        encode::tune_ok(&mut out, channel_max, frame_max, 0);
        encode::open(&mut out, short(VHOST));
        amqp.ask(stream, &out, |method| {
            (method == Method::OpenOk).then_some(())
        })?;
        out.clear();
        encode::channel_open(&mut out, CHANNEL);
        encode::declare_exchange(&mut out, CHANNEL, short(EXCHANGE), short("direct"));
        amqp.ask(stream, &out, |method| {
            (method == Method::ChannelOpenOk).then_some(())
        })?;
        amqp.ask(stream, &[], |method| {
            (method == Method::DeclareOk).then_some(())
        })?;
        Ok(amqp)
    }

    /// Appends a message.
    pub(super) fn publish(&self, key: &str, body: &[u8], out: &mut Vec<u8>) {
        let [exchange, key] = [EXCHANGE, key].map(Short::cut);
        encode::publish(out, CHANNEL, exchange, key, body, self.frame_max);
    }

    /// Fills a queue of its own with so many messages, reads them as plainly as can be, and answers
    /// the processor time of this thread for each, in microseconds. Then the connection is of no use
    /// for anything else.
    pub(super) fn bare_read(
        &mut self,
        stream: &mut TcpStream,
        messages: u64,
        size: usize,
    ) -> Result<f64> {
        const QUEUE: &str = "stentor-bench.bare";
        let queue = Short::cut(QUEUE);
        let (body, mut out) = (vec![b'x'; size], Vec::new());
        declare_queue(&mut out, QUEUE);
        for number in 1..=messages {
            let default = Short::cut("");
            encode::publish(&mut out, CHANNEL, default, queue, &body, self.frame_max);
            if number % 100 == 0 || number == messages {
                stream.write_all(&out)?;
                out.clear();
            }
        }
        self.decoder.limit(Limits {
            frame_max: self.frame_max,
            channel_max: CHANNEL,
            max_body: size as u64,
        });
        let cpu = clock::thread_cpu();
        // As the gateway by default; what was published is in the queue before it is consumed.
        encode::qos(&mut out, CHANNEL, 1000);
        encode::consume(&mut out, CHANNEL, queue, true, &Fields::default());
        let (mut came, mut bytes) = (0, 0);
        while came < messages {
            if !out.is_empty() {
                stream.write_all(&out)?;
                out.clear();
            }
            ensure!(self.read(stream)?, "RabbitMQ does not deliver");
            let mut last = None;
            while let Some(event) = self.decoder.poll()? {
                match event {
                    Event::Delivery { delivery, .. } => {
                        came += 1;
                        if let Body::Whole(body) = &delivery.body {
                            bytes += body.len();
                        }
                        last = Some(delivery.tag);
                    }
                    Event::Method {
                        method: Method::Close { text, .. } | Method::ChannelClose { text, .. },
                        ..
                    } => bail!("RabbitMQ closes: {}", String::from_utf8_lossy(text)),
                    Event::Method { .. } | Event::Heartbeat => {}
                }
            }
            if let Some(tag) = last {
                encode::ack(&mut out, CHANNEL, tag, true);
            }
        }
        let cpu = clock::thread_cpu() - cpu;
        ensure!(
            bytes as u64 == messages * size as u64,
            "bodies are not whole"
        );
        Ok(cpu as f64 / 1e3 / messages as f64)
    }

    /// Writes `request`, and waits for the method of which `pick` makes something.
    fn ask<T>(
        &mut self,
        stream: &mut TcpStream,
        request: &[u8],
        pick: impl Fn(Method<'_>) -> Option<T>,
    ) -> Result<T> {
        stream.write_all(request)?;
        loop {
            if let Some(method) = self.next()? {
                let said = format!("RabbitMQ says {method:?}");
                return pick(method).context(said);
            }
            ensure!(self.read(stream)?, "RabbitMQ does not answer");
        }
    }

    /// Returns true if there was anything to read.
    pub(super) fn read(&mut self, socket: &mut impl Read) -> Result<bool> {
        let count = read_some(socket, self.decoder.space())?;
        self.decoder.filled(count.unwrap_or_default());
        Ok(count.is_some())
    }

    /// The next method that came.
    ///
    /// # Errors
    /// It ends the connection, or keeps it from publishing.
    pub(super) fn next(&mut self) -> Result<Option<Method<'_>>> {
        match self.decoder.poll()? {
            None => Ok(None),
            Some(Event::Method {
                method: Method::Close { text, .. } | Method::ChannelClose { text, .. },
                ..
            }) => {
                let reason = String::from_utf8_lossy(text);
                bail!("RabbitMQ closes the publisher: {reason}");
            }
            Some(Event::Method {
                method: Method::Blocked,
                ..
            }) => bail!("RabbitMQ is short of memory or disk, and blocks publishers"),
            Some(Event::Method { method, .. }) => Ok(Some(method)),
            // No heart-beats were agreed on, and nothing is consumed.
            Some(other) => bail!("RabbitMQ sends {other:?}"),
        }
    }
}

/// `queue.declare` of an exclusive queue, without an answer. Nobody else here needs it, so it is not
/// among the codec's methods.
fn declare_queue(out: &mut Vec<u8>, queue: &str) {
    const METHOD: u8 = 1;
    const EXCLUSIVE: u8 = 0b100;
    const NO_WAIT: u8 = 0b1_0000;
    const END: u8 = 0xce;
    let mut payload = vec![0, 50, 0, 10, 0, 0, queue.len() as u8];
    payload.extend_from_slice(queue.as_bytes());
    payload.extend_from_slice(&[EXCLUSIVE | NO_WAIT, 0, 0, 0, 0]);
    out.push(METHOD);
    out.extend_from_slice(&CHANNEL.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&payload);
    out.push(END);
}

/// The number of bytes read; `None` if there are none, or none in time.
pub(super) fn read_some(socket: &mut impl Read, buffer: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match socket.read(buffer) {
            Ok(0) => bail!("the publisher's connection was closed by the server"),
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("the publisher reads"),
        }
    }
}
