//! Configuration groups: kept per project, validated against their version, and brought to the instances that have them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coffer_core::datastore::Version;
use coffer_core::engine::check_settings;
use coffer_core::engine::parameter::{self, Given, Parameter};
use coffer_core::finding::refuses;
use coffer_core::group::{Group, apply_live};
use coffer_core::id::{GroupId, InstanceId, OperationId, ProjectId, VersionId};
use coffer_core::instance::{Engine, Kind};
use coffer_core::operation::Phase;
use coffer_core::plan::plan_configure;
use coffer_core::spec::Settings;
use coffer_store::{InstanceRow, Write};
use uuid::Uuid;

use super::create::check_name;
use super::{App, Error, Excess, Page, Paged, Thing, needs_write, scope_of};
use crate::caller::Caller;

/// The most groups that a project may have.
const GROUPS: usize = 200;
/// How long whoever changes settings waits for running engines to take them. What takes longer goes on.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked whether they have.
const PERIOD: Duration = Duration::from_millis(10);

/// A group with what is shown beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupView {
    pub group: Group,
    pub version: Arc<Version>,
    /// How many instances have it; 0 in lists, which do not say it.
    pub instances: i64,
}

/// What a new group shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewGroup {
    pub name: String,
    pub description: Option<String>,
    /// Name or id of a datastore; the configured default when it is not given.
    pub datastore: Option<String>,
    /// Name or id of a version, active or not; the datastore's default when it is not given.
    pub version: Option<String>,
    pub values: BTreeMap<String, Given>,
}

/// What is to change about a group. `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupChange {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Each with its new value, or none any more.
    pub values: Option<BTreeMap<String, Option<Given>>>,
    /// Whether the values take the place of all that there are.
    pub replace: bool,
}

impl App {
    /// A page of the project's groups: cut by ascending id, then the newest first, as Trove does.
    pub async fn groups(&self, caller: &Caller, page: Page) -> Result<Paged<GroupView>, Error> {
        let limit = page.limit.unwrap_or(u32::MAX).min(self.config.page_size);
        let scope = coffer_store::Scope::Project(&caller.project);
        let marker = page.marker.unwrap_or_default();
        let groups = self.store.groups(scope, &marker, limit.saturating_add(1)).await?;
        let mut paged = Paged::cut(groups, limit, |group| group.id.to_string());
        paged.items.sort_by_key(|group| std::cmp::Reverse(group.created_at));
        let Paged { items, next } = paged;
        let items = items.into_iter().map(|group| self.group_view(group, 0)).collect::<Result<_, _>>()?;
        Ok(Paged { items, next })
    }

    /// One group. Administrators find everybody's by their id.
    pub async fn group(&self, caller: &Caller, id: &str) -> Result<GroupView, Error> {
        let group = self.store.group(scope_of(caller), group_id(id)?).await?;
        let group = group.ok_or_else(|| Error::not_found(Thing::Group, id))?;
        let count = self.store.count_of_group(group.id).await?;
        self.group_view(group, count)
    }

    /// A page of the instances that have the group, by ascending id, with their names.
    pub async fn group_instances(
        &self,
        caller: &Caller,
        id: &str,
        page: Page,
    ) -> Result<Paged<(InstanceId, String)>, Error> {
        let group = self.group(caller, id).await?.group;
        let limit = page.limit.unwrap_or(u32::MAX).min(self.config.page_size);
        let marker = page.marker.unwrap_or_default();
        let all = self.store.instances_of_group(group.id, &marker, limit.saturating_add(1)).await?;
        Ok(Paged::cut(all, limit, |(id, _)| id.to_string()))
    }

