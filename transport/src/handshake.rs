//! Who are you, which cluster, which stream, which version: the heads that open a connection. Pure.
//!
//! As in etcd, a stream is asked for by its reader: the dialer sends a [`Request`], the listener judges it ([`Judge`])
//! and answers with a [`Response`], after which it writes and the dialer reads. A snapshot goes the other way: its
//! request is followed by the file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use ringraft_io::head::{HEAD_MAX, head_len, status};
use ringraft_io::{ShardNo, Verdict};
use ringraft_raft::{EntryId, GroupId, Index, PeerId, Term};

use crate::frame::{ClusterId, Link, StreamKind};

/// The version of the peer protocol that this program speaks.
pub const VERSION: u16 = 1;

/// The oldest version that it understands.
pub const MIN_VERSION: u16 = 1;

/// Most header lines in a head.
pub const LINES_MAX: usize = 32;

const CLUSTER: &str = "X-Raft-Cluster";
const FROM: &str = "X-Raft-From";
const TO: &str = "X-Raft-To";
const INCARNATION: &str = "X-Raft-Incarnation";
const SHARD: &str = "X-Raft-Shard";
const SHARDS: &str = "X-Raft-Shards";
const PROTOCOL: &str = "X-Raft-Version";
const PROTOCOL_MIN: &str = "X-Raft-Min-Version";
const GROUP: &str = "X-Raft-Group";
const TERM: &str = "X-Raft-Term";
const SNAPSHOT_TERM: &str = "X-Raft-Snapshot-Term";
const SNAPSHOT_INDEX: &str = "X-Raft-Snapshot-Index";
const LENGTH: &str = "Content-Length";
const SALT: &str = "X-Raft-Salt";
const REFUSAL: &str = "X-Raft-Refusal";

/// What a connection is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// A stream to read from.
    Stream(StreamKind),
    /// A snapshot to take.
    Snapshot(SnapshotHead),
}

/// What is said of a snapshot before its bytes: a [`Body::Snapshot`](ringraft_raft::Body) message, and a size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotHead {
    /// Whose snapshot.
    pub group: GroupId,
    /// Term of the message.
    pub term: Term,
    /// Last entry that the snapshot covers.
    pub at: EntryId,
    /// Bytes that follow.
    pub size: u64,
}

/// What a dialer says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// What it asks for.
    pub purpose: Purpose,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: PeerId,
    /// Whom it wants to reach.
    pub to: PeerId,
    /// The start of its process: two processes of one node differ.
    pub incarnation: u64,
    /// The shard that asks, and is asked.
    pub shard: ShardNo,
    /// How many shards it has.
    pub shards: u16,
}

impl Request {
    /// The request head, addressed to `host`.
    #[must_use]
    pub fn encode(&self, host: &str) -> Bytes {
        let mut head = String::with_capacity(512);
        let (method, path) = match self.purpose {
            Purpose::Stream(StreamKind::Append) => ("GET", "stream/append"),
            Purpose::Stream(StreamKind::Message) => ("GET", "stream/message"),
            Purpose::Snapshot(_) => ("POST", "snapshot"),
        };
        write!(head, "{method} /raft/{path}/{:x} HTTP/1.1\r\nHost: {host}\r\n", self.from.0).expect(TO_STRING);
        line(&mut head, PROTOCOL, VERSION);
        line(&mut head, PROTOCOL_MIN, MIN_VERSION);
        line(&mut head, CLUSTER, format_args!("{:x}", self.cluster.0));
        line(&mut head, FROM, format_args!("{:x}", self.from.0));
        line(&mut head, TO, format_args!("{:x}", self.to.0));
        line(&mut head, INCARNATION, format_args!("{:x}", self.incarnation));
        line(&mut head, SHARD, self.shard);
        line(&mut head, SHARDS, self.shards);
        if let Purpose::Snapshot(snapshot) = self.purpose {
            line(&mut head, GROUP, format_args!("{:x}", snapshot.group.0));
            line(&mut head, TERM, snapshot.term);
            line(&mut head, SNAPSHOT_TERM, snapshot.at.term);
            line(&mut head, SNAPSHOT_INDEX, snapshot.at.index);
            line(&mut head, LENGTH, snapshot.size);
        }
        finish(head)
    }

