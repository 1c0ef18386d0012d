//! The hook, tokens and RabbitMQ's own users: whether they answer, and what they say about a user.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use serde_json::Value;
use url::Url;

use super::{
    Subject,
    args::pairs,
    ask::{ask, late, timed},
    finding::Finding,
};
use crate::{
    app,
    auth::{
        Access, Admission, Authenticator, Login, Permission, Refusal, ResourceKind, User,
        http::HttpAuthenticator,
        jwt::JwtConfig,
        looks_like_token,
        rabbitmq::{self, SourceError},
    },
    causes::NO_TLS,
    config::Config,
    secret_url::without_secrets,
};

/// The user that the hook is asked about if no other was named. Nobody should be called so.
const NOBODY: &str = "stentor-doctor";

/// Longer answers keep logins waiting.
const SLOW: Duration = Duration::from_secs(1);

/// Asks all that lets users in.
pub(super) async fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let (hook, keys, accounts, user) = tokio::join!(
        hook(config),
        keys(config),
        accounts(config),
        dry_run(subject),
    );
    let mut findings = hook;
    findings.extend(keys);
    findings.extend(accounts);
    findings.extend(user);
    findings
}

/// Asks each path of the hook about nobody.
async fn hook(config: &Config) -> Vec<Finding> {
    if !config.auth.has_hook() {
        return Vec::new();
    }
    let hook = match HttpAuthenticator::new(&config.auth) {
        Ok(hook) => hook,
        Err(error) => return vec![Finding::wrong("auth.hook", format!("[auth] {error}"))],
    };
    let urls = config.auth.hook_urls();
    let calls = urls
        .iter()
        .map(|(key, url)| call(&hook, key, config.auth.given_by(key), url));
    join_all(calls).await
}

async fn call(hook: &HttpAuthenticator, key: &str, given_by: &str, url: &Url) -> Finding {
    let nobody = User::new(NOBODY, "");
    let login = login(NOBODY, format!("{:032x}", rand::random::<u128>()), "/");
    let vhost: Arc<str> = "/".into();
    let (answer, time) = ask(async {
        match key {
            "user_path" => hook.user(&login).await.map(drop),
            "vhost_path" => {
                let ip = Ipv4Addr::LOCALHOST.into();
                hook.allow(&nobody, &Access::Vhost { vhost, ip }).await
            }
            "resource_path" => hook.allow(&nobody, &resource(&vhost, NOBODY, false)).await,
            "topic_path" => {
                hook.allow(&nobody, &topic(&vhost, NOBODY, NOBODY, false))
                    .await
            }
            _ => hook.groups(&nobody).await.map(drop),
        }
    })
    .await;
    judge_call(key, given_by, url, answer, time).took(time)
}

/// Judges the hook's answer about a user that there is not. `given_by`: the key that has the address.
fn judge_call(
    key: &str,
    given_by: &str,
    url: &Url,
    answer: Option<Result<(), Refusal>>,
    time: Duration,
) -> Finding {
    let question = "auth.hook";
    let shown = without_secrets(url);
    let name = key.trim_end_matches("_path");
    let is_late = answer.is_none();
    let answer = answer.unwrap_or_else(|| Err(Refusal::Faulty(format!("it {}", late()).into())));
    match answer {
        Ok(()) if key == "user_path" => Finding::doubtful(
            question,
            format!(
                "{name} call: {shown} lets a user in that there is not ({NOBODY}, with a random \
                 passcode): does it check passcodes?"
            ),
        )
        .cure("let the hook answer deny to users and passcodes that it does not know"),
        Ok(()) | Err(Refusal::Denied(_)) if time >= SLOW => Finding::doubtful(
            question,
            format!("{name} call: {shown} answers slowly, and logins wait for it"),
        )
        .cure("make the hook faster: it is asked at each login, SUBSCRIBE and SEND"),
        Ok(()) | Err(Refusal::Denied(_)) => {
            Finding::right(question, format!("{name} call: {shown} answers"))
        }
        Err(refusal) => {
            let text = format!("{name} call: {shown}: {refusal}");
            let text = text.replace("the hook is at fault: ", "");
            // The call is named already.
            let text = text.replacen(&format!("{shown}: {name} call: "), &format!("{shown}: "), 1);
            let found = Finding::wrong(question, text.clone());
            if text.contains(NO_TLS) {
                return found.cure(format!("[auth] {given_by} = \"http://HOST:PORT/PATH\""));
            }
            let is_away = is_late || text.contains("onnect") || text.contains("within");
            match is_away {
                true => found
                    .cure("start the application that answers there")
                    .cure(format!("[auth] {given_by} = \"http://HOST:PORT/PATH\"")),
                false => found
                    .cure("let it answer with status 200 and the word allow or deny (docs/auth.md)")
                    .cure(format!(
                        "is {shown} the right URL? See [auth] hook, {key} and batch_path"
                    )),
            }
        }
    }
}

