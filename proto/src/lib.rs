//! The wire contract `vault.v1`: messages, client and server, generated from `vault/v1/*.proto`, and its errors.
//!
//! It refuses to show a card or another value: no `Debug` of any message prints one, and messages that hold one, such as
//! [`PlainCard`](v1::PlainCard), are wiped when they are dropped. It knows nothing of the vault behind it, and checks no field: that is the server's door.

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

#[cfg(test)]
mod contract;
pub mod status;

/// Package `vault.v1`. Released messages keep their fields, numbers and meaning for good; later releases only add.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; what it does not document itself (modules, builders) is tonic's"
)]
pub mod v1 {
    tonic::include_proto!("vault.v1");
}

/// `google.rpc.Status`, as batch and stream items carry it.
pub use tonic_types::pb::Status as RpcStatus;

/// The contract as an encoded `google.protobuf.FileDescriptorSet`, with comments and everything it imports: what
/// server reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vault.v1.binpb"));

impl v1::PlainCard {
    /// A card to send. `pan` is in ASCII, as the contract says; it is not checked here.
    #[must_use]
    pub fn new(pan: Vec<u8>, card_expiry: Option<v1::CardExpiry>) -> Self {
        Self { pan, card_expiry }
    }

    /// Takes the number out, and leaves none behind. A message that wipes itself cannot be taken apart otherwise.
    #[must_use]
    pub fn take_pan(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.pan))
    }
}

/// Says that there is a card, and its date; not one digit of its number, and not how many there are.
impl fmt::Debug for v1::PlainCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainCard").field("card_expiry", &self.card_expiry).finish_non_exhaustive()
    }
}

impl v1::SecurityCode {
    /// A code to send, in ASCII digits; it is not checked here.
    #[must_use]
    pub fn new(digits: Vec<u8>) -> Self {
        Self { digits }
    }

    /// Takes the digits out, and leaves none behind.
    #[must_use]
    pub fn take_digits(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.digits))
    }
}

/// Says that there is a code, and nothing of it.
impl fmt::Debug for v1::SecurityCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityCode").finish_non_exhaustive()
    }
}

impl Drop for v1::SecurityCode {
    fn drop(&mut self) {
        self.digits.zeroize();
    }
}

impl v1::EnterShareRequest {
    /// A share's text to send; it is not checked here.
    #[must_use]
    pub fn new(share: Vec<u8>) -> Self {
        Self { share }
    }

    /// Takes the text out, and leaves none behind.
    #[must_use]
    pub fn take_share(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.share))
    }
}

/// Says that there is a share, and nothing of it.
impl fmt::Debug for v1::EnterShareRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnterShareRequest").finish_non_exhaustive()
    }
}

impl Drop for v1::EnterShareRequest {
    fn drop(&mut self) {
        self.share.zeroize();
    }
}

/// Wipes the number. What a transport copied before is not in reach here: a process that cares has an allocator that
/// clears what it frees.
impl Drop for v1::PlainCard {
    fn drop(&mut self) {
        self.pan.zeroize();
    }
}

impl v1::PlainData {
    /// A value to send. It is not checked here. `routing_number` is of an account of the United States, else empty.
    #[must_use]
    pub fn new(kind: v1::DataKind, value: Vec<u8>, routing_number: &str) -> Self {
        Self { kind: kind.into(), value, routing_number: routing_number.to_owned() }
    }

    /// Takes the value out, and leaves none behind.
    #[must_use]
    pub fn take_value(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.value))
    }
}

/// What stands beside a network token's number, each empty where it is not known.
#[derive(Default)]
pub struct BesideToken {
    /// Who asked for it: 11 digits.
    pub requestor_id: String,
    /// The last four digits of the card behind it.
    pub funding_last_four: String,
    /// 29 digits and capital letters.
    pub payment_account_reference: String,
}

impl v1::NetworkToken {
    /// A network token to send. `number` is in ASCII, as the contract says; nothing is checked here.
    #[must_use]
    pub fn new(number: Vec<u8>, expiry: Option<v1::CardExpiry>, beside: BesideToken) -> Self {
        let BesideToken { requestor_id, funding_last_four, payment_account_reference } = beside;
        Self { number, expiry, requestor_id, funding_last_four, payment_account_reference }
    }

    /// Takes the number out, and leaves none behind.
    #[must_use]
    pub fn take_number(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.number))
    }
}

impl v1::PaymentReference {
    /// A reference to send. It is not checked here.
    #[must_use]
    pub fn new(reference: Vec<u8>, payment_account_reference: &str) -> Self {
        Self { reference, payment_account_reference: payment_account_reference.to_owned() }
    }

    /// Takes the reference out, and leaves none behind.
    #[must_use]
    pub fn take_reference(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.reference))
    }
}

macro_rules! hidden {
    ($($message:ident: $secret:ident),+) => {$(
        /// Says that there is a value; not one character of it, and not how many there are.
        impl fmt::Debug for v1::$message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message)).finish_non_exhaustive()
            }
        }

        /// Wipes the value.
        impl Drop for v1::$message {
            fn drop(&mut self) {
                self.$secret.zeroize();
            }
        }
    )+};
}

hidden! { PlainData: value, NetworkToken: number, PaymentReference: reference }
