//! What a connection's opening carries for the login: a certificate of TLS; and the HTTP request
//! of a WebSocket, for browsers can set neither headers nor credentials there, but send cookies,
//! and a page can write a token into the URL.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use thiserror::Error;
use url::form_urlencoded;

use super::{
    Config,
    jwt::{JwtConfig, looks_like_token},
};

/// All that one request may carry for its login, in bytes. A question to the hook has room for it,
/// even if each byte has to be escaped.
pub(super) const MAX_CARRIED: usize = 8 * 1024;

/// Users' own base64 is not always padded.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A name and a passcode.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// As the `login` header.
    pub user: Box<str>,
    /// As the `passcode` header.
    pub passcode: Box<str>,
}

/// What of a request goes to the hook's user call, and under which names. By default nothing.
#[derive(Debug, Default)]
pub struct Forwarding {
    headers: Vec<(HeaderName, Arc<str>)>,
    cookies: Vec<(Box<str>, Arc<str>)>,
    query: Vec<(Box<str>, Arc<str>)>,
    /// Whether HTTP Basic authentication is the login, whatever CONNECT says.
    basic: bool,
    is_ambient: bool,
    /// Where a token may be.
    tokens: Tokens,
    /// Who a request without it is.
    default: Option<Credentials>,
}

/// Where a request may have a token.
#[derive(Debug, Default)]
struct Tokens {
    header: Option<HeaderName>,
    cookie: Option<Box<str>>,
    query: Option<Box<str>>,
    subprotocol: bool,
}

/// A subprotocol that begins so is no protocol, but a token: a page can choose those, and no other
/// header of a WebSocket.
const BEARER: &str = "bearer.";

/// What one connection's opening carries; kept until its login is done.
#[derive(Default, PartialEq, Eq)]
pub struct Carried {
    /// The user that its certificate names, where certificates are logins.
    pub certificate: Option<Box<str>>,
    /// Credentials that count instead of those of CONNECT.
    pub credentials: Option<Credentials>,
    /// A token (JWT), which counts where CONNECT has no passcode.
    pub token: Option<Box<str>>,
    /// Further parameters of the user call.
    pub parameters: Vec<Parameter>,
}

/// A parameter of the user call that is not in RabbitMQ's contract, and its value.
pub type Parameter = (Arc<str>, Box<str>);

/// Why a request's login cannot be carried on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CarryError {
    /// HTTP Basic authentication is required, and is not there or cannot be read.
    #[error("Log in by HTTP Basic authentication: a readable Authorization header is required.")]
    Unauthorized,
    /// A header or a parameter of the URL is there twice: which one counts, others may see
    /// otherwise.
    #[error("{0} is there more than once.")]
    Twice(Box<str>),
    /// A value is not UTF-8.
    #[error("{0} is not UTF-8.")]
    NotText(Box<str>),
    /// Together they are too large.
    #[error("What this request carries for its login is longer than {MAX_CARRIED} bytes.")]
    TooLong,
}

impl Carried {
    /// What a request carried, with the name in its connection's certificate.
    #[must_use]
    pub fn with_certificate(
        carried: Option<Box<Self>>,
        certificate: Option<Box<str>>,
    ) -> Option<Box<Self>> {
        if certificate.is_none() {
            return carried;
        }
        let mut carried = carried.unwrap_or_default();
        carried.certificate = certificate;
        Some(carried)
    }
}

