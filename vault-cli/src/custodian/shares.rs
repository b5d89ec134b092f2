//! Shares as files and at a terminal: made one for each person, read from each person.
//!
//! Refused: a share in an argument or in the environment, a file that others may read, and all shares on one screen.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vault_core::custody::{Custodian, MAX_SHARE_TEXT, Share, Shares, Split, SplitId};
use vault_core::vault::{Standing, Vault};
use zeroize::Zeroizing;

use super::Asked;
use crate::fail::Failure;
use crate::input;
use crate::output::{self, Out};

/// The custodian that shares in files are.
pub(crate) fn from_files(files: &[PathBuf]) -> Result<Box<dyn Custodian>, Failure> {
    let shares: Vec<Share> = files.iter().map(|file| read(Some(file), "")).collect::<Result<_, _>>()?;
    Ok(Box::new(Shares::of(&shares)?))
}

/// As many shares as it takes, each from its holder, who is told at once if it is a wrong one.
pub(crate) fn asked_for(split: &Split, standing: &Standing) -> Result<Box<dyn Custodian>, Failure> {
    let mut shares: Vec<Share> = Vec::new();
    while shares.len() < split.threshold.into() {
        let of = format!("Share {} of {} (not shown): ", shares.len() + 1, split.threshold);
        let share = read(None, &of)?;
        if !split.verifies(&share, &standing.vault) {
            return Err(Failure::refused("this share is none of the split that opens this vault"));
        }
        if shares.iter().any(|other| other.number() == share.number()) {
            output::note("this share was entered already; ask another custodian");
            continue;
        }
        shares.push(share);
    }
    Ok(Box::new(Shares::of(&shares)?))
}

/// A share, from a file that nobody else may read or from a hidden prompt.
pub(crate) fn read(file: Option<&Path>, prompt: &str) -> Result<Share, Failure> {
    let text = match file {
        Some(file) => input::secret_file(file, "share", MAX_SHARE_TEXT)?,
        None => input::hidden_secret(prompt).map_err(|e| e.and("give --share-file"))?,
    };
    Share::parse(&text).map_err(|e| match file {
        Some(file) => Failure::usage(format_args!("{}: {e}", file.display())),
        None => Failure::usage(e),
    })
}

/// A split's name, as shares begin with it, for people.
pub(crate) fn hex(split: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(split)
}

/// `custodian split`.
#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    #[command(flatten)]
    asked: Asked,
    /// Beside what opens the vault now, for the day when that is lost; not in its place
    #[arg(long, conflicts_with = "new_root")]
    beside: bool,
    /// How many shares there are to be, one for each person
    #[arg(long, value_name = "NUMBER")]
    shares: u8,
    /// How many of them open the vault
    #[arg(long, value_name = "NUMBER")]
    threshold: u8,
    /// A new folder for the shares, a file for each; else each is shown alone at this terminal, and asked for again
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Make a new root as well, so that old shares and an old root open nothing that comes
    #[arg(long)]
    new_root: bool,
}

/// Puts new shares in the place of the custodian that opens the vault. They are with their holders before they are in force.
pub(crate) async fn split(asked: SplitArgs, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Done {
        split: String,
        threshold: u8,
        shares: u8,
        files: Vec<PathBuf>,
        beside: bool,
        epoch: u64,
        receipt: serde_json::Value,
    }
    if asked.into.is_none() && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage("give --into with a new folder; there is no terminal to show shares at"));
    }
    let (vault, named, old) = asked.asked.open().await?;
    // A new root is every custodian's: found out before anything is made.
    if asked.new_root && vault.custodians().len() > 1 {
        vault.close().await?;
        return Err(Failure::refused(
            "a new root needs every custodian, and another one protects it too; leave out --new-root, or take the other one away first (vaultctl custodian list, custodian remove)",
        ));
    }
    let mut asked_for: Option<SplitId> = None;
    let made = async {
        let id = vault.standing_of().await?.vault;
        let (new, shares) = Shares::split(&id, asked.threshold, asked.shares)?;
        let files = match &asked.into {
            Some(folder) => write(folder, &shares)?,
            None => show(&shares)?,
        };
        asked_for = new.public().map(|split| split.id);
        let receipt = if asked.beside {
            vault.add_custodian(&named, &new, None).await?
        } else {
            vault.change_custodian(&named, (old.as_ref(), &new), None).await?
        };
        if asked.new_root {
            vault.rotate_root(&named, &[&new, old.as_ref()], None).await?;
        }
        let receipt = serde_json::from_str(&receipt.text()).unwrap_or_default();
        let split = new.public().map(|s| hex(&s.id)).unwrap_or_default();
        let (threshold, shares) = (asked.threshold, asked.shares);
        Ok(Done {
            split,
            threshold,
            shares,
            files,
            beside: asked.beside,
            epoch: vault.status().epoch,
            receipt,
        })
    };
    let made: Result<Done, Failure> = made.await;
    let made = match (made, asked_for) {
        (Ok(made), _) => Ok(made),
        (Err(e), None) => Err(e.and("if shares were written, they open nothing: delete them")),
        (Err(e), Some(split)) => Err(e.and(what_shares_are(&vault, split).await)),
    };
    vault.close().await?;
    let made = made?;
    out.tell(&made, |made| {
        format!(
            "any {} of the {} shares of split {} open the vault since epoch {}{}; give each file to its holder and delete it, copy the \
             esk file to its backup again",
            made.threshold,
            made.shares,
            made.split,
            made.epoch,
            if made.beside {
                ", beside what did before"
            } else {
                ", in the place of what did before: say `shares = true` in the settings"
            }
        )
    })
}

