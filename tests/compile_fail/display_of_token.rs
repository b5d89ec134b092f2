//@ error: E0277
//@ says: Token
//@ says: Display
use vault_core::token::Token;

fn needs<T: std::fmt::Display>() {}

fn main() {
    needs::<Token>();
}
