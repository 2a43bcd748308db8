//! Datastores and their versions: what there is to choose from, and what operators change of it.

use std::sync::Arc;

use coffer_core::datastore::{Datastore, Version};
use coffer_core::id::VersionId;
use uuid::Uuid;

use super::{App, DatastoreView, Error, Thing, VersionChange};
use crate::caller::Caller;
use crate::catalogue::datastore_id;

impl App {
    /// All datastores that have a version the caller may see.
    pub fn datastores(&self, caller: &Caller) -> Vec<DatastoreView> {
        Datastore::ALL.into_iter().filter_map(|datastore| self.datastore_view(caller, datastore)).collect()
    }

    /// One datastore, by id or name.
    pub fn datastore(&self, caller: &Caller, datastore: &str) -> Result<DatastoreView, Error> {
        let found = find_datastore(datastore)?;
        self.datastore_view(caller, found).ok_or_else(|| Error::not_found(Thing::Datastore, datastore))
    }

    /// One version of a datastore, each by id or name.
    pub fn version_of(&self, caller: &Caller, datastore: &str, version: &str) -> Result<Arc<Version>, Error> {
        let found = self.find_version(Some(find_datastore(datastore)?), version)?;
        visible(caller, found).ok_or_else(|| Error::not_found(Thing::Version, version))
    }

    /// One version by its id.
    pub fn version(&self, caller: &Caller, id: VersionId) -> Result<Arc<Version>, Error> {
        let found = self.catalogue.version(id).and_then(|version| visible(caller, version));
        found.ok_or_else(|| Error::not_found(Thing::Version, id))
    }

    /// All versions, the inactive among them, for administrators.
    pub fn all_versions(&self, caller: &Caller) -> Result<Vec<Arc<Version>>, Error> {
        needs_admin(caller, "listing all datastore versions")?;
        Ok(self.catalogue.all().to_vec())
    }

    /// Changes a version, for administrators.
    pub async fn update_version(&self, caller: &Caller, id: VersionId, change: VersionChange) -> Result<(), Error> {
        needs_admin(caller, "changing a datastore version")?;
        let mut write = self.store.write().await?;
        // As it is while nobody else writes: what another server has changed stays changed.
        self.catalogue.reload(&self.store).await?;
        let mut version = Version::clone(&*self.version(caller, id)?);
        version.active = change.active.unwrap_or(version.active);
        version.default = change.default.unwrap_or(version.default);
        if let Some(name) = change.name {
            if name.is_empty() || name.len() > 255 {
                return Err(Error::Invalid("a version's name has 1 to 255 characters".to_owned()));
            }
            version.name = name;
        }
        if !write.save_version(&version).await? {
            let taken = format!("there is a version '{}' of {} already", version.name, version.datastore);
            return Err(Error::Invalid(taken));
        }
        write.commit().await?;
        Ok(self.catalogue.reload(&self.store).await?)
    }

    /// The version that a reference means: an id, `datastore/name`, or a name within `datastore`. Inactive ones are
    /// found, so that the planner can say that they are.
    pub(super) fn find_version(&self, datastore: Option<Datastore>, reference: &str) -> Result<Arc<Version>, Error> {
        let found = match (reference.parse::<VersionId>(), reference.split_once('/')) {
            (Ok(id), _) => self.catalogue.version(id),
            (Err(_), Some((datastore, name))) => {
                datastore.parse().ok().and_then(|datastore| self.catalogue.named(datastore, name))
            }
            (Err(_), None) => datastore.and_then(|datastore| self.catalogue.named(datastore, reference)),
        };
        found.ok_or_else(|| Error::not_found(Thing::Version, reference))
    }

    /// The version of a new instance.
    pub(super) fn choose_version(&self, datastore: Option<&str>, version: Option<&str>) -> Result<Arc<Version>, Error> {
        let datastore = match datastore {
            Some(name) => find_datastore(name)?,
            None => self.config.default_datastore,
        };
        if let Some(version) = version {
            return self.find_version(Some(datastore), version);
        }
        let all = self.catalogue.all();
        let default = all.iter().find(|v| v.datastore == datastore && v.default);
        default.cloned().ok_or_else(|| {
            let hint = format!("name one of: coffer datastore version list {datastore}");
            Error::Invalid(format!("{datastore} has no default version; hint: {hint}"))
        })
    }

    fn datastore_view(&self, caller: &Caller, datastore: Datastore) -> Option<DatastoreView> {
        let all = self.catalogue.all();
        let of_datastore = all.iter().filter(|v| v.datastore == datastore).cloned();
        let versions: Vec<_> = of_datastore.filter_map(|version| visible(caller, version)).collect();
        let default_version = versions.iter().find(|v| v.default).map(|v| v.id);
        let view = DatastoreView { id: datastore_id(datastore), datastore, default_version, versions };
        (!view.versions.is_empty()).then_some(view)
    }
}

fn find_datastore(reference: &str) -> Result<Datastore, Error> {
    let id = reference.parse::<Uuid>().ok();
    let found = Datastore::ALL.into_iter().find(|d| d.name() == reference || id == Some(datastore_id(*d)));
    found.ok_or_else(|| Error::not_found(Thing::Datastore, reference))
}

fn visible(caller: &Caller, version: Arc<Version>) -> Option<Arc<Version>> {
    (version.active || caller.is_admin()).then_some(version)
}

pub(super) fn needs_admin(caller: &Caller, what: &'static str) -> Result<(), Error> {
    if caller.is_admin() { Ok(()) } else { Err(Error::Forbidden { what, role: "admin" }) }
}

pub(super) fn needs_write(caller: &Caller, what: &'static str) -> Result<(), Error> {
    if caller.may_write() { Ok(()) } else { Err(Error::Forbidden { what, role: "member" }) }
}
