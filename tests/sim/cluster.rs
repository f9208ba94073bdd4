//! The nodes of a simulated cluster: started, crashed, restarted, and looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringraft::kv::Kv;
use ringraft::machine::StateMachine;
use ringraft::node::{Board, GroupView, NodeConfig, Post, Shard};
use ringraft::server::NodeAcceptor;
use ringraft_io::sim::{ProcessId, Rng, SimIo, Step, World};
use ringraft_io::{Acceptor, ListenerKind, ShardNo};
use ringraft_raft::{GroupId, Index, PeerId, Role, Storage, Term};

use super::client::SimClient;

type SimShard = Shard<SimIo, Kv>;

pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) processes: Vec<ProcessId>,
    running: BTreeMap<ProcessId, Vec<SimShard>>,
    configs: BTreeMap<ProcessId, NodeConfig>,
    pub(crate) groups: u64,
    /// Who led which term of which group.
    leaders: BTreeMap<(GroupId, Term), PeerId>,
    /// Commit indexes only grow, while a node runs.
    commits: BTreeMap<(ProcessId, GroupId), Index>,
}

impl Cluster {
    pub(crate) fn any(world: &World, rng: &mut Rng) -> Cluster {
        let nodes = if rng.chance(0.8) { 3 } else { 5 };
        let shards = if rng.chance(0.7) { 1 } else { 2 };
        let groups = [1, 1, 2, 5][rng.index(4)];
        let mut cluster = Cluster::new(world, rng, nodes, shards, groups);
        if rng.chance(0.3) {
            let priorities: Vec<u8> = (0..nodes).map(|_| u8::try_from(rng.between(1, 4)).expect("small")).collect();
            cluster.set_priorities(&priorities);
        }
        cluster
    }

    pub(crate) fn new(world: &World, rng: &mut Rng, nodes: u64, shards: u16, groups: u64) -> Cluster {
        let members: BTreeMap<PeerId, Vec<String>> =
            (1..=nodes).map(|id| (PeerId(id), vec![format!("node-{id}:peers")])).collect();
        let mut cluster = Cluster {
            world: world.clone(),
            processes: Vec::new(),
            running: BTreeMap::new(),
            configs: BTreeMap::new(),
            groups,
            leaders: BTreeMap::new(),
            commits: BTreeMap::new(),
        };
        for id in 1..=nodes {
            let mut config = NodeConfig::new(7, PeerId(id), PathBuf::from("/data"));
            config.members = members.clone();
            config.shards = shards;
            config.groups = groups;
            config.incarnation = rng.bits();
            config.tick = Duration::from_millis(50);
            config.request_timeout = Duration::from_secs(3);
            // Small limits make rare paths usual.
            config.record_size_max = 8 << 10;
            config.batch_size_max = 16 << 10;
            config.segment_size = 128 << 10;
            config.segments_max = 4;
            config.snapshot_every = rng.between(20, 300);
            config.snapshot_keep = rng.below(30);
            config.snapshot_chunk_size = 512;
            config.cache_size_max = 64 << 10;
            let doors = vec![
                (ListenerKind::Peer, format!("node-{id}:peers")),
                (ListenerKind::Client, format!("node-{id}:clients")),
            ];
            let acceptor = Cluster::acceptor(&config);
            let process = world.add_process(&format!("node-{id}"), shards, doors, acceptor);
            cluster.processes.push(process);
            cluster.configs.insert(process, config);
        }
        cluster
    }

    /// How soon each node asks to lead; before they are opened.
    pub(crate) fn set_priorities(&mut self, priorities: &[u8]) {
        for (config, priority) in self.configs.values_mut().zip(priorities) {
            config.priority = *priority;
        }
    }

    fn acceptor(config: &NodeConfig) -> Arc<dyn Acceptor> {
        Arc::new(NodeAcceptor::new(Arc::new(config.clone())))
    }

    pub(crate) fn client_endpoints(&self) -> Vec<String> {
        (1..=self.processes.len()).map(|id| format!("node-{id}:clients")).collect()
    }

    /// Opens all shards of a live process.
    pub(crate) fn open(&mut self, process: ProcessId) -> Result<(), String> {
        let config = Arc::new(self.configs[&process].clone());
        let board = Arc::new(Board::new(config.shards));
        let mut shards = Vec::new();
        for (number, post) in (0..config.shards).zip(Post::network(config.shards, 16)) {
            let number = ShardNo(number);
            let io = self.world.io(process, number);
            let shard = Shard::open(io, config.clone(), number, post, board.clone(), |_| Kv::new());
            shards.push(shard.map_err(|error| format!("{} does not start: {error}", self.world.name(process)))?);
        }
        self.running.insert(process, shards);
        self.commits.retain(|(owner, _), _| *owner != process);
        Ok(())
    }

    pub(crate) fn crash(&mut self, process: ProcessId) {
        self.running.remove(&process);
        self.world.crash(process);
    }

    pub(crate) fn restart(&mut self, process: ProcessId, incarnation: u64) -> Result<(), String> {
        let config = self.configs.get_mut(&process).expect("one of ours");
        config.incarnation = incarnation;
        self.world.restart(process, Cluster::acceptor(config));
        self.open(process)
    }

    pub(crate) fn is_running(&self, process: ProcessId) -> bool {
        self.running.contains_key(&process)
    }

