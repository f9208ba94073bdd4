//! Small clusters over seeded networks and disks that lose, repeat, reorder, delay and crash. After every step the
//! promises of raft are checked; at the end, that the cluster comes to rest and serves again.

mod support;

use std::collections::HashMap;

use ringraft_raft::{
    Compat, ConfChange, ConfChangeOp, Config, EntryKind, EntryMeta, Index, PRIORITY_MAX, PeerId, Progress,
    ProgressState, Proposed, ReadId, ReadPolicy, Role, Storage, Term, Transition,
};
use support::Dice;
use support::node::{Disk, Image, Node, Packet, Payload, voters};

struct Cluster {
    dice: Dice,
    nodes: Vec<Node>,
    network: Vec<Packet>,
    /// Pairs that do not hear each other.
    cut: Vec<(PeerId, PeerId)>,
    changes: HashMap<Payload, ConfChange>,
    next_payload: Payload,
    next_read: u64,
    // What was seen, and may never be contradicted.
    leaders: HashMap<Term, PeerId>,
    entries: HashMap<(Index, Term), (EntryMeta, Payload)>,
    committed: Vec<(EntryMeta, Payload)>,
    machines: HashMap<Index, Image>,
    reads: HashMap<ReadId, Index>,
    commits: Vec<Index>,
    served: usize,
    /// What every node once had durable and has lost; a leader may go on believing in it for a while.
    lost_to: Vec<Index>,
    losses: usize,
    /// Whose disk hangs.
    stalled: Vec<bool>,
}

/// What happens beside faults of the network, and crashes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Spice {
    Nothing,
    /// Members come and go.
    ConfChanges,
    /// Disks lose their tail, or all.
    Losses,
    /// One and four never campaign by themselves and wait longest, and so on.
    Priorities,
    /// Disks hang, for long.
    Stalls,
    /// Everybody plays by etcd's rules.
    Etcd,
}

impl Cluster {
    fn new(seed: u64, count: u64, spice: Spice) -> Cluster {
        let mut dice = Dice(seed);
        let conf = voters(count);
        let (pre_vote, check_quorum) = (!dice.one_in(3), !dice.one_in(3));
        let compat = match spice {
            Spice::Etcd => Compat::Etcd { async_storage_writes: true },
            _ => Compat::Off,
        };
        let nodes: Vec<Node> = (1..=count)
            .map(|id| {
                let config = Config {
                    seed: dice.roll(),
                    priority: if spice == Spice::Priorities { u8::try_from(id % 5).unwrap() } else { PRIORITY_MAX },
                    message_size_max: [0, 100, 1000][dice.below(3)],
                    inflight_count_max: 1 + dice.below(5),
                    inflight_size_max: 1000,
                    apply_size_max: [50, 200, 10_000][dice.below(3)],
                    uncommitted_size_max: 300,
                    pre_vote,
                    check_quorum,
                    read_policy: ReadPolicy::Quorum,
                    compat,
                    ..Config::new(PeerId(id))
                };
                let mut disk = Disk::default();
                disk.log.conf = conf.clone();
                disk.image.conf = conf.clone();
                let early = dice.one_in(2);
                Node::new(config, disk, early)
            })
            .collect();
        Cluster {
            commits: vec![Index::ZERO; nodes.len()],
            lost_to: vec![Index::ZERO; nodes.len()],
            stalled: vec![false; nodes.len()],
            nodes,
            dice,
            network: Vec::new(),
            cut: Vec::new(),
            changes: HashMap::new(),
            next_payload: 1,
            next_read: 1,
            leaders: HashMap::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            machines: HashMap::new(),
            reads: HashMap::new(),
            served: 0,
            losses: 0,
        }
    }

