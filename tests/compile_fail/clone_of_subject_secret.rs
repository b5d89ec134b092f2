//@ error: E0277
//@ says: SubjectSecret
//@ says: Clone
use vault_core::keyring::SubjectSecret;

fn needs<T: Clone>() {}

fn main() {
    needs::<SubjectSecret>();
}
