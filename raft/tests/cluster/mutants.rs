//! Seeded mistakes in the core, each of which the fuzz of clusters must find: if one lives on, the promises lack one.
//!
//! `raft/mutants.sh` builds and runs this; with `--write` it also writes the table `raft/tests/MUTANTS.md`. It prints how
//! each was found and after how many seeds, and fails if one was not; `RINGRAFT_MUTANT=two-votes` tries that one alone.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Instant;

use ringraft_raft::mutant;

use super::world::Spice;
use super::{number, run};

/// In which kind of run it is looked for every other time; name; what is wrong.
const MUTANTS: &[(Spice, &str, &str)] = &[
    // Elections.
    (Spice::Nothing, "two-votes", "a member votes for whoever asks, as often as asked"),
    (Spice::Nothing, "vote-dropped-with-the-role", "a change of role forgets the vote of the same term"),
    (Spice::Nothing, "vote-not-written", "a vote alone is not worth a write"),
    (Spice::Nothing, "term-not-written", "a newer term alone is not worth a write"),
    (Spice::Nothing, "vote-forgotten", "a restart forgets the vote"),
    (Spice::Nothing, "term-forgotten", "a restart takes the term of the last entry for its own"),
    (Spice::Nothing, "vote-before-sync", "a vote leaves before it is durable"),
    (Spice::Nothing, "asks-before-sync", "a candidate asks before its term and log are durable"),
    (Spice::Etcd, "own-vote-at-once", "a candidate counts its own vote before it is durable"),
    (Spice::Nothing, "newer-by-term-alone", "votes look at the last term only, not at the length of the log"),
    (Spice::Nothing, "newer-by-index-alone", "votes look at the length of the log only, not at the last term"),
    (Spice::Nothing, "half-is-a-majority", "of an even number of voters, half is enough"),
    (Spice::ConfChanges, "elected-by-one-half", "an election in a joint membership needs only its incoming half"),
    (Spice::ConfChanges, "learners-elect", "votes of learners count"),
    (Spice::ConfChanges, "learner-stands", "a learner stands for election by itself"),
    (Spice::ConfChanges, "stands-in-for-nobody", "who has lost its vote does not stand in for voters that count on it"),
    (
        Spice::Nothing,
        "stands-before-applying",
        "a member stands for election though a committed change of voters is not applied",
    ),
    (Spice::Nothing, "votes-within-a-lease", "a vote is given though the leader was heard of lately"),
    (Spice::Nothing, "pre-vote-moves-terms", "a question whether one would vote moves the term"),
    (Spice::Nothing, "old-terms-count", "answers and appends of older terms are taken for ones of this term"),
    (Spice::Nothing, "deaf-to-leaders", "hearing the leader does not put off the next election"),
    (Spice::Nothing, "no-heartbeats", "a leader sends no heartbeats"),
    (Spice::Nothing, "deaf-leader-stays", "a leader that hears of no quorum goes on"),
    (Spice::Stalls, "leads-without-a-disk", "a leader whose disk hangs does not hand over"),
    (Spice::Nothing, "hand-over-unseen", "the target of a hand-over is told before it has everything"),
    // Replication.
    (Spice::Stalls, "append-to-anything", "an append is taken without a look at the term of the entry before"),
    (Spice::Nothing, "conflict-kept", "entries that conflict with the leader's are kept"),
    (Spice::Nothing, "always-replaced", "an append replaces everything after it, also what matches"),
    (Spice::ConfChanges, "ack-own-tail", "a short append vouches for a longer tail"),
    (Spice::Nothing, "ack-before-sync", "an acknowledgement leaves before its entries are durable"),
    (Spice::Nothing, "ack-before-its-term", "an acknowledgement leaves before its term is durable"),
    (Spice::Nothing, "first-ack-says-all", "of several acknowledgements the first is kept, not the highest"),
    (Spice::Nothing, "leader-counts-before-sync", "the leader counts its own entries before they are durable"),
    (Spice::Nothing, "match-goes-back", "a late acknowledgement moves the match back"),
    (Spice::Nothing, "match-what-was-sent", "an acknowledgement counts for all that was sent"),
    (Spice::Nothing, "window-ignored", "appends leave beyond the window"),
    (Spice::Nothing, "tail-without-limit", "proposals are taken beyond the limit of uncommitted bytes"),
    (Spice::Stalls, "replaced-entries-not-written", "what replaces entries that are being written is not written"),
    (Spice::Nothing, "sync-of-another-entry", "a write counts for an entry of another term at the same index"),
    (Spice::Nothing, "sync-of-another-term", "a write counts that was asked for in an older term (A-B-A)"),
    (Spice::Nothing, "snapshot-over-newer-log", "a snapshot is installed over a log that has committed more"),
    (Spice::Losses, "lost-tail-not-resent", "a leader takes the word of a member that lost its tail for an old one"),
    // Commits.
    (Spice::Nothing, "commit-one-too-many", "one entry more than a quorum has is committed"),
    (Spice::Nothing, "commit-of-an-older-term", "entries of older terms are committed by counting"),
    (Spice::ConfChanges, "commit-by-one-half", "a commit in a joint membership needs only its incoming half"),
    (Spice::ConfChanges, "learners-count-for-commits", "what learners have counts"),
    (Spice::ConfChanges, "removed-leader-commits-alone", "a leader without a vote commits what it has itself"),
    (Spice::Stalls, "commit-own-tail", "a follower commits beyond what an append names"),
    (Spice::Nothing, "heartbeat-commits-unseen", "a heartbeat commits more than its receiver has acknowledged"),
    (Spice::Nothing, "commit-goes-back", "the commit index follows the leader's down as well"),
    (Spice::Nothing, "apply-before-sync", "entries are applied that are not durable here"),
    (Spice::Nothing, "apply-without-limit", "entries are handed out beyond the limit of what may wait to be applied"),
    // Memberships.
    (Spice::ConfChanges, "two-changes", "a change of membership is proposed while another is pending"),
    (Spice::ConfChanges, "inherited-changes-forgotten", "a new leader does not mind changes that it inherited"),
    (Spice::ConfChanges, "change-at-append", "a change of membership takes effect when it is appended"),
    (Spice::ConfChanges, "many-voters-at-once", "any number of voters changes without a joint membership"),
    (Spice::ConfChanges, "joint-without-outgoing", "a joint membership has no outgoing half"),
    (Spice::ConfChanges, "leaves-joint-twice", "the leaving of a joint membership is proposed while it is pending"),
    (Spice::ConfChanges, "never-leaves-joint", "a joint membership is never left by itself"),
    // Witnesses.
    (Spice::Witnesses, "witness-leads", "a witness stands for election"),
    (Spice::Witnesses, "witness-stands-in", "a witness stands in for voters that count on the vote that it has lost"),
    (Spice::Witnesses, "hand-over-to-a-witness", "leadership is handed over to a witness"),
    (Spice::Witnesses, "witnesses-commit-alone", "a commit needs no full voter"),
    (
        Spice::Witnesses,
        "payloads-in-one-half",
        "a commit in a joint membership needs a full voter of its incoming half only",
    ),
    (Spice::Witnesses, "witness-ahead-of-payloads", "a witness is sent what no full voter has durably"),
    (Spice::Witnesses, "witnesses-forgotten", "a witness is not sent what has become durable"),
    (Spice::Witnesses, "witness-changes-kind", "a witness becomes a full member, or a full member a witness"),
    (Spice::Witnesses, "witnesses-among-themselves", "the last full voter beside witnesses can be removed"),
    (
        Spice::Witnesses,
        "full-voter-leaves-in-one-step",
        "a full voter beside witnesses loses its vote without a joint membership",
    ),
    // Reads.
    (Spice::Leases, "read-without-quorum", "a read is answered without asking anybody"),
    (Spice::Leases, "read-before-own-commit", "a read is answered before the leader has committed in its term"),
    (Spice::Leases, "any-answer-confirms-reads", "any answer to any heartbeat confirms all reads"),
    (Spice::ConfChanges, "lone-reads-wait", "a lone voter in a joint membership waits for others to confirm its reads"),
    (Spice::Leases, "lease-from-the-answer", "a lease is counted from the answers, not from the question"),
    (Spice::Leases, "lease-outlives-hand-over", "a lease goes on after a hand-over"),
    (Spice::Leases, "lease-forgotten", "a member that starts again forgets the lease it gave"),
];

