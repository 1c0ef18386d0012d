//! Where RabbitMQ's accounts come from: a file, or the management plug-in.

use std::{
    fmt, fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode};
use ring::digest::{Context, Digest, SHA256};
use thiserror::Error;
use url::Url;
use zeroize::Zeroizing;

use super::{
    accounts::Accounts,
    config::Place,
    definitions::{Definitions, DefinitionsError},
    objects::Objects,
};
use crate::{
    auth::client::client,
    causes::{of_request, unreadable, with_causes},
    secret_url::SecretUrl,
    telemetry,
    units::show_size,
};

/// Of one file or answer. Definitions list queues and bindings, too.
const MAX_SIZE: usize = 64 * 1024 * 1024;
/// Of a list that is read object by object.
const MAX_LIST: usize = 1024 * 1024 * 1024;
/// Connecting to the management plug-in.
const CONNECT: Duration = Duration::from_secs(5);
/// All that it is asked for at a time.
const ANSWERS: Duration = Duration::from_secs(30);

/// The lists that the management plug-in is asked for, in this order. Without topic permissions a user
/// has all keys, so these come between two answers about permissions: a user who gets rights
/// meanwhile is not in the first, and one who is being deleted is not in the second. If one has others
/// in the second, all lists are asked for again.
const LISTS: [&str; 5] = [
    "users",
    "vhosts?columns=name&disable_stats=true&enable_queue_totals=false",
    "permissions",
    "topic-permissions",
    "permissions",
];

/// How often the lists are asked for while permissions change in between.
const TRIES: usize = 3;

/// Reads accounts, and knows whether they are new.
#[derive(Debug)]
pub(super) struct Source {
    from: From,
    /// Of what was read the last time; of a file, whether it could be used or not.
    digest: Option<Vec<u8>>,
}

#[derive(Debug)]
enum From {
    File {
        path: PathBuf,
        /// As it was when it was read the last time.
        stamp: Option<Stamp>,
    },
    Management(Management),
}

/// RabbitMQ's management plug-in.
#[derive(Debug)]
pub struct Management {
    url: SecretUrl,
    tag: Tag,
    client: Client,
}

/// The tag of RabbitMQ's that an account needs for what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// For users with the hashes of their passwords.
    Administrator,
    /// For everything that may be seen but not changed.
    Monitoring,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Administrator => "administrator",
            Self::Monitoring => "monitoring",
        })
    }
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why accounts could not be read. The text holds no secret.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file.
    #[error("{}", unreadable(.0, .1))]
    File(PathBuf, io::Error),
    /// What it holds.
    #[error("{0}: {1}")]
    Definitions(Box<str>, Box<DefinitionsError>),
    /// It does not end.
    #[error("{0}: is larger than {max}", max = show_size(*.1))]
    TooLarge(Box<str>, usize),
    /// The management plug-in cannot be reached, or does not answer.
    #[error("{0}: {1}")]
    Connection(Box<str>, String),
    /// It does not let the account in.
    #[error(
        "{0}: RabbitMQ refuses the account ({1}): check its password, and give it the tag {2} \
         (rabbitmqctl set_user_tags USER {2})"
    )]
    Refused(Box<str>, StatusCode, Tag),
    /// It answers something else.
    #[error("{0}: answered {1}")]
    Status(Box<str>, StatusCode),
    /// It took too long.
    #[error("{0}: did not answer within {ANSWERS:?}")]
    Timeout(Box<str>),
    /// There can be no client.
    #[error(
        "the HTTP client cannot be set up: {0}; https: needs the system's certificate authorities \
         (install ca-certificates, or set SSL_CERT_FILE)"
    )]
    Client(String),
}

impl Source {
    pub(super) fn new(place: Place) -> Result<Self, SourceError> {
        let from = match place {
            Place::File(path) => From::File { path, stamp: None },
            Place::Management(url) => From::Management(Management::new(url, Tag::Administrator)?),
        };
        Ok(Self { from, digest: None })
    }

    /// True if it answers without a network.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.from, From::File { .. })
    }

    /// Reads the accounts of a file, if it is not as it was. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// It cannot be used. The same file is not read again.
    pub(super) fn read_file(&mut self, former: &Accounts) -> Result<Option<Accounts>, SourceError> {
        let From::File { path, stamp } = &mut self.from else {
            return Ok(None);
        };
        let in_file = |error| SourceError::File(path.clone(), error);
        let file = fs::File::open(&*path);
        // A file that is not there may come as it was.
        let now = file.as_ref().map(fs::File::metadata).map_err(|_| ());
        let Ok(Ok(metadata)) = now else {
            *stamp = None;
            self.digest = None;
            return Err(match (file, now) {
                (Err(error), _) | (_, Ok(Err(error))) => in_file(error),
                _ => in_file(io::ErrorKind::Other.into()),
            });
        };
        let now = Stamp::of(&metadata);
        if *stamp == Some(now) {
            return Ok(None);
        }
        let mut text = Zeroizing::new(Vec::new());
        let most = u64::try_from(MAX_SIZE)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        file.and_then(|file| file.take(most).read_to_end(&mut text))
            .map_err(in_file)?;
        *stamp = Some(now);
        let shown: Box<str> = path.display().to_string().into();
        if text.len() > MAX_SIZE {
            return Err(SourceError::TooLarge(shown, MAX_SIZE));
        }
        if !is_new(&mut self.digest, &[&text]) {
            return Ok(None);
        }
        if is_open_to_all(&metadata) {
            telemetry::definitions_readable(path);
        }
        let definitions = Definitions::from_export(&text);
        let accounts = definitions.and_then(|definitions| definitions.accounts(former));
        accounts
            .map(Some)
            .map_err(|error| SourceError::Definitions(shown, Box::new(error)))
    }

    /// Asks the management plug-in for the accounts; `None` if they are as they were.
    ///
    /// # Errors
    /// It has no answer that can be used.
    pub(super) async fn ask(&mut self, former: &Accounts) -> Result<Option<Accounts>, SourceError> {
        let From::Management(management) = &self.from else {
            return Ok(None);
        };
        // An answer after an error is looked at, even if it is as it was: the error is over.
        let mut digest = self.digest.take();
        let shown: Box<str> = management.to_string().into();
        let read = tokio::time::timeout(ANSWERS, management.definitions(&mut digest));
        let read = read
            .await
            .map_err(|_| SourceError::Timeout(shown.clone()))??;
        let accounts = read
            .map(|definitions| definitions.and_then(|definitions| definitions.accounts(former)))
            .transpose()
            .map_err(|error| SourceError::Definitions(shown, Box::new(error)))?;
        self.digest = digest;
        Ok(accounts)
    }
}

