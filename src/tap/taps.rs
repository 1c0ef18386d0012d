//! The tails that this node takes part in.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, RwLock};
use thiserror::Error;
use tokio::{sync::Notify, time::sleep};

use super::{
    bounds::{LeftOut, Waiting},
    config::{Config, Show},
    filter::Filter,
    frame::{Seen, TailLine, Who},
    print::to_line,
};
use crate::deadline::later;

/// Frames are gathered for so long before they go out together.
const GATHER: Duration = Duration::from_millis(100);

/// All tails that this node takes part in.
#[derive(Debug)]
pub struct Taps {
    node: Box<str>,
    /// Whether there is any tap.
    is_on: AtomicBool,
    config: RwLock<Arc<Config>>,
    taps: RwLock<Vec<Arc<Tap>>>,
}

/// One tail, as this node sees it.
#[derive(Debug)]
pub struct Tap {
    id: Box<str>,
    filter: Filter,
    /// The bytes of each body that are shown.
    bodies: u32,
    waiting: Mutex<Waiting>,
    lease: Mutex<Option<tokio::time::Instant>>,
    has_more: Notify,
}

/// Keeps a tap until it is dropped.
#[derive(Debug)]
pub struct TapHandle {
    taps: Weak<Taps>,
    tap: Arc<Tap>,
}

/// Lines that go out together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Frames, each a line of JSON.
    pub lines: Vec<Box<str>>,
    /// The frames that are not among them.
    pub left_out: LeftOut,
}

/// Why a node takes part in no further tail.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It takes part in none.
    #[error("[tail] show is \"off\"; write \"headers\" there, and reload")]
    Off,
    /// It shows no bodies.
    #[error("bodies are not shown unless [tail] show is \"bodies\"; write so there, and reload")]
    NoBodies,
    /// It takes part in enough.
    #[error("there are {0} tails, as many as [tail] max_tails allows")]
    Full(usize),
}

impl Taps {
    /// Those of this node: none yet.
    #[must_use]
    pub fn new(node: &str, config: Config) -> Arc<Self> {
        Arc::new(Self {
            node: node.into(),
            is_on: AtomicBool::new(false),
            config: RwLock::new(Arc::new(config)),
            taps: RwLock::default(),
        })
    }

    /// From now on these rules hold, for all tails. Those that are begun go on, unless frames are not
    /// shown any more: an operator would take a tail that goes on for one of clients that say nothing.
    pub fn replace(&self, config: Config) {
        let is_off = config.show == Show::Off;
        *self.config.write() = Arc::new(config);
        if !is_off {
            return;
        }
        // They leave at once, so that no renewal finds one of them: it is refused.
        let mut taps = self.taps.write();
        let ended = std::mem::take(&mut *taps);
        self.is_on.store(false, Ordering::Relaxed);
        drop(taps);
        ended.iter().for_each(|tap| tap.end());
    }

    /// The rules that hold.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    /// Whether there is any tail: if not, no frame is of interest.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Whether a tail could begin here that shows so many bytes of bodies.
    ///
    /// # Errors
    /// It could not.
    pub fn check(&self, bodies: u32) -> Result<(), Refused> {
        let config = self.config();
        if config.show == Show::Off {
            return Err(Refused::Off);
        }
        if bodies > 0 && config.show != Show::Bodies {
            return Err(Refused::NoBodies);
        }
        let count = self.taps.read().len();
        match count >= config.max_tails {
            true => Err(Refused::Full(count)),
            false => Ok(()),
        }
    }

