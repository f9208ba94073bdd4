use proptest::prelude::*;

use super::*;
use crate::protocol::{AnswerError, Pair, REPLY_BODY_MAX, Status, VALUE_SIZE_MAX};

/// What a key space is, without any cleverness.
#[derive(Clone, Default, Debug)]
struct Model {
    writes: u64,
    items: BTreeMap<Vec<u8>, Item>,
}

impl Model {
    fn dump(&self) -> (u64, Vec<(Vec<u8>, Item)>) {
        (1 + self.writes, self.items.clone().into_iter().collect())
    }
}

fn dump(kv: &Kv) -> (u64, Vec<(Vec<u8>, Item)>) {
    (kv.revision(), kv.iter().map(|(key, item)| (key.to_vec(), item.clone())).collect())
}

fn apply(kv: &mut Kv, command: Command<'_>) -> (Status, u64, bool) {
    let (mut bytes, mut out) = (BytesMut::new(), BytesMut::new());
    command.encode(&mut bytes);
    kv.apply(Index(1), &bytes, &mut out);
    let answer = Answer::decode(&out).unwrap();
    (answer.status, answer.arg, answer.deleted())
}

fn ask(kv: &Kv, query: Query<'_>) -> BytesMut {
    let (mut bytes, mut out) = (BytesMut::new(), BytesMut::new());
    query.encode(&mut bytes);
    kv.query(&bytes, &mut out);
    out
}

fn snapshot(kv: &mut Kv, size_max: usize) -> Vec<BytesMut> {
    kv.snapshot_begin();
    let mut chunks = Vec::new();
    loop {
        let mut out = BytesMut::new();
        let more = kv.snapshot_chunk(size_max, &mut out);
        chunks.push(out);
        if !more {
            return chunks;
        }
    }
}

fn restored(bytes: &[u8], cut: usize) -> Result<Kv, RestoreError> {
    let mut kv = Kv::new();
    kv.restore(&mut bytes.chunks(cut))?;
    Ok(kv)
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    Get(u8),
    Range(u8, Option<u8>, u32),
    Begin,
    Chunk(usize),
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0_u8..12;
    prop_oneof![
        8 => (key(), 0_usize..40).prop_map(|(key, size)| Step::Put(key, size)),
        4 => key().prop_map(Step::Delete),
        1 => key().prop_map(Step::Get),
        1 => (key(), prop::option::of(key()), 0_u32..5).prop_map(|(start, end, limit)| Step::Range(start, end, limit)),
        1 => Just(Step::Begin),
        4 => (0_usize..200).prop_map(Step::Chunk),
        1 => Just(Step::Cancel).prop_filter("rare", |_| true),
    ]
}

fn key(number: u8) -> Vec<u8> {
    // Keys that are prefixes of each other.
    vec![number / 3; 1 + usize::from(number % 3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let mut kv = Kv::new();
        let mut model = Model::default();
        let mut under_way: Option<(Model, u64, Vec<u8>)> = None;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(k, size) => {
                    let value = vec![u8::try_from(number).unwrap(); size];
                    model.writes += 1;
                    let revision = 1 + model.writes;
                    let item = model.items.entry(key(k)).or_insert(Item {
                        create_revision: revision,
                        mod_revision: 0,
                        version: 0,
                        value: vec![],
                    });
                    *item = Item {
                        mod_revision: revision,
                        version: item.version + 1,
                        value: value.clone(),
                        create_revision: item.create_revision,
                    };
                    let got = apply(&mut kv, Command::Put { key: &key(k), value: &value });
                    prop_assert_eq!(got, (Status::Ok, revision, false));
                }
                Step::Delete(k) => {
                    let there = model.items.remove(&key(k)).is_some();
                    model.writes += u64::from(there);
                    let got = apply(&mut kv, Command::Delete { key: &key(k) });
                    prop_assert_eq!(got, (Status::Ok, 1 + model.writes, there));
                }
                Step::Get(k) => {
                    let out = ask(&kv, Query::Get { key: &key(k), serializable: false });
                    let want = match model.items.get(&key(k)) {
                        Some(item) => Answer::value(item.mod_revision, &item.value),
                        None => Answer::not_found(1 + model.writes),
                    };
                    prop_assert_eq!(Answer::decode(&out).unwrap(), want);
                }
                Step::Range(start, end, limit) => {
                    let (start, end) = (key(start), end.map(key).unwrap_or_default());
                    let group = 0;
                    let out =
                        ask(&kv, Query::Range { start: &start, end: &end, limit, group, serializable: true });
                    let answer = Answer::decode(&out).unwrap();
                    let got: Result<Vec<_>, AnswerError> = answer.pairs().collect();
                    let want: Vec<_> = model
                        .items
                        .iter()
                        .filter(|(key, _)| **key >= start && (end.is_empty() || **key < end))
                        .map(|(key, item)| Pair { key, value: &item.value, mod_revision: item.mod_revision })
                        .collect();
                    let count = if limit == 0 { want.len() } else { want.len().min(limit as usize) };
                    prop_assert_eq!(got.unwrap(), &want[..count]);
                    prop_assert_eq!(answer.more(), count < want.len());
                    prop_assert_eq!(answer.arg, 1 + model.writes);
                }
                Step::Begin => {
                    kv.snapshot_begin();
                    under_way = Some((model.clone(), kv.digest(), Vec::new()));
                }
                Step::Chunk(size_max) => {
                    let Some((state, digest, bytes)) = &mut under_way else { continue };
                    let mut out = BytesMut::new();
                    let more = kv.snapshot_chunk(size_max, &mut out);
                    prop_assert!(out.len() <= size_max.max(24 + 32 + 3 + 40) + 4, "{} > {}", out.len(), size_max);
                    bytes.extend_from_slice(&out);
                    if !more {
                        let copy = restored(bytes, 1 + size_max).unwrap();
                        prop_assert_eq!(dump(&copy), state.dump());
                        prop_assert_eq!(copy.digest(), *digest);
                        under_way = None;
                    }
                }
                Step::Cancel => {
                    kv.snapshot_cancel();
                    under_way = None;
                }
            }
            prop_assert_eq!(dump(&kv), model.dump());
        }
        let bytes = snapshot(&mut kv, 100).concat();
        let copy = restored(&bytes, 7).unwrap();
        prop_assert_eq!(copy.digest(), kv.digest());
    }

    #[test]
    fn noise_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut kv = Kv::new();
        let mut out = BytesMut::new();
        kv.apply(Index(1), &bytes, &mut out);
        Answer::decode(&out).unwrap();
        out.clear();
        kv.query(&bytes, &mut out);
        Answer::decode(&out).unwrap();
        prop_assert!(kv.restore(&mut std::iter::once(&bytes[..])).is_err());
    }
}

