//! The gateway from outside: the built program, real servers, foreign clients.
//!
//! `./scripts/test.sh` installs what these tests need; `./scripts/test.sh -- e2e_restart` runs
//! those of one module.

mod e2e_bad_input;
mod e2e_browser;
mod e2e_demo;
mod e2e_drain;
mod e2e_faults;
mod e2e_logs;
mod e2e_nodes;
mod e2e_python;
mod e2e_restart;
mod e2e_stompjs;
mod foreign;
mod house;

/// A file that is not a module here would never run.
#[test]
fn every_file_is_a_module() {
    let this = include_str!("main.rs");
    let folder = std::fs::read_dir(testkit::tests_dir().join("it")).unwrap();
    for entry in folder {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let listed = this.contains(&format!("\nmod {name};\n"));
        assert!(listed || name == "main", "main.rs lacks `mod {name};`");
    }
}
