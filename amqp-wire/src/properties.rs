//! The properties of a message.

use crate::{scan::Scan, table::Table};

/// The properties of class `basic`. Texts are as they came, and may be no UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    /// `content-type`.
    pub content_type: Option<&'a [u8]>,
    /// `content-encoding`.
    pub content_encoding: Option<&'a [u8]>,
    /// `headers`.
    pub headers: Table<'a>,
    /// `delivery-mode`: 2 is persistent.
    pub delivery_mode: Option<u8>,
    /// `priority`.
    pub priority: Option<u8>,
    /// `correlation-id`.
    pub correlation_id: Option<&'a [u8]>,
    /// `reply-to`.
    pub reply_to: Option<&'a [u8]>,
    /// `expiration`: milliseconds, as text.
    pub expiration: Option<&'a [u8]>,
    /// `message-id`.
    pub message_id: Option<&'a [u8]>,
    /// `timestamp`: seconds since 1970.
    pub timestamp: Option<u64>,
    /// `type`.
    pub kind: Option<&'a [u8]>,
    /// `user-id`.
    pub user_id: Option<&'a [u8]>,
    /// `app-id`.
    pub app_id: Option<&'a [u8]>,
}

/// The flag that another two bytes of flags follow.
const MORE_FLAGS: u16 = 1;

impl<'a> Properties<'a> {
    /// Reads the part of a content header that begins with the flags. Where it is cut off, the
    /// rest is absent: the message itself is sound, for its length is said elsewhere.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut properties = Self::default();
        let _is_whole = properties.read(Scan(bytes)).is_some();
        properties
    }

    fn read(&mut self, mut scan: Scan<'a>) -> Option<()> {
        let flags = scan.short()?;
        let mut last = flags;
        while last & MORE_FLAGS != 0 {
            last = scan.short()?;
        }
        let has = |bit: u16| flags & (1 << bit) != 0;
        let text = |bit: u16, scan: &mut Scan<'a>, to: &mut Option<&'a [u8]>| {
            if has(bit) {
                *to = Some(scan.short_text()?);
            }
            Some(())
        };
        text(15, &mut scan, &mut self.content_type)?;
        text(14, &mut scan, &mut self.content_encoding)?;
        if has(13) {
            self.headers = Table(scan.long_text()?);
        }
        if has(12) {
            self.delivery_mode = Some(scan.octet()?);
        }
        if has(11) {
            self.priority = Some(scan.octet()?);
        }
        text(10, &mut scan, &mut self.correlation_id)?;
        text(9, &mut scan, &mut self.reply_to)?;
        text(8, &mut scan, &mut self.expiration)?;
        text(7, &mut scan, &mut self.message_id)?;
        if has(6) {
            self.timestamp = Some(scan.long_long()?);
        }
        text(5, &mut scan, &mut self.kind)?;
        text(4, &mut scan, &mut self.user_id)?;
        text(3, &mut scan, &mut self.app_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[u8] = b"\xff\xfc\x01a\x01b\0\0\0\x03\x01nV\x02\x07\x01c\x01d\x01e\x01f\
        \0\0\0\0\0\0\0\x09\x01g\x01h\x01i\x01j";

    #[test]
    fn all_of_them() {
        let all = Properties {
            content_type: Some(b"a"),
            content_encoding: Some(b"b"),
            headers: Table(b"\x01nV"),
            delivery_mode: Some(2),
            priority: Some(7),
            correlation_id: Some(b"c"),
            reply_to: Some(b"d"),
            expiration: Some(b"e"),
            message_id: Some(b"f"),
            timestamp: Some(9),
            kind: Some(b"g"),
            user_id: Some(b"h"),
            app_id: Some(b"i"),
        };
        assert_eq!(Properties::parse(ALL), all);
    }

    #[test]
    fn what_is_cut_off_is_absent() {
        let mut seen = 0;
        for cut in 0..ALL.len() {
            let cut = Properties::parse(&ALL[..cut]);
            let count = usize::from(cut.content_type.is_some())
                + usize::from(cut.priority.is_some())
                + usize::from(cut.app_id.is_some());
            assert!(count >= seen, "{cut:?}");
            seen = count;
        }
        assert_eq!(Properties::parse(b""), Properties::default());
    }

    #[test]
    fn further_flags_are_skipped() {
        let properties = Properties::parse(b"\x80\x01\x00\x01\x00\x00\x01a");
        assert_eq!(properties.content_type, Some(&b"a"[..]));
    }
}
