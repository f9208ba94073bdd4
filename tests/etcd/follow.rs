//! A follower in the same process, between real etcd servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message as _;
use ringraft::etcd_follow::{Config, Entry, FollowError, Follower, Output};
use ringraft_raft::{EntryId, EntryKind, Index, Role};
use ringraft_transport::etcd::requests::{InternalRaftRequest, Payload, PutRequest, RequestHeader};

use super::relay::Relay;
use super::servers::{Etcd, PATIENCE, can_run, free_port, until};
use crate::process::{io_kind, run_dir};

/// A follower and what it has told so far.
struct Told {
    follower: Follower,
    /// The last entry that a snapshot replaced.
    base: EntryId,
    entries: Vec<Entry>,
    notices: Vec<String>,
}

fn config(peers: &[&Etcd], relay: &Relay, port: u16, dir: &Path) -> Config {
    Config {
        peers: peers.iter().map(|etcd| etcd.relay.url()).collect(),
        advertise: relay.url(),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        data_dir: dir.join("follower"),
        name: "follower".to_owned(),
        after: Index::ZERO,
        tick: Duration::from_millis(100),
        learners_max: 1,
        io: io_kind(),
    }
}

impl Told {
    fn start(config: &Config) -> Told {
        let follower = Follower::start(config).unwrap_or_else(|error| panic!("{error}"));
        Told { follower, base: EntryId::default(), entries: Vec::new(), notices: Vec::new() }
    }

    /// Takes the next entry, if there is one in time; they come without gaps, from the first one on, or behind a
    /// snapshot.
    fn next(&mut self, wait: Duration) -> Result<(), FollowError> {
        for notice in self.follower.notices() {
            eprintln!("follower: {notice}");
            self.notices.push(notice);
        }
        match self.follower.next(wait)? {
            Some(Output::Entry(entry)) => {
                let last = self.entries.last().map_or(self.base, |last| last.id);
                assert!(entry.id.index == last.index.next() && entry.id.term >= last.term, "{} after {last}", entry.id);
                self.entries.push(entry);
            }
            Some(Output::Snapshot { at, database }) => {
                let database = std::fs::read(database).unwrap();
                assert_eq!(database[16..20], [0xed, 0xda, 0x0c, 0xed], "a bbolt file");
                self.entries.clear();
                self.base = at;
            }
            None => {}
        }
        Ok(())
    }

    /// What all entries together have put.
    fn puts(&self) -> BTreeMap<String, String> {
        let mut puts = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.kind == EntryKind::Normal) {
            if let Payload::Request(request) = Payload::decode(&entry.payload)
                && let Some(put) = request.put
            {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                puts.insert(text(&put.key), text(&put.value));
            }
        }
        puts
    }

    #[track_caller]
    fn wait_put(&mut self, key: &str, value: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.puts().get(key).map(String::as_str) != Some(value) {
            assert!(Instant::now() < deadline, "{key} = {value} is not told: {:?}", self.follower.status());
            self.next(Duration::from_millis(100)).unwrap();
        }
    }
}

/// One etcd, and the ways to a follower that was added as a learner.
fn one_and_a_learner(dir: &Path, flags: &[&str]) -> (Etcd, Relay, u16, u64) {
    let mut etcd = Etcd::new("a", dir, flags);
    etcd.start(&[etcd.entry()], "new");
    etcd.put("first", "1");
    let port = free_port();
    let relay = Relay::to(port);
    let id = etcd.add(&relay.url(), true);
    (etcd, relay, port, id)
}

