//! Who belongs to an etcd cluster, as etcd itself keeps it: by the changes in the log, each judged again when it is
//! applied. A change that is refused then is an entry without effect, for raft too.

use std::collections::{BTreeMap, BTreeSet};

use ringraft_raft::{ConfState, PeerId};
use ringraft_transport::etcd::raftpb::{ConfChange, ConfChangeType};
use ringraft_transport::etcd::requests::LegacyRequest;
use serde::{Deserialize, Serialize};

/// One member, as etcd's JSON has it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs", deserialize_with = "maybe")]
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty until it has started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where its clients reach it.
    #[serde(rename = "clientURLs", deserialize_with = "maybe", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// A list that may be `null`.
fn maybe<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What a change of membership carries: a member, and whether it is promoted.
#[derive(Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

/// All members, and those that were removed for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    list: BTreeMap<PeerId, Member>,
    removed: BTreeSet<PeerId>,
    learners_max: usize,
}

/// Why a change has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum ChangeRefused {
    #[error("that member was removed for good")]
    Removed,
    #[error("there is such a member already")]
    Exists,
    #[error("there is no such member")]
    NotFound,
    #[error("that member is no learner")]
    NotLearner,
    #[error("another member has one of these addresses")]
    UrlExists,
    #[error("there are as many learners as may be")]
    TooManyLearners,
    #[error("what it says of the member is not understood")]
    Context,
}

impl Members {
    /// Nobody, and at most so many learners: etcd's own bound, by default 1.
    #[must_use]
    pub fn new(learners_max: usize) -> Members {
        Members { list: BTreeMap::new(), removed: BTreeSet::new(), learners_max }
    }

    /// These.
    #[must_use]
    pub fn of(list: Vec<Member>, learners_max: usize) -> Members {
        let list = list.into_iter().map(|member| (PeerId(member.id), member)).collect();
        Members { list, removed: BTreeSet::new(), learners_max }
    }

    /// Reads the list that members give at `/members`.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(json: &str, learners_max: usize) -> Result<Members, serde_json::Error> {
        Ok(Members::of(serde_json::from_str(json)?, learners_max))
    }

    /// The members as of a snapshot: as `data` says, etcd's v2 store. Versions after 3.7 have them in the database only,
    /// which we do not read; then they are those of `conf`, with what is known of them by now.
    #[must_use]
    pub fn of_snapshot(data: &[u8], conf: &ConfState, asked: &Members) -> Members {
        if let Some(members) = Members::from_store(data, asked.learners_max) {
            return members;
        }
        let voters = conf.voters.iter().chain(&conf.voters_outgoing).map(|id| (*id, false));
        let mut members = Members::new(asked.learners_max);
        for (id, is_learner) in conf.learners.iter().map(|id| (*id, true)).chain(voters) {
            let known = asked.get(id).cloned().unwrap_or_default();
            members.list.insert(id, Member { id: id.0, is_learner, ..known });
        }
        members
    }

    fn from_store(json: &[u8], learners_max: usize) -> Option<Members> {
        let store: Node = serde_json::from_slice::<Store>(json).ok()?.root;
        let root = store.children.get("0")?;
        let mut members = Members::new(learners_max);
        for (name, node) in &root.children.get("members")?.children {
            let id = u64::from_str_radix(name, 16).ok()?;
            let value = |key: &str| node.children.get(key).map_or("{}", |node| node.value.as_str());
            let member: Member = serde_json::from_str(value("raftAttributes")).ok()?;
            let attributes: Member = serde_json::from_str(value("attributes")).ok()?;
            let Member { name, client_urls, .. } = attributes;
            members.list.insert(PeerId(id), Member { id, name, client_urls, ..member });
        }
        let removed = root.children.get("removed_members").map(|node| node.children.keys());
        for name in removed.into_iter().flatten() {
            members.removed.insert(PeerId(u64::from_str_radix(name, 16).ok()?));
        }
        Some(members)
    }

    /// The list as members give it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let list: Vec<&Member> = self.list.values().collect();
        serde_json::to_string(&list).expect("strings and numbers")
    }

    /// A member.
    #[must_use]
    pub fn get(&self, id: PeerId) -> Option<&Member> {
        self.list.get(&id)
    }

    /// All of them, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Member)> {
        self.list.iter().map(|(id, member)| (*id, member))
    }

    /// Whether it was removed for good.
    #[must_use]
    pub fn was_removed(&self, id: PeerId) -> bool {
        self.removed.contains(&id)
    }

    /// The member with this address.
    #[must_use]
    pub fn with_url(&self, url: &str) -> Option<&Member> {
        let same = |one: &String| one.trim_end_matches('/') == url.trim_end_matches('/');
        self.list.values().find(|member| member.peer_urls.iter().any(same))
    }

    /// Applies a change from the log, by etcd's rules.
    ///
    /// # Errors
    /// Why it has no effect, neither here nor in raft.
    pub fn apply(&mut self, change: &ConfChange) -> Result<(), ChangeRefused> {
        let id = PeerId(change.node_id);
        if self.removed.contains(&id) {
            return Err(ChangeRefused::Removed);
        }
        let context = || {
            let bytes = change.context.as_deref().unwrap_or_default();
            serde_json::from_slice::<Context>(bytes).map_err(|_| ChangeRefused::Context)
        };
        let kind = ConfChangeType::try_from(change.r#type).map_err(|_| ChangeRefused::Context)?;
        match kind {
            ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
                let is_learner = kind == ConfChangeType::AddLearnerNode;
                let Context { member, is_promote } = context()?;
                if is_promote {
                    let known = self.list.get_mut(&id).ok_or(ChangeRefused::NotFound)?;
                    if !known.is_learner {
                        return Err(ChangeRefused::NotLearner);
                    }
                    known.is_learner = is_learner;
                    return Ok(());
                }
                if self.list.contains_key(&id) {
                    return Err(ChangeRefused::Exists);
                }
                self.check_urls(id, &member)?;
                let learners = self.list.values().filter(|member| member.is_learner).count();
                if is_learner && learners >= self.learners_max {
                    return Err(ChangeRefused::TooManyLearners);
                }
                self.list.insert(id, Member { id: id.0, is_learner, ..member });
            }
            ConfChangeType::RemoveNode => {
                self.list.remove(&id).ok_or(ChangeRefused::NotFound)?;
                self.removed.insert(id);
            }
            ConfChangeType::UpdateNode => {
                let Context { member, .. } = context()?;
                if !self.list.contains_key(&id) {
                    return Err(ChangeRefused::NotFound);
                }
                self.check_urls(id, &member)?;
                self.list.get_mut(&id).expect("it was there").peer_urls = member.peer_urls;
            }
        }
        Ok(())
    }

    /// No two members have one address.
    fn check_urls(&self, id: PeerId, member: &Member) -> Result<(), ChangeRefused> {
        let others = self.list.values().filter(|other| other.id != id.0);
        let mut taken = others.flat_map(|other| &other.peer_urls);
        if taken.any(|url| member.peer_urls.contains(url)) { Err(ChangeRefused::UrlExists) } else { Ok(()) }
    }

    /// A member says its name and where its clients reach it.
    pub fn set_attributes(&mut self, id: PeerId, name: &str, client_urls: &[String]) {
        if let Some(member) = self.list.get_mut(&id) {
            name.clone_into(&mut member.name);
            member.client_urls = client_urls.to_vec();
        }
    }

    /// The same, as members of 3.4 and 3.5 say it; whether the request was of this kind.
    pub fn take_legacy(&mut self, request: &LegacyRequest) -> bool {
        let id = request.path.strip_prefix("/0/members/").and_then(|path| path.strip_suffix("/attributes"));
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        let said = serde_json::from_str::<Member>(&request.val).ok();
        let (Some(id), Some(said), "PUT") = (id, said, request.method.as_str()) else { return false };
        self.set_attributes(PeerId(id), &said.name, &said.client_urls);
        true
    }
}

