//@ error: E0277
//@ says: Dek
//@ says: Debug
use vault_core::envelope::Dek;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<Dek>();
}