/// Head of the table.
const HEAD: &str = "\
# Mutants of the raft core

Seeded mistakes (`mutant!` in `raft/src`), and how the fuzz of clusters finds them: after how many seeds, each some 3,000
events and a calm end, in which kind of run, and what the assertion says. Every other seed is a run of the kind in which
the mistake matters most, the others are of all kinds in turn. Written by `raft/mutants.sh --write`.

| mutant | what is wrong | seeds | run | found by |
|---|---|---|---|---|
";

/// Kinds of runs in between, in turn.
const SPICES: [Spice; 7] =
    [Spice::Nothing, Spice::ConfChanges, Spice::Losses, Spice::Stalls, Spice::Leases, Spice::Witnesses, Spice::Etcd];

/// Runs before a mutant counts as not found.
const SEEDS_MAX: u64 = 6000;

/// Letters kept of what a failing assertion says.
const SAID_MAX: usize = 90;

thread_local! {
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// How a mutant was found.
struct Found {
    seeds: u64,
    spice: Spice,
    seconds: f64,
    said: String,
}

fn hunt(home: Spice, name: &str) -> Result<Found, String> {
    let begin = Instant::now();
    let mut reached = 0;
    for seed in 0..number("RINGRAFT_MUTANT_SEEDS").unwrap_or(SEEDS_MAX) {
        let turn = usize::try_from(seed).unwrap();
        let spice = if turn.is_multiple_of(2) { home } else { SPICES[turn / 2 % SPICES.len()] };
        mutant::switch_on(name);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(90_000 + seed, spice, 3000)));
        reached += u64::from(mutant::is_reached());
        if result.is_err() {
            let said = SAID.take();
            return Ok(Found { seeds: seed + 1, spice, seconds: begin.elapsed().as_secs_f64(), said });
        }
    }
    Err(format!("{name} lives on after all seeds, {reached} of which came by it"))
}

