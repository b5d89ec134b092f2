//@ error: E0277
//@ says: Trk
//@ says: Clone
use vault_core::envelope::Trk;

fn needs<T: Clone>() {}

fn main() {
    needs::<Trk>();
}