/// What shares are after a change that did not end well: whoever deletes those in force has lost the vault.
async fn what_shares_are(vault: &Vault, split: SplitId) -> &'static str {
    match vault.standing_of().await {
        Ok(Standing { split: Some(held), .. }) if held.id == split => {
            "but the shares ARE in force: keep them, they open the vault; the rest can be done again with them"
        }
        Ok(_) | Err(_) => {
            "keep the shares until `vaultctl custodian check` has said that what opened the vault before still does: then delete them"
        }
    }
}

/// A file for each share, for its owner alone, in a folder that was not there before.
fn write(folder: &Path, shares: &[Share]) -> Result<Vec<PathBuf>, Failure> {
    let told = |path: &Path, e: &io::Error| {
        Failure::usage(format_args!("{}: {e}; name a new folder", path.display()))
    };
    std::fs::DirBuilder::new().mode(0o700).create(folder).map_err(|e| told(folder, &e))?;
    let mut files = Vec::with_capacity(shares.len());
    for share in shares {
        let path = folder.join(format!("share-{}", share.number()));
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_SHARE_TEXT));
        text.extend_from_slice(share.expose_text().as_bytes());
        text.push(b'\n');
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(|e| told(&path, &e))?;
        files.push(path);
    }
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| told(folder, &e))?;
    Ok(files)
}

/// Each share alone on the screen, until its holder has typed it once.
fn show(shares: &[Share]) -> Result<Vec<PathBuf>, Failure> {
    for share in shares {
        let (number, of) = (share.number(), shares.len());
        loop {
            output::ask(&format!("Share {number} of {of}, for its holder alone. Write it down:\n\n  "));
            output::ask(&share.expose_text());
            output::ask("\n\nThen press Enter; the screen is cleared. ");
            input::enter()?;
            // Clears the screen, then what can be scrolled back to.
            output::ask("\x1b[2J\x1b[3J\x1b[H");
            let typed = input::hidden_secret("Type it once, from your paper (not shown): ")?;
            let same = Share::parse(&typed).is_ok_and(|typed| *typed.expose_text() == *share.expose_text());
            if same {
                break;
            }
            output::note("that is not this share; it is shown again");
        }
    }
    Ok(Vec::new())
}

/// `custodian verify-share`.
#[derive(Debug, Args)]
pub(crate) struct VerifyShare {
    /// The folder of the vault, which must be stopped, or of a copy of it
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The file that holds the share; else it is asked for
    #[arg(long, value_name = "FILE")]
    share_file: Option<PathBuf>,
}

/// Tells the holder of a share, and nobody else, whether it is one of those that open a vault.
pub(crate) async fn verify(asked: VerifyShare, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Verified {
        good: bool,
        share: u8,
        threshold: u8,
        split: String,
    }
    let store = vault_core::store::open(&asked.folder, &vault_core::store::Options::default())?;
    let standing = Vault::standing(store.as_ref()).await?;
    let split = standing.split.ok_or_else(|| Failure::refused("this vault's custodian is not shares"))?;
    let share = read(asked.share_file.as_deref(), "Share (not shown): ")?;
    if !split.verifies(&share, &standing.vault) {
        return Err(Failure::refused(format_args!(
            "this share, number {} of split {}, is none of those that open this vault: they are of split {}",
            share.number(),
            hex(&share.split()),
            hex(&split.id)
        )));
    }
    let told =
        Verified { good: true, share: share.number(), threshold: split.threshold, split: hex(&split.id) };
    out.tell(&told, |told| {
        format!("share {} of split {} is good; {} open the vault", told.share, told.split, told.threshold)
    })
}