    /// One thing happens somewhere.
    fn chaos(&mut self, spice: Spice) {
        let at = self.dice.below(self.nodes.len());
        match self.dice.below(200) {
            0..8 => self.nodes[at].raft.tick(),
            8..10 => {
                let ticks = self.dice.below(4);
                self.nodes[at].raft.advance(u32::try_from(ticks).unwrap());
            }
            10..90 => self.deliver_any(),
            90..130 => self.take_ready(at),
            130..150 => self.finish_write(at),
            150..165 => self.finish_apply(at),
            165..182 => {
                self.propose(at);
            }
            182..186 => self.read(at),
            186 => self.nodes[at].raft.campaign(),
            187 => {
                let target = PeerId(1 + self.dice.below(self.nodes.len()) as u64);
                let _ = self.nodes[at].raft.transfer_leader(target);
            }
            188 if self.dice.one_in(3) => self.restart(at),
            189 if self.dice.one_in(3) => self.cut_off(at),
            190 => self.cut.clear(),
            191 => self.nodes[at].compact(),
            192 => {
                let peer = PeerId(1 + self.dice.below(self.nodes.len()) as u64);
                self.nodes[at].raft.report_unreachable(peer);
            }
            193 if spice == Spice::ConfChanges => self.change_conf(at),
            194 => drop(self.nodes[at].raft.forget_leader()),
            195 if spice == Spice::Losses => self.lose(at),
            196..198 if spice == Spice::Stalls => self.stalled[at] = !self.stalled[at],
            _ => self.take_ready(at),
        }
        self.take_early(at);
        self.check();
    }

    /// With etcd's rules messages are queued as they are asked for, and are taken before anything else happens.
    fn take_early(&mut self, at: usize) {
        if self.nodes[at].raft.config().compat != Compat::Off {
            self.nodes[at].take_messages(&mut self.network);
        }
    }

