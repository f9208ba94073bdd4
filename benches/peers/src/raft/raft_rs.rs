//! The rival's side: `raft` 0.7, as fast as its public interface lets a shell be. What was tried and is slower, in this
//! harness, batches of 1, 64 and 1,024:
//!
//! - `RawNode::propose` for every entry (0, 60, 30 % slower): all proposals of a turn go in as one message instead.
//! - The defaults `batch_append: false` and `max_size_per_msg: 0`, which make a message of every entry (4 to 14 times
//!   slower in batches): it is on, and messages may take a mebibyte.
//! - Its `MemStorage`, which copies entries behind a lock (25, 15, 13 % slower): the log here takes them over.
//! - `prost-codec`, whose entries hold their payload as `Vec` and copy it each time (20, 50, 50 % slower): those of
//!   `protobuf-codec` hold it as `Bytes` and count references.
//! - `advance_append` and its `LightReady` (5, 0, 0 % slower): a `Ready` is persisted by `advance_append_async` and
//!   `on_persist_ready`.
//! - Another allocator than the system's: no difference.
//!
//! Its logger discards. Messages move from replica to replica as they are: nothing is encoded, copied or checked on the
//! way.

use std::collections::VecDeque;

use bytes::BytesMut;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{Config, Error, GetEntriesContext, RaftState, RawNode, StateRole, Storage, StorageError};
use slog::{Discard, Logger, o};

use super::{CHUNK, COMPACT_EVERY, look_at};

/// Three replicas; the first leads.
pub(crate) struct Trio {
    replicas: [Replica; 3],
    uncompacted: usize,
}

impl Trio {
    pub(crate) fn elect(shell: &mut Shell) -> Trio {
        let mut trio = Trio { replicas: [1, 2, 3].map(|id| Replica::new(id, &shell.logger)), uncompacted: 0 };
        trio.replicas[0].node.campaign().expect("a voter");
        shell.settle(&mut trio.replicas);
        assert_eq!(trio.replicas[0].node.raft.state, StateRole::Leader);
        trio
    }

    /// Proposes `batch` entries in one turn; all three have applied them then.
    pub(crate) fn put(&mut self, batch: usize, payload: &[u8], shell: &mut Shell) {
        self.replicas[0].propose(batch, payload, &mut shell.arena);
        shell.settle(&mut self.replicas);
        let (last, sum) = (self.replicas[0].node.raft.raft_log.last_index(), self.replicas[0].sum);
        assert!(self.replicas.iter().all(|replica| replica.applied == last && replica.sum == sum));
        self.uncompacted += batch;
        if self.uncompacted >= COMPACT_EVERY {
            self.compact();
        }
    }

    fn compact(&mut self) {
        for replica in &mut self.replicas {
            replica.node.mut_store().compact(replica.applied);
        }
        self.uncompacted = 0;
    }

    /// Nothing is in the logs any more, and what busy times took is given back as far as the interface allows; some
    /// heartbeats have passed since.
    pub(crate) fn rest(&mut self, shell: &mut Shell) {
        self.compact();
        for replica in &mut self.replicas {
            let raft = &mut replica.node.raft;
            raft.maybe_free_inflight_buffers();
            raft.msgs.shrink_to_fit();
            raft.raft_log.unstable.entries.shrink_to_fit();
            replica.node.mut_store().shrink();
        }
        for _ in 0..5 {
            for replica in &mut self.replicas {
                replica.node.tick();
                replica.touched = true;
            }
            shell.settle(&mut self.replicas);
        }
    }

    /// Bytes of the logs' own structs, in here.
    pub(crate) const LOGS: usize = 3 * size_of::<Log>();
}

/// What a shell has once, for all its groups.
pub(crate) struct Shell {
    network: Vec<Message>,
    delivered: Vec<Message>,
    /// Where payloads are written.
    arena: BytesMut,
    logger: Logger,
}

impl Shell {
    pub(crate) fn new() -> Shell {
        let arena = BytesMut::with_capacity(CHUNK);
        Shell { network: Vec::new(), delivered: Vec::new(), arena, logger: Logger::root(Discard, o!()) }
    }

