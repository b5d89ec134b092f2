//! What one FF1 encryption costs, beside ten AES-256 blocks that wait for each other, which nobody can do without, and
//! beside the `fpe` crate on the same work.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aes::Aes256;
use aes::cipher::consts::U16;
use aes::cipher::{
    Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit,
};
use clap::Args;
use fpe::ff1::{FF1, FlexibleNumeralString};
use serde::Serialize;
use vault_core::ff1::{Decimal, Work};

use crate::durable::{Failed, now};

/// Digits of one work item: a card number's length.
const DIGITS: usize = 16;
/// Bytes of its tweak: the vault's own.
const TWEAK: [u8; 11] = [7; 11];
/// Items of one batch.
const BATCH: usize = 1_000;
/// Each contestant in turn, so often; the medians count. A turn is far shorter than a time slice, so that on a busy
/// machine most turns of each are not interrupted.
const TURNS: usize = 301;
const KEY: [u8; 32] = [0x2b; 32];

/// The benchmark's arguments.
#[derive(Args)]
pub(crate) struct Ff1 {
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    nanoseconds: f64,
    over_ten_aes_blocks: f64,
    times_faster_than_fpe: f64,
}

#[derive(Serialize)]
struct Report {
    digits: usize,
    tweak_bytes: usize,
    turns: usize,
    rows: Vec<Row>,
}

/// What is measured: so many items at a time, and the work.
struct Contestant {
    name: &'static str,
    items: usize,
    work: Box<dyn FnMut() -> Result<(), Failed>>,
    nanoseconds: Vec<f64>,
}

impl Ff1 {
    /// Measures, and gives the report as text.
    pub(crate) fn run(&self) -> Result<String, Failed> {
        let mut contestants = [floor(), single()?, batch()?, rival()?];
        agree()?;
        for contestant in &mut contestants {
            (contestant.work)()?; // the first turn warms caches up, and does not count
        }
        for _ in 0..TURNS {
            for contestant in &mut contestants {
                let began: Instant = now();
                (contestant.work)()?;
                let items = u32::try_from(contestant.items)?;
                contestant.nanoseconds.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(items));
            }
        }
        let medians = contestants.map(|c| (c.name, median(c.nanoseconds)));
        let [(_, floor), .., (_, rival)] = medians;
        let row = |(name, nanoseconds)| Row {
            name,
            nanoseconds,
            over_ten_aes_blocks: nanoseconds / floor,
            times_faster_than_fpe: rival / nanoseconds,
        };
        let rows = medians.into_iter().map(row).collect();
        let report = Report { digits: DIGITS, tweak_bytes: TWEAK.len(), turns: TURNS, rows };
        if self.json { Ok(serde_json::to_string_pretty(&report)? + "\n") } else { Ok(table(&report)) }
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Ten blocks, each the next one's input, with the processor's features chosen once for all ten.
struct TenBlocks<'a>(&'a mut Array<u8, U16>);

impl BlockSizeUser for TenBlocks<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for TenBlocks<'_> {
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        for _ in 0..10 {
            backend.encrypt_block(self.0.into());
        }
    }
}

fn floor() -> Contestant {
    const ITEMS: usize = 2_000;
    let cipher = Aes256::new(&KEY.into());
    let mut block = Array::default();
    let work = move || {
        for _ in 0..ITEMS {
            cipher.encrypt_with_backend(TenBlocks(&mut block));
        }
        black_box(&block);
        Ok(())
    };
    Contestant {
        name: "ten dependent AES-256 blocks",
        items: ITEMS,
        work: Box::new(work),
        nanoseconds: Vec::new(),
    }
}

fn ours() -> Result<Decimal, Failed> {
    Ok(Decimal::new(Arc::new(Aes256::new(&KEY.into())), DIGITS, TWEAK.len())?)
}

/// Each result is the next one's input, so that nothing overlaps: what a single caller waits for.
fn single() -> Result<Contestant, Failed> {
    const ITEMS: usize = 2_000;
    let ff1 = ours()?;
    let mut digits = [4; DIGITS];
    let work = move || {
        for _ in 0..ITEMS {
            ff1.encrypt(black_box(&TWEAK), &mut digits)?;
        }
        black_box(&digits);
        Ok(())
    };
    Ok(Contestant {
        name: "vault, one at a time",
        items: ITEMS,
        work: Box::new(work),
        nanoseconds: Vec::new(),
    })
}

fn batch() -> Result<Contestant, Failed> {
    const ROUNDS: usize = 4;
    let ff1 = ours()?;
    let mut numbers = vec![[4; DIGITS]; BATCH];
    let work = move || {
        for _ in 0..ROUNDS {
            let mut work: Vec<Work<'_>> =
                numbers.iter_mut().map(|digits| Work { tweak: black_box(&TWEAK), digits }).collect();
            ff1.encrypt_batch(&mut work)?;
        }
        black_box(&numbers);
        Ok(())
    };
    let items = ROUNDS * BATCH;
    Ok(Contestant { name: "vault, a batch of 1,000", items, work: Box::new(work), nanoseconds: Vec::new() })
}

fn rival() -> Result<Contestant, Failed> {
    const ITEMS: usize = 200;
    let ff1 = FF1::<Aes256>::new(&KEY, 10).map_err(|e| e.to_string())?;
    let mut digits = FlexibleNumeralString::from(vec![4; DIGITS]);
    let work = move || {
        for _ in 0..ITEMS {
            digits = ff1.encrypt(black_box(&TWEAK), &digits).map_err(|e| e.to_string())?;
        }
        black_box(&digits);
        Ok(())
    };
    Ok(Contestant { name: "fpe crate", items: ITEMS, work: Box::new(work), nanoseconds: Vec::new() })
}

/// Both must do the same work, or there is nothing to compare.
fn agree() -> Result<(), Failed> {
    let mut one = [4; DIGITS];
    ours()?.encrypt(&TWEAK, &mut one)?;
    let rival = FF1::<Aes256>::new(&KEY, 10).map_err(|e| e.to_string())?;
    let other =
        rival.encrypt(&TWEAK, &FlexibleNumeralString::from(vec![4; DIGITS])).map_err(|e| e.to_string())?;
    if Vec::<u16>::from(other).into_iter().eq(one.into_iter().map(u16::from)) {
        Ok(())
    } else {
        Err("the two implementations give different results".into())
    }
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _infallible = writeln!(
        text,
        "FF1, {} digits, {} bytes of tweak; medians of {} interleaved turns\n\n{:<30}{:>16}{:>16}{:>14}",
        report.digits, report.tweak_bytes, report.turns, "", "over the floor", "faster than fpe", "ns each"
    );
    for row in &report.rows {
        let _infallible = writeln!(
            text,
            "{:<30}{:>15.2}x{:>15.1}x{:>14.1}",
            row.name, row.over_ten_aes_blocks, row.times_faster_than_fpe, row.nanoseconds
        );
    }
    text
}
