//! Tables and lists of values: read one after the other, as they are asked for.
//!
//! Each nested table says how long it is, so that nobody has to read it to get past it: depth
//! costs no stack.

use crate::scan::Scan;

/// A table: names and values. Reading ends before the first that cannot be read, such as one of
/// an unknown type, for nobody knows where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table<'a>(pub(crate) &'a [u8]);

/// A list of values. Reading ends before the first that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Array<'a>(&'a [u8]);

/// A value of a table or a list. The types are RabbitMQ's, which differ from the
/// specification's: <https://www.rabbitmq.com/amqp-0-9-1-errata#section_3>.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// A switch.
    Bool(bool),
    /// A whole number with a sign, of 8 to 64 bits.
    Signed(i64),
    /// A whole number without a sign, of 8 to 32 bits.
    Unsigned(u64),
    /// A number of 32 bits with a point.
    Float(f32),
    /// A number of 64 bits with a point.
    Double(f64),
    /// A number to be divided by ten, so many times.
    Decimal {
        /// How many times.
        scale: u8,
        /// The number.
        value: u32,
    },
    /// A text, which need not be UTF-8.
    Text(&'a [u8]),
    /// Bytes that are no text.
    Binary(&'a [u8]),
    /// Seconds since 1970.
    Timestamp(u64),
    /// A table within.
    Table(Table<'a>),
    /// A list within.
    Array(Array<'a>),
    /// Nothing.
    Void,
}

impl<'a> Table<'a> {
    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Value<'a>> {
        self.iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value)
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        let mut scan = Scan(self.0);
        std::iter::from_fn(move || Some((scan.short_text()?, value(&mut scan)?))).fuse()
    }
}

impl<'a> Array<'a> {
    /// The values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut scan = Scan(self.0);
        std::iter::from_fn(move || value(&mut scan)).fuse()
    }
}

fn value<'a>(scan: &mut Scan<'a>) -> Option<Value<'a>> {
    Some(match scan.octet()? {
        b't' => Value::Bool(scan.octet()? != 0),
        b'b' => Value::Signed(i8::from_be_bytes(scan.array()?).into()),
        b'B' => Value::Unsigned(scan.octet()?.into()),
        b's' | b'U' => Value::Signed(i16::from_be_bytes(scan.array()?).into()),
        b'u' => Value::Unsigned(scan.short()?.into()),
        b'I' => Value::Signed(i32::from_be_bytes(scan.array()?).into()),
        b'i' => Value::Unsigned(scan.long()?.into()),
        b'l' | b'L' => Value::Signed(i64::from_be_bytes(scan.array()?)),
        b'f' => Value::Float(f32::from_be_bytes(scan.array()?)),
        b'd' => Value::Double(f64::from_be_bytes(scan.array()?)),
        b'D' => Value::Decimal {
            scale: scan.octet()?,
            value: scan.long()?,
        },
        b'S' => Value::Text(scan.long_text()?),
        b'x' => Value::Binary(scan.long_text()?),
        b'T' => Value::Timestamp(scan.long_long()?),
        b'F' => Value::Table(Table(scan.long_text()?)),
        b'A' => Value::Array(Array(scan.long_text()?)),
        b'V' => Value::Void,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables in tables, as deep as a frame allows.
    #[test]
    fn depth_costs_nothing() {
        let mut bytes = Vec::new();
        for _ in 0..15_000_u32 {
            let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes = [&b"\x01nF"[..], &length, &bytes].concat();
        }
        bytes.extend(b"\x01xI\0\0\0\x07");
        let table = Table(&bytes);
        assert_eq!(table.iter().count(), 2);
        assert_eq!(table.get(b"x"), Some(Value::Signed(7)));
    }

    #[test]
    fn each_type_is_read_to_its_end() {
        let values: [(&[u8], Value<'_>); 18] = [
            (b"t\x01", Value::Bool(true)),
            (b"b\xff", Value::Signed(-1)),
            (b"B\xff", Value::Unsigned(255)),
            (b"s\xff\xfe", Value::Signed(-2)),
            (b"U\xff\xfe", Value::Signed(-2)),
            (b"u\xff\xfe", Value::Unsigned(65_534)),
            (b"I\xff\xff\xff\xfd", Value::Signed(-3)),
            (b"i\xff\xff\xff\xff", Value::Unsigned(4_294_967_295)),
            (b"l\xff\xff\xff\xff\xff\xff\xff\xff", Value::Signed(-1)),
            (b"f\x3f\x80\0\0", Value::Float(1.0)),
            (b"d\x3f\xf0\0\0\0\0\0\0", Value::Double(1.0)),
            (
                b"D\x02\0\0\x01\0",
                Value::Decimal {
                    scale: 2,
                    value: 256,
                },
            ),
            (b"S\0\0\0\x02\xff\xfe", Value::Text(b"\xff\xfe")),
            (b"x\0\0\0\x01y", Value::Binary(b"y")),
            (b"T\0\0\0\0\0\0\0\x09", Value::Timestamp(9)),
            (b"F\0\0\0\x03\x01aV", Value::Table(Table(b"\x01aV"))),
            (b"A\0\0\0\x01V", Value::Array(Array(b"V"))),
            (b"V", Value::Void),
        ];
        let list: Vec<u8> = values
            .iter()
            .flat_map(|(bytes, _)| bytes.to_vec())
            .collect();
        let read: Vec<_> = Array(&list).iter().collect();
        assert_eq!(read, values.map(|(_, value)| value));
        for (bytes, _) in values {
            for cut in 0..bytes.len() {
                assert_eq!(Array(&bytes[..cut]).iter().count(), 0, "{bytes:?} to {cut}");
            }
        }
    }

    #[test]
    fn an_unknown_type_ends_the_reading() {
        let table = Table(b"\x01aV\x01bQ\x01cV");
        let names: Vec<_> = table.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"a"]);
    }
}
