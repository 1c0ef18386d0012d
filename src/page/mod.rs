//! The operator's page: files in this program, beside the HTTP API, whose client it is and nothing
//! else. No build makes it, and it reaches no other host.

use std::{fmt::Write as _, sync::LazyLock};

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use warp::{
    Filter,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};

use crate::http::Routes;

/// The page may load and reach its own origin alone, and is shown in no frame. Names that clients
/// choose are text to it: where a script could make them anything else, the browser refuses.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Files, each with its path, its type, and its content.
#[rustfmt::skip] // a line each
const FILES: [(&str, &str, &str); 23] = [
    ("/", HTML, include_str!("index.html")),
    ("/page/favicon.svg", SVG, include_str!("favicon.svg")),
    ("/page/style.css", CSS, include_str!("style.css")),
    ("/page/parts.css", CSS, include_str!("parts.css")),
    ("/page/alarms.js", SCRIPT, include_str!("alarms.js")),
    ("/page/api.js", SCRIPT, include_str!("api.js")),
    ("/page/app.js", SCRIPT, include_str!("app.js")),
    ("/page/chart.js", SCRIPT, include_str!("chart.js")),
    ("/page/dialog.js", SCRIPT, include_str!("dialog.js")),
    ("/page/dom.js", SCRIPT, include_str!("dom.js")),
    ("/page/format.js", SCRIPT, include_str!("format.js")),
    ("/page/repeat.js", SCRIPT, include_str!("repeat.js")),
    ("/page/series.js", SCRIPT, include_str!("series.js")),
    ("/page/watch.js", SCRIPT, include_str!("watch.js")),
    ("/page/views/bans.js", SCRIPT, include_str!("views/bans.js")),
    ("/page/views/configuration.js", SCRIPT, include_str!("views/configuration.js")),
    ("/page/views/destinations.js", SCRIPT, include_str!("views/destinations.js")),
    ("/page/views/overview.js", SCRIPT, include_str!("views/overview.js")),
    ("/page/views/presence.js", SCRIPT, include_str!("views/presence.js")),
    ("/page/views/publish.js", SCRIPT, include_str!("views/publish.js")),
    ("/page/views/refusals.js", SCRIPT, include_str!("views/refusals.js")),
    ("/page/views/session.js", SCRIPT, include_str!("views/session.js")),
    ("/page/views/sessions.js", SCRIPT, include_str!("views/sessions.js")),
];

/// A file as it is served.
#[derive(Debug)]
struct File {
    path: &'static str,
    kind: &'static str,
    content: Bytes,
    /// Of its content, so that a browser that has it asks only whether it is new.
    tag: HeaderValue,
}

static SERVED: LazyLock<Vec<File>> = LazyLock::new(|| {
    let served = FILES.iter().map(|(path, kind, content)| File {
        path,
        kind,
        content: Bytes::from_static(content.as_bytes()),
        tag: tag(content),
    });
    served.collect()
});

fn tag(content: &str) -> HeaderValue {
    let hash = digest(&SHA256, content.as_bytes());
    let mut tag = String::from("\"");
    for byte in hash.as_ref().iter().take(16) {
        // A string takes what is written.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    // Hexadecimal digits and quotes: there is no other value.
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The files. All other requests are rejected, for whatever is served beside them.
#[must_use]
pub fn routes() -> Routes {
    warp::get()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and_then(
            |path: warp::path::FullPath, headers: HeaderMap| async move {
                let file = SERVED.iter().find(|file| file.path == path.as_str());
                file.map(|file| serve(file, &headers))
                    .ok_or_else(warp::reject::not_found)
            },
        )
        .boxed()
}

fn serve(file: &File, asked: &HeaderMap) -> warp::reply::Response {
    let has_it = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|tag| *tag == file.tag);
    let mut response = warp::reply::Response::new(if has_it {
        Bytes::new().into()
    } else {
        file.content.clone().into()
    });
    if has_it {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::ETAG, file.tag.clone());
    for (name, value) in [
        (header::CONTENT_TYPE, file.kind),
        // An upgrade of the program is an upgrade of all its files.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use http_body_util::{BodyExt as _, Empty};
    use tower_service::Service as _;
    use warp::http::Request;

    use super::*;

    /// What is not listed would be missing from the program; and an import of what is not there
    /// would stop the whole page.
    #[test]
    fn all_files_are_served_and_nothing_else_is_asked_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        let mut there = Vec::new();
        for folder in [folder.clone(), folder.join("views")] {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() && path.extension().unwrap() != "rs" {
                    there.push(path);
                }
            }
        }
        assert_eq!(there.len(), FILES.len(), "{there:?}");
        for (path, _, content) in FILES {
            assert!(content.lines().count() < 800, "{path}");
            for asked in content.split(['\'', '"']) {
                let (folder, _) = path.rsplit_once('/').unwrap();
                let (above, _) = folder.rsplit_once('/').unwrap_or_default();
                let asked = match (asked.strip_prefix("./"), asked.strip_prefix("../")) {
                    (Some(beside), _) => format!("{folder}/{beside}"),
                    (None, Some(file)) => format!("{above}/{file}"),
                    (None, None) => asked.to_owned(),
                };
                let is_file = asked.starts_with("/page/");
                assert!(
                    !asked.starts_with("http://") || asked.contains("www.w3.org"),
                    "{asked}"
                );
                assert!(!asked.starts_with("https://"), "{path} names {asked}");
                if is_file {
                    let found = FILES.iter().any(|(path, ..)| *path == asked);
                    assert!(found, "{path} asks for {asked}");
                }
            }
        }
    }

    async fn ask(path: &str, tag: Option<&str>) -> (u16, HeaderMap, Bytes) {
        let mut request = Request::builder().uri(path);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let mut service = warp::service(routes());
        let answer = service.call(request).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, headers, body)
    }

    #[tokio::test]
    async fn a_file_has_its_type_and_policy_and_is_sent_once() {
        for (path, kind, content) in FILES {
            let (status, headers, body) = ask(path, None).await;
            assert_eq!((status, &*body), (200, content.as_bytes()), "{path}");
            let header = |name: header::HeaderName| headers[name].to_str().unwrap();
            assert_eq!(header(header::CONTENT_TYPE), kind);
            assert_eq!(header(header::CACHE_CONTROL), "no-cache");
            let policy = header(header::CONTENT_SECURITY_POLICY);
            for rule in ["default-src 'none'", "frame-ancestors 'none'"] {
                assert!(policy.contains(rule), "{policy}");
            }
            let (status, _, body) = ask(path, Some(header(header::ETAG))).await;
            assert_eq!((status, body.len()), (304, 0));
            assert_eq!(ask(path, Some("\"0\"")).await.0, 200);
        }
        assert_eq!(ask("/page/", None).await.0, 404);
    }
}
