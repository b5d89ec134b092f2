//! What stands beside a card in its row, and beside a network token: attributes, restrictions, requestor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::attributes::{Attribute, Attributes};
use vault_core::codec::{Reader, Writer};
use vault_core::network_token::{Beside, NetworkToken};
use vault_core::payment_reference::PaymentReference;
use vault_core::restrictions::Restrictions;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attributes) = Attributes::read(&mut Reader::new(bytes)) {
        assert!(attributes.check().is_ok());
        let mut writer = Writer::default();
        attributes.write(&mut writer);
        assert!(bytes.starts_with(&writer.done()));
        // All of it can be emptied, and set again.
        let mut changed = attributes.clone();
        assert!(changed.change(Attributes::default(), Attribute::ALL).is_ok() && changed.is_empty());
        assert!(changed.change(attributes.clone(), &[]).is_ok() && changed == attributes);
    }
    if let Ok(restrictions) = Restrictions::read(&mut Reader::new(bytes)) {
        let mut writer = Writer::default();
        restrictions.write(&mut writer);
        assert!(bytes.starts_with(&writer.done()));
        assert!(restrictions.within(&restrictions) && restrictions.within(&Restrictions::default()));
        assert_eq!(Restrictions::default().within(&restrictions), restrictions.is_none());
    }
    if let Ok(beside) = Beside::read(&mut Reader::new(bytes)) {
        let mut writer = Writer::default();
        beside.write(&mut writer);
        assert!(bytes.starts_with(&writer.done()));
    }
    if let Ok(token) = NetworkToken::decode(bytes) {
        assert!(token.expose_encoded().as_slice() == bytes);
    }
    if let Ok(reference) = PaymentReference::decode(bytes) {
        assert!(reference.expose_encoded().as_slice() == bytes);
    }
});