fn login(user: &str, passcode: String, vhost: &str) -> Login {
    Login {
        user: user.into(),
        password: Some(passcode.into()),
        vhost: vhost.into(),
        more: Vec::new(),
        address: Ipv4Addr::LOCALHOST.into(),
        is_known: false,
    }
}

fn permission(writes: bool) -> Permission {
    match writes {
        true => Permission::Write,
        false => Permission::Read,
    }
}

fn resource(vhost: &Arc<str>, exchange: &str, writes: bool) -> Access {
    Access::Resource {
        vhost: Arc::clone(vhost),
        kind: ResourceKind::Exchange,
        name: exchange.into(),
        permission: permission(writes),
    }
}

fn topic(vhost: &Arc<str>, exchange: &str, key: &str, writes: bool) -> Access {
    Access::Topic {
        vhost: Arc::clone(vhost),
        exchange: exchange.into(),
        permission: permission(writes),
        routing_key: key.into(),
    }
}

/// Whether there are keys for tokens: a token of an unknown key makes the issuer be asked.
async fn keys(config: &Config) -> Option<Finding> {
    let jwt = &config.auth.jwt;
    if !jwt.is_on() {
        return None;
    }
    let question = "auth.tokens";
    let logins = match app::logins(config) {
        Ok(logins) => logins,
        Err(error) => return Some(Finding::wrong(question, error.to_string())),
    };
    if jwt.jwks_url.is_empty() {
        let text = "tokens are checked by keys of the configuration";
        return Some(Finding::right(question, text));
    }
    let algorithm = jwt
        .allowed()
        .first()
        .map(|algorithm| format!("{algorithm:?}"));
    let header = serde_json::json!({
        "alg": algorithm.unwrap_or_default(),
        "kid": format!("{NOBODY}.{:016x}", rand::random::<u64>()),
    });
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    // Its claims are read only if its signature is right.
    let token = format!("{header}.e30.AAAA");
    let login = login("", token, &config.broker.default_vhost);
    let (answer, time) = ask(logins.log_in(&login)).await;
    let shown =
        Url::parse(&jwt.jwks_url).map_or_else(|_| String::new(), |url| without_secrets(&url));
    let found = match answer {
        Some(Err(Refusal::NoKeys(why))) => unreachable_keys(&shown, &why),
        None => unreachable_keys(&shown, &late()),
        Some(_) => Finding::right(question, format!("the issuer's keys come from {shown}")),
    };
    Some(found.took(time))
}

fn unreachable_keys(shown: &str, why: &str) -> Finding {
    let found = Finding::wrong(
        "auth.tokens",
        format!("the issuer's keys do not come from {shown}: {why}"),
    );
    let found = match why.contains(NO_TLS) {
        true => found,
        false => found.cure("start the issuer, and open the way to it"),
    };
    found.cure("[auth.jwt] jwks_url = \"https://ISSUER/.well-known/jwks.json\"")
}

/// RabbitMQ's own users, if they are read from its management plug-in. A file is looked at with the
/// configuration.
async fn accounts(config: &Config) -> Option<Finding> {
    let url = config.auth_rabbitmq.management()?;
    // It may take as long as it may for the gateway.
    let (answer, time) = timed(rabbitmq::ask_for_users(url)).await;
    Some(judge_accounts(answer).took(time))
}

