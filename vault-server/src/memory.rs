//! What a card number leaves behind in memory, and how little of it.
//!
//! Freed heap blocks are wiped, the stacks of worker threads are wiped when they go idle, and the kernel writes no core
//! image. This covers the copies that other crates make (HTTP/2 frames, TLS records, protobuf buffers), which no type of
//! ours can reach. It is the second line: our own secrets wipe themselves when they are dropped.
//!
//! Memory is *not* locked (`mlockall`): with future pages locked every thread stack, every growing cache and every
//! mapping of the store fails hard at the process's lock limit, which turns load into an outage. Run with encrypted swap
//! or none (systemd: `MemorySwapMax=0`); docs/operations.md says how.

use std::io;

/// Whether this build wipes. The canary test builds one that does not, where planted card numbers must be found.
pub const WIPES: bool = cfg!(not(feature = "no-wipe"));

/// The allocator of every program that holds cards. In its `main.rs`:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: vault_server::memory::Allocator = vault_server::memory::ALLOCATOR;
/// # fn main() {}
/// ```
///
/// It wipes a block before it is freed, and never grows one in place: `realloc` is the trait's own, which allocates,
/// copies and frees (so wipes) the old block. The C library's would leave the old bytes behind.
#[cfg(not(feature = "no-wipe"))]
pub type Allocator = zeroizing_alloc::ZeroAlloc<std::alloc::System>;
/// The system's allocator: this build does not wipe, see [`WIPES`].
#[cfg(feature = "no-wipe")]
pub type Allocator = std::alloc::System;

/// The value for `#[global_allocator]`.
#[cfg(not(feature = "no-wipe"))]
pub const ALLOCATOR: Allocator = zeroizing_alloc::ZeroAlloc(std::alloc::System);
/// The value for `#[global_allocator]`.
#[cfg(feature = "no-wipe")]
pub const ALLOCATOR: Allocator = std::alloc::System;

/// Bytes of stack that are wiped. Handshakes and health checks together were measured to reach 164 KiB deep in an
/// unoptimised build, which is deeper than a release's; wiping this much took 3 microseconds.
const STACK: usize = 256 * 1_024;

/// Wipes what returned functions left on this thread's stack, to 256 KiB below the caller. For a thread that goes idle.
pub fn scrub_stack() {
    if WIPES {
        zeroize::zeroize_stack::<STACK>();
    }
}

/// A runtime whose worker threads wipe their stacks before they go idle and before they end.
///
/// Threads for blocking work are not told when they go idle: work there that sees a card calls [`scrub_stack`] itself.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(scrub_stack)
        .on_thread_stop(scrub_stack)
        .build()
}

/// Forbids core images: none on a crash, and no other user's debugger on the living process (root's still works, so an
/// operator can inspect it; SECURITY.md counts root as owner of the machine). For the first line of `main`.
pub fn forbid_core_images() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the number of files that the process may hold open to `needed`, as far as the machine allows, and returns the
/// number it is now. Each connection is a file.
pub fn raise_open_files(needed: u64) -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let now = getrlimit(Resource::Nofile);
    let current = now.current.unwrap_or(u64::MAX);
    if current >= needed {
        return Ok(current);
    }
    let reachable = needed.min(now.maximum.unwrap_or(u64::MAX));
    setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: now.maximum })?;
    Ok(reachable)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[global_allocator]
    static TESTED: Allocator = ALLOCATOR;

    /// Reads this process's memory as a debugger would: also where nothing of ours points any more. Its own buffer is
    /// there beforehand, lest it take the very block that is looked at.
    struct Debugger {
        memory: File,
        buffer: Vec<u8>,
    }

    impl Debugger {
        fn new() -> Self {
            Self { memory: File::open("/proc/self/mem").unwrap(), buffer: vec![0; 8_192] }
        }

        /// How many of the bytes from `address` on are this mark.
        fn count(&mut self, mark: u8, address: usize, length: usize) -> usize {
            let bytes = &mut self.buffer[..length];
            self.memory.read_exact_at(bytes, address as u64).unwrap();
            bytes.iter().map(|&b| usize::from(b == mark)).sum()
        }
    }

    #[test]
    fn a_freed_block_is_wiped_and_in_a_build_without_wiping_it_is_not() {
        const SIZE: usize = 4_000;
        let mut debugger = Debugger::new();
        let block = vec![0xA7_u8; SIZE];
        let address = block.as_ptr() as usize;
        assert_eq!(debugger.count(0xA7, address, SIZE), SIZE);
        drop(block);
        let left = debugger.count(0xA7, address, SIZE);
        // The C library keeps its lists in the first bytes of a free block.
        assert!(if WIPES { left == 0 } else { left > SIZE / 2 }, "{left}");
    }

    #[test]
    fn a_block_that_grows_leaves_nothing_where_it_was() {
        const SIZE: usize = 3_000;
        let mut debugger = Debugger::new();
        let mut block = vec![0xB9_u8; SIZE];
        let before = block.as_ptr() as usize;
        // Right behind it, so that it could not grow in place anyway, and the old bytes would stay.
        let _behind = vec![0_u8; SIZE];
        block.reserve_exact(60_000);
        assert_ne!(before, block.as_ptr() as usize);
        let left = debugger.count(0xB9, before, SIZE);
        assert!(if WIPES { left == 0 } else { left > SIZE / 2 }, "{left}");
    }

    #[inline(never)]
    fn leave_marks(depth: usize) -> usize {
        let marks = std::hint::black_box([0xC3_u8; 1_024]);
        if depth == 0 {
            marks.as_ptr() as usize
        } else {
            leave_marks(depth - 1) + usize::from(marks[1_023] == 0)
        }
    }

    #[test]
    fn a_scrubbed_stack_holds_nothing_of_what_ran_on_it() {
        let mut debugger = Debugger::new();
        let deepest = leave_marks(40);
        let before = debugger.count(0xC3, deepest, 1_024);
        scrub_stack();
        let after = debugger.count(0xC3, deepest, 1_024);
        assert!(before > 900, "the marks were there: {before}");
        assert!(if WIPES { after == 0 } else { after > 900 }, "{after}");
    }

    #[test]
    fn the_runtime_scrubs_its_workers() {
        let runtime = runtime().unwrap();
        let mut debugger = Debugger::new();
        let deepest = runtime.block_on(async { tokio::spawn(async { leave_marks(40) }).await.unwrap() });
        let wiped = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            debugger.count(0xC3, deepest, 1_024) == 0
        });
        assert_eq!(wiped, WIPES);
    }

    #[test]
    fn core_images_are_forbidden() {
        use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

        // In a process of its own: it cannot be undone, and would keep the tests above from reading their memory.
        const CHILD: &str = "VAULT_TEST_CORE_IMAGES";
        if std::env::var_os(CHILD).is_some() {
            forbid_core_images().unwrap();
            let limit = getrlimit(Resource::Core);
            assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::tests::core_images_are_forbidden"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(
            child.status.success() && String::from_utf8_lossy(&child.stdout).contains("1 passed"),
            "{child:?}"
        );
    }

    #[test]
    fn open_files_are_raised_to_what_is_asked_or_to_what_the_machine_allows() {
        let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let most = now.maximum.unwrap_or(u64::MAX).min(1 << 20);
        assert!(raise_open_files(10).unwrap() >= 10);
        assert_eq!(raise_open_files(most).unwrap(), most.max(now.current.unwrap_or(0)));
    }
}