    /// Reads a request head. Unknown header lines are skipped, known ones must be there once and be well-formed.
    ///
    /// # Errors
    /// What to answer instead.
    pub fn parse(head: &[u8]) -> Result<Request, Refusal> {
        let (first, lines) = Lines::parse(head).ok_or(Refusal::BadRequest)?;
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().ok_or(Refusal::BadRequest)?);
        if words.next() != Some("HTTP/1.1") || words.next().is_some() {
            return Err(Refusal::BadRequest);
        }
        let path = path.strip_prefix("/raft/").ok_or(Refusal::InvalidPath)?;
        let (path, from) = path.rsplit_once('/').ok_or(Refusal::InvalidPath)?;
        let (stream, wanted) = match path {
            "stream/append" => (Some(StreamKind::Append), "GET"),
            "stream/message" => (Some(StreamKind::Message), "GET"),
            "snapshot" => (None, "POST"),
            _ => return Err(Refusal::InvalidPath),
        };
        if method != wanted {
            return Err(Refusal::MethodNotAllowed);
        }
        // Versions first: what else a version has to say is its own affair.
        let version = |name: &str| lines.decimal(name).and_then(|number| u16::try_from(number).ok());
        let versions = version(PROTOCOL).zip(version(PROTOCOL_MIN));
        if versions.is_none_or(|(newest, oldest)| newest < MIN_VERSION || oldest > VERSION) {
            return Err(Refusal::IncompatibleVersion);
        }
        let from = hex(from).filter(|from| lines.hex(FROM) == Some(*from)).ok_or(Refusal::InvalidFrom)?;
        let fields = || -> Option<Request> {
            let purpose = match stream {
                Some(kind) => Purpose::Stream(kind),
                None => Purpose::Snapshot(SnapshotHead {
                    group: GroupId(lines.hex(GROUP)?),
                    term: Term(lines.decimal(TERM)?),
                    at: EntryId {
                        term: Term(lines.decimal(SNAPSHOT_TERM)?),
                        index: Index(lines.decimal(SNAPSHOT_INDEX)?),
                    },
                    size: lines.decimal(LENGTH)?,
                }),
            };
            Some(Request {
                purpose,
                cluster: ClusterId(lines.hex(CLUSTER)?),
                from: PeerId(from),
                to: PeerId(lines.hex(TO)?),
                incarnation: lines.hex(INCARNATION)?,
                shard: ShardNo(u16::try_from(lines.decimal(SHARD)?).ok()?),
                shards: u16::try_from(lines.decimal(SHARDS)?).ok()?,
            })
        };
        fields().filter(|request| request.shard.0 < request.shards).ok_or(Refusal::BadRequest)
    }
}

/// What a listener says to a stream it accepts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Response {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: PeerId,
    /// The start of its process.
    pub incarnation: u64,
    /// What the frames of this connection are seeded with.
    pub salt: u64,
}

impl Response {
    /// The response head.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut head = String::from("HTTP/1.1 200 OK\r\n");
        line(&mut head, PROTOCOL, VERSION);
        line(&mut head, PROTOCOL_MIN, MIN_VERSION);
        line(&mut head, CLUSTER, format_args!("{:x}", self.cluster.0));
        line(&mut head, FROM, format_args!("{:x}", self.from.0));
        line(&mut head, INCARNATION, format_args!("{:x}", self.incarnation));
        line(&mut head, SALT, format_args!("{:x}", self.salt));
        finish(head)
    }

    /// Reads the response head to `request`, and checks that it comes from whom the request was for.
    ///
    /// # Errors
    /// Why this connection is of no use.
    pub fn parse(head: &[u8], request: &Request) -> Result<Response, HandshakeError> {
        let code = status(head).ok_or(HandshakeError::Malformed)?;
        let (_, lines) = Lines::parse(head).ok_or(HandshakeError::Malformed)?;
        if code != 200 {
            return Err(HandshakeError::refused(code, &lines));
        }
        let version = |name: &str| lines.decimal(name).and_then(|number| u16::try_from(number).ok());
        let (newest, oldest) = version(PROTOCOL).zip(version(PROTOCOL_MIN)).ok_or(HandshakeError::Malformed)?;
        if newest < MIN_VERSION || oldest > VERSION {
            return Err(HandshakeError::Version { newest, oldest });
        }
        let fields = || -> Option<Response> {
            Some(Response {
                cluster: ClusterId(lines.hex(CLUSTER)?),
                from: PeerId(lines.hex(FROM)?),
                incarnation: lines.hex(INCARNATION)?,
                salt: lines.hex(SALT)?,
            })
        };
        let response = fields().ok_or(HandshakeError::Malformed)?;
        if response.cluster != request.cluster {
            return Err(HandshakeError::Cluster(response.cluster));
        }
        if response.from != request.to {
            return Err(HandshakeError::Node { expected: request.to, got: response.from });
        }
        Ok(response)
    }
}

