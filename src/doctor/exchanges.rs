//! Exchanges that the configuration names: whether they are there, of which type, and what the
//! gateway's account may do with them.

use super::{ask::timed, finding::Finding};
use crate::{
    app,
    broker::{
        Binding, BrokerError, ExchangeKind,
        amqp::inspect::{self, Examined, Seen},
        offline_of,
    },
    config::Config,
};

/// An exchange that the gateway or its clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) name: Box<str>,
    /// Its type, if the configuration says one.
    pub(super) kind: Option<ExchangeKind>,
    pub(super) role: Role,
}

/// The use of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Commands between nodes.
    Control,
    /// Events of presence.
    Presence,
    /// What clients listen to, or send to.
    Clients,
    /// As [`Role::Clients`]: messages to which nobody is subscribed are to come from it.
    Source,
    /// As [`Role::Clients`]: it has a journal.
    Journal,
    /// As [`Role::Clients`]: it is read whole.
    Whole,
    /// Messages to which nobody is subscribed come to it first.
    Unheard,
    /// They are handed on to it, for a worker.
    Offline,
}

/// The exchanges of the configuration in a virtual host: what the gateway itself needs is in the
/// default one alone.
pub(super) fn configured(config: &Config, vhost: &str) -> Vec<Exchange> {
    let is_default = vhost == config.broker.default_vhost;
    let exchange = |name: Box<str>, kind| Exchange {
        role: role(config, is_default, &name),
        kind,
        name,
    };
    let mut configured: Vec<_> = app::exchanges(config, vhost)
        .into_iter()
        .map(|(name, kind)| exchange(name, Some(kind)))
        .collect();
    let sources = config.offline.sources.iter().filter(|_| is_default);
    let journals = config.journal.exchanges.iter();
    let whole = config.feed.whole.iter();
    let whole = whole.filter(|name| config.feed.reads_whole(name));
    for name in sources.chain(journals).chain(whole) {
        if !configured.iter().any(|known| *known.name == **name) {
            configured.push(exchange(name.as_str().into(), None));
        }
    }
    configured
}

/// The use of an exchange.
fn role(config: &Config, is_default: bool, name: &str) -> Role {
    let own = own_role(config, name).filter(|_| is_default);
    let of_clients = || {
        if config.feed.reads_whole(name) {
            Role::Whole
        } else if config.journal.has(name) {
            Role::Journal
        } else if is_default && config.offline.sources.contains(name) {
            Role::Source
        } else {
            Role::Clients
        }
    };
    own.unwrap_or_else(of_clients)
}

/// The use of an exchange by the gateway itself, in the default virtual host.
fn own_role(config: &Config, name: &str) -> Option<Role> {
    let offline = &config.offline;
    if Some(name) == app::control_exchange(config) {
        Some(Role::Control)
    } else if config.presence.has_events() && name == &*config.presence.exchange {
        Some(Role::Presence)
    } else if offline.is_on() && name == offline.exchange {
        Some(Role::Offline)
    } else {
        let mut sources = offline.sources.iter();
        let is_unheard = sources.any(|source| offline_of(source) == name);
        is_unheard.then_some(Role::Unheard)
    }
}

/// RabbitMQ's answers about an exchange.
#[derive(Debug)]
struct Answers {
    /// The gateway's account, whose rights they are about.
    account: Box<str>,
    seen: Result<Seen, BrokerError>,
    /// Whether the account may make it, if it is not there.
    make: Result<(), BrokerError>,
    /// Whether it may bind queues to it.
    read: Result<(), BrokerError>,
    write: Result<(), BrokerError>,
}

