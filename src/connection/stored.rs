//! Bookmarks of clients in journals: where a client goes on that has acknowledged.
//!
//! A bookmark moves with every acknowledgement, and is kept a moment after it has moved, whatever number of
//! acknowledgements that was. So the last moment's messages come again after a node was killed.

use std::{sync::Arc, time::Duration};

use stomp_session::{Problem, SubscriptionId};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::context::Identity;
use crate::{
    broker::Bookmark,
    deadline::{after, later, third},
    hub::{Acks, Given, Mailbox},
    messaging::{Holder, SequenceError, SequenceStore},
    node::LastWrites,
};

/// Acknowledgements of so long are kept together.
const GATHERED: Duration = Duration::from_secs(1);
/// A client for which nothing comes has moved on, or stays where it is: how soon that is kept first, and
/// how often then, at least.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(600);
/// How long a bookmark is tried to be kept whose subscription has ended.
const LAST_TRIES: Duration = Duration::from_secs(10);

/// What a bookmark is kept by.
pub(super) struct Keeper {
    store: Arc<dyn SequenceStore>,
    holder: Holder,
    name: Box<str>,
    /// As the store was last known to have it.
    last: Option<Bookmark>,
    /// Where the client begins behind a gap. The bookmark before the gap stays until the client must have
    /// heard of it: if the connection is lost before the RECEIPT, the next one tells of it.
    behind_gap: Option<Bookmark>,
    /// The client begins before what was known: its journal was made anew, and bookmarks further on are of
    /// the one before.
    is_anew: bool,
}

/// A subscription whose bookmark is kept. When it is dropped, the bookmark is kept for the last time.
pub(super) struct Kept {
    acks: Arc<Acks>,
    mailbox: Arc<Mailbox>,
    subscription: SubscriptionId,
    /// While it is there, the subscription is.
    alive: Option<oneshot::Sender<()>>,
}

impl Keeper {
    pub(super) fn new(
        store: &Arc<dyn SequenceStore>,
        identity: &Identity,
        exchange: &str,
        pattern: &str,
    ) -> Self {
        let device = identity.device_id().unwrap_or_default();
        Self {
            store: Arc::clone(store),
            holder: identity.holder(),
            name: format!("{device}\n{exchange}\n{pattern}").into(),
            last: None,
            behind_gap: None,
            is_anew: false,
        }
    }

    /// The bookmark, if one is known.
    ///
    /// # Errors
    /// The store is away.
    pub(super) async fn find(&mut self) -> Result<Option<Bookmark>, Problem> {
        let known = self.store.bookmark(&self.holder, &self.name).await?;
        // One that cannot be read is none.
        self.last = known.and_then(|text| text.parse().ok());
        Ok(self.last)
    }

    /// Keeps the bookmark where the client begins, of which nothing was known.
    ///
    /// # Errors
    /// As [`Keeper::find`].
    pub(super) async fn begin(&mut self, bookmark: Bookmark) -> Result<(), Problem> {
        self.keep(bookmark).await.map_err(Problem::from)
    }

    /// The client begins there, and is told of the gap before it.
    pub(super) fn begin_behind_gap(&mut self, bookmark: Bookmark) {
        self.behind_gap = Some(bookmark);
        self.is_anew = self.last.is_some_and(|last| last.is_ahead_of(bookmark));
    }

    /// Keeps the bookmark, unless another connection has moved it further on: the client may have come
    /// back to another node while the store was away from this one.
    async fn keep(&mut self, bookmark: Bookmark) -> Result<(), SequenceError> {
        let text = bookmark.to_string();
        let mut known = self.last.map(|last| last.to_string().into_boxed_str());
        loop {
            let (holder, name) = (&self.holder, &self.name);
            let keeping = self
                .store
                .keep_bookmark(holder, name, known.as_deref(), &text);
            let there = keeping.await?;
            if *there == *text {
                self.last = Some(bookmark);
                return Ok(());
            }
            let other = there.parse::<Bookmark>();
            if !self.is_anew && other.is_ok_and(|other| other.is_ahead_of(bookmark)) {
                return Ok(());
            }
            // A try whose answer was lost, or what the store had before it lost something.
            known = Some(there);
        }
    }

