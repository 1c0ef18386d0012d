//! `stentor ctl`: the HTTP API from a shell.

mod args;
mod client;
mod contexts;
mod looks;
mod pages;
mod show;
mod tail;

use std::{
    env, fs,
    io::{self, IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use futures_util::future::LocalBoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use args::{Banned, ContextTask, Ctl, Message, Server, Target, Task};
pub use tail::Tail;

use self::{
    client::{Client, ClientError, path},
    contexts::{Choice, Contexts, Token},
    pages::Page,
    show::Show,
};
use crate::{
    api::{
        self, Alive, BanOutcome, BanRequest, Bans, Caller, CompareRequest, Configuration, Counts,
        Destinations, Details, Difference, FailureReason, Group, KeyFailure, Node, Nodes, Outcome,
        Overview, PublishRequest, Published, Reach, Ready, Refusals, Room, Rooms, RoomsRequest,
        Session, Sessions, UnsubscribeRequest, User, Users, UsersRequest, Webhooks,
    },
    tap::printable_json,
};

/// Nobody reads faster, and each look takes a turn of the API.
const SHORTEST_WATCH: Duration = Duration::from_millis(200);

/// A task could not be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The arguments are wrong; the text says the right ones.
    #[error("{0}")]
    Arguments(String),
    /// The gateway could not be asked, or did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Error {
    /// The exit code of the program, as its help says.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Client(ClientError::Url(_)) => 2,
            Self::Client(
                ClientError::NotThere { .. }
                | ClientError::NoAnswer {
                    is_action: false, ..
                }
                | ClientError::NotStentor { .. },
            ) => 3,
            Self::Client(ClientError::Unauthorized(_) | ClientError::Forbidden(_)) => 4,
            Self::Client(_) => 1,
        }
    }
}

/// A task that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The text to print.
    pub text: String,
    /// Why it came to nothing, or was not done on all nodes, if so: then the exit code is that of a failure.
    pub in_vain: Option<String>,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self {
            text,
            in_vain: None,
        }
    }
}

/// Does a task.
///
/// # Errors
/// It could not be done.
pub fn run(ctl: Ctl) -> LocalBoxFuture<'static, Result<Done, Error>> {
    // Boxed for the sake of the program's size: see `app::run`.
    Box::pin(perform(ctl))
}

async fn perform(ctl: Ctl) -> Result<Done, Error> {
    match &ctl.task {
        Task::Openapi => return openapi().map(Done::from),
        Task::Context { task } => return context(task).map(Done::from),
        _ => {}
    }
    let asking = Asking::new(&ctl.gateway, ctl.json)?;
    let Some(pause) = ctl.watch else {
        return asking.run(ctl.task).await;
    };
    if !ctl.task.only_looks() {
        let error = "--watch is for tasks that only look, such as node, counts or sessions";
        return Err(Error::Arguments(error.to_owned()));
    }
    loop {
        let done = asking.run(ctl.task.clone()).await?;
        // A reader that has seen enough ends it.
        if show_anew(&done.text).is_err() {
            return Ok(Done::default());
        }
        tokio::time::sleep(pause.max(SHORTEST_WATCH)).await;
    }
}

/// Prints a text in the place of the one before.
fn show_anew(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        // Clears the screen, and goes to its beginning.
        out.write_all(b"\x1b[2J\x1b[H")?;
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// How the configuration of a file, or the gateway's own file as it is now, differs from the one
/// that the gateway has in force.
///
/// # Errors
/// It could not be found out, or that configuration cannot be used.
pub fn compare(server: &Server, toml: Option<String>) -> LocalBoxFuture<'_, Result<String, Error>> {
    Box::pin(async move {
        let asking = Asking::new(server, false)?;
        let request = CompareRequest { toml };
        asking
            .post(
                "/api/v1/config/compare",
                json(&request)?,
                Asking::show::<Difference>,
            )
            .await
    })
}

/// Prints frames of clients as they pass, until the gateway ends it or the reader has seen enough.
/// `is_coloured`: the reader is a terminal.
///
/// # Errors
/// The gateway was not there, refused it, or ended it.
pub fn tail(task: &Tail, is_coloured: bool) -> LocalBoxFuture<'_, Result<(), Error>> {
    Box::pin(async move {
        let asking = Asking::new(&task.gateway, task.json)?;
        tail::follow(&asking.client, task, is_coloured).await
    })
}

/// The document of the API, for people.
fn openapi() -> Result<String, Error> {
    let document: serde_json::Value = serde_json::from_str(api::openapi())
        .map_err(|error| Error::Arguments(error.to_string()))?;
    pretty(&document)
}

