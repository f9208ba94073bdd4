//! Files, durable writes and jobs.

use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::{AlignedBuf, BLOCK_ALIGN, Completion, Io, Job, JobOutput, LockError, Token, WorldConfig};

in_every_world! {
    writes_are_durable_and_read_back,
    a_failed_write_is_told,
    a_busy_ring_can_be_dropped,
    removed_files_are_closed,
    small_files_are_replaced,
    jobs_run_in_order,
    a_directory_is_locked_once,
    a_directory_is_locked_until_its_last_write,
}

fn writes_are_durable_and_read_back<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig::new(1));
    let path = dir.path().join("deep/er/segment");
    let file = a.io.create_zeroed(&path, 3 << 20).expect("created");
    assert_eq!(a.io.create_zeroed(&path, 4096).expect_err("taken").kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::metadata(&path).expect("still there").len(), 3 << 20);
    assert!(a.io.read(file, 0, 3 << 20).expect("read").iter().all(|byte| *byte == 0));
    let mut buf = AlignedBuf::zeroed(2 << 20);
    buf.copy_from_slice(&pattern(0, 2 << 20));
    let buf = a.write(file, 8192, buf);
    assert_eq!(buf.len(), 2 << 20);
    let back = a.io.read(file, 8192, 2 << 20).expect("read");
    assert!(*back == *buf);
    assert!(a.io.read(file, 3 << 20, BLOCK_ALIGN).is_err(), "beyond the end");
    let map = a.io.map(file).expect("mapped");
    assert!(map.len() == 3 << 20 && map[8192..][..2 << 20] == *buf && map[..8192].iter().all(|byte| *byte == 0));
    let part = map.slice(8192..8200);
    drop(map);
    assert_eq!(part, buf[..8]);

    let again = a.io.open(&path).expect("opened");
    assert!(*a.io.read(again, 8192, 4096).expect("read") == buf[..4096]);
    assert!(a.io.open(&dir.path().join("none")).is_err());
    let listed = a.io.list(path.parent().expect("a directory")).expect("listed");
    assert_eq!((listed.len(), &listed[0].path, listed[0].size), (1, &path, 3 << 20));
    assert!(a.io.list(&dir.path().join("none")).expect("no directory").is_empty());

    // Many at a time, more than one submit holds.
    for n in 0..400 {
        let mut buf = AlignedBuf::zeroed(4096);
        buf.fill(u8::try_from(n % 251).expect("small"));
        a.io.write(file, n * 4096, buf, Token(n));
    }
    a.wait_for_disk(400);
    let back = a.io.read(file, 0, 400 * 4096).expect("read");
    assert!(back.chunks(4096).zip(0..).all(|(block, n)| block.iter().all(|byte| usize::from(*byte) == n % 251)));
}

fn a_failed_write_is_told<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig::new(1));
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    // No file is that long.
    a.io.write(file, 1 << 62, AlignedBuf::zeroed(8192), Token(7));
    let (token, len, result) = wait(|| {
        a.turn();
        a.take(
            |c| matches!(c, Completion::Written { .. }),
            |c| match c {
                Completion::Written { token, buf, result, .. } => (token, buf.len(), result),
                _ => unreachable!(),
            },
        )
    });
    assert_eq!((token, len, result.expect_err("too far").kind()), (Token(7), 8192, ErrorKind::FileTooLarge));
}

fn a_busy_ring_can_be_dropped<S: TestSeed>() {
    let dir = directory();
    let (mut a, mut b, x, y) = pair::<S>(config());
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    let big = Bytes::from(vec![7; 64 << 20]);
    a.io.receive(x);
    a.io.send(x, vec![big.clone()]);
    a.turn();
    for n in 0..256 {
        a.io.write(file, n * 4096, AlignedBuf::zeroed(4096), Token(n));
    }
    a.io.job(Job::Load { path: dir.path().join("none") }, Token(1));
    let start = Instant::now();
    drop(a.io);
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    assert!(big.is_unique(), "the buffers were dropped");
    b.receive_to_the_end(y);
}

fn removed_files_are_closed<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig::new(1));
    let path = dir.path().join("segment");
    let open = || {
        let fds = std::fs::read_dir("/proc/self/fd").expect("listed");
        let links = fds.filter_map(|fd| std::fs::read_link(fd.expect("listed").path()).ok());
        links.filter(|link| link.starts_with(dir.path())).count()
    };
    let file = a.io.create_zeroed(&path, 1 << 20).expect("created");
    let other = a.io.create_zeroed(&dir.path().join("other"), 4096).expect("created");
    let again = a.io.open(&path).expect("opened");
    assert_eq!(open(), 3);
    let map = a.io.map(file).expect("mapped");
    a.io.write(file, 0, AlignedBuf::zeroed(1 << 20), Token(0));
    a.io.job(Job::Remove { path: path.clone() }, Token(1));
    a.wait_for_disk(2);
    assert_eq!(open(), 1);
    assert_eq!(a.io.read(again, 0, 4096).expect_err("gone").kind(), ErrorKind::NotFound);
    assert!(a.io.map(file).is_err());
    a.io.write(again, 0, AlignedBuf::zeroed(4096), Token(2));
    a.io.turn(None, &mut a.got).expect("a turn");
    assert!(matches!(&a.got[..], [Completion::Written { result: Err(_), .. }]), "{:?}", a.got);
    a.got.clear();
    assert_eq!(map[..4096], [0; 4096], "mappings live on");
    a.write(other, 0, AlignedBuf::zeroed(4096));
}

