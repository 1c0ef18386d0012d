//! What the gateway itself reads.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use stentor::{
    address::ClientAddress,
    auth::{
        Authenticator, Forwarding, Login,
        jwt::{JwtAuthenticator, Keyless, Surroundings},
    },
    broker::{destination::Destination, journal::Cursor},
    config::{self, Config},
    control::wire,
    listen::{Proxies, proxy_protocol},
};

use crate::{Choices, Target};

pub(super) const TARGETS: [Target; 8] = [
    Target {
        name: "proxy",
        words: &[
            b"PROXY TCP4 ",
            b"PROXY TCP6 ",
            b"PROXY UNKNOWN",
            b"192.0.2.1 ",
            b"2001:db8::1 ",
            b" 4711 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\x21\x11\0\x0c",
            b"\x20\0\0\0",
            b"\xff\xff",
        ],
        short: 80_000,
        run: proxy,
    },
    Target {
        name: "forwarded",
        words: &[
            b"x-forwarded-for:",
            b"forwarded:",
            b"for=",
            b"\"[2001:db8::1]:4711\"",
            b"192.0.2.1",
            b"10.0.0.1",
            b"unknown",
            b"_hidden",
            b", ",
            b";proto=https",
            b"\n",
        ],
        short: 60_000,
        run: forwarded,
    },
    Target {
        name: "carried",
        words: &[
            b"cookie:",
            b"sid=",
            b"; ",
            b"authorization:Basic ",
            b"YTpi",
            b"x-device:",
            b"\n",
            b"%3d",
            b"token=",
            b"\"",
        ],
        short: 60_000,
        run: carried,
    },
    Target {
        name: "jwt",
        words: &[
            b"\"exp\":",
            b"1900000000",
            b"1",
            b"1e300",
            b"-1",
            b"\"nbf\":",
            b"\"sub\":\"a\"",
            b"\"aud\":\"stentor\"",
            b"\"aud\":[\"stentor\"]",
            b"\"iss\":\"i\"",
            b"\"scope\":\"stentor.read:*/*/*\"",
            b"\"groups\":[\"g\"]",
            b"{",
            b"}",
            b",",
            b"null",
        ],
        short: 15_000,
        run: jwt,
    },
    Target {
        name: "destination",
        words: &[
            b"/exchange/",
            b"/queue/",
            b"/topic/",
            b"/amq/queue/",
            b"/temp-queue/",
            b"/reply-queue/",
            b"%2F",
            b"%25",
            b"%",
            b"%zz",
            b"\xc3\xa4",
        ],
        short: 100_000,
        run: destination,
    },
    Target {
        name: "config",
        words: &[
            b"[broker]\n",
            b"[auth]\n",
            b"[limits]\n",
            b"url = \"amqp://a:b@c\"\n",
            b"hook = \"http://h\"\n",
            b"= \"10s\"\n",
            b"= \"4MiB\"\n",
            b"= -1\n",
            b"= 18446744073709551615\n",
            b"= []\n",
            b"= {}\n",
            b"STENTOR__LIMITS__MAX_FRAME_SIZE=1\n",
            b"STENTOR__",
            b"=",
            b"\n",
        ],
        short: 2_000,
        run: config,
    },
    Target {
        name: "cursor",
        words: &[
            b"-",
            b"00000000",
            b"18446744073709551615",
            b"ffffffff",
            b"+",
            b"0",
        ],
        short: 100_000,
        run: cursor,
    },
    Target {
        name: "control",
        words: &[
            b"{\"command\":\"kick\"",
            b"{\"command\":\"ban\"",
            b"\"user\":\"a\"",
            b"\"until\":1900000000",
            b"\"until\":18446744073709551615",
            b"\"address\":\"192.0.2.0/24\"",
            b"\"seconds\":",
            b"\"reason\":\"r\"",
            b"\"id\":\"1\"",
            b"\"answer\":true",
            b",",
            b"}",
        ],
        short: 60_000,
        run: control,
    },
];

/// Whatever is behind a header stays unread; a header has an end.
fn proxy(input: &[u8]) {
    let mut rest = input;
    let read = proxy_protocol::read(&mut rest).now_or_never();
    let read = read.expect("bytes never make it wait");
    let taken = input.len() - rest.len();
    assert!(taken <= 8 * 1024, "{taken} bytes of one header");
    if let Ok(read) = read {
        // It is a whole one by itself, and says the same.
        let mut alone = &input[..taken];
        let again = proxy_protocol::read(&mut alone).now_or_never();
        let again = again
            .expect("bytes never make it wait")
            .expect("it is whole");
        assert_eq!(again, read);
        assert!(alone.is_empty());
        let mut less = &input[..taken - 1];
        let cut = proxy_protocol::read(&mut less).now_or_never();
        assert!(cut.expect("bytes never make it wait").is_err(), "it is cut");
    }
}

/// Lines of `name:value`.
fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Only a trusted proxy says where a client is, and a proxy does not say that a client is one
/// of the proxies, if another address is there.
fn forwarded(input: &[u8]) {
    static TRUSTED: LazyLock<Proxies> =
        LazyLock::new(|| Proxies::new(&["10.0.0.0/8".parse().expect("a network")]));
    let headers = headers(input);
    let address = |ip: [u8; 4]| SocketAddr::from((Ipv4Addr::from(ip), 4711));
    let stranger = TRUSTED.peer(address([192, 0, 2, 9]));
    assert_eq!(TRUSTED.client(stranger, &headers), stranger);
    let proxy = TRUSTED.peer(address([10, 1, 2, 3]));
    let client: ClientAddress = TRUSTED.client(proxy, &headers);
    if client != proxy {
        let text = String::from_utf8_lossy(input).to_ascii_lowercase();
        assert!(text.contains("forwarded"), "{client:?} comes from a header");
    }
}

