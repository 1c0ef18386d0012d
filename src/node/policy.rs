//! How often a user may be logged in (pure): the `[sessions]` section, and what it decides.

use serde::Deserialize;

use crate::{
    presence::{Device, SessionInfo},
    units::Checked,
};

/// How often a user may be logged in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginPolicy {
    /// What happens to a login of a user who is logged in already.
    pub repeated_login: Repeated,
    /// Which of the user's sessions count for that.
    pub same: Same,
    /// Sessions of a user at a time; zero: any number.
    pub max_per_user: usize,
    /// What happens to a login while nobody can say who is logged in.
    pub unknown: Unknown,
}

/// What happens to a login of a user who is logged in already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeated {
    /// Both stay.
    #[default]
    Allow,
    /// The new one is refused.
    Reject,
    /// The old one ends.
    Replace,
}

/// Which of a user's sessions count as a repetition of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Same {
    /// All.
    #[default]
    User,
    /// Those whose CONNECT had the same `device-type`, or none.
    DeviceType,
    /// Those whose CONNECT had the same `device-id`, or none.
    DeviceId,
}

/// What happens to a login while presence cannot say who is logged in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It is let in.
    #[default]
    Allow,
    /// It is refused.
    Reject,
}

/// What is to be done about a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is let in, and the sessions of these ids end.
    Admit(Vec<Box<str>>),
    /// It is refused; why, in words for the client.
    Reject(String),
}