/// Asks about one.
pub(super) async fn examine(examined: &Examined, wanted: &Exchange, vhost: &str) -> Vec<Finding> {
    let name = &*wanted.name;
    let (answers, time) = timed(async {
        let mut seen = examined.exchange(name).await;
        let (mut make, mut read, mut write) = (Ok(()), Ok(()), Ok(()));
        match seen {
            Ok(Seen::There(_)) => {
                let queue = examined.declare(crate::broker::FEED_QUEUES).await;
                // What is wrong with queues is told elsewhere.
                if let Ok(queue) = queue {
                    read = of_exchange(match wanted.role {
                        // The gateway binds its own queue by this key.
                        Role::Journal | Role::Unheard => examined.may_bind_all(&queue, name).await,
                        _ => examined.may_bind(&queue, name).await,
                    });
                }
                write = examined.may_write(name).await.map(drop);
            }
            Ok(Seen::Missing) => {
                make = examined.may_make(name).await;
                // Then it is not known whether the account may.
                if let Err(error @ BrokerError::Unavailable(_)) = &make {
                    seen = Err(error.clone());
                }
            }
            Err(_) => {}
        }
        Answers {
            account: examined.account().into(),
            seen,
            make,
            read,
            write,
        }
    })
    .await;
    let findings = judge(wanted, vhost, &answers);
    findings.into_iter().map(|found| found.took(time)).collect()
}

/// Whether the account may read the exchange, by the answer to a binding.
fn of_exchange(binding: Result<(), BrokerError>) -> Result<(), BrokerError> {
    match binding {
        // That of the queue is told elsewhere.
        Err(BrokerError::AccessRefused(text)) if !text.contains("exchange '") => Ok(()),
        answer => answer,
    }
}

/// Judges the answers about an exchange.
fn judge(wanted: &Exchange, vhost: &str, answers: &Answers) -> Vec<Finding> {
    let Exchange { name, kind, role } = wanted;
    let question = "broker.exchange";
    let what = format!("exchange {name}{}", said(*role));
    match &answers.seen {
        Err(error) => {
            let text = format!("{what} cannot be asked for: {error}");
            vec![Finding::wrong(question, text)]
        }
        Ok(Seen::Missing) => vec![missing(wanted, vhost, &what, answers)],
        Ok(Seen::There(there)) => {
            if let (Some(kind), Some(there)) = (kind, there)
                && kind != there
            {
                return vec![of_another_type(wanted, &what, *kind, *there)];
            }
            let mut findings = match by_topic(wanted, vhost, &what, answers) {
                Some(found) => vec![found],
                None => rights(wanted, &what, *there, answers),
            };
            if kind.is_none() && there.is_none() {
                findings.extend(untyped(wanted, vhost, &what));
            }
            if there.is_none() && kind.is_some() {
                let text = format!(
                    "{what}: RabbitMQ does not tell its type to an account that may not configure \
                     it"
                );
                let found = Finding::unasked("management.types", text);
                findings.push(found.cure(format!(
                    "rabbitmqctl list_exchanges -p {vhost} name type | grep '^{name}[[:space:]]'"
                )));
            }
            findings
        }
    }
}

fn said(role: Role) -> &'static str {
    match role {
        Role::Control => " (commands between nodes)",
        Role::Presence => " (presence events)",
        Role::Clients | Role::Source | Role::Journal | Role::Whole => "",
        Role::Unheard => " (messages to which nobody is subscribed)",
        Role::Offline => " (messages for those who are away)",
    }
}

fn missing(wanted: &Exchange, vhost: &str, what: &str, answers: &Answers) -> Finding {
    let Exchange { name, kind, role } = wanted;
    let question = "broker.exchange";
    let Some(kind) = kind else {
        let text = format!("{what} is not there: clients that want it get ERROR not_found");
        let kind = match role {
            Role::Whole => ExchangeKind::Direct,
            _ => ExchangeKind::Topic,
        };
        return Finding::wrong(question, text).cure(declare(vhost, name, kind));
    };
    match (&answers.make, role) {
        (Ok(()), _) => {
            let text = format!("{what} is not there yet; the gateway makes it at its first use");
            Finding::right(question, text)
        }
        (Err(_), Role::Control) => Finding::doubtful(
            question,
            format!(
                "{what} is not there, and the account may not make it: commands reach this node \
                 alone"
            ),
        )
        .cure(declare(vhost, name, *kind))
        .cure("[control] exchange = \"off\"   (a single node)"),
        (Err(_), _) => Finding::wrong(
            question,
            format!("{what} is not there, and the account may not make it"),
        )
        .cure(declare(vhost, name, *kind)),
    }
}

