//@ error: E0277
//@ says: Token
//@ says: Clone
use vault_core::token::Token;

fn needs<T: Clone>() {}

fn main() {
    needs::<Token>();
}
