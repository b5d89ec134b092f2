//! An HSM of the settings as custodian, where this build can ask one.

use secrecy::SecretSlice;
use vault_core::custody::{Custodian, Pkcs11, TokenName};
use vault_core::error::Error;
use zeroize::Zeroizing;

use super::Pkcs11Settings;
use crate::settings::Problem;

/// The custodian; the device is not asked yet.
pub(super) fn open(
    settings: &Pkcs11Settings,
    pin: Zeroizing<Vec<u8>>,
) -> Result<Box<dyn Custodian>, Problem> {
    let wrong = |e: Error| Problem::new("custodian.pkcs11", &e.to_string(), "see labels with pkcs11-tool -L");
    Ok(Box::new(token(settings, pin).map_err(wrong)?))
}

/// Makes the key in its token.
pub(super) fn make_key(settings: &Pkcs11Settings, pin: Zeroizing<Vec<u8>>) -> Result<(), Error> {
    token(settings, pin)?.make_key()
}

fn token(settings: &Pkcs11Settings, mut pin: Zeroizing<Vec<u8>>) -> Result<Pkcs11, Error> {
    let at = TokenName {
        module: settings.module.clone(),
        token: settings.token_label.clone(),
        key: settings.key_label.clone(),
    };
    Pkcs11::new(at, &SecretSlice::from(std::mem::take(&mut *pin)))
}
