//! The server's settings file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::pan::holds_card_number;
use vault_server::settings::Settings;

fuzz_target!(|text: &str| {
    match Settings::parse(text) {
        Ok(settings) => {
            for problem in settings.limits.problems() {
                assert!(!problem.key.is_empty() && !problem.remedy.is_empty());
            }
        }
        Err(problem) => {
            assert!(problem.problem.starts_with("line ") && !holds_card_number(&problem.to_string()));
        }
    }
});
