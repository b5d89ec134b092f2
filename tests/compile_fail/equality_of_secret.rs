//@ error: E0277
//@ says: Secret
use vault_core::secret::Secret32;

fn needs<T: PartialEq>() {}

fn main() {
    needs::<Secret32>();
}
