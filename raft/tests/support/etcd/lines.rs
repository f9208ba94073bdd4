//! The lines that etcd logs, made of the core's events.

use ringraft_raft::event::{LogSummary, NoElection, TransferEvent};
use ringraft_raft::{Body, EntryId, Event, Index, Message, PeerId, Refused, Role, Status, Term};

use super::show::{show_change, show_config, show_progress};

/// Severities, as numbers from 0 up; the last one is no severity but the level at which nothing is written.
pub const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];
pub const DEBUG: usize = 0;
pub const INFO: usize = 1;
pub const WARN: usize = 2;
pub const ERROR: usize = 3;

/// etcd's name for what a message says.
pub fn name(body: &Body) -> &'static str {
    match body {
        Body::Append { .. } => "MsgApp",
        Body::AppendAck { .. } | Body::AppendReject { .. } => "MsgAppResp",
        Body::Vote { .. } => "MsgVote",
        Body::VoteReply { .. } => "MsgVoteResp",
        Body::PreVote { .. } => "MsgPreVote",
        Body::PreVoteReply { .. } => "MsgPreVoteResp",
        Body::Heartbeat { .. } => "MsgHeartbeat",
        Body::HeartbeatReply { .. } => "MsgHeartbeatResp",
        Body::Snapshot { .. } => "MsgSnap",
        Body::ReadIndex { .. } => "MsgReadIndex",
        Body::ReadIndexReply { .. } | Body::ReadIndexReject { .. } => "MsgReadIndexResp",
        Body::TransferLeader { .. } => "MsgTransferLeader",
        Body::TimeoutNow => "MsgTimeoutNow",
    }
}

fn question(pre: bool) -> &'static str {
    if pre { "MsgPreVote" } else { "MsgVote" }
}

/// `logterm: 1, index: 2`.
fn ends(last: EntryId) -> String {
    format!("logterm: {}, index: {}", last.term, last.index)
}

/// `index: 2, term: 1`.
fn at(id: EntryId) -> String {
    format!("index: {}, term: {}", id.index, id.term)
}

fn hex(id: PeerId) -> String {
    format!("{:x}", id.0)
}