/// Why a dialed connection is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// What came back is no answer of this protocol.
    #[error("the answer is not one of this protocol")]
    Malformed,
    /// The listener refused, for a reason we know.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The listener refused, for another reason.
    #[error("refused with status {0}")]
    Status(u16),
    /// The listener's versions and ours do not meet.
    #[error("it speaks versions {oldest} to {newest}")]
    Version {
        /// Its newest version.
        newest: u16,
        /// Its oldest version.
        oldest: u16,
    },
    /// It belongs to another cluster.
    #[error("it belongs to cluster {:x}", .0.0)]
    Cluster(ClusterId),
    /// Another node lives at this address.
    #[error("node {got} lives there instead of {expected}")]
    Node {
        /// Who should.
        expected: PeerId,
        /// Who does.
        got: PeerId,
    },
}

impl HandshakeError {
    /// What a refusal says; a body after its head is not looked at.
    #[must_use]
    pub fn of_refusal(answer: &[u8]) -> HandshakeError {
        let head = &answer[..head_len(answer).unwrap_or(answer.len())];
        match (status(head), Lines::parse(head)) {
            (Some(code), Some((_, lines))) => HandshakeError::refused(code, &lines),
            _ => HandshakeError::Malformed,
        }
    }

    fn refused(code: u16, lines: &Lines<'_>) -> HandshakeError {
        let reason = lines.get(REFUSAL).and_then(|text| Refusal::ALL.into_iter().find(|one| one.reason() == text));
        reason.map_or(HandshakeError::Status(code), HandshakeError::Refused)
    }
}

/// Why a listener sends a dialer away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Not a request head, or a field is missing, doubled or malformed.
    BadRequest,
    /// Nothing lives under this path.
    InvalidPath,
    /// The sender's id is not an id, or the path and the header line differ.
    InvalidFrom,
    /// No such peer is known (yet).
    SenderNotFound,
    /// Another method is needed.
    MethodNotAllowed,
    /// No version in common.
    IncompatibleVersion,
    /// Another cluster.
    ClusterMismatch,
    /// Another node was meant.
    ToMismatch,
    /// The nodes have different numbers of shards.
    ShardCountMismatch,
    /// The snapshot is larger than this node takes.
    SnapshotTooLarge,
    /// The sender was removed from the cluster, for good.
    Removed,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 11] = [
        Refusal::BadRequest,
        Refusal::InvalidPath,
        Refusal::InvalidFrom,
        Refusal::SenderNotFound,
        Refusal::MethodNotAllowed,
        Refusal::IncompatibleVersion,
        Refusal::ClusterMismatch,
        Refusal::ToMismatch,
        Refusal::ShardCountMismatch,
        Refusal::SnapshotTooLarge,
        Refusal::Removed,
    ];

    /// The status line's code and text.
    #[must_use]
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::BadRequest => (400, "Bad Request"),
            Refusal::InvalidPath | Refusal::InvalidFrom | Refusal::SenderNotFound => (404, "Not Found"),
            Refusal::MethodNotAllowed => (405, "Method Not Allowed"),
            Refusal::IncompatibleVersion
            | Refusal::ClusterMismatch
            | Refusal::ToMismatch
            | Refusal::ShardCountMismatch => (412, "Precondition Failed"),
            Refusal::SnapshotTooLarge => (413, "Content Too Large"),
            Refusal::Removed => (410, "Gone"),
        }
    }

    /// The line in the body, as etcd words it where etcd has it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::BadRequest => "bad request",
            Refusal::InvalidPath => "invalid path",
            Refusal::InvalidFrom => "invalid from",
            Refusal::SenderNotFound => "error sender not found",
            Refusal::MethodNotAllowed => "Method Not Allowed",
            Refusal::IncompatibleVersion => "incompatible version",
            Refusal::ClusterMismatch => "cluster ID mismatch",
            Refusal::ToMismatch => "to field mismatch",
            Refusal::ShardCountMismatch => "shard count mismatch",
            Refusal::SnapshotTooLarge => "snapshot too large",
            Refusal::Removed => "removed member",
        }
    }

    /// The whole answer: a head, and the reason as its body.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let ((code, text), reason) = (self.status(), self.reason());
        let mut answer = format!("HTTP/1.1 {code} {text}\r\n");
        if self == Refusal::MethodNotAllowed {
            line(&mut answer, "Allow", "GET, POST");
        }
        line(&mut answer, REFUSAL, reason);
        line(&mut answer, "Content-Type", "text/plain; charset=utf-8");
        line(&mut answer, LENGTH, reason.len() + 1);
        line(&mut answer, "Connection", "close");
        write!(answer, "\r\n{reason}\n").expect(TO_STRING);
        Bytes::from(answer)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

