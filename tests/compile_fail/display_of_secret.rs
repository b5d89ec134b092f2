//@ error: E0277
//@ says: Secret
//@ says: Display
use vault_core::secret::Secret32;

fn needs<T: std::fmt::Display>() {}

fn main() {
    needs::<Secret32>();
}
