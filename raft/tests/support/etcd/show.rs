//! What etcd's harness knows, and how it prints it.

use std::fmt::Write as _;

use ringraft_raft::{
    ConfChange, ConfChangeOp, ConfState, EntryId, EntryKind, EntryMeta, Index, Message, PeerId, Progress,
    ProgressState, SyncTicket, Term, Transition,
};

pub const APPEND_THREAD: u64 = u64::MAX;
pub const APPLY_THREAD: u64 = u64::MAX - 1;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Normal(String),
    Change(ConfChange),
}

impl Data {
    /// Bytes of its encoding by etcd; those of a change are the sum of its fields.
    pub fn size(&self, kind: EntryKind) -> u32 {
        let varint = |number: u64| (number | 1).ilog2() / 7 + 1;
        match self {
            Data::Normal(text) => u32::try_from(text.len()).unwrap(),
            Data::Change(change) => {
                let op = |op: &ConfChangeOp| 3 + varint(peer(op).0);
                let ops: u32 =
                    change.ops.iter().map(|one| op(one) + 2 * u32::from(kind != EntryKind::ConfChange)).sum();
                ops + if kind == EntryKind::ConfChange { 0 } else { 2 }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub term: Term,
    pub index: Index,
    pub kind: EntryKind,
    pub data: Data,
}

impl Entry {
    /// One of the core's own.
    pub fn empty(index: Index, meta: EntryMeta) -> Entry {
        let data = match meta.kind {
            EntryKind::Normal => Data::Normal(String::new()),
            _ => Data::Change(ConfChange::leave_joint()),
        };
        Entry { term: meta.term, index, kind: meta.kind, data }
    }

    pub fn meta(&self) -> EntryMeta {
        // The core's own change of membership carries nothing, not even an empty encoding.
        let size = match &self.data {
            Data::Change(change) if change.leaves_joint() => 0,
            data => data.size(self.kind),
        };
        EntryMeta { term: self.term, kind: self.kind, size }
    }

    pub fn show(&self) -> String {
        let name = match self.kind {
            EntryKind::Normal => "EntryNormal",
            EntryKind::ConfChange => "EntryConfChange",
            EntryKind::ConfChangeV2 => "EntryConfChangeV2",
        };
        let data = match &self.data {
            Data::Normal(text) => format!(" {}", quoted(text)),
            Data::Change(change) if change.ops.is_empty() => String::new(),
            Data::Change(change) => format!(" {}", show_ops(&change.ops)),
        };
        format!("{}/{} {name}{data}", self.term, self.index)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub at: EntryId,
    pub conf: ConfState,
    pub data: String,
}

impl Snapshot {
    pub fn show(&self) -> String {
        format!("Index:{} Term:{} ConfState:{}", self.at.index, self.at.term, show_conf_state(&self.conf))
    }
}

/// What stands behind a message as it is printed.
#[derive(Clone, Debug)]
pub enum Inner {
    Raft(Message),
    Proposal,
    Append,
    Apply,
    Synced(SyncTicket),
    Applied,
}

/// A message with all that etcd's has.
#[derive(Clone, Debug)]
pub struct Msg {
    pub name: &'static str,
    pub from: u64,
    pub to: u64,
    pub term: u64,
    pub log: EntryId,
    pub entries: Vec<Entry>,
    pub commit: u64,
    pub vote: u64,
    pub snapshot: Option<Snapshot>,
    pub reject: Option<u64>,
    pub responses: Vec<Msg>,
    pub inner: Inner,
}

impl Msg {
    pub fn new(name: &'static str, from: u64, to: u64, inner: Inner) -> Msg {
        Msg {
            name,
            from,
            to,
            term: 0,
            log: EntryId::default(),
            entries: Vec::new(),
            commit: 0,
            vote: 0,
            snapshot: None,
            reject: None,
            responses: Vec::new(),
            inner,
        }
    }

    /// Whether it never leaves the node.
    pub fn is_local(&self) -> bool {
        let reserved = |id| id == APPEND_THREAD || id == APPLY_THREAD;
        self.from == self.to || reserved(self.from) || reserved(self.to)
    }

    pub fn show(&self) -> String {
        self.show_at("")
    }

    fn show_at(&self, indent: &str) -> String {
        let (from, to) = (show_id(self.from), show_id(self.to));
        let mut text =
            format!("{from}->{to} {} Term:{} Log:{}/{}", self.name, self.term, self.log.term, self.log.index);
        if let Some(hint) = self.reject {
            write!(text, " Rejected (Hint: {hint})").unwrap();
        }
        if self.commit != 0 {
            write!(text, " Commit:{}", self.commit).unwrap();
        }
        if self.vote != 0 {
            write!(text, " Vote:{}", self.vote).unwrap();
        }
        match self.entries.as_slice() {
            [] => {}
            [one] => write!(text, " Entries:[{}]", one.show()).unwrap(),
            many => {
                text += " Entries:[";
                many.iter().for_each(|one| write!(text, "\n{indent}  {}", one.show()).unwrap());
                write!(text, "\n{indent}]").unwrap();
            }
        }
        if let Some(snapshot) = self.snapshot.as_ref().filter(|one| one.at.index > Index::ZERO) {
            write!(text, "\n{indent}  Snapshot: {}", snapshot.show()).unwrap();
        }
        if !self.responses.is_empty() {
            text += " Responses:[";
            let deeper = format!("{indent}  ");
            self.responses.iter().for_each(|one| write!(text, "\n{deeper}{}", one.show_at(&deeper)).unwrap());
            write!(text, "\n{indent}]").unwrap();
        }
        text
    }
}

fn show_id(id: u64) -> String {
    match id {
        0 => "None".into(),
        APPEND_THREAD => "AppendThread".into(),
        APPLY_THREAD => "ApplyThread".into(),
        id => format!("{id:x}"),
    }
}

fn peer(op: &ConfChangeOp) -> PeerId {
    match *op {
        ConfChangeOp::AddVoter(id)
        | ConfChangeOp::AddLearner(id)
        | ConfChangeOp::Remove(id)
        | ConfChangeOp::Update(id)
        | ConfChangeOp::AddWitness(id) => id,
    }
}

fn show_ops(ops: &[ConfChangeOp]) -> String {
    let one = |op: &ConfChangeOp| {
        let letter = match op {
            ConfChangeOp::AddVoter(_) => 'v',
            ConfChangeOp::AddLearner(_) => 'l',
            ConfChangeOp::Remove(_) => 'r',
            ConfChangeOp::Update(_) => 'u',
            ConfChangeOp::AddWitness(_) => 'w',
        };
        format!("{letter}{}", peer(op))
    };
    ops.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// `v1 l2 r3 u4`.
pub fn parse_ops(text: &str) -> Result<Vec<ConfChangeOp>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let one = |word: &str| {
        let mut letters = word.chars();
        let kind = letters.next().filter(|_| word.len() >= 2).ok_or(format!("unknown token {word}"))?;
        let of = match kind {
            'v' => ConfChangeOp::AddVoter,
            'l' => ConfChangeOp::AddLearner,
            'r' => ConfChangeOp::Remove,
            'u' => ConfChangeOp::Update,
            _ => return Err(format!("unknown input: {word}")),
        };
        let number = letters.as_str();
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let why = if digits { "value out of range" } else { "invalid syntax" };
        let error = || format!("strconv.ParseUint: parsing {}: {why}", quoted(number));
        let id = number.parse().ok().filter(|_| digits).ok_or_else(error)?;
        Ok(of(PeerId(id)))
    };
    text.trim().split(' ').map(one).collect()
}

/// A change as etcd's log prints it.
pub fn show_change(change: &ConfChange) -> String {
    let transition = match change.transition {
        Transition::Auto => "Auto",
        Transition::JointImplicit => "JointImplicit",
        Transition::JointExplicit => "JointExplicit",
    };
    let mut text = format!("transition:ConfChangeTransition{transition}");
    for op in &change.ops {
        let name = match op {
            ConfChangeOp::AddVoter(_) => "AddNode",
            ConfChangeOp::AddLearner(_) => "AddLearnerNode",
            ConfChangeOp::Remove(_) => "RemoveNode",
            ConfChangeOp::Update(_) => "UpdateNode",
            ConfChangeOp::AddWitness(_) => unreachable!("etcd has no witnesses"),
        };
        write!(text, " changes:{{type:ConfChange{name} node_id:{}}}", peer(op)).unwrap();
    }
    text
}

/// A text between quotes, as Go's `%q` prints it.
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            '\x07' => out += "\\a",
            '\x08' => out += "\\b",
            '\x0b' => out += "\\v",
            '\x0c' => out += "\\f",
            '\r' => out += "\\r",
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)).unwrap(),
            c => out.push(c),
        }
    }
    out + "\""
}