/// `rabbitmqctl` declares nothing; this needs the management plug-in.
fn declare(vhost: &str, exchange: &str, kind: ExchangeKind) -> String {
    format!(
        "rabbitmqadmin -V {vhost} declare exchange name={exchange} type={} durable=true",
        named(kind)
    )
}

pub(super) fn named(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Other => "another type's",
    }
}

/// An exchange whose type nobody tells the gateway, if that does harm.
fn untyped(wanted: &Exchange, vhost: &str, what: &str) -> Option<Finding> {
    let Exchange { name, role, .. } = wanted;
    let outcome = match role {
        Role::Journal => "as it has a journal, its subscribers are refused".to_owned(),
        Role::Whole => {
            let [all, _] = inspect::beside(name);
            format!(
                "it is not read whole, but by queues of its subscribers' own, which keep their keys \
                 from {all}"
            )
        }
        Role::Source => "each of its subscribers needs a queue of its own".to_owned(),
        _ => return None,
    };
    let text = format!(
        "{what}: RabbitMQ does not tell its type to an account that may not configure it, and \
         [broker] exchanges does not say it: {outcome}"
    );
    let found = match role {
        Role::Source => Finding::doubtful("broker.exchange", text),
        _ => Finding::wrong("broker.exchange", text),
    };
    Some(found.cure(format!(
        "[broker] exchanges = {{ {name:?} = \"TYPE\" }}   (rabbitmqctl list_exchanges -p {vhost} name \
         type)"
    )))
}

/// The queues of feeds cannot be declared and bound.
const NO_FEED: &str = "nobody can subscribe to the exchange that it is for";

fn of_another_type(
    wanted: &Exchange,
    what: &str,
    kind: ExchangeKind,
    there: ExchangeKind,
) -> Finding {
    let Exchange { role, .. } = wanted;
    let outcome = match role {
        Role::Offline => "nothing is handed on for those who are away",
        Role::Unheard => NO_FEED,
        _ => "clients that want it get ERROR precondition_failed",
    };
    let text = format!(
        "{what} is a {} exchange, and has to be a {} one by the configuration: {outcome}",
        named(there),
        named(kind)
    );
    Finding::wrong("broker.exchange", text).cure(retyped(wanted, there))
}

/// The line that is right where the exchange is of this other type.
pub(super) fn retyped(wanted: &Exchange, there: ExchangeKind) -> String {
    let Exchange { name, role, .. } = wanted;
    let another = |section: &str, proposed: &str| {
        // It may be the one that is taken.
        let more = if **name == *proposed { "2" } else { "" };
        format!("[{section}] exchange = \"{proposed}{more}\"")
    };
    match (role, there) {
        (Role::Control, _) => another("control", "stentor.commands"),
        (Role::Presence, _) => another("presence", "stentor.presence"),
        (Role::Offline, _) => another("offline", "stentor.offline"),
        (Role::Unheard, _) => format!("delete exchange {name}: the gateway makes it anew"),
        (Role::Clients | Role::Source | Role::Journal | Role::Whole, ExchangeKind::Other) => {
            format!("[broker] exchanges: leave {name} out")
        }
        (Role::Clients | Role::Source | Role::Journal | Role::Whole, there) => {
            format!("[broker] exchanges = {{ {name:?} = {:?} }}", named(there))
        }
    }
}

