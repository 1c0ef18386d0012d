//! What was found: each answer with its cure, and all of them as a report.

use std::time::Duration;

use serde::Serialize;

/// How an answer is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Right,
    /// It works, but hardly as it was meant.
    Doubtful,
    /// It does not work.
    Wrong,
    /// Nobody could be asked.
    Unasked,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The question, one of [`QUESTIONS`].
    pub question: &'static str,
    /// How it is to be taken.
    pub mark: Mark,
    /// The answer, in a sentence without secrets.
    pub text: String,
    /// Commands, or lines of the configuration, that mend it or ask for it.
    pub cure: Vec<String>,
    /// How long it took to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

/// All questions, by the part of the gateway that asks. docs/doctor.md explains each.
pub const QUESTIONS: &[&str] = &[
    "configuration.keys",
    "configuration.files",
    "broker.login",
    "broker.vhost",
    "broker.permissions",
    "broker.queues",
    "broker.exchange",
    "broker.whole",
    "broker.journal",
    "broker.offline",
    "broker.impersonate",
    "management.reachable",
    "management.alarms",
    "management.policies",
    "management.queue-type",
    "management.deprecated",
    "management.bindings",
    "management.journals",
    "management.offline",
    "management.types",
    "auth.hook",
    "auth.tokens",
    "auth.accounts",
    "auth.login",
    "auth.right",
    "presence.redis",
    "presence.rights",
    "presence.memory",
    "traces.collector",
    "tls.certificate",
    "tls.server",
    "system.files",
    "system.backlog",
    "system.port",
    "system.memory",
    "clock.difference",
];

impl Finding {
    fn new(question: &'static str, mark: Mark, text: impl Into<String>) -> Self {
        debug_assert!(QUESTIONS.contains(&question), "{question}");
        Self {
            question,
            mark,
            text: text.into(),
            cure: Vec::new(),
            milliseconds: None,
        }
    }

    pub(super) fn right(question: &'static str, text: impl Into<String>) -> Self {
        Self::new(question, Mark::Right, text)
    }

    pub(super) fn doubtful(question: &'static str, text: impl Into<String>) -> Self {
        Self::new(question, Mark::Doubtful, text)
    }

    pub(super) fn wrong(question: &'static str, text: impl Into<String>) -> Self {
        Self::new(question, Mark::Wrong, text)
    }

    pub(super) fn unasked(question: &'static str, text: impl Into<String>) -> Self {
        Self::new(question, Mark::Unasked, text)
    }

    /// Mended, or asked, by this command or line.
    pub(super) fn cure(mut self, line: impl Into<String>) -> Self {
        self.cure.push(line.into());
        self
    }

    /// It took so long to ask.
    pub(super) fn took(mut self, time: Duration) -> Self {
        self.milliseconds = Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// The part that it belongs to.
    pub(super) fn part(&self) -> &'static str {
        self.question.split('.').next().unwrap_or_default()
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this program.
    pub stentor: &'static str,
    /// The configuration that was examined.
    pub configuration: String,
    /// Whether nothing is wrong.
    pub sound: bool,
    /// How many answers there are of each mark.
    pub counts: Counts,
    /// How long all of it took.
    pub milliseconds: u64,
    /// The answers.
    pub findings: Vec<Finding>,
}

/// How many answers there are of each mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// As they should be.
    pub right: usize,
    /// Hardly as meant.
    pub doubtful: usize,
    /// Those that do not work.
    pub wrong: usize,
    /// Those that nobody could be asked for.
    pub unasked: usize,
}

impl Report {
    pub(super) fn new(configuration: String, findings: Vec<Finding>, time: Duration) -> Self {
        let count = |mark| findings.iter().filter(|found| found.mark == mark).count();
        let counts = Counts {
            right: count(Mark::Right),
            doubtful: count(Mark::Doubtful),
            wrong: count(Mark::Wrong),
            unasked: count(Mark::Unasked),
        };
        Self {
            stentor: env!("CARGO_PKG_VERSION"),
            configuration,
            sound: counts.wrong == 0,
            counts,
            milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            findings,
        }
    }
}
