//@ error: E0277
//@ says: Token
//@ says: Debug
use vault_core::token::Token;

fn needs<T: std::fmt::Debug>() {}

fn main() {
    needs::<Token>();
}
