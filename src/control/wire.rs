//! The format of commands in messages: JSON, so that a backend that knows only AMQP can send
//! them. Pure.
//!
//! ```json
//! { "command": "kick", "user": "alice", "reason": "not paid" }
//! ```
//!
//! | Field | |
//! |---|---|
//! | `command` | `kick`, `unsubscribe`, `recheck`, `forget`, `refresh_groups`, `ban` or `unban` (`replace`, `bans`, `banned`, `look`, `seen`, `presence_in_memory`, `tail` and `tail_ends` are for nodes) |
//! | `session`, or `user` | which sessions; `unsubscribe`, `forget` and `refresh_groups` take a `user` |
//! | `destination` | for `unsubscribe`: which subscriptions, as a SUBSCRIBE names it |
//! | `vhost` | for `unsubscribe`: only those in this virtual host |
//! | `user`, `address` or `device_id` | for `ban` and `unban`: who. An address may be a network |
//! | `until` | for `ban`: in seconds since 1970, when it ends. Without it, it is there until `unban` |
//! | `device_type`, `device_id` | with `user`, for `kick` and `recheck`: only those devices |
//! | `reason` | for `kick`, `unsubscribe` and `ban`: the text for clients |
//! | `expires` | in seconds since 1970: ignored after that; never, if it is missing |
//! | `answer` | `true`: each node publishes the number of its hits to the same exchange |
//! | `id` | the answers refer to it |
//! | `node` | the node that gives the command; it does not hear its own |
//! | `stamp` | in milliseconds since 1970; a ban with another unit is refused, and a backend's of the last day of the year 9999. Of a ban, by a node: when it was set or lifted; the latest counts. Without it, it is as new as AMQP's `timestamp` says, or else as it comes; and what comes after it is newer. Of others: when it was asked for. A `kick` or an `unsubscribe` that comes late is not for sessions that logged in since |
//! | `version` | 1 if it is missing |
//!
//! An answer has the `command` `answer`, `to` (the `id`), `node` and `hits`. A node that begins to
//! listen asks for `bans`; the others answer with messages `banned`, which list them. A node asks by
//! `look` what there is to see (`overview`, `refusals`; or `session`, `destinations` and `subscribed`, which have an
//! `about`); the others answer with `seen`: `to`, `node`, and a `view`. A node that
//! shows a `tail` says so again and again, with the `queue` that it reads frames from. Unknown fields
//! are ignored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Command, Look, Target,
    ban::{Change, Written},
    unsubscribe::Unsubscribe,
};
use crate::{broker::TAIL_QUEUES, tap::Filter};

/// The version of the format that is spoken here.
pub const VERSION: u32 = 1;

/// Longer messages are no commands. In bytes.
pub const MAX_SIZE: usize = 16 * 1024;

/// The longest name of the broker's or of a user, in bytes.
const MAX_NAME: usize = 255;

/// The longest text that a look is about, in bytes: keys, for instance.
pub const MAX_ABOUT: usize = 12 * 1024;

/// The longest pattern of destinations, in bytes.
pub const MAX_PATTERN: usize = 1024;

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
    /// A node asks for the bans that others know of.
    BansWanted {
        /// Which node.
        node: Box<str>,
    },
    /// Some bans that a node knows of.
    Bans {
        /// Which node.
        node: Box<str>,
        /// The bans, and those that are no more.
        changes: Vec<Change>,
        /// What is wrong with those that cannot be read.
        faults: Vec<String>,
    },
    /// A node asks what there is to see.
    Look {
        /// Its id.
        id: Box<str>,
        /// Which node asks.
        node: Box<str>,
        /// What it wants to see.
        look: Look,
        /// The moment from which on nobody waits for the answer.
        expires: Option<SystemTime>,
    },
    /// This is to be seen.
    Seen {
        /// The id of the question.
        to: Box<str>,
        /// The node that answers.
        node: Box<str>,
        /// `None`: nothing of that.
        view: Option<Value>,
    },
    /// A node shows somebody frames of all nodes, for a few seconds more.
    Tail(TailAsked),
    /// It does so no more.
    TailEnds {
        /// Which tail.
        id: Box<str>,
        /// Which node.
        node: Box<str>,
    },
}

