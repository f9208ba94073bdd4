//! The commands of `ringraft`. Every failure is one line on stderr and exit status 1; wrong usage exits with 2.

mod bench;
mod dev;
mod doctor;
mod etcd_follow;
mod io;
mod kv;
mod local;
mod log;
mod log_bench;
mod serve;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

/// A replicated key-value server built around io_uring, which also runs without it, and the tools around it.
#[derive(Parser, Debug)]
#[command(name = "ringraft", version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node of a cluster.
    Serve(Box<serve::Arguments>),
    /// Store a value under a key; prints the revision.
    Put(kv::Put),
    /// Print the value of a key; exit status 3 if there is none.
    Get(kv::Get),
    /// Delete a key; prints the revision.
    Del(kv::Del),
    /// Print the keys and values from START up to but not including END.
    Range(kv::Range),
    /// Print what every endpoint says of itself and its groups.
    Status(kv::Status),
    /// Measure how many writes per second a cluster acknowledges, and verify that it kept every one.
    Bench(bench::Arguments),
    /// Run a cluster on this machine until interrupted, and print its endpoints.
    Dev(dev::Arguments),
    /// Look at a node's log: check, stats, dump; also while the node runs. Or measure the log engine: bench.
    Log(log::Arguments),
    EtcdFollow(etcd_follow::Arguments),
    /// Tell whether a node can run here, what to do where something is in its way, and what latency and rate to expect of
    /// the disk under a directory.
    Doctor(doctor::Arguments),
}

/// What ends a command early: one line for a person.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Put(arguments) => kv::put(&arguments),
        Command::Get(arguments) => kv::get(&arguments),
        Command::Del(arguments) => kv::del(&arguments),
        Command::Range(arguments) => kv::range(&arguments),
        Command::Status(arguments) => kv::status(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::EtcdFollow(arguments) => etcd_follow::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // One line, whatever the error's text contains.
            let text = error.to_string().replace('\n', "; ");
            let _ = writeln!(std::io::stderr(), "ringraft: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout; a reader that has gone away is no failure of ours.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Shows a report to a person, or as JSON where `--json` says.
pub(crate) fn show<T: Serialize + std::fmt::Display>(report: &T, json: Option<&Path>) -> Result<(), Failure> {
    match json {
        Some(file) if file.as_os_str() == "-" => print(format!("{}\n", serde_json::to_string(report)?))?,
        Some(file) => {
            let text = format!("{}\n", serde_json::to_string(report)?);
            std::fs::write(file, text).map_err(|error| format!("--json {}: {error}", file.display()))?;
            print(report.to_string())?;
        }
        None => print(report.to_string())?,
    }
    Ok(())
}
