//@ error: E0616
//@ says: Vault
//@ says: private
use vault_core::vault::Vault;

fn reach(vault: &Vault) -> bool {
    vault.inner.state.is_poisoned()
}

fn main() {
    let _ = reach;
}