/// The peers that may connect. Clones share one list, which may change while the node runs.
#[derive(Clone, Debug, Default)]
pub struct Members(Arc<RwLock<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    known: BTreeSet<PeerId>,
    removed: BTreeSet<PeerId>,
}

impl Members {
    /// Lets `peer` connect.
    pub fn add(&self, peer: PeerId) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        lists.removed.remove(&peer);
        lists.known.insert(peer);
    }

    /// Sends `peer` away from now on, and tells it that this is for good.
    pub fn remove(&self, peer: PeerId) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        lists.known.remove(&peer);
        lists.removed.insert(peer);
    }

    fn check(&self, peer: PeerId) -> Result<(), Refusal> {
        let lists = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if lists.removed.contains(&peer) {
            Err(Refusal::Removed)
        } else if lists.known.contains(&peer) {
            Ok(())
        } else {
            Err(Refusal::SenderNotFound)
        }
    }
}

/// Who this node is, for judging those who dial it.
#[derive(Clone, Debug)]
pub struct JudgeConfig {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: PeerId,
    /// The start of its process.
    pub incarnation: u64,
    /// Where the snapshots of each shard arrive; as many as there are shards.
    pub snapshot_dirs: Vec<PathBuf>,
    /// Largest snapshot taken, in bytes.
    pub snapshot_size_max: u64,
}

/// Judges connections to the peer listener; what the node's [`Acceptor`](ringraft_io::Acceptor) asks for
/// [`ListenerKind::Peer`](ringraft_io::ListenerKind).
#[derive(Debug)]
pub struct Judge {
    config: JudgeConfig,
    members: Members,
    /// Connections so far; makes each one's salt its own.
    connections: AtomicU64,
}

impl Judge {
    /// A judge that lets `members` in.
    ///
    /// # Panics
    /// If there are no shards, or more than 65535.
    #[must_use]
    pub fn new(config: JudgeConfig, members: Members) -> Judge {
        assert!((1..=usize::from(u16::MAX)).contains(&config.snapshot_dirs.len()), "number of shards");
        Judge { config, members, connections: AtomicU64::new(0) }
    }

    /// What to do with a connection whose request head is `head`. Its greeting is a [`Greeting`].
    #[must_use]
    pub fn judge(&self, head: &[u8]) -> Verdict {
        match Request::parse(head).and_then(|request| self.check(request)) {
            Ok(request) => self.welcome(&request),
            Err(refusal) => Verdict::Refuse { response: refusal.encode() },
        }
    }

    fn check(&self, request: Request) -> Result<Request, Refusal> {
        if request.cluster != self.config.cluster {
            return Err(Refusal::ClusterMismatch);
        }
        self.members.check(request.from)?;
        if request.to != self.config.node {
            return Err(Refusal::ToMismatch);
        }
        if usize::from(request.shards) != self.config.snapshot_dirs.len() {
            return Err(Refusal::ShardCountMismatch);
        }
        match request.purpose {
            Purpose::Snapshot(snapshot) if snapshot.size > self.config.snapshot_size_max => {
                Err(Refusal::SnapshotTooLarge)
            }
            Purpose::Snapshot(_) | Purpose::Stream(_) => Ok(request),
        }
    }