#[test]
fn revisions_count_as_in_etcd() {
    let mut kv = Kv::new();
    assert_eq!(kv.revision(), 1);
    assert!(!kv.delete(b"a"));
    assert_eq!(kv.put(b"a", b"1"), 2);
    assert_eq!(kv.put(b"a", b"1"), 3);
    let item = kv.get(b"a").unwrap();
    assert_eq!((item.create_revision, item.mod_revision, item.version), (2, 3, 2));
    assert!(kv.delete(b"a"));
    assert_eq!(kv.put(b"a", b"2"), 5);
    let item = kv.get(b"a").unwrap();
    assert_eq!((item.create_revision, item.mod_revision, item.version), (5, 5, 1));
}

#[test]
fn an_overwrite_keeps_its_memory() {
    let mut kv = Kv::new();
    kv.put(b"k", &[1; 1000]);
    let before = kv.get(b"k").unwrap().value.as_ptr();
    kv.put(b"k", &[2; 999]);
    kv.put(b"k", &[3; 250]);
    assert_eq!(kv.get(b"k").unwrap().value.as_ptr(), before);
    kv.put(b"k", &[4; 10]);
    assert!(kv.get(b"k").unwrap().value.capacity() < 100);
}

#[test]
fn digests_tell_states_apart() {
    let of = |writes: &[(&[u8], &[u8])]| {
        let mut kv = Kv::new();
        for (key, value) in writes {
            kv.put(key, value);
        }
        kv.digest()
    };
    assert_eq!(of(&[(b"a", b"1"), (b"b", b"2")]), of(&[(b"a", b"1"), (b"b", b"2")]));
    assert_ne!(of(&[(b"a", b"1"), (b"b", b"2")]), of(&[(b"b", b"2"), (b"a", b"1")]));
    assert_ne!(of(&[(b"a", b"1"), (b"b", b"2")]), of(&[(b"a", b"2"), (b"b", b"1")]));
    assert_ne!(of(&[]), of(&[(b"a", b"")]));
}

#[test]
fn a_large_range_goes_in_parts() {
    let mut kv = Kv::new();
    let value = vec![7; VALUE_SIZE_MAX];
    for number in 0..5_u8 {
        kv.put(&[b'k', number], &value);
    }
    let (mut start, mut seen) = (Vec::new(), 0);
    loop {
        let out = ask(&kv, Query::Range { start: &start, end: b"", limit: 0, group: 0, serializable: false });
        assert!(out.len() <= 16 + REPLY_BODY_MAX);
        let answer = Answer::decode(&out).unwrap();
        let pairs: Vec<_> = answer.pairs().map(Result::unwrap).collect();
        seen += pairs.len();
        start = [pairs.last().unwrap().key, b"\0"].concat();
        if !answer.more() {
            break;
        }
    }
    assert_eq!(seen, 5);
}

#[test]
fn damaged_snapshots_are_refused_and_change_nothing() {
    let mut kv = Kv::new();
    for number in 0..20_u8 {
        kv.put(&[b'k', number], &vec![number; usize::from(number)]);
    }
    let bytes = snapshot(&mut kv, 64).concat();
    let digest = kv.digest();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert!(kv.restore(&mut bad.chunks(13)).is_err(), "byte {at}");
        let error = kv.restore(&mut bytes[..at].chunks(13)).unwrap_err();
        assert_eq!(error, RestoreError::Length { size: at as u64 });
        assert_eq!(kv.digest(), digest);
    }
    let long = [&bytes[..], b"x"].concat();
    assert!(matches!(kv.restore(&mut long.chunks(5)), Err(RestoreError::Length { .. })));
    kv.restore(&mut bytes.chunks(1)).unwrap();
    assert_eq!(kv.digest(), digest);
}
