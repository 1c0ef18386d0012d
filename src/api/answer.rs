//! Answers: JSON, errors included; and lines that come one after the other.

use std::{
    convert::Infallible,
    fmt, mem,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use warp::{
    Reply as _,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};

use crate::presence::PresenceError;

/// The error of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// In words.
    #[schema(examples("is no such key"))]
    pub error: String,
    /// The field of the body, or the parameter, that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// A handler's answer.
pub(super) type Answer = Result<Reply, Refusal>;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Body,
}

/// The body of an answer.
pub(super) enum Body {
    /// All of it.
    Whole(Bytes),
    /// Pieces, for as long as the caller reads them.
    Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send + Sync>>),
}

/// Smaller bodies hold no turn: a connection that is read slowly takes as much anyway.
const LARGE: usize = 64 << 10;

/// A body that has its request's turn for as long as it is in memory.
struct OfTurn {
    body: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for OfTurn {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Pieces(_) => f.write_str("pieces"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(bytes.into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Whole(text.into())
    }
}

/// A request that is not done; why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    body: ErrorBody,
    /// The error for the audit, where its words may have some of the request in them.
    audited: Option<Box<str>>,
    /// A header that belongs to the status (`WWW-Authenticate`, `Allow`, `Retry-After`).
    header: Option<Box<(header::HeaderName, HeaderValue)>>,
}

impl Reply {
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
        match serde_json::to_vec(value) {
            Ok(body) => Ok(Self {
                status,
                content_type: "application/json",
                body: body.into(),
            }),
            Err(error) => Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the answer cannot be written: {error}"),
            )),
        }
    }

    pub(super) fn ok(value: &impl Serialize) -> Answer {
        Self::json(StatusCode::OK, value)
    }

    /// A large body holds the turn of its request until its caller has read it, or has gone.
    pub(super) fn holding(mut self, turn: Option<OwnedSemaphorePermit>) -> Self {
        if let (Body::Whole(body), Some(turn)) = (&mut self.body, turn)
            && body.len() > LARGE
        {
            *body = Bytes::from_owner(OfTurn {
                body: mem::take(body),
                _turn: turn,
            });
        }
        self
    }

    pub(super) fn into_response(self) -> warp::reply::Response {
        let mut response = match self.body {
            Body::Whole(bytes) => warp::reply::Response::new(bytes.into()),
            Body::Pieces(pieces) => {
                warp::reply::stream(pieces.map(Ok::<_, Infallible>)).into_response()
            }
        };
        *response.status_mut() = self.status;
        let content_type = HeaderValue::from_static(self.content_type);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        // An answer is of this moment, and for this caller.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let nosniff = HeaderValue::from_static("nosniff");
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        response
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody {
                error: error.into(),
                field: None,
            },
            audited: None,
            header: None,
        }
    }

    /// 400, about a field of the body or a parameter.
    pub(super) fn field(field: &str, error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error).about(field)
    }

    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    pub(super) fn about(mut self, field: &str) -> Self {
        self.body.field = Some(field.to_owned());
        self
    }

    /// The error, in words for the audit.
    pub(super) fn audited(&self) -> &str {
        self.audited.as_deref().unwrap_or(&self.body.error)
    }

    pub(super) fn with_header(mut self, name: header::HeaderName, value: &str) -> Self {
        self.header = value.parse().ok().map(|value| Box::new((name, value)));
        self
    }

    pub(super) fn into_response(self) -> warp::reply::Response {
        let reply = Reply::json(self.status, &self.body).unwrap_or(Reply {
            status: self.status,
            content_type: "application/json",
            body: Bytes::new().into(),
        });
        let mut response = reply.into_response();
        if let Some(header) = self.header {
            let (name, value) = *header;
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<PresenceError> for Refusal {
    fn from(error: PresenceError) -> Self {
        match error {
            PresenceError::Cursor => Self::field("cursor", error.to_string()),
            error => Self::unavailable(format!("presence: {error}")),
        }
    }
}

/// A request that was let in.
pub(super) struct Request {
    /// The values for the names of the path's template, decoded, in order.
    pub(super) names: Vec<String>,
    pub(super) query: String,
    pub(super) body: Bytes,
    /// The name of its token, if it needed one.
    pub(super) caller: Option<Box<str>>,
    /// The other end of its connection.
    pub(super) remote: Option<SocketAddr>,
    /// What it acts on, for the audit, once its handler knows.
    pub(super) on: Arc<OnceLock<Box<str>>>,
}

impl Request {
    /// What its URL names, for the audit, where no handler says what it acts on: one that is denied has
    /// none. The reason of a kick is not for the audit.
    pub(super) fn named(&self) -> String {
        const NAMING: [&str; 7] = [
            "user",
            "address",
            "device_type",
            "device_id",
            "session",
            "destination",
            "key",
        ];
        const LONGEST: usize = 256;
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        let pairs = pairs.filter(|(name, _)| NAMING.contains(&&**name));
        let pairs = pairs.take(NAMING.len()).map(|(name, value)| {
            let value: String = value.chars().take(LONGEST).collect();
            format!("{} {value:?}", name.replace('_', " "))
        });
        let path = Some(self.names.join(" ")).filter(|path| !path.is_empty());
        let named: Vec<_> = path.into_iter().chain(pairs).collect();
        named.join(", ")
    }

    /// Says what it acts on, if its URL does not.
    pub(super) fn acts_on(&self, what: impl Into<Box<str>>) {
        // A handler says so once.
        let _ = self.on.set(what.into());
    }

    /// The first name of the path.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The parameters of the URL.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs))
            .map_err(|error| wrong(&error, "a parameter of the URL"))
    }

    /// Refuses parameters of the URL.
    pub(super) fn no_query(&self) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        self.query().map(|Nothing {}| ())
    }

    /// The body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let mut deserializer = serde_json::Deserializer::from_slice(&self.body);
        let value = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| wrong(&error, "the body"))?;
        deserializer
            .end()
            .map_err(|error| malformed("the body", format!("the body: {error}")))?;
        Ok(value)
    }
}

/// True if the headers declare a JSON body.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// serde's words, and where they belong.
fn wrong<E: fmt::Display>(error: &serde_path_to_error::Error<E>, what: &str) -> Refusal {
    let path = error.path().to_string();
    let message = error.inner().to_string().replace('`', "\"");
    // A path of `.` or `?` is of no field.
    if path.contains(char::is_alphanumeric) {
        malformed(what, message).about(&path)
    } else {
        malformed(what, format!("{what}: {message}"))
    }
}

/// Status 400. serde's words have values and names of the request in them, which are for its caller
/// alone: a text where an object belongs is a whole body.
fn malformed(what: &str, error: String) -> Refusal {
    let mut refusal = Refusal::new(StatusCode::BAD_REQUEST, error);
    refusal.audited = Some(format!("{what} is not as expected").into());
    refusal
}
