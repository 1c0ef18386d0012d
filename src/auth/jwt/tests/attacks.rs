//! Each known way to have a token count that does not.

use super::*;

#[tokio::test]
async fn none_is_no_algorithm() {
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({ "alg": name }).to_string();
        for signature in [Vec::new(), vec![0; 32]] {
            let unsigned = token(&header, &claims().to_string(), |_| signature.clone());
            let why = admit(&tokens(""), &unsigned).unwrap_err();
            assert!(why.contains("algorithm that is not known"), "{why}");
        }
    }
    let without = token("{}", &claims().to_string(), by_secret(SECRET.as_bytes()));
    assert!(admit(&tokens(""), &without).is_err());
}

/// The public key is no secret, so it must never be taken as one.
#[tokio::test]
async fn a_public_key_is_never_a_secret() {
    let header = r#"{"alg":"HS256"}"#;
    let ed = Ed::new();
    let public = [
        RSA.as_bytes(),
        RSA.trim_end().as_bytes(),
        ed.0.public_key().as_ref(),
    ];
    for secret in public {
        let forged = token(header, &claims().to_string(), by_secret(secret));
        for keys in [
            KeySet::pem(RSA.as_bytes()).unwrap(),
            published(&[ed.jwk("e")]),
        ] {
            let why = admit(&with_keys("", keys.clone()), &forged).unwrap_err();
            assert!(why.contains("not allowed"), "{why}");
            // Also where secrets are allowed besides.
            let mut both = with_keys("", keys);
            both.allowed.push(Algorithm::HS256);
            let why = admit(&both, &forged).unwrap_err();
            assert!(why.contains("no key is known"), "{why}");
        }
    }
}

/// A key of one kind does not check another algorithm, also if the token says so.
#[tokio::test]
async fn a_key_is_for_the_algorithms_of_its_kind() {
    let ed = Ed::new();
    let keys = with_keys("", published(&[ed.jwk("e")]));
    for name in ["ES256", "RS256", "PS512", "ES384"] {
        let header = json!({ "alg": name, "kid": "e" });
        let why = admit(&keys, &ed.token(&header, &claims())).unwrap_err();
        assert!(why.contains("no key is known"), "{name}: {why}");
    }
}

/// The attacker's own key, or where to fetch it, comes with the token.
#[tokio::test]
async fn a_key_that_the_token_brings_along_is_not_looked_at() {
    let (own, attacker) = (Ed::new(), Ed::new());
    let keys = with_keys("", published(&[own.jwk("e")]));
    for more in [
        json!({ "jwk": attacker.jwk("e") }),
        json!({ "jku": "https://attacker.example/jwks.json" }),
        json!({ "x5u": "https://attacker.example/chain.pem" }),
        json!({ "x5c": ["MIIB"] }),
    ] {
        let mut header = json!({ "alg": "EdDSA", "kid": "e" });
        header
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let why = admit(&keys, &attacker.token(&header, &claims())).unwrap_err();
        assert!(why.contains("signature is wrong"), "{why}");
    }
}

#[tokio::test]
async fn a_token_counts_in_its_time_only() {
    let tokens = tokens("");
    for (claim, value, expected) in [
        ("exp", json!(now() - 1), "has ended"),
        ("exp", json!(now()), "has ended"),
        ("exp", json!(0), "has ended"),
        ("exp", json!(-1), "no number"),
        ("exp", json!("4102444800"), "no number"),
        ("exp", json!(null), "no number"),
        ("exp", json!(1e300), "no number"),
        ("nbf", json!(now() + 60), "not valid yet"),
        ("nbf", json!("x"), "no number"),
    ] {
        let mut said = claims();
        said[claim] = value;
        let why = admit(&tokens, &hs256(&said)).unwrap_err();
        assert!(why.contains(expected), "{said}: {why}");
    }
    let mut said = claims();
    said.as_object_mut().unwrap().remove("exp");
    assert!(admit(&tokens, &hs256(&said)).is_err());
}

