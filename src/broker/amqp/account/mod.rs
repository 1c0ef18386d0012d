//! The login of the gateway's own links: each link asks for its credentials when it is made, and
//! hears of each new token while it lives.
//!
//! - [`tokens`]: the token of today, and its successors
//! - [`keeper`]: the task that looks for new tokens and tries them

mod keeper;
mod tokens;

use std::{fmt, path::PathBuf, sync::Arc};

use humantime::format_rfc3339_seconds;
use lapin::{auth::AuthProvider, uri::AMQPUri};
use zeroize::Zeroizing;

use self::tokens::{Source, Tokens};
pub(super) use self::{
    keeper::keep,
    tokens::{Numbered, Renewals},
};
use crate::{
    broker::{
        BrokerError, Config,
        account::{self, certificate::Certificate, source},
    },
    secret_url::SecretUrl,
};

/// The account that all links log in with.
pub(super) struct Account {
    kind: Kind,
    /// The files of a certificate and its key.
    certificate: Option<(PathBuf, PathBuf)>,
}

enum Kind {
    Password {
        user: String,
        password: Zeroizing<String>,
    },
    PasswordFile {
        user: String,
        file: PathBuf,
    },
    Token {
        user: String,
        tokens: Arc<Tokens>,
    },
    Certificate,
}

/// What one attempt to connect shows to the broker.
pub(super) struct Credentials {
    /// SASL's name of the way to log in.
    pub(super) mechanism: &'static str,
    /// What is said in that way.
    pub(super) response: Zeroizing<Vec<u8>>,
    /// Shown over TLS.
    pub(super) certificate: Option<Arc<Certificate>>,
    token: Option<Arc<Numbered>>,
}

impl Account {
    /// As the configuration says, for that URL.
    ///
    /// # Errors
    /// A key and its fault; the message names no secret.
    pub(super) fn new(config: &Config, url: &SecretUrl, uri: &AMQPUri) -> Result<Self, String> {
        let account = config.account(url);
        let account = account.map_err(|(key, fault)| format!("[broker] {key} {fault}"))?;
        let user = match url.user() {
            // lapin puts a name of its own there.
            "" => String::new(),
            _ => uri.authority.userinfo.username.clone(),
        };
        let tokens = |source, user| Kind::Token {
            user,
            tokens: Arc::new(Tokens::new(source, config.token_refresh)),
        };
        let kind = match account {
            account::Account::Url => Kind::of_url(uri),
            account::Account::PasswordFile(file) => Kind::PasswordFile { user, file },
            account::Account::TokenFile(file) => tokens(Source::File(file), user),
            account::Account::TokenCommand(command) => tokens(Source::Command(command), user),
            account::Account::Certificate => Kind::Certificate,
        };
        let has_certificate = account::is_set(&config.certificate);
        let files = (config.certificate.clone(), config.key.clone());
        Ok(Self {
            kind,
            certificate: has_certificate.then_some(files),
        })
    }

    /// By the user and the password of the URL.
    #[cfg(test)]
    pub(super) fn of_a_test(uri: &AMQPUri) -> Self {
        Self {
            kind: Kind::of_url(uri),
            certificate: None,
        }
    }

    fn tokens(&self) -> Option<&Arc<Tokens>> {
        match &self.kind {
            Kind::Token { tokens, .. } => Some(tokens),
            _ => None,
        }
    }

    /// What to show to the broker now.
    ///
    /// # Errors
    /// It cannot be read: [`BrokerError::AccessRefused`], for somebody has to mend it.
    pub(super) async fn credentials(&self) -> Result<Credentials, BrokerError> {
        let token = match self.tokens() {
            Some(tokens) => Some(tokens.current().await.map_err(unreadable)?),
            None => None,
        };
        self.credentials_with(token).await
    }

    /// The same by this token.
    async fn credentials_with(
        &self,
        token: Option<Arc<Numbered>>,
    ) -> Result<Credentials, BrokerError> {
        let certificate = match &self.certificate {
            Some((certificate, key)) => {
                let loaded = Certificate::load(certificate, key).await;
                Some(loaded.map_err(|fault| unreadable(fault.into()))?)
            }
            None => None,
        };
        let (mechanism, response) = match (&self.kind, &token) {
            (Kind::Password { user, password }, _) => plain(user, password),
            (Kind::PasswordFile { user, file }, _) => {
                let wrong = |fault| format!("[broker] password_file: {fault}");
                let read = source::file(file).await;
                let password = read.and_then(|bytes| {
                    let password = source::password(&bytes);
                    password.map_err(|fault| format!("{}: {fault}", file.display()))
                });
                let password = password.map_err(|fault| unreadable(wrong(fault).into()))?;
                plain(user, &password)
            }
            (Kind::Token { user, .. }, Some(token)) => plain(user, token.reveal()),
            (Kind::Token { .. }, None) => {
                return Err(unreadable(
                    format!("{UNREADABLE}token: there is none").into(),
                ));
            }
            (Kind::Certificate, _) => (EXTERNAL, Zeroizing::default()),
        };
        Ok(Credentials {
            mechanism,
            response,
            certificate,
            token,
        })
    }

    /// The broker took these. Links that logged in by an older token hear of this one.
    pub(super) fn accepted(&self, credentials: &Credentials) {
        if let (Some(tokens), Some(token)) = (self.tokens(), &credentials.token) {
            tokens.accepted(token);
        }
    }

    /// The broker did not let these in.
    pub(super) fn refused(&self, credentials: &Credentials) {
        if let (Some(tokens), Some(token)) = (self.tokens(), &credentials.token) {
            tokens.refused(token);
        }
    }

