//! A request that is to be sent to a destination, and an answer that comes back: both are bytes of strangers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::pan::{CardExpiry, Pan, holds_card_number};
use vault_proto::v1::{ForwardRequest, HttpHeader};
use vault_server::forward::mask::mask;
use vault_server::forward::template::{Card, Template};

const VISA: &[u8] = b"4111111111111111";

fn card() -> Card {
    let Ok(pan) = Pan::parse(VISA) else { unreachable!("a card number") };
    Card { pan, expiry: CardExpiry::new(2031, 4).ok() }
}

fuzz_target!(|input: (&str, &str, &str, &[u8])| {
    let (path, name, value, body) = input;
    let request = ForwardRequest {
        header: None,
        destination: "psp".to_owned(),
        method: "POST".to_owned(),
        path: path.to_owned(),
        headers: vec![HttpHeader { name: name.to_owned(), value: value.to_owned() }],
        body: body.to_vec(),
    };
    if let Ok(template) = Template::parse(request) {
        assert!(template.path.starts_with('/') && !holds_card_number(&template.path));
        let cards: Vec<Card> = template.tokens().map(|_| card()).collect();
        let Ok(filled) = template.fill(&cards) else { panic!("every card has a date") };
        assert!(filled.body.len() <= template.length());
        assert!(!filled.body.windows(2).any(|w| w == b"{{"));
        for (_, value) in &filled.headers {
            assert!(value.as_bytes().iter().all(|b| *b == b' ' || b.is_ascii_graphic()));
        }
    }
    let mut answer = body.to_vec();
    mask(&mut answer, &[VISA]);
    assert_eq!(answer.len(), body.len());
    assert!(answer.iter().zip(body).all(|(now, was)| now == was || (*now == b'*' && was.is_ascii_digit())));
    assert!(!answer.windows(VISA.len()).any(|w| w == VISA));
});