/// The lines of one event, each with its severity.
pub fn of(status: &Status, event: &Event<'_>) -> Vec<(usize, String)> {
    let Status { term, last, commit, .. } = *status;
    let own = hex(status.id);
    let voter = format!("{own} [{}, vote: {:x}]", ends(last), status.vote.0);
    let info = |text: String| vec![(INFO, text)];
    let debug = |text: String| vec![(DEBUG, text)];
    match *event {
        Event::Configured(conf) => info(format!("{own} switched to configuration {}", show_config(conf))),
        Event::Became => {
            let role = match status.role {
                Role::Follower => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            };
            info(format!("{own} became {role} at term {term}"))
        }
        Event::ElectionStarts => info(format!("{own} is starting a new election at term {term}")),
        Event::ElectionRefused(why) => vec![not_elected(&own, term, why)],
        Event::VoteAsked { to, pre } => {
            info(format!("{own} [{}] sent {} request to {:x} at term {term}", ends(last), question(pre), to.0))
        }
        Event::VoteCounted { from, pre, granted, yes, no } => {
            let (name, kind) = (question(pre), if granted { "" } else { " rejection" });
            vec![
                (INFO, format!("{own} received {name}Resp{kind} from {:x} at term {term}", from.0)),
                (INFO, format!("{own} has received {yes} {name}Resp votes and {no} vote rejections")),
            ]
        }
        Event::VoteAnswered { to, pre, last, granted } => {
            let (name, theirs, to) = (question(pre), ends(last), hex(to));
            let answer = if granted { format!("cast {name} for") } else { format!("rejected {name} from") };
            info(format!("{voter} {answer} {to} [{theirs}] at term {term}"))
        }
        Event::LeaseHeld { from, pre, last, ticks_left } => info(format!(
            "{voter} ignored {} from {:x} [{}] at term {term}: lease is not expired (remaining ticks: {ticks_left})",
            question(pre),
            from.0,
            ends(last)
        )),
        Event::QuorumLost => vec![(WARN, format!("{own} stepped down to follower since quorum is not active"))],
        Event::LeaderForgotten(lead) => info(format!("{own} forgetting leader {:x} at term {term}", lead.0)),
        Event::NewerTerm(message) => info(gate(&own, term, "received", "higher", message)),
        Event::OlderTerm(message) => info(gate(&own, term, "ignored", "lower", message)),
        Event::OlderSync { term: theirs } => info(format!(
            "{own} [term: {term}] ignored entry appends from a MsgStorageAppendResp message with lower term \
             [term: {theirs}]"
        )),
        Event::SyncMissing { index } => info(format!("entry at index {index} missing from unstable log; ignoring")),
        Event::SyncIsSnapshot { index } => info(format!("entry at index {index} matched unstable snapshot; ignoring")),
        Event::SyncMismatch { written: EntryId { term: theirs, index }, term } => info(format!(
            "entry at (index,term)=({index},{theirs}) mismatched with entry at ({index},{term}) in unstable log; \
             ignoring"
        )),
        Event::AppendRefused { from, prev, term } => {
            let ours = EntryId { term, index: prev.index };
            debug(format!("{own} [{}] rejected MsgApp [{}] from {:x}", ends(ours), ends(prev), from.0))
        }
        Event::Conflict { index, ours, theirs } => {
            info(format!("found conflict at index {index} [existing term: {ours}, conflicting term: {theirs}]"))
        }
        Event::TailReplaced { from } => info(format!("replace the unstable entries from index {from}")),
        Event::TailCut { from } => info(format!("truncate the unstable entries before index {from}")),
        Event::Rejected { from, rejected, hint: EntryId { term, index } } => debug(format!(
            "{own} received MsgAppResp(rejected, hint: (index {index}, term {term})) from {:x} for index {rejected}",
            from.0
        )),
        Event::Decreased(peer, progress) => {
            debug(format!("{own} decreased progress of {:x} to [{}]", peer.0, show_progress(progress)))
        }
        Event::Unreachable(peer, progress) => debug(format!(
            "{own} failed to send message to {:x} because it is unreachable [{}]",
            peer.0,
            show_progress(progress)
        )),
        Event::NoProgress(peer) => debug(format!("{own} no progress available for {:x}", peer.0)),
        Event::Lost(lost) => vec![(ERROR, format!("{own} sees a loss: {lost:?}"))],
        Event::SnapshotSent { to, at: id, first, progress } => debug(format!(
            "{own} [firstindex: {first}, commit: {commit}] sent snapshot[{}] to {:x} [{}]",
            at(id),
            to.0,
            show_progress(progress)
        )),
        Event::SnapshotAwaited(peer, progress) => {
            debug(format!("{own} paused sending replication messages to {:x} [{}]", peer.0, show_progress(progress)))
        }
        Event::SnapshotWithheld(peer) => {
            debug(format!("ignore sending snapshot to {:x} since it is not recently active", peer.0))
        }
        Event::SnapshotOvertaken(peer, progress) => debug(format!(
            "{own} recovered from needing snapshot, resumed sending replication messages to {:x} [{}]",
            peer.0,
            show_progress(progress)
        )),
        Event::SnapshotReported { to, ok, progress } => debug(format!(
            "{own} snapshot {}, resumed sending replication messages to {:x} [{}]",
            if ok { "succeeded" } else { "failed" },
            to.0,
            show_progress(progress)
        )),
        Event::RestoreStarts { at: id, log } => {
            info(format!("log [{}] starts to restore snapshot [{}]", summary(&log), at(id)))
        }
        Event::Restored(id) => vec![
            (INFO, format!("{} restored snapshot [{}]", cursors(&own, commit, last), at(id))),
            (INFO, format!("{own} [commit: {commit}] restored snapshot [{}]", at(id))),
        ],
        Event::FastForwarded(id) => {
            info(format!("{} fast-forwarded commit to snapshot [{}]", cursors(&own, commit, last), at(id)))
        }
        Event::SnapshotIgnored(id) => info(format!("{own} [commit: {commit}] ignored snapshot [{}]", at(id))),
        Event::SnapshotWithoutUs(_, conf) => vec![(
            WARN,
            format!(
                "{own} attempted to restore snapshot but it is not in the ConfState {}; should never happen",
                show_config(conf)
            ),
        )],
        Event::ConfChangeEmptied { change, conf, why } => {
            let reason = match why {
                Refused::ConfChangePending { index } => {
                    format!("possible unapplied conf change at index {index} (applied to {})", status.applied)
                }
                Refused::MustLeaveJoint => "must transition out of joint config first".into(),
                Refused::NotJoint => "not in joint state; refusing empty conf change".into(),
                other => other.to_string(),
            };
            let (change, conf) = (show_change(change), show_config(conf));
            info(format!("{own} ignoring conf change {change} at config {conf}: {reason}"))
        }
        Event::JointLeaving(conf) => {
            info(format!("initiating automatic transition out of joint configuration {}", show_config(conf)))
        }
        Event::JointKept(conf, to) => vec![
            (DEBUG, busy(&own, term, to)),
            (
                DEBUG,
                format!(
                    "not initiating automatic transition out of joint configuration {}: raft proposal dropped",
                    show_config(conf)
                ),
            ),
        ],
        Event::Transfer(peer, what) => vec![transfer(&own, term, &hex(peer), what)],
    }
}

