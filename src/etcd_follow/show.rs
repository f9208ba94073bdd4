//! Entries of etcd's log for people and for programs: a line of text, or a line of JSON.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message as _;
use ringraft_raft::EntryKind;
use ringraft_transport::etcd::raftpb::{ConfChange, ConfChangeType};
use ringraft_transport::etcd::requests::{
    DeleteRangeRequest, InternalRaftRequest, Payload, PutRequest, RequestOp, TxnRequest,
};
use serde_json::{Map, Value as Json, json};

use super::Entry;

/// Bytes of a key or value that a line of text shows.
const TEXT_MAX: usize = 120;

const TO_STRING: &str = "writing to a string cannot fail";

/// A line of JSON, without its end.
///
/// Always: `index`, `term`, `type`. Keys and values are strings; what is not UTF-8 stands in hex under the name with
/// `_hex` behind it. With `raw`, `data` is all of the payload in hex.
#[must_use]
pub fn json(entry: &Entry, raw: bool) -> String {
    let mut line = Map::new();
    line.insert("index".into(), entry.id.index.0.into());
    line.insert("term".into(), entry.id.term.0.into());
    line.append(&mut content(entry));
    if raw {
        line.insert("data".into(), hex(&entry.payload).into());
    }
    Json::Object(line).to_string()
}

/// A line of text, without its end: index, term, type, and what there is to say.
#[must_use]
pub fn text(entry: &Entry) -> String {
    let mut line = format!("{} {}", entry.id.index, entry.id.term);
    let content = content(entry);
    write!(line, " {}", content["type"].as_str().unwrap_or_default()).expect(TO_STRING);
    for (name, value) in content.iter().filter(|(name, _)| *name != "type") {
        write!(line, " {name}={}", short(value)).expect(TO_STRING);
    }
    line
}

/// A value on one line, and not too long. Strings of plain characters stand as they are.
fn short(value: &Json) -> String {
    let mut text = match value {
        Json::String(text) if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-:".contains(c)) => {
            text.clone()
        }
        other => other.to_string(),
    };
    if text.len() > TEXT_MAX {
        let len = text.len();
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        write!(text, "... ({len} bytes)").expect(TO_STRING);
    }
    text
}

fn content(entry: &Entry) -> Map<String, Json> {
    match entry.kind {
        EntryKind::Normal => match Payload::decode(&entry.payload) {
            Payload::Empty => of("empty", json!({})),
            Payload::Request(request) => request_content(&request),
            Payload::Legacy(request) => {
                of("v2", json!({"method": request.method, "path": request.path, "value": request.val}))
            }
            Payload::Unknown => of("unknown", json!({"data_hex": hex(&entry.payload)})),
        },
        EntryKind::ConfChange => match ConfChange::decode(&entry.payload[..]) {
            Ok(change) => {
                let what = match ConfChangeType::try_from(change.r#type) {
                    Ok(ConfChangeType::AddNode) => "add",
                    Ok(ConfChangeType::AddLearnerNode) => "add learner",
                    Ok(ConfChangeType::RemoveNode) => "remove",
                    Ok(ConfChangeType::UpdateNode) => "update",
                    Err(_) => "unknown",
                };
                let context = change.context.unwrap_or_default();
                let context: Json = serde_json::from_slice(&context).unwrap_or(Json::Null);
                let member = format!("{:x}", change.node_id);
                of("member", json!({"change": what, "member": member, "context": context}))
            }
            Err(_) => of("unknown", json!({"data_hex": hex(&entry.payload)})),
        },
        EntryKind::ConfChangeV2 => of("members", json!({"data_hex": hex(&entry.payload)})),
    }
}

/// An object of this type with these fields.
fn of(kind: &str, fields: Json) -> Map<String, Json> {
    let mut out = Map::new();
    out.insert("type".into(), kind.into());
    if let Json::Object(mut fields) = fields {
        out.append(&mut fields);
    }
    out
}

