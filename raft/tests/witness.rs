//! Groups with witnesses over seeded networks and disks: what is acknowledged keeps its payload somewhere where it
//! counts, nobody is elected without it, and a full member and a witness go on without the other full member.

mod support;

use std::collections::HashMap;

use ringraft_raft::quorum::majority;
use ringraft_raft::{
    ConfChange, ConfChangeOp, ConfState, Config, EntryId, EntryKind, EntryMeta, Index, PeerId, Proposed, Role, Storage,
    Term, Transition,
};
use support::Dice;
use support::node::{Disk, Node, Packet, Payload};

struct Group {
    dice: Dice,
    nodes: Vec<Node>,
    network: Vec<Packet>,
    /// Whom nobody hears.
    away: Vec<PeerId>,
    changes: HashMap<Payload, ConfChange>,
    next_payload: Payload,
    leaders: HashMap<Term, PeerId>,
    /// What full members know to be committed.
    committed: Vec<(EntryMeta, Payload)>,
    commits: Vec<Index>,
    /// The newest membership that anybody has applied.
    conf: (Index, ConfState),
    changing: bool,
}

/// Members 1 to `full` keep payloads, the rest up to `full + witnesses` do not.
fn membership(full: u64, witnesses: u64) -> ConfState {
    ConfState {
        voters: (1..=full + witnesses).map(PeerId).collect(),
        witnesses: (full + 1..=full + witnesses).map(PeerId).collect(),
        ..ConfState::default()
    }
}

fn place(id: PeerId) -> usize {
    usize::try_from(id.0 - 1).unwrap()
}

impl Group {
    fn new(seed: u64, full: u64, witnesses: u64, changing: bool) -> Group {
        let mut dice = Dice(seed);
        let conf = membership(full, witnesses);
        let (pre_vote, check_quorum) = (!dice.one_in(3), !dice.one_in(3));
        let nodes: Vec<Node> = conf
            .voters
            .iter()
            .map(|id| {
                let config = Config {
                    seed: dice.roll(),
                    witness: conf.is_witness(*id),
                    message_size_max: [0, 100, 1000][dice.below(3)],
                    inflight_count_max: 1 + dice.below(5),
                    inflight_size_max: 1000,
                    apply_size_max: [50, 200, 10_000][dice.below(3)],
                    uncommitted_size_max: 300,
                    pre_vote,
                    check_quorum,
                    ..Config::new(*id)
                };
                Node::new(config, Disk::new(conf.clone()), dice.one_in(2))
            })
            .collect();
        Group {
            commits: vec![Index::ZERO; nodes.len()],
            nodes,
            dice,
            network: Vec::new(),
            away: Vec::new(),
            changes: HashMap::new(),
            next_payload: 1,
            leaders: HashMap::new(),
            committed: Vec::new(),
            conf: (Index::ZERO, conf),
            changing,
        }
    }

    fn chaos(&mut self) {
        let mut at = self.dice.below(self.nodes.len());
        let leader = self.nodes.iter().position(|node| node.raft.role() == Role::Leader);
        match self.dice.below(400) {
            0..6 => self.nodes[at].raft.tick(),
            6..190 => self.deliver_any(),
            190..270 => self.take_ready(at),
            270..320 => self.nodes[at].finish_write(&mut self.network),
            320..350 => self.finish_apply(at),
            350..370 => drop(self.propose(leader.unwrap_or(at))),
            370 => self.nodes[at].raft.campaign(),
            371 => {
                let target = PeerId(1 + self.dice.below(self.nodes.len()) as u64);
                let witness = self.nodes[place(target)].raft.config().witness;
                let refused = self.nodes[at].raft.transfer_leader(target).is_err();
                assert!(refused || !witness || self.nodes[at].raft.role() != Role::Leader);
            }
            372 => self.restart(at),
            373 if self.dice.one_in(2) => (0..self.nodes.len()).for_each(|at| self.restart(at)),
            374 if self.dice.one_in(2) => self.away = vec![PeerId(1 + at as u64)],
            375 if self.dice.one_in(2) => self.away.clear(),
            376..378 => self.nodes[at].compact(),
            378 => {
                let peer = PeerId(1 + self.dice.below(self.nodes.len()) as u64);
                self.nodes[at].raft.report_unreachable(peer);
            }
            379..382 if self.changing => {
                at = leader.unwrap_or(at);
                self.change_conf(at);
            }
            _ => self.take_ready(at),
        }
        self.check();
    }

