//@ error: E0603
//@ says: Opening
//@ says: private
use vault_core::journal::Opening;

fn main() {
    let _: Option<Opening> = None;
}
