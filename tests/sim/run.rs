//! One seed: a cluster, clients, a time of faults, a time of peace, and what must hold in both.

use std::fmt;
use std::time::Duration;

use ringraft_io::sim::{ProcessId, Rng, Step, World, WorldConfig};
use ringraft_io::{ShardNo, Time};

use super::client::SimClient;
use super::cluster::Cluster;
use super::rot;
use crate::history;

/// What happened in one run, or in many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) hash: u64,
    pub(crate) operations: u64,
    pub(crate) unknown: u64,
    pub(crate) crashes: u64,
    pub(crate) wipes: u64,
    pub(crate) partitions: u64,
    pub(crate) write_errors: u64,
    /// Disks on which bits were flipped below the durable mark.
    pub(crate) rots: u64,
    pub(crate) simulated: Duration,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Summary) {
        self.hash ^= other.hash;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.crashes += other.crashes;
        self.wipes += other.wipes;
        self.partitions += other.partitions;
        self.write_errors += other.write_errors;
        self.rots += other.rots;
        self.simulated += other.simulated;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations ({} of unknown outcome), {} crashes, {} failed writes, {} wiped disks, {} rotten ones, {} partitions, {:.0?} simulated, \
             {:016x}",
            self.operations,
            self.unknown,
            self.crashes,
            self.write_errors,
            self.wipes,
            self.rots,
            self.partitions,
            self.simulated,
            self.hash
        )
    }
}

const FAULT: u64 = 0;
const PEACE: u64 = 1;
const LOOK: u64 = 2;
const END: u64 = 3;

/// How long faults last.
const TROUBLE: Duration = Duration::from_secs(12);

/// How long after that everything may take to be well again.
const RECOVERY: Duration = Duration::from_secs(60);

struct Run {
    world: World,
    rng: Rng,
    cluster: Cluster,
    clients: Vec<(ProcessId, SimClient)>,
    summary: Summary,
    peace: bool,
    wiped: bool,
    /// The last one whose disk has rotted: nobody else's does before it is mended.
    rotten: Option<ProcessId>,
    /// Known outcomes of each client when peace began.
    known: Vec<usize>,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, trace: bool) -> Result<Summary, String> {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let mut config = if rng.chance(0.8) { WorldConfig::rough(&mut rng) } else { WorldConfig::default() };
    config.trace = trace;
    let world = World::new(seed, config);
    let mut cluster = Cluster::any(&world, &mut rng);
    for process in cluster.processes.clone() {
        cluster.open(process)?;
    }
    let keys = rng.between(1, 12);
    let clients = (1..=rng.between(2, 5)).map(|number| {
        let process = world.add_client(&format!("client-{number}"), 1);
        let io = world.io(process, ShardNo(0));
        (process, SimClient::new(io, rng.fork(), number, cluster.client_endpoints(), cluster.groups, keys))
    });
    let clients: Vec<_> = clients.collect();
    let begin = world.now();
    world.schedule(begin + Duration::from_millis(500), FAULT);
    world.schedule(begin + TROUBLE, PEACE);
    world.schedule(begin + TROUBLE + RECOVERY, END);
    let mut run = Run {
        known: Vec::new(),
        world,
        rng,
        cluster,
        clients,
        summary: Summary::default(),
        peace: false,
        wiped: false,
        rotten: None,
    };
    run.drive()?;
    run.finish(begin)
}

impl Run {
    fn drive(&mut self) -> Result<(), String> {
        while let Some(step) = self.world.next() {
            match step {
                Step::Shard { process, shard } if self.cluster.owns(process) => self.cluster.turn(process, shard)?,
                Step::Shard { process, .. } => {
                    let client = self.clients.iter_mut().find(|(id, _)| *id == process).expect("one of ours");
                    client.1.turn();
                }
                Step::Driver(FAULT) if !self.peace => self.fault()?,
                Step::Driver(PEACE) => self.make_peace()?,
                Step::Driver(LOOK) => {
                    // A write that was told to fail may come only now: whoever runs the nodes starts it again.
                    for node in self.cluster.processes.clone() {
                        self.restart(node)?;
                    }
                    if self.all_is_well().is_ok() && !self.wipe_once()? {
                        return Ok(());
                    }
                    self.world.schedule(self.world.now() + Duration::from_millis(200), LOOK);
                }
                Step::Driver(END) => {
                    let what = self.all_is_well().expect_err("or it would have ended");
                    return Err(format!("no recovery {RECOVERY:?} after the faults stopped: {what}"));
                }
                Step::Driver(_) => {}
            }
        }
        Err("nothing is left to do".to_owned())
    }

    fn node(&mut self) -> ProcessId {
        self.cluster.processes[self.rng.index(self.cluster.processes.len())]
    }

