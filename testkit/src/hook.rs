//! The application's side of the authentication: an HTTP hook that records and obeys.

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Who is this?
    User,
    /// May this user use a virtual host?
    Vhost,
    /// May this user use an exchange or a queue?
    Resource,
    /// May this user use a routing key?
    Topic,
    /// Which groups is this user in?
    Groups,
}

impl Call {
    const ALL: [Self; 5] = [
        Self::User,
        Self::Vhost,
        Self::Resource,
        Self::Topic,
        Self::Groups,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::User => "/auth/user",
            Self::Vhost => "/auth/vhost",
            Self::Resource => "/auth/resource",
            Self::Topic => "/auth/topic",
            Self::Groups => "/auth/groups",
        }
    }
}

/// One call that the hook got.
#[derive(Clone, Debug)]
pub struct HookCall {
    /// The kind of question.
    pub call: Call,
    /// `GET` or `POST`.
    pub method: String,
    /// Parameters of the query string or the form, in order, decoded.
    pub parameters: Vec<(String, String)>,
    /// Headers, names in small letters.
    pub headers: Vec<(String, String)>,
}

impl HookCall {
    /// The value of a parameter; empty if it is not there.
    #[must_use]
    pub fn get(&self, parameter: &str) -> &str {
        find(&self.parameters, parameter)
    }

    /// The value of a header; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        find(&self.headers, name)
    }
}

fn find<'a>(entries: &'a [(String, String)], name: &str) -> &'a str {
    entries
        .iter()
        .find_map(|(key, value)| (key == name).then_some(value.as_str()))
        .unwrap_or_default()
}

/// How the hook answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 `allow`.
    Allow,
    /// 200 `allow` and these tags.
    AllowTags(&'static str),
    /// 200 `allow`, and in the header `x-username` who the user is.
    AllowAs(&'static str),
    /// 200 `allow`, and in the header `x-session-seconds` how long the login counts.
    AllowFor(u64),
    /// 200 `deny`.
    Deny,
    /// 200 `deny` and this reason.
    DenyBecause(&'static str),
    /// Any status and body: faults, nonsense, lists of groups.
    Status(u16, String),
    /// The other answer, late.
    After(Duration, Box<Self>),
    /// No answer: the connection closes.
    Close,
    /// No answer: the connection stays open until the caller gives up.
    Never,
}

type Rule = Box<dyn Fn(&HookCall) -> Option<Answer> + Send + Sync>;

#[derive(Default)]
struct State {
    calls: Mutex<Vec<HookCall>>,
    rules: Mutex<Vec<Rule>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

/// A call, until it is answered or its caller has gone.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn begin(state: &Arc<State>) -> Self {
        let count = state.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_under_way.fetch_max(count, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A hook on a port of its own, which allows everything until told otherwise. Dropped, it is
/// gone from its port, and its connections close.
pub struct Hook {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Hook {
    /// Starts a hook.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::<State>::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            task,
        }
    }

    /// The address for a kind of call.
    #[must_use]
    pub fn url(&self, call: Call) -> String {
        format!("http://{}{}", self.address, call.path())
    }

    /// From now on, answers calls of this kind so.
    pub fn answer(&self, call: Call, answer: Answer) {
        self.rule(move |asked| (asked.call == call).then(|| answer.clone()));
    }

    /// From now on, gives the answer of `rule`, if it has one. The latest rule is asked first.
    pub fn rule(&self, rule: impl Fn(&HookCall) -> Option<Answer> + Send + Sync + 'static) {
        lock(&self.state.rules).push(Box::new(rule));
    }

    /// Forgets all rules: everything is allowed again.
    pub fn allow_all(&self) {
        lock(&self.state.rules).clear();
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<HookCall> {
        lock(&self.state.calls).clone()
    }

    /// The calls of one kind so far.
    #[must_use]
    pub fn calls_of(&self, call: Call) -> Vec<HookCall> {
        let mut calls = self.calls();
        calls.retain(|asked| asked.call == call);
        calls
    }

    /// The most calls that were under way at a time.
    #[must_use]
    pub fn most_at_a_time(&self) -> usize {
        self.state.most_under_way.load(Ordering::Relaxed)
    }

    /// Closes the port and all connections: the hook is down for good.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("address", &self.address)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Connections end with the set, and the set with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| respond(request, Arc::clone(&state)));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// An error makes hyper close the connection without an answer.
async fn respond(
    request: Request<Incoming>,
    state: Arc<State>,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let Some(call) = Call::ALL
        .into_iter()
        .find(|call| call.path() == head.uri.path())
    else {
        return Ok(answer(404, "no such call"));
    };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let asked = HookCall {
        call,
        method: head.method.to_string(),
        parameters: [query, &body]
            .into_iter()
            .flat_map(url::form_urlencoded::parse)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.to_string(), value.into_owned())
            })
            .collect(),
    };
    let _under_way = UnderWay::begin(&state);
    lock(&state.calls).push(asked.clone());
    let mut verdict = lock(&state.rules)
        .iter()
        .rev()
        .find_map(|rule| rule(&asked))
        .unwrap_or(match call {
            Call::Groups => Answer::Status(200, String::new()),
            _ => Answer::Allow,
        });
    loop {
        verdict = match verdict {
            Answer::Allow => return Ok(answer(200, "allow")),
            Answer::AllowTags(tags) => return Ok(answer(200, &format!("allow {tags}"))),
            Answer::AllowAs(user) => {
                let mut named = answer(200, "allow");
                let user = user.parse().expect("a header's value");
                named.headers_mut().insert("x-username", user);
                return Ok(named);
            }
            Answer::AllowFor(seconds) => {
                let mut limited = answer(200, "allow");
                let headers = limited.headers_mut();
                headers.insert("x-session-seconds", seconds.into());
                return Ok(limited);
            }
            Answer::Deny => return Ok(answer(200, "deny")),
            Answer::DenyBecause(reason) => return Ok(answer(200, &format!("deny {reason}"))),
            Answer::Status(status, body) => return Ok(answer(status, &body)),
            Answer::Close => return Err(io::Error::other("told to close")),
            Answer::Never => match std::future::pending::<Infallible>().await {},
            Answer::After(delay, then) => {
                sleep(delay).await;
                *then
            }
        };
    }
}

fn answer(status: u16, body: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::from(body.to_owned()))
        .expect("a valid status")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