    /// Makes a group.
    pub async fn create_group(&self, caller: &Caller, new: NewGroup) -> Result<GroupView, Error> {
        needs_write(caller, "creating a configuration group")?;
        check_name(&new.name)?;
        let version = self.choose_version(new.datastore.as_deref(), new.version.as_deref())?;
        let values: Settings =
            new.values.into_iter().map(|(name, value)| (name, value.in_words(version.datastore))).collect();
        check(&version, &values)?;
        let now = self.clock.now();
        let group = Group {
            id: GroupId(Uuid::new_v4()),
            project: caller.project.clone(),
            name: new.name,
            description: new.description,
            version: version.id,
            values,
            created_at: now,
            updated_at: now,
        };
        let mut write = self.store.write().await?;
        let there = write.groups(&caller.project).await?.len();
        if there >= GROUPS {
            let (in_use, limit) = (i64::try_from(there).unwrap_or(i64::MAX), i64::try_from(GROUPS).unwrap_or(i64::MAX));
            return Err(Error::QuotaExceeded(vec![Excess { resource: "configurations", requested: 1, in_use, limit }]));
        }
        write.insert_group(&group).await?;
        write.commit().await?;
        self.group_view(group, 0)
    }

    /// Changes a group, and has the running engines of all its instances take what they take live. An engine that refuses
    /// goes on as before, and its instance says why. Refused as a whole while something is done to one of them.
    pub async fn change_group(&self, caller: &Caller, id: &str, change: GroupChange) -> Result<(), Error> {
        needs_write(caller, "changing a configuration group")?;
        let mut write = self.store.write().await?;
        let group = write.group(scope_of(caller), group_id(id)?).await?;
        let mut group = group.ok_or_else(|| Error::not_found(Thing::Group, id))?;
        let version = self.version_by_id(group.version)?;
        if let Some(name) = change.name {
            check_name(&name)?;
            group.name = name;
        }
        group.description = change.description.or(group.description);
        if let Some(values) = change.values {
            if change.replace {
                group.values.clear();
            }
            for (name, value) in values {
                match value {
                    Some(value) => group.values.insert(name, value.in_words(version.datastore)),
                    None => group.values.remove(&name),
                };
            }
            check(&version, &group.values)?;
        }
        group.updated_at = self.clock.now();
        write.save_group(&group).await?;
        let mut opened = Vec::new();
        for id in write.users_of_group(group.id).await? {
            let Some(row) = write.instance(coffer_store::Scope::Admin, id).await? else { continue };
            opened.extend(self.bring(&mut write, &row, &group).await?);
        }
        write.commit().await?;
        for (instance, _) in &opened {
            self.contact.wake_runner(*instance);
        }
        self.wait_for(&opened).await
    }

    /// Opens what brings a group's new values to one of its instances, where its running engine takes some of them.
    async fn bring(
        &self,
        write: &mut Write,
        row: &InstanceRow,
        group: &Group,
    ) -> Result<Option<(InstanceId, OperationId)>, Error> {
        let instance = &row.instance;
        if let Some(open) = &row.open {
            return Err(Error::Busy { instance: instance.id, kind: open.kind });
        }
        let version = self.current_version(instance)?;
        let observed = self.believed(instance, row.observed.clone()).ok().flatten();
        let serves = observed.is_some_and(|o| o.engine == Engine::Serving);
        let is_live = apply_live(&version, &instance.settings, &instance.wanted()) != instance.settings;
        // One that does not serve gets all of it at its next restart, and says until then that it needs one.
        if !is_live || !serves {
            return Ok(None);
        }
        let plan = self.open(write, row, Kind::Configure, None, |snapshot| plan_configure(snapshot, Some(group)));
        Ok(Some((instance.id, plan.await?.id)))
    }

    /// Removes a group that no instance has, and that none is about to have.
    pub async fn delete_group(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        needs_write(caller, "deleting a configuration group")?;
        let mut write = self.store.write().await?;
        let group = write.group(scope_of(caller), group_id(id)?).await?;
        let group = group.ok_or_else(|| Error::not_found(Thing::Group, id))?;
        if !write.users_of_group(group.id).await?.is_empty() {
            let why = "A configuration group cannot be deleted if it is associated with one or more non-terminated \
                       instances. Detach the configuration group from all non-terminated instances and please try again.";
            return Err(Error::Invalid(why.to_owned()));
        }
        write.delete_group(group.id).await?;
        Ok(write.commit().await?)
    }