#[test]
fn a_learner_becomes_a_voter_that_the_cluster_can_count_on() {
    if !can_run() {
        return;
    }
    let dir = run_dir("etcd-voter");
    let (mut a, relay, port, id) = one_and_a_learner(dir.path(), &[]);
    for number in 0..20 {
        a.put(&format!("k{number}"), &format!("before {number}"));
    }

    // A learner gets the log from its first entry on.
    let mut told = Told::start(&config(&[&a], &relay, port, dir.path()));
    told.wait_put("k19", "before 19");
    assert_eq!(told.puts().get("first").map(String::as_str), Some("1"));
    let changes = told.entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange).count();
    assert!(changes >= 2, "the first member, and us");
    let status = told.follower.status();
    assert_eq!((status.id, status.is_member, status.is_voter), (id, true, false));
    a.put("learned", "yes");
    told.wait_put("learned", "yes");

    // It says its name, and gets a vote: from now on nothing is committed without it.
    until("its name is known", || {
        let members = a.members()?;
        members.iter().any(|one| one["name"] == "follower").then_some(())
    });
    a.promote(id);
    until("it has a vote", || told.follower.status().is_voter.then_some(()));
    a.put("voted", "yes");
    told.wait_put("voted", "yes");

    // A second etcd joins, which learns of us from the first.
    let mut b = Etcd::new("b", dir.path(), &[]);
    a.add(&b.relay.url(), false);
    // It may ask us who belongs to the cluster, and ends if it does not find itself.
    until("we know of b", || (told.follower.status().members == 3).then_some(()));
    b.start(&[a.entry(), b.entry(), format!("follower={}", relay.url())], "existing");
    until("b has caught up", || b.get("voted"));

    // Whichever leads is killed: the other one and we are a majority.
    let a_leads = until("there is a leader", || a.leader()) == until("a answers", || a.id());
    let (victim, other) = if a_leads { (&mut a, &mut b) } else { (&mut b, &mut a) };
    victim.kill();
    for number in 0..20 {
        other.put(&format!("k{number}"), &format!("without {number}"));
    }
    told.wait_put("k19", "without 19");
    assert!(told.follower.status().is_voter);

    // It comes back and catches up.
    victim.run();
    until("the killed one has caught up", || (victim.get("k19")? == "without 19").then_some(()));

    // Connections are cut; they come back, and nothing is missing.
    let made = relay.made();
    relay.cut();
    a.relay.cut();
    b.relay.cut();
    a.put("cut", "once");
    told.wait_put("cut", "once");
    until("we are dialed again", || (relay.made() > made).then_some(()));
    until("we read all streams again", || (told.follower.status().streams.len() == 4).then_some(()));

    // What we propose is passed on to the leader, and comes back.
    let header = RequestHeader { id: 77, ..RequestHeader::default() };
    let put = PutRequest { key: "proposed".into(), value: "by us".into(), ..PutRequest::default() };
    let request = InternalRaftRequest { put: Some(put), header: Some(header), ..InternalRaftRequest::default() };
    told.follower.propose(request.encode_to_vec().into());
    told.wait_put("proposed", "by us");
    for etcd in [&a, &b] {
        until("both have it", || (etcd.get("proposed")? == "by us").then_some(()));
    }
    a.assert_runs();
    b.assert_runs();
    assert_eq!(told.follower.status().role, Role::Follower, "it leads only if nobody else can");
}

