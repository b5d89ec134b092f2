//@ error: E0277
//@ says: Pan
//@ says: Debug
use vault_core::pan::Pan;

fn main() {
    let pan = Pan::parse(b"4111111111111111").ok();
    println!("{pan:?}");
}
