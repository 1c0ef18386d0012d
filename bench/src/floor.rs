//! The floor that no server can undercut: one write(2) to each of many loopback connections in
//! turn, with a reader at their other ends.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mio::{Events, Interest, Poll, Token};

use crate::{limits, worker::clock};

const MEASURE: Duration = Duration::from_secs(3);

/// Bare writes.
pub(crate) struct Floor {
    pub(crate) per_second: f64,
    /// Processor time of the writer for each, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Writes `size` bytes to each of so many connections in turn, `rounds` of all ahead of their
/// readers; `None` if both ends of all are too many files for one process.
///
/// # Errors
/// The system refuses sockets.
pub(crate) fn measure(connections: u32, size: usize, rounds: u64) -> Result<Option<Floor>> {
    if 2 * connections + 100 > limits::files() {
        return Ok(None);
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..connections {
        let reader = TcpStream::connect(address)?;
        reader.set_nonblocking(true)?;
        readers.push(mio::net::TcpStream::from_std(reader));
        let writer = listener.accept()?.0;
        writer.set_nodelay(true)?;
        writers.push(writer);
    }
    let read = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let writing = {
        let (read, done) = (Arc::clone(&read), Arc::clone(&done));
        thread::spawn(move || write(&writers, size, rounds, &read, &done))
    };
    let rate = read_all(&mut readers, size, &read, writing.thread());
    done.store(true, Ordering::Release);
    writing.thread().unpark();
    // It ends by closing all connections, and with an error if these are closed first.
    drop(readers);
    let cpu_us = writing.join().ok().context("the writer panicked")?;
    let per_second = rate?;
    Ok(Some(Floor { per_second, cpu_us }))
}

/// Rounds to all, so many ahead of the reader. Answers the processor time of a write.
fn write(
    writers: &[TcpStream],
    size: usize,
    rounds: u64,
    read: &AtomicU64,
    done: &AtomicBool,
) -> f64 {
    let bytes = vec![b'x'; size];
    let round = (writers.len() * size) as u64;
    let (mut written, cpu) = (0, clock::thread_cpu());
    'all: while !done.load(Ordering::Acquire) {
        if written >= read.load(Ordering::Acquire) + rounds * round {
            thread::park_timeout(Duration::from_millis(10));
            continue;
        }
        for mut writer in writers {
            if writer.write_all(&bytes).is_err() {
                break 'all;
            }
        }
        written += round;
    }
    let writes = (written / size as u64).max(1);
    (clock::thread_cpu() - cpu) as f64 / 1e3 / writes as f64
}

fn read_all(
    readers: &mut [mio::net::TcpStream],
    size: usize,
    read: &AtomicU64,
    writer: &thread::Thread,
) -> Result<f64> {
    let mut poll = Poll::new()?;
    for (number, reader) in readers.iter_mut().enumerate() {
        poll.registry()
            .register(reader, Token(number), Interest::READABLE)?;
    }
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    let began = Instant::now();
    let mut total = 0;
    while began.elapsed() < MEASURE {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            let Some(reader) = readers.get_mut(event.token().0) else {
                continue;
            };
            match reader.read(&mut buffer) {
                Ok(length) => total += length as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the reader of the floor"),
            }
        }
        read.store(total, Ordering::Release);
        writer.unpark();
    }
    Ok(total as f64 / size as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_connections_reach_something() {
        let Floor { per_second, cpu_us } = measure(10, 300, 4).unwrap().unwrap();
        assert!(per_second > 100.0, "{per_second}");
        assert!(cpu_us > 0.1, "{cpu_us}");
    }
}