    fn restart(&mut self, at: usize) {
        self.nodes[at].restart();
        self.commits[at] = self.nodes[at].raft.commit();
    }

    fn take_ready(&mut self, at: usize) {
        if self.nodes[at].raft.has_ready() {
            self.nodes[at].take_ready(&mut self.network);
        }
    }

    fn deliver_any(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let which = self.dice.below(self.network.len().min(20));
        let packet = match self.dice.below(20) {
            0 => self.network[which].clone(),
            _ => self.network.remove(which),
        };
        let lost = self.dice.one_in(20) || self.network.len() > 500;
        self.deliver(&packet, lost);
    }

    fn deliver(&mut self, packet: &Packet, lost: bool) {
        let (from, to) = (packet.message.from, packet.message.to);
        let lost = lost || self.away.contains(&from) || self.away.contains(&to);
        let witness = self.nodes[place(to)].raft.config().witness;
        for (meta, payload) in &packet.entries {
            assert!(!witness || meta.kind != EntryKind::Normal || (meta.size, *payload) == (0, 0));
        }
        if !lost && let Err(error) = self.nodes[place(to)].step(packet) {
            use ringraft_raft::StepError as E;
            assert!(matches!(error, E::UnknownPeer { .. } | E::TransferRefused { .. }), "{error}");
        }
        if packet.snapshot.is_some() {
            self.nodes[place(from)].raft.report_snapshot(to, !lost);
        }
    }

    fn finish_apply(&mut self, at: usize) {
        let newest = &mut self.conf;
        self.nodes[at].finish_apply(&self.changes, |index, _, _, image| {
            if index > newest.0 && image.conf != newest.1 {
                *newest = (index, image.conf.clone());
            }
        });
    }

    fn propose(&mut self, at: usize) -> Option<Payload> {
        let payload = self.next_payload;
        self.next_payload += 1;
        let size = 1 + u32::try_from(self.dice.below(60)).unwrap();
        let proposed = self.nodes[at].propose(payload, size);
        matches!(proposed, Ok(Proposed::Appended(_))).then_some(payload)
    }

    fn change_conf(&mut self, at: usize) {
        let mut ops = Vec::new();
        for _ in 0..1 + self.dice.below(3) {
            let id = PeerId(1 + self.dice.below(self.nodes.len()) as u64);
            let witness = self.nodes[place(id)].raft.config().witness;
            ops.push(match self.dice.below(5) {
                0 | 1 => ConfChangeOp::Remove(id),
                _ if witness => ConfChangeOp::AddWitness(id),
                2 => ConfChangeOp::AddLearner(id),
                _ => ConfChangeOp::AddVoter(id),
            });
        }
        let transition = [Transition::Auto, Transition::Auto, Transition::JointExplicit][self.dice.below(3)];
        let mut change = ConfChange { transition, ops };
        if self.nodes[at].raft.conf_state().voters_outgoing.len() > 1 {
            change = ConfChange::leave_joint();
        }
        let payload = self.next_payload;
        self.next_payload += 1;
        self.changes.insert(payload, change.clone());
        let _ = self.nodes[at].propose_conf_change(&change, payload);
    }

    /// Whether the disk of this member has the entry, with its payload if it keeps them.
    fn has_durably(&self, id: PeerId, index: Index) -> bool {
        let (disk, witness) = (&self.nodes[place(id)].disk, self.nodes[place(id)].raft.config().witness);
        let (meta, payload) = self.committed[usize::try_from(index.0 - 1).unwrap()];
        let known = if witness { meta.stripped() } else { meta };
        if index <= disk.log.base.index {
            return true;
        }
        let slot = usize::try_from(index.0 - disk.log.base.index.0 - 1).unwrap();
        disk.log.meta(index) == Ok(known)
            && (witness && meta.kind == EntryKind::Normal || disk.payloads[slot] == payload)
    }

