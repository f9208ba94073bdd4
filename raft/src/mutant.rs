//! Seeded mistakes: what the fuzz of whole clusters must find, to show that it would find ours.
//!
//! `mutant!("name", wrong, right)` is `right`, and `mutant!("name", wrong)` nothing, in any usual build. Built with
//! `--cfg ringraft_mutants` it is `wrong` on a thread that has switched this mutant on. `raft/tests/cluster/mutants.rs`
//! lists and runs them all.

/// What is right, or what is wrong.
#[cfg(not(ringraft_mutants))]
macro_rules! mutant {
    ($name:literal, $wrong:expr, $right:expr) => {
        $right
    };
    ($name:literal, $wrong:expr) => {
        ()
    };
}

/// What is right, or what is wrong.
#[cfg(ringraft_mutants)]
macro_rules! mutant {
    ($name:literal, $wrong:expr, $right:expr) => {
        if crate::mutant::is_on(const { crate::mutant::number($name) }) { $wrong } else { $right }
    };
    ($name:literal, $wrong:expr) => {
        if crate::mutant::is_on(const { crate::mutant::number($name) }) {
            $wrong
        }
    };
}

pub(crate) use mutant;

#[cfg(ringraft_mutants)]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<u64> = const { Cell::new(0) };
        static REACHED: Cell<bool> = const { Cell::new(false) };
    }

    /// Switches a mutant on for this thread, and every other one off; the empty name switches all off.
    pub fn switch_on(name: &str) {
        ON.set(if name.is_empty() { 0 } else { number(name) });
        REACHED.set(false);
    }

    /// Whether the place of the mutant that is on was come by.
    pub fn is_reached() -> bool {
        REACHED.get()
    }

    #[inline]
    pub(crate) fn is_on(number: u64) -> bool {
        let on = ON.get() == number;
        if on {
            REACHED.set(true);
        }
        on
    }

    /// A number for a name: FNV-1a.
    pub const fn number(name: &str) -> u64 {
        let (bytes, mut hash, mut at) = (name.as_bytes(), 0xcbf2_9ce4_8422_2325, 0);
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        hash
    }
}

#[cfg(ringraft_mutants)]
pub(crate) use switch::is_on;
#[cfg(ringraft_mutants)]
pub use switch::{is_reached, number, switch_on};
