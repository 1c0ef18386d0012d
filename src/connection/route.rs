//! How the subscriptions of a connection are served.

use std::sync::Arc;

use stomp_session::SubscriptionId;

use super::{
    rights::{Right, Subscriptions},
    rooms::Stay,
    stored::Kept,
};
use crate::{
    broker::{Consume, Consumer},
    hub::{DedicatedSink, SharedSubscription},
    node::{QueuePlace, Source, SubscriptionPlace},
    telemetry::DedicatedSubscriptionCounted,
};

/// How a subscription of this connection is served.
pub(super) enum Route {
    /// A feed's; ends when it is dropped.
    Shared {
        /// Ends before the subscription does.
        rare: Option<Box<Rare>>,
        shared: SharedSubscription,
        _stay: Option<Box<Stay>>,
        _place: SubscriptionPlace,
    },
    /// Its own consumer's.
    Dedicated(Box<Dedicated>),
}

/// The parts that few shared subscriptions have.
pub(super) struct Rare {
    /// Its client acknowledges.
    kept: Option<Kept>,
    /// The pattern of its SUBSCRIBE, if the feed has another: the keys of a fanout exchange choose
    /// nothing, but a right may be to one of them.
    pattern: Option<Box<str>>,
}

impl Route {
    /// A feed's, for a SUBSCRIBE to `pattern`.
    pub(super) fn shared(
        shared: SharedSubscription,
        pattern: &str,
        kept: Option<Kept>,
        stay: Option<Box<Stay>>,
        place: SubscriptionPlace,
    ) -> Self {
        let (_, of_feed) = shared.source();
        let pattern = (of_feed != pattern).then(|| pattern.into());
        let is_rare = kept.is_some() || pattern.is_some();
        Self::Shared {
            rare: is_rare.then(|| Box::new(Rare { kept, pattern })),
            shared,
            _stay: stay,
            _place: place,
        }
    }

    /// A shared subscription whose client acknowledges.
    pub(super) fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Shared { rare, .. } => rare.as_ref()?.kept.as_ref(),
            Self::Dedicated(_) => None,
        }
    }
}

/// A dedicated subscription.
pub(super) struct Dedicated {
    consumer: Arc<dyn Consumer>,
    /// Takes the messages of `consumer` to the mailbox.
    sink: Arc<DedicatedSink>,
    request: Consume,
    /// Messages are settled when they are written, not by the client.
    pub(super) is_auto: bool,
    /// It gets nothing more; its client may acknowledge what it has.
    pub(super) has_ended: bool,
    /// The first message that was settled without a receipt. If the link was lost since, its channel
    /// is not the one of now, and the broker may not have heard; so the last one does not tell.
    unheard: Option<u64>,
    /// In its room.
    stay: Option<Box<Stay>>,
    _counted: DedicatedSubscriptionCounted,
    _places: (SubscriptionPlace, QueuePlace),
}

impl Dedicated {
    pub(super) fn new(
        (consumer, sink): (Arc<dyn Consumer>, Arc<DedicatedSink>),
        request: Consume,
        is_auto: bool,
        places: (SubscriptionPlace, QueuePlace),
    ) -> Self {
        Self {
            consumer,
            sink,
            request,
            is_auto,
            has_ended: false,
            unheard: None,
            stay: None,
            _counted: DedicatedSubscriptionCounted::begin(),
            _places: places,
        }
    }

    /// It is in this room until it ends.
    pub(super) fn stays(self, stay: Option<Box<Stay>>) -> Self {
        Self { stay, ..self }
    }

    /// It gets nothing more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.stay = None;
    }

    pub(super) fn consumer(&self) -> &Arc<dyn Consumer> {
        &self.consumer
    }

    pub(super) fn sink(&self) -> &DedicatedSink {
        &self.sink
    }

    /// The request to the broker.
    pub(super) fn request(&self) -> &Consume {
        &self.request
    }

    pub(super) fn queue(&self) -> &str {
        &self.request.queue.name
    }
}

/// The subscriptions of a connection. Few, so they are looked for one by one.
#[derive(Default)]
pub(super) struct Routes(Vec<(SubscriptionId, Route)>);

impl Routes {
    pub(super) fn find(&self, subscription: SubscriptionId) -> Option<&Route> {
        let found = self.0.iter().find(|(id, _)| *id == subscription);
        found.map(|(_, route)| route)
    }

