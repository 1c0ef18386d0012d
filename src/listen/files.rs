//! Open files: they are reckoned before clients use them up.
//!
//! Each connection takes a file, and so does each link to the broker, the hook and Redis. Without a
//! file the system fails to accept a connection, and leaves it where it is, so nobody else is
//! accepted either. So clients are refused while there are files left for the gateway's own needs.

use std::{os::fd::RawFd, time::Instant};

use parking_lot::Mutex;

use crate::telemetry::{self, Seldom};

/// Files for everything but clients: links, calls of the hook, Redis, and the operator's port.
const RESERVE: u64 = 500;

/// One in so many of the clients' files is for connections without a login only.
const LOGGING_IN: usize = 200;

/// The files that clients may use.
#[derive(Debug)]
pub struct Files {
    clients: u64,
    /// Of those that are not for clients, the ones that they may use for a moment.
    spare: u64,
    used_up: Mutex<Seldom>,
}

/// The connections that the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Those that are logged in.
    pub connections: usize,
    /// Those that are not.
    pub unauthenticated: usize,
}

impl Wanted {
    /// The bounds that are lower in `reckoned`, by their keys in `[listen]`, as they are there.
    #[must_use]
    pub fn lowered(self, reckoned: Self) -> Vec<(&'static str, usize)> {
        let bounds = [
            ("max_connections", self.connections, reckoned.connections),
            (
                "max_unauthenticated",
                self.unauthenticated,
                reckoned.unauthenticated,
            ),
        ];
        let lowered = bounds.into_iter().filter(|(_, wanted, has)| has < wanted);
        lowered.map(|(key, _, has)| (key, has)).collect()
    }
}

impl Files {
    /// The clients' share, where the process may open so many files.
    #[must_use]
    pub fn of(files: u64) -> Self {
        let reserve = RESERVE.min(files / 2);
        Self {
            clients: files.saturating_sub(reserve),
            spare: reserve / 10,
            used_up: Mutex::new(Seldom::once_in(Seldom::MINUTE)),
        }
    }

    /// What there are files for. Connections without a login get a quarter at most, of the files
    /// that are free: they are there for seconds, the others for hours. So both bounds together may
    /// be more than there are files; a few are left to log in with.
    #[must_use]
    pub fn reckon(&self, wanted: Wanted) -> Wanted {
        let files = usize::try_from(self.clients).unwrap_or(usize::MAX);
        if wanted.connections.saturating_add(wanted.unauthenticated) <= files {
            return wanted;
        }
        let rest = files.saturating_sub(files.div_ceil(LOGGING_IN));
        Wanted {
            connections: wanted.connections.min(rest).max(1),
            unauthenticated: wanted.unauthenticated.min(files / 4).max(1),
        }
    }

    /// Whether a client may have the file of this number. The system gives out the lowest that is
    /// free, so a high number means that about as many are open.
    pub(super) fn has_room(&self, file: RawFd) -> bool {
        u64::try_from(file).is_ok_and(|number| number < self.clients)
    }

    /// Whether a client may have it for the moment until another one's is free.
    pub(super) fn has_spare(&self, file: RawFd) -> bool {
        let most = self.clients.saturating_add(self.spare);
        u64::try_from(file).is_ok_and(|number| number < most)
    }

    /// Says, now and then, that a client found no file.
    pub(super) fn log_used_up(&self, listener: &str) {
        if let Some(unsaid) = self.used_up.lock().let_through(Instant::now()) {
            telemetry::files_used_up(listener, self.clients, unsaid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reckon(files: u64, connections: usize, unauthenticated: usize) -> (usize, usize) {
        let reckoned = Files::of(files).reckon(Wanted {
            connections,
            unauthenticated,
        });
        (reckoned.connections, reckoned.unauthenticated)
    }

    #[test]
    fn bounds_are_lowered_to_the_files_that_there_are() {
        assert_eq!(reckon(110_500, 100_000, 10_000), (100_000, 10_000));
        assert_eq!(reckon(110_499, 100_000, 10_000), (100_000, 10_000));
        assert_eq!(reckon(20_000, 100_000, 10_000), (19_402, 4_875));
        assert_eq!(reckon(20_000, 100, 50_000), (100, 4_875));
        assert_eq!(reckon(800, 100_000, 10_000), (398, 100));
        assert_eq!(reckon(64, 100_000, 10_000), (31, 8));
        assert_eq!(reckon(0, 100_000, 10_000), (1, 1));
        assert_eq!(reckon(u64::MAX, 100_000, 10_000), (100_000, 10_000));
    }

    #[test]
    fn each_bound_that_is_lowered_is_named() {
        let lowered = |files, connections, unauthenticated| {
            let wanted = Wanted {
                connections,
                unauthenticated,
            };
            wanted.lowered(Files::of(files).reckon(wanted))
        };
        assert!(lowered(110_499, 100_000, 10_000).is_empty());
        assert_eq!(lowered(1_024, 300, 10_000), [("max_unauthenticated", 131)]);
        assert_eq!(lowered(20_000, 100_000, 100), [("max_connections", 19_402)]);
        let both = [("max_connections", 398), ("max_unauthenticated", 100)];
        assert_eq!(lowered(800, 100_000, 10_000), both);
    }

    #[test]
    fn some_files_are_not_for_clients() {
        let files = Files::of(1_000);
        assert!(files.has_room(499) && !files.has_room(500));
        assert!(files.has_spare(549) && !files.has_spare(550));
        assert!(!files.has_room(-1));
    }
}