    /// The tokens that come after the one of these, for a link that lives.
    pub(super) fn renewals(&self, credentials: &Credentials) -> Option<Renewals> {
        Some(self.tokens()?.renewals_after(credentials.token.as_ref()?))
    }

    /// A question for an operator whose broker does not let the account in.
    pub(super) fn advice(&self) -> String {
        match &self.kind {
            Kind::Password { .. } => {
                "Are user and password right in the broker's URL ([broker] url)?".to_owned()
            }
            Kind::PasswordFile { file, .. } => format!(
                "Are the user in the broker's URL and the password in {} right ([broker] \
                 password_file)?",
                file.display()
            ),
            Kind::Token { tokens, .. } => match tokens.over() {
                Some(end) => format!(
                    "The token ended at {}, and [broker] {} has no newer one.",
                    format_rfc3339_seconds(end),
                    tokens.key()
                ),
                None => format!(
                    "Does RabbitMQ trust the issuer of the token, and is it for RabbitMQ and for \
                     this virtual host ([broker] {})?",
                    tokens.key()
                ),
            },
            Kind::Certificate => "Has RabbitMQ a user by the name in the certificate \
                                  (ssl_cert_login_from), and does it trust its authority \
                                  ([broker] certificate)?"
                .to_owned(),
        }
    }
}

const PLAIN: &str = "PLAIN";
const EXTERNAL: &str = "EXTERNAL";

impl Kind {
    fn of_url(uri: &AMQPUri) -> Self {
        let user = &uri.authority.userinfo;
        Self::Password {
            user: user.username.clone(),
            password: Zeroizing::new(user.password.clone()),
        }
    }
}

impl Credentials {
    /// For lapin.
    pub(super) fn provider(&self) -> impl AuthProvider + use<> {
        Sasl {
            mechanism: self.mechanism,
            response: self.response.clone(),
        }
    }
}

/// How the fault of a secret begins that cannot be read: by its key in the configuration.
pub(super) const UNREADABLE: &str = "[broker] ";

/// A secret that cannot be read is told as a refusal: the same hand mends it.
fn unreadable(fault: Box<str>) -> BrokerError {
    BrokerError::AccessRefused(fault)
}

/// What SASL's PLAIN says.
fn plain(user: &str, secret: &str) -> (&'static str, Zeroizing<Vec<u8>>) {
    let mut response = Zeroizing::new(Vec::new());
    for part in [user, secret] {
        response.push(0);
        response.extend_from_slice(part.as_bytes());
    }
    (PLAIN, response)
}

struct Sasl {
    mechanism: &'static str,
    response: Zeroizing<Vec<u8>>,
}

impl AuthProvider for Sasl {
    fn mechanism(&self) -> lapin::types::ShortString {
        self.mechanism.into()
    }

    fn auth_starter(&self) -> Result<lapin::types::LongString, String> {
        Ok(self.response.to_vec().into())
    }
}

/// Without secrets.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("mechanism", &self.mechanism)
            .field("certificate", &self.certificate)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn account(url: &str, keys: &str) -> Account {
        let config: Config = toml::from_str(&format!("url = {url:?}\n{keys}")).unwrap();
        let Some(crate::broker::Url::Amqp(secret)) = &config.url else {
            panic!("{url}")
        };
        Account::new(&config, secret, &url.parse().unwrap()).unwrap()
    }

    fn in_file(key: &str, url: &str, file: &std::path::Path) -> Account {
        account(url, &format!("{key} = {:?}", file.display().to_string()))
    }

    async fn said(account: &Account) -> (&'static str, String) {
        let credentials = account.credentials().await.unwrap();
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("s3cr"), "{shown}");
        let response = String::from_utf8(credentials.response.to_vec()).unwrap();
        (credentials.mechanism, response)
    }

    #[tokio::test]
    async fn each_kind_of_account_says_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let in_url = account("amqp://u:s3cr%40et@host", "");
        assert_eq!(said(&in_url).await, (PLAIN, "\0u\0s3cr@et".to_owned()));
        let password = in_file("password_file", "amqp://u%40v@host", &file);
        let token = in_file("token_file", "amqp://host", &file);
        for secret in ["s3cret", "s3cret2"] {
            // Read each time: no restart for a new one.
            fs::write(&file, format!("{secret}\n")).unwrap();
            assert_eq!(said(&password).await, (PLAIN, format!("\0u@v\0{secret}")));
            assert_eq!(said(&token).await, (PLAIN, format!("\0\0{secret}")));
        }
        let command = "token_command = [\"echo\", \"s3cret\"]";
        let command = account("amqp://u@host", command);
        assert_eq!(said(&command).await, (PLAIN, "\0u\0s3cret".to_owned()));
        let files = "certificate = \"/no/c.pem\"\nkey = \"/no/k.pem\"";
        let fault = account("amqps://host", files)
            .credentials()
            .await
            .unwrap_err();
        let text = fault.to_string();
        assert!(text.contains("[broker] certificate: /no/c.pem"), "{text}");
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_is_told_by_its_key() {
        for (key, url) in [
            ("password_file", "amqp://u@host"),
            ("token_file", "amqp://host"),
        ] {
            let missing = in_file(key, url, "/no/such/file".as_ref());
            let fault = missing.credentials().await.unwrap_err();
            let BrokerError::AccessRefused(text) = fault else {
                panic!("{fault}")
            };
            assert!(
                text.contains(&format!("[broker] {key}: /no/such/file")),
                "{text}"
            );
            assert!(missing.advice().contains(key), "{}", missing.advice());
        }
    }
}
