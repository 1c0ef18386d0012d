//! The bounds of one tail on a node (pure): frames a second, and frames and bytes that wait. What
//! goes beyond is counted.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Frames that wait at a time.
pub(super) const MAX_WAITING: usize = 1_000;

/// Their bytes.
pub(super) const MAX_WAITING_BYTES: usize = 512 * 1024;

/// The time that a number of frames is for.
const WINDOW: Duration = Duration::from_secs(1);

/// Frames, as lines, on their way to whoever looks.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    /// Since when frames are counted, and how many were.
    window: Option<(Instant, u32)>,
    left_out: LeftOut,
}

/// Frames that are not shown, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// They were more than may be shown in a second.
    pub pace: u64,
    /// Whoever looks does not read, or the way there is full.
    pub unread: u64,
}

impl LeftOut {
    /// Whether every frame was shown.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Waiting {
    /// Whether one more frame may be shown in this second, in which `most` may; if not, it is counted.
    pub(super) fn take_turn(&mut self, now: Instant, most: u32) -> bool {
        let window = self.window.get_or_insert((now, 0));
        if now.saturating_duration_since(window.0) >= WINDOW {
            *window = (now, 0);
        }
        if window.1 >= most {
            self.left_out.pace = self.left_out.pace.saturating_add(1);
            return false;
        }
        window.1 = window.1.saturating_add(1);
        true
    }

    /// Adds a line; if there is no room, it is counted.
    pub(super) fn push(&mut self, line: Box<str>) {
        let bytes = self.bytes.saturating_add(line.len());
        if self.lines.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            self.count_unread(1);
            return;
        }
        self.bytes = bytes;
        self.lines.push_back(line);
    }

    /// So many frames could not be handed on.
    pub(super) fn count_unread(&mut self, frames: u64) {
        self.left_out.unread = self.left_out.unread.saturating_add(frames);
    }

    /// Whether there is something to tell.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.left_out.is_empty()
    }

    /// Whether more bytes wait than these.
    #[must_use]
    pub(super) fn is_more_than(&self, bytes: usize) -> bool {
        self.bytes > bytes
    }

    /// Takes lines of so many bytes at most, but at least one; and the counts, once all lines before
    /// them are taken.
    pub(super) fn take(&mut self, most: usize) -> (Vec<Box<str>>, LeftOut) {
        let mut lines = Vec::new();
        let mut bytes = 0_usize;
        while let Some(line) = self.lines.front() {
            bytes = bytes.saturating_add(line.len()).saturating_add(1);
            if bytes > most && !lines.is_empty() {
                break;
            }
            self.bytes = self.bytes.saturating_sub(line.len());
            lines.extend(self.lines.pop_front());
        }
        let left_out = match self.lines.is_empty() {
            true => std::mem::take(&mut self.left_out),
            false => LeftOut::default(),
        };
        (lines, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_frames_and_the_rest_is_counted() {
        let mut waiting = Waiting::default();
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let shown = (0..10_000)
            .filter(|_| waiting.take_turn(begun, 200))
            .count();
        assert_eq!(shown, 200);
        assert!(!waiting.take_turn(at(999), 200));
        let (_, left_out) = waiting.take(1);
        assert_eq!(left_out.pace, 9_801);
        assert!(waiting.take_turn(at(1_000), 200));
    }

    #[test]
    fn what_waits_is_bounded_in_frames_and_in_bytes() {
        let mut waiting = Waiting::default();
        for _ in 0..MAX_WAITING + 7 {
            waiting.push("{}".into());
        }
        let (lines, left_out) = waiting.take(usize::MAX);
        assert_eq!((lines.len(), left_out.unread), (MAX_WAITING, 7));
        let long: Box<str> = "x".repeat(MAX_WAITING_BYTES / 2).into();
        for _ in 0..3 {
            waiting.push(long.clone());
        }
        let (lines, left_out) = waiting.take(1);
        assert_eq!((lines.len(), left_out), (1, LeftOut::default()));
        let (lines, left_out) = waiting.take(1);
        assert_eq!((lines.len(), left_out.unread), (1, 1));
        assert!(waiting.is_empty());
        // There is room again.
        waiting.push(long);
        assert_eq!(waiting.take(1).0.len(), 1);
    }

    #[test]
    fn a_batch_has_a_bound_and_keeps_the_order() {
        let mut waiting = Waiting::default();
        for number in 0..10 {
            waiting.push(number.to_string().into());
        }
        let mut taken = Vec::new();
        while !waiting.is_empty() {
            let (lines, _) = waiting.take(6);
            assert!((1..=3).contains(&lines.len()), "{lines:?}");
            taken.extend(lines);
        }
        let expected: Vec<Box<str>> = (0..10).map(|number| number.to_string().into()).collect();
        assert_eq!(taken, expected);
    }
}
