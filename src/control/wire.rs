//! The format of commands in messages: JSON, so that a backend that knows only AMQP can send
//! them. Pure.
//!
//! ```json
//! { "command": "kick", "user": "alice", "reason": "not paid" }
//! ```
//!
//! | Field | |
//! |---|---|
//! | `command` | `kick`, `recheck`, `forget` or `refresh_groups` (`replace` and `presence_in_memory` are for nodes) |
//! | `session`, or `user` | which sessions; `forget` and `refresh_groups` take a `user` |
//! | `device_type`, `device_id` | with `user`, for `kick` and `recheck`: only those devices |
//! | `reason` | for `kick`: the text for clients |
//! | `expires` | in seconds since 1970: ignored after that; never, if it is missing |
//! | `answer` | `true`: each node publishes the number of its hits to the same exchange |
//! | `id` | the answers refer to it |
//! | `node` | the node that gives the command; it does not hear its own |
//! | `version` | 1 if it is missing |
//!
//! An answer has the `command` `answer`, `to` (the `id`), `node` and `hits`. Unknown fields are
//! ignored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Command, Target};

/// The version of the format that is spoken here.
pub const VERSION: u32 = 1;

/// Longer messages are no commands. In bytes.
pub const MAX_SIZE: usize = 16 * 1024;

/// The longest name of the broker's or of a user, in bytes.
const MAX_NAME: usize = 255;

/// A message of the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Do this.
    Command(Envelope),
    /// This was done.
    Answer {
        /// The id of the command.
        to: Box<str>,
        /// The node that answers.
        node: Box<str>,
        /// How much it did there.
        hits: u64,
    },
    /// A node says that it keeps presence in its own memory, where no other node can look.
    PresenceInMemory {
        /// Which.
        node: Box<str>,
    },
}

/// A command on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The command itself.
    pub command: Command,
    /// The id that answers refer to.
    pub id: Box<str>,
    /// The node that gives it; empty: somebody else.
    pub node: Box<str>,
    /// The moment from which on nodes ignore it.
    pub expires: Option<SystemTime>,
    /// Asks for answers.
    pub answer: bool,
}

impl Envelope {
    /// True if it is too late for it.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// All that a message may have.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    command: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    answer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_type: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hits: Option<u64>,
}

/// Writes a message.
#[must_use]
pub fn encode(note: &Note) -> Vec<u8> {
    let mut fields = Fields {
        version: Some(VERSION),
        ..Fields::default()
    };
    match note {
        Note::Answer { to, node, hits } => {
            fields.command = "answer".into();
            fields.to = Some(to.clone());
            fields.node = node.clone();
            fields.hits = Some(*hits);
        }
        Note::PresenceInMemory { node } => {
            fields.command = "presence_in_memory".into();
            fields.node = node.clone();
        }
        Note::Command(envelope) => {
            fields.command = envelope.command.name().into();
            fields.id = envelope.id.clone();
            fields.node = envelope.node.clone();
            fields.answer = envelope.answer;
            fields.expires = envelope.expires.map(seconds);
            match &envelope.command {
                Command::Kick { target, reason } => {
                    fields.aim(target);
                    fields.reason = reason.clone();
                }
                Command::Recheck(target) => fields.aim(target),
                Command::Replace { session } => fields.session = Some(session.clone()),
                Command::Forget { user } | Command::RefreshGroups { user } => {
                    fields.user = Some(user.clone());
                }
            }
        }
    }
    // Texts, numbers and switches: there is nothing that JSON could not hold.
    serde_json::to_vec(&fields).unwrap_or_default()
}

/// Reads a message.
///
/// # Errors
/// What is wrong with it, for the log: a line without line breaks.
pub fn decode(body: &[u8]) -> Result<Note, String> {
    if body.len() > MAX_SIZE {
        return Err(format!("it has {} bytes, more than {MAX_SIZE}", body.len()));
    }
    // Fields in a list, without their names, would be read, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is not as expected: a JSON object".to_owned());
    }
    let fields: Fields = serde_json::from_slice(body).map_err(|error| {
        format!(
            "it is not as expected: {}",
            error.to_string().escape_debug()
        )
    })?;
    fields.read()
}

