//! How much memory the process takes, and how much it could have.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

/// How often all cgroups are looked for again, in case one has a limit that had none: a limit that
/// changes, and a process that moves, are noticed at the next look.
const GROUPS_FOUND: Duration = Duration::from_secs(60);

/// A look at the system's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// What the process takes, in bytes.
    pub(super) resident: usize,
    /// What it takes, and what is left for it: by the machine, and by each cgroup that it is in.
    pub(super) most: usize,
}

/// Looks below `root` once, which is `/`. `None`: the system does not tell.
pub(super) fn look(root: &Path) -> Option<Look> {
    Gauge::new(root).look()
}

/// For those who look again and again: its files stay open.
pub(super) struct Gauge {
    root: PathBuf,
    status: Kept,
    machine: Kept,
    /// The list of the cgroups that the process is in.
    list: Kept,
    /// The list that `groups` are of, and when they were found.
    listed: Option<(String, Instant)>,
    groups: Vec<Group>,
}

impl Gauge {
    /// Below `root`, which is `/`.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            status: Kept::new(root.join("proc/self/status")),
            machine: Kept::new(root.join("proc/meminfo")),
            list: Kept::new(root.join("proc/self/cgroup")),
            listed: None,
            groups: Vec::new(),
        }
    }

    /// The figures of now. `None`: the system does not tell.
    pub(super) fn look(&mut self) -> Option<Look> {
        let resident = kibibytes(&self.status.read()?, "VmRSS:")?;
        let machine = self.machine.read().unwrap_or_default();
        let mut left = kibibytes(&machine, "MemAvailable:");
        self.find_groups();
        for group in &mut self.groups {
            left = left.into_iter().chain(group.left(left)).min();
        }
        Some(Look {
            resident,
            most: resident.saturating_add(left?),
        })
    }

    /// Opens the files of all cgroups anew if the process has moved, or some time has passed.
    fn find_groups(&mut self) {
        let list = self.list.read().unwrap_or_default();
        let is_known = self
            .listed
            .as_ref()
            .is_some_and(|(listed, found)| *listed == list && found.elapsed() < GROUPS_FOUND);
        if !is_known {
            self.groups = groups(&self.root, &list);
            self.listed = Some((list, Instant::now()));
        }
    }
}

/// A file that stays open. The system writes such a file anew for each reading from its beginning.
struct Kept {
    path: PathBuf,
    file: Option<File>,
}

impl Kept {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// What it says now. A file that cannot be read any more, as that of a cgroup that is gone, is
    /// opened again: there may be a new one.
    fn read(&mut self) -> Option<String> {
        if let Some(Ok(text)) = self.file.as_ref().map(read_all) {
            return Some(text);
        }
        self.file = None;
        let file = File::open(&self.path).ok()?;
        let text = read_all(&file).ok()?;
        self.file = Some(file);
        Some(text)
    }

    /// The number that is all that it says.
    fn number(&mut self) -> Option<usize> {
        self.read()?.trim().parse().ok()
    }
}

