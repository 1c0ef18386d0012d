//! Asks the application's hook over HTTP.

mod batch;
mod fault;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use auth_hook::{
    Answer, Call, GroupsQuestion, Question, ResourceQuestion, TopicQuestion, UserQuestion,
    VhostQuestion, parse_groups,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use reqwest::{
    Client, ClientBuilder, RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap, HeaderName},
};
use thiserror::Error;
use tokio::time::{Instant, timeout};
use url::{Url, form_urlencoded};

use super::{
    Access, Admission, Authenticator, Config, Login, Method, Refusal, Unset, User,
    carried::MAX_CARRIED,
    client::client,
    config::parse,
    turns::{Payer, Turns},
};
use crate::{
    address::AddressKey,
    causes::with_causes,
    secret_url::without_secrets,
    telemetry::{self, Bound, Seldom},
};
use batch::{Asked, Batches};
use fault::{Fault, FaultLog};

/// More of an answer is not read. In bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Longer questions are not asked, in bytes of their parameters: names at the broker have 255
/// bytes, and servers refuse long URLs. Otherwise a client could make the hook look at fault.
const MAX_QUESTION: usize = 32 * 1024;
// There is room for all that a request may carry, three bytes for each of its own.
const _: () = assert!(MAX_QUESTION > 3 * MAX_CARRIED);

/// Why a shorter question is refused that is too long for the hook's server.
const TOO_LONG_FOR_GET: &str =
    "names or credentials are too long for GET; set [auth] http_method = \"post\"";

/// Asks the application's hook over HTTP, by the contract of `rabbitmq_auth_backend_http`.
///
/// Connections are kept and used again. Each call is bounded in time, and as much in the time that
/// it waits for its turn, and in the size of its answer; redirects are not followed,
/// and proxies of the environment not used: credentials go where the configuration says, and
/// nowhere else. A call that has no turn in time is a [`Refusal::Busy`]. Whatever else goes wrong is
/// a [`Refusal::Faulty`], and is logged here as the hook's
/// fault (not every time), with neither parameters nor answer. Denials are for the caller to
/// log.
///
/// With `batch_path`, questions that gather while all turns are taken go together.
#[derive(Debug)]
pub struct HttpAuthenticator {
    client: Client,
    user: Option<Way>,
    vhost: Option<Way>,
    resource: Option<Way>,
    topic: Option<Way>,
    groups: Option<Way>,
    /// The header of an answer that names the user.
    username_header: Option<HeaderName>,
    /// The header of an answer that says how long the login counts.
    lifetime_header: Option<HeaderName>,
    unset: Unset,
    method: Method,
    request_timeout: Duration,
    /// A turn for each call under way.
    turns: Arc<Turns<Asked>>,
}

/// How one kind of question is asked.
#[derive(Debug)]
enum Way {
    /// By a call of its own.
    Alone(Box<Path>),
    /// Together with others.
    Together(Arc<Batches>),
}

/// Where questions go.
#[derive(Debug)]
struct Path {
    url: Url,
    /// The URL without secrets.
    shown: Box<str>,
    faults: FaultLog,
    /// The length of the longest URL that had an answer of the contract, in bytes: the hook's server
    /// refuses no shorter one for its length.
    longest_url: AtomicUsize,
    /// When it was said that the hook's server takes no URL as long as a question's.
    long_url: Mutex<Seldom>,
}

/// What the hook answered.
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Why the hook cannot be asked at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A key of the configuration has an impossible value.
    #[error("{0} {1}")]
    Config(&'static str, String),
    /// TLS cannot be set up (the system has no root certificates, say).
    #[error(
        "the HTTP client cannot be set up: {0}; https: needs the system's certificate authorities \
         (install ca-certificates, or set SSL_CERT_FILE)"
    )]
    Client(String),
}

