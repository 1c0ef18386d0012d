//! Which of all ways to say who a client is counts (pure).

use std::sync::Arc;

use stomp_grammar::Headers;

use crate::auth::{self, Carried, Credentials, Fact};

/// Ways to log in besides `login` and `passcode`, from the `[auth]` section.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// Who a client is that names nobody.
    default: Option<Credentials>,
    /// What of the connection the hook's user call tells, and under which names.
    facts: Vec<(Fact, Arc<str>)>,
    /// Whether the hook's answer can say who the user is.
    hook_names_user: bool,
    /// Whether a token names its user.
    takes_tokens: bool,
    /// What this node is called.
    node: Arc<str>,
}

impl Logins {
    /// What the configuration says.
    #[must_use]
    pub fn new(config: &auth::Config, node: &str) -> Self {
        let facts = config.forward_connection.iter();
        Self {
            default: config.default_credentials(),
            facts: facts
                .map(|(fact, name)| (*fact, name.as_str().into()))
                .collect(),
            hook_names_user: config.username_header.is_some(),
            takes_tokens: config.jwt.is_on(),
            node: node.into(),
        }
    }

    /// What of the connection the hook's user call tells, and under which names.
    #[must_use]
    pub fn facts(&self) -> &[(Fact, Arc<str>)] {
        &self.facts
    }

    /// What this node is called.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The name with which a logged-in user's new credentials are tried: the one that the client
    /// gives, or else its own; none where something else names it.
    #[must_use]
    pub fn name_to_renew<'a>(
        &self,
        named: Option<&'a str>,
        own: &'a str,
        credentials: &str,
    ) -> &'a str {
        match named {
            Some(name) => name,
            None if self.hook_names_user || self.is_token(credentials) => "",
            None => own,
        }
    }

    fn is_token(&self, text: &str) -> bool {
        self.takes_tokens && auth::looks_like_token(text)
    }

    /// The credentials that count. `None`: there are none.
    ///
    /// Those of HTTP Basic authentication come first, as in the plug-in; then those of CONNECT, of
    /// which a token needs no `login`; then a token that the request carried; then the certificate, for a client that says a name is that user or nobody; then what else the
    /// request carried, or a passcode (a token), for which the hook knows the user; then the default
    /// ones. An empty passcode stands where what the request carried is to prove the user: none at
    /// all tells the hook that a certificate has.
    #[must_use]
    pub fn credentials(&self, connect: &Headers, carried: Option<&Carried>) -> Option<Named> {
        if let Some(Credentials { user, passcode }) =
            carried.and_then(|carried| carried.credentials.as_ref())
        {
            return Some((user.clone(), Some(passcode.clone())));
        }
        let certificate = carried.and_then(|carried| carried.certificate.as_ref());
        let token = connect
            .get("passcode")
            .filter(|passcode| !passcode.is_empty());
        let token = token.or_else(|| carried.and_then(|carried| carried.token.as_deref()));
        let login = connect.get("login");
        if let Some(token) = token.filter(|token| self.is_token(token))
            && login.is_none_or(str::is_empty)
        {
            return Some(("".into(), Some(token.into())));
        }
        if let (Some(user), None | Some(""), Some(token)) = (
            login,
            connect.get("passcode"),
            carried.and_then(|carried| carried.token.as_deref()),
        ) {
            return Some((user.into(), Some(token.into())));
        }
        let is_proved = carried.is_some_and(|carried| !carried.parameters.is_empty());
        let passcode = connect.get("passcode");
        match (connect.get("login"), passcode) {
            (Some(user), Some(passcode)) => Some((user, passcode)),
            (Some(user), None) if is_proved => Some((user, "")),
            (Some(_), None) => return None,
            (None, _) if let Some(user) = certificate => return Some((user.clone(), None)),
            (None, _) if is_proved && self.hook_names_user => {
                Some(("", passcode.unwrap_or_default()))
            }
            (None, Some(token)) if !token.is_empty() && self.hook_names_user => Some(("", token)),
            (None, _) => {
                let default = self.default.as_ref()?;
                Some((&*default.user, passcode.unwrap_or(&default.passcode)))
            }
        }
        .map(|(user, passcode)| (user.into(), Some(passcode.into())))
    }
}