fn context(task: &ContextTask) -> Result<String, Error> {
    let contexts = Contexts::read()?;
    match task {
        ContextTask::List => Ok(contexts.list()),
        ContextTask::Use { name } => contexts.select(name),
    }
}

/// Where the gateway of this machine has its operator's side, unless somebody says another place:
/// in a container, its own variable says which address.
fn local() -> String {
    url_of(env::var("STENTOR__LISTEN__ADMIN").ok().as_deref())
}

/// The URL of a gateway with this `[listen] admin`; `None`: the default one. One at all addresses is
/// asked at 127.0.0.1: one at `[::]` serves IPv4, too, and not every container has `::1`.
fn url_of(admin: Option<&str>) -> String {
    let set: Option<SocketAddr> = admin.and_then(|text| text.parse().ok());
    let mut address = set.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 15680)));
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{address}")
}

struct Asking {
    client: Client,
    json: bool,
}

/// How an answer is shown. A function, not a type: or each kind of answer would have requests of its
/// own in the program.
type Shown = fn(&Asking, &str) -> Result<String, Error>;

impl Asking {
    fn new(server: &Server, json: bool) -> Result<Self, Error> {
        let contexts = Contexts::read()?;
        let Choice { url, token } = contexts.choose(server)?;
        let token = token.map(Token::read).transpose()?;
        let client = Client::new(&url.map_or_else(local, str::to_owned), token)?;
        Ok(Self { client, json })
    }

    async fn run(&self, task: Task) -> Result<Done, Error> {
        let text = match task {
            Task::Node => self.get("/api/v1/node", Self::show::<Node>).await,
            Task::Nodes => self.get("/api/v1/nodes", Self::show::<Nodes>).await,
            Task::Counts => self.get("/api/v1/counts", Self::show::<Counts>).await,
            Task::Sessions {
                user,
                node,
                search,
                limit,
            } => {
                let filters = [
                    ("user", user.as_deref()),
                    ("node", node.as_deref()),
                    ("search", search.as_deref()),
                ];
                self.list::<Sessions>("/api/v1/sessions", &filters, limit)
                    .await
            }
            Task::Whoami => self.get("/api/v1/token", Self::show::<Caller>).await,
            Task::Overview => self.get("/api/v1/overview", Self::show::<Overview>).await,
            Task::Webhooks => self.get("/api/v1/webhooks", Self::show::<Webhooks>).await,
            Task::Refusals => self.get("/api/v1/refusals", Self::show::<Refusals>).await,
            Task::Destinations { search } => {
                let query = search.as_deref().map(|text| ("search", text));
                let answer = self.client.get("/api/v1/destinations", query.as_slice());
                self.show::<Destinations>(&answer.await?)
            }
            Task::Session { id, details: true } => {
                self.get(&path(&["sessions", &id, "details"]), Self::show::<Details>)
                    .await
            }
            Task::Session { id, .. } => {
                self.get(&path(&["sessions", &id]), Self::show::<Session>)
                    .await
            }
            Task::User { name } => self.get(&path(&["users", &name]), Self::show::<User>).await,
            Task::Users { names } => {
                let request = UsersRequest { users: names };
                self.post("/api/v1/presence", json(&request)?, Self::show::<Users>)
                    .await
            }
            Task::Group { name } => {
                self.get(&path(&["groups", &name]), Self::show::<Group>)
                    .await
            }
            Task::Room {
                exchange,
                key,
                vhost,
                limit,
            } => {
                let filters = [("vhost", vhost.as_deref())];
                let path = path(&["rooms", &exchange, &key]);
                self.list::<Room>(&path, &filters, limit).await
            }
            Task::Rooms {
                exchange,
                keys,
                vhost,
            } => {
                let request = RoomsRequest {
                    vhost,
                    exchange,
                    keys,
                };
                self.post("/api/v1/rooms", json(&request)?, Self::show::<Rooms>)
                    .await
            }
            Task::Kick { target, reason } => return self.kick(&target, &reason).await,
            Task::Unsubscribe {
                user,
                destination,
                reason,
                vhost,
            } => {
                let request = UnsubscribeRequest {
                    destination,
                    vhost,
                    reason,
                };
                return self.unsubscribe(&user, &request).await;
            }
            Task::Ban {
                banned,
                time,
                reason,
            } => {
                let Banned {
                    user,
                    address,
                    device_id,
                } = banned;
                let request = BanRequest {
                    user,
                    address,
                    device_id,
                    seconds: time.map(|time| time.as_secs()),
                    reason,
                };
                let answer = self.client.post("/api/v1/bans", json(&request)?).await?;
                return self.banned(&answer);
            }
            Task::Bans { limit } => self.list::<Bans>("/api/v1/bans", &[], limit).await,
            Task::Unban { banned } => {
                let mut query = Vec::new();
                for (name, value) in [
                    ("user", &banned.user),
                    ("address", &banned.address),
                    ("device_id", &banned.device_id),
                ] {
                    query.extend(value.as_deref().map(|value| (name, value)));
                }
                let answer = self.client.delete("/api/v1/bans", &query).await?;
                return self.banned(&answer);
            }
            Task::Recheck { session, user } => {
                let path = match (session, user) {
                    (Some(id), _) => path(&["sessions", &id, "recheck"]),
                    (None, user) => path(&["users", &user.unwrap_or_default(), "recheck"]),
                };
                return self.command(&path).await;
            }
            Task::Forget { user } => return self.command(&path(&["users", &user, "forget"])).await,
            Task::RefreshGroups { user } => {
                return self.command(&path(&["users", &user, "groups"])).await;
            }
            Task::Publish(message) => self.publish(message).await,
            Task::Alive => self.get("/healthz", Self::show::<Alive>).await,
            Task::Ready => return self.ready().await,
            Task::Reload => {
                self.post(
                    "/api/v1/config/reload",
                    json(&())?,
                    Self::show::<Difference>,
                )
                .await
            }
            Task::Config { set } => self.configuration(set).await,
            // Needs no gateway: `run` has done it.
            Task::Openapi | Task::Context { .. } => Ok(String::new()),
        };
        text.map(Done::from)
    }