    fn later(&mut self, min_ms: u64, max_ms: u64) -> Time {
        self.world.now() + Duration::from_millis(self.rng.between(min_ms, max_ms))
    }

    fn fault(&mut self) -> Result<(), String> {
        let (node, other) = (self.node(), self.node());
        match self.rng.below(17) {
            0..=2 => self.crash(node),
            3..=5 => self.restart(node)?,
            6 => {
                for node in self.cluster.processes.clone() {
                    self.crash(node);
                }
            }
            7 => {
                for node in self.cluster.processes.clone() {
                    self.restart(node)?;
                }
            }
            8 if node != other => {
                self.summary.partitions += 1;
                self.world.partition(node, other, true);
            }
            9 => {
                self.summary.partitions += 1;
                self.world.isolate(node, true);
            }
            10 | 11 => self.world.heal_all(),
            12 => {
                let until = self.later(1, 2000);
                if self.cluster.is_running(node) {
                    self.world.pause(node, until);
                }
            }
            13 => {
                let until = self.later(1, 1500);
                self.world.stall_disk(node, until);
            }
            // The log of this node ends with its next write; the node goes down with it.
            14 if self.cluster.is_running(node) => {
                self.summary.write_errors += 1;
                self.world.fail_next_write(node);
            }
            15 | 16 => self.rot(node),
            _ => {}
        }
        let next = self.later(10, 900);
        self.world.schedule(next, FAULT);
        Ok(())
    }

    fn crash(&mut self, node: ProcessId) {
        if self.cluster.is_running(node) {
            self.summary.crashes += 1;
            self.cluster.crash(node);
        }
    }

    /// Bits flip on the disk of a node, which goes down for it.
    fn rot(&mut self, node: ProcessId) {
        if self.rotten.is_none_or(|rotten| self.cluster.is_running(rotten) && !self.cluster.is_mending(rotten)) {
            self.crash(node);
            if rot::flip(&self.world, node, &mut self.rng) > 0 {
                self.rotten = Some(node);
                self.summary.rots += 1;
            }
        }
    }

    fn restart(&mut self, node: ProcessId) -> Result<(), String> {
        if self.cluster.is_running(node) {
            return Ok(());
        }
        let incarnation = self.rng.bits();
        self.cluster.restart(node, incarnation)
    }

    fn make_peace(&mut self) -> Result<(), String> {
        self.peace = true;
        self.world.heal_all();
        self.world.configure(|config| {
            let calm = WorldConfig::default();
            config.reset_chance = 0.0;
            config.dial_failure_chance = 0.0;
            config.write_error_chance = 0.0;
            config.corrupt_chance = 0.0;
            config.file_reset_chance = 0.0;
            config.disk_delay = calm.disk_delay;
            config.net_delay = calm.net_delay;
        });
        for node in self.cluster.processes.clone() {
            self.restart(node)?;
        }
        self.known = self.clients.iter().map(|(_, client)| client.known()).collect();
        self.world.schedule(self.world.now() + Duration::from_millis(500), LOOK);
        Ok(())
    }

    /// Now that all nodes hold the same, one may lose its disk: it must come back to the same. (While nodes differ this
    /// would not be safe: a majority counts on what each of its members has promised.) Says whether it did.
    fn wipe_once(&mut self) -> Result<bool, String> {
        if self.wiped {
            return Ok(false);
        }
        self.wiped = true;
        if self.rng.chance(0.6) {
            return Ok(false);
        }
        let node = self.node();
        self.summary.wipes += 1;
        self.crash(node);
        self.world.wipe_disk(node);
        self.restart(node)?;
        Ok(true)
    }

    /// Progress of every client, then rest, then equal nodes.
    fn all_is_well(&mut self) -> Result<(), String> {
        for ((_, client), known) in self.clients.iter().zip(&self.known) {
            if client.known() < known + 5 {
                return Err("a client makes no progress".to_owned());
            }
        }
        for (_, client) in &mut self.clients {
            client.resting = true;
        }
        if self.rotten.is_some_and(|rotten| self.cluster.is_mending(rotten)) {
            return Err("a node is not mended".to_owned());
        }
        self.cluster.settled()
    }

    fn finish(mut self, begin: Time) -> Result<Summary, String> {
        self.cluster.logs_match()?;
        let mut operations = Vec::new();
        for (_, client) in &mut self.clients {
            operations.append(&mut client.history);
        }
        history::check(&operations)?;
        self.summary.operations = operations.len() as u64;
        self.summary.unknown =
            operations.iter().filter(|operation| operation.outcome == history::Outcome::Unknown).count() as u64;
        self.summary.hash = self.world.trace_hash();
        self.summary.simulated = self.world.now().since(begin);
        Ok(self.summary)
    }
}
