//! How what the application shows looks on the wire.

use coffer_core::datastore::Version;
use coffer_core::id::InstanceId;
use coffer_core::instance::{Kind, Operation, Status};
use coffer_core::operation::Phase;
use coffer_core::plan::Step;
use coffer_core::task::Task;
use coffer_wire::trove::datastore as wire_datastore;
use coffer_wire::trove::fault::FindingBody;
use coffer_wire::trove::instance as wire;
use coffer_wire::trove::operation as wire_operation;
use coffer_wire::trove::{Date, Links};
use jiff::Timestamp;

use super::admit::Asker;
use crate::app::{DatastoreView, InstanceView};

/// An instance in a list.
pub(super) fn listed(view: &InstanceView, asker: &Asker, region: &str) -> wire::Instance {
    let (instance, links) = (&view.instance, asker.links());
    let (id, flavor) = (instance.id.to_string(), instance.flavor.to_string());
    let address = instance.built.then(|| instance.address.to_string());
    wire::Instance {
        links: links.of("instances", &id),
        id,
        name: instance.name.clone(),
        status: view.status.name().to_owned(),
        operating_status: view.operating_status.to_owned(),
        flavor: wire::FlavorRef { links: links.of("flavors", &flavor), id: flavor },
        datastore: wire::DatastoreRef {
            datastore: view.version.datastore.to_string(),
            version: view.version.name.clone(),
            version_number: None,
        },
        region: region.to_owned(),
        access: wire::Access { is_public: false },
        tenant_id: asker.caller().is_admin().then(|| instance.project.to_string()),
        volume: wire::Volume { size: instance.volume_gib, used: None, used_percent: None },
        ip: address.clone().map(|address| vec![address]),
        addresses: address.map(|address| vec![wire::Address::private(address)]),
        detail: None,
        mgmt: None,
    }
}

/// An instance in a detailed list.
pub(super) fn detailed(view: &InstanceView, asker: &Asker, region: &str) -> wire::Instance {
    let (instance, observed, links) = (&view.instance, view.observed.as_ref(), asker.links());
    let mut shown = listed(view, asker, region);
    shown.datastore.version_number = Some(view.version.number.to_string());
    let updated = view.operation.as_ref().map_or(instance.updated_at, |o| o.updated_at.max(instance.updated_at));
    shown.detail = Some(wire::Detail {
        created: instance.created_at.into(),
        updated: updated.into(),
        service_status_updated: observed.map_or(updated, |o| o.at).into(),
        fault: instance.fault.as_ref().map(|f| wire::InstanceFault::of(&f.cause, f.at.into())),
        password: None,
        requested_version: Some(view.requested.number.to_string()),
        recorded_version: instance.built.then(|| view.recorded.number.to_string()),
        running_version: view.running.map(|number| number.to_string()),
        on_disk_version: view.on_disk.map(|number| number.to_string()),
        drift: view.drift.iter().cloned().map(Into::into).collect(),
        silent: view.silent_since.map(|since| silent(instance.id, since)),
        isolation: observed.map(|o| o.isolation.clone()).unwrap_or_default(),
        gate: observed.and_then(|o| o.gate.as_ref()).map(|gate| wire::Gate {
            level: gate.level.name().to_owned(),
            state: gate.state.map(|state| state.name().to_owned()),
            why: Some(gate.why.clone()).filter(|why| !why.is_empty()),
        }),
        configuration: instance.group.as_ref().map(|group| {
            let id = group.id.to_string();
            wire::GroupRef { links: links.of("configurations", &id), name: group.name.clone(), id }
        }),
        restart_required: view.pending.clone(),
        rollback: view.way_back.as_ref().map(|(kept, version)| wire::WayBack {
            version: version.as_ref().map(|version| version.label()),
            since: kept.since.into(),
            until: kept.until.into(),
            bytes: kept.bytes,
            operation: kept.operation.to_string(),
        }),
        operation: None,
    });
    shown
}

/// What is said of an agent that says nothing.
fn silent(id: InstanceId, since: Timestamp) -> wire::Silent {
    wire::Silent {
        since: since.into(),
        message: "its agent says nothing: nothing is known of the engine, which goes on by itself, and nothing can be done to it"
            .to_owned(),
        hint: format!(
            "on its host, end the agent (the process `coffer agent` of instances/{id}); another takes its place within seconds and the \
             engine is not touched; why it hangs is in agent/agent.log of its volume"
        ),
    }
}

/// An instance on its own.
pub(super) fn shown(view: &InstanceView, operation: Option<&Operation>, asker: &Asker, region: &str) -> wire::Instance {
    let mut shown = detailed(view, asker, region);
    // As in Trove: what is used changes too much while something is done to be told.
    if let (Status::Active | Status::RestartRequired | Status::Error, Some(observed)) = (view.status, &view.observed) {
        shown.volume = wire::Volume::used(view.instance.volume_gib, observed.volume_used_bytes);
    }
    if let Some(detail) = &mut shown.detail {
        detail.operation = operation.map(progress);
    }
    shown
}

/// An instance as administrators list it.
pub(super) fn managed(view: &InstanceView, asker: &Asker, region: &str) -> wire::Instance {
    let mut shown = detailed(view, asker, region);
    let task = match view.operation.as_ref().map(|operation| operation.kind) {
        None if view.status == Status::RestartRequired => "Instance requires a restart.",
        None => "No tasks for the instance.",
        Some(Kind::Create) => "The instance is building.",
        Some(Kind::Upgrade) => "Upgrading the instance.",
        Some(Kind::Restart) => "Rebooting the instance.",
        Some(Kind::Delete) => "Deleting the instance.",
        Some(Kind::Configure) => "Updating the configuration of the instance.",
        Some(Kind::Rollback) => "Rolling the instance back.",
        Some(Kind::Finalize) => "Finalizing the upgrade of the instance.",
    };
    shown.mgmt = Some(wire::Mgmt {
        server_id: None,
        volume_id: None,
        server: None,
        service_status: view.operating_status.to_owned(),
        deleted: false,
        deleted_at: None,
        task_description: task.to_owned(),
    });
    shown
}