    async fn unsubscribe(&self, user: &str, request: &UnsubscribeRequest) -> Result<Done, Error> {
        let path = path(&["users", user, "unsubscribe"]);
        let answer = self.client.post(&path, json(request)?).await?;
        let nobody = "no subscription was ended: the user has none to that destination";
        self.done(&answer, Some(nobody))
    }

    async fn command(&self, path: &str) -> Result<Done, Error> {
        let answer = self.client.post(path, json(&())?).await?;
        self.done(&answer, None)
    }

    async fn kick(&self, target: &Target, reason: &str) -> Result<Done, Error> {
        let mut query: Vec<(&str, &str)> = vec![("reason", reason)];
        for (name, value) in [
            ("device_type", &target.device_type),
            ("device_id", &target.device_id),
        ] {
            query.extend(value.as_deref().map(|value| (name, value)));
        }
        let path = match (&target.session, &target.user) {
            (Some(id), _) => path(&["sessions", id]),
            (None, user) => path(&["users", user.as_deref().unwrap_or_default(), "sessions"]),
        };
        let answer = self.client.delete(&path, &query).await?;
        let nobody = "no session was ended: there is none of that name";
        self.done(&answer, Some(nobody))
    }

    /// What a command did. It is a failure if some nodes may not have done it; or, with the words
    /// `nobody`, if it hit nothing.
    fn done(&self, answer: &str, nobody: Option<&str>) -> Result<Done, Error> {
        let outcome: Outcome = self.client.parse(answer)?;
        Ok(Done {
            text: self.show::<Outcome>(answer)?,
            in_vain: show::in_vain(&outcome, nobody),
        })
    }

    /// What a ban did, or its lifting. Nodes that are cut off learn of it where it reaches all.
    fn banned(&self, answer: &str) -> Result<Done, Error> {
        let outcome: BanOutcome = self.client.parse(answer)?;
        let is_partial = outcome.reach == Reach::ThisNodeOnly;
        Ok(Done {
            text: self.show::<BanOutcome>(answer)?,
            in_vain: is_partial.then(|| show::this_node_only(&outcome)),
        })
    }

    /// Asks in any case if the messages reach a queue. It is a failure only with `--mandatory`.
    async fn publish(&self, message: Message) -> Result<String, Error> {
        let is_demanded = message.mandatory;
        let mut request = request(message)?;
        request.mandatory = true;
        let mut outcome = self
            .post("/api/v1/publish", json(&request)?, Self::show::<Published>)
            .await;
        if !is_demanded && is_refused_whole(&outcome) {
            // Of some exchanges nobody can tell.
            request.mandatory = false;
            outcome = self
                .post("/api/v1/publish", json(&request)?, Self::show::<Published>)
                .await;
        }
        let Err(Error::Client(ClientError::NotPublished {
            answer,
            published,
            failed,
            ..
        })) = &outcome
        else {
            return outcome;
        };
        let is_unroutable = |failure: &KeyFailure| failure.reason == FailureReason::Unroutable;
        if is_demanded || !failed.iter().all(is_unroutable) {
            return outcome;
        }
        if self.json {
            let value: serde_json::Value = self.client.parse(answer)?;
            return pretty(&value);
        }
        Ok(show::unrouted(*published, failed))
    }

