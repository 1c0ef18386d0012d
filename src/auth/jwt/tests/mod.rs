//! Tokens that count, and each known way to make one count that does not.

mod attacks;
mod issuer_away;
mod rights;

use std::net::Ipv4Addr;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair,
    },
};
use serde_json::{Value, json};

use super::*;
use crate::auth::{DeviceId, Permission, ResourceKind};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The public key of a private one that nobody has any more, and tokens that it signed.
const RSA: &str = include_str!("rsa.pub.pem");
const RSA_CERTIFICATE: &str = include_str!("rsa.crt.pem");
const RS256: &str = include_str!("rs256.jwt");
const PS256: &str = include_str!("ps256.jwt");

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Claims that count.
pub(crate) fn claims() -> Value {
    json!({ "sub": "alice", "aud": "stentor", "exp": now() + 60 })
}

/// A token of these texts, whatever they are.
fn token(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64(signature))
}

fn by_secret(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

pub(crate) fn hs256(claims: &Value) -> String {
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    token(header, &claims.to_string(), by_secret(SECRET.as_bytes()))
}

struct Ed(Ed25519KeyPair);

impl Ed {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        let x = base64(self.0.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": id, "use": "sig", "alg": "EdDSA" })
    }

    fn pem(&self) -> String {
        // RFC 8410 has this before the key.
        let mut der = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
        der.extend_from_slice(self.0.public_key().as_ref());
        let der = STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        token(&header.to_string(), &claims.to_string(), |message| {
            self.0.sign(message).as_ref().to_vec()
        })
    }
}

fn config(text: &str) -> JwtConfig {
    let text = match text.contains("audience") {
        true => text.to_owned(),
        false => format!("audiences = [\"stentor\"]\nleeway = \"0s\"\n{text}"),
    };
    let config: JwtConfig = toml::from_str(&text).unwrap();
    assert_eq!(config.check(), Ok(()));
    config
}

type Tokens = JwtAuthenticator<Arc<dyn Authenticator>>;

fn surroundings() -> Surroundings<'static> {
    Surroundings {
        default_vhost: "/",
        topics: "amq.topic",
        keyless: Keyless::new(["orders"]),
    }
}

fn tokens(text: &str) -> Tokens {
    let text = match text.contains("jwks") || text.contains("secret") {
        true => text.to_owned(),
        false => format!("secret = \"{SECRET}\"\n{text}"),
    };
    JwtAuthenticator::new(&config(&text), surroundings(), None).unwrap()
}

/// One that has these public keys.
fn with_keys(text: &str, keys: KeySet) -> Tokens {
    let mut config = config(&format!("jwks_url = \"https://127.0.0.1:1/\"\n{text}"));
    let allowed = config.allowed();
    config.jwks_url = String::new();
    Tokens {
        rules: Rules::new(&config, surroundings()),
        allowed,
        fixed: keys,
        jwks: None,
        hook: None,
    }
}

