//! From the settings of RabbitMQ's OAuth 2 plug-in (`auth_oauth2.*`) to `[auth.jwt]`.

use url::Url;

use super::{
    conf::Setting,
    keys::TLS_LIBRARY,
    rules::{Draft, has_secret, quote, switch},
};

const SECTION: &str = "auth.jwt";

/// The algorithms of public keys that Stentor has.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

const UNUSED: &str = "is not used by RabbitMQ: auth_backends does not name oauth2";
const INCOMPLETE: &str = "cannot be translated alone: [auth.jwt] needs keys (jwks_uri or \
                          signing_keys, with an address or files that it can use) and an audience \
                          (resource_server_id); see docs/jwt.md";
const LOGINS: &str = "tokens log in: see [auth.jwt]";
const NO_DISCOVERY: &str = "Stentor does no discovery: write the `jwks_uri` that the issuer's \
                            /.well-known/openid-configuration names into [auth.jwt] jwks_url";
const ISSUER: &str = "is where RabbitMQ looks for the issuer's addresses, and Stentor has the keys' \
                      own. To refuse tokens of other issuers, list this one in [auth.jwt] issuers";
const PAGES: &str =
    "is for the pages of RabbitMQ's management plug-in, and for discovery: leave it out";
const ONE: &str = "Stentor takes tokens of one set of keys and rules: bring the keys of all issuers \
                   together in one JWKS or in [auth.jwt] public_keys, or let the hook check the others";
const ALIASES: &str = "scopes have no other names: let the issuer write those that they stand for, \
                       or list rights in [auth.jwt] subscribe and send";
const RICH: &str = "rich authorization requests are not read: let the issuer write scopes";
const NEXT_CLAIM: &str = "a user is named by one claim (user_claim), the first of these: let the \
                          issuer write it into every token";
const DEFAULT_KEY: &str = "a token that names no key is tried with all of them: nothing to choose";
const CERTIFICATE: &str = "the certificate of the issuer is always checked, against the system's \
                           certificate authorities: add yours to them";

