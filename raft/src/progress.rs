//! The leader's view of one peer.

use crate::config::PRIORITY_MAX;
use crate::inflights::Inflights;
use crate::mutant::mutant;
use crate::types::Index;

/// How appends to a peer are paced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ProgressState {
    /// Where its log ends is unknown: one append at a time.
    #[default]
    Probe,
    /// It follows: appends are pipelined.
    Replicate,
    /// It needs a snapshot first: no appends.
    Snapshot,
}

/// What is asked of the next flush for a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Wanted {
    #[default]
    Nothing,
    /// Appends, if there are entries to send.
    Entries,
    /// An append even without entries: to probe, or to carry a commit index.
    Append,
}

/// One peer as its leader sees it. `matched < next` always.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Highest index known to be durable there.
    pub matched: Index,
    /// Index of the next entry to send.
    pub next: Index,
    /// Highest commit index sent to it.
    pub sent_commit: Index,
    /// How it is paced.
    pub state: ProgressState,
    /// In [`ProgressState::Snapshot`]: which one it was told of.
    pub pending_snapshot: Index,
    /// Whether it was heard of since the last check of the quorum.
    pub recently_active: bool,
    /// Whether appends wait for an answer or a heartbeat.
    pub flow_paused: bool,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether its log keeps no payloads.
    pub witness: bool,
    /// Its [`Config::priority`](crate::Config::priority), as far as we were told
    /// ([`Raft::set_peer_priority`](crate::Raft::set_peer_priority)).
    pub priority: u8,
    /// Appends not answered yet.
    pub inflights: Inflights,
    /// Its answer in the election that runs.
    pub(crate) vote: Option<bool>,
    /// Highest read token that it has echoed.
    pub(crate) read_acked: u64,
    pub(crate) wanted: Wanted,
}

impl Progress {
    /// A peer that nothing is known of; `next` is a guess.
    #[must_use]
    pub fn new(next: Index, inflights: Inflights) -> Progress {
        Progress {
            matched: Index::ZERO,
            next,
            sent_commit: Index::ZERO,
            state: ProgressState::Probe,
            pending_snapshot: Index::ZERO,
            recently_active: false,
            flow_paused: false,
            learner: false,
            witness: false,
            priority: PRIORITY_MAX,
            inflights,
            vote: None,
            read_acked: 0,
            wanted: Wanted::Nothing,
        }
    }

    /// Forgets everything but the membership, for a new term or role. Keeps memory.
    pub(crate) fn reset(&mut self, matched: Index, next: Index) {
        self.enter(ProgressState::Probe);
        self.matched = matched;
        self.next = next;
        self.sent_commit = Index::ZERO;
        self.recently_active = false;
        self.vote = None;
        self.read_acked = 0;
        self.wanted = Wanted::Nothing;
    }

