//! RabbitMQ's scopes, as its OAuth 2 plug-in has them (pure):
//! `<server>.<permission>:<vhost>/<name>[/<key>]`, with `*` for any text, and `<server>.tag:<tag>`.
//!
//! `<permission>` is `read`, `write` or `configure`; each part is percent-encoded. A scope of two
//! parts says nothing of keys: for topic exchanges, of which alone RabbitMQ asks that, it grants
//! none.

use percent_encoding::percent_decode_str;

use super::grants::Keyless;
use crate::auth::{Access, Permission, ResourceKind};

/// What a scope lets its user do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    permission: Permission,
    vhost: Glob,
    name: Glob,
    key: Option<Glob>,
}

/// The texts between the `*` of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Box<[Box<str>]>);

/// The scopes that concern this server, and the tags among them.
pub(super) fn read<'a>(
    server: &str,
    texts: impl IntoIterator<Item = &'a str>,
) -> (Vec<Scope>, Vec<&'a str>) {
    let (mut scopes, mut tags) = (Vec::new(), Vec::new());
    for text in texts {
        let own = text.strip_prefix(server);
        let Some(own) = own.and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        match own.strip_prefix("tag:") {
            Some(tag) if !tag.is_empty() && !tag.contains(char::is_whitespace) => tags.push(tag),
            _ => scopes.extend(Scope::parse(own)),
        }
    }
    (scopes, tags)
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        let (permission, resource) = text.split_once(':')?;
        let permission = match permission {
            "read" => Permission::Read,
            "write" => Permission::Write,
            "configure" => Permission::Configure,
            _ => return None,
        };
        let mut parts = resource.split('/');
        let (vhost, name, key) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() {
            return None;
        }
        let key = match key {
            Some(key) => Some(Glob::parse(key)?),
            None => None,
        };
        Some(Self {
            permission,
            vhost: Glob::parse(vhost)?,
            name: Glob::parse(name)?,
            key,
        })
    }

    /// Whether it is about something in this virtual host, which its user may enter then.
    pub(super) fn is_in(&self, vhost: &str) -> bool {
        self.vhost.matches(vhost)
    }

    /// Whether it is about that exchange. The default one has a name for those who ask about it.
    fn is_of(&self, exchange: &str) -> bool {
        self.name.matches(match exchange {
            "" => "amq.default",
            name => name,
        })
    }

    /// Whether it grants to write to the exchange by whatever key.
    pub(super) fn grants_any_key(&self, vhost: &str, exchange: &str, keyless: &Keyless) -> bool {
        let is_any = match &self.key {
            Some(key) => key.is_any(),
            None => keyless.has(exchange),
        };
        self.permission == Permission::Write && self.is_in(vhost) && self.is_of(exchange) && is_any
    }

    pub(super) fn allows(&self, access: &Access, keyless: &Keyless) -> bool {
        match access {
            Access::Vhost { vhost, .. } => self.is_in(vhost),
            Access::Resource {
                vhost,
                kind,
                name,
                permission,
            } => {
                let is_it = match kind {
                    ResourceKind::Exchange => self.is_of(name),
                    ResourceKind::Queue => self.name.matches(name),
                };
                *permission == self.permission && self.is_in(vhost) && is_it
            }
            Access::Topic {
                vhost,
                exchange: name,
                permission,
                routing_key,
            } => {
                let is_key = match &self.key {
                    Some(key) => key.matches(routing_key),
                    None => keyless.has(name),
                };
                *permission == self.permission && self.is_in(vhost) && self.is_of(name) && is_key
            }
        }
    }
}

impl Glob {
    fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| {
            let decoded = percent_decode_str(part).decode_utf8().ok()?;
            Some(Box::from(&*decoded))
        };
        text.split('*').map(part).collect::<Option<_>>().map(Self)
    }

    /// Whether it matches whatever text.
    fn is_any(&self) -> bool {
        self.0.len() > 1 && self.0.iter().all(|part| part.is_empty())
    }

    fn matches(&self, text: &str) -> bool {
        let [first, between @ ..] = &*self.0 else {
            return false;
        };
        let Some((last, between)) = between.split_last() else {
            return **first == *text;
        };
        let inner = text.strip_prefix(&**first);
        let Some(mut inner) = inner.and_then(|text| text.strip_suffix(&**last)) else {
            return false;
        };
        // The first place that fits leaves most to the others.
        for part in between {
            let Some((_, rest)) = inner.split_once(&**part) else {
                return false;
            };
            inner = rest;
        }
        true
    }
}