#[tokio::test]
async fn a_token_for_others_or_of_others_does_not_count() {
    let tokens = tokens("issuers = [\"https://login.example.com\"]");
    let mut said = claims();
    said["iss"] = "https://login.example.com".into();
    assert!(admit(&tokens, &hs256(&said)).is_ok());
    for (claim, value, expected) in [
        ("aud", json!("other"), "for others"),
        ("aud", json!([]), "for others"),
        ("aud", json!(["stentor2"]), "for others"),
        ("aud", json!(null), "for others"),
        ("iss", json!("https://login.example.com/"), "another issuer"),
        ("iss", json!(null), "another issuer"),
    ] {
        let mut said = said.clone();
        said[claim] = value;
        let why = admit(&tokens, &hs256(&said)).unwrap_err();
        assert!(why.contains(expected), "{said}: {why}");
    }
}

#[tokio::test]
async fn a_huge_token_is_not_even_read() {
    let mut said = claims();
    said["more"] = "x".repeat(20_000).into();
    let why = admit(&tokens(""), &hs256(&said)).unwrap_err();
    assert!(why.contains("too long"), "{why}");
}

#[tokio::test]
async fn an_unknown_key_or_an_odd_one_is_none() {
    let ed = Ed::new();
    let keys = with_keys("", published(&[ed.jwk("e")]));
    for id in [
        "f",
        "",
        "e\0",
        "../../../../dev/null",
        "' OR 1=1 --",
        "http://attacker.example/",
        "é\u{202e}",
        &"k".repeat(4000),
    ] {
        let header = json!({ "alg": "EdDSA", "kid": id });
        let why = admit(&keys, &ed.token(&header, &claims())).unwrap_err();
        assert!(why.contains("no key is known"), "{why}");
        assert!(!why.contains(id) || id.is_empty() || id == "f", "{why}");
    }
    for id in [json!(7), json!(["e"]), json!({})] {
        let header = json!({ "alg": "EdDSA", "kid": id });
        assert!(admit(&keys, &ed.token(&header, &claims())).is_err());
    }
}

#[tokio::test]
async fn extensions_that_are_not_known_are_refused() {
    for header in [
        json!({ "alg": "HS256", "crit": ["exp"], "exp": 1 }),
        json!({ "alg": "HS256", "crit": ["b64"], "b64": true }),
        json!({ "alg": "HS256", "crit": [] }),
    ] {
        let sign = by_secret(SECRET.as_bytes());
        let signed = token(&header.to_string(), &claims().to_string(), sign);
        let why = admit(&tokens(""), &signed).unwrap_err();
        assert!(why.contains("crit"), "{why}");
    }
}

/// Two readers could take different ones.
#[tokio::test]
async fn nothing_is_there_twice() {
    let exp = now() + 60;
    let sign = || by_secret(SECRET.as_bytes());
    for text in [
        format!(r#"{{"sub":"alice","sub":"bob","aud":"stentor","exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","aud":"stentor","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","aud":"stentor","exp":{exp},"x":{{"a":1,"a":2}}}}"#),
        format!(r#"{{"sub":"alice","aud":"stentor","exp":{exp}}} x"#),
    ]
    .iter()
    {
        let signed = token(r#"{"alg":"HS256"}"#, text, sign());
        let why = admit(&tokens(""), &signed).unwrap_err();
        assert!(why.contains("cannot be read"), "{text}: {why}");
    }
    let header = r#"{"alg":"HS256","alg":"none"}"#;
    let signed = token(header, &claims().to_string(), sign());
    assert!(admit(&tokens(""), &signed).is_err());
}

#[tokio::test]
async fn a_changed_token_is_none() {
    let signed = hs256(&claims());
    let parts: Vec<&str> = signed.split('.').collect();
    let mut other = claims();
    other["sub"] = "bob".into();
    let other = hs256(&other);
    let other: Vec<&str> = other.split('.').collect();
    for changed in [
        format!("{}.{}.{}", parts[0], other[1], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{signed}.x"),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        "..".to_owned(),
        String::new(),
    ] {
        assert!(admit(&tokens(""), &changed).is_err(), "{changed}");
    }
}
