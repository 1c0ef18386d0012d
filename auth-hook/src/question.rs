//! The questions to a hook.

use std::{borrow::Cow, fmt, str::FromStr};

use form_urlencoded::Serializer;
use thiserror::Error;

/// The kinds of question; each has a path of its own at the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// Who presents these credentials?
    User,
    /// May the user enter a virtual host?
    Vhost,
    /// May the user use an exchange or a queue?
    Resource,
    /// May the user use a routing key of an exchange?
    Topic,
    /// Which groups is the user in? The gateway's own: RabbitMQ does not ask it.
    Groups,
}

impl Call {
    /// The calls that are answered by `allow` or `deny`, in the order in which a client meets
    /// them.
    pub const CHECKS: [Call; 4] = [Call::User, Call::Vhost, Call::Resource, Call::Topic];

    /// All calls.
    pub const ALL: [Call; 5] = [
        Call::User,
        Call::Vhost,
        Call::Resource,
        Call::Topic,
        Call::Groups,
    ];

    /// Its name, which is also the last part of its usual path: `user`, `vhost`, …
    pub const fn name(self) -> &'static str {
        match self {
            Call::User => "user",
            Call::Vhost => "vhost",
            Call::Resource => "resource",
            Call::Topic => "topic",
            Call::Groups => "groups",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kind of resource of a [`ResourceQuestion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
}

impl ResourceKind {
    /// As it stands in a call: `exchange` or `queue`.
    pub const fn name(self) -> &'static str {
        match self {
            ResourceKind::Exchange => "exchange",
            ResourceKind::Queue => "queue",
        }
    }
}

/// The use of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Declare or delete.
    Configure,
    /// Publish to, or bind a queue.
    Write,
    /// Consume, or bind to an exchange.
    Read,
}

impl Permission {
    /// As it stands in a call: `configure`, `write` or `read`.
    pub const fn name(self) -> &'static str {
        match self {
            Permission::Configure => "configure",
            Permission::Write => "write",
            Permission::Read => "read",
        }
    }
}

/// One question to a hook. Texts are borrowed where it is asked and owned where it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// Who presents these credentials?
    User(UserQuestion<'a>),
    /// May the user enter a virtual host?
    Vhost(VhostQuestion<'a>),
    /// May the user use an exchange or a queue?
    Resource(ResourceQuestion<'a>),
    /// May the user use a routing key of an exchange?
    Topic(TopicQuestion<'a>),
    /// Which groups is the user in?
    Groups(GroupsQuestion<'a>),
}

/// Who presents these credentials? Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct UserQuestion<'a> {
    /// `username`.
    pub username: Cow<'a, str>,
    /// `password`; left out where something else (a certificate) proved the user.
    pub password: Option<Cow<'a, str>>,
    /// `vhost`; a broker leaves it out for calls without one, such as of its management pages.
    pub vhost: Option<Cow<'a, str>>,
}

impl fmt::Debug for UserQuestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserQuestion")
            .field("username", &self.username)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

/// May the user enter a virtual host?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostQuestion<'a> {
    /// `username`.
    pub username: Cow<'a, str>,
    /// `vhost`.
    pub vhost: Cow<'a, str>,
    /// `ip`: where the client comes from; a broker may say `unknown`, or nothing.
    pub ip: Cow<'a, str>,
    /// `tags`: what the user call answered, separated by blanks.
    pub tags: Cow<'a, str>,
}

/// May the user use an exchange or a queue?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceQuestion<'a> {
    /// `username`.
    pub username: Cow<'a, str>,
    /// `vhost`.
    pub vhost: Cow<'a, str>,
    /// `resource`: `exchange` or `queue`.
    pub resource: ResourceKind,
    /// `name`; the default exchange is `amq.default` here.
    pub name: Cow<'a, str>,
    /// `permission`.
    pub permission: Permission,
    /// `tags`: what the user call answered, separated by blanks.
    pub tags: Cow<'a, str>,
}

/// May the user use a routing key of an exchange? In the call, `resource` is always `topic`,
/// and user and virtual host are repeated as `variable_map.username` and `variable_map.vhost`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicQuestion<'a> {
    /// `username`.
    pub username: Cow<'a, str>,
    /// `vhost`.
    pub vhost: Cow<'a, str>,
    /// `name`: the exchange; the default exchange is `amq.default` here.
    pub name: Cow<'a, str>,
    /// `permission`: `Write` or `Read`; a topic is never configured.
    pub permission: Permission,
    /// `tags`: what the user call answered, separated by blanks.
    pub tags: Cow<'a, str>,
    /// `routing_key`: the key, or the pattern that is bound.
    pub routing_key: Cow<'a, str>,
}

/// Which groups is the user in? Answered by a list: see [`crate::parse_groups`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupsQuestion<'a> {
    /// `username`.
    pub username: Cow<'a, str>,
    /// `tags`: what the user call answered, separated by blanks.
    pub tags: Cow<'a, str>,
}

/// The name of the default exchange in calls; its own name is empty.
const DEFAULT_EXCHANGE: &str = "amq.default";

impl<'a> Question<'a> {
    /// Which call carries it.
    pub fn call(&self) -> Call {
        match self {
            Question::User(_) => Call::User,
            Question::Vhost(_) => Call::Vhost,
            Question::Resource(_) => Call::Resource,
            Question::Topic(_) => Call::Topic,
            Question::Groups(_) => Call::Groups,
        }
    }

    /// The user that it is about.
    pub fn username(&self) -> &str {
        match self {
            Question::User(q) => &q.username,
            Question::Vhost(q) => &q.username,
            Question::Resource(q) => &q.username,
            Question::Topic(q) => &q.username,
            Question::Groups(q) => &q.username,
        }
    }

    /// The name of an exchange as calls speak of it.
    pub fn exchange_name(exchange: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(if exchange.is_empty() {
            DEFAULT_EXCHANGE
        } else {
            exchange
        })
    }

    /// Its parameters, `application/x-www-form-urlencoded`, in the contract's order: a query
    /// string or the body of a form. Holds the password of a user call; keep it out of logs.
    pub fn encode(&self) -> String {
        let mut form = Serializer::new(String::with_capacity(192));
        match self {
            Question::User(q) => {
                form.append_pair("username", &q.username);
                if let Some(password) = &q.password {
                    form.append_pair("password", password);
                }
                if let Some(vhost) = &q.vhost {
                    form.append_pair("vhost", vhost);
                }
            }
            Question::Vhost(q) => {
                form.append_pair("username", &q.username)
                    .append_pair("vhost", &q.vhost)
                    .append_pair("ip", &q.ip)
                    .append_pair("tags", &q.tags);
            }
            Question::Resource(q) => {
                form.append_pair("username", &q.username)
                    .append_pair("vhost", &q.vhost)
                    .append_pair("resource", q.resource.name())
                    .append_pair("name", &q.name)
                    .append_pair("permission", q.permission.name())
                    .append_pair("tags", &q.tags);
            }
            Question::Topic(q) => {
                form.append_pair("username", &q.username)
                    .append_pair("vhost", &q.vhost)
                    .append_pair("resource", "topic")
                    .append_pair("name", &q.name)
                    .append_pair("permission", q.permission.name())
                    .append_pair("tags", &q.tags)
                    .append_pair("routing_key", &q.routing_key)
                    .append_pair("variable_map.username", &q.username)
                    .append_pair("variable_map.vhost", &q.vhost);
            }
            Question::Groups(q) => {
                form.append_pair("username", &q.username)
                    .append_pair("tags", &q.tags);
            }
        }
        form.finish()
    }
}

impl Question<'static> {
    /// Reads the parameters of a call, from a query string or the body of a form.
    ///
    /// Unknown parameters are ignored: a caller may send more than the contract knows. `tags`,
    /// `ip` and `variable_map.*` may be missing: older brokers do not send them. The first
    /// counts if a parameter is given twice.
    ///
    /// # Errors
    /// [`QuestionError`]: a parameter that the answer needs is missing, or makes no sense.
    pub fn parse(call: Call, encoded: &[u8]) -> Result<Self, QuestionError> {
        let form = Form::parse(encoded);
        Ok(match call {
            Call::User => Question::User(UserQuestion {
                username: form.needed("username")?,
                password: form.optional("password"),
                vhost: form.optional("vhost"),
            }),
            Call::Vhost => Question::Vhost(VhostQuestion {
                username: form.needed("username")?,
                vhost: form.needed("vhost")?,
                ip: form.optional("ip").unwrap_or_default(),
                tags: form.optional("tags").unwrap_or_default(),
            }),
            Call::Resource => Question::Resource(ResourceQuestion {
                username: form.needed("username")?,
                vhost: form.needed("vhost")?,
                resource: form.word("resource")?,
                name: form.needed("name")?,
                permission: form.word("permission")?,
                tags: form.optional("tags").unwrap_or_default(),
            }),
            Call::Topic => {
                let _: Topic = form.word("resource")?;
                let permission = form.word("permission")?;
                if permission == Permission::Configure {
                    return Err(QuestionError::Senseless("permission"));
                }
                Question::Topic(TopicQuestion {
                    username: form.needed("username")?,
                    vhost: form.needed("vhost")?,
                    name: form.needed("name")?,
                    permission,
                    tags: form.optional("tags").unwrap_or_default(),
                    routing_key: form.needed("routing_key")?,
                })
            }
            Call::Groups => Question::Groups(GroupsQuestion {
                username: form.needed("username")?,
                tags: form.optional("tags").unwrap_or_default(),
            }),
        })
    }
}

/// Why a call is no question of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// A parameter is missing.
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    /// A parameter has a value that the contract does not know.
    #[error("the parameter {0} has none of the values that the contract knows")]
    Senseless(&'static str),
}

/// The decoded pairs of a call. A call has ten at most, so a list is searched fastest.
struct Form<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// More pairs than this are not looked at: no call of the contract has as many.
const MAX_PAIRS: usize = 64;

impl<'a> Form<'a> {
    fn parse(encoded: &'a [u8]) -> Self {
        Form(form_urlencoded::parse(encoded).take(MAX_PAIRS).collect())
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| &**value)
    }

    fn optional(&self, name: &str) -> Option<Cow<'static, str>> {
        self.find(name).map(|value| Cow::Owned(value.to_owned()))
    }

    fn needed(&self, name: &'static str) -> Result<Cow<'static, str>, QuestionError> {
        self.optional(name).ok_or(QuestionError::Missing(name))
    }

    fn word<T: FromStr>(&self, name: &'static str) -> Result<T, QuestionError> {
        let word = self.find(name).ok_or(QuestionError::Missing(name))?;
        word.parse().map_err(|_| QuestionError::Senseless(name))
    }
}

/// The one value that `resource` has in a topic call.
struct Topic;

impl FromStr for Topic {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        if word == "topic" { Ok(Topic) } else { Err(()) }
    }
}

impl FromStr for ResourceKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [ResourceKind::Exchange, ResourceKind::Queue]
            .into_iter()
            .find(|kind| kind.name() == word)
            .ok_or(())
    }
}

impl FromStr for Permission {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Permission::Configure, Permission::Write, Permission::Read]
            .into_iter()
            .find(|permission| permission.name() == word)
            .ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned() -> impl Strategy<Value = Cow<'static, str>> {
        any::<String>().prop_map(Cow::Owned)
    }

    fn permission() -> impl Strategy<Value = Permission> {
        prop_oneof![Just(Permission::Write), Just(Permission::Read)]
    }

    fn question() -> impl Strategy<Value = Question<'static>> {
        let option = || proptest::option::of(owned());
        prop_oneof![
            (owned(), option(), option()).prop_map(|(username, password, vhost)| {
                Question::User(UserQuestion {
                    username,
                    password,
                    vhost,
                })
            }),
            (owned(), owned())
                .prop_map(|(username, tags)| Question::Groups(GroupsQuestion { username, tags })),
            (owned(), owned(), owned(), owned()).prop_map(|(username, vhost, ip, tags)| {
                Question::Vhost(VhostQuestion {
                    username,
                    vhost,
                    ip,
                    tags,
                })
            }),
            (
                (owned(), owned(), owned(), owned()),
                prop_oneof![Just(ResourceKind::Exchange), Just(ResourceKind::Queue)],
                prop_oneof![permission(), Just(Permission::Configure)],
            )
                .prop_map(|((username, vhost, name, tags), resource, permission)| {
                    Question::Resource(ResourceQuestion {
                        username,
                        vhost,
                        resource,
                        name,
                        permission,
                        tags,
                    })
                }),
            ((owned(), owned(), owned(), owned(), owned()), permission()).prop_map(
                |((username, vhost, name, tags, routing_key), permission)| {
                    Question::Topic(TopicQuestion {
                        username,
                        vhost,
                        name,
                        permission,
                        tags,
                        routing_key,
                    })
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_again(question in question()) {
            let encoded = question.encode();
            prop_assert_eq!(Question::parse(question.call(), encoded.as_bytes()), Ok(question));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            for call in Call::ALL {
                let _ = Question::parse(call, &bytes);
            }
        }
    }

    #[test]
    fn a_topic_call_repeats_user_and_vhost_as_variables() {
        let question = Question::Topic(TopicQuestion {
            username: "al ice".into(),
            vhost: "/".into(),
            name: Question::exchange_name(""),
            permission: Permission::Read,
            tags: "a b".into(),
            routing_key: "user_é&=".into(),
        });
        assert_eq!(
            question.encode(),
            "username=al+ice&vhost=%2F&resource=topic&name=amq.default&permission=read&tags=a+b\
             &routing_key=user_%C3%A9%26%3D&variable_map.username=al+ice&variable_map.vhost=%2F"
        );
    }

    #[test]
    fn missing_and_senseless_parameters_are_named() {
        let parse = |call, text: &str| Question::parse(call, text.as_bytes()).unwrap_err();
        assert_eq!(parse(Call::User, ""), QuestionError::Missing("username"));
        assert_eq!(
            parse(Call::Vhost, "username=a"),
            QuestionError::Missing("vhost")
        );
        let resource = "username=a&vhost=/&name=q&permission=read&resource=";
        assert_eq!(
            parse(Call::Resource, &format!("{resource}topic")),
            QuestionError::Senseless("resource")
        );
        assert_eq!(
            parse(Call::Topic, &format!("{resource}topic")),
            QuestionError::Missing("routing_key")
        );
        let configured = "username=a&vhost=/&name=q&permission=configure&resource=topic";
        assert_eq!(
            parse(Call::Topic, configured),
            QuestionError::Senseless("permission")
        );
    }

    #[test]
    fn unknown_parameters_are_ignored_and_the_first_of_two_counts() {
        let parsed = Question::parse(Call::User, b"session=7&username=a&username=b&password=");
        let Ok(Question::User(user)) = parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!((&*user.username, user.password.as_deref()), ("a", Some("")));
    }

    #[test]
    fn debug_shows_no_password() {
        let question = Question::parse(Call::User, b"username=a&password=s3cret").unwrap();
        let shown = format!("{question:?}");
        assert!(
            shown.contains("\"a\"") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}
