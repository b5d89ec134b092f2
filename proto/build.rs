//! Compiles the contract: messages, client and server, and the descriptor set that reflection serves.
//!
//! Needs no `protoc`: protox is a compiler in Rust.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

/// The contract, and the error details that its answers carry, so that reflection can name them.
const FILES: [&str; 5] = [
    "vault/v1/types.proto",
    "vault/v1/vault.proto",
    "vault/v1/admin.proto",
    "vault/v1/custody.proto",
    "third_party/google/rpc/error_details.proto",
];

#[allow(clippy::print_stdout, reason = "standard output is how a build script speaks to cargo")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=vault");
    println!("cargo:rerun-if-changed=third_party");

    let descriptors = protox::compile(FILES, ["third_party", "."])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("vault.v1.binpb"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .btree_map(".vault.v1") // answers of the same meaning have the same bytes
        // lib.rs has ones that show no character of a value; whatever holds one of these uses them.
        .skip_debug(
            [
                "PlainCard",
                "PlainData",
                "NetworkToken",
                "PaymentReference",
                "SecurityCode",
                "EnterShareRequest",
            ]
            .map(|m| format!("vault.v1.{m}")),
        )
        .compile_fds(descriptors)?;
    Ok(())
}
