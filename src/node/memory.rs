//! A mark for the memory that the process takes. What clients may have waiting and under way is
//! bounded for each of them, long before; this is for when they are many, or all else fails.
//!
//! Above the mark new logins are refused, what clients publish waits, and the connections with the
//! greatest mailboxes and open transactions go, until it is well below. A client that is connected,
//! reads, and commits notices nothing.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    config::MemoryConfig,
    measure::{Gauge, Look, look},
    room::Room,
};
use crate::{telemetry, units::show_size};

/// Between two looks: while the process takes more than half of the mark, and at least and at most
/// while it takes less.
const NEAR: Duration = Duration::from_millis(50);
const CALM: Duration = Duration::from_millis(250);
const FAR: Duration = Duration::from_secs(1);
/// What it may take more in a millisecond, in bytes: a network of 8 Gbit/s brings no more.
const GROWTH: usize = 1024 * 1024;
/// How often the allocator is told to give back what it does not need.
const GIVING_BACK: Duration = Duration::from_secs(1);
/// Between two times that mailboxes are closed: what was in them takes its time to go.
const SHEDDING: Duration = Duration::from_millis(500);

/// What can give memory back: the connections of a node.
pub trait Shed: Send + Sync {
    /// Closes the connections that hold most, until about so many bytes are freed. How many, and how
    /// many bytes that was. `gathered`: bytes of open transactions, by the connection's number.
    fn shed(&self, bytes: usize, gathered: &HashMap<u64, usize>) -> (usize, usize);
}

/// A connection that holds less is not closed: it would not help.
pub const WORTH_SHEDDING: usize = 64 * 1024;

/// How much memory the process takes, and whether that is too much.
#[derive(Debug)]
pub struct Memory {
    room: Arc<Room>,
    /// The mark, while the process takes too much.
    short: watch::Sender<Option<usize>>,
}

/// The mark that this process would have now, in bytes, and the memory that it could have. `None`:
/// there is no mark, or the system does not tell.
#[must_use]
pub fn mark_now(config: &MemoryConfig) -> Option<(usize, usize)> {
    let look = (config.watermark > 0)
        .then(|| look(Path::new("/")))
        .flatten()?;
    Some((Marks::new(config, look).high, look.most))
}

impl Memory {
    /// Enough of it, until [`Memory::watch`] finds otherwise. While it is short, `room` is shut.
    #[must_use]
    pub fn new(room: Arc<Room>) -> Arc<Self> {
        Arc::new(Self {
            room,
            short: watch::Sender::new(None),
        })
    }

    /// The room for what clients publish.
    #[must_use]
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether the process takes too much.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short.borrow().is_some()
    }

    /// What is wrong, if it is.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        let mark = (*self.short.borrow())?;
        Some(format!(
            "memory: the process takes more than {} ([memory] watermark); new logins are refused",
            show_mib(mark)
        ))
    }

    /// Waits until there is enough.
    pub async fn enough(&self) {
        // The sender is `self`.
        let _ = self.short.subscribe().wait_for(Option::is_none).await;
    }

    /// Looks after it, for as long as it lives.
    pub async fn watch(memory: Weak<Self>, config: MemoryConfig, target: Weak<dyn Shed>) {
        give_back_soon();
        let mut given_back = Instant::now();
        let mut shed = None;
        let mut gauge = (config.watermark > 0).then(|| Gauge::new(Path::new("/")));
        let mut pace = CALM;
        loop {
            tokio::time::sleep(pace).await;
            let (Some(memory), Some(target)) = (memory.upgrade(), target.upgrade()) else {
                return;
            };
            let is_short = memory.is_short();
            let now_and_then = if is_short { CALM } else { GIVING_BACK };
            if given_back.elapsed() >= now_and_then {
                given_back = Instant::now();
                give_back(is_short);
            }
            let Some(look) = gauge.as_mut().and_then(Gauge::look) else {
                pace = FAR;
                continue;
            };
            let marks = Marks::new(&config, look);
            memory.note(look.resident, marks);
            pace = marks.pace(look.resident);
            let may_shed = shed.is_none_or(|at: Instant| at.elapsed() >= SHEDDING);
            if memory.is_short() && may_shed {
                shed = Some(Instant::now());
                let excess = look.resident.saturating_sub(marks.low);
                let (sessions, bytes) = target.shed(excess, &memory.room.gathered());
                if sessions > 0 {
                    telemetry::memory_shed(sessions, bytes);
                }
            }
        }
    }

    /// The process takes too much from now on.
    #[cfg(test)]
    pub(crate) fn run_short(&self) {
        self.note(1, Marks { high: 1, low: 1 });
    }

    fn note(&self, resident: usize, marks: Marks) {
        match (self.is_short(), resident) {
            (false, resident) if resident >= marks.high => {
                self.short.send_replace(Some(marks.high));
                self.room.shut(true);
                telemetry::memory_short(resident, marks.high);
            }
            (true, resident) if resident < marks.low => {
                self.short.send_replace(None);
                self.room.shut(false);
                telemetry::memory_enough(resident);
            }
            _ => {}
        }
    }
}

/// Where it is too much, and where enough was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    high: usize,
    low: usize,
}

impl Marks {
    fn new(config: &MemoryConfig, look: Look) -> Self {
        let most = match config.limit {
            0 => look.most,
            limit => limit,
        };
        let high = (most / 100).saturating_mul(usize::from(config.watermark));
        Self {
            high,
            low: (high / 10).saturating_mul(9),
        }
    }

