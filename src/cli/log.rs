//! `ringraft log`: looks at a node's log, also while the node runs. Reads only; takes no lock; changes nothing. (All but
//! `bench`, which measures a log of its own.)

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use ringraft_engine::inspect::{self, Check, LogStats, Piece};
use serde_json::{Value as Json, json};

use super::{Failure, print};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Verify every byte; name the last intact index of every group and every damaged place. Exit status 1 on damage.
    Check(Place),
    /// Tell what takes the space.
    Stats(Place),
    /// Print every block, state and entry, oldest first; payloads by size only.
    Dump(Place),
    /// Measure the log engine on the disk under a directory: rate and latency of durable appends.
    Bench(super::log_bench::Arguments),
}

#[derive(clap::Args, Debug)]
struct Place {
    /// A node's data directory, or the directory of one shard.
    dir: PathBuf,
    /// Print JSON, one value per shard (dump: per piece) and line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::Check(place) => {
            let mut intact = true;
            for dir in shards(&place.dir)? {
                let found = inspect::check(&dir, None).map_err(|error| failed(&dir, &error))?;
                intact &= found.is_intact();
                show(place.json, check_json(&dir, &found), || check_text(&dir, &found))?;
            }
            Ok(if intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Bench(arguments) => super::log_bench::run(arguments),
        Command::Stats(place) => {
            for dir in shards(&place.dir)? {
                let found = inspect::stats(&dir, None).map_err(|error| failed(&dir, &error))?;
                show(place.json, stats_json(&dir, &found), || stats_text(&dir, &found))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Dump(place) => {
            for dir in shards(&place.dir)? {
                let mut outcome = Ok(());
                let mut visit = |piece: Piece<'_>| {
                    if outcome.is_ok() {
                        outcome = print(piece_line(&piece, place.json));
                    }
                };
                inspect::dump(&dir, None, &mut visit).map_err(|error| failed(&dir, &error))?;
                outcome?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The shards' directories below a data directory, or the directory itself.
fn shards(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let listed = std::fs::read_dir(dir).map_err(|error| failed(dir, &error))?;
    let names = listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let is_shard = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-"));
    let mut shards: Vec<PathBuf> = names.iter().filter(is_shard).cloned().collect();
    shards.sort();
    if !shards.is_empty() {
        return Ok(shards);
    }
    if names.iter().any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-"))) {
        return Ok(vec![dir.to_owned()]);
    }
    Err(format!("{}: there is no log; name a node's data directory or one of its shard-N", dir.display()).into())
}

fn failed(dir: &Path, error: &std::io::Error) -> Failure {
    format!("{}: {error}", dir.display()).into()
}

fn show(as_json: bool, json: Json, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if as_json { print(format!("{json}\n")) } else { print(text()) }
}

const TO_STRING: &str = "writing to a string cannot fail";

fn check_text(dir: &Path, found: &Check) -> String {
    let verdict = if found.is_intact() { "intact" } else { "DAMAGED" };
    let changing = if found.changing { ", being written" } else { "" };
    let mut text = format!(
        "{}: {verdict}{changing}; batches up to {}, attested as durable up to {}\n",
        dir.display(),
        found.last_batch,
        found.attested
    );
    for group in &found.groups {
        let hard = group.hard_state;
        writeln!(
            text,
            "  group {}: term {}, vote {}, commit {}, log {}..={}, intact up to {}",
            group.group,
            hard.term,
            hard.vote,
            hard.commit,
            group.base.index.0 + 1,
            group.last,
            group.intact
        )
        .expect(TO_STRING);
        for (first, last) in &group.holes {
            writeln!(text, "    lost: entries {first}..={last}").expect(TO_STRING);
        }
    }
    for damage in &found.damage {
        writeln!(text, "  {} at {}: {}", damage.file.display(), damage.offset, damage.verdict).expect(TO_STRING);
    }
    text
}

fn check_json(dir: &Path, found: &Check) -> Json {
    let groups: Vec<Json> = found
        .groups
        .iter()
        .map(|group| {
            let holes: Vec<_> = group.holes.iter().map(|(first, last)| json!([first.0, last.0])).collect();
            json!({
                "group": group.group.0, "term": group.hard_state.term.0, "vote": group.hard_state.vote.0,
                "commit": group.hard_state.commit.0, "base": group.base.index.0, "last": group.last.0,
                "intact": group.intact.0, "holes": holes,
            })
        })
        .collect();
    let damage: Vec<Json> = found
        .damage
        .iter()
        .map(|damage| json!({"file": damage.file, "offset": damage.offset, "verdict": damage.verdict.to_string()}))
        .collect();
    json!({
        "dir": dir, "intact": found.is_intact(), "changing": found.changing, "last_batch": found.last_batch,
        "attested": found.attested, "groups": groups, "damage": damage,
    })
}

fn stats_text(dir: &Path, found: &LogStats) -> String {
    let mut text = format!(
        "{}: {} files of {} bytes; records {} bytes, of these live {}; {} snapshots of {} bytes\n",
        dir.display(),
        found.files,
        found.file_bytes,
        found.record_bytes,
        found.live_bytes,
        found.snapshots,
        found.snapshot_bytes
    );
    for segment in &found.segments {
        writeln!(
            text,
            "  {} generation {}: {} batches of {} bytes, records {}, live {}",
            segment.file.display(),
            segment.generation,
            segment.batches,
            segment.batch_bytes,
            segment.record_bytes,
            segment.live_bytes
        )
        .expect(TO_STRING);
    }
    for group in &found.groups {
        writeln!(
            text,
            "  group {}: {} entries, {} bytes, since generation {}",
            group.group, group.entries, group.live_bytes, group.oldest
        )
        .expect(TO_STRING);
    }
    text
}

fn stats_json(dir: &Path, found: &LogStats) -> Json {
    let segments: Vec<Json> = found
        .segments
        .iter()
        .map(|segment| {
            json!({
                "file": segment.file, "generation": segment.generation, "bytes": segment.bytes,
                "batches": segment.batches, "batch_bytes": segment.batch_bytes, "footer_bytes": segment.footer_bytes,
                "record_bytes": segment.record_bytes, "live_bytes": segment.live_bytes,
            })
        })
        .collect();
    let groups: Vec<Json> = found
        .groups
        .iter()
        .map(|group| json!({"group": group.group.0, "entries": group.entries, "live_bytes": group.live_bytes}))
        .collect();
    json!({
        "dir": dir, "files": found.files, "file_bytes": found.file_bytes, "record_bytes": found.record_bytes,
        "live_bytes": found.live_bytes, "snapshots": found.snapshots, "snapshot_bytes": found.snapshot_bytes,
        "segments": segments, "groups": groups,
    })
}

fn piece_line(piece: &Piece<'_>, as_json: bool) -> String {
    if as_json {
        return format!("{}\n", piece_json(piece));
    }
    match piece {
        Piece::Block { file, offset, what, generation, batch, durable, bytes, .. } => format!(
            "{} at {offset}: {what}, generation {generation}, batch {batch}, durable {durable}, {bytes} bytes\n",
            file.display()
        ),
        Piece::State { group, hard_state, base, reset, snapshot, .. } => {
            let mut text = format!("  group {group}:");
            if let Some(hard) = hard_state {
                write!(text, " term {} vote {} commit {}", hard.term, hard.vote, hard.commit).expect(TO_STRING);
            }
            if let Some(base) = base {
                write!(text, " base {base}{}", if *reset { " (log replaced)" } else { "" }).expect(TO_STRING);
            }
            if let Some(snapshot) = snapshot {
                write!(text, " snapshot {snapshot}").expect(TO_STRING);
            }
            text + "\n"
        }
        Piece::Entry { group, id, kind, offset, payload } => {
            format!("  group {group}: entry {id} {kind:?} at {offset}, {} bytes\n", payload.len())
        }
        Piece::Damage(damage) => format!("{} at {}: {}\n", damage.file.display(), damage.offset, damage.verdict),
    }
}

fn piece_json(piece: &Piece<'_>) -> Json {
    match piece {
        Piece::Block { file, offset, what, generation, batch, durable, epoch, bytes } => json!({
            "block": what, "file": file, "offset": offset, "generation": generation, "batch": batch,
            "durable": durable, "epoch": epoch, "bytes": bytes,
        }),
        Piece::State { group, hard_state, base, reset, snapshot, .. } => json!({
            "state": group.0,
            "hard_state": hard_state.map(|hard| json!({"term": hard.term.0, "vote": hard.vote.0, "commit": hard.commit.0})),
            "base": base.map(|id| id.to_string()), "reset": reset, "snapshot": snapshot.map(|id| id.to_string()),
        }),
        Piece::Entry { group, id, kind, offset, payload } => json!({
            "entry": id.index.0, "term": id.term.0, "group": group.0, "kind": format!("{kind:?}"), "offset": offset,
            "bytes": payload.len(),
        }),
        Piece::Damage(damage) => {
            json!({"damage": damage.verdict.to_string(), "file": damage.file, "offset": damage.offset})
        }
    }
}
