//! The server's configuration: where each setting comes from, and whether it makes sense.
//!
//! A setting comes from a flag (`--segment-size`), else from the environment (`RINGRAFT_SEGMENT_SIZE`), else from the
//! file (`segment-size = "64MiB"`), else from its default. Each is written and checked the same way wherever it stands;
//! a refusal says what, where and what to do.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringraft_io::IoChoice;

use crate::protocol::{COMMAND_SIZE_MAX, key_hash};

mod args;
mod check;
mod file;
pub mod units;

pub use args::ServeArgs;

/// What a server needs to know to run; every value is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServeConfig {
    /// This node; not 0.
    pub node_id: u64,
    /// Name of the cluster: nodes of other names are refused.
    pub cluster: String,
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Where the logs lie; `None`: in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Where clients connect: `host:port`; port 0 asks the system for one.
    pub listen_client: String,
    /// Where peers connect: `host:port`; port 0 asks the system for one.
    pub listen_peer: String,
    /// How peers reach this node: `host:port`.
    pub advertise_peer: String,
    /// The members that the cluster starts with, sorted by id; this node is one of them.
    pub peers: Vec<PeerAddress>,
    /// Shards (threads) of this node.
    pub shards: u16,
    /// With io_uring, without, or as this machine allows.
    pub io: IoChoice,
    /// Raft groups of the cluster; the same on every node, for ever.
    pub groups: u64,
    /// Length of a tick.
    pub tick: Duration,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before an election, at the least.
    pub election_ticks: u32,
    /// How soon this node asks to lead when a leader is lost: 4 first, 1 last, 0 never by itself.
    pub priority: u8,
    /// Size of a log segment in bytes, a multiple of [`SEGMENT_ALIGN`].
    pub segment_size: u64,
    /// Entries applied between two snapshots of a group.
    pub snapshot_every: u64,
    /// Entries kept in the log behind a snapshot.
    pub snapshot_keep: u64,
    /// How long a request may take before its outcome is called uncertain.
    pub request_timeout: Duration,
    /// Most client connections of this node.
    pub client_connections_max: u32,
    /// Most requests under way in one shard.
    pub requests_max: u32,
    /// Most bytes waiting to be sent to one peer by one shard.
    pub peer_queue_size: u64,
    /// Every setting as it was written, and where.
    pub settings: Vec<Setting>,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Its node id.
    pub id: u64,
    /// `host:port` of its peer listener.
    pub address: String,
}

/// One setting: what was written, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Name, as in the file.
    pub name: &'static str,
    /// The value as written; empty: none.
    pub value: String,
    /// Where.
    pub source: Source,
}

