//! Heads of requests and answers on etcd's peer listener, both ways.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use ringraft_io::head::status;
use ringraft_raft::PeerId;

use crate::handshake::{Lines, TO_STRING, finish, hex, line};
use crate::{ClusterId, StreamKind};

const SERVER_FROM: &str = "X-Server-From";
const SERVER_VERSION: &str = "X-Server-Version";
const MIN_CLUSTER_VERSION: &str = "X-Min-Cluster-Version";
const CLUSTER: &str = "X-Etcd-Cluster-ID";
const TO: &str = "X-Raft-To";
const PEER_URLS: &str = "X-PeerURLs";
const LENGTH: &str = "Content-Length";
const ENCODING: &str = "Transfer-Encoding";
const TYPE: &str = "Content-Type";

/// A version of etcd, as three numbers. (Two would end the process of an etcd that reads them.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number; what follows it makes no difference between members.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// The oldest that members of version 3 work with.
    pub const MIN: Version = Version { major: 3, minor: 0, patch: 0 };

    /// That of a member which does not say.
    const UNSAID: Version = Version { major: 2, minor: 0, patch: 0 };

    /// Reads three numbers with dots between them; what follows the third behind `-` or `+` is left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let numbers = text.split(['-', '+']).next()?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().ok() } else { None }
        };
        let mut parts = numbers.split('.').map(number);
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() { None } else { Some(Version { major, minor, patch }) }
    }

    /// Whether a member of this version talks to one of that version, which talks to nobody older than `min`.
    fn goes_with(self, other: Version, min: Version) -> bool {
        let coarse = |version: Version| (version.major, version.minor);
        coarse(other) >= coarse(Version::MIN) && coarse(min) <= coarse(self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Who this member is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub id: PeerId,
    /// The version it says it is: best that of the oldest member.
    pub version: Version,
    /// Where its peers reach it, with commas between.
    pub peer_urls: String,
}

impl Host {
    /// The request by which this member reads a stream of `to`, who listens at `address`.
    #[must_use]
    pub fn stream_request(&self, kind: StreamKind, to: PeerId, address: &str) -> Bytes {
        let mut head = format!("GET {}/{:x} HTTP/1.1\r\nHost: {address}\r\n", stream_path(kind), self.id.0);
        self.say(&mut head);
        line(&mut head, TO, format_args!("{:x}", to.0));
        finish(head)
    }

    /// The head of a `POST` of a message of `len` bytes to the pipeline.
    #[must_use]
    pub fn pipeline_request(&self, len: usize, address: &str) -> Bytes {
        let mut head = format!("POST /raft HTTP/1.1\r\nHost: {address}\r\n");
        self.say(&mut head);
        line(&mut head, TYPE, "application/protobuf");
        line(&mut head, LENGTH, len);
        finish(head)
    }

    /// The head of a `POST` of a snapshot; its body follows in chunks.
    #[must_use]
    pub fn snapshot_request(&self, address: &str) -> Bytes {
        let mut head = format!("POST /raft/snapshot HTTP/1.1\r\nHost: {address}\r\n");
        self.say(&mut head);
        line(&mut head, TYPE, "application/octet-stream");
        line(&mut head, ENCODING, "chunked");
        finish(head)
    }

    fn say(&self, head: &mut String) {
        line(head, SERVER_FROM, format_args!("{:x}", self.id.0));
        line(head, SERVER_VERSION, self.version);
        line(head, MIN_CLUSTER_VERSION, Version::MIN);
        line(head, CLUSTER, format_args!("{:x}", self.cluster.0));
        line(head, PEER_URLS, &self.peer_urls);
    }

    /// The answer that begins a stream: chunks follow.
    #[must_use]
    pub fn stream_answer(&self) -> Bytes {
        let mut head = String::from("HTTP/1.1 200 OK\r\n");
        line(&mut head, CLUSTER, format_args!("{:x}", self.cluster.0));
        line(&mut head, SERVER_VERSION, self.version);
        line(&mut head, ENCODING, "chunked");
        finish(head)
    }

    /// The answer to a `POST` that was taken.
    #[must_use]
    pub fn done(&self) -> Bytes {
        let mut head = String::from("HTTP/1.1 204 No Content\r\n");
        line(&mut head, CLUSTER, format_args!("{:x}", self.cluster.0));
        finish(head)
    }

    /// An answer with a body of this type.
    #[must_use]
    pub fn answer(&self, content_type: &str, body: &str) -> Bytes {
        let mut answer = String::from("HTTP/1.1 200 OK\r\n");
        line(&mut answer, CLUSTER, format_args!("{:x}", self.cluster.0));
        line(&mut answer, TYPE, content_type);
        line(&mut answer, LENGTH, body.len());
        write!(answer, "\r\n{body}").expect(TO_STRING);
        Bytes::from(answer)
    }

    /// An answer that refuses.
    #[must_use]
    pub fn refuse(&self, refusal: &Refusal) -> Bytes {
        let (code, text) = refusal.status();
        let mut answer = format!("HTTP/1.1 {code} {text}\r\n");
        line(&mut answer, CLUSTER, format_args!("{:x}", self.cluster.0));
        line(&mut answer, SERVER_VERSION, self.version);
        if let Refusal::MethodNotAllowed { allowed } = refusal {
            line(&mut answer, "Allow", allowed);
        }
        line(&mut answer, TYPE, "text/plain; charset=utf-8");
        let body = refusal.to_string();
        line(&mut answer, LENGTH, body.len() + 1);
        write!(answer, "\r\n{body}\n").expect(TO_STRING);
        Bytes::from(answer)
    }

    /// Judges a request as etcd does, in the same order; `is_peer` knows who may read streams.
    ///
    /// # Errors
    /// What to answer. Nobody is told here that it was removed: etcd would believe it, and end.
    pub fn judge(&self, request: &Request<'_>, is_peer: impl FnOnce(PeerId) -> bool) -> Result<Purpose, Refusal> {
        let path = request.path;
        let stream = path.strip_prefix("/raft/stream");
        let purpose = match path {
            _ if stream.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) => None,
            "/raft" => Some(Purpose::Pipeline),
            "/raft/snapshot" => Some(Purpose::Snapshot),
            "/raft/probing" => Some(Purpose::Probing),
            "/members" => Some(Purpose::Members),
            "/version" => Some(Purpose::Version),
            "/downgrade/enabled" => Some(Purpose::DowngradeEnabled),
            _ => return Err(Refusal::NotFound),
        };
        let posts = matches!(purpose, Some(Purpose::Pipeline | Purpose::Snapshot));
        let allowed = if posts { "POST" } else { "GET" };
        if request.method != allowed {
            return Err(Refusal::MethodNotAllowed { allowed });
        }
        if purpose.is_none() || posts {
            self.judge_caller(request)?;
        }
        match purpose {
            Some(purpose) => Ok(purpose),
            None => self.judge_stream(stream.unwrap_or_default(), request, is_peer),
        }
    }

    fn judge_caller(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let version = |name: &str| request.lines.get(name).map_or(Some(Version::UNSAID), Version::parse);
        let versions = version(SERVER_VERSION).zip(version(MIN_CLUSTER_VERSION));
        if !versions.is_some_and(|(theirs, min)| self.version.goes_with(theirs, min)) {
            return Err(Refusal::IncompatibleVersion);
        }
        if request.lines.hex(CLUSTER) == Some(self.cluster.0) { Ok(()) } else { Err(Refusal::ClusterMismatch) }
    }

    fn judge_stream(
        &self,
        path: &str,
        request: &Request<'_>,
        is_peer: impl FnOnce(PeerId) -> bool,
    ) -> Result<Purpose, Refusal> {
        let (kind, from) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or(Refusal::InvalidPath)?;
        let kind = match kind {
            "msgapp" => StreamKind::Append,
            "message" => StreamKind::Message,
            _ => return Err(Refusal::InvalidPath),
        };
        let from = PeerId(hex(from).ok_or(Refusal::InvalidFrom)?);
        if !is_peer(from) {
            return Err(Refusal::SenderNotFound);
        }
        if request.lines.hex(TO) != Some(self.id.0) {
            return Err(Refusal::ToMismatch);
        }
        Ok(Purpose::Stream { kind, from })
    }
}

