//! What the engine does when the disk fails, fills up, hangs or cannot be read, or is in use: a test for each rule. (What
//! a crash leaves: `crash`, `images`, `sectors`; damage: `holes`, `damage`; strangers: `damage`.)

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ringraft_engine::{BatchNo, Config, Engine, EngineError, GroupLog, RecoveryReport, Write};
use ringraft_io::sim::{ProcessId, SimIo, Step, World, WorldConfig};
use ringraft_io::{Acceptor, Io, ListenerKind, LockError, ShardNo, Time, Verdict};
use ringraft_raft::record::encode;
use ringraft_raft::{EntryId, EntryKind, GroupId, HardState, Index, PeerId, Storage, Term};

use crate::rig::{conf, small};
use crate::world;

struct Nobody;

impl Acceptor for Nobody {
    fn judge(&self, _: ListenerKind, _: &[u8]) -> Verdict {
        unreachable!("a log has no listener")
    }
}

/// A process with one log in a simulated world: entries of group 1, votes of group 2.
struct Node {
    world: World,
    process: ProcessId,
    io: SimIo,
    engine: Engine,
    entries: GroupLog,
    /// The last entry was staged, and refused.
    refused: bool,
    votes: GroupLog,
    report: RecoveryReport,
    durable: BatchNo,
    /// What completions said was wrong, in order.
    errors: Vec<EngineError>,
}

const DEADLINE: Duration = Duration::from_secs(2);

fn config(segments_reserve: usize) -> Config {
    Config { segments_reserve, write_deadline: DEADLINE, ..small(32) }
}

impl Node {
    fn new(config: &Config) -> Node {
        let world = World::new(1, WorldConfig::default());
        let process = world.add_client("log", 1);
        Node::start(world, process, config).unwrap()
    }

    fn start(world: World, process: ProcessId, config: &Config) -> Result<Node, EngineError> {
        let mut io = world.io(process, ShardNo(0));
        let (mut engine, logs, report) = Engine::open(&mut io, config.clone())?;
        let mut logs = logs.into_iter();
        let mut log = |group: u64| match logs.next() {
            Some(log) => log,
            None => engine.create(GroupId(group), conf(3)).unwrap(),
        };
        let (entries, votes) = (log(1), log(2));
        let durable = engine.durable();
        Ok(Node { world, process, io, engine, entries, refused: false, votes, report, durable, errors: Vec::new() })
    }

    /// Power is cut, and comes back.
    fn restart(self, config: &Config) -> Result<Node, EngineError> {
        let Node { world, process, .. } = self;
        world.crash(process);
        world.restart(process, Arc::new(Nobody));
        Node::start(world, process, config)
    }

    /// Appends an entry, or the one that was refused before.
    fn put(&mut self, bytes: usize) -> Result<BatchNo, EngineError> {
        let last = self.entries.last_index();
        let after = if self.refused { last.prev() } else { last };
        if !self.refused {
            let (mut run, id) = (BytesMut::new(), EntryId { term: Term(1), index: after.next() });
            encode(self.entries.seed(), id, EntryKind::Normal, &[&vec![7; bytes]], &mut run);
            self.entries.stage(after.next(), run.freeze()).unwrap();
        }
        let write = Write { entries: (after, after.next()), ..Write::default() };
        let batch = self.engine.append(&mut self.entries, write);
        self.refused = batch.is_err();
        batch
    }

    fn vote(&mut self) -> Result<BatchNo, EngineError> {
        let term = Term(self.votes.hard_state().term.0 + 1);
        let hard_state = HardState { term, vote: PeerId(1), commit: Index(0) };
        self.engine.append(&mut self.votes, Write { hard_state: Some(hard_state), ..Write::default() })
    }

    /// One turn, if the world has one.
    fn turn(&mut self) {
        self.engine.submit(&mut self.io);
        self.world.poke(self.process, ShardNo(0));
        let Some(Step::Shard { .. }) = self.world.next() else { return };
        let mut out = Vec::new();
        self.io.turn(self.engine.next_deadline(), &mut out).unwrap();
        for completion in out {
            match self.engine.complete(&mut self.io, completion) {
                Ok(Some(durable)) => self.durable = durable,
                Ok(None) => {}
                Err(error) => self.errors.push(error),
            }
        }
    }

