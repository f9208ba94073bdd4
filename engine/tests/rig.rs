//! An engine, its logs, and a model of what they must hold.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ringraft_engine::{
    BatchNo, Config, Engine, EngineError, GroupLog, ReadError, Reason, RecoveryReport, Refusal, SectionError, Write,
};
use ringraft_io::Io;
use ringraft_raft::record::{GroupSeed, Records, encode};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, PeerId, Storage, Term};

use crate::reader;
use crate::world::{Image, World};

/// What one group must hold. Entry `base.index + 1` is the first of `entries`.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) hard: HardState,
    pub(crate) base: EntryId,
    pub(crate) snapshot: Option<EntryId>,
    pub(crate) conf: ConfState,
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
}

thread_local! {
    /// This test damages what is durable.
    pub(crate) static ROT: Cell<bool> = const { Cell::new(false) };
}

pub(crate) type State = BTreeMap<u64, Model>;

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hard = (self.hard.term.0, self.hard.vote.0, self.hard.commit.0);
        write!(f, "hard {hard:?} base {} {:?} {} voters [", self.base, self.snapshot, self.conf.voters.len())?;
        self.entries.iter().try_for_each(|(term, payload)| write!(f, "{term}:{}:{} ", payload.len(), payload[0]))?;
        f.write_str("]")
    }
}

impl Model {
    pub(crate) fn last(&self) -> u64 {
        self.base.index.0 + self.entries.len() as u64
    }

    fn last_term(&self) -> u64 {
        self.entries.last().map_or(self.base.term.0, |entry| entry.0)
    }
}

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) engine: Engine,
    pub(crate) logs: BTreeMap<u64, GroupLog>,
    /// What is in memory.
    pub(crate) now: State,
    /// What the open batch and those before it say.
    pub(crate) said: State,
    /// What the log must be when recovery ends with this batch.
    pub(crate) history: BTreeMap<u64, State>,
    /// The first state in each batch: that of a write which may have begun in the batch before.
    pub(crate) begun: BTreeMap<u64, State>,
    pub(crate) durable: BatchNo,
    pub(crate) report: RecoveryReport,
    pub(crate) config: Config,
    pub(crate) serial: u64,
}

pub(crate) fn small(segment_blocks: u64) -> Config {
    Config {
        segment_bytes: segment_blocks * 4096,
        batch_bytes_max: 4096,
        record_bytes_max: 8192,
        segments_max: 4,
        cache_bytes_max: 16 << 10,
        queue_bytes_max: 256 << 10,
        rewrite_percent: 0,
        segments_reserve: 0,
        ..Config::new("/log", 77)
    }
}

pub(crate) fn conf(voters: u64) -> ConfState {
    // Five are three and two witnesses.
    let witnesses = if voters == 5 { vec![PeerId(4), PeerId(5)] } else { Vec::new() };
    ConfState { voters: (1..=voters).map(PeerId).collect(), witnesses, ..ConfState::default() }
}

/// Entries of all kinds.
fn kind_of(payload: &[u8]) -> EntryKind {
    EntryKind::from_u8(payload[0] % 3).unwrap()
}

pub(crate) fn run(group: u64, first: u64, entries: &[(u64, Vec<u8>)]) -> Bytes {
    let mut out = BytesMut::new();
    for (index, (term, payload)) in (first..).zip(entries) {
        let id = EntryId { term: Term(*term), index: Index(index) };
        encode(GroupSeed::of(GroupId(group)), id, kind_of(payload), &[payload], &mut out);
    }
    out.freeze()
}

/// What the independent reader finds, and the last batch.
fn independent(image: &Image, config: &Config) -> Result<(State, u64), String> {
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files: Vec<_> = image.iter().map(|(path, bytes)| (name(path), bytes)).collect();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let log = reader::read(&files, config.log_id)?;
    let id = |(index, term)| EntryId { index: Index(index), term: Term(term) };
    let model = |group: reader::Group| {
        let (hard, [voters, voters_outgoing, learners, learners_next, witnesses]) = (group.hard, group.conf.0);
        let peers = |list: Vec<u64>| list.into_iter().map(PeerId).collect();
        assert!(group.entries.iter().all(|(index, entry)| entry.index == *index));
        assert!(group.entries.values().all(|entry| entry.kind == kind_of(&entry.payload) as u8));
        Model {
            hard: HardState { term: Term(hard.0), vote: PeerId(hard.1), commit: Index(hard.2) },
            base: id(group.base),
            snapshot: group.snapshot.map(id),
            conf: ConfState {
                voters: peers(voters),
                voters_outgoing: peers(voters_outgoing),
                learners: peers(learners),
                learners_next: peers(learners_next),
                witnesses: peers(witnesses),
                auto_leave: group.conf.1,
            },
            entries: group.entries.into_values().map(|entry| (entry.term, entry.payload)).collect(),
        }
    };
    Ok((log.groups.into_iter().map(|(id, group)| (id, model(group))).collect(), log.last_lsn))
}

