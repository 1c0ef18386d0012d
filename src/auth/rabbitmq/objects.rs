//! A JSON array of objects, read as it comes (pure).
//!
//! The management plug-in lists everything in one array. With hundreds of thousands of bindings that is
//! tens of megabytes; so each object is looked at by itself, and let go.

/// One object, in bytes. RabbitMQ's names have at most 255 bytes each.
const LONGEST: usize = 64 * 1024;

/// Reads an array.
#[derive(Debug, Default)]
pub(super) struct Objects {
    place: Place,
    /// What came of an object.
    part: Vec<u8>,
    /// Braces and brackets that are open in it.
    depth: u32,
    in_text: bool,
    is_escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    /// In the array: between objects, or in one.
    Inside,
    After,
}

impl Objects {
    /// Takes what came, and hands on each object that is complete.
    ///
    /// # Errors
    /// It is no array of objects, or one is too long; or what `each` says. In words without content.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        for byte in bytes {
            if self.depth == 0 {
                self.between(*byte)?;
            } else {
                self.within(*byte)?;
                if self.depth == 0 {
                    each(&self.part)?;
                    self.part.clear();
                }
            }
        }
        Ok(())
    }

    /// It is all that came.
    ///
    /// # Errors
    /// The array has no end.
    pub(super) fn end(&self) -> Result<(), String> {
        match self.place {
            Place::After => Ok(()),
            _ => Err("the list breaks off".to_owned()),
        }
    }

    fn between(&mut self, byte: u8) -> Result<(), String> {
        match (self.place, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') | (Place::Inside, b',') => {}
            (Place::Before, b'[') => self.place = Place::Inside,
            (Place::Inside, b']') => self.place = Place::After,
            (Place::Inside, b'{') => {
                self.part.push(byte);
                self.depth = 1;
            }
            _ => return Err("it is no list of objects".to_owned()),
        }
        Ok(())
    }

    fn within(&mut self, byte: u8) -> Result<(), String> {
        if self.part.len() >= LONGEST {
            return Err(format!("an object is longer than {LONGEST} bytes"));
        }
        self.part.push(byte);
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.in_text => self.is_escaped = true,
            b'"' => self.in_text = !self.in_text,
            _ if self.in_text => {}
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Value>, String> {
        let (mut objects, mut all) = (Objects::default(), Vec::new());
        for part in parts {
            objects.take(part, |object| {
                all.push(serde_json::from_slice(object).map_err(|error| error.to_string())?);
                Ok(())
            })?;
        }
        objects.end().map(|()| all)
    }

    #[test]
    fn another_answer_is_an_error() {
        for (text, error) in [
            ("", "breaks off"),
            ("[{}", "breaks off"),
            (r#"{"error":"not_authorised"}"#, "no list of objects"),
            ("[1]", "no list of objects"),
            ("[]]", "no list of objects"),
            (r"[{a}]", "key must be a string"),
        ] {
            let told = read([text.as_bytes()]).unwrap_err();
            assert!(told.contains(error), "{text}: {told}");
        }
        let long = format!("[{{\"a\":\"{}\"}}]", "x".repeat(LONGEST));
        let told = read([long.as_bytes()]).unwrap_err();
        assert!(told.contains("longer than"), "{told}");
    }

    proptest! {
        /// However it is cut: each object comes, as a parser of the whole reads it.
        #[test]
        fn every_object_comes(
            texts in prop::collection::vec("\\PC{0,8}|[\\[\\]{}\"\\\\,]{0,8}", 0..6),
            size in 1..40_usize,
        ) {
            let all = texts.iter().map(|text| json!({ "key": text, text: [{ "a": text }, 1] }));
            let all: Vec<Value> = all.collect();
            let text = serde_json::to_string_pretty(&all).unwrap();
            prop_assert_eq!(read(text.as_bytes().chunks(size)).unwrap(), all);
        }
    }
}
