//! The environment in which etcd recorded its interactions: nodes, a network that is a list, and one output.

pub mod disk;
pub mod lines;
pub mod node;
pub mod pure;
pub mod show;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use ringraft_raft::{
    Compat, ConfChange, ConfState, Config, EntryId, EntryKind, Index, Payloads, PeerId, ReadId, ReadPolicy, Role, Term,
    Transition,
};

use super::script::Directive;
use disk::Disk;
use lines::{LEVELS, name};
use node::Node;
use ringraft_raft::Body;
use show::{Data, Inner, Msg, Snapshot, parse_ops, show_progress};

/// Where everything is written, log lines if their severity reaches the level.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<(usize, String)>>);

const NONE: usize = LEVELS.len() - 1;

impl Output {
    pub fn log(&self, severity: usize, line: &str) {
        let mut inner = self.0.lock().unwrap();
        if inner.0 <= severity {
            writeln!(inner.1, "{} {line}", LEVELS[severity]).unwrap();
        }
    }

    pub fn write(&self, text: &str) {
        let mut inner = self.0.lock().unwrap();
        if inner.0 < NONE {
            inner.1 += text;
        }
    }

    fn level(&self) -> usize {
        self.0.lock().unwrap().0
    }

    fn set_level(&self, level: usize) {
        self.0.lock().unwrap().0 = level;
    }

    fn swap(&self, text: String) -> String {
        std::mem::replace(&mut self.0.lock().unwrap().1, text)
    }
}

/// Reads by the names that their askers gave them.
#[derive(Clone, Default)]
pub struct Reads(Arc<Mutex<Vec<String>>>);

impl Reads {
    fn id(&self, name: &str) -> ReadId {
        let mut names = self.0.lock().unwrap();
        names.push(name.into());
        ReadId(names.len() as u64)
    }

    pub fn name(&self, id: ReadId) -> String {
        self.0.lock().unwrap()[usize::try_from(id.0 - 1).unwrap()].clone()
    }
}

#[derive(Default)]
pub struct Env {
    nodes: Vec<Node>,
    network: Vec<Msg>,
    out: Output,
    reads: Reads,
}

type Done = Result<(), String>;

impl Env {
    /// One command, and what it says.
    pub fn handle(&mut self, directive: &Directive) -> String {
        self.out.swap(String::new());
        let result = self.run(directive);
        let mut text = self.out.swap(String::new());
        if let Err(error) = result {
            if self.out.level() == NONE {
                return error;
            }
            text += &error;
        }
        if text.is_empty() { "ok".into() } else { text }
    }