impl Rig {
    /// Opens a log, and compares what is found with what the independent reader finds.
    pub(crate) fn open(image: Image, config: Config) -> Result<Rig, EngineError> {
        let independent = independent(&image, &config);
        let mut world = World::on(image);
        let opened = Engine::open(&mut world, config.clone());
        // Damage in a segment that has a footer is found later, or never needed; the reader refuses all of it.
        let lazy = opened
            .as_ref()
            .is_ok_and(|(_, _, report)| report.footers > 0 || !report.gaps.is_empty() || report.wounded > 0);
        let agrees = opened.is_ok() == independent.is_ok() || lazy && ROT.get();
        assert!(agrees, "{:?}, but {:?}", opened.map(|(_, _, report)| report), independent);
        let (engine, logs, report) = opened?;
        let logs: BTreeMap<u64, GroupLog> = logs.into_iter().map(|log| (log.group().0, log)).collect();
        let durable = engine.stats().durable;
        let mut rig = Rig {
            world,
            engine,
            logs,
            now: State::new(),
            said: State::new(),
            history: BTreeMap::new(),
            begun: BTreeMap::new(),
            durable,
            report,
            config,
            serial: 0,
        };
        rig.now = match rig.found() {
            // What cannot be read is a hole; the test looks at it by itself.
            Err(ReadError::Damaged { .. }) if rig.config.open_with_holes => return Ok(rig),
            Err(ReadError::Damaged { file, offset, index }) if lazy && independent.is_err() => {
                let reason = Reason::Section { lsn: 0, error: SectionError::Record(index) };
                return Err(EngineError::Refused(Arc::new(Refusal { file, offset, reason })));
            }
            found => found.unwrap(),
        };
        rig.said = rig.now.clone();
        rig.history.insert(durable.0, rig.said.clone());
        if lazy && independent.is_err() {
            return Ok(rig);
        }
        let (state, last_batch) = independent.expect("they agree");
        assert_eq!((&rig.now, rig.report.last_batch.0), (&state, last_batch), "the independent reader finds");
        Ok(rig)
    }

    pub(crate) fn new(config: Config) -> Rig {
        Rig::open(Image::new(), config).unwrap()
    }

    /// What the engine holds, read through its doors.
    pub(crate) fn found(&mut self) -> Result<State, ReadError> {
        Rig::state(&mut self.engine, &mut self.world, self.logs.values())
    }