    /// Turns until it is so.
    fn until(&mut self, what: &str, done: impl Fn(&Node) -> bool) {
        for _ in 0..100_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}, {:?}", self.engine.stats());
    }

    /// Makes a write durable.
    fn settle(&mut self, batch: BatchNo) {
        self.until("durable", |node| node.durable >= batch);
    }

    /// The engine has all the files that it wants.
    fn ready(&mut self) {
        let wanted = self.engine.stats().segments_free + 1;
        for _ in 0..2000 {
            self.turn();
        }
        assert!(self.engine.stats().segments_free + 1 >= wanted);
    }

    /// Fills the disk until entries are refused.
    fn fill(&mut self) -> EngineError {
        self.ready();
        self.world.set_disk_full(self.process, true);
        loop {
            match self.put(2000) {
                Ok(batch) => self.settle(batch),
                // The file that is not there yet: it will not be.
                Err(EngineError::Busy { .. }) => self.turn(),
                Err(error) => return error,
            }
        }
    }
}

/// A failed write or sync: nothing is retried, nobody is acknowledged, everything says why, until a restart.
#[test]
fn a_failed_write_ends_the_log_for_good() {
    let config = config(0);
    let mut node = Node::new(&config);
    let good = node.put(100).unwrap();
    node.settle(good);
    node.put(100).unwrap();
    node.engine.submit(&mut node.io);
    node.world.fail_next_write(node.process);
    node.put(100).unwrap();
    node.engine.submit(&mut node.io);
    node.until("failed", |node| !node.errors.is_empty());
    assert!(matches!(node.errors[..], [EngineError::Failed { .. }]), "{:?}", node.errors);
    let durable = node.durable;
    assert!(matches!(node.put(100), Err(EngineError::Failed { .. })));
    assert!(matches!(node.vote(), Err(EngineError::Failed { .. })));
    assert!(matches!(node.engine.compact(&mut node.votes, Index(1)), Err(EngineError::Failed { .. })));
    assert!(!node.engine.has_room() && !node.engine.takes_compaction());
    assert!(node.engine.overdue(Time(u64::MAX)).is_none() && node.engine.next_deadline().is_none());
    node.engine.attest();
    // The world panics if the file is written again.
    (0..100).for_each(|_| node.turn());
    assert_eq!((node.durable, node.world.writes_in_flight(node.process)), (durable, 0));
    let mut node = node.restart(&config).unwrap();
    assert!(node.entries.last_index() >= Index(1) && node.report.last_batch >= durable);
    let batch = node.put(100).unwrap();
    node.settle(batch);
}

/// The same while the log is being opened.
#[test]
fn a_failed_write_while_opening_is_told() {
    for writes in 0..2 {
        let mut disk = world::World::default();
        disk.fail_after = Some(writes);
        let opened = Engine::open(&mut disk, config(0));
        assert!(matches!(opened, Err(EngineError::Failed { .. })), "{writes}");
    }
}

/// A full disk: entries are refused by type; votes and compactions go on; room that comes back is used without a restart.
#[test]
fn a_full_disk_takes_votes_and_compactions() {
    for segments_reserve in 0..3 {
        let config = config(segments_reserve);
        let mut node = Node::new(&config);
        let error = node.fill();
        assert!(matches!(error, EngineError::Full), "{error}");
        assert!(!node.engine.has_room());
        let blocks = config.segment_bytes / 4096;
        let most = match segments_reserve {
            // A sixteenth: one block for the restart, one for the compaction.
            0 => blocks / 16 - 2,
            // Segments but for their heads and footers, and these two.
            reserve => reserve as u64 * (blocks - 2) - 3,
        };
        for _ in 0..most {
            let batch = node.vote().unwrap();
            node.settle(batch);
        }
        assert!(matches!(node.put(1), Err(EngineError::Full)), "votes make no room for entries");
        assert!(matches!(node.errors[..], [EngineError::NoSegment { .. }]), "told once: {:?}", node.errors);
        // A restart on the full disk.
        let (voted, last) = (node.votes.hard_state().term, node.entries.last_index().prev());
        let mut node = node.restart(&config).unwrap();
        assert_eq!((node.votes.hard_state().term, node.entries.last_index()), (voted, last));
        // A compaction frees segments.
        if node.engine.takes_compaction() {
            node.engine.note_commit(&mut node.entries, last);
            node.engine.compact(&mut node.entries, last).unwrap();
            node.until("room", |node| node.engine.has_room());
        }
        let error = node.fill();
        assert!(matches!(error, EngineError::Full), "{error}");
        // And so does whoever makes room.
        node.world.set_disk_full(node.process, false);
        node.engine.retry_segments();
        node.until("room", |node| node.engine.has_room());
        let batch = node.put(100).unwrap();
        node.settle(batch);
    }
}

