//! A variable's text, read as what the target wants.

use serde::{
    Deserializer,
    de::{
        Error as _, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use toml::de::Error;

/// The value of an environment variable. Lists are separated by commas; a table is a list of
/// `name=value`.
#[derive(Clone)]
pub(super) struct Text(pub(super) String);

impl Text {
    fn items(&self) -> impl Iterator<Item = &str> {
        let items = self.0.split(',').map(str::trim);
        items.filter(|item| !item.is_empty())
    }

    fn parsed<T: std::str::FromStr>(&self, wanted: &str) -> Result<T, Error> {
        self.0
            .trim()
            .parse()
            .map_err(|_| Error::custom(format!("{:?} is not {wanted}", self.0)))
    }
}

impl<'de> IntoDeserializer<'de, Error> for Text {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $wanted:literal,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.parsed($wanted)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Text {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    numbers! {
        deserialize_bool visit_bool "a switch; write true or false",
        deserialize_i8 visit_i64 "a whole number",
        deserialize_i16 visit_i64 "a whole number",
        deserialize_i32 visit_i64 "a whole number",
        deserialize_i64 visit_i64 "a whole number",
        deserialize_u8 visit_u64 "a whole number, 0 or more",
        deserialize_u16 visit_u64 "a whole number, 0 or more",
        deserialize_u32 visit_u64 "a whole number, 0 or more",
        deserialize_u64 visit_u64 "a whole number, 0 or more",
        deserialize_f32 visit_f64 "a number",
        deserialize_f64 visit_f64 "a number",
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = self.items().map(|item| Self(item.to_owned()));
        visitor.visit_seq(SeqDeserializer::new(items))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let pair = |item: &str| {
            let (name, value) = item.split_once('=').ok_or_else(|| {
                Error::custom(format!(
                    "{item:?} has no \"=\"; write NAME=VALUE,NAME=VALUE"
                ))
            })?;
            Ok((Self(name.trim().to_owned()), Self(value.trim().to_owned())))
        };
        let pairs: Vec<(Self, Self)> = self.items().map(pair).collect::<Result<_, Error>>()?;
        visitor.visit_map(MapDeserializer::new(pairs.into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = IntoDeserializer::<Error>::into_deserializer(self.0);
        Deserializer::deserialize_enum(variant, name, variants, visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct struct identifier
        ignored_any
    }
}
