//! Serving, draining, stopping: in this order, and never back.
//!
//! The first SIGTERM or SIGINT drains: no new connection, requests under way finish. The second stops at once.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything is welcome.
    Serving,
    /// No new connection and no new request; what is under way may finish.
    Draining,
    /// Nothing more.
    Stopping,
}

/// Tells whoever holds a [`Shutdown`] to go on to the next phase.
#[derive(Clone)]
pub struct Trigger(Arc<watch::Sender<Phase>>);

/// Hears about the phases. A dropped [`Trigger`] stops at once.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

impl Trigger {
    /// A trigger and its listener.
    #[must_use]
    pub fn new() -> (Self, Shutdown) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (Self(Arc::new(sender)), Shutdown(receiver))
    }

    /// Begins to drain, unless that has begun.
    pub fn drain(&self) {
        self.0.send_if_modified(|phase| *phase < Phase::Draining && advance(phase, Phase::Draining));
    }

    /// Stops at once.
    pub fn stop(&self) {
        self.0.send_if_modified(|phase| advance(phase, Phase::Stopping));
    }

    /// Follows SIGTERM and SIGINT for as long as the runtime lives. Fails if the signals cannot be had.
    pub fn follow_signals(&self) -> io::Result<tokio::task::JoinHandle<()>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let trigger = self.clone();
        Ok(tokio::spawn(async move {
            for step in [Self::drain, Self::stop] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                step(&trigger);
            }
        }))
    }
}

fn advance(phase: &mut Phase, to: Phase) -> bool {
    let changed = *phase != to;
    *phase = to;
    changed
}

impl Shutdown {
    /// The phase it is now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.0.has_changed().is_err() { Phase::Stopping } else { *self.0.borrow() }
    }

    /// Ends once draining, or more, has begun.
    pub async fn draining(&mut self) {
        // An error means that the trigger is gone, which is the end as well.
        let _ = self.0.wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Ends once it is time to stop.
    pub async fn stopping(&mut self) {
        let _ = self.0.wait_for(|phase| *phase >= Phase::Stopping).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_go_forward_only() {
        let (trigger, mut shutdown) = Trigger::new();
        assert_eq!(shutdown.phase(), Phase::Serving);
        trigger.drain();
        shutdown.draining().await;
        assert_eq!(shutdown.phase(), Phase::Draining);
        trigger.stop();
        shutdown.stopping().await;
        trigger.drain();
        assert_eq!(shutdown.phase(), Phase::Stopping);
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_stops() {
        use rustix::process::{Signal, getpid, kill_process};

        let (trigger, mut shutdown) = Trigger::new();
        let _following = trigger.follow_signals().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        shutdown.draining().await;
        assert_eq!(shutdown.phase(), Phase::Draining);
        kill_process(getpid(), Signal::INT).unwrap();
        shutdown.stopping().await;
    }

    #[tokio::test]
    async fn a_lost_trigger_stops() {
        let (trigger, mut shutdown) = Trigger::new();
        drop(trigger);
        shutdown.stopping().await;
        assert_eq!(shutdown.phase(), Phase::Stopping);
    }
}