fn request_content(request: &InternalRaftRequest) -> Map<String, Json> {
    if let Some(put) = &request.put {
        put_content(put)
    } else if let Some(delete) = &request.delete_range {
        delete_content(delete)
    } else if let Some(txn) = &request.txn {
        txn_content(txn)
    } else if let Some(compaction) = &request.compaction {
        of("compaction", json!({"revision": compaction.revision}))
    } else if let Some(grant) = &request.lease_grant {
        of("lease grant", json!({"lease": lease(grant.id), "ttl": grant.ttl}))
    } else if let Some(revoke) = &request.lease_revoke {
        of("lease revoke", json!({"lease": lease(revoke.id)}))
    } else if let Some(checkpoint) = &request.lease_checkpoint {
        let one = |one: &ringraft_transport::etcd::requests::LeaseCheckpoint| json!({"lease": lease(one.id), "remaining_ttl": one.remaining_ttl});
        of("lease checkpoint", json!({"leases": checkpoint.checkpoints.iter().map(one).collect::<Vec<_>>()}))
    } else if let Some(alarm) = &request.alarm {
        let member = format!("{:x}", alarm.member_id);
        of("alarm", json!({"action": alarm.action, "member": member, "alarm": alarm.alarm}))
    } else if let Some(set) = &request.cluster_version_set {
        of("cluster version", json!({"version": set.version}))
    } else if let Some(set) = &request.cluster_member_attr_set {
        let said = set.attributes.clone().unwrap_or_default();
        let member = format!("{:x}", set.member_id);
        of("member attributes", json!({"member": member, "name": said.name, "client_urls": said.client_urls}))
    } else {
        // Users, roles, and what later versions may have.
        of("other", json!({}))
    }
}

/// Leases are shown as etcd's own tools do.
fn lease(id: i64) -> String {
    format!("{id:x}")
}

fn put_content(put: &PutRequest) -> Map<String, Json> {
    let mut out = of("put", json!({}));
    bytes(&mut out, "key", &put.key);
    if put.ignore_value {
        out.insert("ignore_value".into(), true.into());
    } else {
        bytes(&mut out, "value", &put.value);
    }
    if put.ignore_lease {
        out.insert("ignore_lease".into(), true.into());
    } else if put.lease != 0 {
        out.insert("lease".into(), lease(put.lease).into());
    }
    out
}

fn delete_content(delete: &DeleteRangeRequest) -> Map<String, Json> {
    let mut out = of("delete", json!({}));
    bytes(&mut out, "key", &delete.key);
    if !delete.range_end.is_empty() {
        bytes(&mut out, "range_end", &delete.range_end);
    }
    out
}

fn txn_content(txn: &TxnRequest) -> Map<String, Json> {
    let ops = |ops: &[RequestOp]| ops.iter().map(|op| Json::Object(op_content(op))).collect::<Vec<_>>();
    of("txn", json!({"success": ops(&txn.success), "failure": ops(&txn.failure)}))
}

fn op_content(op: &RequestOp) -> Map<String, Json> {
    if let Some(put) = &op.put {
        put_content(put)
    } else if let Some(delete) = &op.delete_range {
        delete_content(delete)
    } else if let Some(txn) = &op.txn {
        txn_content(txn)
    } else {
        of("range", json!({}))
    }
}

fn bytes(out: &mut Map<String, Json>, name: &str, bytes: &Bytes) {
    match std::str::from_utf8(bytes) {
        Ok(text) => out.insert(name.into(), text.into()),
        Err(_) => out.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        write!(out, "{byte:02x}").expect(TO_STRING);
        out
    })
}

#[cfg(test)]
mod tests {
    use ringraft_raft::{EntryId, Index, Term};
    use ringraft_transport::etcd::raftpb;
    use ringraft_transport::etcd::requests::{LeaseGrantRequest, LegacyRequest};

    use super::*;

    fn entry(kind: EntryKind, payload: Vec<u8>) -> Entry {
        Entry { id: EntryId { index: Index(7), term: Term(2) }, kind, payload: payload.into() }
    }

    #[track_caller]
    fn check(kind: EntryKind, payload: Vec<u8>, as_text: &str, as_json: &str) {
        let entry = entry(kind, payload);
        assert_eq!(text(&entry), as_text);
        let want: Json = serde_json::from_str(as_json).unwrap();
        assert_eq!(serde_json::from_str::<Json>(&json(&entry, false)).unwrap(), want);
        let raw: Json = serde_json::from_str(&json(&entry, true)).unwrap();
        assert_eq!(raw["data"], hex(&entry.payload));
    }

