//! Releases of RabbitMQ that transcripts are written down for.

use std::fmt;

/// A major and a minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(u16, u16);

impl Release {
    pub(crate) const OLDEST: Self = Self(3, 10);
    /// Those that the cases run on; oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::OLDEST, Self(4, 0), Self(4, 3)];

    /// `4.0`, if it is one of [`Self::ALL`].
    pub(crate) fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|release| release.to_string() == name)
    }

    /// The one that a node's version, such as `4.0.5`, is to be held against: the newest that is
    /// not newer than it.
    pub(crate) fn of(version: &str) -> Self {
        let mut numbers = version.split('.').map_while(|part| part.parse().ok());
        let exact = Self(
            numbers.next().unwrap_or_default(),
            numbers.next().unwrap_or_default(),
        );
        let known = Self::ALL.into_iter().rfind(|release| *release <= exact);
        known.unwrap_or(Self::OLDEST)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}