/// A disk that hangs is told by its deadline, and not before; nothing is given up for it.
#[test]
fn a_hanging_disk_is_told_in_time() {
    let mut node = Node::new(&config(0));
    for round in 0..5 {
        let batch = node.put(100).unwrap();
        let begun = node.world.now();
        let until = begun + Duration::from_secs(10 * round);
        node.world.stall_disk(node.process, until);
        let mut told = None;
        while node.durable < batch {
            node.turn();
            let now = node.world.now();
            let overdue = node.engine.overdue(now);
            assert!(overdue.is_none() || now.since(begun) >= DEADLINE, "no false alarm");
            if let Some(overdue) = overdue {
                told.get_or_insert(now);
                assert!(overdue.since >= begun && overdue.file.starts_with("/log"));
            }
        }
        let told = told.map(|now| now.since(begun));
        assert_eq!(told.is_some(), round > 0, "{told:?}");
        assert!(told.is_none_or(|waited| waited < DEADLINE.mul_f64(1.1)), "{told:?}");
        assert!(node.engine.overdue(node.world.now()).is_none() && node.errors.is_empty());
    }
}

/// The same while the log is being opened, at every write of that.
#[test]
fn a_disk_that_hangs_while_opening_is_told() {
    let mut disk = world::World::default();
    disk.hold = true;
    let opened = Engine::open(&mut disk, config(0));
    let Err(EngineError::Hangs(overdue)) = opened else { panic!("{:?}", opened.map(|_| ())) };
    assert!(overdue.file.starts_with("/log"));
    assert!(disk.now().since(overdue.since) < DEADLINE.mul_f64(1.1));
    // Blocks that were written, and are written again because nobody attests them.
    let files = disk.crash(|_, _| true);
    let mut disk = world::World::on(files);
    disk.hold = true;
    let opened = Engine::open(&mut disk, config(0));
    assert!(matches!(opened, Err(EngineError::Hangs(_))));
    assert!(disk.now().since(Time(0)) < DEADLINE.mul_f64(1.1));
}

/// A directory in use: the second one is told by whom.
#[test]
fn two_cannot_open_one_directory() {
    let mut node = Node::new(&config(0));
    let second = Engine::open(&mut node.io, config(0));
    let Err(EngineError::Lock(error)) = second else { panic!("{:?}", second.map(|_| ())) };
    assert!(matches!(*error, LockError::Held { pid, ref dir } if pid > 0 && dir == Path::new("/log")), "{error}");
    assert!(error.to_string().contains("in use by process"), "{error}");
    // The first goes on.
    let batch = node.put(10).unwrap();
    node.settle(batch);
}

/// A sector that cannot be read is as good as a damaged block: no more is lost than that.
#[test]
fn an_unreadable_sector_is_a_damaged_block() {
    let config = config(0);
    let mut node = Node::new(&config);
    for _ in 0..10 {
        let batch = node.put(100).unwrap();
        node.settle(batch);
    }
    node.engine.attest();
    (0..100).for_each(|_| node.turn());
    let path = node.world.files(node.process).into_iter().find(|path| path.ends_with("seg-0000")).unwrap();
    // Behind the head and the opening's batch: entry 3.
    node.world.spoil(node.process, &path, 4 * 4096 + 512).unwrap();
    let (world, process) = (node.world.clone(), node.process);
    let refused = node.restart(&config);
    assert!(matches!(refused, Err(EngineError::Refused(_))), "{:?}", refused.map(|node| node.report));
    world.crash(process);
    world.restart(process, Arc::new(Nobody));
    let node = Node::start(world, process, &Config { open_with_holes: true, ..config.clone() }).unwrap();
    let told = node.engine.wounds(GroupId(1)).unwrap();
    assert_eq!(node.report.gaps.len(), 1);
    assert!(!told.holes.is_empty() && told.holes.iter().all(|hole| hole.last == Index(3)), "{told:?}");
    // A disk of which nothing can be read is no empty log.
    let (world, process) = (node.world.clone(), node.process);
    world.crash(process);
    for path in world.files(process) {
        for at in (0..world.file(process, &path).unwrap().len()).step_by(4096) {
            world.spoil(process, &path, at as u64).unwrap();
        }
    }
    world.restart(process, Arc::new(Nobody));
    assert!(matches!(Node::start(world, process, &config), Err(EngineError::Open { .. })));
}