#[test]
fn the_only_one_with_the_newest_entry_leads_until_another_has_it() {
    if !can_run() {
        return;
    }
    let dir = run_dir("etcd-newest");
    let (mut a, relay, port, id) = one_and_a_learner(dir.path(), &[]);
    let mut told = Told::start(&config(&[&a], &relay, port, dir.path()));
    a.promote(id);
    let mut b = Etcd::new("b", dir.path(), &[]);
    a.add(&b.relay.url(), false);
    // It may ask us who belongs to the cluster, and ends if it does not find itself.
    until("we know of b", || (told.follower.status().members == 3).then_some(()));
    b.start(&[a.entry(), b.entry(), format!("follower={}", relay.url())], "existing");
    until("b has caught up", || b.get("first"));

    let a_leads = until("there is a leader", || a.leader()) == until("a answers", || a.id());
    let (leader, other) = if a_leads { (&mut a, &mut b) } else { (&mut b, &mut a) };
    // One of three is gone: what is stored now is with the leader and us.
    other.kill();
    leader.put("newest", "entry");
    told.wait_put("newest", "entry");
    leader.kill();
    // The other one cannot win: its log is older than ours.
    other.run();
    until("it has the newest entry from us", || (other.get("newest")? == "entry").then_some(()));
    other.put("after", "all");
    // It may have been us who took that one; but it is not long until the other one leads.
    let id = until("it answers", || other.id());
    until("we have handed over", || (other.leader()? == id).then_some(()));
    other.put("after", "that");
    told.wait_put("after", "that");
    let term = told.entries.last().unwrap().id.term;
    assert!(told.notices.iter().any(|notice| notice.contains("hand over")), "{:?}", told.notices);
    assert_eq!(told.follower.status().role, Role::Follower);

    leader.run();
    until("the one that led has caught up", || (leader.get("after")? == "that").then_some(()));
    other.put("last", "one");
    told.wait_put("last", "one");
    assert_eq!(told.entries.last().unwrap().id.term, term, "nobody has asked for votes since");
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn asked_to_lead_it_hands_over() {
    if !can_run() {
        return;
    }
    let dir = run_dir("etcd-asked");
    let (mut a, relay, port, id) = one_and_a_learner(dir.path(), &[]);
    let mut told = Told::start(&config(&[&a], &relay, port, dir.path()));
    a.promote(id);
    a.put("before", "it leads");
    told.wait_put("before", "it leads");
    let before = told.entries.last().unwrap().id.term;
    let etcd = until("it answers", || a.id());
    // The answer may be that it has not worked, for we lead too shortly for etcd to see.
    let _ = a.transfer_leader(id);
    a.put("after", "it has led");
    told.wait_put("after", "it has led");
    until("etcd leads again", || (a.leader()? == etcd).then_some(()));
    a.put("and", "goes on");
    told.wait_put("and", "goes on");
    assert!(told.entries.last().unwrap().id.term.0 >= before.0 + 2, "we have led, and etcd again");
    assert!(told.notices.iter().any(|notice| notice.contains("hand over")), "{:?}", told.notices);
    assert_eq!(told.follower.status().role, Role::Follower);
    a.assert_runs();
}

#[test]
fn a_log_that_no_longer_goes_back_far_enough_begins_with_a_snapshot() {
    if !can_run() {
        return;
    }
    let dir = run_dir("etcd-snapshot");
    let mut etcd = Etcd::new("a", dir.path(), &["--snapshot-count=100"]);
    etcd.start(&[etcd.entry()], "new");
    // It keeps 5000 entries behind a snapshot.
    etcd.put_many(5300);
    let port = free_port();
    let relay = Relay::to(port);
    let id = etcd.add(&relay.url(), true);
    let config = config(&[&etcd], &relay, port, dir.path());
    let mut told = Told::start(&config);
    let deadline = Instant::now() + PATIENCE;
    while told.base == EntryId::default() {
        assert!(Instant::now() < deadline, "there is no snapshot: {:?}", told.follower.status());
        told.next(Duration::from_millis(100)).unwrap();
    }
    etcd.put("after", "the snapshot");
    told.wait_put("after", "the snapshot");
    assert!(told.base.index > Index(5000), "it began with a snapshot: {}", told.base);
    let status = told.follower.status();
    assert_eq!((status.is_member, status.is_voter, status.members), (true, false, 2), "the snapshot says who belongs");
    let base = told.base;
    drop(told);

    // Started again, it goes on where it was, and asks nobody for what it has.
    etcd.put("while", "it was away");
    let mut told = Told::start(&config);
    told.wait_put("while", "it was away");
    assert_eq!(told.base, base);
    assert_eq!(told.puts().get("after").map(String::as_str), Some("the snapshot"));
    let last = told.entries.last().unwrap().id.index;
    drop(told);
    let mut told = Told::start(&Config { after: last, ..config });
    told.base.index = last;
    etcd.put("again", "and again");
    told.wait_put("again", "and again");
    etcd.promote(id);
    etcd.put("voted", "yes");
    told.wait_put("voted", "yes");

    // Removed for good. (It votes: its own vote makes it so.)
    etcd.remove(id);
    let deadline = Instant::now() + PATIENCE;
    let end = loop {
        match told.next(Duration::from_millis(100)) {
            Ok(()) => assert!(Instant::now() < deadline, "it goes on: {:?}", told.follower.status()),
            Err(end) => break end,
        }
    };
    assert!(matches!(end, FollowError::Removed), "{end}");
    etcd.put("without", "us");
    etcd.assert_runs();
}