/// Where a setting was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// On the command line.
    Flag,
    /// In the environment.
    Env,
    /// In the file.
    File {
        /// Which.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
    },
    /// Nowhere.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("command line"),
            Source::Env => f.write_str("environment"),
            Source::File { path, line } => write!(f, "{} line {line}", path.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

/// Why there is no configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {problem}; check --config", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// The file is not TOML.
    #[error("{path} line {line}: {problem}", path = path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// The file has a key that means nothing.
    #[error("{path} line {line}: unknown key '{key}'; {advice}", path = path.display())]
    UnknownKey {
        /// Which.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// What to do.
        advice: String,
    },
    /// A value makes no sense, alone or beside another.
    #[error("{name} = '{value}' ({at}): {problem}", at = spot(name, place))]
    Invalid {
        /// The setting.
        name: &'static str,
        /// What was written.
        value: String,
        /// Where.
        place: Source,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// The place as one finds it again.
fn spot(name: &str, source: &Source) -> String {
    match source {
        Source::Flag => format!("flag --{name}"),
        Source::Env => format!("environment {}", env_name(name)),
        other => other.to_string(),
    }
}

/// A setting that exists.
struct Field {
    /// Name in the file; the flag is `--name`, the variable `RINGRAFT_NAME`.
    name: &'static str,
    /// As it would be written; empty: none.
    default: &'static str,
}

const FIELDS: [Field; 22] = [
    Field { name: "node-id", default: "1" },
    Field { name: "cluster", default: "ringraft" },
    Field { name: "data-dir", default: "ringraft-data" },
    Field { name: "wal-dir", default: "" },
    Field { name: "listen-client", default: "127.0.0.1:7001" },
    Field { name: "listen-peer", default: "127.0.0.1:7101" },
    Field { name: "advertise-peer", default: "" },
    Field { name: "peers", default: "" },
    Field { name: "shards", default: "auto" },
    Field { name: "io", default: "auto" },
    Field { name: "groups", default: "16" },
    Field { name: "tick", default: "100ms" },
    Field { name: "heartbeat-ticks", default: "1" },
    Field { name: "election-ticks", default: "10" },
    Field { name: "priority", default: "4" },
    Field { name: "segment-size", default: "64MiB" },
    Field { name: "snapshot-every", default: "500000" },
    Field { name: "snapshot-keep", default: "10000" },
    Field { name: "request-timeout", default: "5s" },
    Field { name: "client-connections-max", default: "10000" },
    Field { name: "requests-max", default: "65536" },
    Field { name: "peer-queue-size", default: "64MiB" },
];

/// A segment is a multiple of this many bytes.
pub const SEGMENT_ALIGN: u64 = 4096;
/// Smallest segment: two of the largest commands and what stands around them.
pub const SEGMENT_SIZE_MIN: u64 = 4 << 20;
/// Largest segment.
pub const SEGMENT_SIZE_MAX: u64 = 4 << 30;

const _: () = assert!(SEGMENT_SIZE_MIN >= 2 * COMMAND_SIZE_MAX as u64);

/// The variable of a setting.
fn env_name(name: &str) -> String {
    format!("RINGRAFT_{}", name.to_uppercase().replace('-', "_"))
}

/// Puts the configuration together from the flags, the environment of this process, the file that `--config` or
/// `RINGRAFT_CONFIG` names, and the defaults.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(args: &ServeArgs) -> Result<ServeConfig, ConfigError> {
    load_with(args, &|name| std::env::var_os(name))
}

/// As [`load`], with another environment.
///
/// # Errors
/// The first thing that is wrong.
pub fn load_with(args: &ServeArgs, env: &dyn Fn(&str) -> Option<OsString>) -> Result<ServeConfig, ConfigError> {
    let path = args.config.clone().or_else(|| env("RINGRAFT_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from));
    let entries = match &path {
        Some(path) => file::read(path)?,
        None => Vec::new(),
    };
    assemble(args, env, path.as_deref(), &entries)
}

fn assemble(
    args: &ServeArgs,
    env: &dyn Fn(&str) -> Option<OsString>,
    path: Option<&Path>,
    entries: &[file::FileEntry],
) -> Result<ServeConfig, ConfigError> {
    let settings: Result<_, _> = FIELDS.iter().map(|field| setting(field, args, env, path, entries)).collect();
    check::build(settings?)
}

/// The configuration of a file with this text, and of nothing else.
#[cfg(any(test, fuzzing))]
pub(crate) fn of_text(text: &str) -> Result<ServeConfig, ConfigError> {
    let path = Path::new("ringraft.toml");
    assemble(&ServeArgs::default(), &|_| None, Some(path), &file::parse(path, text)?)
}

/// Finds one setting in the order of precedence. An empty variable counts as unset, as scripts expect.
fn setting(
    field: &Field,
    args: &ServeArgs,
    env: &dyn Fn(&str) -> Option<OsString>,
    path: Option<&Path>,
    entries: &[file::FileEntry],
) -> Result<Setting, ConfigError> {
    let name = field.name;
    if let Some(value) = args.value(name) {
        return Ok(Setting { name, value: value.to_owned(), source: Source::Flag });
    }
    if let Some(value) = env(&env_name(name)).filter(|value| !value.is_empty()) {
        let value = value.into_string().map_err(|value| ConfigError::Invalid {
            name,
            value: value.to_string_lossy().into_owned(),
            place: Source::Env,
            problem: "is not UTF-8; write it in UTF-8".into(),
        })?;
        return Ok(Setting { name, value, source: Source::Env });
    }
    if let (Some(path), Some(entry)) = (path, entries.iter().find(|entry| entry.name == name)) {
        let source = Source::File { path: path.to_owned(), line: entry.line };
        return Ok(Setting { name, value: entry.value.clone(), source });
    }
    Ok(Setting { name, value: field.default.to_owned(), source: Source::Default })
}

impl ServeConfig {
    /// The number that nodes of one cluster share: a hash of its name; never 0.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        key_hash(self.cluster.as_bytes()).max(1)
    }

    /// Where the logs lie.
    #[must_use]
    pub fn wal_root(&self) -> &Path {
        self.wal_dir.as_deref().unwrap_or(&self.data_dir)
    }

    /// One line per setting: name, value, where it comes from.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = String::new();
        for Setting { name, value, source } in &self.settings {
            let value = if value.is_empty() { "-" } else { value };
            text += &format!("{name:<24} {value:<24} {source}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests;