    /// The bookmark is not forgotten while its client is there. A store that lost it gets it again:
    /// the client may acknowledge nothing for long, and would begin at the end after a reconnect.
    async fn renew(&mut self) {
        if let Some(begin) = self.behind_gap {
            if self.keep(begin).await.is_ok() {
                self.behind_gap = None;
            }
            return;
        }
        // Of several tries, one is enough.
        let known = self.store.bookmark(&self.holder, &self.name).await;
        if let (Ok(None), Some(last)) = (known, self.last) {
            let _ = self.keep(last).await;
        }
    }

    /// Keeps bookmarks until the subscription has ended, or the node ends.
    async fn run(
        mut self,
        acks: Arc<Acks>,
        given: Given,
        mut alive: oneshot::Receiver<()>,
        end: CancellationToken,
    ) {
        let every = LOOK.min(third(self.store.keep()));
        // A connection that lives until the second look has heard of its gap.
        let mut look = after(match self.behind_gap {
            None => FIRST_LOOK,
            Some(_) => every,
        });
        loop {
            let mut is_look = false;
            let is_over = tokio::select! {
                _ = &mut alive => true,
                () = end.cancelled() => true,
                () = acks.moved() => tokio::select! {
                    _ = &mut alive => true,
                    () = end.cancelled() => true,
                    () = sleep(GATHERED) => false,
                },
                () = sleep_until(look) => {
                    look = later(Instant::now(), every);
                    given.note(&acks);
                    is_look = true;
                    false
                }
            };
            if is_over {
                return self.keep_last(&acks).await;
            }
            if (is_look || self.has_heard(&acks))
                && let Some(bookmark) = acks.take()
            {
                self.behind_gap = None;
                if self.keep(bookmark).await.is_err() {
                    // The next one is as good; and there is one at the end.
                    acks.put_back();
                }
            } else if is_look {
                self.renew().await;
            }
        }
    }

    /// Whether the client has heard of the gap behind which it begins, if there is one. What it was never
    /// given moves the bookmark, too: too large a message.
    fn has_heard(&self, acks: &Acks) -> bool {
        self.behind_gap.is_none() || acks.is_answered()
    }

    async fn keep_last(&mut self, acks: &Acks) {
        if !self.has_heard(acks) {
            return;
        }
        let end = after(LAST_TRIES);
        while let Some(bookmark) = acks.take() {
            if self.keep(bookmark).await.is_ok() || Instant::now() >= end {
                return;
            }
            acks.put_back();
            sleep(GATHERED).await;
        }
    }
}

impl Kept {
    /// Before the subscription: all its messages are to be acknowledged.
    pub(super) fn begin(limit: u16, mailbox: &Arc<Mailbox>, subscription: SubscriptionId) -> Self {
        let acks = Acks::new(limit, mailbox);
        mailbox.track(subscription, &acks);
        Self {
            acks,
            mailbox: Arc::clone(mailbox),
            subscription,
            alive: None,
        }
    }

    /// The subscription is there. The end of the node waits for its bookmark.
    pub(super) fn run(&mut self, keeper: Keeper, given: Given, writes: &LastWrites) {
        let (sender, alive) = oneshot::channel();
        self.alive = Some(sender);
        writes.run(keeper.run(Arc::clone(&self.acks), given, alive, writes.end()));
    }

    pub(super) fn acks(&self) -> &Arc<Acks> {
        &self.acks
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.mailbox.untrack(self.subscription);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::JournalId,
        hub::MailboxConfig,
        messaging::{BOOKMARKS, Config, MemorySequences},
    };

    const NAME: &str = "phone\nfeed\nk";

    fn holder() -> Holder {
        Holder {
            vhost: "/".into(),
            user: "alice".into(),
        }
    }

    fn bookmark() -> Bookmark {
        Bookmark::At(JournalId::new("/", "feed"), 7)
    }

    fn keeper(store: &Arc<dyn SequenceStore>) -> Keeper {
        Keeper {
            store: Arc::clone(store),
            holder: holder(),
            name: NAME.into(),
            last: None,
            behind_gap: None,
            is_anew: false,
        }
    }

    /// A subscription that begins at [`bookmark`].
    async fn kept(store: &Arc<dyn SequenceStore>) -> Kept {
        let mut keeper = keeper(store);
        keeper.begin(bookmark()).await.unwrap();
        run(keeper)
    }