    fn check(&mut self) {
        let before = self.committed.len();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let status = node.raft.status();
            assert!(status.commit >= self.commits[at], "commit of {} went back", status.id);
            let witness = node.raft.config().witness;
            for index in self.commits[at].0 + 1..=status.commit.0 {
                let Ok(meta) = node.raft.meta(Index(index)) else { continue };
                let entry = (meta, node.entry(Index(index)).1);
                match self.committed.get(usize::try_from(index - 1).unwrap()) {
                    Some(known) if witness => assert_eq!(known.0.stripped(), meta, "{} at {index}", status.id),
                    Some(known) => assert_eq!(*known, entry, "{} at {index}", status.id),
                    None => {
                        assert!(!witness, "whoever commits first is a leader");
                        self.committed.push(entry);
                    }
                }
            }
            self.commits[at] = status.commit;
            if status.role != Role::Follower {
                assert!(!witness, "witness {} is {:?}", status.id, status.role);
            }
            if status.role == Role::Leader && self.leaders.insert(status.term, status.id).is_none() {
                let base = node.raft.storage().base().index;
                for index in base.0 + 1..=self.committed.len() as u64 {
                    let known = self.committed[usize::try_from(index - 1).unwrap()];
                    let entry = node.entry(Index(index));
                    assert_eq!(entry, known, "leader {} lacks {index}", status.id);
                }
            }
            let leads = self.leaders.get(&status.term).filter(|_| status.role == Role::Leader);
            assert!(leads.is_none_or(|leader| *leader == status.id), "two leaders in term {}", status.term);
        }
        for index in before + 1..=self.committed.len() {
            self.check_new(Index(index as u64));
        }
        self.check_payloads();
        self.check_witnesses();
    }

    /// What was committed just now is on a quorum, if nobody comes and goes.
    fn check_new(&self, index: Index) {
        let holders = self.conf.1.voters.iter().filter(|id| self.has_durably(**id, index)).count();
        assert!(self.changing || holders >= majority(self.nodes.len()), "{index} is on {holders}");
    }

    /// Every committed payload is where the votes are that could elect its holder: with a full voter of the newest
    /// membership, or, if that is joint, of its outgoing half.
    fn check_payloads(&self) {
        let conf = &self.conf.1;
        let half = if conf.voters_outgoing.is_empty() { &conf.voters } else { &conf.voters_outgoing };
        let full: Vec<_> = half.iter().copied().filter(|id| !conf.is_witness(*id)).collect();
        let least = full.iter().map(|id| self.nodes[place(*id)].disk.log.base.index.0).max().unwrap();
        for index in least + 1..=self.committed.len() as u64 {
            let held = full.iter().any(|id| self.has_durably(*id, Index(index)));
            assert!(held, "nobody of {conf:?} has {index} with its payload");
        }
    }

    /// A witness of a group of three knows of nothing that no full member has durably: whatever it insists on, somebody
    /// can be elected with.
    fn check_witnesses(&self) {
        if self.changing || self.nodes.len() > 3 {
            return;
        }
        let last = |witness: bool| {
            let some = self.nodes.iter().filter(move |node| node.raft.config().witness == witness);
            some.map(last_durable).max().unwrap()
        };
        assert!(last(true) <= last(false), "a witness insists on {}, full members end at {}", last(true), last(false));
    }

    fn calm_turn(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.raft.tick());
        for _ in 0..200 {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                while self.nodes[at].raft.has_ready() || self.nodes[at].has_write() || self.nodes[at].has_apply() {
                    idle = false;
                    self.take_ready(at);
                    self.nodes[at].finish_write(&mut self.network);
                    self.finish_apply(at);
                }
            }
            for packet in std::mem::take(&mut self.network) {
                idle = false;
                self.deliver(&packet, false);
            }
            self.check();
            if idle {
                return;
            }
        }
        panic!("no rest within a tick: {}", self.states());
    }

    fn states(&self) -> String {
        let one = |node: &Node| format!("\n{:?} {:?}", node.raft.status(), node.raft.conf_state());
        self.nodes.iter().map(one).collect()
    }

    /// Without faults, and without those who are away: somebody leads and commits.
    fn go_on(&mut self) {
        let mut proposed = None;
        for turn in 0..400 {
            self.calm_turn();
            if proposed.is_some_and(|payload| self.committed.last().is_some_and(|last| last.1 == payload)) {
                return;
            }
            let there = |id: PeerId| !self.away.contains(&id);
            let leader = self.nodes.iter().position(|node| node.raft.role() == Role::Leader && there(node.raft.id()));
            if let Some(leader) = leader.filter(|_| turn % 50 == 49) {
                proposed = self.propose(leader).or(proposed);
            }
        }
        panic!("no progress without {:?}: {}", self.away, self.states());
    }

    /// All power fails; one full member does not come back. The others go on, if what the witnesses know is known to a
    /// full one among them.
    fn go_on_without_one(&mut self) -> bool {
        self.network.clear();
        (0..self.nodes.len()).for_each(|at| self.restart(at));
        let full: Vec<_> = (0..self.nodes.len()).filter(|at| !self.nodes[*at].raft.config().witness).collect();
        let gone = full[self.dice.below(full.len())];
        let ends = |keep: &dyn Fn(usize) -> bool| {
            (0..self.nodes.len()).filter(|at| keep(*at)).map(|at| last_durable(&self.nodes[at])).max().unwrap()
        };
        let known = ends(&|at| at != gone && full.contains(&at)) >= ends(&|at| at != gone);
        self.away = vec![PeerId(1 + gone as u64)];
        if known {
            self.go_on();
        }
        self.away.clear();
        known
    }
}

