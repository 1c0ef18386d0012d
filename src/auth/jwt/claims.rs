//! From the claims of a token to its user, rights and end (pure). The signature is right already.

use std::{fmt, sync::Arc, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    JwtConfig,
    config::Rights,
    grants::{Granted, Grants, Keyless, Target},
    scopes,
    templates::{self, MAX_TARGETS, Template},
};
use crate::auth::{Admission, DeviceId, Login, Source, User};

/// The claims of a token. No name is there twice, at any depth: two readers could take different
/// ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Claims(Map<String, Value>);

/// What claims must say, and what they come to.
#[derive(Debug)]
pub(super) struct Rules {
    config: JwtConfig,
    vhosts: Box<[Box<str>]>,
    subscribe: Vec<Template>,
    send: Vec<Template>,
    /// The exchange of `/topic/…`.
    topics: Box<str>,
    keyless: Arc<Keyless>,
}

/// What the rest of the configuration says of destinations.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The virtual host of clients that name none.
    pub default_vhost: &'a str,
    /// The exchange of `/topic/…`.
    pub topics: &'a str,
    /// Exchanges that are no topic exchanges.
    pub keyless: Keyless,
}

/// Why a token does not count. The texts are for the log: they say nothing that is in the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    NotYet,
    Expired,
    NoExpiry,
    Time,
    Issuer,
    Audience,
    NoUser,
    OtherUser,
    Device,
    TooManyRights,
}

impl Unfit {
    /// For the metric.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NotYet => "not yet valid",
            Self::Expired => "expired",
            Self::NoExpiry => "no expiry",
            Self::Time => "malformed",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoUser => "no user",
            Self::OtherUser => "other user",
            Self::Device => "device",
            Self::TooManyRights => "too many rights",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotYet => "the token is not valid yet (nbf)",
            Self::Expired => "the token has ended (exp)",
            Self::NoExpiry => "the token does not say when it ends (exp)",
            Self::Time => "a time in the token is no number",
            Self::Issuer => "the token is of another issuer (iss)",
            Self::Audience => "the token is for others (aud)",
            Self::NoUser => "the token names no user, or one that cannot be",
            Self::OtherUser => "the client named another user than its token",
            Self::Device => "the token names a device that cannot be: its id has 1 to 128 bytes",
            Self::TooManyRights => "the token comes to too many destinations",
        })
    }
}

impl Rules {
    /// What the configuration says, which has to be sound.
    pub(super) fn new(config: &JwtConfig, surroundings: Surroundings<'_>) -> Self {
        let Surroundings {
            default_vhost,
            topics,
            keyless,
        } = surroundings;
        let read = |templates: &[String]| {
            let templates = templates.iter();
            templates
                .filter_map(|template| Template::parse(template, topics).ok())
                .collect()
        };
        let vhosts = match &config.vhosts[..] {
            [] => [default_vhost.into()].into(),
            vhosts => vhosts.iter().map(|vhost| Box::from(&**vhost)).collect(),
        };
        Self {
            vhosts,
            subscribe: read(&config.subscribe),
            send: read(&config.send),
            topics: topics.into(),
            keyless: Arc::new(keyless),
            config: config.clone(),
        }
    }

    /// Whether these claims are for this gateway and this login, and what they come to. `now` is
    /// the time since 1970.
    pub(super) fn judge(
        &self,
        claims: &Claims,
        login: &Login,
        now: Duration,
    ) -> Result<Admission, Unfit> {
        let config = &self.config;
        let lifetime = self.lifetime(claims, now)?;
        let is_one_of = |name, wanted: &[String]| {
            let said = claims.texts(name);
            said.iter().any(|said| wanted.contains(said))
        };
        if !config.issuers.is_empty() && !is_one_of("iss", &config.issuers) {
            return Err(Unfit::Issuer);
        }
        if !config.any_audience && !is_one_of("aud", &config.audiences) {
            return Err(Unfit::Audience);
        }
        let name = claims.text(&config.user_claim);
        let name = name
            .filter(|name| User::is_name(name))
            .ok_or(Unfit::NoUser)?;
        if !login.user.is_empty() && *login.user != *name {
            return Err(Unfit::OtherUser);
        }
        let device = match &*config.device_claim {
            "" => DeviceId::Said,
            claim => DeviceId::Bound(claims.device(claim)?),
        };
        let (granted, tags) = self.grant(claims)?;
        let grants = Grants::new(granted);
        Ok(Admission {
            user: User {
                name: name.into(),
                tags: tags.into(),
                source: Some(Arc::new(Source::Token(grants))),
            },
            lifetime,
            device,
        })
    }

