//! The gateway's own certificate, and those of the servers that it asks over TLS.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use rustls::{
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _, verify_server_name},
    pki_types::{ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio::net::TcpStream;
use url::Url;

use super::{
    ask::{ask, late},
    finding::Finding,
};
use crate::{
    broker,
    causes::{NO_TLS, with_causes},
    config::Config,
    listen::tls::{Concern, Served, TlsConfig, concern, not_after},
    tls_client::{roots, secure},
};

const RABBITMQ: &str = "RabbitMQ";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks at all certificates.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = own(config);
    let servers = servers(config);
    let asked = servers
        .iter()
        .map(|(name, host, port)| server(config, name, host, *port));
    findings.extend(join_all(asked).await);
    findings
}

fn own(config: &Config) -> Vec<Finding> {
    let question = "tls.certificate";
    let is_set = TlsConfig::is_set(&config.tls.certificate);
    if !is_set && (config.listen.https, config.listen.stomps) == (None, None) {
        return Vec::new();
    }
    match config.tls.served() {
        Err((key, problem)) => vec![
            Finding::wrong(question, format!("[tls] {key}: {problem}")).cure(
                "[tls] certificate = \"fullchain.pem\" and key = \"privkey.pem\", of one pair",
            ),
        ],
        Ok(served) => {
            let mut findings = vec![validity(&served, SystemTime::now())];
            findings.extend(chain(&served, &config.listen.host_names));
            findings
        }
    }
}

fn days(from: SystemTime, to: SystemTime) -> u64 {
    let left = to.duration_since(from).unwrap_or_default();
    left.as_secs().checked_div(DAY.as_secs()).unwrap_or(0)
}

fn validity(served: &Served, now: SystemTime) -> Finding {
    let question = "tls.certificate";
    let Served {
        subject, not_after, ..
    } = served;
    let date = humantime::format_rfc3339_seconds(*not_after);
    let renew = "renew it (certbot renew), then: systemctl reload stentor";
    match concern(served.not_before, *not_after, now) {
        None => Finding::right(
            question,
            format!(
                "the certificate of {subject} fits its key, and ends in {} days ({date})",
                days(now, *not_after)
            ),
        ),
        Some(Concern::EndsSoon) => Finding::doubtful(
            question,
            format!(
                "the certificate of {subject} ends in {} days ({date})",
                days(now, *not_after)
            ),
        )
        .cure(renew),
        Some(Concern::Expired) => Finding::wrong(
            question,
            format!("the certificate of {subject} has expired ({date}): no client connects"),
        )
        .cure(renew),
        Some(Concern::NotYet) => Finding::wrong(
            question,
            format!("the certificate of {subject} does not hold yet: no client connects"),
        )
        .cure("timedatectl set-ntp true   (if this clock is wrong)"),
    }
}

/// Whether authorities of this system vouch for it, and for the names by which clients come.
fn chain(served: &Served, host_names: &[String]) -> Vec<Finding> {
    let question = "tls.certificate";
    let Some((own, between)) = served.chain.split_first() else {
        return Vec::new();
    };
    let (names, mut findings) = names(served, host_names);
    if names.is_empty() {
        return findings;
    }
    let Ok(roots) = roots() else {
        let text = "this system has no certificate authorities, so the chain was not tried";
        let verify = "openssl verify -untrusted fullchain.pem fullchain.pem";
        findings.push(Finding::unasked(question, text).cure(verify));
        return findings;
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let Ok(verifier) = verifier else {
        return findings;
    };
    for (name, server) in names {
        let verdict = verifier.verify_server_cert(own, between, &server, &[], UnixTime::now());
        findings.push(verified(name, verdict.err()));
    }
    findings
}

/// The names to try its chain by; and what is wrong with others, whoever vouches for it.
fn names<'n>(
    served: &'n Served,
    host_names: &'n [String],
) -> (Vec<(&'n str, ServerName<'static>)>, Vec<Finding>) {
    let question = "tls.certificate";
    let (mut names, mut findings) = (Vec::new(), Vec::new());
    // A subject (CN=…) is a name for people alone.
    if served.names.is_empty() {
        let text = format!(
            "the certificate of {} is for no name: it has no subject alternative names, and \
             browsers look at nothing else: they refuse it",
            served.subject
        );
        let name = host_names.first().map_or("NAME", String::as_str);
        let cure = format!(
            "get one that has them: certbot certonly -d {name}   (openssl req: -addext \
             'subjectAltName=DNS:{name}')"
        );
        return (names, vec![Finding::wrong(question, text).cure(cure)]);
    }
    let own = served.chain.first();
    let own = own.and_then(|own| ParsedCertificate::try_from(own).ok());
    // Without a configured one, one of its own that can be read stands for all.
    let (wanted, most) = match host_names {
        [] => (&*served.names, 1),
        wanted => (wanted, wanted.len()),
    };
    for name in wanted {
        if names.len() >= most {
            break;
        }
        // Any name below stands for all.
        let Ok(server) = ServerName::try_from(name.replacen('*', "www", 1)) else {
            let text = format!("the name {name} is none that TLS knows, and was not tried");
            findings.push(
                Finding::doubtful(question, text)
                    .cure("get a certificate for names such as push.example.com"),
            );
            continue;
        };
        let fits = own.as_ref().map(|own| verify_server_name(own, &server));
        match fits {
            Some(Err(error)) => findings.push(verified(name, Some(error))),
            _ => names.push((name, server)),
        }
    }
    (names, findings)
}

