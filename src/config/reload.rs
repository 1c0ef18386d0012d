//! From the configuration in force and one that was read anew to the one that is in force next
//! (pure): keys that a reload can change are taken, all others stay and are named.

use super::{
    Check, Config, ConfigErrors, DEFAULT, File, Sources,
    classes::reloads,
    is_same,
    keys::Name,
    read::{Reader, Values},
    sections,
    shown::shown,
};

/// A configuration, and the values that it was made of.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The sources of its keys.
    pub sources: Sources,
    /// Its name in errors.
    pub(super) name: String,
    pub(super) values: Values,
}

/// A key that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its section, without brackets.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// The value in force, in TOML; `None`: it is not set, and has no default.
    pub old: Option<String>,
    /// The value of the new configuration; the same.
    pub new: Option<String>,
    /// Both are shown alike, for they differ in a secret.
    pub is_secret: bool,
}

/// A key, and its value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its section, without brackets.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// Its value, in TOML, without secrets; `None`: it is not set, and has no default.
    pub value: Option<String>,
    /// Where it was set; `None`: it is the default.
    pub source: Option<String>,
    /// Whether a reload can change it.
    pub reloads: bool,
}

/// The way from one configuration to the next.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In force after the reload.
    pub next: Loaded,
    /// Keys that the reload changes.
    pub changed: Vec<Change>,
    /// Keys that differ, and wait for a restart.
    pub waiting: Vec<Change>,
}

/// One that was made by the program.
impl From<Config> for Loaded {
    fn from(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }
}

impl Loaded {
    /// Takes from `new` all keys that a reload can change. Bounds that the system lowers are lowered in
    /// both already.
    ///
    /// # Errors
    /// Those keys contradict others that wait for a restart.
    pub fn replaced_by(&self, new: &Self) -> Result<Plan, ConfigErrors> {
        let defaults = defaults();
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        let mut values = Values::new();
        for (section, keys) in sections() {
            for key in keys {
                let name = (section, *key);
                let (old, next) = (self.values.get(&name), new.values.get(&name));
                let taken = if reloads(name) { next } else { old };
                if let Some(taken) = taken {
                    values.insert(name, taken.clone());
                }
                let is_same = match (bound(name, &self.config), bound(name, &new.config)) {
                    (Some(old), Some(next)) => old == next,
                    _ => is_same(name, old, next),
                };
                if is_same {
                    continue;
                }
                let (old, next) = (self.text(name, &defaults), new.text(name, &defaults));
                let change = Change {
                    section,
                    key,
                    is_secret: old == next,
                    old,
                    new: next,
                };
                match reloads(name) {
                    true => changed.push(change),
                    false => waiting.push(change),
                }
            }
        }
        let sections = sections();
        let file = File {
            name: &new.name,
            text: "",
        };
        let mut next = Config::checked(Reader::of(&sections, file, values), Check::Whole)?;
        let (listen, counting) = (&mut next.config.listen, &new.config.listen);
        listen.max_connections = counting.max_connections;
        listen.max_unauthenticated = counting.max_unauthenticated;
        Ok(Plan {
            next,
            changed,
            waiting,
        })
    }

    /// All keys, with their values in force.
    #[must_use]
    pub fn in_force(&self) -> Vec<InForce> {
        let defaults = defaults();
        let mut all = Vec::new();
        for (section, keys) in sections() {
            for key in keys {
                let name = (section, *key);
                let source = self.values.get(&name).map(|(place, _)| place.to_string());
                all.push(InForce {
                    section,
                    key,
                    value: self.text(name, &defaults),
                    source,
                    reloads: reloads(name),
                });
            }
        }
        all
    }

    /// A value as it may be shown: a bound as it counts, else the value that is set, or the default.
    fn text(&self, name: Name, defaults: &Values) -> Option<String> {
        if let Some(bound) = bound(name, &self.config) {
            return Some(bound.to_string());
        }
        let (_, value) = self.values.get(&name).or_else(|| defaults.get(&name))?;
        Some(shown(name, &value.to_toml()))
    }
}

impl Plan {
    /// Whether a key of the section is changed.
    #[must_use]
    pub fn changes(&self, section: &str) -> bool {
        self.changed.iter().any(|change| change.section == section)
    }
}

/// A bound that the system may have lowered since it was read, in the configuration alone: what counts
/// is there, and not the value that was set.
fn bound(name: Name, config: &Config) -> Option<usize> {
    match name {
        ("listen", "max_connections") => Some(config.listen.max_connections),
        ("listen", "max_unauthenticated") => Some(config.listen.max_unauthenticated),
        _ => None,
    }
}

