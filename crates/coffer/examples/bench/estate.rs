//! A store with many instances in it, with rows as real ones have them, but without agents and engines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use coffer_core::datastore::{Datastore, Version};
use coffer_core::engine::Policy;
use coffer_core::flavor::Flavor;
use coffer_core::id::{Epoch, FlavorId, Generation, InstanceId, OperationId, ProjectId};
use coffer_core::instance::{Engine, Instance, Kind, Observed, Operation};
use coffer_core::operation::Phase;
use coffer_core::plan::{Snapshot, plan_create};
use coffer_core::task::{StepEnd, StepRecord};
use coffer_store::{Location, Store};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::server::FIRST_OF_POOL;

/// Where a transaction does not wait for a disk: ten thousand of them would take minutes.
const MEMORY: &str = "/dev/shm";

/// Records `count` instances of a project on Redis `version`, which were created and serve, in the store of a server that
/// has ended. Gives their ids.
pub(crate) fn fill(data: &Path, project: &str, version: &str, count: u32) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let file = data.join("coffer.db");
    let memory = Path::new(MEMORY);
    if !memory.is_dir() {
        return runtime.block_on(insert(&file, project, version, count));
    }
    let dir = tempfile::tempdir_in(memory)?;
    let copy = dir.path().join("coffer.db");
    fs_err::copy(&file, &copy)?;
    let ids = runtime.block_on(insert(&copy, project, version, count))?;
    fs_err::copy(&copy, &file)?;
    Ok(ids)
}

async fn insert(file: &Path, project: &str, version: &str, count: u32) -> Result<Vec<String>> {
    let store = Store::open(&Location::File(file.to_owned())).await?;
    let versions = store.versions().await?;
    let version = versions.iter().find(|v| v.datastore == Datastore::Redis && v.name == version);
    let version = version.with_context(|| format!("the catalogue has no redis {version:?}"))?;
    let flavor = Flavor { id: FlavorId::from("1"), name: "c1.m512".to_owned(), ram_mib: 512, vcpus: 1 };
    let now = Timestamp::now();
    let rows: Vec<_> = (0..count).map(|n| instance(n, project, version, &flavor, now)).collect();
    let mut write = store.write().await?;
    for row in &rows {
        write.insert_instance(row).await?;
        write.insert_operation(&creation(row, version, &flavor, &versions)?).await?;
    }
    write.commit().await?;
    for row in &rows {
        store.save_report(row.id, Some(&observed(version, now)), &[], &[]).await?;
    }
    store.close().await;
    Ok(rows.iter().map(|row| row.id.to_string()).collect())
}

fn instance(n: u32, project: &str, version: &Version, flavor: &Flavor, now: Timestamp) -> Instance {
    let settings = BTreeMap::from([("maxmemory-policy".to_owned(), "allkeys-lru".to_owned())]);
    Instance {
        id: InstanceId(Uuid::new_v4()),
        project: ProjectId(project.to_owned()),
        name: format!("bench-{n}"),
        version: version.id,
        flavor: flavor.id.clone(),
        volume_gib: 1,
        address: Ipv4Addr::from(u32::from(FIRST_OF_POOL) + 1 + n).into(),
        generation: Generation(1),
        settings: settings.clone(),
        own: settings,
        group: None,
        built: true,
        fault: None,
        created_at: now,
        updated_at: now,
    }
}

fn creation(row: &Instance, version: &Version, flavor: &Flavor, catalogue: &[Version]) -> Result<Operation> {
    let id = OperationId(Uuid::new_v4());
    let snapshot = Snapshot {
        operation: id,
        instance: row,
        version,
        flavor,
        open: None,
        observed: None,
        catalogue,
        policy: Policy::default(),
        groups: &[],
    };
    let planned = plan_create(&snapshot)?;
    let step = |name: &str| StepRecord {
        name: name.to_owned(),
        began_at: row.created_at,
        ended_at: Some(row.created_at),
        end: Some(StepEnd::Done),
        detail: String::new(),
    };
    Ok(Operation {
        id,
        instance: row.id,
        project: row.project.clone(),
        kind: Kind::Create,
        target: None,
        group: None,
        steps: planned.plan.steps.iter().map(|s| step(s.name())).collect(),
        plan: planned.plan,
        phase: Phase::Done,
        epoch: Epoch(1),
        findings: planned.findings,
        gap_us: None,
        clients: None,
        created_at: row.created_at,
        updated_at: row.created_at,
    })
}

fn observed(version: &Version, now: Timestamp) -> Observed {
    Observed {
        // So that it is believed until the end, without an agent that says it again.
        at: now + SignedDuration::from_hours(1),
        generation: Generation(1),
        engine: Engine::Serving,
        running: Some(version.number),
        on_disk: Some(version.number),
        volume_used_bytes: 12_345_678,
        isolation: vec![
            "isolation: namespaces, own user id".to_owned(),
            "memory limit: enforced by the kernel".to_owned(),
            "cpu limit: enforced by the kernel".to_owned(),
        ],
        settling: false,
        gate: None,
        ways_back: Vec::new(),
        drift: Vec::new(),
        crash_loop: None,
    }
}