    /// A disk loses durable entries. No more than raft can bear: everything that the node has ever vouched for is
    /// committed, and durable on a majority of the others.
    fn lose(&mut self, at: usize) {
        let last = self.nodes[at].disk.log.last_index();
        let holds = |node: &Node, index: Index| {
            let known = |(meta, _): &(EntryMeta, Payload)| node.disk.log.meta(index) == Ok(*meta);
            let place = usize::try_from(index.0 - 1).unwrap();
            index <= node.disk.log.base.index || self.committed.get(place).is_some_and(known)
        };
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, node)| node);
        let safe = (1..=last.0).map(Index).all(|index| {
            let count = others.clone().filter(|node| holds(node, index)).count();
            holds(&self.nodes[at], index) && count >= ringraft_raft::quorum::majority(self.nodes.len())
        });
        if !safe || last == Index::ZERO {
            return;
        }
        let keep = Index(self.dice.roll() % last.0);
        let first_conf = voters(self.nodes.len() as u64);
        self.nodes[at].lose(keep, &first_conf);
        self.commits[at] = self.nodes[at].raft.commit();
        self.lost_to[at] = self.lost_to[at].max(last);
        self.losses += 1;
    }

    fn cut_off(&mut self, at: usize) {
        let one = self.nodes[at].raft.id();
        for other in 1..=self.nodes.len() as u64 {
            if self.dice.one_in(2) {
                self.cut.push((one, PeerId(other)));
            }
        }
    }

    fn restart(&mut self, at: usize) {
        self.nodes[at].restart();
        self.commits[at] = self.nodes[at].raft.commit();
    }

    fn take_ready(&mut self, at: usize) {
        if self.nodes[at].raft.has_ready() {
            self.nodes[at].take_ready(&mut self.network);
            assert!(!self.nodes[at].raft.has_ready() || self.nodes[at].raft.commit() > Index::ZERO);
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
        let lost = lost || self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
        for (at, (meta, payload)) in packet.entries.iter().enumerate() {
            let ringraft_raft::Body::Append { prev, .. } = packet.message.body else {
                panic!("entries in a wrong place")
            };
            let index = Index(prev.index.0 + 1 + at as u64);
            let known = self.entries.entry((index, meta.term)).or_insert((*meta, *payload));
            assert_eq!(*known, (*meta, *payload), "entry {index} of term {} exists twice", meta.term);
        }
        let at = place(to);
        if !lost {
            let result = self.nodes[at].step(packet);
            if let Err(error) = result {
                use ringraft_raft::StepError as E;
                let harmless =
                    matches!(error, E::UnknownPeer { .. } | E::ReadRefused { .. } | E::TransferRefused { .. });
                assert!(harmless, "{error}");
            }
        }
        self.take_early(at);
        if packet.snapshot.is_some() {
            let sender = place(from);
            self.nodes[sender].raft.report_snapshot(to, !lost);
            self.take_early(sender);
        }
    }

    fn finish_write(&mut self, at: usize) {
        if !self.stalled[at] {
            self.nodes[at].finish_write(&mut self.network);
        }
    }

    fn finish_apply(&mut self, at: usize) {
        let machines = &mut self.machines;
        self.nodes[at].finish_apply(&self.changes, |index, _, _, image| {
            let known = machines.entry(index).or_insert_with(|| image.clone());
            assert_eq!(known, image, "state machines differ at {index}");
        });
    }

    fn propose(&mut self, at: usize) -> bool {
        let payload = self.next_payload;
        self.next_payload += 1;
        let size = u32::try_from(self.dice.below(60)).unwrap().max(1);
        matches!(self.nodes[at].propose(payload, size), Ok(Proposed::Appended(_)))
    }

    fn change_conf(&mut self, at: usize) {
        let count = 1 + self.dice.below(3);
        let mut ops = Vec::new();
        for _ in 0..count {
            let id = PeerId(1 + self.dice.below(self.nodes.len()) as u64);
            ops.push(match self.dice.below(5) {
                0 => ConfChangeOp::Remove(id),
                1 => ConfChangeOp::AddLearner(id),
                _ => ConfChangeOp::AddVoter(id),
            });
        }
        let transition = [Transition::Auto, Transition::JointImplicit, Transition::JointExplicit][self.dice.below(3)];
        let mut change = ConfChange { transition, ops };
        if self.nodes[at].raft.conf_state().voters_outgoing.len() > 1 {
            change = ConfChange::leave_joint();
        }
        let payload = self.next_payload;
        self.next_payload += 1;
        self.changes.insert(payload, change.clone());
        let _ = self.nodes[at].propose_conf_change(&change, payload);
    }

    fn read(&mut self, at: usize) {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        if self.nodes[at].raft.read_index(id).is_ok() {
            self.reads.insert(id, Index(self.committed.len() as u64));
        }
    }

    /// The promises.
    fn check(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let status = node.raft.status();
            assert!(status.commit >= self.commits[at], "commit of {} went back", status.id);
            assert!(status.applied <= status.commit && status.commit <= status.last.index);
            for read in node.reads.drain(..) {
                let least = self.reads[&read.id];
                assert!(read.index >= least, "read at {} though {least} was committed when asked", read.index);
                self.served += 1;
            }
            for index in self.commits[at].0 + 1..=status.commit.0 {
                let Ok(meta) = node.raft.meta(Index(index)) else { continue };
                let entry = (meta, node.payload(Index(index)));
                let place = usize::try_from(index - 1).unwrap();
                match self.committed.get(place) {
                    Some(known) => assert_eq!(*known, entry, "committed entry {index} differs on {}", status.id),
                    None => {
                        assert_eq!(self.committed.len(), place, "commits leave no gap");
                        self.committed.push(entry);
                    }
                }
            }
            self.commits[at] = status.commit;
        }
        for at in 0..self.nodes.len() {
            self.check_leader(at);
        }
    }

    fn check_leader(&mut self, at: usize) {
        let node = &self.nodes[at];
        let status = node.raft.status();
        if status.role != Role::Leader {
            return;
        }
        let first = self.leaders.insert(status.term, status.id);
        assert!(first.is_none_or(|before| before == status.id), "two leaders in term {}", status.term);
        if first.is_none() {
            let base = node.raft.storage().base().index;
            for index in base.0 + 1..=self.committed.len() as u64 {
                let known = self.committed[usize::try_from(index - 1).unwrap()];
                assert_eq!(node.raft.meta(Index(index)), Ok(known.0), "leader {} lacks {index}", status.id);
            }
        }
        for (id, progress) in node.raft.progress_all() {
            assert!(progress.matched < progress.next, "{id}: {progress:?}");
            assert!(progress.next <= status.last.index.next() || progress.state == ProgressState::Snapshot);
            let Some(peer) = self.nodes.get(place(id)) else { continue };
            if peer.raft.term() == status.term && status.id != id {
                let durable = peer.disk.log.last_index().max(self.lost_to[place(id)]);
                assert!(progress.matched <= durable, "{id} has made {durable} durable: {progress:?}");
            }
        }
    }

    /// No faults any more: everything is delivered in order and finished at once.
    fn calm_turn(&mut self) {
        for at in 0..self.nodes.len() {
            self.nodes[at].raft.tick();
        }
        for _ in 0..200 {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                while self.nodes[at].raft.has_ready()
                    || self.nodes[at].has_write() && !self.stalled[at]
                    || self.nodes[at].has_apply()
                {
                    idle = false;
                    self.take_ready(at);
                    self.finish_write(at);
                    self.finish_apply(at);
                    self.take_early(at);
                }
            }
            for packet in std::mem::take(&mut self.network) {
                idle = false;
                if std::env::var_os("RINGRAFT_TRACE").is_some() {
                    println!("{:?}", packet.message);
                }
                self.deliver(&packet, false);
            }
            self.check();
            if idle {
                return;
            }
        }
        panic!("the cluster does not come to rest within a tick:{}", self.states());
    }

    fn states(&self) -> String {
        let one = |node: &Node| {
            let progress: Vec<_> = node.raft.progress_all().collect();
            let status = node.raft.status();
            format!("\n{status:?} {:?}\n{:?}\n{progress:?}", node.raft.conf_state(), node.machine)
        };
        self.nodes.iter().map(one).collect()
    }

    /// The leader's disk hangs, or some other: another one leads soon, and commits.
    fn go_on_without_one(&mut self) {
        self.cut.clear();
        self.stalled.fill(false);
        (0..100).for_each(|_| self.calm_turn());
        let leader = self.nodes.iter().position(|node| node.raft.role() == Role::Leader);
        let hanging = leader.unwrap_or_else(|| self.dice.below(self.nodes.len()));
        self.stalled[hanging] = true;
        let mut payload = 0;
        for _ in 0..200 {
            // What it still appends, it does not hold.
            self.propose(hanging);
            self.calm_turn();
            let leader = self.nodes.iter().position(|node| node.raft.role() == Role::Leader);
            let Some(leader) = leader.filter(|leader| *leader != hanging) else { continue };
            if self.committed.last().is_some_and(|(_, last)| *last == payload) {
                self.stalled[hanging] = false;
                return;
            }
            if self.propose(leader) {
                payload = self.next_payload - 1;
            }
        }
        panic!("no progress while the disk of {} hangs:{}", hanging + 1, self.states());
    }

    fn settle(&mut self) {
        self.cut.clear();
        let mut proposed = None;
        for turn in 0..400 {
            self.calm_turn();
            // Members that were removed may not know it, and go on asking in ever higher terms.
            let leader = self.nodes.iter().position(|node| {
                let current = |(id, _): (PeerId, &Progress)| self.nodes[place(id)].raft.term() <= node.raft.term();
                node.raft.role() == Role::Leader && node.raft.progress_all().all(current)
            });
            let Some(leader) = leader else { continue };
            match proposed {
                None if turn > 100 && self.propose(leader) => proposed = Some(self.next_payload - 1),
                None => {}
                Some(payload) if self.is_settled(leader, payload) => return,
                Some(_) => {}
            }
        }
        panic!("no progress without faults:{}", self.states());
    }

    fn is_settled(&self, leader: usize, payload: Payload) -> bool {
        let raft = &self.nodes[leader].raft;
        let last = raft.last_index();
        self.committed.last().is_some_and(|(_, last)| *last == payload)
            && raft.progress_all().all(|(id, progress)| {
                let other = &self.nodes[place(id)];
                progress.state == ProgressState::Replicate
                    && progress.matched == last
                    && other.machine == self.nodes[leader].machine
                    && other.raft.durable_index() == last
            })
    }
}

