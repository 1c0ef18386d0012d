//! What the system lets a process have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of files to what the system allows. Children inherit it.
pub(crate) fn raise_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it is refused, what is too many for the limit is told later.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How many files a process may have.
pub(crate) fn files() -> u32 {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
}