    /// How long it is until the next look.
    ///
    /// Until then nobody notices what the process takes, so that must not be much of what is left to
    /// the mark: growing by [`GROWTH`] it comes half way. The other half is for a mark that sinks
    /// meanwhile, because others take the machine's memory. A small mark is looked at each [`CALM`]
    /// all the same, in which it would have to grow by twice the mark in a second to pass it.
    fn pace(self, resident: usize) -> Duration {
        if resident > self.high / 2 {
            return NEAR;
        }
        let half_way = self.high.saturating_sub(resident) / 2;
        let milliseconds = u64::try_from(half_way / GROWTH).unwrap_or(u64::MAX);
        Duration::from_millis(milliseconds).clamp(CALM, FAR)
    }
}

fn show_mib(bytes: usize) -> String {
    show_size(bytes >> 20 << 20)
}

/// Has the allocator give back to the system what was freed a while ago, or (`all`) at all. By
/// itself it does so only where much is allocated and freed: after a rush it would keep all of it
/// for as long as it is quiet.
#[cfg(feature = "mimalloc")]
fn give_back(all: bool) {
    #[expect(
        unsafe_code,
        reason = "a call of C without pointers, which may be made at any time, and from any thread"
    )]
    // SAFETY: as said there.
    unsafe {
        libmimalloc_sys::mi_collect(all);
    }
}

/// The system's allocator knows by itself.
#[cfg(not(feature = "mimalloc"))]
fn give_back(_: bool) {}

/// How long the allocator keeps memory that was freed, in milliseconds, where much comes and goes.
/// Its own choice is a second, in which hundreds of large messages may pass.
#[cfg(feature = "mimalloc")]
const KEPT: std::ffi::c_long = 10;

/// Says so to the allocator; the variable `MIMALLOC_PURGE_DELAY` says otherwise.
#[cfg(feature = "mimalloc")]
fn give_back_soon() {
    #[expect(
        unsafe_code,
        reason = "a call of C without pointers, which may be made at any time, and from any thread"
    )]
    // SAFETY: as said there.
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT);
    }
}

#[cfg(not(feature = "mimalloc"))]
fn give_back_soon() {}

/// `mi_option_purge_delay`, which the crate does not name; it stands before one that it names.
#[cfg(feature = "mimalloc")]
const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Share;

    const MARKS: Marks = Marks {
        high: 1000,
        low: 900,
    };

    /// It is found by its place among others: a new version of the allocator may move it.
    #[cfg(feature = "mimalloc")]
    #[test]
    fn the_allocator_knows_how_long_it_may_keep_memory() {
        let delay = || {
            #[expect(unsafe_code, reason = "a call of C without pointers")]
            // SAFETY: as said there.
            unsafe {
                libmimalloc_sys::mi_option_get(PURGE_DELAY)
            }
        };
        // Its own choice; or another test was here before.
        assert!([1000, KEPT].contains(&delay()));
        give_back_soon();
        assert_eq!(delay(), KEPT);
    }

    fn memory() -> Arc<Memory> {
        Memory::new(Room::new(Share {
            connection: 1,
            user: 1,
            all: 1,
        }))
    }

    #[test]
    fn the_mark_is_a_share_of_what_there_could_be() {
        let look = Look {
            resident: 1,
            most: 10_000,
        };
        let mut config = MemoryConfig::default();
        assert_eq!(Marks::new(&config, look).high, 7_500);
        config.limit = 2_000;
        let marks = Marks::new(&config, look);
        assert_eq!((marks.high, marks.low), (1_500, 1_350));
    }

    #[test]
    fn far_from_the_mark_looks_are_rare_and_growth_in_between_is_bounded() {
        const MIB: usize = 1024 * 1024;
        let pace = |high: usize, resident: usize| {
            let low = high / 10 * 9;
            Marks { high, low }.pace(resident)
        };
        // Of a machine with 8 GiB, and of small containers.
        assert_eq!(pace(6144 * MIB, 20 * MIB), FAR);
        assert_eq!(pace(768 * MIB, 20 * MIB), Duration::from_millis(374));
        assert_eq!(pace(192 * MIB, 20 * MIB), CALM);
        assert_eq!(pace(0, 0), CALM);
        for high in [10, 192, 768, 1536, 6144, 65_536].map(|high| high * MIB) {
            assert_eq!(pace(high, high / 2 + 1), NEAR);
            assert_eq!(pace(high, high), NEAR);
            for resident in (0..=50).map(|percent| high / 100 * percent) {
                let pause = pace(high, resident);
                assert!((CALM..=FAR).contains(&pause));
                let milliseconds = usize::try_from(pause.as_millis()).unwrap();
                let reached = resident + milliseconds * GROWTH;
                assert!(
                    pause == CALM || reached <= resident.midpoint(high),
                    "{resident} {high}"
                );
            }
        }
    }

    #[tokio::test]
    async fn it_begins_and_ends_by_itself_with_a_way_between() {
        let memory = memory();
        for (resident, is_short) in [
            (999, false),
            (1000, true),
            (950, true),
            (899, false),
            (950, false),
        ] {
            memory.note(resident, MARKS);
            assert_eq!(memory.is_short(), is_short, "{resident}");
            assert_eq!(memory.degraded().is_some(), is_short);
        }
        memory.enough().await;
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_clients_go_on_when_there_is_enough_memory() {
        let memory = memory();
        memory.note(1000, MARKS);
        let waiting = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move { memory.enough().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        memory.note(10, MARKS);
        waiting.await.unwrap();
    }
}
