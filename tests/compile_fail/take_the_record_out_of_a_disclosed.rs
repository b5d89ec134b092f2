//@ error: E0624
//@ says: into_sealed
//@ says: private
use vault_core::journal::Disclosed;

fn take(proof: Disclosed) {
    let _ = proof.into_sealed();
}

fn main() {
    let _ = take;
}
