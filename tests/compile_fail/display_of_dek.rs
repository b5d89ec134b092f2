//@ error: E0277
//@ says: Dek
//@ says: Display
use vault_core::envelope::Dek;

fn needs<T: std::fmt::Display>() {}

fn main() {
    needs::<Dek>();
}
