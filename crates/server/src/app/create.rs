//! New instances: what may be asked for, who may have it, and where it goes.

use coffer_core::account::Request;
use coffer_core::group::merged;
use coffer_core::id::{Generation, InstanceId, OperationId};
use coffer_core::instance::{Instance, Kind};
use coffer_core::plan::{plan_create, plan_create_with};
use coffer_store::{InUse, InstanceRow};
use uuid::Uuid;

use super::change::new_operation;
use super::{App, Created, Error, Excess, NewInstance, needs_write};
use crate::caller::Caller;
use crate::config::QuotaLimits;

impl App {
    /// Records a new instance and begins to build it.
    pub async fn create(&self, caller: &Caller, new: NewInstance) -> Result<Created, Error> {
        needs_write(caller, "creating an instance")?;
        check_name(&new.name)?;
        self.check_volume(new.volume_gib)?;
        self.flavor(&new.flavor)?;
        let version = self.choose_version(new.datastore.as_deref(), new.version.as_deref())?;

        let id = InstanceId(Uuid::new_v4());
        let first = Request::Make { databases: new.databases, users: new.users, again: true };
        let first = self.first_accounts(version.datastore, id, first)?;

        let mut write = self.store.write().await?;
        let group = match &new.group {
            Some(id) => Some(self.group_for(&mut write, &caller.project, id, version.id).await?),
            None => None,
        };
        check_quota(self.config.quota, write.in_use(&caller.project).await?, new.volume_gib)?;
        let pool = self.config.address_pool;
        let address = write.free_address(pool.first(), pool.last()).await?.ok_or_else(|| {
            Error::Unavailable(format!("all addresses of {pool} are taken; hint: configure a larger address_pool"))
        })?;
        let now = self.clock.now();
        let instance = Instance {
            id,
            project: caller.project.clone(),
            name: new.name,
            version: version.id,
            flavor: new.flavor,
            volume_gib: new.volume_gib,
            address,
            generation: Generation::default(),
            settings: merged(&new.settings, group.as_ref()),
            own: new.settings,
            group,
            built: false,
            fault: None,
            created_at: now,
            updated_at: now,
        };
        let row = InstanceRow { instance, observed: None, open: None };
        let operation = OperationId(Uuid::new_v4());
        let planned = self.planned(operation, &row, |snapshot| match first {
            Some(first) => plan_create_with(snapshot, first),
            None => plan_create(snapshot),
        })?;
        let planned = planned.map_err(Error::Refused)?;
        let operation =
            new_operation(operation, &row.instance, Kind::Create, None, planned.plan, planned.findings, now);
        write.insert_instance(&row.instance).await?;
        write.insert_operation(&operation).await?;
        let shown = write.instance(coffer_store::Scope::Project(&caller.project), id).await?.unwrap_or(row);
        write.commit().await?;
        self.contact.wake_runner(id);
        Ok(Created { view: self.view(shown, now)?, password: self.key.tenant_password(id) })
    }

    fn check_volume(&self, gib: u32) -> Result<(), Error> {
        match gib {
            0 => Err(Error::Invalid("a volume has at least 1 GiB".to_owned())),
            gib if gib > self.config.max_volume_gib => {
                Err(Error::VolumeTooLarge { requested_gib: gib, limit_gib: self.config.max_volume_gib })
            }
            _ => Ok(()),
        }
    }
}

/// Trove's rule: 1 to 255 characters with a letter or digit among them.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let fits = (1..=255).contains(&name.chars().count()) && name.bytes().any(|b| b.is_ascii_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err(Error::Invalid("a name has 1 to 255 characters, and a letter or a digit among them".to_owned()))
    }
}

fn check_quota(limits: QuotaLimits, in_use: InUse, volume_gib: u32) -> Result<(), Error> {
    let wanted = [
        Excess { resource: "instances", requested: 1, in_use: in_use.instances, limit: limits.instances },
        Excess {
            resource: "volumes",
            requested: i64::from(volume_gib),
            in_use: in_use.volume_gib,
            limit: limits.volumes,
        },
    ];
    let too_much = |e: &Excess| e.limit >= 0 && e.in_use + e.requested > e.limit;
    let excesses: Vec<_> = wanted.into_iter().filter(too_much).collect();
    if excesses.is_empty() { Ok(()) } else { Err(Error::QuotaExceeded(excesses)) }
}
