//! The system's limits for a process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of files to what the system allows. Children inherit it.
pub(crate) fn raise_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it is refused, a later check tells which number is too large.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How many files a process may have.
pub(crate) fn files() -> u32 {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
}
