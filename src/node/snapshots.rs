//! Snapshots of a shard's groups: taking them a chunk per turn, sending and receiving their files, installing them.
//!
//! A snapshot is taken when a group has applied enough entries since its last one, or when it keeps the oldest log
//! segment alive. One at a time per shard: the state machine gives a chunk, the helper writes it aside, and only then
//! comes the next. Committed under its name, it becomes what a far-behind follower is sent, and the log behind it is
//! compacted.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ringraft_engine::Engine;
use ringraft_engine::snapshot::{SnapshotName, SnapshotReader, SnapshotWriter};
use ringraft_io::{DialError, Io, Job, JobOutput, SendFile, ShardNo, Time, Token};
use ringraft_raft::{ConfState, EntryId, GroupId, Index, Message, PeerId, ProgressState, Storage};
use ringraft_transport::Transport;
use ringraft_transport::handshake::{Greeting, SnapshotHead};

use super::config::NodeConfig;
use super::core::Core;
use super::error::NodeError;
use super::shard::tokens;
use crate::machine::StateMachine;

/// The snapshot work of one shard.
pub(crate) struct Snapshots<M> {
    config: Arc<NodeConfig>,
    shard: ShardNo,
    dir: PathBuf,
    /// Groups to snapshot next, by slot.
    wanted: VecDeque<usize>,
    taking: Option<Taking>,
    /// Logs to compact, by slot, and up to where.
    compactions: Vec<(usize, Index)>,
    sending: BTreeMap<Token, Sending>,
    receiving: BTreeMap<Token, Receiving<M>>,
    /// The committed files of each group, newest last.
    files: BTreeMap<GroupId, Vec<(EntryId, u64)>>,
    next_token: u64,
    /// After a failure: the group that is still wanted, and when to try again.
    failed: Option<(usize, Time)>,
}

/// A snapshot being taken.
struct Taking {
    slot: usize,
    name: SnapshotName,
    writer: SnapshotWriter,
    aside: PathBuf,
    offset: u64,
    stage: Stage,
    /// The job under way; `None`: the next piece may be made.
    job: Option<Token>,
}

/// What is to be written next.
#[derive(PartialEq, Eq, Debug)]
enum Stage {
    Header(Bytes),
    Chunks,
    Trailer,
    Commit,
    /// Nothing is left to do but to hear how the commit went.
    Committed,
}

struct Sending {
    group: GroupId,
    slot: usize,
    peer: PeerId,
    at: EntryId,
    /// The peer holds the file and has this long to install it.
    install_by: Option<Time>,
}

/// A file that came in: first read and verified, then given its name, then installed.
struct Receiving<M> {
    from: PeerId,
    head: SnapshotHead,
    path: PathBuf,
    prepared: Option<Prepared<M>>,
}

/// The state that a received file holds, made before anything of ours is given up for it.
struct Prepared<M> {
    machine: M,
    conf: ConfState,
    file_size: u64,
}

/// How long a snapshot may go without progress on its way to a peer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take to verify and install what it has received.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after a snapshot that could not be written.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Snapshots sent at a time by one shard.
const SENDING_MAX: usize = 4;

/// Committed files kept per group: the newest, and one before it that may still be on its way to a peer.
const FILES_KEPT: usize = 2;

impl<M: StateMachine> Snapshots<M> {
    pub(crate) fn new(config: Arc<NodeConfig>, shard: ShardNo) -> Snapshots<M> {
        let dir = config.snapshot_dir(shard);
        Snapshots {
            config,
            shard,
            dir,
            wanted: VecDeque::new(),
            taking: None,
            compactions: Vec::new(),
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            files: BTreeMap::new(),
            next_token: 0,
            failed: None,
        }
    }

    /// A committed file, oldest first.
    pub(crate) fn add_file(&mut self, group: GroupId, id: EntryId, size: u64) {
        let files = self.files.entry(group).or_default();
        files.retain(|(other, _)| *other != id);
        files.push((id, size));
        files.sort_unstable_by_key(|(id, _)| id.index);
    }

    /// Files found at start that nobody needs: of unfinished work, or of another history.
    pub(crate) fn remove_all<I: Io>(&mut self, io: &mut I, paths: Vec<PathBuf>) {
        for path in paths {
            self.remove(io, path);
        }
    }

    fn job<I: Io>(&mut self, io: &mut I, job: Job) -> Token {
        self.next_token += 1;
        let token = tokens::snapshots(self.next_token);
        io.job(job, token);
        token
    }

    fn path(&self, group: GroupId, id: EntryId) -> PathBuf {
        self.dir.join(SnapshotName { group, id }.file_name())
    }

    // ---- taking ----

