//! Redis, where presence is kept there.

use std::time::SystemTime;

use super::{
    ask::{ask, late},
    clock,
    finding::Finding,
};
use crate::{
    causes::NO_TLS,
    config::Config,
    presence::{
        PresenceError, Url,
        redis::inspect::{ExaminedRedis, Tried},
    },
    secret_url::SecretUrl,
};

/// Asks Redis.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let question = "presence.redis";
    let url = match &config.presence.url {
        Url::Off => return Vec::new(),
        Url::Memory => {
            let text = "presence is kept in the gateway's own memory: a single node has it";
            return vec![Finding::right(question, text)];
        }
        Url::Redis(url) => url,
    };
    let redis = match ExaminedRedis::new(url, &config.redis, config.presence.lease) {
        Ok(redis) => redis,
        Err(error) => return vec![Finding::wrong(question, error.to_string())],
    };
    let mode = match (config.redis.cluster, config.redis.sentinels.is_empty()) {
        (true, _) => format!("a cluster, all of its {} parts", redis.partitions()),
        (false, false) => "the master that Sentinels name".to_owned(),
        (false, true) => "a single server".to_owned(),
    };
    let (time, took) = ask(redis.time()).await;
    // It is asked after a round trip; half of it is the best guess.
    let here = SystemTime::now();
    let mut findings = Vec::new();
    match time {
        // The account may not ask for the time; the list of rights says so.
        Some(Err(error)) if lacks_a_right(&error) => {}
        Some(Ok(there)) => {
            let text = format!("{url} answers ({mode})");
            findings.push(Finding::right(question, text).took(took));
            findings.push(clock::judge("Redis", here, there, took));
        }
        answer => {
            let error = answer.and_then(Result::err);
            let why = error.map_or_else(late, |error| error.to_string());
            findings.push(unreachable(url, &why).took(took));
            return findings;
        }
    }
    let (tried, took) = ask(redis.rights()).await;
    let found = match tried {
        Some(Ok(tried)) => [rights(url, &tried), memory(&tried)].concat(),
        Some(Err(error)) => vec![unreachable(url, &error.to_string())],
        None => vec![unreachable(url, &late())],
    };
    findings.extend(found.into_iter().map(|found| found.took(took)));
    findings
}

fn lacks_a_right(error: &PresenceError) -> bool {
    error.to_string().contains("lacks a right")
}

fn unreachable(url: &SecretUrl, why: &str) -> Finding {
    let found = Finding::wrong("presence.redis", format!("{url}: {why}"));
    let is_login = [
        "AuthenticationFailed",
        "WRONGPASS",
        "NOAUTH",
        "uthentication",
    ]
    .iter()
    .any(|word| why.contains(word));
    match is_login {
        true => found
            .cure(format!(
                "ACL SETUSER {} '>PASSWORD'   (in redis-cli)",
                account(url)
            ))
            .cure("STENTOR__PRESENCE__URL='redis://USER:PASSWORD@HOST:6379'"),
        false if why.contains(NO_TLS) => found.cure("[presence] url = \"redis://HOST:6379\""),
        false => found
            .cure("start Redis, and open the way to it")
            .cure("[presence] url = \"redis://HOST:6379\""),
    }
}

fn account(url: &SecretUrl) -> String {
    let url = url::Url::parse(url.reveal());
    let user = url.map(|url| url.username().to_owned()).unwrap_or_default();
    match user.is_empty() {
        true => "default".to_owned(),
        false => user,
    }
}

/// The server's place in a sentence, if there are several.
fn place(server: Option<&str>) -> String {
    server.map_or_else(String::new, |server| format!(" at {server}"))
}

/// Whether Redis keeps what it was given.
fn memory(tried: &[Tried]) -> Vec<Finding> {
    let question = "presence.memory";
    let judged = tried.iter().filter_map(|tried| {
        let at = place(tried.server.as_deref());
        let Some(memory) = &tried.memory else {
            let text = format!(
                "whether Redis evicts keys{at} is not known: the account lacks the right to ask \
                 (info), or Redis does not tell"
            );
            let found = Finding::unasked(question, text);
            return Some(found.cure(format!(
                "INFO memory   (in redis-cli{at}: maxmemory_policy has to be noeviction)"
            )));
        };
        if !memory.evicts() {
            return None;
        }
        let text = format!(
            "Redis evicts keys{at} when its memory is full (maxmemory-policy {}): users vanish from \
             presence, for the nodes' leases are such keys",
            memory.policy
        );
        Some(Finding::doubtful(question, text).cure(format!(
            "CONFIG SET maxmemory-policy noeviction   (in redis-cli{at}; then CONFIG REWRITE)"
        )))
    });
    let mut findings: Vec<_> = judged.collect();
    if findings.is_empty() {
        findings.push(Finding::right(question, "Redis evicts no keys"));
    }
    findings
}

