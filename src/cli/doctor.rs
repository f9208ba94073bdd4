//! `ringraft doctor`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::bench::cluster::RunDir;
use crate::config::units::{parse_duration, parse_size};
use crate::doctor::{self, DoctorConfig, SPACE_MIN};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The directory where a log is or will be. What is written goes to a directory made in it and removed at the end.
    dir: PathBuf,

    /// How long to measure, about.
    #[arg(long, default_value = "5s")]
    duration: String,

    /// How much to write there at most, such as 64MiB; never more than half of what is free.
    #[arg(long, default_value = "64MiB")]
    space: String,

    /// Bytes of a value, for the rate to expect.
    #[arg(long, default_value_t = 256)]
    value_size: u32,

    /// Write the result as JSON to FILE ("-": to standard output instead of the text).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { dir, duration, space, value_size, json } = arguments;
    let duration = parse_duration(duration).map_err(|error| format!("--duration {duration}: {error}"))?;
    if !(Duration::from_millis(500)..=Duration::from_secs(600)).contains(&duration) {
        return Err(format!("--duration {}: must be 500ms to 10min", arguments.duration).into());
    }
    let space = parse_size(space).map_err(|error| format!("--space {space}: {error}"))?;
    if space < SPACE_MIN {
        return Err(format!("--space {}: must be at least 4MiB", arguments.space).into());
    }
    if !dir.is_dir() {
        return Err(format!("{}: there is no such directory", dir.display()).into());
    }
    let run_dir = RunDir::create(dir, &format!("ringraft-doctor-{}", std::process::id()))?;
    super::dev::end_with_signal(run_dir.path().to_owned())?;
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}").expect("a valid template");
        ProgressBar::new_spinner().with_style(style)
    });
    let mut progress = |what: &str| {
        if let Some(bar) = &bar {
            bar.set_message(what.to_owned());
            bar.tick();
        }
    };
    let config = DoctorConfig { dir: dir.clone(), duration, space, value_size: (*value_size).into() };
    let result = doctor::run(&config, &run_dir, &mut progress);
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    drop(run_dir);
    let report = result?;
    super::show(&report, json.as_deref())?;
    Ok(if report.is_fit() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