/// How far an open operation is.
fn progress(operation: &Operation) -> wire::Progress {
    let names = step_names(operation);
    let by_phase = match operation.phase {
        Phase::Forward { at, .. }
        | Phase::Backward { at, .. }
        | Phase::Stuck { at, .. }
        | Phase::Abandoned { at, .. } => operation.plan.steps.get(at),
        Phase::Done | Phase::Undone { .. } => None,
    };
    // What the agent is at is closer than what the plan is at.
    let running = operation.steps.iter().rev().find(|step| step.ended_at.is_none()).map(|step| step.name.as_str());
    let step = running.or(by_phase.map(Step::name)).unwrap_or_default();
    let at = names.iter().position(|name| *name == step).map_or(0, |at| at + 1);
    wire::Progress {
        id: operation.id.to_string(),
        kind: operation.kind.name().to_owned(),
        step: step.to_owned(),
        at,
        of: names.len(),
    }
}

/// The names of all steps, those of a critical section in place of the step that hands it over.
fn step_names(operation: &Operation) -> Vec<&'static str> {
    let mut names = Vec::new();
    for step in &operation.plan.steps {
        match step.section() {
            Some(section) => names.extend(section.plan.steps.iter().map(|step| step.name())),
            None => names.push(step.name()),
        }
    }
    names
}

/// An operation.
pub(super) fn operation(operation: &Operation) -> wire_operation::Operation {
    let phase = match operation.phase {
        Phase::Forward { .. } => "forward",
        Phase::Backward { .. } => "backward",
        Phase::Done => "done",
        Phase::Undone { .. } => "undone",
        Phase::Stuck { .. } => "stuck",
        Phase::Abandoned { .. } => "abandoned",
    };
    let (from, to) = versions(operation);
    wire_operation::Operation {
        id: operation.id.to_string(),
        kind: operation.kind.name().to_owned(),
        phase: phase.to_owned(),
        from,
        to,
        created: operation.created_at.into(),
        updated: operation.updated_at.into(),
        gap_ms: operation.gap_us.and_then(|gap| i64::try_from(gap).ok()).map(wire_operation::millis),
        clients: operation.clients.as_ref().map(Into::into),
        steps: operation.steps.iter().map(Into::into).collect(),
        notes: operation.plan.notes.clone(),
        findings: operation.findings.iter().cloned().map(FindingBody::from).collect(),
        cause: operation.phase.cause().map(Into::into),
    }
}

/// Which version an operation leads from and to, as its plan says.
fn versions(operation: &Operation) -> (Option<String>, Option<String>) {
    for step in &operation.plan.steps {
        if let Some(section) = step.section() {
            return (Some(section.from.label()), Some(section.to.label()));
        }
        match step {
            Step::Run { spec, .. } => return (None, Some(spec.label())),
            Step::Ask { task, .. } => {
                if let Task::Verify { expect } | Task::Configure { to: expect, .. } = &**task {
                    return (Some(expect.label()), Some(expect.label()));
                }
            }
            Step::EnsurePlace | Step::DropPlace | Step::Record(_) => {}
        }
    }
    (None, None)
}

/// A datastore with its versions.
pub(super) fn datastore(view: &DatastoreView, asker: &Asker) -> wire_datastore::Datastore {
    let id = view.id.to_string();
    let versions = view.versions.iter().map(|v| wire_datastore::Version { datastore: None, ..version(v, "", asker) });
    wire_datastore::Datastore {
        links: asker.links().of("datastores", &id),
        name: view.datastore.to_string(),
        versions: versions.collect(),
        default_version: view.default_version.map(|id| id.to_string()),
        id,
    }
}

/// A version of the datastore with that id.
pub(super) fn version(version: &Version, datastore: &str, asker: &Asker) -> wire_datastore::Version {
    let id = version.id.to_string();
    let links: Links<'_> = asker.links();
    let admin = || wire_datastore::VersionAdmin {
        active: version.active,
        packages: String::new(),
        image: version.image.as_ref().map(ToString::to_string).unwrap_or_default(),
        registry_ext: String::new(),
        repl_strategy: String::new(),
        image_tags: Vec::new(),
    };
    wire_datastore::Version {
        links: links.of("datastores/versions", &id),
        id,
        name: version.name.clone(),
        version: version.number.to_string(),
        datastore: Some(datastore.to_owned()),
        admin: asker.caller().is_admin().then(admin),
    }
}

/// A version as operators see it.
pub(super) fn managed_version(version: &Version) -> wire_datastore::MgmtVersion {
    wire_datastore::MgmtVersion {
        id: version.id.to_string(),
        name: version.name.clone(),
        version: version.number.to_string(),
        datastore_id: crate::datastore_id(version.datastore).to_string(),
        datastore_name: version.datastore.to_string(),
        datastore_manager: version.datastore.to_string(),
        image: version.image.as_ref().map(ToString::to_string).unwrap_or_default(),
        image_tags: vec![String::new()],
        packages: vec![String::new()],
        active: version.active,
        registry_ext: String::new(),
        repl_strategy: String::new(),
        default: version.default,
    }
}

/// Something that happened, for the record.
pub(super) fn event(event: &coffer_store::Event) -> wire_operation::Event {
    wire_operation::Event { at: Date(event.at), id: event.id.clone(), message: event.message.clone() }
}