/// Reads a file from its beginning.
fn read_all(file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    let mut at = 0_u64;
    loop {
        let count = file.read_at(&mut piece, at)?;
        let read = piece.get(..count).unwrap_or_default();
        if read.is_empty() {
            return String::from_utf8(text).map_err(io::Error::other);
        }
        text.extend_from_slice(read);
        at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// `Name:   1234 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<usize> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    let number: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// The cgroups in this list that may have a limit, in both versions.
fn groups(root: &Path, list: &str) -> Vec<Group> {
    let mut groups = Vec::new();
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
            let mut group = Group::new(files, &top.join(&folder));
            if group.limit.read().is_some() {
                groups.push(group);
            }
            if !folder.pop() {
                break;
            }
        }
    }
    groups
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

/// The files of a cgroup.
struct Group {
    limit: Kept,
    usage: Kept,
    stat: Kept,
    cache: &'static str,
}

impl Group {
    fn new(files: &Files, folder: &Path) -> Self {
        let kept = |file| Kept::new(folder.join(file));
        Self {
            limit: kept(files.limit),
            usage: kept(files.usage),
            stat: kept("memory.stat"),
            cache: files.cache,
        }
    }

    /// What it leaves, if it has a limit, and that is less than others leave. Only then are its
    /// figures all read: those of `memory.stat` cost the system most.
    fn left(&mut self, others: Option<usize>) -> Option<usize> {
        // `max`, or in version 1 a number larger than any memory: then others decide.
        let limit = self.limit.number()?;
        let usage = self.usage.number()?;
        let with_cache = limit.saturating_sub(usage);
        // What can go only adds to it.
        if others.is_some_and(|others| with_cache >= others) {
            return None;
        }
        let stat = self.stat.read().unwrap_or_default();
        let mut lines = stat.lines();
        let cache = lines.find_map(|line| line.strip_prefix(self.cache)?.trim().parse().ok());
        Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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

    const GROUP: (&str, &str) = ("proc/self/cgroup", "0::/a\n");

    /// Changes what a file says, as the system does: it stays the same file.
    fn change(root: &tempfile::TempDir, path: &str, text: &str) {
        fs::write(root.path().join(path), text).unwrap();
    }

    #[test]
    fn files_that_stay_open_say_what_is_new() {
        let root = tree(&[
            PROCESS,
            MACHINE,
            GROUP,
            ("sys/fs/cgroup/a/memory.max", "409600\n"),
            ("sys/fs/cgroup/a/memory.current", "204800\n"),
            ("sys/fs/cgroup/a/memory.stat", "inactive_file 102400\n"),
        ]);
        let mut gauge = Gauge::new(root.path());
        assert_eq!(gauge.look().unwrap().most, (100 + 300) * KIB);
        // A file that is removed here stays as it was for those who have it open.
        fs::remove_file(root.path().join("proc/self/status")).unwrap();
        change(&root, "sys/fs/cgroup/a/memory.current", "307200\n");
        assert_eq!(gauge.look().unwrap().most, (100 + 200) * KIB);
        change(&root, "sys/fs/cgroup/a/memory.max", "512000\n");
        assert_eq!(gauge.look().unwrap().most, (100 + 300) * KIB);
        change(&root, "sys/fs/cgroup/a/memory.stat", "inactive_file 0\n");
        assert_eq!(gauge.look().unwrap().most, (100 + 200) * KIB);
        change(&root, "proc/meminfo", "MemAvailable: 50 kB\n");
        assert_eq!(gauge.look().unwrap().most, (100 + 50) * KIB);
        change(&root, "sys/fs/cgroup/a/memory.max", "max\n");
        change(&root, "proc/meminfo", "MemAvailable: 700 kB\n");
        assert_eq!(gauge.look().unwrap().most, (100 + 700) * KIB);
    }

    #[test]
    fn a_file_that_cannot_be_read_any_more_is_opened_again() {
        let root = tree(&[PROCESS, MACHINE]);
        let mut gauge = Gauge::new(root.path());
        assert!(gauge.look().is_some());
        // A folder cannot be read, nor can the file of a cgroup that is gone.
        gauge.status.file = Some(File::open(root.path()).unwrap());
        assert_eq!(gauge.look().unwrap().resident, 100 * KIB);
        gauge.status.file = Some(File::open(root.path()).unwrap());
        fs::remove_file(root.path().join("proc/self/status")).unwrap();
        assert_eq!(gauge.look(), None);
        change(&root, "proc/self/status", "VmRSS: 200 kB\n");
        assert_eq!(gauge.look().unwrap().resident, 200 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn another_cgroup_counts_at_once_and_a_new_limit_within_a_minute() {
        let root = tree(&[
            PROCESS,
            MACHINE,
            GROUP,
            ("sys/fs/cgroup/a/memory.max", "409600\n"),
            ("sys/fs/cgroup/a/memory.current", "0\n"),
            ("sys/fs/cgroup/b/c/memory.max", "204800\n"),
            ("sys/fs/cgroup/b/c/memory.current", "0\n"),
        ]);
        let mut gauge = Gauge::new(root.path());
        assert_eq!(gauge.look().unwrap().most, (100 + 400) * KIB);
        change(&root, "proc/self/cgroup", "0::/b/c\n");
        assert_eq!(gauge.look().unwrap().most, (100 + 200) * KIB);
        change(&root, "sys/fs/cgroup/b/memory.max", "102400\n");
        change(&root, "sys/fs/cgroup/b/memory.current", "0\n");
        tokio::time::advance(GROUPS_FOUND).await;
        assert_eq!(gauge.look().unwrap().most, (100 + 100) * KIB);
    }

    #[test]
    fn no_figures_are_read_of_a_group_that_leaves_more_than_others() {
        let root = tree(&[
            PROCESS,
            MACHINE,
            GROUP,
            ("sys/fs/cgroup/a/memory.max", "4096000\n"),
            ("sys/fs/cgroup/a/memory.current", "4096\n"),
            ("sys/fs/cgroup/a/memory.stat", "inactive_file 4096\n"),
        ]);
        let mut gauge = Gauge::new(root.path());
        assert_eq!(gauge.look().unwrap().most, 1000 * KIB);
        assert!(gauge.groups.iter().all(|group| group.stat.file.is_none()));
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
