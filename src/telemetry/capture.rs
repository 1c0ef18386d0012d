//! The log lines of a test, for it to read.
//!
//! The process has one subscriber, which keeps the lines of threads that capture. With a
//! subscriber for its thread alone a test would miss lines now and then: tracing asks once for
//! each callsite if anybody wants it, and may ask a thread of another test without a subscriber.

use std::{
    cell::RefCell,
    io,
    marker::PhantomData,
    sync::{Arc, Once},
};

use parking_lot::Mutex;
use tracing_subscriber::{
    Layer,
    filter::dynamic_filter_fn,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
};

thread_local! {
    static HERE: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

/// The log lines of this thread from [`Capture::start`] on, at every level, until it is dropped.
pub(crate) struct Capture {
    lines: Lines,
    /// It belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl Capture {
    pub(crate) fn start() -> Self {
        install();
        let lines = Lines::default();
        HERE.set(Some(lines.clone()));
        Self {
            lines,
            _thread: PhantomData,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.lines.0.lock().clone()).unwrap()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

/// Sets up the subscriber, unless it is there. A fixture that logs calls this first, so that no
/// callsite is asked about before.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let captures = dynamic_filter_fn(|_, _| HERE.with_borrow(Option::is_some));
        let lines = fmt::layer().with_ansi(false).with_writer(Here);
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(captures));
        tracing::subscriber::set_global_default(subscriber).unwrap();
        // For callsites that were asked about before it was ready.
        tracing::callsite::rebuild_interest_cache();
    });
}

struct Here;

impl MakeWriter<'_> for Here {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        HERE.with_borrow(Clone::clone).unwrap_or_default()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
