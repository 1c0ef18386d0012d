//! Lists that come in pages.

use serde::de::DeserializeOwned;

use super::{
    Error,
    client::{Client, ClientError},
};
use crate::api::{Bans, Room, Sessions};

/// Entries that are asked for at a time.
const PAGE: usize = 1_000;

/// A page of a list.
pub(super) trait Page: DeserializeOwned {
    /// Its entries.
    fn len(&self) -> usize;

    /// The cursor of the next page, if there is one.
    fn next(&self) -> Option<&str>;

    /// Takes the entries of the page after it, and its cursor.
    fn append(&mut self, after: Self);
}

macro_rules! pages {
    ($($type:ident.$entries:ident)*) => {
        $(impl Page for $type {
            fn len(&self) -> usize {
                self.$entries.len()
            }

            fn next(&self) -> Option<&str> {
                self.next.as_deref()
            }

            fn append(&mut self, after: Self) {
                self.$entries.extend(after.$entries);
                self.next = after.next;
            }
        })*
    };
}

pages! { Sessions.sessions Bans.bans Room.list }

/// All pages, up to so many entries.
pub(super) async fn all<P: Page>(
    client: &Client,
    path: &str,
    filters: &[(&str, Option<&str>)],
    limit: usize,
) -> Result<P, Error> {
    let mut found: Option<P> = None;
    loop {
        let have = found.as_ref().map_or(0, P::len);
        let size = limit.saturating_sub(have).clamp(1, PAGE).to_string();
        let mut query = vec![("limit", size.as_str())];
        let cursor = [("cursor", found.as_ref().and_then(P::next))];
        for (name, value) in filters.iter().chain(&cursor) {
            query.extend(value.map(|value| (*name, value)));
        }
        let page: Result<P, ClientError> = client.parse(&client.get(path, &query).await?);
        match &mut found {
            Some(found) => found.append(page?),
            None => found = Some(page?),
        }
        if let Some(found) = found.take_if(|found| found.next().is_none() || found.len() >= limit) {
            return Ok(found);
        }
    }
}
