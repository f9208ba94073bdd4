//! Opening a shard: whose directory is it, what does its log say, what state do its snapshots hold.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ringraft_engine::snapshot::SnapshotName;
use ringraft_engine::{Engine, Gap, GroupLog, Wounds};
use ringraft_io::{Io, ShardNo};
use ringraft_raft::{ConfState, EntryId, GroupId, Index, PeerId, Raft, ReadId, Storage};
use ringraft_transport::{ClusterId, Transport};

use super::config::NodeConfig;
use super::core::{Core, Group};
use super::error::NodeError;
use super::mail::Post;
use super::mend::Mend;
use super::shard::{Shard, tokens};
use super::snapshots::{self, Snapshots};
use super::status::Board;
use crate::machine::StateMachine;

impl<I: Io, M: StateMachine> Shard<I, M> {
    /// Reads what the shard's directory holds and gets ready for the first turn; `machine` makes the empty state of a
    /// group.
    ///
    /// # Errors
    /// If the directory is another node's or in use, or if log or snapshots are damaged; nothing is changed then.
    pub fn open(
        mut io: I,
        config: Arc<NodeConfig>,
        shard: ShardNo,
        post: Post,
        board: Arc<Board>,
        machine: impl FnMut(GroupId) -> M + 'static,
    ) -> Result<Shard<I, M>, NodeError> {
        // Whose directory it is comes first: another node's is not even locked.
        let is_new = !check_identity(&mut io, &config, shard)?;
        let (mut engine, logs, report) = Engine::open(&mut io, engine_config(&config, shard))?;
        if is_new {
            write_identity(&mut io, &config, shard)?;
        }
        for Gap { file, offset, error, .. } in &report.gaps {
            eprintln!("{} is damaged at {offset}: {error}", file.display());
        }
        let mut logs: BTreeMap<GroupId, GroupLog> = logs.into_iter().map(|log| (log.group(), log)).collect();

        let mut snapshots = Snapshots::new(config.clone(), shard);
        let (mut files, mut useless) = snapshot_files(&mut io, &config, shard)?;
        let mut core = Core::new(config.clone(), shard, post, board, io.now(), Box::new(machine));
        let members = ConfState { voters: config.members.keys().copied().collect(), ..ConfState::default() };
        for id in config.groups_of(shard) {
            let mut log = match logs.remove(&id) {
                Some(log) => log,
                None => engine.create(id, members.clone())?,
            };
            snapshots::check_members(id, &log.initial_state().1)?;
            let mut machine = core.new_machine(id);
            let wounds = engine.wounds(id).cloned();
            if let Some(wounds) = &wounds {
                let (others, lost) = (others(&config, &log), lost(wounds, &report.gaps));
                if others.is_empty() {
                    return Err(NodeError::Lost { group: id, lost });
                }
                eprintln!("group {id}: {lost}; it does not vote until its peers have repaired it");
                engine.cut_at_hole(&mut log)?;
            }
            let applied =
                restore(&mut io, &mut engine, &mut log, &mut machine, files.remove(&id), &mut snapshots, &mut useless)?;
            let raft = Raft::new(raft_config(&config, id, applied), log)
                .map_err(|source| NodeError::Raft { group: id, source })?;
            // Other than any that this node has used: see `Reads::new`.
            let first_read = config.incarnation.rotate_left(29) ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut group = Group::new(id, raft, machine, first_read);
            if wounds.is_some() {
                let others = others(&config, group.raft.storage());
                group.mend = Some(Box::new(Mend::new(config.node, others, ReadId(!first_read))));
            }
            core.add_group(group);
        }
        if core.mending.is_empty() {
            engine.forget_lost_groups();
        }
        snapshots.remove_all(&mut io, useless);
        core.publish();
        let transport = transport(&config, shard);
        Ok(Shard::new(io, core, engine, transport, snapshots))
    }
}

