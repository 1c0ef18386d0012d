//! Values as they may be shown: without secrets.

use std::cmp::Reverse;

use toml::{Value, value::Array};
use url::Url;

use super::keys::Name;
use crate::secret_url::without_secrets;

/// Keys whose texts are secrets, whole. In all other texts only URLs hide theirs.
const SECRETS: &[Name] = &[
    ("auth", "default_passcode"),
    // Its arguments may be credentials.
    ("broker", "token_command"),
    ("auth.jwt", "secret"),
    ("redis", "sentinel_password"),
    ("webhooks", "secret"),
    ("telemetry.otlp", "headers"),
];

/// Scopes and tokens: of these texts a part is secret.
const TOKENS: Name = ("api", "tokens");

/// In the place of a secret.
const HIDDEN: &str = "***";

/// A value, in one line of TOML.
#[must_use]
pub(super) fn shown(name: Name, value: &Value) -> String {
    hide(name, value).to_string()
}

/// Whether each of its values is a secret, or has one in it, whatever it looks like.
#[must_use]
pub(super) fn is_secret(name: Name) -> bool {
    SECRETS.contains(&name) || name == TOKENS
}

/// A message without the texts of this value which it quotes, and in which a secret may be.
#[must_use]
pub(super) fn unquoted(message: String, name: Name, value: &Value) -> String {
    let mut texts = Vec::new();
    quotable(name, value, &mut texts);
    let mut secrets: Vec<&str> = texts.into_iter().filter(|text| hides(name, text)).collect();
    // A part may be quoted within the whole.
    secrets.sort_by_key(|text| Reverse(text.len()));
    secrets.into_iter().fold(message, |message, secret| {
        let message = message.replace(&format!("{secret:?}"), HIDDEN);
        message.replace(&format!("\"{secret}\""), HIDDEN)
    })
}