/// etcd's v2 store, saved.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Store {
    root: Node,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Node {
    value: String,
    #[serde(deserialize_with = "maybe_children")]
    children: BTreeMap<String, Node>,
}

fn maybe_children<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Node>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// `host:port` of a URL of a peer.
///
/// # Errors
/// One line that says what is wrong with it.
pub fn address_of(url: &str) -> Result<String, String> {
    let url = url.trim_end_matches('/');
    let Some(address) = url.strip_prefix("http://") else {
        let why = if url.starts_with("https://") { "TLS is not spoken here" } else { "it does not begin with http://" };
        return Err(format!("{url}: {why}"));
    };
    let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()));
    if address.contains(['/', '@', '?', '#']) || port.flatten().is_none() {
        return Err(format!("{url}: it is not of the form http://HOST:PORT"));
    }
    Ok(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: i32, node_id: u64, context: &str) -> ConfChange {
        let context = Some(context.to_owned().into());
        ConfChange { id: 1, r#type: kind, node_id, context }
    }

    fn member(id: u64, port: u16) -> String {
        format!(r#"{{"id":{id},"peerURLs":["http://h:{port}"],"name":"ignored?"}}"#)
    }

    fn ids(members: &Members) -> Vec<(u64, bool)> {
        members.iter().map(|(id, member)| (id.0, member.is_learner)).collect()
    }

    const PROMOTE: &str = r#"{"id":2,"peerURLs":null,"isPromote":true}"#;

    #[test]
    fn changes_are_judged_as_etcd_does() {
        let mut members = Members::new(1);
        members.apply(&change(0, 1, &member(1, 1))).unwrap();
        members.apply(&change(3, 2, &member(2, 2))).unwrap();
        assert_eq!(ids(&members), [(1, false), (2, true)]);
        for (change, why) in [
            (change(0, 1, &member(1, 9)), ChangeRefused::Exists),
            (change(0, 3, &member(3, 1)), ChangeRefused::UrlExists),
            (change(3, 3, &member(3, 3)), ChangeRefused::TooManyLearners),
            (change(0, 3, "nonsense"), ChangeRefused::Context),
            (change(0, 3, PROMOTE), ChangeRefused::NotFound),
            (change(0, 1, PROMOTE), ChangeRefused::NotLearner),
            (change(1, 3, ""), ChangeRefused::NotFound),
            (change(2, 3, &member(3, 3)), ChangeRefused::NotFound),
            (change(2, 2, &member(2, 1)), ChangeRefused::UrlExists),
            (change(9, 2, &member(2, 1)), ChangeRefused::Context),
        ] {
            let before = members.clone();
            assert_eq!(members.apply(&change), Err(why), "{change:?}");
            assert_eq!(members, before);
        }
        members.apply(&change(0, 2, PROMOTE)).unwrap();
        assert_eq!(ids(&members), [(1, false), (2, false)]);
        members.apply(&change(3, 3, &member(3, 3))).unwrap();
        members.apply(&change(2, 2, &member(2, 7))).unwrap();
        assert_eq!(members.with_url("http://h:7/").unwrap().id, 2);
        members.apply(&change(1, 3, "")).unwrap();
        assert!(members.was_removed(PeerId(3)) && members.get(PeerId(3)).is_none());
        assert_eq!(members.apply(&change(0, 3, &member(3, 3))), Err(ChangeRefused::Removed), "for good");
    }

    #[test]
    fn lists_go_both_ways() {
        let json = concat!(
            r#"[{"id":12098664252030380751,"peerURLs":["http://127.0.0.1:23800"],"name":"a","#,
            r#""clientURLs":["http://127.0.0.1:23790"]},"#,
            r#"{"id":17327615442019412020,"peerURLs":["http://127.0.0.1:23801"],"isLearner":true}]"#,
        );
        let members = Members::parse(json, 1).unwrap();
        assert_eq!(members.with_url("http://127.0.0.1:23801").unwrap().id, 0xf078_0e70_5a23_e834);
        let again = Members::parse(&members.to_json(), 1).unwrap();
        assert_eq!(again, members);
        assert!(Members::parse("[{}", 1).is_err());
    }

    #[test]
    fn names_come_in_two_forms() {
        let mut members = Members::new(1);
        members.apply(&change(0, 0xab, r#"{"id":171,"peerURLs":["http://h:1"]}"#)).unwrap();
        assert!(members.take_legacy(&LegacyRequest::publish(1, 0xab, "a name")));
        assert_eq!(members.get(PeerId(0xab)).unwrap().name, "a name");
        assert!(!members.take_legacy(&LegacyRequest { path: "/0/version".into(), ..LegacyRequest::default() }));
        members.set_attributes(PeerId(0xab), "another", &["http://h:2".into()]);
        let member = members.get(PeerId(0xab)).unwrap();
        assert_eq!((member.name.as_str(), member.client_urls.len()), ("another", 1));
    }

    #[test]
    fn a_store_has_members() {
        let store = r#"{"Root":{"Path":"/","Children":{"0":{"Path":"/0","Children":{"members":{"Children":{"ab":{"Children":{
            "attributes":{"Value":"{\"name\":\"a\",\"clientURLs\":[\"http://h:2\"]}"},
            "raftAttributes":{"Value":"{\"peerURLs\":[\"http://h:1\"],\"isLearner\":true}"}}}}},
            "removed_members":{"Children":{"cd":{"Value":"removed"}}}}},"1":{"Children":null}}},"WatcherHub":{}}"#;
        let members = Members::from_store(store.as_bytes(), 1).unwrap();
        let member = members.get(PeerId(0xab)).unwrap();
        assert_eq!((member.name.as_str(), member.is_learner), ("a", true));
        assert_eq!(members.with_url("http://h:1").unwrap().id, 0xab);
        assert!(members.was_removed(PeerId(0xcd)));
        assert_eq!(Members::from_store(b"", 1), None);
        assert_eq!(Members::from_store(b"{\"Root\":{}}", 1), None);
    }

    #[test]
    fn a_snapshot_without_a_store_has_members_all_the_same() {
        let list = format!("[{},{}]", member(1, 1), member(3, 3));
        let asked = Members::parse(&list, 1).unwrap();
        let ids = |ids: &[u64]| ids.iter().copied().map(PeerId).collect();
        let conf = ConfState { voters: ids(&[1]), learners: ids(&[2]), ..ConfState::default() };
        let members = Members::of_snapshot(b"", &conf, &asked);
        assert_eq!(members.with_url("http://h:1").map(|member| (member.id, member.is_learner)), Some((1, false)));
        assert!(members.get(PeerId(2)).is_some_and(|member| member.is_learner));
        assert_eq!(members.get(PeerId(3)), None, "it came later");
    }

    #[test]
    fn addresses() {
        assert_eq!(address_of("http://127.0.0.1:2380").as_deref(), Ok("127.0.0.1:2380"));
        assert_eq!(address_of("http://[::1]:2380/").as_deref(), Ok("[::1]:2380"));
        for bad in ["https://h:1", "h:1", "http://h", "http://h:x", "http://h:1/path", "http://u@h:1", "http://:1"] {
            assert!(address_of(bad).is_err(), "{bad}");
        }
    }
}