fn last_durable(node: &Node) -> EntryId {
    let log = &node.disk.log;
    EntryId { term: log.term(log.last_index()).unwrap(), index: log.last_index() }
}

fn run(seed: u64, full: u64, witnesses: u64, changing: bool) -> [usize; 3] {
    let mut group = Group::new(seed, full, witnesses, changing);
    let mut without_one = 0;
    for step in 0..6000 {
        group.chaos();
        if step % 1000 == 999 && !changing && full > 1 {
            without_one += usize::from(group.go_on_without_one());
        }
    }
    group.away.clear();
    group.go_on();
    [group.committed.len(), group.leaders.len(), without_one]
}

fn fuzz(seeds: std::ops::Range<u64>, full: u64, witnesses: u64, changing: bool) {
    let first = std::env::var("RINGRAFT_SEED").ok().and_then(|text| text.parse().ok());
    let times = std::env::var("RINGRAFT_SEEDS_TIMES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let seeds = first.map_or(seeds.start..seeds.start + times * (seeds.end - seeds.start), |seed| seed..seed + 1);
    let mut sums = [0; 3];
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed, full, witnesses, changing));
        let Ok(result) = result else {
            panic!("failing seed: RINGRAFT_SEED={seed} ({full} and {witnesses}, changing: {changing})");
        };
        sums.iter_mut().zip(result).for_each(|(sum, one)| *sum += one);
    }
    let [committed, leaders, without_one] = sums;
    println!("{committed} entries committed, {leaders} leaders, {without_one} times without one");
    assert!(committed > 0 && leaders > 0 && (changing || full == 1 || first.is_some() || without_one > 0));
}

#[test]
fn two_and_a_witness() {
    fuzz(0..100, 2, 1, false);
}

#[test]
fn one_and_two_witnesses() {
    fuzz(1000..1060, 1, 2, false);
}

#[test]
fn three_and_two_witnesses() {
    fuzz(2000..2060, 3, 2, false);
}

#[test]
fn two_and_a_witness_changing() {
    fuzz(3000..3150, 2, 1, true);
}

#[test]
fn three_and_two_witnesses_changing() {
    fuzz(4000..4100, 3, 2, true);
}