impl Forwarding {
    /// What the configuration says, which has to be sound.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let named = |names: &std::collections::BTreeMap<String, String>| {
            let named = names.iter();
            named
                .map(|(name, parameter)| (name.as_str().into(), parameter.as_str().into()))
                .collect()
        };
        let headers = config.forward_headers.iter();
        Self {
            headers: headers
                .filter_map(|(name, parameter)| Some((name.parse().ok()?, (&**parameter).into())))
                .collect(),
            cookies: named(&config.forward_cookies),
            query: named(&config.forward_query),
            basic: config.http_basic,
            is_ambient: config.is_ambient(),
            tokens: Tokens::new(&config.jwt),
            default: config.default_credentials(),
        }
    }

    /// Whether a browser carries it by itself, whatever page asks.
    #[must_use]
    pub fn is_ambient(&self) -> bool {
        self.is_ambient
    }

    /// What a request carries; `None`: nothing that is wanted.
    ///
    /// # Errors
    /// [`CarryError`]. Its text can be told to the client.
    pub fn read(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Option<Box<Carried>>, CarryError> {
        let mut carried = Carried::default();
        if self.basic {
            let authorization = only_header(headers, &AUTHORIZATION)?;
            carried.credentials = Some(match (authorization, &self.default) {
                (Some(value), _) => basic(value).ok_or(CarryError::Unauthorized)?,
                (None, Some(default)) => default.clone(),
                (None, None) => return Err(CarryError::Unauthorized),
            });
        }
        let mut add = |parameter: &Arc<str>, value: &str| {
            carried
                .parameters
                .push((Arc::clone(parameter), value.into()));
        };
        for (name, parameter) in &self.headers {
            if let Some(value) = only_header(headers, name)? {
                add(parameter, value);
            }
        }
        if !self.cookies.is_empty() {
            let cookies = cookies(headers);
            for (name, parameter) in &self.cookies {
                // The same name may be there twice; the one for the nearest path comes first.
                let mut cookies = cookies.iter();
                if let Some((_, value)) = cookies.find(|(cookie, _)| *cookie == name.as_bytes()) {
                    let what = || CarryError::NotText(format!("The cookie {name}").into());
                    add(parameter, std::str::from_utf8(value).map_err(|_| what())?);
                }
            }
        }
        if !self.query.is_empty() {
            let raw = query.unwrap_or_default().as_bytes();
            let query: Vec<_> = form_urlencoded::parse(raw).collect();
            for (name, parameter) in &self.query {
                if let Some(value) = only_parameter(&query, name)? {
                    add(parameter, value);
                }
            }
        }
        carried.token = self.tokens.read(headers, query)?;
        if carried.len() > MAX_CARRIED {
            return Err(CarryError::TooLong);
        }
        let is_empty = carried == Carried::default();
        Ok((!is_empty).then(|| Box::new(carried)))
    }
}

impl Tokens {
    fn new(config: &JwtConfig) -> Self {
        let set = |name: &str| (!name.is_empty()).then(|| Box::from(name));
        if !config.is_on() {
            return Self::default();
        }
        Self {
            header: config.header.parse().ok(),
            cookie: set(&config.cookie),
            query: set(&config.query),
            subprotocol: config.subprotocol,
        }
    }

    /// The request's token, wherever it is.
    fn read(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Option<Box<str>>, CarryError> {
        let mut found: Vec<Box<str>> = Vec::new();
        if let Some(name) = &self.header
            && let Some(value) = only_header(headers, name)?
        {
            let token = match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
                _ => value,
            };
            found.push(token.trim().into());
        }
        if let Some(name) = &self.cookie {
            let cookies = cookies(headers);
            let mut cookies = cookies.iter();
            if let Some((_, value)) = cookies.find(|(cookie, _)| *cookie == name.as_bytes()) {
                let what = || CarryError::NotText(format!("The cookie {name}").into());
                found.push(std::str::from_utf8(value).map_err(|_| what())?.into());
            }
        }
        if let Some(name) = &self.query {
            let raw = query.unwrap_or_default().as_bytes();
            let query: Vec<_> = form_urlencoded::parse(raw).collect();
            found.extend(only_parameter(&query, name)?.map(Box::from));
        }
        if self.subprotocol {
            let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
            let offered = offered.filter_map(|value| value.to_str().ok());
            let offered = offered.flat_map(|value| value.split(',')).map(str::trim);
            let tokens = offered.filter_map(|protocol| protocol.strip_prefix(BEARER));
            found.extend(tokens.map(Box::from));
        }
        // A header of another kind (HTTP Basic, say) is no token.
        found.retain(|token| looks_like_token(token));
        found.dedup();
        if found.len() > 1 {
            return Err(CarryError::Twice("A token".into()));
        }
        Ok(found.pop())
    }
}

impl Carried {
    fn len(&self) -> usize {
        let credentials = self
            .credentials
            .iter()
            .flat_map(|given| [given.user.len(), given.passcode.len()]);
        let parameters = self
            .parameters
            .iter()
            .flat_map(|(name, value)| [name.len(), value.len()]);
        let token = self.token.iter().map(|token| token.len());
        credentials.chain(parameters).chain(token).sum()
    }
}

fn only_header<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, CarryError> {
    let mut values = headers.get_all(name).into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let what = || format!("The header {name}").into();
    if values.next().is_some() {
        return Err(CarryError::Twice(what()));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some).map_err(|_| CarryError::NotText(what()))
}