    /// A list, of as many pages as it takes.
    async fn list<P: Page + Show + Serialize>(
        &self,
        path: &str,
        filters: &[(&str, Option<&str>)],
        limit: usize,
    ) -> Result<String, Error> {
        let found: P = pages::all(&self.client, path, filters, limit).await?;
        match self.json {
            true => pretty(&found),
            false => Ok(found.show()),
        }
    }

    async fn ready(&self) -> Result<Done, Error> {
        let (is_ready, answer) = self.client.look("/readyz").await?;
        Ok(Done {
            text: self.show::<Ready>(&answer)?,
            in_vain: (!is_ready).then(|| "the node is not ready".to_owned()),
        })
    }

    async fn configuration(&self, only_set: bool) -> Result<String, Error> {
        let answer = self.client.get("/api/v1/config", &[]).await?;
        let mut all: Configuration = self.client.parse(&answer)?;
        all.keys.retain(|key| !only_set || key.source.is_some());
        match self.json {
            true => pretty(&all),
            false => Ok(all.show()),
        }
    }

    async fn get(&self, path: &str, show: Shown) -> Result<String, Error> {
        show(self, &self.client.get(path, &[]).await?)
    }

    async fn post(&self, path: &str, body: String, show: Shown) -> Result<String, Error> {
        show(self, &self.client.post(path, body).await?)
    }

    /// As the gateway answered, or as a table.
    fn show<T: DeserializeOwned + Show>(&self, answer: &str) -> Result<String, Error> {
        if self.json {
            let value: serde_json::Value = self.client.parse(answer)?;
            return pretty(&value);
        }
        Ok(self.client.parse::<T>(answer)?.show())
    }
}

/// Whether every message was refused, and none was published: perhaps for the question alone.
fn is_refused_whole<T>(outcome: &Result<T, Error>) -> bool {
    let Err(Error::Client(ClientError::NotPublished {
        published, failed, ..
    })) = outcome
    else {
        return false;
    };
    let is_refused = |failure: &KeyFailure| failure.reason == FailureReason::Refused;
    *published == 0 && failed.iter().all(is_refused)
}

fn json(body: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(body).map_err(|error| Error::Arguments(error.to_string()))
}

/// Clients choose names, and must not steer the terminal.
fn pretty(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| format!("{}\n", printable_json(text)))
        .map_err(|error| Error::Arguments(error.to_string()))
}

fn request(message: Message) -> Result<PublishRequest, Error> {
    let Message {
        exchange,
        keys,
        body,
        file,
        vhost,
        content_type,
        headers,
        persistent,
        mandatory,
    } = message;
    let body = match (body, file) {
        (Some(body), _) => body.into_bytes(),
        (None, Some(file)) => read(&file)?,
        (None, None) => Vec::new(),
    };
    // A text stays legible on its way; bytes have to be written otherwise.
    let (body, body_base64) = match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(error) => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            (None, Some(STANDARD.encode(error.as_bytes())))
        }
    };
    Ok(PublishRequest {
        vhost,
        exchange,
        keys: Some(keys),
        body,
        body_base64,
        content_type,
        persistent,
        mandatory,
        headers: headers.into_iter().collect(),
        ..PublishRequest::default()
    })
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    bytes.map_err(|error| Error::Arguments(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::is_unsafe;

    #[test]
    fn no_escape_of_a_terminal_is_in_json() {
        let value = serde_json::json!({ "u": "\u{9b}2J\u{202e}\n" });
        let text = pretty(&value).unwrap();
        let is_bad = |character: char| character != '\n' && is_unsafe(character);
        assert!(!text.contains(is_bad), "{text:?}");
        assert_eq!(text.lines().count(), 3, "{text:?}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn the_gateway_of_this_machine_is_asked_where_it_listens() {
        for (admin, url) in [
            (None, "http://127.0.0.1:15680"),
            (Some("no address"), "http://127.0.0.1:15680"),
            (Some("0.0.0.0:8000"), "http://127.0.0.1:8000"),
            (Some("[::]:8000"), "http://127.0.0.1:8000"),
            (Some("[::1]:15680"), "http://[::1]:15680"),
            (Some("10.0.0.5:15680"), "http://10.0.0.5:15680"),
        ] {
            assert_eq!(url_of(admin), url, "{admin:?}");
        }
    }
}