impl LoginPolicy {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        let is_allowed = self.repeated_login == Repeated::Allow;
        if is_allowed && self.same != Same::User {
            let message = "has no effect while repeated_login is \"allow\"; write \"reject\" or \
                           \"replace\" there, or leave this out";
            return Err(("same", message.to_owned()));
        }
        if self.same == Same::User && !is_allowed && self.max_per_user > 1 {
            let message = "has no effect, for repeated_login leaves one session of a user; leave \
                           this out, or set same = \"device_type\" or \"device_id\"";
            return Err(("max_per_user", message.to_owned()));
        }
        Ok(())
    }

    /// Whether a login has to know of others.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.repeated_login != Repeated::Allow || self.max_per_user > 0
    }

    /// So many sessions a user may have when another one logs in and takes the place of one; 0: none
    /// takes another's place.
    #[must_use]
    pub fn replaces_among(&self) -> usize {
        match self.repeated_login {
            Repeated::Allow | Repeated::Reject => 0,
            Repeated::Replace => self.max_per_user.max(1),
        }
    }

    /// What to do about a login of `user` on `device`, of whom `others` are logged in already, the
    /// oldest first.
    #[must_use]
    pub fn decide(&self, user: &str, device: Option<&Device>, others: &[SessionInfo]) -> Decision {
        let is_same = |other: &&SessionInfo| self.is_same(device, other.device.as_deref());
        let mut ending: Vec<&SessionInfo> = Vec::new();
        match self.repeated_login {
            Repeated::Allow => {}
            Repeated::Replace => ending.extend(others.iter().filter(is_same)),
            Repeated::Reject if others.iter().any(|other| is_same(&other)) => {
                let on = match self.same {
                    Same::User => "",
                    Same::DeviceType => " on a device of this type",
                    Same::DeviceId => " on this device",
                };
                return Decision::Reject(format!("User '{user}' is logged in already{on}"));
            }
            Repeated::Reject => {}
        }
        if self.max_per_user > 0 {
            let staying = others.len().saturating_sub(ending.len());
            let too_many = staying.saturating_add(1).saturating_sub(self.max_per_user);
            if too_many > 0 && self.repeated_login != Repeated::Replace {
                return Decision::Reject(format!(
                    "User '{user}' is logged in {} times, as often as is allowed",
                    others.len()
                ));
            }
            let oldest = others.iter().filter(|other| !is_same(other));
            ending.extend(oldest.take(too_many));
        }
        Decision::Admit(ending.iter().map(|other| other.id.clone()).collect())
    }

    fn is_same(&self, one: Option<&Device>, other: Option<&Device>) -> bool {
        let kind = |device: Option<&Device>| device.and_then(|device| device.kind.clone());
        let id = |device: Option<&Device>| device.and_then(|device| device.id.clone());
        match self.same {
            Same::User => true,
            Same::DeviceType => kind(one) == kind(other),
            Same::DeviceId => id(one) == id(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::presence::PresenceEntry;

    /// `kind/id`, each of which may be empty.
    fn device(text: &str) -> Option<Box<Device>> {
        let (kind, id) = text.split_once('/')?;
        let part = |text: &str| (!text.is_empty()).then(|| text.into());
        Some(Box::new(Device {
            kind: part(kind),
            id: part(id),
        }))
    }

    /// The sessions 0, 1, … of these devices.
    fn others(devices: &[&str]) -> Vec<SessionInfo> {
        let sessions = devices.iter().enumerate().map(|(number, text)| {
            let id = number.to_string();
            let mut session = PresenceEntry::new("alice".into(), &id, "tcp", Vec::new());
            session.device = device(text);
            Arc::new(session).info("n")
        });
        sessions.collect()
    }

    fn decide(config: &str, me: &str, devices: &[&str]) -> Result<String, String> {
        let config: LoginPolicy = toml::from_str(config).unwrap();
        assert_eq!(config.check(), Ok(()));
        match config.decide("alice", device(me).as_deref(), &others(devices)) {
            Decision::Admit(ending) => Ok(ending.join(" ")),
            Decision::Reject(why) => Err(why),
        }
    }

    #[test]
    fn by_default_all_are_let_in() {
        assert!(!LoginPolicy::default().is_limited());
        assert_eq!(decide("", "", &["", "phone/1"]), Ok(String::new()));
    }

    #[test]
    fn the_new_one_is_refused() {
        let one = "repeated_login = \"reject\"";
        assert_eq!(decide(one, "", &[]), Ok(String::new()));
        let refused = decide(one, "phone/1", &["tablet/2"]).unwrap_err();
        assert_eq!(refused, "User 'alice' is logged in already");
        let by_type = "repeated_login = \"reject\"\nsame = \"device_type\"";
        assert!(decide(by_type, "phone/1", &["tablet/1", ""]).is_ok());
        assert!(decide(by_type, "phone/1", &["tablet/1", "phone/2"]).is_err());
        let by_id = "repeated_login = \"reject\"\nsame = \"device_id\"";
        assert!(decide(by_id, "phone/1", &["phone/2", "phone/"]).is_ok());
        assert!(decide(by_id, "phone/1", &["tablet/1"]).is_err());
    }

    #[test]
    fn the_old_ones_end() {
        let one = "repeated_login = \"replace\"";
        assert_eq!(decide(one, "", &["phone/1", ""]).unwrap(), "0 1");
        let by_type = "repeated_login = \"replace\"\nsame = \"device_type\"";
        let devices = ["tablet/1", "phone/2", "phone/3", ""];
        assert_eq!(decide(by_type, "phone/1", &devices).unwrap(), "1 2");
    }

    /// Otherwise a client could leave out the header, and be in any number of times.
    #[test]
    fn sessions_without_a_device_share_one() {
        for same in ["device_type", "device_id"] {
            let config = format!("repeated_login = \"reject\"\nsame = \"{same}\"");
            assert!(decide(&config, "", &["phone/1", ""]).is_err());
            assert!(decide(&config, "", &["phone/1", "/"]).is_err());
            assert!(decide(&config, "", &["phone/1"]).is_ok());
        }
    }

    #[test]
    fn there_are_not_more_than_allowed() {
        let two = "max_per_user = 2";
        assert_eq!(decide(two, "", &["phone/1"]), Ok(String::new()));
        let refused = decide(two, "", &["phone/1", ""]).unwrap_err();
        assert!(refused.contains("logged in 2 times"), "{refused}");
        let of_each_type = "max_per_user = 2\nsame = \"device_type\"\nrepeated_login = \"replace\"";
        let devices = ["tablet/1", "phone/2", "watch/3"];
        // The old phone, and of the others the oldest.
        assert_eq!(decide(of_each_type, "phone/1", &devices).unwrap(), "1 0");
        assert_eq!(decide(of_each_type, "phone/1", &devices[..2]).unwrap(), "1");
        let rejecting = "max_per_user = 2\nsame = \"device_type\"\nrepeated_login = \"reject\"";
        assert!(decide(rejecting, "phone/1", &["tablet/1", "watch/1"]).is_err());
    }

    #[test]
    fn what_has_no_effect_is_an_error() {
        for (text, key) in [
            ("same = \"device_id\"", "same"),
            (
                "repeated_login = \"reject\"\nmax_per_user = 3",
                "max_per_user",
            ),
        ] {
            let config: LoginPolicy = toml::from_str(text).unwrap();
            assert_eq!(config.check().unwrap_err().0, key);
        }
    }
}
