//! Whole-system tests: the architecture, a simulated cluster under faults, real processes under `kill -9`, real etcd
//! servers beside ours.

mod etcd;
mod history;
mod process;
mod sim;
mod steady;
mod tidy;