/// Names of the mutants in the sources.
fn names_in_sources() -> Vec<String> {
    let mut texts = String::new();
    read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let rests = texts.split("mutant!(").skip(1);
    let named = rests.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next().map(String::from));
    let mut names: Vec<_> = named.filter(|name| name != "name").collect();
    names.sort();
    names.dedup();
    names
}

/// Reads the files of a folder, and of those in it.
fn read_all(folder: &Path, texts: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, texts);
        } else {
            texts.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn mutants_are_found() {
    let mut listed: Vec<_> = MUTANTS.iter().map(|(_, name, _)| (*name).to_string()).collect();
    listed.sort();
    assert_eq!(listed, names_in_sources(), "every mutant in the sources is listed, and no other");
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic").lines().next().unwrap_or_default();
        let text = text.strip_prefix("assertion `left == right` failed: ").unwrap_or(text);
        SAID.set(text.chars().take(SAID_MAX).collect());
    }));
    let only = std::env::var("RINGRAFT_MUTANT").ok();
    let mut table = String::from(HEAD);
    let (mut missed, begin) = (Vec::new(), Instant::now());
    for (home, name, wrong) in MUTANTS.iter().filter(|(_, name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        match hunt(*home, name) {
            Ok(Found { seeds, spice, seconds, said }) => {
                println!("{name:32} {seeds:5} seeds {seconds:6.2} s  {spice:?}: {said}");
                let said = said.replace('|', "\\|");
                writeln!(table, "| `{name}` | {wrong} | {seeds} | {spice:?} | {said} |").unwrap();
            }
            Err(why) => {
                println!("{why}");
                missed.push(why);
            }
        }
    }
    mutant::switch_on("");
    drop(std::panic::take_hook());
    println!("{} mutants, {} not found, {:.0} s", MUTANTS.len(), missed.len(), begin.elapsed().as_secs_f64());
    if let Some(path) = std::env::var_os("RINGRAFT_MUTANTS_TABLE") {
        std::fs::write(path, table).unwrap();
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