    fn welcome(&self, request: &Request) -> Verdict {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        // Distinct within a process by the counter, between its lives by the incarnation.
        let salt = finalize(self.config.incarnation ^ finalize(connection + 1));
        let JudgeConfig { cluster, node, incarnation, .. } = self.config;
        let Request { from, shard, .. } = *request;
        let response = Response { cluster, from: node, incarnation, salt }.encode();
        match request.purpose {
            Purpose::Stream(kind) => {
                let greeting = Greeting::Stream { kind, shard, from, incarnation: request.incarnation, salt };
                Verdict::Stream { shard, response, greeting: greeting.encode() }
            }
            Purpose::Snapshot(head) => {
                let name = format!("incoming-{:x}-{:x}-{salt:x}", head.group.0, head.at.index.0);
                let path = self.config.snapshot_dirs[usize::from(shard.0)].join(name);
                let greeting = Greeting::Snapshot { shard, from, head }.encode();
                let done = Bytes::from_static(b"HTTP/1.1 204 No Content\r\n\r\n");
                Verdict::File { shard, response, done, greeting, path, size: head.size }
            }
        }
    }
}

/// What a shard is told of a connection that was let in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Greeting {
    /// A peer wants to read this stream.
    Stream {
        /// Which stream.
        kind: StreamKind,
        /// Of which shard.
        shard: ShardNo,
        /// Which peer.
        from: PeerId,
        /// The start of the peer's process.
        incarnation: u64,
        /// What the frames are seeded with.
        salt: u64,
    },
    /// A peer has sent a snapshot.
    Snapshot {
        /// To which shard.
        shard: ShardNo,
        /// Which peer.
        from: PeerId,
        /// What it said of it.
        head: SnapshotHead,
    },
}

/// What a greeting begins with, so that other listeners' greetings are told apart.
const GREETING_MAGIC: [u8; 4] = *b"rrg1";

const GREETING_LEN: usize = 64;

impl Greeting {
    /// Its bytes; for this process only.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (tag, shard, words) = match *self {
            Greeting::Stream { kind, shard, from, incarnation, salt } => {
                (kind as u8, shard, [from.0, incarnation, salt, 0, 0, 0, 0])
            }
            Greeting::Snapshot { shard, from, head } => {
                let SnapshotHead { group, term, at, size } = head;
                (3, shard, [from.0, group.0, term.0, at.term.0, at.index.0, size, 0])
            }
        };
        let mut out = Vec::with_capacity(GREETING_LEN);
        out.extend(GREETING_MAGIC);
        out.extend([tag, 0]);
        out.extend(shard.0.to_le_bytes());
        words.iter().for_each(|word| out.extend(word.to_le_bytes()));
        assert_eq!(out.len(), GREETING_LEN);
        Bytes::from(out)
    }

    /// Reads what [`Greeting::encode`] wrote; `None` if someone else did.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Greeting> {
        let bytes: &[u8; GREETING_LEN] = bytes.try_into().ok()?;
        if bytes[..4] != GREETING_MAGIC {
            return None;
        }
        let shard = ShardNo(u16::from_le_bytes([bytes[6], bytes[7]]));
        let word = |at: usize| u64::from_le_bytes(bytes[8 * at + 8..8 * at + 16].try_into().expect("eight bytes"));
        let from = PeerId(word(0));
        if bytes[4] == 3 {
            let at = EntryId { term: Term(word(3)), index: Index(word(4)) };
            let head = SnapshotHead { group: GroupId(word(1)), term: Term(word(2)), at, size: word(5) };
            return Some(Greeting::Snapshot { shard, from, head });
        }
        let kind = StreamKind::from_u8(bytes[4])?;
        Some(Greeting::Stream { kind, shard, from, incarnation: word(1), salt: word(2) })
    }
}

impl Request {
    /// The link that a stream becomes once the listener has answered; `None` for a snapshot.
    #[must_use]
    pub fn link(&self, response: &Response) -> Option<Link> {
        let Purpose::Stream(kind) = self.purpose else { return None };
        let Request { cluster, to, from, shard, .. } = *self;
        Some(Link { cluster, from: to, to: from, kind, shard, salt: response.salt })
    }
}