/// A tail that a node shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailAsked {
    /// The tail's id.
    pub id: Box<str>,
    /// The node.
    pub node: Box<str>,
    /// The queue that it reads frames from; its name begins with [`TAIL_QUEUES`].
    pub queue: Box<str>,
    /// The frames that are meant.
    pub filter: Filter,
    /// The bytes of each body that are to be shown.
    pub bodies: u32,
    /// The moment from which on nodes ignore this.
    pub expires: Option<SystemTime>,
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
    /// When it was asked for; missing where it is not said. [`Command::Ban`] says that itself: so here
    /// it is what its message says of it.
    pub stamp: Option<SystemTime>,
    /// Asks for answers.
    pub answer: bool,
}

impl Envelope {
    /// How long it was on its way; not at all, if it does not say.
    #[must_use]
    pub fn late(&self, now: SystemTime) -> Duration {
        let late = self.stamp.map(|stamp| now.duration_since(stamp));
        late.and_then(Result::ok).unwrap_or_default()
    }

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
    vhost: Option<Box<str>>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bans: Vec<Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    look: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<Box<str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bodies: Option<u32>,
}

/// Bans as messages `banned`: each is shorter than [`MAX_SIZE`].
#[must_use]
pub fn encode_bans(node: &str, changes: Vec<Change>) -> Vec<Vec<u8>> {
    // With room for the rest of the message.
    const ROOM: usize = MAX_SIZE - 1024;
    let mut messages = Vec::new();
    let (mut some, mut size) = (Vec::new(), 0_usize);
    let mut finish = |changes: Vec<Change>| {
        messages.push(encode(&Note::Bans {
            node: node.into(),
            changes,
            faults: Vec::new(),
        }));
    };
    for change in changes {
        let length = change.to_json().len().saturating_add(1);
        if size.saturating_add(length) > ROOM && !some.is_empty() {
            finish(std::mem::take(&mut some));
            size = 0;
        }
        size = size.saturating_add(length);
        some.push(change);
    }
    if !some.is_empty() {
        finish(some);
    }
    messages
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
        Note::BansWanted { node } => {
            fields.command = "bans".into();
            fields.node = node.clone();
        }
        Note::Bans { node, changes, .. } => {
            fields.command = "banned".into();
            fields.node = node.clone();
            fields.bans = changes.iter().map(Written::of).collect();
        }
        Note::Look {
            id,
            node,
            look,
            expires,
        } => {
            fields.expires = expires.map(seconds);
            fields.command = "look".into();
            fields.id = id.clone();
            fields.node = node.clone();
            fields.look = Some(look.name().into());
            fields.about = look.about().map(Into::into);
        }
        Note::Seen { to, node, view } => {
            fields.command = "seen".into();
            fields.to = Some(to.clone());
            fields.node = node.clone();
            fields.view = view.clone();
        }
        Note::Tail(asked) => {
            fields.command = "tail".into();
            fields.id = asked.id.clone();
            fields.node = asked.node.clone();
            fields.queue = Some(asked.queue.clone());
            fields.expires = asked.expires.map(seconds);
            fields.bodies = Some(asked.bodies);
            let Filter {
                user,
                session,
                destination,
                refused,
            } = asked.filter.clone();
            (fields.user, fields.session) = (user, session);
            (fields.destination, fields.refused) = (destination, refused);
        }
        Note::TailEnds { id, node } => {
            fields.command = "tail_ends".into();
            fields.id = id.clone();
            fields.node = node.clone();
        }
        Note::Command(envelope) => {
            fields.command = envelope.command.name().into();
            fields.id = envelope.id.clone();
            fields.node = envelope.node.clone();
            fields.answer = envelope.answer;
            fields.expires = envelope.expires.map(seconds);
            fields.stamp = envelope.stamp.map(milliseconds);
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
                Command::Unsubscribe(wanted) => {
                    fields.user = Some(wanted.user.clone());
                    fields.vhost.clone_from(&wanted.vhost);
                    fields.destination = Some(wanted.destination.to_string().into());
                    fields.reason = wanted.reason.clone();
                }
                Command::Ban(change) => {
                    let written = Written::of(change);
                    fields.user = written.user;
                    fields.address = written.address;
                    fields.device_id = written.device_id;
                    fields.stamp = written.stamp;
                    fields.until = written.until;
                    fields.reason = written.reason;
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
            ("vhost", self.vhost.as_ref()),
            ("device_type", self.device_type.as_ref()),
            ("device_id", self.device_id.as_ref()),
            ("to", self.to.as_ref()),
        ] {
            if value.is_some_and(|value| value.len() > MAX_NAME) {
                return Err(format!("{name} is longer than {MAX_NAME} bytes"));
            }
        }
        if self
            .about
            .as_ref()
            .is_some_and(|about| about.len() > MAX_ABOUT)
        {
            return Err(format!("about is longer than {MAX_ABOUT} bytes"));
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
            "unsubscribe" => Command::Unsubscribe(Arc::new(self.unsubscribe()?)),
            "ban" => Command::Ban(self.change(false)?),
            "unban" => Command::Ban(self.change(true)?),
            "bans" => return Ok(Note::BansWanted { node: self.node }),
            "banned" => {
                let (mut changes, mut faults) = (Vec::new(), Vec::new());
                for written in self.bans {
                    match written.read() {
                        Ok(change) => changes.push(change),
                        Err(fault) => faults.push(fault),
                    }
                }
                return Ok(Note::Bans {
                    node: self.node,
                    changes,
                    faults,
                });
            }
            "look" => {
                let name = required("look", self.look.take())?;
                let look = Look::read(&name, self.about.take());
                return Ok(Note::Look {
                    expires: self.expires(),
                    id: required("id", Some(self.id))?,
                    node: self.node,
                    look: look.ok_or_else(|| "it asks to see what is not known here".to_owned())?,
                });
            }
            "seen" => {
                return Ok(Note::Seen {
                    to: required("to", self.to)?,
                    node: self.node,
                    view: self.view,
                });
            }
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
            "tail" => return self.tail().map(Note::Tail),
            "tail_ends" => {
                return Ok(Note::TailEnds {
                    id: required("id", Some(self.id))?,
                    node: self.node,
                });
            }
            "" => return Err("command is missing".to_owned()),
            other => {
                let start: String = other.chars().take(40).collect();
                return Err(format!("the command {start:?} is not known"));
            }
        };
        let stamp = self.stamp.filter(|_| !command.is_timeless());
        Ok(Note::Command(Envelope {
            command,
            expires: self.expires(),
            stamp: stamp.and_then(|stamp| UNIX_EPOCH.checked_add(Duration::from_millis(stamp))),
            id: self.id,
            node: self.node,
            answer: self.answer,
        }))
    }

    /// A moment too far away to be counted never comes.
    fn expires(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.expires?))
    }

    fn tail(self) -> Result<TailAsked, String> {
        let expires = self.expires();
        let queue = required("queue", self.queue)?;
        // Frames are for nobody but a node, whatever a publisher writes here.
        if !queue.starts_with(TAIL_QUEUES) || queue.len() > MAX_NAME {
            return Err(format!("queue does not begin with {TAIL_QUEUES:?}"));
        }
        let destination = self.destination;
        if destination
            .as_ref()
            .is_some_and(|text| text.len() > MAX_PATTERN)
        {
            return Err(format!("destination is longer than {MAX_PATTERN} bytes"));
        }
        Ok(TailAsked {
            id: required("id", Some(self.id))?,
            node: required("node", Some(self.node))?,
            queue,
            filter: Filter {
                user: self.user,
                session: self.session,
                destination,
                refused: self.refused,
            },
            bodies: self.bodies.unwrap_or_default(),
            expires,
        })
    }

    fn unsubscribe(&mut self) -> Result<Unsubscribe, String> {
        let destination = required("destination", self.destination.take())?;
        let destination = Unsubscribe::destination(&destination)
            .map_err(|error| format!("destination {error}"))?;
        Ok(Unsubscribe {
            user: required("user", self.user.take())?,
            vhost: self.vhost.take(),
            destination,
            reason: std::mem::take(&mut self.reason),
        })
    }

    fn change(&mut self, lifted: bool) -> Result<Change, String> {
        let written = Written {
            user: self.user.take(),
            address: self.address.take(),
            device_id: self.device_id.take(),
            stamp: self.stamp,
            until: self.until,
            reason: std::mem::take(&mut self.reason),
            lifted,
        };
        let change = written.read()?;
        if self.node.is_empty()
            && let Some(stamp) = change.stamp
            && !Change::is_backend_s_stamp(stamp)
        {
            return Err(format!(
                "stamp {stamp} is too late for another change to come after it; leave it out, or \
                 write milliseconds since 1970"
            ));
        }
        Ok(change)
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

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment too far away to be counted never comes.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Ban, Subject},
        *,
    };

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
            unsubscribe("/exchange/room/lobby%2F2", None),
            unsubscribe("/topic/a.#", Some("/")),
            unsubscribe("/queue/q", Some("v")),
            Command::Ban(ban("user:alice", Some("spam"))),
            Command::Ban(ban("address:192.0.2.0/24", None)),
            Command::Ban(ban("device:7", Some(""))),
        ];
        let expires = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for command in commands {
            let stamp = (!command.is_timeless()).then_some(expires + Duration::from_millis(7));
            let note = Note::Command(Envelope {
                command,
                id: "id".into(),
                node: "n".into(),
                expires: Some(expires),
                stamp,
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
        for look in [
            Look::Overview,
            Look::Refusals,
            Look::Session("s".into()),
            Look::Destinations("".into()),
        ] {
            let note = Note::Look {
                id: "id".into(),
                node: "n".into(),
                look,
                expires: Some(expires),
            };
            assert_eq!(decode(&encode(&note)), Ok(note));
        }
        for view in [None, Some(serde_json::json!({ "a": [1.5, "b"] }))] {
            let note = Note::Seen {
                to: "id".into(),
                node: "n".into(),
                view,
            };
            assert_eq!(decode(&encode(&note)), Ok(note));
        }
        let wanted = Note::BansWanted { node: "n".into() };
        assert_eq!(decode(&encode(&wanted)), Ok(wanted));
        let filter = Filter {
            user: Some("alice".into()),
            session: Some("s".into()),
            destination: Some("/topic/*".into()),
            refused: true,
        };
        for filter in [filter, Filter::default()] {
            let tail = Note::Tail(TailAsked {
                id: "id".into(),
                node: "n".into(),
                queue: format!("{TAIL_QUEUES}1").into(),
                filter,
                bodies: 7,
                expires: Some(expires),
            });
            assert_eq!(decode(&encode(&tail)), Ok(tail));
        }
        let (id, node) = ("id".into(), "n".into());
        let over = Note::TailEnds { id, node };
        assert_eq!(decode(&encode(&over)), Ok(over));
    }

    fn unsubscribe(destination: &str, vhost: Option<&str>) -> Command {
        Command::Unsubscribe(Arc::new(Unsubscribe {
            user: "alice".into(),
            vhost: vhost.map(Into::into),
            destination: Unsubscribe::destination(destination).unwrap(),
            reason: "removed".into(),
        }))
    }

    /// Nor may one that can publish commands have frames sent to a client's queue.
    #[test]
    fn frames_of_a_tail_go_to_a_node() {
        let long = "x".repeat(MAX_PATTERN + 1);
        for (fields, why) in [
            (String::new(), "queue is missing"),
            (r#","queue":"orders""#.to_owned(), "queue does not begin"),
            (
                r#","queue":"stentor.feed.n.0""#.to_owned(),
                "queue does not begin",
            ),
            (
                format!(r#","queue":"{TAIL_QUEUES}1","destination":"{long}""#),
                "destination is longer",
            ),
        ] {
            let body = format!(r#"{{"command":"tail","id":"1","node":"n"{fields}}}"#);
            let error = decode(body.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
    }

    fn ban(key: &str, reason: Option<&str>) -> Change {
        Change {
            subject: Subject::from_key(key).unwrap(),
            stamp: Some(1_800_000_000_000),
            ban: reason.map(|reason| Ban {
                until: UNIX_EPOCH.checked_add(Duration::from_secs(1_900_000_000)),
                reason: reason.into(),
            }),
        }
    }

    /// However many they are, and however long.
    #[test]
    fn bans_are_told_in_messages_that_are_read() {
        assert!(encode_bans("n", Vec::new()).is_empty());
        let reason = "\u{1}".repeat(Ban::MAX_REASON);
        let user = "\"".repeat(MAX_NAME);
        let mut all: Vec<_> = (0..500)
            .map(|number| ban(&format!("user:{number}"), Some("spam")))
            .collect();
        all.extend((0..20).map(|_| ban(&format!("user:{user}"), Some(&reason))));
        let messages = encode_bans("n", all.clone());
        assert!(
            messages.len() > 2 && messages.len() < 30,
            "{}",
            messages.len()
        );
        let read = messages.iter().flat_map(|message| match decode(message) {
            Ok(Note::Bans { changes, .. }) => changes,
            other => panic!("{other:?}"),
        });
        assert_eq!(read.collect::<Vec<_>>(), all);
    }

    /// Others may be older, or may hold what was said wrong.
    #[test]
    fn of_many_bans_those_are_taken_that_can_be_read() {
        let good = ban("user:alice", Some("spam"));
        let body = format!(
            r#"{{"command":"banned","node":"n","bans":[{{}},{},{{"user":"b","stamp":{}}}]}}"#,
            good.to_json(),
            u64::MAX
        );
        let Ok(Note::Bans {
            changes, faults, ..
        }) = decode(body.as_bytes())
        else {
            panic!("{body}");
        };
        assert_eq!(changes, [good]);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("says not who"), "{faults:?}");
        assert!(faults[1].contains("no moment"), "{faults:?}");
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
            (
                r#"{"command":"unsubscribe","user":"a"}"#,
                "destination is missing",
            ),
            (
                r#"{"command":"unsubscribe","destination":"/topic/a"}"#,
                "user is missing",
            ),
            (
                r#"{"command":"unsubscribe","user":"a","destination":"/moon/a"}"#,
                "is not a valid destination",
            ),
            (
                r#"{"command":"unsubscribe","user":"a","destination":"/temp-queue/a"}"#,
                "is no destination that clients subscribe to",
            ),
            (r#"{"command":"ban"}"#, "says not who"),
            (
                r#"{"command":"ban","user":"a","address":"::1"}"#,
                "says not who",
            ),
            (r#"{"command":"ban","user":""}"#, "user is empty"),
            (r#"{"command":"unban","address":"0.0.0.0/0"}"#, "too large"),
            (
                r#"{"command":"ban","user":"a","stamp":18446744073709551615}"#,
                "is no moment",
            ),
            (
                r#"{"command":"unban","user":"a","stamp":1900000000000000000}"#,
                "write milliseconds",
            ),
            (r#"{"command":"look","id":"i"}"#, "look is missing"),
            (r#"{"command":"look","look":"overview"}"#, "id is missing"),
            (
                r#"{"command":"look","id":"i","look":"moon"}"#,
                "not known here",
            ),
            (
                r#"{"command":"look","id":"i","look":"session"}"#,
                "not known here",
            ),
            (r#"{"command":"seen"}"#, "to is missing"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let long = vec![b' '; MAX_SIZE + 1];
        assert!(decode(&long).unwrap_err().contains("16385 bytes"));
    }

    /// .NET's last moment, say: no node could lift the ban.
    #[test]
    fn a_backend_leaves_stamps_for_what_comes_after_its_ban() {
        let (greatest, day) = (253_402_300_799_999_u64, 24 * 60 * 60 * 1_000);
        assert!(Change::is_stamp(greatest) && !Change::is_stamp(greatest + 1));
        let read = |node: &str, stamp: u64| {
            let body = format!(r#"{{"command":"ban","node":"{node}","user":"a","stamp":{stamp}}}"#);
            decode(body.as_bytes())
        };
        for stamp in [greatest, greatest - day + 1] {
            let error = read("", stamp).unwrap_err();
            assert!(error.contains("another change"), "{error}");
        }
        assert!(read("", greatest - day).is_ok());
        // What a node says after that.
        assert!(read("n", greatest - day + 1).is_ok());
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