impl Fields {
    fn aim(&mut self, target: &Target) {
        match target {
            Target::Session(session) => self.session = Some(session.clone()),
            Target::User(user) => self.user = Some(user.clone()),
            Target::Device {
                user,
                device_type,
                device_id,
            } => {
                self.user = Some(user.clone());
                self.device_type.clone_from(device_type);
                self.device_id.clone_from(device_id);
            }
        }
    }

    fn read(mut self) -> Result<Note, String> {
        if let Some(version) = self.version.filter(|version| *version != VERSION) {
            return Err(format!(
                "its version is {version}, and this node knows {VERSION}"
            ));
        }
        for (name, value) in [
            ("id", Some(&self.id)),
            ("node", Some(&self.node)),
            ("session", self.session.as_ref()),
            ("user", self.user.as_ref()),
            ("device_type", self.device_type.as_ref()),
            ("device_id", self.device_id.as_ref()),
            ("to", self.to.as_ref()),
        ] {
            if value.is_some_and(|value| value.len() > MAX_NAME) {
                return Err(format!("{name} is longer than {MAX_NAME} bytes"));
            }
        }
        let command = match &*self.command {
            "kick" => Command::Kick {
                target: self.target()?,
                reason: std::mem::take(&mut self.reason),
            },
            "recheck" => Command::Recheck(self.target()?),
            "replace" => Command::Replace {
                session: required("session", self.session.take())?,
            },
            "forget" => Command::Forget {
                user: required("user", self.user.take())?,
            },
            "refresh_groups" => Command::RefreshGroups {
                user: required("user", self.user.take())?,
            },
            "answer" => {
                return Ok(Note::Answer {
                    to: required("to", self.to)?,
                    node: self.node,
                    hits: self.hits.unwrap_or_default(),
                });
            }
            "presence_in_memory" => {
                return Ok(Note::PresenceInMemory {
                    node: required("node", Some(self.node))?,
                });
            }
            "" => return Err("command is missing".to_owned()),
            other => {
                let start: String = other.chars().take(40).collect();
                return Err(format!("the command {start:?} is not known"));
            }
        };
        let expires = self.expires.map(|expires| {
            let expires = UNIX_EPOCH.checked_add(Duration::from_secs(expires));
            // A moment too far away to be counted never comes.
            expires.ok_or(())
        });
        Ok(Note::Command(Envelope {
            command,
            id: self.id,
            node: self.node,
            expires: expires.and_then(Result::ok),
            answer: self.answer,
        }))
    }

    fn target(&mut self) -> Result<Target, String> {
        let device = (self.device_type.take(), self.device_id.take());
        match (self.session.take(), self.user.take(), device) {
            (Some(_), Some(_), _) => {
                Err("it has both a session and a user: give one of them".to_owned())
            }
            (Some(session), None, (None, None)) => {
                required("session", Some(session)).map(Target::Session)
            }
            (None, Some(user), (None, None)) => required("user", Some(user)).map(Target::User),
            (None, Some(user), (device_type, device_id)) => Ok(Target::Device {
                user: required("user", Some(user))?,
                device_type,
                device_id,
            }),
            (_, None, (_, _)) => Err(
                "it says not whose sessions: give a session, or a user, to which a device_type or \
                 device_id may be added"
                    .to_owned(),
            ),
        }
    }
}