impl HttpAuthenticator {
    /// Makes ready to ask; connects only when there is something to ask. Says in the log, once,
    /// which checks have no path, and what they answer.
    ///
    /// # Errors
    /// [`SetupError`]: the configuration does not pass [`Config::check`], or there is no TLS.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        Self::build(config, |client| client)
    }

    fn build(
        config: &Config,
        adjust: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, SetupError> {
        config
            .check()
            .map_err(|(key, problem)| SetupError::Config(key, problem))?;
        let client = client(config.asks_securely(), config.connection_timeout);
        let client = adjust(client.pool_max_idle_per_host(config.max_calls))
            .build()
            .map_err(|error| SetupError::Client(with_causes(&error)))?;
        let batches = match &config.batch_path {
            None => None,
            Some(path) => Some(Arc::new(Batches {
                client: client.clone(),
                path: Path::read("batch_path", path)?,
                request_timeout: config.request_timeout,
            })),
        };
        let way = |call| match (config.path(call), &batches) {
            ((_, None), _) => Ok(None),
            (_, Some(batches)) if config.is_batched(call) => {
                Ok(Some(Way::Together(Arc::clone(batches))))
            }
            ((key, Some(text)), _) => {
                Path::read(key, &text).map(|path| Some(Way::Alone(Box::new(path))))
            }
        };
        let user = way(Call::User)?;
        // Tokens can be the only logins, and the hook be asked for rights alone.
        if user.is_none() && !config.jwt.is_on() {
            return Err(SetupError::Config("user_path", "is not set".into()));
        }
        let [vhost, resource, topic, groups] = [
            way(Call::Vhost)?,
            way(Call::Resource)?,
            way(Call::Topic)?,
            way(Call::Groups)?,
        ];

        say_what_is_unset(config);
        Ok(HttpAuthenticator {
            client,
            user,
            vhost,
            resource,
            topic,
            groups,
            username_header: config
                .username_header
                .as_ref()
                .and_then(|name| name.parse().ok()),
            lifetime_header: config
                .lifetime_header
                .as_ref()
                .and_then(|name| name.parse().ok()),
            unset: config.unset,
            method: config.http_method,
            request_timeout: config.request_timeout,
            turns: Turns::new(
                config.max_calls,
                config.max_user_calls,
                batch::bounds(config.batch_size),
                move |questions, turn| match &batches {
                    Some(batches) => batches.send(questions, turn),
                    None => Some(turn),
                },
            ),
        })
    }

    /// Asks; the tags, if the answer is yes.
    async fn ask(&self, payer: Payer, question: Question<'_>) -> Result<Box<str>, Refusal> {
        let call = question.call();
        let way = match call {
            Call::User => self.user.as_ref(),
            Call::Vhost => self.vhost.as_ref(),
            Call::Resource => self.resource.as_ref(),
            Call::Topic => self.topic.as_ref(),
            Call::Groups => self.groups.as_ref(),
        };
        let Some(way) = way else {
            return match self.unset {
                Unset::Allow => Ok(Box::default()),
                Unset::Deny => Err(Refusal::Denied(Some(
                    format!("no {call}_path is set").into(),
                ))),
            };
        };
        let parse = |reply: &Reply| Ok(Answer::parse(call, reply.status, &reply.body)?);
        match self
            .ask_by((way, call), payer, question.encode(), parse)
            .await?
        {
            Answer::Allow { tags } => Ok(tags),
            Answer::Deny { reason } => Err(Refusal::Denied(reason)),
        }
    }

    async fn ask_user(&self, login: &Login) -> Result<Admission, Refusal> {
        let Some(way) = &self.user else {
            return Err(Refusal::Denied(Some("no user_path is set".into())));
        };
        let may_be_named = login.user.is_empty() && self.username_header.is_some();
        if !may_be_named && !User::is_name(&login.user) {
            let why = format!(
                "a user's name has 1 to {} bytes, none a control character",
                User::MAX_NAME
            );
            return Err(Refusal::Denied(Some(why.into())));
        }
        let parse = |reply: &Reply| {
            Ok(
                match Answer::parse(Call::User, reply.status, &reply.body)? {
                    Answer::Allow { tags } => {
                        let user = User::new(self.name(login, &reply.headers)?, tags);
                        Ok(Admission {
                            lifetime: self.lifetime(&reply.headers)?,
                            ..user.into()
                        })
                    }
                    Answer::Deny { reason } => Err(Refusal::Denied(reason)),
                },
            )
        };
        let payer = Payer::Login(AddressKey::from(login.address), login.is_known);
        let parameters = user_parameters(login);
        self.ask_by((way, Call::User), payer, parameters, parse)
            .await?
    }

    /// How long the login counts: as long as the answer says, if it is configured to.
    fn lifetime(&self, headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
        let mut said = self
            .lifetime_header
            .as_ref()
            .into_iter()
            .flat_map(|name| headers.get_all(name).iter());
        let seconds = match (said.next(), said.next()) {
            (None, _) => return Ok(None),
            (Some(seconds), None) => std::str::from_utf8(seconds.as_bytes()).ok(),
            (Some(_), Some(_)) => None,
        };
        let seconds = seconds.and_then(|text| text.trim().parse().ok());
        let seconds = seconds.filter(|seconds| *seconds > 0);
        let lifetime = seconds.map(Duration::from_secs);
        lifetime.map(Some).ok_or(Fault::NoLifetime)
    }

    /// Who the user is: whom the answer names, if it is configured to, else who the client said.
    fn name(&self, login: &Login, headers: &HeaderMap) -> Result<Arc<str>, Fault> {
        let mut named = self
            .username_header
            .as_ref()
            .into_iter()
            .flat_map(|name| headers.get_all(name).iter());
        let name = match (named.next(), named.next()) {
            (None, _) => Some(&*login.user),
            (Some(name), None) => std::str::from_utf8(name.as_bytes()).ok(),
            // Two users in one answer are none.
            (Some(_), Some(_)) => None,
        };
        let name = name.filter(|name| User::is_name(name));
        name.map(Arc::from).ok_or(Fault::NoName)
    }

    /// Asks one way; faults are logged.
    async fn ask_by<T>(
        &self,
        (way, call): (&Way, Call),
        payer: Payer,
        parameters: String,
        parse: impl Fn(&Reply) -> Result<T, Fault>,
    ) -> Result<T, Refusal> {
        if parameters.len() > MAX_QUESTION {
            return Err(Refusal::Denied(Some(
                "names or credentials are too long".into(),
            )));
        }
        let (path, answer) = match way {
            Way::Alone(path) => {
                let waiting = timeout(self.request_timeout, self.turns.take(payer.clone()));
                let Ok(_turn) = waiting.await else {
                    telemetry::limit_exceeded(Bound::HookTurns, &payer);
                    return Err(Refusal::Busy);
                };
                let begun = Instant::now();
                let answer = self.call(path, parameters.into(), parse).await;
                if let Err(Fault::LongUrl(status)) = answer {
                    telemetry::hook_called(call.name(), begun.elapsed(), false);
                    let said = path.long_url.lock().let_through(Instant::now().into_std());
                    if let Some(unsaid) = said {
                        telemetry::hook_url_too_long(&call, &path.shown, status, unsaid);
                    }
                    return Err(Refusal::Denied(Some(TOO_LONG_FOR_GET.into())));
                }
                telemetry::hook_called(call.name(), begun.elapsed(), answer.is_err());
                (&**path, answer)
            }
            Way::Together(batches) => {
                let question = (call, &*parameters);
                let asking = Asked::ask(&self.turns, &payer, question, self.request_timeout);
                let answered = asking.await;
                if answered.as_ref().is_err_and(|no| *no == Refusal::Busy) {
                    telemetry::limit_exceeded(Bound::HookTurns, &payer);
                }
                let answer = parse(&answered?);
                if answer.is_err() {
                    telemetry::hook_faults(call.name(), 1);
                }
                (&batches.path, answer)
            }
        };
        match answer {
            Ok(answer) => {
                path.faults.answered(call.name(), &path.shown);
                Ok(answer)
            }
            Err(fault) => {
                path.faults.fault(call.name(), &path.shown, &fault);
                Err(refused_by(call.name(), &fault))
            }
        }
    }

    /// One call, bounded in time.
    async fn call<T>(
        &self,
        path: &Path,
        parameters: Bytes,
        parse: impl Fn(&Reply) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let within = self.request_timeout;
        let url_length = path.url.as_str().len().saturating_add(parameters.len());
        let answered = timeout(within, async {
            let request = || self.request(path, parameters.clone());
            let reply = exchange(request, MAX_ANSWER).await?;
            let is_get = self.method == Method::Get;
            let is_longest = url_length > path.longest_url.load(Ordering::Relaxed);
            if is_get && is_longest && is_for_length(reply.status, url_length) {
                return Err(Fault::LongUrl(reply.status));
            }
            let answer = parse(&reply)?;
            path.longest_url.fetch_max(url_length, Ordering::Relaxed);
            Ok(answer)
        });
        answered
            .await
            .unwrap_or_else(|_| Err(Fault::Timeout(within)))
    }

    fn request(&self, path: &Path, form: Bytes) -> RequestBuilder {
        match self.method {
            Method::Get => {
                let form = String::from_utf8_lossy(&form);
                let mut url = path.url.clone();
                url.set_query(Some(&match path.url.query() {
                    Some(own) if !own.is_empty() => Cow::Owned(format!("{own}&{form}")),
                    _ => form,
                }));
                self.client.get(url)
            }
            Method::Post => self
                .client
                .post(path.url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form),
        }
    }
}

