//! What the system knows of a process: its memory and its processor time, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// The kernel's clock ticks a second, as it shows them to programs; 100 on every Linux.
const TICKS: f64 = 100.0;

/// A look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processor time since its start, in seconds.
    pub(crate) cpu: f64,
    /// Its memory, shared pages counted in parts, in KiB.
    pub(crate) pss: f64,
    /// The most that it had resident, in KiB.
    pub(crate) peak: f64,
}

impl Usage {
    /// Looks at a process now.
    ///
    /// # Errors
    /// There is no such process (any more), or it is somebody else's.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |file| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        Ok(Self {
            cpu: cpu(&read("stat")?).context("a strange stat")?,
            pss: kib(&read("smaps_rollup")?, "Pss").context("a strange smaps_rollup")?,
            peak: kib(&read("status")?, "VmHWM").context("a strange status")?,
        })
    }
}

/// Processor time of a process, in seconds: for what is asked often, since the rest costs a walk
/// through all its memory.
///
/// # Errors
/// As [`Usage::of`].
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    cpu(&stat).context("a strange stat")
}

/// User and system time from `stat`. The program's name comes in parentheses, and may hold any
/// text.
fn cpu(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    // Fields 14 and 15 of proc(5); this begins with the third.
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

/// The value of a line `Name:   123 kB`.
pub(crate) fn kib(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.trim().strip_suffix(" kB")?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_confuse() {
        let stat = "4711 (a (b) c) S 1 4711 4711 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu(stat), Some(1.75));
        assert_eq!(cpu("4711 (a) S 1"), None);
    }

    #[test]
    fn memory_is_found_by_its_name() {
        let rollup = "5580-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:     712 kB\n\
                      Pss_Anon:   10 kB\n";
        assert_eq!(kib(rollup, "Pss"), Some(712.0));
        assert_eq!(kib(rollup, "Swap"), None);
    }

    #[test]
    fn this_process_has_both() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(
            usage.pss > 100.0 && usage.peak > usage.pss / 2.0,
            "{usage:?}"
        );
        assert!(Usage::of(u32::MAX).is_err());
    }
}
