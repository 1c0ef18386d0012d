//! The issuer's keys over HTTP: fetched, rotated, and kept while the issuer is away.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::telemetry::capture::Capture;

/// An issuer whose answer can be changed.
struct Issuer {
    url: String,
    answer: Arc<parking_lot::Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

/// It takes a request, and never answers.
const SILENT: &str = "silent";

fn ok(keys: &[Value]) -> String {
    let body = json!({ "keys": keys }).to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

impl Issuer {
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let answer = Arc::new(parking_lot::Mutex::new(answer));
        let asked = Arc::new(AtomicUsize::new(0));
        let (said, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, SeqCst);
                let answer = said.lock().clone();
                if answer == SILENT {
                    unanswered.push(stream);
                    continue;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, answer, asked }
    }

    fn says(&self, answer: String) {
        *self.answer.lock() = answer;
    }

    fn tokens(&self, more: &str) -> Tokens {
        let text = format!("jwks_url = \"{}\"\n{more}", self.url);
        JwtAuthenticator::new(&config(&text), surroundings(), None).unwrap()
    }
}

async fn login(tokens: &Tokens, token: &str) -> Result<Admission, Refusal> {
    tokens.log_in(&login_as("", token)).await
}

fn signed(key: &Ed, id: &str) -> String {
    key.token(&json!({ "alg": "EdDSA", "kid": id }), &claims())
}

#[tokio::test]
async fn keys_are_rotated_and_kept_while_the_issuer_is_away() {
    let (old, new) = (Ed::new(), Ed::new());
    let issuer = Issuer::start(ok(&[old.jwk("old")])).await;
    let tokens = issuer.tokens("jwks_cooldown = \"1s\"");
    assert!(login(&tokens, &signed(&old, "old")).await.is_ok());

    // A token of a new key has them fetched, at once if the last time is long ago.
    issuer.says(ok(&[old.jwk("old"), new.jwk("new")]));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while login(&tokens, &signed(&new, "new")).await.is_err() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = issuer.asked.load(SeqCst);
    for _ in 0..10 {
        assert!(login(&tokens, &signed(&old, "old")).await.is_ok());
    }
    assert_eq!(
        issuer.asked.load(SeqCst),
        before,
        "known keys are not fetched"
    );

    // The issuer is away: both count. Of others nobody can say.
    for away in [
        "HTTP/1.1 503 Away\r\nconnection: close\r\n\r\n",
        "",
        "nonsense",
    ] {
        issuer.says(away.to_owned());
        let unknown = login(&tokens, &signed(&new, "newer")).await;
        assert!(matches!(unknown, Err(Refusal::NoKeys(_))), "{unknown:?}");
        assert!(login(&tokens, &signed(&old, "old")).await.is_ok());
        assert!(login(&tokens, &signed(&new, "new")).await.is_ok());
    }
}

/// Otherwise a rolling restart would put such a node in the place of each that knows the keys.
#[tokio::test]
async fn a_node_that_knows_no_keys_yet_is_not_ready() {
    let key = Ed::new();
    let issuer = Issuer::start("HTTP/1.1 503 Away\r\nconnection: close\r\n\r\n".to_owned()).await;
    let tokens = issuer.tokens("jwks_cooldown = \"1s\"");
    let why = tokens.readiness().unwrap_err();
    assert!(why.contains(&issuer.url), "{why}");
    // A key of its own checks tokens, whatever the issuer does.
    let by_secret = issuer.tokens(&format!("secret = \"{SECRET}\""));
    assert_eq!(by_secret.readiness(), Ok(()));

    // Nobody logs in meanwhile.
    issuer.says(ok(&[key.jwk("k")]));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while tokens.readiness().is_err() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    issuer.says(String::new());
    tokens.fetch_again();
    assert!(login(&tokens, &signed(&key, "other")).await.is_err());
    assert_eq!(tokens.readiness(), Ok(()), "keys of before count");
}

/// Logs in with a token that counts. Afterwards the first regular fetch is over, too: whoever asks for
/// another key has its turn behind it.
async fn begun(tokens: &Tokens, right: &str) {
    assert!(login(tokens, right).await.is_ok());
    let unknown = signed_as(&Ed::new(), Some("unknown"));
    assert!(login(tokens, &unknown).await.is_err());
}

/// A key as its issuer publishes it, with a name or without.
fn published_as(key: &Ed, id: Option<&str>) -> Value {
    let mut jwk = key.jwk("");
    jwk["kid"] = json!(id);
    jwk
}

fn signed_as(key: &Ed, id: Option<&str>) -> String {
    let head = match id {
        Some(id) => json!({ "alg": "EdDSA", "kid": id }),
        None => json!({ "alg": "EdDSA" }),
    };
    key.token(&head, &claims())
}

/// Where keys or tokens have no names, a new key is noticed by a signature that is none of the known
/// keys'.
#[tokio::test]
async fn a_key_without_a_name_is_rotated_by_one_fetch() {
    let rotation = async |[old_id, new_id, token_id]: [Option<&str>; 3]| {
        let what = format!("{old_id:?} {new_id:?} {token_id:?}");
        let (old, new) = (Ed::new(), Ed::new());
        let issuer = Issuer::start(ok(&[published_as(&old, old_id)])).await;
        let tokens = issuer.tokens("jwks_cooldown = \"1s\"");
        begun(&tokens, &signed_as(&old, old_id)).await;
        let before = issuer.asked.load(SeqCst);
        issuer.says(ok(&[published_as(&new, new_id)]));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while login(&tokens, &signed_as(&new, token_id)).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(issuer.asked.load(SeqCst), before + 1, "{what}");
        let answer = login(&tokens, &signed_as(&old, token_id)).await;
        assert!(
            matches!(answer, Err(Refusal::Denied(_))),
            "{what}: {answer:?}"
        );
    };
    let rotations = [
        [None; 3],
        [None, None, Some("x")],
        [None, Some("x"), Some("x")],
        [Some("a"), Some("b"), None],
    ];
    future::join_all(rotations.map(rotation)).await;
}

/// A key that a token names decides: the issuer is not asked for others.
#[test]
fn a_wrong_signature_is_final_only_by_name() {
    let (own, other) = (Ed::new(), Ed::new());
    let allowed = [Algorithm::EdDSA];
    for (of_key, of_token, expected) in [
        (Some("k"), Some("k"), Some(true)),
        (Some("k"), Some("x"), None),
        (Some("k"), None, Some(false)),
        (None, Some("k"), Some(false)),
        (None, None, Some(false)),
    ] {
        let token = signed_as(&own, of_token);
        let head = verify::head(&token, &allowed).unwrap();
        let by = |keys: &[Value]| verify::verify(&token, &head, &published(keys)).err();
        let expected = expected.map_or(Unproved::NoKey, |by_name| Unproved::Unsigned { by_name });
        let nameless = published_as(&other, None);
        let wrong = published_as(&other, of_key);
        assert_eq!(
            by(std::slice::from_ref(&wrong)),
            Some(expected),
            "{of_key:?} {of_token:?}"
        );
        let is_final = expected == Unproved::Unsigned { by_name: true };
        assert_eq!(expected.may_need_others(), !is_final);
        // Another one that fits as well makes no difference to that.
        let both = [wrong, nameless];
        let is_last = by(&both).map(Unproved::may_need_others);
        assert_eq!(is_last, Some(!is_final), "{of_key:?} {of_token:?}");
    }
}

/// A signature costs time, so not all keys are tried.
#[test]
fn a_token_that_was_not_tried_with_all_keys_is_not_said_to_be_forged() {
    let keys: Vec<_> = (0..9).map(|_| Ed::new()).collect();
    let first = |count: usize| {
        let jwks = keys.iter().take(count).enumerate();
        let jwks: Vec<_> = jwks.map(|(id, key)| key.jwk(&id.to_string())).collect();
        published(&jwks)
    };
    let by = |set: &KeySet, header: &Value| {
        let token = keys[8].token(header, &claims());
        admit(&with_keys("", set.clone()), &token)
    };
    let (eight, nine) = (first(8), first(9));
    let (named, nameless) = (
        json!({ "alg": "EdDSA", "kid": "8" }),
        json!({ "alg": "EdDSA" }),
    );
    assert!(by(&nine, &named).is_ok());
    let why = by(&nine, &nameless).unwrap_err();
    assert!(why.contains("more keys fit"), "{why}");
    assert_eq!(nine.crowded(), Some((Algorithm::EdDSA, 9)));
    let why = by(&eight, &nameless).unwrap_err();
    assert!(why.contains("its signature is wrong"), "{why}");
    assert_eq!(eight.crowded(), None);
}

/// Many keys are no fault where tokens name theirs.
#[tokio::test]
async fn the_log_warns_of_many_keys_once_a_token_was_not_tried_with_all() {
    let keys: Vec<_> = (0..9).map(|_| Ed::new()).collect();
    let named = keys.iter().enumerate();
    let named: Vec<_> = named.map(|(id, key)| key.jwk(&id.to_string())).collect();
    let log = Capture::start();
    let issuer = Issuer::start(ok(&named)).await;
    let tokens = issuer.tokens("jwks_cooldown = \"1h\"");
    begun(&tokens, &signed(&keys[8], "8")).await;
    let count = || log.text().matches("not tried with all keys").count();
    assert_eq!(count(), 0, "{}", log.text());
    for _ in 0..2 {
        let answer = login(&tokens, &signed_as(&keys[8], None)).await;
        assert!(matches!(answer, Err(Refusal::Denied(_))), "{answer:?}");
        assert_eq!(count(), 1, "{}", log.text());
    }
    assert!(log.text().contains("keys=9"), "{}", log.text());
}

#[test]
fn the_key_that_a_token_names_is_tried_before_those_without_a_name() {
    let own = Ed::new();
    let mut keys: Vec<_> = (0..8).map(|_| published_as(&Ed::new(), None)).collect();
    keys.push(own.jwk("own"));
    let tokens = with_keys("", published(&keys));
    assert!(admit(&tokens, &signed(&own, "own")).is_ok());
    let why = admit(&tokens, &signed(&Ed::new(), "own")).unwrap_err();
    assert!(why.contains("its signature is wrong"), "{why}");
    // Those without a name may have signed it all the same, if no other key has its name.
    let nameless = admit(&tokens, &signed(&own, "other")).unwrap_err();
    assert!(nameless.contains("its signature is wrong"), "{nameless}");
}

/// Wrong tokens have the issuer asked once in a while, and are refused at once in between.
#[tokio::test]
async fn wrong_tokens_make_no_stampede() {
    let key = Ed::new();
    let issuer = Issuer::start(ok(&[key.jwk("k")])).await;
    let tokens = issuer.tokens("jwks_cooldown = \"1h\"");
    begun(&tokens, &signed(&key, "k")).await;
    let before = issuer.asked.load(SeqCst);
    for id in [Some("k"), None].repeat(10) {
        let wrong = signed_as(&Ed::new(), id);
        let Some(Err(Refusal::Denied(Some(why)))) = login(&tokens, &wrong).now_or_never() else {
            panic!("it is not refused at once")
        };
        assert!(why.contains("its signature is wrong"), "{why}");
    }
    assert_eq!(issuer.asked.load(SeqCst), before);
}

/// While the issuer hangs, wrong tokens wait for one fetch at most, and right ones for none.
#[tokio::test]
async fn wrong_tokens_hold_nobody_up_while_the_issuer_hangs() {
    let key = Ed::new();
    let issuer = Issuer::start(ok(&[key.jwk("k")])).await;
    let tokens = Arc::new(issuer.tokens("jwks_cooldown = \"1s\"\njwks_timeout = \"2s\""));
    begun(&tokens, &signed(&key, "k")).await;
    issuer.says(SILENT.to_owned());
    let before = issuer.asked.load(SeqCst);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let wrong = |id: Option<&'static str>| {
        let (tokens, asked) = (Arc::clone(&tokens), Arc::clone(&issuer.asked));
        let token = signed_as(&Ed::new(), id);
        tokio::spawn(async move {
            // Until the pause is over, and it has the issuer asked.
            loop {
                let answer = login(&tokens, &token).await;
                match (&answer, id) {
                    (Err(Refusal::Denied(_)), None) | (Err(Refusal::NoKeys(_)), Some(_)) => {}
                    _ => panic!("{id:?}: {answer:?}"),
                }
                if asked.load(SeqCst) > before {
                    return;
                }
                assert!(std::time::Instant::now() < deadline, "nobody is asked");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let mut attacks = vec![wrong(Some("x"))];
    while issuer.asked.load(SeqCst) == before {
        assert!(std::time::Instant::now() < deadline, "nobody is asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for id in [None, Some("x")].repeat(10) {
        attacks.push(wrong(id));
    }
    tokio::task::yield_now().await;
    let right = login(&tokens, &signed(&key, "k")).now_or_never();
    assert!(right.is_some_and(|answer| answer.is_ok()), "it waits");
    for attack in attacks {
        attack.await.unwrap();
    }
    assert_eq!(issuer.asked.load(SeqCst), before + 1);
}

/// A key of a file has no name, so it fits whatever token of its kind.
#[tokio::test]
async fn keys_of_files_stand_beside_those_of_the_issuer() {
    let (of_file, published) = (Ed::new(), Ed::new());
    let issuer = Issuer::start(ok(&[published.jwk("k")])).await;
    let mut tokens = issuer.tokens(&format!("secret = \"{SECRET}\"\njwks_cooldown = \"1h\""));
    tokens
        .fixed
        .extend(KeySet::pem(of_file.pem().as_bytes()).unwrap());
    for key in [&of_file, &published] {
        let answer = login(&tokens, &signed(key, "k")).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    let answer = login(&tokens, &signed(&Ed::new(), "k")).await;
    assert!(matches!(answer, Err(Refusal::Denied(_))), "{answer:?}");
    // For a token that a secret has signed, or none, the issuer is not asked.
    let before = issuer.asked.load(SeqCst);
    assert!(login(&tokens, &hs256(&claims())).await.is_ok());
    let other = by_secret(b"another secret of 32 bytes, no less");
    let forged = token(r#"{"alg":"HS256"}"#, &claims().to_string(), other);
    let Err(Refusal::Denied(Some(why))) = login(&tokens, &forged).await else {
        panic!("a forged token")
    };
    assert!(why.contains("signature is wrong"), "{why}");
    assert_eq!(issuer.asked.load(SeqCst), before);
}

/// However many tokens of unknown keys come, the issuer is asked once in a while.
#[tokio::test]
async fn unknown_keys_make_no_stampede() {
    let key = Ed::new();
    let issuer = Issuer::start(ok(&[key.jwk("k")])).await;
    let tokens = Arc::new(issuer.tokens("jwks_cooldown = \"1h\""));
    assert!(login(&tokens, &signed(&key, "k")).await.is_ok());
    let attacks = (0..200).map(|number| {
        let (tokens, token) = (Arc::clone(&tokens), signed(&key, &format!("x{number}")));
        tokio::spawn(async move { login(&tokens, &token).await })
    });
    for attack in attacks.collect::<Vec<_>>() {
        let answer = attack.await.unwrap();
        // The first ones may still hear what the issuer has just said.
        let is_refused = matches!(answer, Err(Refusal::NoKeys(_) | Refusal::Denied(_)));
        assert!(is_refused, "{answer:?}");
    }
    // One after the other, too.
    for number in 0..20 {
        let token = signed(&key, &format!("y{number}"));
        assert!(login(&tokens, &token).await.is_err());
    }
    assert!(
        issuer.asked.load(SeqCst) <= 2,
        "{}",
        issuer.asked.load(SeqCst)
    );
}

/// Whoever can answer in the issuer's place gives no keys, and no other place is asked.
#[tokio::test]
async fn answers_are_bounded_and_redirects_are_not_followed() {
    let key = Ed::new();
    let other = Issuer::start(ok(&[key.jwk("k")])).await;
    let long = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        " ".repeat(300_000)
    );
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        other.url
    );
    for (answer, expected) in [(long, "longer than"), (redirect, "status 302")] {
        let issuer = Issuer::start(answer).await;
        let tokens = issuer.tokens("");
        let answer = login(&tokens, &signed(&key, "k")).await;
        let Err(Refusal::NoKeys(why)) = answer else {
            panic!("{answer:?}")
        };
        assert!(why.contains(expected), "{why}");
    }
    assert_eq!(other.asked.load(SeqCst), 0);
}

#[tokio::test]
async fn an_issuer_that_never_answers_is_waited_for_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let text = format!("jwks_url = \"{url}\"\njwks_timeout = \"100ms\"");
    let tokens: Tokens = JwtAuthenticator::new(&config(&text), surroundings(), None).unwrap();
    let answer = login(&tokens, &signed(&Ed::new(), "k")).await;
    assert!(matches!(answer, Err(Refusal::NoKeys(_))), "{answer:?}");
}
