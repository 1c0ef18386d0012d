//! A reference hook: users of a file, or made in code, behind the calls of the contract.
//!
//! It is meant to be read, run beside the gateway while an application has no hook of its own
//! yet, and embedded in demos and tests. [`Rules`] say who may do what; [`serve`] answers.

mod file;
mod grant;
mod password;
mod rules;

use std::{
    future::Future,
    num::NonZero,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown, service::TowerToHyperService};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::{debug, info, warn};
use warp::{Filter, filters::BoxedFilter, http::StatusCode};

pub use grant::{Grant, GrantError};
pub use password::{PasswordError, PasswordHash};
pub use rules::{Account, OWN_FEED, Rules, RulesError};

use crate::{
    Answer, BatchQuestion, Call, Question, UserQuestion, encode_batch_answers, parse_batch,
};

/// Longer forms are refused by status 413. In bytes.
const MAX_FORM: u64 = 64 * 1024;

/// Longer batches are. In bytes.
const MAX_BATCH_BODY: u64 = 256 * 1024;

/// How long calls under way may take to end when the service is told to.
const DRAIN: Duration = Duration::from_secs(5);

/// The pause after a connection that could not be taken: for want of files, most likely, and the
/// next would fare alike.
const PAUSE: Duration = Duration::from_millis(100);

/// Rules that can be replaced while they are served. Clones share the rules.
#[derive(Clone, Debug)]
pub struct LiveRules(Arc<RwLock<Arc<Rules>>>);

impl LiveRules {
    /// Begins with these.
    pub fn new(rules: Rules) -> Self {
        LiveRules(Arc::new(RwLock::new(Arc::new(rules))))
    }

