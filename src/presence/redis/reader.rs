//! Questions to Redis about users, groups and sessions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value};

use super::{
    Store,
    entry::{BUCKETS, LEFT, LeaseId, decode, decode_listed, decode_node, group_key, user_key},
    script, unavailable,
};
use crate::presence::{
    Counts, Listing, Member, NodeInfo, Page, PresenceEntry, PresenceError, SessionInfo, Status,
    UserPresence,
};

/// Lists of a node that are read in one pipeline: at first, and, if they are empty, at most.
const LISTS: [u16; 2] = [4, 256];

/// The nodes that live, in the order of their leases.
type Nodes = BTreeMap<LeaseId, NodeInfo>;
/// A hash, of which only the values are what we think.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) struct RedisReader {
    store: Arc<Store>,
}

/// The place where a listing goes on: behind the session `after`, in a list of a node.
struct Cursor {
    lease: LeaseId,
    list: u16,
    after: Box<str>,
}

/// A session, as its node lists it.
struct Listed {
    lease: LeaseId,
    list: u16,
    id: String,
    user: Arc<str>,
}

impl RedisReader {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Asks who lives and `ask`s more, in one round trip.
    async fn ask(
        &self,
        ask: impl FnOnce(&mut Pipeline),
    ) -> Result<(Nodes, std::vec::IntoIter<Value>), PresenceError> {
        let mut pipe = Pipeline::new();
        script::nodes(&mut pipe);
        ask(&mut pipe);
        let mut replies = self.store.call::<Vec<Value>>(&pipe).await?.into_iter();
        let leases: Fields = read(replies.next())?;
        let nodes = leases.into_iter().filter_map(|(lease, node)| {
            let node = decode_node(std::str::from_utf8(&node).ok()?)?;
            Some((LeaseId::parse(&lease)?, node))
        });
        Ok((nodes.collect(), replies))
    }