    /// Begins a tail; it ends when the handle is dropped, or its lease is over.
    ///
    /// # Errors
    /// It cannot begin.
    pub fn open(
        self: &Arc<Self>,
        id: &str,
        filter: Filter,
        bodies: u32,
    ) -> Result<TapHandle, Refused> {
        self.check(bodies)?;
        let tap = Arc::new(Tap {
            id: id.into(),
            filter,
            bodies,
            waiting: Mutex::default(),
            lease: Mutex::default(),
            has_more: Notify::new(),
        });
        let mut taps = self.taps.write();
        // Another may have begun since, or a reload ended all of them.
        let config = self.config();
        if config.show == Show::Off {
            return Err(Refused::Off);
        }
        if taps.len() >= config.max_tails {
            return Err(Refused::Full(taps.len()));
        }
        taps.push(Arc::clone(&tap));
        self.is_on.store(true, Ordering::Relaxed);
        drop(taps);
        Ok(TapHandle {
            taps: Arc::downgrade(self),
            tap,
        })
    }

    /// Lets a tail live on for so long. `false`: there is none of that id.
    #[must_use]
    pub fn renew(&self, id: &str, lease: Duration) -> bool {
        let taps = self.taps.read();
        let Some(tap) = taps.iter().find(|tap| &*tap.id == id) else {
            return false;
        };
        tap.renew(lease);
        true
    }

    /// Ends the tail of that id, if there is one.
    pub fn end(&self, id: &str) {
        let taps = self.taps.read();
        for tap in taps.iter().filter(|tap| &*tap.id == id) {
            tap.end();
        }
    }

    /// The tails that may want a frame of this client; called where [`Taps::is_on`]. Those that show
    /// no more in this second count it, unless only its destination tells whether it is meant.
    #[must_use]
    pub fn interested(&self, who: &Who<'_>, is_refusal: bool) -> Vec<Arc<Tap>> {
        let now = Instant::now();
        let taps = self.taps.read();
        let most = self.share(taps.len());
        let meant = taps.iter().filter(|tap| {
            let filter = &tap.filter;
            (is_refusal || !filter.refused)
                && filter.is_of(who)
                && (filter.destination.is_some() || tap.take_turn(now, most))
        });
        meant.cloned().collect()
    }

    /// Shows a frame to those that [`Taps::interested`] named.
    pub fn show(&self, taps: &[Arc<Tap>], who: &Who<'_>, seen: &Seen<'_>) {
        let config = self.config();
        if config.show == Show::Off {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let most = self.share(self.taps.read().len());
        for tap in taps {
            if tap.filter.destination.is_some() {
                let is_meant = tap.filter.leads_to(seen.destination());
                if !is_meant || !tap.take_turn(Instant::now(), most) {
                    continue;
                }
            }
            let frame = seen.shown(who, &self.node, at, tap.bodies, &config);
            let line = to_line(&TailLine::Frame(Box::new(frame)));
            tap.waiting.lock().push(line.into());
            tap.has_more.notify_one();
        }
    }

    /// Frames a second that each of so many tails may show.
    fn share(&self, taps: usize) -> u32 {
        let most = self.config.read().max_frames_per_second;
        let taps = u32::try_from(taps).unwrap_or(u32::MAX).max(1);
        most.checked_div(taps).unwrap_or(most).max(1)
    }

    fn remove(&self, tap: &Arc<Tap>) {
        let mut taps = self.taps.write();
        taps.retain(|other| !Arc::ptr_eq(other, tap));
        self.is_on.store(!taps.is_empty(), Ordering::Relaxed);
    }
}

impl Tap {
    /// Lets it live for so long from now.
    pub fn renew(&self, lease: Duration) {
        *self.lease.lock() = Some(later(tokio::time::Instant::now(), lease));
    }

    fn end(&self) {
        self.renew(Duration::ZERO);
        self.has_more.notify_one();
    }

    /// So many frames did not reach whoever looks.
    pub fn count_unread(&self, frames: u64) {
        self.waiting.lock().count_unread(frames);
        self.has_more.notify_one();
    }

