//! A small cluster over a network that loses, repeats, reorders and delays, and disks that finish when they like, crash,
//! hang and forget.

use std::collections::{HashMap, VecDeque};

use ringraft_raft::{
    Body, Compat, ConfChange, ConfChangeOp, ConfState, Config, EntryId, Index, PRIORITY_MAX, PeerId, Proposed,
    ReadPolicy, Role, StepError, Storage, Term, Transition,
};

use super::place;
use super::promises::Promises;
use super::support::Dice;
use super::support::node::{Disk, Node, Packet, Payload, voters};
use super::weather::{Event, Theme, Weather};

/// What happens beside faults of the network, and crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spice {
    Nothing,
    /// Members come and go.
    ConfChanges,
    /// Disks lose their tail, or all.
    Losses,
    /// One and four never campaign by themselves and wait longest, and so on.
    Priorities,
    /// Disks hang, for long.
    Stalls,
    /// Reads trust leases, and clocks go alike everywhere.
    Leases,
    /// Some voters keep no payloads; members come and go, too.
    Witnesses,
    /// Everybody plays by etcd's rules.
    Etcd,
}

/// What came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) steps: usize,
    pub(crate) commits: usize,
    pub(crate) elections: usize,
    pub(crate) conf_changes: usize,
    pub(crate) reads: usize,
    pub(crate) restarts: usize,
    pub(crate) snapshots: usize,
    pub(crate) transfers: usize,
    pub(crate) losses: usize,
    /// Tails that a leader replaced.
    pub(crate) replaced: usize,
    pub(crate) delivered: usize,
    pub(crate) lost: usize,
    pub(crate) repeated: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        let Counts { steps, commits, elections, conf_changes, reads, restarts, snapshots, transfers, .. } = *other;
        self.steps += steps;
        self.commits += commits;
        self.elections += elections;
        self.conf_changes += conf_changes;
        self.reads += reads;
        self.restarts += restarts;
        self.snapshots += snapshots;
        self.transfers += transfers;
        self.losses += other.losses;
        self.replaced += other.replaced;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
    }
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) spice: Spice,
    pub(crate) nodes: Vec<Node>,
    pub(crate) promises: Promises,
    pub(crate) counts: Counts,
    pub(crate) network: VecDeque<Packet>,
    /// Whose disk hangs.
    pub(crate) stalled: Vec<bool>,
    /// Who was removed and is switched off.
    pub(crate) retired: Vec<bool>,
    weather: Weather,
    /// Who does not hear whom.
    cut: Vec<(PeerId, PeerId)>,
    first_conf: ConfState,
    changes: HashMap<Payload, ConfChange>,
    last_payload: Payload,
    /// Ticks since each member heard its leader.
    unheard: Vec<u32>,
    /// What leaves in this step.
    out: Vec<Packet>,
    trace: bool,
}

