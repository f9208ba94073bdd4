//! Scenarios of a few members, as scripts under `testdata/`.

mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use ringraft_raft::{
    Body, ConfChange, ConfChangeOp, ConfState, Config, EntryKind, Index, Message, Payloads, PeerId, Proposed, ReadId,
    ReadPolicy, Ready, SteppedDown, Storage, Transition,
};
use support::node::{Disk, Node, Packet, Payload};
use support::script::{self, Directive};

#[derive(Default)]
struct Scene {
    nodes: Vec<Node>,
    network: Vec<Packet>,
    changes: HashMap<Payload, ConfChange>,
    next_payload: Payload,
}

impl Scene {
    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(id - 1).unwrap()]
    }

    fn handle(&mut self, directive: &Directive) -> String {
        let ids = directive.ids();
        let first = ids.first().copied().unwrap_or(0);
        match directive.command.as_str() {
            "add-nodes" => self.add_nodes(first, directive),
            "bootstrap" => return self.bootstrap(&ids, directive),
            "campaign" => self.node(first).raft.campaign(),
            "tick" => (0..directive.value("n").unwrap_or(1)).for_each(|_| self.node(first).raft.tick()),
            "propose" => return self.propose(first, u32::try_from(ids[1]).unwrap()),
            "propose-conf-change" => return self.propose_conf_change(first, directive),
            "process-ready" => return self.process_ready(first),
            "finish-write" => return self.finish_write(first),
            "finish-apply" => return self.finish_apply(first),
            "deliver" => return self.deliver(first, directive.has("drop")),
            "stabilize" => {
                let text = self.stabilize(&ids);
                if !directive.has("quiet") {
                    return text;
                }
            }
            "read-index" => return shown(self.node(first).raft.read_index(ReadId(ids[1]))),
            "transfer-leader" => return shown(self.node(first).raft.transfer_leader(PeerId(ids[1]))),
            "forget-leader" => return shown(self.node(first).raft.forget_leader()),
            "report-unreachable" => self.node(first).raft.report_unreachable(PeerId(ids[1])),
            "report-snapshot" => {
                let ok = directive.value("ok").unwrap_or(true);
                self.node(first).raft.report_snapshot(PeerId(ids[1]), ok);
            }
            "compact" => self.node(first).compact(),
            "restart" => self.node(first).restart(),
            "raft-state" => return self.raft_state(),
            "raft-log" => return self.raft_log(first),
            "progress" => return self.progress(first),
            other => panic!("line {}: unknown command {other}", directive.line),
        }
        "ok".into()
    }

    fn add_nodes(&mut self, count: u64, directive: &Directive) {
        let list = |key: &str| directive.numbers(key).into_iter().map(PeerId).collect::<Vec<_>>();
        let conf = ConfState {
            voters: list("voters"),
            learners: list("learners"),
            witnesses: list("witnesses"),
            ..ConfState::default()
        };
        let disk = Disk::new(conf.clone());
        for _ in 0..count {
            let id = PeerId(self.nodes.len() as u64 + 1);
            let flag = |key: &str, default: bool| directive.value(key).unwrap_or(default);
            let witness = conf.is_witness(id) || flag("witness", false);
            let read_policy = if flag("lease", false) { ReadPolicy::Lease } else { ReadPolicy::Quorum };
            let mut config = Config {
                election_ticks: 3,
                pre_vote: flag("pre-vote", false),
                check_quorum: flag("check-quorum", false),
                forward_proposals: flag("forward", true),
                witness,
                read_policy,
                ..Config::new(id)
            };
            config.inflight_count_max = directive.value("inflights").unwrap_or(config.inflight_count_max);
            config.message_size_max = directive.value("message-size-max").unwrap_or(config.message_size_max);
            config.apply_size_max = directive.value("apply-size-max").unwrap_or(config.apply_size_max);
            config.uncommitted_size_max =
                directive.value("uncommitted-size-max").unwrap_or(config.uncommitted_size_max);
            self.nodes.push(Node::new(config, disk.clone(), false));
        }
    }

    fn payload(&mut self) -> Payload {
        self.next_payload += 1;
        self.next_payload
    }

    fn propose(&mut self, id: u64, size: u32) -> String {
        let payload = self.payload();
        match self.node(id).propose(payload, size) {
            Ok(Proposed::Appended(at)) => format!("appended {at}"),
            Ok(Proposed::Forward(leader)) => format!("forward to {leader}"),
            Err(refused) => format!("refused: {refused}"),
        }
    }

    fn bootstrap(&mut self, ids: &[u64], directive: &Directive) -> String {
        let founders: Vec<_> = directive.input.split_whitespace().map(op).collect();
        let payloads: Vec<_> = founders.iter().map(|_| self.payload()).collect();
        let mut text = String::new();
        for id in ids {
            match self.node(*id).bootstrap(&founders, &payloads) {
                Ok(founded) => {
                    let last = founded.last().expect("somebody").0;
                    self.changes.extend(payloads.iter().copied().zip(founded.into_iter().map(|(_, change)| change)));
                    writeln!(text, "{id} founds the group up to {last}").unwrap();
                }
                Err(error) => writeln!(text, "{id}: {error}").unwrap(),
            }
        }
        text
    }

    fn propose_conf_change(&mut self, id: u64, directive: &Directive) -> String {
        let transition = match directive.value::<String>("transition").as_deref() {
            Some("implicit") => Transition::JointImplicit,
            Some("explicit") => Transition::JointExplicit,
            _ => Transition::Auto,
        };
        let change = ConfChange { transition, ops: directive.input.split_whitespace().map(op).collect() };
        let payload = self.payload();
        self.changes.insert(payload, change.clone());
        match self.node(id).propose_conf_change(&change, payload) {
            Ok(Proposed::Appended(at)) => format!("appended {at}"),
            Ok(Proposed::Forward(leader)) => format!("forward to {leader}"),
            Err(refused) => format!("refused: {refused}"),
        }
    }

    fn process_ready(&mut self, id: u64) -> String {
        if !self.node(id).raft.has_ready() {
            return "nothing ready".into();
        }
        let mut packets = Vec::new();
        let ready = self.node(id).show_ready(&mut packets);
        let text = show_ready(&ready, &packets);
        self.network.append(&mut packets);
        text
    }

    fn finish_write(&mut self, id: u64) -> String {
        if !self.node(id).has_write() {
            return "no write".into();
        }
        let from = self.network.len();
        let mut network = std::mem::take(&mut self.network);
        self.node(id).finish_write(&mut network);
        self.network = network;
        let mut text = String::from("written\n");
        for packet in &self.network[from..] {
            writeln!(text, "{}", show(packet)).unwrap();
        }
        text
    }

    fn finish_apply(&mut self, id: u64) -> String {
        let changes = self.changes.clone();
        let mut text = String::new();
        self.node(id).finish_apply(&changes, |index, meta, _, image| {
            write!(text, "applied {}/{index}", meta.term).unwrap();
            if meta.kind != EntryKind::Normal {
                write!(text, " {}", show_conf(&image.conf)).unwrap();
            }
            text.push('\n');
        });
        if text.is_empty() { "nothing to apply".into() } else { text }
    }

    fn deliver(&mut self, to: u64, dropping: bool) -> String {
        let (packets, rest) = std::mem::take(&mut self.network).into_iter().partition(|one| one.message.to.0 == to);
        self.network = rest;
        let packets: Vec<Packet> = packets;
        let mut text = String::new();
        for packet in packets {
            if dropping {
                writeln!(text, "dropped: {}", show(&packet)).unwrap();
                continue;
            }
            writeln!(text, "{}", show(&packet)).unwrap();
            if let Err(error) = self.node(to).step(&packet) {
                writeln!(text, "error: {error}").unwrap();
            }
        }
        if text.is_empty() { "no messages".into() } else { text }
    }

    fn stabilize(&mut self, ids: &[u64]) -> String {
        let all: Vec<u64> = (1..=self.nodes.len() as u64).collect();
        let ids = if ids.is_empty() { &all } else { ids };
        let mut text = String::new();
        let section = |text: &mut String, head: String, body: &str| {
            writeln!(text, "> {head}").unwrap();
            body.lines().for_each(|line| writeln!(text, "  {line}").unwrap());
        };
        loop {
            let before = text.len();
            for id in ids {
                if self.node(*id).raft.has_ready() {
                    let body = self.process_ready(*id);
                    section(&mut text, format!("{id} ready"), &body);
                }
            }
            for id in ids {
                if self.network.iter().any(|packet| packet.message.to.0 == *id) {
                    let body = self.deliver(*id, false);
                    section(&mut text, format!("{id} receives"), &body);
                }
            }
            for id in ids {
                while self.node(*id).has_write() {
                    let body = self.finish_write(*id);
                    section(&mut text, format!("{id} disk"), &body);
                }
                while self.node(*id).has_apply() {
                    let body = self.finish_apply(*id);
                    section(&mut text, format!("{id} machine"), &body);
                }
            }
            if text.len() == before {
                return if text.is_empty() { "ok".into() } else { text };
            }
        }
    }

    fn raft_state(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let one = node.raft.status();
            let vote = if node.raft.conf_state().voters.contains(&one.id) { "voter" } else { "no voter" };
            writeln!(
                text,
                "{}: {:?} ({vote}) term={} lead={} last={} commit={} applied={}",
                one.id, one.role, one.term, one.lead, one.last, one.commit, one.applied
            )
            .unwrap();
        }
        text
    }

    fn raft_log(&mut self, id: u64) -> String {
        let log = self.node(id).raft.storage();
        let (base, last) = (log.base(), log.last_index());
        let mut text = format!("after {base}\n");
        for index in base.index.0 + 1..=last.0 {
            let meta = log.meta(Index(index)).unwrap();
            writeln!(text, "{}/{index} {:?} {}", meta.term, meta.kind, meta.size).unwrap();
        }
        text
    }

    fn progress(&mut self, id: u64) -> String {
        let mut text = String::new();
        for (peer, one) in self.node(id).raft.progress_all() {
            write!(text, "{peer}: {:?} match={} next={}", one.state, one.matched, one.next).unwrap();
            let flags = [
                (one.learner, " learner"),
                (one.witness, " witness"),
                (one.is_paused(), " paused"),
                (!one.recently_active, " inactive"),
                (one.inflights.is_full(), " full"),
            ];
            flags.iter().filter(|(set, _)| *set).for_each(|(_, name)| text += name);
            if one.pending_snapshot > Index::ZERO {
                write!(text, " snapshot={}", one.pending_snapshot).unwrap();
            }
            if one.inflights.count() > 0 {
                write!(text, " inflights={}", one.inflights.count()).unwrap();
            }
            text.push('\n');
        }
        text
    }
}

