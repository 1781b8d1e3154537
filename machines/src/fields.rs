//! Typed access to the tables of a machine file: every refusal knows its line and its key.

use crate::Error;
use crate::schema::{LATER, Section};
use crate::units;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// The file that is read: makes errors from positions in its text.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a Path,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The line, from 1, of a byte of the text.
    fn line(self, position: usize) -> usize {
        self.text.bytes().take(position).filter(|&byte| byte == b'\n').count() + 1
    }

    pub(crate) fn error(self, line: usize, key: impl Into<String>, reason: impl Into<String>) -> Error {
        Error { file: self.file.to_owned(), line, key: key.into(), reason: reason.into() }
    }

    pub(crate) fn syntax_error(self, error: &toml::de::Error) -> Error {
        let line = self.line(error.span().map_or(0, |span| span.start));
        self.error(line, "", format!("{}; see the TOML specification at toml.io", error.message().trim_end()))
    }
}

/// One table, known to hold only keys of its schema section.
pub(crate) struct Fields<'a> {
    source: Source<'a>,
    section: &'static Section,
    /// The table's name in errors, such as `vm[linux]`; empty for the file's root.
    path: String,
    line: usize,
    table: &'a DeTable<'a>,
}

/// A key's value, and where it stands.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    source: Source<'a>,
    key: String,
    line: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(
        source: Source<'a>,
        section: &'static Section,
        path: String,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Result<Self, Error> {
        let fields = Self { source, section, path, line: source.line(span.start), table };
        match table.keys().find(|key| section.keys.iter().all(|known| known.name != key.get_ref())) {
            None => Ok(fields),
            Some(key) => {
                let reason = unknown_key(section, key.get_ref());
                Err(source.error(source.line(key.span().start), fields.path_of(key.get_ref()), reason))
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key of the section, if it is given.
    pub(crate) fn get(&self, key: &str) -> Option<Field<'a>> {
        debug_assert!(self.section.keys.iter().any(|known| known.name == key), "{key} is not in the schema");
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        let line = self.source.line(name.span().start);
        Some(Field { source: self.source, key: self.path_of(key), line, value: value.get_ref() })
    }

    /// The value of a key that must be given.
    pub(crate) fn required(&self, key: &str) -> Result<Field<'a>, Error> {
        let missing = || self.source.error(self.line, self.path_of(key), "is missing: add it");
        self.get(key).ok_or_else(missing)
    }

    /// Where the table begins.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// Of the keys `names`, the first in the file.
    pub(crate) fn first_of(&self, names: &[&str]) -> Option<Field<'a>> {
        names.iter().filter_map(|name| self.get(name)).min_by_key(|field| field.line)
    }
}

impl<'a> Field<'a> {
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        self.source.error(self.line, self.key.clone(), reason)
    }

    fn wrong_type(&self, expected: &str) -> Error {
        self.error(format!("is of type {}: write {expected}", self.value.type_str()))
    }

    pub(crate) fn string(&self) -> Result<&'a str, Error> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    pub(crate) fn boolean(&self) -> Result<bool, Error> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// A whole number within `range`; `hex` says how to show the range.
    fn ranged(&self, integer: &DeInteger<'_>, range: RangeInclusive<u64>, hex: bool) -> Result<u64, Error> {
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            let (min, max) = (range.start(), range.end());
            let range = if hex { format!("{min:#x} to {max:#x}") } else { format!("{min} to {max}") };
            self.error(format!("{integer} is out of range: write a number from {range}"))
        })
    }

    pub(crate) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, Error> {
        let integer = self.value.as_integer().ok_or_else(|| self.wrong_type("a whole number"))?;
        self.ranged(integer, range, false)
    }

    pub(crate) fn address(&self, range: RangeInclusive<u64>, align: u64) -> Result<u64, Error> {
        let integer =
            self.value.as_integer().ok_or_else(|| self.wrong_type("an address such as 0x4008_0000"))?;
        let value = self.ranged(integer, range, true)?;
        if value.is_multiple_of(align) {
            return Ok(value);
        }
        let below = value - value % align;
        Err(self.error(format!("{value:#x} is not a multiple of {align:#x}: write {below:#x}, say")))
    }

    pub(crate) fn size(&self) -> Result<u64, Error> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_type("a size such as \"512MiB\""))?;
        units::size(text).map_err(|reason| self.error(reason))
    }

    pub(crate) fn duration(&self) -> Result<u64, Error> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_type("a duration such as \"250us\""))?;
        units::duration(text).map_err(|reason| self.error(reason))
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(crate) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    /// The value as a table of the schema's `section`.
    pub(crate) fn table(&self, section: &'static Section) -> Result<Fields<'a>, Error> {
        let table = self.value.as_table().ok_or_else(|| self.wrong_type("a table"))?;
        let mut fields = Fields::new(self.source, section, self.key.clone(), 0..0, table)?;
        fields.line = self.line;
        Ok(fields)
    }

    /// The value as an array.
    pub(crate) fn array(&self, expected: &str) -> Result<&'a [Spanned<DeValue<'a>>], Error> {
        self.value.as_array().map(|array| &array[..]).ok_or_else(|| self.wrong_type(expected))
    }

    /// An element of the value, an array, as a field of its own.
    pub(crate) fn element(&self, element: &'a Spanned<DeValue<'a>>, key: String) -> Field<'a> {
        let line = self.source.line(element.span().start);
        Field { source: self.source, key, line, value: element.get_ref() }
    }
}

fn unknown_key(section: &Section, key: &str) -> String {
    if let Some((_, reason)) = LATER.iter().find(|(later, _)| *later == key) {
        return (*reason).to_owned();
    }
    let names = || section.keys.iter().map(|known| known.name);
    let nearest = names().min_by_key(|name| strsim::damerau_levenshtein(name, key));
    match nearest.filter(|name| strsim::damerau_levenshtein(name, key) <= 2) {
        Some(name) => format!("unknown key: did you mean `{name}`?"),
        None => format!("unknown key: use one of {}", names().collect::<Vec<_>>().join(", ")),
    }
}
