//! The progress of a run, for people who wait.

use std::io::{IsTerminal as _, Write as _};

/// Shows it on a line of its own, which the next one replaces; nothing in a file or pipe.
pub(crate) fn show(what: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        // Nobody reads on if it fails.
        let _ = write!(out, "\r\x1b[K{what}");
        let _ = out.flush();
    }
}