    /// Gives an instance a group, or takes the one that it has away, and has its running engine take what it takes live.
    /// Where it refuses, nothing has changed.
    pub async fn attach_group(&self, caller: &Caller, id: InstanceId, group: Option<GroupId>) -> Result<(), Error> {
        needs_write(caller, "attaching a configuration group")?;
        let mut write = self.store.write().await?;
        let row = write.instance(scope_of(caller), id).await?;
        let row = row.ok_or_else(|| Error::not_found(Thing::Instance, id))?;
        let instance = &row.instance;
        let group = match (group, &instance.group) {
            (None, None) => return Ok(()),
            (Some(_), Some(there)) => {
                let why = format!("Instance {id} already has a Configuration Group attached: {}.", there.id);
                return Err(Error::Invalid(why));
            }
            (None, Some(_)) => None,
            (Some(group), None) => {
                let group = group.to_string();
                Some(self.group_for(&mut write, &instance.project, &group, instance.version).await?)
            }
        };
        let operation =
            self.open(&mut write, &row, Kind::Configure, None, |s| plan_configure(s, group.as_ref())).await?;
        write.commit().await?;
        self.contact.wake_runner(id);
        self.wait_for(&[(id, operation.id)]).await
    }

    /// The group with that id, for an instance of that project and version.
    pub(super) async fn group_for(
        &self,
        write: &mut Write,
        project: &ProjectId,
        id: &str,
        version: VersionId,
    ) -> Result<Group, Error> {
        let group = write.group(coffer_store::Scope::Project(project), group_id(id)?).await?;
        let group = group.ok_or_else(|| Error::not_found(Thing::Group, id))?;
        if group.version != version {
            return Err(Error::Invalid(format!(
                "Datastore Version on Configuration {} does not match the Datastore Version on the instance {version}.",
                group.version
            )));
        }
        Ok(group)
    }

    /// The settings that may be chosen on a version, active or not: by its id, or by its name within a datastore.
    pub fn parameters(&self, datastore: Option<&str>, version: &str) -> Result<(Arc<Version>, Vec<Parameter>), Error> {
        let version = match datastore {
            Some(_) => self.choose_version(datastore, Some(version))?,
            None => self.find_version(None, version)?,
        };
        let all = parameter::all(&version);
        Ok((version, all))
    }

    /// What holds on an instance where nobody says anything.
    pub async fn default_settings(&self, caller: &Caller, id: InstanceId) -> Result<Settings, Error> {
        let view = self.instance(caller, id).await?;
        let row = InstanceRow { instance: view.instance, observed: None, open: None };
        let operation = OperationId(Uuid::nil());
        self.planned(operation, &row, |snapshot| parameter::defaults(&snapshot.spec()))
    }

    /// Waits until these operations are over, but not for ever. An error if one of them was undone.
    async fn wait_for(&self, opened: &[(InstanceId, OperationId)]) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for (instance, operation) in opened {
            while tokio::time::Instant::now() < deadline {
                match self.store.phase(*operation).await? {
                    Some(Phase::Forward { .. } | Phase::Backward { .. }) => tokio::time::sleep(PERIOD).await,
                    Some(Phase::Undone { cause } | Phase::Stuck { cause, .. } | Phase::Abandoned { cause, .. }) => {
                        return Err(Error::NotTaken { instance: *instance, cause });
                    }
                    Some(Phase::Done) | None => break,
                }
            }
        }
        Ok(())
    }

    fn group_view(&self, group: Group, instances: i64) -> Result<GroupView, Error> {
        Ok(GroupView { version: self.version_by_id(group.version)?, group, instances })
    }

    fn version_by_id(&self, id: VersionId) -> Result<Arc<Version>, Error> {
        self.catalogue.version(id).ok_or_else(|| Error::internal(format!("no version {id}")))
    }
}

fn group_id(text: &str) -> Result<GroupId, Error> {
    text.parse().map_err(|_| Error::not_found(Thing::Group, text))
}

/// All that is wrong with the values, at once.
fn check(version: &Arc<Version>, values: &Settings) -> Result<(), Error> {
    let findings = check_settings(version, values);
    if refuses(&findings) {
        return Err(Error::Settings { version: Arc::clone(version), values: values.clone(), findings });
    }
    Ok(())
}