/// Where the node with this id is.
fn place(id: PeerId) -> usize {
    usize::try_from(id.0 - 1).unwrap()
}

fn run(seed: u64, count: u64, steps: usize, spice: Spice) -> [usize; 4] {
    let mut cluster = Cluster::new(seed, count, spice);
    for _ in 0..steps {
        cluster.chaos(spice);
    }
    if spice == Spice::Stalls {
        cluster.go_on_without_one();
    }
    cluster.settle();
    [cluster.committed.len(), cluster.leaders.len(), cluster.served, cluster.losses]
}

fn fuzz(seeds: std::ops::Range<u64>, count: u64, spice: Spice) {
    let first = std::env::var("RINGRAFT_SEED").ok().and_then(|text| text.parse().ok());
    let times = std::env::var("RINGRAFT_SEEDS_TIMES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let seeds = first.map_or(seeds.start..seeds.start + times * (seeds.end - seeds.start), |seed| seed..seed + 1);
    let total = seeds.end - seeds.start;
    let mut sums = [0; 4];
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed, count, 4000, spice));
        let Ok(result) = result else {
            panic!("failing seed: RINGRAFT_SEED={seed} ({count} nodes, {spice:?})");
        };
        sums.iter_mut().zip(result).for_each(|(sum, one)| *sum += one);
    }
    let [committed, leaders, reads, losses] = sums;
    println!("{total} seeds: {committed} entries committed, {leaders} leaders, {reads} reads, {losses} losses");
}