fn verified(name: &str, error: Option<rustls::Error>) -> Finding {
    let question = "tls.certificate";
    use rustls::CertificateError as Fault;
    match error {
        None => Finding::right(
            question,
            format!("an authority of this system vouches for it as {name}"),
        ),
        Some(rustls::Error::InvalidCertificate(
            Fault::NotValidForName | Fault::NotValidForNameContext { .. },
        )) => Finding::wrong(
            question,
            format!(
                "the certificate is not for the name {name}: clients that come by it refuse it"
            ),
        )
        .cure(format!(
            "get one for {name}, or correct [listen] host_names"
        )),
        Some(rustls::Error::InvalidCertificate(
            Fault::Expired
            | Fault::ExpiredContext { .. }
            | Fault::NotValidYet
            | Fault::NotValidYetContext { .. },
        )) => Finding::wrong(
            question,
            format!(
                "clients that come by {name} refuse it: a \
             certificate of the chain holds no more, or not yet"
            ),
        )
        .cure("renew the certificate, and put those between it and its authority behind it"),
        Some(error) => Finding::doubtful(
            question,
            format!(
                "no authority of this system vouches for the certificate ({error}): browsers \
                 refuse it, unless its authority is your own"
            ),
        )
        .cure("[tls] certificate = \"fullchain.pem\"   (with those between it and its authority)"),
    }
}

/// The servers that are spoken to over TLS, each once: whose, host and port.
fn servers(config: &Config) -> Vec<(&'static str, String, u16)> {
    let mut servers = Vec::new();
    let mut add = |name, host: String, port| {
        let is_new =
            |(_, other, other_port): &(_, String, u16)| *other != host || *other_port != port;
        if servers.iter().all(is_new) {
            servers.push((name, host, port));
        }
    };
    for url in config.broker.all_urls() {
        if let broker::Url::Amqp(url) = url
            && url.reveal().starts_with("amqps:")
        {
            add(RABBITMQ, url.host().to_owned(), url.port().unwrap_or(5671));
        }
    }
    let urls = config
        .auth
        .hook_urls()
        .into_iter()
        .map(|(_, url)| ("the hook", url));
    let issuer = Url::parse(&config.auth.jwt.jwks_url).ok();
    let collector = config.otlp.request().map(|(url, _)| url);
    let others = [
        issuer.map(|url| ("the tokens' issuer", url)),
        collector.map(|url| ("the collector", url)),
    ];
    for (name, url) in urls.chain(others.into_iter().flatten()) {
        if url.scheme() == "https"
            && let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default())
        {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            add(name, host.to_owned(), port);
        }
    }
    servers
}

async fn server(config: &Config, name: &str, host: &str, port: u16) -> Finding {
    let (answer, time) = ask(async {
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(Failed::Away)?;
        // A server that wants it may end the handshake without. It is shown to no other.
        let certificate = match name {
            RABBITMQ => config.broker.certificate_to_show().await,
            _ => None,
        };
        let secured = secure(stream, host, certificate).await;
        let secured = secured.map_err(Failed::Tls)?;
        let (_, connection) = secured.get_ref();
        let own = connection.peer_certificates().and_then(<[_]>::first);
        Ok(own.and_then(not_after))
    })
    .await;
    judge_server(name, &format!("{host}:{port}"), answer, SystemTime::now()).took(time)
}

/// Why there is no certificate to look at.
enum Failed {
    Away(std::io::Error),
    Tls(std::io::Error),
}

