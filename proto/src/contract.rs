//! The contract as a promise to those who already speak it: what was released stays.
//!
//! `proto/check` lets buf judge the same, where Node.js is at hand; this needs only cargo.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

use crate::{FILE_DESCRIPTOR_SET, v1};

/// The last released image, made by `proto/check release`.
const RELEASED: &[u8] = include_bytes!("../released/v1.binpb");

/// Everything that a peer may rely on, as (what, how it is). Comments and order are not among it.
fn promises(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in set.file.iter().filter(|f| f.package() == "vault.v1") {
        file.message_type.iter().for_each(|m| message_promises(m, "vault.v1", &mut all));
        file.enum_type.iter().for_each(|e| enum_promises(e, "vault.v1", &mut all));
        for service in &file.service {
            for method in &service.method {
                let streams = (method.client_streaming(), method.server_streaming());
                let shape = format!("{} -> {} {streams:?}", method.input_type(), method.output_type());
                all.insert(format!("rpc vault.v1.{}/{}", service.name(), method.name()), shape);
            }
        }
    }
    all
}

fn message_promises(message: &DescriptorProto, scope: &str, all: &mut BTreeMap<String, String>) {
    let name = format!("{scope}.{}", message.name());
    all.insert(format!("message {name}"), String::new());
    for field in &message.field {
        let oneof = field.oneof_index.and_then(|i| message.oneof_decl.get(usize::try_from(i).ok()?));
        let shape = format!(
            "{} {:?} {:?} {} json {} in {:?} optional {}",
            field.name(),
            field.r#type(),
            field.label(),
            field.type_name(),
            field.json_name(),
            oneof.map(prost_types::OneofDescriptorProto::name),
            field.proto3_optional()
        );
        all.insert(format!("field {name} = {}", field.number()), shape);
    }
    message.nested_type.iter().for_each(|m| message_promises(m, &name, all));
    message.enum_type.iter().for_each(|e| enum_promises(e, &name, all));
}

fn enum_promises(this: &EnumDescriptorProto, scope: &str, all: &mut BTreeMap<String, String>) {
    for value in &this.value {
        let name = format!("value {scope}.{} = {}", this.name(), value.number());
        all.insert(name, value.name().to_owned());
    }
}

/// What `current` does not keep of `released`.
fn broken(released: &FileDescriptorSet, current: &FileDescriptorSet) -> Vec<String> {
    let current = promises(current);
    promises(released)
        .into_iter()
        .filter(|(what, how)| current.get(what) != Some(how))
        .map(|(w, _)| w)
        .collect()
}

fn current() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap()
}

fn released() -> FileDescriptorSet {
    FileDescriptorSet::decode(RELEASED).unwrap()
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    set.file.iter_mut().flat_map(|f| &mut f.message_type).find(|m| m.name() == name).unwrap()
}

#[test]
fn what_was_released_is_kept() {
    assert!(promises(&released()).len() > 300, "the image holds the contract");
    assert_eq!(broken(&released(), &current()), Vec::<String>::new());
}

#[test]
fn every_breaking_edit_is_named() {
    type Edit = fn(&mut FileDescriptorSet);
    let edits: [(&str, Edit); 6] = [
        ("field vault.v1.PlainCard = 1", |s| message(s, "PlainCard").field[0].number = Some(9)),
        ("field vault.v1.PlainCard = 1", |s| {
            message(s, "PlainCard").field[0].set_type(Type::String);
        }),
        ("field vault.v1.Context = 2", |s| drop(message(s, "Context").field.remove(1))),
        ("field vault.v1.TokenizeItem = 3", |s| message(s, "TokenizeItem").field[2].oneof_index = None),
        ("value vault.v1.Purpose = 13", |s| {
            let purposes = s.file.iter_mut().flat_map(|f| &mut f.enum_type).find(|e| e.name() == "Purpose");
            purposes.unwrap().value.pop();
        }),
        ("rpc vault.v1.Vault/Tokenize", |s| {
            let service = s.file.iter_mut().flat_map(|f| &mut f.service).find(|s| s.name() == "Vault");
            service.unwrap().method[0].server_streaming = Some(true);
        }),
    ];
    for (named, edit) in edits {
        let mut edited = released();
        edit(&mut edited);
        assert_eq!(broken(&released(), &edited), [named]);
    }
}

#[test]
fn adding_breaks_nothing() {
    let mut grown = released();
    let mut field = message(&mut grown, "PlainCard").field[0].clone();
    (field.name, field.number, field.json_name) = (Some("later".into()), Some(99), Some("later".into()));
    message(&mut grown, "PlainCard").field.push(field);
    assert_eq!(broken(&released(), &grown), Vec::<String>::new());
}

