//! Values from the file and the environment become sections, and problems are gathered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, vec,
};

use serde::de::{
    Deserialize, DeserializeSeed, Error as _, IntoDeserializer, MapAccess,
    value::MapAccessDeserializer,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{
    ConfigErrors, File, Keys, Problem, Section, Sources, VARIABLE_PREFIX, ValueSource,
    keys::{Name, nearest},
    shown::{is_secret, unquoted},
    text::Text,
};
use crate::codes::Code;

/// Gathers what was set, and what is wrong with it.
pub(super) struct Reader<'a> {
    sections: &'a [Keys],
    file: Option<File<'a>>,
    set: BTreeMap<Name, (ValueSource, Value<'a>)>,
    /// Keys with a known problem: they are not blamed again.
    bad: BTreeSet<Name>,
    problems: Vec<Problem>,
    /// The file is not TOML.
    broken: bool,
}

/// A value that was set, before its type is known. It may be a secret: it has no `Debug` of its own.
#[derive(Clone)]
pub(super) enum Value<'a> {
    File(Spanned<DeValue<'a>>),
    /// The same, without the file.
    Kept(toml::Value),
    Variable(Text),
}

/// A value that outlives its file, and its place.
pub(super) type SetValue = (ValueSource, Value<'static>);

/// All that was set.
pub(super) type Values = BTreeMap<Name, SetValue>;

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Value<'_> {
    fn kept(self) -> Value<'static> {
        match self {
            Value::File(value) => Value::Kept(keep(value)),
            Value::Kept(value) => Value::Kept(value),
            Value::Variable(text) => Value::Variable(text),
        }
    }

    /// As TOML has it. Variables are texts.
    pub(super) fn to_toml(&self) -> toml::Value {
        match self {
            Value::File(value) => keep(value.clone()),
            Value::Kept(value) => value.clone(),
            Value::Variable(text) => toml::Value::String(text.0.clone()),
        }
    }
}

fn keep(value: Spanned<DeValue<'_>>) -> toml::Value {
    // Whatever TOML can say, a TOML value can hold.
    toml::Value::deserialize(value.into_deserializer())
        .unwrap_or_else(|_| toml::Value::String(String::new()))
}

impl<'a> Reader<'a> {
    pub(super) fn new(sections: &'a [Keys], file: Option<File<'a>>) -> Self {
        let mut reader = Self {
            sections,
            file,
            set: BTreeMap::new(),
            bad: BTreeSet::new(),
            problems: Vec::new(),
            broken: false,
        };
        if let Some(file) = file {
            reader.file(file);
        }
        reader
    }

    /// One of values that were read before.
    pub(super) fn of(sections: &'a [Keys], file: File<'a>, values: Values) -> Self {
        Self {
            set: values,
            ..Self::new(sections, Some(file))
        }
    }

    /// The name of what is read.
    pub(super) fn name(&self) -> &str {
        self.file.map_or("configuration", |file| file.name)
    }

    fn file(&mut self, file: File<'a>) {
        let (table, errors) = DeTable::parse_recoverable(file.text);
        if !errors.is_empty() {
            for error in errors {
                let place = line(file, error.span().map_or(0, |span| span.start));
                self.problem(
                    place,
                    Code::ConfigSyntax,
                    format!("not TOML (texts stand in quotes): {}", error.message()),
                );
            }
            // The readable rest of a broken file would only be misunderstood.
            self.broken = true;
            return;
        }
        for (section, values) in table.into_inner() {
            let place = line(file, section.span().start);
            match values.into_inner() {
                DeValue::Table(values) => {
                    self.file_section(file, &place, section.get_ref(), values)
                }
                _ if self.section_keys(section.get_ref()).is_some() => {
                    self.problem(
                        place,
                        Code::UnknownSection,
                        format!(
                            "[{section}] is a section; write [{section}] on a \
                         line of its own, and its keys below"
                        ),
                    );
                }
                _ => {
                    let advice = self.advice("", section.get_ref());
                    self.problem(
                        place,
                        Code::UnknownKey,
                        format!("{section}: there is no such key outside of the sections{advice}"),
                    );
                }
            }
        }
    }