impl World {
    /// Members 1 to `count`, which vote; with changes of membership only some of them do, and others may be added. The
    /// last of them may be witnesses.
    pub(crate) fn new(seed: u64, count: u64, spice: Spice) -> World {
        let mut dice = Dice(seed);
        let witnesses = match spice {
            Spice::Witnesses if count == 3 => 1 + dice.roll() % 2,
            Spice::Witnesses => 1 + dice.roll() % (count / 2),
            _ => 0,
        };
        let witness_from = count + 1 - witnesses;
        let conf = match spice {
            Spice::ConfChanges => {
                let votes = 1 + dice.roll() % count;
                let learners = votes + dice.roll() % (count + 1 - votes);
                let learners = (votes + 1..=learners).map(PeerId).collect();
                ConfState { learners, ..voters(votes) }
            }
            Spice::Witnesses => {
                let is_full = |id: &PeerId| id.0 < witness_from;
                let (voters, rest): (Vec<_>, Vec<_>) =
                    (1..=count).map(PeerId).partition(|id| id.0 == 1 || !dice.one_in(6));
                let learners: Vec<_> = rest.into_iter().filter(|id| is_full(id) && dice.one_in(2)).collect();
                let witnesses = voters.iter().copied().filter(|id| !is_full(id)).collect();
                ConfState { voters, learners, witnesses, ..ConfState::default() }
            }
            _ => voters(count),
        };
        let weather = Weather::draw(&mut dice, spice, usize::try_from(count).unwrap());
        let (pre_vote, check_quorum) = (!dice.one_in(3), !dice.one_in(3) || spice == Spice::Leases);
        let election_ticks = [3, 5, 10][dice.below(3)];
        let compat = match spice {
            Spice::Etcd => Compat::Etcd { async_storage_writes: true },
            _ => Compat::Off,
        };
        let nodes: Vec<Node> = (1..=count)
            .map(|id| {
                let config = Config {
                    seed: dice.roll(),
                    election_ticks,
                    // A witness that hears of something late hears of it with the next heartbeat.
                    heartbeat_ticks: if spice == Spice::Witnesses && election_ticks > 3 { 2 } else { 1 },
                    priority: if spice == Spice::Priorities { u8::try_from(id % 5).unwrap() } else { PRIORITY_MAX },
                    message_size_max: [0, 100, 1000][dice.below(3)],
                    inflight_count_max: 1 + dice.below(5),
                    inflight_size_max: 1000,
                    apply_size_max: [50, 200, 10_000][dice.below(3)],
                    uncommitted_size_max: [50, 300, 3000][dice.below(3)],
                    pre_vote,
                    check_quorum,
                    read_policy: if spice == Spice::Leases { ReadPolicy::Lease } else { ReadPolicy::Quorum },
                    step_down_on_removal: !dice.one_in(3),
                    witness: id >= witness_from,
                    compat,
                    ..Config::new(PeerId(id))
                };
                let early = dice.one_in(2);
                Node::new(config, Disk::new(conf.clone()), early)
            })
            .collect();
        World {
            promises: Promises::new(&nodes, &conf),
            counts: Counts::default(),
            network: VecDeque::new(),
            stalled: vec![false; nodes.len()],
            retired: vec![false; nodes.len()],
            unheard: vec![u32::MAX; nodes.len()],
            nodes,
            dice,
            spice,
            weather,
            cut: Vec::new(),
            first_conf: conf,
            changes: HashMap::new(),
            last_payload: 0,
            out: Vec::new(),
            trace: std::env::var_os("RINGRAFT_TRACE").is_some(),
        }
    }

    /// One thing happens somewhere.
    pub(crate) fn chaos(&mut self) {
        let at = self.dice.below(self.nodes.len());
        let event = self.weather.next(&mut self.dice);
        let done = match event {
            Event::Deliver => self.deliver_any(),
            Event::Ready => {
                let next = self.next_from(at, |world, at| world.nodes[at].raft.has_ready());
                next.map(|at| self.take_ready(at)).is_some()
            }
            Event::Write => {
                let slow = self.weather.theme == Theme::SlowDisk && !self.dice.one_in(20);
                let writes = |world: &World, at: usize| world.nodes[at].has_write() && !world.stalled[at];
                let next = self.next_from(at, |world, at| writes(world, at) && !(slow && at == 0));
                next.map(|at| self.finish_write(at)).is_some()
            }
            Event::Apply => {
                let next = self.next_from(at, |world, at| world.nodes[at].has_apply());
                next.map(|at| self.finish_apply(at)).is_some()
            }
            _ => {
                self.rarer(event, at);
                true
            }
        };
        // Where nothing is to be done but to wait, time goes by.
        if !done && self.network.is_empty() && self.next_from(at, World::is_busy).is_none() {
            self.time_passes(at);
        }
    }

    /// Whether there is anything that this member could do by itself.
    pub(crate) fn is_busy(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.raft.has_ready() || node.has_apply() || node.has_write() && !self.stalled[at]
    }

