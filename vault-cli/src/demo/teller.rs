//! How the story is told: a title, plain lines and at the end a table; or with `--json` one line for each step and one for
//! the whole.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::fail::Failure;
use crate::output::{self, Out, table};

/// Tells steps as they happen, and remembers how each ended.
pub(super) struct Teller {
    out: Out,
    began: Instant,
    steps: Vec<Step>,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    title: &'static str,
    said: Vec<String>,
    since: Instant,
}

/// A step that was told.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    number: usize,
    title: &'static str,
    held: bool,
    result: String,
    said: Vec<String>,
    milliseconds: u64,
}

/// The whole, for `--json`.
#[derive(Serialize)]
struct Whole<'a, T: Serialize> {
    held: bool,
    steps: usize,
    milliseconds: u64,
    kept: Option<&'a T>,
}

impl Teller {
    /// Nothing is told yet.
    pub(super) fn new(out: Out) -> Self {
        Self { out, began: Instant::now(), steps: Vec::new(), under_way: None }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, title: &'static str) -> Result<(), Failure> {
        self.under_way = Some(UnderWay { title, said: Vec::new(), since: Instant::now() });
        let gap = if self.steps.is_empty() { "" } else { "\n" };
        self.line(&format!("{gap}{}. {title}", self.steps.len() + 1))
    }

    /// What happened, or why it matters.
    pub(super) fn say(&mut self, line: impl Into<String>) -> Result<(), Failure> {
        let line = line.into();
        self.line(&format!("   {line}"))?;
        if let Some(step) = &mut self.under_way {
            step.said.push(line);
        }
        Ok(())
    }

    /// The step ends: it held, with its result in a few words, or it did not. A step that did not hold ends the story,
    /// with the table of what was told so far.
    pub(super) fn end<T>(&mut self, ended: Result<(T, String), Failure>) -> Result<T, Failure> {
        let Some(UnderWay { title, said, since }) = self.under_way.take() else {
            return ended.map(|(outcome, _)| outcome);
        };
        let result = match &ended {
            Ok((_, result)) => result.clone(),
            Err(failure) => failure.to_string(),
        };
        let (number, held) = (self.steps.len() + 1, ended.is_ok());
        self.steps.push(Step { number, title, held, result, said, milliseconds: milliseconds(since) });
        if self.out.is_json() {
            self.out.tell(&self.steps.last(), |_| String::new())?;
        }
        if !held {
            self.whole::<()>(None)?;
        }
        ended.map(|(outcome, _)| outcome)
    }

    /// The table, or the last line of JSON; `kept` is what the story leaves behind.
    pub(super) fn whole<T: Serialize>(&self, kept: Option<&T>) -> Result<(), Failure> {
        let held = self.steps.iter().all(|step| step.held);
        let milliseconds = milliseconds(self.began);
        if self.out.is_json() {
            let whole = Whole { held, steps: self.steps.len(), milliseconds, kept };
            return self.out.tell(&whole, |_| String::new());
        }
        let rows = self.steps.iter().map(Step::cells).collect();
        self.line(&format!("\n{}", table(["", "STEP", "HELD", "TIME", "RESULT"], rows)))?;
        let end = if held { "Every step held" } else { "The last step did not hold" };
        self.line(&format!("{end}. The story took {}.", seconds(milliseconds)))
    }

    /// Text for people alone: with `--json` nothing.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        if self.out.is_json() { Ok(()) } else { output::write(format!("{}\n", text.trim_end()).as_bytes()) }
    }
}

impl Step {
    fn cells(&self) -> [String; 5] {
        let held = if self.held { "yes" } else { "NO" };
        [
            self.number.to_string(),
            self.title.to_owned(),
            held.to_owned(),
            seconds(self.milliseconds),
            self.result.clone(),
        ]
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds as seconds, to a tenth.
pub(super) fn seconds(milliseconds: u64) -> String {
    format!("{:.1} s", Duration::from_millis(milliseconds).as_secs_f64())
}

/// A number and its word: `1 card`, `2 cards`.
pub(super) fn count(number: usize, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fail::Exit;

    #[tokio::test]
    async fn a_step_that_did_not_hold_ends_the_story_and_is_in_the_table() {
        let mut teller = Teller::new(Out::new(true));
        teller.begin("first").unwrap();
        teller.say("a line").unwrap();
        assert_eq!(teller.end(Ok((7, "good".to_owned()))).unwrap(), 7);
        teller.begin("second").unwrap();
        let failure = teller.end::<()>(Err(Failure::failed("it broke"))).unwrap_err();
        assert_eq!((failure.exit(), failure.to_string().as_str()), (Exit::Failed, "it broke"));
        let told: Vec<_> = teller.steps.iter().map(|s| (s.held, s.said.len(), s.result.as_str())).collect();
        assert_eq!(told, [(true, 1, "good"), (false, 0, "it broke")]);
    }

    #[test]
    fn numbers_are_told_as_people_say_them() {
        assert_eq!((count(1, "card"), count(2, "card")), ("1 card".to_owned(), "2 cards".to_owned()));
        assert_eq!((seconds(49), seconds(12_350)), ("0.0 s".to_owned(), "12.3 s".to_owned()));
    }
}
