//! A failed request as a client reads it: whoever answered may be no vault.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tonic::{Code, Status};
use vault_proto::RpcStatus;
use vault_proto::status::Failure;

fuzz_target!(|input: (i32, &str, &[u8])| {
    let (code, message, details) = input;
    let status = Status::with_details(Code::from_i32(code), message, details.to_vec().into());
    read_again(&Failure::from(&status));
    if let Ok(status) = RpcStatus::decode(details) {
        read_again(&Failure::from(&status));
    }
});

/// What was read can be told again, and is read as the same.
fn read_again(failure: &Failure) {
    // Only with a reason is it the vault's own.
    if failure.reason().is_none() {
        return;
    }
    let again = Failure::from(&RpcStatus::from(failure.clone()));
    assert!(again.reason() == failure.reason() && again.code() == failure.code());
    assert_eq!(again.message(), failure.message());
}
