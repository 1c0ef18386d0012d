//! Requests to a gateway's API.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    api::KeyFailure,
    causes::{of_request, with_causes},
    tap::printable,
};

/// How long an answer to a question may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The same of an action, which goes on without its caller: more than the gateway's own bound, twice
/// `broker.operation_timeout` and some seconds, so that it has the last word.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);

/// The longest time of an answer without an end.
const WITHOUT_END: Duration = Duration::from_secs(365 * 24 * 3600);

/// The most failed keys that an error names.
const SHOWN: usize = 20;

/// A gateway, as somebody with this token sees it.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    token: Option<String>,
    /// How long an action may take.
    patience: Duration,
}

/// The gateway could not be asked, or did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// `--url` is not a URL.
    #[error("--url: {0}; write it as http://127.0.0.1:15680")]
    Url(String),
    /// Nobody is there.
    #[error(
        "no gateway answers at {url}: {cause}. Is it running there? [listen] admin of its \
         configuration says where; tell it by --url or STENTOR_URL"
    )]
    NotThere {
        /// Where.
        url: String,
        /// Why.
        cause: String,
    },
    /// It was asked, and no answer came.
    #[error("no answer came from {url}: {cause}{}", possibly_done(*.is_action))]
    NoAnswer {
        /// Where.
        url: String,
        /// Why.
        cause: String,
        /// It may be done all the same.
        is_action: bool,
    },
    /// Something else is there.
    #[error("the answer from {url} is not Stentor's API's ({cause}); is it [listen] admin?")]
    NotStentor {
        /// Where.
        url: String,
        /// How that shows.
        cause: String,
    },
    /// 401.
    #[error("not let in: {0}. Set the token by STENTOR_TOKEN or --token-file")]
    Unauthorized(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// Some messages were not published; which, in words.
    #[error("{words}")]
    NotPublished {
        /// The text about them.
        words: String,
        /// The gateway's answer.
        answer: String,
        /// The number that was published.
        published: usize,
        /// The others.
        failed: Vec<KeyFailure>,
    },
    /// Anything else that the gateway refused; its words.
    #[error("{0}")]
    Refused(String),
}

/// The gateway's answer to a request that it refused.
#[derive(Deserialize)]
struct Failure {
    error: String,
    field: Option<String>,
    #[serde(default)]
    published: usize,
    #[serde(default)]
    failed: Vec<KeyFailure>,
}

