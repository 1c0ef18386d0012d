//! Journals keep their exchanges' messages from the start on, also while nobody is subscribed.

use std::{collections::BTreeSet, sync::Weak, time::Duration};

use tokio::time::sleep;

use super::Hub;
use crate::{broker::BrokerError, telemetry};

/// Between two looks at whether everything is bound.
const KEEP: Duration = Duration::from_secs(5);

/// Sees to it that journals keep their exchanges' messages, for as long as the hub is there.
pub(super) async fn keep(hub: Weak<Hub>, exchanges: BTreeSet<String>) {
    loop {
        for exchange in &exchanges {
            let Some(hub) = hub.upgrade() else {
                return;
            };
            if hub.host.health().is_err() {
                continue;
            }
            let kept = async {
                match hub.feed(exchange, "").await? {
                    Some((feed, _)) => {
                        if let Some(bound) = feed.keep() {
                            bound.wait().await?;
                        }
                        feed.fill();
                        Ok::<_, BrokerError>(())
                    }
                    None => Ok(()),
                }
            };
            if let Err(error) = kept.await {
                telemetry::journal_stopped(&hub.name, exchange, &error);
            }
        }
        sleep(KEEP).await;
    }
}
