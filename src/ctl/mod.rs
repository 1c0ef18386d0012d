//! `stentor ctl`: the HTTP API from a shell.

mod args;
mod client;
mod show;

use std::{fs, io, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use args::{Banned, Ctl, Message, Target, Task};

use self::{
    client::{Client, ClientError, path},
    show::Show,
};
use crate::api::{
    self, BanOutcome, BanRequest, Bans, Counts, FailureReason, Group, KeyFailure, Node, Nodes,
    Outcome, PublishRequest, Published, Session, Sessions, User, Users, UsersRequest,
};

/// Sessions that are asked for at a time.
const PAGE: usize = 1_000;

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

/// A task that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The text to print.
    pub text: String,
    /// Why it came to nothing, if it did: then the exit code is that of a failure.
    pub in_vain: Option<&'static str>,
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
pub async fn run(ctl: Ctl) -> Result<Done, Error> {
    if matches!(ctl.task, Task::Openapi) {
        return Ok(api::openapi().into());
    }
    let token = token(&ctl)?;
    let client = Client::new(&ctl.url, token)?;
    let asking = Asking {
        client,
        json: ctl.json,
    };
    asking.run(ctl.task).await
}

fn token(ctl: &Ctl) -> Result<Option<String>, Error> {
    let token = match (&ctl.token, &ctl.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => fs::read_to_string(file)
            .map_err(|error| Error::Arguments(format!("{}: {error}", file.display())))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(token.trim().to_owned()))
}

struct Asking {
    client: Client,
    json: bool,
}

impl Asking {
    async fn run(&self, task: Task) -> Result<Done, Error> {
        let text = match task {
            Task::Node => self.get::<Node>("/api/v1/node").await,
            Task::Nodes => self.get::<Nodes>("/api/v1/nodes").await,
            Task::Counts => self.get::<Counts>("/api/v1/counts").await,
            Task::Sessions { user, node, limit } => self.sessions(user, node, limit).await,
            Task::Session { id } => self.get::<Session>(&path(&["sessions", &id])).await,
            Task::User { name } => self.get::<User>(&path(&["users", &name])).await,
            Task::Users { names } => {
                let request = UsersRequest { users: names };
                self.post::<Users>("/api/v1/presence", &request).await
            }
            Task::Group { name } => self.get::<Group>(&path(&["groups", &name])).await,
            Task::Kick { target, reason } => return self.kick(&target, &reason).await,
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
                self.post::<BanOutcome>("/api/v1/bans", &request).await
            }
            Task::Bans { limit } => self.bans(limit).await,
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
                self.show::<BanOutcome>(&answer)
            }
            Task::Recheck { session, user } => {
                let path = match (session, user) {
                    (Some(id), _) => path(&["sessions", &id, "recheck"]),
                    (None, user) => path(&["users", &user.unwrap_or_default(), "recheck"]),
                };
                self.post::<Outcome>(&path, &()).await
            }
            Task::Forget { user } => {
                self.post::<Outcome>(&path(&["users", &user, "forget"]), &())
                    .await
            }
            Task::RefreshGroups { user } => {
                self.post::<Outcome>(&path(&["users", &user, "groups"]), &())
                    .await
            }
            Task::Publish(message) => self.publish(message).await,
            Task::Openapi => Ok(api::openapi()),
        };
        text.map(Done::from)
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
        let outcome: Outcome = self.client.parse(&answer)?;
        let nobody = "no session was ended: there is none of that name";
        Ok(Done {
            text: self.show::<Outcome>(&answer)?,
            in_vain: (outcome.hits == 0).then_some(nobody),
        })
    }

    /// Asks in any case if the messages reach a queue, as long as the API takes so many keys with
    /// that question. It is a failure only with `--mandatory`.
    async fn publish(&self, message: Message) -> Result<String, Error> {
        let is_demanded = message.mandatory;
        let mut request = request(message)?;
        let keys = request.keys.as_ref().map_or(0, Vec::len);
        request.mandatory |= keys <= api::MAX_MANDATORY;
        let mut outcome = self.post::<Published>("/api/v1/publish", &request).await;
        if !is_demanded && request.mandatory && is_refused_whole(&outcome) {
            // Of some exchanges nobody can tell.
            request.mandatory = false;
            outcome = self.post::<Published>("/api/v1/publish", &request).await;
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

    /// All pages, up to the limit.
    async fn sessions(
        &self,
        user: Option<String>,
        node: Option<String>,
        limit: usize,
    ) -> Result<String, Error> {
        let mut found = Sessions {
            sessions: Vec::new(),
            next: None,
        };
        loop {
            let rest = limit.saturating_sub(found.sessions.len());
            let size = rest.clamp(1, PAGE).to_string();
            let mut query = vec![("limit", size.as_str())];
            for (name, value) in [("user", &user), ("node", &node), ("cursor", &found.next)] {
                query.extend(value.as_deref().map(|value| (name, value)));
            }
            let answer = self.client.get("/api/v1/sessions", &query).await?;
            let page: Sessions = self.client.parse(&answer)?;
            found.sessions.extend(page.sessions);
            found.next = page.next;
            if found.next.is_none() || found.sessions.len() >= limit {
                break;
            }
        }
        if self.json {
            return pretty(&found);
        }
        Ok(found.show())
    }

    /// All pages, up to the limit.
    async fn bans(&self, limit: usize) -> Result<String, Error> {
        let mut found = Bans {
            bans: Vec::new(),
            next: None,
        };
        loop {
            let rest = limit.saturating_sub(found.bans.len());
            let size = rest.clamp(1, PAGE).to_string();
            let mut query = vec![("limit", size.as_str())];
            query.extend(found.next.as_deref().map(|next| ("cursor", next)));
            let answer = self.client.get("/api/v1/bans", &query).await?;
            let page: Bans = self.client.parse(&answer)?;
            found.bans.extend(page.bans);
            found.next = page.next;
            if found.next.is_none() || found.bans.len() >= limit {
                break;
            }
        }
        if self.json {
            return pretty(&found);
        }
        Ok(found.show())
    }

    async fn get<T: DeserializeOwned + Show>(&self, path: &str) -> Result<String, Error> {
        self.show::<T>(&self.client.get(path, &[]).await?)
    }

    async fn post<T: DeserializeOwned + Show>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<String, Error> {
        self.show::<T>(&self.client.post(path, body).await?)
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

fn pretty(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| format!("{text}\n"))
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
