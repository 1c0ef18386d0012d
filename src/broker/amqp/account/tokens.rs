//! The token of today, and its successors.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex as Lock;
use tokio::{
    sync::{Mutex, Notify, watch},
    time::Instant,
};

use crate::broker::account::{
    source,
    token::{Origin, Token},
};

/// A command is not run again so soon for links that need a token.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// Where tokens come from.
pub(super) enum Source {
    File(PathBuf),
    Command(Box<[String]>),
}

/// A token, and which one it is, from 1.
#[derive(Debug)]
pub(in crate::broker::amqp) struct Numbered {
    token: Token,
    pub(super) number: u64,
}

impl Numbered {
    #[cfg(test)]
    pub(in crate::broker::amqp) fn of_a_test(text: &str) -> Arc<Self> {
        let token = Token::read(text.as_bytes()).unwrap();
        Arc::new(Self { token, number: 1 })
    }
}

impl Deref for Numbered {
    type Target = Token;

    fn deref(&self) -> &Token {
        &self.token
    }
}

/// Why there is no token, without a part of one.
pub(super) type Fault = Box<str>;

/// All tokens of an account.
pub(super) struct Tokens {
    source: Source,
    pub(super) refresh: Duration,
    /// Held while the source is asked: one at a time.
    last: Mutex<Option<Reading>>,
    /// The newest that could be read.
    newest: Lock<Option<Arc<Numbered>>>,
    /// The newest that the broker has taken. Those after it are not for links that live: RabbitMQ
    /// closes a link over a token that it does not take.
    accepted: watch::Sender<Option<Arc<Numbered>>>,
    /// The number of the last one by which the broker did not let a link in; 0: it lets them in.
    refused: AtomicU64,
    /// The broker has refused the newest one, or taken the first one.
    pub(super) look_again: Notify,
}

struct Reading {
    ended: Instant,
    outcome: Result<Arc<Numbered>, Fault>,
}

/// The tokens for one link, after the one that it logged in by.
pub(in crate::broker::amqp) struct Renewals {
    accepted: watch::Receiver<Option<Arc<Numbered>>>,
    /// The number of the one that the broker has from this link.
    told: u64,
}

impl Tokens {
    pub(super) fn new(source: Source, refresh: Duration) -> Self {
        Self {
            source,
            refresh,
            last: Mutex::default(),
            newest: Lock::default(),
            accepted: watch::Sender::default(),
            refused: AtomicU64::new(0),
            look_again: Notify::new(),
        }
    }

    /// The key of the configuration that names the source.
    pub(super) fn key(&self) -> &'static str {
        match self.source {
            Source::File(_) => "token_file",
            Source::Command(_) => "token_command",
        }
    }

    pub(super) fn origin(&self) -> Origin {
        match self.source {
            Source::File(_) => Origin::File,
            Source::Command(_) => Origin::Command,
        }
    }

    /// A token for a login now. A file is read; a command is run if its last token has ended, and not
    /// for every link.
    pub(super) async fn current(&self) -> Result<Arc<Numbered>, Fault> {
        let now = Instant::now();
        if self.origin() == Origin::File {
            return self.read_since(now).await;
        }
        if let Some(token) = &*self.newest.lock()
            && !token.is_over(SystemTime::now())
        {
            return Ok(Arc::clone(token));
        }
        self.read_since(now.checked_sub(SOON).unwrap_or(now)).await
    }

    /// Asks the source.
    pub(super) async fn read(&self) -> Result<Arc<Numbered>, Fault> {
        self.read_since(Instant::now()).await
    }

    /// Asks the source, unless an answer has come since `asked`.
    async fn read_since(&self, asked: Instant) -> Result<Arc<Numbered>, Fault> {
        let mut last = self.last.lock().await;
        if let Some(Reading { ended, outcome }) = &*last
            && *ended >= asked
        {
            return outcome.clone();
        }
        let bytes = match &self.source {
            Source::File(path) => source::file(path).await,
            Source::Command(command) => source::command(command).await,
        };
        let outcome = bytes.and_then(|bytes| Token::read(&bytes));
        let outcome = outcome.map(|token| self.note(token));
        let outcome = outcome.map_err(|fault| format!("[broker] {}: {fault}", self.key()).into());
        *last = Some(Reading {
            ended: Instant::now(),
            outcome: outcome.clone(),
        });
        outcome
    }

    /// The source has this token now; with its number.
    fn note(&self, token: Token) -> Arc<Numbered> {
        let mut newest = self.newest.lock();
        let number = match &*newest {
            Some(former) if former.token == token => return Arc::clone(former),
            Some(former) => former.number.saturating_add(1),
            None => 1,
        };
        let token = Arc::new(Numbered { token, number });
        *newest = Some(Arc::clone(&token));
        token
    }

    /// The broker has let a link in by this one.
    pub(super) fn accepted(&self, token: &Arc<Numbered>) {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused != 0 && refused <= token.number {
            self.refused.store(0, Ordering::Relaxed);
            self.look_again.notify_one();
        }
        self.accepted.send_if_modified(|accepted| {
            if accepted.is_none() {
                self.look_again.notify_one();
            }
            let is_newer = accepted
                .as_ref()
                .is_none_or(|former| former.number < token.number);
            if is_newer {
                *accepted = Some(Arc::clone(token));
            }
            is_newer
        });
    }

    /// The broker has not let a link in by this one.
    pub(super) fn refused(&self, token: &Arc<Numbered>) {
        self.refused.fetch_max(token.number, Ordering::Relaxed);
        let newest = self.newest.lock().as_ref().map(|newest| newest.number);
        if newest == Some(token.number) {
            self.look_again.notify_one();
        }
    }

    /// True if links may live that have not been told of this token, and that it is good for.
    pub(super) fn is_news(&self, token: &Numbered) -> bool {
        let accepted = self.accepted.borrow();
        accepted
            .as_ref()
            .is_some_and(|former| former.number < token.number)
    }

    /// True if the broker has taken this token, and has refused none like it since.
    pub(super) fn is_good(&self, token: &Numbered) -> bool {
        let accepted = self.accepted.borrow();
        let accepted = accepted.as_ref().map(|accepted| accepted.number);
        accepted == Some(token.number) && !self.is_refused(token)
    }

    /// True if the broker lets no link in by this token.
    pub(super) fn is_refused(&self, token: &Numbered) -> bool {
        self.refused.load(Ordering::Relaxed) == token.number
    }

    /// When the newest token ended, if it did.
    pub(super) fn over(&self) -> Option<SystemTime> {
        let newest = self.newest.lock();
        let token = newest.as_ref()?;
        token.expires().filter(|_| token.is_over(SystemTime::now()))
    }

    pub(super) fn renewals_after(&self, token: &Numbered) -> Renewals {
        Renewals {
            accepted: self.accepted.subscribe(),
            told: token.number,
        }
    }
}

