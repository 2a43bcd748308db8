//! The tasks of an agent that change no engine: what looks, fetches or makes accounts.

use coffer_core::finding::Cause;
use coffer_core::task::{ImageFound, Learned, Task};

use super::world::World;

impl World {
    pub(super) fn do_task(&mut self, ix: usize, task: &Task, learned: &mut Learned) -> Result<(), Cause> {
        match task {
            Task::Fetch { image } => {
                let found = self.catalogue.iter().find(|version| version.image == image.digest).cloned();
                let version = found.ok_or_else(|| Cause::new("there is no such image", ""))?;
                self.images.insert(version.id);
                let digest = version.image.ok_or_else(|| Cause::new("it has no digest", ""))?;
                learned.image =
                    Some(ImageFound { digest, number: version.number, source: "the simulation".to_owned() });
            }
            Task::Check { .. } | Task::Accounts { .. } => {
                self.answering(ix)?;
            }
            Task::CheckBack { restores, down, .. } => {
                if !down {
                    self.answering(ix)?;
                }
                let kept = self.agent(ix).map(|agent| agent.state.kept.clone()).unwrap_or_default();
                if let Some(operation) = restores
                    && !kept.iter().any(|kept| kept.operation == *operation && !kept.finalized)
                {
                    return Err(Cause::new("there is nothing to go back to any more", ""));
                }
            }
            Task::Verify { expect } => {
                if *self.answering(ix)?.runs != *expect {
                    return Err(Cause::new("it is not what runs", ""));
                }
            }
            Task::Section(_) | Task::Configure { .. } | Task::Finalize { .. } => {}
        }
        Ok(())
    }
}
