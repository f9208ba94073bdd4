//! From what was written to what is meant, or why not.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ringraft_raft::PRIORITY_MAX;

use super::units::{format_duration, format_size, parse_duration, parse_size};
use super::{ConfigError, PeerAddress, SEGMENT_ALIGN, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, ServeConfig, Setting};

const CLUSTER_NAME_SIZE_MAX: usize = 128;
const PEERS_MAX: usize = 64;

/// Builds the configuration from one setting per field.
pub(super) fn build(settings: Vec<Setting>) -> Result<ServeConfig, ConfigError> {
    let written = Written(&settings);
    let node_id = written.number("node-id", 1..=u64::MAX - 2)?;
    let listen_client = written.address("listen-client", true)?;
    let listen_peer = written.address("listen-peer", true)?;
    if listen_client == listen_peer && port(&listen_client) != Some(0) {
        return Err(written.refuse("listen-client", "is also the peers' address; give each an address of its own"));
    }
    let (peers, advertise_peer) = members(&written, node_id, &listen_peer)?;
    let tick = written.duration("tick", Duration::from_millis(1)..=Duration::from_secs(10))?;
    let heartbeat_ticks: u32 = written.number("heartbeat-ticks", 1..=1_000)?;
    let election_ticks: u32 = written.number("election-ticks", 2..=10_000)?;
    if election_ticks < 2 * heartbeat_ticks {
        let least = 2 * heartbeat_ticks;
        return Err(written.refuse(
            "election-ticks",
            format!("is less than twice heartbeat-ticks ({heartbeat_ticks}); set it to {least} or more, or lower that"),
        ));
    }
    let segment_size = written.size("segment-size", SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX)?;
    if !segment_size.is_multiple_of(SEGMENT_ALIGN) {
        let below = format_size(segment_size / SEGMENT_ALIGN * SEGMENT_ALIGN);
        return Err(written.refuse("segment-size", format!("is not a multiple of 4KiB; the nearest is {below}")));
    }
    Ok(ServeConfig {
        node_id,
        cluster: cluster(&written)?,
        data_dir: written.path("data-dir")?.ok_or_else(|| written.refuse("data-dir", "is empty; name a directory"))?,
        wal_dir: written.path("wal-dir")?,
        listen_client,
        listen_peer,
        advertise_peer,
        peers,
        shards: shards(&written)?,
        io: written.value("io").parse().map_err(|problem: &str| written.refuse("io", problem))?,
        groups: written.number("groups", 1..=1 << 20)?,
        tick,
        heartbeat_ticks,
        election_ticks,
        priority: written.number("priority", 0..=PRIORITY_MAX)?,
        segment_size,
        snapshot_every: written.number("snapshot-every", 100..=1 << 40)?,
        snapshot_keep: written.number("snapshot-keep", 0..=1 << 40)?,
        request_timeout: written.duration("request-timeout", Duration::from_millis(10)..=Duration::from_secs(600))?,
        client_connections_max: written.number("client-connections-max", 1..=1_000_000)?,
        requests_max: written.number("requests-max", 1..=10_000_000)?,
        peer_queue_size: written.size("peer-queue-size", 4 << 20..=64 << 30)?,
        settings,
    })
}

fn cluster(written: &Written<'_>) -> Result<String, ConfigError> {
    let name = written.value("cluster");
    if name.is_empty() || name.len() > CLUSTER_NAME_SIZE_MAX {
        let problem = format!("must have 1 to {CLUSTER_NAME_SIZE_MAX} bytes; choose a short name");
        return Err(written.refuse("cluster", problem));
    }
    if name.chars().any(char::is_control) {
        return Err(written.refuse("cluster", "has control characters; use letters, digits and dashes"));
    }
    Ok(name.to_owned())
}

fn shards(written: &Written<'_>) -> Result<u16, ConfigError> {
    if written.value("shards") == "auto" {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(u16::try_from(cores).unwrap_or(1024).min(1024));
    }
    written.number("shards", 1..=1024).map_err(|error| match error {
        ConfigError::Invalid { name, value, place, problem } => {
            ConfigError::Invalid { name, value, place, problem: format!("{problem}, or 'auto'") }
        }
        other => other,
    })
}

