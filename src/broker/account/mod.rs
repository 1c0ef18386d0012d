//! The gateway's own account at RabbitMQ: how it logs in there, as the configuration names it.
//!
//! - [`source`]: files and commands that give a password or a token
//! - [`token`]: what a token tells of its end (pure)
//! - [`certificate`]: the certificate that RabbitMQ is shown

pub(super) mod certificate;
pub(super) mod source;
pub(super) mod token;

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::{certificate::Certificate, token::Token};
use super::Config;
use crate::{secret_url::SecretUrl, units::Checked};

/// How the gateway logs in at RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// By the user and the password of the URL.
    Url,
    /// By the URL's user, and the password in a file.
    PasswordFile(PathBuf),
    /// By a token in a file.
    TokenFile(PathBuf),
    /// By a token that a program prints.
    TokenCommand(Box<[String]>),
    /// By the certificate that it shows (SASL's EXTERNAL).
    Certificate,
}

/// A key, and what is wrong with its value.
pub(super) type Fault = (&'static str, String);

/// The ways to name an account, for whoever has named none.
const NO_ACCOUNT: &str = "names no account; write \"amqp://user:password@host:5672\" (characters \
                          such as \"/\" and \"@\" in a password as %2F and %40); or leave the \
                          password to password_file, or the account to token_file, token_command \
                          or certificate";

impl Config {
    /// How the gateway logs in at that URL.
    ///
    /// # Errors
    /// The keys contradict each other, or name no account.
    pub(super) fn account(&self, url: &SecretUrl) -> Result<Account, Fault> {
        let has_certificate = self.check_certificate(url)?;
        let secrets = [
            ("password_file", is_set(&self.password_file)),
            ("token_file", is_set(&self.token_file)),
            ("token_command", !self.token_command.is_empty()),
        ];
        let mut set = secrets.iter().filter(|(_, is_set)| *is_set);
        let (first, second) = (set.next(), set.next());
        if let (Some((first, _)), Some((second, _))) = (first, second) {
            let message = format!("is set, and {first}, too: an account has one of them");
            return Err((second, message));
        }
        if let Some((key, _)) = first
            && url.has_password()
        {
            let message = "is set, and so is a password in the broker's URL; remove one of them";
            return Err((key, message.to_owned()));
        }
        let url_key = if self.url.is_some() { "url" } else { "urls" };
        Ok(match first {
            Some(("password_file", _)) if url.user().is_empty() => {
                let message = "is set, but the broker's URL names no user; write \
                               \"amqp://user@host:5672\" there";
                return Err(("password_file", message.to_owned()));
            }
            Some(("password_file", _)) => Account::PasswordFile(self.password_file.clone()),
            Some(("token_file", _)) => Account::TokenFile(self.token_file.clone()),
            Some(_) => Account::TokenCommand(self.token_command.clone().into()),
            None if url.has_password() && !url.user().is_empty() => Account::Url,
            None if has_certificate && url.user().is_empty() && !url.has_password() => {
                Account::Certificate
            }
            // Client libraries fall back to guest:guest, which nobody asked for.
            None => return Err((url_key, NO_ACCOUNT.to_owned())),
        })
    }

    /// Whether the keys of the account make sense together with the URL.
    pub(super) fn check_account(&self) -> Checked {
        if self.token_command.first().is_some_and(String::is_empty) {
            let message = "begins with an empty text; write a program and its arguments, such as \
                           [\"/usr/local/bin/token\", \"--audience\", \"rabbitmq\"]";
            return Err(("token_command", message.to_owned()));
        }
        let urls = self.all_urls();
        let Some(first) = urls.first() else {
            return Ok(());
        };
        if let super::Url::Amqp(url) = first {
            return self.account(url).map(drop);
        }
        let keys = [
            ("password_file", is_set(&self.password_file)),
            ("token_file", is_set(&self.token_file)),
            ("token_command", !self.token_command.is_empty()),
            ("certificate", is_set(&self.certificate)),
            ("key", is_set(&self.key)),
        ];
        match keys.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => {
                let message = "is for RabbitMQ, but url is \"embedded:\"; leave it out";
                Err((key, message.to_owned()))
            }
            None => Ok(()),
        }
    }

    /// Whether a certificate is to be shown at that URL.
    fn check_certificate(&self, url: &SecretUrl) -> Result<bool, Fault> {
        let wrong = |key, message: &str| Err((key, message.to_owned()));
        match (is_set(&self.certificate), is_set(&self.key)) {
            (false, false) => Ok(false),
            (true, false) => wrong("certificate", "needs its private key; set key, too"),
            (false, true) => wrong("key", "needs its certificate; set certificate, too"),
            (true, true) if !url.reveal().starts_with("amqps:") => wrong(
                "certificate",
                "is for TLS, but the broker's URL begins with \"amqp:\"; write \"amqps:\" there",
            ),
            (true, true) => Ok(true),
        }
    }

    /// The certificate that RabbitMQ is shown, with its chain and its key: `None` also for one that
    /// cannot be used, which the login tells.
    pub(crate) async fn certificate_to_show(
        &self,
    ) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        if !is_set(&self.certificate) || !is_set(&self.key) {
            return None;
        }
        let certificate = Certificate::load(&self.certificate, &self.key).await;
        Some(certificate.ok()?.parts())
    }

    /// Whether the files that the account is in can be used. No command is run.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub fn check_files(&self) -> Checked {
        if is_set(&self.certificate) && is_set(&self.key) {
            Certificate::read(&self.certificate, &self.key)?;
        }
        let in_key = |key: &'static str| move |fault: String| (key, fault);
        if is_set(&self.password_file) {
            let text = source::read_file(&self.password_file).map_err(in_key("password_file"))?;
            source::password(&text).map_err(in_key("password_file"))?;
        }
        if is_set(&self.token_file) {
            let text = source::read_file(&self.token_file).map_err(in_key("token_file"))?;
            Token::read(&text).map_err(in_key("token_file"))?;
        }
        Ok(())
    }
}

