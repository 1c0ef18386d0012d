//! What systemd is told, if it asks (`Type=notify`, `WatchdogSec=`): by the variables
//! `NOTIFY_SOCKET` and `WATCHDOG_USEC`.

use std::time::Duration;

use sd_notify::{NotifyState, notify};
use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry;

/// All addresses are open; or a reload is over.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The end has begun, and may take so long. systemd kills no earlier, even if its `TimeoutStopSec` is
/// shorter.
pub(super) fn stopping(within: Duration) {
    // The most that this type holds is 71 minutes.
    let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Says again and again that this process still does its work: that the runtime turns. Ends at
/// once if nobody wants to hear it.
pub(super) async fn keep_alive() {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return;
    };
    // As systemd's manual advises: twice in the time that is allowed.
    let Some(half) = within.checked_div(2).filter(|half| !half.is_zero()) else {
        return;
    };
    let mut strokes = interval(half);
    strokes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        strokes.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Without systemd this does nothing.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        telemetry::not_notified(&error);
    }
}
