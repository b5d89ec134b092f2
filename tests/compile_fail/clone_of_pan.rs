//@ error: E0277
//@ says: Pan
//@ says: Clone
use vault_core::pan::Pan;

fn needs<T: Clone>() {}

fn main() {
    needs::<Pan>();
}
