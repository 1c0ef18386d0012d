//! The management plug-in's HTTP API.

use std::fmt::Write as _;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http;

/// How often a question is asked again that RabbitMQ failed over.
const LISTS_AGAIN: usize = 3;

/// Calls of the management plug-in, as user `guest`. They panic where it refuses.
#[derive(Clone, Debug)]
pub struct Api {
    port: u16,
}

impl Api {
    pub(super) const fn new(port: u16) -> Self {
        Self { port }
    }

    /// Makes a virtual host that `guest` may use.
    pub async fn add_vhost(&self, vhost: &str) {
        let path = path(&["vhosts", vhost]);
        self.call(Method::PUT, &path, Some(json!({}))).await;
        self.allow(vhost, "guest", [".*", ".*", ".*"]).await;
    }

    /// Sets a policy for the queues whose names match the pattern.
    pub async fn set_policy(&self, vhost: &str, pattern: &str, definition: Value) {
        let body = json!({ "pattern": pattern, "definition": definition, "apply-to": "queues" });
        let path = path(&["policies", vhost, "test"]);
        self.call(Method::PUT, &path, Some(body)).await;
    }

    /// Makes a user without any permission.
    pub async fn add_user(&self, user: &str, password: &str) {
        let body = json!({ "password": password, "tags": "" });
        let path = path(&["users", user]);
        self.call(Method::PUT, &path, Some(body)).await;
    }

    /// Sets a user's password and tags.
    pub async fn tag_user(&self, user: &str, password: &str, tags: &str) {
        let body = json!({ "password": password, "tags": tags });
        self.call(Method::PUT, &path(&["users", user]), Some(body))
            .await;
    }

    /// Gives a user permissions, as patterns, to configure, write and read in a virtual host.
    pub async fn allow(&self, vhost: &str, user: &str, [configure, write, read]: [&str; 3]) {
        let body = json!({ "configure": configure, "write": write, "read": read });
        let path = path(&["permissions", vhost, user]);
        self.call(Method::PUT, &path, Some(body)).await;
    }

    /// Gives a user permissions, as patterns of routing keys, to write to and to read from a topic
    /// exchange.
    pub async fn allow_topics(
        &self,
        vhost: &str,
        user: &str,
        exchange: &str,
        [write, read]: [&str; 2],
    ) {
        let body = json!({ "exchange": exchange, "write": write, "read": read });
        let path = path(&["topic-permissions", vhost, user]);
        self.call(Method::PUT, &path, Some(body)).await;
    }

    /// Deletes a virtual host and all that is in it.
    pub async fn delete_vhost(&self, vhost: &str) {
        self.call(Method::DELETE, &path(&["vhosts", vhost]), None)
            .await;
    }

    /// Deletes a queue.
    pub async fn delete_queue(&self, vhost: &str, queue: &str) {
        self.call(Method::DELETE, &path(&["queues", vhost, queue]), None)
            .await;
    }

    /// Deletes a queue that others delete, too: it may be gone.
    pub async fn delete_queue_if_there(&self, vhost: &str, queue: &str) {
        let path = path(&["queues", vhost, queue]);
        let answer = self.answer(Method::DELETE, &path, None).await;
        if answer.status() != StatusCode::NOT_FOUND {
            Self::read(&format!("DELETE {path}"), answer).await;
        }
    }

    /// The queues of a virtual host. Names, arguments and durability are current; counts lag by
    /// a second or two.
    pub async fn queues(&self, vhost: &str) -> Vec<Value> {
        self.list(&with_counts(path(&["queues", vhost]))).await
    }

    /// A queue, or `None`; as [`Self::queues`], and fast where there are many.
    pub async fn queue(&self, vhost: &str, queue: &str) -> Option<Value> {
        let what = with_counts(path(&["queues", vhost, queue]));
        let answer = self.answer(Method::GET, &what, None).await;
        // Counting fails where the queue goes just then.
        let is_going = answer.status() == StatusCode::INTERNAL_SERVER_ERROR;
        if answer.status() == StatusCode::NOT_FOUND || super::is_strict() && is_going {
            return None;
        }
        Some(Self::read(&format!("GET {what}"), answer).await)
    }

    /// The bindings of a virtual host, those to the default exchange left out.
    pub async fn bindings(&self, vhost: &str) -> Vec<Value> {
        let mut bindings = self.list(&path(&["bindings", vhost])).await;
        bindings.retain(|binding| binding["source"] != "");
        bindings
    }

    /// The AMQP connections of a virtual host.
    pub(super) async fn connections(&self, vhost: &str) -> Vec<Value> {
        self.list(&path(&["vhosts", vhost, "connections"])).await
    }

    /// Any other call: `get("/overview")`.
    pub async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await
    }

    /// As [`Self::get`]; `None` while the node does not answer, or refuses.
    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let request = self.request(Method::GET, self.url(path));
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        match self.get(path).await {
            Value::Array(entries) => entries,
            other => panic!("{path} is no list: {other}"),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let what = format!("{method} {path}");
        for _ in 0..LISTS_AGAIN {
            let answer = self.answer(method.clone(), path, body.clone()).await;
            // RabbitMQ fails over a connection that goes while it makes the list.
            if method != Method::GET || answer.status() != StatusCode::INTERNAL_SERVER_ERROR {
                return Self::read(&what, answer).await;
            }
        }
        let answer = self.answer(method, path, body).await;
        Self::read(&what, answer).await
    }

    async fn answer(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Response {
        let mut request = self.request(method, self.url(path));
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    async fn read(what: &str, answer: reqwest::Response) -> Value {
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        assert!(status.is_success(), "{what}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn request(&self, method: Method, url: String) -> reqwest::RequestBuilder {
        http::client()
            .request(method, url)
            .basic_auth("guest", Some("guest"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/api{path}", self.port)
    }
}

/// The path of queues, with their counts of messages where the plug-in has no statistics: there,
/// RabbitMQ counts at once.
fn with_counts(path: String) -> String {
    match super::is_strict() {
        true => format!("{path}?disable_stats=true&enable_queue_totals=true"),
        false => path,
    }
}

/// Joins segments into a path, each encoded.
fn path(segments: &[&str]) -> String {
    segments.iter().fold(String::new(), |mut path, segment| {
        path.push('/');
        for byte in segment.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    path.push(char::from(byte));
                }
                _ => write!(path, "%{byte:02X}").expect("a string takes all"),
            }
        }
        path
    })
}