    /// The frames of the moment, in as many bytes; waits for some. `None`: its lease is over.
    pub async fn next(&self, most: usize) -> Option<Batch> {
        loop {
            let now = tokio::time::Instant::now();
            // It may be renewed while this waits, so it is looked at again.
            let lease = *self.lease.lock();
            if lease.is_some_and(|lease| lease <= now) {
                return None;
            }
            let (is_empty, is_long) = {
                let waiting = self.waiting.lock();
                (waiting.is_empty(), waiting.is_more_than(most))
            };
            if !is_empty {
                if !is_long {
                    sleep(GATHER).await;
                }
                let (lines, left_out) = self.waiting.lock().take(most);
                return Some(Batch { lines, left_out });
            }
            match lease {
                Some(lease) => {
                    // Over, or not: both are found out above.
                    let _ = tokio::time::timeout_at(lease, self.has_more.notified()).await;
                }
                None => self.has_more.notified().await,
            }
        }
    }

    fn take_turn(&self, now: Instant, most: u32) -> bool {
        let mut waiting = self.waiting.lock();
        let may = waiting.take_turn(now, most);
        drop(waiting);
        if !may {
            self.has_more.notify_one();
        }
        may
    }
}

impl TapHandle {
    /// The tail.
    #[must_use]
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }
}

impl Drop for TapHandle {
    fn drop(&mut self) {
        if let Some(taps) = self.taps.upgrade() {
            taps.remove(&self.tap);
        }
    }
}

#[cfg(test)]
mod tests {
    use stomp_grammar::Headers;

    use super::*;
    use crate::tap::Direction;

    fn taps(config: Config) -> Arc<Taps> {
        Taps::new("n", config)
    }

    fn filter(user: &str) -> Filter {
        Filter {
            user: Some(user.into()),
            ..Filter::default()
        }
    }

