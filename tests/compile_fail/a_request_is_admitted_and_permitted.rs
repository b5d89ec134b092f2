//@ compiles
use vault_core::policy::{Admitted, Asked, Denial, Permit, Rules};
use vault_core::record::Card;
use vault_core::time::Timestamp;
use vault_core::words::Show;

fn ask(rules: &Rules, asked: &Asked<'_>) -> Result<Admitted, Denial> {
    rules.admit(asked)
}

fn permit(admitted: &Admitted, card: &Card, now: Timestamp) -> Result<Permit, Denial> {
    admitted.permit_card(card, Show::Full, None, now, false)
}

fn main() {
    let (_, _) = (ask, permit);
}
