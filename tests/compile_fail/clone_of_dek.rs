//@ error: E0277
//@ says: Dek
//@ says: Clone
use vault_core::envelope::Dek;

fn needs<T: Clone>() {}

fn main() {
    needs::<Dek>();
}