    /// Takes these from now on.
    pub fn replace(&self, rules: Rules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Those that hold now.
    pub fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answers `/auth/user`, `/auth/vhost`, `/auth/resource`, `/auth/topic` and `/auth/groups`, by
/// GET and by POST, many questions in one POST to `/auth/batch`, and `/healthz`, until `shutdown` is done; then lets the calls under way end, for five
/// seconds at most.
pub async fn serve(
    listener: TcpListener,
    rules: Rules,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    serve_live(listener, LiveRules::new(rules), shutdown).await;
}

/// As [`serve`], with rules that the caller may replace meanwhile.
pub async fn serve_live(
    listener: TcpListener,
    rules: LiveRules,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    if rules.current().allows_all() {
        warn!("EVERYTHING IS ALLOWED TO EVERYBODY, WITH ANY PASSWORD: this hook is for measuring");
    }
    let hook = Hook::new(rules);
    let routes = Call::ALL.map(|call| route(call, &hook));
    let [user, vhost, resource, topic, groups] = routes;
    let healthy = warp::path!("healthz")
        .and(warp::get())
        .map(|| (StatusCode::OK, "ok\n".to_owned()))
        .boxed();
    let routes = user
        .or(vhost)
        .unify()
        .or(resource)
        .unify()
        .or(topic)
        .unify()
        .or(groups)
        .unify()
        .or(batches(&hook))
        .unify()
        .or(healthy)
        .unify();
    let routes = routes.map(|(status, body)| warp::reply::with_status(body, status));

    // HTTP/1.1 alone, as callers speak it: warp's own server would bring HTTP/2.
    let service = TowerToHyperService::new(warp::service(routes));
    let under_way = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "could not take a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        let connection = under_way.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, under_way.shutdown())
        .await
        .is_err()
    {
        warn!("calls were still under way after {DRAIN:?}; not waiting longer");
    }
}

fn route(call: Call, hook: &Arc<Hook>) -> BoxedFilter<((StatusCode, String),)> {
    let hook = Arc::clone(hook);
    let query = warp::query::raw()
        .or(warp::any().map(String::new))
        .unify()
        .map(Bytes::from);
    let form = warp::body::content_length_limit(MAX_FORM).and(warp::body::bytes());
    warp::path("auth")
        .and(warp::path(call.name()))
        .and(warp::path::end())
        .and(warp::get().and(query).or(warp::post().and(form)).unify())
        .then(move |parameters: Bytes| {
            let hook = Arc::clone(&hook);
            async move {
                let body = match call {
                    Call::Groups => hook.groups(&parameters),
                    _ => hook.answer(call, &parameters).await.to_string(),
                };
                (StatusCode::OK, body)
            }
        })
        .boxed()
}

/// Many questions in one call; the body of a call that is none says what is wrong with it.
fn batches(hook: &Arc<Hook>) -> BoxedFilter<((StatusCode, String),)> {
    let hook = Arc::clone(hook);
    warp::path!("auth" / "batch")
        .and(warp::post())
        .and(warp::body::content_length_limit(MAX_BATCH_BODY))
        .and(warp::body::bytes())
        .then(move |body: Bytes| {
            let hook = Arc::clone(&hook);
            async move {
                match parse_batch(&body) {
                    Ok(questions) => (StatusCode::OK, hook.answer_all(questions).await),
                    Err(error) => {
                        warn!(error, "not a batch of the contract; refused");
                        (StatusCode::BAD_REQUEST, error.to_owned())
                    }
                }
            }
        })
        .boxed()
}

struct Hook {
    rules: LiveRules,
    /// Verifications at a time: each keeps a core busy, and takes memory (19 MiB by default).
    verifications: Arc<Semaphore>,
}

impl Hook {
    fn new(rules: LiveRules) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Arc::new(Hook {
            rules,
            verifications: Arc::new(Semaphore::new(cores)),
        })
    }

    async fn answer(&self, call: Call, parameters: &[u8]) -> Answer {
        let rules = self.rules.current();
        if rules.allows_all() {
            return Answer::allow();
        }
        let answer = match Question::parse(call, parameters) {
            Ok(Question::User(user)) => self.login(&rules, user).await,
            Ok(question) => rules.answer(&question),
            Err(error) => {
                warn!(%call, %error, "not a call of the contract; denied");
                return Answer::deny(&error.to_string());
            }
        };
        if let Answer::Deny { reason } = &answer {
            info!(%call, reason = reason.as_deref().unwrap_or_default(), "denied");
        }
        answer
    }

    /// Side by side, for logins take long; the answers in the order of the questions.
    async fn answer_all(&self, questions: Vec<Option<BatchQuestion>>) -> String {
        let answers = questions.into_iter().map(async |question| match question {
            Some(BatchQuestion { call, form }) => self.answer(call, form.as_bytes()).await,
            None => Answer::deny("not a question of the contract"),
        });
        let answers = join_all(answers).await.into_iter();
        encode_batch_answers(answers.map(|answer| answer.to_string().into()))
    }

    /// A JSON array: a name may have any characters. An unknown user is in no group.
    fn groups(&self, parameters: &[u8]) -> String {
        let rules = self.rules.current();
        let groups = match Question::parse(Call::Groups, parameters) {
            Ok(question) => rules.groups(question.username()),
            Err(error) => {
                warn!(call = %Call::Groups, %error, "not a call of the contract; no groups");
                &[]
            }
        };
        serde_json::json!(groups).to_string()
    }

    /// Neither its words nor its time show if the name or the password is wrong. The log does
    /// not name the user either: people type passwords into the wrong field.
    async fn login(&self, rules: &Rules, user: UserQuestion<'static>) -> Answer {
        let Some(password) = user.password else {
            // The caller has verified the user's certificate.
            return match rules.certified(&user.username) {
                Some(tags) => Answer::Allow { tags },
                None => {
                    Answer::deny("no password, and no user of that name has `certificate = true`")
                }
            };
        };
        let wrong = || Answer::deny("wrong user name or password");
        let Some(login) = rules.login(&user.username) else {
            return wrong();
        };
        let Ok(permit) = Arc::clone(&self.verifications).acquire_owned().await else {
            return wrong();
        };
        let verified = tokio::task::spawn_blocking(move || {
            // The permit stays until the work is done, even if the caller has gone away.
            let _permit = permit;
            login.hash.verify(&password)
        });
        match (verified.await, login.tags) {
            (Ok(true), Some(tags)) => Answer::Allow { tags },
            _ => wrong(),
        }
    }
}
