//@ error: E0277
//@ says: Trk
//@ says: Display
use vault_core::envelope::Trk;

fn needs<T: std::fmt::Display>() {}

fn main() {
    needs::<Trk>();
}
