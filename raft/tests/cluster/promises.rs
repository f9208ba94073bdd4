//! What raft promises, and how it is seen to be kept. Looked at after every step, at the member that took it; what
//! leaves a member is looked at when it leaves.
//!
//! | promise | where |
//! |---|---|
//! | election safety: one leader per term, elected by a quorum of the votes that have left their voters, in both halves of a joint membership, learners not counted | [`Promises::check_leader`] |
//! | one vote per member and term, over restarts too; only for a log that is up to date; none within the lease of a leader, unless that leader asks for it; the same for pre-votes, which move nobody's term | [`Promises::leaves`], [`Promises::may_vote`], `World::deliver` |
//! | log matching: an entry exists once, and so does its predecessor | [`Promises::check_log`] |
//! | what the core takes for its log is what its shell staged, whatever became durable in between | [`Promises::check_log`] |
//! | a leader only appends | [`Promises::check_leader`] |
//! | leader completeness: a leader has all that was committed in terms before its own | [`Promises::check_leader`] |
//! | commit: by an entry of the leader's term, which is on the disks of a quorum, in both halves, learners not counted | [`Promises::check_commit`] |
//! | witnesses: every commit has its payload on the disk of a full voter of each half, and keeps it with the votes; they never stand for election, take over or answer reads, are sent only what a full voter of each half has durably, and nobody becomes one who was none | [`Promises::check_commit`], [`Promises::check_payloads`], [`Promises::check_member`], [`Promises::leaves`], [`Promises::applied`] |
//! | state machine safety: the same entries and memberships applied everywhere, in order, none that is not committed and durable here | [`Promises::check_commit`], [`Promises::applied`], [`Promises::check_member`] |
//! | term, commit and applied index never go back, and a term in which something was promised is not forgotten in a restart | [`Promises::check_member`], [`Promises::restarted`] |
//! | durable before it is said: votes, acknowledgements, a candidate's question | [`Promises::leaves`] |
//! | only the leader of a term speaks as leader of it; what it sends is its log, within limits; a heartbeat commits nothing that was not acknowledged | [`Promises::leaves`] |
//! | memberships: never two unapplied changes in what a leader proposes; from one to the next any two quorums meet; everybody is in the membership that its log says | [`Promises::check_proposal`], [`Promises::applied`], [`Promises::check_member`] |
//! | elections: only of voters who have applied every membership that is committed | [`Promises::check_member`] |
//! | progress: match below next, never more than acknowledged in this term, still on the peer's disk, not going back; windows within their limits | [`Promises::check_progress`] |
//! | the uncommitted tail of a leader is bounded | [`Promises::check_proposal`] |
//! | reads: never older than what anybody knew to be committed when they were asked for | [`Promises::check_member`], [`Promises::leaves`] |
//! | hand-over: the target is told when it has everything | [`Promises::leaves`] |
//!
//! What must come about once the faults end stands in `calm.rs`.

use ringraft_raft::confchange::Draft;
use ringraft_raft::{
    Body, Compat, ConfChange, ConfState, EntryId, EntryKind, EntryMeta, Index, Message, Payloads, PeerId,
    ProgressState, ReadId, Role, Status, Storage, Term,
};

use super::place;
use super::support::log::MemLog;
use super::support::node::{Node, Packet, Payload};

/// No cluster here has more members.
pub(crate) const MEMBERS_MAX: usize = 8;

/// What was seen, and may never be contradicted.
pub(crate) struct Promises {
    terms: Vec<TermBook>,
    /// Every entry seen at an index, by term.
    entries: Vec<Vec<Known>>,
    committed: Vec<Committed>,
    /// What state machines are after each entry; nobody's, if only witnesses have passed it.
    machines: Vec<Option<u64>>,
    /// Memberships, from which index on.
    confs: Vec<(Index, ConfState)>,
    /// What was committed when each read was asked for.
    reads: Vec<Index>,
    seen: Vec<Seen>,
    looks: usize,
    pub(crate) served: usize,
    pub(crate) elections: usize,
}

