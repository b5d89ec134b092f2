//! Which requests are being worked on right now, so that a second one with the same id is told to wait.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::request::RequestId;
use crate::error::Error;
use crate::name::PrincipalName;

type Name = (PrincipalName, RequestId);

/// The requests being worked on in this process. Bounded by the connections and streams that the server admits.
#[derive(Default)]
pub(super) struct Running(Arc<Mutex<HashSet<Name>>>);

/// One of them, until it is dropped.
pub(super) struct Run {
    all: Arc<Mutex<HashSet<Name>>>,
    name: Name,
}

impl Running {
    /// Begins a request; refused while one of the same principal and id runs.
    pub(super) fn begin(&self, principal: &PrincipalName, id: RequestId) -> Result<Run, Error> {
        let name = (principal.clone(), id);
        let began = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        if began { Ok(Run { all: self.0.clone(), name }) } else { Err(Error::StillRunning) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