/// Judges how many users there are, or why they cannot be read.
fn judge_accounts(answer: Result<usize, SourceError>) -> Finding {
    let question = "auth.accounts";
    let url = "STENTOR__AUTH__RABBITMQ__MANAGEMENT='http://USER:PASSWORD@HOST:15672'";
    match answer {
        Ok(0) => Finding::doubtful(
            question,
            "RabbitMQ's own users are read, and there are none: is it the right RabbitMQ?",
        )
        .cure(url),
        Ok(count) => Finding::right(question, format!("RabbitMQ's own users are read: {count}")),
        Err(error) => {
            let text = format!("RabbitMQ's own users cannot be read: {error}");
            let found = Finding::wrong(question, text);
            let found = match error {
                SourceError::Refused(..) => {
                    found.cure("rabbitmqctl set_user_tags USER administrator")
                }
                _ => found,
            };
            found.cure(url)
        }
    }
}

/// Logs a user in, and asks what it may do, as the gateway would.
async fn dry_run(subject: &Subject<'_>) -> Vec<Finding> {
    let (config, task) = (subject.config, subject.task);
    if !task.has_user() {
        return Vec::new();
    }
    let logins = match app::logins(config) {
        Ok(logins) => logins,
        Err(error) => return vec![Finding::wrong("auth.login", error.to_string())],
    };
    let vhost = task
        .vhost
        .as_deref()
        .unwrap_or(&config.broker.default_vhost);
    let passcode = subject.passcode.as_ref().map(|text| text.as_str());
    let mut login = login(
        task.user.as_deref().unwrap_or_default(),
        passcode.unwrap_or_default().to_owned(),
        vhost,
    );
    login.password = passcode.map(Box::from);
    let (answer, time) = ask(logins.log_in(&login)).await;
    let jwt = &config.auth.jwt;
    let found = judge_login(&login, jwt, answer.as_ref()).took(time);
    let Some(Ok(admission)) = answer else {
        return vec![found];
    };
    let mut findings = vec![found];
    let user = &admission.user;
    let vhost = &login.vhost;
    let entering = Access::Vhost {
        vhost: Arc::clone(vhost),
        ip: login.address,
    };
    let mut wanted = vec![entering];
    for (words, writes) in [(&task.may_read, false), (&task.may_write, true)] {
        for (exchange, key) in pairs(words) {
            wanted.push(resource(vhost, exchange, writes));
            wanted.push(topic(vhost, exchange, key, writes));
        }
    }
    let logins = &logins;
    let asked = wanted.iter().map(|access| async move {
        let (answer, time) = ask(logins.allow(user, access)).await;
        judge_access(&user.name, access, answer).took(time)
    });
    findings.extend(join_all(asked).await);
    findings
}

fn judge_login(
    login: &Login,
    jwt: &JwtConfig,
    answer: Option<&Result<Admission, Refusal>>,
) -> Finding {
    let question = "auth.login";
    let name = match &*login.user {
        "" => "the user of this token",
        name => name,
    };
    match answer {
        Some(Ok(admission)) => {
            let User { name, tags, .. } = &admission.user;
            let tags = match &**tags {
                "" => "without tags".to_owned(),
                tags => format!("with the tags {tags}"),
            };
            let lifetime = admission.lifetime.map(|time| {
                format!(
                    ", for {}",
                    humantime::format_duration(Duration::from_secs(time.as_secs()))
                )
            });
            let lifetime = lifetime.unwrap_or_default();
            Finding::right(question, format!("{name} may log in, {tags}{lifetime}"))
        }
        Some(Err(refusal)) => {
            let text = format!("{name} may not log in: {refusal}");
            let found = Finding::wrong(question, text);
            let token = login
                .password
                .as_deref()
                .filter(|text| looks_like_token(text));
            match (refusal, token) {
                (Refusal::Denied(why), Some(token)) => {
                    token_cures(found, jwt, token, why.as_deref().unwrap_or_default())
                }
                (Refusal::Denied(_), None) => {
                    found.cure("give the right passcode: --passcode-file FILE, or --passcode-stdin")
                }
                _ => found.cure("see the answers about the hook and the keys of tokens"),
            }
        }
        None => Finding::wrong(question, format!("{name}: the login {}", late())),
    }
}

