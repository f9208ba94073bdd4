//! What etcd puts into the entries of its log, as far as a follower wants to tell it: the payload of a normal entry is
//! an [`InternalRaftRequest`] or, up to 3.6 and for few things, a [`LegacyRequest`]; an empty one is a new leader's.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Most operations that are read of one payload, those of transactions within transactions too: one of two bytes takes
/// 200 in memory. etcd takes 128 in a transaction, unless it is told otherwise.
pub const OPS_MAX: usize = 1 << 16;

/// Something to be done to the state of every member. One of the fields is set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InternalRaftRequest {
    /// The proposer's mark, in the form that has no header.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// A request to the v2 store.
    #[prost(message, optional, tag = "2")]
    pub v2: Option<LegacyRequest>,
    /// Store a value.
    #[prost(message, optional, tag = "4")]
    pub put: Option<PutRequest>,
    /// Delete keys.
    #[prost(message, optional, tag = "5")]
    pub delete_range: Option<DeleteRangeRequest>,
    /// Several of these at once, depending on what is there.
    #[prost(message, optional, tag = "6")]
    pub txn: Option<TxnRequest>,
    /// Forget old revisions.
    #[prost(message, optional, tag = "7")]
    pub compaction: Option<CompactionRequest>,
    /// Make a lease.
    #[prost(message, optional, tag = "8")]
    pub lease_grant: Option<LeaseGrantRequest>,
    /// End a lease, and its keys.
    #[prost(message, optional, tag = "9")]
    pub lease_revoke: Option<LeaseRevokeRequest>,
    /// Raise an alarm or end it.
    #[prost(message, optional, tag = "10")]
    pub alarm: Option<AlarmRequest>,
    /// How long leases still live.
    #[prost(message, optional, tag = "11")]
    pub lease_checkpoint: Option<LeaseCheckpointRequest>,
    /// Who proposed it.
    #[prost(message, optional, tag = "100")]
    pub header: Option<RequestHeader>,
    /// The version that all members have reached.
    #[prost(message, optional, tag = "1300")]
    pub cluster_version_set: Option<ClusterVersionSetRequest>,
    /// A member's name and where its clients connect.
    #[prost(message, optional, tag = "1301")]
    pub cluster_member_attr_set: Option<ClusterMemberAttrSetRequest>,
}

/// Who proposed it.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RequestHeader {
    /// The proposer's mark; no other request of the cluster has it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// On whose behalf, if authentication is on.
    #[prost(string, tag = "2")]
    pub username: String,
    /// The revision of the rights it was checked against.
    #[prost(uint64, tag = "3")]
    pub auth_revision: u64,
}

/// Store a value.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PutRequest {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The lease it lives with; 0: none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
    /// Whether to tell what was there.
    #[prost(bool, tag = "4")]
    pub prev_kv: bool,
    /// Whether the value stays as it is.
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    /// Whether the lease stays as it is.
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// Delete keys.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DeleteRangeRequest {
    /// The key, or the first one.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The key behind the last one; empty: only one; a zero byte: all from the first on.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Whether to tell what was there.
    #[prost(bool, tag = "3")]
    pub prev_kv: bool,
}

/// Several operations at once, depending on what is there. What it compares is not read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnRequest {
    /// What to do if all comparisons hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// What to do if not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// One operation of a [`TxnRequest`]. None of the fields: it only reads.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestOp {
    /// Store a value.
    #[prost(message, optional, tag = "2")]
    pub put: Option<PutRequest>,
    /// Delete keys.
    #[prost(message, optional, tag = "3")]
    pub delete_range: Option<DeleteRangeRequest>,
    /// Another transaction.
    #[prost(message, optional, tag = "4")]
    pub txn: Option<TxnRequest>,
}

/// Forget old revisions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct CompactionRequest {
    /// Up to which.
    #[prost(int64, tag = "1")]
    pub revision: i64,
    /// Whether the client waits for the space to be free.
    #[prost(bool, tag = "2")]
    pub physical: bool,
}