    /// Once per turn: starts and continues the snapshot being taken.
    pub(crate) fn drive<I: Io>(
        &mut self,
        io: &mut I,
        core: &mut Core<M>,
        engine: &mut Engine,
    ) -> Result<(), NodeError> {
        self.compact(core, engine)?;
        if self.taking.is_none() && self.failed.is_none() {
            self.choose(core);
        }
        if self.taking.as_ref().is_some_and(|taking| taking.job.is_none()) {
            self.next_piece(io, core);
        }
        Ok(())
    }

    /// Whether something waits for time to pass.
    pub(crate) fn wants_tick(&self) -> bool {
        self.failed.is_some() || !self.sending.is_empty()
    }

    /// The cluster whose snapshots they are.
    pub(crate) fn cluster(&self) -> u64 {
        self.config.cluster
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, core: &mut Core<M>) {
        self.watch_installs(core);
        if let Some((slot, _)) = self.failed.take_if(|(_, until)| core.now >= *until) {
            self.wanted.push_front(slot);
        }
    }

    /// Finds the groups that need a snapshot; called at a tick after something was written. Not while some are known
    /// already or one is being taken, for what that leaves to be done is known when it stands. Whether it was done.
    pub(crate) fn look(&mut self, core: &mut Core<M>, engine: &Engine) -> bool {
        if self.taking.is_some() || self.failed.is_some() || !self.wanted.is_empty() || !self.compactions.is_empty() {
            return false;
        }
        for group in engine.pinning_groups() {
            let slot = core.slot(group).expect("the log's groups are ours");
            let raft = &core.groups[slot].raft;
            match raft.storage().snapshot() {
                // Its last snapshot covers everything, but entries were kept behind it: they are what pins.
                Some(id) if id.index >= raft.applied_index() => self.compactions.push((slot, id.index)),
                _ => self.wanted.push_back(slot),
            }
        }
        if self.wanted.is_empty() {
            core.take_grown(&mut self.wanted);
        }
        true
    }

    /// Begins the next snapshot that is wanted.
    fn choose(&mut self, core: &mut Core<M>) {
        while let Some(slot) = self.wanted.pop_front() {
            let group = &mut core.groups[slot];
            let applied = group.raft.applied_index();
            let log = group.raft.storage();
            if group.installing.is_some() || log.snapshot().is_some_and(|id| id.index >= applied) {
                continue;
            }
            let Ok(term) = log.term(applied) else { continue };
            let at = EntryId { term, index: applied };
            let conf = group.raft.conf_state().clone();
            group.machine.snapshot_begin();
            let aside = self.dir.join(format!("taking-{:x}", group.id.0));
            let name = SnapshotName { group: group.id, id: at };
            let (writer, header) = SnapshotWriter::new(self.config.cluster, name, &conf);
            let stage = Stage::Header(header);
            self.taking = Some(Taking { slot, name, writer, aside, offset: 0, stage, job: None });
            return;
        }
    }

    fn next_piece<I: Io>(&mut self, io: &mut I, core: &mut Core<M>) {
        let taking = self.taking.as_mut().expect("checked by the caller");
        let (bytes, next) = match &taking.stage {
            Stage::Header(header) => (header.clone(), Stage::Chunks),
            Stage::Chunks => {
                let mut chunk = BytesMut::new();
                let more = core.groups[taking.slot].machine.snapshot_chunk(self.config.snapshot_chunk_size, &mut chunk);
                (taking.writer.chunk(&chunk), if more { Stage::Chunks } else { Stage::Trailer })
            }
            Stage::Trailer => (taking.writer.clone().finish(), Stage::Commit),
            Stage::Commit => (Bytes::new(), Stage::Committed),
            Stage::Committed => unreachable!("its job ends the snapshot"),
        };
        let job = if next == Stage::Committed {
            Job::Commit { from: taking.aside.clone(), to: self.dir.join(taking.name.file_name()) }
        } else {
            let offset = taking.offset;
            taking.offset += bytes.len() as u64;
            Job::WriteAside { path: taking.aside.clone(), offset, bytes }
        };
        taking.stage = next;
        let token = self.job(io, job);
        self.taking.as_mut().expect("checked by the caller").job = Some(token);
    }

    /// A job of the snapshots has ended. Whether a snapshot is being installed by it.
    pub(crate) fn job_done<I: Io>(
        &mut self,
        io: &mut I,
        core: &mut Core<M>,
        engine: &Engine,
        token: Token,
        result: io::Result<JobOutput>,
    ) -> bool {
        if self.taking.as_ref().is_some_and(|taking| taking.job == Some(token)) {
            let mut taking = self.taking.take().expect("just looked");
            taking.job = None;
            if let Err(error) = result {
                // No room or a bad disk: the log goes on without a snapshot, and the next attempt may do better.
                eprintln!("group {}: snapshot not taken: {error}", core.groups[taking.slot].id);
                self.failed = Some((taking.slot, core.now + RETRY_PAUSE));
                core.groups[taking.slot].machine.snapshot_cancel();
                let aside = taking.aside.clone();
                self.remove(io, aside);
            } else if taking.stage == Stage::Committed {
                self.taken(io, core, engine, &taking);
            } else {
                self.taking = Some(taking);
            }
            return false;
        }
        let Some(receiving) = self.receiving.remove(&token) else { return false };
        let group = receiving.head.group;
        self.receive_step(io, core, receiving, result);
        core.is_installing(group)
    }

