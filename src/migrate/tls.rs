//! TLS, and clients' certificates. RabbitMQ's own TLS (`ssl_options`) is that of the plug-in for
//! TCP, too, and the one for WebSockets has keys of its own (`web_stomp.ssl`), without any about
//! clients' certificates. Here it is one section.

use super::{
    conf::Setting,
    keys::TLS_LIBRARY,
    rules::{Draft, Fate, quote, switch},
};

const OF_STOMPS: &str = "ssl_options";
const OF_HTTPS: &str = "web_stomp.ssl";

impl Draft<'_> {
    /// The needs of listeners with TLS. Without such a listener, `ssl_options` are RabbitMQ's own.
    pub(super) fn tls(&mut self) {
        let stomps = self.listens("stomps").then_some(OF_STOMPS);
        let https = self.listens("https").then_some(OF_HTTPS);
        let used: Vec<&str> = stomps.into_iter().chain(https).collect();
        self.certificate(&used);
        if stomps.is_some() {
            self.client_certificates(https.is_some());
        }
        self.certificate_login(stomps.is_some());
        self.versions(&used);
        for prefix in used {
            self.rest_of_tls(prefix);
        }
    }

    fn certificate(&mut self, used: &[&str]) {
        for (word, key, comment) in [
            (
                "certfile",
                "certificate",
                "Append the certificates between it and the authority, if they are in cacertfile.",
            ),
            (
                "keyfile",
                "key",
                "Stentor's system user has to be able to read it.",
            ),
        ] {
            for prefix in used {
                if let Some(path) = self.take(&format!("{prefix}.{word}")) {
                    self.tls_file(key, &path, comment);
                }
            }
        }
    }

    /// A file, unless the other plug-in has named another one.
    fn tls_file(&mut self, key: &'static str, path: &Setting<'_>, comment: &str) {
        let Some(value) = self.read(path, Ok(quote(path.value))) else {
            return;
        };
        let former = self.entry_mut(("tls", key));
        match former {
            None => self.enter(("tls", key), value, &[*path], Some(comment)),
            Some(former) if former.value == value => {
                former.from.push((path.line, path.key.to_owned()));
            }
            Some(former) => {
                let lines = former.from.iter().map(|(line, _)| line.to_string());
                let why = format!(
                    "https and stomps have one certificate, and that of line {} is written: use \
                     one that is for the names of both",
                    lines.collect::<Vec<_>>().join(", ")
                );
                self.without(path, why);
            }
        }
    }

    fn client_certificates(&mut self, has_https: bool) {
        const UNASKED: &str =
            "is not used: clients are asked for no certificate (ssl_options.verify)";
        const HTTPS: &str = "[tls] client_certificates counts for https, too, where RabbitMQ asks \
                             for none: browsers without a certificate are refused as it is \
                             written. With \"optional\" they are let in, but so is over stomps \
                             who has none and logs in by name and password";
        let verify = self.take("ssl_options.verify");
        let fail = self.take("ssl_options.fail_if_no_peer_cert");
        let asked = verify.and_then(|verify| {
            let read = match verify.value {
                "verify_peer" => Ok(true),
                "verify_none" => Ok(false),
                _ => Err("is neither verify_peer nor verify_none"),
            };
            Some((verify, self.read(&verify, read)?))
        });
        let required = fail.and_then(|fail| self.read(&fail, switch(fail.value)));
        let Some((verify, true)) = asked else {
            if let Some((verify, _)) = asked {
                let off = quote("off");
                self.enter(("tls", "client_certificates"), off, &[verify], None);
            }
            if let (Some(fail), Some(_)) = (fail, required) {
                self.same(&fail, UNASKED);
            }
            return;
        };
        let is_required = required == Some(true);
        let word = if is_required { "required" } else { "optional" };
        let from: Vec<_> = [verify].into_iter().chain(fail).collect();
        let comment = has_https.then_some("Counts for https, too.");
        self.enter(("tls", "client_certificates"), quote(word), &from, comment);
        if is_required && has_https {
            self.without(&verify, HTTPS);
        }
        if let Some(authority) = self.take("ssl_options.cacertfile")
            && let Some(path) = self.read(&authority, Ok(quote(authority.value)))
        {
            self.enter(("tls", "client_ca"), path, &[authority], None);
        }
    }

    fn certificate_login(&mut self, has_stomps: bool) {
        const OTHER: &str = "a user's name is read from a certificate's distinguished_name or \
                             common_name: write [auth] certificate_login = \"common_name\" if it is \
                             there, too";
        let Some(login) = self.take("stomp.ssl_cert_login") else {
            return;
        };
        let target = ("auth", "certificate_login");
        match self.read(&login, switch(login.value)) {
            Some(true) if has_stomps => {}
            Some(true) => return self.same(&login, "is not used: there is no stomp.listeners.ssl"),
            Some(false) => return self.enter(target, quote("off"), &[login], None),
            None => return,
        }
        let from = self.take("ssl_cert_login_from");
        let settings: Vec<_> = [login].into_iter().chain(from).collect();
        match from.map_or("distinguished_name", |from| from.value) {
            word @ ("distinguished_name" | "common_name") => {
                self.enter(target, quote(word), &settings, None);
            }
            _ => {
                let others = self.take_all("ssl_cert_login_san_type");
                let index = self.take_all("ssl_cert_login_san_index");
                for setting in settings.into_iter().chain(others).chain(index) {
                    self.without(&setting, OTHER);
                }
            }
        }
    }

    fn versions(&mut self, used: &[&str]) {
        const OTHERS: &str = "[tls] min_version counts for https and stomps, and the other one's \
                              clients may speak TLS 1.2: write min_version = \"1.3\" if none does";
        const OLD: &str = "TLS 1.1 and older are not spoken, for they are broken: clients that \
                           know nothing newer have to be renewed";
        let lists: Vec<Vec<_>> = used
            .iter()
            .map(|prefix| self.take_all(&format!("{prefix}.versions.$")))
            .collect();
        let is_new = |list: &[Setting<'_>]| {
            !list.is_empty() && list.iter().all(|version| version.value == "tlsv1.3")
        };
        if !lists.is_empty() && lists.iter().all(|list| is_new(list)) {
            let from = lists.concat();
            return self.enter(("tls", "min_version"), quote("1.3"), &from, None);
        }
        for list in lists {
            let is_new = is_new(&list);
            for version in list {
                match version.value {
                    "tlsv1.3" if is_new => self.without(&version, OTHERS),
                    "tlsv1.3" | "tlsv1.2" => {
                        self.same(&version, "the default: [tls] min_version = \"1.2\"");
                    }
                    "tlsv1.1" | "tlsv1" | "sslv3" => self.without(&version, OLD),
                    _ => {
                        let why = "is no version of TLS: tlsv1.3, tlsv1.2 and so on";
                        self.note(&version, Fate::Wrong(why.to_owned()));
                    }
                }
            }
        }
    }

    fn rest_of_tls(&mut self, prefix: &str) {
        const PASSWORD: &str = "the key must not be encrypted: write a plain one by `openssl pkey \
                                -in KEY -out PLAIN`, which only Stentor's system user may read";
        const REVOKED: &str = "revocation lists are not looked at: let the hook refuse such users";
        const AUTHORITY: &str = "is not needed where clients are asked for no certificate. But \
                                 RabbitMQ sends what is in it with its own certificate: append the \
                                 certificates between that and the authority to [tls] certificate";
        if let Some(authority) = self.take(&format!("{prefix}.cacertfile")) {
            self.without(&authority, AUTHORITY);
        }
        if let Some(password) = self.take(&format!("{prefix}.password")) {
            self.without(&password, PASSWORD);
        }
        if let Some(revoked) = self.take(&format!("{prefix}.crl_check")) {
            match revoked.value {
                "false" => self.same(&revoked, REVOKED),
                _ => self.without(&revoked, REVOKED),
            }
        }
        if prefix == OF_STOMPS {
            for other in self.take_all("ssl_options.*") {
                self.without(&other, TLS_LIBRARY);
            }
        }
    }
}