    /// A subscription for which nothing comes, and nothing is acknowledged.
    fn run(keeper: Keeper) -> Kept {
        let mailbox = Mailbox::new(MailboxConfig::default());
        let (subscription, writes) = (SubscriptionId(1), LastWrites::default());
        let mut kept = Kept::begin(10, &mailbox, subscription);
        let given = Given::of_nothing(&mailbox, subscription);
        kept.run(keeper, given, &writes);
        kept
    }

    async fn known(store: &Arc<dyn SequenceStore>) -> Option<Box<str>> {
        store.bookmark(&holder(), NAME).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_bookmark_of_a_connected_client_is_not_forgotten() {
        for seconds in [60, 60 * 60] {
            let keep = Duration::from_secs(seconds);
            let config = Config {
                keep,
                ..Config::default()
            };
            let store: Arc<dyn SequenceStore> = Arc::new(MemorySequences::new(config));
            let kept = kept(&store).await;
            sleep(3 * keep).await;
            let expected = Some(bookmark().to_string().into());
            assert_eq!(known(&store).await, expected, "{keep:?}");
            drop(kept);
            sleep(2 * keep).await;
            assert_eq!(known(&store).await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bookmark_that_the_store_has_lost_is_kept_again() {
        let config = Config {
            max_devices: 1,
            ..Config::default()
        };
        let store: Arc<dyn SequenceStore> = Arc::new(MemorySequences::new(config));
        let _kept = kept(&store).await;
        sleep(Duration::from_secs(1)).await;
        // Others push it out.
        for number in 0..BOOKMARKS {
            let name = number.to_string();
            let kept = store.keep_bookmark(&holder(), &name, None, "p").await;
            kept.unwrap();
        }
        assert_eq!(known(&store).await, None);
        sleep(LOOK).await;
        let expected = Some(bookmark().to_string().into());
        assert_eq!(known(&store).await, expected);
    }

    /// The connection may be lost before the RECEIPT that tells of the gap.
    #[tokio::test(start_paused = true)]
    async fn the_bookmark_before_a_gap_stays_until_its_client_has_heard_of_it() {
        let store: Arc<dyn SequenceStore> = Arc::new(MemorySequences::new(Config::default()));
        keeper(&store).begin(bookmark()).await.unwrap();
        let behind = Bookmark::At(JournalId::new("/", "feed"), 90);
        for (lives, expected) in [(2 * FIRST_LOOK, bookmark()), (2 * LOOK, behind)] {
            let mut keeper = keeper(&store);
            assert_eq!(keeper.find().await.unwrap(), Some(bookmark()));
            keeper.begin_behind_gap(behind);
            let kept = run(keeper);
            sleep(lives).await;
            drop(kept);
            sleep(LAST_TRIES).await;
            let expected = Some(expected.to_string().into());
            assert_eq!(known(&store).await, expected, "{lives:?}");
        }
    }

    /// A node that has lost its way to the store keeps late what its client acknowledged there.
    #[tokio::test]
    async fn a_connection_of_before_moves_no_bookmark_back() {
        let store: Arc<dyn SequenceStore> = Arc::new(MemorySequences::new(Config::default()));
        let at = |offset| Bookmark::At(JournalId::new("/", "feed"), offset);
        let text = |bookmark: Bookmark| Some(bookmark.to_string().into_boxed_str());
        let (mut before, mut now) = (keeper(&store), keeper(&store));
        before.begin(at(40)).await.unwrap();
        assert_eq!(now.find().await.unwrap(), Some(at(40)));
        now.keep(at(80)).await.unwrap();
        before.keep(at(50)).await.unwrap();
        assert_eq!(known(&store).await, text(at(80)));
        // What it has acknowledged beyond that counts.
        before.keep(at(90)).await.unwrap();
        assert_eq!(known(&store).await, text(at(90)));
        // A journal that was made anew begins before what was known.
        let mut anew = keeper(&store);
        assert_eq!(anew.find().await.unwrap(), Some(at(90)));
        let mut of_before = keeper(&store);
        assert_eq!(of_before.find().await.unwrap(), Some(at(90)));
        anew.begin_behind_gap(at(0));
        anew.keep(at(3)).await.unwrap();
        assert_eq!(known(&store).await, text(at(3)));
        // A connection to the journal of before keeps late what was acknowledged there.
        of_before.keep(at(95)).await.unwrap();
        anew.keep(at(5)).await.unwrap();
        assert_eq!(known(&store).await, text(at(5)));
    }
}