    /// Turns until nobody has anything to say.
    fn settle(&mut self, replicas: &mut [Replica]) {
        loop {
            for replica in &mut *replicas {
                while std::mem::take(&mut replica.touched) && replica.node.has_ready() {
                    replica.turn(&mut self.network);
                }
            }
            if self.network.is_empty() {
                return;
            }
            std::mem::swap(&mut self.network, &mut self.delivered);
            for message in self.delivered.drain(..) {
                let to = usize::try_from(message.to - 1).expect("one of three");
                replicas[to].touched = true;
                replicas[to].node.step(message).expect("nobody is behind");
            }
        }
    }
}

struct Replica {
    node: RawNode<Log>,
    applied: u64,
    /// Whether something has happened since its last turn.
    touched: bool,
    /// The state machine: a sum of what it was given.
    sum: u64,
}

impl Replica {
    fn new(id: u64, logger: &Logger) -> Replica {
        // The same as ours where both have it.
        let config = Config {
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            batch_append: true,
            check_quorum: true,
            pre_vote: true,
            heartbeat_tick: 1,
            election_tick: 10,
            ..Config::new(id)
        };
        let node = RawNode::new(&config, Log::default(), logger).expect("an empty log");
        Replica { node, applied: 0, touched: true, sum: 0 }
    }

    fn propose(&mut self, batch: usize, payload: &[u8], arena: &mut BytesMut) {
        arena.reserve(batch * payload.len());
        (0..batch).for_each(|_| arena.extend_from_slice(payload));
        let mut written = arena.split().freeze();
        let entry = |_| Entry { data: written.split_to(payload.len()), ..Entry::default() };
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries((0..batch).map(entry).collect::<Vec<_>>().into());
        self.touched = true;
        self.node.step(message).expect("a leader without a backlog");
    }

    fn turn(&mut self, network: &mut Vec<Message>) {
        let mut ready = self.node.ready();
        network.append(&mut ready.take_messages());
        self.apply(&ready.take_committed_entries());
        self.node.mut_store().append(ready.take_entries());
        if let Some(hard) = ready.hs() {
            self.node.mut_store().hard = hard.clone();
        }
        // What is written to memory is durable at once.
        network.append(&mut ready.take_persisted_messages());
        let number = ready.number();
        self.node.advance_append_async(ready);
        self.node.on_persist_ready(number);
        self.node.advance_apply_to(self.applied);
        self.touched = true;
    }

    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.sum += look_at(&entry.data);
            self.applied = entry.index;
        }
    }
}

/// A log in memory, without a lock.
#[derive(Default)]
struct Log {
    hard: HardState,
    /// Index and term of the entry before the first.
    base: (u64, u64),
    entries: VecDeque<Entry>,
}

impl Log {
    fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            assert_eq!(first.index, self.last() + 1, "nothing is replaced");
        }
        self.entries.extend(entries);
    }

    /// Forgets the entries up to `upto`, which are applied everywhere.
    fn compact(&mut self, upto: u64) {
        self.base = (upto, self.term(upto).expect("within the log"));
        while self.entries.front().is_some_and(|entry| entry.index <= upto) {
            self.entries.pop_front();
        }
    }

    /// Gives back the memory that is not in use: all of it, when everything is compacted.
    fn shrink(&mut self) {
        self.entries.shrink_to_fit();
        assert_eq!(self.entries.capacity(), 0, "an empty log has nothing on the heap");
    }

    fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn slot(&self, index: u64) -> raft::Result<usize> {
        match index.checked_sub(self.base.0 + 1) {
            None => Err(Error::Store(StorageError::Compacted)),
            Some(_) if index > self.last() => Err(Error::Store(StorageError::Unavailable)),
            Some(slot) => Ok(usize::try_from(slot).expect("it fits memory")),
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), ConfState::from((vec![1, 2, 3], vec![]))))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        size_max: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let (first, count) = (self.slot(low)?, usize::try_from(high - low).expect("it fits memory"));
        let size_max = size_max.into().unwrap_or(u64::MAX);
        let mut entries = Vec::with_capacity(count);
        let mut size = 0;
        for entry in self.entries.range(first..first + count) {
            // What its fields take at the most.
            size += 24 + entry.data.len() as u64;
            if size > size_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 { Ok(self.base.1) } else { Ok(self.entries[self.slot(index)?].term) }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