fn gateway(toml: &str) -> Config {
    let file = config::File {
        name: "fuzz",
        text: toml,
    };
    Config::load_draft(file).expect("it is right")
}

/// What is carried has a bound, and only names that the configuration has.
fn carried(input: &[u8]) {
    static FORWARDING: LazyLock<[Forwarding; 2]> = LazyLock::new(|| {
        let names = "[auth]\nhook = \"http://h/auth\"\nforward_headers = { x-device = \"device\" }\n\
                     forward_cookies = { sid = \"session\" }\n\
                     forward_query = { token = \"token\" }\n";
        [names.to_owned(), format!("{names}http_basic = true\n")]
            .map(|text| Forwarding::new(&gateway(&text).auth))
    });
    let mut choices = Choices(input);
    let forwarding = &FORWARDING[choices.below(2)];
    let length = choices.below(64);
    let query = String::from_utf8_lossy(choices.take(length));
    let headers = headers(choices.0);
    let Ok(Some(carried)) = forwarding.read(&headers, Some(&query)) else {
        return;
    };
    assert!(carried.parameters.len() <= 3);
    for (name, value) in &carried.parameters {
        assert!(["device", "session", "token"].contains(&&**name));
        assert!(value.len() <= input.len(), "nothing grows");
    }
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

type Hook = Arc<dyn Authenticator>;

/// The claims of a token that is signed rightly: none is let in after its end, or by another name;
/// and none with another signature.
fn jwt(input: &[u8]) {
    static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, SECRET));
    static TOKENS: LazyLock<JwtAuthenticator<Hook>> = LazyLock::new(|| {
        let secret = String::from_utf8_lossy(SECRET);
        let config = gateway(&format!(
            "[auth.jwt]\nsecret = \"{secret}\"\naudiences = [\"stentor\"]\nrights = \"token\"\n\
             groups_claim = \"groups\"\nvhosts_claim = \"vhosts\"\ndevice_claim = \"device\"\n\
             subscribe = [\"/exchange/feed/{{sub}}\", \"/exchange/feed/{{groups}}.#\"]\n\
             resource_server_id = \"stentor\"\n"
        ));
        let surroundings = Surroundings {
            default_vhost: "/",
            topics: "amq.topic",
            keyless: Keyless::default(),
        };
        JwtAuthenticator::new(&config.auth.jwt, surroundings, None).expect("it is right")
    });
    let head = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(input));
    let mut signature = hmac::sign(&KEY, signed.as_bytes()).as_ref().to_vec();
    let log_in = |signature: &[u8]| {
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let login = Login {
            user: "".into(),
            password: Some(token.into()),
            vhost: "/".into(),
            more: Vec::new(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            is_known: false,
        };
        let done = TOKENS.log_in(&login).now_or_never();
        done.expect("nobody is asked")
    };
    let admitted = log_in(&signature);
    signature[0] ^= 1;
    assert!(log_in(&signature).is_err(), "the signature is another one");
    let Ok(admission) = admitted else {
        return;
    };
    let claims: serde_json::Value = serde_json::from_slice(input).expect("claims are JSON");
    let name = match &claims["sub"] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    assert_eq!(*name, *admission.user.name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("it is after 1970").as_secs_f64();
    let end = claims["exp"].as_f64().expect("it has an end");
    assert!(end > now - 600.0, "it has ended");
    let left = admission.lifetime.expect("it has an end");
    // A floating-point number holds 16 digits of an end that may have 20.
    let most = end * (1.0 + f64::EPSILON) - now + 600.0;
    assert!(left <= Duration::try_from_secs_f64(most).unwrap_or(Duration::MAX));
}

/// What it leads to is printed so that it leads there again.
fn destination(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(read) = Destination::parse(text) else {
        return;
    };
    let Some((exchange, key)) = read.route("amq.topic") else {
        return;
    };
    let printed = Destination::of_message(exchange, key, "amq.topic").to_string();
    let printed = match Destination::parse(&printed) {
        Ok(again) => again,
        // A queue without a name has no destination.
        Err(_) if key.is_empty() => return,
        Err(error) => panic!("{printed}: {error}"),
    };
    assert_eq!(printed.route("amq.topic"), Some((exchange, key)), "{text}");
}

/// The first half is a file, the second are variables.
fn config(input: &[u8]) {
    let mut choices = Choices(input);
    let length = choices.below(256) * 8;
    let file = String::from_utf8_lossy(choices.take(length)).into_owned();
    let variables = String::from_utf8_lossy(choices.0).into_owned();
    let variables = variables.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let file = config::File {
        name: "fuzz",
        text: &file,
    };
    match Config::load_unopened(Some(file), variables) {
        Ok(_) => {}
        Err(errors) => assert!(!errors.to_string().is_empty(), "it says what is wrong"),
    }
}

/// One text for each.
fn cursor(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
}

/// What is read can be written, and says the same; and it can be shown.
fn control(input: &[u8]) {
    match wire::decode(input) {
        Ok(note) => {
            let again = wire::decode(&wire::encode(&note));
            assert_eq!(again.as_ref(), Ok(&note), "it comes back");
        }
        Err(why) => assert!(!why.is_empty(), "it says why"),
    }
}