/// What happened in one term. Lists by member.
#[derive(Clone, Default)]
struct TermBook {
    leader: PeerId,
    votes: [PeerId; MEMBERS_MAX],
    /// Highest index acknowledged to the leader.
    acked: [Index; MEMBERS_MAX],
    /// For whom it may vote, and pre-vote: a bit for each member.
    may_vote: [u8; MEMBERS_MAX],
    may_pre_vote: [u8; MEMBERS_MAX],
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Known {
    meta: EntryMeta,
    payload: Payload,
    before: Term,
}

impl Known {
    /// What a witness knows of it, or anybody else.
    fn for_a(self, witness: bool) -> Known {
        let keeps = !witness || self.meta.kind != EntryKind::Normal;
        if keeps { self } else { Known { meta: self.meta.stripped(), payload: 0, ..self } }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Committed {
    meta: EntryMeta,
    payload: Payload,
    /// The leader's term that committed it.
    by: Term,
}

/// A member when it was last looked at.
#[derive(Clone)]
struct Seen {
    status: Status,
    /// It must not fall behind this term, even in a restart.
    promised: Term,
    /// It has asked for votes in this term.
    asked: Term,
    /// As leader: how far everybody was.
    matched: [Index; MEMBERS_MAX],
    /// As leader: its last entry when it first began to hand over to each of the others.
    handing: [Option<Index>; MEMBERS_MAX],
    /// As leader: payload bytes not applied when it was elected.
    inherited: u64,
    /// Without a vote, it was asked for it by a voter whose log does not reach as far.
    stands_in: bool,
    /// Entries up to here were handed out for application.
    handed_out: Index,
    /// What it once had durable and has lost.
    lost_to: Index,
}

impl Promises {
    pub(crate) fn new(nodes: &[Node], conf: &ConfState) -> Promises {
        let seen = |node: &Node| Seen {
            status: node.raft.status(),
            promised: Term::ZERO,
            asked: Term::ZERO,
            matched: [Index::ZERO; MEMBERS_MAX],
            handing: [None; MEMBERS_MAX],
            inherited: 0,
            stands_in: false,
            handed_out: Index::ZERO,
            lost_to: Index::ZERO,
        };
        Promises {
            terms: Vec::new(),
            entries: Vec::new(),
            committed: Vec::new(),
            machines: Vec::new(),
            confs: vec![(Index::ZERO, conf.clone())],
            reads: Vec::new(),
            seen: nodes.iter().map(seen).collect(),
            looks: 0,
            served: 0,
            elections: 0,
        }
    }

    /// Entries that anybody knows to be committed.
    pub(crate) fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// Whether this is the last entry committed.
    pub(crate) fn ends_with(&self, payload: Payload) -> bool {
        self.committed.last().is_some_and(|last| last.payload == payload)
    }

    /// Whether this entry is committed.
    pub(crate) fn has_committed(&self, index: Index, meta: EntryMeta) -> bool {
        self.committed.get(slot(index)).is_some_and(|known| known.meta == meta)
    }

    /// Changes of membership that were applied.
    pub(crate) fn conf_changes(&self) -> usize {
        self.confs.len() - 1
    }

    /// The highest term in which a member has asked for votes.
    pub(crate) fn asked(&self, at: usize) -> Term {
        self.seen[at].asked
    }

    /// The membership as of an index.
    pub(crate) fn conf_as_of(&self, index: Index) -> &ConfState {
        &self.confs.iter().rev().find(|(from, _)| *from <= index).expect("the first is from 0").1
    }

    /// A read is asked for.
    pub(crate) fn read(&mut self) -> ReadId {
        self.reads.push(self.committed());
        ReadId(self.reads.len() as u64)
    }

    fn book(&mut self, term: Term) -> &mut TermBook {
        let at = usize::try_from(term.0).unwrap();
        if self.terms.len() <= at {
            self.terms.resize(at + 1, TermBook::default());
        }
        &mut self.terms[at]
    }

    // What members say.

    /// A member is asked for its vote, and nothing forbids it to give it.
    pub(crate) fn may_vote(&mut self, message: &Message) {
        let Message { from, to, term, body } = *message;
        let book = self.book(term);
        let list = if matches!(body, Body::Vote { .. }) { &mut book.may_vote } else { &mut book.may_pre_vote };
        list[place(to)] |= 1 << place(from);
    }

    /// A member is asked for a vote that it does not have, by a voter that it could not give it to.
    pub(crate) fn stands_in(&mut self, at: usize) {
        self.seen[at].stands_in = true;
    }

    /// A message leaves a member.
    pub(crate) fn leaves(&mut self, nodes: &[Node], at: usize, packet: &Packet) {
        let Message { from, to, term, body } = packet.message;
        let node = &nodes[at];
        let disk = &node.disk.log;
        let etcd = node.raft.config().compat != Compat::Off;
        assert_eq!(place(from), at, "{from} speaks as itself");
        // A member whose disk has gone on to a newer term promises nothing new in an old one.
        let current = disk.hard.term == term;
        if matches!(body, Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. } | Body::TimeoutNow) {
            assert_eq!(self.book(term).leader, from, "only the leader of {term} speaks as one");
        }
        match body {
            Body::VoteReply { granted: true } => self.votes(node, &packet.message),
            Body::PreVoteReply { granted: true } => {
                let allowed = self.book(term).may_pre_vote[at] & 1 << place(to) != 0;
                assert!(allowed, "{from} must not say that it would vote for {to} in {term}");
            }
            Body::Vote { last, .. } => {
                assert!(etcd || disk.hard.term >= term, "{from} asks in term {term} before it is durable");
                // Who has heard of another leader meanwhile asks in vain.
                let stands = (node.raft.role(), node.raft.term()) == (Role::Candidate, term);
                assert!(etcd || !stands || holds(disk, last), "{from} asks with an entry {last} that is not durable");
                self.promise(at, if etcd { Term::ZERO } else { term });
                self.seen[at].asked = term.max(self.seen[at].asked);
            }
            Body::AppendAck { index } if index > Index::ZERO => {
                assert!(disk.hard.term >= term, "{from} acknowledges {index} in {term} before the term is durable");
                let leader = self.book(term).leader;
                if current {
                    assert!(disk.last_index() >= index, "{from} acknowledges {index} before it is durable");
                    let leader = &nodes[place(leader)].raft;
                    if (leader.role(), leader.term()) == (Role::Leader, term)
                        && let (Ok(ours), Ok(theirs)) = (disk.term(index), leader.entry_term(index))
                    {
                        assert_eq!(ours, theirs, "{from} acknowledges {index} in {term}, and holds another entry");
                    }
                }
                self.promise(at, term);
                let acked = &mut self.book(term).acked[at];
                *acked = index.max(*acked);
            }
            Body::Append { prev, last, commit, payloads } => {
                let witness = nodes[place(to)].raft.config().witness;
                assert_eq!(payloads, if witness { Payloads::Stripped } else { Payloads::All });
                assert_eq!(last.0 - prev.index.0, packet.entries.len() as u64);
                assert!(commit <= node.raft.commit(), "{from} tells of a commit {commit} that it does not know of");
                let size: u64 = packet.entries.iter().map(|(meta, _)| meta.encoded_size()).sum();
                let limit = node.raft.config().message_size_max;
                assert!(etcd || packet.entries.len() == 1 || size <= limit, "{size} bytes in one message");
                self.check_append(prev, &packet.entries, witness);
                if let (true, Some((meta, _))) = (witness, packet.entries.last()) {
                    let id = EntryId { term: meta.term, index: last };
                    let full = |id: &PeerId| !nodes[place(*id)].raft.config().witness;
                    let held = |half: &[PeerId]| {
                        half.is_empty()
                            || half.iter().any(|voter| full(voter) && holds(&nodes[place(*voter)].disk.log, id))
                    };
                    let conf = self.conf_as_of(node.conf_at);
                    let held = holds(disk, id) && held(&conf.voters) && held(&conf.voters_outgoing);
                    assert!(held, "witness {to} gets {id}, which no full voter has durably");
                }
            }
            Body::Heartbeat { commit, .. } => {
                let acked = self.book(term).acked[place(to)];
                assert!(commit <= acked, "{from} commits {commit} for {to}, which acknowledged {acked} in {term}");
            }
            Body::Snapshot { at: index, .. } => {
                let image = packet.snapshot.as_ref().expect("a snapshot");
                assert!(image.at >= index && image.at.index <= self.committed());
                let hash = self.machines[slot(image.at.index)];
                let witness = nodes[place(to)].raft.config().witness;
                assert!(witness || hash == Some(image.hash), "the snapshot at {}", image.at);
            }
            Body::ReadIndexReply { id, index } => self.check_read(id, index),
            Body::TimeoutNow => {
                assert!(!nodes[place(to)].raft.config().witness, "witness {to} shall take over");
                let last = self.seen[at].handing[place(to)].expect("a hand-over to this member");
                let target = &nodes[place(to)];
                let holds = target.disk.log.last_index().max(self.seen[place(to)].lost_to) >= last;
                assert!(holds || target.raft.term() > term, "{to} shall take over, and does not have {last}");
            }
            _ => {}
        }
    }

    /// A vote leaves a member, or is given to itself.
    fn votes(&mut self, node: &Node, message: &Message) {
        let Message { from, to, term, .. } = *message;
        let hard = node.disk.log.hard;
        let durable = hard.term > term || hard.term == term && hard.vote == to;
        assert!(durable, "{from} votes for {to} in {term}, and its disk says {hard:?}");
        let book = self.book(term);
        let vote = &mut book.votes[place(from)];
        assert!(*vote == PeerId::ZERO || *vote == to, "{from} votes for {to} in {term}, after it has for {vote}");
        *vote = to;
        let allowed = from == to || book.may_vote[place(from)] & 1 << place(to) != 0;
        assert!(allowed, "{from} must not vote for {to} in {term}");
        self.promise(place(from), term);
    }

    fn promise(&mut self, at: usize, term: Term) {
        let promised = &mut self.seen[at].promised;
        *promised = term.max(*promised);
    }

    /// An append names entries that are in the leader's log.
    fn check_append(&mut self, prev: EntryId, entries: &[(EntryMeta, Payload)], witness: bool) {
        let mut before = prev;
        for (meta, payload) in entries {
            let index = before.index.next();
            let sent = Known { meta: *meta, payload: *payload, before: before.term };
            let is_sent = |known: &Known| known.for_a(witness) == sent;
            let is_known = self.entries.get(slot(index)).is_some_and(|list| list.iter().any(is_sent));
            assert!(is_known, "entry {index} of term {} is in no leader's log", meta.term);
            before = EntryId { term: meta.term, index };
        }
    }

    fn check_read(&self, id: ReadId, index: Index) {
        let least = self.reads[usize::try_from(id.0 - 1).unwrap()];
        assert!(index >= least, "read {id} at {index}, though {least} was committed when it was asked for");
    }

    // What members are.

    /// Something happened at a member.
    pub(crate) fn look(&mut self, nodes: &mut [Node], at: usize) {
        self.looks += 1;
        let node = &mut nodes[at];
        node.fill();
        for message in std::mem::take(&mut node.said) {
            match message.body {
                Body::VoteReply { granted: true } => self.votes(node, &message),
                Body::AppendAck { index } => {
                    let acked = &mut self.book(message.term).acked[at];
                    *acked = index.max(*acked);
                }
                _ => {}
            }
        }
        if self.looks.is_multiple_of(64) {
            node.touch(node.cache_base().next());
        }
        let changed = node.changed.take();
        let witness = node.raft.config().witness;
        for read in node.reads.drain(..) {
            assert!(!witness, "a witness answers the read {}", read.id);
            self.check_read(read.id, read.index);
            self.served += 1;
        }
        let node = &nodes[at];
        let status = node.raft.status();
        if let Some(first) = changed {
            self.check_log(node, first.max(node.cache_base().next()));
        }
        self.check_member(node, &status);
        if status.commit > self.seen[at].status.commit {
            self.check_commit(nodes, at, &status);
        }
        if status.role == Role::Leader {
            self.check_leader(nodes, at, &status, changed);
        } else {
            self.check_follower(nodes, at, &status);
        }
        self.seen[at].status = status;
    }

    /// The log from `first` on: the core's is the shell's, and every entry is the only one of its index and term.
    fn check_log(&mut self, node: &Node, first: Index) {
        let id = node.raft.id();
        let last = node.raft.last_index();
        assert_eq!(last, node.cached_to(), "the log of {id} ends where its shell's ends");
        if self.entries.len() < slot(last.next()) {
            self.entries.resize(slot(last.next()), Vec::new());
        }
        let mut before = node.raft.entry_term(first.prev()).expect("the entry before, or the base");
        for index in (first.0..=last.0).map(Index) {
            let (meta, payload) = node.entry(index);
            assert_eq!(node.raft.meta(index), Ok(meta), "entry {index} of {id} is the one staged");
            let known = Known { meta, payload, before };
            let list = &mut self.entries[slot(index)];
            let witness = node.raft.config().witness;
            match list.iter().find(|other| other.meta.term == meta.term) {
                Some(other) => {
                    assert_eq!(other.for_a(witness), known, "entry {index} of term {} exists twice", meta.term);
                }
                None => list.push(known),
            }
            assert!(before <= meta.term, "terms go back at {index} of {id}");
            before = meta.term;
        }
    }

    fn check_member(&mut self, node: &Node, status: &Status) {
        let Status { id, term, commit, applied, role, .. } = *status;
        let seen = &mut self.seen[place(id)];
        let before = &seen.status;
        assert!(term >= before.term, "the term of {id} went from {} to {term}", before.term);
        assert!(commit >= before.commit, "the commit index of {id} went from {} to {commit}", before.commit);
        assert!(applied >= before.applied, "the applied index of {id} went from {} to {applied}", before.applied);
        assert!(applied <= commit && commit <= status.last.index, "{status:?}");
        if term == before.term && before.vote != PeerId::ZERO {
            assert_eq!(status.vote, before.vote, "{id} votes twice in {term}");
        }
        if let Some((last, meta, _)) = node.applies.back().and_then(|lot| lot.back())
            && *last > seen.handed_out
        {
            seen.handed_out = *last;
            assert!(*last <= commit, "{id} applies {last}, and {commit} is committed");
            let durable = node.disk.log.base.index >= *last || node.disk.log.meta(*last) == Ok(*meta);
            assert!(durable, "{id} applies {last}, which is not durable");
            let sizes = node.applies.iter().map(|lot| lot.iter().map(|(_, meta, _)| meta.encoded_size()).sum::<u64>());
            let limit = node.raft.config().apply_size_max;
            let lone = node.applies.back().is_some_and(|lot| lot.len() == 1);
            let etcd = node.raft.config().compat != Compat::Off;
            assert!(etcd || lone || sizes.sum::<u64>() <= limit, "{id} has more to apply than {limit} bytes");
        }
        seen.stands_in &= status.lead == PeerId::ZERO || status.lead == before.lead;
        let stands = matches!(role, Role::PreCandidate | Role::Candidate);
        let stood = (before.role, before.term) == (role, term);
        let conf = self.conf_as_of(node.conf_at).clone();
        assert_eq!(node.raft.conf_state(), &conf, "the membership of {id} as of {}", node.conf_at);
        assert!(!node.raft.config().witness || role == Role::Follower, "witness {id} is {role:?}");
        if stands && !stood {
            let votes = conf.voters.contains(&id) || conf.voters_outgoing.contains(&id);
            assert!(votes || self.seen[place(id)].stands_in, "{id} stands for election, and is no voter");
            let unapplied = (applied.0.max(node.cache_base().0) + 1..=commit.0).map(Index);
            let changes = unapplied.filter(|index| node.entry(*index).0.kind != EntryKind::Normal).count();
            assert_eq!(changes, 0, "{id} stands for election, and has not applied what changes the voters");
        }
    }

    /// A member knows more to be committed than before.
    fn check_commit(&mut self, nodes: &[Node], at: usize, status: &Status) {
        let node = &nodes[at];
        let from = self.seen[at].status.commit.max(node.cache_base());
        let known = self.committed();
        for index in (from.0 + 1..=status.commit.0).map(Index) {
            let (meta, payload) = node.entry(index);
            let witness = node.raft.config().witness && meta.kind == EntryKind::Normal;
            match self.committed.get(slot(index)) {
                Some(known) if witness => assert_eq!(known.meta.stripped(), meta, "entry {index} of {}", status.id),
                Some(known) => {
                    let same = (known.meta, known.payload) == (meta, payload);
                    assert!(same, "committed entry {index} is {known:?}, and {meta:?} {payload} on {}", status.id);
                }
                None => {
                    assert_eq!(self.committed.len(), slot(index), "commits leave no gap");
                    self.committed.push(Committed { meta, payload, by: status.term });
                }
            }
        }
        assert!(status.commit <= self.committed(), "{} knows of a commit that was none", status.id);
        if status.commit > known {
            let (meta, _) = node.entry(status.commit);
            assert_eq!(meta.term, status.term, "{} commits {} of an older term", status.id, status.commit);
            let last = EntryId { term: meta.term, index: status.commit };
            let held = |id: PeerId| holds(&nodes[place(id)].disk.log, last);
            let quorum = is_quorum(self.conf_as_of(node.conf_at), held);
            assert!(quorum, "{} commits {last}, which is not on the disks of a quorum", status.id);
            self.check_payloads(nodes, self.conf_as_of(node.conf_at), known);
        }
    }

    /// In each half of this membership, some full voter has the payload of every entry committed after `after`.
    fn check_payloads(&self, nodes: &[Node], conf: &ConfState, after: Index) {
        if conf.witnesses.is_empty() {
            return;
        }
        for index in (after.0 + 1..=self.committed().0).map(Index) {
            let known = &self.committed[slot(index)];
            let has = |id: &PeerId| {
                let disk = &nodes[place(*id)].disk;
                let kept = |at: u64| disk.payloads.get(usize::try_from(at).unwrap()) == Some(&known.payload);
                let held = disk.log.meta(index) == Ok(known.meta) && kept(index.0 - disk.log.base.index.0 - 1);
                !conf.is_witness(*id) && (held || index <= disk.image.at.index)
            };
            let half = |voters: &[PeerId]| voters.is_empty() || voters.iter().any(has);
            assert!(half(&conf.voters) && half(&conf.voters_outgoing), "nobody of {conf:?} has entry {index} whole");
        }
    }

    fn check_leader(&mut self, nodes: &[Node], at: usize, status: &Status, changed: Option<Index>) {
        let node = &nodes[at];
        let Status { id, term, last, .. } = *status;
        let leader = std::mem::replace(&mut self.book(term).leader, id);
        assert!(leader == PeerId::ZERO || leader == id, "{leader} and {id} lead in term {term}");
        if leader == PeerId::ZERO {
            self.elections += 1;
            let book = &self.terms[usize::try_from(term.0).unwrap()];
            let elected = is_quorum(self.conf_as_of(node.conf_at), |voter| book.votes[place(voter)] == id);
            assert!(elected, "{id} leads in {term} by the votes {:?}", book.votes);
            let base = node.raft.storage().base().index.max(node.cache_base());
            for index in (base.0 + 1..=self.committed().0).map(Index) {
                let known = &self.committed[slot(index)];
                // Who is elected late, in an old term, need not have it.
                let has = known.by >= term || node.raft.meta(index) == Ok(known.meta);
                assert!(has, "{id} leads in {term} without entry {index}, committed in {}", known.by);
            }
            let tail = status.applied.0.max(node.cache_base().0) + 1..=last.index.0;
            let seen = &mut self.seen[at];
            seen.inherited = tail.map(|index| u64::from(node.entry(Index(index)).0.size)).sum();
            seen.matched = [Index::ZERO; MEMBERS_MAX];
            seen.handing = [None; MEMBERS_MAX];
        } else if self.seen[at].status.role == Role::Leader && self.seen[at].status.term == term {
            let before = self.seen[at].status.last;
            assert!(last >= before, "leader {id} has cut its log from {before} to {last}");
        }
        if let Some(first) = changed {
            self.check_proposal(node, status, first);
        }
        if status.transferee != PeerId::ZERO {
            assert!(!nodes[place(status.transferee)].raft.config().witness, "{id} hands over to a witness");
            self.seen[at].handing[place(status.transferee)].get_or_insert(last.index);
        }
        for (peer, _) in node.raft.progress_all() {
            self.check_progress(nodes, at, peer, status);
        }
    }

    /// Entries that a leader has just appended, or inherited.
    fn check_proposal(&mut self, node: &Node, status: &Status, first: Index) {
        let Status { id, term, commit, applied, last, .. } = *status;
        let base = node.cache_base();
        let changes_conf = |index: &Index| node.entry(*index).0.kind != EntryKind::Normal;
        let own = |index: &Index| node.entry(*index).0.term == term;
        let unapplied = || (applied.max(base).0 + 1..=last.index.0).map(Index).filter(changes_conf);
        if let Some(latest) = unapplied().rfind(|index| *index >= first && own(index)) {
            let before = unapplied().find(|index| *index < latest);
            assert_eq!(before, None, "{id} proposes a change of membership at {latest} beside another");
        }
        let uncommitted = (commit.max(base).0 + 1..=last.index.0).map(Index).filter(own);
        let sizes = uncommitted.map(|index| u64::from(node.entry(index).0.size));
        let (sum, largest) = sizes.fold((0, 0), |(sum, largest), size| (sum + size, size.max(largest)));
        let limit = node.raft.config().uncommitted_size_max + self.seen[place(id)].inherited + largest;
        assert!(sum <= limit, "{id} has {sum} bytes uncommitted");
    }

    fn check_progress(&mut self, nodes: &[Node], at: usize, peer: PeerId, status: &Status) {
        let Status { id, term, last, .. } = *status;
        let node = &nodes[at];
        let Some(progress) = node.raft.progress(peer) else { return };
        let config = node.raft.config();
        let acked = self.book(term).acked[place(peer)];
        assert!(progress.matched < progress.next, "{peer}: {progress:?}");
        assert!(
            progress.next <= last.index.next() || progress.state == ProgressState::Snapshot,
            "{peer}: {progress:?}"
        );
        let pending = progress.pending_snapshot > Index::ZERO;
        assert_eq!(pending, progress.state == ProgressState::Snapshot, "{peer}: {progress:?}");
        assert!(progress.inflights.count() <= config.inflight_count_max, "{peer}: {progress:?}");
        let size_max = config.inflight_size_max + config.message_size_max.max(100);
        assert!(progress.inflights.size() <= size_max, "{peer}: {progress:?}");
        let seen = &mut self.seen[at];
        // A loss, or what looks like one, is taken note of.
        assert!(
            progress.matched >= seen.matched[place(peer)] || status.losses > seen.status.losses,
            "{id} forgot that {peer} has {}: {progress:?}",
            seen.matched[place(peer)]
        );
        seen.matched[place(peer)] = progress.matched;
        if peer == id {
            return;
        }
        assert!(progress.matched <= acked, "{peer} acknowledged {acked} in {term}: {progress:?}");
        let other = &nodes[place(peer)];
        if other.raft.term() == term && progress.matched > self.seen[place(peer)].lost_to {
            let known = node.raft.entry_term(progress.matched);
            let held =
                known.is_err() || holds(&other.disk.log, EntryId { term: known.unwrap(), index: progress.matched });
            assert!(held, "{peer} has lost {}: {progress:?}", progress.matched);
        }
    }

    /// What the leader of a follower believes of it.
    fn check_follower(&mut self, nodes: &[Node], at: usize, status: &Status) {
        if status.lead == PeerId::ZERO {
            return;
        }
        let leader = nodes[place(status.lead)].raft.status();
        if leader.role == Role::Leader && leader.term == status.term {
            self.check_progress(nodes, place(status.lead), nodes[at].raft.id(), &leader);
        }
    }

    /// A member applies an entry.
    pub(crate) fn applied(
        &mut self,
        nodes: &[Node],
        at: usize,
        applied: (Index, EntryMeta, Payload),
        change: &ConfChange,
    ) {
        let (node, (index, meta, payload)) = (&nodes[at], applied);
        let (id, witness) = (node.raft.id(), node.raft.config().witness);
        let known = self.committed[slot(index)];
        let known = Known { meta: known.meta, payload: known.payload, before: Term::ZERO }.for_a(witness);
        assert_eq!((known.meta, known.payload), (meta, payload), "{id} applies {index}");
        if meta.kind != EntryKind::Normal {
            // Who is removed and added again is new.
            self.seen[place(id)].matched = [Index::ZERO; MEMBERS_MAX];
        }
        if self.machines.len() == slot(index) {
            self.machines.push(None);
            if meta.kind != EntryKind::Normal {
                let before = &self.confs.last().expect("the first").1;
                if let Ok(draft) = Draft::change(before, change) {
                    assert!(quorums_meet(before, draft.conf()), "from {before:?} to {:?}", draft.conf());
                    self.check_takers(nodes, draft.conf());
                    for id in draft.conf().lists().into_iter().flatten() {
                        let witness = nodes[place(*id)].raft.config().witness;
                        assert_eq!(draft.conf().is_witness(*id), witness, "{:?} takes {id} for another", draft.conf());
                    }
                    self.confs.push((index, draft.conf().clone()));
                }
            }
        }
        if !witness {
            let hash = *self.machines[slot(index)].get_or_insert(node.machine.hash);
            assert_eq!(hash, node.machine.hash, "state machines differ at {index}");
        }
        assert_eq!(*self.conf_as_of(index), node.machine.conf, "memberships differ at {index}");
    }

    /// A membership takes effect: whoever can be elected by those who vote now, or until now, has everything.
    fn check_takers(&self, nodes: &[Node], conf: &ConfState) {
        let half = if conf.voters_outgoing.is_empty() { &conf.voters } else { &conf.voters_outgoing };
        let voting = ConfState { voters: half.clone(), voters_outgoing: Vec::new(), ..conf.clone() };
        self.check_payloads(nodes, &voting, Index::ZERO);
    }

    /// A member has started again.
    pub(crate) fn restarted(&mut self, node: &Node) {
        let status = node.raft.status();
        let seen = &mut self.seen[place(status.id)];
        assert!(status.term >= seen.promised, "{} promised something in {}: {status:?}", status.id, seen.promised);
        seen.status = status;
        seen.handed_out = status.applied;
        let vote = self.book(status.term).votes[place(status.id)];
        assert!(vote == PeerId::ZERO || vote == status.vote, "{} voted for {vote}: {status:?}", status.id);
    }

    /// A disk loses entries up to `last`.
    pub(crate) fn loses(&mut self, at: usize, last: Index) {
        let lost_to = &mut self.seen[at].lost_to;
        *lost_to = last.max(*lost_to);
    }
}

fn slot(index: Index) -> usize {
    usize::try_from(index.0 - 1).unwrap()
}

/// Whether this entry, or what it was compacted into, is in the log.
fn holds(log: &MemLog, id: EntryId) -> bool {
    id.index <= log.base.index || log.term(id.index) == Ok(id.term)
}

/// Whether those for whom `says` holds are a majority of both halves. Counted one by one.
pub(crate) fn is_quorum(conf: &ConfState, says: impl Fn(PeerId) -> bool) -> bool {
    let half =
        |voters: &[PeerId]| voters.is_empty() || 2 * voters.iter().filter(|id| says(**id)).count() > voters.len();
    half(&conf.voters) && half(&conf.voters_outgoing)
}

/// Whether every quorum of one membership has a member in every quorum of the other: tries all of them.
fn quorums_meet(one: &ConfState, other: &ConfState) -> bool {
    let sets = || 0_u16..1 << MEMBERS_MAX;
    let quorum = |conf: &ConfState, set: u16| is_quorum(conf, |id| set & 1 << place(id) != 0);
    sets().filter(|set| quorum(one, *set)).all(|set| !quorum(other, !set))
}
