//! The issuer's keys over HTTP: fetched, rotated, and kept while the issuer is away.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// An issuer whose answer can be changed.
struct Issuer {
    url: String,
    answer: Arc<parking_lot::Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

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
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, SeqCst);
                let answer = said.lock().clone();
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