    fn file_section(
        &mut self,
        file: File<'a>,
        place: &ValueSource,
        section: &str,
        values: DeTable<'a>,
    ) {
        let known = self.section_keys(section).or_else(|| self.above(section));
        let Some((section, keys)) = known else {
            let names = self.sections.iter().map(|(name, _)| *name);
            let advice = nearest(section, names.clone()).map_or_else(
                || {
                    format!(
                        "; the sections are {}",
                        names.collect::<Vec<_>>().join(", ")
                    )
                },
                |name| format!("; did you mean [{name}]?"),
            );
            return self.problem(
                place.clone(),
                Code::UnknownSection,
                format!("[{section}]: there is no such section{advice}"),
            );
        };
        for (key, value) in values {
            let place = line(file, key.span().start);
            let below = format!("{section}.{}", key.get_ref());
            if self.section_keys(&below).is_some() {
                match value.into_inner() {
                    DeValue::Table(values) => self.file_section(file, &place, &below, values),
                    _ => self.problem(
                        place,
                        Code::UnknownSection,
                        format!("[{below}] is a section; write [{below}] on a line of its own, and its keys below"),
                    ),
                }
                continue;
            }
            match keys.iter().find(|known| **known == key.get_ref()) {
                Some(key) => {
                    self.set.insert((section, key), (place, Value::File(value)));
                }
                None => {
                    let advice = self.advice(section, key.get_ref());
                    self.problem(
                        place,
                        Code::UnknownKey,
                        format!("[{section}] {key}: there is no such key{advice}"),
                    );
                }
            }
        }
    }