    /// What is not the daily work of a cluster.
    fn rarer(&mut self, event: Event, at: usize) {
        match event {
            Event::Tick => self.time_passes(at),
            Event::Propose => {
                let at = self.some_leader(at);
                self.propose(at);
            }
            Event::Read => {
                let at = if self.dice.one_in(2) { self.some_leader(at) } else { at };
                self.read(at);
            }
            Event::Campaign => self.act(at, |node, _| node.raft.campaign()),
            Event::Transfer => {
                let target = self.anybody();
                let at = self.some_leader(at);
                self.transfer(at, target);
            }
            Event::Restart => self.restart(at),
            Event::Blackout => (0..self.nodes.len()).for_each(|at| self.restart(at)),
            Event::CutOff => {
                let at = if self.dice.one_in(2) { self.some_leader(at) } else { at };
                self.cut_off(at);
            }
            Event::Heal => self.cut.clear(),
            Event::Compact => {
                let keep = if self.weather.theme == Theme::Snapshots { 0 } else { self.dice.roll() % 8 };
                self.act(at, |node, _| node.compact_but(keep));
            }
            Event::Unreachable => {
                let peer = self.anybody();
                self.act(at, |node, _| node.raft.report_unreachable(peer));
            }
            Event::ChangeConf => {
                let at = self.some_leader(at);
                self.change_conf(at);
            }
            Event::ForgetLeader => self.act(at, |node, _| _ = node.raft.forget_leader()),
            Event::Lose => self.lose(at),
            Event::Stall => self.stalled[at] = !self.stalled[at],
            Event::Tune => {
                let peer = self.anybody();
                let (count, size) = (self.dice.below(6), self.dice.roll() % 1001);
                self.act(at, |node, _| match count {
                    0 => node.raft.shrink(),
                    // None, or not more than everybody may have: the promises know no other limits.
                    _ => node.raft.set_peer_window(peer, (count - 1).min(node.raft.config().inflight_count_max), size),
                });
            }
            Event::Deliver | Event::Ready | Event::Write | Event::Apply => unreachable!("daily work"),
        }
    }

    fn anybody(&mut self) -> PeerId {
        PeerId(1 + self.dice.below(self.nodes.len()) as u64)
    }

    /// The first member from `at` on for whom something holds.
    fn next_from(&self, at: usize, holds: impl Fn(&World, usize) -> bool) -> Option<usize> {
        let count = self.nodes.len();
        (at..at + count).map(|at| at % count).find(|at| holds(self, *at))
    }

    /// Mostly one that believes to lead, if there is one.
    fn some_leader(&mut self, at: usize) -> usize {
        let leads = self.next_from(at, |world, at| world.nodes[at].raft.role() == Role::Leader);
        if self.dice.one_in(10) { at } else { leads.unwrap_or(at) }
    }

    /// Something is done at a member; then it is looked at, and what leaves it.
    pub(crate) fn act(&mut self, at: usize, act: impl FnOnce(&mut Node, &mut Vec<Packet>)) {
        self.counts.steps += 1;
        let mut out = std::mem::take(&mut self.out);
        let node = &mut self.nodes[at];
        act(node, &mut out);
        // With etcd's rules messages are queued as they are asked for, and are taken before anything else happens.
        if node.raft.config().compat != Compat::Off {
            node.take_messages(&mut out);
        }
        self.promises.look(&mut self.nodes, at);
        for packet in out.drain(..) {
            if self.trace {
                println!("leaves {:?}", packet.message);
            }
            self.promises.leaves(&self.nodes, at, &packet);
            self.network.push_back(packet);
        }
        self.out = out;
    }

    fn time_passes(&mut self, at: usize) {
        if self.weather.together {
            (0..self.nodes.len()).for_each(|at| self.tick(at, 1));
        } else {
            let ticks = if self.dice.one_in(8) { self.dice.below(4) } else { 1 };
            self.tick(at, u32::try_from(ticks).unwrap());
        }
    }

    pub(crate) fn tick(&mut self, at: usize, ticks: u32) {
        self.unheard[at] = self.unheard[at].saturating_add(ticks);
        self.act(at, |node, _| if ticks == 1 { node.raft.tick() } else { node.raft.advance(ticks) });
    }

    pub(crate) fn take_ready(&mut self, at: usize) {
        self.act(at, Node::take_ready);
    }

