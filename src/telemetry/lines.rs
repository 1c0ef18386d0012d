//! The log's lines on their way out.
//!
//! The reader of standard error may stand still (a pipe whose other end hangs, a terminal after
//! Ctrl-S), and its disk may be full. No client may wait for that, nor the process end over it. So a
//! thread of its own writes the lines, so many bytes wait for it, and lines beyond them are lost: a
//! metric counts them, and the log says how many as soon as it can be written again.

use std::{
    io::{self, Write},
    mem,
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::event::log_lines_lost;
use crate::telemetry::metrics;

/// Bytes that wait at most: some 30,000 lines, as when thousands of clients go at once.
const MAX_WAITING: usize = 8 << 20;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Takes lines, and never makes anybody wait.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// There are lines, or the thread has written those that there were.
    changed: Condvar,
    max_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines among them.
    count: u64,
    /// Whether the thread is writing others.
    is_writing: bool,
    /// Lines that were lost since that was said the last time.
    lost: u64,
}

impl Lines {
    /// Lines that a thread writes to `output`, for as long as the process lives.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        Self::bounded(output, MAX_WAITING)
    }

    fn bounded(output: impl Write + Send + 'static, max_bytes: usize) -> io::Result<Self> {
        let lines = Self(Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            max_bytes,
        }));
        let shared = Arc::clone(&lines.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_to(output))?;
        Ok(lines)
    }

    /// Waits, but not for long, until all that was said is written.
    pub(super) fn flush(&self) {
        let mut waiting = self.0.waiting.lock();
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.bytes.is_empty();
        self.0
            .changed
            .wait_while_for(&mut waiting, is_busy, LAST_LINES);
    }
}

/// Each call is one line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.waiting.lock();
        if waiting.bytes.len().saturating_add(line.len()) > self.0.max_bytes {
            waiting.lost = waiting.lost.saturating_add(1);
            drop(waiting);
            metrics::log_lines_lost(1);
            return Ok(line.len());
        }
        let was_empty = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        waiting.count = waiting.count.saturating_add(1);
        drop(waiting);
        if was_empty {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_to(&self, mut output: impl Write) {
        let mut bytes = Vec::new();
        loop {
            let mut waiting = self.waiting.lock();
            waiting.is_writing = false;
            self.changed.notify_all();
            self.changed
                .wait_while(&mut waiting, |waiting| waiting.bytes.is_empty());
            waiting.is_writing = true;
            mem::swap(&mut waiting.bytes, &mut bytes);
            let count = mem::take(&mut waiting.count);
            drop(waiting);
            match output.write_all(&bytes) {
                Ok(()) => {
                    let lost = mem::take(&mut self.waiting.lock().lost);
                    if lost > 0 {
                        log_lines_lost(lost);
                    }
                }
                // Some of them may have been written.
                Err(_) => {
                    let mut waiting = self.waiting.lock();
                    waiting.lost = waiting.lost.saturating_add(count);
                    drop(waiting);
                    metrics::log_lines_lost(count);
                }
            }
            bytes.clear();
            // A burst's memory is not kept.
            bytes.shrink_to(1 << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line when it is let, with the outcome that it is told.
    struct Slow {
        let_through: mpsc::Receiver<io::Result<()>>,
        written: mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_through.recv().map_err(io::Error::other)??;
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_keeps_nobody_waiting() {
        let ((go, let_through), (written, read)) = (mpsc::channel(), mpsc::channel());
        let slow = Slow {
            let_through,
            written,
        };
        let mut lines = Lines::bounded(slow, 100).unwrap();
        for _ in 0..1_000 {
            lines.write_all(b"123456789\n").unwrap();
        }
        let (waiting, lost) = {
            let waiting = lines.0.waiting.lock();
            (waiting.bytes.len(), waiting.lost)
        };
        assert!(waiting <= 100, "{waiting} bytes");
        assert!(lost >= 980, "{lost} lines");
        // The end of the process is not held up, either; this waits for a second.
        lines.flush();

        for _ in 0..1_000 {
            go.send(Ok(())).unwrap();
        }
        lines.flush();
        let text: String = read.try_iter().collect();
        let count = u64::try_from(text.lines().count()).unwrap();
        assert!(
            text.lines().all(|line| line == "123456789"),
            "whole lines only"
        );
        assert_eq!(count + lost, 1_000, "each is written or counted");
        assert_eq!(lines.0.waiting.lock().lost, 0, "it was said");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let ((go, let_through), (written, read)) = (mpsc::channel(), mpsc::channel());
        let slow = Slow {
            let_through,
            written,
        };
        let mut lines = Lines::bounded(slow, 100).unwrap();
        go.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        lines.write_all(b"one\n").unwrap();
        lines.flush();
        assert_eq!(lines.0.waiting.lock().lost, 1);
        go.send(Ok(())).unwrap();
        lines.write_all(b"two\n").unwrap();
        lines.flush();
        assert_eq!(read.try_iter().collect::<String>(), "two\n");
        assert_eq!(lines.0.waiting.lock().lost, 0);
    }
}
