//! The machine's monotonic clock, which all its processes share.

use rustix::time::{ClockId, clock_gettime};

/// A second, in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A millisecond, in nanoseconds.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// Nanoseconds since some moment in the past.
pub(crate) fn now() -> u64 {
    of(ClockId::Monotonic)
}

/// Processor time of this thread, in nanoseconds.
pub(crate) fn thread_cpu() -> u64 {
    of(ClockId::ThreadCPUTime)
}

fn of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let (seconds, rest) = (now.tv_sec, now.tv_nsec);
    // Clocks start at 0, with the machine or the thread.
    u64::try_from(seconds).unwrap_or_default() * SECOND + u64::try_from(rest).unwrap_or_default()
}
