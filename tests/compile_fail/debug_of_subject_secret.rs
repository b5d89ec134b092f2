//@ error: E0277
//@ says: SubjectSecret
//@ says: Debug
use vault_core::keyring::SubjectSecret;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<SubjectSecret>();
}
