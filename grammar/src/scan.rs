//! Finds the end of a frame's head while its bytes arrive, and holds the limits meanwhile.
//!
//! The scan keeps counts only, no bytes: each byte is looked at once, however the stream was cut.

use crate::limits::Rules;

/// The position of the scan of a head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScan {
    /// Bytes of the head seen so far.
    seen: usize,
    /// Where, in the head, the unfinished line starts.
    line_start: usize,
    /// Finished lines, the command line included.
    lines: usize,
    /// True if the last byte seen was a CR, which belongs to the line's end if LF follows.
    after_cr: bool,
}

/// The limit that a head passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    FrameSize,
    LineLength,
    HeaderCount,
}

impl HeadScan {
    /// Looks at the bytes that follow those seen before. Answers how many of them belong to the
    /// head if it ends among them, the empty line included.
    pub(crate) fn feed(&mut self, piece: &[u8], rules: &Rules) -> Result<Option<usize>, Passed> {
        // Bytes past the frame's limit are not looked at: which limit is reported must not depend
        // on how the stream was cut.
        let room = rules.max_frame_size().saturating_sub(self.seen);
        let window = piece.get(..room).unwrap_or(piece);
        let mut rest = window;
        while let Some(at) = find(b'\n', rest) {
            let (line, after) = rest.split_at(at);
            rest = after.get(1..).unwrap_or_default();
            self.look_at(line);
            let length = self
                .line_length()
                .saturating_sub(usize::from(self.after_cr));
            if length > rules.max_header_size() {
                return Err(Passed::LineLength);
            }
            self.seen = self.seen.saturating_add(1);
            self.after_cr = false;
            if length == 0 && self.lines > 0 {
                return Ok(Some(window.len().saturating_sub(rest.len())));
            }
            if self.lines > rules.max_headers() {
                return Err(Passed::HeaderCount);
            }
            self.lines = self.lines.saturating_add(1);
            self.line_start = self.seen;
        }
        self.look_at(rest);
        let length = self
            .line_length()
            .saturating_sub(usize::from(self.after_cr));
        if length > rules.max_header_size() {
            return Err(Passed::LineLength);
        }
        if window.len() < piece.len() {
            Err(Passed::FrameSize)
        } else {
            Ok(None)
        }
    }

    /// How many headers the lines seen so far hold.
    pub(crate) const fn headers(&self) -> usize {
        self.lines.saturating_sub(1)
    }

    /// True if the unfinished line is the command line.
    pub(crate) const fn in_command(&self) -> bool {
        self.lines == 0
    }

    /// Where, in the head, the unfinished line starts.
    pub(crate) const fn line_start(&self) -> usize {
        self.line_start
    }

    const fn line_length(&self) -> usize {
        self.seen.saturating_sub(self.line_start)
    }

    fn look_at(&mut self, part: &[u8]) {
        self.seen = self.seen.saturating_add(part.len());
        if let Some(&last) = part.last() {
            self.after_cr = last == b'\r';
        }
    }
}

/// The first `needle` in `bytes`. All scanning of the stream goes through here, so that tests can
/// count it.
pub(crate) fn find(needle: u8, bytes: &[u8]) -> Option<usize> {
    let found = memchr::memchr(needle, bytes);
    #[cfg(test)]
    work::add(found.map_or(bytes.len(), |at| at + 1));
    found
}

/// Counts the bytes that were scanned, copied or parsed, for the test that decoding is linear.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::Cell;

    thread_local!(static BYTES: Cell<usize> = const { Cell::new(0) });

    pub(crate) fn add(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    pub(crate) fn take() -> usize {
        BYTES.replace(0)
    }
}
