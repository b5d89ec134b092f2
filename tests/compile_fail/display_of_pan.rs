//@ error: E0277
//@ says: Pan
//@ says: Display
use vault_core::pan::Pan;

fn needs<T: std::fmt::Display>() {}

fn main() {
    needs::<Pan>();
}