fn stream_path(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Append => "/raft/stream/msgapp",
        StreamKind::Message => "/raft/stream/message",
    }
}

/// A request without anything to say: for what is there to be read.
#[must_use]
pub fn plain_request(path: &str, address: &str) -> Bytes {
    Bytes::from(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

/// How long a body is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// What its [chunks](super::chunks) say.
    Chunks,
    /// Up to the end of the connection.
    ToEnd,
}

impl Body {
    /// What the head says; `None` if it contradicts itself.
    fn of(lines: &Lines<'_>, unsaid: Body) -> Option<Body> {
        match (lines.count(ENCODING), lines.count(LENGTH)) {
            (0, 0) => Some(unsaid),
            (0, 1) => Some(Body::Length(lines.decimal(LENGTH)?)),
            (1, 0) if lines.get(ENCODING)?.eq_ignore_ascii_case("chunked") => Some(Body::Chunks),
            _ => None,
        }
    }
}

/// The head of a request.
pub struct Request<'a> {
    /// How long its body is.
    pub body: Body,
    method: &'a str,
    path: &'a str,
    lines: Lines<'a>,
}

impl<'a> Request<'a> {
    /// Reads a request head; `None` if it is none.
    #[must_use]
    pub fn parse(head: &'a [u8]) -> Option<Request<'a>> {
        let (first, lines) = Lines::parse(head)?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        if words.next() != Some("HTTP/1.1") || words.next().is_some() {
            return None;
        }
        let body = Body::of(&lines, Body::Length(0))?;
        Some(Request { body, method, path, lines })
    }

    /// Who sends it, if it says so.
    #[must_use]
    pub fn from(&self) -> Option<PeerId> {
        self.lines.hex(SERVER_FROM).map(PeerId)
    }

    /// Where its sender can be reached, if it says so.
    #[must_use]
    pub fn peer_urls(&self) -> Option<&'a str> {
        self.lines.get(PEER_URLS)
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// To read a stream of ours.
    Stream {
        /// Which one.
        kind: StreamKind,
        /// Who.
        from: PeerId,
    },
    /// To bring one message.
    Pipeline,
    /// To bring a snapshot.
    Snapshot,
    /// To see whether we are there.
    Probing,
    /// To learn the members.
    Members,
    /// To learn our version.
    Version,
    /// To learn whether the cluster is being downgraded.
    DowngradeEnabled,
}

/// Why a request is refused. The text is etcd's, for its members compare it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is for")]
pub enum Refusal {
    #[error("404 page not found")]
    NotFound,
    #[error("Method Not Allowed")]
    MethodNotAllowed { allowed: &'static str },
    #[error("incompatible version")]
    IncompatibleVersion,
    #[error("cluster ID mismatch")]
    ClusterMismatch,
    #[error("invalid path")]
    InvalidPath,
    #[error("invalid from")]
    InvalidFrom,
    #[error("error sender not found")]
    SenderNotFound,
    #[error("to field mismatch")]
    ToMismatch,
    #[error("error reading raft message")]
    Reading,
    #[error("error unmarshalling raft message")]
    Unmarshalling,
    #[error("{0}")]
    Snapshot(#[from] super::snapshots::SnapshotError),
    #[error("failed to save KV snapshot ({0})")]
    SaveSnapshot(String),
}

impl Refusal {
    /// The status line's code and text.
    #[must_use]
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            Refusal::NotFound | Refusal::InvalidPath | Refusal::InvalidFrom | Refusal::SenderNotFound => {
                (404, "Not Found")
            }
            Refusal::MethodNotAllowed { .. } => (405, "Method Not Allowed"),
            Refusal::IncompatibleVersion | Refusal::ClusterMismatch | Refusal::ToMismatch => {
                (412, "Precondition Failed")
            }
            Refusal::Reading | Refusal::Unmarshalling | Refusal::Snapshot(_) => (400, "Bad Request"),
            Refusal::SaveSnapshot(_) => (500, "Internal Server Error"),
        }
    }
}

/// The head of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Answer {
    /// Status code, 100 to 999.
    pub status: u16,
    /// How long its body is.
    pub body: Body,
    /// Which cluster it comes from, if it says so.
    pub cluster: Option<ClusterId>,
    /// Which version it comes from, if it says so.
    pub version: Option<Version>,
}

