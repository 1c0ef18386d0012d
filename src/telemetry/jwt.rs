//! Tokens, the keys of their issuer, and logins that are renewed.

use std::fmt::Debug;

use tracing::{debug, error, info, warn};

use super::{ConnectionInfo, event::says_denial, metrics::COUNTS};
use crate::codes::Code;

/// The issuer's keys were fetched, or could not be.
pub fn jwks_fetched(is_fetched: bool) {
    let outcome = if is_fetched { "fetched" } else { "failed" };
    COUNTS
        .jwks_fetches
        .get_or_create(&[("outcome", outcome)])
        .inc();
}

/// The issuer's keys cannot be fetched, nor could they `unsaid` times more since this was said the
/// last time. Those of before count.
pub fn jwks_unavailable(url: &str, cause: &str, unsaid: u64) {
    error!(
        target: "stentor::auth", code = Code::KeysUnavailable.name(), url, unsaid,
        "the keys of the tokens' issuer cannot be fetched, those of before stay: {cause}"
    );
}

/// The issuer's keys can be fetched again; so many failures went unsaid.
pub fn jwks_answers_again(url: &str, unsaid: u64) {
    info!(target: "stentor::auth", url, unsaid, "the keys of the tokens' issuer are there");
}

/// A token was not tried with all of its issuer's `keys` for its algorithm: they are too many, and it
/// or they have no names.
pub fn jwks_crowded(url: &str, algorithm: &dyn Debug, keys: usize) {
    warn!(
        target: "stentor::auth", url, ?algorithm, keys,
        "a token was refused that was not tried with all keys of the tokens' issuer: there are many, \
         and it or they have no kid"
    );
}

/// A token does not count.
pub fn token_refused(why: &'static str) {
    COUNTS.tokens_refused.get_or_create(&[("why", why)]).inc();
}

/// A client has renewed its login, and lost so many subscriptions by that.
pub fn login_renewed(connection: &ConnectionInfo<'_>, lost: usize) {
    renewal("renewed");
    debug!(
        target: "stentor::connection", session = connection.session, user = connection.user, lost,
        "login renewed"
    );
}

/// A login was not renewed; the session goes on until its own end. A few of each user are said, and how
/// many went unsaid before.
pub fn renewal_refused(connection: &ConnectionInfo<'_>, cause: &str) {
    renewal("refused");
    let Some(count) = says_denial(connection) else {
        return;
    };
    let unsaid = (count > 0).then_some(count);
    info!(
        target: "stentor::connection", session = connection.session, user = connection.user,
        unsaid, cause, "renewal refused"
    );
}

fn renewal(outcome: &'static str) {
    COUNTS.renewals.get_or_create(&[("outcome", outcome)]).inc();
}
