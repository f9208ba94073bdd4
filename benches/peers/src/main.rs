//! Parts of ringraft beside their rivals, in one process and in turn. A workspace of its own, so that no rival comes
//! into the dependencies of ours.

mod memory;
mod raft;
mod report;
mod rounds;
mod row;
mod wal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::row::{Failure, Row};

/// Measures parts of ringraft beside their rivals: both sides do the same in this process, a round each in turn, and
/// medians are compared. Absolute numbers are those of this machine; the ratio is what tells.
///
/// A row is met if our cost is at most the given part of the rival's.
#[derive(Parser, Debug)]
#[command(name = "peers", version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand, Debug)]
enum Subject {
    /// The raft core: raft-rs (crate `raft`), three replicas in memory.
    Raft(Options),
    /// The log engine: crate `raft-engine`, and the disk's own limits by fio.
    Wal {
        #[command(flatten)]
        options: Options,

        /// Where files are made, and removed at the end: a directory on the disk to be measured.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
}

#[derive(clap::Args, Debug)]
struct Options {
    /// Rounds of each row.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Short rounds: whether it works, not how fast it is.
    #[arg(long)]
    quick: bool,

    /// Only the rows whose name contains TEXT.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,

    /// Write the result as JSON to FILE, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().subject {
        Subject::Raft(options) => run(raft::rows(), &options),
        Subject::Wal { options, dir } => run_wal(&dir, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_wal(dir: &Path, options: &Options) -> Result<(), Failure> {
    let dir = tempfile::Builder::new()
        .prefix("peers-")
        .tempdir_in(dir)
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut rows = wal::rows(dir.path());
    if Command::new("fio").arg("--version").output().is_err() {
        writeln!(std::io::stderr(), "peers: no fio here (package fio): rows that end in /floor are left out")?;
        rows.retain(|row| !row.id.ends_with("/floor"));
    }
    run(rows, options)
}

fn run(mut rows: Vec<Row>, options: &Options) -> Result<(), Failure> {
    rows.retain(|row| row.id.contains(&options.only));
    if rows.is_empty() {
        return Err(format!("no row has a name with {:?} in it", options.only).into());
    }
    let time = Duration::from_millis(if options.quick { 20 } else { 300 });
    let outcomes = rounds::play(rows, usize::from(options.rounds), time)?;
    std::io::stdout().write_all(report::table(&outcomes).as_bytes())?;
    if let Some(path) = &options.json {
        let text = report::json(&outcomes)? + "\n";
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
