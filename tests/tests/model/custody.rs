//! Who opens the vault: custodians come, go and take each other's place.

use pollster::block_on;
use vault_core::codec::{Reader, Writer};
use vault_core::custody::{Custodian, CustodyBlock};
use vault_core::envelope::KeyKind;
use vault_core::error::Error;
use vault_core::secret::Secret32;
use vault_tests::desk::{Desk, principal};

use super::world::World;

/// All the custodians there are.
pub(super) const POOL: [u8; 5] = [1, 2, 3, 4, 5];

/// How many a vault has at the most.
const MOST: usize = 4;

/// A custodian that costs nothing and hides nothing: what is tested here is who is in force.
pub(super) struct Open(pub(super) u8);

impl Custodian for Open {
    fn name(&self) -> &'static str {
        "open"
    }

    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error> {
        let body = Writer::default().u8(self.0).u8(kind as u8).fixed(vault).fixed(key.expose_bytes()).done();
        let bytes = Writer::default().u8(250).e(&body).done();
        Ok(CustodyBlock::read(&mut Reader::new(&bytes)).unwrap())
    }

    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error> {
        let mut w = Writer::default();
        block.write(&mut w);
        let mut mine = Writer::default().u8(self.0).u8(kind as u8).fixed(vault).done();
        mine.splice(..0, [250, 0, 50]);
        let bytes = w.done();
        let mut key = bytes.strip_prefix(&mine[..]).ok_or(Error::Custody)?.to_vec();
        Secret32::take(&mut key).ok_or(Error::Custody)
    }
}

/// These custodians, to be lent out.
pub(super) fn opening(who: &[u8]) -> Vec<Open> {
    who.iter().copied().map(Open).collect()
}

/// The same as the vault takes them.
pub(super) fn lent(open: &[Open]) -> Vec<&dyn Custodian> {
    open.iter().map(|open| open as &dyn Custodian).collect()
}

impl World {
    /// Those who opened the vault are those in force: of before, or, if nobody knows whether it was done, of after.
    pub(super) fn opened_by(&mut self, opened: &[u8]) {
        let in_force = |who: &Vec<u8>| POOL.into_iter().filter(|one| who.contains(one)).eq(opened.to_vec());
        if let Some(becoming) = self.becoming.take().filter(in_force) {
            self.custodians = becoming;
        }
        assert!(in_force(&self.custodians), "{opened:?} open it, not {:?}", self.custodians);
    }

    fn stranger(&mut self) -> u8 {
        POOL[self.dice.below(POOL.len())]
    }

    pub(super) fn add_custodian(&mut self) {
        let new = self.stranger();
        let fits = self.custodians.len() < MOST && !self.custodians.contains(&new);
        let wanted = fits.then(|| [&self.custodians[..], &[new]].concat());
        self.amend("add", wanted, |desk, _| {
            block_on(desk.vault.add_custodian(&principal("olga"), &Open(new), None)).map(|_| ())
        });
    }

    /// One goes, and another says that it stays: another one in force, or, in vain, whoever.
    pub(super) fn remove_custodian(&mut self) {
        let place = self.dice.below(self.custodians.len());
        let gone = self.custodians[place];
        let others = self.custodians.clone().into_iter().filter(|who| *who != gone);
        let another = self.dice.one_of(others).filter(|_| self.dice.below(4) > 0);
        let stays = another.unwrap_or_else(|| self.stranger());
        let wanted: Vec<u8> = self.custodians.iter().copied().filter(|who| *who != gone).collect();
        let wanted = Some(wanted).filter(|wanted| wanted.contains(&stays));
        self.amend("remove", wanted, |desk, _| {
            let open = Open(stays);
            block_on(desk.vault.remove_custodian(&principal("olga"), place + 1, &open, None)).map(|_| ())
        });
    }

    /// One takes another's place. One that has a place already takes its own alone.
    pub(super) fn change_custodian(&mut self) {
        let place = self.dice.below(self.custodians.len());
        let (old, new) = (self.custodians[place], self.stranger());
        let mut wanted = self.custodians.clone();
        wanted[place] = new;
        let wanted = Some(wanted).filter(|_| new == old || !self.custodians.contains(&new));
        self.amend("change", wanted, |desk, _| {
            let both = (&Open(old) as &dyn Custodian, &Open(new) as &dyn Custodian);
            block_on(desk.vault.change_custodian(&principal("olga"), both, None)).map(|_| ())
        });
    }

    /// Changes who is in force to those wanted; to nobody, where it is to be refused.
    fn amend(
        &mut self,
        what: &str,
        wanted: Option<Vec<u8>>,
        ask: impl Fn(&Desk, &[u8]) -> Result<(), Error>,
    ) {
        let before = self.custodians.clone();
        self.becoming.clone_from(&wanted);
        let (told, _) = self.ask(|desk, who| {
            // Asked again, it may be done.
            if who != before { Ok(()) } else { ask(desk, who) }
        });
        self.becoming = None;
        match wanted {
            Some(wanted) => {
                assert_eq!(told, Ok(()), "{what}: {before:?} to {wanted:?}");
                self.custodians = wanted;
                self.did(&format!("custodian {what}"));
            }
            None => {
                assert!(matches!(told, Err(Error::Config(_))), "{what}: {before:?}: {told:?}");
                self.did(&format!("custodian {what} refused"));
            }
        }
    }
}