fn rights(
    wanted: &Exchange,
    what: &str,
    there: Option<ExchangeKind>,
    answers: &Answers,
) -> Vec<Finding> {
    let Exchange { name, role, .. } = wanted;
    let question = "broker.exchange";
    let is_direct = there.or(wanted.kind) == Some(ExchangeKind::Direct);
    for answer in [&answers.read, &answers.write] {
        if let Err(error) = answer
            && !matches!(error, BrokerError::AccessRefused(_))
        {
            let text = format!("{what}: {error}");
            return vec![Finding::wrong(question, text)];
        }
    }
    let (reads, writes) = (answers.read.is_ok(), answers.write.is_ok());
    let kind = there.map_or_else(String::new, |kind| format!(" ({})", named(kind)));
    let grant =
        |verb: &str| format!("give the account permission to {verb} {name} (set_permissions)");
    let found = match (role, reads, writes) {
        (_, true, true) => {
            Finding::right(question, format!("{what}{kind} may be read and written"))
        }
        (Role::Control, ..) => {
            let verb = if reads { "write" } else { "read" };
            let text =
                format!("{what}: the account may not {verb} it, so commands stay on this node");
            Finding::doubtful(question, text).cure(grant(verb))
        }
        (Role::Presence, _, false) => {
            let text = format!("{what}: the account may not write it, so there are no events");
            Finding::wrong(question, text).cure(grant("write"))
        }
        (Role::Offline, false, true) => Finding::right(
            question,
            format!("{what}{kind} may be written; its worker reads it"),
        ),
        (Role::Offline, _, false) => {
            let text = format!(
                "{what}: the account may not write it, so they wait at RabbitMQ, and the oldest are \
                 lost in the end"
            );
            Finding::wrong(question, text).cure(grant("write"))
        }
        (Role::Unheard, ..) => {
            let verb = if reads { "write" } else { "read" };
            let text = format!("{what}: the account may not {verb} it, so {NO_FEED}");
            Finding::wrong(question, text).cure(grant(verb))
        }
        (Role::Source | Role::Journal, false, _) => {
            let text =
                format!("{what}: the account may not read it, so nobody can subscribe to it");
            Finding::wrong(question, text).cure(grant("read"))
        }
        (Role::Source, true, false) if is_direct => {
            let text = format!(
                "{what}{kind} may be read, not written: Stentor cannot try whether messages to which \
                 nobody is subscribed come to it ([offline])"
            );
            Finding::doubtful(question, text).cure(grant("write"))
        }
        (_, true, false) => Finding::right(
            question,
            format!("{what}{kind} may be read, not written: enough where clients only listen"),
        ),
        (_, false, true) => {
            let text = format!("{what}{kind} may be written, not read: nobody can listen to it");
            Finding::doubtful(question, text).cure(grant("read"))
        }
        (_, false, false) => {
            let text = format!("{what}{kind} may neither be read nor written");
            Finding::wrong(question, text).cure(grant("read"))
        }
    };
    vec![found]
}

/// What topic permissions refuse, if they alone refuse something: RabbitMQ looks at them key by key, at
/// topic exchanges. The key of a trial is nobody's, so those in use may be allowed.
fn by_topic(wanted: &Exchange, vhost: &str, what: &str, answers: &Answers) -> Option<Finding> {
    let (question, account) = ("broker.exchange", &answers.account);
    let Exchange { name, role, .. } = wanted;
    // Its worker reads that of `[offline]`, by another account.
    let read = Some(&answers.read).filter(|_| *role != Role::Offline);
    let read = read.and_then(|read| read.as_ref().err());
    let write = answers.write.as_ref().err();
    if !read.into_iter().chain(write).all(inspect::is_topical) {
        return None;
    }
    let verbs = match (read, write) {
        (None, None) => return None,
        (Some(_), None) => "read",
        (None, Some(_)) => "write",
        (Some(_), Some(_)) => "read and write",
    };
    let found = match role {
        Role::Journal | Role::Unheard if read.is_some() => {
            let outcome = match role {
                Role::Journal => "nobody can subscribe to it",
                _ => "nothing is handed on for those who are away",
            };
            let text = format!(
                "{what}: topic permissions keep the account {account} from binding its queue by #, so \
                 {outcome}"
            );
            Finding::wrong(question, text)
        }
        _ => {
            let outcome = match role {
                Role::Presence | Role::Offline | Role::Unheard => {
                    "messages with others are refused"
                }
                _ => "with others, clients get ERROR access_refused",
            };
            let text = format!(
                "{what}: by topic permissions, the account {account} may {verbs} it with some routing \
                 keys at most; {outcome}"
            );
            Finding::doubtful(question, text)
        }
    };
    Some(
        found
            .cure(format!(
                "rabbitmqctl set_topic_permissions -p '{vhost}' {account} {name} '.*' '.*'"
            ))
            .cure("or with patterns, for writing and for reading, that match each key in use"),
    )
}

