//! One command's dealings with the vault: every line sent, alone or in batches, and every answer told in the lines' order.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use vault_client::{Batch, ClientError, Outcome, ask, chunk_request_id, v1};

use super::told::{Numbered, Refused, Told, Why};
use super::{Asked, CHUNK};
use crate::dial::{Dialled, VaultOptions};
use crate::fail::{Exit, Failure, exit_of};
use crate::input::Line;
use crate::output::{self, Out};
use crate::wire::ReceiptText;

/// A verb as this command uses it: alone for one item, in batches for more.
pub(super) trait Verb: Sized {
    type Result;
    fn with_reference(self, reference: String) -> Self;
    async fn one(self, at: &Dialled, header: v1::RequestHeader) -> Result<Self::Result, ClientError>;
    async fn many(
        items: Vec<Self>,
        at: &Dialled,
        header: v1::RequestHeader,
    ) -> Result<Batch<Self::Result>, ClientError>;
}

macro_rules! verbs {
    ($($item:ident -> $result:ident by $one:ident, $many:ident;)+) => {$(
        impl Verb for v1::$item {
            type Result = v1::$result;
            fn with_reference(self, reference: String) -> Self {
                Self { reference, ..self }
            }
            async fn one(self, at: &Dialled, header: v1::RequestHeader) -> Result<Self::Result, ClientError> {
                at.vault.$one(header, self).await
            }
            async fn many(
                items: Vec<Self>,
                at: &Dialled,
                header: v1::RequestHeader,
            ) -> Result<Batch<Self::Result>, ClientError> {
                at.vault.$many(header, items).await
            }
        }
    )+};
}

verbs! {
    TokenizeItem -> TokenizeResult by tokenize, batch_tokenize;
    DetokenizeItem -> DetokenizeResult by detokenize, batch_detokenize;
    InspectItem -> InspectResult by inspect, batch_inspect;
    RevokeItem -> RevokeResult by revoke, batch_revoke;
    ReplaceItem -> ReplaceResult by replace, batch_replace;
    HoldSecurityCodeItem -> HoldSecurityCodeResult by hold_security_code, batch_hold_security_code;
    ReadSecurityCodeItem -> ReadSecurityCodeResult by read_security_code, batch_read_security_code;
    CompleteAuthorizationItem -> CompleteAuthorizationResult by complete_authorization, batch_complete_authorization;
    TranslateItem -> TokenizeResult by translate, batch_translate;
    FingerprintItem -> FingerprintResult by fingerprint, batch_fingerprint;
    DeleteCardItem -> DeleteCardResult by delete_card, batch_delete_card;
    DisableItem -> ChangeResult by disable, batch_disable;
    EnableItem -> ChangeResult by enable, batch_enable;
    UpdateAttributesItem -> ChangeResult by update_attributes, batch_update_attributes;
}

/// One command's dealings with the vault.
pub(super) struct Session {
    pub(super) at: Dialled,
    pub(super) header: v1::RequestHeader,
    pub(super) request_id: Uuid,
    pub(super) receipts: Option<Receipts>,
    pub(super) out: Out,
}

impl Session {
    pub(super) async fn open(
        vault: VaultOptions,
        asked: Asked,
        purpose: v1::Purpose,
        out: Out,
    ) -> Result<Self, Failure> {
        let receipts = asked.receipts.as_deref().map(Receipts::create).transpose()?;
        let at = vault.connect().await?;
        let request_id = asked.request_id.unwrap_or_else(Uuid::new_v4);
        let context = asked
            .customer
            .map(|customer_reference| v1::Context { customer_reference, ..v1::Context::default() });
        let header = v1::RequestHeader {
            request_id: request_id.to_string(),
            context,
            ..ask::header(&at.merchant, &at.channel, purpose, asked.initiator)
        };
        Ok(Self { at, header, request_id, receipts, out })
    }

    /// Sends every line that could be read, and tells each line's answer in the lines' order.
    pub(super) async fn all<I, V: Verb>(
        mut self,
        lines: Vec<Line<I>>,
        item: impl Fn(I) -> V,
        told: impl Fn(V::Result, &[v1::Checkpoint]) -> Told,
    ) -> Result<(), Failure> {
        let mut tally = Tally { lines: lines.len(), ..Tally::default() };
        let limit =
            self.at.vault.capabilities().limits.as_ref().and_then(|l| usize::try_from(l.batch_items).ok());
        let chunk = limit.filter(|n| (1..CHUNK).contains(n)).unwrap_or(CHUNK);
        if let [Line { read: Ok(_), .. }] = lines.as_slice() {
            for Line { read, .. } in lines {
                let Ok(one) = read else { continue };
                let answer = item(one).one(&self.at, self.header.clone()).await;
                let answer = answer.map_err(|e| self.advised(e))?;
                self.tell(None, told(answer, &[]))?;
            }
            return Ok(());
        }
        let mut lines = lines.into_iter().peekable();
        for number in 0.. {
            if lines.peek().is_none() {
                break;
            }
            let mut unread = Vec::new();
            let mut places = Vec::new();
            let mut items = Vec::new();
            for Line { number, read } in lines.by_ref().take(chunk) {
                match read {
                    Ok(one) => {
                        places.push(number);
                        items.push(item(one).with_reference(number.to_string()));
                    }
                    Err(rule) => unread.push((number, rule)),
                }
            }
            let id = chunk_request_id(self.request_id, number);
            let header = v1::RequestHeader { request_id: id.to_string(), ..self.header.clone() };
            let batch = if items.is_empty() {
                Batch { outcomes: Vec::new(), checkpoints: Vec::new() }
            } else {
                let sent = V::many(items, &self.at, header).await;
                sent.map_err(|e| self.advised(e))?
            };
            self.tell_chunk(places, unread, batch, &told, &mut tally)?;
        }
        tally.end(self.request_id)
    }

