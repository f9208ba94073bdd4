//! Following a real etcd cluster as one of its members: its log, entry by entry, in a log of our own.
//!
//! A [`Follower`] joins as a learner or a voter (which of them is the cluster's affair), keeps the log durably, tells of
//! every committed entry in order, and takes part in votes. It has no store of its own and serves no clients of etcd.
//!
//! | file | what it is |
//! |---|---|
//! | [`net`] | the sockets: a thread for each connection |
//! | `member` | raft, the log engine, and what is applied: one thread |
//! | [`members`] | who belongs to the cluster, by etcd's rules |
//! | `join` | which cluster it is, and who we are in it |
//! | `snapshots` | what a leader sends when the log no longer goes back far enough |
//! | `queue` | what lies between the threads |
//! | [`show`] | entries as text and JSON |

mod join;
mod member;
pub mod members;
pub mod net;
mod queue;
pub mod show;
mod snapshots;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringraft_engine::{Engine, EngineError, ReadError};
use ringraft_io::{Io, IoKind, Seed, ShardNo, Waker, World, WorldConfig, WorldError};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, Index, OpenError, PeerId, Raft, Role, Storage as _, Term};
use ringraft_transport::etcd::Limits;
use ringraft_transport::etcd::http::{Host, Version};
use ringraft_transport::{ClusterId, StreamKind};

use member::{Member, MemberConfig, Membership};
use members::{Members, address_of};
use net::{Net, NetConfig};
use queue::{Queue, Taken};
use snapshots::Snapshots;

/// Bytes of a record in the log: more than etcd lets a client propose, by far.
const RECORD_MAX: usize = 32 << 20;

/// What is told and not taken yet, at most; and bytes of it.
const OUTPUTS_MAX: usize = 16 << 10;
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// What a follower is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where members of the cluster listen for peers: any of them, as URLs.
    pub peers: Vec<String>,
    /// Where they reach us: the URL with which we were added.
    pub advertise: String,
    /// Where we listen.
    pub listen: SocketAddr,
    /// Where the log is.
    pub data_dir: PathBuf,
    /// Our name in the cluster.
    pub name: String,
    /// The last entry that is not told.
    pub after: Index,
    /// A heartbeat of the cluster; an election is ten of them.
    pub tick: Duration,
    /// Learners that the cluster has at most.
    pub learners_max: usize,
    /// How the log is written: with io_uring or without. The streams of etcd are threads and plain calls in any case.
    pub io: IoKind,
}

/// Why a follower did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A URL that we cannot dial.
    #[error("{why}")]
    Url {
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answered.
    #[error("no member of the cluster answers: {why}; give --peer the peer URL of one that runs")]
    Unreachable {
        /// Who said what.
        why: String,
    },
    /// The cluster does not know us.
    #[error(
        "cluster {cluster:x} has no member at {url}: add it first (etcdctl member add NAME --learner --peer-urls={url})"
    )]
    NotAMember {
        /// Which cluster.
        cluster: u64,
        /// Where we would be.
        url: String,
    },
    /// The directory is that of another member.
    #[error("{dir} belongs to member {found_member:x} of cluster {found_cluster:x}, and this is {member:x} of {cluster:x}: choose another directory", dir = dir.display())]
    Foreign {
        /// Which directory.
        dir: PathBuf,
        /// Whose it is.
        found_member: u64,
        /// Of which cluster.
        found_cluster: u64,
        /// Who we are.
        member: u64,
        /// In which cluster.
        cluster: u64,
    },
    /// A file of ours.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The ring.
    #[error(transparent)]
    Start(#[from] WorldError),
    /// No thread to be had.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The log.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry of the log is not what it was when it was written.
    #[error("entry {index} is damaged")]
    Damaged {
        /// Which.
        index: Index,
    },
    /// The log contradicts itself.
    #[error("the log contradicts itself: {0}")]
    Raft(#[from] OpenError),
    /// A snapshot could not be stored or read.
    #[error("snapshot: {0}")]
    Snapshot(io::Error),
    /// An entry that no record can hold.
    #[error("the cluster has an entry of {bytes} bytes, more than a record can have here")]
    EntryTooLarge {
        /// How large its record would be.
        bytes: u64,
    },
    /// The ring cannot be entered any more.
    #[error("the ring has failed: {0}")]
    World(io::Error),
    /// The cluster has removed us.
    #[error(
        "this member was removed from the cluster, for good: to come back, add it anew and give it an empty directory"
    )]
    Removed,
    /// A bug of ours.
    #[error("the member's thread panicked; its last words are above")]
    Panic,
}

/// An entry of the cluster's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which.
    pub id: EntryId,
    /// What for.
    pub kind: EntryKind,
    /// What etcd put into it: [`Payload`](ringraft_transport::etcd::requests::Payload) if it is normal, otherwise a
    /// change of membership.
    pub payload: Bytes,
}

/// What a follower tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// The next committed entry.
    Entry(Entry),
    /// Entries up to here were replaced by a snapshot.
    Snapshot {
        /// Its last entry.
        at: EntryId,
        /// etcd's database as of then.
        database: PathBuf,
    },
}