fn show_conf_state(conf: &ConfState) -> String {
    let list = |ids: &[PeerId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    format!(
        "Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        list(&conf.voters),
        list(&conf.voters_outgoing),
        list(&conf.learners),
        list(&conf.learners_next),
        conf.auto_leave
    )
}

/// A membership, `voters=(1 2)&&(1) learners=(3) autoleave`.
pub fn show_config(conf: &ConfState) -> String {
    let set =
        |ids: &[PeerId]| format!("({})", ids.iter().map(|id| format!("{:x}", id.0)).collect::<Vec<_>>().join(" "));
    let mut text = format!("voters={}", set(&conf.voters));
    let rest =
        [("&&", &conf.voters_outgoing), (" learners=", &conf.learners), (" learners_next=", &conf.learners_next)];
    for (name, ids) in rest.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        write!(text, "{name}{}", set(ids)).unwrap();
    }
    text + if conf.auto_leave { " autoleave" } else { "" }
}

pub fn show_progress(one: &Progress) -> String {
    let state = match one.state {
        ProgressState::Probe => "StateProbe",
        ProgressState::Replicate => "StateReplicate",
        ProgressState::Snapshot => "StateSnapshot",
    };
    let mut text = format!("{state} match={} next={}", one.matched, one.next);
    for (set, name) in [(one.learner, " learner"), (one.is_paused(), " paused")] {
        text += if set { name } else { "" };
    }
    if one.pending_snapshot > Index::ZERO {
        write!(text, " pendingSnap={}", one.pending_snapshot).unwrap();
    }
    text += if one.recently_active { "" } else { " inactive" };
    if one.inflights.count() > 0 {
        write!(text, " inflight={}", one.inflights.count()).unwrap();
        text += if one.inflights.is_full() { "[full]" } else { "" };
    }
    text
}
