//@ error: E0277
//@ says: Pan
use vault_core::pan::Pan;

fn needs<T: PartialEq>() {}

fn main() {
    needs::<Pan>();
}
