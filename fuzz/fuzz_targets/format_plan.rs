//! A format of any kind, as a policy would have it, and any numbers around it: what the planner makes of them.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_core::iban::Country;
use vault_core::name::FormatName;
use vault_core::pan::Keep;
use vault_core::plan::{Asked, Kept, Method, plan};
use vault_core::policy::Format;
use vault_core::token::{Reuse, Scheme, Scope};
use vault_core::words::Kind;

#[derive(Debug, Arbitrary)]
struct Case<'a> {
    kind: u8,
    scheme: u8,
    method: u8,
    fresh: bool,
    length: usize,
    keep: Vec<(&'a str, &'a str)>,
    keep_domain: bool,
    prefix: Option<&'a str>,
    country: Option<&'a str>,
    first: &'a str,
    last: &'a str,
    slots: bool,
    used: Option<u64>,
    per_day: Option<u64>,
    groups: u64,
}

fuzz_target!(|case: Case<'_>| {
    let kind = Kind::ALL[usize::from(case.kind) % Kind::ALL.len()];
    let scheme = [Scheme::Random, Scheme::Mixed, Scheme::Opaque, Scheme::Ff1][usize::from(case.scheme) % 4];
    let method = [Method::Random, Method::Mixed, Method::Opaque, Method::Ff1][usize::from(case.method) % 4];
    let keep = case.keep.iter().map(|(length, keep)| ((*length).to_owned(), (*keep).to_owned()));
    let format = Format {
        id: FormatName::parse("f").unwrap(),
        kind,
        scheme,
        mode: if case.fresh { Reuse::Fresh } else { Reuse::Reuse },
        scope: Scope::Merchant,
        keep: keep.collect(),
        keep_domain: case.keep_domain,
        luhn_prefix: case.prefix.map(str::to_owned),
    };
    // Half of the lengths are those of values.
    let length = if case.length % 2 == 0 { case.length / 2 % 40 } else { case.length };
    let asked = Asked {
        format: &format,
        method: if method == Method::Ff1 { method } else { scheme.into() },
        length,
        country: case.country.and_then(Country::parse),
        kept: Kept { first: case.first, last: case.last },
        mask: Keep::default_for(length),
        ff1_slots: if case.slots { 5 } else { 0 },
        used: case.used,
        per_day: case.per_day,
        groups: case.groups.max(1),
    };
    match plan(&asked) {
        Ok(plan) => {
            assert!(plan.kind == kind && plan.tokens.0 > 0);
            assert!(plan.left.is_none_or(|left| left <= plan.tokens));
            assert!(serde_json::to_string(&plan).is_ok());
            let _ = (plan.tokens.to_string(), plan.guesses.map(|guesses| guesses.to_string()));
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
});
