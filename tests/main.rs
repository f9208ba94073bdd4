//! Whole-system tests: the architecture, a simulated cluster under faults, real processes under `kill -9`.

mod history;
mod process;
mod sim;
mod steady;
mod tidy;