/// Where a follower stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each says what it is")]
pub struct Status {
    pub cluster: u64,
    pub id: u64,
    pub name: String,
    pub term: Term,
    pub leader: Option<PeerId>,
    pub role: Role,
    pub is_member: bool,
    pub is_voter: bool,
    pub members: usize,
    /// Streams that are read now.
    pub streams: Vec<(PeerId, StreamKind)>,
    /// Last entry of the log; last one known to be durable, committed, applied.
    pub last: Index,
    pub durable: Index,
    pub commit: Index,
    pub applied: Index,
    /// Where the log ended when the leader was first asked; nothing before it answered.
    pub frontier: Option<Index>,
}

/// What the member's thread and its owner share.
struct Shared {
    outlet: Queue<Output>,
    proposals: Mutex<Vec<Bytes>>,
    status: Mutex<Status>,
    notices: Mutex<Vec<String>>,
    stop: AtomicBool,
    end: Mutex<Option<Result<(), FollowError>>>,
}

/// Notices that wait to be looked at; older ones go.
const NOTICES_MAX: usize = 100;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn take_proposals(&self) -> Vec<Bytes> {
        std::mem::take(&mut lock(&self.proposals))
    }

    /// There is room; or the owner is gone, and nobody listens.
    fn tell(&self, output: Output, bytes: usize) {
        self.outlet.put_over(output, bytes);
    }

    fn notice(&self, text: String) {
        let mut notices = lock(&self.notices);
        if notices.len() >= NOTICES_MAX {
            notices.remove(0);
        }
        notices.push(text);
    }

    fn set_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }

    fn set_frontier(&self, index: Index) {
        lock(&self.status).frontier.get_or_insert(index);
    }

    fn set_stream(&self, peer: PeerId, kind: StreamKind, ended: Option<String>) {
        let name = match kind {
            StreamKind::Append => "append",
            StreamKind::Message => "message",
        };
        let mut status = lock(&self.status);
        status.streams.retain(|stream| *stream != (peer, kind));
        match ended {
            None => status.streams.push((peer, kind)),
            Some(why) => {
                drop(status);
                self.notice(format!("{name} stream from {:x}: {why}", peer.0));
            }
        }
    }
}

/// A running member. Dropping it ends it; what was not told yet is told again by the next one.
pub struct Follower {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
    outputs: std::vec::IntoIter<Output>,
    _world: World,
}

impl Follower {
    /// Finds its place in the cluster and starts. The cluster must know it already (`etcdctl member add`).
    ///
    /// # Errors
    /// One line that says what, where and what to do; nothing runs then.
    pub fn start(config: &Config) -> Result<Follower, FollowError> {
        let place = settle(config)?;
        let version = Version::parse(&place.version)
            .ok_or_else(|| FollowError::Unreachable { why: format!("{} is not a version", place.version) })?;
        let (cluster, id) = (ClusterId(place.cluster), PeerId(place.member));
        let host = Host { cluster, id, version, peer_urls: config.advertise.clone() };
        let snapshot_dir = config.data_dir.join("snapshots");
        let snapshots = Snapshots::open(snapshot_dir.clone()).map_err(FollowError::Snapshot)?;
        let listener = TcpListener::bind(config.listen)
            .map_err(|source| FollowError::Listen { address: config.listen, source })?;
        let mut world = World::start(config.io, WorldConfig::new(1))?;
        let seed = world.take_seeds().pop().expect("one shard has one seed");
        let waker = world.waker();
        let wake = waker.clone();
        let net_config = NetConfig { host, limits: Limits::default(), snapshot_dir: Some(snapshot_dir) };
        let net = Net::start(net_config, listener, Box::new(move || wake.wake(ShardNo(0))));
        let net = net.map_err(FollowError::Thread)?;
        let address = net.address();
        let status = Status { cluster: cluster.0, id: id.0, ..Status::default() };
        let shared = Arc::new(Shared {
            outlet: Queue::new(OUTPUTS_MAX, OUTPUT_BYTES_MAX),
            proposals: Mutex::default(),
            status: Mutex::new(status),
            notices: Mutex::default(),
            stop: AtomicBool::new(false),
            end: Mutex::new(None),
        });
        let (started, opened) = std::sync::mpsc::channel();
        let (config, inside) = (config.clone(), shared.clone());
        let body = move || {
            let _last = LastWord(&inside);
            // Whoever waits for it knows that it runs.
            let running = move || {
                let _ = started.send(());
            };
            let shared = inside.clone();
            let end = match seed {
                Seed::Uring(seed) => run(seed.into_io(), &config, &place, net, snapshots, shared, running),
                Seed::Portable(seed) => run(seed.into_io(), &config, &place, net, snapshots, shared, running),
            };
            *lock(&inside.end) = Some(end);
        };
        let thread = std::thread::Builder::new().name("etcd-member".into()).spawn(body).map_err(FollowError::Thread)?;
        let outputs = Vec::new().into_iter();
        let mut follower = Follower { shared, waker, thread: Some(thread), address, outputs, _world: world };
        match opened.recv() {
            Ok(()) => Ok(follower),
            Err(_) => Err(follower.end().err().unwrap_or(FollowError::Panic)),
        }
    }

