//! From `rabbitmq.conf` to Stentor's configuration, for users of RabbitMQ's plug-ins: text in,
//! text out.
//!
//! Every line has one of five fates: it becomes an entry, which the real reader of the
//! configuration has accepted; Stentor does the same by itself; it has no equivalent, with the
//! reason; it is wrong; or it is RabbitMQ's own. Secrets are never in the output.

mod conf;
mod keys;
mod listeners;
mod rules;
mod tls;
mod tokens;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use thiserror::Error;

use crate::config::{Config, DEFAULT, File, VARIABLE_PREFIX, ValueSource};
use rules::{Draft, Entry, Fate, Note};

/// The translation of a `rabbitmq.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Stentor's configuration, in TOML; comments explain the fate of the other lines.
    pub toml: String,
    /// Settings without an equivalent, and the remedy: a line each, such as `9: web_stomp.…: …`.
    pub without: Vec<String>,
    /// Lines that cannot be read, or are unknown; likewise.
    pub wrong: Vec<String>,
}

/// It is RabbitMQ's older configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "is a list of Erlang terms (rabbitmq.config or advanced.config), which is not read here: write \
     its rabbitmq_stomp, rabbitmq_web_stomp and rabbitmq_auth_backend_http settings as rabbitmq.conf \
     has them (\"stomp.login_timeout = 10000\"; see https://www.rabbitmq.com/docs/configure), and \
     give that file"
)]
pub struct ErlangTerms;

/// Translates a `rabbitmq.conf`.
///
/// # Errors
/// The text is a list of Erlang terms.
pub fn from_rabbitmq(text: &str) -> Result<Migration, ErlangTerms> {
    if conf::is_erlang(text) {
        return Err(ErlangTerms);
    }
    let mut draft = Draft::of(text);
    refuse_what_the_reader_refuses(&mut draft);
    leave_out_defaults(&mut draft);
    draft.notes.sort();
    Ok(Migration {
        toml: show(&draft),
        without: lines(&draft.notes, |fate| matches!(fate, Fate::Without(_))),
        wrong: lines(&draft.notes, |fate| matches!(fate, Fate::Wrong(_))),
    })
}

/// Removes entries that RabbitMQ takes and Stentor does not (a time-out of zero, say): the reader
/// takes every entry that is written.
fn refuse_what_the_reader_refuses(draft: &mut Draft<'_>) {
    while let Err(errors) = load(&draft.entries) {
        let Some(problem) = errors.0.first() else {
            return;
        };
        let line = match problem.place {
            ValueSource::Line(_, line) => line,
            ValueSource::Variable(_) | ValueSource::Unset(_) => 1,
        };
        // A line each.
        let entries = draft.entries.iter().enumerate();
        let mut read = entries.filter(|(_, entry)| !entry.is_example);
        let Some((index, _)) = read.nth(line.saturating_sub(1)) else {
            return;
        };
        let entry = draft.entries.remove(index);
        for (line, key) in entry.from {
            let why = format!("Stentor does not take this value: {}", problem.message);
            draft.notes.push(Note {
                line,
                key,
                fate: Fate::Without(why),
            });
        }
    }
}

fn leave_out_defaults(draft: &mut Draft<'_>) {
    let (same, written) = std::mem::take(&mut draft.entries)
        .into_iter()
        .partition(|entry| {
            let is_default = load(std::slice::from_ref(entry)) == Ok(Config::default());
            is_default && !entry.is_example
        });
    draft.entries = written;
    let same: Vec<Entry> = same;
    for entry in same {
        let Entry {
            section,
            key,
            value,
            from,
            ..
        } = entry;
        for (line, origin) in from {
            draft.notes.push(Note {
                line,
                key: origin,
                fate: Fate::Same(format!("the default: [{section}] {key} = {value}")),
            });
        }
    }
}

/// The entries as the real reader sees them. A section may come once only, so each entry has a
/// key with its section in it.
fn load(entries: &[Entry]) -> Result<Config, crate::config::ConfigErrors> {
    let mut text = String::new();
    for entry in entries.iter().filter(|entry| !entry.is_example) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{}.{} = {}", entry.section, entry.key, entry.value);
    }
    let file = File {
        name: "rabbitmq.conf",
        text: &text,
    };
    Config::load_draft(file)
}

