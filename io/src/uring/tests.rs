//! What only a ring has.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;

use super::*;
use crate::tests::streams::{run_out_of_buffers, send_through_small_sockets, small};
use crate::tests::{Node, PATIENCE, TestSeed, config, directory, pair, transfer};
use crate::{AlignedBuf, Completion, Io, IoChoice, Seed, ShardNo, Token, World, WorldConfig};

fn permitted() -> bool {
    UringSeed::permitted()
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

/// Lets every system call of this number fail with `errno` from now on.
fn forbid(call: u32, errno: u16) {
    const LOAD: u16 = 0x20; // a word of the call's description; the first is its number
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let steps = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, call),
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

/// This test program once more, for what cannot be taken back: it runs `test` alone, which finds `value` in the variable
/// `name`.
fn child(test: &str, name: &str, value: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("we are running"));
    command.args(["--exact", &format!("uring::tests::{test}"), "--nocapture"]).env(name, value);
    command
}

/// What a choice comes to here, in a line; a world of the kind found is started and turned.
fn settle(choice: IoChoice, shards: u16) -> String {
    let config = WorldConfig::new(shards);
    match choice.settle(&config) {
        Ok(settled) => {
            let mut world = World::start(settled.kind, config).expect("it was tried");
            match world.take_seeds().remove(0) {
                Seed::Uring(seed) => turn(seed.into_io().expect("it was tried")),
                Seed::Portable(seed) => turn(seed.into_io().expect("it was tried")),
            }
            let refusal = settled.refusal.map_or_else(String::new, |error| format!(": {error}"));
            format!("{choice} is {}{refusal}", settled.kind)
        }
        Err(error) => format!("{choice} is refused: {error}"),
    }
}

fn turn(mut io: impl Io) {
    io.wake(ShardNo(0));
    let mut out = Vec::new();
    io.turn(None, &mut out).expect("a turn");
    assert!(matches!(out[..], [Completion::Woken]), "{out:?}");
}

#[test]
fn a_forbidden_ring_is_explained() {
    const CALL: &str = "RINGRAFT_TEST_FORBID";
    if let Ok(value) = std::env::var(CALL) {
        // We are the child: filters cannot be taken off again.
        let (call, errno) = value.split_once(' ').expect("two numbers");
        forbid(call.parse().expect("a number"), errno.parse().expect("a number"));
        println!(
            "start: {}",
            UringWorld::start(UringConfig::new(1)).map_or_else(|error| error.to_string(), |_| "ok".into())
        );
        for choice in [IoChoice::Auto, IoChoice::Uring, IoChoice::Portable] {
            println!("{}", settle(choice, 2));
        }
        return;
    }
    let forbidden = "io_uring is not permitted: ";
    for (call, errno, cause, cure) in [
        (libc::SYS_io_uring_setup, libc::EPERM, forbidden, "seccomp"),
        (libc::SYS_io_uring_enter, libc::EPERM, forbidden, "seccomp"),
        (libc::SYS_io_uring_register, libc::EPERM, forbidden, "seccomp"),
        (libc::SYS_io_uring_setup, libc::ENOSYS, forbidden, "does not exist"),
        (libc::SYS_io_uring_setup, libc::EINVAL, "io_uring lacks what is needed: ", "6.1 or newer"),
        (libc::SYS_io_uring_setup, libc::ENOMEM, "io_uring cannot get the memory it needs: ", "LimitMEMLOCK"),
    ] {
        // Where rings are forbidden anyway, nobody gets as far as those two calls.
        if call != libc::SYS_io_uring_setup && !permitted() {
            continue;
        }
        let child = child("a_forbidden_ring_is_explained", CALL, &format!("{call} {errno}")).output().expect("a child");
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{call} {errno}: {text}{}", String::from_utf8_lossy(&child.stderr));
        let line = |begin: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(begin));
            line.unwrap_or_else(|| panic!("{call} {errno}: no '{begin}' in {text}"))
        };
        for begin in ["auto is portable: ", "uring is refused: "] {
            let why = line(begin);
            assert!(why.starts_with(cause) && why.contains(cure), "{call} {errno}: {why}");
        }
        assert_eq!(line("portable is "), "portable");
        // A world that is started without being settled finds out as well, but for calls it has not yet made.
        if call != libc::SYS_io_uring_enter {
            assert!(line("start: ").starts_with(cause), "{call} {errno}: {text}");
        }
    }
}

#[test]
fn too_little_locked_memory_is_explained() {
    const LIMIT: &str = "RINGRAFT_TEST_MEMLOCK";
    // Nobody who is everybody: without the privilege to lock as much as one likes.
    const NOBODY: u32 = 65534;
    if let Ok(limit) = std::env::var(LIMIT) {
        let limit = Some(limit.parse().expect("a number"));
        let limit = rustix::process::Rlimit { current: limit, maximum: limit };
        rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).expect("less is always allowed");
        println!("{}", settle(IoChoice::Auto, 4));
        return;
    }
    if !permitted() {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    // Nothing at all; enough for one ring, but not for those of four shards.
    for limit in [0, 200 << 10] {
        let mut command = child("too_little_locked_memory_is_explained", LIMIT, &limit.to_string());
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = match command.output() {
            Ok(child) => child,
            Err(error) => return eprintln!("skipped: another user cannot run this program: {error}"),
        };
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{limit}: {text}{}", String::from_utf8_lossy(&child.stderr));
        let line = text.lines().find(|line| line.starts_with("auto is ")).expect("it says something");
        eprintln!("{limit} bytes: {line}");
        // Some kernels do not count the memory of rings.
        let refused = line.starts_with("auto is portable: io_uring cannot get the memory it needs: ");
        assert!(line == "auto is uring" || refused, "{limit}: {line}");
        assert!(!refused || line.contains(&format!("limited to {limit} bytes")) && line.contains("LimitMEMLOCK"));
    }
}

#[test]
fn receives_without_bundles_work() {
    if !permitted() {
        return;
    }
    let single = |world: WorldConfig| UringConfig { bundles: false, ..world.into() };
    send_through_small_sockets::<UringSeed>(single(config()));
    run_out_of_buffers::<UringSeed>(single(small()));
}

#[test]
fn places_beyond_the_table_work() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair::<UringSeed>(UringConfig { table_size: 0, ..config().into() });
    transfer(&mut a, &mut b, x, y, 1_000_000, 300_000);
    transfer(&mut b, &mut a, y, x, 1_000_000, 300_000);
}

#[test]
fn small_queues_overflow_without_loss() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::<UringSeed>::start(UringConfig { sq_entries: 4, cq_entries: 8, ..UringConfig::new(1) });
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
