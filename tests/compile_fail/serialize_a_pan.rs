//@ error: E0277
//@ says: Pan
//@ says: Serialize
use vault_core::pan::Pan;

fn main() {
    let pan = Pan::parse(b"4111111111111111").ok();
    let _ = serde_json::to_string(&pan);
}