/// All names and values: those of other applications, too, which may be any bytes.
fn cookies(headers: &HeaderMap) -> Vec<(&[u8], &[u8])> {
    let lines = headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs
        .filter_map(|pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let (name, value) = (parts.next()?, parts.next()?);
            Some((name.trim_ascii(), value.trim_ascii()))
        })
        .collect()
}

fn only_parameter<'a>(
    query: &'a [(Cow<'_, str>, Cow<'_, str>)],
    name: &str,
) -> Result<Option<&'a str>, CarryError> {
    let mut values = query.iter().filter(|(key, _)| key == name);
    let first = values.next().map(|(_, value)| &**value);
    if values.next().is_some() {
        let what = format!("The parameter {name} of the URL");
        return Err(CarryError::Twice(what.into()));
    }
    Ok(first)
}

/// `Basic` and the base64 of `user:passcode` (RFC 7617).
fn basic(authorization: &str) -> Option<Credentials> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (user, passcode) = decoded.split_once(':')?;
    Some(Credentials {
        user: user.into(),
        passcode: passcode.into(),
    })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Names alone: values are secrets.
impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        f.debug_struct("Carried")
            .field("credentials", &self.credentials)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("parameters", &names)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(text: &str) -> Forwarding {
        let config = Config::of_text(text);
        assert_eq!(config.check(), Ok(()));
        Forwarding::new(&config)
    }

    fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(
                name,
                reqwest::header::HeaderValue::from_bytes(value).unwrap(),
            );
        }
        headers
    }

    fn parameters(carried: Option<Box<Carried>>) -> Vec<(String, String)> {
        let carried = carried
            .map(|carried| carried.parameters)
            .unwrap_or_default();
        let pairs = carried.iter();
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    const ALL: &str = r#"
        forward_headers = { Authorization = "authorization" }
        forward_cookies = { sid = "session_cookie" }
        forward_query = { token = "token" }
    "#;

    #[test]
    fn only_what_is_configured_is_taken() {
        let request = headers(&[
            ("authorization", b"Bearer abc"),
            ("cookie", b"theme=dark; sid=s1d=; other=1"),
            ("x-other", b"1"),
        ]);
        let query = Some("token=t%2Bk&other=1");
        assert_eq!(
            parameters(forwarding(ALL).read(&request, query).unwrap()),
            [
                pair("authorization", "Bearer abc"),
                pair("session_cookie", "s1d="),
                pair("token", "t+k"),
            ]
        );
        assert_eq!(Forwarding::default().read(&request, query), Ok(None));
        assert_eq!(forwarding(ALL).read(&headers(&[]), None), Ok(None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let read = |pairs: &[(&str, &[u8])], query| forwarding(ALL).read(&headers(pairs), query);
        let twice = read(&[("authorization", b"a"), ("authorization", b"b")], None);
        assert!(matches!(twice, Err(CarryError::Twice(_))), "{twice:?}");
        let twice = read(&[], Some("token=a&token=b"));
        assert!(matches!(twice, Err(CarryError::Twice(_))), "{twice:?}");
        let not_text = read(&[("cookie", b"sid=\xff")], None);
        assert!(matches!(not_text, Err(CarryError::NotText(_))));
        let another = read(&[("cookie", b"theme=\xff; sid=1")], None);
        assert_eq!(parameters(another.unwrap()), [pair("session_cookie", "1")]);
        // Browsers send one for each path.
        let first = read(&[("cookie", b"sid=near; sid=far")], None);
        assert_eq!(parameters(first.unwrap()), [pair("session_cookie", "near")]);
        let first = read(&[("cookie", b"sid=1"), ("cookie", b"sid=2")], None);
        assert_eq!(parameters(first.unwrap()), [pair("session_cookie", "1")]);
    }

    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln";

    fn token_of(settings: &str, pairs: &[(&str, &str)], query: Option<&str>) -> Option<String> {
        let keys = "[jwt]\naudiences = [\"a\"]\njwks_url = \"https://i/\"\n";
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let carried = forwarding(&format!("{keys}{settings}")).read(&headers(&pairs), query);
        let token = carried.unwrap().and_then(|carried| carried.token);
        token.map(String::from)
    }

    #[test]
    fn a_token_is_taken_from_where_the_configuration_says_and_nowhere_else() {
        let bearer = format!("Bearer {TOKEN}");
        let cookie = format!("theme=dark; jwt={TOKEN}");
        let query = format!("jwt={TOKEN}");
        let protocol = format!("v12.stomp, bearer.{TOKEN}");
        let all = [
            ("authorization", &*bearer),
            ("cookie", &*cookie),
            ("sec-websocket-protocol", &*protocol),
        ];
        for (settings, pairs, query) in [
            ("header = \"authorization\"", &all[..1], None),
            ("cookie = \"jwt\"", &all[1..2], None),
            ("query = \"jwt\"", &all[..0], Some(&*query)),
            ("subprotocol = true", &all[2..], None),
            // The same token twice is one.
            ("cookie = \"jwt\"\nsubprotocol = true", &all[..], None),
        ] {
            assert_eq!(token_of(settings, pairs, query).as_deref(), Some(TOKEN));
        }
        assert_eq!(token_of("", &all, Some(&query)), None);
        let basic = [("authorization", "Basic YTpi")];
        assert_eq!(token_of("header = \"authorization\"", &basic, None), None);
    }

    #[test]
    fn two_tokens_are_none_and_a_cookie_needs_the_right_page() {
        let other = format!("v12.stomp,bearer.{TOKEN}x");
        let cookie = format!("jwt={TOKEN}");
        let request = headers(&[
            ("cookie", cookie.as_bytes()),
            ("sec-websocket-protocol", other.as_bytes()),
        ]);
        let settings = "[jwt]\naudiences = [\"a\"]\njwks_url = \"https://i/\"\n\
                        cookie = \"jwt\"\nsubprotocol = true";
        let forwarding = forwarding(settings);
        let read = forwarding.read(&request, None);
        assert!(matches!(read, Err(CarryError::Twice(_))), "{read:?}");
        assert!(forwarding.is_ambient());
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let read = |length: usize| {
            let value = vec![b'a'; length];
            forwarding(ALL).read(&headers(&[("authorization", &value)]), None)
        };
        assert!(read(MAX_CARRIED - 100).is_ok());
        assert_eq!(read(MAX_CARRIED), Err(CarryError::TooLong));
    }

    #[test]
    fn http_basic_is_read() {
        let read = |value: &str| {
            let request = headers(&[("authorization", value.as_bytes())]);
            forwarding("http_basic = true").read(&request, None)
        };
        let credentials = |user: &str, passcode: &str| {
            Some(Credentials {
                user: user.into(),
                passcode: passcode.into(),
            })
        };
        for (value, expected) in [
            ("Basic YWxpY2U6czNjcjp0", credentials("alice", "s3cr:t")),
            ("basic  YWxpY2U6", credentials("alice", "")),
            // Padded, and not.
            ("Basic YTpi", credentials("a", "b")),
            ("Basic YTpiYw==", credentials("a", "bc")),
            ("Basic YTpiYw", credentials("a", "bc")),
            ("Basic w6Q6w7w=", credentials("ä", "ü")),
        ] {
            let carried = read(value).unwrap().unwrap();
            assert_eq!(carried.credentials, expected, "{value}");
        }
        for value in [
            "Bearer abc",
            "Basic",
            "Basic !!!",
            "Basic bm9jb2xvbg==",
            "Basic //86",
        ] {
            assert_eq!(read(value), Err(CarryError::Unauthorized), "{value}");
        }
    }

    #[test]
    fn without_http_basic_a_request_is_the_default_user_s_or_nobody_s() {
        let nobody = forwarding("http_basic = true").read(&headers(&[]), None);
        assert_eq!(nobody, Err(CarryError::Unauthorized));
        let default = "http_basic = true\ndefault_user = \"guest\"\ndefault_passcode = \"g\"";
        let carried = forwarding(default).read(&headers(&[]), None);
        let credentials = carried.unwrap().unwrap().credentials.unwrap();
        assert_eq!((&*credentials.user, &*credentials.passcode), ("guest", "g"));
    }

    #[test]
    fn debug_shows_no_secrets() {
        let request = headers(&[
            ("cookie", b"sid=s3cret"),
            ("authorization", b"Basic YTpzM2NyZXQ="),
        ]);
        let forwarding = forwarding(
            "forward_cookies = { sid = \"sid\" }\nhttp_basic = true\n\
             default_user = \"d\"\ndefault_passcode = \"s3cret\"",
        );
        let carried = forwarding.read(&request, None).unwrap().unwrap();
        let shown = format!("{carried:?} {forwarding:?}");
        assert!(
            shown.contains("sid") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}