impl Renewals {
    /// The next token for this link. Each comes once; one that nobody has waited for stays.
    pub(in crate::broker::amqp) async fn next(&mut self) -> Arc<Numbered> {
        let told = self.told;
        let is_newer = |accepted: &Option<Arc<Numbered>>| {
            accepted.as_ref().is_some_and(|token| token.number > told)
        };
        if let Ok(accepted) = self.accepted.wait_for(is_newer).await
            && let Some(token) = &*accepted
        {
            self.told = token.number;
            return Arc::clone(token);
        }
        // The account is gone, and with it soon the link.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures_util::FutureExt as _;

    use super::*;

    const REFRESH: Duration = Duration::from_secs(30);

    fn from_file(path: PathBuf) -> Tokens {
        Tokens::new(Source::File(path), REFRESH)
    }

    #[tokio::test]
    async fn a_link_hears_only_of_tokens_that_the_broker_has_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = from_file(path.clone());
        let read = async |text: &str| {
            fs::write(&path, text).unwrap();
            tokens.current().await.unwrap()
        };
        let first = read("first").await;
        let mut renewals = tokens.renewals_after(&first);
        tokens.accepted(&first);
        assert!(
            renewals.next().now_or_never().is_none(),
            "it logged in by that"
        );
        let second = read("second").await;
        assert!(tokens.is_news(&second));
        assert!(renewals.next().now_or_never().is_none(), "nobody tried it");
        tokens.refused(&second);
        assert!(
            renewals.next().now_or_never().is_none(),
            "it does not count"
        );
        let third = read("third").await;
        tokens.accepted(&third);
        assert_eq!(renewals.next().now_or_never().unwrap().reveal(), "third");
        assert!(renewals.next().now_or_never().is_none(), "it has it");
        assert!(!tokens.is_news(&third));
        // One that comes late is none for links that have a newer one.
        tokens.accepted(&second);
        assert!(renewals.next().now_or_never().is_none());
        let same = read("third\n").await;
        assert!(Arc::ptr_eq(&same, &third));
    }

    #[tokio::test]
    async fn a_command_is_run_once_for_many_links() {
        let folder = tempfile::tempdir().unwrap();
        let counter = folder.path().join("counter");
        let script = format!("echo x >> {0}; wc -l < {0}", counter.display());
        let command = ["sh", "-c", &script].map(str::to_owned);
        let tokens = Tokens::new(Source::Command(command.into()), REFRESH);
        let (one, two) = tokio::join!(tokens.current(), tokens.current());
        assert_eq!(one.unwrap().reveal(), "1");
        assert_eq!(two.unwrap().reveal(), "1", "one run is for all who wait");
        assert_eq!(tokens.current().await.unwrap().reveal(), "1");
        assert_eq!(tokens.read().await.unwrap().reveal(), "2");
        assert_eq!(tokens.current().await.unwrap().reveal(), "2");
    }

    #[tokio::test]
    async fn a_source_that_fails_is_told_by_its_key_and_not_by_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = from_file(path.clone());
        fs::write(&path, "s3cret in words").unwrap();
        let fault = tokens.read().await.unwrap_err();
        assert!(fault.starts_with("[broker] token_file: "), "{fault}");
        assert!(!fault.contains("s3cret"), "{fault}");
        fs::write(&path, "good").unwrap();
        assert_eq!(tokens.read().await.unwrap().reveal(), "good");
    }
}
