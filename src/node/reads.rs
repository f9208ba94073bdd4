//! Linearizable reads of one group: gathered over a turn, confirmed by one read index, served when that is applied
//! (thesis 6.4).

use std::collections::VecDeque;

use bytes::Bytes;
use ringraft_io::Time;
use ringraft_raft::{Index, PeerId, ReadId, Term};

use super::mail::ReplyTo;

/// A read request that waits.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) to: ReplyTo,
    pub(crate) deadline: Time,
    pub(crate) request: Bytes,
}

/// The reads of one group, by how far they have come.
#[derive(Default)]
pub(crate) struct Reads {
    fresh: Vec<Query>,
    asked: VecDeque<Asked>,
    /// Who was to confirm them.
    asked_of: (Term, Option<PeerId>),
    confirmed: VecDeque<(Index, Vec<Query>)>,
    next_id: u64,
    spare: Vec<Vec<Query>>,
}

struct Asked {
    id: ReadId,
    at: Time,
    queries: Vec<Query>,
}

impl Reads {
    /// No reads; ids are counted from `first`, which differs from run to run of the process: an answer to a read that was
    /// asked before a restart must not confirm one asked after it.
    pub(crate) fn new(first: u64) -> Reads {
        Reads { next_id: first, ..Reads::default() }
    }

    /// A new read: it will be confirmed together with all others of this turn.
    pub(crate) fn push(&mut self, query: Query) {
        self.fresh.push(query);
    }

    /// Who is to confirm reads from now on. Nobody else ever confirms what was asked before: it will be asked again.
    pub(crate) fn ask_of(&mut self, term: Term, leader: Option<PeerId>) {
        if (term, leader) != self.asked_of {
            self.asked_of = (term, leader);
            while let Some(mut asked) = self.asked.pop_front() {
                self.fresh.append(&mut asked.queries);
                self.recycle(asked.queries);
            }
        }
    }

    /// The mark under which this turn's reads are to be confirmed, if there are any. An id is never used twice, so that
    /// no late answer can confirm a read that was asked after it.
    pub(crate) fn ask(&mut self, now: Time) -> Option<ReadId> {
        if self.fresh.is_empty() {
            return None;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let id = ReadId(self.next_id);
        let queries = std::mem::replace(&mut self.fresh, self.spare.pop().unwrap_or_default());
        self.asked.push_back(Asked { id, at: now, queries });
        Some(id)
    }

    /// The core refused to confirm `id`: gives its reads back.
    pub(crate) fn refuse(&mut self, id: ReadId) -> Vec<Query> {
        self.remove(id).unwrap_or_default()
    }

    /// `id` is confirmed: its reads may be served once `index` is applied.
    pub(crate) fn confirm(&mut self, id: ReadId, index: Index) {
        if let Some(queries) = self.remove(id) {
            self.confirmed.push_back((index, queries));
        }
    }

    fn remove(&mut self, id: ReadId) -> Option<Vec<Query>> {
        let at = self.asked.iter().position(|asked| asked.id == id)?;
        self.asked.remove(at).map(|asked| asked.queries)
    }

    /// Reads that may be served, now that `applied` is. Return the vector with [`Reads::recycle`].
    pub(crate) fn servable(&mut self, applied: Index) -> Option<Vec<Query>> {
        let at = self.confirmed.iter().position(|(index, _)| *index <= applied)?;
        self.confirmed.remove(at).map(|(_, queries)| queries)
    }

    /// Keeps a vector's memory for later.
    pub(crate) fn recycle(&mut self, mut queries: Vec<Query>) {
        queries.clear();
        if self.spare.len() < 8 {
            self.spare.push(queries);
        }
    }

    /// Reads asked before `stale` got no answer (the leader changed, a message was lost): they will be asked again,
    /// under a new id. Reads whose deadline has passed go to `expired`.
    pub(crate) fn retry(&mut self, now: Time, stale: Time, expired: &mut Vec<Query>) {
        while self.asked.front().is_some_and(|asked| asked.at <= stale) {
            let mut asked = self.asked.pop_front().expect("it is there");
            self.fresh.append(&mut asked.queries);
            self.recycle(asked.queries);
        }
        expire(&mut self.fresh, now, expired);
        for (_, queries) in &mut self.confirmed {
            expire(queries, now, expired);
        }
    }

    /// Whether no read waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.asked.is_empty() && self.confirmed.is_empty()
    }

