//@ error: E0277
//@ says: Token
use vault_core::token::Token;

fn needs<T: PartialEq>() {}

fn main() {
    needs::<Token>();
}
