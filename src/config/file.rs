//! The configuration file: TOML, flat, every key known.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{ConfigError, FIELDS};

/// One setting of the file, as it would be written on the command line.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct FileEntry {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// Counted from 1.
    pub(super) line: usize,
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Vec<FileEntry>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { path: path.to_owned(), problem: error.to_string() })?;
    parse(path, &text)
}

/// Reads `text`, the content of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<FileEntry>, ConfigError> {
    let syntax = |offset: usize, problem: String| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(text, offset),
        problem,
    };
    let table = DeTable::parse(text)
        .map_err(|error| syntax(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let written: &str = key.get_ref();
        let line = line_of(text, key.span().start);
        let Some(field) = FIELDS.iter().find(|field| field.name == written) else {
            let key = written.to_owned();
            return Err(ConfigError::UnknownKey { path: path.to_owned(), line, advice: advice(written), key });
        };
        let value = match (value.get_ref(), field.name) {
            (DeValue::Table(peers), "peers") => peer_list(peers),
            (value, _) => scalar(value),
        };
        let value = value.map_err(|problem| syntax(key.span().start, format!("{}: {problem}", field.name)))?;
        entries.push(FileEntry { name: field.name, value, line });
    }
    Ok(entries)
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        other => Err(format!("a value of type {} where a string or a whole number belongs", other.type_str())),
    }
}

/// `[peers]` with `1 = "host:port"` lines.
fn peer_list(peers: &DeTable<'_>) -> Result<String, String> {
    let mut list = Vec::new();
    for (id, address) in peers {
        let id: &str = id.get_ref();
        let address =
            address.get_ref().as_str().ok_or(format!("peer {id} needs an address, like \"10.0.0.1:7101\""))?;
        list.push(format!("{id}={address}"));
    }
    Ok(list.join(","))
}

/// What to write instead of an unknown key.
fn advice(key: &str) -> String {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    match FIELDS.iter().find(|field| plain(field.name) == plain(key)) {
        Some(field) => format!("write '{}'", field.name),
        None => {
            let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
            format!("remove it, or use one of: {}", names.join(", "))
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