/// `v1`, `l2`, `r3`, `u4`, `w5`.
fn op(word: &str) -> ConfChangeOp {
    let peer = PeerId(word[1..].parse().unwrap());
    match &word[..1] {
        "v" => ConfChangeOp::AddVoter(peer),
        "l" => ConfChangeOp::AddLearner(peer),
        "r" => ConfChangeOp::Remove(peer),
        "w" => ConfChangeOp::AddWitness(peer),
        _ => ConfChangeOp::Update(peer),
    }
}

fn shown<E: std::fmt::Display>(result: Result<(), E>) -> String {
    result.map_or_else(|refused| format!("refused: {refused}"), |()| "ok".into())
}

fn show_conf(conf: &ConfState) -> String {
    let list = |ids: &[PeerId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut text = format!("voters=({})", list(&conf.voters));
    let names = ["voters", "outgoing", "learners", "next", "witnesses"];
    for (name, ids) in names.into_iter().zip(conf.lists()).skip(1).filter(|(_, ids)| !ids.is_empty()) {
        write!(text, " {name}=({})", list(ids)).unwrap();
    }
    text + if conf.auto_leave { " auto-leave" } else { "" }
}

fn show_ready(ready: &Ready, packets: &[Packet]) -> String {
    let mut text = String::new();
    if let Some(soft) = ready.soft_state {
        writeln!(text, "{:?} lead={}", soft.role, soft.lead).unwrap();
    }
    if let Some(append) = &ready.append {
        write!(text, "write").unwrap();
        if let Some(hard) = append.hard_state {
            write!(text, " term={} vote={} commit={}", hard.term, hard.vote, hard.commit).unwrap();
        }
        if let Some(at) = append.snapshot {
            write!(text, " snapshot={at}").unwrap();
        }
        let (after, upto) = append.entries;
        if after < upto {
            write!(text, " entries={}..={upto}", after.next()).unwrap();
        }
        writeln!(text, " last={}", append.last).unwrap();
        let mut after_sync = append.after_sync.clone();
        for message in after_sync.hold() {
            writeln!(text, "then {}", show_message(&message)).unwrap();
        }
    }
    if let Some(commit) = ready.commit {
        writeln!(text, "commit={commit}").unwrap();
    }
    let (after, upto) = ready.committed;
    if after < upto {
        writeln!(text, "apply {}..={upto}", after.next()).unwrap();
    }
    for read in &ready.reads {
        writeln!(text, "read {} at {}", read.id, read.index).unwrap();
    }
    for (id, refused) in &ready.reads_lost {
        writeln!(text, "read {id} is lost: {refused}").unwrap();
    }
    if let Some(SteppedDown { term, unsettled: (after, upto) }) = ready.stepped_down {
        writeln!(text, "stepped down in term {term}, entries after {after} up to {upto} unsettled").unwrap();
    }
    for ended in &ready.transfers_ended {
        writeln!(text, "transfer to {} ended: {:?}", ended.target, ended.how).unwrap();
    }
    for packet in packets {
        writeln!(text, "send {}", show(packet)).unwrap();
    }
    if text.is_empty() { "empty".into() } else { text }
}

fn show(packet: &Packet) -> String {
    let mut text = show_message(&packet.message);
    if let Some(image) = &packet.snapshot {
        write!(text, " image={}", image.at).unwrap();
    }
    text
}

fn stripped(payloads: Payloads) -> &'static str {
    if payloads == Payloads::Stripped { " stripped" } else { "" }
}

