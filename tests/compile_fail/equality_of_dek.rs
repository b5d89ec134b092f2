//@ error: E0277
//@ says: Dek
use vault_core::envelope::Dek;

fn needs<T: PartialEq>() {}

fn main() {
    needs::<Dek>();
}
