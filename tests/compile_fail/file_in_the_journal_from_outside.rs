//@ error: E0624
//@ says: file
//@ says: private
use vault_core::journal::Journal;

fn file(journal: &Journal) {
    let _ = journal.file(Vec::new(), None);
}

fn main() {
    let _ = file;
}
