//! This machine's clock beside those of others.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use reqwest::header::DATE;
use url::Url;

use super::{
    Subject,
    ask::{PATIENCE, ask},
    finding::Finding,
};
use crate::auth::http_client;

/// Clocks that differ by less are in order: an HTTP date is in whole seconds.
const TOLERANCE: Duration = Duration::from_secs(5);
/// Tokens and leases of this gateway break where clocks differ by more.
const TOO_MUCH: Duration = Duration::from_secs(60);

/// Asks every HTTP server of the configuration for its time. Redis is asked with all else.
pub(super) async fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let mut servers: Vec<(&str, Url)> = Vec::new();
    if let Some((_, url)) = config.auth.hook_urls().first() {
        servers.push(("the hook", url.clone()));
    }
    if let Ok(url) = Url::parse(&config.auth.jwt.jwks_url) {
        servers.push(("the tokens' issuer", url));
    }
    let management = subject
        .management
        .clone()
        .or_else(|| config.auth_rabbitmq.management());
    if let Some(Ok(url)) = management.map(|url| Url::parse(url.reveal())) {
        servers.push(("RabbitMQ", url));
    }
    let asked = servers.into_iter().map(|(name, url)| async move {
        let (date, time) = ask(date(url)).await;
        let here = SystemTime::now();
        Some(judge(name, here, date.flatten()?, time).took(time))
    });
    // A server that does not answer is told of elsewhere.
    join_all(asked).await.into_iter().flatten().collect()
}

/// The date of whatever the server answers for its first page, to which no credentials go.
async fn date(mut url: Url) -> Option<SystemTime> {
    url.set_path("/");
    url.set_query(None);
    // An error means that there is nothing to take away.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let client = http_client(url.scheme() == "https", PATIENCE)
        .build()
        .ok()?;
    let response = client.get(url).send().await.ok()?;
    let date = response.headers().get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(date).ok()
}

/// Judges the time of another clock that was asked for, and came after `took`.
pub(super) fn judge(name: &str, here: SystemTime, there: SystemTime, took: Duration) -> Finding {
    let question = "clock.difference";
    let (difference, word) = match here.duration_since(there) {
        Ok(behind) => (behind, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let certain = difference.saturating_sub(took);
    if certain <= TOLERANCE {
        return Finding::right(question, format!("this clock agrees with that of {name}"));
    }
    let shown = humantime::format_duration(Duration::from_secs(difference.as_secs()));
    let text = format!(
        "this clock is {shown} {word} that of {name}: tokens count too early or too late, and \
         times in logs do not fit"
    );
    let found = match certain > TOO_MUCH {
        true => Finding::wrong(question, text),
        false => Finding::doubtful(question, text),
    };
    found
        .cure("timedatectl set-ntp true   (on the machine whose clock is wrong)")
        .cure("timedatectl timesync-status; chronyc tracking")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::doctor::finding::Mark;

    #[test]
    fn clocks_are_compared_both_ways() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seconds = Duration::from_secs;
        let judged = |there| judge("the hook", noon, there, seconds(1));
        for (seconds_off, mark) in [
            (0, Mark::Right),
            (6, Mark::Right),
            (7, Mark::Doubtful),
            (61, Mark::Doubtful),
            (62, Mark::Wrong),
        ] {
            assert_eq!(judged(noon + seconds(seconds_off)).mark, mark);
            assert_eq!(judged(noon - seconds(seconds_off)).mark, mark);
        }
        let ahead = judged(noon - seconds(600)).text;
        assert!(
            ahead.starts_with("this clock is 10m ahead of that of the hook"),
            "{ahead}"
        );
        let behind = judged(noon + seconds(600)).text;
        assert!(
            behind.starts_with("this clock is 10m behind that of the hook"),
            "{behind}"
        );
    }
}