fn defaults() -> Values {
    let sections = sections();
    let file = File {
        name: "",
        text: DEFAULT,
    };
    Reader::new(&sections, Some(file)).into_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: &str = "[broker]\nurl = \"embedded:\"\n[auth]\nhook = \"http://hook/auth\"\n";

    fn loaded(text: &str) -> Loaded {
        let text = format!("{NEEDED}{text}");
        let file = File {
            name: "stentor.toml",
            text: &text,
        };
        Config::load(Some(file), []).unwrap()
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let told = changes.iter().map(|change| {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".into());
            let (old, new) = (value(&change.old), value(&change.new));
            let secret = if change.is_secret { " secret" } else { "" };
            format!(
                "[{}] {}: {old} -> {new}{secret}",
                change.section, change.key
            )
        });
        told.collect()
    }

    #[test]
    fn keys_that_can_change_do_and_others_wait() {
        let old = loaded("username_header = \"a\"\n[limits]\nmax_subscriptions = 3\n");
        let new = loaded(
            "[limits]\nmax_subscriptions = 2\nlogin_timeout = \"10s\"\n[listen]\n\
             admin = \"127.0.0.1:1\"\norigins = [ \"https://a.example\" ]\n",
        );
        let plan = old.replaced_by(&new).unwrap();
        assert_eq!(
            told(&plan.changed),
            [
                "[listen] origins: [] -> [\"https://a.example\"]",
                "[auth] username_header: \"a\" -> unset",
                "[limits] max_subscriptions: 3 -> 2",
            ]
        );
        assert_eq!(
            told(&plan.waiting),
            ["[listen] admin: \"127.0.0.1:15680\" -> \"127.0.0.1:1\""]
        );
        let config = &plan.next.config;
        assert_eq!(config.limits.max_subscriptions, 2);
        assert_eq!(config.listen.admin, old.config.listen.admin);
        assert_eq!(config.listen.origins, new.config.listen.origins);
        assert_eq!(config.auth.username_header, None);
        assert!(plan.changes("limits") && !plan.changes("tls"));
        // The same file again changes nothing, and what waits goes on waiting.
        let again = plan.next.replaced_by(&new).unwrap();
        assert_eq!(told(&again.changed), [""; 0]);
        assert_eq!(again.waiting, plan.waiting);
        let back = plan.next.replaced_by(&old).unwrap();
        assert_eq!(back.next.config, old.config);
    }

    #[test]
    fn a_value_that_is_written_otherwise_is_no_change() {
        let old = loaded("[limits]\nmax_frame_size = \"1MiB\"\nlogin_timeout = \"10s\"\n");
        let new = loaded("[limits]\nmax_frame_size = 1048576\nlogin_timeout = \"10000ms\"\n");
        let plan = old.replaced_by(&new).unwrap();
        assert!(
            plan.changed.is_empty() && plan.waiting.is_empty(),
            "{plan:?}"
        );
    }

    #[test]
    fn a_secret_that_differs_is_told_and_not_shown() {
        let token =
            |token: &str| loaded(&format!("[api]\ntokens = {{ ops = \"admin {token}\" }}\n"));
        let (old, new) = (token("0123456789abcdef"), token("fedcba9876543210"));
        let plan = old.replaced_by(&new).unwrap();
        let told = told(&plan.changed);
        assert_eq!(
            told,
            ["[api] tokens: { ops = \"admin ***\" } -> { ops = \"admin ***\" } secret"]
        );
        let shown = format!("{:?} {:?} {:?}", plan, old, new.in_force());
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
        assert!(!shown.contains("fedcba9876543210"), "{shown}");
    }

    /// What is sound by itself may not go together with what stays until the restart.
    #[test]
    fn a_half_that_contradicts_the_other_is_refused() {
        let old = loaded("");
        let text = NEEDED.replace("[broker]\n", "[broker]\nmax_message_size = \"128MiB\"\n")
            + "[limits]\nmax_frame_size = \"17MiB\"\nmax_transaction_bytes = \"20MiB\"\n[mailbox]\nmax_bytes = \"20MiB\"\n";
        let file = File {
            name: "stentor.toml",
            text: &text,
        };
        let new = Config::load(Some(file), []).unwrap();
        let refused = old.replaced_by(&new).unwrap_err().to_string();
        assert!(refused.contains("[limits] max_frame_size"), "{refused}");
        assert!(refused.contains("[broker] max_message_size"), "{refused}");
    }

    /// The system has few files, so both bounds are lower than the file has them.
    #[test]
    fn a_bound_is_told_as_it_counts() {
        let lowered = |text: &str, connections, unauthenticated| {
            let mut loaded = loaded(text);
            loaded.config.listen.max_connections = connections;
            loaded.config.listen.max_unauthenticated = unauthenticated;
            loaded
        };
        let old = lowered("[listen]\nmax_connections = 100000\n", 19_402, 4_875);
        let all = old.in_force();
        let find = |key| {
            all.iter()
                .find(|one| (one.section, one.key) == ("listen", key))
        };
        let set = find("max_connections").unwrap();
        assert_eq!(set.value.as_deref(), Some("19402"));
        assert_eq!(set.source.as_deref(), Some("stentor.toml:6"));
        let default = find("max_unauthenticated").unwrap();
        assert_eq!(default.value.as_deref(), Some("4875"));
        assert_eq!(default.source, None);
        // Still more than there are files for.
        let as_many = lowered("[listen]\nmax_connections = 50000\n", 19_402, 4_875);
        let plan = old.replaced_by(&as_many).unwrap();
        assert_eq!(told(&plan.changed), [""; 0]);
        assert_eq!(plan.next.config, old.config);
        // Fewer clients leave files to those without a login.
        let fewer = lowered("[listen]\nmax_connections = 9000\n", 9_000, 10_000);
        let plan = plan.next.replaced_by(&fewer).unwrap();
        assert_eq!(
            told(&plan.changed),
            [
                "[listen] max_connections: 19402 -> 9000",
                "[listen] max_unauthenticated: 4875 -> 10000",
            ]
        );
        assert_eq!(plan.next.config, fewer.config);
    }

    #[test]
    fn every_key_has_its_value_and_its_source() {
        let loaded = loaded("[limits]\nmax_subscriptions = 3\n");
        let all = loaded.in_force();
        let find = |section, key| {
            let mut all = all.iter();
            all.find(|one| (one.section, one.key) == (section, key))
                .unwrap()
        };
        let set = find("limits", "max_subscriptions");
        assert_eq!(set.value.as_deref(), Some("3"));
        assert_eq!(set.source.as_deref(), Some("stentor.toml:6"));
        let default = find("limits", "max_transactions");
        assert_eq!(
            (default.value.as_deref(), &default.source),
            (Some("16"), &None)
        );
        assert_eq!(find("auth", "groups_path").value, None);
    }
}