    /// A message is settled, and nobody asks if the broker hears of that.
    pub(super) fn note_unheard(&mut self, subscription: SubscriptionId, tag: u64) {
        let mut routes = self.0.iter_mut();
        if let Some((_, Route::Dedicated(route))) = routes.find(|(id, _)| *id == subscription) {
            route.unheard = Some(route.unheard.map_or(tag, |first| first.min(tag)));
        }
    }

    /// The first of these messages of each consumer.
    pub(super) fn unheard(&self) -> Vec<(Arc<dyn Consumer>, u64)> {
        let unheard = self.0.iter().filter_map(|(_, route)| match route {
            Route::Dedicated(route) => Some((Arc::clone(&route.consumer), route.unheard?)),
            Route::Shared { .. } => None,
        });
        unheard.collect()
    }

    pub(super) fn push(&mut self, subscription: SubscriptionId, route: Route) {
        self.0.reserve_exact(1);
        self.0.push((subscription, route));
    }

    pub(super) fn take(&mut self, subscription: SubscriptionId) -> Option<Route> {
        let index = self.0.iter().position(|(id, _)| *id == subscription)?;
        let (_, route) = self.0.swap_remove(index);
        self.0.shrink_to_fit();
        Some(route)
    }

    /// Where the messages of a subscription come from.
    pub(super) fn source(&self, subscription: SubscriptionId) -> Option<Source> {
        Some(match self.find(subscription)? {
            Route::Shared { shared, .. } => {
                let (exchange, pattern) = shared.source();
                Source::Feed(exchange.into(), pattern.into())
            }
            Route::Dedicated(route) => Source::Queue(route.queue().into()),
        })
    }

    /// Whether a subscription is to this pattern of an exchange; or, with the exchange "", to the
    /// queue of that name.
    pub(super) fn is_to(&self, subscription: SubscriptionId, exchange: &str, key: &str) -> bool {
        match self.find(subscription) {
            Some(Route::Shared { shared, .. }) => shared.source() == (exchange, key),
            Some(Route::Dedicated(route)) => match &route.request.binding {
                Some((name, pattern)) => **name == *exchange && **pattern == *key,
                None => exchange.is_empty() && route.queue() == key,
            },
            None => false,
        }
    }

    /// What each subscription that has not ended needed a right for, the oldest first.
    pub(super) fn rights(&self) -> Subscriptions {
        let right = |route: &Route| match route {
            Route::Shared { shared, rare, .. } => {
                let (exchange, pattern) = shared.source();
                let own = rare.as_ref().and_then(|rare| rare.pattern.as_deref());
                let pattern = own.unwrap_or(pattern);
                Some(Right::Listen(exchange.into(), pattern.into()))
            }
            Route::Dedicated(route) => {
                (!route.has_ended).then(|| Right::Consume(Box::new(route.request.clone())))
            }
        };
        let routes = self.0.iter();
        let rights = routes.filter_map(|(id, route)| Some((*id, Arc::new(right(route)?))));
        let mut rights: Subscriptions = rights.collect();
        rights.sort_unstable_by_key(|(id, _)| *id);
        rights
    }

    /// Whether there is this subscription, and it has not ended.
    pub(super) fn is_open(&self, subscription: SubscriptionId) -> bool {
        match self.find(subscription) {
            Some(Route::Shared { .. }) => true,
            Some(Route::Dedicated(route)) => !route.has_ended,
            None => false,
        }
    }

    /// The subscriptions by which a message comes back that is published so: those to its key on a
    /// feed.
    pub(super) fn hearing(&self, exchange: &str, key: &str) -> Vec<SubscriptionId> {
        let hears = |route: &Route| match route {
            Route::Shared { shared, .. } => shared.hears(exchange, key),
            Route::Dedicated(_) => false,
        };
        let routes = self.0.iter().filter(|(_, route)| hears(route));
        routes.map(|(id, _)| *id).collect()
    }

    /// Returns true if a subscription that has not ended consumes from this queue.
    pub(super) fn consumes(&self, queue: &str) -> bool {
        self.0.iter().any(|(_, route)| match route {
            Route::Dedicated(route) => !route.has_ended && route.queue() == queue,
            Route::Shared { .. } => false,
        })
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}