    fn tell_chunk<T>(
        &mut self,
        places: Vec<u64>,
        unread: Vec<(u64, String)>,
        batch: Batch<T>,
        told: impl Fn(T, &[v1::Checkpoint]) -> Told,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let Batch { outcomes, checkpoints } = batch;
        let mut unread = unread.into_iter().peekable();
        for (place, Outcome { result, .. }) in places.into_iter().zip(outcomes) {
            while let Some((number, rule)) = unread.next_if(|(number, _)| *number < place) {
                self.tell_refusal(number, &rule, None, tally)?;
            }
            match result {
                Ok(answer) => self.tell(Some(place), told(answer, &checkpoints))?,
                Err(error) => {
                    tally.worst = Some(worse(tally.worst, exit_of(&error)));
                    let reason = error.reason().map(vault_client::Reason::as_str);
                    self.tell_refusal(place, &error.to_string(), reason, tally)?;
                }
            }
        }
        unread.try_for_each(|(number, rule)| self.tell_refusal(number, &rule, None, tally))
    }

    pub(super) fn tell(&mut self, line: Option<u64>, told: Told) -> Result<(), Failure> {
        if let (Some(receipts), Some(receipt)) = (&mut self.receipts, &told.receipt) {
            receipts.keep(receipt)?;
        }
        self.out.tell(&Numbered { line, told }, |numbered| numbered.told.words.to_string())
    }

    fn tell_refusal(
        &self,
        line: u64,
        why: &str,
        reason: Option<&'static str>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        tally.refused += 1;
        tally.worst = Some(worse(tally.worst, Exit::Refused));
        if self.out.is_json() {
            let error = Refused { line, error: Why { reason, message: crate::fail::quiet(why) } };
            return self.out.tell(&error, |_| String::new());
        }
        output::note(&format!("line {line}: {why}"));
        Ok(())
    }

    /// What to do where it is not known what became of a request: it is known by its id.
    pub(super) fn advised(&self, error: ClientError) -> Failure {
        let unknown = exit_of(&error) == Exit::Failed;
        let failure = Failure::from(error);
        if unknown {
            failure.and(format_args!("the id is --request-id {}", self.request_id))
        } else {
            failure
        }
    }
}

fn worse(known: Option<Exit>, found: Exit) -> Exit {
    match (known, found) {
        (Some(Exit::Failed), _) | (_, Exit::Failed) => Exit::Failed,
        _ => found,
    }
}

/// What became of all lines.
#[derive(Default)]
struct Tally {
    lines: usize,
    refused: usize,
    worst: Option<Exit>,
}

impl Tally {
    fn end(self, id: Uuid) -> Result<(), Failure> {
        let Self { lines, refused, worst } = self;
        let line = format!("{refused} of {lines} lines were refused; correct them and send them again");
        match worst {
            None => Ok(()),
            Some(Exit::Failed) => Err(Failure::failed(format_args!(
                "{refused} of {lines} lines have no answer; send the whole again with --request-id {id}"
            ))),
            Some(Exit::Refused | Exit::Usage) => Err(Failure::refused(line)),
        }
    }
}

/// A new file of receipts, one per line.
pub(super) struct Receipts {
    file: std::fs::File,
    path: PathBuf,
}

impl Receipts {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file =
            file.map_err(|e| Failure::usage(format_args!("{}: {e}; name a new file", path.display())))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(super) fn keep(&mut self, receipt: &ReceiptText) -> Result<(), Failure> {
        writeln!(self.file, "{}", receipt.text()).map_err(|e| {
            Failure::failed(format_args!("{}: {e}; the receipt is not kept", self.path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_outweighs_a_refusal() {
        let end = |worst| {
            let tally = Tally { lines: 3, refused: 1, worst };
            tally.end(Uuid::nil()).map_err(|failure| failure.exit())
        };
        assert_eq!(end(None), Ok(()));
        assert_eq!(end(Some(worse(None, Exit::Refused))), Err(Exit::Refused));
        assert_eq!(end(Some(worse(Some(Exit::Failed), Exit::Refused))), Err(Exit::Failed));
        assert_eq!(end(Some(worse(Some(Exit::Refused), Exit::Failed))), Err(Exit::Failed));
    }
}
