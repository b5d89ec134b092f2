//@ compiles
use vault_core::policy::{Admitted, Asked, Denial, Permit, Presented, Rules};
use vault_core::record::Card;

fn ask(rules: &Rules, asked: &Asked<'_>) -> Result<Admitted, Denial> {
    rules.admit(asked)
}

fn permit(admitted: &Admitted, card: &Card, presented: &Presented) -> Result<Permit, Denial> {
    admitted.permit_card(card, presented, None)
}

fn main() {
    let (_, _) = (ask, permit);
}
