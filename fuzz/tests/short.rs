//! The short run that is a part of all tests: the same inputs each time, from a seed that is shown.
//! `FUZZ_SEED` gives another one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{env, fs, path::Path};

use stentor_fuzz::{
    engine::{self, Until},
    targets,
};

#[test]
fn nothing_is_broken_by_any_bytes() {
    let seed = env::var("FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("FUZZ_SEED={seed}");
    // Side by side: most of the time goes to few of them.
    let runs: Vec<_> = targets::all()
        .into_iter()
        .map(|target| {
            let run = move || {
                let until = Until::Executions(target.short);
                let outcome = engine::run(&target, target.corpus(), seed, until, |_| {}, |_| {});
                (target, outcome)
            };
            std::thread::spawn(run)
        })
        .collect();
    let mut broken = Vec::new();
    for run in runs {
        let (target, outcome) = run.join().unwrap();
        match outcome {
            Ok(progress) => println!(
                "{}: {} executions in {:?}",
                target.name, progress.executions, progress.elapsed
            ),
            Err(crash) => broken.push(format!("{}: {}", target.name, crash.input.escape_ascii())),
        }
    }
    assert!(broken.is_empty(), "FUZZ_SEED={seed}\n{}", broken.join("\n"));
}

#[test]
fn each_corpus_has_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut names: Vec<_> = targets::all().iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(folders, names);
}