#[test]
fn first_election_and_commit() {
    let mut cluster = Cluster::new(1, 3, Spice::Nothing);
    cluster.nodes[0].raft.campaign();
    cluster.calm_turn();
    assert_eq!(cluster.nodes[0].raft.role(), Role::Leader);
    assert!(cluster.propose(0));
    cluster.calm_turn();
    cluster.calm_turn();
    for node in &cluster.nodes {
        assert_eq!(node.raft.commit(), Index(2));
        assert_eq!(node.machine.at.index, Index(2));
        assert_eq!(node.raft.meta(Index(1)).unwrap().kind, EntryKind::Normal);
    }
}

#[test]
fn one_node_alone() {
    fuzz(0..20, 1, Spice::Nothing);
}

#[test]
fn three_nodes() {
    fuzz(100..300, 3, Spice::Nothing);
}

#[test]
fn five_nodes() {
    fuzz(1000..1150, 5, Spice::Nothing);
}

#[test]
fn five_nodes_changing_membership() {
    fuzz(2000..2150, 5, Spice::ConfChanges);
}

#[test]
fn three_nodes_losing_tails() {
    fuzz(3000..3200, 3, Spice::Losses);
}

#[test]
fn five_nodes_losing_tails() {
    fuzz(4000..4150, 5, Spice::Losses);
}

#[test]
fn three_nodes_with_hanging_disks() {
    fuzz(7000..7150, 3, Spice::Stalls);
}

#[test]
fn five_nodes_with_hanging_disks() {
    fuzz(8000..8100, 5, Spice::Stalls);
}

#[test]
fn five_nodes_of_differing_priority() {
    fuzz(6000..6100, 5, Spice::Priorities);
}

#[test]
fn who_has_the_highest_priority_leads() {
    let mut firsts = 0;
    for seed in 0..100 {
        let mut cluster = Cluster::new(seed, 4, Spice::Priorities);
        let lead = |cluster: &mut Cluster| {
            (0..60).for_each(|_| cluster.calm_turn());
            cluster.nodes.iter().position(|node| node.raft.role() == Role::Leader)
        };
        // Member 4 has priority 4, 1 has 1.
        firsts += usize::from(lead(&mut cluster) == Some(3));
        // It falls silent, and comes back without what the others have agreed on in between.
        let silent: Vec<_> = (1..4).map(|id| (PeerId(4), PeerId(id))).collect();
        cluster.cut.clone_from(&silent);
        let next = lead(&mut cluster).filter(|at| *at != 3);
        firsts += usize::from(next == Some(2));
        if let Some(next) = next {
            cluster.propose(next);
        }
        cluster.settle();
    }
    println!("{firsts} of 200 elections won by the first");
    assert!(firsts >= 190, "{firsts} of 200 elections won by the first");
}

#[test]
fn five_nodes_with_the_rules_of_etcd() {
    fuzz(5000..5150, 5, Spice::Etcd);
}