    pub(super) async fn users(&self, names: &[&str]) -> Result<Vec<UserPresence>, PresenceError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let (nodes, mut replies) = self
            .ask(|pipe| {
                for name in names {
                    pipe.hgetall(user_key(name));
                }
            })
            .await?;
        let mut users = Vec::with_capacity(names.len());
        for name in names {
            let user = Arc::from(*name);
            let fields: Fields = read(replies.next())?;
            let sessions = fields.iter().filter_map(|(field, value)| {
                let (lease, id) = LeaseId::split(field)?;
                decode(&user, id, &nodes.get(&lease)?.name, value)
            });
            users.push(UserPresence::new(sessions.collect()));
        }
        Ok(users)
    }

    /// The entries of a user, but for those that are no sessions.
    pub(super) async fn count_sessions(&self, user: &str) -> Result<u64, PresenceError> {
        let key = user_key(user);
        let mut pipe = Pipeline::new();
        pipe.hlen(&key).hexists(&key, "").hexists(&key, LEFT);
        let (entries, told, left): (u64, bool, bool) = self.store.call(&pipe).await?;
        Ok(entries
            .saturating_sub(u64::from(told))
            .saturating_sub(u64::from(left)))
    }

    /// Writes a session down, in one go with reading which others of its user were there.
    pub(super) async fn claim(
        &self,
        session: &PresenceEntry,
        lease: LeaseId,
    ) -> Result<Vec<SessionInfo>, PresenceError> {
        let (nodes, mut replies) = self
            .ask(|pipe| script::claim(pipe.atomic(), session, lease))
            .await?;
        let reply = replies
            .next()
            .filter(|reply| *reply != Value::Nil)
            .ok_or_else(|| unavailable("this node's lease is over"))?;
        let fields: Fields = read(Some(reply))?;
        let others = fields.iter().filter_map(|(field, value)| {
            let (lease, id) = LeaseId::split(field)?;
            let name = &nodes.get(&lease)?.name;
            decode(&session.user, id, name, value).filter(|other| other.id != session.id)
        });
        Ok(UserPresence::new(others.collect()).sessions)
    }

    pub(super) async fn group(&self, name: &str) -> Result<Vec<Member>, PresenceError> {
        let ask = |pipe: &mut Pipeline| {
            pipe.hgetall(group_key(name));
        };
        let (nodes, mut replies) = self.ask(ask).await?;
        let fields: Fields = read(replies.next())?;
        let mut users: BTreeMap<&str, Status> = BTreeMap::new();
        for (field, value) in &fields {
            if let (Some((lease, user)), Some(status)) = (LeaseId::split(field), value.first())
                && nodes.contains_key(&lease)
            {
                let known = users.entry(user).or_insert(Status::Offline);
                *known = Status::from_byte(*status).max(*known);
            }
        }
        let members = users.into_iter().filter_map(|(user, status)| {
            let status = status.to_others();
            let user = user.into();
            (status != Status::Offline).then_some(Member { user, status })
        });
        Ok(members.collect())
    }

    pub(super) async fn session(&self, id: &str) -> Result<Option<SessionInfo>, PresenceError> {
        let (nodes, _) = self.ask(|_| ()).await?;
        let mut pipe = Pipeline::new();
        for lease in nodes.keys() {
            pipe.hget(lease.bucket_of(id), id);
        }
        let found: Vec<Option<Vec<u8>>> = self.call(&pipe).await?;
        let listed: Vec<_> = nodes
            .keys()
            .zip(found)
            .filter_map(|(lease, value)| {
                let (user, _) = decode_listed(&value?)?;
                Some(Listed {
                    lease: *lease,
                    list: 0,
                    id: id.to_owned(),
                    user,
                })
            })
            .collect();
        Ok(self.look_up(&nodes, &listed).await?.pop())
    }

    pub(super) async fn sessions(&self, listing: &Listing) -> Result<Page, PresenceError> {
        let mut cursor = match &listing.after {
            Some(after) => Some(Cursor::parse(after).ok_or(PresenceError::Cursor)?),
            None => None,
        };
        let (nodes, _) = self.ask(|_| ()).await?;
        let is_wanted = |name: &str| listing.node.as_deref().is_none_or(|node| node == name);
        let wanted = nodes.iter().filter(|(_, node)| is_wanted(&node.name));
        // One more than fits shows that there is a next page.
        let most = listing.limit.saturating_add(1);
        let mut found = Vec::new();
        for (lease, _) in wanted {
            let after = match cursor.take_if(|cursor| cursor.lease <= *lease) {
                Some(after) if after.lease == *lease => Some(after),
                _ if cursor.is_some() => continue,
                _ => None,
            };
            self.list(*lease, after, most, &mut found).await?;
            if found.len() >= most {
                break;
            }
        }
        found.truncate(most);
        let mut next = None;
        if found.len() > listing.limit {
            found.truncate(listing.limit);
            next = found.last().map(Listed::cursor);
        }
        Ok(Page {
            sessions: self.look_up(&nodes, &found).await?,
            next,
        })
    }

    /// Finds the sessions of a node, until there are `most`, or a few more.
    async fn list(
        &self,
        lease: LeaseId,
        after: Option<Cursor>,
        most: usize,
        found: &mut Vec<Listed>,
    ) -> Result<(), PresenceError> {
        let mut first = after.as_ref().map_or(0, |after| after.list);
        let [mut some, longest] = LISTS;
        while first < BUCKETS && found.len() < most {
            let lists = first..first.saturating_add(some).min(BUCKETS);
            first = lists.end;
            let mut pipe = Pipeline::new();
            for list in lists.clone() {
                pipe.hgetall(lease.bucket(list));
            }
            let replies: Vec<Fields> = self.call(&pipe).await?;
            if replies.iter().all(Vec::is_empty) {
                some = some.saturating_mul(2).min(longest);
            }
            for (list, fields) in lists.zip(replies) {
                let mut listed: Vec<_> = fields
                    .into_iter()
                    .filter_map(|(id, value)| {
                        let id = String::from_utf8(id).ok()?;
                        let is_before = |after: &Cursor| after.list == list && *id <= *after.after;
                        if after.as_ref().is_some_and(is_before) {
                            return None;
                        }
                        let (user, _) = decode_listed(&value)?;
                        Some(Listed {
                            lease,
                            list,
                            id,
                            user,
                        })
                    })
                    .collect();
                listed.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                found.extend(listed);
            }
        }
        Ok(())
    }

    /// All facts about listed sessions; some may have ended.
    async fn look_up(
        &self,
        nodes: &Nodes,
        listed: &[Listed],
    ) -> Result<Vec<SessionInfo>, PresenceError> {
        let mut pipe = Pipeline::new();
        for session in listed {
            pipe.hget(user_key(&session.user), session.lease.field(&session.id));
        }
        let values: Vec<Option<Vec<u8>>> = self.call(&pipe).await?;
        let sessions = listed.iter().zip(values).filter_map(|(session, value)| {
            let node = nodes.get(&session.lease)?;
            decode(&session.user, &session.id, &node.name, &value?)
        });
        Ok(sessions.collect())
    }

    pub(super) async fn counts(&self) -> Result<Counts, PresenceError> {
        let (nodes, mut replies) = self.ask(script::users).await?;
        let users: Option<u64> = read(replies.next())?;
        Ok(Counts {
            sessions: nodes.values().map(|node| node.sessions).sum(),
            users: users.unwrap_or(0),
        })
    }

    /// A node that changes its lease has two, for a moment: the one that says more is the truth.
    pub(super) async fn nodes(&self) -> Result<Vec<NodeInfo>, PresenceError> {
        let (nodes, _) = self.ask(|_| ()).await?;
        let mut by_name: HashMap<Box<str>, NodeInfo> = HashMap::new();
        for node in nodes.into_values() {
            let known = by_name.entry(node.name.clone()).or_insert(node.clone());
            known.sessions = known.sessions.max(node.sessions);
        }
        let mut nodes: Vec<_> = by_name.into_values().collect();
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// One round trip; none for an empty pipeline.
    async fn call<T: FromRedisValue + Default>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        if pipe.is_empty() {
            return Ok(T::default());
        }
        self.store.call(pipe).await
    }
}

fn read<T: FromRedisValue>(reply: Option<Value>) -> Result<T, PresenceError> {
    T::from_redis_value(reply.unwrap_or(Value::Nil)).map_err(unavailable)
}

impl Cursor {
    /// The inverse of [`Listed::cursor`].
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        Some(Self {
            lease: LeaseId::parse(parts.next()?.as_bytes())?,
            list: parts.next()?.parse().ok()?,
            after: parts.next()?.into(),
        })
    }
}

impl Listed {
    /// For a page that begins behind it.
    fn cursor(&self) -> Box<str> {
        format!("{}.{}.{}", self.lease, self.list, self.id).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_and_others_are_none() {
        let listed = Listed {
            lease: LeaseId::random(),
            list: 1023,
            id: "a-b_c.d".to_owned(),
            user: "alice".into(),
        };
        let cursor = Cursor::parse(&listed.cursor()).unwrap();
        assert_eq!((cursor.lease, cursor.list), (listed.lease, listed.list));
        assert_eq!(*cursor.after, *listed.id);
        for text in [
            "",
            "x",
            "12345678",
            "12345678.1",
            "12345678.x.id",
            "1234.1.id",
        ] {
            assert!(Cursor::parse(text).is_none(), "{text}");
        }
    }
}
