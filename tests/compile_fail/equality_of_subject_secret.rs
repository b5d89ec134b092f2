//@ error: E0277
//@ says: SubjectSecret
use vault_core::keyring::SubjectSecret;

fn needs<T: PartialEq>() {}

fn main() {
    needs::<SubjectSecret>();
}
