//! The engine against a disk that forgets, tears and fails.

mod basic;
mod crash;
mod damage;
mod golden;
mod reader;
mod rig;
mod world;