impl Authenticator for HttpAuthenticator {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        async move { Ok(self.ask_user(login).await?.user) }.boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        self.ask_user(login).boxed()
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            // It has let nobody in, so whoever comes without a token is not its user, whatever the
            // name.
            if self.user.is_none() && user.source.is_none() {
                let why = "no user_path is set, so the hook answers for users of tokens alone";
                return Err(Refusal::Denied(Some(why.into())));
            }
            let payer = match access {
                // A part of the login, whose user may have nothing under way otherwise.
                Access::Vhost { ip, .. } => Payer::Login(AddressKey::from(*ip), true),
                _ => Payer::User(Arc::clone(&user.name)),
            };
            self.ask(payer, question(user, access)).await.map(drop)
        }
        .boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        async move {
            let Some(way) = &self.groups else {
                return Ok(Vec::new());
            };
            let question = Question::Groups(GroupsQuestion {
                username: Cow::Borrowed(&user.name),
                tags: Cow::Borrowed(&user.tags),
            });
            let parse = |reply: &Reply| Ok(parse_groups(reply.status, &reply.body)?);
            let payer = Payer::User(Arc::clone(&user.name));
            self.ask_by((way, Call::Groups), payer, question.encode(), parse)
                .await
        }
        .boxed()
    }
}

