//! What replies mean to the caller; pure.

use bytes::Bytes;
use prost::Message as _;

use super::ClientError;
use super::pending::Reply;
use crate::protocol::{NodeStatus, Status};

/// The value of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The value.
    pub value: Bytes,
    /// The revision that set it.
    pub mod_revision: u64,
}

/// What a delete has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deleted {
    /// Whether there was something to delete.
    pub deleted: bool,
    /// The revision after it.
    pub revision: u64,
}

/// One pair of a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that set it, counted in its group.
    pub mod_revision: u64,
}

/// The pairs of a range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeResult {
    /// In order of their keys.
    pub pairs: Vec<KeyValue>,
    /// Whether there is more: ask again from the last key and a zero byte on.
    pub more: bool,
}

pub(super) fn put(replies: Vec<Reply>, _: u32) -> Result<u64, ClientError> {
    Ok(ok(one(replies)?)?.arg)
}

pub(super) fn get(replies: Vec<Reply>, _: u32) -> Result<Option<Value>, ClientError> {
    let reply = one(replies)?;
    if reply.status == Status::NotFound {
        return Ok(None);
    }
    let reply = ok(reply)?;
    Ok(Some(Value { value: reply.body, mod_revision: reply.arg }))
}

pub(super) fn delete(replies: Vec<Reply>, _: u32) -> Result<Deleted, ClientError> {
    let reply = ok(one(replies)?)?;
    Ok(Deleted { deleted: reply.answer().deleted(), revision: reply.arg })
}

pub(super) fn status(replies: Vec<Reply>, _: u32) -> Result<NodeStatus, ClientError> {
    NodeStatus::decode(ok(one(replies)?)?.body).map_err(|error| ClientError::Protocol(error.to_string()))
}

/// Merges the answers of the groups. A group that has left pairs out says nothing about the keys behind its last pair:
/// so the result ends at the first such key.
pub(super) fn range(replies: Vec<Reply>, limit: u32) -> Result<RangeResult, ClientError> {
    let mut pairs: Vec<KeyValue> = Vec::new();
    let mut known_to: Option<Bytes> = None;
    for reply in replies {
        let reply = ok(reply)?;
        let body = reply.body.clone();
        let mut last = None;
        for pair in reply.answer().pairs() {
            let pair = pair.map_err(|error| ClientError::Protocol(error.to_string()))?;
            let key = body.slice_ref(pair.key);
            last = Some(key.clone());
            pairs.push(KeyValue { key, value: body.slice_ref(pair.value), mod_revision: pair.mod_revision });
        }
        if reply.answer().more() {
            let last = last.ok_or_else(|| ClientError::Protocol("a range left out all of its pairs".into()))?;
            known_to = Some(known_to.map_or(last.clone(), |known| known.min(last)));
        }
    }
    pairs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let more_behind = known_to.is_some();
    if let Some(known_to) = known_to {
        pairs.retain(|pair| pair.key <= known_to);
    }
    let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
    let more = more_behind || pairs.len() > limit;
    pairs.truncate(limit);
    Ok(RangeResult { pairs, more })
}

fn one(mut replies: Vec<Reply>) -> Result<Reply, ClientError> {
    replies.pop().ok_or(ClientError::Closed)
}

fn ok(reply: Reply) -> Result<Reply, ClientError> {
    match reply.status {
        Status::Ok => Ok(reply),
        Status::Uncertain if crate::protocol::Op::from_u8(reply.op).is_some_and(|op| op.is_write()) => {
            Err(ClientError::Uncertain)
        }
        Status::Uncertain => Err(ClientError::Timeout),
        status => Err(ClientError::Refused { status, text: reply.answer().text() }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::{Answer, RangeAnswer};

    fn part(keys: &[&str], more: bool) -> Reply {
        let mut out = BytesMut::new();
        let mut pairs = RangeAnswer::begin(&mut out);
        for key in keys {
            assert!(pairs.push(key.as_bytes(), b"v", 2));
        }
        pairs.finish(2, more);
        Reply::new(&Answer::decode(&out).unwrap())
    }

    #[test]
    fn groups_merge_up_to_where_all_are_known() {
        let check = |parts: Vec<Reply>, limit: u32, want: &str, want_more: bool| {
            let RangeResult { pairs, more } = range(parts, limit).unwrap();
            let keys: Vec<u8> = pairs.iter().flat_map(|pair| pair.key.to_vec()).collect();
            assert_eq!((String::from_utf8(keys).unwrap().as_str(), more), (want, want_more));
        };
        check(vec![part(&[], false), part(&[], false)], 0, "", false);
        check(vec![part(&["b", "d"], false), part(&["a", "c"], false)], 0, "abcd", false);
        check(vec![part(&["b", "d"], false), part(&["a", "c"], false)], 3, "abc", true);
        check(vec![part(&["b", "d"], false), part(&["a", "c"], false)], 4, "abcd", false);
        check(vec![part(&["b", "e"], false), part(&["a", "c"], true)], 0, "abc", true);
        check(vec![part(&["b", "e"], true), part(&["a", "c"], true)], 2, "ab", true);
        assert!(matches!(range(vec![part(&[], true)], 0), Err(ClientError::Protocol(_))));
    }
}