    fn run(&mut self, directive: &Directive) -> Done {
        let bare: Vec<&str> =
            directive.args.iter().filter(|(_, values)| values.is_empty()).map(|(key, _)| key.as_str()).collect();
        let number = |at: usize| -> u64 { bare[at].parse().unwrap_or_else(|_| panic!("line {}", directive.line)) };
        match directive.command.as_str() {
            "_breakpoint" => {}
            "add-nodes" => self.add_nodes(number(0), directive)?,
            "campaign" => self.node(number(0)).campaign(),
            "compact" => {
                self.node(number(0)).raft.storage_mut().compact(Index(number(1)))?;
                self.raft_log(number(0));
            }
            "deliver-msgs" => self.deliver_msgs(directive),
            "process-ready" => self.each(directive, "handling Ready", Env::process_ready)?,
            "process-append-thread" => self.each(directive, "processing append thread", Env::process_append)?,
            "process-apply-thread" => self.each(directive, "processing apply thread", Env::process_apply)?,
            "log-level" => self.set_level(bare[0])?,
            "raft-log" => self.raft_log(number(0)),
            "raft-state" => self.raft_state(),
            "set-randomized-election-timeout" => {
                let ticks = directive.value("timeout").expect("timeout");
                self.node(number(0)).raft.set_election_timeout(ticks);
            }
            "stabilize" => self.stabilize(directive)?,
            "status" => self.status(number(0)),
            "tick-election" => {
                let ticks = self.node(number(0)).raft.config().election_ticks;
                self.node(number(0)).tick(ticks);
            }
            "tick-heartbeat" => {
                let ticks = self.node(number(0)).raft.config().heartbeat_ticks;
                self.node(number(0)).tick(ticks);
            }
            "transfer-leadership" => {
                let (from, to) = (directive.value("from").expect("from"), directive.value("to").expect("to"));
                self.node(from).transfer_leader(to);
            }
            "forget-leader" => self.node(number(0)).forget_leader(),
            "send-snapshot" => self.send_snapshot(number(0), number(1)),
            "propose" => {
                let data = Data::Normal(bare[1].into());
                self.node(number(0)).propose(number(0), EntryKind::Normal, data)?;
            }
            "propose-conf-change" => self.propose_conf_change(number(0), directive)?,
            "report-unreachable" => self.node(number(0)).report_unreachable(number(1)),
            // Ours, for what the recordings do not reach.
            "read-index" => {
                let id = self.reads.id(bare[1]);
                self.node(number(0)).read_index(id);
            }
            "report-snapshot" => {
                let ok = flag(directive, "ok").unwrap_or(true);
                self.node(number(0)).report_snapshot(number(1), ok);
            }
            "restart" => self.restart(number(0), directive.value("applied")),
            _ => return Err("unknown command".into()),
        }
        Ok(())
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(id - 1).unwrap()]
    }

    fn add_nodes(&mut self, count: u64, directive: &Directive) -> Done {
        let list = |key: &str| {
            let mut ids: Vec<_> = directive.numbers(key).into_iter().map(PeerId).collect();
            ids.sort_unstable();
            ids
        };
        let mut first = Snapshot::default();
        if ["voters", "learners", "index", "content"].iter().any(|key| !directive.values(key).is_empty()) {
            let index = directive.value("index").unwrap_or(0);
            if index <= 1 {
                return Err("index must be specified as > 1 due to bootstrap".into());
            }
            first.at = EntryId { term: Term(1), index: Index(index) };
            first.conf = ConfState { voters: list("voters"), learners: list("learners"), ..ConfState::default() };
            first.data = directive.value("content").unwrap_or_default();
        }
        let switch = |key: &str| flag(directive, key).unwrap_or(false);
        let bytes = |key: &str| directive.value::<u64>(key);
        let async_storage_writes = switch("async-storage-writes");
        let message_size_max = bytes("max-size-per-msg").unwrap_or(u64::MAX);
        let mut read_policy = ReadPolicy::Quorum;
        for policy in directive.values("read-only") {
            read_policy = match policy {
                "safe" => ReadPolicy::Quorum,
                "lease-based" => ReadPolicy::Lease,
                _ => return Err(format!("invalid read-only option {}", show::quoted(policy))),
            };
        }
        let unlimited = |key: &str, instead: u64| bytes(key).filter(|bytes| *bytes != 0).unwrap_or(instead);
        for _ in 0..count {
            let config = Config {
                heartbeat_ticks: 1,
                election_ticks: 3,
                applied: first.at.index,
                message_size_max,
                apply_size_max: unlimited("max-committed-size-per-ready", message_size_max),
                uncommitted_size_max: unlimited("max-uncommitted-entries-size", u64::MAX),
                inflight_count_max: directive.value("inflight").unwrap_or(0x7fff_ffff),
                inflight_size_max: unlimited("max-inflight-bytes", u64::MAX),
                check_quorum: switch("checkquorum"),
                pre_vote: switch("prevote"),
                read_policy,
                read_count_max: usize::MAX,
                step_down_on_removal: switch("step-down-on-removal"),
                check_conf_changes: !switch("disable-conf-change-validation"),
                forward_proposals: !switch("disable-proposal-forwarding"),
                compat: Compat::Etcd { async_storage_writes },
                ..Config::new(PeerId(self.nodes.len() as u64 + 1))
            };
            let disk = Disk { snapshot: first.clone(), base: first.at, newest: first.at, ..Disk::default() };
            let (reads, out) = (self.reads.clone(), self.out.clone());
            self.nodes.push(Node::new(config, disk, vec![first.clone()], async_storage_writes, reads, out));
        }
        Ok(())
    }

    /// The core starts again, with what is on its disk; what is on its way to local workers is lost.
    fn restart(&mut self, id: u64, applied: Option<u64>) {
        self.network.retain(|msg| !(msg.to == id && msg.is_local()));
        self.node(id).restart(applied);
    }

    fn set_level(&self, text: &str) -> Done {
        let level = LEVELS.iter().position(|level| level.eq_ignore_ascii_case(text));
        let level = level.ok_or(format!("log levels must be either of [{}]", LEVELS.join(" ")))?;
        self.out.set_level(level);
        Ok(())
    }

    /// Runs `body` and indents what it says.
    fn indented(&mut self, body: impl FnOnce(&mut Env) -> Done) -> Done {
        let before = self.out.swap(String::new());
        let result = body(self);
        let mut text = before;
        for line in self.out.swap(String::new()).lines() {
            writeln!(text, "  {line}").unwrap();
        }
        self.out.swap(text);
        result
    }

    /// One node: its output as it is. Several: in sections.
    fn each(&mut self, directive: &Directive, what: &str, body: fn(&mut Env, u64) -> Done) -> Done {
        let ids = ids(directive);
        for id in &ids {
            if let [only] = ids.as_slice() {
                return body(self, *only);
            }
            self.out.write(&format!("> {id} {what}\n"));
            self.indented(|env| body(env, *id))?;
        }
        Ok(())
    }

    fn process_ready(&mut self, id: u64) -> Done {
        let mut network = std::mem::take(&mut self.network);
        let result = self.node(id).process_ready(&mut network);
        self.network = network;
        result
    }

    fn process_append(&mut self, id: u64) -> Done {
        let mut network = std::mem::take(&mut self.network);
        let result = self.node(id).process_append(&mut network);
        self.network = network;
        result
    }

    fn process_apply(&mut self, id: u64) -> Done {
        let mut network = std::mem::take(&mut self.network);
        self.node(id).process_apply(&mut network);
        self.network = network;
        Ok(())
    }

    fn deliver_msgs(&mut self, directive: &Directive) {
        let only = directive.values("type").pop();
        let (mut count, mut delivered) = (0, Vec::new());
        for (key, values) in &directive.args {
            let ids = if values.is_empty() { std::slice::from_ref(key) } else { values.as_slice() };
            if !values.is_empty() && key != "drop" {
                continue;
            }
            for id in ids {
                let id = id.parse().unwrap_or_else(|_| panic!("line {}: {id}", directive.line));
                let drops = !values.is_empty();
                assert!(!drops || !delivered.contains(&id), "line {}: {id} gets it, or does not", directive.line);
                if !drops {
                    delivered.push(id);
                }
                count += self.deliver(id, drops, only);
            }
        }
        if count == 0 {
            self.out.write("no messages\n");
        }
    }

    /// How many messages were handled.
    fn deliver(&mut self, to: u64, dropping: bool, only: Option<&str>) -> usize {
        let taken =
            |msg: &Msg| msg.to == to && only.is_none_or(|name| msg.name == name) && !(dropping && msg.is_local());
        let (messages, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.network).into_iter().partition(taken);
        self.network = rest;
        for msg in &messages {
            let mark = if dropping { "dropped: " } else { "" };
            self.out.write(&format!("{mark}{}\n", msg.show()));
            if dropping {
                continue;
            }
            if let Err(error) = self.node(to).step(msg) {
                self.out.write(&format!("{error}\n"));
            }
        }
        messages.len()
    }

    fn stabilize(&mut self, directive: &Directive) -> Done {
        let before = self.out.level();
        let mut ids = ids(directive);
        for level in directive.values("log-level") {
            if let Err(error) = self.set_level(level) {
                self.out.set_level(before);
                return Err(error);
            }
        }
        if ids.is_empty() {
            ids = (1..=self.nodes.len() as u64).collect();
        }
        let result = self.settle(&ids);
        self.out.set_level(before);
        result
    }

    fn settle(&mut self, ids: &[u64]) -> Done {
        loop {
            let mut idle = true;
            for id in ids {
                if self.node(*id).has_ready() {
                    idle = false;
                    self.out.write(&format!("> {id} handling Ready\n"));
                    self.indented(|env| env.process_ready(*id))?;
                }
            }
            for id in ids {
                if self.network.iter().any(|msg| msg.to == *id) {
                    idle = false;
                    self.out.write(&format!("> {id} receiving messages\n"));
                    self.indented(|env| {
                        env.deliver(*id, false, None);
                        Ok(())
                    })?;
                }
            }
            for id in ids {
                if !self.node(*id).append_work.is_empty() {
                    idle = false;
                    self.out.write(&format!("> {id} processing append thread\n"));
                }
                while !self.node(*id).append_work.is_empty() {
                    self.indented(|env| env.process_append(*id))?;
                }
            }
            for id in ids {
                if !self.node(*id).apply_work.is_empty() {
                    idle = false;
                    self.out.write(&format!("> {id} processing apply thread\n"));
                }
                while !self.node(*id).apply_work.is_empty() {
                    self.indented(|env| env.process_apply(*id))?;
                }
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn send_snapshot(&mut self, from: u64, to: u64) {
        let node = self.node(from);
        let snapshot = node.history.last().expect("the first snapshot").clone();
        let body = Body::Snapshot { at: snapshot.at, payloads: Payloads::All };
        let message = ringraft_raft::Message { from: PeerId(from), to: PeerId(to), term: node.raft.term(), body };
        let mut msg = Msg::new(name(&body), from, to, Inner::Raft(message));
        msg.term = message.term.0;
        msg.snapshot = Some(snapshot);
        self.out.write(&msg.show());
        self.network.push(msg);
    }

    fn propose_conf_change(&mut self, id: u64, directive: &Directive) -> Done {
        let (mut v1, mut transition) = (false, Transition::Auto);
        for (key, value) in directive.args.iter().flat_map(|(key, values)| values.iter().map(move |one| (key, one))) {
            match (key.as_str(), value.as_str()) {
                ("v1", text) => v1 = truth(text)?,
                ("transition", "auto") => transition = Transition::Auto,
                ("transition", "implicit") => transition = Transition::JointImplicit,
                ("transition", "explicit") => transition = Transition::JointExplicit,
                ("transition", other) => return Err(format!("unknown transition {other}")),
                (key, _) => return Err(format!("unknown command {key}")),
            }
        }
        let ops = parse_ops(&directive.input)?;
        let kind = if v1 { EntryKind::ConfChange } else { EntryKind::ConfChangeV2 };
        if v1 && (ops.len() != 1 || transition != Transition::Auto) {
            return Err("v1 conf change can only have one operation and no transition".into());
        }
        self.node(id).propose(id, kind, Data::Change(ConfChange { transition, ops }))
    }

    fn raft_log(&mut self, id: u64) {
        let disk = self.node(id).raft.storage();
        let (first, last) = (disk.base.index.next(), ringraft_raft::Storage::last_index(disk));
        let lines: String = disk.entries.iter().map(|entry| entry.show() + "\n").collect();
        if lines.is_empty() {
            self.out.write(&format!("log is empty: first index={first}, last index={last}"));
        } else {
            self.out.write(&lines);
        }
    }

    fn raft_state(&self) {
        for node in &self.nodes {
            let (status, conf) = (node.raft.status(), node.raft.conf_state());
            let votes = conf.voters.contains(&status.id) || conf.voters_outgoing.contains(&status.id);
            let voter = if votes { "Voter" } else { "Non-Voter" };
            self.out.write(&format!(
                "{}: State{:?} ({voter}) Term:{} Lead:{}\n",
                status.id, status.role, status.term, status.lead
            ));
        }
    }

    fn status(&mut self, id: u64) {
        let node = self.node(id);
        assert!(node.raft.role() == Role::Leader || node.raft.progress_all().next().is_none());
        let lines: String =
            node.raft.progress_all().map(|(peer, one)| format!("{peer}: {}\n", show_progress(one))).collect();
        self.out.write(&lines);
    }
}

fn flag(directive: &Directive, key: &str) -> Option<bool> {
    let value = directive.values(key).pop()?;
    Some(truth(value).unwrap_or_else(|error| panic!("line {}: {error}", directive.line)))
}

/// Yes or no, as Go reads it.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" | "1" | "t" | "T" => Ok(true),
        "false" | "False" | "FALSE" | "0" | "f" | "F" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", show::quoted(text))),
    }
}

/// Bare arguments, which must be ids.
fn ids(directive: &Directive) -> Vec<u64> {
    let bare = directive.args.iter().filter(|(_, values)| values.is_empty());
    bare.map(|(key, _)| key.parse().unwrap_or_else(|_| panic!("line {}: {key}", directive.line))).collect()
}
