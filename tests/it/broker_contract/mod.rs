//! The promises of [`stentor::broker::Broker`], sentence by sentence, as tests that are generic
//! over the broker. [`contract!`] makes a module of tests for one of them.
//!
//! That nothing more arrives is shown by a message after it (a "fence"), never by waiting.

mod amqp;
mod consumers;
mod embedded;
mod feeds;
mod publishing;
mod queues;
pub(crate) mod support;

use std::sync::Arc;

use stentor::broker::{FeedSink, VirtualHost};

/// A broker to test.
pub(crate) trait Fixture: Send + Sync + Sized + 'static {
    /// A virtual host that nobody else uses, with the exchanges `amq.direct`, `amq.fanout` and
    /// `amq.topic`. It ends when the fixture is dropped.
    async fn start() -> Self;

    /// Opens the virtual host once more, as each node of several does.
    async fn open(&self, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost>;
}

/// Makes a module of tests that hold one fixture to the contract.
macro_rules! contract {
    ($name:ident, $fixture:ty) => {
        mod $name {
            $crate::broker_contract::contract!(@ $fixture, feeds {
                overlapping_patterns_deliver_once
                messages_come_in_the_order_of_their_publisher
                a_topic_exchange_routes_by_words
                a_direct_exchange_routes_by_equality
                a_fanout_exchange_routes_everything
                to_bind_twice_is_to_bind_once
                unbinding_ends_one_pattern
                a_pattern_can_be_bound_again
                an_unknown_exchange_cannot_be_bound
                feeds_of_one_exchange_are_apart
                a_feed_that_was_ended_begins_anew
                every_node_has_its_own_feeds
                messages_arrive_whole
                exchanges_have_kinds
            });
            $crate::broker_contract::contract!(@ $fixture, consumers {
                a_consumer_gets_what_was_there_and_what_comes
                a_binding_fills_the_queue
                what_is_not_there_cannot_be_consumed
                a_queue_without_a_name_gets_one
                no_more_than_the_prefetch_is_unsettled
                one_message_is_settled
                all_up_to_one_are_settled
                unknown_tags_are_ignored
                a_requeued_message_keeps_its_place
                discarded_messages_are_gone
                discarded_messages_go_to_the_dead_letter_exchange
                cancelling_requeues
                dropping_requeues
                consumers_share_a_queue
                a_retired_consumer_has_what_its_client_has
                dropping_a_retired_consumer_requeues
                a_queue_ends_with_its_last_consumer_that_retires
                an_exclusive_consumer_is_alone
                an_auto_delete_queue_ends_with_its_last_consumer
                deleting_the_queue_ends_its_consumers
                a_cancelled_consumer_is_not_lost
            });
            $crate::broker_contract::contract!(@ $fixture, publishing {
                lanes_keep_their_order
                what_goes_different_ways_stays_in_order
                replies_by_rabbitmq_s_shortcut_are_refused
                an_unknown_exchange_is_an_error_of_that_message_alone
                only_mandatory_messages_must_reach_a_queue
                the_default_exchange_leads_to_queues
                properties_travel_whole
                a_full_queue_that_rejects_is_told
                bodies_may_be_empty_or_large
            });
            $crate::broker_contract::contract!(@ $fixture, queues {
                to_declare_again_is_a_check
                other_properties_are_refused
                deleting_takes_the_messages
                an_exclusive_queue_is_the_link_s_own
                an_exclusive_queue_is_its_owner_s
                closing_gives_back_what_was_unsettled
                health_is_good_while_open
            });
        }
    };
    (@ $fixture:ty, $module:ident { $($test:ident)* }) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::broker_contract::$module::$test::<$fixture>().await;
                }
            )*
        }
    };
}
pub(crate) use self::amqp::Rabbit;
pub(crate) use contract;
