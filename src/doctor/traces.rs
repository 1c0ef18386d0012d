//! The collector of traces: whether it takes them, by these credentials.

use reqwest::{StatusCode, header::CONTENT_TYPE};
use url::Url;

use super::{
    ask::{PATIENCE, ask, late},
    finding::Finding,
};
use crate::{
    auth::http_client,
    causes::{of_request, with_causes},
    config::Config,
    secret_url::without_secrets,
};

const QUESTION: &str = "traces.collector";

/// Asks the collector, if one is configured.
pub(super) async fn examine(config: &Config) -> Option<Finding> {
    let (url, headers) = config.otlp.request()?;
    let (answer, time) = ask(send(&url, &headers)).await;
    let found = match answer {
        Some(Ok(status)) => judge(&url, status, !headers.is_empty()),
        Some(Err(why)) => away(&url, &why),
        None => away(&url, &format!("it {}", late())),
    };
    Some(found.took(time))
}

/// Sends a request without spans, which is zero bytes of protobuf.
async fn send(url: &Url, headers: &[(&str, &str)]) -> Result<StatusCode, String> {
    let client = http_client(url.scheme() == "https", PATIENCE).build();
    let client = client.map_err(|error| with_causes(&error))?;
    let mut request = client
        .post(url.clone())
        .header(CONTENT_TYPE, "application/x-protobuf")
        .timeout(PATIENCE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.body(Vec::new()).send().await;
    Ok(answer.map_err(of_request)?.status())
}

fn judge(url: &Url, status: StatusCode, has_headers: bool) -> Finding {
    let shown = without_secrets(url);
    if status.is_success() {
        return Finding::right(QUESTION, format!("{shown} takes traces"));
    }
    let text = format!("{shown} answers with status {status}: traces are lost");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let text = match has_headers {
                true => format!("{text}. It does not take the credentials of headers"),
                false => format!("{text}. It wants credentials"),
            };
            Finding::wrong(QUESTION, text)
                .cure("STENTOR__TELEMETRY__OTLP__HEADERS='authorization=Bearer TOKEN'")
        }
        // They pass.
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let cure = "look at the collector's log: it, or the server behind it, is overloaded";
            Finding::doubtful(QUESTION, text).cure(cure)
        }
        _ => Finding::wrong(QUESTION, text).cure(right_address(url)),
    }
}

fn away(url: &Url, why: &str) -> Finding {
    let text = format!(
        "{}: {why}. Clients are served, but traces are lost",
        without_secrets(url)
    );
    Finding::wrong(QUESTION, text)
        .cure("start the collector, and open the way to it")
        .cure(right_address(url))
}

/// As people get it wrong: a path too many, or the port for gRPC.
fn right_address(url: &Url) -> String {
    let host = url.host_str().unwrap_or("HOST");
    let scheme = url.scheme();
    format!(
        "[telemetry.otlp] endpoint = \"{scheme}://{host}:4318\"   (OTLP over HTTP; 4317 is for gRPC)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Mark;

    fn url() -> Url {
        "https://otel.example.com/v1/traces?key=s3cret"
            .parse()
            .unwrap()
    }

    #[test]
    fn each_answer_has_its_cure() {
        for (status, has_headers, mark, words, cure) in [
            (200, true, Mark::Right, "takes traces", ""),
            (401, false, Mark::Wrong, "It wants credentials", "HEADERS="),
            (403, true, Mark::Wrong, "credentials of headers", "HEADERS="),
            (
                404,
                false,
                Mark::Wrong,
                "404",
                "https://otel.example.com:4318",
            ),
            (307, false, Mark::Wrong, "307", "4317 is for gRPC"),
            (503, false, Mark::Doubtful, "503", "overloaded"),
        ] {
            let found = judge(&url(), StatusCode::from_u16(status).unwrap(), has_headers);
            assert_eq!(found.mark, mark, "{found:?}");
            assert!(found.text.contains(words), "{found:?}");
            assert!(found.cure.concat().contains(cure), "{found:?}");
            assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
        }
    }
}