/// Make a lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct LeaseGrantRequest {
    /// Seconds it lives without being kept alive.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// Its id.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// End a lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct LeaseRevokeRequest {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// Raise an alarm or end it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct AlarmRequest {
    /// 0: ask; 1: raise; 2: end.
    #[prost(int32, tag = "1")]
    pub action: i32,
    /// At which member.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// 0: none; 1: no space; 2: corrupt.
    #[prost(int32, tag = "3")]
    pub alarm: i32,
}

/// How long leases still live.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct LeaseCheckpointRequest {
    /// One for each lease.
    #[prost(message, repeated, tag = "1")]
    pub checkpoints: Vec<LeaseCheckpoint>,
}

/// How long a lease still lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct LeaseCheckpoint {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds.
    #[prost(int64, tag = "2")]
    pub remaining_ttl: i64,
}

/// The version that all members have reached.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ClusterVersionSetRequest {
    /// Three numbers with dots between them.
    #[prost(string, tag = "1")]
    pub version: String,
}

/// What a member says of itself.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ClusterMemberAttrSetRequest {
    /// Who.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// What.
    #[prost(message, optional, tag = "2")]
    pub attributes: Option<MemberAttributes>,
}

/// A member's name and where its clients connect.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct MemberAttributes {
    /// Its name; a member with an empty one has not started.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where its clients connect.
    #[prost(string, repeated, tag = "2")]
    pub client_urls: Vec<String>,
}

/// A request to etcd's v2 store. Every field but two is always written.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[expect(missing_docs, reason = "of these, a follower only knows members' attributes")]
pub struct LegacyRequest {
    /// The proposer's mark.
    #[prost(uint64, required, tag = "1")]
    pub id: u64,
    /// `PUT` and the like.
    #[prost(string, required, tag = "2")]
    pub method: String,
    /// Of a member's attributes: `/0/members/<id>/attributes`.
    #[prost(string, required, tag = "3")]
    pub path: String,
    /// What to store.
    #[prost(string, required, tag = "4")]
    pub val: String,
    #[prost(bool, required, tag = "5")]
    pub dir: bool,
    #[prost(string, required, tag = "6")]
    pub prev_value: String,
    #[prost(uint64, required, tag = "7")]
    pub prev_index: u64,
    #[prost(bool, optional, tag = "8")]
    pub prev_exist: Option<bool>,
    #[prost(int64, required, tag = "9")]
    pub expiration: i64,
    #[prost(bool, required, tag = "10")]
    pub wait: bool,
    #[prost(uint64, required, tag = "11")]
    pub since: u64,
    #[prost(bool, required, tag = "12")]
    pub recursive: bool,
    #[prost(bool, required, tag = "13")]
    pub sorted: bool,
    #[prost(bool, required, tag = "14")]
    pub quorum: bool,
    #[prost(int64, required, tag = "15")]
    pub time: i64,
    #[prost(bool, required, tag = "16")]
    pub stream: bool,
    #[prost(bool, optional, tag = "17")]
    pub refresh: Option<bool>,
}

/// The payload of a normal entry.
#[derive(Clone, PartialEq, Debug)]
pub enum Payload {
    /// Empty: a new leader's, or a refused change of membership.
    Empty,
    /// For the state of every member.
    Request(Box<InternalRaftRequest>),
    /// For the v2 store.
    Legacy(Box<LegacyRequest>),
    /// Something else, or more operations than [`OPS_MAX`].
    Unknown,
}

impl Payload {
    /// Reads the payload of a normal entry, trying one after the other as etcd does.
    #[must_use]
    pub fn decode(data: &[u8]) -> Payload {
        if data.is_empty() {
            return Payload::Empty;
        }
        if count_ops(data, TXN, DEPTH_MAX) > OPS_MAX {
            return Payload::Unknown;
        }
        match InternalRaftRequest::decode(data) {
            Ok(InternalRaftRequest { v2: Some(legacy), .. }) => return Payload::Legacy(Box::new(legacy)),
            Ok(request) => return Payload::Request(Box::new(request)),
            Err(_) => {}
        }
        LegacyRequest::decode(data).map_or(Payload::Unknown, |legacy| Payload::Legacy(Box::new(legacy)))
    }
}