    /// How long the token still counts.
    fn lifetime(&self, claims: &Claims, now: Duration) -> Result<Option<Duration>, Unfit> {
        let leeway = self.config.leeway;
        if let Some(from) = claims.time("nbf")?
            && from > now.saturating_add(leeway)
        {
            return Err(Unfit::NotYet);
        }
        let Some(end) = claims.time("exp")? else {
            return match self.config.require_expiry {
                true => Err(Unfit::NoExpiry),
                false => Ok(None),
            };
        };
        let left = end.saturating_add(leeway).saturating_sub(now);
        match left.is_zero() {
            true => Err(Unfit::Expired),
            false => Ok(Some(left)),
        }
    }

    /// The rights, and the tags for the hook.
    fn grant(&self, claims: &Claims) -> Result<(Granted, String), Unfit> {
        let config = &self.config;
        let groups = match &*config.groups_claim {
            "" => None,
            claim => {
                let mut groups: Vec<Arc<str>> = Vec::new();
                for group in claims.texts(claim) {
                    if !groups.iter().any(|known| **known == *group) {
                        groups.push(group.into());
                    }
                }
                Some(groups)
            }
        };
        let named = match &*config.vhosts_claim {
            "" => None,
            claim => {
                let vhosts = claims.texts(claim).into_iter();
                Some(vhosts.map(Box::from).collect())
            }
        };
        if config.rights == Rights::Hook {
            let granted = Granted {
                vhosts: named,
                groups,
                ..Granted::default()
            };
            return Ok((granted, String::new()));
        }
        let words = claims.words(&config.scope_claim);
        let (scopes, tags) = match &*config.resource_server_id {
            "" => Default::default(),
            server => scopes::read(server, words.iter().map(String::as_str)),
        };
        if scopes.len() > MAX_TARGETS {
            return Err(Unfit::TooManyRights);
        }
        let granted = Granted {
            decide: true,
            vhosts: Some(named.unwrap_or_else(|| self.vhosts.clone())),
            subscribe: self.targets(&self.subscribe, &config.subscribe_claim, claims)?,
            send: self.targets(&self.send, &config.send_claim, claims)?,
            scopes: scopes.into(),
            keyless: Arc::clone(&self.keyless),
            groups,
        };
        Ok((granted, tags.join(" ")))
    }

    fn targets(
        &self,
        templates: &[Template],
        claim: &str,
        claims: &Claims,
    ) -> Result<Box<[Target]>, Unfit> {
        let mut targets: Vec<Target> = Vec::new();
        for template in templates {
            targets.extend(template.expand(claims));
            if targets.len() > MAX_TARGETS {
                return Err(Unfit::TooManyRights);
            }
        }
        if !claim.is_empty() {
            let texts = claims.texts(claim);
            let read = texts.iter();
            targets.extend(read.filter_map(|text| templates::read(text, &self.topics).ok()));
        }
        match targets.len() > MAX_TARGETS {
            true => Err(Unfit::TooManyRights),
            false => Ok(targets.into()),
        }
    }
}

impl Claims {
    /// A claim: by its name, or else by a path with dots, such as `realm_access.roles`.
    fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut path = name.split('.');
        let first = self.0.get(path.next()?)?;
        path.try_fold(first, |value, name| value.as_object()?.get(name))
    }

    /// A claim that is one text.
    fn text(&self, name: &str) -> Option<String> {
        as_text(self.get(name)?)
    }

    /// A claim that names a device; one that is empty names none.
    fn device(&self, name: &str) -> Result<Option<Box<str>>, Unfit> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match as_text(value) {
                Some(id) if id.is_empty() => Ok(None),
                Some(id) if id.len() <= DeviceId::MAX => Ok(Some(id.into())),
                _ => Err(Unfit::Device),
            },
        }
    }

    /// A claim that is one text or a list of them.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::Array(values)) => values.iter().filter_map(as_text).collect(),
            Some(value) => as_text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A claim that is a list of words, or a text with blanks between them.
    fn words(&self, name: &str) -> Vec<String> {
        let texts = self.texts(name).into_iter();
        texts
            .flat_map(|text| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// A time since 1970, if there is that claim.
    fn time(&self, name: &str) -> Result<Option<Duration>, Unfit> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = match value.as_u64() {
            Some(whole) => Some(Duration::from_secs(whole)),
            // RFC 7519 allows fractions.
            None => value
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        };
        seconds.map(Some).ok_or(Unfit::Time)
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Unique::deserialize(deserializer)?.0 {
            Value::Object(claims) => Ok(Self(claims)),
            _ => Err(de::Error::custom("not an object")),
        }
    }
}

/// A value in which no name is there twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((name, Unique(value))) = map.next_entry::<String, Unique>()? {
            if values.insert(name, value).is_some() {
                return Err(de::Error::custom("a name is there twice"));
            }
        }
        Ok(Value::Object(values))
    }
}
