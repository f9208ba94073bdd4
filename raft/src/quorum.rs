//! Arithmetic on votes and indexes: what a majority, or both majorities of a joint configuration, agree on. Pure.

use crate::mutant::mutant;
use crate::types::{ConfState, PeerId};

/// What the empty set acknowledges: everything, so that the other half of a configuration decides alone.
pub const INFINITY: u64 = u64::MAX;

/// How a vote stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VoteResult {
    /// A quorum said yes.
    Won,
    /// Neither is certain yet.
    Pending,
    /// A quorum of yes can no longer come together.
    Lost,
}

/// Members that make a majority of `count`.
#[must_use]
pub fn majority(count: usize) -> usize {
    mutant!("half-is-a-majority", count.div_ceil(2), count / 2 + 1)
}

/// The highest number that a majority of `voters` has reached; [`INFINITY`] for the empty set. Whoever is not heard of
/// has reached 0.
pub fn reached(voters: &[PeerId], of: impl Fn(PeerId) -> u64) -> u64 {
    const SORTED_MAX: usize = 9;
    let count = voters.len();
    match *voters {
        [] => return INFINITY,
        // Most groups are three: the middle one.
        [a, b, c] if majority(3) == 2 => {
            let (a, b, c) = (of(a), of(b), of(c));
            return a.min(b).max(a.max(b).min(c));
        }
        _ => {}
    }
    if count <= SORTED_MAX {
        let mut numbers = [0; SORTED_MAX];
        for (number, voter) in numbers.iter_mut().zip(voters) {
            *number = of(*voter);
        }
        let numbers = &mut numbers[..count];
        numbers.sort_unstable();
        return numbers[count - majority(count)];
    }
    // Large sets are rare: quadratic, but without a list on the heap.
    let backed = |number: u64| voters.iter().filter(|voter| of(**voter) >= number).count() >= majority(count);
    voters.iter().map(|voter| of(*voter)).filter(|number| backed(*number)).max().unwrap_or(0)
}

/// [`reached`] in both halves of a configuration.
pub fn joint_reached(conf: &ConfState, of: impl Fn(PeerId) -> u64) -> u64 {
    let outgoing = mutant!("commit-by-one-half", INFINITY, reached(&conf.voters_outgoing, &of));
    reached(&conf.voters, &of).min(outgoing)
}

/// [`reached`] in both halves, and by somebody in each half who keeps payloads: what a quorum of witnesses alone holds
/// could not be handed to anybody (see [`crate::witness`]).
pub fn joint_held(conf: &ConfState, of: impl Fn(PeerId) -> u64) -> u64 {
    if conf.witnesses.is_empty() {
        return joint_reached(conf, of);
    }
    let full = mutant!("witnesses-commit-alone", INFINITY, full_reached(conf, &of));
    joint_reached(conf, of).min(full)
}

/// The highest number that a voter with payloads has reached in each half; [`INFINITY`] for an empty half.
pub fn full_reached(conf: &ConfState, of: impl Fn(PeerId) -> u64) -> u64 {
    let half = |voters: &[PeerId]| {
        let full = voters.iter().filter(|id| !conf.is_witness(**id)).map(|id| of(*id)).max();
        if voters.is_empty() { INFINITY } else { full.unwrap_or(0) }
    };
    half(&conf.voters).min(mutant!("payloads-in-one-half", INFINITY, half(&conf.voters_outgoing)))
}

/// How a vote among `voters` stands; `None` for those who have not answered. The empty set has won.
pub fn vote(voters: &[PeerId], of: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
    if voters.is_empty() {
        return VoteResult::Won;
    }
    let (mut granted, mut missing) = (0, 0);
    for voter in voters {
        match of(*voter) {
            Some(true) => granted += 1,
            Some(false) => {}
            None => missing += 1,
        }
    }
    match majority(voters.len()) {
        quorum if granted >= quorum => VoteResult::Won,
        quorum if granted + missing >= quorum => VoteResult::Pending,
        _ => VoteResult::Lost,
    }
}