    /// Whether no append may be sent now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.flow_paused,
            ProgressState::Snapshot => true,
        }
    }

    pub(crate) fn become_probe(&mut self) {
        let from = match self.state {
            ProgressState::Snapshot => self.matched.max(self.pending_snapshot),
            ProgressState::Probe | ProgressState::Replicate => self.matched,
        };
        self.enter(ProgressState::Probe);
        self.next = from.next();
        self.sent_commit = self.sent_commit.min(from);
    }

    pub(crate) fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched.next();
    }

    pub(crate) fn become_snapshot(&mut self, index: Index) {
        self.enter(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index.next();
        self.sent_commit = index;
    }

    fn enter(&mut self, state: ProgressState) {
        self.state = state;
        self.flow_paused = false;
        self.pending_snapshot = Index::ZERO;
        self.inflights.clear();
    }

    /// Everything up to `index` is durable there. Whether that is news.
    pub(crate) fn maybe_update(&mut self, index: Index) -> bool {
        if mutant!("match-goes-back", index == self.matched, index <= self.matched) {
            return false;
        }
        self.matched = mutant!("match-what-was-sent", self.next.prev().max(index), index);
        self.next = self.next.max(index.next());
        self.flow_paused = false;
        true
    }

    /// It refused the append after `rejected`; it can match at `hint` at the highest. Whether that is news.
    pub(crate) fn maybe_decrease(&mut self, rejected: Index, hint: Index) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched.next();
        } else {
            if self.next.prev() != rejected {
                return false;
            }
            self.next = rejected.min(hint.next()).max(self.matched.next());
            self.flow_paused = false;
        }
        self.sent_commit = self.sent_commit.min(self.next.prev());
        true
    }

    /// It has lost entries that it had acknowledged; it matches up to `hint` at the most. What it still has may not be
    /// durable, so nothing counts until it acknowledges anew.
    pub(crate) fn lose(&mut self, hint: Index) {
        self.matched = Index::ZERO;
        if self.state != ProgressState::Snapshot {
            self.become_probe();
            self.next = hint.next();
            self.sent_commit = self.sent_commit.min(hint);
        }
    }

    /// Whether an append would let it commit more, up to `index`.
    pub(crate) fn can_bump_commit(&self, index: Index) -> bool {
        index > self.sent_commit && self.sent_commit < self.next.prev()
    }

    /// An append with entries up to `last` (`next - 1`: none) and this commit index was sent.
    pub(crate) fn sent(&mut self, last: Index, size: u64, commit: Index) {
        if last >= self.next {
            match self.state {
                ProgressState::Replicate => {
                    self.next = last.next();
                    self.flow_paused = self.inflights.add(last, size);
                }
                ProgressState::Probe => self.flow_paused = true,
                ProgressState::Snapshot => unreachable!("no appends while a snapshot is awaited"),
            }
        } else if self.state == ProgressState::Replicate {
            self.flow_paused = self.inflights.is_full();
        }
        self.sent_commit = commit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProgressState::{Probe, Replicate, Snapshot};

    fn progress(state: ProgressState, matched: u64, next: u64, pending: u64) -> Progress {
        let mut progress = Progress::new(Index(next), Inflights::new(256, 0));
        progress.state = state;
        progress.matched = Index(matched);
        progress.pending_snapshot = Index(pending);
        progress
    }

    #[test]
    fn paused() {
        let check = |state: ProgressState, flow_paused: bool, expected: bool| {
            let mut progress = progress(state, 0, 1, 0);
            progress.flow_paused = flow_paused;
            assert_eq!(progress.is_paused(), expected, "{state:?} {flow_paused}");
        };
        check(Probe, false, false);
        check(Probe, true, true);
        check(Replicate, false, false);
        check(Replicate, true, true);
        check(Snapshot, false, true);
        check(Snapshot, true, true);
    }

    #[test]
    fn to_probe() {
        let check = |mut from: Progress, next: u64| {
            from.flow_paused = true;
            from.become_probe();
            assert_eq!((from.state, from.matched.0, from.next.0), (Probe, 1, next));
            assert!(!from.flow_paused);
        };
        check(progress(Replicate, 1, 5, 0), 2);
        check(progress(Snapshot, 1, 5, 10), 11);
        check(progress(Snapshot, 1, 5, 0), 2);
    }

    #[test]
    fn to_replicate_and_to_snapshot() {
        let mut one = progress(Probe, 1, 5, 0);
        one.become_replicate();
        assert_eq!((one.state, one.matched.0, one.next.0), (Replicate, 1, 2));
        one.become_snapshot(Index(10));
        assert_eq!((one.state, one.next.0, one.pending_snapshot.0, one.sent_commit.0), (Snapshot, 11, 10, 10));
    }

    #[test]
    fn update() {
        let check = |index: u64, news: bool, matched: u64, next: u64| {
            let mut progress = progress(Probe, 3, 5, 0);
            progress.flow_paused = true;
            assert_eq!(progress.maybe_update(Index(index)), news, "{index}");
            assert_eq!((progress.matched.0, progress.next.0, progress.flow_paused), (matched, next, !news), "{index}");
        };
        check(2, false, 3, 5);
        check(3, false, 3, 5);
        check(4, true, 4, 5);
        check(5, true, 5, 6);
    }

    #[test]
    fn decrease() {
        let check = |state: ProgressState, at: (u64, u64), rejected: u64, hint: u64, news: bool, next: u64| {
            let mut progress = progress(state, at.0, at.1, 0);
            let found = progress.maybe_decrease(Index(rejected), Index(hint));
            assert_eq!((found, progress.next.0), (news, next), "{state:?} {at:?} {rejected} {hint}");
            assert_eq!(progress.matched.0, at.0);
        };
        check(Replicate, (5, 10), 5, 5, false, 10);
        check(Replicate, (5, 10), 4, 4, false, 10);
        check(Replicate, (5, 10), 9, 9, true, 6);
        check(Probe, (0, 10), 5, 5, false, 10);
        check(Probe, (0, 10), 9, 9, true, 9);
        check(Probe, (0, 2), 1, 1, true, 1);
        check(Probe, (0, 1), 0, 0, true, 1);
        check(Probe, (0, 10), 9, 2, true, 3);
        check(Probe, (0, 10), 9, 0, true, 1);
    }
    /// A leader's log, a follower's, and what is under way between them.
    struct Pair {
        progress: Progress,
        /// The leader's last index.
        last: u64,
        /// Up to where the follower's log is the leader's, and durable.
        same: u64,
        /// Entries of some other leader after that.
        other: u64,
        /// Appends: the index before them, and the last one.
        appends: Vec<(u64, u64)>,
        /// Acknowledged up to an index; or refused after one, with where a match can be at the highest.
        answers: Vec<Result<u64, (u64, u64)>>,
    }

    impl Pair {
        fn send(&mut self, count: u64, even_empty: bool) {
            let next = self.progress.next.0;
            // When a heartbeat was answered, even a full window lets an empty append through: it finds out what was lost.
            let full = self.progress.inflights.is_full();
            let upto = if full { next - 1 } else { self.last.min(next + count - 1) };
            if !self.progress.is_paused() && (even_empty || self.progress.state == Probe || upto >= next) {
                self.progress.sent(Index(upto), 10 * (upto + 1 - next), Index::ZERO);
                self.appends.push((next - 1, upto));
            }
        }

        fn receive(&mut self, at: usize, hint: u64) {
            let (prev, upto) = self.appends[at];
            if prev > self.same {
                // All it knows is that it does not match there; where it does may be anywhere below.
                let highest = prev.saturating_sub(1).min(self.same + self.other);
                self.answers.push(Err((prev, self.same.max(highest.saturating_sub(hint)))));
                return;
            }
            if upto > self.same {
                (self.same, self.other) = (upto, 0);
            }
            self.answers.push(Ok(upto));
        }

        fn hear(&mut self, at: usize) {
            let progress = &mut self.progress;
            match self.answers[at] {
                Ok(index) => {
                    let probed = progress.matched.0 == index && progress.state == Probe;
                    if progress.maybe_update(Index(index)) || probed {
                        match progress.state {
                            Replicate => progress.inflights.free_to(Index(index)),
                            _ => progress.become_replicate(),
                        }
                    }
                }
                Err((rejected, hint)) => {
                    if progress.maybe_decrease(Index(rejected), Index(hint)) && progress.state == Replicate {
                        progress.become_probe();
                    }
                }
            }
        }

        fn check(&self) {
            let one = &self.progress;
            assert!(one.matched.0 <= self.same, "believes in {} of {}", one.matched, self.same);
            assert!(one.matched < one.next && one.next.0 <= self.last + 1, "{one:?}");
            assert!(one.inflights.count() <= 4, "{one:?}");
        }
    }

    proptest::proptest! {
        /// Whatever is lost, doubled and overtaken: the leader never believes in more than is there, and once nothing
        /// is lost any more, the follower has it all after a bounded number of messages.
        #[test]
        fn never_more_than_there_is(
            (last, same, other) in (0_u64..30, 0_u64..30, 0_u64..30),
            ops in proptest::collection::vec((0_u8..9, 0_u64..12), 1..300),
        ) {
            let same = same.min(last);
            let progress = Progress::new(Index(last + 1), Inflights::new(4, 100));
            let mut pair = Pair { progress, last, same, other, appends: Vec::new(), answers: Vec::new() };
            for (op, number) in ops {
                let append = usize::try_from(number).unwrap() % pair.appends.len().max(1);
                let answer = usize::try_from(number).unwrap() % pair.answers.len().max(1);
                match op {
                    0 => pair.last += number,
                    1 | 2 => pair.send(1 + number % 4, number > 8),
                    3 if !pair.appends.is_empty() => pair.receive(append, number),
                    4 if !pair.appends.is_empty() => {
                        pair.receive(append, number);
                        pair.appends.remove(append);
                    }
                    5 if !pair.appends.is_empty() => drop(pair.appends.remove(append)),
                    6 if !pair.answers.is_empty() => pair.hear(answer),
                    7 if !pair.answers.is_empty() => {
                        pair.hear(answer);
                        let _ = pair.answers.remove(answer);
                    }
                    // A heartbeat was answered; or the peer is said to be out of reach.
                    8 if number % 2 == 0 => pair.progress.flow_paused = false,
                    8 if pair.progress.state == Replicate => pair.progress.become_probe(),
                    _ => {}
                }
                pair.check();
            }
            // What is under way arrives, late, and after that nothing is lost.
            let mut rounds = 0;
            while pair.progress.matched.0 < pair.last {
                rounds += 1;
                assert!(rounds < 500, "{:?} of {}", pair.progress, pair.last);
                pair.progress.flow_paused = false;
                pair.send(3, true);
                for at in 0..pair.appends.len() {
                    pair.receive(at, 0);
                }
                pair.appends.clear();
                for at in 0..pair.answers.len() {
                    pair.hear(at);
                    pair.check();
                }
                pair.answers.clear();
            }
        }
    }
}
