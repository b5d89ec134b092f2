//@ error: E0277
//@ says: Trk
//@ says: Debug
use vault_core::envelope::Trk;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<Trk>();
}
