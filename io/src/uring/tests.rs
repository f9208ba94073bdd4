//! What only a ring has.

use std::collections::BTreeSet;

use super::*;
use crate::tests::streams::{run_out_of_buffers, send_through_small_sockets, small};
use crate::tests::{Node, PATIENCE, TestWorld, config, directory, pair, transfer};
use crate::{AlignedBuf, Completion, Io, Token, WorldConfig};

fn permitted() -> bool {
    UringWorld::permitted()
}

#[test]
fn probing_says_what_is_there() {
    if permitted() {
        let capabilities = probe().expect("permitted");
        eprintln!("this kernel lacks {capabilities}");
    }
    let bare =
        Capabilities { no_sqarray: false, submit_all: true, taskrun_flag: true, bundles: false, no_iowait: true };
    assert_eq!(bare.to_string(), "rings without index array, receive bundles");
    assert_eq!(Capabilities { no_sqarray: true, bundles: true, ..bare }.to_string(), "nothing");
}

/// Lets every `io_uring_setup` of this process fail with `errno` from now on.
fn forbid(errno: u16) {
    const LOAD: u16 = 0x20; // a word of the call's description; the first is its number
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("small");
    let steps = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, setup),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_ptr().cast_mut() };
    // SAFETY: no memory is passed.
    let first = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `steps` and `program` live on our stack for the whole call, and the kernel copies them.
    let second = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!((first, second), (0, 0));
}

#[test]
fn a_forbidden_ring_is_explained() {
    const CHILD: &str = "RINGRAFT_TEST_FORBID";
    if let Ok(errno) = std::env::var(CHILD) {
        // We are the child: filters cannot be taken off again.
        forbid(errno.parse().expect("a number"));
        println!("{}", UringWorld::start(UringConfig::new(1)).expect_err("forbidden"));
        return;
    }
    for (errno, want) in [
        (libc::EPERM, ["io_uring is not permitted", "seccomp"]),
        (libc::ENOSYS, ["io_uring is not permitted", "does not exist"]),
        (libc::EINVAL, ["io_uring lacks", "6.1 or newer"]),
        (libc::ENOMEM, ["memory", "LimitMEMLOCK"]),
    ] {
        let this = std::env::current_exe().expect("we are running");
        let child = std::process::Command::new(this)
            .args(["--exact", "uring::tests::a_forbidden_ring_is_explained", "--nocapture"])
            .env(CHILD, errno.to_string())
            .output()
            .expect("a child");
        let text = String::from_utf8_lossy(&child.stdout);
        let line = text.lines().find(|line| line.contains(want[0])).unwrap_or_else(|| panic!("{errno}: {text}"));
        assert!(child.status.success() && line.contains(want[1]), "{errno}: {text}");
    }
}

#[test]
fn receives_without_bundles_work() {
    if !permitted() {
        return;
    }
    let single = |world: WorldConfig| UringConfig { bundles: false, ..world.into() };
    send_through_small_sockets::<UringWorld>(single(config()));
    run_out_of_buffers::<UringWorld>(single(small()));
}

#[test]
fn places_beyond_the_table_work() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair::<UringWorld>(UringConfig { table_size: 0, ..config().into() });
    transfer(&mut a, &mut b, x, y, 1_000_000, 300_000);
    transfer(&mut b, &mut a, y, x, 1_000_000, 300_000);
}

#[test]
fn small_queues_overflow_without_loss() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::<UringWorld>::start(UringConfig { sq_entries: 4, cq_entries: 8, ..UringConfig::new(1) });
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    for n in 0..200 {
        a.io.write(file, n * 4096, AlignedBuf::zeroed(4096), Token(n));
    }
    let mut tokens = BTreeSet::new();
    while tokens.len() < 200 {
        let until = a.io.now() + PATIENCE;
        a.io.turn(Some(until), &mut a.got).expect("a turn");
        assert!(a.io.now() < until, "{} writes have ended", tokens.len());
        for completion in a.got.drain(..) {
            match completion {
                Completion::Written { token, result: Ok(()), .. } => assert!(tokens.insert(token)),
                other => panic!("{other:?}"),
            }
        }
    }
}