/// A user's name, and a passcode unless a certificate has proved it.
type Named = (Box<str>, Option<Box<str>>);

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts, of a CONNECT's headers and what the request carried.
    fn counts(config: &str, connect: &str, carried: Option<Carried>) -> Option<Named> {
        let config = auth::Config::of_text(config);
        assert_eq!(config.check(), Ok(()));
        let mut headers = Headers::default();
        for line in connect.split_whitespace() {
            let (name, value) = line.split_once(':').unwrap();
            headers.push(name, value);
        }
        let logins = Logins::new(&config, "n");
        logins.credentials(&headers, carried.as_ref())
    }

    fn pair(user: &str, passcode: &str) -> Option<Named> {
        Some((user.into(), Some(passcode.into())))
    }

    fn cookie() -> Option<Carried> {
        Some(Carried {
            parameters: vec![("sid".into(), "1".into())],
            ..Carried::default()
        })
    }

    const COOKIE: &str = "forward_cookies = { sid = \"sid\" }\n";
    const NAMED: &str = "forward_cookies = { sid = \"sid\" }\nusername_header = \"x-username\"\n";
    const DEFAULT: &str = "default_user = \"guest\"\ndefault_passcode = \"g\"\n";

    #[test]
    fn connect_says_who_it_is() {
        assert_eq!(counts("", "login:a passcode:b", None), pair("a", "b"));
        for connect in ["", "login:a", "passcode:b"] {
            assert_eq!(counts("", connect, None), None, "{connect}");
        }
        // An empty name is the hook's to refuse, as in the plug-in.
        assert_eq!(counts("", "login: passcode:", None), pair("", ""));
    }

    #[test]
    fn a_client_that_names_nobody_is_the_default_user() {
        assert_eq!(counts(DEFAULT, "", None), pair("guest", "g"));
        assert_eq!(counts(DEFAULT, "passcode:b", None), pair("guest", "b"));
        assert_eq!(counts(DEFAULT, "login:a passcode:b", None), pair("a", "b"));
        // The default passcode is nobody else's.
        assert_eq!(counts(DEFAULT, "login:a", None), None);
    }

    #[test]
    fn what_the_request_carried_stands_in_for_the_passcode() {
        assert_eq!(counts(COOKIE, "login:a", cookie()), pair("a", ""));
        assert_eq!(
            counts(COOKIE, "login:a passcode:b", cookie()),
            pair("a", "b")
        );
        // Nobody could say who it is.
        assert_eq!(counts(COOKIE, "", cookie()), None);
        assert_eq!(counts(COOKIE, "login:a", None), None);
    }

    #[test]
    fn where_the_hook_names_the_user_connect_need_not() {
        assert_eq!(counts(NAMED, "", cookie()), pair("", ""));
        assert_eq!(counts(NAMED, "", None), None);
        let both = format!("{NAMED}{DEFAULT}");
        assert_eq!(counts(&both, "", cookie()), pair("", ""));
        assert_eq!(counts(&both, "", None), pair("guest", "g"));
        // A token in the passcode.
        for config in [NAMED, &both] {
            assert_eq!(counts(config, "passcode:ey.J", None), pair("", "ey.J"));
            assert_eq!(counts(config, "login:a passcode:b", None), pair("a", "b"));
        }
        assert_eq!(counts(NAMED, "passcode:", None), None);
    }

    #[test]
    fn a_certificate_names_who_says_no_name() {
        let certificate = || {
            Some(Carried {
                certificate: Some("cert".into()),
                ..Carried::default()
            })
        };
        for config in ["", DEFAULT, NAMED] {
            let named = Some(("cert".into(), None));
            assert_eq!(counts(config, "", certificate()), named);
            assert_eq!(counts(config, "passcode:b", certificate()), named);
            assert_eq!(
                counts(config, "login:a passcode:b", certificate()),
                pair("a", "b")
            );
            // Nobody is let in by a name and another's certificate.
            assert_eq!(counts(config, "login:a", certificate()), None);
        }
        let both = cookie().map(|carried| Carried {
            certificate: Some("cert".into()),
            ..carried
        });
        assert_eq!(counts(NAMED, "", both), Some(("cert".into(), None)));
    }

    const JWT: &str = "[jwt]\naudiences = [\"a\"]\njwks_url = \"https://i/\"\n";
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln";

    #[test]
    fn a_token_says_who_it_is() {
        let carried = || {
            Some(Carried {
                token: Some(TOKEN.into()),
                ..Carried::default()
            })
        };
        let passcode = format!("passcode:{TOKEN}");
        assert_eq!(counts(JWT, &passcode, None), pair("", TOKEN));
        let named = format!("login:a {passcode}");
        assert_eq!(counts(JWT, &named, None), pair("a", TOKEN));
        assert_eq!(counts(JWT, "", carried()), pair("", TOKEN));
        assert_eq!(counts(JWT, "login: passcode:", carried()), pair("", TOKEN));
        // Whoever it is, must be who the client says.
        assert_eq!(counts(JWT, "login:a", carried()), pair("a", TOKEN));
        // CONNECT counts before the request.
        let both = "login:a passcode:b";
        assert_eq!(counts(JWT, both, carried()), pair("a", "b"));
        // Without keys it is no token.
        assert_eq!(counts("", &passcode, None), None);
        // A certificate counts for who shows nothing else.
        let certificate = carried().map(|carried| Carried {
            certificate: Some("cert".into()),
            ..carried
        });
        assert_eq!(counts(JWT, "", certificate), pair("", TOKEN));
    }

    #[test]
    fn new_credentials_are_tried_with_the_name_that_the_first_were() {
        let config = |text| Logins::new(&auth::Config::of_text(text), "n");
        let (hook, named, jwt) = (config(""), config(NAMED), config(JWT));
        assert_eq!(hook.name_to_renew(None, "a", "b"), "a");
        assert_eq!(hook.name_to_renew(Some("c"), "a", "b"), "c");
        assert_eq!(named.name_to_renew(None, "a", "b"), "");
        assert_eq!(jwt.name_to_renew(None, "a", TOKEN), "");
        assert_eq!(jwt.name_to_renew(None, "a", "b"), "a");
    }

    #[test]
    fn http_basic_counts_before_all() {
        let carried = || {
            Some(Carried {
                credentials: Some(Credentials {
                    user: "http".into(),
                    passcode: "h".into(),
                }),
                certificate: Some("cert".into()),
                ..Carried::default()
            })
        };
        for connect in ["", "login:a passcode:b"] {
            assert_eq!(counts(DEFAULT, connect, carried()), pair("http", "h"));
        }
    }
}
