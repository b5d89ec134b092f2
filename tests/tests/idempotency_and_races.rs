//! The same request twice is one request, and a hundred at once are as good as one after the other.

use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use pollster::block_on;
use vault_core::audit::entry::{Event, Minting};
use vault_core::error::Error;
use vault_core::token::Token;
use vault_core::vault::{Context, Header, NewCard, Reveal, Revocation};
use vault_tests::ON_DISK;
use vault_tests::cards::{MASTERCARD, VISA, card, luhn, number};
use vault_tests::desk::{Desk, channel, header, in_format, merchant_name, principal, request};

const REQUEST: &str = "5f0e2d9c-4b0a-4c8e-9d55-1c6f0d7e8a11";

/// Runs `work` in `count` threads that begin together.
fn together<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (work, start) = (&work, &Barrier::new(count));
    thread::scope(|scope| {
        let begin = |index| {
            scope.spawn(move || {
                start.wait();
                work(index)
            })
        };
        let threads: Vec<_> = (0..count).map(begin).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_hundred_at_once_with_one_card_get_one_token_and_no_error() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let answers =
            together(100, |_| desk.web().tokenize(&header(), card(VISA)).map(|t| (t.token, t.minting)));
        let answers: Vec<_> =
            answers.into_iter().map(|answer| answer.unwrap_or_else(|e| panic!("{e}"))).collect();
        let (first, _) = &answers[0];
        assert!(answers.iter().all(|(token, _)| token.same_as(first)), "{engine}");
        let minted = answers.iter().filter(|(_, minting)| *minting == Some(Minting::Minted)).count();
        assert_eq!(minted, 1, "{engine}");
        let desk = desk.reopened();
        assert_eq!(desk.web().paid(first).as_deref(), Ok(VISA));
        desk.assert_whole(1);
    }
}

#[test]
fn a_hundred_at_once_with_cards_of_one_customer_lose_none() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        // Each thread its own BIN, so that nobody spends a guess budget; all write one subject row.
        let pans: Vec<String> = (0..100).map(|n| number(&format!("{}", 411_111 + n), 16, 7)).collect();
        let tokens: Vec<Token> = together(100, |n| {
            let context = Context::new("anna", "", "").unwrap();
            let request = Header { context, ..header() };
            // Who keeps losing the race for that row is told to try again, and does, with the same request.
            let ask = |_| match desk.web().tokenize(&request, card(&pans[n])) {
                Err(Error::Overloaded) => None,
                answer => Some(answer.unwrap_or_else(|e| panic!("{engine}: {e}")).token),
            };
            (0..5).find_map(ask).unwrap_or_else(|| panic!("{engine}: overloaded five times"))
        });
        let desk = desk.reopened();
        for (paid, pan) in desk.web().paid_all(&tokens).into_iter().zip(&pans) {
            assert_eq!(paid.as_ref(), Ok(pan));
        }
        desk.assert_whole(100);
    }
}

#[test]
fn a_retried_request_gets_the_same_answer_while_it_runs_after_it_and_after_a_restart() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        // Fresh: without the kept answer each try would mint another token.
        let ask =
            |desk: &Desk| desk.web().tokenize(&request(REQUEST), in_format("mixed", VISA)).map(|t| t.token);
        let tokens: Vec<Token> = together(20, |_| ask(&desk))
            .into_iter()
            .filter_map(|answer| match answer {
                Ok(token) => Some(token),
                Err(Error::StillRunning) => None,
                Err(e) => panic!("{engine}: {e}"),
            })
            .collect();
        assert!(tokens.iter().all(|token| token.same_as(&tokens[0])), "{engine}");
        let first = ask(&desk).unwrap_or_else(|e| panic!("{e}"));
        assert!(first.same_as(&tokens[0]));
        assert!(matches!(desk.last_event(), Event::Tokenized { redelivered: true, .. }));
        let desk = desk.reopened();
        assert!(ask(&desk).is_ok_and(|again| again.same_as(&first)));
        let other = desk.web().tokenize(&request(REQUEST), in_format("mixed", MASTERCARD));
        assert_eq!(other.err(), Some(Error::IdempotencyMismatch));
        desk.assert_whole(1);
    }
}

#[test]
fn a_retried_batch_gets_every_token_again_in_its_order() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let pans: Vec<String> = (0..50).map(|n| number(&format!("{}", 522_200 + n), 16, n)).collect();
        let batch = |desk: &Desk| -> Vec<String> {
            let cards = pans.iter().map(|pan| in_format("mixed", pan)).collect();
            let answers =
                desk.web().tokenize_batch(&request(REQUEST), cards).unwrap_or_else(|e| panic!("{e}"));
            answers
                .into_iter()
                .map(|a| a.unwrap_or_else(|e| panic!("{e}")).token.as_str().to_owned())
                .collect()
        };
        let first = batch(&desk);
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 50);
        assert_eq!(batch(&desk), first);
        let desk = desk.reopened();
        assert_eq!(batch(&desk), first);
        desk.assert_whole(50);
    }
}

