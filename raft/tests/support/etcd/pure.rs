//! The suites without nodes: arithmetic on quorums, and changes of membership.

use std::fmt::Write as _;

use ringraft_raft::confchange::Draft;
use ringraft_raft::inflights::Inflights;
use ringraft_raft::quorum::{self, INFINITY, VoteResult};
use ringraft_raft::tracker::Tracker;
use ringraft_raft::{ConfState, Index, PeerId};

use super::show::{parse_ops, show_config, show_progress};
use crate::support::script::Directive;

/// Commands `committed` and `vote`.
pub fn quorum(directive: &Directive) -> String {
    let ids = |key: &str| {
        let values = directive.values(key).into_iter().filter(|text| *text != "zero");
        values.map(|text| PeerId(text.parse().unwrap())).collect::<Vec<_>>()
    };
    let (incoming, outgoing) = (ids("cfg"), ids("cfgj"));
    let joint = !directive.values("cfgj").is_empty();
    let mut voters: Vec<PeerId> = Vec::new();
    for id in incoming.iter().chain(&outgoing) {
        if !voters.contains(id) {
            voters.push(*id);
        }
    }
    let key = if directive.command == "vote" { "votes" } else { "idx" };
    let values = directive.values(key);
    if values.len() != voters.len() {
        voters.sort_unstable();
        let voters: Vec<_> = voters.iter().map(|id| format!("{id}:{{}}")).collect();
        // Go's numbers: 0 is no answer; 1 is no, and 2 is yes.
        let number = |text: &&str| match *text {
            "_" => "0".into(),
            "n" => "1".into(),
            "y" => "2".into(),
            text => String::from(text),
        };
        let (voters, values) = (voters.join(" "), values.iter().map(number).collect::<Vec<_>>().join(" "));
        return format!("error: mismatched input (explicit or _) for voters map[{voters}]: [{values}]");
    }
    let value = |id: PeerId| voters.iter().position(|voter| *voter == id).map(|at| values[at]);
    let conf = conf(&incoming, &outgoing);
    match directive.command.as_str() {
        "vote" => {
            let answer = |id| match value(id) {
                Some("y") => Some(true),
                Some("n") => Some(false),
                Some("_") | None => None,
                Some(other) => panic!("line {}: unknown vote {other}", directive.line),
            };
            vote(&conf, answer)
        }
        "committed" => {
            let index = |id| {
                let number = value(id).filter(|text| *text != "_").map(|text| text.parse::<u64>().unwrap());
                assert_ne!(number, Some(0), "line {}: 0 is not unknown", directive.line);
                number
            };
            let mut members = voters.clone();
            members.sort_unstable();
            committed(&conf, joint, &members, index)
        }
        other => panic!("line {}: unknown command {other}", directive.line),
    }
}

fn conf(incoming: &[PeerId], outgoing: &[PeerId]) -> ConfState {
    let sorted = |ids: &[PeerId]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    ConfState { voters: sorted(incoming), voters_outgoing: sorted(outgoing), ..ConfState::default() }
}

fn swapped(one: &ConfState) -> ConfState {
    conf(&one.voters_outgoing, &one.voters)
}

fn vote(conf: &ConfState, answer: impl Fn(PeerId) -> Option<bool>) -> String {
    let name = |result: VoteResult| format!("Vote{result:?}\n");
    let result = quorum::joint_vote(conf, &answer);
    let symmetric = quorum::joint_vote(&swapped(conf), &answer);
    let mut text = String::new();
    if symmetric != result {
        text = format!("Vote{symmetric:?} <-- via symmetry\n");
    }
    text + &name(result)
}

