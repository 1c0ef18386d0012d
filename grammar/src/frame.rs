//! One frame, decoded.

use std::fmt;

use bytes::Bytes;

use crate::Command;

/// A decoded frame, with its escapes undone.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its command.
    pub command: Command,
    /// Its headers, in the order in which they came.
    pub headers: Headers,
    /// Its body; empty where the command carries none. Shares the memory it arrived in.
    pub body: Bytes,
}

impl Frame {
    /// A frame without headers and body.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self {
            command,
            headers: Headers::default(),
            body: Bytes::new(),
        }
    }

    /// The frame with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    /// The frame with this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The value of the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// Bodies and header values can hold secrets (`passcode`), so neither is shown.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("command", &self.command)
            .field("headers", &self.headers)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// Header names and values in order of arrival. Where a name is repeated, the first one is
/// in force (STOMP 1.2, "Repeated Header Entries").
///
/// One string holds all text and a list of offsets marks the entries: two allocations a frame.
#[derive(Clone, Default)]
pub struct Headers {
    text: String,
    /// The ends of each name and each value in `text`; a name starts where the last value ended.
    ends: Vec<(u32, u32)>,
}

impl Headers {
    /// Room for so many bytes of names and values, and so many headers.
    pub(crate) fn with_capacity(text: usize, headers: usize) -> Self {
        Self {
            text: String::with_capacity(text),
            ends: Vec::with_capacity(headers),
        }
    }

    /// Bytes of memory that they take, about.
    pub(crate) fn size(&self) -> usize {
        let ends = self.ends.len().saturating_mul(size_of::<(u32, u32)>());
        self.text.len().saturating_add(ends)
    }

    /// Appends a header.
    pub fn push(&mut self, name: &str, value: &str) {
        self.text.push_str(name);
        let name_end = self.text.len();
        self.text.push_str(value);
        self.mark(name_end);
    }

    /// Appends a header whose name and value are written in place. After an error, the content of
    /// `self` has no meaning.
    pub(crate) fn push_with<E>(
        &mut self,
        name: impl FnOnce(&mut String) -> Result<(), E>,
        value: impl FnOnce(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        name(&mut self.text)?;
        let name_end = self.text.len();
        value(&mut self.text)?;
        self.mark(name_end);
        Ok(())
    }

    /// Makes a header of the text behind the last one. Texts beyond 4 GiB cannot come from a
    /// decoder, whose limits are below; they are left out.
    fn mark(&mut self, name_end: usize) {
        if let (Ok(name_end), Ok(value_end)) =
            (u32::try_from(name_end), u32::try_from(self.text.len()))
        {
            self.ends.push((name_end, value_end));
        } else {
            let start = self
                .ends
                .last()
                .map_or(0, |&(_, value_end)| value_end as usize);
            self.text.truncate(start);
        }
    }

    /// How many bytes the header lines take on the wire where nothing is escaped.
    pub(crate) fn wire_size(&self) -> usize {
        self.text
            .len()
            .saturating_add(self.ends.len().saturating_mul(2))
    }

    /// The value of the first header of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Names and values, in order of arrival, repetitions included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().filter_map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            let entry = (
                self.text.get(start..name_end)?,
                self.text.get(name_end..value_end)?,
            );
            start = value_end;
            Some(entry)
        })
    }

    /// How many headers there are, repetitions included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is no header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

/// Shows names only: values can be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(entries: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in entries {
            headers.push(name, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_order_and_the_first_wins() {
        let headers: Headers = [("a", "1"), ("b", ""), ("a", "2"), ("", "3")]
            .into_iter()
            .collect();
        let entries: Vec<_> = headers.iter().collect();
        assert_eq!(entries, [("a", "1"), ("b", ""), ("a", "2"), ("", "3")]);
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.get("b"), Some(""));
        assert_eq!(headers.get("c"), None);
        assert_eq!(headers.len(), 4);
        assert!(!headers.is_empty() && Headers::default().is_empty());
    }

    /// `ab:c` and `a:bc` hold the same text, but are different headers.
    #[test]
    fn equality_looks_at_the_entries() {
        let one: Headers = [("ab", "c")].into_iter().collect();
        let other: Headers = [("a", "bc")].into_iter().collect();
        assert_ne!(one, other);
        assert_eq!(one, one.clone());
    }

    #[test]
    fn debug_shows_neither_values_nor_body() {
        let frame = Frame::new(Command::Send)
            .with_header("passcode", "secret")
            .with_body("private");
        let shown = format!("{frame:?}");
        assert_eq!(
            shown,
            "Frame { command: Send, headers: [\"passcode\"], body_len: 7 }"
        );
    }
}
