//! The workflows of `.github`: they run where no test of ours does, so that what a test can see of
//! them is held here.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

fn root() -> PathBuf {
    testkit::tests_dir().parent().unwrap().to_owned()
}

/// Each workflow, by its name.
fn workflows() -> Vec<(String, String)> {
    let folder = fs::read_dir(root().join(".github/workflows")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let read = files.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    read.collect()
}

/// A tag of an action can be moved to other code, which would then build our releases.
#[test]
fn actions_are_pinned_to_commits() {
    let mut count = 0;
    for (name, text) in workflows() {
        for line in text.lines() {
            let Some((_, used)) = line.split_once("uses: ") else {
                continue;
            };
            let (action, version) = used.split_once(" # v").unwrap_or((used, ""));
            let commit = action.split_once('@').map_or("", |(_, commit)| commit);
            let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            assert!(
                is_commit && !version.is_empty(),
                "{name}: {used}: write owner/action@COMMIT # vVERSION"
            );
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn scripts_of_workflows_are_there() {
    let mut count = 0;
    for (name, text) in workflows() {
        for word in text.split_whitespace().filter(|word| !word.contains('*')) {
            let script = word.trim_start_matches("./");
            if !["scripts/", "packaging/", ".ci/"]
                .iter()
                .any(|folder| script.starts_with(folder))
            {
                continue;
            }
            let path = root().join(script);
            let found =
                fs::metadata(&path).unwrap_or_else(|error| panic!("{name}: {script}: {error}"));
            let is_run = word.starts_with("./") || script.starts_with(".ci/");
            assert!(
                !is_run || found.permissions().mode() & 0o111 != 0,
                "{name}: {script} is not executable"
            );
            count += 1;
        }
    }
    assert!(count > 4, "{count}");
}

/// A job that hangs would run for six hours; and `curl … | sh` without pipefail goes on without curl's
/// answer.
#[test]
fn jobs_end_and_pipes_fail() {
    for (name, text) in workflows() {
        let runs = text
            .lines()
            .filter(|line| line.trim_start().starts_with("runs-on:"));
        let ends = text
            .lines()
            .filter(|line| line.trim_start().starts_with("timeout-minutes:"));
        assert_eq!(
            runs.count(),
            ends.count(),
            "{name}: jobs without timeout-minutes"
        );
        assert!(
            text.contains("\ndefaults:\n  run:\n"),
            "{name} names no shell"
        );
        assert!(
            text.contains("\n    shell: bash\n"),
            "{name} has no pipefail"
        );
    }
}