    /// Whether the log of a group of a running node has lost something that is not given back yet.
    pub(crate) fn is_mending(&self, process: ProcessId) -> bool {
        self.groups_of(process).any(|group| group.is_mending)
    }

    pub(crate) fn owns(&self, process: ProcessId) -> bool {
        self.configs.contains_key(&process)
    }

    /// One turn of a shard. A shard whose log has failed takes its node down, as a process would end.
    pub(crate) fn turn(&mut self, process: ProcessId, shard: ShardNo) -> Result<(), String> {
        let Some(shards) = self.running.get_mut(&process) else { return Ok(()) };
        let it = &mut shards[usize::from(shard.0)];
        match it.turn() {
            Ok(()) => self.check(process, shard),
            Err(error) if self.world.counters().writes_failed > 0 => {
                // An injected write error ends the log: that is the rule, not a fault of ours.
                let text = error.to_string();
                self.crash(process);
                if text.contains("log") { Ok(()) } else { Err(format!("unexpected end of a shard: {text}")) }
            }
            Err(error) => Err(format!("{} ended: {error}", self.world.name(process))),
        }
    }

    /// Lets the nodes, and a client of theirs, go on for so long without a fault; how many turns the nodes took.
    pub(crate) fn run(&mut self, mut client: Option<&mut SimClient>, time: Duration) -> u64 {
        let mut turns = 0;
        self.world.schedule(self.world.now() + time, 0);
        loop {
            match self.world.next().expect("the end is scheduled") {
                Step::Shard { process, shard } if self.owns(process) => {
                    turns += 1;
                    self.turn(process, shard).expect("nothing goes wrong");
                }
                Step::Shard { .. } => client.as_mut().expect("whose else").turn(),
                Step::Driver(_) => return turns,
            }
        }
    }

    /// What must hold after every turn.
    fn check(&mut self, process: ProcessId, shard: ShardNo) -> Result<(), String> {
        for group in self.running[&process][usize::from(shard.0)].groups() {
            let status = group.raft.status();
            if status.role == Role::Leader {
                let other = *self.leaders.entry((group.id, status.term)).or_insert(status.id);
                if other != status.id {
                    return Err(format!(
                        "group {}: nodes {other} and {} both lead term {}",
                        group.id, status.id, status.term
                    ));
                }
                for (peer, progress) in group.raft.progress_all() {
                    if progress.matched >= progress.next {
                        return Err(format!("group {}: progress of {peer}: {progress:?}", group.id));
                    }
                }
            }
            let commit = self.commits.entry((process, group.id)).or_insert(status.commit);
            if status.commit < *commit || status.applied > status.commit {
                return Err(format!("group {}: commit went from {commit} to {status:?}", group.id));
            }
            *commit = status.commit;
        }
        Ok(())
    }

    /// The groups of a running process.
    pub(crate) fn groups_of(&self, process: ProcessId) -> impl Iterator<Item = GroupView<'_, Kv>> {
        self.running[&process].iter().flat_map(Shard::groups)
    }

    /// Whether all nodes run, and show the same state and the same log in every group.
    pub(crate) fn settled(&self) -> Result<(), String> {
        if self.running.len() < self.processes.len() {
            return Err("a node is down".to_owned());
        }
        let mut first: BTreeMap<GroupId, (Index, u64)> = BTreeMap::new();
        for (process, shards) in &self.running {
            for group in shards.iter().flat_map(Shard::groups) {
                let status = group.raft.status();
                if status.lead == PeerId::ZERO {
                    return Err(format!("group {}: {} knows no leader", group.id, self.world.name(*process)));
                }
                if status.applied < status.last.index {
                    return Err(format!("group {}: {status:?} is not all applied", group.id));
                }
                let state = (status.applied, group.machine.digest());
                let other = *first.entry(group.id).or_insert(state);
                if other.0 == state.0 && other.1 != state.1 {
                    return Err(format!("group {}: states differ at {}", group.id, state.0));
                }
                if other.0 != state.0 {
                    return Err(format!("group {}: applied {} and {}", group.id, other.0, state.0));
                }
            }
        }
        Ok(())
    }

    /// Log matching: where two logs hold an entry of the same index and term, all before it are the same.
    pub(crate) fn logs_match(&self) -> Result<(), String> {
        let mut logs: BTreeMap<GroupId, Vec<(ProcessId, &SimShard)>> = BTreeMap::new();
        for (process, shards) in &self.running {
            for shard in shards {
                for group in shard.groups() {
                    logs.entry(group.id).or_default().push((*process, shard));
                }
            }
        }
        for (id, holders) in logs {
            let terms = |shard: &SimShard| -> BTreeMap<Index, Term> {
                let group = shard.groups().find(|group| group.id == id).expect("it holds it");
                let log = group.raft.storage();
                let applied = group.raft.status().applied;
                (log.base().index.0 + 1..=applied.0.min(log.last_index().0))
                    .map(|index| (Index(index), log.term(Index(index)).expect("in range")))
                    .collect()
            };
            let (_, shard) = holders[0];
            let reference = terms(shard);
            for (process, shard) in &holders[1..] {
                for (index, term) in terms(shard) {
                    if reference.get(&index).is_some_and(|other| *other != term) {
                        let name = self.world.name(*process);
                        return Err(format!("group {id}: applied entry {index} has another term at {name}"));
                    }
                }
            }
        }
        Ok(())
    }
}