    /// A snapshot stands under its name: the log behind it may go.
    fn taken<I: Io>(&mut self, io: &mut I, core: &mut Core<M>, engine: &Engine, taking: &Taking) {
        let group = &mut core.groups[taking.slot];
        let conf = group.raft.conf_state().clone();
        let id = group.id;
        group.raft.storage_mut().set_snapshot(taking.name.id, conf);
        let pinned = engine.pinning_groups().any(|pinning| pinning == id);
        let keep = if pinned { 0 } else { self.config.snapshot_keep };
        self.compactions.push((taking.slot, Index(taking.name.id.index.0.saturating_sub(keep))));
        self.add_file(id, taking.name.id, taking.offset);
        self.remove_old(io, core, id);
    }

    /// Compacts the logs behind new snapshots. A log that is being written to waits for a later turn.
    fn compact(&mut self, core: &mut Core<M>, engine: &mut Engine) -> Result<(), NodeError> {
        for (slot, upto) in std::mem::take(&mut self.compactions) {
            let group = &mut core.groups[slot];
            let log = group.raft.storage_mut();
            if group.installing.is_some() || upto <= log.base().index {
                continue;
            }
            if !engine.takes_compaction() {
                self.compactions.push((slot, upto));
            } else {
                engine.compact(log, upto)?;
                core.agenda.changed.insert(slot);
            }
        }
        Ok(())
    }

    /// The state of a group is about to be replaced: a snapshot of it that is being taken is of no use.
    fn cancel<I: Io>(&mut self, io: &mut I, core: &mut Core<M>, group: GroupId) {
        if let Some(taking) = self.taking.take_if(|taking| taking.name.group == group) {
            core.groups[taking.slot].machine.snapshot_cancel();
            // Jobs run in order: the removals come after the piece being written, or the commit.
            let committed = self.dir.join(taking.name.file_name());
            self.remove(io, taking.aside);
            if taking.stage == Stage::Committed {
                self.remove(io, committed);
            }
        }
    }

    /// Removes a group's older files. Not while a snapshot is being installed: until its mark is durable, the log needs
    /// the one before it.
    fn remove_old<I: Io>(&mut self, io: &mut I, core: &Core<M>, group: GroupId) {
        if core.is_installing(group) {
            return;
        }
        let files = self.files.entry(group).or_default();
        let mut old: Vec<EntryId> = Vec::new();
        while files.len() > FILES_KEPT {
            let (id, _) = files[0];
            if self.sending.values().any(|sending| sending.group == group && sending.at == id) {
                break;
            }
            files.remove(0);
            old.push(id);
        }
        for id in old {
            let path = self.path(group, id);
            self.remove(io, path);
        }
    }

    fn remove<I: Io>(&mut self, io: &mut I, path: PathBuf) {
        self.job(io, Job::Remove { path });
    }

    // ---- sending ----

    /// The core wants a follower to have a snapshot.
    pub(crate) fn send<I: Io>(
        &mut self,
        io: &mut I,
        core: &mut Core<M>,
        transport: &Transport,
        slot: usize,
        message: Message,
    ) {
        let group = core.groups[slot].id;
        let newest = self.files.get(&group).and_then(|files| files.last()).copied();
        let busy = self.sending.len() >= SENDING_MAX
            || self.sending.values().any(|sending| sending.group == group && sending.peer == message.to);
        let Some((at, size)) = newest.filter(|_| !busy) else {
            core.report_snapshot(slot, message.to, false);
            return;
        };
        let Some(dial) = transport.snapshot_dial(group, &message, at, size) else {
            core.report_snapshot(slot, message.to, false);
            return;
        };
        self.next_token += 1;
        let token = tokens::snapshots(self.next_token);
        self.sending.insert(token, Sending { group, slot, peer: message.to, at, install_by: None });
        let (address, request) = (dial.address, dial.request);
        io.send_file(SendFile { token, address, request, path: self.path(group, at), timeout: SEND_TIMEOUT });
    }

