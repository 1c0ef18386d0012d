//! Limits for a peer.

use crate::Version;

/// Limits for a peer. All sizes are in bytes; sizes beyond 4 GiB count as 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole frame: command line, headers and body, line ends included, the NUL not.
    pub max_frame_size: usize,
    /// Headers in a frame, repetitions included.
    pub max_headers: usize,
    /// One header line (and the command line), without its end.
    pub max_header_size: usize,
}

/// The version and the limits in force; small, since there is one for each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    max_frame_size: u32,
    max_headers: u32,
    max_header_size: u32,
    pub(crate) version: Version,
}

impl Rules {
    pub(crate) fn new(limits: Limits, version: Version) -> Self {
        // Offsets within a frame are kept in 32 bits, here and in `Headers`.
        let small = |limit| u32::try_from(limit).unwrap_or(u32::MAX);
        Self {
            max_frame_size: small(limits.max_frame_size),
            max_headers: small(limits.max_headers),
            max_header_size: small(limits.max_header_size),
            version,
        }
    }

    pub(crate) const fn max_frame_size(&self) -> usize {
        self.max_frame_size as usize
    }

    pub(crate) const fn max_headers(&self) -> usize {
        self.max_headers as usize
    }

    pub(crate) const fn max_header_size(&self) -> usize {
        self.max_header_size as usize
    }
}
