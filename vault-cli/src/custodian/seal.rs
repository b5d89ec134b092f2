//! Sealing a vault that runs, and opening it again: each custodian at a prompt of its own, over the operators' listener.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use vault_client::{AdminClient, v1};
use vault_core::custody::Share;

use super::shares::{hex, read};
use crate::dial::AdminOptions;
use crate::fail::Failure;
use crate::output::Out;
use crate::wire::ReceiptText;

/// How long sealing and unsealing may take: requests under way finish first, and a passphrase is stretched.
const PATIENCE: Duration = Duration::from_mins(1);

/// `custodian unseal`.
#[derive(Debug, Args)]
pub(crate) struct Unseal {
    /// The file that holds your share; else it is asked for, where shares open this vault
    #[arg(long, value_name = "FILE")]
    share_file: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `custodian seal`, `status`, `reset`.
#[derive(Debug, Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    admin: AdminOptions,
}

/// `custodian accept`.
#[derive(Debug, Args)]
pub(crate) struct Accept {
    /// The file that holds your share; else it is asked for. It is looked at here, and not sent
    #[arg(long, value_name = "FILE")]
    share_file: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(Serialize)]
struct State {
    sealed: bool,
    custodian: String,
    threshold: u32,
    shares: u32,
    entered: u32,
    split: String,
    vault: String,
}

impl State {
    fn of(state: Option<v1::SealState>) -> Result<Self, Failure> {
        let state = state.ok_or_else(|| {
            Failure::failed("the answer has no state; is the server older than this program?")
        })?;
        Ok(Self {
            sealed: state.sealed,
            custodian: state.custodian,
            threshold: state.threshold,
            shares: state.shares,
            entered: state.entered,
            split: hex(&state.split),
            vault: hex(&state.vault),
        })
    }

    fn wants_shares(&self) -> bool {
        self.custodian == "shares"
    }

    fn words(&self) -> String {
        match (self.sealed, self.wants_shares()) {
            (false, _) => "the vault is open".to_owned(),
            (true, false) => format!("the vault is sealed; its custodian is of kind {}", self.custodian),
            (true, true) => format!(
                "the vault is sealed: {} entered, {} of {} shares of split {} open it",
                self.entered, self.threshold, self.shares, self.split
            ),
        }
    }
}

async fn state(vault: &AdminClient) -> Result<State, Failure> {
    State::of(vault.get_seal(v1::GetSealRequest {}).await?.state)
}

/// A share from its holder, who alone is told here that it is of another split or vault.
fn own_share(file: Option<&std::path::Path>, state: &State) -> Result<Share, Failure> {
    let share = read(file, "Your share (not shown): ")?;
    let id: Option<[u8; 16]> =
        data_encoding::HEXLOWER.decode(state.vault.as_bytes()).ok().and_then(|id| id.try_into().ok());
    if !id.is_some_and(|id| share.is_for(&id)) {
        return Err(Failure::refused("your share is of another vault; it was not sent"));
    }
    if hex(&share.split()) != state.split {
        return Err(Failure::refused(format_args!(
            "your share is of split {}, and the vault's are of split {}; it was not sent",
            hex(&share.split()),
            state.split
        )));
    }
    Ok(share)
}

/// Enters a share, or has the server ask its custodian again.
pub(crate) async fn unseal(asked: Unseal, out: Out) -> Result<(), Failure> {
    let vault = asked.admin.connect().await?.within(PATIENCE);
    let before = state(&vault).await?;
    let after = if !before.sealed {
        before
    } else if before.wants_shares() || asked.share_file.is_some() {
        let share = own_share(asked.share_file.as_deref(), &before)?;
        let text = share.expose_text().as_bytes().to_vec();
        let sent = vault.enter_share(v1::EnterShareRequest::new(text)).await;
        State::of(sent.map_err(Failure::from)?.state)?
    } else {
        State::of(vault.unseal(v1::UnsealRequest {}).await?.state)?
    };
    out.tell(&after, State::words)
}

/// Seals the vault.
pub(crate) async fn seal(asked: Plain, out: Out) -> Result<(), Failure> {
    let vault = asked.admin.connect().await?.within(PATIENCE);
    out.tell(&State::of(vault.seal(v1::SealRequest {}).await?.state)?, State::words)
}

/// Says how it stands.
pub(crate) async fn status(asked: Plain, out: Out) -> Result<(), Failure> {
    let vault = asked.admin.connect().await?;
    out.tell(&state(&vault).await?, State::words)
}

/// Forgets the shares that were entered.
pub(crate) async fn reset(asked: Plain, out: Out) -> Result<(), Failure> {
    let vault = asked.admin.connect().await?;
    out.tell(&State::of(vault.reset_unseal(v1::ResetUnsealRequest {}).await?.state)?, State::words)
}

/// Has the log say that the caller accepts custody of a share.
pub(crate) async fn accept(asked: Accept, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Accepted {
        split: String,
        share: u8,
        receipt: Option<ReceiptText>,
    }
    let vault = asked.admin.connect().await?;
    let share = own_share(asked.share_file.as_deref(), &state(&vault).await?)?;
    let (split, number) = (share.split(), share.number());
    let request = v1::AcceptCustodyRequest { split: split.to_vec(), share: number.into() };
    let answer = vault.accept_custody(request).await?;
    let receipt = answer.receipt.as_ref().and_then(|r| ReceiptText::of(r, &[]));
    out.tell(&Accepted { split: hex(&split), share: number, receipt }, |told| {
        format!("the log says that you accept custody of share {} of split {}", told.share, told.split)
    })
}
