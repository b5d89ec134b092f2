//@ error: E0603
//@ says: Filing
//@ says: private
use vault_core::journal::Filing;

fn main() {
    let _: Option<Filing> = None;
}
