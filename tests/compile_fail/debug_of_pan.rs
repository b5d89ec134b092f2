//@ error: E0277
//@ says: Pan
//@ says: Debug
use vault_core::pan::Pan;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<Pan>();
}