/// Asks about the exchanges that are read whole.
pub(super) async fn whole(examined: &Examined, config: &Config, vhost: &str) -> Vec<Finding> {
    if config.feed.binding != Binding::All {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for exchange in &config.feed.whole {
        let (answers, time) = timed(async {
            let seen = examined.exchange(exchange).await?;
            let mut beside = Beside::There;
            for name in inspect::beside(exchange) {
                if examined.exchange(&name).await? == Seen::Missing {
                    match examined.may_make(&name).await {
                        Ok(()) if beside == Beside::There => beside = Beside::Missing,
                        Ok(()) => {}
                        Err(BrokerError::AccessRefused(_)) => beside = Beside::NotOurs(name),
                        Err(error) => return Err(error),
                    }
                }
            }
            if beside == Beside::There {
                let tried = match seen {
                    Seen::Missing => may_use_beside(examined, exchange).await,
                    Seen::There(_) => examined.leads_beside(exchange).await,
                };
                beside = Beside::Tried(tried);
            }
            Ok::<_, BrokerError>((seen, beside))
        })
        .await;
        let found = judge_whole(vhost, exchange, answers);
        findings.extend(found.map(|found| found.took(time)));
    }
    findings
}

/// Whether the account may use the exchanges beside one that is not there itself.
async fn may_use_beside(examined: &Examined, exchange: &str) -> Result<(), BrokerError> {
    let queue = examined.declare(crate::broker::FEED_QUEUES).await;
    for name in inspect::beside(exchange) {
        // What is wrong with queues is told elsewhere.
        if let Ok(queue) = &queue {
            of_exchange(examined.may_bind(queue, &name).await)?;
        }
        examined.may_write(&name).await?;
    }
    Ok(())
}

/// The exchange, and those beside it.
type Whole = (Seen, Beside);

/// The exchanges beside one that is read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Beside {
    There,
    /// One is missing, and the gateway makes it.
    Missing,
    /// This one is missing, and the account may not make it.
    NotOurs(String),
    /// They are there: whether the exchange leads to them, or, if it is not there, whether the account
    /// may use them.
    Tried(Result<(), BrokerError>),
}