impl<'a> Draft<'a> {
    /// `logins` are the lines that name the plug-in as a backend; with `asks_hook`, the hook says
    /// what their users may do.
    pub(super) fn tokens(&mut self, logins: &[Setting<'a>], asks_hook: bool) {
        let all = self.take_all("auth_oauth2.*");
        if logins.is_empty() {
            for setting in all {
                self.same(&setting, UNUSED);
            }
            return;
        }
        let [jwks, old_jwks, audience] =
            ["jwks_uri", "jwks_url", "resource_server_id"].map(|name| find(&all, name));
        let url = jwks.or(old_jwks);
        let jwks_url = url.and_then(|setting| self.jwks_url(&setting));
        let files: Vec<_> = below(&all, "signing_keys").collect();
        let pem = files
            .iter()
            .filter_map(|setting| self.read(setting, Ok(quote(setting.value))))
            .collect::<Vec<_>>();
        let own_name = audience.and_then(|own| Some((own, self.read(&own, Ok(own.value))?)));
        let Some((audience, own_name)) = own_name.filter(|_| jwks_url.is_some() || !pem.is_empty())
        else {
            for setting in logins.iter().chain(&all) {
                self.without(setting, INCOMPLETE);
            }
            return;
        };
        for setting in logins {
            self.same(setting, LOGINS);
        }
        if let (Some(url), Some(setting)) = (jwks_url, url) {
            self.enter((SECTION, "jwks_url"), quote(&url), &[setting], None);
        }
        if let (Some(_), Some(old)) = (jwks, old_jwks) {
            self.same(&old, "auth_oauth2.jwks_uri counts before it");
        }
        if !pem.is_empty() {
            let list = format!("[{}]", pem.join(", "));
            let comment = "Where Stentor runs, these files have to be, too.";
            self.enter((SECTION, "public_keys"), list, &files, Some(comment));
        }
        self.audience(&all, (audience, own_name));
        if asks_hook {
            let comment =
                "As auth_backends has it: tokens log in, and the hook is asked for rights.";
            let hook = quote("hook");
            self.enter((SECTION, "rights"), hook, &[], Some(comment));
        } else {
            self.scopes(&all, (audience, own_name));
        }
        self.claims(&all);
        self.algorithms(&all);
        let has_jwks = url.is_some();
        for setting in all {
            self.others(&setting, has_jwks);
        }
    }

    /// The address of the keys, if Stentor asks there: RabbitMQ takes https alone, too.
    fn jwks_url(&mut self, setting: &Setting<'_>) -> Option<String> {
        let is_https = Url::parse(setting.value).is_ok_and(|url| url.scheme() == "https");
        let why = "is no URL with https://, as the keys' address has to be";
        let text = self.read(setting, is_https.then_some(setting.value).ok_or(why))?;
        if has_secret(text) {
            let why = "holds a password or a token, which is not shown: set the variable \
                       STENTOR__AUTH__JWT__JWKS_URL";
            self.without(setting, why);
            return None;
        }
        Some(text.to_owned())
    }

    fn audience(&mut self, all: &[Setting<'_>], (own, name): (Setting<'_>, &str)) {
        let verify = find(all, "verify_aud");
        let is_checked = verify.and_then(|verify| self.read(&verify, switch(verify.value)));
        if let (Some(false), Some(verify)) = (is_checked, verify) {
            let comment = "Tokens that were made for other programs count, too.";
            let on = "true".to_owned();
            self.enter((SECTION, "any_audience"), on, &[verify], Some(comment));
            return;
        }
        if let (Some(true), Some(verify)) = (is_checked, verify) {
            self.same(&verify, "the audience is checked: see [auth.jwt] audiences");
        }
        let list = format!("[{}]", quote(name));
        self.enter((SECTION, "audiences"), list, &[own], None);
    }

    /// RabbitMQ's own scopes. They begin with the name of the resource server, unless a prefix is
    /// set.
    fn scopes(&mut self, all: &[Setting<'_>], (own, name): (Setting<'_>, &str)) {
        let prefix = find(all, "scope_prefix");
        let begin = match prefix {
            None => Some((own, name)),
            Some(setting) => {
                let why = "Stentor's scopes begin with a name and a dot ([auth.jwt] \
                           resource_server_id): let the issuer write them so, or list rights in \
                           [auth.jwt] subscribe and send";
                let name = setting.value.strip_suffix('.');
                let name = name.filter(|name| !name.is_empty() && !name.contains("$("));
                if name.is_none() {
                    self.without(&setting, why);
                }
                name.map(|name| (setting, name))
            }
        };
        if let Some((from, name)) = begin {
            let target = (SECTION, "resource_server_id");
            self.enter(target, quote(name), &[from], None);
        }
        let Some(more) = find(all, "additional_scopes_key") else {
            return;
        };
        if more.value.contains(' ') {
            let why = "names several claims, and Stentor reads the scopes of one ([auth.jwt] \
                       scope_claim): let the issuer write all of them there";
            self.without(&more, why);
        } else if let Some(claim) = self.read(&more, Ok(quote(more.value))) {
            let comment = "RabbitMQ reads this claim and `scope`, Stentor only this one: all scopes \
                           have to be in it.";
            self.enter((SECTION, "scope_claim"), claim, &[more], Some(comment));
        }
    }

    fn claims(&mut self, all: &[Setting<'_>]) {
        let mut names: Vec<_> = below(all, "preferred_username_claims").collect();
        // By their numbers.
        names.sort_by_key(|setting| (setting.key.len(), setting.key));
        if let Some((first, others)) = names.split_first() {
            if let Some(claim) = self.read(first, Ok(quote(first.value))) {
                let comment = "RabbitMQ falls back on `sub`; here, a token without it is refused.";
                self.enter((SECTION, "user_claim"), claim, &[*first], Some(comment));
            }
            for other in others {
                self.without(other, NEXT_CLAIM);
            }
        }
        if let Some(setting) = find(all, "require_exp")
            && let Some(is_needed) = self.read(&setting, switch(setting.value))
        {
            let target = (SECTION, "require_expiry");
            self.enter(target, is_needed.to_string(), &[setting], None);
        }
    }

    fn algorithms(&mut self, all: &[Setting<'_>]) {
        let (known, others): (Vec<_>, Vec<_>) =
            below(all, "algorithms").partition(|setting| ALGORITHMS.contains(&setting.value));
        for other in others {
            let why = match other.value.starts_with("HS") {
                true => {
                    "goes by a shared secret: set [auth.jwt] secret_file, and leave out \
                         `algorithms` or add this one"
                }
                false => {
                    "is no algorithm that Stentor checks: let the issuer sign by RS256 or \
                          ES256, say"
                }
            };
            self.without(&other, why);
        }
        if !known.is_empty() {
            let list: Vec<_> = known.iter().map(|setting| quote(setting.value)).collect();
            let list = format!("[{}]", list.join(", "));
            self.enter((SECTION, "algorithms"), list, &known, None);
        }
    }

    /// All that is no entry.
    fn others(&mut self, setting: &Setting<'_>, has_jwks: bool) {
        let mut words = setting.key.split('.').skip(1);
        let (name, next) = (words.next().unwrap_or_default(), words.next());
        match (name, next, setting.value) {
            ("issuer", ..) if has_jwks => self.same(setting, ISSUER),
            ("issuer", ..) => self.without(setting, NO_DISCOVERY),
            ("default_key", ..) => self.same(setting, DEFAULT_KEY),
            ("scope_aliases", ..) => self.without(setting, ALIASES),
            ("resource_server_type", ..) => self.without(setting, RICH),
            ("oauth_providers" | "default_oauth_provider" | "resource_servers", ..) => {
                self.without(setting, ONE);
            }
            (
                "token_endpoint"
                | "end_session_endpoint"
                | "authorization_endpoint"
                | "discovery_endpoint_path"
                | "discovery_endpoint_params",
                ..,
            ) => self.same(setting, PAGES),
            ("https", Some("peer_verification" | "verify"), "verify_peer") => {
                self.same(setting, CERTIFICATE);
            }
            ("https", Some("hostname_verification"), "wildcard") => self.same(setting, CERTIFICATE),
            (
                "https",
                Some("peer_verification" | "verify" | "hostname_verification" | "cacertfile"),
                _,
            ) => self.without(setting, CERTIFICATE),
            ("https", ..) => self.without(setting, TLS_LIBRARY),
            // The others have been taken, but for keys that are not known.
            (
                "jwks_uri"
                | "jwks_url"
                | "signing_keys"
                | "resource_server_id"
                | "scope_prefix"
                | "additional_scopes_key"
                | "verify_aud"
                | "require_exp"
                | "preferred_username_claims"
                | "algorithms",
                ..,
            ) => self.spoken_of(setting),
            _ => self.unknown(setting),
        }
    }

    /// Every line is spoken of: if it is neither an entry nor has a note, it changes nothing here.
    fn spoken_of(&mut self, setting: &Setting<'_>) {
        let is_here = |line| line == setting.line;
        let mut entries = self.entries.iter().flat_map(|entry| &entry.from);
        let has_note = self.notes.iter().any(|note| is_here(note.line));
        if !has_note && !entries.any(|(line, _)| is_here(*line)) {
            let why = "has no part in what is written: rights are the hook's, or scopes have a \
                       prefix of their own, or the audience is not checked";
            self.same(setting, why);
        }
    }
}

fn find<'a>(all: &[Setting<'a>], name: &str) -> Option<Setting<'a>> {
    let mut all = all.iter().copied();
    all.find(|setting| setting.key.strip_prefix("auth_oauth2.") == Some(name))
}

/// All that are one word below a name, in the order of the lines.
fn below<'a>(all: &[Setting<'a>], name: &'static str) -> impl Iterator<Item = Setting<'a>> {
    let all = all.iter().copied();
    all.filter(move |setting| {
        let rest = setting.key.strip_prefix("auth_oauth2.");
        let rest = rest.and_then(|rest| rest.strip_prefix(name)?.strip_prefix('.'));
        rest.is_some_and(|rest| !rest.contains('.'))
    })
}