fn lines(notes: &[Note], wanted: impl Fn(&Fate) -> bool) -> Vec<String> {
    let wanted = notes.iter().filter(|note| wanted(&note.fate));
    wanted.map(ToString::to_string).collect()
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        match &self.fate {
            Fate::Same(text) | Fate::Without(text) | Fate::Wrong(text) => f.write_str(text),
            Fate::RabbitMq => f.write_str("RabbitMQ's own"),
        }
    }
}

const HEAD: &str = "\
# Stentor's configuration, made from rabbitmq.conf by `stentor config --from-rabbitmq`.
# All keys with their meaning: stentor config --default
#
# To do before the first start:
# - Make an account for Stentor at RabbitMQ, and give it by the variable STENTOR__BROKER__URL.
# - Read what the end of this file says.
# - stentor config --check FILE
";

fn show(draft: &Draft<'_>) -> String {
    let mut text = HEAD.to_owned();
    // Writing to a `String` cannot fail.
    for section in sections() {
        let entries: Vec<&Entry> = draft
            .entries
            .iter()
            .filter(|entry| entry.section == section)
            .collect();
        let todo = match section {
            "broker" => Some(broker_url(draft)),
            "auth"
                if draft.entry(("auth", "user_path")).is_none()
                    && draft.entry(("auth.rabbitmq", "definitions")).is_none()
                    && draft.entry(("auth.jwt", "jwks_url")).is_none()
                    && draft.entry(("auth.jwt", "public_keys")).is_none() =>
            {
                Some(USER_PATH.to_owned())
            }
            _ => None,
        };
        if entries.is_empty() && todo.is_none() {
            continue;
        }
        let _ = write!(text, "\n[{section}]\n{}", todo.unwrap_or_default());
        for entry in entries {
            let from = entry
                .from
                .iter()
                .map(|(line, key)| format!("line {line}: {key}"))
                .chain(entry.comment.clone());
            for comment in from {
                let _ = writeln!(text, "# {comment}");
            }
            let off = if entry.is_example { "#" } else { "" };
            let _ = writeln!(text, "{off}{} = {}", entry.key, entry.value);
        }
    }
    for (title, wanted) in [
        (
            "Could not be read",
            (|fate| matches!(fate, Fate::Wrong(_))) as fn(&Fate) -> bool,
        ),
        ("Without an equivalent", |fate| {
            matches!(fate, Fate::Without(_))
        }),
        ("Nothing to write, for Stentor does the same", |fate| {
            matches!(fate, Fate::Same(_))
        }),
        ("RabbitMQ's own: stays in rabbitmq.conf", |fate| {
            matches!(fate, Fate::RabbitMq)
        }),
    ] {
        let lines = lines(&draft.notes, wanted);
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n# {title}:");
        for line in lines {
            let line = line.trim_end_matches(": RabbitMQ's own");
            let _ = writeln!(text, "#   line {line}");
        }
    }
    text
}

/// In the order of the default file.
fn sections() -> impl Iterator<Item = &'static str> {
    DEFAULT
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'))
}

fn broker_url(draft: &Draft<'_>) -> String {
    let (scheme, usual) = match draft.amqp_is_tls {
        true => ("amqps", "localhost:5671"),
        false => ("amqp", "127.0.0.1:5672"),
    };
    let address = draft.amqp.as_deref().unwrap_or(usual);
    let asked = if draft.has_own_users {
        ""
    } else {
        "# RabbitMQ does not know users by itself (auth_backends), so the hook is asked about this\n\
         # account too: let it, or add \"auth_backends.9 = internal\" to rabbitmq.conf.\n"
    };
    format!(
        "# RabbitMQ, and Stentor's own account there; better by {VARIABLE_PREFIX}BROKER__URL, for the\n\
         # password's sake.\n{asked}#url = \"{scheme}://stentor:PASSWORD@{address}\"\n"
    )
}

const USER_PATH: &str = "\
# Who may log in, and what they may do, is asked of your application's hook: there is none in
# rabbitmq.conf that could be written here.
#user_path = \"http://127.0.0.1:8000/auth/user\"
";