fn committed(
    conf: &ConfState,
    joint: bool,
    members: &[PeerId],
    index: impl Fn(PeerId) -> Option<u64> + Copy,
) -> String {
    let mut text = picture(members, index);
    let known = |id| index(id).unwrap_or(0);
    let result = quorum::joint_reached(conf, known);
    let mut check = |found: u64, how: &str| {
        if found != result {
            writeln!(text, "{} <-- {how}", show(found)).unwrap();
        }
    };
    if joint {
        check(quorum::joint_reached(&swapped(conf), known), "via symmetry");
    } else {
        let backed =
            |at: &u64| members.iter().filter(|id| known(**id) >= *at).count() >= quorum::majority(members.len());
        let naive = members.iter().map(|id| known(*id)).chain([0]).filter(backed).max();
        check(if members.is_empty() { INFINITY } else { naive.unwrap_or(0) }, "via alternative computation");
        check(quorum::joint_reached(&swapped(conf), known), "via zero-joint quorum");
        let twice = self::conf(&conf.voters, &conf.voters);
        check(quorum::joint_reached(&twice, known), "via self-joint quorum");
        for lowered in members.iter().filter(|id| (1..result).contains(&known(**id))) {
            for to in [known(*lowered) - 1, 0] {
                let changed = |id| if id == *lowered { to } else { known(id) };
                check(quorum::joint_reached(conf, changed), "overlaying");
            }
        }
    }
    writeln!(text, "{}", show(result)).unwrap();
    text
}

fn show(index: u64) -> String {
    if index == INFINITY { "∞".into() } else { index.to_string() }
}

/// How far everybody is, as a picture.
fn picture(members: &[PeerId], index: impl Fn(PeerId) -> Option<u64>) -> String {
    let n = members.len();
    if n == 0 {
        return "<empty majority quorum>".into();
    }
    let mut order: Vec<(u64, PeerId)> = members.iter().map(|id| (index(*id).unwrap_or(0), *id)).collect();
    order.sort_unstable();
    let mut bars: Vec<usize> = vec![0; n];
    for at in 1..n {
        bars[at] = if order[at].0 > order[at - 1].0 { at } else { bars[at - 1] };
    }
    let mut text = format!("{}    idx\n", " ".repeat(n));
    for id in members {
        let bar = bars[order.iter().position(|(_, other)| other == id).unwrap()];
        match index(*id) {
            Some(_) => write!(text, "{}>{}", "x".repeat(bar), " ".repeat(n - bar)).unwrap(),
            None => write!(text, "?{}", " ".repeat(n)).unwrap(),
        }
        writeln!(text, " {:>5}    (id={:x})", index(*id).unwrap_or(0), id.0).unwrap();
    }
    text
}

/// Changes of membership, one after the other.
pub struct Changer {
    tracker: Tracker,
    last: Index,
}

impl Default for Changer {
    fn default() -> Changer {
        Changer { tracker: Tracker::default(), last: Index::ZERO }
    }
}

impl Changer {
    /// Commands `simple`, `enter-joint` and `leave-joint`.
    pub fn handle(&mut self, directive: &Directive) -> String {
        let text = self.change(directive).unwrap_or_else(|error| error + "\n");
        self.last = self.last.next();
        text
    }

    fn change(&mut self, directive: &Directive) -> Result<String, String> {
        let ops = parse_ops(&directive.input)?;
        let draft = Draft::from(self.tracker.conf());
        let draft = match directive.command.as_str() {
            "simple" => draft.simple(&ops),
            "enter-joint" => draft.enter_joint(super::flag(directive, "autoleave").unwrap_or(false), &ops),
            "leave-joint" if !ops.is_empty() => return Err("this command takes no input".into()),
            "leave-joint" => draft.leave_joint(),
            _ => return Err("unknown command".into()),
        };
        let window = Inflights::new(10, 0);
        self.tracker.install(draft.map_err(|error| error.to_string())?, self.last, &window);
        let mut text = show_config(self.tracker.conf()) + "\n";
        for (id, progress) in self.tracker.iter() {
            writeln!(text, "{id}: {}", show_progress(progress)).unwrap();
        }
        Ok(text)
    }
}