/// The members, and this node's address among them.
fn members(written: &Written<'_>, node_id: u64, listen_peer: &str) -> Result<(Vec<PeerAddress>, String), ConfigError> {
    let advertised = match written.value("advertise-peer") {
        "" => None,
        _ => Some(written.address("advertise-peer", false)?),
    };
    let list = written.value("peers");
    if list.is_empty() {
        let address = advertised.unwrap_or_else(|| listen_peer.to_owned());
        return Ok((vec![PeerAddress { id: node_id, address: address.clone() }], address));
    }
    let mut peers: Vec<PeerAddress> = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let peer = parse_peer(item).map_err(|problem| written.refuse("peers", problem))?;
        if let Some(other) = peers.iter().find(|other| other.id == peer.id || other.address == peer.address) {
            let problem = if other.id == peer.id {
                format!("names node {} twice; remove one", peer.id)
            } else {
                format!("gives nodes {} and {} the same address {}; correct one", other.id, peer.id, peer.address)
            };
            return Err(written.refuse("peers", problem));
        }
        peers.push(peer);
    }
    if peers.len() > PEERS_MAX {
        return Err(written.refuse("peers", format!("has {} members, at most {PEERS_MAX} are allowed", peers.len())));
    }
    peers.sort_by_key(|peer| peer.id);
    let Some(own) = peers.iter().find(|peer| peer.id == node_id) else {
        let problem = format!("does not name this node; add '{node_id}=HOST:PORT' or correct node-id");
        return Err(written.refuse("peers", problem));
    };
    if let Some(advertised) = advertised
        && advertised != own.address
    {
        let problem = format!("differs from this node's address in peers, {}; make them equal", own.address);
        return Err(written.refuse("advertise-peer", problem));
    }
    if peers.len() > 1 && port(listen_peer) == Some(0) {
        let problem = "any free port cannot be found by the other members; name the port";
        return Err(written.refuse("listen-peer", problem));
    }
    let address = own.address.clone();
    Ok((peers, address))
}

fn parse_peer(item: &str) -> Result<PeerAddress, String> {
    let example = "write members as 1=10.0.0.1:7101,2=10.0.0.2:7101";
    let (id, address) = item.split_once('=').ok_or(format!("'{item}' has no '='; {example}"))?;
    let id = id.trim().parse().ok().filter(|id| (1..=u64::MAX - 2).contains(id));
    let id = id.ok_or(format!("'{item}' does not begin with a node id; {example}"))?;
    let address = address.trim();
    check_address(address, false).map_err(|problem| format!("'{item}': the address {problem}"))?;
    Ok(PeerAddress { id, address: address.to_owned() })
}

/// `host:port`; an IPv6 host stands in brackets.
fn check_address(text: &str, any_port: bool) -> Result<(), String> {
    let wrong = || "is not HOST:PORT; write it like 10.0.0.1:7001 or [::1]:7001".to_owned();
    let (host, _) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port(text).ok_or_else(wrong)?;
    let host_ok = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    if !host_ok {
        return Err(wrong());
    }
    if any_port {
        return Ok(());
    }
    if port == 0 {
        return Err("has port 0, which nobody can connect to; name the port".into());
    }
    if matches!(host, "0.0.0.0" | "[::]") {
        return Err("is the address of every interface, which nobody can connect to; name one".into());
    }
    Ok(())
}

fn port(address: &str) -> Option<u16> {
    let (_, port) = address.rsplit_once(':')?;
    port.parse().ok().filter(|_| !port.starts_with('+'))
}

/// The settings as written.
struct Written<'a>(&'a [Setting]);

impl Written<'_> {
    fn setting(&self, name: &str) -> &Setting {
        self.0.iter().find(|setting| setting.name == name).expect("there is one setting per field")
    }

    fn value(&self, name: &str) -> &str {
        &self.setting(name).value
    }

    fn refuse(&self, name: &str, problem: impl Into<String>) -> ConfigError {
        let Setting { name, value, source } = self.setting(name).clone();
        ConfigError::Invalid { name, value, place: source, problem: problem.into() }
    }

    fn number<T>(&self, name: &str, allowed: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: std::str::FromStr + PartialOrd + Display,
    {
        let number = self.value(name).parse().ok().filter(|number| allowed.contains(number));
        number.ok_or_else(|| {
            let problem = format!("must be a whole number from {} to {}", allowed.start(), allowed.end());
            self.refuse(name, problem)
        })
    }

    fn size(&self, name: &str, allowed: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let size = parse_size(self.value(name)).map_err(|problem| self.refuse(name, problem))?;
        if allowed.contains(&size) {
            return Ok(size);
        }
        let (least, most) = (format_size(*allowed.start()), format_size(*allowed.end()));
        Err(self.refuse(name, format!("is out of bounds; choose from {least} to {most}")))
    }

    fn duration(&self, name: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
        let duration = parse_duration(self.value(name)).map_err(|problem| self.refuse(name, problem))?;
        if allowed.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (format_duration(*allowed.start()), format_duration(*allowed.end()));
        Err(self.refuse(name, format!("is out of bounds; choose from {least} to {most}")))
    }

    fn address(&self, name: &str, any_port: bool) -> Result<String, ConfigError> {
        let address = self.value(name);
        check_address(address, any_port).map_err(|problem| self.refuse(name, problem))?;
        Ok(address.to_owned())
    }

    fn path(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        match self.value(name) {
            "" => Ok(None),
            path if path.contains('\0') => Err(self.refuse(name, "has a zero byte; name a directory")),
            path => Ok(Some(PathBuf::from(path))),
        }
    }
}