fn show_message(message: &Message) -> String {
    let Message { from, to, term, body } = message;
    let body = match body {
        Body::Append { prev, last, commit, payloads } => {
            format!("Append after={prev} last={last} commit={commit}{}", stripped(*payloads))
        }
        Body::AppendAck { index } => format!("AppendAck {index}"),
        Body::AppendReject { rejected, hint } => format!("AppendReject {rejected} hint={hint}"),
        Body::Vote { last, transfer } => format!("Vote last={last}{}", if *transfer { " transfer" } else { "" }),
        Body::VoteReply { granted } => format!("VoteReply {}", if *granted { "yes" } else { "no" }),
        Body::PreVote { last } => format!("PreVote last={last}"),
        Body::PreVoteReply { granted } => format!("PreVoteReply {}", if *granted { "yes" } else { "no" }),
        Body::Heartbeat { commit, read } => format!("Heartbeat commit={commit} read={read}"),
        Body::HeartbeatReply { read } => format!("HeartbeatReply read={read}"),
        Body::Snapshot { at, payloads } => format!("Snapshot at={at}{}", stripped(*payloads)),
        Body::ReadIndex { id } => format!("ReadIndex {id}"),
        Body::ReadIndexReply { id, index } => format!("ReadIndexReply {id} index={index}"),
        Body::ReadIndexReject { id, busy } => format!("ReadIndexReject {id}{}", if *busy { " busy" } else { "" }),
        Body::TransferLeader { target } => format!("TransferLeader {target}"),
        Body::TimeoutNow => "TimeoutNow".into(),
    };
    format!("{from}->{to} t{term} {body}")
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    for path in paths {
        let mut scene = Scene::default();
        script::run(&path, |directive| scene.handle(directive));
    }
}
