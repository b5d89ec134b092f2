//! What a test needs a second process for, and the writer of golden folders.
//!
//! ```text
//! suite-tool hold FOLDER           opens the store, prints `held`, and keeps it open until its input ends
//! suite-tool open FOLDER           opens the store and prints `opened` or what was told instead
//! suite-tool create ENGINE FOLDER  the same for making one
//! suite-tool golden ENGINE FOLDER  makes a golden folder of the format of this release
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is what the test, or who runs it, reads"
)]

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use vault_core::store::{self, Engine, Store, StoreError};
use vault_tests::desk::OPTIONS;
use vault_tests::golden;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words {
        ["hold", folder] => hold(Path::new(folder)),
        ["open", folder] => told(store::open(Path::new(folder), &OPTIONS)),
        ["create", engine, folder] => match engine.parse::<Engine>() {
            Ok(engine) => told(store::create(Path::new(folder), engine, &OPTIONS)),
            Err(_) => usage(),
        },
        ["golden", engine, folder] => match engine.parse::<Engine>() {
            Ok(engine) => {
                golden::write(Path::new(folder), engine);
                ExitCode::SUCCESS
            }
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn hold(folder: &Path) -> ExitCode {
    match store::open(folder, &OPTIONS) {
        Ok(_store) => {
            println!("held");
            let _ends = std::io::stdin().read_to_end(&mut Vec::new());
            ExitCode::SUCCESS
        }
        Err(e) => told(Err(e)),
    }
}

fn told(answer: Result<Arc<dyn Store>, StoreError>) -> ExitCode {
    match answer {
        Ok(_) => println!("opened"),
        Err(e) => println!("{e}"),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("suite-tool hold FOLDER | open FOLDER | create ENGINE FOLDER | golden ENGINE FOLDER");
    ExitCode::from(64)
}
