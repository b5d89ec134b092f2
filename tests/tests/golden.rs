//! A vault folder of this format opens, today and in every later release.

use std::fs;
use std::path::Path;

use vault_tests::{ON_DISK, disk, golden};

/// The most bytes that a golden folder may have, since it lies in the repository for good.
const MOST: u64 = 1 << 20;

/// How many generations of what lies on a disk have a folder in `golden`, one per engine: `vVERSION-ENGINE`.
const VERSIONS: u32 = 2;

#[test]
fn a_folder_written_by_the_tool_opens_with_all_that_is_in_it() {
    for engine in ON_DISK {
        let (made, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        golden::write(made.path(), engine);
        as_from_a_repository(made.path(), copied.path());
        golden::check(copied.path());
        let size: u64 = disk::all_of(made.path()).values().map(|(_, content)| content.len() as u64).sum();
        assert!(size <= MOST, "{engine}: {size} bytes");
    }
}

#[test]
fn every_released_folder_opens_with_all_that_is_in_it() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for engine in ON_DISK {
        for version in 1..=VERSIONS {
            let copied = tempfile::tempdir().unwrap();
            as_from_a_repository(&kept.join(format!("v{version}-{engine}")), copied.path());
            golden::check(copied.path());
        }
    }
}

/// A repository keeps files, but neither empty directories nor who may read what.
fn as_from_a_repository(from: &Path, to: &Path) {
    for path in disk::all_of(from).into_keys().filter(|path| path.is_file()) {
        let there = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(there.parent().unwrap()).unwrap();
        fs::write(there, fs::read(path).unwrap()).unwrap();
    }
}
