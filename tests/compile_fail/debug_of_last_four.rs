//@ error: E0277
//@ says: LastFour
//@ says: Debug
use vault_core::pan::LastFour;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<LastFour>();
}
