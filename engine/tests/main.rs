//! The engine against a disk that forgets, tears and fails.

mod basic;
mod blocking;
mod crash;
mod damage;
mod errors;
mod failures;
mod faults;
mod footer;
mod golden;
mod holes;
mod images;
mod inspect;
mod reader;
mod restart;
mod rig;
mod sectors;
mod world;
