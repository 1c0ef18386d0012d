//! RabbitMQ by AMQP: whether it lets the gateway in, and what the gateway's account may do there.

use futures_util::future::join_all;

use super::{
    Subject,
    args::{Doctor, pairs},
    ask::{PATIENCE, ask, late, timed},
    exchanges::{self, Exchange, Role},
    finding::Finding,
    journals, management, offline,
};
use crate::{
    app,
    broker::{
        BrokerError, ExchangeKind, FEED_QUEUES,
        amqp::{
            AmqpBroker,
            inspect::{Examined, Product, Writable},
        },
        journal::stream_of,
        own_queues,
    },
    causes::NO_TLS,
    config::Config,
};

/// Asks the broker.
pub(super) async fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let broker = match app::rabbitmq(config, &app::node_name()) {
        Ok(Some(broker)) => broker,
        Ok(None) => {
            let text = "the broker is in the gateway's own memory: there is nothing to ask";
            return vec![Finding::right("broker.login", text)];
        }
        Err(error) => return vec![Finding::wrong("broker.login", error.to_string())],
    };
    let (mut by_amqp, mut by_management) =
        tokio::join!(by_amqp(subject, &broker), management::examine(subject),);
    answer_types(&mut by_amqp, &mut by_management);
    by_amqp.into_iter().chain(by_management).collect()
}

/// Of types that RabbitMQ does not tell by AMQP, the management plug-in's answer counts; of others it
/// would only say the same again.
fn answer_types(by_amqp: &mut Vec<Finding>, by_management: &mut Vec<Finding>) {
    let is_type = |found: &Finding| found.question == "management.types";
    let is_unknown = by_amqp.iter().any(is_type);
    if by_management.iter().any(is_type) {
        by_amqp.retain(|found| !is_type(found));
    }
    by_management.retain(|found| is_unknown || !is_type(found));
}

async fn by_amqp(subject: &Subject<'_>, broker: &AmqpBroker) -> Vec<Finding> {
    let config = subject.config;
    let default = &config.broker.default_vhost;
    let places = broker.places();
    let logins = places.iter().enumerate().map(|(number, place)| async move {
        let (answer, time) = ask(broker.product_at(number, default)).await;
        let is_in = matches!(answer, Some(Ok(_)));
        (
            is_in,
            login(place, broker.account(), default, answer).took(time),
        )
    });
    let (are_in, mut findings): (Vec<_>, Vec<_>) = join_all(logins).await.into_iter().unzip();
    if are_in.contains(&true) {
        let all = subject.vhosts();
        let examined = all.iter().map(|name| vhost(subject, broker, name));
        for found in join_all(examined).await {
            findings.extend(found);
        }
        findings.extend(left_out(subject.left_out()));
    }
    findings
}

/// Virtual hosts beyond those that are examined at most.
fn left_out(count: usize) -> Option<Finding> {
    let text = match count {
        0 => return None,
        1 => "1 further virtual host was not examined".to_owned(),
        count => format!("{count} further virtual hosts were not examined"),
    };
    let found = Finding::unasked("broker.vhost", text);
    Some(found.cure("stentor doctor --vhost NAME …   (for each of them)"))
}