    /// Lays the variables of the environment over the file.
    pub(super) fn environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let named = |section: &str, key: &str| {
            format!("{section}__{key}")
                .replace('.', "__")
                .to_ascii_uppercase()
        };
        let known: BTreeMap<String, Name> = self
            .sections
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(|key| (*section, *key)))
            .map(|(section, key)| (named(section, key), (section, key)))
            .collect();
        for (variable, value) in environment {
            // Names are compared without the prefix, which would make all of them alike.
            let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else {
                if let Some(meant) = meant(&variable, known.keys()) {
                    let message = format!(
                        "is not read; write {VARIABLE_PREFIX}{meant}, with two underscores before \
                         the section and before the key"
                    );
                    let place = ValueSource::Variable(variable);
                    self.problem(place, Code::UnknownVariable, message);
                }
                continue;
            };
            if let Some(name) = known.get(name) {
                let value = Value::Variable(Text(value));
                self.set
                    .insert(*name, (ValueSource::Variable(variable), value));
            } else {
                let advice = nearest(name, known.keys()).map_or_else(
                    || format!("; variables are named {VARIABLE_PREFIX}SECTION__KEY"),
                    |near| format!("; did you mean {VARIABLE_PREFIX}{near}?"),
                );
                let message = format!("there is no such variable{advice}");
                let place = ValueSource::Variable(variable);
                self.problem(place, Code::UnknownVariable, message);
            }
        }
    }

    /// A section: the values that are set and sound, and defaults for the rest.
    pub(super) fn section<S: Section>(&mut self) -> S {
        let mut values: BTreeMap<&'static str, Value<'a>> = BTreeMap::new();
        let set: Vec<_> = self
            .set
            .iter()
            .filter(|((section, _), _)| *section == S::NAME)
            .map(|((_, key), (_, value))| (*key, value.clone()))
            .collect();
        // Each value alone first, so that one which is wrong does not hide the next.
        for (key, value) in set {
            match deserialize::<S>(vec![(key, value.clone())]) {
                Ok(_) => {
                    values.insert(key, value);
                }
                Err(error) => {
                    let name = (S::NAME, key);
                    let message = explain(&error, is_secret(name));
                    self.wrong_as(Code::WrongValue, &[name], &message);
                }
            }
        }
        loop {
            let all = values.clone().into_iter().collect();
            let section: S = deserialize(all).unwrap_or_default();
            let Err((key, message)) = section.check() else {
                return section;
            };
            self.wrong_as(Code::WrongValue, &[(S::NAME, key)], &message);
            // With the default in its place, the next problem shows.
            if values.remove(key).is_none() {
                return section;
            }
        }
    }

    /// Whether one of these keys has a known problem. A key of "" stands for all of its section.
    pub(super) fn has_problem(&self, names: &[Name]) -> bool {
        let is_bad = |(section, key): &Name| match *key {
            "" => self.bad.iter().any(|(bad, _)| bad == section),
            _ => self.bad.contains(&(*section, *key)),
        };
        names.iter().any(is_bad)
    }

    /// Notes that a value does not go with those of the other keys that are named. The first is
    /// blamed, unless a problem of one of them is known already.
    pub(super) fn wrong(&mut self, names: &[Name], message: &str) {
        self.wrong_as(Code::Contradiction, names, message);
    }

    /// As [`Reader::wrong`], for a fault of another name; also of one key alone.
    pub(super) fn wrong_as(&mut self, code: Code, names: &[Name], message: &str) {
        let Some(blamed @ (section, key)) = names.first() else {
            return;
        };
        if self.broken || names.iter().any(|name| self.bad.contains(name)) {
            return;
        }
        self.bad.insert(*blamed);
        let place = self.place(names, message);
        self.problem(place, code, format!("[{section}] {key}: {message}"));
    }

    /// The place where one of these was set. A section that blames one key names in its message the
    /// keys that contradict it; if the first is a default, the others are at fault.
    fn place(&self, names: &[Name], message: &str) -> ValueSource {
        let blamed = names.iter().find_map(|name| self.set.get(name));
        let named = || {
            let in_section = |name: &Name| names.first().is_some_and(|(own, _)| *own == name.0);
            self.set
                .iter()
                .find(|(name, _)| {
                    let mut words = message.split(|c: char| !c.is_alphanumeric() && c != '_');
                    in_section(name) && words.any(|word| word == name.1)
                })
                .map(|(_, set)| set)
        };
        blamed.or_else(named).map_or_else(
            || ValueSource::Unset(self.name().to_owned()),
            |(place, _)| place.clone(),
        )
    }

    /// All well, and where it comes from; or all problems.
    pub(super) fn finish(mut self) -> Result<(Sources, Values), ConfigErrors> {
        if self.problems.is_empty() {
            let mut sources = Sources::default();
            for (place, _) in self.set.values() {
                match place {
                    ValueSource::Variable(name) => sources.variables.push(name.clone()),
                    ValueSource::Line(..) | ValueSource::Unset(_) => {
                        sources.file = sources.file.saturating_add(1)
                    }
                }
            }
            return Ok((sources, self.into_values()));
        }
        self.problems.sort();
        Err(ConfigErrors(self.problems))
    }

    /// All that is set, sound or not.
    pub(super) fn into_values(self) -> Values {
        let set = self.set.into_iter();
        set.map(|(name, (place, value))| (name, (place, value.kept())))
            .collect()
    }

    /// Whatever quotes a value comes through here: whoever reads the problems may not know secrets,
    /// and a URL with a password can stand at any key by mistake.
    fn problem(&mut self, place: ValueSource, code: Code, message: String) {
        let set = self.set.iter();
        let message = set.fold(message, |message, (name, (_, value))| {
            unquoted(message, *name, &value.to_toml())
        });
        self.problems.push(Problem {
            place,
            message,
            code,
        });
    }

    fn section_keys(&self, name: &str) -> Option<Keys> {
        self.sections
            .iter()
            .find(|(section, _)| *section == name)
            .copied()
    }

    /// A name that has no keys of its own, but sections below it.
    fn above(&self, name: &str) -> Option<Keys> {
        let mut names = self.sections.iter().map(|(section, _)| *section);
        names.find_map(|section| {
            let (above, below) = section.split_at_checked(name.len())?;
            (above == name && below.starts_with('.')).then_some((above, &[] as &[_]))
        })
    }

    /// The remedy for a key that its section does not have.
    fn advice(&self, section: &str, key: &str) -> String {
        let (own, others): (Vec<&Keys>, Vec<&Keys>) =
            self.sections.iter().partition(|(name, _)| *name == section);
        if let Some((name, _)) = others.iter().find(|(_, keys)| keys.contains(&key)) {
            return format!("; it belongs to [{name}]");
        }
        let own: Vec<&str> = own
            .iter()
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect();
        match nearest(key, own.iter()) {
            Some(near) => format!("; did you mean {near}?"),
            None if own.is_empty() => String::new(),
            None => format!("; the keys of [{section}] are {}", own.join(", ")),
        }
    }
}

/// The key that a variable is meant for which has one underscore in the place of two: it would be
/// passed over, as those are that Kubernetes sets for a service of our name.
fn meant<'a>(variable: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let words = |name: &str| -> Vec<String> {
        let words = name.split('_').filter(|word| !word.is_empty());
        words.map(str::to_ascii_uppercase).collect()
    };
    let variable = words(variable);
    let (own, name) = variable.split_first()?;
    let mut known = known.filter(|_| own == VARIABLE_PREFIX.trim_end_matches('_'));
    known.find(|key| words(key) == name)
}