#[test]
fn reflection_lists_every_service_and_knows_every_type_that_an_answer_carries() {
    let set = current();
    let services: Vec<_> = set
        .file
        .iter()
        .flat_map(|f| f.service.iter().map(move |s| format!("{}.{}", f.package(), s.name())))
        .collect();
    assert_eq!(services, ["vault.v1.Vault", "vault.v1.Admin", "vault.v1.Custody"]);
    let files: BTreeSet<_> = set.file.iter().map(prost_types::FileDescriptorProto::name).collect();
    for file in ["google/rpc/error_details.proto", "google/rpc/status.proto", "google/protobuf/any.proto"] {
        assert!(files.contains(file), "{file}");
    }
    for file in &set.file {
        for needed in &file.dependency {
            assert!(files.contains(needed.as_str()), "{} imports {needed}", file.name());
        }
    }
}

#[test]
fn every_enum_begins_with_unspecified() {
    let set = current();
    let enums: Vec<_> =
        set.file.iter().filter(|f| f.package() == "vault.v1").flat_map(|f| &f.enum_type).collect();
    assert!(enums.len() > 10);
    for e in enums {
        assert!(e.value[0].number() == 0 && e.value[0].name().ends_with("_UNSPECIFIED"), "{}", e.name());
    }
}

#[test]
fn card_numbers_are_bytes_and_in_one_message_only() {
    let set = current();
    let pans: Vec<_> = set
        .file
        .iter()
        .flat_map(|f| &f.message_type)
        .flat_map(|m| m.field.iter().map(move |f| (m.name(), f)))
        .filter(|(_, f)| f.name().split('_').any(|word| word == "pan"))
        .map(|(m, f)| (m, f.name(), f.r#type()))
        .collect();
    assert_eq!(pans, [("PlainCard", "pan", Type::Bytes), ("MaskedCard", "masked_pan", Type::String)]);
}

/// The messages that hold a value in the clear.
const SECRET: [&str; 4] = ["PlainCard", "PlainData", "NetworkToken", "PaymentReference"];

/// The names of all messages that can hold one of these, themselves or further down.
fn holders(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut held: BTreeSet<String> = SECRET.map(str::to_owned).into();
    loop {
        let before = held.len();
        for m in set.file.iter().filter(|f| f.package() == "vault.v1").flat_map(|f| &f.message_type) {
            let holds = |f: &prost_types::FieldDescriptorProto| {
                f.type_name().strip_prefix(".vault.v1.").is_some_and(|n| held.contains(n))
            };
            if m.field.iter().any(holds) {
                held.insert(m.name().to_owned());
            }
        }
        if held.len() == before {
            return held;
        }
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn no_debug_of_a_message_that_holds_a_card_shows_a_digit_of_it() {
    let card = || v1::PlainCard::new(b"4111111111111111".to_vec(), None);
    let item =
        || v1::TokenizeItem { card: Some(v1::tokenize_item::Card::Plain(card())), ..Default::default() };
    let replaced =
        || v1::ReplaceItem { card: Some(v1::replace_item::Card::Plain(card())), ..Default::default() };
    let printed = || v1::FingerprintItem {
        card: Some(v1::fingerprint_item::Card::Plain(card())),
        ..Default::default()
    };
    let deleted =
        || v1::DeleteCardItem { card: Some(v1::delete_card_item::Card::Plain(card())), ..Default::default() };
    let result = || v1::DetokenizeResult {
        reveal: Some(v1::detokenize_result::Reveal::Plain(card())),
        ..Default::default()
    };
    let outcome = || v1::DetokenizeOutcome {
        outcome: Some(v1::detokenize_outcome::Outcome::Result(result())),
        ..Default::default()
    };
    let streamed = v1::StreamDetokenizeResponse {
        outcome: Some(v1::stream_detokenize_response::Outcome::Result(result())),
        ..Default::default()
    };
    let replace =
        || v1::ReplaceItem { card: Some(v1::replace_item::Card::Plain(card())), ..Default::default() };
    let fingerprint = || v1::FingerprintItem {
        card: Some(v1::fingerprint_item::Card::Plain(card())),
        ..Default::default()
    };
    let delete =
        || v1::DeleteCardItem { card: Some(v1::delete_card_item::Card::Plain(card())), ..Default::default() };
    let shown = [
        ("ReplaceItem", format!("{:?}", replace())),
        ("ReplaceRequest", format!("{:?}", v1::ReplaceRequest { item: Some(replace()), header: None })),
        (
            "BatchReplaceRequest",
            format!("{:#?}", v1::BatchReplaceRequest { items: vec![replace()], header: None }),
        ),
        ("FingerprintItem", format!("{:?}", fingerprint())),
        (
            "FingerprintRequest",
            format!("{:?}", v1::FingerprintRequest { item: Some(fingerprint()), header: None }),
        ),
        (
            "BatchFingerprintRequest",
            format!("{:#?}", v1::BatchFingerprintRequest { items: vec![fingerprint()], header: None }),
        ),
        ("DeleteCardItem", format!("{:?}", delete())),
        ("DeleteCardRequest", format!("{:?}", v1::DeleteCardRequest { item: Some(delete()), header: None })),
        (
            "BatchDeleteCardRequest",
            format!("{:#?}", v1::BatchDeleteCardRequest { items: vec![delete()], header: None }),
        ),
        ("PlainCard", format!("{:?}", card())),
        ("TokenizeItem", format!("{:?}", item())),
        ("TokenizeRequest", format!("{:?}", v1::TokenizeRequest { item: Some(item()), header: None })),
        (
            "BatchTokenizeRequest",
            format!("{:#?}", v1::BatchTokenizeRequest { items: vec![item()], header: None }),
        ),
        (
            "StreamTokenizeRequest",
            format!("{:?}", v1::StreamTokenizeRequest { item: Some(item()), header: None }),
        ),
        ("ReplaceItem", format!("{:?}", replaced())),
        ("ReplaceRequest", format!("{:?}", v1::ReplaceRequest { item: Some(replaced()), header: None })),
        (
            "BatchReplaceRequest",
            format!("{:#?}", v1::BatchReplaceRequest { items: vec![replaced()], header: None }),
        ),
        ("FingerprintItem", format!("{:?}", printed())),
        (
            "FingerprintRequest",
            format!("{:?}", v1::FingerprintRequest { item: Some(printed()), header: None }),
        ),
        (
            "BatchFingerprintRequest",
            format!("{:#?}", v1::BatchFingerprintRequest { items: vec![printed()], header: None }),
        ),
        ("DeleteCardItem", format!("{:?}", deleted())),
        ("DeleteCardRequest", format!("{:?}", v1::DeleteCardRequest { item: Some(deleted()), header: None })),
        (
            "BatchDeleteCardRequest",
            format!("{:#?}", v1::BatchDeleteCardRequest { items: vec![deleted()], header: None }),
        ),
        ("DetokenizeResult", format!("{:?}", result())),
        ("DetokenizeResponse", format!("{:?}", v1::DetokenizeResponse { result: Some(result()) })),
        ("DetokenizeOutcome", format!("{:?}", outcome())),
        (
            "BatchDetokenizeResponse",
            format!("{:#?}", v1::BatchDetokenizeResponse { outcomes: vec![outcome()], checkpoints: vec![] }),
        ),
        ("StreamDetokenizeResponse", format!("{streamed:?}")),
    ];
    let named: BTreeSet<_> = shown.iter().map(|(name, _)| (*name).to_owned()).collect();
    let others: BTreeSet<_> = SECRET[1..].iter().map(|name| (*name).to_owned()).collect();
    let all: BTreeSet<_> = named.union(&others).cloned().collect();
    assert_eq!(all, holders(&current()), "every message that can hold a card is shown here");
    for (name, text) in shown {
        assert!(text.contains("PlainCard"), "{name} holds a card: {text}");
        // Neither as text nor as Vec<u8> prints itself, 49 being the digit 1.
        assert!(!text.contains(|c: char| c.is_ascii_digit()), "{name}: {text}");
    }
}

#[test]
fn no_debug_of_a_message_that_holds_a_security_code_shows_a_digit_of_it() {
    let code = || Some(v1::SecurityCode::new(b"123".to_vec()));
    let item = v1::HoldSecurityCodeItem { code: code(), ..Default::default() };
    let result = v1::ReadSecurityCodeResult { code: code(), receipt: None };
    for text in [format!("{item:?}"), format!("{result:#?}")] {
        assert!(text.contains("SecurityCode") && !text.contains(|c: char| c.is_ascii_digit()), "{text}");
    }
}

#[test]
fn no_debug_of_another_value_shows_any_of_it_and_none_stays_behind() {
    let number = || b"4895370012003478".to_vec();
    let beside = || crate::BesideToken { requestor_id: "40010030273".into(), ..Default::default() };
    let mut data = v1::PlainData::new(v1::DataKind::Digits, number(), "");
    let mut token = v1::NetworkToken::new(number(), None, beside());
    let mut reference = v1::PaymentReference::new(number(), "");
    for text in [format!("{data:?}"), format!("{token:#?}"), format!("{reference:?}")] {
        assert!(SECRET.iter().any(|name| text.starts_with(name)), "{text}");
        assert!(!text.contains(|c: char| c.is_ascii_digit()), "{text}");
    }
    assert!(data.take_value().as_slice() == number() && data.value.is_empty());
    assert!(token.take_number().as_slice() == number() && token.number.is_empty());
    assert!(reference.take_reference().as_slice() == number() && reference.reference.is_empty());
}

#[test]
fn a_card_taken_out_leaves_none_behind() {
    let mut card = v1::PlainCard::new(b"4111111111111111".to_vec(), None);
    assert_eq!(card.take_pan().as_slice(), b"4111111111111111");
    assert!(card.pan.is_empty());
}
