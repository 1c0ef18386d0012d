//! How much memory the process takes, and how much it could have.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A look at the system's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// What the process takes, in bytes.
    pub(super) resident: usize,
    /// What it takes, and what is left for it: by the machine, and by each cgroup that it is in.
    pub(super) most: usize,
}

/// Looks below `root`, which is `/`. `None`: the system does not tell.
pub(super) fn look(root: &Path) -> Option<Look> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let resident = kibibytes(&status, "VmRSS:")?;
    let machine = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let machine = kibibytes(&machine, "MemAvailable:");
    let left = machine.into_iter().chain(cgroups(root)).min()?;
    Some(Look {
        resident,
        most: resident.saturating_add(left),
    })
}

/// `Name:   1234 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<usize> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    let number: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// What each cgroup leaves that has a limit, in both versions.
fn cgroups(root: &Path) -> Vec<usize> {
    let list = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut left = Vec::new();
    for line in list.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let files = if controllers.is_empty() {
            &V2
        } else if controllers.split(',').any(|name| name == "memory") {
            &V1
        } else {
            continue;
        };
        let top = root.join(files.folder);
        let mut folder = PathBuf::from(path.trim_start_matches('/'));
        // A limit of a group above holds here, too. In a container the path may be another's:
        // then what is not there says nothing, and the top is the container's own.
        loop {
            left.extend(files.left(&top.join(&folder)));
            if !folder.pop() {
                break;
            }
        }
    }
    left
}

/// What the files of a version are called.
struct Files {
    folder: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Pages of files that can go: they are counted, but are no want.
    cache: &'static str,
}

const V2: Files = Files {
    folder: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    cache: "inactive_file ",
};

const V1: Files = Files {
    folder: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file ",
};

impl Files {
    fn left(&self, group: &Path) -> Option<usize> {
        let number = |file: &str| -> Option<usize> {
            let text = fs::read_to_string(group.join(file)).ok()?;
            text.trim().parse().ok()
        };
        // `max`, or in version 1 a number larger than any memory: then others decide.
        let limit = number(self.limit)?;
        let usage = number(self.usage)?;
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let mut lines = stat.lines();
        let cache = lines.find_map(|line| line.strip_prefix(self.cache)?.trim().parse().ok());
        Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const PROCESS: (&str, &str) = ("proc/self/status", "Name:\tx\nVmRSS:\t     100 kB\n");
    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:   900 kB\n",
    );

    #[test]
    fn without_a_cgroup_it_is_the_machine_s() {
        let root = tree(&[PROCESS, MACHINE]);
        let found = look(root.path()).unwrap();
        assert_eq!((found.resident, found.most), (100 * KIB, 1000 * KIB));
    }

    #[test]
    fn the_narrowest_group_counts_without_what_can_go() {
        let root = tree(&[
            PROCESS,
            MACHINE,
            ("proc/self/cgroup", "0::/pod/container\n"),
            ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/container/memory.current", "1\n"),
            ("sys/fs/cgroup/pod/memory.max", "409600\n"),
            ("sys/fs/cgroup/pod/memory.current", "204800\n"),
            (
                "sys/fs/cgroup/pod/memory.stat",
                "file 1\ninactive_file 102400\n",
            ),
        ]);
        assert_eq!(look(root.path()).unwrap().most, (100 + 300) * KIB);
    }

    #[test]
    fn version_1_too() {
        let root = tree(&[
            PROCESS,
            MACHINE,
            (
                "proc/self/cgroup",
                "4:cpu,cpuacct:/a\n3:memory:/docker/abc\n",
            ),
            // As a container sees it: its own group is the top.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "204800\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "102400\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 51200\n",
            ),
        ]);
        assert_eq!(look(root.path()).unwrap().most, (100 + 150) * KIB);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        assert_eq!(look(tree(&[]).path()), None);
        assert_eq!(look(tree(&[PROCESS]).path()), None);
        let broken = tree(&[PROCESS, MACHINE, ("proc/self/cgroup", "x\n0::\n")]);
        assert_eq!(look(broken.path()).unwrap().most, 1000 * KIB);
    }

    #[test]
    fn this_process_takes_memory() {
        let found = look(Path::new("/")).unwrap();
        assert!(found.resident > 0 && found.most > found.resident);
    }
}
