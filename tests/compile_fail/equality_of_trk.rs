//@ error: E0277
//@ says: Trk
use vault_core::envelope::Trk;

fn needs<T: PartialEq>() {}

fn main() {
    needs::<Trk>();
}
