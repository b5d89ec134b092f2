//@ error: E0277
//@ says: Secret
//@ says: Debug
use vault_core::secret::Secret32;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<Secret32>();
}
