//! `vault.v1.Custody`: sealing the vault, and opening it again. It is there also while the vault is sealed.
//!
//! Then the policy cannot be read, so a certificate of the operators' authority is all that is asked; whoever is no operator of
//! the policy opens nothing all the same: see [`Vault::unseal`](vault_core::vault::Vault::unseal). Nothing of a share is ever
//! logged but its number, and that once the vault is open.

use std::sync::Arc;

use http::Request as HttpRequest;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use vault_core::custody::Share;
use vault_core::error::Error;
use vault_core::time::{Clock, Timestamp};
use vault_core::vault::Entrant;
use vault_core::words::Action;
use vault_proto::v1;

use crate::admin::{certificates, seconds};
use crate::failure::status;
use crate::identity::PeerCertificate;
use crate::metrics::{Door, Metrics};
use crate::strongroom::{Answering, Meanwhile, Seal, Strongroom};
use crate::tls::Tls;
use crate::wire;

/// The one method of `Admin` that is answered while the vault is sealed.
const GET_STATUS: &str = "/vault.v1.Admin/GetStatus";

/// The custodians' plane.
#[derive(Clone)]
pub struct CustodyService {
    room: Arc<Strongroom>,
    clock: Arc<dyn Clock>,
    doors: Vec<(&'static str, Arc<Tls>)>,
    metrics: Arc<Metrics>,
    started_at: Timestamp,
}

impl CustodyService {
    /// Opens and closes the vault of this room; `doors` are the listeners whose certificates the status tells of.
    #[must_use]
    pub fn new(
        room: Arc<Strongroom>,
        clock: Arc<dyn Clock>,
        doors: Vec<(&'static str, Arc<Tls>)>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let started_at = clock.now();
        Self { room, clock, doors, metrics, started_at }
    }

    /// What of `Admin` is answered while the vault is sealed.
    #[must_use]
    pub fn meanwhile(&self) -> Meanwhile {
        let service = self.clone();
        let answer = move |request: HttpRequest<Body>| {
            let status = SealedStatus(service.clone());
            Box::pin(async move { Grpc::new(ProstCodec::default()).unary(status, request).await })
                as Answering
        };
        Meanwhile { path: GET_STATUS, answer: Box::new(answer) }
    }

    async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let seal = self.room.seal_state().await.map_err(|e| status(&e))?;
        let (mut problems, certificates) = certificates(&self.doors);
        problems.push(v1::Problem { reason: "SEALED".to_owned(), message: remedy(&seal) });
        Ok(v1::GetStatusResponse {
            state: v1::ServingState::Sealed.into(),
            problems,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(wire::timestamp(self.started_at)),
            uptime: Some(seconds(self.started_at, self.clock.now())),
            certificates,
            store: Some(v1::StoreStatus {
                engine: self.room.engine().to_owned(),
                format: 1,
                available: true,
            }),
            connections: self.metrics.connections(Door::Data),
            ..v1::GetStatusResponse::default()
        })
    }
}

/// What to do about a sealed vault, for people.
fn remedy(seal: &Seal) -> String {
    match seal.split.filter(|_| seal.custodian == "shares") {
        Some((threshold, shares, _)) => format!(
            "the vault is sealed: {threshold} of {shares} shares open it, {} entered; each custodian enters one with \
             `vaultctl custodian unseal`",
            seal.entered
        ),
        None => "the vault is sealed: `vaultctl custodian unseal` has the server ask its custodian again"
            .to_owned(),
    }
}

struct SealedStatus(CustodyService);

impl UnaryService<v1::GetStatusRequest> for SealedStatus {
    type Response = v1::GetStatusResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<v1::GetStatusRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            entrant(&request)?;
            service.status().await.map(Response::new)
        })
    }
}

impl CustodyService {
    /// Who asks: while the vault is open, an operator of its policy and nobody else.
    async fn known<T>(&self, request: &Request<T>) -> Result<Entrant, Status> {
        let by = entrant(request)?;
        if let Ok(vault) = self.room.vault() {
            let known = vault.operator_at(&by.authority, &by.name, Action::Custody).await;
            known.map_err(|e| status(&e))?;
        }
        Ok(by)
    }
}

