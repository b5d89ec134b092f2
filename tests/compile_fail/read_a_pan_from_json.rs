//@ error: E0277
//@ says: Pan
//@ says: Deserialize
use vault_core::pan::Pan;

fn main() {
    let _: Option<Pan> = serde_json::from_str("{}").ok();
}