/// Whether this is other than the last time.
fn is_new(former: &mut Option<Vec<u8>>, texts: &[&[u8]]) -> bool {
    let mut context = Context::new(&SHA256);
    for text in texts {
        // Its length, so that no two lists of texts are one.
        context.update(&text.len().to_le_bytes());
        context.update(text);
    }
    let digest: Digest = context.finish();
    let is_new = former.as_deref() != Some(digest.as_ref());
    *former = Some(digest.as_ref().to_vec());
    is_new
}

impl Management {
    /// Connects to nobody yet. The URL names an account, which needs the tag.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(url: SecretUrl, tag: Tag) -> Result<Self, SourceError> {
        let is_secure = url.reveal().starts_with("https:");
        let client = client(is_secure, CONNECT).timeout(ANSWERS);
        let client = client
            .build()
            .map_err(|error| SourceError::Client(with_causes(&error)))?;
        Ok(Self { url, tag, client })
    }

    /// Asks for the lists, until all are of one moment; `None` if they are as the digest says.
    async fn definitions(
        &self,
        digest: &mut Option<Vec<u8>>,
    ) -> Result<Option<Result<Definitions, DefinitionsError>>, SourceError> {
        let mut more = 1..TRIES;
        loop {
            let mut answers = [(); LISTS.len()].map(|()| Zeroizing::default());
            for (answer, list) in answers.iter_mut().zip(LISTS) {
                *answer = self.get(list).await?;
            }
            let answers = answers.each_ref().map(|answer| answer.as_slice());
            // The lists of two moments are never kept as read.
            let mut now = digest.clone();
            if !is_new(&mut now, &answers) {
                return Ok(None);
            }
            match Definitions::from_lists(answers) {
                Err(DefinitionsError::Changed { .. }) if more.next().is_some() => {}
                definitions => {
                    *digest = now;
                    return Ok(Some(definitions));
                }
            }
        }
    }

    /// Asks for `path`, below `/api/`.
    ///
    /// # Errors
    /// There is no answer, or none with status 200.
    pub async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let mut response = self.ask(path).await?;
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = self.chunk(&mut response).await? {
            if body.len().saturating_add(chunk.len()) > MAX_SIZE {
                return Err(SourceError::TooLarge(self.to_string().into(), MAX_SIZE));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Asks for a list at `path`, below `/api/`, and hands on each of its objects as it comes, so that a
    /// long list takes no memory. Answers how long it was, in bytes.
    ///
    /// # Errors
    /// As [`Management::get`]; it is no list, or what `each` says.
    pub async fn list(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<usize, SourceError> {
        let unreadable = |error| SourceError::Connection(self.to_string().into(), error);
        let mut response = self.ask(path).await?;
        let (mut objects, mut length) = (Objects::default(), 0_usize);
        while let Some(chunk) = self.chunk(&mut response).await? {
            length = length.saturating_add(chunk.len());
            if length > MAX_LIST {
                return Err(SourceError::TooLarge(self.to_string().into(), MAX_LIST));
            }
            objects.take(&chunk, &mut each).map_err(unreadable)?;
        }
        objects.end().map_err(unreadable)?;
        Ok(length)
    }

    async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, SourceError> {
        response.chunk().await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: reqwest::Error) -> SourceError {
        let shown = self.to_string().into();
        match error.is_timeout() {
            true => SourceError::Timeout(shown),
            // A URL holds the password.
            false => SourceError::Connection(shown, of_request(error)),
        }
    }

    /// The answer with status 200.
    async fn ask(&self, path: &str) -> Result<Response, SourceError> {
        let shown: Box<str> = self.to_string().into();
        let mut url = self.url.reveal().trim_end_matches('/').to_owned();
        url.push_str("/api/");
        url.push_str(path);
        let url = Url::parse(&url)
            .map_err(|error| SourceError::Connection(shown.clone(), error.to_string()))?;
        // The client takes user and password out of the URL.
        let answer = self.client.get(url).send().await;
        let response = answer.map_err(|error| self.failed(error))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(SourceError::Refused(shown, status, self.tag))
            }
            status => Err(SourceError::Status(shown, status)),
        }
    }
}

/// Its address, without the password.
impl fmt::Display for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Whether every user of this machine may read the hashes.
fn is_open_to_all(metadata: &fs::Metadata) -> bool {
    metadata.mode() & 0o004 != 0
}

/// Reads a file as it is to be used.
///
/// # Errors
/// It cannot be used.
pub(super) fn check_file(path: &Path) -> Result<(), SourceError> {
    let mut source = Source::new(Place::File(path.to_owned()))?;
    source.read_file(&Accounts::default()).map(drop)
}

/// Its place, without a password.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            From::File { path, .. } => write!(f, "{}", path.display()),
            From::Management(management) => management.fmt(f),
        }
    }
}