    fn pass(taps: &Taps, user: &str, destination: &str) {
        let who = Who {
            session: "s",
            user: Some(user),
            vhost: None,
            remote: None,
            transport: "tcp",
        };
        let headers: Headers = [("destination", destination)].into_iter().collect();
        let meant = taps.interested(&who, false);
        let seen = Seen {
            direction: Direction::In,
            command: "SEND",
            headers: &headers,
            body: b"hello",
            refused: None,
        };
        taps.show(&meant, &who, &seen);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tail_shows_what_is_meant_and_nothing_else() {
        let taps = taps(Config::default());
        assert!(!taps.is_on());
        let alice = taps.open("1", filter("alice"), 0).unwrap();
        let to_x = Filter {
            destination: Some("/topic/x*".into()),
            ..Filter::default()
        };
        let x = taps.open("2", to_x, 0).unwrap();
        assert!(taps.is_on());
        for (user, destination) in [("alice", "/topic/y"), ("bob", "/topic/xy"), ("bob", "/z")] {
            pass(&taps, user, destination);
        }
        for (tap, destination) in [(&alice, "/topic/y"), (&x, "/topic/xy")] {
            let batch = tap.tap().next(1 << 16).await.unwrap();
            assert_eq!((batch.lines.len(), batch.left_out), (1, LeftOut::default()));
            assert!(batch.lines[0].contains(destination), "{batch:?}");
        }
        drop(alice);
        assert!(taps.is_on());
        drop(x);
        assert!(!taps.is_on());
    }

    /// Each has its share, so that one tail of everything leaves the other its frames.
    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_counted_by_each_tail() {
        let taps = taps(Config {
            max_frames_per_second: 200,
            ..Config::default()
        });
        let to = |pattern: &str| Filter {
            destination: Some(pattern.into()),
            ..Filter::default()
        };
        let all = taps.open("1", Filter::default(), 0).unwrap();
        let some = taps.open("2", to("/topic/a"), 0).unwrap();
        for _ in 0..10_000 {
            pass(&taps, "bob", "/topic/b");
        }
        pass(&taps, "bob", "/topic/a");
        let sum = async |tap: &Tap| {
            let (mut shown, mut left_out) = (0, 0);
            while shown + left_out < 10_001 {
                let batch = tap.next(4096).await.unwrap();
                shown += batch.lines.len() as u64;
                left_out += batch.left_out.pace;
            }
            (shown, left_out)
        };
        // All in one second, or two if the machine is slow.
        let (shown, left_out) = sum(all.tap()).await;
        assert_eq!(shown + left_out, 10_001);
        assert!((100..=1_000).contains(&shown), "{shown}");
        let batch = some.tap().next(4096).await.unwrap();
        assert_eq!((batch.lines.len(), batch.left_out), (1, LeftOut::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tail_ends_with_its_lease() {
        let taps = taps(Config::default());
        let handle = taps.open("1", Filter::default(), 0).unwrap();
        let second = Duration::from_secs(1);
        handle.tap().renew(6 * second);
        let begun = tokio::time::Instant::now();
        let renewing = async {
            sleep(5 * second).await;
            assert!(taps.renew("1", 6 * second));
            assert!(!taps.renew("2", 6 * second));
        };
        let (ended, ()) = tokio::join!(handle.tap().next(1), renewing);
        assert_eq!((ended, begun.elapsed()), (None, 11 * second));
        handle.tap().renew(6 * second);
        let begun = tokio::time::Instant::now();
        let ending = async {
            sleep(second).await;
            taps.end("1");
        };
        let (ended, ()) = tokio::join!(handle.tap().next(1), ending);
        assert_eq!((ended, begun.elapsed()), (None, second));
    }

    #[test]
    fn what_cannot_begin_names_the_key() {
        let config = |show, max_tails| Config {
            show,
            max_tails,
            ..Config::default()
        };
        let taps = taps(config(Show::Headers, 1));
        assert_eq!(taps.check(1), Err(Refused::NoBodies));
        let first = taps.open("1", Filter::default(), 0).unwrap();
        let second = taps.open("2", Filter::default(), 0).map(drop);
        assert_eq!(second, Err(Refused::Full(1)));
        drop(first);
        assert_eq!(taps.check(0), Ok(()));
        taps.replace(config(Show::Off, 1));
        assert_eq!(taps.check(0), Err(Refused::Off));
        taps.replace(config(Show::Bodies, 1));
        assert_eq!(taps.check(100), Ok(()));
        for refused in [Refused::Off, Refused::NoBodies, Refused::Full(3)] {
            assert!(refused.to_string().contains("[tail]"), "{refused}");
        }
    }

    /// Frames of sessions that go on are not shown from then on.
    #[tokio::test(start_paused = true)]
    async fn a_reload_counts_for_tails_that_go_on() {
        let taps = taps(Config {
            show: Show::Bodies,
            ..Config::default()
        });
        let tail = taps.open("1", Filter::default(), 100).unwrap();
        pass(&taps, "bob", "/topic/b");
        let batch = tail.tap().next(4096).await.unwrap();
        assert!(batch.lines[0].contains("hello"), "{batch:?}");
        taps.replace(Config::default());
        pass(&taps, "bob", "/topic/b");
        let batch = tail.tap().next(4096).await.unwrap();
        assert!(!batch.lines[0].contains("hello"), "{batch:?}");
        taps.replace(Config {
            show: Show::Off,
            ..Config::default()
        });
        pass(&taps, "bob", "/topic/b");
        // It ends, so that its operator does not take it for one of silent clients.
        let ended = tokio::time::timeout(Duration::from_secs(5), tail.tap().next(1)).await;
        assert_eq!(ended, Ok(None));
        assert!(!taps.renew("1", Duration::from_secs(6)));
        let again = taps.open("1", Filter::default(), 0).map(drop);
        assert_eq!(again, Err(Refused::Off));
        taps.replace(Config::default());
        let other = taps.open("2", Filter::default(), 0).unwrap();
        drop(tail);
        assert!(taps.is_on(), "the other goes on");
        drop(other);
        assert!(!taps.is_on());
    }
}
