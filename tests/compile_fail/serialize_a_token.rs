//@ error: E0277
//@ says: Token
//@ says: Serialize
use vault_core::token::Token;

fn main() {
    let token = Token::parse("4111111111111112").ok();
    let _ = serde_json::to_string(&token);
}
