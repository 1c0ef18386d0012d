//! How exchanges route (pure).

/// How an exchange matches routing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// Key and pattern are equal.
    Direct,
    /// Words between dots; `*` is one word, `#` any number of words.
    Topic,
    /// Everything.
    Fanout,
    /// A type that only the broker can match (`headers`, or a plug-in's).
    Other,
}