/// The fields that hold transactions: of a request, and of an operation; and those of a transaction that hold
/// operations.
const TXN: &[u32] = &[6];
const TXN_OF_OP: &[u32] = &[4];
const OPS: &[u32] = &[2, 3];

/// Deeper messages are not read anyway.
const DEPTH_MAX: u32 = 100;

/// How many operations there are in the fields `inner` of a message, or of as much of it as is one. Sets nothing aside
/// for them.
fn count_ops(mut bytes: &[u8], inner: &[u32], depth: u32) -> usize {
    let mut count = 0;
    while depth > 0
        && let Some((tag, field)) = next_field(&mut bytes)
    {
        if !inner.contains(&tag) {
            continue;
        }
        count +=
            if inner == OPS { 1 + count_ops(field, TXN_OF_OP, depth - 1) } else { count_ops(field, OPS, depth - 1) };
    }
    count
}

/// The next field that has a length, with what is in it; others are skipped. Nothing at the end, and where it is broken.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    loop {
        let (tag, wire_type) = decode_key(bytes).ok()?;
        if wire_type == WireType::LengthDelimited {
            let len = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            let (field, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            return Some((tag, field));
        }
        skip_field(wire_type, tag, bytes, DecodeContext::default()).ok()?;
    }
}

impl LegacyRequest {
    /// The request by which a member says its name, as clusters take it that may have members of 3.4.
    #[must_use]
    pub fn publish(id: u64, member: u64, name: &str) -> LegacyRequest {
        let mut val = String::from("{\"name\":\"");
        for c in name.chars() {
            match c {
                '"' | '\\' => val.extend(['\\', c]),
                c if c.is_control() => val.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => val.push(c),
            }
        }
        val.push_str("\"}");
        let path = format!("/0/members/{member:x}/attributes");
        LegacyRequest { id, method: "PUT".into(), path, val, ..LegacyRequest::default() }
    }
}

impl InternalRaftRequest {
    /// The request by which a member says its name, as clusters take it whose members are of 3.5 and later.
    #[must_use]
    pub fn publish(id: u64, member: u64, name: &str) -> InternalRaftRequest {
        let attributes = MemberAttributes { name: name.to_owned(), client_urls: Vec::new() };
        InternalRaftRequest {
            header: Some(RequestHeader { id, ..RequestHeader::default() }),
            cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
                member_id: member,
                attributes: Some(attributes),
            }),
            ..InternalRaftRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of so many operations, a quarter of them within another one.
    fn txn(ops: usize) -> Vec<u8> {
        let one = |ops: usize| TxnRequest { success: vec![RequestOp::default(); ops], failure: Vec::new() };
        let inner = RequestOp { txn: Some(one(ops / 4)), ..RequestOp::default() };
        let mut txn = one(ops - ops / 4 - 1);
        txn.failure = vec![inner];
        InternalRaftRequest { txn: Some(txn), ..InternalRaftRequest::default() }.encode_to_vec()
    }

    #[test]
    fn operations_are_counted_first() {
        for (ops, is_read) in [(4, true), (1000, true), (OPS_MAX, true), (OPS_MAX + 1, false), (4 * OPS_MAX, false)] {
            let bytes = txn(ops);
            assert_eq!(count_ops(&bytes, TXN, DEPTH_MAX), ops);
            assert_eq!(matches!(Payload::decode(&bytes), Payload::Request(_)), is_read, "{ops}");
        }
        let put = InternalRaftRequest { put: Some(PutRequest::default()), ..InternalRaftRequest::default() };
        assert_eq!(count_ops(&put.encode_to_vec(), TXN, DEPTH_MAX), 0);
        // What comes before a broken field counts: it is read before the field is.
        let mut broken = vec![0x32, 5, 0x12, 0, 0x12, 0, 7];
        assert_eq!(count_ops(&broken, TXN, DEPTH_MAX), 2);
        assert!(InternalRaftRequest::decode(&broken[..]).is_err());
        broken[1] = 6;
        assert_eq!(count_ops(&broken, TXN, DEPTH_MAX), 0, "it is not looked into");
    }
}
