//! `ringraft put`, `get`, `del`, `range`, `status`: one request each.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Failure, print};
use crate::client::{Client, ClientOptions};
use crate::config::units::parse_duration;
use crate::protocol::{GroupRole, NodeStatus};

/// Exit status of `get` when there is no such key.
const NO_KEY: u8 = 3;

#[derive(clap::Args, Debug)]
pub(crate) struct Connection {
    /// Client addresses of the cluster, separated by commas; the first that answers is used.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        env = "RINGRAFT_ENDPOINTS",
        default_value = "127.0.0.1:2379",
        value_delimiter = ','
    )]
    endpoints: Vec<String>,

    /// How long to wait for an answer, such as 5s.
    #[arg(long, default_value = "10s")]
    timeout: String,

    /// Print JSON; keys and values that are not UTF-8 are shown with replacement characters.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Put {
    /// The key, 1 to 4096 bytes.
    key: String,
    /// The value, up to 1 MiB; without it, what standard input holds.
    value: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Get {
    /// The key.
    key: String,
    /// Answer from the node's own state, which may be behind, without asking the cluster.
    #[arg(long)]
    serializable: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Del {
    /// The key.
    key: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Range {
    /// First key; "" for the first of all.
    #[arg(default_value = "")]
    start: String,
    /// End, not included; "" for no end.
    #[arg(default_value = "")]
    end: String,
    /// Most pairs to print.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Answer from the node's own state, which may be behind.
    #[arg(long)]
    serializable: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    connection: Connection,
}

impl Connection {
    fn options(&self) -> Result<ClientOptions, Failure> {
        let timeout: Duration =
            parse_duration(&self.timeout).map_err(|error| format!("--timeout {}: {error}", self.timeout))?;
        Ok(ClientOptions { connect_timeout: timeout, request_timeout: timeout, ..ClientOptions::default() })
    }

    fn client(&self, serializable: bool) -> Result<Client, Failure> {
        let client = Client::connect(&self.endpoints, self.options()?)?;
        Ok(if serializable { client.serializable() } else { client })
    }

    /// Prints the text, or the JSON if that is asked for.
    fn show(&self, text: &[u8], json: &Json) -> Result<(), Failure> {
        if self.json { print(format!("{json}\n")) } else { print(text) }
    }
}

pub(crate) fn put(arguments: &Put) -> Result<ExitCode, Failure> {
    let value = match &arguments.value {
        Some(value) => value.clone().into_bytes(),
        None => {
            if std::io::stdin().is_terminal() {
                return Err("no value given; name it behind the key, or pipe it in".into());
            }
            let mut value = Vec::new();
            std::io::stdin().read_to_end(&mut value)?;
            value
        }
    };
    let client = arguments.connection.client(false)?;
    let revision = client.put(arguments.key.as_bytes(), &value).wait()?;
    arguments.connection.show(format!("{revision}\n").as_bytes(), &json!({ "revision": revision }))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn get(arguments: &Get) -> Result<ExitCode, Failure> {
    let client = arguments.connection.client(arguments.serializable)?;
    let Some(found) = client.get(arguments.key.as_bytes()).wait()? else {
        arguments.connection.show(b"", &Json::Null)?;
        return Ok(ExitCode::from(NO_KEY));
    };
    let mut text = found.value.to_vec();
    text.push(b'\n');
    let value = String::from_utf8_lossy(&found.value);
    arguments.connection.show(&text, &json!({ "value": value, "mod_revision": found.mod_revision }))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn del(arguments: &Del) -> Result<ExitCode, Failure> {
    let client = arguments.connection.client(false)?;
    let result = client.delete(arguments.key.as_bytes()).wait()?;
    let text = if result.deleted { format!("{}\n", result.revision) } else { "no such key\n".to_owned() };
    let json = json!({ "deleted": result.deleted, "revision": result.revision });
    arguments.connection.show(text.as_bytes(), &json)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn range(arguments: &Range) -> Result<ExitCode, Failure> {
    let client = arguments.connection.client(arguments.serializable)?;
    let result = client.range(arguments.start.as_bytes(), arguments.end.as_bytes(), arguments.limit).wait()?;
    let mut text = Vec::new();
    let mut pairs = Vec::new();
    for pair in &result.pairs {
        text.extend_from_slice(&pair.key);
        text.push(b'\t');
        text.extend_from_slice(&pair.value);
        text.push(b'\n');
        pairs.push(json!({
            "key": String::from_utf8_lossy(&pair.key),
            "value": String::from_utf8_lossy(&pair.value),
            "mod_revision": pair.mod_revision,
        }));
    }
    if result.more && !arguments.connection.json {
        eprintln!("ringraft: there is more; raise --limit, or start behind the last key");
    }
    arguments.connection.show(&text, &json!({ "pairs": pairs, "more": result.more }))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn status(arguments: &Status) -> Result<ExitCode, Failure> {
    let connection = &arguments.connection;
    let mut text = String::new();
    let mut nodes = Vec::new();
    let mut failed = false;
    for endpoint in &connection.endpoints {
        // Each endpoint is asked for itself: a client with several would ask only one.
        let asked = Client::connect(&[endpoint], connection.options()?).and_then(|client| client.status().wait());
        match asked {
            Ok(status) => {
                text += &describe(endpoint, &status);
                nodes.push(json_of(endpoint, &status));
            }
            Err(error) => {
                failed = true;
                text += &format!("{endpoint}: {error}\n");
                nodes.push(json!({ "endpoint": endpoint, "error": error.to_string() }));
            }
        }
    }
    connection.show(text.as_bytes(), &Json::Array(nodes))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn describe(endpoint: &str, status: &NodeStatus) -> String {
    let mut text = format!(
        "{endpoint}: node {} of cluster {:016x}, version {}, {} shards, {} groups\n",
        status.node_id, status.cluster_id, status.version, status.shards, status.groups
    );
    for group in &status.group {
        text += &format!(
            "  group {}: {}, leader {}, term {}, commit {}, applied {}, log {}..={}\n",
            group.group_id,
            role(group.role),
            group.leader,
            group.term,
            group.commit,
            group.applied,
            group.log_base + 1,
            group.last_index
        );
    }
    text
}

fn json_of(endpoint: &str, status: &NodeStatus) -> Json {
    let groups: Vec<Json> = status
        .group
        .iter()
        .map(|group| {
            json!({
                "group": group.group_id,
                "role": role(group.role),
                "leader": group.leader,
                "term": group.term,
                "commit": group.commit,
                "applied": group.applied,
                "log_base": group.log_base,
                "last_index": group.last_index,
            })
        })
        .collect();
    json!({
        "endpoint": endpoint,
        "node": status.node_id,
        "cluster": format!("{:016x}", status.cluster_id),
        "version": status.version,
        "shards": status.shards,
        "groups": groups,
    })
}

fn role(number: i32) -> &'static str {
    match GroupRole::try_from(number) {
        Ok(GroupRole::Leader) => "leader",
        Ok(GroupRole::Follower) => "follower",
        Ok(GroupRole::Candidate) => "candidate",
        Ok(GroupRole::PreCandidate) => "pre-candidate",
        Err(_) => "unknown",
    }
}
