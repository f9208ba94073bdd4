//! What must come about once the faults are over: the cluster comes to rest and serves, and nothing disturbs it then.

use std::collections::VecDeque;

use ringraft_raft::{Body, ConfState, PeerId, Progress, ProgressState, Role, Term};

use super::place;
use super::promises::is_quorum;
use super::support::node::{Packet, Payload};
use super::world::World;

/// Turns within which a cluster without faults must get somewhere: dozens of election timeouts.
const TURNS_MAX: usize = 400;

impl World {
    /// A tick without faults: everything is delivered in order and finished at once.
    pub(crate) fn calm_turn(&mut self) {
        self.calm_turn_but(|_| true);
    }

    /// As [`World::calm_turn`], without the delivery of what `arrives` says no to.
    fn calm_turn_but(&mut self, arrives: impl Fn(&Packet) -> bool) {
        for at in 0..self.nodes.len() {
            if !self.retired[at] {
                self.tick(at, 1);
            }
        }
        self.rest(arrives);
    }

    /// All that can be done at once is done, but for the delivery of what `arrives` says no to.
    fn rest(&mut self, arrives: impl Fn(&Packet) -> bool) {
        let mut held = VecDeque::new();
        for _ in 0..2000 {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                for turn in 0.. {
                    if !self.is_busy(at) {
                        break;
                    }
                    assert!(turn < 2000, "{} does not come to rest within a tick:{}", at + 1, self.states());
                    idle = false;
                    if self.nodes[at].raft.has_ready() {
                        self.take_ready(at);
                    }
                    if self.nodes[at].has_write() {
                        self.finish_write(at);
                    }
                    self.finish_apply(at);
                }
            }
            for packet in std::mem::take(&mut self.network) {
                if arrives(&packet) {
                    idle = false;
                    self.deliver(&packet, false);
                } else {
                    held.push_back(packet);
                }
            }
            if idle {
                self.network = held;
                return;
            }
        }
        panic!("the cluster does not come to rest within a tick:{}", self.states());
    }

    /// The leader's disk hangs, or some other: if the others can do without it, another one leads soon, and commits.
    pub(crate) fn go_on_without_one(&mut self) {
        self.heal();
        (0..100).for_each(|_| self.calm_turn());
        let hanging = self.leader().map_or_else(|| self.dice.below(self.nodes.len()), |(at, _)| at);
        // A leader that is configured to stay without a vote appends nothing that would wait for its disk.
        let (conf, id) = (self.nodes[hanging].raft.conf_state(), PeerId(hanging as u64 + 1));
        if !conf.voters.contains(&id) || !can_spare(conf, id) {
            return;
        }
        self.stalled[hanging] = true;
        let mut proposed = None;
        for _ in 0..TURNS_MAX / 2 {
            // What it still appends, it does not hold.
            self.propose(hanging);
            self.calm_turn();
            let Some((leader, _)) = self.leader().filter(|(leader, _)| *leader != hanging) else { continue };
            if proposed.is_some_and(|payload| self.promises.ends_with(payload)) {
                self.stalled[hanging] = false;
                return;
            }
            proposed = self.propose(leader).or(proposed);
        }
        panic!("no progress while the disk of {} hangs:{}", hanging + 1, self.states());
    }

    /// The cluster comes to rest with one leader, and serves.
    pub(crate) fn settle(&mut self) {
        self.heal();
        let mut proposed = None;
        for turn in 0..TURNS_MAX {
            self.calm_turn();
            // Members that were removed may not know it, and go on asking in ever higher terms.
            let leader = self.nodes.iter().position(|node| {
                let current = |(id, _): (PeerId, &Progress)| self.nodes[place(id)].raft.term() <= node.raft.term();
                node.raft.role() == Role::Leader && node.raft.progress_all().all(current)
            });
            let Some(leader) = leader else { continue };
            self.relieve(leader);
            self.retire(leader);
            match proposed {
                None if turn > 100 => proposed = self.propose(leader),
                None => {}
                Some(payload) if self.is_settled(leader, payload) => return self.stay(leader),
                Some(_) => {}
            }
        }
        panic!("no progress without faults:{}", self.states());
    }

    /// A leader without a vote that is configured to stay is told to go, to any voter.
    fn relieve(&mut self, leader: usize) {
        let raft = &self.nodes[leader].raft;
        let voters = &raft.conf_state().voters;
        if !raft.config().step_down_on_removal && !voters.contains(&raft.id()) {
            let target = *voters.iter().find(|id| !raft.conf_state().is_witness(**id)).expect("a full voter");
            self.transfer(leader, target);
        }
    }

    /// Without leases, those who were removed and do not know it can disturb the others for ever (thesis 4.2.3): they are
    /// switched off once all is known that was agreed on.
    fn retire(&mut self, leader: usize) {
        let raft = &self.nodes[leader].raft;
        if !raft.config().check_quorum && raft.applied_index() == raft.last_index() {
            let conf = raft.conf_state();
            (0..self.nodes.len()).for_each(|at| self.retired[at] |= !is_member(conf, PeerId(at as u64 + 1)));
        }
    }

    fn is_settled(&self, leader: usize, payload: Payload) -> bool {
        let raft = &self.nodes[leader].raft;
        let last = raft.last_index();
        self.promises.ends_with(payload)
            && !raft.conf_state().auto_leave
            && raft.progress_all().all(|(id, progress)| {
                let other = &self.nodes[place(id)];
                progress.state == ProgressState::Replicate
                    && progress.matched == last
                    && progress.inflights.count() == 0
                    && (other.machine == self.nodes[leader].machine || other.raft.config().witness)
                    && other.raft.durable_index() == last
            })
    }

    /// Nothing disturbs a leader without need. Within a tick what it proposes is applied everywhere, and reads are served,
    /// its own and those of others. It hands over when told.
    fn stay(&mut self, leader: usize) {
        let conf = self.nodes[leader].raft.conf_state().clone();
        let term = self.nodes[leader].raft.term();
        let outside = |at: usize| !is_member(&conf, PeerId(at as u64 + 1));
        if !conf.voters.contains(&PeerId(leader as u64 + 1)) {
            return;
        }
        for turn in 0..50 {
            let served = self.promises.served;
            let full = |at: &usize| !outside(*at) && !conf.is_witness(PeerId(*at as u64 + 1));
            // In some turns neither reads nor time have heartbeats sent, which would say what else was forgotten.
            let readers: Vec<_> = (0..self.nodes.len()).filter(|at| full(at) && turn % 3 != 0).collect();
            let asked = readers.iter().filter(|at| self.read(**at)).count();
            (0..3).for_each(|_| _ = self.propose(leader));
            self.calm_turn();
            let last = self.nodes[leader].raft.last_index();
            let all = (0..self.nodes.len()).all(|at| outside(at) || self.nodes[at].machine.at.index == last);
            assert!(all, "entries that are not applied in turn {turn}:{}", self.states());
            assert_eq!(asked, readers.len(), "somebody knows no leader:{}", self.states());
            let served = self.promises.served - served;
            assert_eq!(served, asked, "reads that are not answered in turn {turn}:{}", self.states());
            let leads = (self.nodes[leader].raft.role(), self.nodes[leader].raft.term());
            assert_eq!(leads, (Role::Leader, term), "turn {turn} after all was settled:{}", self.states());
        }
        // A hand-over opens the lease for everybody.
        if (0..self.nodes.len()).any(|at| outside(at) && !self.retired[at]) {
            return;
        }
        let full: Vec<_> = conf.voters.iter().copied().filter(|id| !conf.is_witness(*id)).collect();
        let target = full[self.dice.below(full.len())];
        self.transfer(leader, target);
        self.calm_turn();
        let lead = &self.nodes[place(target)].raft;
        let expected = if place(target) == leader { term } else { Term(term.0 + 1) };
        assert_eq!((lead.role(), lead.term()), (Role::Leader, expected), "{target} takes over:{}", self.states());
        if can_spare(&conf, target) {
            self.go_on_without_leader(place(target));
        }
    }

    /// A leader is cut off. The others elect another one and go on; what it was told by them before arrives late, it
    /// answers no read from its past, and it steps down in the end, if it minds the quorum.
    fn go_on_without_leader(&mut self, old: usize) {
        let config = self.nodes[old].raft.config().clone();
        let told = |packet: &Packet| packet.message.body == Body::TimeoutNow;
        let how = self.dice.below(3);
        // A hand-over was given up before the target heard of it.
        if how == 0 {
            let conf = self.nodes[old].raft.conf_state();
            let may = |id: &&PeerId| place(**id) != old && !conf.is_witness(**id);
            let target = *conf.voters.iter().find(may).expect("another full voter");
            self.transfer(old, target);
        }
        (0..=config.election_ticks).for_each(|_| self.calm_turn_but(|packet| !told(packet)));
        let questions = std::mem::take(&mut self.network);
        // One more round of heartbeats, whose answers are on their way for long.
        self.tick(old, config.heartbeat_ticks);
        self.rest(|packet| place(packet.message.to) != old);
        let mut late = std::mem::take(&mut self.network);
        self.isolate(old);
        questions.iter().for_each(|packet| self.hear(place(packet.message.to), packet));
        // Everybody else crashes, and somebody is told to stand at once.
        if how == 1 {
            let others: Vec<_> = (0..self.nodes.len()).filter(|at| *at != old && !self.retired[*at]).collect();
            others.iter().for_each(|at| self.restart(*at));
            let stands = others[self.dice.below(others.len())];
            self.act(stands, |node, _| node.raft.campaign());
        }
        let mut proposed = None;
        for turn in 0..TURNS_MAX {
            self.calm_turn();
            self.read(old);
            self.rest(|_| true);
            if let Some((leader, _)) = self.leader().filter(|(leader, _)| *leader != old) {
                if let Some(packet) = late.pop_front() {
                    self.hear(old, &packet);
                    self.rest(|_| true);
                }
                let done = proposed.is_some_and(|payload| self.promises.ends_with(payload));
                if done && late.is_empty() && turn > 4 * config.election_ticks as usize {
                    let leads = self.nodes[old].raft.role() == Role::Leader;
                    assert!(!leads || !config.check_quorum, "{} leads nobody:{}", old + 1, self.states());
                    return;
                }
                proposed = proposed.or_else(|| self.propose(leader));
            }
        }
        panic!("no progress without {}:{}", old + 1, self.states());
    }
}

/// Whether the others are a quorum, and somebody with payloads in each half.
fn can_spare(conf: &ConfState, id: PeerId) -> bool {
    let full = |half: &[PeerId]| half.is_empty() || half.iter().any(|other| *other != id && !conf.is_witness(*other));
    is_quorum(conf, |other| other != id) && full(&conf.voters) && full(&conf.voters_outgoing)
}

fn is_member(conf: &ConfState, id: PeerId) -> bool {
    [&conf.voters, &conf.voters_outgoing, &conf.learners].into_iter().any(|list| list.contains(&id))
}