    /// Where it listens, with the port it really has.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next thing it tells, waiting for it up to `wait`.
    ///
    /// # Errors
    /// Why there is nothing any more: the member has ended.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Output>, FollowError> {
        if let Some(output) = self.outputs.next() {
            return Ok(Some(output));
        }
        let mut outputs = Vec::new();
        match self.shared.outlet.take(Some(Instant::now() + wait), &mut outputs) {
            Taken::Items => {
                // There is room for more.
                self.waker.wake(ShardNo(0));
                self.outputs = outputs.into_iter();
                Ok(self.outputs.next())
            }
            Taken::Nothing => Ok(None),
            Taken::Closed => self.end().map(|()| None),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        lock(&self.shared.status).clone()
    }

    /// What a person might want to know, since the last call.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.notices))
    }

    /// Proposes a payload to the cluster. It may be lost on the way; it is in the log when it is told.
    pub fn propose(&self, payload: Bytes) {
        lock(&self.shared.proposals).push(payload);
        self.waker.wake(ShardNo(0));
    }

    /// How it has ended.
    fn end(&mut self) -> Result<(), FollowError> {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        lock(&self.shared.end).take().unwrap_or(Err(FollowError::Panic))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.waker.wake(ShardNo(0));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Closes the outlet however the thread ends.
struct LastWord<'a>(&'a Shared);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        self.0.outlet.close();
    }
}

/// Who we are: as the cluster says, or as the directory remembers while nobody answers.
fn settle(config: &Config) -> Result<join::Place, FollowError> {
    let dir = &config.data_dir;
    address_of(&config.advertise).map_err(|why| FollowError::Url { why })?;
    let before = join::load(dir)?;
    let place = match (join::ask(&config.peers, &config.advertise, config.learners_max), &before) {
        (Err(FollowError::Unreachable { .. }), Some(before)) => return Ok(before.clone()),
        (Err(FollowError::NotAMember { .. }), Some(_)) => return Err(FollowError::Removed),
        (asked, _) => asked?,
    };
    if let Some(before) = before
        && (before.cluster, before.member) != (place.cluster, place.member)
    {
        return Err(FollowError::Foreign {
            dir: dir.clone(),
            found_member: before.member,
            found_cluster: before.cluster,
            member: place.member,
            cluster: place.cluster,
        });
    }
    std::fs::create_dir_all(dir).map_err(|source| FollowError::File { path: dir.clone(), source })?;
    join::save(dir, &place)?;
    Ok(place)
}

/// The life of a member, on the thread it has for itself; `running` is called once it has begun.
fn run<I: Io>(
    io: Result<I, WorldError>,
    config: &Config,
    place: &join::Place,
    net: Net,
    snapshots: Snapshots,
    shared: Arc<Shared>,
    running: impl FnOnce(),
) -> Result<(), FollowError> {
    let member = open(io?, config, place, net, snapshots, shared)?;
    running();
    member.run()
}

/// Opens the log and makes the member of it. On the thread that will run it.
fn open<I: Io>(
    mut io: I,
    config: &Config,
    place: &join::Place,
    net: Net,
    snapshots: Snapshots,
    shared: Arc<Shared>,
) -> Result<Member<I>, FollowError> {
    let id = PeerId(place.member);
    // The log's id ties its blocks to this member.
    let log_id = (place.cluster ^ place.member.rotate_left(32)).max(1);
    let mut engine_config = ringraft_engine::Config::new(config.data_dir.join("log"), log_id);
    engine_config.record_bytes_max = RECORD_MAX;
    let (mut engine, logs, _) = Engine::open(&mut io, engine_config)?;
    snapshots.clean().map_err(FollowError::Snapshot)?;
    // As in etcd, a new member knows nobody: the log itself says who belongs to the cluster.
    let log = match logs.into_iter().next() {
        Some(log) => log,
        None => engine.create(GroupId(place.cluster), ConfState::default())?,
    };
    let base = log.base();
    let asked = Members::of(place.members.clone(), config.learners_max);
    let members = match base.index {
        Index::ZERO => Members::new(config.learners_max),
        _ => snapshots.load(base, &asked).map_err(FollowError::Snapshot)?,
    };
    let known = place.members.iter().map(|member| (PeerId(member.id), member::addresses(&member.peer_urls)));
    let membership = Membership {
        addresses: known.collect::<BTreeMap<_, _>>(),
        members,
        cluster_version: place.cluster_version.clone(),
        asked,
    };
    let mut raft_config = ringraft_raft::Config::new(id);
    raft_config.applied = base.index;
    // Others lead sooner.
    raft_config.priority = 1;
    raft_config.seed = log_id ^ u64::from(std::process::id());
    raft_config.apply_size_max = 4 << 20;
    let raft = Raft::new(raft_config, log)?;
    let member_config = MemberConfig { id, name: config.name.clone(), tick: config.tick, told: config.after };
    Ok(Member::new(io, member_config, engine, raft, net, shared, snapshots, membership))
}
