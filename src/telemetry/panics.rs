//! Panics, which are faults of this program, as lines of the log: whoever ships JSON would lose them
//! otherwise, as the standard library writes them to standard error in words of its own.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    thread,
};

use super::{event::panicked, flush};

/// From now on panics are in the log.
pub(super) fn log() {
    panic::set_hook(Box::new(tell));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let words = panic.payload_as_str().unwrap_or("it says nothing");
    let place = panic.location().map(ToString::to_string);
    // As the variable RUST_BACKTRACE wishes.
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    let thread = thread::current();
    let thread = thread.name().unwrap_or_default();
    panicked(words, place.as_deref(), thread, trace.as_deref());
    // With the first thread, the process ends.
    if thread == "main" {
        flush();
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::super::{Config, Format, init};
    use super::*;

    /// For the process that this test starts of itself: what is set there is for a whole process.
    const ROLE: &str = "STENTOR_TEST_PANICS";
    const NAME: &str = "telemetry::panics::tests::a_panic_is_a_line_of_the_log";

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        if env::var_os(ROLE).is_some() {
            let config = Config {
                format: Format::Json,
                ..Config::default()
            };
            init(&config).unwrap();
            let worker = thread::Builder::new().name("worker".to_owned());
            let panicked = worker
                .spawn(|| panic!("no such key\n\"a\""))
                .unwrap()
                .join();
            assert!(panicked.is_err());
            return flush();
        }
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", NAME, "--nocapture"]).env(ROLE, "1");
        let output = again.env("RUST_BACKTRACE", "0").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}")))
            .collect();
        let [line] = &*lines else {
            panic!("{text}");
        };
        assert_eq!(line["level"], "ERROR", "{text}");
        assert_eq!(line["target"], "stentor::panic", "{text}");
        assert_eq!(line["panic"], "no such key\n\"a\"", "{text}");
        assert_eq!(line["thread"], "worker", "{text}");
        let place = line["place"].as_str().unwrap();
        assert!(place.starts_with("src/telemetry/panics.rs:"), "{text}");
    }
}