/// What a token says of itself, beside the key of the configuration that it does not fit. Its
/// signature is not shown, nor any other claim.
fn token_cures(found: Finding, jwt: &JwtConfig, token: &str, why: &str) -> Finding {
    let claims = token.split('.').nth(1).and_then(|claims| {
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        serde_json::from_slice::<Value>(&claims).ok()
    });
    let claim = |name: &str| {
        let value = claims.as_ref().and_then(|claims| claims.get(name));
        value.map_or_else(|| "nothing".to_owned(), Value::to_string)
    };
    let list = |texts: &[String]| format!("{texts:?}");
    if why.contains("(aud)") {
        return found
            .cure(format!(
                "the token says aud = {}, the configuration [auth.jwt] audiences = {}",
                claim("aud"),
                list(&jwt.audiences)
            ))
            .cure("have the issuer name this audience, or add the token's own, if it is yours");
    }
    if why.contains("(iss)") {
        return found.cure(format!(
            "the token says iss = {}, the configuration [auth.jwt] issuers = {}",
            claim("iss"),
            list(&jwt.issuers)
        ));
    }
    if why.contains("(exp)") || why.contains("(nbf)") {
        return found
            .cure(format!(
                "the token says nbf = {}, exp = {} (seconds since 1970); get a new one",
                claim("nbf"),
                claim("exp")
            ))
            .cure("timedatectl set-ntp true   (if a clock is wrong)");
    }
    found.cure("get a token from the issuer that the configuration names ([auth.jwt])")
}

fn judge_access(user: &str, access: &Access, answer: Option<Result<(), Refusal>>) -> Finding {
    let question = "auth.right";
    let verb = |permission: &Permission| match permission {
        Permission::Write => "send to",
        _ => "listen to",
    };
    let what = match access {
        Access::Vhost { vhost, .. } => format!("enter virtual host {vhost}"),
        Access::Resource {
            name, permission, ..
        } => format!("{} exchange {}", verb(permission), shown_exchange(name)),
        Access::Topic {
            exchange,
            permission,
            routing_key,
            ..
        } => format!(
            "{} key {routing_key} of exchange {}",
            verb(permission),
            shown_exchange(exchange)
        ),
    };
    match answer {
        Some(Ok(())) => Finding::right(question, format!("{user} may {what}")),
        Some(Err(Refusal::Denied(why))) => {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let cure = match access {
                Access::Vhost { .. } => "vhost_path",
                Access::Resource { .. } => "resource_path",
                Access::Topic { .. } => "topic_path",
            };
            Finding::wrong(question, format!("{user} may not {what}{why}")).cure(format!(
                "allow it where it is decided: [auth] {cure}, the token's rights, or RabbitMQ's \
                 permissions"
            ))
        }
        Some(Err(refusal)) => Finding::wrong(question, format!("{user}, to {what}: {refusal}"))
            .cure("see the answers about the hook"),
        None => Finding::wrong(
            question,
            format!("{user}, to {what}: the question {}", late()),
        ),
    }
}