/// Judges a login at one machine.
fn login(
    place: &str,
    account: &str,
    vhost: &str,
    answer: Option<Result<Product, BrokerError>>,
) -> Finding {
    let wrong = |text: String| Finding::wrong("broker.login", format!("{place} {text}"));
    match answer {
        Some(Ok(product)) => is_supported(place, &product),
        None => wrong(late())
            .cure("start RabbitMQ, and open the way to it (firewall)")
            .cure("[broker] url = \"amqp://USER:PASSWORD@HOST:5672\""),
        Some(Err(BrokerError::AccessRefused(text))) => {
            wrong(format!("does not let the account {account} in: {text}"))
                .cure(format!("rabbitmqctl change_password {account} 'PASSWORD'"))
                .cure(format!(
                    "STENTOR__BROKER__URL='amqp://{account}:PASSWORD@{place}'"
                ))
        }
        Some(Err(BrokerError::VhostRefused(text))) => refused_vhost(account, vhost, &text),
        Some(Err(error)) => {
            let text = match &error {
                BrokerError::Unavailable(cause) => cause.to_string(),
                other => other.to_string(),
            };
            let found = wrong(format!("cannot be reached: {text}"));
            if text.contains(NO_TLS) {
                return found
                    .cure("[broker] url = \"amqp://USER:PASSWORD@HOST:5672\"")
                    .cure(
                        "[broker] url = \"amqps://USER:PASSWORD@HOST:5671\"   (its port for TLS)",
                    );
            }
            if text.contains("certificate") || text.contains("TLS") {
                return found.cure(
                    "SSL_CERT_FILE=AUTHORITY.pem stentor …   (the authority of its certificate)",
                );
            }
            found
                .cure("systemctl start rabbitmq-server")
                .cure("[broker] url = \"amqp://USER:PASSWORD@HOST:5672\"")
        }
    }
}

fn refused_vhost(account: &str, vhost: &str, text: &str) -> Finding {
    let found = Finding::wrong(
        "broker.vhost",
        format!("virtual host {vhost} cannot be used: {text}"),
    );
    let found = match text.ends_with("not found") {
        true => found.cure(format!("rabbitmqctl add_vhost {vhost}")),
        false => found,
    };
    found.cure(format!(
        "rabbitmqctl set_permissions -p {vhost} {account} '.*' '.*' '.*'"
    ))
}

/// RabbitMQ from 3.10 on is tested.
fn is_supported(place: &str, product: &Product) -> Finding {
    let Product { name, version } = product;
    let text = format!("{place} is {name} {version}, and lets the gateway in");
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    };
    match version {
        Some(version) if &**name == "RabbitMQ" && version >= (3, 10) => {
            Finding::right("broker.login", text)
        }
        _ => Finding::doubtful(
            "broker.login",
            format!("{text}; but only RabbitMQ 3.10 and later are tested"),
        ),
    }
}

async fn vhost(subject: &Subject<'_>, broker: &AmqpBroker, name: &str) -> Vec<Finding> {
    let config = subject.config;
    let account = broker.account();
    let (examined, time) = ask(broker.examine(name, PATIENCE)).await;
    let examined = match examined {
        Some(Ok(examined)) => examined,
        Some(Err(BrokerError::VhostRefused(text))) => {
            return vec![refused_vhost(account, name, &text).took(time)];
        }
        Some(Err(error)) => {
            let text = format!("virtual host {name}: {error}");
            return vec![Finding::wrong("broker.vhost", text).took(time)];
        }
        None => {
            let text = format!("virtual host {name}: RabbitMQ {}", late());
            return vec![Finding::wrong("broker.vhost", text).took(time)];
        }
    };
    let entered = format!("virtual host {name} can be used");
    let mut findings = vec![Finding::right("broker.vhost", entered).took(time)];
    let wanted = wanted(config, name, subject.task);
    let (queues, exchanges, whole, journals, offline) = tokio::join!(
        queues(&examined, config, account, name),
        join_all(
            wanted
                .iter()
                .map(|one| exchanges::examine(&examined, one, name))
        ),
        exchanges::whole(&examined, config, name),
        journals::examine(&examined, config, account, name),
        offline::examine(&examined, config, name),
    );
    findings.extend(queues);
    for found in exchanges {
        findings.extend(found);
    }
    findings.extend(whole);
    findings.extend(journals);
    findings.extend(offline);
    examined.close().await;
    findings
}

/// The exchanges that the configuration and the arguments name.
fn wanted(config: &Config, vhost: &str, task: &Doctor) -> Vec<Exchange> {
    let is_default = vhost == config.broker.default_vhost;
    let mut wanted = exchanges::configured(config, vhost);
    let asked = task.vhost.as_deref();
    if asked.map_or(is_default, |asked| asked == vhost) {
        for (name, _) in pairs(&task.may_read).chain(pairs(&task.may_write)) {
            if !name.is_empty() && !wanted.iter().any(|other| &*other.name == name) {
                wanted.push(Exchange {
                    name: name.into(),
                    kind: None,
                    role: Role::Clients,
                });
            }
        }
    }
    wanted
}