    pub(crate) fn finish_write(&mut self, at: usize) {
        if !self.stalled[at] {
            self.act(at, Node::finish_write);
        }
    }

    /// A lot of committed entries is applied, with a look after each.
    pub(crate) fn finish_apply(&mut self, at: usize) {
        let mut last = !self.nodes[at].has_apply();
        while !last {
            let World { nodes, promises, changes, .. } = self;
            let node = &mut nodes[at];
            let (index, meta, payload, is_last) = node.apply_one(changes).expect("a lot");
            let leave = ConfChange::leave_joint();
            promises.applied(nodes, at, (index, meta, payload), changes.get(&payload).unwrap_or(&leave));
            last = is_last;
            self.act(at, |node, _| {
                if last {
                    node.report_applied()
                }
            });
        }
    }

    // The network.

    /// Whether there was anything to deliver.
    fn deliver_any(&mut self) -> bool {
        let Weather { lost, entries_lost, repeated, late, window, .. } = self.weather;
        let full = self.network.len() > 500;
        let which = self.dice.below(self.network.len().clamp(1, window));
        let roll = self.dice.below(1000);
        let Some(mut packet) = self.network.swap_remove_front(which) else { return false };
        if roll < late && !full {
            self.network.push_back(packet);
            return true;
        }
        if self.dice.below(1000) < repeated && !full {
            self.counts.repeated += 1;
            let mut again = if self.dice.one_in(2) { packet.clone() } else { self.part_of(&packet) };
            if self.dice.one_in(2) {
                std::mem::swap(&mut again, &mut packet);
            }
            self.network.push_back(again);
        }
        let spared = packet.entries.is_empty() || place(packet.message.to) == 0;
        let lost = if spared { lost } else { lost + entries_lost };
        let lost = full || self.dice.below(1000) < lost;
        self.deliver(&packet, lost);
        true
    }

    /// Some of the entries of an append: what its leader might have sent as well.
    fn part_of(&mut self, packet: &Packet) -> Packet {
        let mut part = packet.clone();
        if let Body::Append { prev, last, .. } = &mut part.message.body {
            let skip = self.dice.below(part.entries.len() + 1);
            let take = self.dice.below(part.entries.len() - skip + 1);
            let before = prev.index.0 + skip as u64;
            if skip > 0 {
                *prev = EntryId { term: part.entries[skip - 1].0.term, index: Index(before) };
            }
            *last = Index(before + take as u64);
            part.entries = part.entries[skip..skip + take].to_vec();
        }
        part
    }

    pub(crate) fn deliver(&mut self, packet: &Packet, lost: bool) {
        let message = packet.message;
        let lost = lost || self.cut.contains(&(message.from, message.to));
        let at = place(message.to);
        if lost {
            self.counts.lost += 1;
        } else {
            self.counts.delivered += 1;
            if self.trace {
                println!("arrives {message:?}");
            }
            self.hear(at, packet);
        }
        if packet.snapshot.is_some() {
            self.act(place(message.from), |node, _| node.raft.report_snapshot(message.to, !lost));
        }
    }

