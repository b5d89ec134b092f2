//! Random bytes from the operating system, without a system call per request.
//!
//! A buffer per process is filled by `getrandom`, handed out once, and wiped as it is used. A forked child sees another
//! process id and draws anew, so that parent and child never share a nonce.

use std::sync::Mutex;

use zeroize::{Zeroize, Zeroizing};

/// One system call serves about forty requests; more would keep unused random bytes lying about for longer.
const BUFFER: usize = 4_096;

/// The operating system gave no random bytes. Nothing secret may be made without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

struct Pool {
    bytes: Box<[u8; BUFFER]>,
    left: usize,
    process: u32,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// Fills `out` with random bytes that nobody else was or will be given.
pub fn fill(out: &mut [u8]) -> Result<(), NoRandomness> {
    if out.len() > BUFFER {
        return getrandom::fill(out).map_err(|_| NoRandomness);
    }
    let mut guard = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let process = std::process::id();
    let pool = guard.get_or_insert_with(|| Pool { bytes: Box::new([0; BUFFER]), left: 0, process });
    if pool.process != process || pool.left < out.len() {
        getrandom::fill(pool.bytes.as_mut_slice()).map_err(|_| NoRandomness)?;
        pool.left = BUFFER;
        pool.process = process;
    }
    let start = pool.left - out.len();
    let given = pool.bytes.get_mut(start..pool.left).ok_or(NoRandomness)?;
    out.copy_from_slice(given);
    given.zeroize();
    pool.left = start;
    Ok(())
}

/// `N` random bytes that are not secret: nonces, identifiers.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut out = [0; N];
    fill(&mut out)?;
    Ok(out)
}

/// A number from 0 to `bound - 1`, each as likely as the others. A `bound` of zero gives zero.
pub fn below(bound: u64) -> Result<u64, NoRandomness> {
    if bound < 2 {
        return Ok(0);
    }
    // Rejection keeps it uniform: the top, incomplete run of `bound` values is drawn again.
    let limit = u64::MAX - (u64::MAX % bound);
    let mut draw = Zeroizing::new([0; 8]);
    loop {
        fill(draw.as_mut_slice())?;
        let value = u64::from_be_bytes(*draw);
        if value < limit {
            return Ok(value % bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        let drawn: std::collections::HashSet<[u8; 16]> = (0..10_000).map(|_| bytes().unwrap()).collect();
        assert_eq!(drawn.len(), 10_000);
    }

    #[test]
    fn a_bounded_draw_reaches_every_value_and_no_other() {
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[usize::try_from(below(7).unwrap()).unwrap()] += 1;
        }
        // Each is expected 1,000 times; 800 is more than six standard deviations below.
        assert!(seen.iter().all(|&n| n > 800), "{seen:?}");
        assert_eq!(below(0), Ok(0));
        assert_eq!(below(1), Ok(0));
    }

    #[test]
    fn a_large_request_is_served_past_the_buffer() {
        let mut large = vec![0; BUFFER + 1];
        fill(&mut large).unwrap();
        assert!(large.iter().any(|&b| b != 0));
    }
}