/// The finalizer of splitmix64: a bijection, so different inputs stay different.
pub(crate) fn finalize(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(crate) const TO_STRING: &str = "writing to a string cannot fail";

pub(crate) fn line(head: &mut String, name: &str, value: impl std::fmt::Display) {
    write!(head, "{name}: {value}\r\n").expect(TO_STRING);
}

pub(crate) fn finish(mut head: String) -> Bytes {
    head.push_str("\r\n");
    assert!(head.len() <= HEAD_MAX, "a head of {} bytes", head.len());
    Bytes::from(head)
}

/// The header lines of a head.
pub(crate) struct Lines<'a> {
    text: &'a str,
}

impl<'a> Lines<'a> {
    /// First line and header lines; `None` unless `head` is exactly one head within the limits.
    pub(crate) fn parse(head: &'a [u8]) -> Option<(&'a str, Lines<'a>)> {
        if head.len() > HEAD_MAX || head_len(head) != Some(head.len()) || !head.is_ascii() {
            return None;
        }
        let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
        let (first, text) = text.split_once("\r\n").unwrap_or((text, ""));
        let lines = Lines { text };
        let sound = |line: &str| line.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
        let clean = |line: &str| !line.chars().any(|c| c.is_ascii_control() && c != '\t');
        if !clean(first) || lines.iter().count() > LINES_MAX || !lines.iter().all(|line| sound(line) && clean(line)) {
            return None;
        }
        Some((first, lines))
    }

    fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.text.split("\r\n").filter(|line| !line.is_empty())
    }

    /// The value of the only line with this name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let mut found =
            self.iter().filter_map(|line| line.split_once(':')).filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let (_, value) = found.next()?;
        if found.next().is_some() { None } else { Some(value.trim_matches([' ', '\t'])) }
    }

    /// How many lines have this name.
    pub(crate) fn count(&self, name: &str) -> usize {
        let names = self.iter().filter_map(|line| line.split_once(':'));
        names.filter(|(n, _)| n.eq_ignore_ascii_case(name)).count()
    }

    pub(crate) fn hex(&self, name: &str) -> Option<u64> {
        hex(self.get(name)?)
    }

    pub(crate) fn decimal(&self, name: &str) -> Option<u64> {
        let text = self.get(name)?;
        if text.is_empty() || text.len() > 20 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse().ok()
    }
}