/// The texts of a value that a message may quote: each text, and of a variable also what is between
/// commas, and on either side of a `=`.
fn quotable<'a>(name: Name, value: &'a Value, texts: &mut Vec<&'a str>) {
    // A token's name may be shown. If a blank is in it, it may be scopes and a token, whose name was
    // forgotten.
    let is_no_name = |text: &&str| name != TOKENS || text.contains(char::is_whitespace);
    match value {
        Value::String(text) => {
            texts.push(text);
            for item in text.split(',').map(str::trim) {
                texts.push(item);
                if let Some((left, right)) = item.split_once('=') {
                    texts.extend(Some(left.trim()).filter(is_no_name));
                    texts.push(right.trim());
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|one| quotable(name, one, texts)),
        Value::Table(values) => {
            for (key, one) in values {
                texts.extend(Some(key.as_str()).filter(is_no_name));
                quotable(name, one, texts);
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// Whether a secret may be in the text. With an `@` it may be a URL that lacks its scheme.
fn hides(name: Name, text: &str) -> bool {
    let is_plain = || !text.contains('@') && without_passwords(text) == text;
    !text.is_empty() && (is_secret(name) || !is_plain())
}

fn hide(name: Name, value: &Value) -> Value {
    match value {
        Value::String(text) if text.is_empty() => value.clone(),
        Value::String(_) if SECRETS.contains(&name) => Value::from(HIDDEN),
        Value::String(text) if name == TOKENS => Value::from(scopes(text)),
        Value::String(text) => Value::from(without_passwords(text)),
        Value::Array(values) => {
            let values = values.iter().map(|value| hide(name, value));
            Value::Array(values.collect::<Array>())
        }
        Value::Table(values) => {
            let values = values.iter();
            let hidden = values.map(|(key, value)| (key.clone(), hide(name, value)));
            Value::Table(hidden.collect())
        }
        other => other.clone(),
    }
}

/// `SCOPES TOKEN`, without the token; of a variable, `NAME=SCOPES TOKEN,…`.
fn scopes(text: &str) -> String {
    let each = text
        .split(',')
        .map(|one| match one.trim().rsplit_once(' ') {
            Some((scopes, _)) => format!("{scopes} {HIDDEN}"),
            None => HIDDEN.to_owned(),
        });
    each.collect::<Vec<_>>().join(",")
}

/// URLs without users, passwords and queries; of a variable there may be several.
fn without_passwords(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    let urls = urls(text);
    // A text behind a query may be a part of it, however it looks.
    let mut others = urls.iter().rev().skip(1);
    let is_clear = !others.any(|url| url.contains(['?', '#']));
    let each: Result<Vec<_>, _> = urls.iter().map(|url| without_password(url)).collect();
    match each {
        Ok(each) if is_clear => each.join(","),
        Err(_) if !text.contains(['@', '?', '#']) => text.to_owned(),
        _ => HIDDEN.to_owned(),
    }
}

/// The URLs in a text with commas between: a comma that no URL follows is a part of the one before.
fn urls(text: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        match urls.last_mut() {
            Some(url) if !begins_as_url(part) => {
                url.push(',');
                url.push_str(part);
            }
            _ => urls.push(part.to_owned()),
        }
    }
    urls
}

fn begins_as_url(text: &str) -> bool {
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let scheme = text.trim_start().split_once("://");
    scheme.is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(is_scheme))
}

fn without_password(text: &str) -> Result<String, url::ParseError> {
    let url = Url::parse(text.trim())?;
    // A URL that hides nothing is shown as it was written.
    let is_plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    Ok(match is_plain {
        true => text.to_owned(),
        false => without_secrets(&url),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections;

    const SECRET: &str = "s3cret-s3cret-s3cret";

    #[test]
    fn no_secret_is_shown() {
        let url = format!("amqp://stentor:{SECRET}@rabbit:5672/app");
        let query = format!("http://hook/auth?key={SECRET}");
        let token = format!("admin {SECRET}");
        let table: Value = toml::from_str::<toml::Table>(&format!("ops = \"{token}\""))
            .unwrap()
            .into();
        for (name, value, expected) in [
            (
                ("broker", "url"),
                Value::from(&*url),
                "\"amqp://rabbit:5672/app\"",
            ),
            (
                ("broker", "urls"),
                Value::from(vec![&*url]),
                "[\"amqp://rabbit:5672/app\"]",
            ),
            (
                ("broker", "urls"),
                Value::from(format!("{url},{url}")),
                "\"amqp://rabbit:5672/app,amqp://rabbit:5672/app\"",
            ),
            (("auth", "hook"), Value::from(query), "\"http://hook/auth\""),
            (("auth.jwt", "secret"), Value::from(SECRET), "\"***\""),
            (("auth", "default_passcode"), Value::from(SECRET), "\"***\""),
            (("webhooks", "secret"), Value::from(SECRET), "\"***\""),
            (("api", "tokens"), table, "{ ops = \"admin ***\" }"),
            (
                ("api", "tokens"),
                Value::from(format!("a={token},b=read publish {SECRET}")),
                "\"a=admin ***,b=read publish ***\"",
            ),
            (("presence", "url"), Value::from("memory:"), "\"memory:\""),
            (
                ("broker", "url"),
                Value::from(format!("amqp://x:{SECRET}@[")),
                "\"***\"",
            ),
        ] {
            let shown = shown(name, &value);
            assert_eq!(shown, expected, "{name:?}");
            assert!(!shown.contains(SECRET), "{name:?} {shown}");
        }
    }

    /// A variable's list has commas between its URLs, and a password may have one within.
    #[test]
    fn a_comma_may_be_a_part_of_a_secret() {
        for (text, expected) in [
            ("amqp://stentor:Xy7,rest@rabbit", "amqp://rabbit"),
            ("amqp://st,entor@rabbit/app", "amqp://rabbit/app"),
            ("https://app/auth?key=aaa,bbb", "https://app/auth"),
            ("https://app/auth#aaa,bbb", "https://app/auth"),
            (
                "amqp://a:Xy7,rest@r1, amqp://a:Xy7,rest@r2",
                "amqp://r1,amqp://r2",
            ),
            // The second may be a part of the first one's query.
            ("https://app/auth?key=aaa,https://bbb", "***"),
            // No URL, as a library that reads a password with a slash says.
            ("amqp://stentor:Xy7/rest@rabbit", "***"),
            ("amqp://r1,amqp://stentor:Xy7/rest@r2", "***"),
            // Nothing is in these.
            (
                "https://a.example, https://*.b.example",
                "https://a.example, https://*.b.example",
            ),
            ("amqp://rabbit:port", "amqp://rabbit:port"),
        ] {
            let shown = shown(("presence", "url"), &Value::from(text));
            assert_eq!(shown, format!("\"{expected}\""), "{text}");
        }
    }

    /// A key that sounds like a secret is one, or is known to be none.
    #[test]
    fn keys_that_sound_like_secrets_are_looked_at() {
        let harmless = [
            ("tls", "key"),
            ("broker", "key"),
            ("broker", "password_file"),
            ("broker", "token_file"),
            ("broker", "token_refresh"),
            ("sequences", "max_keys"),
            ("redis", "key"),
            ("offline", "key"),
            ("auth.jwt", "secret_file"),
            ("auth.jwt", "public_keys"),
            ("limits", "max_key_words"),
            ("limits", "max_fast_key_words"),
            ("api", "tokens"),
            ("tail", "secret_headers"),
        ];
        for (section, keys) in sections() {
            for key in keys {
                let is_suspect = ["secret", "pass", "token", "key"]
                    .iter()
                    .any(|word| key.contains(word));
                let name = (section, *key);
                assert!(
                    !is_suspect || SECRETS.contains(&name) || harmless.contains(&name),
                    "is [{section}] {key} a secret? {key} is in neither list"
                );
            }
        }
    }
}
