//! The application: every decision about what a caller sees and may do, behind values that know nothing of HTTP.
//!
//! Guarantees: another project's things are not found, whatever is asked of them; what is refused has touched nothing;
//! what is accepted is one committed transaction, and survives the death of this process.

mod error;
mod view;

pub use error::{Error, Excess, Thing};
pub use view::{
    Created, DatastoreView, InstanceView, NewInstance, OpenOperation, Page, Paged, Quota, Scope, UpgradePreview, Usage,
    VersionChange,
};

use std::sync::Arc;

use coffer_core::datastore::Version;
use coffer_core::flavor::Flavor;
use coffer_core::id::{FlavorId, InstanceId, ProjectId, VersionId};
use coffer_core::instance::Operation;
use coffer_store::Event;

use crate::caller::Caller;
use crate::config::Config;

/// The application. Shared by every request.
#[derive(Debug)]
pub struct App {
    config: Arc<Config>,
}

impl App {
    /// What the operator configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A page of instances: cut by ascending id, then the newest first, as Trove does.
    pub async fn instances(&self, caller: &Caller, scope: Scope, page: Page) -> Result<Paged<InstanceView>, Error> {
        todo!()
    }

    /// One instance.
    pub async fn instance(&self, caller: &Caller, id: InstanceId) -> Result<InstanceView, Error> {
        todo!()
    }

    /// Records a new instance and begins to build it.
    pub async fn create(&self, caller: &Caller, new: NewInstance) -> Result<Created, Error> {
        todo!()
    }

    /// Gives an instance another name.
    pub async fn rename(&self, caller: &Caller, id: InstanceId, name: &str) -> Result<(), Error> {
        todo!()
    }

    /// Begins to upgrade an instance to `version`: an id, a name within the instance's own datastore, or
    /// `datastore/name`.
    pub async fn upgrade(&self, caller: &Caller, id: InstanceId, version: &str) -> Result<Operation, Error> {
        todo!()
    }

    /// What that upgrade would do. Fetches the image and asks the agent, which touches nothing that serves.
    pub async fn preview_upgrade(
        &self,
        caller: &Caller,
        id: InstanceId,
        version: &str,
    ) -> Result<UpgradePreview, Error> {
        todo!()
    }

    /// Begins to stop and start the engine.
    pub async fn restart(&self, caller: &Caller, id: InstanceId) -> Result<Operation, Error> {
        todo!()
    }

    /// Begins to remove an instance with all its data. Takes the place of an operation that is stuck.
    pub async fn delete(&self, caller: &Caller, id: InstanceId) -> Result<Operation, Error> {
        todo!()
    }

    /// All operations of an instance, the newest first, with the live progress of the open one.
    pub async fn operations(&self, caller: &Caller, id: InstanceId) -> Result<Vec<Operation>, Error> {
        todo!()
    }

    /// What happened to an instance by itself, the newest first, at most 100.
    pub async fn events(&self, caller: &Caller, id: InstanceId) -> Result<Vec<Event>, Error> {
        todo!()
    }

    /// All datastores that have a version the caller may see.
    pub fn datastores(&self, caller: &Caller) -> Vec<DatastoreView> {
        todo!()
    }

    /// One datastore, by id or name.
    pub fn datastore(&self, caller: &Caller, datastore: &str) -> Result<DatastoreView, Error> {
        todo!()
    }

    /// One version of a datastore, each by id or name.
    pub fn version_of(&self, caller: &Caller, datastore: &str, version: &str) -> Result<Arc<Version>, Error> {
        todo!()
    }

    /// One version by its id.
    pub fn version(&self, caller: &Caller, id: VersionId) -> Result<Arc<Version>, Error> {
        todo!()
    }

    /// All versions, the inactive among them, for administrators.
    pub fn all_versions(&self, caller: &Caller) -> Result<Vec<Arc<Version>>, Error> {
        todo!()
    }

    /// Changes a version, for administrators.
    pub async fn update_version(&self, caller: &Caller, id: VersionId, change: VersionChange) -> Result<(), Error> {
        todo!()
    }

    /// All flavors, as configured.
    pub fn flavors(&self) -> &[Flavor] {
        &self.config.flavors
    }

    /// One flavor.
    pub fn flavor(&self, id: &FlavorId) -> Result<&Flavor, Error> {
        self.config.flavors.iter().find(|f| f.id == *id).ok_or_else(|| Error::not_found(Thing::Flavor, id))
    }

    /// What a project may have and has. Another project's is for administrators.
    pub async fn quota(&self, caller: &Caller, project: &ProjectId) -> Result<Quota, Error> {
        todo!()
    }
}