/// How a vote stands in both halves of a configuration: won needs both, lost needs one.
pub fn joint_vote(conf: &ConfState, of: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
    let incoming = vote(&conf.voters, &of);
    let outgoing = mutant!("elected-by-one-half", incoming, vote(&conf.voters_outgoing, &of));
    match (incoming, outgoing) {
        (one, other) if one == other => one,
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        _ => VoteResult::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn voters(count: usize) -> Vec<PeerId> {
        (1..=count as u64).map(PeerId).collect()
    }

    /// Tries every number from the top and counts who has reached it.
    fn reached_naive(numbers: &[u64]) -> u64 {
        let backed = |at: u64| numbers.iter().filter(|number| **number >= at).count() > numbers.len() / 2;
        (0..=numbers.iter().copied().max().unwrap_or(0)).rev().find(|at| backed(*at)).unwrap_or(INFINITY)
    }

    #[test]
    fn reached_by_a_majority() {
        let check = |numbers: &[u64], expected: u64| {
            let of = |id: PeerId| numbers[usize::try_from(id.0).unwrap() - 1];
            assert_eq!(reached(&voters(numbers.len()), of), expected, "{numbers:?}");
        };
        check(&[], INFINITY);
        check(&[0], 0);
        check(&[12], 12);
        check(&[12, 5], 5);
        check(&[12, 5, 0], 5);
        check(&[12, 5, 6], 6);
        check(&[101, 104, 103, 103], 103);
        check(&[101, 102, 103, 103, 0], 102);
        check(&[7, 6, 5, 4, 3, 2, 1, 8, 9, 10, 11], 6);
    }

    #[test]
    fn votes_of_a_majority() {
        let check = |votes: &str, expected: VoteResult| {
            let of = |id: PeerId| match votes.as_bytes()[usize::try_from(id.0).unwrap() - 1] {
                b'y' => Some(true),
                b'n' => Some(false),
                _ => None,
            };
            assert_eq!(vote(&voters(votes.len()), of), expected, "{votes}");
        };
        check("", VoteResult::Won);
        check("_", VoteResult::Pending);
        check("n", VoteResult::Lost);
        check("y", VoteResult::Won);
        check("yn", VoteResult::Lost);
        check("y_", VoteResult::Pending);
        check("yy_", VoteResult::Won);
        check("yn_", VoteResult::Pending);
        check("nn_", VoteResult::Lost);
        check("yynn_", VoteResult::Pending);
        check("ynnn_", VoteResult::Lost);
        check("yyynn", VoteResult::Won);
    }

    /// Tries every number from the top: in each half, a majority has reached it, and one of them keeps payloads.
    fn held_naive(conf: &ConfState, numbers: &[u64]) -> u64 {
        let of = |id: &PeerId| numbers[usize::try_from(id.0).unwrap() - 1];
        let held = |half: &[PeerId], at: u64| {
            let who: Vec<_> = half.iter().filter(|id| of(id) >= at).collect();
            half.is_empty() || 2 * who.len() > half.len() && who.iter().any(|id| !conf.witnesses.contains(id))
        };
        let both = |at: &u64| held(&conf.voters, *at) && held(&conf.voters_outgoing, *at);
        if conf.voters.is_empty() && conf.voters_outgoing.is_empty() {
            return INFINITY;
        }
        (0..=20).rev().find(both).unwrap_or(0)
    }

    #[test]
    fn held_with_payloads() {
        let check = |halves: (&[u64], &[u64]), witnesses: &[u64], numbers: &[u64], expected: u64| {
            let ids = |list: &[u64]| list.iter().copied().map(PeerId).collect::<Vec<_>>();
            let conf = ConfState {
                voters: ids(halves.0),
                voters_outgoing: ids(halves.1),
                witnesses: ids(witnesses),
                ..ConfState::default()
            };
            let of = |id: PeerId| numbers[usize::try_from(id.0).unwrap() - 1];
            assert_eq!(joint_held(&conf, of), expected, "{conf:?} {numbers:?}");
            assert_eq!(held_naive(&conf, numbers), expected);
        };
        // Two full ones and a witness: it breaks the tie.
        check((&[1, 2, 3], &[]), &[3], &[7, 2, 5], 5);
        check((&[1, 2, 3], &[]), &[3], &[2, 7, 5], 5);
        // One and two witnesses: a majority of them says nothing without the one.
        check((&[1, 2, 3], &[]), &[2, 3], &[0, 7, 7], 0);
        check((&[1, 2, 3], &[]), &[2, 3], &[4, 7, 7], 4);
        check((&[1, 2, 3], &[]), &[2, 3], &[9, 7, 0], 7);
        check((&[1, 2, 3, 4, 5], &[]), &[3, 4, 5], &[1, 2, 9, 9, 9], 2);
        // Each half needs a full one of its own.
        check((&[4, 5, 6], &[1, 2, 3]), &[3, 5, 6], &[9, 9, 9, 3, 9, 9], 3);
        check((&[1, 5, 6], &[1, 2, 3]), &[3, 5, 6], &[9, 0, 9, 0, 9, 9], 9);
        check((&[4, 5, 6], &[1, 2, 3]), &[5, 6], &[2, 2, 9, 9, 9, 9], 2);
    }

    proptest! {
        #[test]
        fn held_like_the_naive_one(
            numbers in proptest::collection::vec(0_u64..20, 6),
            kinds in proptest::collection::vec((0_u8..4, proptest::bool::ANY), 6),
        ) {
            let ids = |keep: &dyn Fn(&(u8, bool)) -> bool| -> Vec<PeerId> {
                let all = (1..).map(PeerId).zip(&kinds);
                all.filter(|(_, kind)| keep(kind)).map(|(id, _)| id).collect()
            };
            let conf = ConfState {
                voters: ids(&|kind| kind.0 & 1 != 0),
                voters_outgoing: ids(&|kind| kind.0 & 2 != 0),
                witnesses: ids(&|kind| kind.0 != 0 && kind.1),
                ..ConfState::default()
            };
            let of = |id: PeerId| numbers[usize::try_from(id.0).unwrap() - 1];
            prop_assert_eq!(joint_held(&conf, of), held_naive(&conf, &numbers));
            let none = ConfState { witnesses: Vec::new(), ..conf };
            prop_assert_eq!(joint_held(&none, of), joint_reached(&none, of));
        }

        #[test]
        fn reached_like_the_naive_one(numbers in proptest::collection::vec(0_u64..20, 0..14)) {
            let of = |id: PeerId| numbers[usize::try_from(id.0).unwrap() - 1];
            prop_assert_eq!(reached(&voters(numbers.len()), of), reached_naive(&numbers));
        }

        #[test]
        fn halves_of_a_joint_vote_are_equal(votes in proptest::collection::vec(0_u8..3, 6), cut in 0_usize..6) {
            let of = |id: PeerId| match votes[usize::try_from(id.0).unwrap() - 1] {
                0 => None,
                answer => Some(answer == 1),
            };
            let all = voters(6);
            let (left, right) = (all[..cut].to_vec(), all[cut / 2..].to_vec());
            let joint = |voters: &[PeerId], voters_outgoing: &[PeerId]| ConfState {
                voters: voters.into(),
                voters_outgoing: voters_outgoing.into(),
                ..ConfState::default()
            };
            let (one, other) = (joint(&left, &right), joint(&right, &left));
            prop_assert_eq!(joint_vote(&one, of), joint_vote(&other, of));
        }
    }
}