impl Client {
    pub(super) fn new(url: &str, token: Option<String>) -> Result<Self, ClientError> {
        let url: Url = url
            .parse()
            .map_err(|error| ClientError::Url(format!("{error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ClientError::Url(format!(
                "{:?} is not spoken",
                url.scheme()
            )));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("stentor-ctl/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT);
        if url.scheme() == "http" {
            // Reads no root certificates.
            http = http.tls_certs_only([]);
        }
        // The client takes the process's provider. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = http
            .build()
            .map_err(|error| ClientError::Url(with_causes(&error)))?;
        Ok(Self {
            http,
            url,
            token,
            patience: PATIENCE,
        })
    }

    pub(super) async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<String, ClientError> {
        self.ask(Method::GET, path, query, None).await
    }

    pub(super) async fn delete(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<String, ClientError> {
        self.ask(Method::DELETE, path, query, None).await
    }

    pub(super) async fn post(&self, path: &str, body: String) -> Result<String, ClientError> {
        self.ask(Method::POST, path, &[], Some(body)).await
    }

    /// Status and answer of a request that may well be refused.
    pub(super) async fn look(&self, path: &str) -> Result<(bool, String), ClientError> {
        let (status, text) = self.exchange(Method::GET, path, &[], None).await?;
        Ok((status == StatusCode::OK, text))
    }

    /// An answer without an end.
    pub(super) async fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Response, ClientError> {
        let request = self.request(Method::GET, path, query)?;
        let request = request.timeout(WITHOUT_END);
        // It begins at once.
        let answer = match timeout(TIMEOUT, request.send()).await {
            Ok(answer) => answer.map_err(|error| self.unanswered(error, false))?,
            Err(_) => {
                return Err(ClientError::NoAnswer {
                    url: self.shown(),
                    cause: "it did not answer in time".to_owned(),
                    is_action: false,
                });
            }
        };
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status();
        let text = answer.text().await;
        let text = text.map_err(|error| self.unanswered(error, false))?;
        Err(self.failure(status, text))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder, ClientError> {
        let mut url = self.url.clone();
        // A gateway behind a proxy may be at a path of its own.
        let whole = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
        if url.path() != whole {
            let error =
                "the names \".\" and \"..\" cannot stand in a URL's path: they mean another";
            return Err(ClientError::Refused(error.to_owned()));
        }
        let request = self.http.request(method, url).query(query);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    fn unanswered(&self, error: reqwest::Error, is_action: bool) -> ClientError {
        let (url, is_unasked) = (self.shown(), error.is_connect());
        let cause = of_request(error);
        match is_unasked {
            true => ClientError::NotThere { url, cause },
            false => ClientError::NoAnswer {
                url,
                cause,
                is_action,
            },
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<(StatusCode, String), ClientError> {
        let is_action = method != Method::GET;
        let mut request = self.request(method, path, query)?;
        if is_action {
            request = request.timeout(self.patience);
        }
        if let Some(body) = body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| self.unanswered(error, is_action))?;
        let status = answer.status();
        let text = answer.text().await;
        let text = text.map_err(|error| self.unanswered(error, is_action))?;
        Ok((status, text))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<String, ClientError> {
        let (status, text) = self.exchange(method, path, query, body).await?;
        match status {
            StatusCode::OK => Ok(text),
            status => Err(self.failure(status, text)),
        }
    }

    /// The gateway refused it.
    fn failure(&self, status: StatusCode, text: String) -> ClientError {
        let Ok(Failure {
            error,
            field,
            published,
            failed,
        }) = serde_json::from_str(&text)
        else {
            return ClientError::NotStentor {
                url: self.shown(),
                cause: status.to_string(),
            };
        };
        let mut words = match field {
            Some(field) => format!("{}: {}", printable(&field), in_lines(&error)),
            None => in_lines(&error),
        };
        for failed in failed.iter().take(SHOWN) {
            let (key, detail) = (&failed.key, printable(&failed.detail));
            words.push_str(&format!("\n  {key:?}: {detail}"));
        }
        if failed.len() > SHOWN {
            words.push_str("\n  …");
        }
        if !failed.is_empty() {
            return ClientError::NotPublished {
                words,
                answer: text,
                published,
                failed,
            };
        }
        match status {
            StatusCode::UNAUTHORIZED => ClientError::Unauthorized(words),
            StatusCode::FORBIDDEN => ClientError::Forbidden(words),
            _ => ClientError::Refused(words),
        }
    }

    /// An answer.
    pub(super) fn parse<T: DeserializeOwned>(&self, answer: &str) -> Result<T, ClientError> {
        serde_json::from_str(answer).map_err(|error| ClientError::NotStentor {
            url: self.shown(),
            cause: printable(&error.to_string()),
        })
    }

    /// The URL without what may be secret.
    fn shown(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}"));
        format!(
            "{}://{}{}",
            self.url.scheme(),
            self.url.host_str().unwrap_or_default(),
            port.unwrap_or_default()
        )
    }
}

/// The gateway's words, fit for a terminal: names of clients and RabbitMQ's words are among them.
/// Their line breaks stay.
fn in_lines(words: &str) -> String {
    let lines: Vec<_> = words.lines().map(printable).collect();
    lines.join("\n")
}

/// What follows from an action that nobody answered for.
fn possibly_done(is_action: bool) -> &'static str {
    match is_action {
        true => ". It may be done all the same: look before you repeat it",
        false => "",
    }
}

/// The path of these segments.
pub(super) fn path(segments: &[&str]) -> String {
    let mut path = "/api/v1".to_owned();
    for segment in segments {
        path.push('/');
        path.extend(utf8_percent_encode(segment, NON_ALPHANUMERIC));
    }
    path
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{ctl::Error, tap::is_unsafe};

    #[test]
    fn words_of_others_do_not_steer_the_terminal() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let bad = "feed\u{1b}[2J\u{202e}";
        let failed = serde_json::json!([{"key": bad, "reason": "refused", "detail": bad}]);
        for answer in [
            serde_json::json!({"error": bad}),
            serde_json::json!({"error": bad, "field": bad}),
            serde_json::json!({"error": "not published", "failed": failed}),
        ] {
            let error = client.failure(StatusCode::BAD_REQUEST, answer.to_string());
            let words = error.to_string();
            let is_bad = |character: char| character != '\n' && is_unsafe(character);
            assert!(!words.contains(is_bad), "{words:?}");
        }
    }

    /// Whoever believes that it was not done publishes it twice.
    #[tokio::test]
    async fn an_action_that_got_no_answer_may_be_done() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut client = Client::new(&url, None).unwrap();
        // The gateway reads it, and ends.
        let read = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        };
        let (cut, ()) = tokio::join!(client.post("/api/v1/publish", "{}".to_owned()), read);
        // It takes too long.
        client.patience = Duration::from_millis(100);
        let late = client.post("/api/v1/publish", "{}".to_owned()).await;
        for error in [cut.unwrap_err(), late.unwrap_err()] {
            let error = Error::from(error);
            assert_eq!(error.exit_code(), 1, "{error}");
            assert!(error.to_string().contains("may be done"), "{error}");
        }
        // A question that nobody answers has no effect.
        let unanswered = ClientError::NoAnswer {
            url,
            cause: "it did not answer in time".to_owned(),
            is_action: false,
        };
        let error = Error::from(unanswered);
        assert_eq!(error.exit_code(), 3);
        assert!(!error.to_string().contains("may be done"), "{error}");
    }

    /// It would ask for something else, without a word.
    #[tokio::test]
    async fn a_name_that_a_path_cannot_hold_is_refused() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        for name in [".", ".."] {
            let asked = client
                .delete(&path(&["users", name, "sessions"]), &[])
                .await;
            let error = asked.unwrap_err().to_string();
            assert!(error.contains("cannot stand in a URL"), "{error}");
        }
        for name in ["a/b", "...", "%2e", "a b", "ä"] {
            let asked = client.get(&path(&["users", name]), &[]).await;
            assert!(matches!(asked, Err(ClientError::NotThere { .. })), "{name}");
        }
    }
}
