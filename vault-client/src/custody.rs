//! `vault.v1.Custody`: sealing a vault, and opening it again. It answers also while the vault is sealed.

use vault_proto::v1::custody_client::CustodyClient as Wire;

use crate::admin::AdminClient;
use crate::error::ClientError;
use crate::v1;

macro_rules! calls {
    ($($(#[$doc:meta])+ $name:ident($request:ident) -> $response:ident;)+) => {
        impl AdminClient {$(
            $(#[$doc])+
            pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, ClientError> {
                let send = |channel, request| async move { Wire::new(channel).$name(request).await };
                self.line.call(self.line.deadline(), &request, send).await
            }
        )+}
    };
}

calls! {
    /// Says whether the vault is sealed, and what it takes to open it.
    get_seal(GetSealRequest) -> GetSealResponse;
    /// Enters one share. Nothing is said of it before there are enough.
    enter_share(EnterShareRequest) -> EnterShareResponse;
    /// Has the server ask the custodian of its settings again.
    unseal(UnsealRequest) -> UnsealResponse;
    /// Forgets the shares that were entered so far.
    reset_unseal(ResetUnsealRequest) -> ResetUnsealResponse;
    /// Closes the vault, and wipes its keys. Allow a minute: see [`within`](AdminClient::within).
    seal(SealRequest) -> SealResponse;
    /// Writes into the log that the caller accepts custody of a share.
    accept_custody(AcceptCustodyRequest) -> AcceptCustodyResponse;
}
