//! Disks of the suite's own, and what lies on one, byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every file and directory under `path` with its mode and content.
pub fn all_of(path: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode();
        if entry.file_type().unwrap().is_dir() {
            found.insert(entry.path(), (mode, Vec::new()));
            found.extend(all_of(&entry.path()));
        } else {
            found.insert(entry.path(), (mode, fs::read(entry.path()).unwrap()));
        }
    }
    found
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), there).unwrap();
        }
    }
}

/// Fails, and says what is needed, where this process may not mount disks or become another user.
pub fn as_root() {
    let user = fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(user, 0, "this test mounts a small disk and acts as another user: run the suite as root");
}

/// A small disk of its own, in memory, gone with this value.
pub struct SmallDisk {
    at: tempfile::TempDir,
}

impl SmallDisk {
    /// A disk of so many MiB.
    pub fn of_mib(size: u32) -> Self {
        as_root();
        let at = tempfile::tempdir().unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}m"), "tmpfs"])
            .arg(at.path()));
        Self { at }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// Lets nobody write to it any more.
    pub fn read_only(&self) {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()));
    }

    /// Fills it until about `left` bytes are free. The file given takes that room: deleting it gives it back.
    pub fn fill(&self, left: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        let block = vec![0xA5; 64 << 10];
        while file.write_all(&block).is_ok() {}
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(left)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failing test may still hold files on it, and its own message is the one to be read.
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}