    /// A member takes a message. What its vote depends on is noted from outside, before.
    pub(crate) fn hear(&mut self, at: usize, packet: &Packet) {
        let message = packet.message;
        let before = self.nodes[at].raft.status();
        let config = self.nodes[at].raft.config();
        let leased = config.check_quorum && before.lead != PeerId::ZERO && self.unheard[at] < config.election_ticks;
        let leased = leased && message.term > before.term;
        if let Body::Vote { last, .. } | Body::PreVote { last } = message.body {
            let handed_over = matches!(message.body, Body::Vote { transfer: true, .. });
            if last >= before.last && (handed_over || !leased) {
                self.promises.may_vote(&message);
            }
            let voters = self.nodes[at].raft.conf_state();
            if last < before.last && voters.voters.contains(&message.from) {
                self.promises.stands_in(at);
            }
        }
        let mut result = Ok(());
        self.act(at, |node, _| result = node.step(packet));
        self.counts.replaced += std::mem::take(&mut self.nodes[at].replaced);
        if let Err(error) = result {
            use StepError as E;
            let harmless = matches!(error, E::UnknownPeer { .. } | E::ReadRefused { .. } | E::TransferRefused { .. });
            assert!(harmless, "{error}");
        }
        let after = self.nodes[at].raft.status();
        match message.body {
            Body::PreVote { .. } | Body::PreVoteReply { granted: true } => {
                let same = after.term == before.term || after.role == Role::Candidate;
                assert!(same, "{message:?} has moved the term to {}", after.term);
            }
            Body::Vote { transfer: false, .. } if leased => {
                assert_eq!((after.term, after.vote), (before.term, before.vote), "{message:?} within a lease");
            }
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. }
                if (after.lead, after.term) == (message.from, message.term) =>
            {
                self.unheard[at] = 0;
            }
            Body::TimeoutNow if after.term > before.term => self.counts.transfers += 1,
            _ => {}
        }
        if matches!(message.body, Body::Snapshot { .. }) && after.commit > before.commit {
            self.counts.snapshots += 1;
        }
    }

    /// One member and some of the others, or one half and the other half, do not hear each other, or only one way.
    fn cut_off(&mut self, at: usize) {
        let alone = self.dice.one_in(2);
        let sides = self.dice.roll();
        let one_way = self.dice.one_in(4);
        let side = |id: u64| if alone { id == at as u64 + 1 } else { sides & 1 << id != 0 };
        let count = self.nodes.len() as u64;
        for (from, to) in (1..=count).flat_map(|from| (1..=count).map(move |to| (from, to))) {
            let some = !alone || sides & 1 << from.max(to) != 0 || sides & 1 << 9 != 0;
            if some && (side(from) && !side(to) || side(to) && !side(from) && !one_way) {
                self.cut.push((PeerId(from), PeerId(to)));
            }
        }
    }

    // The disks.

    pub(crate) fn restart(&mut self, at: usize) {
        // By etcd's rules a candidate asks before its term is durable. One that crashes then, or later as a leader or in
        // a newer term, may ask in the same term again with a shorter log, and be elected by answers to its first
        // question: what it has to write is on its disk when this one crashes.
        let asks = self.promises.asked(at) > self.nodes[at].disk.log.hard.term;
        if asks && self.nodes[at].raft.has_ready() {
            self.take_ready(at);
        }
        let writes = self.nodes[at].write_count();
        let kept = if asks { writes } else { self.dice.below(writes + 1) };
        self.nodes[at].restart_after(kept);
        self.restarted(at);
    }

    fn restarted(&mut self, at: usize) {
        self.counts.restarts += 1;
        self.unheard[at] = u32::MAX;
        self.promises.restarted(&self.nodes[at]);
        self.act(at, |_, _| {});
    }

    /// A disk loses durable entries. No more than raft can bear: everything that the node has ever vouched for is
    /// committed, and durable on a majority of the others.
    fn lose(&mut self, at: usize) {
        let last = self.nodes[at].disk.log.last_index();
        let holds = |node: &Node, index: Index| {
            let log = &node.disk.log;
            index <= log.base.index || log.meta(index).is_ok_and(|meta| self.promises.has_committed(index, meta))
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
        self.nodes[at].lose(keep, &self.first_conf);
        self.promises.loses(at, last);
        self.counts.losses += 1;
        self.restarted(at);
    }

    // What clients ask for.

    pub(crate) fn propose(&mut self, at: usize) -> Option<Payload> {
        self.last_payload += 1;
        let payload = self.last_payload;
        let size = u32::try_from(self.dice.below(60)).unwrap().max(1);
        let mut appended = false;
        self.act(at, |node, _| appended = matches!(node.propose(payload, size), Ok(Proposed::Appended(_))));
        appended.then_some(payload)
    }

    pub(crate) fn read(&mut self, at: usize) -> bool {
        let id = self.promises.read();
        let mut taken = false;
        self.act(at, |node, _| taken = node.raft.read_index(id).is_ok());
        taken
    }

    pub(crate) fn transfer(&mut self, at: usize, target: PeerId) {
        self.act(at, |node, _| _ = node.raft.transfer_leader(target));
    }

    fn change_conf(&mut self, at: usize) {
        let count = if self.dice.one_in(2) { 1 } else { 1 + self.dice.below(3) };
        let op = |world: &mut World| {
            let id = if world.dice.one_in(4) { PeerId(at as u64 + 1) } else { world.anybody() };
            // Sometimes a member is asked to become what its log is not.
            let mistaken = world.spice == Spice::Witnesses && world.is_member_of(at, id) && world.dice.one_in(20);
            let witness = world.nodes[place(id)].raft.config().witness != mistaken;
            match world.dice.below(5) {
                0 => ConfChangeOp::Remove(id),
                _ if witness => ConfChangeOp::AddWitness(id),
                1 => ConfChangeOp::AddLearner(id),
                _ => ConfChangeOp::AddVoter(id),
            }
        };
        let ops = (0..count).map(|_| op(self)).collect();
        let transition = [Transition::Auto, Transition::JointImplicit, Transition::JointExplicit][self.dice.below(3)];
        let joint = !self.nodes[at].raft.conf_state().voters_outgoing.is_empty();
        let leave = joint && !self.dice.one_in(4);
        let change = if leave { ConfChange::leave_joint() } else { ConfChange { transition, ops } };
        self.propose_change(at, change);
    }

    pub(crate) fn propose_change(&mut self, at: usize, change: ConfChange) -> bool {
        self.last_payload += 1;
        let payload = self.last_payload;
        let mut appended = false;
        self.act(at, |node, _| {
            appended = matches!(node.propose_conf_change(&change, payload), Ok(Proposed::Appended(_)));
        });
        self.changes.insert(payload, change);
        appended
    }

    // Questions.

    /// Whether a member takes another one for a member.
    fn is_member_of(&self, at: usize, id: PeerId) -> bool {
        self.nodes[at].raft.conf_state().lists().into_iter().any(|list| list.contains(&id))
    }

    /// The network is whole, no disk hangs, and windows are open.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.stalled.fill(false);
        let members = self.nodes.len();
        for (at, id) in (0..members).flat_map(|at| (1..=members as u64).map(move |id| (at, PeerId(id)))) {
            let Config { inflight_count_max, inflight_size_max, .. } = *self.nodes[at].raft.config();
            if self.spice == Spice::Nothing {
                self.act(at, |node, _| node.raft.set_peer_window(id, inflight_count_max, inflight_size_max));
            }
        }
    }

    /// Nobody hears this member, nor it anybody.
    pub(crate) fn isolate(&mut self, at: usize) {
        let id = PeerId(at as u64 + 1);
        (1..=self.nodes.len() as u64)
            .filter(|other| *other != id.0)
            .for_each(|other| self.cut_between(id, PeerId(other)));
    }

    pub(crate) fn cut_between(&mut self, one: PeerId, other: PeerId) {
        self.cut.extend([(one, other), (other, one)]);
    }

    /// Who leads in the highest term, and since which.
    pub(crate) fn leader(&self) -> Option<(usize, Term)> {
        let leads = |(at, node): (usize, &Node)| (node.raft.role() == Role::Leader).then(|| (node.raft.term(), at));
        self.nodes.iter().enumerate().filter_map(leads).max().map(|(term, at)| (at, term))
    }

    /// Where everybody stands.
    pub(crate) fn states(&self) -> String {
        let one = |node: &Node| {
            let progress: Vec<_> = node.raft.progress_all().collect();
            let status = node.raft.status();
            format!("\n{status:?} {:?}\n{:?}\n{progress:?}", node.raft.conf_state(), node.machine)
        };
        self.nodes.iter().map(one).collect()
    }

    /// What came about so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            commits: usize::try_from(self.promises.committed().0).unwrap(),
            elections: self.promises.elections,
            conf_changes: self.promises.conf_changes(),
            reads: self.promises.served,
            ..self.counts
        }
    }
}