/// The other voters of a group.
fn others(config: &NodeConfig, log: &GroupLog) -> Vec<PeerId> {
    let conf = log.initial_state().1;
    let mut others: Vec<PeerId> = conf.voters.into_iter().chain(conf.voters_outgoing).collect();
    others.retain(|peer| *peer != config.node);
    others.sort_unstable();
    others.dedup();
    others
}

/// What a group has lost, and where it lay.
fn lost(wounds: &Wounds, gaps: &[Gap]) -> String {
    if let (Some(hole), Some(last)) = (wounds.holes.first(), wounds.holes.last()) {
        let at = format!("{} at {}", hole.file.display(), hole.offset);
        return format!("entries {} to {} are lost, in whole or in part: {at}: {}", hole.first, last.last, hole.reason);
    }
    let what = match (wounds.hard_state_lost, wounds.tail_lost) {
        (true, false) => "its last vote may be lost",
        (false, _) => "its last entries may be lost",
        (true, true) => "its last vote and its last entries may be lost",
    };
    match gaps.last() {
        Some(gap) => format!("{what}: {} is damaged at {}: {}", gap.file.display(), gap.offset, gap.error),
        None => format!("{what}: an earlier start found damage"),
    }
}

/// What a directory says of its owner: one line in a file.
fn identity(config: &NodeConfig, shard: ShardNo) -> (PathBuf, String) {
    let text = format!(
        "cluster {:016x} node {} shard {shard} of {} groups {}\n",
        config.cluster, config.node, config.shards, config.groups
    );
    (config.log_dir(shard).join("identity"), text)
}

