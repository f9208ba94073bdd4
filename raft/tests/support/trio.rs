//! Three members in one loop, without payloads: what replication costs the core alone.

use ringraft_raft::{
    Body, Config, EntryKind, EntryMeta, Index, Message, PeerId, Proposed, Raft, Ready, Role, Storage, SyncTicket,
};

use super::log::MemLog;
use super::node::voters;

pub struct Trio {
    members: Vec<Raft<MemLog>>,
    readies: Vec<Ready>,
    network: Vec<Message>,
    delivered: Vec<Message>,
    held: Vec<Message>,
    metas: Vec<EntryMeta>,
}

impl Trio {
    /// Member 1 leads.
    pub fn new() -> Trio {
        let member = |id| Raft::new(Config::new(PeerId(id)), MemLog::new(voters(3))).unwrap();
        let mut trio = Trio {
            members: (1..=3).map(member).collect(),
            readies: vec![Ready::default(); 3],
            network: Vec::new(),
            delivered: Vec::new(),
            held: Vec::new(),
            metas: Vec::new(),
        };
        trio.members[0].campaign();
        trio.rest();
        assert_eq!(trio.members[0].role(), Role::Leader);
        trio
    }

    pub fn leader(&self) -> &Raft<MemLog> {
        &self.members[0]
    }

    pub fn members(&self) -> &[Raft<MemLog>] {
        &self.members
    }

    pub fn shrink(&mut self) {
        self.members.iter_mut().for_each(Raft::shrink);
    }

    /// Proposes `batch` entries in one turn, and runs until everybody has applied them.
    pub fn propose(&mut self, batch: usize) {
        for _ in 0..batch {
            let proposed = self.members[0].propose(EntryKind::Normal, 64).unwrap();
            assert!(matches!(proposed, Proposed::Appended(_)));
        }
        self.rest();
    }

    pub fn tick(&mut self) {
        self.members.iter_mut().for_each(Raft::tick);
        self.rest();
    }

    /// Compacts every log without telling of membership: it never changes here.
    pub fn compact(&mut self) {
        for member in &mut self.members {
            let upto = member.applied_index();
            let log = member.storage_mut();
            let at = ringraft_raft::EntryId { term: log.term(upto).unwrap(), index: upto };
            log.entries.drain(..usize::try_from(upto.0 - log.base.index.0).unwrap());
            log.base = at;
            log.snapshot = Some(at);
        }
    }

    fn rest(&mut self) {
        loop {
            for at in 0..self.members.len() {
                self.turn(at);
            }
            if self.network.is_empty() && self.members.iter().all(|member| !member.has_ready()) {
                return;
            }
            std::mem::swap(&mut self.network, &mut self.delivered);
            for message in self.delivered.drain(..) {
                self.metas.clear();
                if let Body::Append { prev, last, .. } = message.body {
                    let from = &self.members[usize::try_from(message.from.0 - 1).unwrap()];
                    self.metas.extend((prev.index.0 + 1..=last.0).map(|index| from.meta(Index(index)).unwrap()));
                }
                let to = &mut self.members[usize::try_from(message.to.0 - 1).unwrap()];
                to.step(message, &self.metas).unwrap();
            }
        }
    }

    fn turn(&mut self, at: usize) {
        let (member, ready) = (&mut self.members[at], &mut self.readies[at]);
        if !member.has_ready() {
            return;
        }
        member.ready(ready);
        self.network.append(&mut ready.messages);
        let mut ticket: Option<SyncTicket> = None;
        if let Some(append) = &mut ready.append {
            let (after, upto) = append.entries;
            self.metas.clear();
            self.metas.extend((after.0 + 1..=upto.0).map(|index| member.meta(Index(index)).unwrap()));
            let log = member.storage_mut();
            if after < upto {
                log.truncate(after);
                log.entries.extend(&self.metas);
            }
            log.hard = append.hard_state.unwrap_or(log.hard);
            ticket = Some(append.ticket);
            self.held.extend(append.after_sync.hold());
        }
        let (after, upto) = ready.committed;
        if after < upto {
            member.applied(upto);
        }
        for message in self.held.drain(..) {
            if message.to == member.id() {
                member.step(message, &[]).unwrap();
            } else {
                self.network.push(message);
            }
        }
        if let Some(ticket) = ticket {
            member.synced(ticket);
        }
    }
}