impl Answer {
    /// Reads an answer's head; `None` if it is none.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Answer> {
        let (_, lines) = Lines::parse(head)?;
        let status = status(head)?;
        let body = match status {
            100..200 | 204 | 304 => Body::Length(0),
            _ => Body::of(&lines, Body::ToEnd)?,
        };
        let version = lines.get(SERVER_VERSION).and_then(Version::parse);
        Some(Answer { status, body, cluster: lines.hex(CLUSTER).map(ClusterId), version })
    }

    /// Whether a stream follows that `host` may read.
    ///
    /// # Errors
    /// Why not.
    pub fn check_stream(&self, host: &Host) -> Result<(), NoStream> {
        match self.status {
            200 => {}
            410 => return Err(NoStream::Removed),
            other => return Err(NoStream::Status(other)),
        }
        let version = self.version.unwrap_or(Version::UNSAID);
        if version < Version::MIN {
            return Err(NoStream::Version(version));
        }
        if self.cluster != Some(host.cluster) {
            return Err(NoStream::Cluster);
        }
        if self.body == Body::Chunks { Ok(()) } else { Err(NoStream::Body) }
    }
}

/// Why an answer does not begin a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoStream {
    /// We are no member any more, for good.
    #[error("this member was removed from the cluster")]
    Removed,
    /// It refuses for another reason; the body may say which.
    #[error("refused with status {0}")]
    Status(u16),
    /// It is too old.
    #[error("it is of version {0}")]
    Version(Version),
    /// It belongs to another cluster.
    #[error("it belongs to another cluster")]
    Cluster,
    /// Its body is not in chunks.
    #[error("its body has an end")]
    Body,
}