    /// What an engine holds.
    pub(crate) fn state<'a>(
        engine: &mut Engine,
        world: &mut World,
        logs: impl IntoIterator<Item = &'a GroupLog>,
    ) -> Result<State, ReadError> {
        let mut state = State::new();
        for log in logs {
            let (hard, conf) = log.initial_state();
            let (base, last) = (log.base(), log.last_index());
            let mut runs = Vec::new();
            engine.read(world, log, base.index, last, &mut runs)?;
            let mut entries = Vec::new();
            for record in runs.iter().flat_map(|run| Records::new(run)) {
                let record = record.unwrap();
                assert!(record.verify(log.seed()) && record.kind == kind_of(record.payload));
                entries.push((record.id.term.0, record.payload.to_vec()));
                let index = Index(base.index.0 + entries.len() as u64);
                assert_eq!((record.id.index, log.meta(index).unwrap()), (index, record.meta()));
            }
            assert_eq!(entries.len() as u64, last.0 - base.index.0);
            state.insert(log.group().0, Model { hard, base, snapshot: log.snapshot(), conf, entries });
        }
        Ok(state)
    }

    pub(crate) fn check(&mut self) {
        let found = self.found().unwrap();
        assert_eq!(found, self.now);
    }

    pub(crate) fn payload(&mut self, len: usize) -> Vec<u8> {
        self.serial += 1;
        let mut payload = self.serial.to_le_bytes().to_vec();
        payload.resize(len.max(8), u8::try_from(self.serial % 251).unwrap());
        payload
    }

    pub(crate) fn ensure(&mut self, group: u64) {
        if !self.logs.contains_key(&group) {
            let log = self.engine.create(GroupId(group), conf(group % 4 + 1)).unwrap();
            self.logs.insert(group, log);
            self.now.insert(group, Model { conf: conf(group % 4 + 1), ..Model::default() });
        }
    }

    /// Appends entries after `after`, in a term not below what is there, and perhaps a vote.
    pub(crate) fn append(
        &mut self,
        group: u64,
        after: u64,
        lens: &[usize],
        vote: Option<u64>,
    ) -> Result<BatchNo, EngineError> {
        self.ensure(group);
        let model = &self.now[&group];
        let replaced = after < model.last();
        let term = model.last_term().max(model.hard.term.0).max(1) + u64::from(replaced);
        let entries: Vec<_> = lens.iter().map(|len| (term, self.payload(*len))).collect();
        let log = self.logs.get_mut(&group).unwrap();
        let last = after + entries.len() as u64;
        if !entries.is_empty() {
            log.stage(Index(after + 1), run(group, after + 1, &entries)).unwrap();
        }
        let commit = log.initial_state().0.commit;
        let hard = vote.map(|vote| HardState { term: Term(term), vote: PeerId(vote), commit });
        let batch = self
            .engine
            .append(log, Write { hard_state: hard, entries: (Index(after), Index(last)), snapshot: None })?;
        let model = self.now.get_mut(&group).unwrap();
        if !entries.is_empty() {
            model.entries.truncate(usize::try_from(after - model.base.index.0).unwrap());
            model.entries.extend(entries);
        }
        model.hard = hard.unwrap_or(model.hard);
        self.say(group, batch);
        Ok(batch)
    }

    pub(crate) fn put(&mut self, group: u64, lens: &[usize]) -> BatchNo {
        let after = self.now.get(&group).map_or(0, Model::last);
        self.append(group, after, lens, None).unwrap()
    }

    pub(crate) fn commit(&mut self, group: u64, commit: u64) {
        self.engine.note_commit(self.logs.get_mut(&group).unwrap(), Index(commit));
        let model = self.now.get_mut(&group).unwrap();
        let commit = commit.min(model.last());
        model.hard.commit = model.hard.commit.max(Index(commit));
    }

    pub(crate) fn snapshot(&mut self, group: u64, index: u64, voters: u64) {
        let log = self.logs.get_mut(&group).unwrap();
        let id = EntryId { index: Index(index), term: log.term(Index(index)).unwrap() };
        log.set_snapshot(id, conf(voters));
        let model = self.now.get_mut(&group).unwrap();
        (model.snapshot, model.conf) = (Some(id), conf(voters));
    }

    pub(crate) fn install(&mut self, group: u64, id: EntryId, voters: u64) {
        self.ensure(group);
        let log = self.logs.get_mut(&group).unwrap();
        log.set_snapshot(id, conf(voters));
        let hard = HardState { term: id.term, vote: PeerId(0), commit: id.index };
        let write = Write { hard_state: Some(hard), entries: (Index(0), Index(0)), snapshot: Some(id) };
        let batch = self.engine.append(log, write).unwrap();
        let model = Model { hard, base: id, snapshot: Some(id), conf: conf(voters), entries: Vec::new() };
        self.now.insert(group, model);
        self.say(group, batch);
    }

    pub(crate) fn compact(&mut self, group: u64, upto: u64) -> Result<(), EngineError> {
        let log = self.logs.get_mut(&group).unwrap();
        let before = log.base().index.0;
        self.engine.compact(log, Index(upto))?;
        if upto > before {
            let base = log.base();
            let model = self.now.get_mut(&group).unwrap();
            model.entries.drain(..usize::try_from(upto - before).unwrap());
            model.base = base;
            model.hard.commit = model.hard.commit.max(base.index);
            let batch = self.engine.stats().last_batch;
            self.say(group, batch);
        }
        Ok(())
    }

    fn say(&mut self, group: u64, batch: BatchNo) {
        self.said.insert(group, self.now[&group].clone());
        self.begun.entry(batch.0).or_insert_with(|| self.said.clone());
        self.history.insert(batch.0, self.said.clone());
    }

    /// One turn.
    pub(crate) fn turn(&mut self) -> Result<(), EngineError> {
        self.engine.submit(&mut self.world);
        self.complete()
    }

    pub(crate) fn complete(&mut self) -> Result<(), EngineError> {
        let mut out = Vec::new();
        self.world.turn(None, &mut out).unwrap();
        let mut outcome = Ok(());
        for completion in out {
            match self.engine.complete(&mut self.world, completion) {
                Ok(Some(durable)) => {
                    assert!(durable > self.durable);
                    self.durable = durable;
                }
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Turns until everything appended is durable.
    pub(crate) fn settle(&mut self) {
        let target = self.engine.stats().last_batch;
        let mut turns = 0;
        while self.durable < target {
            match self.turn() {
                Ok(()) | Err(EngineError::NoSegment { .. }) => turns += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(turns < 10_000, "the log does not move");
        }
    }

    /// Ends this engine and opens what is on its disk.
    pub(crate) fn reopen(self) -> Rig {
        let Rig { world, said, config, .. } = self;
        let rig = Rig::open(world.files, config).unwrap();
        assert_eq!((&rig.now, &rig.report.cut), (&said, &None));
        rig
    }
}
