//@ compiles
use vault_core::pan::Pan;
use vault_core::secret::Secret32;
use vault_core::token::Token;

fn same(a: &Pan, b: &Pan, c: &Token, d: &Token, e: &Secret32, f: &Secret32) -> bool {
    a.same_as(b) && c.same_as(d) && e.same_as(f) && a.expose_digits() == b"0" && c.copy().as_str() == "0"
}

fn main() {
    let _ = same;
}