fn small_files_are_replaced<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig::new(1));
    let path = dir.path().join("sub/meta");
    for content in [&b"one"[..], b"", b"three"] {
        a.io.write_file(&path, content).expect("written");
        assert_eq!(a.io.read_file(&path).expect("read"), content);
    }
    assert_eq!(a.io.list(path.parent().expect("a directory")).expect("listed").len(), 1);
    let empty = a.io.open(&path).expect("opened");
    a.io.write_file(&path, b"").expect("written");
    assert_eq!(a.io.map(empty).expect("mapped"), b"three"[..], "the old file lives on while it is open");
}

fn jobs_run_in_order<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig::new(1));
    let (aside, path) = (dir.path().join("x/aside"), dir.path().join("y/whole"));
    let write = |offset, bytes: &'static [u8]| Job::WriteAside {
        path: aside.clone(),
        offset,
        bytes: Bytes::from_static(bytes),
    };
    a.io.job(write(0, b"old and long"), Token(1));
    a.io.job(write(0, b"new "), Token(2));
    a.io.job(write(4, b"text"), Token(3));
    a.io.job(Job::Commit { from: aside.clone(), to: path.clone() }, Token(4));
    let tokens: Vec<Token> = (0..4)
        .map(|_| {
            wait(|| {
                a.turn();
                a.take(
                    |_| true,
                    |c| match c {
                        Completion::JobDone { token, result: Ok(JobOutput::Done) } => token,
                        other => panic!("{other:?}"),
                    },
                )
            })
        })
        .collect();
    assert_eq!(tokens, [Token(1), Token(2), Token(3), Token(4)]);
    assert!(!aside.exists());
    match a.job(Job::Load { path: path.clone() }).expect("loaded") {
        JobOutput::Loaded(bytes) => assert_eq!(bytes, b"new text"[..]),
        other => panic!("{other:?}"),
    }
    let file = match a.job(Job::CreateZeroed { path: dir.path().join("z/zeros"), size: 1 << 20 }).expect("created") {
        JobOutput::Opened(file) => file,
        other => panic!("{other:?}"),
    };
    a.write(file, 0, AlignedBuf::zeroed(8192));
    a.job(Job::DropCache { file }).expect("dropped");
    for _ in 0..2 {
        a.job(Job::Remove { path: path.clone() }).expect("removed");
    }
    assert!(!path.exists());
    assert_eq!(a.job(Job::Load { path }).expect_err("gone").kind(), ErrorKind::NotFound);
}

fn a_directory_is_locked_once<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig::new(1));
    let mut b = Node::<S>::start(WorldConfig::new(1));
    let path = dir.path().join("new/data");
    a.io.lock_dir(&path).expect("locked");
    b.io.lock_dir(&dir.path().join("other")).expect("locked");
    match b.io.lock_dir(&path) {
        Err(LockError::Held { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(a);
    b.io.lock_dir(&path).expect("free again");
}

fn a_directory_is_locked_until_its_last_write<S: TestSeed>() {
    let dir = directory();
    let path = dir.path().join("data");
    let segment = path.join("segment");
    let mut other = Node::<S>::start(WorldConfig::new(1));
    let (sender, busy) = mpsc::channel();
    let thread = {
        let (path, segment) = (path.clone(), segment.clone());
        std::thread::spawn(move || {
            let mut a = Node::<S>::start(WorldConfig::new(1));
            a.io.lock_dir(&path).expect("locked");
            let file = a.io.create_zeroed(&segment, 32 << 20).expect("created");
            for n in 0..32 {
                let mut buf = AlignedBuf::zeroed(1 << 20);
                buf.fill(1);
                a.io.write(file, n << 20, buf, Token(n));
            }
            let now = a.io.now();
            a.io.turn(Some(now), &mut a.got).expect("a turn");
            sender.send(()).expect("somebody waits");
            // Dropped while it writes.
        })
    };
    // What is written last.
    let end = || {
        let mut end = [0; 4096];
        std::fs::File::open(&segment).and_then(|file| file.read_exact_at(&mut end, (32 << 20) - 4096)).expect("read");
        end
    };
    busy.recv().expect("it writes");
    wait(|| other.io.lock_dir(&path).ok());
    let at_lock = end();
    thread.join().expect("dropped");
    assert!(at_lock == end(), "written to after the lock was free");
}
