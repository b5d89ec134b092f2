//@ error: E0277
//@ says: SubjectSecret
//@ says: Display
use vault_core::keyring::SubjectSecret;

fn needs<T: std::fmt::Display>() {}

fn main() {
    needs::<SubjectSecret>();
}
