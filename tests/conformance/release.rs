//! Releases of RabbitMQ that transcripts are written down for.

use std::fmt;

/// A major and a minor version; the last says whether its operator denied every deprecated feature
/// and made quorum queues the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(u16, u16, bool);

impl Release {
    pub(crate) const OLDEST: Self = Self(3, 10, false);
    const STRICT: Self = Self(4, 3, true);
    /// Those that the cases run on; oldest first.
    pub(crate) const ALL: [Self; 4] = [
        Self::OLDEST,
        Self(4, 0, false),
        Self(4, 3, false),
        Self::STRICT,
    ];

    /// Whether its operator denied every deprecated feature.
    pub(crate) const fn is_strict(self) -> bool {
        self.2
    }

    /// `4.0`, if it is one of [`Self::ALL`].
    pub(crate) fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|release| release.to_string() == name)
    }

    /// The one that a node's version, such as `4.0.5`, is to be held against: the newest that is
    /// not newer than it.
    pub(crate) fn of(version: &str, is_strict: bool) -> Self {
        if is_strict {
            return Self::STRICT;
        }
        let mut numbers = version.split('.').map_while(|part| part.parse().ok());
        let exact = Self(
            numbers.next().unwrap_or_default(),
            numbers.next().unwrap_or_default(),
            false,
        );
        let known = Self::ALL.into_iter().rfind(|release| *release <= exact);
        known.unwrap_or(Self::OLDEST)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strict = if self.2 { " strict" } else { "" };
        write!(f, "{}.{}{strict}", self.0, self.1)
    }
}