/// Whether the directory says that it is this shard's; an error if it says that it is another's.
fn check_identity<I: Io>(io: &mut I, config: &NodeConfig, shard: ShardNo) -> Result<bool, NodeError> {
    let (path, expected) = identity(config, shard);
    match io.read_file(&path) {
        Ok(found) if found == expected.as_bytes() => Ok(true),
        Ok(found) => Err(NodeError::Foreign {
            path,
            found: String::from_utf8_lossy(&found).trim().to_owned(),
            expected: expected.trim().to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(NodeError::File { path, source }),
    }
}

fn write_identity<I: Io>(io: &mut I, config: &NodeConfig, shard: ShardNo) -> Result<(), NodeError> {
    let (path, text) = identity(config, shard);
    io.write_file(&path, text.as_bytes()).map_err(|source| NodeError::File { path, source })
}

type Files = BTreeMap<GroupId, Vec<(EntryId, PathBuf, u64)>>;

/// The snapshot files of a shard, by group, oldest first; and what is left of unfinished work.
fn snapshot_files<I: Io>(io: &mut I, config: &NodeConfig, shard: ShardNo) -> Result<(Files, Vec<PathBuf>), NodeError> {
    let dir = config.snapshot_dir(shard);
    let listed = io.list(&dir).map_err(|source| NodeError::File { path: dir, source })?;
    let mut files = Files::new();
    let mut leftovers = Vec::new();
    for file in listed {
        if let Some(name) = snapshots::parse_name(&file.path) {
            files.entry(name.group).or_default().push((name.id, file.path, file.size));
        } else {
            leftovers.push(file.path);
        }
    }
    files.values_mut().for_each(|files| files.sort_unstable_by_key(|(id, ..)| id.index));
    Ok((files, leftovers))
}

/// Brings the machine to the newest snapshot that belongs to the log; the last index it covers.
fn restore<I: Io, M: StateMachine>(
    io: &mut I,
    engine: &mut Engine,
    log: &mut GroupLog,
    machine: &mut M,
    files: Option<Vec<(EntryId, PathBuf, u64)>>,
    snapshots: &mut Snapshots<M>,
    useless: &mut Vec<PathBuf>,
) -> Result<Index, NodeError> {
    let group = log.group();
    let wounded = engine.wounds(group).is_some();
    let mut newest: Option<(EntryId, PathBuf)> = None;
    for (id, path, size) in files.into_iter().flatten() {
        // A file beyond the log was received but never installed: nothing was promised for it. One before the log's
        // base, or of another history, is of no use.
        //
        // Where the log has lost its end, one beyond is better than what is left of the log: it was committed.
        let beyond = wounded && id.index > log.last_index();
        if !beyond && !log.term(id.index).is_ok_and(|term| term == id.term) {
            useless.push(path);
            continue;
        }
        snapshots.add_file(group, id, size);
        newest = Some((id, path));
    }
    let Some((id, path)) = newest else {
        let base = log.base();
        if base.index > Index::ZERO {
            let what = format!("the log begins after {base}, but there is no snapshot that covers it");
            return Err(NodeError::Snapshot { group, what });
        }
        return Ok(Index::ZERO);
    };
    let content = io.read_file(&path).map_err(|source| NodeError::File { path, source })?;
    let cluster = snapshots.cluster();
    let conf = snapshots::restore(machine, cluster, SnapshotName { group, id }, &content)?;
    log.set_snapshot(id, conf);
    if id.index > log.last_index() {
        engine.reset(log, id)?;
        // Its term is one of the log's now.
        engine.cut_at_hole(log)?;
    }
    Ok(id.index)
}

fn engine_config(config: &NodeConfig, shard: ShardNo) -> ringraft_engine::Config {
    // The log's id ties its blocks to this node and shard.
    let log_id = config.cluster ^ config.node.0.rotate_left(32) ^ (u64::from(shard.0) << 16);
    let mut engine = ringraft_engine::Config::new(config.log_dir(shard), log_id);
    engine.segment_bytes = config.segment_size;
    engine.batch_bytes_max = config.batch_size_max;
    engine.record_bytes_max = config.record_size_max;
    engine.segments_max = config.segments_max;
    engine.cache_bytes_max = config.cache_size_max as u64;
    // Damage is found now rather than when an entry is read; what is lost to it, peers give back.
    engine.verify_on_open = true;
    engine.open_with_holes = true;
    engine.token_base = tokens::ENGINE;
    engine.token_mask = tokens::MASK;
    engine
}

/// Bytes of entries that a group applies in one go.
const APPLY_SIZE_MAX: u64 = 4 << 20;

fn raft_config(config: &NodeConfig, group: GroupId, applied: Index) -> ringraft_raft::Config {
    let mut raft = ringraft_raft::Config::new(config.node);
    raft.heartbeat_ticks = config.heartbeat_ticks;
    raft.election_ticks = config.election_ticks;
    raft.priority = config.priority;
    // Different members and groups must not time out together, nor one member the same way after every start.
    raft.seed = config.incarnation ^ config.node.0.rotate_left(17) ^ group.0.rotate_left(40);
    raft.applied = applied;
    raft.apply_size_max = APPLY_SIZE_MAX;
    raft
}

fn transport(config: &NodeConfig, shard: ShardNo) -> Transport {
    let cluster = ClusterId(config.cluster);
    let mut it = ringraft_transport::Config::new(cluster, config.node, config.incarnation);
    it.shard = shard;
    it.shards = config.shards;
    it.token_base = tokens::TRANSPORT;
    it.seed = config.incarnation ^ u64::from(shard.0);
    // What all groups say in one tick must fit, or the same ones would be dropped every time.
    let groups = config.groups_of(shard).count();
    it.message_queue.messages_max = it.message_queue.messages_max.max(8 * groups);
    it.message_queue.bytes_max = config.peer_queue_size_max.max(512 * groups);
    it.append_queue.messages_max = it.append_queue.messages_max.max(4 * groups);
    it.append_queue.bytes_max = config.peer_queue_size_max.max(512 * groups);
    let mut transport = Transport::new(it).expect("the defaults are valid");
    for (peer, addresses) in config.members.iter().filter(|(peer, _)| **peer != config.node) {
        transport.add_peer(*peer, addresses).expect("members are distinct and have addresses");
    }
    transport
}