impl Path {
    fn read(key: &'static str, text: &str) -> Result<Self, SetupError> {
        let url = parse(text).map_err(|problem| SetupError::Config(key, problem))?;
        Ok(Self {
            shown: without_secrets(&url).into(),
            url,
            faults: FaultLog::default(),
            longest_url: AtomicUsize::new(0),
            long_url: Mutex::new(Seldom::once_in(Seldom::MINUTE)),
        })
    }
}

/// The status, and an answer that is no longer than this.
async fn exchange(request: impl Fn() -> RequestBuilder, max_answer: usize) -> Result<Reply, Fault> {
    let mut response = match request().send().await {
        // The hook closed a kept connection just as the question went out. Questions change
        // nothing, so this one may be asked again, once; RabbitMQ does so too. Of tokens that the
        // hook uses up, docs/auth.md tells.
        Err(error) if error.is_request() && !error.is_connect() && !error.is_timeout() => {
            request().send().await
        }
        other => other,
    }
    .map_err(Fault::connection)?;

    // The body of a wrong status is read too: otherwise its connection were lost.
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Fault::connection)? {
        if body.len().saturating_add(chunk.len()) > max_answer {
            return Err(Fault::TooLong(max_answer));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply {
        status: response.status().as_u16(),
        headers: std::mem::take(response.headers_mut()),
        body,
    })
}

/// Whether a server may answer so because the URL is so long: nginx takes 8 KB, Node 16 KB with all
/// headers, gunicorn 4,094 bytes.
fn is_for_length(status: u16, url_length: usize) -> bool {
    match status {
        414 | 431 => url_length > 2_000,
        400 => url_length > 4_000,
        _ => false,
    }
}

fn refused_by(call: &str, fault: &Fault) -> Refusal {
    Refusal::Faulty(format!("the hook is at fault: {call} call: {fault}").into())
}

fn user_parameters(login: &Login) -> String {
    let question = Question::User(UserQuestion {
        username: Cow::Borrowed(&login.user),
        password: login.password.as_deref().map(Cow::Borrowed),
        vhost: Some(Cow::Borrowed(&login.vhost)),
    });
    let mut form = form_urlencoded::Serializer::new(question.encode());
    for (name, value) in &login.more {
        form.append_pair(name, value);
    }
    form.finish()
}

fn question<'a>(user: &'a User, access: &'a Access) -> Question<'a> {
    let username = Cow::Borrowed(&*user.name);
    let tags = Cow::Borrowed(&*user.tags);
    match access {
        Access::Vhost { vhost, ip } => Question::Vhost(VhostQuestion {
            username,
            vhost: Cow::Borrowed(vhost),
            // A client of an IPv6 socket may well be an IPv4 client (::ffff:192.0.2.1).
            ip: Cow::Owned(ip.to_canonical().to_string()),
            tags,
        }),
        Access::Resource {
            vhost,
            kind,
            name,
            permission,
        } => Question::Resource(ResourceQuestion {
            username,
            vhost: Cow::Borrowed(vhost),
            resource: *kind,
            name: match kind {
                super::ResourceKind::Exchange => Question::exchange_name(name),
                super::ResourceKind::Queue => Cow::Borrowed(name),
            },
            permission: *permission,
            tags,
        }),
        Access::Topic {
            vhost,
            exchange,
            permission,
            routing_key,
        } => Question::Topic(TopicQuestion {
            username,
            vhost: Cow::Borrowed(vhost),
            name: Question::exchange_name(exchange),
            permission: *permission,
            tags,
            routing_key: Cow::Borrowed(routing_key),
        }),
    }
}

fn say_what_is_unset(config: &Config) {
    let mut unset = config.unset_paths();
    unset.retain(|key| *key != "user_path" || !config.jwt.is_on());
    if unset.is_empty() {
        return;
    }
    telemetry::hook_unset(&unset.join(", "), config.unset == Unset::Allow);
}