    /// Gives back the memory of busy times.
    pub(crate) fn shrink(&mut self) {
        self.fresh.shrink_to_fit();
        self.asked.shrink_to_fit();
        self.confirmed.shrink_to_fit();
        self.spare = Vec::new();
    }

    /// Whether the next turn has reads to ask for.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }
}

/// Moves what has waited too long.
fn expire(queries: &mut Vec<Query>, now: Time, expired: &mut Vec<Query>) {
    let mut at = 0;
    while at < queries.len() {
        if queries[at].deadline <= now {
            expired.push(queries.swap_remove(at));
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringraft_io::{ShardNo, StreamId};

    use crate::server::clients::Place;

    fn query(id: u64, deadline: u64) -> Query {
        let to = ReplyTo { shard: ShardNo(0), stream: StreamId(1), place: Place(0), id, op: 2 };
        Query { to, deadline: Time(deadline), request: Bytes::new() }
    }

    fn ids(queries: &[Query]) -> Vec<u64> {
        queries.iter().map(|query| query.to.id).collect()
    }

    #[test]
    fn one_round_serves_all_reads_of_a_turn() {
        let mut reads = Reads::default();
        assert_eq!(reads.ask(Time(0)), None);
        assert!(reads.is_empty());
        reads.push(query(1, 100));
        reads.push(query(2, 100));
        let first = reads.ask(Time(0)).unwrap();
        reads.push(query(3, 100));
        let second = reads.ask(Time(1)).unwrap();
        reads.confirm(second, Index(7));
        reads.confirm(first, Index(5));
        assert!(reads.servable(Index(4)).is_none());
        assert_eq!(ids(&reads.servable(Index(5)).unwrap()), [1, 2]);
        assert!(reads.servable(Index(6)).is_none());
        assert!(!reads.is_empty());
        assert_eq!(ids(&reads.servable(Index(7)).unwrap()), [3]);
        assert!(reads.is_empty());
    }

    #[test]
    fn another_leader_is_asked_again() {
        let mut reads = Reads::default();
        reads.ask_of(Term(1), Some(PeerId(2)));
        reads.push(query(1, 100));
        let first = reads.ask(Time(0)).unwrap();
        reads.ask_of(Term(1), Some(PeerId(2)));
        assert!(!reads.has_fresh(), "the same one still may answer");
        for (term, leader) in [(1, None), (2, Some(PeerId(2))), (2, Some(PeerId(3)))] {
            reads.ask_of(Term(term), leader);
            assert!(reads.has_fresh(), "{term} {leader:?}");
            assert_ne!(reads.ask(Time(1)), Some(first));
        }
        reads.confirm(first, Index(1));
        assert!(reads.servable(Index(9)).is_none(), "what was asked of another confirms nothing");
    }

    #[test]
    fn a_late_answer_confirms_nothing_asked_again() {
        let mut reads = Reads::default();
        reads.push(query(1, 100));
        reads.push(query(2, 10));
        let first = reads.ask(Time(0)).unwrap();
        let mut expired = Vec::new();
        reads.retry(Time(20), Time(5), &mut expired);
        assert_eq!(ids(&expired), [2]);
        assert!(reads.has_fresh());
        let second = reads.ask(Time(20)).unwrap();
        assert_ne!(first, second);
        reads.confirm(first, Index(1));
        assert!(reads.servable(Index(9)).is_none(), "the old round must not serve");
        assert_eq!(ids(&reads.refuse(second)), [1]);
    }
}