/// Of an exchange that is not there, it is told elsewhere whether the gateway makes it: then nothing is
/// left to say.
fn judge_whole(
    vhost: &str,
    exchange: &str,
    answers: Result<Whole, BrokerError>,
) -> Option<Finding> {
    let question = "broker.whole";
    let cure = inspect::policy_command(vhost, exchange);
    let grant = || {
        let [all, keys] = inspect::beside(exchange);
        format!(
            "give the account permission to configure, write and read {all} and {keys}, and to write \
             and read {exchange}, in virtual host {vhost} (set_permissions)"
        )
    };
    let found = match answers {
        Err(error) => Finding::wrong(question, format!("exchange {exchange}: {error}")),
        Ok((Seen::There(Some(kind)), _)) if kind != ExchangeKind::Direct => Finding::right(
            question,
            format!(
                "exchange {exchange} is a {} exchange, which needs no alternate one",
                named(kind)
            ),
        ),
        Ok((_, Beside::NotOurs(name))) => {
            let text = format!(
                "exchange {exchange} (feed.whole): {name} is not there, and the account may not make \
                 it: subscribers are refused"
            );
            Finding::wrong(question, text).cure(grant())
        }
        // RabbitMQ 4.3 tells an account without any right to them that they are there.
        Ok((_, Beside::Tried(Err(BrokerError::AccessRefused(words))))) => {
            let text = format!(
                "exchange {exchange} (feed.whole) cannot be read whole, so subscribers are refused: \
                 {words}"
            );
            Finding::wrong(question, text).cure(grant())
        }
        Ok((Seen::Missing, Beside::There | Beside::Missing | Beside::Tried(Ok(())))) => {
            return None;
        }
        Ok((_, Beside::Tried(Ok(())))) => Finding::right(
            question,
            format!("exchange {exchange} leads to its alternate exchange"),
        ),
        Ok((_, Beside::Tried(Err(BrokerError::NotFound(_))))) => {
            let text = format!(
                "exchange {exchange} (feed.whole) does not lead to {exchange}.all: subscribers \
                 are refused"
            );
            Finding::wrong(question, text).cure(cure)
        }
        Ok((_, Beside::Tried(Err(error)))) => {
            let text = format!("exchange {exchange} (feed.whole) cannot be tried: {error}");
            Finding::wrong(question, text)
        }
        Ok((_, Beside::Missing | Beside::There)) => {
            let text = format!(
                "exchange {exchange} (feed.whole): {exchange}.all is not there yet (the gateway \
                 makes it), so the way to it cannot be tried"
            );
            Finding::unasked(question, text).cure(format!("rabbitmqctl list_policies -p {vhost}"))
        }
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Mark;

    fn refused() -> Result<(), BrokerError> {
        Err(BrokerError::AccessRefused("no".into()))
    }

    fn feed(role: Role) -> Exchange {
        Exchange {
            name: "feed".into(),
            kind: Some(ExchangeKind::Direct),
            role,
        }
    }

    fn there(kind: Option<ExchangeKind>) -> Answers {
        Answers {
            account: "stentor".into(),
            seen: Ok(Seen::There(kind)),
            make: Ok(()),
            read: Ok(()),
            write: Ok(()),
        }
    }

    fn marks(findings: &[Finding]) -> Vec<Mark> {
        findings.iter().map(|found| found.mark).collect()
    }

    #[test]
    fn a_wrong_type_is_told_with_the_line_that_is_right() {
        let found = judge(&feed(Role::Clients), "/", &there(Some(ExchangeKind::Topic)));
        assert_eq!(marks(&found), [Mark::Wrong]);
        assert_eq!(
            found[0].cure,
            ["[broker] exchanges = { \"feed\" = \"topic\" }"]
        );
        let right = judge(
            &feed(Role::Clients),
            "/",
            &there(Some(ExchangeKind::Direct)),
        );
        assert_eq!(marks(&right), [Mark::Right]);
        let unknown = judge(&feed(Role::Clients), "/", &there(None));
        assert_eq!(marks(&unknown), [Mark::Right, Mark::Unasked]);
    }

    /// A name that is taken cures nothing.
    #[test]
    fn an_exchange_of_another_type_has_another_name_as_its_cure() {
        for (role, name) in [
            (Role::Control, "stentor.control"),
            (Role::Presence, "presence"),
            (Role::Offline, "offline"),
            (Role::Control, "stentor.commands"),
            (Role::Presence, "stentor.presence"),
            (Role::Offline, "stentor.offline"),
        ] {
            let wanted = Exchange {
                name: name.into(),
                kind: Some(ExchangeKind::Topic),
                role,
            };
            let found = judge(&wanted, "/", &there(Some(ExchangeKind::Direct)));
            assert_eq!(marks(&found), [Mark::Wrong]);
            let own = format!("exchange = {name:?}");
            assert!(!found[0].cure[0].contains(&own), "{found:?}");
        }
    }

    #[test]
    fn rights_count_by_the_use_of_an_exchange() {
        let with = |role, reads: bool, writes: bool| {
            let answer = |may: bool| if may { Ok(()) } else { refused() };
            let answers = Answers {
                read: answer(reads),
                write: answer(writes),
                ..there(Some(ExchangeKind::Direct))
            };
            judge(&feed(role), "/", &answers)[0].mark
        };
        assert_eq!(with(Role::Clients, true, false), Mark::Right);
        assert_eq!(with(Role::Clients, false, true), Mark::Doubtful);
        assert_eq!(with(Role::Clients, false, false), Mark::Wrong);
        assert_eq!(with(Role::Presence, true, false), Mark::Wrong);
        assert_eq!(with(Role::Presence, false, true), Mark::Doubtful);
        assert_eq!(with(Role::Control, true, false), Mark::Doubtful);
        // A worker reads it.
        assert_eq!(with(Role::Offline, false, true), Mark::Right);
        assert_eq!(with(Role::Offline, true, false), Mark::Wrong);
        assert_eq!(with(Role::Offline, false, false), Mark::Wrong);
        assert_eq!(with(Role::Unheard, true, true), Mark::Right);
        assert_eq!(with(Role::Unheard, true, false), Mark::Wrong);
        assert_eq!(with(Role::Unheard, false, true), Mark::Wrong);
        assert_eq!(with(Role::Source, true, false), Mark::Doubtful);
        // Their queues cannot be bound.
        assert_eq!(with(Role::Source, false, true), Mark::Wrong);
        assert_eq!(with(Role::Journal, false, true), Mark::Wrong);
        // Those of an exchange that is read whole are bound beside it.
        assert_eq!(with(Role::Whole, false, true), Mark::Doubtful);
    }

    /// Other permissions mend nothing there.
    #[test]
    fn topic_permissions_are_told_from_others() {
        let topical = || {
            let text = "ACCESS_REFUSED - access to topic 'k' in exchange 'feed' in vhost '/' refused \
                        for user 'stentor'";
            Err(BrokerError::AccessRefused(text.into()))
        };
        let with = |role, read, write| {
            let answers = Answers {
                read,
                write,
                ..there(Some(ExchangeKind::Topic))
            };
            let wanted = Exchange {
                kind: Some(ExchangeKind::Topic),
                ..feed(role)
            };
            judge(&wanted, "/", &answers).remove(0)
        };
        let cure = "rabbitmqctl set_topic_permissions -p '/' stentor feed '.*' '.*'";
        for (role, mark) in [
            (Role::Clients, Mark::Doubtful),
            (Role::Source, Mark::Doubtful),
            (Role::Presence, Mark::Doubtful),
            (Role::Offline, Mark::Doubtful),
            // Bound by `#`.
            (Role::Journal, Mark::Wrong),
            (Role::Unheard, Mark::Wrong),
        ] {
            let found = with(role, topical(), topical());
            assert_eq!(found.mark, mark, "{found:?}");
            assert_eq!(found.cure[0], cure);
            assert_eq!(with(role, Ok(()), topical()).mark, Mark::Doubtful);
        }
        // A worker reads it.
        assert_eq!(with(Role::Offline, topical(), Ok(())).mark, Mark::Right);
        let found = with(Role::Clients, refused(), topical());
        assert!(found.cure[0].contains("(set_permissions)"), "{found:?}");
    }

    /// Its queues are dead letters' too, so that feeds depend on it.
    #[test]
    fn an_exchange_for_the_unheard_that_cannot_be_used_leaves_nobody_subscribed() {
        let unread = Answers {
            read: refused(),
            ..there(Some(ExchangeKind::Direct))
        };
        for answers in [unread, there(Some(ExchangeKind::Topic))] {
            let found = &judge(&feed(Role::Unheard), "/", &answers)[0];
            assert_eq!(found.mark, Mark::Wrong);
            assert!(found.text.contains("nobody can subscribe"), "{found:?}");
        }
    }

    #[test]
    fn a_type_that_nobody_tells_is_the_configuration_s_to_say() {
        for (role, expected) in [
            (Role::Journal, Some(Mark::Wrong)),
            (Role::Whole, Some(Mark::Wrong)),
            (Role::Source, Some(Mark::Doubtful)),
            // A client that only sends there needs none.
            (Role::Clients, None),
        ] {
            let wanted = Exchange {
                kind: None,
                ..feed(role)
            };
            let found = judge(&wanted, "/", &there(None));
            let untyped = found.get(1);
            assert_eq!(untyped.map(|found| found.mark), expected, "{role:?}");
            if let Some(untyped) = untyped {
                let cure = "[broker] exchanges = { \"feed\" = ";
                assert!(untyped.cure[0].starts_with(cure), "{untyped:?}");
            }
            // One that the account may configure tells it.
            let found = judge(&wanted, "/", &there(Some(ExchangeKind::Topic)));
            assert_eq!(marks(&found), [Mark::Right]);
        }
    }

    #[test]
    fn a_missing_exchange_is_made_by_the_gateway_or_by_a_command() {
        let missing = |make| Answers {
            seen: Ok(Seen::Missing),
            make,
            ..there(None)
        };
        let found = judge(&feed(Role::Clients), "/", &missing(Ok(())));
        assert_eq!(marks(&found), [Mark::Right]);
        let found = judge(&feed(Role::Clients), "/", &missing(refused()));
        assert_eq!(marks(&found), [Mark::Wrong]);
        assert_eq!(
            found[0].cure,
            ["rabbitmqadmin -V / declare exchange name=feed type=direct durable=true"]
        );
        let found = judge(&feed(Role::Control), "/", &missing(refused()));
        assert_eq!(marks(&found), [Mark::Doubtful]);
        let unknown = Exchange {
            kind: None,
            ..feed(Role::Clients)
        };
        assert_eq!(
            marks(&judge(&unknown, "/", &missing(Ok(())))),
            [Mark::Wrong]
        );
    }

    #[test]
    fn an_exchange_that_leads_elsewhere_has_its_policy_as_the_cure() {
        let direct = || Seen::There(Some(ExchangeKind::Direct));
        let judged = |seen, beside| judge_whole("/", "feed", Ok((seen, beside))).unwrap();
        let elsewhere = Err(BrokerError::NotFound("elsewhere".into()));
        let found = judged(direct(), Beside::Tried(elsewhere));
        assert_eq!(found.mark, Mark::Wrong);
        assert!(found.cure[0].starts_with("rabbitmqctl set_policy -p '/'"));
        let found = judged(direct(), Beside::Tried(Ok(())));
        assert_eq!(found.mark, Mark::Right);
        assert_eq!(judged(direct(), Beside::Missing).mark, Mark::Unasked);
        for seen in [direct(), Seen::Missing] {
            let not_ours = Beside::NotOurs("feed.keys".to_owned());
            let found = judged(seen.clone(), not_ours);
            assert_eq!(found.mark, Mark::Wrong, "{found:?}");
            assert!(
                found.cure[0].contains("feed.all and feed.keys"),
                "{found:?}"
            );
            let tried = Beside::Tried(refused());
            let found = judged(seen, tried);
            assert_eq!(found.mark, Mark::Wrong, "{found:?}");
            assert!(
                found.cure[0].contains("feed.all and feed.keys"),
                "{found:?}"
            );
        }
    }

    /// `broker.exchange` says that it is wrong, or that the gateway makes it.
    #[test]
    fn an_exchange_to_be_read_whole_that_is_missing_has_one_answer() {
        for beside in [Beside::There, Beside::Missing, Beside::Tried(Ok(()))] {
            let found = judge_whole("/", "feed", Ok((Seen::Missing, beside)));
            assert_eq!(found, None);
        }
    }
}
