//! How much disk cards take: files after so many cards, each with its fingerprint, log entry and kept request.

use std::fs;
use std::path::Path;

use clap::Args;
use vault_core::prelude::*;

use crate::durable::{Failed, card, vault};

/// How many cards one batch stores.
const BATCH: u64 = 1_000;

/// The benchmark's arguments.
#[derive(Args)]
pub(crate) struct Size {
    /// redb or sled
    #[arg(long, default_value = "redb")]
    engine: String,
    /// How many cards, rounded up to thousands
    #[arg(long, default_value_t = 20_000)]
    cards: u64,
    /// One JSON document instead of a line
    #[arg(long)]
    json: bool,
}

impl Size {
    /// Stores the cards, and gives the report as text.
    pub(crate) fn run(&self) -> Result<String, Failed> {
        let engine: Engine = self.engine.parse().map_err(|_| "the engine is redb or sled")?;
        let folder = tempfile::tempdir()?;
        let vault = vault(folder.path(), engine)?;
        let importer = PrincipalName::parse("importer")?;
        let batches = self.cards.div_ceil(BATCH);
        for batch in 0..batches {
            let cards = (0..BATCH).map(|n| Ok(NewCard::new(Pan::parse(&card(batch * BATCH + n))?)));
            let cards = cards.collect::<Result<Vec<_>, Failed>>()?;
            let header = Header::new(Purpose::Authorization, Initiator::Cardholder)?;
            for answer in vault.tokenize_batch(Caller::Local(&importer), &header, cards)? {
                answer?;
            }
        }
        vault.close()?;
        drop(vault);
        let (cards, bytes) = (batches * BATCH, on_disk(folder.path())?);
        let each = bytes / cards;
        Ok(if self.json {
            let engine = &self.engine;
            serde_json::to_string(
                &serde_json::json!({ "engine": engine, "cards": cards, "bytes": bytes, "bytes_per_card": each }),
            )? + "\n"
        } else {
            format!("engine {}: {cards} cards take {bytes} bytes on disk, {each} each\n", self.engine)
        })
    }
}

/// Bytes that the disk really holds under a folder.
fn on_disk(folder: &Path) -> Result<u64, Failed> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() {
            on_disk(&entry.path())?
        } else {
            std::os::unix::fs::MetadataExt::blocks(&about) * 512
        };
    }
    Ok(bytes)
}