pub(super) fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(url: &str, keys: &str) -> Config {
        toml::from_str(&format!("url = {url:?}\n{keys}")).unwrap()
    }

    fn account(url: &str, keys: &str) -> Result<Account, Fault> {
        let config = config(url, keys);
        config.check()?;
        let Some(super::super::Url::Amqp(url)) = &config.url else {
            panic!("{url}")
        };
        config.account(url)
    }

    #[test]
    fn the_account_is_in_the_url_or_beside_it() {
        let path = PathBuf::from("/run/secret");
        let certificate = "certificate = \"c.pem\"\nkey = \"k.pem\"";
        for (url, keys, is) in [
            ("amqp://u:p@host", "", Account::Url),
            ("amqps://u:p@host", certificate, Account::Url),
            (
                "amqp://u@host",
                "password_file = \"/run/secret\"",
                Account::PasswordFile(path.clone()),
            ),
            (
                "amqp://host/app",
                "token_file = \"/run/secret\"",
                Account::TokenFile(path.clone()),
            ),
            (
                "amqp://u@host",
                "token_command = [\"vault\", \"read\"]",
                Account::TokenCommand(["vault".to_owned(), "read".to_owned()].into()),
            ),
            ("amqps://host", certificate, Account::Certificate),
        ] {
            assert_eq!(account(url, keys), Ok(is), "{url} {keys}");
        }
    }

    #[test]
    fn keys_that_contradict_each_other_are_named() {
        let certificate = "certificate = \"c.pem\"\nkey = \"k.pem\"";
        for (url, keys, key, says) in [
            ("amqp://host", "", "url", "names no account"),
            ("amqp://u@host", "", "url", "password_file"),
            ("amqp://:s3cret@host", "", "url", "names no account"),
            ("amqps://u@host", certificate, "url", "names no account"),
            (
                "amqp://host",
                "password_file = \"p\"",
                "password_file",
                "names no user",
            ),
            (
                "amqp://u:s3cret@host",
                "password_file = \"p\"",
                "password_file",
                "a password in",
            ),
            (
                "amqp://u:s3cret@host",
                "token_file = \"p\"",
                "token_file",
                "a password in",
            ),
            (
                "amqp://u@host",
                "password_file = \"p\"\ntoken_file = \"t\"",
                "token_file",
                "password_file, too",
            ),
            (
                "amqp://host",
                "token_command = [\"\"]",
                "token_command",
                "empty text",
            ),
            ("amqp://host", certificate, "certificate", "amqps:"),
            (
                "amqps://host",
                "certificate = \"c.pem\"",
                "certificate",
                "set key",
            ),
            ("amqps://host", "key = \"k.pem\"", "key", "set certificate"),
            ("embedded:", "token_file = \"t\"", "token_file", "embedded:"),
            (
                "amqp://host",
                "token_file = \"t\"\ntoken_refresh = \"1ms\"",
                "token_refresh",
                "1s",
            ),
        ] {
            let (at, message) = config(url, keys).check().unwrap_err();
            assert_eq!(at, key, "{url} {keys}: {message}");
            assert!(message.contains(says), "{url} {keys}: {message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        let urls = "urls = [\"amqp://host\"]";
        let config: Config = toml::from_str(urls).unwrap();
        assert_eq!(config.check().unwrap_err().0, "urls");
    }

    #[test]
    fn files_are_looked_at_before_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let check = |key: &str| {
            let keys = format!("{key} = {:?}", file.display().to_string());
            config("amqp://u@host", &keys).check_files()
        };
        for key in ["password_file", "token_file"] {
            let _ = fs::remove_file(&file);
            let (at, message) = check(key).unwrap_err();
            assert_eq!(at, key);
            assert!(message.contains("No such file"), "{message}");
            fs::write(&file, "\n").unwrap();
            assert!(check(key).unwrap_err().1.contains("is empty"));
            fs::write(&file, "s3cret\n").unwrap();
            assert_eq!(check(key), Ok(()));
        }
    }
}
