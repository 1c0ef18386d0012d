//! The task that looks for new tokens, tries them, and has the links told.
//!
//! RabbitMQ answers `connection.update-secret` with a token that it does not take by closing the
//! connection. So a new token first logs in by itself, on a connection of its own; only then all
//! links that live are told. If it is not taken, they keep the one of before.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use humantime::format_rfc3339_seconds;
use tokio::time::sleep;

use super::{
    Account,
    tokens::{Numbered, SOON, Tokens},
};
use crate::{
    backoff::Backoff,
    broker::{
        BrokerError,
        account::token::next_look,
        amqp::{link::LinkConfig, reader},
    },
    telemetry::{self, Repeated},
};

/// Keeps the token of `config`'s account up to date, for ever; ends at once if it has none.
pub(in crate::broker::amqp) async fn keep(config: LinkConfig) {
    let account = Arc::clone(&config.account);
    let Some(tokens) = account.tokens() else {
        return;
    };
    let mut faults = Repeated::default();
    let pauses = || Backoff::new((SOON, tokens.refresh.max(SOON)));
    let (mut backoff, mut refusals) = (pauses(), pauses());
    let mut last = None;
    loop {
        let pause = match look(&account, tokens, &config).await {
            Ok(token) => {
                // The first one is good when a link has logged in by it.
                if tokens.is_good(&token) {
                    let is_new = last.replace(token.number) != Some(token.number);
                    if faults.end() || is_new {
                        telemetry::broker_token_good(tokens.key(), token.expires());
                    }
                    if is_new {
                        refusals.reset();
                    }
                }
                backoff.reset();
                let left = token.left(SystemTime::now());
                next_look(tokens.origin(), left, tokens.refresh)
            }
            Err(fault) => {
                telemetry::broker_token_failed();
                if faults.is_news(&fault, Instant::now()) {
                    telemetry::broker_token_kept(tokens.key(), &fault);
                }
                backoff.pause()
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            // It may be that there is another one by now.
            () = tokens.look_again.notified() => sleep(refusals.pause()).await,
        }
    }
}

/// Asks the source, and tries what it has, if links may need it. The token, or the fault.
async fn look(
    account: &Account,
    tokens: &Tokens,
    config: &LinkConfig,
) -> Result<Arc<Numbered>, String> {
    let token = tokens.read().await.map_err(String::from)?;
    if let Some(end) = token.expires().filter(|_| token.is_over(SystemTime::now())) {
        let end = format_rfc3339_seconds(end);
        return Err(format!(
            "the token ended at {end}, and there is no newer one"
        ));
    }
    if !tokens.is_news(&token) {
        return match tokens.is_refused(&token) {
            true => Err("RabbitMQ lets no link in by this token".to_owned()),
            false => Ok(token),
        };
    }
    let credentials = account.credentials_with(Some(Arc::clone(&token))).await;
    let credentials = credentials.map_err(|error| error.to_string())?;
    match reader::log_in_once(config, &credentials).await {
        Ok(()) => {
            account.accepted(&credentials);
            Ok(token)
        }
        // The outage of a broker is told by its links; those that come back log in by this token.
        Err(error @ BrokerError::Unavailable(_)) => Err(format!("it could not be tried: {error}")),
        Err(error) => Err(format!("RabbitMQ does not take the new token: {error}")),
    }
}