fn judge_server(
    name: &str,
    place: &str,
    answer: Option<Result<Option<SystemTime>, Failed>>,
    now: SystemTime,
) -> Finding {
    let question = "tls.server";
    let what = format!("TLS of {name} at {place}");
    match answer {
        Some(Ok(end)) => {
            let end = end.unwrap_or(now);
            let left = days(now, end);
            let text = format!("{what}: the certificate is trusted, and ends in {left} days");
            match concern(now, end, now) {
                None => Finding::right(question, text),
                Some(_) => Finding::doubtful(question, text).cure("renew it there"),
            }
        }
        Some(Err(Failed::Tls(error))) => {
            let why = with_causes(&error);
            let found = Finding::wrong(question, format!("{what}: {why}"));
            match why.contains(NO_TLS) {
                // There is no certificate to blame.
                true => found.cure("correct its URL in the configuration"),
                false => found
                    .cure("renew the certificate there, or use the name that it is for")
                    .cure("SSL_CERT_FILE=AUTHORITY.pem   (an authority of your own)"),
            }
        }
        Some(Err(Failed::Away(error))) => {
            Finding::unasked(question, format!("{what} was not looked at: {error}"))
        }
        None => Finding::wrong(question, format!("{what}: it {}", late())),
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::UNIX_EPOCH};

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;
    use crate::doctor::finding::Mark;

    #[test]
    fn the_end_of_a_certificate_is_told_in_days() {
        let now = SystemTime::now();
        let served = |from: SystemTime, to: SystemTime| Served {
            subject: "CN=push.example.com".to_owned(),
            not_before: from,
            not_after: to,
            names: Vec::new(),
            chain: Vec::new(),
        };
        let past = now - DAY;
        for (from, to, mark, words) in [
            (past, now + 90 * DAY, Mark::Right, "ends in 90 days"),
            (past, now + 3 * DAY, Mark::Doubtful, "ends in 3 days"),
            (past - DAY, past, Mark::Wrong, "has expired"),
            (now + DAY, now + 9 * DAY, Mark::Wrong, "does not hold yet"),
        ] {
            let found = validity(&served(from, to), now);
            assert_eq!(found.mark, mark);
            assert!(found.text.contains(words), "{}", found.text);
        }
    }

    /// A certificate for these names, by its own authority.
    fn served_for(names: &[SanType]) -> Served {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = names.iter().filter_map(|name| match name {
            SanType::DnsName(name) => Some(name.to_string()),
            _ => None,
        });
        Served {
            subject: "CN=push.example.com".to_owned(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH,
            names: names.collect(),
            chain: vec![certificate.der().clone()],
        }
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn a_certificate_without_alternative_names_is_for_nobody() {
        let mail = SanType::Rfc822Name("push@example.com".try_into().unwrap());
        let host_names = ["push.example.com".to_owned()];
        for names in [&[][..], &[mail]] {
            let served = served_for(names);
            for host_names in [&[][..], &host_names] {
                let found = chain(&served, host_names);
                assert_eq!((found.len(), found[0].mark), (1, Mark::Wrong), "{found:?}");
                let text = &found[0].text;
                assert!(text.contains("no subject alternative names"), "{text}");
                assert!(found[0].cure[0].contains("certbot certonly -d "));
            }
        }
    }

    #[test]
    fn a_name_that_cannot_be_tried_is_told() {
        let odd = "push example com";
        let served = served_for(&[dns(odd), dns("push.example.com"), dns("*.example.org")]);
        let (tried, found) = names(&served, &[]);
        let tried: Vec<_> = tried.iter().map(|(name, _)| *name).collect();
        assert_eq!(tried, ["push.example.com"]);
        assert_eq!((found.len(), found[0].mark), (1, Mark::Doubtful));
        assert!(found[0].text.contains(odd), "{found:?}");

        let served = served_for(&[dns("push.example.com"), dns("*.example.org")]);
        let host_names = ["push.example.com", "a.example.org", "-", "push.example.net"];
        let host_names = host_names.map(str::to_owned);
        let (tried, found) = names(&served, &host_names);
        let tried: Vec<_> = tried.iter().map(|(name, _)| *name).collect();
        assert_eq!(tried, ["push.example.com", "a.example.org"]);
        // That is so by any authority.
        let marks: Vec<_> = found.iter().map(|found| found.mark).collect();
        assert_eq!(marks, [Mark::Doubtful, Mark::Wrong], "{found:?}");
        assert!(
            found[1]
                .text
                .contains("is not for the name push.example.net")
        );
    }

    #[test]
    fn a_server_s_tls_is_judged() {
        let now = SystemTime::now();
        let judged = |answer| judge_server("the hook", "app:443", Some(answer), now).mark;
        assert_eq!(judged(Ok(Some(now + 90 * DAY))), Mark::Right);
        assert_eq!(judged(Ok(Some(now + DAY))), Mark::Doubtful);
        let error = || io::Error::other("invalid peer certificate: Expired");
        assert_eq!(judged(Err(Failed::Tls(error()))), Mark::Wrong);
        assert_eq!(judged(Err(Failed::Away(error()))), Mark::Unasked);
        let rustls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let plain = Failed::Tls(io::Error::new(io::ErrorKind::InvalidData, rustls));
        let found = judge_server("RabbitMQ", "rabbit:5672", Some(Err(plain)), now);
        assert!(found.text.ends_with(NO_TLS), "{}", found.text);
        let cures = found.cure.join(" ");
        assert!(!cures.contains("certificate") && !cures.contains("SSL_CERT_FILE"));
    }

    #[test]
    fn each_server_is_asked_once() {
        let mut config = Config::default();
        config.broker.url = Some("amqps://u:p@rabbit.example".parse().unwrap());
        config.auth.hook = Some("https://app.example/auth".to_owned());
        config.auth.jwt.jwks_url = "https://app.example/jwks".to_owned();
        let servers = servers(&config);
        assert_eq!(
            servers,
            [
                ("RabbitMQ", "rabbit.example".to_owned(), 5671),
                ("the hook", "app.example".to_owned(), 443),
            ]
        );
    }
}
