//! The users file.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{
    PasswordHash,
    rules::{Account, Rules, RulesError},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    users: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    hash: Option<String>,
    #[serde(default)]
    certificate: bool,
    #[serde(default)]
    tags: Vec<String>,
    vhosts: Option<Vec<String>>,
    read: Option<Vec<String>>,
    write: Option<Vec<String>>,
    configure: Option<Vec<String>>,
    #[serde(default)]
    groups: Vec<String>,
}

impl Rules {
    /// Reads a users file: TOML, a table a user.
    ///
    /// ```toml
    /// [users.alice]
    /// hash = "$argon2id$v=19$m=19456,t=2,p=1$…"  # made by `auth-hook hash`
    /// tags = ["customer"]                        # none if left out
    /// vhosts = ["/"]                             # this if left out
    /// read = ["/exchange/feed/user_{username}"]  # see `Grant`
    /// write = ["/exchange/chat/room.*"]
    /// configure = []
    /// groups = ["project-7"]                     # for presence; none if left out
    ///
    /// [users."CN=till-7,O=Example"]
    /// certificate = true                         # by a client certificate; false if left out
    /// ```
    ///
    /// With `certificate` a user call without a password is answered `allow`: a gateway asks so
    /// after it has verified the user's certificate itself. Without `certificate`, never.
    ///
    /// A user without `read`, `write` and `configure` may read its own feed
    /// ([`super::OWN_FEED`]) and nothing else; if one is given, the others are empty.
    ///
    /// # Errors
    /// [`RulesError`]: the place and the fault. Of the file it shows only names of users and
    /// grants.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: File = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        let mut accounts = Vec::with_capacity(file.users.len());
        for (name, entry) in file.users {
            accounts.push(account(&name, entry)?);
        }
        Rules::new(accounts)
    }

    /// Reads a users file, as [`Rules::parse`] does. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// [`RulesError`], that of a file which cannot be read too.
    pub fn load(path: &Path) -> Result<Self, RulesError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }
}

fn account(name: &str, entry: Entry) -> Result<Account, RulesError> {
    let hash = entry
        .hash
        .as_deref()
        .map(PasswordHash::parse)
        .transpose()
        .map_err(|problem| RulesError::Hash {
            user: name.into(),
            problem,
        })?;
    let account = match (hash, entry.certificate) {
        (Some(hash), false) => Account::new(name, hash),
        (Some(hash), true) => Account::new(name, hash).or_certified(),
        (None, true) => Account::certified(name),
        (None, false) => return Err(RulesError::NoLogin(name.into())),
    };
    let mut account = account
        .tags(entry.tags.iter().map(String::as_str))
        .groups(entry.groups.iter().map(String::as_str));
    if let Some(vhosts) = entry.vhosts {
        account = account.vhosts(vhosts.iter().map(String::as_str));
    }
    let wrong = |problem| RulesError::UsersGrant {
        user: name.into(),
        problem,
    };
    if let Some(grants) = entry.read {
        account = account
            .read(grants.iter().map(String::as_str))
            .map_err(wrong)?;
    }
    if let Some(grants) = entry.write {
        account = account
            .write(grants.iter().map(String::as_str))
            .map_err(wrong)?;
    }
    if let Some(grants) = entry.configure {
        account = account
            .configure(grants.iter().map(String::as_str))
            .map_err(wrong)?;
    }
    Ok(account)
}

/// The fault of the text, without the text: the parser's own message quotes the line, or the
/// value, and that may be a password in the wrong place.
fn syntax(text: &str, error: &toml::de::Error) -> RulesError {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    let message = match error.message() {
        m if m.starts_with("invalid ") && m.contains(", expected ") => {
            let expected = m
                .rsplit_once(", expected ")
                .map_or("something else", |(_, e)| e);
            format!("a value of the wrong kind; expected {expected}")
        }
        m => m.replace('\n', "; "),
    };
    RulesError::Syntax {
        line: before.matches('\n').count() + 1,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Rules::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what_and_show_no_secret() {
        let wrong = error("[users.alice]\nhash = \"hunter2\"\n");
        assert!(
            wrong.contains("alice") && wrong.contains("auth-hook hash"),
            "{wrong}"
        );
        assert!(!wrong.contains("hunter2"), "{wrong}");

        let wrong = error("[users]\nalice = \"hunter2\"\n");
        assert!(
            wrong.contains("line 2") && !wrong.contains("hunter2"),
            "{wrong}"
        );

        let wrong = error("[users.alice]\nhash = \"hunter2\nread = []\n");
        assert!(
            wrong.contains("line 2") && !wrong.contains("hunter2"),
            "{wrong}"
        );

        let wrong = error("[users.alice]\nhash = \"x\"\nreads = []\n");
        assert!(
            wrong.contains("line 3") && wrong.contains("reads"),
            "{wrong}"
        );

        let hash = PasswordHash::weak("x").unwrap().to_text();
        let wrong = error(&format!(
            "[users.alice]\nhash = \"{hash}\"\nread = [\"feed\"]\n"
        ));
        assert!(
            wrong.contains("alice") && wrong.contains("`feed`"),
            "{wrong}"
        );

        let wrong = error(&format!("[users.\"a#\"]\nhash = \"{hash}\"\n"));
        assert!(wrong.contains("impossible"), "{wrong}");
    }

    #[test]
    fn a_user_logs_in_somehow() {
        let wrong = error("[users.alice]\nread = []\n");
        assert!(
            wrong.contains("alice") && wrong.contains("certificate = true"),
            "{wrong}"
        );
        let hash = PasswordHash::weak("x").unwrap().to_text();
        let rules = Rules::parse(&format!(
            "[users.alice]\nhash = \"{hash}\"\n\
             [users.bob]\nhash = \"{hash}\"\ncertificate = true\ntags = [\"t\"]\n\
             [users.\"CN=till-7,O=Example\"]\ncertificate = true\n"
        ))
        .unwrap();
        assert_eq!(rules.certified("alice"), None);
        assert_eq!(rules.certified("eve"), None);
        assert_eq!(rules.certified("bob").as_deref(), Some("t"));
        assert_eq!(rules.certified("CN=till-7,O=Example").as_deref(), Some(""));
        let by_password = |user| rules.login(user).unwrap().tags.is_some();
        assert!(by_password("bob") && !by_password("CN=till-7,O=Example"));
    }

    #[test]
    fn groups_are_optional() {
        let hash = PasswordHash::weak("x").unwrap().to_text();
        let rules = Rules::parse(&format!(
            "[users.alice]\nhash = \"{hash}\"\ngroups = [\"p 1\", \"p2\"]\n\
             [users.bob]\nhash = \"{hash}\"\n"
        ))
        .unwrap();
        assert_eq!(rules.groups("alice"), ["p 1".into(), "p2".into()]);
        assert!(rules.groups("bob").is_empty() && rules.groups("eve").is_empty());
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let hash = PasswordHash::weak("x").unwrap().to_text();
        let rules = Rules::parse(&format!("[users.alice]\nhash = \"{hash}\"\nwrite = []\n"));
        let question = crate::Question::parse(
            crate::Call::Topic,
            b"username=alice&vhost=/&resource=topic&name=feed&permission=read\
              &routing_key=user_alice",
        );
        let answer = rules.unwrap().answer(&question.unwrap());
        assert!(matches!(answer, crate::Answer::Deny { .. }), "{answer}");
    }
}