fn required(name: &str, value: Option<Box<str>>) -> Result<Box<str>, String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("{name} is missing or empty"))
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(device_type: Option<&str>, device_id: Option<&str>) -> Target {
        Target::Device {
            user: "alice".into(),
            device_type: device_type.map(Into::into),
            device_id: device_id.map(Into::into),
        }
    }

    fn read(body: &str) -> Result<Command, String> {
        match decode(body.as_bytes())? {
            Note::Command(envelope) => Ok(envelope.command),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_backend_needs_few_words() {
        let kick = read(r#"{"command":"kick","user":"alice"}"#);
        let expected = Command::Kick {
            target: Target::User("alice".into()),
            reason: "".into(),
        };
        assert_eq!(kick, Ok(expected));
        let with_more = read(
            r#"{"command":"recheck","user":"alice","device_id":"7","colour":"red","tags":[{}]}"#,
        );
        assert_eq!(with_more, Ok(Command::Recheck(device(None, Some("7")))));
        let groups = read(r#"{"version":1,"command":"refresh_groups","user":"alice"}"#);
        assert!(matches!(groups, Ok(Command::RefreshGroups { .. })));
    }

    #[test]
    fn what_is_written_is_read() {
        let user = || Box::<str>::from("alice");
        let reason: Box<str> = "\"no\"\nöß\0".into();
        let commands = [
            Command::Kick {
                target: Target::Session("s".into()),
                reason,
            },
            Command::Replace {
                session: "s".into(),
            },
            Command::Recheck(device(Some("phone"), None)),
            Command::Recheck(device(Some("phone"), Some("1"))),
            Command::Forget { user: user() },
            Command::RefreshGroups { user: user() },
        ];
        let expires = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for command in commands {
            let note = Note::Command(Envelope {
                command,
                id: "id".into(),
                node: "n".into(),
                expires: Some(expires),
                answer: true,
            });
            assert_eq!(decode(&encode(&note)), Ok(note));
        }
        let answer = Note::Answer {
            to: "id".into(),
            node: "n".into(),
            hits: 3,
        };
        assert_eq!(decode(&encode(&answer)), Ok(answer));
        let told = Note::PresenceInMemory { node: "n".into() };
        assert_eq!(decode(&encode(&told)), Ok(told));
    }

    #[test]
    fn what_cannot_be_done_says_why() {
        let long = format!(r#"{{"command":"kick","user":"{}"}}"#, "x".repeat(256));
        for (body, why) in [
            ("", "not as expected"),
            ("[]", "not as expected"),
            (r#"{"command":7}"#, "not as expected"),
            (r#"{"user":"alice"}"#, "command is missing"),
            (
                r#"{"command":"explode","user":"alice"}"#,
                "\"explode\" is not known",
            ),
            (r#"{"command":"presence_in_memory"}"#, "node is missing"),
            (r#"{"command":"kick"}"#, "says not whose"),
            (
                r#"{"command":"kick","device_type":"phone"}"#,
                "says not whose",
            ),
            (
                r#"{"command":"kick","session":"s","device_type":"phone"}"#,
                "says not whose",
            ),
            (r#"{"command":"kick","user":""}"#, "user is missing"),
            (r#"{"command":"kick","user":"a","session":"s"}"#, "both"),
            (r#"{"command":"forget","session":"s"}"#, "user is missing"),
            (
                r#"{"command":"kick","user":"a","version":2}"#,
                "version is 2",
            ),
            (&long, "user is longer"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let long = vec![b' '; MAX_SIZE + 1];
        assert!(decode(&long).unwrap_err().contains("16385 bytes"));
    }

    #[test]
    fn a_command_is_over_when_it_says_so() {
        let at = |expires: &str| {
            let body = format!(r#"{{"command":"kick","user":"a"{expires}}}"#);
            match decode(body.as_bytes()) {
                Ok(Note::Command(envelope)) => envelope,
                other => panic!("{other:?}"),
            }
        };
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(!at("").is_expired(now));
        assert!(!at(r#","expires":1001"#).is_expired(now));
        assert!(at(r#","expires":1000"#).is_expired(now));
        assert!(!at(&format!(r#","expires":{}"#, u64::MAX)).is_expired(now));
    }
}