fn entrant<T>(request: &Request<T>) -> Result<Entrant, Status> {
    let peer = request.extensions().get::<Arc<PeerCertificate>>();
    let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
    Ok(Entrant { authority: peer.authority_key.0, name: peer.name.as_str().to_owned(), share: None })
}

fn state(seal: &Seal) -> v1::SealState {
    let (threshold, shares, split) =
        seal.split.map_or((0, 0, Vec::new()), |(k, n, id)| (k.into(), n.into(), id.to_vec()));
    v1::SealState {
        sealed: seal.sealed,
        custodian: seal.custodian.to_owned(),
        threshold,
        shares,
        entered: u32::try_from(seal.entered).unwrap_or(u32::MAX),
        split,
        vault: seal.vault.to_vec(),
    }
}

/// Finishes also when the caller goes away meanwhile: a vault is not left half open or half closed.
async fn whole<A: Send + 'static>(
    work: impl Future<Output = Result<A, Error>> + Send + 'static,
) -> Result<A, Status> {
    let done = tokio::spawn(work).await.unwrap_or_else(|_| Err(Error::internal()));
    done.map_err(|e| status(&e))
}

#[tonic::async_trait]
impl v1::custody_server::Custody for CustodyService {
    async fn get_seal(
        &self,
        request: Request<v1::GetSealRequest>,
    ) -> Result<Response<v1::GetSealResponse>, Status> {
        self.known(&request).await?;
        let seal = self.room.seal_state().await.map_err(|e| status(&e))?;
        Ok(Response::new(v1::GetSealResponse { state: Some(state(&seal)) }))
    }

    async fn enter_share(
        &self,
        request: Request<v1::EnterShareRequest>,
    ) -> Result<Response<v1::EnterShareResponse>, Status> {
        let by = self.known(&request).await?;
        let text = request.into_inner().take_share();
        let share = Share::parse(&text).map_err(|e| status(&e))?;
        drop(text);
        let room = self.room.clone();
        let seal = whole(async move { room.enter(share, by).await }).await?;
        Ok(Response::new(v1::EnterShareResponse { state: Some(state(&seal)) }))
    }

    async fn unseal(
        &self,
        request: Request<v1::UnsealRequest>,
    ) -> Result<Response<v1::UnsealResponse>, Status> {
        let (by, room) = (self.known(&request).await?, self.room.clone());
        let seal = whole(async move { room.unseal(by).await }).await?;
        Ok(Response::new(v1::UnsealResponse { state: Some(state(&seal)) }))
    }

    async fn reset_unseal(
        &self,
        request: Request<v1::ResetUnsealRequest>,
    ) -> Result<Response<v1::ResetUnsealResponse>, Status> {
        let by = self.known(&request).await?;
        let seal = self.room.forget(&by).await.map_err(|e| status(&e))?;
        Ok(Response::new(v1::ResetUnsealResponse { state: Some(state(&seal)) }))
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Result<Response<v1::SealResponse>, Status> {
        let (by, room) = (entrant(&request)?, self.room.clone());
        let sealing = async move {
            if let Ok(vault) = room.vault() {
                let operator = vault.operator_at(&by.authority, &by.name, Action::Custody).await?;
                drop(vault);
                return room.seal(&operator).await;
            }
            room.seal_state().await
        };
        let seal = whole(sealing).await?;
        Ok(Response::new(v1::SealResponse { state: Some(state(&seal)) }))
    }

    async fn accept_custody(
        &self,
        request: Request<v1::AcceptCustodyRequest>,
    ) -> Result<Response<v1::AcceptCustodyResponse>, Status> {
        let (by, asked) = (entrant(&request)?, request.into_inner());
        let vault = self.room.vault().map_err(|e| status(&e))?;
        let accepting = async move {
            let operator = vault.operator_at(&by.authority, &by.name, Action::Custody).await?;
            let split = asked.split.as_slice().try_into();
            let split = split.map_err(|_| Error::malformed("split", "must have 4 bytes"))?;
            let share = u8::try_from(asked.share).unwrap_or(u8::MAX);
            vault.accept_custody(&operator, split, share).await
        };
        let receipt = whole(accepting).await?;
        Ok(Response::new(v1::AcceptCustodyResponse { receipt: Some(wire::receipt(&receipt, true)) }))
    }
}
