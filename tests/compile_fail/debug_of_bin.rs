//@ error: E0277
//@ says: Bin
//@ says: Debug
use vault_core::pan::Bin;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<Bin>();
}
