//! The program. See `ringraft --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ringraft::cli::main()
}