/// Proposals are dropped while leadership is being handed over.
pub fn busy(own: &str, term: Term, target: PeerId) -> String {
    format!("{own} [term {term}] transfer leadership to {:x} is in progress; dropping proposal", target.0)
}

fn not_elected(own: &str, term: Term, why: NoElection) -> (usize, String) {
    match why {
        NoElection::Lease => unreachable!("etcd has no such rule"),
        NoElection::Leader => (DEBUG, format!("{own} ignoring MsgHup because already leader")),
        NoElection::Unpromotable => (WARN, format!("{own} is unpromotable and can not campaign")),
        NoElection::ConfChangePending => (
            WARN,
            format!(
                "{own} cannot campaign at term {term} since there are still pending configuration changes to apply"
            ),
        ),
    }
}

fn gate(own: &str, term: Term, verb: &str, kind: &str, message: &Message) -> String {
    let Message { from, term: theirs, body, .. } = message;
    format!("{own} [term: {term}] {verb} a {} message with {kind} term from {:x} [term: {theirs}]", name(body), from.0)
}

fn cursors(own: &str, commit: Index, last: EntryId) -> String {
    format!("{own} [commit: {commit}, lastindex: {}, lastterm: {}]", last.index, last.term)
}

fn summary(log: &LogSummary) -> String {
    format!(
        "committed={}, applied={}, applying={}, unstable.offset={}, unstable.offsetInProgress={}, \
         len(unstable.Entries)={}",
        log.committed, log.applied, log.applying, log.unstable_from, log.unwritten_from, log.unstable_count
    )
}

fn transfer(own: &str, term: Term, peer: &str, what: TransferEvent) -> (usize, String) {
    let start = format!("{own} [term {term}]");
    match what {
        TransferEvent::Started => (INFO, format!("{start} starts to transfer leadership to {peer}")),
        TransferEvent::ToldAtOnce => {
            (INFO, format!("{own} sends MsgTimeoutNow to {peer} immediately as {peer} already has up-to-date log"))
        }
        TransferEvent::Told => (INFO, format!("{own} sent MsgTimeoutNow to {peer} after received MsgAppResp")),
        TransferEvent::Repeated => {
            (INFO, format!("{start} transfer leadership to {peer} is in progress, ignores request to same node {peer}"))
        }
        TransferEvent::Aborted => (INFO, format!("{start} abort previous transferring leadership to {peer}")),
        TransferEvent::ToOurselves => {
            (DEBUG, format!("{own} is already leader. Ignored transferring leadership to self"))
        }
        TransferEvent::ToLearner => (DEBUG, format!("{own} is learner. Ignored transferring leadership")),
        TransferEvent::Received => {
            (INFO, format!("{start} received MsgTimeoutNow from {peer} and starts an election to get leadership."))
        }
    }
}