/// The answers about queues.
#[derive(Debug, Default)]
struct Queues {
    /// Permissions that feeds need and that are refused, with RabbitMQ's words.
    missing: Vec<(&'static str, String)>,
    /// No answer.
    failure: Option<String>,
    /// Permissions that clients' own queues need and that are refused.
    own_missing: Vec<&'static str>,
}

async fn queues(examined: &Examined, config: &Config, account: &str, vhost: &str) -> Vec<Finding> {
    let ((answers, writable), time) = timed(ask_queues(examined)).await;
    let mut findings = permissions(&answers, config, account, vhost);
    if config.broker.impersonate
        && let Some(writable) = writable
    {
        findings.push(impersonate(writable, account));
    }
    findings.into_iter().map(|found| found.took(time)).collect()
}

/// Each question has its own time: on a long way to RabbitMQ they take more together. Behind one
/// without an answer no more are asked.
async fn ask_queues(examined: &Examined) -> (Queues, Option<Writable>) {
    let mut answers = Queues::default();
    let queue = examined.declare(FEED_QUEUES).await;
    match &queue {
        Ok(queue) => {
            let read = examined.may_consume(queue).await;
            answers.note("read", "its own queues (stentor.feed.…)", read);
            let write = examined.may_fill(queue).await;
            answers.note("write", "its own queues (stentor.feed.…)", write);
        }
        Err(error) => answers.note(
            "configure",
            "its own queues (stentor.feed.…)",
            Err(error.clone()),
        ),
    }
    if answers.failure.is_some() {
        return (answers, None);
    }
    let writable = examined.may_write("").await;
    answers.note(
        "write",
        "the default exchange (amq.default)",
        writable.clone().map(drop),
    );
    if answers.missing.is_empty() {
        // As feeds do it, in one step.
        let declared = examined.declare_feed_queue().await.map(drop);
        answers.note("configure", "a feed's queue", declared);
    }
    if answers.failure.is_some() {
        return (answers, None);
    }
    match examined.declare(own_queues::SUBSCRIPTION_QUEUES).await {
        Ok(queue) => {
            answers.note_own("write", examined.may_fill(&queue).await);
            answers.note_own("read", examined.may_consume(&queue).await);
        }
        Err(error) => answers.note_own("configure", Err(error)),
    }
    (answers, writable.ok())
}

impl Queues {
    fn note(&mut self, verb: &'static str, what: &str, answer: Result<(), BrokerError>) {
        match answer {
            Ok(()) => {}
            Err(BrokerError::AccessRefused(_)) => self.missing.push((verb, what.to_owned())),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }

    fn note_own(&mut self, verb: &'static str, answer: Result<(), BrokerError>) {
        match answer {
            Ok(()) => {}
            Err(BrokerError::AccessRefused(_)) => self.own_missing.push(verb),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }
}

fn permissions(answers: &Queues, config: &Config, account: &str, vhost: &str) -> Vec<Finding> {
    let question = "broker.permissions";
    if let Some(failure) = &answers.failure {
        let text = format!("permissions in {vhost} are not known: {failure}");
        return vec![Finding::wrong(question, text)];
    }
    if !answers.missing.is_empty() {
        let missing: Vec<_> = answers
            .missing
            .iter()
            .map(|(verb, what)| format!("{verb} {what}"))
            .collect();
        let text = format!(
            "the account {account} may not {} in virtual host {vhost}, so no client could \
             subscribe",
            missing.join(", nor ")
        );
        let [configure, write, read] = least(config, vhost);
        return vec![
            Finding::wrong(question, text)
                .cure(format!(
                    "rabbitmqctl set_permissions -p {vhost} {account} '{configure}' '{write}' \
                     '{read}'"
                ))
                .cure("(it replaces the account's permissions: add those of your users)"),
        ];
    }
    let text = format!("the account {account} may have feeds in virtual host {vhost}");
    vec![
        Finding::right(question, text),
        own_queues_of_clients(&answers.own_missing, account),
    ]
}

fn own_queues_of_clients(missing: &[&str], account: &str) -> Finding {
    let question = "broker.queues";
    match missing {
        [] => Finding::right(
            question,
            "clients may have queues of their own (acknowledgements, durable subscriptions)",
        ),
        ["configure"] => Finding::right(
            question,
            "clients get no queues of their own, which is enough where they only listen \
             (docs/migration.md has the permissions for more)",
        ),
        verbs => {
            let text = format!(
                "the account {account} may make clients' own queues (stomp-subscription-…), but not \
                 {} them: clients that need one (acknowledgements, durable subscriptions) get ERROR \
                 access_refused",
                verbs.join(" and ")
            );
            Finding::doubtful(question, text).cure(
                "give the account permission to configure, write and read 'stomp-subscription-' \
                 (docs/migration.md has the command)",
            )
        }
    }
}

/// The least permissions in a virtual host with which clients can listen to all exchanges of the
/// configuration, and all parts of the gateway work.
fn least(config: &Config, vhost: &str) -> [String; 3] {
    let is_default = vhost == config.broker.default_vhost;
    let escaped = |name: &str| {
        let special = |char: char| !(char.is_alphanumeric() || matches!(char, '_' | '-'));
        name.chars().fold(String::new(), |mut text, char| {
            if special(char) {
                text.push('\\');
            }
            text.push(char);
            text
        })
    };
    let (mut configure, mut write, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for Exchange { name, role, .. } in exchanges::configured(config, vhost) {
        if name.starts_with(FEED_QUEUES) {
            // The first pattern has it.
            continue;
        }
        let is_own = matches!(role, Role::Control | Role::Presence | Role::Offline);
        // Its worker reads that of `[offline]`, by another account.
        let is_read = role != Role::Offline || config.broker.exchanges.contains_key(&name);
        let name = escaped(&name);
        if is_read {
            read.push(name.clone());
        }
        if is_own {
            configure.push(name.clone());
            write.push(name);
        }
    }
    for source in config.offline.sources.iter().filter(|_| is_default) {
        let kind = config.broker.exchanges.get(source.as_str());
        if kind.is_none_or(|kind| *kind == ExchangeKind::Direct) {
            // It is tried whether a direct one leads to the gateway where nobody is subscribed.
            write.push(escaped(source));
        }
    }
    for exchange in &config.journal.exchanges {
        let stream = escaped(&stream_of(exchange));
        configure.push(stream.clone());
        write.push(stream.clone());
        read.extend([stream, escaped(exchange)]);
    }
    for exchange in &config.feed.whole {
        let name = escaped(exchange);
        let beside = format!("{name}\\.(all|keys)");
        configure.push(beside.clone());
        write.extend([beside.clone(), name.clone()]);
        read.extend([beside, name]);
    }
    let pattern = |mut names: Vec<String>, first: &str| {
        names.sort();
        names.dedup();
        names.insert(0, first.to_owned());
        format!("^({})$", names.join("|"))
    };
    write.push("amq\\.default".to_owned());
    [configure, write, read].map(|names| pattern(names, "stentor\\.feed\\..*"))
}

fn impersonate(writable: Writable, account: &str) -> Finding {
    let question = "broker.impersonate";
    if writable.impersonates {
        let text = format!("the account {account} may publish in its users' names");
        return Finding::right(question, text);
    }
    let text = format!(
        "[broker] impersonate is on, but RabbitMQ refuses messages of the account {account} that \
         name another user"
    );
    Finding::wrong(question, text)
        .cure(format!(
            "rabbitmqctl set_user_tags {account} impersonator   (and the tags that it has)"
        ))
        .cure("[broker] impersonate = false")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::Cause, doctor::finding::Mark};

    fn judged(answer: Result<Product, BrokerError>) -> Finding {
        login("rabbit:5672", "stentor", "app", Some(answer))
    }

    fn product(name: &str, version: &str) -> Product {
        Product {
            name: name.into(),
            version: version.into(),
        }
    }

    #[test]
    fn versions_from_3_10_on_are_right() {
        for (name, version, mark) in [
            ("RabbitMQ", "3.10.8", Mark::Right),
            ("RabbitMQ", "4.3.6", Mark::Right),
            ("RabbitMQ", "10.0.1+rc.1", Mark::Right),
            ("RabbitMQ", "3.9.27", Mark::Doubtful),
            ("RabbitMQ", "", Mark::Doubtful),
            ("LavinMQ", "4.0.0", Mark::Doubtful),
        ] {
            assert_eq!(judged(Ok(product(name, version))).mark, mark, "{version}");
        }
    }

    #[test]
    fn each_refusal_has_its_cure() {
        let access = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.";
        let unknown = "NOT_ALLOWED - vhost app not found";
        let closed = "NOT_ALLOWED - access to vhost 'app' refused for user 'stentor'";
        for (error, question, cure) in [
            (
                BrokerError::AccessRefused(access.into()),
                "broker.login",
                "rabbitmqctl change_password stentor 'PASSWORD'",
            ),
            (
                BrokerError::VhostRefused(unknown.into()),
                "broker.vhost",
                "rabbitmqctl add_vhost app",
            ),
            (
                BrokerError::VhostRefused(closed.into()),
                "broker.vhost",
                "rabbitmqctl set_permissions -p app stentor '.*' '.*' '.*'",
            ),
            (
                BrokerError::Unavailable(Cause::foreign("Connection refused (os error 111)")),
                "broker.login",
                "systemctl start rabbitmq-server",
            ),
        ] {
            let found = judged(Err(error));
            assert_eq!((found.mark, found.question), (Mark::Wrong, question));
            assert_eq!(found.cure[0], cure);
        }
        let rustls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let found = judged(Err(BrokerError::Unavailable(Cause::foreign(format!(
            "TLS: {rustls}"
        )))));
        assert!(found.text.ends_with(NO_TLS), "{}", found.text);
        assert!(found.cure[0].starts_with("[broker] url = \"amqp:"));
        let found = login("rabbit:5672", "stentor", "app", None);
        assert!(found.text.contains("within 5s"), "{}", found.text);
    }

    #[test]
    fn missing_permissions_are_named_with_the_command_that_grants_them() {
        let config = Config::default();
        let mut answers = Queues::default();
        let refused = || Err(BrokerError::AccessRefused("no".into()));
        answers.note("configure", "its own queues", refused());
        answers.note("write", "the default exchange (amq.default)", refused());
        let found = permissions(&answers, &config, "stentor", "/");
        assert_eq!(found[0].mark, Mark::Wrong);
        assert!(
            found[0].text.contains(
                "may not configure its own queues, nor write the default exchange (amq.default)"
            ),
            "{}",
            found[0].text
        );
        assert!(found[0].cure[0].starts_with("rabbitmqctl set_permissions -p / stentor '^("));
        let sound = permissions(&Queues::default(), &config, "stentor", "/");
        assert!(sound.iter().all(|found| found.mark == Mark::Right));
    }

    #[test]
    fn clients_queues_need_all_permissions_or_none() {
        let config = Config::default();
        let judged = |verbs: &[&'static str], error: &dyn Fn() -> BrokerError| {
            let mut answers = Queues::default();
            for &verb in verbs {
                answers.note_own(verb, Err(error()));
            }
            let found = permissions(&answers, &config, "stentor", "/");
            let last = found.last().unwrap();
            (last.question, last.mark, last.text.clone())
        };
        let refused = || BrokerError::AccessRefused("no".into());
        let queues = "broker.queues";
        let (question, mark, text) = judged(&["configure"], &refused);
        assert_eq!((question, mark), (queues, Mark::Right), "{text}");
        let (question, mark, text) = judged(&["write", "read"], &refused);
        assert_eq!((question, mark), (queues, Mark::Doubtful), "{text}");
        assert!(text.contains("but not write and read them"), "{text}");
        // That is unknown then.
        let (question, mark, text) =
            judged(&["configure"], &|| BrokerError::Unavailable("away".into()));
        assert_eq!(
            (question, mark),
            ("broker.permissions", Mark::Wrong),
            "{text}"
        );
    }

    #[test]
    fn the_least_permissions_name_every_exchange() {
        let mut config = Config::default();
        config.broker.url = Some("amqp://u:p@host".parse().unwrap());
        config.feed.whole = vec!["my.feed".to_owned()];
        let [configure, write, read] = least(&config, "/");
        let own = "stentor\\.feed\\..*";
        assert_eq!(
            configure,
            format!("^({own}|my\\.feed\\.(all|keys)|stentor\\.control)$")
        );
        assert_eq!(
            write,
            format!("^({own}|amq\\.default|my\\.feed|my\\.feed\\.(all|keys)|stentor\\.control)$")
        );
        assert_eq!(
            read,
            format!("^({own}|my\\.feed|my\\.feed\\.(all|keys)|stentor\\.control)$")
        );
    }

    #[test]
    fn the_gateway_s_own_exchanges_are_wanted_in_the_default_virtual_host() {
        let mut config = Config::default();
        config.broker.url = Some("amqp://u:p@host".parse().unwrap());
        config.broker.exchanges = ["feed", "jobs"]
            .map(|name| (Box::<str>::from(name), ExchangeKind::Direct))
            .into();
        config.offline.sources = ["away", "feed"].map(str::to_owned).into();
        config.journal.exchanges = ["news".to_owned()].into();
        let roles = |vhost| {
            let wanted = wanted(&config, vhost, &Doctor::default());
            let roles = wanted
                .into_iter()
                .map(|one| (String::from(one.name), one.role));
            roles.collect::<Vec<_>>()
        };
        let named = |roles: &[(&str, Role)]| {
            let named = roles.iter().map(|(name, role)| ((*name).to_owned(), *role));
            named.collect::<Vec<_>>()
        };
        let here = [
            ("feed", Role::Source),
            ("jobs", Role::Clients),
            ("offline", Role::Offline),
            ("stentor.control", Role::Control),
            ("stentor.feed.offline.away", Role::Unheard),
            ("stentor.feed.offline.feed", Role::Unheard),
            // The configuration does not say their types.
            ("away", Role::Source),
            ("news", Role::Journal),
        ];
        assert_eq!(roles("/"), named(&here));
        let elsewhere = [
            ("feed", Role::Clients),
            ("jobs", Role::Clients),
            ("news", Role::Journal),
        ];
        assert_eq!(roles("app"), named(&elsewhere));
    }

    #[test]
    fn the_least_permissions_are_enough_for_journals_and_for_those_who_are_away() {
        let mut config = Config::default();
        config.broker.url = Some("amqp://u:p@host".parse().unwrap());
        config.broker.exchanges = [(Box::<str>::from("topics"), ExchangeKind::Topic)].into();
        config.journal.exchanges = ["my.news".to_owned()].into();
        config.offline.sources = ["jobs", "topics"].map(str::to_owned).into();
        let own = "stentor\\.feed\\..*";
        let both = "stentor\\.control|stentor\\.journal\\.my\\.news";
        assert_eq!(
            least(&config, "/"),
            [
                format!("^({own}|offline|{both})$"),
                format!("^({own}|amq\\.default|jobs|offline|{both})$"),
                format!("^({own}|jobs|my\\.news|{both}|topics)$"),
            ]
        );
        // What the gateway itself needs is in the default virtual host.
        let journal = "stentor\\.journal\\.my\\.news";
        assert_eq!(
            least(&config, "app"),
            [
                format!("^({own}|{journal})$"),
                format!("^({own}|amq\\.default|{journal})$"),
                format!("^({own}|my\\.news|{journal}|topics)$"),
            ]
        );
    }
}
