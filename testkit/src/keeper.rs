//! Ends what a test process started, however that process ends.
//!
//! A static is never dropped, and a killed process drops nothing. So each test process has one
//! keeper: a shell, in a process group of its own, that reads instructions from a pipe whose
//! other end only the test process holds. When that end closes, by exit, panic, abort or
//! SIGKILL, the keeper kills the process groups and removes the folders it was told of.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Groups that did end are forgotten, since their numbers can be given to others.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=' '
set --
while read -r verb what; do
    case $verb in
        kill) groups="$groups$what " ;;
        forget)
            case $groups in
                *" $what "*) groups="${groups%% $what *} ${groups#* $what }" ;;
            esac ;;
        remove) set -- "$@" "$what" ;;
    esac
done
for group in $groups; do kill -KILL "-$group" 2>/dev/null; done
for group in $groups; do
    tries=50
    while kill -0 "-$group" 2>/dev/null && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
done
[ $# -eq 0 ] || rm -rf -- "$@"
"#;

/// Ends this process group when the test process is gone.
pub fn kill(group: u32) {
    tell(&format!("kill {group}"));
}

/// This process group has ended.
pub fn forget(group: u32) {
    tell(&format!("forget {group}"));
}

/// Removes this folder when the test process is gone.
pub fn remove(folder: &Path) {
    tell(&format!("remove {}", folder.display()));
}

fn tell(line: &str) {
    static KEEPER: OnceLock<Mutex<Child>> = OnceLock::new();
    let mut keeper = KEEPER
        .get_or_init(|| {
            let shell = Command::new("sh")
                .args(["-c", SCRIPT])
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a shell starts");
            Mutex::new(shell)
        })
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let pipe = keeper.stdin.as_mut().expect("stdin is a pipe");
    writeln!(pipe, "{line}").expect("the keeper reads on");
}