    /// A snapshot has reached its peer, or not. That it was received is not reported as success: the core hears of that
    /// by the peer's acknowledgement, once it is installed, and would else probe a peer that is still busy with it.
    pub(crate) fn sent(&mut self, core: &mut Core<M>, token: Token, result: &Result<(), DialError>) {
        let Some(sending) = self.sending.get_mut(&token) else { return };
        match result {
            Ok(()) => sending.install_by = Some(core.now + INSTALL_TIMEOUT),
            Err(error) => {
                eprintln!("group {}: snapshot not sent to node {}: {error}", sending.group, sending.peer);
                core.report_snapshot(sending.slot, sending.peer, false);
                self.sending.remove(&token);
            }
        }
    }

    /// Forgets peers that have installed their snapshots, and gives up on those that do not.
    fn watch_installs(&mut self, core: &mut Core<M>) {
        self.sending.retain(|_, sending| {
            let Some(install_by) = sending.install_by else { return true };
            let progress = core.groups[sending.slot].raft.progress(sending.peer);
            if progress.is_none_or(|progress| progress.state != ProgressState::Snapshot) {
                return false;
            }
            if core.now >= install_by {
                core.report_snapshot(sending.slot, sending.peer, false);
                return false;
            }
            true
        });
    }

    // ---- receiving ----

    /// A peer has sent a file.
    pub(crate) fn received<I: Io>(&mut self, io: &mut I, greeting: &[u8], path: PathBuf) {
        match Greeting::decode(greeting) {
            // One at a time of each group: what comes while another is looked at is not newer by much.
            Some(Greeting::Snapshot { shard, from, head })
                if shard == self.shard && self.receiving.values().all(|other| other.head.group != head.group) =>
            {
                let token = self.job(io, Job::Load { path: path.clone() });
                self.receiving.insert(token, Receiving { from, head, path, prepared: None });
            }
            _ => self.remove(io, path),
        }
    }

    fn receive_step<I: Io>(
        &mut self,
        io: &mut I,
        core: &mut Core<M>,
        mut receiving: Receiving<M>,
        result: io::Result<JobOutput>,
    ) {
        let SnapshotHead { group, at, .. } = receiving.head;
        let refuse = |what: &str| eprintln!("group {group}: snapshot from node {} refused: {what}", receiving.from);
        match (result, receiving.prepared.take()) {
            (Ok(JobOutput::Loaded(file)), None) => {
                let mut machine = core.new_machine(group);
                match restore(&mut machine, self.config.cluster, SnapshotName { group, id: at }, &file) {
                    Ok(conf) => {
                        receiving.prepared = Some(Prepared { machine, conf, file_size: file.len() as u64 });
                        let to = self.path(group, at);
                        let token = self.job(io, Job::Commit { from: receiving.path.clone(), to });
                        self.receiving.insert(token, receiving);
                    }
                    Err(error) => {
                        refuse(&error.to_string());
                        self.remove(io, receiving.path);
                    }
                }
            }
            (Ok(_), Some(Prepared { machine, conf, file_size })) => {
                if core.install(&receiving.head, receiving.from, &conf, machine) {
                    self.cancel(io, core, group);
                    self.add_file(group, at, file_size);
                } else if core.holds(group, at) {
                    // Not newer than what is here; the file is as good as one of our own.
                    self.add_file(group, at, file_size);
                    self.remove_old(io, core, group);
                } else {
                    let path = self.path(group, at);
                    self.remove(io, path);
                }
            }
            (Ok(_), None) => self.remove(io, receiving.path),
            (Err(error), _) => {
                refuse(&error.to_string());
                self.remove(io, receiving.path);
            }
        }
    }
}

/// Puts the state of a snapshot file into a state machine; the membership it holds.
pub(crate) fn restore<M: StateMachine>(
    machine: &mut M,
    cluster: u64,
    name: SnapshotName,
    file: &Bytes,
) -> Result<ConfState, NodeError> {
    let failed = |what: String| NodeError::Snapshot { group: name.group, what };
    let reader = SnapshotReader::new(file.clone(), cluster).map_err(|error| failed(error.to_string()))?;
    if reader.name() != name {
        return Err(failed(format!("the file named {} holds {}", name.file_name(), reader.name().file_name())));
    }
    check_members(name.group, reader.conf())?;
    let chunks: Vec<Bytes> = reader.chunks().collect();
    machine.restore(&mut chunks.iter().map(|chunk| &chunk[..])).map_err(|error| failed(error.to_string()))?;
    Ok(reader.conf().clone())
}

/// Witnesses have no state machine, and are sent no state: this node does neither.
pub(crate) fn check_members(group: GroupId, conf: &ConfState) -> Result<(), NodeError> {
    if conf.witnesses.is_empty() { Ok(()) } else { Err(NodeError::Witnesses { group }) }
}

/// The snapshot that a name stands for.
pub(crate) fn parse_name(path: &Path) -> Option<SnapshotName> {
    SnapshotName::parse(path.file_name()?.to_str()?)
}