fn rights(url: &SecretUrl, tried: &[Tried]) -> Vec<Finding> {
    let question = "presence.rights";
    let account = account(url);
    let lacking = tried.iter().filter(|tried| !tried.refused.is_empty());
    let lacking = lacking.map(|tried| {
        let (at, refused) = (place(tried.server.as_deref()), &tried.refused);
        let text = format!(
            "the account {account} lacks rights of Redis that presence needs{at}: {}",
            refused.join(", ")
        );
        let missing: Vec<_> = refused.iter().map(|word| format!("+{word}")).collect();
        Finding::wrong(question, text).cure(format!(
            "ACL SETUSER {account} {}   (in redis-cli{at}; then ACL SAVE)",
            missing.join(" ")
        ))
    });
    let mut findings: Vec<_> = lacking.collect();
    if findings.is_empty() {
        let masters = tried.iter().filter(|tried| tried.server.is_some()).count();
        let at = match masters {
            0 => String::new(),
            masters => format!(", at each of {masters} masters"),
        };
        let text = format!("the account {account} has all rights that presence needs{at}");
        findings.push(Finding::right(question, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::finding::Mark, presence::redis::inspect::Memory};

    fn url(text: &str) -> SecretUrl {
        url::Url::parse(text).unwrap().into()
    }

    fn tried(server: Option<&str>, refused: &[&'static str]) -> Tried {
        Tried {
            server: server.map(Box::from),
            refused: refused.to_vec(),
            memory: None,
        }
    }

    #[test]
    fn missing_rights_are_granted_by_one_command() {
        let url = url("redis://stentor:s3cret@host");
        let found = rights(&url, &[tried(None, &["hset", "script|load"])]);
        assert_eq!((found.len(), found[0].mark), (1, Mark::Wrong));
        assert!(
            found[0].cure[0].starts_with("ACL SETUSER stentor +hset +script|load"),
            "{found:?}"
        );
        assert_eq!(rights(&url, &[tried(None, &[])])[0].mark, Mark::Right);
    }

    #[test]
    fn of_several_masters_those_that_refuse_are_named() {
        let url = url("redis://stentor:s3cret@host");
        let [sound, other] = ["a:6379", "b:6379"].map(Some);
        let found = rights(&url, &[tried(sound, &[]), tried(other, &["hscan"])]);
        assert_eq!((found.len(), found[0].mark), (1, Mark::Wrong));
        assert!(found[0].text.contains("at b:6379: hscan"), "{found:?}");
        assert!(
            found[0].cure[0].contains("+hscan   (in redis-cli at b:6379"),
            "{found:?}"
        );
        let found = rights(&url, &[tried(sound, &[]), tried(other, &[])]);
        assert!(found[0].text.ends_with("at each of 2 masters"), "{found:?}");
    }

    /// Leases of nodes are among the keys that go.
    #[test]
    fn a_redis_that_evicts_keys_is_doubtful() {
        let with = |server, policy: &str| Tried {
            memory: Some(Memory {
                max_bytes: 1 << 20,
                policy: policy.into(),
            }),
            ..tried(server, &[])
        };
        for policy in ["volatile-lru", "allkeys-lfu"] {
            let found = memory(&[with(None, policy)]);
            assert_eq!((found.len(), found[0].mark), (1, Mark::Doubtful));
            assert!(found[0].text.contains(policy), "{found:?}");
            let cure = "CONFIG SET maxmemory-policy noeviction   (in redis-cli;";
            assert!(found[0].cure[0].starts_with(cure), "{found:?}");
        }
        let found = memory(&[with(None, "noeviction")]);
        assert_eq!((found.len(), found[0].mark), (1, Mark::Right));
        // Of several masters, those that do are named, and those that do not tell.
        let [a, b, c] = ["a:6379", "b:6379", "c:6379"].map(Some);
        let all = [
            with(a, "noeviction"),
            with(b, "volatile-ttl"),
            tried(c, &[]),
        ];
        let found = memory(&all);
        let marks: Vec<_> = found.iter().map(|found| found.mark).collect();
        assert_eq!(marks, [Mark::Doubtful, Mark::Unasked]);
        assert!(found[0].text.contains(" at b:6379 "), "{found:?}");
        assert!(
            found[1].cure[0].contains("redis-cli at c:6379"),
            "{found:?}"
        );
    }

    #[test]
    fn a_refused_password_is_told_from_a_redis_that_is_away() {
        let url = url("redis://:s3cret@host");
        let refused = unreachable(&url, "unreachable: Password authentication failed");
        assert!(
            refused.cure[0].starts_with("ACL SETUSER default"),
            "{refused:?}"
        );
        let away = unreachable(&url, "unreachable: Connection refused");
        assert_eq!(away.cure[0], "start Redis, and open the way to it");
        assert!(!format!("{refused:?}{away:?}").contains("s3cret"));
    }
}