    fn put(key: &[u8], value: &[u8]) -> PutRequest {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        PutRequest { key, value, ..PutRequest::default() }
    }

    #[test]
    fn entries_are_shown() {
        let request = |request: InternalRaftRequest| request.encode_to_vec();
        let none = InternalRaftRequest::default;
        check(EntryKind::Normal, vec![], "7 2 empty", r#"{"index":7,"term":2,"type":"empty"}"#);
        check(
            EntryKind::Normal,
            request(InternalRaftRequest { put: Some(put(b"a/key", b"two\nlines \xc3\xa4")), ..none() }),
            "7 2 put key=a/key value=\"two\\nlines \u{e4}\"",
            "{\"index\":7,\"term\":2,\"type\":\"put\",\"key\":\"a/key\",\"value\":\"two\\nlines \u{e4}\"}",
        );
        check(
            EntryKind::Normal,
            request(InternalRaftRequest { put: Some(PutRequest { lease: 255, ..put(b"\xff\x00", b"") }), ..none() }),
            "7 2 put key_hex=ff00 lease=ff value=\"\"",
            r#"{"index":7,"term":2,"type":"put","key_hex":"ff00","value":"","lease":"ff"}"#,
        );
        let delete = DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: false };
        let op = RequestOp { put: Some(put(b"k", b"v")), ..RequestOp::default() };
        let other = RequestOp { delete_range: Some(delete.clone()), ..RequestOp::default() };
        let txn = TxnRequest { success: vec![op, RequestOp::default()], failure: vec![other] };
        check(
            EntryKind::Normal,
            request(InternalRaftRequest { delete_range: Some(delete), ..none() }),
            "7 2 delete key=a range_end=b",
            r#"{"index":7,"term":2,"type":"delete","key":"a","range_end":"b"}"#,
        );
        let shown = entry(EntryKind::Normal, request(InternalRaftRequest { txn: Some(txn), ..none() }));
        let shown: Json = serde_json::from_str(&json(&shown, false)).unwrap();
        assert_eq!(shown["success"][0]["key"], "k");
        assert_eq!(shown["success"][1]["type"], "range");
        assert_eq!(shown["failure"][0]["type"], "delete");
        check(
            EntryKind::Normal,
            request(InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { ttl: 5, id: 16 }), ..none() }),
            "7 2 lease grant lease=10 ttl=5",
            r#"{"index":7,"term":2,"type":"lease grant","lease":"10","ttl":5}"#,
        );
        check(
            EntryKind::Normal,
            LegacyRequest {
                method: "PUT".into(),
                path: "/0/version".into(),
                val: "3.4.0".into(),
                ..LegacyRequest::default()
            }
            .encode_to_vec(),
            "7 2 v2 method=PUT path=/0/version value=3.4.0",
            r#"{"index":7,"term":2,"type":"v2","method":"PUT","path":"/0/version","value":"3.4.0"}"#,
        );
        check(
            EntryKind::Normal,
            vec![0xff],
            "7 2 unknown data_hex=ff",
            r#"{"index":7,"term":2,"type":"unknown","data_hex":"ff"}"#,
        );
        let context = Some("{\"id\":171}".into());
        check(
            EntryKind::ConfChange,
            raftpb::ConfChange { id: 1, r#type: 3, node_id: 171, context }.encode_to_vec(),
            "7 2 member change=\"add learner\" context={\"id\":171} member=ab",
            r#"{"index":7,"term":2,"type":"member","change":"add learner","member":"ab","context":{"id":171}}"#,
        );
    }

    #[test]
    fn long_values_are_cut_in_text_only() {
        let long = "\u{e4}".repeat(1000);
        let request = InternalRaftRequest { put: Some(put(b"k", long.as_bytes())), ..InternalRaftRequest::default() };
        let entry = entry(EntryKind::Normal, request.encode_to_vec());
        let line = text(&entry);
        assert!(line.len() < 300 && line.ends_with("... (2000 bytes)"), "{line}");
        assert!(json(&entry, false).contains(&long));
    }
}