fn published(keys: &[Value]) -> KeySet {
    KeySet::published(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn login_as(user: &str, token: &str) -> Login {
    Login {
        user: user.into(),
        password: Some(token.into()),
        vhost: "/".into(),
        more: Vec::new(),
        address: Ipv4Addr::LOCALHOST.into(),
        is_known: false,
    }
}

fn admit(tokens: &Tokens, token: &str) -> Result<Admission, String> {
    admit_as(tokens, "", token)
}

fn admit_as(tokens: &Tokens, user: &str, token: &str) -> Result<Admission, String> {
    let login = login_as(user, token);
    let answer = tokens.log_in(&login).now_or_never();
    match answer.expect("nobody is asked") {
        Ok(admission) => Ok(admission),
        Err(Refusal::Denied(Some(why))) => Err(why.into()),
        Err(other) => panic!("{other:?}"),
    }
}

fn allowed(tokens: &Tokens, user: &User, access: Access) -> bool {
    let answer = tokens.allow(user, &access).now_or_never();
    answer.expect("nobody is asked").is_ok()
}

fn vhost(vhost: &str) -> Access {
    Access::Vhost {
        vhost: vhost.into(),
        ip: Ipv4Addr::LOCALHOST.into(),
    }
}

fn resource(kind: ResourceKind, name: &str, permission: Permission) -> Access {
    Access::Resource {
        vhost: "/".into(),
        kind,
        name: name.into(),
        permission,
    }
}

fn topic(exchange: &str, routing_key: &str, permission: Permission) -> Access {
    Access::Topic {
        vhost: "/".into(),
        exchange: exchange.into(),
        permission,
        routing_key: routing_key.into(),
    }
}

#[tokio::test]
async fn a_token_says_who_its_user_is_and_until_when() {
    let tokens = tokens("");
    let admission = admit(&tokens, &hs256(&claims())).unwrap();
    assert_eq!(&*admission.user.name, "alice");
    let lifetime = admission.lifetime.unwrap();
    assert!((Duration::from_secs(58)..=Duration::from_secs(60)).contains(&lifetime));
    // The name that the client says, if any, must be the same.
    assert!(admit_as(&tokens, "alice", &hs256(&claims())).is_ok());
    let other = admit_as(&tokens, "bob", &hs256(&claims())).unwrap_err();
    assert!(other.contains("another user"), "{other}");
}

#[tokio::test]
async fn other_claims_can_name_the_user_and_its_device() {
    let tokens = tokens("user_claim = \"preferred_username\"\ndevice_claim = \"dev.id\"");
    let mut said = claims();
    said["preferred_username"] = "bob".into();
    said["dev"] = json!({ "id": "phone-7" });
    let admission = admit(&tokens, &hs256(&said)).unwrap();
    assert_eq!(&*admission.user.name, "bob");
    assert_eq!(admission.device, DeviceId::Bound(Some("phone-7".into())));
    for name in [
        json!(""),
        json!("a\nb"),
        json!(["a"]),
        json!(null),
        json!("x".repeat(256)),
    ] {
        said["preferred_username"] = name;
        let why = admit(&tokens, &hs256(&said)).unwrap_err();
        assert!(why.contains("names no user"), "{why}");
    }
}

#[tokio::test]
async fn leeway_is_for_clocks_that_differ() {
    let tokens = tokens("audiences = [\"stentor\"]\nleeway = \"30s\"");
    let mut said = claims();
    said["exp"] = (now() - 20).into();
    said["nbf"] = (now() + 20).into();
    let lifetime = admit(&tokens, &hs256(&said)).unwrap().lifetime.unwrap();
    assert!(lifetime <= Duration::from_secs(10), "{lifetime:?}");
    said["exp"] = (now() - 40).into();
    assert!(admit(&tokens, &hs256(&said)).is_err());
}

#[tokio::test]
async fn a_token_without_an_end_counts_where_that_is_allowed() {
    let said = json!({ "sub": "alice", "aud": ["other", "stentor"] });
    let why = admit(&tokens(""), &hs256(&said)).unwrap_err();
    assert!(why.contains("when it ends"), "{why}");
    let admission = admit(&tokens("require_expiry = false"), &hs256(&said)).unwrap();
    assert_eq!(admission.lifetime, None);
}

#[tokio::test]
async fn ed_dsa_and_es256_and_es384_work() {
    let ed = Ed::new();
    let header = json!({ "alg": "EdDSA", "kid": "e" });
    let keys = with_keys("", published(&[ed.jwk("e")]));
    assert!(admit(&keys, &ed.token(&header, &claims())).is_ok());

    for (name, curve, signing) in [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        let jwk = json!({
            "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y), "kid": "k", "alg": name,
        });
        let header = json!({ "alg": name, "kid": "k" }).to_string();
        let signed = token(&header, &claims().to_string(), |message| {
            pair.sign(&random, message).unwrap().as_ref().to_vec()
        });
        let keys = with_keys("", published(&[ed.jwk("e"), jwk]));
        assert!(admit(&keys, &signed).is_ok(), "{name}");
    }
}

#[tokio::test]
async fn rsa_works_with_keys_of_files_and_of_the_issuer() {
    let spki = x509_parser::pem::parse_x509_pem(RSA.as_bytes()).unwrap().1;
    let spki = spki.contents;
    let der = &spki[spki.len() - 270..];
    // A SEQUENCE of the modulus (257 bytes, with its zero) and the exponent.
    let (modulus, exponent) = (&der[8..8 + 257], &der[der.len() - 3..]);
    let jwk = json!({ "kty": "RSA", "n": base64(modulus), "e": base64(exponent), "use": "sig" });
    for keys in [
        KeySet::pem(RSA.as_bytes()).unwrap(),
        KeySet::pem(RSA_CERTIFICATE.as_bytes()).unwrap(),
        published(&[jwk]),
    ] {
        for signed in [RS256, PS256] {
            let admission = admit(&with_keys("", keys.clone()), signed);
            assert_eq!(&*admission.unwrap().user.name, "alice");
        }
        let listed = with_keys("algorithms = [\"PS256\"]", keys);
        assert!(admit(&listed, PS256).is_ok() && admit(&listed, RS256).is_err());
    }
}

#[test]
fn what_is_no_key_for_signatures_is_passed_over() {
    let ed = Ed::new();
    let mut for_encryption = ed.jwk("a");
    for_encryption["use"] = "enc".into();
    let shared = json!({ "kty": "oct", "k": base64(SECRET), "kid": "b", "alg": "HS256" });
    let unknown = json!({ "kty": "OKP", "crv": "Ed448", "x": "AA", "alg": "Ed448" });
    let mut lies = ed.jwk("c");
    lies["alg"] = "HS256".into();
    let useless = [for_encryption, shared, unknown, lies, json!("x"), json!({})];
    let text = json!({ "keys": useless }).to_string();
    let why = KeySet::published(text.as_bytes()).unwrap_err();
    assert!(why.contains("no key"), "{why}");
    let mut all = useless.to_vec();
    all.push(ed.jwk("d"));
    let keys = published(&all);
    assert_eq!(keys.fitting(Algorithm::EdDSA, None).count(), 1);
    assert_eq!(keys.fitting(Algorithm::EdDSA, Some("a")).count(), 0);
    assert_eq!(keys.fitting(Algorithm::HS256, None).count(), 0);
    let many = vec![ed.jwk("x"); 101];
    let many = json!({ "keys": many }).to_string();
    for text in [&*many, "", "[]", "{\"keys\":{}}"] {
        assert!(KeySet::published(text.as_bytes()).is_err());
    }
    for text in [
        "",
        "-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(KeySet::pem(text.as_bytes()).is_err());
    }
}

/// One that is never tried would be a riddle.
#[test]
fn keys_of_files_that_would_not_be_tried_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("public_keys = [\"x\"]");
    let path = folder.path().join("keys.pem");
    config.public_keys = vec![path.clone()];
    let keys = |count: usize| (0..count).map(|_| Ed::new().pem()).collect::<String>();
    // Of another kind, so that it does not count.
    fs::write(&path, keys(8) + RSA).unwrap();
    assert_eq!(check_files(&config), Ok(()));
    fs::write(&path, keys(9)).unwrap();
    let (key, why) = check_files(&config).unwrap_err();
    assert_eq!(key, "public_keys");
    assert!(
        why.contains("9 keys for EdDSA") && why.contains("with 8"),
        "{why}"
    );
}

#[test]
fn a_token_is_told_from_a_password() {
    assert!(looks_like_token(&hs256(&claims())));
    // One that is not signed is a token, too, and refused as such.
    assert!(looks_like_token("eyJhbGciOiJub25lIn0.e30."));
    for password in [
        "",
        "s3cret",
        "a.b.c",
        "eyJ.e30",
        "ey.e30.a.b",
        "eyJ..c2ln",
        "eyJ.e3 0.c2ln",
        "correct.horse.battery",
    ] {
        assert!(!looks_like_token(password), "{password}");
    }
}