fn shown_exchange(name: &str) -> &str {
    match name {
        "" => "amq.default",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use reqwest::StatusCode;
    use serde_json::json;
    use tokio::task::spawn_blocking;

    use super::*;
    use crate::{
        auth::rabbitmq::{Tag, tests::management},
        doctor::finding::Mark,
    };

    const QUICK: Duration = Duration::from_millis(3);

    fn judged(key: &str, answer: Result<(), Refusal>, time: Duration) -> Finding {
        let url = "http://u:s3cret@app:8000/auth/user?token=s3cret"
            .parse()
            .unwrap();
        let found = judge_call(key, "hook", &url, Some(answer), time);
        assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
        found
    }

    #[test]
    fn a_hook_that_denies_nobody_is_doubtful() {
        let denied = || Err(Refusal::Denied(None));
        assert_eq!(judged("user_path", denied(), QUICK).mark, Mark::Right);
        assert_eq!(judged("user_path", Ok(()), QUICK).mark, Mark::Doubtful);
        // Many let everybody into the virtual host.
        assert_eq!(judged("vhost_path", Ok(()), QUICK).mark, Mark::Right);
        assert_eq!(judged("user_path", denied(), SLOW).mark, Mark::Doubtful);
    }

    #[test]
    fn a_hook_that_is_away_is_told_from_one_that_says_something_else() {
        let at = |why: &str| {
            let why = format!("the hook is at fault: user call: {why}");
            judged("user_path", Err(Refusal::Faulty(why.into())), QUICK)
        };
        let away = at("tcp connect error: Connection refused (os error 111)");
        let cure = [
            "start the application that answers there",
            "[auth] hook = \"http://HOST:PORT/PATH\"",
        ];
        assert_eq!(away.cure, cure);
        let html = at("it answered with a page of HTML; the contract knows `allow`");
        assert!(html.cure[0].contains("allow or deny"), "{html:?}");
        assert_eq!((away.mark, html.mark), (Mark::Wrong, Mark::Wrong));
        let plain = at(&format!("cannot connect: {NO_TLS}"));
        assert_eq!(plain.cure, cure[1..]);
    }

    #[test]
    fn users_that_are_none_are_doubtful() {
        assert_eq!(judge_accounts(Ok(3)).mark, Mark::Right);
        assert_eq!(judge_accounts(Ok(0)).mark, Mark::Doubtful);
    }

    #[test]
    fn a_tag_is_the_cure_of_a_refusal_alone() {
        let host = || Box::<str>::from("http://rabbit:15672");
        let tags = |error| {
            let found = judge_accounts(Err(error));
            assert_eq!(found.mark, Mark::Wrong);
            found.cure[0].starts_with("rabbitmqctl set_user_tags")
        };
        let (status, tag) = (StatusCode::UNAUTHORIZED, Tag::Administrator);
        assert!(tags(SourceError::Refused(host(), status, tag)));
        assert!(!tags(SourceError::Timeout(host())));
    }

    /// There are five lists, and the gateway waits for all of them 30 seconds.
    #[tokio::test(start_paused = true)]
    async fn users_that_are_read_slowly_are_right() {
        // While this runs, time goes on only where it is told to.
        let (done, until_done) = mpsc::channel::<()>();
        let still = spawn_blocking(move || until_done.recv());
        let lag = Duration::from_millis(1_200);
        let mut config = Config::default();
        config.auth_rabbitmq.management = management(lag, |path, _| match path {
            "users" => json!([{ "name": "alice", "password_hash": "", "tags": [] }]),
            "vhosts" => json!([{ "name": "/" }]),
            _ => json!([]),
        })
        .await;
        let found = accounts(&config).await.unwrap();
        assert_eq!(found.mark, Mark::Right, "{found:?}");
        drop(done);
        assert!(still.await.unwrap().is_err());
    }

    #[test]
    fn a_token_s_own_words_stand_beside_the_configuration() {
        let jwt = JwtConfig {
            audiences: vec!["push".to_owned()],
            ..JwtConfig::default()
        };
        let claims = URL_SAFE_NO_PAD.encode(r#"{"aud":"shop","sub":"alice","iss":"me"}"#);
        let token = format!("eyJhbGciOiJIUzI1NiJ9.{claims}.c2VjcmV0");
        let login = login("", token, "/");
        for (why, cure) in [
            (
                "the token is for others (aud)",
                "the token says aud = \"shop\", the configuration [auth.jwt] audiences = [\"push\"]",
            ),
            (
                "the token is of another issuer (iss)",
                "the token says iss = \"me\", the configuration [auth.jwt] issuers = []",
            ),
            (
                "the token has ended (exp)",
                "the token says nbf = nothing, exp = nothing (seconds since 1970); get a new one",
            ),
        ] {
            let refused = Err(Refusal::Denied(Some(why.into())));
            let found = judge_login(&login, &jwt, Some(&refused));
            assert_eq!(found.cure[0], cure);
            assert!(!format!("{found:?}").contains("c2VjcmV0"));
        }
    }

    #[test]
    fn a_right_is_named_as_a_client_uses_it() {
        let vhost: Arc<str> = "/".into();
        let access = topic(&vhost, "feed", "user_alice", false);
        let found = judge_access("alice", &access, Some(Ok(())));
        assert_eq!(
            found.text,
            "alice may listen to key user_alice of exchange feed"
        );
        let access = resource(&vhost, "", true);
        let denied = Some(Err(Refusal::Denied(Some("not paid".into()))));
        let found = judge_access("alice", &access, denied);
        assert_eq!(
            found.text,
            "alice may not send to exchange amq.default: not paid"
        );
    }
}
