//! A timer that is finer than the poll's milliseconds.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Result;
use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::clock::SECOND;

/// Wakes the poll again and again.
pub(super) struct Timer(OwnedFd);

impl Timer {
    /// Wakes every `interval` nanoseconds.
    pub(super) fn new(registry: &Registry, token: Token, interval: u64) -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = Self(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        registry.register(
            &mut SourceFd(&timer.0.as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        timer.set(interval)?;
        Ok(timer)
    }

    /// Changes the interval.
    pub(super) fn set(&self, interval: u64) -> Result<()> {
        let interval = Timespec {
            tv_sec: i64::try_from(interval / SECOND)?,
            tv_nsec: i64::try_from(interval % SECOND)?,
        };
        let times = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }

    /// Takes notice, so that it can wake again.
    pub(super) fn read(&self) {
        // How often it has fired is of no interest; an error would only mean "not at all".
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}