/// Whether both set a key of the section to the same; what is not set has its default.
pub(super) fn is_same<S: Section + PartialEq>(
    key: &'static str,
    one: Option<&SetValue>,
    other: Option<&SetValue>,
) -> bool {
    let read = |set: Option<&SetValue>| {
        let set = set.map(|(_, value)| (key, value.clone()));
        deserialize::<S>(set.into_iter().collect())
    };
    matches!((read(one), read(other)), (Ok(one), Ok(other)) if one == other)
}

/// A section from these values, and defaults for the rest. A vector, and not any iterator: all
/// sections would be compiled for each kind of it.
fn deserialize<'a, S: Section>(values: Vec<(&'static str, Value<'a>)>) -> Result<S, Error> {
    S::deserialize(MapAccessDeserializer::new(Fields {
        rest: values.into_iter(),
        next: None,
    }))
}

/// Values of both origins, as serde takes a struct's fields.
struct Fields<'a> {
    rest: vec::IntoIter<(&'static str, Value<'a>)>,
    next: Option<Value<'a>>,
}

impl<'a> MapAccess<'a> for Fields<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.next = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.next.take() {
            Some(Value::File(value)) => seed.deserialize(value.into_deserializer()),
            Some(Value::Kept(value)) => seed.deserialize(value),
            Some(Value::Variable(text)) => seed.deserialize(text),
            None => Err(Error::custom("a value without a key")),
        }
    }
}

fn line(file: File<'_>, offset: usize) -> ValueSource {
    let before = file.text.bytes().take(offset);
    let line = before
        .filter(|byte| *byte == b'\n')
        .count()
        .saturating_add(1);
    ValueSource::Line(file.name.to_owned(), line)
}

/// serde's words for a wrong value, in those of TOML and with what to write. The error's own `Display` is
/// not used: it quotes the file's line, and there may be a secret in it. A secret is left out here, for
/// it may be a number, which stands there without quotes.
fn explain(error: &Error, is_secret: bool) -> String {
    let message = error.message();
    if let Some(told) = message.strip_prefix("unknown variant `")
        && let Some((text, known)) = told.rsplit_once("`, expected ")
    {
        return format!("{text:?} is not known; write {}", known.replace('`', "\""));
    }
    // toml's own, of a value that has to be one of several words.
    if message.starts_with("wanted string") || message.starts_with("expected table") {
        return "has a value that is not a text; write it in quotes".to_owned();
    }
    let told = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    let Some((value, wanted)) = told.and_then(|told| told.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let value = in_toml(value);
    match is_secret {
        true => format!("has a value that is not {}", wanted_in_toml(wanted, "")),
        false => format!("{value} is not {}", wanted_in_toml(wanted, &value)),
    }
}

/// A value of the wrong kind.
fn in_toml(value: &str) -> String {
    let (kind, rest) = value.split_once(' ').unwrap_or((value, ""));
    match (kind, rest) {
        ("string", text) => text.to_owned(),
        ("integer", number) => format!("the number {}", number.trim_matches('`')),
        ("floating", number) => {
            let number = number.trim_start_matches("point ");
            format!("the number {}", number.trim_matches('`'))
        }
        ("boolean", switch) => switch.trim_matches('`').to_owned(),
        ("sequence", _) => "a list".to_owned(),
        ("map", _) => "a table".to_owned(),
        _ => value.to_owned(),
    }
}

/// The kind that it has to have; `value` is the one that it has, empty if it is not to be shown.
fn wanted_in_toml(wanted: &str, value: &str) -> String {
    let is_text = value.starts_with('"');
    let wanted = match wanted {
        "a duration" => "a duration; write e.g. \"10s\" or \"500ms\"",
        "a string" | "path string" => "a text; write it in quotes",
        "a boolean" => "a switch; write true or false, without quotes",
        "a sequence" if is_text => return format!("a list; write [{value}]"),
        "a sequence" => "a list; write it in brackets, [\"…\", \"…\"]",
        "a map" => "a table; write { NAME = VALUE }",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "f32" | "f64" => "a number",
        other => other,
    };
    let is_number_in_quotes = is_text && value.trim_matches('"').parse::<f64>().is_ok();
    match is_number_in_quotes && wanted.contains("number") {
        true => format!("{wanted}; write it without quotes"),
        false => wanted.to_owned(),
    }
}
