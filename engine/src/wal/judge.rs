//! What ends a segment, and what to do about it: a table. Pure.

use super::block::BlockError;

/// What lies where the next block should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Here {
    /// The block that continues the log.
    Valid,
    /// Something else.
    Invalid(BlockError),
    /// The end of the file.
    Full,
}

/// What the next segment of the chain begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Following {
    /// A head that continues the log from here.
    Valid,
    /// A head that continues it further on, and is known to be the log's.
    Beyond,
    /// Neither.
    Invalid,
    /// There is no next segment.
    None,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The block is part of the log.
    Take,
    /// Go on with the next segment.
    Continue,
    /// Acknowledged data is damaged: go on behind it, in this segment.
    Resume,
    /// The same, with the next segment.
    Jump,
    /// The log ends here; whatever follows is cut.
    Cut,
    /// Acknowledged data is damaged, and the log ends here.
    Damaged,
    /// Written by a release, or for a log, that is not ours.
    Stranger,
}

/// The table. `resumes`: blocks that can only be the log's lie further on in this segment. `attested`: some block says
/// that more was durable than what has been taken so far.
pub(crate) fn judge(here: Here, following: Following, resumes: bool, attested: bool) -> Verdict {
    match (here, following) {
        (Here::Valid, _) => Verdict::Take,
        (Here::Invalid(BlockError::Version(_) | BlockError::Foreign(_)), _) => Verdict::Stranger,
        (_, Following::Valid) => Verdict::Continue,
        _ if resumes => Verdict::Resume,
        (_, Following::Beyond) => Verdict::Jump,
        _ if attested => Verdict::Damaged,
        _ => Verdict::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use BlockError as E;
        let errors = [E::Blank, E::Magic, E::Header, E::Misplaced, E::Length, E::Body, E::Stale];
        let strangers = [E::Version(3), E::Foreign(9)];
        let mut cases = 0;
        for (attested, resumes) in [(false, false), (false, true), (true, false), (true, true)] {
            for following in [Following::Valid, Following::Beyond, Following::Invalid, Following::None] {
                let mut check = |here, expected| {
                    cases += 1;
                    let verdict = judge(here, following, resumes, attested);
                    assert_eq!(verdict, expected, "{here:?} {following:?} {resumes} {attested}");
                };
                let end = match (following, resumes, attested) {
                    (Following::Valid, ..) => Verdict::Continue,
                    (_, true, _) => Verdict::Resume,
                    (Following::Beyond, ..) => Verdict::Jump,
                    (_, false, false) => Verdict::Cut,
                    (_, false, true) => Verdict::Damaged,
                };
                check(Here::Valid, Verdict::Take);
                check(Here::Full, end);
                for error in errors {
                    check(Here::Invalid(error), end);
                }
                for error in strangers {
                    check(Here::Invalid(error), Verdict::Stranger);
                }
            }
        }
        assert_eq!(cases, 4 * 4 * 11);
    }
}