/// 1 to 16 hexadecimal digits in lower case, without leading zeros, as etcd writes ids.
pub(crate) fn hex(text: &str) -> Option<u64> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(kind: StreamKind) -> Request {
        Request {
            purpose: Purpose::Stream(kind),
            cluster: ClusterId(0xc1),
            from: PeerId(0xa),
            to: PeerId(0xb),
            incarnation: 77,
            shard: ShardNo(1),
            shards: 4,
        }
    }

    fn snapshot(size: u64) -> Request {
        let at = EntryId { term: Term(5), index: Index(1000) };
        let head = SnapshotHead { group: GroupId(0xf00), term: Term(6), at, size };
        Request { purpose: Purpose::Snapshot(head), ..stream(StreamKind::Append) }
    }

    fn judge() -> Judge {
        let config = JudgeConfig {
            cluster: ClusterId(0xc1),
            node: PeerId(0xb),
            incarnation: 99,
            snapshot_dirs: (0..4).map(|shard| PathBuf::from(format!("data/{shard}"))).collect(),
            snapshot_size_max: 1000,
        };
        let members = Members::default();
        members.add(PeerId(0xa));
        members.remove(PeerId(0xd));
        Judge::new(config, members)
    }

    fn refusal(verdict: Verdict) -> Option<HandshakeError> {
        match verdict {
            Verdict::Refuse { response } => Some(HandshakeError::of_refusal(&response)),
            Verdict::Stream { .. } | Verdict::File { .. } => None,
        }
    }

    #[test]
    fn requests_round_trip() {
        for request in [stream(StreamKind::Append), stream(StreamKind::Message), snapshot(u64::MAX)] {
            let head = request.encode("host:2380");
            assert_eq!(Request::parse(&head), Ok(request), "{}", String::from_utf8_lossy(&head));
        }
    }

    #[test]
    fn a_stream_is_let_in() {
        let (judge, request) = (judge(), stream(StreamKind::Message));
        let mut salts = BTreeSet::new();
        for _ in 0..100 {
            let Verdict::Stream { shard, response, greeting } = judge.judge(&request.encode("h")) else {
                panic!("refused");
            };
            assert_eq!(shard, ShardNo(1));
            let response = Response::parse(&response, &request).unwrap();
            let link = request.link(&response).unwrap();
            let Some(Greeting::Stream { kind, shard, from, incarnation, salt }) = Greeting::decode(&greeting) else {
                panic!("no greeting");
            };
            // Both sides see the same link.
            let theirs = Link { cluster: ClusterId(0xc1), from: PeerId(0xb), to: from, kind, shard, salt };
            assert_eq!((theirs, incarnation), (link, 77));
            salts.insert(salt);
        }
        assert_eq!(salts.len(), 100, "every connection has a salt of its own");
    }

    #[test]
    fn a_snapshot_is_let_in() {
        let Verdict::File { shard, response, done, greeting, path, size } = judge().judge(&snapshot(1000).encode("h"))
        else {
            panic!("refused");
        };
        assert_eq!((shard, size, status(&response), status(&done)), (ShardNo(1), 1000, Some(200), Some(204)));
        assert!(path.starts_with("data/1"), "{}", path.display());
        let Purpose::Snapshot(head) = snapshot(1000).purpose else { unreachable!("made above") };
        let greeting = Greeting::decode(&greeting);
        assert_eq!(greeting, Some(Greeting::Snapshot { shard: ShardNo(1), from: PeerId(0xa), head }));
    }

    #[test]
    fn who_is_refused_and_why() {
        let good = stream(StreamKind::Append);
        for (request, why) in [
            (Request { cluster: ClusterId(1), ..good }, Refusal::ClusterMismatch),
            (Request { to: PeerId(1), ..good }, Refusal::ToMismatch),
            (Request { from: PeerId(0xc), ..good }, Refusal::SenderNotFound),
            (Request { from: PeerId(0xd), ..good }, Refusal::Removed),
            (Request { shards: 5, ..good }, Refusal::ShardCountMismatch),
            (Request { shard: ShardNo(4), ..good }, Refusal::BadRequest),
            (Request { from: PeerId(0xd), ..snapshot(1) }, Refusal::Removed),
            (snapshot(1001), Refusal::SnapshotTooLarge),
        ] {
            assert_eq!(refusal(judge().judge(&request.encode("h"))), Some(HandshakeError::Refused(why)), "{request:?}");
        }
    }

    #[test]
    fn heads_that_are_not() {
        let head = String::from_utf8(stream(StreamKind::Append).encode("h").to_vec()).unwrap();
        let post = String::from_utf8(snapshot(10).encode("h").to_vec()).unwrap();
        let many: String = (0..LINES_MAX).map(|n| format!("X-{n}: 1\r\n")).collect();
        for (from, to, why) in [
            ("GET", "PUT", Refusal::MethodNotAllowed),
            ("stream/append", "stream/other", Refusal::InvalidPath),
            ("/raft/stream/append/a", "/raft/stream/append", Refusal::InvalidPath),
            ("/raft/stream/append/a", "/raft/stream/append/A", Refusal::InvalidFrom),
            ("/raft/stream/append/a", "/raft/stream/append/0a", Refusal::InvalidFrom),
            ("/raft/stream/append/a", "/raft/stream/append/b", Refusal::InvalidFrom),
            ("/raft/stream/append/a", "/raft/stream/append/11111111111111111", Refusal::InvalidFrom),
            ("HTTP/1.1", "HTTP/1.0", Refusal::BadRequest),
            ("X-Raft-Version: 1\r\n", "", Refusal::IncompatibleVersion),
            ("X-Raft-Version: 1", "X-Raft-Version: 0", Refusal::IncompatibleVersion),
            ("X-Raft-Min-Version: 1", "X-Raft-Min-Version: 2", Refusal::IncompatibleVersion),
            ("X-Raft-Cluster: c1\r\n", "", Refusal::BadRequest),
            ("X-Raft-Cluster: c1\r\n", "X-Raft-Cluster: c1\r\nx-raft-cluster: c1\r\n", Refusal::BadRequest),
            ("X-Raft-Cluster: c1", "X-Raft-Cluster: +c1", Refusal::BadRequest),
            ("X-Raft-Shard: 1", "X-Raft-Shard: -1", Refusal::BadRequest),
            ("X-Raft-Shards: 4", "X-Raft-Shards: 65536", Refusal::BadRequest),
            ("X-Raft-Shards: 4", "X-Raft-Shards 4", Refusal::BadRequest),
            ("Host: h", "Host: h\nX: y", Refusal::BadRequest),
            ("Host: h", "Host: \u{e9}", Refusal::BadRequest),
            ("Host: h\r\n", &many, Refusal::BadRequest),
        ] {
            let bad = head.replacen(from, to, 1);
            assert_ne!(bad, head);
            assert_eq!(Request::parse(bad.as_bytes()), Err(why), "{bad}");
        }
        let bad = post.replace("Content-Length: 10", "Content-Length: 99999999999999999999");
        assert_eq!(Request::parse(bad.as_bytes()), Err(Refusal::BadRequest));
        // Names are compared without case, unknown lines are skipped, a newer dialer that knows our version is fine.
        let odd = head.replace("X-Raft-To:", "x-RAFT-to: \t").replace("Host: h", "Later: \tx\r\nUser-Agent: y");
        let odd = odd.replace("X-Raft-Version: 1", "X-Raft-Version: 7");
        assert_eq!(Request::parse(odd.as_bytes()), Ok(stream(StreamKind::Append)));
    }

    #[test]
    fn answers_from_the_wrong_side() {
        let request = stream(StreamKind::Append);
        let good = Response { cluster: ClusterId(0xc1), from: PeerId(0xb), incarnation: 1, salt: u64::MAX };
        let parse = |response: Response| Response::parse(&response.encode(), &request);
        assert_eq!(parse(good), Ok(good));
        assert_eq!(parse(Response { cluster: ClusterId(2), ..good }), Err(HandshakeError::Cluster(ClusterId(2))));
        let node = HandshakeError::Node { expected: PeerId(0xb), got: PeerId(2) };
        assert_eq!(parse(Response { from: PeerId(2), ..good }), Err(node));
        for (head, error) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], HandshakeError::Malformed),
            (b"HTTP/1.1 503 Busy\r\n\r\n", HandshakeError::Status(503)),
            (b"HTTP/1.1 412 X\r\nX-Raft-Refusal: new reason\r\n\r\n", HandshakeError::Status(412)),
            (b"SSH-2.0-x\r\n\r\n", HandshakeError::Malformed),
            (b"", HandshakeError::Malformed),
        ] {
            assert_eq!(Response::parse(head, &request), Err(error), "{}", String::from_utf8_lossy(head));
        }
        let later = String::from_utf8(good.encode().to_vec()).unwrap();
        let later = later.replace("Version: 1", "Version: 3");
        assert_eq!(Response::parse(later.as_bytes(), &request), Err(HandshakeError::Version { newest: 3, oldest: 3 }));
    }

    #[test]
    fn refusals_read_like_etcds() {
        for refusal in Refusal::ALL {
            let answer = refusal.encode();
            let head = head_len(&answer).unwrap();
            assert_eq!(status(&answer), Some(refusal.status().0));
            assert_eq!(&answer[head..], format!("{}\n", refusal.reason()).as_bytes());
            assert_eq!(HandshakeError::of_refusal(&answer[..head]), HandshakeError::Refused(refusal));
        }
    }

    #[test]
    fn members_come_and_go() {
        let members = Members::default();
        assert_eq!(members.check(PeerId(1)), Err(Refusal::SenderNotFound));
        members.clone().add(PeerId(1));
        assert_eq!(members.check(PeerId(1)), Ok(()));
        members.remove(PeerId(1));
        assert_eq!(members.check(PeerId(1)), Err(Refusal::Removed));
        members.add(PeerId(1));
        assert_eq!(members.check(PeerId(1)), Ok(()));
    }

    #[test]
    fn other_greetings_are_nobodys() {
        for bytes in [&b""[..], b"rrg1", &[0; 64], &[0; 65], b"client"] {
            assert_eq!(Greeting::decode(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..400) {
            let _ = Request::parse(&bytes);
            let _ = Response::parse(&bytes, &stream(StreamKind::Append));
            let _ = HandshakeError::of_refusal(&bytes);
            let _ = Greeting::decode(&bytes);
            // Damage in the middle of a good head.
            let mut head = snapshot(5).encode("h").to_vec();
            let at = at % head.len();
            head.splice(at..at, bytes.iter().take(3).copied());
            let _ = judge().judge(&head);
        }
    }
}