#[test]
fn a_retried_detokenize_discloses_again_and_says_so_in_the_log() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().stored(VISA);
        let asked = |desk: &Desk, again: bool| {
            let answer = desk.web().detokenized(&request(REQUEST), &token, Reveal::Plain);
            assert_eq!(answer.map(|card| vault_tests::desk::shown(&card.revealed)).as_deref(), Ok(VISA));
            assert!(
                matches!(desk.last_event(), Event::Disclosed { redelivered, .. } if redelivered == again)
            );
        };
        asked(&desk, false);
        asked(&desk, true);
        asked(&desk.reopened(), true);
    }
}

#[test]
fn a_card_whose_token_expired_gets_a_new_one_that_works() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let until = |days: u32| Some(vault_tests::desk::START.plus_days(days));
        let old = desk.web().added(NewCard { valid_until: until(1), ..card(VISA) });
        assert_eq!(desk.web().paid(&old).as_deref(), Ok(VISA));
        desk.wait_days(2);
        assert_eq!(desk.web().paid(&old), Err(Error::NotFound));
        let plain = desk.web().stored(VISA);
        let dated = desk.web().added(NewCard { valid_until: until(5), ..card(VISA) });
        assert!(!plain.same_as(&old) && !dated.same_as(&old) && !dated.same_as(&plain));
        let desk = desk.reopened();
        for token in [&plain, &dated] {
            assert_eq!(desk.web().paid(token).as_deref(), Ok(VISA));
        }
        assert_eq!(desk.web().paid(&old), Err(Error::NotFound));
        assert!(desk.web().stored(VISA).same_as(&plain), "an expiring token is never the one that is reused");
        desk.assert_whole(3);
    }
}

#[test]
fn a_revoked_token_is_never_minted_again_however_full_its_space_is() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let tight = |count: usize| (0..count).map(|_| in_format("tight", VISA)).collect::<Vec<_>>();
        // Four hidden digits, the Luhn sum never zero: 9,000 tokens.
        let mut minted: Vec<Token> = (0..8).flat_map(|_| desk.web().imported(tight(1_000))).collect();
        let revoked = minted.split_off(7_000);
        for token in revoked.iter().step_by(50) {
            desk.web().revoked(token);
        }
        let desk = desk.reopened();
        let late = desk.web().imported(tight(1_000));
        let every: HashSet<&str> = minted.iter().chain(&revoked).chain(&late).map(Token::as_str).collect();
        assert_eq!(every.len(), 9_000, "{engine}");
        assert!(
            every
                .iter()
                .all(|token| token.starts_with("41111111") && token.ends_with("1111") && luhn(token) != 0)
        );
        let spent = desk.web().import(tight(1)).unwrap().pop().unwrap();
        assert_eq!(spent.err(), Some(Error::SpaceExhausted), "{engine}");
        for token in revoked.iter().step_by(50) {
            assert_eq!(desk.web().paid(token), Err(Error::NotFound));
        }
        assert_eq!(desk.web().paid(&late[999]).as_deref(), Ok(VISA));
    }
}

#[test]
fn nobody_is_paid_with_a_token_once_its_revocation_was_answered() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        for _ in 0..10 {
            let token = desk.web().added(in_format("mixed", VISA));
            let (answered, paid, refused) =
                (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
            together(5, |thread| {
                if thread == 0 {
                    while paid.load(Ordering::SeqCst) < 4 {
                        thread::yield_now();
                    }
                    desk.web().revoked(&token);
                    answered.store(true, Ordering::SeqCst);
                    return;
                }
                while refused.load(Ordering::SeqCst) < 4 {
                    let began_after = answered.load(Ordering::SeqCst);
                    match desk.web().paid(&token) {
                        Ok(_) => {
                            assert!(!began_after, "{engine}: paid after the revocation was answered");
                            paid.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(Error::NotFound) => drop(refused.fetch_add(1, Ordering::SeqCst)),
                        Err(e) => panic!("{engine}: {e}"),
                    }
                }
            });
        }
    }
}

#[test]
fn tokens_made_while_keys_rotate_locks_come_and_go_and_others_revoke_all_open() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let made = together(6, |thread| {
            let mut made = HashMap::new();
            for round in 0..15_u32 {
                match thread {
                    0 => drop(
                        block_on(desk.vault.rotate_dek(&principal("olga"), &merchant_name("acme"), None))
                            .unwrap(),
                    ),
                    1 => {
                        let token = desk.web().added(in_format("mixed", VISA));
                        desk.web()
                            .revoke(&header(), &token, Revocation::On(channel("app")))
                            .unwrap_or_else(|e| panic!("{e}"));
                        assert_eq!(desk.at("acme", "app").paid(&token), Err(Error::NotFound));
                        made.insert(token.as_str().to_owned(), VISA.to_owned());
                    }
                    _ => {
                        let pan = number(&format!("{}", 411_111 + thread * 100 + round as usize), 16, round);
                        made.insert(desk.web().stored(&pan).as_str().to_owned(), pan);
                    }
                }
            }
            made
        });
        let desk = desk.reopened();
        let made: HashMap<String, String> = made.into_iter().flatten().collect();
        for (text, pan) in &made {
            assert_eq!(desk.web().paid(&vault_tests::desk::token(text)).as_ref(), Ok(pan), "{engine}");
        }
        desk.assert_whole(75);
    }
}
