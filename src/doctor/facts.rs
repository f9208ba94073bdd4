//! What a directory lies on: the file system and the device, as the kernel describes them in text.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FileSystem {
    /// Its kind, such as `ext4`.
    pub kind: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What is mounted, such as `/dev/vda1`.
    pub source: String,
    /// How it is mounted.
    pub options: String,
    /// Bytes free for this user; none if unknown.
    pub free_bytes: Option<u64>,
}

/// A block device, as far as it tells.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Device {
    /// Its name under `/sys/block`.
    pub name: String,
    /// What its maker calls it.
    pub model: Option<String>,
    /// It turns.
    pub rotational: Option<bool>,
    /// `write back`: it has a volatile cache that has to be flushed; `write through`: it says that it has none.
    pub write_cache: Option<String>,
    /// It can write one request past its cache without a flush.
    pub fua: Option<bool>,
    /// Smallest unit that can be addressed, in bytes.
    pub logical_block_bytes: Option<u64>,
    /// Smallest unit that it writes without reading, in bytes.
    pub physical_block_bytes: Option<u64>,
    /// Who orders its requests.
    pub scheduler: Option<String>,
}

/// The file system that `dir` is on.
///
/// # Errors
/// If the directory or the list of mounts cannot be read.
pub(super) fn file_system(dir: &Path) -> io::Result<FileSystem> {
    let device = fs::metadata(dir)?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(find_mount(&mounts, major_minor(device), &fs::canonicalize(dir)?).unwrap_or_default())
}

/// The device below the file system of `dir`; none if it has no device of its own (memory, network, an overlay).
#[must_use]
pub(super) fn device(dir: &Path, sysfs: &Path) -> Option<Device> {
    let (major, minor) = major_minor(fs::metadata(dir).ok()?.dev());
    let place = fs::canonicalize(sysfs.join(format!("dev/block/{major}:{minor}"))).ok()?;
    // A partition's queue is that of the disk it is part of.
    let disk = if place.join("queue").is_dir() { place } else { place.parent()?.to_owned() };
    let text = |name: &str| fs::read_to_string(disk.join(name)).ok().map(|text| text.trim().to_owned());
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    Some(Device {
        name: disk.file_name()?.to_string_lossy().into_owned(),
        model: text("device/model"),
        rotational: number("queue/rotational").map(|n| n != 0),
        write_cache: text("queue/write_cache"),
        fua: number("queue/fua").map(|n| n != 0),
        logical_block_bytes: number("queue/logical_block_size"),
        physical_block_bytes: number("queue/physical_block_size"),
        scheduler: text("queue/scheduler").map(|all| chosen(&all)),
    })
}

/// A limit that holds now, in the text of `/proc/self/limits`; none if there is no such limit.
pub(super) fn limit(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    // "Max open files            1024                 4096                 files": the first one is in force.
    rest.split_whitespace().next()?.parse().ok()
}

/// The one in brackets.
fn chosen(all: &str) -> String {
    let inside = all.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(all, |(chosen, _)| chosen).to_owned()
}

/// The two numbers in a device number, as Linux packs them.
fn major_minor(device: u64) -> (u64, u64) {
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & !0xff;
    (major & 0xffff_ffff, minor & 0xffff_ffff)
}

/// The line of `mountinfo` that `dir` is on: of this device, and mounted nearest above it; the last one if there are two.
fn find_mount(mounts: &str, (major, minor): (u64, u64), dir: &Path) -> Option<FileSystem> {
    let device = format!("{major}:{minor}");
    let mut best: Option<FileSystem> = None;
    for line in mounts.lines() {
        // "36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue": see proc(5).
        let Some((mount, rest)) = line.split_once(" - ") else { continue };
        let (mount, mut rest): (Vec<&str>, _) = (mount.split(' ').collect(), rest.split(' '));
        let (Some(found), Some(point)) = (mount.get(2), mount.get(4)) else { continue };
        let point = PathBuf::from(unescape(point));
        if *found != device || !dir.starts_with(&point) {
            continue;
        }
        if best.as_ref().is_some_and(|best| best.mount.components().count() > point.components().count()) {
            continue;
        }
        let (kind, source) = (rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
        let options = [mount.get(5).copied().unwrap_or_default(), rest.next().unwrap_or_default()].join(",");
        best = Some(FileSystem {
            kind: kind.to_owned(),
            mount: point,
            source: unescape(source),
            options,
            free_bytes: None,
        });
    }
    best
}

/// Without the octal escapes of blanks and the like.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        assert_eq!(major_minor(0xfe00), (254, 0));
        assert_eq!(major_minor(0x0801), (8, 1));
        assert_eq!(major_minor(0x10_3005), (48, 0x105));
        assert_eq!(major_minor(0x1_0000_0000 << 12), (0x1000, 0));
    }

    #[test]
    fn the_nearest_mount_of_the_device_counts() {
        let mounts = "\
            22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
            23 22 0:21 / /proc rw - proc proc rw\n\
            30 22 254:16 / /data rw,noatime - xfs /dev/vdb rw,attr2\n\
            31 30 254:0 /sub /data/with\\040blank rw - ext4 /dev/vda rw\n\
            a line that makes no sense\n";
        let find = |device, dir: &str| find_mount(mounts, device, Path::new(dir));
        let root = find((254, 0), "/home/me").unwrap();
        assert_eq!((root.kind.as_str(), root.source.as_str()), ("ext4", "/dev/vda"));
        assert_eq!(root.options, "rw,relatime,rw,discard");
        assert_eq!(find((254, 16), "/data/log").unwrap().kind, "xfs");
        assert_eq!(find((254, 0), "/data/with blank/x").unwrap().mount, Path::new("/data/with blank"));
        assert_eq!(find((9, 9), "/"), None);
    }

    #[test]
    fn limits() {
        let limits = "\
            Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            1024                 4096                 files     \n\
            Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(1024));
        assert_eq!(limit(limits, "Max locked memory"), None);
        assert_eq!(limit("", "Max open files"), None);
        let here = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(here.contains("Max open files ") && here.contains("Max locked memory "), "{here}");
    }

    #[test]
    fn what_is_chosen() {
        assert_eq!(chosen("none [mq-deadline] kyber"), "mq-deadline");
        assert_eq!(chosen("none"), "none");
    }

    #[test]
    fn a_device_is_read_as_far_as_it_tells() {
        let dir = tempfile::tempdir().unwrap();
        let (major, minor) = major_minor(fs::metadata(dir.path()).unwrap().dev());
        let disk = dir.path().join("devices/disk0");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::create_dir_all(disk.join("disk0p1")).unwrap();
        fs::create_dir_all(dir.path().join("dev/block")).unwrap();
        fs::write(disk.join("queue/write_cache"), "write back\n").unwrap();
        fs::write(disk.join("queue/fua"), "0\n").unwrap();
        let link = dir.path().join(format!("dev/block/{major}:{minor}"));
        std::os::unix::fs::symlink(disk.join("disk0p1"), &link).unwrap();
        let found = device(dir.path(), dir.path()).unwrap();
        let expected = Device {
            name: "disk0".into(),
            write_cache: Some("write back".into()),
            fua: Some(false),
            ..Device::default()
        };
        assert_eq!(found, expected);
        fs::remove_file(link).unwrap();
        assert_eq!(device(dir.path(), dir.path()), None);
    }
}
