//@ error: E0277
//@ says: Secret
//@ says: Clone
use vault_core::secret::Secret32;

fn needs<T: Clone>() {}

fn main() {
    needs::<Secret32>();
}
